"""`Freeing`: values that go as soon as nothing needs them any more.

Those of nodes with ``keep=False``, and those that were deleted from the results of the run's
context. A node needs a value while it depends on the value's node and may still be called: until it
has ended, retries, fallbacks and the invocations of a mapped node included. What no node of the run
depends on is what the run is for, and stays until its end; so does the node that it was to run
until, whoever may come to depend on it.

With a database the value stays readable from there, unless it was not stored by wish.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.plan import UNSET
from dagger_dsl.engine.state import COMPLETED, PENDING, WAITING
from dagger_dsl.errors import EncodingError

if TYPE_CHECKING:
    from dagger_dsl.engine.course import Course
    from dagger_dsl.engine.instance import Run

__all__ = ["Freeing", "free", "invocations"]

_OPEN = (PENDING, WAITING)
_NOT_KEPT = "it was freed after the last node that took it, as keep=False says"


class Freeing:
    """Frees the values of one run; the coordinator's thread calls it.

    Args:
        course: Where the run stands.
    """

    def __init__(self, course: Course) -> None:
        self._run = run = course.run
        self._plan, self._state = run.plan, run.state
        self._why: dict[int, str] = {}  # of deleted ones
        self._consumers: dict[int, set[int]] = {}  # by what is to be freed, who has not ended
        self._sources: dict[int, list[int]] = {}  # the other way round
        self._fresh = [slot for slot in self._plan.fleeting if slot in run.restored]
        self._due: dict[int, None] = {}
        last = run.options.stop_at
        self._last = None if last is None else self._plan.index.get(last)

    def ended(self, slot: int) -> None:
        """Take that a node has ended, or is about to."""
        if slot in self._plan.parents:
            return
        if slot in self._plan.fleeting or slot in self._why:
            self._fresh.append(slot)
        for source in self._sources.pop(slot, ()):
            left = self._consumers.get(source)
            if left is not None:
                left.discard(slot)
                if not left:
                    del self._consumers[source]
                    self._due[source] = None

    def look(self) -> None:
        """Free what is due."""
        run = self._run
        while run.doomed:
            slot, why = run.doomed.popleft()
            if why:
                self._why[slot] = why
            self._fresh.append(slot)
        if run.newcomers:
            self._take_newcomers()
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            for slot in dict.fromkeys(fresh):
                self._watch(slot)
        if self._due:
            for slot in [slot for slot in self._due if not self._is_in_use(slot)]:
                del self._due[slot]
                free(run, slot, self._why.get(slot, _NOT_KEPT))

    def _watch(self, slot: int) -> None:
        """Note who may still need a value."""
        if self._state.status(slot) != COMPLETED or slot in self._run.freed:
            return
        if slot == self._last:
            return
        outside = self._state.outside
        targets = [each for each in self._plan.targets(slot) if each not in outside]
        open_ = {target for target in targets if self._state.status(target) in _OPEN}
        if open_:
            self._due.pop(slot, None)
            self._consumers[slot] = open_
            for target in open_:
                self._sources.setdefault(target, []).append(slot)
        elif targets:
            self._due[slot] = None

    def _take_newcomers(self) -> None:
        """Look again at what nodes that were added, or changed, depend on."""
        newcomers, self._run.newcomers = self._run.newcomers, []
        for slot in newcomers:
            for source in self._plan.sources(slot):
                if source in self._plan.fleeting or source in self._why:
                    self._fresh.append(source)

    def _is_in_use(self, slot: int) -> bool:
        """Return whether calls of mapped nodes that have ended still go on."""
        state, mapped = self._state, self._plan.mapped
        return bool(mapped) and any(
            state.status(child) in _OPEN
            for target in self._plan.targets(slot)
            if target in mapped
            for child in invocations(self._run, target)
        )


def free(run: Run, slot: int, why: str) -> None:
    """Let go of everything by which a run holds a node's value.

    Args:
        run: The run.
        slot: The node; those that depend on it have ended.
        why: For who asks for the value.
    """
    if slot in run.freed:
        return
    plan, board = run.plan, run.board
    reread = run.rereads.pop(slot, None) or run.loaders.get(slot) or _stored_form(run, slot)
    if reread is not None:
        run.loaders[slot] = reread
    run.freed[slot] = why
    values = board.values
    values[slot] = UNSET
    for _, where in plan.parts.get(slot, ()):
        values[where] = UNSET
    if slot in plan.mapped:
        for child in invocations(run, slot):
            values[child] = UNSET
    run.yielded.pop(slot, None)
    for target in plan.targets(slot):
        if target in plan.mapped:
            for each, place in _items(run, target, slot):
                values[place] = UNSET
                _forget_frames(run, each)
        if target in run.errors:
            _forget_frames(run, target)
        if target in plan.handlers or target in plan.fallbacks:
            board.calls[target] = plan.calls[target]  # what stood in holds what it was given


def _stored_form(run: Run, slot: int) -> Any:
    """Return what reads a value from the store, or None where it is not there."""
    journal = run.journal
    meta = run.meta.get(slot, {})
    if journal is None or not run.plan.actions[slot].store or meta.get("stored") is False:
        return None
    try:
        form = journal.encode(run.board.values[slot])
    except EncodingError:  # it was not stored either
        return None
    return partial(journal.decode, *form, f"the value of {run.plan.ids[slot]!r}")


def _items(run: Run, target: int, source: int) -> Iterator[tuple[int, int]]:
    """Yield the invocations of a mapped node that maps over another's value, and their items."""
    plan, bindings = run.plan, run.board.bindings
    place = plan.mapped[target].place
    where = bindings[target]
    over = where if not isinstance(where, tuple) else where[place]
    if over is None or plan.source_of(over) != source:
        return
    for child in invocations(run, target):
        bound = bindings[child]
        item = bound if not isinstance(bound, tuple) else bound[place]
        if item is not None and plan.ids[item] is None:
            yield child, item


def invocations(run: Run, slot: int) -> Iterator[int]:
    """Yield the invocations of a mapped node, on every level."""
    children, work = run.plan.children, [slot]
    while work:
        here = work.pop()
        for child in children.slots(here, 0, children.count(here)):
            yield child
            work.append(child)


def _forget_frames(run: Run, slot: int) -> None:
    """Empty the frames of what a node has raised: they hold what it was called with."""
    todo, seen = [run.errors.get(slot)], set[int]()
    while todo:
        error = todo.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        todo += [error.__cause__, error.__context__]
