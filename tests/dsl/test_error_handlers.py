"""Document 002's error handling at nodes: retries, limits, handlers, fallbacks, resources."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, Node, RunOptions, action, engine
from dagger_dsl.errors import (
    ConfigurationError,
    ExecutionTimeout,
    NodeExecutionError,
    NodeNotFound,
    NodeTimeout,
)
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.registry import Registry
from dagger_dsl.testing import FakeClock, play

every_runner = pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
both = pytest.mark.parametrize("is_async", [False, True])


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def failing(**options: Any) -> DAG:
    """Return a DAG of ``risky``, which always fails, and ``after``, which takes its result."""
    dag = DAG("flow")

    @dag.node(**options)
    def risky(data: int) -> Any:
        raise ValueError(f"API error: {data}")

    @dag.node
    def after(risky: Any) -> Any:
        return risky

    risky >> after
    dag.input("data", default=3)
    return dag


# --- retries --------------------------------------------------------------------------------------


@pytest.mark.row("H16")
@both
def test_retry_3_calls_at_most_4_times_with_waits_of_1_2_and_4(is_async: bool) -> None:
    clock, calls = FakeClock(), []
    dag = DAG("flow")

    def body() -> None:
        calls.append(clock())
        raise ValueError("no")

    async def body_async() -> None:
        body()

    options: dict[str, Any] = {"retry": 3, "retry_delay": 1.0, "retry_backoff": 2.0}
    dag.node(timeout=30.0, id="risky", name="risky", **options)(body_async if is_async else body)
    report = play(dag, clock=clock)
    assert report.status == "failed"
    assert len(calls) == 4, "fast-dag makes 9: its node and its runner both retry"
    assert clock.sleeps == [1.0, 2.0, 4.0]
    assert [each - calls[0] for each in calls] == [0.0, 1.0, 3.0, 7.0]
    assert report.node_reports["risky"].attempts == 4


@pytest.mark.row("H16")
@every_runner
def test_every_runner_counts_the_same_calls(runner: str) -> None:
    calls: list[int] = []
    dag = DAG("flow")

    @dag.node(retry=3, retry_delay=0)
    def risky() -> None:
        calls.append(1)
        raise ValueError("no")

    with pytest.raises(NodeExecutionError, match="after 4 attempts"):
        dag.run(runner=runner)
    assert len(calls) == 4


@pytest.mark.row("H17")
def test_each_attempt_has_a_fresh_limit() -> None:
    clock = FakeClock()
    dag = DAG("flow")

    @dag.node(retry=3, retry_delay=1.0, retry_backoff=2.0, timeout=30.0)
    def slow(ctx: NodeCtx) -> int:
        clock.advance(29.0 if ctx.attempt == 3 else 31.0)
        return ctx.attempt

    report = play(dag, clock=clock)
    assert report.outputs == {"slow": 3}
    assert report.duration == 31 + 1 + 31 + 2 + 29


@pytest.mark.row("H17")
@both
@every_runner
def test_an_attempt_that_overruns_is_retried_with_the_whole_limit(
    runner: str, is_async: bool
) -> None:
    dag = DAG("flow")

    def slow(ctx: NodeCtx) -> int:
        time.sleep(1.0 if ctx.attempt == 1 else 0.01)
        return ctx.attempt

    async def slow_async(ctx: NodeCtx) -> int:
        await asyncio.sleep(30.0 if ctx.attempt == 1 else 0.01)
        return ctx.attempt

    options: dict[str, Any] = {"retry": 1, "retry_delay": 0, "timeout": 0.3}
    dag.node(id="slow", name="slow", **options)(slow_async if is_async else slow)
    assert dag.run(runner=runner) == 2


# --- traps of the reference -----------------------------------------------------------------------


@every_runner
def test_a_limit_of_the_run_is_no_input_of_a_node(runner: str) -> None:
    dag = DAG("flow")

    @dag.node
    async def forever() -> None:
        await asyncio.sleep(60)

    with pytest.raises(ExecutionTimeout):
        dag.run(runner=runner, timeout=0.05)
    with pytest.raises(ConfigurationError, match="did you mean 'error_handler'"):
        dag.run(runner=runner, error_handlr=print)


# --- handlers -------------------------------------------------------------------------------------


@pytest.mark.row("H18")
@both
@every_runner
def test_what_an_error_handler_returns_becomes_the_result_after_the_retries(
    runner: str, is_async: bool
) -> None:
    calls: list[Any] = []

    def handle(a: Node, b: Any, c: BaseException) -> dict[str, Any]:
        calls.append((a.name, a.id, b, type(c)))
        return {"error": str(c), "default": True}

    async def handle_async(a: Node, b: Any, c: BaseException) -> dict[str, Any]:
        await asyncio.sleep(0)
        return handle(a, b, c)

    dag = failing(retry=2, retry_delay=0)
    dag.set_node_error_handler("risky", handle_async if is_async else handle)
    assert dag.run(runner=runner) == {"error": "API error: 3", "default": True}
    assert calls == [("risky", "risky", {"data": 3}, ValueError)]
    report = dag.report.node_reports["risky"]
    assert report.recovered
    assert report.attempts == 3
    assert dag.report.success


@pytest.mark.row("H18")
@every_runner
def test_an_error_handler_that_returns_none_changes_nothing(runner: str) -> None:
    dag = failing()
    dag.set_node_error_handler("risky", lambda node, inputs, error: print(error))
    with pytest.raises(NodeExecutionError, match="API error: 3"):
        dag.run(runner=runner)


@every_runner
def test_an_error_handler_that_fails_is_told_of_and_the_first_error_counts(runner: str) -> None:
    dag = failing()
    dag.set_node_error_handler("risky", lambda node, inputs, error: [].pop())
    with pytest.raises(NodeExecutionError, match="API error") as raised:
        dag.run(runner=runner)
    assert raised.value.__cause__ is not None
    assert any("handler failed too" in note for note in raised.value.__cause__.__notes__)


@pytest.mark.row("H18")
def test_handles_and_functions_take_an_error_handler_as_decorators() -> None:
    dag = failing()

    @dag.nodes["risky"].on_error
    def handle(node: Any, inputs: Any, error: BaseException) -> int:
        return 1

    assert dag.run() == 1
    assert handle(None, None, ValueError()) == 1, "it stays a function"

    @dag.node
    def other() -> int:
        raise KeyError("x")

    @other.on_error
    def two(node: Any, inputs: Any, error: BaseException) -> int:
        return 2

    dag.set_node_error_handler(dag.nodes["risky"], lambda n, i, e: 3)
    assert dag.run() == {"after": 3, "other": 2}
    dag.set_node_error_handler(other, None)
    with pytest.raises(NodeExecutionError, match="other"):
        dag.run()


def test_the_inputs_of_a_handler_are_those_of_the_call() -> None:
    seen: list[Any] = []
    dag = DAG("flow")

    @dag.node
    def risky(node: int, error: int, inputs: int) -> None:
        raise ValueError("no")

    def handle(node: Any, inputs: Any, error: Any) -> int:
        seen.append((node.id, inputs, str(error)))
        return 0

    dag.set_node_error_handler("risky", handle)
    assert dag.run({"node": 1, "error": 2, "inputs": 3}) == 0
    assert seen == [("risky", {"node": 1, "error": 2, "inputs": 3}, "no")]


def test_a_wrong_error_handler_is_refused_where_it_is_set() -> None:
    dag = failing()
    with pytest.raises(NodeNotFound, match="did you mean 'risky'"):
        dag.set_node_error_handler("risk", print)
    wrong: Any
    for wrong in (1, "handler", lambda: 1, lambda error: 1, []):
        with pytest.raises(ConfigurationError, match=r"'risky' is .*\(node, inputs, error\)"):
            dag.set_node_error_handler("risky", wrong)
    with pytest.raises(ConfigurationError, match="another DAG"):
        dag.set_node_error_handler(failing().nodes["risky"], print)
    for wrong in (None, 3, [], b"risky"):
        with pytest.raises(NodeNotFound):
            dag.set_node_error_handler(wrong, print)


def test_a_handler_comes_after_the_fallback_and_changes_the_version_of_the_graph() -> None:
    order: list[str] = []

    def second(data: int) -> None:
        order.append("fallback")
        raise OSError("no source")

    def handle(node: Any, inputs: Any, error: BaseException) -> str:
        order.append("handler")
        return str(error)

    dag = failing(fallback=action(second))
    before = dag.graph.version
    dag.set_node_error_handler("risky", handle)
    assert dag.graph.version != before
    assert dag.graph.nodes["risky"].failure == "flow.risky.on_error"
    assert dag.run() == "API error: 3"
    assert order == ["fallback", "handler"]


def test_names_of_any_length_have_handlers() -> None:
    dag = DAG("d" * 150)
    for k in range(2):
        dag.node(id=f"{'n' * 190}{k}", name=f"n{k}")(lambda: 1 / 0)
        dag.set_node_error_handler(f"{'n' * 190}{k}", lambda n, i, e: n.id[-1])
    assert list(dag.run().values()) == ["0", "1"]


@every_runner
def test_every_invocation_of_a_mapped_node_is_handled_by_itself(runner: str) -> None:
    @action
    def invert(x: int) -> float:
        return 1 / x

    with DAG("flow") as dag:
        invert.map([1, 0, 2, 0])
    dag.set_node_error_handler("invert", lambda node, inputs, error: f"not {inputs['x']}")
    assert dag.run(runner=runner) == [1.0, "not 0", 0.5, "not 0"]


def test_a_resumed_run_finds_the_handler_in_the_dag_again(tmp_path: Path) -> None:
    url, broken = f"sqlite:{tmp_path / 'runs.db'}", [True]

    def built() -> DAG:
        dag = failing()
        dag.set_node_error_handler("risky", lambda n, i, e: None if broken[0] else "default")
        return dag

    run_id = built().start(database_url=url).result().run_id
    broken[0] = False
    report = engine.resume(run_id, built().registry, RunOptions(database_url=url))
    assert report.outputs == {"after": "default"}


@pytest.mark.row("H25")
@every_runner
def test_a_fallback_is_called_after_the_last_attempt(runner: str) -> None:
    calls: list[str] = []

    @action
    def secondary(source: str) -> str:
        calls.append("secondary")
        return f"{source} elsewhere"

    @action(retry=2, retry_delay=0, fallback=secondary)
    def primary(source: str) -> str:
        calls.append("primary")
        raise ConnectionError("down")

    with DAG("flow") as dag:
        primary(dag.input("source"))
    assert dag.run({"source": "data"}, runner=runner) == "data elsewhere"
    assert calls == ["primary"] * 3 + ["secondary"]


# --- resources ------------------------------------------------------------------------------------


def with_cleanup(clean: Callable[[], Any], *, wraps: bool = True) -> Callable[[Any], Any]:
    """Return the document's decorator, with `functools.wraps` or as it is printed there."""

    def decorator(function: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            finally:
                clean()

        return functools.wraps(function)(wrapper) if wraps else wrapper

    return decorator


@pytest.mark.row("M18")
@every_runner
def test_context_managers_and_cleanup_decorators_release_on_failure(runner: str) -> None:
    order: list[str] = []

    class Managed:
        def __enter__(self) -> Managed:
            order.append("acquired")
            return self

        def __exit__(self, *_: object) -> None:
            order.append("released")

    dag = DAG("flow")

    @dag.node
    def managed() -> None:
        with Managed():
            raise ValueError("inside")

    @dag.node
    @with_cleanup(lambda: order.append("cleaned"))
    def cleaned(data: int = 0) -> None:
        raise ValueError("inside")

    with pytest.raises(NodeExecutionError):
        dag.run(runner=runner, config={"on_failure": "continue"})
    assert sorted(order) == ["acquired", "cleaned", "released"]
    assert dag.nodes["cleaned"].name == "cleaned", "not 'wrapper'"


@pytest.mark.row("M18")
def test_a_wrapper_without_wraps_releases_too() -> None:
    released: list[int] = []

    def process(data: int) -> int:
        return data + 1

    dag = DAG("flow")
    dag.node(with_cleanup(lambda: released.append(1), wraps=False)(process))
    assert dag.run({"data": 1}) == 2
    assert released == [1]


@both
def test_the_limit_of_an_attempt_holds_for_what_a_handler_follows(is_async: bool) -> None:
    dag = DAG("flow")

    async def slow() -> None:
        await asyncio.sleep(60)

    dag.node(id="slow", name="slow", timeout=0.02)(slow)
    seen: list[type] = []

    def handle(node: Any, inputs: Any, error: BaseException) -> str:
        seen.append(type(error))
        return "late"

    dag.set_node_error_handler("slow", handle)
    assert dag.run(runner="asyncio" if is_async else "sequential") == "late"
    assert seen == [NodeTimeout]
