"""Streams between worker processes: whose error it was, and how long a consumer may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, ResourcePool
from dagger_dsl.errors import NodeExecutionError, NodeTimeout
from dagger_dsl.registry import Registry
from tests.runners.helpers import eventually, our_threads
from tests.runners.test_processes import children

# Each starts processes of its own.
pytestmark = pytest.mark.slow

RUNNERS = pytest.mark.parametrize("runner", ["sequential", "threads", "processes"])


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = children()
    yield
    eventually(lambda: not our_threads(), "the threads end")
    eventually(lambda: children() <= before, "the processes end")


def attempts_of(path: Path) -> int:
    return path.stat().st_size


@RUNNERS
def test_a_producers_error_is_its_own_and_retried_by_its_policy(
    runner: str, tmp_path: Path
) -> None:
    path = tmp_path / "calls"
    with DAG("s") as dag:

        @dag.node(retry=2, retry_delay=0)
        def produce() -> Iterator[int]:
            with path.open("a") as file:
                file.write("x")
            yield 1
            if path.stat().st_size < 3:
                raise ValueError("no more")
            yield 2

        @dag.node
        def double(produce: Iterator[int]) -> Iterator[int]:
            for each in produce:
                yield each * 2

        @dag.node
        def collect(double: Iterator[int]) -> list[int]:
            return list(double)

        produce >> double >> collect
    assert dag.run(runner=runner) == [2, 4]
    assert attempts_of(path) == 3
    assert dag.report.node_reports["produce"].attempts == 3


@RUNNERS
def test_an_error_that_a_consumer_raises_of_a_producers_is_the_consumers(runner: str) -> None:
    with DAG("s") as dag:

        @dag.node
        def produce() -> Iterator[int]:
            yield 1
            raise ValueError("no more")

        @dag.node
        def collect(produce: Iterator[int]) -> list[int]:
            try:
                return list(produce)
            except ValueError as error:
                raise KeyError("mine") from error

        produce >> collect
    with pytest.raises(NodeExecutionError, match="mine") as caught:
        dag.run(runner=runner)
    assert caught.value.node_id == "collect"


@RUNNERS
def test_the_traceback_of_a_producers_error_names_producer_and_consumer(runner: str) -> None:
    with DAG("s") as dag:

        @dag.node
        def produce() -> Iterator[int]:
            yield 1
            raise ValueError("no more")

        @dag.node
        def collect(produce: Iterator[int]) -> list[int]:
            return list(produce)

        produce >> collect
    with pytest.raises(NodeExecutionError) as caught:
        dag.run(runner=runner)
    assert caught.value.node_id == "produce"
    error = dag.report.node_reports["produce"].error
    assert error is not None
    assert "in produce" in error.traceback
    assert "in collect" in error.traceback


@pytest.mark.parametrize("links", [0, 1])
def test_a_limit_holds_while_a_producer_elsewhere_is_waited_for(links: int) -> None:
    with DAG("slow") as dag:

        @dag.node
        def produce() -> Iterator[int]:
            yield 1
            time.sleep(60)
            yield 2

        last: Any = produce
        for n in range(links):

            @dag.node(id=f"link{n}")
            def link(items: Iterator[int]) -> Iterator[int]:
                yield from items

            last >> link
            last = link

        @dag.node(timeout=1.0)
        def total(items: Iterator[int]) -> int:
            return sum(items)

        last >> total
    began = time.monotonic()
    with pytest.raises(NodeExecutionError) as caught:
        dag.run(runner="processes")
    assert isinstance(caught.value.__cause__, NodeTimeout)
    assert caught.value.node_id == "total"
    assert time.monotonic() - began < 20
    assert dag.report.abandoned == ()


def test_a_limit_holds_while_a_producer_here_is_waited_for() -> None:
    pool: ResourcePool[object] = ResourcePool(object, max_size=1)
    released = threading.Event()
    with DAG("slow", config={"shutdown_grace": 0.1}) as dag:

        @dag.node(uses={"conn": pool})
        def produce(conn: object) -> Iterator[int]:
            yield 1
            released.wait(60)
            yield 2

        @dag.node(timeout=1.0)
        def total(produce: Iterator[int]) -> int:
            return sum(produce)

        produce >> total
    began = time.monotonic()
    try:
        with pytest.raises(NodeExecutionError) as caught:
            dag.run(runner="processes")
        assert isinstance(caught.value.__cause__, NodeTimeout)
        assert time.monotonic() - began < 20
        assert dag.report.abandoned == ("total",)
    finally:
        released.set()
