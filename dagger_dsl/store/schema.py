"""Every table, index and view of a database, in one `MetaData`, and what its rows mean.

Nothing here is special to SQLite but hints that other databases pass over, so the same definitions
make a PostgreSQL schema. Texts called JSON hold what the codec
wrote: plain JSON in which tagged objects stand for other types. Times of day are UTC and for
people. Nothing about a running run is decided by them; only which of several runs or snapshots is
the newest, which ones are old, and when a shared result expires.

How runs are kept:

* `flow_runs` has a row a run. `owner`, `epoch` and `beat` say who may write into it: every write
  carries the epoch in its condition, a takeover raises it, and a living owner raises the beat.
  `owned_seconds` is how long the run was owned since it last came to an end, as of the last beat.
* `node_runs` has a row an attempt, written when the attempt has ended; attempt 0 is an end without
  a call, such as a skip, and is replaced by a later one. The row of an attempt that waits for a
  person says ``waiting`` until another takes its place, with a `seq` of its own, at its end. `seq`
  rises by one with each row and each `run_log` entry of a run, so it gives their order. `released`
  on the first row of a commit lists the slots that were started by it. `input_hash` is there for
  nodes whose results are shared between runs.
* `run_log` holds what is not an outcome. Entries of kind ``released`` list the slots that a commit
  without rows started; those with the key ``ack:<seq>`` say besides that the hooks were shown
  everything up to there, and may list no slot. Entries of kind ``command`` are what a replay of the
  run needs; ``inbox:<command_id>`` says what became of a request.
* `inbox` has the requests that other processes make to a run: appended by anybody, never changed,
  numbered in the order in which they can be seen.
* `cache_entries` has the newest values of a run's cache.

What outlives a run:

* `memo` has results that runs share, by a key that stands for an action's version and its inputs;
  `run_id` and `node_id` say where a result comes from, and need not exist any more.
* `snapshots` has whole mappings as they were at one moment: of kind ``cache`` the values of a run,
  of kind ``execution`` where it stood.
* `artifacts` has each large value once, by its hash. It is kept as long as a row refers to it.

How tasks are kept:

* `jobs` has a row a job: how many of its tasks are unfinished, and how many have failed, so that
  the last one that ends also ends the job. `active_at` is when something of it last changed.
* `tasks` has a row a task. `owner` is the worker that has claimed it; every write of a worker
  carries the `version` that its claim made, so a late one is refused. `waits` is the number of
  tasks that it still waits for, `due_at` (seconds since 1970) when a task that is pending becomes
  ready by itself, and `spec` has what nothing is looked up by. Of the tasks of a `lane` one
  runs at a time.
* `task_links` says which tasks a task needs, and `task_events` has each change of a status.
* `job_waits` says which nodes of runs wait for a job; the transaction that ends it moves them to
  the `inbox` of their runs.
* `shared_values` is what agents share: newest values by scope and key.

How messages are kept:

* `messages` has a row a message, numbered in the order in which they can be seen. The last one is
  never removed, as SQLite would give its number away again. `published_at` is in seconds since
  1970, `cause_id` the public id of the message during which it was published.
* `subscriptions` has a row an agent. Everything up to `position` is settled for it, or has a row in
  `deliveries`. `owner` is the worker whose process gives it messages; every write of that one
  carries the `epoch` that its claim made, and a living one raises the beat.
* `deliveries` has what is not said by a position: messages beyond it that are ``done``, those that
  wait to be given again (``retry``, with how many calls have failed and when it is due, in seconds
  since 1970), and those that were given up (``dead``). `deaths` counts the processes that died
  while they handled it, as far as that was looked at.
"""

from __future__ import annotations

import datetime as dt
import math
import sys
from typing import Any, Final

import sqlalchemy as sa

__all__ = [
    "APPLICATION_ID",
    "DELIVERY_STATES",
    "FINISHED",
    "JOB_STATES",
    "LOCATIONS",
    "METADATA",
    "NEVER",
    "NODE_STATES",
    "READS",
    "RUN_STATES",
    "SCHEMA_VERSION",
    "SNAPSHOT_KINDS",
    "STATISTICS",
    "UNSURE",
    "VIEWS",
    "UtcDateTime",
    "artifact_links",
    "artifacts",
    "cache_entries",
    "create_view",
    "deliveries",
    "execution_state",
    "execution_trees",
    "flow_runs",
    "inbox",
    "job_waits",
    "jobs",
    "memo",
    "messages",
    "meta",
    "node_runs",
    "run_log",
    "shared_values",
    "snapshots",
    "subscriptions",
    "task_events",
    "task_links",
    "task_questions",
    "tasks",
]

#: The four bytes that mark a file as ours: "dgds".
APPLICATION_ID: Final = 0x64676473

#: The schema that this code reads and writes.
SCHEMA_VERSION: Final = 7

#: The oldest release that reads each schema version; a newer file names its own in `meta`.
READS: Final = {1: "0.1.0", 2: "0.1.0", 3: "0.1.0", 4: "0.1.0", 5: "0.1.0", 6: "0.1.0", 7: "0.1.0"}

#: When a task is due that a person has to decide on, whatever becomes of what it needs.
NEVER: Final = math.inf
#: The same where nobody knows what its last call has done, and it may be called at most once: no
#: answer lets it go on.
UNSURE: Final = sys.float_info.max

RUN_STATES: Final = ("running", "paused", "completed", "failed", "cancelled", "timed_out")
FINISHED: Final = ("completed", "failed", "cancelled", "timed_out")
NODE_STATES: Final = (  # the most frequent ones first, as each row is compared with them in turn
    "completed",
    "skipped",
    "failed",
    "cancelled",
    "pending",
    "running",
    "waiting",
)
LOCATIONS: Final = ("inline", "file")
SNAPSHOT_KINDS: Final = ("cache", "execution")
JOB_STATES: Final = ("created", "running", "completed", "failed", "cancelled")
DELIVERY_STATES: Final = ("done", "retry", "dead")

#: What SQLite's planner shall believe before anybody runs ANALYZE: rows in all, then rows a value
#: of the first column, of the first two...; else it prefers the primary key to any index.
STATISTICS: Final = (
    ("node_runs", "node_runs", "100000 1000 2 1 1"),
    ("node_runs", "ix_node_runs_run_id_state", "5000 50 5"),
    # Many tasks have one status: what else is asked for tells them apart better.
    ("tasks", "ix_tasks_status_priority", "100000 50000 10000"),
)

METADATA = sa.MetaData()


class UtcDateTime(sa.types.TypeDecorator[dt.datetime]):
    """A moment in UTC; aware in Python, whatever the database keeps."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> Any:
        """Turn any aware moment into UTC."""
        return None if value is None else value.astimezone(dt.UTC)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> dt.datetime | None:
        """Say of naive moments that they are UTC."""
        if value is None:
            return None
        known: dt.datetime = value
        return known.replace(tzinfo=dt.UTC) if known.tzinfo is None else known.astimezone(dt.UTC)


def _any_of(column: str, values: tuple[str, ...]) -> str:
    # Not IN: for each row SQLite builds a table of a list's values, which costs 2 us; and it sees
    # that one comparison implies a chain of them, so that a partial index can be used.
    return " OR ".join(f"{column} = '{value}'" for value in values)


def _one_of(column: str, values: tuple[str, ...]) -> sa.CheckConstraint:
    return sa.CheckConstraint(_any_of(column, values), name=f"ck_{column}")


def _now(name: str = "created_at") -> sa.Column[dt.datetime]:
    return sa.Column(name, UtcDateTime, nullable=False, server_default=sa.func.current_timestamp())


meta = sa.Table(
    "meta",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

flow_runs = sa.Table(
    "flow_runs",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("flow_name", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="1"),
    sa.Column("beat", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("owner", sa.Text),
    sa.Column("lease_expires_at", UtcDateTime),
    sa.Column("owned_seconds", sa.Double, nullable=False, server_default="0"),
    _now(),
    _now("updated_at"),
    sa.Column("parent_run_id", sa.Text),
    sa.Column("idempotency_key", sa.Text, unique=True),
    sa.Column("fingerprint", sa.Text, nullable=False, server_default=""),
    sa.Column("version", sa.Text, nullable=False, server_default=""),
    sa.Column("error", sa.Text),
    sa.Column("crashes", sa.Text),
    sa.Column("config", sa.Text),
    sa.Column("inputs", sa.Text),
    sa.Column("inputs_artifact_id", sa.Text),
    sa.Column("graph", sa.Text, nullable=False),
    _one_of("status", RUN_STATES),
    sa.Index("ix_flow_runs_flow_name_status", "flow_name", "status"),
    sa.Index("ix_flow_runs_created_at", "created_at"),
)

node_runs = sa.Table(
    "node_runs",
    METADATA,
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("node_id", sa.Text, nullable=False),
    sa.Column("invocation_key", sa.Text, nullable=False, server_default="default"),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("output", sa.Text),
    sa.Column("output_artifact_id", sa.Text),
    sa.Column("input_hash", sa.Text),
    sa.Column("started_at", sa.Double),  # seconds since 1970: made and read on the hot path
    sa.Column("duration_ms", sa.Double),
    sa.Column("error", sa.Text),
    sa.Column("meta", sa.Text),
    sa.Column("released", sa.Text),
    sa.PrimaryKeyConstraint("run_id", "node_id", "invocation_key", "attempt"),
    _one_of("state", NODE_STATES),
    sa.CheckConstraint("attempt >= 0", name="ck_attempt"),
    # Without the state that nearly all rows have: the primary key finds those as well, and a
    # commit writes one page less.
    sa.Index(
        "ix_node_runs_run_id_state",
        "run_id",
        "state",
        sqlite_where=sa.text(_any_of("state", NODE_STATES[1:])),
    ),
    sa.Index(
        "ix_node_runs_output_artifact_id",
        "output_artifact_id",
        sqlite_where=sa.text("output_artifact_id IS NOT NULL"),
    ),
    # One B-tree instead of two: a commit then writes one page less.
    sqlite_with_rowid=False,
)

run_log = sa.Table(
    "run_log",
    METADATA,
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("entry_key", sa.Text),
    sa.Column("body", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("run_id", "seq"),
    sa.UniqueConstraint("run_id", "entry_key", name="uq_run_log_entry_key"),
    _one_of("kind", ("released", "command")),
    sqlite_with_rowid=False,
)

inbox = sa.Table(
    "inbox",
    METADATA,
    # INTEGER, not BIGINT: SQLite numbers only a column of exactly this type by itself.
    sa.Column("command_id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("sender", sa.Text),
    _now(),
    sa.Index("ix_inbox_run_id", "run_id", "command_id"),
)

artifacts = sa.Table(
    "artifacts",
    METADATA,
    sa.Column("artifact_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("storage_location", sa.Text, nullable=False),
    sa.Column("inline_data", sa.LargeBinary),
    sa.Column("file_path", sa.Text),  # relative to the artifact folder: ab/ab12...
    _now(),
    _one_of("storage_location", LOCATIONS),
    sa.CheckConstraint(
        "(storage_location = 'inline') = (inline_data IS NOT NULL)", name="ck_inline_data"
    ),
    sa.CheckConstraint("length(artifact_id) = 64", name="ck_artifact_id"),
)

artifact_links = sa.Table(
    "artifact_links",
    METADATA,
    sa.Column("artifact_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("node_id", sa.Text, nullable=False, server_default=""),
    sa.PrimaryKeyConstraint("run_id", "node_id", "artifact_id"),
    sqlite_with_rowid=False,
)

cache_entries = sa.Table(
    "cache_entries",
    METADATA,
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("namespace", sa.Text, nullable=False),
    sa.Column("entry_key", sa.Text, nullable=False),
    sa.Column("value", sa.Text),
    sa.Column("artifact_id", sa.Text),
    _now("updated_at"),
    sa.PrimaryKeyConstraint("run_id", "namespace", "entry_key"),
    sqlite_with_rowid=False,
)

memo = sa.Table(
    "memo",
    METADATA,
    sa.Column("memo_key", sa.Text, primary_key=True),
    sa.Column("action", sa.Text, nullable=False, server_default=""),
    sa.Column("value", sa.Text),
    sa.Column("artifact_id", sa.Text),
    _now(),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("version", sa.Text, nullable=False, server_default=""),
    sa.Column("input_hash", sa.Text, nullable=False, server_default=""),
    sa.Column("run_id", sa.Text, nullable=False, server_default=""),
    sa.Column("node_id", sa.Text, nullable=False, server_default=""),
    sa.Index("ix_memo_action", "action", "created_at"),
    sa.Index("ix_memo_artifact_id", "artifact_id", sqlite_where=sa.text("artifact_id IS NOT NULL")),
)

snapshots = sa.Table(
    "snapshots",
    METADATA,
    sa.Column("snapshot_id", sa.Text, primary_key=True),
    sa.Column("flow_name", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text),
    sa.Column("value", sa.Text),
    sa.Column("artifact_id", sa.Text),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    _now(),
    sa.Column("kind", sa.Text, nullable=False, server_default="cache"),
    _one_of("kind", SNAPSHOT_KINDS),
    sa.Index("ix_snapshots_flow_name", "flow_name", "created_at"),
)

jobs = sa.Table(
    "jobs",
    METADATA,
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
    _now(),
    _now("updated_at"),
    # Here, not in the order of sense: a migration adds columns at the end.
    sa.Column("task_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_tasks", sa.Integer),
    sa.Column("heartbeat_interval", sa.Double),
    sa.Column("stall_action", sa.Text),
    _one_of("status", JOB_STATES),
    sa.Index("ix_jobs_status", "status"),
)

tasks = sa.Table(
    "tasks",
    METADATA,
    sa.Column("task_id", sa.Integer, primary_key=True),
    sa.Column("public_id", sa.Text, unique=True),
    sa.Column("job_id", sa.Text),
    sa.Column("parent_id", sa.Text),
    sa.Column("run_id", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("agent_type", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("payload", sa.LargeBinary),
    sa.Column("result", sa.LargeBinary),
    sa.Column("error", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("owner", sa.Text),
    sa.Column("beat", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("lease_expires_at", UtcDateTime),
    sa.Column("version", sa.Integer, nullable=False, server_default="0"),
    _now(),
    _now("updated_at"),
    # Here, not in the order of sense: a migration adds columns at the end.
    sa.Column("payload_artifact_id", sa.Text),
    sa.Column("result_artifact_id", sa.Text),
    sa.Column("spec", sa.Text),
    sa.Column("effects", sa.Text, nullable=False, server_default="at_least_once"),
    sa.Column("retries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("waits", sa.Integer, nullable=False, server_default="0"),
    sa.Column("runs_anyway", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lane", sa.Text),
    sa.Column("due_at", sa.Double),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Index("ix_tasks_status_priority", "status", "priority"),
    sa.Index("ix_tasks_job_id", "job_id"),
    # What a claim reads, in the order in which it takes: among 100,000 that wait, too. Tasks with a
    # lane have indexes of their own, so that those of lanes that are not free are in nobody's way.
    *(
        sa.Index(
            name,
            *(
                sa.column(each).desc() if each == "priority" else sa.column(each)
                for each in columns
            ),
            sqlite_where=sa.text(where),
        )
        for name, columns, where in (
            (
                "ix_tasks_ready",
                ("agent_type", "priority", "task_id"),
                "status = 'ready' AND lane IS NULL",
            ),
            (
                "ix_tasks_ready_laned",
                ("agent_type", "priority", "task_id", "lane"),
                "status = 'ready' AND lane IS NOT NULL",
            ),
            (
                "ix_tasks_ready_lane",
                ("agent_type", "lane", "priority", "task_id"),
                "status = 'ready' AND lane IS NOT NULL",
            ),
            ("ix_tasks_held_lane", ("lane",), "status = 'running' AND lane IS NOT NULL"),
        )
    ),
    sa.Index("ix_tasks_due_at", "due_at", sqlite_where=sa.text("due_at IS NOT NULL")),
    sa.Index("ix_tasks_owner", "owner", sqlite_where=sa.text("owner IS NOT NULL")),
    sa.Index("ix_tasks_run_id", "run_id", sqlite_where=sa.text("status = 'blocked'")),
)


task_links = sa.Table(
    "task_links",
    METADATA,
    # The key comes first: the checks of older SQLites find NULL in a column between its parts.
    sa.Column("task_id", sa.Integer, nullable=False),
    sa.Column("needs_id", sa.Integer, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.PrimaryKeyConstraint("task_id", "needs_id"),
    sa.Index("ix_task_links_needs_id", "needs_id"),
    sqlite_with_rowid=False,
)

task_events = sa.Table(
    "task_events",
    METADATA,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("task_id", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("cause", sa.Text, nullable=False, server_default=""),
    sa.Column("worker", sa.Text, nullable=False, server_default=""),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_task_events_task_id", "task_id"),
)

#: What tasks ask people, and what they are answered.
task_questions = sa.Table(
    "task_questions",
    METADATA,
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

job_waits = sa.Table(
    "job_waits",
    METADATA,
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("node_id", sa.Text, nullable=False),
    sa.Column("invocation_key", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("job_id", "run_id", "node_id", "invocation_key"),
    sqlite_with_rowid=False,
)

#: When the newest tasks of agents began whose rate is limited.
agent_starts = sa.Table(
    "agent_starts",
    METADATA,
    sa.Column("start_id", sa.Integer, primary_key=True),
    sa.Column("agent_type", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Index("ix_agent_starts_agent_type", "agent_type", "at"),
)

shared_values = sa.Table(
    "shared_values",
    METADATA,
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("entry_key", sa.Text, nullable=False),
    sa.Column("value", sa.Text),
    sa.Column("artifact_id", sa.Text),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.PrimaryKeyConstraint("scope", "entry_key"),
    sqlite_with_rowid=False,
)

messages = sa.Table(
    "messages",
    METADATA,
    sa.Column("message_id", sa.Integer, primary_key=True),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("message_key", sa.Text, nullable=False, server_default=""),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("publisher", sa.Text),
    sa.Column("run_id", sa.Text),
    _now(),
    # Here, not in the order of sense: a migration adds columns at the end.
    sa.Column("public_id", sa.Text),
    sa.Column("artifact_id", sa.Text),
    sa.Column("task_id", sa.Text),
    sa.Column("cause_id", sa.Text),
    sa.Column("published_at", sa.Double),
    sa.Index("ix_messages_channel", "channel", "message_id"),
    sa.Index("ix_messages_public_id", "public_id", unique=True),
    sa.Index(
        "ix_messages_artifact_id", "artifact_id", sqlite_where=sa.text("artifact_id IS NOT NULL")
    ),
    sa.Index("ix_messages_cause_id", "cause_id", sqlite_where=sa.text("cause_id IS NOT NULL")),
)

subscriptions = sa.Table(
    "subscriptions",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("patterns", sa.Text, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("owner", sa.Text),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),
    sa.Column("beat", sa.BigInteger, nullable=False, server_default="0"),
    _now(),
    sqlite_with_rowid=False,
)

deliveries = sa.Table(
    "deliveries",
    METADATA,
    sa.Column("subscription", sa.Text, nullable=False),
    sa.Column("message_id", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("due_at", sa.Double),
    sa.Column("error", sa.Text),
    sa.Column("at", sa.Double, nullable=False, server_default="0"),
    sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
    sa.PrimaryKeyConstraint("subscription", "message_id"),
    _one_of("state", DELIVERY_STATES),
    sa.Index("ix_deliveries_state", "subscription", "state"),
    sqlite_with_rowid=False,
)


#: Document 001's tables that are questions here; SQL that every database understands.
#: `execution_trees` has a row for each node of each run that was called, its latest attempt;
#: `execution_state` has the runs that are not over, ``active`` while a process owns them (or died
#: owning them) and ``pending`` otherwise.
VIEWS: Final = {
    "execution_trees": """
        SELECT f.flow_name, n.run_id, n.seq, n.node_id, n.invocation_key, n.attempt, n.state,
            n.started_at, n.duration_ms, n.error
        FROM node_runs AS n JOIN flow_runs AS f ON f.run_id = n.run_id
        WHERE n.attempt > 0 AND NOT EXISTS (
            SELECT 1 FROM node_runs AS later
            WHERE later.run_id = n.run_id AND later.node_id = n.node_id
                AND later.invocation_key = n.invocation_key AND later.attempt > n.attempt)
    """,
    "execution_state": f"""
        SELECT flow_name, run_id, CASE WHEN owner IS NULL THEN 'pending' ELSE 'active' END AS state,
            status, epoch, owner, created_at, updated_at
        FROM flow_runs
        WHERE NOT ({_any_of("status", FINISHED)})
    """,
}


def _columns(table: sa.Table, *names: str) -> list[sa.ColumnClause[Any]]:
    return [sa.column(name, table.c[name].type) for name in names]


execution_trees = sa.table(
    "execution_trees",
    sa.column("flow_name", sa.Text),
    *_columns(
        node_runs,
        "run_id",
        "seq",
        "node_id",
        "invocation_key",
        "attempt",
        "state",
        "started_at",
        "duration_ms",
        "error",
    ),
)

execution_state = sa.table(
    "execution_state",
    sa.column("state", sa.Text),
    *_columns(
        flow_runs, "flow_name", "run_id", "status", "epoch", "owner", "created_at", "updated_at"
    ),
)


def create_view(name: str) -> str:
    """Return the statement that makes a view; on one line, as a check compares it."""
    return f"CREATE VIEW {name} AS {' '.join(VIEWS[name].split())}"
