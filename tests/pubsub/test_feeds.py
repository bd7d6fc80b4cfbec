"""What an agent is given of a database, when, and how far it is said to be."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry, RetryPolicy
from dagger_dsl.errors import StoreError
from dagger_dsl.pubsub import (
    Message,
    MessageContext,
    PubSubConfig,
    PubSubExecutor,
    feeds,
    pubsub_agent,
)
from dagger_dsl.pubsub.progress import Progress
from dagger_dsl.store.message_values import Delivered
from dagger_dsl.store.messages import MessageRows, Settlement
from dagger_dsl.store.storage import Store
from dagger_dsl.store.workers import worker_name

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
    assert 90 < most <= 110


def test_after_a_death_what_is_held_behind_a_key_is_no_suspect(
    path: Path, registry: Registry
) -> None:
    seen: list[str] = []

    @pubsub_agent(name="agent", subscribe="c", retry=LATER, registry=registry)
    async def agent(message: Message) -> None:
        seen.append(message.key)

    with Store(path) as store:
        store.init_database()
        rows = MessageRows(store.database, store._payloads)
        claimed = rows.claim("agent", ["c"], worker_name())  # it dies without a word
        assert claimed is not None
        keys = ["x"] * 40 + ["y", "z"]
        rows.commit("", [rows.encoded(Message("c", key=k, id=f"{n}")) for n, k in enumerate(keys)])
        failed = Delivered(1, "retry", 1, time.time() + 1_000.0, "no", 1.0)
        settlement = Settlement("agent", claimed.epoch, 1, [failed])
        (row,) = store.query("SELECT owner FROM subscriptions")
        assert rows.commit(str(row["owner"]), [], [settlement]).lost == []
        with bus_of(registry, path, capacity=10) as bus:
            until(lambda: len(seen) == 2)
            assert bus.agents["agent"].waiting == 40
        found = store.query("SELECT message_id, deaths FROM deliveries WHERE state = 'retry'")
    assert seen == ["y", "z"]
    assert found == [{"message_id": 1, "deaths": 0}]


def test_so_many_messages_are_handled_before_one_that_takes_long(
    path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_AHEAD", 30)
    go_on, seen = threading.Event(), list[int]()

    @pubsub_agent(subscribe="c", concurrency=2, registry=registry)
    def agent(message: Message) -> None:
        if message.key == "long":
            assert go_on.wait(LONG)
        else:
            seen.append(message.payload)

    with bus_of(registry, path, capacity=10) as bus, Store(path) as store:
        bus.publish("c", -1, key="long").result()
        for number in range(200):
            last = bus.publish("c", number, wait=False)
        last.result()
        until(lambda: len(seen) >= 30)
        for number in range(20):  # the desk looks again with each of them
            bus.publish("other", number).result()
            assert len(seen) <= 50, "so many, and what is on its way to be recorded or given"
        go_on.set()
        assert bus.wait_idle(LONG).result()
        assert store.query("SELECT * FROM deliveries") == []
    assert seen == list(range(200))


def test_who_begins_with_as_many_messages_ahead_as_may_be_goes_on(
    path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_AHEAD", 30)
    seen = list[int]()

    @pubsub_agent(name="agent", subscribe="c", registry=registry)
    async def agent(number: int) -> None:
        seen.append(number)

    with Store(path) as store:
        store.init_database()
        rows = MessageRows(store.database, store._payloads)
        claimed = rows.claim("agent", ["c"], "w")
        assert claimed is not None
        rows.commit("", [rows.encoded(Message("c", n, id=f"{n}")) for n in range(1, 101)])
        done = [Delivered(n, "done") for n in range(2, 42)]
        assert rows.commit("w", [], [Settlement("agent", claimed.epoch, 0, done)]).lost == []
        rows.release(["agent"], "w")
        with bus_of(registry, path, capacity=10) as bus:
            assert bus.wait_idle(LONG).result()
            assert seen == [1, *range(42, 101)]
            assert store.query("SELECT * FROM deliveries") == []


def test_a_commit_does_not_look_at_all_that_was_handled_before_one_in_front() -> None:
    def seconds(ahead: int) -> float:
        """Take so many messages, all but the first one handled; return what one more costs."""
        progress = Progress(0)
        progress.take(range(1, ahead + 1), ahead)
        progress.wrote(progress.plan([Delivered(n, "done") for n in range(2, ahead + 1)]))
        took = []
        for number in range(ahead + 1, ahead + 50):
            progress.take([number], number)
            begin = time.perf_counter()
            progress.wrote(progress.plan([Delivered(number, "done")]))
            took.append(time.perf_counter() - begin)
        assert progress.ahead == ahead + 48
        return min(took)

    assert seconds(100_000) < 20 * seconds(100)


def positions(path: Path) -> dict[str, int]:
    with Store(path) as store:
        rows = MessageRows(store.database, store._payloads)
        return {each.name: each.position for each in rows.subscriptions()}


def test_messages_of_others_are_passed_when_a_bus_closes(path: Path, registry: Registry) -> None:
    @pubsub_agent(name="quiet", subscribe="d", registry=registry)
    @pubsub_agent(name="busy", subscribe="c", registry=registry)
    async def agent(payload: int) -> None:
        pass

    with bus_of(registry, path) as bus:
        for number in range(50):
            _ = bus.publish("c", number, wait=False)
        assert bus.wait_idle(LONG).result()
    assert positions(path) == {"quiet": 50, "busy": 50}


def test_messages_of_others_are_passed_while_nothing_comes(
    path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    @pubsub_agent(name="quiet", subscribe="d", registry=registry)
    async def agent(payload: int) -> None:
        pass

    monkeypatch.setattr(feeds, "_QUIET", 1e9)
    with bus_of(registry, path) as bus:
        bus.publish("c", 1).result()
        until(lambda: bus._calm_until() > 0)
        assert positions(path) == {"quiet": 0}
        monkeypatch.setattr(feeds, "_QUIET", 0.0)
        until(lambda: positions(path) == {"quiet": 1})


def agent_that_is_refused(registry: Registry) -> list[Any]:
    """Register one whose second call publishes under an id that is taken, and what hears of it."""
    told: list[Any] = []

    @pubsub_agent(name="agent", subscribe="c", retry=AT_ONCE, registry=registry)
    async def agent(number: int, bus: MessageContext) -> None:
        if bus.attempt == 1:
            raise ValueError
        await bus.publish("d", number, id="taken")

    @pubsub_agent(name="hears", subscribe="faults", registry=registry)
    async def hears(payload: Any) -> None:
        told.append(payload)

    return told


AT_ONCE = RetryPolicy(max_attempts=2, backoff="fixed", base_delay=0.0)


def test_what_is_given_up_for_a_refused_publication_is_told(path: Path, registry: Registry) -> None:
    told = agent_that_is_refused(registry)
    with bus_of(registry, path, dead_letter_channel="faults") as bus:
        bus.publish("d", 0, id="taken").result()
        bus.publish("c", 1).result()
        assert bus.wait_idle(LONG).result()
        (letter,) = bus.dead_letters("agent")
        assert (letter.message.payload, letter.attempts) == (1, 2)
        assert letter.error.startswith("IdempotencyConflict: ")
    assert [(each["payload"], each["attempts"]) for each in told] == [(1, 2)]
    assert told[0]["error"] == letter.error


def test_a_refused_publication_is_recorded_before_a_bus_is_closed(
    path: Path, registry: Registry
) -> None:
    told = agent_that_is_refused(registry)
    with bus_of(registry, path, dead_letter_channel="faults") as bus:
        bus.publish("d", 0, id="taken").result()
        bus.publish("c", 1).result()
        until(lambda: bus.agents["agent"].handled or bus.agents["agent"].dead)
        bus.close(drain=False)
    with Store(path) as store:
        assert store.query("SELECT state FROM deliveries WHERE subscription = 'agent'") == [
            {"state": "dead"}
        ]
        assert len(store.query("SELECT 1 FROM messages WHERE channel = 'faults'")) == 1
    with bus_of(registry, path) as bus:
        assert bus.wait_idle(LONG).result()
    assert len(told) == 1


def test_what_a_refused_call_was_given_comes_again_where_nobody_recorded_that(
    path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_that_is_refused(registry)
    commit, trouble = MessageRows.commit, threading.Event()

    def fail_after_refusal(self: MessageRows, *arguments: Any) -> Any:
        if trouble.is_set():
            raise StoreError("the disk is gone")
        done = commit(self, *arguments)
        if done.refused:
            trouble.set()
        return done

    monkeypatch.setattr(MessageRows, "commit", fail_after_refusal)
    with bus_of(registry, path) as bus:
        bus.publish("d", 0, id="taken").result()
        bus.publish("c", 1).result()
        assert trouble.wait(LONG)
        with contextlib.suppress(StoreError):  # it may say that it could not record that
            bus.close(drain=False)
    monkeypatch.undo()
    with bus_of(registry, path) as bus:
        assert bus.wait_idle(LONG).result()
        assert [each.message.payload for each in bus.dead_letters("agent")] == [1]
