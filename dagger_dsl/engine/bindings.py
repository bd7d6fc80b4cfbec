"""`bound_inputs`: what a node of a run was called with, as far as its report tells.

Graphs say where inputs come from, reports have the values: that holds for a run that goes on here
as for one that is only on record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.errors import DaggerError
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.graph import RESULT, Input, Node
from dagger_dsl.model.states import NodeState
from dagger_dsl.model.values import MISSING

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport

__all__ = ["Bound", "bound_inputs"]


@attrs.frozen
class Bound:
    """One input of a node.

    Attributes:
        name: The parameter.
        reference: Where its value comes from; None for a literal.
        value: The value; `MISSING` where there is none to show.
        missing: Why there is none.
        defaults: Whether that is because the action's own default took its place.
    """

    name: str
    reference: str | None
    value: Any = MISSING
    missing: str = ""
    defaults: bool = False


def bound_inputs(report: RunReport, node_id: str, key: str = DEFAULT_KEY) -> list[Bound]:
    """Return the inputs of a node in the order of its parameters.

    What a hook or a ``pre_execute`` changed is not recorded. A state of a machine is called with
    what came before it, which no graph says: it has none.

    Args:
        report: The run.
        node_id: The node.
        key: Which invocation of a mapped node: it was given one item of its list. By default the
            whole list is bound.

    Raises:
        NodeNotFound: The graph has no such node.
    """
    node = report.graph.node(node_id)
    found = [_bound(report, each) for each in node.inputs]
    if key == DEFAULT_KEY or node.map_over is None:
        return found
    return [_item(node, each, key) if each.name == node.map_over else each for each in found]


def _bound(report: RunReport, given: Input) -> Bound:
    if given.source is None:
        return Bound(given.name, None, given.value)
    source, output = given.source
    try:
        if source == "inputs":
            return _of_run(report, given, output)
        if source not in report.graph.nodes:
            return Bound(given.name, given.reference, missing=f"there is no node {source!r}")
        state = report.node_reports[source].state
        if state is not NodeState.COMPLETED:
            return Bound(given.name, given.reference, missing=f"{source!r} is {state}")
        value = _part(report, source, output, report.value(source))
    except DaggerError as error:  # not stored, damaged, or of a type that is not known here
        return Bound(given.name, given.reference, missing=str(error))
    return Bound(given.name, given.reference, value)


def _of_run(report: RunReport, given: Input, name: str) -> Bound:
    if name in report.inputs:
        return Bound(given.name, given.reference, report.inputs[name])
    declared = report.graph.inputs.get(name)
    if declared is None:
        why = "not given; the action's own default"
        return Bound(given.name, given.reference, missing=why, defaults=True)
    if declared.secret:
        return Bound(given.name, given.reference, missing="a secret, which is not recorded")
    if declared.required:
        return Bound(given.name, given.reference, missing="not given")
    return Bound(given.name, given.reference, declared.default)


def _part(report: RunReport, source: str, output: str, value: Any) -> Any:
    """Return one output of a value, as the value was split when its node completed."""
    declared = [each.name for each in report.graph.node(source).outputs]
    named = output != RESULT or RESULT in declared
    return value[output] if named and isinstance(value, Mapping) and output in value else value


def _item(node: Node, whole: Bound, key: str) -> Bound:
    """Return what one invocation of a mapped node was given of its list."""
    if whole.value is MISSING:
        return whole
    if (node.map_batch or 1) > 1:
        why = "a batch of its items, which the record does not tell apart"
        return attrs.evolve(whole, value=MISSING, missing=why)
    value = whole.value
    try:
        for place in key.split("."):
            value = value[int(place)]
    except (KeyError, IndexError, TypeError, ValueError):
        return attrs.evolve(whole, value=MISSING, missing=f"{whole.reference} has no item {key}")
    return attrs.evolve(whole, value=value)
