"""What holds in a database only: messages outlive processes, and come at least once."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from dagger_dsl import Registry, RetryPolicy
from dagger_dsl.errors import (
    AgentNotFound,
    ConfigurationError,
    EncodingError,
    IdempotencyConflict,
    InvalidState,
    LimitExceeded,
    MessageTooLarge,
    MessageValidationError,
    StoreBusy,
    StoreError,
)
from dagger_dsl.model.values import Secret
from dagger_dsl.pubsub import (
    Message,
    MessageContext,
    PubSubConfig,
    PubSubExecutor,
    StartWith,
    pubsub_agent,
)
from dagger_dsl.store.messages import MessageRows
from dagger_dsl.store.storage import Store
from tests.store.helpers import child, kill, line

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def registry() -> Registry:
    return Registry()


def bus_of(registry: Registry, path: object, **options: Any) -> PubSubExecutor:
    return PubSubExecutor(
        config=PubSubConfig(**options), registry=registry, database_url=f"sqlite:{path}"
    )


def collector(
    registry: Registry, channel: str = "c", name: str = "agent", **options: Any
) -> list[Any]:
    seen: list[Any] = []

    @pubsub_agent(name=name, subscribe=channel, registry=registry, **options)
    async def collect(message: Message) -> None:
        seen.append(message.payload)

    return seen


def idle(bus: PubSubExecutor) -> None:
    assert bus.wait_idle(LONG).result()


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_messages_wait_for_an_agent_that_was_there_once(path: Path, registry: Registry) -> None:
    seen = collector(registry)
    with bus_of(Registry(), path) as bus:
        bus.publish("c", "before").result()
    with bus_of(registry, path) as bus:
        bus.publish("c", 1).result()
    with bus_of(Registry(), path) as bus:
        for number in (2, 3):
            bus.publish("c", number).result()
    assert seen == [1], "what was published before it was there is not for it"
    with bus_of(registry, path) as bus:
        idle(bus)
    assert seen == [1, 2, 3]
    with bus_of(registry, path) as bus:
        idle(bus)
    assert seen == [1, 2, 3], "what was acknowledged does not come again"


def test_an_agent_that_is_taken_out_finds_its_messages_unless_it_was_forgotten(
    path: Path, registry: Registry
) -> None:
    seen = collector(registry)
    with bus_of(registry, path) as bus:
        bus.unregister("agent")
        bus.publish("c", 1).result()
        bus.register("agent")
        idle(bus)
        assert seen == [1]
        bus.unregister("agent", forget=True)
        until(lambda: not subscriptions(path))
        bus.publish("c", 2).result()
        bus.register("agent")
        bus.publish("c", 3).result()
        idle(bus)
    assert seen == [1, 3]


def subscriptions(path: Path) -> list[Any]:
    with Store(path) as store:
        return MessageRows(store.database, store._payloads).subscriptions()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_a_call_publishes_goes_out_when_it_succeeds_and_not_before(
    path: Path, registry: Registry, kind: str
) -> None:
    seen = collector(registry, "out", "collector")
    calls = []

    def work(number: int, bus: MessageContext) -> None:
        calls.append(number)
        published = bus.publish("out", (number, bus.attempt))
        assert published.is_done
        if bus.attempt < 3:
            raise ConnectionError

    retry = RetryPolicy(max_attempts=3, base_delay=0.001)
    options: dict[str, Any] = {
        "name": "agent",
        "subscribe": "in",
        "retry": retry,
        "registry": registry,
    }
    if kind == "sync":
        pubsub_agent(**options)(work)
    else:

        @pubsub_agent(**options)
        async def agent(number: int, bus: MessageContext) -> None:
            work(number, bus)

    with bus_of(registry, path) as bus:
        for number in range(5):
            bus.publish("in", number).result()
        idle(bus)
    assert seen == [(number, 3) for number in range(5)]
    assert calls == [n for n in range(5) for _ in range(3)]


def test_a_retry_waits_in_the_database(path: Path, registry: Registry) -> None:
    first = Registry()

    @pubsub_agent(
        name="agent",
        subscribe="c",
        retry=RetryPolicy(max_attempts=5, base_delay=1e6),
        registry=first,
    )
    async def fails(message: Message) -> None:
        raise ConnectionError("down")

    with bus_of(first, path, grace=LONG) as bus:
        bus.publish("c", 1).result()
        until(lambda: bus.agents["agent"].failed)
        begun = time.monotonic()
    assert time.monotonic() - begun < LONG / 2, "what is due later is not waited for"
    with Store(path) as store, store.writing() as connection:
        rows = connection.exec_driver_sql(
            "SELECT state, attempt, error, due_at FROM deliveries"
        ).fetchall()
        assert rows[0][:3] == ("retry", 1, "ConnectionError: down")
        assert rows[0][3] > time.time() + 1e5
        connection.exec_driver_sql("UPDATE deliveries SET due_at = 1")
    attempts = []

    @pubsub_agent(name="agent", subscribe="c", registry=registry)
    async def works(message: Message, bus: MessageContext) -> None:
        attempts.append(bus.attempt)

    with bus_of(registry, path) as bus:
        bus.publish("c", 2).result()
        idle(bus)
    assert attempts == [2, 1]
    with Store(path) as store:
        assert store.query("SELECT count(*) AS n FROM deliveries") == [{"n": 0}]


def test_a_second_bus_stands_by_and_takes_over(
    path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    other = Registry()
    seen, later = collector(registry), collector(other)
    with bus_of(other, path) as second:
        second.unregister("agent", forget=True)
        until(lambda: not subscriptions(path))
        with bus_of(registry, path) as first:
            second.register("agent")
            for number in range(50):
                second.publish("c", number).result()
            until(lambda: len(seen) == 50)
            idle(first)
            assert later == []
        second.publish("c", 50).result()
        until(lambda: later)
        idle(second)
    assert (seen, later) == (list(range(50)), [50])


def test_agents_of_several_buses_on_one_database(path: Path) -> None:
    one, two = Registry(), Registry()
    seen = collector(one, "**", "all")

    @pubsub_agent(subscribe="n", publish="doubled", registry=two)
    def double(number: int) -> int:
        return 2 * number

    with bus_of(one, path) as first, bus_of(two, path) as second:
        for number in range(20):
            first.publish("n", number).result()
        until(lambda: len(seen) == 40)
        idle(second)
        assert first.agents["all"].handled == 40
    assert sorted(seen) == sorted([*range(20), *range(0, 40, 2)])


CHILD = """
    from dagger_dsl.pubsub import *
    from dagger_dsl import Registry
    registry = Registry()

    @pubsub_agent(subscribe="in", publish="out", registry=registry)
    def agent(number: int) -> int:
        print(number, flush=True)
        if number == int(sys.argv[2]):
            time.sleep(600)
        return number * 10

    with PubSubExecutor(registry=registry, database_url=sys.argv[1]) as bus:
        print("ready", flush=True)
        time.sleep(600)
"""


def test_messages_of_a_killed_process_come_to_another_one_soon(
    path: Path, registry: Registry
) -> None:
    seen = collector(registry, "out", "collector")
    given = []

    @pubsub_agent(subscribe="in", publish="out", registry=registry)
    def agent(number: int) -> int:
        given.append(number)
        return number * 10

    process = child(CHILD, path, 3)
    assert line(process) == "ready"
    with bus_of(registry, path) as bus:
        for number in range(6):
            bus.publish("in", number).result()
        assert [int(line(process)) for _ in range(4)] == [0, 1, 2, 3]
        until(lambda: len(seen) == 3)
        assert given == []
        begun = time.monotonic()
        kill(process)
        until(lambda: given)
        assert time.monotonic() - begun < 10.0, "2 s, on a machine with nothing else to do"
        idle(bus)
    assert given == [3, 4, 5], "what was acknowledged does not come again"
    assert seen == [0, 10, 20, 30, 40, 50]


def test_a_bus_that_lost_its_agent_to_another_one_records_nothing(
    path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()
    calls = []

    @pubsub_agent(subscribe="in", publish="out", registry=registry)
    def agent(number: int) -> int:
        calls.append(number)
        go.wait(LONG)
        return number

    out = collector(registry, "out", "collector")
    with bus_of(registry, path) as bus:
        bus.publish("in", 1).result()
        until(lambda: calls)
        with Store(path) as store:
            rows = MessageRows(store.database, store._payloads)
            taken = rows.claim("agent", ["in"], "elsewhere", lambda owner, beats: True)
            assert taken is not None
            assert taken.position == 0
        go.set()
        until(lambda: "another process has taken agent 'agent' over" in caplog.text)
        bus.publish("in", 2).result()
        idle(bus)
    assert out == []
    assert calls == [1]


def test_large_payloads_come_back(path: Path, registry: Registry) -> None:
    seen = collector(registry)
    text = "x" * 100_000
    with bus_of(registry, path) as bus:
        bus.publish("c", {"text": text}).result()
        idle(bus)
    assert seen == [{"text": text}]
    assert list(path.parent.glob("bus.db-artifacts/*/*"))


def test_what_cannot_be_stored_is_refused_at_once(path: Path, registry: Registry) -> None:
    seen = collector(registry)
    with bus_of(registry, path, max_message_bytes=1_000) as bus:
        for payload, error in [
            (object(), EncodingError),
            ({"key": Secret("s3cret")}, EncodingError),
            ("x" * 1_000, MessageTooLarge),
        ]:
            with pytest.raises(error) as caught:
                bus.publish("c", payload).result()
            assert "s3cret" not in str(caught.value)
        idle(bus)
    assert seen == []


@attrs.frozen
class Order:
    price: int


@attrs.frozen
class Bill:
    total: int


@attrs.frozen
class Note:
    text: str


def test_the_types_that_agents_and_channels_name_can_be_stored(
    path: Path, registry: Registry
) -> None:
    seen: list[Any] = []

    @pubsub_agent(subscribe="orders", publish="bills", registry=registry)
    def bill(order: Order) -> Bill:
        return Bill(order.price * 2)

    @pubsub_agent(subscribe="*", registry=registry)
    def note(message: Message) -> None:
        seen.append(message.payload)

    bus = bus_of(registry, path)
    bus.channel("notes", schema=Note)
    with bus:
        bus.publish("orders", Order(5)).result()
        bus.publish("notes", Note("n")).result()
        assert bus.wait_idle(LONG).result()
    assert sorted(seen, key=repr) == [Bill(10), Note("n"), Order(5)]


def test_the_refusal_of_a_type_tells_of_agents_too(path: Path, registry: Registry) -> None:
    @attrs.frozen
    class Unknown:
        x: int

    with (
        bus_of(registry, path) as bus,
        pytest.raises(EncodingError, match="annotations of the action or the agent"),
    ):
        bus.publish("c", Unknown(1)).result()


def test_a_call_may_not_publish_without_end(path: Path, registry: Registry) -> None:
    seen = collector(registry, "out", "collector")

    @pubsub_agent(subscribe="in", registry=registry)
    async def agent(count: int, bus: MessageContext) -> None:
        for number in range(count):
            await bus.publish("out", number)

    with bus_of(registry, path, max_publications=10) as bus:
        bus.publish("in", 11).result()
        bus.publish("in", 10).result()
        idle(bus)
        (letter,) = bus.dead_letters()
    assert letter.error.startswith(LimitExceeded.__name__)
    assert seen == list(range(10))


def test_an_id_is_published_once_whoever_publishes_it(path: Path, registry: Registry) -> None:
    seen = collector(registry, "out", "collector")

    @pubsub_agent(subscribe="in", registry=registry)
    async def agent(message: Message, bus: MessageContext) -> None:
        await bus.publish("out", "first")
        await bus.publish("out", message.payload, id="the one")

    with bus_of(registry, path) as bus:
        for payload in ("a", "a", "b"):
            bus.publish("in", payload).result()
        idle(bus)
        (letter,) = bus.dead_letters()
        stats = bus.agents["agent"]
    assert seen == ["first", "a", "first"], "what a call publishes is published whole or not"
    assert letter.message.payload == "b"
    assert IdempotencyConflict.__name__ in letter.error
    assert (stats.handled, stats.failed, stats.dead) == (2, 1, 1)
    with bus_of(Registry(), path) as bus:
        bus.publish("out", "a", id="the one").result()
        with pytest.raises(IdempotencyConflict):
            bus.publish("out", "b", id="the one").result()


def test_what_others_published_is_checked_when_it_comes(path: Path, registry: Registry) -> None:
    seen: list[int] = []

    @pubsub_agent(subscribe="c", retry=5, registry=registry)
    async def agent(number: int) -> None:
        seen.append(number)

    with bus_of(registry, path) as bus, bus_of(Registry(), path) as other:
        with pytest.raises(MessageValidationError):
            bus.publish("c", "text").result()
        other.publish("c", "text").result()
        other.publish("c", 7).result()
        until(lambda: seen)
        idle(bus)
        (letter,) = bus.dead_letters()
        assert "parameter 'number' of agent 'agent'" in letter.error
        assert bus.agents["agent"].retried == 0
    assert seen == [7]


def test_what_others_published_has_to_fit_its_channel(path: Path, registry: Registry) -> None:
    seen = collector(registry, "*", retry=5)
    with bus_of(registry, path) as bus, bus_of(Registry(), path) as other:
        bus.channel("c", schema=int)
        other.publish("c", "text").result()
        other.publish("d", "text").result()
        other.publish("c", 7).result()
        until(lambda: len(seen) == 2)
        idle(bus)
        (letter,) = bus.dead_letters()
        assert letter.message.payload == "text"
        assert "the schema of channel 'c': " in letter.error
        assert letter.attempts == 1
    assert seen == ["text", 7]


def test_a_message_that_cannot_be_read_is_given_up_and_holds_nothing_up(
    path: Path, registry: Registry
) -> None:
    seen = collector(registry)
    with bus_of(registry, path):
        pass
    with bus_of(Registry(), path) as other:
        for number in range(3):
            other.publish("c", number).result()
    with Store(path) as store, store.writing() as connection:
        connection.exec_driver_sql("UPDATE messages SET payload = x'ff' WHERE message_id = 2")
    with bus_of(registry, path) as bus:
        idle(bus)
        (letter,) = bus.dead_letters("agent")
        assert letter.error.startswith("DecodingError")
        assert bus.agents["agent"].dead == 1
        with Store(path) as store, store.writing() as connection:
            connection.exec_driver_sql("UPDATE messages SET payload = x'31' WHERE message_id = 2")
        assert bus.replay() == 1
        idle(bus)
    assert seen == [0, 2, 1]


def test_a_replay_in_another_process_reaches_the_agent(path: Path, registry: Registry) -> None:
    broken = True
    seen = []

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int) -> None:
        if broken:
            raise ValueError
        seen.append(number)

    with bus_of(registry, path) as bus:
        bus.publish("c", 1).result()
        idle(bus)
        broken = False
        with bus_of(Registry(), path) as other:
            assert [each.agent for each in other.dead_letters()] == ["agent"]
            assert other.replay() == 1
        until(lambda: seen)
    assert seen == [1]


def test_trouble_with_the_database_is_no_result(
    path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    seen = collector(registry, "out", "collector")
    calls = []
    go = threading.Event()

    @pubsub_agent(subscribe="in", publish="out", registry=registry)
    def agent(number: int) -> int:
        calls.append(number)
        go.wait(LONG)
        return number

    with bus_of(registry, f"{path}?busy_timeout=20") as bus:
        bus.publish("in", 1).result()
        until(lambda: calls)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        go.set()
        until(lambda: "cannot be recorded now" in caplog.text)
        with pytest.raises(StoreBusy):
            bus.publish("in", 2).result()
        other.execute("ROLLBACK")
        other.close()
        idle(bus)
    assert (calls, seen) == ([1], [1])


def test_a_database_that_cannot_be_opened_is_told(tmp_path: Path, registry: Registry) -> None:
    collector(registry)
    bus = bus_of(registry, tmp_path / "nowhere" / "bus.db")
    with pytest.raises(ConfigurationError, match="does not exist"), bus:
        pass
    (tmp_path / "nowhere").mkdir()
    with bus:
        bus.publish("c", 1).result()


def test_a_database_in_memory_serves_one_bus(registry: Registry) -> None:
    seen = collector(registry)
    bus = PubSubExecutor(registry=registry, database_url="sqlite::memory:")
    assert bus.run(StartWith("c", 1)).success
    assert seen == [1]


def test_many_publications_share_commits(path: Path, registry: Registry) -> None:
    seen = collector(registry)

    async def main() -> None:
        async with bus_of(registry, path) as bus:
            for each in [bus.publish("c", number) for number in range(2_000)]:
                await each
            assert await bus.wait_idle(LONG)

    asyncio.run(main())
    assert seen == list(range(2_000))


def test_more_messages_than_a_process_holds_come_in_order(path: Path, registry: Registry) -> None:
    seen = collector(registry, concurrency=3)
    with bus_of(registry, path):
        pass
    with bus_of(Registry(), path) as other:
        sent = [other.publish("c", number, wait=False) for number in range(300)]
        for each in sent:
            each.result()
    with bus_of(registry, path, capacity=7) as bus:
        idle(bus)
    assert seen == list(range(300))


def test_what_all_are_done_with_is_removed_after_a_time(path: Path, registry: Registry) -> None:
    seen = collector(registry)
    with bus_of(registry, path) as bus:
        for number in range(5):
            bus.publish("c", number).result()
        idle(bus)
    with bus_of(Registry(), path, keep=0) as bus, Store(path) as store:
        until(lambda: store.query("SELECT message_id FROM messages") == [{"message_id": 5}])
        bus.publish("c", 5).result()
    with bus_of(registry, path) as bus:
        idle(bus)
    assert seen == list(range(6))


def test_files_go_with_their_messages(path: Path, registry: Registry) -> None:
    seen = collector(registry)
    with bus_of(registry, path, keep=0) as bus, Store(path) as store:
        for number in range(3):
            bus.publish("c", f"{number}" * 50_000).result()
        bus.publish("c", "small").result()
        idle(bus)
        assert len(seen) == 4
        assert store.files is not None
        files = store.files
    with bus_of(registry, path, keep=0), Store(path) as store:
        until(lambda: not list(files.ids()))
        assert store.query("SELECT * FROM artifacts") == []


def test_an_agent_that_another_process_has_is_not_forgotten(path: Path, registry: Registry) -> None:
    other = Registry()
    collector(registry)
    collector(other)
    with bus_of(registry, path) as first:
        idle(first)
        with bus_of(other, path) as second, bus_of(Registry(), path) as third:
            for bus in (second, third):
                with pytest.raises(InvalidState, match="agent 'agent' runs in another process"):
                    bus.unregister("agent", forget=True)
            assert list(second.agents) == ["agent"], "nothing was changed"
            second.unregister("agent")
            first.publish("c", 1).result()
            idle(first)
    assert len(subscriptions(path)) == 1
    with pytest.raises(InvalidState, match="the bus does not run"):
        first.unregister("agent", forget=True)
    with bus_of(Registry(), path) as bus:
        with pytest.raises(AgentNotFound):
            bus.unregister("agent")
        bus.unregister("agent", forget=True)
        with pytest.raises(AgentNotFound):
            bus.unregister("agent", forget=True)
    assert subscriptions(path) == []


POISON = """
    from dagger_dsl.pubsub import *
    from dagger_dsl import Registry
    registry = Registry()

    @pubsub_agent(subscribe="c", registry=registry)
    {kind} agent(number: int) -> None:
        print(number, flush=True)
        if number == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    with PubSubExecutor(registry=registry, database_url=sys.argv[1]) as bus:
        bus.wait_idle(60.0).result()
        print("idle", flush=True)
"""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_message_that_kills_its_process_is_given_up_in_the_end(
    path: Path, registry: Registry, kind: str
) -> None:
    collector(registry)
    with bus_of(registry, path):
        pass
    with bus_of(Registry(), path) as other:
        for number in range(12):
            other.publish("c", number).result()
    given: list[str] = []
    deaths = 0
    while not given or given[-1] != "idle":
        process = child(POISON.format(kind=kind), path)
        words = process.communicate()[0].split()
        given += words
        deaths += process.returncode == -9
        assert deaths < 10
    assert deaths == 4, "three were recorded, and the first one could not be known"
    assert given.count("7") == 4
    counts = {word: given.count(word) for word in given}
    assert set(counts) == {*map(str, range(12)), "idle"}
    assert all(counts[str(number)] == 1 for number in range(8, 12))
    with bus_of(Registry(), path) as bus:
        (letter,) = bus.dead_letters()
        assert letter.message.payload == 7
        assert letter.error == "3 processes died while they handled it"
        assert bus.discard() == 1


@pytest.mark.parametrize("later", [False, True])
def test_after_a_death_what_failed_before_is_given_with_care_too(
    path: Path, registry: Registry, later: bool
) -> None:
    seen: list[tuple[int, int]] = []

    @pubsub_agent(subscribe="c", registry=registry)
    async def agent(number: int, bus: MessageContext) -> None:
        with Store(path) as store:
            rows = store.query(
                "SELECT deaths FROM deliveries WHERE state = 'retry' AND due_at < 1e12"
            )
        seen.append((number, bus.attempt))
        assert [each["deaths"] for each in rows] == [1 + (number == 2)]

    with bus_of(registry, path):
        pass
    with bus_of(Registry(), path) as other:
        for number in range(1, 5):
            other.publish("c", number).result()
    with Store(path) as store, store.writing() as connection:
        connection.exec_driver_sql("UPDATE subscriptions SET owner = 'x@nowhere', position = 2")
        connection.exec_driver_sql(
            "INSERT INTO deliveries (subscription, message_id, state, attempt, due_at, deaths) "
            "VALUES ('agent', 2, 'retry', 3, 1.0, 1), ('agent', 1, 'dead', 1, NULL, 0)"
        )
        if later:  # it waits for long, and holds up its key, which nothing else has
            connection.exec_driver_sql(
                "INSERT INTO messages (channel, message_key, payload) VALUES ('c', 'k', x'39')"
            )
            connection.exec_driver_sql(
                "INSERT INTO deliveries (subscription, message_id, state, attempt, due_at) "
                "VALUES ('agent', 5, 'retry', 1, 1e12)"
            )
    with bus_of(registry, path, lease=0.01) as bus:
        until(lambda: len(seen) == 3)
        until(lambda: bus.agents["agent"].handled == 3)
        if not later:
            idle(bus)
        assert [each.message.payload for each in bus.dead_letters()] == [1]
        with Store(path) as store:
            query = "SELECT state FROM deliveries WHERE message_id < 5"
            until(lambda: store.query(query) == [{"state": "dead"}])
        time.sleep(0.1 if later else 0)  # it has caught up
        bus.publish("c", 5).result()
        until(lambda: len(seen) == 4)
        until(lambda: bus.agents["agent"].dead or bus.agents["agent"].handled == 4)
        assert bus.agents["agent"].dead == 1, "once it has caught up, it is given them as ever"
    assert seen == [(2, 4), (3, 1), (4, 1), (5, 1)]


INTERRUPTED = """
    from dagger_dsl.pubsub import *
    from dagger_dsl import Registry
    registry = Registry()

    @pubsub_agent(subscribe="c", registry=registry)
    {kind} agent(number: int) -> None:
        print(number, flush=True)
        if number == 3:
            {wait}
            print("not awaited", flush=True)

    try:
        config = PubSubConfig(grace=0.1)
        PubSubExecutor(config=config, registry=registry, database_url=sys.argv[1]).run()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("kind", "wait"),
    [("def", "time.sleep(600)"), ("async def", "import asyncio; await asyncio.sleep(600)")],
)
def test_an_interrupted_run_records_what_was_handled(
    path: Path, registry: Registry, kind: str, wait: str
) -> None:
    seen = collector(registry)
    with bus_of(registry, path):
        pass
    with bus_of(Registry(), path) as other:
        for number in range(5):
            other.publish("c", number).result()
    process = child(INTERRUPTED.format(kind=kind, wait=wait), path)
    assert [line(process) for _ in range(4)] == ["0", "1", "2", "3"]
    process.send_signal(signal.SIGINT)
    assert process.communicate()[0].split() == ["interrupted"]
    assert process.returncode == 0
    with bus_of(registry, path) as bus:
        idle(bus)
    assert seen == [3, 4]


@pytest.mark.parametrize("died", [False, True])
def test_trouble_with_a_file_holds_messages_up_and_loses_none(
    path: Path,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    died: bool,
) -> None:
    seen = collector(registry)
    with bus_of(registry, path):
        pass
    with bus_of(Registry(), path) as other:
        for number in range(1, 7):
            other.publish("c", number).result()
    with Store(path) as store, store.writing() as connection:
        if died:
            connection.exec_driver_sql("UPDATE subscriptions SET owner = 'x@nowhere'")
        connection.exec_driver_sql(
            "INSERT INTO deliveries (subscription, message_id, state, attempt, due_at) "
            "VALUES ('agent', 1, 'retry', 1, 0), ('agent', 2, 'retry', 1, 0)"
        )
        connection.exec_driver_sql("UPDATE subscriptions SET position = 2")
    read, calls = MessageRows.message, iter(range(1_000))

    def flaky(rows: MessageRows, stored: Any) -> Message:
        if next(calls) in (1, 4, 7):
            raise StoreError("the disk is away")
        return read(rows, stored)

    monkeypatch.setattr(MessageRows, "message", flaky)
    with bus_of(registry, path, lease=0.01) as bus:
        until(lambda: len(seen) == 6)
        idle(bus)
        assert bus.agents["agent"].dead == 0
    assert sorted(seen) == [1, 2, 3, 4, 5, 6]
    assert seen[2:] == [3, 4, 5, 6]
    assert "the disk is away" in caplog.text
    with Store(path) as store:
        assert store.query("SELECT * FROM deliveries") == []


@pytest.mark.parametrize("channels", [["c"], ["c", "d"], "*", [f"c{n}" for n in range(30)] + ["c"]])
def test_messages_of_other_channels_hold_nobody_up(
    path: Path, registry: Registry, channels: Any
) -> None:
    seen = collector(registry, channels)
    with bus_of(registry, path):
        pass
    with bus_of(Registry(), path) as other:
        for number in range(900):
            last = other.publish("c" if number % 300 == 299 else "other.one", number, wait=False)
        last.result()
    with bus_of(registry, path, capacity=10) as bus:
        idle(bus)
        bus.publish("c", "late").result()
        idle(bus)
    assert seen == [299, 599, 899, "late"]
    assert [each.lag for each in subscriptions(path)] == [0]


def test_messages_of_other_channels_are_not_read(
    path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    scan = MessageRows.scan

    def spy(self: MessageRows, *arguments: Any) -> Any:
        found = scan(self, *arguments)
        read.extend(each.head.channel for each in found[0])
        return found

    monkeypatch.setattr(MessageRows, "scan", spy)
    seen = collector(registry, "c")
    with bus_of(registry, path) as bus:
        for _ in range(50):
            bus.publish("other", 1).result()
        bus.publish("c", 2).result()
        idle(bus)
    assert (seen, read) == ([2], ["c"])


def test_what_waits_for_its_time_is_read_once(
    path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = RetryPolicy(max_attempts=2, backoff="fixed", base_delay=1_000.0)

    @pubsub_agent(subscribe="c", retry=later, registry=registry)
    async def agent(number: int) -> None:
        raise ValueError

    with bus_of(registry, path) as bus:
        for number in range(5):
            bus.publish("c", number, key=str(number)).result()
        until(lambda: bus.agents["agent"].failed == 5)
    decoded: list[int] = []
    message = MessageRows.message

    def spy(self: MessageRows, row: Any) -> Message:
        decoded.append(row.head.number)
        return message(self, row)

    looks: list[str] = []
    retries = MessageRows.retries

    def spy_on_looks(self: MessageRows, name: str) -> Any:
        looks.append(name)
        found = retries(self, name)
        assert all(isinstance(each.number, int) for each in found), "no payload is read again"
        return found

    monkeypatch.setattr(MessageRows, "message", spy)
    monkeypatch.setattr(MessageRows, "retries", spy_on_looks)
    with bus_of(registry, path) as bus:
        until(lambda: len(looks) >= 3)
        assert bus.agents["agent"].waiting == 5
        bus.stop()
    assert decoded == [1, 2, 3, 4, 5]


def test_what_a_refused_publication_takes_back_is_counted(path: Path, registry: Registry) -> None:
    @pubsub_agent(subscribe="c", publish="d", registry=registry)
    async def agent(number: int, bus: MessageContext) -> None:
        await bus.publish("d", number, id="taken")

    with bus_of(registry, path) as bus:
        for number in range(3):
            bus.publish("c", number).result()
        until(lambda: bus.agents["agent"].dead == 2)
        idle(bus)
        stats = bus.agents["agent"]
    assert (stats.handled, stats.failed, stats.dead) == (1, 2, 2)
