"""What a driver's error means: one `StoreError`, chosen by its code, never by its text."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from dagger_dsl.errors import StoreBusy, StoreDamaged, StoreError, StoreFull, StoreReadOnly

__all__ = ["placed", "store_error", "translated"]

#: What says that a store does not work now; the other kinds are answers of one that does.
_TROUBLE: Final = (StoreError, StoreBusy, StoreDamaged, StoreFull, StoreReadOnly)


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
    sqlite3.SQLITE_READONLY: (
        StoreReadOnly,
        "make the file and its folder writable, or only look at it, with ?mode=ro in its URL",
    ),
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
    """Let the driver's errors inside the block leave as `StoreError`s, which say where."""
    try:
        with placed(where):
            yield
    except (sqlite3.Error, sa.exc.SQLAlchemyError) as error:
        known = store_error(error, where)
        if known is None:
            raise
        known.where = where
        raise known from error


@contextlib.contextmanager
def placed(where: str) -> Iterator[None]:
    """Let trouble inside the block say which database, or artifact folder, has it."""
    try:
        yield
    except StoreError as error:
        if type(error) in _TROUBLE and not error.where:
            error.where = where
        raise
