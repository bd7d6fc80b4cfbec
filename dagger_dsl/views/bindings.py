"""`bound_inputs`: what a node of a run was given, as far as the record tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.errors import DaggerError
from dagger_dsl.model.graph import RESULT, Input
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
    """

    name: str
    reference: str | None
    value: Any = MISSING
    missing: str = ""


def bound_inputs(report: RunReport, node_id: str) -> list[Bound]:
    """Return the inputs of a node in the order of its parameters.

    Of a mapped node the input that is mapped over is the whole list. What a hook or a
    ``pre_execute`` changed is not recorded.

    Raises:
        NodeNotFound: The graph has no such node.
    """
    return [_bound(report, each) for each in report.graph.node(node_id).inputs]


def _bound(report: RunReport, given: Input) -> Bound:
    if given.source is None:
        return Bound(given.name, None, given.value)
    source, output = given.source
    try:
        if source == "inputs":
            return _of_run(report, given, output)
        state = report.states().get(source)
        if state is not NodeState.COMPLETED:
            why = f"{source!r} is {state}" if state is not None else f"there is no node {source!r}"
            return Bound(given.name, given.reference, missing=why)
        value = _part(report, source, output, report.value(source))
    except DaggerError as error:  # not stored, damaged, or of a type that is not known here
        return Bound(given.name, given.reference, missing=str(error))
    return Bound(given.name, given.reference, value)


def _of_run(report: RunReport, given: Input, name: str) -> Bound:
    if name in report.inputs:
        return Bound(given.name, given.reference, report.inputs[name])
    declared = report.graph.inputs.get(name)
    if declared is None:
        return Bound(given.name, given.reference, missing="not given; the action's own default")
    if declared.secret:
        return Bound(given.name, given.reference, missing="a secret, which is not recorded")
    return Bound(given.name, given.reference, declared.default)


def _part(report: RunReport, source: str, output: str, value: Any) -> Any:
    """Return one output of a value, as the value was split when its node completed."""
    declared = [each.name for each in report.graph.node(source).outputs]
    named = output != RESULT or RESULT in declared
    return value[output] if named and isinstance(value, Mapping) and output in value else value
