"""Reports as plain data and plain text, and runs read back from the store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.report import ErrorInfo, NodeReport
from dagger_dsl.errors import NotExecuted, Place, Problem
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeOutput
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from dagger_dsl.views.plain import duration, problem_to_plain, report_to_plain
from dagger_dsl.views.stored import stored_report
from tests.views.reports import make_report


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 \N{MICRO SIGN}s"),
        (0.000_042, "42 \N{MICRO SIGN}s"),
        (0.01234, "12.3 ms"),
        (1.5, "1.50 s"),
        (99.99, "99.99 s"),
        (100, "1 min 40 s"),
        (3599.6, "1 h 00 min"),
        (7384, "2 h 03 min"),
    ],
)
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_problem_keeps_its_place() -> None:
    plain = problem_to_plain(Problem("wrong", Place("a.yaml", 3, 5, "$.nodes[0]", "n"), "code"))
    assert plain == {
        "message": "wrong",
        "code": "code",
        "severity": "error",
        "file": "a.yaml",
        "line": 3,
        "column": 5,
        "path": "$.nodes[0]",
        "node": "n",
    }


def test_a_report_is_json_as_a_whole() -> None:
    graph = Graph("g", [Node("a", "f"), Node("b", "f", dependencies=["a"])])
    report = make_report(
        graph,
        NodeReport("a", NodeState.FAILED, 2, duration=0.5, error=ErrorInfo("E", "m", "trace")),
        NodeReport("b", NodeState.SKIPPED, reason="upstream failed"),
        status=RunStatus.FAILED,
    )
    plain = json.loads(json.dumps(report_to_plain(report)))
    assert plain["status"] == "failed"
    assert plain["counts"] == {
        "completed": 0,
        "failed": 1,
        "skipped": 1,
        "cancelled": 0,
        "pending": 0,
    }
    assert plain["error"] == {"type": "E", "message": "m"}
    assert plain["nodes"][0]["error"]["traceback"] == "trace"
    assert plain["nodes"][1]["reason"] == "upstream failed"


def one() -> NodeOutput:
    return NodeOutput.success(float("nan"), metadata={"rows": 3})


def fail(x: Any) -> None:
    raise ValueError("no")


def recover() -> int:
    return 7


def never(x: Any) -> None:
    raise AssertionError


def test_a_stored_run_is_the_report_it_was() -> None:
    registry = Registry()
    for fn in (one, fail, recover, never):
        registry.register(fn)
    nodes = [
        Node("a", "one"),
        Node("b", "fail", [Input("x", "a.result")], on_failure="continue"),
        Node("c", "never", [Input("x", "b.result")]),
        Node("d", "fail", [Input("x", value=1)], failure="recover"),
    ]
    with Store("sqlite::memory:") as store:
        options = RunOptions(database_url="sqlite::memory:", run_id="r")
        report = engine.run(Graph("g", nodes), registry, None, options, None, store)
        again = stored_report(store.load_run("r"), "sqlite::memory:")
        assert again.run_id == "r"
        assert again.status is report.status is RunStatus.FAILED
        assert again.states() == report.states()
        assert again.graph == report.graph
        assert again.error == report.error
        assert again.value("d") == 7
        assert str(again.value("a")) == "nan"
        with pytest.raises(NotExecuted):
            again.value("c")
        for node_id, node in report.node_reports.items():
            other = again.node_reports[node_id]
            for field in ("attempts", "reason", "recovered", "metadata"):
                assert getattr(other, field) == getattr(node, field), (node_id, field)
            if not node.recovered:  # the store keeps the value, not what it was recovered from
                assert other.error == node.error
            if node.duration is not None:
                assert other.duration == pytest.approx(node.duration, abs=1e-6)
        assert again.to_dot().count("lightgreen") == 2
        assert report_to_plain(again)["nodes"][1]["error"]["type"] == "ValueError"
