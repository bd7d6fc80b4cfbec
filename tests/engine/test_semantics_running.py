"""What a run gives back, its order, its threads and contexts, ruling by ruling."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, action, engine
from dagger_dsl.engine.control import CancelToken
from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    CycleError,
    ExecutionTimeout,
    MissingInputError,
    NodeExecutionError,
    RunCancelled,
    RunPaused,
)
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.registry import Registry, registry
from tests.engine.helpers import RUNNERS, Workflow, boom, returns, states, url_of
from tests.runners.helpers import Gauge, eventually, our_threads

# --- what a run gives back ------------------------------------------------------------------------


def test_a_dag_gives_its_sinks_value_or_several_in_declaration_order() -> None:
    def plus(given: int) -> int:
        return given + 1

    one = DAG("one", registry=Registry())
    one.add(plus, id="b", given=one.add(returns(1), id="a"))
    assert one.run() == 2
    assert one.report.value("a") == 1
    several = DAG("several", registry=Registry())
    one_of_many = action(plus, registry=Registry())
    for value, name in enumerate("zam"):
        several.add(one_of_many, id=name, given=value)
    assert list(several.run().items()) == [("z", 1), ("a", 2), ("m", 3)]


def test_a_dag_raises_the_first_unhandled_failure_and_keeps_the_report() -> None:
    dag = DAG("d", registry=Registry())
    dag.add(boom, id="bad")
    with pytest.raises(NodeExecutionError) as caught:
        dag.run()
    assert caught.value.node_id == "bad"
    assert isinstance(caught.value.__cause__, ValueError)
    assert dag.report.status == "failed"


def test_an_engine_run_gives_the_report_whatever_became_of_the_nodes() -> None:
    report = Workflow().add("bad", boom).run()
    assert report.status == "failed"
    with pytest.raises(NodeExecutionError):
        report.raise_for_failure()
    assert Workflow().note("a").run().raise_for_failure().success


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("paused", RunPaused),
        ("cancelled", RunCancelled),
        ("timed_out", ExecutionTimeout),
        ("failed", NodeExecutionError),
    ],
)
def test_each_status_raises_its_own_class_when_asked(status: str, error: type[Exception]) -> None:
    token = CancelToken()
    flow = Workflow()
    options: dict[str, Any] = {}
    if status == "cancelled":
        flow.add("n", lambda: token.cancel("enough"))
        flow.note("z", after=["n"])
        options["cancel"] = token
    elif status == "timed_out":
        flow.add("n", lambda: threading.Event().wait(0.05))
        flow.note("z", after=["n"])
        options["timeout"] = 0.01
    else:
        flow.add("n", boom, on_failure="pause" if status == "paused" else "stop")
    report = flow.run(**options)
    assert report.status == status
    with pytest.raises(error):
        report.raise_for_failure()


def test_only_misuse_raises_by_itself() -> None:
    flow = Workflow().note("a", after=["b"]).note("b", after=["a"])
    with pytest.raises(CycleError, match=r"a -> b -> a|b -> a -> b"):
        flow.run()
    with pytest.raises(ActionNotFound, match="'nowhere'"):
        engine.run(Graph("g", [Node("n", "nowhere")]), Registry())
    flow = Workflow().add("n", lambda x: x, take={"x": "inputs.x"})
    with pytest.raises(MissingInputError, match="'x'"):
        flow.run()
    lock = threading.Lock()
    tied = Workflow().add("n", lambda: lock.locked())
    with pytest.raises(ConfigurationError, match=r"node 'n'.*runner='threads'"):
        tied.run("processes")
    assert flow.calls == []


def test_an_empty_graph_completes() -> None:
    report = Workflow().run()
    assert report.success
    assert report.outputs == {}


def test_without_a_database_no_store_is_imported() -> None:
    code = (
        "import sys; from dagger_dsl import DAG\n"
        "dag = DAG('d')\n"
        "dag.add(lambda: 1, id='a')\n"
        "assert dag.run() == 1\n"
        "print([m for m in sys.modules if m.startswith(('sqlalchemy', 'dagger_dsl.store', "
        "'tenacity', 'asyncio.'))])\n"
    )
    code = code.replace("lambda: 1", "one").replace("dag = ", "def one(): return 1\ndag = ")
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.row("A47", "E1", "D5", "A39")
@pytest.mark.parametrize("config", [{}, {"enable_parallel_execution": False}])
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_one_at_a_time_starts_in_topological_order(
    runner: str, config: dict[str, Any], rng: Any
) -> None:
    if runner != "sequential" and not config:
        config = {"max_parallel_nodes": 1}
    flow = Workflow()
    ids = [f"n{k}" for k in range(60)]
    order = rng.sample(ids, 60)
    gauge = Gauge()
    after = {
        name: rng.sample(order[:place], min(place, rng.randint(0, 3)))
        for place, name in enumerate(order)
    }
    for name in ids:

        def body(name: str = name) -> None:
            with gauge:
                flow.calls.append(name)

        trigger = rng.choice(("success", "success", "none_failed", "done"))
        flow.add(name, body, after=after[name], trigger=trigger)
    report = flow.run(runner, config=config)
    assert report.success
    assert flow.calls == flow.graph().topological_order()
    assert gauge.peak == 1


def test_what_becomes_ready_first_starts_first_ties_by_declaration() -> None:
    flow = Workflow().note("root", True)
    flow.note("late", after=["root"], trigger="any").note("early", after=["root"])
    flow.note("labelled").when("root", "true", "labelled").note("last", after=["late"])
    flow.note("below", after=["early"], trigger="done").note("other")
    flow.run()
    assert flow.calls == ["root", "other", "late", "early", "labelled", "last", "below"]


@pytest.mark.row("A40")
def test_levels_and_the_critical_path_tell_what_can_run_together() -> None:
    flow = Workflow().note("a").note("b", after=["a"]).note("c", after=["a"])
    graph = flow.note("d", after=["b", "c"]).graph()
    assert graph.levels() == [["a"], ["b", "c"], ["d"]]
    assert graph.critical_path() in (["a", "b", "d"], ["a", "c", "d"])
    assert graph.critical_path({"a": 1, "b": 1, "c": 5, "d": 1}) == ["a", "c", "d"]


# --- side by side ---------------------------------------------------------------------------------


@pytest.mark.row("D4", "E2")
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
@pytest.mark.parametrize(
    ("options", "config", "most"),
    [({}, {"max_parallel_nodes": 3}, 3), ({"max_workers": 2}, {"max_parallel_nodes": 5}, 2)],
)
def test_never_more_than_so_many_at_once(
    runner: str, options: dict[str, Any], config: dict[str, Any], most: int
) -> None:
    gauge = Gauge()
    enough = threading.Barrier(most, timeout=20)

    def body() -> None:
        with gauge:
            enough.wait()

    flow = Workflow()
    for k in range(most * 4):
        flow.add(f"n{k}", body)
    assert flow.run(runner, config=config, **options).success
    assert gauge.peak == most


@pytest.mark.row("E2")
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_the_middle_of_a_diamond_overlaps(runner: str) -> None:
    together = threading.Barrier(2, timeout=20)
    flow = Workflow().note("a")
    flow.add("b", lambda: together.wait(), after=["a"]).add(
        "c", lambda: together.wait(), after=["a"]
    )
    assert flow.note("d", after=["b", "c"]).run(runner).success


@pytest.mark.row("E4")
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_the_next_node_starts_while_others_of_its_level_run(runner: str) -> None:
    """s -> x1, s -> x2 -> y2: y2 runs while x1 does."""
    y2_ran = threading.Event()
    flow = Workflow().note("s").add("x1", lambda: y2_ran.wait(20), after=["s"])
    flow.note("x2", after=["s"]).add("y2", y2_ran.set, after=["x2"])
    report = flow.run(runner, max_workers=2)
    assert report.value("x1") is True


# --- threads and contexts -------------------------------------------------------------------------

number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)


@pytest.mark.parametrize("runner", RUNNERS)
def test_bodies_get_a_copy_of_the_callers_context(runner: str) -> None:
    flow = Workflow()
    seen: list[int] = []

    def body() -> None:
        seen.append(number.get())
        number.set(99)

    for k in range(3):
        flow.add(f"n{k}", body, after=[f"n{k - 1}"] if k else ())
    token = number.set(7)
    try:
        assert flow.run(runner).success
        assert number.get() == 7
    finally:
        number.reset(token)
    assert seen[0] == 7


def test_sequential_bodies_run_in_the_callers_thread_and_under_a_limit_in_one_helper() -> None:
    threads: list[str] = []

    def body() -> None:
        threads.append(threading.current_thread().name)

    flow = Workflow()
    for k in range(3):
        flow.add(f"n{k}", body)
    flow.run()
    assert set(threads) == {threading.current_thread().name}
    threads.clear()
    flow.run(timeout=50)
    assert len(set(threads)) == 1
    assert threads[0] != threading.current_thread().name


@pytest.mark.parametrize("runner", RUNNERS)
def test_our_threads_are_daemons_and_leave(runner: str) -> None:
    daemons: list[bool] = []

    async def other() -> None:
        await asyncio.sleep(0)

    flow = Workflow().add("n", lambda: daemons.append(threading.current_thread().daemon))
    flow.add("m", other)
    assert engine.start(flow.graph(), flow.registry, None, RunOptions(runner=runner)).result(20)
    assert daemons == [True]
    eventually(lambda: not our_threads(), "all threads have left")


@pytest.mark.row("R4")
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("durable", [False, True])
def test_dependents_get_the_live_object(runner: str, durable: bool, tmp_path: Path) -> None:
    value = {"rows": list(range(10))}
    seen: list[int] = []
    flow = Workflow().add("a", returns(value))
    flow.add("b", lambda given: seen.append(id(given)), take={"given": "a"})
    options: dict[str, Any] = {"database_url": url_of(tmp_path)} if durable else {}
    report = flow.run(runner, **options)
    assert seen == [id(value)]
    assert report.value("a") is value


# --- the context of a node ------------------------------------------------------------------------


@pytest.mark.row("B4", "B5", "B7")
@pytest.mark.parametrize("runner", RUNNERS)
def test_the_context_says_where_a_call_belongs(runner: str) -> None:
    seen: list[NodeCtx] = []
    hooks: list[Any] = []
    services = object()

    def body(ctx: NodeCtx, x: int) -> None:
        seen.append(ctx)

    def hook(ctx: Any, _event: Any) -> None:
        hooks.append(ctx)

    flow = Workflow("orders").add("n", body, take={"x": "inputs.x"})
    flow.run(runner, inputs={"x": 5}, run_id="r1", app_data=services, hooks=[hook])
    (ctx,) = seen
    assert (ctx.dag_name, ctx.node_id, ctx.run_id, ctx.attempt) == ("orders", "n", "r1", 1)
    assert dict(ctx.inputs) == {"x": 5}
    with pytest.raises(TypeError):
        ctx.inputs["x"] = 6  # type: ignore[index]
    assert ctx.app_data is services
    assert hooks[0].app_data is services
    assert (hooks[0].run_id, hooks[0].dag_name) == ("r1", "orders")
    assert ctx.invocation_key == "default"
    assert not ctx.cancelled


@pytest.mark.row("A26", "B6")
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_body_reads_other_nodes_values_without_a_declared_input(runner: str) -> None:
    found: dict[str, Any] = {}

    def look(ctx: NodeCtx) -> None:
        found["whole"] = ctx.cache.get("a", "result")
        found["key"] = ctx.cache.get("a", "x")
        found["part"] = ctx.cache.get("parts", "left")
        found["no part"] = ctx.cache.get("parts", "result", "none")
        found["input"] = ctx.cache.get("inputs", "i")
        found["failed"] = ctx.cache.get("bad", "result", "none")
        found["error"] = ctx.cache.get("bad", "error")["message"]
        found["unknown"] = (
            ctx.cache.get("nowhere", "x"),
            ctx.cache.get("a", "y", 7),
            ctx.cache.get("later", "result", "not yet"),
            ctx.cache.get("inputs", "no", "none"),
        )
        assert not hasattr(ctx.cache, "insert")

    flow = Workflow().add("a", returns({"x": 1})).add("bad", boom, on_failure="continue")
    flow.add("parts", returns({"left": 3, "right": 4}), outputs=["left", "right"])
    flow.add("look", look, after=["a", "bad", "parts"], trigger="done")
    flow.note("later", after=["look"])
    flow.add("uses", lambda i: i, take={"i": "inputs.i"})
    flow.run(runner, inputs={"i": 9})
    assert found == {
        "whole": {"x": 1},
        "key": 1,
        "part": 3,
        "no part": "none",
        "input": 9,
        "failed": "none",
        "error": "boom",
        "unknown": (None, 7, "not yet", "none"),
    }


def test_a_long_body_sees_that_its_run_shall_end() -> None:
    token = CancelToken()
    seen: list[bool] = []

    def body(ctx: NodeCtx) -> None:
        seen.append(ctx.cancelled)
        token.cancel("enough")
        seen.append(ctx.cancelled)

    Workflow().add("n", body).run(cancel=token)
    assert seen == [False, True]


# --- plans are shared, states are not -------------------------------------------------------------


def test_one_graph_runs_any_number_of_times_with_the_actions_of_the_moment() -> None:
    mine = Registry()
    mine.register(lambda: 1, "act")
    graph = Graph("g", [Node("n", "act")])
    assert [engine.run(graph, mine).value("n") for _ in range(3)] == [1, 1, 1]
    mine.register(lambda: 2, "act", replace=True)
    assert engine.run(graph, mine).value("n") == 2
    assert "act" not in registry


def test_an_executors_configuration_is_only_the_ground() -> None:
    flow = Workflow().add("bad", boom).note("free")
    graph = flow.graph(config=DagConfig(on_failure="continue"))
    stop = DagConfig(on_failure="stop")
    assert states(engine.run(graph, flow.registry, base_config=stop))["free"] == "completed"
    mine = RunOptions(config=stop)
    assert states(engine.run(graph, flow.registry, None, mine))["free"] == "cancelled"
