"""`Coordinator`: the only writer of a run.

It owns a `RunState`, releases calls to a runner, takes outcomes back in order of arrival, commits
them, shows events to hooks and releases what is enabled. It is written once, as a generator:
`turns` yields the time until which it can wait and is sent the clock when something arrived. A
blocking loop, an event loop and worker threads drive the same generator, so every line that decides
anything is shared.

One turn: take all arrived outcomes; commit them together with the commands the nodes returned; show
the events to hooks; commit the commands these return with the acknowledgement and the new starts;
launch. Without hooks the two commits are one. Two queues make the rule of level `sync`: `Board.go`
holds released calls and the state's `ready` newly enabled ones, and only when `go` is empty is what
happened committed and `ready` moved over.

What is rare has a module of its own: `records` makes rows, `steering` applies commands, `people`
knows questions, `mapping` mapped nodes, `lookups` results of other runs.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from itertools import count
from math import inf
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Protocol

from dagger_dsl.engine.invoke import bind_fallback, bind_handler
from dagger_dsl.engine.notes import to_json
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.engine.records import Records
from dagger_dsl.engine.run import Run, error_info
from dagger_dsl.engine.state import COMPLETED, NAMES, PENDING, SKIPPED
from dagger_dsl.engine.watch import completions
from dagger_dsl.errors import (
    DaggerError,
    EncodingError,
    InvalidState,
    LimitExceeded,
    MapError,
    NodeCrashed,
    NodeExecutionError,
    NodeFailure,
    NodeTimeout,
    OutputError,
    StalledError,
    StoreError,
)
from dagger_dsl.model.context import (
    Branch,
    NodeOutcome,
    NodeOutput,
    labels_of,
)
from dagger_dsl.model.events import (
    Event,
    HumanInputRequested,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeRetrying,
    NodeSkipped,
    RunFinished,
    RunStarted,
)
from dagger_dsl.model.people import HumanRequest
from dagger_dsl.model.policies import OnFailure, Trigger
from dagger_dsl.model.states import RunStatus
from dagger_dsl.retry import decide, effective_policy
from dagger_dsl.runners.base import ANSWERS, Overran, Reply, Writing, Yielded

if TYPE_CHECKING:
    from dagger_dsl.engine.mapping import Maps
    from dagger_dsl.engine.steering import Origin, Steering
    from dagger_dsl.model.commands import Command

__all__ = ["Coordinator"]

logger = logging.getLogger("dagger_dsl.engine")

# How often commands of other processes are looked for (seconds); the documents promise a second.
_LOOK = 0.4

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

    @property
    def steers(self) -> bool:
        """Whether what it returns are commands, and the journal keeps what it was shown."""
        ...

    @property
    def owes(self) -> bool:
        """Whether `show` has something to do although nothing happened."""
        ...

    @property
    def broken(self) -> Exception | None:
        """What the run is to be stopped for."""
        ...

    def start(self, slot: int, now: float) -> bool:
        """Take the start of an attempt, between two turns; whether `owes` is true from now on."""
        ...

    def show(self, events: Sequence[Event]) -> Reply | None:
        """Take the events of one turn; return what to wait for before `go_on`, or None."""
        ...

    def announce(self, event: RunStarted | RunFinished) -> Reply | None:
        """Take the beginning or the end of the run; as `show`."""
        ...

    def go_on(self) -> Reply | None:
        """Go on after an answer; return what to wait for next, or None."""
        ...

    def take(self) -> list[tuple[Command, Origin]]:
        """Return the commands that were answered with so far."""
        ...

    def refused(self, who: str, error: Exception) -> None:
        """Take that a command could not be applied."""
        ...


class Coordinator:
    """Decides what one run does.

    Args:
        run: What is run.
        watcher: Who is shown events; None makes none.

    Attributes:
        error: What ended the run before its time, such as a `StoreError`.
        interrupt: The KeyboardInterrupt that a body let out; the run was stopped for it.
        steerable: Somebody may `submit` commands, so that workers look up from their calls.
    """

    def __init__(self, run: Run, watcher: Watcher | None = None) -> None:
        self.run = run
        self.watcher = watcher
        self.error: BaseException | None = None
        self.interrupt: KeyboardInterrupt | None = None
        self.steerable = False
        self._plan = run.plan
        self._state = run.state
        self._board = run.board
        self._journal = run.journal
        self._records = Records(run)
        self._events: list[Event] = []
        self._timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._apart: deque[int] = deque()  # taken from the state, to be called alone
        self._solo = False
        self._withdrawn: deque[int] = deque()  # what `stop` took away from the workers
        self._sync = run.options.durability == "sync"
        self._flying = 0
        self._steering: Steering | None = None
        self._maps: Maps | None = None
        self._requests: deque[tuple[Command, Origin, Callable[[Exception | None], None]]] = deque()
        self._seen_request = run.seen_request
        self._over = False
        self._deciding = False  # a command of a node's answer is being applied
        self._careful: deque[int] = deque()  # to be started one by one, at most once
        self._completions = len(run.restored)
        self._reviewed = (
            0
            if run.config.review_frequency is None
            else (self._completions // run.config.review_frequency)
        )
        self._reviews = run.config.review_frequency is not None
        self._expiring: set[int] = set()  # questions that time alone can answer
        self._stop_asked = False
        self._stopping = False
        self._victims: set[int] = set()
        self._left_behind: set[int] = set()
        self._first_start: dict[int, float] = {}
        self._plain = self._rare = False
        self._set_plain()
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
                for slot in self._plan.invocations()
                if self._state.status(slot) == PENDING
                and board.values[slot] is not UNSET
                and 0.0 < board.started[slot] <= board.ended[slot]
                and slot not in run.asked
                and slot not in run.handling
                and slot not in self._left_behind
            ]
        )
        if self._journal is not None:
            self._journal.commit(
                self._records.rows,
                commands=run.notes or None,
                replay=True,
                last=True,
                replacing=self._records.replacing,
            )

    def submit(
        self, command: Command, origin: Origin, reply: Callable[[Exception | None], None]
    ) -> None:
        """Ask for a command from outside; safe from any thread.

        Args:
            command: What is asked for.
            origin: Who asks.
            reply: Called once, with None when it was applied and recorded, else with the reason.
        """
        self._requests.append((command, origin, reply))
        self._board.due = 0.0
        self._board.ring()
        if self._over:
            self._dismiss()

    def _dismiss(self) -> None:
        """Refuse what was asked for after the end."""
        while True:
            try:
                _, _, reply = self._requests.popleft()
            except IndexError:
                return
            reply(InvalidState(f"run {self.run.run_id} is {self.run.status}; it takes no commands"))

    def _set_plain(self) -> None:
        """Settle whether completions need only their edges, and starts only their slot."""
        plan, run = self._plan, self.run
        self._rare = bool(
            plan.joins
            or plan.mapped
            or plan.cached
            or plan.careful
            or run.crashes
            or run.suspects
            or self._state.sifting
        )
        self._plain = self._journal is None and not (
            plan.parts
            or plan.labelled
            or plan.handlers
            or plan.fallbacks
            or plan.mapped
            or plan.cached
            or run.config.review_frequency
        )

    def turns(self) -> Generator[float, float, None]:
        """Yield the time until which to wait; be sent the clock when outcomes may have arrived."""
        state, board, journal, watcher = self._state, self._board, self._journal, self.watcher
        done, odd, go, take = board.done, board.odd, board.go, board.done.popleft
        timers, flush = self._timers, self.run.config.flush_interval
        records = self._records
        run, left_behind, requests = self.run, self._left_behind, self._requests
        # A hook that is slow must not let events pile up: no more are made than it can be shown.
        most = run.options.event_capacity if watcher is not None and watcher.steers else 0
        now = yield -inf
        glance: float | None = min(_GLANCE, flush)
        if self._plain and watcher is None and not self.steerable:
            glance = None
        yield from self._begin(now)
        while True:
            quiet = not done and not odd
            if done:
                batch = [take()]
                if done:  # most often not: a comprehension costs more than all of this turn
                    number = len(done)
                    batch += [take() for _ in range(min(number, most) if most else number)]
                self._flying -= len(batch)
                if self._plain and not left_behind:
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
            if requests:
                self._take_requests()
                quiet = False
            if self._stop_asked and not self._stopping:
                self._cancel(now)
            if state.ended:
                self._record_ends()
            if not go:
                if self._rare:
                    self._prepare(now)
                if watcher is not None and (self._events or watcher.owes):
                    reply = self._show()
                    if reply is not None:
                        yield from self._listen(reply)
                    if self._heed():
                        continue  # what hooks asked for may have changed what is enabled
                if journal is not None:
                    self._record_turn()
                if self._stop_asked and not self._stopping:
                    continue  # a hook cancelled the run: what it was shown enables nothing
                ready = state.take()
                if self._rare:
                    ready = self._chosen(ready)
                if ready:
                    self._flying += len(ready)
                    go.extend(ready)
                    quiet = False
                elif not self._flying and not done and self._stands():
                    break
            else:
                if records.waiting and now >= records.oldest + flush:
                    records.commit(None)
                if watcher is not None and self._events and not records.rows:
                    reply = self._show()
                    if reply is not None:
                        yield from self._listen(reply)
                    if self._heed():
                        continue
            wake_at = timers[0][0] if timers else inf
            if glance is not None:
                # Until `due` a worker may end a call and begin the next one, a long one perhaps,
                # without a step: somebody has to look then. When nothing happens any more, each
                # end is a step.
                board.due = now if quiet else now + glance
                if journal is not None:
                    # Rows wait no longer than `flush`: from then on workers launch nothing before.
                    latest = (records.oldest if records.rows else now) + flush
                    board.latest = latest
                    if latest < board.due:
                        board.due = latest
                    if latest < wake_at and go and glance and (records.rows or not quiet):
                        wake_at = latest
                elif glance and not quiet and now + flush < wake_at:
                    wake_at = now + flush
                if self._stop_asked and not self._stopping:
                    board.due = 0.0
            if most and done:
                wake_at = board.due = 0.0
            now = yield wake_at
        yield from self._conclude()

    def _begin(self, now: float) -> Generator[float, float, None]:
        """Set the timers, tell the hooks, and enable what waits for nothing."""
        run, state, watcher = self.run, self._state, self.watcher
        if run.deadline is not None:
            self._at(run.deadline, self._time_out)
        for slot, question in run.asked.items():
            self._set_alarm(slot, question)
        state.begin()
        if self._journal is not None:
            self._begin_looking(now)
        if watcher is None:
            return
        if watcher.steers:
            self._events += run.unshown
            reply = watcher.announce(RunStarted(run.run_id, run.dag_name, run.resumed))
            if reply is not None:
                yield from self._listen(reply)
            self._heed()

    def _stands(self) -> bool:
        """Return whether nothing can happen any more without somebody from outside."""
        state = self._state
        if state.waiting and not state.paused:
            return False
        return not (self._expiring & state.asking) or state.paused

    # --- hooks and commands ----------------------------------------------------------------------

    def _show(self) -> Reply | None:
        """Show what happened, once it is recorded; return what to wait for, if anything."""
        watcher, records = self.watcher, self._records
        assert watcher is not None
        if watcher.steers:
            if records.waiting:
                records.commit_unshown()
        elif self._journal is not None and not self._board.go:
            self._record_turn()
        events, self._events = self._events, []
        return watcher.show(events)

    def _listen(self, reply: Reply | None) -> Generator[float, float, None]:
        """Wait for the answers of hooks; meanwhile nothing else is decided."""
        board, run, watcher = self._board, self.run, self.watcher
        assert watcher is not None
        while reply is not None:
            until = inf
            board.listening = True
            try:
                while not reply.done:
                    now = yield min(until, run.deadline or inf)
                    late = run.deadline is not None and now >= run.deadline
                    if until == inf and (self._stop_asked or late):
                        until = now + run.config.shutdown_grace
                    if now >= until and not reply.done:
                        reply.cancel()
                        reply.give(None, TimeoutError("the hook had no answer when the run ended"))
            finally:
                board.listening = False
            reply = watcher.go_on()

    def _heed(self) -> bool:
        """Apply what hooks have asked for; return whether that may have changed anything."""
        watcher = self.watcher
        assert watcher is not None
        if watcher.steers:
            self._records.owed = self._journal is not None
        if watcher.broken is not None and not self._stopping:
            self._abort(watcher.broken)
            return True
        if not watcher.owes:
            return False
        self._apply_all(watcher.take())
        return True

    def _apply_all(self, asked: Sequence[tuple[Command, Origin]]) -> None:
        for command, origin in asked:
            try:
                self._apply(command, origin)
            except LimitExceeded as error:
                self._refused(origin, error)
                self._abort(error)
            except StoreError:
                raise
            except Exception as error:
                self._refused(origin, error)

    def _refused(self, origin: Origin, error: Exception) -> None:
        if self.watcher is not None:
            self.watcher.refused(origin.who, error)
        else:
            logger.error("a command of %s was refused: %s", origin.who, error)
            self.run.hook_errors.append(error)

    @property
    def steering(self) -> Steering:
        """What applies commands; made when the first one comes."""
        if self._steering is None:
            from dagger_dsl.engine.steering import Steering

            self._steering = Steering(self.run)
        return self._steering

    def _apply(self, command: Command, origin: Origin) -> None:
        """Apply one command, all or nothing, and note it; one whose key is known is passed over.

        Raises:
            DaggerError: It cannot be applied; nothing was changed.
        """
        run, state = self.run, self._state
        if origin.key is not None and origin.key in run.applied:
            return
        steering = self.steering
        if steering.is_for_run(command):
            self._apply_to_run(command)
            note = None
        else:
            if self._board.go and not steering.only_grows(command):
                state.give_back(self._recall())  # what nobody has taken has not started
            effect = steering.apply(command, origin)
            note = effect.note
            self._events += effect.events if self.watcher is not None else ()
            self._halt(effect.running)
            self._set_plain()
        if origin.key is not None:
            run.applied.add(origin.key)
        if note is not None or origin.key is not None:
            self._records.note(origin.key, {} if note is None else {"command": note})
        if state.ended and not self._deciding:
            self._record_ends()

    def _apply_to_run(self, command: Command) -> None:
        """Apply what is about the whole run, or answers one of its questions."""
        from dagger_dsl.model.commands import Answer, CancelRun, PauseRun

        run, state = self.run, self._state
        if isinstance(command, Answer):
            self._take_answer(command)
        elif isinstance(command, CancelRun):
            if not self._stopping:
                self._end_early(RunStatus.CANCELLED, command.reason or "cancelled")
                grace = run.config.shutdown_grace
                self._at(self._board.clock() + grace, self._leave_behind)
        elif isinstance(command, PauseRun):
            if not (self._stopping or state.paused):
                self._pause(command.reason or "paused")
        elif state.paused and not state.undecided:
            state.paused = False
            run.reason = ""

    def _pause(self, reason: str) -> None:
        self._state.give_back(self._recall())
        self._state.paused = True
        self.run.reason = self.run.reason or reason

    def _take_requests(self) -> None:
        """Apply what was asked for from outside, and say what became of it once it is recorded."""
        replies = []
        for _ in range(len(self._requests)):
            command, origin, reply = self._requests.popleft()
            error: Exception | None = None
            try:
                self._apply(command, origin)
            except StoreError:
                raise
            except LimitExceeded as limit:
                error = limit
                self._abort(limit)
            except Exception as refused:
                error = refused
            if error is not None and origin.key is not None:
                # Whoever asks from another process finds the reason in the journal.
                self.run.applied.add(origin.key)
                told = {"type": type(error).__name__, "message": str(error)}
                self._records.note(origin.key, {"refused": told})
            replies.append((reply, error))
        if self._records.waiting and self._journal is not None:
            self._records.commit_unshown()
        for reply, error in replies:
            reply(error)

    def _begin_looking(self, now: float) -> None:
        """Look for commands of other processes: of a run that goes on, at once."""
        interval = self.run.config.cache_snapshot_interval
        if interval and "cache_snapshot_interval" in self.run.config.given:
            self._at(now + interval, self._snapshot)
        if self.run.resumed:
            self._look(now)
        elif self._journal is not None and self._journal.shared:
            self._at(now + _LOOK, self._look)

    def _snapshot(self, now: float) -> None:
        """Write what a level that does not write at once has kept back."""
        assert self._journal is not None
        if self._records.waiting:
            self._records.commit_unshown()
        self._journal.flush()
        self._at(now + self.run.config.cache_snapshot_interval, self._snapshot)

    def _look(self, now: float) -> None:
        """Take the commands that other processes have sent, and look again in a while."""
        from dagger_dsl.engine.steering import requests_of

        assert self._journal is not None
        for number, request in requests_of(self._journal.requests(self._seen_request)):
            self._seen_request = number
            if request is not None:
                self._requests.append((*request, lambda _error: None))
        if self._requests:
            self._take_requests()
        if self._journal.shared:
            self._at(now + _LOOK, self._look)

    def _abort(self, error: Exception) -> None:
        """Stop the run for an error that is no node's."""
        if self._stopping:
            return
        if self.run.exception is None:
            self.run.exception = error
        self._end_early(RunStatus.FAILED, str(error))
        self._at(self._board.clock() + self.run.config.shutdown_grace, self._leave_behind)

    # --- people ----------------------------------------------------------------------------------

    def _ask(self, slot: int, request: HumanRequest) -> None:
        """Let an invocation wait for a person; its body has ended."""
        from dagger_dsl.engine.people import ask, question_note

        run = self.run
        question = ask(run, request)
        if self._journal is not None:
            try:
                run.notes.append(question_note(run, slot, question))
            except EncodingError as error:
                self._failed(slot, EncodingError(f"node {self._plan.ids[slot]!r}: {error}"))
                return
        self._records.push(slot, run.row(slot, "waiting"))
        run.asked[slot] = question
        self._state.ask(slot)
        self._set_alarm(slot, question)
        if self.watcher is not None:
            self._events.append(
                HumanInputRequested(run.ref(slot), question.prompt, question.schema)
            )

    def _set_alarm(self, slot: int, question: Any) -> None:
        """Let time answer a question that can be answered so."""
        if not question.answers_itself:
            return
        run = self.run

        def expire(_now: float) -> None:
            self._expiring.discard(slot)
            if self._state.answered(slot):
                run.meta.setdefault(slot, {})["answered"] = {"by": "autopilot"}
                self._answer(slot, question.default, None)

        self._expiring.add(slot)
        self._at(question.expires - run.wall, expire)

    def _take_answer(self, answer: Any) -> None:
        from dagger_dsl.engine.people import asked_slot, check_answer

        run = self.run
        slot = asked_slot(run, answer)
        check_answer(run.asked[slot], answer)
        self._state.answered(slot)
        if answer.by is not None:
            run.meta.setdefault(slot, {})["answered"] = {"by": answer.by}
        self._answer(slot, answer.value, None)

    # --- outcomes --------------------------------------------------------------------------------

    def _completed(self, slots: list[int]) -> None:
        """Record calls that returned a plain value."""
        plan, run, state = self._plan, self.run, self._state
        rare = bool(
            run.handling or plan.parts or plan.labelled
        )  # the dict itself empties meanwhile
        easy: list[int] = []
        for slot in slots:
            if slot in self._left_behind:
                self._left_behind.discard(slot)
                self._flying += 1  # it was written off before
            elif rare and (slot in run.handling or slot in plan.parts or slot in plan.labelled):
                state.complete(easy)
                easy = []
                self._answer(slot, self._board.values[slot], None)
            elif self._record(slot, self._board.values[slot]):
                easy.append(slot)
        state.complete(easy)
        if self._maps is not None:
            self._maps.ended(easy)

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
        if self._maps is not None:
            self._maps.ended((slot,))

    def _record(self, slot: int, value: Any) -> bool:
        """Put a completion into the next commit; False when its value has no stored form."""
        error = self._records.completed(slot, value)
        if error is not None:
            self._failed(slot, error)
            return False
        if self.watcher is not None:
            self._events += completions(self.run, (slot,))
        if self._reviews:
            self._review()
        return True

    def _review(self) -> None:
        """Count a completion, and stop for a review where one is due."""
        every = self.run.config.review_frequency
        self._completions += 1
        if every is not None and self._completions // every > self._reviewed:
            self._reviewed = self._completions // every
            if not (self._stopping or self._state.stopped):
                self._pause(f"review after {self._completions} completed nodes")

    def _answered(self, slot: int, answer: Any, now: float) -> None:
        """Take an outcome that is not a plain value."""
        if slot in self._left_behind:
            self._left_behind.discard(slot)
            self._flying += 1
        elif isinstance(answer, BaseException):
            self._raised(slot, answer, now)
        elif isinstance(answer, (CoroutineType, GeneratorType, AsyncGeneratorType)):
            if not isinstance(answer, CoroutineType) and self._feeds(slot, answer):
                return
            if not isinstance(answer, AsyncGeneratorType):
                answer.close()
            self._raised(slot, OutputError(self._unfinished(slot, answer)), now)
        elif isinstance(answer, Yielded):
            self._maps_now().take(slot, answer, now)
        elif isinstance(answer, HumanRequest):
            self._ask(slot, answer)
        elif isinstance(answer, Writing):
            self._insert(slot, answer, now)
        elif isinstance(answer, Branch):
            self._answer(slot, answer.value, answer.label)
        elif answer.commands and not self._decided(slot, answer):
            return
        elif not answer.succeeded:
            self._note(slot, answer)
            self._failed(slot, NodeFailure(answer.message or "the node answered failure"))
        else:
            self._note(slot, answer)
            inner = answer.outputs
            if isinstance(inner, Branch):
                self._answer(slot, inner.value, inner.label)
            elif isinstance(inner, HumanRequest):
                self._ask(slot, inner)
            else:
                self._answer(slot, inner, None, split=answer.split)

    def _decided(self, slot: int, answer: NodeOutput) -> bool:
        """Apply the commands of a node's answer; False when one is refused and fails the node."""
        from dagger_dsl.engine.hooks import commands_of
        from dagger_dsl.engine.steering import Origin

        ref = self.run.ref(slot)
        who = f"node {ref.node_id!r}"
        depth = self.run.depths.get(ref.node_id, 0)
        # Another attempt is another answer, whose commands count anew.
        base = f"answer {self.run.attempts.get(slot, 1)} {ref.invocation_key} {ref.node_id}"
        self._deciding = True
        try:
            for k, command in enumerate(commands_of(answer.commands, who)):
                self._apply(command, Origin(who, f"{k} {base}", depth, None, base))
        except LimitExceeded as error:
            self._failed(slot, error)
            self._abort(error)
            return False
        except StoreError:
            raise
        except DaggerError as error:
            self._failed(slot, error)
            return False
        finally:
            self._deciding = False
        return True

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
            advice = (
                "a generator, which can be read only once; return list(...) of it, or let every "
                "dependent map over it"
            )
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
        elif value is None and label is None and slot not in self.run.standing_in:
            self._board.values[slot] = UNSET  # the handler changes nothing
            self._give_up(slot, handling.pop(slot))
        else:
            self.run.meta.setdefault(slot, {})["recovered"] = True
            self._complete(slot, value, label, split)
            handling.pop(slot, None)
            self.run.standing_in.discard(slot)

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
            if not run.is_awaited(slot):
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
        if isinstance(error, LimitExceeded):  # its budget is the run's
            run.errors[slot] = error
            self._give_up(slot, error)
            self._abort(error)
            return
        halted = slot in self._victims or self._stop_asked
        if halted and (isinstance(error, _Withdrawn) or _is_cancellation(error)):
            reason = run.reason or run.token.reason or "the run was stopped"
            self._state.cancel_running(slot, reason)
            return
        run.errors[slot] = error
        attempt = run.attempts.get(slot, 1)
        first = self._first_start.setdefault(slot, self._board.started[slot])
        policy = effective_policy(plan.node(slot), plan.actions[slot], run.config)
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
        self._records.push(
            slot, run.row(slot, "failed", error=to_json(error_info(error).to_dict()))
        )
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
        """Call what stands in for a failed node, where there is something; else it has failed."""
        run, plan = self.run, self._plan
        self._clear_seats(slot)
        self._board.values[slot] = UNSET
        original = run.handling.pop(slot, None)
        fallback, handler = plan.fallbacks.get(slot), plan.handlers.get(slot)
        if original is None:
            run.errors[slot] = original = error
        elif slot in run.standing_in:
            run.standing_in.discard(slot)
            fallback = None
            original.add_note(f"its fallback failed too: {error!r}")
        else:
            logger.error("the failure handler of %s failed: %r", run.ref(slot), error)
            original.add_note(f"its failure handler failed too: {error!r}")
            fallback = handler = None
        run.meta.get(slot, {}).pop("recovered", None)
        if self._stopping or (fallback is None and handler is None):
            self._give_up(slot, original)
            return
        try:
            if fallback is not None:
                call, is_async = bind_fallback(run, slot, fallback), fallback.is_async
            else:
                assert handler is not None
                call, is_async = bind_handler(run, slot, handler, original), handler.is_async
        except DaggerError as broken:
            original.add_note(f"what stands in for it cannot be called: {broken}")
            self._give_up(slot, original)
            return
        run.handling[slot] = original
        if fallback is not None:
            run.standing_in.add(slot)
        run.stand_in(slot, call, is_async)
        # It belongs to a call that has begun: nothing goes before it, no pause or stop holds it.
        self._flying += 1
        self._board.go.appendleft(slot)

    def _give_up(self, slot: int, error: BaseException) -> None:
        """Record a final failure and do what ``on_failure`` says."""
        run, plan, state = self.run, self._plan, self._state
        parent = plan.parents.get(slot)
        if parent is not None:
            self._give_up_invocation(slot, parent, error)
            return
        node_id = str(plan.ids[slot])
        action = plan.actions[slot]
        policy = plan.node(slot).on_failure or action.on_failure or run.config.on_failure
        if policy is not OnFailure.CONTINUE or slot in plan.mapped:
            state.give_back(self._recall())  # first of all: workers take calls meanwhile
        made = run.attempts_made(slot)
        self._note_failure(slot, error, made)
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
        if self._maps is not None:
            self._maps.ended((slot,))

    def _note_failure(self, slot: int, error: BaseException, made: int) -> None:
        run = self.run
        told = to_json(error_info(error).to_dict())
        self._records.push(slot, run.row(slot, "failed", error=told))
        if self.watcher is not None:
            self._events.append(
                NodeCompleted(run.ref(slot), NodeOutcome(False, error=error))
                if isinstance(error, NodeFailure)
                else NodeFailed(run.ref(slot), error, made)
            )

    def _give_up_invocation(self, slot: int, parent: int, error: BaseException) -> None:
        """Record that an invocation of a mapped node failed; the node fails, or collects it."""
        run, plan, state = self.run, self._plan, self._state
        collected = self._maps_now().collects(parent)
        self._note_failure(slot, error, run.attempts_made(slot))
        state.fail_child(slot, collected)
        if collected:
            self._board.values[slot] = self._maps_now().failed_value(slot, error)
            self._maps_now().ended((slot,))
        elif state.status(parent) == PENDING:
            failed = MapError(str(plan.ids[slot]), plan.keys[slot], str(error_info(error)))
            failed.__cause__ = error
            run.errors[parent] = failed
            self._give_up(parent, failed)

    # --- mapped nodes, shared results, careful starts ---------------------------------------------

    def _maps_now(self) -> Maps:
        """Return what expands mapped nodes; made when the first one is due."""
        if self._maps is None:
            from dagger_dsl.engine.mapping import Maps

            self._maps = Maps(self)
        return self._maps

    def _feeds(self, slot: int, generator: Any) -> bool:
        """Return whether a generator that a node returned is read for nodes that map over it."""
        return bool(self._plan.mapped) and self._maps_now().read(slot, generator)

    def _chosen(self, ready: list[int]) -> list[int]:
        """Return what of the enabled invocations may start now."""
        if self.run.suspects:
            ready = self._set_apart(ready)
        return self._one_by_one(ready) if self._plan.careful else ready

    def _prepare(self, now: float) -> None:
        """Do what is due before enabled invocations start: keep back, expand, look up, bind."""
        state, plan = self._state, self._plan
        if self.run.crashes:
            self._refuse_crashed()
        self._expand(now)
        if plan.joins:
            self._bind(state.ready)

    def _expand(self, now: float) -> None:
        """Open and gather mapped nodes, and take results of other runs, until nothing changes."""
        state, plan = self._state, self._plan
        busy = state.sifting or bool(plan.mapped or plan.cached)
        while busy:
            if state.sifting:
                state.sift()
            busy = bool(plan.mapped) and self._maps_now().expand()
            if plan.cached:
                for slot in [each for each in state.ready if self._is_looked_up(each)]:
                    busy = self._look_up(slot, now) or busy
            if state.ended:
                self._record_ends()

    def _is_looked_up(self, slot: int) -> bool:
        """Return whether an invocation may take the result of another run, if there is one."""
        plan, run = self._plan, self.run
        if slot in run.lookups or slot in run.handling or slot in plan.mapped:
            return False
        return run.top(slot) in plan.cached

    def _look_up(self, slot: int, now: float) -> bool:
        """Take the result of another run in the place of a call; False when there is none."""
        from dagger_dsl.engine.lookups import look_up

        found = look_up(self.run, slot)
        if found is None:
            return False
        board = self._board
        self._state.ready.remove(slot)
        board.started[slot] = board.ended[slot] = now
        self._complete(slot, found.value, None, False)
        return True

    def _one_by_one(self, ready: list[int]) -> list[int]:
        """Keep back what starts at most once, until a worker is free for it.

        Its start is on record from its release on, so it must not stand in line behind others.
        """
        careful, plan = self._careful, self._plan
        careful.extend(slot for slot in ready if slot in plan.careful)
        ready = [slot for slot in ready if slot not in plan.careful]
        if not careful:
            return ready
        free = self._board.slots - self._flying - len(ready)
        chosen = [careful.popleft() for _ in range(max(0, min(free, len(careful))))]
        if chosen and self._journal is not None:
            self._records.commit(chosen)
            self._journal.flush()
        return ready + chosen

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
            if self._board.started[slot] and not self.run.is_awaited(slot)
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
        pumping = self.run.pumping

        def announce(slot: int, now: float) -> bool:
            if slot in handling or slot in pumping:  # of an attempt whose start was shown
                return True
            if slot in victims:
                self._board.odd.append((slot, _Withdrawn()))
                return False
            if state.paused:
                state.give_back((slot,))
                self._flying -= 1
                return False
            if start(slot, now):
                self._board.due = 0.0  # a hook has asked for something; the next turn is for it
            return True

        return announce

    def _record_ends(self) -> None:
        """Record invocations that ended without a call."""
        ended, self._state.ended = self._state.ended, []
        for slot, code, reason in ended:
            self._records.push(
                slot, self.run.row(slot, NAMES[code], meta=to_json({"reason": reason}))
            )
            if self.watcher is not None:
                kind = NodeSkipped if code == SKIPPED else NodeCancelled
                self._events.append(kind(self.run.ref(slot), reason))

    def _record_turn(self) -> None:
        """Commit what happened, with the starts it enables."""
        state = self._state
        ready = [] if state.paused else state.ready
        records, careful = self._records, self._plan.careful
        if careful and ready:
            ready = [slot for slot in ready if slot not in careful]
        if not (ready or self._flying or self._apart or self._events or state.waiting):
            return  # the run is over, and its end records the rest
        # Nobody waits for a commit at the other levels: they take rows by the batch.
        due = (
            self._sync
            or not ready
            or self._board.clock() >= records.oldest + self.run.config.flush_interval
        )
        if due and (records.waiting or ready):
            records.commit(ready)

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

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), act))

    def _fire(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2](now)

    def _conclude(self) -> Generator[float, float, None]:
        """Settle the run's status, record what is left to record, and tell the hooks."""
        run, state, records, watcher = self.run, self._state, self._records, self.watcher
        if run.status is RunStatus.RUNNING:
            if (state.paused and (state.left or state.undecided)) or (
                state.left and (state.asking or state.holds)
            ):
                run.status = RunStatus.PAUSED
                run.reason = run.reason or self._why_paused()
            elif state.left:
                self._stalled()
            elif run.exception is not None:
                run.status = RunStatus.FAILED
            else:
                run.status = RunStatus.COMPLETED
        steers = watcher is not None and watcher.steers
        if records.waiting:
            # What is shown is recorded.
            records.commit_unshown(last=not (self._events or steers or self._board.lingers))
        if watcher is not None:
            yield from self._listen(watcher.show(self._events))
            success = run.status is RunStatus.COMPLETED
            ended = RunFinished(run.run_id, run.dag_name, str(run.status), success)
            yield from self._listen(watcher.announce(ended))
            self._refuse_late(watcher.take())
            if steers and (self._events or records.owed) and self._journal is not None:
                records.owed = True
                records.commit(None, last=not self._board.lingers)
        self._over = True
        self._dismiss()
        run.finished = self._board.clock()

    def _refuse_late(self, asked: Sequence[tuple[Command, Origin]]) -> None:
        """Refuse what hooks ask for when there is no run any more that it could change."""
        for _, origin in asked:
            text = f"the run has ended ({self.run.status}), so a command of {origin.who} came late"
            self._refused(origin, InvalidState(text))

    def _why_paused(self) -> str:
        state, ids = self._state, self._plan.ids
        if state.asking:
            slot = min(state.asking)
            return f"node {ids[slot]!r} waits for a person: {self.run.asked[slot].prompt}"
        return next(iter(state.holds.values())).reason

    def _stalled(self) -> None:
        """Fail a run of which nothing can go on, and nothing says why."""
        run, state = self.run, self._state
        left = [
            str(self._plan.ids[slot])
            for slot in self._plan.invocations()
            if state.status(slot) == PENDING
        ]
        names = ", ".join(map(repr, left[:5]))
        run.exception = run.exception or StalledError(
            f"run {run.run_id} cannot go on, and its nodes {names} have not ended; please report it"
        )
        run.status = RunStatus.FAILED


def _is_cancellation(error: BaseException) -> bool:
    # asyncio is loaded wherever one of its exceptions can occur; it is not imported for this.
    return type(error).__name__ == "CancelledError"
