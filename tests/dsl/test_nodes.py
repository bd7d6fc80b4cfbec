"""`@dag.node` and its kin: a DAG of functions of its own."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG
from dagger_dsl.dsl import NodeBuilder, NodeFunction
from dagger_dsl.errors import (
    AmbiguousConnection,
    ConfigurationError,
    NodeAlreadyExists,
    RegistryError,
    ValidationError,
)
from dagger_dsl.model.graph import Edge
from dagger_dsl.model.policies import CacheStrategy, RetryPolicy, Trigger
from dagger_dsl.registry import Registry


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def dag() -> DAG:
    return DAG("flow")


@pytest.mark.row("K1")
def test_a_node_stays_callable_as_its_function(dag: DAG, registry: Registry) -> None:
    @dag.node
    def load(path: str) -> list[str]:
        """Read a file."""
        return [path]

    assert load("a") == ["a"]
    assert load.__doc__ == "Read a file."
    assert isinstance(load, NodeFunction)
    assert load.node is dag.nodes["load"]
    assert repr(load) == "<node function 'load' of DAG 'flow'>"
    assert dag.compile().nodes["load"].action == "flow.load"
    assert dag.registry["flow.load"].fn(path="b") == ["b"]
    assert "flow.load" not in registry
    with dag:
        assert load("c") == ["c"]  # the function, in a block too
    assert list(dag.nodes) == ["load"]


@pytest.mark.row("K2")
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_a_node_may_be_async_and_is_awaited_by_every_runner(dag: DAG, runner: str) -> None:
    @dag.node
    async def fetch(url: str) -> str:
        await asyncio.sleep(0)
        return url.upper()

    @dag.node
    def size(page: str) -> int:
        return len(page)

    fetch >> size
    assert asyncio.run(fetch("u")) == "U"
    assert dag.registry["flow.fetch"].is_async
    assert dag.run({"url": "abc"}, runner=runner) == 3
    assert dag["fetch"] == "ABC"

    async def inside() -> object:
        return dag.run({"url": "in a loop"}, runner=runner), await dag.run_async({"url": "abcd"})

    assert asyncio.run(inside()) == (9, 4)


@pytest.mark.row("K3")
def test_options_are_those_of_actions_and_an_unknown_one_suggests(dag: DAG) -> None:
    @dag.node(retry=3, retry_delay=1.0, retry_backoff=2.0, timeout=30.0, id="risky")
    def operation(data: dict[str, int]) -> dict[str, int]:
        return data

    node = dag.compile().nodes["risky"]
    assert (node.try_count, node.timeout) == (4, 30.0)
    assert node.retry == RetryPolicy(base_delay=1.0, multiplier=2.0)
    assert node.action == "flow.operation"
    with pytest.raises(ConfigurationError, match="did you mean 'retry_delay'"):
        dag.node(retry_delai=1)  # type: ignore[call-overload]


@pytest.mark.row("K4", "K8")
def test_a_join_is_filled_by_its_connections(dag: DAG) -> None:
    @dag.node
    def source() -> dict[str, list[int]]:
        return {"data": [1, 2, 3, 4, 5]}

    @dag.node
    def process_evens(data: dict[str, list[int]]) -> list[int]:
        return [x for x in data["data"] if x % 2 == 0]

    @dag.node
    def process_odds(data: dict[str, list[int]]) -> list[int]:
        return [x for x in data["data"] if x % 2 != 0]

    @dag.all()
    def merge_results(evens: list[int], odds: list[int]) -> dict[str, Any]:
        return {"evens": evens, "odds": odds, "total": len(evens) + len(odds)}

    dag.nodes["source"] >> dag.nodes["process_evens"]
    source >> process_odds
    dag.connect("process_evens", "merge_results", input="evens")
    dag.connect("process_odds", "merge_results", input="odds")
    assert dag.compile().nodes["merge_results"].trigger is Trigger.SUCCESS
    assert dag.run() == {"evens": [2, 4], "odds": [1, 3, 5], "total": 5}


@pytest.mark.row("K6", "K9")
def test_the_sequence_of_document_002(dag: DAG) -> None:
    @dag.node
    def step1() -> dict[str, int]:
        return {"value": 100}

    @dag.node
    def step2(data: dict[str, int]) -> dict[str, int]:
        return {"doubled": data["value"] * 2}

    @dag.node
    def step3(data: dict[str, int]) -> str:
        return f"Final: {data['doubled']}"

    dag.nodes["step1"] >> dag.nodes["step2"] >> dag.nodes["step3"]
    assert dag.run() == "Final: 200"


def test_any_condition_and_select_set_triggers_and_labels(dag: DAG) -> None:
    @dag.condition
    def check(n: int) -> bool:
        return n > 0

    @dag.select()
    def route(n: int) -> str:
        return "eu"

    @dag.node
    def positive() -> int:
        return 1

    @dag.node
    def ship() -> int:
        return 2

    @dag.any()
    def first(positive: int | None, ship: int | None) -> int | None:
        return positive or ship

    check.on_true >> positive
    route.branches["eu"] >> ship
    [positive, ship] >> first
    graph = dag.compile()
    assert graph.labelled == (Edge("check", "positive", "true"), Edge("route", "ship", "eu"))
    assert graph.nodes["first"].trigger is Trigger.ANY
    assert dag.validate().problems == ()


@pytest.mark.row("C19", "C21")
def test_cached_nodes(dag: DAG) -> None:
    @dag.cached_node(ttl=3600)
    def fresh(data: int) -> int:
        return data

    @dag.cached_node()
    def always(data: int) -> int:
        return data

    @dag.cached_node(cache=CacheStrategy.ttl(60, inputs=["data"]), timeout=3)
    def chosen(data: int, note: str = "") -> int:
        return data

    @dag.cached_node(cache=None, id="plain")
    def unsaid(data: int) -> int:
        return data

    nodes = dag.compile().nodes
    assert nodes["fresh"].cache_strategy == CacheStrategy.ttl(3600)
    assert nodes["always"].cache_strategy == CacheStrategy.ALWAYS
    assert nodes["chosen"].cache_strategy == CacheStrategy.ttl(60, inputs=["data"])
    assert nodes["chosen"].timeout == 3.0
    assert nodes["plain"].cache_strategy == CacheStrategy.ALWAYS
    with pytest.raises(ConfigurationError, match="ttl= and cache= both say"):
        dag.cached_node(ttl=60, cache=True)


def test_a_cache_key_that_is_a_function_stays_with_the_action(dag: DAG) -> None:
    strategy = CacheStrategy.custom(lambda inputs: f"{inputs['user']}")

    @dag.cached_node(cache=strategy)
    def profile(user: str) -> str:
        return user

    assert dag.compile().nodes["profile"].cache_strategy is None
    assert dag.registry["flow.profile"].cache_strategy is strategy
    assert dag.compile() == type(dag.compile()).from_yaml(dag.compile().to_yaml())


@pytest.mark.row("C19", "C20")
def test_cached_nodes_are_called_once_for_equal_inputs(tmp_path: Path) -> None:
    calls: list[str] = []

    def build() -> DAG:
        dag = DAG("cached")

        @dag.cached_node()
        def kept(data: int) -> int:
            calls.append(f"kept {data}")
            return data * 2

        @dag.node(cache=False)
        def fresh(kept: int) -> int:
            calls.append(f"fresh {kept}")
            return kept

        kept >> fresh
        return dag

    url = f"sqlite:///{tmp_path / 'cached.db'}"
    assert [build().run({"data": n}, database_url=url) for n in (4, 4, 5)] == [8, 8, 10]
    assert calls == ["kept 4", "fresh 8", "fresh 8", "kept 5", "fresh 10"]


@pytest.mark.row("C22")
def test_nodes_share_a_result_where_their_keys_are_equal(tmp_path: Path) -> None:
    calls: list[str] = []

    def build() -> DAG:
        dag = DAG("keyed")

        @dag.cached_node(cache=CacheStrategy.custom(lambda inputs: str(inputs["user"]).lower()))
        def profile(user: str) -> str:
            calls.append(user)
            return f"profile of {user}"

        return dag

    url = f"sqlite:///{tmp_path / 'keyed.db'}"
    answers = [build().run({"user": user}, database_url=url) for user in ("Ada", "ADA", "Bob")]
    assert answers == ["profile of Ada", "profile of Ada", "profile of Bob"]
    assert calls == ["Ada", "Bob"]


@pytest.mark.row("K26", "M18", "O5")
def test_decorators_of_the_user_stack(dag: DAG) -> None:
    @dag.node
    @functools.lru_cache(maxsize=100)
    def cached(data: tuple[int, ...]) -> int:
        return len(data)

    def with_cleanup(
        cleanup: Callable[[], None],
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def decorator(fn: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                try:
                    return fn(*args, **kwargs)
                finally:
                    cleanup()

            return wrapper

        return decorator

    cleaned: list[str] = []

    @dag.node
    @with_cleanup(lambda: cleaned.append("files"))
    def temp_file_processor(cached: int) -> int:
        return cached * 10

    assert cached((1,)) == 1
    assert temp_file_processor(2) == 20
    assert inspect.signature(temp_file_processor) == inspect.Signature(
        [inspect.Parameter("cached", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="int")],
        return_annotation="int",
    )
    cached >> temp_file_processor
    assert dag.run({"data": (1, 2)}) == 20
    assert cleaned == ["files", "files"]
    assert list(dag.nodes) == ["cached", "temp_file_processor"]


@pytest.mark.row("O2")
def test_running_a_cell_again_replaces_the_function_and_keeps_the_arrows(dag: DAG) -> None:
    def cell(version: int) -> Any:
        @dag.node
        def step(x: int) -> int:
            return x + version

        return step

    @dag.node
    def start() -> int:
        return 1

    start >> cell(1)
    assert dag.run() == 2
    cell(10)
    assert dag.run() == 11
    assert list(dag.nodes) == ["start", "step"]

    def changed_cell() -> Any:
        @dag.node
        def step(y: int) -> int:
            return y

        return step

    with pytest.raises(RegistryError, match="registered already"):
        changed_cell()  # another function of this name, from elsewhere


def test_a_replaced_function_drops_inputs_it_no_longer_takes(dag: DAG) -> None:
    source = "def step({}):\n    return 1\n"
    for parameters in ("x, y", "y, z=1"):
        space: dict[str, Any] = {"__name__": "cells"}
        exec(source.format(parameters), space)
        dag.node(space["step"])
        if parameters == "x, y":
            dag.connect(dag.input("a"), "step", input="x")
    assert [each.name for each in dag.compile().nodes["step"].inputs] == ["y"]
    assert list(dag.compile().inputs) == ["a", "y"]


def test_an_id_that_another_node_has_is_refused(dag: DAG) -> None:
    @dag.node
    def step() -> int:
        return 1

    with pytest.raises(NodeAlreadyExists):

        @dag.node(id="step")
        def other() -> int:
            return 2


def test_node_functions_are_arguments_and_operands_like_handles(dag: DAG) -> None:
    @dag.node(outputs=["left", "right"])
    def split() -> dict[str, int]:
        return {"left": 1, "right": 2}

    @dag.node
    def show(x: int, y: int) -> int:
        return x - y

    extra = dag.add(show, split.out.left, id="extra", y=split)
    split.out.right >> extra
    with pytest.raises(AmbiguousConnection):
        split.out.left >> show
    show << [dag.input("x"), dag.input("y")]
    assert isinstance(extra, NodeBuilder)
    assert [each.reference for each in dag.compile().nodes["extra"].inputs] == [
        "split.left",
        "split.result",
    ]
    with pytest.raises(ValidationError, match="no output 'lft'"):
        split.out.lft


def test_the_same_function_may_be_a_node_of_two_dags() -> None:
    def step() -> int:
        return 1

    one, two = DAG("one"), DAG("two")
    one.node(step)
    two.node(step)
    assert one.run() == two.run() == 1
    assert one.compile().nodes["step"].action == "one.step"
    assert two.compile().nodes["step"].action == "two.step"
