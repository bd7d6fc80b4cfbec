"""Running a DAG: what comes back, which options there are, and what stays readable."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dagger_dsl import DAG, action, engine
from dagger_dsl.errors import (
    ConfigurationError,
    MissingInputError,
    NodeExecutionError,
    NodeNotFound,
    NotExecuted,
    ValidationError,
)
from dagger_dsl.registry import Registry


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def double(x: int) -> int:
    return 2 * x


def fail(x: int) -> int:
    raise ZeroDivisionError("on purpose")


@pytest.fixture
def dag() -> DAG:
    with DAG("flow") as dag:
        action(double)(dag.input("x", int, default=1))
    return dag


@pytest.mark.row("K10", "K11", "K16", "K19")
def test_one_sink_gives_its_value(dag: DAG) -> None:
    assert dag.run() == 2
    assert dag.run({"x": 4}) == 8
    assert dag.run(inputs={"x": 5}, mode="sequential") == 10


@pytest.mark.row("K19")
def test_several_sinks_give_a_mapping_in_declaration_order(dag: DAG) -> None:
    double_ = dag.registry["double"]
    with dag:
        dag.add(double_, id="second", x=dag.nodes["double"])
        dag.add(double_, id="third", x=dag.nodes["double"])
    result = dag.run()
    assert result == {"second": 4, "third": 4}
    assert list(result) == ["second", "third"]


def test_the_whole_value_of_a_node_with_several_outputs_can_be_an_argument() -> None:
    @action(outputs=["a", "b"])
    def split() -> dict[str, int]:
        return {"a": 1, "b": 2}

    @action
    def total(parts: dict[str, int]) -> int:
        return sum(parts.values())

    with DAG("flow") as dag:
        total(split())
    assert dag.compile().nodes["total"].inputs[0].reference == "split.result"
    assert dag.run() == 3


@pytest.mark.row("K20", "K21")
def test_values_of_the_last_run_are_read_by_id(dag: DAG) -> None:
    with pytest.raises(NotExecuted, match="run the DAG first"):
        dag["double"]
    with pytest.raises(NotExecuted, match="run the DAG first"):
        dag.get_result("double")
    assert dag.get_result("double", 7) == 7
    dag.run()
    assert dag["double"] == 2
    assert dag.nodes["double"].result == 2
    assert dag.get_result("double", 7) == 2
    assert dag.report.values["double"] == 2
    with pytest.raises(NodeNotFound, match="did you mean 'double'"):
        dag["duoble"]


def test_the_first_unhandled_failure_is_raised_and_the_report_kept() -> None:
    with DAG("flow") as dag:
        before = action(double)(1)
        action(fail)(before)
    with pytest.raises(NodeExecutionError) as caught:
        dag.run()
    assert caught.value.node_id == "fail"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert dag["double"] == 2
    with pytest.raises(NotExecuted, match="did not complete"):
        dag["fail"]


@pytest.mark.row("K12", "K14")
@pytest.mark.parametrize("mode", ["sequential", "sync", "parallel", "async"])
def test_modes_of_document_002_name_runners(dag: DAG, mode: str) -> None:
    assert dag.run({"x": 3}, mode=mode) == 6


def test_async_runs_share_the_callers_loop(dag: DAG) -> None:
    async def main() -> Any:
        return await dag.run_async({"x": 3})

    assert asyncio.run(main()) == 6
    assert dag["double"] == 6


def test_a_run_in_the_background_gives_a_handle(dag: DAG) -> None:
    handle = dag.start({"x": 3})
    assert handle.result(timeout=10).outputs == {"double": 6}


@pytest.mark.parametrize("call", ["run", "start"])
def test_an_unknown_option_is_never_an_input(dag: DAG, call: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no run option 'x'.*inputs=\{...\}"):
        getattr(dag, call)(x=3)
    with pytest.raises(ConfigurationError, match="did you mean 'max_workers'"):
        getattr(dag, call)(max_worker=3)
    with pytest.raises(ConfigurationError, match="one option"):
        getattr(dag, call)(mode="sync", runner="threads")
    with pytest.raises(ConfigurationError, match="runner must be one of"):
        getattr(dag, call)(mode="fast")


@pytest.mark.row("A38")
@pytest.mark.parametrize("call", ["run", "start", "run_async"])
def test_nothing_runs_when_the_graph_is_wrong(call: str) -> None:
    called: list[str] = []

    @action
    def text() -> str:
        called.append("text")
        return "x"

    with DAG("flow") as dag:
        dag.add(action(double), x=text)

    async def main() -> None:
        await dag.run_async()

    calls = {"run": dag.run, "start": dag.start, "run_async": lambda: asyncio.run(main())}
    with pytest.raises(ValidationError, match=r"'x' is int, but text\.result is str"):
        calls[call]()
    assert dag.report is None
    assert called == []


def test_a_missing_input_is_an_error_before_anything_runs() -> None:
    with DAG("flow") as dag:
        dag.add(action(double))
    with pytest.raises(MissingInputError, match="x"):
        dag.run()


def test_options_are_checked_once_and_handed_on(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    class Report:
        outputs: dict[str, Any] = {"double": 1}  # noqa: RUF012 - a stand-in
        values: dict[str, Any] = {}  # noqa: RUF012

        def raise_for_failure(self) -> None: ...

    seen: list[Any] = []

    def run(graph: Any, registry: Any, inputs: Any, options: Any) -> Report:
        seen.append((graph, registry, inputs, options))
        return Report()

    monkeypatch.setattr(engine, "run", run)
    hooks = [object()]
    assert dag.run({"x": 1}, runner="threads", max_workers=3, hooks=hooks, timeout=5) == 1
    ((graph, registry, inputs, options),) = seen
    assert graph is dag.compile()
    assert registry is dag.registry
    assert inputs == {"x": 1}
    assert (options.runner, options.max_workers, options.timeout) == ("threads", 3, 5.0)
    assert options.hooks == tuple(hooks)
    assert options.database_url is None
