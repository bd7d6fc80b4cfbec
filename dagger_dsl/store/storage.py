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
from dagger_dsl.store.artifact_rows import ArtifactRows
from dagger_dsl.store.artifacts import INLINE_BELOW, ArtifactFiles
from dagger_dsl.store.database import Database
from dagger_dsl.store.journal import RunJournal
from dagger_dsl.store.ownership import Heart
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.queries import ExecutionState, ExecutionTree, Queries
from dagger_dsl.store.runs import Runs, RunSummary, StoredRun
from dagger_dsl.store.urls import SYNCHRONOUS, normalize_url

if TYPE_CHECKING:
    from dagger_dsl.store.maintenance import DatabaseStats, Maintenance, PruneReport

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
    ) -> RunJournal:
        """Record a new run, own it, and return its journal.

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
        )

    def claim_run(self, run_id: str, *, durability: str = "sync") -> tuple[StoredRun, RunJournal]:
        """Become the owner of a run, and return what was recorded and its journal.

        When its owner died on this host, this is immediate; an owner on another host is watched for
        one lease.

        Raises:
            RunNotFound: There is no such run.
            RunOwned: Its owner lives.
            StoreError: It cannot be stored now.
        """
        return self._runs.claim(run_id, durability)

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
    ) -> list[RunSummary]:
        """Return runs, the newest first.

        Args:
            flow_name: Only runs of this graph.
            status: Only runs of this status, or of one of these.
            limit: At most so many; None gives all.
        """
        return self._runs.list(flow_name, status, limit)

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
        """Remove finished runs, then artifacts that nothing refers to any more.

        A run that is not finished, or owned, is never removed. Without limits only artifacts go.

        Args:
            older_than: Only runs that ended before this time, or this long ago (seconds).
            keep_last: Keep the newest so many runs of each graph, however old.
            dry_run: Remove nothing, only say what would go.
        """
        return self._maintenance().prune(older_than, keep_last, dry_run)

    def retain(
        self, flow_name: str, keep_runs: int | None = None, keep_days: float | None = None
    ) -> None:
        """Remove finished runs of a graph beyond *keep_runs*, and those older than *keep_days*."""
        self._maintenance().retain(flow_name, keep_runs, keep_days)

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
