"""README's chapter on messages: its example runs, and each row of its table is so."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dagger_dsl import Registry
from dagger_dsl.errors import ChannelFull
from dagger_dsl.pubsub import (
    Message,
    MessageContext,
    PubSubConfig,
    PubSubExecutor,
    StartWith,
    pubsub_agent,
)
from tests.examples.agents import ROOT, killed, outside

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0
TITLE = "### Messages between agents"


def chapter() -> str:
    """Return the chapter."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^{TITLE}$(.*?)^###? ", readme, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def table() -> dict[str, tuple[str, str]]:
    """Return what is said of memory and of a database, by what it is said about."""
    rows = [line.strip("| ").split(" | ") for line in chapter().splitlines() if line[:1] == "|"]
    assert rows[0] == ["in memory (default)", "with a `database_url`"]
    return {name: (memory, stored) for name, memory, stored in rows[2:]}


def url_of(folder: Path, durable: bool) -> str | None:
    return f"sqlite:{folder / 'bus.db'}" if durable else None


#: Handles three of six messages, and is killed during the third.
VICTIM = """
import os, signal, sys, threading
from pathlib import Path
from dagger_dsl.pubsub import PubSubExecutor, pubsub_agent

folder, url = Path(sys.argv[1]), sys.argv[2] or None
published = threading.Event()

@pubsub_agent(subscribe="numbers")
def note(number: int) -> None:
    with (folder / "seen").open("a") as file:
        file.write(f"{number}\\n")
    if number == 2 and not (folder / "dead").exists():
        published.wait()
        (folder / "dead").touch()
        os.kill(os.getpid(), signal.SIGKILL)

bus = PubSubExecutor([note], database_url=url)
again = (folder / "dead").exists()
with bus:
    if not again:
        for number in [bus.publish("numbers", number, wait=False) for number in range(6)]:
            number.result()
        published.set()
    bus.wait_idle(60).result()
"""


@pytest.mark.row("J10")
@pytest.mark.parametrize("durable", [False, True])
def test_what_a_kill_costs(tmp_path: Path, durable: bool) -> None:
    memory, stored = table()["delivery to each agent"]
    assert memory == "at most once"
    assert stored.startswith("at least once")
    costs = table()["a kill costs"]
    assert costs == ("what waited", "nothing that was published")
    url = url_of(tmp_path, durable) or ""
    assert killed(tmp_path, VICTIM, tmp_path, url)
    assert not killed(tmp_path, VICTIM, tmp_path, url)
    seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
    if durable:
        assert set(seen) == set(range(6)), "none is lost"
        assert seen.count(2) == 2, "who was killed in the middle of a message is given it again"
    else:
        assert seen == [0, 1, 2], "what waited is gone, and nothing comes twice"


@pytest.mark.row("J10")
@pytest.mark.parametrize("durable", [False, True])
def test_who_publishes_too_fast(tmp_path: Path, durable: bool) -> None:
    memory, stored = table()["who publishes too fast"]
    assert "waits for room, and gets `ChannelFull` after `publish_timeout`" in memory
    assert "waits for the commit" in stored
    gate, seen, registry = threading.Event(), [], Registry()

    @pubsub_agent(subscribe="numbers", registry=registry)
    def slow(number: int) -> None:
        assert gate.wait(LONG)
        seen.append(number)

    config = PubSubConfig(capacity=2, publish_timeout=0.01)
    taken = []
    url = url_of(tmp_path, durable)
    with PubSubExecutor(config=config, registry=registry, database_url=url) as bus:
        try:
            for number in range(10):
                _ = bus.publish("numbers", number, timeout=LONG if durable else None)
                taken.append(number)
        except ChannelFull:
            assert not durable
            assert len(taken) in (2, 3), "one may be with the agent already"
        else:
            assert durable
        gate.set()
        assert bus.wait_idle(LONG).result()
    assert seen == taken, "nothing is dropped"


@pytest.mark.row("J10")
@pytest.mark.parametrize("durable", [False, True])
def test_when_it_goes_out_what_an_agent_publishes(tmp_path: Path, durable: bool) -> None:
    memory, stored = table()["what an agent publishes"]
    assert memory == "goes out at once"
    assert stored.startswith("goes out when its call has succeeded")
    registry, seen, keys = Registry(), [], []

    @pubsub_agent(subscribe="start", publish="news", retry=2, registry=registry)
    def fails_once(payload: str, bus: MessageContext) -> None:
        keys.append(bus.idempotency_key)
        _ = bus.publish("news", f"{payload} {bus.attempt}")
        if bus.attempt == 1:
            raise ConnectionError("nobody answers")

    @pubsub_agent(subscribe="news", registry=registry)
    def hear(payload: str) -> None:
        seen.append(payload)

    bus = PubSubExecutor(registry=registry, database_url=url_of(tmp_path, durable))
    assert bus.run(StartWith("start", "call")).reason == "idle"
    assert seen == (["call 2"] if durable else ["call 1", "call 2"])
    assert keys[0] == keys[1], "the same each time"


@pytest.mark.row("J10")
@pytest.mark.parametrize("durable", [False, True])
def test_the_order_holds_by_channel_and_key(tmp_path: Path, durable: bool) -> None:
    assert table()["order"] == ("by channel and key", "the same")
    registry, seen = Registry(), []
    failed: list[str] = []

    @pubsub_agent(subscribe="numbers", retry=2, registry=registry)
    def note(message: Message) -> None:
        if message.payload == 0 and not failed:
            failed.append(message.key)
            raise ConnectionError("nobody answers")
        seen.append((message.key, message.payload))

    with PubSubExecutor(registry=registry, database_url=url_of(tmp_path, durable)) as bus:
        sent = [
            bus.publish("numbers", number, key=key, wait=False)
            for number in range(20)
            for key in ("a", "b")
        ]
        for each in sent:
            each.result(LONG)
        assert bus.wait_idle(LONG).result()
    for key in ("a", "b"):
        assert [number for of, number in seen if of == key] == list(range(20))
    assert seen[-1][0] == failed[0], "who waits for its next attempt holds back its key alone"


@pytest.mark.row("J10")
def test_processes_share_a_database(tmp_path: Path) -> None:
    assert table()["processes"] == ("one", "any number, with one database file")
    registry, seen = Registry(), []

    @pubsub_agent(subscribe="numbers", registry=registry)
    def note(number: int) -> None:
        seen.append((number, os.getpid()))

    url = url_of(tmp_path, True)
    publish = (
        "import sys; from dagger_dsl.pubsub import PubSubExecutor\n"
        "with PubSubExecutor([], database_url=sys.argv[1]) as bus: bus.publish('numbers', 7)"
    )
    with PubSubExecutor(registry=registry, database_url=url):
        done = outside(tmp_path, sys.executable, "-c", publish, str(url))
        assert done.returncode == 0, done.stderr
        until(lambda: seen)
    assert seen == [(7, os.getpid())]


def until(is_so: Callable[[], object]) -> None:
    waiting = threading.Event()
    for _ in range(int(LONG * 100)):
        if is_so():
            return
        waiting.wait(0.01)
    raise AssertionError("it took too long")


@pytest.mark.row("J10")
def test_the_example_runs_and_names_the_fault(tmp_path: Path) -> None:
    (script,) = re.findall(r"^<!-- runnable -->\n```python\n(.*?)^```$", chapter(), re.M | re.S)
    done = outside(tmp_path, sys.executable, "-W", "error", "-c", script)
    assert done.returncode == 0, done.stderr
    assert "payload['price']" in done.stdout
    assert list(tmp_path.glob("*.db")) == [], "by default nothing is kept"


@pytest.mark.row("J10")
def test_every_row_is_tested_here_and_the_stability_is_told() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in table() if f'table()["{name}"]' not in here] == []
    assert "How stable that is" in chapter()
    assert "names and defaults may still change" in " ".join(chapter().split())
