"""Reports and tables as plain text and plain data, for output that is no terminal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from dagger_dsl.engine.failure import failures_in
from dagger_dsl.engine.report import NodeReport
from dagger_dsl.engine.words import duration
from dagger_dsl.errors import DaggerError
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.model.text import first_line, printable
from dagger_dsl.model.values import to_shown
from dagger_dsl.views.states import STYLES

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.errors import Problem
    from dagger_dsl.model.caching import CacheDecision

__all__ = [
    "STYLES",
    "Output",
    "cache_to_plain",
    "duration",
    "node_to_plain",
    "note_of",
    "outputs_of",
    "plain_table",
    "problem_to_plain",
    "report_to_plain",
    "rows_of",
    "summed_up",
    "told_first",
]

#: A sink, its value, and why that cannot be read.
Output: TypeAlias = "tuple[str, Any, DaggerError | None]"


def told_first(states: Mapping[str, NodeState], most: int | None = None) -> list[str]:
    """Return so many ids, in declaration order.

    Where not all fit: what failed, then what did not complete, then the rest.

    Args:
        states: States by node id.
        most: Ids at most, None for all.
    """
    if most is None or len(states) <= most:
        return list(states)
    rank = {NodeState.FAILED: 0, NodeState.COMPLETED: 2, NodeState.PENDING: 3}
    kept = set(sorted(states, key=lambda each: rank.get(states[each], 1))[:most])
    return [each for each in states if each in kept]


def rows_of(
    report: RunReport, ids: Iterable[str], most: int | None = None
) -> list[tuple[int, str, NodeReport]]:
    """Return how nodes of a run stand, each followed by the nodes of its own run.

    Args:
        report: The run.
        ids: The nodes.
        most: Rows at most, None for all.

    Returns:
        Rows of a level, 0 for the run's own nodes, what to call the node, and its report.
    """
    return list(islice(_rows(report, ids, 0), most))


def _rows(
    report: RunReport, ids: Iterable[str], level: int
) -> Iterator[tuple[int, str, NodeReport]]:
    nested = report.nested
    for node_id in ids:
        inside = nested.get(node_id)
        yield level, node_id, summed_up(report, report.node_reports[node_id], inside)
        if isinstance(inside, Mapping):
            calls = report.invocations(node_id)
            for key, child in inside.items():
                call = calls.get(key) or _call_of(report, node_id, key, child)
                yield level + 1, f"[{key}]", call
                yield from _rows(child, child.graph.nodes, level + 2)
        elif inside is not None:
            yield from _rows(inside, inside.graph.nodes, level + 1)


def summed_up(report: RunReport, node: NodeReport, inside: Any = None) -> NodeReport:
    """Return how a node stands, with a note of what all its calls have come to.

    Args:
        report: The run.
        node: Of its `RunReport.node_reports`.
        inside: Of its `RunReport.nested`: where a node of it failed, that says why this one did.
    """
    node_id = node.node_id
    if report.history is not None:
        times = report.history.counts.get(node_id, 0)
        if times > 1:
            node = attrs.evolve(node, note=f"entered {times:,} times")
    elif report.graph.nodes[node_id].map_over is not None:
        counts = report.counts(node_id)
        failed = counts.get(NodeState.FAILED, 0)
        if failed:
            told = f"{failed:,} of {sum(counts.values()):,} items failed"
            node = attrs.evolve(node, note=told)
    if inside is None or node.state is not NodeState.FAILED:
        return node
    runs = inside if isinstance(inside, Mapping) else {"": inside}
    found = next(
        (
            (key, each)
            for key, run in runs.items()
            if not run.success
            for each in islice(failures_in(run), 1)
        ),
        None,
    )
    if found is None or found[1].error is None:
        return node
    key, failure = found
    place = f"in {_place((f'[{key}]', *failure.path) if key else failure.path)}"
    note = f"{place}; {node.note}" if node.note else place
    return attrs.evolve(node, error=failure.error, note=note)


def _place(path: Iterable[str]) -> str:
    """Return where a node is, from the nodes and items around it."""
    return ".".join(path).replace(".[", " [").replace("].", "] ")


def _call_of(report: RunReport, node_id: str, key: str, child: RunReport) -> NodeReport:
    """Return how a call stands that has no record of its own: one that has not ended.

    A machine that runs keeps none of earlier cycles, so that its nested run says how one ended.
    """
    if report.graph.machine is None:
        return NodeReport(node_id, NodeState.PENDING, key=key)
    return NodeReport(
        node_id,
        _ENDS.get(child.status, NodeState.RUNNING),
        key=key,
        started_at=child.started_at,
        finished_at=child.finished_at,
        duration=child.duration,
        error=child.error,
        reason=child.reason,
    )


#: States of calls whose nested run ended so.
_ENDS = {
    RunStatus.COMPLETED: NodeState.COMPLETED,
    RunStatus.FAILED: NodeState.FAILED,
    RunStatus.TIMED_OUT: NodeState.FAILED,
    RunStatus.CANCELLED: NodeState.CANCELLED,
    RunStatus.PAUSED: NodeState.WAITING,
}


def note_of(report: NodeReport) -> str:
    """Return what there is to say of a node beside its state: its error, its reason, or nothing."""
    notes = []
    if report.recovered:
        notes.append("recovered")
    if report.restored:
        notes.append("restored")
    if report.error is not None:
        notes.append(first_line(report.error))
    elif report.reason:
        notes.append(first_line(report.reason))
    if report.note:
        notes.append(first_line(report.note))
    return "; ".join(notes)


def plain_table(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as lines with aligned columns."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def report_to_plain(report: RunReport, outputs: Iterable[Output] | None = None) -> dict[str, Any]:
    """Return a report as JSON types: the run, its nodes in declaration order, its outputs.

    Args:
        report: What to show.
        outputs: What `outputs_of` gave, where it was read already.
    """
    error = report.error
    return {
        "run_id": report.run_id,
        "dag": report.dag_name,
        "status": str(report.status),
        "success": report.success,
        "reason": report.reason,
        "started_at": _moment(report.started_at),
        "finished_at": _moment(report.finished_at),
        "duration": report.duration,
        "orphaned": report.orphaned,
        "error": None if error is None else {"type": error.type, "message": error.message},
        "counts": {
            "completed": report.completed_nodes,
            "failed": report.failed_nodes,
            "skipped": report.skipped_nodes,
            "cancelled": report.cancelled_nodes,
            "pending": report.pending_nodes,
        },
        "nodes": [node_to_plain(each) for each in report.node_reports.values()],
        **_nested_to_plain(report),
        "outputs": {
            node_id: to_shown(value) if fault is None else {"$fault": str(fault)}
            for node_id, value, fault in (outputs_of(report) if outputs is None else outputs)
        },
    }


def _nested_to_plain(report: RunReport) -> dict[str, Any]:
    """Return the runs of nodes that are workflows; nothing where there are none."""
    nested = {
        node_id: {key: report_to_plain(each) for key, each in inside.items()}
        if isinstance(inside, Mapping)
        else report_to_plain(inside)
        for node_id, inside in report.nested.items()
    }
    return {"nested": nested} if nested else {}


def outputs_of(report: RunReport) -> Iterator[Output]:
    """Yield each completed sink with its value, or with the error of reading it.

    A recorded value may be of a type that only the module of its action makes known.
    """
    values = report.values
    for node_id in report.sinks:
        if node_id in values:
            try:
                yield node_id, values[node_id], None
            except DaggerError as error:
                yield node_id, None, error


def node_to_plain(report: NodeReport) -> dict[str, Any]:
    """Return how one node ended as JSON types."""
    error = report.error
    return {
        "id": report.node_id,
        "state": str(report.state),
        "attempts": report.attempts,
        "started_at": _moment(report.started_at),
        "finished_at": _moment(report.finished_at),
        "duration": report.duration,
        "reason": report.reason,
        "recovered": report.recovered,
        "restored": report.restored,
        "error": None
        if error is None
        else {"type": error.type, "message": error.message, "traceback": error.traceback},
    }


def cache_to_plain(decision: CacheDecision) -> dict[str, Any]:
    """Return what came of looking for the result of another run as JSON types."""
    return {
        "hit": decision.hit,
        "reason": decision.reason,
        "key": decision.key,
        "version": decision.version,
        "input_hash": decision.input_hash,
        "made_at": _moment(decision.made_at),
        "run_id": decision.run_id,
    }


def problem_to_plain(problem: Problem) -> dict[str, Any]:
    """Return a problem as JSON types."""
    place = problem.place
    return {
        "message": problem.message,
        "code": problem.code,
        "severity": problem.severity,
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "path": place.path,
        "node": place.node,
    }


def _moment(moment: dt.datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
