"""Pages on a narrow screen: nothing is wider than it, and no row of a table is a page long."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagger_dsl.engine.report import ErrorInfo, NodeReport
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.states import NodeState, RunStatus
from tests.views.browser import opened
from tests.views.reports import make_report

pytestmark = pytest.mark.slow

_ROW = """() => Math.max(...[...document.querySelectorAll('tbody tr:not(.wide)')]
    .filter(row => row.checkVisibility()).map(row => row.getBoundingClientRect().height))"""


@pytest.mark.row("N7")
def test_rows_of_tables_stay_low_on_a_narrow_screen(tmp_path: Path) -> None:
    graph = Graph("flow", [Node("a_rather_long_name_of_a_node", "f"), Node("after", "f")])
    error = ErrorInfo("ConnectionError", "nobody answers at this address " * 20, "Traceback\n")
    report = make_report(
        graph,
        NodeReport("a_rather_long_name_of_a_node", NodeState.FAILED, attempts=3, error=error),
        NodeReport("after", NodeState.SKIPPED, reason="it needs what failed, " * 10),
        status=RunStatus.FAILED,
    )
    path = tmp_path / "run.html"
    report.to_html(path)
    with opened(path) as page:
        page.set_viewport_size({"width": 420, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        assert page.evaluate(_ROW) < 200
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        assert page.evaluate(_ROW) < 250
