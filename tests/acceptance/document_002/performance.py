"""Scenarios of the section "Performance Optimization", and of its best practices."""

# The `dag` of a stage is anything, for it has to have what the document calls and no less.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
import gc
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from dagger_dsl.errors import NodeExecutionError
from dagger_dsl.model.sharing import Context
from tests.acceptance.document_002.props import LIMIT, Spans
from tests.acceptance.document_002.stage import Stage, scenario

MODES = ("sequential", "parallel", "async")


@scenario("Caching")
async def results_are_taken_again_while_their_keys_are_equal_and_they_are_fresh(
    stage: Stage,
) -> None:
    calls: list[str] = []

    def complex_algorithm(data: dict[str, int]) -> dict[str, int]:
        calls.append("complex")
        return {"sum": sum(data.values())}

    def process_user_data(user_id: str, data_version: int, data: dict[str, int]) -> dict[str, Any]:
        calls.append("user")
        return {"user": user_id, "version": data_version, "size": len(data)}

    def transform(data: dict[str, int]) -> dict[str, int]:
        calls.append("transform")
        return {name: value * 2 for name, value in data.items()}

    await stage.play(
        complex_algorithm=complex_algorithm,
        process_user_data=process_user_data,
        transform=transform,
    )

    def run(**changes: Any) -> tuple[Any, list[str]]:
        calls.clear()
        inputs = {"data": {"a": 1}, "user_id": "u", "data_version": 1, "data_tuple": (("a", 1),)}
        answer = stage.dag.run(inputs={**inputs, **changes})
        return answer, sorted(calls)

    first = {
        "expensive_computation": {"sum": 1},
        "user_specific_calc": {"user": "u", "version": 1, "size": 1},
        "cached_transform": {"a": 2},
    }
    assert run() == (first, ["complex", "transform", "user"])
    assert run() == (first, [])
    # Another *data* is no part of the key that was chosen.
    assert run(data={"a": 1, "b": 2}) == (
        {**first, "expensive_computation": {"sum": 3}},
        ["complex"],
    )
    assert run(data_version=2)[1] == ["user"]
    assert run(user_id="v")[1] == ["user"]
    assert run(data_tuple=(("b", 2),))[1] == ["transform"]

    def advance(seconds: float) -> None:
        class Later(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> Later:
                return super().now(tz) + dt.timedelta(seconds=seconds)

        from dagger_dsl.engine import lookups

        stage.monkeypatch.setattr(
            lookups, "dt", SimpleNamespace(UTC=dt.UTC, datetime=Later, timedelta=dt.timedelta)
        )

    advance(1_700)
    assert run() == (first, [])
    advance(1_900)
    assert run() == (first, ["user"])
    advance(3_650)  # the other was called anew after 1,900 s
    assert run() == (first, ["complex"])


@scenario("Lazy Evaluation")
async def a_loader_is_called_only_where_its_data_is_needed(stage: Stage) -> None:
    loaded: list[str] = []

    def load_large_dataset(path: str) -> list[int]:
        loaded.append(path)
        return [1, 2, 3]

    await stage.play(Callable=Callable, load_large_dataset=load_large_dataset, process=sum)
    stage.dag.connect("lazy_data_loader", "process_if_needed", input="data_loader")
    config = {"path": "large.bin"}
    for mode in MODES:
        loaded.clear()
        inputs = {"config": config, "should_process": False}
        assert stage.dag.run(inputs=inputs, mode=mode) == {"skipped": True}
        assert loaded == []
        assert stage.dag.run(inputs={**inputs, "should_process": True}, mode=mode) == 6
        assert loaded == ["large.bin"]


class Large(list[int]):
    """An intermediate result that can be watched."""


@scenario("Memory Management")
async def chunks_flow_while_the_file_is_read_and_results_can_be_let_go(stage: Stage) -> None:
    dag, count = stage.dag, 200
    log: list[tuple[str, int]] = []
    freed: list[bool] = []
    watched: list[weakref.ref[Large]] = []

    class Chunk(dict[str, int]):
        def __getitem__(self, name: str) -> int:
            log.append(("used", super().__getitem__("number")))
            return super().__getitem__(name)

    def read_chunks(file: Any, chunk_size: int) -> Iterator[list[int]]:
        assert chunk_size == 1000
        while lines := list(islice(file, chunk_size)):
            yield [int(line) for line in lines]

    def process_chunk(chunk: list[int]) -> Chunk:
        number = chunk[0] // 1000
        log.append(("made", number))
        return Chunk(number=number, sum=sum(chunk), count=len(chunk))

    @dag.node
    def large_intermediate() -> Large:
        value = Large([1, 2, 3])
        watched.append(weakref.ref(value))
        return value

    @dag.node
    def look() -> None:
        gc.collect()
        freed.append(watched[-1]() is None)

    file = stage.folder / "numbers.txt"
    file.write_text("".join(f"{number}\n" for number in range(count * 1000)))
    await stage.play(
        Iterator=Iterator,
        read_chunks=read_chunks,
        process_chunk=process_chunk,
        expensive_operation=len,
    )
    dag.nodes["stream_processor"] >> dag.nodes["aggregate_streams"]
    dag.nodes["memory_intensive_op"].after(dag.nodes["large_intermediate"])
    dag.nodes["look"].after(dag.nodes["memory_intensive_op"])
    for mode in MODES:
        log.clear()
        context = Context()
        dag.run(inputs={"file_path": str(file), "data": {"n": 1}}, mode=mode, context=context)
        assert dag["aggregate_streams"] == {"average": (count * 1000 - 1) / 2}
        assert dag["memory_intensive_op"] == 1
        made = [number for what, number in log if what == "made"]
        assert made == list(range(count))
        # The first chunk is used long before the last one is made.
        first_use = log.index(("used", 0))
        assert sum(what == "made" for what, _ in log[:first_use]) < count / 2
        assert "large_intermediate" not in context.results
    assert freed == [True] * len(MODES)


@scenario("Parallel Optimization")
async def batches_keep_their_order_and_a_pool_its_size(stage: Stage) -> None:
    dag, items, queries = stage.dag, Spans(), Spans()
    four = threading.Barrier(4, timeout=LIMIT)
    opened: list[Any] = []
    lock = threading.Lock()

    def process_item(item: int) -> int:
        with items("item"):
            if item < 4:
                four.wait()
            return item * item

    class Connection:
        def __init__(self) -> None:
            self.busy = False
            opened.append(self)

        def execute(self, query: str) -> list[str]:
            with queries("query"):
                with lock:
                    assert not self.busy
                    self.busy = True
                time.sleep(0.01)
                self.busy = False
                if query == "bad":
                    raise LookupError("no such table")
                return [query]

    names = await stage.play(
        concurrent=concurrent,
        queue=queue,
        process_item=process_item,
        create_db_connection=Connection,
    )
    answer = dag.run(inputs={"items": list(range(250)), "query": "select"})
    squares = [each * each for each in range(250)]
    assert answer == {"batch_processor": squares, "db_operation": ["select"]}
    assert items.peak == 4
    assert len(opened) == 1

    many = names["DAG"](f"{dag.name}_many")
    for k in range(20):
        many.add(names["db_operation"], id=f"query_{k}", query=f"q{k}")
    assert many.run(mode="parallel", max_workers=10) == {f"query_{k}": [f"q{k}"] for k in range(20)}
    assert 1 < queries.peak <= 5
    assert 1 < len(opened) <= 5

    broken = names["DAG"](f"{dag.name}_broken")
    broken.add(names["db_operation"], query="bad")
    for _ in range(6):  # one more than there are: each was given back
        with pytest.raises(NodeExecutionError, match="no such table"):
            broken.run()
    assert len(opened) <= 5


@scenario("1. Choose the Right Execution Mode")
async def fetches_wait_together_under_async_and_one_after_the_other_otherwise(
    stage: Stage,
) -> None:
    spans, peaks = Spans(), []

    class Api:
        async def get(self, kind: str, user_id: str) -> str:
            with spans(kind):
                await asyncio.sleep(0.02)
            if len(spans.calls) % 3 == 0:
                peaks.append(spans.peak)
                spans.peak = 0
            return f"{kind} of {user_id}"

        def __getattr__(self, name: str) -> Any:
            return lambda user_id: self.get(name.removeprefix("get_"), user_id)

    stage.dag.input("user_id", str, default="u1")
    names = await stage.play(api=Api())
    assert (
        names.given["result"]
        == [
            {
                "fetch_user": "user of u1",
                "fetch_orders": "orders of u1",
                "fetch_preferences": "preferences of u1",
            }
        ]
        * 2
    )
    assert peaks == [3, 1]
    together, apart = spans.calls[:3], spans.calls[3:]
    assert max(each.start for each in together) <= min(each.end for each in together)
    assert [each.name for each in apart] == ["user", "orders", "preferences"]
    assert all(one.end <= two.start for one, two in pairwise(apart))


@scenario("3. Optimize Resource Usage")
async def a_file_is_counted_line_by_line(stage: Stage) -> None:
    file = stage.folder / "words.txt"
    file.write_text("one two\nthree\n" * 5_000)
    await stage.play()
    for mode in MODES:
        assert stage.dag.run(inputs={"file_path": str(file)}, mode=mode) == {
            "process_large_file": {"lines": 10_000, "words": 15_000},
            "bad_process_file": {"lines": 10_000},
        }
