"""Mapped nodes: one node, an invocation for each item of a list that is known only at run time.

A mapped node that is enabled is opened instead of called: each item gets a slot of its own, which
is scheduled, retried, timed and recorded like every other one, and the node completes with the list
of their values. A node that maps over a mapped node follows it item by item, and one that maps over
a generator begins while the generator still yields; neither waits for the whole list.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.plan import UNSET, add_children
from dagger_dsl.engine.run import error_info
from dagger_dsl.engine.state import PENDING
from dagger_dsl.errors import EncodingError, MapError, OutputError
from dagger_dsl.model.context import Failed
from dagger_dsl.model.values import to_plain
from dagger_dsl.runners.base import Yielded

if TYPE_CHECKING:
    from dagger_dsl.engine.course import Course
    from dagger_dsl.engine.run import Run

__all__ = ["Maps", "rebuild_children", "rebuild_items"]

# How long a generator is read at a time (seconds), and how many items at most: what it has yielded
# so far shall not wait for what it has not.
_SIP, _GULP = 0.001, 512


@attrs.define(eq=False)
class _Feed:
    """A generator that a node returned, and what it has yielded.

    Attributes:
        generator: It.
        items: What it has yielded so far.
        call, kind: What was called for the node itself.
        started: When that was.
        hungry: It is not being read, because enough invocations wait.
    """

    generator: Any
    call: Any
    kind: int
    started: float
    items: list[Any] = attrs.field(factory=list)
    hungry: bool = False


@attrs.define(eq=False)
class _Limit:
    """How many invocations of one node run at the same time."""

    most: int
    running: int = 0
    queue: deque[int] = attrs.field(factory=deque)
    released: set[int] = attrs.field(factory=set)


class Maps:
    """The mapped nodes of one run.

    Args:
        course: Where the run stands.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self._run = run = course.run
        self._plan, self._state, self._board = run.plan, run.state, run.board
        self._children: dict[int, list[int]] = {}  # of what is open, in order
        self._feeds: dict[int, _Feed] = {}
        self._limits: dict[int, _Limit] = {}
        self._waiting: set[int] = set(run.plan.mapped)

    # --- opening and gathering -------------------------------------------------------------------

    def expand(self) -> bool:
        """Open or gather the mapped invocations among what is enabled, and limit the others.

        Returns:
            Whether there were any.
        """
        plan, state = self._plan, self._state
        found = [slot for slot in state.ready if slot in plan.mapped]
        for slot in found:
            state.ready.remove(slot)
            if slot in self._children:
                self._gather(slot)
            else:
                self._open(slot)
        if self._limits:
            for slot in [slot for slot in state.ready if slot in plan.parents]:
                self._limit(slot)
        self._follow()
        return bool(found)

    def _open(self, slot: int) -> None:
        plan, board = self._plan, self._board
        spec = plan.mapped[slot]
        board.started[slot] = board.clock()
        value = board.arguments(slot)[spec.place]
        if value is UNSET:
            param = plan.actions[slot].param(spec.name)
            value = param.default if param is not None and not param.required else None
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            text = (
                f"it maps over its input {spec.name!r}, which is {value!r:.100}; give it a list, "
                "or anything else with items"
            )
            board.ended[slot] = board.started[slot]
            self._course.outcomes.fail(
                slot, MapError(str(plan.ids[slot]), plan.keys.get(slot, ""), text)
            )
            return
        items = list(value)
        children = self._enlist(slot, 0, len(items))
        for child, item in zip(children, items, strict=True):
            board.values[plan.items[child]] = item
        self._children[slot] = children
        top = plan.mapped[slot]
        if top.most is not None and slot not in plan.parents:
            self._limits[slot] = _Limit(top.most)
        self._state.open(slot, children, more=False)
        self._drop_rest(slot, len(items))
        if not any(self._state.status(child) == PENDING for child in children):
            self._gather(slot)

    def _enlist(self, slot: int, start: int, end: int) -> list[int]:
        """Return the invocations of items *start* to *end*, making those that are not there."""
        run, plan = self._run, self._plan
        top, prefix = self._run.top(slot), self._prefix(slot)
        keys = [f"{prefix}{k}" for k in range(start, end)]
        known = [run.invocations.get((top, key)) for key in keys]
        there = len(known)
        while there and known[there - 1] is None:
            there -= 1
        if there < len(keys):
            made = add_children(plan, slot, keys[there:])
            run.enlist(slot, made)
            self._state.left += len(made)
            known[there:] = made
            body = {"open": plan.ids[slot], "at": plan.keys.get(slot, ""), "from": start + there}
            self._course.records.note(None, {**body, "to": end})
        return [child for child in known if child is not None]

    def _drop_rest(self, slot: int, count: int) -> None:
        """End invocations of an earlier process that have no item any more."""
        keys, top, prefix = self._plan.keys, self._run.top(slot), self._prefix(slot)
        known = self._run.invocations
        while (child := known.get((top, f"{prefix}{count}"))) is not None:
            if self._state.status(child) == PENDING:
                self._state.drop(child, f"there is no item {keys[child]} any more")
            count += 1

    def _gather(self, slot: int) -> None:
        """Complete an invocation with the values of its own ones."""
        run, board = self._run, self._board
        values = [run.value(child) for child in self._children.pop(slot)]
        board.ended[slot] = board.clock()
        self._limits.pop(slot, None)
        if slot in self._plan.parents:  # one level of several; the record has what it is made of
            board.values[slot] = values
            self._state.complete((slot,))
            self.ended((slot,))
        else:
            self._course.outcomes.complete(slot, values, None, False)

    def _prefix(self, slot: int) -> str:
        key = self._plan.keys.get(slot)
        return "" if key is None else f"{key}."

    # --- following -------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Open what maps over something whose items come one by one, and waits for that alone."""
        plan, state = self._plan, self._state
        if len(self._waiting) != len(plan.mapped):
            self._waiting = set(plan.mapped)
        for slot in sorted(self._waiting):
            if slot in plan.parents or slot in self._children or slot in plan.joins:
                continue
            source = self._source(slot)
            if source is None or not state.waits_only(slot):
                continue
            if source in self._children and not plan.mapped[source].collect:
                self._follow_map(slot, source)
            elif source in self._feeds:
                self._follow_feed(slot, source)

    def _source(self, slot: int) -> int | None:
        """Return the node whose whole value a mapped node maps over."""
        where = self._board.bindings[slot]
        found = where if isinstance(where, int) else (where or ())[self._plan.mapped[slot].place]
        return found if found < len(self._plan.ids) and self._plan.ids[found] else None

    def _begin(self, slot: int) -> list[int]:
        children = self._children[slot] = []
        most = self._plan.mapped[slot].most
        if most is not None:
            self._limits[slot] = _Limit(most)
        self._board.started[slot] = self._board.clock()
        self._state.open(slot, (), more=True)
        return children

    def _follow_map(self, slot: int, source: int) -> None:
        """Let each invocation wait for the one of the same item."""
        plan, board = self._plan, self._board
        leaders = self._children[source]
        children = self._begin(slot)
        made = self._enlist(slot, 0, len(leaders))
        for child, leader in zip(made, leaders, strict=True):
            place, where = plan.mapped[slot].place, board.bindings[child]
            board.bindings[child] = plan.bindings[child] = (
                leader
                if not isinstance(where, tuple)
                else (*where[:place], leader, *where[place + 1 :])
            )
            plan.successors[leader] += (child,)
            self._run.load(leader)
        self._state.add_children(slot, made, dict(zip(made, leaders, strict=True)))
        children += made

    def _follow_feed(self, slot: int, source: int) -> None:
        self._begin(slot)
        self._add_items(slot, self._feeds[source].items)

    def _add_items(self, slot: int, items: Sequence[Any]) -> None:
        plan, children = self._plan, self._children[slot]
        made = self._enlist(slot, len(children), len(children) + len(items))
        for child, item in zip(made, items, strict=True):
            self._board.values[plan.items[child]] = item
        self._state.add_children(slot, made)
        children += made

    # --- generators ------------------------------------------------------------------------------

    def read(self, slot: int, generator: Any) -> bool:
        """Read a generator that a node returned, if somebody maps over it; else return False."""
        plan, run, board = self._plan, self._run, self._board
        if not any(
            target in plan.mapped and self._source(target) == slot
            for target in plan.successors[slot]
        ):
            return False
        self._feeds[slot] = _Feed(
            generator, board.calls[slot], board.kinds[slot], board.started[slot]
        )
        is_async = isinstance(generator, AsyncGeneratorType)
        run.stand_in(slot, _sip_async(generator) if is_async else _sip(generator), is_async)
        run.pumping.add(slot)
        self._sip(slot)
        return True

    def _sip(self, slot: int) -> None:
        """Have a worker read some more of a generator."""
        self._course.flying += 1
        self._board.go.append(slot)

    def take(self, slot: int, found: Yielded, now: float) -> None:
        """Take what was read of a generator."""
        course = self._course
        feed = self._feeds[slot]
        if self._state.stopped or slot in course.victims:
            self._put_back(slot, feed)
            if not isinstance(feed.generator, AsyncGeneratorType):
                feed.generator.close()
            course.cancelled(slot)
            return
        try:
            self._compare(slot, feed, found.items)
        except (OutputError, EncodingError) as error:
            self._put_back(slot, feed)
            course.outcomes.fail(slot, error)
            return
        for target in self._plan.successors[slot]:
            if target in self._children and self._source(target) == slot:
                self._add_items(target, found.items)
        self._follow()
        if found.error is not None:
            self._put_back(slot, feed)
            course.outcomes.raised(slot, found.error, now)
        elif found.over:
            self._put_back(slot, feed)
            course.outcomes.answer(slot, feed.items, None)
        elif self._crowded(slot):
            feed.hungry = True
        else:
            self._sip(slot)

    def _compare(self, slot: int, feed: _Feed, items: Sequence[Any]) -> None:
        """Note what was yielded; what an earlier reading had yielded has to come again."""
        run = self._run
        known = run.yielded.setdefault(slot, [])
        start = len(feed.items)
        feed.items += items
        again = known[start : start + len(items)]
        fresh = list(islice(items, len(again), None))
        name = str(self._plan.ids[slot])
        if run.journal is None:
            plain = [*fresh]
        else:
            plain = [
                to_plain(item, f"item {start + k} of {name!r}") for k, item in enumerate(items)
            ]
            for k, before in enumerate(again):
                if before != plain[k]:
                    raise OutputError(
                        f"node {name!r} is a generator that was read again, and its item "
                        f"{start + k} is not what it was; what others map over has to yield the "
                        "same items each time"
                    )
            plain = plain[len(again) :]
        known += plain
        if plain and run.journal is not None:
            note = {"yield": name, "from": start + len(again), "items": plain}
            self._course.records.note(None, note)

    def _put_back(self, slot: int, feed: _Feed) -> None:
        """Let the node be itself again, and not the reading of its generator."""
        self._feeds.pop(slot)
        self._run.pumping.discard(slot)
        self._board.calls[slot], self._board.kinds[slot] = feed.call, feed.kind
        self._board.started[slot] = feed.started

    def _crowded(self, slot: int) -> bool:
        """Return whether so many invocations wait that reading on would only fill the memory."""
        most = 4 * self._board.slots + _GULP
        return any(
            sum(self._state.status(child) == PENDING for child in self._children[target]) > most
            for target in self._plan.successors[slot]
            if target in self._children
        )

    # --- ends and limits -------------------------------------------------------------------------

    def ended(self, slots: Collection[int]) -> None:
        """Take that invocations have ended: others may start, generators be read on."""
        if self._limits:
            for slot in slots:
                limit = (
                    self._limits.get(self._run.top(slot)) if slot in self._plan.parents else None
                )
                if slot in self._plan.mapped:
                    continue
                if limit is not None and slot in limit.released:
                    limit.released.discard(slot)
                    limit.running -= 1
                    self._release(limit)
        for source, feed in self._feeds.items():
            if feed.hungry and not self._crowded(source):
                feed.hungry = False
                self._sip(source)

    def _limit(self, slot: int) -> None:
        """Keep back an enabled invocation of a node that has enough of them running."""
        limit = self._limits.get(self._run.top(slot))
        if limit is None or slot in limit.released or slot in self._plan.mapped:
            return
        self._state.shelve(slot)
        limit.queue.append(slot)
        self._release(limit)

    def _release(self, limit: _Limit) -> None:
        while limit.queue and limit.running < limit.most:
            slot = limit.queue.popleft()
            if self._state.unshelve(slot):
                limit.running += 1
                limit.released.add(slot)

    def collects(self, parent: int) -> bool:
        """Return whether failed invocations of a node are values like any others."""
        return self._plan.mapped[parent].collect

    def failed_value(self, slot: int, error: BaseException) -> Failed:
        """Return what stands in the list for an invocation that failed."""
        info = error_info(error)
        attempts = self._run.attempts_made(slot)
        return Failed(self._plan.keys[slot], info.type, info.message, attempts)


def _sip(generator: Any) -> Any:
    """Return a call that reads some more items."""

    def sip(*_values: Any) -> Yielded:
        items: list[Any] = []
        until = time.perf_counter() + _SIP
        while True:
            try:
                items.append(next(generator))
            except StopIteration:
                return Yielded(items, True)
            except Exception as error:
                return Yielded(items, True, error)
            if len(items) >= _GULP or time.perf_counter() >= until:
                return Yielded(items, False)

    return sip


def _sip_async(generator: Any) -> Any:
    """Return the same for an async generator."""

    async def sip(*_values: Any) -> Yielded:
        items: list[Any] = []
        until = time.perf_counter() + _SIP
        while True:
            try:
                items.append(await anext(generator))
            except StopAsyncIteration:
                return Yielded(items, True)
            except Exception as error:
                return Yielded(items, True, error)
            if len(items) >= _GULP or time.perf_counter() >= until:
                return Yielded(items, False)

    return sip


def rebuild_children(run: Run, note: Mapping[str, Any]) -> None:
    """Make the invocations again that an earlier process had noted; their state comes later."""
    top = run.plan.index[note["open"]]
    at = note["at"]
    slot = top if not at else run.invocations[top, at]
    prefix = f"{at}." if at else ""
    made = add_children(run.plan, slot, [f"{prefix}{k}" for k in range(note["from"], note["to"])])
    run.invocations.update(((top, run.plan.keys[child]), child) for child in made)


def rebuild_items(run: Run, note: Mapping[str, Any]) -> None:
    """Take over what a generator had yielded in an earlier process."""
    slot = run.plan.index[note["yield"]]
    known = run.yielded.setdefault(slot, [])
    known[note["from"] :] = note["items"]
