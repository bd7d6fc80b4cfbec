"""What failed in a run, wherever it happened: in a node, an item of a list, a run inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.errors import DaggerError, NotExecuted
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.graph import RESULT
from dagger_dsl.model.states import NodeState

if TYPE_CHECKING:
    from dagger_dsl.engine.attempts import AttemptReport
    from dagger_dsl.engine.error_info import ErrorInfo
    from dagger_dsl.engine.report import NodeReport, RunReport
    from dagger_dsl.model.graph import Input

__all__ = ["Failure", "failures_of", "inputs_of"]


@attrs.frozen
class Failure:
    """One call that failed for good.

    Attributes:
        path: Where: the node, or the nodes of the runs around it first; an item as ``[3]``.
        node: How it stands.
        report: The run it belongs to.
    """

    path: tuple[str, ...]
    node: NodeReport
    report: RunReport = attrs.field(repr=False)

    @property
    def error(self) -> ErrorInfo | None:
        """What it failed with."""
        return self.node.error

    def inputs(self) -> list[tuple[str, Any]]:
        """Return what it was called with by parameter; see `inputs_of`."""
        if self.report.graph.machine is not None:
            return []  # a state is called with what came before it, which is not there any more
        return inputs_of(self.report, self.node.node_id, self.node.key)

    def earlier(self) -> list[AttemptReport]:
        """Return the attempts before the last one."""
        return [
            each
            for each in self.report.attempts(self.node.node_id)
            if each.key == self.node.key and each.number < self.node.attempts
        ]


def failures_of(report: RunReport, nested: Mapping[str, Any] | None = None) -> Iterator[Failure]:
    """Yield what failed in a run, where it happened rather than where it was passed on.

    Args:
        report: The run.
        nested: Its `RunReport.nested`, where it was read already.
    """
    nested = report.nested if nested is None else nested
    for node_id in report.nodes_in(NodeState.FAILED):
        within = [*_within(report, node_id, nested)]
        yield from within or [Failure((node_id,), report.node_reports[node_id], report)]


def _within(report: RunReport, node_id: str, nested: Mapping[str, Any]) -> Iterator[Failure]:
    """Yield the failures that one node has failed with: of its items, of its own run."""
    child = nested.get(node_id)
    children = child if isinstance(child, Mapping) else {DEFAULT_KEY: child} if child else {}
    if report.graph.nodes[node_id].map_over is None:
        for key, each in children.items():
            item = () if key == DEFAULT_KEY else (f"[{key}]",)
            yield from _inside((node_id, *item), each)
        return
    for key, call in report.invocations(node_id).items():
        if call.state is NodeState.FAILED:
            path = (node_id, f"[{key}]")
            inside = [*_inside(path, children.get(key))]
            yield from inside or [Failure(path, call, report)]


def _inside(path: tuple[str, ...], child: RunReport | None) -> Iterator[Failure]:
    if child is not None:
        for each in failures_of(child):
            yield attrs.evolve(each, path=(*path, *each.path))


def inputs_of(report: RunReport, node_id: str, key: str = DEFAULT_KEY) -> list[tuple[str, Any]]:
    """Return what a node was called with by parameter.

    What cannot be had is there as the `DaggerError` that says why.

    Args:
        report: The run.
        node_id: The node.
        key: Which invocation of a mapped node: it was given one item of its list.
    """
    node = report.graph.nodes[node_id]
    found = []
    for given in node.inputs:
        try:
            value = _given(report, given)
            if given.name == node.map_over and key != DEFAULT_KEY:
                for place in key.split("."):
                    value = value[int(place)]
        except DaggerError as error:
            value = error
        except (KeyError, IndexError, TypeError, ValueError):
            value = NotExecuted(f"{given.reference or 'it'} is not there any more")
        found.append((given.name, value))
    return found


def _given(report: RunReport, given: Input) -> Any:
    if given.source is None:
        assert given.literal is not None
        return given.literal.value
    source, output = given.source
    if source == "inputs":
        if output not in report.inputs:
            declared = report.graph.inputs.get(output)
            if declared is not None and declared.secret:
                raise NotExecuted("a secret of the run, which is not recorded")
            if declared is not None and not declared.required:
                return declared.default
            raise NotExecuted(f"{output!r} is not among the recorded inputs of the run")
        return report.inputs[output]
    value = report.value(source)
    declared_outputs = [each.name for each in report.graph.nodes[source].outputs]
    if not declared_outputs or (output == RESULT and RESULT not in declared_outputs):
        return value
    if isinstance(value, Mapping) and all(each in value for each in declared_outputs):
        return value[output]
    return value
