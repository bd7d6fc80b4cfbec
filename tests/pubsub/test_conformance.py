"""What holds wherever messages are kept: in memory and in a database."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import tenacity

from dagger_dsl import Registry, RetryPolicy
from dagger_dsl.errors import (
    AgentAlreadyRegistered,
    AgentNotFound,
    ConfigurationError,
    ExecutionError,
    IdempotencyConflict,
    InvalidState,
    MessageNotFound,
    MessageValidationError,
    OutputError,
)
from dagger_dsl.pubsub import (
    Message,
    MessageContext,
    PubSubAgentDef,
    PubSubExecutor,
    Reactive,
    StartWith,
    pubsub_agent,
)
from dagger_dsl.pubsub.calls import Caller

Make = Callable[..., PubSubExecutor]

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0

QUICK = RetryPolicy(max_attempts=3, base_delay=0.001)


def collector(registry: Registry, *patterns: str, name: str = "collector") -> list[Message]:
    """Register an agent that keeps what it is given."""
    seen: list[Message] = []

    @pubsub_agent(name=name, subscribe=patterns, registry=registry)
    async def collect(message: Message) -> None:
        seen.append(message)

    return seen


def _of(kind: str, sync: Any, awaited: Any) -> Any:
    return sync if kind == "sync" else awaited


def idle(bus: PubSubExecutor) -> None:
    """Wait until everything is handled."""
    assert bus.wait_idle(LONG).result()


@pytest.mark.row("J1")
def test_a_channel_is_there_once_it_is_used(make: Make, registry: Registry) -> None:
    seen = collector(registry, "new.**")
    with make() as bus:
        assert "new.channel" not in bus.channels
        message = bus.publish("new.channel", {"n": 1}, key="k", task_id="t").result()
        idle(bus)
        assert bus.channels["new.channel"].published == 1
        assert bus.channels["new.channel"].subscribers == ("collector",)
    (given,) = seen
    assert given == message
    assert (given.channel, given.payload, given.key) == ("new.channel", {"n": 1}, "k")
    assert (given.source, given.task_id, given.cause) == ("", "t", "")
    assert abs(given.timestamp - time.time()) < LONG
    assert given.published_at.timestamp() == pytest.approx(given.timestamp)


@pytest.mark.row("J2")
def test_each_agent_whose_patterns_match_is_given_each_message_once(
    make: Make, registry: Registry
) -> None:
    patterns = {
        "one": ("orders.eu",),
        "all": ("orders.*",),
        "twice": ("orders.*", "**", "orders.eu"),
        "deep": ("orders.**",),
        "other": ("payments.*",),
    }
    seen = {name: collector(registry, *each, name=name) for name, each in patterns.items()}
    with make() as bus:
        for channel in ("orders", "orders.eu", "orders.us", "orders.eu.late"):
            bus.publish(channel, 1).result()
        idle(bus)
    given = {name: [each.channel for each in messages] for name, messages in seen.items()}
    assert given == {
        "one": ["orders.eu"],
        "all": ["orders.eu", "orders.us"],
        "twice": ["orders", "orders.eu", "orders.us", "orders.eu.late"],
        "deep": ["orders.eu", "orders.us", "orders.eu.late"],
        "other": [],
    }


@attrs.frozen
class Order:
    number: int


@pytest.mark.row("J3")
@pytest.mark.parametrize(
    ("schema", "bad", "fault"),
    [
        (
            {"type": "object", "properties": {"n": {"type": "array", "items": {"type": "number"}}}},
            {"n": [1, "two"]},
            r"the schema of channel 'c': payload\['n'\]\[1\]",
        ),
        ('{"type": "integer"}', "text", "the schema of channel 'c': payload"),
        (int, "text", "the schema of channel 'c'"),
        (list[int], [1, "two"], r"payload\[1\]"),
        (Order, {"number": 1}, "Order"),
    ],
)
def test_a_channel_refuses_a_bad_message(
    make: Make, registry: Registry, schema: Any, bad: Any, fault: str
) -> None:
    seen = collector(registry, "c")
    bus = make()
    bus.channel("c", schema)
    with bus:
        with pytest.raises(MessageValidationError, match=fault):
            bus.publish("c", bad).result()
        idle(bus)
        assert bus.channels["c"].published == 0
    assert seen == []


@pytest.mark.row("J3")
def test_an_agent_refuses_a_bad_message(make: Make, registry: Registry) -> None:
    seen: list[Any] = []

    @pubsub_agent(
        subscribe="c",
        input_schema={"type": "object", "required": ["name"]},
        registry=registry,
    )
    def by_schema(message: Message) -> None:
        seen.append(message.payload)

    @pubsub_agent(subscribe="d", registry=registry)
    async def by_annotation(numbers: list[int]) -> None:
        seen.append(numbers)

    with make() as bus:
        with pytest.raises(MessageValidationError, match=r"'by_schema': payload.*name"):
            bus.publish("c", {"nome": 1}).result()
        with pytest.raises(MessageValidationError, match="'numbers' of agent 'by_annotation'"):
            bus.publish("d", [1, "2"]).result()
        bus.publish("c", {"name": "x"}).result()
        bus.publish("d", [1, 2]).result()
        idle(bus)
    assert sorted(seen, key=str) == [[1, 2], {"name": "x"}]


@pytest.mark.row("J4")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_slow_agent_does_not_delay_another(make: Make, registry: Registry, kind: str) -> None:
    go, done = threading.Event(), threading.Event()

    if kind == "sync":

        @pubsub_agent(name="slow", subscribe="c", registry=registry)
        def blocking(message: Message) -> None:
            go.wait(LONG)
    else:

        @pubsub_agent(name="slow", subscribe="c", registry=registry)
        async def waiting(message: Message) -> None:
            while not go.is_set():
                await asyncio.sleep(0.001)

    @pubsub_agent(subscribe="c", registry=registry)
    async def quick(number: int) -> None:
        if number == 9:
            done.set()

    with make() as bus:
        for number in range(10):
            bus.publish("c", number).result()
        assert done.wait(LONG)
        assert bus.agents["slow"].handled == 0
        go.set()
        idle(bus)
        assert bus.agents["slow"].handled == 10


@pytest.mark.row("J4", "R1")
def test_sync_and_async_agents_work_in_threads_and_in_one_loop(
    make: Make, registry: Registry
) -> None:
    where: dict[str, Any] = {}

    @pubsub_agent(subscribe="c", registry=registry)
    def one(message: Message) -> None:
        where["one"] = threading.current_thread().name

    @pubsub_agent(subscribe="c", registry=registry)
    async def two(message: Message) -> None:
        where["two"] = asyncio.get_running_loop()

    @pubsub_agent(subscribe="c", registry=registry)
    async def three(message: Message) -> None:
        where["three"] = asyncio.get_running_loop()

    async def main() -> None:
        async with make() as bus:
            await bus.publish("c")
            assert await bus.wait_idle(LONG)
            assert where["two"] is where["three"] is asyncio.get_running_loop()

    asyncio.run(main())
    assert where["one"].startswith("dagger-agent-one")


@pytest.mark.row("J5")
def test_a_bus_is_a_context_manager_and_can_be_opened_again(make: Make, registry: Registry) -> None:
    seen = collector(registry, "c")
    bus = make()
    with pytest.raises(InvalidState, match="does not run"):
        bus.publish("c", 0).result()
    for number in (1, 2):
        with bus:
            bus.publish("c", number).result()
            with pytest.raises(InvalidState, match="runs already"), bus:
                pass
    with pytest.raises(InvalidState, match="does not run"):
        bus.wait_idle().result()
    assert [each.payload for each in seen] == [1, 2], "what was left was handled first"


class Doubler:
    """The documents' agent as a class."""

    def __init__(self) -> None:
        self.count = 0

    def subscriptions(self) -> list[str]:
        return ["numbers"]

    def publications(self) -> list[str]:
        return ["doubled", "log.*"]

    async def handle_message(self, message: Message, bus: MessageContext) -> None:
        self.count += 1
        await bus.publish("doubled", (message.payload * 2, self.count))


@pytest.mark.row("J6", "J7")
def test_a_class_says_what_it_is_given_and_gives(make: Make, registry: Registry) -> None:
    seen = collector(registry, "doubled")
    with make("collector", Doubler, strict=True) as bus:
        assert set(bus.channels) == {"doubled", "numbers"}, "made when they are registered"
        for number in (1, 2, 3):
            bus.publish("numbers", number).result()
        idle(bus)
    assert [each.payload for each in seen] == [(2, 1), (4, 2), (6, 3)]
    assert {each.source for each in seen} == {"Doubler"}


def test_an_object_and_the_original_name_of_the_method(make: Make, registry: Registry) -> None:
    class Old:
        def __init__(self, start: int) -> None:
            self.total = start

        def subscriptions(self) -> tuple[str, ...]:
            return ("n",)

        def process_message(self, message: Message) -> None:
            self.total += message.payload

    old = Old(10)
    with make(old) as bus:
        bus.publish("n", 5).result()
    assert old.total == 15


@pytest.mark.row("J7")
def test_a_strict_bus_refuses_what_an_agent_does_not_declare(
    make: Make, registry: Registry
) -> None:
    seen = collector(registry, "**")

    @pubsub_agent(subscribe="c", publish="good.*", registry=registry)
    async def speaker(message: Message, bus: MessageContext) -> None:
        await bus.publish(message.payload, 1)

    with make(strict=True) as bus:
        bus.publish("c", "bad").result()
        bus.publish("c", "good.one").result()
        idle(bus)
        (letter,) = bus.dead_letters()
        assert "UndeclaredPublication: agent 'speaker' publishes on channel 'bad'" in letter.error
        assert bus.agents["speaker"].retried == 0
    assert [each.channel for each in seen] == ["c", "c", "good.one"]
    with make() as bus:
        bus.publish("c", "bad").result()
        idle(bus)
    assert seen[-1].channel == "bad", "others may publish anywhere"


@pytest.mark.row("J8")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_agent_lives_on_after_a_failure(
    make: Make, registry: Registry, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    seen = []

    def handle(number: int) -> None:
        seen.append(number)
        if number == 2:
            raise ValueError("two is bad")
        if number == 3:
            raise SystemExit(3)

    if kind == "sync":
        pubsub_agent(name="agent", subscribe="c", registry=registry)(handle)
    else:

        @pubsub_agent(name="agent", subscribe="c", registry=registry)
        async def agent(number: int) -> None:
            if number == 4:
                asyncio.get_running_loop().create_future().cancel()
                raise asyncio.CancelledError
            handle(number)

    with caplog.at_level(logging.ERROR, "dagger_dsl.pubsub"), make() as bus:
        for number in range(1, 6):
            bus.publish("c", number).result()
        idle(bus)
        stats = bus.agents["agent"]
        errors = [each.error for each in bus.dead_letters("agent")]
    assert seen[-1] == 5
    failed = 2 if kind == "sync" else 3
    assert (stats.handled, stats.failed, stats.dead) == (5 - failed, failed, failed)
    assert errors[0] == "ValueError: two is bad"
    assert "SystemExit(3)" in errors[1]
    assert "agent 'agent' failed on message" in caplog.text
    assert "two is bad" in caplog.text


@pytest.mark.row("J9")
def test_an_agent_is_replaced_without_touching_others(make: Make, registry: Registry) -> None:
    seen = collector(registry, "out")

    @pubsub_agent(name="middle", subscribe="in", publish="out", registry=registry)
    def plus(number: int) -> int:
        return number + 1

    def times(number: int) -> int:
        return number * 10

    with make() as bus:
        bus.publish("in", 1).result()
        idle(bus)
        other = Registry()
        pubsub_agent(name="middle", subscribe="in", publish="out", registry=other)(times)
        definition = other.pubsub_agents["middle"]
        with pytest.raises(AgentAlreadyRegistered, match="replace=True"):
            bus.register(definition)
        assert bus.register(definition, replace=True) == "middle"
        for number in range(20):
            bus.publish("in", number).result()
        idle(bus)
    assert [each.payload for each in seen] == [2, *(number * 10 for number in range(20))]
    report = bus._report()
    assert report.agents["middle"].handled == 21
    assert report.handled == 42


@pytest.mark.row("J11")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_two_agents_play_ping_pong_and_stop(make: Make, registry: Registry, kind: str) -> None:
    seen: list[tuple[str, int]] = []

    def ping(message: Message, bus: MessageContext) -> Any:
        seen.append(("ping", message.payload))
        if message.payload >= 10:
            bus.stop("enough")
            return None
        return bus.publish("pong", message.payload + 1)

    def pong(number: int) -> int:
        seen.append(("pong", number))
        return number + 1

    if kind == "sync":

        @pubsub_agent(name="ping", subscribe="ping", registry=registry)
        def sync_ping(message: Message, bus: MessageContext) -> None:
            ping(message, bus)

        pubsub_agent(name="pong", subscribe="pong", publish="ping", registry=registry)(pong)
    else:

        @pubsub_agent(name="ping", subscribe="ping", registry=registry)
        async def async_ping(message: Message, bus: MessageContext) -> None:
            ping(message, bus)  # what is not awaited is published all the same

        @pubsub_agent(name="pong", subscribe="pong", publish="ping", registry=registry)
        async def async_pong(number: int) -> int:
            return pong(number)

    report = make().run(StartWith("ping", 0))
    assert [number for _, number in seen] == list(range(11))
    assert [who for who, _ in seen] == ["ping", "pong"] * 5 + ["ping"]
    assert (report.reason, report.handled, report.published) == ("enough", 11, 11)
    assert report.success


def test_what_a_call_returns_is_published_on_the_channel_that_it_declares(
    make: Make, registry: Registry
) -> None:
    seen = collector(registry, "out")

    @pubsub_agent(subscribe="in", publish="out", output_schema=int, registry=registry)
    async def good(payload: Any) -> Any:
        return payload

    @pubsub_agent(subscribe="in", registry=registry)
    def says_nothing_of_it(payload: Any) -> Any:
        return payload

    @pubsub_agent(subscribe="in", publish=["out", "more"], registry=registry)
    async def says_two(payload: Any) -> Any:
        return payload

    with make() as bus:
        bus.publish("in", 1).result()
        bus.publish("in", None).result()
        bus.publish("in", "text").result()
        idle(bus)
        errors = {(each.agent, each.message.payload): each.error for each in bus.dead_letters()}
    assert [each.payload for each in seen] == [1]
    assert set(errors) == {
        ("good", "text"),
        ("says_nothing_of_it", 1),
        ("says_nothing_of_it", "text"),
        ("says_two", 1),
        ("says_two", "text"),
    }
    assert "the output_schema of agent 'good'" in errors["good", "text"]
    assert "which has none" in errors["says_nothing_of_it", 1]
    assert "which has out, more" in errors["says_two", 1]


def test_an_agent_is_not_given_its_own_messages(make: Make, registry: Registry) -> None:
    seen = collector(registry, "c")

    @pubsub_agent(subscribe="c", publish="c", registry=registry)
    async def echo(number: int) -> int:
        return number + 1

    with make() as bus:
        bus.publish("c", 1).result()
        idle(bus)
    assert [(each.payload, each.source) for each in seen] == [(1, ""), (2, "echo")]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_messages_of_one_channel_and_key_come_in_order_one_at_a_time(
    make: Make, registry: Registry, kind: str, concurrency: int
) -> None:
    seen: dict[str, list[int]] = {}
    failed: set[int] = set()
    inside: set[str] = set()
    most = 0
    lock = threading.Lock()

    def begin(message: Message) -> None:
        nonlocal most
        with lock:
            assert message.key not in inside
            inside.add(message.key)
            most = max(most, len(inside))

    def end(message: Message) -> None:
        with lock:
            inside.discard(message.key)
            if message.payload % 7 == 3 and message.payload not in failed:
                failed.add(message.payload)
                raise ValueError("once")
            seen.setdefault(message.key, []).append(message.payload)

    options: dict[str, Any] = {
        "name": "agent",
        "subscribe": "c",
        "concurrency": concurrency,
        "retry": QUICK,
        "registry": registry,
    }
    if kind == "sync":

        @pubsub_agent(**options)
        def blocking(message: Message) -> None:
            begin(message)
            time.sleep(0.0005)
            end(message)
    else:

        @pubsub_agent(**options)
        async def waiting(message: Message) -> None:
            begin(message)
            await asyncio.sleep(0.0005)
            end(message)

    with make() as bus:
        for number in range(60):
            bus.publish("c", number, key=f"k{number % 5}").result()
        idle(bus)
        assert bus.dead_letters() == []
    for key, numbers in seen.items():
        assert numbers == sorted(numbers), key
    assert sum(map(len, seen.values())) == 60
    assert most <= concurrency
    if concurrency > 1:
        assert most > 1


def test_a_message_that_is_given_again_holds_up_its_key_and_no_other(
    make: Make, registry: Registry
) -> None:
    seen: list[tuple[str, int]] = []
    others = threading.Event()

    @pubsub_agent(subscribe="c", retry=QUICK.with_attempts(100_000), registry=registry)
    async def agent(message: Message) -> None:
        if message.key == "bad" and not others.is_set():
            raise ValueError("not yet")
        seen.append((message.key, message.payload))
        if len(seen) == 3:
            others.set()

    with make() as bus:
        for number in (1, 2, 3):
            bus.publish("c", number, key="bad").result()
            bus.publish("c", number, key="good").result()
        idle(bus)
    assert seen[:3] == [("good", 1), ("good", 2), ("good", 3)]
    assert seen[3:] == [("bad", 1), ("bad", 2), ("bad", 3)]


def test_the_shared_retry_policy_says_how_often_a_message_is_given(
    make: Make, registry: Registry
) -> None:
    calls: list[tuple[int, str]] = []

    @pubsub_agent(subscribe="c", retry=QUICK, registry=registry)
    async def own(message: Message, bus: MessageContext) -> None:
        calls.append((bus.attempt, bus.idempotency_key))
        raise ConnectionError("down")

    @pubsub_agent(subscribe="c", registry=registry)
    async def of_the_bus(message: Message) -> None:
        raise ConnectionError("down")

    @pubsub_agent(subscribe="c", retry=5, registry=registry)
    def never(message: Message) -> None:
        raise OutputError("such errors are never retried")

    with make(retry=RetryPolicy(max_attempts=2, base_delay=0.001)) as bus:
        message = bus.publish("c").result()
        idle(bus)
        agents = bus.agents
        letters = {each.agent: each for each in bus.dead_letters()}
    assert calls == [(n, f"{message.id}:own") for n in (1, 2, 3)]
    assert {name: (s.failed, s.retried, s.dead) for name, s in agents.items()} == {
        "own": (3, 2, 1),
        "of_the_bus": (2, 1, 1),
        "never": (1, 0, 1),
    }
    assert {name: each.attempts for name, each in letters.items()} == {
        "own": 3,
        "of_the_bus": 2,
        "never": 1,
    }


def test_a_policy_may_give_up_after_a_time(make: Make, registry: Registry) -> None:
    policy = RetryPolicy(
        stop=tenacity.stop_after_delay(0.05), wait=tenacity.wait_fixed(0.01), retry_on=("network",)
    )

    @pubsub_agent(subscribe="c", retry=policy, registry=registry)
    async def agent(message: Message) -> None:
        raise ConnectionError

    report = make().run(StartWith("c"))
    assert report.dead == 1
    assert report.retried >= 1


def test_who_sets_the_time_of_day_ends_no_policy(make: Make, registry: Registry) -> None:
    policy = RetryPolicy(
        stop=tenacity.stop_after_delay(600), wait=tenacity.wait_fixed(0), retry_on=("network",)
    )
    now, calls = [1e9], list[int]()

    @pubsub_agent(subscribe="c", retry=policy, registry=registry)
    async def agent(bus: MessageContext, message: Message) -> None:
        calls.append(bus.attempt)
        now[0] += 3_600
        if bus.attempt < 3:
            raise ConnectionError

    bus = make()
    bus._clock = lambda: now[0]
    report = bus.run(StartWith("c"))
    assert (calls, report.dead) == ([1, 2, 3], 0)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_policy_that_fails_itself_gives_up(make: Make, registry: Registry, kind: str) -> None:
    def broken(error: BaseException) -> bool:
        raise ZeroDivisionError

    policy = RetryPolicy(max_attempts=5, base_delay=0.001, retry_on=(broken,))
    seen: list[int] = []

    def handle(number: int) -> None:
        seen.append(number)
        if number == 1:
            raise ConnectionError

    options: dict[str, Any] = {"name": "agent", "subscribe": "c", "retry": policy}
    if kind == "sync":
        pubsub_agent(**options, registry=registry)(handle)
    else:

        @pubsub_agent(**options, registry=registry)
        async def agent(number: int) -> None:
            handle(number)

    with make(max_channels=1, dead_letter_channel="one.too.many") as bus:
        bus.publish("c", 1).result()
        bus.publish("c", 2).result()
        idle(bus)
        assert [each.error for each in bus.dead_letters()] == ["ConnectionError"]
    assert seen == [1, 2]


def test_who_would_block_the_loop_of_the_bus_is_told(make: Make, registry: Registry) -> None:
    go = threading.Event()

    @pubsub_agent(subscribe="c", registry=registry)
    def agent(message: Message) -> None:
        go.wait(LONG)

    async def main() -> None:
        async with make(capacity=1) as bus:
            sent = [bus.publish("c", number) for number in range(4)]
            with pytest.raises(InvalidState, match="await it instead"):
                sent[-1].result()
            with pytest.raises(InvalidState, match="await it instead"):
                bus.wait_idle().result()
            go.set()
            for each in sent:
                await each

    asyncio.run(main())


def test_given_up_messages_are_looked_at_replayed_and_forgotten(
    make: Make, registry: Registry
) -> None:
    broken = True
    seen: list[int] = []

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None:
        if broken:
            raise ValueError(f"bad {number}")
        seen.append(number)

    @pubsub_agent(subscribe="c", registry=registry)
    def other(number: int) -> None:
        raise TypeError

    with make() as bus:
        ids = [bus.publish("c", number, id=f"m{number}").result().id for number in range(5)]
        idle(bus)
        letters = bus.dead_letters("agent")
        assert [(each.message.id, each.error, each.attempts) for each in letters] == [
            (f"m{number}", f"ValueError: bad {number}", 1) for number in range(5)
        ]
        assert [each.message.payload for each in letters] == list(range(5))
        assert len(bus.dead_letters()) == 10
        broken = False
        assert bus.replay("agent", ids[1]) == 1
        idle(bus)
        assert seen == [1]
        for change in (bus.replay, bus.discard):
            with pytest.raises(MessageNotFound, match="no dead letter 'm1' of agent 'agent'"):
                change("agent", ["m0", "m1"])
            with pytest.raises(AgentNotFound, match="no agent 'agnet'"):
                change("agnet")
        assert bus.discard("agent", ["m0"]) == 1
        assert bus.replay("agent") == 3
        idle(bus)
        assert seen == [1, 2, 3, 4]
        assert bus.dead_letters("agent") == []
        assert bus.discard() == 5
        assert bus.dead_letters() == []


def test_what_was_given_up_is_there_after_the_bus_has_ended(make: Make, registry: Registry) -> None:
    broken = True
    seen: list[int] = []

    @pubsub_agent(subscribe="c", registry=registry)
    def agent(number: int) -> None:
        if broken:
            raise ValueError
        seen.append(number)

    bus = make()
    assert bus.dead_letters() == []
    assert bus.run(StartWith("c", 1)).dead == bus.run(StartWith("c", 2)).dead == 1
    assert [each.message.payload for each in bus.dead_letters("agent")] == [1, 2]
    assert bus.dead_letters("other") == []
    for change in (bus.replay, bus.discard):
        with pytest.raises(InvalidState, match="does not run"):
            change()
    broken = False
    with bus:
        assert bus.replay() == 2
        bus.publish("c", 3).result()
        idle(bus)
    assert sorted(seen) == [1, 2, 3]
    assert bus.dead_letters() == []


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (1, 1, True),
        (1, True, False),
        (1, 1.0, False),
        ([True], [1], False),
        (float("nan"), float("nan"), True),
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        ((1,), [1], False),
    ],
)
def test_both_places_compare_the_content_of_an_id_alike(
    make: Make, first: Any, second: Any, same: bool
) -> None:
    with make() as bus:
        bus.publish("c", first, id="m").result()
        if same:
            bus.publish("c", second, id="m").result()
        else:
            with pytest.raises(IdempotencyConflict, match="another content"):
                bus.publish("c", second, id="m").result()


@pytest.mark.parametrize("name", [5, b"agent", [], {}, object()])
def test_an_agent_is_named_by_a_text(make: Make, name: Any) -> None:
    with make() as bus:
        asks: list[Callable[[], object]] = [
            lambda: bus.unregister(name),
            lambda: bus.unregister(name, forget=True),
            lambda: bus.dead_letters(name),
            lambda: bus.replay(name),
            lambda: bus.discard(name),
        ]
        for ask in asks:
            with pytest.raises(ConfigurationError, match="an agent is named by a text, not"):
                ask()


def test_no_agent_is_asked_again_for_each_one_that_comes(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To start many agents with channels of their own takes so many steps, and not their cube."""
    most = 30
    for number in range(most):

        @pubsub_agent(subscribe=f"c.{number}", name=f"agent {number}", registry=registry)
        async def agent(message: Message) -> None: ...

    asked: list[str] = []
    gets = Caller.gets

    def counted(self: Caller, channel: str) -> bool:
        if threading.current_thread().name == "dagger-pubsub-loop":
            asked.append(channel)
        return gets(self, channel)

    monkeypatch.setattr(Caller, "gets", counted)
    with make() as bus:
        assert len(asked) <= most
        del asked[:]
        bus.register(agent, "late")
        assert len(asked) <= 1
        assert [bus.channels[f"c.{number}"].subscribers for number in (0, most - 1)] == [
            ("agent 0",),
            (f"agent {most - 1}", "late"),
        ]
        bus.unregister("late")
        assert bus.channels[f"c.{most - 1}"].subscribers == (f"agent {most - 1}",)


def test_a_pattern_is_given_the_channels_that_were_there_before_it(
    make: Make, registry: Registry
) -> None:
    early = collector(registry, "c.early", name="early")
    with make() as bus:
        bus.publish("c.other").result()
        idle(bus)
        late: list[Message] = []

        def agent(message: Message) -> None:
            late.append(message)

        bus.register(PubSubAgentDef("late", agent, ("c.*",)))
        for name in ("c.early", "c.other", "c.new"):
            bus.publish(name).result()
        idle(bus)
        assert [each.channel for each in late] == ["c.early", "c.other", "c.new"]
        assert len(early) == 1


def test_it_is_published_that_a_message_is_given_up(make: Make, registry: Registry) -> None:
    seen = collector(registry, "letters")

    @pubsub_agent(subscribe="c", retry=QUICK, registry=registry)
    async def agent(number: int) -> None:
        raise ConnectionError("down")

    @pubsub_agent(subscribe="letters", registry=registry)
    def fails_on_letters(message: Message) -> None:
        raise ValueError

    with make(dead_letter_channel="letters") as bus:
        message = bus.publish("c", 7, key="k", task_id="t").result()
        idle(bus)
        assert [each.agent for each in bus.dead_letters()] == ["agent", "fails_on_letters"]
        assert bus.channels["letters"].published == 1
    (letter,) = seen
    assert letter.payload == {
        "agent": "agent",
        "error": "ConnectionError: down",
        "attempts": 3,
        "message_id": message.id,
        "channel": "c",
        "key": "k",
        "payload": 7,
    }
    assert (letter.source, letter.cause, letter.key, letter.task_id) == (
        "agent",
        message.id,
        "k",
        "t",
    )


def test_a_message_whose_id_was_published_is_not_published_again(
    make: Make, registry: Registry
) -> None:
    seen = collector(registry, "c")
    with make() as bus:
        first = bus.publish("c", {"n": 1}, id="order-1", key="k").result()
        again = bus.publish("c", {"n": 1}, id="order-1", key="k").result()
        assert first.id == again.id == "order-1"
        with pytest.raises(IdempotencyConflict, match=r"'order-1'.*another content"):
            bus.publish("c", {"n": 2}, id="order-1", key="k").result()
        with pytest.raises(IdempotencyConflict):
            _ = bus.publish("d", {"n": 1}, id="order-1", key="k")  # whoever looks at it or not
        idle(bus)
    assert [each.payload for each in seen] == [{"n": 1}]


def test_agents_come_and_go_while_the_bus_runs(make: Make, registry: Registry) -> None:
    seen = collector(registry, "c", name="first")
    late: list[int] = []

    def second(number: int) -> None:
        late.append(number)

    with make() as bus:
        bus.publish("c", 1).result()
        idle(bus)
        definition = pubsub_agent(subscribe="c", registry=registry)(second)
        assert bus.register(definition) == "second"
        bus.publish("c", 2).result()
        idle(bus)
        bus.unregister("first")
        bus.publish("c", 3).result()
        idle(bus)
        assert set(bus.agents) == {"second"}
        assert bus.channels["c"].subscribers == ("second",)
        with pytest.raises(AgentNotFound, match="did you mean 'second'"):
            bus.unregister("secund")
    assert [each.payload for each in seen] == [1, 2]
    assert late == [2, 3]


def test_an_agent_may_register_another_one_and_itself_go(make: Make, registry: Registry) -> None:
    seen = collector(registry, "c", name="heir")

    with make("heir") as bus:
        bus.unregister("heir")

        async def founder(message: Message) -> None:
            bus.register("heir")
            bus.unregister("founder")

        pubsub_agent(subscribe="c", registry=registry)(founder)
        bus.register("founder")
        bus.publish("c", 1).result()
        deadline = time.monotonic() + LONG
        while "heir" not in bus.agents:
            assert time.monotonic() < deadline
        idle(bus)
        bus.publish("c", 2).result()
        idle(bus)
    assert [each.payload for each in seen][-1] == 2


@pytest.mark.parametrize("inside", [False, True])
def test_a_run_ends_when_nothing_is_left_to_do(
    make: Make, registry: Registry, inside: bool
) -> None:
    @pubsub_agent(subscribe="n", publish="n.again", registry=registry)
    async def down(number: int) -> int | None:
        return number - 1 if number else None

    @pubsub_agent(subscribe="n.again", publish="n", registry=registry)
    def back(number: int) -> int:
        return number

    def run() -> Any:
        return make().run(StartWith("n", 20))

    async def in_a_loop() -> Any:
        return run()  # as in a notebook

    report = asyncio.run(in_a_loop()) if inside else run()
    assert (report.reason, report.handled, report.published) == ("idle", 41, 41)
    assert report.agents["down"].handled == 21
    assert report.channels["n"].published == 21
    assert report.success
    report.raise_for_failure()
    assert "idle" in repr(report)


def test_a_run_in_the_loop_of_the_caller(make: Make, registry: Registry) -> None:
    loops = set()

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(message: Message) -> None:
        loops.add(asyncio.get_running_loop())

    async def main() -> None:
        bus = make()
        report = await bus.run_async(StartWith("c", 1, idle=0.01))
        assert report.handled == 1
        report = await bus.run_async(StartWith("c", 2))
        assert report.handled == 1
        assert loops == {asyncio.get_running_loop()}

    asyncio.run(main())


@pytest.mark.row("R1")
def test_a_block_inside_of_a_loop_has_a_loop_of_its_own(make: Make, registry: Registry) -> None:
    seen: list[Any] = []

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None:
        seen.append((number, asyncio.get_running_loop()))

    async def cell() -> None:  # as in a notebook
        with make() as bus:
            await bus.publish("c", 1)
            bus.publish("c", 2).result()
            assert await bus.wait_idle(LONG)
            assert [number for number, _ in seen] == [1, 2]
            assert {loop for _, loop in seen} != {asyncio.get_running_loop()}
            _ = bus.publish("c", 3)

    asyncio.run(cell())
    assert [number for number, _ in seen] == [1, 2, 3]


def test_a_run_ends_by_count(make: Make, registry: Registry) -> None:
    @pubsub_agent(subscribe="a", publish="b", registry=registry)
    async def there(number: int) -> int:
        return number + 1

    @pubsub_agent(subscribe="b", publish="a", registry=registry)
    async def back(number: int) -> int:
        return number + 1

    report = make().run(StartWith("a", 0, count=25))
    assert (report.reason, report.handled) == ("count", 25)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_agents_handle_no_more_than_the_count_however_many_work_at_a_time(
    make: Make, registry: Registry, kind: str
) -> None:
    """A call that fails has handled nothing, so another message is given for it."""
    lock = threading.Lock()
    calls: list[str] = []
    options: dict[str, Any] = {"subscribe": "c", "concurrency": 5, "registry": registry}

    def called(message: Message) -> None:
        with lock:
            calls.append(message.id)
            if len(calls) <= 3:
                raise ValueError("the first ones fail")

    def agent(message: Message) -> None:
        called(message)
        time.sleep(0.005)

    async def agent_too(message: Message) -> None:
        called(message)
        await asyncio.sleep(0.005)

    for name in ("one", "two"):
        pubsub_agent(name=name, **options)(_of(kind, agent, agent_too))

    @pubsub_agent(subscribe="go", registry=registry)
    async def feeds(message: Message, bus: MessageContext) -> None:
        for number in range(20):
            await bus.publish("c", number, key=str(number))

    report = make().run(StartWith("go", count=4, timeout=LONG))
    assert (report.reason, report.handled, report.failed) == ("count", 4, 3)
    assert len(calls) == 3 + 3, "one of those that were handled is what began it"


def test_a_count_waits_for_what_is_due_later(make: Make, registry: Registry) -> None:
    seen: list[int] = []

    @pubsub_agent(subscribe="c", retry=QUICK, registry=registry)
    async def agent(message: Message, bus: MessageContext) -> None:
        if bus.attempt < 3:
            raise ValueError("not yet")
        seen.append(message.payload)

    report = make().run(StartWith("c", 1, count=1, timeout=LONG))
    assert (report.reason, report.handled, report.retried, seen) == ("count", 1, 2, [1])


def test_a_run_ends_by_time_or_by_idle_time(make: Make, registry: Registry) -> None:
    seen = collector(registry, "c")
    report = make().run(Reactive(timeout=0.02))
    assert (report.reason, report.handled) == ("timeout", 0)
    report = make().run(Reactive(idle=0.02))
    assert report.reason == "idle"
    assert report.duration >= 0.02
    report = make().run(Reactive(idle=LONG, timeout=0.02))
    assert report.reason == "timeout"
    assert seen == []


def test_somebody_else_ends_a_run(make: Make, registry: Registry) -> None:
    seen = collector(registry, "c")
    bus = make()

    async def main() -> Any:
        run = asyncio.create_task(bus.run_async())
        while bus._place is None:
            await asyncio.sleep(0.001)
        await bus.publish("c", 1)
        assert await bus.wait_idle(LONG)
        threading.Thread(target=bus.stop, args=("over",)).start()
        return await run

    report = asyncio.run(main())
    assert (report.reason, report.handled) == ("over", 1)
    assert len(seen) == 1
    with pytest.raises(InvalidState):
        bus.publish("c", 2).result()


def test_a_bus_that_runs_is_not_run_and_goes_on(make: Make, registry: Registry) -> None:
    seen = collector(registry, "c")

    async def inside(bus: PubSubExecutor) -> None:
        async with bus:
            with pytest.raises(InvalidState, match="runs already"):
                bus.run(Reactive(timeout=0.0))
            with pytest.raises(InvalidState, match="runs already"):
                await bus.run_async(Reactive(timeout=0.0))
            await bus.publish("c", 2)

    bus = make()
    with bus:
        with pytest.raises(InvalidState, match="runs already"):
            bus.run(Reactive(timeout=0.0))
        with pytest.raises(InvalidState, match="runs already"):
            asyncio.run(bus.run_async(Reactive(timeout=0.0)))
        bus.publish("c", 1).result()
    asyncio.run(inside(bus))
    assert [each.payload for each in seen] == [1, 2]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_agent_that_runs_its_own_bus_is_told(make: Make, registry: Registry, kind: str) -> None:
    """It would wait for the end of its own call, for ever."""
    bus = make()

    def runs(number: int) -> None:
        bus.run(Reactive(timeout=0.0))

    async def runs_too(number: int) -> None:
        bus.run(Reactive(timeout=0.0))

    bus.register(pubsub_agent(subscribe="c", registry=registry)(_of(kind, runs, runs_too)))
    (letter,) = bus.run(StartWith("c", 1, timeout=LONG)).dead_letters
    assert letter.error.startswith("InvalidState: the bus runs already")


def test_a_report_tells_of_failures(make: Make, registry: Registry) -> None:
    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(message: Message) -> None:
        raise ValueError("no")

    report = make().run(StartWith("c", 1, id="m1"))
    assert not report.success
    assert (report.failed, report.dead, report.handled) == (1, 1, 0)
    (letter,) = report.dead_letters
    assert (letter.agent, letter.message.id) == ("agent", "m1")
    with pytest.raises(ExecutionError, match=r"'agent' failed on message 'm1'.*ValueError: no"):
        report.raise_for_failure()


def test_a_bad_first_message_ends_a_run(make: Make, registry: Registry) -> None:
    bus = make()
    bus.channel("c", int)
    with pytest.raises(MessageValidationError):
        bus.run(StartWith("c", "text"))
    assert bus.run(StartWith("c", 1)).reason == "idle"


def test_a_message_tells_what_it_comes_from(make: Make, registry: Registry) -> None:
    seen = collector(registry, "out.*")

    @pubsub_agent(subscribe="in", registry=registry)
    async def agent(message: Message, bus: MessageContext) -> None:
        await bus.publish("out.a", 1)
        await bus.publish("out.b", 2, task_id="other", key="k")
        assert bus.agent == "agent"
        assert bus.message is message

    with make() as bus:
        first = bus.publish("in", task_id="t1").result()
        idle(bus)
    assert [(each.task_id, each.cause, each.source, each.key) for each in seen] == [
        ("t1", first.id, "agent", ""),
        ("other", first.id, "agent", "k"),
    ]


def test_a_message_can_be_published_again_elsewhere(make: Make, registry: Registry) -> None:
    seen = collector(registry, "b")

    @pubsub_agent(subscribe="a", registry=registry)
    async def nothing(message: Message) -> None: ...

    with make() as bus:
        first = bus.publish("a", [1], key="k", task_id="t").result()
        bus.publish("b", first).result()
        idle(bus)
    (again,) = seen
    assert (again.payload, again.key, again.task_id) == ([1], "k", "t")
    assert again.id != first.id


def test_a_call_that_is_over_publishes_nothing(make: Make, registry: Registry) -> None:
    kept: list[MessageContext] = []

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(message: Message, bus: MessageContext) -> None:
        kept.append(bus)

    with make() as bus:
        bus.publish("c").result()
        idle(bus)
        with pytest.raises(InvalidState, match="is over"):
            kept[0].publish("d").result()


def test_threads_publish_side_by_side(make: Make, registry: Registry) -> None:
    seen = collector(registry, "c")

    def publish(bus: PubSubExecutor, name: str) -> None:
        for number in range(50):
            bus.publish("c", number, key=name).result()

    with make(capacity=7) as bus:
        threads = [
            threading.Thread(target=publish, args=(bus, name)) for name in ("a", "b", "c", "d")
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        idle(bus)
    for name in ("a", "b", "c", "d"):
        assert [each.payload for each in seen if each.key == name] == list(range(50))
    assert len({each.id for each in seen}) == 200


def test_what_waits_is_published_all_the_same(make: Make, registry: Registry) -> None:
    seen = collector(registry, "c")

    async def main() -> None:
        async with make(capacity=3) as bus:
            waiting = [bus.publish("c", number) for number in range(50)]
            assert [(await each).payload for each in waiting] == list(range(50))
            for number in range(50, 60):
                _ = bus.publish("c", number)
            assert await bus.wait_idle(LONG)

    asyncio.run(main())
    assert [each.payload for each in seen] == list(range(60))
    with make() as bus:
        pending = [bus.publish("c", number, wait=False) for number in range(60, 90)]
        assert [each.result().payload for each in pending] == list(range(60, 90))
        assert repr(pending[0]).endswith("published>")
    assert [each.payload for each in seen] == list(range(90))


def test_who_leaves_by_an_error_does_not_wait_for_what_is_left(
    make: Make, registry: Registry
) -> None:
    go = threading.Event()

    @pubsub_agent(subscribe="c", registry=registry)
    async def slow(message: Message) -> None:
        while not go.is_set():
            await asyncio.sleep(0.001)

    bus = make(grace=0.05)
    begun = time.monotonic()

    def leave() -> None:
        with bus:
            bus.publish("c").result()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave()
    assert time.monotonic() - begun < LONG / 2
    assert bus._place is None


def test_a_message_that_was_there_already_is_not_counted_as_published(make: Make) -> None:
    with make() as bus:
        for _ in range(3):
            bus.publish("c", 1, id="one").result()
        bus.publish("c", 2).result()
        assert bus.channels["c"].published == 2
