"""Snapshots, and changes to a run's cache from outside its journal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dagger_dsl.errors import (
    ConfigurationError,
    EncodingError,
    RunNotFound,
    RunOwned,
    SnapshotNotFound,
)
from dagger_dsl.store.cache import Cache
from dagger_dsl.store.ownership import Owner
from dagger_dsl.store.schema import flow_runs
from dagger_dsl.store.snapshots import SnapshotInfo
from tests.store.helpers import GRAPH, Store, child, kill, line, start


@pytest.fixture(params=["file", "memory", "core"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind; `core` takes the way of databases that are not SQLite."""
    url = "sqlite::memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'runs.db'}"
    with Store(url, artifact_threshold=100, artifact_dir=tmp_path / "artifacts") as made:
        made.database.through_core = request.param == "core"
        yield made


@pytest.mark.row("C15", "C16")
def test_a_snapshot_of_a_cache_comes_back_equal(store: Store) -> None:
    cache = Cache({"a": {"x": (1, None), "long": "text " * 100}, "global": {"k": {2, 3}}})
    before = dt.datetime.now(dt.UTC)
    saved = store.save_snapshot("flow", cache.to_dict(), run_id="r")
    assert Cache(store.load_snapshot("flow")) == cache
    assert Cache(store.load_snapshot(snapshot_id=saved)) == cache
    (info,) = store.list_snapshots()
    assert info == SnapshotInfo(saved, "flow", "r", "cache", info.size_bytes, info.created_at)
    assert info.size_bytes > 500
    assert before <= info.created_at <= dt.datetime.now(dt.UTC)
    assert store.stats().artifact_files == 1


@pytest.mark.row("C16", "E15")
def test_the_newest_of_a_kind_is_loaded_unless_an_id_is_given(store: Store) -> None:
    first = store.save_snapshot("flow", {"n": 1})
    store.save_snapshot("flow", {"n": 2}, "r")
    run = store.save_snapshot("flow", {"nodes": {"a": "completed"}}, "r", kind="execution")
    other = store.save_snapshot("other", {"n": 3})
    assert store.load_snapshot("flow") == {"n": 2}
    assert store.load_snapshot("flow", first) == store.load_snapshot(None, first) == {"n": 1}
    assert store.load_snapshot() == {"n": 3}
    assert store.load_snapshot("flow", kind="execution") == {"nodes": {"a": "completed"}}
    assert [each.snapshot_id for each in store.list_snapshots()][:2] == [other, run]
    assert [each.kind for each in store.list_snapshots("flow")] == ["execution", "cache", "cache"]
    assert [each.snapshot_id for each in store.list_snapshots(kind="execution")] == [run]
    (row,) = store.query("SELECT * FROM snapshots WHERE kind = 'execution'")
    assert (row["snapshot_id"], row["run_id"], row["flow_name"]) == (run, "r", "flow")


def test_a_snapshot_that_is_not_there_is_named(store: Store) -> None:
    store.save_snapshot("flow", {})
    saved = store.save_snapshot("flow", {}, kind="execution")
    with pytest.raises(SnapshotNotFound, match=r"no cache snapshot of 'nope'; list_snapshots\(\)"):
        store.load_snapshot("nope")
    with pytest.raises(SnapshotNotFound, match="no execution snapshot with the id 'x'"):
        store.load_snapshot(snapshot_id="x", kind="execution")
    with pytest.raises(SnapshotNotFound, match=f"no cache snapshot .* id '{saved}'"):
        store.load_snapshot(snapshot_id=saved)
    assert store.list_snapshots("nope") == []


def test_old_snapshots_of_a_run_can_make_room(store: Store) -> None:
    for n in range(5):
        store.save_snapshot("flow", {"n": n}, "r", keep=2)
        store.save_snapshot("flow", {"n": n}, "s")
    store.save_snapshot("flow", {"n": 7}, "r", kind="execution", keep=1)
    found = [(each.run_id, each.kind) for each in store.list_snapshots()]
    assert found.count(("r", "cache")) == 2
    assert found.count(("s", "cache")) == 5
    newest = [each for each in store.list_snapshots() if (each.run_id, each.kind) == found[2]]
    assert store.load_snapshot(snapshot_id=newest[0].snapshot_id) == {"n": 4}
    for n in range(3):
        store.save_snapshot("other", {"n": n}, keep=1)
    assert len(store.list_snapshots("other")) == 1


def test_snapshots_outlive_their_run_and_keep_their_artifacts(store: Store) -> None:
    assert store.files is not None
    start(store).finish("completed")
    store.save_snapshot("flow", {"k": "x" * 200}, "r")
    assert store.prune(older_than=0).runs == ("r",)
    assert store.load_snapshot("flow") == {"k": "x" * 200}
    store.save_snapshot("flow", {"k": "y" * 200}, "r", keep=1)
    assert len(store.prune().artifacts) == 1
    assert store.load_snapshot("flow") == {"k": "y" * 200}


def test_what_no_snapshot_can_be_is_refused(store: Store) -> None:
    asks: list[Any] = [
        lambda: store.save_snapshot("flow", [1]),  # type: ignore[arg-type]
        lambda: store.save_snapshot(5, {}),  # type: ignore[arg-type]
        lambda: store.save_snapshot("flow", {}, kind="caches"),
        lambda: store.save_snapshot("flow", {}, keep=0),
        lambda: store.save_snapshot("flow", {}, keep=-1),
        lambda: store.load_snapshot(kind="x"),
        lambda: store.list_snapshots(kind="x"),
        lambda: store.list_snapshots("a\ud800"),
    ]
    for ask in asks:
        with pytest.raises(ConfigurationError, match=r"mapping|text|kind of|at least|surrogate"):
            ask()
    with pytest.raises(EncodingError, match="the snapshot"):
        store.save_snapshot("flow", {"k": object()})
    assert store.list_snapshots() == []


# --- the cache of a run ---------------------------------------------------------------------------


def entries(store: Store) -> dict[tuple[str, str, str], str | None]:
    """Return every cache entry in the database."""
    rows = store.query("SELECT run_id, namespace, entry_key, value FROM cache_entries")
    return {(each["run_id"], each["namespace"], each["entry_key"]): each["value"] for each in rows}


@pytest.mark.row("C17")
def test_only_what_has_changed_is_written(store: Store) -> None:
    journal = start(store)
    journal.write_cache({("global", "k"): journal.encode((1, 2)), ("a", "x"): ("1", None)})
    journal.finish("completed")
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE cache_entries SET updated_at = '2000-01-01 00:00:00'")
    assert store.save_cache_delta("r", {"global": {"k": (1, 2)}, "a": {"x": 1}}) == 0
    delta: dict[str, dict[str, Any]] = {
        "global": {"k": [1, 2], "new": "long " * 100},
        "a": {"x": 1},
        "b": {},
    }
    assert store.save_cache_delta("r", delta) == 2
    assert store.load_run("r").cache == {
        ("global", "k"): [1, 2],
        ("global", "new"): "long " * 100,
        ("a", "x"): 1,
    }
    assert store.save_cache_delta("r", delta) == 0
    old = store.query("SELECT entry_key FROM cache_entries WHERE updated_at < '2001-01-01'")
    assert old == [{"entry_key": "x"}]
    assert store.save_cache_delta("r", {}) == 0
    assert store.stats().rows["artifacts"] == 1
    assert store.prune().artifacts == ()


@pytest.mark.row("C17")
def test_a_name_means_its_newest_run(store: Store) -> None:
    for run_id in ("older", "newer"):
        start(store, run_id).finish("completed")
    start(store, "flow2").finish("completed")
    when = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    with store.writing() as connection:
        connection.execute(
            sa.update(flow_runs).where(flow_runs.c.run_id != "newer").values(created_at=when)
        )
    assert store.save_cache_delta("flow", {"global": {"k": 1}}) == 1
    assert entries(store) == {("newer", "global", "k"): "1"}
    assert store.save_cache_delta("older", {"global": {"k": 1}}) == 1, "an id means itself"
    with pytest.raises(RunNotFound, match="no run 'nope'"):
        store.save_cache_delta("nope", {"global": {"k": 1}})


def test_an_owner_may_write_and_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with Store(path) as store:
        mine = start(store, "mine")
        assert store.save_cache_delta("mine", {"global": {"k": 1}}) == 1
        mine.close()
        code = """
            store = Store(sys.argv[1])
            start(store)
            print("ready", flush=True)
            time.sleep(60)
        """
        process = child(code, path)
        assert line(process) == "ready"
        with pytest.raises(RunOwned, match=f"process {process.pid}"):
            store.save_cache_delta("r", {"global": {"k": 1}})
        kill(process)
        assert store.save_cache_delta("r", {"global": {"k": 1}}) == 1, "nobody records into it"
        stranger = Owner("elsewhere", 77, "another boot", "another machine", "token")
        with store.writing() as connection:
            connection.execute(sa.update(flow_runs).values(owner=stranger.to_text()))
        with pytest.raises(RunOwned, match="host elsewhere"):
            store.save_cache_delta("r", {"global": {"k": 2}})


def test_a_run_that_is_taken_over_meanwhile_is_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(store).close()
    payloads = store._payloads
    real = payloads.encode

    def take_over(*given: Any) -> Any:
        with store.writing() as connection:
            connection.execute(sa.update(flow_runs).values(epoch=9))
        return real(*given)

    monkeypatch.setattr(payloads, "encode", take_over)
    with pytest.raises(RunOwned, match="just now"):
        store.save_cache_delta("r", {"global": {"k": 1}})
    assert entries(store) == {}


def test_what_no_delta_can_be_is_refused(store: Store) -> None:
    store.create_run(run_id="r", graph=GRAPH, inputs={}).close()
    wrongs: list[Any] = [[1], {"global": 1}, {5: {}}, {"global": {5: 1}}]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError, match=r"\{namespace: \{key: value\}\}|text"):
            store.save_cache_delta("r", wrong)
    with pytest.raises(EncodingError, match=r"global\.k"):
        store.save_cache_delta("r", {"global": {"j": 1, "k": object()}})
    assert entries(store) == {}
