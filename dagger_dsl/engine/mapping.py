"""Mapped nodes: one node, an invocation for each item of a list that is known only at run time.

A mapped node that is enabled is opened instead of called: each item gets a slot of its own, which
is scheduled, retried, timed and recorded like every other one, and the node completes with the list
of their values. A node that maps over a mapped node follows it item by item, and one that maps over
a generator begins while the generator still yields; neither waits for the whole list.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import ne
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.batches import ItemsFailed, failed_items
from dagger_dsl.engine.error_info import error_info
from dagger_dsl.engine.plan import UNSET, add_children
from dagger_dsl.engine.state import PENDING, WAITING
from dagger_dsl.errors import (
    ConfigurationError,
    EncodingError,
    InvalidState,
    MapError,
    OutputError,
    shown,
)
from dagger_dsl.model.context import Failed
from dagger_dsl.model.mapped import batched, has_items
from dagger_dsl.model.values import to_plain
from dagger_dsl.runners.base import TIMED, Overran, Yielded

if TYPE_CHECKING:
    from dagger_dsl.engine.course import Course
    from dagger_dsl.engine.instance import Run

__all__ = ["Maps", "rebuild_children", "rebuild_items"]

logger = logging.getLogger("dagger_dsl.engine")

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
        resting: It is not being read, and shall be.
    """

    generator: Any
    call: Any
    kind: int
    started: float
    items: list[Any] = attrs.field(factory=list)
    hungry: bool = False
    resting: bool = False


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
        self._thirsty: list[int] = []  # generators to be read on
        self._failures: dict[int, list[Any]] = {}  # results of batches of which items failed
        self._waiting: set[int] = set(run.plan.mapped)

    # --- opening and gathering -------------------------------------------------------------------

    def expand(self) -> bool:
        """Open or gather the mapped invocations among what is enabled, and limit the others.

        Returns:
            Whether there were any.
        """
        plan, state = self._plan, self._state
        found: list[int] = []
        if not plan.mapped.keys().isdisjoint(state.ready):  # thousands of invocations, most often
            found = [slot for slot in state.ready if slot in plan.mapped]
        start = 0
        for slot in found:
            place = state.ready.index(slot, start)
            del state.ready[place]
            if slot in self._children:
                self._gather(slot)
                start = 0
            else:
                count = len(state.ready)
                if self._open(slot):  # its invocations take its place in the line
                    fresh, state.ready[count:] = state.ready[count:], []
                    state.ready[place:place] = fresh
                    start = place + len(fresh)
                else:
                    start = 0
            if state.stopped or state.paused:
                break  # by a failure just now, perhaps: the others need not be enabled any more
        followed = self._follow()
        if self._limits:
            for slot in [slot for slot in state.ready if slot in plan.parents]:
                self._limit(slot)
        return bool(found) or followed

    def _open(self, slot: int) -> bool:
        """Make the invocations of a mapped one; False when it fails instead."""
        plan, board = self._plan, self._board
        spec = plan.mapped[slot]
        board.started[slot] = board.clock()
        value = board.arguments(slot)[spec.place]
        if value is UNSET:
            param = plan.actions[slot].param(spec.name)
            value = param.default if param is not None and not param.required else None
        try:
            items = _items_of(spec.name, value)
        except Exception as error:  # of the user's own iterator, too
            board.ended[slot] = board.started[slot]
            failed = MapError(str(plan.ids[slot]), self._at(slot), str(error))
            failed.__cause__ = error
            self._course.outcomes.fail(slot, failed)
            return False
        if spec.per_call > 1:
            items = batched(items, spec.per_call)
        children = self._enlist(slot, 0, len(items))
        self._give(children, items)
        self._children[slot] = children
        if slot not in plan.parents:
            self._limit_to(slot, plan.mapped[slot].most)
        self._state.open(slot, children, more=False)
        self._drop_rest(slot, len(items))
        if not any(self._state.status(child) in (PENDING, WAITING) for child in children):
            self._gather(slot)
        return True

    def _give(self, children: Sequence[int], items: Sequence[Any]) -> None:
        """Put the items of invocations onto the board."""
        values, place = self._board.values, self._place
        if children and place(children[-1]) - place(children[0]) == len(children) - 1:
            first = place(children[0])  # they rise, so they lie side by side
            values[first : first + len(children)] = items
            return
        for child, item in zip(children, items, strict=True):
            values[place(child)] = item

    def _place(self, child: int) -> int:
        """Return where the item of an invocation is, which its call is given."""
        plan = self._plan
        where = plan.bindings[child]
        if isinstance(where, tuple):
            return where[plan.mapped[plan.parents[child]].place]
        assert where is not None
        return where

    def _enlist(self, slot: int, start: int, end: int) -> list[int]:
        """Return the invocations of items *start* to *end*, making those that are not there."""
        run, plan = self._run, self._plan
        there = plan.children.count(slot)
        known = plan.children.slots(slot, start, end)
        if there >= end:
            return known
        made = add_children(plan, slot, end - there)
        run.enlist(slot, made)
        self._state.left += len(made)
        body = {"open": plan.ids[slot], "at": self._at(slot), "from": there, "to": end}
        self._course.records.note(None, body)
        return known + made if known else made

    def _drop_rest(self, slot: int, count: int) -> None:
        """End invocations of an earlier process that have no item any more."""
        children = self._plan.children
        for child in children.slots(slot, count, children.count(slot)):
            if self._state.status(child) in (PENDING, WAITING):
                self._state.drop(child, f"there is no item {children.key(child)} any more")

    def _gather(self, slot: int) -> None:
        """Complete an invocation with the values of its own ones."""
        run, board = self._run, self._board
        read = run.value if run.loaders else board.values.__getitem__
        values = list(map(read, self._children.pop(slot)))
        if self._plan.mapped[slot].per_call > 1:
            values = [each for batch in values for each in batch]
        board.ended[slot] = board.clock()
        self._limits.pop(slot, None)
        if slot in self._plan.parents:  # one level of several; the record has what it is made of
            board.values[slot] = values
            self._state.complete((slot,))
            self.ended((slot,))
        else:
            self._course.outcomes.complete(slot, values, None, False)

    def _at(self, slot: int) -> str:
        """Return the key of a mapped invocation, a text that is empty for the node itself."""
        return self._plan.children.key(slot) if slot in self._plan.parents else ""

    # --- following -------------------------------------------------------------------------------

    def _follow(self) -> bool:
        """Open what maps over something whose items come one by one, and waits for that alone.

        Returns:
            Whether there was any.
        """
        plan, state = self._plan, self._state
        before = len(self._children)
        if len(self._waiting) != len(plan.mapped):
            self._waiting = set(plan.mapped)
        for slot in sorted(self._waiting):
            if slot in plan.parents or slot in self._children or slot in plan.joins:
                continue
            if not plan.node(slot).enabled:
                continue
            source = self._source(slot)
            if source is None or not state.waits_only(slot):
                continue
            if source in self._children and self._pairs(slot, source):
                self._follow_map(slot, source)
            elif source in self._feeds:
                self._follow_feed(slot, source)
        return len(self._children) > before

    def _pairs(self, slot: int, source: int) -> bool:
        """Return whether each invocation of a mapped node can follow one of another."""
        leader, follower = self._plan.mapped[source], self._plan.mapped[slot]
        alike = leader.batch == follower.batch and leader.depth == follower.depth == 1
        return not leader.collect and (alike or leader.batch == follower.batch == 1)

    def _source(self, slot: int) -> int | None:
        """Return the node whose whole value a mapped node maps over."""
        where = self._board.bindings[slot]
        found = where if isinstance(where, int) else (where or ())[self._plan.mapped[slot].place]
        return found if found < len(self._plan.ids) and self._plan.ids[found] else None

    def _begin(self, slot: int) -> None:
        self._children[slot] = []
        self._limit_to(slot, self._plan.mapped[slot].most)
        self._board.started[slot] = self._board.clock()
        self._state.open(slot, (), more=True)

    def _follow_map(self, slot: int, source: int) -> None:
        """Let each invocation wait for the one of the same item."""
        self._begin(slot)
        self._pair(slot, self._children[source])

    def _pair(self, slot: int, leaders: Sequence[int]) -> None:
        """Add an invocation for each of some more that it follows."""
        plan, board, children = self._plan, self._board, self._children[slot]
        made = self._enlist(slot, len(children), len(children) + len(leaders))
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
        self._lead(slot, made)

    def _lead(self, slot: int, made: Sequence[int]) -> None:
        """Let those who follow a mapped node follow its new invocations."""
        for target in self._plan.successors[slot]:
            if target in self._children and self._source(target) == slot:
                self._pair(target, made)

    def _follow_feed(self, slot: int, source: int) -> None:
        self._begin(slot)
        self._feed_items(slot, self._feeds[source], False)

    def _pass_items(self, source: int, feed: _Feed, over: bool) -> None:
        for target in self._plan.successors[source]:
            if target in self._children and self._source(target) == source:
                self._feed_items(target, feed, over)

    def _feed_items(self, slot: int, feed: _Feed, over: bool) -> None:
        """Make invocations of what a generator has yielded so far.

        Args:
            slot: Who maps over it.
            feed: The generator.
            over: Nothing more comes, so what does not fill a batch is one, too.
        """
        # A generator that is read again gives what its followers have already.
        size = self._plan.mapped[slot].per_call
        rest = feed.items[size * len(self._children[slot]) :]
        if size > 1:
            rest = batched(rest, size)
            if rest and len(rest[-1]) < size and not over:
                del rest[-1]
        self._add_items(slot, rest)

    def _add_items(self, slot: int, items: Sequence[Any]) -> None:
        if not items:
            return
        children = self._children[slot]
        made = self._enlist(slot, len(children), len(children) + len(items))
        self._give(made, items)
        self._state.add_children(slot, made)
        children += made
        self._lead(slot, made)

    # --- generators ------------------------------------------------------------------------------

    def read(self, slot: int, generator: Any) -> bool:
        """Read a generator that a node returned, if somebody maps over it; else return False."""
        plan, run, board = self._plan, self._run, self._board
        mapped = (target for target in plan.targets(slot) if target in plan.mapped)
        if not any(self._source(target) == slot for target in mapped):
            return False
        self._feeds[slot] = _Feed(
            generator, board.calls[slot], board.kinds[slot], board.started[slot]
        )
        is_async = isinstance(generator, AsyncGeneratorType)
        run.stand_in(slot, _sip_async(generator) if is_async else _sip(generator), is_async)
        kind = board.kinds[slot] | TIMED
        if slot in board.limits and kind not in board.beyond:
            board.kinds[slot] = kind
        run.pumping.add(slot)
        self._sip(slot)
        return True

    def _sip(self, slot: int) -> None:
        """Have a worker read some more of a generator, behind what waits for its items."""
        self._feeds[slot].resting = True
        self._thirsty.append(slot)

    def sips(self) -> list[int]:
        """Return the generators that are to be read on now."""
        thirsty, self._thirsty = self._thirsty, []
        for slot in thirsty:
            self._feeds[slot].resting = False
        return thirsty

    def let_go(self, slots: Collection[int]) -> None:
        """End generators that nobody reads just now; the others end when they come back."""
        for slot in [slot for slot in slots if slot in self._feeds]:
            feed = self._feeds[slot]
            if feed.hungry or feed.resting:
                self._close(slot, feed)
                self._course.cancelled(slot)

    def close(self) -> None:
        """End every generator; the run has ended or stands still."""
        for slot, feed in list(self._feeds.items()):
            self._close(slot, feed)

    def _close(self, slot: int, feed: _Feed) -> None:
        self._put_back(slot, feed)
        if not isinstance(feed.generator, GeneratorType):
            return  # its loop ends an async one, and other iterators have nothing to end
        try:
            feed.generator.close()
        except Exception:  # the user's own clean-up; a thread may even be in it
            ref, tags = self._run.ref(slot), self._run.tags(slot)
            logger.exception("the generator of %s could not be closed", ref, extra=tags)

    def take(self, slot: int, found: Yielded, now: float) -> None:
        """Take what was read of a generator."""
        course = self._course
        feed = self._feeds[slot]
        if self._state.stopped or slot in course.victims:
            self._close(slot, feed)
            course.cancelled(slot)
            return
        course.outcomes.clear_seats(slot)
        try:
            self._compare(slot, feed, found)
        except (OutputError, EncodingError) as error:
            self._put_back(slot, feed)
            course.outcomes.fail(slot, error)
            return
        self._pass_items(slot, feed, False)
        self._follow()
        if found.over and found.error is None:
            self._pass_items(slot, feed, True)
        limit = self._board.limits.get(slot)
        failure = found.error
        if failure is None and limit is not None and now - feed.started > limit:
            failure = Overran(limit)  # all of it together, however quick each item was
        if failure is not None:
            self._put_back(slot, feed)
            course.outcomes.raised(slot, failure, now)
        elif found.over:
            self._put_back(slot, feed)
            course.outcomes.answer(slot, feed.items, None)
        elif self._crowded(slot):
            feed.hungry = True
        else:
            self._sip(slot)

    def _compare(self, slot: int, feed: _Feed, found: Yielded) -> None:
        """Note what was yielded; what an earlier reading had yielded has to come again."""
        run, name = self._run, str(self._plan.ids[slot])
        known = run.yielded.setdefault(slot, [])
        start, items = len(feed.items), found.items
        feed.items += items
        kept: list[Any] = list(items)
        differs: Callable[[Any, Any], Any] = _differ
        if run.journal is not None:
            kept = [to_plain(item, f"item {start + k} of {name!r}") for k, item in enumerate(items)]
            differs = ne
        again = known[start : start + len(items)]
        for k, (before, now) in enumerate(zip(again, kept, strict=False), start):
            if differs(before, now):
                raise OutputError(_other_item(name, f"its item {k} is not what it was"))
        if found.over and found.error is None and len(feed.items) < len(known):
            text = f"it ended after {len(feed.items)} items and not after {len(known)}"
            raise OutputError(_other_item(name, text))
        fresh = kept[len(again) :]
        known += fresh
        if fresh and run.journal is not None:
            note = {"yield": name, "from": start + len(again), "items": fresh}
            self._course.records.note(None, note)

    def _put_back(self, slot: int, feed: _Feed) -> None:
        """Let the node be itself again, and not the reading of its generator."""
        self._feeds.pop(slot)
        if slot in self._thirsty:
            self._thirsty.remove(slot)
        self._run.pumping.discard(slot)
        self._board.calls[slot], self._board.kinds[slot] = feed.call, feed.kind
        self._board.started[slot] = feed.started

    def _crowded(self, slot: int) -> bool:
        """Return whether so many invocations wait that reading on would only fill the memory."""
        most = 4 * self._board.slots + _GULP
        return any(
            self._state.waits_for(target) > most
            for target in self._plan.successors[slot]
            if target in self._children
        )

    # --- ends and limits -------------------------------------------------------------------------

    def ended(self, slots: Collection[int]) -> None:
        """Take that invocations have ended, or wait: others may start, generators be read on."""
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

    def _limit_to(self, slot: int, most: int | None) -> None:
        if most is not None and most < self._board.slots:  # else the run has no room for more
            self._limits[slot] = _Limit(most)

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

    def failed_value(self, slot: int, error: BaseException) -> Failed | list[Any]:
        """Return what stands in the list for an invocation that failed; for a batch, a list."""
        attempts = self._run.attempts_made(slot)

        def failed(key: str, error: BaseException) -> Failed:
            info = error_info(error)
            return Failed(key, info.type, info.message, attempts)

        key, size = self._plan.children.key(slot), self._plan.batch(slot)
        if size == 1:
            return failed(key, error)
        results = self._failures.pop(slot, None)
        if results is None:  # it came to no end: all of its items failed
            results = [error] * self._batch_size(slot)
        return failed_items(key, size, results, failed)

    def check_batch(self, slot: int, value: Any) -> None:
        """Refuse a value that is none of a batch; what stands in for one may give anything.

        Raises:
            OutputError: It is not a list of as many results as there are items.
        """
        size = self._batch_size(slot)
        if not isinstance(value, list) or len(value) != size:
            raise OutputError(
                f"node {self._plan.ids[slot]!r}: what stands in for a batch of {size} items gives "
                f"a list of as many results, not {shown(value, 60)}"
            )

    def _batch_size(self, slot: int) -> int:
        place = self._plan.mapped[self._plan.parents[slot]].place
        return len(self._board.arguments(slot)[place])

    def take_failures(self, slot: int, error: BaseException) -> tuple[BaseException, bool]:
        """Keep the results of a batch some of whose items failed.

        Returns:
            What the first of them raised, and whether there is no other attempt.
        """
        self._failures.pop(slot, None)
        if not isinstance(error, ItemsFailed):
            return error, False
        self._failures[slot] = error.results
        return error.first, error.final


def _items_of(name: str, value: Any) -> list[Any]:
    """Return the items of what is mapped over.

    Raises:
        ConfigurationError: It has none.
    """
    if not has_items(value):
        advice = "; give it a list, or anything else with items"
    elif isinstance(value, Iterator):
        advice = " and can be read only once; give it list(...) of that"
    else:
        return list(value)
    raise ConfigurationError(
        f"it maps over its input {name!r}, which is {shown(value, 100)}{advice}"
    )


def _differ(before: Any, now: Any) -> bool:
    """Whether two items that are not stored are known to differ."""
    try:
        return bool(to_plain(before) != to_plain(now))
    except EncodingError:  # who could tell
        return False


def _other_item(name: str, what: str) -> str:
    return (
        f"node {name!r} is a generator that was read again, and {what}; what others map over has "
        "to yield the same items each time"
    )


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
    """Make the invocations again that an earlier process had noted; their state comes later.

    Raises:
        InvalidState: There is no such mapped node; the note was changed from outside.
    """
    plan = run.plan
    slot = run.slot_named(note["open"], note["at"])
    if slot is None or slot not in plan.mapped:
        at = f"[{note['at']}]" if note["at"] else ""
        raise InvalidState(
            f"run {run.run_id} has a record of items of node {note['open']!r}{at}, which maps over "
            "nothing; the database was changed from outside"
        )
    missing = note["to"] - plan.children.count(slot)
    if missing > 0:
        add_children(plan, slot, missing)


def rebuild_items(run: Run, note: Mapping[str, Any]) -> None:
    """Take over what a generator had yielded in an earlier process."""
    slot = run.plan.index[note["yield"]]
    known = run.yielded.setdefault(slot, [])
    known[note["from"] :] = note["items"]
