"""`Starts`: what happens to enabled invocations before they are released.

Held ones are kept back, mapped ones opened, results of other runs taken in the place of calls;
what may have killed a process before runs alone, and what is started at most once does not stand in
line.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagger_dsl.engine.course import Course
from dagger_dsl.engine.notes import to_json
from dagger_dsl.errors import NodeCrashed
from dagger_dsl.model.policies import Trigger

__all__ = ["Starts"]


class Starts:
    """Prepares the starts of one run.

    Args:
        course: Where the run stands.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self._run = course.run
        self._plan, self._state, self._board = course.plan, course.state, course.board
        self._journal, self._records = course.journal, course.records
        self._solo = False

    def prepare(self, now: float) -> None:
        """Do what is due before enabled invocations start: keep back, expand, look up, bind."""
        state, plan = self._state, self._plan
        if self._course.streams is not None:
            self._course.streams.settle()
        if self._run.crashes:
            self._refuse_crashed()
        self._expand(now)
        if self._course.admission is not None:
            while self._course.admission.admit():
                self._expand(now)
        if plan.joins:
            self._bind(state.ready)
        self._course.free_values()

    def _expand(self, now: float) -> None:
        """Open and gather mapped nodes, and take results of other runs, until nothing changes."""
        state, plan = self._state, self._plan
        busy = state.sifting or bool(plan.mapped or plan.cached)
        while busy and not state.paused:
            if state.sifting:
                state.sift()
            busy = bool(plan.mapped) and self._course.maps_now().expand()
            if plan.cached:
                busy = self._look_up(now) or busy
            if self._run.crashes:  # what was opened just now has been looked at by nobody
                busy = self._refuse_crashed() or busy
            if state.ended:
                self._course.record_ends()

    def _is_looked_up(self, slot: int) -> bool:
        """Return whether an invocation may take the result of another run, if there is one."""
        plan, run = self._plan, self._run
        if slot in run.lookups or slot in run.handling or slot in plan.mapped:
            return False
        return run.top(slot) in plan.cached

    def _look_up(self, now: float) -> bool:
        """Take results of other runs in the place of calls; return whether there were any."""
        from dagger_dsl.engine.lookups import look_up

        state, board = self._state, self._board
        wanted = [slot for slot in state.ready if self._is_looked_up(slot)]
        found = {slot: hit for slot in wanted if (hit := look_up(self._run, slot)) is not None}
        if found:
            state.ready = [slot for slot in state.ready if slot not in found]
        for slot, hit in found.items():
            board.started[slot] = board.ended[slot] = now
            self._course.outcomes.complete(slot, hit.value, None, False)
        return bool(found)

    def chosen(self, ready: list[int]) -> list[int]:
        """Return what of the enabled invocations may start now."""
        if self._run.suspects:
            ready = self._set_apart(ready)
        if self._plan.careful:
            ready = self._one_by_one(ready)
        maps = self._course.maps
        return ready if maps is None else ready + maps.sips()

    def _one_by_one(self, ready: list[int]) -> list[int]:
        """Keep back what starts at most once, until a worker is free for it.

        Its start is on record from its release on, so it must not stand in line behind others.
        """
        careful = [slot for slot in ready if slot in self._plan.careful]
        if not careful:
            return ready
        ready = [slot for slot in ready if slot not in self._plan.careful]
        free = max(0, self._board.slots - self._course.flying - len(ready))
        chosen, rest = careful[:free], careful[free:]
        self._give_back(rest)  # there they can be held, cancelled and disabled
        if chosen and self._journal is not None:
            self._records.commit(chosen)
            self._journal.flush()
        return ready + chosen

    def _give_back(self, slots: list[int]) -> None:
        """Take back what may not begin after all."""
        self._state.give_back(slots)
        if self._course.admission is not None:
            self._course.admission.back(slots)

    def _refuse_crashed(self) -> bool:
        """Fail what has taken its process down too often, instead of launching it.

        Returns:
            Whether there was anything.
        """
        state = self._state
        crashed = [slot for slot in state.ready if slot in self._run.crashes]
        if crashed:
            state.ready = [slot for slot in state.ready if slot not in self._run.crashes]
        for slot in crashed:
            error = NodeCrashed(str(self._plan.ids[slot]), self._run.crashes[slot])
            self._run.errors[slot] = error
            self._course.outcomes.give_up(slot, error)
        if crashed:
            self._course.record_ends()
        return bool(crashed)

    def _set_apart(self, ready: list[int]) -> list[int]:
        """Return what can start now; a suspect starts when nothing else can, and runs alone.

        If the process dies once more, it is known whose call it was, and nobody else's was lost.
        """
        apart, suspects = self._course.apart, self._run.suspects
        apart.extend(slot for slot in ready if slot in suspects)
        ready = [slot for slot in ready if slot not in suspects]
        if self._solo and self._course.flying:
            self._give_back(ready)
            return []
        self._solo = bool(apart) and not (ready or self._course.flying)
        return [apart.popleft()] if self._solo else ready

    def _bind(self, slots: Sequence[int]) -> None:
        """Note whose values each join takes; of an `any` join, in the journal too.

        The record's order says what came first, but a source whose value is not stored comes again
        after a resume, and later.
        """
        run, plan = self._run, self._plan
        for slot in slots:
            if slot not in plan.joins or slot in run.bound:
                continue
            bound = run.bound[slot] = self._state.bound(slot)
            if self._journal is not None and plan.joins[slot].rule is Trigger.ANY:
                run.notes += [(f"any:{plan.ids[slot]}", to_json(plan.ids[each])) for each in bound]
