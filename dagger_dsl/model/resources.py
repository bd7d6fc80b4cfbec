"""`ResourceTracker`: how many calls run at the same time, and how much memory they may take.

One tracker is shared by whatever is given it: runs of graphs, nested ones too, and the workers of
tasks. Before a call begins it is *asked* for, and begins once there is room; until then it holds no
worker. The tracker counts what calls declare. It measures nothing, and stops nobody.

Who waits, waits in line. What the first one in line needs is kept for it as it comes free, so that
many small calls do not starve a large one; only what is left over goes to those behind.

A body that runs a graph itself waits for calls that are asked for *inside* of its own, and would
wait for ever if what these need were what it holds. Therefore:

- a call lends its place to one call inside of it at a time; others take places of their own;
- a call that declares memory pays what runs inside of it out of that: a call that needs more is
  refused. One that declares none holds none, and what runs inside of it asks for itself;
- what waits only for memory, as a place is lent to it, stands before everybody else.

So whoever holds memory never waits for more of it, and something always goes on. A node whose body
is a workflow runs nothing itself and holds nothing: only what runs inside of it does.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Any, Final, Never
from weakref import WeakSet

from dagger_dsl.errors import ConfigurationError, ResourceExhausted, shown
from dagger_dsl.model.policies import whole_number

__all__ = ["ResourceTracker", "Ticket", "as_tracker", "byte_count", "held_here", "holding"]

_MOST_BYTES: Final = 2**63 - 1

_WAITING, _GRANTED, _OVER = range(3)

#: All there are: what they count is over in a child of this process, and so may be their locks.
_all: WeakSet[ResourceTracker] = WeakSet()

#: The tickets of the calls that this one is made inside of, the innermost last.
_held: ContextVar[tuple[Ticket, ...]] = ContextVar("dagger_dsl_tickets", default=())


class Ticket:
    """The right of one call to run, asked for or granted.

    Attributes:
        memory: Bytes that the call declares.
        refused: Why it will never be granted; None where it may be.
    """

    __slots__ = (
        "_free",
        "_inside",
        "_lent",
        "_life",
        "_parent",
        "_place",
        "_state",
        "_wake",
        "_what",
        "memory",
        "refused",
        "tracker",
    )

    def __init__(
        self,
        tracker: ResourceTracker,
        what: str,
        memory: int,
        wake: Callable[[], None],
        parent: Ticket | None,
    ) -> None:
        self.tracker = tracker
        self.memory = memory
        self.refused: ResourceExhausted | None = None
        self._what = what
        self._wake = wake
        self._parent = parent
        self._life = tracker._life
        self._state = _WAITING
        self._free = memory  # what is left of it for calls inside
        self._inside = 0  # calls inside that hold something, or wait
        self._lent: Ticket | None = None
        self._place: Ticket | None = None  # who has lent its place

    @property
    def granted(self) -> bool:
        """Whether the call may run, and has not ended."""
        return self._state == _GRANTED

    def release(self) -> None:
        """Say that the call has ended, or will not begin; safe from any thread, more than once.

        What is taken from it inside stays taken until that has ended, too.
        """
        self.tracker._release(self)

    def purse(self) -> Ticket | None:
        """Return the call that pays the memory; None where the tracker does."""
        each = self._parent
        while each is not None and not each.memory:
            each = each._parent
        return each


class ResourceTracker:
    """Limits of what runs at the same time, shared by all that are given it.

    ``DagExecutor(resources=tracker)``, ``RunOptions(resources=tracker)`` and
    ``TaskManager(resources=tracker)`` have each call of a node, and each call of an agent, wait
    until there is room for it. Those that wait hold no worker. Limits may be changed at any time;
    what runs already goes on.

    The memory is what ``@action(memory=...)`` and ``@task_agent(memory=...)`` declare, in bytes;
    nobody measures what a call takes, or ends one that takes more. A call takes its part when it is
    released to a worker, and gives it back when it has ended in whatever way: also when it was left
    behind in a thread that cannot be stopped. A failure handler and a fallback are called with
    what their node has taken. A generator that is read later takes its part for each reading, and
    one whose items another node takes one by one while they are made counts with that node.

    A body that waits for a graph that it runs with the same tracker cannot block it: what runs
    inside is paid out of what the body has taken; see the module. One that waits for something
    else, such as a job that other threads work on, goes on holding what it has.

    It counts for one process, and cannot be sent to another one; in a process that was forked
    nothing is taken.

    Args:
        memory_limit: Bytes that may be taken at the same time; None for any number.
        task_limit: Calls that may run at the same time; None for any number.

    Raises:
        ConfigurationError: A limit is no such number.
    """

    def __init__(self, memory_limit: int | None = None, task_limit: int | None = None) -> None:
        self._memory_limit = _memory_limit(memory_limit)
        self._task_limit = _task_limit(task_limit)
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._life = object()  # tickets of another one are not ours
        self._memory = 0
        self._tasks = 0
        # In the order in which they came; the first one holds what is asked for inside of others.
        self._nested: OrderedDict[Ticket, None] = OrderedDict()
        self._line: OrderedDict[Ticket, None] = OrderedDict()

    def __repr__(self) -> str:
        return (
            f"<ResourceTracker: {self._tasks} of {_or_any(self._task_limit)} calls, "
            f"{self._memory} of {_or_any(self._memory_limit)} bytes, {self.waiting} waiting>"
        )

    def __reduce__(self) -> Never:
        raise TypeError(
            "a ResourceTracker counts for one process and cannot be sent to another one, or stored"
        )

    # --- limits ----------------------------------------------------------------------------------

    @property
    def memory_limit(self) -> int | None:
        """Bytes that may be taken at the same time; None for any number."""
        return self._memory_limit

    @property
    def task_limit(self) -> int | None:
        """Calls that may run at the same time; None for any number."""
        return self._task_limit

    def set_memory_limit(self, memory_limit: int | None) -> None:
        """Change how many bytes may be taken; what waits for more than that is refused at once.

        Raises:
            ConfigurationError: It is no number of bytes.
        """
        limit = _memory_limit(memory_limit)
        with self._lock:
            self._memory_limit = limit
            woken = self._refuse() + self._serve()
        _wake(woken)

    def set_task_limit(self, task_limit: int | None) -> None:
        """Change how many calls may run at the same time.

        Raises:
            ConfigurationError: It is no number of calls.
        """
        limit = _task_limit(task_limit)
        with self._lock:
            self._task_limit = limit
            woken = self._serve()
        _wake(woken)

    # --- what is taken ---------------------------------------------------------------------------

    @property
    def memory_in_use(self) -> int:
        """Bytes that are taken now."""
        return self._memory

    @property
    def tasks_in_use(self) -> int:
        """Places that are taken now; a call that was lent the place of another one has none."""
        return self._tasks

    @property
    def waiting(self) -> int:
        """Calls that wait for room, as far as they have been asked for."""
        return len(self._line) + len(self._nested)

    # --- for engine and agents -------------------------------------------------------------------

    def check(self, what: str, memory: int, inside: tuple[Ticket, ...] = ()) -> None:
        """Refuse a call for which there can never be room.

        Raises:
            ResourceExhausted: It declares more memory than the limit, or than is left to it by the
                call that it is made inside of.
        """
        with self._lock:
            error = self._misfit(what, memory, self._parent(inside))
        if error is not None:
            raise error

    def ask(
        self, what: str, memory: int, wake: Callable[[], None], inside: tuple[Ticket, ...] = ()
    ) -> Ticket:
        """Ask for room for a call; what is not granted, or refused, at once waits in line.

        Args:
            what: The call, for errors.
            memory: Bytes that it declares.
            wake: Called when it is granted or refused later, from another thread.
            inside: What is held by the calls that it is made inside of; see `held_here`.
        """
        with self._lock:
            parent = self._parent(inside)
            ticket = Ticket(self, what, memory, wake, parent)
            ticket.refused = self._misfit(what, memory, parent)
            if ticket.refused is not None:
                ticket._state = _OVER
                return ticket
            if parent is not None:
                parent._inside += 1
            (self._line if parent is None else self._nested)[ticket] = None
            woken = [each for each in self._serve() if each is not ticket]
        _wake(woken)  # nobody, unless what was left over was too little before
        return ticket

    def _parent(self, inside: tuple[Ticket, ...]) -> Ticket | None:
        for each in reversed(inside):
            if each._life is self._life and each._state == _GRANTED:
                return each
        return None

    def _misfit(self, what: str, memory: int, parent: Ticket | None) -> ResourceExhausted | None:
        purse = parent if parent is None or parent.memory else parent.purse()
        most = self._memory_limit if purse is None else purse.memory
        if most is None or memory <= most:
            return None
        return ResourceExhausted(what, memory, most, "" if purse is None else purse._what)

    def _refuse(self) -> list[Ticket]:
        """Take out of the line what can never be granted any more."""
        found = []
        for line in (self._nested, self._line):
            for ticket in list(line):
                error = self._misfit(ticket._what, ticket.memory, ticket._parent)
                if error is not None:
                    ticket.refused = error
                    self._leave(ticket)
                    found.append(ticket)
        return found

    def _leave(self, ticket: Ticket) -> None:
        """Take one that waits out of the line."""
        ticket._state = _OVER
        (self._line if ticket._parent is None else self._nested).pop(ticket)
        self._left(ticket._parent)

    def _left(self, parent: Ticket | None) -> None:
        """Note that a call inside of another one is over."""
        if parent is not None:
            parent._inside -= 1
            if parent._state == _OVER and not parent._inside:
                self._give_back(parent)

    def _release(self, ticket: Ticket) -> None:
        with self._lock:
            state = ticket._state
            if state == _OVER or ticket._life is not self._life:
                return
            if state == _WAITING:
                self._leave(ticket)
            else:
                ticket._state = _OVER
                if not ticket._inside:
                    self._give_back(ticket)
            woken = self._serve()
        _wake(woken)

    def _give_back(self, ticket: Ticket) -> None:
        purse = ticket.purse()
        if purse is None:
            self._memory -= ticket.memory
        else:
            purse._free += ticket.memory
        if ticket._place is None:
            self._tasks -= 1
        else:
            ticket._place._lent = None
        self._left(ticket._parent)

    def _serve(self) -> list[Ticket]:
        """Grant what there is room for, in order; return whom to wake."""
        granted: list[Ticket] = []
        if not (self._line or self._nested):
            return granted
        left = _Left(self)
        for ticket in list(self._nested):  # those that hold up somebody who has a place
            assert ticket._parent is not None
            if ticket._parent._lent is None and left.take(ticket, 0):
                self._grant(ticket, ticket._parent)
                granted.append(ticket)
        for line in (self._nested, self._line):
            served = []
            for ticket in line:
                if left.nothing:
                    break
                if (ticket._parent is None or ticket._parent._lent is not None) and left.take(
                    ticket, 1
                ):
                    served.append(ticket)
            for ticket in served:
                self._grant(ticket, None)
            granted += served
        return granted

    def _grant(self, ticket: Ticket, place: Ticket | None) -> None:
        del (self._line if ticket._parent is None else self._nested)[ticket]
        ticket._state = _GRANTED
        ticket._place = place
        if place is None:
            self._tasks += 1
        else:
            place._lent = ticket
        purse = ticket.purse()
        if purse is None:
            self._memory += ticket.memory
        else:
            purse._free -= ticket.memory


class _Left:
    """What is left over while a line is served: who does not get it has it kept."""

    def __init__(self, tracker: ResourceTracker) -> None:
        memory, tasks = tracker._memory_limit, tracker._task_limit
        self._memory = inf if memory is None else memory - tracker._memory
        self._tasks = inf if tasks is None else tasks - tracker._tasks
        self._purses: dict[Ticket, int] = {}

    @property
    def nothing(self) -> bool:
        """Whether whoever comes next has to wait.

        Without a limit of calls, those that declare no memory never wait.
        """
        return self._tasks <= 0 or (self._tasks == inf and self._memory <= 0 and not self._purses)

    def take(self, ticket: Ticket, places: int) -> bool:
        """Take, or keep, what a call needs; return whether it was there."""
        purse, memory = ticket.purse(), ticket.memory
        if purse is None:
            enough = memory <= self._memory or not memory
            self._memory -= memory
        else:
            free = self._purses.get(purse, purse._free)
            enough = memory <= free
            self._purses[purse] = free - memory
        enough = enough and places <= max(self._tasks, 0)
        self._tasks -= places
        return enough


# --- what a call is made inside of ---------------------------------------------------------------


def held_here() -> tuple[Ticket, ...]:
    """Return the tickets of the calls that this one is made inside of, the innermost last."""
    return _held.get()


@contextmanager
def holding(ticket: Ticket | None) -> Iterator[None]:
    """Let a ``with`` block be inside of the call of a ticket; of none, where it is None."""
    if ticket is None:
        yield
        return
    token = _held.set((*_held.get(), ticket))
    try:
        yield
    finally:
        _held.reset(token)


def _wake(tickets: list[Ticket]) -> None:
    for each in tickets:
        each._wake()


def _begin_anew() -> None:
    for each in _all:
        each._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


# --- options -------------------------------------------------------------------------------------


def as_tracker(value: Any, what: str = "resources") -> ResourceTracker | None:
    """Return a tracker, or None.

    Raises:
        ConfigurationError: It is something else.
    """
    if value is None or isinstance(value, ResourceTracker):
        return value
    raise ConfigurationError(
        f"{what} is a ResourceTracker, such as ResourceTracker(memory_limit=1_000_000_000, "
        f"task_limit=100), not {shown(value)}"
    )


def byte_count(value: Any, what: str, *, least: int = 0) -> int:
    """Return a number of bytes.

    Raises:
        ConfigurationError: It is none.
    """
    return whole_number(value, f"{what} counts bytes and", least=least, most=_MOST_BYTES)


def _memory_limit(value: Any) -> int | None:
    return None if value is None else byte_count(value, "memory_limit")


def _task_limit(value: Any) -> int | None:
    return None if value is None else whole_number(value, "task_limit")


def _or_any(limit: int | None) -> str:
    return "any number of" if limit is None else str(limit)
