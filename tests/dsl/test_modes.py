"""The modes of document 002: what runs together, for how long, and on whose loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dagger_dsl import DAG, DagConfig, DagExecutor, action
from dagger_dsl.errors import (
    ConfigurationError,
    ExecutionTimeout,
    NodeExecutionError,
    NodeTimeout,
    UnknownInputError,
)
from dagger_dsl.model.sharing import Context
from dagger_dsl.registry import Registry

MODES = ["sequential", "parallel", "async"]
#: Seconds that a test waits for what has to happen, on a machine that may be busy.
PATIENCE = 20.0

every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def fan(size: int, body: Callable[[int], Any]) -> DAG:
    """Return a DAG of nodes that do not wait for each other."""
    work = action(body, name="work")
    with DAG("fan") as dag:
        for k in range(size):
            work(k)
    return dag


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.row("K10", "K11")
@pytest.mark.parametrize(
    "mode", ["sequential", "sync", "parallel", "threads", "thread", "async", "asyncio"]
)
def test_modes_and_runners_are_one_option(mode: str) -> None:
    dag = fan(2, lambda k: k)
    assert dag.run(mode=mode) == {"work": 0, "work_2": 1}
    assert dag.run(runner=mode) == {"work": 0, "work_2": 1}


@pytest.mark.row("K11")
@pytest.mark.parametrize(
    ("mode", "meant"), [("sequental", "sequential"), ("paralel", "parallel"), ("asnyc", "async")]
)
def test_an_unknown_mode_is_an_error_at_the_call(mode: str, meant: str) -> None:
    called: list[int] = []
    dag = fan(1, called.append)
    with pytest.raises(ConfigurationError, match=f"did you mean '{meant}'"):
        dag.run(mode=mode)
    with pytest.raises(ConfigurationError, match=f"did you mean '{meant}'"):
        _ = dag.start(mode=mode)
    for wrong in (None, 3, ["sync"], ""):
        with pytest.raises(ConfigurationError, match="'parallel'"):
            dag.run(mode=wrong)
    assert called == []


@pytest.mark.row("K10")
def test_the_default_calls_one_node_after_the_other_in_the_calling_thread() -> None:
    seen: list[tuple[int, int]] = []
    dag = fan(3, lambda k: seen.append((k, threading.get_ident())))
    dag.run()
    assert seen == [(k, threading.get_ident()) for k in range(3)]
    assert dag.report.workers == 1


# --- workers --------------------------------------------------------------------------------------


@pytest.mark.row("K12")
@pytest.mark.parametrize("mode", ["parallel", "async"])
def test_nodes_that_wait_for_nothing_overlap(mode: str) -> None:
    gate = threading.Barrier(4)
    dag = fan(4, lambda _: gate.wait(PATIENCE))
    dag.run(mode=mode, max_workers=4)
    assert dag.report.workers == 4
    nodes = list(dag.report.node_reports.values())
    latest, first = max(each.started_at for each in nodes), min(each.finished_at for each in nodes)
    assert latest <= first


@pytest.mark.row("K12", "K13")
@pytest.mark.parametrize("mode", ["parallel", "async"])
def test_no_more_than_max_workers_run_at_once(mode: str) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def body(_: int) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.002)
        with lock:
            now[0] -= 1

    fan(20, body).run(mode=mode, max_workers=3)
    assert 2 <= most[0] <= 3


@pytest.mark.row("K13")
def test_parallel_without_a_number_takes_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    dag = fan(1, lambda _: threading.current_thread().name)
    dag.run(mode="parallel")
    assert dag.report.workers == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    gate = threading.Barrier(7)
    wide = fan(7, lambda _: gate.wait(PATIENCE))
    wide.run(mode="parallel")
    assert wide.report.workers == 7
    wide.run(mode="parallel", max_workers=8)
    assert wide.report.workers == 8


@pytest.mark.row("K13")
def test_a_configuration_that_names_a_number_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    dag = fan(1, lambda k: k)
    dag.config = DagConfig(max_parallel_nodes=3)
    dag._changed()
    dag.run(mode="parallel")
    assert dag.report.workers == 3
    dag.run(mode="parallel", config={"max_parallel_nodes": 5})
    assert dag.report.workers == 5
    dag.run(mode="parallel", config={"enable_parallel_execution": False})
    assert dag.report.workers == 1
    with DagExecutor() as executor:  # its default is that of its own documents
        executor.load(fan(1, lambda k: k))
        assert executor.run("fan").workers == 4


# --- time limits ----------------------------------------------------------------------------------


@every_mode
@pytest.mark.row("E25")
def test_the_limit_of_a_run_ends_it(mode: str) -> None:
    release = threading.Event()
    dag = fan(1, lambda _: release.wait(PATIENCE))
    begun = time.monotonic()
    with pytest.raises(ExecutionTimeout, match=r"0\.05 s"):
        dag.run(mode=mode, timeout=0.05)
    assert time.monotonic() - begun < PATIENCE / 2
    assert str(dag.report.status) == "timed_out"
    release.set()


@every_mode
@pytest.mark.row("E25")
def test_the_limit_of_a_run_ends_an_async_body(mode: str) -> None:
    ended: list[str] = []

    async def body(_: int) -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            ended.append("ended")

    with pytest.raises(ExecutionTimeout):
        fan(1, body).run(mode=mode, timeout=0.05)
    assert ended == ["ended"]


@pytest.mark.row("E25")
def test_timeout_is_never_taken_for_an_input() -> None:
    @action
    def wait(timeout: float) -> float:
        return timeout

    with DAG("limits") as dag:
        wait(dag.input("timeout", float, default=1.0))
    assert dag.run(timeout=300.0) == 1.0
    assert dag.run({"timeout": 5.0}, timeout=300.0) == 5.0
    for wrong in (0, -1, "soon", float("nan"), True):
        with pytest.raises(ConfigurationError, match="timeout"):
            dag.run(timeout=wrong)


@every_mode
@pytest.mark.row("E25")
def test_the_limit_of_a_node_ends_its_attempt(mode: str) -> None:
    release = threading.Event()

    @action(timeout=0.05)
    def slow() -> None:
        release.wait(PATIENCE)

    with DAG("slow") as dag:
        slow()
    with pytest.raises(NodeExecutionError) as caught:
        dag.run(mode=mode)
    assert isinstance(caught.value.__cause__, NodeTimeout)
    release.set()


# --- asyncio --------------------------------------------------------------------------------------


@pytest.mark.row("K14", "K15")
def test_the_loop_stays_responsive_while_a_sync_body_blocks() -> None:
    beats = [0]
    enough = threading.Event()

    def block(_: int) -> bool:
        return enough.wait(PATIENCE)  # a thread waits for the loop, which goes on

    async def beat() -> None:
        while True:
            beats[0] += 1
            if beats[0] > 20:
                enough.set()
            await asyncio.sleep(0.001)

    async def main() -> Any:
        heart = asyncio.create_task(beat())
        try:
            return await fan(1, block).run_async()
        finally:
            heart.cancel()

    assert asyncio.run(main()) is True


@pytest.mark.row("K15")
@every_mode
def test_sync_and_async_bodies_mix(mode: str) -> None:
    @action
    def prepare(raw: int) -> int:
        return raw + 1

    @action
    async def upload(data: int) -> int:
        await asyncio.sleep(0)
        return data * 10

    @action
    def check(answer: int) -> str:
        return f"id {answer}"

    with DAG("mixed") as dag:
        prepared: Any = prepare(dag.input("raw", int))
        uploaded: Any = upload(prepared)
        check(uploaded)
    assert dag.run({"raw": 3}, mode=mode) == "id 40"

    async def main() -> Any:
        inside = dag.run({"raw": 3}, mode=mode)  # as in a notebook
        return inside, await dag.run_async({"raw": 3})

    assert asyncio.run(main()) == ("id 40", "id 40")


@pytest.mark.row("E26")
@pytest.mark.parametrize("runner", ["asyncio", "sequential"])
def test_cancelling_the_task_of_a_run_cancels_it(runner: str) -> None:
    ended: list[str] = []

    async def main() -> None:
        begun = asyncio.Event()

        async def body(_: int) -> None:
            begun.set()
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        task = asyncio.create_task(fan(1, body).run_async(runner=runner))
        await asyncio.wait_for(begun.wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        assert not rest

    asyncio.run(main())
    assert ended == ["cancelled"]


@pytest.mark.row("K32")
def test_three_equal_waits_take_the_time_of_one_under_async() -> None:
    pause = 0.15

    async def fetch(_: int) -> None:
        await asyncio.sleep(pause)

    def seconds(mode: str) -> float:
        begun = time.perf_counter()
        fan(3, fetch).run(mode=mode)
        return time.perf_counter() - begun

    seconds("async")  # the first run loads what later ones have
    sequential = seconds("sequential")
    together = min(seconds("async") for _ in range(3))
    assert sequential >= 3 * pause
    assert sequential / together >= 2.5


# --- inputs and everything together ---------------------------------------------------------------


@every_mode
@pytest.mark.row("K16")
def test_entry_nodes_are_given_inputs_by_parameter_name(mode: str) -> None:
    dag = DAG("entry")

    @dag.node
    def load(data: list[int], config: dict[str, int]) -> int:
        return sum(data) * config["factor"]

    inputs = {"data": [1, 2], "config": {"factor": 5}}
    assert dag.run(inputs=inputs, mode=mode) == 15
    with pytest.raises(UnknownInputError, match="'dat'; did you mean 'data'"):
        dag.run(inputs={**inputs, "dat": 1}, mode=mode)


@every_mode
@pytest.mark.row("K17", "K18")
def test_all_options_together(mode: str) -> None:
    dag = DAG("all")

    @dag.node
    def who(data: int, context: Context) -> str:
        context.metadata["seen"] = data
        return f"{context.metadata['user']} {data}"

    context = Context(metadata={"user": "anna"})
    told: list[tuple[str, str]] = []
    result = dag.run(
        inputs={"data": 4},
        context=context,
        mode=mode,
        max_workers=8,
        timeout=60.0,
        run_id="mine",
        progress=lambda node, status, _: told.append((node, status)),
        config={"on_failure": "continue"},
        start_at="who",
        stop_at="who",
    )
    assert result == "anna 4"
    assert context.metadata["seen"] == 4
    assert context.results["who"] == "anna 4"
    assert dag.report.run_id == "mine"
    assert told == [("who", "completed")]
