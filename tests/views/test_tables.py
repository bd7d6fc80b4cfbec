"""Tables show a run to a person, and never let its data speak to the terminal."""

from __future__ import annotations

import io
import re

import pytest
import rich
from rich.console import Console, RenderableType

from dagger_dsl.engine.report import ErrorInfo, NodeReport
from dagger_dsl.errors import Place, Problem
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.views.plain import plain_table
from dagger_dsl.views.tables import problems_table, runs_table
from tests.views.checks import contrast
from tests.views.reports import make_report


def shown(what: RenderableType, *, colours: bool = False, width: int = 120) -> str:
    """Return what a terminal of 120 columns, or so many, is sent."""
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=colours).print(what)
    return stream.getvalue()


def test_a_report_shows_state_attempts_duration_and_a_note() -> None:
    graph = Graph("flow", [Node("good", "f"), Node("bad", "f"), Node("after", "f")])
    report = make_report(
        graph,
        NodeReport("good", NodeState.COMPLETED, 1, duration=0.25),
        NodeReport(
            "bad", NodeState.FAILED, 3, duration=2.0, error=ErrorInfo("ValueError", "no\nx")
        ),
        NodeReport("after", NodeState.SKIPPED, reason="upstream failed: bad"),
        status=RunStatus.FAILED,
    )
    text = shown(report)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in text.splitlines()
        if line.startswith("│")
    ]
    assert rows == [
        ["good", "completed", "1", "250.0 ms", ""],
        ["bad", "failed", "3", "2.00 s", "ValueError: no"],
        ["after", "skipped", "0", "", "upstream failed: bad"],
    ]
    assert "flow: run run_001 failed in 2.50 s" in text
    assert shown(report.to_table()) == text


def test_words_of_states_have_the_colour_of_the_page_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One red is sent to light pages and to dark ones: only a sign has it."""
    graph = Graph("flow", [Node(state, "f") for state in NodeState])
    nodes = [NodeReport(state, state) for state in NodeState]
    problem = Problem("no", place=Place(), severity="error")
    monkeypatch.setattr(rich, "_console", Console(force_jupyter=True, width=120))
    for status in RunStatus:
        report = make_report(graph, *nodes, status=status)
        for what in (report.to_table(), problems_table([problem])):
            html = what._repr_mimebundle_(include=(), exclude=())["text/html"]
            colours = dict.fromkeys(re.findall(r'<span style="[^"]*?color: (#\w{6})', html))
            assert colours
            assert all(contrast(each, page) >= 3 for each in colours for page in PAGES), colours
            for words in re.findall(r'<span style="[^"]*color[^"]*">([^<]*)</span>', html):
                assert words.strip() == "●"
            assert status.replace("_", " ") in html or what.title is None


#: Backgrounds of notebooks: JupyterLab's two, and VS Code's dark one.
PAGES = ("#ffffff", "#111111", "#1e1e1e")


def test_a_long_report_shows_what_went_wrong_first() -> None:
    graph = Graph("flow", [Node(f"n{i}", "f") for i in range(500)])
    reports = [NodeReport(f"n{i}", NodeState.COMPLETED, 1) for i in range(500)]
    reports[499] = NodeReport("n499", NodeState.FAILED, 1)
    reports[498] = NodeReport("n498", NodeState.SKIPPED)
    table = make_report(graph, *reports).to_table(limit=10)
    text = shown(table)
    assert table.row_count == 10
    assert "n499" in text
    assert "n498" in text
    assert "n7 " in text
    assert "n8 " not in text
    assert "and 490 more, all completed" in text


def test_runs_and_problems_have_tables() -> None:
    runs = runs_table(
        [
            {
                "run_id": "r1",
                "dag": "flow",
                "status": "paused",
                "created": "2024-05-01",
                "note": "x",
            },
            {"run_id": "r2", "dag": "flow", "status": "completed"},
        ]
    )
    assert "r1" in shown(runs)
    assert "paused" in shown(runs)
    problems = [
        Problem("unknown action", Place("a.yaml", 3, 5)),
        Problem("unused", severity="warning"),
    ]
    text = shown(problems_table(problems))
    assert "a.yaml:3:5" in text
    assert "warning" in text


def test_what_is_left_out_is_counted_by_its_states() -> None:
    graph = Graph("flow", [Node(f"n{i}", "f") for i in range(5)])
    reports = [NodeReport(f"n{i}", NodeState.COMPLETED, 1) for i in range(4)]
    report = make_report(graph, *reports, NodeReport("n4", NodeState.PENDING))
    assert "and 4 more: 3 completed, 1 pending" in shown(report.to_table(1))
    assert "and 1 more, pending" in shown(report.to_table(4))


@pytest.mark.parametrize("width", [20, 40, 60])
def test_on_a_narrow_terminal_rows_are_told_one_below_the_other(width: int) -> None:
    graph = Graph("flow", [Node("good", "f"), Node("b" * 30, "f")])
    error = ErrorInfo("ValueError", "no way out")
    report = make_report(
        graph,
        NodeReport("good", NodeState.COMPLETED, 1, duration=0.25),
        NodeReport("b" * 30, NodeState.FAILED, 3, duration=2.0, error=error),
        status=RunStatus.TIMED_OUT,
    )
    text = shown(report, width=width)
    assert all(len(line) <= width for line in text.splitlines())
    said = " ".join(text.split())
    dot = " \N{MIDDLE DOT} "
    assert f"run run_001 timed out after 2.50 s good completed{dot}250.0 ms b" in said
    assert said.endswith(dot.join(["failed", "3 attempts", "2.00 s", "ValueError: no way out"]))
    assert "b" * 30 in text.replace("\n", "")
    run = {
        "run_id": "r" * 26,
        "dag": "flow",
        "status": "timed_out",
        "created": "2024-05-01",
    }
    text = shown(runs_table([run]), width=width)
    assert "r" * 26 in text.replace("\n", "")
    assert " ".join(text.split()).endswith(dot.join(["flow", "timed out", "2024-05-01"]))


def test_runs_without_notes_fit_on_a_terminal_of_80_columns() -> None:
    run = {"run_id": "r" * 26, "dag": "quickstart", "status": "completed", "created": "c" * 19}
    text = shown(runs_table([run]), width=80)
    assert "note" not in text
    assert "r" * 26 + " \N{BOX DRAWINGS LIGHT VERTICAL} quickstart" in text
    assert "note" in shown(runs_table([run, {**run, "note": "why"}]))


ATTACKS = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07x",
    "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",
    "\x1bPq#0;2;0;0;0\x1b\\sixel",
    "\x9b31mred",
    "\x1b(0lines",
    "a\x08b\x7f\x07",
    "line\rover",
    "[red]markup[/red]",
    "[link=http://evil]x[/link]",
    "\u202egnp·exe",
    "cut off \x1b",
    "cut off \x1b[",
    "\x1b\x1b[[31m31m",
    "surrogate \ud800",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_from_data_reaches_the_terminal_as_a_command(attack: str) -> None:
    name = attack.encode(errors="replace").decode()  # graphs take no lone surrogates, errors do
    graph = Graph(name, [Node(name, "f")])
    report = make_report(
        graph,
        NodeReport(name, NodeState.FAILED, 1, error=ErrorInfo(attack, attack), reason=attack),
        run_id=attack,
    )
    for view in (
        report.to_table(),
        runs_table([{"run_id": attack, "dag": attack, "status": "failed", "note": attack}]),
        problems_table([Problem(attack, Place(attack, 1))]),
    ):
        text = shown(view)
        assert text.replace("\n", "").isprintable()
        text.encode()


def test_markup_is_shown_as_text() -> None:
    graph = Graph("g", [Node("[red]markup[/red]", "f")])
    assert "[red]markup[/red]" in shown(make_report(graph), colours=True)


def test_plain_tables_align_their_columns() -> None:
    assert plain_table([("a", 1, "x"), ("long", 22, "")]) == "a     1   x\nlong  22"
