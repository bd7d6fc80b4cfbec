"""Runs: made, recorded, claimed, read again."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.errors import (
    ConfigurationError,
    IdempotencyConflict,
    InvalidState,
    KeyTaken,
    RunExists,
    RunFenced,
    RunNotFound,
    RunOwned,
)
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.states import RunStatus
from dagger_dsl.store.storage import Store
from tests.store.helpers import GRAPH, row, start


@pytest.fixture(params=["file", "memory", "core"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind; `core` takes the way of databases that are not SQLite."""
    url = "sqlite::memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'runs.db'}"
    with Store(url) as made:
        made.database.through_core = request.param == "core"
        yield made


def test_a_run_is_read_as_it_was_recorded(store: Store) -> None:
    config = DagConfig(max_attempts=3, timeout_seconds=5)
    journal = start(store, config=config, parent_run_id="p", idempotency_key="k")
    journal.commit([row("a", '{"$type":"tuple","$value":[1,2]}', meta='{"m":1}')], [1])
    run = store.load_run("r")
    assert (run.flow_name, run.status, run.version) == ("flow", "running", "1.2")
    assert (run.parent_run_id, run.idempotency_key, run.epoch) == ("p", "k", 1)
    assert run.graph == GRAPH
    assert run.inputs == {"x": 1}
    assert run.config == config
    assert run.error is None
    node = run.nodes["a", "default"]
    assert node.value() == (1, 2)
    assert (node.state, node.attempt, node.duration, node.meta) == (
        "completed",
        1,
        0.0025,
        {"m": 1},
    )
    assert node.started_at == 1_700_000_000.5
    assert run.released == [[1]]
    journal.close()


def test_an_unknown_run_is_named(store: Store) -> None:
    with pytest.raises(RunNotFound, match="no run 'nope'"):
        store.load_run("nope")
    with pytest.raises(RunNotFound):
        store.claim_run("nope")


HALF = "a\ud800"


@pytest.mark.parametrize("name", [HALF, "", "a\0b", 5], ids=["half", "empty", "nul", "number"])
def test_a_run_gets_only_names_that_can_be_stored(store: Store, name: Any) -> None:
    for options in ({"run_id": name}, {"run_id": "r", "idempotency_key": name}):
        with pytest.raises(ConfigurationError, match=r"is a text|lone surrogate"):
            store.create_run(graph=GRAPH, inputs={}, **options)
    assert store.list_runs() == []


@pytest.mark.parametrize("name", [HALF, 5], ids=["half", "number"])
def test_a_name_that_no_run_can_have_is_refused(store: Store, name: Any) -> None:
    asks: list[Callable[[], object]] = [
        lambda: store.load_run(name),
        lambda: store.claim_run(name),
        lambda: store.list_runs(name),
        lambda: store.artifacts_by_node(name),
        lambda: store.load_execution_tree(name),
        lambda: store.load_execution_state(name),
        lambda: store.store_artifact(b"x", "json", run_id=name),
        lambda: store.retain(name, keep_runs=1),
        lambda: store.query(name),
    ]
    for ask in asks:
        with pytest.raises(ConfigurationError, match=r"is a text, not 5|lone surrogate"):
            ask()


def test_the_list_of_runs_is_asked_for_in_known_words(store: Store) -> None:
    for limit in (-1, 1.5, True, "3", 2**70):
        with pytest.raises(ConfigurationError, match="limit is a whole number of at least 0"):
            store.list_runs(limit=limit)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no status 'complete'; did you mean 'completed'"):
        store.list_runs(status="complete")
    with pytest.raises(ConfigurationError, match="no status 5; known: 'cancelled'"):
        store.list_runs(status=["failed", 5])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="status is a run's status or a list"):
        store.list_runs(status=5)  # type: ignore[arg-type]
    assert store.list_runs(status=["failed", RunStatus.COMPLETED], limit=0) == []


def test_a_taken_id_is_refused(store: Store) -> None:
    start(store).close()
    with pytest.raises(RunExists, match="'r' already"):
        start(store)


def test_one_key_is_one_run(store: Store) -> None:
    start(store, idempotency_key="k").close()
    with pytest.raises(KeyTaken) as taken:
        start(store, "other", idempotency_key="k")
    assert taken.value.run_id == "r"
    with pytest.raises(IdempotencyConflict, match="run r"):
        store.create_run(run_id="s", graph=GRAPH, inputs={}, idempotency_key="k")
    assert [each.run_id for each in store.list_runs()] == ["r"]


def test_history_keeps_the_order_of_commits(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a", state="failed", error='{"type":"E"}')], [0])
    journal.commit([], [1, 2])
    journal.commit([row("a", attempt=2), row("b"), row("b", key="1")], [3], commands=[("c", "{}")])
    journal.finish("completed")
    run = store.load_run("r")
    assert [(each.node_id, each.key, each.attempt) for each in run.attempts] == [
        ("a", "default", 1),
        ("a", "default", 2),
        ("b", "default", 1),
        ("b", "1", 1),
    ]
    assert run.nodes["a", "default"].attempt == 2
    assert run.attempts[0].error == {"type": "E"}
    assert run.released == [[0], [1, 2], [3]]
    assert [(each.key, each.body) for each in run.commands] == [("c", "{}")]
    assert run.commands[0].seq == run.last_seq == 6
    assert (run.status, run.owner) == ("completed", None)


def test_a_claim_continues_the_history(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a")])
    journal.record_crashes({"a": 2})
    journal.close()
    run, again = store.claim_run("r")
    assert (run.epoch, again.epoch, run.crashes) == (2, 2, {"a": 2})
    again.commit([row("b")], status="running")
    again.commit([row("c", state="skipped")], last=True)
    again.finish("failed", '{"message":"m"}')
    run = store.load_run("r")
    assert [each.seq for each in run.attempts] == [1, 2, 3]
    assert (run.status, run.error) == ("failed", {"message": "m"})


@pytest.mark.parametrize("change", ["finish", "status", "crashes", "close", "claim"])
def test_every_change_of_a_run_is_timed_more_finely_than_a_second(
    store: Store, change: str
) -> None:
    before = dt.datetime.now(dt.UTC)
    journal = start(store)
    match change:
        case "finish":
            journal.finish("completed")
        case "status":
            journal.commit([], status="paused")
        case "crashes":
            journal.record_crashes({"a": 1})
        case "close":
            journal.close()
        case "claim":
            journal.close()
            store.claim_run("r")
    (run,) = store.list_runs()
    assert before <= run.created_at < run.updated_at <= dt.datetime.now(dt.UTC)


def test_a_run_has_one_owner(store: Store) -> None:
    journal = start(store)
    with pytest.raises(RunOwned, match="process"):
        store.claim_run("r")
    journal.close()
    journal.close()
    store.claim_run("r")[1].close()


def test_who_lost_a_run_is_fenced(store: Store) -> None:
    journal = start(store)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE flow_runs SET epoch = 2")
    with pytest.raises(RunFenced):
        journal.commit([row("a")])
    with pytest.raises(RunFenced):
        journal.commit([row("a"), row("b")])
    with pytest.raises(RunFenced):
        journal.finish("completed")
    journal.close()
    assert store.load_run("r").attempts == []


def test_several_rows_are_fenced_too(store: Store) -> None:
    journal = start(store)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE flow_runs SET epoch = 2")
    with pytest.raises(RunFenced):
        journal.commit([row("a"), row("b")])
    assert store.load_run("r").attempts == []


@pytest.mark.row("P3")
def test_a_row_is_recorded_once(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a")])
    with pytest.raises(InvalidState, match="replay=True"):
        journal.commit([row("a", "2")])
    with pytest.raises(InvalidState, match="replay=True"):
        journal.commit([row("b"), row("a", "2")])
    journal.commit([row("a", "2"), row("b")], replay=True)
    run = store.load_run("r")
    assert {name: node.value() for (name, _), node in run.nodes.items()} == {"a": 1, "b": 1}
    journal.close()


@pytest.mark.parametrize("durability", ["async", "exit"])
def test_weaker_levels_write_the_same(store: Store, durability: str) -> None:
    journal = start(store, durability=durability)
    for n in range(50):
        journal.commit([row(f"n{n}")], [n])
    if durability == "exit":
        assert store.load_run("r").attempts == []
    journal.flush()
    assert len(store.load_run("r").attempts) == 50
    journal.commit([row("last")])
    journal.finish("completed")
    run = store.load_run("r")
    assert [each.node_id for each in run.attempts] == [*(f"n{n}" for n in range(50)), "last"]
    assert run.released == [[n] for n in range(50)]
    assert run.status == "completed"
    with pytest.raises(InvalidState, match="closed"):
        journal.commit([row("x")])


def test_the_time_a_run_is_owned_is_counted(store: Store) -> None:
    journal = start(store)
    time.sleep(0.05)
    store._heart.beat(["r"])
    beaten = store.load_run("r").owned_seconds
    assert 0.05 <= beaten < 1
    journal.close()
    time.sleep(0.2)
    left = store.load_run("r").owned_seconds
    assert beaten <= left < beaten + 0.2
    again, journal = store.claim_run("r")
    assert again.owned_seconds == left
    journal.finish("paused")
    _, journal = store.claim_run("r")
    journal.finish("failed")
    last, journal = store.claim_run("r")
    assert last.owned_seconds == store.load_run("r").owned_seconds == 0
    journal.close()
