"""The documents' names for steering runs: control, human input, recovery, snapshots."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dagger_dsl
from dagger_dsl.engine.control import RunHandle
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    InputValidationError,
    InvalidState,
    MaxIterationsExceeded,
    RunExists,
    RunNotFound,
    SnapshotNotFound,
    ValidationError,
)
from dagger_dsl.executor import DagExecutor
from dagger_dsl.model.commands import AddNode, NodeSpec, PauseBranch
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.store.cache import Cache, get_value_from_cache, insert_value


class Stage:
    """The actions of one graph: a gate, a question, and notes of what was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.begun = threading.Event()
        self.let = threading.Event()
        self.read: list[Any] = []

    def gate(self) -> int:
        self.begun.set()
        assert self.let.wait(30)
        return 1

    def note(self, ctx: NodeCtx) -> str:
        self.calls.append(ctx.node_id)
        self.read.append(ctx.cache.get("human_input", "approval"))
        return ctx.node_id

    def ask(self, ctx: NodeCtx) -> Any:
        self.calls.append(ctx.node_id)
        return ctx.wait_for_human("go on?", bool)

    def actions(self) -> dict[str, Callable[..., Any]]:
        return {"gate": self.gate, "note": self.note, "ask": self.ask}


#: ``gate >> a >> b``, and ``gate >> c``.
GATED = Graph(
    "gated",
    [
        Node("gate", "gate"),
        Node("a", "note", dependencies=["gate"]),
        Node("b", "note", dependencies=["a"]),
        Node("c", "note", dependencies=["gate"]),
    ],
)
#: ``first >> ask >> last``
ASKING = Graph(
    "asking",
    [
        Node("first", "note"),
        Node("ask", "ask", dependencies=["first"]),
        Node("last", "note", dependencies=["ask"]),
    ],
)


def url_of(folder: Path) -> str:
    return f"sqlite:{folder / 'runs.db'}"


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return url_of(tmp_path)


def begin(executor: DagExecutor, stage: Stage, run_id: str = "r") -> RunHandle:
    """Start the gated graph and wait for its gate."""
    handle = executor.start(GATED, run_id=run_id)
    assert stage.begun.wait(20)
    return handle


# --- steering -------------------------------------------------------------------------------------


@pytest.mark.row("E9", "E14", "E19", "E20")
def test_the_documents_methods_steer_a_run_in_the_background(stage: Stage, url: str) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        handle = begin(executor, stage)
        assert executor.control("r") is executor.control() is handle
        assert executor.pause_branch("r", "a", "look first")
        assert executor.resume_branch("r", "a")
        assert executor.cancel_branch("r", "b", "not wanted")
        assert executor.disable_nodes("r", ["c"])
        assert executor.enable_nodes("r", ["c"])
        assert executor.set_paused(True, "r")
        assert executor.is_paused()
        assert executor.set_paused(False)
        assert not executor.is_paused("r")
        stage.let.set()
        report = handle.result(20)
        assert {str(each) for each in report.states().values()} == {"completed", "cancelled"}
        assert report.node_reports["b"].reason == "not wanted"
        assert sorted(stage.calls) == ["a", "c"]
        assert isinstance(executor.control("r"), RunControl), "it has ended"


@pytest.mark.row("E9")
def test_a_run_is_paused_as_soon_as_its_root_is(stage: Stage, url: str) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        handle = begin(executor, stage)
        assert not executor.is_paused()
        executor.pause_branch("r", "a")
        assert not executor.is_paused(), "c goes on"
        executor.pause_branch("r", "gate", "look first")
        assert executor.is_paused()
        stage.let.set()
        assert handle.result(20).status == "paused"
        assert executor.is_paused("r")
        for branch in ("a", "gate"):
            executor.resume_branch("r", branch)
        assert executor.resume("r").success
        assert not executor.is_paused("r")


@pytest.mark.row("E19")
def test_a_run_that_is_waited_for_is_steered_by_another_thread(stage: Stage, url: str) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        reports: list[Any] = []
        thread = threading.Thread(target=lambda: reports.append(executor.run(GATED)))
        thread.start()
        assert stage.begun.wait(20)
        assert executor.pause(reason="a rest"), "the newest run is meant"
        stage.let.set()
        thread.join(20)
        assert (reports[0].status, reports[0].reason) == ("paused", "a rest")
        assert executor.resume().success
        assert stage.calls.count("a") == 1


@pytest.mark.row("E14")
def test_a_branch_stays_paused_after_a_restart(stage: Stage, url: str) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        handle = begin(executor, stage)
        executor.pause_branch("r", "a", "look first")
        stage.let.set()
        handle.result(20)
    with DagExecutor(registry=stage.actions(), database_url=url) as other:
        report = other.resume("r")
        assert (report.status, report.reason) == ("paused", "look first")
        assert stage.calls == ["c"]
        assert other.control("r").paused_branches() == {"a": "look first"}
        assert not other.resume_branch("r", "a")
        assert other.resume("r").success
    assert stage.calls == ["c", "a", "b"]


def test_cancel_ends_a_run_wherever_it_is(stage: Stage, url: str) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        handle = begin(executor, stage)
        executor.cancel("r", "enough")
        stage.let.set()
        assert handle.result(20).status == "cancelled"
        executor.run(ASKING, run_id="asks")
        assert executor.cancel("asks", "enough")
        assert executor.storage.load_run("asks").status == "cancelled"


def test_without_a_run_nothing_can_be_steered(executor: DagExecutor, stage: Stage) -> None:
    assert not executor.is_paused()
    for act in (executor.control, executor.pause, executor.resume):
        with pytest.raises(InvalidState, match="no run was made here"):
            act()
    with pytest.raises(ConfigurationError, match="a cache is given as cache="):
        executor.resume_from_pause(Cache())  # type: ignore[arg-type]
    with pytest.raises(RunNotFound):
        executor.pause("nobody")
    with pytest.raises(ValidationError):
        executor.run(Graph("g", [Node("n", "nobody")]))
    assert not executor.is_paused(), "it was never made"


# --- people ---------------------------------------------------------------------------------------


@pytest.mark.row("E11")
def test_human_input_is_submitted_and_the_run_resumed(stage: Stage, url: str) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        assert executor.run(ASKING, run_id="r").status == "paused"
        with pytest.raises(InputValidationError, match="go on"):
            executor.submit_human_input("r", "ask", "perhaps")
        assert not executor.submit_human_input("r", "ask", True, by="anna")
        with pytest.raises(InvalidState, match="has its answer already"):
            executor.submit_human_input("r", "ask", False)
        report = executor.resume_execution("r")
        assert report.value("ask") is True
        assert stage.calls == ["first", "ask", "last"]


@pytest.mark.row("E10", "E11", "E17")
def test_values_under_human_input_are_answers_or_values_of_the_run(stage: Stage, url: str) -> None:
    """Document 001: insert_value(cache, "human_input", "approval", ...); resume_from_pause."""
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        executor.run(ASKING, run_id="r")
        cache = Cache()
        insert_value(cache, "human_input", "ask", "perhaps")
        insert_value(cache, "human_input", "approval", "approved")
        with pytest.raises(InputValidationError):
            executor.resume_from_pause("r", cache=cache)
        insert_value(cache, "human_input", "ask", True)
        assert executor.resume_from_pause(cache=cache).value("ask") is True
    assert stage.calls == ["first", "ask", "last"]
    assert stage.read == [None, "approved"]
    assert get_value_from_cache(cache, "ask", "result") is True
    assert get_value_from_cache(cache, "human_input", "approval") == "approved"


@pytest.mark.row("E13")
def test_an_approval_is_given_or_refused(stage: Stage, url: str) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        executor.run(ASKING, run_id="yes")
        executor.approve("yes", "ask", by="anna")
        assert executor.resume("yes").value("ask") is True
        executor.run(ASKING, run_id="no")
        executor.reject("no", "ask", "Not approved", by="bert")
        report = executor.resume("no")
        assert report.node_reports["last"].reason == "Not approved (rejected by bert)"
        assert [str(each) for each in report.states().values()] == [
            "completed",
            "cancelled",
            "cancelled",
        ]


def test_a_run_that_stands_still_refuses_what_the_executor_knows_to_be_wrong(
    stage: Stage, url: str
) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        executor.run(ASKING, run_id="r")
        with pytest.raises(ActionNotFound):
            executor.control("r").add_node(NodeSpec("nope"))
        assert executor.storage.requests("r") == []
        with DagExecutor(registry={}, database_url=url) as other:
            assert not other.control("r").add_node(NodeSpec("nope")), "it may be somewhere else"


# --- run ids --------------------------------------------------------------------------------------


@pytest.mark.row("B36")
def test_a_run_id_is_used_once_unless_its_run_is_to_go_on(stage: Stage, url: str) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        executor.load(ASKING)
        assert executor.run("asking", run_id="run_001", resume=True).status == "paused"
        with pytest.raises(RunExists):
            executor.run("asking", run_id="run_001")
        executor.submit_human_input("run_001", "ask", True)
        again = asyncio.run(executor.run_async("asking", run_id="run_001", resume=True))
        assert again.success
        assert executor.run("asking", run_id="run_001", resume=True).value("ask") is True
        assert stage.calls == ["first", "ask", "last"]
        assert executor.execution_context is not None
        assert executor.execution_context.run_id == "run_001"


# --- failures of no node --------------------------------------------------------------------------


def test_a_run_that_failed_for_no_node_has_the_error_in_its_report(executor: DagExecutor) -> None:
    executor.register_action("note", lambda: 1)

    def grow(_ctx: Any, event: Any) -> Any:
        if isinstance(event, NodeCompleted):
            return AddNode(NodeSpec("note", id=f"{event.node.node_id}1"))
        return None

    report = executor.run(
        Graph("g", [Node("n", "note")]), hooks=[grow], config={"max_iterations": 3}
    )
    assert report.status == "failed"
    assert report.error is not None
    assert report.error.type == "dagger_dsl.errors.MaxIterationsExceeded"
    assert "max_iterations of 3" in report.error.message
    with pytest.raises(MaxIterationsExceeded):
        report.raise_for_failure()


# --- recovery -------------------------------------------------------------------------------------

DYING = """
import os, sys
sys.path.insert(0, {root!r})
from dagger_dsl.executor import DagExecutor
from dagger_dsl.model.graph import Graph, Input, Node
from pathlib import Path
def note(ctx):
    with Path({calls!r}).open("a") as file:
        file.write(ctx.node_id + " ")
    if ctx.node_id == "n3":
        os._exit(9)
    return ctx.node_id
nodes = [Node(f"n{{k}}", "note", dependencies=[f"n{{k - 1}}"] if k else []) for k in range(5)]
with DagExecutor(registry={{"note": note}}, database_url={url!r}) as executor:
    executor.run(Graph({name!r}, nodes), run_id={run_id!r}, runner="sequential")
"""


def die(folder: Path, run_id: str, name: str = "chain") -> None:
    """Leave a run of five nodes whose process died in the fourth."""
    root = str(Path(dagger_dsl.__file__).parents[1])
    calls = str(folder / "calls.txt")
    code = DYING.format(root=root, calls=calls, url=url_of(folder), name=name, run_id=run_id)
    died = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert died.returncode == 9, died.stderr


@pytest.mark.row("E16", "E17")
@pytest.mark.parametrize("name", ["r1", "chain"])
def test_an_executor_is_recovered_by_a_run_or_a_graph(
    name: str, stage: Stage, tmp_path: Path, url: str
) -> None:
    die(tmp_path, "r1")
    executor = DagExecutor.recover_from_snapshot(name, stage.actions(), url)
    with executor:
        assert executor.list_dags() == ["chain"]
        assert executor.resume_execution().run_id == "r1"
    assert stage.calls == ["n3", "n4"]
    assert (tmp_path / "calls.txt").read_text().split() == ["n0", "n1", "n2", "n3"]
    with pytest.raises(RunNotFound, match="'other'"):
        DagExecutor.recover("other", stage.actions(), url)


@pytest.mark.row("E18")
def test_all_runs_whose_process_died_go_on(stage: Stage, tmp_path: Path, url: str) -> None:
    for run_id in ("r1", "r2"):
        die(tmp_path, run_id)
    die(tmp_path, "r3", "other")
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        first = executor.recover_all("other")
        assert [each.run_id for each in first] == ["r3"]
        rest = executor.recover_all(max_workers=2)
        assert [each.run_id for each in rest] == ["r1", "r2"]
        for handle in (*first, *rest):
            assert handle.result(20).outputs == {"n4": "n4"}
        assert executor.recover_all() == []
    assert sorted(stage.calls) == ["n3"] * 3 + ["n4"] * 3


def test_a_run_that_cannot_go_on_does_not_keep_the_others_from_it(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    die(tmp_path, "r1")
    with DagExecutor(registry={}, database_url=url) as executor:
        (handle,) = executor.recover_all()
        assert handle.done
        with pytest.raises(ActionNotFound, match="note"):
            handle.result(0)
    assert "run r1 cannot go on" in caplog.text


# --- snapshots ------------------------------------------------------------------------------------


@pytest.mark.row("E15")
def test_how_a_run_stands_is_saved(stage: Stage, url: str) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        executor.run(ASKING, run_id="r")
        saved = executor.save_execution_snapshot("asking")
        (info,) = executor.list_snapshots(kind="execution")
        assert (info.snapshot_id, info.flow_name, info.run_id) == (saved, "asking", "r")
        assert executor.storage.load_snapshot(snapshot_id=saved, kind="execution") == {
            "run_id": "r",
            "dag_name": "asking",
            "status": "paused",
            "reason": "node 'ask' waits for a person: go on?",
            "nodes": {
                "first": {"state": "completed", "attempts": 1},
                "ask": {"state": "waiting", "attempts": 1},
            },
        }
        with pytest.raises(RunNotFound):
            executor.save_execution_snapshot("nobody")


@pytest.mark.row("C15", "C16", "C18")
def test_a_cache_is_saved_and_loaded(url: str) -> None:
    def pair() -> dict[str, int]:
        return {"left": 1, "right": 2}

    def double(x: int) -> int:
        return 2 * x

    def bad() -> None:
        raise ValueError("no")

    graph = Graph(
        "g",
        [
            Node("pair", "pair", outputs=["left", "right"]),
            Node("double", "double", [Input("x", "inputs.x")], on_failure="continue"),
            Node("bad", "bad", on_failure="continue"),
        ],
    )
    with DagExecutor(
        registry={"pair": pair, "double": double, "bad": bad}, database_url=url
    ) as executor:
        given = Cache()
        executor.run(graph, {"x": 4}, given, run_id="r")
        recorded = executor.load_cache_snapshot("g")
        assert recorded == given, "the journal has what the run's cache has"
        assert recorded["bad"]["error"]["message"] == "no"
        by_run = executor.save_cache_snapshot("r")
        own = Cache({"n": {"k": 1}})
        by_graph = executor.save_cache_snapshot("g", own)
        assert executor.load_cache_snapshot("g") == own
        assert executor.load_cache_snapshot("g", by_run) == given
        assert executor.load_cache_snapshot("r") == given
        assert [each.snapshot_id for each in executor.list_snapshots("g")] == [by_graph, by_run]
        assert all(each.size_bytes > 0 for each in executor.list_snapshots())
        with pytest.raises(RunNotFound):
            executor.save_cache_snapshot("nobody")
        with pytest.raises(RunNotFound):
            executor.load_cache_snapshot("nobody")
        with pytest.raises(SnapshotNotFound):
            executor.load_cache_snapshot("g", "nothing")
        with pytest.raises(ConfigurationError):
            executor.save_cache_snapshot("g", {"n": {}})  # type: ignore[arg-type]


@pytest.mark.row("C14")
@pytest.mark.parametrize("durability", ["async", "exit"])
def test_values_reach_the_database_within_the_interval(
    durability: str, stage: Stage, tmp_path: Path, url: str
) -> None:
    """Only the gate still runs; what ended before has to be there though nothing else ends."""
    graph = Graph("g", [Node("first", "note"), Node("gate", "gate", dependencies=["first"])])
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        handle = executor.start(
            graph, run_id="r", durability=durability, config={"cache_snapshot_interval": 0.1}
        )
        assert stage.begun.wait(20)
        deadline = time.monotonic() + 1.1
        with DagExecutor(registry={}, database_url=url) as other:
            while not other.storage.load_run("r").nodes:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert other.load_cache_snapshot("g").get("first", "result") == "first"
        stage.let.set()
        assert handle.result(20).success


@pytest.mark.row("C17")
def test_only_what_changed_of_a_cache_is_written(stage: Stage, url: str) -> None:
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        executor.run(ASKING, run_id="r")
        delta: dict[str, dict[str, Any]] = {
            "human_input": {"approval": "approved"},
            "global": {"x": 1},
        }
        assert executor.sqlite_cache.save_cache_delta("asking", delta) == 2
        delta["global"]["x"] = 2
        assert executor.sqlite_cache.save_cache_delta("asking", delta) == 1
        executor.approve("r", "ask")
        assert executor.resume("r").success
    assert stage.read == [None, "approved"]


@pytest.mark.row("E12", "E13")
def test_a_review_pauses_a_branch_until_it_is_approved(stage: Stage, url: str) -> None:
    def review(_ctx: Any, event: Any) -> Any:
        if isinstance(event, NodeCompleted) and event.node.node_id == "first":
            return PauseBranch("first", "Human review required")
        return None

    graph = Graph("g", [Node("first", "note"), Node("last", "note", dependencies=["first"])])
    with DagExecutor(registry=stage.actions(), database_url=url) as executor:
        report = executor.run(graph, run_id="r", hooks=[review])
        assert (report.status, report.reason) == ("paused", "Human review required")
        assert executor.is_paused()
        assert executor.resume().status == "paused", "nobody has approved it"
        executor.approve("r", "first", by="anna")
        assert executor.resume().success
