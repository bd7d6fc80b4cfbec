"""Upkeep: pruning, copies, sizes, questions, artifacts."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dagger_dsl.errors import (
    ArtifactNotFound,
    ConfigurationError,
    StoreDamaged,
    StoreError,
    StoreReadOnly,
)
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.store import maintenance
from dagger_dsl.store.messages import MessageRows
from dagger_dsl.store.schema import artifacts, flow_runs
from tests.store.helpers import GRAPH, Store, child, row, start

HALF = "a\ud800"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of a test goes."""
    return tmp_path / "state.db"


@pytest.fixture(params=["file", "memory"])
def any_store(request: pytest.FixtureRequest, path: Path) -> Iterator[Store]:
    """A store of each kind."""
    with Store(path if request.param == "file" else "sqlite::memory:") as made:
        yield made


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A store that puts nearly everything into files."""
    with Store(path, artifact_threshold=10) as made:
        yield made


def finished(store: Store, run_id: str, value: str | None = None, flow: str = "flow") -> str | None:
    """Record a run that has ended; return the artifact of its value."""
    graph = Graph(flow, GRAPH.nodes)
    journal = store.create_run(run_id=run_id, graph=graph, inputs={})
    artifact = None
    if value is not None:
        inline, artifact = journal.encode(value)
        journal.commit([row("a", inline, artifact=artifact)])
    journal.finish("completed")
    return artifact


def age(store: Store, run_id: str, days: float) -> None:
    """Let a run be older than it is."""
    when = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    with store.writing() as connection:
        connection.execute(
            sa.update(flow_runs)
            .where(flow_runs.c.run_id == run_id)
            .values(created_at=when, updated_at=when)
        )


def ids(store: Store) -> set[str]:
    """Return the ids of all runs."""
    return {each.run_id for each in store.list_runs(limit=None)}


# --- artifacts ------------------------------------------------------------------------------------


@pytest.mark.row("C36", "C37", "C35")
@pytest.mark.parametrize("size", [0, 5, 100, 40_000])
def test_artifacts_come_back_by_their_hash(any_store: Store, size: int) -> None:
    data = os.urandom(size)
    found = any_store.store_artifact(data, "json", "run", "node")
    assert found == hashlib.sha256(data).hexdigest()
    assert any_store.store_artifact(data, "json", "run", "other") == found
    assert any_store.get_artifact(found) == data
    with any_store.open_artifact(found) as stream:
        assert stream.read(3) == data[:3]
        assert stream.read() == data[3:]
    (only,) = any_store.query("SELECT kind, size_bytes, file_path FROM artifacts")
    assert (only["kind"], only["size_bytes"]) == ("json", size)
    assert only["file_path"] is None or not os.path.isabs(only["file_path"])
    assert any_store.artifacts_by_node("run") == {"node": [found], "other": [found]}


@pytest.mark.row("C33")
def test_the_threshold_decides_where_an_artifact_is(path: Path) -> None:
    with Store(path) as store:
        small = store.store_artifact(b"x" * 32_767, "raw")
        large = store.store_artifact(b"x" * 32_768, "raw")
        places = {
            each["artifact_id"]: (each["storage_location"], each["file_path"])
            for each in store.query("SELECT * FROM artifacts")
        }
        assert places[small] == ("inline", None)
        assert places[large] == ("file", f"{large[:2]}/{large}")
        assert store.stats().artifact_bytes == 32_768


@pytest.mark.row("C37")
def test_unknown_artifacts_are_named(any_store: Store) -> None:
    for wrong in ("0" * 64, "../../etc/passwd", "ABC", ""):
        for read in (any_store.get_artifact, any_store.open_artifact):
            with pytest.raises(ArtifactNotFound):
                read(wrong)


def test_wrong_arguments_are_refused(any_store: Store) -> None:
    with pytest.raises(ConfigurationError, match="an artifact is bytes, not str"):
        any_store.store_artifact("text", "raw")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="needs its run_id"):
        any_store.store_artifact(b"x", "raw", node_id="n")


def test_a_changed_inline_artifact_is_refused(any_store: Store) -> None:
    found = any_store.store_artifact(b"abc", "raw")
    with any_store.writing() as connection:
        connection.execute(sa.update(artifacts).values(inline_data=b"abd"))
    with pytest.raises(StoreDamaged):
        any_store.get_artifact(found)


def test_values_of_nodes_are_artifacts_of_their_nodes(store: Store) -> None:
    artifact = finished(store, "r", "a long value")
    assert artifact is not None
    assert store.artifacts_by_node("r") == {"a": [artifact]}
    assert store.get_artifact(artifact) == b'"a long value"'


@pytest.mark.row("C34", "P14")
def test_a_copied_folder_is_a_whole_database(store: Store, path: Path, tmp_path: Path) -> None:
    journal = start(store)
    inline, artifact = journal.encode("a long value")
    journal.commit([row("a", inline, artifact=artifact)])
    journal.close()
    store.close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(path, elsewhere)
    shutil.copytree(f"{path}-artifacts", elsewhere / "state.db-artifacts")
    shutil.rmtree(f"{path}-artifacts")
    path.unlink()
    with Store(elsewhere / "state.db") as copy:
        run, again = copy.claim_run("r")
        assert run.nodes["a", "default"].value() == "a long value"
        again.finish("completed")


def test_a_copy_out_of_wal_mode_is_brought_back_to_it(store: Store, tmp_path: Path) -> None:
    finished(store, "r", "v")
    with Store(store.backup(tmp_path / "copy.db")) as copy:
        with copy.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert copy.load_run("r").status == "completed"


# --- pruning --------------------------------------------------------------------------------------


@pytest.mark.row("C40")
def test_what_nothing_refers_to_goes_and_the_rest_stays(store: Store) -> None:
    assert store.files is not None
    finished(store, "old", "value of the old run")
    kept = finished(store, "new", "value of the new run")
    both = finished(store, "old2", "value of both")
    assert finished(store, "new2", "value of both") == both
    loose = store.store_artifact(b"belongs to no run", "raw")
    linked = store.store_artifact(b"belongs to a run", "raw", "new")
    stray = store.files.write(b"written, and its row was never committed")
    for run_id in ("old", "old2"):
        age(store, run_id, 10)

    plan = store.prune(older_than=dt.timedelta(days=5), dry_run=True)
    assert set(plan.runs) == {"old", "old2"}
    assert len(plan.artifacts) == plan.files == 2
    assert ids(store) == {"old", "old2", "new", "new2"}

    report = store.prune(older_than=dt.timedelta(days=5))
    assert set(report.runs) == set(plan.runs)
    assert report.artifacts == plan.artifacts
    assert report.files == 3, "those two, and the stray one"
    assert not report.dry_run
    assert ids(store) == {"new", "new2"}
    assert set(store.files.ids()) == {kept, both, linked}
    assert store.load_run("new2").nodes["a", "default"].value() == "value of both"
    for gone in (loose, stray):
        with pytest.raises(ArtifactNotFound):
            store.get_artifact(gone)
    assert store.stats().rows["node_runs"] == 2
    again = store.prune(older_than=dt.timedelta(days=5))
    assert (again.runs, again.artifacts, again.files, again.bytes) == ((), (), 0, 0)


def test_runs_that_are_not_over_are_never_pruned(store: Store) -> None:
    owned = start(store, "owned")
    start(store, "left").close()
    paused = start(store, "paused")
    paused.commit([], status="paused")
    paused.close()
    finished(store, "parent")
    store.create_run(run_id="sub", graph=GRAPH, inputs={}, parent_run_id="parent").close()
    finished(store, "resumed")
    resumed = store.claim_run("resumed")[1]
    for run_id in ids(store):
        age(store, run_id, 1000)
    assert store.prune(older_than=0, keep_last=0).runs == ()
    owned.finish("failed")
    resumed.close()
    assert set(store.prune(older_than=0, keep_last=0).runs) == {"resumed", "owned"}


def test_the_newest_runs_of_each_graph_can_be_kept(store: Store) -> None:
    for n in range(5):
        finished(store, f"a{n}", flow="a")
        finished(store, f"b{n}", flow="b")
        age(store, f"a{n}", 10 - n)
        age(store, f"b{n}", 10 - n)
    assert set(store.prune(keep_last=2, dry_run=True).runs) == {
        f"{flow}{n}" for flow in "ab" for n in range(3)
    }
    assert set(store.prune(older_than=dt.timedelta(days=8.5), keep_last=2).runs) == {
        f"{flow}{n}" for flow in "ab" for n in range(2)
    }
    store.retain("a", keep_runs=1)
    assert ids(store) == {"a4", "b2", "b3", "b4"}
    store.retain("b", keep_days=6.5)
    assert ids(store) == {"a4", "b4"}


def test_retention_removes_the_artifacts_of_its_runs_only(store: Store) -> None:
    assert store.files is not None
    old = finished(store, "old", "value of the old run")
    shared = finished(store, "older", "value of both runs")
    assert finished(store, "new", "value of both runs") == shared
    loose = store.store_artifact(b"belongs to no run", "raw")
    for run_id in ("old", "older"):
        age(store, run_id, 10)
    store.retain("flow", keep_runs=3)
    assert ids(store) == {"old", "older", "new"}
    store.retain("other", keep_runs=0)
    store.retain("flow", keep_runs=1, keep_days=5)
    assert ids(store) == {"new"}
    assert set(store.files.ids()) == {shared, loose}
    assert old not in {each["artifact_id"] for each in store.query("SELECT * FROM artifacts")}


def test_a_run_that_is_active_keeps_its_uncommitted_files(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.files is not None
    journal = start(store, durability="exit")
    inline, artifact = journal.encode("a value that is not committed yet")
    journal.commit([row("a", inline, artifact=artifact)])
    assert store.prune().files == 0
    monkeypatch.setattr(maintenance, "FILE_GRACE", 0.0)
    journal.finish("completed")
    assert store.load_run("r").nodes["a", "default"].value().startswith("a value")
    assert store.prune().files == 0


def test_a_file_that_is_stored_again_while_it_is_removed_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = store.files
    assert files is not None
    artifact = files.write(b"some content of a file")
    path = files.path(artifact)
    os.utime(path, (0, 0))
    real = Path.replace

    def store_again(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", real)
        assert files.write(b"some content of a file") == artifact
        return real(self, target)

    monkeypatch.setattr(Path, "replace", store_again)
    assert maintenance._remove_file(files, artifact, 3600) is None
    assert files.read(artifact) == b"some content of a file"
    assert maintenance._remove_file(files, artifact, 0) == 22
    assert maintenance._remove_file(files, artifact, 0) is None


@pytest.mark.parametrize("wrong", [-1, True, "yesterday", dt.datetime(2020, 1, 1)])  # noqa: DTZ001
def test_impossible_ages_are_refused(store: Store, wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="older_than"):
        store.prune(older_than=wrong)  # type: ignore[arg-type]


# --- sizes and compacting -------------------------------------------------------------------------


def on_disk(path: Path) -> int:
    """Return the bytes of the database, its WAL and its artifacts."""
    folder = Path(f"{path}-artifacts")
    files = [path, Path(f"{path}-wal"), *(each for each in folder.rglob("*") if each.is_file())]
    return sum(each.stat().st_size for each in files if each.exists())


@pytest.mark.row("C41")
def test_sizes_are_those_of_the_file_system(store: Store, path: Path) -> None:
    for n in range(20):
        finished(store, f"r{n}", f"value {n} " * 2000)
    stats = store.stats()
    assert stats.total_bytes == pytest.approx(on_disk(path), rel=0.01)
    assert stats.artifact_files == 20
    assert stats.artifact_bytes > 20 * 15_000
    assert (stats.rows["flow_runs"], stats.rows["node_runs"]) == (20, 20)
    assert stats.wal_bytes > 0


def test_a_database_in_memory_has_a_size_too() -> None:
    with Store("sqlite::memory:") as store:
        start(store).close()
        assert store.stats().database_bytes > 10_000


@pytest.mark.row("C43")
def test_vacuum_gives_space_back(path: Path) -> None:
    with Store(path) as store:
        for n in range(10):
            journal = start(store, f"r{n}")
            journal.commit([row(f"n{i}", '"' + "x" * 1000 + '"') for i in range(100)])
            journal.finish("completed")
        store.vacuum()
        full = path.stat().st_size
        store.prune(older_than=0)
        assert store.stats().free_bytes > 500_000
        assert store.vacuum() > 500_000
        assert path.stat().st_size < full / 2
        assert store.stats().free_bytes == 0
        start(store, "after").finish("completed")


@pytest.mark.row("C31")
def test_debug_print_shows_the_rows_of_every_table(
    any_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    start(any_store).close()
    any_store.debug_print()
    shown = capsys.readouterr().out.splitlines()
    assert ["flow_runs", "1", "rows"] in [each.split() for each in shown]
    assert {"node_runs", "artifacts", "tasks"} <= {each.split()[0] for each in shown[2:]}
    out = io.StringIO()
    any_store.debug_print(out)
    assert out.getvalue().splitlines() == shown


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.row("C42")
def test_a_backup_is_whole_while_a_run_goes_on(store: Store, tmp_path: Path) -> None:
    journal = start(store)
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            inline, artifact = journal.encode(f"the long value of {n}")
            journal.commit([row(f"n{n}", inline, artifact=artifact)], [n])
            n += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        time.sleep(0.1)
        least = len(store.load_run("r").attempts)
        target = store.backup(tmp_path / "copy.db")
        most = len(store.load_run("r").attempts)
    finally:
        stop.set()
        thread.join()
    assert target == tmp_path / "copy.db"
    journal.finish("completed")
    with Store(target) as copy:
        run, again = copy.claim_run("r")
        assert least <= len(run.attempts) <= most
        for n, node in enumerate(run.attempts):
            assert node.value() == f"the long value of {n}"
        again.finish("completed")
    left = {each.name for each in tmp_path.iterdir() if each.name.startswith("copy")}
    assert left == {"copy.db", "copy.db-artifacts", "copy.db-lock"}


@pytest.mark.row("C42")
def test_a_backup_has_the_same_rows(any_store: Store, tmp_path: Path) -> None:
    finished(any_store, "r", "a value")
    any_store.backup(tmp_path / "copy.db")
    with Store(tmp_path / "copy.db") as copy:
        assert copy.stats().rows == any_store.stats().rows
        assert copy.load_run("r").nodes["a", "default"].value() == "a value"


def test_a_backup_replaces_nothing_and_leaves_no_half(store: Store, tmp_path: Path) -> None:
    (tmp_path / "there.db").write_text("mine")
    with pytest.raises(ConfigurationError, match="exists already"):
        store.backup(tmp_path / "there.db")
    with pytest.raises(ConfigurationError, match="does not exist"):
        store.backup(tmp_path / "no" / "copy.db")
    artifact = finished(store, "r", "a long value")
    assert artifact is not None
    assert store.files is not None
    store.files.remove(artifact)
    with pytest.raises(StoreDamaged, match="the backup was not made"):
        store.backup(tmp_path / "copy.db")
    assert not [each for each in tmp_path.iterdir() if each.name.startswith("copy.db.")]
    assert not (tmp_path / "copy.db").exists()


# --- questions ------------------------------------------------------------------------------------


@pytest.mark.row("P13")
def test_query_takes_values_by_place_and_by_name(any_store: Store) -> None:
    finished(any_store, "r", "v")
    sql = "SELECT run_id, node_id FROM node_runs WHERE run_id = {} AND state = {}"
    expected = [{"run_id": "r", "node_id": "a"}]
    assert any_store.query(sql.format("?", "?"), ("r", "completed")) == expected
    assert any_store.query(sql.format(":a", ":b"), {"a": "r", "b": "completed"}) == expected
    assert any_store.query("SELECT 1 AS one WHERE 0") == []


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM flow_runs",
        "UPDATE flow_runs SET status = 'failed'",
        "INSERT INTO meta VALUES ('a', 'b')",
        "CREATE TABLE t (x)",
        "DROP TABLE flow_runs",
        "PRAGMA query_only = 0",
        "PRAGMA journal_mode = DELETE",
        "ATTACH '/tmp/elsewhere.db' AS other",
        "BEGIN EXCLUSIVE",
        "SELECT load_extension('x')",
    ],
)
def test_query_only_reads(any_store: Store, sql: str) -> None:
    with pytest.raises(StoreReadOnly, match="only reads"):
        any_store.query(sql)
    start(any_store).close()


@pytest.mark.parametrize(
    "sql", ["SELEC 1", "SELECT * FROM nowhere", "SELECT 1; SELECT 2", "VACUUM INTO '/tmp/x.db'"]
)
def test_nonsense_is_reported(any_store: Store, sql: str) -> None:
    with pytest.raises(StoreError, match="the query failed"):
        any_store.query(sql)
    assert any_store.query("SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.row("C30")
def test_the_execution_tree_has_the_nodes_that_were_called(any_store: Store) -> None:
    assert any_store.load_execution_tree("flow") is None
    finished(any_store, "first")
    age(any_store, "first", 1)
    graph = Graph("flow", [*GRAPH.nodes.values(), Node("c", "act", dependencies=["b"])])
    journal = any_store.create_run(run_id="second", graph=graph, inputs={})
    journal.commit([row("a", state="failed", error='{"type":"E"}'), row("a", attempt=2), row("b")])
    journal.commit([row("c", None, attempt=0, state="skipped")])
    journal.finish("completed")
    tree = any_store.load_execution_tree("flow")
    assert tree is not None
    assert (tree.run_id, tree.status) == ("second", "completed")
    assert [(each.node_id, each.attempt, each.state) for each in tree.nodes] == [
        ("a", 2, "completed"),
        ("b", 1, "completed"),
    ]
    assert tree.nodes[1].dependencies == ("a",)
    assert tree.nodes[0].duration == 0.0025
    assert tree.nodes[0].started_at == dt.datetime.fromtimestamp(1_700_000_000.5, dt.UTC)
    first = any_store.load_execution_tree("first")
    assert first is not None
    assert (first.run_id, first.nodes) == ("first", ())
    (count,) = any_store.query("SELECT count(*) AS n FROM execution_trees WHERE run_id = 'second'")
    assert count == {"n": 2}


@pytest.mark.row("C32")
def test_the_execution_state_is_none_when_nothing_runs(any_store: Store) -> None:
    for state in ("active", "pending"):
        assert any_store.load_execution_state("flow", state) is None
    journal = start(any_store)
    active = any_store.load_execution_state("flow")
    assert active is not None
    assert (active.run_id, active.state, active.status, active.epoch) == (
        "r",
        "active",
        "running",
        1,
    )
    assert active.owner is not None
    assert active.owner.pid == os.getpid()
    assert any_store.load_execution_state("flow", "pending") is None
    journal.commit([], status="paused")
    journal.close()
    pending = any_store.load_execution_state("flow", "pending")
    assert pending is not None
    assert (pending.run_id, pending.status, pending.owner) == ("r", "paused", None)
    assert any_store.load_execution_state("flow", "active") is None
    any_store.claim_run("r")[1].finish("completed")
    assert any_store.load_execution_state("flow", "pending") is None
    with pytest.raises(ConfigurationError, match="'active' or 'pending'"):
        any_store.load_execution_state("flow", "gone")


@pytest.mark.row("C32")
def test_a_run_whose_owner_died_is_still_active(path: Path) -> None:
    child("store = Store(sys.argv[1]); start(store); os._exit(1)", path).communicate()
    with Store(path) as store:
        state = store.load_execution_state("flow", "active")
        assert state is not None
        assert state.run_id == "r"


def test_runs_are_listed_newest_first(any_store: Store) -> None:
    for n, flow in enumerate(("x", "y", "x")):
        finished(any_store, f"r{n}", flow=flow)
        age(any_store, f"r{n}", 3 - n)
    start(any_store, "open").close()

    def listed(*options: object) -> list[str]:
        return [each.run_id for each in any_store.list_runs(*options)]  # type: ignore[arg-type]

    assert listed() == ["open", "r2", "r1", "r0"]
    assert listed("x") == ["r2", "r0"]
    assert listed(None, "running") == ["open"]
    assert listed(None, ["running", "completed"], 2) == ["open", "r2"]
    assert any_store.list_runs()[0].created_at.tzinfo is not None


def test_a_backup_is_an_ordinary_sqlite_file(store: Store, tmp_path: Path) -> None:
    finished(store, "r", "v")
    connection = sqlite3.connect(store.backup(tmp_path / "copy.db"))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("SELECT owner FROM flow_runs").fetchall() == [(None,)]
    connection.close()


def test_a_backup_has_no_process_that_gives_messages(store: Store, tmp_path: Path) -> None:
    rows = MessageRows(store.database, store._payloads)
    assert rows.claim("agent", ["c"], "worker@elsewhere") is not None
    with Store(store.backup(tmp_path / "copy.db")) as copy:
        again = MessageRows(copy.database, copy._payloads).claim("agent", ["c"], "other")
    assert again is not None, "nobody is waited for"
    assert not again.died
    assert rows.claim("agent", ["c"], "other") is None, "here it goes on"


@pytest.mark.parametrize("number", [-1, 1.5, True, "3"])
def test_a_limit_that_is_none_removes_nothing(any_store: Store, number: Any) -> None:
    finished(any_store, "r")
    with pytest.raises(ConfigurationError, match="keep_last is a whole number"):
        any_store.prune(keep_last=number)
    with pytest.raises(ConfigurationError, match="keep_runs is a whole number"):
        any_store.retain("flow", keep_runs=number)
    assert len(any_store.list_runs()) == 1


@pytest.mark.parametrize("age", [-1, float("nan"), True, "3", dt.timedelta(-1), []])
def test_an_age_that_is_none_removes_nothing(any_store: Store, age: Any) -> None:
    finished(any_store, "r")
    with pytest.raises(ConfigurationError, match="older_than is a time, a timedelta or a number"):
        any_store.prune(older_than=age)
    with pytest.raises(ConfigurationError, match="keep_days is a number of days"):
        any_store.retain("flow", keep_days=age)
    assert len(any_store.list_runs()) == 1


@pytest.mark.parametrize("age", [float("inf"), 1e15, 1e300, dt.timedelta.max])
def test_longer_ago_than_the_calendar_reaches_is_never(any_store: Store, age: Any) -> None:
    finished(any_store, "r")
    assert any_store.prune(older_than=age).runs == ()


def test_questions_take_texts_and_lists_of_values(any_store: Store) -> None:
    for sql, params in ((5, ()), ("SELECT ?", 5), ("SELECT ?", "x"), ("SELECT ?", [HALF])):
        with pytest.raises(ConfigurationError):
            any_store.query(sql, params)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="cannot be bound"):
        any_store.query("SELECT ?", [2**70])


@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_a_damaged_artifact_names_its_file_and_what_helps(store: Store, damage: str) -> None:
    artifact = finished(store, "r", "a long value that goes to a file")
    assert artifact is not None
    assert store.files is not None
    path = store.files.path(artifact)
    if damage == "torn":
        path.write_bytes(b"y" * path.stat().st_size)
    else:
        path.unlink()
    with pytest.raises(StoreDamaged) as caught:
        store.load_run("r").attempts[0].value()
    said = str(caught.value)
    assert str(path) in said
    assert "restore the file from a backup; without one remove what is left of it" in said
    assert "start the graph as a new run" in said
    path.unlink(missing_ok=True)
    finished(store, "another", "a long value that goes to a file")
    assert store.load_run("r").attempts[0].value() == "a long value that goes to a file"


def test_a_damaged_row_names_its_database(any_store: Store) -> None:
    artifact = any_store.store_artifact(b"content", "json")
    with any_store.writing() as connection:
        connection.execute(sa.update(artifacts).values(inline_data=b"cXntent"))
    with pytest.raises(StoreDamaged, match="restore a backup of the database") as caught:
        any_store.get_artifact(artifact)
    assert str(caught.value).startswith(any_store.database.where)


# --- nested runs ----------------------------------------------------------------------------------


def nest(store: Store, run_id: str, parent: str) -> None:
    """Record a run inside of another one that completes."""
    store.create_run(run_id=run_id, graph=GRAPH, inputs={}, parent_run_id=parent).finish(
        "completed"
    )


def test_nested_runs_are_removed_with_the_run_around_them_and_not_before(store: Store) -> None:
    for name in ("old", "new"):
        finished(store, name)
        nest(store, f"{name}/n", name)
        nest(store, f"{name}/n/m", f"{name}/n")
    finished(store, "old0")  # stands between them for who asks by prefix alone
    nest(store, "lost/n", "lost")  # the run around it is gone
    for run_id in ("old", "new/n", "new/n/m"):
        age(store, run_id, 10)
    plan = store.prune(older_than=dt.timedelta(days=5), dry_run=True)
    assert set(plan.runs) == {"old", "old/n", "old/n/m"}
    assert set(store.prune(older_than=dt.timedelta(days=5)).runs) == set(plan.runs)
    assert ids(store) == {"new", "old0"}
    assert [each.run_id for each in store.list_runs(parent="new")] == ["new/n"]
    assert [each.run_id for each in store.list_runs(parent="new/n")] == ["new/n/m"]
    store.retain("flow", keep_runs=0)
    assert ids(store) == set()
    assert store.stats().rows["flow_runs"] == 0


def test_nested_runs_are_no_orphans(store: Store) -> None:
    start(store, "r").close()
    store.create_run(run_id="r/n", graph=GRAPH, inputs={}, parent_run_id="r").close()
    assert [each.run_id for each in store.orphans()] == ["r"]
