"""Nested runs in tables and plain data: below their node, level by level."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO

import pytest
from rich.console import Console

from dagger_dsl import DAG, action
from dagger_dsl.engine.report import RunReport
from dagger_dsl.registry import Registry
from dagger_dsl.views.plain import report_to_plain, rows_of
from dagger_dsl.views.tables import report_table


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def report() -> RunReport:
    """Return the report of a run with a nested run, and runs of items in that."""

    def add(x: int) -> int:
        return x + 1

    with DAG("leaf") as leaf:
        action(add)(x=leaf.input("x", int))
    with DAG("middle") as middle:
        leaf.map(middle.input("xs", list[int]))
    with DAG("outer") as outer:
        action(add).with_options(id="first")(x=1)
        middle(xs=[1, 2])
    outer.run()
    found: RunReport = outer.report
    return found


def test_rows_have_their_level(report: RunReport) -> None:
    rows = [(level, name) for level, name, _ in rows_of(report, report.graph.nodes)]
    assert rows == [
        (0, "first"),
        (0, "middle"),
        (1, "leaf"),
        (2, "[0]"),
        (3, "add"),
        (2, "[1]"),
        (3, "add"),
    ]
    assert rows_of(report, report.graph.nodes, 3) == rows_of(report, report.graph.nodes)[:3]


def test_a_table_indents_them(report: RunReport) -> None:
    out = StringIO()
    Console(file=out, width=100).print(report_table(report))
    names = [line.split("│")[1].rstrip() for line in out.getvalue().splitlines() if "│" in line]
    assert names == [
        " first",
        " middle",
        "   leaf",
        "     [0]",
        "       add",
        "     [1]",
        "       add",
    ]
    out = StringIO()
    Console(file=out, width=100).print(report_table(report, limit=1))
    assert "and 1 more" in out.getvalue()


def test_plain_data_has_whole_reports(report: RunReport) -> None:
    plain = report_to_plain(report)
    items = plain["nested"]["middle"]["nested"]["leaf"]
    assert {key: each["outputs"] for key, each in items.items()} == {
        "0": {"add": 2},
        "1": {"add": 3},
    }
    assert "nested" not in items["0"]
