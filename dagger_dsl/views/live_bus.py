"""`BusDisplay`: channels and agents while a bus runs, as a table, a picture, or lines.

It is the `LiveDisplay` of runs with other fronts: the thread, the pace, the one display of a
terminal and what happens in a fork are those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import attrs

from dagger_dsl.engine.words import duration
from dagger_dsl.model.message_flow import BusFlow
from dagger_dsl.model.text import printable
from dagger_dsl.views.channels import channels_bundle, standing_of_bus
from dagger_dsl.views.grouping import MOST
from dagger_dsl.views.live import LiveDisplay, Pace, in_notebook, live_display, write_line
from dagger_dsl.views.live_bar import BarFront
from dagger_dsl.views.live_picture import CellOutput

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from dagger_dsl.engine.pulse import Pulses
    from dagger_dsl.pubsub.executor import PubSubExecutor
    from dagger_dsl.views.live import Front

__all__ = [
    "BusDisplay",
    "BusLines",
    "BusPulse",
    "BusPulses",
    "BusWatch",
    "bus_display",
    "bus_summary",
]

#: Rows of channels, and of agents, on a terminal.
_ROWS: Final = 12

_TYPES: Final = ("text/plain", "text/html")


@attrs.frozen
class BusPulse:
    """How a bus stands.

    Attributes:
        name: What to call it.
        flow: Its channels and agents.
        elapsed: Seconds since it began, or since somebody looks.
        status: ``running``, or how it ended.
    """

    name: str
    flow: BusFlow
    elapsed: float
    status: str = "running"


class BusPulses(Protocol):
    """What knows how a bus stands; asked by one thread at a time."""

    def take(self, named: int = 0) -> BusPulse:
        """Return how it stands now."""


class BusWatch:
    """Takes the pulse of a bus of this process."""

    def __init__(self, bus: PubSubExecutor) -> None:
        self._bus = bus
        self._look = bus._watch_flow()

    def take(self, named: int = 0) -> BusPulse:
        """See `BusPulses.take`."""
        bus = self._bus
        status = "running" if bus._place is not None else bus._reason or "stopped"
        return BusPulse("bus", self._look(), bus._monotonic() - bus._began, status)


def bus_display(bus: PubSubExecutor) -> LiveDisplay:
    """Begin to show a bus as `PubSubConfig.progress` asks; `LiveDisplay.close` ends it.

    Raises:
        ConfigurationError: A picture is asked for, and there is no notebook to show it.
    """
    display = BusDisplay(live_display(bus.config.progress).kind)
    display.watch(BusWatch(bus))
    return display


class BusDisplay(LiveDisplay):
    """Shows one bus; see `LiveDisplay`."""

    def watch(self, pulses: BusPulses) -> None:
        """Begin to show whatever has pulses of a bus, from a thread of its own."""
        self.follow(cast("Pulses", pulses))  # its fronts, which are ours, alone look into them

    def _front_for(self, run: object) -> Front:
        if self.kind == "picture" and in_notebook():
            return cast("Front", _PictureFront())
        return super()._front_for(None)

    def _bar(self) -> Front:
        return cast("Front", _TableFront(self._console, brief=self._brief))

    def _lines(self) -> Front:
        return cast("Front", BusLines(self._say, brief=self._brief))


def bus_summary(pulse: BusPulse) -> str:
    """Return how a bus stands in one line."""
    handled = pulse.flow.total("handled")
    told = f", {handled:,} handled" if handled else ""
    over = "" if pulse.status == "running" else f", {pulse.status} after {duration(pulse.elapsed)}"
    return f"{pulse.name}: {standing_of_bus(pulse.flow)}{told}{over}"


class _Rates:
    """How many messages a second come, by channel, over the last half minute."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def take(self, pulse: BusPulse) -> Mapping[str, float]:
        """Return the rates that are known by now."""
        found = {}
        for name, each in pulse.flow.channels.items():
            pace = self._paces.setdefault(name, Pace())
            found[name] = pace.rate(pulse.elapsed, each.published) or 0.0
        return found


class _TableFront(BarFront):
    """Tables on a terminal."""

    pause = 0.25

    def __init__(self, console: Console | None = None, *, brief: bool = False) -> None:
        super().__init__(console, brief=brief)
        self._rates = _Rates()

    def _drawn(self, pulse: Any, *, over: bool = False) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        from dagger_dsl.views.channel_tables import channels_table

        rates = self._rates.take(pulse)
        head = Text(printable(bus_summary(pulse)), "bold")
        return Group(head, channels_table(pulse.flow, rates, _ROWS))

    def _said(self, pulse: Any) -> str:
        return bus_summary(pulse)

    def _failed(self, pulse: Any) -> bool:
        return bool(pulse.flow.total("dead"))


class BusLines:
    """Says in a line how a bus stands, where that has changed.

    Args:
        say: Takes a line; by default it goes to standard error.
        brief: Whether how it ended is left to others.
    """

    delay, pause = 0.5, 1.0
    named = 0

    def __init__(self, say: Callable[[str], None] | None = None, *, brief: bool = False) -> None:
        self._say, self._brief = say or write_line, brief
        self._told = ""

    def draw(self, pulse: BusPulse) -> None:
        """Say how it stands, if that is not how it stood."""
        told = bus_summary(pulse)
        if told != self._told:
            self._told = told
            self._say(printable(told))

    def finish(self, pulse: BusPulse) -> None:
        """Say how it ended."""
        if not self._brief:
            self.draw(pulse)

    def finish_at_once(self, pulse: BusPulse) -> bool:
        """Nothing is said from the thread of the bus."""
        return False

    def abandon(self) -> None:
        """Nothing was taken."""

    disown = abandon


class _PictureFront:
    """Shows one output of a cell: the map of channels and agents, and the tables below it."""

    delay, pause = 0.3, 0.4
    named = 0

    def __init__(self) -> None:
        self._output = CellOutput()
        self._seen: BusFlow | None = None
        self._rates = _Rates()
        self._next = 0.0

    def draw(self, pulse: BusPulse) -> None:
        """Show how the bus stands, if that is another way than it stood."""
        rates = self._rates.take(pulse)
        if pulse.flow == self._seen or (pulse.status == "running" and pulse.elapsed < self._next):
            return
        begun = time.thread_time()
        self._seen = pulse.flow
        self._output.show(self._bundle(pulse, rates))
        self._next = pulse.elapsed + 10 * (time.thread_time() - begun)

    def _bundle(self, pulse: BusPulse, rates: Mapping[str, float]) -> dict[str, str]:
        from dagger_dsl.pubsub.seen import ChannelMap

        text = bus_summary(pulse)
        flow = pulse.flow
        found = {"text/plain": text, "text/html": ""}
        if len(flow.channels) + len(flow.agents) <= MOST:
            found |= channels_bundle(ChannelMap(flow), _TYPES)
        found["text/plain"] = text
        found["text/html"] += _as_html(text, flow, rates)
        return found

    def finish(self, pulse: BusPulse) -> None:
        """Show how it ended."""
        self._seen = None
        self.draw(pulse)

    def finish_at_once(self, pulse: BusPulse) -> bool:
        """A picture is drawn by the ticker."""
        return False

    def abandon(self) -> None:
        """Nothing was taken: what is shown stays."""

    disown = abandon


def _as_html(text: str, flow: BusFlow, rates: Mapping[str, float]) -> str:
    from dagger_dsl.views.channel_tables import agent_rows, channel_rows
    from dagger_dsl.views.plain import plain_table

    tables = [plain_table(list(channel_rows(flow, rates))), plain_table(list(agent_rows(flow)))]
    body = "\n\n".join((text, *tables))
    return f'<pre style="overflow-x:auto;line-height:normal">{escape(body)}</pre>'
