"""Questions to a database: execution trees, execution state, and SQL of the user's own."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson
import sqlalchemy as sa

from dagger_dsl.errors import ConfigurationError, StoreError, StoreReadOnly
from dagger_dsl.store import schema
from dagger_dsl.store.arguments import check_text
from dagger_dsl.store.database import Database
from dagger_dsl.store.ownership import Owner
from dagger_dsl.store.schema import execution_state as _state
from dagger_dsl.store.schema import execution_trees as _tree
from dagger_dsl.store.schema import flow_runs

__all__ = ["ExecutionState", "ExecutionTree", "Queries", "TreeNode"]


@attrs.frozen
class TreeNode:
    """A node that was called, by its latest attempt.

    Attributes:
        node_id, key, attempt, state: As recorded.
        dependencies: Ids of the nodes it waited for.
        started_at: When the attempt began, UTC.
        duration: Seconds it took.
        error: What went wrong.
    """

    node_id: str
    key: str
    attempt: int
    state: str
    dependencies: tuple[str, ...] = ()
    started_at: dt.datetime | None = None
    duration: float | None = None
    error: Mapping[str, Any] | None = None


@attrs.frozen
class ExecutionTree:
    """What a run has executed.

    Attributes:
        run_id, flow_name, status: The run.
        nodes: Every node that was called, in the order in which they ended.
    """

    run_id: str
    flow_name: str
    status: str
    nodes: tuple[TreeNode, ...]


@attrs.frozen
class ExecutionState:
    """A run that is not over.

    Attributes:
        run_id, flow_name, status, epoch: As recorded.
        state: ``active`` while a process owns it, or died owning it; else ``pending``.
        owner: That process.
        created_at, updated_at: Times of day in UTC, for people.
    """

    run_id: str
    flow_name: str
    state: str
    status: str
    epoch: int
    owner: Owner | None
    created_at: dt.datetime
    updated_at: dt.datetime


class Queries:
    """The questions that `Store` answers.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def execution_tree(self, name: str) -> ExecutionTree | None:
        """See `Store.load_execution_tree`."""
        check_text("a run's id or a graph's name", name)
        with self._database.reading() as connection:
            run = connection.execute(
                sa.select(flow_runs)
                .where(sa.or_(flow_runs.c.run_id == name, flow_runs.c.flow_name == name))
                .order_by((flow_runs.c.run_id == name).desc(), flow_runs.c.created_at.desc())
                .limit(1)
            ).one_or_none()
            if run is None:
                return None
            rows = connection.execute(
                sa.select(_tree).where(_tree.c.run_id == run.run_id).order_by(_tree.c.seq)
            ).all()
        waits = _dependencies(run.graph)
        nodes = tuple(
            TreeNode(
                node_id=row.node_id,
                key=row.invocation_key,
                attempt=row.attempt,
                state=row.state,
                dependencies=waits.get(row.node_id, ()),
                started_at=_moment(row.started_at),
                duration=None if row.duration_ms is None else row.duration_ms / 1000,
                error=None if row.error is None else orjson.loads(row.error),
            )
            for row in rows
        )
        return ExecutionTree(run.run_id, run.flow_name, run.status, nodes)

    def execution_state(self, name: str, state: str) -> ExecutionState | None:
        """See `Store.load_execution_state`."""
        check_text("a graph's name", name)
        if state not in ("active", "pending"):
            raise ConfigurationError(f"state is 'active' or 'pending', not {state!r}")
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(_state)
                .where(_state.c.flow_name == name, _state.c.state == state)
                .order_by(_state.c.created_at.desc())
                .limit(1)
            ).one_or_none()
        if row is None:
            return None
        return ExecutionState(
            run_id=row.run_id,
            flow_name=row.flow_name,
            state=row.state,
            status=row.status,
            epoch=row.epoch,
            owner=None if row.owner is None else Owner.of_text(row.owner),
            created_at=row.created_at,
            updated_at=row.updated_at,
        )

    def query(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[dict[str, Any]]:
        """See `Store.query`."""
        check_text("a query", sql)
        values = _values(params)
        with self._database.reading() as connection:
            if not self._database.is_sqlite:
                connection.exec_driver_sql("SET TRANSACTION READ ONLY")
                return [dict(row) for row in connection.exec_driver_sql(sql, values).mappings()]
            raw: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
            guard = _Guard()
            raw.set_authorizer(guard)
            try:
                cursor = raw.execute(sql, values)
                names = [column[0] for column in cursor.description or ()]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            except (sqlite3.Error, sqlite3.Warning) as error:
                if guard.refused:
                    raise StoreReadOnly(
                        "query() only reads: one SELECT over the tables of this database"
                    ) from error
                raise StoreError(f"the query failed: {error}") from error
            except (ValueError, OverflowError) as error:
                raise ConfigurationError(f"a parameter cannot be bound: {error}") from error
            finally:
                raw.set_authorizer(None)

    def counts(self) -> dict[str, int]:
        """Return the number of rows by table."""
        with self._database.reading() as connection:
            return {
                table.name: connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
                for table in schema.METADATA.sorted_tables
            }


_READING: Final = frozenset(
    (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
)


class _Guard:
    """Lets SQLite compile what reads; remembers whether something else was asked for."""

    def __init__(self) -> None:
        self.refused = False

    def __call__(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        # load_extension is the only one of SQLite's own functions that does more than compute.
        if action in _READING and second != "load_extension":
            return sqlite3.SQLITE_OK
        self.refused = True
        return sqlite3.SQLITE_DENY


def _values(params: Any) -> dict[str, Any] | tuple[Any, ...]:
    if isinstance(params, Mapping):
        return dict(params)
    if isinstance(params, str | bytes) or not isinstance(params, Iterable):
        raise ConfigurationError(
            f"params are a list of values or a mapping of names to them, not {params!r}"
        )
    return tuple(params)


def _dependencies(graph: str) -> dict[str, tuple[str, ...]]:
    nodes = orjson.loads(graph).get("nodes", [])
    return {node["id"]: tuple(node.get("dependencies", ())) for node in nodes}


def _moment(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
