"""A slow subscriber holds whoever publishes up, not the memory: measured, and nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagger_dsl import Registry
from dagger_dsl.pubsub import PubSubConfig, PubSubExecutor, pubsub_agent
from tests.scale import count

#: Seconds that nothing here takes, however busy the machine is.
LONG = 300.0

#: How many messages may wait, and how large one is.
CAPACITY = 100
SIZE = 1_000

#: What a bus of this capacity may take: the messages that wait, thrice, and some for itself.
ROOM = 3 * CAPACITY * SIZE + 300_000


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """Return what says how much more memory was in use since the test began, at the most."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


class Slow:
    """An agent that is given a message only when as many as fit wait already.

    Who publishes would be ahead by far if nothing held him up.

    Attributes:
        seen: How many came, each after the one before it.
    """

    def __init__(self, registry: Registry, kind: str) -> None:
        self.seen = 0
        self.over = threading.Event()
        self._turn = threading.Condition()
        self._published = 0

        def handle(payload: bytes) -> None:
            with self._turn:
                assert self._turn.wait_for(self._is_full, LONG)
            self._take(payload)

        async def handle_later(payload: bytes) -> None:
            while not self._is_full():
                await asyncio.sleep(0)
            self._take(payload)

        chosen: Callable[[bytes], object] = handle if kind == "sync" else handle_later
        pubsub_agent(name="slow", subscribe="c", registry=registry)(chosen)

    def _is_full(self) -> bool:
        # One is in hand, and one more waits for room where the agent is slower.
        return self._published >= self.seen + CAPACITY or self.over.is_set()

    def _take(self, payload: bytes) -> None:
        assert int(payload[:10]) == self.seen
        self.seen += 1

    def ahead(self, number: int) -> None:
        """Hear that so many were published; nobody is further ahead than there is room."""
        with self._turn:
            self._published = number
            self._turn.notify_all()
        assert number - self.seen <= CAPACITY + 1


#: Publishes so many messages, under ids of their own or not, and waits until they are handled.
Publish = Callable[[PubSubExecutor, Slow, int, bool], None]


def payload_of(number: int) -> bytes:
    return b"%010d" % number + bytes(SIZE - 10)


def publish_blocking(bus: PubSubExecutor, slow: Slow, messages: int, named: bool) -> None:
    with bus:
        for number in range(messages):
            name = f"m{number}" if named else None
            bus.publish("c", payload_of(number), id=name, timeout=LONG).result()
            slow.ahead(number + 1)
        slow.over.set()
        slow.ahead(messages)
        assert bus.wait_idle(LONG).result()


def publish_in_loop(bus: PubSubExecutor, slow: Slow, messages: int, named: bool) -> None:
    async def main() -> None:
        async with bus:
            for number in range(messages):
                name = f"m{number}" if named else None
                await bus.publish("c", payload_of(number), id=name, timeout=LONG)
                slow.ahead(number + 1)
            slow.over.set()
            slow.ahead(messages)
            assert await bus.wait_idle(LONG)

    asyncio.run(main())


def check(slow: Slow, messages: int, peak: Callable[[], int]) -> None:
    assert slow.seen == messages, "nothing is lost"
    most = peak()
    print(f"{messages:,} messages of {SIZE:,} bytes: {most:,} bytes at most")
    assert most <= ROOM


@pytest.mark.timeout(600)
@pytest.mark.parametrize("publish", [publish_blocking, publish_in_loop])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_slow_subscriber_holds_up_who_publishes(
    registry: Registry, peak: Callable[[], int], kind: str, publish: Publish
) -> None:
    slow, messages = Slow(registry, kind), count(200_000, least=20_000)
    bus = PubSubExecutor(config=PubSubConfig(capacity=CAPACITY), registry=registry)
    publish(bus, slow, messages, False)
    check(slow, messages, peak)


@pytest.mark.timeout(600)
def test_so_many_ids_are_remembered_with_their_payloads_as_may_be(
    registry: Registry, peak: Callable[[], int]
) -> None:
    slow, messages = Slow(registry, "async"), count(50_000, least=5_000)
    config = PubSubConfig(capacity=CAPACITY, max_ids=CAPACITY)
    bus = PubSubExecutor(config=config, registry=registry)
    publish_in_loop(bus, slow, messages, True)
    check(slow, messages, peak)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("peak")
def test_a_backlog_in_a_database_is_read_as_it_is_handled(
    registry: Registry, tmp_path: Path
) -> None:
    messages, seen = count(100_000, least=10_000), [0]

    @pubsub_agent(name="slow", subscribe="c", registry=registry)
    async def slow(payload: bytes) -> None:
        assert int(payload[:10]) == seen[0]
        seen[0] += 1

    url = f"sqlite:{tmp_path / 'bus.db'}?synchronous=NORMAL"
    config = PubSubConfig(capacity=CAPACITY)
    with PubSubExecutor(config=config, registry=registry, database_url=url):
        pass
    with PubSubExecutor([], config, registry=Registry(), database_url=url) as other:
        for first in range(0, messages, 500):
            portion = range(first, min(messages, first + 500))
            for each in [other.publish("c", payload_of(n), wait=False) for n in portion]:
                each.result()
    gc.collect()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with PubSubExecutor(config=config, registry=registry, database_url=url) as bus:
        assert bus.wait_idle(LONG).result()
    assert seen == [messages], "nothing is lost"
    most = tracemalloc.get_traced_memory()[1] - before
    print(f"{messages:,} stored messages of {SIZE:,} bytes: {most:,} bytes at most")
    assert most <= 2 * ROOM
