"""What stands in for a node that has failed: fallbacks, failure handlers, and both."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, CancelToken, action
from dagger_dsl.errors import ActionNotFound, NodeExecutionError, NodeTimeout, OutputError
from dagger_dsl.model.commands import AddNode, NodeSpec
from dagger_dsl.model.context import Branch, NodeCtx, NodeOutput
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.registry import Registry
from tests.engine.helpers import IMMEDIATE, Answers, boom, states, url_of
from tests.engine.steered import Script, Steered, every_runner, everywhere, kept


def failing(**fields: Any) -> Steered:
    """Return a flow of a node that fails for ``x=1`` and one that takes its value."""
    flow = Steered()

    def fail(x: int) -> Any:
        flow.calls.append("bad")
        raise ValueError("no")

    flow.add("bad", fail, give={"x": 1}, **fields)
    return flow.add("after", lambda value: value, take={"value": "bad"})


# --- fallbacks -----------------------------------------------------------------------------------


@pytest.mark.row("H8")
@everywhere
def test_a_fallback_is_called_once_after_the_last_attempt_with_the_same_inputs(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = failing(try_count=3, retry=IMMEDIATE, fallback="plan_b")

    def plan_b(x: int) -> str:
        flow.calls.append("plan b")
        return f"instead of {x}"

    flow.act("plan_b", plan_b)
    hook = Script()
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.success
    assert flow.calls == ["bad", "bad", "bad", "plan b"]
    assert report.outputs == {"after": "instead of 1"}
    bad = report.node_reports["bad"]
    assert bad.recovered
    assert bad.attempts == 3, "a fallback is no attempt"
    assert str(bad.exception) == "no"
    (told,) = [each for each in hook.of(NodeCompleted) if each.node.node_id == "bad"]
    assert told.outcome.recovered
    assert hook.told.count("NodeStarted bad") == 3
    assert not [each for each in hook.told if each.startswith("NodeFailed")]
    if place == "file":
        again = flow.resume("r", url_of(tmp_path))
        assert again.node_reports["bad"].recovered
        assert again.value("bad") == "instead of 1"


@every_runner
def test_a_fallback_takes_what_it_has_parameters_for(runner: str) -> None:
    flow = Steered()

    def fail(x: int, y: int, z: int) -> None:
        raise ValueError("no")

    def fallback(ctx: NodeCtx, z: int, x: int, more: int = 7) -> Any:
        return ctx.node_id, x, z, more

    flow.add("bad", fail, give={"x": 1, "y": 2, "z": 3}, fallback="fallback")
    flow.act("fallback", fallback)
    assert flow.run(runner).value("bad") == ("bad", 1, 3, 7)


@every_runner
def test_a_fallback_may_be_async_or_give_none(runner: str) -> None:
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    flow = failing(fallback="later").act("later", later)
    assert flow.run(runner).outputs == {"after": 2}
    nothing = failing(fallback="nothing").act("nothing", lambda x: None)
    report = nothing.run(runner)
    assert report.success
    assert report.outputs == {"after": None}, "None is a value like any other"


@every_runner
def test_a_time_limit_leads_to_the_fallback_which_has_none(runner: str) -> None:
    flow = Steered()
    flow.add("slow", lambda: time.sleep(0.3), timeout=0.05, fallback="fast")

    def fast() -> str:
        time.sleep(0.1)
        return "fast"

    report = flow.act("fast", fast).run(runner)
    assert report.value("slow") == "fast"
    assert isinstance(report.node_reports["slow"].exception, NodeTimeout)


@every_runner
def test_an_action_says_its_fallback(runner: str) -> None:
    with Registry() as registry:

        @action
        def plan_b(x: int) -> int:
            return -x

        @action(fallback=plan_b, attempts=2, retry_delay=0.0)
        def plan_a(x: int) -> int:
            raise OSError("down")

        @action
        def use(value: int) -> int:
            return value

        with DAG("plans", registry=registry) as dag:
            use(plan_a(5))
        assert dag.run(runner=runner) == -5
        assert dag.report is not None
        assert dag.report.node_reports["plan_a"].recovered


@every_runner
def test_a_soft_failure_an_output_error_and_an_unstorable_value_have_fallbacks(
    runner: str, tmp_path: Path
) -> None:
    flow = Steered().act("instead", lambda: {"y": 1})
    flow.add("soft", lambda: NodeOutput.failure("no"), fallback="instead")
    flow.add("wrong", lambda: {"x": 1}, outputs=["y", "z"], fallback="both")
    flow.act("both", lambda: {"y": 1, "z": 2})
    flow.add("odd", lambda: object(), fallback="instead")
    report = flow.run(runner, **kept("file", tmp_path))
    assert report.success
    assert report.value("soft") == {"y": 1}
    assert report.value("wrong") == {"y": 1, "z": 2}
    assert report.value("odd") == {"y": 1}


@every_runner
def test_a_fallback_may_choose_a_branch_and_answer_commands(runner: str) -> None:
    more = AddNode(NodeSpec("note", id="more"))
    flow = Steered().act("choose", lambda: NodeOutput.success(Branch("yes", 1), commands=[more]))
    flow.add("bad", boom, fallback="choose").note("yes").note("no")
    flow.when("bad", "yes", "yes").when("bad", "no", "no")
    report = flow.run(runner)
    assert states(report) == {
        "bad": "completed",
        "yes": "completed",
        "no": "skipped",
        "more": "completed",
    }


def test_an_unknown_fallback_is_found_before_anything_runs() -> None:
    with pytest.raises(ActionNotFound, match="nobody"):
        failing(fallback="nobody").run()


# --- fallback, then handler ----------------------------------------------------------------------


@pytest.mark.row("H7", "H8")
@everywhere
def test_the_handler_comes_when_the_fallback_has_failed_too(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = failing(fallback="plan_b", failure="rescue")

    def plan_b(x: int) -> None:
        flow.calls.append("plan b")
        raise OSError("not either")

    def rescue(error: Exception, x: int) -> str:
        flow.calls.append("rescue")
        return f"{error} for {x}"

    flow.act("plan_b", plan_b).act("rescue", rescue)
    report = flow.run(runner, **kept(place, tmp_path))
    assert flow.calls == ["bad", "plan b", "rescue"]
    assert report.outputs == {"after": "no for 1"}, "the handler is told of the node's own error"
    notes = report.node_reports["bad"].exception.__notes__  # type: ignore[union-attr]
    assert "its fallback 'plan_b' failed too" in notes[0]


@every_runner
def test_when_all_have_failed_the_node_has(runner: str) -> None:
    flow = failing(fallback="broken", failure="broken").act("broken", boom)
    hook = Script()
    report = flow.run(runner, hooks=[hook])
    assert states(report) == {"bad": "failed", "after": "skipped"}
    assert hook.told.count("NodeFailed bad") == 1
    with pytest.raises(NodeExecutionError, match="ValueError: no"):
        report.raise_for_failure()


@every_runner
def test_a_fallback_that_works_keeps_the_handler_out(runner: str) -> None:
    flow = failing(fallback="plan_b", failure="rescue").act("plan_b", lambda x: x)
    flow.offer("rescue", "never")
    report = flow.run(runner)
    assert report.outputs == {"after": 1}
    assert flow.calls == ["bad"]


# --- handlers ------------------------------------------------------------------------------------


@pytest.mark.row("H7")
@everywhere
def test_a_handler_reads_the_error_from_the_cache(runner: str, place: str, tmp_path: Path) -> None:
    seen: list[Any] = []

    def rescue(ctx: NodeCtx) -> None:
        seen.append(ctx.cache.get("bad", "error"))

    report = failing(failure="rescue").act("rescue", rescue).run(runner, **kept(place, tmp_path))
    assert report.states()["bad"] == "failed", "None changes nothing"
    (error,) = seen
    assert (error["type"], error["message"]) == ("ValueError", "no")
    assert "raise ValueError" in error["traceback"]


@pytest.mark.row("H8")
@pytest.mark.parametrize("on_failure", ["stop", "continue", "pause"])
@everywhere
def test_a_handler_s_answer_is_the_node_s_result(
    runner: str, place: str, on_failure: str, tmp_path: Path
) -> None:
    answer = NodeOutput.success(
        {"result": "spare", "recovery_attempted": True}, metadata={"by": "handler"}
    )
    flow = failing(failure="rescue", on_failure=on_failure).offer("rescue", answer)
    report = flow.run(runner, **kept(place, tmp_path))
    assert report.success
    bad = report.node_reports["bad"]
    assert (bad.recovered, bad.metadata) == (True, {"by": "handler"})
    assert report.outputs == {"after": {"result": "spare", "recovery_attempted": True}}
    if place == "file":
        again = flow.resume("r", url_of(tmp_path))
        assert again.node_reports["bad"].recovered
        assert again.node_reports["bad"].metadata == {"by": "handler"}


@every_runner
def test_a_handler_may_answer_a_failure_of_its_own(runner: str) -> None:
    flow = failing(failure="rescue").offer("rescue", NodeOutput.failure("nor I"))
    report = flow.run(runner)
    assert report.states()["bad"] == "failed"
    assert str(report.node_reports["bad"].exception) == "no"


@every_runner
def test_a_handler_may_let_the_graph_grow(runner: str) -> None:
    spec = NodeSpec("note", id="cleanup", deps=["bad"], trigger="done")
    answer = NodeOutput.success("spare", commands=[AddNode(spec)])
    flow = failing(failure="rescue").offer("rescue", answer)
    report = flow.run(runner)
    assert report.success
    assert report.states()["cleanup"] == "completed"


@every_runner
def test_an_answer_that_does_not_fit_the_declared_outputs_recovers_nothing(runner: str) -> None:
    flow = Steered().offer("rescue", {"wrong": 1})
    flow.add("bad", boom, outputs=["right", "left"], failure="rescue")
    report = flow.run(runner)
    assert report.states()["bad"] == "failed"
    error = report.node_reports["bad"].exception
    assert isinstance(error, ValueError)
    assert "its failure handler failed too" in error.__notes__[0]
    assert OutputError.__name__ in error.__notes__[0]


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_a_run_that_is_cancelled_calls_nobody_in_its_place(runner: str) -> None:
    flow = Steered().offer("instead", 1)
    begun, over = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        over.wait(10)
        raise ValueError("cut off")

    flow.add("bad", long, fallback="instead", failure="instead")
    token = CancelToken()

    def cancel() -> None:
        begun.wait(10)
        token.cancel("enough")
        time.sleep(0.02)
        over.set()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    report = flow.run(runner, cancel=token)
    canceller.join()
    assert report.status == "cancelled"
    assert flow.calls == []


@every_runner
def test_a_failed_node_gets_its_stand_ins_again_after_a_resume(runner: str, tmp_path: Path) -> None:
    flow = Steered()
    flow.note("bad", Answers([ValueError("no"), ValueError("still no")]), fallback="plan_b")
    answers = Answers([OSError("busy"), "spare"])

    def plan_b() -> Any:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    flow.act("plan_b", plan_b)
    assert flow.run(runner, **kept("file", tmp_path)).status == "failed"
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.value("bad") == "spare"
    assert again.node_reports["bad"].attempts == 2
