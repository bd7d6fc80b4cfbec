"""`MachineState`: where a state machine is, as a pure state machine beside `RunState`.

It answers the same questions, so the one `Coordinator` drives both. The unit is again an
invocation: a plan of a machine has one slot for each state, which is used again whenever the state
is entered, and the key of the invocation is the number of the cycle, counted from 0 over all
states. So a run of 100,000 cycles holds no more than one of ten, apart from its history.

Where to go next is decided with the call itself (`engine.machine_calls`), and comes as a `Move`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl.engine.attempts import LAPS
from dagger_dsl.engine.plan import UNSET, Plan
from dagger_dsl.engine.state import CANCELLED, COMPLETED, FAILED, PENDING, SKIPPED, Ended, RunState
from dagger_dsl.errors import MaxCyclesExceeded, NotExecuted
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.policies import OnFailure
from dagger_dsl.registry import ActionDef

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run

__all__ = ["END", "Cycles", "History", "MachinePlan", "MachineState", "Move", "Stored"]

#: The target of a move that ends the machine.
END: Final = -1

NEVER_ENTERED: Final = "never entered"


class Move:  # an outcome between rooms, never shown to users
    """What a state's call has come to.

    Attributes:
        target: Slot of the next state, or `END`.
        value: The state's result.
    """

    __slots__ = ("target", "value")

    def __init__(self, target: int, value: Any) -> None:
        self.target = target
        self.value = value


class Stored:
    """A result that an earlier process recorded, read when somebody asks for it.

    Args:
        load: Reads it.
        why: Why it was not stored, where it was not; `read` raises it.
    """

    __slots__ = ("_load", "why")

    def __init__(self, load: Callable[[], Any], why: str | None = None) -> None:
        self._load = load
        self.why = why

    def read(self, name: str) -> Any:
        """Return it, a result of this state.

        Raises:
            NotExecuted: It was not stored.
        """
        if self.why is not None:
            raise NotExecuted(f"state {name!r} has no such result any more: {self.why}")
        return self._load()


@attrs.frozen(eq=False)
class MachinePlan:
    """What a plan knows of its machine, in slots.

    Attributes:
        initial: The first state.
        terminal: States whose call ends the machine.
        ways: By state, its declared transitions: where to, and on what condition.
        hook: What is called with every transition.
        carry: Where the value lies from which the next state takes its parameters.
        max_cycles: Calls that a run may make.
        history_limit: How many cycles are kept; None for all.
    """

    initial: int
    terminal: frozenset[int]
    ways: dict[int, tuple[tuple[int, ActionDef | None], ...]]
    hook: ActionDef | None
    carry: int
    max_cycles: int
    history_limit: int | None

    def begin(self, run: Run) -> None:
        """Let a run be one of this machine; called when its board is there."""
        limit, most = run.options.max_cycles, self.history_limit
        run.laps = deque(maxlen=LAPS if most is None else min(most, LAPS))
        run.state = state = MachineState(
            run.plan,
            run.board.values,
            self.max_cycles if limit is None else limit,
            run.forget,
            run.tried,
        )
        run.plan.children = Cycles(state)  # type: ignore[assignment]  # answers the same questions
        run.board.values[self.carry] = run.inputs


class MachineState(RunState):
    """Which state is enabled, and which ones were entered.

    Args:
        plan: Of a machine.
        values: By slot, what its last call has come to: a `Move` where `complete` is told of it,
            the value itself from then on.
        limit: Cycles that may begin.
        forget: Called with a state that was entered before and is about to be entered again.
        tried: Called with a state that is entered, and how often it was called in this cycle by
            earlier processes that went back.

    Attributes:
        current: The state it is in, or ended in; None before the first.
        cycle: Number of the current cycle.
        limit: As given.
        exceeded: It would have entered one more state than it may.
        is_terminated: It has ended by itself.
        seen, kept: The states and results of completed cycles, as many as are kept.
        newest: By slot, the last result; `UNSET` where there is none.
        last: By slot, the number of its last cycle, -1 for a state that was never entered.
        dropped: By slot, how many results were let go.
    """

    __slots__ = (
        "_carry",
        "_forget",
        "_gate",
        "_machine",
        "_note",
        "_redone",
        "_tried",
        "_values",
        "current",
        "cycle",
        "dropped",
        "exceeded",
        "is_terminated",
        "kept",
        "last",
        "limit",
        "newest",
        "seen",
    )

    def __init__(
        self,
        plan: Plan,
        values: list[Any],
        limit: int | None = None,
        forget: Callable[[int], None] = lambda _slot: None,
        tried: Callable[[int, int], None] = lambda _slot, _attempts: None,
    ) -> None:
        super().__init__(plan)
        machine = plan.machine
        assert machine is not None
        self._machine: MachinePlan = machine
        self._values = values
        self._carry = machine.carry
        self._forget, self._note = forget, tried
        self._tried: dict[tuple[int, int], int] = {}
        self._redone = -1  # the last cycle that an earlier process had tried
        self.limit = machine.max_cycles if limit is None else limit
        self._gate = self.limit  # the number from which on no cycle begins; 0 once stopped
        self.left = 1  # a machine is one thing, which ends or not
        self.current: int | None = None
        self.cycle = -1
        self.exceeded = False
        self.is_terminated = False
        most = machine.history_limit
        self.seen: list[int] | deque[int] = [] if most is None else deque(maxlen=most)
        self.kept: list[Any] | deque[Any] = [] if most is None else deque(maxlen=most)
        self.newest: list[Any] = [UNSET] * plan.count
        self.last = [-1] * plan.count
        self.dropped: dict[int, int] = {}

    @property
    def history(self) -> History:
        """Where it has been, for people."""
        return History(self)

    def begin(self) -> None:
        """Enter the first state; `resume` has entered the right one already."""
        if not self._begun:
            self._begun = True
            self._enter(self._machine.initial)

    def complete(self, slots: Sequence[int]) -> None:
        """Take the moves of states whose call has ended."""
        values = self._values
        for slot in slots:
            move = values[slot]
            value = values[slot] = values[self._carry] = move.value
            self._status[slot] = COMPLETED
            seen = self.seen
            if seen.__class__ is deque:
                self._let_go()
            seen.append(slot)
            self.kept.append(value)
            self.newest[slot] = value
            target = move.target
            cycle = self.cycle + 1
            if target < 0 or cycle >= self._gate:
                self._end_with(target)
                continue
            self.cycle = cycle  # as `_enter`, which would cost a tenth of all this
            self.current = target
            if self.last[target] >= 0:
                self._forget(target)
            self.last[target] = cycle
            self._status[target] = PENDING
            self.ready.append(target)

    def complete_with(self, slot: int, labels: Collection[str] | None) -> None:
        """Record a completion whose value is in its place, and that goes where the label says."""
        name = next(iter(labels or ()), None)
        target = END if name is None else self._plan.index[name]
        self._values[slot] = Move(target, self._values[slot])
        self.complete((slot,))

    def _let_go(self) -> None:
        """Count the oldest result, which a full history is about to drop."""
        seen = self.seen
        assert isinstance(seen, deque)
        if len(seen) == seen.maxlen:
            oldest = seen[0] if seen else self.current
            assert oldest is not None
            self.dropped[oldest] = self.dropped.get(oldest, 0) + 1

    def _enter(self, target: int) -> None:
        self.cycle += 1
        self.current = target
        if self.last[target] >= 0:
            self._forget(target)
        self.last[target] = self.cycle
        self._status[target] = PENDING
        self.ready.append(target)
        if self._tried:
            attempts = self._tried.pop((self.cycle, target), None)
            if attempts is not None:
                self._note(target, attempts)
            if self.cycle >= self._redone:
                self._tried = {}
                self._gate = 0 if self.stopped else self.limit

    def _end_with(self, target: int) -> None:
        """Enter no state any more: the machine has ended, was stopped, or may go no further."""
        if target < 0:
            self.is_terminated = True
            self.left = 0
        elif self.stopped:
            self.left = 0
        elif self.cycle + 1 < self.limit:
            self._enter(target)  # a cycle that an earlier process had tried already
            return
        else:
            self.exceeded = True
        self._skip_rest()

    def _skip_rest(self) -> None:
        """End the states that were never entered."""
        for slot, last in enumerate(self.last):
            if last < 0 and self._status[slot] == PENDING:
                self._status[slot] = SKIPPED
                self.reasons[slot] = NEVER_ENTERED
                self.ended.append(Ended(slot, SKIPPED, NEVER_ENTERED))

    def obstacle(self) -> Exception | None:
        """Return what keeps the machine from going on, None where nothing does."""
        return MaxCyclesExceeded(self.limit, self.history.names) if self.exceeded else None

    @property
    def expected(self) -> int:
        """How many cycles there may be, for those who show progress."""
        return self.limit

    def sinks(self) -> tuple[str, ...]:
        """Return the state whose value is the run's."""
        return () if self.current is None else (str(self._plan.ids[self.current]),)

    def taken(self) -> set[int]:
        """Return the state that was handed out by `take` and has not ended."""
        slot = self.current
        if slot is None or self._status[slot] != PENDING or slot in self.ready:
            return set()
        return set() if self.exceeded or not self.left else {slot}

    def fail(self, slot: int, policy: OnFailure) -> None:
        """Record that a state has failed; only PAUSE lets the run go on, by a resume."""
        self._status[slot] = FAILED
        self.left = 0
        if policy is OnFailure.PAUSE:
            self.paused = True
            self._undecided.add(slot)
            return
        self._stop()
        self._skip_rest()

    def _stop(self) -> None:
        self.stopped = True
        self._gate = 0

    def cancel(self, reason: str) -> None:
        """End the machine, unless its state was taken: that ends by its runner."""
        self._stop()
        self._final = True
        slot = self.current
        if slot is None:
            slot = self._machine.initial
        if self.left and not self.exceeded and slot not in self.taken():
            self.ready = []
            self.cancel_running(slot, reason)

    def cancel_running(self, slot: int, reason: str) -> None:
        """Record that the current state was cancelled."""
        self._awake(slot)
        self._status[slot] = CANCELLED
        self.left = 0
        self.reasons[slot] = reason
        self.ended.append(Ended(slot, CANCELLED, reason))
        self._stop()
        self._skip_rest()

    def resume(
        self,
        slots: Sequence[int],
        values: Sequence[Any],
        target: int | None,
        tried: Mapping[tuple[int, int], int] | None = None,
    ) -> None:
        """Take over the cycles that earlier processes recorded; called in the place of `begin`.

        Args:
            slots: The state of each completed cycle.
            values: Their results, `Stored` where they have not been read.
            target: The state that the last of them chose, `END` where it chose to end; None where
                no cycle has completed.
            tried: Attempts by cycle and state of cycles that come again, as a value that was not
                stored has to be made again.
        """
        self._begun = True
        if tried:
            self._tried, self._gate = dict(tried), 0
            self._redone = max(number for number, _ in tried)
        for slot, value in zip(slots, values, strict=True):
            if self.seen.__class__ is deque:
                self._let_go()
            self.seen.append(slot)
            self.kept.append(value)
            self.cycle += 1
            self.last[slot], self.newest[slot] = self.cycle, value
            self._status[slot] = COMPLETED
            self.current = slot
        if target is None:
            self._enter(self._machine.initial)
        elif target < 0 or self.cycle + 1 >= self.limit:
            self._end_with(target)
        else:
            self._enter(target)


class Cycles:
    """The keys of a machine's invocations, in the place of `Children`: the number of the cycle."""

    __slots__ = ("_last",)

    def __init__(self, state: MachineState) -> None:
        self._last = state.last

    def key(self, slot: int) -> str:
        """Return the number of a state's last cycle, `DEFAULT_KEY` where it was never entered."""
        number = self._last[slot]
        return DEFAULT_KEY if number < 0 else str(number)

    def find(self, slot: int, key: str) -> int | None:
        """Return the state where this is its last cycle; an older one has no slot any more."""
        return slot if self.key(slot) == key else None

    def below(self, _slot: int) -> Iterator[tuple[str, int]]:
        """Yield nothing: a state has no invocations beside its own."""
        return iter(())


class History:
    """Where a machine has been; see `dagger_dsl.model.history.StateHistory`."""

    __slots__ = ("_state",)

    def __init__(self, state: MachineState) -> None:
        self._state = state

    @property
    def names(self) -> list[str]:
        """The states it was in, first to last, as many as are kept; the current one included."""
        state, ids = self._state, self._state._plan.ids
        found = [str(ids[slot]) for slot in list(state.seen)]
        if self._is_inside():
            found.append(str(ids[state.current or 0]))
        most = state._machine.history_limit
        return found if most is None else found[len(found) - min(len(found), most) :]

    def _is_inside(self) -> bool:
        """Return whether the current cycle has begun and not completed."""
        state = self._state
        return state.current is not None and state._status[state.current] != COMPLETED

    @property
    def current(self) -> str | None:
        """The state it is in, or ended in."""
        state = self._state
        return None if state.current is None else str(state._plan.ids[state.current])

    @property
    def cycles(self) -> int:
        """How many cycles have begun."""
        return self._state.cycle + 1

    @property
    def counts(self) -> dict[str, int]:
        """How many cycles each state that was entered has had, in the order of the machine."""
        state, ids = self._state, self._state._plan.ids
        counts = [state.dropped.get(slot, 0) for slot in range(state._plan.count)]
        for slot in list(state.seen):
            counts[slot] += 1
        if self._is_inside() and state.current is not None:
            counts[state.current] += 1
        return {str(ids[slot]): number for slot, number in enumerate(counts) if number}

    @property
    def is_terminated(self) -> bool:
        """Whether it has ended by itself."""
        return self._state.is_terminated

    def entered(self) -> list[str]:
        """Return the states whose newest result there is, in the order of the machine."""
        state, ids = self._state, self._state._plan.ids
        return [str(ids[k]) for k, value in enumerate(state.newest) if _is_there(value)]

    def results(self, name: str) -> list[Any]:
        """Return the results of a state that are kept, oldest first.

        Raises:
            NotExecuted: An earlier process had one of them and did not store it.
        """
        return [_read(value, name) for value in self._kept(name)]

    def kept(self, name: str) -> int:
        """Return how many results of a state are kept."""
        return len(self._kept(name))

    def result(self, name: str, place: int) -> Any:
        """Return one of the results that are kept.

        Raises:
            NotExecuted: An earlier process had it and did not store it.
        """
        return _read(self._kept(name)[place], name)

    def _kept(self, name: str) -> list[Any]:
        state = self._state
        wanted = state._plan.index[name]
        pairs = zip(list(state.seen), list(state.kept), strict=False)
        return [value for slot, value in pairs if slot == wanted]

    def dropped(self, name: str) -> int:
        """Return how many older results of a state were let go."""
        return self._state.dropped.get(self._state._plan.index[name], 0)

    def latest(self, name: str) -> Any:
        """Return the newest result of a state.

        Raises:
            KeyError: It has none.
            NotExecuted: An earlier process had it and did not store it.
        """
        value = self._state.newest[self._state._plan.index[name]]
        if value is UNSET:
            raise KeyError(name)
        return _read(value, name)


def _is_there(value: Any) -> bool:
    return value is not UNSET and not (value.__class__ is Stored and value.why is not None)


def _read(value: Any, name: str) -> Any:
    return value.read(name) if value.__class__ is Stored else value


def make_machine(plan: Plan, find: Callable[[str], ActionDef | None]) -> None:
    """Let a compiled plan be that of its graph's machine.

    Args:
        plan: Its nodes are compiled; they are made states here.
        find: Finds actions, and notes that they were.
    """
    from dagger_dsl.engine.machine_calls import note_inputs

    graph, index = plan.graph, plan.index
    machine = graph.machine
    assert machine is not None
    ways: dict[int, tuple[tuple[int, ActionDef | None], ...]] = {}
    for each in machine.transitions:
        condition = None if each.condition is None else find(each.condition)
        source = index[each.source]
        ways[source] = (*ways.get(source, ()), (index[each.target], condition))
    hook = None if machine.hook is None else find(machine.hook)
    carry = plan.size
    plan.size += 1
    plan.ids.append(None)
    plan.machine = MachinePlan(
        index[machine.initial],
        frozenset(index[name] for name in machine.terminal),
        ways,
        hook,
        carry,
        machine.max_cycles,
        machine.history_limit,
    )
    plan.keyed = True
    plan.roots = [index[machine.initial]]
    states = list(index.values())
    plan.wrapped = states
    plan.labelled = frozenset(states)
    for slot in states:
        plan.bindings[slot] = carry
        plan.names[slot] = ("previous",)
    plan.needs_loop = plan.needs_loop or (hook is not None and hook.is_async)
    note_inputs(plan)
