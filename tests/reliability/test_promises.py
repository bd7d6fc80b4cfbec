"""The promises of the documentation, kept by whole runs: storage trouble, death, keys, owners.

What the store alone has to keep is in ``tests/store/test_faults.py``; what the command has to keep
on signals in ``tests/cli/test_signals.py``. Here the engine and the store are tested together.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.engine import resume, run
from dagger_dsl.errors import (
    IdempotencyConflict,
    RunExists,
    RunFenced,
    RunOwned,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreReadOnly,
    StoreVersionError,
)
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.graph import Graph, GraphInput, Input, Node
from dagger_dsl.model.policies import RetryStrategy
from dagger_dsl.model.states import RunStatus
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store

ROOT = Path(__file__).parents[2]
RUNNERS = ("sequential", "threads", "asyncio")


def actions(**functions: Callable[..., Any]) -> Registry:
    registry = Registry()
    for name, function in functions.items():
        registry.register(function, name)
    return registry


def chain(length: int, *, kind: str = "step") -> Graph:
    nodes = [Node("n0", "source")]
    nodes += [Node(f"n{i}", kind, [Input("x", f"n{i - 1}.result")]) for i in range(1, length)]
    return Graph("chain", nodes)


def source() -> int:
    return 0


def step(x: int) -> int:
    return x + 1


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'runs.db'}"


def options(url: str, **more: Any) -> RunOptions:
    return RunOptions(database_url=url, run_id="r", **more)


# --- promise 1: what is seen is recorded ---------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_dependent_and_a_hook_see_a_result_only_after_its_commit(
    runner: str, url: str, tmp_path: Path
) -> None:
    seen: list[tuple[str, bool]] = []

    def is_recorded(node_id: str) -> bool:
        with sqlite3.connect(tmp_path / "runs.db") as connection:
            query = "SELECT count(*) FROM node_runs WHERE node_id = ? AND state = 'completed'"
            found = connection.execute(query, (node_id,)).fetchone()[0] == 1
        connection.close()
        return bool(found)

    def looking(x: int, ctx: NodeCtx) -> int:
        before = f"n{int(ctx.node_id[1:]) - 1}"
        seen.append((before, is_recorded(before)))
        return x + 1

    class Hook:
        def handle(self, ctx: Any, event: Any) -> None:
            if type(event).__name__.endswith("Completed"):
                seen.append((event.node.node_id, is_recorded(event.node.node_id)))

    report = run(
        chain(5, kind="looking"),
        actions(source=source, looking=looking),
        options=options(url, runner=runner, hooks=[Hook()]),
    )
    assert report.success
    assert len(seen) == 4 + 5
    assert all(recorded for _, recorded in seen), seen


# --- promise 5: storage trouble is not a result --------------------------------------------------


def test_a_full_disk_ends_the_run_and_fails_no_node(tmp_path: Path) -> None:
    store = Store(f"sqlite:{tmp_path / 'runs.db'}")
    calls: list[str] = []

    def filling(x: int, ctx: NodeCtx) -> str | int:
        calls.append(ctx.node_id)
        return x + 1

    def last(x: int) -> list[str]:
        return ["much " * 5000 for _ in range(1)]

    graph = Graph(
        "g",
        [
            Node("n0", "source"),
            *[Node(f"n{i}", "filling", [Input("x", f"n{i - 1}.result")]) for i in range(1, 6)],
            *[Node(f"big{i}", "last", [Input("x", f"n{i}.result")]) for i in range(1, 6)],
        ],
    )
    registry = actions(source=source, filling=filling, last=last)
    with store:
        with store.writing() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 3}")
        config = DagConfig(flush_interval=0.0)
        with pytest.raises(StoreFull):
            run(graph, registry, options=RunOptions(run_id="r", config=config), store=store)
        stored = store.load_run("r")
        assert stored.status == "running"
        assert not [node for node in stored.attempts if node.state == "failed"]
        with store.writing() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        before = {node.node_id for node in stored.attempts if node.state == "completed"}
        calls.clear()
        report = resume("r", registry, RunOptions(), store=store)
    assert report.success
    assert not before & set(calls), "what was recorded is not called again"


def test_injected_enospc_ends_the_run_and_it_goes_on_later(tmp_path: Path) -> None:
    library = tmp_path / "shim.so"
    shim = Path(__file__).with_name("shim.c")
    compile_it = ["cc", "-shared", "-fPIC", "-o", str(library), str(shim), "-ldl"]
    subprocess.run(compile_it, check=True)
    command = [sys.executable, "-m", "tests.reliability.workload", str(tmp_path), "threads", "20"]
    tally = tmp_path / "tally"
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "SHIM_FOLDER": str(tmp_path / "runs.db"),
        "SHIM_TALLY": str(tally),
    }
    counted = subprocess.run([*command, "0"], cwd=ROOT, env=environment, timeout=100, check=True)
    assert counted.returncode == 0
    total = int(tally.read_text())
    for path in tmp_path.glob("runs.db*"):
        path.unlink()
    environment["SHIM_ENOSPC_AT"] = str(total * 2 // 3)
    broken = subprocess.run(
        [*command, "0"], cwd=ROOT, env=environment, timeout=100, capture_output=True, check=False
    )
    assert broken.returncode != 0
    assert b"StoreFull" in broken.stderr or b"StoreError" in broken.stderr, broken.stderr
    with Store(f"sqlite:{tmp_path / 'runs.db'}") as store:
        assert not [n for n in store.load_run("victim").attempts if n.state == "failed"]
    subprocess.run([*command, "0"], cwd=ROOT, timeout=100, check=True)


def test_a_lock_that_stays_ends_the_run_with_store_busy(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'runs.db'}?busy_timeout=200"
    blocker: list[sqlite3.Connection] = []

    def blocking(x: int) -> int:
        connection = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        blocker.append(connection)
        return x + 1

    registry = actions(source=source, step=blocking)
    with pytest.raises(StoreBusy):
        run(chain(3), registry, options=options(url))
    blocker[0].close()
    report = resume("r", actions(source=source, step=step), RunOptions(database_url=url))
    assert report.outputs == {"n2": 2}
    assert report.failed_nodes == 0


def test_a_read_only_database_is_told_before_anything_runs(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'runs.db'}"
    run(chain(2), actions(source=source, step=step), options=options(url))
    called: list[int] = []

    def noted() -> int:
        called.append(1)
        return 0

    with pytest.raises(StoreReadOnly):
        run(
            chain(2),
            actions(source=noted, step=step),
            options=RunOptions(database_url=f"{url}?mode=ro", run_id="other"),
        )
    assert not called


# --- promise 6: damage is refused ----------------------------------------------------------------


def test_a_damaged_artifact_is_refused_on_resume(url: str, tmp_path: Path) -> None:
    ready: list[bool] = []

    def large() -> str:
        return "x" * 100_000

    def later(x: str) -> int:
        if not ready:
            raise OSError("not yet")
        return len(x)

    graph = Graph("g", [Node("a", "large"), Node("b", "later", [Input("x", "a.result")])])
    registry = actions(large=large, later=later)
    assert run(graph, registry, options=options(url)).status is RunStatus.FAILED
    (artifact,) = [p for p in (tmp_path / "runs.db-artifacts").rglob("*") if len(p.name) == 64]
    artifact.chmod(0o600)
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"?")
    ready.append(True)
    with pytest.raises(StoreDamaged):
        resume("r", registry, RunOptions(database_url=url))


# --- promise 8: a node that kills its process ----------------------------------------------------

KILLER = """
    import os, signal, sys
    from dagger_dsl.engine import resume, run
    from dagger_dsl.errors import RunNotFound
    from dagger_dsl.model.config import DagConfig, RunOptions
    from dagger_dsl.model.graph import Graph, Input, Node
    from dagger_dsl.registry import Registry

    actions = Registry()
    @actions.register
    def source(): return 0
    @actions.register
    def innocent(x): return x + 1
    @actions.register
    def killer(x): os.kill(os.getpid(), signal.SIGKILL)

    graph = Graph("fan", [Node("source", "source"), *[
        Node(f"n{i}", "killer" if i == 7 else "innocent", [Input("x", "source.result")],
             on_failure="continue")
        for i in range(20)
    ]])
    options = RunOptions(runner=sys.argv[2], max_workers=4, database_url=sys.argv[1], run_id="r")
    try:
        report = resume("r", actions, options)
    except RunNotFound:
        report = run(graph, actions, options=options)
    print(report.status, report.node_reports["n7"].state, report.node_reports["n7"].error)
    print(report.completed_nodes)
"""


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_node_that_kills_its_process_fails_and_the_others_are_not_blamed(
    runner: str, url: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLER), url, runner]
    for _ in range(3):
        died = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    last = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert last.returncode == 0, last.stderr.decode()
    out = last.stdout.decode()
    assert out.startswith("failed failed"), out
    assert "NodeCrashed" in out
    assert "died 3 times" in out
    assert out.strip().endswith("20"), "every other node completed"


# --- promise 9: same key, same run ---------------------------------------------------------------


def test_one_key_is_one_run(url: str) -> None:
    calls: list[int] = []

    def counted(x: int) -> int:
        calls.append(x)
        return x * 2

    graph = Graph("g", [Node("n", "counted", [Input("x", "inputs.x")])], inputs=[GraphInput("x")])
    registry = actions(counted=counted)
    keyed = RunOptions(database_url=url, idempotency_key="order-1")
    first = run(graph, registry, {"x": 2}, keyed)
    again = run(graph, registry, {"x": 2}, keyed)
    assert again.run_id == first.run_id
    assert again.outputs == {"n": 4}
    assert calls == [2]
    with pytest.raises(IdempotencyConflict):
        run(graph, registry, {"x": 3}, keyed)
    with pytest.raises(RunExists):
        run(graph, registry, {"x": 3}, RunOptions(database_url=url, run_id=first.run_id))


def test_a_nodes_idempotency_key_survives_retries_and_resumes(url: str) -> None:
    keys: list[str] = []

    def flaky(ctx: NodeCtx) -> int:
        keys.append(ctx.idempotency_key)
        if len(keys) < 3:
            raise OSError("again")
        return 1

    graph = Graph("g", [Node("n", "flaky", try_count=2)])
    config = DagConfig(retry_strategy=RetryStrategy.IMMEDIATE)
    registry = actions(flaky=flaky)
    assert not run(graph, registry, options=options(url, config=config)).success
    assert resume("r", registry, RunOptions(database_url=url, config=config)).success
    assert len(keys) == 3
    assert set(keys) == {"r/n/default"}


# --- promise 4: one owner ------------------------------------------------------------------------

OWNER = """
    import sys, time
    from dagger_dsl.engine import run
    from dagger_dsl.model.config import RunOptions
    from dagger_dsl.model.graph import Graph, Node
    from dagger_dsl.registry import Registry

    actions = Registry()
    @actions.register
    def wait():
        print("started", flush=True)
        time.sleep(60)

    run(Graph("g", [Node("n", "wait")]), actions,
        options=RunOptions(database_url=sys.argv[1], run_id="r"))
"""


def test_a_second_process_is_told_who_owns_the_run(url: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), url], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"started\n"
        registry = actions(wait=lambda: "done")
        with pytest.raises(RunOwned, match=rf"process {owner.pid} on host"):
            resume("r", registry, RunOptions(database_url=url))
    finally:
        owner.kill()
        owner.wait()
        if owner.stdout is not None:
            owner.stdout.close()
    began = time.monotonic()
    report = resume("r", registry, RunOptions(database_url=url))
    assert report.outputs == {"n": "done"}
    assert time.monotonic() - began < 5, "on one host a dead owner is replaced at once"


def test_an_owner_that_lost_its_claim_records_nothing_more(url: str, tmp_path: Path) -> None:
    def stalling(x: int) -> int:
        with sqlite3.connect(tmp_path / "runs.db") as connection:
            connection.execute("UPDATE flow_runs SET epoch = epoch + 1")
        connection.close()
        return x + 1

    with pytest.raises(RunFenced):
        run(chain(3), actions(source=source, step=stalling), options=options(url))
    with Store(url) as store:
        assert {node.node_id for node in store.load_run("r").attempts} == {"n0"}


# --- promise 11: newer files ---------------------------------------------------------------------


def test_a_newer_schema_is_refused_untouched(url: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    run(chain(2), actions(source=source, step=step), options=options(url))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match="999"):
        resume("r", actions(source=source, step=step), RunOptions(database_url=url))
    assert path.read_bytes() == before
