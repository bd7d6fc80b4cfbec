"""Statements that Core compiles once, and transactions in which they are executed.

On SQLite they run on the driver's own cursor, without SQLAlchemy between; on every other database
through SQLAlchemy. Who writes a statement does not see the difference.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dagger_dsl.errors import StoreBusy
from dagger_dsl.store.database import Database
from dagger_dsl.store.faults import translated
from dagger_dsl.store.migrations import DIALECT

__all__ = ["Statement", "Transaction", "column_moment", "fetch", "read", "run_transaction"]


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

    def __getattr__(self, name: str) -> Any:
        """Compile on first use: most processes need few of the statements there are."""
        if name not in ("sql", "names", "_convert"):
            raise AttributeError(name)
        self._compile()
        return getattr(self, name)

    def _compile(self) -> None:
        compiled: Any = self.core.compile(dialect=DIALECT)
        self.sql: str = str(compiled)
        self.names: tuple[str, ...] = tuple(compiled.positiontup or ())
        kinds = [compiled.binds[name].type.dialect_impl(DIALECT) for name in self.names]
        # We give a float where one is due; SQLAlchemy would turn each into a float again.
        processors = [
            None if isinstance(kind, sa.Float) else kind.bind_processor(DIALECT) for kind in kinds
        ]
        self._convert = [(i, each) for i, each in enumerate(processors) if each is not None]

    def in_order(self, named: Mapping[str, Any]) -> list[Any]:
        """Return what *named* has for the parameters, in the order of `names`."""
        return [named[name] for name in self.names]

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
        if not self._convert:
            return rows
        known: dict[tuple[int, int], Any] = {}  # many rows share a moment
        return [self._stored(row, known) for row in rows]

    def _stored(self, row: Sequence[Any], known: dict[tuple[int, int], Any]) -> Sequence[Any]:
        stored = list(row)
        for index, convert in self._convert:
            key = index, id(stored[index])
            if key not in known:
                known[key] = convert(stored[index])
            stored[index] = known[key]
        return stored


class Transaction:
    """A write transaction as journals see it; statements take their values in `names` order.

    Attributes:
        after: What is called once it is committed.
    """

    after: tuple[Callable[[], None], ...] = ()

    def execute(self, statement: Statement, values: Sequence[Any]) -> int:
        """Execute once; return the number of rows that were written."""
        raise NotImplementedError

    def execute_many(self, statement: Statement, values: Sequence[Sequence[Any]]) -> None:
        """Execute for each row."""
        raise NotImplementedError

    def rows(self, statement: Statement, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Return all rows, as the driver gives them."""
        raise NotImplementedError

    def scalar(self, statement: Statement, values: Sequence[Any]) -> Any:
        """Return the first value of the first row, or None."""
        rows = self.rows(statement, values)
        return rows[0][0] if rows else None


class _DriverTransaction(Transaction):
    """On the driver's cursor, without SQLAlchemy between."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    def execute(self, statement: Statement, values: Sequence[Any]) -> int:
        return self._cursor.execute(statement.sql, statement.for_driver(values)).rowcount

    def execute_many(self, statement: Statement, values: Sequence[Sequence[Any]]) -> None:
        self._cursor.executemany(statement.sql, statement.all_for_driver(values))

    def rows(self, statement: Statement, values: Sequence[Any]) -> list[Sequence[Any]]:
        return self._cursor.execute(statement.sql, statement.for_driver(values)).fetchall()


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

    def rows(self, statement: Statement, values: Sequence[Any]) -> list[Sequence[Any]]:
        named = dict(zip(statement.names, values, strict=True))
        return list(self._connection.execute(statement.core, named))


def fetch(
    connection: sa.Connection, statement: Statement, values: Sequence[Any]
) -> list[Sequence[Any]]:
    """Return the rows of a SELECT as the driver gives them: many, and without conversions."""
    if connection.dialect.name != "sqlite":
        named = dict(zip(statement.names, values, strict=True))
        return list(connection.execute(statement.core, named))
    raw: Any = connection.connection.driver_connection
    rows: list[Sequence[Any]] = raw.execute(statement.sql, values).fetchall()
    return rows


def read(database: Database, statement: Statement, values: Sequence[Any]) -> list[Sequence[Any]]:
    """Return the rows of one SELECT, as the driver gives them, by the shortest way there is.

    On a connection that reads, where there is one; not inside a transaction of the caller.

    Raises:
        StoreError: It cannot be read now.
    """
    if not database.is_sqlite or database.through_core:
        with database.reading() as connection:
            named = dict(zip(statement.names, values, strict=True))
            return list(connection.execute(statement.core, named))
    database.open(reading=True)
    with translated(database.where):
        pooled = database.engine.raw_connection()
        try:
            raw: Any = pooled.driver_connection
            rows: list[Sequence[Any]] = raw.execute(
                statement.sql, statement.for_driver(values)
            ).fetchall()
            return rows
        finally:
            pooled.close()


def column_moment(value: str | dt.datetime) -> dt.datetime:
    """Return the moment that a driver gave for a column of moments; SQLite's gives text."""
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value)
    return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value


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
            tx: Transaction = _CoreTransaction(connection)
            work(tx)
        for each in tx.after:
            each()
        return
    with translated(database.where), database.exclusive() as writer:
        cursor = writer.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            tx = _DriverTransaction(cursor)
            work(tx)
            cursor.execute("COMMIT")
        finally:
            if writer.in_transaction:
                cursor.execute("ROLLBACK")
        database.wrote(pages)
    for each in tx.after:
        each()
