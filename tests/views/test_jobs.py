"""Anything graph-shaped is drawn through one small model: a job of tasks, which is no `Graph`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from xml.etree import ElementTree

import attrs
import pytest

from dagger_dsl.views.dot import COLOURS, picture_to_dot
from dagger_dsl.views.picture import Arrow, Picture, Shape
from dagger_dsl.views.svg import picture_to_html, picture_to_svg
from tests.views.dot_grammar import parse

SVG = "{http://www.w3.org/2000/svg}"


@attrs.frozen
class Task:
    """A task as a job may hold it: part of a tree, and waiting for others."""

    id: str
    description: str
    status: str
    parent: str | None = None
    needs: tuple[str, ...] = ()
    retries: int = 0
    error: str = ""


JOB = [
    Task("objective", "Compare the two reports", "in_progress"),
    Task("collect", "Collect the sources", "completed", "objective"),
    Task("read", 'Read "A" & <B>', "failed", "objective", ("collect",), 2, "no answer"),
    Task("write", "Write it down", "blocked", "objective", ("collect", "read")),
]


def draw(job: list[Task]) -> Picture:
    """Return a job's picture, as whoever knows jobs would make it."""

    def arrows() -> Iterator[Arrow]:
        for task in job:
            if task.parent is not None:
                yield Arrow(task.parent, task.id, "part of")
            for need in task.needs:
                yield Arrow(need, task.id, idle=task.status == "blocked")

    shapes = [
        Shape(
            task.id,
            task.description,
            detail=task.error,
            kind="group" if task.parent is None else "step",
            status=task.status,
            marks=(f"{task.retries} retries",) if task.retries else (),
            tooltip=(task.id, task.status),
            double=task.parent is None,
        )
        for task in job
    ]
    return Picture("research", tuple(shapes), tuple(arrows()), "1 of 3 tasks failed", "failed")


def test_a_job_is_drawn_as_svg_with_its_own_words() -> None:
    svg = ElementTree.fromstring(picture_to_svg(draw(JOB)))
    boxes = {box.get("data-id"): box for box in svg.iter(SVG + "g") if box.get("data-id")}
    assert list(boxes) == [task.id for task in JOB]
    assert "s-completed" in boxes["collect"].get("class", "")
    assert "s-" not in boxes["write"].get("class", ""), "a word of its own has no colour"
    assert sum(each.get("class", "").startswith("arrow") for each in svg.iter(SVG + "g")) == 6
    assert sum(each.get("class") == "arrow idle" for each in svg.iter(SVG + "g")) == 2
    shown = {text.text for text in svg.iter(SVG + "text")}
    assert {'Read "A" & <B>', "no answer · 2 retries", "part of"} <= shown


def test_a_job_is_drawn_as_dot_from_the_same_picture() -> None:
    text = picture_to_dot(draw(JOB))
    drawn = parse(text)
    assert drawn.name == "execution_tree"
    assert text.startswith("digraph execution_tree {\n    rankdir=TB;\n    node [shape=box, ")
    assert list(drawn.nodes) == [task.id for task in JOB]
    assert drawn.nodes["read"] == {
        "fillcolor": COLOURS["failed"],
        "label": 'Read "A" & <B>\nStatus: Failed\n2 retries\nno answer',
        "tooltip": "read\nfailed",
    }
    assert drawn.nodes["write"]["fillcolor"] == "white"
    assert drawn.nodes["write"]["label"] == "Write it down\nStatus: Blocked"
    assert drawn.nodes["objective"]["peripheries"] == "2"
    assert drawn.edges == [
        ("objective", "collect", {"label": "part of"}),
        ("objective", "read", {"label": "part of"}),
        ("collect", "read", {}),
        ("objective", "write", {"label": "part of"}),
        ("collect", "write", {"style": "dashed"}),
        ("read", "write", {"style": "dashed"}),
    ]


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_graphviz_takes_the_dot_of_a_job() -> None:
    source = picture_to_dot(draw(JOB)).encode()
    done = subprocess.run(["dot", "-Tsvg"], input=source, capture_output=True, check=True)
    assert done.stderr == b""
    svg = ElementTree.fromstring(done.stdout)
    assert len(svg.findall(".//{*}g[@class='node']")) == len(JOB)
    assert "research" in {each.text for each in svg.findall(".//{*}text")}


def test_what_stands_for_many_says_how_many_and_what_opens_is_drawn_without_its_inside() -> None:
    inside = Picture("tasks", (Shape("t", "t"),))
    many = Shape("m", "workers", kind="flow", counts={"completed": 3, "failed": 1})
    picture = Picture("pool", (many,), inner={"m": lambda: inside})
    node = parse(picture_to_dot(picture)).nodes["m"]
    assert node == {
        "fillcolor": "white",
        "label": "workers\n3 completed, 1 failed",
        "shape": "component",
    }
    assert picture_to_html(picture).count("<svg") == 2


def test_ids_and_words_of_a_job_cannot_leave_their_quotes() -> None:
    evil = '"]; evil [label="'
    shape = Shape(evil, evil, evil, status=evil, marks=(evil,), tooltip=(evil,))
    text = picture_to_dot(Picture(evil, (shape,), (Arrow(evil, evil, evil),), evil))
    drawn = parse(text)
    assert list(drawn.nodes) == [evil]
    assert drawn.edges == [(evil, evil, {"label": evil})]
    ElementTree.fromstring(picture_to_svg(Picture(evil, (shape,), subtitle=evil)))
