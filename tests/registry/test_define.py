"""Defining actions: which callables can be actions, and what is read off them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import tenacity

from dagger_dsl.errors import ConfigurationError, RegistryError
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.graph import Output
from dagger_dsl.model.policies import (
    CacheStrategy,
    Effects,
    OnFailure,
    RetryPolicy,
    RetryStrategy,
    Trigger,
)
from dagger_dsl.registry import ActionDef, define, redefine

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


def add(a: int, b: int = 2) -> int:
    """Add two numbers.

    More of this is not in the summary.
    """
    return a + b


async def fetch(url: str, *, retries: int | None = None) -> bytes:
    return b""


def names(definition: ActionDef) -> list[str]:
    return [param.name for param in definition.params]


def test_a_function_is_described_by_its_signature() -> None:
    definition = define(add)
    assert definition.name == "add"
    assert definition.fn is add
    assert definition.style == "function"
    assert not definition.is_async
    assert [(param.name, param.required, param.default) for param in definition.params] == [
        ("a", True, definition.params[0].default),
        ("b", False, 2),
    ]
    assert definition.hints() == {"a": int, "b": int, "return": int}
    assert definition.doc == "Add two numbers."
    assert definition.description == ""
    assert definition.outputs == ()


def test_an_async_function_is_awaited_and_keyword_only_parameters_are_told_apart() -> None:
    definition = define(fetch)
    assert definition.is_async
    assert [(param.keyword_only, param.accepts_none) for param in definition.params] == [
        (False, False),
        (True, True),
    ]


def test_names_that_cannot_be_resolved_read_as_any_and_hide_no_others() -> None:
    def action(a: Unknown, b: list[Unknown], c: int) -> dict[str, Unknown]:
        return {}

    hints = define(action).hints()
    assert hints["a"] is Any
    assert hints["c"] is int
    assert hints["b"] == list[Any]
    assert hints["return"] == dict[str, Any]


def test_the_context_parameter_is_no_input() -> None:
    def annotated(a: int, context: NodeCtx) -> int:
        return a

    def by_text(a: int, context: "dagger_dsl.model.context.NodeCtx | None" = None) -> int:  # type: ignore[name-defined]  # noqa: F821, UP037
        return a

    def named(a, ctx):  # type: ignore[no-untyped-def]
        return a

    def other(a: int, ctx: dict[str, int]) -> int:
        return a

    assert (define(annotated).ctx_param, names(define(annotated))) == ("context", ["a"])
    assert (define(by_text).ctx_param, names(define(by_text))) == ("context", ["a"])
    assert (define(named).ctx_param, names(define(named))) == ("ctx", ["a"])
    assert (define(other).ctx_param, names(define(other))) == (None, ["a", "ctx"])


class Transform:
    """Holds its own configuration."""

    def __init__(self, name: str, mode: str) -> None:
        self.name = name
        self.mode = mode

    async def execute(self, ctx: NodeCtx) -> NodeOutput:
        return NodeOutput.success({"mode": self.mode})


@pytest.mark.row("B1", "B3")
def test_an_object_with_name_and_execute_is_an_action_of_style_context() -> None:
    upper, lower = Transform("upper", "U"), Transform("lower", "L")
    first, second = define(upper), define(lower)
    assert (first.name, second.name) == ("upper", "lower")
    assert first.style == "context"
    assert first.is_async
    assert first.takes_any_input
    assert first.doc == "Holds its own configuration."
    assert first.original.mode == "U"
    assert second.original.mode == "L"
    assert names(define(upper, inputs=["text"])) == ["text"]


def test_a_class_that_needs_an_instance_is_refused_with_the_way_out() -> None:
    with pytest.raises(RegistryError, match=r"register an instance: Transform\(...\)"):
        define(Transform)


@pytest.mark.row("A54")
def test_legacy_functions_are_told_by_three_names_or_by_three_annotations() -> None:
    def by_name(executor, node, cache):  # type: ignore[no-untyped-def]
        pass

    def underscored(_executor: Any, node: Any, cache: Any) -> None:
        pass

    def by_type(ex: DagExecutor, n: Node, c: Cache) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    def ordinary(node: int, executor: int, cache: int) -> None:
        pass

    def four(executor: Any, node: Any, cache: Any, more: Any) -> None:
        pass

    assert [define(each).style for each in (by_name, underscored, by_type)] == ["legacy"] * 3
    assert [define(each).style for each in (ordinary, four)] == ["function"] * 2
    assert define(by_name).takes_any_input
    assert define(by_name).params == ()


TEXT_SCHEMA = '{"type": "object", "properties": {"text": {"type": "string"}}}'


def test_a_function_that_takes_the_whole_mapping_of_inputs_is_of_style_mapping() -> None:
    def transform_text(input: dict[str, Any]) -> dict[str, str]:
        return {"result": input["text"].upper()}

    def payload(data: Any) -> Any:
        return data

    def plain(input: str) -> str:
        return input

    def two(input: dict[str, Any], other: int) -> None: ...

    assert define(transform_text).style == "mapping"
    assert define(payload).style == "function"
    assert define(payload, input_schema=TEXT_SCHEMA).style == "mapping"
    assert define(plain).style == "function"
    assert define(two).style == "function"
    by_property = {"type": "object", "properties": {"data": {"type": "string"}}}
    assert define(payload, input_schema=by_property).style == "function"

    definition = define(transform_text)
    assert definition.arguments({"text": "a"}) == {"input": {"text": "a"}}
    assert definition.arguments({"input": {"text": "a"}}) == {"input": {"text": "a"}}
    assert definition.arguments({}) == {"input": {}}
    assert define(payload).arguments({"data": 1}) == {"data": 1}


@pytest.mark.row("O5")
def test_the_signature_is_found_through_wrappers() -> None:
    @functools.lru_cache(maxsize=100)
    def cached(data: tuple[int, ...]) -> int:
        return len(data)

    def with_cleanup(cleanup: Callable[[], None]) -> Any:
        def decorator(fn: Any) -> Any:
            @functools.wraps(fn)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                try:
                    return fn(*args, **kwargs)
                finally:
                    cleanup()

            return wrapper

        return decorator

    wrapped = with_cleanup(lambda: None)(add)
    assert names(define(cached)) == ["data"]
    assert define(cached).hints()["return"] is int
    assert names(define(wrapped)) == ["a", "b"]
    assert define(wrapped).fn(a=1) == 3


@pytest.mark.row("O5")
def test_a_wrapper_that_hides_the_signature_says_what_to_do() -> None:
    def hiding(fn: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, b=5, **kwargs)

        return wrapper

    with pytest.raises(RegistryError, match=r"functools\.wraps.*name= and inputs="):
        define(hiding(add))
    with pytest.raises(RegistryError, match="name="):
        define(hiding(add), inputs=["a"])  # two wrappers would share the name
    definition = define(hiding(add), "add", inputs=["a"])
    assert names(definition) == ["a"]
    assert definition.fn(a=1) == 6


def run(coroutine: Any) -> Any:
    """Drive a coroutine that waits for nothing."""
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    return stopped.value.value


def test_a_plain_wrapper_around_an_async_function_counts_as_async() -> None:
    @functools.wraps(fetch)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fetch(*args, **kwargs)

    definition = define(wrapper)
    assert definition.is_async
    assert run(definition.fn("x")) == b""
    assert run(definition.fn(url="x")) == b""


def test_partials_methods_instances_classes_and_builtins_can_be_actions() -> None:
    class Scaler:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def scale(self, value: int) -> int:
            return value * self.factor

        def __call__(self, value: int) -> int:
            return value * self.factor

    @attrs.frozen
    class Point:
        x: int
        y: int = 0

    partial = define(functools.partial(add, b=5))
    assert partial.name == "add"
    assert [(p.name, p.required) for p in partial.params] == [("a", True), ("b", False)]
    assert names(define(functools.partial(add, 1))) == ["b"]

    method = define(Scaler(3).scale)
    assert (method.name, names(method), method.fn(value=2)) == ("scale", ["value"], 6)

    instance = define(Scaler(3), "triple")
    assert (names(instance), instance.fn(value=2)) == (["value"], 6)
    assert instance.hints()["value"] is int

    point = define(Point)
    assert (point.name, names(point)) == ("Point", ["x", "y"])
    assert point.hints()["x"] is int

    length = define(len)
    assert (length.name, length.fn(obj=[1, 2]), length.fn([1])) == ("len", 2, 1)


def test_callables_without_a_name_or_a_signature_ask_for_one() -> None:
    with pytest.raises(RegistryError, match="give name="):
        define(lambda x: x)
    with pytest.raises(RegistryError, match="give name="):
        define(functools.partial(lambda x: x))
    with pytest.raises(RegistryError, match=r"inputs=\[...\]"):
        define(min)
    assert names(define(min, inputs=["a", "b"])) == ["a", "b"]
    with pytest.raises(RegistryError, match="is no action"):
        define(42)


def test_positional_only_parameters_are_given_by_name() -> None:
    def divide(a: int, b: int, /, *, digits: int = 0) -> float:
        return round(a / b, digits)

    async def async_divide(a: int, b: int, /) -> float:
        return a / b

    assert define(divide).fn(b=2, a=5, digits=1) == 2.5
    assert define(divide).fn(5, 2) == 2
    assert define(async_divide).is_async
    assert run(define(async_divide).fn(b=2, a=5)) == 2.5


def test_keyword_arguments_take_any_input() -> None:
    def gather(first: int, **rest: int) -> dict[str, int]:
        return rest

    definition = define(gather)
    assert definition.takes_any_input
    assert names(definition) == ["first"]
    assert names(define(gather, inputs=["first", "second"])) == ["first", "second"]


@pytest.mark.row("A4", "A23")
def test_outputs_and_inputs_carry_descriptions() -> None:
    definition = define(
        add, outputs={"sum": "both together", "difference": ""}, inputs={"a": "the first"}
    )
    assert definition.outputs == ("sum", "difference")
    assert definition.output_docs == {"sum": "both together"}
    assert definition.input_docs == {"a": "the first"}
    assert define(add, outputs=[Output("x", "why")]).output_docs == {"x": "why"}


@pytest.mark.row("A6", "A7", "A8", "A9")
def test_options_are_kept_in_their_final_form() -> None:
    definition = define(
        add,
        "plus",
        timeout=2,
        attempts=3,
        on_failure="continue",
        on_error="explain",
        fallback=fetch,
        cache=300,
        trigger="any",
        store=False,
        keep=True,
        effects="at_most_once",
        version="2",
        tags=["math"],
        description="sum",
    )
    assert definition.name == "plus"
    assert definition.timeout == 2.0
    assert definition.try_count == 3
    assert definition.on_failure is OnFailure.CONTINUE
    assert (definition.failure, definition.failure_name) == ("explain", "explain")
    assert definition.fallback_name == "fetch"
    assert definition.cache_strategy == CacheStrategy.ttl(300)
    assert definition.trigger is Trigger.ANY
    assert definition.store is False
    assert definition.keep is True
    assert definition.effects is Effects.AT_MOST_ONCE
    assert (definition.version, definition.tags, definition.description) == ("2", ("math",), "sum")
    assert define(add, cache=True).cache_strategy == CacheStrategy.ALWAYS
    assert define(add, cache=None).cache_strategy is None


def test_retries_may_be_written_in_the_words_of_every_document() -> None:
    assert define(add, retry=3).try_count == 4  # extra calls
    assert define(add, max_retries=3).try_count == 4
    assert define(add, try_count=3).try_count == 3
    assert define(add, retry=RetryPolicy(5)).retry == RetryPolicy(5)
    fast = define(add, retry=3, retry_delay=1.0, retry_backoff=2.0)
    assert fast.try_count == 4
    assert fast.retry == RetryPolicy(base_delay=1.0, multiplier=2.0)
    stop = tenacity.stop_after_attempt(4)
    assert define(add, retry=stop).retry == RetryPolicy(stop=stop)
    assert define(add, retry=RetryStrategy.linear(5)).retry == RetryStrategy.linear(5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timout": 3}, "no option 'timout'; did you mean 'timeout'"),
        ({"attemps": 3}, "did you mean 'attempts'"),
        ({"timeout": -1}, "timeout must be more than 0"),
        ({"timeout": True}, "timeout must be seconds"),
        ({"attempts": 0}, "at least 1"),
        ({"attempts": 10**30}, "attempts counts calls, .* must be at most 9,007,199,254,740,992"),
        ({"retry": 10**30}, "retry must be at most 9,007,199,254,740,991"),
        ({"outputs": {"r": object()}}, "description of 'r' is a text, not <object"),
        ({"outputs": {"r": 0}}, "description of 'r' is a text, not 0"),
        ({"attempts": 2, "try_count": 3}, "given twice"),
        ({"attempts": 2, "retry": 3}, "not both"),
        ({"retry": 2, "max_retries": 3}, "not both"),
        ({"retry": -1}, "at least 0"),
        ({"retry": "often"}, "number of extra calls, a RetryPolicy or a tenacity object"),
        ({"retry": RetryPolicy(3), "retry_delay": 1}, "write them into the RetryPolicy"),
        ({"on_failure": "explode"}, "'stop', 'continue', 'pause'"),
        ({"trigger": "sometimes"}, "'none_failed'"),
        ({"store": "yes"}, "True or False"),
        ({"cache": "always"}, "CacheStrategy"),
        ({"outputs": "a"}, "list of names"),
        ({"outputs": ["a", "a"]}, "'a' twice"),
        ({"outputs": [""]}, "not empty"),
        ({"inputs": ["c"]}, "no parameter 'c'"),
        ({"tags": "math"}, "list of words"),
        ({"input_schema": "{"}, "not JSON"),
        ({"input_schema": "[]"}, "JSON Schema"),
        ({"output_schema": 3}, "JSON Schema"),
        ({"failure": 3}, "name of an action"),
        ({"failure": ""}, "name of an action"),
        ({"effects": "twice"}, "'at_most_once'"),
        ({"version": 2}, "is a text"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        define(add, **options)


@pytest.mark.parametrize("name", ["", 3, "x" * 201, "a\0b"])
def test_bad_names_are_refused(name: Any) -> None:
    with pytest.raises(RegistryError, match="1 to 200 characters"):
        define(add, name)


def test_a_definition_can_be_given_another_name_and_options() -> None:
    first = define(add, timeout=1)
    second = redefine(first, "plus", timeout=2)
    assert (first.name, first.timeout) == ("add", 1.0)
    assert (second.name, second.timeout, second.fn) == ("plus", 2.0, add)
    assert define(first) is first
    with pytest.raises(ConfigurationError, match="inputs="):
        redefine(first, inputs=["a"])
