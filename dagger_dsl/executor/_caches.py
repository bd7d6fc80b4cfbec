"""What runs and the documents' caches give each other: inputs before a run, values after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.launch import plan_for
from dagger_dsl.engine.report import RunReport
from dagger_dsl.errors import ConfigurationError, InputValidationError
from dagger_dsl.model.context import HookContext
from dagger_dsl.model.graph import RESULT, Graph
from dagger_dsl.registry import Registry

if TYPE_CHECKING:
    from dagger_dsl.store.cache import Cache

__all__ = ["Values", "check_run_values", "inputs_of"]


def inputs_of(
    graph: Graph, inputs: Mapping[str, Any] | None, cache: Cache | None
) -> Mapping[str, Any] | None:
    """Return the inputs of a run: those of the cache that the graph has, then those given."""
    check_run_values(inputs, cache)
    if cache is None:
        return inputs
    wanted = set(graph.inputs)
    for node in graph.nodes.values():
        for each in node.inputs:
            if each.source is not None and each.source[0] == "inputs":
                wanted.add(each.source[1])
    values = cache["inputs"]
    return {name: values[name] for name in wanted if name in values} | dict(inputs or {})


def check_run_values(inputs: object, cache: object) -> None:
    """Refuse inputs and a cache that a run cannot be given.

    Raises:
        InputValidationError: The inputs are no mapping.
        ConfigurationError: The cache is none.
    """
    if inputs is not None and not isinstance(inputs, Mapping):
        raise InputValidationError(
            f"inputs are a mapping of names to values, such as {{'x': 1}}, not {inputs!r}"
        )
    if cache is not None:
        from dagger_dsl.store.cache import Cache

        if not isinstance(cache, Cache):
            raise ConfigurationError(f"a run is given a Cache or None, not {cache!r}")


class Values:
    """Fills the cache that a run was given with the run's values, as the documents read them.

    A hook is shown a run's own cache, in which also is what functions of the old form inserted.
    """

    wants_starts = False

    def __init__(self, cache: Cache | None) -> None:
        self.cache = cache
        self._reader: Any = None

    def on_start(self, ctx: HookContext) -> None:
        """Keep the run's cache."""
        self._reader = ctx.cache

    def handle(self, ctx: HookContext, event: Any) -> None:
        """Nothing is done with events."""

    def fill(self, report: RunReport, registry: Registry) -> None:
        """Write inputs, outputs, errors and whatever was inserted into the cache."""
        if self.cache is None:
            return
        found = _recorded(report, registry) if self._reader is None else self._reader.to_dict()
        for namespace, values in found.items():
            for key, value in values.items():
                self.cache.insert(namespace, key, value)


def _recorded(report: RunReport, registry: Registry) -> dict[str, dict[str, Any]]:
    """Return the values of a run that had nothing left to do."""
    plan = plan_for(report.graph, registry)
    found = {"inputs": dict(report.inputs)}
    for node_id, value in report.values.items():
        slot = plan.index[node_id]
        whole = {} if slot in plan.parts else {RESULT: value}
        found[node_id] = {**whole, **plan.outputs_of(slot, value)}
    return found
