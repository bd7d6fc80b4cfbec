"""Connections: how they are opened, checked and shared, and how their errors are told.

A `Database` is one file (or one database in memory, or one URL of another scheme) as one process
sees it: a pool of connections that only read, and one that writes. Everything SQLite needs to stay
whole is here and nowhere else:

* settings on connect, read back; transactions opened by ``BEGIN IMMEDIATE``, never by the driver;
* commits and checkpoints exclude each other, between threads by a mutex, between processes by a
  lock file. SQLite before 3.51.3 can corrupt a file when two connections checkpoint and commit at
  the same instant (sqlite.org/wal.html#walresetbug); as processes with older and newer libraries
  may share a file, the rule does not look at the version, and no checkpoint is left to SQLite;
* connections are never used across a fork;
* files of somebody else, and of a newer version, are left as they are.

Errors of the driver leave as `StoreError`s, chosen by SQLite's result code, never by its text.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.pool import QueuePool, StaticPool

from dagger_dsl.errors import (
    ConfigurationError,
    InvalidState,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreVersionError,
)
from dagger_dsl.store import schema
from dagger_dsl.store.locks import PRESENCE, LockFile, Locks, MemoryLocks
from dagger_dsl.store.urls import is_memory, normalize_url

__all__ = ["Database", "is_memory", "normalize_url", "store_error", "translated"]

_logger = logging.getLogger("dagger_dsl.store")

DIALECT: Final = SQLiteDialect_pysqlite(paramstyle="qmark")

#: Up to this size a file that was not closed properly is checked before the first write.
QUICK_CHECK_LIMIT = 50 * 1024 * 1024

#: Smaller pages make a commit cheaper: each changed page is copied and summed as a whole.
PAGE_SIZE = 2048

#: A checkpoint is due after about so many pages: 4 MB, as is SQLite's own default.
CHECKPOINT_PAGES = 2000

#: After so many pages, some 16 commits, the WAL is worth growing to this size at once.
GROW_AFTER = 48
GROWN_WAL = 4 * 1024 * 1024


# --- errors ---------------------------------------------------------------------------------------


def store_error(error: BaseException, where: str) -> StoreError | None:
    """Return the `StoreError` that a driver's error means, or None when it is no storage trouble.

    Args:
        error: A `sqlite3.Error`, or an SQLAlchemy error around a driver's one.
        where: What to call the database.
    """
    if isinstance(error, sa.exc.DBAPIError):
        return store_error(error.orig, where) if error.orig is not None else None
    if isinstance(error, sa.exc.TimeoutError):
        return StoreBusy(f"{where}: all connections stayed in use; close some, or raise pool_size")
    if not isinstance(error, sqlite3.Error):
        return _by_sqlstate(error, where)
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None  # misuse found by the driver itself, such as a wrong number of values
    known = _BY_CODE.get(code & 0xFF)
    if known is None:
        return None
    kind, advice = known
    return kind(f"{where}: {error}; {advice}")


_DAMAGED = (
    StoreDamaged,
    "the file is damaged or is no SQLite database: restore a backup, or recover it by .recover",
)
_BY_CODE: Final[dict[int, tuple[type[StoreError], str]]] = {
    sqlite3.SQLITE_FULL: (StoreFull, "free some space, then resume the run"),
    sqlite3.SQLITE_BUSY: (StoreBusy, "another program kept the database locked; try again"),
    sqlite3.SQLITE_LOCKED: (StoreBusy, "another statement keeps a table locked; try again"),
    sqlite3.SQLITE_READONLY: (StoreReadOnly, "make the file and its folder writable"),
    sqlite3.SQLITE_PERM: (StoreReadOnly, "make the file and its folder accessible"),
    sqlite3.SQLITE_CANTOPEN: (StoreError, "check that the folder exists and may be written"),
    sqlite3.SQLITE_IOERR: (
        StoreDamaged,
        "the disk reported an error: check it, then resume the run",
    ),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}

# PostgreSQL's codes; psycopg's errors have them as `sqlstate`.
_BY_SQLSTATE: Final[dict[str, tuple[type[StoreError], str]]] = {
    "53100": (StoreFull, "free some space on the server, then resume the run"),
    "55P03": (StoreBusy, "another session kept a lock; try again"),
    "40001": (StoreBusy, "other sessions changed the same rows; try again"),
    "40P01": (StoreBusy, "two sessions waited for each other; try again"),
    "25006": (StoreReadOnly, "connect to a server that accepts writes"),
    "XX001": (StoreDamaged, "the server found damaged data; restore a backup"),
    "XX002": (StoreDamaged, "the server found a damaged index; rebuild it"),
}


def _by_sqlstate(error: BaseException, where: str) -> StoreError | None:
    known = _BY_SQLSTATE.get(getattr(error, "sqlstate", None) or "")
    return None if known is None else known[0](f"{where}: {error}; {known[1]}")


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Let the driver's errors inside the block leave as `StoreError`s."""
    try:
        yield
    except (sqlite3.Error, sa.exc.SQLAlchemyError) as error:
        known = store_error(error, where)
        if known is None:
            raise
        raise known from error


# --- one file, one process ------------------------------------------------------------------------


_lock_files: dict[str, LockFile] = {}
_lock_files_mutex = threading.Lock()


def _borrow_lock_file(path: str) -> LockFile:
    with _lock_files_mutex:
        locks = _lock_files.get(path)
        if locks is None or not locks.is_current():
            locks = _lock_files[path] = LockFile(path)
        locks.users += 1
        return locks


def _return_lock_file(locks: LockFile) -> None:
    with _lock_files_mutex:
        locks.users -= 1
        if not locks.users:
            locks.close()
            if _lock_files.get(locks.path) is locks:
                del _lock_files[locks.path]


class _TimedMutex:
    """A lock that gives up: who holds the one connection of a memory database may be us."""

    def __init__(self, where: str, seconds: float) -> None:
        self._lock = threading.Lock()
        self._where = where
        self._seconds = seconds
        self.release = self._lock.release

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=self._seconds):
            raise StoreBusy(
                f"{self._where} was in use by this process for {self._seconds:g} s; close the "
                "connection or transaction that is still open"
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Database:
    """One database as this process sees it.

    Args:
        url: A normalised URL.
        pool_size: Connections that read.
        busy_timeout: Seconds to wait for another process, unless the URL says otherwise.
        synchronous: SQLite's level, unless the URL says otherwise.

    Attributes:
        url, pool_size, busy_timeout: As given.
        dialect: The words to use for conflict clauses: ``sqlite`` or ``postgresql``.
        where: What messages call the database.
        path: Its file, None for databases without one.
        engine: The SQLAlchemy engine for reading; for SQLite files its connections refuse writes.
        locks: The locks that processes see (this process only, without a file).
        read_only: The URL asked for ``mode=ro``.
    """

    def __init__(
        self,
        url: sa.URL,
        *,
        pool_size: int = 5,
        busy_timeout: float = 5.0,
        synchronous: str = "FULL",
    ) -> None:
        self.url = url
        self.pool_size = pool_size
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.is_memory = is_memory(url)
        options = dict(url.query) if self.is_sqlite else {}
        self.busy_timeout = (
            int(str(options["busy_timeout"])) / 1000 if "busy_timeout" in options else busy_timeout
        )
        self.synchronous = str(options.get("synchronous", synchronous)).upper()
        self.read_only = options.get("mode") == "ro"
        self.path = (
            None
            if self.is_memory or not self.is_sqlite
            else os.path.realpath(os.fspath(url.database or ""))
        )
        self.dialect = "sqlite" if self.is_sqlite else "postgresql"
        self.where = self.path or url.render_as_string(hide_password=True)
        self.locks: Locks = MemoryLocks()
        self._lock_file: LockFile | None = None
        # Replaced by the lock file's, which all databases of this process on the file share.
        self._mutex: threading.Lock | _TimedMutex = _TimedMutex(self.where, self.busy_timeout)
        self._opening = threading.RLock()
        self._ready = False
        self._closed = False
        self._writer: sqlite3.Connection | None = None
        self._pages = 0
        self._due = GROW_AFTER
        self._wal_left = False
        self.through_core = False  # tests make SQLite take the way of every other database
        self._damage: StoreDamaged | None = None
        self._process = os.getpid()
        self._forked_memory = False
        self._write_engine: sa.Engine | None = None
        self.engine = self._make_engine()
        _databases.add(self)

    # -- opening and closing

    def open(self) -> None:
        """Make the database usable: create what is missing, refuse what is not ours.

        Raises:
            StoreVersionError: The file belongs to another program, or a newer version wrote it.
            StoreError: It cannot be opened.
        """
        if not self._ready:
            self._open()

    def _open(self) -> None:
        with self._opening:
            if self._closed:
                raise InvalidState(f"the store of {self.where} is closed; open a new one")
            if self._forked_memory:
                raise InvalidState(
                    "a database in memory belongs to the process that made it; "
                    "give the child a file, or let the parent do the work"
                )
            if self._ready:
                return
            with translated(self.where):
                if not self.is_sqlite:
                    self._open_server()
                elif self.path is None:
                    self._open_memory()
                else:
                    self._open_file(self.path)
            self._ready = True

    def _open_server(self) -> None:
        with self.engine.begin() as connection:
            _create(connection)

    def _open_memory(self) -> None:
        self._writer_connection()
        with self.writing(opening=True) as connection:
            _create(connection)

    def _open_file(self, path: str) -> None:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise ConfigurationError(
                f"{path}: the folder {folder} does not exist; create it, or choose another path"
            )
        if os.path.isdir(path):
            raise ConfigurationError(f"{path} is a folder; name a file in it")
        if self.read_only and not os.path.exists(path):
            raise ConfigurationError(f"{path} does not exist, and mode=ro creates nothing")
        self._wal_left = _size(f"{path}-wal") > 0
        state = "new"
        if os.path.exists(path) and os.path.getsize(path):
            with contextlib.closing(self._connect(self.read_only)) as probe:
                state = _identify(probe, path)
        if state != "current":
            if self.read_only:
                raise StoreVersionError(
                    f"{path} has to be migrated first; open it once without mode=ro"
                )
            self._create_file(path)

    def _create_file(self, path: str) -> None:
        locks = self._locking(path)
        with locks.mutex:
            locks.enter_writing(self.busy_timeout)
            try:
                connection = self._connect(False)
                try:
                    if _identify(connection, path) == "current":
                        return  # another process was faster
                    connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
                    self._settings(connection, writer=True)
                    self._create_tables(connection)
                finally:
                    connection.close()
            finally:
                locks.leave_writing()

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        engine = _engine_of(connection)
        with engine.begin() as core:
            _create(core)

    def close(self) -> None:
        """Close every connection; a later use is an error. May be called twice."""
        with self._opening:
            if self._closed:
                return
            self._closed = True
            self._ready = False
            self.engine.dispose()
            writer, self._writer = self._writer, None
            if writer is not None:
                self._close_writer(writer)
            locks, self._lock_file = self._lock_file, None
            if locks is not None:
                _return_lock_file(locks)

    def _close_writer(self, writer: sqlite3.Connection) -> None:
        locks = self._lock_file
        if locks is None:
            writer.close()
            return
        with locks.mutex:
            # The last connection of all checkpoints and removes the WAL when it is closed.
            with contextlib.suppress(StoreBusy):
                locks.enter_writing(self.busy_timeout)
            try:
                writer.close()
            finally:
                locks.leave_writing()
        locks.unlock(PRESENCE)
        if locks.try_lock(PRESENCE):  # nobody else is there: the file was left in order
            locks.mark(False)
            locks.unlock(PRESENCE)

    # -- connections

    def _connect(self, read_only: bool) -> sqlite3.Connection:
        path = MEMORY_NAME if self.path is None else self.path
        if read_only:
            path, uri = f"{Path(path).as_uri()}?mode=ro", True
        else:
            uri = False
        return sqlite3.connect(
            path,
            timeout=self.busy_timeout,
            isolation_level=None,  # the driver must open no transactions of its own
            check_same_thread=False,
            uri=uri,
            cached_statements=256,
        )

    def _settings(self, connection: sqlite3.Connection, *, writer: bool) -> None:
        """Apply our settings and read them back."""
        wanted: dict[str, Any] = {
            "busy_timeout": round(self.busy_timeout * 1000),
            "foreign_keys": 1,
            "trusted_schema": 0,
            "cell_size_check": 1,
            "synchronous": _LEVELS[self.synchronous],
        }
        if sys.platform == "darwin":  # pragma: no cover - fsync does not reach the disk there
            wanted |= {"fullfsync": 1, "checkpoint_fullfsync": 1}
        if self.path is not None:
            if writer:
                wanted["journal_mode"] = "wal"
            else:
                wanted["query_only"] = 1
            wanted["wal_autocheckpoint"] = 0
        for name, value in wanted.items():
            connection.execute(f"PRAGMA {name}={value}").fetchall()
            found = connection.execute(f"PRAGMA {name}").fetchone()
            if found is None or found[0] != value:
                shown = None if found is None else found[0]
                raise StoreError(
                    f"{self.where}: SQLite keeps {name}={shown} where {value} is needed; "
                    "a network file system or an unusual build of SQLite does this"
                )

    def _make_engine(self) -> sa.Engine:
        if not self.is_sqlite:
            return sa.create_engine(self.url, pool_size=self.pool_size)
        if self.path is None:
            engine = sa.create_engine(
                "sqlite+pysqlite://",
                creator=self._writer_connection,
                poolclass=QueuePool,
                pool_size=1,
                max_overflow=0,
                pool_timeout=max(self.busy_timeout, 0.001),
            )
            event.listen(engine, "checkout", self._take_shared)
            event.listen(engine, "checkin", self._give_shared)
        else:
            engine = sa.create_engine(
                "sqlite+pysqlite://",
                creator=self._reader_connection,
                poolclass=QueuePool,
                pool_size=self.pool_size,
                max_overflow=self.pool_size,
                pool_timeout=max(self.busy_timeout, 0.001),
            )
        event.listen(engine, "begin", _begin_deferred)
        event.listen(engine, "handle_error", self._handle_error)
        return engine

    def _handle_error(self, context: Any) -> None:
        known = store_error(context.original_exception, self.where)
        if known is not None:
            raise known from context.original_exception

    def _take_shared(self, *_: Any) -> None:
        self._mutex.__enter__()

    def _give_shared(self, *_: Any) -> None:
        self._mutex.release()

    def _reader_connection(self) -> sqlite3.Connection:
        self.open()
        with translated(self.where):
            connection = self._connect(self.read_only)
            try:
                self._settings(connection, writer=False)
            except BaseException:
                connection.close()
                raise
        return connection

    def _writer_connection(self) -> sqlite3.Connection:
        writer = self._writer
        if writer is not None:
            return writer
        with self._opening:
            if self._writer is None:
                if self._closed:
                    raise InvalidState(f"the store of {self.where} is closed; open a new one")
                if self.read_only:
                    raise StoreReadOnly(f"{self.where} was opened with mode=ro")
                with translated(self.where):
                    self._writer = self._open_writer()
            return self._writer

    def _open_writer(self) -> sqlite3.Connection:
        if self.path is None:
            connection = self._connect(False)
            self._settings(connection, writer=True)
            return connection
        locks = self._locking(self.path)
        self._arrive(locks, self.path)
        try:
            connection = self._connect(False)
            try:
                self._settings(connection, writer=True)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            locks.unlock(PRESENCE)
            raise
        return connection

    def locking(self) -> Locks:
        """Return the locks that decide who owns a run: the lock file's where there is a file."""
        return self.locks if self.path is None else self._locking(self.path)

    def _locking(self, path: str) -> LockFile:
        with self._opening:
            if self._lock_file is None:
                self._lock_file = _borrow_lock_file(f"{path}-lock")
                self._mutex = self._lock_file.mutex
                self.locks = self._lock_file
            return self._lock_file

    # -- after an unclean end

    def _arrive(self, locks: LockFile, path: str) -> None:
        """Say that this process is here; check the file when the last one did not say good-bye."""
        if not locks.try_lock(PRESENCE):
            locks.lock(PRESENCE, self.busy_timeout, shared=True)
            return
        try:
            if locks.marked or self._wal_left:
                self._check_after_crash(path)
            locks.mark(True)
        except BaseException:
            locks.unlock(PRESENCE)
            raise
        locks.share(PRESENCE)

    def _check_after_crash(self, path: str) -> None:
        if _size(path) <= QUICK_CHECK_LIMIT:
            with contextlib.closing(self._connect(False)) as connection:
                connection.execute("PRAGMA wal_autocheckpoint=0")
                damage = _quick_check(connection, path)
            if damage is not None:
                raise damage
            return
        threading.Thread(
            target=self._check_beside, args=(path,), name="dagger-quick-check", daemon=True
        ).start()

    def _check_beside(self, path: str) -> None:
        """Check a large file while the run goes on; what is found stops the next write."""
        try:
            with contextlib.closing(self._connect(False)) as connection:
                connection.execute("PRAGMA query_only=1")
                connection.execute("PRAGMA wal_autocheckpoint=0")
                self._damage = _quick_check(connection, path)
        except sqlite3.Error as error:
            known = store_error(error, path)
            self._damage = known if isinstance(known, StoreDamaged) else None
            if self._damage is None:
                _logger.warning("%s: the check after an unclean end failed: %s", path, error)

    # -- reading and writing

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection in one read transaction: all that it reads is of one moment."""
        self.open()
        with self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *, opening: bool = False) -> Iterator[sa.Connection]:
        """Give the one connection that writes, in a transaction that holds the write lock.

        No user code, hook, network access or hashing belongs inside. It is not reentrant.
        """
        if not opening:
            self.open()
        if not self.is_sqlite:
            with self.engine.begin() as connection:
                yield connection
            return
        engine = self._writer_engine()
        with self.exclusive():
            with engine.begin() as connection:
                yield connection
            self.wrote(8)

    def _writer_engine(self) -> sa.Engine:
        raw = self._writer_connection()
        with self._opening:
            if self._write_engine is None:
                engine = _engine_of(raw)
                event.listen(engine, "handle_error", self._handle_error)
                self._write_engine = engine
            return self._write_engine

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[sqlite3.Connection]:
        """Exclude every other commit and checkpoint, and give the raw connection that writes."""
        writer = self._writer_connection()
        if self._damage is not None:
            raise self._damage
        locks = self._lock_file
        with self._mutex:
            if locks is None:
                yield writer
                return
            locks.enter_writing(self.busy_timeout)
            try:
                yield writer
            finally:
                locks.leave_writing()

    def single(self) -> Callable[[str, Sequence[Any]], int]:
        """Return a function that commits one statement and returns the number of rows written.

        The way of a journal's hot path: no transaction statements, no context managers of ours.
        Its errors are the driver's.
        """
        self.open()
        writer = self._writer_connection()
        execute = writer.cursor().execute
        mutex, locks, timeout = self._mutex, self._lock_file, self.busy_timeout

        def alone(sql: str, values: Sequence[Any]) -> int:
            with mutex:
                return execute(sql, values).rowcount

        if locks is None:
            return alone
        enter, leave = locks.enter_writing, locks.leave_writing

        def locked(sql: str, values: Sequence[Any]) -> int:
            if self._damage is not None:
                raise self._damage
            with mutex:
                enter(timeout)
                try:
                    count = execute(sql, values).rowcount
                    self._pages += 3
                    if self._pages >= self._due:
                        self.wrote(0)
                    return count
                finally:
                    leave()

        return locked

    def wrote(self, pages: int) -> None:
        """Count the pages of a commit, and checkpoint when it is time; called while excluding."""
        self._pages += pages
        if self._pages < self._due or self._writer is None or self.path is None:
            return
        try:
            if self._due == GROW_AFTER:
                self._due = CHECKPOINT_PAGES
                self._grow_wal(self._writer, self.path)
            else:
                self.checkpoint("PASSIVE")
        except sqlite3.Error as error:
            # The commit before it stands; the next one meets the same trouble and reports it.
            self._pages = 0
            _logger.warning("%s: upkeep of the WAL failed: %s", self.where, error)

    def _grow_wal(self, writer: sqlite3.Connection, path: str) -> None:
        """Let the WAL have its size at once: a commit that makes a file longer syncs it twice.

        A transaction larger than the cache spills into the WAL, and its rollback leaves the file
        as long as it became.
        """
        if self.synchronous in ("OFF", "NORMAL") or _size(f"{path}-wal") > GROWN_WAL // 2:
            return
        cache = writer.execute("PRAGMA cache_size").fetchone()[0]
        writer.execute("PRAGMA cache_size=10")
        try:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("INSERT INTO meta (name, value) VALUES ('', zeroblob(?))", (GROWN_WAL,))
        finally:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            writer.execute(f"PRAGMA cache_size={cache}")

    def checkpoint(self, mode: str) -> None:
        """Move the WAL into the file; called while excluding."""
        if self._writer is not None and self.path is not None:
            self._writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        self._pages = 0

    # -- fork

    def _after_fork(self) -> None:
        """In the child: let go of every connection without closing it, and start anew on demand."""
        # Closing, even by the garbage collector, would touch locks and files of the parent.
        _leaked.append((self._writer, self.engine.pool, self._write_engine))
        self._writer = None
        self._write_engine = None
        self._forked_memory = self.is_memory
        self._opening = threading.RLock()
        self._ready = self._ready and not self.is_memory
        self._process = os.getpid()
        self._damage = None
        if self._lock_file is not None:
            self._mutex = self._lock_file.mutex
        else:
            self._mutex = _TimedMutex(self.where, self.busy_timeout)
        self.engine.dispose(close=False)


MEMORY_NAME: Final = ":memory:"
_LEVELS: Final = {"OFF": 0, "NORMAL": 1, "FULL": 2, "EXTRA": 3}
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_leaked: list[Any] = []
_after_fork_hooks: list[Callable[[], None]] = []


def after_fork(hook: Callable[[], None]) -> None:
    """Call *hook* in every forked child, after the databases have let go of their connections."""
    _after_fork_hooks.append(hook)


def _in_child() -> None:
    global _lock_files_mutex
    _lock_files_mutex = threading.Lock()
    for locks in _lock_files.values():
        locks.forget()
    for database in list(_databases):
        database._after_fork()
    for hook in _after_fork_hooks:
        hook()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _begin_deferred(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _engine_of(raw: sqlite3.Connection) -> sa.Engine:
    """Return an engine over one open connection whose transactions take the write lock at once."""
    engine = sa.create_engine("sqlite+pysqlite://", creator=lambda: raw, poolclass=StaticPool)
    event.listen(engine, "begin", _begin_immediate)
    return engine


# --- what a file is -------------------------------------------------------------------------------


def _identify(connection: sqlite3.Connection, path: str) -> str:
    """Return ``new``, ``old`` or ``current``, without changing anything.

    Raises:
        StoreVersionError: Somebody else's file, or one of a newer version.
        StoreDamaged: It has triggers or views that we did not make.
    """
    mark = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    names = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if mark == 0 and version == 0 and names == 0:
        return "new"
    if mark != schema.APPLICATION_ID:
        raise StoreVersionError(
            f"{path} belongs to another program (application_id {mark:#x}, {names} tables and "
            "indexes); it was not touched. Choose another file"
        )
    if version > schema.SCHEMA_VERSION:
        raise StoreVersionError(_too_new(connection, path, version))
    _refuse_foreign(connection, path)
    return "current" if version == schema.SCHEMA_VERSION else "old"


def _too_new(connection: sqlite3.Connection, path: str, version: int) -> str:
    try:
        row = connection.execute("SELECT value FROM meta WHERE name = 'needs'").fetchone()
    except sqlite3.Error:
        row = None
    needs = f">={row[0]}" if row is not None else " of a newer release"
    return (
        f"{path} has schema {version}, and this dagger_dsl reads up to {schema.SCHEMA_VERSION}; "
        f"install dagger_dsl{needs}. The file was not touched"
    )


def _refuse_foreign(connection: sqlite3.Connection, path: str) -> None:
    """Refuse triggers and views that would run somebody else's SQL under our statements."""
    ours = {name: schema.create_view(name, DIALECT) for name in schema.views()}
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')"
    )
    for kind, name, sql in rows.fetchall():
        if kind == "view" and ours.get(name) == sql:
            continue
        raise StoreDamaged(
            f"{path} has a {kind} {str(name)!r} that dagger_dsl did not make; "
            f"check where the file comes from, then DROP {kind.upper()} it"
        )


def _quick_check(connection: sqlite3.Connection, path: str) -> StoreDamaged | None:
    rows = [row[0] for row in connection.execute("PRAGMA quick_check(3)").fetchall()]
    if rows == ["ok"]:
        return None
    return StoreDamaged(
        f"{path} is damaged ({'; '.join(map(str, rows))}); restore a backup, or recover it with "
        "the sqlite3 shell's .recover into a new file"
    )


# --- making and migrating -------------------------------------------------------------------------

#: `{version: step}`: what brings a schema to *version* from the one before it.
MIGRATIONS: dict[int, Callable[[sa.Connection], None]] = {}


def _create(connection: sa.Connection) -> None:
    """Create or migrate the schema inside the transaction that is open."""
    sqlite = connection.dialect.name == "sqlite"
    version = _version(connection, sqlite)
    if version == schema.SCHEMA_VERSION:
        return
    if version > schema.SCHEMA_VERSION:
        raise StoreVersionError(
            f"the database has schema {version}, and this dagger_dsl reads up to "
            f"{schema.SCHEMA_VERSION}; install a newer release"
        )
    if version == 0:
        schema.METADATA.create_all(connection)
        for name in schema.views():
            connection.exec_driver_sql(schema.create_view(name, connection.dialect))
        if sqlite:
            connection.exec_driver_sql("ANALYZE")  # makes the table
            connection.exec_driver_sql(
                "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)",
                list(schema.STATISTICS),
            )
    else:
        for step in range(version + 1, schema.SCHEMA_VERSION + 1):
            MIGRATIONS[step](connection)
    _write_version(connection, sqlite)


def _version(connection: sa.Connection, sqlite: bool) -> int:
    if sqlite:
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if not sa.inspect(connection).has_table(schema.meta.name):
        return 0
    value = connection.scalar(
        sa.select(schema.meta.c.value).where(schema.meta.c.name == "schema_version")
    )
    return int(value or 0)


def _write_version(connection: sa.Connection, sqlite: bool) -> None:
    facts = {
        "schema_version": str(schema.SCHEMA_VERSION),
        "needs": schema.READS[schema.SCHEMA_VERSION],
    }
    connection.execute(sa.delete(schema.meta).where(schema.meta.c.name.in_(facts)))
    connection.execute(
        sa.insert(schema.meta), [{"name": name, "value": value} for name, value in facts.items()]
    )
    if sqlite:
        connection.exec_driver_sql(f"PRAGMA application_id={schema.APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version={schema.SCHEMA_VERSION}")


# --- statements -----------------------------------------------------------------------------------


class Statement:
    """A Core statement compiled once: SQLite's text for the driver, the names for everybody else.

    Attributes:
        core: The statement.
        sql: Its text with question marks.
        names: Its parameters, in the order of the question marks; a name may come twice.
    """

    __slots__ = ("_convert", "core", "names", "sql")

    def __init__(self, core: sa.sql.expression.ClauseElement) -> None:
        self.core: Any = core
        compiled: Any = core.compile(dialect=DIALECT)
        self.sql = str(compiled)
        self.names: tuple[str, ...] = tuple(compiled.positiontup or ())
        kinds = [compiled.binds[name].type.dialect_impl(DIALECT) for name in self.names]
        processors = [kind.bind_processor(DIALECT) for kind in kinds]
        self._convert = [(i, each) for i, each in enumerate(processors) if each is not None]

    def for_driver(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return *values* as SQLite's driver stores them."""
        if not self._convert:
            return values
        stored = list(values)
        for index, convert in self._convert:
            stored[index] = convert(stored[index])
        return stored

    def all_for_driver(self, rows: Sequence[Sequence[Any]]) -> Iterable[Sequence[Any]]:
        """Return *rows* as SQLite's driver stores them."""
        return map(self.for_driver, rows) if self._convert else rows


class Transaction:
    """A write transaction as journals see it; statements take their values in `names` order."""

    def execute(self, statement: Statement, values: Sequence[Any]) -> int:
        """Execute once; return the number of rows that were written."""
        raise NotImplementedError

    def execute_many(self, statement: Statement, values: Sequence[Sequence[Any]]) -> None:
        """Execute for each row."""
        raise NotImplementedError

    def scalar(self, statement: Statement, values: Sequence[Any]) -> Any:
        """Return the first value of the first row, or None."""
        raise NotImplementedError


class _DriverTransaction(Transaction):
    """On the driver's cursor, without SQLAlchemy between."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    def execute(self, statement: Statement, values: Sequence[Any]) -> int:
        return self._cursor.execute(statement.sql, statement.for_driver(values)).rowcount

    def execute_many(self, statement: Statement, values: Sequence[Sequence[Any]]) -> None:
        self._cursor.executemany(statement.sql, statement.all_for_driver(values))

    def scalar(self, statement: Statement, values: Sequence[Any]) -> Any:
        rows = self._cursor.execute(statement.sql, statement.for_driver(values)).fetchall()
        return rows[0][0] if rows else None


class _CoreTransaction(Transaction):
    """Through SQLAlchemy, for every other database."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def execute(self, statement: Statement, values: Sequence[Any]) -> int:
        named = dict(zip(statement.names, values, strict=True))
        return self._connection.execute(statement.core, named).rowcount

    def execute_many(self, statement: Statement, values: Sequence[Sequence[Any]]) -> None:
        named = [dict(zip(statement.names, each, strict=True)) for each in values]
        self._connection.execute(statement.core, named)

    def scalar(self, statement: Statement, values: Sequence[Any]) -> Any:
        named = dict(zip(statement.names, values, strict=True))
        return self._connection.execute(statement.core, named).scalar()


def run_transaction(
    database: Database, work: Callable[[Transaction], None], *, pages: int = 8
) -> None:
    """Do *work* in one write transaction, again while the database is busy, up to its timeout.

    *work* may be called more than once, each time on a clean transaction.

    Raises:
        StoreError: It could not be committed; nothing of it is in the database.
    """
    database.open()
    deadline = time.monotonic() + database.busy_timeout
    while True:
        try:
            _run_once(database, work, pages)
            return
        except StoreBusy:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.002)


def _run_once(database: Database, work: Callable[[Transaction], None], pages: int) -> None:
    if not database.is_sqlite or database.through_core:
        with database.writing() as connection:
            work(_CoreTransaction(connection))
        return
    with translated(database.where), database.exclusive() as writer:
        cursor = writer.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            work(_DriverTransaction(cursor))
            cursor.execute("COMMIT")
        finally:
            if writer.in_transaction:
                cursor.execute("ROLLBACK")
        database.wrote(pages)
