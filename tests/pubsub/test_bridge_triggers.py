"""Triggers: each message starts one run, and finds it again when it is given again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, FSM, Registry, action
from dagger_dsl.engine import resume
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.errors import (
    AgentAlreadyRegistered,
    ConfigurationError,
    MessageValidationError,
    ValidationError,
)
from dagger_dsl.model.commands import EmitEvent
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.model.policies import RetryStrategy
from dagger_dsl.pubsub import Message, PubSubAgentDef, PubSubExecutor
from dagger_dsl.store.storage import Store

pytestmark = pytest.mark.row("J12")

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0

Make = Callable[..., PubSubExecutor]


class Orders:
    """A flow of two nodes, and what was called.

    Attributes:
        dag: The flow: ``price(item)`` and ``bill``.
        calls: The nodes that were called, with what they were given.
        fails: How often ``bill`` fails first.
    """

    def __init__(self, fails: int = 0) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fails = fails
        self.dag = dag = DAG("orders", registry=Registry())

        @dag.node
        def price(item: str) -> int:
            self.calls.append(("price", item))
            return len(item)

        @dag.node
        def bill(price: int) -> dict[str, int]:
            self.calls.append(("bill", price))
            if self.fails:
                self.fails -= 1
                raise ValueError("no paper")
            return {"sum": price}

        dag.connect("price", "bill")


def collect(bus: PubSubExecutor, channel: str) -> list[Message]:
    """Have what is published on a channel collected."""
    found: list[Message] = []

    def keep(message: Message) -> None:
        found.append(message)

    bus.register(PubSubAgentDef(f"collects {channel}", keep, (channel,)))
    return found


def runs(bus: PubSubExecutor) -> dict[str, str]:
    """Return the runs that are recorded, with their states."""
    assert bus.database_url is not None
    with Store(bus.database_url) as store:
        return {
            str(each["run_id"]): str(each["status"])
            for each in store.query("SELECT run_id, status FROM flow_runs ORDER BY run_id")
        }


def idle(bus: PubSubExecutor) -> None:
    assert bus.wait_idle(LONG).result()


def test_a_message_starts_a_run_with_its_payload_and_the_answer_is_published(make: Make) -> None:
    orders = Orders()
    bus = make()
    answers = collect(bus, "bills")
    assert bus.trigger(orders.dag, "new.*", publish="bills") == "orders"
    with bus:
        bus.publish("new.eu", {"item": "tea"}, key="k", id="m1").result()
        bus.publish("new.us", "coffee", id="m2").result()
        idle(bus)
        assert bus.agents["orders"].handled == 2
    assert sorted((m.payload["sum"], m.key, m.cause, m.source) for m in answers) == [
        (3, "k", "m1", "orders"),
        (6, "", "m2", "orders"),
    ]
    if bus.database_url is not None:
        assert runs(bus) == {"orders:m1": "completed", "orders:m2": "completed"}


def test_a_failed_run_is_gone_on_with_where_it_is_recorded(make: Make) -> None:
    orders = Orders(fails=2)
    bus = make()
    answers = collect(bus, "bills")
    bus.trigger(orders.dag, "new", publish="bills", retry=RetryStrategy.IMMEDIATE.with_attempts(3))
    with bus:
        bus.publish("new", "tea", id="m1").result()
        idle(bus)
        assert bus.dead_letters() == []
    assert [m.payload for m in answers] == [{"sum": 3}]
    called = [name for name, _ in orders.calls]
    assert called.count("bill") == 3
    if bus.database_url is None:
        assert called.count("price") == 3, "in memory another try is another run"
    else:
        assert called.count("price") == 1, "what completed is not called again"
        assert runs(bus) == {"orders:m1": "completed"}


def test_a_run_that_fails_for_good_is_a_dead_letter_that_can_be_replayed(make: Make) -> None:
    orders = Orders(fails=1)
    bus = make()
    answers = collect(bus, "bills")
    bus.trigger(orders.dag, "new", publish="bills")
    with bus:
        bus.publish("new", "tea", id="m1").result()
        idle(bus)
        (letter,) = bus.dead_letters("orders")
        assert "no paper" in letter.error
        assert letter.message.id == "m1"
        assert answers == []
        assert bus.replay("orders") == 1
        idle(bus)
        assert bus.dead_letters() == []
    assert [m.payload for m in answers] == [{"sum": 3}]


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"item": "tea", "size": 1}, "has no input 'size'"),
        ({"count": 1}, "item"),
        ({}, "needs a value for 'item'"),
        ({"item": 5}, "item"),
        (5, "item"),
        (None, "item"),
    ],
)
def test_what_the_flow_does_not_take_is_refused_at_publish(
    make: Make, payload: Any, says: str
) -> None:
    orders = Orders()
    bus = make()
    bus.trigger(orders.dag, "new")
    with bus, pytest.raises(MessageValidationError, match=f"channel 'new'.*({says})"):
        bus.publish("new", payload).result()
    assert orders.calls == []


def test_what_another_process_publishes_unchecked_is_a_dead_letter_at_once(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'bus.db'}"
    orders = Orders()
    bus = PubSubExecutor([], registry=Registry(), database_url=url)
    bus.trigger(orders.dag, "new", retry=5)
    with bus:
        pass  # from now on the trigger is known
    with PubSubExecutor([], registry=Registry(), database_url=url) as other:
        other.publish("new", {"item": 5}).result()
    with bus:
        idle(bus)
        (letter,) = bus.dead_letters()
        assert letter.attempts == 1
        assert "item" in letter.error
    assert orders.calls == []
    assert runs(bus) == {}


def test_a_function_makes_the_inputs(make: Make) -> None:
    orders = Orders()
    bus = make()
    bus.trigger(orders.dag, "new", inputs=lambda payload: {"item": payload["what"].lower()})
    with bus:
        bus.publish("new", {"what": "TEA", "more": 1}).result()
        with pytest.raises(MessageValidationError, match=r"inputs= of trigger .* KeyError"):
            bus.publish("new", {}).result()
        idle(bus)
    assert orders.calls == [("price", "tea"), ("bill", 3)]


def test_a_flow_without_inputs_takes_nothing(make: Make) -> None:
    dag = DAG("tick", registry=Registry())
    ticks: list[int] = []

    @dag.node
    def tick() -> None:
        ticks.append(1)

    bus = make()
    bus.trigger(dag, "clock")
    with bus:
        bus.publish("clock").result()
        bus.publish("clock", {}).result()
        with pytest.raises(MessageValidationError, match="there is none"):
            bus.publish("clock", 5).result()
        idle(bus)
    assert ticks == [1, 1]


def test_a_message_that_is_published_twice_starts_one_run(make: Make) -> None:
    orders = Orders()
    bus = make()
    bus.trigger(orders.dag, "new")
    with bus:
        for _ in range(3):
            bus.publish("new", "tea", id="m1").result()
        idle(bus)
    assert orders.calls == [("price", "tea"), ("bill", 3)]


def test_a_bus_in_memory_records_its_runs_in_a_database_that_is_given(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'runs.db'}"
    orders = Orders()
    for text in ("tea", "tea", "milk"):  # the id is known for as long as the database
        bus = PubSubExecutor([], registry=Registry())
        bus.trigger(orders.dag, "new", database_url=url, durability="async")
        with bus:
            bus.publish("new", text, id="m1").result()
            idle(bus)
            letters = bus.dead_letters()
    assert orders.calls == [("price", "tea"), ("bill", 3)]
    assert "IdempotencyConflict: run 'orders:m1' is there" in letters[0].error
    with Store(url) as store:
        assert store.load_run("orders:m1").status == "completed"


@pytest.mark.parametrize("concurrency", [1, 4])
def test_answers_come_in_the_order_of_their_key(make: Make, concurrency: int) -> None:
    dag = DAG("echo", registry=Registry())
    now, most, lock = [0], [0], threading.Lock()

    @dag.node
    def echo(n: int) -> int:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0.002 * (3 - n % 3))
        with lock:
            now[0] -= 1
        return n

    bus = make()
    answers = collect(bus, "out")
    bus.trigger(dag, "in", publish="out", concurrency=concurrency)
    with bus:
        for n in range(24):
            bus.publish("in", n, key=f"k{n % 4}").result()
        idle(bus)
    by_key = {key: [m.payload for m in answers if m.key == key] for key in ("k0", "k1", "k2", "k3")}
    assert by_key == {f"k{k}": list(range(k, 24, 4)) for k in range(4)}
    assert most[0] <= concurrency
    if concurrency == 1:
        assert [m.payload for m in answers] == list(range(24))


def test_a_flow_answers_with_none_and_async_nodes_too(make: Make) -> None:
    dag = DAG("quiet", registry=Registry())

    @dag.node
    async def quiet(n: int) -> None:
        await asyncio.sleep(0)

    bus = make()
    answers = collect(bus, "out")
    bus.trigger(dag, "in", publish="out")

    async def main() -> None:
        async with bus:
            await bus.publish("in", 1)
            assert await bus.wait_idle(LONG)

    asyncio.run(main())
    assert [m.payload for m in answers] == [None]


def test_a_graph_and_a_machine_are_started_too(make: Make, registry: Registry) -> None:
    @action(registry=registry)
    def double(n: int) -> int:
        return 2 * n

    graph = Graph("twice", [Node("double", "double", inputs=[Input("n", "inputs.n")])])
    machine = FSM("light", registry=Registry())

    @machine.state(initial=True, terminal=True)
    def red() -> int:
        return 3

    bus = make()
    answers = collect(bus, "out")
    bus.trigger(graph, "in", publish="out")
    bus.trigger(machine, "lamp", publish="out")
    with bus:
        bus.publish("in", 21).result()
        idle(bus)
        bus.publish("lamp", {}).result()
        idle(bus)
    assert [m.payload for m in answers] == [42, machine.run()]


def test_a_trigger_is_added_and_taken_out_while_the_bus_runs(make: Make) -> None:
    orders = Orders()
    bus = make()
    with bus:
        name = bus.trigger(orders.dag, "new", name="shop")
        bus.publish("new", "tea").result()
        idle(bus)
        with pytest.raises(AgentAlreadyRegistered):
            bus.trigger(orders.dag, "new", name="shop")
        bus.unregister(name)
        bus.publish("new", "milk").result()
        idle(bus)
    assert orders.calls == [("price", "tea"), ("bill", 3)]


def test_a_run_that_pauses_is_a_dead_letter_until_somebody_has_answered(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'bus.db'}"
    dag = DAG("asks", registry=Registry())

    @dag.node
    def ask(n: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("go on?")

    bus = PubSubExecutor([], registry=Registry(), database_url=url)
    answers = collect(bus, "out")
    bus.trigger(dag, "in", publish="out")
    with bus:
        bus.publish("in", 1, id="m1").result()
        idle(bus)
        (letter,) = bus.dead_letters()
        assert "RunPaused" in letter.error
        assert "asks:m1" in letter.error
        with Store(url) as store:
            RunControl(store, "asks:m1").answer("ask", "yes")
        bus.replay()
        idle(bus)
    assert [m.payload for m in answers] == ["yes"]


def test_a_bus_that_ends_cancels_its_runs_and_the_next_one_goes_on(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'bus.db'}"
    dag = DAG("slow", registry=Registry())
    calls: list[str] = []
    began = threading.Event()

    @dag.node
    def first(n: int) -> int:
        calls.append("first")
        return n

    @dag.node
    def second(first: int, ctx: NodeCtx) -> int:
        calls.append("second")
        began.set()
        while calls.count("second") == 1:
            if ctx.cancelled:
                raise RuntimeError("told to end")
            threading.Event().wait(0.005)
        return first

    dag.connect("first", "second")
    bus = PubSubExecutor([], registry=Registry(), database_url=url)
    answers = collect(bus, "out")
    bus.trigger(dag, "in", publish="out")
    with bus:
        bus.publish("in", 7, id="m1").result()
        assert began.wait(LONG)
        bus.close(0.0)
    assert answers == []
    with bus:
        idle(bus)
    assert [m.payload for m in answers] == [7]
    assert calls == ["first", "second", "second"]
    assert runs(bus) == {"slow:m1": "completed"}


def test_a_run_that_somebody_else_executes_is_waited_for(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'bus.db'}"
    dag = DAG("held", registry=Registry())
    gate, began = threading.Event(), threading.Event()
    calls: list[int] = []

    @dag.node
    def hold(n: int) -> int:
        calls.append(n)
        began.set()
        assert gate.wait(LONG)
        return n

    elsewhere = dag.start({"n": 1}, database_url=url, run_id="held:m1")
    assert began.wait(LONG)
    bus = PubSubExecutor([], registry=Registry(), database_url=url)
    answers = collect(bus, "out")
    bus.trigger(dag, "in", publish="out")
    with bus:
        bus.publish("in", 1, id="m1").result()
        assert not bus.wait_idle(0.3).result()
        gate.set()
        elsewhere.result()
        idle(bus)
    assert [m.payload for m in answers] == [1]
    assert calls == [1], "its result is taken over"


def test_a_run_that_a_person_cancels_is_not_begun_again_before_somebody_says_so(
    tmp_path: Path,
) -> None:
    url = f"sqlite:{tmp_path / 'bus.db'}"
    dag = DAG("held", registry=Registry())
    gate, began = threading.Event(), threading.Event()
    calls: list[int] = []

    @dag.node
    def hold(n: int, ctx: NodeCtx) -> int:
        calls.append(n)
        began.set()
        while not ctx.cancelled and not gate.wait(0.005):
            pass
        return n

    bus = PubSubExecutor([], registry=Registry(), database_url=url)
    answers = collect(bus, "out")
    retry = RetryStrategy.IMMEDIATE.with_attempts(5)
    bus.trigger(dag, "in", publish="out", retry=retry, runner="threads")
    with bus:
        bus.publish("in", 7, id="m1").result()
        assert began.wait(LONG)
        with Store(url) as store:
            RunControl(store, "held:m1").cancel("not wanted")
        idle(bus)
        (letter,) = bus.dead_letters()
        assert letter.attempts == 1
        assert "RunCancelled" in letter.error
        assert "not wanted" in letter.error
        assert (calls, answers) == ([7], [])
        gate.set()
        assert bus.replay() == 1
        idle(bus)
    assert [m.payload for m in answers] == [7]


def test_flows_are_chained_by_events(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'bus.db'}"
    first, second = DAG("first", registry=Registry()), DAG("second", registry=Registry())

    @first.node
    def split(text: str) -> NodeOutput:
        return NodeOutput.success(
            None, commands=[EmitEvent("word", word, "words", "k") for word in text.split()]
        )

    @second.node
    def shout(word: str) -> str:
        return word.upper()

    bus = PubSubExecutor([], registry=Registry(), database_url=url)
    answers = collect(bus, "out")
    bus.trigger(first, "texts")
    bus.trigger(second, "words", publish="out")
    with bus:
        bus.publish("texts", "one two three", id="t").result()
        while len(answers) < 3:
            idle(bus)
    assert [m.payload for m in answers] == ["ONE", "TWO", "THREE"]
    assert sorted(runs(bus)) == ["first:t", *(f"second:run:first:t:{n}" for n in (1, 2, 3))]
    resume("first:t", first.registry, RunOptions(database_url=url)).raise_for_failure()
    assert len(runs(bus)) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"dag": 5}, "a DAG, a state machine or a Graph, not 5"),
        ({"name": "a:b"}, "without a colon"),
        ({"name": "x" * 101}, "1 to 100 characters"),
        ({"name": 5}, "name of a trigger is a text"),
        ({"inputs": 5}, "inputs is a function of a payload"),
        ({"publish": "a.*"}, "is a pattern"),
        ({"publish": 5}, "a channel's name is a text"),
        ({"channel": "a..b"}, "channel: .* no empty parts"),
        ({"concurrency": 0}, "concurrency"),
        ({"retry": "often"}, "retr"),
        ({"run_id": "r"}, "run_id= is settled by the message"),
        ({"idempotency_key": "r"}, "idempotency_key= is settled by the message"),
        ({"runer": "threads"}, "runer"),
    ],
)
def test_a_trigger_refuses_what_cannot_be(arguments: dict[str, Any], says: str) -> None:
    bus = PubSubExecutor([], registry=Registry())
    given = {"dag": Orders().dag, "channel": "new", **arguments}
    with pytest.raises(ConfigurationError, match=says):
        bus.trigger(**given)
    assert dict(bus.agents) == {}


def test_a_workflow_that_cannot_run_is_refused() -> None:
    bus = PubSubExecutor([], registry=Registry())
    with pytest.raises(ValidationError, match="nobody"):
        bus.trigger(Graph("wrong", [Node("a", "nobody")]), "new")
    assert dict(bus.agents) == {}
