"""`read_news`: what was recorded of a run since somebody last looked, for those who follow it.

It reads a few rows each time, never a value, so a run with many nodes can be followed closely, and
a long record is read piece by piece.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import attrs
import orjson
import sqlalchemy as sa

from dagger_dsl.model.document import graph_from_plain
from dagger_dsl.model.graph import Graph
from dagger_dsl.store.arguments import check_number, check_text, no_such_run
from dagger_dsl.store.database import Database
from dagger_dsl.store.ownership import Owner
from dagger_dsl.store.records import StoredCommand
from dagger_dsl.store.schema import flow_runs, inbox, node_runs, run_log

__all__ = ["Ended", "News", "Request", "read_graph", "read_inside", "read_news", "read_requests"]


@attrs.frozen
class Ended:
    """An attempt that ended, or the end of a node that was not called.

    Attributes:
        seq: Its place in the run's history.
        node_id, key, attempt, state: As recorded; attempt 0 is an end without a call.
        started_at: When it began, in seconds since 1970; None where nothing was called.
        duration: Seconds it took.
        error: What it failed with: ``type``, ``message``, ``traceback``.
        meta: What was recorded beside the value.
    """

    seq: int
    node_id: str
    key: str
    attempt: int
    state: str
    started_at: float | None
    duration: float | None
    error: Mapping[str, Any] | None
    meta: Mapping[str, Any]

    @property
    def ended_at(self) -> float | None:
        """When it ended, in seconds since 1970."""
        if self.started_at is None:
            return None
        return self.started_at + (self.duration or 0.0)


@attrs.frozen
class Request:
    """What another process asked of a run.

    Attributes:
        number: Its place in the run's inbox.
        body: The command, as JSON text.
        sender: Who asked, where that was said.
        created_at: When, UTC.
    """

    number: int
    body: str
    sender: str | None
    created_at: dt.datetime


@attrs.frozen
class News:
    """A run as it stands, and what came to its record after an entry.

    Attributes:
        status: A `RunStatus`.
        epoch: The number of the latest ownership.
        owner: Who executes it, None when nobody does.
        updated_at: When it was last claimed or ended, UTC.
        error: Why it failed or was paused, as it was recorded.
        attempts: What ended, in order.
        commands: What else is in the record, in order.
        released: Slots that were started, each list with the place of the first entry of its
            commit.
        last: The place of the newest entry; give it as *after* the next time.
        more: Whether there were more entries than were asked for.
        flow_name: The run's graph.
        created_at: When the run began, UTC.
    """

    status: str
    epoch: int
    owner: Owner | None
    updated_at: dt.datetime
    error: Mapping[str, Any] | None
    attempts: tuple[Ended, ...]
    commands: tuple[StoredCommand, ...]
    released: tuple[tuple[int, tuple[int, ...]], ...]
    last: int
    more: bool = False
    flow_name: str = ""
    created_at: dt.datetime | None = None


_RUN: Final = (
    flow_runs.c.status,
    flow_runs.c.epoch,
    flow_runs.c.owner,
    flow_runs.c.updated_at,
    flow_runs.c.error,
    flow_runs.c.flow_name,
    flow_runs.c.created_at,
)
_ENDS: Final = (
    node_runs.c.seq,
    node_runs.c.node_id,
    node_runs.c.invocation_key,
    node_runs.c.attempt,
    node_runs.c.state,
    node_runs.c.started_at,
    node_runs.c.duration_ms,
    node_runs.c.error,
    node_runs.c.meta,
    node_runs.c.released,
)
_LOG: Final = (run_log.c.seq, run_log.c.kind, run_log.c.entry_key, run_log.c.body)


def read_news(database: Database, run_id: str, after: int = 0, limit: int | None = None) -> News:
    """Return what came to the record of a run after an entry, all of one moment.

    Args:
        database: Where it is recorded.
        run_id: The run.
        after: The place of the last entry that is known.
        limit: Entries at most, the oldest ones; None for all.

    Raises:
        RunNotFound: There is no such run (any more).
        StoreError: It cannot be read now.
    """
    check_text("a run's id", run_id)
    check_number("after", after)
    ends = sa.select(*_ENDS).where(node_runs.c.run_id == run_id, node_runs.c.seq > after)
    entries = sa.select(*_LOG).where(run_log.c.run_id == run_id, run_log.c.seq > after)
    with database.reading() as connection:
        run = connection.execute(sa.select(*_RUN).where(flow_runs.c.run_id == run_id)).one_or_none()
        if run is None:
            raise no_such_run(database.where, run_id)
        rows = connection.execute(ends.order_by(node_runs.c.seq).limit(limit)).all()
        log = connection.execute(entries.order_by(run_log.c.seq).limit(limit)).all()
    places = sorted([*(row.seq for row in rows), *(entry.seq for entry in log)])
    more = limit is not None and len(places) >= limit
    if limit is not None and len(places) > limit:  # what both tables have up to here is whole
        rows = [row for row in rows if row.seq <= places[limit - 1]]
        log = [entry for entry in log if entry.seq <= places[limit - 1]]
        places = places[:limit]
    lists = [(row.seq, row.released) for row in rows if row.released is not None]
    lists += [(entry.seq, entry.body) for entry in log if entry.kind == "released"]
    return News(
        status=run.status,
        epoch=run.epoch,
        owner=None if run.owner is None else Owner.of_text(run.owner),
        updated_at=run.updated_at,
        error=None if run.error is None else orjson.loads(run.error),
        attempts=tuple(_ended(row) for row in rows),
        commands=tuple(
            StoredCommand(entry.seq, entry.entry_key, entry.body)
            for entry in log
            if entry.kind == "command"
        ),
        released=tuple((seq, tuple(orjson.loads(text))) for seq, text in sorted(lists)),
        last=places[-1] if places else after,
        more=more,
        flow_name=run.flow_name,
        created_at=run.created_at,
    )


def read_graph(database: Database, run_id: str) -> tuple[Graph, list[StoredCommand]]:
    """Return the graph that a run was started with, and what else a replay needs of it.

    Raises:
        RunNotFound: There is no such run.
        StoreError: It cannot be read now.
    """
    check_text("a run's id", run_id)
    commands = sa.select(run_log.c.seq, run_log.c.entry_key, run_log.c.body).where(
        run_log.c.run_id == run_id, run_log.c.kind == "command"
    )
    with database.reading() as connection:
        text = connection.scalar(sa.select(flow_runs.c.graph).where(flow_runs.c.run_id == run_id))
        if text is None:
            raise no_such_run(database.where, run_id)
        found = connection.execute(commands.order_by(run_log.c.seq)).all()
    return graph_from_plain(orjson.loads(text)), [StoredCommand(*row) for row in found]


def read_inside(database: Database, run_id: str, limit: int) -> list[str]:
    """Return the ids of the runs directly in a run that are recorded as running, the newest first.

    Args:
        database: Where they are recorded.
        run_id: The run around them.
        limit: At most so many.

    Raises:
        StoreError: It cannot be read now.
    """
    check_text("a run's id", run_id)
    columns = flow_runs.c
    # Their ids begin with that of the run and a slash, so no other run has to be looked at.
    query = sa.select(columns.run_id).where(
        columns.run_id > f"{run_id}/",
        columns.run_id < f"{run_id}{chr(ord('/') + 1)}",
        columns.parent_run_id == run_id,
        columns.status == "running",
    )
    with database.reading() as connection:
        newest = query.order_by(columns.created_at.desc(), columns.run_id.desc()).limit(limit)
        return list(connection.scalars(newest))


def _ended(row: Any) -> Ended:
    return Ended(
        seq=row.seq,
        node_id=row.node_id,
        key=row.invocation_key,
        attempt=row.attempt,
        state=row.state,
        started_at=row.started_at,
        duration=None if row.duration_ms is None else row.duration_ms / 1000,
        error=None if row.error is None else orjson.loads(row.error),
        meta={} if row.meta is None else orjson.loads(row.meta),
    )


def read_requests(database: Database, run_id: str) -> dict[int, Request]:
    """Return what other processes asked of a run, by number.

    Raises:
        StoreError: It cannot be read now.
    """
    check_text("a run's id", run_id)
    columns = inbox.c
    query = sa.select(columns.command_id, columns.body, columns.sender, columns.created_at).where(
        columns.run_id == run_id
    )
    with database.reading() as connection:
        return {
            row.command_id: Request(row.command_id, row.body, row.sender, row.created_at)
            for row in connection.execute(query.order_by(columns.command_id))
        }
