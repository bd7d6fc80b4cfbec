"""A bus as one HTML page: who publishes where, what became of messages, and what was given up."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final

from dagger_dsl.engine.words import count, duration
from dagger_dsl.views.channel_tables import agent_rows, channel_rows
from dagger_dsl.views.channels import drawn_channels, standing_of_bus
from dagger_dsl.views.graphviz import write_file
from dagger_dsl.views.grouping import MOST
from dagger_dsl.views.messages import picture_of_ways, standing_of_messages
from dagger_dsl.views.page import code, definitions, fold, name, page, state, text
from dagger_dsl.views.sheet import FAILURES, Sheet, folded_table, framed, message
from dagger_dsl.views.surroundings import time_element

if TYPE_CHECKING:
    from dagger_dsl.model.messages import DeadLetter
    from dagger_dsl.pubsub.report import PubSubExecutionReport

__all__ = ["bus_page"]

#: Columns of texts in the tables of channels and agents; all others are of numbers.
_TEXTS: Final = ("channel", "agent", "subscribes", "subscribers", "process", "last")


def bus_page(report: PubSubExecutionReport, path: str | os.PathLike[str] | None = None) -> str:
    """Return how a bus ended as a page that holds all it needs.

    Args:
        report: How it ended.
        path: Where to write it, too; the folder has to be there.

    Raises:
        ConfigurationError: There can be no such file.
    """
    found = _BusPage(report).text()
    if path is not None:
        write_file(path, found.encode("utf-8"), "a page")
    return found


class _BusPage(Sheet):
    """The page of one bus."""

    def __init__(self, report: PubSubExecutionReport) -> None:
        super().__init__()
        self.report, self.map, self.tree = report, report.map, report.tree

    def text(self) -> str:
        parts = [
            self.part("failures", "Dead letters", self.letters()),
            self.part("channels", "Channels and agents", self.channels()),
            self.part("messages", "Messages", self.messages()),
        ]
        return page(f"bus {self.report.reason}", self.header(), "".join(parts), self.contents)

    def header(self) -> str:
        """Return what the page is about."""
        report = self.report
        look = "completed" if report.success else "failed"
        facts = [
            (word, f"{number:,}")
            for word, number in (
                ("Published here", report.published),
                ("Handled", report.handled),
                ("Failed calls", report.failed),
                ("Called again", report.retried),
                ("Given up", report.dead),
                ("Undelivered", report.undelivered),
            )
            if number
        ]
        facts += [
            ("Duration", text(duration(report.duration))),
            ("As it was", time_element(dt.datetime.now(tz=dt.UTC))),
        ]
        return (
            f"<h1>Bus</h1>\n"
            f'<p class="under">{state(report.reason, look)}<span class="soft-text">'
            f"{text(standing_of_bus(self.map.flow))}</span></p>{definitions(facts)}"
        )

    def letters(self) -> str:
        """Return the messages that were given up in this process, each with all there is to say."""
        letters = self.report.dead_letters
        cards = [
            self._card(each, opened=number < 3)
            for number, each in enumerate(islice(letters, FAILURES))
        ]
        if len(letters) > FAILURES:
            cards.append(f'<p class="note">And {len(letters) - FAILURES:,} more.</p>')
        return "".join(cards)

    def _card(self, letter: DeadLetter, *, opened: bool) -> str:
        sent = letter.message
        summary = (
            f'<strong>{name(letter.agent)}</strong> <span class="soft-text">gave up after '
            f"{count(letter.attempts, 'call')}, on {name(sent.channel)}</span>"
            f"{message(letter.error)}"
        )
        facts = [("Message", code(sent.id)), ("Published", time_element(sent.published_at))]
        for word, told in (("Key", sent.key), ("By", sent.source), ("Task", sent.task_id)):
            if told:
                facts.append((word, name(told)))
        facts.append(("Payload", self.room.value(sent.payload, 4_000)))
        body = definitions(facts, style="pairs")
        return fold(summary, body, style="card failed", opened=opened)

    def channels(self) -> str:
        """Return the map of the bus, and how each channel and agent stands."""
        flow = self.map.flow
        if not flow.channels and not flow.agents:
            return ""
        picture = drawn_channels(self.map)
        found = (
            framed(picture, "Channels and agents")
            if len(picture.shapes) <= MOST
            else '<p class="soft-text">Too many for a picture; the tables show them.</p>'
        )
        for rows, caption in ((channel_rows(flow), "Channels"), (agent_rows(flow), "Agents")):
            found += self._table(rows, caption)
        return found

    def _table(self, rows: Iterable[tuple[object, ...]], caption: str) -> str:
        first, *rest = rows
        heads = [("" if each in _TEXTS else ">") + str(each).capitalize() for each in first]
        most = self.room.rows
        cells = [
            [
                f"{value:,}" if isinstance(value, int) else name(value) if value else ""
                for value in row
            ]
            for row in rest[:most]
        ]
        left = f"{len(rest) - most:,} more that are not shown" if len(rest) > most else ""
        return folded_table(heads, cells, caption, left)

    def messages(self) -> str:
        """Return which message came of which, as far as messages are kept."""
        tree = self.tree
        if not len(tree):
            return f'<p class="soft-text">{text(tree.note)}.</p>' if tree.note else ""
        told = f'<p class="soft-text">{text(standing_of_messages(tree.courses))}.</p>'
        picture = picture_of_ways(tree.courses, tree.title)
        if len(picture.shapes) > MOST:
            return told + '<p class="soft-text">They went too many ways for a picture.</p>'
        return told + framed(picture, "Messages")
