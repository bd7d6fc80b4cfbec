"""The promises of the documentation, one after the other, each kept by a whole run."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.engine.report import RunReport
from dagger_dsl.errors import (
    IdempotencyConflict,
    NodeCrashed,
    NodeExecutionError,
    RunFenced,
    StoreBusy,
    StoreFull,
    StoreReadOnly,
    StoreVersionError,
)
from dagger_dsl.model.states import RunStatus
from dagger_dsl.store.schema import SCHEMA_VERSION
from dagger_dsl.store.storage import Store
from tests.reliability import scripts
from tests.reliability.evidence import calls_of, check_end, check_record, look
from tests.reliability.helpers import FULL, KILL, RUNNERS, Zygote
from tests.reliability.lives import new_spec
from tests.reliability.scripts import child, ended, line
from tests.reliability.workloads import name_of, work_of
from tests.runners.helpers import Flow, Gauge, eventually, report_of
from tests.scale import count, product

pytestmark = pytest.mark.slow  # nearly each of them starts processes

runners = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of a test goes."""
    (tmp_path / "db").mkdir()
    return tmp_path / "db" / "state.db"


def rows(path: Path) -> dict[str, str]:
    """Return the last state of each node, as another program reads it from the file."""
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(
            "SELECT node_id, state FROM node_runs WHERE run_id = 'r' ORDER BY seq"
        )
        return dict(found.fetchall())
    finally:
        connection.close()


def status(path: Path) -> tuple[str, str | None]:
    """Return a run's status and its owner, as another program reads them."""
    connection = sqlite3.connect(path)
    try:
        found: tuple[str, str | None] = connection.execute(
            "SELECT status, owner FROM flow_runs WHERE run_id = 'r'"
        ).fetchone()
        return found
    finally:
        connection.close()


def integrity(path: Path) -> list[Any]:
    """Return what SQLite's full check says."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall()
    finally:
        connection.close()


def chain(length: int, gauge: Gauge | None = None) -> Flow:
    """Return a chain that counts."""

    def first() -> int:
        with gauge or Gauge():
            return 1

    def following(before: int) -> int:
        with gauge or Gauge():
            return before + 1

    flow = Flow().add("n0", first)
    for n in range(1, length):
        flow.add(f"n{n}", following, take={"before": f"n{n - 1}"})
    return flow


# --- 1 and 2: results -----------------------------------------------------------------------------


@runners
def test_1_whoever_sees_a_result_sees_it_recorded(path: Path, runner: str) -> None:
    unseen: list[str] = []

    def check(*names: str) -> None:
        found = rows(path)
        unseen.extend(name for name in names if found.get(name) != "completed")

    def make() -> int:
        return 1

    def use(value: int) -> int:
        check("make")
        return value

    def hook(_ctx: Any, event: Any) -> None:
        if event.__class__.__name__ == "NodeCompleted":
            check(event.node.node_id)

    def progress(node: str, state: str, _done: float) -> None:
        if state == "completed":
            check(node)

    flow = Flow().add("make", make)
    for n in range(20):
        flow.add(f"use{n}", use, take={"value": "make"})
    report = scripts.start(flow, path, runner, hooks=[hook], progress=progress)
    assert report.success
    assert unseen == []
    assert rows(path) == dict.fromkeys(report.graph.nodes, "completed")
    assert status(path) == ("completed", None)


@runners
def test_1_a_completed_run_is_returned_and_nothing_is_called(path: Path, runner: str) -> None:
    gauge = Gauge()
    flow = chain(5, gauge)
    first = scripts.start(flow, path, runner)
    second = scripts.again(flow, path, runner)
    assert gauge.total == 5
    assert second.status is RunStatus.COMPLETED
    assert dict(second.values) == dict(first.values)


@runners
def test_2_a_failed_run_goes_on_with_what_did_not_complete(path: Path, runner: str) -> None:
    gauge = Gauge()
    well = False

    def fail(before: int) -> int:
        if not well:
            raise ConnectionError("down")
        return before

    flow = chain(3, gauge)
    flow.add("bad", fail, take={"before": "n2"}).add("after", fail, take={"before": "bad"})
    report = scripts.start(flow, path, runner)
    assert report_of(report)["bad"] == "failed"
    assert status(path)[0] == "failed"
    well = True
    report = scripts.again(flow, path, runner)
    assert report.success
    assert report.value("after") == 3
    assert gauge.total == 3
    assert report.node_reports["bad"].attempts == 2


# --- 4: one owner ---------------------------------------------------------------------------------

SLOW = """
    def slow():
        say("slow", os.getpid())
        time.sleep(60)

    flow = Flow().add("one", lambda: 1).add("slow", slow, after=["one"])
"""


@runners
def test_4_of_two_processes_one_works_and_the_other_learns_who_it_is(
    path: Path, runner: str
) -> None:
    owner = child(f"{SLOW}\n    start(flow, sys.argv[1], sys.argv[2])", path, runner)
    assert line(owner) == f"slow {owner.pid}"
    other = child(
        f"""{SLOW}
    from dagger_dsl.errors import RunOwned
    try:
        again(flow, sys.argv[1], sys.argv[2])
    except RunOwned as error:
        say(error)
    """,
        path,
        runner,
    )
    said = ended(other)
    assert len(said) == 1
    assert f"process {owner.pid} on host {os.uname().nodename}" in said[0]
    owner.send_signal(signal.SIGKILL)
    ended(owner)
    flow = Flow().add("one", lambda: 1).add("slow", lambda: 2, after=["one"])
    began = time.monotonic()
    assert again_in_file(flow, path).success
    assert time.monotonic() - began < 10, "a takeover on one host waits for no lease"


def again_in_file(flow: Flow, path: Path) -> RunReport:
    """Resume with actions of the names that the stored graph has."""
    with Store(path) as store:
        stored = store.load_run("r").graph
    for node in stored.nodes.values():
        mine = next(each for each in flow.nodes if each.id == node.id)
        flow.registry.register(flow.registry[mine.action].fn, node.action, replace=True)
    return scripts.again(flow, path)


def test_4_many_processes_race_for_one_run(path: Path) -> None:
    code = """
        from dagger_dsl.errors import RunOwned

        def work(k):
            say("call", k)
            time.sleep(0.05)
            return k

        flow = Flow()
        for k in range(8):
            flow.add(f"n{k}", work, give={"k": k})
        for node in flow.nodes:
            flow.registry.register(work, "work", replace=True)
        flow.nodes = [node.replace(action="work") for node in flow.nodes]
        if sys.argv[2] == "make":
            def stop(k):
                raise ConnectionError
            flow.registry.register(stop, "work", replace=True)
            start(flow, sys.argv[1], config={"on_failure": "continue"})
            sys.exit()
        say("ready")
        sys.stdin.readline()
        try:
            say("done", again(flow, sys.argv[1]).status)
        except RunOwned as error:
            say("owned", error.owner)
    """
    ended(child(code, path, "make"))
    racers = [_with_input(code, path) for _ in range(4)]
    assert [line(each) for each in racers] == ["ready"] * 4
    for each in racers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    said = [ended(each) for each in racers]
    calls = [each for lines in said for each in lines if each.startswith("call")]
    assert sorted(calls) == sorted(f"call {k}" for k in range(8))
    endings = [lines[-1].split()[0] for lines in said]
    assert "done" in endings
    assert set(endings) <= {"done", "owned"}


def _with_input(code: str, path: Path) -> Any:
    import subprocess
    import sys
    import textwrap

    from tests.reliability.helpers import ROOT

    head = (
        "from tests.reliability.scripts import *\nfrom tests.runners.helpers import Flow\n"
        "import sys, time\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), str(path), "race"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


#: A process that believes to be on another host, whose locks do not reach this one.
ELSEWHERE = """
    from dagger_dsl.store import locks, ownership
    from dagger_dsl.store.storage import Store
    locks._take = lambda *_: True
    locks._free = lambda *_: None
    me = ownership.Owner("elsewhere", os.getpid(), "another boot", "another machine", "t")
    ownership._owner = lambda pid: me
    from dagger_dsl import engine
    from dagger_dsl.errors import RunFenced

    def work(k):
        say("call", k)
        time.sleep(0.02)
        return k

    flow = Flow()
    for k in range(100):
        flow.add(f"n{k}", work, give={"k": k}, after=[f"n{k-1}"] if k else [])
    flow.registry.register(work, "work")
    flow.nodes = [node.replace(action="work") for node in flow.nodes]
    with Store(sys.argv[1], lease=1.0) as store:
        try:
            engine.run(flow.graph(), flow.registry, None, options(sys.argv[1], sys.argv[2]),
                       store=store)
            say("completed")
        except RunFenced as error:
            say("fenced", error)
"""


@runners
def test_4_a_stalled_owner_is_fenced(path: Path, runner: str) -> None:
    owner = child(ELSEWHERE, path, runner)
    for _ in range(5):
        line(owner)
    owner.send_signal(signal.SIGSTOP)
    try:
        mine: list[int] = []

        def work(k: int) -> int:
            mine.append(k)
            return k

        flow = Flow()
        flow.registry.register(work, "work")
        with Store(path, lease=1.0) as store:
            report = engine.resume("r", flow.registry, scripts.options(path, runner), store=store)
        assert report.success
        assert dict(report.values) == {f"n{k}": k for k in range(100)}
        assert len(mine) < 100
        before = path.read_bytes()
    finally:
        owner.send_signal(signal.SIGCONT)
    said = ended(owner)
    assert said[-1].startswith("fenced"), said
    assert "taken over" in said[-1]
    with Store(path) as store:
        stored = store.load_run("r")
        assert (stored.status, stored.epoch, stored.owner) == ("completed", 2, None)
        assert len(stored.attempts) == 100
    assert before  # it was read while nobody wrote


def test_4_an_owner_who_lost_its_run_stops(path: Path) -> None:
    gauge = Gauge()
    flow = Flow()

    def work() -> None:
        with gauge:
            if gauge.total == 3:
                connection = sqlite3.connect(path, timeout=20)
                connection.execute("UPDATE flow_runs SET epoch = epoch + 1")
                connection.commit()
                connection.close()

    for n in range(50):
        flow.add(f"n{n}", work)
    with pytest.raises(RunFenced):
        scripts.start(flow, path, "sequential")
    assert gauge.total == 3


# --- 5: storage trouble is no result --------------------------------------------------------------


def check_resumable(path: Path, flow: Flow, expected: dict[str, Any]) -> None:
    """Check that trouble left no trace but missing results, and that the run goes on."""
    assert set(rows(path).values()) <= {"completed"}, "storage trouble is no node's failure"
    assert status(path)[0] == "running"
    report = scripts.again(flow, path)
    assert report.success
    assert dict(report.values) == expected
    assert integrity(path) == [("ok",)]


@contextmanager
def _full_store(path: Path, spare: int) -> Iterator[Store]:
    """Give a store whose database may grow by *spare* pages."""
    with Store(path) as store:
        with store.database.exclusive() as raw:
            pages = raw.execute("PRAGMA page_count").fetchone()[0]
            raw.execute(f"PRAGMA max_page_count={pages + spare}")
        yield store


@runners
def test_5_a_full_database_stops_the_run_which_goes_on_later(path: Path, runner: str) -> None:
    gauge = Gauge()

    def text(k: int) -> str:
        with gauge:
            return f"{k}" * 2000

    flow = Flow()
    for k in range(200):
        flow.add(f"n{k}", text, give={"k": k})
    chosen = scripts.options(path, runner)
    with _full_store(path, spare=40) as store, pytest.raises(StoreFull, match="resume"):
        engine.run(flow.graph(), flow.registry, None, chosen, store=store)
    eventually(lambda: gauge.now == 0, "calls under way end")
    done = len(rows(path))
    slots = 1 if runner == "sequential" else 4
    assert 0 < done < 200
    # With flush_interval=0 nothing is launched before the outcomes so far are committed.
    assert gauge.total <= done + 2 * slots
    check_resumable(path, flow, {f"n{k}": f"{k}" * 2000 for k in range(200)})


@pytest.mark.slow
@runners
def test_5_a_full_disk_at_any_write(tmp_path: Path, zygote: Zygote, runner: str, rng: Any) -> None:
    """Every write from the n-th on fails with ENOSPC; later there is space again."""
    fields: dict[str, Any] = {"runner": runner, "options": "?synchronous=NORMAL", "large": 4}
    spec, database = new_spec(tmp_path / "whole", **fields)
    calls = zygote.run(spec, database.parent).calls
    moments = [n for n, kind in enumerate(calls, 1) if kind in "wm"]
    stopped = 0
    for nth in sorted(rng.sample(moments, min(len(moments), count(len(moments), least=15)))):
        spec, database = new_spec(tmp_path / f"at{nth}", **fields)
        ending = zygote.run(spec, database.parent, nth, FULL)
        record = look(database, tmp_path / "side")
        check_record(work_of(spec), record, calls_of(spec))
        if ending.status != 0:
            stopped += 1
            assert ending.told.startswith(("StoreFull", "StoreError", "StoreDamaged")), ending
            assert record.status in (None, "running"), ending
            made, done = calls_of(spec), set(record.completed)
            slots = 1 if runner == "sequential" else spec.slots
            assert len([call for call in made if call.name not in done]) <= 2 * slots
        assert zygote.run(spec, database.parent).told == "completed"
        check_end(spec, database, tmp_path / "side")
        assert {call.name for call in calls_of(spec)} == work_of(spec).called
    assert stopped


@runners
def test_5_another_programs_lock_stops_the_run_which_goes_on_later(path: Path, runner: str) -> None:
    gauge = Gauge()
    other = []

    def work(k: int) -> int:
        with gauge:
            if gauge.total == 5:
                connection = sqlite3.connect(path, timeout=20, check_same_thread=False)
                connection.isolation_level = None
                connection.execute("BEGIN IMMEDIATE")
                other.append(connection)
            return k

    flow = Flow()
    for k in range(30):
        flow.add(f"n{k}", work, give={"k": k}, after=[f"n{k - 1}"] if k else [])
    with pytest.raises(StoreBusy, match="try again"):
        scripts.start(flow, f"sqlite:{path}?busy_timeout=200", runner)
    assert gauge.total == 5
    other[0].execute("ROLLBACK")
    other[0].close()
    check_resumable(path, flow, {f"n{k}": k for k in range(30)})


@runners
def test_5_a_short_lock_is_waited_for(path: Path, runner: str) -> None:
    other: list[sqlite3.Connection] = []

    def lock() -> None:
        connection = sqlite3.connect(path, timeout=20, check_same_thread=False)
        connection.isolation_level = None
        connection.execute("BEGIN IMMEDIATE")
        other.append(connection)
        import threading

        threading.Timer(0.3, connection.execute, ["ROLLBACK"]).start()

    flow = Flow().add("lock", lock).add("after", lambda: 1, after=["lock"])
    assert scripts.start(flow, path, runner).success
    other[0].close()


def test_5_a_database_that_cannot_be_written_is_refused_before_anything_runs(path: Path) -> None:
    gauge = Gauge()
    flow = chain(3, gauge)
    with pytest.raises(NodeExecutionError):
        _fails_after(flow, path).raise_for_failure()
    calls = gauge.total
    with pytest.raises(StoreReadOnly):
        scripts.again(flow, f"sqlite:{path}?mode=ro")
    with pytest.raises(StoreReadOnly):
        scripts.start(flow, f"sqlite:{path}?mode=ro", run_id="other")
    assert gauge.total == calls


def _fails_after(flow: Flow, path: Path) -> RunReport:
    def fail() -> None:
        raise ValueError

    return scripts.start(flow.add("fails", fail, after=[flow.nodes[-1].id]), path)


UNPRIVILEGED = """
    # Root may write everything by the capabilities DAC_OVERRIDE and DAC_READ_SEARCH: give them up.
    import ctypes
    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
    class Data(ctypes.Structure):
        _fields_ = [(n, ctypes.c_uint32) for n in ("effective", "permitted", "inheritable")]
    header, data = Header(0x20080522, 0), (Data * 2)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(ctypes.byref(header), data) == 0
    data[0].effective &= ~0b110
    assert libc.capset(ctypes.byref(header), data) == 0
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_5_files_without_the_right_to_write_are_refused(path: Path, what: str) -> None:
    flow = chain(2)
    with pytest.raises(NodeExecutionError):
        _fails_after(flow, path).raise_for_failure()
    target = path if what == "file" else path.parent
    mode = target.stat().st_mode
    code = f"""{UNPRIVILEGED}
    from dagger_dsl.errors import StoreError
    from tests.reliability.test_promises import chain
    flow = chain(2)
    try:
        start(flow, sys.argv[1], run_id="another")
        say("ran")
    except StoreError as error:
        say(type(error).__name__, error)
    """
    lock = path.with_name("state.db-lock")
    if what == "folder":
        lock.unlink(missing_ok=True)
    target.chmod(mode & ~0o222)
    try:
        said = ended(child(code, path))
    finally:
        target.chmod(mode)
    assert len(said) == 1
    assert said[0].startswith("StoreReadOnly"), said
    assert "writable" in said[0]


def _killed(path: Path, spec_folder: Path, zygote: Zygote, **fields: Any) -> Any:
    """Return the spec of a run that was killed about half way."""
    spec, database = new_spec(spec_folder, options="?synchronous=NORMAL", **fields)
    total = len(zygote.run(spec, database.parent).calls)
    for twentieth in range(19, 0, -1):  # the tables come first, and then one commit a node
        shutil.rmtree(database.parent)
        database.parent.mkdir()
        Path(spec.log).unlink()
        ending = zygote.run(spec, database.parent, total * twentieth // 20, KILL)
        assert ending.status == -signal.SIGKILL
        if len(look(database, spec_folder / "side").completed) < spec.nodes * 2 // 3:
            break
    assert len(look(database, spec_folder / "side").completed) > 3
    return spec, database


@pytest.mark.parametrize("where", ["interior", "header"])
def test_5_a_damaged_file_is_refused_after_an_unclean_end(
    tmp_path: Path, zygote: Zygote, where: str
) -> None:
    spec, database = _killed(tmp_path, tmp_path / "run", zygote)
    connection = sqlite3.connect(database)  # bring the pages from the WAL into the file
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    page = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'node_runs'"
    ).fetchone()[0]
    connection.close()
    whole = database.read_bytes()
    with database.open("r+b") as file:
        file.seek((page - 1) * size if where == "interior" else 28)
        file.write(b"\xde\xad\xbe\xef" * (size // 8 if where == "interior" else 5))
    database.with_name("state.db-lock").write_bytes(b"\1")  # as the killed process left it
    before = len(calls_of(spec))
    ending = zygote.run(spec, database.parent)
    assert (ending.status, ending.told.split(":")[0]) == (3, "StoreDamaged"), ending
    assert len(calls_of(spec)) == before, "nothing is called on top of a damaged file"
    database.write_bytes(whole)
    for suffix in ("-wal", "-shm"):
        database.with_name(f"state.db{suffix}").unlink(missing_ok=True)
    assert zygote.run(spec, database.parent).told == "completed"
    check_end(spec, database, tmp_path / "side")


# --- 6: damage is refused, not passed on ----------------------------------------------------------


@pytest.mark.parametrize("harm", ["flipped", "short", "gone"])
def test_6_a_damaged_artifact_is_refused_and_no_node_fails(
    tmp_path: Path, zygote: Zygote, harm: str
) -> None:
    spec, database = _killed(tmp_path, tmp_path / "run", zygote, large=1)
    files = sorted(each for each in database.parent.glob("state.db-artifacts/??/*"))
    files = [each for each in files if len(each.name) == 64]
    assert len(files) > 3
    kept = {each: each.read_bytes() for each in files}
    for each, data in kept.items():
        if harm == "flipped":
            each.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        elif harm == "short":
            each.write_bytes(data[:-1])
        else:
            each.unlink()
    before = len(calls_of(spec))
    ending = zygote.run(spec, database.parent)
    assert ending.status == 3
    assert ending.told.split(":")[0] in ("StoreDamaged", "ArtifactNotFound"), ending
    assert len(calls_of(spec)) == before
    assert look(database, tmp_path / "side").status == "running"
    for each, data in kept.items():
        each.write_bytes(data)
    assert zygote.run(spec, database.parent).told == "completed"
    check_end(spec, database, tmp_path / "side")


# --- 8: a node that kills its process -------------------------------------------------------------

KILLER = """
    kind, runner, how, deaths, shape = *sys.argv[2:5], int(sys.argv[5]), sys.argv[6]

    def die():
        if how == "signal":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        os._exit(3)

    def work(k):
        say("call", k)
        if k == 5:
            time.sleep(0.05)  # its neighbours are under way by then
            tries = os.path.join(os.path.dirname(sys.argv[1]), "tries")
            with open(tries, "a") as file:
                file.write("x")
            if os.path.getsize(tries) <= deaths:
                die()
        else:
            time.sleep(0.2 if 4 <= k <= 8 else 0.001)
        return k

    async def work_async(k):
        if k != 5 and 4 <= k <= 8:
            say("call", k)
            await asyncio.sleep(0.2)
            return k
        return work(k)

    from dagger_dsl.engine.hooks import EventHook
    from dagger_dsl.model.commands import AddNodes, NodeSpec
    from dagger_dsl.model.graph import Input, Node
    flow = Flow()
    flow.registry.register(work, "work")
    flow.registry.register(work_async, "work_async")
    flow.registry.register(lambda: list(range(10)), "first")
    flow.registry.register(lambda: 1, "last")
    action = "work_async" if kind == "async" else "work"
    many = [NodeSpec(action, id=f"n{k}", inputs={"k": k}, deps=["first"]) for k in range(10)]
    many.append(NodeSpec("last", deps=[each.id for each in many]))
    flow.nodes = [Node("first", "first")]

    class Grow(EventHook):
        def handle(self, ctx, event):
            if event.__class__.__name__ == "NodeCompleted" and event.node.node_id == "first":
                return AddNodes(many)

    hooks = []
    if shape == "there":
        flow.nodes += [each.to_node("last") for each in many]
    elif shape == "added":
        hooks = [Grow()]
    elif shape == "answered":
        def ask(ctx):
            return ctx.wait_for_human("Go on?")
        flow.registry.register(ask, "ask")
        flow.nodes.append(Node("ask", "ask", dependencies=["first"]))
        flow.nodes += [each.with_deps(["ask"]).to_node() for each in many[:-1]]
        flow.nodes.append(many[-1].to_node("last"))
    else:
        taken = [Input("k", reference="first.result")]
        flow.nodes.append(Node("n", action, taken, map_over="k", map_errors=shape))
        flow.nodes.append(Node("last", "last", dependencies=["n"]))
    run = again if os.path.exists(sys.argv[1]) else start
    report = run(flow, sys.argv[1], runner, config={"on_failure": "continue"}, hooks=hooks)
    say("run", report.status)
"""


def ends(path: Path) -> dict[str, tuple[str, str]]:
    """Return each invocation's last state, and what it failed for."""
    with Store(path) as store:
        found = store.load_run("r").nodes
    named = {name_of(*place): node for place, node in found.items()}
    return {
        name: (node.state, "" if node.error is None else node.error["type"].rpartition(".")[2])
        for name, node in named.items()
    }


SHAPES = ["there", "added", "answered", "fail", "collect"]
WAYS = [("there", "exit"), *((shape, "signal") for shape in SHAPES)]
CALLS = [("sequential", "sync"), ("threads", "sync"), ("asyncio", "sync"), ("asyncio", "async")]


@pytest.mark.parametrize(
    ("shape", "how", "runner", "kind"), [(*way, *call) for way, call in product(WAYS, CALLS)]
)
def test_8_a_node_that_kills_its_process_fails_and_its_neighbours_do_not(
    path: Path, runner: str, kind: str, shape: str, how: str
) -> None:
    """Nodes of the graph, those that a hook adds, those behind a person's answer, and invocations
    whose failure counts or does not.
    """
    calls: list[str] = []
    processes = 0
    while True:
        processes += 1
        assert processes < 10, "it is retried for ever"
        process = child(KILLER, path, kind, runner, how, 1000, shape)
        said = ended(process)
        calls += [each for each in said if each.startswith("call")]
        if said[-1:] == ["run paused"]:
            processes -= 1  # it has ended, and waits
            with Store(path) as store:
                RunControl(store, "r").answer("ask", True)
        elif process.returncode == 0:
            break
    assert processes == 4, "three deaths, then the run goes on without it"
    assert calls.count("call 5") == 3
    pattern = "n[{}]" if shape in ("fail", "collect") else "n{}"
    expected = {pattern.format(k): ("completed", "") for k in range(10)}
    expected[pattern.format(5)] = ("failed", "NodeCrashed")
    expected |= {"first": ("completed", ""), "last": ("skipped", "")}
    if shape == "answered":
        expected["ask"] = ("completed", "")
    found, dropped = ends(path), []
    if shape == "fail":  # with its first failure the node has failed, whatever is still open
        expected["n"] = ("failed", "MapError")
        dropped = [name for name, (state, _) in found.items() if state == "cancelled"]
        expected |= dict.fromkeys(dropped, ("cancelled", ""))
    if shape == "collect":
        expected |= {"n": ("completed", ""), "last": ("completed", "")}
    assert found == expected
    if shape == "collect":
        assert said[-1] == "run completed"
        with Store(path) as store:
            values = store.load_run("r").nodes["n", "default"].value()
        assert values[5].type.endswith("NodeCrashed")
        assert [*values[:5], *values[6:]] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
        return
    assert said[-1] == "run failed"
    # Whoever asks for it gets a fresh budget; the cause may have been mended.
    process = child(KILLER, path, kind, runner, how, 0, shape)
    said = ended(process)
    assert said[-1] == "run completed"
    again = {each for each in said if each.startswith("call")}
    assert again == {f"call {name.strip('n[]')}" for name in ("n5", *dropped)}


@runners
def test_8_a_node_that_stops_killing_in_time_completes(path: Path, runner: str) -> None:
    for deaths in (1, 2, 3):
        process = child(KILLER, path, "sync", runner, "signal", 2, "there")
        said = ended(process)
        assert process.returncode == (0 if deaths == 3 else -signal.SIGKILL)
    assert said[-1] == "run completed"


def test_8_trouble_that_kills_nobody_counts_no_death(path: Path) -> None:
    """A full disk, again and again, while calls are under way: they did nothing wrong."""

    def slow(k: int) -> str:
        time.sleep(0.02)
        return str(k) * 3000

    flow = Flow()
    for k in range(8):
        flow.add(f"n{k}", slow, give={"k": k})
    chosen = scripts.options(path)
    with _full_store(path, spare=5) as store, pytest.raises(StoreFull):
        engine.run(flow.graph(), flow.registry, None, chosen, store=store)
    for _ in range(4):
        with _full_store(path, spare=0) as store, pytest.raises(StoreFull):
            engine.resume("r", flow.registry, chosen, store=store)
    report = scripts.again(flow, path)
    assert report.success
    with Store(path) as store:
        assert store.load_run("r").crashes == {}


def test_8_a_crashed_node_is_named_with_its_number_of_deaths() -> None:
    error = NodeCrashed("n", 3)
    assert (error.node_id, error.crashes) == ("n", 3)
    assert "3 times" in str(error)


# --- 9: same key, same run ------------------------------------------------------------------------


@runners
def test_9_one_key_is_one_run(path: Path, runner: str) -> None:
    gauge = Gauge()

    def double(x: int) -> int:
        with gauge:
            return 2 * x

    flow = Flow().add("double", double, take={"x": "inputs.x"})
    first = scripts.start(flow, path, runner, run_id=None, idempotency_key="k", inputs={"x": 4})
    second = scripts.start(flow, path, runner, run_id=None, idempotency_key="k", inputs={"x": 4})
    assert first.run_id == second.run_id
    assert second.value("double") == 8
    assert gauge.total == 1
    with pytest.raises(IdempotencyConflict, match="'k'"):
        scripts.start(flow, path, runner, run_id=None, idempotency_key="k", inputs={"x": 5})
    other = scripts.start(flow, path, runner, run_id=None, idempotency_key="l", inputs={"x": 5})
    assert other.run_id != first.run_id


KEYED = """
    def work(ctx):
        say("key", ctx.idempotency_key, ctx.attempt)
        if ctx.attempt == 1 and sys.argv[2] == "first":
            raise ConnectionError
        if sys.argv[2] == "first":
            os.kill(os.getpid(), signal.SIGKILL)
        return 1
    from dagger_dsl.model.context import NodeCtx
    from dagger_dsl.model.policies import RetryPolicy
    work.__annotations__["ctx"] = NodeCtx
    flow = Flow()
    flow.registry.register(work, "work")
    from dagger_dsl.model.graph import Node
    retry = RetryPolicy(base_delay=0.0, max_delay=0.0)
    flow.nodes = [Node("n", "work", try_count=3, retry=retry)]
    say("run", start(flow, sys.argv[1], run_id=None, idempotency_key="order 7").status)
"""


def test_9_the_same_key_goes_on_after_a_crash_and_nodes_keep_theirs(path: Path) -> None:
    first = ended(child(KEYED, path, "first"))
    second = ended(child(KEYED, path, "second"))
    keys = [each.split()[1] for each in first + second if each.startswith("key")]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert second[-1] == "run completed"
    with Store(path) as store:
        assert len(store.list_runs()) == 1


# --- 11: versions ---------------------------------------------------------------------------------


def test_11_a_newer_file_is_refused_untouched(path: Path) -> None:
    flow = chain(2)
    scripts.start(flow, path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.execute("UPDATE meta SET value = '9.9' WHERE name = 'needs'")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    with pytest.raises(StoreVersionError, match=r"9\.9"):
        scripts.start(flow, path, run_id="another")
    with pytest.raises(StoreVersionError, match="not touched"):
        scripts.again(flow, path)
    after = {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    assert after == before


# --- fork -----------------------------------------------------------------------------------------

FORKING = """
    import multiprocessing

    def square(x):
        return x * x

    def with_child(before):
        child = os.fork()
        if not child:
            os._exit(7)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    def with_pool(before):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(square, range(5))

    flow = Flow().add("first", lambda: 0)
    flow.add("child", with_child, take={"before": "first"})
    flow.add("pool", with_pool, take={"before": "child"})
    flow.add("last", lambda x: x, take={"x": "pool"})
    report = start(flow, sys.argv[1], sys.argv[2])
    say(report.status, report.value("child"), report.value("last"))
"""


@runners
def test_fork_in_a_body_leaves_the_run_and_its_files_alone(path: Path, runner: str) -> None:
    # Forking a process with threads is the user's own risk, of which newer Pythons warn.
    process = child(FORKING, path, runner, PYTHONWARNINGS="ignore")
    assert ended(process) == ["completed 7 [0, 1, 4, 9, 16]"]
    assert set(rows(path).values()) == {"completed"}
    assert integrity(path) == [("ok",)]


FORKED = """
    from dagger_dsl.errors import RunOwned
    parent = os.getpid()
    children = []

    def split(before):
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            children.append(status)
        return before

    flow = Flow().add("first", lambda: 0).add("split", split, take={"before": "first"})
    for n in range(5):
        flow.add(f"last{n}", lambda before: say("call", os.getpid() == parent),
                 take={"before": "split"})
    try:
        report = start(flow, sys.argv[1], "sequential")
        say("parent", os.getpid() == parent, report.status)
    except RunOwned as error:
        say("child", os.getpid() != parent, str(parent) in str(error))
"""


def test_fork_a_child_that_goes_on_with_its_parents_run_gets_an_error(path: Path) -> None:
    said = ended(child(FORKED, path, PYTHONWARNINGS="ignore"))
    assert said[0] == "child True True"
    assert said[1:] == ["call True"] * 5 + ["parent True completed"]
    assert status(path) == ("completed", None)
    assert not list(path.parent.glob("*flight*"))


# --- 7: stop means stop ---------------------------------------------------------------------------

PIPELINE = """
import os, sys, time
sys.path.insert(0, {root!r})
from dagger_dsl import DAG, action

def note(word):
    file = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (word + "\\n").encode())
    os.close(file)

@action
def work(k: int) -> int:
    note(f"begin{{k}}")
    time.sleep({seconds})
    note(f"end{{k}}")
    return k

with DAG("stopped") as dag:
    for k in range(12):
        work(k=k)
"""


@runners
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_7_the_first_signal_lets_calls_end_and_starts_nothing(
    tmp_path: Path, path: Path, runner: str, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    pipeline = tmp_path / "pipeline.py"
    root = str(Path(__file__).parents[2])
    pipeline.write_text(PIPELINE.format(root=root, log=str(log), seconds=0.5))
    command = ["run", f"{pipeline}:dag", "--db", str(path), "--run-id", "r", "--runner", runner]
    code = "from dagger_dsl.cli import main; sys.exit(main(sys.argv[1:]))"
    process = child(code, *command)
    eventually(lambda: log.exists() and "begin" in log.read_text(), "the run begins")
    time.sleep(0.05)
    process.send_signal(number)
    ended(process)
    assert process.returncode == 128 + number
    words = log.read_text().split()
    begun = {each[5:] for each in words if each.startswith("begin")}
    over = {each[3:] for each in words if each.startswith("end")}
    assert begun == over, "calls under way were given the time to end"
    assert len(begun) <= (1 if runner == "sequential" else 4)
    states = rows(path)
    assert {name for name, state in states.items() if state == "completed"} == {
        name for name in states if name.rpartition("_")[2] in {str(int(k) + 1) for k in begun}
    } | ({"work"} if "0" in begun else set())
    assert status(path) == ("cancelled", None)
    log.unlink()
    pipeline.write_text(PIPELINE.format(root=root, log=str(log), seconds=0))
    command = ["resume", "r", "--actions", str(pipeline), "--db", str(path)]
    process = child(code, *command)
    ended(process)
    assert process.returncode == 0
    again = {each[5:] for each in log.read_text().split() if each.startswith("begin")}
    assert again == {str(k) for k in range(12)} - begun
