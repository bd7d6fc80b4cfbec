"""What holds in memory only: bounded buffers, and who publishes too much waits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from dagger_dsl import Registry
from dagger_dsl.errors import (
    ChannelFull,
    ExecutionError,
    IdempotencyConflict,
    InvalidState,
    LimitExceeded,
)
from dagger_dsl.pubsub import (
    Message,
    MessageContext,
    PubSubConfig,
    PubSubExecutor,
    StartWith,
    pubsub_agent,
)
from dagger_dsl.pubsub.waiting import Publication

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


def bus_of(registry: Registry, **options: object) -> PubSubExecutor:
    return PubSubExecutor(config=PubSubConfig(**options), registry=registry)  # type: ignore[arg-type]


class Gate:
    """An agent that handles messages when it is let."""

    def __init__(self, registry: Registry, kind: str = "async", name: str = "gate") -> None:
        self.seen: list[int] = []
        self.more = threading.Semaphore(0)

        async def waits(number: int) -> None:
            while not self.more.acquire(blocking=False):
                await asyncio.sleep(0.001)
            self.seen.append(number)

        def blocks(number: int) -> None:
            assert self.more.acquire(timeout=LONG)
            self.seen.append(number)

        chosen: Callable[[int], object] = waits if kind == "async" else blocks
        pubsub_agent(name=name, subscribe="c", registry=registry)(chosen)

    def open(self) -> None:
        self.more.release(1_000_000)


def waits(bus: PubSubExecutor, number: int, agent: str = "gate") -> None:
    """Wait until so many messages wait for an agent."""
    deadline = time.monotonic() + LONG
    while bus.agents[agent].waiting != number:
        assert time.monotonic() < deadline, bus.agents
        time.sleep(0.001)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_who_publishes_waits_for_room(registry: Registry, kind: str) -> None:
    gate = Gate(registry, kind)
    published: list[int] = []

    def publish() -> None:
        for number in range(100):
            bus.publish("c", number).result()
            published.append(number)

    with bus_of(registry, capacity=5) as bus:
        thread = threading.Thread(target=publish)
        thread.start()
        for done in range(1, 20):
            waits(bus, 5)
            assert len(published) in (done + 4, done + 5), "one is handled, five wait"
            assert bus.channels["c"].waiting <= 1
            gate.more.release()
            while len(gate.seen) < done:
                time.sleep(0.001)
        gate.open()
        thread.join(LONG)
        assert bus.wait_idle(LONG).result()
    assert gate.seen == published == list(range(100)), "nothing is lost"


def test_who_publishes_in_the_loop_waits_for_room(registry: Registry) -> None:
    gate = Gate(registry)

    async def main() -> None:
        async with bus_of(registry, capacity=3) as bus:
            most = 0
            for number in range(50):
                gate.more.release()
                await bus.publish("c", number)
                most = max(most, bus.agents["gate"].waiting)
            assert most <= 3
            assert await bus.wait_idle(LONG)

    asyncio.run(main())
    assert gate.seen == list(range(50))


def test_a_publication_that_waits_too_long_is_not_published(registry: Registry) -> None:
    gate = Gate(registry)
    with bus_of(registry, capacity=1, publish_timeout=0.01) as bus:
        bus.publish("c", 0).result()
        waits(bus, 0)
        bus.publish("c", 1).result()
        with pytest.raises(ChannelFull, match=r"had no room for 0\.01 s: 'gate'"):
            bus.publish("c", 2).result()
        with pytest.raises(ChannelFull, match="had no room for 0 s"):
            bus.publish("c", 3, timeout=0).result()
        with pytest.raises(TimeoutError):
            bus.publish("c", 4, timeout=0.02).result()

        async def await_it() -> None:
            with pytest.raises(ChannelFull):
                await bus.publish("c", 5)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await bus.publish("c", 6, timeout=LONG)

        asyncio.run(await_it())
        assert bus.channels["c"].waiting == 0
        gate.open()
        bus.publish("c", 7, timeout=LONG).result()
        assert bus.wait_idle(LONG).result()
    assert gate.seen == [0, 1, 7]


def test_an_agent_waits_for_room_before_its_call_ends(registry: Registry) -> None:
    gate = Gate(registry)

    @pubsub_agent(subscribe="n", registry=registry)
    async def careless(count: int, bus: MessageContext) -> None:
        for number in range(count):
            _ = bus.publish("c", number)

    with bus_of(registry, capacity=4) as bus:
        bus.publish("n", 10).result()
        waits(bus, 4)
        deadline = time.monotonic() + LONG
        while bus.channels["c"].waiting != 5:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert bus.agents["careless"].handled == 0
        gate.open()
        assert bus.wait_idle(LONG).result()
        assert bus.agents["careless"].handled == 1
    assert gate.seen == list(range(10))


def test_publications_that_nobody_awaits_are_bounded(registry: Registry) -> None:
    gate = Gate(registry)

    async def main() -> None:
        async with bus_of(registry, capacity=1, max_waiting=5) as bus:
            await bus.publish("c", 0)
            while bus.agents["gate"].waiting:
                await asyncio.sleep(0.001)
            kept: list[Publication] = [bus.publish("c", number) for number in range(1, 7)]
            with pytest.raises(ChannelFull, match="await what publish"):
                await bus.publish("c", 7)
            gate.open()
            assert [each.payload for each in [await one for one in kept]] == [1, 2, 3, 4, 5, 6]

    asyncio.run(main())
    assert gate.seen == list(range(7))


def test_two_agents_that_wait_for_each_other_do_not_for_ever(registry: Registry) -> None:
    @pubsub_agent(subscribe="a", publish="b", registry=registry)
    async def one(number: int, bus: MessageContext) -> None:
        for _ in range(3):
            await bus.publish("b", number)

    @pubsub_agent(subscribe="b", publish="a", registry=registry)
    async def two(number: int, bus: MessageContext) -> None:
        for _ in range(3):
            await bus.publish("a", number)

    with bus_of(registry, capacity=2, publish_timeout=0.02, grace=0.1) as bus:
        bus.publish("a", 1).result()
        deadline = time.monotonic() + LONG
        while not bus.dead_letters():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert "ChannelFull" in bus.dead_letters()[0].error
        bus.stop()


def test_a_channel_has_a_capacity_of_its_own(registry: Registry) -> None:
    gate = Gate(registry)
    bus = bus_of(registry, capacity=100)
    bus.channel("c", capacity=2)
    with bus:
        for number in range(3):
            bus.publish("c", number).result()
            waits(bus, number)
        with pytest.raises(ChannelFull):
            bus.publish("c", 3, timeout=0).result()
        bus.channel("c", capacity=3)
        bus.publish("c", 3, timeout=0).result()
        gate.open()
        assert bus.wait_idle(LONG).result()


def test_who_is_taken_out_holds_nobody_up(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(registry)
    other = Gate(registry, name="other")
    other.open()
    with bus_of(registry, capacity=2) as bus:
        for number in range(3):
            bus.publish("c", number).result()
            waits(bus, number)
        late = bus.publish("c", 3, wait=False)
        assert not late.is_done
        bus.unregister("gate")
        assert late.result().payload == 3
        gate.open()
        assert bus.wait_idle(LONG).result()
    assert other.seen == [0, 1, 2, 3]
    assert gate.seen in ([], [0])
    assert bus._report().undelivered == 2
    assert "2 messages waited for agent 'gate'" in caplog.text


def test_what_is_left_when_a_bus_is_closed_is_told(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(registry)
    bus = bus_of(registry, capacity=3, grace=0.01)
    with bus:
        for number in range(4):
            bus.publish("c", number).result()
            waits(bus, number)
        late = bus.publish("c", 4, wait=False)
    assert "closed with messages that are not handled yet" in caplog.text
    assert "3 messages waited for agent 'gate'" in caplog.text
    with pytest.raises(InvalidState, match="closed before there was room"):
        late.result()
    assert gate.seen == []


def test_an_agent_that_cannot_be_stopped_is_left_behind(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(registry, "sync")
    with bus_of(registry, grace=0.01) as bus:
        bus.publish("c", 1).result()
        waits(bus, 0)
    assert "left behind in its thread" in caplog.text
    gate.open()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_message_whose_call_does_not_end_is_undelivered(registry: Registry, kind: str) -> None:
    gate = Gate(registry, kind)
    report = bus_of(registry, grace=0.01).run(StartWith("c", 1, timeout=0.3))
    assert (report.reason, report.published, report.handled) == ("timeout", 1, 0)
    assert report.undelivered == 1
    assert not report.success
    with pytest.raises(ExecutionError, match=r"1 messages are undelivered.*\(timeout\)"):
        report.raise_for_failure()
    gate.open()


def test_so_is_one_of_an_agent_that_was_taken_out(registry: Registry) -> None:
    gate = Gate(registry)
    with bus_of(registry, grace=0.01) as bus:
        for number in range(3):
            bus.publish("c", number).result()
            waits(bus, number)
        bus.unregister("gate")
    assert bus._report().undelivered == 2 + 1, "two waited, and the call of one was interrupted"
    assert gate.seen == []


def test_a_payload_is_passed_on_as_it_is(registry: Registry) -> None:
    seen: list[Message] = []

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(message: Message) -> None:
        seen.append(message)

    thing = object()
    with bus_of(registry) as bus:
        message = bus.publish("c", thing).result()
    assert seen[0] is message
    assert seen[0].payload is thing


def test_an_id_that_waits_is_taken_when_it_is_let_in(registry: Registry) -> None:
    gate = Gate(registry)
    with bus_of(registry, capacity=1) as bus:
        for number in range(2):
            bus.publish("c", number).result()
            waits(bus, number)
        waiting = [
            bus.publish("c", 2, id="x", wait=False),
            bus.publish("c", 2, id="x", wait=False),
            bus.publish("c", 3, id="x", wait=False),
        ]
        gate.open()
        assert waiting[0].result() is waiting[1].result()
        with pytest.raises(IdempotencyConflict):
            waiting[2].result()
    assert gate.seen == [0, 1, 2]


def test_the_newest_ids_are_remembered(registry: Registry) -> None:
    gate = Gate(registry)
    gate.open()
    with bus_of(registry, max_ids=2) as bus:
        for name in ("a", "b", "a", "c", "b", "a"):
            bus.publish("c", ord(name), id=name).result()
        assert bus.wait_idle(LONG).result()
    assert "".join(map(chr, gate.seen)) == "abca", "the oldest one was forgotten"


def test_channels_are_bounded(registry: Registry) -> None:
    with bus_of(registry, max_channels=2) as bus:
        bus.publish("a").result()
        bus.publish("b").result()
        with pytest.raises(LimitExceeded, match="max_channels=2"):
            bus.publish("c").result()
        bus.publish("a").result()


def test_the_newest_given_up_messages_are_kept(registry: Registry) -> None:
    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None:
        raise ValueError

    with bus_of(registry, dead_letters=3) as bus:
        for number in range(10):
            bus.publish("c", number).result()
        assert bus.wait_idle(LONG).result()
        assert [each.message.payload for each in bus.dead_letters()] == [7, 8, 9]
    report = bus._report()
    assert report.dead == 10
    assert [each.message.payload for each in report.dead_letters] == [7, 8, 9]


def test_where_there_is_no_room_for_a_letter_it_is_told(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(registry)

    @pubsub_agent(subscribe="bad", registry=registry)
    async def agent(message: Message) -> None:
        raise ValueError

    with bus_of(registry, capacity=1, dead_letter_channel="c", publish_timeout=0.02) as bus:
        for number in range(2):
            bus.publish("c", number).result()
            waits(bus, number)
        bus.publish("bad").result()
        waits(bus, 0, "agent")
        deadline = time.monotonic() + LONG
        while "it is not published that agent 'agent'" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert len(bus.dead_letters()) == 1
        gate.open()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_agent_that_gives_up_waits_for_room_to_tell_it(registry: Registry, kind: str) -> None:
    gate = Gate(registry, kind)

    async def later(number: int) -> None:
        raise ValueError

    def at_once(number: int) -> None:
        raise ValueError

    fails: Callable[[int], object] = later if kind == "async" else at_once
    pubsub_agent(name="fails", subscribe="bad", registry=registry)(fails)
    told: list[object] = []

    @pubsub_agent(name="reader", subscribe="faults", registry=registry)
    def reader(message: Message) -> None:
        assert gate.more.acquire(timeout=LONG)
        told.append(message.payload["payload"])

    with bus_of(registry, capacity=2, dead_letter_channel="faults") as bus:
        bus.channel("bad", capacity=10)
        for number in range(10):
            bus.publish("bad", number).result()
        deadline = time.monotonic() + LONG
        # One is read, two wait, and one waits for room.
        while (bus.channels["faults"].waiting, bus.agents["fails"].dead) != (1, 4):
            assert time.monotonic() < deadline, bus.agents
            time.sleep(0.001)
        gate.open()
        assert bus.wait_idle(LONG).result()
    assert told == list(range(10))


def test_the_error_tells_how_long_somebody_waited(registry: Registry) -> None:
    gate = Gate(registry)
    with bus_of(registry, capacity=1, publish_timeout=LONG) as bus:
        bus.publish("c", 0).result()
        waits(bus, 0)
        bus.publish("c", 1).result()
        with pytest.raises(ChannelFull, match=r"had no room for 0\.05 s"):
            bus.publish("c", 2, wait=False).result(0.05)
        gate.open()


def test_a_bus_in_memory_loads_no_store() -> None:
    code = """
import sys
from dagger_dsl.pubsub import PubSubExecutor, StartWith, pubsub_agent

@pubsub_agent(subscribe="a")
async def agent(message):
    assert message.payload == 1

assert PubSubExecutor().run(StartWith("a", 1)).handled == 1
heavy = ("sqlalchemy", "sqlite3", "cattrs", "orjson", "tenacity", "jsonschema_rs")
print(*[name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
