"""`Vigil`: which of the workers that have tasks are gone.

The kernel frees the lock of a worker of this host when it dies, so that is known at once. One that
is on another host, or is stopped and keeps its lock, is known by its signs of life: when they stand
still for a whole lease, on the clock of who watches, its tasks are given to others. Where it was
wrong about that, nothing is lost: the version of each claim refuses what comes late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import attrs

from dagger_dsl.store.database import Database
from dagger_dsl.store.locks import run_offset
from dagger_dsl.store.task_steps import DIED, SILENT

__all__ = ["Vigil", "offset_of"]


def offset_of(worker: str) -> int:
    """Return the byte of the lock file that a worker holds as long as it lives."""
    return run_offset(f"worker {worker}", 0)


@attrs.define(slots=False)
class Vigil:
    """Watches the owners of tasks, from look to look.

    Args:
        database: Where their locks are.
        name: Who watches, and is not watched.
        host: How the names of workers end that share locks with this one.
        lease: Seconds without a sign of life after which a worker counts as gone.
        clock: Monotonic seconds.
    """

    database: Database
    name: str
    host: str
    lease: float
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[object, float]] = attrs.field(factory=dict, init=False)
    _looked: float | None = attrs.field(default=None, init=False)

    def gone(self, owners: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Yield those that are gone, each with the cause: `DIED` or `SILENT`.

        Args:
            owners: Who has tasks now, each with something that changes while it lives.
        """
        now = self.clock()
        if self._looked is not None and now - self._looked >= self.lease / 2:
            # Who watches stood still, too; the others have not had the time to show themselves.
            self._seen.clear()
        self._looked = now
        self._seen = {name: each for name, each in self._seen.items() if name in owners}
        for owner, sign in owners.items():
            if owner == self.name:
                continue
            before = self._seen.get(owner)
            if before is None or before[0] != sign:
                before = self._seen[owner] = (sign, now)
            if self._is_here(owner) and not self.database.is_locked(offset_of(owner)):
                cause = DIED
            elif now - before[1] >= self.lease:
                cause = SILENT
            else:
                continue
            del self._seen[owner]
            yield owner, cause

    def _is_here(self, owner: str) -> bool:
        return self.database.path is not None and owner.endswith(f"@{self.host}")
