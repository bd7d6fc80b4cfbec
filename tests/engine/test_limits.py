"""Limits that keep a run from going on for ever, and runs of which nothing can go on."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, action
from dagger_dsl.engine.hooks import PlannerHook
from dagger_dsl.errors import (
    CycleError,
    ExecutionTimeout,
    GrowthLimitExceeded,
    LimitExceeded,
    MaxIterationsExceeded,
    StalledError,
    TokenBudgetExceeded,
)
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    Command,
    EmitEvent,
    NodeSpec,
    PauseBranch,
)
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.events import CustomEvent, NodeCompleted
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from tests.engine.helpers import IMMEDIATE, Answers, boom, states, url_of
from tests.engine.steered import Script, Steered, every_runner, everywhere, kept


def child_of(event: Any) -> NodeSpec:
    """Return a node that waits for the one that completed."""
    parent = event.node.node_id
    return NodeSpec("note", id=f"{parent}_x", deps=[parent])


def endless(_ctx: Any, event: Any) -> Command | None:
    """Let every node have a child."""
    return AddNode(child_of(event)) if isinstance(event, NodeCompleted) else None


# --- growth --------------------------------------------------------------------------------------


@pytest.mark.row("B46")
@everywhere
def test_growth_beyond_the_depth_stops_the_run(runner: str, place: str, tmp_path: Path) -> None:
    flow = Steered().note("a")
    hook = Script()
    report = flow.run(
        runner, hooks=[endless, hook], config={"max_growth_depth": 3}, **kept(place, tmp_path)
    )
    assert report.status == "failed"
    assert flow.calls == ["a", "a_x", "a_x_x", "a_x_x_x"]
    assert isinstance(report.exception, GrowthLimitExceeded)
    assert "max_growth_depth is 3" in str(report.exception)
    assert report.error is not None
    assert report.error.type.endswith("GrowthLimitExceeded")
    assert any(isinstance(each, GrowthLimitExceeded) for each in report.hook_errors)
    assert hook.told[-1] == "end False"
    with pytest.raises(GrowthLimitExceeded):
        report.raise_for_failure()


@pytest.mark.row("B46")
def test_a_planner_that_never_ends_is_stopped() -> None:
    def plan(node_id: str, _outputs: Any) -> NodeSpec:
        return NodeSpec("note", id=f"{node_id}_x")

    report = Steered().note("a").run(hooks=[PlannerHook(plan)], config={"max_growth_depth": 2})
    assert isinstance(report.exception, GrowthLimitExceeded)
    assert list(report.states()) == ["a", "a_x", "a_x_x"]


@pytest.mark.row("B46")
@every_runner
def test_depth_is_counted_over_hooks_and_nodes_and_wide_growth_is_not_deep(runner: str) -> None:
    flow = Steered()

    def grow(ctx: NodeCtx) -> NodeOutput:
        spec = NodeSpec("grow", id=f"{ctx.node_id}_x")
        return NodeOutput.success(ctx.depth, commands=[AddNode(spec)])

    flow.act("grow", grow).note("wide")
    many = AddNodes(NodeSpec("note", id=f"w{k}") for k in range(50))
    flow.add("deep", lambda: 0)
    hook = Script({"NodeCompleted wide": many, "NodeCompleted deep": AddNode(NodeSpec("grow"))})
    report = flow.run(runner, hooks=[hook], config={"max_growth_depth": 2})
    assert isinstance(report.exception, GrowthLimitExceeded)
    assert report.states()["grow"] == "completed"
    assert report.states()["grow_x"] == "failed", "the node whose answer went too far"
    assert isinstance(report.node_reports["grow_x"].exception, GrowthLimitExceeded)


@pytest.mark.row("B46")
@every_runner
def test_depth_is_known_after_a_resume(runner: str, tmp_path: Path) -> None:
    flow = Steered().note("a").offer("fragile", ValueError("not yet"))
    answers = {
        "NodeCompleted a": AddNode(NodeSpec("note", id="b")),
        "NodeCompleted b": AddNode(NodeSpec("fragile", id="c")),
    }
    config = {"max_growth_depth": 2}
    flow.run(runner, hooks=[Script(answers)], config=config, **kept("file", tmp_path))
    flow.registry.register(lambda ctx: ctx.depth, "fragile", replace=True)
    again = flow.resume("r", url_of(tmp_path), runner=runner, hooks=[endless])
    assert again.value("c") == 2
    assert isinstance(again.exception, GrowthLimitExceeded)


@pytest.mark.row("B46", "B30")
@everywhere
def test_an_event_of_one_s_own_is_no_way_around_the_depth(
    runner: str, place: str, tmp_path: Path
) -> None:
    def grow(_ctx: Any, event: Any) -> Command | None:
        if isinstance(event, NodeCompleted):
            return EmitEvent("done", event.node.node_id)
        if isinstance(event, CustomEvent):
            return AddNode(NodeSpec("note", id=f"{event.payload}_x"))
        return None

    flow = Steered().note("a")
    config = {"max_growth_depth": 2}
    report = flow.run(runner, hooks=[grow], config=config, **kept(place, tmp_path))
    assert isinstance(report.exception, GrowthLimitExceeded)
    assert flow.calls == ["a", "a_x", "a_x_x"]


@pytest.mark.row("D10", "Q8")
@everywhere
def test_the_eleventh_round_of_growth_stops_the_run(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered().note("a")
    report = flow.run(
        runner, hooks=[endless], config={"max_iterations": 10}, **kept(place, tmp_path)
    )
    assert isinstance(report.exception, MaxIterationsExceeded)
    assert report.completed_nodes == 11
    assert "max_iterations of 10" in str(report.exception)
    with pytest.raises(MaxIterationsExceeded):
        report.raise_for_failure()


@pytest.mark.row("D10")
@every_runner
def test_what_one_event_asks_for_is_one_round(runner: str) -> None:
    commands = [AddNode(NodeSpec("note", id=f"n{k}")) for k in range(5)]
    flow = Steered().note("a").note("b", after=["a"])
    hooks = [
        Script({"NodeCompleted a": commands}),
        Script({"NodeCompleted a": AddNode(NodeSpec("note", id="c"))}),
    ]
    hooks.append(Script({"NodeCompleted b": AddNode(NodeSpec("note", id="n0"))}))
    report = flow.run(runner, hooks=hooks, config={"max_iterations": 1})
    assert report.success, "two hooks about one event are one round, and a repetition is none"
    again = Steered().note("a").note("b", after=["a"])
    hooks = [hooks[0], Script({"NodeCompleted b": AddNode(NodeSpec("note", id="late"))})]
    report = again.run(runner, hooks=hooks, config={"max_iterations": 1})
    assert isinstance(report.exception, MaxIterationsExceeded)


@pytest.mark.row("D10")
@every_runner
def test_rounds_are_counted_on_after_a_resume(runner: str, tmp_path: Path) -> None:
    flow = Steered().note("a").note("b", Answers([OSError("no"), 1]), after=["a"])
    answers = {
        "NodeCompleted a": AddNode(NodeSpec("note", id="c")),
        "NodeCompleted b": AddNode(NodeSpec("note", id="d")),
    }
    config = {"max_iterations": 1}
    flow.run(runner, hooks=[Script(answers)], config=config, **kept("file", tmp_path))
    again = flow.resume("r", url_of(tmp_path), runner=runner, hooks=[Script(answers)])
    assert isinstance(again.exception, MaxIterationsExceeded)
    more = flow.resume(
        "r", url_of(tmp_path), runner=runner, hooks=[Script(answers)], config={"max_iterations": 2}
    )
    assert more.exception is None, "a resume may raise the limit"


@pytest.mark.row("B46", "D10")
def test_a_limit_that_a_node_passes_is_not_retried() -> None:
    flow = Steered()
    grow = NodeOutput.success(1, commands=[AddNode(NodeSpec("note", id="more"))])
    flow.note("a", grow, try_count=3, retry=IMMEDIATE)
    flow.offer("note", lambda ctx: NodeOutput.success(1, commands=[AddNode(NodeSpec("note"))]))
    report = flow.run(config={"max_growth_depth": 1})
    assert flow.calls == ["a", "more"]
    assert isinstance(report.exception, LimitExceeded)


# --- tokens --------------------------------------------------------------------------------------


def spending(*amounts: int) -> Steered:
    """Return a chain of nodes that each use some tokens."""
    flow = Steered()
    for k, amount in enumerate(amounts):

        def body(ctx: NodeCtx, amount: int = amount) -> int:
            flow.calls.append(ctx.node_id)
            return ctx.add_tokens(amount)

        flow.registry.register(body, f"spend_{k}")
        after = [f"n{k - 1}"] if k else []
        flow.nodes.append(Node(f"n{k}", f"spend_{k}", dependencies=after))
    return flow


@pytest.mark.row("D9", "Q8")
@everywhere
def test_a_budget_of_tokens_stops_the_run(runner: str, place: str, tmp_path: Path) -> None:
    flow = spending(60, 40, 1, 0)
    hook = Script()
    report = flow.run(runner, hooks=[hook], config={"max_tokens": 100}, **kept(place, tmp_path))
    assert report.status == "failed"
    assert states(report) == {
        "n0": "completed",
        "n1": "completed",
        "n2": "failed",
        "n3": "skipped",
    }
    assert report.value("n1") == 100, "the node learns what the run has used"
    assert isinstance(report.exception, TokenBudgetExceeded)
    assert report.error is not None
    assert report.error.type.endswith("TokenBudgetExceeded")
    assert hook.told[-1] == "end False"
    assert flow.calls == ["n0", "n1", "n2"]


@pytest.mark.row("D9")
def test_a_dag_raises_that_the_budget_is_used_up() -> None:
    calls: list[int] = []

    def spend(ctx: NodeCtx) -> None:
        calls.append(ctx.attempt)
        ctx.add_tokens(11)

    def rescue(error: Exception) -> str:
        return "never"

    with (
        Registry() as registry,
        DAG("spender", config={"max_tokens": 10}, registry=registry) as dag,
    ):
        dag.add(action(spend, attempts=3, failure=rescue))
    with pytest.raises(TokenBudgetExceeded, match="max_tokens is 10"):
        dag.run()
    assert calls == [1], "no attempt and no handler gets over a budget"
    assert dag.report is not None
    assert dag.report.error is not None
    assert "max_tokens is 10" in dag.report.error.message


@pytest.mark.row("D9")
@every_runner
def test_tokens_are_counted_on_after_a_resume(runner: str, tmp_path: Path) -> None:
    flow = spending(60, 0, 40)
    broken = [True]

    def fragile(ctx: NodeCtx) -> int:
        if broken:
            raise OSError("not yet")
        return ctx.add_tokens(0)

    flow.registry.register(fragile, "spend_1", replace=True)
    config = {"max_tokens": 100}
    flow.run(runner, config=config, **kept("file", tmp_path))
    broken.clear()
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.success
    assert (again.value("n1"), again.value("n2")) == (60, 100)


@pytest.mark.row("D9")
def test_tokens_are_counted_from_many_threads_at_once() -> None:
    flow = Steered()

    def body(ctx: NodeCtx, x: int) -> None:
        for _ in range(100):
            ctx.add_tokens(1)

    flow.add("many", body, give={"x": list(range(20))}, map_over="x")
    flow.add("total", lambda ctx, xs: ctx.add_tokens(0), take={"xs": "many"})
    assert flow.run("threads", max_workers=8).value("total") == 2_000


@pytest.mark.row("D9")
@pytest.mark.parametrize("number", [-1, 1.5, True, "3"])
def test_what_is_no_number_of_tokens_is_refused(number: Any) -> None:
    flow = Steered()
    flow.add("a", lambda ctx: ctx.add_tokens(number))
    report = flow.run()
    assert "whole number of at least 0" in str(report.node_reports["a"].exception)


@pytest.mark.row("D9")
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_what_runs_when_the_budget_is_used_up_gets_the_time_to_end(runner: str) -> None:
    flow = Steered()
    begun = threading.Event()

    def long() -> str:
        begun.set()
        time.sleep(0.1)
        return "done"

    def spend(ctx: NodeCtx) -> None:
        begun.wait(10)
        ctx.add_tokens(2)

    flow.add("long", long).add("spend", spend).note("after", after=["long"])
    report = flow.run(runner, max_workers=2, config={"max_tokens": 1})
    assert states(report) == {"long": "completed", "spend": "failed", "after": "cancelled"}


# --- standing still ------------------------------------------------------------------------------


@pytest.mark.row("H15")
def test_nodes_that_wait_for_each_other_never_start() -> None:
    registry = Registry()
    registry.register(lambda: None, "note")
    nodes = [Node("a", "note", dependencies=["b"]), Node("b", "note", dependencies=["a"])]
    with pytest.raises(CycleError, match=r"a -> b -> a|b -> a -> b"):
        Graph("g", nodes).validate(registry)


@pytest.mark.row("H15")
@everywhere
def test_a_run_that_only_waits_is_paused_and_not_stalled(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered().note("a").note("held", after=["a"])
    flow.add("ask", lambda ctx: ctx.wait_for_human("?"))
    hook = Script({"start": PauseBranch("held")})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.status == "paused"
    assert report.exception is None
    assert not isinstance(report.exception, StalledError)


@pytest.mark.row("H15", "B40")
@everywhere
def test_every_mixture_of_ends_comes_to_an_end(runner: str, place: str, tmp_path: Path) -> None:
    flow = Steered().note("a").add("bad", boom, on_failure="continue")
    for trigger in ("success", "any", "none_failed", "failed", "done"):
        flow.note(f"{trigger}_1", after=["bad"], trigger=trigger)
        flow.note(f"{trigger}_2", after=["bad", "a"], trigger=trigger)
        flow.note(f"{trigger}_3", after=[f"{trigger}_1", f"{trigger}_2"], trigger=trigger)
    report = flow.run(runner, **kept(place, tmp_path))
    assert report.status == "failed"
    assert report.pending_nodes == 0
    assert not isinstance(report.exception, StalledError)


@pytest.mark.row("D3", "B40")
@every_runner
def test_the_limit_of_the_run_ends_what_grows_for_ever(runner: str, tmp_path: Path) -> None:
    flow = Steered().note("a")
    numbers = itertools.count()

    def grow(_ctx: Any, event: Any) -> Command | None:
        if not isinstance(event, NodeCompleted):
            return None
        return AddNode(NodeSpec("note", id=f"n{next(numbers)}", deps=[event.node.node_id]))

    report = flow.run(runner, hooks=[grow], timeout=0.3, **kept("file", tmp_path))
    assert report.status == "timed_out"
    with pytest.raises(ExecutionTimeout):
        report.raise_for_failure()
    assert report.pending_nodes == 0


# --- writing what is kept back -------------------------------------------------------------------


@pytest.mark.row("D13")
@pytest.mark.parametrize("durability", ["async", "exit"])
@pytest.mark.parametrize(("interval", "written"), [(0.05, True), (0, False)])
def test_what_a_level_keeps_back_is_written_now_and_then(
    durability: str, interval: float, written: bool, tmp_path: Path
) -> None:
    """0 switches it off; another connection sees what is there while the run goes on."""
    seen: list[int] = []

    def look() -> None:
        time.sleep(0.4)
        with Store(url_of(tmp_path)) as store:
            seen.append(len(store.query("SELECT 1 FROM node_runs WHERE state = 'completed'")))

    flow = Steered().note("a", 1).note("b", 2, after=["a"])
    flow.add("look", look, after=["b"])
    config = {"cache_snapshot_interval": interval}
    report = flow.run("threads", config=config, durability=durability, **kept("file", tmp_path))
    assert report.success
    if durability == "exit":
        assert seen == [2 if written else 0]
    else:
        assert seen == [2], "the writer of this level waits for nothing"
