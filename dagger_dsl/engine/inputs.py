"""What a run is given: defaults filled in, missing and unknown names refused, values checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dagger_dsl.engine.plan import Plan
from dagger_dsl.errors import (
    InputValidationError,
    MissingInputError,
    UnknownInputError,
    did_you_mean,
    shown,
)
from dagger_dsl.model.mapped import mapped_misfit
from dagger_dsl.model.types import asks_for_secret
from dagger_dsl.model.values import Secret

__all__ = ["bind_inputs"]


def bind_inputs(
    plan: Plan,
    given: Mapping[str, Any] | None,
    on_missing: str,
    needed: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return the value of every graph input; what is declared secret comes as a `Secret`.

    An input is secret where the graph says so (``format: secret``), or where a parameter it reaches
    is annotated `Secret`: a plain value is wrapped then, so that it is neither shown nor stored.

    Args:
        plan: Whose inputs are meant.
        given: Values by name.
        on_missing: ``null`` gives None for what is missing.
        needed: What a partial run needs; other inputs that are missing stay so. None needs all.

    Raises:
        MissingInputError: Values are missing; all are named.
        UnknownInputError: The graph has no such input.
        InputValidationError: A value fits neither its schema nor a parameter's annotation, or
            *given* is no mapping.
    """
    graph = plan.graph
    if given is not None and not isinstance(given, Mapping):
        raise InputValidationError(
            f"graph {graph.name!r}: inputs are a mapping of names to values, such as "
            f"{{'x': 1}}, not {shown(given)}"
        )
    values = dict(given or {})
    known = [*graph.inputs, *(name for name in plan.inputs if name not in graph.inputs)]
    machine = plan.machine is not None
    for name in values:
        if name not in known and not machine:
            raise UnknownInputError(
                f"graph {graph.name!r} has no input {shown(name)}{did_you_mean(name, known)}"
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
        elif needed is None or name in needed:
            missing.append(name)
    if missing:
        names = ", ".join(map(repr, missing))
        raise MissingInputError(
            f"graph {graph.name!r} needs {'a value' if len(missing) == 1 else 'values'} for "
            f"{names}; give them with inputs={{...}}{_or_connect(plan, missing)}"
        )
    if machine:
        from dagger_dsl.engine.machine_calls import check_machine_inputs

        check_machine_inputs(plan, values, known)
    for name, value in values.items():
        if value is not None and not isinstance(value, Secret) and _is_secret(plan, name):
            values[name] = Secret(value)
    _check(plan, values, given or {})
    return values


def _or_connect(plan: Plan, missing: Sequence[str]) -> str:
    """Return what to do where a parameter has the name of a node that nobody connected with it."""
    nodes = plan.graph.nodes
    for name in missing:
        takers = (
            each.id
            for each in nodes.values()
            if any(given.source == ("inputs", name) for given in each.inputs)
        )
        taker = next(takers, None) if name in nodes else None
        if taker is not None:
            return (
                f". There is a node {name!r}, too: if its result is meant, connect them, as in "
                f"dag.connect({name!r}, {taker!r})"
            )
    return ""


def _is_secret(plan: Plan, name: str) -> bool:
    known = plan.secrets.get(name)
    if known is None:
        declared = plan.graph.inputs.get(name)
        known = plan.secrets[name] = (declared is not None and declared.secret) or any(
            asks_for_secret(action.hints().get(parameter))
            for action, parameter, _ in plan.input_uses.get(name, ())
        )
    return known


def _check(plan: Plan, values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check the values that came from outside: schemas of the graph, annotations of the actions."""
    for name in given:
        declared = plan.graph.inputs.get(name)
        if declared is not None and declared.schema is not None:
            from dagger_dsl.model.schema import compile_schema, faults_of

            value = values[name]
            hidden = isinstance(value, Secret)
            what = f"inputs.{name}"
            validator = plan.validators.get(name)
            if validator is None:  # compiling takes longer than most small runs
                validator = compile_schema(declared.schema.value, what)
                plan.validators[name] = validator
            faults = faults_of(validator, value.reveal() if hidden else value, what)
            if faults:
                if hidden:  # the fault would show what it is about
                    faults = f"the secret inputs.{name} does not fit its schema"
                raise InputValidationError(f"graph {plan.graph.name!r}: {faults}")
        for action, parameter, levels in plan.input_uses.get(name, ()):
            annotation = action.hints().get(parameter, Any)
            fault = mapped_misfit(values[name], annotation, levels, parameter)
            if fault is not None:
                raise InputValidationError(f"action {action.name!r}: {fault}")
