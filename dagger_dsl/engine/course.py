"""`Course`: where one run stands between two turns, and what brings it off its way.

The parts of a coordinator share it: what is on its way, what was asked to end, which timers are
set. All of it belongs to whoever steps the coordinator; nothing here is called from another thread.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Collection
from itertools import count
from typing import TYPE_CHECKING

from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.notes import to_json
from dagger_dsl.engine.records import Records
from dagger_dsl.engine.state import NAMES, SKIPPED
from dagger_dsl.model.events import Event, NodeCancelled, NodeSkipped
from dagger_dsl.model.states import RunStatus

if TYPE_CHECKING:
    from dagger_dsl.engine.admission import Admission, Holdings
    from dagger_dsl.engine.desk import Desk
    from dagger_dsl.engine.freeing import Freeing
    from dagger_dsl.engine.mapping import Maps
    from dagger_dsl.engine.outcomes import Outcomes
    from dagger_dsl.engine.streams import Streams
    from dagger_dsl.engine.watch import Observers

__all__ = ["Course"]

logger = logging.getLogger("dagger_dsl.engine")


class Course:
    """Where one run stands.

    Args:
        run: The run.
        watcher: Who is shown events; None makes none.

    Attributes:
        records: What the next commit holds.
        outcomes, desk, maps, streams, freeing, admission: Parts of the coordinator that others
            need; `maps` is None while nothing was mapped, `streams` while no node took another
            one's items, `freeing` while no value is to be freed, `admission` where no tracker has
            to have room for calls.
        events: What hooks are to be shown.
        crowd: How many of them hooks have emitted themselves.
        timers: ``(when, order, what)``, a heap.
        flying: How many released calls have not come back.
        apart: Enabled invocations that wait to be called alone.
        withdrawn: What a stop took away from the workers.
        victims: Invocations that were asked to end.
        dropped: By those of them that run in a cancelled branch, why it was cancelled.
        left_behind: Invocations whose outcome is ignored.
        stop_asked: Somebody wants the run to end.
        stopping: It is ending.
        interrupt: The KeyboardInterrupt that a body let out; the run is stopped for it.
        tells: Plain completions are events that somebody wants.
        plain: Completions need nothing but their edges.
        rare: Something has to be looked at before invocations start.
    """

    outcomes: Outcomes
    desk: Desk

    def __init__(self, run: Run, watcher: Observers | None) -> None:
        self.run = run
        self.watcher = watcher
        self.tells = watcher is not None and watcher.wants_completions
        self.plan = run.plan
        self.state = run.state
        self.board = run.board
        self.journal = run.journal
        self.records = Records(run)
        self.maps: Maps | None = None
        self.streams: Streams | None = None
        self.freeing: Freeing | None = None
        self.admission = None if run.holdings is None else self._admission(run.holdings)
        self.events: list[Event] = []
        self.crowd = 0
        self.timers: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self.flying = 0
        self.apart: deque[int] = deque()
        self.withdrawn: deque[int] = deque()
        self.victims: set[int] = set()
        self.dropped: dict[int, str] = {}
        self.left_behind: set[int] = set()
        self.stop_asked = False
        self.stopping = False
        self.interrupt: KeyboardInterrupt | None = None
        self._sync = run.options.durability == "sync"
        self.plain = self.rare = False
        self.settle_paths()
        run.stir = self._stir

    def settle_paths(self) -> None:
        """Settle whether completions need only their edges, and starts only their slot."""
        plan, run = self.plan, self.run
        if plan.fleeting and self.freeing is None:
            self._begin_freeing()
        frees = self.freeing is not None
        self.rare = bool(
            plan.joins
            or frees
            or plan.mapped
            or plan.cached
            or plan.careful
            or run.crashes
            or run.suspects
            or run.streams
            or self.state.sifting
            or self.admission is not None
        )
        self.plain = self.journal is None and not (
            plan.parts
            or (plan.labelled and (plan.machine is None or self.watcher is not None))
            or plan.handlers
            or plan.fallbacks
            or plan.mapped
            or plan.cached
            or plan.iterators
            or run.streams
            or frees
            or self.dropped
            or self.admission is not None
            or run.config.review_frequency
        )
        if run.doomed:  # since we looked, perhaps: other threads delete results
            self.rare = True

    def _stir(self) -> None:
        self.rare = True  # from any thread; the next turn sees to it

    def _admission(self, holdings: Holdings) -> Admission:
        from dagger_dsl.engine.admission import Admission

        return Admission(self, holdings)

    def _begin_freeing(self) -> Freeing:
        from dagger_dsl.engine.freeing import Freeing

        self.freeing = Freeing(self)
        return self.freeing

    def free_values(self) -> None:
        """Free the values that nothing needs any more."""
        if self.freeing is None:
            if not self.run.doomed:
                return
            self._begin_freeing()
            self.settle_paths()
        assert self.freeing is not None
        self.freeing.look()

    def pause(self, reason: str) -> None:
        self.state.give_back(self.recall())
        self.state.paused = True
        self.run.reason = self.run.reason or reason

    def abort(self, error: Exception) -> None:
        """Stop the run for an error that is no node's."""
        if self.stopping:
            return
        if self.run.exception is None or self.run.continued:
            self.run.blame(error)
        self.end_early(RunStatus.FAILED, str(error))
        self.at(self.board.clock() + self.run.config.shutdown_grace, self.leave_behind)

    def end_early(self, status: RunStatus, reason: str) -> None:
        self.stopping = True
        self.run.status, self.run.reason = status, reason
        self.state.give_back(self.recall())
        go, handling = self.board.go, self.run.handling
        while go:  # failure handlers that are due
            try:
                slot = go.popleft()
            except IndexError:
                break
            self.flying -= 1
            self.outcomes.give_up(slot, handling.pop(slot))
            if self.admission is not None:
                self.admission.back((slot,))
        self.state.cancel(reason)
        self.halt(self.state.taken())

    def recall(self) -> list[int]:
        """Take back released calls that no worker has taken, but for failure handlers."""
        go, taken, handling = self.board.go, [], self.run.handling
        while go:
            try:
                taken.append(go.popleft())
            except IndexError:  # a worker was faster
                break
        # What `stop` withdrew stood behind the failure handlers that have come since.
        while self.withdrawn:
            taken.append(self.withdrawn.popleft())
        if handling:
            go.extend(slot for slot in taken if slot in handling)
            taken = [slot for slot in taken if slot not in handling]
        self.flying -= len(taken)
        careful = [self.run.name_of(slot) for slot in taken if slot in self.plan.careful]
        if careful:  # their release is on record
            self.records.note(None, {"recalled": careful})
        taken += self.apart
        self.apart.clear()
        if self.admission is not None:
            self.admission.back(taken)
        return taken

    def ends_at(self, now: float) -> bool:
        """Return whether the run is to be stopped, and was not yet."""
        deadline = self.run.deadline
        return self.stop_asked or (deadline is not None and now >= deadline)

    def halt(self, slots: Collection[int]) -> None:
        if slots and self.maps is not None:
            self.maps.let_go(slots)
        if slots and self.streams is not None:
            self.streams.halt(slots)
        if slots:
            self.victims |= set(slots)
            self.board.halt(slots)
            if self.run.nursery is not None:
                self.run.nursery.halt(slots, self.run.reason)

    def drop(self, slots: Collection[int], reason: str) -> None:
        """Ask calls to end whose branch was cancelled; what they come to counts no more."""
        if slots:
            self.dropped |= dict.fromkeys(slots, reason)
            self.halt(slots)
            self.at(self.board.clock() + self.run.config.shutdown_grace, self.leave_behind)

    def cancelled(self, slot: int) -> None:
        """Record that a call which was asked to end has ended."""
        if slot in self.dropped:
            self.state.cancel_dropped(slot, self.dropped.pop(slot))
            return
        reason = self.run.reason or self.run.token.reason or "the run was stopped"
        self.state.cancel_running(slot, reason)

    def leave_behind(self, _now: float) -> None:
        """Write off calls that did not end in time; their outcomes will be ignored."""
        back = self.outcomes.undecided  # their calls have ended
        late = self.victims & self.state.taken()
        late.difference_update(self.board.go, self.run.feeding, back)
        if self.run.nursery is not None:  # a nested run leaves behind what does not end, and ends
            late -= {slot for slot in late if self._is_nested(slot)}
        for slot in sorted(late):
            self.cancelled(slot)
        self.left_behind |= late
        self.flying -= len(late)
        if self.admission is not None:
            self.admission.back(late)
        if self.run.outside is not None:
            self.run.outside.kill(late)
        # Async calls were cancelled and end as soon as their loop turns; threads go on.
        threads = [
            slot for slot in sorted(late) if self.board.started[slot] and not self.run.can_end(slot)
        ]
        self.run.abandoned += threads
        if threads:
            names = ", ".join(repr(self.plan.ids[slot]) for slot in threads[:5])
            logger.warning(
                "left behind in threads that cannot be stopped, results will be ignored: %s%s",
                names,
                f" and {len(threads) - 5} more" if len(threads) > 5 else "",
                extra={
                    **self.run.tags(threads[0]),
                    "node_ids": [str(self.plan.ids[slot]) for slot in threads],
                },
            )

    def _is_nested(self, slot: int) -> bool:
        return self.plan.actions[slot].style == "workflow" and slot not in self.plan.mapped

    def time_out(self, now: float) -> None:
        """End a run that has passed its time limit, unless it is ending."""
        if not self.stopping:
            self.end_early(RunStatus.TIMED_OUT, "the run passed its time limit")
            self.leave_behind(now)

    def record_ends(self) -> None:
        """Record invocations that ended without a call."""
        ended, self.state.ended = self.state.ended, []
        if self.admission is not None:
            self.admission.back([slot for slot, _, _ in ended])
        for slot, code, reason in ended:
            self.records.push(
                slot, self.run.row(slot, NAMES[code], meta=to_json({"reason": reason}))
            )
            if self.freeing is not None:
                self.freeing.ended(slot)
            if self.desk.jobs is not None:
                self.desk.jobs.leave(slot, reason)
            if self.watcher is not None:
                kind = NodeSkipped if code == SKIPPED else NodeCancelled
                self.events.append(kind(self.run.ref(slot), reason))

    def at(self, when: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self.timers, (when, next(self._order), act))

    def postpone(self, seconds: float) -> None:
        """Let the run's time limit be later."""
        assert self.run.deadline is not None
        self.run.deadline += seconds

    def fire(self, now: float) -> None:
        while self.timers and self.timers[0][0] <= now:
            heapq.heappop(self.timers)[2](now)

    def maps_now(self) -> Maps:
        """Return what expands mapped nodes; made when the first one is due."""
        if self.maps is None:
            from dagger_dsl.engine.mapping import Maps

            self.maps = Maps(self)
        return self.maps

    def streams_now(self) -> Streams:
        """Return what brings items to their consumers; made when the first node yields some."""
        if self.streams is None:
            from dagger_dsl.engine.streams import Streams

            self.streams = Streams(self)
        return self.streams

    def record_turn(self) -> None:
        """Commit what happened, with the starts it enables."""
        state = self.state
        ready = [] if state.paused else state.ready
        records, careful = self.records, self.plan.careful
        if careful and ready:
            ready = [slot for slot in ready if slot not in careful]
        goes_on = ready or self.flying or self.apart or self.events or state.waiting
        waits = self.admission is not None and self.admission.waits
        if not (goes_on or waits or self.desk.expiring or self.desk.awaits_job):
            return  # the run is over, and its end records the rest
        # Nobody waits for a commit at the other levels: they take rows by the batch.
        # A note ends a batch: what comes of it stands behind it in the record.
        due = (
            self._sync
            or not ready
            or bool(self.run.notes)
            or self.board.clock() >= records.oldest + self.run.config.flush_interval
        )
        if due and (records.waiting or ready):
            records.commit(ready)
