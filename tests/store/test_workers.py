"""A worker knows which of the others are gone, and takes no live one for dead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagger_dsl.store.storage import Store
from dagger_dsl.store.workers import Worker
from dagger_dsl.testing import FakeClock

#: Of the tests' workers.
LEASE = 10.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:{tmp_path / 'tasks.db'}") as made:
        yield made


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def worker(store: Store, clock: FakeClock) -> Worker:
    return Worker(store.database, LEASE, clock)


@pytest.fixture
def stopped(store: Store) -> Iterator[str]:
    """Give the name of a worker of this host that lives, and gives no sign of it."""
    made = Worker(store.database, LEASE)
    made.arrive()
    yield made.name
    made.leave()


def test_one_of_this_host_without_its_lock_is_dead_at_once(worker: Worker, stopped: str) -> None:
    host = worker.name.partition("@")[2]
    owners = {worker.name: 0, stopped: 0, f"died@{host}": 0}
    assert list(worker.gone(owners)) == [f"died@{host}"]
    assert worker.has_died(f"died@{host}")
    assert not worker.has_died(stopped)


def test_one_that_stands_still_for_a_lease_is_gone_though_it_keeps_its_lock(
    worker: Worker, stopped: str, clock: FakeClock
) -> None:
    for _ in range(int(LEASE)):
        assert list(worker.gone({stopped: 7})) == []
        clock.advance(1)
    assert list(worker.gone({stopped: 7})) == [stopped]
    assert not worker.has_died(stopped)


def test_one_of_another_host_is_known_by_its_signs_of_life(
    worker: Worker, clock: FakeClock
) -> None:
    beats = 0
    for second in range(3 * int(LEASE)):
        beats += second % 9 == 0
        assert list(worker.gone({"one@there": beats})) == []
        clock.advance(1)
    gone = [found for _ in range(int(LEASE)) if (found := _look(worker, clock, beats))]
    assert gone == [["one@there"]]


def _look(worker: Worker, clock: FakeClock, beats: int) -> list[str]:
    clock.advance(1)
    return list(worker.gone({"one@there": beats}))


def test_who_stood_still_itself_begins_anew(worker: Worker, clock: FakeClock) -> None:
    assert list(worker.gone({"one@there": 1})) == []
    clock.advance(100)  # as when the whole machine was halted
    assert list(worker.gone({"one@there": 1})) == []
    clock.advance(1)
    assert list(worker.gone({"one@there": 1})) == []


@pytest.mark.parametrize(("pause", "gone"), [(0.9, True), (1.1, False)])
def test_who_looks_seldom_for_a_short_lease_stood_still(
    store: Store, clock: FakeClock, pause: float, gone: bool
) -> None:
    worker = Worker(store.database, 0.5, clock)
    assert list(worker.gone({"one@there": 1})) == []
    clock.advance(pause)
    assert bool(list(worker.gone({"one@there": 1}))) is gone


def test_one_that_had_nothing_to_do_for_a_while_is_watched_anew(
    worker: Worker, clock: FakeClock
) -> None:
    for owners in ({"one@there": 1}, {}, {"one@there": 1}):
        for _ in range(6):
            assert list(worker.gone(owners)) == []
            clock.advance(1)


def test_nothing_of_another_kind_of_database_is_known_by_locks(clock: FakeClock) -> None:
    with Store("sqlite::memory:") as store:
        worker = Worker(store.database, LEASE, clock)
        host = worker.name.partition("@")[2]
        assert list(worker.gone({f"other@{host}": 0})) == []
