"""`Admission`: calls of a run wait until its `ResourceTracker` has room for them.

What is enabled is kept back before it is released, so that what waits holds no worker and stands in
no record as started. For no more calls is asked than the run has workers for: what a run is granted
it uses at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.model.resources import ResourceTracker, Ticket, held_here, holding
from dagger_dsl.runners.base import ASYNC

if TYPE_CHECKING:
    from dagger_dsl.engine.course import Course
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.engine.plan import Plan

__all__ = ["Admission", "Holdings", "check_memory"]


#: Why an invocation that is enabled has not begun, for people.
_WAITS: Final = "waits for room: its ResourceTracker has none left"


class Holdings:
    """What the calls of one run hold; whoever makes a call looks here.

    Args:
        tracker: Where it is asked for.
        outer: That of the run around it.

    Attributes:
        tickets: By slot, of calls that were released, what they hold.
        inside: What is held by the calls that the run is made inside of.
    """

    def __init__(self, tracker: ResourceTracker, outer: Holdings | None) -> None:
        self.tracker = tracker
        self.inside: tuple[Ticket, ...] = held_here() if outer is None else outer.inside
        self.tickets: dict[int, Ticket] = {}

    def around(self, run: Run, slot: int, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return *call*, of which whatever runs inside of it can know."""
        if not _takes(run.plan, slot):
            return call
        tickets = self.tickets
        if run.plan.kinds[slot] & ASYNC:

            async def held_async(*values: Any) -> Any:
                with holding(tickets.get(slot)):
                    return await call(*values)

            return held_async

        def held(*values: Any) -> Any:
            with holding(tickets.get(slot)):
                return call(*values)

        return held


class Admission:
    """Lets the calls of one run begin; the coordinator's thread calls it.

    Args:
        course: Where the run stands.
        holdings: What its calls hold.
    """

    def __init__(self, course: Course, holdings: Holdings) -> None:
        self._course = course
        self._run = course.run
        self._plan, self._state, self._board = course.plan, course.state, course.board
        self._tracker = holdings.tracker
        self._inside = holdings.inside
        self._held = holdings.tickets
        self._line: deque[int] = deque()  # kept back, in order, and not asked for
        self._asked: dict[int, Ticket] = {}
        self._news: deque[int] = deque()  # granted or refused, by other threads
        self._over = False

    @property
    def waits(self) -> bool:
        """Whether something is to begin when there is room for it."""
        return bool(self._asked or self._line)

    def admit(self) -> bool:
        """Keep back what is enabled, but for what there is room for.

        Returns:
            Whether something was refused, and with that perhaps something else enabled.
        """
        state, plan = self._state, self._plan
        if state.paused or self._course.stopping or self._over:
            self._let_go()
            return False
        if state.sifting:
            self._let_go_of_held()
        if state.ready:
            held = self._held
            fresh = [slot for slot in state.ready if slot not in held and _takes(plan, slot)]
            if fresh:
                state.shelve_all(fresh)
                self._line.extend(fresh)
        refused = False
        while self._news:
            slot = self._news.popleft()
            ticket = self._asked.get(slot)
            if ticket is not None and (ticket.granted or ticket.refused is not None):
                del self._asked[slot]
                refused = not self._begin(slot, ticket) or refused
        room = self._board.slots - self._course.flying - len(self._asked) - len(state.ready)
        while self._line and room > 0 and not refused:
            slot = self._line.popleft()
            if not state.is_shelved(slot):
                continue  # it was ended meanwhile
            ticket = self._tracker.ask(
                self._name(slot),
                plan.actions[slot].memory,
                partial(self._hear, slot),
                self._inside,
            )
            if ticket.granted or ticket.refused is not None:
                refused = not self._begin(slot, ticket)
            else:
                self._asked[slot] = ticket
                state.reasons[slot] = _WAITS
            room -= 1
        if self._is_over():  # ended by an interrupt of another thread
            self.close()
        return refused

    def _is_over(self) -> bool:
        return self._over  # read anew: another thread may have set it between two looks

    def _hear(self, slot: int) -> None:
        """Take, from any thread, that what was asked for is decided."""
        self._news.append(slot)
        self._board.due = 0.0
        self._board.ring()

    def _begin(self, slot: int, ticket: Ticket) -> bool:
        """Let a call begin, or fail, as its ticket says; return False in that case."""
        self._forget_reason(slot)
        if not self._state.unshelve(slot):
            ticket.release()
        elif ticket.refused is None:
            self._held[slot] = ticket
        else:
            self._state.ready.remove(slot)
            self._course.outcomes.fail(slot, ticket.refused)
            self._course.record_ends()
            return False
        return True

    def _forget_reason(self, slot: int) -> None:
        if self._state.reasons.get(slot) == _WAITS:
            del self._state.reasons[slot]

    def back(self, slots: Iterable[int]) -> None:
        """Take that calls have ended, or will not be made; what stands in for them goes on."""
        handling = self._run.handling
        for slot in slots:
            if slot in handling:
                continue
            ticket = self._held.pop(slot, None) or self._asked.pop(slot, None)
            if ticket is not None:
                self._forget_reason(slot)
                ticket.release()

    def _let_go(self) -> None:
        """Give back what is not used, as nothing begins for now."""
        asked = list(self._asked)
        self.back(asked)
        self._line.extendleft(reversed(asked))
        for slot in self._line:
            self._state.unshelve(slot)
        self._line.clear()
        self.back([slot for slot in self._state.ready if slot in self._held])

    def _let_go_of_held(self) -> None:
        """Leave what is held to the state, which begins it again when its branch is let go."""
        state = self._state
        held = [slot for slot in (*self._asked, *self._line) if state.is_held(slot)]
        if held:
            gone = set(held)
            self._line = deque(slot for slot in self._line if slot not in gone)
            for slot in held:
                state.unshelve(slot)
            self.back(held)
            state.sift()

    def close(self) -> None:
        """Give everything back: the run is over."""
        self._over = True
        for tickets in (self._asked, self._held):
            while tickets:
                tickets.popitem()[1].release()

    def _name(self, slot: int) -> str:
        key = f"[{self._plan.children.key(slot)}]" if slot in self._plan.parents else ""
        return f"node {self._plan.ids[slot]!r}{key}"


def _takes(plan: Plan, slot: int) -> bool:
    """Return whether an invocation is a call that takes something: nested runs are none."""
    return plan.actions[slot].style != "workflow"


def check_memory(plan: Plan, tracker: ResourceTracker, outer: Holdings | None) -> None:
    """Refuse a graph with a node that can never begin.

    Raises:
        ResourceExhausted: There is one.
    """
    inside = held_here() if outer is None else outer.inside
    disabled = set(plan.disabled)
    for node_id, slot in plan.index.items():
        if plan.actions[slot].memory and slot not in disabled:
            tracker.check(f"node {node_id!r}", plan.actions[slot].memory, inside)
