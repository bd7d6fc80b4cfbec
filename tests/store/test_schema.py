"""The tables: their columns, rules and indexes, and that PostgreSQL would take them."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.store import batches, job_watch, migrations, schema, task_statements
from dagger_dsl.store.migrations import quick_check
from dagger_dsl.store.storage import Store
from dagger_dsl.store.transactions import Statement
from tests.store.helpers import row, start


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store on a file."""
    with Store(tmp_path / "schema.db") as made:
        yield made


def columns(store: Store, table: str) -> dict[str, dict[str, object]]:
    """Return what the database itself says of a table's columns."""
    found = sa.inspect(store.engine).get_columns(table)
    return {each["name"]: dict(each) for each in found}


@pytest.mark.row("P1")
def test_flow_runs_has_the_documents_columns_and_ours(store: Store) -> None:
    found = columns(store, "flow_runs")
    wanted = """run_id flow_name status config created_at updated_at inputs graph version error
        parent_run_id owner epoch beat lease_expires_at idempotency_key"""
    assert set(wanted.split()) <= set(found)
    assert found["run_id"]["primary_key"] == 1
    for name in ("flow_name", "status", "created_at"):
        assert not found[name]["nullable"]
    assert found["created_at"]["default"] == "CURRENT_TIMESTAMP"


@pytest.mark.row("P2")
def test_node_runs_has_the_documents_columns_and_defaults(store: Store) -> None:
    found = columns(store, "node_runs")
    wanted = """run_id node_id invocation_key attempt state input_hash output output_artifact_id
        started_at duration_ms error meta released seq"""
    assert set(wanted.split()) <= set(found)
    start(store).close()
    with store.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO node_runs (run_id, node_id, state) VALUES ('r', 'a', 'completed')"
        )
    (only,) = store.query("SELECT invocation_key, attempt FROM node_runs")
    assert only == {"invocation_key": "default", "attempt": 1}


@pytest.mark.row("P3")
def test_an_attempt_is_recorded_once(store: Store) -> None:
    key = sa.inspect(store.engine).get_pk_constraint("node_runs")["constrained_columns"]
    assert key == ["run_id", "node_id", "invocation_key", "attempt"]
    insert = "INSERT INTO node_runs (run_id, node_id, state) VALUES ('r', 'a', 'completed')"
    with store.writing() as connection:
        connection.exec_driver_sql(insert)
    with pytest.raises(sa.exc.IntegrityError), store.writing() as connection:
        connection.exec_driver_sql(insert)


@pytest.mark.row("P4")
@pytest.mark.parametrize(
    ("location", "data"), [("elsewhere", b"x"), ("inline", None), ("file", b"x")]
)
def test_an_artifact_is_in_one_place_of_two(
    store: Store, location: str, data: bytes | None
) -> None:
    wanted = {
        "artifact_id",
        "kind",
        "size_bytes",
        "storage_location",
        "inline_data",
        "file_path",
        "created_at",
    }
    assert set(columns(store, "artifacts")) == wanted
    values = {
        "artifact_id": "a" * 64,
        "kind": "json",
        "size_bytes": 1,
        "storage_location": location,
        "inline_data": data,
    }
    with pytest.raises(sa.exc.IntegrityError), store.writing() as connection:
        connection.execute(sa.insert(schema.artifacts), values)


@pytest.mark.row("P5")
def test_tasks_number_themselves(store: Store) -> None:
    wanted = "task_id status agent_type priority payload lease_expires_at version public_id job_id"
    assert set(wanted.split()) <= set(columns(store, "tasks"))
    with store.writing() as connection:
        for _ in range(2):
            connection.execute(sa.insert(schema.tasks), {"status": "ready", "agent_type": "x"})
    rows = store.query("SELECT task_id, priority, version FROM tasks")
    assert rows == [{"task_id": n, "priority": 0, "version": 0} for n in (1, 2)]


@pytest.mark.row("P6", "P7")
def test_everything_is_there_after_the_first_opening(store: Store) -> None:
    inspector = sa.inspect(store.engine)
    names = set(inspector.get_table_names()) | set(inspector.get_view_names())
    wanted = """flow_runs node_runs artifacts tasks cache_entries execution_trees execution_state
        snapshots memo messages meta run_log artifact_links inbox jobs job_waits task_links
        task_events task_questions agent_starts shared_values subscriptions
        deliveries"""
    assert names == set(wanted.split())


@pytest.mark.row("P1", "P2")
def test_states_are_those_of_the_model() -> None:
    assert set(schema.RUN_STATES) == set(RunStatus)
    assert set(schema.NODE_STATES) == set(NodeState)


def test_unknown_states_are_refused(store: Store) -> None:
    start(store).close()
    for statement in (
        "UPDATE flow_runs SET status = 'dreaming'",
        "INSERT INTO node_runs (run_id, node_id, state) VALUES ('r', 'a', 'dreaming')",
        "INSERT INTO node_runs (run_id, node_id, state, attempt) VALUES ('r', 'a', 'failed', -1)",
    ):
        with pytest.raises(sa.exc.IntegrityError), store.writing() as connection:
            connection.exec_driver_sql(statement)


@pytest.mark.row("P16")
@pytest.mark.parametrize(
    ("query", "index"),
    [
        (
            "SELECT * FROM node_runs WHERE run_id = ? AND state = ?",
            "INDEX ix_node_runs_run_id_state (run_id=? AND state=?)",
        ),
        ("SELECT * FROM node_runs WHERE run_id = ? AND node_id = ?", "PRIMARY KEY (run_id=? AND"),
        (
            "SELECT * FROM tasks WHERE status = ? AND priority > ? ORDER BY priority",
            "ix_tasks_status_priority",
        ),
        (
            "SELECT * FROM flow_runs WHERE flow_name = ? AND status = ?",
            "ix_flow_runs_flow_name_status",
        ),
        (
            "SELECT * FROM node_runs WHERE output_artifact_id = ? OR output_artifact_id = ?",
            "ix_node_runs_output_artifact_id",
        ),
    ],
)
def test_frequent_questions_use_an_index(store: Store, query: str, index: str) -> None:
    with store.reading() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", ("r", "failed")).all()
    assert any(index in line.detail for line in plan), plan


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (task_statements.ANY_READY, "ix_tasks_ready"),
        (task_statements.LANED, "ix_tasks_ready_laned"),
        (task_statements.HELD_LANES, "ix_tasks_held_lane"),
        (task_statements.DUE, "ix_tasks_due_at"),
        (task_statements.START, "ix_tasks_job_id"),
        (job_watch._ALIVE, "ix_tasks_owner"),
    ],
    ids=["ready", "laned", "held", "due", "start", "alive"],
)
def test_what_workers_ask_all_the_time_reads_no_more_than_it_is_about(
    store: Store, statement: Statement, index: str
) -> None:
    """Not all tasks of one status: of 100,000 that wait, that takes 30 ms each time."""
    with store.reading() as connection:
        plan = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {statement.sql}", (None,) * len(statement.names)
        ).all()
    used = [line.detail for line in plan if " tasks " in f"{line.detail} "]
    assert used
    assert all(f"INDEX {index} (" in each for each in used), plan


def test_indexes_are_made_in_one_order() -> None:
    """SQLite's choice between two that seem as good depends on it."""
    made = [text.split()[2] for text in migrations._definitions("sqlite") if " INDEX " in text]
    tasks = [name for name in made if name.startswith("ix_tasks_")]
    assert len(tasks) > 5
    assert tasks == sorted(tasks)


def test_indexes_of_some_rows_are_that_in_postgresql_too() -> None:
    made = {
        text.split()[2]: text for text in migrations._definitions("postgresql") if " INDEX " in text
    }
    assert made["ix_tasks_ready"].endswith("WHERE status = 'ready' AND lane IS NULL")
    assert made["ix_tasks_due_at"].endswith("WHERE due_at IS NOT NULL")
    assert "WHERE" not in made["ix_tasks_job_id"]


def test_the_schema_loads_no_dialect_of_another_database() -> None:
    code = "import dagger_dsl.store.migrations, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sqlalchemy.dialects.sqlite" in done.stdout.split()
    assert not [each for each in done.stdout.split() if "postgresql" in each]


@pytest.mark.row("P13")
def test_rows_can_be_asked_for_with_sql(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a", '{"rows":3}')])
    journal.close()
    (found,) = store.query("SELECT * FROM node_runs WHERE run_id = ?", ["r"])
    assert (found["node_id"], found["state"], found["output"]) == ("a", "completed", '{"rows":3}')
    (value,) = store.query("SELECT json_extract(output, '$.rows') AS rows FROM node_runs")
    assert value == {"rows": 3}


@pytest.mark.row("P16")
def test_no_question_of_a_run_reads_other_runs(store: Store) -> None:
    """The state that nearly all rows have is not in the index; the primary key finds the run."""
    for state in schema.NODE_STATES:
        with store.reading() as connection:
            plan = connection.exec_driver_sql(
                "EXPLAIN QUERY PLAN SELECT * FROM node_runs WHERE run_id = ? AND state = ?",
                ("r", state),
            ).all()
        assert "SEARCH node_runs" in plan[0].detail
        assert ("ix_node_runs_run_id_state" in plan[0].detail) == (state != "completed")


def test_postgresql_takes_the_same_schema_and_statements() -> None:
    dialect: sa.Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]
    for table in schema.METADATA.sorted_tables:
        text = str(sa.schema.CreateTable(table).compile(dialect=dialect))
        assert "WITHOUT ROWID" not in text
        for index in table.indexes:
            str(sa.schema.CreateIndex(index).compile(dialect=dialect))
    for name in schema.VIEWS:
        assert schema.create_view(name).startswith(f"CREATE VIEW {name} AS SELECT")
    for each in vars(batches).values():
        statement = each("postgresql") if isinstance(each, batches.Upsert) else each
        if isinstance(statement, Statement):
            assert "RETURNING" not in str(statement.core.compile(dialect=dialect))
    replaced = str(batches.UPSERT_CACHE("postgresql").core.compile(dialect=dialect))
    assert "ON CONFLICT (run_id, namespace, entry_key) DO UPDATE SET" in replaced


@pytest.mark.row("P15")
def test_statements_are_compiled_once_and_bind_their_values() -> None:
    assert batches.INSERT_ROW.sql.count("?") == len(batches.INSERT_ROW.names) == 13
    assert batches.INSERT_ROW.names[:3] == ("run_id", "seq", "node_id")
    assert batches.INSERT_FENCED.names == (*batches.INSERT_ROW.names, "the_run", "the_epoch")
    plain = ("run_id", "seq", "node_id", "output", "started_at", "duration_ms")
    assert batches.INSERT_PLAIN.names == plain
    for made in vars(batches).values():
        if isinstance(made, batches.Upsert):
            assert made("sqlite").names == made.columns
    assert batches.INSERT_PLAIN_FENCED.names == (*plain, "released", "the_run", "the_epoch")
    for statement in (batches.FINISH, batches.RELEASE, batches.SET_STATUS, batches.SET_CRASHES):
        assert statement.names[-2:] == ("the_run", "the_epoch")


def test_links_of_artifacts_are_no_damage(store: Store) -> None:
    with store.writing() as connection:
        for number in range(5):
            connection.execute(
                sa.insert(schema.artifact_links).values(
                    artifact_id=f"{number:064}", run_id="r", node_id="n"
                )
            )
    with contextlib.closing(sqlite3.connect(str(store.database.path))) as file:
        assert quick_check(file, "the file") is None
        file.execute("PRAGMA ignore_check_constraints = ON")
        file.execute("INSERT INTO jobs (job_id, status) VALUES ('j', 'odd')")
        file.execute("PRAGMA ignore_check_constraints = OFF")
        damage = quick_check(file, "the file")
    assert damage is not None
    assert "CHECK constraint failed in jobs" in str(damage)
    assert "artifact_links" not in str(damage)


def test_a_database_with_jobs_is_no_damaged_one(store: Store) -> None:
    for table in (schema.task_links, schema.job_waits, schema.shared_values):
        values = {each.name: "1" for each in table.columns if not each.nullable}
        insert = (
            f"INSERT INTO {table.name} ({', '.join(values)}) VALUES ({', '.join(values.values())})"
        )
        with store.writing() as connection:
            connection.exec_driver_sql(insert)
    # Before 3.41 SQLite finds a NULL in a column that stands before one of the key.
    with store.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA quick_check").scalars().all() == ["ok"]
