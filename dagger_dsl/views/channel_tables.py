"""Channels and agents as tables: rows for a pipe, tables of rich's for a terminal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.model.text import printable
from dagger_dsl.views.channels import look_of_agent
from dagger_dsl.views.states import GLYPHS, STYLES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dagger_dsl.model.message_flow import AgentFlow, BusFlow, ChannelFlow

__all__ = ["MOST", "agent_rows", "channel_rows", "channels_table", "owner_name", "rate_text"]

#: Channels, and agents, that are shown at most unless more are asked for.
MOST: Final = 50

_NO_RATES: Final[Mapping[str, float]] = MappingProxyType({})

#: Characters of a name, and of what an agent subscribes to.
_NAME: Final = 40


def channel_rows(
    flow: BusFlow, rates: Mapping[str, float] | None = None
) -> Iterator[tuple[object, ...]]:
    """Yield rows of texts and numbers, the first one of which are headings.

    Args:
        flow: How they stand.
        rates: Messages a second, by channel; None where nobody has measured them.
    """
    measured = () if rates is None else ("rate",)
    yield ("channel", "published", *measured, "waiting", "dead", "last", "subscribers")
    for each in flow.channels.values():
        rate = () if rates is None else (rate_text(rates.get(each.name)),)
        yield (
            printable(each.name),
            each.published,
            *rate,
            each.waiting,
            each.dead,
            _moment(each),
            _readers(each, flow),
        )


def agent_rows(flow: BusFlow) -> Iterator[tuple[object, ...]]:
    """Yield rows as `channel_rows` does, of agents."""
    counted = any(each.handled is not None for each in flow.agents.values())
    more = ("handled", "failed") if counted else ()
    yield ("agent", "subscribes", *more, "waiting", "retrying", "dead", "process")
    for each in flow.agents.values():
        numbers: tuple[object, ...] = ()
        if counted:
            numbers = tuple("" if one is None else one for one in (each.handled, each.failed))
        yield (
            printable(each.name),
            printable(", ".join(each.subscribe)),
            *numbers,
            each.waiting,
            each.retrying,
            each.dead,
            owner_name(each, durable=flow.durable),
        )


def owner_name(agent: AgentFlow, *, durable: bool) -> str:
    """Return which process gives an agent its messages, as people name it."""
    if not durable:
        return "here"
    head, _, host = printable(agent.owner).partition("@")
    return f"{head.partition('-')[0]}@{host[:12]}" if host else head or "none"


def rate_text(rate: float | None) -> str:
    """Return how many messages a second there are; nothing where there are none."""
    if not rate:
        return ""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def channels_table(
    flow: BusFlow, rates: Mapping[str, float] | None = None, limit: int | None = MOST
) -> RenderableType:
    """Return channels and agents as two tables of rich's.

    Args:
        flow: How they stand.
        rates: As in `channel_rows`.
        limit: Rows of each at most, None for all; those in trouble come first then.
    """
    from rich.console import Group

    channels = sorted(flow.channels.values(), key=lambda each: (-each.dead, -each.waiting))
    agents = sorted(flow.agents.values(), key=lambda each: (-each.dead, -each.waiting))
    busy = {each.name for each in channels[:limit]}, {each.name for each in agents[:limit]}
    parts: list[RenderableType] = []
    for rows, shown, known, word in (
        (channel_rows(flow, rates), busy[0], flow.channels, "channels"),
        (agent_rows(flow), busy[1], flow.agents, "agents"),
    ):
        heads = next(iter(rows))
        kept = [row for name, row in zip(known, rows, strict=True) if name in shown]
        looks = [_look(flow, name, word) for name in known if name in shown]
        parts.append(_table(heads, kept, looks))
        if len(known) > len(kept):
            parts.append(f"and {len(known) - len(kept):,} more {word}")
    return Group(*parts)


def _look(flow: BusFlow, name: str, word: str) -> str | None:
    if word == "agents":
        return look_of_agent(flow.agents[name])
    return "failed" if flow.channels[name].dead else None


def _table(
    heads: Sequence[object], rows: Iterable[Sequence[object]], looks: Iterable[str | None]
) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in heads:
        right = head not in ("channel", "agent", "subscribes", "subscribers", "process", "last")
        table.add_column(
            str(head),
            justify="right" if right else "left",
            no_wrap=True,
            overflow="ellipsis",
            max_width=None if right else _NAME,
        )
    for row, look in zip(rows, looks, strict=True):
        cells = []
        for head, value in zip(heads, row, strict=True):
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            style = ""
            if head in ("channel", "agent"):
                style = STYLES[look] if look else ""
                shown = f"{GLYPHS[look]} {shown}" if look else f"  {shown}"
            elif head == "dead" and value:
                style = STYLES["failed"]
            elif value == 0:
                style = "dim"
            cells.append(Text(shown, style))
        table.add_row(*cells)
    return table


def _moment(channel: ChannelFlow) -> str:
    if not channel.last_at:
        return ""
    return f"{dt.datetime.fromtimestamp(channel.last_at, dt.UTC):%Y-%m-%d %H:%M:%S}"


def _readers(channel: ChannelFlow, flow: BusFlow) -> str:
    names = [printable(each.name) for each in flow.agents.values() if each.gets(channel.name)]
    more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
