"""`bind_inputs`: what a run is given."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.inputs import bind_inputs
from dagger_dsl.engine.plan import compile_plan
from dagger_dsl.errors import (
    InputError,
    InputValidationError,
    MissingInputError,
    UnknownInputError,
)
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.graph import Graph, GraphInput, Input, Node
from dagger_dsl.registry import Registry
from tests.engine.helpers import RUNNERS, Workflow


def bound(given: Any, *inputs: GraphInput, on_missing: str = "error", **actions: Any) -> Any:
    """Bind *given* to a graph with one node for each action, whose parameters are inputs."""
    registry = Registry()
    nodes = []
    for name, action in actions.items():
        definition = registry.register(action, name)
        nodes.append(
            Node(name, name, [Input(p.name, f"inputs.{p.name}") for p in definition.params])
        )
    plan = compile_plan(Graph("flow", nodes, inputs=inputs), registry.get)
    return bind_inputs(plan, given, on_missing)


def double(x: int) -> int:
    return x * 2


@pytest.mark.row("A24")
@pytest.mark.parametrize("runner", RUNNERS)
def test_an_input_reaches_every_parameter_that_refers_to_it(runner: str) -> None:
    flow = Workflow().add("a", double, take={"x": "inputs.n"})
    flow.add("b", lambda y: y, take={"y": "inputs.n"})
    report = flow.run(runner, inputs={"n": 1})
    assert report.outputs == {"a": 2, "b": 1}
    assert report.inputs == {"n": 1}


@pytest.mark.row("A24")
def test_every_missing_input_is_named_before_anything_runs() -> None:
    flow = Workflow()
    for name in "ab":
        flow.add(name, lambda x: flow.calls.append("called"), take={"x": f"inputs.{name}"})
    with pytest.raises(MissingInputError, match="'a', 'b'") as caught:
        flow.run(inputs={})
    assert isinstance(caught.value, LookupError)
    assert isinstance(caught.value, InputError)
    assert flow.calls == []


def test_an_unknown_input_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownInputError, match="did you mean 'amount'"):
        bound({"amonut": 1}, GraphInput("amount"))


def test_defaults_fill_in_and_are_fresh_copies() -> None:
    inputs = (GraphInput("xs", default=[1]), GraphInput("n", default=0))
    first = bound({}, *inputs)
    first["xs"].append(2)
    assert bound(None, *inputs) == {"xs": [1], "n": 0}
    assert bound({"n": None}, *inputs) == {"xs": [1], "n": None}


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_parameter_that_takes_none_and_that_nothing_fills_gets_none(runner: str) -> None:
    """In a graph without the DSL, too, which would have given it a default."""

    def plain(a: int, x: int | None, y: int = 3, *, z: str | None) -> tuple[Any, ...]:
        return a, x, y, z

    async def waiting(x: int | None, a: int) -> tuple[Any, ...]:
        return x, a

    with Registry() as registry:
        registry.register(plain, "plain")
        registry.register(waiting, "waiting")
    graph = Graph(
        "g",
        [
            Node("plain", "plain", [Input("a", value=1)]),
            Node("some", "plain", [Input("y", value=5), Input("a", value=1)]),
            Node("waiting", "waiting", [Input("a", value=1)]),
            Node("many", "plain", [Input("a", value=[1, 2])], map_over="a"),
        ],
    )
    assert not graph.validate(registry).problems
    assert engine.run(graph, registry, options=RunOptions(runner=runner)).outputs == {
        "plain": (1, None, 3, None),
        "some": (1, None, 5, None),
        "waiting": (None, 1),
        "many": [(1, None, 3, None), (2, None, 3, None)],
    }


def test_whatever_nothing_fills_is_none_where_a_file_says_so() -> None:
    with Registry() as registry:
        registry.register(lambda x, y: (x, y), "pair")
    graph = Graph(
        "g", [Node("n", "pair", [Input("y", value=1)])], config=DagConfig(on_missing="null")
    )
    assert engine.run(graph, registry).outputs == {"n": (None, 1)}


def test_an_input_that_is_not_required_is_none() -> None:
    assert bound({}, GraphInput("x", required=False)) == {"x": None}
    assert bound({}, GraphInput("x"), on_missing="null") == {"x": None}


def test_annotations_are_checked_on_what_comes_from_outside() -> None:
    assert bound({"x": 3}, double=double) == {"x": 3}
    with pytest.raises(InputValidationError, match="x must be int, not str 'three'"):
        bound({"x": "three"}, double=double)
    with pytest.raises(InputValidationError, match="int"):
        bound({"x": True}, double=double)


def test_every_parameter_that_an_input_reaches_is_asked() -> None:
    def narrow(x: list[int]) -> None: ...

    def wide(x: Any) -> None: ...

    with pytest.raises(InputValidationError, match=r"x\[1\]"):
        bound({"x": [1, "two"]}, wide=wide, narrow=narrow)


def test_a_schema_of_the_graph_is_enforced() -> None:
    amount = GraphInput("amount", schema={"type": "number", "minimum": 0}, default=1)
    assert bound({"amount": 5}, amount) == {"amount": 5}
    with pytest.raises(InputValidationError, match=r"inputs\.amount"):
        bound({"amount": -1}, amount)


def test_ten_thousand_inputs_are_bound_at_once() -> None:
    inputs = [GraphInput(f"i{k}", default=k) for k in range(10_000)]
    given = {f"i{k}": -k for k in range(0, 10_000, 2)}
    start = time.perf_counter()
    found = bound(given, *inputs)
    assert time.perf_counter() - start < 2
    assert found["i4"] == -4
    assert found["i5"] == 5
