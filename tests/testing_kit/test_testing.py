"""The kit that users test their own workflows with."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from dagger_dsl.engine.control import CancelToken
from dagger_dsl.errors import (
    ConfigurationError,
    InputValidationError,
    MissingInputError,
    OutputError,
    UnknownInputError,
)
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.registry import Registry, current_registry, define, registry
from dagger_dsl.store.cache import Cache, get_input, insert_value, parse_input_from_name
from dagger_dsl.testing import (
    FakeClock,
    fresh_registry,
    make_ctx,
    make_hook_ctx,
    mutation_checked,
    run_action,
    unchanged,
)

# --- the clock -----------------------------------------------------------------------------------


def test_a_fake_clock_stands_still_until_told_to_go_on() -> None:
    clock = FakeClock(10.0)
    assert clock() == clock() == 10.0
    assert clock.advance(2.5) == 12.5
    clock.sleep(60)
    asyncio.run(clock.sleep_async(1))
    assert clock() == 73.5
    assert clock.sleeps == [60, 1]
    assert repr(clock) == "<FakeClock 73.5>"


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", None, True])
def test_a_fake_clock_never_goes_back(seconds: Any) -> None:
    clock = FakeClock()
    for move in (clock.advance, clock.sleep):
        with pytest.raises(ConfigurationError, match="forward only"):
            move(seconds)
    assert clock() == 1_000.0
    assert clock.sleeps == []


@pytest.mark.parametrize("start", ["x", None, float("nan"), float("inf"), True])
def test_a_fake_clock_begins_at_a_number(start: Any) -> None:
    with pytest.raises(ConfigurationError, match="start is a number of seconds, such as"):
        FakeClock(start)


def test_threads_lose_no_time() -> None:
    clock = FakeClock(0)
    threads = [
        threading.Thread(target=lambda: [clock.advance(1) for _ in range(1_000)]) for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert clock() == 8_000


# --- contexts ------------------------------------------------------------------------------------


@pytest.mark.row("B4")
def test_a_context_has_all_fields_of_the_documents() -> None:
    services = object()
    ctx = make_ctx({"text": "hi"}, cache={"other": {"result": 3}}, app_data=services)
    assert (ctx.dag_name, ctx.node_id, ctx.run_id, ctx.attempt) == ("dag", "node", "run_test", 1)
    assert ctx.inputs == {"text": "hi"}
    assert ctx.app_data is services
    assert not ctx.cancelled
    assert ctx.idempotency_key == "run_test/node/default"
    assert ctx.logger.extra is not None
    assert ctx.logger.extra["node_id"] == "node"


@pytest.mark.row("B5")
def test_inputs_of_a_context_are_read_only() -> None:
    ctx = make_ctx({"text": "hi"})
    with pytest.raises(TypeError):
        ctx.inputs["text"] = "changed"  # type: ignore[index]


@pytest.mark.row("B6")
def test_the_cache_of_a_context_gives_the_default_for_unknown_keys() -> None:
    ctx = make_ctx(cache={"node1": {"result": None}})
    assert ctx.cache.get("node1", "result", 5) is None
    assert ctx.cache.get("node1", "other", 5) == 5
    assert ctx.cache.get("nobody", "result") is None
    cache = Cache({"node1": {"result": 3}})
    assert make_ctx(cache=cache).cache is cache
    assert make_ctx().cache.get("x", "y", 1) == 1


@pytest.mark.row("B2")
def test_a_context_has_no_handle_on_the_graph() -> None:
    ctx = make_ctx()
    assert not hasattr(ctx, "executor")
    assert not hasattr(ctx, "graph")
    with pytest.raises(AttributeError):
        ctx.node_id = "other"  # type: ignore[misc]


def test_a_context_tells_of_a_cancel() -> None:
    token = CancelToken()
    ctx = make_ctx(cancel=token)
    token.cancel()
    assert ctx.cancelled


# --- registries ----------------------------------------------------------------------------------


def greet(name: str) -> str:
    return f"hello {name}"


@pytest.mark.row("O2")
def test_a_fresh_registry_forgets_and_does_not_leak() -> None:
    before = registry.list_actions()
    with fresh_registry(greet) as fresh:
        assert current_registry() is fresh
        assert fresh.list_actions() == ["greet"]
        fresh.register(lambda: 1, "inside")
    assert current_registry() is registry
    assert registry.list_actions() == before
    assert fresh.parent is None


# --- one call ------------------------------------------------------------------------------------


def test_a_plain_function_is_called_with_its_inputs() -> None:
    assert run_action(greet, {"name": "world"}) == "hello world"


async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


def test_an_async_function_is_awaited() -> None:
    assert run_action(double, {"x": 4}) == 8


def test_an_async_function_is_awaited_inside_a_running_loop() -> None:
    async def inside() -> Any:
        return run_action(double, {"x": 4})

    assert asyncio.run(inside()) == 8

    async def fail(x: int) -> int:
        raise ZeroDivisionError(x)

    async def failing() -> Any:
        return run_action(fail, {"x": 4})

    with pytest.raises(ZeroDivisionError):
        asyncio.run(failing())


@pytest.mark.row("B48")
def test_an_action_that_wants_a_context_gets_one() -> None:
    def report(x: int, ctx: NodeCtx) -> str:
        return f"{ctx.node_id}/{ctx.attempt}: {x} of {ctx.cache.get('a', 'result')}"

    assert run_action(report, {"x": 1}) == "report/1: 1 of None"
    ctx = make_ctx({"x": 2}, node_id="n7", attempt=3, cache={"a": {"result": 9}})
    assert run_action(report, ctx=ctx) == "n7/3: 2 of 9"


class Multiply:
    """An object of the documents' form, with its own configuration."""

    name = "multiply"

    def __init__(self, factor: int) -> None:
        self.factor = factor

    async def execute(self, ctx: NodeCtx) -> NodeOutput:
        return NodeOutput.success({"product": ctx.inputs["x"] * self.factor})


@pytest.mark.row("B1", "B3")
def test_an_object_with_execute_is_called_with_the_context() -> None:
    assert run_action(Multiply(3), {"x": 5}).outputs == {"product": 15}


def simple_action(executor: Any, node: Any, cache: Cache) -> None:
    text = parse_input_from_name(cache, "text", node.inputs, str)
    assert get_input(cache, node.id, "text") == text
    insert_value(cache, node.id, "output", text.upper())


@pytest.mark.row("A54")
def test_a_legacy_function_gives_back_what_it_inserted() -> None:
    assert run_action(simple_action, {"text": "abc"}) == {"output": "ABC"}


def test_what_an_action_raises_is_raised() -> None:
    def divide(a: float, b: float) -> float:
        return a / b

    with pytest.raises(ZeroDivisionError):
        run_action(divide, {"a": 1.0, "b": 0.0})


def test_annotations_and_schemas_are_checked() -> None:
    with pytest.raises(InputValidationError, match="name must be str"):
        run_action(greet, {"name": 3})
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    out = {"type": "string"}

    def count(n: int) -> Any:
        return n

    strict = define(count, input_schema=schema, output_schema=out)
    with pytest.raises(InputValidationError, match="minimum"):
        run_action(strict, {"n": 0})
    with pytest.raises(OutputError, match="string"):
        run_action(strict, {"n": 1})


@pytest.mark.parametrize(
    ("inputs", "error", "says"),
    [
        (5, ConfigurationError, "inputs are a mapping of names to values, such as .*, not 5"),
        ({5: 1}, ConfigurationError, "inputs are a mapping of names to values"),
        ({"naem": "x"}, UnknownInputError, "'greet' takes no input 'naem'; did you mean 'name'"),
        ({}, MissingInputError, "'greet' needs values for 'name'; give them by name"),
        (None, MissingInputError, "'greet' needs values for 'name'"),
    ],
)
def test_inputs_that_an_action_cannot_be_called_with_are_refused(
    inputs: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        run_action(greet, inputs)


def test_what_an_action_or_a_hook_cannot_read_is_no_context() -> None:
    wrong: Any = 5
    for make in (
        lambda: run_action(greet, {"name": "x"}, ctx=wrong),
        lambda: make_ctx(inputs=wrong),
        lambda: make_ctx(cache=wrong),
        lambda: make_hook_ctx(cache=wrong),
        lambda: make_hook_ctx(graph=wrong),
        lambda: unchanged(wrong).__enter__(),
    ):
        with pytest.raises(ConfigurationError, match="not 5"):
            make()


# --- mutated inputs ------------------------------------------------------------------------------


def append(items: list[int]) -> int:
    items.append(4)
    return len(items)


def test_changing_an_input_is_found() -> None:
    with pytest.raises(AssertionError, match=r"action 'append' changed its input 'items'.*copy"):
        run_action(append, {"items": [1, 2, 3]})
    assert run_action(append, {"items": [1, 2, 3]}, check_mutation=False) == 4


def test_a_change_deep_inside_is_found() -> None:
    value: dict[str, Any] = {"a": [{"b": {1, 2}}]}
    with pytest.raises(AssertionError, match="changed its input 'v'"), unchanged({"v": value}):
        value["a"][0]["b"].add(3)
    with unchanged({"v": value, "f": float("nan"), "o": object()}):
        len(value)


def test_a_block_that_raises_raises_its_own_error() -> None:
    value = [1]
    with pytest.raises(ZeroDivisionError), unchanged({"v": value}):
        value.append(1 // 0)


def test_a_checked_registry_watches_every_call() -> None:
    async def append_async(items: list[int]) -> None:
        items.append(5)

    def by_context(ctx: NodeCtx) -> None:
        ctx.inputs["items"].append(6)

    plain = Registry()
    for each in (append, append_async, greet):
        plain.register(each)
    checked = mutation_checked(plain)
    assert checked.list_actions() == plain.list_actions()
    assert checked["greet"].fn("world") == "hello world"
    with pytest.raises(AssertionError, match="'append' changed its input 'items'"):
        checked["append"].fn([1])
    with pytest.raises(AssertionError, match="'append_async' changed its input 'items'"):
        asyncio.run(checked["append_async"].fn(items=[1]))
    with pytest.raises(AssertionError, match="'by_context' changed its input 'items'"):
        mutation_checked({"by_context": by_context})["by_context"].fn(ctx=make_ctx({"items": [1]}))
    assert plain["append"].fn([1]) == 2


def test_the_kit_needs_no_test_framework() -> None:
    code = "import sys; import dagger_dsl.testing; sys.exit('pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
