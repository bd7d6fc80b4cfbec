"""`RunState`: what a run does next, as a pure state machine.

It is told what happened (a node completed, failed, is to be tried again; the run is cancelled) and
answers which invocations are enabled and which ended without a call. It does no I/O, has no clock
and knows no threads; every runner, the resume path and the simulations in the tests drive this one
class.

The unit is an invocation, named by its slot in the compiled `Plan`. The states of all slots live
in one bytearray, the counts of unsatisfied edges in one list of integers: per completed node the
work is a decrement for each edge and an append for each invocation that it enables. Everything
rarer (labels, trigger rules, failures, cancels) walks an explicit work list, never the stack.

Commands change it between two outcomes: it grows, branches of it are held, let go or cancelled,
nodes are enabled and disabled. What is held becomes ready like everything else, and `sift` keeps it
back then, so that what happens meanwhile needs no second set of rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

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

if TYPE_CHECKING:
    from dagger_dsl.engine.machine import History

__all__ = [
    "CANCELLED",
    "COMPLETED",
    "FAILED",
    "NAMES",
    "PENDING",
    "SKIPPED",
    "WAITING",
    "Ended",
    "LeftOut",
    "RunState",
]

_NEVER: Final = 1 << 60


class Ended(NamedTuple):
    """An invocation that ended without a call."""

    slot: int
    state: int
    reason: str


class Held(NamedTuple):
    """A branch of which nothing is started for now."""

    reason: str
    slots: frozenset[int] | set[int]


class LeftOut(NamedTuple):
    """Why an invocation is no part of its run.

    Attributes:
        reason: For people.
        state: How it had ended in an earlier run, for those of this run who wait for it; None when
            nobody does.
    """

    reason: str
    state: int | None = None


def _without(slots: Iterable[int], gone: Collection[int]) -> list[int]:
    return [slot for slot in slots if slot not in gone]


class RunState:
    """Which invocations are enabled, and which have ended.

    Attributes:
        ready: Enabled invocations that have not been taken, in the order they start: what one event
            enables is in declaration order, behind what earlier events enabled.
        ended: Invocations that ended without a call since the list was last taken.
        left: How many invocations have not ended.
        waiting: How many wait for a timer.
        asking: Invocations that wait for a person.
        holds: The branches that are held, by their name.
        stopped: Nothing becomes enabled any more but what `fail` spared.
        paused: Nothing is handed out by `take` for now.
        outside: Invocations that are no part of the run.
        patient: Disabled invocations that become ready are skipped by `sift`, and not at once:
            whoever is shown what made them ready may enable them first.
    """

    __slots__ = (
        "_absent",
        "_again",
        "_begun",
        "_children",
        "_cut",
        "_disabled",
        "_due",
        "_final",
        "_held",
        "_joins",
        "_parked",
        "_plan",
        "_shelved",
        "_spared",
        "_status",
        "_to_come",
        "_undecided",
        "_unmet",
        "_why",
        "asking",
        "ended",
        "holds",
        "left",
        "outside",
        "patient",
        "paused",
        "ready",
        "reasons",
        "stopped",
        "waiting",
    )

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._unmet = list(plan.unmet)
        self.outside: frozenset[int] = frozenset()
        self._status = bytearray(len(plan.ids))
        self._joins = {slot: join.fresh() for slot, join in plan.joins.items()}
        self._disabled = set(plan.disabled)
        self._held: dict[int, int] = {}  # by slot, how many branches hold it
        self._parked: list[int] = []  # enabled, and kept back by `sift`
        self._shelved: set[int] = set()  # enabled, and over the limit of their node
        self._children: dict[int, list[int]] = {}
        for child, parent in plan.parents.items():
            self._children.setdefault(parent, []).append(child)
        self._spared: set[int] = set()
        self._undecided: set[int] = set()  # failed, and a resume decides
        self._cut: set[int] = set()  # cancelled with their branch: for joins they were skipped
        # What a resume takes over step by step, as it came to be: nodes and edges of commands that
        # are not yet due, completions whose edges are not yet settled, and what had completed but
        # is called again.
        self._absent = set(plan.late)
        self._to_come = set(plan.late_edges)
        self._due: set[int] = set()
        self._again: set[int] = set()
        self._begun = False
        self._final = False
        self._why = ""
        self.holds: dict[str, Held] = {}
        self.asking: set[int] = set()
        self.ready: list[int] = []
        self.ended: list[Ended] = []
        self.reasons: dict[int, str] = {}
        self.left = plan.count - len(self._absent)
        for slot in self._absent:
            self._status[slot], self._unmet[slot] = WAITING, _NEVER  # nothing settles its edges
        self.waiting = 0
        self.stopped = False
        self.paused = False
        self.patient = False

    def _end_the_hopeless(self) -> None:
        """End what cannot run whatever happens: `failed` joins without edges."""
        status = self._status
        for slot, join in self._joins.items():
            if not join.open and status[slot] == PENDING and not join.closed:
                if join.rule is Trigger.FAILED:
                    self._end(slot, SKIPPED, join.reason())
                join.closed = True
        self._order(0)

    def begin(self) -> None:
        """Enable the invocations that wait for nothing; `restore` has done it already."""
        if self._begun:
            return
        self._begun = True
        self._end_the_hopeless()
        self._skip_roots()
        enabled = [*self._plan.roots, *self.ready]
        self.ready = [slot for slot in enabled if self._status[slot] == PENDING]

    def _skip_roots(self) -> None:
        """Skip the disabled ones among the invocations that wait for nothing."""
        if self.patient or not self._disabled:
            return
        roots = [slot for slot in self._plan.roots if slot in self._disabled]
        roots = [slot for slot in roots if self._status[slot] == PENDING]
        for slot in roots:
            self._end(slot, SKIPPED, "disabled")
        if roots:
            self._order(0)  # at the same time as what else could not run from the beginning

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
        if self._disabled:  # whatever becomes ready has to be looked at
            for slot in slots:
                status[slot] = COMPLETED
                self._pass_on(slot, None)
            return
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
        commands: Iterable[tuple[int, Callable[[], object]]] = (),
        again: Collection[int] = (),
        left_out: Mapping[int, LeftOut] | None = None,
    ) -> None:
        """Take over what was recorded before, in its order; called before `begin`.

        Args:
            slots: Completed invocations, in the order of their record.
            labels: What those with labelled edges had chosen.
            winners: The source that each `any` join had taken.
            commands: What changed the state between completions: each with the number of
                completions that came before it.
            again: What had completed too, and is called again as its value was not stored. No
                command that was recorded ends it.
            left_out: What is no part of this run. It ends as skipped, and those who wait for it
                learn of nothing but how it had ended before.
        """
        for slot, source in (winners or {}).items():
            self._joins[slot].only = source
        for slot in slots:
            self._status[slot] = COMPLETED
            self._unmet[slot] = _NEVER  # whatever its sources do again, it stays as it is
        self.left -= len(slots)
        self._due, self._again = set(slots), set(again)
        left_out = left_out or {}
        self.outside = frozenset(left_out)
        for slot, (reason, _) in left_out.items():
            self._status[slot], self._unmet[slot] = SKIPPED, _NEVER
            self.reasons[slot] = reason
            self.ended.append(Ended(slot, SKIPPED, reason))
        self.left -= len(left_out)
        self.begin()
        for slot, (_, state) in left_out.items():
            if state is not None:
                before = len(self.ready)
                self._settle_dead(slot, state)
                self._order(before)
        later = iter(commands)
        due, act = next(later, (_NEVER, None))
        for number, slot in enumerate(slots):
            while act is not None and due <= number:
                act()
                due, act = next(later, (_NEVER, None))
            self._due.discard(slot)
            if slot not in self._plan.parents:  # whoever it belongs to counts it when it begins
                self._pass_on(slot, labels.get(slot))
        while act is not None:
            act()
            due, act = next(later, (_NEVER, None))
        self._again = set()
        self.ready = [slot for slot in self.ready if self._status[slot] == PENDING]
        self._parked = [slot for slot in self._parked if self._status[slot] == PENDING]

    def show(self, states: Mapping[int, str]) -> None:
        """Take over the recorded states of a run that is only looked at."""
        for slot in self._absent.difference(self.asking):
            self._status[slot] = PENDING
        self.left += len(self._absent)
        self._absent = set()
        for slot, name in states.items():
            self._status[slot] = NAMES.index(name)
        self.left -= len(states)

    def wait(self, slot: int) -> None:
        """Note that an invocation waits for a timer before it can start again."""
        self._status[slot] = WAITING
        self.waiting += 1

    def ask(self, slot: int) -> None:
        """Note that an invocation waits for a person."""
        self._status[slot] = WAITING
        self.asking.add(slot)

    def answered(self, slot: int) -> bool:
        """Note that a person has answered; False when nobody was asked any more."""
        if slot not in self.asking:
            return False
        self.asking.discard(slot)
        self.reasons.pop(slot, None)
        self._status[slot] = PENDING
        return True

    def _awake(self, slot: int) -> None:
        """Forget that an invocation waits, whatever for; it is about to end."""
        if self._status[slot] == WAITING:
            if slot in self.asking:
                self.asking.discard(slot)
            else:
                self.waiting -= 1

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
        self._unmet[slot] = _NEVER
        if policy is OnFailure.PAUSE:
            self.paused = True
            self._undecided.add(slot)
            return
        before = len(self.ready)
        self._settle_dead(slot, FAILED)
        self._order(before)
        if slot in self._children:
            self._end_children(slot, f"another invocation of {self._plan.ids[slot]!r} failed")
        if policy is OnFailure.STOP and not self.stopped:
            self._spare(slot)
            self.stopped = True
            self._why = "a node failed and the run stops"
            self._cancel_rest(self._why)

    def cancel(self, reason: str) -> None:
        """Cancel everything that has not been taken; taken invocations end by their runner."""
        self.stopped = self._final = True
        self._why = reason
        self._spared = set()
        self._cancel_rest(reason)

    @property
    def history(self) -> History | None:
        """Where a state machine has been; other graphs have none."""
        return None

    @property
    def expected(self) -> int:
        """How many invocations are to end, for those who show progress."""
        return self._plan.count

    def sinks(self) -> tuple[str, ...]:
        """Return the ids of the nodes whose values are the run's."""
        return self._plan.sinks

    def obstacle(self) -> Exception | None:
        """Return what keeps a run from going on, where the state itself knows of something."""
        return None

    @property
    def undecided(self) -> bool:
        """Whether a failure has paused the run; only a resume goes on from there."""
        return bool(self._undecided)

    @property
    def spared(self) -> frozenset[int]:
        """What a stop leaves alive."""
        return frozenset(self._spared)

    def taken(self) -> set[int]:
        """Return the invocations that were handed out by `take` and have not ended."""
        waiting = {*self.ready, *self._parked, *self._shelved}
        ids = self._plan.ids
        return {
            slot
            for slot, rest in enumerate(self._unmet)
            if self._status[slot] == PENDING
            and ids[slot] is not None
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

    def is_open(self, slot: int) -> bool:
        """Return whether an invocation has not been handed out, and may still be."""
        if self._status[slot] != PENDING or slot in self._children:
            return False
        join = self._joins.get(slot)
        enabled = join.closed if join is not None else not self._unmet[slot]
        return not enabled or any(
            slot in each for each in (self.ready, self._parked, self._shelved)
        )

    @property
    def sifting(self) -> bool:
        """Whether `sift` has something to keep back, or to skip."""
        return bool(self._held) or (self.patient and bool(self._disabled))

    def sift(self) -> None:
        """Keep back what is held among the enabled invocations, and skip what is disabled."""
        if self.patient:
            self._skip_disabled(0)
        self._park()

    def _park(self) -> None:
        held = [
            slot
            for slot in self.ready
            if slot in self._held and not (self.patient and slot in self._disabled)
        ]
        if held:
            self._parked += held
            self.ready = [slot for slot in self.ready if slot not in set(held)]

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
        """Put what one event enabled into declaration order; what is disabled is skipped."""
        if self._disabled and not self.patient:
            self._skip_disabled(before)
        if len(self.ready) - before > 1:
            self.ready[before:] = sorted(self.ready[before:])

    def _skip_disabled(self, before: int) -> None:
        while any(slot in self._disabled for slot in self.ready[before:]):
            fresh = self.ready[before:]
            self.ready[before:] = [slot for slot in fresh if slot not in self._disabled]
            for slot in fresh:
                if slot in self._disabled:
                    start = len(self.ready)
                    self._end(slot, SKIPPED, "disabled")
                    self.ready[start:] = sorted(self.ready[start:])

    def _pass_on(self, slot: int, labels: Collection[str] | None) -> None:
        """Settle every edge of an invocation that completed and chose *labels*."""
        unmet, ready = self._unmet, self.ready
        before = len(ready)
        for target in self._successors(slot):
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
        work, mapped = [(slot, state, reason)], []
        while work:
            here, code, why = work.pop()
            if self._status[here] not in (PENDING, WAITING):
                continue
            self._awake(here)
            self._status[here] = code
            self._unmet[here] = _NEVER
            self.left -= 1
            self.reasons[here] = why
            self.ended.append(Ended(here, code, why))
            work.extend(reversed(self._dead_edges(here, code)))
            if here in self._children:
                mapped.append((here, why))
        for here, why in mapped:
            self._end_children(here, why)

    def _end_children(self, slot: int, reason: str) -> None:
        """Cancel what has not begun of a mapped invocation; what runs comes to its end."""
        running, work, ended = self.taken(), [slot], []
        while work:
            for child in self._children.get(work.pop(), ()):
                if self._status[child] in (PENDING, WAITING) and child not in running:
                    ended.append(child)
                work.append(child)
        self._drop_all(ended, reason)

    def _settle_dead(self, slot: int, state: int) -> None:
        for target, code, reason in self._dead_edges(slot, state):
            self._end(target, code, reason)

    def _dead_edges(self, slot: int, state: int) -> list[tuple[int, int, str]]:
        """Settle the edges of an invocation that did not complete; return whom that ends."""
        why = self._why_dead(slot, state)
        ends = [
            (target, SKIPPED, why)
            for target in self._successors(slot)
            if self._status[target] == PENDING
        ]
        for target, _label in self._plan.special.get(slot, ()):
            if self._status[target] != PENDING:
                continue
            join = self._joins.get(target)
            if join is None:
                ends.append((target, SKIPPED, why))
                continue
            verdict = join.settle(False, self._for_joins(slot, state), slot)
            if verdict:
                join.closed = True
                self.ready.append(target)
            elif verdict is False:
                ends.append((target, SKIPPED, join.reason()))
        return ends

    def _for_joins(self, slot: int, state: int) -> int:
        """Return how an invocation ended, for those who join it with others."""
        return SKIPPED if state == CANCELLED and slot in self._cut else state

    def _successors(self, slot: int) -> Sequence[int]:
        """Return the targets of plain edges that are there by now."""
        found = self._plan.successors[slot]
        if self._to_come:
            return [target for target in found if (slot, target) not in self._to_come]
        return found

    def _sources(self, slot: int) -> Sequence[int]:
        """Return what an invocation waits for by now."""
        found = self._plan.sources(slot)
        if self._to_come:
            return [source for source in found if (source, slot) not in self._to_come]
        return found

    def _why_dead(self, slot: int, state: int) -> str:
        name = self._plan.ids[slot]
        if state == FAILED:
            return f"upstream_failed: {name!r} failed"
        return f"upstream_{NAMES[state]}: {name!r} was {NAMES[state]}"

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
            self._awake(slot)
            self._status[slot] = CANCELLED
            self._unmet[slot] = _NEVER
            self.reasons[slot] = reason
            self.ended.append(Ended(slot, CANCELLED, reason))
        self.left -= len(victims)
        self.ready = [slot for slot in self.ready if self._status[slot] == PENDING]
        self._parked = [slot for slot in self._parked if self._status[slot] == PENDING]
        if spared:
            before = len(self.ready)
            for slot in victims:
                self._settle_dead(slot, CANCELLED)
            self._order(before)

    # --- commands --------------------------------------------------------------------------------

    def grow(self, slots: Sequence[int]) -> None:
        """Take over invocations that were added to the plan, and settle what is known of them."""
        plan, before = self._plan, len(self.ready)
        self._make_room()
        self.left += len(slots)
        disabled = set(plan.disabled[-len(slots) :]).intersection(slots)
        self._disabled |= disabled
        for slot in slots:
            join = plan.joins.get(slot)
            if join is not None and slot not in self._absent:
                self._joins[slot] = join.fresh()
        self._absent.update(slots)
        for slot in self._sources_first(slots):
            self._absent.discard(slot)
            sources = self._sources(slot)
            self._inherit(slot, sources)
            if slot in self._due or slot in self.asking:
                continue  # a resume knows what has become of it
            self._status[slot] = PENDING
            self._unmet[slot] = plan.unmet[slot]
            self._settle_new(slot, sources)
        self._order(before)

    def _sources_first(self, slots: Sequence[int]) -> Sequence[int]:
        """Return what is added together, each behind what it waits for."""
        if len(slots) == 1:
            return slots
        new = set(slots)
        for slot in slots:
            if slot not in self._due and slot not in self.asking:
                self._status[slot] = WAITING  # nobody settles its edges before it is its turn
        waits = {slot: len(new.intersection(self._sources(slot))) for slot in slots}
        order = [slot for slot in slots if not waits[slot]]
        for slot in order:  # grows while it is walked
            targets = [
                *self._successors(slot),
                *(each for each, _ in self._plan.special.get(slot, ())),
            ]
            for target in new.intersection(targets):
                waits[target] -= 1
                if not waits[target]:
                    order.append(target)
        return order

    def _make_room(self) -> None:
        plan = self._plan
        self._status += bytes(len(plan.ids) - len(self._status))
        self._unmet += plan.unmet[len(self._unmet) :]

    def _inherit(self, slot: int, sources: Sequence[int]) -> None:
        """Hold what was added to a branch that is held, spare what was added to a spared one."""
        plan, label = self._plan, self._plan.node(slot).branch
        for name, branch in self.holds.items():
            named = name == label and name not in plan.index
            if named or not branch.slots.isdisjoint(sources):
                self._hold_one(branch, slot)
        if self.stopped and not self._final:
            join = self._joins.get(slot)
            rescues = join is not None and join.rule in (Trigger.FAILED, Trigger.DONE)
            failed = any(self._status[source] == FAILED for source in sources)
            if (rescues and failed) or not self._spared.isdisjoint(sources):
                self._spared.add(slot)

    def _settle_new(self, slot: int, sources: Sequence[int]) -> None:
        """Settle the edges of a new invocation whose sources have ended."""
        if self.stopped and slot not in self._spared:
            self._end(slot, CANCELLED, self._why)
            return
        join = self._joins.get(slot)
        for source in sources:
            if self._is_undecided(source):
                continue
            state = self._status[source]
            if join is not None:
                verdict = join.settle(state == COMPLETED, self._for_joins(source, state), source)
                if verdict is False:
                    self._end(slot, SKIPPED, join.reason())
                    return
                if verdict:
                    join.closed = True
                    self.ready.append(slot)
            elif state == COMPLETED:
                self._unmet[slot] -= 1
            else:
                self._end(slot, SKIPPED, self._why_dead(source, state))
                return
        if join is None:
            if not self._unmet[slot]:
                self.ready.append(slot)
        elif not sources and not join.closed:
            if join.rule is Trigger.FAILED:
                self._end(slot, SKIPPED, join.reason())
            else:
                self.ready.append(slot)
            join.closed = True

    def add_edge(self, source: int, target: int) -> None:
        """Let an open invocation wait for one more, which the plan has noted."""
        self._to_come.discard((source, target))
        self._park()
        for branch in self.holds.values():
            if source in branch.slots:
                for slot in self.descendants((target,)):
                    self._hold_one(branch, slot)
        self._park()
        state, undecided = self._status[source], self._is_undecided(source)
        if self._status[target] != PENDING or (state == COMPLETED and not undecided):
            return
        for line in (self.ready, self._parked):
            if target in line:
                line.remove(target)
        if undecided:
            self._unmet[target] += 1
            return
        before = len(self.ready)
        self._end(target, SKIPPED, self._why_dead(source, state))
        self._order(before)

    def is_to_come(self, source: int, target: int) -> bool:
        """Return whether an edge of the plan is one that `add_edge` has yet to tell of."""
        return (source, target) in self._to_come

    def _is_undecided(self, slot: int) -> bool:
        """Return whether the edges of an invocation are settled later."""
        if self._status[slot] in (PENDING, WAITING):
            return True
        return slot in self._undecided or slot in self._due

    def descendants(self, roots: Iterable[int]) -> set[int]:
        """Return invocations and everything that waits for them."""
        found = set(roots)
        work = list(found)
        while work:
            here = work.pop()
            for target in (*self._targets(here), *self._children.get(here, ())):
                if target not in found:
                    found.add(target)
                    work.append(target)
        return found

    def _targets(self, slot: int) -> list[int]:
        """Return what waits for an invocation by now."""
        found = [*self._successors(slot), *(each for each, _ in self._plan.special.get(slot, ()))]
        return [each for each in found if each not in self._absent] if self._absent else found

    def hold(self, branch: str, roots: Iterable[int], reason: str) -> None:
        """Start nothing more of a branch; holding it again changes the reason only."""
        self._park()  # what was held before stands before
        known = self.holds.get(branch)
        held = self.holds[branch] = Held(reason, set() if known is None else known.slots)
        for slot in self.descendants(set(roots) - self._absent):
            self._hold_one(held, slot)
        self._park()

    def _hold_one(self, branch: Held, slot: int) -> None:
        assert isinstance(branch.slots, set)
        if slot not in branch.slots:
            branch.slots.add(slot)
            self._held[slot] = self._held.get(slot, 0) + 1
        if self._status[slot] in (PENDING, WAITING):
            self.reasons[slot] = f"paused: {branch.reason}"

    def let_go(self, branch: str) -> bool:
        """Let a branch go on; False when it is not held."""
        self._park()  # what is to go on stands in the order in which it was enabled
        found = self.holds.pop(branch, None)
        if found is None:
            return False
        for slot in found.slots:
            self._held[slot] -= 1
            if not self._held[slot]:
                del self._held[slot]
                if self._status[slot] in (PENDING, WAITING):
                    self.reasons.pop(slot, None)
        self.ready += [slot for slot in self._parked if slot not in self._held]
        self._parked = [slot for slot in self._parked if slot in self._held]
        return True

    def cancel_branch(self, roots: Collection[int], reason: str) -> set[int]:
        """Cancel what is reachable only through a branch; return what of it is running.

        For joins that can be reached in another way the branch counts as skipped.
        """
        inside = self._only_through(set(roots) - self._absent)
        running = (self.taken() | self._again) & inside
        ended = [
            slot
            for slot in sorted(inside)
            if self._status[slot] in (PENDING, WAITING) and slot not in running
        ]
        self._drop_all(ended, reason)
        return running

    def cancel_dropped(self, slot: int, reason: str) -> None:
        """Record the end of a call that `cancel_branch` found running."""
        self._drop_all([slot], reason)

    def _drop_all(self, slots: Sequence[int], reason: str) -> None:
        """Cancel parts of a branch; those who join it with another one take that for a skip."""
        for slot in slots:
            self._awake(slot)
            self._status[slot] = CANCELLED
            self._unmet[slot] = _NEVER
            self.reasons[slot] = reason
            self.ended.append(Ended(slot, CANCELLED, reason))
        self.left -= len(slots)
        gone = set(slots)
        self.ready = [slot for slot in self.ready if slot not in gone]
        self._parked = [slot for slot in self._parked if slot not in gone]
        before = len(self.ready)
        self._cut.update(slots)
        for slot in slots:
            for target, code, why in self._dead_edges(slot, CANCELLED):
                self._end(target, code, why)
        self._order(before)

    def _only_through(self, roots: Collection[int]) -> set[int]:
        inside = set(roots)
        work = list(inside)
        while work:
            here = work.pop()
            found = list(self._children.get(here, ()))
            found += [
                target
                for target in self._targets(here)
                if all(source in inside for source in self._sources(target))
            ]
            for target in found:
                if target not in inside:
                    inside.add(target)
                    work.append(target)
        return inside

    def enable(self, slots: Iterable[int], enabled: bool) -> None:
        """Enable or disable open invocations; a disabled one is skipped when it would start."""
        if enabled:
            self._disabled.difference_update(slots)
            return
        self._disabled.update(slots)
        enabled_now = {*self.ready, *self._parked, *self._shelved}.intersection(slots)
        before = len(self.ready)
        for slot in sorted(enabled_now):
            self._end(slot, SKIPPED, "disabled")
        gone = [slot for slot in self.ready[:before] if slot in enabled_now]
        self.ready[:before] = [slot for slot in self.ready[:before] if slot not in enabled_now]
        self._parked = [slot for slot in self._parked if slot not in enabled_now]
        self._order(before - len(gone))

    # --- streams ---------------------------------------------------------------------------------

    def offer(self, target: int) -> None:
        """Satisfy one edge of an invocation whose source yields items and has not ended."""
        before = len(self.ready)
        rest = self._unmet[target] = self._unmet[target] - 1
        if not rest and self._status[target] == PENDING:
            self.ready.append(target)
        self._order(before)

    def withdraw(self, slot: int, streams: int) -> None:
        """Let an invocation that was called wait for sources again, which are called again.

        Args:
            slot: Which one.
            streams: How many sources there are.
        """
        if self._status[slot] in (PENDING, WAITING):
            self._awake(slot)
            self._status[slot] = PENDING
            self._unmet[slot] = streams

    def rerun(self, slot: int) -> None:
        """Enable an invocation again that was called, and has not ended."""
        if self.stopped and slot not in self._spared:
            self.leave(slot, CANCELLED, self._why)
        elif self._status[slot] == PENDING:
            self.ready.append(slot)

    def leave(self, slot: int, state: int, reason: str) -> None:
        """End an invocation that was called, and of whose items nobody takes any more."""
        before = len(self.ready)
        self._end(slot, state, reason)
        self._order(before)

    # --- mapped nodes ----------------------------------------------------------------------------

    def open(self, slot: int, children: Sequence[int], more: bool) -> None:
        """Let an enabled mapped invocation wait for invocations of its own.

        Args:
            slot: Which one.
            children: Its invocations; the completed ones are those of an earlier process.
            more: Others may follow, by `add_children`, until the edge that it waits for is settled.
        """
        self._unmet[slot] = int(more)
        self._children[slot] = []
        self.add_children(slot, children)

    def add_children(
        self, slot: int, children: Sequence[int], waiting: Mapping[int, int] | None = None
    ) -> None:
        """Let a mapped invocation wait for more of its own, which are enabled as they stand.

        Args:
            slot: Which one.
            children: What was added.
            waiting: By child, the invocation whose end it waits for.
        """
        self._make_room()
        self._children[slot] += children
        status, unmet = self._status, self._unmet
        fresh = children
        if any(map(status.__getitem__, children)):  # some have ended in an earlier process
            fresh = [each for each in children if status[each] == PENDING]
        # Of an earlier process: bodies that have ended.
        asked = self.asking.intersection(children) if self.asking else self.asking
        unmet[slot] += len(fresh) + len(asked)
        for child in asked:
            unmet[child] = 0
        if not waiting:
            for child in fresh:
                unmet[child] = 0
            self.ready += fresh
        else:
            for child in fresh:
                source = waiting.get(child)
                unmet[child] = int(source is not None and status[source] != COMPLETED)
            self.ready += [child for child in fresh if not unmet[child]]
        if slot in self._held:
            for branch in self.holds.values():
                if slot in branch.slots:
                    for child in children:
                        self._hold_one(branch, child)

    def waits_for(self, slot: int) -> int:
        """Return how many edges and invocations of its own an open invocation waits for."""
        return self._unmet[slot]

    def waits_only(self, slot: int) -> bool:
        """Return whether an open invocation waits for exactly one more edge."""
        return self._status[slot] == PENDING and self._unmet[slot] == 1

    def drop(self, slot: int, reason: str) -> None:
        """End an invocation that nobody asks for any more; whom it belonged to counts it not."""
        self._awake(slot)
        self._status[slot] = CANCELLED
        self._unmet[slot] = _NEVER
        self.left -= 1
        self.reasons[slot] = reason
        self.ended.append(Ended(slot, CANCELLED, reason))

    def shelve(self, slot: int) -> None:
        """Keep back an enabled invocation until `unshelve`."""
        self.ready.remove(slot)
        self._shelved.add(slot)

    def shelve_all(self, slots: Collection[int]) -> None:
        """Keep back several enabled invocations until `unshelve`."""
        gone = set(slots)
        self.ready = [] if len(gone) == len(self.ready) else _without(self.ready, gone)
        self._shelved |= gone

    def is_shelved(self, slot: int) -> bool:
        """Return whether an invocation is kept back, and has not ended meanwhile."""
        if self._status[slot] != PENDING:
            self._shelved.discard(slot)
        return slot in self._shelved

    def is_held(self, slot: int) -> bool:
        """Return whether an invocation belongs to a branch that is held."""
        return slot in self._held

    def unshelve(self, slot: int) -> bool:
        """Enable again what was kept back; False when it has ended meanwhile."""
        self._shelved.discard(slot)
        if self._status[slot] != PENDING:
            return False
        self.ready.append(slot)
        return True

    def fail_child(self, slot: int, collected: bool) -> None:
        """Record the final failure of a mapped node's invocation.

        Args:
            slot: The invocation.
            collected: Whether its failure is a value like any other.
        """
        self._status[slot] = FAILED
        self.left -= 1
        if collected:
            for target in self._plan.successors[slot]:
                rest = self._unmet[target] = self._unmet[target] - 1
                if not rest:
                    self.ready.append(target)
