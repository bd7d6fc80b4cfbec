"""Runs as the store keeps them: making, claiming, reading and finding them.

Ownership is decided without wall clocks. On one host the owner of a run holds an operating system's
lock that dies with it; from another host the run's beat is watched for one lease on the own
monotonic clock, as is that of a process here that may have been stopped. A takeover raises the
run's epoch from the one that was found to be over, so that of several one succeeds; and every write
carries the epoch in its condition, so whoever lost a run learns it at the next write.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import sqlalchemy as sa

from dagger_dsl.errors import (
    IdempotencyConflict,
    KeyTaken,
    RunExists,
    RunOwned,
)
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import Graph
from dagger_dsl.model.protocols import Command
from dagger_dsl.store.arguments import (
    check_count,
    check_new_name,
    check_text,
    no_such_run,
    run_states,
)
from dagger_dsl.store.batches import INSERT_ARTIFACT, INSERT_LOG, file_row
from dagger_dsl.store.database import Database
from dagger_dsl.store.journal import RunJournal
from dagger_dsl.store.liveness import Liveness, Ownership
from dagger_dsl.store.locks import FILES, run_offset
from dagger_dsl.store.ownership import Heart, Owner, this_owner
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.records import (
    NODE_COLUMNS,
    RunSummary,
    StoredNode,
    StoredRun,
    config_to_text,
    graph_to_text,
)
from dagger_dsl.store.schema import FINISHED, cache_entries, flow_runs, node_runs, run_log
from dagger_dsl.store.transactions import Statement, Transaction, fetch, run_transaction

__all__ = ["RunSummary", "Runs", "StoredNode", "StoredRun"]


# --- statements -----------------------------------------------------------------------------------

_RUN_COLUMNS: Final = (
    "run_id",
    "flow_name",
    "status",
    "epoch",
    "owner",
    "lease_expires_at",
    "created_at",
    "updated_at",
    "parent_run_id",
    "idempotency_key",
    "fingerprint",
    "version",
    "config",
    "inputs",
    "inputs_artifact_id",
    "graph",
)
_INSERT_RUN: Final = Statement(
    sa.insert(flow_runs).values(
        {name: sa.bindparam(name, type_=flow_runs.c[name].type) for name in _RUN_COLUMNS}
    )
)
_RUN_STATUS: Final = Statement(
    sa.select(flow_runs.c.status).where(flow_runs.c.run_id == sa.bindparam("the_run"))
)
_RUN_OF_KEY: Final = Statement(
    sa.select(flow_runs.c.run_id).where(flow_runs.c.idempotency_key == sa.bindparam("the_key"))
)
_FINGERPRINT_OF_KEY: Final = Statement(
    sa.select(flow_runs.c.fingerprint).where(flow_runs.c.idempotency_key == sa.bindparam("the_key"))
)
_TAKE: Final = (
    sa.update(flow_runs)
    .where(flow_runs.c.run_id == sa.bindparam("the_run"))
    .where(flow_runs.c.epoch == sa.bindparam("the_epoch"))
    .values(
        epoch=flow_runs.c.epoch + 1,
        beat=flow_runs.c.beat + 1,
        owner=sa.bindparam("new_owner"),
        lease_expires_at=sa.bindparam("new_expiry"),
        # A run that came to an end and shall go on has all its time again.
        owned_seconds=sa.case(
            (flow_runs.c.status.not_in(FINISHED), flow_runs.c.owned_seconds), else_=0.0
        ),
        updated_at=sa.bindparam("now", type_=flow_runs.c.updated_at.type),
    )
)
_NODES: Final = Statement(
    sa.select(*(node_runs.c[name] for name in NODE_COLUMNS))
    .where(node_runs.c.run_id == sa.bindparam("the_run"))
    .order_by(node_runs.c.seq)
)


# --- the runs of a database -----------------------------------------------------------------------


class Runs:
    """The runs of one database, for `Store`.

    Args:
        database, payloads, heart: What the store is made of.
    """

    def __init__(self, database: Database, payloads: Payloads, heart: Heart) -> None:
        self._database = database
        self._payloads = payloads
        self._heart = heart
        self._liveness = Liveness(database, heart)
        self._locked: set[Callable[[], None]] = set()

    def let_go(self) -> None:
        """Give back the locks of all runs that are still owned; they can be resumed at once."""
        for release in list(self._locked):
            release()

    # -- making

    def create(
        self,
        *,
        run_id: str,
        graph: Graph,
        inputs: Mapping[str, Any],
        config: DagConfig | None,
        idempotency_key: str | None,
        parent_run_id: str | None,
        durability: str,
        notes: Sequence[Command],
    ) -> RunJournal:
        """See `Store.create_run`."""
        check_new_name("a run's id", run_id)
        if idempotency_key is not None:
            check_new_name("an idempotency key", idempotency_key)
        if parent_run_id is not None:
            check_text("parent_run_id", parent_run_id)
        check_text("a graph's name", graph.name)
        graph_text = graph_to_text(graph)
        text, artifact_id, size = self._payloads.encode(dict(inputs), "inputs")
        fingerprint = ""
        if idempotency_key is not None:
            fingerprint = _fingerprint(graph_text, text or artifact_id or "")
        now = dt.datetime.now(dt.UTC)
        row = (
            run_id,
            graph.name,
            "running",
            1,
            this_owner().to_text(),
            self._heart.expiry(),
            now,
            now,
            parent_run_id,
            idempotency_key,
            fingerprint,
            graph.version,
            None if config is None else config_to_text(config),
            text,
            artifact_id,
            graph_text,
        )
        named = dict(zip(_RUN_COLUMNS, row, strict=True))
        values = _INSERT_RUN.in_order(named)

        def insert(tx: Transaction) -> None:
            if tx.scalar(_RUN_STATUS, (run_id,)) is not None:
                raise RunExists(
                    f"there is a run {run_id!r} already; resume it, or start one of another id"
                )
            if idempotency_key is not None:
                self._refuse_key(tx, idempotency_key, fingerprint)
            if artifact_id is not None:
                statement = INSERT_ARTIFACT(self._database.dialect)
                tx.execute(statement, file_row(artifact_id, size))
            tx.execute(_INSERT_RUN, values)
            if notes:
                entries = [(run_id, seq, "command", *note) for seq, note in enumerate(notes, 1)]
                tx.execute_many(INSERT_LOG, entries)

        release = self._take_lock(run_id, 1)
        try:
            run_transaction(self._database, insert)
            return self._journal(run_id, 1, durability, len(notes), release)
        except BaseException:
            release()
            raise

    def _refuse_key(self, tx: Transaction, key: str, fingerprint: str) -> None:
        known = tx.scalar(_RUN_OF_KEY, (key,))
        if known is None:
            return
        if tx.scalar(_FINGERPRINT_OF_KEY, (key,)) != fingerprint:
            raise _conflict(key, known)
        raise KeyTaken(known, key)

    # -- claiming

    def claim(
        self, run_id: str, durability: str, steal_stalled: bool
    ) -> tuple[StoredRun, RunJournal]:
        """See `Store.claim_run`."""
        check_text("a run's id", run_id)
        before = self._free(run_id, steal_stalled)
        release = self._take_lock(run_id, before + 1)
        try:
            run = self._take(run_id, before)
            return run, self._journal(run_id, run.epoch, durability, run.last_seq, release)
        except BaseException:
            release()
            raise

    def _ownership(self, run_id: str) -> Ownership:
        found = self._liveness.look([run_id]).get(run_id)
        if found is None:
            raise no_such_run(self._database.where, run_id)
        return found

    def _free(self, run_id: str, steal_stalled: bool) -> int:
        """Return the number of the ownership that is over, so that the next one may begin.

        Args:
            run_id: The run.
            steal_stalled: Watch an owner of this host that lives, too.
        """
        seen = self._ownership(run_id)
        liveness = self._liveness
        if seen.owner is None:
            return seen.epoch
        if liveness.shows_by_lock(seen.owner):
            if not liveness.holds_lock(run_id, seen.epoch):
                return seen.epoch
            if not steal_stalled or self._database.is_memory:  # nothing beats in memory
                raise self._owned(run_id, seen.epoch)
        if liveness.unmoved({run_id: seen}):
            return seen.epoch
        now = self._ownership(run_id)
        if now.owner is not None:
            raise self._owned(run_id, now.epoch)
        return now.epoch

    def _owned(self, run_id: str, epoch: int) -> RunOwned:
        """Return the refusal that names the owner of this number, if it is known already."""
        now = self._liveness.look([run_id]).get(run_id)
        if now is None or now.owner is None or now.epoch < epoch:
            return RunOwned(run_id, "another process")
        return RunOwned(run_id, str(now.owner))

    def _take(self, run_id: str, before: int) -> StoredRun:
        """Begin the ownership after the one that was found to be over."""
        with self._database.writing() as connection:
            run = self._load(connection, run_id)
            taken = connection.execute(
                _TAKE,
                {
                    "the_run": run_id,
                    "the_epoch": before,
                    "new_owner": this_owner().to_text(),
                    "new_expiry": self._heart.expiry(),
                    "now": dt.datetime.now(dt.UTC),
                },
            ).rowcount
        if taken != 1:  # somebody else was quicker
            raise self._owned(run_id, before + 1)
        run.epoch += 1
        run.owner = this_owner()
        if run.status in FINISHED:
            run.owned_seconds = 0.0
        return run

    def _take_lock(self, run_id: str, epoch: int) -> Callable[[], None]:
        """Lock an ownership of a run on this host; return what gives it back."""
        database = self._database
        locks = database.locking()
        offset = run_offset(run_id, epoch)
        if not locks.try_lock(offset):
            raise self._owned(run_id, epoch)
        try:
            # While a run is owned, files may be written that no row names yet.
            locks.lock(FILES, database.busy_timeout, shared=True)
        except BaseException:
            locks.unlock(offset)
            raise
        done = False

        def release() -> None:
            nonlocal done
            if not done:
                done = True
                self._locked.discard(release)
                self._heart.remove(run_id)
                locks.unlock(FILES)
                locks.unlock(offset)

        self._locked.add(release)
        return release

    def _journal(
        self, run_id: str, epoch: int, durability: str, seq: int, release: Callable[[], None]
    ) -> RunJournal:
        return RunJournal(
            self._database,
            self._payloads,
            self._heart,
            run_id,
            epoch,
            durability=durability,
            seq=seq,
            on_release=release,
        )

    # -- reading

    def load(self, run_id: str) -> StoredRun:
        """See `Store.load_run`."""
        check_text("a run's id", run_id)
        with self._database.reading() as connection:
            return self._load(connection, run_id)

    def _load(self, connection: sa.Connection, run_id: str) -> StoredRun:
        row = connection.execute(
            sa.select(flow_runs).where(flow_runs.c.run_id == run_id)
        ).one_or_none()
        if row is None:
            raise no_such_run(self._database.where, run_id)
        nodes = fetch(connection, _NODES, (run_id,))
        log = connection.execute(
            sa.select(run_log).where(run_log.c.run_id == run_id).order_by(run_log.c.seq)
        ).all()
        cache = connection.execute(
            sa.select(cache_entries).where(cache_entries.c.run_id == run_id)
        ).all()
        return StoredRun(self._payloads, row, nodes, log, cache)

    def find(
        self,
        flow_name: str | None,
        status: str | Sequence[str] | None,
        limit: int | None,
        parent: str | None,
    ) -> list[RunSummary]:
        """See `Store.list_runs`."""
        if parent is not None:
            check_text("parent", parent)
        query = _summaries(flow_name, parent)
        if parent is not None and self._database.is_sqlite:
            # Their ids begin with that of the run around them, which has an index; other databases
            # may sort texts as people do.
            query = query.where(flow_runs.c.run_id.between(f"{parent}/", f"{parent}0"))
        check_count("limit", limit)
        if status is not None:
            query = query.where(flow_runs.c.status.in_(run_states(status)))
        if limit is not None:
            query = query.limit(limit)
        with self._database.reading() as connection:
            return [_summary(row) for row in connection.execute(query)]

    def orphans(self, flow_name: str | None) -> list[RunSummary]:
        """See `Store.orphans`."""
        query = _summaries(flow_name).where(flow_runs.c.status == "running")
        query = query.add_columns(flow_runs.c.epoch, flow_runs.c.beat)
        with self._database.reading() as connection:
            seen = {row.run_id: Ownership.of_row(row) for row in connection.execute(query)}
        dead = self._liveness.dead(seen)
        if not dead:
            return []
        # Once more: a run may have ended just before its lock was found free.
        with self._database.reading() as connection:
            return [
                _summary(row)
                for row in connection.execute(query)
                if row.run_id in dead and _same_owner(Ownership.of_row(row), seen[row.run_id])
            ]


def _summaries(flow_name: str | None, parent: str | None = None) -> sa.Select[Any]:
    columns = [flow_runs.c[field.name] for field in attrs.fields(RunSummary)]
    query = sa.select(*columns).order_by(flow_runs.c.created_at.desc(), flow_runs.c.run_id)
    query = query.where(flow_runs.c.parent_run_id == parent)  # IS NULL where that is None
    if flow_name is None:
        return query
    check_text("flow_name", flow_name)
    return query.where(flow_runs.c.flow_name == flow_name)


def _summary(row: Any) -> RunSummary:
    values = {field.name: getattr(row, field.name) for field in attrs.fields(RunSummary)}
    owner = values["owner"]
    return RunSummary(**{**values, "owner": None if owner is None else Owner.of_text(owner)})


def _same_owner(one: Ownership, other: Ownership) -> bool:
    return (one.owner, one.epoch) == (other.owner, other.epoch)


def _fingerprint(graph: str, inputs: str) -> str:
    return hashlib.sha256(f"{len(graph)} {graph}{inputs}".encode()).hexdigest()


def _conflict(key: str, run_id: str) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"idempotency key {key!r} belongs to run {run_id}, which has another graph or other "
        "inputs; use another key, or the same graph and inputs"
    )
