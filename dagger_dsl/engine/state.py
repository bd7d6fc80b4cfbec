"""`RunState`: what a run does next, as a pure state machine.

It is told what happened (a node completed, failed, is to be tried again; the run is cancelled) and
answers which invocations are enabled and which ended without a call. It does no I/O, has no clock
and knows no threads; every runner, the resume path and the simulations in the tests drive this one
class.

The unit is an invocation, named by its slot in the compiled `Plan`. The states of all slots live
in one bytearray, the counts of unsatisfied edges in one list of integers: per completed node the
work is a decrement for each edge and an append for each invocation that it enables. Everything
rarer (labels, trigger rules, failures, cancels) walks an explicit work list, never the stack.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from dagger_dsl.engine.joins import (
    CANCELLED,
    COMPLETED,
    FAILED,
    NAMES,
    PENDING,
    SKIPPED,
    WAITING,
)
from dagger_dsl.engine.plan import Plan
from dagger_dsl.model.policies import OnFailure, Trigger

__all__ = [
    "CANCELLED",
    "COMPLETED",
    "FAILED",
    "NAMES",
    "PENDING",
    "SKIPPED",
    "WAITING",
    "Ended",
    "RunState",
]

_NEVER: Final = 1 << 60


class Ended(NamedTuple):
    """An invocation that ended without a call."""

    slot: int
    state: int
    reason: str


class RunState:
    """Which invocations are enabled, and which have ended.

    Attributes:
        ready: Enabled invocations that have not been taken, in the order they start: what one event
            enables is in declaration order, behind what earlier events enabled.
        ended: Invocations that ended without a call since the list was last taken.
        left: How many invocations have not ended.
        waiting: How many wait for a timer.
        stopped: Nothing becomes enabled any more but what `fail` spared.
        paused: Nothing is handed out by `take` for now.
    """

    __slots__ = (
        "_joins",
        "_plan",
        "_spared",
        "_status",
        "_unmet",
        "ended",
        "left",
        "paused",
        "ready",
        "reasons",
        "stopped",
        "waiting",
    )

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._unmet = list(plan.unmet)
        self._status = bytearray(len(plan.ids))
        self._joins = {slot: join.fresh() for slot, join in plan.joins.items()}
        self._spared: set[int] = set()
        self.ready: list[int] = []
        self.ended: list[Ended] = []
        self.reasons: dict[int, str] = {}
        self.left = plan.count
        self.waiting = 0
        self.stopped = False
        self.paused = False
        self._end_the_hopeless()

    def _end_the_hopeless(self) -> None:
        """End what cannot run whatever happens: the disabled, and `failed` joins without edges."""
        status = self._status
        for slot in self._plan.disabled:
            if status[slot] == PENDING:
                self._end(slot, SKIPPED, "disabled")
        for slot, join in self._joins.items():
            if not join.open and status[slot] == PENDING and not join.closed:
                if join.rule is Trigger.FAILED:
                    self._end(slot, SKIPPED, join.reason())
                join.closed = True
        self._order(0)

    def begin(self) -> None:
        """Enable the invocations that wait for nothing, ahead of what was enabled so far."""
        enabled = [*self._plan.roots, *self.ready]
        self.ready = [slot for slot in enabled if self._status[slot] == PENDING]

    def status(self, slot: int) -> int:
        """Return the state code of one invocation."""
        return self._status[slot]

    def statuses(self) -> bytes:
        """Return the state codes of all slots."""
        return bytes(self._status)

    def complete(self, slots: Sequence[int]) -> None:
        """Record plain completions, in the order of arrival."""
        unmet, status, ready = self._unmet, self._status, self.ready
        successors, special = self._plan.successors, self._plan.special
        self.left -= len(slots)
        for slot in slots:
            status[slot] = COMPLETED
            if special and slot in special:
                self._pass_on(slot, None)
                continue
            for target in successors[slot]:
                rest = unmet[target] - 1
                unmet[target] = rest
                if not rest:
                    ready.append(target)

    def complete_with(self, slot: int, labels: Collection[str] | None) -> None:
        """Record a completion that chose *labels* among the labelled edges."""
        self._status[slot] = COMPLETED
        self.left -= 1
        self._pass_on(slot, labels)

    def restore(
        self,
        slots: Collection[int],
        labels: Mapping[int, Collection[str] | None],
        winners: Mapping[int, int] | None = None,
    ) -> None:
        """Take over completions that an earlier process recorded; called before `begin`.

        Args:
            slots: Completed invocations, in the order of their record.
            labels: What those with labelled edges had chosen.
            winners: The source that each `any` join had taken.
        """
        for slot, source in (winners or {}).items():
            self._joins[slot].only = source
        for slot in slots:
            self._status[slot] = COMPLETED
            self._unmet[slot] = _NEVER  # whatever its sources do again, it stays as it is
        self.left -= len(slots)
        for slot in slots:
            self._pass_on(slot, labels.get(slot))

    def show(self, states: Mapping[int, str]) -> None:
        """Take over the recorded states of a run that is only looked at."""
        for slot, name in states.items():
            self._status[slot] = NAMES.index(name)
        self.left -= len(states)

    def wait(self, slot: int) -> None:
        """Note that an invocation waits for a timer or a person before it can start again."""
        self._status[slot] = WAITING
        self.waiting += 1

    def wake(self, slot: int) -> None:
        """Enable an invocation that waited; one that was cancelled meanwhile stays so."""
        if self._status[slot] == WAITING:
            self._status[slot] = PENDING
            self.waiting -= 1
            self.ready.append(slot)

    def fail(self, slot: int, policy: OnFailure) -> None:
        """Record a final failure and do to the run what *policy* says.

        Args:
            slot: The invocation that failed.
            policy: The first STOP cancels everything that has not started, but for the `failed` and
                `done` dependents of the failed one and what depends on those. PAUSE
                decides nothing about dependents: a resume tries the failed one again.
        """
        self._status[slot] = FAILED
        self.left -= 1
        if policy is OnFailure.PAUSE:
            self.paused = True
            return
        before = len(self.ready)
        self._settle_dead(slot, FAILED)
        self._order(before)
        if policy is OnFailure.STOP and not self.stopped:
            self._spare(slot)
            self.stopped = True
            self._cancel_rest("a node failed and the run stops")

    def cancel(self, reason: str) -> None:
        """Cancel everything that has not been taken; taken invocations end by their runner."""
        self.stopped = True
        self._spared = set()
        self._cancel_rest(reason)

    @property
    def spared(self) -> frozenset[int]:
        """What a stop leaves alive."""
        return frozenset(self._spared)

    def taken(self) -> set[int]:
        """Return the invocations that were handed out by `take` and have not ended."""
        waiting = set(self.ready)
        return {
            slot
            for slot, rest in enumerate(self._unmet)
            if self._status[slot] == PENDING
            and (not rest or (slot in self._joins and self._joins[slot].closed))
            and slot not in waiting
        }

    def bound(self, slot: int) -> frozenset[int]:
        """Return the sources whose values an enabled join takes; of an `any` join, the first."""
        join = self._joins[slot]
        return frozenset(join.chosen[:1] if join.rule is Trigger.ANY else join.chosen)

    def cancel_running(self, slot: int, reason: str) -> None:
        """Record that a launched invocation was cancelled."""
        before = len(self.ready)
        self._end(slot, CANCELLED, reason)
        self._order(before)

    def take(self) -> list[int]:
        """Return what may be launched now, and forget it; nothing while paused."""
        if self.paused or not self.ready:
            return []
        taken, self.ready = self.ready, []
        return taken

    def give_back(self, slots: Iterable[int]) -> None:
        """Take back invocations that were handed out but not started; they come first again."""
        self.ready[:0] = slots

    # What follows walks edges; `_work` lists keep the stack flat on chains of any length.

    def _order(self, before: int) -> None:
        """Put what one event enabled into declaration order."""
        if len(self.ready) - before > 1:
            self.ready[before:] = sorted(self.ready[before:])

    def _pass_on(self, slot: int, labels: Collection[str] | None) -> None:
        """Settle every edge of an invocation that completed and chose *labels*."""
        unmet, ready = self._unmet, self.ready
        before = len(ready)
        for target in self._plan.successors[slot]:
            rest = unmet[target] - 1
            unmet[target] = rest
            if not rest:
                ready.append(target)
        for target, label in self._plan.special.get(slot, ()):
            satisfied = label is None or (labels is not None and label in labels)
            self._settle_edge(target, satisfied, slot)
        self._order(before)

    def _settle_edge(self, target: int, satisfied: bool, source: int) -> None:
        """Settle one edge of a completed invocation that is labelled or leads into a join."""
        if self._status[target] != PENDING:
            return
        join = self._joins.get(target)
        if join is not None:
            verdict = join.settle(satisfied, COMPLETED, source)
            if verdict:
                join.closed = True
                self.ready.append(target)
            elif verdict is False:
                self._end(target, SKIPPED, join.reason())
        elif not satisfied:
            self._end(target, SKIPPED, f"branch not taken at {self._plan.ids[source]!r}")
        else:
            rest = self._unmet[target] - 1
            self._unmet[target] = rest
            if not rest:
                self.ready.append(target)

    def _end(self, slot: int, state: int, reason: str) -> None:
        """End *slot* without a call, and everything that can no longer run because of it."""
        work = [(slot, state, reason)]
        while work:
            here, code, why = work.pop()
            if self._status[here] not in (PENDING, WAITING):
                continue
            self.waiting -= self._status[here] == WAITING
            self._status[here] = code
            self._unmet[here] = _NEVER
            self.left -= 1
            self.reasons[here] = why
            self.ended.append(Ended(here, code, why))
            work.extend(reversed(self._dead_edges(here, code)))

    def _settle_dead(self, slot: int, state: int) -> None:
        for target, code, reason in self._dead_edges(slot, state):
            self._end(target, code, reason)

    def _dead_edges(self, slot: int, state: int) -> list[tuple[int, int, str]]:
        """Settle the edges of an invocation that did not complete; return whom that ends."""
        name = self._plan.ids[slot]
        why = (
            f"upstream_failed: {name!r} failed"
            if state == FAILED
            else f"upstream_{NAMES[state]}: {name!r} was {NAMES[state]}"
        )
        ends = [
            (target, SKIPPED, why)
            for target in self._plan.successors[slot]
            if self._status[target] == PENDING
        ]
        for target, _label in self._plan.special.get(slot, ()):
            if self._status[target] != PENDING:
                continue
            join = self._joins.get(target)
            if join is None:
                ends.append((target, SKIPPED, why))
                continue
            verdict = join.settle(False, state, slot)
            if verdict:
                join.closed = True
                self.ready.append(target)
            elif verdict is False:
                ends.append((target, SKIPPED, join.reason()))
        return ends

    def _spare(self, slot: int) -> None:
        """Note what a stop leaves alive: `failed` and `done` dependents and their descendants."""
        plan = self._plan
        spared = self._spared
        work = [
            target
            for target, _ in plan.special.get(slot, ())
            if target in plan.joins and plan.joins[target].rule in (Trigger.FAILED, Trigger.DONE)
        ]
        while work:
            here = work.pop()
            if here not in spared:
                spared.add(here)
                work.extend(plan.successors[here])
                work.extend(target for target, _ in plan.special.get(here, ()))
        self._spared = spared

    def _cancel_rest(self, reason: str) -> None:
        spared = self._spared
        running = self.taken()
        victims = [
            slot
            for slot, name in enumerate(self._plan.ids)
            if name is not None
            and self._status[slot] in (PENDING, WAITING)
            and slot not in spared
            and slot not in running
        ]
        for slot in victims:
            self.waiting -= self._status[slot] == WAITING
            self._status[slot] = CANCELLED
            self._unmet[slot] = _NEVER
            self.reasons[slot] = reason
            self.ended.append(Ended(slot, CANCELLED, reason))
        self.left -= len(victims)
        self.ready = [slot for slot in self.ready if self._status[slot] == PENDING]
        if spared:
            before = len(self.ready)
            for slot in victims:
                self._settle_dead(slot, CANCELLED)
            self._order(before)
