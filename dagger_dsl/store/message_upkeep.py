"""Removing messages that every subscription is done with."""

from __future__ import annotations

import time
from typing import Final

from dagger_dsl.store import message_statements as sql
from dagger_dsl.store.database import Database
from dagger_dsl.store.transactions import Transaction, run_transaction

__all__ = ["remove_messages", "remove_some_messages"]

#: Messages that are looked at in one transaction, at most.
_PORTION: Final = 5_000


def remove_messages(database: Database, before: float) -> int:
    """Remove messages that every subscription is done with; return how many.

    Those that were given up stay, and so does the last message of all.

    Args:
        database: Where.
        before: Only those that were published before, in seconds since 1970.
    """
    count, reached = 0, 0
    while True:
        more, reached = remove_some_messages(database, before, reached)
        count += more
        if not reached:
            return count
        time.sleep(0.001)  # for others that want to write


def remove_some_messages(
    database: Database, before: float, after: int, most: int = _PORTION
) -> tuple[int, int]:
    """Remove as `remove_messages` does, but look only at some messages, in one transaction.

    Args:
        database, before: As there.
        after: The number to begin after.
        most: Messages that are looked at.

    Returns:
        How many are gone, and where to go on, 0 where there is nothing more.
    """
    count, reached = 0, 0

    def remove(tx: Transaction) -> None:
        nonlocal count, reached
        last = tx.scalar(sql.LAST, ()) or 0
        least = tx.scalar(sql.LEAST_POSITION, ())
        end = last if least is None else min(least, last)
        first = max(after, (tx.scalar(sql.FIRST, ()) or 1) - 1)
        stop = min(end, first + most)
        values = {"the_first": first, "the_number": stop, "the_time": before}
        count = tx.execute(sql.REMOVE, sql.REMOVE.in_order(values)) if stop > first else 0
        reached = stop if stop < end else 0

    run_transaction(database, remove, pages=64)
    return count, reached
