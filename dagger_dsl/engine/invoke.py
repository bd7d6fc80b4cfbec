"""Calls that need to know their run: contexts, schemas, handlers, documents' function styles.

Most nodes are called by their plan's own function and never come here. What this module returns is
called by workers with the bound values in the order of `Plan.names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from dagger_dsl.engine.checkpoints import keep, kept
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.errors import InputResolutionError
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.registry import ActionDef
from dagger_dsl.runners.base import Writing

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.model.sharing import Context

__all__ = [
    "bind_call",
    "bind_fallback",
    "bind_handler",
    "calling",
    "delivered",
    "filling",
    "inputs_of_call",
]


def bind_call(run: Run, slot: int) -> Callable[..., Any]:
    """Return the call of one wrapped node in *run*; awaitable when its action is async."""
    if run.plan.machine is not None:
        from dagger_dsl.engine.machine_calls import bind_state

        return bind_state(run, slot)
    action = run.plan.actions[slot]

    def prepare(values: tuple[Any, ...]) -> dict[str, Any]:
        inputs = inputs_of_call(run, slot, action, delivered(run, slot, values))
        action.check_inputs(inputs)
        return inputs

    around = run.lifecycle is not None and run.lifecycle.surrounds(str(run.plan.ids[slot]))
    if action.style == "workflow" and not around:
        from dagger_dsl.engine.nested import nested_body  # most graphs nest nothing

        body = nested_body(run, slot)
        return lambda *values: body(prepare(values))
    return calling(run, slot, action, prepare, action.check_output, around)


def bind_handler(
    run: Run, slot: int, handler: ActionDef, error: BaseException
) -> Callable[..., Any]:
    """Return the call of a failure handler; it ignores the values it is given.

    A handler gets, by the names of its parameters, any of ``error`` (the exception), ``node`` (the
    `Node`), ``node_id``, ``attempts``, ``inputs`` and the inputs of the node that failed. A single
    parameter of another name gets the exception.
    """
    given = delivered(run, slot, run.board.arguments(slot))
    given = {name: value for name, value in given.items() if value is not UNSET}
    offered: dict[str, Any] = {
        **given,
        "error": error,
        "node": run.plan.node(slot),
        "node_id": run.plan.ids[slot],
        "attempts": run.attempts.get(slot, 1),
        "inputs": MappingProxyType(given),
    }
    taken = {each.name: offered[each.name] for each in handler.params if each.name in offered}
    open_ = [each.name for each in handler.params if each.required and each.name not in offered]
    if len(open_) == 1 and "error" not in taken:
        taken[open_[0]] = error
    if handler.style == "legacy":
        taken = given  # it reads the error from the cache
    elif handler.style != "function":
        taken = offered

    def prepare(_values: tuple[Any, ...]) -> dict[str, Any]:
        return taken

    return _standing_in(run, slot, handler, calling(run, slot, handler, prepare, None))


def bind_fallback(run: Run, slot: int, fallback: ActionDef) -> Callable[..., Any]:
    """Return the call of a fallback: with the inputs of the node that it has parameters for."""

    def prepare(values: tuple[Any, ...]) -> dict[str, Any]:
        inputs = inputs_of_call(run, slot, run.plan.actions[slot], delivered(run, slot, values))
        if not fallback.takes_any_input:
            names = {each.name for each in fallback.params}
            inputs = {name: value for name, value in inputs.items() if name in names}
        fallback.check_inputs(inputs)
        return inputs

    return _standing_in(
        run, slot, fallback, calling(run, slot, fallback, prepare, fallback.check_output)
    )


def _standing_in(
    run: Run, slot: int, action: ActionDef, call: Callable[..., Any]
) -> Callable[..., Any]:
    """Return the call of what stands in for a node; for a state it decides what comes next."""
    if run.plan.machine is None:
        return call
    from dagger_dsl.engine.machine_calls import deciding

    return deciding(run, slot, call, action.is_async, stands_in=True)


def delivered(run: Run, slot: int, values: tuple[Any, ...]) -> dict[str, Any]:
    """Return the values by name, `UNSET` where the edge that would bring one is not satisfied."""
    if run.plan.machine is not None:
        from dagger_dsl.engine.machine_calls import state_inputs

        return state_inputs(run, slot, values[0])
    found = dict(zip(run.plan.names[slot], values, strict=True))
    bound = run.bound.get(slot)
    if bound is not None:
        for name, where in zip(found, _places(run, slot), strict=True):
            source = run.plan.source_of(where)
            if source is not None and source not in bound:
                found[name] = UNSET
    return found


def inputs_of_call(
    run: Run, slot: int, action: ActionDef, values: dict[str, Any]
) -> dict[str, Any]:
    """Drop what no edge delivered, where the parameter has a default or takes None."""
    if all(value is not UNSET for value in values.values()):
        return values
    found = {}
    for name, value in values.items():
        if value is not UNSET:
            found[name] = value
            continue
        param = action.param(name)
        if param is not None and not param.required:
            continue
        if run.config.on_missing == "null" or (param is not None and param.accepts_none):
            found[name] = None
            continue
        node = run.plan.node(slot)
        reference = next((each.reference for each in node.inputs if each.name == name), None)
        raise InputResolutionError(
            f"node {node.id!r}: input {name!r} refers to {reference!r}, which has no value in this "
            "run; give the parameter a default or annotate it as Optional"
        )
    return found


def _places(run: Run, slot: int) -> tuple[int, ...]:
    where = run.plan.bindings[slot]
    if where is None:
        return ()
    return (where,) if isinstance(where, int) else where


def calling(
    run: Run,
    slot: int,
    action: ActionDef,
    prepare: Callable[[tuple[Any, ...]], dict[str, Any]],
    check: Callable[[Any], None] | None,
    around: bool = False,
) -> Callable[..., Any]:
    """Return a function that prepares inputs, calls *action* in its style and checks the answer.

    Args:
        run, slot: Where the call belongs.
        action: What is called.
        prepare: Makes the inputs by name of the bound values.
        check: Refuses an answer that does not fit; None for a failure handler.
        around: Whether the run's hooks for the node are called, too.
    """

    fn = action.fn
    if action.style == "workflow":
        from dagger_dsl.engine.nested import nested_body

        fn = nested_body(run, slot)

    def legacy(inputs: dict[str, Any]) -> _Filled:
        from dagger_dsl.engine.legacy import LegacyCall  # only such functions load the store

        call = LegacyCall(run, slot, inputs, handler=check is None)
        return call.arguments, {}, call.result

    def context(inputs: Mapping[str, Any]) -> NodeCtx:
        attempt = run.attempts.get(slot, 1)
        return NodeCtx(
            dag_name=run.dag_name,
            node_id=str(run.plan.ids[slot]),
            run_id=run.run_id,
            attempt=attempt,
            inputs=inputs,
            cache=run.cache,
            app_data=run.app_data,
            invocation_key=run.plan.children.key(slot),
            cancel=run.token,
            depth=run.depths.get(str(run.plan.ids[slot]), 0),
            spend=run.spend,
            progress=progress,
            keep=partial(keep, run, slot, attempt, slot in run.handling),
            kept=partial(kept, run, slot),
        )

    def progress(done: float, total: float, message: str) -> None:
        fraction = run.context.note_progress(str(run.plan.ids[slot]), done, total)
        run.tell_progress(slot, fraction, message or f"{done}/{total}")

    def checked(value: Any) -> Any:
        if value.__class__ is Writing:
            return Writing(checked(value.answer), value.written)
        if check is not None:
            check(value.outputs if isinstance(value, NodeOutput) else value)
        elif value is None:  # the failure stands: no worker may take the next call before it counts
            return NodeOutput()
        return value

    fill = filling(action, context, lambda: run.context, legacy)
    if run.outside is not None and action.style != "workflow":
        node = run.plan.actions[slot]
        fn = run.outside.stand_for(slot, action, limited=action is node and check is not None)
    if around:
        from dagger_dsl.engine.lifecycle import surrounded  # who has no hooks does not load it

        return surrounded(run, slot, action, fn, prepare, fill, checked)

    if action.is_async:

        async def call_async(*values: Any) -> Any:
            positional, keywords, read = fill(prepare(values))
            return checked(read(await fn(*positional, **keywords)))

        return call_async

    def call(*values: Any) -> Any:
        positional, keywords, read = fill(prepare(values))
        return checked(read(fn(*positional, **keywords)))

    return call


#: What a function is called with, by position and by name, and what makes a result of its answer.
_Filled: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any], Callable[[Any], Any]]"


def filling(
    action: ActionDef,
    context: Callable[[Mapping[str, Any]], NodeCtx],
    shared: Callable[[], Context],
    legacy: Callable[[dict[str, Any]], _Filled],
) -> Callable[[dict[str, Any]], _Filled]:
    """Return what makes, of a node's inputs by name, the arguments that its function takes.

    Args:
        action: Its function, and in which style that is written.
        context: Makes the `NodeCtx` of a call.
        shared: Gives the `Context` of the run.
        legacy: Makes the arguments of a function in the documents' old form.
    """
    if action.style == "legacy":
        return legacy
    if action.style == "workflow":
        return lambda inputs: ((inputs,), {}, _as_it_is)
    if action.style == "context":
        return lambda inputs: ((context(inputs),), {}, _as_it_is)
    ctx_param, context_param = action.ctx_param, action.context_param

    def by_name(inputs: dict[str, Any]) -> _Filled:
        keywords = action.arguments(inputs)
        if ctx_param is not None:
            keywords[ctx_param] = context(inputs)
        if context_param is not None:
            keywords[context_param] = shared()
        return (), keywords, _as_it_is

    return by_name


def _as_it_is(value: Any) -> Any:
    return value
