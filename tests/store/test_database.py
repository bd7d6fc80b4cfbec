"""Connections: settings, sharing, identity of files, and what must not be touched."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dagger_dsl.errors import (
    ConfigurationError,
    InvalidState,
    RunOwned,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreVersionError,
)
from dagger_dsl.store import database as database_module
from dagger_dsl.store import migrations, schema
from dagger_dsl.store.faults import store_error
from dagger_dsl.store.locks import borrow, give_back
from dagger_dsl.store.storage import Store
from tests.store.helpers import row, start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of a test goes."""
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A store on that file."""
    with Store(path) as made:
        yield made


def pragma(connection: sa.Connection, name: str) -> object:
    """Return a setting of a connection."""
    return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()


SETTINGS = {
    "journal_mode": "wal",
    "synchronous": 2,
    "busy_timeout": 5000,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "wal_autocheckpoint": 0,
}


@pytest.mark.row("P11", "C26", "C28")
def test_every_connection_has_our_settings(store: Store) -> None:
    with store.writing() as connection:
        assert {name: pragma(connection, name) for name in SETTINGS} == SETTINGS
    with store.reading() as connection:
        assert {name: pragma(connection, name) for name in SETTINGS} == SETTINGS
        assert pragma(connection, "query_only") == 1


@pytest.mark.row("C27")
def test_the_url_beats_the_defaults(path: Path) -> None:
    with Store(f"sqlite:{path}?synchronous=NORMAL&busy_timeout=1234") as store:
        for way in (store.reading, store.writing):
            with way() as connection:
                assert pragma(connection, "synchronous") == 1
                assert pragma(connection, "busy_timeout") == 1234


def test_a_setting_that_does_not_take_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(database_module._LEVELS, "FULL", 7)
    with pytest.raises(StoreError, match="keeps synchronous="), Store(path):
        pass


@pytest.mark.row("C29", "P8", "P9", "P10")
def test_a_store_shows_what_it_is_made_of(path: Path) -> None:
    store = Store(path)
    assert not path.exists()
    store.init_database()
    store.init_database()
    assert isinstance(store.engine, sa.Engine)
    assert store.engine.pool.size() == store.pool_size == 5  # type: ignore[attr-defined]
    assert store.artifact_threshold == 32768
    store.close()
    store.close()
    with pytest.raises(InvalidState, match="closed"):
        store.list_runs()


@pytest.mark.row("P7", "P8")
def test_opening_again_changes_nothing(path: Path) -> None:
    with Store(path) as store:
        start(store).finish("completed")
    before = path.read_bytes()
    with Store(path) as store:
        store.init_database()
        assert store.load_run("r").status == "completed"
    assert path.read_bytes() == before


def test_the_engine_only_reads(store: Store) -> None:
    with pytest.raises(StoreReadOnly), store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM flow_runs")


@pytest.mark.row("C28")
def test_a_reader_is_not_blocked_by_a_writer(store: Store) -> None:
    start(store, "r1").close()
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE flow_runs SET status = 'paused'")
        began = time.monotonic()
        assert store.load_run("r1").status == "running"
        # SQLite would wait for a lock for as long as the store's busy timeout.
        assert time.monotonic() - began < 4
    assert store.load_run("r1").status == "paused"


@pytest.mark.row("C28")
def test_a_writer_is_not_blocked_by_a_reader(store: Store) -> None:
    journal = start(store)
    with store.reading() as connection:
        count = sa.select(sa.func.count()).select_from(schema.node_runs)
        assert connection.scalar(count) == 0
        journal.commit([row("a")])
        assert connection.scalar(count) == 0, "a read transaction is of one moment"
    assert len(store.load_run("r").attempts) == 1
    journal.close()


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:

    def write() -> None:
        with store.writing() as connection:
            connection.exec_driver_sql("CREATE TABLE half (x)")
            connection.execute(sa.insert(schema.meta), {"name": "x", "value": "y"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert store.query("SELECT name FROM meta WHERE name = 'x'") == []
    assert "half" not in sa.inspect(store.engine).get_table_names()
    start(store).close()


def test_stores_of_one_process_take_turns(path: Path) -> None:
    with Store(path) as one, Store(f"sqlite:{path}?synchronous=NORMAL") as two:
        first, second = start(one, "r1"), start(two, "r2")
        for n in range(50):
            first.commit([row(f"n{n}")])
            second.commit([row(f"n{n}")])
        assert len(one.load_run("r2").attempts) == len(two.load_run("r1").attempts) == 50
        with pytest.raises(RunOwned):
            two.claim_run("r1")
        first.close()
        two.claim_run("r1")[1].close()
        second.close()


def test_a_file_that_was_replaced_gets_locks_of_its_own(path: Path) -> None:
    with Store(path) as old:
        start(old)
        for each in path.parent.iterdir():
            each.unlink()
        with Store(path) as new:
            start(new).close()
            assert [each.run_id for each in new.list_runs()] == ["r"]


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.row("C24")
def test_a_database_in_memory_is_shared_by_threads() -> None:
    with Store("sqlite::memory:") as store:
        failures: list[BaseException] = []

        def work(name: str) -> None:
            try:
                journal = start(store, name)
                for n in range(30):
                    journal.commit([row(f"n{n}")])
                    store.load_run(name)
                    with store.engine.connect() as connection:
                        connection.exec_driver_sql("SELECT count(*) FROM node_runs").scalar_one()
                journal.finish("completed")
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(f"r{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert store.stats().rows["node_runs"] == 240


def test_an_open_connection_to_memory_is_a_clear_error_and_no_deadlock() -> None:
    with Store("sqlite::memory:?busy_timeout=50") as store:
        with store.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            with pytest.raises(StoreBusy, match="still open"):
                start(store)
        start(store).close()


def test_two_databases_in_memory_are_two() -> None:
    with Store("sqlite::memory:") as one, Store("sqlite::memory:") as two:
        start(one).close()
        start(two).close()


# --- what a file is -------------------------------------------------------------------------------


def raw(path: Path, *statements: str) -> None:
    """Change a file behind the store's back."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def refused(path: Path, kind: type[StoreError], says: str) -> None:
    """Assert that a file is refused and not touched."""
    before = path.read_bytes()
    with pytest.raises(kind, match=says), Store(path):
        pass
    with pytest.raises(kind, match=says):
        start(Store(path))
    assert path.read_bytes() == before
    assert {each.name for each in path.parent.iterdir()} == {path.name}


def test_another_programs_database_is_left_alone(path: Path) -> None:
    raw(path, "CREATE TABLE notes (x)", "INSERT INTO notes VALUES (1)")
    refused(path, StoreVersionError, "belongs to another program")


class Beside(sqlite3.Connection):
    """A connection beside which the database is made after its first look at the file."""

    made: Path | None = None

    def execute(self, *arguments: object) -> sqlite3.Cursor:
        found = super().execute(*arguments)  # type: ignore[arg-type]
        if self.made is not None and arguments[0] == "PRAGMA application_id":
            path, self.made = self.made, None
            start(Store(path))
        return found


def test_a_database_that_is_made_while_it_is_looked_at_is_no_other_programs(path: Path) -> None:
    raw(path, "PRAGMA journal_mode=wal", "CREATE TABLE x (y)", "DROP TABLE x")
    connection = sqlite3.connect(path, isolation_level=None, factory=Beside)
    connection.made = path
    assert migrations.identify(connection, os.fspath(path)) == "new"
    assert migrations.identify(connection, os.fspath(path)) == "current"
    connection.close()


def test_a_marked_file_of_another_program_is_left_alone(path: Path) -> None:
    raw(path, "PRAGMA application_id=123", "PRAGMA user_version=1", "CREATE TABLE flow_runs (x)")
    refused(path, StoreVersionError, "application_id 0x7b")


def test_a_text_file_is_left_alone(path: Path) -> None:
    path.write_text("not a database, but long enough to look at " * 100)
    refused(path, StoreDamaged, "no SQLite database")


@pytest.mark.row("P7")
def test_a_newer_file_is_refused_with_the_version_it_needs(path: Path) -> None:
    with Store(path):
        pass
    raw(path, "PRAGMA user_version=9", "UPDATE meta SET value='7.1.0' WHERE name='needs'")
    for each in path.parent.iterdir():
        if each != path:
            each.unlink()
    refused(path, StoreVersionError, r"schema 9.*install dagger_dsl>=7\.1\.0")


@pytest.mark.row("P7")
def test_an_old_file_is_migrated_whole_or_not_at_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path) as store:
        start(store).finish("completed")

    def half(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE added (x)")
        raise ZeroDivisionError

    def whole(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE added (x)")

    now, then = schema.SCHEMA_VERSION, schema.SCHEMA_VERSION + 1
    monkeypatch.setattr(schema, "SCHEMA_VERSION", then)
    monkeypatch.setitem(schema.READS, then, "7.2.0")
    monkeypatch.setitem(migrations.MIGRATIONS, then, half)
    with pytest.raises(ZeroDivisionError), Store(path):
        pass
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (now,)
    assert connection.execute("SELECT * FROM sqlite_master WHERE name='added'").fetchall() == []
    connection.close()
    with pytest.raises(StoreVersionError, match="migrated first"), Store(f"{path}?mode=ro"):
        pass
    monkeypatch.setitem(migrations.MIGRATIONS, then, whole)
    with Store(path) as store:
        assert store.load_run("r").status == "completed"
        assert store.query("SELECT value FROM meta WHERE name='needs'") == [{"value": "7.2.0"}]
        assert store.query("SELECT count(*) AS n FROM added") == [{"n": 0}]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON node_runs BEGIN DELETE FROM flow_runs; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE VIEW execution_trees AS SELECT 1 AS run_id",
    ],
)
def test_foreign_triggers_and_views_are_refused(path: Path, statement: str) -> None:
    with Store(path):
        pass
    raw(path, "DROP VIEW execution_trees", statement)
    with pytest.raises(StoreDamaged, match="that dagger_dsl did not make"), Store(path):
        pass


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere does not exist"):
        start(Store(tmp_path / "nowhere" / "x.db"))
    with pytest.raises(ConfigurationError, match="is a folder"):
        Store(tmp_path).init_database()


def test_a_read_only_store_creates_and_changes_nothing(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="creates nothing"):
        Store(f"{path}?mode=ro").init_database()
    with Store(path) as store:
        start(store).finish("completed")
    before = path.read_bytes()
    with Store(f"{path}?mode=ro") as store:
        assert store.load_run("r").status == "completed"
        calls: list[Callable[[], object]] = [
            lambda: start(store, "other"),
            lambda: store.claim_run("r"),
            lambda: store.prune(older_than=0),
        ]
        for write in calls:
            with pytest.raises(StoreReadOnly, match="mode=ro"):
                write()
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["nothing", "no table"])
def test_who_only_reads_an_empty_file_is_told_so(path: Path, content: str) -> None:
    path.touch()
    if content == "no table":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode=wal")
            connection.execute("VACUUM")
        connection.close()
    before = path.read_bytes()
    asks: list[Callable[[Store], object]] = [
        lambda store: store.list_runs(),
        lambda store: store.load_run("r"),
        lambda store: store.query("SELECT 1"),
        lambda store: store.stats(),
        lambda store: store.engine,
    ]
    for ask in asks:
        store = Store(path)
        with pytest.raises(StoreVersionError, match=r"state\.db is empty, not a dagger_dsl"):
            ask(store)
        store.close()
    with pytest.raises(StoreVersionError, match="is empty"):
        Store(f"{path}?mode=ro").init_database()
    assert not path.with_name("state.db-lock").exists()
    assert path.read_bytes() == before


@pytest.mark.parametrize("first", ["create", "init"])
def test_who_writes_makes_a_database_of_an_empty_file(path: Path, first: str) -> None:
    path.touch()
    store = Store(path)
    with pytest.raises(StoreVersionError, match="is empty"):
        store.list_runs()
    if first == "init":
        store.init_database()
    start(store).finish("completed")
    assert len(store.list_runs()) == 1
    store.close()


def test_who_reads_completes_what_somebody_died_making(path: Path) -> None:
    path.touch()
    path.with_name("state.db-lock").touch()
    with Store(path) as store:
        assert store.list_runs() == []
        start(store).finish("completed")
        assert len(store.list_runs()) == 1


def test_a_reader_waits_for_who_is_just_making_the_database(path: Path) -> None:
    made = path.with_name("made.db")
    with Store(made) as store:
        start(store).finish("completed")
    path.touch()
    locks = borrow(f"{path}-lock")
    found: list[object] = []

    def read() -> None:
        with Store(path) as store:
            found.extend(store.list_runs())

    with locks.mutex:
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(0.2)
        assert reader.is_alive()
        path.write_bytes(made.read_bytes())
    reader.join()
    give_back(locks)
    assert len(found) == 1


def test_two_processes_that_open_a_new_file_both_succeed(path: Path) -> None:
    failures: list[BaseException] = []
    barrier = threading.Barrier(6)

    def work(n: int) -> None:
        try:
            barrier.wait()
            with Store(path) as store:
                start(store, f"r{n}").finish("completed")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with Store(path) as store:
        assert len(store.list_runs()) == 6


# --- errors ---------------------------------------------------------------------------------------


def coded(code: int) -> sqlite3.OperationalError:
    """Return an error as the driver makes it."""
    error = sqlite3.OperationalError("text that decides nothing: database is locked")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, StoreFull),
        (sqlite3.SQLITE_BUSY, StoreBusy),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreBusy),
        (sqlite3.SQLITE_LOCKED, StoreBusy),
        (sqlite3.SQLITE_READONLY_DBMOVED, StoreReadOnly),
        (sqlite3.SQLITE_CORRUPT_VTAB, StoreDamaged),
        (sqlite3.SQLITE_NOTADB, StoreDamaged),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreDamaged),
        (sqlite3.SQLITE_CANTOPEN, StoreError),
    ],
)
def test_the_code_of_an_error_decides(code: int, kind: type[StoreError]) -> None:
    for error in (coded(code), sa.exc.OperationalError("SELECT 1", {}, coded(code))):
        assert type(store_error(error, "x.db")) is kind


def test_errors_of_the_statement_are_no_storage_trouble() -> None:
    assert store_error(coded(sqlite3.SQLITE_ERROR), "x.db") is None
    assert store_error(sqlite3.ProgrammingError("wrong number"), "x.db") is None
    assert store_error(ValueError(), "x.db") is None


def test_postgresql_errors_are_known_by_their_state() -> None:
    class Full(Exception):
        sqlstate = "53100"

    error = sa.exc.OperationalError("COMMIT", {}, Full("no space"))
    assert type(store_error(error, "db")) is StoreFull


# --- fork -----------------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_child(work: Callable[[], None]) -> None:
    """Run *work* in a forked child and assert that it succeeded there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print(f"in the child: {error!r}", file=sys.stderr)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@needs_fork
def test_a_child_has_connections_of_its_own(store: Store) -> None:
    journal = start(store)
    journal.commit([row("a")])
    store.load_run("r")

    def work() -> None:
        assert len(store.load_run("r").attempts) == 1
        start(store, "child").finish("completed")

    in_child(work)
    journal.commit([row("b")])
    assert store.load_run("child").status == "completed"
    assert store.query("SELECT count(*) AS n FROM node_runs") == [{"n": 2}]
    journal.finish("completed")


@needs_fork
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_child_cannot_continue_its_parents_run(store: Store, durability: str) -> None:
    journal = start(store, durability=durability)
    journal.commit([row("a")])

    def work() -> None:
        for call in (
            lambda: journal.commit([row("b")]),
            lambda: journal.commit([row("b"), row("c")]),
            lambda: journal.finish("completed"),
            lambda: store.claim_run("r"),
        ):
            with pytest.raises(RunOwned, match=f"process {os.getppid()}"):
                call()
        journal.close()

    in_child(work)
    journal.commit([row("d")])
    journal.finish("completed")
    assert {each.node_id for each in store.load_run("r").attempts} == {"a", "d"}


@needs_fork
def test_a_child_cannot_use_a_database_in_memory() -> None:
    with Store("sqlite::memory:") as store:
        start(store).close()

        def work() -> None:
            with pytest.raises(InvalidState, match="belongs to the process that made it"):
                store.load_run("r")

        in_child(work)
        store.load_run("r")


@needs_fork
def test_a_fork_while_another_thread_writes_leaves_no_lock_behind(store: Store) -> None:
    stop = threading.Event()
    journal = start(store)

    def write() -> None:
        n = 0
        while not stop.is_set():
            journal.commit([row(f"n{n}")])
            n += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for n in range(5):
            in_child(lambda n=n: start(store, f"child{n}").finish("completed"))  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
    journal.close()
    assert len(store.list_runs(status="completed")) == 5
