"""`Store`: one database with its artifact files, as the rest of the package uses it."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import sqlalchemy as sa

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import Graph
from dagger_dsl.model.protocols import Command
from dagger_dsl.store import inbox, memos, schema
from dagger_dsl.store.arguments import check_number, check_text
from dagger_dsl.store.artifact_rows import ArtifactRows
from dagger_dsl.store.artifacts import INLINE_BELOW, ArtifactFiles
from dagger_dsl.store.database import Database
from dagger_dsl.store.journal import RunJournal
from dagger_dsl.store.liveness import Liveness
from dagger_dsl.store.memos import Memo
from dagger_dsl.store.ownership import Heart
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.queries import ExecutionState, ExecutionTree, Queries
from dagger_dsl.store.runs import Runs, RunSummary, StoredRun
from dagger_dsl.store.urls import SYNCHRONOUS, normalize_url

if TYPE_CHECKING:
    from dagger_dsl.store.maintenance import DatabaseStats, Maintenance, PruneReport
    from dagger_dsl.store.snapshots import SnapshotInfo, Snapshots

__all__ = ["Store", "normalize_url"]


class Store:
    """A database of runs, with the artifact folder beside it. Threads may share one.

    Nothing is opened before the first use, or `init_database`, or `with`.

    Args:
        url: Any spelling that `normalize_url` takes.
        artifact_threshold: Bytes from which a value goes to a file.
        artifact_dir: The artifact folder; ``<database file>-artifacts`` by default. A database
            in memory keeps everything inline unless it is given one.
        pool_size: Connections that read.
        busy_timeout: Seconds to wait for another process; the URL's option wins.
        synchronous: SQLite's level, ``FULL`` or ``NORMAL``; the URL's option wins.
        lease: Seconds without a sign of life after which another host may take a run over.

    Raises:
        ConfigurationError: An argument cannot work.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | sa.URL,
        *,
        artifact_threshold: int = INLINE_BELOW,
        artifact_dir: str | os.PathLike[str] | None = None,
        pool_size: int = 5,
        busy_timeout: float = 5.0,
        synchronous: str = "FULL",
        lease: float = 15.0,
    ) -> None:
        if type(pool_size) is not int or pool_size < 1:
            raise ConfigurationError(
                f"pool_size is a number of connections of at least 1, not {pool_size!r}"
            )
        for name, number in (("busy_timeout", busy_timeout), ("lease", lease)):
            if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0:
                raise ConfigurationError(f"{name} is a number of seconds, not {number!r}")
        if lease == 0:
            raise ConfigurationError("lease must be above 0 seconds")
        if not isinstance(synchronous, str) or synchronous.upper() not in SYNCHRONOUS:
            raise ConfigurationError(
                f"synchronous must be one of {', '.join(SYNCHRONOUS)}, not {synchronous!r}"
            )
        self.url = normalize_url(url)
        self.artifact_threshold = artifact_threshold
        self.pool_size = pool_size
        self.database = Database(
            self.url, pool_size=pool_size, busy_timeout=busy_timeout, synchronous=synchronous
        )
        folder = None if artifact_dir is None else os.path.abspath(artifact_dir)
        if folder is None and self.database.path is not None:
            folder = f"{self.database.path}-artifacts"
        self.files = None if folder is None else ArtifactFiles(folder, artifact_threshold)
        self._payloads = Payloads(self.files)
        self._heart = Heart(self.database, lease)
        self._runs = Runs(self.database, self._payloads, self._heart)
        self._artifacts = ArtifactRows(self.database, self._payloads)
        self._queries = Queries(self.database)

    # -- opening and closing

    @property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine for reading; writers use `writing`."""
        self.database.open(reading=True)
        return self.database.engine

    def init_database(self) -> None:
        """Create what is missing; a second call does nothing.

        Raises:
            StoreVersionError: The file is another program's, or of a newer version.
            StoreError: It cannot be opened.
        """
        self.database.open()

    def close(self) -> None:
        """Close every connection. Runs that are still owned stay resumable."""
        self._heart.stop()
        self._runs.let_go()
        self.database.close()

    def __enter__(self) -> Store:
        self.init_database()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """Give a connection in one read transaction."""
        return self.database.reading()

    def writing(self) -> AbstractContextManager[sa.Connection]:
        """Give the connection that writes, in a transaction; see `Database.writing`."""
        return self.database.writing()

    # -- runs

    def create_run(
        self,
        *,
        run_id: str,
        graph: Graph,
        inputs: Mapping[str, Any],
        config: DagConfig | None = None,
        idempotency_key: str | None = None,
        parent_run_id: str | None = None,
        durability: str = "sync",
        notes: Sequence[Command] = (),
    ) -> RunJournal:
        """Record a new run, own it, and return its journal.

        Args:
            run_id: Its id.
            graph, inputs, config: What it runs.
            idempotency_key: What a second start would be known by.
            parent_run_id: The run that it belongs to.
            durability: The level of the journal: ``sync``, ``async`` or ``exit``.
            notes: What its replay needs from the beginning, written by the same transaction.

        Raises:
            RunExists: The id is taken.
            KeyTaken: The key has a run of the same graph and inputs; `.run_id` says which.
            IdempotencyConflict: The key has a run of another graph or other inputs.
            EncodingError: An input has no stored form.
            StoreError: It cannot be stored now.
        """
        return self._runs.create(
            run_id=run_id,
            graph=graph,
            inputs=inputs,
            config=config,
            idempotency_key=idempotency_key,
            parent_run_id=parent_run_id,
            durability=durability,
            notes=notes,
        )

    def claim_run(
        self, run_id: str, *, durability: str = "sync", steal_stalled: bool = False
    ) -> tuple[StoredRun, RunJournal]:
        """Become the owner of a run, and return what was recorded and its journal.

        When its owner died on this host, this is immediate; an owner on another host is watched for
        one lease. Who lost a run can record nothing more into it.

        Args:
            run_id: The run.
            durability: The level of the journal: ``sync``, ``async`` or ``exit``.
            steal_stalled: Watch an owner that lives on this host for one lease, too, and take the
                run over when it gave no sign of life: it may have been stopped. Without this such
                an owner is a refusal at once.

        Raises:
            RunNotFound: There is no such run.
            RunOwned: Its owner lives.
            StoreError: It cannot be stored now.
        """
        return self._runs.claim(run_id, durability, steal_stalled)

    def load_run(self, run_id: str) -> StoredRun:
        """Return what is recorded of a run, whoever owns it.

        Raises:
            RunNotFound: There is no such run.
        """
        return self._runs.load(run_id)

    def list_runs(
        self,
        flow_name: str | None = None,
        status: str | Sequence[str] | None = None,
        limit: int | None = 100,
        parent: str | None = None,
    ) -> list[RunSummary]:
        """Return runs, the newest first.

        Args:
            flow_name: Only runs of this graph.
            status: Only runs of this status, or of one of these.
            limit: At most so many; None gives all.
            parent: Only the runs that are nested directly in this one; without it those that are
                nested in none.
        """
        return self._runs.find(flow_name, status, limit, parent)

    def orphans(self, flow_name: str | None = None) -> list[RunSummary]:
        """Return the runs that are recorded as running while nobody executes them, newest first.

        Their owner died, or it gave them free before their end. Owners on this host are known at
        once; those on other hosts are watched, all together, for one lease. Nested runs are not
        among them: the run around one goes on with it.

        Args:
            flow_name: Only runs of this graph.
        """
        return self._runs.orphans(flow_name)

    # -- requests to a run

    def send(
        self, run_id: str, body: str, sender: str | None = None, after: int | None = None
    ) -> int:
        """Append a request to a run's inbox, for whoever executes it or will; return its number.

        Args:
            run_id: The run; it need not be running.
            body: What is asked, as JSON text.
            sender: Who asks, for people.
            after: The newest request that the sender knows of, 0 for none: where there is a newer
                one, nothing is appended, and 0 is returned. None appends in any case.

        Raises:
            RunNotFound: There is no such run.
            InvalidState: It is completed.
            StoreError: It cannot be stored now.
        """
        return inbox.send(self.database, run_id, body, sender, after)

    def requests(self, run_id: str, after: int = 0) -> list[tuple[int, str]]:
        """Return the requests to a run, numbers and bodies in the order they were made.

        Args:
            run_id: The run.
            after: Only those with a higher number.
        """
        check_text("a run's id", run_id)
        check_number("after", after)
        return inbox.requests(self.database, run_id, after)

    def outcome_of(self, run_id: str, command_id: int) -> str | None:
        """Return what the run's owner recorded of a request, as JSON text; None until it has."""
        return inbox.outcome(self.database, run_id, command_id)

    # -- results shared between runs

    def recall(self, key: str, now: dt.datetime | None = None) -> tuple[Any, Memo] | None:
        """Return a fresh copy of the result that a run kept under *key*, and what is known of it.

        None when there is none, or when it has expired.

        Args:
            key: As `RunJournal.remember` was given it.
            now: What to compare the expiry with; the clock's time by default.

        Raises:
            DecodingError: This process does not know a stored type.
            StoreDamaged: Its artifact is not what was written.
        """
        return memos.recall(self.database, self._payloads, key, now)

    def memos(
        self, action: str | None = None, node_id: str | None = None, limit: int | None = None
    ) -> list[Memo]:
        """Return what is known of shared results, the newest first; expired ones too.

        Args:
            action: Only those of this action.
            node_id: Only those of nodes with this id.
            limit: At most so many; None gives all.
        """
        return memos.find(self.database, action, node_id, limit)

    def forget_memo(self, key: str) -> bool:
        """Remove one shared result; return whether there was one."""
        check_text("a shared result's key", key)
        return memos.forget(self.database, schema.memo.c.memo_key == key) > 0

    def forget_memos(self, action: str) -> int:
        """Remove every shared result of an action; return how many there were."""
        check_text("an action's name", action)
        return memos.forget(self.database, schema.memo.c.action == action)

    # -- snapshots

    def _snapshots(self) -> Snapshots:
        # Most processes need none, and each would wait for its statements.
        from dagger_dsl.store.snapshots import Snapshots

        liveness = Liveness(self.database, self._heart)
        return Snapshots(self.database, self._payloads, liveness)

    def save_snapshot(
        self,
        flow_name: str,
        value: Mapping[Any, Any],
        run_id: str | None = None,
        kind: str = "cache",
        *,
        keep: int | None = None,
    ) -> str:
        """Save a mapping as it is now and return the snapshot's id.

        Args:
            flow_name: The graph it belongs to.
            value: Any mapping of the codec's values, such as ``cache.to_dict()``.
            run_id: The run it belongs to, if any.
            kind: ``cache`` or ``execution``.
            keep: Remove the older ones of the same graph, run and kind, so that so many are left,
                this one among them; None keeps all.

        Raises:
            EncodingError: A value has no stored form.
            StoreError: It cannot be stored now.
        """
        return self._snapshots().save(flow_name, value, run_id, kind, keep)

    def load_snapshot(
        self, flow_name: str | None = None, snapshot_id: str | None = None, kind: str = "cache"
    ) -> dict[Any, Any]:
        """Return what was saved, always a fresh copy: by its id, or the newest there is.

        Args:
            flow_name: Only one of this graph.
            snapshot_id: This one.
            kind: Only one of this kind.

        Raises:
            SnapshotNotFound: There is none.
            DecodingError: This process does not know a stored type.
            StoreDamaged: Its artifact is not what was written.
        """
        return self._snapshots().load(flow_name, snapshot_id, kind)

    def list_snapshots(
        self, flow_name: str | None = None, kind: str | None = None
    ) -> list[SnapshotInfo]:
        """Return what is known of snapshots, the newest first."""
        return self._snapshots().find(flow_name, kind)

    def save_cache_delta(self, run_id_or_name: str, delta: Mapping[str, Mapping[str, Any]]) -> int:
        """Write values into the cache of a run; return how many differed from what was there.

        Args:
            run_id_or_name: The run, or a graph, whose newest run is meant.
            delta: ``{namespace: {key: value}}``; what is not named stays.

        Raises:
            RunNotFound: There is no such run.
            RunOwned: Another process records into it.
            EncodingError: A value has no stored form.
            StoreError: It cannot be stored now.
        """
        return self._snapshots().save_cache_delta(run_id_or_name, delta)

    # -- artifacts

    def store_artifact(
        self, data: bytes, kind: str, run_id: str | None = None, node_id: str | None = None
    ) -> str:
        """Store bytes and return their id, the SHA-256 of the content.

        The same bytes are stored once. Below `artifact_threshold` they are in the database, from
        there on in a file. `prune` removes an artifact that belongs to no run.

        Args:
            data: The content.
            kind: What it is, such as ``json``; for people and queries.
            run_id: The run it belongs to: it is kept as long as that.
            node_id: The node that made it.

        Raises:
            StoreError: It cannot be stored now.
        """
        return self._artifacts.store(data, kind, run_id, node_id)

    def get_artifact(self, artifact_id: str) -> bytes:
        """Return an artifact's bytes, compared with its id.

        Raises:
            ArtifactNotFound: There is none of this id.
            StoreDamaged: It is not what was written.
        """
        return self._artifacts.get(artifact_id)

    def open_artifact(self, artifact_id: str) -> BinaryIO:
        """Return an artifact as a binary stream that the caller closes.

        Raises:
            ArtifactNotFound: There is none of this id.
            StoreDamaged: It is not what was written; large ones say so at their last byte.
        """
        return self._artifacts.open(artifact_id)

    def artifacts_by_node(self, run_id: str) -> dict[str, list[str]]:
        """Return the artifacts of a run: ids by node, under ``""`` those of no node."""
        return self._artifacts.by_node(run_id)

    # -- questions

    def load_execution_tree(self, name_or_run_id: str) -> ExecutionTree | None:
        """Return what a run, or the newest run of a graph, has executed; None without one."""
        return self._queries.execution_tree(name_or_run_id)

    def load_execution_state(self, name: str, state: str = "active") -> ExecutionState | None:
        """Return the newest unfinished run of a graph, or None.

        Args:
            name: The graph.
            state: ``active`` for runs that a process owns or died owning, ``pending`` for the
                others.
        """
        return self._queries.execution_state(name, state)

    def query(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[dict[str, Any]]:
        """Return the rows of one SELECT as dicts.

        Args:
            sql: In the words of the database; the tables are described in
                `dagger_dsl.store.schema`.
            params: Values for ``?`` or ``:name``.

        Raises:
            StoreReadOnly: It would change something.
            StoreError: The database cannot make sense of it.
        """
        return self._queries.query(sql, params)

    def debug_print(self, file: TextIO | None = None) -> None:
        """Print where the database is, how large, and the number of rows of each table."""
        stats = self.stats()
        out = sys.stdout if file is None else file
        print(f"{self.database.where}", file=out)
        print(f"  {stats.total_bytes:,} bytes, {stats.artifact_files} artifact files", file=out)
        for table, count in stats.rows.items():
            print(f"  {table:<16} {count:>10,} rows", file=out)

    # -- upkeep

    def _maintenance(self) -> Maintenance:
        # Its statements take 20 ms to make, which every run would wait for.
        from dagger_dsl.store.maintenance import Maintenance

        return Maintenance(self.database, self.files)

    def prune(
        self,
        older_than: float | dt.timedelta | dt.datetime | None = None,
        keep_last: int | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove finished runs, jobs and messages, then what nothing refers to any more.

        A run that is not finished, or owned, is never removed, nor is a job that has not ended. A
        job goes with its tasks, their history, and what its agents shared. A message goes when
        every subscription is done with it, so not while it waits for an agent, is given again or is
        a dead letter. Without limits only artifacts go, and values whose time is over.

        Args:
            older_than: Only runs and jobs that ended before this time, or this long ago (seconds),
                and messages that were published before; without it no message goes.
            keep_last: Keep the newest so many runs of each graph, and so many jobs, however old.
            dry_run: Remove nothing, only say what would go.
        """
        return self._maintenance().prune(older_than, keep_last, dry_run)

    def retain(
        self, flow_name: str, keep_runs: int | None = None, keep_days: float | None = None
    ) -> None:
        """Remove finished runs of a graph beyond *keep_runs*, and those older than *keep_days*."""
        self._maintenance().retain(flow_name, keep_runs, keep_days)

    def retain_jobs(
        self,
        keep_jobs: int | None = None,
        keep_days: float | None = None,
        seconds: float | None = None,
    ) -> list[str]:
        """Remove jobs that have ended: all but *keep_jobs*, and those older than *keep_days*.

        Args:
            keep_jobs, keep_days: What is kept; None for all.
            seconds: When to stop before the next one, and leave the others; None for never.

        Returns:
            Their ids.
        """
        return self._maintenance().retain_jobs(keep_jobs, keep_days, seconds)

    def stats(self) -> DatabaseStats:
        """Return sizes in bytes and numbers of rows."""
        return self._maintenance().stats()

    def backup(self, path: str | os.PathLike[str]) -> Path:
        """Copy the database, and its artifacts to ``<path>-artifacts``, while runs go on.

        The copy is of one moment, whole or absent.

        Raises:
            ConfigurationError: *path* exists already, or its folder does not.
            StoreError: It cannot be written, or something is damaged.
        """
        return self._maintenance().backup(path)

    def vacuum(self) -> int:
        """Give free pages back to the file system; return the number of bytes. Commits wait."""
        return self._maintenance().vacuum()
