"""What the command shows of nested runs, and how it goes on with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

NESTED_PY = """
from dagger_dsl import DAG
from pipeline import ask, double, fickle, one, told

with DAG("inner") as inner:
    fickle(x=inner.input("x", int))
with DAG("outer") as outer:
    double(x=inner(x=one()))
with DAG("asks") as asks:
    told(answer=ask(x=asks.input("x", int)))
with DAG("around") as around:
    asks(x=1)
"""


@pytest.fixture
def nested(folder: Path) -> Path:
    """A folder with workflows in workflows."""
    (folder / "nested.py").write_text(NESTED_PY)
    return folder


def test_show_has_the_nodes_of_nested_runs_below_their_node(cli: Cli, nested: Path) -> None:
    assert cli("run", "nested.py:outer", "--db", "runs.db", "--run-id", "r").code == 1
    shown = cli("show", "r", "--db", "runs.db")
    lines = [line.split()[:2] for line in (shown.out + shown.err).splitlines()]
    assert ["inner", "failed"] in lines
    assert lines[lines.index(["inner", "failed"]) + 1] == ["fickle", "failed"]
    assert "\n  fickle" in shown.out + shown.err
    plain = json.loads(cli("show", "r", "--db", "runs.db", "--json").out)
    assert plain["nested"]["inner"]["run_id"] == "r/inner"
    assert plain["nested"]["inner"]["nodes"][0]["state"] == "failed"
    inside = cli("show", "r/inner", "--db", "runs.db", "--node", "fickle")
    assert "not yet" in inside.out


def test_runs_lists_nested_runs_only_when_asked(cli: Cli, nested: Path) -> None:
    cli("run", "nested.py:outer", "--db", "runs.db", "--run-id", "r")
    listed = json.loads(cli("runs", "--db", "runs.db", "--json").out)
    assert [each["run_id"] for each in listed] == ["r"]
    inside = json.loads(cli("runs", "--db", "runs.db", "--json", "--parent", "r").out)
    assert [(each["run_id"], each["parent_run_id"]) for each in inside] == [("r/inner", "r")]


def test_resume_finds_the_workflows_of_a_file(cli: Cli, nested: Path) -> None:
    cli("run", "nested.py:outer", "--db", "runs.db", "--run-id", "r")
    (nested / "works").touch()
    without = cli("resume", "r", "--db", "runs.db")
    assert without.code == 2
    done = cli("resume", "r", "--db", "runs.db", "--actions", "nested.py")
    assert done.code == 0, done.err
    assert (nested / "calls.txt").read_text().split() == ["one", "fickle", "fickle", "double"]


def test_an_answer_to_a_nested_run_lets_the_run_around_it_go_on(cli: Cli, nested: Path) -> None:
    paused = cli("run", "nested.py:around", "--db", "runs.db", "--run-id", "r")
    assert paused.code == 3  # paused
    assert "waits for run r/asks, which is paused" in paused.out + paused.err
    told = cli("show", "r", "--db", "runs.db")
    for each in (paused, told):  # both say how to go on
        assert "answer r/asks ask true" in each.out + each.err
    assert cli("answer", "r/asks", "ask", "true", "--db", "runs.db").code == 0
    done = cli("resume", "r", "--db", "runs.db", "--actions", "nested.py")
    assert done.code == 0, done.err
    assert "yes" in done.out + done.err
