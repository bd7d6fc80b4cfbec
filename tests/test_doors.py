"""Every door opens, and every method that goes through one does what its room does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dagger_dsl
from dagger_dsl._doors import DOORS, through
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.views.dot import graph_to_dot, report_to_dot
from dagger_dsl.yamlio import dump_yaml, load_yaml
from tests.views.reports import make_report

PACKAGE = Path(dagger_dsl.__file__).parent
GRAPH = Graph("g", [Node("a", "f"), Node("b", "f", dependencies=["a"])], description="two nodes")


@pytest.mark.parametrize("door", sorted(DOORS))
def test_every_door_leads_to_a_function(door: str) -> None:
    module, _, name = DOORS[door].partition(":")
    function = through(door)
    assert callable(function)
    assert function.__name__ == name
    assert module.startswith("dagger_dsl.")


def test_every_door_is_used_and_no_other() -> None:
    """`through` is called with the names of the table, each at least once."""
    used = set()
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "through":
                (argument,) = call.args
                assert isinstance(argument, ast.Constant), f"{path.name}: a door is named as text"
                used.add(argument.value)
    assert used == set(DOORS)


def test_a_graph_reaches_its_pictures() -> None:
    assert GRAPH.to_dot() == graph_to_dot(GRAPH)
    states = {"a": "completed", "b": "running"}
    assert GRAPH.to_dot(states) == graph_to_dot(GRAPH, states)
    report = make_report(GRAPH)
    assert GRAPH.to_dot(report) == graph_to_dot(GRAPH, report)
    assert report.to_dot() == report_to_dot(report)


def test_a_graph_reaches_yaml() -> None:
    assert GRAPH.to_yaml() == dump_yaml(GRAPH)
    assert Graph.from_yaml(GRAPH.to_yaml()) == GRAPH
    assert load_yaml(GRAPH.to_yaml()) == GRAPH


def test_a_door_that_is_not_in_the_table_stays_shut() -> None:
    with pytest.raises(KeyError):
        through("os:system")
