"""`Action.map`: one node for many items, and a plain loop outside of a DAG."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from dagger_dsl import DAG, NodeCtx, action
from dagger_dsl.dsl import NodeBuilder
from dagger_dsl.errors import (
    AmbiguousConnection,
    ConfigurationError,
    InvalidState,
    NodeAlreadyExists,
    NodeExecutionError,
    ValidationError,
)
from dagger_dsl.model.context import Failed
from dagger_dsl.model.graph import Node
from dagger_dsl.model.values import MISSING
from dagger_dsl.registry import Registry

pytestmark = pytest.mark.row("G14")


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def dag() -> DAG:
    return DAG("flow")


def numbers() -> list[int]:
    return [1, 2, 3]


def square(x: int, factor: int = 1) -> int:
    return x * x * factor


def dot(a: int, b: int) -> int:
    return a * b


def total(values: list[int]) -> int:
    return sum(values)


def scale(x: int, by: list[int]) -> int:
    return x * len(by)


def odd(x: int) -> int:
    if x % 2 == 0:
        raise ValueError(f"{x} is even")
    return x


def node(dag: DAG, node_id: str) -> Node:
    return dag.compile().nodes[node_id]


def bound(dag: DAG, node_id: str) -> dict[str, Any]:
    """Return a node's inputs: references as text, literals as values."""
    return {
        each.name: f"-> {each.reference}" if each.value is MISSING else each.value
        for each in node(dag, node_id).inputs
    }


# In a block: what is placed.


def test_a_map_places_one_node(dag: DAG) -> None:
    numbers_, square_ = action(numbers), action(square)
    with dag:
        handle: Any = square_.map(numbers_(), factor=2)
    assert isinstance(handle, NodeBuilder)
    assert list(dag.nodes) == ["numbers", "square"]
    assert bound(dag, "square") == {"x": "-> numbers.result", "factor": 2}
    made = node(dag, "square")
    assert (made.map_over, made.map_depth, made.map_errors, made.max_parallel) == (
        "x",
        None,
        None,
        None,
    )
    assert dag.validate().problems == ()


def test_what_a_map_says_stands_on_its_node(dag: DAG) -> None:
    square_ = action(square)
    with dag:
        square_.map([[1], [2, 3]], depth=2, on_error="collect", max_parallel=4, id="all")
    made = node(dag, "all")
    assert (made.map_over, made.map_depth, made.map_errors, made.max_parallel) == (
        "x",
        2,
        "collect",
        4,
    )
    assert bound(dag, "all") == {"x": [[1], [2, 3]]}


@pytest.mark.parametrize(
    ("place", "over", "inputs"),
    [
        (lambda fn: fn.map([1]), "a", {"a": [1], "b": "-> inputs.b"}),
        (lambda fn: fn.map([1], b=2), "a", {"a": [1], "b": 2}),
        (lambda fn: fn.map([1], a=2), "b", {"a": 2, "b": [1]}),
        (lambda fn: fn.map([1], over="b"), "b", {"a": "-> inputs.a", "b": [1]}),
        (lambda fn: fn.map([1], a=2, over="b"), "b", {"a": 2, "b": [1]}),
        (lambda fn: fn.map(b=[1]), "b", {"a": "-> inputs.a", "b": [1]}),
        (lambda fn: fn.map(a=[1], b=2, over="a"), "a", {"a": [1], "b": 2}),
        (lambda fn: fn.map(a=1, b=[2], over="b"), "b", {"a": 1, "b": [2]}),
    ],
)
def test_which_parameter_gets_the_items(
    dag: DAG, place: Callable[[Any], Any], over: str, inputs: dict[str, Any]
) -> None:
    with dag:
        place(action(dot))
    assert node(dag, "dot").map_over == over
    assert bound(dag, "dot") == inputs


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda fn: fn.map(), r"takes what is mapped over: dot\.map\(items\)"),
        (lambda fn: fn.map(a=[1], b=2), "'a', 'b' and maps over one of them; .*'a' or over='b'"),
        (lambda fn: fn.map([1], a=1, b=2), r"every parameter of 'dot' is given by name \('a', 'b'"),
        (lambda fn: fn.map([1], b=2, over="b"), "'b' is given by position and by name"),
        (lambda fn: fn.map(a=[1], over="b"), r"over='b' names an input that is not given"),
        (lambda fn: fn.map([1], over="bb"), "over= names a parameter, not 'bb'; did you mean"),
        (lambda fn: fn.map([1], depth=0), "depth must be a whole number of at least 1, not 0"),
        (lambda fn: fn.map([1], depth=10**9), "depth must be at most 100, not 1000000000"),
        (
            lambda fn: fn.map([1], max_parallel=10**30),
            "max_parallel must be at most 1,000,000, not 1000",
        ),
        (
            lambda fn: fn.map([1], depth=True),
            "depth must be a whole number of at least 1, not True",
        ),
        (
            lambda fn: fn.map([1], max_parallel=0),
            "max_parallel must be a whole number of at least 1",
        ),
        (
            lambda fn: fn.map([1], max_parallel="2"),
            "max_parallel must be a whole number of at least 1",
        ),
        (lambda fn: fn.map([1], on_error="skip"), "on_error is 'fail' or 'collect', not 'skip'"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_choices(
    dag: DAG, call: Callable[[Any], Any], says: str, inside: bool
) -> None:
    dot_ = action(dot)
    place = dag if inside else nullcontext()
    with place, pytest.raises(ConfigurationError, match=says):
        call(dot_)
    assert len(dag) == 0


def test_an_action_that_takes_inputs_of_any_name_is_told_which(dag: DAG) -> None:
    @action
    def gather(**parts: Any) -> Any:
        return parts

    with dag, pytest.raises(ConfigurationError, match="say into which one the items go: over="):
        gather.map([1, 2])
    with dag:
        gather.map([1, 2], over="x", y=3)
    assert bound(dag, "gather") == {"x": [1, 2], "y": 3}
    assert gather.map([1, 2], over="x", y=3) == [{"x": 1, "y": 3}, {"x": 2, "y": 3}]


def test_items_may_come_from_outputs_and_from_inputs_of_the_dag(dag: DAG) -> None:
    @action(outputs=["rows", "count"])
    def split() -> dict[str, Any]:
        return {"rows": [1, 2], "count": 2}

    square_ = action(square)
    with dag:
        square_.map(split.out.rows, factor=split.out.count)
        square_.map(dag.input("xs", list[int]), id="given")
    assert bound(dag, "square") == {"x": "-> split.rows", "factor": "-> split.count"}
    assert bound(dag, "given") == {"x": "-> inputs.xs"}
    assert dag.validate().problems == ()


def test_what_is_left_open_becomes_an_input_that_is_a_list(dag: DAG) -> None:
    with dag:
        dag.add(action(square).with_options(map_over="x", map_depth=2))
    given = dag.compile().inputs["x"]
    assert given.required
    assert given.schema is not None
    assert given.schema.value == {
        "type": "array",
        "items": {"type": "array", "items": {"type": "integer"}},
    }


def test_literal_items_are_anything_that_has_items(dag: DAG) -> None:
    square_ = action(square)
    with dag:
        square_.map(range(3))
        square_.map((each for each in (1, 2)), id="lazy")
        square_.map(((1,), (2, 3)), depth=2, id="deep")
    assert bound(dag, "square") == {"x": [0, 1, 2]}
    assert bound(dag, "lazy") == {"x": [1, 2]}
    assert bound(dag, "deep") == {"x": [[1], [2, 3]]}


@pytest.mark.parametrize(
    ("items", "depth", "says"),
    [
        (5, 1, "x is mapped over, so it must be a list, not 5"),
        ("12", 1, "x is mapped over, so it must be a list, not '12'"),
        ({"a": 1}, 1, "x is mapped over, so it must be a list"),
        ([1, "2"], 1, r"x\[1\] must be int, not str '2'"),
        ([1, [2]], 2, r"x\[0\] is mapped over, so it must be a list, not 1"),
        ([[1], ["2"]], 2, r"x\[1\]\[0\] must be int, not str '2'"),
    ],
)
def test_literals_that_cannot_be_items_are_refused_where_they_are_written(
    dag: DAG, items: Any, depth: int, says: str
) -> None:
    with dag, pytest.raises(ValidationError, match=says):
        action(square).map(items, depth=depth)


def test_an_input_of_the_dag_that_has_no_items_is_refused(dag: DAG) -> None:
    square_ = action(square)
    with dag:
        for kind in (int, str, list[str], dict[str, int]):
            with pytest.raises(ValidationError, match=r"cannot map over .* no items that fit"):
                square_.map(dag.input(f"n{len(dag.inputs)}", kind))
        with pytest.raises(ValidationError, match="no value in common"):
            square_(dag.input("rows", list[int]))  # type: ignore[arg-type]
    assert len(dag) == 0


def test_types_at_both_ends_of_a_map_are_compared(dag: DAG) -> None:
    @action
    def words() -> list[str]:
        return []

    @action
    def lines() -> Iterator[int]:
        yield 1

    @action
    def length() -> int:
        return 3

    square_, total_ = action(square), action(total)
    with dag:
        total_(square_.map(square_.map(lines())))
    assert dag.validate().problems == ()
    for source, says in ((words, "its items are str"), (length, "int has no items")):
        with DAG("wrong") as wrong:
            square_.map(source())
        with pytest.raises(ValidationError, match=says):
            wrong.validate()
    with DAG("whole") as whole:
        square_(square_.map([1]))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"'x' is int, but square.result is list\[int\]"):
        whole.validate()


def test_ids_count_up_and_the_given_one_is_kept(dag: DAG) -> None:
    square_ = action(square)
    with dag:
        square_.map([1])
        square_.map([2])
        square_.map([3], depth=1, id="third")
        square_(4)
        square_.with_options(id="own").map([5])
        with pytest.raises(NodeAlreadyExists):
            square_.map([6], id="third")
    assert list(dag.nodes) == ["square", "square_2", "third", "square_3", "own"]


def test_options_of_the_node_stay(dag: DAG) -> None:
    busy = action(square).with_options(timeout=3, max_parallel=2, map_depth=3, map_errors="collect")
    with dag:
        busy.map([1])
        busy.map([1], max_parallel=5, id="more")
    assert (node(dag, "square").timeout, node(dag, "square").max_parallel) == (3.0, 2)
    assert (node(dag, "square").map_depth, node(dag, "square").map_errors) == (None, None)
    assert node(dag, "more").max_parallel == 5


def test_an_arrow_from_a_mapped_action_leaves_from_its_node(dag: DAG) -> None:
    square_, total_ = action(square), action(total)
    with dag:
        square_.map([1, 2])
        square_ >> total_
    assert bound(dag, "total") == {"values": "-> square.result"}
    assert dag.run() == 5


def test_arrows_bind_what_has_items_to_the_mapped_parameter(dag: DAG) -> None:
    numbers_ = action(numbers)
    with dag:
        numbers_ >> action(square).with_options(map_over="x", id="mapped")
        numbers_ >> action(square, name="whole")
    assert bound(dag, "mapped") == {"x": "-> numbers.result"}
    assert bound(dag, "whole") == {"x": "-> inputs.x"}  # no list is an int: order only
    with dag, pytest.raises(AmbiguousConnection, match="could go to 'x' or 'by'"):
        numbers_ >> action(scale).with_options(map_over="x")
    with dag:
        dag.connect("numbers", "scale", input="x")
    assert bound(dag, "scale") == {"x": "-> numbers.result", "by": "-> inputs.by"}


# In a block: what runs.


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_results_come_in_order(dag: DAG, runner: str) -> None:
    numbers_, square_, total_ = action(numbers), action(square), action(total)
    with dag:
        total_(square_.map(square_.map(numbers_()), factor=2))
    assert dag.run(runner=runner) == 2 * (1 + 16 + 81)
    assert dag["square"] == [1, 4, 9]


def test_lists_of_lists_keep_their_shape(dag: DAG) -> None:
    with dag:
        action(square).map([[1, 2], [], [3]], depth=2)
    assert dag.run() == [[1, 4], [], [9]]


def test_no_items_give_no_results(dag: DAG) -> None:
    with dag:
        action(square).map([])
    assert dag.run() == []


def test_a_generator_is_mapped_over_as_it_yields(dag: DAG) -> None:
    @action
    def lines() -> Iterator[int]:
        yield from (1, 2, 3)

    with dag:
        action(total)(action(square).map(lines()))
    assert dag.run() == 14


def test_a_failed_item_fails_the_node_or_stands_in_the_list(dag: DAG) -> None:
    odd_ = action(odd)
    with dag:
        odd_.map([1, 2, 3], on_error="collect")
    first, failed, last = dag.run()
    assert (first, last) == (1, 3)
    assert failed == Failed("1", "ValueError", "2 is even")
    assert not failed
    with DAG("strict") as strict:
        odd_.map([1, 2, 3])
    with pytest.raises(NodeExecutionError, match="2 is even"):
        strict.run()


def test_the_outputs_of_a_mapped_action_are_in_its_items(dag: DAG) -> None:
    @action(outputs=["half", "rest"])
    def halve(x: int) -> dict[str, int]:
        return {"half": x // 2, "rest": x % 2}

    @action
    def show(rows: list[dict[str, int]]) -> list[int]:
        return [each["half"] for each in rows]

    with dag:
        rows: Any = halve.map([4, 7])
        show(rows)
        with pytest.raises(ValidationError, match="no output 'half'"):
            rows.out.half
    assert dag.validate().problems == ()
    assert dag.run() == [2, 3]


def test_methods_are_mapped_with_their_instance(dag: DAG) -> None:
    class Scaler:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        @action
        def scale(self, x: int) -> int:
            return self.factor * x

    assert Scaler(3).scale.map([1, 2]) == [3, 6]
    with dag:
        Scaler(3).scale.map([1, 2])
    assert dag.run() == [3, 6]


def test_a_mapped_graph_comes_back_from_yaml(dag: DAG) -> None:
    with dag:
        action(square).map([[1]], depth=2, on_error="collect", max_parallel=3)
    graph = dag.compile()
    assert type(graph).from_yaml(graph.to_yaml()) == graph


# Outside of a block.


def test_outside_of_a_dag_it_is_a_loop() -> None:
    square_, dot_, odd_ = action(square), action(dot), action(odd)
    assert square_.map([1, 2, 3], factor=2) == [2, 8, 18]
    assert square_.map(iter((1, 2))) == [1, 4]
    assert square_.map([[1, 2], (3,), []], depth=2) == [[1, 4], [9], []]
    assert dot_.map(a=[1, 2], b=3, over="a") == [3, 6]
    assert dot_.map([1, 2], a=3) == [3, 6]
    assert odd_.map([[1, 2], [4]], depth=2, on_error="collect") == [
        [1, Failed("0.1", "ValueError", "2 is even")],
        [Failed("1.0", "ValueError", "4 is even")],
    ]
    with pytest.raises(ValueError, match="2 is even"):
        odd_.map([1, 2])


@pytest.mark.parametrize("items", [5, "text", {"a": 1}])
def test_outside_of_a_dag_what_has_no_items_is_refused(items: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"square.map: 'x' is mapped over, so it must be"):
        action(square).map(items)
    with pytest.raises(ConfigurationError, match=r"'x'\[0\] is mapped over"):
        action(square).map([items], depth=2)


def test_outside_of_a_dag_a_handle_has_no_items_yet(dag: DAG) -> None:
    numbers_, square_ = action(numbers), action(square)
    with dag:
        handle = numbers_()
    with pytest.raises(InvalidState, match="a value that a run will compute"):
        square_.map(handle)


def test_outside_of_a_dag_the_context_is_an_argument_like_others() -> None:
    @action
    def seen(x: int, ctx: NodeCtx) -> str:
        return f"{ctx.node_id}{x}"

    @action
    def first(x: int, /, y: int = 0) -> int:
        return x + y

    assert seen.map([1, 2], ctx=NodeCtx("dag", "n")) == ["n1", "n2"]
    assert first.map([1, 2], y=1) == [2, 3]


def test_async_calls_run_together_and_give_the_list_when_awaited() -> None:
    running: list[int] = []
    most = 0

    @action
    async def slow(x: int) -> int:
        nonlocal most
        running.append(x)
        most = max(most, len(running))
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            return odd(x)
        finally:
            running.remove(x)

    async def main() -> None:
        nonlocal most
        assert await slow.map([1, 3, 5]) == [1, 3, 5]
        assert most == 3
        most = 0
        assert await slow.map([[1, 3], [5]], depth=2, max_parallel=2) == [[1, 3], [5]]
        assert most == 2
        assert await slow.map([]) == []
        collected = await slow.map([1, 2], on_error="collect")
        assert collected == [1, Failed("1", "ValueError", "2 is even")]
        with pytest.raises(ValueError, match="2 is even"):
            await slow.map([2, 1, 3], max_parallel=1)
        assert running == []
        with pytest.raises(ConfigurationError, match="it must be a list"):
            await slow.map(5)

    asyncio.run(main())


def test_the_first_failure_ends_the_other_async_calls() -> None:
    ended: list[str] = []

    @action
    async def wait(x: int) -> None:
        if x == 0:
            await asyncio.sleep(0)
            raise ValueError("no")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(f"{x}")

    async def main() -> None:
        with pytest.raises(ValueError, match="no"):
            await wait.map([1, 0, 2])

    asyncio.run(main())
    assert sorted(ended) == ["1", "2"]
