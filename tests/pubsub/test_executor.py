"""What a bus is made of: agents that come, go and are replaced, and what is said of channels."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, Registry
from dagger_dsl.errors import DaggerError, LimitExceeded, MessageValidationError, StoreBusy
from dagger_dsl.pubsub import PubSubAgentDef, PubSubExecutor, pubsub_agent
from dagger_dsl.pubsub.durable import DurablePlace
from dagger_dsl.pubsub.memory import MemoryPlace
from dagger_dsl.store.storage import Store

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0

Make = Callable[..., PubSubExecutor]


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def idle(bus: PubSubExecutor) -> None:
    assert bus.wait_idle(LONG).result()


@pytest.mark.parametrize("trouble", ["limit", "place"])
def test_an_agent_whose_replacement_fails_goes_on(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    seen: list[int] = []

    @pubsub_agent(name="agent", subscribe="a", registry=registry)
    def agent(number: int) -> None:
        seen.append(number)

    def busy(*_: object) -> None:
        raise StoreBusy("somebody writes")

    other = PubSubAgentDef("agent", lambda message: None, ("a", "b", "c"))
    with make(max_channels=2) as bus:
        channels = dict(bus.channels)
        with monkeypatch.context() as patch:
            if trouble == "place":
                other = PubSubAgentDef("agent", lambda message: None, ("a",))
                patch.setattr(MemoryPlace, "join", busy)
                patch.setattr(DurablePlace, "join", busy)
            error: type[DaggerError] = LimitExceeded if trouble == "limit" else StoreBusy
            with pytest.raises(error):
                bus.register(other, replace=True)
        assert bus.channels == channels
        bus.publish("a", 1).result()
        idle(bus)
        assert bus.agents["agent"].handled == 1
    with bus:
        bus.publish("a", 2).result()
        idle(bus)
    assert seen == [1, 2]


def test_what_is_said_of_a_channel_holds_until_something_else_is_said(make: Make) -> None:
    def refused(bus: PubSubExecutor) -> bool:
        try:
            bus.publish("c", "text").result()
        except MessageValidationError:
            return True
        return False

    bus = make()
    bus.channel("c", schema=int)
    with bus:
        assert refused(bus)
        bus.channel("c", capacity=7)
        assert refused(bus)
    with bus:
        assert refused(bus)
        assert bus._channels["c"].capacity == 7
        bus.channel("c", schema={})
        assert not refused(bus)
    with bus:
        assert not refused(bus)
        assert bus._channels["c"].capacity == 7


def test_an_agent_is_forgotten_although_its_last_call_goes_on(tmp_path: Path) -> None:
    begun, may_end = threading.Event(), threading.Event()
    url = f"sqlite:{tmp_path / 'bus.db'}"

    def agent(number: int) -> None:
        begun.set()
        assert may_end.wait(LONG)

    with PubSubExecutor([], database_url=url) as bus, Store(url) as store:
        bus.register(PubSubAgentDef("agent", agent, ("c",)))
        bus.publish("c", 1).result()
        assert begun.wait(LONG)
        bus.unregister("agent")
        bus.unregister("agent", forget=True)
        may_end.set()
        until(lambda: not store.query("SELECT * FROM subscriptions"))
        bus.publish("c", 2).result()
        begun.clear()
        bus.register(PubSubAgentDef("agent", agent, ("c",)))
        idle(bus)
        assert not begun.is_set(), "it begins anew"


def test_who_is_forgotten_while_it_is_given_away_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:{tmp_path / 'bus.db'}"
    with PubSubExecutor([], database_url=url) as bus, Store(url) as store:
        place: Any = bus._place
        release, forgotten = place.rows.release, threading.Event()

        def forgets(*arguments: Any, **options: Any) -> None:
            release(*arguments, **options)
            if not forgotten.is_set():
                bus.unregister("agent", forget=True)
                forgotten.set()

        monkeypatch.setattr(place.rows, "release", forgets)
        bus.register(PubSubAgentDef("agent", lambda message: None, ("c",)))
        bus.unregister("agent")
        assert forgotten.wait(LONG)
        until(lambda: not store.query("SELECT * FROM subscriptions"))


@pytest.mark.parametrize("way", ["unregister", "replace"])
def test_a_trigger_that_is_taken_out_closes_its_database_after_its_last_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    closed: list[str] = []
    close = Store.close

    def noted(store: Store) -> None:
        closed.append(store.database.where)
        close(store)

    dag = DAG("flow", registry=Registry())

    @dag.node
    def step(x: int) -> int:
        if x:
            begun.set()
            assert may_end.wait(LONG)
        return x

    monkeypatch.setattr(Store, "close", noted)
    with PubSubExecutor([], registry=Registry()) as bus:
        for number in (0, 1):
            url = f"sqlite:{tmp_path / f'runs{number}.db'}"
            bus.trigger(dag, "c", name="runs", database_url=url)
            bus.publish("c", number).result()
            if number:
                assert begun.wait(LONG)
            else:
                idle(bus)
            assert len(closed) == number
            if way == "unregister":
                bus.unregister("runs")
            else:
                other = PubSubAgentDef("runs", lambda message: None, ("other",))
                bus.register(other, replace=True)
                bus.unregister("runs")
            assert len(closed) == 1
        may_end.set()
        until(lambda: len(closed) == 2)
    assert len(closed) == 2


def test_a_report_has_the_letters_of_agents_that_were_taken_out(make: Make) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def agent(number: int) -> None:
        if number == 2:
            begun.set()
            assert may_end.wait(LONG)
        if number == 4:
            bus.stop()
        raise ValueError(number)

    bus = make()
    bus.register(PubSubAgentDef("agent", agent, ("c",)))

    def work() -> None:
        until(lambda: bus._subscriptions)
        bus.publish("c", 1).result()
        bus.publish("c", 2).result()
        assert begun.wait(LONG)
        bus.unregister("agent")
        may_end.set()
        until(lambda: not bus._parting[0].drivers)
        bus.register(PubSubAgentDef("third", agent, ("d",)))
        bus.publish("d", 3).result()
        idle(bus)
        bus.unregister("third")
        bus.register(PubSubAgentDef("fourth", agent, ("d",)))
        bus.publish("d", 4).result()

    thread = threading.Thread(target=work)
    thread.start()
    report = bus.run()
    thread.join()
    assert [each.error for each in report.dead_letters] == [
        f"ValueError: {number}" for number in (1, 2, 3, 4)
    ]
    assert report.dead == 4
    assert report.agents["agent"].dead == 2


@pytest.mark.row("J6")
def test_channels_are_there_that_agents_name(make: Make, registry: Registry) -> None:
    @pubsub_agent(subscribe=["orders", "bills.*"], publish="sums", registry=registry)
    def add(payload: int) -> int:
        return payload

    bus = make()
    bus.channel("bills.eu", schema=int)
    assert {name: each.subscribers for name, each in bus.channels.items()} == {
        "bills.eu": ("add",),
        "orders": ("add",),
        "sums": (),
    }
    with bus:
        assert set(bus.channels) == {"bills.eu", "orders", "sums"}
        bus.publish("orders", 1).result()
        idle(bus)
        assert bus.report.handled == 1
    assert bus.channels["sums"].published == 1
    assert bus.report.agents["add"].handled == 1


def test_who_joins_while_the_desk_looks_is_waited_for(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    @pubsub_agent(subscribe="orders", registry=registry)
    def add(payload: int) -> None:
        pass

    calm: list[float] = []
    look = DurablePlace._look_for_calm

    def joined_first(place: DurablePlace, *arguments: Any) -> None:
        if not calm:
            bus.register("add")
        look(place, *arguments)
        calm.append(place.calm_until())

    monkeypatch.setattr(DurablePlace, "_look_for_calm", joined_first)
    bus = PubSubExecutor([], registry=registry, database_url=f"sqlite:{tmp_path / 'bus.db'}")
    with bus:
        until(lambda: calm)
        assert calm[0] == -math.inf
        idle(bus)


def test_who_is_forgotten_after_being_replaced_is_forgotten_by_both(
    tmp_path: Path, registry: Registry
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(payload: int) -> None:
        begun.set()
        assert go_on.wait(LONG)

    def other(payload: int) -> None:
        pass

    path = tmp_path / "bus.db"
    agents = [PubSubAgentDef("agent", each, ("c",)) for each in (slow, other)]
    with PubSubExecutor([agents[0]], registry=registry, database_url=f"sqlite:{path}") as bus:
        bus.publish("c", 1).result()
        assert begun.wait(LONG)
        bus.register(agents[1], replace=True)
        bus.unregister("agent", forget=True)
        place = bus._place
        assert isinstance(place, DurablePlace)
        until(lambda: len(place._feeds) == 1)  # the second one has left
        go_on.set()
        with Store(path) as store:
            until(lambda: store.query("SELECT * FROM subscriptions") == [])


def test_who_waits_for_the_place_of_another_is_waited_for(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was taken out has not quite ended, although it has nothing to do."""
    ends, seen, calm = threading.Event(), list[int](), list[float]()
    look, see_off = DurablePlace._look_for_calm, DurablePlace._see_off

    def noted(place: DurablePlace, *arguments: Any) -> None:
        look(place, *arguments)
        calm.append(place.calm_until())

    def late(place: DurablePlace, *arguments: Any) -> None:
        if ends.is_set():
            see_off(place, *arguments)

    monkeypatch.setattr(DurablePlace, "_look_for_calm", noted)
    monkeypatch.setattr(DurablePlace, "_see_off", late)
    agent = PubSubAgentDef("agent", seen.append, ("c",))
    url = f"sqlite:{tmp_path / 'bus.db'}"
    with PubSubExecutor([agent], registry=registry, database_url=url) as bus:
        bus.unregister("agent")
        bus.publish("c", 1).result()
        bus.register(agent)
        calm.clear()
        until(lambda: len(calm) >= 3)
        assert set(calm[1:]) == {-math.inf}
        ends.set()
        idle(bus)
        assert seen == [1]
