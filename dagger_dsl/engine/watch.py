"""Observers of a run: hooks and the progress callback, called with the events of each turn.

What a hook returns is handed to the coordinator, each command under a key that stays the same when
the event is shown again after a crash. Whatever an observer raises is logged and kept in the run's
record; it never loses the run, but a hook may be told to stop it.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.state import FAILED
from dagger_dsl.errors import ExecutionError
from dagger_dsl.model.context import HookContext, NodeOutcome, NodeRef
from dagger_dsl.model.events import (
    CustomEvent,
    Event,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodePhase,
    NodeRetrying,
    NodeSkipped,
    NodeStarted,
    RunFinished,
    RunStarted,
)
from dagger_dsl.model.states import RunStatus
from dagger_dsl.runners.base import Reply

if TYPE_CHECKING:
    from dagger_dsl.engine.hooks import BoundHook
    from dagger_dsl.engine.steering import Origin
    from dagger_dsl.model.commands import Command

__all__ = ["Observers", "completions", "event_key"]

logger = logging.getLogger("dagger_dsl.hooks")
narrator = logging.getLogger("dagger_dsl.engine")

_STATUSES: dict[type, str] = {
    NodeFailed: "failed",
    NodeSkipped: "skipped",
    NodeCancelled: "cancelled",
}
_ENDINGS = (NodeCompleted, NodeFailed, NodeSkipped, NodeCancelled)


class _Started(NodeStarted):
    """A `NodeStarted` whose fields are made when a hook reads them; most hooks read few."""

    __slots__ = ("_of",)
    _of: tuple[Run | _Moment, int, int, float]

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
    _of: tuple[Run | _Moment, int]

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
            cached=run.is_cached(slot),
            recovered=bool(meta.get("recovered")),
            metadata=meta.get("metadata", {}),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeCompleted):
            return NotImplemented
        return (self.node, self.outcome) == (other.node, other.outcome)

    def __hash__(self) -> int:
        return hash(self.node)


# What people print, and compare with a text: `type(event).__name__`.
_Started.__name__ = _Started.__qualname__ = NodeStarted.__name__
_Completed.__name__ = _Completed.__qualname__ = NodeCompleted.__name__

_new = object.__new__
# Frozen classes refuse assignment; their slots' own setters are the quick way in.
_set_started: Callable[[_Started, Any], None] = _Started._of.__set__  # type: ignore[attr-defined]
_set_completed: Callable[[_Completed, Any], None] = _Completed._of.__set__  # type: ignore[attr-defined]


class _Moment:
    """What the events of a state need of its run, as it is now: its slot will be used again."""

    __slots__ = ("_ref", "_value", "meta", "plan", "wall")

    def __init__(self, run: Run, slot: int) -> None:
        self.plan, self.wall = run.plan, run.wall
        self.meta = {slot: run.meta.get(slot, {})}
        self._ref, self._value = run.ref(slot), run.value(slot)

    def ref(self, _slot: int) -> NodeRef:
        return self._ref

    def value(self, _slot: int) -> Any:
        return self._value

    def is_cached(self, _slot: int) -> bool:
        return False


def completions(run: Run, slots: Iterable[int]) -> list[Event]:
    """Return the events of plain completions."""
    events: list[Event] = []
    reused = run.plan.machine is not None
    for slot in slots:
        event = _new(_Completed)
        _set_completed(event, (_Moment(run, slot) if reused else run, slot))
        events.append(event)
    return events


_Handle: TypeAlias = "tuple[BoundHook, Callable[..., Any], Callable[[Event], bool] | None]"


def _tell_log(run: Run, event: Event) -> None:
    """Log what happened to a node; that an attempt is retried is logged as a warning anyway."""
    node = getattr(event, "node", None)
    slot = None if node is None else run.slot_of(node)
    if slot is None or isinstance(event, NodeRetrying):
        return
    tags = run.tags(slot)
    if isinstance(event, NodeStarted):
        tags["attempt"] = event.attempt
        narrator.debug("node %r starts (attempt %d)", tags["node_id"], event.attempt, extra=tags)
        return
    board = run.board
    tags["state"] = state = str(run.states_of(slot))
    if board.started[slot]:
        tags["duration_ms"] = took = (board.ended[slot] - board.started[slot]) * 1000.0
        narrator.debug("node %r %s in %.3f ms", tags["node_id"], state, took, extra=tags)
    else:
        reason = run.state.reasons.get(slot, "")
        narrator.debug("node %r %s: %s", tags["node_id"], state, reason, extra=tags)


def event_key(event: Event, attempt: int = 0) -> str:
    """Return what tells an event apart from every other one of its run, also after a crash.

    A node completes once, though a result that was not stored may have to be computed again.
    """
    if isinstance(event, CustomEvent):
        return f"custom {event.sequence}"
    if isinstance(event, (RunStarted, RunFinished)):
        return type(event).__name__
    node, kind = event.node, event.__class__.__name__
    if isinstance(event, NodePhase):
        kind = f"{kind} {event.phase}"
    if type(event) is _Completed:
        return f"{kind} {node.invocation_key} {node.node_id}"
    return f"{kind} {attempt} {node.invocation_key} {node.node_id}"


class Observers:
    """Shows events to hooks, in their order, and the fraction done to a progress callback.

    Args:
        run: What is watched.
        hooks: Bound hooks, in order.
        progress: ``fn(node_id, status, fraction)``.
        told: Whether each event is logged, at level DEBUG.

    Attributes:
        wants_starts: Whether `start` is to be called.
        wants_completions: Whether plain completions are to be shown.
        steers: Whether there are hooks, whose commands count.
        at_once: Whether `tell` is enough for what happened: there are only hooks that answer at
            once, to the events as they are.
        owes: Whether there is something to show or to apply although nothing happened.
        broken: What a hook raised that is to stop the run for it.
    """

    def __init__(
        self,
        run: Run,
        hooks: Sequence[BoundHook],
        progress: Callable[[str, str, float], Any] | None,
        told: bool = False,
    ) -> None:
        self._run = run
        self._reused = run.plan.machine is not None  # slots are, so events keep what they tell of
        self._hooks = tuple(hooks)
        self._attempts = run.attempts
        self._handles: list[_Handle] = [(each, each.handle, each.wants) for each in self._hooks]
        self._progress = progress
        self._narrates = told
        self._quiet = progress is None and not told
        self._ended = len(run.restored)
        self._part: dict[tuple[str, str], float] = {}  # of what runs, how far it has come
        self._told = 0.0
        self._last = ""
        self._telling = threading.RLock()
        if progress is not None:
            run.watch_progress = self.advance
        self._ctx = HookContext(
            run_id=run.run_id,
            dag_name=run.dag_name,
            app_data=run.app_data,
            cache=run.cache,
            graph=lambda: run.plan.current,
        )
        self.steers = bool(self._hooks)
        self.needs_loop = any(each.awaits for each in self._hooks)
        self.wants_starts = told or any(each.wants_starts for each in self._hooks)
        # An async hook cannot be awaited just before a call: it is shown starts with the next turn.
        starts = [each for each in self._handles if each[0].wants_starts]
        self._prompt = [each for each in starts if not each[0].is_async]
        self._late = [each for each in starts if each[0].is_async]
        self._phases: list[_Handle] = [
            (attrs.evolve(each, is_async=each.phases_async), each.on_phase, each.wants_phase)
            for each in self._hooks
            if each.on_phase is not None
        ]
        self._prompt_phases = [each for each in self._phases if not each[0].is_async]
        self._late_phases = [each for each in self._phases if each[0].is_async]
        self.wants_completions = bool(
            not self._quiet or self._phases or any(each.wants_completions for each in self._hooks)
        )
        self.at_once = self._quiet and not (
            self._phases or any(each.is_async for each in self._hooks)
        )
        self._waiting: list[tuple[Event, list[_Handle]]] = []
        self._talk: Iterator[tuple[Event, _Handle]] = iter(())
        self._awaited: tuple[BoundHook, Event, Reply] | None = None
        self._asked: list[tuple[Command, Origin]] = []
        self.owes = False
        self.broken: Exception | None = None

    def start(self, slot: int, now: float) -> bool:
        """Show that an attempt begins; *now* is the run's clock.

        Returns:
            Whether hooks answered with commands, or have to be shown it later.
        """
        event = _new(_Started)
        of = _Moment(self._run, slot) if self._reused else self._run
        _set_started(event, (of, slot, self._attempts.get(slot, 1), now))
        self.tell((event,), self._prompt)
        if not self.at_once:
            if self._late:
                self._waiting.append((event, self._late))
                self.owes = True
            if not self._quiet:
                self._report(event)
        return self.owes

    def phase(self, slot: int, phase: str, attempt: int) -> None:
        """Show that an attempt comes to a phase; called where `start` may be."""
        event = self._phase(self._run.ref(slot), phase, attempt)
        self.tell((event,), self._prompt_phases)
        if self._late_phases:
            self._waiting.append((event, self._late_phases))
            self.owes = True

    def _phase(self, node: NodeRef, phase: str, attempt: int) -> NodePhase:
        run = self._run
        at = dt.datetime.fromtimestamp(run.wall + run.board.clock(), dt.UTC)
        return NodePhase(node, phase, attempt, at)

    def _with_cleanups(self, events: Sequence[Event]) -> Iterator[Event]:
        """Yield events, and behind the end of each node that was called its last phase."""
        run = self._run
        for event in events:
            yield event
            if not isinstance(event, _ENDINGS):
                continue
            slot = run.slot_of(event.node)
            if slot is None:  # a machine has entered the state again, in its next cycle
                attempt = run.attempts_before.get(run.plan.index.get(event.node.node_id, -1), 1)
            elif slot in run.plan.mapped or run.is_cached(slot):
                continue
            else:
                attempt = run.attempts_made(slot)
            if attempt:
                yield self._phase(event.node, "cleanup", attempt)

    def show(self, events: Sequence[Event]) -> Reply | None:
        """Show the events of one turn; return the answer to wait for before `go_on`, or None."""
        if self.at_once:  # there is nothing to wait for
            self.tell(events)
            return None
        if self._phases:
            events = list(self._with_cleanups(events))
        self._talk = self._turn(events)
        return self.go_on()

    def tell(self, events: Iterable[Event], handles: Sequence[_Handle] | None = None) -> None:
        """Show events to hooks which answer at once, to all unless told, and take their answers."""
        ctx = self._ctx
        if handles is None:
            handles = self._handles
        for event in events:
            for hook, handle, wants in handles:
                if wants is not None and not wants(event):
                    continue
                try:
                    answer = handle(ctx, event)
                except Exception as error:
                    self._failed(hook, error, event)
                else:
                    # An empty list asks for nothing, and is what many hooks answer each time.
                    if answer is not None and (answer.__class__ is not list or answer):
                        self._take(hook, event, answer)

    def announce(self, event: RunStarted | RunFinished) -> Reply | None:
        """Tell the hooks that the run begins, or how it ended; as `show`."""
        found = ((hook, hook.reaction(event)) for hook in self._hooks)
        self._talk = iter(
            [
                (event, (attrs.evolve(hook, is_async=react[1]), react[0], None))
                for hook, react in found
                if react is not None
            ]
        )
        return self.go_on()

    def _turn(self, events: Sequence[Event]) -> Iterator[tuple[Event, _Handle]]:
        if self._waiting:
            late, self._waiting = self._waiting, []
            for event, handles in late:
                for each in handles:
                    yield event, each
        for event in events:
            for each in self._phases if event.__class__ is NodePhase else self._handles:
                yield event, each
            if not self._quiet:
                self._report(event)

    def go_on(self) -> Reply | None:
        """Go on where `show` stopped to wait for an answer."""
        if self._awaited is not None:
            hook, event, reply = self._awaited
            self._awaited = None
            if reply.error is None:
                if reply.value is not None:
                    self._take(hook, event, reply.value)
            elif isinstance(reply.error, Exception):
                self._failed(hook, reply.error, event)
            else:
                raise reply.error
        for event, each in self._talk:
            hook, handle, wants = each
            if not hook.is_async:
                self.tell((event,), (each,))
            elif wants is None or wants(event):
                try:
                    reply = Reply()
                    self._run.board.spawn(handle(self._ctx, event), reply)
                except Exception as error:
                    self._failed(hook, error, event)
                else:
                    self._awaited = hook, event, reply
                    return reply
        return None

    @property
    def asks(self) -> bool:
        """Whether there are commands to apply."""
        return bool(self._asked)

    def take(self) -> list[tuple[Command, Origin]]:
        """Return the commands that hooks have answered with since this was last asked."""
        asked, self._asked = self._asked, []
        self.owes = bool(self._waiting)
        return asked

    def _take(self, hook: BoundHook, event: Event, answer: Any) -> None:
        """Note the commands that a hook answered with."""
        if answer is None:
            return
        from dagger_dsl.engine.hooks import commands_of
        from dagger_dsl.engine.steering import Origin

        try:
            commands = commands_of(answer, f"hook {hook.name!r}")
        except Exception as error:  # a generator of the user's may raise anything
            self._failed(hook, error, event)
            return
        if not commands:
            return
        run, node = self._run, getattr(event, "node", None)
        slot = None if node is None else run.slot_of(node)
        attempt = 0 if slot is None else run.attempts.get(slot, 1)
        key = event_key(event, attempt)
        failed = slot if slot is not None and run.state.status(slot) == FAILED else None
        depth = getattr(event, "depth", 0) if node is None else run.depths.get(node.node_id, 0)
        self.owes = True
        self._asked += [
            (
                command,
                Origin(f"hook {hook.name!r}", f"{hook.name} {k} {key}", depth, failed, key),
            )
            for k, command in enumerate(commands)
        ]

    def _report(self, event: Event) -> None:
        """Say what happened to those who only listen: the log, and the progress callback."""
        if self._narrates:
            _tell_log(self._run, event)
        if self._progress is None:
            return
        ended = isinstance(event, _ENDINGS)
        if isinstance(event, NodeStarted):
            status = "running"
        elif isinstance(event, NodeCompleted):
            whole = type(event) is _Completed or event.outcome.success
            status = "completed" if whole else "failed"
        elif ended:
            status = _STATUSES[type(event)]
        else:
            return
        node: NodeRef = event.node  # type: ignore[union-attr]  # events of nodes have one
        with self._telling:
            if ended:
                self._ended += 1
                self._part.pop((node.node_id, node.invocation_key), None)
            self._tell_progress(node.node_id, status)

    def advance(self, node_id: str, key: str, fraction: float, status: str) -> None:
        """Take how far a node has come; from any thread.

        Args:
            node_id, key: Which invocation.
            fraction: How much of it is done.
            status: What is told with it.
        """
        with self._telling:
            self._part[node_id, key] = fraction
            self._tell_progress(node_id, status)

    def _tell_progress(self, node_id: str, status: str) -> None:
        """Call the progress callback; the fraction does not fall, though a run may grow."""
        run = self._run
        done = self._ended + sum(self._part.values())
        fraction = min(1.0, done / max(1, run.state.expected - run.silent))
        fraction = self._told = max(self._told, fraction)
        self._last = node_id
        assert self._progress is not None
        try:
            self._progress(node_id, status, fraction)
        except Exception as error:
            self._log(self._progress, error, run.plan.index.get(node_id))

    def finish(self) -> None:
        """Tell the progress callback that all is done, unless it knows or the run stands still."""
        if self._progress is None or not self._last or self._run.status is RunStatus.PAUSED:
            return
        with self._telling:
            if self._told < 1.0:
                self._told = 1.0
                self._tell_progress(self._last, str(self._run.status))

    def refused(self, who: str, error: Exception) -> None:
        """Note that a command could not be applied."""
        logger.error(
            "a command of %s was refused: %s", who, error, extra={"run_id": self._run.run_id}
        )
        self._run.hook_errors.append(error)
        for hook in self._hooks:
            if hook.on_error == "stop" and who == f"hook {hook.name!r}":
                self._stop(hook, error)

    def _failed(self, hook: BoundHook, error: Exception, event: Event) -> None:
        node = getattr(event, "node", None)
        self._log(hook.name, error, None if node is None else self._run.slot_of(node))
        if hook.on_error == "stop":
            self._stop(hook, error)

    def _stop(self, hook: BoundHook, error: Exception) -> None:
        self.owes = True
        if self.broken is None:
            self.broken = ExecutionError(
                f"hook {hook.name!r} failed, and is to stop the run for it"
            )
            self.broken.__cause__ = error

    def _log(self, who: Any, error: Exception, slot: int | None) -> None:
        tags = {} if slot is None else self._run.tags(slot)
        logger.error(
            "hook %r failed; the run goes on",
            who,
            exc_info=error,
            extra={"run_id": self._run.run_id, "dag_name": self._run.dag_name, **tags},
        )
        self._run.hook_errors.append(error)
