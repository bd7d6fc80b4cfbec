"""What happens when a process dies, a disk is full, a file is damaged, or two want one thing."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from dagger_dsl.errors import (
    RunFenced,
    RunOwned,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReadOnly,
)
from dagger_dsl.store import batches, ownership, transactions
from dagger_dsl.store import database as database_module
from dagger_dsl.store import locks as locks_module
from dagger_dsl.store.ownership import Owner, this_owner
from dagger_dsl.store.schema import flow_runs
from tests.benchmarks.measure import within
from tests.scale import count
from tests.store.helpers import Store, child, kill, line, row, start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of a test goes."""
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A store on that file that does not wait long."""
    with Store(path, busy_timeout=0.3) as made:
        yield made


def integrity(path: Path) -> list[str]:
    """Return what SQLite's full check says."""
    connection = sqlite3.connect(path)
    try:
        return [found for (found,) in connection.execute("PRAGMA integrity_check")]
    finally:
        connection.close()


# --- death ----------------------------------------------------------------------------------------

WRITER = """
    store = Store(sys.argv[1])
    journal = start(store, durability=sys.argv[2])
    n = 0
    while True:
        journal.commit([row(f"n{n}")], [n + 1])
        n += 1
        print(n, flush=True)
"""


@pytest.mark.row("C12", "C13", "H11")
@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_a_killed_process_loses_nothing_and_its_run_is_free_at_once(
    path: Path, synchronous: str
) -> None:
    process = child(WRITER, f"{path}?synchronous={synchronous}", "sync")
    for _ in range(20):
        known = int(line(process))
    with Store(path) as store, pytest.raises(RunOwned, match=f"process {process.pid} on host"):
        store.claim_run("r")
    kill(process)
    with Store(path) as store:
        began = time.monotonic()
        run, journal = store.claim_run("r")
        assert time.monotonic() - began < 2
        assert len(run.attempts) >= known
        assert [each.seq for each in run.attempts] == list(range(1, len(run.attempts) + 1))
        assert run.released == [[n + 1] for n in range(len(run.attempts))]
        assert all(node.value() == 1 for node in run.nodes.values())
        assert (run.status, run.epoch) == ("running", 2)
        journal.commit([row("after")])
        journal.finish("completed")
    assert integrity(path) == ["ok"]


@pytest.mark.row("C13")
def test_a_process_killed_at_level_async_leaves_a_prefix(path: Path) -> None:
    process = child(WRITER, path, "async")
    for _ in range(count(2000, least=50)):
        line(process)
    kill(process)
    with Store(path) as store:
        run = store.load_run("r")
    assert [each.node_id for each in run.attempts] == [f"n{n}" for n in range(len(run.attempts))]
    assert integrity(path) == ["ok"]


@pytest.mark.row("P12")
@pytest.mark.parametrize("dies_at", [1, 2, 3, 4, 5])
def test_a_process_that_dies_between_two_statements_leaves_nothing_of_them(
    path: Path, dies_at: int
) -> None:
    """Artifact, rows, commands, cache and status are one transaction."""
    code = """
        from dagger_dsl.store import transactions
        store = Store(sys.argv[1], artifact_threshold=10)
        journal = start(store)
        journal.commit([row("first")])
        left = int(sys.argv[2])
        for name in ("execute", "execute_many"):
            def call(self, *args, then=getattr(transactions._DriverTransaction, name)):
                global left
                done = then(self, *args)
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return done
            setattr(transactions._DriverTransaction, name, call)
        _, artifact = journal.encode("a long value")
        journal.write_cache({("global", "k"): ("1", None)})
        journal.commit([row("a", None, artifact=artifact), row("b", state="failed")], [1],
                       status="paused", commands=[("key", "{}")])
        print("committed", flush=True)
    """
    process = child(code, path, dies_at)
    assert process.communicate()[0] == ""
    with Store(path) as store:
        run = store.load_run("r")
        assert [each.node_id for each in run.attempts] == ["first"]
        assert (run.commands, run.released, run.status) == ([], [], "running")
        rows = store.stats().rows
        assert (rows["artifacts"], rows["cache_entries"], rows["run_log"]) == (0, 0, 0)


@pytest.mark.row("P12")
def test_an_error_between_two_statements_leaves_nothing_of_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = start(store)
    real = transactions._DriverTransaction.execute_many
    with monkeypatch.context() as patch:

        def fail(self: Any, statement: Any, values: Any) -> None:
            if statement is batches.INSERT_LOG:
                raise KeyboardInterrupt
            real(self, statement, values)

        patch.setattr(transactions._DriverTransaction, "execute_many", fail)
        with pytest.raises(KeyboardInterrupt):
            journal.commit([row("a"), row("b")], commands=[(None, "{}")])
    assert store.load_run("r").attempts == []
    journal.commit([row("a"), row("b")], commands=[(None, "{}")], replay=True)
    assert len(store.load_run("r").attempts) == 2
    journal.close()


# --- one owner ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_two_processes_one_gets_the_run(path: Path) -> None:
    with Store(path) as store:
        start(store).close()
    code = """
        from dagger_dsl.errors import RunOwned
        store = Store(sys.argv[1])
        store.init_database()
        print("ready", flush=True)
        while not os.path.exists(sys.argv[2]):
            pass
        try:
            _, journal = store.claim_run("r")
            print("mine", journal.epoch, flush=True)
            time.sleep(1)
            journal.close()
        except RunOwned as error:
            print("theirs", error, flush=True)
    """
    signal_file = path.with_name("go")
    racers = [child(code, path, signal_file) for _ in range(3)]
    assert [line(each) for each in racers] == ["ready"] * 3
    signal_file.touch()
    said = sorted(each.communicate()[0] for each in racers)
    assert [each.split()[0] for each in said] == ["mine", "theirs", "theirs"]
    assert said[0].strip() == "mine 2"
    with Store(path) as store:
        assert store.claim_run("r")[1].epoch == 3


STRANGER = Owner("elsewhere", 77, "another boot", "another machine", "token")


def give_to_stranger(store: Store) -> None:
    """Let a run be owned from a host whose locks cannot be seen."""
    start(store).close()
    with store.writing() as connection:
        connection.execute(sa.update(flow_runs).values(owner=STRANGER.to_text()))


def test_an_owner_on_another_host_is_watched_for_one_lease(path: Path) -> None:
    with Store(path, lease=0.4) as store:
        give_to_stranger(store)
        began = time.monotonic()
        _, journal = store.claim_run("r")
        assert 0.4 <= time.monotonic() - began < 5
        assert journal.epoch == 2
        journal.close()


def test_an_owner_whose_heart_beats_keeps_its_run(path: Path) -> None:
    with Store(path, lease=5) as store:
        give_to_stranger(store)

        refused = threading.Event()

        def beat() -> None:
            while not refused.wait(0.2):  # one beat could come before anybody has looked
                with store.writing() as connection:
                    connection.execute(sa.update(flow_runs).values(beat=flow_runs.c.beat + 1))

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            with pytest.raises(RunOwned, match="process 77 on host elsewhere"):
                store.claim_run("r")
        finally:
            refused.set()
            thread.join()
        assert store.load_run("r").epoch == 1


def test_who_shares_locks() -> None:
    here = this_owner()
    other = Owner(here.host, 1, here.boot, here.machine, "x")
    assert here.shares_locks_with(other)
    rebooted = Owner("h", 1, "boot 1", "m", "x")
    assert Owner("h", 2, "boot 2", "m", "y").shares_locks_with(rebooted)
    assert not Owner("h", 2, "boot 2", "n", "y").shares_locks_with(rebooted)
    assert not Owner("g", 2, "boot 2", "m", "y").shares_locks_with(rebooted)
    container = Owner("g", 2, "boot 1", "", "y")
    assert container.shares_locks_with(rebooted), "one kernel, two host names"
    assert Owner("mac", 1, "", "", "x").shares_locks_with(Owner("mac", 2, "", "", "y"))
    assert not Owner.of_text("gibberish").shares_locks_with(here)


def test_an_owned_run_has_a_beating_heart(path: Path) -> None:
    with Store(path, lease=0.15) as store:
        journal = start(store)
        first = store.query("SELECT beat, lease_expires_at FROM flow_runs")[0]
        deadline = time.monotonic() + 10
        while store.query("SELECT beat FROM flow_runs")[0]["beat"] < 3:
            assert time.monotonic() < deadline
            journal.commit([row(f"n{time.monotonic()}")])
            time.sleep(0.02)
        second = store.query("SELECT beat, lease_expires_at FROM flow_runs")[0]
        assert second["lease_expires_at"] > first["lease_expires_at"]
        journal.finish("completed")
        stopped = store.query("SELECT beat FROM flow_runs")
        time.sleep(0.2)
        assert store.query("SELECT beat FROM flow_runs") == stopped


def test_a_heart_that_cannot_beat_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = start(store)
    monkeypatch.setattr(store.database, "_damage", StoreDamaged("torn"))
    store._heart.beat(["r"])
    assert "could not renew the lease of 1 runs: torn" in caplog.text
    monkeypatch.setattr(store.database, "_damage", None)
    journal.close()


def test_a_stale_owner_is_fenced_whatever_it_writes(store: Store) -> None:
    for durability in ("sync", "async", "exit"):
        run_id = f"r-{durability}"
        journal = start(store, run_id, durability=durability)
        with store.writing() as connection:
            connection.execute(
                sa.update(flow_runs).where(flow_runs.c.run_id == run_id).values(epoch=5)
            )

        def write(journal: Any = journal) -> None:
            journal.record_crashes({"a": 1})
            journal.write_cache({("global", "k"): ("1", None)})
            journal.commit([row("a")])
            journal.flush()

        with pytest.raises(RunFenced):
            write()
        with pytest.raises(RunFenced):
            journal.finish("completed")
        run = store.load_run(run_id)
        assert (run.attempts, run.crashes, run.status) == ([], {}, "running")
    assert store.stats().rows["cache_entries"] == 0


# --- many writers ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.row("H11", "C27", "C28")
@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_sixteen_writers_in_two_processes_never_see_a_lock(path: Path, synchronous: str) -> None:
    code = """
        import threading
        name, url, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
        store = Store(url)
        failures, done = [], []
        end = time.monotonic() + seconds
        def work(n):
            try:
                rounds = 0
                while time.monotonic() < end:
                    journal = start(store, f"{name}-{n}-{rounds}")
                    for i in range(20):
                        journal.commit([row(f"n{i}")], [i])
                    journal.commit([row(f"m{i}") for i in range(50)])
                    journal.finish("completed")
                    assert len(store.load_run(f"{name}-{n}-{rounds}").attempts) == 70
                    rounds += 1
                done.append(rounds)
            except BaseException as error:
                failures.append(repr(error))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
        print(failures or sum(done), flush=True)
    """
    url = f"sqlite:{path}?synchronous={synchronous}"
    writers = [child(code, name, url, 2.0) for name in ("one", "two")]
    said = [each.communicate()[0].strip() for each in writers]
    runs = sum(map(int, said))
    assert runs >= 16
    with Store(path) as store:
        assert store.stats().rows["flow_runs"] == runs
        assert store.stats().rows["node_runs"] == runs * 70
    assert integrity(path) == ["ok"]


def hold(path: Path) -> sqlite3.Connection:
    """Lock a database as another program would, without our lock file."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def test_another_programs_lock_is_waited_for(path: Path) -> None:
    with Store(path, busy_timeout=20) as store:
        journal = start(store)
        other = hold(path)
        timer = threading.Timer(0.3, other.close)
        timer.start()
        journal.commit([row("a")])
        timer.join()
        other = hold(path)
        timer = threading.Timer(0.3, other.close)
        timer.start()
        journal.commit([row("b"), row("c")])
        timer.join()
        assert len(store.load_run("r").attempts) == 3
        journal.close()


def test_a_lock_that_stays_is_store_busy_and_nothing_is_lost(store: Store, path: Path) -> None:
    journal = start(store)
    other = hold(path)
    for rows in ([row("a")], [row("a"), row("b")]):
        with pytest.raises(StoreBusy, match="try again"):
            journal.commit(rows)
    other.close()
    journal.commit([row("a"), row("b")])
    assert [each.node_id for each in store.load_run("r").attempts] == ["a", "b"]
    journal.finish("completed")


def test_our_own_lock_in_another_process_is_store_busy(store: Store, path: Path) -> None:
    journal = start(store)
    code = """
        store = Store(sys.argv[1])
        with store.database.exclusive():
            print("locked", flush=True)
            time.sleep(60)
    """
    process = child(code, path)
    assert line(process) == "locked"
    with pytest.raises(StoreBusy, match="held by another process"):
        journal.commit([row("a")])
    kill(process)
    journal.commit([row("a")])
    journal.close()


# --- full, read-only, damaged ---------------------------------------------------------------------


def test_a_full_disk_is_store_full_and_the_run_goes_on_later(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a")])
    with store.database.exclusive() as raw:
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count={pages}")
    large = orjson.dumps("x" * 30_000).decode()
    for rows in ([row("b", large)], [row("b", large), row("c", large)]):
        with pytest.raises(StoreFull, match="free some space, then resume the run"):
            journal.commit(rows)
    with pytest.raises(StoreFull):
        journal.commit([row(f"n{n}", large) for n in range(10)])
    with store.database.exclusive() as raw:
        raw.execute("PRAGMA max_page_count=1000000")
    journal.commit([row("b", large), row("c", large)])
    journal.finish("completed")
    run = store.load_run("r")
    assert [each.node_id for each in run.attempts] == ["a", "b", "c"]


def test_a_full_disk_at_level_async_is_told_at_the_next_call(store: Store) -> None:
    journal = start(store, durability="async")
    with store.database.exclusive() as raw:
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count={pages}")
    large = orjson.dumps("x" * 30_000).decode()
    journal.commit([row("a", large)])
    with pytest.raises(StoreFull):
        journal.flush()
    with pytest.raises(StoreFull):
        journal.commit([row("b")])
    with pytest.raises(StoreFull):
        journal.finish("completed")
    with store.database.exclusive() as raw:
        raw.execute("PRAGMA max_page_count=1000000")
    run, journal = store.claim_run("r")
    assert (run.attempts, run.status) == ([], "running")
    journal.close()


def test_a_database_that_cannot_be_written_is_store_read_only(store: Store) -> None:
    journal = start(store)
    with store.database.exclusive() as raw:
        raw.execute("PRAGMA query_only=1")
    with pytest.raises(StoreReadOnly, match="make the file and its folder writable"):
        journal.commit([row("a")])
    with pytest.raises(StoreReadOnly):
        journal.finish("completed")


def test_a_lock_file_that_cannot_be_written_is_store_read_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path):
        pass

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dagger_dsl.store.locks.os.open", refuse)
    with Store(path) as store:
        assert store.list_runs() == []
        with pytest.raises(StoreReadOnly, match=r"state\.db-lock"):
            start(store)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do anything")
def test_a_file_without_permission_is_store_read_only(path: Path) -> None:
    with Store(path):
        pass
    path.chmod(0o444)
    with Store(path) as store, pytest.raises(StoreReadOnly):
        start(store)


def damage(path: Path) -> None:
    """Overwrite the pages in the middle of a file."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(os.urandom(size // 2))


def filled(path: Path) -> None:
    """Make a database with a run of some size, left in order."""
    with Store(path) as store:
        journal = start(store)
        journal.commit([row(f"n{n}", orjson.dumps("x" * 500).decode()) for n in range(200)])
        journal.close()


def test_damage_met_while_reading_is_store_damaged(path: Path) -> None:
    filled(path)
    damage(path)
    with Store(path) as store, pytest.raises(StoreDamaged, match="restore a backup"):
        store.load_run("r")


def test_after_an_unclean_end_the_file_is_checked_before_the_first_write(path: Path) -> None:
    filled(path)
    code = """
        store = Store(sys.argv[1])
        start(store, "other")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    child(code, path).communicate()
    damage(path)
    with Store(path) as store, pytest.raises(StoreDamaged, match="is damaged"):
        start(store, "new")


def test_a_large_file_is_checked_beside_the_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path)
    child("store = Store(sys.argv[1]); start(store, 'o'); os._exit(1)", path).communicate()
    monkeypatch.setattr(database_module, "QUICK_CHECK_LIMIT", 1000)
    look = threading.Event()

    def find(*_: object) -> StoreDamaged:
        look.wait(10)
        return StoreDamaged("torn page")

    monkeypatch.setattr(database_module, "quick_check", find)
    with Store(path) as store:
        journal = start(store, "new")
        journal.commit([row("before")])
        look.set()
        deadline = time.monotonic() + 10
        while store.database._damage is None and time.monotonic() < deadline:
            time.sleep(0.01)
        for rows in ([row("a")], [row("a"), row("b")]):
            with pytest.raises(StoreDamaged, match="torn page"):
                journal.commit(rows)


def test_a_file_that_was_left_in_order_is_not_checked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path)
    monkeypatch.setattr(database_module, "quick_check", lambda *_: StoreDamaged("looked"))
    with Store(path) as store:
        start(store, "new").finish("completed")


def test_a_file_that_another_process_uses_is_not_checked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = child(WRITER, path, "sync")
    line(process)
    monkeypatch.setattr(database_module, "quick_check", lambda *_: StoreDamaged("looked"))
    with Store(path) as store:
        start(store, "new").finish("completed")
    kill(process)
    with Store(path) as store, pytest.raises(StoreDamaged, match="looked"):
        start(store, "newer")


def test_a_damaged_artifact_is_refused(path: Path) -> None:
    with Store(path, artifact_threshold=10) as store:
        journal = start(store)
        _, artifact = journal.encode("a long value")
        assert artifact is not None
        journal.commit([row("a", None, artifact=artifact)])
        journal.close()
        node = store.load_run("r").nodes["a", "default"]
        assert node.value() == "a long value"
        assert store.files is not None
        file = store.files.path(artifact)
        file.chmod(0o600)
        file.write_bytes(file.read_bytes().replace(b"long", b"song"))
        with pytest.raises(StoreDamaged):
            node.value()
        file.unlink()
        with pytest.raises(StoreDamaged, match="copy the artifact folder along"):
            node.value()


# --- the write-ahead log --------------------------------------------------------------------------


def test_the_wal_is_grown_once_and_kept_short(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "CHECKPOINT_PAGES", 200)
    wal = path.with_name("state.db-wal")
    with Store(path) as store:
        journal = start(store)
        assert wal.stat().st_size < 1_000_000
        for n in range(20):
            journal.commit([row(f"a{n}")])
        grown = wal.stat().st_size
        assert 3_900_000 < grown < 4_500_000
        assert store.query("SELECT count(*) AS n FROM meta WHERE name = ''") == [{"n": 0}]
        large = orjson.dumps("x" * 5_000).decode()
        for n in range(count(3000, least=100)):
            journal.commit([row(f"b{n}", large)])
        assert wal.stat().st_size == grown
        journal.finish("completed")
    assert not wal.exists()
    assert integrity(path) == ["ok"]


def test_trouble_with_the_wal_does_not_undo_the_commit_before_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = start(store)

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(database_module.Database, "_grow_wal", fail)
    monkeypatch.setattr(database_module.Database, "checkpoint", fail)
    monkeypatch.setattr(database_module, "CHECKPOINT_PAGES", 60)
    for n in range(60):
        journal.commit([row(f"n{n}")])
    assert "upkeep of the WAL failed" in caplog.text
    assert len(store.load_run("r").attempts) == 60
    journal.close()


# --- speed ----------------------------------------------------------------------------------------


@pytest.mark.row("P15")
@pytest.mark.benchmark
@pytest.mark.parametrize("url", ["sqlite::memory:", "file"])
def test_a_thousand_events_in_one_transaction(path: Path, url: str) -> None:
    with Store(path if url == "file" else url) as store:
        runs = 0

        def trial() -> float:
            nonlocal runs
            runs += 1
            journal = start(store, f"r{runs}")
            rows = [row(f"n{i}") for i in range(1000)]
            began = time.perf_counter()
            journal.commit(rows, [1, 2, 3])
            seconds = time.perf_counter() - began
            journal.finish("completed")
            return seconds

        taken, allowed = within(trial, 0.1)
        assert store.stats().rows["node_runs"] == 1000 * runs
        assert taken < allowed


def test_lock_files_are_told_apart_by_their_runs() -> None:
    offsets = {locks_module.run_offset(f"run-{n}", 1) for n in range(10_000)}
    assert len(offsets) == 10_000
    assert min(offsets) > 1000
    assert max(offsets) < 2**62


def test_owners_survive_their_text() -> None:
    assert Owner.of_text(this_owner().to_text()) == this_owner()
    assert str(STRANGER) == "process 77 on host elsewhere"
    assert ownership.this_owner().pid == os.getpid()


def test_store_errors_are_never_results(store: Store) -> None:
    for kind in (StoreBusy, StoreDamaged, StoreFull, StoreReadOnly):
        assert issubclass(kind, StoreError)
