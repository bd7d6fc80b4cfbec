"""The journal's finer promises: order, levels, what rides along in a commit."""

from __future__ import annotations

import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.errors import EncodingError, InvalidState, KeyTaken, StoreBusy, StoreFull
from dagger_dsl.store import journal as journal_module
from dagger_dsl.store.journal import RunJournal
from dagger_dsl.store.records import StoredCommand
from tests.store.helpers import GRAPH, Store, row, start


@pytest.fixture(params=["file", "memory", "core"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind; `core` takes the way of databases that are not SQLite."""
    url = "sqlite::memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'runs.db'}"
    with Store(url, artifact_threshold=50, artifact_dir=tmp_path / "artifacts") as made:
        made.database.through_core = request.param == "core"
        yield made


VALUES: list[Any] = [None, 0, True, "text", 2.5, [1, {"a": None}], (1, 2), {3: "x"}, 2**70, b"raw"]


def test_values_come_back_equal_and_of_their_type(store: Store) -> None:
    journal = start(store)
    for n, value in enumerate([*VALUES, "long " * 100]):
        inline, artifact = journal.encode(value)
        assert (inline is None) == (artifact is not None)
        journal.commit([row(f"n{n}", inline, artifact=artifact)])
    journal.finish("completed")
    run = store.load_run("r")
    for node, value in zip(run.attempts, [*VALUES, "long " * 100], strict=True):
        assert node.has_value
        assert node.value() == value
        assert type(node.value()) is type(value)
    assert store.stats().rows["artifacts"] == store.stats().artifact_files == 1


def test_a_value_without_a_stored_form_is_refused_before_anything_is_written(store: Store) -> None:
    journal = start(store)
    with pytest.raises(EncodingError, match="no stored form"):
        journal.encode(object())
    journal.commit([row("a", None)])
    assert not store.load_run("r").attempts[0].has_value
    journal.close()


def test_an_artifact_has_its_row_in_the_commit_that_names_it(store: Store) -> None:
    journal = start(store)
    _, one = journal.encode("x" * 100)
    _, two = journal.encode("y" * 100)
    assert store.stats().rows["artifacts"] == 0
    journal.commit([row("plain")])
    assert store.stats().rows["artifacts"] == 0
    journal.commit([row("a", None, artifact=one)])
    assert [each["artifact_id"] for each in store.query("SELECT * FROM artifacts")] == [one]
    _, again = journal.encode("x" * 100)
    assert again == one
    journal.commit([row("b", None, artifact=one), row("c", None, artifact=two)])
    journal.close()
    assert store.artifacts_by_node("r") == {"a": [one], "b": [one], "c": [two]}


def test_cache_entries_join_the_next_commit(store: Store) -> None:
    journal = start(store)
    journal.write_cache({("global", "k"): journal.encode(1)})
    journal.write_cache(
        {("global", "k"): journal.encode((2, None)), ("a", "long"): journal.encode("x" * 100)}
    )
    assert store.query("SELECT * FROM cache_entries") == []
    journal.commit([row("a")])
    found = store.query("SELECT namespace, entry_key, value, artifact_id FROM cache_entries")
    assert {(each["namespace"], each["entry_key"]): each["value"] for each in found} == {
        ("a", "long"): None,
        ("global", "k"): '{"$type":"tuple","$value":[2,null]}',
    }
    assert store.load_run("r").cache == {("global", "k"): (2, None), ("a", "long"): "x" * 100}
    journal.write_cache({("global", "k"): journal.encode(3)})
    journal.flush()
    assert store.load_run("r").cache["global", "k"] == 3
    journal.write_cache({("global", "k"): journal.encode(4)})
    journal.close()
    assert store.load_run("r").cache["global", "k"] == 4


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_an_acknowledgement_covers_all_that_comes_before_it(store: Store, durability: str) -> None:
    journal = start(store, durability=durability)
    journal.commit([row("a"), row("b")], [2, 3], commands=[("k", "{}")], ack=True)
    journal.flush()
    run = store.load_run("r")
    assert (run.acked, run.last_seq, run.released) == (4, 4, [[2, 3]])
    assert [each.seq for each in run.attempts] == [1, 2]
    assert [each.seq for each in run.commands] == [3]
    journal.commit([], ack=True)
    journal.commit([row("c")])
    journal.commit([], [4])
    journal.commit([row("d")], [5])
    journal.flush()
    run = store.load_run("r")
    assert (run.acked, run.released) == (5, [[2, 3], [4], [5]]), (
        "releases alone acknowledge nothing"
    )
    assert store.query("SELECT body FROM run_log WHERE seq = 5") == [{"body": "[]"}]
    assert {each["kind"] for each in store.query("SELECT kind FROM run_log WHERE seq <> 3")} == {
        "released"
    }
    journal.commit([row("e")], ack=True, last=True)
    journal.finish("completed")
    run = store.load_run("r")
    assert run.acked == run.last_seq == 10


def test_an_acknowledgement_can_be_committed_again(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a")], [1], commands=[("k", "{}")], ack=True)
    journal.commit([row("a")], [1], commands=[("k", "{}")], ack=True, replay=True)
    run = store.load_run("r")
    assert len(run.attempts) == len(run.commands) == 1
    assert run.acked == run.last_seq == 6
    journal.close()
    run, journal = store.claim_run("r")
    journal.commit([], ack=True)
    assert store.load_run("r").acked == run.last_seq + 1
    journal.close()


def test_a_run_without_acknowledgements_has_none(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a")], [1])
    journal.commit([], [2, 3])
    journal.close()
    assert store.load_run("r").acked == 0


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_an_attempt_that_waits_is_replaced_by_its_end(
    store: Store, state: str, durability: str
) -> None:
    journal = start(store, durability=durability)
    journal.commit([row("a", None, state="waiting", meta='{"prompt":"?"}')], [1])
    journal.commit([row("b")])
    if durability != "exit":
        journal.flush()
        assert store.load_run("r").nodes["a", "default"].state == "waiting"
    end = row("a", "7", state=state, error='{"type":"E"}')
    journal.commit([row("c")], [2], replacing=[end], commands=[("k", "{}")])
    journal.finish("completed")
    run = store.load_run("r")
    assert [(each.node_id, each.state, each.seq) for each in run.attempts] == [
        ("b", "completed", 2),
        ("c", "completed", 3),
        ("a", state, 4),
    ]
    node = run.nodes["a", "default"]
    assert (node.value(), node.meta, node.error) == (7, None, {"type": "E"})
    assert [(each.seq, each.key) for each in run.commands] == [(5, "k")]
    assert run.released == [[2], [1]], "what the first commit started is still known"


def test_a_replacing_row_may_come_alone_and_again(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a", None, state="waiting")])
    _, artifact = journal.encode("x" * 100)
    journal.commit([], [4], replacing=[row("a", None, artifact=artifact)])
    journal.commit([], replacing=[row("a", None, artifact=artifact)], replay=True)
    journal.close()
    run = store.load_run("r")
    (node,) = run.attempts
    assert (node.state, node.value(), node.seq) == ("completed", "x" * 100, 4)
    assert run.released == [[4]]
    assert store.stats().rows["artifacts"] == 1


def test_history_is_rows_and_commands_in_the_order_of_commits(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a", None, state="waiting")], commands=[("k1", "1")])
    journal.commit([row("b", key="7"), row("c", state="failed")], [1], ack=True)
    journal.commit([], commands=[("k2", "2"), (None, "3")], ack=True)
    journal.commit([row("c", attempt=2)], replacing=[row("a")], commands=[("k3", "4")])
    journal.close()
    run = store.load_run("r")
    shown = [
        (each.key, each.body) if isinstance(each, StoredCommand) else (each.node_id, each.key)
        for each in run.history
    ]
    assert shown == [
        ("k1", "1"),
        ("b", "7"),
        ("c", "default"),
        ("k2", "2"),
        (None, "3"),
        ("c", "default"),
        ("a", "default"),
        ("k3", "4"),
    ]
    places = [each.seq for each in run.history]
    assert places == sorted(places)
    assert [place <= run.acked for place in places] == [True] * 5 + [False] * 3


@pytest.mark.parametrize("rows", [1, 2])
def test_what_was_to_join_a_commit_that_failed_joins_the_next_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Else a row would name an artifact without a row, and a prune would remove its file."""
    journal = start(store)
    _, artifact = journal.encode("x" * 100)
    wanted = [row("a", None, artifact=artifact), row("b")][:rows]
    journal.write_cache({("global", "k"): ("1", None), ("global", "l"): ("1", None)})
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StoreFull("no space")

        patch.setattr(RunJournal, "_write_all", full)
        with pytest.raises(StoreFull):
            journal.commit(wanted)
        journal.write_cache({("global", "k"): ("2", None)})
        with pytest.raises(StoreFull):
            journal.flush()
    assert store.stats().rows["artifacts"] == 0
    journal.commit(wanted, replay=True)
    journal.finish("completed")
    assert store.prune().files == 0
    run = store.load_run("r")
    assert run.nodes["a", "default"].value() == "x" * 100
    assert run.cache == {("global", "k"): 2, ("global", "l"): 1}


def test_an_interrupted_end_can_be_written_again_with_all_that_waited(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = start(store)
    journal.write_cache({("global", "k"): ("1", None)})
    with monkeypatch.context() as patch:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(RunJournal, "_write_all", interrupt)
        with pytest.raises(KeyboardInterrupt):
            journal.finish("completed")
    journal.finish("completed")
    run = store.load_run("r")
    assert (run.status, run.cache) == ("completed", {("global", "k"): 1})


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_everything_of_a_run_is_there_at_its_end(store: Store, durability: str) -> None:
    journal = start(store, durability=durability)
    journal.commit([], [0, 1], status="running")
    journal.commit([row("a", meta='{"m":1}')], [2], commands=[("k1", '{"c":1}')])
    journal.record_crashes({"a": 1, "b": 2})
    journal.commit([], commands=[(None, '{"c":2}'), (None, '{"c":3}')], status="paused")
    journal.commit([row("b", state="failed", error='{"e":1}')])
    journal.commit([row("c", None, attempt=0, state="skipped")], [])
    journal.commit([row("d")], commands=[("k2", "{}")], last=True)
    journal.finish("failed", '{"message":"no"}')
    run = store.load_run("r")
    assert [(each.node_id, each.state) for each in run.attempts] == [
        ("a", "completed"),
        ("b", "failed"),
        ("c", "skipped"),
        ("d", "completed"),
    ]
    assert run.released == [[0, 1], [2]]
    assert [(each.key, each.body) for each in run.commands] == [
        ("k1", '{"c":1}'),
        (None, '{"c":2}'),
        (None, '{"c":3}'),
        ("k2", "{}"),
    ]
    assert run.crashes == {"a": 1, "b": 2}
    assert (run.status, run.error, run.owner) == ("failed", {"message": "no"}, None)
    seqs = [each.seq for each in run.attempts] + [each.seq for each in run.commands]
    assert len(set(seqs)) == len(seqs)
    assert max(seqs) == run.last_seq


@pytest.mark.parametrize("end", ["finish", "close"])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_the_last_commit_is_one_with_the_end(store: Store, durability: str, end: str) -> None:
    journal = start(store, durability=durability)
    journal.commit([row("a")])
    journal.commit([row("b")], last=True)
    assert "b" not in [each.node_id for each in store.load_run("r").attempts]
    if end == "finish":
        journal.finish("completed")
    else:
        journal.close()
    run = store.load_run("r")
    assert [each.node_id for each in run.attempts] == ["a", "b"]
    assert run.status == ("completed" if end == "finish" else "running")


def test_an_end_without_a_call_can_be_recorded_again(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a", None, attempt=0, state="skipped", meta='{"reason":"1"}')], [7])
    journal.commit([row("a", None, attempt=0, state="cancelled", meta='{"reason":"2"}'), row("b")])
    journal.commit([row("a")])
    journal.close()
    run = store.load_run("r")
    assert [(each.node_id, each.state, each.attempt) for each in run.attempts] == [
        ("a", "cancelled", 0),
        ("b", "completed", 1),
        ("a", "completed", 1),
    ]
    assert run.attempts[0].meta == {"reason": "2"}
    assert run.nodes["a", "default"].state == "completed"


def test_a_command_key_is_stored_once(store: Store) -> None:
    journal = start(store)
    journal.commit([], commands=[("k", "1")])
    with pytest.raises(InvalidState, match="replay=True"):
        journal.commit([row("a")], commands=[("k", "2")])
    assert store.load_run("r").attempts == []
    journal.commit([row("a")], commands=[("k", "2"), ("l", "3")], replay=True)
    run = store.load_run("r")
    assert [(each.key, each.body) for each in run.commands] == [("k", "1"), ("l", "3")]
    journal.close()


def test_a_closed_journal_and_a_closed_store_say_so(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db") as store:
        journal = start(store)
        journal.finish("completed")
        calls: list[Callable[[], None]] = [
            lambda: journal.commit([row("a")]),
            lambda: journal.finish("failed"),
            lambda: journal.flush(),
            lambda: journal.record_crashes({}),
            lambda: journal.write_cache({("a", "b"): ("1", None)}),
            lambda: journal.commit([row("a")], last=True),
        ]
        for call in calls:
            with pytest.raises(InvalidState, match="closed"):
                call()
        journal.close()
        left = start(store, "left")
    for rows in ([row("a")], [row("a"), row("b")]):
        with pytest.raises(InvalidState, match="closed"):
            left.commit(rows)
    with Store(tmp_path / "x.db") as store:
        assert store.load_run("r").status == "completed"
        run, again = store.claim_run("left")
        assert run.status == "running"
        again.close()


def test_level_async_waits_when_too_much_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "QUEUE_LIMIT", 10)
    go = threading.Event()
    real = RunJournal._write
    largest = 0

    def slow(self: RunJournal, batches: Sequence[Any]) -> None:
        nonlocal largest
        go.wait(20)
        largest = max(largest, sum(batch.size() for batch in batches))
        real(self, batches)

    with Store(tmp_path / "x.db") as store:
        journal = start(store, durability="async")
        monkeypatch.setattr(journal._queue, "_write", slow.__get__(journal))
        written: list[int] = []

        def commit() -> None:
            for n in range(40):
                journal.commit([row(f"n{n}")])
                written.append(n)

        thread = threading.Thread(target=commit)
        thread.start()
        deadline = time.monotonic() + 5
        while len(written) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert 5 <= len(written) <= 12, "it waits while nothing is committed"
        go.set()
        thread.join()
        journal.finish("completed")
        assert largest <= 12
        run = store.load_run("r")
        assert [each.node_id for each in run.attempts] == [f"n{n}" for n in range(40)]


def test_level_async_returns_before_the_commit(tmp_path: Path) -> None:
    with Store(tmp_path / "x.db", busy_timeout=20) as store:
        journal = start(store, durability="async")
        with store.database.exclusive():
            journal.commit([row("a")])
            journal.commit([row("b")])
            assert store.load_run("r").attempts == []
        journal.flush()
        assert len(store.load_run("r").attempts) == 2
        journal.close()


def test_a_transaction_is_tried_again_while_the_database_is_busy(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = start(store)
    tries = []
    real = RunJournal._write_all

    def busy_twice(self: RunJournal, tx: Any, batches: Sequence[Any]) -> None:
        tries.append(1)
        real(self, tx, batches)
        if len(tries) < 3:
            raise StoreBusy("locked")

    monkeypatch.setattr(RunJournal, "_write_all", busy_twice)
    journal.commit([row("a"), row("b")], [1])
    assert len(tries) == 3
    assert [each.seq for each in store.load_run("r").attempts] == [1, 2]
    journal.close()


def test_a_run_keeps_large_inputs_in_a_file(store: Store) -> None:
    inputs = {"text": "x" * 1000}
    journal = store.create_run(run_id="r", graph=GRAPH, inputs=inputs, idempotency_key="k")
    journal.finish("completed")
    assert store.load_run("r").inputs == inputs
    assert store.stats().rows["artifacts"] == 1
    with pytest.raises(KeyTaken):
        store.create_run(run_id="s", graph=GRAPH, inputs=inputs, idempotency_key="k")
    assert store.prune().artifacts == ()
    assert store.load_run("r").inputs == inputs


@pytest.mark.benchmark
@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_a_commit_costs_little_more_than_sqlite_by_hand(tmp_path: Path, synchronous: str) -> None:
    """In turns, so that a busy machine slows both; by hand means five columns and no fence."""
    by_hand = sqlite3.connect(tmp_path / "hand.db", isolation_level=None)
    by_hand.execute("PRAGMA journal_mode=WAL")
    by_hand.execute(f"PRAGMA synchronous={synchronous}")
    by_hand.execute(
        "CREATE TABLE results (run INTEGER, node TEXT, value BLOB, started REAL, ended REAL,"
        " PRIMARY KEY (run, node)) WITHOUT ROWID"
    )
    insert = "INSERT INTO results VALUES (?, ?, ?, ?, ?)"
    at_most = {"FULL": 1.1, "NORMAL": 2.0}[synchronous]
    ratios: list[float] = []
    with Store(f"sqlite:{tmp_path / 'ours.db'}?synchronous={synchronous}") as store:
        journal = start(store)
        # Other programs' syncs come in between; the quietest stretch says what it costs.
        while len(ratios) < 5 or (min(ratios) >= at_most and len(ratios) < 30):
            ours: list[float] = []
            theirs: list[float] = []
            for n in range(100 * len(ratios), 100 * len(ratios) + 100):
                rows = [row(f"n{n}")]
                began = time.perf_counter()
                journal.commit(rows, [n])
                between = time.perf_counter()
                by_hand.execute(insert, (1, f"n{n}", b"1", 1.5, 2.5))
                ours.append(between - began)
                theirs.append(time.perf_counter() - between)
            ratios.append(statistics.median(ours) / statistics.median(theirs))
        journal.finish("completed")
    by_hand.close()
    print(f"{synchronous}: {', '.join(f'{ratio:.2f}' for ratio in ratios)} times by hand")
    assert min(ratios) < at_most
