"""Results that runs share: written with the result they belong to, found until they expire."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from dagger_dsl.errors import ConfigurationError, DecodingError, RunFenced, StoreFull
from dagger_dsl.store.journal import RunJournal
from dagger_dsl.store.memos import Memo
from tests.store.helpers import Store, row, start

NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.fixture(params=["file", "memory", "core"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind; `core` takes the way of databases that are not SQLite."""
    url = "sqlite::memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'runs.db'}"
    with Store(url, artifact_threshold=50, artifact_dir=tmp_path / "artifacts") as made:
        made.database.through_core = request.param == "core"
        yield made


def remember(journal: Any, key: str, value: Any, node: str = "a", **options: Any) -> Any:
    """Keep a value as that of a node; return its row."""
    inline, artifact = journal.encode(value)
    given: dict[str, Any] = {
        "action": "act",
        "version": "v1",
        "input_hash": f"hash of {key}",
        "expires_at": None,
        "now": NOON,
        **options,
    }
    journal.remember(key, node_id=node, inline=inline, artifact_id=artifact, **given)
    return row(node, inline, artifact=artifact)


@pytest.mark.row("C19", "C23")
@pytest.mark.parametrize("value", [(1, None), "long " * 100], ids=["inline", "artifact"])
def test_a_result_is_found_by_its_key_in_later_runs(store: Store, value: Any) -> None:
    journal = start(store)
    found = remember(journal, "k", value, expires_at=NOON + HOUR)
    assert journal.recall("k") is None, "it is not committed yet"
    journal.commit([found])
    journal.finish("completed")
    later = start(store, "later")
    memo = Memo("k", "act", "v1", "hash of k", "r", "a", NOON, NOON + HOUR)
    assert later.recall("k", now=NOON) == store.recall("k", now=NOON) == (value, memo)
    assert later.recall("other") is store.recall("other") is None
    later.close()
    assert store.stats().rows["artifacts"] == (1 if isinstance(value, str) else 0)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        memo.key = "x"  # type: ignore[misc]


@pytest.mark.row("C21")
def test_an_expired_result_is_none(store: Store) -> None:
    journal = start(store)
    journal.commit([remember(journal, "k", 1, expires_at=NOON + HOUR)])
    journal.commit([remember(journal, "never", 2, "b")])
    just_before = NOON + HOUR - dt.timedelta(microseconds=1)
    assert journal.recall("k", now=just_before) is not None
    assert journal.recall("k", now=NOON + HOUR) is store.recall("k", now=NOON + HOUR) is None
    assert store.recall("k") is None, "by the clock"
    assert store.recall("never") is not None
    elsewhere = just_before.astimezone(dt.timezone(dt.timedelta(hours=5)))
    assert store.recall("k", now=elsewhere) is not None
    journal.close()


def test_the_newest_result_of_a_key_is_the_one_that_stays(store: Store) -> None:
    journal = start(store)
    journal.commit([remember(journal, "k", "first")])
    journal.finish("completed")
    later = start(store, "later")
    later.commit([remember(later, "k", "second", "b", version="v2", now=NOON + HOUR)])
    later.close()
    found = store.recall("k")
    assert found is not None
    assert found[0] == "second"
    assert (found[1].version, found[1].run_id, found[1].node_id) == ("v2", "later", "b")
    assert found[1].created_at == NOON + HOUR
    assert store.stats().rows["memo"] == 1


@pytest.mark.row("C23")
def test_the_row_of_the_result_has_the_hash_of_its_inputs(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a", state="failed")])
    journal.note_inputs("hit", "h1")
    remember(journal, "k", 1, "a", input_hash="h2")
    remember(journal, "l", 1, "m", input_hash="h3", invocation_key="7")
    journal.commit([row("hit"), row("a", attempt=2), row("m", key="7"), row("m", key="8")])
    journal.commit([row("plain")])
    journal.close()
    found = [(each.node_id, each.key, each.input_hash) for each in store.load_run("r").attempts]
    assert found == [
        ("a", "default", None),
        ("hit", "default", "h1"),
        ("a", "default", "h2"),
        ("m", "7", "h3"),
        ("m", "8", None),
        ("plain", "default", None),
    ]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_result_is_shared_from_the_commit_of_its_row_on(store: Store, durability: str) -> None:
    journal = start(store, durability=durability)
    found = remember(journal, "k", "long " * 100)
    journal.commit([found], [1])
    if durability == "exit":
        assert store.recall("k") is None
    journal.finish("completed")
    assert store.recall("k") is not None


def test_a_commit_that_fails_shares_nothing_and_the_next_one_does(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = start(store)
    found = remember(journal, "k", "long " * 100)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StoreFull("no space")

        patch.setattr(RunJournal, "_write_all", full)
        with pytest.raises(StoreFull):
            journal.commit([found])
    assert store.memos() == []
    journal.commit([found], replay=True)
    assert store.recall("k") is not None
    assert store.stats().rows["artifacts"] == 1
    journal.close()


def test_who_lost_the_run_shares_nothing(store: Store) -> None:
    journal = start(store)
    found = remember(journal, "k", 1)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE flow_runs SET epoch = 5")
    for _ in range(2):
        with pytest.raises(RunFenced):
            journal.commit([found])
    with pytest.raises(RunFenced):
        remember(journal, "l", 1)
    journal.close()
    assert store.memos() == []


def test_shared_results_are_listed_newest_first_and_forgotten(store: Store) -> None:
    journal = start(store)
    for n, (action, node) in enumerate([("one", "a"), ("two", "b"), ("one", "b"), ("two", "a")]):
        remember(journal, f"k{n}", n, f"{node}{n}", action=action, now=NOON + n * HOUR)
        remember(journal, f"l{n}", n, node, action=action, now=NOON - n * HOUR)
        journal.flush()
    journal.close()
    keys = [each.key for each in store.memos()]
    assert keys == ["k3", "k2", "k1", "k0", "l0", "l1", "l2", "l3"]
    assert [each.key for each in store.memos("one")] == ["k2", "k0", "l0", "l2"]
    assert [each.key for each in store.memos(node_id="b")] == ["l1", "l2"]
    assert [each.key for each in store.memos("one", "b")] == ["l2"]
    assert store.forget_memo("k3")
    assert not store.forget_memo("k3")
    assert store.recall("k3") is None
    assert store.forget_memos("one") == 4
    assert store.forget_memos("one") == 0
    assert [each.key for each in store.memos()] == ["k1", "l1", "l3"]


@pytest.mark.row("C40")
def test_pruning_keeps_what_shared_results_refer_to_and_removes_expired_ones(
    store: Store,
) -> None:
    assert store.files is not None
    soon, past = dt.datetime.now(dt.UTC) + HOUR, NOON
    journal = start(store)
    for key, expiry in (("old", past), ("soon", soon), ("never", None)):
        remembered = remember(journal, key, key * 50, key, expires_at=expiry)
        journal.commit([remembered])
    journal.finish("completed")
    plan = store.prune(older_than=0, dry_run=True)
    assert (plan.runs, len(plan.artifacts), plan.memos) == (("r",), 1, 1)
    assert len(store.memos()) == 3
    done = store.prune(older_than=0)
    assert (done.runs, done.artifacts, done.memos) == (("r",), plan.artifacts, 1)
    assert {each.key for each in store.memos()} == {"soon", "never"}
    for key in ("soon", "never"):
        found = store.recall(key)
        assert found is not None
        assert found[0] == key * 50
        assert found[1].run_id == "r", "which is gone"
    store.forget_memo("never")
    assert len(store.prune().artifacts) == 1
    assert store.recall("soon") is not None


def test_what_no_shared_result_can_be_is_refused(store: Store) -> None:
    journal = start(store)
    naive = NOON.replace(tzinfo=None)
    asks: list[Any] = [
        lambda: remember(journal, "", 1),
        lambda: remember(journal, "k", 1, expires_at=naive),
        lambda: remember(journal, "k", 1, now=naive),
        lambda: remember(journal, "k", 1, expires_at=60),
        lambda: store.recall("k", now=naive),
        lambda: store.recall(5),  # type: ignore[arg-type]
        lambda: store.memos(action=b"x"),  # type: ignore[arg-type]
        lambda: store.forget_memo(5),  # type: ignore[arg-type]
        lambda: store.forget_memos("a\ud800"),
    ]
    for ask in asks:
        with pytest.raises(ConfigurationError, match=r"text|time zone|datetime|surrogate"):
            ask()
    journal.commit([row("a")])
    journal.close()
    assert store.memos() == []


def test_a_value_that_cannot_be_read_is_an_error_and_no_miss(store: Store) -> None:
    journal = start(store)
    journal.commit([remember(journal, "k", 1)])
    journal.close()
    with store.writing() as connection:
        connection.exec_driver_sql("""UPDATE memo SET value = '{"$type":"nope","$value":1}'""")
    with pytest.raises(DecodingError, match="the shared result 'k'"):
        store.recall("k")
