"""What failed in a run, wherever it happened: in a node, an item of a list, a run inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.bindings import Bound, bound_inputs
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.states import NodeState

if TYPE_CHECKING:
    from dagger_dsl.engine.attempts import AttemptReport
    from dagger_dsl.engine.error_info import ErrorInfo
    from dagger_dsl.engine.report import NodeReport, RunReport

__all__ = ["Failure", "failures_of"]


@attrs.frozen
class Failure:
    """One call that failed for good.

    Attributes:
        path: Where: the node, or the nodes of the runs around it first; an item as ``[3]``.
        node: How it stands.
        report: The run it belongs to.
    """

    path: tuple[str, ...]
    node: NodeReport
    report: RunReport = attrs.field(repr=False)

    @property
    def error(self) -> ErrorInfo | None:
        """What it failed with."""
        return self.node.error

    def inputs(self) -> list[Bound]:
        """Return what it was called with; see `bound_inputs`."""
        return bound_inputs(self.report, self.node.node_id, self.node.key)

    def earlier(self) -> list[AttemptReport]:
        """Return the attempts before the last one."""
        return [
            each
            for each in self.report.attempts(self.node.node_id)
            if each.key == self.node.key and each.number < self.node.attempts
        ]


def failures_of(report: RunReport, nested: Mapping[str, Any] | None = None) -> Iterator[Failure]:
    """Yield what failed in a run, where it happened rather than where it was passed on.

    Args:
        report: The run.
        nested: Its `RunReport.nested`, where it was read already.
    """
    nested = report.nested if nested is None else nested
    for node_id in report.nodes_in(NodeState.FAILED):
        within = [*_within(report, node_id, nested)]
        yield from within or [Failure((node_id,), report.node_reports[node_id], report)]


def _within(report: RunReport, node_id: str, nested: Mapping[str, Any]) -> Iterator[Failure]:
    """Yield the failures that one node has failed with: of its items, of its own run."""
    child = nested.get(node_id)
    children = child if isinstance(child, Mapping) else {DEFAULT_KEY: child} if child else {}
    if report.graph.nodes[node_id].map_over is None:
        for key, each in children.items():
            item = () if key == DEFAULT_KEY else (f"[{key}]",)
            yield from _inside((node_id, *item), each)
        return
    for key, call in report.invocations(node_id).items():
        if call.state is NodeState.FAILED:
            path = (node_id, f"[{key}]")
            inside = [*_inside(path, children.get(key))]
            yield from inside or [Failure(path, call, report)]


def _inside(path: tuple[str, ...], child: RunReport | None) -> Iterator[Failure]:
    if child is not None:
        for each in failures_of(child):
            yield attrs.evolve(each, path=(*path, *each.path))
