"""Running a DAG: what comes back, which options there are, and what stays readable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import (
    DAG,
    AddNodes,
    Graph,
    Input,
    Node,
    NodeCtx,
    NodeOutput,
    NodeSpec,
    RunOptions,
    Secret,
    action,
    engine,
)
from dagger_dsl.errors import (
    ConfigurationError,
    InputValidationError,
    MissingInputError,
    NodeExecutionError,
    NodeNotFound,
    NotExecuted,
    ValidationError,
)
from dagger_dsl.model.commands import Chain
from dagger_dsl.model.graph import GraphInput
from dagger_dsl.model.values import Literal
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
    with pytest.raises(NotExecuted, match="run it first"):
        dag["double"]
    with pytest.raises(NotExecuted, match="run it first"):
        dag.get_result("double")
    assert dag.get_result("double", 7) == 7
    dag.run()
    assert dag["double"] == 2
    assert dag.nodes["double"].result == 2
    assert dag.get_result("double", 7) == 2
    with pytest.raises(NodeNotFound, match="double"):  # a default is no excuse for a wrong name
        dag.get_result("doubel", 7)
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

    calls: dict[str, Callable[[], object]] = {
        "run": dag.run,
        "start": dag.start,
        "run_async": lambda: asyncio.run(main()),
    }
    with pytest.raises(ValidationError, match=r"'x' is int, but text\.result is str"):
        calls[call]()
    assert dag.report is None
    assert called == []


def test_a_missing_input_is_an_error_before_anything_runs() -> None:
    with DAG("flow") as dag:
        dag.add(action(double))
    with pytest.raises(MissingInputError, match="x"):
        dag.run()


def test_a_level_of_durability_without_a_database_is_refused(dag: DAG) -> None:
    with pytest.raises(ConfigurationError, match="give database_url= too"):
        dag.run({"x": 1}, durability="exit")


def test_options_are_checked_once_and_handed_on(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    class Report:
        outputs: dict[str, Any] = {"double": 1}  # noqa: RUF012 - a stand-in
        values: dict[str, Any] = {}  # noqa: RUF012
        sinks = ("double",)
        continued = False

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


# Secrets.

SECRET_TEXT = "topsecret-1234"


def reveal(key: Secret) -> int:
    return len(key.reveal())


def maybe(key: Secret | None = None) -> bool:
    return key is None


def stored_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("given", [SECRET_TEXT, Secret(SECRET_TEXT)])
@pytest.mark.parametrize("declared", [True, False])
def test_plain_text_for_a_secret_input_is_never_stored(
    tmp_path: Path, given: Any, declared: bool
) -> None:
    with DAG("flow") as dag:
        if declared:
            action(reveal)(dag.input("key", Secret))
        else:  # a parameter without a value is an input too
            dag.add(action(reveal))
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    assert dag.run({"key": given}, database_url=url) == len(SECRET_TEXT)
    assert SECRET_TEXT.encode() not in stored_bytes(tmp_path)
    assert dag.compile().inputs["key"].schema == Literal({"format": "secret"})


def test_a_graph_from_a_file_keeps_its_secrets_too(tmp_path: Path, registry: Registry) -> None:
    with DAG("flow") as dag:
        action(reveal)(dag.input("key", Secret))
    graph = Graph.from_yaml(dag.compile().to_yaml())
    options = RunOptions(database_url=f"sqlite:///{tmp_path / 'runs.db'}")
    report = engine.run(graph, registry, {"key": SECRET_TEXT}, options)
    assert report.outputs == {"reveal": len(SECRET_TEXT)}
    assert SECRET_TEXT.encode() not in stored_bytes(tmp_path)


def test_an_optional_secret_may_be_left_out() -> None:
    with DAG("flow") as dag:
        action(maybe)(dag.input("key", Secret | None, default=None))
    assert dag.run() is True
    assert dag.run({"key": None}) is True
    assert dag.run({"key": SECRET_TEXT}) is False


def test_a_secret_that_does_not_fit_its_schema_stays_hidden(registry: Registry) -> None:
    action(reveal)
    schema = {"format": "secret", "type": "string", "minLength": 100}
    graph = Graph(
        "flow",
        [Node("a", "reveal", [Input("key", "inputs.key")])],
        inputs=[GraphInput("key", schema)],
    )
    with pytest.raises(InputValidationError, match=r"secret inputs\.key does not fit") as caught:
        engine.run(graph, registry, {"key": SECRET_TEXT})
    assert SECRET_TEXT not in str(caught.value)


# Options and inputs of the wrong kind.


@pytest.mark.parametrize("call", ["run", "run_async", "start"])
def test_an_idempotency_key_needs_a_database(dag: DAG, call: str) -> None:
    def go() -> None:
        running = getattr(dag, call)(idempotency_key="k")
        if call == "run_async":
            asyncio.run(running)

    with pytest.raises(ConfigurationError, match="idempotency_key needs database_url="):
        go()


@pytest.mark.parametrize("wrong", [[1], "x", 5, []])
def test_inputs_are_a_mapping(dag: DAG, wrong: Any) -> None:
    with pytest.raises(InputValidationError, match="a mapping of names to values"):
        dag.run(wrong)


def test_a_wrong_value_is_shortened_in_the_message(dag: DAG) -> None:
    with pytest.raises(InputValidationError) as caught:
        dag.run({"x": "y" * 100_000})
    assert len(str(caught.value)) < 1_000


def test_a_runs_configuration_may_be_a_mapping(dag: DAG) -> None:
    assert dag.run(config={"max_attempts": 2}) == 2


@pytest.mark.parametrize("node_id", [5, None, [], {}])
def test_what_is_no_id_has_no_result(dag: DAG, node_id: Any) -> None:
    with pytest.raises(NodeNotFound, match="node not found"):
        dag.get_result(node_id)


@pytest.mark.parametrize("field", ["description", "author", "version", "instructions"])
def test_what_people_read_is_text(field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{field} is a text, not 5"):
        DAG("flow", **{field: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x" * 100_000, "\ud800", "", 5])
def test_wrong_names_are_refused_in_few_words(name: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DAG(name)
    assert len(str(caught.value)) < 300


def test_an_awaited_run_keeps_the_loop_free(dag: DAG) -> None:
    @action
    def where() -> int:
        return threading.get_ident()

    with DAG("flow") as dag:
        where()
    assert asyncio.run(dag.run_async()) != threading.get_ident()
    assert asyncio.run(dag.run_async(mode="sequential")) == threading.get_ident()
    assert dag.run() == threading.get_ident()


@pytest.mark.row("G4")
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_the_steps_of_a_chain_run_in_order(runner: str) -> None:
    order: list[str] = []

    @action
    def step(ctx: NodeCtx) -> None:
        order.append(ctx.node_id)

    @action
    def plan() -> NodeOutput:
        steps = Chain([NodeSpec("step") for _ in range(20)], after=["plan"])
        return NodeOutput.success({"steps": len(steps)}, commands=[AddNodes(steps)])

    with DAG("planned") as dag:
        plan()
    dag.registry.register(step.definition)
    dag.run(runner=runner)
    assert order == [f"step_{place}" for place in range(20)]


@pytest.mark.row("E20")
def test_a_join_after_a_disabled_node_still_runs() -> None:
    @action(trigger="none_failed")
    def join(one: int | None, other: int | None) -> tuple[int | None, int | None]:
        return one, other

    double_ = action(double)
    with DAG("partly") as dag:
        on: Any = double_.with_options(id="one")(1)
        off: Any = double_.with_options(id="other", enabled=False)(2)
        join(on, off)
    assert dag.run() == (2, None)
    assert dag.report.states()["other"] == "skipped"


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_an_interrupted_run_has_a_report_of_its_own(runner: str) -> None:
    dag = DAG("flow", registry=Registry())
    harm: list[type[BaseException]] = []

    @dag.node
    def first() -> int:
        return 1

    @dag.node
    def second(first: int) -> int:
        for each in harm:
            raise each
        return first

    dag.connect("first", "second")
    assert dag.run(runner=runner) == 1
    before = dag.report
    harm.append(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        dag.run(runner=runner)
    assert dag.report.run_id != before.run_id
    assert dag.report.status == "cancelled"
    assert dag.report.states()["first"] == "completed"
