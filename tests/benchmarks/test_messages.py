"""How long messages take: beside a fan-out of queues by hand, and with every one on the disk."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from dagger_dsl import Registry
from dagger_dsl.pubsub import Message, PubSubExecutor, pubsub_agent
from tests.benchmarks.measure import interleaved

MESSAGES = 10_000
SUBSCRIBERS = 10


def by_hand() -> float:
    """Return the seconds that queues take between coroutines."""
    seen = [0] * SUBSCRIBERS

    async def handle(number: int) -> None:
        seen[number] += 1

    async def subscriber(number: int, queue: asyncio.Queue[int | None]) -> None:
        while await queue.get() is not None:
            await handle(number)

    async def main() -> float:
        queues: list[asyncio.Queue[int | None]] = [asyncio.Queue(1_000) for _ in range(SUBSCRIBERS)]
        tasks = [
            asyncio.create_task(subscriber(number, queue)) for number, queue in enumerate(queues)
        ]
        began = time.perf_counter()
        for message in [*range(MESSAGES), None]:
            for queue in queues:
                await queue.put(message)
        await asyncio.gather(*tasks)
        return time.perf_counter() - began

    seconds = asyncio.run(main())
    assert seen == [MESSAGES] * SUBSCRIBERS
    return seconds


def ours() -> float:
    """Return the seconds that a bus takes for the same."""
    registry = Registry()
    seen = [0] * SUBSCRIBERS

    def agent(number: int) -> None:
        @pubsub_agent(name=f"agent{number}", subscribe="c", registry=registry)
        async def handle(message: Message) -> None:
            seen[number] += 1

    for number in range(SUBSCRIBERS):
        agent(number)

    async def main() -> float:
        async with PubSubExecutor(registry=registry) as bus:
            await asyncio.sleep(0)
            began = time.perf_counter()
            for message in range(MESSAGES):
                await bus.publish("c", message)
            assert await bus.wait_idle()
            return time.perf_counter() - began

    seconds = asyncio.run(main())
    assert seen == [MESSAGES] * SUBSCRIBERS
    return seconds


def durable(path: Path) -> float:
    """Return the seconds until messages are published, handled and acknowledged on the disk."""
    registry = Registry()
    seen: list[int] = []

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None:
        seen.append(number)

    async def main() -> float:
        async with PubSubExecutor(registry=registry, database_url=f"sqlite:{path}") as bus:
            began = time.perf_counter()
            for each in [bus.publish("c", number) for number in range(MESSAGES)]:
                await each
            assert await bus.wait_idle()
            return time.perf_counter() - began

    seconds = asyncio.run(main())
    assert seen == list(range(MESSAGES))
    return seconds


@pytest.mark.benchmark
def test_a_fan_out_in_memory_takes_at_most_half_more_than_by_hand() -> None:
    taken = interleaved({"by hand": by_hand, "ours": ours}, 5)
    print({name: f"{1e6 * seconds / MESSAGES:.2f} us" for name, seconds in taken.items()})
    assert taken["ours"] <= 1.5 * taken["by hand"]


@pytest.mark.benchmark
def test_a_durable_message_takes_at_most_60_us(tmp_path: Path) -> None:
    seconds = min(durable(tmp_path / f"{number}.db") for number in range(3))
    print(f"{1e6 * seconds / MESSAGES:.1f} us")
    assert seconds / MESSAGES <= 60e-6
