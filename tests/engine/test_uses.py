"""``uses=``: resources of pools that are lent to the calls of actions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dagger_dsl import DAG, action
from dagger_dsl.errors import (
    ConfigurationError,
    NodeExecutionError,
    NodeTimeout,
    ResourceTimeout,
    ValidationError,
)
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.pools import ResourcePool
from dagger_dsl.registry import Registry, define
from dagger_dsl.testing import play, run_action
from tests.engine.helpers import RUNNERS

every_runner = pytest.mark.parametrize("runner", RUNNERS)
both = pytest.mark.parametrize("is_async", [False, True])


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


class Connection:
    """Answers queries; knows how many of its kind work at the same time."""

    working = 0
    most = 0
    lock = threading.Lock()

    def execute(self, query: str) -> str:
        """Answer."""
        return f"rows of {query}"

    def __enter__(self) -> Connection:
        with Connection.lock:
            Connection.working += 1
            Connection.most = max(Connection.most, Connection.working)
        return self

    def __exit__(self, *_: object) -> None:
        with Connection.lock:
            Connection.working -= 1


@pytest.fixture
def pool() -> ResourcePool[Connection]:
    Connection.working = Connection.most = 0
    return ResourcePool(Connection, max_size=2)


@pytest.mark.row("K31")
@every_runner
@both
def test_each_call_is_lent_a_resource_and_never_more_are_out_than_there_may_be(
    runner: str, is_async: bool, pool: ResourcePool[Connection]
) -> None:
    def db_operation(query: str, conn: Connection) -> str:
        with conn:
            time.sleep(0.001)
            return conn.execute(query)

    async def db_operation_async(query: str, conn: Connection) -> str:
        with conn:
            await asyncio.sleep(0.001)
            return conn.execute(query)

    chosen: Any = db_operation_async if is_async else db_operation
    operation = action(chosen, uses={"conn": pool}, name="db")
    with DAG("flow") as dag:
        operation.map([f"t{k}" for k in range(20)])
    assert dag.run(runner=runner, max_workers=8) == [f"rows of t{k}" for k in range(20)]
    assert Connection.most <= 2
    assert pool.size <= 2
    assert pool.in_use == 0
    assert not dag.compile().inputs, "the resource is no input"


@pytest.mark.row("K31")
@every_runner
def test_it_works_under_nodes_and_on_methods(runner: str, pool: ResourcePool[Connection]) -> None:
    dag = DAG("flow")

    @dag.node(uses=pool)
    def load(resource: Connection, query: str, ctx: NodeCtx) -> str:
        return f"{ctx.node_id}: {resource.execute(query)}"

    @dag.node(uses=pool)
    def only(conn: Connection) -> bool:
        return isinstance(conn, Connection)

    assert dag.run({"query": "t"}, runner=runner) == {"load": "load: rows of t", "only": True}

    class Repository:
        @action(uses={"conn": pool})
        def find(self, conn: Connection, query: str) -> str:
            return conn.execute(query)

    with DAG("methods") as methods:
        Repository().find(query="m")  # type: ignore[call-arg]
    assert methods.run(runner=runner) == "rows of m"
    assert pool.in_use == 0


@pytest.mark.row("K31")
@every_runner
@both
def test_it_is_given_back_after_errors_timeouts_and_cancels(
    runner: str, is_async: bool, pool: ResourcePool[Connection]
) -> None:
    dag = DAG("flow")

    @dag.node(uses={"conn": pool}, retry=2, retry_delay=0)
    def wrong(conn: Connection) -> None:
        raise ValueError("no")

    async def slow_async(conn: Connection) -> None:
        await asyncio.sleep(60)

    ends = threading.Event()

    def slow(conn: Connection) -> None:
        ends.wait(30)

    chosen: Any = slow_async if is_async else slow
    dag.node(id="slow", name="slow", uses={"conn": pool}, timeout=0.03)(chosen)
    dag.run(runner=runner, error_strategy="continue")
    assert type(dag.report.node_reports["slow"].exception) is NodeTimeout
    if not is_async:
        assert pool.in_use == 1, "the thread that was left behind still has it"
        ends.set()
        deadline = time.monotonic() + 10
        while pool.in_use and time.monotonic() < deadline:
            time.sleep(0.005)
    assert pool.in_use == 0

    late = DAG("late")
    late.node(id="late", name="late", uses={"conn": pool})(slow_async)
    handle = late.start(runner=runner)
    deadline = time.monotonic() + 10
    while not pool.in_use and time.monotonic() < deadline:
        time.sleep(0.001)
    handle.cancel()
    assert handle.result().status == "cancelled"
    assert pool.in_use == 0


def test_async_bodies_wait_without_blocking_the_loop(pool: ResourcePool[Connection]) -> None:
    held = [pool.acquire(), pool.acquire()]
    ticks: list[int] = []
    dag = DAG("flow")

    @dag.node(uses=pool)
    async def wait(conn: Connection) -> str:
        return "had one"

    @dag.node
    async def tick() -> None:
        for k in range(5):
            ticks.append(k)
            await asyncio.sleep(0.001)
        for each in held:
            pool.release(each)

    assert asyncio.run(dag.run_async())["wait"] == "had one"
    assert len(ticks) == 5


@every_runner
def test_the_wait_for_a_resource_counts_into_the_limit(
    runner: str, pool: ResourcePool[Connection]
) -> None:
    held = [pool.acquire(), pool.acquire()]
    dag = DAG("flow")

    @dag.node(uses=pool, timeout=0.03)
    async def wait(conn: Connection) -> None: ...

    with pytest.raises(NodeExecutionError, match="timeout"):
        dag.run(runner=runner)
    for each in held:
        pool.release(each)
    assert pool.in_use == 0
    with pytest.raises(ResourceTimeout), pool.lease(0), pool.lease(0), pool.lease(0):
        pass


def test_two_pools_are_asked_in_one_order_by_everybody() -> None:
    first: ResourcePool[object] = ResourcePool(object, max_size=1)
    second: ResourcePool[object] = ResourcePool(object, max_size=1)

    @action(uses={"a": first, "b": second})
    def one(x: int, a: object, b: object) -> int:
        time.sleep(0.0005)
        return x

    @action(uses={"b": second, "a": first})
    def other(x: int, a: object, b: object) -> int:
        time.sleep(0.0005)
        return x

    assert list(other.definition.uses) == ["a", "b"]
    with DAG("flow") as dag:
        one.map(list(range(20)))
        other.map(list(range(20)))
    dag.run(runner="threads", max_workers=8, timeout=60)
    assert (first.in_use, second.in_use) == (0, 0)


def test_a_generator_holds_its_resource_until_it_ends(pool: ResourcePool[Connection]) -> None:
    seen: list[int] = []

    @action(uses={"conn": pool})
    def rows(conn: Connection) -> Iterator[int]:
        for k in range(3):
            seen.append(pool.in_use)
            yield k

    @action(uses={"conn": pool})
    async def rows_async(conn: Connection) -> AsyncIterator[int]:
        for k in range(3):
            seen.append(pool.in_use)
            yield k

    @action
    def double(x: int) -> int:
        return 2 * x

    for source in (rows, rows_async):
        with DAG("flow") as dag:
            double.map(source())  # type: ignore[call-arg]
        assert dag.run() == [0, 2, 4]
        assert seen == [1, 1, 1]
        seen.clear()
        assert pool.in_use == 0


def test_a_function_stays_a_function(pool: ResourcePool[Connection]) -> None:
    @action(uses={"conn": pool})
    def first(conn: Connection, query: str) -> str:
        return f"{id(conn)} {query}"

    @action(uses={"conn": pool})
    def last(query: str, conn: Connection, /) -> str:
        return f"{id(conn)} {query}"

    mine = Connection()
    for each in (first, last):
        lent = pool.acquire()
        pool.release(lent)
        call: Any = each
        assert call("q") == f"{id(lent)} q"
        assert pool.in_use == 0
    assert first(mine, "q") == f"{id(mine)} q"
    assert first(conn=mine, query="q") == f"{id(mine)} q"
    assert last("q", mine) == f"{id(mine)} q"
    assert run_action(first, {"query": "q"}).endswith(" q")

    dag = DAG("flow")

    @dag.node(uses=pool)
    def node(conn: Connection) -> bool:
        return isinstance(conn, Connection)

    plain: Any = node
    assert plain() is True
    assert play(dag).outputs == {"node": True}


def test_what_is_not_clear_is_refused_where_the_action_is_defined(
    pool: ResourcePool[Connection],
) -> None:
    def two(query: str, conn: Connection) -> None: ...

    def none() -> None: ...

    with pytest.raises(ConfigurationError, match=r"has 'query', 'conn': write uses=\{'conn': pool"):
        action(two, uses=pool)
    with pytest.raises(ConfigurationError, match="has none"):
        action(none, uses=pool)
    with pytest.raises(ConfigurationError, match="did you mean 'conn'"):
        action(two, uses={"con": pool})
    wrong: Any
    for wrong in (1, "pool", Connection, [pool], {}, {"conn": 1}, {1: pool}, ResourcePool):
        with pytest.raises(ConfigurationError, match="is a ResourcePool, or a mapping"):
            action(two, uses=wrong)
        with pytest.raises(ConfigurationError, match="is a ResourcePool, or a mapping"):
            action(uses=wrong)

    class Object:
        name = "object"

        def execute(self, ctx: NodeCtx) -> None: ...

    with pytest.raises(ConfigurationError, match=r"execute\(ctx\) has no other"):
        define(Object(), uses=pool)

    def legacy(executor: Any, node: Any, cache: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="has none"):
        define(legacy, uses=pool)
    known = action(two, uses={"conn": pool}, name="known")
    with pytest.raises(ConfigurationError, match="first made an action"):
        define(known, uses=pool)
    options: Any = {"uses": pool}
    with pytest.raises(ConfigurationError, match="no option 'uses'"):
        known.with_options(**options)
    with DAG("flow"), pytest.raises(ValidationError, match="no parameter 'conn'"):
        known(query="q", conn=Connection())
