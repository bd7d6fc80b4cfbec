"""Whose owner is dead, whose only stopped, and what a process that wakes up can still write."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dagger_dsl.errors import ConfigurationError, RunOwned
from dagger_dsl.store.liveness import Liveness
from dagger_dsl.store.locks import LockFile
from dagger_dsl.store.ownership import Owner
from dagger_dsl.store.schema import flow_runs
from tests.store.helpers import GRAPH, Store, child, kill, line, row, start

pytestmark = pytest.mark.slow  # many of them wait for a lease to end

STRANGER = Owner("elsewhere", 77, "another boot", "another machine", "token")

OWNER = """
    store = Store(sys.argv[1], lease=float(sys.argv[2]))
    for run_id in sys.argv[3:]:
        start(store, run_id).commit([row("before")])
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of a test goes."""
    return tmp_path / "state.db"


def give_to_stranger(store: Store, *run_ids: str) -> None:
    """Let runs be owned from a host whose locks cannot be seen."""
    with store.writing() as connection:
        connection.execute(
            sa.update(flow_runs)
            .where(flow_runs.c.run_id.in_(run_ids))
            .values(owner=STRANGER.to_text())
        )


@contextmanager
def beating(store: Store, run_id: str) -> Iterator[None]:
    """Raise a run's beat every now and then, as its owner on another host does."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.02):
            with store.writing() as connection:
                connection.execute(
                    sa.update(flow_runs)
                    .where(flow_runs.c.run_id == run_id)
                    .values(beat=flow_runs.c.beat + 1)
                )

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# --- orphans --------------------------------------------------------------------------------------


def found(store: Store, flow_name: str | None = None) -> set[str]:
    """Return the ids of the runs that nobody executes."""
    return {each.run_id for each in store.orphans(flow_name)}


@pytest.mark.row("E18")
def test_runs_of_dead_processes_are_orphans_at_once(path: Path) -> None:
    dead = child(OWNER, path, 15, "dead-1", "dead-2")
    alive = child(OWNER, path, 15, "alive")
    assert [line(each) for each in (dead, alive)] == ["ready", "ready"]
    with Store(path) as store:
        mine = start(store, "mine")
        start(store, "done").finish("failed")
        start(store, "left").close()
        start(store, "paused").finish("paused")
        store.create_run(run_id="other", graph=GRAPH.replace(name="other"), inputs={}).close()
        began = time.monotonic()
        assert found(store) == {"left", "other"}
        kill(dead)
        orphans = store.orphans()
        assert time.monotonic() - began < 5, "a third of a lease"
        assert {each.run_id for each in orphans} == {"dead-1", "dead-2", "left", "other"}
        assert [each.created_at for each in orphans] == sorted(
            (each.created_at for each in orphans), reverse=True
        )
        owner = next(each.owner for each in orphans if each.run_id == "dead-1")
        assert owner is not None
        assert owner.pid == dead.pid
        assert found(store, "other") == {"other"}
        for each in orphans:
            store.claim_run(each.run_id)[1].finish("completed")
        assert found(store) == set()
        mine.finish("completed")
    kill(alive)


def test_owners_on_other_hosts_are_watched_together_for_one_lease(path: Path) -> None:
    with Store(path, lease=2) as store:
        runs = [f"r{n}" for n in range(5)]
        for run_id in runs:
            start(store, run_id).close()
        give_to_stranger(store, *runs)
        with beating(store, "r3"):
            began = time.monotonic()
            assert found(store) == {"r0", "r1", "r2", "r4"}
            assert 2 <= time.monotonic() - began < 8
        with beating(store, "r0"):
            began = time.monotonic()
            assert found(store, "nope") == set()
            assert time.monotonic() - began < 1.9, "less than a lease"


def test_watching_ends_with_the_last_sign_of_life(path: Path) -> None:
    with Store(path, lease=30) as store:
        start(store).close()
        give_to_stranger(store, "r")
        with beating(store, "r"):
            began = time.monotonic()
            assert found(store) == set()
            assert time.monotonic() - began < 15


def test_a_run_that_ends_while_it_is_looked_at_is_no_orphan(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path) as store:
        start(store, "left").close()
        start(store, "taken").close()
        journal = start(store)
        real = Liveness.dead

        def end_first(self: Liveness, seen: Any) -> set[str]:
            journal.finish("completed")
            store.claim_run("taken")
            return real(self, seen)

        monkeypatch.setattr(Liveness, "dead", end_first)
        assert found(store) == {"left"}


def test_looking_for_orphans_stands_in_nobodys_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that was taken to look would refuse the run to who claims it just then."""
    process = child(OWNER, path, 15, "r")
    assert line(process) == "ready"
    kill(process)
    with Store(path) as store:
        store.init_database()
        start(store, "warm").close()

        def refuse(*_: object, **__: object) -> bool:
            raise AssertionError("a lock was taken")

        with monkeypatch.context() as patch:
            patch.setattr(LockFile, "try_lock", refuse)
            assert found(store) == {"r", "warm"}


def test_in_memory_only_what_nobody_owns_is_an_orphan() -> None:
    with Store("sqlite::memory:", lease=30) as store:
        journal = start(store)
        start(store, "left").close()
        assert found(store) == {"left"}
        journal.close()
        assert found(store) == {"left", "r"}
        with pytest.raises(ConfigurationError):
            store.orphans(5)  # type: ignore[arg-type]


# --- a process that was stopped -------------------------------------------------------------------

STOPPED = """
    store = Store(sys.argv[1], lease=float(sys.argv[2]), artifact_threshold=10)
    journal = start(store, durability=sys.argv[3])
    journal.commit([row("before")])
    journal.flush()
    with store.database._mutex:  # between two beats, which take turns with everybody
        os.kill(os.getpid(), signal.SIGSTOP)
    _, artifact = journal.encode("a long value")
    writes = [
        lambda: journal.commit([row("one")], [1]),
        lambda: journal.commit([row("one"), row("two", None, artifact=artifact)], ack=True),
        lambda: journal.commit([], replacing=[row("before", "9")], status="paused"),
        lambda: journal.record_crashes({"a": 7}),
        lambda: journal.finish("completed"),
    ]
    store._heart.beat(["r"])
    first = int(sys.argv[4])
    for write in writes[first:] + writes[:first]:
        try:
            journal.write_cache({("global", "k"): ("1", None)})
            journal.remember("m", action="act", version="1", input_hash="h", node_id="one",
                             inline="1", artifact_id=None)
            write()
            journal.flush()
            print("written", flush=True)
        except Exception as error:
            print(type(error).__name__, flush=True)
    journal.close()
    store.close()
    print("closed", flush=True)
"""


@contextmanager
def stopped(path: Path, lease: float, durability: str, first: int) -> Iterator[Any]:
    """A process that owns a run and does not go on, until it is told to."""
    process = child(STOPPED, path, lease, durability, first)
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        yield process
    finally:
        if process.stdout is not None and not process.stdout.closed:
            kill(process)


def wake(process: subprocess.Popen[str]) -> list[str]:
    """Let a stopped process go on to its end; return the lines that it printed."""
    process.send_signal(signal.SIGCONT)
    return process.communicate()[0].split()


def everything(store: Store) -> list[Any]:
    """Return all that a run can leave in a database, apart from its own row."""
    tables = "node_runs run_log cache_entries memo artifacts artifact_links inbox snapshots"
    return [store.query(f"SELECT * FROM {table}") for table in tables.split()]


FENCED = ["RunFenced"] * 5 + ["closed"]


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_process_that_was_stopped_past_its_lease_records_nothing(
    path: Path, durability: str, first: int
) -> None:
    lease = 0.3
    with stopped(path, lease, durability, first) as process, Store(path, lease=lease) as store:
        began = time.monotonic()
        run, journal = store.claim_run("r", steal_stalled=True)
        assert lease <= time.monotonic() - began < 10
        assert (journal.epoch, [each.node_id for each in run.attempts]) == (2, ["before"])
        journal.commit([row("one", "7")])
        before = everything(store)
        assert wake(process) == FENCED
        assert everything(store) == before
        run = store.load_run("r")
        assert (run.status, run.crashes, run.epoch) == ("running", {}, 2)
        assert run.owner is not None
        assert run.owner.pid == os.getpid()
        journal.commit([row("two", "8")])
        journal.finish("completed")
        run = store.load_run("r")
        assert [(each.node_id, each.value()) for each in run.attempts] == [
            ("before", 1),
            ("one", 7),
            ("two", 8),
        ]
        assert (run.status, run.cache, store.memos()) == ("completed", {}, [])


def test_an_owner_on_another_host_that_was_stopped_records_nothing(path: Path) -> None:
    lease = 0.3
    with stopped(path, lease, "sync", 0) as process, Store(path, lease=lease) as store:
        give_to_stranger(store, "r")
        _, journal = store.claim_run("r")
        journal.finish("completed")
        before = everything(store)
        assert wake(process) == FENCED
        assert everything(store) == before
        assert store.load_run("r").status == "completed"


def refusals(store: Store) -> list[Callable[[], object]]:
    """Return both ways to ask for a run."""
    return [lambda: store.claim_run("r"), lambda: store.claim_run("r", steal_stalled=True)]


def test_a_stopped_owner_keeps_its_run_unless_it_may_be_taken(path: Path) -> None:
    with stopped(path, 15, "sync", 0) as process, Store(path, lease=15) as store:
        began = time.monotonic()
        with pytest.raises(RunOwned, match=f"process {process.pid} on host"):
            store.claim_run("r")
        assert time.monotonic() - began < 5, "a refusal is at once"
        assert found(store) == set(), "a stopped process is not dead"
        out = wake(process)
    assert out[0] == "written", "nobody took the run"


def test_who_took_a_run_over_keeps_it_whatever_the_stopped_process_does(path: Path) -> None:
    """Its own lock says that it lives, not the one that the other process holds or gives back."""
    lease = 0.3
    with stopped(path, lease, "sync", 0) as process, Store(path, lease=lease) as store:
        _, journal = store.claim_run("r", steal_stalled=True)
        others = child(
            """
            from dagger_dsl.errors import RunOwned
            store = Store(sys.argv[1], lease=10)
            for line in sys.stdin:
                for steal in (False, True):
                    try:
                        store.claim_run("r", steal_stalled=steal)
                        print("taken", flush=True)
                    except RunOwned as error:
                        print(error.owner, [each.run_id for each in store.orphans()], flush=True)
            """,
            path,
            ask=True,
        )
        mine = f"process {os.getpid()} on host"
        for end in (None, signal.SIGKILL):
            if end is not None:
                process.send_signal(end)
                process.wait()
            assert others.stdin is not None
            others.stdin.write("ask\n")
            others.stdin.flush()
            for _ in range(2):
                said = line(others)
                assert said.startswith(mine)
                assert said.endswith("[]")
        others.communicate()
        journal.commit([row("one")])
        journal.close()
        store.claim_run("r")[1].close()


def test_an_owner_that_lives_is_never_taken_for_a_stopped_one(path: Path) -> None:
    process = child(OWNER, path, 0.3, "r")
    assert line(process) == "ready"
    with Store(path, lease=30) as store:
        began = time.monotonic()
        with pytest.raises(RunOwned, match=f"process {process.pid}"):
            store.claim_run("r", steal_stalled=True)
        assert time.monotonic() - began < 20, "its next beat is enough"
    kill(process)


def test_a_run_of_this_process_cannot_be_stolen_in_memory() -> None:
    with Store("sqlite::memory:", lease=0.1) as store:
        journal = start(store)
        for ask in refusals(store):
            with pytest.raises(RunOwned):
                ask()
        journal.commit([row("a")])
        journal.close()


def test_of_several_that_find_a_run_free_one_gets_it(path: Path) -> None:
    """They may all have looked before the first one took it."""
    with Store(path) as store:
        start(store).close()
        barrier = threading.Barrier(4)
        said: list[str] = []
        real = store._runs._free

        def together(run_id: str, steal_stalled: bool) -> int:
            number = real(run_id, steal_stalled)
            barrier.wait(20)
            return number

        def claim() -> None:
            try:
                _, journal = store.claim_run("r")
            except RunOwned as error:
                said.append(error.owner.split()[0])
            else:
                said.append(f"epoch {journal.epoch}")

        store._runs._free = together  # type: ignore[method-assign]
        threads = [threading.Thread(target=claim) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said.count("epoch 2") == 1
        said.remove("epoch 2")
        assert len(said) == 3
        assert set(said) <= {"another", "process"}
        assert store.load_run("r").epoch == 2


def test_a_run_that_was_taken_since_it_was_found_free_is_refused(path: Path) -> None:
    """Without locks between two hosts the number of the ownership alone decides."""
    with Store(path) as store:
        start(store).close()
        real = store._runs._take

        def late(run_id: str, before: int) -> Any:
            with store.writing() as connection:
                connection.execute(sa.update(flow_runs).values(epoch=2, owner=STRANGER.to_text()))
            return real(run_id, before)

        store._runs._take = late  # type: ignore[method-assign]
        with pytest.raises(RunOwned, match="process 77 on host elsewhere"):
            store.claim_run("r")
        assert store.load_run("r").epoch == 2
