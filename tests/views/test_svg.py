"""Pictures as SVG: what is in them, and that data stays text."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl import Graph, Node
from dagger_dsl.views.picture import Arrow, Picture, Shape
from dagger_dsl.views.svg import picture_to_html, picture_to_svg, width_of
from tests.views.gallery import FOLDER, HOSTILE, graphs, pictures

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = dict(pictures())
WITH_DOT = [name for name, graph in graphs().items() if len(graph.nodes) <= 100]


def texts(svg: str, tag: str = "text") -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter(SVG + tag)]


@pytest.mark.parametrize("name", PICTURES)
def test_it_is_drawn_as_it_was_when_somebody_looked_at_it(name: str) -> None:
    drawn = picture_to_svg(PICTURES[name]) + "\n"
    known = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert drawn == known, "look at `python -m tests.views.gallery`, then commit what it writes"


@pytest.mark.row("N1", "N2")
@pytest.mark.parametrize("name", WITH_DOT)
def test_dot_is_written_as_it_was_and_graphviz_takes_it(name: str) -> None:
    path = FOLDER / f"{name}.dot"
    assert graphs()[name].to_dot() == path.read_text(encoding="utf-8")
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")
    done = subprocess.run(["dot", "-Tsvg", str(path)], capture_output=True, check=True)
    assert b"<svg" in done.stdout
    assert done.stderr == b""


def test_names_are_text_whatever_they_are() -> None:
    svg = picture_to_svg(PICTURES["hostile"])
    root = ElementTree.fromstring(svg)
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        *("svg", "style", "rect", "path", "circle", "g", "text", "title"),
    }
    assert not any(
        name.startswith("on") or "href" in name for each in root.iter() for name in each.attrib
    )
    shown = texts(svg)
    assert HOSTILE[0] in shown
    assert HOSTILE[1] in shown
    assert "two lines" in shown
    assert any(text.startswith("www") and text.endswith("…") for text in shown)
    assert "\u202e" not in svg  # it would turn around what follows
    assert any("w" * 200 in text for text in texts(svg, "title"))


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_makes_a_picture_that_can_be_read(label: str, title: str) -> None:
    shapes = (
        Shape("a", label, detail=title, marks=(label,), tooltip=(label, title)),
        Shape("b", "b"),
    )
    picture = Picture(title, shapes, (Arrow("a", "b", label),), subtitle=label)
    ElementTree.fromstring(picture_to_svg(picture))


def test_a_text_never_leaves_its_box() -> None:
    for name, picture in PICTURES.items():
        for box in ElementTree.fromstring(picture_to_svg(picture)).iter(SVG + "g"):
            frame = box.find(SVG + "rect")
            if not box.get("class", "").startswith("box") or frame is None:
                continue
            right = float(frame.get("x", "")) + float(frame.get("width", ""))
            for text in box.findall(SVG + "text"):
                size = 13.0 if text.get("class") == "name" else 11.0
                end = float(text.get("x", "")) + width_of(text.text or "", size)
                assert end <= right, (name, text.text)


def test_nothing_is_loaded_from_anywhere() -> None:
    for picture in PICTURES.values():
        svg = picture_to_svg(picture)
        assert "url(" not in svg
        assert "@import" not in svg
        assert svg.count("http") == 1  # the namespace
        assert 'role="img"' in svg


def test_states_are_told_by_words_as_well_as_by_colours() -> None:
    svg = picture_to_svg(PICTURES["checkout_failed"])
    shown = texts(svg)
    assert {"skipped", "cancelled", "250.0 ms", "1.50 s · recovered"} <= set(shown)
    assert any("card ending" in text for text in shown)
    (told,) = (text for text in texts(svg, "title") if text.startswith("refuse"))
    assert told.endswith("skipped\nis_valid was true")
    assert "failed in 4.00 s" in shown


def test_what_is_inside_of_a_shape_is_folded_below() -> None:
    inner = Picture("inner <one>", (Shape("x", "x"),), subtitle="completed")
    picture = Picture("outer", (Shape("a", "a", kind="flow"),), inner={"a": lambda: inner})
    html = picture_to_html(picture)
    assert html.count("<svg") == 2
    assert html.count("<style>") == 1
    assert "<summary>a: inner &lt;one&gt;, completed</summary>" in html


def test_a_graph_whose_lines_nobody_could_follow_is_grouped_and_drawn_at_once() -> None:
    ids = [f"n{number}" for number in range(200)]
    nodes = [Node(each, "work", dependencies=ids[:number]) for number, each in enumerate(ids)]
    svg = Graph("dense", nodes).to_svg()
    assert svg.count('class="arrow"') <= 1_500
    assert any("200 nodes in" in text for text in texts(svg))


def test_an_empty_graph_has_a_picture() -> None:
    assert "0 nodes" in texts(Graph("empty", []).to_svg())


def test_states_given_by_hand_colour_a_graph() -> None:
    graph = Graph("two", [Node("a", "a"), Node("b", "b", dependencies=["a"])])
    svg = graph.to_svg({"a": "completed"})
    boxes = [
        each.get("class")
        for each in ElementTree.fromstring(svg).iter(SVG + "g")
        if each.get("class", "").startswith("box")
    ]
    assert boxes == ["box k-step s-completed", "box k-step s-pending"]


def test_the_snapshots_are_all_there_is() -> None:
    wanted = {f"{name}.svg" for name in PICTURES} | {f"{name}.dot" for name in WITH_DOT}
    assert {path.name for path in Path(FOLDER).iterdir()} == wanted


def test_a_very_wide_picture_is_not_made_too_small_to_read() -> None:
    parts = [Node(f"part_{number}", "work", dependencies=["start"]) for number in range(40)]
    wide = ElementTree.fromstring(Graph("wide", [Node("start", "start"), *parts]).to_svg())
    assert float(wide.attrib["width"]) > 3_000
    least = re.search(r"min-width:(\d+)px", wide.attrib["style"])
    assert least is not None
    assert int(least[1]) == pytest.approx(float(wide.attrib["width"]) / 2, abs=1)
    small = ElementTree.fromstring(Graph("small", [Node("start", "start")]).to_svg())
    assert "min-width" not in small.attrib["style"]
