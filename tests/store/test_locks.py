"""Locks between processes and within one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagger_dsl.errors import StoreBusy, StoreError, StoreReadOnly
from dagger_dsl.store.locks import FILES, LockFile, Locks, MemoryLocks, borrow, give_back
from tests.store.helpers import child, line


@pytest.fixture(params=["file", "memory"])
def locks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Locks]:
    """Locks of each kind."""
    if request.param == "memory":
        yield MemoryLocks()
        return
    made = borrow(str(tmp_path / "lock"))
    yield made
    give_back(made)


def test_a_lock_has_one_holder(locks: Locks) -> None:
    assert locks.try_lock(5)
    assert not locks.try_lock(5)
    assert not locks.try_lock(5, shared=True)
    assert locks.try_lock(6)
    locks.unlock(5)
    assert locks.try_lock(5)


def test_asking_for_a_lock_takes_nothing(locks: Locks) -> None:
    assert not locks.is_locked(5)
    assert locks.try_lock(5)
    assert locks.is_locked(5)
    assert not locks.is_locked(6)
    assert locks.try_lock(6, shared=True)
    assert locks.is_locked(6)
    locks.unlock(5)
    locks.unlock(6)
    assert not locks.is_locked(5)
    assert not locks.is_locked(6)


def test_shared_locks_are_counted(locks: Locks) -> None:
    assert locks.try_lock(FILES, shared=True)
    assert locks.try_lock(FILES, shared=True)
    assert not locks.try_lock(FILES)
    locks.unlock(FILES)
    assert not locks.try_lock(FILES)
    locks.unlock(FILES)
    assert locks.try_lock(FILES)
    locks.unlock(FILES)
    locks.unlock(FILES)


def test_waiting_ends(locks: Locks) -> None:
    locks.lock(7, 1)
    began = time.monotonic()
    with pytest.raises(StoreBusy, match="held by another process"):
        locks.lock(7, 0.1)
    assert 0.1 <= time.monotonic() - began < 5


HOLDER = """
    from dagger_dsl.store.locks import LockFile
    locks = LockFile(sys.argv[1])
    assert locks.try_lock(5) and locks.try_lock(6, shared=True)
    pid = os.fork() if sys.argv[2] == "fork" else 0
    if sys.argv[2] == "none" or pid:
        print(pid, flush=True)
    time.sleep(30)
"""


@pytest.mark.parametrize("children", ["none", "fork"])
def test_locks_die_with_their_process_and_not_with_its_children(
    tmp_path: Path, children: str
) -> None:
    path = str(tmp_path / "lock")
    process = child(HOLDER, path, children)
    grandchild = int(line(process))
    locks = LockFile(path)
    assert [locks.is_locked(offset) for offset in (4, 5, 6, 7)] == [False, True, True, False]
    assert not locks.try_lock(5)
    assert not locks.try_lock(5, shared=True)
    assert not locks.try_lock(6)
    assert locks.try_lock(6, shared=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not locks.is_locked(5)
    assert locks.try_lock(5)
    locks.unlock(6)
    assert locks.try_lock(6)
    locks.close()
    if grandchild:
        os.kill(grandchild, signal.SIGKILL)
    process.communicate()


def test_an_exclusive_lock_becomes_a_shared_one(tmp_path: Path) -> None:
    locks = LockFile(str(tmp_path / "lock"))
    code = """
        from dagger_dsl.store.locks import LockFile
        locks = LockFile(sys.argv[1])
        print(locks.try_lock(5, shared=True), locks.try_lock(5), flush=True)
    """
    assert locks.try_lock(5)
    assert child(code, locks.path).communicate()[0] == "False False\n"
    locks.share(5)
    assert child(code, locks.path).communicate()[0] == "True False\n"
    locks.close()


def test_a_file_is_opened_once_a_process(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    one, two = borrow(path), borrow(path)
    assert one is two
    give_back(one)
    assert one.is_current()
    give_back(two)
    three = borrow(path)
    Path(path).unlink()
    four = borrow(path)
    assert four is not three
    give_back(three)
    assert borrow(path) is four
    give_back(four)
    give_back(four)


def test_the_mark_is_kept_in_the_file(tmp_path: Path) -> None:
    one = LockFile(str(tmp_path / "lock"))
    assert not one.is_marked()
    one.mark(True)
    assert one.is_marked()
    assert Path(one.path).stat().st_mode & 0o777 == 0o600
    one.mark(False)
    assert not one.is_marked()
    one.close()
    one.close()


def test_a_folder_that_went_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone does not exist .*; create it") as caught:
        LockFile(str(tmp_path / "gone" / "x.db-lock"))
    assert not isinstance(caught.value, StoreReadOnly)
