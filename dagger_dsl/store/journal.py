"""The journal of one run: what its owner writes, in transactions that only the owner can commit.

Three levels behind the same calls. ``sync`` commits before it returns; ``async`` hands over to one
thread that commits whatever has queued, in order; ``exit`` keeps everything until the run ends.
A commit of one row is one statement on the driver's cursor; its condition is the fence.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from dagger_dsl.errors import InvalidState, RunFenced, RunOwned, StoreBusy, StoreError
from dagger_dsl.store import schema
from dagger_dsl.store.database import Database
from dagger_dsl.store.faults import store_error
from dagger_dsl.store.forks import after_fork
from dagger_dsl.store.ownership import Heart
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.schema import artifact_links, artifacts, cache_entries, flow_runs, node_runs
from dagger_dsl.store.transactions import Statement, Transaction, run_transaction

__all__ = ["Command", "Row", "RunJournal"]

_logger = logging.getLogger("dagger_dsl.store")

#: ``(node_id, key, attempt, state, inline, artifact_id, started_at, duration_ms, error, meta)``;
#: `inline` and `artifact_id` are what `RunJournal.encode` gave, `error` and `meta` JSON objects.
Row: TypeAlias = tuple[
    str,
    str,
    int,
    str,
    str | None,
    str | None,
    float | None,
    float | None,
    str | None,
    str | None,
]

#: ``(key, body)``: JSON text that a run's replay needs; a key is stored once, None is no key.
Command: TypeAlias = tuple[str | None, str]

#: At level ``async`` a commit waits while so many rows are queued.
QUEUE_LIMIT: Final = 10_000


# --- statements -----------------------------------------------------------------------------------

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
    """One insert with a conflict clause, in the words of either dialect."""

    def __init__(
        self, table: sa.Table, columns: Sequence[str], replace: Sequence[str] = ()
    ) -> None:
        self._table, self._columns, self._replace = table, columns, replace
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
        made = insert(self._table).values(_binds(self._table, self._columns))
        if not self._replace:
            return Statement(made.on_conflict_do_nothing())
        return Statement(
            made.on_conflict_do_update(
                index_elements=list(self._table.primary_key.columns),
                set_={each: made.excluded[each] for each in self._replace},
            )
        )


#: Most rows: a first attempt that completed with a value that is stored inline. Each value that a
#: statement does not have to bind saves some 0.1 us.
_PLAIN: Final = {"invocation_key": "default", "attempt": 1, "state": "completed"}
_PLAIN_COLUMNS: Final = ("run_id", "seq", "node_id", "output", "started_at", "duration_ms")


def _plain_values(*more: str) -> dict[str, Any]:
    fixed: dict[str, Any] = {name: sa.literal_column(repr(value)) for name, value in _PLAIN.items()}
    return {**_binds(node_runs, (*_PLAIN_COLUMNS, *more)), **fixed}


def _is_plain(row: Row) -> bool:
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
INSERT_PLAIN_FENCED: Final = _fenced_insert(_plain_values("released"))
INSERT_FENCED: Final = _fenced_insert(_binds(node_runs, _COLUMNS))
INSERT_ROW: Final = _insert(node_runs, _COLUMNS)
INSERT_ROW_AGAIN: Final = Upsert(node_runs, _COLUMNS)
REPLACE_ROW: Final = Upsert(
    node_runs, _COLUMNS, tuple(set(_COLUMNS) - set(node_runs.primary_key.columns.keys()))
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
    ("value", "artifact_id"),
)


def _update_run(**values: Any) -> Statement:
    return Statement(
        sa.update(flow_runs)
        .where(flow_runs.c.run_id == sa.bindparam("the_run", type_=sa.Text()))
        .where(flow_runs.c.epoch == sa.bindparam("the_epoch", type_=sa.Integer()))
        .values(updated_at=sa.func.current_timestamp(), **values)
    )


# FOR SHARE keeps a takeover away until the commit; SQLite's write lock does so by itself.
EPOCH: Final = Statement(
    sa.select(flow_runs.c.epoch)
    .where(flow_runs.c.run_id == sa.bindparam("the_run", type_=sa.Text()))
    .with_for_update(read=True)
)
SET_STATUS: Final = _update_run(status=sa.bindparam("new_status", type_=sa.Text()))
SET_CRASHES: Final = _update_run(crashes=sa.bindparam("new_crashes", type_=sa.Text()))
FINISH: Final = _update_run(
    status=sa.bindparam("new_status", type_=sa.Text()),
    error=sa.bindparam("new_error", type_=sa.Text()),
    owner=sa.null(),
    lease_expires_at=sa.null(),
)
RELEASE: Final = _update_run(owner=sa.null(), lease_expires_at=sa.null())


# --- what one commit holds ------------------------------------------------------------------------


@attrs.define(eq=False)
class _Batch:
    rows: Sequence[Row] = ()
    released: Sequence[int] | None = None
    status: str | None = None
    commands: Sequence[Command] = ()
    crashes: str | None = None
    cache: Mapping[tuple[str, str], tuple[str | None, str | None]] = attrs.field(factory=dict)
    artifacts: Mapping[str, int] = attrs.field(factory=dict)
    again: bool = False
    ending: Statement | None = None
    ending_values: tuple[Any, ...] = ()
    seq: int = 0

    def size(self) -> int:
        return len(self.rows) + len(self.commands) + len(self.cache) + 1


_journals: weakref.WeakSet[RunJournal] = weakref.WeakSet()


class RunJournal:
    """Writes one run's history; made by `Store.create_run` and `Store.claim_run` for its owner.

    One thread at a time may call it. After a `StoreError` nothing of the refused commit is in the
    database, and the journal can be used again, except after `RunFenced`, which is final.

    Attributes:
        run_id, epoch: The run, and the number of this ownership.
        durability: ``sync``, ``async`` or ``exit``.
    """

    def __init__(
        self,
        database: Database,
        payloads: Payloads,
        heart: Heart,
        run_id: str,
        epoch: int,
        *,
        durability: str = "sync",
        seq: int = 0,
        on_release: Callable[[], None],
    ) -> None:
        self.run_id = run_id
        self.epoch = epoch
        self.durability = durability
        self._database = database
        self._payloads = payloads
        self._heart = heart
        self._seq = seq
        self._on_release = on_release
        self._refusal: StoreError | InvalidState | None = None
        self._process = os.getpid()
        self._tail = (run_id, epoch)
        self._new_artifacts: dict[str, int] = {}
        self._cache: dict[tuple[str, str], tuple[str | None, str | None]] = {}
        self._dialect = database.dialect
        self._kept: list[_Batch] = []
        self._queue = _Queue(self._write) if durability == "async" else None
        self._single = (
            database.single()
            if durability == "sync" and database.is_sqlite and not database.through_core
            else None
        )
        _journals.add(self)
        heart.add(run_id)

    # -- values

    def encode(self, value: Any, path: str = "value") -> tuple[str | None, str | None]:
        """Return a row's `inline` and `artifact_id` for *value*; any thread may call it.

        Raises:
            EncodingError: It has no stored form.
            StoreError: Its artifact file cannot be written.
        """
        inline, artifact_id, size = self._payloads.encode(value, path)
        if artifact_id is not None:
            self._new_artifacts[artifact_id] = size
        return inline, artifact_id

    # -- writing

    def commit(
        self,
        rows: Sequence[Row],
        released: Sequence[int] | None = None,
        status: str | None = None,
        commands: Sequence[Command] | None = None,
        *,
        replay: bool = False,
    ) -> None:
        """Record in one transaction, all or nothing.

        Args:
            rows: Outcomes.
            released: Slots that are started by this commit.
            status: The run's new status.
            commands: What a replay of the run needs beside outcomes.
            replay: Rows and command keys that are there already are passed over; for a commit
                whose first try may or may not have succeeded.

        Raises:
            RunFenced: Another process took the run over.
            RunOwned: This process is a child of the run's owner.
            StoreError: It cannot be stored now. At level ``async`` the error of an earlier commit.
        """
        if self._refusal is not None:
            raise self._refusal
        single = self._single
        if (
            single is not None
            and len(rows) == 1
            and rows[0][2]
            and not commands
            and status is None
            and not replay
            and not self._cache
            and (rows[0][5] is None or not self._new_artifacts)
        ):
            row = rows[0]
            seq = self._seq = self._seq + 1
            text = None if not released else orjson.dumps(released).decode()
            try:
                if _is_plain(row):
                    values = (self.run_id, seq, row[0], row[4], row[6], row[7], text, *self._tail)
                    written = single(INSERT_PLAIN_FENCED.sql, values)
                else:
                    written = single(INSERT_FENCED.sql, (self.run_id, seq, *row, text, *self._tail))
            except Exception as error:
                self._again_or_raise(error, row, text)
                return
            if written != 1:
                raise self._fence()
            return
        self._add(
            _Batch(
                rows=rows,
                released=released or None,
                status=status,
                commands=commands or (),
                again=replay,
            )
        )

    def record_crashes(self, crashes: Mapping[str, int]) -> None:
        """Replace the count of process deaths by node (see `StoredRun.crashes`)."""
        self._add(_Batch(crashes=orjson.dumps(dict(crashes)).decode()))

    def write_cache(self, namespace: str, key: str, data: bytes | str) -> None:
        """Keep an encoded value of the run's cache; it is written with the next commit."""
        self._check()
        raw = data.encode() if isinstance(data, str) else data
        inline, artifact_id, size = self._payloads.place(raw)
        if artifact_id is not None:
            self._new_artifacts[artifact_id] = size
        self._cache[namespace, key] = (inline, artifact_id)

    def flush(self) -> None:
        """Write everything that was kept or queued, and wait for it."""
        self._check()
        if self._cache:
            self._add(_Batch())
        if self._queue is not None:
            self._queue.drain()
        if self._kept:
            kept, self._kept = self._kept, []
            try:
                self._write(kept)
            except BaseException:
                self._kept = kept + self._kept
                raise

    def finish(
        self,
        status: str,
        error_json: str | None = None,
        rows: Sequence[Row] = (),
        commands: Sequence[Command] = (),
    ) -> None:
        """Write what is left, set the run's final status and give the run free.

        Args:
            status: A run's status.
            error_json: What went wrong, as JSON.
            rows, commands: Recorded in the same transaction.
        """
        self._end(
            _Batch(
                rows=rows,
                commands=commands,
                ending=FINISH,
                ending_values=(status, error_json, *self._tail),
            )
        )

    def close(self) -> None:
        """Write what is left and give the run free as it stands, to be resumed. Idempotent.

        A run that was lost to another process, or ended, is left alone.
        """
        if self._refusal is not None:
            self._let_go()
            return
        self._end(_Batch(ending=RELEASE, ending_values=self._tail))

    # -- inside

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _end(self, batch: _Batch) -> None:
        self._check()
        try:
            if self._queue is not None:
                self._queue.drain()
            self._complete(batch)
            kept, self._kept = self._kept, []
            self._write([*kept, batch])
            self._refusal = InvalidState(
                f"the journal of run {self.run_id} is closed; claim the run again to write"
            )
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._refusal is None:
            self._refusal = InvalidState(
                f"the journal of run {self.run_id} was closed by an error; claim the run again"
            )
        if self._queue is not None:
            self._queue.stop()
        release, self._on_release = self._on_release, _nothing
        release()

    def _add(self, batch: _Batch) -> None:
        self._check()
        self._complete(batch)
        if self._queue is not None:
            self._queue.put(batch)
        elif self.durability == "exit":
            self._kept.append(batch)
        else:
            self._write([batch])

    def _complete(self, batch: _Batch) -> None:
        """Give the batch its numbers, its artifacts and the cache entries that wait."""
        batch.seq = self._seq + 1
        log = len(batch.commands) + (1 if batch.released and not batch.rows else 0)
        self._seq += len(batch.rows) + log
        if self._cache:
            batch.cache, self._cache = self._cache, {}
        if self._new_artifacts:
            wanted = [row[5] for row in batch.rows] + [entry[1] for entry in batch.cache.values()]
            batch.artifacts = {
                each: size
                for each in wanted
                if each is not None and (size := self._new_artifacts.pop(each, None)) is not None
            }

    def _write(self, batches: Sequence[_Batch]) -> None:
        size = sum(batch.size() for batch in batches)
        try:
            run_transaction(
                self._database, lambda tx: self._write_all(tx, batches), pages=4 + size // 8
            )
        except RunFenced as error:
            self._refusal = error
            raise
        except (sqlite3.IntegrityError, sa.exc.IntegrityError) as error:
            raise self._duplicate(error) from error

    def _write_all(self, tx: Transaction, batches: Sequence[_Batch]) -> None:
        if tx.scalar(EPOCH, (self.run_id,)) != self.epoch:
            raise self._fence()
        for batch in batches:
            self._write_batch(tx, batch)

    def _write_batch(self, tx: Transaction, batch: _Batch) -> None:
        run_id, seq = self.run_id, batch.seq
        if batch.artifacts:
            self._write_artifacts(tx, batch.artifacts)
        released = None if batch.released is None else orjson.dumps(list(batch.released)).decode()
        if batch.rows:
            self._write_rows(tx, batch, released)
            seq += len(batch.rows)
        entries = [("command", key, body) for key, body in batch.commands]
        if released is not None and not batch.rows:
            entries.append(("released", None, released))
        if entries:
            statement = INSERT_LOG_AGAIN(self._dialect) if batch.again else INSERT_LOG
            tx.execute_many(statement, [(run_id, n, *each) for n, each in enumerate(entries, seq)])
        if batch.cache:
            tx.execute_many(
                UPSERT_CACHE(self._dialect),
                [(run_id, *name, *value) for name, value in batch.cache.items()],
            )
        if batch.crashes is not None:
            tx.execute(SET_CRASHES, (batch.crashes, *self._tail))
        if batch.status is not None:
            tx.execute(SET_STATUS, (batch.status, *self._tail))
        if batch.ending is not None:
            tx.execute(batch.ending, batch.ending_values)

    def _write_rows(self, tx: Transaction, batch: _Batch, released: str | None) -> None:
        run_id, again = self.run_id, batch.again
        plain: list[tuple[Any, ...]] = []
        others: list[tuple[Any, ...]] = []
        ends: list[tuple[Any, ...]] = []  # without a call; these replace an earlier one
        for seq, row in enumerate(batch.rows, batch.seq):
            if released is None and not again and _is_plain(row):
                plain.append((run_id, seq, row[0], row[4], row[6], row[7]))
            else:
                (others if row[2] else ends).append((run_id, seq, *row, released))
                released = None
        if plain:
            tx.execute_many(INSERT_PLAIN, plain)
        if others:
            tx.execute_many(INSERT_ROW_AGAIN(self._dialect) if again else INSERT_ROW, others)
        if ends:
            tx.execute_many(REPLACE_ROW(self._dialect), ends)

    def _write_artifacts(self, tx: Transaction, sizes: Mapping[str, int]) -> None:
        tx.execute_many(
            INSERT_ARTIFACT(self._dialect),
            [
                (each, "json", size, "file", None, f"{each[:2]}/{each}")
                for each, size in sizes.items()
            ],
        )

    def _again_or_raise(self, error: Exception, row: Row, released: str | None) -> None:
        """After a failed single statement: wait and try again as a transaction, or say why not."""
        known = error if isinstance(error, StoreError) else store_error(error, self._database.where)
        if isinstance(known, StoreBusy):
            batch = _Batch(
                rows=[row], released=None if released is None else orjson.loads(released)
            )
            batch.seq = self._seq
            self._write([batch])
            return
        if known is not None:
            raise known from error
        if isinstance(error, sqlite3.IntegrityError):
            raise self._duplicate(error) from error
        self._database.check_usable()  # a closed store shows as misuse of its driver
        raise error

    def _fence(self) -> RunFenced:
        fenced = RunFenced(
            f"run {self.run_id} was taken over by another process; "
            "this process records nothing more into it"
        )
        self._refusal = fenced
        return fenced

    def _duplicate(self, error: BaseException) -> InvalidState:
        return InvalidState(
            f"run {self.run_id}: a row breaks a rule of the schema ({error}); attempts have rising "
            "numbers, and a commit is repeated with replay=True"
        )

    def _after_fork(self) -> None:
        if self._refusal is None:
            self._refusal = RunOwned(
                self.run_id, f"process {self._process}, of which this process is a copy"
            )
        self._on_release = _nothing
        self._queue = None


def _nothing() -> None:
    return


class _Queue:
    """The thread of level ``async``: commits whatever has queued, in order."""

    def __init__(self, write: Callable[[Sequence[_Batch]], None]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._batches: deque[_Batch] = deque()
        self._rows = 0
        self._busy = False
        self._stopping = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, batch: _Batch) -> None:
        """Queue a batch; wait while too many rows do."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="dagger-journal", daemon=True
                )
                self._thread.start()
            while self._rows >= QUEUE_LIMIT and self._error is None:
                self._changed.wait()
            self._raise()
            self._batches.append(batch)
            self._rows += batch.size()
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until everything is committed."""
        with self._changed:
            while (self._batches or self._busy) and self._error is None:
                self._changed.wait()
            self._raise()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._batches and not self._stopping:
                    self._changed.wait()
                if not self._batches or self._error is not None:
                    return
                batches, self._batches = list(self._batches), deque()
                self._busy = True
            try:
                self._write(batches)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._busy = False
                    self._changed.notify_all()
                return
            with self._changed:
                self._rows -= sum(batch.size() for batch in batches)
                self._busy = False
                self._changed.notify_all()


def _in_child() -> None:
    for journal in list(_journals):
        journal._after_fork()


after_fork(_in_child)
