"""Removing messages that every subscription is done with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from dagger_dsl.store import message_statements as sql
from dagger_dsl.store.database import Database
from dagger_dsl.store.transactions import Statement, Transaction, read, run_transaction

__all__ = ["removable_messages", "remove_messages", "remove_some_messages"]

#: Messages that are looked at in one transaction, at most.
_PORTION: Final = 5_000

#: What removes the artifacts of which nothing else speaks.
Free = Callable[[Sequence[str]], object]


def remove_messages(database: Database, before: float, free: Free) -> int:
    """Remove messages that every subscription is done with; return how many.

    Those that were given up stay, and so does the last message of all.

    Args:
        database: Where.
        before: Only those that were published before, in seconds since 1970.
        free: Is given the artifacts that their payloads were.
    """
    count, reached = 0, 0
    while True:
        more, reached = remove_some_messages(database, before, reached, free)
        count += more
        if not reached:
            return count
        time.sleep(0.001)  # for others that want to write


def remove_some_messages(
    database: Database, before: float, after: int, free: Free, most: int = _PORTION
) -> tuple[int, int]:
    """Remove as `remove_messages` does, but look only at some messages, in one transaction.

    Args:
        database, before, free: As there.
        after: The number to begin after.
        most: Messages that are looked at.

    Returns:
        How many are gone, and where to go on, 0 where there is nothing more.
    """
    count, reached = 0, 0
    left: list[str] = []

    def remove(tx: Transaction) -> None:
        nonlocal count, reached
        count = 0
        left.clear()
        first, end = _bounds(tx.rows, after)
        stop = min(end, first + most)
        if stop > first:
            files = tx.rows(*_within(sql.REMOVABLE_FILES, first, stop, before))
            left.extend(str(row[0]) for row in files)
            count = tx.execute(*_within(sql.REMOVE, first, stop, before))
        reached = stop if stop < end else 0

    run_transaction(database, remove, pages=64)
    if left:
        free(left)
    return count, reached


def removable_messages(database: Database, before: float) -> tuple[int, list[str]]:
    """Return how many messages `remove_messages` would remove, and the artifacts of these."""

    def rows(statement: Statement, values: Sequence[Any]) -> list[Any]:
        return list(read(database, statement, values))

    first, end = _bounds(rows, 0)
    if end <= first:
        return 0, []
    count = rows(*_within(sql.REMOVABLE, first, end, before))[0][0]
    files = rows(*_within(sql.REMOVABLE_FILES, first, end, before))
    return int(count), [str(row[0]) for row in files]


def _bounds(rows: Callable[[Statement, Sequence[Any]], Any], after: int) -> tuple[int, int]:
    """Return after which message to begin, and up to which one everybody is done."""
    last = rows(sql.LAST, ())[0][0] or 0
    least = rows(sql.LEAST_POSITION, ())[0][0]
    end = last if least is None else min(least, last)
    return max(after, (rows(sql.FIRST, ())[0][0] or 1) - 1), end


def _within(
    statement: Statement, first: int, stop: int, before: float
) -> tuple[Statement, Sequence[Any]]:
    values = {"the_first": first, "the_number": stop, "the_time": before}
    return statement, statement.in_order(values)
