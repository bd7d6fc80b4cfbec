"""Scenarios of the sections "Execution Modes" and "Running DAGs"."""

# The `dag` of a stage is anything, for it has to have what the document calls and no less.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from dagger_dsl import DAG
from dagger_dsl.errors import DaggerError, ExecutionTimeout
from dagger_dsl.model.sharing import Context
from tests.acceptance.document_002.props import LIMIT, Client, Meeting, Spans
from tests.acceptance.document_002.stage import Stage, scenario


@scenario("Sequential Mode (Default)")
async def one_at_a_time_in_topological_order(stage: Stage) -> None:
    dag, spans = stage.dag, Spans()

    @dag.node
    def join(left: int, right: int) -> int:
        with spans("join"):
            return left - right

    @dag.node
    def left(load: int) -> int:
        with spans("left"):
            return load * 10

    @dag.node
    def right(load: int) -> int:
        with spans("right"):
            return load

    @dag.node
    def load() -> int:
        with spans("load"):
            return 1

    load >> [left, right] >> join
    names = await stage.play()
    assert names.given["result"] == [9, 9]
    assert spans.started == ["load", "left", "right", "join"] * 2
    assert spans.peak == 1
    assert spans.threads == {threading.get_ident()}


@scenario("Parallel Mode", 1)
async def independent_nodes_run_in_threads_as_many_as_asked_for_or_as_there_are_cpus(
    stage: Stage,
) -> None:
    stage.monkeypatch.setattr(os, "cpu_count", lambda: 3)
    spans, count = Spans(), 12
    # Nobody gets past before as many are inside as there should be workers.
    meetings = [threading.Barrier(4, timeout=LIMIT), threading.Barrier(3, timeout=LIMIT)]
    peaks: list[int] = []

    def work() -> int:
        with spans("work"):
            meetings[0].wait()
            time.sleep(0.01)
            return threading.get_ident()

    def end() -> str:
        peaks.append(spans.peak)
        spans.clear()
        meetings.pop(0)
        return "end"

    workers = [stage.dag.add(work, id=f"work_{k}") for k in range(count)]
    stage.dag.add(end).after(*workers)
    names = await stage.play()
    assert names.given["result"] == ["end", "end"]
    assert peaks == [4, 3]


@scenario("Parallel Mode", 2)
async def three_regions_in_parallel(stage: Stage) -> None:
    dag, spans, together = stage.dag, Spans(), threading.Barrier(3, timeout=LIMIT)
    data = {"region_a": "a", "region_b": "b", "region_c": "c"}

    def heavy_computation(region: str) -> dict[str, str]:
        with spans(region):
            together.wait()
            return {"of": region}

    def merge_results(*regions: dict[str, str]) -> list[str]:
        with spans("merge"):
            return [each["of"] for each in regions]

    dag.input("data", dict, default=data)
    await stage.define(heavy_computation=heavy_computation, merge_results=merge_results)
    for each in "abc":
        dag.connect(f"process_region_{each}", "combine_regions", input=each)
    names = await stage.play()
    assert names["result"] == ["a", "b", "c"]
    assert spans.peak == 3
    assert sorted(spans.started[:3]) == ["a", "b", "c"]
    assert spans.started[3:] == ["merge"]
    assert len({each.thread for each in spans.calls if each.name != "merge"}) == 3


@scenario("Async Mode")
async def requests_and_queries_wait_together_on_the_callers_loop(stage: Stage) -> None:
    together, loops = Meeting(2), []

    async def answer(method: str, url: str, _: Any) -> dict[str, str]:
        loops.append(asyncio.get_running_loop())
        await together.join()
        return {"asked": f"{method} {url}"}

    class Connection:
        async def fetch(self, query: str) -> list[str]:
            loops.append(asyncio.get_running_loop())
            await together.join()
            return [query]

    @asynccontextmanager
    async def connect() -> AsyncIterator[Connection]:
        yield Connection()

    client = Client(answer)
    stage.dag.input("url", str, default="http://example.invalid")
    stage.dag.input("query", str, default="select 1")
    names = await stage.play(
        aiohttp=SimpleNamespace(ClientSession=lambda: client),
        database=SimpleNamespace(connect=connect),
    )
    assert names["result"] == {
        "fetch_api_data": {"asked": "GET http://example.invalid"},
        "fetch_db_data": ["select 1"],
    }
    assert loops == [stage.loop, stage.loop]
    assert (client.opened, client.closed) == (1, 1)


@scenario("Mixed Mode Execution")
async def sync_work_leaves_the_loop_free(stage: Stage) -> None:
    threads: list[int] = []
    sent: list[Any] = []

    async def beat() -> int:
        return threading.get_ident()

    def transform_data(raw: dict[str, int]) -> dict[str, int]:
        threads.append(threading.get_ident())
        assert stage.loop is not None
        # The loop answers while this body blocks its thread.
        heart = asyncio.run_coroutine_threadsafe(beat(), stage.loop).result(LIMIT)
        assert heart != threading.get_ident()
        return {"n": raw["n"] + 1}

    async def answer(method: str, url: str, payload: Any) -> dict[str, str]:
        assert asyncio.get_running_loop() is stage.loop
        sent.append((method, url, payload))
        return {"id": "upload-7"}

    stage.dag.input("raw", dict, default={"n": 1})
    await stage.define(transform_data=transform_data, client=Client(answer))
    stage.dag.connect("prepare_data", "upload_data", input="data")
    names = await stage.play()
    assert names["result"] == "upload-7"
    assert sent == [("POST", "/api/upload", {"n": 2})]
    assert len(threads) == 1


@scenario("Basic Execution")
async def inputs_context_and_modes_reach_the_nodes(stage: Stage) -> None:
    dag, spans = stage.dag, Spans()
    seen: list[tuple[Any, ...]] = []
    main = threading.get_ident()
    eight = threading.Barrier(8, timeout=LIMIT)

    def scale(data: list[int], config: dict[str, int], context: Context) -> list[int]:
        in_thread = threading.get_ident() != main
        if in_thread:
            eight.wait()
        with spans("scale"):
            seen.append((data, config, context.metadata.get("user_id"), in_thread))
            return [each * config["factor"] for each in data]

    def first(results: Any, context: Context) -> Any:
        return results, context

    data = dag.input("data", list, default=[1])
    config = dag.input("config", dict, default={"factor": 1})
    parts = [dag.add(scale, id=f"scale_{k}", data=data, config=config) for k in range(8)]
    dag.add(first, results=parts[0]).after(*parts[1:])
    my_data, my_config = [1, 2], {"factor": 10}
    names = await stage.play(my_data=my_data, my_config=my_config)
    plain, given, with_context, all_together = names.given["result"]
    assert [each[0] for each in names.given["result"]] == [[1], [10, 20], [1], [1, 2]]
    assert seen[0:8] == [([1], {"factor": 1}, None, False)] * 8
    assert seen[8:16] == [([1, 2], {"factor": 10}, None, False)] * 8
    assert seen[16:24] == [([1], {"factor": 1}, "123", False)] * 8
    assert seen[24:] == [([1, 2], {"factor": 1}, "123", True)] * 8
    assert with_context[1] is all_together[1] is names["context"]
    assert len({id(each[1]) for each in (plain, given, with_context)}) == 3
    assert dag.context is names["context"]


@scenario("Partial Execution")
async def a_part_runs_on_what_an_earlier_run_has_found(stage: Stage) -> None:
    def build(dag: Any) -> None:
        @dag.node
        def load_data() -> list[int]:
            ran.append("load_data")
            return [1, 2, len(ran)]

        @dag.node
        def process_data(data: list[int]) -> int:
            ran.append("process_data")
            return sum(data)

        @dag.node
        def validate_output(total: int) -> int:
            ran.append("validate_output")
            return total

        @dag.node
        def save_results(valid: int) -> str:
            ran.append("save_results")
            return f"saved {valid}"

        @dag.node
        def report(saved: str) -> str:
            ran.append("report")
            return saved.upper()

        load_data >> process_data >> validate_output >> save_results >> report

    ran: list[str] = []
    build(stage.dag)
    assert stage.dag.run() == "SAVED 4"
    whole = list(ran)
    assert whole == ["load_data", "process_data", "validate_output", "save_results", "report"]
    names = await stage.play()
    assert ran[5:9] == whole[1:]
    assert ran[9:13] == whole[:4]
    assert ran[13:] == whole[:3]
    # The first part took over what `load_data` had given; the others began with it.
    assert names.given["result"] == ["SAVED 4", "saved 13", 17]

    other: Any = DAG("never run")
    build(other)
    before = len(ran)
    with pytest.raises(DaggerError, match="load_data"):
        other.run_from("process_data")
    assert len(ran) == before


@scenario("Execution Control")
async def a_run_has_a_limit_and_can_be_cancelled(stage: Stage) -> None:
    dag = stage.dag
    started: list[str] = []
    cancelled: list[str] = []
    holds: list[bool] = [False]

    @dag.node
    async def wait() -> str:
        started.append("wait")
        try:
            if holds[0]:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("wait")
            raise
        return "waited"

    @dag.node
    def go_on(wait: str) -> str:
        started.append("go_on")
        return wait

    wait >> go_on
    names = await stage.play()
    assert names["result"] == "waited"
    assert started == ["wait", "go_on"]
    assert dag.report.duration < 300.0

    holds[0] = True
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        async with asyncio.timeout(LIMIT):
            while len(started) < 3:
                await asyncio.sleep(0.001)

    names["asyncio"] = SimpleNamespace(
        create_task=asyncio.create_task, sleep=sleep, CancelledError=asyncio.CancelledError
    )
    await stage.settle(names["controlled_run"]())
    assert stage.printed() == ["DAG execution cancelled"]
    assert slept == [10]
    assert (started[2:], cancelled) == (["wait"], ["wait"])

    with pytest.raises(ExecutionTimeout):
        dag.run(timeout=0.05)
    assert (started[3:], cancelled) == (["wait"], ["wait", "wait"])


@scenario("Execution Results")
async def results_are_there_by_name(stage: Stage) -> None:
    dag = stage.dag

    @dag.node
    def load_data() -> list[int]:
        return [1, 2, 3]

    @dag.node
    def process_data(data: list[int]) -> int:
        return sum(data)

    load_data >> process_data
    names = await stage.play()
    assert stage.printed() == ["6", "load_data: [1, 2, 3]", "process_data: 6", "Success!"]
    assert dict(names["all_results"]) == {"load_data": [1, 2, 3], "process_data": 6}
    assert dag["load_data"] == [1, 2, 3]
    assert dag.get_result("process_data") == dag["process_data"] == 6
