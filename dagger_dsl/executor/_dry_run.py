"""What a dry run does: bind the inputs, print the plan, and report that nothing was called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagger_dsl.engine.inputs import bind_inputs
from dagger_dsl.engine.launch import plan_for
from dagger_dsl.engine.report import NodeReport, RunReport
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import Graph
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.registry import Registry

__all__ = ["rehearse"]


def rehearse(
    graph: Graph, registry: Registry, inputs: Mapping[str, Any] | None, config: DagConfig
) -> RunReport:
    """Print the plan of *graph* and return the report of a run that did not happen.

    Raises:
        ValidationError, InputError: It could not be run like this.
    """
    plan = plan_for(graph, registry)
    values = bind_inputs(plan, inputs, config.on_missing)
    print(f"dry run of {graph.name!r}: {len(graph.nodes)} nodes, nothing is called")
    for step, level in enumerate(graph.levels(), 1):
        names = ", ".join(
            each if each == graph.nodes[each].action else f"{each} ({graph.nodes[each].action})"
            for each in level
        )
        print(f"  {step}. {names}")
    return _untouched(graph, values)


def _untouched(graph: Graph, inputs: Mapping[str, Any]) -> RunReport:
    """Return the report of a run in which nothing was called."""

    def no_value(node_id: str) -> Any:
        raise KeyError(node_id)

    return RunReport(
        run_id="dry-run",
        dag_name=graph.name,
        graph=graph,
        status=RunStatus.PAUSED,
        inputs=inputs,
        reason="dry run: nothing was called",
        states=lambda: dict.fromkeys(graph.nodes, NodeState.PENDING),
        node=lambda node_id: NodeReport(node_id, NodeState.PENDING),
        value=no_value,
    )
