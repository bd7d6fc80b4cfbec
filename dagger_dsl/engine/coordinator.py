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

Its parts share a `Course`, where the run stands: `outcomes` says what becomes of a call, `desk`
takes commands in, `starts` prepares what is enabled. What is rare has a module of its own:
`records` makes rows, `steering` applies commands, `people` knows questions, `mapping` mapped
nodes, `streams` nodes that yield to their consumer, `lookups` results of other runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from math import inf
from typing import TYPE_CHECKING

from dagger_dsl.engine.course import Course
from dagger_dsl.engine.desk import Desk
from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.outcomes import Outcomes, Withdrawn
from dagger_dsl.engine.plan import UNSET
from dagger_dsl.engine.starts import Starts
from dagger_dsl.engine.state import PENDING
from dagger_dsl.engine.watch import completions
from dagger_dsl.errors import StalledError
from dagger_dsl.model.events import RunFinished, RunStarted
from dagger_dsl.model.states import RunStatus

if TYPE_CHECKING:
    from dagger_dsl.engine.watch import Observers

__all__ = ["Coordinator"]

# After so many events that hooks answered the clock is looked at again.
_BREATH = 100

# While `go` is not empty, outcomes are looked at this often (seconds), so that they reach the
# journal, hooks and progress bars, and values that fit no declaration stop their run; longer than a
# commit, shorter than a person notices.
_GLANCE = 0.001


class Coordinator:
    """Decides what one run does.

    Args:
        run: What is run.
        watcher: Who is shown events; None makes none.

    Attributes:
        error: What ended the run before its time, such as a `StoreError`.
        steerable: Somebody may `submit` commands, so that workers look up from their calls.
    """

    def __init__(self, run: Run, watcher: Observers | None = None) -> None:
        self.run = run
        self.error: BaseException | None = None
        self.steerable = False
        run.state.patient = watcher is not None and watcher.steers
        self._course = course = Course(run, watcher)
        self._outcomes = course.outcomes = Outcomes(course)
        self._desk = course.desk = Desk(course)
        self._starts = Starts(course)
        self._plan = run.plan
        self._state = run.state
        self._board = run.board
        self._journal = run.journal
        self._records = course.records
        self.submit = self._desk.submit
        if watcher is not None and watcher.wants_starts:
            run.board.announce = self._announcer(watcher)
        turns = self.turns()
        next(turns)
        self._send = turns.send

    @property
    def watcher(self) -> Observers | None:
        """Who is shown events."""
        return self._course.watcher

    @property
    def interrupt(self) -> KeyboardInterrupt | None:
        """The KeyboardInterrupt that a body let out; the run was stopped for it."""
        return self._course.interrupt

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
        go, withdraw = self._board.go, self._course.withdrawn.append
        try:
            while True:
                withdraw(go.popleft())
        except IndexError:
            self._course.stop_asked = (
                True  # only now: a turn in between would miss what is on its way
            )
        self._board.due = 0.0
        self._board.ring()

    def let_go(self) -> None:
        """Give back what the run's calls hold; no other one begins."""
        if self._course.admission is not None:
            self._course.admission.close()

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
        self._outcomes.completed(
            [
                slot
                for slot in self._plan.invocations()
                if self._state.status(slot) == PENDING
                and board.values[slot] is not UNSET
                and 0.0 < board.started[slot] <= board.ended[slot]
                and slot not in run.asked
                and slot not in run.handling
                and slot not in self._course.left_behind
            ]
        )
        if self._journal is not None:
            self._records.note_context()
            self._journal.commit(
                self._records.rows,
                commands=run.notes or None,
                replay=True,
                last=True,
                replacing=self._records.replacing,
            )

    def turns(self) -> Generator[float, float, None]:
        """Yield the time until which to wait; be sent the clock when outcomes may have arrived."""
        course, state, board, journal = self._course, self._state, self._board, self._journal
        outcomes, desk, watcher = self._outcomes, self._desk, self._course.watcher
        done, odd, go, take = board.done, board.odd, board.go, board.done.popleft
        timers, flush = course.timers, self.run.config.flush_interval
        records = self._records
        asks, undecided = outcomes.asks, outcomes.undecided
        run, left_behind, requests = self.run, course.left_behind, desk.requests
        kept, admission = run.kept, course.admission
        # A hook that is slow must not let events pile up: no more are made than it can be shown.
        steers = watcher is not None and watcher.steers
        most = run.options.event_capacity if steers else 0
        tells = course.tells
        at_once = watcher if watcher and watcher.at_once and journal is None else None
        now = yield -inf
        limited = run.deadline is not None
        timed = limited or journal is not None
        glance: float | None = min(_GLANCE, flush)
        if course.plain and watcher is None and not self.steerable:
            glance = None
        yield from self._begin(now)
        shown = 0
        while True:
            quiet = not done and not odd
            if journal is not None and records.commands and not quiet:
                records.commit_unshown()  # they stand before what has arrived since, for a replay
            if done:
                batch = [take()]
                if done:  # most often not: a comprehension costs more than all of this turn
                    number = len(done)
                    batch += [take() for _ in range(min(number, most) if most else number)]
                course.flying -= len(batch)
                if course.plain and not left_behind:
                    state.complete(batch)
                    if kept:
                        for slot in batch:
                            run.forget_checkpoint(slot)
                    if tells:
                        course.events += completions(run, batch)
                else:
                    outcomes.completed(batch)
                    if admission is not None:
                        admission.back(batch)
            while odd:
                slot, answer = odd.popleft()
                course.flying -= 1
                outcomes.answered(slot, answer, now)
                if admission is not None:
                    admission.back((slot,))
                answer = None  # what was yielded or raised is held by nobody here
            if asks and undecided:
                now = yield from outcomes.decide()
            if timers and timers[0][0] <= now:
                course.fire(now)
            if requests:
                desk.take_requests()
                quiet = False
            if course.stop_asked and not course.stopping:
                self._cancel(now)
            if asks and undecided:  # by time, or by what was asked for
                now = yield from outcomes.decide()
            if state.ended:
                course.record_ends()
            if not go:
                # What hooks ask for comes before anything that happens to what is enabled.
                news = watcher is not None and bool(course.events or watcher.owes)
                rare = course.rare
                if rare and not (steers and news):
                    self._starts.prepare(now)
                    if asks and undecided:
                        now = yield from outcomes.decide()
                        continue
                    news = bool(course.events)
                if news:
                    shown += 1 + len(course.events)
                    if at_once is not None:  # as `show` and `heed`, without what is not there
                        events, course.events = course.events, []
                        course.crowd = 0
                        at_once.tell(events)
                        heeded = at_once.owes and desk.heed()
                    else:
                        reply = desk.show()
                        if reply is not None:
                            yield from desk.listen(reply)
                        heeded = desk.heed()
                    if heeded or (rare and steers):
                        if shown >= _BREATH:
                            shown = 0
                            now = yield -inf  # whoever answers events with events ends in time
                        continue  # what hooks asked for may have changed what is enabled
                if journal is not None and (steers or not news):  # else it was, to be shown
                    course.record_turn()
                if news and course.stop_asked and not course.stopping:
                    continue  # a hook cancelled the run: what it was shown enables nothing
                ready = state.take()
                if rare:
                    ready = self._starts.chosen(ready)
                if ready:
                    course.flying += len(ready)
                    go.extend(ready)
                    quiet = False
                elif not course.flying and not done and self._stands():
                    break
            else:
                asked = steers and desk.is_asked  # by a hook that was shown a start
                if records.waiting and (asked or now >= records.oldest + flush):
                    records.commit_unshown()
                if watcher is not None and (course.events or asked) and not records.held:
                    reply = desk.show()
                    if reply is not None:
                        yield from desk.listen(reply)
                    if desk.heed():
                        continue
                if course.freeing is not None and not course.events:
                    course.free_values()  # much may stand in line, and need it no more
            wake_at = timers[0][0] if timers else inf
            if glance is not None:
                # Until `due` a worker may end a call and begin the next one, a long one perhaps,
                # without a step: somebody has to look then. When nothing happens any more, each
                # end is a step.
                board.due = now if quiet else now + glance
                if journal is not None:
                    # Rows wait no longer than `flush`: from then on workers launch nothing before.
                    latest = min(records.oldest, now) + flush
                    board.latest = latest
                    if latest < board.due:
                        board.due = latest
                    if latest < wake_at and go and glance and (records.held or not quiet):
                        wake_at = latest
                elif glance and not quiet and now + flush < wake_at:
                    wake_at = now + flush
                if course.stop_asked and not course.stopping:
                    board.due = 0.0
                if most and done:
                    wake_at = board.due = 0.0
            if state.ready and go and now + flush < wake_at:
                # The last released call may be taken by a worker when all others have gone to
                # sleep, and take long: somebody has to look, whoever it is.
                wake_at = now + max(flush, _GLANCE)
            if timed and desk.stands_by:  # people take their own time
                before = now
                if journal is not None:
                    journal.rest(True)
                now = yield wake_at
                if journal is not None:
                    journal.rest(False)
                if limited:
                    course.postpone(now - before)
            else:
                now = yield wake_at
        yield from self._conclude()

    def _begin(self, now: float) -> Generator[float, float, None]:
        """Set the timers, tell the hooks, and enable what waits for nothing."""
        run, state, watcher = self.run, self._state, self._course.watcher
        if run.deadline is not None:
            self._course.at(run.deadline, self._time_out)
        for slot, question in run.asked.items():
            self._desk.set_alarm(slot, question)
            if question.job_id is not None:
                self._desk.watch_job(slot)
        state.begin()
        if self._journal is not None:
            self._desk.begin_looking(now)
        if watcher is None:
            return
        if watcher.steers:
            self._course.events += run.unshown
            reply = watcher.announce(RunStarted(run.run_id, run.dag_name, run.resumed))
            if reply is not None:
                yield from self._desk.listen(reply)
            self._desk.heed()

    def _stands(self) -> bool:
        """Return whether nothing can happen any more without somebody from outside."""
        state = self._state
        if state.waiting and not state.paused:
            return False
        if self._course.admission is not None and self._course.admission.waits:
            return False
        return not (self._desk.expiring & state.asking or self._desk.awaits_job) or state.paused

    # --- stopping --------------------------------------------------------------------------------

    def _cancel(self, now: float) -> None:
        token = self.run.token
        reason = token.reason or ("cancelled" if token.cancelled else "interrupted")
        self._course.end_early(RunStatus.CANCELLED, reason)
        self._course.at(now + self.run.config.shutdown_grace, self._course.leave_behind)

    def _time_out(self, now: float) -> None:
        deadline = self.run.deadline
        if deadline is not None and now < deadline:  # people have taken their time meanwhile
            self._course.at(deadline, self._time_out)
        else:
            self._course.time_out(now)

    # --- commits and events ----------------------------------------------------------------------

    def _announcer(self, watcher: Observers) -> Callable[[int, float], bool]:
        """Return what shows that a call begins; False when it must not, as it was ended meanwhile.

        Whoever makes the call has taken it already and may have waited for a turn to end.
        """
        handling, victims, state, start = (
            self.run.handling,
            self._course.victims,
            self._state,
            watcher.start,
        )
        pumping = self.run.pumping

        def announce(slot: int, now: float) -> bool:
            if slot in handling or slot in pumping:  # of an attempt whose start was shown
                return True
            if slot in victims:
                self._board.odd.append((slot, Withdrawn()))
                return False
            if state.paused:
                state.give_back((slot,))
                self._course.flying -= 1
                if self._course.admission is not None:
                    self._course.admission.back((slot,))
                return False
            if start(slot, now):
                self._board.due = 0.0  # a hook has asked for something; the next turn is for it
            return True

        return announce

    def _conclude(self) -> Generator[float, float, None]:
        """Settle the run's status, record what is left to record, and tell the hooks."""
        run, state, records, watcher = self.run, self._state, self._records, self._course.watcher
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
                run.reason = ""
        if self._course.maps is not None:
            self._course.maps.close()
        if self._course.streams is not None:
            self._course.streams.close()
        steers = watcher is not None and watcher.steers
        records.note_context()
        if records.waiting:
            # What is shown is recorded.
            records.commit_unshown(last=not (self._course.events or steers or self._board.lingers))
        if watcher is not None:
            yield from self._desk.listen(watcher.show(self._course.events))
            success = run.status is RunStatus.COMPLETED
            ended = RunFinished(run.run_id, run.dag_name, str(run.status), success)
            yield from self._desk.listen(watcher.announce(ended))
            self._desk.refuse_late(watcher.take())
            if steers and (self._course.events or records.owed) and self._journal is not None:
                records.owed = True
                records.commit(None, last=not self._board.lingers)
            watcher.finish()
        if self._course.freeing is not None or run.doomed:
            self._course.free_values()
        self._desk.over = True
        if self._desk.jobs is not None:
            self._desk.jobs.close()
        self._desk.dismiss()
        run.finished = self._board.clock()

    def _why_paused(self) -> str:
        state, ids = self._state, self._plan.ids
        if state.asking:
            slot = min(state.asking)
            question = self.run.asked.get(slot)
            if question is not None:  # what stands in `reasons` may be about its branch
                return f"node {ids[slot]!r} {question.reason}"
            why = state.reasons.get(slot, "waits for the run inside of it, which is paused")
            return f"node {ids[slot]!r} {why}"
        return next(iter(state.holds.values())).reason

    def _stalled(self) -> None:
        """Fail a run of which nothing can go on, and maybe nothing says why."""
        run, state = self.run, self._state
        obstacle = state.obstacle()
        if obstacle is not None:
            run.exception = run.exception or obstacle
            run.reason = run.reason or str(obstacle)
            run.status = RunStatus.FAILED
            return
        left = [
            str(self._plan.ids[slot])
            for slot in self._plan.invocations()
            if state.status(slot) == PENDING
        ]
        names = ", ".join(map(repr, left[:5]))
        if run.exception is None or run.continued:
            run.blame(
                StalledError(
                    f"run {run.run_id} cannot go on, and its nodes {names} have not ended; please "
                    "report it"
                )
            )
        run.status = RunStatus.FAILED
