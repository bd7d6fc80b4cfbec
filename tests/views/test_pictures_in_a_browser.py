"""Pictures in a real browser: nothing overlaps, tooltips are there, nothing is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagger_dsl import Graph
from dagger_dsl.views.picture import Picture, picture_of_graph
from dagger_dsl.views.svg import picture_to_html
from tests.views.browser import opened
from tests.views.checks import overlaps, text_boxes
from tests.views.gallery import HOSTILE, pictures

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
