"""`@action`: a function stays a function, and is registered."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import tenacity

from dagger_dsl import DAG, action
from dagger_dsl.dsl import Action
from dagger_dsl.errors import ConfigurationError, RegistryError, ValidationError
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.policies import CacheStrategy, OnFailure, RetryPolicy
from dagger_dsl.registry import Registry, as_registry


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@action
def module_level(x: int) -> int:
    """Answer *x*."""
    return x


def test_outside_a_dag_an_action_is_its_function(registry: Registry) -> None:
    @action
    def add(a: int, b: int = 2) -> int:
        """Add two numbers."""
        return a + b

    assert add(1) == 3
    assert add(1, b=5) == 6
    assert add.__name__ == "add"
    assert add.__doc__ == "Add two numbers."
    assert str(inspect.signature(add)) == "(a: 'int', b: 'int' = 2) -> 'int'"
    assert inspect.unwrap(add)(2) == 4
    assert isinstance(add, Action)
    assert registry.list_actions() == ["add"]


def test_parentheses_and_options_make_no_difference_to_calls(registry: Registry) -> None:
    @action()
    def one() -> int:
        return 1

    @action(name="zwei", timeout=3, retry=2, on_failure="continue")
    def two() -> int:
        return 2

    assert (one(), two()) == (1, 2)
    assert registry.list_actions() == ["one", "zwei"]
    definition = registry["zwei"]
    assert (definition.timeout, definition.try_count) == (3.0, 3)
    assert definition.on_failure is OnFailure.CONTINUE
    assert two.name == "zwei"


def test_an_async_action_is_awaited_by_its_caller() -> None:
    @action
    async def fetch(x: int) -> int:
        return x

    assert asyncio.run(fetch(3)) == 3


def test_an_unknown_option_is_refused_on_the_line_of_the_decorator() -> None:
    with pytest.raises(ConfigurationError, match="no option 'timout'; did you mean 'timeout'"):
        action(timout=3)  # type: ignore[call-overload]


@pytest.mark.row("A56", "O2")
def test_an_action_goes_to_the_registry_it_is_given(registry: Registry) -> None:
    own = Registry()

    @action(registry=own)
    def hidden() -> None: ...

    assert own.list_actions() == ["hidden"]
    assert registry.list_actions() == []


@pytest.mark.row("O2")
def test_tests_do_not_leak_registrations() -> None:
    assert as_registry(None).list_actions() == []


def test_a_name_that_is_taken_is_refused(registry: Registry) -> None:
    @action(name="step")
    def first() -> None: ...

    with pytest.raises(RegistryError, match="registered already"):

        @action(name="step")
        def second() -> None: ...

    assert registry["step"].original.__name__ == "first"


class Scaler:
    """Has actions that need their instance."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    @action(timeout=5)
    def scale(self, value: int) -> int:
        return value * self.factor

    @action
    async def scale_later(self, value: int) -> int:
        return value * self.factor

    @staticmethod
    @action(name="square")
    def square(value: int) -> int:
        return value * value


@pytest.mark.row("B3")
def test_methods_are_actions_of_their_instance(registry: Registry) -> None:
    double, triple = Scaler(2), Scaler(3)
    assert double.scale(5) == 10
    assert triple.scale(value=5) == 15
    assert asyncio.run(triple.scale_later(5)) == 15
    assert Scaler.square(3) == 9
    assert Scaler.scale(double, 5) == 10
    assert "scale" not in registry
    registry.register(double.scale, name="double")
    registry.register(triple.scale, name="triple")
    assert registry["double"].fn(value=1) == 2
    assert registry["triple"].fn(value=1) == 3
    assert registry["triple"].timeout == 5.0
    assert [param.name for param in registry["triple"].params] == ["value"]


@pytest.mark.row("B3")
def test_a_method_places_a_node_of_its_instance() -> None:
    triple = Scaler(3)
    with DAG("d") as dag:
        triple.scale(5)
    assert dag.registry["scale"].fn(value=1) == 3
    graph = dag.compile()
    assert graph.nodes["scale"].inputs[0].value == 5
    with DAG("e"):
        triple.scale(5)
        triple.scale(6)
        with pytest.raises(RegistryError, match="a name of its own"):
            Scaler(2).scale(5)


@pytest.mark.row("O5")
def test_decorators_of_the_user_stack_below() -> None:
    class CircuitBreaker:
        def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(fn)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return fn(*args, **kwargs)

            return wrapper

    @action
    @CircuitBreaker()
    def protected(data: dict[str, int]) -> int:
        return len(data)

    @action
    @functools.lru_cache(maxsize=10)
    def cached(data: tuple[int, ...]) -> int:
        return len(data)

    assert protected({}) == 0
    assert [param.name for param in protected.definition.params] == ["data"]
    assert cached((1, 2)) == 2
    assert cached((1, 2)) == 2
    cache_info = getattr(cached, "cache_info")  # noqa: B009 - type checkers do not know it
    assert cache_info().hits == 1


@pytest.mark.row("O5")
def test_a_wrapper_that_hides_the_signature_names_functools_wraps() -> None:
    def with_cleanup(fn: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, retries=3, **kwargs)

        return wrapper

    with pytest.raises(RegistryError, match=r"functools\.wraps"):

        @action
        @with_cleanup
        def process(data: int) -> int:
            return data


def test_callables_of_every_kind_can_be_made_actions_by_a_call(registry: Registry) -> None:
    class Upper:
        name = "upper"

        def execute(self, ctx: NodeCtx) -> NodeOutput:
            return NodeOutput.success(str(ctx.inputs["text"]).upper())

    total = cast(Any, action(sum, name="total"))
    half = action(functools.partial(round, ndigits=2), name="half")
    upper: Any = action(Upper())  # type: ignore[call-overload]
    assert total([1, 2]) == 3
    assert half(1.234) == 1.23
    assert registry.list_actions() == ["half", "total", "upper"]
    with DAG("d") as dag:
        upper(text=total([1, 2]))
    assert dag.compile().nodes["upper"].inputs[0].reference == "total.result"


def test_retry_takes_objects_of_tenacity() -> None:
    @action(retry=tenacity.wait_fixed(1))
    def step() -> None: ...

    policy = step.definition.retry
    assert isinstance(policy, RetryPolicy)
    assert isinstance(policy.wait, tenacity.wait_fixed)


@pytest.mark.row("A51")
def test_schemas_are_shown_on_the_action() -> None:
    @action
    def step(x: int) -> list[str]:
        return []

    assert step.input_schema["properties"] == {"x": {"type": "integer"}}
    assert step.output_schema == {"type": "array", "items": {"type": "string"}}


def test_options_of_a_node_make_a_new_action_and_leave_the_old_one() -> None:
    slow = module_level.with_options(timeout=9, id="slow")
    assert slow(3) == 3
    with DAG("d") as dag:
        slow(1)
        module_level(2)
    graph = dag.compile()
    assert graph.nodes["slow"].timeout == 9.0
    assert graph.nodes["module_level"].timeout is None
    with pytest.raises(ConfigurationError, match="did you mean 'timeout'"):
        module_level.with_options(timout=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="data only"):
        module_level.with_options(retry=RetryPolicy(3, retry_on=[ValueError]))
    with pytest.raises(ConfigurationError, match="no option 'store'"):
        module_level.with_options(store=False)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="map_over names a parameter, not 'y'"):
        module_level.with_options(map_over="y")
    with pytest.raises(ConfigurationError, match="a cache key that is a function, or a"):
        module_level.with_options(cache=CacheStrategy.custom(str))
    with pytest.raises(ConfigurationError, match="map_errors is 'fail' or 'collect', not 'skip'"):
        module_level.with_options(map_errors="skip")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"map_depth .* a whole number of at least 1"):
        module_level.with_options(map_depth=0)
    with pytest.raises(ConfigurationError, match="say how map_over is done, which is not set"):
        DAG(module_level.with_options(map_depth=2)).compile()
    with pytest.raises(ValidationError, match="no dot"), DAG("d"):
        module_level.with_options(id="a.b")(1)


def test_a_module_level_action_is_pickled_by_name() -> None:
    assert pickle.loads(pickle.dumps(module_level)) is module_level


def test_what_functions_of_a_run_call_runs_and_places_nothing() -> None:
    @action
    def inner(x: int) -> int:
        return x + 1

    @action
    def outer(x: int) -> int:
        return inner(x)

    with DAG("d") as dag:
        outer(1)
        assert dag.run() == 2
        assert list(dag.nodes) == ["outer"]
        outer(5)
    assert list(dag.nodes) == ["outer", "outer_2"]
