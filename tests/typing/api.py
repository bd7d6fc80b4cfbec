"""How the front door looks to a type checker.

mypy checks this file with the rest of the tests: `assert_type` says what an expression must be,
and an ignored error that does not occur is an error. `test_api.py` runs it too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, assert_type

import tenacity

from dagger_dsl import DAG, CacheStrategy, NodeCtx, RetryPolicy, Trigger, action, branch
from dagger_dsl.dsl import Action, InputHandle, NodeBuilder, NodeFunction, nodes
from dagger_dsl.model.graph import Graph
from dagger_dsl.model.validate import ValidationReport
from dagger_dsl.registry import Registry

own = Registry()


# A decorated function keeps its signature, with and without parentheses.


@action(registry=own)
def load(path: str, limit: int = 10) -> list[int]:
    """Read numbers."""
    return [limit]


@action(registry=own, outputs=["total", "count"], retry=2, timeout=3.5, cache=CacheStrategy.ALWAYS)
def summarise(rows: list[int]) -> dict[str, int]:
    return {"total": sum(rows), "count": len(rows)}


@action(
    registry=own,
    retry=RetryPolicy(3, retry_on=[OSError], wait=tenacity.wait_fixed(1)),
    on_failure="continue",
    trigger=Trigger.SUCCESS,
)
async def report(total: int, *, title: str = "") -> str:
    return f"{title}{total}"


assert_type(load("a"), list[int])
assert_type(load(path="a", limit=3), list[int])
assert_type(summarise.__name__, str)
assert_type(load.with_options(id="first", timeout=2)("a"), list[int])


def plain(x: int) -> str:
    return str(x)


assert_type(action(plain, registry=own)(1), str)
assert_type(action(functools.partial(plain, 1), name="one", registry=own)(), str)


async def caller() -> None:
    assert_type(await report(1, title="x"), str)
    waiting: Coroutine[Any, Any, str] = report(2)
    await waiting


# A map gives lists: of an async function, when awaited; where the shape hangs on the arguments, or
# nothing is known of the result, anything.


@action(registry=own)
def untyped(x):  # type: ignore[no-untyped-def]
    return x


assert_type(load.map(["a", "b"], limit=3), list[list[int]])
assert_type(load.map(path=["a"]), list[list[int]])
assert_type(load.map([["a"], ["b"]], depth=2), Any)
assert_type(load.map(["a"], on_error="collect", max_parallel=2), Any)
assert_type(untyped.map([1]), Any)


async def mapper() -> None:
    assert_type(await report.map([1, 2], title="x"), list[str])
    assert_type(await report.map([[1]], depth=2), Any)


# Wrong calls are seen, outside of a DAG and inside.


def wrong() -> None:
    load(3)  # type: ignore[arg-type]
    load("a", limit="b")  # type: ignore[arg-type]
    load()  # type: ignore[call-arg]
    load("a", unknown=1)  # type: ignore[call-arg]
    summarise(load)  # type: ignore[arg-type]
    load.with_options(timout=3)  # type: ignore[call-arg]
    load.no_such_attribute  # type: ignore[attr-defined]
    action(timout=3)  # type: ignore[call-overload]
    action(attempts="often")  # type: ignore[call-overload]
    load.map(["a"], on_error="skip")  # type: ignore[call-overload]
    load.map(["a"], depth="2")  # type: ignore[call-overload]
    load.map(["a"], max_parallel=2.5)  # type: ignore[call-overload]
    load.map([1]) + "text"  # type: ignore[operator]
    with DAG("flow") as dag:
        summarise(load(1))  # type: ignore[arg-type]
        load >> "text"  # type: ignore[operator]
    dag.node(timout=3)  # type: ignore[call-overload]
    dag.node(plain)("x")  # type: ignore[arg-type]


# Methods lose their instance.


class Scaler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @action
    def scale(self, value: int, ctx: NodeCtx | None = None) -> int:
        return value * self.factor


assert_type(Scaler(2).scale(3), int)
assert_type(Scaler(2).scale.map([3, 4]), list[int])


# What chooses the way on is an action too.


@branch(registry=own, timeout=2)
def route(total: int) -> str:
    return "report" if total else "load"


@branch(registry=own)
def undecided() -> list[str]:
    return []


assert_type(route(1), str)
assert_type(undecided, Action[[], list[str]])


# Calls inside a block, handles and arrows.


def build() -> DAG:
    with DAG("flow", tags=["x"], config={"max_attempts": 2}) as dag:
        rows = load(dag.input("path", str), dag.input("limit", int, default=5))
        assert_type(rows, list[int])
        summarise(rows)
        summarise >> report
        load >> [summarise, report]
        load >> (summarise & report)
        report << [load, summarise]
        summarise.out.total >> report
        report.branches["big"] >> action(plain, name="big", registry=own)
        [load, summarise] >> action(plain, registry=own)
        nodes(load, summarise) >> [report]
        route >> [
            action(plain, name="left", registry=own),
            action(plain, name="right", registry=own),
        ]
        assert_type(summarise.map(load.map(["a"])), list[dict[str, int]])
    handle = dag.nodes["report"]
    assert_type(handle, NodeBuilder)
    handle.after(dag.nodes["load"])
    dag.connect("summarise", "report", output="total", input="total")
    assert_type(dag.compile(), Graph)
    assert_type(dag.validate(), ValidationReport)
    return dag


# Nodes of a DAG keep their signature too.


def by_nodes() -> DAG:
    dag = DAG("nodes")

    @dag.node
    def first(n: int) -> bool:
        return n > 0

    @dag.node(timeout=3, id="then")
    def second() -> int:
        return 2

    @dag.condition
    def check(n: int) -> bool:
        return n > 0

    @dag.any()
    def either(second: int | None) -> int:
        return second or 0

    @dag.cached_node(ttl=60)
    def cached(n: int) -> int:
        return n

    assert_type(first(3), bool)
    assert_type(second, NodeFunction[[], int])
    assert_type(second(), int)
    assert_type(cached(3), int)
    check.on_true >> second >> either
    first.node.branches["true"] >> cached
    return dag


def typed_decorator(fn: Callable[[int], str]) -> Callable[[int], str]:
    """Decorators of the user that keep types keep them under `action` too."""

    @functools.wraps(fn)
    def wrapper(x: int) -> str:
        return fn(x)

    return wrapper


stacked = action(name="stacked", registry=own)(typed_decorator(plain))
assert_type(stacked, Action[[int], str])
declared: InputHandle | None = None
