"""Memos: results that one run keeps for others, by a key that says what was computed of what."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import attrs
import sqlalchemy as sa

from dagger_dsl.store.arguments import check_count, check_moment, check_text
from dagger_dsl.store.database import Database
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.schema import memo
from dagger_dsl.store.transactions import Statement, column_moment, read

__all__ = ["Memo", "find", "forget", "recall"]


@attrs.frozen
class Memo:
    """What is known of a shared result, apart from its value.

    Attributes:
        key: What it is found by.
        action, version: Whose result it is.
        input_hash: Of what inputs.
        run_id, node_id: Where it was computed; that run may be gone.
        created_at: When, in UTC.
        expires_at: From when on it is not found any more; None for never.
    """

    key: str
    action: str
    version: str
    input_hash: str
    run_id: str
    node_id: str
    created_at: dt.datetime
    expires_at: dt.datetime | None

    def expired(self, now: dt.datetime | None = None) -> bool:
        """Whether it is out of date; by the clock, unless *now* is given."""
        if self.expires_at is None:
            return False
        return self.expires_at <= (dt.datetime.now(dt.UTC) if now is None else now)


_COLUMNS: Final = (
    memo.c.memo_key,
    memo.c.action,
    memo.c.version,
    memo.c.input_hash,
    memo.c.run_id,
    memo.c.node_id,
    memo.c.created_at,
    memo.c.expires_at,
)
_OF_KEY: Final = Statement(
    sa.select(*_COLUMNS, memo.c.value, memo.c.artifact_id).where(
        memo.c.memo_key == sa.bindparam("the_key", type_=sa.Text())
    )
)


def _memo(row: Sequence[Any]) -> Memo:
    key, action, version, input_hash, run_id, node_id, made, expiry = row[:8]
    until = None if expiry is None else column_moment(expiry)
    return Memo(key, action, version, input_hash, run_id, node_id, column_moment(made), until)


def recall(
    database: Database, payloads: Payloads, key: str, now: dt.datetime | None
) -> tuple[Any, Memo] | None:
    """See `Store.recall`."""
    check_text("a shared result's key", key)
    check_moment("now", now)
    rows = read(database, _OF_KEY, (key,))
    if not rows:
        return None
    found = _memo(rows[0])
    if found.expired(now):
        return None
    inline, artifact_id = rows[0][8:]
    return payloads.decode(inline, artifact_id, f"the shared result {key!r}"), found


def find(
    database: Database, action: str | None, node_id: str | None, limit: int | None = None
) -> list[Memo]:
    """See `Store.memos`."""
    query = sa.select(*_COLUMNS).order_by(memo.c.created_at.desc(), memo.c.memo_key)
    check_count("limit", limit)
    if limit is not None:
        query = query.limit(limit)
    for column, name in ((memo.c.action, action), (memo.c.node_id, node_id)):
        if name is not None:
            check_text(column.name, name)
            query = query.where(column == name)
    with database.reading() as connection:
        return [_memo(row) for row in connection.execute(query)]


def forget(database: Database, condition: sa.ColumnElement[bool]) -> int:
    """Remove the memos that fit; return their number. Their artifacts stay until `Store.prune`."""
    with database.writing() as connection:
        return connection.execute(sa.delete(memo).where(condition)).rowcount
