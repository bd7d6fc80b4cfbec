"""Calling actions inside a DAG: nodes, arguments, ids, inputs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dagger_dsl import DAG, Input, NodeCtx, Output, action
from dagger_dsl.dsl import NodeBuilder, active_dag
from dagger_dsl.errors import (
    ConfigurationError,
    EncodingError,
    InvalidState,
    NodeAlreadyExists,
    NodeNotFound,
    RegistryError,
    ValidationError,
)
from dagger_dsl.model.graph import GraphInput
from dagger_dsl.model.values import Literal
from dagger_dsl.registry import Registry


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def dag() -> DAG:
    return DAG("flow")


def load(path: str) -> list[int]:
    return []


def clean(rows: list[int], limit: int = 10) -> list[int]:
    return rows


def join(left: Any, right: Any) -> Any:
    return left, right


def bound(dag: DAG, node_id: str) -> dict[str, Any]:
    """Return a node's inputs: references as text, literals as values."""
    return {
        each.name: each.value if each.reference is None else f"-> {each.reference}"
        for each in dag.compile().nodes[node_id].inputs
    }


def test_calls_place_nodes_and_arguments_become_inputs(dag: DAG) -> None:
    load_, clean_ = action(load), action(clean)
    with dag:
        rows = load_("a.csv")
        clean_(rows, limit=3)
    graph = dag.compile()
    assert list(graph.nodes) == ["load", "clean"]
    assert bound(dag, "load") == {"path": "a.csv"}
    assert bound(dag, "clean") == {"rows": "-> load.result", "limit": 3}
    assert graph.nodes["clean"].dependencies == ("load",)
    assert graph.name == "flow"


def test_inputs_stand_in_the_order_of_the_parameters(dag: DAG) -> None:
    join_ = action(join)
    with dag:
        join_(right=1, left=2)
    assert list(bound(dag, "join")) == ["left", "right"]


def test_ids_follow_the_action_and_count_up(dag: DAG) -> None:
    load_ = action(load)
    with dag:
        load_("a")
        load_.with_options(id="load_2")("b")
        load_("c")
        load_("d")
    assert list(dag.nodes) == ["load", "load_2", "load_3", "load_4"]
    with dag, pytest.raises(NodeAlreadyExists, match="'load_2' exists already"):
        load_.with_options(id="load_2")("e")


@pytest.mark.row("K5")
def test_handles_are_found_by_id_and_an_unknown_id_lists_them(dag: DAG) -> None:
    load_ = action(load)
    with dag:
        handle: Any = load_("a")
    assert dag.nodes["load"] is handle
    assert "load" in dag.nodes
    assert "x" not in dag.nodes
    assert dag.nodes.get("x") is None
    assert len(dag.nodes) == 1
    with pytest.raises(NodeNotFound, match="'laod'; did you mean 'load'"):
        dag.nodes["laod"]
    with pytest.raises(KeyError, match="'x'; known: 'load'"):
        dag.nodes["x"]


def test_two_nodes_with_one_id_are_refused_however_they_come(dag: DAG) -> None:
    load_ = action(load)
    with dag:
        dag.add(load_, "a", id="first")
        with pytest.raises(NodeAlreadyExists):
            dag.add(load_, "b", id="first")
    for bad in ("", "a.b", "inputs", "x" * 201, "a\0"):
        with pytest.raises(ValidationError):
            dag.add(load_, "a", id=bad)


@pytest.mark.row("A2")
def test_add_places_actions_functions_and_names(dag: DAG, registry: Registry) -> None:
    load_ = action(load)
    dag.add(load_, "a")
    dag.add("load", path="b", id="by_name")
    dag.add(load, "c")  # registered under its own name, so it means that action
    dag.add(clean, rows=dag.nodes["load"])  # not registered: belongs to this DAG
    dag.add(clean, rows=dag.nodes["by_name"])
    graph = dag.compile()
    assert [(node.id, node.action) for node in graph.nodes.values()] == [
        ("load", "load"),
        ("by_name", "load"),
        ("load_2", "load"),
        ("clean", "flow.clean"),
        ("clean_2", "flow.clean"),
    ]
    assert dag.registry["flow.clean"].fn is clean
    assert "flow.clean" not in registry
    with pytest.raises(ValidationError, match="did you mean 'load'"):
        dag.add("laod")
    with pytest.raises(RegistryError):
        dag.add(3)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, 2, 3), {}, r"takes 2 arguments by position \(rows, limit\), not 3"),
        ((1,), {"rows": 2}, "'rows' by position and by name"),
        ((), {"row": 1}, "no parameter 'row'; did you mean 'rows'"),
        ((), {"timeout": 1}, r"with_options\(timeout=...\)"),
        ((), {"rows": "text"}, r"rows must be list\[int\], not str 'text'"),
    ],
)
def test_arguments_that_the_function_cannot_take_are_refused(
    dag: DAG, args: Any, kwargs: Any, message: str
) -> None:
    clean_: Any = action(clean)
    with dag, pytest.raises(ValidationError, match=message):
        clean_(*args, **kwargs)
    assert list(dag.nodes) == []


def test_the_context_is_no_argument(dag: DAG) -> None:
    @action
    def step(x: int, ctx: NodeCtx) -> int:
        return x

    any_step: Any = step
    with dag:
        any_step(1)
        with pytest.raises(ValidationError, match="gets its 'ctx' from the engine"):
            any_step(1, ctx=2)
    assert bound(dag, "step") == {"x": 1}


def test_literals_are_copied_when_they_are_given(dag: DAG) -> None:
    clean_ = action(clean)
    rows = [1]
    with dag:
        clean_(rows)
    rows.append(2)
    assert bound(dag, "clean") == {"rows": [1]}


def test_values_that_cannot_be_stored_are_refused_at_the_call(dag: DAG) -> None:
    join_ = action(join)
    with dag, pytest.raises(EncodingError, match="action 'join': 'left'"):
        join_(object(), 1)


@pytest.mark.parametrize("container", [lambda h: [h], lambda h: {"a": [1, h]}, lambda h: (h,)])
def test_handles_inside_containers_are_refused_with_the_way_out(dag: DAG, container: Any) -> None:
    load_, join_ = action(load), action(join)
    with dag:
        handle = load_("a")
        with pytest.raises(ConfigurationError, match="a handle is a whole argument"):
            join_(container(handle), 1)


def test_handles_stay_in_their_dag(dag: DAG) -> None:
    load_, join_ = action(load), action(join)
    with DAG("other"):
        foreign = load_("a")
    with dag:
        mine = load_("a")
        with pytest.raises(ConfigurationError, match="belongs to another DAG than 'flow'"):
            join_(foreign, 1)
        with pytest.raises(ConfigurationError, match="both ends belong to one"):
            mine >> foreign  # type: ignore[operator]


def test_an_action_as_argument_means_its_one_node(dag: DAG) -> None:
    load_, join_ = action(load), action(join)
    with dag:
        join_(load_, load_)
    assert bound(dag, "join") == {"left": "-> load.result", "right": "-> load.result"}


@pytest.mark.row("A4", "A25")
def test_outputs_are_taken_by_name(dag: DAG) -> None:
    @action(outputs={"left": "the small ones", "right": ""})
    def split(x: int) -> dict[str, int]:
        return {"left": x, "right": x}

    join_: Any = action(join)
    with dag:
        handle: Any = split(1)
        join_(handle.out.left, handle["right"])
        join_(split.out["left"], handle)
        for wrong in (lambda: handle.out.lft, lambda: handle["lft"], lambda: split.out.lft):
            with pytest.raises(ValidationError, match="no output 'lft'; did you mean 'left'"):
                wrong()
        assert not hasattr(handle.out, "__len__")
    assert bound(dag, "join") == {"left": "-> split.left", "right": "-> split.right"}
    assert bound(dag, "join_2") == {"left": "-> split.left", "right": "-> split.result"}
    assert dag.compile().nodes["split"].outputs == (
        Output("left", "the small ones"),
        Output("right"),
    )


def test_an_only_output_is_what_the_handle_stands_for(dag: DAG) -> None:
    load_ = action(load, outputs=["rows"])
    clean_ = action(clean)
    with dag:
        handle: Any = load_("a")
        clean_(handle)
        clean_(handle.out.result)
        with pytest.raises(ValidationError, match="declares none"):
            dag.nodes["clean"].out.rows
    assert bound(dag, "clean") == {"rows": "-> load.rows"}
    assert bound(dag, "clean_2") == {"rows": "-> load.result"}


def test_a_handle_cannot_be_looked_at_while_the_graph_is_built(dag: DAG) -> None:
    load_ = action(load)
    with dag:
        handle: Any = load_("a")
        number = dag.input("n")
        for look in (
            lambda: bool(handle),
            lambda: handle and 1,
            lambda: not number,
            lambda: bool(handle.out.result),
            lambda: list(handle),
            lambda: 1 in handle,
        ):
            with pytest.raises(InvalidState, match="a value that a run will compute"):
                look()
        assert bool(load_)
        assert handle == handle
        assert len({handle, handle}) == 1


@pytest.mark.row("A24")
def test_declared_inputs_are_arguments(dag: DAG) -> None:
    clean_ = action(clean)
    limit = dag.input("limit", int, default=5, description="how many")
    with dag:
        clean_(dag.input("rows"), limit)
    assert bound(dag, "clean") == {"rows": "-> inputs.rows", "limit": "-> inputs.limit"}
    graph = dag.compile()
    assert graph.nodes["clean"].dependencies == ()
    assert graph.inputs["limit"] == GraphInput(
        "limit", {"type": "integer"}, 5, required=False, description="how many"
    )
    assert graph.inputs["rows"] == GraphInput("rows")
    assert dag.input("limit", int, default=5, description="how many") is limit


def test_bad_declarations_of_inputs_are_refused(dag: DAG) -> None:
    dag.input("x", int)
    with pytest.raises(ConfigurationError, match="declared already"):
        dag.input("x", str)
    with pytest.raises(ConfigurationError, match="must be int, not str"):
        dag.input("y", int, default="no")
    for bad in ("", 3, "a\0", "a.b c", "x" * 201, "\ud800"):
        with pytest.raises(ConfigurationError, match=r"an input's name|not valid Unicode"):
            dag.input(bad)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"an input's name|not valid Unicode"):
            DAG("flow", inputs={bad: int})  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="no dot"):
        DAG("flow", inputs=[GraphInput("a.b")])
    for kind in ("zz", 5, [int], {"type": "string"}):
        with pytest.raises(ConfigurationError, match="a class or an annotation"):
            DAG("flow", inputs={"a": kind})
    with pytest.raises(ConfigurationError, match="a list of names"):
        DAG("flow", inputs="abc")
    clean_ = action(clean)
    with dag, pytest.raises(ValidationError, match="no value in common"):
        clean_(dag.input("z", str))


def test_inputs_may_be_declared_with_the_dag() -> None:
    dag = DAG("d", inputs={"path": str, "n": int, "free": None})
    assert list(dag.compile().inputs) == ["path", "n", "free"]
    assert dag.inputs["n"].annotation is int
    dag = DAG("d", inputs=["a", GraphInput("b", required=False)])
    assert [each.required for each in dag.compile().inputs.values()] == [True, False]


@pytest.mark.row("A24")
def test_parameters_without_value_or_default_become_inputs_of_the_graph(dag: DAG) -> None:
    @action(inputs={"path": "where"})
    def read(path: str, mode: str = "r") -> str:
        return path

    @action
    def maybe(name: str | None) -> None: ...

    any_read: Any = read
    any_maybe: Any = maybe
    with dag:
        any_read()
        any_maybe()
    assert bound(dag, "read") == {"path": "-> inputs.path"}
    assert dag.compile().inputs == {
        "path": GraphInput("path", {"type": "string"}, description="where"),
        "name": GraphInput(
            "name",
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
            default=Literal(None),
            required=False,
        ),
    }
    assert dag.compile().nodes["read"].inputs == (
        Input("path", "inputs.path", description="where"),
    )


def test_nodes_may_share_an_input_that_is_required_if_one_requires_it(dag: DAG) -> None:
    @action
    def strict(n: int) -> None: ...

    @action
    def lax(n: int | None) -> None: ...

    any_lax: Any = lax
    any_strict: Any = strict
    with dag:
        any_lax()
        any_strict()
    assert dag.compile().inputs == {"n": GraphInput("n")}
    assert dag.validate().problems == ()


def test_a_declared_input_wins_over_what_parameters_say(dag: DAG) -> None:
    clean_: Any = action(clean)
    dag.input("rows", description="declared")
    with dag:
        clean_()
    assert dag.compile().inputs["rows"].description == "declared"


def test_actions_that_take_any_input_are_given_all(dag: DAG) -> None:
    @action
    def gather(first: int, **rest: int) -> int:
        return first

    @action
    def transform(input: dict[str, Any]) -> Any: ...

    any_gather: Any = gather
    any_transform: Any = transform
    with dag:
        any_gather(second=2)
        any_transform(text="a")
        any_transform()
    assert bound(dag, "gather") == {"first": "-> inputs.first", "second": 2}
    assert bound(dag, "transform") == {"text": "a"}
    assert bound(dag, "transform_2") == {"input": "-> inputs.input"}


def test_two_actions_of_one_name_are_told_apart(dag: DAG) -> None:
    def make(number: int) -> Any:
        @action
        def step() -> int:
            return number

        return step

    with dag:
        make(1)()
        with pytest.raises(RegistryError, match="has another action 'step' already"):
            make(2)()
    assert dag.registry["step"].fn() == 1


def test_a_function_that_was_defined_again_unchanged_is_the_same(dag: DAG) -> None:
    def cell() -> Any:
        @action
        def step() -> int:
            return 1

        return step

    with dag:
        cell()()
        cell()()
    assert list(dag.nodes) == ["step", "step_2"]


def test_blocks_nest_and_end_even_by_an_error(dag: DAG) -> None:
    load_ = action(load)
    assert active_dag() is None
    with DAG("outer") as outer:
        load_("a")
        with dag:
            load_("b")
            assert active_dag() is dag
        load_("c")
        with pytest.raises(KeyError), dag:
            raise KeyError("x")
        assert active_dag() is outer
    assert active_dag() is None
    assert (len(outer), len(dag)) == (2, 1)
    with dag:
        load_("d")
    assert len(dag) == 2


def test_a_block_is_seen_by_its_own_thread_and_tasks_only() -> None:
    load_ = action(load)

    async def build(name: str) -> DAG:
        with DAG(name) as dag:
            for i in range(5):
                load_(f"{name}{i}")
                await asyncio.sleep(0)
        return dag

    async def both() -> tuple[DAG, DAG]:
        return await asyncio.gather(build("a"), build("b"))

    first, second = asyncio.run(both())
    assert (len(first), len(second)) == (5, 5)
    assert bound(first, "load_3") == {"path": "a2"}

    seen: list[Any] = []
    with DAG("main"):
        thread = threading.Thread(target=lambda: seen.append(load_("x")))
        thread.start()
        thread.join()
    assert seen == [[]]


def test_options_of_the_node_reach_the_graph(dag: DAG) -> None:
    @action
    def explain(error: Exception) -> None: ...

    load_ = action(load, timeout=5, description="from the action", version="1")
    with dag:
        load_("a")
        load_.with_options(
            id="other",
            timeout=7,
            attempts=2,
            on_failure="pause",
            failure=explain,
            fallback="spare",
            cache=True,
            trigger="done",
            effects="at_most_once",
            keep=False,
            description="own",
            instructions="be quick",
            metadata={"team": "a"},
            max_parallel=3,
            map_over="path",
            branch="main",
            enabled=False,
            outputs=["rows"],
        )(["b"])  # type: ignore[arg-type]
    first, other = dag.compile().nodes.values()
    assert (first.timeout, first.description) == (5.0, "from the action")
    assert other.timeout == 7.0
    assert other.try_count == 2
    assert (str(other.on_failure), other.failure, other.fallback) == ("pause", "explain", "spare")
    assert other.cache_strategy is not None
    assert (str(other.trigger), str(other.effects)) == ("done", "at_most_once")
    assert (other.keep, other.enabled, other.branch) == (False, False, "main")
    assert (other.description, other.instructions) == ("own", "be quick")
    assert other.metadata == {"team": "a"}
    assert (other.max_parallel, other.map_over) == (3, "path")
    assert other.outputs == (Output("rows"),)
    assert "explain" in dag.registry


def test_a_dag_keeps_the_actions_it_was_built_with() -> None:
    with Registry() as inner:
        load_ = action(load)
        with DAG("d") as dag:
            load_("a")
        inner.reset()
    assert dag.registry["load"].fn is load
    assert dag.validate().problems == ()


def test_handles_and_dags_say_what_they_are(dag: DAG) -> None:
    load_ = action(load)
    with dag:
        handle: Any = load_("a")
    assert isinstance(handle, NodeBuilder)
    assert repr(handle) == "<node 'load' of DAG 'flow'>"
    assert (handle.name, handle.action) == ("load", "load")
    assert repr(handle.on_true) == "load.branches['true']"
    assert repr(handle.out.result) == "load.out.result"
    assert repr(dag.input("n")) == "<input 'n' of DAG 'flow'>"
    assert repr(dag) == "<DAG 'flow': 1 node>"
    assert bool(DAG("empty"))


@pytest.mark.parametrize("bad", ["", 3, "x" * 201, "a\0", None])
def test_a_dags_name_is_a_text(bad: Any) -> None:
    with pytest.raises(ConfigurationError):
        DAG(bad)


def test_what_describes_a_dag_reaches_the_graph() -> None:
    dag = DAG(
        "d",
        description="about",
        tags=["x", "y"],
        author="me",
        version="3",
        signature="s",
        instructions="i",
        config={"max_attempts": 2},
    )
    graph = dag.graph
    assert (graph.description, graph.author, graph.version) == ("about", "me", "3")
    assert (graph.tags, graph.signature, graph.instructions) == (frozenset("xy"), "s", "i")
    assert graph.config is not None
    assert graph.config.max_attempts == 2
    for wrong in ({"tags": "x"}, {"config": 3}, {"config": {"max_atempts": 1}}, {"name": "e"}):
        with pytest.raises(ConfigurationError):
            DAG("d", **wrong)
