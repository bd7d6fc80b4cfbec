"""A run as the store has it, as the report that everything else shows.

Reading needs no actions: whoever looks at a run need not have the code that made it.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.attempts import AttemptReport, from_epoch, recorded_attempts
from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.report import RunReport
from dagger_dsl.engine.story import graph_now
from dagger_dsl.errors import ExecutionError, NotExecuted
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.views.stored_nodes import StoredNodes

if TYPE_CHECKING:
    from dagger_dsl.store.runs import StoredRun
    from dagger_dsl.store.storage import Store

__all__ = ["nested_in", "nested_reports", "stored_report"]


def stored_report(
    stored: StoredRun, database_url: str | None = None, store: Store | None = None
) -> RunReport:
    """Return what is recorded of a run as a report.

    Args:
        stored: The run, as `Store.load_run` gives it.
        database_url: Where it is recorded, for the report.
        store: The store that has it: the reports of its nested runs are read from it, and whether
            a process executes it. Without one they are missing, and what is recorded as running is
            taken for that.
    """
    graph = graph_now(stored.graph, stored.commands)
    latest = {node_id: node for (node_id, key), node in stored.nodes.items() if key == "default"}
    history, sinks = None, None
    if graph.machine is not None:
        from dagger_dsl.views.stored_machine import StoredHistory, latest_cycles

        history, latest = StoredHistory(graph, stored), latest_cycles(stored)
        sinks = () if history.current is None else (history.current,)
    orphaned, answered = False, frozenset[tuple[str, str]]()
    if store is not None:
        orphaned, answered = _seen_by_owner(stored, store)
    nodes = StoredNodes(graph, stored, latest, orphaned=orphaned, answered=answered)

    def value(node_id: str) -> Any:
        known = latest[node_id]
        if not known.has_value:
            raise NotExecuted(f"the value of node {node_id!r} was not stored: it said store=False")
        return known.value()

    @functools.cache
    def all_attempts() -> dict[str, list[AttemptReport]]:
        return recorded_attempts(stored.attempts)

    error = stored.error or {}
    failed = any(known.state == NodeState.FAILED for known in latest.values())
    # Of a run that failed for no node, such as one that passed a limit.
    whole = None if failed or "message" not in error else str(error["message"])
    finished, took = _span(stored, orphaned=orphaned)
    return RunReport(
        run_id=stored.run_id,
        dag_name=stored.flow_name,
        graph=graph,
        status=RunStatus(stored.status),
        inputs=stored.inputs,
        started_at=stored.created_at,
        finished_at=finished,
        duration=took,
        reason=str(error.get("reason", "")),
        database_url=database_url,
        exception=None if whole is None else ExecutionError(whole),
        error=None if whole is None else ErrorInfo(str(error.get("type", "")), whole, ""),
        states=nodes.states,
        state=nodes.state,
        invocations=nodes.invocations,
        node=nodes.node,
        value=value,
        nested=None
        if store is None or all(each.subgraph is None for each in graph.nodes.values())
        else lambda: nested_reports(
            store,
            stored.run_id,
            database_url,
            None if graph.machine is None else graph.machine.kept_runs,
        ),
        sinks=sinks,
        history=history,
        config=stored.config,
        attempts=lambda node_id: all_attempts().get(node_id, []),
        counts=nodes.counts,
        orphaned=orphaned,
    )


def _seen_by_owner(stored: StoredRun, store: Store) -> tuple[bool, frozenset[tuple[str, str]]]:
    """Return whether a run's process died, and what has an answer that nobody has taken yet."""
    asking = {name for name, node in stored.nodes.items() if node.state == NodeState.WAITING}
    if stored.status != RunStatus.RUNNING and not asking:
        return False, frozenset()
    from dagger_dsl.engine.remote import RunControl

    run = RunControl(store, stored.run_id)
    # It may have ended since it was read.
    orphaned = stored.status == RunStatus.RUNNING and not run.is_executed
    orphaned = orphaned and run.status is RunStatus.RUNNING
    if asking:
        asking -= {(each.node_id, each.key) for each in run.questions()}
        asking -= run.jobs_awaited().keys()
    return orphaned, frozenset(asking)


def _span(stored: StoredRun, *, orphaned: bool) -> tuple[dt.datetime | None, float]:
    """Return until when a run ran, None when it goes on, and how long that is or has been."""
    begun, end = stored.created_at, stored.updated_at
    if stored.status != RunStatus.RUNNING:
        return end, (end - begun).total_seconds()
    if not orphaned:
        return None, max(0.0, (dt.datetime.now(tz=dt.UTC) - begun).total_seconds())
    for node in stored.attempts:
        if node.started_at is not None:
            end = max(end, from_epoch(node.started_at + (node.duration or 0.0)))
    return end, max(0.0, (end - begun).total_seconds())


def nested_reports(
    store: Store, run_id: str, database_url: str | None = None, most: int | None = None
) -> dict[str, RunReport | dict[str, RunReport]]:
    """Return what is recorded of the runs in a run, by node id; of a mapped node, by key.

    Of a state machine it is by state, and then by the number of the cycle.

    Args:
        store: Where they are recorded. One that is closed is opened again by *database_url*.
        run_id: The run around them.
        database_url: Where that is, for the reports.
        most: Only so many, the newest; None for all.
    """
    if store.database.is_closed and database_url is not None:
        from dagger_dsl.store.storage import Store

        with Store(database_url) as again:
            return nested_reports(again, run_id, database_url, most)
    found: dict[str, RunReport | dict[str, RunReport]] = {}
    # The oldest first: where a node has several, the newest one counts.
    for each in reversed(store.list_runs(limit=most, parent=run_id)):
        node_id, key = nested_in(each.run_id, run_id)
        report = stored_report(store.load_run(each.run_id), database_url, store)
        if not key:
            found[node_id] = report
            continue
        keyed = found.setdefault(node_id, {})
        if isinstance(keyed, dict):
            keyed[key] = report
    return found


def nested_in(run_id: str, outer: str) -> tuple[str, str]:
    """Return the node that a nested run is in, and the key of its invocation, if it has one.

    Args:
        run_id: The nested run.
        outer: The run that it is directly in.
    """
    node_id, _, key = run_id.removeprefix(f"{outer}/").partition("/")
    return _unquoted(node_id), _unquoted(key)


def _unquoted(part: str) -> str:
    """Return the node's id or the key that a part of a nested run's id was made of."""
    part = part.partition("~")[0]  # how often its inputs have changed
    for code, sign in (("%7E", "~"), ("%2F", "/"), ("%25", "%")):
        part = part.replace(code, sign)
    return part
