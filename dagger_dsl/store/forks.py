"""Forks: a child must not use its parent's connections; it gets its own after a calm fork.

SQLite keeps one table of files and locks a process. A forked child inherits that table, but not the
locks that it speaks of; a connection that it opens then would believe itself protected, and lose
its commits when the parent closes the file. So the child first closes what it inherited, which is
safe when nothing was under way. Before a fork we therefore wait, for a moment, until no thread is
inside the database; where that fails the child gets an error instead of a database.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["Forkable", "after_fork", "watch_forks"]

#: Seconds that a fork may wait for other threads to leave the database.
PATIENCE: Final = 0.5


class Lock(Protocol):
    """A lock of `threading`."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...


class Forkable(Protocol):
    """What has connections."""

    def fork_locks(self) -> list[Lock]:
        """Return the locks without which nothing begins in it."""
        ...

    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        ...

    def start_over(self, calm: bool) -> None:
        """In the child: forget the parent. *calm* says that nothing was under way at the fork."""
        ...


_parties: weakref.WeakSet[Forkable] = weakref.WeakSet()
_hooks: list[Callable[[], None]] = []
_held: list[Lock] = []
_calm = True


def watch_forks(party: Forkable) -> None:
    """Let *party* take part in every fork of this process, as long as it lives."""
    _parties.add(party)


def after_fork(hook: Callable[[], None]) -> None:
    """Call *hook* in every forked child, after all that have connections started over."""
    _hooks.append(hook)


def _before() -> None:
    global _calm
    deadline = time.monotonic() + PATIENCE
    parties = list(_parties)
    _calm = True
    for lock in {id(lock): lock for party in parties for lock in party.fork_locks()}.values():
        if lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            _held.append(lock)
        else:
            _calm = False
    for party in parties:
        while not party.is_idle() and time.monotonic() < deadline:
            time.sleep(0.001)
        _calm = _calm and party.is_idle()


def _in_parent() -> None:
    while _held:
        _held.pop().release()


def _in_child() -> None:
    _held.clear()  # everybody makes new locks
    for party in list(_parties):
        party.start_over(_calm)
    for hook in _hooks:
        hook()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
