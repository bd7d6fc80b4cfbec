"""Large values as files that are named by their content.

An artifact's id is the SHA-256 of its bytes, and its place ``root/aa/<id>`` follows from the id
alone: nothing that is read from a database or a message ever becomes a path. A file appears whole
or not at all, is on disk before its id is handed out, and is compared with its id when it is read.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from dagger_dsl.errors import (
    ArtifactNotFound,
    ConfigurationError,
    EncodingError,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReadOnly,
)

__all__ = ["HOW_TO_MEND", "INLINE_BELOW", "MAX_BYTES", "ArtifactFiles"]

#: Values of this many bytes or more go to a file; smaller ones stay in the database.
INLINE_BELOW: Final = 32 * 1024

#: What helps against a file that is damaged or missing. A completed node is not called again by a
#: resume; but a new run that stores the same content makes the file anew, unless one is there.
HOW_TO_MEND: Final = (
    "restore the file from a backup; without one remove what is left of it and start the graph as "
    "a new run, as resume() does not call a completed node again"
)

#: Largest artifact that is written, or read into memory.
MAX_BYTES: Final = 1024 * 1024 * 1024

_ID: Final = re.compile(r"[0-9a-f]{64}")
_FOLDER: Final = re.compile(r"[0-9a-f]{2}")
_TEMPORARY: Final = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.tmp")


class ArtifactFiles:
    """A folder of artifacts. Threads and processes may share it.

    Args:
        root: The folder; made on the first write, for its owner only.
        threshold: Bytes from which on a value is a file rather than inline.
        max_bytes: Largest artifact that is written, or read into memory.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        threshold: int = INLINE_BELOW,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        for name, number in (("threshold", threshold), ("max_bytes", max_bytes)):
            if type(number) is not int or number < 0:
                raise ConfigurationError(f"{name} is a number of bytes, not {number!r}")
        self.root = Path(root)
        self.threshold = threshold
        self.max_bytes = max_bytes
        # Folders whose entry in the root this process has synced; adding to a set is atomic.
        self._recorded: set[str] = set()

    def path(self, artifact_id: str) -> Path:
        """Return where the artifact of this id is, or would be.

        Raises:
            ArtifactNotFound: *artifact_id* is not 64 hexadecimal digits.
        """
        if not isinstance(artifact_id, str) or not _ID.fullmatch(artifact_id):
            raise ArtifactNotFound(
                f"an artifact's id has 64 hexadecimal digits; there is none of id {artifact_id!r}"
            )
        return self.root / artifact_id[:2] / artifact_id

    def write(self, data: bytes) -> str:
        """Store *data* and return its id; from then on a power cut cannot take it away.

        A file of the same content is left as it is, except that its time is renewed, so that
        `remove` with an age spares what was written again just now.

        Raises:
            StoreFull: There is no space left; nothing was stored.
            StoreReadOnly: The folder cannot be written.
            EncodingError: *data* is longer than `max_bytes`.
        """
        if len(data) > self.max_bytes:
            raise EncodingError(
                f"an artifact of {len(data):,} bytes is more than max_bytes={self.max_bytes:,}; "
                "write it to a file of your own and return its path"
            )
        artifact_id = hashlib.sha256(data).hexdigest()
        target = self.path(artifact_id)
        with _store_errors(f"cannot write an artifact to {self.root}", writing=True):
            self._make_folder(target.parent)
            if not _renew(target, len(data)):
                temporary = target.with_name(f"{artifact_id}.{secrets.token_hex(8)}.tmp")
                try:
                    _write_new(temporary, data)
                    temporary.replace(target)
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise
            # Also for a file that was there: its writer may not have come this far yet.
            _sync_folder(target.parent)
            self._record_folder(target.parent)
        return artifact_id

    def read(self, artifact_id: str) -> bytes:
        """Return the bytes of an artifact, compared with its id.

        Raises:
            ArtifactNotFound: There is none of this id.
            StoreDamaged: The file is not what was written.
            StoreError: It is larger than `max_bytes`; use `open`.
        """
        with self._file(artifact_id) as file, _store_errors(f"cannot read artifact {artifact_id}"):
            size = os.fstat(file.fileno()).st_size
            if size > self.max_bytes:
                raise StoreError(
                    f"artifact {artifact_id} has {size:,} bytes, more than max_bytes="
                    f"{self.max_bytes:,}; open() reads it piece by piece"
                )
            data = file.read()
        if hashlib.sha256(data).hexdigest() != artifact_id:
            raise _damaged(self.path(artifact_id))
        return data

    def open(self, artifact_id: str) -> BinaryIO:
        """Return a binary stream of an artifact, which the caller closes.

        The content is compared with the id on the way: the read that would give the last byte
        raises `StoreDamaged` instead when they differ.

        Raises:
            ArtifactNotFound: There is none of this id.
            StoreDamaged: It is no file, or empty and should not be.
        """
        file = _Verified(self._file(artifact_id), self.path(artifact_id))
        return io.BufferedReader(file, 128 * 1024)

    def remove(self, artifact_id: str, *, unused_for: float = 0.0) -> bool:
        """Delete an artifact; return whether there was one and it went.

        Args:
            artifact_id: Which.
            unused_for: Spare it when it was written, or written again, in the last so many
                seconds: a writer stores the file before the row that names it.
        """
        return _remove(self.path(artifact_id), unused_for)

    def remove_leftovers(self, *, older_than: float = 3600.0) -> int:
        """Delete temporary files of writers that died; return how many there were.

        Args:
            older_than: Their age in seconds; younger ones may belong to a writer at work.
        """
        return sum(_remove(path, older_than) for path in list(self._files(_TEMPORARY)))

    def ids(self) -> Iterator[str]:
        """Yield the ids of all artifacts, sorted; other files are passed over."""
        return (path.name for path in self._files(_ID))

    def size(self) -> int:
        """Return how many bytes all artifacts have together."""
        total = 0
        for path in self._files(_ID):
            try:
                total += path.lstat().st_size
            except FileNotFoundError:  # removed meanwhile
                continue
        return total

    def _file(self, artifact_id: str) -> BinaryIO:
        path = self.path(artifact_id)
        try:
            with _store_errors(f"cannot open artifact {artifact_id}"):
                return _open_regular(path)
        except FileNotFoundError as error:
            raise ArtifactNotFound(
                f"there is no artifact {artifact_id} in {self.root}; it was removed, or the folder "
                "was not moved together with its database"
            ) from error

    def _files(self, pattern: re.Pattern[str]) -> Iterator[Path]:
        for folder in _listed(self.root):
            if _FOLDER.fullmatch(folder):
                for name in _listed(self.root / folder):
                    if pattern.fullmatch(name) and name.startswith(folder):
                        yield self.root / folder / name

    def _make_folder(self, folder: Path) -> None:
        if folder.name in self._recorded and _is_folder(folder):
            return
        self._recorded.discard(folder.name)
        missing = []
        parent = self.root
        while not parent.exists():
            missing.append(parent)
            parent = parent.parent
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(each.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_folder(folder):
            raise StoreDamaged(f"{folder} is a link; a folder of ours belongs there")

    def _record_folder(self, folder: Path) -> None:
        """Sync the entry of *folder* once; another process may have made it and not synced yet."""
        if folder.name not in self._recorded:
            _sync_folder(self.root)
            self._recorded.add(folder.name)


class _Verified(io.RawIOBase):
    """Reads a file once, from its start to its end, and withholds the end unless all is right."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path  # its name is the artifact's id
        self._hash = hashlib.sha256()
        self._left = os.fstat(file.fileno()).st_size
        if not self._left:
            self._check()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            return 0
        with _store_errors(f"cannot read {self._path}"), memoryview(buffer) as whole:
            view = whole[: self._left]
            count: int = self._file.readinto(view)  # type: ignore[attr-defined]  # a FileIO
            self._hash.update(view[:count])
        self._left -= count
        if not (self._left and count):
            self._check()
        return count

    def _check(self) -> None:
        if self._hash.hexdigest() != self._path.name:
            self.close()
            raise _damaged(self._path)

    def close(self) -> None:
        self._file.close()
        super().close()


def _damaged(path: Path) -> StoreDamaged:
    return StoreDamaged(f"the artifact file {path} is not what was written; {HOW_TO_MEND}")


def _is_folder(path: Path) -> bool:
    """Return whether *path* is a folder itself, not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _renew(path: Path, size: int) -> bool:
    """Return whether a whole file is there already, and mark it as used now."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _remove(path: Path, unused_for: float) -> bool:
    with _store_errors(f"cannot remove {path}", writing=True):
        try:
            if unused_for > 0 and time.time() - path.lstat().st_mtime < unused_for:
                return False
            path.unlink()
        except FileNotFoundError:
            return False
    return True


def _listed(folder: Path) -> list[str]:
    with _store_errors(f"cannot list {folder}"):
        try:
            return sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []


@contextmanager
def _store_errors(doing: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what the operating system says into a `StoreError`.

    A file that is missing when nothing is written stays a FileNotFoundError, for the caller.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not writing:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"{doing}: {error}; free some space, then resume") from error
        if writing and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreReadOnly(f"{doing}: {error}; make the folder writable") from error
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise StoreDamaged(
                f"{doing}: {error}; something else stands where a folder or file of ours belongs"
            ) from error
        raise StoreError(f"{doing}: {error}") from error


# --- what differs between operating systems -------------------------------------------------------

_READ: Final = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_CREATE: Final = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
)
# A pipe that somebody put in the place of a file must not make us wait.
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)


def _open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, unbuffered; refuse links, pipes and devices."""
    descriptor = os.open(path, _READ | _NO_WAIT)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreDamaged(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def _write_new(path: Path, data: bytes) -> None:
    """Make a file that holds *data* and is on the disk when this returns."""
    with os.fdopen(os.open(path, _CREATE, 0o600), "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        _sync(file.fileno())


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync stops at the drive's cache there
    else:
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Put the entries of *folder* on the disk; Windows does so by itself and has no call for it."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
