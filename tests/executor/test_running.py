"""One engine behind every entry point: reports, runners, cancels, limits, resumes."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.dsl import DAG, action
from dagger_dsl.engine.control import CancelToken
from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    DagNotFound,
    ExecutionTimeout,
    InputValidationError,
    InvalidState,
    MissingInputError,
    NodeExecutionError,
    RunCancelled,
    RunExists,
    RunNotFound,
    RunPaused,
    UnknownInputError,
)
from dagger_dsl.executor import DagExecutor, WorkflowSpec
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.registry import Registry, current_registry
from dagger_dsl.store.cache import Cache, insert_value, parse_input_from_name

RUNNERS = ["sequential", "threads", "asyncio"]

DIAMOND = """\
name: diamond
nodes:
  - id: a
    action: start
  - id: b
    action: double
    inputs: [{name: x, reference: a.result}]
  - id: c
    action: double
    inputs: [{name: x, reference: a.result}]
  - id: d
    action: add
    inputs: [{name: x, reference: b.result}, {name: y, reference: c.result}]
"""


def start() -> int:
    return 21


def double(x: int) -> int:
    return 2 * x


def add(x: int, y: int) -> int:
    return x + y


@pytest.fixture
def diamond(executor: DagExecutor) -> DagExecutor:
    """An executor that has the diamond and its actions."""
    for fn in (start, double, add):
        executor.register_action(fn.__name__, fn)
    executor.load_yaml_string(DIAMOND)
    return executor


# --- making one ----------------------------------------------------------------------------------


@pytest.mark.row("A41", "D14")
def test_without_arguments_the_documented_defaults_hold() -> None:
    executor = DagExecutor()
    assert executor.config == DagConfig()
    assert executor.config.max_parallel_nodes == 4
    assert executor.storage.database.is_memory
    assert executor.execution_context is None
    executor.close()
    assert DagExecutor({"max_attempts": 3}).config.max_attempts == 3
    with pytest.raises(ConfigurationError, match="did you mean 'max_attempts'"):
        DagExecutor({"max_atempts": 3})


@pytest.mark.row("A41")
def test_an_option_that_an_executor_does_not_have_is_refused() -> None:
    for name, message in (("zz", "no field 'zz'"), ("databse_url", "mean 'database_url'")):
        with pytest.raises(ConfigurationError, match=message):
            DagExecutor(**{name: 1})  # type: ignore[arg-type]


def test_closing_releases_the_database(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    with DagExecutor(registry={"start": start}, database_url=url) as executor:
        report = executor.run(Graph("g", [Node("a", "start")]))
        assert (tmp_path / "state.db").exists()
    with pytest.raises(InvalidState, match="is closed"):
        executor.storage.load_run(report.run_id)
    with DagExecutor(registry={"start": start}, database_url=url) as again:
        assert again.storage.load_run(report.run_id).status == "completed"


@pytest.mark.row("A42")
def test_the_documents_attributes_are_there(diamond: DagExecutor) -> None:
    assert diamond.registry.contains("start")
    assert diamond.dags["diamond"].name == "diamond"
    assert diamond.sqlite_cache is diamond.storage
    assert isinstance(diamond.config, DagConfig)
    report = diamond.run("diamond")
    assert diamond.execution_context is report
    with pytest.raises(AttributeError):
        diamond.config = DagConfig()  # type: ignore[misc]


@pytest.mark.row("A55", "A56", "B12", "B13", "B14")
def test_actions_come_from_registries_mappings_and_modules() -> None:
    own = Registry()
    own.register_fn("start", start)
    executor = DagExecutor(registry=own)
    assert executor.registry is own
    executor.register_action("double", double)
    assert own.list_actions() == ["double", "start"]
    assert DagExecutor(registry={"begin": start}).registry.get("begin") is not None
    module = __import__("json")
    assert "dumps" in DagExecutor(registry=module).registry


@pytest.mark.row("O2")
def test_what_an_executor_registers_does_not_leak() -> None:
    before = current_registry().list_actions()
    executor = DagExecutor()
    executor.register_action("only_here", start)
    assert current_registry().list_actions() == before
    assert DagExecutor().registry.get("only_here") is None


# --- running -------------------------------------------------------------------------------------


@pytest.mark.row("A47", "A48", "A49", "A50", "E1", "E2")
@pytest.mark.parametrize("runner", RUNNERS)
def test_every_entry_point_gives_the_same_report(diamond: DagExecutor, runner: str) -> None:
    report = diamond.run("diamond", runner=runner)
    assert report.success
    assert report.status is RunStatus.COMPLETED
    assert report.outputs == {"d": 84}
    assert report.values == {"a": 21, "b": 42, "c": 42, "d": 84}
    assert report.completed_nodes == 4
    assert report.failed_nodes == report.skipped_nodes == 0
    for other in (
        diamond.execute_static_dag("diamond"),
        diamond.execute_dag(WorkflowSpec.static("diamond")),
        diamond.execute_dag_sequential("diamond"),
        asyncio.run(diamond.run_async("diamond")),
        diamond.start("diamond", runner=runner).result(10),
    ):
        assert other.outputs == report.outputs
        assert other.states() == report.states()
        assert other.run_id != report.run_id


@pytest.mark.row("A47", "E1")
def test_a_sequential_run_starts_nodes_in_topological_order(executor: DagExecutor) -> None:
    order: list[str] = []
    busy = []

    def note(ctx: NodeCtx) -> None:
        busy.append(1)
        assert len(busy) == 1, "one node at a time"
        order.append(ctx.node_id)
        busy.pop()

    executor.register_action("note", note)
    for node_id, after in (("z", []), ("a", []), ("m", ["z"]), ("b", ["a", "m"]), ("c", ["z"])):
        executor.add_node("flow", node_id, "note", after, create=True)
    executor.execute_dag_sequential("flow").raise_for_failure()
    assert order == executor.get_dag("flow").topological_order() == ["z", "a", "m", "c", "b"]


@pytest.mark.row("E2", "E3", "R1")
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_independent_nodes_overlap(executor: DagExecutor, runner: str) -> None:
    together = threading.Barrier(3, timeout=10)

    def meet() -> None:
        together.wait()

    executor.register_action("meet", meet)
    graph = Graph("three", [Node(each, "meet") for each in "abc"])
    assert executor.run(graph, runner=runner).success


@pytest.mark.row("R1")
def test_a_run_works_inside_a_running_loop(diamond: DagExecutor) -> None:
    async def inside() -> Any:
        return diamond.run("diamond"), await diamond.run_async("diamond")

    blocking, awaited = asyncio.run(inside())
    assert blocking.outputs == awaited.outputs == {"d": 84}


@pytest.mark.row("R4")
def test_in_one_process_values_pass_by_reference(executor: DagExecutor) -> None:
    made: list[object] = []

    def make() -> list[int]:
        made.append([1, 2])
        return made[0]  # type: ignore[return-value]

    def same(x: list[int]) -> bool:
        return x is made[0]

    executor.register_action("make", make)
    executor.register_action("same", same)
    graph = Graph("g", [Node("m", "make"), Node("s", "same", [Input("x", "m.result")])])
    assert executor.run(graph).value("s") is True


def test_graphs_and_dags_run_without_being_loaded(executor: DagExecutor) -> None:
    dag = DAG("own")

    @dag.node
    def first() -> int:
        return 20

    @dag.node
    def second(first: int) -> int:
        return first + 1

    first >> second
    assert executor.run(dag).outputs == {"second": 21}
    assert not executor.has_dag("own")
    with pytest.raises(ConfigurationError, match="a Graph or a DAG"):
        executor.run(42)  # type: ignore[arg-type]


def test_a_loaded_dag_keeps_the_actions_it_was_built_with(executor: DagExecutor) -> None:
    with Registry():

        @action
        def greet() -> str:
            return "from the DAG"

        with DAG("greeting") as dag:
            greet()
    executor.register_action("greet", lambda: "from the executor")
    executor.load(dag)
    report = executor.run("greeting")
    assert report.outputs == {"greet": "from the DAG"}
    assert executor.run(Graph("g", [Node("n", "greet")])).outputs == {"n": "from the executor"}


def test_a_loaded_dag_brings_its_handlers_too(executor: DagExecutor) -> None:
    with Registry() as apart:

        @action(on_error="patch")
        def fail() -> int:
            raise OSError("no")

        @action
        def patch() -> int:
            return 5

        apart.register(patch, replace=True)
        with DAG("handled", registry=apart) as dag:
            fail()
    executor.load(dag)
    assert executor.run("handled").outputs == {"fail": 5}


@pytest.mark.row("D27")
def test_a_graphs_configuration_beats_the_executors_field_by_field() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise OSError("no")

    config = DagConfig(max_attempts=3, on_failure="continue", retry_strategy="immediate")
    nodes = [Node("bad", "fail"), Node("good", "start", dependencies=[])]
    with DagExecutor(config, {"fail": fail, "start": start}) as executor:
        report = executor.run(Graph("g", nodes, config=DagConfig(max_attempts=2)))
        assert len(calls) == 2
        assert report.states()["good"] is NodeState.COMPLETED, "on_failure is still the executor's"
        calls.clear()
        executor.run(Graph("g", nodes), config=DagConfig(max_attempts=1))
        assert len(calls) == 1


@pytest.mark.row("B7")
def test_app_data_is_the_same_object_in_every_node(executor: DagExecutor) -> None:
    services = object()

    def look(ctx: NodeCtx) -> bool:
        return ctx.app_data is services

    executor.register_action("look", look)
    assert executor.run(Graph("g", [Node("n", "look")]), app_data=services).outputs == {"n": True}


# --- what enters ---------------------------------------------------------------------------------


@pytest.mark.row("A24")
def test_inputs_are_checked_before_anything_runs(executor: DagExecutor) -> None:
    called: list[int] = []

    def take(x: int) -> int:
        called.append(x)
        return x

    executor.register_action("take", take)
    executor.load(Graph("g", [Node("n", "take", [Input("x", "inputs.x")])]))
    assert executor.run("g", {"x": 1}).outputs == {"n": 1}
    with pytest.raises(MissingInputError, match="'x'"):
        executor.run("g")
    with pytest.raises(UnknownInputError, match="did you mean 'x'"):
        executor.run("g", {"x": 1, "xx": 2})
    with pytest.raises(InputValidationError, match="must be int"):
        executor.run("g", {"x": "one"})
    assert called == [1]


def test_misuse_is_raised_before_anything_runs(diamond: DagExecutor) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'max_workers'"):
        diamond.run("diamond", max_worker=3)
    with pytest.raises(ConfigurationError, match="runner must be one of"):
        diamond.run("diamond", runner="treads")
    with pytest.raises(ConfigurationError, match="records all of its runs in one database"):
        diamond.run("diamond", database_url="sqlite:other.db")
    with pytest.raises(ActionNotFound, match="did you mean 'start'"):
        diamond.run(Graph("g", [Node("n", "strat")]))
    with pytest.raises(DagNotFound):
        _ = diamond.start("dimond")
    assert diamond.storage.list_runs() == []


# --- the documents' cache ------------------------------------------------------------------------


@pytest.mark.row("R8", "A49", "A56", "C1", "C3")
def test_the_quick_start_of_document_003(executor: DagExecutor) -> None:
    """A cache goes in with inputs and comes out with results: 10 + 20."""

    def add_numbers(num1: float, num2: float) -> float:
        return num1 + num2

    executor.register_action("add_numbers", add_numbers)
    executor.load_yaml_string(
        """
name: my_workflow
nodes:
  - id: add
    action: add_numbers
    inputs:
      - name: num1
        reference: inputs.num1
      - name: num2
        reference: inputs.num2
    outputs:
      - name: sum
"""
    )
    cache = Cache()
    insert_value(cache, "inputs", "num1", 10.0)
    insert_value(cache, "inputs", "num2", 20.0)
    report = executor.execute_dag(WorkflowSpec.static("my_workflow"), cache, CancelToken())
    assert report.success
    assert cache.get("add", "sum") == 30.0
    assert report.outputs == {"add": 30.0}


@pytest.mark.row("R8", "A54", "C8")
def test_the_quick_start_in_the_documents_own_form(executor: DagExecutor) -> None:
    def add_numbers(_executor: Any, node: Node, cache: Cache) -> None:
        num1 = parse_input_from_name(cache, "num1", node.inputs, float)
        num2 = parse_input_from_name(cache, "num2", node.inputs, float)
        insert_value(cache, node.id, node.outputs[0].name, num1 + num2)

    executor.register_action("add_numbers", add_numbers)
    executor.load(
        Graph(
            "my_workflow",
            [
                Node(
                    "add",
                    "add_numbers",
                    [Input("num1", "inputs.num1"), Input("num2", "inputs.num2")],
                    outputs=["sum"],
                )
            ],
        )
    )
    cache = Cache({"inputs": {"num1": 10.0, "num2": 20.0}})
    executor.execute_static_dag("my_workflow", cache).raise_for_failure()
    assert cache["add"]["sum"] == 30.0


@pytest.mark.row("C8", "C10")
def test_what_a_function_of_the_old_form_inserts_is_in_the_cache(executor: DagExecutor) -> None:
    def count(_executor: Any, node: Node, cache: Cache) -> None:
        insert_value(cache, node.id, "rows", 3)
        insert_value(cache, "global", "seen", True)

    executor.register_action("count", count)
    cache = Cache()
    report = executor.run(Graph("g", [Node("n", "count")]), cache=cache).raise_for_failure()
    assert cache.get("n", "rows") == 3
    assert cache.get("global", "seen") is True
    again = Cache()
    assert executor.resume(report.run_id, cache=again).outputs == {"n": {"rows": 3}}
    assert dict(again["n"]) == {"result": {"rows": 3}, "rows": 3} == dict(cache["n"])


def test_a_cache_gives_only_the_inputs_that_the_graph_has(diamond: DagExecutor) -> None:
    diamond.load(Graph("g", [Node("n", "double", [Input("x", "inputs.x")])]))
    cache = Cache({"inputs": {"x": 1, "of_another_graph": 2}, "other": {"x": 5}})
    assert diamond.run("g", cache=cache).outputs == {"n": 2}
    assert diamond.run("g", {"x": 4}, cache=cache).outputs == {"n": 8}, "what is given wins"
    assert cache.get("inputs", "of_another_graph") == 2


@pytest.mark.row("H7")
def test_a_cache_gets_every_output_and_every_error(executor: DagExecutor) -> None:
    def several() -> NodeOutput:
        return NodeOutput.success({"left": [1], "right": None})

    def fail(x: Any) -> None:
        raise KeyError("gone")

    executor.register_action("several", several)
    executor.register_action("fail", fail)
    nodes = [
        Node("s", "several", outputs=["left", "right"]),
        Node("f", "fail", [Input("x", "s.left")]),
    ]
    cache = Cache()
    report = executor.run(Graph("g", nodes), cache=cache)
    assert not report.success
    assert dict(cache["s"]) == {"left": [1], "right": None}
    assert cache["f"]["error"]["type"] == "KeyError"
    assert "test_running.py" in cache["f"]["error"]["traceback"]


# --- how runs end --------------------------------------------------------------------------------


@pytest.mark.row("H3", "H4", "H5")
def test_a_failure_is_in_the_report_and_raised_only_when_asked_for(executor: DagExecutor) -> None:
    class BadRowError(Exception):
        pass

    original = BadRowError("row 7")

    def fail() -> None:
        raise original

    executor.register_action("fail", fail)
    report = executor.run(Graph("g", [Node("n", "fail"), Node("m", "fail", dependencies=["n"])]))
    assert report.status is RunStatus.FAILED
    assert (report.failed_nodes, report.completed_nodes) == (1, 0)
    assert report.error is not None
    assert "row 7" in str(report.error)
    with pytest.raises(NodeExecutionError) as caught:
        report.raise_for_failure()
    assert caught.value.node_id == "n"
    assert caught.value.__cause__ is original


@pytest.mark.row("E5", "E6")
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_cancelled_run_keeps_what_ended(executor: DagExecutor, runner: str) -> None:
    token = CancelToken()

    def quick() -> int:
        return 1

    def long(ctx: NodeCtx) -> None:
        token.cancel("changed my mind")
        while not ctx.cancelled:
            time.sleep(0.001)

    for fn in (quick, long):
        executor.register_action(fn.__name__, fn)
    nodes = [
        Node("a", "quick"),
        Node("b", "long", dependencies=["a"]),
        Node("c", "quick", dependencies=["b"]),
    ]
    report = executor.run(Graph("g", nodes), runner=runner, cancel=token)
    assert report.status is RunStatus.CANCELLED
    assert report.reason == "changed my mind"
    assert report.value("a") == 1
    assert report.states()["c"] is NodeState.CANCELLED
    with pytest.raises(RunCancelled, match="changed my mind"):
        report.raise_for_failure()


@pytest.mark.row("E6")
def test_a_run_in_the_background_is_cancelled_by_its_handle(executor: DagExecutor) -> None:
    begun = threading.Event()

    def last() -> Any:
        return executor.execution_context

    assert last() is None

    def long(ctx: NodeCtx) -> None:
        begun.set()
        while not ctx.cancelled:
            time.sleep(0.001)

    executor.register_action("long", long)
    handle = executor.start(Graph("g", [Node("n", "long"), Node("m", "long", dependencies=["n"])]))
    assert begun.wait(10)
    assert not handle.done
    assert last() is None
    assert not executor.is_paused()
    handle.cancel("enough")
    report = handle.result(10)
    assert report.status is RunStatus.CANCELLED
    assert last() is report
    assert executor.storage.load_run(handle.run_id).status == "cancelled"


@pytest.mark.row("E7", "E8")
def test_limits_end_nodes_and_runs(executor: DagExecutor) -> None:
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)

    executor.register_action("sleep", sleep)
    slow = Graph("g", [Node("n", "sleep", [Input("seconds", value=30.0)], timeout=0.05)])
    report = executor.run(slow)
    assert report.status is RunStatus.FAILED
    assert "NodeTimeout" in str(report.error)
    endless = Graph("g", [Node("n", "sleep", [Input("seconds", value=30.0)])])
    report = executor.run(endless, timeout=0.05)
    assert report.status is RunStatus.TIMED_OUT
    with pytest.raises(ExecutionTimeout):
        report.raise_for_failure()


# --- recorded runs -------------------------------------------------------------------------------


class Fickle:
    """An action that fails until it is told not to."""

    def __init__(self) -> None:
        self.calls = 0
        self.works = False

    def __call__(self) -> int:
        self.calls += 1
        if not self.works:
            raise OSError("not yet")
        return 7


@pytest.mark.row("E9", "E10")
def test_a_paused_run_is_resumed_by_its_id(executor: DagExecutor) -> None:
    fickle, calls = Fickle(), []

    def once() -> int:
        calls.append(1)
        return 1

    executor.register_action("once", once)
    executor.register_action("fickle", fickle)
    executor.register_action("add", add)
    nodes = [
        Node("a", "once"),
        Node("b", "fickle", dependencies=["a"], on_failure="pause"),
        Node("c", "add", [Input("x", "a.result"), Input("y", "b.result")]),
    ]
    report = executor.run(Graph("g", nodes))
    assert report.status is RunStatus.PAUSED
    assert executor.is_paused()
    assert executor.is_paused(report.run_id)
    with pytest.raises(RunPaused):
        report.raise_for_failure()
    fickle.works = True
    cache = Cache()
    again = executor.resume(report.run_id, cache=cache)
    assert again.run_id == report.run_id
    assert again.outputs == {"c": 8}
    assert cache.get("c", "result") == 8
    assert not executor.is_paused()
    assert not executor.is_paused(report.run_id)
    assert (len(calls), fickle.calls) == (1, 2)
    with pytest.raises(RunNotFound):
        executor.is_paused("nobody")


def test_a_failed_run_is_resumed_in_another_executor(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    fickle = Fickle()
    graph = Graph("g", [Node("a", "start"), Node("b", "fickle", dependencies=["a"])])
    with DagExecutor(registry={"start": start, "fickle": fickle}, database_url=url) as executor:
        report = executor.run(graph, run_id="run_001")
        assert report.status is RunStatus.FAILED
    fickle.works = True
    with DagExecutor(registry={"start": start, "fickle": fickle}, database_url=url) as other:
        again = other.resume("run_001")
        assert again.values == {"a": 21, "b": 7}
        assert again.node_reports["a"].restored
        assert again.node_reports["b"].attempts == 2
        with pytest.raises(RunExists):
            other.run(graph, run_id="run_001")
    with (
        DagExecutor(registry={}, database_url=url) as third,
        pytest.raises(RunNotFound),
    ):
        third.resume("run_002")


def test_a_resume_finds_the_actions_of_loaded_dags(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    works = False

    def build() -> DAG:
        dag = DAG("own", registry=Registry())

        @dag.node
        def flaky() -> int:
            if not works:
                raise OSError("not yet")
            return 3

        return dag

    with DagExecutor(registry={}, database_url=url) as executor:
        run_id = executor.run(build()).run_id
        with pytest.raises(ActionNotFound, match=r"own\.flaky"):
            executor.resume(run_id)
        executor.load(build())
        works = True
        assert executor.resume(run_id).outputs == {"flaky": 3}


def test_one_idempotency_key_is_one_run(diamond: DagExecutor) -> None:
    first = diamond.run("diamond", idempotency_key="monday")
    second = diamond.run("diamond", idempotency_key="monday")
    assert first.run_id == second.run_id
    assert second.outputs == {"d": 84}


@pytest.mark.row("P13")
def test_runs_can_be_queried_with_sql(diamond: DagExecutor) -> None:
    report = diamond.run("diamond")
    rows = diamond.storage.query("SELECT * FROM node_runs WHERE run_id = ?", (report.run_id,))
    assert {row["node_id"]: row["state"] for row in rows} == dict.fromkeys("abcd", "completed")


@pytest.mark.row("N1", "N3")
def test_the_tree_of_a_run_is_drawn_by_graph_or_by_run(executor: DagExecutor) -> None:
    fickle = Fickle()
    executor.register_action("fickle", fickle)
    executor.register_action("start", start)
    executor.load(Graph("g", [Node("a", "start"), Node("b", "fickle", dependencies=["a"])]))
    assert 'label="b\\nStatus: Pending"' in executor.serialize_tree_to_dot("g")
    first = executor.run("g")
    red = '"b" [fillcolor=lightcoral, label="b\\nStatus: Failed"];'
    assert red in executor.serialize_tree_to_dot("g")
    fickle.works = True
    executor.run("g")
    assert executor.serialize_tree_to_dot("g").count("lightgreen") == 2
    assert red in executor.serialize_tree_to_dot(first.run_id)
    assert '"a" -> "b";' in executor.serialize_tree_to_dot(first.run_id)


# --- dry runs ------------------------------------------------------------------------------------


@pytest.mark.row("R10")
def test_a_dry_run_prints_the_plan_and_calls_nothing(
    executor: DagExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(x: int = 0) -> None:
        raise AssertionError("called")

    executor.register_action("never", never)
    nodes = [
        Node("extract", "never", [Input("x", "inputs.x")]),
        Node("b", "never", dependencies=["extract"]),
        Node("never", "never", dependencies=["extract"]),
    ]
    executor.load(Graph("flow", nodes))
    report = executor.run("flow", {"x": 1}, dry_run=True)
    assert capsys.readouterr().out == (
        "dry run of 'flow': 3 nodes, nothing is called\n"
        "  1. extract (never)\n"
        "  2. b (never), never\n"
    )
    assert report.pending_nodes == 3
    assert not report.success
    assert executor.dry_run("flow", {"x": 1}).states() == report.states()
    assert executor.storage.list_runs() == []
    assert executor.execution_context is None


@pytest.mark.row("R10", "A38")
def test_a_dry_run_refuses_what_a_run_would_refuse(executor: DagExecutor) -> None:
    executor.register_action("double", double)
    executor.load(Graph("g", [Node("n", "double", [Input("x", "inputs.x")])]))
    with pytest.raises(MissingInputError):
        executor.dry_run("g")
    with pytest.raises(InputValidationError):
        executor.dry_run("g", {"x": "one"})
    with pytest.raises(ActionNotFound):
        executor.dry_run(Graph("g", [Node("n", "nobody")]))
    with pytest.raises(ConfigurationError):
        executor.dry_run("g", {"x": 1}, runner="treads")
