"""`RunReport` and `NodeReport`: what is said of a run."""

from __future__ import annotations

import datetime as dt
import traceback
from typing import Any

import pytest

from dagger_dsl.engine.report import ErrorInfo, RunReport
from dagger_dsl.engine.words import lasted
from dagger_dsl.errors import (
    ConfigurationError,
    DaggerError,
    ExecutionError,
    NodeExecutionError,
    NodeNotFound,
    NotExecuted,
)
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.testing import FakeClock
from tests.engine.helpers import (
    IMMEDIATE,
    RUNNERS,
    Answers,
    Clocked,
    Workflow,
    boom,
    returns,
    states,
)


def mixed() -> Workflow:
    """A workflow that ends in every way but cancellation."""
    flow = Workflow().note("good", 1).note("flaky", Answers([OSError("first"), 2]))
    flow.nodes[-1] = flow.nodes[-1].replace(try_count=2, retry=IMMEDIATE)
    flow.note("bad", ValueError("x"), on_failure="continue").note("below", after=["bad"])
    flow.handler("handler", lambda error: "saved")
    flow.add("saved", boom, failure="handler").note("off", enabled=False)
    return flow


@pytest.mark.row("A50")
@pytest.mark.parametrize("runner", RUNNERS)
def test_counts_add_up_to_the_number_of_nodes(runner: str) -> None:
    flow = mixed()
    report = flow.run(runner)
    assert isinstance(report, RunReport)
    assert report.status is RunStatus.FAILED
    assert not report.success
    assert (
        report.completed_nodes,
        report.failed_nodes,
        report.skipped_nodes,
        report.cancelled_nodes,
        report.pending_nodes,
    ) == (3, 1, 2, 0, 0)
    assert report.nodes_in("skipped") == ["below", "off"]
    assert report.nodes_in(NodeState.FAILED) == ["bad"]
    assert list(report.states()) == [node.id for node in flow.nodes]


@pytest.mark.row("A50")
def test_counts_add_up_when_a_run_stops_or_pauses() -> None:
    for policy in ("stop", "pause"):
        flow = Workflow().note("bad", ValueError("x"), on_failure=policy).note("a").note("b")
        report = flow.note("c", after=["bad"]).run()
        counts = (
            report.completed_nodes
            + report.failed_nodes
            + report.skipped_nodes
            + report.cancelled_nodes
            + report.pending_nodes
        )
        assert counts == 4


@pytest.mark.row("A50")
def test_every_node_has_a_report_with_attempts_times_error_and_reason() -> None:
    before = dt.datetime.now(dt.UTC)
    report = mixed().run()
    nodes = report.node_reports
    assert {name: nodes[name].attempts for name in nodes} == {
        "good": 1,
        "flaky": 2,
        "bad": 1,
        "below": 0,
        "saved": 1,
        "off": 0,
    }
    good = nodes["good"]
    assert good.started_at is not None
    assert good.finished_at is not None
    assert before - dt.timedelta(seconds=1) <= good.started_at <= good.finished_at
    assert good.duration is not None
    assert 0 <= good.duration < 5
    assert good.error is None
    assert nodes["flaky"].error is None
    bad = nodes["bad"]
    assert bad.error is not None
    assert (bad.error.type, bad.error.message, str(bad.error)) == (
        "ValueError",
        "x",
        "ValueError: x",
    )
    assert isinstance(bad.exception, ValueError)
    below = nodes["below"]
    assert (below.started_at, below.finished_at, below.duration) == (None, None, None)
    assert below.reason == "upstream_failed: 'bad' failed"
    assert nodes["off"].reason == "disabled"
    assert nodes["saved"].recovered
    assert nodes["saved"].error is not None
    assert set(report.node_times) == {"good", "flaky", "bad", "saved"}
    with pytest.raises(NodeNotFound, match="'nope'"):
        nodes["nope"]


def test_durations_come_from_the_runs_clock() -> None:
    clock = FakeClock()
    flow = Workflow().add("a", lambda: clock.advance(2.5))
    flow.add("b", lambda: clock.advance(4), after=["a"])
    report = Clocked(flow, clock=clock).run()
    assert report.node_times == {"a": 2.5, "b": 4.0}
    assert report.duration == 6.5
    assert report.started_at is not None
    assert report.finished_at is not None
    assert report.finished_at - report.started_at == dt.timedelta(seconds=6.5)


def test_values_outputs_and_what_has_none() -> None:
    report = mixed().run()
    assert dict(report.values) == {"good": 1, "flaky": 2, "saved": "saved"}
    assert report.outputs == {"good": 1, "flaky": 2, "saved": "saved"}  # the sinks that completed
    assert report.value("good") == 1
    assert report.value("bad", "none") == "none"
    assert report.values.get("bad", "none") == "none"
    with pytest.raises(NotExecuted, match=r"'bad' has no result: it is failed"):
        report.value("bad")
    with pytest.raises(NodeNotFound):
        report.value("nope")


def test_outputs_are_those_of_the_sinks_in_declaration_order() -> None:
    flow = Workflow().note("z", 1).note("a", 2, after=["m"]).note("m", 3)
    assert list(flow.run().outputs.items()) == [("z", 1), ("a", 2)]


@pytest.mark.row("H3", "H5")
@pytest.mark.parametrize("runner", RUNNERS)
def test_the_first_unhandled_failure_is_raised_with_the_users_error_as_its_cause(
    runner: str,
) -> None:
    original = KeyError("customer")

    def load() -> None:
        raise original  # the user's own line

    flow = Workflow().add("load", load, try_count=2, retry=IMMEDIATE)
    report = flow.run(runner)
    with pytest.raises(NodeExecutionError) as caught:
        report.raise_for_failure()
    error = caught.value
    assert error.__cause__ is original
    assert (error.node_id, error.attempts) == ("load", 2)
    assert isinstance(error, ExecutionError)
    assert "the user's own line" in "".join(traceback.format_exception(error))
    assert report.error is not None
    assert "the user's own line" in report.error.traceback
    assert "dagger_dsl/engine" not in report.error.traceback
    assert "dagger_dsl/runners" not in report.error.traceback
    assert report.exception is error


def test_the_first_failure_is_the_first_in_time_not_in_the_file() -> None:
    flow = Workflow().note("late", ValueError("late"), after=["early"], on_failure="continue")
    flow.note("early", ValueError("early"), on_failure="continue")
    flow.nodes[0] = flow.nodes[0].replace(trigger="failed")
    report = flow.run()
    assert report.failed_nodes == 2
    assert report.error == report.node_reports["early"].error
    with pytest.raises(NodeExecutionError, match="'early'"):
        report.raise_for_failure()


@pytest.mark.row("H4")
def test_what_a_report_raises_is_a_dagger_error() -> None:
    with pytest.raises(DaggerError):
        Workflow().add("bad", boom).run().raise_for_failure()


def test_a_users_error_that_cannot_be_shown_does_not_hide_the_failure() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    report = Workflow().note("bad", Unspeakable()).run()
    assert report.error is not None
    assert "cannot be made" in report.error.message
    assert report.status == "failed"


def test_a_report_is_not_changed_by_whoever_reads_it() -> None:
    report = mixed().run()
    with pytest.raises(AttributeError):
        report.status = RunStatus.COMPLETED  # type: ignore[misc]
    assert str(report.status) == "failed"
    with pytest.raises(TypeError):
        report.node_reports["good"] = 1  # type: ignore[index]


def test_error_info_reads_well() -> None:
    assert str(ErrorInfo("ValueError", "")) == "ValueError"
    assert str(ErrorInfo("my.Error", "text")) == "my.Error: text"


def test_a_report_shows_how_a_run_stands_while_it_goes_on() -> None:
    """Hooks and bodies see it through the run; states are those of the moment."""
    seen: list[dict[str, str]] = []
    flow = Workflow()
    runs: list[Any] = []

    def hook(_ctx: Any, event: Any) -> None:
        if type(event).__name__.endswith("Started"):
            runs.append(event._of[0])

    flow.add("a", lambda: seen.append(states(runs[0].report())))
    flow.add("b", returns(1), after=["a"])
    Clocked(flow, hooks=[hook]).run()
    assert seen == [{"a": "running", "b": "pending"}]


def test_a_table_and_a_picture_can_be_made_of_it() -> None:
    report = mixed().run()
    assert report.to_table().row_count == 6
    assert report.to_dot().startswith("digraph")


def test_in_a_shell_reports_say_what_failed_and_are_short() -> None:
    flow = Workflow().note("good", 1).note("after", after=["bad"])
    flow.note("bad", ValueError("no\nway \x1b[31m"), try_count=2, retry=IMMEDIATE)
    report = flow.run()
    assert repr(report) == f"<RunReport {report.run_id} of '{report.dag_name}': failed>"
    head, counts, *lines = str(report).splitlines()
    assert head.startswith(f"{report.dag_name}: run {report.run_id} failed in ")
    assert counts == "3 nodes, 1 completed, 1 skipped, 1 failed"
    assert "  bad failed: ValueError: no" in lines
    assert any(line.startswith("  after skipped: ") for line in lines)
    told = [repr(each) for each in report.attempts("bad")] + [repr(report.node_reports["bad"])]
    assert told[0].startswith("<AttemptReport 1 of 'bad': failed in ")
    assert told[1].startswith("<AttemptReport 2 of 'bad': failed in ")
    assert told[2].startswith("<NodeReport 'bad': failed after 2 attempts in ")
    assert all(each.endswith(": ValueError: no>") for each in told)
    assert "\x1b" not in str(report.failure())
    assert str(report.failure()).startswith("node 'bad' failed: ValueError: no\nway ")


def test_a_report_without_trouble_is_two_lines_and_a_long_list_is_cut() -> None:
    assert str(Workflow().note("only", 1).run()).splitlines()[1:] == ["1 node, all completed"]
    flow = Workflow().note("bad", ValueError())
    for number in range(30):
        flow.note(f"n{number}", after=["bad"])
    assert str(flow.run()).splitlines()[-1] == "  and 21 more"


def test_a_run_that_goes_on_has_run_for_a_while_and_one_past_its_time_has_timed_out() -> None:
    assert lasted("running", 0.000405) == "running for 405 \N{MICRO SIGN}s"
    assert lasted("timed_out", 1.01) == "timed out after 1.01 s"
    assert lasted("completed", 61.0) == "completed in 61.00 s"


@pytest.mark.parametrize("wrong", [[], 5, "zz", None])
def test_a_node_that_is_not_there_is_told_whatever_was_given(wrong: Any) -> None:
    report = mixed().run()
    for ask in (
        report.explain,
        report.value,
        report.invocations,
        report.explain_cache,
        report.node_reports.__getitem__,
        report.values.__getitem__,
    ):
        with pytest.raises(NodeNotFound, match=r"^node not found: "):
            ask(wrong)


@pytest.mark.parametrize("wrong", ["done", "", 5, []])
def test_a_state_that_no_node_can_have_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="a node's state must be one of 'pending', "):
        mixed().run().nodes_in(wrong)


@pytest.mark.parametrize("limit", ["x", -1, 1.5, True])
def test_a_table_of_no_number_of_rows_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="how many rows a table has at most, 0 or more"):
        mixed().run().to_table(limit)
