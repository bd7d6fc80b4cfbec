"""What the pages of runs and of jobs share: how much they show, their parts, tables, pictures."""

from __future__ import annotations

from typing import Any, Final

from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.views.grouping import MOST
from dagger_dsl.views.page import attribute, block, code, fold, section, table, text
from dagger_dsl.views.picture import Picture
from dagger_dsl.views.svg import drawn

__all__ = [
    "FAILURES",
    "INNER",
    "OPEN",
    "ROWS",
    "SAID",
    "Room",
    "Sheet",
    "folded_table",
    "framed",
    "message",
]

#: Rows that a page shows in its tables, over all the runs in a run.
ROWS: Final = 1_000

#: Rows that are seen at once; the others of a table are folded.
OPEN: Final = 60

#: Failures with all there is to say of them, and runs within.
FAILURES: Final = 40
INNER: Final = 25

#: Characters of what an error said that stand in a summary.
SAID: Final = 600

#: What is shorter than this stands in its line.
SHORT: Final = 90

#: Pixels: wider pictures are made smaller until somebody asks for their full size, and higher ones
#: are scrolled.
BROAD: Final = 1_200.0
TALL: Final = 800.0

#: Characters of values and tracebacks in all, and how many values are read for them.
CHARACTERS: Final = 900_000
READ: Final = 600


class Room:
    """How much more a page shows."""

    def __init__(self) -> None:
        self.rows = ROWS
        self.failures = FAILURES
        self.inner = INNER
        self.characters = CHARACTERS
        self.read = READ
        self.shapes = 2 * MOST

    def value(self, value: Any, limit: int) -> str:
        """Return a value as HTML, and take it from what there is."""
        found, _ = excerpt(value, min(limit, max(self.characters, 60)), lines=True)
        shown = code(found) if len(found) < SHORT and "\n" not in found else block(found)
        self.characters -= len(shown)
        return shown

    def lines(self, value: str, limit: int) -> str:
        """Return text of several lines, its end rather than its beginning where it is long."""
        limit = min(limit, max(self.characters, 400))
        if len(value) > limit:
            value = f"{value[: limit // 4]}\n…\n{value[-3 * limit // 4 :]}"
        self.characters -= len(value)
        return value


class Sheet:
    """The parts of a page, in order.

    Attributes:
        room: How much more it shows.
        contents: Anchors and titles of the parts that there are.
    """

    def __init__(self) -> None:
        self.room = Room()
        self.contents: list[tuple[str, str]] = []

    def part(self, anchor: str, title: str, body: str) -> str:
        """Return a section, and note it for the contents; nothing where there is nothing in it."""
        if not body:
            return ""
        self.contents.append((anchor, title))
        return section(anchor, title, body)


def framed(picture: Picture, about: str) -> str:
    """Return a picture that is made smaller, or can be scrolled, where it is large.

    Args:
        picture: What to draw.
        about: What is scrolled, for those who do not see it.
    """
    found = drawn(picture, style=False)
    svg, width = found.text, found.width
    if width <= BROAD and found.height <= TALL:
        return f'<div class="picture">{svg}</div>'
    label = attribute(f"{about}, which can be scrolled")
    told = '<p class="soft-text">The picture below can be scrolled.</p>'
    zoom = fold("Full size", told, style="zoom") if width > BROAD else ""
    return f'{zoom}<div class="picture" tabindex="0" role="group" aria-label={label}>{svg}</div>'


def message(told: str) -> str:
    """Return what an error said, as it stands in a summary."""
    return f'<span class="message">{text(told, SAID, lines=True)}</span>'


def folded_table(
    heads: list[str],
    rows: list[list[str]],
    caption: str,
    note: str,
    *,
    opened: int = OPEN,
    style: str = "",
) -> str:
    """Return a table whose later rows are folded, and a line below it."""
    if not rows:
        return ""
    found = table(heads, rows[:opened], caption, style=style)
    if len(rows) > opened:
        rest = table(heads, rows[opened:], f"{caption}, continued", style=style)
        found += fold(f"{len(rows) - opened:,} more", rest)
    return found + (f'<p class="soft-text">{text(note)}.</p>' if note else "")
