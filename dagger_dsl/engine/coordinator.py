"""`Coordinator`: the only writer of a run.

It owns a `RunState`, releases calls to a runner, takes outcomes back in order of arrival, commits
them, shows events to hooks and releases what is enabled. It is written once, as a generator:
`turns` yields the time until which it can wait and is sent the clock when something arrived. A
blocking loop, an event loop and worker threads drive the same generator, so every line that decides
anything is shared.

One turn: take all arrived outcomes; commit them together with the starts they enable; show the
events to hooks; launch. Two queues make the rule of level `sync`: `Board.go` holds released calls
and the state's `ready` newly enabled ones, and only when `go` is empty is what happened committed
and `ready` moved over.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from itertools import count
from math import inf
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Protocol

from dagger_dsl.engine.invoke import bind_handler
from dagger_dsl.engine.notes import to_json
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.engine.run import Run, error_info
from dagger_dsl.engine.state import COMPLETED, NAMES, PENDING, SKIPPED
from dagger_dsl.engine.watch import completions
from dagger_dsl.errors import (
    DaggerError,
    EncodingError,
    NodeCrashed,
    NodeExecutionError,
    NodeFailure,
    NodeTimeout,
    OutputError,
)
from dagger_dsl.model.context import (
    DEFAULT_KEY,
    Branch,
    NodeOutcome,
    NodeOutput,
    labels_of,
)
from dagger_dsl.model.events import (
    Event,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeRetrying,
    NodeSkipped,
)
from dagger_dsl.model.policies import OnFailure, Trigger
from dagger_dsl.model.protocols import Row
from dagger_dsl.model.states import RunStatus
from dagger_dsl.model.values import to_plain
from dagger_dsl.retry import decide, effective_policy
from dagger_dsl.runners.base import ANSWERS, ASYNC, Overran, Writing

__all__ = ["Coordinator"]

logger = logging.getLogger("dagger_dsl.engine")

# While `go` is not empty, outcomes are looked at this often (seconds), so that they reach the
# journal, hooks and progress bars, and values that fit no declaration stop their run; longer than a
# commit, shorter than a person notices.
_GLANCE = 0.001


class _Withdrawn(Exception):
    """A call was taken but not begun when the run was stopped."""


class Watcher(Protocol):
    """Who is shown the events of each turn, after their commit."""

    @property
    def wants_starts(self) -> bool:
        """Whether `start` is to be called, just before each call."""
        ...

    def start(self, slot: int, now: float) -> None:
        """Take the start of an attempt, between two turns."""
        ...

    def show(self, events: Sequence[Event]) -> None:
        """Take the events of one turn; what goes wrong in an observer is not raised."""
        ...


class Coordinator:
    """Decides what one run does.

    Args:
        run: What is run.
        watcher: Who is shown events; None makes none.

    Attributes:
        error: What ended the run before its time, such as a `StoreError`.
        interrupt: The KeyboardInterrupt that a body let out; the run was stopped for it.
    """

    def __init__(self, run: Run, watcher: Watcher | None = None) -> None:
        self.run = run
        self.watcher = watcher
        self.error: BaseException | None = None
        self.interrupt: KeyboardInterrupt | None = None
        self._plan = run.plan
        self._state = run.state
        self._board = run.board
        self._journal = run.journal
        self._rows: list[Row] = []
        self._oldest = inf
        self._events: list[Event] = []
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._apart: deque[int] = deque()  # taken from the state, to be called alone
        self._solo = False
        self._withdrawn: deque[int] = deque()  # what `stop` took away from the workers
        self._sync = run.options.durability == "sync"
        self._flush = run.config.flush_interval
        self._flying = 0
        self._stop_asked = False
        self._stopping = False
        self._victims: set[int] = set()
        self._left_behind: set[int] = set()
        self._first_start: dict[int, float] = {}
        if watcher is not None and watcher.wants_starts:
            run.board.announce = self._announcer(watcher)
        turns = self.turns()
        next(turns)
        self._send = turns.send

    def step(self, now: float) -> bool:
        """Take one turn; return False when the run is over. Called by one thread at a time."""
        try:
            self._board.wake_at = self._send(now)
        except StopIteration:
            return False
        except BaseException as error:
            self.error = error
            self._board.go.clear()  # nothing starts any more, whoever still looks there
            if not isinstance(error, Exception):
                raise  # an interrupt, or a hook that leaves
            return False
        return True

    def stop(self) -> None:
        """Ask for the end of the run, as its token says; safe from any thread."""
        go, withdraw = self._board.go, self._withdrawn.append
        try:
            while True:
                withdraw(go.popleft())
        except IndexError:
            self._stop_asked = True  # only now: a turn in between would miss what is on its way
        self._board.due = 0.0
        self._board.ring()

    def close(self) -> None:
        """End the run after the thread that drove it was interrupted; record what had ended.

        Calls that never came back are written off, so this returns at once.
        """
        run, board = self.run, self._board
        self.stop()
        now = board.clock()
        with board.lock:  # a worker may be in the middle of a turn
            for moment in (now, now, now + run.config.shutdown_grace + 1.0):
                if not self.step(moment):
                    break
            if self.error is not None and not isinstance(self.error, Exception):
                self._salvage()
        if isinstance(self.error, Exception):
            raise self.error
        if run.finished is None:
            run.status = RunStatus.CANCELLED
            run.reason = run.reason or "interrupted"
            run.finished = board.clock()

    def _salvage(self) -> None:
        """Record what had ended when an interrupt broke a turn off.

        The board still has every value; what the turn may have committed already is passed over.
        """
        run, board = self.run, self._board
        self._completed(
            [
                slot
                for slot in range(self._plan.count)
                if self._state.status(slot) == PENDING
                and board.values[slot] is not UNSET
                and 0.0 < board.started[slot] <= board.ended[slot]
                and slot not in run.handling
                and slot not in self._left_behind
            ]
        )
        if self._journal is not None:
            self._journal.commit(self._rows, commands=run.notes or None, replay=True, last=True)

    def turns(self) -> Generator[float, float, None]:
        """Yield the time until which to wait; be sent the clock when outcomes may have arrived."""
        state, board, journal, watcher = self._state, self._board, self._journal, self.watcher
        done, odd, go, take = board.done, board.odd, board.go, board.done.popleft
        timers, flush = self._timers, self.run.config.flush_interval
        # Plain completions need nothing but their edges when no one records, watches or splits.
        plan = self._plan
        plain = journal is None and not (plan.parts or plan.labelled or plan.handlers)
        glance = None if plain and watcher is None else min(_GLANCE, flush)
        run, left_behind = self.run, self._left_behind
        now = yield -inf
        if self.run.deadline is not None:
            self._at(self.run.deadline, self._time_out)
        state.begin()
        suspects = self.run.suspects
        while True:
            quiet = not done and not odd
            if done:
                batch = [take()]
                if done:  # most often not: a comprehension costs more than all of this turn
                    batch += [take() for _ in range(len(done))]
                self._flying -= len(batch)
                if plain and not left_behind:
                    state.complete(batch)
                    if watcher is not None:
                        self._events += completions(run, batch)
                else:
                    self._completed(batch)
            while odd:
                slot, answer = odd.popleft()
                self._flying -= 1
                self._answered(slot, answer, now)
            if timers and timers[0][0] <= now:
                self._fire(now)
            if self._stop_asked and not self._stopping:
                self._cancel(now)
            if state.ended:
                self._record_ends()
            if not go:
                if run.crashes:
                    self._refuse_crashed()
                if plan.joins:
                    self._bind(state.ready)
                if glance is not None:
                    if journal is not None:
                        self._record_turn()
                    if watcher is not None and self._events:
                        events, self._events = self._events, []
                        watcher.show(events)
                    if self._stop_asked and not self._stopping:
                        continue  # a hook cancelled the run: what it was shown enables nothing
                ready = state.take()
                if suspects:
                    ready = self._set_apart(ready)
                if ready:
                    self._flying += len(ready)
                    go.extend(ready)
                    quiet = False
                elif not self._flying and (not state.waiting or state.paused):
                    break
            else:
                if self._rows and now >= self._oldest + flush:
                    self._commit(None)
                if watcher is not None and self._events and not self._rows:
                    events, self._events = self._events, []
                    watcher.show(events)
            wake_at = timers[0][0] if timers else inf
            if glance is not None:
                # Until `due` a worker may end a call and begin the next one, a long one perhaps,
                # without a step: somebody has to look then. When nothing happens any more, each
                # end is a step.
                board.due = now if quiet else now + glance
                if journal is not None:
                    # Rows wait no longer than `flush`: from then on workers launch nothing before.
                    latest = (self._oldest if self._rows else now) + flush
                    board.latest = latest
                    if latest < board.due:
                        board.due = latest
                    if latest < wake_at and go and glance and (self._rows or not quiet):
                        wake_at = latest
                elif glance and not quiet and now + flush < wake_at:
                    wake_at = now + flush
                if self._stop_asked and not self._stopping:
                    board.due = 0.0
            now = yield wake_at
        self._conclude()

    # --- outcomes --------------------------------------------------------------------------------

    def _completed(self, slots: list[int]) -> None:
        """Record calls that returned a plain value."""
        plan, run, state = self._plan, self.run, self._state
        easy: list[int] = []
        for slot in slots:
            if slot in self._left_behind:
                self._left_behind.discard(slot)
                self._flying += 1  # it was written off before
            elif slot in run.handling or slot in plan.parts or slot in plan.labelled:
                state.complete(easy)
                easy = []
                self._answer(slot, self._board.values[slot], None)
            elif self._record(slot, self._board.values[slot]):
                easy.append(slot)
        state.complete(easy)

    def _complete(self, slot: int, value: Any, label: Any, split: bool) -> None:
        """Record one completion with everything that can come with it: parts, labels, metadata."""
        plan, run = self._plan, self.run
        try:
            parts = plan.split(slot, value, always=split)
            labels = None
            if slot in plan.labelled:
                labels = labels_of(value if label is None else label)
                if labels is None:
                    raise OutputError(
                        f"node {plan.ids[slot]!r} has labelled edges, so it must return a bool, a "
                        f"text, a list of texts or Branch(label, value), not {value!r:.200}"
                    )
                run.meta.setdefault(slot, {})["labels"] = sorted(labels)
        except OutputError as error:
            self._failed(slot, error)
            return
        self._board.values[slot] = value
        if not self._record(slot, value):
            return
        for where, part in parts:
            self._board.values[where] = part
        self._state.complete_with(slot, labels)

    def _record(self, slot: int, value: Any) -> bool:
        """Put a completion into the next commit; False when its value has no stored form."""
        run, journal, plan = self.run, self._journal, self._plan
        if journal is not None:
            meta = run.meta.get(slot)
            inline = artifact = None
            stored = plan.actions[slot].store
            try:
                if stored:
                    inline, artifact = journal.encode(value)
                if meta and "metadata" in meta:
                    meta = {**meta, "metadata": to_plain(meta["metadata"], "metadata")}
            except EncodingError as error:
                self._failed(slot, EncodingError(f"node {plan.ids[slot]!r}: {error}"))
                return False
            if not stored:
                meta = {**(meta or {}), "stored": False}
            board = self._board
            start, end = board.started[slot], board.ended[slot]
            if not self._rows:
                self._oldest = end
            if end - start >= self._flush:
                self._oldest = -inf  # what took long does not wait behind the next long call
            self._rows.append(
                (
                    plan.ids[slot],  # type: ignore[arg-type]  # nodes' slots have an id
                    DEFAULT_KEY,
                    run.attempts.get(slot, 1),
                    "completed",
                    inline,
                    artifact,
                    run.wall + start,
                    (end - start) * 1000.0,
                    None,
                    None if meta is None else to_json(meta),
                )
            )
        if self.watcher is not None:
            self._events += completions(run, (slot,))
        return True

    def _answered(self, slot: int, answer: Any, now: float) -> None:
        """Take an outcome that is not a plain value."""
        if slot in self._left_behind:
            self._left_behind.discard(slot)
            self._flying += 1
        elif isinstance(answer, BaseException):
            self._raised(slot, answer, now)
        elif isinstance(answer, (CoroutineType, GeneratorType, AsyncGeneratorType)):
            if not isinstance(answer, AsyncGeneratorType):
                answer.close()
            self._raised(slot, OutputError(self._unfinished(slot, answer)), now)
        elif isinstance(answer, Writing):
            self._insert(slot, answer, now)
        elif isinstance(answer, Branch):
            self._answer(slot, answer.value, answer.label)
        elif not answer.succeeded:
            self._note(slot, answer)
            self._failed(slot, NodeFailure(answer.message or "the node answered failure"))
        else:
            self._note(slot, answer)
            inner = answer.outputs
            if isinstance(inner, Branch):
                self._answer(slot, inner.value, inner.label)
            else:
                self._answer(slot, inner, None, split=answer.split)

    def _insert(self, slot: int, writing: Writing, now: float) -> None:
        """Take an answer and, if it counts, what its call wrote into the run's cache."""
        run, journal, answer = self.run, self._journal, writing.answer
        stored = {}
        try:
            if journal is not None:
                stored = {
                    name: journal.encode(value, ".".join(name))
                    for name, value in writing.written.items()
                }
        except EncodingError as error:
            self._failed(slot, error)
            return
        # A failure handler that changes nothing may still have left something to read.
        counts = slot in run.handling and isinstance(answer, NodeOutput) and answer.outputs is None
        if answer.__class__ in ANSWERS:
            self._answered(slot, answer, now)
        else:
            self._answer(slot, answer, None)
        if counts or self._state.status(slot) == COMPLETED:
            run.inserted.update(writing.written)
            if journal is not None:
                journal.write_cache(stored)

    def _unfinished(self, slot: int, answer: object) -> str:
        if isinstance(answer, (GeneratorType, AsyncGeneratorType)):
            advice = "a generator, which can be read only once; return list(...) of it"
        else:
            advice = (
                "a coroutine; write its function as 'async def', or give functools.wraps to the "
                "decorator around it"
            )
        return f"node {self._plan.ids[slot]!r} returned {advice}"

    def _answer(self, slot: int, value: Any, label: Any, *, split: bool = False) -> None:
        """Take a value, from the node itself or from its failure handler."""
        handling = self.run.handling
        if slot not in handling:
            self._complete(slot, value, label, split)
        elif value is None and label is None:  # the handler changes nothing
            self._board.values[slot] = UNSET
            self._give_up(slot, handling.pop(slot))
        else:
            self.run.meta.setdefault(slot, {})["recovered"] = True
            self._complete(slot, value, label, split)
            handling.pop(slot, None)

    def _note(self, slot: int, answer: NodeOutput) -> None:
        if answer.metadata:
            self.run.meta.setdefault(slot, {})["metadata"] = dict(answer.metadata)

    # --- failures --------------------------------------------------------------------------------

    def _raised(self, slot: int, error: BaseException, now: float) -> None:
        """Decide what becomes of an attempt that raised: another one, or a failure."""
        run, plan = self.run, self._plan
        node_id = str(plan.ids[slot])
        if isinstance(error, Overran):
            error = NodeTimeout(node_id, error.seconds)
            if not self._board.kinds[slot] & ASYNC:
                run.abandoned.append(slot)
                logger.warning(
                    "node %r overran its limit of %g s; its thread cannot be stopped and is left "
                    "behind, its result will be ignored",
                    node_id,
                    error.seconds,
                    extra={"run_id": run.run_id, "node_id": node_id},
                )
        self._clear_seats(slot)
        if isinstance(error, KeyboardInterrupt):
            self.interrupt = self.interrupt or error
            self._stop_asked = True
            if slot not in run.handling:
                self._state.cancel_running(slot, run.reason or "interrupted")
                return
        if slot in run.handling:
            self._failed(slot, error)
            return
        if slot in self._victims and (isinstance(error, _Withdrawn) or _is_cancellation(error)):
            self._state.cancel_running(slot, run.reason or "the run was stopped")
            return
        run.errors[slot] = error
        attempt = run.attempts.get(slot, 1)
        first = self._first_start.setdefault(slot, self._board.started[slot])
        policy = effective_policy(plan.graph.nodes[node_id], plan.actions[slot], run.config)
        made = attempt - run.earlier.get(slot, 0)
        delay = None
        if not self._stopping and slot not in self._victims:
            try:
                delay = decide(policy, made, error, now - first)
            except Exception as broken:  # a user's predicate or tenacity object
                error.add_note(f"its retry policy failed: {broken!r}")
        if delay is None:
            self._failed(slot, error)
            return
        total = policy.max_attempts if policy.stop is None else "?"
        logger.warning(
            "node %r failed (%s), retrying in %.1f s (attempt %d/%s)",
            node_id,
            error_info(error),
            delay,
            made + 1,
            total,
            extra={"run_id": run.run_id, "node_id": node_id},
        )
        self._push(run.row(slot, "failed", error=to_json(error_info(error).to_dict())))
        if self.watcher is not None:
            self._events.append(NodeRetrying(self.run.ref(slot), error, attempt, delay))
        run.another(slot)
        self._state.wait(slot)
        self._at(now + delay, lambda _now: self._state.wake(slot))

    def _clear_seats(self, slot: int) -> None:
        """Note that a call has come back: whatever kills the process now, it was not this call."""
        flight = self._board.flight
        for seat, each in enumerate(flight):
            if each == slot:
                flight[seat] = -1

    def _failed(self, slot: int, error: BaseException) -> None:
        """Call the failure handler where there is one; otherwise the failure is final."""
        run = self.run
        self._clear_seats(slot)
        self._board.values[slot] = UNSET
        original = run.handling.pop(slot, None)
        if original is not None:
            logger.error("the failure handler of %s failed: %r", run.ref(slot), error)
            original.add_note(f"its failure handler failed too: {error!r}")
            run.meta.get(slot, {}).pop("recovered", None)
            self._give_up(slot, original)
            return
        run.errors[slot] = error
        handler = self._plan.handlers.get(slot)
        if handler is None or self._stopping:
            self._give_up(slot, error)
            return
        try:
            call = bind_handler(run, slot, handler, error)
        except DaggerError as broken:
            error.add_note(f"its failure handler cannot be called: {broken}")
            self._give_up(slot, error)
            return
        run.handling[slot] = error
        self._board.calls[slot] = call
        self._board.kinds[slot] = self._plan.handler_kind(slot)
        # It belongs to a call that has begun: nothing goes before it, no pause or stop holds it.
        self._flying += 1
        self._board.go.appendleft(slot)

    def _give_up(self, slot: int, error: BaseException) -> None:
        """Record a final failure and do what ``on_failure`` says."""
        run, plan, state = self.run, self._plan, self._state
        node_id = str(plan.ids[slot])
        action = plan.actions[slot]
        policy = plan.graph.nodes[node_id].on_failure or action.on_failure or run.config.on_failure
        if policy is not OnFailure.CONTINUE:
            state.give_back(self._recall())  # first of all: workers take calls meanwhile
        made = run.attempts_made(slot)
        self._push(run.row(slot, "failed", error=to_json(error_info(error).to_dict())))
        if self.watcher is not None:
            self._events.append(
                NodeCompleted(self.run.ref(slot), NodeOutcome(False, error=error))
                if isinstance(error, NodeFailure)
                else NodeFailed(self.run.ref(slot), error, made)
            )
        if run.exception is None:
            run.exception = NodeExecutionError(node_id, made, str(error_info(error)))
            run.exception.__cause__ = error
        first = not state.stopped
        state.fail(slot, policy)
        if policy is OnFailure.STOP and first:
            run.reason = run.reason or f"node {node_id!r} failed and the run stops"
            self._halt(state.taken() - state.spared)
            self._at(self._board.clock() + run.config.shutdown_grace, self._leave_behind)
        elif policy is OnFailure.PAUSE:
            run.reason = run.reason or f"node {node_id!r} failed"

    def _refuse_crashed(self) -> None:
        """Fail what has taken its process down too often, instead of launching it."""
        state = self._state
        crashed = [slot for slot in state.ready if slot in self.run.crashes]
        if crashed:
            state.ready = [slot for slot in state.ready if slot not in self.run.crashes]
        for slot in crashed:
            error = NodeCrashed(str(self._plan.ids[slot]), self.run.crashes[slot])
            self.run.errors[slot] = error
            self._give_up(slot, error)
        if crashed:
            self._record_ends()

    def _set_apart(self, ready: list[int]) -> list[int]:
        """Return what can start now; a suspect starts when nothing else can, and runs alone.

        If the process dies once more, it is known whose call it was, and nobody else's was lost.
        """
        apart, suspects = self._apart, self.run.suspects
        apart.extend(slot for slot in ready if slot in suspects)
        ready = [slot for slot in ready if slot not in suspects]
        if self._solo and self._flying:
            self._state.give_back(ready)
            return []
        self._solo = bool(apart) and not (ready or self._flying)
        return [apart.popleft()] if self._solo else ready

    # --- stopping --------------------------------------------------------------------------------

    def _cancel(self, now: float) -> None:
        token = self.run.token
        reason = token.reason or ("cancelled" if token.cancelled else "interrupted")
        self._end_early(RunStatus.CANCELLED, reason)
        self._at(now + self.run.config.shutdown_grace, self._leave_behind)

    def _time_out(self, now: float) -> None:
        if not self._stopping:
            self._end_early(RunStatus.TIMED_OUT, "the run passed its time limit")
            self._leave_behind(now)

    def _end_early(self, status: RunStatus, reason: str) -> None:
        self._stopping = True
        self.run.status, self.run.reason = status, reason
        self._state.give_back(self._recall())
        go, handling = self._board.go, self.run.handling
        while go:  # failure handlers that are due
            try:
                slot = go.popleft()
            except IndexError:
                break
            self._flying -= 1
            self._give_up(slot, handling.pop(slot))
        self._state.cancel(reason)
        self._halt(self._state.taken())

    def _recall(self) -> list[int]:
        """Take back released calls that no worker has taken, but for failure handlers."""
        go, taken, handling = self._board.go, [], self.run.handling
        while go:
            try:
                taken.append(go.popleft())
            except IndexError:  # a worker was faster
                break
        # What `stop` withdrew stood behind the failure handlers that have come since.
        while self._withdrawn:
            taken.append(self._withdrawn.popleft())
        if handling:
            go.extend(slot for slot in taken if slot in handling)
            taken = [slot for slot in taken if slot not in handling]
        self._flying -= len(taken)
        taken += self._apart
        self._apart.clear()
        return taken

    def _halt(self, slots: Collection[int]) -> None:
        if slots:
            self._victims |= set(slots)
            self._board.halt(slots)

    def _leave_behind(self, _now: float) -> None:
        """Write off calls that did not end in time; their outcomes will be ignored."""
        late = (self._victims & self._state.taken()).difference(self._board.go)
        for slot in sorted(late):
            self._state.cancel_running(slot, self.run.reason)
        self._left_behind |= late
        self._flying -= len(late)
        # Async calls were cancelled and end as soon as their loop turns; threads go on.
        threads = [
            slot
            for slot in sorted(late)
            if self._board.started[slot] and not self._board.kinds[slot] & ASYNC
        ]
        self.run.abandoned += threads
        if threads:
            names = ", ".join(repr(self._plan.ids[slot]) for slot in threads[:5])
            logger.warning(
                "left behind in threads that cannot be stopped, results will be ignored: %s%s",
                names,
                f" and {len(threads) - 5} more" if len(threads) > 5 else "",
                extra={"run_id": self.run.run_id},
            )

    # --- commits and events ----------------------------------------------------------------------

    def _announcer(self, watcher: Watcher) -> Callable[[int, float], bool]:
        """Return what shows that a call begins; False when it must not, as it was ended meanwhile.

        Whoever makes the call has taken it already and may have waited for a turn to end.
        """
        handling, victims, state, start = (
            self.run.handling,
            self._victims,
            self._state,
            watcher.start,
        )

        def announce(slot: int, now: float) -> bool:
            if slot in handling:  # of an attempt whose start was shown
                return True
            if slot in victims:
                self._board.odd.append((slot, _Withdrawn()))
                return False
            if state.paused:
                state.give_back((slot,))
                self._flying -= 1
                return False
            start(slot, now)
            return True

        return announce

    def _push(self, row: Row) -> None:
        if self._journal is not None:
            if not self._rows:
                self._oldest = self._board.clock()
            self._rows.append(row)

    def _record_ends(self) -> None:
        """Record invocations that ended without a call."""
        ended, self._state.ended = self._state.ended, []
        for slot, code, reason in ended:
            self._push(self.run.row(slot, NAMES[code], meta=to_json({"reason": reason})))
            if self.watcher is not None:
                kind = NodeSkipped if code == SKIPPED else NodeCancelled
                self._events.append(kind(self.run.ref(slot), reason))

    def _record_turn(self) -> None:
        """Commit what happened, with the starts it enables."""
        state = self._state
        ready = [] if state.paused else state.ready
        if not (ready or self._flying or self._apart or self._events or state.waiting):
            return  # the run is over, and its end records the rest
        # Nobody waits for a commit at the other levels: they take rows by the batch.
        due = self._sync or not ready or self._board.clock() >= self._oldest + self._flush
        if due and (self._rows or ready):
            self._commit(ready)

    def _bind(self, slots: Sequence[int]) -> None:
        """Note whose values each join takes; of an `any` join, in the journal too.

        The record's order says what came first, but a source whose value is not stored comes again
        after a resume, and later.
        """
        run, plan = self.run, self._plan
        for slot in slots:
            if slot not in plan.joins or slot in run.bound:
                continue
            bound = run.bound[slot] = self._state.bound(slot)
            if self._journal is not None and plan.joins[slot].rule is Trigger.ANY:
                run.notes += [(f"any:{plan.ids[slot]}", to_json(plan.ids[each])) for each in bound]

    def _commit(self, released: list[int] | None, *, last: bool = False) -> None:
        assert self._journal is not None
        self._journal.commit(self._rows, released, commands=self.run.notes or None, last=last)
        # After the commit: an interrupt in between repeats it, it loses nothing.
        self._rows = []
        self.run.notes = []
        self._oldest = inf

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), act))

    def _fire(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)

    def _conclude(self) -> None:
        """Settle the run's status and record what is left to record."""
        run, state = self.run, self._state
        if run.status is RunStatus.RUNNING:
            if state.paused:
                run.status = RunStatus.PAUSED
            elif run.exception is not None:
                run.status = RunStatus.FAILED
            else:
                run.status = RunStatus.COMPLETED
        if self._rows:
            # What is shown is recorded.
            self._commit(None, last=not (self._events or self._board.lingers))
        if self.watcher is not None:
            self.watcher.show(self._events)
        run.finished = self._board.clock()


def _is_cancellation(error: BaseException) -> bool:
    # asyncio is loaded wherever one of its exceptions can occur; it is not imported for this.
    return type(error).__name__ == "CancelledError"
