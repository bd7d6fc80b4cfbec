"""Pictures as SVG: what is in them, and that data stays text."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dagger_dsl import Graph, Node
from dagger_dsl.model.machine import Machine, Transition
from dagger_dsl.views.picture import Arrow, Picture, Shape, picture_of_graph
from dagger_dsl.views.svg import drawn, picture_to_html, picture_to_svg, width_of
from tests.views.gallery import FOLDER, HOSTILE, graphs, pictures

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = dict(pictures())
WITH_DOT = [name for name, graph in graphs().items() if len(graph.nodes) <= 100]


def texts(svg: str, tag: str = "text") -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter(SVG + tag)]


@pytest.mark.parametrize("name", PICTURES)
def test_it_is_drawn_as_it_was_when_somebody_looked_at_it(name: str) -> None:
    made = picture_to_svg(PICTURES[name]) + "\n"
    known = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert made == known, "look at `python -m tests.views.gallery`, then commit what it writes"


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
@example("\ufffe", "\uffff")
def test_any_text_makes_a_picture_that_can_be_read(label: str, title: str) -> None:
    shapes = (
        Shape("a", label, detail=title, marks=(label,), tooltip=(label, title)),
        Shape("b", "b"),
    )
    picture = Picture(title, shapes, (Arrow("a", "b", label),), subtitle=label)
    ElementTree.fromstring(picture_to_svg(picture))


def test_a_long_description_does_not_widen_a_picture() -> None:
    graph = Graph("flow", [Node("only", "f")], description="it does a lot " * 200)
    found = drawn(picture_of_graph(graph))
    assert found.width < 500
    (shown,) = (text for text in texts(found.text) if text.startswith("it does"))
    assert shown.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert found.text.count("it does a lot " * 200) == 1  # for those who do not see it


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


def machine(*transitions: Transition) -> Graph:
    nodes = [Node(each, f"order.{each}") for each in ("new", "paid", "done")]
    return Graph("order", nodes, machine=Machine("new", ["done"], transitions))


def test_a_machine_has_states_and_says_why_they_have_no_arrows() -> None:
    shown = texts(machine().to_svg())
    assert "3 states · transitions are not declared" in shown
    assert not any(text.startswith("order.") for text in shown)  # it would say nothing more
    some = machine(Transition("new", "paid"))
    assert "3 states · not all transitions are declared" in texts(some.to_svg())
    all_of_them = machine(Transition("new", "paid"), Transition("paid", "done"))
    assert "3 states" in texts(all_of_them.to_svg())


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
