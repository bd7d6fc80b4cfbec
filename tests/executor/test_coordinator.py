"""Documents 000 and 001's coordinator: the same runs, by another door."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import legacy
from dagger_dsl.engine.control import CancelToken
from dagger_dsl.errors import ConfigurationError, DagNotFound, RunExists
from dagger_dsl.executor import Coordinator, DagExecutor
from dagger_dsl.model.commands import NodeSpec
from dagger_dsl.model.context import HookContext, NodeCtx
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.store.cache import Cache
from tests.runners.helpers import Gauge

DIAMOND = Graph(
    "diamond",
    [
        Node("a", "start", [Input("x", "inputs.x")]),
        Node("b", "double", [Input("x", "a.result")]),
        Node("c", "double", [Input("x", "a.result")]),
        Node("d", "add", [Input("x", "b.result"), Input("y", "c.result")]),
    ],
)


@pytest.fixture
def diamond(executor: DagExecutor) -> DagExecutor:
    """An executor that has the diamond and its actions."""
    actions: dict[str, Any] = {
        "start": lambda x: x,
        "double": lambda x: 2 * x,
        "add": lambda x, y: x + y,
    }
    for name, fn in actions.items():
        executor.register_action(name, fn)
    executor.load(DIAMOND)
    return executor


@pytest.mark.row("B33", "B34")
def test_the_documents_constructors() -> None:
    assert legacy.Coordinator is Coordinator
    plain = Coordinator()
    assert (plain.hooks, plain.event_capacity, plain.command_capacity, plain.max_workers) == (
        (),
        100,
        100,
        None,
    )
    wide = Coordinator([print], 200, 300)
    assert (wide.hooks, wide.event_capacity, wide.command_capacity) == ((print,), 200, 300)
    narrow = Coordinator.new_with_concurrency([], 100, 100, 4)
    assert narrow.max_workers == 4
    assert "max_workers=4" in repr(narrow)
    for wrong in ({"event_capacity": 0}, {"command_capacity": -1}, {"max_workers": 0}):
        with pytest.raises(ConfigurationError):
            Coordinator(**wrong)  # type: ignore[arg-type]


@pytest.mark.row("B35", "B36")
def test_a_parallel_run_gives_what_a_sequential_one_gives(diamond: DagExecutor) -> None:
    first = diamond.execute_dag_sequential("diamond", Cache({"inputs": {"x": 21}}))
    coordinator = Coordinator([], 100, 100)
    cache = Cache({"inputs": {"x": 21}})
    report = asyncio.run(coordinator.run_parallel(diamond, cache, "diamond", "run_001"))
    assert report.run_id == "run_001"
    assert report.values == first.values
    assert report.states() == first.states()
    assert cache.get("d", "result") == 84
    again = coordinator.run_parallel_sync(diamond, cache, "diamond")
    assert again.values == first.values
    assert again.run_id != report.run_id
    with pytest.raises(RunExists):
        coordinator.run_parallel_sync(diamond, cache, "diamond", "run_001")
    same = coordinator.run_parallel_sync(diamond, cache, "diamond", "run_001", resume=True)
    assert same.run_id == "run_001"
    assert same.success


@pytest.mark.row("B34")
@pytest.mark.parametrize(("workers", "config", "most"), [(2, {}, 2), (None, {"x": 1}, 1)])
def test_no_more_nodes_run_at_the_same_time_than_workers(
    workers: int | None, config: dict[str, int], most: int
) -> None:
    """One configuration says that nothing runs in parallel, which is one worker."""
    gauge = Gauge()

    async def busy() -> None:
        with gauge:
            await asyncio.sleep(0.002)

    changes = {"enable_parallel_execution": False} if config else {}
    with DagExecutor(changes, {"busy": busy}) as executor:
        executor.load(Graph("wide", [Node(f"n{k}", "busy") for k in range(12)]))
        coordinator = Coordinator(max_workers=workers)
        assert asyncio.run(coordinator.run_parallel(executor, None, "wide")).success
        assert coordinator.run_parallel_sync(executor, None, "wide").success
    assert (gauge.peak, gauge.total) == (most, 24)


@pytest.mark.row("B33", "B24")
def test_hooks_of_a_coordinator_steer_its_runs(diamond: DagExecutor) -> None:
    def grow(ctx: HookContext, event: Any) -> Any:
        if isinstance(event, NodeCompleted) and event.node.node_id == "d":
            spec = NodeSpec("double").with_id("e").with_inputs({"x": 50}).with_deps(["d"])
            return [legacy.AddNode(spec, ctx.dag_name)]
        return []

    coordinator = Coordinator(hooks=[grow])
    cache = Cache({"inputs": {"x": 1}})
    report = coordinator.run_parallel_sync(diamond, cache, "diamond")
    assert report.value("e") == 100


@pytest.mark.row("B39")
def test_a_cancelled_coordinator_leaves_nothing_behind(executor: DagExecutor) -> None:
    token = CancelToken()

    async def slow(ctx: NodeCtx) -> None:
        token.cancel("enough")
        await asyncio.sleep(60)

    executor.register_action("slow", slow)
    executor.load(Graph("g", [Node("slow", "slow")]))

    async def main() -> Any:
        before = asyncio.all_tasks()
        report = await Coordinator().run_parallel(executor, None, "g", cancel=token)
        assert asyncio.all_tasks() == before
        return report

    report = asyncio.run(main())
    assert (report.status, report.reason) == ("cancelled", "enough")


def test_misuse_is_refused(diamond: DagExecutor, tmp_path: Path) -> None:
    coordinator = Coordinator()
    with pytest.raises(DagNotFound):
        coordinator.run_parallel_sync(diamond, None, "nobody")
    with pytest.raises(ConfigurationError, match="a run is made by a DagExecutor"):
        coordinator.run_parallel_sync("diamond", None, "diamond")  # type: ignore[arg-type]
