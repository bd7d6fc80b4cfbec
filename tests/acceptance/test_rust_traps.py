"""What the Rust original does and this package must not: one test, or more, for each trap.

The names are those of the list of traps at the end of the contract; each test fails on a build that
behaves as the original does.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import CancelToken
from dagger_dsl.engine.hooks import EventHook
from dagger_dsl.errors import (
    ActionNotFound,
    DependencyNotFound,
    InputResolutionError,
    MissingInputError,
    ValidationError,
)
from dagger_dsl.legacy import Cache, Coordinator, DagExecutor
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    CancelBranch,
    Command,
    NodeSpec,
    PauseBranch,
    ResumeBranch,
)
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import HookContext, NodeCtx
from dagger_dsl.model.events import Event, NodeCompleted, NodeFailed
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.model.policies import RetryStrategy
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store

RUNNERS = ["sequential", "threads", "asyncio"]
NOW = RetryStrategy.IMMEDIATE

every_runner = pytest.mark.parametrize("runner", RUNNERS)


class Watching(EventHook):
    """Keeps what it is told, and answers events of nodes.

    Args:
        answers: Commands by kind and node, such as ``NodeFailed bad``.
        log: Where it notes what it was told.
    """

    def __init__(self, answers: dict[str, Any] | None = None, log: list[str] | None = None) -> None:
        self.answers = answers or {}
        self.log: list[str] = [] if log is None else log

    def on_start(self, ctx: HookContext) -> None:
        """The run begins."""
        self.log.append("start")

    def handle(self, ctx: HookContext, event: Event) -> list[Command] | Command | None:
        """Something happened."""
        node = getattr(event, "node", None)
        name = f"{event.__class__.__name__} {node.node_id if node else ''}"
        self.log.append(name)
        answer: list[Command] | Command | None = self.answers.get(name)
        return answer

    def on_complete(self, ctx: HookContext, success: bool) -> None:
        """The run has ended."""
        self.log.append(f"end {success}")


def executor_of(folder: Path, config: DagConfig | None = None, **actions: Any) -> DagExecutor:
    """Return an executor on a file, with functions as actions."""
    registry = Registry()
    for name, function in actions.items():
        registry.register(function, name)
    return DagExecutor(config, registry, f"sqlite:{folder / 'runs.db'}")


def fail() -> None:
    """Fail."""
    raise ValueError("no")


def nothing() -> None:
    """Do nothing."""


@pytest.mark.row("A7")
@every_runner
def test_1_the_coordinator_retries(runner: str, tmp_path: Path) -> None:
    """`try_count` and `retry_strategy` are read only by the legacy path."""
    calls: list[str] = []

    def flaky(ctx: NodeCtx) -> int:
        calls.append(ctx.node_id)
        if calls.count(ctx.node_id) < 3:
            raise OSError("busy")
        return 7

    grown = AddNode(NodeSpec("flaky", id="grown", deps=["first"], try_count=3))
    hook = Watching({"NodeCompleted first": grown})
    with executor_of(tmp_path, DagConfig(retry_strategy=NOW), flaky=flaky) as executor:
        executor.load(Graph("g", [Node("first", "flaky", try_count=3)]))
        report = executor.run("g", runner=runner, hooks=[hook])
    assert report.success
    assert calls == ["first"] * 3 + ["grown"] * 3


@pytest.mark.row("B40", "A7")
def test_1_and_so_it_does_under_the_documents_names(tmp_path: Path) -> None:
    calls: list[int] = []

    def flaky() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise OSError("busy")
        return 7

    config = DagConfig(max_attempts=3, retry_strategy=NOW)
    with executor_of(tmp_path, config, flaky=flaky) as executor:
        executor.load(Graph("g", [Node("first", "flaky")]))
        coordinator = Coordinator.new_with_concurrency([Watching()], 100, 100, 4)
        report = coordinator.run_parallel_sync(executor, Cache(), "g", "run_001")
    assert report.success
    assert len(calls) == 3


@pytest.mark.row("B40")
@every_runner
@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_2_a_failing_node_with_dependents_ends_the_run_and_feeds_nobody_nulls(
    runner: str, on_failure: str, tmp_path: Path
) -> None:
    """The run spins for ever on a timer, or the dependents run on nulls when others complete."""
    seen: list[Any] = []

    def take(value: Any) -> None:
        seen.append(value)

    nodes = [
        Node("bad", "fail", on_failure=on_failure),
        Node("below", "take", [Input("value", "bad.result")]),
        Node("slow", "nap"),
        Node("after_slow", "nap", dependencies=["slow"]),
    ]
    began = time.monotonic()
    hooks = [Watching()]
    with executor_of(tmp_path, fail=fail, take=take, nap=lambda: time.sleep(0.01)) as executor:
        report = executor.run(Graph("g", nodes), runner=runner, hooks=hooks)
    assert time.monotonic() - began < 5
    assert seen == []
    assert report.status == "failed"
    assert report.states()["below"] == "skipped"
    assert hooks[0].log[-1] == "end False"


@pytest.mark.row("B17")
@every_runner
@pytest.mark.parametrize("how", ["failure", "cancel", "timeout"])
def test_3_on_complete_gets_the_true_outcome(runner: str, how: str, tmp_path: Path) -> None:
    """It is always called with ``success = true``."""
    token = CancelToken()
    bodies = {
        "failure": fail,
        "cancel": lambda: token.cancel("enough"),
        "timeout": lambda: time.sleep(0.3),
    }
    nodes = [Node("a", "body"), Node("b", "nothing", dependencies=["a"])]
    hook = Watching()
    with executor_of(tmp_path, body=bodies[how], nothing=nothing) as executor:
        timeout = 0.05 if how == "timeout" else None
        report = executor.run(
            Graph("g", nodes), runner=runner, hooks=[hook], cancel=token, timeout=timeout
        )
    assert not report.success
    assert [each for each in hook.log if each.startswith("end")] == ["end False"]


@pytest.mark.row("B27", "B28", "B29")
@every_runner
def test_4_the_scheduler_knows_what_was_paused_resumed_and_cancelled(
    runner: str, tmp_path: Path
) -> None:
    """The commands change a registry that nobody consults."""
    calls: list[str] = []

    def note(ctx: NodeCtx) -> None:
        calls.append(ctx.node_id)

    names = ("held", "late", "gone", "free")
    nodes = [Node("top", "note")]
    nodes += [Node(name, "note", dependencies=["top"]) for name in names]
    nodes += [Node(f"{name}_2", "note", dependencies=[name]) for name in names]
    hook = Watching(
        {
            "NodeCompleted top": [PauseBranch("held"), PauseBranch("late"), CancelBranch("gone")],
            "NodeCompleted free_2": ResumeBranch("late"),
        }
    )
    with executor_of(tmp_path, note=note) as executor:
        report = executor.run(Graph("g", nodes), runner=runner, hooks=[hook])
    assert calls == ["top", "free", "free_2", "late", "late_2"]
    assert report.status == "paused"
    assert {str(report.states()[name]) for name in ("held", "held_2")} == {"pending"}
    assert {str(report.states()[name]) for name in ("gone", "gone_2")} == {"cancelled"}


@pytest.mark.row("G9", "A3")
@every_runner
def test_5_what_a_node_returns_is_stored_and_feeds_its_dependents(
    runner: str, tmp_path: Path
) -> None:
    """Only actions that write to the cache themselves feed dependents."""

    def two() -> dict[str, int]:
        return {"x": 1, "y": 2}

    def add(x: int, y: int) -> int:
        return x + y

    nodes = [
        Node("two", "two", outputs=["x", "y"]),
        Node("sum", "add", [Input("x", "two.x"), Input("y", "two.y")]),
    ]
    seen: list[Any] = []

    class Reading(EventHook):
        def handle(self, ctx: HookContext, event: Event) -> None:
            if isinstance(event, NodeCompleted):
                seen.append(ctx.cache.get(event.node.node_id, "result"))

    with executor_of(tmp_path, two=two, add=add) as executor:
        report = executor.run(Graph("g", nodes), runner=runner, hooks=[Reading()])
        assert report.outputs == {"sum": 3}
        assert seen[-1] == 3, "stored first, then told"
        rows = executor.storage.query("SELECT node_id, output FROM node_runs ORDER BY seq")
    assert [(each["node_id"], each["output"]) for each in rows] == [
        ("two", '{"x":1,"y":2}'),
        ("sum", "3"),
    ]


@pytest.mark.row("B16")
@every_runner
def test_6_no_node_starts_before_on_start(runner: str, tmp_path: Path) -> None:
    """Initial nodes are spawned before the hooks are told."""
    log: list[str] = []

    class Slow(Watching):
        def on_start(self, ctx: HookContext) -> None:
            time.sleep(0.05)
            super().on_start(ctx)

    def note(ctx: NodeCtx) -> None:
        log.append(f"call {ctx.node_id}")

    nodes = [Node(name, "note") for name in "abc"]
    with executor_of(tmp_path, note=note) as executor:
        executor.run(Graph("g", nodes), runner=runner, max_workers=4, hooks=[Slow(log=log)])
    assert log[0] == "start"


@pytest.mark.row("B35", "A50")
def test_7_a_parallel_run_is_recorded_and_reported(tmp_path: Path) -> None:
    """`run_parallel` writes nothing to SQLite and returns nothing."""
    nodes = [Node("a", "one"), Node("b", "fail", on_failure="continue"), Node("c", "one")]
    with executor_of(tmp_path, one=lambda: 1, fail=fail) as executor:
        executor.load(Graph("g", nodes))
        report = Coordinator([]).run_parallel_sync(executor, Cache(), "g", "run_001")
    assert (report.completed_nodes, report.failed_nodes) == (2, 1)
    with Store(f"sqlite:{tmp_path / 'runs.db'}") as store:
        runs = store.query("SELECT run_id, status FROM flow_runs")
        rows = store.query("SELECT node_id, state FROM node_runs ORDER BY node_id")
    assert [(each["run_id"], each["status"]) for each in runs] == [("run_001", "failed")]
    assert [each["state"] for each in rows] == ["completed", "failed", "completed"]


@pytest.mark.row("B25", "A44")
@every_runner
def test_8_several_nodes_are_added_all_or_none(runner: str, tmp_path: Path) -> None:
    """`AddNodes` and `add_nodes_atomic` add one by one and stop in the middle."""
    batch = [NodeSpec("one", id="good"), NodeSpec("two", id="bad"), NodeSpec("one", id="last")]
    hook = Watching({"NodeCompleted a": AddNodes(batch)})
    with executor_of(tmp_path, one=lambda: 1) as executor:
        executor.load(Graph("g", [Node("a", "one")]))
        report = executor.run("g", runner=runner, hooks=[hook])
        assert list(report.graph.nodes) == ["a"]
        assert [type(each) for each in report.hook_errors] == [ActionNotFound]
        lost = [NodeSpec("one", id="good"), NodeSpec("one", id="bad", deps=["nowhere"])]
        with pytest.raises(DependencyNotFound):
            executor.add_nodes_atomic("g", lost)
        assert list(executor.get_dag("g").nodes) == ["a"]


@pytest.mark.row("A45")
def test_9_the_inputs_of_a_node_can_be_read_back(tmp_path: Path) -> None:
    """`get_node_inputs_json` returns an empty mapping, always."""
    seen: list[dict[str, Any]] = []

    def take(ctx: NodeCtx, x: int, y: str) -> None:
        seen.append(dict(ctx.inputs))

    with executor_of(tmp_path, take=take) as executor:
        executor.load(Graph("g", [Node("a", "take", [Input("x", value=1), Input("y", value="")])]))
        executor.set_node_inputs_json("g", "a", {"y": "new"}, Cache())
        node = executor.get_dag("g").nodes["a"]
        assert {each.name: each.value for each in node.inputs} == {"x": 1, "y": "new"}
        executor.run("g").raise_for_failure()
    assert seen == [{"x": 1, "y": "new"}]


@pytest.mark.row("H10", "A25")
@every_runner
def test_10_a_reference_without_a_value_is_an_error_and_never_a_null(
    runner: str, tmp_path: Path
) -> None:
    """Unresolved references become null silently."""
    seen: list[Any] = []

    def take(x: Any) -> None:
        seen.append(x)

    def one() -> int:
        return 1

    with executor_of(tmp_path, take=take, one=one) as executor:
        lost = Graph("lost", [Node("a", "take", [Input("x", "nowhere.result")])])
        with pytest.raises(DependencyNotFound):
            executor.run(lost, runner=runner)
        open_ = Graph("open", [Node("a", "take", [Input("x", "inputs.x")])])
        with pytest.raises(MissingInputError):
            executor.run(open_, runner=runner)
        unknown = [Node("a", "one"), Node("b", "take", [Input("x", "a.nothing")])]
        with pytest.raises(ValidationError):
            executor.run(Graph("unknown", unknown), runner=runner)
        skipped = [
            Node("a", "one", enabled=False),
            Node("b", "take", [Input("x", "a.result")], trigger="done"),
        ]
        with pytest.raises(ValidationError, match="may have no value"):
            executor.run(Graph("skipped", skipped), runner=runner)
    assert seen == []
    assert issubclass(InputResolutionError, ValueError)


@pytest.mark.row("A29")
def test_11_every_file_of_a_directory_is_loaded(tmp_path: Path) -> None:
    """The future of the async load is dropped, so nothing is loaded."""
    for name in ("one", "two", "three"):
        text = f"name: {name}\nnodes:\n  - id: a\n    action: nothing\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    with executor_of(tmp_path, nothing=nothing) as executor:
        executor.load_yaml_dir(tmp_path)
        assert executor.list_dags() == ["one", "three", "two"]
        assert executor.run("two").success


@pytest.mark.row("C33")
def test_12_values_from_32_kib_on_lie_in_files(tmp_path: Path) -> None:
    """The limit is 1 MB, not the documented 32 KB."""
    small, large = "x" * (32 * 1024 - 100), "y" * (32 * 1024)
    nodes = [Node("small", "small"), Node("large", "large")]
    with executor_of(tmp_path, small=lambda: small, large=lambda: large) as executor:
        report = executor.run(Graph("g", nodes))
        rows = executor.storage.query(
            "SELECT node_id, length(output) AS n, output_artifact_id AS id FROM node_runs"
        )
        found = {each["node_id"]: (each["n"], each["id"]) for each in rows}
        assert found["small"] == (len(small) + 2, None)
        assert found["large"][0] is None
        digest = found["large"][1]
        assert [path for path in tmp_path.rglob("*") if path.is_file() and digest in path.name]
        again = executor.resume(report.run_id)
        assert again.value("large") == large


@pytest.mark.row("B21")
@every_runner
def test_a_failure_is_told_once_and_when_it_is_final(runner: str, tmp_path: Path) -> None:
    """What follows from traps 1 and 2: hooks can act on a failure, as it is one."""
    hook = Watching()
    errors: list[str] = []

    class Telling(EventHook):
        def handle(self, ctx: HookContext, event: Event) -> None:
            if isinstance(event, NodeFailed):
                errors.append(f"{event.node.node_id}: {event.error} after {event.attempts}")

    node = Node("bad", "fail", try_count=2, retry=NOW)
    with executor_of(tmp_path, fail=fail) as executor:
        executor.run(Graph("g", [node]), runner=runner, hooks=[hook, Telling()])
    assert errors == ["bad: no after 2"]
    assert hook.log.count("NodeRetrying bad") == 1
