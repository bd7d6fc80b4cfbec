"""Locks between processes: byte ranges of one file, which the kernel frees when a process dies.

The one module that knows `fcntl` and `msvcrt`. Children made by fork do not inherit these locks
(POSIX record locks belong to a process), so a body that outlives its killed parent cannot keep the
parent's run. Record locks do not exclude threads of one process from each other, and closing any
descriptor of the file would drop them all; hence one `LockFile` per file and process, with a table
of what is held.

Linux is tested; macOS takes the same path; the Windows branch is untested.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import threading
import time
from typing import Protocol

from dagger_dsl.errors import StoreBusy, StoreError, StoreReadOnly

__all__ = [
    "FILES",
    "PRESENCE",
    "WRITING",
    "LockFile",
    "Locks",
    "MemoryLocks",
    "borrow",
    "give_back",
    "run_offset",
]

#: Held for the length of one write transaction or checkpoint.
WRITING = 0
#: Held shared while a process has the database open for writing.
PRESENCE = 1
#: Held shared while artifact files may be written or read before a row names them.
FILES = 2

_FIRST_RUN = 1 << 20
_WAITS = (0.0002, 0.0005, 0.001, 0.002)


def run_offset(run_id: str, epoch: int) -> int:
    """Return the byte that stands for one ownership of a run; 56 bits of a hash keep them apart.

    A byte for each ownership and not for each run: a process that was stopped keeps its locks, and
    who takes a run over from it needs one to show its own life by.
    """
    name = f"{epoch} {run_id}".encode()
    return _FIRST_RUN + int.from_bytes(hashlib.sha256(name).digest()[:7], "big")


class Locks(Protocol):
    """What a database needs of locks."""

    def try_lock(self, offset: int, *, shared: bool = False) -> bool:
        """Take a lock if nobody holds it, neither here nor in another process."""
        ...

    def unlock(self, offset: int) -> None:
        """Give it back."""
        ...

    def is_locked(self, offset: int) -> bool:
        """Whether anybody holds a lock, here or in another process; nothing is taken for it."""
        ...

    def lock(self, offset: int, seconds: float, *, shared: bool = False) -> None:
        """Take a lock, waiting up to *seconds*; raise StoreBusy after that."""
        ...


class _Table:
    """What this process holds: how often, and whether alone (-1)."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.held: dict[int, int] = {}

    def fits(self, offset: int, shared: bool) -> bool:
        count = self.held.get(offset, 0)
        return count >= 0 if shared else count == 0

    def add(self, offset: int, shared: bool) -> None:
        self.held[offset] = self.held.get(offset, 0) + 1 if shared else -1

    def remove(self, offset: int) -> bool:
        """Return whether the last holder of this process is gone."""
        count = self.held.get(offset, 0)
        if count > 1:
            self.held[offset] = count - 1
            return False
        return self.held.pop(offset, 0) != 0


class MemoryLocks:
    """Locks of one process, for databases that no other process can reach or lock."""

    def __init__(self) -> None:
        self._table = _Table()

    def try_lock(self, offset: int, *, shared: bool = False) -> bool:
        """Take a lock if nobody holds it."""
        with self._table.mutex:
            if not self._table.fits(offset, shared):
                return False
            self._table.add(offset, shared)
            return True

    def unlock(self, offset: int) -> None:
        """Give it back."""
        with self._table.mutex:
            self._table.remove(offset)

    def is_locked(self, offset: int) -> bool:
        """Whether anybody holds a lock."""
        return offset in self._table.held

    def lock(self, offset: int, seconds: float, *, shared: bool = False) -> None:
        """Take a lock, waiting up to *seconds*."""
        _wait(self, offset, seconds, shared)


class LockFile:
    """Locks on single bytes of a file; the file itself holds nothing and is never removed.

    Args:
        path: Created (0600) when it is missing.

    Raises:
        StoreReadOnly: The file cannot be created or opened for writing.
        StoreError: Its folder does not exist.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._file = os.open(path, flags, 0o600)
        except FileNotFoundError as error:
            raise StoreError(
                f"cannot open the lock file {path}: the folder {os.path.dirname(path)} does not "
                "exist (any more); create it and open the database again"
            ) from error
        except OSError as error:
            raise StoreReadOnly(
                f"cannot open the lock file {path} ({error.strerror}); "
                "make the file and its folder writable, or move the database"
            ) from error
        self._table = _Table()
        self._process = os.getpid()
        self.users = 0
        #: Excludes the threads of this process from each other while one holds `WRITING`.
        self.mutex = threading.Lock()

    def is_current(self) -> bool:
        """Whether the path still leads to this file; else it stands for another database now."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        here = os.fstat(self._file)
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def is_marked(self) -> bool:
        """Whether a process came and did not leave in order; its length is the mark."""
        return os.fstat(self._file).st_size > 0

    def mark(self, marked: bool) -> None:
        """Set or remove the mark."""
        os.ftruncate(self._file, 1 if marked else 0)

    def try_lock(self, offset: int, *, shared: bool = False) -> bool:
        """Take a lock if nobody holds it, neither here nor in another process."""
        table = self._table
        with table.mutex:
            if not table.fits(offset, shared):
                return False
            if not (shared and offset in table.held) and not _take(self._file, offset, shared):
                return False
            table.add(offset, shared)
            return True

    def unlock(self, offset: int) -> None:
        """Give it back."""
        with self._table.mutex:
            if self._table.remove(offset):
                _free(self._file, offset)

    def is_locked(self, offset: int) -> bool:
        """Whether anybody holds a lock, here or in another process; nothing is taken for it."""
        with self._table.mutex:
            return offset in self._table.held or _is_taken(self._file, offset)

    def lock(self, offset: int, seconds: float, *, shared: bool = False) -> None:
        """Take a lock, waiting up to *seconds*."""
        _wait(self, offset, seconds, shared)

    def share(self, offset: int) -> None:
        """Turn a lock held alone into a shared one, with no moment between."""
        with self._table.mutex:
            if self._table.held.get(offset) == -1:
                _take(self._file, offset, True)
                self._table.held[offset] = 1

    def enter_writing(self, seconds: float) -> None:
        """Take `WRITING` between processes; the caller holds `mutex`. Made for the hot path."""
        if not _take(self._file, WRITING, False):
            deadline = time.monotonic() + seconds
            turn = 0
            while not _take(self._file, WRITING, False):
                if time.monotonic() > deadline:
                    raise StoreBusy(_busy(self.path, seconds))
                time.sleep(_WAITS[min(turn, len(_WAITS) - 1)])
                turn += 1

    def leave_writing(self) -> None:
        """Give `WRITING` back to the other processes."""
        _free(self._file, WRITING)

    def forget(self) -> None:
        """After a fork, in the child: nothing is held here. Several users may each say so."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._table = _Table()
            self.mutex = threading.Lock()

    def close(self) -> None:
        """Close the file; the kernel frees whatever is still held."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


_files: dict[str, LockFile] = {}
_files_mutex = threading.Lock()


def borrow(path: str) -> LockFile:
    """Return the lock file of a path, the same one for all of this process; see `give_back`."""
    with _files_mutex:
        locks = _files.get(path)
        if locks is None or not locks.is_current():
            locks = _files[path] = LockFile(path)
        locks.users += 1
        return locks


def give_back(locks: LockFile) -> None:
    """Close a borrowed lock file when nobody uses it any more."""
    with _files_mutex:
        locks.users -= 1
        if not locks.users:
            locks.close()
            if _files.get(locks.path) is locks:
                del _files[locks.path]


def _wait(locks: Locks, offset: int, seconds: float, shared: bool) -> None:
    deadline = time.monotonic() + seconds
    turn = 0
    while not locks.try_lock(offset, shared=shared):
        if time.monotonic() > deadline:
            raise StoreBusy(_busy(getattr(locks, "path", "the database"), seconds))
        time.sleep(_WAITS[min(turn, len(_WAITS) - 1)])
        turn += 1


def _busy(path: str, seconds: float) -> str:
    return (
        f"{path} was held by another process for {seconds:g} s; try again, raise busy_timeout "
        "in the database URL, or find out what keeps the database locked"
    )


if sys.platform != "win32":
    import fcntl

    _lockf = fcntl.lockf
    _EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB
    _SHARED = fcntl.LOCK_SH | fcntl.LOCK_NB
    _UNLOCK = fcntl.LOCK_UN

    def _take(file: int, offset: int, shared: bool) -> bool:
        try:
            _lockf(file, _SHARED if shared else _EXCLUSIVE, 1, offset)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _free(file: int, offset: int) -> None:
        _lockf(file, _UNLOCK, 1, offset)

    # struct flock, as fcntl(2) of each system has it: type, whence, start, length, process.
    _MAC = sys.platform == "darwin"
    _FLOCK = struct.Struct("@qqihh" if _MAC else "@hhqqi0q")

    def _is_taken(file: int, offset: int) -> bool:
        kind, whence = fcntl.F_WRLCK, os.SEEK_SET
        wanted = (offset, 1, 0, kind, whence) if _MAC else (kind, whence, offset, 1, 0)
        found = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, _FLOCK.pack(*wanted)))
        return bool(found[3 if _MAC else 0] != fcntl.F_UNLCK)

else:  # pragma: no cover - Windows, untested
    import msvcrt

    def _take(file: int, offset: int, shared: bool) -> bool:
        # msvcrt has no shared locks: several processes cannot be present at once there.
        os.lseek(file, offset, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _free(file: int, offset: int) -> None:
        os.lseek(file, offset, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

    def _is_taken(file: int, offset: int) -> bool:
        if not _take(file, offset, False):
            return True
        _free(file, offset)
        return False
