"""What a resume needs beside the journal: which calls were under way when a process died.

A `Flight` is a small file that is mapped into memory. Every worker has a seat in it and writes the
slot of the call it begins; that is one store instruction, and the kernel keeps the page when the
process is killed. The starts that commits record say what might have run; the seats say what did,
so a node that kills its process is told apart from those that only stood in line behind it.
A clean end removes the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
from collections.abc import MutableSequence
from typing import Final

import sqlalchemy as sa

from dagger_dsl.errors import StoreError, StoreFull
from dagger_dsl.store.schema import flow_runs, node_runs
from dagger_dsl.store.storage import Store

__all__ = ["Flight", "forget_uncalled"]

_SEAT: Final = struct.Struct("<q")


class Flight:
    """The seats of one run's workers; empty seats hold -1.

    Args:
        database_path: The database file; the flight's file stands beside it.
        run_id: The run.
    """

    def __init__(self, database_path: str, run_id: str) -> None:
        name = hashlib.sha256(run_id.encode()).hexdigest()[:16]
        self.path = f"{database_path}-flight-{name}"
        self._map: mmap.mmap | None = None
        self._view: memoryview | None = None
        self._made: tuple[int, int, int] | None = None

    def read(self) -> list[int]:
        """Return the slots that were under way when the last owner died; none after a clean end."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(1 << 20)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error}") from error
        whole = len(data) - len(data) % _SEAT.size
        return [slot for (slot,) in _SEAT.iter_unpack(data[:whole]) if slot >= 0]

    def open(self, seats: int) -> MutableSequence[int]:
        """Create the file with empty seats and return them, to be written by index."""
        try:
            # A new file: an owner that was fenced may still write into the one it has mapped.
            self.forget()
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                self._made = (os.getpid(), *_identity(os.fstat(file)))
                # Written, not truncated to size: a full disk shows here and not as a signal later.
                os.write(file, _SEAT.pack(-1) * seats)
                self._map = mmap.mmap(file, seats * _SEAT.size)
            finally:
                os.close(file)
        except (OSError, ValueError) as error:
            raise StoreFull(f"{self.path} cannot be written: {error}") from error
        self._view = memoryview(self._map).cast("q")
        return self._view  # type: ignore[return-value]  # a cast view is a sequence of integers

    def forget(self) -> None:
        """Remove what an earlier owner left; its run is ours now."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def close(self) -> None:
        """Remove the file: the owner lets go of the run and nothing of it is under way.

        The file of a later owner, or of the process that this one is a copy of, stays.
        """
        # Workers that were left behind may still hold the view; the map then goes with them.
        self._view = self._map = None
        with contextlib.suppress(FileNotFoundError):
            if self._made == (os.getpid(), *_identity(os.stat(self.path))):
                os.unlink(self.path)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def forget_uncalled(store: Store, run_id: str, epoch: int) -> None:
    """Delete the rows of nodes that ended without a call: skipped or cancelled before they began.

    Those rows are for people and queries. A resume works them out anew from the recorded results,
    and the nodes among them that run after all keep the attempt numbers of their calls.

    Args:
        store: Where.
        run_id: The run, which this process owns.
        epoch: The number of its ownership.
    """
    owned = sa.select(flow_runs.c.run_id).where(
        flow_runs.c.run_id == run_id, flow_runs.c.epoch == epoch
    )
    with store.writing() as connection:
        connection.execute(
            sa.delete(node_runs).where(
                node_runs.c.run_id.in_(owned),
                node_runs.c.state.in_(("skipped", "cancelled")),
                node_runs.c.started_at.is_(None),
            )
        )
