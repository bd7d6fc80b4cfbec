"""Attempts, waits and time limits, ruling by ruling, under a clock of ours where time passes."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import tenacity

from dagger_dsl import engine
from dagger_dsl.errors import (
    ConfigurationError,
    ExecutionTimeout,
    InputValidationError,
    NodeTimeout,
    OutputError,
)
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.policies import RetryPolicy, RetryStrategy
from dagger_dsl.registry import define
from dagger_dsl.testing import FakeClock
from tests.engine.helpers import IMMEDIATE, RUNNERS, Answers, Clocked, Workflow, states


class ServiceUnavailable(Exception):
    """A user's own error."""


# --- how many calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_one_attempt_is_the_default(runner: str) -> None:
    flow = Workflow().note("bad", ConnectionError())
    report = flow.run(runner)
    assert flow.calls == ["bad"]
    assert report.node_reports["bad"].attempts == 1


@pytest.mark.row("A7")
@pytest.mark.parametrize("runner", RUNNERS)
def test_try_count_counts_calls(runner: str) -> None:
    flow = Workflow().note("bad", ConnectionError(), try_count=2, retry=IMMEDIATE)
    report = flow.run(runner)
    assert flow.calls == ["bad", "bad"]
    assert report.node_reports["bad"].attempts == 2


@pytest.mark.row("D1")
def test_the_configurations_max_attempts_counts_calls_of_nodes_that_say_nothing() -> None:
    flow = Workflow().note("a", ConnectionError(), on_failure="continue")
    flow.note("b", ConnectionError(), try_count=1, on_failure="continue")
    flow.run(config={"max_attempts": 3, "retry_strategy": IMMEDIATE})
    assert sorted(flow.calls) == ["a", "a", "a", "b"]
    with pytest.raises(ConfigurationError):
        DagConfig(max_attempts=0)


def test_retry_and_max_retries_count_extra_calls() -> None:
    for options in ({"retry": 2}, {"max_retries": 2}, {"attempts": 3}):
        assert define(lambda: None, "n", **options).try_count == 3
    with pytest.raises(ConfigurationError):
        define(lambda: None, "n", attempts=3, retry=2)
    with pytest.raises(ConfigurationError):
        RetryPolicy(max_attempts=3, max_retries=2)


def test_a_nodes_try_count_wins_over_its_policy_and_the_policy_over_the_action() -> None:
    flow = Workflow()
    calls: list[str] = []

    def bad(name: str) -> None:
        calls.append(name)
        raise ConnectionError

    flow.registry.register(bad, "bad", attempts=4, retry=IMMEDIATE)
    from dagger_dsl.model.graph import Input, Node

    for name, fields in {
        "action": {},
        "policy": {"retry": IMMEDIATE.with_attempts(3)},
        "node": {"retry": IMMEDIATE.with_attempts(3), "try_count": 2},
    }.items():
        flow.nodes.append(
            Node(name, "bad", [Input("name", value=name)], on_failure="continue", **fields)  # type: ignore[arg-type]
        )
    flow.run()
    assert [calls.count(name) for name in ("action", "policy", "node")] == [4, 3, 2]


# --- the waits ------------------------------------------------------------------------------------


@pytest.mark.row("D6")
def test_the_default_waits_double_from_two_seconds_up_to_sixty() -> None:
    flow = Workflow().note("bad", ConnectionError(), try_count=8)
    played = Clocked(flow)
    played.run()
    assert played.waits == [2, 4, 8, 16, 32, 60, 60]


def test_the_production_waits_are_the_documented_ones() -> None:
    flow = Workflow().note("bad", ConnectionError(), try_count=9)
    played = Clocked(flow, config=DagConfig.production())
    played.run()
    assert played.waits == [5, 10, 20, 40, 80, 160, 300, 300]


@pytest.mark.row("H9")
def test_immediate_retries_do_not_wait() -> None:
    flow = Workflow().note("bad", ConnectionError(), try_count=3, retry=RetryStrategy.immediate())
    start = time.perf_counter()
    report = flow.run()
    assert time.perf_counter() - start < 1.5  # for busy machines; the first wait alone would be 2 s
    assert report.node_reports["bad"].attempts == 3
    played = Clocked(flow)
    played.run()
    assert played.waits == []


@pytest.mark.row("H9")
def test_each_wait_is_logged_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    flow = Workflow().note("bad", Answers([ConnectionError("refused"), 1]), try_count=3)
    with caplog.at_level(logging.WARNING, "dagger_dsl.engine"):
        Clocked(flow).run()
    (record,) = caplog.records
    text = record.getMessage()
    assert "retrying in 2.0 s (attempt 2/3)" in text
    assert "'bad'" in text
    assert "ConnectionError: refused" in text
    assert record.node_id == "bad"  # type: ignore[attr-defined]
    assert record.run_id == "clocked"  # type: ignore[attr-defined]


def test_a_short_wait_is_logged_in_milliseconds(caplog: pytest.LogCaptureFixture) -> None:
    short = RetryStrategy.fixed(0.02)
    flow = Workflow().note("bad", Answers([ConnectionError(), 1]), try_count=2, retry=short)
    with caplog.at_level(logging.WARNING, "dagger_dsl.engine"):
        Clocked(flow).run()
    assert "retrying in 20 ms (attempt 2/2)" in caplog.text


def test_a_waiting_retry_holds_no_slot() -> None:
    """With one slot the others run in the meantime."""
    flow = Workflow().note("bad", Answers([ConnectionError(), 1]), try_count=2)
    flow.note("b").note("c", after=["b"]).note("d", after=["bad"])
    played = Clocked(flow)
    assert played.run().success
    assert flow.calls == ["bad", "b", "c", "bad", "d"]
    assert played.waits == [2.0]


def test_any_tenacity_objects_decide() -> None:
    flow = Workflow()
    calls: list[float] = []
    clock = FakeClock()

    def bad() -> None:
        calls.append(clock())
        clock.advance(1)
        raise ServiceUnavailable

    flow.registry.register(
        bad,
        retry=tenacity.Retrying(
            stop=tenacity.stop_after_delay(20) | tenacity.stop_after_attempt(10),
            wait=tenacity.wait_chain(tenacity.wait_fixed(3), tenacity.wait_fixed(7)),
            retry=tenacity.retry_if_exception_type(ServiceUnavailable),
        ),
    )
    from dagger_dsl.model.graph import Node

    flow.nodes.append(Node("n", "bad"))
    played = Clocked(flow, clock=clock)
    report = played.run()
    assert [round(at - calls[0]) for at in calls] == [0, 4, 12, 20]
    assert report.node_reports["n"].attempts == 4


def test_a_predicate_that_fails_is_no_reason_to_lose_the_run() -> None:
    def broken(error: BaseException) -> bool:
        raise TypeError("in the predicate")

    flow = Workflow()

    def bad() -> None:
        raise ServiceUnavailable("down")

    flow.registry.register(bad, attempts=3, retry=RetryPolicy(3, retry_on=[broken]))
    from dagger_dsl.model.graph import Node

    flow.nodes.append(Node("n", "bad"))
    report = flow.run()
    error = report.node_reports["n"].exception
    assert isinstance(error, ServiceUnavailable)
    assert "in the predicate" in str(getattr(error, "__notes__", ""))


# --- which errors ---------------------------------------------------------------------------------


@pytest.mark.row("H6")
def test_only_the_users_classes_are_retried() -> None:
    policy = RetryPolicy(3, backoff="immediate", retry_on=[ServiceUnavailable])
    for error, calls in ((ServiceUnavailable(), 3), (KeyError("x"), 1)):
        flow = Workflow()
        seen: list[int] = []

        def bad(error: Exception = error, seen: list[int] = seen) -> None:
            seen.append(1)
            raise error

        flow.registry.register(bad, retry=policy)
        from dagger_dsl.model.graph import Node

        flow.nodes.append(Node("n", "bad"))
        flow.run()
        assert len(seen) == calls


def test_schema_and_output_errors_are_never_retried() -> None:
    flow = Workflow()
    calls: list[str] = []

    def noted(name: str, answer: Any) -> Any:
        calls.append(name)
        return answer

    wide = {"type": "object"}
    flow.registry.register(
        lambda value: noted("input", value),
        "input",
        input_schema={"type": "object", "properties": {"value": {"type": "string"}}},
    )
    flow.registry.register(lambda: noted("output", 5), "output", output_schema=wide)
    flow.registry.register(lambda: noted("parts", {"a": 1}), "parts", outputs=["a", "b"])
    flow.registry.register(lambda: noted("soft", NodeOutput.failure("no")), "soft")
    from dagger_dsl.model.graph import Input, Node

    shared: dict[str, Any] = {"try_count": 5, "retry": IMMEDIATE, "on_failure": "continue"}
    flow.nodes += [
        Node("input", "input", [Input("value", value=1)], **shared),
        Node("output", "output", **shared),
        Node("parts", "parts", **shared),
        Node("soft", "soft", **shared),
    ]
    report = flow.run()
    assert report.failed_nodes == 4
    assert calls == ["output", "parts", "soft"]
    errors = {each: report.node_reports[each].exception for each in states(report)}
    assert isinstance(errors["input"], InputValidationError)
    assert isinstance(errors["output"], OutputError)
    assert isinstance(errors["parts"], OutputError)


def test_the_context_counts_attempts_from_one() -> None:
    seen: list[int] = []

    def bad(ctx: NodeCtx) -> None:
        seen.append(ctx.attempt)
        raise ConnectionError

    flow = Workflow().add("n", bad, try_count=3, retry=IMMEDIATE)
    flow.run()
    assert seen == [1, 2, 3]


# --- limits of a node -----------------------------------------------------------------------------


@pytest.mark.row("A6", "E7")
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_limit_holds_for_each_attempt_and_is_retried_like_any_error(
    runner: str, is_async: bool
) -> None:
    flow = Workflow()
    let_go = threading.Event()
    calls: list[int] = []

    def slow() -> int:
        calls.append(1)
        if len(calls) < 3:
            let_go.wait(20)
        return len(calls)

    async def slow_async() -> int:
        calls.append(1)
        if len(calls) < 3:
            await asyncio.sleep(20)
        return len(calls)

    flow.add("n", slow_async if is_async else slow, timeout=0.1, try_count=3, retry=IMMEDIATE)
    start = time.perf_counter()
    try:
        report = flow.run(runner)
    finally:
        let_go.set()
    assert report.value("n") == 3
    assert 0.2 <= time.perf_counter() - start < 5
    assert report.node_reports["n"].attempts == 3


@pytest.mark.row("A6")
@pytest.mark.parametrize("runner", RUNNERS)
def test_the_last_overrun_fails_the_node_with_its_own_class(runner: str) -> None:
    let_go = threading.Event()
    flow = Workflow().add("n", lambda: let_go.wait(20), timeout=timedelta(milliseconds=200))
    start = time.perf_counter()
    try:
        report = flow.run(runner)
    finally:
        let_go.set()
    assert time.perf_counter() - start < 5
    error = report.node_reports["n"].exception
    assert isinstance(error, NodeTimeout)
    assert isinstance(error, TimeoutError)
    assert (error.node_id, error.seconds) == ("n", 0.2)
    with pytest.raises(Exception, match=r"0\.2 s") as caught:
        report.raise_for_failure()
    assert caught.value.__cause__ is error


def test_a_limit_can_be_left_to_the_action_and_the_node_wins() -> None:
    from dagger_dsl.engine.plan import compile_plan
    from dagger_dsl.model.graph import Node

    flow = Workflow()
    flow.registry.register(lambda: None, "n", timeout=5)
    flow.nodes += [Node("a", "n"), Node("b", "n", timeout=3)]
    assert compile_plan(flow.graph(), flow.registry.get).limits == {0: 5.0, 1: 3.0}


# --- the limit of a run ---------------------------------------------------------------------------


@pytest.mark.row("D3", "E8")
def test_a_run_has_no_limit_unless_it_is_given_one() -> None:
    assert DagConfig().timeout_seconds is None
    clock = FakeClock()
    flow = Workflow().add("n", lambda: clock.advance(1e9))
    assert Clocked(flow, clock=clock).run().success


@pytest.mark.row("D3", "E8")
def test_past_its_limit_a_run_is_timed_out_and_starts_nothing() -> None:
    clock = FakeClock()
    flow = Workflow()
    flow.add("a", lambda: clock.advance(4)).add("b", lambda: clock.advance(4), after=["a"])
    flow.note("c", after=["b"])
    report = Clocked(flow, clock=clock, config=DagConfig(timeout_seconds=7)).run()
    assert report.status == "timed_out"
    assert states(report) == {"a": "completed", "b": "completed", "c": "cancelled"}
    assert report.node_reports["c"].reason == "the run passed its time limit"
    with pytest.raises(ExecutionTimeout) as caught:
        report.raise_for_failure()
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.seconds == 7


@pytest.mark.row("D3", "E8")
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_nodes_limit_is_cut_to_what_is_left_of_the_runs(runner: str, is_async: bool) -> None:
    let_go = threading.Event()

    def slow() -> None:
        let_go.wait(20)

    async def slow_async() -> None:
        await asyncio.sleep(20)

    flow = Workflow().note("a").add("b", slow_async if is_async else slow, timeout=15, after=["a"])
    start = time.perf_counter()
    try:
        report = flow.run(runner, timeout=0.2)
    finally:
        let_go.set()
    assert 0.2 <= time.perf_counter() - start < 5
    assert report.status == "timed_out"
    assert states(report) == {"a": "completed", "b": "cancelled"}


def test_a_retry_that_would_come_after_the_limit_is_not_made() -> None:
    flow = Workflow().note("bad", ConnectionError(), try_count=9)
    report = Clocked(flow, config=DagConfig(timeout_seconds=5)).run()
    assert report.status == "timed_out"
    assert flow.calls == ["bad", "bad"]  # at 0 and 2 s; the third would be due at 6 s
    assert states(report) == {"bad": "cancelled"}
    assert report.node_reports["bad"].attempts == 2


@pytest.mark.row("A8")
def test_an_option_beats_the_graph_and_the_graph_the_executor() -> None:
    flow = Workflow().note("a")
    graph = flow.graph(config=DagConfig(timeout_seconds=20))
    base = DagConfig(timeout_seconds=10, max_attempts=5)

    def limit(**options: Any) -> float | None:
        return engine.run(graph, flow.registry, None, RunOptions(**options), base)._limit

    assert limit() == 20
    assert limit(timeout=3) == 3
    assert limit(config=DagConfig(timeout_seconds=4)) == 4


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_thread_that_is_left_behind_is_counted_and_named(
    runner: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = Workflow().add("slow", lambda: time.sleep(0.3), timeout=0.05, on_failure="continue")
    report = flow.run(runner)
    assert report.abandoned == ("slow",)
    assert "node 'slow' overran its limit of 0.05 s" in caplog.text
