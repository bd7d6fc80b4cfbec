"""What an agent is given of a database, when, and how far it is said to be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry, RetryPolicy
from dagger_dsl.pubsub import Message, PubSubConfig, PubSubExecutor, pubsub_agent

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


def bus_of(registry: Registry, path: Path, **options: Any) -> PubSubExecutor:
    return PubSubExecutor(
        config=PubSubConfig(**options), registry=registry, database_url=f"sqlite:{path}"
    )


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


#: Fails once more after so long that nothing here waits for it.
LATER = RetryPolicy(max_attempts=2, backoff="fixed", base_delay=1_000.0)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_key_that_is_held_up_holds_up_nobody_else(
    path: Path, registry: Registry, concurrency: int
) -> None:
    seen: list[str] = []

    @pubsub_agent(subscribe="*", retry=LATER, concurrency=concurrency, registry=registry)
    async def agent(message: Message) -> None:
        if message.key == "x":
            raise ValueError
        seen.append(message.key)

    with bus_of(registry, path, capacity=10) as bus:
        for number in range(60):
            _ = bus.publish("c", number, key="x", wait=False)
        for number in range(30):
            last = bus.publish("cd"[number % 2], number, key=f"y{number}", wait=False)
        last.result()
    # The block ends once all was handled that may be, without anybody waiting for the others.
    assert sorted(seen) == sorted(f"y{number}" for number in range(30))


def test_so_many_messages_are_held_behind_a_key_as_may_be(path: Path, registry: Registry) -> None:
    @pubsub_agent(subscribe="c", retry=LATER, registry=registry)
    async def agent(message: Message) -> None:
        raise ValueError

    most = 0
    with bus_of(registry, path, capacity=10) as bus:
        for number in range(300):
            last = bus.publish("c", number, key="x", wait=False)
        last.result()
        until(lambda: bus.agents["agent"].waiting > 90)
        for number in range(20):  # the desk looks again with each of them
            bus.publish("other", number).result()
            most = max(most, bus.agents["agent"].waiting)
    assert 90 < most <= 100
