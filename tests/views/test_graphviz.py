"""DOT goes to files without help; pictures need Graphviz, and say so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dagger_dsl.errors import ConfigurationError, VisualizationUnavailable
from dagger_dsl.model.graph import Graph, Node
from tests.views.dot_grammar import parse
from tests.views.reports import make_report

GRAPH = Graph("g", [Node("a", "f", description="naïve ☃"), Node("b", "f", dependencies=["a"])])

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")


@pytest.mark.row("N5")
def test_save_dot_writes_utf8_and_returns_the_path(tmp_path: Path) -> None:
    path = GRAPH.save_dot(tmp_path / "dag.dot")
    assert path.read_text(encoding="utf-8") == GRAPH.to_dot()
    coloured = GRAPH.save_dot(tmp_path / "run.dot", {"a": "completed"})
    assert parse(coloured.read_text(encoding="utf-8")).nodes["a"]["fillcolor"] == "lightgreen"
    report = make_report(GRAPH)
    assert report.save_dot(tmp_path / "report.dot").read_text(encoding="utf-8") == report.to_dot()


@pytest.mark.row("N5")
@needs_graphviz
@pytest.mark.parametrize(
    ("name", "format_", "start"),
    [("a.svg", None, b"<?xml"), ("a.png", None, b"\x89PNG"), ("picture", "svg", b"<?xml")],
)
def test_render_draws(tmp_path: Path, name: str, format_: str | None, start: bytes) -> None:
    path = GRAPH.render(tmp_path / name, format_)
    assert path == tmp_path / name
    assert path.read_bytes().startswith(start)
    report = make_report(GRAPH)
    assert report.render(tmp_path / name, format_).read_bytes().startswith(start)


@pytest.mark.row("N5")
def test_without_graphviz_the_error_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VisualizationUnavailable, match=r"install it .*save_dot"):
        GRAPH.render(tmp_path / "a.svg")
    assert not (tmp_path / "a.svg").exists()
    assert GRAPH.save_dot(tmp_path / "a.dot").exists()


@pytest.mark.parametrize(("name", "format_"), [("a.exe", None), ("a", None), ("a.svg", "../x")])
def test_unknown_formats_are_refused(tmp_path: Path, name: str, format_: str | None) -> None:
    with pytest.raises(ConfigurationError, match="one of svg, png"):
        GRAPH.render(tmp_path / name, format_)


def program(folder: Path, script: str) -> str:
    """Write a program called `dot` and return the PATH that finds it first."""
    path = folder / "dot"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_what_graphviz_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "cat >/dev/null; printf '\\033[31mError: no\\nmore\\n' >&2; exit 1"
    monkeypatch.setenv("PATH", program(tmp_path, script))
    with pytest.raises(VisualizationUnavailable, match=r"could not draw this graph: Error: no$"):
        GRAPH.render(tmp_path / "a.svg")


def test_a_drawing_that_never_ends_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("dot", timeout)

    monkeypatch.setenv("PATH", program(tmp_path, "exit 0"))
    monkeypatch.setattr("subprocess.run", never)
    with pytest.raises(VisualizationUnavailable, match=r"within 120 s"):
        GRAPH.render(tmp_path / "a.svg")


def test_a_program_that_cannot_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", program(tmp_path, ""))
    (tmp_path / "dot").write_bytes(b"\x7fELF nonsense")
    with pytest.raises(VisualizationUnavailable, match="cannot be started"):
        GRAPH.render(tmp_path / "a.svg")


def test_a_path_that_is_none_is_refused() -> None:
    for write in (GRAPH.save_dot, GRAPH.render):
        with pytest.raises(ConfigurationError, match=r"written to a path, .* not 5"):
            write(5)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nope" / "x.dot", "a\0b"):
        with pytest.raises(ConfigurationError, match=r"cannot be written: .*name a file in"):
            GRAPH.save_dot(path)


@needs_graphviz
def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        GRAPH.render(tmp_path / "nope" / "x.svg")


def test_a_format_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"one of svg, png, .* not 5"):
        GRAPH.render(tmp_path / "x.svg", 5)  # type: ignore[arg-type]
