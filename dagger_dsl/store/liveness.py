"""Whether the owners of runs live: the kernel knows it on one host, the beat tells it elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
import sqlalchemy as sa

from dagger_dsl.store.database import Database
from dagger_dsl.store.locks import run_offset
from dagger_dsl.store.ownership import Heart, Owner, this_owner
from dagger_dsl.store.schema import flow_runs

__all__ = ["Liveness", "Ownership"]

#: Runs that one statement asks for.
_CHUNK: Final = 500

#: Looks at the beats of watched runs in one lease.
_LOOKS: Final = 10


@attrs.frozen
class Ownership:
    """What a run's row says of its owner; a living one changes it.

    Attributes:
        owner: None when nobody owns the run.
        epoch: The number of the ownership.
        beat: How often it was confirmed.
    """

    owner: Owner | None
    epoch: int
    beat: int

    @classmethod
    def of_row(cls, row: Any) -> Ownership:
        """Return what a row with these three columns says."""
        return cls(None if row.owner is None else Owner.of_text(row.owner), row.epoch, row.beat)


class Liveness:
    """Answers for one database.

    Args:
        database, heart: What the store is made of; the heart knows the lease.
    """

    def __init__(self, database: Database, heart: Heart) -> None:
        self._database = database
        self._heart = heart

    def look(self, run_ids: Iterable[str]) -> dict[str, Ownership]:
        """Return who owns each of these runs; unknown ones are left out."""
        ids = list(run_ids)
        found: dict[str, Ownership] = {}
        with self._database.reading() as connection:
            for first in range(0, len(ids), _CHUNK):
                found |= _owners(connection, ids[first : first + _CHUNK])
        return found

    def shows_by_lock(self, owner: Owner) -> bool:
        """Whether *owner* is on this host, where a lock is held as long as its owner lives."""
        here, database = this_owner(), self._database
        if database.is_memory or owner == here:
            return True
        return database.path is not None and here.shares_locks_with(owner)

    def holds_lock(self, run_id: str, epoch: int) -> bool:
        """Whether a process of this host holds the lock of an ownership; a stopped one does."""
        return self._database.is_locked(run_offset(run_id, epoch))

    def unmoved(self, seen: Mapping[str, Ownership]) -> set[str]:
        """Watch all these runs together, for one lease; return those whose rows did not change.

        It takes less where all of them change earlier.
        """
        still = dict(seen)
        lease = self._heart.lease
        deadline = time.monotonic() + lease
        while still and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, lease / _LOOKS))
            now = self.look(still)
            still = {run_id: each for run_id, each in still.items() if now.get(run_id) == each}
        return set(still)

    def dead(self, seen: Mapping[str, Ownership]) -> set[str]:
        """Return those of these runs whose owner is dead, or that have none.

        At once for owners on this host; the others are watched for one lease.
        """
        gone: set[str] = set()
        elsewhere: dict[str, Ownership] = {}
        for run_id, each in seen.items():
            if each.owner is None:
                gone.add(run_id)
            elif not self.shows_by_lock(each.owner):
                elsewhere[run_id] = each
            elif not self.holds_lock(run_id, each.epoch):
                gone.add(run_id)
        return gone | self.unmoved(elsewhere)


def _owners(connection: sa.Connection, run_ids: Sequence[str]) -> dict[str, Ownership]:
    rows = connection.execute(
        sa.select(flow_runs.c.run_id, flow_runs.c.owner, flow_runs.c.epoch, flow_runs.c.beat).where(
            flow_runs.c.run_id.in_(run_ids)
        )
    )
    return {row.run_id: Ownership.of_row(row) for row in rows}
