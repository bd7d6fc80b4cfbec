"""Messages that agents count, and the fan-out of queues that a good programmer would write."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import orjson

from dagger_dsl import Registry
from dagger_dsl.pubsub import Message, PubSubExecutor, pubsub_agent
from tests.benchmarks.measure import Trial, timed_inside
from tests.benchmarks.ours import url_of

__all__ = ["SUBSCRIBERS", "durable", "in_memory", "queues", "table"]

#: To how many each message goes in memory.
SUBSCRIBERS = 10

#: Messages in a commit of the loop by hand.
_PORTION = 500

_NUMBERS = count()


def queues(n: int) -> Trial:
    """Send *n* messages through a queue to each of some coroutines."""

    def trial() -> float:
        seen = [0] * SUBSCRIBERS

        async def handle(number: int) -> None:
            seen[number] += 1

        async def subscriber(number: int, queue: asyncio.Queue[int | None]) -> None:
            while await queue.get() is not None:
                await handle(number)

        async def main() -> float:
            all_: list[asyncio.Queue[int | None]]
            all_ = [asyncio.Queue(1_000) for _ in range(SUBSCRIBERS)]
            tasks = [asyncio.create_task(subscriber(*each)) for each in enumerate(all_)]
            began = time.perf_counter()
            for message in [*range(n), None]:
                for queue in all_:
                    await queue.put(message)
            await asyncio.gather(*tasks)
            return time.perf_counter() - began

        seconds = asyncio.run(main())
        assert seen == [n] * SUBSCRIBERS
        return seconds

    return trial


def in_memory(n: int) -> Trial:
    """Publish *n* messages to as many async agents."""

    def trial() -> float:
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
                for message in range(n):
                    await bus.publish("c", message)
                assert await bus.wait_idle()
                return time.perf_counter() - began

        seconds = asyncio.run(main())
        assert seen == [n] * SUBSCRIBERS
        return seconds

    return trial


def table(n: int, folder: Path, synchronous: str) -> Trial:
    """Store *n* messages and handle them by hand: a row each, some hundred to a commit."""

    @contextmanager
    def opened() -> Iterator[sqlite3.Connection]:
        path = folder / f"messages-by-hand-{next(_NUMBERS)}.db"
        connection = sqlite3.connect(path, isolation_level=None)
        for text in (
            "PRAGMA journal_mode=WAL",
            f"PRAGMA synchronous={synchronous}",
            "CREATE TABLE message (id INTEGER PRIMARY KEY, channel TEXT, payload BLOB, at REAL)",
            "CREATE TABLE place (name TEXT PRIMARY KEY, position INTEGER)",
            "INSERT INTO place VALUES ('agent', 0)",
        ):
            connection.execute(text)
        try:
            yield connection
        finally:
            connection.close()

    def body(connection: sqlite3.Connection) -> None:
        execute = connection.execute
        for first in range(0, n, _PORTION):
            rows = [("c", orjson.dumps(each), time.time()) for each in range(n)[first:][:_PORTION]]
            execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO message (channel, payload, at) VALUES (?, ?, ?)", rows
            )
            execute("COMMIT")
        seen: list[int] = []
        position = 0
        query = "SELECT id, payload FROM message WHERE channel = 'c' AND id > ? ORDER BY id LIMIT ?"
        while found := execute(query, (position, _PORTION)).fetchall():
            seen += [orjson.loads(payload) for _, payload in found]
            position = found[-1][0]
            execute("UPDATE place SET position = ? WHERE name = 'agent'", (position,))
        assert seen == list(range(n))

    return timed_inside(opened, body)


def durable(n: int, folder: Path, synchronous: str) -> Trial:
    """Publish *n* messages to one agent, until each is acknowledged on the disk."""

    def trial() -> float:
        registry = Registry()
        seen: list[int] = []

        @pubsub_agent(subscribe="c", registry=registry)
        async def agent(number: int) -> None:
            seen.append(number)

        url = url_of(folder, f"messages-{next(_NUMBERS)}", synchronous)

        async def main() -> float:
            async with PubSubExecutor(registry=registry, database_url=url) as bus:
                began = time.perf_counter()
                for each in [bus.publish("c", number) for number in range(n)]:
                    await each
                assert await bus.wait_idle()
                return time.perf_counter() - began

        seconds = asyncio.run(main())
        assert seen == list(range(n))
        return seconds

    return trial
