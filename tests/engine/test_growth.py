"""Graphs that grow while they run: commands of hooks and of nodes, applied whole or not at all."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.engine.control import CancelToken
from dagger_dsl.engine.growth import named
from dagger_dsl.engine.hooks import PlannerHook
from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    CycleError,
    DaggerError,
    DependencyNotFound,
    InvalidState,
    MissingInputError,
    NodeAlreadyExists,
    NodeExecutionError,
    NodeTimeout,
    ValidationError,
)
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    Chain,
    Command,
    NodeSpec,
    SetNodeInputs,
    ref,
)
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.events import NodeFailed, NodeStarted
from dagger_dsl.store.storage import Store
from tests.engine.helpers import IMMEDIATE, Answers, boom, returns, states, url_of
from tests.engine.steered import (
    AsyncScript,
    Script,
    Steered,
    every_runner,
    everywhere,
    kept,
)
from tests.runners.helpers import WAYS


def double(x: int) -> int:
    """Return twice a number."""
    return 2 * x


# --- adding --------------------------------------------------------------------------------------


@pytest.mark.row("B24", "G1", "G2")
@everywhere
def test_a_node_added_when_its_parent_completes_runs_in_the_same_run(
    runner: str, place: str, tmp_path: Path
) -> None:
    def grow(_ctx: Any, event: Any) -> Command:
        parent = event.node.node_id
        return AddNode(
            NodeSpec("double", id=f"dynamic_{parent}", deps=[parent], inputs={"x": ref("a.result")})
        )

    flow = Steered().act("double", double).note("a", 21)
    hook = Script({"NodeCompleted a": grow})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.hook_errors == ()
    assert report.outputs == {"dynamic_a": 42}
    assert list(report.graph.nodes) == ["a", "dynamic_a"]
    assert report.graph.nodes["dynamic_a"].dependencies == ("a",)
    if place == "file":
        with Store(url_of(tmp_path)) as store:
            rows = store.query("SELECT node_id, state FROM node_runs ORDER BY seq")
        assert [(each["node_id"], each["state"]) for each in rows] == [
            ("a", "completed"),
            ("dynamic_a", "completed"),
        ]


@pytest.mark.row("G3")
@pytest.mark.parametrize(("score", "added"), [(0.81, True), (0.8, False)])
@every_runner
def test_a_threshold_decides_whether_the_deep_analysis_is_added(
    runner: str, score: float, added: bool
) -> None:
    def rule(_ctx: Any, event: Any) -> Command | None:
        if event.outcome.outputs["score"] > 0.8:
            return AddNode(NodeSpec("note", id="deep_analysis", deps=["analyze"]))
        return None

    flow = Steered().note("analyze", {"score": score}, outputs=["score"])
    report = flow.run(runner, hooks=[Script({"NodeCompleted analyze": rule})])
    assert report.success
    assert ("deep_analysis" in report.states()) is added


@pytest.mark.row("G4", "B25")
@everywhere
def test_a_chain_of_steps_from_a_plan_runs_in_order(
    runner: str, place: str, tmp_path: Path
) -> None:
    plan = [NodeSpec("note") for _ in range(8)]
    flow = Steered().note("planner")
    hook = Script({"NodeCompleted planner": AddNodes(Chain(plan, after=["planner"]))})
    report = flow.run(runner, max_workers=4, hooks=[hook], **kept(place, tmp_path))
    assert report.success
    assert flow.calls == ["planner", *(f"step_{k}" for k in range(8))]
    assert report.graph.nodes["step_3"].dependencies == ("step_2",)


@pytest.mark.row("G5")
@every_runner
def test_a_tool_runs_before_the_step_that_needs_it(runner: str) -> None:
    steps = [("search", True), ("think", False)]
    specs: list[NodeSpec] = []
    before = "planner"
    for k, (_name, requires_tool) in enumerate(steps):
        if requires_tool:
            specs.append(NodeSpec("note", id=f"tool_{k}", deps=[before]))
            before = f"tool_{k}"
        specs.append(NodeSpec("note", id=f"step_{k}", deps=[before]))
        before = f"step_{k}"
    specs.append(NodeSpec("note", id="validate", deps=[before]))
    flow = Steered().note("planner")
    report = flow.run(runner, hooks=[Script({"NodeCompleted planner": AddNodes(specs)})])
    assert report.success
    assert flow.calls == ["planner", "tool_0", "step_0", "step_1", "validate"]


@pytest.mark.row("G6")
@everywhere
def test_a_batch_may_wait_for_its_own_nodes_in_any_order(
    runner: str, place: str, tmp_path: Path
) -> None:
    specs = [
        NodeSpec(
            "total",
            id="aggregate",
            inputs={"one": ref("process_1.result"), "two": ref("process_2.result")},
        ),
        NodeSpec("double", id="process_1", deps=["start"], inputs={"x": 1}),
        NodeSpec("double", id="process_2", deps=["start"], inputs={"x": 2}),
    ]
    flow = Steered().act("double", double).act("total", lambda one, two: one + two).note("start")
    hook = Script({"NodeCompleted start": AddNodes(specs)})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.outputs == {"aggregate": 6}
    assert report.graph.nodes["aggregate"].dependencies == ("process_1", "process_2")


@pytest.mark.row("B31")
@every_runner
def test_a_spec_takes_what_it_leaves_out_from_the_configuration(runner: str) -> None:
    flow = Steered().note("a").act("flaky", boom)
    hook = Script(
        {"NodeCompleted a": AddNodes([NodeSpec("flaky"), NodeSpec("flaky", try_count=1)])}
    )
    config = {"max_attempts": 3, "retry_strategy": IMMEDIATE, "on_failure": "continue"}
    report = flow.run(runner, hooks=[hook], config=config)
    reports = report.node_reports
    assert reports["flaky"].attempts == 3, "the id is the action's name when it is free"
    assert reports["flaky_2"].attempts == 1, "and that with a number when it is not"


@pytest.mark.row("B31", "A6")
@every_runner
def test_a_node_with_a_limit_grows_under_every_runner(runner: str) -> None:
    """A sequential run of plain functions has no thread that could watch the time."""
    flow = Steered().note("a").act("slow", lambda: time.sleep(5))
    hook = Script({"NodeCompleted a": AddNode(NodeSpec("slow", timeout=0.05))})
    began = time.monotonic()
    report = flow.run(runner, hooks=[hook])
    assert time.monotonic() - began < 4
    assert states(report) == {"a": "completed", "slow": "failed"}
    assert isinstance(report.node_reports["slow"].exception, NodeTimeout)
    assert report.abandoned == ("slow",)


@every_runner
@pytest.mark.parametrize("way", WAYS)
def test_an_async_node_grows_under_every_runner_and_way(runner: str, way: str) -> None:
    loops: list[Any] = []

    async def slow(x: int) -> int:
        await asyncio.sleep(0.01)
        loops.append(asyncio.get_running_loop())
        return x + 1

    specs = [
        NodeSpec("slow", id="one", inputs={"x": ref("a.result")}),
        NodeSpec("slow", id="two", inputs={"x": ref("one.result")}, timeout=5),
    ]
    flow = Steered().act("slow", slow).note("a", 1)
    report = flow.run(runner, way, hooks=[Script({"NodeCompleted a": AddNodes(specs)})])
    assert report.outputs == {"two": 3}
    assert loops[0] is loops[1], "one loop for all async bodies of a run"


@every_runner
def test_an_async_node_that_was_added_is_cut_at_its_limit(runner: str) -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    flow = Steered().act("slow", slow).note("a")
    hook = Script({"NodeCompleted a": AddNode(NodeSpec("slow", timeout=0.05))})
    report = flow.run(runner, hooks=[hook])
    assert isinstance(report.node_reports["slow"].exception, NodeTimeout)
    assert ended == ["cancelled"]
    assert report.abandoned == ()


@every_runner
def test_async_and_plain_bodies_share_one_loop_when_one_of_them_grew(runner: str) -> None:
    """All async bodies and hooks of a run share one event loop."""
    loops: list[Any] = []

    async def note_loop() -> None:
        loops.append(asyncio.get_running_loop())

    async def hook(_ctx: Any, event: Any) -> Any:
        loops.append(asyncio.get_running_loop())
        if event.__class__.__name__ == "NodeCompleted" and event.node.node_id == "a":
            return AddNode(NodeSpec("late"))
        return None

    flow = Steered().act("late", note_loop)
    flow.add("a", note_loop)
    report = flow.run(runner, hooks=[hook])
    assert report.success
    assert len(loops) > 2
    assert len(set(map(id, loops))) == 1


@every_runner
@pytest.mark.parametrize("way", ["run", "start"])
def test_an_async_node_that_was_added_ends_with_its_run(runner: str, way: str) -> None:
    token = CancelToken()
    ended: list[str] = []

    async def long() -> None:
        token.cancel("enough")
        try:
            await asyncio.sleep(20)
        finally:
            ended.append("cleaned up")

    flow = Steered().act("long", long).note("a")
    hook = Script({"NodeCompleted a": AddNode(NodeSpec("long"))})
    began = time.monotonic()
    report = flow.run(runner, way, hooks=[hook], cancel=token)
    assert time.monotonic() - began < 5.0
    assert ended == ["cleaned up"]
    assert (report.status, report.reason) == ("cancelled", "enough")
    assert states(report) == {"a": "completed", "long": "cancelled"}
    assert report.node_reports["long"].reason == "enough"
    assert report.abandoned == ()
    assert hook.told[-2:] == ["NodeCancelled long", "end False"]


@every_runner
def test_a_grown_node_may_have_a_failure_handler(runner: str) -> None:
    def rescue(error: Exception, x: int) -> str:
        return f"{error} of {x}"

    def fail(x: int) -> None:
        raise ValueError("no")

    async def rescue_async(error: Exception) -> str:
        await asyncio.sleep(0)
        return f"async {error}"

    flow = Steered().act("fail", fail).act("rescue", rescue).act("later", rescue_async).note("a")
    specs = [
        NodeSpec("fail", id="one", inputs={"x": 5}, failure="rescue"),
        NodeSpec("fail", id="two", inputs={"x": 6}, failure="later"),
    ]
    report = flow.run(runner, hooks=[Script({"NodeCompleted a": AddNodes(specs)})])
    assert report.success
    assert (report.value("one"), report.value("two")) == ("no of 5", "async no")
    assert report.node_reports["one"].recovered


# --- all or nothing ------------------------------------------------------------------------------


GOOD = NodeSpec("note", id="good", deps=["a"])
BAD: dict[str, tuple[list[NodeSpec], type[DaggerError], str]] = {
    "an id that is taken": ([NodeSpec("double", id="a")], NodeAlreadyExists, "'a' exists already"),
    "an id twice": (
        [NodeSpec("note", id="twin"), NodeSpec("double", id="twin", inputs={"x": 1})],
        NodeAlreadyExists,
        "'twin' exists already",
    ),
    "an unknown dependency": (
        [NodeSpec("note", id="lost", deps=["nowhere"])],
        DependencyNotFound,
        "nowhere",
    ),
    "an unknown source": (
        [NodeSpec("double", id="lost", inputs={"x": ref("nowhere.result")})],
        DependencyNotFound,
        "nowhere",
    ),
    "an unknown action": ([NodeSpec("doubel", id="lost")], ActionNotFound, "doubel"),
    "an unknown handler": (
        [NodeSpec("note", id="lost", failure="nobody")],
        ActionNotFound,
        "nobody",
    ),
    "a circle": (
        [NodeSpec("note", id="one", deps=["two"]), NodeSpec("note", id="two", deps=["one"])],
        CycleError,
        "wait for each other",
    ),
    "a node that waits for itself": (
        [NodeSpec("note", id="one", deps=["one"])],
        CycleError,
        "one -> one",
    ),
    "a missing input": ([NodeSpec("double", id="open")], ValidationError, "'x'"),
    "an input without parameter": (
        [NodeSpec("double", id="open", inputs={"x": 1, "y": 2})],
        ValidationError,
        "'y'",
    ),
    "an unknown output": (
        [NodeSpec("double", id="open", inputs={"x": ref("a.nothing")})],
        ValidationError,
        "nothing",
    ),
    "a missing graph input": (
        [NodeSpec("double", id="open", inputs={"x": ref("inputs.rate")})],
        MissingInputError,
        "rate",
    ),
    "an impossible id": ([NodeSpec("note", id="a.b")], ValidationError, "no dot"),
}


@pytest.mark.row("B25", "G9", "G10", "G11", "G12")
@pytest.mark.parametrize("fault", BAD)
@every_runner
def test_one_bad_spec_adds_none_and_is_named(runner: str, fault: str, tmp_path: Path) -> None:
    specs, error, text = BAD[fault]
    flow = Steered().act("double", double).note("a", 1)
    hook = Script({"NodeCompleted a": AddNodes([GOOD, *specs])})
    report = flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    assert report.success
    assert list(report.graph.nodes) == ["a"]
    assert flow.calls == ["a"]
    (refused,) = report.hook_errors
    assert type(refused) is error
    assert text in str(refused)
    again = flow.resume("r", url_of(tmp_path))
    assert list(again.graph.nodes) == ["a"], "nor does the journal know of any"


@pytest.mark.row("G9", "G10")
def test_a_batch_with_one_bad_spec_leaves_the_commands_around_it_alone() -> None:
    commands = [
        AddNode(NodeSpec("note", id="before")),
        AddNodes([GOOD, NodeSpec("nobody", id="bad")]),
        AddNode(NodeSpec("note", id="behind")),
    ]
    flow = Steered().note("a")
    report = flow.run(hooks=[Script({"NodeCompleted a": commands})])
    assert list(report.graph.nodes) == ["a", "before", "behind"]
    assert [type(each) for each in report.hook_errors] == [ActionNotFound]


@pytest.mark.row("B42", "G7")
@everywhere
def test_an_equal_node_is_added_once_and_runs_once(runner: str, place: str, tmp_path: Path) -> None:
    spec = NodeSpec("double", id="more", deps=["a"], inputs={"x": 1})
    hooks = [Script({"NodeCompleted a": [AddNode(spec), AddNodes([spec])]}) for _ in range(3)]
    hooks[0].answers["NodeCompleted more"] = AddNode(spec)
    flow = Steered().act("double", double).note("a")
    report = flow.run(runner, hooks=hooks, **kept(place, tmp_path))
    assert report.hook_errors == ()
    assert report.node_reports["more"].attempts == 1
    assert hooks[0].told.count("NodeStarted more") == 1


@pytest.mark.row("B42", "G10")
def test_another_node_of_the_same_id_is_an_error_that_can_be_told_apart() -> None:
    flow = Steered().act("double", double).note("a")
    one = NodeSpec("double", id="more", deps=["a"], inputs={"x": 1})
    hook = Script({"NodeCompleted a": [AddNode(one), AddNode(one.with_inputs({"x": 2}))]})
    report = flow.run(hooks=[hook])
    (refused,) = report.hook_errors
    assert isinstance(refused, NodeAlreadyExists)
    assert refused.node_id == "more"
    assert report.value("more") == 2


def test_a_command_for_another_graph_is_refused() -> None:
    flow = Steered("mine").note("a")
    commands = [
        AddNode(NodeSpec("note", id="one"), dag_name="yours"),
        AddNode(NodeSpec("note", id="two"), dag_name="mine"),
    ]
    report = flow.run(hooks=[Script({"NodeCompleted a": commands})])
    assert list(report.graph.nodes) == ["a", "two"]
    (refused,) = report.hook_errors
    assert isinstance(refused, InvalidState)
    assert "'yours'" in str(refused)


@pytest.mark.row("B32")
def test_a_spec_is_changed_by_copies() -> None:
    first = NodeSpec("note")
    changed = (
        first.with_id("x")
        .with_deps(["a"])
        .with_inputs({"k": 1})
        .with_timeout(3)
        .with_retries(2)
        .with_trigger("always")
    )
    assert first == NodeSpec("note")
    assert (changed.id, changed.deps, changed.inputs) == ("x", ("a",), {"k": 1})
    assert (changed.timeout, changed.try_count, str(changed.trigger)) == (3, 3, "done")


# --- when commands apply -------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("kind", [Script, AsyncScript])
@pytest.mark.row("B15", "B26")
def test_commands_are_applied_before_anything_starts_that_the_event_makes_ready(
    runner: str, place: str, kind: type[Script], tmp_path: Path
) -> None:
    """Law 5: what is ready now sees what the hook has set, and nothing of before."""
    flow = Steered().act("double", double).note("a", 1)
    flow.add("b", double, after=["a"], give={"x": 1})
    flow.add("c", double, after=["a"], give={"x": 1}, enabled=True)
    hook = kind({"NodeCompleted a": SetNodeInputs("b", {"x": ref("a.result")})})
    second = kind({"NodeCompleted a": SetNodeInputs("c", {"x": 50})})
    report = flow.run(runner, hooks=[hook, second], **kept(place, tmp_path))
    assert report.hook_errors == ()
    assert report.outputs == {"b": 2, "c": 100}
    first_start = hook.told.index("NodeStarted b")
    assert hook.told.index("NodeCompleted a") < first_start


@pytest.mark.row("B26")
@everywhere
def test_a_pending_node_sees_its_new_inputs_and_a_started_one_refuses_them(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered().note("a", 1).note("b", 2, after=["a"])
    flow.add("last", lambda x, y: (x, y), after=["b"], give={"x": "old", "y": "kept"})
    hook = Script(
        {
            "start": SetNodeInputs("last", {"x": "new"}),
            "NodeCompleted b": [SetNodeInputs("a", {"z": 1}), SetNodeInputs("nobody", {})],
        }
    )
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.outputs == {"last": ("new", "kept")}
    started, unknown = report.hook_errors
    assert isinstance(started, InvalidState)
    assert "'a' is completed" in str(started)
    assert isinstance(unknown, LookupError)


@pytest.mark.row("B26")
def test_inputs_may_refer_to_a_node_that_was_not_waited_for_but_make_no_circle(
    tmp_path: Path,
) -> None:
    flow = Steered().act("double", double).note("a", 1).note("slow", 10, after=["a"])
    flow.add("b", double, after=["a"], give={"x": 1})
    flow.add("c", double, take={"x": "b"})
    commands = [
        SetNodeInputs("b", {"x": ref("c.result")}),
        SetNodeInputs("b", {"x": ref("b.result")}),
        SetNodeInputs("b", {"x": ref("slow.result")}),
    ]
    hook = Script({"NodeCompleted a": commands})
    report = flow.run(hooks=[hook], **kept("file", tmp_path))
    assert report.outputs == {"c": 40}
    assert [type(each) for each in report.hook_errors] == [CycleError, CycleError]
    assert flow.resume("r", url_of(tmp_path)).outputs == {"c": 40}


def test_the_inputs_of_a_retried_node_stay_what_its_first_attempt_saw() -> None:
    flow = Steered()
    seen: list[int] = []

    def flaky(x: int) -> int:
        seen.append(x)
        if len(seen) == 1:
            raise OSError
        return x

    flow.add("flaky", flaky, give={"x": 1}, try_count=2, retry=IMMEDIATE)
    report = flow.run(hooks=[Script({"NodeRetrying flaky": SetNodeInputs("flaky", {"x": 2})})])
    assert seen == [1, 1]
    assert [type(each) for each in report.hook_errors] == [InvalidState]


@every_runner
def test_a_hook_may_answer_the_start_of_a_node(runner: str) -> None:
    flow = Steered().note("a").note("b", after=["a"])
    hook = Script({"NodeStarted a": AddNode(NodeSpec("note", id="more"))})
    late = AsyncScript({"NodeStarted b": AddNode(NodeSpec("note", id="later"))})
    report = flow.run(runner, hooks=[hook, late])
    assert report.success
    assert report.hook_errors == ()
    assert set(states(report)) == {"a", "b", "more", "later"}


@every_runner
def test_a_hook_builds_the_graph_before_the_first_node(runner: str) -> None:
    flow = Steered().note("a")
    hook = Script(
        {"start": AddNodes([NodeSpec("note", id="first"), NodeSpec("note", id="second")])}
    )
    report = flow.run(runner, max_workers=1, hooks=[hook])
    assert flow.calls == ["a", "first", "second"]
    assert report.success


@pytest.mark.row("G8")
@everywhere
def test_a_slow_hook_that_adds_a_node_at_the_very_end_gets_it_executed(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered().note("a")
    answers = {
        "NodeCompleted a": AddNode(NodeSpec("note", id="b")),
        "NodeCompleted b": AddNode(NodeSpec("note", id="c")),
    }
    hook = AsyncScript(answers, pause=0.05)
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert flow.calls == ["a", "b", "c"]
    assert report.success
    assert hook.told[-1] == "end True"
    assert hook.told.count("end True") == 1


def test_what_is_asked_for_after_the_end_is_refused() -> None:
    flow = Steered().note("a")
    report = flow.run(hooks=[Script({"end": AddNode(NodeSpec("note", id="late"))})])
    assert report.success
    assert list(report.graph.nodes) == ["a"]
    assert [type(each) for each in report.hook_errors] == [InvalidState]


def test_an_empty_graph_grows() -> None:
    flow = Steered()
    report = flow.run(hooks=[Script({"start": AddNode(NodeSpec("note", id="a"))})])
    assert states(report) == {"a": "completed"}


@pytest.mark.row("G13")
@everywhere
def test_a_planner_grows_a_minimal_graph(runner: str, place: str, tmp_path: Path) -> None:
    def plan(node_id: str, outputs: Any) -> Any:
        if node_id != "plan":
            return None
        return Chain([NodeSpec("note", id=name) for name in outputs["result"]], after=["plan"])

    flow = Steered().note("plan", ["research", "write", "check"])
    report = flow.run(runner, hooks=[PlannerHook(plan)], **kept(place, tmp_path))
    assert flow.calls == ["plan", "research", "write", "check"]
    dot = report.graph.to_dot()
    assert all(name in dot for name in flow.calls)


# --- answers of nodes ----------------------------------------------------------------------------


@pytest.mark.row("G15", "G16", "B2")
@everywhere
def test_a_supervisor_node_adds_its_steps_and_a_final_validation(
    runner: str, place: str, tmp_path: Path
) -> None:
    def supervise() -> NodeOutput:
        steps = Chain([NodeSpec("note") for _ in range(3)], after=["supervisor"])
        last = NodeSpec("note", id="final_validation", deps=[steps[-1].id or ""])
        return NodeOutput.success({"plan": 3}, commands=[AddNodes(steps), AddNode(last)])

    flow = Steered()
    flow.add("supervisor", supervise)
    report = flow.run(runner, **kept(place, tmp_path))
    assert flow.calls == ["step_0", "step_1", "step_2", "final_validation"]
    assert report.value("supervisor") == {"plan": 3}
    assert report.success


@pytest.mark.row("G16")
@every_runner
def test_an_async_node_and_a_failure_may_answer_commands_too(runner: str) -> None:
    async def grow() -> NodeOutput:
        await asyncio.sleep(0)
        return NodeOutput.success(1, commands=[AddNode(NodeSpec("note", id="more"))])

    def give_up() -> NodeOutput:
        spec = NodeSpec("note", id="cleanup", deps=["bad"], trigger="done")
        return NodeOutput.failure("not today", commands=[AddNode(spec)])

    flow = Steered()
    flow.add("good", grow).add("bad", give_up, on_failure="continue")
    report = flow.run(runner)
    assert report.status == "failed"
    assert states(report) == {
        "good": "completed",
        "bad": "failed",
        "more": "completed",
        "cleanup": "completed",
    }


@pytest.mark.row("G16")
@everywhere
def test_a_bad_command_fails_the_node_once_with_that_error(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered()

    def grow() -> NodeOutput:
        flow.calls.append("grow")
        commands = [AddNode(NodeSpec("note", id="fine")), AddNode(NodeSpec("nobody", id="bad"))]
        return NodeOutput.success(1, commands=commands)

    flow.add("grow", grow, try_count=3, retry=IMMEDIATE)
    report = flow.run(runner, **kept(place, tmp_path))
    assert report.status == "failed"
    assert flow.calls == ["grow"]
    assert isinstance(report.node_reports["grow"].exception, ActionNotFound)
    assert list(report.graph.nodes) == ["grow", "fine"], "each command is whole by itself"
    with pytest.raises(NodeExecutionError, match="nobody"):
        report.raise_for_failure()


@every_runner
def test_what_is_no_command_fails_the_node(runner: str) -> None:
    flow = Steered()
    flow.add("grow", lambda: NodeOutput.success(1, commands=["add a node, please"]))
    report = flow.run(runner)
    assert isinstance(report.node_reports["grow"].exception, ConfigurationError)


def unrecordable() -> NodeSpec:
    """Return a spec that got past its checks with what no journal can keep."""
    spec = NodeSpec("note", id="more", description="odd")
    object.__setattr__(spec, "description", object())
    return spec


@everywhere
def test_what_cannot_be_recorded_is_not_done_either(
    runner: str, place: str, tmp_path: Path
) -> None:
    """A node that the graph has and the journal has not would close the run for ever."""
    flow = Steered().note("a", NodeOutput(1, commands=[AddNode(unrecordable())]))
    hook = Script({"start": AddNode(unrecordable())})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    if place == "file":
        (refused,) = report.hook_errors
        assert isinstance(refused, DaggerError)
        assert isinstance(report.node_reports["a"].exception, DaggerError)
        assert list(report.graph.nodes) == ["a"]
        assert flow.calls == ["a"]
        assert flow.resume("r", url_of(tmp_path), runner=runner).status == "failed"


def test_a_wrong_dependency_is_compared_with_all_that_is_there() -> None:
    flow = Steered().note("fetch").note("other")
    hook = Script({"NodeCompleted fetch": AddNode(NodeSpec("note", id="new", deps=["fetsh"]))})
    (refused,) = flow.run(hooks=[hook]).hook_errors
    assert "did you mean 'fetch'?" in str(refused)
    hook = Script({"NodeCompleted fetch": AddNode(NodeSpec("note", id="new", deps=["zzz"]))})
    (refused,) = flow.run(hooks=[hook]).hook_errors
    assert str(refused).endswith("; known: 'fetch', 'other'")


def test_nodes_without_ids_are_numbered_on_whatever_added_them() -> None:
    def more(*ids: str | None) -> AddNodes:
        return AddNodes([NodeSpec("note", id=each) for each in ids])

    flow = Steered().note("a")
    wrong = AddNodes([NodeSpec("note"), NodeSpec("nobody")])
    hook = Script(
        {
            "NodeCompleted a": [
                more(None, "note_3", None),
                wrong,
                more(None, None),
                more("note_6", None),
            ]
        }
    )
    report = flow.run(hooks=[hook])
    assert [type(each) for each in report.hook_errors] == [ActionNotFound]
    assert list(report.graph.nodes)[1:] == [
        "note",
        "note_3",
        "note_2",
        "note_4",
        "note_5",
        "note_6",
        "note_7",
    ]


def test_naming_many_nodes_looks_at_each_name_once() -> None:
    class Counting(dict[str, int]):
        """A plan's index that counts how often it is asked for a name."""

        asked = 0

        def __contains__(self, name: object) -> bool:
            self.asked += 1
            return super().__contains__(name)

    known = Counting()
    assert named([NodeSpec("note")] * 500, known, {})[-1].id == "note_500"
    assert known.asked == 500


@every_runner
def test_what_another_attempt_asks_for_counts_anew(runner: str, tmp_path: Path) -> None:
    """A resume calls a failed node again; what it says then is no repetition."""
    more, other, bad = (
        AddNode(NodeSpec(action, id=name))
        for action, name in (("note", "more"), ("note", "other"), ("nobody", "bad"))
    )
    flow = Steered()
    flow.note("a", Answers([NodeOutput(1, commands=[more, bad]), NodeOutput(1, commands=[other])]))
    flow.run(runner, **kept("file", tmp_path))
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert states(again) == dict.fromkeys(["a", "more", "other"], "completed")


def test_a_retried_node_asks_once() -> None:
    flow = Steered()
    grow = AddNode(NodeSpec("note", id="more"))
    answers = Answers([OSError(), NodeOutput.success(1, commands=[grow])])
    flow.note("a", answers, try_count=2, retry=IMMEDIATE)
    report = flow.run()
    assert report.success
    assert flow.calls == ["a", "a", "more"]


@every_runner
def test_an_action_and_a_hook_may_ask_for_one_node(runner: str) -> None:
    spec = NodeSpec("note", id="more", deps=["a"])
    flow = Steered()
    flow.add("a", lambda: NodeOutput.success(1, commands=[AddNode(spec)]))
    report = flow.run(runner, hooks=[Script({"NodeCompleted a": AddNode(spec)})])
    assert report.hook_errors == ()
    assert flow.calls == ["more"]


# --- recovery nodes ------------------------------------------------------------------------------


@pytest.mark.row("B47")
@pytest.mark.parametrize("on_failure", ["stop", "continue"])
@everywhere
def test_a_recovery_node_runs_after_the_failed_one_and_is_told_of_it(
    runner: str, place: str, on_failure: str, tmp_path: Path
) -> None:
    told: list[tuple[str, str]] = []

    def recover(failed_node: str, error: str) -> str:
        told.append((failed_node, error))
        return "recovered"

    flow = Steered().act("recover", recover)
    flow.add("bad", boom, on_failure=on_failure).note("below", after=["bad"])
    hook = Script({"NodeFailed bad": AddNode(NodeSpec("recover", deps=["bad"]))})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.hook_errors == ()
    assert told == [("bad", "ValueError: boom")]
    assert report.value("recover") == "recovered"
    assert str(report.graph.nodes["recover"].trigger) == "done"
    assert report.status == "failed"
    assert report.states()["below"] == "skipped"


@pytest.mark.row("B47", "D20")
@every_runner
def test_a_recovery_node_of_a_paused_run_waits_for_the_next_attempt(
    runner: str, tmp_path: Path
) -> None:
    """PAUSE starts nothing more; the resume tries the failed node first."""
    flow = Steered().act("recover", lambda failed_node, error: (failed_node, error))
    flow.note("bad", Answers([ValueError("boom"), 1]), on_failure="pause")
    hook = Script({"NodeFailed bad": AddNode(NodeSpec("recover", deps=["bad"]))})
    report = flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    assert report.hook_errors == ()
    assert report.status == "paused"
    assert states(report) == {"bad": "failed", "recover": "pending"}
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.outputs == {"recover": ("bad", "ValueError: boom")}
    assert flow.calls == ["bad", "bad"]


@pytest.mark.row("B47")
@every_runner
def test_a_recovery_node_has_descendants_of_its_own(runner: str) -> None:
    specs = [
        NodeSpec("note", id="recover", deps=["bad"]),
        NodeSpec("note", id="tell", deps=["recover"]),
    ]
    flow = Steered().note("a").add("bad", boom, after=["a"]).note("other", after=["a"])
    report = flow.run(runner, max_workers=1, hooks=[Script({"NodeFailed bad": AddNodes(specs)})])
    assert states(report)["recover"] == "completed"
    assert states(report)["tell"] == "completed"
    assert states(report)["other"] == "cancelled"


@pytest.mark.row("B47")
def test_inputs_that_a_recovery_node_is_given_win_and_an_error_may_be_handed_on() -> None:
    def grow(_ctx: Any, event: NodeFailed) -> Command:
        inputs = {"error": event.error, "failed_node": "mine"}
        return AddNode(NodeSpec("recover", id="recover", deps=["bad"], inputs=inputs))

    flow = Steered().act("recover", lambda failed_node, error: (failed_node, error))
    flow.add("bad", boom)
    report = flow.run(hooks=[Script({"NodeFailed bad": grow})])
    assert report.value("recover") == ("mine", "ValueError: boom")


def test_a_trigger_that_a_recovery_node_is_given_wins() -> None:
    flow = Steered().add("bad", boom, on_failure="continue")
    spec = NodeSpec("note", id="never", deps=["bad"], trigger="success")
    report = flow.run(hooks=[Script({"NodeFailed bad": AddNode(spec)})])
    assert states(report)["never"] == "skipped"


@pytest.mark.row("B47")
def test_a_soft_failure_can_be_recovered_from_too() -> None:
    flow = Steered().add("bad", lambda: NodeOutput.failure("not good enough"))
    spec = NodeSpec("note", id="again", deps=["bad"])
    report = flow.run(hooks=[Script({"NodeCompleted bad": AddNode(spec)})])
    assert report.hook_errors == ()
    assert states(report) == {"bad": "failed", "again": "completed"}


@every_runner
def test_what_grows_beside_a_stop_is_cancelled(runner: str) -> None:
    flow = Steered().add("bad", boom)
    report = flow.run(
        runner, hooks=[Script({"NodeFailed bad": AddNode(NodeSpec("note", id="more"))})]
    )
    assert states(report) == {"bad": "failed", "more": "cancelled"}
    assert flow.calls == []


@every_runner
def test_what_grows_in_a_paused_run_waits_for_its_resume(runner: str, tmp_path: Path) -> None:
    flow = Steered().note("bad", Answers([ValueError("no"), 1]), on_failure="pause")
    hook = Script(
        {"NodeFailed bad": AddNode(NodeSpec("note", id="more", deps=["bad"], trigger="success"))}
    )
    report = flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    assert report.status == "paused"
    assert states(report) == {"bad": "failed", "more": "pending"}
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.success
    assert flow.calls == ["bad", "bad", "more"]


def test_a_node_added_below_ended_ones_settles_at_once() -> None:
    flow = Steered().note("ok").add("bad", boom, on_failure="continue")
    flow.note("off", after=["bad"])
    specs = [
        NodeSpec("note", id="after_ok", deps=["ok"]),
        NodeSpec("note", id="after_bad", deps=["bad"], trigger="success"),
        NodeSpec("note", id="after_both", deps=["ok", "bad"], trigger="any"),
        NodeSpec("note", id="clean", deps=["ok", "off"], trigger="none_failed"),
        NodeSpec("note", id="dirty", deps=["ok", "bad"], trigger="none_failed"),
        NodeSpec("note", id="alarm", deps=["bad", "ok"], trigger="failed"),
        NodeSpec("note", id="calm", deps=["ok"], trigger="failed"),
        NodeSpec("note", id="always", deps=["bad", "off"], trigger="done"),
    ]
    flow.note("last", after=["off"], trigger="done")
    report = flow.run(hooks=[Script({"NodeCompleted last": AddNodes(specs)})])
    assert report.hook_errors == ()
    assert states(report) == {
        "ok": "completed",
        "bad": "failed",
        "off": "skipped",
        "last": "completed",
        "after_ok": "completed",
        "after_bad": "skipped",
        "after_both": "completed",
        "clean": "completed",
        "dirty": "skipped",
        "alarm": "completed",
        "calm": "skipped",
        "always": "completed",
    }
    assert report.node_reports["after_bad"].reason == "upstream_failed: 'bad' failed"


# --- growth and durability -----------------------------------------------------------------------


@every_runner
@pytest.mark.row("G7", "G1")
def test_a_grown_graph_comes_back_by_itself(runner: str, tmp_path: Path) -> None:
    specs = [
        NodeSpec("double", id="one", deps=["a"], inputs={"x": ref("a.result")}),
        NodeSpec("fragile", id="two", inputs={"x": ref("one.result")}, try_count=1),
        NodeSpec("double", id="three", inputs={"x": ref("two.result")}, on_failure="continue"),
    ]
    broken = [True]
    calls: list[str] = []

    def fragile(x: int) -> int:
        calls.append("two")
        if broken:
            raise OSError("not yet")
        return x

    def counted(x: int) -> int:
        calls.append("double")
        return 2 * x

    flow = Steered().act("double", counted).act("fragile", fragile).note("a", 3)
    options = kept("file", tmp_path)
    first = flow.run(runner, hooks=[Script({"NodeCompleted a": AddNodes(specs)})], **options)
    assert states(first)["two"] == "failed"
    broken.clear()
    again = flow.resume("r", url_of(tmp_path), runner=runner)  # nobody grows it this time
    assert again.outputs == {"three": 12}
    assert calls == ["double", "two", "two", "double"]
    assert again.graph == first.graph
    shown = flow.resume("r", url_of(tmp_path))
    assert shown.graph == first.graph
    assert shown.value("one") == 6


def test_everything_that_a_spec_says_comes_back(tmp_path: Path) -> None:
    specs = [
        NodeSpec(
            "note",
            id="full",
            deps=["a"],
            inputs={"k": (1, "two")},
            timeout=7,
            try_count=2,
            trigger="done",
            on_failure="continue",
            retry=IMMEDIATE,
            branch="side",
            failure="note",
            effects="at_most_once",
            description="for people",
            outputs=["left", "right"],
        ),
        NodeSpec("double", id="many", inputs={"x": ref("a.result")}, map_over="x", map_depth=2,
                 max_parallel=3, map_errors="collect"),
    ]  # fmt: skip
    flow = Steered().act("double", double).note("a", [[1], [2, 3]])
    flow.offer("note", {"left": 1, "right": 2})
    flow.add("bad", boom, after=["a"], on_failure="continue")
    hook = Script({"NodeCompleted a": AddNodes(specs)})
    first = flow.run(hooks=[hook], **kept("file", tmp_path))
    assert first.value("many") == [[2], [4, 6]]
    again = flow.resume("r", url_of(tmp_path))
    assert again.graph.nodes["full"] == first.graph.nodes["full"]
    assert again.graph.nodes["many"] == first.graph.nodes["many"]


def test_a_set_input_comes_back(tmp_path: Path) -> None:
    broken = [True]

    def fragile(x: int) -> int:
        if broken:
            raise OSError("not yet")
        return x

    flow = Steered().note("a", 5).add("b", fragile, after=["a"], give={"x": 1})
    hook = Script({"NodeCompleted a": SetNodeInputs("b", {"x": ref("a.result")})})
    flow.run(hooks=[hook], **kept("file", tmp_path))
    broken.clear()
    assert flow.resume("r", url_of(tmp_path)).outputs == {"b": 5}


def test_what_a_hook_asked_for_is_not_asked_for_again_after_a_resume(tmp_path: Path) -> None:
    """Hooks are shown an event again after a crash; their commands apply once, by their key."""
    flow = Steered().note("a")
    flow.note("b", Answers([OSError("no"), 1]), after=["a"])
    count = iter(range(100))

    def grow(_ctx: Any, _event: Any) -> Command:
        return AddNode(NodeSpec("note", id=f"more_{next(count)}"))

    options = kept("file", tmp_path)
    flow.run(hooks=[Script({"NodeCompleted a": grow})], **options)
    again = flow.resume("r", url_of(tmp_path), hooks=[Script({"NodeCompleted a": grow})])
    assert sorted(each for each in again.states() if each.startswith("more")) == ["more_0"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@every_runner
def test_growth_is_recorded_at_every_level(runner: str, durability: str, tmp_path: Path) -> None:
    flow = Steered().note("a")
    steps = Chain([NodeSpec("note") for _ in range(5)], after=["a"])
    hook = Script({"NodeCompleted a": AddNodes(steps)})
    flow.run(runner, hooks=[hook], durability=durability, **kept("file", tmp_path))
    again = flow.resume("r", url_of(tmp_path))
    assert states(again) == dict.fromkeys(["a", *(f"step_{k}" for k in range(5))], "completed")


@every_runner
def test_many_nodes_grow_at_once_and_one_by_one(runner: str) -> None:
    flow = Steered().note("a").act("double", double)
    wide = AddNodes(NodeSpec("double", id=f"wide_{k}", inputs={"x": k}) for k in range(300))

    def deeper(_ctx: Any, event: Any) -> Command | None:
        node_id = event.node.node_id
        if not node_id.startswith("deep") or node_id == "deep_150":
            return None
        number = int(node_id.partition("_")[2])
        return AddNode(NodeSpec("note", id=f"deep_{number + 1}", deps=[node_id]))

    def hook(ctx: Any, event: Any) -> Command | None:
        return deeper(ctx, event) if event.__class__.__name__ == "NodeCompleted" else None

    first = Script({"NodeCompleted a": [wide, AddNode(NodeSpec("note", id="deep_0"))]})
    report = flow.run(runner, hooks=[first, hook])
    assert report.success
    assert report.completed_nodes == 1 + 300 + 151
    assert report.value("wide_299") == 598


def test_the_context_of_a_grown_node_says_how_deep_it_lies() -> None:
    flow = Steered().note("first")
    flow.offer("note", lambda ctx: ctx.depth)
    answers: dict[str, Any] = {
        "NodeCompleted root": AddNode(NodeSpec("note", id="child")),
        "NodeCompleted child": AddNode(NodeSpec("note", id="grandchild")),
        "NodeCompleted grandchild": AddNode(NodeSpec("grow", id="planner")),
    }
    flow.act("grow", lambda: NodeOutput.success(1, commands=[AddNode(NodeSpec("note", id="leaf"))]))
    flow.add("root", returns(0))
    report = flow.run(hooks=[Script(answers)])
    depths = {name: report.value(name) for name in ("child", "grandchild", "leaf")}
    assert depths == {"child": 1, "grandchild": 2, "leaf": 4}


def test_nothing_that_was_there_can_be_made_to_wait_for_what_grew() -> None:
    """Law 6: growth never makes a circle, for what is there waits for nothing new."""
    flow = Steered().note("a").note("b", after=["a"])
    report = flow.run(
        hooks=[Script({"NodeCompleted a": AddNode(NodeSpec("note", id="a2", deps=["b"]))})]
    )
    assert flow.calls == ["a", "b", "a2"]
    assert report.success


def test_a_hook_sees_the_graph_as_it_has_become() -> None:
    seen: dict[str, list[str]] = {}

    def look(ctx: Any, event: Any) -> Any:
        seen[event.node.node_id] = list(ctx.graph.nodes)
        if event.node.node_id == "a":
            return AddNode(NodeSpec("note", id="b"))
        return None

    flow = Steered().note("a")
    flow.run(hooks=[Script({"NodeCompleted a": look, "NodeCompleted b": look})])
    assert seen == {"a": ["a"], "b": ["a", "b"]}


def test_starts_are_told_of_grown_nodes_too() -> None:
    hook = Script({"NodeCompleted a": AddNode(NodeSpec("note", id="b"))})
    Steered().note("a").run(hooks=[hook])
    started = [each.node.node_id for each in hook.of(NodeStarted)]
    assert started == ["a", "b"]


def test_a_node_ctx_cannot_change_the_graph() -> None:
    flow = Steered()
    flow.add("a", returns(1))
    flow.offer("look")
    flow.run(hooks=[Script({"NodeCompleted a": AddNode(NodeSpec("look", id="b"))})])
    ctx: NodeCtx = flow.contexts["b"]
    assert not any(hasattr(ctx, name) for name in ("executor", "graph", "coordinator", "state"))
