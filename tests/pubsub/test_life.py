"""How a bus opens, ends and closes: also where somebody is impatient, or something fails."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry
from dagger_dsl.errors import ConfigurationError, StoreBusy, StoreFull
from dagger_dsl.pubsub import (
    PubSubConfig,
    PubSubExecutor,
    Reactive,
    StartWith,
    durable,
    pubsub_agent,
)
from dagger_dsl.pubsub.feeds import Feed
from dagger_dsl.store.messages import MessageRows
from dagger_dsl.store.storage import Store

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0

Make = Callable[..., PubSubExecutor]


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("dagger-")]


@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_a_bus_that_is_cancelled_while_it_closes_is_closed_all_the_same(
    make: Make, registry: Registry, level: str, times: int
) -> None:
    seen: list[int] = []
    begun, go_on = threading.Event(), False

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None:
        if not go_on:
            begun.set()
            await asyncio.sleep(LONG)
        seen.append(number)

    async def main() -> None:
        nonlocal go_on
        bus = make(grace=LONG if times > 1 else 0.01)

        async def use() -> None:
            async with bus:
                await bus.publish("c", 1)
                await asyncio.sleep(LONG)

        task = asyncio.create_task(use())
        await asyncio.to_thread(begun.wait)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "stopped" in repr(bus)
        go_on = True
        async with bus:
            assert await bus.wait_idle(LONG)
        assert seen == ([] if level == "memory" else [1])

    asyncio.run(main())


def test_who_cancels_while_a_bus_is_released_waits_for_that(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    releasing, may_end = threading.Event(), threading.Event()
    release = PubSubExecutor._release

    def slow(bus: PubSubExecutor, place: Any) -> None:
        releasing.set()
        assert may_end.wait(LONG)
        release(bus, place)

    monkeypatch.setattr(PubSubExecutor, "_release", slow)

    async def main() -> None:
        bus = make()

        async def use() -> None:
            async with bus:
                pass

        task = asyncio.create_task(use())
        await asyncio.to_thread(releasing.wait)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "stopped" in repr(bus)

    asyncio.run(main())


@pytest.mark.parametrize("way", ["close", "run"])
def test_a_bus_that_could_not_record_says_so_at_its_end(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    calls: list[int] = []
    full = True
    commit = MessageRows.commit

    @pubsub_agent(subscribe="c", registry=registry)
    def agent(number: int) -> None:
        calls.append(number)

    def fails(rows: MessageRows, *arguments: Any) -> Any:
        if full and calls:
            raise StoreFull("the disk is full")
        return commit(rows, *arguments)

    monkeypatch.setattr(MessageRows, "commit", fails)
    monkeypatch.setattr(durable, "_LATER", 0.001)
    url = f"sqlite:{tmp_path / 'bus.db'}"
    bus = PubSubExecutor(config=PubSubConfig(grace=0.1), registry=registry, database_url=url)
    if way == "close":
        bus.__enter__()
        bus.publish("c", 1).result()
        until(lambda: calls)
        with pytest.raises(StoreFull):
            bus.close()
    else:
        with pytest.raises(StoreFull):
            bus.run(StartWith("c", 1, count=1))
    assert "stopped" in repr(bus)
    full = False
    with bus:
        assert bus.wait_idle(LONG).result()
    assert calls == [1, 1]


def test_trouble_with_the_database_before_a_bus_is_closed_leaves_it_all_its_last_tries(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    failures = {False: 0, True: 0}
    commit = MessageRows.commit

    @pubsub_agent(subscribe="c", registry=registry)
    def agent(number: int) -> None:
        calls.append(number)

    def fails(rows: MessageRows, *arguments: Any) -> Any:
        closing = bus._place._closing  # type: ignore[union-attr]
        if calls and failures[True] < 2:
            failures[closing] += 1
            raise StoreFull("the disk is full")
        return commit(rows, *arguments)

    monkeypatch.setattr(MessageRows, "commit", fails)
    monkeypatch.setattr(durable, "_LATER", 0.001)
    url = f"sqlite:{tmp_path / 'bus.db'}"
    bus = PubSubExecutor(config=PubSubConfig(grace=0.01), registry=registry, database_url=url)
    with bus:
        bus.publish("c", 1).result()
        until(lambda: failures[False] > 5)
    with bus:
        assert bus.wait_idle(LONG).result()
    assert calls == [1]


def test_an_async_agent_that_closes_its_bus_is_told_to_stop_it(
    make: Make, registry: Registry
) -> None:
    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None:
        bus.close()

    with make() as bus:
        bus.publish("c", 1).result()
        assert bus.wait_idle(LONG).result()
        (letter,) = bus.dead_letters()
        assert "InvalidState" in letter.error
        assert "stop()" in letter.error


def test_a_bus_that_cannot_be_shown_is_closed(make: Make, registry: Registry) -> None:
    bus = make(progress="picture")

    async def enter() -> None:
        async with bus:
            pass

    before = threads()
    ways: list[Callable[[], object]] = [bus.__enter__, lambda: asyncio.run(enter()), bus.run]
    for way in ways:
        with pytest.raises(ConfigurationError, match="notebook"):
            way()
        until(lambda: threads() == before)
        assert "stopped" in repr(bus)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_a_run_inside_of_a_running_loop(make: Make, registry: Registry) -> None:
    seen: list[int] = []
    bus = make()

    @pubsub_agent(subscribe="c", registry=registry)
    def agent(number: int) -> None:
        seen.append(number)

    async def notebook() -> None:
        bus.register(agent)
        with pytest.raises(KeyboardInterrupt):
            bus.run(StartWith("c", 1, idle=None))
        assert "stopped" in repr(bus)
        report = bus.run(Reactive(idle=0))
        assert report.success

    def interrupt() -> None:
        until(lambda: seen)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    # Not asyncio.run, which hears Ctrl-C itself, as the kernel of a notebook does not.
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(notebook())
    finally:
        loop.close()
        thread.join()
    assert seen == [1], "what was handled is recorded"


def test_a_bus_that_cannot_be_opened_waits_for_nobody(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its desk gives up a message that it cannot read, and needs the lock for the letter."""
    path = tmp_path / "bus.db"

    @pubsub_agent(subscribe="a", registry=registry)
    def one(payload: Any) -> None: ...

    first = PubSubExecutor(registry=registry, database_url=f"sqlite:{path}")
    with first:
        pass
    with PubSubExecutor(registry=Registry(), database_url=f"sqlite:{path}") as other:
        other.publish("a", 1).result()
    with Store(path) as store, store.writing() as connection:
        connection.exec_driver_sql("UPDATE messages SET payload = X'ff'")

    @pubsub_agent(subscribe="b", registry=registry)
    def two(payload: Any) -> None: ...

    channels_for, give_up, giving_up = (
        PubSubExecutor._channels_for,
        Feed._give_up,
        threading.Event(),
    )

    def busy(bus: PubSubExecutor, caller: Any) -> Any:
        if caller.name == "two":
            assert giving_up.wait(LONG)
            raise StoreBusy("somebody writes")
        return channels_for(bus, caller)

    def gives_up(feed: Feed, *arguments: Any) -> None:
        giving_up.set()
        give_up(feed, *arguments)

    monkeypatch.setattr(PubSubExecutor, "_channels_for", busy)
    monkeypatch.setattr(Feed, "_give_up", gives_up)
    bus = PubSubExecutor(
        config=PubSubConfig(dead_letter_channel="dead"),
        registry=registry,
        database_url=f"sqlite:{path}",
    )
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            bus.__enter__()
        except StoreBusy as error:
            errors.append(error)

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    thread.join(LONG)
    assert [type(each) for each in errors] == [StoreBusy]
