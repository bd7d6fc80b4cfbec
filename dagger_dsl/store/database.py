"""Connections: how they are opened, set, shared and let go.

A `Database` is one file (or one database in memory, or one URL of another scheme) as one process
sees it: a pool of connections that only read, and one connection that writes. What SQLite needs to
stay whole is here:

* settings on connect, read back; transactions opened by ``BEGIN IMMEDIATE``, never by the driver;
* commits and checkpoints exclude each other, between threads by a mutex, between processes by a
  lock file. SQLite before 3.51.3 can corrupt a file when two connections checkpoint and commit at
  the same instant (sqlite.org/wal.html#walresetbug); as processes with older and newer libraries
  may share a file, the rule does not look at the version, and no checkpoint is left to SQLite;
* connections are never used across a fork (`dagger_dsl.store.forks`);
* a file whose last user did not say good-bye is checked before it is written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from dagger_dsl.errors import (
    ConfigurationError,
    InvalidState,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreReadOnly,
    StoreVersionError,
)
from dagger_dsl.store.faults import store_error, translated
from dagger_dsl.store.forks import Lock, watch_forks
from dagger_dsl.store.locks import PRESENCE, LockFile, Locks, MemoryLocks, borrow, give_back
from dagger_dsl.store.migrations import create, identify, quick_check
from dagger_dsl.store.urls import MEMORY, is_memory, missing_driver, normalize_url

__all__ = ["Database", "normalize_url"]

_logger = logging.getLogger("dagger_dsl.store")

#: Up to this size a file that was not closed properly is checked before the first write.
QUICK_CHECK_LIMIT = 50 * 1024 * 1024

#: Smaller pages make a commit cheaper: each changed page is copied and summed as a whole.
PAGE_SIZE = 2048

#: A checkpoint is due after about so many pages: 4 MB, as is SQLite's own default.
CHECKPOINT_PAGES = 2000

#: What a commit of one row writes, about.
COMMIT_PAGES = 3

#: After 16 commits the WAL is worth growing to this size at once.
GROW_AFTER = 16 * COMMIT_PAGES
GROWN_WAL = 4 * 1024 * 1024

#: Whether the system says what a process may do by the rights that it acts with.
_EFFECTIVE: Final = os.access in os.supports_effective_ids

_LEVELS: Final = {"OFF": 0, "NORMAL": 1, "FULL": 2, "EXTRA": 3}

# What a child inherited in the middle of something: closing it, even by the garbage collector,
# would touch locks and files of the parent.
_leaked: list[Any] = []


class Database:
    """One database as this process sees it. Threads may share it.

    Args:
        url: A normalised URL.
        pool_size: Connections that read.
        busy_timeout: Seconds to wait for another process, unless the URL says otherwise.
        synchronous: SQLite's level, unless the URL says otherwise.

    Attributes:
        url, pool_size, busy_timeout, synchronous: As given, or as the URL says.
        dialect: The words to use for conflict clauses: ``sqlite`` or ``postgresql``.
        path: Its file, None for databases without one.
        where: What messages call it.
        engine: The SQLAlchemy engine for reading; for SQLite files its connections refuse writes.
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
        self.dialect = "sqlite" if self.is_sqlite else "postgresql"
        options = {name: str(value) for name, value in url.query.items()} if self.is_sqlite else {}
        self.busy_timeout = busy_timeout
        if "busy_timeout" in options:
            self.busy_timeout = int(options["busy_timeout"]) / 1000
        self.synchronous = options.get("synchronous", synchronous).upper()
        self.read_only = options.get("mode") == "ro"
        self.path: str | None = None
        if self.is_sqlite and not self.is_memory:
            self.path = os.path.realpath(url.database or "")
        self.where = self.path or (
            f"sqlite:{MEMORY}" if self.is_memory else url.render_as_string(hide_password=True)
        )
        #: Only read, in a folder that this process may not write in.
        self.is_still = (
            self.read_only
            and self.path is not None
            and not os.access(os.path.dirname(self.path), os.W_OK, effective_ids=_EFFECTIVE)
        )
        self.through_core = False  # tests make SQLite take the way of every other database
        self._ready = False
        self._closed = False
        self._forked: str | None = None
        self._opening = threading.RLock()
        self._gate = threading.Lock()
        self._readers: set[sqlite3.Connection] = set()
        self._in_use: set[int] = set()
        # The lock file's mutex replaces this one, as all databases of the process on it share it.
        self._mutex: threading.Lock | _TimedMutex = _TimedMutex(self.where, self.busy_timeout)
        self._memory_locks = MemoryLocks()
        self._lock_file: LockFile | None = None
        self._writer: sqlite3.Connection | None = None
        self._write_engine: sa.Engine | None = None
        self._wal_left = False
        self._damage: StoreDamaged | None = None
        self._pages = 0
        self._due = GROW_AFTER
        self.engine = self._make_engine()
        watch_forks(self)

    # -- opening and closing

    def open(self, *, reading: bool = False) -> None:
        """Make the database usable: create what is missing, refuse what is not ours.

        Args:
            reading: The caller only looks: an empty file that nobody began to make a database of
                is refused then, as nothing is found in it; who writes makes one of it.

        Raises:
            StoreVersionError: The file belongs to another program, or a newer version wrote it.
            StoreError: It cannot be opened.
            InvalidState: It was closed.
        """
        if not self._ready:
            self._open(reading)

    def _open(self, reading: bool) -> None:
        with self._opening, translated(self.where):
            self.check_usable()
            if self._ready:
                return
            if not self.is_sqlite:
                with self.engine.begin() as connection:
                    create(connection)
            elif self.path is None:
                with self._writing() as connection:
                    create(connection)
                # SQLAlchemy tries out an engine's first connection and rolls that back. It is the
                # one that writes: this must not happen in the middle of a transaction.
                self.engine.connect().close()
            else:
                self._open_file(self.path, reading)
            self._ready = True

    def check_usable(self) -> None:
        """Raise InvalidState when this process can use the database no more."""
        if self._closed:
            raise InvalidState(f"the store of {self.where} is closed; open a new one")
        if self._forked is not None:
            raise InvalidState(self._forked)

    def _open_file(self, path: str, reading: bool) -> None:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise ConfigurationError(
                f"{path}: the folder {folder} does not exist; create it, or choose another path"
            )
        if os.path.isdir(path):
            raise ConfigurationError(f"{path} is a folder; name a file in it")
        there = os.path.exists(path)
        if self.read_only and not there:
            raise ConfigurationError(f"{path} does not exist, and mode=ro creates nothing")
        self._wal_left = _size(f"{path}-wal") > 0
        state, journal = "new", ""
        if _size(path) or self._wal_left:
            with contextlib.closing(self._connect()) as probe:
                state = identify(probe, path)
                journal = probe.execute("PRAGMA journal_mode").fetchone()[0]
        if state == "current" and (journal == "wal" or self.read_only):
            return
        # Who makes a database makes the lock file first: without one nobody is just doing that,
        # and nobody died while he did.
        alone = self.read_only or not os.path.exists(f"{path}-lock")
        if state == "new" and there and alone and (reading or self.read_only):
            raise _empty(path)
        if self.read_only:
            raise StoreVersionError(
                f"{path} has to be migrated first; open it once without mode=ro"
            )
        self._prepare_file(path)

    def _prepare_file(self, path: str) -> None:
        """Create what is missing, migrate what is old, and turn the WAL on in a copied file."""
        locks = self._locking(path)
        with locks.mutex:
            try:
                locks.enter_writing(self.busy_timeout)
                with contextlib.closing(self._connect()) as connection:
                    state = identify(connection, path)
                    if state == "new":
                        connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
                    self._set(connection, writer=True)
                    if state != "current":
                        with _engine_of(connection).begin() as core:
                            create(core)
            finally:
                locks.leave_writing()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Close every connection; a later use is an error. May be called twice."""
        with self._opening:
            self._closed = True
            self._ready = False
            self.engine.dispose()
            writer, self._writer = self._writer, None
            locks, self._lock_file = self._lock_file, None
            if writer is not None:
                self._close_writer(writer, locks)
            if locks is not None:
                give_back(locks)

    def _close_writer(self, writer: sqlite3.Connection, locks: LockFile | None) -> None:
        if locks is None:
            writer.close()
            return
        with locks.mutex:
            # The last connection of all checkpoints and removes the WAL when it is closed.
            try:
                with contextlib.suppress(StoreBusy):
                    locks.enter_writing(self.busy_timeout)
                writer.close()
            finally:
                locks.leave_writing()
        locks.unlock(PRESENCE)
        if locks.try_lock(PRESENCE):  # nobody else is there: the file was left in order
            locks.mark(False)
            locks.unlock(PRESENCE)

    # -- connections

    def _connect(self) -> sqlite3.Connection:
        target = MEMORY if self.path is None else self.path
        if self.read_only:
            target = f"{Path(target).as_uri()}?mode=ro{self._unchanging()}"
        return sqlite3.connect(
            target,
            timeout=self.busy_timeout,
            isolation_level=None,  # the driver must open no transactions of its own
            check_same_thread=False,
            uri=self.read_only,
            cached_statements=256,
        )

    def _unchanging(self) -> str:
        """Return the option for a file at which SQLite cannot look in its usual way.

        It makes a WAL and its index for readers, too. Where it may not, and nobody else has made
        them, nobody writes: the file alone is all there is.
        """
        path = str(self.path)
        if not self.is_still:
            return ""
        if not _size(f"{path}-wal"):
            return "&immutable=1"
        if not os.path.exists(f"{path}-shm"):
            raise StoreReadOnly(
                f"{path}-wal has what was written last, and can only be read in a folder that may "
                "be written: copy both files to one, or make this one writable"
            )
        return ""

    def _set(self, connection: sqlite3.Connection, *, writer: bool) -> None:
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
            wanted["wal_autocheckpoint"] = 0
            wanted |= {"journal_mode": "wal"} if writer else {"query_only": 1}
        for name, value in wanted.items():
            connection.execute(f"PRAGMA {name}={value}").fetchall()
            found = connection.execute(f"PRAGMA {name}").fetchone()
            if found is None or found[0] != value:
                raise StoreError(
                    f"{self.where}: SQLite keeps {name}={found[0] if found else None} where "
                    f"{value} is needed; a network file system or an unusual SQLite does this"
                )

    def _make_engine(self) -> sa.Engine:
        if not self.is_sqlite:
            try:
                return sa.create_engine(self.url, pool_size=self.pool_size)
            except ModuleNotFoundError as error:
                raise missing_driver(self.url) from error
        one = self.path is None
        if self.is_still:  # each connection sees the file as it is now, and nothing later
            pool: dict[str, Any] = {"poolclass": NullPool}
        else:
            pool = {
                "poolclass": QueuePool,
                "pool_size": 1 if one else self.pool_size,
                "max_overflow": 0 if one else self.pool_size,
                "pool_timeout": max(self.busy_timeout, 0.001),
            }
        creator = self._writer_connection if one else self._reader_connection
        engine = sa.create_engine("sqlite+pysqlite://", creator=creator, **pool)
        event.listen(engine, "checkout", self._take_memory if one else self._take_reader)
        event.listen(engine, "checkin", self._give_memory if one else self._give_reader)
        event.listen(engine, "close", self._closed_reader)
        event.listen(engine, "begin", _begin_deferred)
        event.listen(engine, "handle_error", self._handle_error)
        return engine

    def _handle_error(self, context: Any) -> None:
        known = store_error(context.original_exception, self.where)
        if known is not None:
            raise known from context.original_exception

    def _take_memory(self, *_: Any) -> None:
        self._mutex.__enter__()

    def _give_memory(self, *_: Any) -> None:
        self._mutex.release()

    def _take_reader(self, connection: sqlite3.Connection, *_: Any) -> None:
        with self._gate:  # closed while the process forks
            self._in_use.add(id(connection))

    def _give_reader(self, connection: sqlite3.Connection | None, *_: Any) -> None:
        self._in_use.discard(id(connection))

    def _closed_reader(self, connection: sqlite3.Connection, *_: Any) -> None:
        self._readers.discard(connection)
        self._in_use.discard(id(connection))

    def _reader_connection(self) -> sqlite3.Connection:
        self.open(reading=True)
        with self._opening, translated(self.where):
            self.check_usable()
            connection = self._connect()
            try:
                self._set(connection, writer=False)
            except BaseException:
                connection.close()
                raise
            self._readers.add(connection)
        return connection

    def _writer_connection(self) -> sqlite3.Connection:
        writer = self._writer
        if writer is not None:
            return writer
        with self._opening:
            self.check_usable()
            if self._writer is None:
                self.check_writable()
                with translated(self.where):
                    self._writer = self._open_writer()
            return self._writer

    def check_writable(self) -> None:
        """Raise StoreReadOnly where the URL says that the database is only read."""
        if self.read_only:
            raise StoreReadOnly(f"{self.where} was opened with mode=ro; open it without to write")

    def _open_writer(self) -> sqlite3.Connection:
        locks = None if self.path is None else self._locking(self.path)
        if locks is not None and self.path is not None:
            self._arrive(locks, self.path)
        try:
            connection = self._connect()
            try:
                self._set(connection, writer=True)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            if locks is not None:
                locks.unlock(PRESENCE)
            raise
        return connection

    # -- locks

    def locking(self) -> Locks:
        """Return the locks that decide who owns a run: the lock file's where there is a file."""
        self.open()  # nothing is put beside a file that is not ours
        self.check_writable()
        return self._memory_locks if self.path is None else self._locking(self.path)

    def is_locked(self, offset: int) -> bool:
        """Whether anybody holds a lock; nothing is taken, or made, to see that.

        Where the lock file cannot be opened nobody can tell, and it counts as held.
        """
        self.open(reading=True)
        if self.path is None:
            return self._memory_locks.is_locked(offset)
        if not os.path.exists(f"{self.path}-lock"):
            return False
        try:
            return self._locking(self.path).is_locked(offset)
        except StoreReadOnly:
            return True

    def _locking(self, path: str) -> LockFile:
        with self._opening:
            self.check_usable()
            if self._lock_file is None:
                self._lock_file = borrow(f"{path}-lock")
                self._mutex = self._lock_file.mutex
            return self._lock_file

    # -- after an unclean end

    def _arrive(self, locks: LockFile, path: str) -> None:
        """Say that this process is here; check the file when the last one did not say good-bye."""
        if not locks.try_lock(PRESENCE):
            locks.lock(PRESENCE, self.busy_timeout, shared=True)
            return
        try:
            if locks.is_marked() or self._wal_left:
                self._check_after_crash(path)
            locks.mark(True)
        except BaseException:
            locks.unlock(PRESENCE)
            raise
        locks.share(PRESENCE)

    def _check_after_crash(self, path: str) -> None:
        if _size(path) > QUICK_CHECK_LIMIT:
            threading.Thread(
                target=self._check_beside, args=(path,), name="dagger-quick-check", daemon=True
            ).start()
            return
        with contextlib.closing(self._connect()) as connection:
            connection.execute("PRAGMA wal_autocheckpoint=0")
            damage = quick_check(connection, path)
        if damage is not None:
            raise damage

    def _check_beside(self, path: str) -> None:
        """Check a large file while the run goes on; what is found stops the next write."""
        self._in_use.add(0)
        try:
            with contextlib.closing(self._connect()) as connection:
                connection.execute("PRAGMA query_only=1")
                connection.execute("PRAGMA wal_autocheckpoint=0")
                self._damage = quick_check(connection, path)
        except sqlite3.Error as error:
            known = store_error(error, path)
            self._damage = known if isinstance(known, StoreDamaged) else None
            if self._damage is None:
                _logger.warning("%s: the check after an unclean end failed: %s", path, error)
        finally:
            self._in_use.discard(0)

    # -- reading and writing

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection in one read transaction: all that it reads is of one moment."""
        self.open(reading=True)
        with translated(self.where), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give the one connection that writes, in a transaction that holds the write lock.

        No user code, hook, network access or hashing belongs inside. It is not reentrant.
        """
        self.open()
        begin = self._writing if self.is_sqlite else self.engine.begin
        with translated(self.where), begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self.exclusive() as raw:
            if self._write_engine is None:
                self._write_engine = _engine_of(raw)
                event.listen(self._write_engine, "handle_error", self._handle_error)
            with self._write_engine.begin() as connection:
                yield connection
            self.wrote(8)

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
            try:  # around the taking too: an interrupt may come right after it
                locks.enter_writing(self.busy_timeout)
                yield writer
            finally:
                locks.leave_writing()

    def single(self) -> Callable[[str, Sequence[Any]], int]:
        """Return a function that commits one statement and returns the number of rows written.

        The way of a journal's hot path: no transaction statements, no context managers of ours.
        Its errors are the driver's.
        """
        self.open()
        execute = self._writer_connection().cursor().execute
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
                try:
                    enter(timeout)
                    count = execute(sql, values).rowcount
                    self._pages += COMMIT_PAGES
                    if self._pages >= self._due:
                        self.wrote(0)
                    return count
                finally:
                    leave()

        return locked

    # -- the write-ahead log

    def wrote(self, pages: int) -> None:
        """Count the pages of a commit, and look after the WAL when it is time.

        Called while excluding everybody else, after the commit.
        """
        self._pages += pages
        if self._due < CHECKPOINT_PAGES:  # growing pays by the commit, not by the page
            self._due = min(self._due + max(0, pages - COMMIT_PAGES), CHECKPOINT_PAGES)
        if self._pages < self._due or self._writer is None or self.path is None:
            return
        try:
            if self._due < CHECKPOINT_PAGES:
                self._due = CHECKPOINT_PAGES
                self._grow_wal(self._writer, self.path)
            else:
                self.checkpoint("PASSIVE")
        except sqlite3.Error as error:
            # The commit before it stands; the next one meets the same trouble and reports it.
            self._pages = 0
            _logger.warning("%s: upkeep of the WAL failed: %s", self.where, error)

    def _grow_wal(self, writer: sqlite3.Connection, path: str) -> None:
        """Let the WAL have its size at once: a commit that makes a file longer syncs more.

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

    def fork_locks(self) -> list[Lock]:
        """Return the locks without which nothing begins in it."""
        mutex = self._mutex.lock if isinstance(self._mutex, _TimedMutex) else self._mutex
        return [self._opening, self._gate, mutex]

    def is_idle(self) -> bool:
        """Whether no connection is in use."""
        return not self._in_use

    def start_over(self, calm: bool) -> None:
        """In the child: let go of the parent's connections; new ones are opened on demand."""
        _leaked.append((self.engine.pool, self._write_engine))
        self.engine.dispose(close=False)
        if self.is_memory:
            _leaked.append(self._writer)
            self._forked = (
                "a database in memory belongs to the process that made it; give the child a file, "
                "or let the parent do the work"
            )
        elif calm:
            for connection in (self._writer, *self._readers):
                if connection is not None:
                    connection.close()
        elif self.is_sqlite:
            _leaked.append((self._writer, self._readers))
            self._forked = (
                f"this process was forked while {self.where} was in use, and SQLite does not "
                "survive that; fork at a quieter moment, or start the process by 'spawn'"
            )
        self._ready = self._ready and self._forked is None
        self._writer = self._write_engine = self._damage = None
        self._readers = set()
        self._in_use = set()
        self._opening = threading.RLock()
        self._gate = threading.Lock()
        if self._lock_file is None:
            self._mutex = _TimedMutex(self.where, self.busy_timeout)
        else:
            self._lock_file.forget()
            self._mutex = self._lock_file.mutex


class _TimedMutex:
    """A lock that gives up: who holds the one connection of a memory database may be us."""

    def __init__(self, where: str, seconds: float) -> None:
        self.lock = threading.Lock()
        self.release = self.lock.release
        self._where = where
        self._seconds = seconds

    def __enter__(self) -> None:
        if not self.lock.acquire(timeout=self._seconds):
            raise StoreBusy(
                f"{self._where} was in use by this process for {self._seconds:g} s; close the "
                "connection or transaction that is still open"
            )

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _empty(path: str) -> StoreVersionError:
    return StoreVersionError(
        f"{path} is empty, not a dagger_dsl database; check the path, or restore a backup. The "
        "first run that is recorded there makes it one"
    )


def _begin_deferred(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _engine_of(raw: sqlite3.Connection) -> sa.Engine:
    """Return an engine over one open connection whose transactions take the write lock at once."""
    engine = sa.create_engine("sqlite+pysqlite://", creator=lambda: raw, poolclass=StaticPool)
    event.listen(engine, "begin", _begin_immediate)
    return engine
