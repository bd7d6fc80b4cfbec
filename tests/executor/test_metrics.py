"""What a run took and how its nodes stand: the same from reports and from the record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, DagExecutor, NodeCtx, action
from dagger_dsl.engine.lookups import MEMORY
from dagger_dsl.errors import ConfigurationError, DagNotFound, NodeNotFound, RunNotFound
from dagger_dsl.model.states import NodeState
from dagger_dsl.registry import Registry

RUNNERS = ["sequential", "threads", "asyncio"]

every_runner = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    MEMORY.forget()
    with Registry() as fresh:
        yield fresh


@pytest.fixture(params=["memory", "file"])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DagExecutor]:
    url = "sqlite::memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'runs.db'}"
    with DagExecutor(database_url=url) as found:
        yield found


def known() -> DAG:
    """Return a DAG of which everything is known: a slow node, a cached one, one tried twice."""
    tries: list[int] = []

    @action
    def quick() -> int:
        return 1

    @action
    def slow(quick: int) -> int:
        threading.Event().wait(0.05)
        return quick

    @action(cache=True)
    def kept(quick: int) -> int:
        return quick

    @action(attempts=3, retry_delay=0.0)
    def shaky(quick: int) -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("once")
        return quick

    with DAG("known") as dag:
        first: Any = quick()
        slow(first)
        kept(first)
        shaky(first)
    return dag


@every_runner
@pytest.mark.row("M21")
def test_the_metrics_of_a_known_run(executor: DagExecutor, runner: str) -> None:
    executor.load(known())
    report = executor.run("known", runner=runner)
    for which in ("known", report.run_id, report):
        found = executor.get_execution_metrics(which)
        assert (found.run_id, found.dag_name) == (report.run_id, "known")
        assert str(found.status) == "completed"
        assert found.slowest_node == "slow"
        assert list(found.node_times) == ["quick", "slow", "kept", "shaky"]
        assert found.node_times == pytest.approx(report.node_times, abs=1e-4)
        assert found.avg_node_time == pytest.approx(sum(report.node_times.values()) / 4, abs=1e-4)
        assert found.avg_node_time >= 0.05 / 4
        assert found.total_time >= 0.04
        assert (found.calls, found.retries) == (5, 1)
        assert (found.cache_lookups, found.cache_hits, found.cache_hit_rate) == (1, 0, 0.0)
        assert found.states == {NodeState.COMPLETED: 4}
    again = executor.run("known", runner=runner)
    for which in ("known", again.run_id, again):
        found = executor.get_execution_metrics(which)
        assert found.run_id == again.run_id
        assert (found.cache_lookups, found.cache_hits, found.cache_hit_rate) == (1, 1, 1.0)
        assert "kept" not in found.node_times
        assert (found.calls, found.retries) == (3, 0)


@every_runner
@pytest.mark.row("M22")
def test_a_node_that_failed_and_then_passed(executor: DagExecutor, runner: str) -> None:
    executor.load(known())
    report = executor.run("known", runner=runner)
    for which in ("known", report.run_id, report):
        found = executor.get_node_state(which, "shaky")
        assert found.status is NodeState.COMPLETED
        assert found.attempts == 2
        assert found.last_error is not None
        assert (found.last_error.type, found.last_error.message) == ("ValueError", "once")
        assert found.seconds is not None
        fine = executor.get_node_state(which, "quick")
        assert (fine.attempts, fine.last_error, fine.restored) == (1, None, False)
    again = executor.run("known", runner=runner)
    for which in (again.run_id, again):
        kept = executor.get_node_state(which, "kept")
        assert (kept.status, kept.attempts, kept.restored) == (NodeState.COMPLETED, 0, True)


@pytest.mark.row("M22")
def test_nodes_that_failed_or_were_skipped(executor: DagExecutor) -> None:
    @action(attempts=2, retry_delay=0.0)
    def fail() -> int:
        raise KeyError("gone")

    @action
    def after(fail: int) -> int:
        return fail

    with DAG("bad", config={"on_failure": "continue"}) as dag:
        failed: Any = fail()
        after(failed)
    executor.load(dag)
    report = executor.run("bad")
    for which in (report.run_id, report):
        found = executor.get_node_state(which, "fail")
        assert (found.status, found.attempts) == (NodeState.FAILED, 2)
        assert found.last_error is not None
        assert found.last_error.type == "KeyError"
        skipped = executor.get_node_state(which, "after")
        assert (skipped.status, skipped.attempts) == (NodeState.SKIPPED, 0)
        assert skipped.reason == "upstream_failed: 'fail' failed"
        metrics = executor.get_execution_metrics(which)
        assert metrics.states == {NodeState.FAILED: 1, NodeState.SKIPPED: 1}
        assert list(metrics.node_times) == ["fail"]


@pytest.mark.row("M21", "M22")
def test_invocations_of_a_mapped_node_count_together(executor: DagExecutor) -> None:
    seen: set[int] = set()

    @action(attempts=2, retry_delay=0.0, cache=True)
    def work(x: int) -> int:
        if x == 2 and x not in seen:
            seen.add(x)
            raise ValueError("two")
        return x

    with DAG("mapped") as dag:
        work.map([1, 2, 3])
    executor.load(dag)
    report = executor.run("mapped")
    for which in (report.run_id, report):
        metrics = executor.get_execution_metrics(which)
        assert (metrics.calls, metrics.retries) == (4, 1)
        assert (metrics.cache_lookups, metrics.cache_hits) == (3, 0)
        found = executor.get_node_state(which, "work")
        assert (found.status, found.attempts) == (NodeState.COMPLETED, 4)
        assert found.last_error is not None
        assert found.last_error.message == "two"
    again = executor.run("mapped")
    for which in (again.run_id, again):
        assert executor.get_execution_metrics(which).cache_hit_rate == 1.0


@pytest.mark.row("M21", "M22")
def test_a_run_that_goes_on_tells_what_has_ended(executor: DagExecutor) -> None:
    reached, release = threading.Event(), threading.Event()

    @action
    def first() -> int:
        return 1

    @action
    def second(first: int) -> int:
        reached.set()
        release.wait(20)
        return first

    with DAG("going") as dag:
        done: Any = first()
        second(done)
    executor.load(dag)
    handle = executor.start("going")
    assert reached.wait(20)
    found = executor.get_execution_metrics(handle.run_id)
    assert str(found.status) == "running"
    assert list(found.node_times) == ["first"]
    assert executor.get_node_state("going", "second").status is NodeState.PENDING
    release.set()
    handle.result(20)


@pytest.mark.row("M21", "M22")
def test_a_run_in_memory_is_told_by_its_dag_or_its_report(executor: DagExecutor) -> None:
    dag = known()
    dag.run()
    for which in (dag, dag.report):
        assert executor.get_execution_metrics(which).slowest_node == "slow"
        assert executor.get_node_state(which, "shaky").attempts == 2
    dag.run_from("shaky")
    found = executor.get_node_state(dag, "quick")
    assert (found.attempts, found.restored) == (0, True)
    assert list(executor.get_execution_metrics(dag).node_times) == ["shaky"]


@pytest.mark.row("M21", "M22")
def test_what_is_not_there_is_refused(executor: DagExecutor) -> None:
    executor.load(known())
    with pytest.raises(RunNotFound, match="has not been run here yet"):
        executor.get_execution_metrics("known")
    with pytest.raises(DagNotFound, match="did you mean 'known'"):
        executor.get_execution_metrics("knwon")
    for wrong in (None, 3, NodeCtx):
        with pytest.raises(ConfigurationError, match="a run is named by its id"):
            executor.get_execution_metrics(wrong)  # type: ignore[arg-type]
    executor.run("known")
    with pytest.raises(NodeNotFound, match="did you mean 'shaky'"):
        executor.get_node_state("known", "shakey")
    empty = DAG("empty")
    with pytest.raises(RunNotFound):
        executor.get_execution_metrics(empty)
