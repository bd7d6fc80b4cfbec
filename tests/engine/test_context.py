"""The `Context` of a run: what nodes find in it, and what the engine puts into it."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import tracemalloc
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, Registry
from dagger_dsl.engine.control import CancelToken
from dagger_dsl.errors import (
    ConfigurationError,
    ExecutionTimeout,
    MissingInputError,
    NodeExecutionError,
    NodeNotFound,
    NotExecuted,
    RunCancelled,
    RunPaused,
    StoreError,
)
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.sharing import Context
from dagger_dsl.model.states import NodeState
from tests.benchmarks.measure import within
from tests.engine.helpers import IMMEDIATE, RUNNERS, Workflow, url_of

every_runner = pytest.mark.parametrize("runner", RUNNERS)


def started(dag: DAG, **options: Any) -> Any:
    """Run in the background."""
    return dag.start(**options).result(30).raise_for_failure().outputs


def in_a_loop(dag: DAG, **options: Any) -> Any:
    """Run where an event loop runs already, as in a notebook."""

    async def cell() -> Any:
        return dag.run(**options)

    return asyncio.run(cell())


def awaited(dag: DAG, **options: Any) -> Any:
    """Run on the caller's loop."""
    return asyncio.run(dag.run_async(**options))


every_way = pytest.mark.parametrize("way", [DAG.run, in_a_loop, awaited, started])


def chain() -> DAG:
    """Return three nodes in a row, the second of which looks around."""
    dag = DAG("chain", registry=Registry())

    @dag.node
    def first() -> dict[str, int]:
        return {"value": 1}

    @dag.node
    def second(data: dict[str, int], context: Context) -> int:
        context.metadata["seen"] = dict(context.results)
        context.metadata["got"] = context.get("first", default={})
        context.metadata["missing"] = context.get("third", default="not yet")
        return data["value"] + 1

    @dag.node
    def third(number: int) -> int:
        return number + 1

    dag.nodes["first"] >> dag.nodes["second"] >> dag.nodes["third"]
    return dag


# --- what nodes see -------------------------------------------------------------------------------


@pytest.mark.row("M1", "M2", "M4", "K17", "K22")
@every_runner
@every_way
def test_nodes_and_the_caller_share_the_context_that_was_given(
    way: Callable[..., Any], runner: str
) -> None:
    dag, context = chain(), Context(metadata={"user_id": "123"})
    way(dag, context=context, runner=runner)
    assert dag.context is context
    assert context.metadata["user_id"] == "123"
    assert context.metadata["seen"] == {"first": {"value": 1}}
    assert context.metadata["got"] == {"value": 1}
    assert context.metadata["missing"] == "not yet"
    assert dict(context.results) == {"first": {"value": 1}, "second": 2, "third": 3}
    assert list(context.results) == ["first", "second", "third"]
    assert context.metadata["execution_status"] == "completed"


@pytest.mark.row("K18")
@every_runner
def test_all_options_go_together(runner: str) -> None:
    dag = DAG("all", registry=Registry())

    @dag.node
    def use(data: int, context: Context) -> int:
        context.metadata["data"] = data
        return data * 2

    context = Context()
    assert dag.run(inputs={"data": 2}, context=context, mode=runner, max_workers=8) == 4
    assert context.metadata["data"] == 2


@every_runner
def test_a_context_is_made_when_somebody_asks_for_it(runner: str) -> None:
    dag = chain()
    dag.run(runner=runner)
    assert dag.context.metadata["seen"] == {"first": {"value": 1}}
    plain = Workflow().note("a", 1)
    report = plain.run(runner)
    assert report.context is report.context
    assert dict(report.context.results) == {"a": 1}
    assert report.context.metadata == {"run_id": report.run_id, "execution_status": "completed"}


@pytest.mark.row("M2")
def test_the_parameter_for_the_context_is_no_input() -> None:
    dag = DAG("inputs", registry=Registry())

    @dag.node
    def by_annotation(x: int, shared: Context) -> int:
        shared.metadata["annotated"] = x
        return x

    @dag.node
    def by_name(x, context):  # type: ignore[no-untyped-def]
        context.metadata["named"] = x

    assert set(dag.compile().inputs) == {"x"}
    dag.run(inputs={"x": 3})
    assert dag.context.metadata["annotated"] == dag.context.metadata["named"] == 3


@pytest.mark.row("M3")
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_nodes_that_write_at_the_same_time_lose_nothing(runner: str) -> None:
    def count(context: Context) -> None:
        for _ in range(200):
            context.update(lambda metadata: metadata.update(n=metadata.get("n", 0) + 1))

    flow = Workflow()
    for k in range(8):
        flow.add(f"n{k}", count)
    report = flow.run(runner, max_workers=4)
    assert report.context.metadata["n"] == 1600


def test_a_run_that_nobody_asks_for_a_context_has_none() -> None:
    dag = DAG("plain", registry=Registry())

    @dag.node
    def a() -> int:
        return 1

    dag.run()
    assert dag._run.sharing is None
    assert dag.context.results["a"] == 1
    assert dag._run.sharing is not None


def test_a_dag_that_never_ran_has_no_context() -> None:
    with pytest.raises(NotExecuted, match="no context before its first run"):
        _ = DAG("d", registry=Registry()).context


@every_runner
def test_the_context_is_there_during_a_run(runner: str) -> None:
    dag = DAG("during", registry=Registry())

    @dag.node
    def look(context: Context) -> bool:
        return dag.context is context

    assert dag.run(runner=runner)
    first = dag.context
    assert dag.run(runner=runner)
    assert dag.context is not first  # another run, another context


@pytest.mark.parametrize("given", [{}, {"user": 1}, 3, "context", Context])
def test_what_is_no_context_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="context is a Context"):
        chain().run(context=given)


def test_the_owner_of_a_run_is_no_option() -> None:
    for name in ("owner", "_owner"):
        with pytest.raises(ConfigurationError, match="there is no run option"):
            RunOptions.of({name: 1})


@pytest.mark.row("M20")
@every_runner
def test_a_context_serves_several_runs(runner: str) -> None:
    dag = DAG("timed", registry=Registry())

    @dag.node
    def work(context: Context) -> int:
        times = context.metadata.setdefault("processing_times", [])
        times.append(0.5)
        return len(times)

    context = Context()
    ids = []
    for number in (1, 2, 3):
        assert dag.run(context=context, runner=runner) == number
        assert dict(context.results) == {"work": number}
        ids.append(context.metadata["run_id"])
    assert context.metadata["processing_times"] == [0.5] * 3
    assert len(set(ids)) == 3
    other = Workflow().note("other", "o")
    other.run(runner, context=context)
    assert dict(context.results) == {"other": "o"}  # nothing of the runs before


def test_a_run_id_that_was_given_stays() -> None:
    context = Context(metadata={"run_id": "mine"})
    chain().run(context=context)
    chain().run(context=context)
    assert context.metadata["run_id"] == "mine"


@pytest.mark.row("H22")
@every_runner
def test_the_checkpoint_pattern_of_the_document(runner: str, tmp_path: Path) -> None:
    dag = DAG("checkpoint", registry=Registry())

    @dag.node
    def load() -> dict[str, int]:
        return {"rows": 3}

    @dag.node
    def checkpoint_save(data: dict[str, int], context: Context) -> dict[str, int]:
        path = tmp_path / f"checkpoint_{context.metadata['run_id']}.json"
        path.write_text(json.dumps({"data": data, "context": context.to_dict()}))
        return data

    dag.nodes["load"] >> dag.nodes["checkpoint_save"]
    dag.run(runner=runner, context=Context(metadata={"user": "u"}))
    (path,) = tmp_path.iterdir()
    saved = json.loads(path.read_text())
    assert saved["data"] == {"rows": 3}
    context = Context.from_dict(saved["context"])
    assert context.get("load") == {"rows": 3}
    assert context.metadata["user"] == "u"


# --- writing results ------------------------------------------------------------------------------


@pytest.mark.row("K34")
@every_runner
def test_writing_results_from_a_node_warns_once(runner: str) -> None:
    dag = DAG("bad", registry=Registry())

    @dag.node
    def previous() -> int:
        return 1

    @dag.node
    def bad(previous: int, context: Context) -> None:
        context.results["current"] = context.results["previous"] + 1
        context.results["again"] = 2
        assert context.results["current"] == 2

    dag.nodes["previous"] >> dag.nodes["bad"]
    context = Context()
    for times in (1, 0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dag.run(runner=runner, context=context)
        assert [each.category for each in caught] == [UserWarning] * times
        for each in caught:
            assert "Return the value, and connect" in str(each.message)
            assert "'current'" in str(each.message)
            assert each.filename == __file__
    assert dict(context.results) == {"previous": 1, "bad": None, "current": 2, "again": 2}


# --- how it ended ---------------------------------------------------------------------------------


def failing(**fields: Any) -> Workflow:
    """Return a node that fails."""
    return Workflow().note("a", ValueError("no"), **fields)


@pytest.mark.row("K23")
@every_runner
def test_the_status_says_how_the_run_ended(runner: str) -> None:
    context = Context()
    report = failing().run(runner, context=context)
    assert report.status == "failed"
    assert context.metadata["execution_status"] == "failed"
    assert failing(on_failure="pause").run(runner, context=context).status == "paused"
    assert context.metadata["execution_status"] == "paused"

    async def wait() -> None:
        await asyncio.sleep(30)

    slow = Workflow().add("slow", wait)
    assert slow.run(runner, context=context, timeout=0.05).status == "timed_out"
    assert context.metadata["execution_status"] == "timed_out"
    token = CancelToken()
    stopped = Workflow().add("stop", lambda: token.cancel("enough")).note("next", after=["stop"])
    assert stopped.run(runner, context=context, cancel=token).status == "cancelled"
    assert context.metadata["execution_status"] == "cancelled"
    assert Workflow().note("a").run(runner, context=context).success
    assert context.metadata["execution_status"] == "completed"


@pytest.mark.row("K23")
@pytest.mark.parametrize(
    ("options", "error", "status"),
    [
        ({}, NodeExecutionError, "failed"),
        ({"config": {"on_failure": "pause"}}, RunPaused, "paused"),
        ({"timeout": 0.01}, ExecutionTimeout, "timed_out"),
        ({"cancel": CancelToken()}, RunCancelled, "cancelled"),
    ],
)
def test_the_status_is_set_when_run_raises(
    options: dict[str, Any], error: type[Exception], status: str
) -> None:
    dag = DAG("raises", registry=Registry())

    @dag.node
    async def work() -> None:
        if "cancel" in options:
            options["cancel"].cancel()
        if options and "config" not in options:
            await asyncio.sleep(30)
        raise ValueError("no")

    context = Context()
    with pytest.raises(error):
        dag.run(context=context, **options)
    assert dag.context is context
    assert context.metadata["execution_status"] == status
    assert context.metrics["execution_time"] > 0


@pytest.mark.row("K23")
def test_the_status_is_set_when_the_run_is_interrupted() -> None:
    dag, context = DAG("interrupted", registry=Registry()), Context()

    @dag.node
    def leave() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dag.run(context=context)
    assert context.metadata["execution_status"] == "cancelled"

    @dag.node
    async def wait() -> None:
        await asyncio.sleep(30)

    async def given_up() -> None:
        other = DAG("other", registry=Registry())
        other.add(wait, id="wait")
        task = asyncio.create_task(other.run_async(context=context))
        await asyncio.sleep(0.02)
        assert "execution_status" not in context.metadata  # it goes on
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(given_up())
    assert context.metadata["execution_status"] == "cancelled"


def test_the_status_is_failed_when_the_run_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagger_dsl.store.journal import RunJournal

    def refuse(*_args: Any, **_more: Any) -> None:
        raise StoreError("the disk is full")

    context = Context()
    flow = Workflow().note("a", 1).note("b", 2, after=["a"])
    monkeypatch.setattr(RunJournal, "commit", refuse)
    with pytest.raises(StoreError):
        flow.run(context=context, database_url=url_of(tmp_path))
    assert context.metadata["execution_status"] == "failed"


def test_a_run_that_is_refused_leaves_the_context_alone() -> None:
    context = Context(metadata={"a": 1})
    dag = DAG("refused", registry=Registry())

    @dag.node
    def a(x: int) -> int:
        return x

    with pytest.raises(MissingInputError):
        dag.run(context=context)
    assert context == Context(metadata={"a": 1})


# --- metrics --------------------------------------------------------------------------------------


@pytest.mark.row("M6", "M7")
@every_runner
def test_the_metrics_are_those_of_the_report(runner: str) -> None:
    flow = Workflow().note("a", "left")
    flow.note("left", after=["a"]).note("right", after=["a"])
    flow.when("a", "left", "left").when("a", "right", "right")
    given = Context()
    with_context, without = flow.run(runner, context=given), flow.run(runner)
    assert given is with_context.context
    for report in (with_context, without):
        metrics = report.context.metrics
        assert metrics["execution_time"] == metrics["total_duration"] == report.duration
        assert metrics["node_times"] == pytest.approx(report.node_times, abs=1e-6)
        assert set(metrics["node_times"]) == {"a", "left"}  # what was skipped has none
        assert "memory_usage" not in metrics
        assert f"{metrics['execution_time']:.2f}"


@pytest.mark.row("M6")
def test_the_execution_time_is_the_wall_time() -> None:
    dag, gate = DAG("timed", registry=Registry()), threading.Event()

    @dag.node
    def wait() -> bool:
        return gate.wait(0.2)

    def left_out() -> float:
        begun = time.perf_counter()
        dag.run()
        took = time.perf_counter() - begun
        assert dag.context.metrics["execution_time"] <= took
        assert 0.19 < dag.context.metrics["node_times"]["wait"] <= took
        return took - float(dag.context.metrics["execution_time"])

    taken, allowed = within(left_out, 0.015)
    assert taken < allowed


@pytest.mark.row("M8")
@every_runner
def test_memory_is_measured_where_asked_for(runner: str) -> None:
    flow = Workflow().add("a", lambda: bytes(3_000_000)).note("b", after=["a"])
    context = Context()
    flow.run(runner, context=context, track_memory=True)
    assert 3.0 <= context.metrics["memory_usage"]["peak_mb"] < 30.0
    assert not tracemalloc.is_tracing()
    report = flow.run(runner, track_memory=True)
    assert report.context.metrics["memory_usage"]["peak_mb"] > 3.0
    flow.run(runner, context=context)
    assert "memory_usage" not in context.metrics


@pytest.mark.row("M8")
def test_memory_that_somebody_else_traces_is_not_counted() -> None:
    tracemalloc.start()
    try:
        kept = bytes(20_000_000)
        del kept
        held = bytes(5_000_000)
        report = Workflow().add("a", lambda: bytes(2_000_000)).run(track_memory=True)
        assert 2.0 <= report.context.metrics["memory_usage"]["peak_mb"] < 5.0
        assert tracemalloc.is_tracing()
        assert len(held) == 5_000_000
    finally:
        tracemalloc.stop()


def test_runs_that_are_measured_may_overlap() -> None:
    inner = Workflow().add("a", lambda: bytes(2_000_000))
    outer = Workflow().add("run", lambda: inner.run(track_memory=True))
    report = outer.run(track_memory=True)
    both = (report, report.value("run"))
    assert all(each.context.metrics["memory_usage"]["peak_mb"] >= 2.0 for each in both)
    assert not tracemalloc.is_tracing()


@pytest.mark.parametrize("given", [1, "yes", None])
def test_track_memory_is_a_flag(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="track_memory must be True or False"):
        chain().run(track_memory=given)


# --- deleting results -----------------------------------------------------------------------------


class Big:
    """A value that can be watched."""


@pytest.mark.row("K29")
@every_runner
def test_a_deleted_result_is_gone_at_once_and_its_value_soon(runner: str) -> None:
    made: list[weakref.ref[Big]] = []
    dag = DAG("memory", registry=Registry())

    @dag.node
    def large_intermediate() -> Big:
        big = Big()
        made.append(weakref.ref(big))
        return big

    @dag.node
    def memory_intensive_op(data: Big, context: Context) -> int:
        if "large_intermediate" in context.results:
            del context.results["large_intermediate"]
        assert "large_intermediate" not in context.results
        assert list(context.results) == []
        assert context.get("large_intermediate") is None
        return 1

    @dag.node
    def after(number: int) -> bool:
        gc.collect()
        return made[-1]() is None

    dag.nodes["large_intermediate"] >> dag.nodes["memory_intensive_op"] >> dag.nodes["after"]
    assert dag.run(runner=runner, max_workers=2)
    with pytest.raises(NotExecuted, match="deleted from the results of the run's context"):
        dag["large_intermediate"]
    assert dag.get_result("large_intermediate", default=0) == 0
    assert dict(dag.context.results) == {"memory_intensive_op": 1, "after": True}
    with pytest.raises(KeyError):
        del dag.context.results["large_intermediate"]
    assert dag.run(runner=runner)  # the next run has it again


@pytest.mark.row("K29")
@every_runner
def test_a_deleted_result_stays_for_those_who_need_it(runner: str) -> None:
    made: list[weakref.ref[Big]] = []

    def make() -> Big:
        big = Big()
        made.append(weakref.ref(big))
        return big

    def drop(ctx: NodeCtx, context: Context) -> None:
        del context.results["make"]

    def take(big: Big, attempt: list[int]) -> str:
        attempt.append(1)
        if len(attempt) < 2:
            raise OSError
        return type(big).__name__

    def after(text: str) -> bool:
        gc.collect()
        return made[0]() is None

    flow = Workflow().add("make", make).add("drop", drop, after=["make"])
    tried: list[int] = []
    sources = {"big": "make"}
    flow.add("take", lambda big: take(big, tried), take=sources, after=["drop"], try_count=2)
    flow.add("after", after, take={"text": "take"})
    report = flow.run(runner, config={"retry_strategy": IMMEDIATE})
    assert report.value("take") == "Big"
    assert report.value("after") is True


def test_what_a_run_is_for_stays_until_its_end() -> None:
    dag = DAG("ends", registry=Registry())

    @dag.node
    def sink() -> Big:
        return Big()

    @dag.node
    def other(context: Context) -> None:
        del context.results["sink"]

    outputs = dag.run()
    assert type(outputs["sink"]) is Big
    assert list(dag.context.results) == ["other"]
    assert type(dag["sink"]) is Big


def test_results_can_be_deleted_after_the_run() -> None:
    dag = chain()
    dag.run()
    for name in list(dag.context.results):
        del dag.context.results[name]
    assert len(dag.context.results) == 0
    with pytest.raises(NotExecuted, match="deleted"):
        dag["third"]
    assert dag.report.outputs == {}
    assert dag.report.states()["third"] is NodeState.COMPLETED


@every_runner
def test_a_deleted_result_is_read_from_the_store(runner: str, tmp_path: Path) -> None:
    def drop(context: Context) -> None:
        del context.results["make"]

    flow = Workflow().note("make", {"n": 1}).add("drop", drop, after=["make"])
    flow.note("last", after=["drop"])
    context = Context()
    report = flow.run(runner, context=context, database_url=url_of(tmp_path))
    assert "make" not in context.results
    assert report.value("make") == {"n": 1}
    assert report._value("make") is not report._value("make")  # nothing of it is held


def test_an_unknown_result_cannot_be_deleted() -> None:
    def drop(context: Context) -> None:
        del context.results["nobody"]

    report = Workflow().add("drop", drop).run()
    assert isinstance(report.node_reports["drop"].exception, KeyError)


def test_progress_of_an_unknown_node_is_refused() -> None:
    def work(context: Context) -> None:
        context.progress("wrok", 1, 2)

    error = Workflow().add("work", work).run().node_reports["work"].exception
    assert isinstance(error, NodeNotFound)
    assert "did you mean 'work'" in str(error)


class _Countdown:
    """An iterator of a class that the engine knows nothing of."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left


@pytest.mark.parametrize("runner", RUNNERS)
def test_an_iterator_that_another_node_takes_is_no_result(runner: str) -> None:
    dag, seen = DAG("once", registry=Registry()), list[Any]()

    @dag.node
    def load() -> Iterator[int]:
        return _Countdown(3)

    @dag.node
    def look(context: Context) -> None:
        seen.extend(each for each in context.results.values() if isinstance(each, _Countdown))

    @dag.node
    def take(load: Iterator[int]) -> list[int]:
        return list(load)

    load >> take
    dag.run(runner=runner)
    assert dag["take"] == [2, 1, 0]
    assert not seen
