"""Observers of a run: hooks and the progress callback, called with the events of each turn.

What a hook returns is handed to the coordinator, each command under a key that stays the same when
the event is shown again after a crash. Whatever an observer raises is logged and kept in the run's
record; it never loses the run, but a hook may be told to stop it.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.run import Run
from dagger_dsl.engine.state import FAILED
from dagger_dsl.errors import ExecutionError
from dagger_dsl.model.context import HookContext, NodeOutcome, NodeRef
from dagger_dsl.model.events import (
    CustomEvent,
    Event,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeSkipped,
    NodeStarted,
    RunFinished,
    RunStarted,
)
from dagger_dsl.runners.base import Reply

if TYPE_CHECKING:
    from dagger_dsl.engine.hooks import BoundHook
    from dagger_dsl.engine.steering import Origin
    from dagger_dsl.model.commands import Command

__all__ = ["Observers", "completions", "event_key"]

logger = logging.getLogger("dagger_dsl.hooks")

_ENDINGS = (NodeCompleted, NodeFailed, NodeSkipped, NodeCancelled)


class _Started(NodeStarted):
    """A `NodeStarted` whose fields are made when a hook reads them; most hooks read few."""

    __slots__ = ("_of",)
    _of: tuple[Run, int, int, float]

    @property  # type: ignore[misc]  # read-only, and for everybody who asks what it stands for
    def __class__(self) -> type:
        return NodeStarted

    def __reduce__(self) -> Any:
        return NodeStarted, (self.node, self.attempt, self.at)

    @property
    def node(self) -> NodeRef:
        return self._of[0].ref(self._of[1])

    @property
    def attempt(self) -> int:
        return self._of[2]

    @property
    def at(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._of[0].wall + self._of[3], dt.UTC)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeStarted):
            return NotImplemented
        return (self.node, self.attempt) == (other.node, other.attempt)

    def __hash__(self) -> int:
        return hash((self.node, self.attempt))


class _Completed(NodeCompleted):
    """A `NodeCompleted` whose fields are made when a hook reads them."""

    __slots__ = ("_of",)
    _of: tuple[Run, int]

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return NodeCompleted

    def __reduce__(self) -> Any:
        return NodeCompleted, (self.node, self.outcome)

    @property
    def node(self) -> NodeRef:
        return self._of[0].ref(self._of[1])

    @property
    def outcome(self) -> NodeOutcome:
        run, slot = self._of
        meta = run.meta.get(slot, {})
        return NodeOutcome(
            True,
            run.plan.outputs_of(slot, run.value(slot)),
            cached="cached" in meta,
            recovered=bool(meta.get("recovered")),
            metadata=meta.get("metadata", {}),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeCompleted):
            return NotImplemented
        return (self.node, self.outcome) == (other.node, other.outcome)

    def __hash__(self) -> int:
        return hash(self.node)


_new = object.__new__
# Frozen classes refuse assignment; their slots' own setters are the quick way in.
_set_started: Callable[[_Started, Any], None] = _Started._of.__set__  # type: ignore[attr-defined]
_set_completed: Callable[[_Completed, Any], None] = _Completed._of.__set__  # type: ignore[attr-defined]


def completions(run: Run, slots: Iterable[int]) -> list[Event]:
    """Return the events of plain completions."""
    events: list[Event] = []
    for slot in slots:
        event = _new(_Completed)
        _set_completed(event, (run, slot))
        events.append(event)
    return events


def event_key(event: Event, attempt: int = 0) -> str:
    """Return what tells an event apart from every other one of its run, also after a crash."""
    if isinstance(event, CustomEvent):
        return f"custom {event.sequence}"
    if isinstance(event, (RunStarted, RunFinished)):
        return type(event).__name__
    node = event.node
    return f"{type(event).__name__} {attempt} {node.invocation_key} {node.node_id}"


class Observers:
    """Shows events to hooks, in their order, and the fraction done to a progress callback.

    Args:
        run: What is watched.
        hooks: Bound hooks, in order.
        progress: ``fn(node_id, status, fraction)``.

    Attributes:
        wants_starts: Whether `start` is to be called.
        steers: Whether there are hooks, whose commands count.
        broken: What a hook raised that is to stop the run for it.
    """

    def __init__(
        self,
        run: Run,
        hooks: Sequence[BoundHook],
        progress: Callable[[str, str, float], Any] | None,
    ) -> None:
        self._run = run
        self._hooks = tuple(hooks)
        self._attempts = run.attempts
        self._handles = [(each, each.handle, each.wants) for each in self._hooks]
        self._progress = progress
        self._ended = len(run.restored)
        self._ctx = HookContext(
            run_id=run.run_id,
            dag_name=run.dag_name,
            app_data=run.app_data,
            cache=run.cache,
            graph=lambda: run.plan.current,
        )
        self.steers = bool(self._hooks)
        self.needs_loop = any(
            each.is_async or each.starts_async or each.ends_async for each in self._hooks
        )
        self.wants_starts = any(each.wants_starts for each in self._hooks)
        # An async hook cannot be awaited just before a call: it is shown starts with the next turn.
        self._prompt = [
            each for each in self._handles if each[0].wants_starts and not each[0].is_async
        ]
        self._late = [each for each in self._handles if each[0].wants_starts and each[0].is_async]
        self._waiting: list[Event] = []
        self._asked: list[tuple[Command, Origin]] = []
        self.broken: Exception | None = None

    def start(self, slot: int, now: float) -> bool:
        """Show that an attempt begins; *now* is the run's clock.

        Returns:
            Whether hooks answered with commands, or have to be shown it later.
        """
        event = _new(_Started)
        _set_started(event, (self._run, slot, self._attempts.get(slot, 1), now))
        for hook, handle, wants in self._prompt:
            if wants is None or wants(event):
                self._take(hook, event, self._called(hook, handle, event))
        if self._late:
            self._waiting.append(event)
        if self._progress is not None:
            self._report(event)
        return bool(self._waiting or self._asked)

    @property
    def owes(self) -> bool:
        """Whether `show` has something to do although nothing happened."""
        return bool(self._waiting or self._asked)

    def show(self, events: Sequence[Event]) -> Generator[Reply, None, list[tuple[Command, Origin]]]:
        """Show the events of one turn; yield the answers to wait for, and return the commands."""
        ctx, progress = self._ctx, self._progress
        if self._waiting:
            late, self._waiting = self._waiting, []
            for event in late:
                for hook, _, wants in self._late:
                    if wants is None or wants(event):
                        yield from self._await(hook, hook.handle, event)
        for event in events:
            for hook, handle, wants in self._handles:
                if wants is not None and not wants(event):
                    continue
                if hook.is_async:
                    yield from self._await(hook, handle, event)
                    continue
                try:
                    answer = handle(ctx, event)
                except Exception as error:
                    self._failed(hook, error)
                else:
                    if answer is not None:
                        self._take(hook, event, answer)
            if progress is not None:
                self._report(event)
        asked, self._asked = self._asked, []
        return asked

    def announce(
        self, event: RunStarted | RunFinished
    ) -> Generator[Reply, None, list[tuple[Command, Origin]]]:
        """Tell the hooks that the run begins, or how it ended; as `show`."""
        for hook in self._hooks:
            found = hook.reaction(event)
            if found is None:
                continue
            call, is_async = found
            if is_async:
                yield from self._await(hook, call, event)
            else:
                self._take(hook, event, self._called(hook, call, event))
        asked, self._asked = self._asked, []
        return asked

    def _called(self, hook: BoundHook, call: Callable[..., Any], event: Event) -> Any:
        try:
            return call(self._ctx, event)
        except Exception as error:
            self._failed(hook, error)
            return None

    def _await(
        self, hook: BoundHook, call: Callable[..., Any], event: Event
    ) -> Generator[Reply, None, None]:
        reply = Reply()
        try:
            self._run.board.spawn(call(self._ctx, event), reply)
        except Exception as error:
            self._failed(hook, error)
            return
        yield reply
        if reply.error is None:
            self._take(hook, event, reply.value)
        elif isinstance(reply.error, Exception):
            self._failed(hook, reply.error)
        else:
            raise reply.error

    def _take(self, hook: BoundHook, event: Event, answer: Any) -> None:
        """Note the commands that a hook answered with."""
        if answer is None:
            return
        from dagger_dsl.engine.hooks import commands_of
        from dagger_dsl.engine.steering import Origin

        try:
            commands = commands_of(answer, f"hook {hook.name!r}")
        except Exception as error:  # a generator of the user's may raise anything
            self._failed(hook, error)
            return
        if not commands:
            return
        run, node = self._run, getattr(event, "node", None)
        slot = None if node is None else run.slot_of(node)
        attempt = 0 if slot is None else run.attempts.get(slot, 1)
        key = event_key(event, attempt)
        failed = slot if slot is not None and run.state.status(slot) == FAILED else None
        depth = 0 if node is None else run.depths.get(node.node_id, 0)
        self._asked += [
            (
                command,
                Origin(f"hook {hook.name!r}", f"{hook.name} {k} {key}", depth, failed, key),
            )
            for k, command in enumerate(commands)
        ]

    def _report(self, event: Event) -> None:
        if isinstance(event, NodeStarted):
            status = "running"
        elif isinstance(event, _ENDINGS):
            self._ended += 1
            if isinstance(event, NodeCompleted):
                status = "completed" if event.outcome.success else "failed"
            elif isinstance(event, NodeFailed):
                status = "failed"
            else:
                status = "skipped" if isinstance(event, NodeSkipped) else "cancelled"
        else:
            return
        fraction = min(1.0, self._ended / max(1, self._run.plan.count))
        assert self._progress is not None
        try:
            self._progress(event.node.node_id, status, fraction)
        except Exception as error:
            self._log(self._progress, error)

    def refused(self, who: str, error: Exception) -> None:
        """Note that a command could not be applied."""
        logger.error(
            "a command of %s was refused: %s", who, error, extra={"run_id": self._run.run_id}
        )
        self._run.hook_errors.append(error)
        for hook in self._hooks:
            if hook.on_error == "stop" and who == f"hook {hook.name!r}":
                self._stop(hook, error)

    def _failed(self, hook: BoundHook, error: Exception) -> None:
        self._log(hook.name, error)
        if hook.on_error == "stop":
            self._stop(hook, error)

    def _stop(self, hook: BoundHook, error: Exception) -> None:
        if self.broken is None:
            self.broken = ExecutionError(
                f"hook {hook.name!r} failed, and is to stop the run for it"
            )
            self.broken.__cause__ = error

    def _log(self, who: Any, error: Exception) -> None:
        logger.error(
            "hook %r failed; the run goes on",
            who,
            exc_info=error,
            extra={"run_id": self._run.run_id},
        )
        self._run.hook_errors.append(error)
