"""Looking after a database: removing old runs, copying it while it is used, knowing its size."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import os
import secrets
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import sqlalchemy as sa

from dagger_dsl.errors import ConfigurationError, StoreDamaged, StoreError
from dagger_dsl.model import policies
from dagger_dsl.store import job_upkeep
from dagger_dsl.store.arguments import check_count, check_text, moment_before
from dagger_dsl.store.artifacts import ArtifactFiles
from dagger_dsl.store.database import Database
from dagger_dsl.store.faults import translated
from dagger_dsl.store.locks import FILES
from dagger_dsl.store.message_upkeep import (
    removable_messages,
    remove_messages,
    remove_some_messages,
)
from dagger_dsl.store.queries import Queries
from dagger_dsl.store.schema import (
    FINISHED,
    artifact_links,
    artifacts,
    cache_entries,
    flow_runs,
    inbox,
    job_waits,
    memo,
    messages,
    node_runs,
    run_log,
    shared_values,
    snapshots,
    tasks,
)

__all__ = ["DatabaseStats", "Maintenance", "PruneReport"]

T = TypeVar("T")

#: Runs, artifacts or files that are removed between two chances for others to write.
_CHUNK: Final = 100

#: While a run is active somewhere, files younger than this are left for a later `prune`.
FILE_GRACE: Final = 24 * 3600.0


@attrs.frozen
class PruneReport:
    """What `prune` removed, or would remove.

    Attributes:
        runs: Ids of the runs.
        artifacts: Ids of artifacts that nothing refers to any more.
        files: Number of artifact files removed; those that wait for active runs do not count.
        bytes: Their size together.
        dry_run: Nothing was removed.
        memos: Number of shared results that had expired.
        jobs: Ids of the jobs of tasks.
        values: Number of values that agents shared and whose time is over.
        messages: Number of messages that every subscription was done with.
    """

    runs: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    files: int = 0
    bytes: int = 0
    dry_run: bool = False
    memos: int = 0
    jobs: tuple[str, ...] = ()
    values: int = 0
    messages: int = 0


@attrs.frozen
class DatabaseStats:
    """How large a database is.

    Attributes:
        database_bytes: The file, or the pages of a database in memory.
        wal_bytes: The write-ahead log beside it.
        artifact_bytes: The artifact files.
        artifact_files: Their number.
        free_bytes: What `vacuum` would give back.
        rows: Number of rows by table.
    """

    database_bytes: int
    wal_bytes: int
    artifact_bytes: int
    artifact_files: int
    free_bytes: int
    rows: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """Everything on the disk."""
        return self.database_bytes + self.wal_bytes + self.artifact_bytes


class Maintenance:
    """The upkeep that `Store` offers.

    Args:
        database, files: What the store is made of.
    """

    def __init__(self, database: Database, files: ArtifactFiles | None) -> None:
        self._database = database
        self._files = files

    # -- removing

    def prune(
        self,
        older_than: float | dt.timedelta | dt.datetime | None,
        keep_last: int | None,
        dry_run: bool,
    ) -> PruneReport:
        """See `Store.prune`."""
        check_count("keep_last", keep_last)
        before = None if older_than is None else moment_before("older_than", older_than)
        runs = self._old_runs(before, keep_last, None)
        jobs = job_upkeep.old_jobs(self._database, before, keep_last)
        if dry_run:
            sent, sizable = (0, []) if before is None else self._old_messages(before)
            unused = self._unused_artifacts(set(runs), set(jobs), sizable)
            files, size = self._measure(unused)
            expired = self._expired_memos()
            values = job_upkeep.expired_values(self._database)
            return PruneReport(
                tuple(runs), tuple(unused), files, size, True, expired, tuple(jobs), values, sent
            )
        removed, _ = self._remove_all(runs)
        ended, _ = self._remove_jobs(jobs)
        expired = self._remove_memos()
        values = job_upkeep.remove_values(self._database)
        sent = 0 if before is None else self._remove_messages(before)
        unused = self._unused_artifacts(set(), set())
        gone = [each for chunk in _chunks(unused) for each in self._remove_artifacts(chunk)]
        files, size = self._remove_files()
        return PruneReport(
            tuple(removed),
            tuple(gone),
            files,
            size,
            memos=expired,
            jobs=tuple(ended),
            values=values,
            messages=sent,
        )

    def _old_messages(self, before: dt.datetime) -> tuple[int, list[str]]:
        return removable_messages(self._database, before.timestamp())

    def _remove_messages(self, before: dt.datetime) -> int:
        # What their payloads leave is found with all that is unused.
        return remove_messages(self._database, before.timestamp(), lambda left: None)

    def remove_some_messages(self, before: float, after: int) -> tuple[int, int]:
        """See `message_upkeep.remove_some_messages`; the files of their payloads go, too."""
        return remove_some_messages(self._database, before, after, self._free)

    def retain(self, flow_name: str, keep_runs: int | None, keep_days: float | None) -> None:
        """See `Store.retain`: like `prune`, but it looks only at what the removed runs leave."""
        check_text("flow_name", flow_name)
        check_count("keep_runs", keep_runs)
        days = None if keep_days is None else _days_ago(keep_days)
        runs = [] if keep_runs is None else self._old_runs(None, keep_runs, flow_name)
        runs += [] if days is None else self._old_runs(days, None, flow_name)
        _, left = self._remove_all(list(dict.fromkeys(runs)))
        self._free(left)

    def retain_jobs(
        self, keep_jobs: int | None, keep_days: float | None, seconds: float | None
    ) -> list[str]:
        """See `Store.retain_jobs`."""
        job_upkeep.check_keeping(keep_jobs, keep_days)
        limit = None if seconds is None else policies.seconds(seconds, "seconds")
        days = None if keep_days is None else _days_ago(keep_days)
        old = [] if keep_jobs is None else job_upkeep.old_jobs(self._database, None, keep_jobs)
        old += [] if days is None else job_upkeep.old_jobs(self._database, days, None)
        removed, left = self._remove_jobs(list(dict.fromkeys(old)), limit)
        self._free(left)
        return removed

    def _free(self, left: Sequence[str]) -> None:
        """Remove those of some artifacts that nothing refers to any more, with their files."""
        for chunk in _chunks(left):
            self._remove_unnamed(self._remove_artifacts(chunk))

    def _remove_jobs(
        self, jobs: Sequence[str], seconds: float | None = None
    ) -> tuple[list[str], list[str]]:
        """Remove jobs; return those that went, and the artifacts that they referred to."""
        removed: list[str] = []
        left: dict[str, None] = {}
        until = math.inf if seconds is None else time.monotonic() + seconds
        for each in jobs:
            if time.monotonic() >= until:
                break
            artifact_ids = job_upkeep.remove_job(self._database, each)
            if artifact_ids is not None:
                removed.append(each)
                left.update(dict.fromkeys(artifact_ids))
        return removed, list(left)

    def _remove_all(self, runs: Sequence[str]) -> tuple[list[str], list[str]]:
        """Remove runs; return those that went, and the artifacts that they referred to."""
        removed: list[str] = []
        left: dict[str, None] = {}
        for chunk in _chunks(runs):
            gone, artifact_ids = self._remove_runs(chunk)
            removed += gone
            left.update(dict.fromkeys(artifact_ids))
        return removed, list(left)

    def _old_runs(
        self, before: dt.datetime | None, keep_last: int | None, flow_name: str | None
    ) -> list[str]:
        if before is None and keep_last is None:
            return []
        parents = sa.select(flow_runs.c.parent_run_id).where(
            flow_runs.c.status.not_in(FINISHED), flow_runs.c.parent_run_id.is_not(None)
        )
        outer = flow_runs.alias()
        nested = flow_runs.c.parent_run_id.in_(sa.select(outer.c.run_id))
        query = (
            sa.select(flow_runs.c.run_id, flow_runs.c.flow_name, flow_runs.c.updated_at)
            .where(_removable(), flow_runs.c.run_id.not_in(parents))
            # Nested runs go with the run around them. `parent_run_id` may be None: not a plain NOT.
            .where(sa.or_(flow_runs.c.parent_run_id.is_(None), sa.not_(nested)))
            .order_by(flow_runs.c.created_at.desc(), flow_runs.c.run_id)
        )
        if flow_name is not None:
            query = query.where(flow_runs.c.flow_name == flow_name)
        seen: defaultdict[str, int] = defaultdict(int)
        old = []
        with self._database.reading() as connection:
            for run in connection.execute(query).all():
                seen[run.flow_name] += 1
                if keep_last is not None and seen[run.flow_name] <= keep_last:
                    continue
                if before is None or run.updated_at < before:
                    old.append(run.run_id)
            inside = old
            while inside:  # one level after the other
                inside = [
                    each for chunk in _chunks(inside) for each in connection.scalars(_nested(chunk))
                ]
                old += inside
        return old

    def _remove_runs(self, chunk: Sequence[str]) -> tuple[list[str], list[str]]:
        with self._database.writing() as connection:
            # Asked again: one of them may have been resumed meanwhile.
            still = sa.select(flow_runs.c.run_id).where(flow_runs.c.run_id.in_(chunk), _removable())
            runs = list(connection.scalars(still))
            left = [
                each
                for column, run in _REFERENCES
                if isinstance(run, sa.Column)
                for each in connection.scalars(
                    sa.select(column).where(run.in_(runs), column.is_not(None))
                )
            ]
            for table in (
                node_runs,
                run_log,
                inbox,
                job_waits,
                cache_entries,
                artifact_links,
                flow_runs,
            ):
                connection.execute(sa.delete(table).where(table.c.run_id.in_(runs)))
        return runs, left

    def _expired_memos(self) -> int:
        with self._database.reading() as connection:
            query = sa.select(sa.func.count()).select_from(memo).where(_expired())
            return connection.scalar(query) or 0

    def _remove_memos(self) -> int:
        with self._database.writing() as connection:
            return connection.execute(sa.delete(memo).where(_expired())).rowcount

    def _unused_artifacts(
        self, runs: set[str], jobs: set[str], sent: Sequence[str] = ()
    ) -> list[str]:
        """Return artifacts that nothing refers to, apart from these and what has expired.

        Args:
            runs, jobs: Their ids.
            sent: The payloads of messages, one for each.
        """
        used: set[str] = set()
        with self._database.reading() as connection:
            for column, owner in (*_REFERENCES, *job_upkeep.JOB_REFERENCES):
                query = sa.select(column, owner).where(column.is_not(None)).distinct()
                if column.table is memo:
                    query = query.where(sa.not_(_expired()))
                if column.table is shared_values:
                    query = query.where(sa.not_(job_upkeep.is_over()))
                if column.table is messages:
                    used |= self._payloads_but(connection, Counter(sent))
                    continue
                without = jobs if column.table in (tasks, shared_values) else runs
                used |= {each for each, whose in connection.execute(query) if whose not in without}
            known = connection.scalars(
                sa.select(artifacts.c.artifact_id).order_by(artifacts.c.artifact_id)
            )
            return [each for each in known if each not in used]

    @staticmethod
    def _payloads_but(connection: sa.Connection, sent: Counter[str]) -> set[str]:
        """Return the payloads of messages, without those that have no more messages than *sent*."""
        column = messages.c.artifact_id
        query = sa.select(column, sa.func.count()).where(column.is_not(None)).group_by(column)
        return {each for each, number in connection.execute(query) if number > sent[each]}

    def _remove_artifacts(self, chunk: Sequence[str]) -> list[str]:
        with self._database.writing() as connection:
            used: set[str] = set()
            for column, _ in (*_REFERENCES, *job_upkeep.JOB_REFERENCES):
                used |= set(connection.scalars(sa.select(column).where(column.in_(chunk))))
            gone = [each for each in chunk if each not in used]
            connection.execute(sa.delete(artifacts).where(artifacts.c.artifact_id.in_(gone)))
        return gone

    def _remove_files(self) -> tuple[int, int]:
        """Remove the files that no row names; return their number and size."""
        files = self._files
        if files is None:
            return 0, 0
        freed = [
            each for chunk in _chunks(list(files.ids())) for each in self._remove_unnamed(chunk)
        ]
        files.remove_leftovers()
        return len(freed), sum(freed)

    def _remove_unnamed(self, chunk: Sequence[str]) -> list[int]:
        """Remove those of some files that no row names; return their sizes."""
        files = self._files
        if files is None:
            return []
        with self._alone_with_files() as alone:
            grace = 0.0 if alone else FILE_GRACE
            sizes = [_remove_file(files, each, grace) for each in self._unnamed(chunk)]
        return [each for each in sizes if each is not None]

    def _unnamed(self, chunk: Sequence[str]) -> list[str]:
        with self._database.reading() as connection:
            named = set(
                connection.scalars(
                    sa.select(artifacts.c.artifact_id).where(
                        artifacts.c.artifact_id.in_(chunk),
                        artifacts.c.storage_location == "file",
                    )
                )
            )
        return [each for each in chunk if each not in named]

    @contextlib.contextmanager
    def _alone_with_files(self) -> Iterator[bool]:
        """Say whether no run is active, and let none begin for the moment."""
        locks = self._database.locking()
        # Without a lock file nobody knows of the runs of other processes.
        known = self._database.is_sqlite
        alone = known and locks.try_lock(FILES)
        try:
            yield alone
        finally:
            if alone:
                locks.unlock(FILES)

    def _measure(self, ids: Iterable[str]) -> tuple[int, int]:
        sizes = []
        if self._files is not None:
            for each in ids:
                with contextlib.suppress(FileNotFoundError):
                    sizes.append(self._files.path(each).stat().st_size)
        return len(sizes), sum(sizes)

    # -- knowing

    def stats(self) -> DatabaseStats:
        """See `Store.stats`."""
        database = self._database
        rows = Queries(database).counts()
        pages = free = page_size = 0
        if database.is_sqlite:
            with database.reading() as connection:
                page_size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        elif database.engine.dialect.name == "postgresql":
            with database.reading() as connection:
                pages = connection.scalar(sa.func.pg_database_size(sa.func.current_database()))
                page_size = 1
        path = database.path
        ids = [] if self._files is None else list(self._files.ids())
        return DatabaseStats(
            database_bytes=pages * page_size if path is None else _size(path),
            wal_bytes=0 if path is None else _size(f"{path}-wal"),
            artifact_bytes=0 if self._files is None else self._files.size(),
            artifact_files=len(ids),
            free_bytes=free * page_size,
            rows=rows,
        )

    # -- copying and compacting

    def backup(self, path: str | os.PathLike[str]) -> Path:
        """See `Store.backup`."""
        database = self._database
        if not database.is_sqlite:
            raise ConfigurationError("back up this database with its own tools, such as pg_dump")
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise ConfigurationError(f"the folder {target.parent} does not exist; create it")
        if target.exists():
            raise ConfigurationError(f"{target} exists already; choose another name, or remove it")
        temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            # A file that was pruned between the copy of its row and its own: copy once more.
            for last in (False, False, True):
                with translated(str(target)):
                    wanted = self._copy_database(temporary)
                if self._copy_files(wanted, Path(f"{target}-artifacts"), last):
                    break
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
        finally:
            for rest in (temporary, *(Path(f"{temporary}{end}") for end in ("-wal", "-shm"))):
                rest.unlink(missing_ok=True)
        return target

    def _copy_database(self, path: Path) -> list[str]:
        """Copy the database as it is now; return the artifacts that are files."""
        path.unlink(missing_ok=True)
        copy = sqlite3.connect(path, isolation_level=None)
        try:
            os.chmod(path, 0o600)
            with self._database.engine.connect() as connection:
                raw: Any = connection.connection.driver_connection
                raw.backup(copy)
            # Nobody runs anything in the copy; and a single file is easier to carry.
            copy.execute("PRAGMA journal_mode=DELETE")
            copy.execute("UPDATE flow_runs SET owner = NULL, lease_expires_at = NULL")
            copy.execute("UPDATE subscriptions SET owner = NULL, epoch = epoch + 1")
            rows = copy.execute(
                "SELECT artifact_id FROM artifacts WHERE storage_location = 'file'"
            ).fetchall()
            return [row[0] for row in rows]
        finally:
            copy.close()

    def _copy_files(self, ids: Sequence[str], folder: Path, last: bool) -> bool:
        if not ids:
            return True
        if self._files is None:
            raise StoreError("the artifact folder is not known; open the store with artifact_dir=")
        target = ArtifactFiles(folder, self._files.threshold, self._files.max_bytes)
        for each in ids:
            try:
                target.write(self._files.read(each))
            except LookupError as error:
                if last:
                    raise StoreDamaged(
                        f"artifact {each} is missing from {self._files.root}; "
                        "the backup was not made"
                    ) from error
                return False
        return True

    def vacuum(self) -> int:
        """See `Store.vacuum`."""
        database = self._database
        database.open()
        if not database.is_sqlite:
            raise ConfigurationError("this database vacuums itself")
        before = self.stats()
        with translated(database.where), database.exclusive() as writer:
            writer.execute("VACUUM")
            database.checkpoint("TRUNCATE")
        after = self.stats()
        size = before.database_bytes + before.wal_bytes
        return max(0, size - after.database_bytes - after.wal_bytes)


_REFERENCES: Final[tuple[tuple[sa.Column[Any], sa.ColumnElement[Any]], ...]] = (
    (node_runs.c.output_artifact_id, node_runs.c.run_id),
    (flow_runs.c.inputs_artifact_id, flow_runs.c.run_id),
    (artifact_links.c.artifact_id, artifact_links.c.run_id),
    (cache_entries.c.artifact_id, cache_entries.c.run_id),
    (memo.c.artifact_id, sa.null()),
    (snapshots.c.artifact_id, sa.null()),
    (messages.c.artifact_id, sa.null()),
)


def _days_ago(days: float) -> dt.datetime:
    if isinstance(days, bool) or not isinstance(days, int | float) or not days >= 0:
        raise ConfigurationError(f"keep_days is a number of days of at least 0, not {days!r}")
    return moment_before("keep_days", days * 86_400)


def _expired() -> sa.ColumnElement[bool]:
    now = dt.datetime.now(dt.UTC)
    return sa.and_(memo.c.expires_at.is_not(None), memo.c.expires_at <= now)


def _nested(runs: Sequence[str]) -> sa.Select[Any]:
    """Return the query for the runs that are nested directly in some."""
    return (
        sa.select(flow_runs.c.run_id)
        .where(flow_runs.c.parent_run_id.in_(runs))
        .order_by(flow_runs.c.run_id)
    )


def _removable() -> sa.ColumnElement[bool]:
    return sa.and_(flow_runs.c.status.in_(FINISHED), flow_runs.c.owner.is_(None))


def _remove_file(files: ArtifactFiles, artifact_id: str, grace: float) -> int | None:
    """Remove a file unless somebody stored it again just now; return its size, or None.

    It is moved aside first and looked at then: who stores the same content either renewed its time
    before, and it is put back, or does not find it and writes it anew.
    """
    path = files.path(artifact_id)
    aside = path.with_name(f"{artifact_id}.{secrets.token_hex(8)}.tmp")
    try:
        if time.time() - path.lstat().st_mtime < grace:
            return None
        path.replace(aside)
    except FileNotFoundError:
        return None
    found = aside.lstat()
    if time.time() - found.st_mtime < grace:
        aside.replace(path)
        return None
    aside.unlink(missing_ok=True)
    return found.st_size


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
