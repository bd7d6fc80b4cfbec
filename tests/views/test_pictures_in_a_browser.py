"""Pictures in a real browser: nothing overlaps, tooltips are there, nothing is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagger_dsl import Graph
from dagger_dsl.views.picture import Picture, Shape, picture_of_graph
from dagger_dsl.views.svg import picture_to_html
from tests.views.browser import opened
from tests.views.checks import overlaps, text_boxes
from tests.views.gallery import HOSTILE, pictures
from tests.views.test_blocks import chain, fan, lanes, picture

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "dag_flow" / "pipeline.yaml"

#: For each text how far it reaches over the frame of its shape.
OVER = """() => [...document.querySelectorAll('g.box')].flatMap(shape => {
    const frame = shape.querySelector('.frame').getBoundingClientRect();
    return [...shape.querySelectorAll('text')].map(text =>
        text.getBoundingClientRect().right - frame.right);
})"""


def page_of(folder: Path, drawn: list[Picture]) -> Path:
    path = folder / "page.html"
    body = "".join(map(picture_to_html, drawn))
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title>{body}</html>',
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("dark", [False, True])
def test_no_text_of_any_picture_lies_over_another(dark: bool, tmp_path: Path) -> None:
    drawn = [picture for _, picture in pictures()]
    drawn += [fan(40), chain(30), lanes(12)]
    drawn.append(picture_of_graph(Graph.from_yaml(EXAMPLE.read_text(encoding="utf-8"))))
    with opened(page_of(tmp_path, drawn), dark=dark) as page:
        found = text_boxes(page)
        assert len(found) == len(drawn)
        assert [each for boxes in found for each in overlaps(boxes)] == []
        assert max(page.evaluate(OVER)) <= 0
        background = page.evaluate("() => getComputedStyle(document.querySelector('.bg')).fill")
        assert background == ("rgb(20, 24, 30)" if dark else "rgb(255, 255, 255)")


def test_hostile_names_are_shown_as_text_and_stand_in_tooltips(tmp_path: Path) -> None:
    hostile = dict(pictures())["hostile"]
    with opened(page_of(tmp_path, [hostile])) as page:
        assert page.evaluate("() => document.querySelectorAll('script').length") == 0
        titles = page.evaluate(
            "() => [...document.querySelectorAll('g.box > title')].map(t => t.textContent)"
        )
        assert len(titles) == len(HOSTILE)
        assert titles[0].startswith(HOSTILE[0])
        assert any("w" * 200 in title for title in titles)


#: Every sign that can be typed, letters of other alphabets, and some that are wider than most.
SIGNS = (
    *(chr(code) * 12 for code in range(0x21, 0x7F)),
    *(chr(code) * 8 for code in range(0xA1, 0x180)),
    *(chr(code) * 8 for code in (*range(0x391, 0x3A2), *range(0x3B1, 0x3CA), *range(0x410, 0x450))),
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u65e5\u672c\u8a9e",
    "\U0001f680\U0001f525",
    "\u2014\u2026\u2192\u21d2\u2713",
    "`tick` ${x} {{j}}",
)


def test_no_text_is_wider_than_it_is_thought_to_be(tmp_path: Path) -> None:
    shapes = [Shape(f"n{k}", text, detail=text) for k, text in enumerate(SIGNS)]
    parts = [
        Picture("signs", tuple(part)) for part in (shapes[:200], shapes[200:400], shapes[400:])
    ]
    with opened(page_of(tmp_path, parts)) as page:
        over = page.evaluate(OVER)  # of each shape its name and what stands below it
    assert len(over) == 2 * len(SIGNS)
    far = {SIGNS[number // 2]: each for number, each in enumerate(over) if each > -4}
    assert far == {}


def test_a_wide_picture_is_scrolled_where_it_is_and_stays_readable(tmp_path: Path) -> None:
    wide = picture(40, [(k, j) for j in range(20, 40) for k in (j - 20, (j - 19) % 20)])
    with opened(page_of(tmp_path, [wide])) as page:
        found = page.evaluate(
            """() => {
                const svg = document.querySelector('svg'), place = svg.parentElement;
                return {
                    share: svg.getBoundingClientRect().width / svg.viewBox.baseVal.width,
                    scrolls: place.scrollWidth > place.clientWidth + 1,
                    page: document.documentElement.scrollWidth > innerWidth,
                    focus: place.tabIndex,
                };
            }"""
        )
    assert found["share"] >= 0.81
    assert (found["scrolls"], found["page"], found["focus"]) == (True, False, 0)
