"""Streams: a node that yields, and the one node that takes its items while they are made.

The generator that a node returned is its consumer's from then on: the consumer starts, and each
item is made when it asks for one, in its own thread or task. There is no queue between the two, so
one slot is enough for both, memory holds one item, and nothing is made that nobody takes.

They are one unit. The node that yields ends when its consumer does; an error of either begins the
unit anew, with fresh generators, under the retry policy of the one whose body raised. A consumer
may yield itself, so units are chains, or trees.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.state import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PENDING,
    SKIPPED,
    WAITING,
)
from dagger_dsl.errors import OutputError
from dagger_dsl.model.streaming import Kind, Stream, Taker, stream_faults, takers_of, wants_async
from dagger_dsl.runners.base import Left

if TYPE_CHECKING:
    from dagger_dsl.engine.course import Course
    from dagger_dsl.engine.instance import Run

__all__ = ["Intake", "Streams"]

logger = logging.getLogger("dagger_dsl.engine")


class Reading:
    """The items of one attempt of one node, on their way to its consumer.

    Attributes:
        source: The slot of the node that yields.
        kind: How they are read.
        over: Nobody wants any more of them.
        stale: Another attempt of the node has begun, which has the node's times.
        error: What the body of the node raised.
    """

    __slots__ = (
        "_closed",
        "_iterator",
        "_pulled",
        "_reader",
        "_run",
        "_upstream",
        "error",
        "kind",
        "over",
        "source",
        "stale",
    )

    def __init__(self, run: Run, source: int, iterator: Any) -> None:
        self._run = run
        self._iterator = iterator
        self._reader: Any = None
        self._closed = self._pulled = False
        # Kept: later attempts of the node read others.
        intake = run.streams.get(source)
        self._upstream = () if intake is None else tuple(intake.readings.values())
        self.source = source
        self.kind: Kind = "async" if isinstance(iterator, AsyncIterator) else "sync"
        self.over = self.stale = False
        self.error: BaseException | None = None

    def is_made_here(self) -> bool:
        """Return whether something of the items is made in this process, which cannot be ended."""
        outside = self._run.outside
        if outside is None or not outside.makes(self.source):
            return True
        return any(each.is_made_here() for each in self._upstream)

    def open(self, as_async: bool) -> Any:
        """Return what the consumer reads.

        Args:
            as_async: Whether it is to be read with ``async for``.
        """
        if self.kind == "async":
            self._reader = self._awaited_items()
        elif as_async:
            from dagger_dsl.engine.pulling import pulled  # few consumers ask for it

            self._reader, self._pulled = pulled(self._items(), self.stop, self._shut), True
        else:
            self._reader = self._items()
        return self._reader

    def _items(self) -> Iterator[Any]:
        self._begin()
        try:
            for item in self._iterator:
                if self.over:
                    raise Left
                yield item
        except (Exception, SystemExit) as error:
            self.error = error
            raise
        finally:
            self._end()

    async def _awaited_items(self) -> AsyncIterator[Any]:
        self._begin()
        try:
            async for item in self._iterator:
                yield item
        except (Exception, SystemExit) as error:
            self.error = error
            raise
        finally:
            self._end()

    def _begin(self) -> None:
        if not self.stale:
            self._run.board.started[self.source] = self._run.board.clock()

    def _end(self) -> None:
        if not self.stale:
            self._run.board.ended[self.source] = self._run.board.clock()

    def stop(self) -> None:
        """Want no more items, of those that it is made of neither; from any thread."""
        self.over = True
        for each in self._upstream:
            each.stop()

    def close(self) -> None:
        """End the generator, and those that it reads.

        Raises:
            Exception: What its own clean-up raised.
        """
        if self._closed:
            return
        self._closed = self.over = True
        with ExitStack() as stack:
            for each in self._upstream:
                stack.callback(each.close)
            stack.callback(self._shut)
            if self._reader is not None and hasattr(self._reader, "close"):
                stack.callback(self._reader.close)

    async def aclose(self) -> None:
        """End the generator, and those that it reads, where it can be awaited.

        Raises:
            Exception: What its own clean-up raised.
        """
        if self._closed:
            return
        self._closed = self.over = True
        async with AsyncExitStack() as stack:
            for each in self._upstream:
                stack.push_async_callback(each.aclose)
            if not self._pulled:  # else the thread that makes the items does it
                stack.push_async_callback(self._shut_async)
            if hasattr(self._reader, "aclose"):
                stack.push_async_callback(self._reader.aclose)
            elif self._reader is not None:
                stack.callback(self._reader.close)

    def _shut(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            try:
                close()
            except Exception as error:
                self.error = error
                raise

    async def _shut_async(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is None:
            self._shut()
            return
        try:
            await close()
        except Exception as error:
            self.error = error
            raise


class Intake:
    """The streams that one attempt of one node reads.

    Attributes:
        slot: The consumer.
        readings: What it reads, by the slot of the node that yields.
        busy: Its call is being made, so what it reads is its own.
        handed_on: It yields, and its consumer ends what it reads.
    """

    __slots__ = ("_run", "busy", "handed_on", "readings", "slot")

    def __init__(self, run: Run, slot: int) -> None:
        self._run = run
        self.slot = slot
        self.readings: dict[int, Reading] = {}
        self.busy = self.handed_on = False

    def reads_here(self) -> bool:
        """Return whether the call may wait for a body that nobody can end."""
        return any(each.is_made_here() for each in self.readings.values())

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call that is given the items, and closes what it has not read to its end."""
        if self._run.plan.actions[self.slot].is_async:

            async def read_async(*values: Any) -> Any:
                self.busy = True
                try:
                    async with AsyncExitStack() as stack:
                        given = self._opened(values, stack.push_async_callback, "aclose")
                        answer = await call(*given)
                        if isinstance(answer, (Iterator, AsyncIterator)):
                            stack.pop_all()  # it reads them itself, when it is read
                    return answer
                finally:
                    self.busy = False

            return read_async

        def read(*values: Any) -> Any:
            self.busy = True
            try:
                with ExitStack() as stack:
                    given = self._opened(values, stack.callback, "close")
                    answer = call(*given)
                    if isinstance(answer, (Iterator, AsyncIterator)):
                        stack.pop_all()
                return answer
            finally:
                self.busy = False

        return read

    def _opened(
        self, values: tuple[Any, ...], at_end: Callable[[Callable[..., Any]], Any], how: str
    ) -> list[Any]:
        """Return the values of a call, with what it reads in its place."""
        run, plan = self._run, self._run.plan
        action, where = plan.actions[self.slot], run.board.bindings[self.slot]
        places = where if isinstance(where, tuple) else (where,)
        awaits = action.is_async or action.yields == "async"
        given = list(values)
        for k, place in enumerate(places):
            reading = None if place is None else self.readings.get(place)
            if reading is not None:
                wanted = action.hints().get(plan.names[self.slot][k], Any)
                given[k] = reading.open(awaits and wants_async(wanted))
                at_end(getattr(reading, how))
        return given


class Streams:
    """The streams of one run.

    Args:
        course: Where the run stands.
    """

    def __init__(self, course: Course) -> None:
        self._course = course
        self._run = course.run
        self._plan, self._state = course.plan, course.state
        self._run.token.subscribe(self._stop)

    # --- beginning -------------------------------------------------------------------------------

    def carry(self, slot: int, iterator: Any) -> bool:
        """Let whoever takes the value of a node read what it returned; False when nobody does.

        Raises:
            OutputError: It cannot be read so.
        """
        run, plan = self._run, self._plan
        if slot in plan.parents:
            return False
        takers = takers_of(str(plan.ids[slot]), self._targets(slot))
        if not takers:
            return False
        self._check(slot, iterator, takers)
        target = plan.index[takers[0].node.id]
        if slot in self._course.victims:
            self._close(Reading(run, slot, iterator))
            self._course.cancelled(slot)
            return True
        self._course.outcomes.clear_seats(slot)
        intake = run.streams.get(target)
        is_new = intake is None
        if intake is None:
            intake = run.streams[target] = Intake(run, target)
        intake.readings[slot] = Reading(run, slot, iterator)
        if is_new or run.outside is not None:  # who ends the call depends on all that it reads
            run.install(target)
        if slot in run.streams:
            run.streams[slot].handed_on = True
        run.feeding.add(slot)
        self._course.settle_paths()
        self._state.offer(target)
        return True

    def _targets(self, slot: int) -> list[Any]:
        plan = self._plan
        return [plan.node(target) for target in dict.fromkeys(plan.targets(slot))]

    def _check(self, slot: int, iterator: Any, takers: list[Taker]) -> None:
        """Refuse what nobody could see before the run.

        Raises:
            OutputError: There is something.
        """
        plan = self._plan
        kind: Kind = "async" if isinstance(iterator, AsyncIterator) else "sync"
        actions = {str(plan.ids[slot]): plan.actions[slot]}
        actions |= {each.node.id: plan.actions[plan.index[each.node.id]] for each in takers}
        by_name = {each.name: each for each in actions.values()}
        faults = stream_faults(
            plan.node(slot),
            plan.actions[slot],
            kind,
            takers,
            lambda name: by_name.get(name) or self._run.lookup(name),
            labelled=slot in plan.labelled,
            types=False,
        )
        for name, text in faults:
            raise OutputError(f"node {name!r}: {text}")

    # --- ends ------------------------------------------------------------------------------------

    def finish(self, slot: int) -> None:
        """Complete the nodes whose items went to a node that completes."""
        run, name = self._run, str(self._plan.ids[slot])
        intake = run.streams.pop(slot)
        self._let_go(intake)
        for source in intake.readings:
            run.feeding.discard(source)
            if self._state.status(source) in (PENDING, WAITING):
                stream = Stream(str(self._plan.ids[source]), name)
                self._course.outcomes.answer(source, stream, None)
        self._course.settle_paths()

    def broken(self, slot: int, error: BaseException) -> int:
        """Take that an attempt of a consumer raised; return the node whose body did.

        What else was part of the attempt waits to be called again with that node.
        """
        culprit = self._culprit(slot, error)
        self._let_go(self._run.streams[slot])
        self._restart(slot, culprit)
        return culprit

    def _culprit(self, slot: int, error: BaseException) -> int:
        """Return the node, at the far end of the streams that a node reads, which raised."""
        intake = self._run.streams.get(slot)
        for reading in () if intake is None else intake.readings.values():
            if reading.error is error:
                return self._culprit(reading.source, error)
        return slot

    def _restart(self, slot: int, but: int | None = None) -> None:
        """Have a node called again, and those whose items it takes.

        Args:
            slot: The node.
            but: The node that decides itself when that is.
        """
        if slot == but:
            return
        run = self._run
        run.once_more(slot)
        run.feeding.discard(slot)
        if slot not in run.streams:
            self._state.rerun(slot)
            return
        for source in self._withdrawn(slot):
            self._restart(source, but)

    def _withdrawn(self, slot: int) -> list[int]:
        """Let a consumer wait for its streams anew; return whose they are."""
        intake = self._run.streams.pop(slot)
        for reading in intake.readings.values():
            reading.stale = True
        self._run.install(slot)
        self._state.withdraw(slot, len(intake.readings))
        return list(intake.readings)

    def again(self, slot: int) -> None:
        """Let another attempt of a consumer begin, with those whose items it takes."""
        if self._state.status(slot) != WAITING:
            return  # it was cancelled meanwhile
        for source in self._withdrawn(slot):
            self._restart(source)
        self._course.settle_paths()

    def settle(self) -> None:
        """End the nodes whose consumer has ended without a value."""
        run, state = self._run, self._state
        ended = [slot for slot in run.streams if state.status(slot) not in (PENDING, WAITING)]
        for slot in ended:  # grows while it is walked
            if state.status(slot) == COMPLETED:
                self.finish(slot)
                continue
            intake = run.streams.pop(slot)
            self._let_go(intake)
            for source in intake.readings:
                run.feeding.discard(source)
                if state.status(source) in (PENDING, WAITING):
                    self._leave(source, slot)
                if source in run.streams:
                    ended.append(source)
        if ended:
            self._course.settle_paths()
            if state.ended:
                self._course.record_ends()

    def _leave(self, source: int, consumer: int) -> None:
        """End a node whose items nobody takes any more."""
        run, name = self._run, self._plan.ids[consumer]
        run.handling.pop(source, None)
        run.standing_in.discard(source)
        if source in self._course.dropped:
            self._course.cancelled(source)
            return
        code = self._state.status(consumer)
        what = {FAILED: "failed", SKIPPED: "was skipped"}.get(code, "was cancelled")
        kind = SKIPPED if code == SKIPPED else CANCELLED
        self._state.leave(source, kind, f"nobody takes its items: {name!r} {what}")

    def halt(self, slots: Collection[int]) -> None:
        """Ask consumers to end at their next item."""
        for slot in slots:
            intake = self._run.streams.get(slot)
            if intake is not None:
                self._tell(intake)

    def _stop(self) -> None:
        """Ask all of them; in a sequential run nobody steps while one of them is called."""
        for intake in list(self._run.streams.values()):
            self._tell(intake)

    def _tell(self, intake: Intake) -> None:
        for reading in list(intake.readings.values()):
            reading.stop()

    def _let_go(self, intake: Intake) -> None:
        """End what a consumer reads, unless it is at it: then it ends that itself."""
        self._tell(intake)
        if not (intake.busy or intake.handed_on):
            for reading in intake.readings.values():
                self._close(reading)

    def _close(self, reading: Reading) -> None:
        try:
            reading.close()
        except Exception:  # the user's own clean-up
            ref = self._run.ref(reading.source)
            logger.exception("the generator of %s could not be closed", ref)

    def close(self) -> None:
        """End every stream; the run has ended or stands still."""
        for intake in list(self._run.streams.values()):
            self._let_go(intake)
