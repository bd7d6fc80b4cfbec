"""Messages, channels and agents as pictures and DOT: what people see of a bus."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from dagger_dsl import Registry
from dagger_dsl.errors import ConfigurationError, MessageNotFound
from dagger_dsl.pubsub import (
    PubSubConfig,
    PubSubExecutionReport,
    PubSubExecutor,
    Reactive,
    StartWith,
    pubsub_agent,
)
from tests.views.dot_grammar import parse
from tests.views.pages import check

EVIL = '<b>x</b> & "y"'


def ran(url: str | None, trace: int = 100) -> PubSubExecutionReport:
    """Return the report of a bus of two agents, the second of which fails."""
    registry = Registry()

    @pubsub_agent(subscribe="first", publish="second", registry=registry)
    def one(payload: str) -> str:
        return payload

    @pubsub_agent(subscribe="second", registry=registry)
    def two(payload: str) -> None:
        raise ValueError(EVIL)

    config = PubSubConfig(trace=trace)
    bus = PubSubExecutor(registry=registry, config=config, database_url=url)
    return bus.run(StartWith("first", EVIL, id="root"))


@pytest.mark.row("N1", "N4")
@pytest.mark.parametrize("durable", [False, True])
def test_a_tree_shows_what_came_of_a_message(durable: bool, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'bus.db'}" if durable else None
    report = ran(url)
    drawn = parse(report.to_dot())
    ((source, target, label),) = drawn.edges
    assert (source, label["label"]) == ("root", "one")
    assert drawn.nodes["root"]["fillcolor"] == "lightgreen"
    assert drawn.nodes[target]["fillcolor"] == "lightcoral"
    assert EVIL in drawn.nodes[target]["label"]
    ElementTree.fromstring(report.to_svg())
    ElementTree.fromstring(report.map.to_svg())
    agents = report.map.agents
    assert (agents["one"].dead, agents["two"].dead, agents["two"].waiting) == (0, 1, 0)
    if url is not None:
        other = PubSubExecutor([], database_url=url)
        assert [each.message.id for each in other.message_tree(target).courses] == ["root", target]
        with pytest.raises(MessageNotFound):
            other.message_tree("no such")


@pytest.mark.row("N8")
def test_a_notebook_is_shown_the_map_where_no_message_is_kept() -> None:
    report = ran(None, trace=0)
    assert len(report.tree) == 0
    bundle = report._repr_mimebundle_()
    assert "<svg" in bundle["text/html"]
    assert "2 channels, 2 agents" in bundle["image/svg+xml"]


@pytest.mark.parametrize("kept", ["durable", "traced", "not kept"])
def test_a_page_tells_how_a_bus_ended(kept: str, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'bus.db'}" if kept == "durable" else None
    report = ran(url, trace=100 if kept == "traced" else 0)
    found = report.to_html(tmp_path / "bus.html")
    assert (tmp_path / "bus.html").read_text(encoding="utf-8") == found
    seen = check(found)
    assert {"failures", "channels", "messages"} <= set(seen.ids)
    assert EVIL not in found
    for told in ("Dead letters", "gave up after 1 call", f"ValueError: {EVIL}"):
        assert told in seen.text
    assert ("memory keeps no messages" in found) == (kept == "not kept")
    assert found.count("<svg") == (1 if kept == "not kept" else 2)


def test_a_page_can_be_written_only_where_there_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        ran(None).to_html(tmp_path / "nowhere" / "bus.html")


def test_the_page_of_a_bus_without_anything(tmp_path: Path) -> None:
    bus = PubSubExecutor([], registry=Registry(), database_url=f"sqlite:{tmp_path / 'bus.db'}")
    check(bus.run(Reactive(idle=0)).to_html())


def test_a_large_bus_has_a_page_of_bounded_size() -> None:
    registry = Registry()

    @pubsub_agent(subscribe="**", registry=registry)
    def agent(payload: str) -> None:
        raise ValueError("x" * 10_000)

    config = PubSubConfig(trace=2_000)
    with PubSubExecutor(registry=registry, config=config) as bus:
        for number in range(1_500):
            bus.publish(f"c{number}", "y" * 10_000).result()
        assert bus.wait_idle(60).result()
    found = bus._report().to_html()
    check(found)
    assert len(found) < 4_000_000


@pytest.mark.parametrize("durable", [False, True])
def test_a_message_is_in_its_own_tree(durable: bool, tmp_path: Path) -> None:
    registry = Registry()

    @pubsub_agent(subscribe="ping", publish="pong", registry=registry)
    def ping(number: int) -> int | None:
        return number + 1 if number < 20 else None

    @pubsub_agent(subscribe="pong", publish="ping", registry=registry)
    def pong(number: int) -> int:
        return number + 1

    bus = PubSubExecutor(
        registry=registry,
        config=PubSubConfig(trace=1_000),
        database_url=f"sqlite:{tmp_path / 'bus.db'}" if durable else None,
    )
    bus.run(StartWith("ping", 0))
    last = bus.message_tree().courses[-1].message
    tree = bus.message_tree(last.id, limit=5)
    assert [each.message.payload for each in tree.courses] == [16, 17, 18, 19, 20]
    first = bus.message_tree(last.id).courses[0].message
    tree = bus.message_tree(first.id, limit=5)
    assert [each.message.payload for each in tree.courses] == [0, 1, 2, 3, 4]


def test_a_map_has_an_arrow_to_each_channel_that_a_pattern_names() -> None:
    registry = Registry()

    @pubsub_agent(subscribe="in", publish="out.*", registry=registry)
    def agent(payload: int) -> None: ...

    with PubSubExecutor(registry=registry) as bus:
        bus.publish("out.x", 1).result()
        bus.publish("other", 1).result()
        drawn = parse(bus.channel_map().to_dot())
    arrows = {(source, target) for source, target, _ in drawn.edges}
    assert ("agent agent", "channel out.x") in arrows
    assert ("agent agent", "channel other") not in arrows
