"""Snapshots of whole mappings, and changes to the cache of a run from outside its journal."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any, Final

import attrs
import sqlalchemy as sa

from dagger_dsl.errors import ConfigurationError, RunOwned, SnapshotNotFound, did_you_mean
from dagger_dsl.store.arguments import check_number, check_text, no_such_run
from dagger_dsl.store.artifact_rows import files_kept
from dagger_dsl.store.batches import INSERT_ARTIFACT, UPSERT_CACHE, file_row
from dagger_dsl.store.database import Database
from dagger_dsl.store.liveness import Liveness, Ownership
from dagger_dsl.store.ownership import this_owner
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.schema import SNAPSHOT_KINDS, cache_entries, flow_runs, snapshots
from dagger_dsl.store.transactions import Statement

__all__ = ["SnapshotInfo", "Snapshots"]

# FOR SHARE keeps a takeover away until the commit; SQLite's write lock does so by itself.
_EPOCH: Final = (
    sa.select(flow_runs.c.epoch)
    .where(flow_runs.c.run_id == sa.bindparam("the_run"))
    .with_for_update(read=True)
)
_ENTRIES: Final = sa.select(cache_entries).where(cache_entries.c.run_id == sa.bindparam("the_run"))


@attrs.frozen
class SnapshotInfo:
    """What is known of a snapshot, apart from its value.

    Attributes:
        snapshot_id: What it is loaded by.
        flow_name: The graph it belongs to.
        run_id: The run it belongs to, if any; that may be gone.
        kind: ``cache`` or ``execution``.
        size_bytes: Length of its encoding.
        created_at: When it was saved, in UTC.
    """

    snapshot_id: str
    flow_name: str
    run_id: str | None
    kind: str
    size_bytes: int
    created_at: dt.datetime


class Snapshots:
    """The snapshots of one database, for `Store`.

    Args:
        database, payloads: What the store is made of.
        liveness: Knows who owns a run.
    """

    def __init__(self, database: Database, payloads: Payloads, liveness: Liveness) -> None:
        self._database = database
        self._payloads = payloads
        self._liveness = liveness

    def save(
        self,
        flow_name: str,
        value: Mapping[Any, Any],
        run_id: str | None,
        kind: str,
        keep: int | None,
    ) -> str:
        """See `Store.save_snapshot`."""
        check_text("a graph's name", flow_name)
        _check_kind(kind)
        if run_id is not None:
            check_text("a run's id", run_id)
        if keep is not None:
            check_number("keep", keep)
        if keep == 0:
            raise ConfigurationError("keep is a number of at least 1, as the new one stays")
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"a snapshot is a mapping, not {type(value).__name__}")
        snapshot_id = uuid.uuid4().hex
        with files_kept(self._database):
            text, artifact_id, size = self._payloads.encode(dict(value), "the snapshot")
            row = {
                "snapshot_id": snapshot_id,
                "flow_name": flow_name,
                "run_id": run_id,
                "value": text,
                "artifact_id": artifact_id,
                "size_bytes": size,
                "created_at": dt.datetime.now(dt.UTC),
                "kind": kind,
            }
            with self._database.writing() as connection:
                if artifact_id is not None:
                    insert = INSERT_ARTIFACT(self._database.dialect)
                    _insert(connection, insert, [file_row(artifact_id, size)])
                connection.execute(sa.insert(snapshots), row)
                if keep is not None:
                    _remove_older(connection, row, keep)
        return snapshot_id

    def load(self, flow_name: str | None, snapshot_id: str | None, kind: str) -> dict[Any, Any]:
        """See `Store.load_snapshot`."""
        _check_kind(kind)
        query = _newest(flow_name, kind)
        what = f"{kind} snapshot"
        if flow_name is not None:
            what += f" of {flow_name!r}"
        if snapshot_id is not None:
            check_text("a snapshot's id", snapshot_id)
            query = query.where(snapshots.c.snapshot_id == snapshot_id)
            what += f" with the id {snapshot_id!r}"
        query = query.add_columns(snapshots.c.value, snapshots.c.artifact_id).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise SnapshotNotFound(
                f"{self._database.where} has no {what}; list_snapshots() shows what there is"
            )
        value: dict[Any, Any] = self._payloads.decode(
            row.value, row.artifact_id, f"snapshot {row.snapshot_id}"
        )
        return value

    def find(self, flow_name: str | None, kind: str | None) -> list[SnapshotInfo]:
        """See `Store.list_snapshots`."""
        if kind is not None:
            _check_kind(kind)
        with self._database.reading() as connection:
            rows = connection.execute(_newest(flow_name, kind)).mappings()
            return [SnapshotInfo(**row) for row in rows]

    # -- the cache of a run

    def save_cache_delta(self, name: str, delta: Mapping[str, Mapping[str, Any]]) -> int:
        """See `Store.save_cache_delta`."""
        check_text("a run's id or a graph's name", name)
        changes = _flat(delta)
        run_id, epoch = self._writable(name)
        database = self._database
        with files_kept(database):
            stored = {
                each: self._payloads.encode(value, ".".join(each))
                for each, value in changes.items()
            }
            with database.writing() as connection:
                if connection.scalar(_EPOCH, {"the_run": run_id}) != epoch:
                    raise RunOwned(run_id, "another process, which took it over just now")
                known = {
                    (row.namespace, row.entry_key): (row.value, row.artifact_id)
                    for row in connection.execute(_ENTRIES, {"the_run": run_id})
                }
                changed = {
                    each: place for each, place in stored.items() if known.get(each) != place[:2]
                }
                sizes = {place[1]: place[2] for place in changed.values() if place[1] is not None}
                _insert(
                    connection,
                    INSERT_ARTIFACT(database.dialect),
                    [file_row(*each) for each in sizes.items()],
                )
                _insert(
                    connection,
                    UPSERT_CACHE(database.dialect),
                    [(run_id, *each, *place[:2]) for each, place in changed.items()],
                )
        return len(changed)

    def _writable(self, name: str) -> tuple[str, int]:
        """Return the run that *name* means and its epoch, unless another process records into it.

        Raises:
            RunNotFound: There is none.
            RunOwned: Another process owns it.
        """
        query = (
            sa.select(flow_runs.c.run_id, flow_runs.c.owner, flow_runs.c.epoch, flow_runs.c.beat)
            .where(sa.or_(flow_runs.c.run_id == name, flow_runs.c.flow_name == name))
            .order_by((flow_runs.c.run_id == name).desc(), flow_runs.c.created_at.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise no_such_run(self._database.where, name)
        seen = Ownership.of_row(row)
        owner = seen.owner
        if owner is not None and owner != this_owner():
            here = self._liveness.shows_by_lock(owner)
            if not here or self._liveness.holds_lock(row.run_id, seen.epoch):
                raise RunOwned(row.run_id, str(owner))
        return row.run_id, seen.epoch


def _check_kind(kind: Any) -> None:
    if kind not in SNAPSHOT_KINDS:
        raise ConfigurationError(
            f"there is no kind of snapshot {kind!r}{did_you_mean(str(kind), SNAPSHOT_KINDS)}"
        )


def _newest(flow_name: str | None, kind: str | None) -> sa.Select[Any]:
    columns = [snapshots.c[field.name] for field in attrs.fields(SnapshotInfo)]
    query = sa.select(*columns).order_by(snapshots.c.created_at.desc(), snapshots.c.snapshot_id)
    for column, wanted in ((snapshots.c.flow_name, flow_name), (snapshots.c.kind, kind)):
        if wanted is not None:
            check_text(column.name, wanted)
            query = query.where(column == wanted)
    return query


def _remove_older(connection: sa.Connection, row: Mapping[str, Any], keep: int) -> None:
    """Remove the snapshots like a new one but for it and the newest, *keep* in all."""
    alike = [snapshots.c[name] == row[name] for name in ("flow_name", "run_id", "kind")]
    others = (
        sa.select(snapshots.c.snapshot_id)
        .where(*alike, snapshots.c.snapshot_id != row["snapshot_id"])
        .order_by(snapshots.c.created_at.desc(), snapshots.c.snapshot_id)
        .offset(keep - 1)
    )
    old = list(connection.scalars(others))
    connection.execute(sa.delete(snapshots).where(snapshots.c.snapshot_id.in_(old)))


def _flat(delta: Any) -> dict[tuple[str, str], Any]:
    """Return the values of a delta by namespace and key."""
    if not isinstance(delta, Mapping):
        raise ConfigurationError(_shape(f"not {type(delta).__name__}"))
    found = {}
    for namespace, values in delta.items():
        check_text("a namespace of the cache", namespace)
        if not isinstance(values, Mapping):
            raise ConfigurationError(_shape(f"and {namespace!r} has {type(values).__name__}"))
        for key, value in values.items():
            check_text("a key of the cache", key)
            found[namespace, key] = value
    return found


def _shape(found: str) -> str:
    return f"a delta of the cache is {{namespace: {{key: value}}}}, {found}"


def _insert(connection: sa.Connection, statement: Statement, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        named = [dict(zip(statement.names, each, strict=True)) for each in rows]
        connection.execute(statement.core, named)
