"""Who watches the owners of tasks knows which of them are gone, and takes no live one for dead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagger_dsl.agents.vigil import Vigil, offset_of
from dagger_dsl.store.storage import Store
from dagger_dsl.store.task_steps import DIED, SILENT
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
def vigil(store: Store, clock: FakeClock) -> Vigil:
    return Vigil(store.database, "me@here", "here", LEASE, clock)


def test_one_of_this_host_without_its_lock_is_dead_at_once(store: Store, vigil: Vigil) -> None:
    store.database.locking().try_lock(offset_of("lives@here"))
    owners = {"me@here": 0, "lives@here": 0, "died@here": 0}
    assert list(vigil.gone(owners)) == [("died@here", DIED)]


def test_one_that_stands_still_for_a_lease_is_gone_though_it_keeps_its_lock(
    store: Store, vigil: Vigil, clock: FakeClock
) -> None:
    store.database.locking().try_lock(offset_of("stopped@here"))
    for _ in range(int(LEASE)):
        assert list(vigil.gone({"stopped@here": 7})) == []
        clock.advance(1)
    assert list(vigil.gone({"stopped@here": 7})) == [("stopped@here", SILENT)]


def test_one_of_another_host_is_known_by_its_signs_of_life(vigil: Vigil, clock: FakeClock) -> None:
    beats = 0
    for second in range(3 * int(LEASE)):
        beats += second % 9 == 0
        assert list(vigil.gone({"one@there": beats})) == []
        clock.advance(1)
    gone = [found for _ in range(int(LEASE)) if (found := _look(vigil, clock, beats))]
    assert gone == [[("one@there", SILENT)]]


def _look(vigil: Vigil, clock: FakeClock, beats: int) -> list[tuple[str, str]]:
    clock.advance(1)
    return list(vigil.gone({"one@there": beats}))


def test_who_stood_still_itself_begins_anew(vigil: Vigil, clock: FakeClock) -> None:
    assert list(vigil.gone({"one@there": 1})) == []
    clock.advance(100)  # as when the whole machine was halted
    assert list(vigil.gone({"one@there": 1})) == []
    clock.advance(1)
    assert list(vigil.gone({"one@there": 1})) == []


def test_one_that_had_nothing_to_do_for_a_while_is_watched_anew(
    vigil: Vigil, clock: FakeClock
) -> None:
    for owners in ({"one@there": 1}, {}, {"one@there": 1}):
        for _ in range(6):
            assert list(vigil.gone(owners)) == []
            clock.advance(1)


def test_nothing_of_another_kind_of_database_is_known_by_locks(clock: FakeClock) -> None:
    with Store("sqlite::memory:") as store:
        vigil = Vigil(store.database, "me@here", "here", LEASE, clock)
        assert list(vigil.gone({"other@here": 0})) == []
