"""What a file is before anything is done to it, and how its schema is made and brought up to date.

A file of another program, of a newer version, or with triggers and views of somebody else is
refused, untouched. Making and migrating happen inside one transaction: whole or absent.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from dagger_dsl.errors import StoreDamaged, StoreVersionError
from dagger_dsl.store import schema

__all__ = ["DIALECT", "MIGRATIONS", "create", "identify", "quick_check"]

DIALECT: Final = SQLiteDialect_pysqlite(paramstyle="qmark")


def identify(connection: sqlite3.Connection, path: str) -> str:
    """Return ``new``, ``old`` or ``current``, without changing anything.

    Raises:
        StoreVersionError: Somebody else's file, or one of a newer version.
        StoreDamaged: It has triggers or views that we did not make.
    """
    connection.execute("BEGIN")  # another process may be making it just now: all of it, or nothing
    try:
        return _identify(connection, path)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _identify(connection: sqlite3.Connection, path: str) -> str:
    mark = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    names = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if mark == 0 and version == 0 and names == 0:
        return "new"
    if mark != schema.APPLICATION_ID:
        raise StoreVersionError(
            f"{path} belongs to another program (application_id {mark:#x}, {names} tables and "
            "indexes); it was not touched. Choose another file"
        )
    if version > schema.SCHEMA_VERSION:
        raise StoreVersionError(_too_new(connection, path, version))
    _refuse_foreign(connection, path)
    return "current" if version == schema.SCHEMA_VERSION else "old"


def _too_new(connection: sqlite3.Connection, path: str, version: int) -> str:
    try:
        row = connection.execute("SELECT value FROM meta WHERE name = 'needs'").fetchone()
    except sqlite3.Error:
        row = None
    needs = f">={row[0]}" if row is not None else " of a newer release"
    return (
        f"{path} has schema {version}, and this dagger_dsl reads up to {schema.SCHEMA_VERSION}; "
        f"install dagger_dsl{needs}. The file was not touched"
    )


def _refuse_foreign(connection: sqlite3.Connection, path: str) -> None:
    """Refuse triggers and views that would run somebody else's SQL under our statements."""
    ours = {name: schema.create_view(name) for name in schema.VIEWS}
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')"
    )
    for kind, name, sql in rows.fetchall():
        if kind == "view" and ours.get(name) == sql:
            continue
        raise StoreDamaged(
            f"{path} has a {kind} {str(name)!r} that dagger_dsl did not make; "
            f"check where the file comes from, then DROP {kind.upper()} it"
        )


def quick_check(connection: sqlite3.Connection, path: str) -> StoreDamaged | None:
    """Return what is wrong inside of a file; reads all of it."""
    found = _faults(connection, 3)
    if any(map(_NO_FAULT.fullmatch, found)):  # which may hide others
        found = [row for row in _faults(connection, 1_000_000) if not _NO_FAULT.fullmatch(row)][:3]
    if not found:
        return None
    return StoreDamaged(
        f"{path} is damaged ({'; '.join(found)}); restore a backup, or recover it with "
        "the sqlite3 shell's .recover into a new file"
    )


#: What SQLite before 3.41 says of this table, whose key has another order than its columns.
_NO_FAULT: Final = re.compile(r"NULL value in artifact_links\.\w+")


def _faults(connection: sqlite3.Connection, most: int) -> list[str]:
    rows = connection.execute(f"PRAGMA quick_check({most})").fetchall()
    return [] if rows == [("ok",)] else [str(row[0]) for row in rows]


def _to_2(connection: sa.Connection) -> None:
    """Requests from other processes, more about shared results, two kinds of snapshots."""
    # Spelled out: `schema` will go on to say what the newest version has.
    then = sa.MetaData()
    inbox = sa.Table(
        "inbox",
        then,
        sa.Column("command_id", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("sender", sa.Text),
        sa.Column(
            "created_at",
            schema.UtcDateTime,
            nullable=False,
            server_default=sa.func.current_timestamp(),
        ),
        sa.Index("ix_inbox_run_id", "run_id", "command_id"),
    )
    inbox.create(connection, checkfirst=False)
    for name in ("version", "input_hash", "run_id", "node_id"):
        connection.exec_driver_sql(f"ALTER TABLE memo ADD COLUMN {name} TEXT DEFAULT '' NOT NULL")
    connection.exec_driver_sql("CREATE INDEX ix_memo_action ON memo (action, created_at)")
    connection.exec_driver_sql(
        "CREATE INDEX ix_memo_artifact_id ON memo (artifact_id) WHERE artifact_id IS NOT NULL"
    )
    connection.exec_driver_sql(
        "ALTER TABLE snapshots ADD COLUMN kind TEXT DEFAULT 'cache' NOT NULL "
        "CONSTRAINT ck_kind CHECK (kind = 'cache' OR kind = 'execution')"
    )


def _to_3(connection: sa.Connection) -> None:
    """Jobs, what tasks were missing, and what agents share."""
    then = sa.MetaData()
    now = sa.func.current_timestamp()
    states = ("created", "running", "completed", "failed", "cancelled")
    sa.Table(
        "jobs",
        then,
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("unfinished", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("allowed_agents", sa.Text),
        sa.Column("config", sa.Text),
        sa.Column("deadline", sa.Double),
        sa.Column("active_at", sa.Double, nullable=False, server_default="0"),
        sa.Column("stalled_at", sa.Double),
        sa.Column("error", sa.Text),
        sa.Column("created_at", schema.UtcDateTime, nullable=False, server_default=now),
        sa.Column("updated_at", schema.UtcDateTime, nullable=False, server_default=now),
        sa.CheckConstraint(" OR ".join(f"status = '{each}'" for each in states), name="ck_status"),
        sa.Index("ix_jobs_status", "status"),
    )
    sa.Table(
        "task_links",
        then,
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("needs_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("task_id", "needs_id"),
        sa.Index("ix_task_links_needs_id", "needs_id"),
        sqlite_with_rowid=False,
    )
    sa.Table(
        "task_events",
        then,
        sa.Column("event_id", sa.Integer, primary_key=True),
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("cause", sa.Text, nullable=False, server_default=""),
        sa.Column("worker", sa.Text, nullable=False, server_default=""),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Index("ix_task_events_task_id", "task_id"),
    )
    sa.Table(
        "job_waits",
        then,
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("invocation_key", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "run_id", "node_id", "invocation_key"),
        sqlite_with_rowid=False,
    )
    sa.Table(
        "agent_starts",
        then,
        sa.Column("start_id", sa.Integer, primary_key=True),
        sa.Column("agent_type", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Index("ix_agent_starts_agent_type", "agent_type", "at"),
    )
    sa.Table(
        "shared_values",
        then,
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("entry_key", sa.Text, nullable=False),
        sa.Column("value", sa.Text),
        sa.Column("artifact_id", sa.Text),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.PrimaryKeyConstraint("scope", "entry_key"),
        sqlite_with_rowid=False,
    )
    then.create_all(connection, checkfirst=False)
    for column in (
        "payload_artifact_id TEXT",
        "result_artifact_id TEXT",
        "spec TEXT",
        "effects TEXT DEFAULT 'at_least_once' NOT NULL",
        "retries INTEGER DEFAULT '0' NOT NULL",
        "waits INTEGER DEFAULT '0' NOT NULL",
        "runs_anyway INTEGER DEFAULT '0' NOT NULL",
        "lane TEXT",
        "due_at DOUBLE",
        "started_at DOUBLE",
        "finished_at DOUBLE",
    ):
        double = "DOUBLE PRECISION" if connection.dialect.name == "postgresql" else "DOUBLE"
        connection.exec_driver_sql(
            f"ALTER TABLE tasks ADD COLUMN {column.replace('DOUBLE', double)}"
        )
    for index in (
        "ix_tasks_ready ON tasks (agent_type, priority DESC, task_id) WHERE status = 'ready'",
        "ix_tasks_due_at ON tasks (due_at) WHERE due_at IS NOT NULL",
        "ix_tasks_owner ON tasks (owner) WHERE owner IS NOT NULL",
    ):
        connection.exec_driver_sql(f"CREATE INDEX {index}")


def _to_4(connection: sa.Connection) -> None:
    """Who is given messages, how far that is, and what messages were missing."""
    then = sa.MetaData()
    sa.Table(
        "subscriptions",
        then,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("patterns", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("owner", sa.Text),
        sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),
        sa.Column("beat", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column(
            "created_at",
            schema.UtcDateTime,
            nullable=False,
            server_default=sa.func.current_timestamp(),
        ),
        sqlite_with_rowid=False,
    )
    states = ("done", "retry", "dead")
    sa.Table(
        "deliveries",
        then,
        sa.Column("subscription", sa.Text, nullable=False),
        sa.Column("message_id", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due_at", sa.Double),
        sa.Column("error", sa.Text),
        sa.Column("at", sa.Double, nullable=False, server_default="0"),
        sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("subscription", "message_id"),
        sa.CheckConstraint(" OR ".join(f"state = '{each}'" for each in states), name="ck_state"),
        sa.Index("ix_deliveries_state", "subscription", "state"),
        sqlite_with_rowid=False,
    )
    then.create_all(connection, checkfirst=False)
    double = "DOUBLE PRECISION" if connection.dialect.name == "postgresql" else "DOUBLE"
    for column in (
        "public_id TEXT",
        "artifact_id TEXT",
        "task_id TEXT",
        "cause_id TEXT",
        f"published_at {double}",
    ):
        connection.exec_driver_sql(f"ALTER TABLE messages ADD COLUMN {column}")
    for index in (
        "UNIQUE INDEX ix_messages_public_id ON messages (public_id)",
        "INDEX ix_messages_artifact_id ON messages (artifact_id) WHERE artifact_id IS NOT NULL",
    ):
        connection.exec_driver_sql(f"CREATE {index}")


def _to_5(connection: sa.Connection) -> None:
    """What tasks ask people, what is done about a stall, how many tasks a job may have.

    And ready tasks with a lane are found by the lane.
    """
    then = sa.MetaData()
    sa.Table(
        "task_questions",
        then,
        sa.Column("task_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("question", sa.Text, nullable=False, server_default=""),
        sa.Column("answer_schema", sa.Text),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("artifact_id", sa.Text),
        sa.Column("answered_by", sa.Text, nullable=False, server_default=""),
        sa.Column("answered_at", sa.Double),
        sa.PrimaryKeyConstraint("task_id", "position"),
        sqlite_with_rowid=False,
    )
    then.create_all(connection, checkfirst=False)
    double = "DOUBLE PRECISION" if connection.dialect.name == "postgresql" else "DOUBLE"
    for column in (
        "task_count INTEGER DEFAULT '0' NOT NULL",
        "max_tasks INTEGER",
        f"heartbeat_interval {double}",
        "stall_action TEXT",
    ):
        connection.exec_driver_sql(f"ALTER TABLE jobs ADD COLUMN {column}")
    connection.exec_driver_sql(
        "UPDATE jobs SET task_count = (SELECT count(*) FROM tasks WHERE tasks.job_id = jobs.job_id)"
    )
    connection.exec_driver_sql("DROP INDEX ix_tasks_ready")
    ordered = "tasks (agent_type, priority DESC, task_id)"
    covering = "tasks (agent_type, priority DESC, task_id, lane)"
    by_lane = "tasks (agent_type, lane, priority DESC, task_id)"
    laned = "lane IS NOT NULL"
    for index in (
        f"ix_tasks_ready ON {ordered} WHERE status = 'ready' AND lane IS NULL",
        f"ix_tasks_ready_laned ON {covering} WHERE status = 'ready' AND {laned}",
        f"ix_tasks_ready_lane ON {by_lane} WHERE status = 'ready' AND {laned}",
        f"ix_tasks_held_lane ON tasks (lane) WHERE status = 'running' AND {laned}",
    ):
        connection.exec_driver_sql(f"CREATE INDEX {index}")
    if connection.dialect.name == "sqlite":  # whose planner believes what it finds here
        connection.exec_driver_sql(
            "INSERT INTO sqlite_stat1 (tbl, idx, stat) "
            "SELECT 'tasks', 'ix_tasks_status_priority', '100000 50000 10000' WHERE NOT EXISTS "
            "(SELECT 1 FROM sqlite_stat1 WHERE idx = 'ix_tasks_status_priority')"
        )


def _to_6(connection: sa.Connection) -> None:
    """What came of a message is found by that message's id."""
    connection.exec_driver_sql(
        "CREATE INDEX ix_messages_cause_id ON messages (cause_id) WHERE cause_id IS NOT NULL"
    )


def _to_7(connection: sa.Connection) -> None:
    """The task that waits for a run is found by that."""
    connection.exec_driver_sql(
        "CREATE INDEX ix_tasks_run_id ON tasks (run_id) WHERE status = 'blocked'"
    )


#: `{version: step}`: what brings a schema to *version* from the one before it.
MIGRATIONS: dict[int, Callable[[sa.Connection], None]] = {
    2: _to_2,
    3: _to_3,
    4: _to_4,
    5: _to_5,
    6: _to_6,
    7: _to_7,
}


def create(connection: sa.Connection) -> None:
    """Create or migrate the schema inside the transaction that is open."""
    sqlite = connection.dialect.name == "sqlite"
    if connection.dialect.name == "postgresql":  # two processes may come at once
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(schema.APPLICATION_ID)))
    version = _version(connection, sqlite)
    if version == schema.SCHEMA_VERSION:
        return
    if version > schema.SCHEMA_VERSION:
        raise StoreVersionError(
            f"the database has schema {version}, and this dagger_dsl reads up to "
            f"{schema.SCHEMA_VERSION}; install a newer release"
        )
    if version == 0:
        for text in _definitions(connection.dialect.name):
            connection.exec_driver_sql(text)
        if sqlite:
            connection.exec_driver_sql("ANALYZE")  # makes the table
            connection.exec_driver_sql(
                "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)",
                list(schema.STATISTICS),
            )
    else:
        for step in range(version + 1, schema.SCHEMA_VERSION + 1):
            MIGRATIONS[step](connection)
    _write_version(connection, sqlite)


@functools.cache
def _definitions(dialect: str) -> list[str]:
    """Return the statements that make the schema; compiling them takes longer than executing."""
    kind: sa.Dialect = (
        DIALECT if dialect == "sqlite" else sa.make_url(f"{dialect}://").get_dialect()()
    )
    made: list[sa.schema.ExecutableDDLElement] = []
    for table in schema.METADATA.sorted_tables:
        if kind.name == "postgresql":
            # Said here: as an argument of an index it would load that dialect in every process.
            for index in table.indexes:
                index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"][
                    "where"
                ]
        made.append(sa.schema.CreateTable(table))
        # In one order: of two indexes that seem as good, SQLite takes the one that was made last.
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        made += [sa.schema.CreateIndex(index) for index in indexes]
    views = [schema.create_view(name) for name in schema.VIEWS]
    return [*(str(each.compile(dialect=kind)) for each in made), *views]


def _version(connection: sa.Connection, sqlite: bool) -> int:
    if sqlite:
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if not sa.inspect(connection).has_table(schema.meta.name):
        return 0
    value = connection.scalar(
        sa.select(schema.meta.c.value).where(schema.meta.c.name == "schema_version")
    )
    return int(value or 0)


def _write_version(connection: sa.Connection, sqlite: bool) -> None:
    facts = {
        "schema_version": str(schema.SCHEMA_VERSION),
        "needs": schema.READS[schema.SCHEMA_VERSION],
    }
    connection.execute(sa.delete(schema.meta).where(schema.meta.c.name.in_(facts)))
    connection.execute(
        sa.insert(schema.meta), [{"name": name, "value": value} for name, value in facts.items()]
    )
    if sqlite:
        connection.exec_driver_sql(f"PRAGMA application_id={schema.APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version={schema.SCHEMA_VERSION}")
