"""Workers of processes: names by which others see whether they live.

A worker is what claims things of a database: tasks, subscriptions. On one host it holds an OS lock
as long as its process lives, so its death is seen at once. One that is on another host, or is
stopped and keeps its lock, is known by the beats of what it has claimed, which it raises while it
lives. Who was wrong about that does no harm, as the epoch of each claim refuses what comes late.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from dagger_dsl.store.database import Database
from dagger_dsl.store.locks import run_offset
from dagger_dsl.store.ownership import this_owner

__all__ = ["Worker", "worker_name"]

#: Seconds between two looks from which on who watches has stood still, however short a lease is.
_STILL: Final = 5.0


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
        # Of each owner: its beats, since when they are so many, and when that was looked at.
        self._seen: dict[str, tuple[int, float, float]] = {}

    def arrive(self) -> None:
        """Show that it lives, from now on."""
        self._database.locking().try_lock(self._offset)

    def leave(self) -> None:
        """Show that no more."""
        self._database.locking().unlock(self._offset)

    def is_dead(self, owner: str, beats: int) -> bool:
        """Whether another worker is dead, as far as can be seen now.

        Args:
            owner: Its name.
            beats: How often it has shown that it lives.
        """
        if owner == self.name:
            return False
        here = owner.endswith(f"@{_host()}")
        if here and not self._database.is_locked(run_offset(f"worker {owner}", 0)):
            return True
        now = self._clock()
        known, since, looked = self._seen.get(owner, (None, now, now))
        if known != beats or now - looked >= max(self.lease / 2, _STILL):
            # Who watches stood still, too: the other one may have had no time to show itself.
            since = now
        self._seen[owner] = (beats, since, now)
        return now - since >= self.lease

    def dead(self, owners: Mapping[str, int]) -> list[str]:
        """Return those of some workers, given with their beats, that are dead."""
        return [owner for owner, beats in owners.items() if self.is_dead(owner, beats)]
