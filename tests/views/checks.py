"""What is asked of pages in a browser: axe's rules, and what axe leaves open in pictures."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import Any

import pytest

__all__ = ["contrast", "faint_texts", "overlaps", "text_boxes", "violations"]

#: WCAG 2.1, levels A and AA, and what axe's authors hold to be good.
_RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")

#: For each text of each picture its box on the screen.
_BOXES = """() => [...document.querySelectorAll('svg.dagger-pic')].map(svg =>
    [...svg.querySelectorAll('text')].map(text => {
        const box = text.getBoundingClientRect();
        return [text.textContent, box.left, box.top, box.right, box.bottom];
    }))"""

#: For each text of each picture: what it says, its colour, and that of what it stands on.
_COLOURS = """() => [...document.querySelectorAll('svg.dagger-pic text')].map(text => {
    const box = text.closest('g.box');
    const before = text.previousElementSibling;
    const below = box ? [...box.querySelectorAll('.frame')].at(-1)
        : before && before.matches('.tag') ? before
        : text.closest('svg').querySelector('.bg');
    return [text.textContent, getComputedStyle(text).fill, getComputedStyle(below).fill];
})"""


def violations(page: Any, *, only: str | None = None, without: Collection[str] = ()) -> list[str]:
    """Return what axe objects to, a line for each element.

    Args:
        page: A page that is open.
        only: What to look at; all of it by default.
        without: Rules that are left out.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    options = {
        "runOnly": list(_RULES),
        "rules": {rule: {"enabled": False} for rule in without},
        "resultTypes": ["violations"],
    }
    found = axe.Axe().run(page, context=only, options=options).response
    assert found["passes"], "no rule was applied"
    return [
        f"{each['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def text_boxes(page: Any) -> list[list[list[Any]]]:
    """Return for each picture that is part of a page its texts, each with its box in pixels."""
    found: list[list[list[Any]]] = page.evaluate(_BOXES)
    return found


def overlaps(boxes: list[list[Any]]) -> list[tuple[str, str]]:
    """Return the texts of a picture that lie over each other."""
    return [
        (one[0], other[0])
        for one, other in combinations(boxes, 2)
        if min(one[3], other[3]) - max(one[1], other[1]) > 0.5
        and min(one[4], other[4]) - max(one[2], other[2]) > 2.0  # lines of text are taller than ink
    ]


def faint_texts(page: Any) -> list[tuple[str, float]]:
    """Return the texts in pictures whose contrast is below 4.5, of which axe says nothing."""
    found = [(told, contrast(ink, paper)) for told, ink, paper in page.evaluate(_COLOURS)]
    return [(told, round(much, 2)) for told, much in found if much < 4.5]


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours as WCAG counts it, from 1 to 21.

    Args:
        first, second: Colours as CSS writes them, ``#0a0b0c`` or ``rgb(10, 11, 12)``.
    """
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    if colour.startswith("#"):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    else:
        assert colour.startswith("rgb("), colour
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
