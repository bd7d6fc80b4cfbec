"""Nested runs: values, failures, limits, stopping, hooks and resuming, under every runner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, AddNode, CancelToken, NodeCtx, NodeSpec, action, engine
from dagger_dsl.cli import main
from dagger_dsl.engine.report import RunReport
from dagger_dsl.errors import (
    ConfigurationError,
    ExecutionTimeout,
    MaxCyclesExceeded,
    NodeExecutionError,
    NodeNotFound,
    NodeTimeout,
    RunCancelled,
    RunExists,
    RunPaused,
    StoreFull,
    TokenBudgetExceeded,
    ValidationError,
)
from dagger_dsl.executor import DagExecutor
from dagger_dsl.fsm import FSM, FSMReturn, Next
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from dagger_dsl.testing import FakeClock, play
from dagger_dsl.views.plain import rows_of
from dagger_dsl.views.stored import stored_report
from tests.engine.helpers import IMMEDIATE
from tests.runners.helpers import RUNNERS, eventually, our_threads

Calls = list[str]


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def calls() -> Calls:
    return []


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'runs.db'}"


def noting(calls: Calls, name: str, answer: Any = None) -> Any:
    """Return an action that notes its call; *answer* makes its value of its input, or raises."""

    def body(x: int = 0) -> int:
        calls.append(name)
        return answer(x) if callable(answer) else x + 1

    return action(body, name=name)


def boom(_x: int) -> int:
    raise ZeroDivisionError("on purpose")


def chain(name: str, *parts: Any, **options: Any) -> DAG:
    """Return a workflow in which each part takes what the one before it gave as `x`."""
    with DAG(name, **options) as dag:
        value: Any = dag.input("x", int, default=0)
        for part in parts:
            value = dag.add(part, x=value)
    return dag


def everywhere(dag: DAG, **options: Any) -> Iterator[Callable[[], Any]]:
    """Yield every way to run a workflow: each runner, also where a loop is running."""
    for runner in RUNNERS:

        def here(runner: str = runner) -> Any:
            return dag.run(runner=runner, **options)

        async def inside(runner: str = runner) -> Any:
            return dag.run(runner=runner, **options)

        async def awaited(runner: str = runner) -> Any:
            return await dag.run_async(runner=runner, **options)

        yield here
        yield lambda way=inside: asyncio.run(way())  # type: ignore[misc]
        yield lambda way=awaited: asyncio.run(way())  # type: ignore[misc]


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["plain", "async", "mixed"])
def test_three_levels_give_the_same_value_however_they_run(style: str) -> None:
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    def now(x: int) -> int:
        return x + 1

    plain, awaited = action(now), action(later)
    first = plain if style != "async" else awaited
    second = plain if style == "plain" else awaited
    leaf = chain("leaf", first.with_options(id="a"), second.with_options(id="b"))
    middle = chain("middle", leaf, first.with_options(id="c"), leaf.with_options(id="again"))
    outer = chain("outer", middle, second.with_options(id="d"), middle.with_options(id="last"))
    for run in everywhere(outer, inputs={"x": 0}):
        assert run() == 5 + 1 + 5
    assert outer.report.nested["middle"].nested["leaf"].value("a") == 1


def test_one_slot_is_enough(calls: Calls) -> None:
    leaf = chain("leaf", noting(calls, "a"))
    outer = chain("outer", chain("middle", leaf))
    assert outer.run({"x": 1}, runner="threads", max_workers=1) == 2
    assert outer.run({"x": 1}, runner="asyncio", max_workers=1) == 2


def test_a_nested_run_has_slots_of_its_own() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def meet(x: int) -> int:
        meeting.wait()
        return x

    with DAG("inner") as inner:
        x = inner.input("x", int)
        for name in "ab":
            inner.add(action(meet), id=name, x=x)
    outer = chain("outer", inner)
    assert outer.run({"x": 1}, runner="threads", max_workers=2) == {"a": 1, "b": 1}


def test_branches_inside_leave_only_what_ran() -> None:
    with DAG("inner") as inner:
        check = action(lambda x: x > 0, name="check")(x=inner.input("x", int))
        yes = inner.add(action(lambda: "yes", name="yes"))
        no = inner.add(action(lambda: "no", name="no"))
        inner.nodes["check"].on_true >> yes
        inner.nodes["check"].on_false >> no
        del check
    with DAG("outer") as outer:
        action(lambda found: found, name="show")(found=inner(x=1))
    assert outer.run() == {"yes": "yes"}


def test_items_each_have_a_run_of_their_own(calls: Calls, url: str) -> None:
    inner = chain("inner", noting(calls, "a"), noting(calls, "b", lambda x: 10 * x))
    with DAG("outer") as outer:
        inner.map(outer.input("xs", list[int]))
    for run in everywhere(outer, inputs={"xs": [1, 2, 3]}):
        assert run() == [20, 30, 40]
    report = outer.report
    assert list(report.nested) == ["inner"]
    runs = report.nested["inner"]
    assert {key: each.run_id for key, each in runs.items()} == {
        key: f"{report.run_id}/inner/{key}" for key in ("0", "1", "2")
    }
    assert runs["1"].values["a"] == 3
    with DagExecutor(database_url=url) as executor:
        stored = executor.run(outer, {"xs": [4]}, run_id="r")
        assert stored.outputs == {"inner": [50]}
        assert [each.run_id for each in executor.storage.list_runs(parent="r")] == ["r/inner/0"]


def test_values_that_were_given_are_checked_inside() -> None:
    inner = chain("inner", action(lambda x: x, name="same"))
    with DAG("outer") as outer:
        inner(x=action(lambda: "no number", name="text")())
    with pytest.raises(NodeExecutionError, match=r"node 'inner' failed.*inputs\.x"):
        outer.run()


# --- failures -------------------------------------------------------------------------------------


def test_the_error_names_the_node_inside_and_keeps_its_cause(calls: Calls) -> None:
    leaf = chain("leaf", noting(calls, "a"), noting(calls, "b", boom))
    outer = chain("outer", chain("middle", leaf))
    for run in everywhere(outer):
        with pytest.raises(
            NodeExecutionError, match=r"node 'middle.leaf.b' failed after 1"
        ) as told:
            run()
        assert told.value.node_id == "middle.leaf.b"
        assert isinstance(told.value.__cause__, ZeroDivisionError)
    report = outer.report
    assert report.error is not None
    assert "'leaf.b'" in report.error.message
    assert "on purpose" in report.error.traceback
    cause = report.node_reports["middle"].exception
    assert isinstance(cause, NodeExecutionError)
    assert isinstance(cause.__cause__, ZeroDivisionError)


def test_a_body_that_runs_a_workflow_by_itself_is_another_thing(calls: Calls) -> None:
    failing = chain("failing", noting(calls, "b", boom))
    outer = chain("outer", action(lambda x: failing.run({"x": x}), name="calls_it"))
    with pytest.raises(NodeExecutionError, match="node 'calls_it' failed") as told:
        outer.run()
    assert isinstance(told.value.__cause__, NodeExecutionError)
    assert outer.report.nested == {}


def test_in_memory_another_attempt_begins_anew(calls: Calls) -> None:
    times: Iterator[Callable[[int], int]] = iter([boom, lambda x: x])
    inner = chain("inner", noting(calls, "a"), noting(calls, "b", lambda x: next(times)(x)))
    outer = chain("outer", inner.with_options(retry=IMMEDIATE, attempts=2))
    assert outer.run({"x": 1}) == 2
    assert calls == ["a", "b", "a", "b"]
    assert outer.report.node_reports["inner"].attempts == 2


def test_another_attempt_of_a_recorded_node_goes_on_with_its_run(calls: Calls, url: str) -> None:
    times: Iterator[Callable[[int], int]] = iter([boom, lambda x: x])
    inner = chain("inner", noting(calls, "a"), noting(calls, "b", lambda x: next(times)(x)))
    outer = chain("outer", inner.with_options(retry=IMMEDIATE, attempts=2))
    assert outer.run({"x": 1}, database_url=url) == 2
    assert calls == ["a", "b", "b"]
    inside = outer.report.nested["inner"]
    assert inside.node_reports["a"].restored
    assert inside.node_reports["b"].attempts == 2


def test_handlers_fallbacks_and_triggers_see_a_failed_nested_run(calls: Calls) -> None:
    inner = chain("inner", noting(calls, "b", boom))
    plan_b = action(lambda x=0: -1, name="plan_b")
    outer = chain("outer", inner.with_options(fallback=plan_b))
    assert outer.run() == -1
    told: list[BaseException] = []

    def handle(error: BaseException) -> int:
        told.append(error)
        return -2

    other = chain("other", inner.with_options(failure=action(handle)))
    assert other.run() == -2
    assert isinstance(told[0], NodeExecutionError)
    goes_on = chain("goes_on", inner.with_options(on_failure="continue"))
    with goes_on:
        action(lambda: "cleaned", name="clean").with_options(trigger="done")()
    with pytest.raises(NodeExecutionError):
        goes_on.run()
    assert goes_on.report.value("clean") == "cleaned"


def test_the_configuration_around_counts_where_a_workflow_says_nothing(calls: Calls) -> None:
    inner = chain("inner", noting(calls, "b", boom))
    outer = chain("outer", inner)
    config = {"max_attempts": 3, "retry_strategy": IMMEDIATE, "timeout_seconds": 60}
    with pytest.raises(NodeExecutionError, match=r"'inner.b' failed after 3 attempts"):
        outer.run(config=config)
    assert len(calls) == 9  # the node is tried three times, and its run calls it three times
    own = chain("own", noting(calls, "c", boom), config={"max_attempts": 1})
    calls.clear()
    with pytest.raises(NodeExecutionError, match=r"'own.c' failed after 1 attempt"):
        chain("outer", own, config=config).run()
    assert len(calls) == 3


def test_a_budget_of_tokens_is_shared(calls: Calls) -> None:
    def spend(x: int, ctx: NodeCtx) -> int:
        ctx.add_tokens(6)
        return x

    inner = chain("inner", action(spend))
    outer = chain("outer", inner, inner.with_options(id="second"))
    assert outer.run(config={"max_tokens": 12}) == 0
    with pytest.raises(TokenBudgetExceeded, match="max_tokens is 11"):
        outer.run(config={"max_tokens": 11})
    assert outer.report.status == "failed"


# --- limits and stopping --------------------------------------------------------------------------


def patient(seconds: float = 60.0) -> Any:
    """Return an action that waits until it is told to stop."""

    def wait(x: int, ctx: NodeCtx) -> int:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not ctx.cancelled:
            time.sleep(0.002)
        return x

    return action(wait, name="wait")


def sleepy() -> Any:
    """Return an async action that sleeps for long."""

    async def sleep(x: int) -> int:
        await asyncio.sleep(60)
        return x

    return action(sleep, name="sleep")


@pytest.mark.parametrize("body", [patient, sleepy])
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_nodes_limit_is_that_of_its_run(runner: str, body: Callable[[], Any]) -> None:
    inner = chain("inner", body())
    outer = chain("outer", inner.with_options(timeout=0.1))
    began = time.monotonic()
    with pytest.raises(NodeExecutionError) as told:
        outer.run(runner=runner)
    assert time.monotonic() - began < 8
    assert isinstance(told.value.__cause__, NodeTimeout)
    assert told.value.__cause__.node_id == "inner"
    assert told.value.__cause__.seconds == 0.1
    assert outer.report.nested["inner"].status == "timed_out"
    assert outer.report.abandoned == ()
    eventually(lambda: not our_threads(), "the threads end")


@pytest.mark.parametrize("body", [patient, sleepy])
@pytest.mark.parametrize("runner", RUNNERS)
def test_the_run_around_ends_its_nested_runs_in_time(runner: str, body: Callable[[], Any]) -> None:
    outer = chain("outer", chain("inner", body()))
    began = time.monotonic()
    with pytest.raises(ExecutionTimeout):
        outer.run(runner=runner, timeout=0.1)
    assert time.monotonic() - began < 8
    report = outer.report
    assert report.status == "timed_out"
    assert report.nested["inner"].status in ("timed_out", "cancelled")
    assert str(report.states()["inner"]) == "cancelled"
    eventually(lambda: not our_threads(), "the threads end")


def test_a_limit_of_its_own_fails_the_node(calls: Calls) -> None:
    inner = chain("inner", patient(), config={"timeout_seconds": 0.05})
    outer = chain("outer", inner)
    with pytest.raises(NodeExecutionError, match=r"node 'inner' failed.*ExecutionTimeout"):
        outer.run(runner="threads", timeout=60)


@pytest.mark.parametrize("body", [patient, sleepy])
@pytest.mark.parametrize("runner", RUNNERS)
def test_cancelling_reaches_the_innermost_run(runner: str, body: Callable[[], Any]) -> None:
    leaf = chain("leaf", body())
    outer = chain("outer", chain("middle", leaf), noting([], "after"))
    token = CancelToken()
    threading.Timer(0.5, lambda: token.cancel("enough")).start()
    with pytest.raises(RunCancelled, match="enough"):
        outer.run(runner=runner, cancel=token)
    report = outer.report
    assert str(report.states()["middle"]) == "cancelled"
    middle = report.nested["middle"]
    assert (middle.status, middle.reason) == ("cancelled", "enough")
    assert middle.nested["leaf"].status == "cancelled"
    eventually(lambda: not our_threads(), "the threads end")


def test_a_failure_beside_it_stops_a_nested_run(calls: Calls) -> None:
    began = threading.Event()

    def wait(x: int, ctx: NodeCtx) -> int:
        began.set()
        while not ctx.cancelled:
            time.sleep(0.002)
        return x

    def fail() -> None:
        began.wait(20)
        raise ZeroDivisionError("on purpose")

    inner = chain("inner", action(wait))
    with DAG("outer") as outer:
        inner()
        action(fail)()
    with pytest.raises(NodeExecutionError, match="'fail'"):
        outer.run(runner="threads", max_workers=2)
    assert outer.report.nested["inner"].status == "cancelled"
    assert str(outer.report.states()["inner"]) == "cancelled"


def test_a_cancelled_task_cancels_the_runs_inside() -> None:
    began: list[bool] = []

    async def sleep(x: int) -> int:
        began.append(True)
        await asyncio.sleep(60)
        return x

    outer = chain("outer", chain("inner", action(sleep)))

    async def main() -> None:
        task = asyncio.create_task(outer.run_async())
        while not began:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began_at = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began_at < 8


def test_an_interrupt_in_a_nested_body_ends_all_runs(url: str) -> None:
    def interrupt(x: int) -> int:
        raise KeyboardInterrupt

    outer = chain("outer", chain("inner", noting([], "a"), action(interrupt)))
    with pytest.raises(KeyboardInterrupt):
        outer.run(database_url=url, run_id="r")
    with Store(url) as store:
        assert store.load_run("r").status == "cancelled"
        assert store.load_run("r/inner").status == "cancelled"


def test_a_run_whose_own_cancel_was_asked_fails_its_node(url: str) -> None:
    began = threading.Event()

    def wait(x: int, ctx: NodeCtx) -> int:
        began.set()
        while not ctx.cancelled:
            time.sleep(0.002)
        return x

    outer = chain("outer", chain("inner", action(wait)))
    with DagExecutor(database_url=url) as executor:
        handle = executor.start(outer, run_id="r")
        assert began.wait(20)
        assert executor.cancel("r/inner", "not this one")
        report = handle.result(20)
    assert report.status == "failed"
    assert "not this one" in str(report.exception)


# --- what they share ------------------------------------------------------------------------------


def test_app_data_is_shared_and_the_context_is_not() -> None:
    seen: list[Any] = []

    def look(x: int, ctx: NodeCtx) -> int:
        seen.append((ctx.app_data, ctx.run_id, ctx.dag_name))
        return x

    inner = chain("inner", action(look))
    outer = chain("outer", action(look).with_options(id="first"), inner)
    data = object()
    outer.run(app_data=data, run_id="r")
    assert seen == [(data, "r", "outer"), (data, "r/inner", "inner")]


@pytest.mark.parametrize("runner", RUNNERS)
def test_hooks_of_a_run_see_what_happens_inside(runner: str) -> None:
    class Watch:
        """Notes what it is shown."""

        def __init__(self) -> None:
            self.seen: list[tuple[str, str]] = []

        def handle(self, ctx: Any, event: Any) -> None:
            if isinstance(event, NodeCompleted):
                self.seen.append((event.node.run_id, event.node.node_id))

    watch = Watch()
    outer = chain("outer", noting([], "a"), chain("inner", noting([], "b")))
    outer.run(hooks=[watch], runner=runner, run_id="r")
    assert watch.seen == [("r", "a"), ("r/inner", "b"), ("r", "inner")]


def test_hooks_that_are_awaited_see_runs_inside_under_every_runner() -> None:
    seen: list[str] = []

    async def watch(_ctx: Any, event: Any) -> None:
        await asyncio.sleep(0)
        if isinstance(event, NodeCompleted):
            seen.append(f"{event.node.dag_name}.{event.node.node_id}")

    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    outer = chain("outer", chain("inner", noting([], "a")), chain("other", action(later)))
    for run in everywhere(outer, hooks=[watch]):
        assert run() == 2
        assert seen == ["inner.a", "outer.inner", "other.later", "outer.other"]
        seen.clear()


def test_a_hook_changes_the_run_that_it_was_shown() -> None:
    def grow(_ctx: Any, event: Any) -> Any:
        if isinstance(event, NodeCompleted) and event.node.node_id == "a":
            return AddNode(NodeSpec("extra", "extra", ["a"]))
        return None

    def extra() -> str:
        return "more"

    inner = chain("inner", noting([], "a"), registry={"extra": extra})
    with DAG("outer") as outer:
        action(lambda found: found, name="show")(found=inner())
    assert outer.run(hooks=[grow]) == "more"


def test_results_of_nested_runs_are_shared_between_runs(calls: Calls) -> None:
    inner = chain("inner", noting(calls, "a"))
    outer = chain("outer", inner.with_options(cache=True))
    assert (outer.run({"x": 5}), outer.run({"x": 5}), calls) == (6, 6, ["a"])
    assert outer.report.explain_cache("inner").hit
    assert outer.report.nested == {}
    with inner:
        inner.add(noting(calls, "b"), x=inner.nodes["a"])
    assert (outer.run({"x": 5}), calls) == (7, ["a", "a", "b"])


def test_a_database_in_memory_has_nested_runs_too(calls: Calls) -> None:
    fails = [True]
    inner = chain("inner", noting(calls, "a"), noting(calls, "b", lambda x: 1 // 0 if fails else x))
    with DagExecutor() as executor:
        executor.load(chain("outer", inner))
        for durability in ("sync", "async", "exit"):
            fails[:] = [True]
            calls.clear()
            report = executor.run("outer", run_id=durability, durability=durability)
            assert report.status == "failed"
            fails.clear()
            assert executor.resume(durability, durability=durability).outputs == {"inner": 1}
            assert calls == ["a", "b", "b"]


def test_progress_counts_the_nodes_of_the_run_itself() -> None:
    told: list[tuple[str, float]] = []
    outer = chain("outer", noting([], "a"), chain("inner", noting([], "b"), noting([], "c")))
    outer.run(progress=lambda node_id, _status, part: told.append((node_id, part)))
    assert told == [("a", 0.5), ("inner", 1.0)]


def test_a_node_id_may_hold_any_sign(url: str) -> None:
    inner = chain("inner", noting([], "a"))
    odd = "50% a/b~2"
    outer = chain("outer", inner.with_options(id=odd))
    with DagExecutor(database_url=url) as executor:
        report = executor.run(outer, run_id="r/1")
        assert list(report.nested) == [odd]
        assert report.nested[odd].run_id == "r/1/50%25 a%2Fb%7E2"
        again = executor.recover("r/1", database_url=url)
        with again:
            again.load(outer)
            assert list(again.resume("r/1").nested) == [odd]


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_resume_goes_on_inside(calls: Calls, url: str, runner: str) -> None:
    fails = [True]

    def fickle(x: int) -> int:
        if fails:
            raise ZeroDivisionError("on purpose")
        return x

    leaf = chain("leaf", noting(calls, "a"), noting(calls, "b", fickle), noting(calls, "c"))
    outer = chain("outer", noting(calls, "first"), chain("middle", leaf), noting(calls, "last"))
    with DagExecutor(database_url=url) as executor:
        failed = executor.run(outer, {"x": 0}, run_id="r", runner=runner)
        assert failed.status == "failed"
        assert calls == ["first", "a", "b"]
        fails.clear()
        executor.load(outer)
        report = executor.resume("r", runner=runner)
    assert report.outputs == {"last": 4}
    assert calls == ["first", "a", "b", "b", "c", "last"]
    inside = report.nested["middle"].nested["leaf"]
    assert inside.node_reports["a"].restored
    assert not inside.node_reports["b"].restored


def test_a_nested_run_that_had_ended_is_not_run_again(calls: Calls, url: str) -> None:
    inner = chain("inner", noting(calls, "a"))
    outer = chain("outer", inner)
    with DagExecutor(database_url=url) as executor:
        executor.run(outer, run_id="r")
        with executor.storage.database.writing() as connection:  # as if it died before its record
            connection.exec_driver_sql("DELETE FROM node_runs WHERE run_id = 'r'")
            connection.exec_driver_sql("UPDATE flow_runs SET status = 'running' WHERE run_id = 'r'")
        executor.load(outer)
        assert executor.resume("r").outputs == {"inner": 1}
    assert calls == ["a"]


def test_other_inputs_make_another_nested_run(calls: Calls, url: str) -> None:
    inner = chain("inner", noting(calls, "a", lambda x: 10 // x))
    outer = chain("outer", inner)
    with DagExecutor(database_url=url) as executor:
        executor.load(outer)
        assert executor.run("outer", {"x": 0}, run_id="r").status == "failed"
        executor.control("r").set_node_inputs("inner", {"x": 5})
        report = executor.resume("r")
        assert report.outputs == {"inner": 2}
        ids = {each.run_id: each.status for each in executor.storage.list_runs(parent="r")}
        assert ids == {"r/inner": "failed", "r/inner~2": "completed"}
        assert report.nested["inner"].run_id == "r/inner~2"


def test_a_run_of_somebody_else_is_not_taken_over(calls: Calls, url: str) -> None:
    inner = chain("inner", noting(calls, "a"))
    outer = chain("outer", inner)
    with DagExecutor(database_url=url) as executor:
        executor.run(inner, run_id="r/inner")
        with pytest.raises(RunExists, match="r/inner"):
            executor.run(outer, run_id="r")
    assert calls == ["a"]


def test_a_nested_run_that_waits_lets_the_run_around_it_wait(calls: Calls, url: str) -> None:
    def ask(x: int, ctx: NodeCtx) -> Any:
        calls.append("ask")
        return ctx.wait_for_human("how many?", {"type": "integer"})

    inner = chain("inner", noting(calls, "a"), action(ask), noting(calls, "b"))
    with DAG("outer") as outer:
        outer.add(noting(calls, "after"), x=inner())
        outer.add(noting(calls, "beside"))
    with DagExecutor(database_url=url) as executor:
        executor.load(outer)
        report = executor.run("outer", run_id="r")
        assert report.status == "paused"
        assert report.reason == (
            "node 'inner' waits for run r/inner, which is paused: "
            "node 'ask' waits for a person: how many?"
        )
        assert {name: str(each) for name, each in report.states().items()} == {
            "inner": "waiting",
            "after": "pending",
            "beside": "completed",
        }
        assert "its run r/inner is paused" in report.explain("inner")
        assert "'ask' waits" in report.explain("after")
        still = executor.resume("r")
        assert still.status == "paused"
        assert executor.submit_human_input("r/inner", "ask", 5) is False
        done = executor.resume("r")
        assert done.outputs == {"after": 7, "beside": 1}
    assert sorted(calls) == sorted(["a", "ask", "beside", "b", "after"])


def test_an_answer_to_the_node_around_names_the_run_inside(url: str) -> None:
    hold = threading.Event()

    def ask(x: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("how many?", {"type": "integer"})

    def wait() -> None:
        hold.wait(20)

    inner = chain("inner", action(ask))
    with DAG("outer") as outer:
        inner()
        outer.add(action(wait))
    with DagExecutor(database_url=url) as executor:
        handle = executor.start(outer, run_id="r")
        eventually(lambda: _refuses(handle), "the node waits")
        hold.set()
        assert handle.result(20).status == "paused"


def _refuses(handle: Any) -> bool:
    try:
        handle.answer("inner", 1)
    except Exception as error:
        return "is a run of its own: waits for run r/inner" in str(error)
    return False


def test_in_memory_a_nested_run_that_waits_pauses_the_run(calls: Calls) -> None:
    def ask(x: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("how many?")

    outer = chain("outer", chain("inner", action(ask)))
    for run in everywhere(outer):
        with pytest.raises(RunPaused, match="how many"):
            run()


def test_a_policy_that_pauses_inside_pauses_outside(calls: Calls, url: str) -> None:
    fails = [True]
    inner = chain(
        "inner",
        noting(calls, "a", lambda x: 1 // 0 if fails else x).with_options(on_failure="pause"),
    )
    outer = chain("outer", inner)
    with DagExecutor(database_url=url) as executor:
        executor.load(outer)
        report = executor.run("outer", run_id="r")
        assert report.status == "paused"
        assert "run r/inner, which is paused: node 'a' failed" in report.reason
        fails.clear()
        assert executor.resume("r").success


def test_trouble_with_the_store_inside_is_no_failure_of_the_node(
    calls: Calls, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagger_dsl.store.journal import RunJournal

    real = RunJournal.commit

    def full(self: RunJournal, *args: Any, **more: Any) -> Any:
        if self.run_id == "r/inner" and args and args[0]:
            raise StoreFull("the disk is full")
        return real(self, *args, **more)

    inner = chain("inner", noting(calls, "a"), noting(calls, "b"))
    outer = chain("outer", inner)
    with DagExecutor(database_url=url) as executor:
        executor.load(outer)
        monkeypatch.setattr(RunJournal, "commit", full)
        with pytest.raises(StoreFull):
            executor.run("outer", run_id="r")
        monkeypatch.undo()
        report = executor.resume("r")
        assert report.success
        assert report.node_reports["inner"].attempts == 1


CRASH = """
import sys, time
from pathlib import Path
from dagger_dsl import DAG, action

HERE = Path(__file__).parent

def note(text):
    with (HERE / "calls.txt").open("a") as file:
        file.write(text + "\\n")

@action
def start(x: int) -> int:
    note("start")
    return x + 1

@action
def step(x: int, number: int) -> int:
    note(f"step{number}")
    if not (HERE / f"go{number}").exists():
        (HERE / f"there{number}").touch()
        time.sleep(600)
    return x + 1

with DAG("leaf") as leaf:
    value = leaf.input("x", int)
    for number in range(4):
        value = step(value, number)
with DAG("middle") as middle:
    leaf(x=start(middle.input("x", int)))
with DAG("outer") as outer:
    middle(x=start(outer.input("x", int)))

if __name__ == "__main__":
    outer.run({"x": 0}, database_url=sys.argv[1], run_id="r", runner=sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_kill_in_the_innermost_run_loses_only_that_call(tmp_path: Path, runner: str) -> None:
    """The stored graphs go on in another process, in which names are looked up in the file.

    It is killed more often than a node may take its process down: the calls of each step count by
    themselves, and those of the nodes around them do not count at all.
    """
    module = tmp_path / "flows.py"
    module.write_text(CRASH)
    url = f"sqlite:{tmp_path / 'runs.db'}"
    env = {**os.environ, "PYTHONPATH": str(Path(engine.__file__).parents[2])}
    resume = ["-m", "dagger_dsl", "resume", "r", "--actions", str(module), "--db", url]
    expected = ["start", "start"]
    for number in range(4):
        command = resume if number else [str(module), url, runner]
        process = subprocess.Popen([sys.executable, *command], env=env, stderr=subprocess.DEVNULL)
        eventually((tmp_path / f"there{number}").exists, "the innermost body runs")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        (tmp_path / f"go{number}").touch()
        expected += [f"step{number}"] * 2  # once more, and no other one
    done = subprocess.run(
        [sys.executable, *resume], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calls.txt").read_text().split() == expected
    with Store(url) as store:
        assert store.load_run("r").nodes["middle", "default"].value() == 6
        assert store.load_run("r").nodes["middle", "default"].attempt == 1
        assert store.load_run("r/middle/leaf").status == "completed"
        assert store.orphans() == []


# --- plain calls ----------------------------------------------------------------------------------


def test_a_body_may_run_a_workflow_by_itself(calls: Calls, url: str) -> None:
    inner = chain("inner", noting(calls, "a"))

    def body(x: int) -> int:
        first: int = inner.run({"x": x})
        second: int = inner(x=first)  # a body is outside of every block
        return second

    async def body_async(x: int) -> int:
        first: int = await inner.run_async({"x": x})
        return first

    outer = chain("outer", action(body), action(body_async))
    for run in everywhere(outer, inputs={"x": 0}):
        assert run() == 3
    assert outer.report.nested == {}
    assert inner.report.run_id != outer.report.run_id
    with Store(url) as store:
        outer.run({"x": 0}, database_url=url, run_id="r")
        assert [each.run_id for each in store.list_runs()] == ["r"]


@pytest.mark.parametrize("wrong", ["thraeds"])
def test_options_are_checked_before_anything_runs(calls: Calls, wrong: str) -> None:
    outer = chain("outer", chain("inner", noting(calls, "a")))
    with pytest.raises(ConfigurationError):
        outer.run(runner=wrong)
    assert calls == []


def report_ids(report: RunReport) -> list[str]:
    """Return the ids of a run and of all runs inside of it."""
    return [
        report.run_id,
        *(each for inside in report.nested.values() for each in report_ids(inside)),
    ]


def test_retention_takes_nested_runs_with_the_run_around_them(calls: Calls, url: str) -> None:
    leaf = chain("leaf", noting(calls, "a"))
    outer = chain("outer", chain("middle", leaf), config=DagConfig(keep_runs=1))
    with DagExecutor(database_url=url) as executor:
        executor.run(leaf, run_id="own")  # nobody's
        for number in range(3):
            executor.run(outer, run_id=f"r{number}")
        store = executor.storage
        assert {each.run_id for each in store.list_runs()} == {"own", "r2"}
        with store.reading() as connection:
            found = connection.exec_driver_sql("SELECT run_id FROM flow_runs").scalars()
            assert set(found) == {"own", "r2", "r2/middle", "r2/middle/leaf"}


# --- machines as nodes ----------------------------------------------------------------------------


def machine_to(most: int = 3, name: str = "machine", **options: Any) -> FSM:
    """Return a machine that counts up to *most*, and ends with a hundred times that."""
    fsm = FSM(name, **options)

    @fsm.state(initial=True)
    def start(order_id: int, step: int = 1) -> FSMReturn:
        return Next("start" if order_id < most else "end", order_id + step)

    @fsm.state(terminal=True)
    def end(order_id: int) -> int:
        return 100 * order_id

    return fsm


def test_a_machine_is_a_node_of_whatever_form() -> None:
    machine = machine_to()
    before = action(lambda x: x, name="before")
    after = action(lambda found: found + 1, name="after")
    with DAG("outer") as outer:
        after(machine(order_id=before(x=outer.input("x", int))))
    for run in everywhere(outer, inputs={"x": 1}):
        assert run() == 401
        child = outer.report.nested["machine"]
        assert child.state_history == ["start", "start", "start", "end"]
        assert child.run_id == f"{outer.report.run_id}/machine"
    with DAG("arrows") as arrows:
        before(x=1) >> machine >> after
    assert arrows.run() == 401
    with DAG("added") as added:
        added.add(machine, id="mine", order_id=2, step=2)
    assert added.run() == 600
    assert added.report.nested["mine"].state_history == ["start", "start", "end"]
    assert machine(order_id=3) == 400  # outside of every block it runs


def test_a_machine_is_mapped_over_items(url: str) -> None:
    machine = machine_to()
    with DAG("outer") as outer:
        machine.map(outer.input("xs", list[int]))
    for run in everywhere(outer, inputs={"xs": [0, 1, 2, 3]}):
        assert run() == [400] * 4
    children = outer.report.nested["machine"]
    lengths = {key: len(each.state_history) for key, each in children.items()}
    assert lengths == {"0": 5, "1": 4, "2": 3, "3": 2}
    assert outer.run({"xs": [3, 0]}, database_url=url, runner="threads") == [400, 400]


def test_a_machines_node_takes_what_its_initial_state_takes() -> None:
    machine = machine_to()
    definition = machine._as_action().definition
    assert {each.name: each.required for each in definition.params} == {
        "order_id": True,
        "step": False,
    }
    assert definition.hints()["order_id"] is int
    assert machine._as_action() is machine._as_action()
    with DAG("outer"), pytest.raises(ValidationError, match="no parameter 'order'"):
        machine(order=1)
    with DAG("typed") as typed:
        machine(order_id=action(_text)())
    with pytest.raises(ValidationError, match="str"):
        typed.run()


def test_a_machines_node_follows_its_initial_state_when_that_changes(calls: Calls) -> None:
    work = chain("work", noting(calls, "a"))
    machine = FSM("machine")
    machine.state(work, initial=True, terminal=True)
    with DAG("outer") as outer:
        machine()
    assert outer.run() == 1
    with work:
        noting(calls, "b").with_options(id="b")(x=work.input("more", int))
    assert [each.name for each in machine._as_action().definition.params] == ["x", "more"]
    with pytest.raises(ValidationError, match="'more'"):
        outer.run()


def _text() -> str:
    return "text"


def test_a_machine_that_does_not_end_fails_its_node(calls: Calls, url: str) -> None:
    machine = machine_to(50, max_cycles=10)
    plan_b = action(lambda order_id: -order_id, name="plan_b")
    with DAG("outer") as outer:
        machine(order_id=0)
    for run in everywhere(outer):
        with pytest.raises(NodeExecutionError, match=r"'machine' failed.*max_cycles=10") as told:
            run()
        assert isinstance(told.value.__cause__, MaxCyclesExceeded)
    with DAG("other") as other:
        machine.with_options(fallback=plan_b, attempts=2, retry=IMMEDIATE)(order_id=3)
    assert other.run() == -3
    assert other.report.node_reports["machine"].attempts == 2
    with DagExecutor(database_url=url) as executor:
        executor.load(outer)
        executor.load(machine)
        assert executor.run("outer", run_id="r").status == "failed"
        assert executor.resume("r/machine", max_cycles=100).success
        assert executor.resume("r").outputs == {"machine": 5100}


def test_another_attempt_of_a_machine_goes_on_in_its_state(calls: Calls, url: str) -> None:
    trouble = [2]
    fsm = FSM("machine")

    @fsm.state(initial=True)
    def start(n: int) -> FSMReturn:
        calls.append(f"start{n}")
        if n in trouble:
            trouble.remove(n)
            raise ZeroDivisionError
        return FSMReturn(next_state="start", value=n + 1, stop=n == 3)

    with DAG("outer") as outer:
        fsm.with_options(retry=IMMEDIATE, attempts=2)(n=outer.input("n", int))
    assert outer.run({"n": 1}, database_url=url) == 4
    assert calls == ["start1", "start2", "start2", "start3"]
    calls.clear()
    trouble.append(2)
    assert outer.run({"n": 1}) == 4
    assert calls == ["start1", "start2", "start1", "start2", "start3"]


def test_tables_and_explanations_show_a_machine(url: str) -> None:
    machine = machine_to()

    @machine.add_state_hook
    def fail(_fsm: FSM, _left: str, entered: str, _result: Any) -> None:
        if entered == "end":
            raise ZeroDivisionError

    with DAG("outer") as outer:
        machine(order_id=1)
    with DagExecutor(database_url=url) as executor:
        report = executor.run(outer, run_id="r")
    for each in (report, _stored(url, "r")):
        assert [(level, name) for level, name, _ in rows_of(each, each.graph.nodes)] == [
            (0, "machine"),
            (1, "start"),
            (1, "end"),
        ]
        assert "its run r/machine is failed" in each.explain("machine")
        assert "'start' failed" in each.explain("machine")


def _stored(url: str, run_id: str) -> RunReport:
    with Store(url) as store:
        report = stored_report(store.load_run(run_id), url, store)
        assert report.nested
        return report


FLOWS = """
from dagger_dsl import DAG, action
from dagger_dsl.fsm import FSM
from pathlib import Path

@action
def step(n: int) -> int:
    if n == 2 and not (Path(__file__).parent / "go").exists():
        raise ZeroDivisionError
    return n + 1

with DAG("work") as work:
    step(work.input("n", int))

machine = FSM("machine")
state = machine.state(work, name="work", initial=True)
machine.add_transition(state, state, lambda n: n < 5)

@machine.state(terminal=True)
def done(n: int) -> int:
    return 10 * n

state >> done

with DAG("outer") as outer:
    machine(n=outer.input("n", int))
"""


@pytest.mark.parametrize("name", ["machine", "outer"])
def test_the_command_line_runs_shows_and_resumes_machines(
    tmp_path: Path, name: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / f"flows_of_{name}.py"
    module.write_text(FLOWS)
    more = ["--db", url]
    ran = ["run", f"{module}:{name}", "-i", "n=0", "--run-id", "r", *more]
    assert main(ran) != 0
    assert "work.step: attempt 1 of 1" in "".join(capsys.readouterr())
    assert main(["show", "r", *more]) == 0
    assert "[2]" in capsys.readouterr().out
    (tmp_path / "go").touch()
    assert main(["resume", "r", "--actions", str(module), *more]) == 0
    assert "50" in capsys.readouterr().out
    assert _stored(url, "r").success


# --- under a clock of the test's ------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_playing_moves_the_clock_for_nested_runs_too(is_async: bool) -> None:
    clock = FakeClock()
    times: list[float] = []

    def fickle(x: int) -> int:
        times.append(clock())
        if len(times) < 3:
            raise ZeroDivisionError("on purpose")
        return x

    async def fickle_async(x: int) -> int:
        return fickle(x)

    body = action(fickle_async if is_async else fickle, name="fickle")
    policy = RetryPolicy(max_attempts=3, base_delay=100, backoff="fixed")
    outer = chain("outer", chain("inner", body.with_options(retry=policy)))
    report = play(outer, {"x": 1}, clock=clock)
    assert report.outputs == {"inner": 1}
    assert [each - times[0] for each in times] == [0, 100, 200]


def test_playing_answers_nodes_of_nested_runs() -> None:
    def ask(x: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("how many?", {"type": "integer"})

    outer = chain("outer", chain("inner", action(ask)), noting([], "after"))
    assert play(outer, answers={"ask": 4}).outputs == {"after": 5}
    with pytest.raises(NodeNotFound, match="ax"):
        play(outer, answers={"ax": 4})


def test_playing_ends_a_nested_run_at_the_limit_of_its_node() -> None:
    def ask(x: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("how many?", {"type": "integer"}, default=3, timeout=50)

    outer = chain("outer", chain("inner", action(ask)).with_options(timeout=10))
    assert play(outer).outputs == {"inner": 3}  # the time of people does not count
    clock = FakeClock()

    def long(x: int) -> int:
        clock.sleep(20)
        return x

    late = chain("late", chain("inner", action(long), noting([], "b")).with_options(timeout=10))
    report = play(late, clock=clock)
    assert "NodeTimeout" in str(report.error)
