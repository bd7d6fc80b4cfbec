"""``show --node``: one node of a run: what it was given, how its attempts went, what it gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.cli.common import OK, STORE
from dagger_dsl.cli.screen import Screen
from dagger_dsl.cli.steering import question_lines
from dagger_dsl.engine.bindings import Bound, bound_inputs
from dagger_dsl.engine.words import count
from dagger_dsl.errors import DaggerError, NodeNotFound, StoreError
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.text import first_line
from dagger_dsl.model.values import MISSING, to_shown
from dagger_dsl.views.plain import cache_to_plain, duration, node_to_plain, plain_table

if TYPE_CHECKING:
    from dagger_dsl.engine.attempts import AttemptReport
    from dagger_dsl.engine.remote import RunControl
    from dagger_dsl.engine.report import NodeReport, RunReport

__all__ = ["show_node"]

#: Characters of an input, and of a value.
_INPUT: Final = 300
_VALUE: Final = 10_000

#: Attempts and invocations that are listed; with ``--json`` all of them are.
_ROWS: Final = 50


def show_node(
    report: RunReport,
    node_id: str,
    run: RunControl,
    database: str,
    screen: Screen,
) -> int:
    """Show one node and return the exit code.

    Raises:
        NodeNotFound: The run has no such node.
    """
    if node_id not in report.graph.nodes:
        raise NodeNotFound(node_id, tuple(report.graph.nodes))
    node, values = report.node_reports[node_id], report.values
    inputs = bound_inputs(report, node_id)
    attempts = report.attempts(node_id)
    value = fault = None
    try:
        value = values.get(node_id)
    except DaggerError as error:  # a type that only the actions' module knows, a damaged artifact
        fault = error
    code = STORE if isinstance(fault, StoreError) else OK
    if screen.as_json:
        content = node_to_plain(node)
        content["cache"] = None if node.cache is None else cache_to_plain(node.cache)
        content["inputs"] = [_input_to_plain(each) for each in inputs]
        content["calls"] = [_attempt_to_plain(each) for each in attempts]
        if node_id in values:
            content["value"] = to_shown(value)
            content["value_fault"] = None if fault is None else str(fault)
        screen.json(content)
        return code
    for line in _head(node):
        screen.result(line)
    for each in run.questions() if node.state == "waiting" else ():
        if each.node_id == node_id:
            screen.result("\n".join(question_lines(run, each, database)))
    if inputs:
        screen.result("inputs:")
        for line in _inputs(inputs):
            screen.result(f"  {line}")
    calls = report.invocations(node_id)
    # Of an end that was none of a call, the calls before it tell more.
    ends = bool(attempts) and attempts[-1].state is not node.state
    if (len(attempts) > 1 or ends) and not calls:
        screen.result("attempts:")
        screen.result(_indented(_attempt_rows(attempts)))
    if calls:
        screen.result("invocations:")
        screen.result(_indented(_call_rows(calls)))
    if isinstance(fault, StoreError):
        screen.error(f"error: {fault}")
    elif fault is not None:
        screen.result(f"value not shown: {fault}")
    elif node_id in values:
        screen.result(f"value: {excerpt(value, _VALUE)[0]}")
    if node.error is not None:
        screen.result((node.error.traceback or str(node.error)).rstrip())
    return code


def _head(node: NodeReport) -> Iterator[str]:
    took = "" if node.duration is None else f", {duration(node.duration)}"
    how = ", recovered by its failure handler" if node.recovered else ""
    yield f"{node.node_id}: {node.state}, {count(node.attempts, 'attempt')}{took}{how}"
    if node.started_at is not None:
        begun = f"{node.started_at:%Y-%m-%d %H:%M:%S.%f}"[:-3]
        yield f"started: {begun} UTC"
    if node.reason:
        yield f"reason: {node.reason}"
    if node.cache is not None:
        yield f"cache: {node.cache}"


def _inputs(inputs: Sequence[Bound]) -> Iterator[str]:
    for each in inputs:
        source = "" if each.reference is None else f"  <- {each.reference}"
        if each.value is MISSING:
            yield f"{each.name} not shown: {each.missing}{source}"
        else:
            yield f"{each.name} = {excerpt(each.value, _INPUT)[0]}{source}"


def _attempt_rows(attempts: Sequence[AttemptReport]) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = [
        (
            each.number,
            each.state,
            "" if each.started_at is None else f"{each.started_at:%H:%M:%S.%f}"[:-3],
            "" if each.duration is None else duration(each.duration),
            first_line(each.error or "", 100),
        )
        for each in attempts[-_ROWS:]
    ]
    return rows


def _call_rows(calls: Mapping[str, NodeReport]) -> list[Sequence[object]]:
    chosen = sorted(calls.items(), key=lambda each: each[1].state != "failed")[:_ROWS]
    rows: list[Sequence[object]] = [
        (
            f"[{key}]",
            each.state,
            count(each.attempts, "attempt"),
            "" if each.duration is None else duration(each.duration),
            first_line(each.error if each.error is not None else each.reason, 100),
        )
        for key, each in chosen
    ]
    if len(calls) > _ROWS:
        rows.append((f"and {len(calls) - _ROWS} more", "", "", "", ""))
    return rows


def _indented(rows: Sequence[Sequence[object]]) -> str:
    return "\n".join(f"  {line}" for line in plain_table(rows).split("\n"))


def _input_to_plain(each: Bound) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": each.name, "reference": each.reference}
    if each.value is MISSING:
        return {**plain, "missing": each.missing}
    return {**plain, "value": to_shown(each.value)}


def _attempt_to_plain(each: AttemptReport) -> dict[str, Any]:
    return {
        "attempt": each.number,
        "key": each.key,
        "state": str(each.state),
        "started_at": None if each.started_at is None else each.started_at.isoformat(),
        "duration": each.duration,
        "error": None if each.error is None else each.error.to_dict(),
    }
