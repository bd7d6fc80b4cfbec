"""What a run is given: defaults filled in, missing and unknown names refused, values checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagger_dsl.engine.plan import Plan
from dagger_dsl.errors import (
    InputValidationError,
    MissingInputError,
    UnknownInputError,
    did_you_mean,
)

__all__ = ["bind_inputs"]


def bind_inputs(plan: Plan, given: Mapping[str, Any] | None, on_missing: str) -> dict[str, Any]:
    """Return the value of every graph input.

    Args:
        plan: Whose inputs are meant.
        given: Values by name.
        on_missing: ``null`` gives None for what is missing.

    Raises:
        MissingInputError: Values are missing; all are named.
        UnknownInputError: The graph has no such input.
        InputValidationError: A value fits neither its schema nor a parameter's annotation.
    """
    graph = plan.graph
    values = dict(given or {})
    known = [*graph.inputs, *(name for name in plan.inputs if name not in graph.inputs)]
    for name in values:
        if name not in known:
            raise UnknownInputError(
                f"graph {graph.name!r} has no input {name!r}{did_you_mean(str(name), known)}"
            )
    missing = []
    for name in known:
        if name in values:
            continue
        declared = graph.inputs.get(name)
        if declared is not None and declared.default is not None:
            values[name] = declared.default.value
        elif on_missing == "null" or (declared is not None and not declared.required):
            values[name] = None
        else:
            missing.append(name)
    if missing:
        names = ", ".join(map(repr, missing))
        raise MissingInputError(
            f"graph {graph.name!r} needs {'a value' if len(missing) == 1 else 'values'} for "
            f"{names}; give them with inputs={{...}}"
        )
    _check(plan, values, given or {})
    return values


def _check(plan: Plan, values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check the values that came from outside: schemas of the graph, annotations of the actions."""
    for name in given:
        declared = plan.graph.inputs.get(name)
        if declared is not None and declared.schema is not None:
            from dagger_dsl.registry import schema_fault

            fault = schema_fault(declared.schema.value, values[name], f"inputs.{name}")
            if fault is not None:
                raise InputValidationError(f"graph {plan.graph.name!r}: {fault}")
        for action, parameter in plan.input_uses.get(name, ()):
            action.check_value(parameter, values[name])
