"""How a database stands: its disk, whether its file is whole, its log, who used it last."""

from __future__ import annotations

import os
import shutil
from typing import Any, Final

import attrs

from dagger_dsl.errors import StoreDamaged
from dagger_dsl.store.database import Database
from dagger_dsl.store.locks import PRESENCE
from dagger_dsl.store.migrations import quick_check

__all__ = ["Disk", "damage_in", "disk_of", "journal_of", "last_use_of"]

#: File systems on which processes of two hosts do not see each other's locks or shared memory
#: (sqlite.org/wal.html: "WAL does not work over a network filesystem").
_NETWORK: Final = (
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
    "vboxsf",
)

#: Bytes below which a run may not be able to record itself.
_LOW: Final = 100_000_000

#: Where Linux says what is mounted.
_MOUNTS: Final = "/proc/self/mounts"


@attrs.frozen
class Disk:
    """What a database's file lies on.

    Attributes:
        path: The file.
        file_system: Its type; None where the system does not say.
        free: Bytes that are left.
    """

    path: str
    file_system: str | None
    free: int

    @property
    def troubles(self) -> list[str]:
        """What is wrong with it, each with its way out."""
        found = []
        if self.file_system in _NETWORK:
            found.append(
                f"{self.path} is on a network file system ({self.file_system}), where SQLite's "
                "write-ahead log does not work between hosts; move it to a local disk, or use "
                "PostgreSQL"
            )
        if self.free < _LOW:
            found.append(f"the disk of {self.path} has {self.free:,} bytes left; free some space")
        return found


def disk_of(path: str) -> Disk | None:
    """Return what a file lies on, or would; None where there is no such folder."""
    folder = os.path.dirname(path)
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    return Disk(path, _file_system(folder), free)


def _file_system(folder: str) -> str | None:
    """Return the type of the file system that a folder is on, None where nobody says."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split(" ")[1:3] for line in file]
    except OSError:  # another system than Linux
        return None
    real = os.path.realpath(folder)
    best, kind = "", None
    for where, each in mounts:
        # Of several on one place the last one is seen.
        point = where.replace("\\040", " ")
        inside = real == point or real.startswith(f"{point.rstrip('/')}/")
        if inside and len(point) >= len(best):
            best, kind = point, each
    return kind


def damage_in(database: Database) -> StoreDamaged | None:
    """Return what is wrong inside of a file; reads all of it."""
    with database.reading() as connection:
        file: Any = connection.connection.driver_connection
        return quick_check(file, database.where)


def journal_of(database: Database) -> str:
    """Return how a file is written: its journal mode, what a commit waits for, the log's size."""
    with database.reading() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    wal = f"{database.path}-wal"
    size = os.path.getsize(wal) if os.path.exists(wal) else 0
    return f"{mode}, synchronous={database.synchronous}, {size:,} bytes in the log"


def last_use_of(database: Database) -> str:
    """Return whether who wrote last closed the file; ask before anything here writes."""
    lock = f"{database.path}-lock"
    marked = os.path.exists(lock) and os.path.getsize(lock) > 0
    if not marked:
        return "closed in order"
    if database.is_locked(PRESENCE):
        return "in use"
    return "left without closing; the next process that writes checks the file first"
