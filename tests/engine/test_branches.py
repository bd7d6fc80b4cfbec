"""Branches of a running graph: held, let go, cancelled; nodes disabled; runs that stand still."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG
from dagger_dsl.engine.hooks import ReviewHook
from dagger_dsl.errors import InvalidState, NodeNotFound, RunPaused
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    CancelBranch,
    CancelRun,
    Command,
    NodeSpec,
    PauseBranch,
    PauseRun,
    ResumeBranch,
    ResumeRun,
    SetNodesEnabled,
)
from dagger_dsl.model.context import Branch
from dagger_dsl.store.storage import Store
from tests.engine.helpers import (
    IMMEDIATE,
    Answers,
    Clocked,
    boom,
    states,
    url_of,
)
from tests.engine.steered import (
    Script,
    Steered,
    every_runner,
    everywhere,
    kept,
    reasons,
    send,
)
from tests.runners.helpers import eventually


def two_sides() -> Steered:
    """Return a graph with two sides of two nodes and a node behind both."""
    flow = Steered().note("top").note("left", after=["top"]).note("right", after=["top"])
    flow.note("left_2", after=["left"]).note("right_2", after=["right"])
    return flow.note("bottom", after=["left_2", "right_2"])


# --- holding -------------------------------------------------------------------------------------


@pytest.mark.row("B27", "H15")
@everywhere
def test_a_held_branch_does_not_start_and_the_rest_goes_on(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = two_sides()
    hook = Script({"NodeCompleted top": PauseBranch("left", "the weather")})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.hook_errors == ()
    assert flow.calls == ["top", "right", "right_2"]
    assert report.status == "paused"
    assert report.reason == "the weather"
    assert states(report) == {
        "top": "completed",
        "left": "pending",
        "right": "completed",
        "left_2": "pending",
        "right_2": "completed",
        "bottom": "pending",
    }
    assert reasons(report) == dict.fromkeys(["left", "left_2", "bottom"], "paused: the weather")
    assert "the weather" in report.explain("left_2")
    assert hook.told[-1] == "end False"
    with pytest.raises(RunPaused, match="the weather"):
        report.raise_for_failure()


@pytest.mark.row("B27")
@every_runner
def test_a_branch_may_be_a_label(runner: str) -> None:
    flow = Steered().note("top").note("a", after=["top"], branch="slow")
    flow.note("b", after=["top"], branch="slow").note("a_2", after=["a"]).note("c", after=["top"])
    hook = Script({"start": PauseBranch("slow")})
    report = flow.run(runner, hooks=[hook])
    assert flow.calls == ["top", "c"]
    assert reasons(report) == dict.fromkeys(["a", "b", "a_2"], "paused: paused")


@pytest.mark.row("B28")
@everywhere
def test_a_branch_goes_on_when_it_is_let_go(runner: str, place: str, tmp_path: Path) -> None:
    flow = two_sides()
    answers = {
        "NodeCompleted top": PauseBranch("left", "wait for the right side"),
        "NodeCompleted right_2": ResumeBranch("left"),
    }
    report = flow.run(runner, hooks=[Script(answers)], **kept(place, tmp_path))
    assert report.success
    assert flow.calls == ["top", "right", "right_2", "left", "left_2", "bottom"]
    assert reasons(report) == {}


@pytest.mark.row("B28", "E14")
@every_runner
def test_a_held_branch_stays_held_over_a_resume_until_somebody_lets_it_go(
    runner: str, tmp_path: Path
) -> None:
    flow, url = two_sides(), url_of(tmp_path)
    hook = Script({"NodeCompleted top": PauseBranch("left", "a person decides")})
    flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    again = flow.resume("r", url, runner=runner)
    assert again.status == "paused"
    assert flow.calls == ["top", "right", "right_2"]
    assert reasons(again)["bottom"] == "paused: a person decides"
    send(url, "r", [ResumeBranch("left")])
    last = flow.resume("r", url, runner=runner)
    assert last.success
    assert flow.calls == ["top", "right", "right_2", "left", "left_2", "bottom"]


@pytest.mark.row("B27")
@everywhere
def test_what_is_added_to_a_held_branch_is_held(runner: str, place: str, tmp_path: Path) -> None:
    flow = two_sides()
    more = [
        NodeSpec("note", id="inside", deps=["left"]),
        NodeSpec("note", id="deeper", deps=["inside"]),
        NodeSpec("note", id="outside", deps=["right"]),
    ]
    answers = {
        "NodeCompleted top": PauseBranch("left", "held"),
        "NodeCompleted right": AddNodes(more),
    }
    report = flow.run(runner, hooks=[Script(answers)], **kept(place, tmp_path))
    assert states(report)["outside"] == "completed"
    assert reasons(report) == dict.fromkeys(
        ["left", "left_2", "bottom", "inside", "deeper"], "paused: held"
    )
    if place == "file":
        send(url_of(tmp_path), "r", [ResumeBranch("left")])
        assert flow.resume("r", url_of(tmp_path)).success


@pytest.mark.row("B27")
@every_runner
def test_a_node_that_joins_a_held_label_is_held(runner: str) -> None:
    flow = Steered().note("top").note("a", after=["top"], branch="slow")
    answers = {
        "start": PauseBranch("slow", "held"),
        "NodeCompleted top": AddNode(NodeSpec("note", id="b", deps=["top"], branch="slow")),
    }
    report = flow.run(runner, hooks=[Script(answers)])
    assert report.hook_errors == ()
    assert flow.calls == ["top"]
    assert reasons(report) == {"a": "paused: held", "b": "paused: held"}


@every_runner
def test_two_branches_that_overlap_are_held_until_both_are_let_go(runner: str) -> None:
    flow = two_sides()
    answers = {
        "start": [PauseBranch("left", "one"), PauseBranch("right", "two")],
        "NodeCompleted top": ResumeBranch("left"),
        "NodeCompleted left_2": ResumeBranch("left_2"),
    }
    report = flow.run(runner, hooks=[Script(answers)])
    assert report.hook_errors == ()
    assert flow.calls == ["top", "left", "left_2"]
    assert reasons(report)["bottom"] == "paused: two"


@pytest.mark.row("B42")
def test_commands_about_branches_may_be_repeated(tmp_path: Path) -> None:
    flow = two_sides()
    answers = {
        "start": [PauseBranch("left", "x"), PauseBranch("left", "x"), PauseBranch("left", "y")],
        "NodeCompleted right": [ResumeBranch("left"), ResumeBranch("left")],
        "NodeCompleted right_2": [CancelBranch("left_2"), CancelBranch("left_2")],
    }
    report = flow.run(hooks=[Script(answers)], max_workers=1, **kept("file", tmp_path))
    assert report.hook_errors == ()
    assert states(report)["left"] == "completed"
    assert states(report)["left_2"] == "cancelled"


@pytest.mark.parametrize("command", [PauseBranch("nobody"), CancelBranch("nobody")])
def test_a_branch_that_is_not_there_is_refused(command: Command) -> None:
    flow = two_sides()
    report = flow.run(hooks=[Script({"start": command})])
    assert report.success
    (refused,) = report.hook_errors
    assert isinstance(refused, NodeNotFound)
    assert "nobody" in str(refused)


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_a_running_node_of_a_held_branch_ends_and_its_dependents_wait(runner: str) -> None:
    flow = Steered()
    held = threading.Event()
    flow.add("long", lambda: held.wait(10)).note("after", after=["long"])
    flow.add("short", lambda: None)

    def hold(_ctx: Any, _event: Any) -> Command:
        held.set()
        return PauseBranch("long", "enough")

    report = flow.run(runner, max_workers=2, hooks=[Script({"NodeCompleted short": hold})])
    assert states(report) == {"long": "completed", "after": "pending", "short": "completed"}


def test_a_released_node_that_no_worker_has_taken_is_held() -> None:
    """With one worker three nodes are released at once; the event of the first holds the last."""
    flow = Steered().note("a").note("b").note("c")
    hook = Script({"NodeStarted b": PauseBranch("c", "not yet")})
    report = flow.run(hooks=[hook])
    assert flow.calls == ["a", "b"]
    assert states(report) == {"a": "completed", "b": "completed", "c": "pending"}


def test_a_node_that_waits_for_its_next_attempt_is_held() -> None:
    flow = Steered()
    flow.note("flaky", Answers([OSError("once"), 1]), try_count=2)
    flow.note("other")
    clocked = Clocked(flow, hooks=[Script({"NodeRetrying flaky": PauseBranch("flaky", "later")})])
    report = clocked.run()
    assert sum(clocked.waits) == pytest.approx(2.0)
    assert flow.calls == ["flaky", "other"]
    assert report.status == "paused"
    assert states(report) == {"flaky": "pending", "other": "completed"}


@every_runner
def test_a_held_node_of_a_run_that_stops_is_cancelled(runner: str) -> None:
    flow = Steered().note("a").add("bad", boom, after=["a"]).note("held", after=["a"])
    report = flow.run(runner, hooks=[Script({"start": PauseBranch("held")})])
    assert states(report) == {"a": "completed", "bad": "failed", "held": "cancelled"}
    assert report.status == "failed"


@every_runner
def test_a_held_node_whose_source_fails_is_skipped(runner: str) -> None:
    flow = Steered().add("bad", boom, on_failure="continue").note("held", after=["bad"])
    report = flow.run(runner, hooks=[Script({"start": PauseBranch("held")})])
    assert states(report) == {"bad": "failed", "held": "skipped"}
    assert report.status == "failed"
    assert report.node_reports["held"].reason == "upstream_failed: 'bad' failed"


@pytest.mark.row("B27", "E12")
@everywhere
def test_a_review_is_asked_for_by_an_output(runner: str, place: str, tmp_path: Path) -> None:
    flow = Steered().note("draft", {"text": "...", "needs_review": True})
    flow.note("publish", after=["draft"]).note("other")
    report = flow.run(runner, hooks=[ReviewHook()], **kept(place, tmp_path))
    assert report.status == "paused"
    assert report.reason == "Human review required"
    assert reasons(report) == {"publish": "paused: Human review required"}
    if place == "file":
        send(url_of(tmp_path), "r", [ResumeBranch("draft")])
        again = flow.resume("r", url_of(tmp_path), hooks=[ReviewHook()])
        assert again.success, "what was reviewed is not held again"
        assert sorted(flow.calls) == ["draft", "other", "publish"]


def test_a_dag_raises_that_it_is_paused() -> None:
    def draft() -> dict[str, bool]:
        return {"needs_review": True}

    def publish() -> int:
        return 1

    with DAG("reviewed") as dag:
        dag.add(draft) >> dag.add(publish)
    with pytest.raises(RunPaused, match="Human review required"):
        dag.run(hooks=[ReviewHook()])
    assert dag.report is not None
    assert dag.report.status == "paused"


# --- cancelling ----------------------------------------------------------------------------------


@pytest.mark.row("B29")
@everywhere
def test_a_cancelled_branch_ends_and_the_rest_completes(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered().note("top").note("left", after=["top"]).note("right", after=["top"])
    flow.note("left_2", after=["left"]).note("right_2", after=["right"])
    hook = Script({"NodeCompleted top": CancelBranch("left", "not needed")})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.success
    assert flow.calls == ["top", "right", "right_2"]
    assert states(report)["left"] == states(report)["left_2"] == "cancelled"
    assert reasons(report) == dict.fromkeys(["left", "left_2"], "not needed")
    told = [each for each in hook.told if each.startswith("NodeCancelled")]
    assert told == ["NodeCancelled left", "NodeCancelled left_2"]
    if place == "file":
        again = flow.resume("r", url_of(tmp_path))
        assert states(again) == states(report), "a completed run stays as it is"


@pytest.mark.row("B29")
@every_runner
def test_a_cancelled_label_ends_all_its_nodes(runner: str) -> None:
    flow = Steered().note("top").note("a", after=["top"], branch="slow")
    flow.note("b", after=["top"], branch="slow").note("c", after=["top"])
    flow.note("d", after=["a", "b"]).note("e", after=["b", "c"])
    report = flow.run(runner, hooks=[Script({"start": CancelBranch("slow")})])
    assert report.success
    assert states(report) == {
        "top": "completed",
        "a": "cancelled",
        "b": "cancelled",
        "c": "completed",
        "d": "cancelled",
        "e": "skipped",
    }
    assert reasons(report)["a"] == "branch 'slow' was cancelled"


@pytest.mark.row("B29")
@everywhere
def test_for_joins_a_cancelled_branch_counts_as_skipped(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered().note("top").note("left", after=["top"]).note("right", after=["top"])
    for trigger in ("success", "any", "none_failed", "failed", "done"):
        flow.note(trigger, after=["left", "right"], trigger=trigger)
    flow.note("only", after=["left"], trigger="done")
    hook = Script({"NodeCompleted top": CancelBranch("left")})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.success
    assert states(report) == {
        "top": "completed",
        "left": "cancelled",
        "right": "completed",
        "success": "skipped",
        "any": "completed",
        "none_failed": "completed",
        "failed": "skipped",
        "done": "completed",
        "only": "cancelled",
    }


@pytest.mark.row("B29")
def test_a_held_branch_that_is_cancelled_is_not_held_any_more() -> None:
    flow = two_sides()
    answers = {
        "start": PauseBranch("left", "held"),
        "NodeCompleted right_2": CancelBranch("left", "not needed"),
    }
    report = flow.run(hooks=[Script(answers)])
    assert report.success
    assert states(report)["left"] == "cancelled"
    assert states(report)["bottom"] == "skipped"


@pytest.mark.row("B29")
@every_runner
def test_a_running_async_node_of_a_cancelled_branch_is_cancelled(runner: str) -> None:
    if runner == "sequential":
        pytest.skip("nothing else runs that could cancel it")
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(20)
        finally:
            ended.append("cleaned up")

    flow = Steered().add("long", long).note("after", after=["long"])
    flow.add("short", lambda: time.sleep(0.05)).note("last", after=["short"])
    began = time.monotonic()
    hook = Script({"NodeCompleted short": CancelBranch("long", "too slow")})
    report = flow.run(runner, max_workers=2, hooks=[hook])
    assert time.monotonic() - began < 5
    assert ended == ["cleaned up"]
    assert report.success
    assert states(report) == {
        "long": "cancelled",
        "after": "cancelled",
        "short": "completed",
        "last": "completed",
    }
    assert report.node_reports["long"].reason == "too slow"


@pytest.mark.row("B29")
@pytest.mark.parametrize("on_failure", ["stop", "continue", "pause"])
def test_what_a_cancelled_call_raises_is_no_failure(on_failure: str) -> None:
    """A thread cannot be stopped; what its call comes to does nothing to the run."""
    flow = Steered()
    cancelled = threading.Event()

    def long() -> None:
        cancelled.wait(10)
        raise OSError("cut off")

    flow.add("long", long, try_count=3, retry=IMMEDIATE, on_failure=on_failure)
    flow.note("after", after=["long"]).note("joined", after=["long", "last"], trigger="none_failed")
    flow.note("short").note("last", after=["short"])

    def cancel(_ctx: Any, _event: Any) -> Command:
        threading.Timer(0.05, cancelled.set).start()
        return CancelBranch("long", "too slow")

    report = flow.run("threads", max_workers=2, hooks=[Script({"NodeCompleted short": cancel})])
    assert report.success
    assert states(report) == {
        "long": "cancelled",
        "after": "cancelled",
        "joined": "completed",
        "short": "completed",
        "last": "completed",
    }
    assert report.node_reports["long"].reason == "too slow"


@pytest.mark.row("B29")
def test_a_node_that_waits_for_its_next_attempt_can_be_cancelled() -> None:
    flow = Steered().add("flaky", boom, try_count=5).note("after", after=["flaky"]).note("other")
    clocked = Clocked(flow, hooks=[Script({"NodeRetrying flaky": CancelBranch("flaky")})])
    report = clocked.run()
    assert report.success
    assert states(report) == {"flaky": "cancelled", "after": "cancelled", "other": "completed"}


@pytest.mark.row("B29")
def test_what_a_node_of_a_cancelled_branch_answers_is_dropped() -> None:
    """A thread goes on to its end; whether it came in time is no matter of luck."""
    flow = Steered()
    cancelled = threading.Event()
    flow.add("long", lambda: cancelled.wait(10)).note("after", after=["long"]).note("short")

    def cancel(_ctx: Any, _event: Any) -> Command:
        threading.Timer(0.05, cancelled.set).start()
        return CancelBranch("long")

    report = flow.run("threads", max_workers=2, hooks=[Script({"NodeCompleted short": cancel})])
    assert report.success
    assert states(report) == {"long": "cancelled", "after": "cancelled", "short": "completed"}


@pytest.mark.row("B29")
def test_a_call_of_a_cancelled_branch_that_does_not_end_is_left_behind() -> None:
    flow = Steered()
    over = threading.Event()
    flow.add("long", lambda: over.wait(10)).note("short").note("last", after=["short"])
    hook = Script({"NodeCompleted short": CancelBranch("long", "too slow")})
    report = flow.run("threads", max_workers=2, hooks=[hook], config={"shutdown_grace": 0.05})
    over.set()
    assert report.success
    assert states(report) == {"long": "cancelled", "short": "completed", "last": "completed"}
    assert report.abandoned == ("long",)
    assert report.node_reports["long"].reason == "too slow"


@pytest.mark.row("B29", "G7")
def test_what_was_added_behind_a_cancelled_branch_comes_back_as_it_was(tmp_path: Path) -> None:
    """A resume does commands again in their order: what came later was not cancelled by them."""
    flow = Steered().note("top").note("left", after=["top"])
    answers = Answers([OSError("no"), 5])

    def fragile() -> Any:
        flow.calls.append("cleanup")
        found = answers.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    flow.act("clean", fragile)
    hook = Script(
        {
            "NodeCompleted top": CancelBranch("left", "not needed"),
            "NodeCancelled left": AddNode(
                NodeSpec("clean", id="cleanup", deps=["left"], trigger="done")
            ),
        }
    )
    first = flow.run(hooks=[hook], **kept("file", tmp_path))
    assert states(first) == {"top": "completed", "left": "cancelled", "cleanup": "failed"}
    again = flow.resume("r", url_of(tmp_path))
    assert states(again) == {"top": "completed", "left": "cancelled", "cleanup": "completed"}


@pytest.mark.row("B29")
@every_runner
def test_a_cancelled_branch_stays_cancelled_over_a_resume(runner: str, tmp_path: Path) -> None:
    flow = Steered().note("top").note("left", after=["top"])
    flow.note("bad", Answers([OSError("no"), 1]), after=["top"])
    flow.note("both", after=["left", "bad"], trigger="none_failed")
    hook = Script({"NodeCompleted top": CancelBranch("left", "not needed")})
    flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.success
    assert flow.calls == ["top", "bad", "bad", "both"]
    assert states(again)["left"] == "cancelled"
    assert reasons(again)["left"] == "not needed"


# --- enabling ------------------------------------------------------------------------------------


@pytest.mark.row("E20")
@everywhere
def test_a_disabled_node_is_skipped_and_a_join_behind_it_runs(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered().note("top").note("left", after=["top"]).note("right", after=["top"])
    flow.note("after", after=["left"])
    flow.note("join", after=["left", "right"], trigger="none_failed")
    hook = Script({"NodeCompleted top": SetNodesEnabled(["left"], False)})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.success
    assert states(report) == {
        "top": "completed",
        "left": "skipped",
        "right": "completed",
        "after": "skipped",
        "join": "completed",
    }
    assert reasons(report)["left"] == "disabled"
    assert not report.graph.nodes["left"].enabled


@pytest.mark.row("E20")
@everywhere
def test_a_disabled_node_can_be_enabled_before_its_turn(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered().note("top").note("left", after=["top"], enabled=False)
    flow.note("bad", Answers([OSError("no"), 1]), after=["left"])
    hook = Script({"NodeCompleted top": SetNodesEnabled(["left"])})
    flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert flow.calls == ["top", "left", "bad"]
    if place == "file":
        again = flow.resume("r", url_of(tmp_path))
        assert again.success
        assert again.graph.nodes["left"].enabled


def test_a_started_node_is_neither_enabled_nor_disabled() -> None:
    flow = Steered().note("top").note("off", enabled=False).note("last", after=["top"])
    commands = [
        SetNodesEnabled(["last", "top"], False),
        SetNodesEnabled(["off"]),
        SetNodesEnabled(["nobody"], False),
    ]
    report = flow.run(hooks=[Script({"NodeCompleted top": commands})])
    assert states(report)["last"] == "completed", "one of two was refused, so neither applied"
    kinds = [type(each) for each in report.hook_errors]
    assert kinds == [InvalidState, InvalidState, NodeNotFound]


# --- the whole run -------------------------------------------------------------------------------


@pytest.mark.row("E19")
@everywhere
def test_a_paused_run_starts_nothing_more_and_goes_on_later(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = Steered().note("a").note("b", after=["a"])
    hook = Script({"NodeCompleted a": PauseRun("lunch")})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert (report.status, report.reason) == ("paused", "lunch")
    assert states(report) == {"a": "completed", "b": "pending"}
    if place == "file":
        again = flow.resume("r", url_of(tmp_path), runner=runner)
        assert again.success
        assert flow.calls == ["a", "b"]


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_a_pause_can_be_taken_back_while_something_runs(runner: str) -> None:
    flow = Steered()
    paused = threading.Event()
    flow.add("long", lambda: paused.wait(10)).note("after", after=["long"])
    flow.add("short", lambda: None).note("next", after=["short"])

    def pause(_ctx: Any, _event: Any) -> Command:
        paused.set()
        return PauseRun("a moment")

    hook = Script({"NodeCompleted short": pause, "NodeCompleted long": ResumeRun()})
    report = flow.run(runner, max_workers=2, hooks=[hook])
    assert report.success
    assert report.reason == ""
    assert hook.told.index("NodeCompleted long") < hook.told.index("NodeStarted next")


@every_runner
def test_a_hook_may_cancel_the_run(runner: str, tmp_path: Path) -> None:
    flow = Steered().note("a").note("b", after=["a"])
    hook = Script({"NodeCompleted a": CancelRun("that will do")})
    report = flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    assert (report.status, report.reason) == ("cancelled", "that will do")
    assert states(report) == {"a": "completed", "b": "cancelled"}
    assert hook.told[-1] == "end False"
    assert flow.resume("r", url_of(tmp_path)).success


@pytest.mark.row("D20")
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@every_runner
def test_a_run_paused_by_a_failure_retries_the_failed_node_only(
    runner: str, durability: str, tmp_path: Path
) -> None:
    flow = Steered().note("a").note("bad", Answers([OSError("no"), 5]), after=["a"])
    flow.nodes[-1] = flow.nodes[-1].replace(on_failure="pause")
    flow.note("below", after=["bad"]).note("join", after=["a", "bad"], trigger="none_failed")
    url = url_of(tmp_path)
    report = flow.run(runner, durability=durability, **kept("file", tmp_path))
    assert report.status == "paused"
    assert report.reason == "node 'bad' failed"
    assert states(report) == {
        "a": "completed",
        "bad": "failed",
        "below": "pending",
        "join": "pending",
    }
    with Store(url) as store:
        assert store.load_run("r").status == "paused"
    again = flow.resume("r", url, runner=runner)
    assert again.success
    assert sorted(flow.calls) == ["a", "bad", "bad", "below", "join"]
    assert again.node_reports["bad"].attempts == 2


@pytest.mark.row("D20")
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_what_runs_when_a_failure_pauses_comes_to_its_end(runner: str) -> None:
    flow = Steered()
    failed = threading.Event()
    flow.add("long", lambda: failed.wait(10)).note("after", after=["long"])
    flow.add("bad", boom, on_failure="pause")

    def seen(_ctx: Any, _event: Any) -> None:
        failed.set()

    report = flow.run(runner, max_workers=2, hooks=[Script({"NodeFailed bad": seen})])
    assert report.status == "paused"
    assert states(report) == {"long": "completed", "after": "pending", "bad": "failed"}


@every_runner
def test_commands_of_another_process_reach_a_running_run(runner: str, tmp_path: Path) -> None:
    """Within a second, and each of them once; so the run waits for them that long."""
    flow = Steered()
    url = url_of(tmp_path)
    gate = threading.Event()
    flow.add("top", lambda: gate.wait(10) and None).note("left", after=["top"])
    flow.note("right", after=["top"])
    seen: list[str] = []

    def ask() -> None:
        eventually(lambda: Path(url.removeprefix("sqlite:")).exists(), "the database is there")
        send(url, "r", [PauseBranch("left", "from afar")])
        time.sleep(1.0)
        gate.set()

    def tell(_ctx: Any, event: Any) -> None:
        seen.append(event.node.node_id)

    asker = threading.Thread(target=ask)

    def begin(_ctx: Any, _event: Any) -> None:
        asker.start()

    hook = Script({"start": begin, "NodeCompleted right": tell})
    options = {**kept("file", tmp_path), "max_workers": 2}
    report = flow.run(runner, hooks=[hook], **options)
    asker.join()
    assert seen == ["right"]
    assert report.status == "paused"
    assert reasons(report) == {"left": "paused: from afar"}


def test_branches_of_a_condition_know_what_was_held() -> None:
    """A held side that was not taken is skipped, and holds nobody up."""
    flow = Steered().note("check", Branch("yes", 1)).note("yes").note("no").note("end")
    flow.nodes[-1] = flow.nodes[-1].replace(dependencies=["yes", "no"], trigger="none_failed")
    flow.when("check", "yes", "yes").when("check", "no", "no")
    report = flow.run(hooks=[Script({"start": PauseBranch("no", "held")})])
    assert flow.calls[:2] == ["check", "yes"]
    assert states(report)["no"] == "skipped"
    assert states(report)["end"] == "pending", "it belongs to the held branch as well"


@pytest.mark.parametrize("how", ["cancel", "pause", "hold", "drop", "stop"])
@pytest.mark.parametrize("place", ["memory", "file"])
def test_what_starts_at_most_once_does_not_start_after_an_end(
    how: str, place: str, tmp_path: Path
) -> None:
    """It stands in no line behind the run's back while all workers are taken."""
    commands: dict[str, Any] = {
        "cancel": CancelRun(),
        "pause": PauseRun(),
        "hold": PauseBranch("late"),
        "drop": CancelBranch("late"),
    }
    flow = Steered()
    flow.add("first", boom if how == "stop" else lambda: None, effects="at_most_once")
    flow.note("late", effects="at_most_once")
    name = "NodeFailed first" if how == "stop" else "NodeCompleted first"
    hook = Script({name: commands.get(how)}, starts=False)
    report = flow.run("threads", max_workers=1, hooks=[hook], **kept(place, tmp_path))
    assert flow.calls == []
    assert states(report)["late"] == ("pending" if how in ("pause", "hold") else "cancelled")
