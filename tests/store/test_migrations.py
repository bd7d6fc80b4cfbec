"""A file of each earlier schema becomes one of ours, whole or not at all."""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import dagger_dsl
from dagger_dsl.errors import StoreVersionError
from dagger_dsl.store import migrations, schema
from tests.store.helpers import Store, child, row, start

VERSION_1 = Path(__file__).with_name("schema_1.sql")
FACTS_1 = """
    INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
        ('node_runs', 'node_runs', '100000 1000 2 1 1'),
        ('node_runs', 'ix_node_runs_run_id_state', '5000 50 5');
    INSERT INTO meta (name, value) VALUES ('schema_version', '1'), ('needs', '0.1.0');
    INSERT INTO flow_runs (run_id, flow_name, status, graph, inputs) VALUES
        ('r', 'flow', 'failed', '{"name":"flow","nodes":[{"id":"a","action":"act"}]}', '{"x":1}');
    INSERT INTO node_runs (run_id, seq, node_id, state, output, released) VALUES
        ('r', 1, 'a', 'completed', '7', '[0]');
    INSERT INTO run_log (run_id, seq, kind, entry_key, body) VALUES
        ('r', 2, 'command', 'k', '{}'), ('r', 3, 'released', NULL, '[1]');
    INSERT INTO cache_entries (run_id, namespace, entry_key, value) VALUES
        ('r', 'global', 'k', '[1]');
    INSERT INTO memo (memo_key, action, value) VALUES ('key', 'act', '"old"');
    INSERT INTO snapshots (snapshot_id, flow_name, value, size_bytes) VALUES
        ('s', 'flow', '{"global":{"k":1}}', 20);
    INSERT INTO tasks (status, agent_type) VALUES ('ready', 'x');
    INSERT INTO messages (channel, payload) VALUES ('c', x'00');
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database file as schema 1 was written, with a row in every table that a row needs."""
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA page_size=2048")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN IMMEDIATE")
    for statement in VERSION_1.read_text(encoding="utf-8").split(";"):
        connection.execute(statement)
    connection.execute("ANALYZE")
    for statement in FACTS_1.split(";"):
        connection.execute(statement)
    connection.execute("PRAGMA application_id=1684497523")
    connection.execute("PRAGMA user_version=1")
    connection.execute("COMMIT")
    connection.close()
    return path


def look(path: Path) -> tuple[Any, dict[str, list[Any]]]:
    """Return the version and every row of a file, as another program reads them."""
    connection = sqlite3.connect(path)
    try:
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ).fetchall()
        rows = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in names}
        return connection.execute("PRAGMA user_version").fetchone()[0], rows
    finally:
        connection.close()


def shape(path: Path) -> dict[str, Any]:
    """Return what SQLite makes of a schema, however its statements were written."""
    connection = sqlite3.connect(path)

    def ask(pragma: str, name: str) -> list[Any]:
        return connection.execute(f"SELECT * FROM pragma_{pragma}(?)", (name,)).fetchall()

    try:
        found: dict[str, Any] = {}
        kinds = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        for kind, name, sql in kinds:
            if kind == "view":
                found[name] = sql
            elif kind == "index" and sql is not None:
                found[name] = (sql.split("WHERE")[1:], ask("index_xinfo", name))
            elif kind == "table":
                found[name] = (
                    ask("table_xinfo", name),
                    sorted(each[1:] for each in ask("index_list", name)),
                )
        return found
    finally:
        connection.close()


def test_the_file_of_the_test_is_one_of_schema_1(old: Path) -> None:
    version, rows = look(old)
    assert version == 1
    assert "inbox" not in rows
    assert all(rows[name] for name in rows if name not in ("artifacts", "artifact_links"))


@pytest.mark.row("P7")
def test_schema_1_is_brought_up_to_date_and_keeps_its_rows(old: Path) -> None:
    _, before = look(old)
    with Store(old) as store:
        run = store.load_run("r")
        assert (run.nodes["a", "default"].value(), run.released, run.acked) == (7, [[0], [1]], 0)
        assert run.cache == {("global", "k"): [1]}
        found = store.recall("key")
        assert found is not None
        value, memo = found
        assert (value, memo.action, memo.version, memo.run_id) == ("old", "act", "", "")
        assert memo.created_at <= dt.datetime.now(dt.UTC)
        assert store.load_snapshot("flow") == {"global": {"k": 1}}
        assert store.list_snapshots("flow", "cache")[0].snapshot_id == "s"
        assert store.send("r", '{"kind":"resume"}') == 1
        run, journal = store.claim_run("r")
        journal.commit([row("b", state="waiting")], commands=[("inbox:1", "{}")])
        journal.commit([], replacing=[row("b")], ack=True)
        journal.finish("completed")
        assert store.load_run("r").acked == 7
        needs = schema.READS[schema.SCHEMA_VERSION]
        assert store.query("SELECT value FROM meta WHERE name='needs'") == [{"value": needs}]
    version, after = look(old)
    assert version == schema.SCHEMA_VERSION
    assert after["cache_entries"] == before["cache_entries"]
    assert sorted(after["sqlite_stat1"]) == sorted(schema.STATISTICS)
    assert [each[:18] for each in after["tasks"]] == before["tasks"]
    assert [each[:7] for each in after["messages"]] == before["messages"]
    assert [each[:6] for each in after["memo"]] == before["memo"]


@pytest.mark.row("P7")
def test_a_migrated_schema_is_the_one_of_a_new_file(old: Path, tmp_path: Path) -> None:
    with Store(old), Store(tmp_path / "new.db"):
        pass
    migrated, new = shape(old), shape(tmp_path / "new.db")
    assert migrated.keys() == new.keys()
    for name in new:
        assert migrated[name] == new[name], name


def test_the_rules_of_new_columns_hold_after_a_migration(old: Path) -> None:
    with (
        Store(old) as store,
        pytest.raises(sa.exc.IntegrityError),
        store.writing() as connection,
    ):
        connection.exec_driver_sql("UPDATE snapshots SET kind = 'other'")


def _then_fail(step: Callable[[sa.Connection], None]) -> Callable[[sa.Connection], None]:
    def run(connection: sa.Connection) -> None:
        step(connection)
        raise ZeroDivisionError

    return run


@pytest.mark.row("P7")
def test_a_migration_that_fails_leaves_the_old_file(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = look(old), shape(old)
    for version, step in migrations.MIGRATIONS.items():
        with monkeypatch.context() as patch:
            patch.setitem(migrations.MIGRATIONS, version, _then_fail(step))
            with pytest.raises(ZeroDivisionError), Store(old):
                pass
        assert (look(old), shape(old)) == before
    with pytest.raises(StoreVersionError, match="migrated first"), Store(f"{old}?mode=ro"):
        pass
    with Store(old) as store:
        assert store.load_run("r").status == "failed"


@pytest.mark.row("P7")
def test_a_process_that_dies_in_a_migration_leaves_the_old_file(old: Path) -> None:
    before = look(old), shape(old)
    code = """
        from dagger_dsl.store import migrations
        step = migrations.MIGRATIONS[2]

        def die(connection):
            step(connection)
            os.kill(os.getpid(), signal.SIGKILL)

        migrations.MIGRATIONS[2] = die
        Store(sys.argv[1]).init_database()
    """
    process = child(code, old)
    process.communicate()
    assert process.returncode == -9
    assert (look(old), shape(old)) == before
    with Store(old) as store:
        assert store.load_run("r").status == "failed"


@pytest.mark.row("P7")
def test_two_processes_that_migrate_at_once_both_succeed(old: Path, tmp_path: Path) -> None:
    code = """
        print("ready", flush=True)
        while not os.path.exists(sys.argv[2]):
            pass
        with Store(sys.argv[1]) as store:
            print(store.load_run("r").status, store.stats().rows["inbox"])
    """
    go = tmp_path / "go"
    both = [child(code, old, go) for _ in range(2)]
    for each in both:
        assert each.stdout is not None
        each.stdout.readline()
    go.touch()
    assert [each.communicate()[0].strip() for each in both] == ["failed 0", "failed 0"]


def test_every_version_has_its_step_and_says_which_release_reads_it() -> None:
    versions = range(1, schema.SCHEMA_VERSION + 1)
    assert list(schema.READS) == list(versions)
    assert list(migrations.MIGRATIONS) == list(versions)[1:]

    def parts(text: str) -> list[int]:
        return [int(part) for part in text.split(".")]

    releases = [parts(schema.READS[each]) for each in versions]
    assert releases == sorted(releases)
    assert releases[-1] <= parts(dagger_dsl.__version__), "this release reads what it writes"


def test_a_new_file_needs_no_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "MIGRATIONS", {})
    with Store(tmp_path / "new.db") as store:
        start(store).close()
    assert os.path.getsize(tmp_path / "new.db") > 0
