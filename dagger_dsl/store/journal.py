"""The journal of one run: what its owner writes, in transactions that only the owner can commit.

Three levels behind the same calls. ``sync`` commits before it returns; ``async`` hands over to one
thread that commits whatever has queued, in order; ``exit`` keeps everything until the run ends.
A commit of one row is one statement on the driver's cursor; its condition is the fence.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson
import sqlalchemy as sa

from dagger_dsl.errors import InvalidState, RunFenced, RunOwned, StoreBusy, StoreError
from dagger_dsl.model.protocols import Command, Row
from dagger_dsl.store import task_runs
from dagger_dsl.store.arguments import check_moment, check_new_name
from dagger_dsl.store.batches import (
    EPOCH,
    FINISH,
    INSERT_FENCED,
    INSERT_PLAIN_FENCED,
    RELEASE,
    Batch,
    Riders,
    is_plain,
    write_batches,
)
from dagger_dsl.store.database import Database
from dagger_dsl.store.faults import store_error
from dagger_dsl.store.forks import after_fork
from dagger_dsl.store.inbox import requests
from dagger_dsl.store.memos import Memo, find, recall
from dagger_dsl.store.ownership import Heart
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.schema import FINISHED
from dagger_dsl.store.transactions import Transaction, run_transaction

__all__ = ["RunJournal"]

_logger = logging.getLogger("dagger_dsl.store")

#: At level ``async`` a commit waits while so many rows are queued.
QUEUE_LIMIT: Final = 10_000


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
        self._riders: Riders | None = None
        self._kept: list[Batch] = []
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

    def decode(self, inline: str | None, artifact_id: str | None, path: str = "value") -> Any:
        """Return the value of what `encode` gave; any thread may call it, at any time.

        Raises:
            DecodingError: This process does not know a stored type.
            StoreDamaged: Its artifact is not what was written.
        """
        return self._payloads.decode(inline, artifact_id, path)

    @property
    def shared(self) -> bool:
        """Whether other processes can send commands to the run."""
        return not self._database.is_memory

    def rest(self, resting: bool) -> None:
        """Count no time as the run's from now on, or count it again."""
        self._heart.rest(self.run_id, resting)

    # -- writing

    def commit(
        self,
        rows: Sequence[Row],
        released: Sequence[int] | None = None,
        status: str | None = None,
        commands: Sequence[Command] | None = None,
        *,
        replay: bool = False,
        last: bool = False,
        ack: bool = False,
        replacing: Sequence[Row] = (),
    ) -> None:
        """Record in one transaction, all or nothing.

        In the run's history the rows come first, then those that replace others, then the
        commands, then the entry of *ack*.

        Args:
            rows: Outcomes.
            released: Slots that are started by this commit.
            status: The run's new status.
            commands: What a replay of the run needs beside outcomes.
            replay: Rows and command keys that are there already are passed over; for a commit
                whose first try may or may not have succeeded.
            last: Only the end of the run follows, at once: one transaction records both.
            ack: Record that the hooks were shown every event of what comes before, this commit
                included (`StoredRun.acked`), even when there is nothing else to record.
            replacing: Outcomes of attempts that were recorded as waiting: each takes the place of
                the row with its node, key and attempt.

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
            and not (replay or last or ack or replacing)
            and self._riders is None
            and (rows[0][5] is None or not self._new_artifacts)
        ):
            row = rows[0]
            seq = self._seq = self._seq + 1
            text = None if not released else orjson.dumps(released).decode()
            try:
                if is_plain(row):
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
        batch = Batch(
            rows=rows,
            released=released or None,
            status=status,
            commands=commands or (),
            again=replay,
            ack=ack,
            replacing=replacing,
        )
        if last:
            self._complete(batch)
            self._kept.append(batch)
        else:
            self._add(batch)

    def record_crashes(self, crashes: Mapping[str, int]) -> None:
        """Replace the count of process deaths by node (see `StoredRun.crashes`)."""
        self._add(Batch(crashes=orjson.dumps(dict(crashes)).decode()))

    def write_cache(self, entries: Mapping[tuple[str, str], tuple[str | None, str | None]]) -> None:
        """Keep values of the run's cache, as `encode` gave them, for the next commit.

        Args:
            entries: By namespace and key.
        """
        self._ride().cache.update(entries)

    def keep(self, entries: Mapping[tuple[str, str], tuple[str | None, str | None]]) -> None:
        """Write values of the run's cache by themselves: what waits for a commit goes on waiting.

        Args:
            entries: By namespace and key, as `encode` gave them.

        Raises:
            StoreError: As `commit`.
        """
        self._check()
        waiting, self._riders = self._riders, Riders(cache=dict(entries))
        try:
            self._add(Batch())
        finally:
            self._riders = waiting

    def remember(
        self,
        key: str,
        *,
        action: str,
        version: str,
        input_hash: str,
        node_id: str,
        inline: str | None,
        artifact_id: str | None,
        expires_at: dt.datetime | None = None,
        invocation_key: str = "default",
        now: dt.datetime | None = None,
    ) -> None:
        """Keep a result for other runs; it is written with the next commit, that of its row.

        An older result of the same key goes. The row gets the hash of its inputs, too.

        Args:
            key: What the result is found by; see `recall`.
            action, version: Whose result it is.
            input_hash: Of what inputs.
            node_id, invocation_key: Where in this run.
            inline, artifact_id: The value, as `encode` gave it.
            expires_at: From when on it is not found any more; None for never.
            now: When it was made; the clock's time by default.
        """
        check_new_name("a shared result's key", key)
        for name, moment in (("expires_at", expires_at), ("now", now)):
            check_moment(name, moment)
        made = dt.datetime.now(dt.UTC) if now is None else now
        value = (inline, artifact_id, made, expires_at)
        origin = (version, input_hash, self.run_id, node_id)
        self._ride().memos[key] = (key, action, *value, *origin)
        self.note_inputs(node_id, input_hash, invocation_key)

    def note_inputs(self, node_id: str, input_hash: str, invocation_key: str = "default") -> None:
        """Keep the hash of an invocation's inputs for its row in the next commit."""
        self._ride().hashes[node_id, invocation_key] = input_hash

    def accompany(self, step: Callable[[Transaction], None]) -> None:
        """Have the next commit do something else, too, in its transaction.

        Args:
            step: What; it may be called more than once, each time in a clean transaction.
        """
        self._ride().steps.append(step)

    # -- asking

    def requests(self, after: int = 0) -> list[tuple[int, str]]:
        """Return what other processes asked of this run; see `Store.requests`.

        Any thread may call it, at any time; the connection that writes has no part in it.
        """
        return requests(self._database, self.run_id, after)

    def recall(self, key: str, now: dt.datetime | None = None) -> tuple[Any, Memo] | None:
        """Return a result that some run kept under *key*; see `Store.recall`."""
        return recall(self._database, self._payloads, key, now)

    def memos(self, action: str, limit: int) -> list[Memo]:
        """Return what is known of the newest shared results of an action; see `Store.memos`."""
        return find(self._database, action, None, limit)

    # -- ending

    def flush(self) -> None:
        """Write everything that was kept or queued, and wait for it."""
        self._check()
        if self._riders is not None:
            self._add(Batch())
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
        *,
        began: dt.datetime | None = None,
        ended: dt.datetime | None = None,
    ) -> None:
        """Write what is left, set the run's final status and give the run free.

        Args:
            status: A run's status.
            error_json: What went wrong, as JSON.
            began: When the run began, by who executed it; by default when it was recorded first.
            ended: When it ended; by default now.
        """
        values: dict[str, Any] = {
            "new_status": status,
            "new_error": error_json,
            "began": began,
        }
        if ended is not None:
            values["now"] = ended
        if status in FINISHED:
            self.accompany(partial(self._tell_tasks, status))
        self._end(Batch(ending=FINISH, ending_values=values))

    def _tell_tasks(self, status: str, tx: Transaction) -> None:
        task_runs.ended(tx, self._database, self.run_id, status)

    def close(self) -> None:
        """Write what is left and give the run free as it stands, to be resumed. Idempotent.

        A run that was lost to another process, or ended, is left alone.
        """
        if self._refusal is not None:
            self._let_go()
            return
        self._end(Batch(ending=RELEASE))

    # -- inside

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _end(self, batch: Batch) -> None:
        self._check()
        batch.ending_values["more_seconds"] = self._heart.count(self.run_id)
        try:
            if self._queue is not None:
                self._queue.drain()
            self._complete(batch)
            self._write([*self._kept, batch])
        except Exception:
            self._let_go()
            raise
        except BaseException:
            # An interrupt: whoever ends the run then writes this again, which may be there by now.
            self._take_back(batch)
            for each in self._kept:
                each.again = True
            raise
        self._kept = []
        self._refusal = InvalidState(
            f"the journal of run {self.run_id} is closed; claim the run again to write"
        )
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

    def _add(self, batch: Batch) -> None:
        self._check()
        self._complete(batch)
        if self._queue is not None:
            self._queue.put(batch)
        elif self.durability == "exit":
            self._kept.append(batch)
        else:
            try:
                self._write([batch])
            except BaseException:
                self._take_back(batch)
                raise

    def _ride(self) -> Riders:
        self._check()
        if self._riders is None:
            self._riders = Riders()
        return self._riders

    def _complete(self, batch: Batch) -> None:
        """Give the batch its numbers, its artifacts and what waits for a commit."""
        batch.seq = self._seq + 1
        self._seq += batch.numbers()
        batch.riders, self._riders = self._riders, None
        if self._new_artifacts:
            wanted = [row[5] for row in (*batch.rows, *batch.replacing)]
            if batch.riders is not None:
                wanted += batch.riders.artifacts()
            batch.artifacts = {
                each: size
                for each in wanted
                if each is not None and (size := self._new_artifacts.pop(each, None)) is not None
            }

    def _take_back(self, batch: Batch) -> None:
        """After a batch that was not written: what it took along waits for the next one."""
        if batch.riders is not None:
            later = self._riders
            self._riders = batch.riders if later is None else later.over(batch.riders)
        for artifact_id, size in batch.artifacts.items():
            self._new_artifacts.setdefault(artifact_id, size)

    def _write(self, batches: Sequence[Batch]) -> None:
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

    def _write_all(self, tx: Transaction, batches: Sequence[Batch]) -> None:
        if tx.scalar(EPOCH, (self.run_id,)) != self.epoch:
            raise self._fence()
        write_batches(tx, self._database.dialect, self._tail, batches)

    def _again_or_raise(self, error: Exception, row: Row, released: str | None) -> None:
        """After a failed single statement: wait and try again as a transaction, or say why not."""
        known = error if isinstance(error, StoreError) else store_error(error, self._database.where)
        if isinstance(known, StoreBusy):
            batch = Batch(rows=[row], released=None if released is None else orjson.loads(released))
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

    def __init__(self, write: Callable[[Sequence[Batch]], None]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._batches: deque[Batch] = deque()
        self._rows = 0
        self._busy = False
        self._stopping = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, batch: Batch) -> None:
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
