"""Workers of processes: names by which others see whether they live.

A worker is what claims things of a database: tasks, subscriptions. On one host it holds an OS lock
as long as its process lives, so its death is seen at once; on another host the beats of what it has
claimed tell, which it raises while it lives.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from dagger_dsl.store.database import Database
from dagger_dsl.store.locks import run_offset
from dagger_dsl.store.ownership import this_owner

__all__ = ["Worker", "worker_name"]


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
        lease: Seconds without a beat after which one of another host counts as dead.
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
        self._seen: dict[str, tuple[int, float]] = {}

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
            beats: How often it has shown that it lives; only looked at for other hosts.
        """
        if owner == self.name:
            return False
        if owner.endswith(f"@{_host()}"):
            return not self._database.is_locked(run_offset(f"worker {owner}", 0))
        now = self._clock()
        before = self._seen.get(owner)
        if before is None or before[0] != beats:
            self._seen[owner] = (beats, now)
            return False
        return now - before[1] >= self.lease

    def dead(self, owners: Mapping[str, int]) -> list[str]:
        """Return those of some workers, given with their beats, that are dead."""
        return [owner for owner, beats in owners.items() if self.is_dead(owner, beats)]
