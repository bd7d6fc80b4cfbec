"""Values that agents share: versions, comparing and setting, an end, and no change that is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.errors import ConfigurationError, EncodingError, InvalidState
from dagger_dsl.store.shared_values import KEPT_AFTER, SharedValues
from dagger_dsl.testing import FakeClock
from tests.store.helpers import Store, child, kill, line


@pytest.fixture
def clock() -> FakeClock:
    """The time of day."""
    return FakeClock(1e6)


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of each kind."""
    url: Any = tmp_path / "state.db" if request.param == "file" else "sqlite::memory:"
    with Store(url) as made:
        yield made


@pytest.fixture
def values(store: Store, clock: FakeClock) -> SharedValues:
    """The shared values of a store."""
    return SharedValues(store.database, store._payloads, clock)


def test_a_value_comes_back_as_a_copy(values: SharedValues) -> None:
    given = {"a": (1, {2}), "b": None}
    assert values.set("s", "k", given) == 1
    found = values.get("s", "k")
    assert found is not None
    assert (found.key, found.value, found.version, found.expires_at) == ("k", given, 1, None)
    found.value["a"] = 0
    again = values.get("s", "k")
    assert again is not None
    assert again.value == given
    assert values.get("s", "other") is None
    assert values.get("other", "k") is None
    values.set("s", "none", None)
    none = values.get("s", "none")
    assert none is not None
    assert none.value is None


def test_a_scope_lists_what_it_has(values: SharedValues) -> None:
    for key in ("b", "a", "c"):
        values.set("s", key, key.upper())
    values.set("t", "z", 1)
    values.delete("s", "c")
    assert values.keys("s") == ["a", "b"]
    assert [(each.key, each.value) for each in values.items("s")] == [("a", "A"), ("b", "B")]
    assert values.scopes() == ["s", "t"]
    assert values.keys("nowhere") == []


def test_who_compares_sets_only_what_nobody_has_changed(values: SharedValues) -> None:
    assert values.compare_and_set("s", "k", "first", 0) == 1
    assert values.compare_and_set("s", "k", "again", 0) is None
    assert values.compare_and_set("s", "k", "second", 1) == 2
    assert values.compare_and_set("s", "k", "late", 1) is None
    assert values.compare_and_set("s", "none", "x", 3) is None
    found = values.get("s", "k")
    assert found is not None
    assert (found.value, found.version) == ("second", 2)
    assert not values.delete("s", "k", version=1)
    assert values.delete("s", "k", version=2)
    assert not values.delete("s", "k")


def test_a_key_that_comes_back_goes_on_with_its_versions(values: SharedValues) -> None:
    values.set("s", "k", "old")
    values.delete("s", "k")
    assert values.compare_and_set("s", "k", "stale", 1) is None
    assert values.compare_and_set("s", "k", "new", 0) == 3
    assert values.compare_and_set("s", "k", "stale", 1) is None


def test_a_value_is_gone_when_its_time_is_over(values: SharedValues, clock: FakeClock) -> None:
    values.set("s", "k", 1, ttl=10)
    found = values.get("s", "k")
    assert found is not None
    assert found.expires_at is not None
    assert found.expires_at.timestamp() == 1e6 + 10
    clock.advance(9.9)
    assert values.increment("s", "k") == 2, "it keeps its end"
    assert values.keys("s") == ["k"]
    clock.advance(0.1)
    assert values.get("s", "k") is None
    assert (values.keys("s"), values.items("s"), values.scopes()) == ([], [], [])
    assert not values.delete("s", "k")
    assert values.increment("s", "k", 5) == 5
    clock.advance(1e9)
    assert values.keys("s") == ["k"], "what replaced it has no end"
    values.set("s", "k", 1, ttl=1)
    values.set("s", "k", 2)
    clock.advance(10.0)
    assert values.keys("s") == ["k"]


def test_numbers_are_added_to(values: SharedValues) -> None:
    assert values.increment("s", "n") == 1
    assert values.increment("s", "n", -3) == -2
    assert values.increment("s", "n", 0.5) == -1.5
    values.set("s", "large", 2**63)
    assert values.increment("s", "large") == 2**63 + 1
    for wrong in ("1", None, True, [1], float("nan")):
        values.set("s", "x", wrong)
        with pytest.raises(InvalidState, match="nothing can be added to"):
            values.increment("s", "x")
    values.set("s", "x", 1e308)
    with pytest.raises(InvalidState, match="no finite number"):
        values.increment("s", "x", 1e308)
    for by in ("1", True, float("inf"), None):
        with pytest.raises(ConfigurationError, match="a finite number"):
            values.increment("s", "n", by)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", 3, None, "x" * 501])
def test_what_cannot_be_a_name_is_refused(values: SharedValues, name: Any) -> None:
    for scope, key in ((name, "k"), ("s", name)):
        for call in (
            lambda scope=scope, key=key: values.get(scope, key),
            lambda scope=scope, key=key: values.set(scope, key, 1),
            lambda scope=scope, key=key: values.increment(scope, key),
            lambda scope=scope, key=key: values.delete(scope, key),
            lambda scope=scope, key=key: values.compare_and_set(scope, key, 1, 0),
        ):
            with pytest.raises(ConfigurationError, match=r"a (scope|key)"):
                call()
    values.set("100%_'\"", "; DROP TABLE tasks", 1)
    assert values.keys("100%_'\"") == ["; DROP TABLE tasks"]


def test_what_cannot_be_stored_or_compared_is_refused(values: SharedValues) -> None:
    with pytest.raises(EncodingError, match="the value of 'k' of scope 's'"):
        values.set("s", "k", object())
    for version in (-1, 1.0, True, "1", None):
        with pytest.raises(ConfigurationError, match="version"):
            values.compare_and_set("s", "k", 1, version)  # type: ignore[arg-type]  # on purpose
    assert values.keys("s") == []


def test_a_large_value_is_a_file_as_long_as_it_is_needed(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagger_dsl.store.job_upkeep.now", clock)
    with Store(tmp_path / "state.db") as store:
        values = SharedValues(store.database, store._payloads, clock)
        values.set("s", "k", "x" * 100_000)
        values.set("s", "short", "y" * 100_000, ttl=10)
        assert store.stats().artifact_files == 2
        assert store.prune().values == 0
        found = values.get("s", "k")
        assert found is not None
        assert len(found.value) == 100_000
        clock.advance(10.0 + KEPT_AFTER)
        planned = store.prune(dry_run=True)
        assert (planned.values, len(planned.artifacts)) == (1, 1)
        report = store.prune()
        assert (report.values, report.artifacts, report.files) == (1, planned.artifacts, 1)
        assert store.stats().rows["shared_values"] == 1
        assert values.keys("s") == ["k"]


def test_threads_that_add_lose_nothing(values: SharedValues) -> None:
    def add() -> None:
        for _ in range(50):
            values.increment("s", "n")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = values.get("s", "n")
    assert found is not None
    assert (found.value, found.version) == (200, 200)


ADDER = """
import sys
from dagger_dsl.store.shared_values import SharedValues
from dagger_dsl.store.storage import Store

with Store(sys.argv[1]) as store:
    values = SharedValues(store.database, store._payloads)
    for _ in range(200):
        values.increment("s", "n")
        while True:
            found = values.get("s", "list")
            old, version = ([], 0) if found is None else (found.value, found.version)
            if values.compare_and_set("s", "list", [*old, sys.argv[2]][-5:], version):
                break
"""


def test_processes_that_add_lose_nothing(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}?synchronous=NORMAL"
    with Store(url) as store:
        adders = [subprocess.Popen([sys.executable, "-c", ADDER, url, name]) for name in "ab"]
        assert [each.wait(timeout=120) for each in adders] == [0, 0]
        values = SharedValues(store.database, store._payloads)
        number, listed = values.get("s", "n"), values.get("s", "list")
        assert number is not None
        assert listed is not None
        assert (number.value, number.version, listed.version) == (400, 400, 400)


def test_what_was_set_is_there_after_a_kill(tmp_path: Path) -> None:
    process = child(
        """
        from dagger_dsl.store.shared_values import SharedValues
        with Store(sys.argv[1]) as store:
            values = SharedValues(store.database, store._payloads)
            while True:
                print(values.increment("s", "n"), flush=True)
        """,
        tmp_path / "state.db",
    )
    seen = [line(process) for _ in range(20)]
    kill(process)
    with Store(tmp_path / "state.db") as store:
        found = SharedValues(store.database, store._payloads).get("s", "n")
        assert found is not None
        assert found.value >= int(seen[-1])
        assert found.value == found.version


def test_what_lies_in_a_file_is_not_read_to_be_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "state.db", artifact_threshold=1_000) as store:
        values = SharedValues(store.database, store._payloads)
        values.set("s", "k", "x" * 2_000)
        monkeypatch.setattr(values._payloads, "decode", None)
        with pytest.raises(InvalidState, match="set a number first"):
            values.increment("s", "k")
