"""The board that a coordinator and its runner share, and the loop in which calls are made.

A runner knows nothing of graphs. The coordinator puts released slots on `Board.go`; workers take
them off, call, and put the outcome on `Board.done` (or `Board.odd`, for everything but a plain
value). Whoever has nothing left to do steps the coordinator itself: a lone successor, a commit or a
hook then needs no hand-over to another thread. Deques and lists are the only things that workers
share; one append or one item assignment is atomic, so the hot loop takes no lock.

`done` holds bare integers, and times and values lie in lists by slot, so that a node leaves next to
nothing for the garbage collector to walk.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    MutableSequence,
)
from math import inf
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, Protocol

from dagger_dsl.model.context import Branch, NodeOutput
from dagger_dsl.model.jobs import WAITS

__all__ = [
    "ANSWERS",
    "ASYNC",
    "TIMED",
    "Bell",
    "Board",
    "Left",
    "Overran",
    "Reply",
    "Runner",
    "Writing",
    "Yielded",
    "await_here",
    "awaited",
    "labour",
]

#: Bits of `Board.kinds`; 0 is a plain function without a time limit.
ASYNC: Final = 1
TIMED: Final = 2


class Writing:  # an outcome between rooms, never shown to users
    """An answer, and what the call wrote elsewhere than among its own outputs.

    Attributes:
        answer: What the call returned.
        written: Values by namespace and key.
    """

    __slots__ = ("answer", "written")

    def __init__(self, answer: Any, written: Mapping[tuple[str, str], Any]) -> None:
        self.answer = answer
        self.written = written


class Yielded:  # an outcome between rooms, never shown to users
    """Some items of a generator that others map over.

    Attributes:
        items: What it yielded since the last time.
        over: Whether it has ended.
        error: What it raised instead of going on.
    """

    __slots__ = ("error", "items", "over")

    def __init__(self, items: list[Any], over: bool, error: BaseException | None = None) -> None:
        self.items = items
        self.over = over
        self.error = error


class Suspended:  # an outcome between rooms, never shown to users
    """A nested run stands still; its node is called again when the run around it goes on.

    Attributes:
        reason: Why, for people.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


# Python's own iterators: whoever reads one first leaves nothing for the others.
_TURNED: tuple[Any, ...] = ([], {}, {}.values(), {}.items())
_READ: tuple[Any, ...] = (*_TURNED, (), set(), "", "é", b"", range(0), range(1 << 70))
_ITERATORS = (
    *(map, zip, filter, enumerate, reversed, type(iter(int, 1))),
    *(type(iter(each)) for each in _READ),
    *(type(reversed(each)) for each in _TURNED),
    *(each for each in vars(itertools).values() if hasattr(each, "__next__")),
)

#: Results that the coordinator has to look at; everything else is a plain value.
ANSWERS: Final = frozenset(
    {
        *_ITERATORS,
        NodeOutput,
        Branch,
        *WAITS,
        Writing,
        Yielded,
        Suspended,
        CoroutineType,
        GeneratorType,
        AsyncGeneratorType,
    }
)


class Overran(Exception):  # an outcome between rooms, never shown to users
    """An attempt passed its time limit; the coordinator turns it into a `NodeTimeout`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(seconds)


class Left(BaseException):  # an outcome between rooms, never shown to users
    """A call was asked to end and has come to the next item of a stream; no body catches it."""


class Reply:
    """The answer of something that is awaited elsewhere.

    Attributes:
        done: Whether it is there.
        value: What was returned.
        error: What was raised instead.
        cancel: Asks whoever makes it to stop.
    """

    __slots__ = ("cancel", "done", "error", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.cancel: Callable[[], None] = lambda: None

    def give(self, value: Any, error: BaseException | None = None) -> None:
        """Deliver it; only the first one counts."""
        if not self.done:
            self.value, self.error = value, error
            self.done = True


def await_here(coroutine: Coroutine[Any, Any, Any], reply: Reply) -> None:
    """Await something where no runner has a loop (any more): on one of its own, in a thread."""

    def work() -> None:
        import asyncio

        try:
            reply.give(asyncio.run(awaited(coroutine)))
        except BaseException as error:
            reply.give(None, error)

    thread = threading.Thread(target=work, name="dagger-dsl-hook", daemon=True)
    thread.start()
    thread.join()


async def awaited(awaitable: Awaitable[Any]) -> Any:
    """Return what an awaitable gives, as a coroutine."""
    return await awaitable


class Bell:
    """Wakes one waiting thread; a ring that nobody heard is kept."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def ring(self) -> None:
        """Wake whoever waits, or whoever waits next."""
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Wait for a ring, at most *seconds* (infinity is for ever)."""
        # An hour at a time: some platforms refuse longer waits, and signals stay prompt.
        self._event.wait(None if seconds == inf else min(seconds, 3600.0))
        self._event.clear()


def _over(_now: float) -> bool:
    return False


def _nothing() -> None:
    pass


def _no_halt(_slots: Collection[int]) -> None:
    pass


class Board:
    """What a coordinator and its runner share.

    Attributes:
        go: Released slots, first in, first out.
        done: Slots whose call returned a plain value, which is in `values`.
        odd: ``(slot, answer or exception)`` of all other outcomes.
        calls, bindings, kinds, limits: What to call, with which slots' values; see `engine.plan`.
        values: Results and inputs by slot.
        started, ended: Clock readings of the last attempt by slot, 0.0 before the first.
        slots: How many calls may run at the same time.
        flight: The slot that each worker called last, by its seat; a recorded run keeps it in a
            file that outlives the process.
        clock: Monotonic seconds.
        lock: Held by the thread that steps, where several may.
        step: Lets the coordinator take outcomes and release calls; False when the run is over.
        announce: Called with the slot and the clock just before each call; None when nobody looks.
            By one thread at a time, and not during a step: a runner of several threads sees to it.
            The call is not made when it answers False.
        between: Makes a call between two steps, while nobody else does; once the run is over it
            may make none.
        beyond: Kinds of calls that the runner cannot make.
        lingers: The runner has things to do between the end of the run and its own return.
        due: When a worker steps the coordinator although `go` is not empty.
        latest: From when on a worker waits for its turn to step; before, it leaves the step to
            whoever is at it, and goes on.
        wake_at: When the coordinator wants a step although nothing arrived.
        ring: Asks the runner's driver for a step soon; safe from any thread.
        interrupt: Tells the coordinator that the waiting thread or task was interrupted.
        spawn: Has a coroutine awaited and its answer delivered, then rings.
        listening: The coordinator waits for such an answer and takes no outcomes meanwhile.
        halt: Cancels running calls that can be cancelled (async ones).
    """

    __slots__ = (
        "announce",
        "between",
        "beyond",
        "bindings",
        "calls",
        "clock",
        "done",
        "due",
        "ended",
        "flight",
        "go",
        "halt",
        "interrupt",
        "kinds",
        "latest",
        "limits",
        "lingers",
        "listening",
        "lock",
        "odd",
        "ring",
        "slots",
        "spawn",
        "started",
        "step",
        "values",
        "wake_at",
    )

    def __init__(
        self,
        *,
        calls: list[Callable[..., Any]],
        bindings: list[int | tuple[int, ...] | None],
        kinds: bytearray,
        limits: dict[int, float],
        values: list[Any],
        slots: int,
        clock: Callable[[], float],
    ) -> None:
        self.go: deque[int] = deque()
        self.done: deque[int] = deque()
        self.odd: deque[tuple[int, Any]] = deque()
        self.calls = calls
        self.bindings = bindings
        self.kinds = kinds
        self.limits = limits
        self.values = values
        self.started = [0.0] * len(kinds)
        self.ended = [0.0] * len(kinds)
        self.slots = slots
        self.flight: MutableSequence[int] = [-1] * (2 * slots)  # as many threads, as many tasks
        self.clock = clock
        self.lock = threading.Lock()
        self.step: Callable[[float], bool] = _over
        self.announce: Callable[[int, float], bool] | None = None
        self.between: Callable[[Callable[[], None]], None] = lambda act: act()
        self.beyond: frozenset[int] = frozenset()
        self.lingers = False
        self.due = inf
        self.latest = inf
        self.wake_at = inf
        self.ring: Callable[[], None] = _nothing
        self.interrupt: Callable[[], None] = _nothing
        self.halt: Callable[[Collection[int]], None] = _no_halt
        self.spawn: Callable[[Coroutine[Any, Any, Any], Reply], None] = await_here
        self.listening = False

    def forget(self) -> None:
        """Let go of whoever stepped, called and listened; the run is over."""
        self.step, self.interrupt, self.ring = _over, _nothing, _nothing
        self.halt, self.spawn, self.announce = _no_halt, await_here, None
        self.calls = []

    def arguments(self, slot: int) -> tuple[Any, ...]:
        """Return the positional arguments of one call, as they are bound now."""
        where = self.bindings[slot]
        if where is None:
            return ()
        if where.__class__ is int:
            return (self.values[where],)
        return tuple([self.values[each] for each in where])  # type: ignore[union-attr]

    def settle(self, slot: int, value: Any) -> bool:
        """Deliver what a call returned; False when it was no plain value."""
        if value.__class__ in ANSWERS:
            self.odd.append((slot, value))
            return False
        self.values[slot] = value
        self.done.append(slot)
        return True


class Runner(Protocol):
    """Runs the calls of one board until its coordinator says that the run is over."""

    def run(self, board: Board) -> None:
        """Block until the run is over.

        Raises:
            KeyboardInterrupt: The user interrupted the calling thread; nothing was swallowed.
        """
        ...


def labour(
    board: Board,
    step: Callable[[float], bool],
    idle: Callable[[], bool],
    special: Callable[[int], bool],
    seat: int = 0,
) -> None:
    """Make released calls until the run is over.

    Args:
        board: Where calls and outcomes are.
        step: Steps the coordinator, or leaves that to whoever is doing it; False ends the loop.
        idle: Called when there is nothing to do; waits, and returns False to end the loop.
        special: Makes a call whose kind is not 0; returns False to end the loop.
        seat: Where the worker notes what it calls.
    """
    go, pop = board.go, board.go.popleft
    calls, bindings, kinds, values = board.calls, board.bindings, board.kinds, board.values
    started, ended, clock = board.started, board.ended, board.clock
    flight, announce = board.flight, board.announce
    done, odd, value_at = board.done.append, board.odd.append, board.values.__getitem__
    now = clock()
    while step(now):
        if not go:
            if not idle():
                return
            now = clock()
            continue
        due = board.due
        while go:
            try:
                slot = pop()
            except IndexError:  # another worker was faster
                break
            if kinds[slot]:
                if not special(slot):
                    return
                now = clock()
                if now >= due:
                    break
                continue
            where = bindings[slot]
            if announce is not None:
                if not announce(slot, clock()):
                    continue
                due = board.due  # a hook that was told may have asked for something
            flight[seat] = slot
            started[slot] = clock()
            try:
                if where is None:
                    value = calls[slot]()
                elif where.__class__ is int:
                    value = calls[slot](values[where])
                else:
                    value = calls[slot](*map(value_at, where))  # type: ignore[arg-type]
            except BaseException as error:
                now = ended[slot] = clock()
                odd((slot, error))
                break
            now = ended[slot] = clock()
            if value.__class__ in ANSWERS:
                odd((slot, value))
                value = None
                break
            values[slot] = value
            value = None  # who calls something long next must not hold what may be freed
            done(slot)
            if now >= due:
                break
