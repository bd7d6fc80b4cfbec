"""`Lifecycle`: what surrounds the calls of a run's nodes, and the phases that these go through.

Hooks before and after a call are made where the call is made, within its time limit, and what they
raise fails the attempt as the body would. The clean-up comes when the node has ended for good: it
is a hook of the run that is shown the last phase.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeAlias

from dagger_dsl.errors import (
    InputValidationError,
    MissingInputError,
    UnknownInputError,
    did_you_mean,
    shown,
)
from dagger_dsl.model.context import Branch, HookContext, NodeOutput
from dagger_dsl.model.jobs import WAITS
from dagger_dsl.model.lifecycle import KEEP, NodeHooks, is_awaited
from dagger_dsl.registry import ActionDef
from dagger_dsl.runners.base import Reply, Writing, await_here, awaited

if TYPE_CHECKING:
    from dagger_dsl.engine.hooks import BoundHook
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.runners.base import Board

__all__ = ["Lifecycle", "drive", "drive_async", "surrounded"]

_NONE = NodeHooks()

Fill: TypeAlias = Callable[
    [dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any], Callable[[Any], Any]]
]


class Lifecycle:
    """What surrounds the calls of one run's nodes.

    Args:
        hooks: What is called around them, by node; None stands for all nodes.
        phased: Whether somebody is shown the phases.

    Attributes:
        phased: Whether somebody is shown the phases.
        awaits: Whether something is to be awaited before or after a call.
        tell: Shows somebody a phase of a slot's attempt, ``(slot, phase, attempt)``; None when
            nobody is.
    """

    def __init__(self, hooks: Mapping[str | None, NodeHooks], phased: bool) -> None:
        self._hooks = hooks
        self._default = hooks.get(None, _NONE)
        self.phased = phased
        self._everywhere = bool(self._default.pre_execute or self._default.post_execute) or phased
        around = [fn for each in hooks.values() for fn in (each.pre_execute, each.post_execute)]
        self.awaits = any(fn is not None and is_awaited(fn) for fn in around)
        self.tell: Callable[[int, str, int], None] | None = None

    def surrounds(self, node_id: str) -> bool:
        """Return whether something is called around the calls of a node."""
        own = self._hooks.get(node_id)
        return self._everywhere or (
            own is not None and (own.pre_execute or own.post_execute) is not None
        )

    def before(self, node_id: str) -> list[Callable[..., Any]]:
        """Return what is called before the calls of a node, in order."""
        found = (self._default.pre_execute, self._hooks.get(node_id, _NONE).pre_execute)
        return [each for each in found if each is not None]

    def after(self, node_id: str) -> list[Callable[..., Any]]:
        """Return what is called after the calls of a node, in order."""
        found = (self._hooks.get(node_id, _NONE).post_execute, self._default.post_execute)
        return [each for each in found if each is not None]

    def cleanups(self, node_id: str) -> list[Callable[..., Any]]:
        """Return what is called when a node has ended for good, in order."""
        found = (self._hooks.get(node_id, _NONE).cleanup, self._default.cleanup)
        return [each for each in found if each is not None]

    def observers(self, run: Run) -> tuple[BoundHook, ...]:
        """Return the hook that cleans up after nodes, if there is anything to call."""
        calls = [each.cleanup for each in self._hooks.values() if each.cleanup is not None]
        if not calls:
            return ()
        from dagger_dsl.engine.hooks import BoundHook

        def clean(_ctx: HookContext, event: Any) -> Generator[Any, Any, None]:
            node_id = event.node.node_id
            node, errors = run.plan.find(node_id), []
            for call in self.cleanups(node_id):
                try:
                    yield call(node, run.context)
                except Exception as error:  # the others are called all the same
                    errors.append(error)
            if len(errors) == 1:
                raise errors[0]
            if errors:
                raise ExceptionGroup(f"several cleanups of node {node_id!r} failed", errors)

        is_async = any(map(is_awaited, calls))

        async def clean_async(ctx: HookContext, event: Any) -> None:
            await drive_async(clean(ctx, event))

        def clean_here(ctx: HookContext, event: Any) -> None:
            drive(clean(ctx, event), None)  # in a step, for which the loop may be waiting

        return (
            BoundHook(
                name="cleanup",
                handle=_nothing,
                wants=lambda _event: False,
                wants_starts=False,
                on_phase=clean_async if is_async else clean_here,
                phases_async=is_async,
                wants_phase=lambda event: event.phase == "cleanup",  # type: ignore[union-attr]
            ),
        )


def _nothing(_ctx: HookContext, _event: Any) -> None:
    return None


def surrounded(
    run: Run,
    slot: int,
    action: ActionDef,
    fn: Callable[..., Any],
    prepare: Callable[[tuple[Any, ...]], dict[str, Any]],
    fill: Fill,
    checked: Callable[[Any], Any],
) -> Callable[..., Any]:
    """Return the call of a node with what surrounds it; awaitable when its action is async.

    Args:
        run, slot: Where the call belongs.
        action: What is called.
        fn: How it is called.
        prepare: Makes the inputs by name of the bound values.
        fill: Makes the arguments, and what reads the answer, of the inputs.
        checked: Refuses an answer that does not fit.
    """
    around = run.lifecycle
    assert around is not None
    node_id = str(run.plan.ids[slot])
    before, after = around.before(node_id), around.after(node_id)

    def steps(values: tuple[Any, ...]) -> Generator[Any, Any, Any]:
        """Yield what may have to be awaited, be sent what came of it, and return the answer."""
        attempt = run.attempts.get(slot, 1)

        def say(phase: str) -> None:
            tell = around.tell
            if tell is not None and run.is_calling(slot, attempt):
                run.board.between(lambda: tell(slot, phase, attempt))

        say("pre_validation")
        inputs = prepare(values)
        say("pre_execution")
        given = inputs
        for hook in before:
            found = yield hook(run.plan.node(slot), dict(inputs), run.context)
            if found is not None and found is not KEEP:
                inputs = _replaced(action, node_id, found)
        if inputs is not given:
            action.check_inputs(inputs)
            run.unshared.add(slot)
        say("execution")
        positional, keywords, read = fill(inputs)
        answer = fn(*positional, **keywords)
        answer = read((yield answer) if action.is_async else answer)
        if not run.is_calling(slot, attempt):
            return answer  # of a thread that was left behind; nobody takes it
        say("post_execution")
        for hook in after:
            seen, there = _seen(answer)
            if not there:
                break
            found = yield hook(run.plan.node(slot), dict(inputs), seen, run.context)
            if found is not None and found is not KEEP:
                answer = _with(answer, found)
                run.unshared.add(slot)
        return checked(answer)

    if action.is_async:

        async def call_async(*values: Any) -> Any:
            return await drive_async(steps(values))

        return call_async

    def call(*values: Any) -> Any:
        return drive(steps(values), run.board)

    return call


# --- answers -------------------------------------------------------------------------------------


def _replaced(action: ActionDef, node_id: str, found: Any) -> dict[str, Any]:
    """Return the inputs that a hook gave.

    Raises:
        InputValidationError: They are no mapping of names.
        UnknownInputError, MissingInputError: The action has no such parameter, or lacks one.
    """
    who = f"pre_execute of node {node_id!r}"
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise InputValidationError(
            f"{who} returns the inputs by name, or None to keep them, not {shown(found)}"
        )
    names = {param.name: param.required for param in action.params}
    for name in found:
        if name not in names and not action.takes_any_input:
            raise UnknownInputError(
                f"{who} returned the input {shown(name)}, which action {action.name!r} does not "
                f"take{did_you_mean(name, names)}"
            )
    missing = [name for name, required in names.items() if required and name not in found]
    if missing and not action.takes_any_input:
        raise MissingInputError(
            f"{who} returned no {missing[0]!r}, which action {action.name!r} needs; what it "
            "returns takes the place of all inputs: {**inputs, ...} keeps the others"
        )
    return dict(found)


def _seen(answer: Any) -> tuple[Any, bool]:
    """Return the result in what a body returned, and whether there is one."""
    if answer.__class__ is Writing:
        answer = answer.answer
    if isinstance(answer, NodeOutput):
        if not answer.succeeded:
            return None, False
        answer = answer.outputs
    if isinstance(answer, Branch):
        answer = answer.value
    return answer, not isinstance(answer, WAITS)


def _with(answer: Any, found: Any) -> Any:
    """Return what a body returned with another result; what came along with it stays."""
    if answer.__class__ is Writing:
        return Writing(_with(answer.answer, found), answer.written)
    if isinstance(found, (NodeOutput, Branch, *WAITS)):
        return found
    if isinstance(answer, NodeOutput):
        return NodeOutput(
            _with(answer.outputs, found),
            True,
            answer.metadata,
            message=answer.message,
            commands=answer.commands,
            split=answer.split,
        )
    return Branch(answer.label, found) if isinstance(answer, Branch) else found


# --- awaiting ------------------------------------------------------------------------------------


async def drive_async(talk: Generator[Any, Any, Any]) -> Any:
    """Await what a generator yields, where it has to be, and return what it returns."""
    try:
        step = next(talk)
        while True:
            try:
                found = await step if isawaitable(step) else step
            except BaseException as error:
                step = talk.throw(error)
            else:
                step = talk.send(found)
    except StopIteration as end:
        return end.value


def drive(talk: Generator[Any, Any, Any], board: Board | None) -> Any:
    """As `drive_async`, in a thread that may wait for the run's event loop, if there is one."""
    try:
        step = next(talk)
        while True:
            try:
                found = _wait(step, board) if isawaitable(step) else step
            except BaseException as error:
                step = talk.throw(error)
            else:
                step = talk.send(found)
    except StopIteration as end:
        return end.value


class _Heard(Reply):
    """An answer that a thread waits for."""

    __slots__ = ("arrived",)

    def __init__(self) -> None:
        super().__init__()
        self.arrived = threading.Event()

    def give(self, value: Any, error: BaseException | None = None) -> None:
        super().give(value, error)
        self.arrived.set()


def _wait(awaitable: Any, board: Board | None) -> Any:
    reply = _Heard()
    asyncio = sys.modules.get("asyncio")
    here = asyncio is not None and asyncio._get_running_loop() is not None
    if here or board is None:  # this thread's own loop could not serve it meanwhile
        await_here(awaited(awaitable), reply)
    else:
        board.spawn(awaited(awaitable), reply)
    reply.arrived.wait()
    if reply.error is not None:
        raise reply.error
    return reply.value
