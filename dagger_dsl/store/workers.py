"""Workers of processes: names by which others see whether they live.

A worker is what claims things of a database: tasks, subscriptions. On one host it holds an OS lock
as long as its process lives, so its death is seen at once. One that is on another host, or is
stopped and keeps its lock, is known by the beats of what it has claimed, which it raises while it
lives. Who was wrong about that does no harm, as the epoch of each claim refuses what comes late.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from dagger_dsl.store.database import Database
from dagger_dsl.store.locks import run_offset
from dagger_dsl.store.ownership import this_owner

__all__ = ["Worker", "worker_name"]

#: Seconds between two looks from which on who watches has stood still, however short a lease is:
#: it looks twice in a second, on a busy machine less often.
_STILL: Final = 1.0


def _host() -> str:
    owner = this_owner()
    return owner.boot or owner.host


def worker_name() -> str:
    """Return a name for a worker of this process: no other has it, and it tells the host."""
    return f"{os.getpid()}-{this_owner().token[:8]}-{os.urandom(3).hex()}@{_host()}"


class Worker:
    """One worker of this process, which also sees which others are dead.

    Args:
        database: Where it claims things.
        lease: Seconds without a beat after which another one counts as dead.
        clock: A monotonic clock.
        name: What no other worker is called, as `worker_name` makes it; a new name by default.

    Attributes:
        name, lease: As given.
    """

    def __init__(
        self,
        database: Database,
        lease: float,
        clock: Callable[[], float] = time.monotonic,
        name: str | None = None,
    ) -> None:
        self.name = worker_name() if name is None else name
        self.lease = lease
        self._database = database
        self._clock = clock
        self._offset = run_offset(f"worker {self.name}", 0)
        # Of each owner: its sign of life, since when that is the same, and when it was looked at.
        self._seen: dict[str, tuple[object, float, float]] = {}

    def arrive(self) -> None:
        """Show that it lives, from now on."""
        self._database.locking().try_lock(self._offset)

    def leave(self) -> None:
        """Show that no more."""
        self._database.locking().unlock(self._offset)

    def has_died(self, owner: str) -> bool:
        """Whether another worker of this host is dead, as the kernel knows by its lock."""
        here = self._database.path is not None and owner.endswith(f"@{_host()}")
        return here and not self._database.is_locked(run_offset(f"worker {owner}", 0))

    def is_dead(self, owner: str, sign: object) -> bool:
        """Whether another worker is dead, or has given no sign of life for a lease.

        Args:
            owner: Its name.
            sign: Something that changes while it lives, such as how often it has said so.
        """
        if owner == self.name:
            return False
        if self.has_died(owner):
            return True
        now = self._clock()
        known, since, looked = self._seen.get(owner, (None, now, now))
        if known != sign or now - looked >= max(self.lease / 2, _STILL):
            # Who watches stood still, too: the other one may have had no time to show itself.
            since = now
        self._seen[owner] = (sign, since, now)
        return now - since >= self.lease

    def gone(self, owners: Mapping[str, object]) -> Iterator[str]:
        """Yield those that are dead of all workers that have something now.

        Args:
            owners: Their names, each with its sign of life as in `is_dead`.
        """
        self._seen = {name: each for name, each in self._seen.items() if name in owners}
        for owner, sign in owners.items():
            if self.is_dead(owner, sign):
                self._seen.pop(owner, None)  # it may come back, and is watched anew
                yield owner
