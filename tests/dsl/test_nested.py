"""Workflows as nodes: how they are placed, what is checked, what a graph says of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dagger_dsl import DAG, Graph, Input, Node, action
from dagger_dsl.dsl.operators import nodes
from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    CycleError,
    EncodingError,
    InputValidationError,
    RegistryError,
    ValidationError,
)
from dagger_dsl.model.graph import GraphInput
from dagger_dsl.model.validate import validate
from dagger_dsl.registry import Registry, as_registry


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def increase(x: int) -> int:
    return x + 1


def double(y: int) -> int:
    return y * 2


def shout(text: str) -> str:
    return text.upper()


@pytest.fixture
def inner() -> DAG:
    """Return a workflow that makes 2 * (n + 1) of n."""
    with DAG("inner") as dag:
        action(double)(y=action(increase)(x=dag.input("n", int)))
    return dag


# --- placing --------------------------------------------------------------------------------------


def test_calling_a_workflow_in_a_block_places_a_node(inner: DAG) -> None:
    with DAG("outer") as outer:
        handle = inner(n=4)
    assert outer.compile().nodes["inner"] == Node(
        "inner", "inner", [Input("n", value=4)], subgraph="inner"
    )
    assert (handle.id, handle.action) == ("inner", "inner")
    assert outer.run() == 10


def test_handles_and_references_flow_in_and_out(inner: DAG) -> None:
    with DAG("outer") as outer:
        first = inner(outer.input("start", int))
        second = inner(n=first)
        action(double)(y=second)
    assert list(outer.nodes) == ["inner", "inner_2", "double"]
    assert outer.run({"start": 1}) == 2 * 2 * (4 + 1)


def test_its_parameters_are_the_inputs_of_its_graph(inner: DAG) -> None:
    with DAG("wide", inputs=[GraphInput("size", default=3)]) as wide:
        action(lambda size, colour="red": f"{size} {colour}", name="label")(
            size=wide.inputs["size"], colour=wide.input("colour", str, default="blue")
        )
    with DAG("outer") as outer:
        inner()  # what is left out becomes an input, as for actions
        wide(colour="green")
    assert list(outer.compile().inputs) == ["n"]
    assert outer.run({"n": 0}) == {"inner": 2, "wide": "3 green"}
    with (
        DAG("wrong") as wrong,
        pytest.raises(ValidationError, match="no parameter 'm'; known: 'n'"),
    ):
        inner(m=1)
    assert len(wrong) == 0


def test_arrows_connect_workflows_like_actions(inner: DAG) -> None:
    start, end = action(increase, name="start"), action(double, name="end")
    with DAG("outer") as outer:
        start >> inner >> end
    assert outer.run({"x": 1}) == 2 * 2 * (2 + 1)
    backwards = DAG(end << inner << start, name="backwards")
    assert backwards.run({"x": 1}) == 12
    many = DAG(start >> [inner, end], name="many")
    assert many.run({"x": 1}) == {"inner": 6, "end": 4}
    both = DAG(start >> (inner & end), name="both")
    assert both.run({"x": 1}) == {"inner": 6, "end": 4}
    joined = DAG([start, end] >> inner.with_options(id="late"), name="joined")
    assert joined.compile().nodes["late"].dependencies == ("end", "start")
    several = DAG(nodes(inner, start) >> end.with_options(id="last"), name="several")
    assert set(several.compile().nodes) == {"inner", "start", "last"}


def test_workflows_alone_make_an_expression(inner: DAG) -> None:
    with DAG("second") as second:
        action(double)(y=second.input("m", int))
    chain = DAG(inner >> second, name="chain")
    assert chain.run({"n": 1}) == 8
    with DAG("listed") as listed:
        [inner, second] >> action(lambda inner, second: inner + second, name="add")
    assert listed.run({"n": 1, "m": 10}) == 24


def test_add_and_options_place_it_too(inner: DAG) -> None:
    with DAG("outer") as outer:
        first = outer.add(inner, id="one", n=1)
        inner.with_options(id="two", timeout=5, attempts=3, description="again")(n=first)
    node = outer.compile().nodes["two"]
    assert (node.timeout, node.try_count, node.description) == (5, 3, "again")
    assert node.subgraph == "inner"
    outer.connect("two", outer.add(action(double), id="end"))
    assert outer.run() == 2 * 10


def test_a_decorator_says_how_a_workflow_becomes_a_node(inner: DAG) -> None:
    with pytest.raises(RegistryError, match=r"workflow, not a function.*outer\.add\(inner\)"):
        DAG("outer").node(inner)


def test_a_workflow_as_an_argument_means_its_node(inner: DAG) -> None:
    with DAG("outer") as outer:
        action(double)(y=inner)  # type: ignore[arg-type]
    assert outer.run({"n": 1}) == 8


def test_outside_of_a_block_a_call_runs_it(inner: DAG) -> None:
    assert inner(1) == inner(n=1) == 4
    assert inner.report.inputs == {"n": 1}
    assert inner.map([1, 2]) == [4, 6]
    with pytest.raises(ConfigurationError, match="'inner' takes 1 inputs"):
        inner(1, 2)
    with pytest.raises(ConfigurationError, match="by position and by name"):
        inner(1, n=2)
    with pytest.raises(InputValidationError):
        inner("one")


def test_outside_of_a_block_an_async_one_is_mapped_on_the_loop() -> None:
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    with DAG("inner") as inner:
        inner.add(action(later), x=inner.input("n", int))

    async def main() -> Any:
        return await inner.map([1, 2])

    assert asyncio.run(main()) == [2, 3]
    assert inner(1) == 2


def test_a_workflow_that_changes_is_run_as_it_is(inner: DAG) -> None:
    with DAG("outer") as outer:
        inner(n=1)
    assert outer.run() == 4
    with inner:
        inner.nodes["double"] >> action(increase, name="more")
    assert outer.run() == 5
    with outer:  # and it is still the same workflow
        inner(n=outer.nodes["inner"])
    assert outer.run() == 2 * (5 + 1) + 1


# --- what is checked ------------------------------------------------------------------------------


def test_a_workflow_in_itself_is_refused_where_it_is_built(inner: DAG) -> None:
    with inner, pytest.raises(CycleError, match="contains itself: inner -> inner") as caught:
        inner(n=1)
    assert caught.value.path == ("inner", "inner")
    with DAG("middle") as middle:
        inner(n=1)
    with DAG("outer") as outer:
        middle()
    with inner, pytest.raises(CycleError) as caught:
        outer()
    assert caught.value.path == ("inner", "outer", "middle", "inner")
    assert outer.run() == 4


def test_workflows_that_lead_to_each_other_by_name_are_refused(registry: Registry) -> None:
    class Loaded:
        """A graph from a file."""

        def __init__(self, name: str, body: str) -> None:
            self.name = name
            self.registry = registry
            self._graph = Graph(name, [Node("n", "n", subgraph=body)])

        def compile(self) -> Graph:
            """Return the graph."""
            return self._graph

    registry.register_workflow(Loaded("a", "b"))
    registry.register_workflow(Loaded("b", "c"))
    registry.register_workflow(Loaded("c", "a"))
    with pytest.raises(CycleError, match="a -> b -> c -> a") as caught:
        validate(Graph("g", [Node("start", "x", subgraph="a")]), registry)
    assert caught.value.path == ("a", "b", "c", "a")
    assert "node 'start'" in str(caught.value)


def test_too_many_levels_are_refused_before_anything_runs(inner: DAG) -> None:
    outermost = inner
    for level in range(25):
        with DAG(f"level {level}") as dag:
            outermost.with_options(id="inside")(**({"n": 1} if level == 0 else {}))
        outermost = dag
    assert outermost.run() == 4
    with DAG("too much"), pytest.raises(ValidationError, match="more than 25 levels") as caught:
        outermost()
    assert "'level 24'" in str(caught.value)


def test_types_are_compared_across_the_edge(inner: DAG) -> None:
    with DAG("louder") as louder:
        action(shout)(text=louder.input("text", str))
    with DAG("outer") as outer:
        louder(text=inner(n=1))
    with pytest.raises(ValidationError, match=r"'text' is str, but inner.result is int"):
        outer.run()
    with DAG("implied") as implied:
        action(shout)
    with DAG("literal") as literal, pytest.raises(ValidationError, match="text"):
        implied(text=3)
    assert len(literal) == 0
    with DAG("out") as out:
        action(shout)(text=inner(n=1))
    with pytest.raises(ValidationError, match=r"but inner.result is int"):
        out.validate()


def test_of_several_sinks_the_value_is_a_mapping(inner: DAG) -> None:
    with DAG("wide") as wide:
        source = action(increase)(x=wide.input("n", int))
        action(double)(y=source)
        action(lambda x: str(x), name="text")(x=source)
    with DAG("outer") as outer:
        action(lambda found: found, name="show")(found=wide(n=1))
        action(shout)(text=wide(n=1))
    with pytest.raises(ValidationError, match=r"'text' is str, but wide_2.result is dict"):
        outer.validate()
    with DAG("fine") as fine:
        action(lambda found: found, name="show")(found=wide(n=1))
    assert fine.run() == {"double": 4, "text": "2"}


def test_what_is_wrong_inside_is_told_before_anything_runs(inner: DAG) -> None:
    broken = DAG("broken", registry={})
    with broken:
        action(double)(y=action(shout)(text="a"))  # type: ignore[arg-type]
    with DAG("outer") as outer:
        inner(n=1)
        broken()
    with pytest.raises(ValidationError) as caught:
        outer.run()
    (problem,) = caught.value.problems
    assert str(problem).startswith("node 'broken': in workflow 'broken': node 'double': 'y' is int")


def test_an_unknown_body_is_told_with_a_suggestion(inner: DAG, registry: Registry) -> None:
    registry.register_workflow(inner)
    graph = Graph("g", [Node("n", "x", [Input("n", value=1)], subgraph="iner")])
    with pytest.raises(ActionNotFound, match=r"workflow 'iner' is not loaded.*'inner'"):
        validate(graph, registry)
    validate(graph)  # the structure is in order
    fine = graph.replace(nodes=[graph.nodes["n"].replace(subgraph="inner")])
    validate(fine, registry)
    wrong = Graph("g", [Node("n", "x", [Input("m", value=1)], subgraph="inner")])
    with pytest.raises(ValidationError, match=r"takes no input 'm'; known: 'n'"):
        validate(wrong, registry)


def test_an_action_and_a_workflow_of_one_name_are_told_apart(registry: Registry) -> None:
    with DAG("increase") as inner:
        action(double)(y=inner.input("n", int))
    registry.register(increase)
    registry.register_workflow(inner)
    graph = Graph(
        "g",
        [
            Node("a", "increase", [Input("x", value=1)]),
            Node("b", "increase", [Input("n", "a.result")], subgraph="increase"),
        ],
    )
    validate(graph, registry)
    from dagger_dsl import engine

    assert engine.run(graph, registry).outputs == {"b": 4}
    with DAG("outer"), pytest.raises(RegistryError, match="another action 'increase'"):
        action(increase)(x=1) >> inner


def test_two_workflows_of_one_name_are_refused(inner: DAG, registry: Registry) -> None:
    other = DAG("inner")
    with other:
        action(double)(y=1)
    with DAG("outer"):
        inner(n=1)
        with pytest.raises(RegistryError, match="has a workflow 'inner'"):
            other()
    registry.register_workflow(inner)
    registry.register_workflow(inner)
    with pytest.raises(RegistryError, match="another workflow 'inner'"):
        registry.register_workflow(other)
    assert registry.workflows == {"inner": inner}
    registry.register_workflow(other, replace=True)
    assert registry.workflows == {"inner": other}
    registry.register_workflow(inner, "first")
    assert registry.list_workflows() == ["first", "inner"]
    registry.reset()
    assert registry.list_workflows() == []


@pytest.mark.parametrize("thing", [None, "inner", 3, object(), DAG])
def test_only_workflows_are_registered_as_such(thing: Any, registry: Registry) -> None:
    with pytest.raises(RegistryError, match="a workflow has a name"):
        registry.register_workflow(thing)
    assert registry.list_workflows() == []


@pytest.mark.parametrize("name", ["", 3])
def test_a_workflow_has_a_name(inner: DAG, name: Any, registry: Registry) -> None:
    with pytest.raises(RegistryError, match="name"):
        registry.register_workflow(inner, name)


def test_literals_are_values_of_the_codec(inner: DAG) -> None:
    with DAG("outer") as outer, pytest.raises((EncodingError, ValidationError)):
        inner(n=object())
    assert len(outer) == 0


def test_a_module_brings_its_workflows(inner: DAG) -> None:
    import types

    module = types.ModuleType("flows")
    with DAG("outer") as outer:
        inner(n=1)
    vars(module).update(outer=outer)
    assert as_registry(module).list_workflows() == ["inner", "outer"]
    vars(module).update(other=DAG("inner"))  # what a DAG was built with counts more
    found = as_registry(module).get_workflow("inner")
    assert found is not None
    assert found.workflow is inner


def test_pictures_show_that_a_node_is_a_workflow(inner: DAG) -> None:
    with DAG("outer") as outer:
        inner.with_options(id="part")(n=1) >> action(double)
    lines = outer.compile().to_dot().splitlines()
    assert any('"part" [' in each and "shape=component" in each for each in lines)
    assert any('"part\\ninner"' in each for each in lines)
    assert not any('"double" [' in each and "shape" in each for each in lines)


def test_yaml_keeps_the_body(inner: DAG) -> None:
    with DAG("outer") as outer:
        inner(n=1)
    graph = outer.compile()
    assert Graph.from_yaml(graph.to_yaml()) == graph
    short = Graph.from_yaml("name: g\nnodes:\n  - {id: a, subgraph: inner}\n")
    assert short.nodes["a"] == Node("a", "inner", subgraph="inner")
