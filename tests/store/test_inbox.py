"""The inbox: what other processes ask of a run, in order, and what became of it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.errors import ConfigurationError, InvalidState, RunNotFound
from dagger_dsl.store.database import Database
from tests.scale import count
from tests.store.helpers import Store, child, line, row, start


@pytest.fixture(params=["file", "memory", "core"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind; `core` takes the way of databases that are not SQLite."""
    url = "sqlite::memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'runs.db'}"
    with Store(url) as made:
        made.database.through_core = request.param == "core"
        yield made


def test_requests_come_in_the_order_they_were_made(store: Store) -> None:
    journal = start(store)
    start(store, "other").close()
    first = store.send("r", '{"kind":"pause"}', sender="me")
    store.send("other", "{}")
    second = store.send("r", "ü")
    assert journal.requests() == store.requests("r") == [(first, '{"kind":"pause"}'), (second, "ü")]
    assert journal.requests(after=first) == store.requests("r", first) == [(second, "ü")]
    assert journal.requests(second) == []
    rows = store.query("SELECT sender, created_at FROM inbox WHERE run_id = 'r'")
    assert [each["sender"] for each in rows] == ["me", None]
    assert "." in rows[0]["created_at"], "finer than a second"
    journal.close()
    assert journal.requests(first) == [(second, "ü")], "a look needs no ownership"


def test_a_run_that_is_not_completed_takes_requests(store: Store) -> None:
    with pytest.raises(RunNotFound, match="no run 'nope'"):
        store.send("nope", "{}")
    for status in ("failed", "paused", "cancelled", "timed_out"):
        start(store, status).finish(status)
        assert store.send(status, "{}") > 0
    start(store).finish("completed")
    with pytest.raises(InvalidState, match="run r is completed and takes no requests"):
        store.send("r", "{}")
    assert store.requests("r") == store.requests("nope") == []
    assert store.stats().rows["inbox"] == 4


def test_a_request_may_be_for_a_run_of_which_nobody_asked_anything_since(store: Store) -> None:
    start(store).close()
    start(store, "other").close()
    first = store.send("r", "1", after=0)
    assert first > 0
    store.send("other", "{}")
    assert store.send("r", "2", after=0) == 0, "somebody was quicker"
    assert store.send("r", "3", after=first) > first
    assert [body for _, body in store.requests("r")] == ["1", "3"]


def test_an_outcome_is_what_the_owner_recorded(store: Store) -> None:
    journal = start(store)
    number = store.send("r", "{}")
    assert store.outcome_of("r", number) is None
    journal.commit([row("a")], commands=[(f"inbox:{number}", '{"done":true}')])
    assert store.outcome_of("r", number) == '{"done":true}'
    assert store.outcome_of("other", number) is None
    assert store.outcome_of("r", number + 1) is None
    with pytest.raises(InvalidState, match="replay=True"):
        journal.commit([row("b")], commands=[(f"inbox:{number}", "{}")])
    journal.close()


def test_what_no_request_can_be_is_refused(store: Store) -> None:
    start(store).close()
    asks: list[Any] = [
        lambda: store.send(5, "{}"),  # type: ignore[arg-type]
        lambda: store.send("r", b"{}"),  # type: ignore[arg-type]
        lambda: store.send("r", "{}", sender="a\ud800"),
        lambda: store.send("r", "{}", after=-1),
        lambda: store.requests(None),  # type: ignore[arg-type]
        lambda: store.requests("r", after=-1),
        lambda: store.outcome_of("r", True),
        lambda: store.outcome_of("r", None),  # type: ignore[arg-type]
    ]
    for ask in asks:
        with pytest.raises(ConfigurationError, match=r"is a text|surrogate|whole number"):
            ask()
    assert store.stats().rows["inbox"] == 0


def test_removed_runs_take_their_requests_along(store: Store) -> None:
    for run_id in ("old", "retained", "kept"):
        journal = start(store, run_id)
        store.send(run_id, "{}")
        journal.finish("completed" if run_id == "old" else "failed")
    assert store.prune(keep_last=2).runs == ("old",)
    left = {each["run_id"] for each in store.query("SELECT run_id FROM inbox")}
    assert left == {"retained", "kept"}
    store.retain("flow", keep_runs=1)
    assert store.stats().rows["inbox"] == 1
    fresh = start(store, "old")
    assert fresh.requests() == []
    assert store.send("old", "{}") > store.requests("kept")[0][0]
    fresh.close()


def test_looking_does_not_disturb_the_connection_that_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "x.db") as store:
        journal = start(store)
        number = store.send("r", "{}")
        journal.requests()
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> Any:
                raise AssertionError("the writer was asked for")

            patch.setattr(Database, "_writer_connection", refuse)
            assert journal.requests() == [(number, "{}")]
        other = sqlite3.connect(tmp_path / "x.db")
        other.execute("BEGIN IMMEDIATE")
        assert journal.requests() == [(number, "{}")], "nor does somebody else's transaction"
        other.rollback()
        other.close()
        journal.close()


def test_the_question_for_requests_reads_an_index_alone_where_there_are_none(store: Store) -> None:
    with store.reading() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT command_id, body FROM inbox "
            "WHERE run_id = ? AND command_id > ? ORDER BY command_id",
            ("r", 1),
        ).all()
    assert len(plan) == 1, "no sorting"
    assert "USING INDEX ix_inbox_run_id (run_id=? AND command_id>?)" in plan[0].detail


SENDER = """
    from concurrent.futures import ThreadPoolExecutor
    store = Store(sys.argv[1], busy_timeout=60)
    store.init_database()
    print("ready", flush=True)
    send = lambda n: store.send("r", f"{sys.argv[2]} {n}")
    with ThreadPoolExecutor(4) as pool:
        print(*pool.map(send, range(int(sys.argv[3]))))
"""


def test_requests_of_many_senders_are_each_seen_once_and_in_order(tmp_path: Path) -> None:
    """While the owner commits: what was seen up to a number is all there ever is up to it."""
    path, each = tmp_path / "x.db", count(500, least=40)
    with Store(path, busy_timeout=60) as store:
        journal = start(store)
        seen: list[tuple[int, str]] = []
        senders = [child(SENDER, path, name, each) for name in ("one", "two")]
        assert [line(process) for process in senders] == ["ready", "ready"]
        done = threading.Event()

        def wait() -> None:
            for process in senders:
                process.wait()
            done.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        turn = 0
        while not done.is_set():
            new = journal.requests(seen[-1][0] if seen else 0)
            seen += new
            turn += 1
            journal.commit([row(f"n{turn}")], commands=[(f"inbox:{n}", "{}") for n, _ in new])
        waiter.join()
        seen += journal.requests(seen[-1][0] if seen else 0)
        journal.finish("completed")
        printed = {int(word) for process in senders for word in process.communicate()[0].split()}
        assert seen == store.requests("r")
        assert {number for number, _ in seen} == printed
        assert {body for _, body in seen} == {
            f"{name} {n}" for name in ("one", "two") for n in range(each)
        }
