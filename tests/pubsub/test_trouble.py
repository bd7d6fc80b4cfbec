"""Agents, callers and processes that misbehave: the bus says so, and loses nothing."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry, RetryPolicy
from dagger_dsl.errors import ConfigurationError, InvalidState
from dagger_dsl.model.messages import DeadLetter, Message
from dagger_dsl.pubsub import (
    MessageContext,
    PubSubConfig,
    PubSubExecutor,
    StartWith,
    pubsub_agent,
)
from dagger_dsl.pubsub.delivery import Delivery
from dagger_dsl.store.messages import MessageRows
from dagger_dsl.store.storage import Store

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0

Make = Callable[..., PubSubExecutor]


class Leave(BaseException):
    """What no handler of `Exception` catches, as pytest and trio use it."""


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("error", [Leave, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_a_sync_agent_lives_on_whatever_it_raises(
    make: Make, registry: Registry, error: type[BaseException]
) -> None:
    seen: list[int] = []

    @pubsub_agent(subscribe="c", registry=registry)
    def agent(number: int) -> None:
        if number == 0:
            raise error
        seen.append(number)

    with make() as bus:
        bus.publish("c", 0).result()
        bus.publish("c", 1).result()
        assert bus.wait_idle(LONG).result()
        (letter,) = bus.dead_letters()
        assert error.__name__ in letter.error
    assert seen == [1]


@pytest.mark.parametrize(
    "error", [Leave, asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit]
)
def test_an_async_agent_lives_on_whatever_it_raises(
    make: Make, registry: Registry, error: type[BaseException]
) -> None:
    seen: list[int] = []

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None:
        if number == 0:
            raise error
        seen.append(number)

    with make() as bus:
        bus.publish("c", 0).result()
        bus.publish("c", 1).result()
        assert bus.wait_idle(LONG).result()
        assert len(bus.dead_letters()) == 1
    assert seen == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_a_task_of_an_agent_does_to_the_event_loop_does_not_end_the_bus(
    make: Make, registry: Registry, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def raises() -> None:
        raise error

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(payload: str) -> None:
        seen.append(payload)
        if payload == "stops":
            asyncio.get_running_loop().stop()
        if payload == "raises":
            tasks.append(asyncio.create_task(raises()))

    with make() as bus:
        for payload in ("stops", "raises", "goes on"):
            bus.publish("c", payload).result()
            assert bus.wait_idle(LONG).result()
        assert isinstance(tasks[0].exception(), error)
    assert seen == ["stops", "raises", "goes on"]
    assert "the bus goes on" in caplog.text


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_bus_whose_loop_was_closed_has_stopped_and_can_be_closed(
    make: Make, registry: Registry, kind: str
) -> None:
    seen: list[int] = []

    def agent(number: int) -> None:
        seen.append(number)

    async def agent_too(number: int) -> None:
        seen.append(number)

    pubsub_agent(name="agent", subscribe="c", registry=registry)(
        agent if kind == "sync" else agent_too
    )
    bus = make()

    async def never_leaves() -> None:
        await bus.__aenter__()
        await bus.publish("c", 1)
        assert await bus.wait_idle(LONG)

    asyncio.run(never_leaves())
    assert "stopped" in repr(bus)
    calls: list[Callable[[], object]] = [
        lambda: bus.publish("c", 2),
        bus.wait_idle,
        bus.run,
        bus.replay,
        bus.__enter__,
    ]
    for call in calls:
        with pytest.raises(InvalidState, match=r"loop of the bus was closed.*close\(\)"):
            call()
    bus.close()
    bus.close()
    with bus:
        bus.publish("c", 3).result()
    assert seen == [1, 3]


def test_an_error_with_half_a_character_is_recorded_like_any_other(
    make: Make, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a file name that is no UTF-8; no database takes it, and it stopped the bus."""
    # The traceback in the log has the text as it is, which pytest-xdist cannot send.
    caplog.set_level("CRITICAL", logger="dagger_dsl.pubsub")
    heard: list[str] = []
    told: list[str] = []

    @pubsub_agent(subscribe="files", registry=registry)
    def reads(payload: str) -> None:
        raise ValueError("cannot read " + os.fsdecode(b"caf\xe9\0.txt"))

    @pubsub_agent(subscribe="orders", registry=registry)
    def hears(payload: str) -> None:
        heard.append(payload)

    @pubsub_agent(subscribe="faults", registry=registry)
    def is_told(payload: dict[str, Any]) -> None:
        told.append(payload["error"])

    with make(dead_letter_channel="faults") as bus:
        bus.publish("files", "menu").result()
        assert bus.wait_idle(LONG).result()
        bus.publish("orders", "soup").result()
        assert bus.wait_idle(LONG).result()
        (letter,) = bus.dead_letters()
    assert letter.error == r"ValueError: cannot read caf\udce9\x00.txt"
    assert (heard, told) == (["soup"], [letter.error])


def test_who_looks_for_rest_does_not_overlook_a_call_that_begins(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, more = threading.Event(), threading.Event()

    @pubsub_agent(subscribe="c", registry=registry)
    def agent(number: int) -> None:
        begun.set()
        assert more.wait(LONG)

    with make() as bus:
        (subscription,) = bus._all()
        until(lambda: subscription.sleeping == 1)
        look = Delivery.calm_until

        def late(self: Delivery) -> float:
            """Let the agent take the message between two looks."""
            if not begun.is_set() and threading.current_thread() is looker:
                subscription.core.arrived.append(Message("c", 1, number=1))
                subscription.bell.ring()
                begun.wait(0.3)
            return look(self)

        monkeypatch.setattr(Delivery, "calm_until", late)
        looker = threading.current_thread()
        assert subscription.calm_until <= bus._place.now()  # type: ignore[union-attr]
        monkeypatch.undo()
        more.set()


def test_who_waits_for_room_hears_at_once_that_the_bus_ends(registry: Registry) -> None:
    """Nobody makes room any more, so nobody waits for it until the grace time is over."""
    stuck = threading.Event()
    errors: list[BaseException] = []

    @pubsub_agent(subscribe="full", registry=registry)
    def slow(number: int) -> None:
        assert stuck.wait(LONG)

    @pubsub_agent(subscribe="go", registry=registry)
    def publishes(payload: None, bus: MessageContext) -> None:
        try:
            for number in range(5):
                bus.publish("full", number, timeout=LONG).result()
        except BaseException as error:
            errors.append(error)
            stuck.set()
            raise

    bus = PubSubExecutor(config=PubSubConfig(capacity=1, grace=LONG), registry=registry)
    with bus:
        bus.publish("go").result()
        until(lambda: bus.channels["full"].waiting)
        bus.stop()
        assert stuck.wait(LONG / 2), "it waited for room that nobody makes"
    assert [type(each) for each in errors] == [InvalidState]


def test_a_call_of_an_agent_that_was_taken_out_ends_before_the_bus_does(
    make: Make, registry: Registry
) -> None:
    begun, more = threading.Event(), threading.Event()
    seen: list[str] = []

    @pubsub_agent(subscribe="c", registry=registry)
    def leaves(payload: int, bus: MessageContext) -> None:
        begun.set()
        assert more.wait(LONG)
        bus.publish("d", "last words").result()

    @pubsub_agent(subscribe="d", registry=registry)
    async def hears(payload: str) -> None:
        seen.append(payload)

    with make() as bus:
        bus.publish("c", 1).result()
        assert begun.wait(LONG)
        bus.unregister("leaves")
        assert not bus.wait_idle(0.05).result(), "a call goes on"
        threading.Timer(0.05, more.set).start()
    assert seen == ["last words"]


def test_a_bus_can_be_closed_by_several_at_once(make: Make, registry: Registry) -> None:
    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None: ...

    for _ in range(10):
        bus = make().__enter__()
        bus.publish("c", 1).result()
        threads = [threading.Thread(target=bus.close, daemon=True) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(LONG)
        assert not any(each.is_alive() for each in threads)
        assert bus._place is None


def test_a_bus_that_runs_can_be_stopped_and_closed_at_once(make: Make, registry: Registry) -> None:
    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None: ...

    for _ in range(5):
        bus = make().__enter__()
        threads = [
            threading.Thread(target=bus.close, daemon=True),
            threading.Thread(target=bus.stop, daemon=True),
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join(LONG)
        assert not any(each.is_alive() for each in threads)
        bus.close()
        assert bus._place is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_told_that_the_bus_is_its_parents(make: Make, registry: Registry) -> None:
    seen: list[int] = []

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None:
        seen.append(number)

    with make() as bus:
        child = os.fork()
        if not child:
            code = 1
            try:
                bus.publish("c", 1).result()
            except InvalidState as error:
                code = 0 if "does not run" in str(error) else 2
            bus.close()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        bus.publish("c", 2).result()
        assert bus.wait_idle(LONG).result()
    assert seen == [2]


def test_letters_come_while_others_are_taken(registry: Registry) -> None:
    @pubsub_agent(subscribe="c", registry=registry)
    def agent(number: int) -> None:
        raise RuntimeError

    with PubSubExecutor(registry=registry) as bus:
        for number in range(3):
            bus.publish("c", number).result()
        assert bus.wait_idle(LONG).result()
        (subscription,) = bus._all()
        letter = DeadLetter(Message("c", 9, id="late"), "agent", "", 1, 0.0)
        place = bus._place
        assert place is not None
        threads: list[threading.Thread] = []

        class Ids(set[str]):
            def __contains__(self, key: object) -> bool:
                assert place is not None
                thread = threading.Thread(target=place.bury, args=(subscription, letter))
                thread.start()
                thread.join(0.05)
                threads.append(thread)
                return True

        assert place.discard(None, Ids()) == 3
        for each in threads:
            each.join(LONG)
        assert [each.message.id for each in bus.dead_letters()] == ["late"] * 3


def test_a_bus_that_loses_its_agent_and_gets_it_back_handles_nothing_twice(
    tmp_path: Path, registry: Registry
) -> None:
    """As after a laptop slept for longer than a lease."""
    url = f"sqlite:{tmp_path / 'bus.db'}"
    begun, more = threading.Event(), threading.Event()
    seen: list[tuple[str, int]] = []

    @pubsub_agent(subscribe="c", registry=registry, concurrency=2)
    def agent(message: Message) -> None:
        if not seen:
            begun.set()
        seen.append((message.key, message.payload))
        if len(seen) == 1:
            assert more.wait(LONG)

    with PubSubExecutor(registry=registry, database_url=url) as bus, Store(url) as store:
        for number in range(6):
            bus.publish("c", number, key="k").result()
        assert begun.wait(LONG)
        until(lambda: bus.agents["agent"].waiting == 5)
        rows = MessageRows(store.database, store._payloads)
        claimed = rows.claim("agent", ["c"], "thief", lambda owner, beats: True)
        assert claimed is not None
        bus.publish("c", 6, key="x").result()  # with what becomes of it the desk hears of the loss
        until(lambda: bus._place._feeds[bus._all()[0]].progress is None)  # type: ignore[union-attr]
        more.set()
        until(lambda: bus.agents["agent"].waiting == 0)
        rows.release(["agent"], "thief")
        assert bus.wait_idle(LONG).result()
        until(lambda: rows.subscriptions()[0].position == 7)
        assert bus.wait_idle(LONG).result()
    # What was handled when it was lost is not recorded, so it is made again; nothing else is.
    assert seen[:2] == [("k", 0), ("x", 6)]
    assert [number for key, number in seen[2:] if key == "k"] == list(range(6))
    assert [number for key, number in seen[2:] if key == "x"] == [6]


def test_more_channels_than_anybody_has(make: Make, registry: Registry) -> None:
    seen: list[str] = []

    @pubsub_agent(subscribe=["part.*.3", "**.\x1b[2J\n\u202e*"[:-1]], registry=registry)
    async def agent(message: Message) -> None:
        seen.append(message.channel)

    with make(max_channels=10_000) as bus:
        for number in range(2_000):
            _ = bus.publish(f"part.{number}.{number % 7}", number, wait=False)
        bus.publish("x.\x1b[2J\n\u202e", 0).result()
        assert bus.wait_idle(LONG).result()
    wanted = [f"part.{number}.3" for number in range(2_000) if number % 7 == 3]
    assert seen == [*wanted, "x.\x1b[2J\n\u202e"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_call_that_takes_too_long_has_failed_and_holds_nothing_up(
    make: Make, registry: Registry, kind: str
) -> None:
    seen: list[int] = []
    told: list[str] = []
    more = threading.Event()
    late: list[BaseException] = []

    def hangs(message: Message, bus: MessageContext) -> None:
        if message.payload == 0 and bus.attempt == 1:
            assert more.wait(LONG)
            try:
                bus.publish("told", "too late").result()
            except InvalidState as error:
                late.append(error)
        seen.append(message.payload)

    async def hangs_too(message: Message, bus: MessageContext) -> None:
        if message.payload == 0 and bus.attempt == 1:
            await asyncio.sleep(LONG)
        seen.append(message.payload)

    options: dict[str, Any] = {"name": "agent", "subscribe": "c", "registry": registry}
    pubsub_agent(**options, timeout=0.5, retry=RetryPolicy(max_attempts=2, base_delay=0.001))(
        hangs if kind == "sync" else hangs_too
    )

    @pubsub_agent(subscribe="told", registry=registry)
    async def hears(payload: str) -> None:
        told.append(payload)

    with make() as bus:
        for number in range(3):
            bus.publish("c", number).result()
        assert bus.wait_idle(LONG).result()
        assert seen == [0, 1, 2], "it was given again, in order"
        assert bus.agents["agent"].failed == 1
        more.set()
        if kind == "sync":
            until(lambda: late)
    assert not told, "a call that was left behind publishes nothing"


def test_a_call_that_always_takes_too_long_is_given_up(make: Make, registry: Registry) -> None:
    @pubsub_agent(subscribe="c", registry=registry, timeout=0.02)
    async def agent(number: int) -> None:
        await asyncio.sleep(LONG)

    with make() as bus:
        bus.publish("c", 1).result()
        assert bus.wait_idle(LONG).result()
        (letter,) = bus.dead_letters()
        assert "agent 'agent' ran longer than its timeout of 0.02 s" in letter.error


def test_a_call_that_cannot_be_interrupted_in_time_has_failed_all_the_same(
    make: Make, registry: Registry
) -> None:
    options: dict[str, Any] = {"subscribe": "c", "registry": registry, "timeout": 0.02}

    @pubsub_agent(**options)
    async def blocks(number: int) -> None:
        time.sleep(0.05)

    @pubsub_agent(**options)
    async def goes_on(number: int) -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    @pubsub_agent(**options)
    async def fails_late(number: int) -> None:
        time.sleep(0.05)
        raise ValueError("late")

    report = make().run(StartWith("c", 1, timeout=LONG))
    assert (report.handled, report.dead) == (0, 3)
    for letter in report.dead_letters:
        assert letter.error.startswith(f"NodeTimeout: agent '{letter.agent}' ran longer")


@pytest.mark.parametrize("timeout", [0, -1, "1", True, float("nan")])
def test_an_impossible_time_limit_is_refused(registry: Registry, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        pubsub_agent(subscribe="c", registry=registry, timeout=timeout)
