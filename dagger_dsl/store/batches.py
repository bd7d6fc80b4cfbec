"""What one commit holds, and the statements that write it.

Rows are sorted by the shortest statement that can write them, over all the batches of a
transaction, so that a thousand rows are a few calls of the driver.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from dagger_dsl.model.protocols import Command, Row
from dagger_dsl.store import schema
from dagger_dsl.store.schema import artifact_links, artifacts, cache_entries, flow_runs, node_runs
from dagger_dsl.store.transactions import Statement, Transaction

__all__ = ["Batch", "Riders", "file_row", "is_plain", "write_batches"]

_COLUMNS: Final = (
    "run_id",
    "seq",
    "node_id",
    "invocation_key",
    "attempt",
    "state",
    "output",
    "output_artifact_id",
    "started_at",
    "duration_ms",
    "error",
    "meta",
    "released",
)


def _binds(table: sa.Table, columns: Sequence[str]) -> dict[str, sa.BindParameter[Any]]:
    return {name: sa.bindparam(name, type_=table.c[name].type) for name in columns}


def _fenced_insert(values: Mapping[str, Any]) -> Statement:
    owned = sa.exists().where(
        flow_runs.c.run_id == sa.bindparam("the_run", type_=sa.Text()),
        flow_runs.c.epoch == sa.bindparam("the_epoch", type_=sa.Integer()),
    )
    return Statement(
        sa.insert(node_runs).from_select(list(values), sa.select(*values.values()).where(owned))
    )


def _insert(table: sa.Table, columns: Sequence[str]) -> Statement:
    return Statement(sa.insert(table).values(_binds(table, columns)))


class Upsert:
    """One insert with a conflict clause, in the words of either dialect.

    Args:
        table, columns: What is inserted, in the order of the table.
        replace: Columns that are overwritten in a row that is there; without any it stays.
        keep: Columns that are overwritten by what is not NULL.
    """

    def __init__(
        self,
        table: sa.Table,
        columns: Sequence[str],
        replace: Sequence[str] = (),
        keep: Sequence[str] = (),
    ) -> None:
        self._table, self.columns = table, tuple(columns)
        self._replace, self._keep = replace, keep
        self._made: dict[str, Statement] = {}

    def __call__(self, dialect: str) -> Statement:
        made = self._made.get(dialect)
        if made is None:
            made = self._made[dialect] = self._make(dialect)
        return made

    def _make(self, dialect: str) -> Statement:
        insert: Any = sqlite_insert
        if dialect == "postgresql":
            # Its dialect takes 20 ms to import, which every start on SQLite would wait for.
            from sqlalchemy.dialects.postgresql import insert
        made = insert(self._table).values(_binds(self._table, self.columns))
        if not self._replace:
            return Statement(made.on_conflict_do_nothing())
        values = {each: made.excluded[each] for each in self._replace}
        values |= {
            each: sa.func.coalesce(made.excluded[each], self._table.c[each]) for each in self._keep
        }
        keys = list(self._table.primary_key.columns)
        return Statement(made.on_conflict_do_update(index_elements=keys, set_=values))


#: Most rows: a first attempt that completed with a value that is stored inline. Each value that a
#: statement does not have to bind saves some 0.1 us.
_PLAIN: Final = {"invocation_key": "default", "attempt": 1, "state": "completed"}
_PLAIN_COLUMNS: Final = ("run_id", "seq", "node_id", "output", "started_at", "duration_ms")


def _plain_values(*more: str) -> dict[str, Any]:
    fixed: dict[str, Any] = {name: sa.literal_column(repr(value)) for name, value in _PLAIN.items()}
    return {**_binds(node_runs, (*_PLAIN_COLUMNS, *more)), **fixed}


def is_plain(row: Row) -> bool:
    """Whether the short statements can write a row."""
    _, key, attempt, state, _, artifact_id, _, _, error, meta = row
    return (
        attempt == 1
        and key == "default"
        and state == "completed"
        and artifact_id is None
        and error is None
        and meta is None
    )


INSERT_PLAIN: Final = Statement(sa.insert(node_runs).values(_plain_values()).inline())
INSERT_PLAIN_RELEASED: Final = Statement(
    sa.insert(node_runs).values(_plain_values("released")).inline()
)
INSERT_PLAIN_FENCED: Final = _fenced_insert(_plain_values("released"))
INSERT_FENCED: Final = _fenced_insert(_binds(node_runs, _COLUMNS))
INSERT_ROW: Final = _insert(node_runs, _COLUMNS)
INSERT_ROW_AGAIN: Final = Upsert(node_runs, _COLUMNS)
# What the commit of the old row had started is no part of its outcome.
REPLACE_ROW: Final = Upsert(
    node_runs,
    _COLUMNS,
    tuple(set(_COLUMNS) - {*node_runs.primary_key.columns.keys(), "released"}),
    ("released",),
)
_LOG_COLUMNS: Final = ("run_id", "seq", "kind", "entry_key", "body")
INSERT_LOG: Final = _insert(schema.run_log, _LOG_COLUMNS)
INSERT_LOG_AGAIN: Final = Upsert(schema.run_log, _LOG_COLUMNS)
INSERT_ARTIFACT: Final = Upsert(
    artifacts, ("artifact_id", "kind", "size_bytes", "storage_location", "inline_data", "file_path")
)
INSERT_LINK: Final = Upsert(artifact_links, ("artifact_id", "run_id", "node_id"))
UPSERT_CACHE: Final = Upsert(
    cache_entries,
    ("run_id", "namespace", "entry_key", "value", "artifact_id"),
    ("value", "artifact_id", "updated_at"),
)
_MEMO_COLUMNS: Final = (  # in the order of the table, which is that of an insert
    "memo_key",
    "action",
    "value",
    "artifact_id",
    "created_at",
    "expires_at",
    "version",
    "input_hash",
    "run_id",
    "node_id",
)
UPSERT_MEMO: Final = Upsert(schema.memo, _MEMO_COLUMNS, _MEMO_COLUMNS[1:])
SET_INPUT_HASH: Final = Statement(
    sa.update(node_runs)
    .where(node_runs.c.run_id == sa.bindparam("the_run", type_=sa.Text()))
    .where(node_runs.c.node_id == sa.bindparam("the_node", type_=sa.Text()))
    .where(node_runs.c.invocation_key == sa.bindparam("the_key", type_=sa.Text()))
    .where(node_runs.c.seq >= sa.bindparam("the_first", type_=sa.BigInteger()))
    .values(input_hash=sa.bindparam("new_hash", type_=sa.Text()))
)


def _update_run(**values: Any) -> Statement:
    return Statement(
        sa.update(flow_runs)
        .where(flow_runs.c.run_id == sa.bindparam("the_run", type_=sa.Text()))
        .where(flow_runs.c.epoch == sa.bindparam("the_epoch", type_=sa.Integer()))
        # Bound: the database's own CURRENT_TIMESTAMP has whole seconds, and runs are shorter.
        .values(updated_at=sa.bindparam("now", type_=flow_runs.c.updated_at.type), **values)
    )


# FOR SHARE keeps a takeover away until the commit; SQLite's write lock does so by itself.
EPOCH: Final = Statement(
    sa.select(flow_runs.c.epoch)
    .where(flow_runs.c.run_id == sa.bindparam("the_run", type_=sa.Text()))
    .with_for_update(read=True)
)
SET_STATUS: Final = _update_run(status=sa.bindparam("new_status", type_=sa.Text()))
SET_CRASHES: Final = _update_run(crashes=sa.bindparam("new_crashes", type_=sa.Text()))
_FREE: Final = {
    "owner": sa.null(),
    "lease_expires_at": sa.null(),
    "owned_seconds": flow_runs.c.owned_seconds + sa.bindparam("more_seconds", type_=sa.Double()),
}
FINISH: Final = _update_run(
    status=sa.bindparam("new_status", type_=sa.Text()),
    error=sa.bindparam("new_error", type_=sa.Text()),
    created_at=sa.func.coalesce(
        sa.bindparam("began", type_=flow_runs.c.created_at.type), flow_runs.c.created_at
    ),
    **_FREE,
)
RELEASE: Final = _update_run(**_FREE)


def file_row(artifact_id: str, size: int, kind: str = "json") -> tuple[Any, ...]:
    """Return the row of an artifact that is in a file, as `INSERT_ARTIFACT` takes it."""
    return artifact_id, kind, size, "file", None, f"{artifact_id[:2]}/{artifact_id}"


@attrs.define(eq=False)
class Riders:
    """What waits for a commit to join: it is written with the next one that is.

    Attributes:
        cache: Values of the run's cache, by namespace and key.
        memos: Rows of `memo` by key, as `UPSERT_MEMO` takes them.
        hashes: Hashes of inputs, by node and invocation.
        steps: What else the transaction does, in order; a step may be called more than once, each
            time in a clean transaction.
    """

    cache: dict[tuple[str, str], tuple[str | None, str | None]] = attrs.field(factory=dict)
    memos: dict[str, tuple[Any, ...]] = attrs.field(factory=dict)
    hashes: dict[tuple[str, str], str] = attrs.field(factory=dict)
    steps: list[Callable[[Transaction], None]] = attrs.field(factory=list)

    def size(self) -> int:
        """Return about how many rows they write."""
        return len(self.cache) + len(self.memos) + len(self.hashes) + 8 * len(self.steps)

    def artifacts(self) -> list[str | None]:
        """Return the artifacts they name."""
        named = [artifact_id for _, artifact_id in self.cache.values()]
        return named + [memo[3] for memo in self.memos.values()]

    def over(self, earlier: Riders) -> Riders:
        """Return both together; where both say something, this one is right."""
        return Riders(
            {**earlier.cache, **self.cache},
            {**earlier.memos, **self.memos},
            {**earlier.hashes, **self.hashes},
            [*earlier.steps, *self.steps],
        )


@attrs.define(eq=False)
class Batch:
    """What one call of a journal writes; `seq` is the number of its first row or entry."""

    rows: Sequence[Row] = ()
    released: Sequence[int] | None = None
    status: str | None = None
    commands: Sequence[Command] = ()
    crashes: str | None = None
    riders: Riders | None = None
    artifacts: Mapping[str, int] = attrs.field(factory=dict)
    again: bool = False
    ack: bool = False
    replacing: Sequence[Row] = ()
    ending: Statement | None = None
    ending_values: dict[str, Any] = attrs.field(factory=dict)
    seq: int = 0

    def size(self) -> int:
        """Return about how many rows it writes."""
        more = 0 if self.riders is None else self.riders.size()
        return len(self.rows) + len(self.replacing) + len(self.commands) + more + 1

    def logs_release(self) -> bool:
        """Whether its releases have an entry of their own: no row bears them."""
        return self.ack or bool(self.released and not self.rows)

    def numbers(self) -> int:
        """Return how many places in the run's history it takes."""
        entries = len(self.commands) + self.logs_release()
        return len(self.rows) + len(self.replacing) + entries


def write_batches(
    tx: Transaction, dialect: str, tail: tuple[str, int], batches: Sequence[Batch]
) -> None:
    """Write batches in one transaction, as if one after the other.

    Args:
        tx: The transaction, in which the fence was checked.
        dialect: The words for conflict clauses.
        tail: The run and its epoch.
        batches: In order.
    """
    run_id = tail[0]
    rows, entries = _Rows(run_id), []
    sizes: dict[str, int] = {}
    again = False
    for batch in batches:
        again = again or batch.again
        sizes.update(batch.artifacts)
        seq = rows.add(batch)
        for key, body in batch.commands:
            entries.append((run_id, seq, "command", key, body))
            seq += 1
        if batch.logs_release():
            key = f"ack:{seq}" if batch.ack else None
            entries.append((run_id, seq, "released", key, _slots(batch.released)))
    if sizes:
        tx.execute_many(INSERT_ARTIFACT(dialect), [file_row(*each) for each in sizes.items()])
    rows.write(tx, dialect, again)
    if entries:
        tx.execute_many(INSERT_LOG_AGAIN(dialect) if again else INSERT_LOG, entries)
    for batch in batches:
        if batch.riders is not None:
            _write_riders(tx, dialect, run_id, batch.seq, batch.riders)
    for batch in batches:
        if batch.crashes is not None:
            _change_run(tx, SET_CRASHES, tail, {"new_crashes": batch.crashes})
        if batch.status is not None:
            _change_run(tx, SET_STATUS, tail, {"new_status": batch.status})
        if batch.ending is not None:
            _change_run(tx, batch.ending, tail, batch.ending_values)


def _slots(released: Sequence[int] | None) -> str:
    return orjson.dumps(list(released or ())).decode()


def _write_riders(tx: Transaction, dialect: str, run_id: str, first: int, riders: Riders) -> None:
    if riders.cache:
        named = [(run_id, *name, *value) for name, value in riders.cache.items()]
        tx.execute_many(UPSERT_CACHE(dialect), named)
    if riders.memos:
        tx.execute_many(UPSERT_MEMO(dialect), list(riders.memos.values()))
    for (node_id, key), input_hash in riders.hashes.items():
        values = {
            "the_run": run_id,
            "the_node": node_id,
            "the_key": key,
            "the_first": first,
            "new_hash": input_hash,
        }
        tx.execute(SET_INPUT_HASH, SET_INPUT_HASH.in_order(values))
    for step in riders.steps:
        step(tx)


def _change_run(
    tx: Transaction, statement: Statement, tail: tuple[str, int], values: Mapping[str, Any]
) -> None:
    run_id, epoch = tail
    named = {"the_run": run_id, "the_epoch": epoch, "now": dt.datetime.now(dt.UTC), **values}
    tx.execute(statement, statement.in_order(named))


class _Rows:
    """Rows, sorted by the statement that writes them."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._plain: list[tuple[Any, ...]] = []
        self._releasing: list[tuple[Any, ...]] = []
        self._others: list[tuple[Any, ...]] = []
        self._replacing: list[tuple[Any, ...]] = []

    def add(self, batch: Batch) -> int:
        """Add the rows of a batch; return the next number.

        The first row bears what the batch released, unless an entry of the log does. Ends without
        a call replace an earlier row by themselves.
        """
        run_id, seq = self._run_id, batch.seq
        released = None if batch.ack or batch.released is None else _slots(batch.released)
        plain = self._plain.append
        for row in batch.rows:
            if batch.again or not is_plain(row):
                (self._others if row[2] else self._replacing).append((run_id, seq, *row, released))
            elif released is None:
                plain((run_id, seq, row[0], row[4], row[6], row[7]))
            else:
                self._releasing.append((run_id, seq, row[0], row[4], row[6], row[7], released))
            released = None
            seq += 1
        for row in batch.replacing:
            self._replacing.append((run_id, seq, *row, None))
            seq += 1
        return seq

    def write(self, tx: Transaction, dialect: str, again: bool) -> None:
        """Write them all; *again* passes over what is there."""
        if self._plain:
            tx.execute_many(INSERT_PLAIN, self._plain)
        if self._releasing:
            tx.execute_many(INSERT_PLAIN_RELEASED, self._releasing)
        if self._others:
            tx.execute_many(INSERT_ROW_AGAIN(dialect) if again else INSERT_ROW, self._others)
        if self._replacing:
            tx.execute_many(REPLACE_ROW(dialect), self._replacing)
