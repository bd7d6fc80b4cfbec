"""What the documents promise in numbers, and what a notebook does to a program."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from dagger_dsl import DAG, DagExecutor, Graph, Node
from tests.benchmarks.measure import within

NAP = 0.1


def nap() -> float:
    time.sleep(NAP)
    return NAP


async def nap_async() -> float:
    await asyncio.sleep(NAP)
    return NAP


def three_naps(nap: Any, runner: str) -> float:
    """Return the seconds that three independent nodes of 100 ms take."""
    graph = Graph("naps", [Node(each, "nap") for each in "abc"])
    with DagExecutor(registry={"nap": nap}) as executor:
        executor.run(graph, runner=runner).raise_for_failure()  # imports are paid once
        started = time.perf_counter()
        executor.run(graph, runner=runner).raise_for_failure()
        return time.perf_counter() - started


@pytest.mark.benchmark
@pytest.mark.row("E3")
@pytest.mark.parametrize(("runner", "body"), [("threads", nap), ("asyncio", nap_async)])
def test_three_nodes_of_100_ms_take_150_ms_at_most_side_by_side(runner: str, body: Any) -> None:
    taken, allowed = within(lambda: three_naps(body, runner), 1.5 * NAP)
    assert NAP <= taken <= allowed


@pytest.mark.row("E3")
def test_and_300_ms_at_least_one_after_the_other() -> None:
    assert three_naps(nap, "sequential") >= 3 * NAP


@pytest.mark.row("R1")
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_blocking_calls_work_inside_a_running_loop_as_in_a_notebook(runner: str) -> None:
    with DAG("inside") as dag:
        dag.add(nap_async, id="first") >> dag.add(nap, id="second")

    async def cell() -> tuple[Any, Any]:
        with DagExecutor() as executor:
            report = executor.run(dag, runner=runner)
        return dag.run(runner=runner), report.outputs

    value, outputs = asyncio.run(cell())
    assert value == NAP
    assert outputs == {"second": NAP}
