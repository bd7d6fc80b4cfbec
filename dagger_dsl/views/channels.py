"""Channels and agents as a picture: who publishes where, who is given it, and how each stands."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from dagger_dsl.engine.words import count
from dagger_dsl.model.message_flow import AgentFlow, BusFlow, ChannelFlow
from dagger_dsl.model.messages import is_pattern
from dagger_dsl.views.dot import picture_to_dot
from dagger_dsl.views.grouping import alike
from dagger_dsl.views.picture import Arrow, Picture, Shape

if TYPE_CHECKING:
    from dagger_dsl.pubsub.seen import ChannelMap

__all__ = [
    "channels_bundle",
    "channels_to_dot",
    "channels_to_svg",
    "look_of_agent",
    "picture_of_channels",
    "standing_of_bus",
]

#: In a picture of more channels and agents than this, those that are alike are one.
_MANY: Final = 24

_OUTSIDE: Final = "from outside"


def channels_to_dot(found: ChannelMap) -> str:
    """Return channels and agents as DOT."""
    return picture_to_dot(picture_of_channels(found.flow, found.title))


def channels_to_svg(found: ChannelMap) -> str:
    """Return channels and agents as SVG."""
    from dagger_dsl.views.svg import picture_to_svg

    return picture_to_svg(drawn_channels(found))


def channels_bundle(
    found: ChannelMap,
    include: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
) -> dict[str, str]:
    """Return what a notebook shows of channels and agents, by MIME type; see `picture_bundle`."""
    from dagger_dsl.views.notebook import picture_bundle

    text = f"{found.title}: {standing_of_bus(found.flow)}"
    return picture_bundle(partial(drawn_channels, found), text, include, exclude)


def drawn_channels(found: ChannelMap) -> Picture:
    """Return the picture of channels and agents; of many, those that are alike are one box."""
    return alike(picture_of_channels(found.flow, found.title), _MANY, "box")


def standing_of_bus(flow: BusFlow) -> str:
    """Return how a bus stands in one line."""
    parts = [count(len(flow.channels), "channel"), count(len(flow.agents), "agent")]
    parts.append(f"{flow.total('published'):,} published")
    for what, word in (("waiting", "waiting"), ("retrying", "given again"), ("dead", "given up")):
        number = flow.total(what)
        if number:
            parts.append(f"{number:,} {word}")
    return ", ".join(parts)


def look_of_agent(agent: AgentFlow) -> str | None:
    """Return the state of a node whose look an agent has; None where it has done nothing."""
    if agent.dead:
        return "failed"
    if agent.retrying:
        return "waiting"
    if agent.waiting:
        return "running"
    return "completed" if agent.handled or agent.owner else None


def picture_of_channels(flow: BusFlow, title: str) -> Picture:
    """Return the picture of channels and agents.

    Args:
        flow: How they stand.
        title: What to call it.
    """
    shapes = [_channel(each, flow) for each in flow.channels.values()]
    shapes += [_agent(each) for each in flow.agents.values()]
    arrows = list(_arrows(flow))
    if any(each.source == _OUTSIDE for each in arrows):
        shapes.insert(0, Shape(_OUTSIDE, _OUTSIDE, kind="start"))
    for agent in flow.agents.values():
        for pattern in agent.subscribe:
            if is_pattern(pattern) and not any(map(agent.gets, flow.channels)):
                shapes.append(_pattern(pattern))
                arrows.append(Arrow(f"channel {pattern}", f"agent {agent.name}", idle=True))
    unique = {each.id: each for each in shapes}
    worst = "failed" if flow.total("dead") else None
    drawn = tuple(dict.fromkeys(arrows))
    return Picture(title, tuple(unique.values()), drawn, standing_of_bus(flow), worst)


def _arrows(flow: BusFlow) -> Iterator[Arrow]:
    sent = {pair: number for pair, number in flow.sent.items() if pair[1] in flow.channels}
    for (source, channel), number in sent.items():
        if not source:
            yield Arrow(_OUTSIDE, f"channel {channel}", f"{number:,}")
        elif source in flow.agents:
            yield Arrow(f"agent {source}", f"channel {channel}", f"{number:,}")
    for agent in flow.agents.values():
        for name in flow.channels:
            if agent.declares(name) and (agent.name, name) not in sent:
                knows = bool(flow.sent) or flow.durable
                yield Arrow(f"agent {agent.name}", f"channel {name}", idle=knows)
            if agent.gets(name):
                used = bool(flow.channels[name].published)
                yield Arrow(f"channel {name}", f"agent {agent.name}", idle=not used)


def _channel(channel: ChannelFlow, flow: BusFlow) -> Shape:
    readers = [each.name for each in flow.agents.values() if each.gets(channel.name)]
    parts = [f"{channel.published:,} published"]
    if channel.waiting:
        parts.append(f"{channel.waiting:,} waiting")
    lines = [f"channel {channel.name}", ", ".join(parts)]
    if channel.blocked:
        lines.append(f"{channel.blocked:,} wait for room to be published")
    if channel.dead:
        lines.append(f"{channel.dead:,} given up")
    if channel.last_at:
        at = dt.datetime.fromtimestamp(channel.last_at, dt.UTC)
        lines.append(f"last one {at:%Y-%m-%d %H:%M:%S} UTC")
    lines.append(f"given to {', '.join(readers[:12]) or 'nobody'}")
    return Shape(
        f"channel {channel.name}",
        channel.name,
        detail=" \N{MIDDLE DOT} ".join(parts),
        kind="choice",
        tooltip=tuple(lines),
        body="channels",
    )


def _pattern(pattern: str) -> Shape:
    told = ("a pattern", "no channel of it is there yet")
    return Shape(
        f"channel {pattern}", pattern, detail=told[1], kind="choice", tooltip=told, body="patterns"
    )


def _agent(agent: AgentFlow) -> Shape:
    parts = []
    if agent.handled is not None:
        parts.append(f"{agent.handled:,} handled")
    if agent.waiting:
        parts.append(f"{agent.waiting:,} waiting")
    if agent.dead:
        parts.append(f"{agent.dead:,} given up")
    lines = [f"agent {agent.name}", f"subscribes to {', '.join(agent.subscribe[:12])}"]
    if agent.publish:
        lines.append(f"publishes on {', '.join(agent.publish[:12])}")
    if parts:
        lines.append(", ".join(parts))
    if agent.failed:
        lines.append(f"{count(agent.failed, 'call')} failed")
    if agent.retrying:
        lines.append(f"{agent.retrying:,} given again")
    if agent.owner:
        lines.append(f"worker {agent.owner}")
    return Shape(
        f"agent {agent.name}",
        agent.name,
        detail=" \N{MIDDLE DOT} ".join(parts[-2:]),
        status=look_of_agent(agent),
        tooltip=tuple(lines),
        body="agents",
    )
