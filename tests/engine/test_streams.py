"""Streams: a node that yields feeds its one consumer while it runs."""

from __future__ import annotations

import asyncio
import csv
import io
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, Registry, engine
from dagger_dsl.engine.control import CancelToken
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.errors import (
    NodeExecutionError,
    NodeTimeout,
    OutputError,
    ValidationError,
)
from dagger_dsl.model.commands import (
    AddNode,
    CancelBranch,
    NodeSpec,
    PauseBranch,
    SetNodeInputs,
    ref,
)
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.policies import CacheStrategy, OnFailure
from dagger_dsl.model.streaming import Stream
from dagger_dsl.store.storage import Store
from dagger_dsl.testing import FakeClock, play
from tests.engine.helpers import IMMEDIATE, states, url_of
from tests.engine.steered import Script, Steered, every_runner, everywhere, kept
from tests.runners.helpers import WAYS, eventually
from tests.scale import count

#: How the ends of a stream are written: who yields, and who reads.
ENDS = ["sync-sync", "sync-async", "async-async"]
every_end = pytest.mark.parametrize("ends", ENDS)


class Tap:
    """A source that can be watched, and consumers that note what they see.

    Attributes:
        items: How many it yields.
        seen: What happened: an item's number when it was made, its negative when it was used.
        made: How many generators were made.
        ended: How many of them came to an end, one way or another.
        error: What it raises behind its first items, and how often it does.
    """

    def __init__(self, items: int = 3, error: Exception | None = None, times: int = 1_000) -> None:
        self.items = items
        self.error = error
        self.times = times
        self.seen: list[int] = []
        self.made = 0
        self.ended = 0

    def plain(self) -> Iterator[int]:
        """Yield the items."""
        self.made += 1
        error = self.error if self.made <= self.times else None
        try:
            for k in range(1, self.items + 1):
                self.seen.append(k)
                yield k
            if error is not None:
                raise error
        finally:
            self.ended += 1

    async def flowing(self) -> AsyncIterator[int]:
        """Yield the items, with a turn of the loop before each."""
        inner = self.plain()
        try:
            for k in inner:
                await asyncio.sleep(0)
                yield k
        finally:
            inner.close()  # type: ignore[attr-defined]  # it is a generator

    def use(self, xs: Iterable[int]) -> int:
        """Add the items up."""
        total = 0
        for x in xs:
            self.seen.append(-x)
            total += x
        return total

    async def use_async(self, xs: AsyncIterator[int]) -> int:
        """Add the items up."""
        total = 0
        async for x in xs:
            self.seen.append(-x)
            total += x
        return total


def piped(tap: Tap, ends: str = "sync-sync", **fields: Any) -> Steered:
    """Return a flow of a source and its consumer; fields are the consumer's."""
    giver, _, taker = ends.partition("-")
    flow = Steered()
    flow.add("source", tap.plain if giver == "sync" else tap.flowing)
    body: Callable[..., Any] = tap.use if taker == "sync" else tap.use_async
    return flow.add("total", body, take={"xs": "source"}, **fields)


def tried(flow: Steered, node_id: str, times: int) -> Steered:
    """Give one node so many attempts, without waits."""
    for k, node in enumerate(flow.nodes):
        if node.id == node_id:
            flow.nodes[k] = node.replace(try_count=times, retry=IMMEDIATE)
    return flow


def pairs(xs: Iterator[int], ys: Iterator[int]) -> list[tuple[int, int]]:
    """Return items side by side; *ys* is asked second."""
    return list(zip(xs, ys, strict=False))


def rows(folder: Path) -> list[tuple[str, int, str]]:
    """Return node, attempt and state of everything that is recorded, in order."""
    with Store(url_of(folder)) as store:
        found = store.query("SELECT node_id, attempt, state FROM node_runs ORDER BY seq")
    return [(each["node_id"], each["attempt"], each["state"]) for each in found]


# --- items ---------------------------------------------------------------------------------------


@pytest.mark.row("K28")
@every_end
@everywhere
def test_a_generator_feeds_its_consumer(runner: str, place: str, ends: str, tmp_path: Path) -> None:
    tap = Tap(5)
    report = piped(tap, ends).run(runner, **kept(place, tmp_path))
    assert report.outputs == {"total": 15}
    assert states(report) == {"source": "completed", "total": "completed"}
    assert (tap.made, tap.ended) == (1, 1)
    if place == "file":
        assert rows(tmp_path) == [("source", 1, "completed"), ("total", 1, "completed")]


@every_end
@pytest.mark.parametrize("way", WAYS)
def test_a_generator_feeds_its_consumer_whoever_waits(way: str, ends: str) -> None:
    assert piped(Tap(5), ends).run("asyncio", way).value("total") == 15


@pytest.mark.row("K28")
@pytest.mark.parametrize("ends", ["sync-sync", "async-async"])
@every_runner
def test_producer_and_consumer_overlap(runner: str, ends: str) -> None:
    tap = Tap(3)
    piped(tap, ends).run(runner, max_workers=1)
    assert tap.seen == [1, -1, 2, -2, 3, -3]


@pytest.mark.row("K28")
@pytest.mark.slow
@every_end
@every_runner
def test_memory_stays_flat(runner: str, ends: str) -> None:
    """1,000,000 items of 1 kB each take less than 50 MB above the baseline."""
    whole = count(1_000_000)
    size = 1_000

    def source() -> Iterator[bytes]:
        for k in range(whole):
            yield k.to_bytes(4, "big") * (size // 4)

    async def flowing() -> AsyncIterator[bytes]:
        for item in source():
            yield item

    def total(xs: Iterable[bytes]) -> int:
        return sum(len(x) for x in xs)

    async def total_async(xs: AsyncIterator[bytes]) -> int:
        found = 0
        async for x in xs:
            found += len(x)
        return found

    giver, _, taker = ends.partition("-")
    flow = Steered().add("source", source if giver == "sync" else flowing)
    flow.add("total", total if taker == "sync" else total_async, take={"xs": "source"})
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        report = flow.run(runner)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert report.value("total") == whole * size
    # What is loaded on first use is there however few items there are.
    assert peak < max(5_000_000, 50_000_000 * whole / 1_000_000)


@every_runner
def test_streams_are_lazy_all_the_way(runner: str) -> None:
    tap = Tap(1_000_000)

    def twice(xs: Iterator[int]) -> Iterator[int]:
        try:
            for x in xs:
                yield 2 * x
        finally:
            tap.ended += 1

    def first(xs: Iterator[int]) -> int:
        return next(xs)

    flow = Steered().add("source", tap.plain).add("twice", twice, take={"xs": "source"})
    flow.add("again", twice, take={"xs": "twice"}).add("first", first, take={"xs": "again"})
    report = flow.run(runner)
    assert report.value("first") == 4
    assert set(states(report).values()) == {"completed"}
    assert tap.seen == [1], "nothing is made that nobody takes"
    assert tap.ended == 3, "what was not read to its end is closed"


@every_runner
def test_an_async_chain_is_read_through(runner: str) -> None:
    tap = Tap(3)

    async def twice(xs: AsyncIterator[int]) -> AsyncIterator[int]:
        async for x in xs:
            yield 2 * x

    flow = Steered().add("source", tap.plain).add("twice", twice, take={"xs": "source"})
    flow.add("total", tap.use_async, take={"xs": "twice"})
    assert flow.run(runner).value("total") == 12
    assert tap.ended == 1


@every_runner
def test_two_streams_meet_in_one_consumer(runner: str) -> None:
    one, two = Tap(2), Tap(9)

    def both(ys: Iterator[int], k: int, xs: Iterator[int]) -> list[tuple[int, int]]:
        return [(k * x, y) for x, y in zip(xs, ys, strict=False)]

    flow = Steered().add("one", one.plain).add("two", two.plain).note("factor", 10)
    flow.add("both", both, take={"xs": "one", "k": "factor", "ys": "two"})
    report = flow.run(runner)
    assert report.value("both") == [(10, 1), (20, 2)]
    assert (one.ended, two.ended) == (1, 1)


@every_runner
def test_any_iterator_is_a_stream(runner: str) -> None:
    def lines(text: str) -> Iterator[list[str]]:
        return csv.reader(io.StringIO(text))  # of a class that is no generator's

    async def later() -> Iterator[int]:
        return iter([1, 2])

    flow = Steered().add("lines", lines, give={"text": "a,b\nc,d\n"})
    flow.add("cells", lambda xs: list(xs), take={"xs": "lines"})
    flow.add("wrapped", lambda: NodeOutput.success(map(str, [1, 2])))
    flow.add("texts", lambda xs: list(xs), take={"xs": "wrapped"})
    flow.add("later", later).add("numbers", lambda xs: list(xs), take={"xs": "later"})
    report = flow.run(runner)
    assert report.value("cells") == [["a", "b"], ["c", "d"]]
    assert report.value("texts") == ["1", "2"]
    assert report.value("numbers") == [1, 2]


@every_runner
def test_an_iterable_that_is_a_list_is_a_value(runner: str) -> None:
    def some() -> Iterable[int]:
        return [1, 2]

    flow = Steered().add("some", some)
    flow.add("one", lambda xs: sum(xs), take={"xs": "some"})
    flow.add("two", lambda xs: len(xs), take={"xs": "some"})
    assert flow.run(runner).outputs == {"one": 3, "two": 2}


def test_a_stream_that_was_read_cannot_be_read_again() -> None:
    report = piped(Tap(2)).run()
    stream = report.value("source")
    assert isinstance(stream, Stream)
    assert repr(stream) == "<stream of 'source', read by 'total'>"
    with pytest.raises(OutputError, match="went to 'total' one by one and were not kept"):
        list(stream)


@every_runner
def test_a_plain_generator_does_not_hold_up_the_loop(runner: str) -> None:
    """A consumer that awaits its items lets others run while a plain body makes them."""
    beats: list[float] = []

    def slow() -> Iterator[int]:
        for k in range(3):
            time.sleep(0.05)
            yield k

    async def total(xs: AsyncIterator[int]) -> int:
        async def beat() -> None:
            while True:
                beats.append(time.monotonic())
                await asyncio.sleep(0.002)

        task = asyncio.create_task(beat())
        found = 0
        async for x in xs:
            found += x
        task.cancel()
        return found

    flow = Steered().add("slow", slow).add("total", total, take={"xs": "slow"})
    assert flow.run(runner).value("total") == 3
    assert len(beats) > 10


@every_runner
def test_the_document_runs_as_printed(runner: str, tmp_path: Path) -> None:
    dag = DAG("averages", registry=Registry())

    def read_chunks(f: Any, chunk_size: int) -> Iterator[list[str]]:
        while chunk := [line for _, line in zip(range(chunk_size), f, strict=False)]:
            yield chunk

    def process_chunk(chunk: list[str]) -> dict[str, int]:
        return {"sum": sum(map(int, chunk)), "count": len(chunk)}

    @dag.node
    def stream_processor(file_path: str) -> Iterator[dict[str, int]]:
        with open(file_path) as f:
            for chunk in read_chunks(f, chunk_size=1000):
                yield process_chunk(chunk)

    @dag.node
    def aggregate_streams(chunks: Iterator[dict[str, int]]) -> dict[str, float]:
        total = 0
        number = 0
        for chunk in chunks:
            total += chunk["sum"]
            number += chunk["count"]
        return {"average": total / number}

    dag.nodes["stream_processor"] >> dag.nodes["aggregate_streams"]
    path = tmp_path / "numbers"
    path.write_text("\n".join(map(str, range(2501))))
    assert dag.run({"file_path": str(path)}, runner=runner) == {"average": 1250.0}


# --- errors --------------------------------------------------------------------------------------


@every_end
@everywhere
def test_an_error_in_the_source_is_the_sources(
    runner: str, place: str, ends: str, tmp_path: Path
) -> None:
    tap = Tap(2, OSError("torn"))
    report = piped(tap, ends).run(runner, **kept(place, tmp_path))
    assert states(report) == {"source": "failed", "total": "skipped"}
    assert isinstance(report.exception, NodeExecutionError)
    assert "'source'" in str(report.exception)
    assert report.node_reports["source"].exception is tap.error
    error = report.node_reports["source"].error
    assert error is not None
    assert "in plain" in error.traceback, "the line of the user's own generator is shown"
    assert "dagger_dsl/engine" not in error.traceback
    assert report.node_reports["total"].reason == "upstream_failed: 'source' failed"
    assert tap.ended == 1
    if place == "file":
        assert rows(tmp_path)[0] == ("source", 1, "failed")


@every_end
@everywhere
def test_the_policy_of_the_source_counts_when_the_source_raised(
    runner: str, place: str, ends: str, tmp_path: Path
) -> None:
    tap = Tap(2, OSError("torn"), times=2)
    report = tried(piped(tap, ends), "source", 3).run(runner, **kept(place, tmp_path))
    assert report.value("total") == 3
    assert (tap.made, tap.ended) == (3, 3)
    assert tap.seen.count(-1) == 3, "each attempt begins with a fresh generator"
    assert report.node_reports["source"].attempts == 3
    assert report.node_reports["total"].attempts == 3
    if place == "file":
        assert rows(tmp_path) == [
            ("source", 1, "failed"),
            ("source", 2, "failed"),
            ("source", 3, "completed"),
            ("total", 3, "completed"),
        ]


@every_end
@everywhere
def test_the_policy_of_the_consumer_counts_when_the_consumer_raised(
    runner: str, place: str, ends: str, tmp_path: Path
) -> None:
    tap, calls = Tap(3), [0]

    def use(xs: Iterable[int]) -> int:
        calls[0] += 1
        for x in xs:
            if x == 2 and calls[0] < 3:
                raise ValueError("no")
        return calls[0]

    async def use_async(xs: AsyncIterator[int]) -> int:
        return use([x async for x in xs])

    flow = Steered().add("source", tap.plain if ends.startswith("sync") else tap.flowing)
    flow.add("total", use if ends == "sync-sync" else use_async, take={"xs": "source"})
    report = tried(flow, "total", 3).run(runner, **kept(place, tmp_path))
    assert report.value("total") == 3
    assert (tap.made, tap.ended) == (3, 3)
    assert report.node_reports["total"].attempts == 3
    assert report.node_reports["source"].attempts == 3


@every_runner
def test_neither_uses_up_the_attempts_of_the_other(runner: str) -> None:
    tap, calls = Tap(2, OSError("torn"), times=1), [0]

    def use(xs: Iterator[int]) -> int:
        calls[0] += 1
        found = sum(xs)
        if calls[0] == 2:
            raise ValueError("no")
        return found

    flow = Steered().add("source", tap.plain).add("total", use, take={"xs": "source"})
    report = tried(tried(flow, "source", 2), "total", 2).run(runner)
    assert report.value("total") == 3
    assert calls == [3]


@every_runner
def test_an_error_of_the_consumer_fails_the_consumer(runner: str) -> None:
    tap = Tap(3)

    def use(xs: Iterator[int]) -> int:
        next(xs)
        raise ValueError("no")

    flow = Steered().add("source", tap.plain, try_count=5, retry=IMMEDIATE)
    flow.add("total", use, take={"xs": "source"}, on_failure=OnFailure.CONTINUE)
    flow.note("behind", after=["source"], trigger="done")
    report = flow.run(runner)
    assert states(report) == {"source": "cancelled", "total": "failed", "behind": "completed"}
    assert report.node_reports["source"].reason == "nobody takes its items: 'total' failed"
    assert (tap.made, tap.ended) == (1, 1)


@every_runner
def test_who_catches_the_error_of_a_source_goes_on(runner: str) -> None:
    tap = Tap(2, OSError("torn"))

    def use(xs: Iterator[int]) -> str:
        try:
            return str(sum(xs))
        except OSError as error:
            return f"caught {error}"

    flow = Steered().add("source", tap.plain).add("total", use, take={"xs": "source"})
    report = flow.run(runner)
    assert report.success
    assert report.value("total") == "caught torn"


@every_runner
def test_an_error_in_the_middle_of_a_chain_names_its_node(runner: str) -> None:
    tap, tries = Tap(4), [0]

    def twice(xs: Iterator[int]) -> Iterator[int]:
        tries[0] += 1
        for x in xs:
            if x == 3 and tries[0] < 3:
                raise ValueError("three")
            yield 2 * x

    flow = Steered().add("source", tap.plain).add("twice", twice, take={"xs": "source"})
    flow.add("total", tap.use, take={"xs": "twice"})
    failed = flow.run(runner)
    assert states(failed) == {"source": "cancelled", "twice": "failed", "total": "skipped"}
    tries[0] = 0
    report = tried(flow, "twice", 3).run(runner)
    assert report.value("total") == 20
    assert tap.made == tap.ended == 4


@every_runner
def test_the_other_source_begins_anew_with_the_one_that_failed(runner: str) -> None:
    one, two = Tap(2, OSError("torn"), times=1), Tap(5)
    flow = Steered().add("one", one.plain).add("two", two.plain)
    flow.add("both", pairs, take={"xs": "two", "ys": "one"})
    report = tried(flow, "one", 2).run(runner)
    assert report.value("both") == [(1, 1), (2, 2)]
    assert (one.made, two.made, one.ended, two.ended) == (2, 2, 2, 2)
    flow = Steered().add("one", one.plain).add("two", two.plain)
    one.times, two.ended = 1_000, 0
    flow.add("both", pairs, take={"xs": "two", "ys": "one"})
    report = flow.run(runner)
    assert states(report) == {"one": "failed", "two": "cancelled", "both": "skipped"}
    assert two.ended == 1


@every_runner
def test_a_clean_up_that_fails_is_not_swallowed(runner: str) -> None:
    def source() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise OSError("cannot close")

    flow = Steered().add("source", source)
    flow.add("first", lambda xs: next(xs), take={"xs": "source"})
    report = flow.run(runner)
    assert states(report) == {"source": "failed", "first": "skipped"}


# --- what stands in ------------------------------------------------------------------------------


@every_runner
def test_a_fallback_may_be_a_stream(runner: str) -> None:
    tap, mirror = Tap(2, OSError("torn")), Tap(4)
    flow = piped(tap)
    flow.nodes[0] = flow.nodes[0].replace(fallback=flow.handler("mirror", mirror.plain))
    report = flow.run(runner)
    assert report.success
    assert report.value("total") == 10
    assert report.node_reports["source"].recovered
    assert (tap.ended, mirror.ended) == (1, 1)


@every_runner
def test_a_fallback_that_fails_in_the_middle_fails_the_source(runner: str) -> None:
    tap, mirror = Tap(2, OSError("torn")), Tap(1, OSError("torn, too"))
    flow = piped(tap)
    flow.nodes[0] = flow.nodes[0].replace(fallback=flow.handler("mirror", mirror.plain))
    report = flow.run(runner)
    assert states(report) == {"source": "failed", "total": "skipped"}
    exception = report.node_reports["source"].exception
    assert exception is not None
    assert exception is tap.error
    assert any("torn, too" in note for note in getattr(exception, "__notes__", ()))


@every_runner
def test_a_failure_handler_may_give_a_list_instead(runner: str) -> None:
    flow = piped(Tap(2, OSError("torn")))
    flow.nodes[0] = flow.nodes[0].replace(failure=flow.handler("rescue", lambda error: [40, 2]))
    report = flow.run(runner)
    assert report.value("total") == 42
    assert report.node_reports["source"].recovered
    flow.nodes[0] = flow.nodes[0].replace(failure=flow.handler("shrug", lambda error: None))
    assert states(flow.run(runner)) == {"source": "failed", "total": "skipped"}


@every_runner
def test_a_failure_handler_of_the_consumer_recovers_it(runner: str) -> None:
    tap = Tap(3)

    def use(xs: Iterator[int]) -> int:
        raise ValueError(next(xs))

    flow = Steered().add("source", tap.plain)
    rescue = flow.handler("rescue", lambda error: str(error))
    flow.add("total", use, take={"xs": "source"}, failure=rescue)
    report = flow.run(runner)
    assert report.success
    assert report.value("total") == "1"
    assert tap.ended == 1


@every_runner
def test_a_consumer_may_be_cached_by_its_other_inputs(runner: str, tmp_path: Path) -> None:
    tap = Tap(3)
    dag = DAG("cached", registry=Registry())

    def total(xs: Iterator[int], key: str) -> int:
        return sum(xs)

    dag.node(tap.plain)
    dag.node(cache=CacheStrategy.always(inputs=["key"]))(total)
    dag.connect("plain", "total", input="xs")
    url = url_of(tmp_path)
    found = [dag.run({"key": key}, runner=runner, database_url=url) for key in ("a", "a", "b")]
    assert found == [6, 6, 6]
    assert tap.ended == 2, "nothing was made for the result that was there"


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ENDS)
@every_runner
def test_the_limit_of_the_consumer_covers_both(runner: str, ends: str) -> None:
    tap = Tap()

    def endless() -> Iterator[int]:
        try:
            while True:
                time.sleep(0.002)
                yield 1
        finally:
            tap.ended += 1

    async def endless_async() -> AsyncIterator[int]:
        try:
            while True:
                await asyncio.sleep(0.002)
                yield 1
        finally:
            tap.ended += 1

    giver, _, taker = ends.partition("-")
    flow = Steered().add("source", endless if giver == "sync" else endless_async)
    body: Callable[..., Any] = tap.use if taker == "sync" else tap.use_async
    flow.add("total", body, take={"xs": "source"}, timeout=0.1)
    began = time.monotonic()
    report = flow.run(runner)
    assert time.monotonic() - began < 10
    assert isinstance(report.node_reports["total"].exception, NodeTimeout)
    assert states(report) == {"source": "cancelled", "total": "failed"}
    eventually(lambda: tap.ended == 1, "the generator was closed at its next item")


@pytest.mark.parametrize("ends", ENDS)
@every_runner
def test_a_cancelled_run_ends_its_streams(runner: str, ends: str) -> None:
    tap, token = Tap(), CancelToken()

    def endless() -> Iterator[int]:
        try:
            while True:
                time.sleep(0.001)
                tap.made += 1
                yield 1
        finally:
            tap.ended += 1

    async def endless_async() -> AsyncIterator[int]:
        try:
            while True:
                await asyncio.sleep(0.001)
                tap.made += 1
                yield 1
        finally:
            tap.ended += 1

    giver, _, taker = ends.partition("-")
    flow = Steered().add("source", endless if giver == "sync" else endless_async)
    body: Callable[..., Any] = tap.use if taker == "sync" else tap.use_async
    flow.add("total", body, take={"xs": "source"})

    def stop() -> None:
        eventually(lambda: tap.made > 3, "items flow")
        token.cancel("enough")

    stopper = threading.Thread(target=stop)
    stopper.start()
    began = time.monotonic()
    report = flow.run(runner, cancel=token)
    stopper.join()
    assert time.monotonic() - began < 5, "the consumer ends at its next item"
    assert report.status == "cancelled"
    assert states(report) == {"source": "cancelled", "total": "cancelled"}
    eventually(lambda: tap.ended == 1, "the generator was closed")


@everywhere
def test_a_stop_elsewhere_ends_a_stream(runner: str, place: str, tmp_path: Path) -> None:
    tap = Tap()

    def endless() -> Iterator[int]:
        try:
            while True:
                time.sleep(0.001)
                yield 1
        finally:
            tap.ended += 1

    def boom() -> None:
        eventually(lambda: runner == "sequential" or tap.seen, "items flow")
        raise ValueError("boom")

    flow = Steered().add("source", endless).add("total", tap.use, take={"xs": "source"})
    flow.add("boom", boom)
    report = flow.run(runner, max_workers=2, **kept(place, tmp_path))
    assert states(report) == {"source": "cancelled", "total": "cancelled", "boom": "failed"}
    if runner != "sequential":
        assert tap.ended == 1


@everywhere
def test_a_source_of_a_consumer_that_is_skipped_is_skipped(
    runner: str, place: str, tmp_path: Path
) -> None:
    tap = Tap()
    flow = Steered().add("source", tap.plain).note("way", "left")
    flow.add("total", tap.use, take={"xs": "source"}).when("way", "right", "total")
    flow.note("after", after=["source"], trigger="none_failed").note("left").when(
        "way", "left", "left"
    )
    report = flow.run(runner, **kept(place, tmp_path))
    assert report.success
    assert states(report) == {
        "source": "skipped",
        "way": "completed",
        "total": "skipped",
        "after": "skipped",
        "left": "completed",
    }
    assert report.node_reports["source"].reason == "nobody takes its items: 'total' was skipped"
    assert tap.made == 0


@every_runner
def test_a_consumer_waits_for_its_other_sources(runner: str) -> None:
    tap = Tap(2)
    flow = Steered().add("source", tap.plain).note("one", 1).note("two", 2, after=["one"])
    flow.add("total", lambda xs, k: k * sum(xs), take={"xs": "source", "k": "two"})
    flow.note("later", after=["source"])
    report = flow.run(runner)
    assert report.value("total") == 6
    assert report.node_reports["later"].state == "completed"


@every_runner
def test_what_waits_for_a_source_waits_for_its_last_item(runner: str) -> None:
    tap = Tap(3)
    flow = piped(tap)
    flow.add("later", lambda: list(tap.seen), after=["source"])
    assert flow.run(runner).value("later") == [1, -1, 2, -2, 3, -3]


@every_runner
def test_a_paused_consumer_leaves_its_source_unread(runner: str, tmp_path: Path) -> None:
    tap = Tap(3)
    flow = piped(tap).note("first")
    hook = Script({"NodeCompleted first": lambda _ctx, _event: PauseBranch("total")})
    flow.nodes[1] = flow.nodes[1].replace(dependencies=["source", "first"])
    report = flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    assert report.status == "paused"
    assert states(report) == {"source": "pending", "total": "pending", "first": "completed"}
    assert tap.seen == []


def test_the_times_of_both_say_who_worked_when() -> None:
    def source() -> Iterator[int]:
        time.sleep(0.02)
        yield 1

    def total(xs: Iterator[int]) -> int:
        found = sum(xs)
        time.sleep(0.05)
        return found

    flow = Steered().add("source", source).add("total", total, take={"xs": "source"})
    reports = flow.run().node_reports
    source_time, total_time = reports["source"].duration, reports["total"].duration
    assert source_time is not None
    assert total_time is not None
    assert 0.02 <= source_time < total_time
    assert total_time >= 0.07


@pytest.mark.parametrize("ends", ENDS)
@every_runner
def test_an_attempt_that_overran_leaves_the_next_one_alone(runner: str, ends: str) -> None:
    tap, calls = Tap(3), [0]

    def dawdle() -> float:
        calls[0] += 1
        return 0.3 if calls[0] == 1 else 0.0

    def source() -> Iterator[int]:
        pause = dawdle()
        for x in tap.plain():
            time.sleep(pause)
            yield x

    async def source_async() -> AsyncIterator[int]:
        pause = dawdle()
        for x in tap.plain():
            await asyncio.sleep(pause)
            yield x

    giver, _, taker = ends.partition("-")
    flow = Steered().add("source", source if giver == "sync" else source_async)
    body: Callable[..., Any] = tap.use if taker == "sync" else tap.use_async
    flow.add("total", body, take={"xs": "source"}, timeout=0.2)
    report = tried(flow, "total", 2).run(runner, max_workers=2)
    assert report.value("total") == 6
    durations = [each.duration for each in report.node_reports.values()]
    assert all(each is not None and each < 0.2 for each in durations)
    assert [each.attempts for each in report.node_reports.values()] == [2, 2]


@every_runner
def test_the_limit_of_the_run_ends_a_stream(runner: str) -> None:
    tap = Tap()

    def endless() -> Iterator[int]:
        try:
            while True:
                time.sleep(0.001)
                yield 1
        finally:
            tap.ended += 1

    flow = Steered().add("source", endless).add("total", tap.use, take={"xs": "source"})
    began = time.monotonic()
    report = flow.run(runner, timeout=0.1)
    assert time.monotonic() - began < 4
    assert report.status == "timed_out"
    assert states(report) == {"source": "cancelled", "total": "cancelled"}
    eventually(lambda: tap.ended == 1, "the generator was closed at its next item")


@pytest.mark.parametrize("branch", ["source", "total"])
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_a_cancelled_branch_takes_the_unit_with_it(runner: str, branch: str) -> None:
    tap = Tap()

    def endless() -> Iterator[int]:
        try:
            while True:
                time.sleep(0.001)
                yield 1
        finally:
            tap.ended += 1

    def watch() -> None:
        eventually(lambda: tap.seen, "items flow")

    flow = Steered().add("source", endless).add("total", tap.use, take={"xs": "source"})
    flow.add("watch", watch).note("after", after=["watch"])
    hook = Script({"NodeCompleted watch": lambda _ctx, _event: CancelBranch(branch)})
    report = flow.run(runner, max_workers=2, hooks=[hook])
    assert states(report) == {
        "source": "cancelled",
        "total": "cancelled",
        "watch": "completed",
        "after": "completed",
    }
    assert tap.ended == 1


@every_runner
def test_a_source_that_pauses_its_run_is_tried_again_by_a_resume(
    runner: str, tmp_path: Path
) -> None:
    tap = Tap(2, OSError("torn"))
    flow = piped(tap)
    flow.nodes[0] = flow.nodes[0].replace(on_failure=OnFailure.PAUSE)
    report = flow.run(runner, **kept("file", tmp_path))
    assert report.status == "paused"
    assert states(report) == {"source": "failed", "total": "pending"}
    tap.error = None
    assert flow.resume("r", url_of(tmp_path), runner=runner).value("total") == 3


def test_a_stream_under_a_clock_of_ours() -> None:
    tap = Tap(2, OSError("torn"), times=2)
    flow = piped(tap)
    flow.nodes[0] = flow.nodes[0].replace(try_count=3)
    clock = FakeClock()
    report = play(flow.graph(), clock=clock, registry=flow.registry)
    assert report.value("total") == 3
    assert list(clock.sleeps) == [2.0, 4.0], "it waits as its policy says, and so does its consumer"


# --- durability ----------------------------------------------------------------------------------


@every_end
@every_runner
def test_the_unit_runs_again_after_a_death_in_its_middle(
    runner: str, ends: str, tmp_path: Path
) -> None:
    alive, dead = tmp_path / "alive", tmp_path / "dead"
    alive.mkdir()
    tap = Tap(4)

    def use(xs: Iterable[int]) -> int:
        total = 0
        for x in xs:
            total += x
            if x == 2 and not dead.exists():
                shutil.copytree(alive, dead)
        return total

    async def use_async(xs: AsyncIterator[int]) -> int:
        return use([x async for x in xs])

    flow = Steered().note("first", 1)
    flow.add("source", tap.plain if ends.startswith("sync") else tap.flowing, after=["first"])
    flow.add("total", use if ends == "sync-sync" else use_async, take={"xs": "source"})
    flow.run(runner, **kept("file", alive))
    assert "source" not in [node_id for node_id, _, _ in rows(dead)]
    again = flow.resume("r", url_of(dead), runner=runner)
    assert again.value("total") == 10
    assert flow.calls == ["first"]
    assert tap.made == 2
    assert rows(dead)[-2:] == [("source", 1, "completed"), ("total", 2, "completed")]


_VICTIM = """
import os, signal, sys
from collections.abc import Iterator
from pathlib import Path
from dagger_dsl import DAG, Registry

url, mark = sys.argv[1], Path(sys.argv[2])
dag = DAG("killed", registry=Registry())

@dag.node
def source() -> Iterator[int]:
    for k in range(1, 6):
        if k == int(sys.argv[3]) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield k

@dag.node
def total(xs: Iterator[int]) -> int:
    return sum(xs)

dag.connect("source", "total", input="xs")
dag.run(run_id="r", runner=sys.argv[4], database_url=url)
"""


@pytest.mark.slow
@pytest.mark.parametrize("item", [1, 4])
@every_runner
def test_a_process_that_is_killed_in_a_stream_loses_nothing(
    runner: str, item: int, tmp_path: Path
) -> None:
    url, mark = url_of(tmp_path), tmp_path / "mark"
    arguments = [sys.executable, "-c", _VICTIM, url, str(mark), str(item), runner]
    assert subprocess.run(arguments, timeout=60, check=False).returncode == -signal.SIGKILL
    tap = Tap(5)
    registry = Registry()
    registry.register(tap.plain, "killed.source")
    registry.register(tap.use, "killed.total")
    report = engine.resume("r", registry, RunOptions(runner=runner, database_url=url))
    assert report.value("total") == 15
    assert rows(tmp_path)[-1] == ("total", 2, "completed")


@every_runner
def test_a_failed_unit_is_resumed_whole(runner: str, tmp_path: Path) -> None:
    tap = Tap(2, OSError("torn"))
    flow = piped(tap)
    assert flow.run(runner, **kept("file", tmp_path)).status == "failed"
    tap.error = None
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.value("total") == 3
    assert tap.made == 2


@every_runner
def test_a_completed_unit_is_not_run_again(runner: str, tmp_path: Path) -> None:
    tap, sound = Tap(2), [False]

    def after(x: int) -> int:
        if not sound[0]:
            raise ValueError("not yet")
        return x

    flow = piped(tap).add("after", after, take={"x": "total"})
    flow.run(runner, **kept("file", tmp_path))
    sound[0] = True
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.value("after") == 3
    assert tap.made == 1


@every_runner
def test_a_question_of_the_consumer_waits_for_its_answer(runner: str, tmp_path: Path) -> None:
    tap = Tap(2)

    def ask(xs: Iterator[int], ctx: NodeCtx) -> Any:
        return ctx.wait_for_human(f"is {sum(xs)} right?")

    flow = Steered().add("source", tap.plain).add("ask", ask, take={"xs": "source"})
    flow.note("last", after=["source"])
    report = flow.run(runner, **kept("file", tmp_path))
    assert report.status == "paused"
    with Store(url_of(tmp_path)) as store:
        RunControl(store, "r", flow.registry).answer("ask", "yes")
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.value("ask") == "yes"
    assert set(states(again).values()) == {"completed"}


# --- growth --------------------------------------------------------------------------------------


@every_runner
def test_growth_may_bring_a_stream_and_its_consumer(runner: str) -> None:
    tap = Tap(3)
    flow = Steered().note("first")
    flow.registry.register(tap.flowing, "taps")
    flow.registry.register(tap.use_async, "uses")

    def grow(_ctx: Any, _event: Any) -> Any:
        return [
            AddNode(NodeSpec("taps", id="source")),
            AddNode(NodeSpec("uses", id="total", inputs={"xs": ref("source.result")})),
        ]

    report = flow.run(runner, hooks=[Script({"NodeCompleted first": grow})])
    assert report.value("total") == 6
    assert tap.ended == 1


@every_runner
def test_growth_must_not_bring_a_second_consumer(runner: str) -> None:
    tap = Tap(3)
    flow = Steered().note("first")
    flow.add("source", tap.plain, after=["first"]).add("total", tap.use, take={"xs": "source"})
    flow.registry.register(tap.use, "uses")

    def grow(_ctx: Any, _event: Any) -> Any:
        return AddNode(NodeSpec("uses", id="more", inputs={"xs": ref("source.result")}))

    report = flow.run(runner, hooks=[Script({"NodeCompleted first": grow})])
    assert report.value("total") == 6
    assert list(report.states()) == ["first", "source", "total"]
    (error,) = report.hook_errors
    assert isinstance(error, ValidationError)
    assert "'total' and 'more' take them; a stream has one consumer" in str(error)


@every_runner
def test_changed_inputs_must_not_make_a_second_consumer(runner: str) -> None:
    tap = Tap(3)
    flow = Steered().note("first")
    flow.add("source", tap.plain, after=["first"]).add("total", tap.use, take={"xs": "source"})
    flow.add("other", tap.use, give={"xs": [1]}, after=["total"])
    change = SetNodeInputs("other", {"xs": ref("source.result")})
    hook = Script({"NodeCompleted first": lambda _ctx, _event: change})
    report = flow.run(runner, hooks=[hook])
    assert report.outputs["other"] == 1
    (error,) = report.hook_errors
    assert "a stream has one consumer" in str(error)
