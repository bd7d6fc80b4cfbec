"""Reports made by hand, so that what is shown of a run can be tested without running one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagger_dsl.engine.report import ErrorInfo, NodeReport, RunReport
from dagger_dsl.errors import NotExecuted
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.states import NodeState, RunStatus


def make_report(graph: Graph, *nodes: NodeReport, **fields: Any) -> RunReport:
    """Return a report in which *nodes* ended as they say and the others are pending."""
    reports = {node_id: NodeReport(node_id, NodeState.PENDING) for node_id in graph.nodes}
    reports |= {each.node_id: each for each in nodes}

    def states() -> Mapping[str, NodeState]:
        return {node_id: each.state for node_id, each in reports.items()}

    def value(node_id: str) -> Any:
        raise NotExecuted(node_id)

    given: dict[str, Any] = {
        "run_id": "run_001",
        "dag_name": graph.name,
        "graph": graph,
        "status": RunStatus.COMPLETED,
        "duration": 2.5,
        **fields,
    }
    return RunReport(**given, states=states, node=reports.__getitem__, value=value)


def hostile(address: str) -> RunReport:
    """Return a report in which every text tries to load something and to run something."""
    bad = (
        f"<script>console.error('ran')</script><img src={address}/img onerror=alert(1)>"
        f'"\'><link rel=stylesheet href="{address}/css"><style>@import "{address}/import";'
        f"body{{background:url({address}/url)}}</style></title></style>&lt;\u202e"
    )
    node = bad.replace(".", "-")[:200]
    graph = Graph("g" + node[:150], [Node(node, "f"), Node("b", "f", dependencies=[node])])
    return make_report(
        graph,
        NodeReport(node, NodeState.FAILED, attempts=1, error=ErrorInfo(bad, bad, bad)),
        NodeReport("b", NodeState.SKIPPED, reason=bad),
        status=RunStatus.FAILED,
        run_id=bad,
        reason=bad,
        inputs={bad: bad, "x": [bad]},
    )
