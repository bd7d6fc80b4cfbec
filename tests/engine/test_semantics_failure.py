"""What a failure does to its run: STOP, CONTINUE, PAUSE, handlers, soft failures."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.errors import NodeExecutionError, NodeFailure, OutputError, RunPaused
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import Branch, NodeCtx, NodeOutput
from dagger_dsl.model.events import NodeCompleted, NodeFailed
from dagger_dsl.model.policies import OnFailure
from dagger_dsl.testing import FakeClock
from tests.engine.helpers import (
    IMMEDIATE,
    RUNNERS,
    Answers,
    Clocked,
    Workflow,
    boom,
    states,
    url_of,
)


class Events:
    """A hook that keeps what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def handle(self, _ctx: Any, event: Any) -> None:
        """Keep one event."""
        self.seen.append(event)


# --- STOP -----------------------------------------------------------------------------------------


@pytest.mark.row("D2")
def test_stop_is_the_default() -> None:
    assert DagConfig().on_failure is OnFailure.STOP


@pytest.mark.row("D21", "A22")
@pytest.mark.parametrize("runner", RUNNERS)
def test_stop_cancels_everything_that_has_not_started(runner: str) -> None:
    flow = Workflow().note("bad", ValueError("x"), on_failure="stop")
    flow.note("dependent", after=["bad"])
    for k in range(50):
        flow.note(f"other{k}", after=["bad" if k % 2 else "first"])
    flow.nodes.insert(0, Workflow().note("first").nodes[0])
    flow.registry.register(lambda: None, flow.nodes[0].action)
    report = flow.run(runner, max_workers=1)
    assert flow.calls == ["bad"]
    assert report.status == "failed"
    found = states(report)
    assert found["first"] == "completed"
    assert found["dependent"] == "skipped"
    assert {found[f"other{k}"] for k in range(0, 50, 2)} == {"cancelled"}
    assert report.node_reports["other0"].reason == "a node failed and the run stops"


@pytest.mark.row("D21")
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_stop_cancels_what_is_running(runner: str) -> None:
    started = threading.Event()
    ended: list[str] = []

    async def running() -> None:
        started.set()
        try:
            await asyncio.sleep(20)
        finally:
            ended.append("running")

    def bad() -> None:
        assert started.wait(20)
        raise ValueError("x")

    flow = Workflow().add("running", running).add("bad", bad).note("after", after=["running"])
    report = flow.run(runner, max_workers=2)
    assert ended == ["running"]
    assert states(report) == {"running": "cancelled", "bad": "failed", "after": "cancelled"}


def test_a_thread_that_ends_within_the_grace_time_keeps_its_result() -> None:
    go_on = threading.Event()

    def bad() -> None:
        raise ValueError("x")

    def running() -> str:
        go_on.wait(20)
        return "kept"

    flow = Workflow().add("running", running).add("bad", bad)

    def watch(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeFailed):
            go_on.set()

    report = flow.run("threads", max_workers=2, hooks=[watch])
    assert report.value("running") == "kept"
    assert report.status == "failed"


def test_stop_still_runs_failed_and_done_dependents_and_their_descendants() -> None:
    flow = Workflow().note("bad", ValueError("x")).note("other").note("later", after=["other"])
    flow.note("on_failed", after=["bad"], trigger="failed")
    flow.note("on_done", after=["bad"], trigger="done")
    flow.note("below", after=["on_failed"]).note("deeper", after=["below", "on_done"])
    flow.note("mixed", after=["on_done", "later"])
    flow.note("plain", after=["bad"]).note("under_plain", after=["plain"], trigger="done")
    report = flow.run()
    assert flow.calls == ["bad", "on_failed", "on_done", "below", "deeper"]
    assert states(report) == {
        "bad": "failed",
        "other": "cancelled",
        "later": "cancelled",
        "on_failed": "completed",
        "on_done": "completed",
        "below": "completed",
        "deeper": "completed",
        "mixed": "skipped",  # it also waits for what was cancelled
        "plain": "skipped",
        "under_plain": "cancelled",  # a dependent of the dependent, not of the failed node
    }
    assert report.status == "failed"


def test_a_done_dependent_that_also_waits_for_what_stops_runs_all_the_same() -> None:
    """Clean-up waits for everything; everything else has an end now."""
    flow = Workflow().note("bad", ValueError("x")).note("other").note("third", after=["other"])
    flow.note("clean", after=["bad", "other", "third"], trigger="done")
    report = flow.run()
    assert flow.calls == ["bad", "clean"]
    assert states(report)["clean"] == "completed"


def test_cancelled_sources_are_no_failure_and_no_success_for_what_was_spared() -> None:
    flow = Workflow().note("bad", ValueError("x")).note("other")
    flow.note("clean", after=["bad"], trigger="done")
    for rule in ("none_failed", "failed", "any", "done"):
        flow.note(rule, after=["clean", "other"], trigger=rule)
    report = flow.run()
    assert {rule: states(report)[rule] for rule in ("none_failed", "failed", "any", "done")} == {
        "none_failed": "skipped",
        "failed": "skipped",
        "any": "completed",
        "done": "completed",
    }


def test_a_second_failure_beside_a_stop_does_not_stop_what_was_spared() -> None:
    flow = Workflow().note("bad", ValueError("x"))
    flow.note("one", ValueError("y"), after=["bad"], trigger="failed")
    flow.note("two", after=["bad"], trigger="failed").note("three", after=["two"])
    report = flow.run()
    assert flow.calls == ["bad", "one", "two", "three"]
    assert report.failed_nodes == 2
    with pytest.raises(NodeExecutionError, match="'bad'"):  # the first one
        report.raise_for_failure()


# --- CONTINUE -------------------------------------------------------------------------------------


@pytest.mark.row("D19")
@pytest.mark.parametrize("runner", RUNNERS)
def test_continue_skips_the_dependents_and_goes_on(runner: str) -> None:
    flow = Workflow().note("bad", ValueError("x"), on_failure="continue")
    flow.note("dependent", after=["bad"]).note("deeper", after=["dependent"])
    flow.note("free").note("freer", after=["free"])
    report = flow.run(runner)
    assert states(report) == {
        "bad": "failed",
        "dependent": "skipped",
        "deeper": "skipped",
        "free": "completed",
        "freer": "completed",
    }
    assert "upstream_failed" in report.node_reports["dependent"].reason
    assert report.status == "failed"  # a node failed and nothing recovered it


@pytest.mark.row("A8")
def test_a_nodes_policy_beats_the_actions_and_that_the_configuration() -> None:
    flow = Workflow()
    flow.registry.register(boom, "continues", on_failure="continue")
    from dagger_dsl.model.graph import Node

    for policy, expected in ((None, "completed"), ("stop", "cancelled")):
        flow.nodes = [Node("bad", "continues", on_failure=policy)]
        flow.note("free")
        assert states(flow.run(config={"on_failure": "stop"}))["free"] == expected
    flow.nodes = []
    flow.add("bad", boom).note("free")
    assert states(flow.run(config={"on_failure": "continue"}))["free"] == "completed"
    assert states(flow.run())["free"] == "cancelled"


# --- PAUSE ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_pause_starts_nothing_more_and_leaves_the_run_paused(runner: str) -> None:
    flow = Workflow().note("bad", ValueError("x"), on_failure="pause")
    flow.note("dependent", after=["bad"]).note("alarm", after=["bad"], trigger="failed")
    flow.note("free").note("freer", after=["free"])
    report = flow.run(runner, max_workers=1)
    assert flow.calls == ["bad"]
    assert report.status == "paused"
    assert not report.success
    assert states(report) == {
        "bad": "failed",
        "dependent": "pending",
        "alarm": "pending",
        "free": "pending",
        "freer": "pending",
    }
    with pytest.raises(RunPaused, match="'bad' failed"):
        report.raise_for_failure()


def test_pause_lets_running_nodes_end() -> None:
    go_on = threading.Event()

    def running() -> str:
        go_on.wait(20)
        return "done"

    def watch(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeFailed):
            go_on.set()

    flow = Workflow().add("running", running).add("bad", boom, on_failure="pause")
    flow.note("next", after=["running"])
    report = flow.run("threads", max_workers=2, hooks=[watch])
    assert report.status == "paused"
    assert states(report) == {"running": "completed", "bad": "failed", "next": "pending"}
    assert flow.calls == []


@pytest.mark.parametrize("last", [True, False])
def test_a_run_pauses_also_when_nothing_else_was_left(last: bool) -> None:
    flow = Workflow().note("a").note("bad", ValueError("x"), after=["a"], on_failure="pause")
    if not last:
        flow.note("z", after=["bad"])
    assert flow.run().status == "paused"


def test_a_retry_that_waits_when_the_run_pauses_is_left_waiting(tmp_path: Path) -> None:
    flow = Workflow().note("slow", Answers([ConnectionError(), 1]), try_count=2)
    flow.note("bad", Answers([ValueError("x"), 2]), on_failure="pause")
    url = url_of(tmp_path)
    report = flow.run(database_url=url, run_id="r")
    assert report.status == "paused"
    assert states(report) == {"slow": "waiting", "bad": "failed"}
    assert report.pending_nodes == 1
    assert flow.resume("r", url).outputs == {"slow": 1, "bad": 2}


# --- handlers -------------------------------------------------------------------------------------


@pytest.mark.row("A21")
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_handler_runs_once_after_the_last_attempt_with_the_error_at_hand(runner: str) -> None:
    flow = Workflow()
    seen: list[Any] = []

    def handler(error: Exception, node_id: str, attempts: int, inputs: Any, amount: int) -> int:
        seen.append((str(error), node_id, attempts, dict(inputs), amount))
        flow.calls.append("handler")
        return -amount

    def pay(amount: int) -> int:
        flow.calls.append("pay")
        raise ConnectionError("refused")

    flow.handler("handler", handler)
    flow.add("pay", pay, give={"amount": 7}, try_count=3, retry=IMMEDIATE, failure="handler")
    flow.add("after", lambda value: value * 2, take={"value": "pay"})
    report = flow.run(runner)
    assert flow.calls == ["pay", "pay", "pay", "handler"]
    assert seen == [("refused", "pay", 3, {"amount": 7}, 7)]
    assert report.success
    assert report.outputs == {"after": -14}
    node = report.node_reports["pay"]
    assert (str(node.state), node.recovered, node.attempts) == ("completed", True, 3)
    assert node.error is not None  # what it recovered from
    assert node.error.message == "refused"


def test_a_handler_with_one_parameter_of_any_name_gets_the_error() -> None:
    flow = Workflow()
    flow.handler("handler", lambda problem: f"{type(problem).__name__}: {problem}")
    flow.add("bad", boom, failure="handler")
    assert flow.run().value("bad") == "ValueError: boom"


def test_a_handler_may_ask_for_the_context() -> None:
    flow = Workflow()

    def handler(ctx: NodeCtx, error: Exception) -> Any:
        return ctx.node_id, ctx.attempt, str(error)

    flow.handler("handler", handler)
    flow.add("bad", boom, failure="handler")
    assert flow.run().value("bad") == ("bad", 1, "boom")


def test_a_handler_that_returns_none_changes_nothing() -> None:
    flow = Workflow()
    flow.handler("handler", lambda error: None)
    flow.add("bad", boom, failure="handler").note("free")
    report = flow.run()
    assert states(report) == {"bad": "failed", "free": "cancelled"}
    assert not report.node_reports["bad"].recovered
    assert str(report.node_reports["bad"].exception) == "boom"


@pytest.mark.parametrize(
    "broken", [lambda error: 1 / 0, lambda error: NodeOutput.failure("me too")]
)
def test_a_handler_that_fails_too_leaves_the_original_error(
    broken: Any, caplog: pytest.LogCaptureFixture
) -> None:
    flow = Workflow()
    flow.handler("handler", broken)
    flow.add("bad", boom, failure="handler")
    with caplog.at_level(logging.ERROR, "dagger_dsl.engine"):
        report = flow.run()
    error = report.node_reports["bad"].exception
    assert isinstance(error, ValueError)
    assert str(error) == "boom"
    assert "failure handler failed too" in str(getattr(error, "__notes__", ""))
    assert "failure handler" in caplog.text


def test_an_answer_of_a_handler_that_fits_no_output_is_no_answer(tmp_path: Path) -> None:
    """It is not asked again: the answer would be the same for ever."""
    flow = Workflow()
    calls: list[str] = []

    def handler(error: Exception) -> Any:
        calls.append(type(error).__name__)
        return {"left": 1} if len(calls) == 1 else object()

    flow.handler("handler", handler)
    flow.add("parts", boom, failure="handler", outputs=["left", "right"], on_failure="continue")
    flow.add("stored", boom, failure="handler", on_failure="continue")
    flow.note("route", ValueError("x"), failure="handler", on_failure="continue")
    flow.note("there").when("route", "there", "there")
    report = flow.run(database_url=url_of(tmp_path))
    assert calls == ["ValueError"] * 3
    assert [str(each) for each in report.states().values()] == ["failed"] * 3 + ["skipped"]
    for node_id in ("parts", "stored", "route"):
        node = report.node_reports[node_id]
        assert isinstance(node.exception, ValueError)
        assert "failure handler failed too" in str(node.exception.__notes__)
        assert not node.recovered


def test_a_handler_chooses_the_way_on() -> None:
    flow = Workflow()
    flow.handler("handler", lambda error: Branch("safe", 5))
    flow.note("route", ValueError("x"), failure="handler")
    flow.add("safe", lambda value: value, take={"value": "route"}).when("route", "safe", "safe")
    flow.note("fast").when("route", "fast", "fast")
    report = flow.run()
    assert report.value("safe") == 5
    assert states(report)["fast"] == "skipped"


@pytest.mark.parametrize("policy", ["stop", "pause"])
def test_a_handler_that_is_due_still_runs_when_the_run_stops_or_pauses(policy: str) -> None:
    """Its call belongs to a node that has begun; dropping it would lose the failure."""
    flow = Workflow()
    both = threading.Barrier(2)
    failed = threading.Event()

    def first() -> None:
        both.wait(20)
        raise ValueError("first")

    def second() -> None:
        both.wait(20)
        failed.wait(20)
        raise ValueError("second")

    def watch(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeFailed):
            failed.set()

    flow.handler("handler", lambda error: str(error))
    flow.add("first", first, on_failure=policy).add("second", second, failure="handler")
    report = flow.run("threads", max_workers=2, hooks=[watch])
    assert report.value("second") == "second"
    assert report.node_reports["second"].recovered


def test_on_failure_is_decided_after_retries_and_handler() -> None:
    flow = Workflow()
    flow.handler("handler", lambda error: "saved")
    flow.add("bad", boom, try_count=2, retry=IMMEDIATE, failure="handler", on_failure="stop")
    flow.note("free")
    assert flow.run().success
    assert flow.calls == ["free"]


def test_several_failures_with_handlers_at_once() -> None:
    flow = Workflow()
    flow.handler("handler", lambda error, node_id: node_id)
    for k in range(300):
        flow.add(f"n{k}", boom, failure="handler")
    report = flow.run()
    assert report.outputs == {f"n{k}": f"n{k}" for k in range(300)}


# --- soft failures --------------------------------------------------------------------------------


@pytest.mark.row("B9")
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_soft_failure_is_a_failed_node_without_a_retry(runner: str) -> None:
    events = Events()
    flow = Workflow().note(
        "soft",
        NodeOutput.failure("No valid data found", metadata={"rows": 0}),
        try_count=5,
        retry=IMMEDIATE,
        on_failure="continue",
    )
    flow.note("dependent", after=["soft"]).note("alarm", after=["soft"], trigger="failed")
    report = flow.run(runner, hooks=[events])
    assert flow.calls == ["soft", "alarm"]
    assert states(report) == {"soft": "failed", "dependent": "skipped", "alarm": "completed"}
    (shown,) = [
        each
        for each in events.seen
        if isinstance(each, (NodeCompleted, NodeFailed)) and each.node.node_id == "soft"
    ]
    assert isinstance(shown, NodeCompleted)
    assert not shown.outcome.success
    assert isinstance(shown.outcome.error, NodeFailure)
    assert str(shown.outcome.error) == "No valid data found"
    assert report.node_reports["soft"].metadata == {"rows": 0}
    assert report.status == "failed"


def test_a_soft_failure_obeys_on_failure() -> None:
    flow = Workflow().note("soft", NodeOutput.failure("no")).note("free")
    assert states(flow.run())["free"] == "cancelled"
    flow = Workflow().note("soft", NodeOutput.failure("no"), on_failure="pause").note("free")
    assert flow.run().status == "paused"


def test_a_run_succeeds_when_no_node_failed_unrecovered() -> None:
    flow = Workflow()
    flow.handler("handler", lambda error: 1)
    flow.add("recovered", boom, failure="handler").note("flaky", Answers([OSError(), 2]))
    flow.nodes[-1] = flow.nodes[-1].replace(try_count=2, retry=IMMEDIATE)
    flow.note("skipped", enabled=False)
    report = flow.run()
    assert report.success
    assert report.error is None


def test_a_failed_nodes_value_reaches_nobody() -> None:
    """What broke its declaration is not a result, for whoever still runs after it."""
    flow = Workflow()
    flow.add("bad", lambda: {"left": 1}, outputs=["left", "right"], on_failure="continue")
    seen: list[Any] = []

    def after(value: Any = "default") -> None:
        seen.append(value)

    flow.nodes.append(flow.nodes[0].replace(id="route", outputs=()))
    flow.note("there").when("route", "there", "there")
    flow.add("after", after, take={"value": "route"}, trigger="done")
    report = flow.run()
    assert isinstance(report.node_reports["route"].exception, OutputError)
    assert seen == ["default"]


@pytest.mark.row("D21")
def test_a_value_that_breaks_its_declaration_stops_the_run_at_once() -> None:
    """Not only when everything that was released before has run."""
    clock = FakeClock()
    flow = Workflow().add("bad", lambda: {"left": 1}, outputs=["left", "right"])
    for k in range(30):
        flow.add(f"n{k}", lambda: clock.advance(0.002))
    report = Clocked(flow, clock=clock).run()
    assert report.completed_nodes == 1
    assert report.cancelled_nodes == 29
