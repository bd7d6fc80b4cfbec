"""A run as the store has it, as the report that everything else shows.

Reading needs no actions: whoever looks at a run need not have the code that made it.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.attempts import AttemptReport, moment, recorded_attempts
from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.lookups import decision_of
from dagger_dsl.engine.report import NodeReport, RunReport
from dagger_dsl.engine.story import graph_now, prompts
from dagger_dsl.errors import ExecutionError, NotExecuted
from dagger_dsl.model.states import NodeState, RunStatus

if TYPE_CHECKING:
    from dagger_dsl.store.runs import StoredNode, StoredRun
    from dagger_dsl.store.storage import Store

__all__ = ["nested_reports", "stored_report"]


def stored_report(
    stored: StoredRun, database_url: str | None = None, store: Store | None = None
) -> RunReport:
    """Return what is recorded of a run as a report.

    Args:
        stored: The run, as `Store.load_run` gives it.
        database_url: Where it is recorded, for the report.
        store: The store that has it: the reports of its nested runs are read from it. Without one
            they are missing.
    """
    graph = graph_now(stored.graph, stored.commands)
    asked = prompts(stored.commands)
    latest = {node_id: node for (node_id, key), node in stored.nodes.items() if key == "default"}
    history, sinks = None, None
    if graph.machine is not None:
        from dagger_dsl.views.stored_machine import StoredHistory, latest_cycles

        history, latest = StoredHistory(graph, stored), latest_cycles(stored)
        sinks = () if history.current is None else (history.current,)

    begun = _begun(stored, latest)

    def state(node_id: str) -> NodeState:
        if node_id in begun:
            return NodeState.RUNNING
        return NodeState(latest[node_id].state) if node_id in latest else NodeState.PENDING

    def states() -> Mapping[str, NodeState]:
        return {node_id: state(node_id) for node_id in graph.nodes}

    def node(node_id: str) -> NodeReport:
        known = latest.get(node_id)
        if known is None:
            state = NodeState.RUNNING if node_id in begun else NodeState.PENDING
            return NodeReport(node_id, state)
        found = _node_report(known)
        if node_id in begun:
            return attrs.evolve(found, state=NodeState.RUNNING)
        if found.state is not NodeState.WAITING:
            return found
        reason = f"waits for a person: {asked.get((node_id, known.key), '')}"
        return attrs.evolve(found, reason=reason)

    def value(node_id: str) -> Any:
        known = latest[node_id]
        if not known.has_value:
            raise NotExecuted(f"the value of node {node_id!r} was not stored: it said store=False")
        return known.value()

    @functools.cache
    def calls() -> dict[str, dict[str, StoredNode]]:
        found: dict[str, dict[str, StoredNode]] = {}
        for (node_id, key), known in stored.nodes.items():
            if key != "default":
                found.setdefault(node_id, {})[key] = known
        return found

    def invocations(node_id: str) -> Mapping[str, NodeReport]:
        return {key: _node_report(known) for key, known in calls().get(node_id, {}).items()}

    @functools.cache
    def all_attempts() -> dict[str, list[AttemptReport]]:
        return recorded_attempts(stored.attempts)

    error = stored.error or {}
    failed = any(known.state == NodeState.FAILED for known in latest.values())
    return RunReport(
        run_id=stored.run_id,
        dag_name=stored.flow_name,
        graph=graph,
        status=RunStatus(stored.status),
        inputs=stored.inputs,
        started_at=stored.created_at,
        finished_at=None if stored.status == RunStatus.RUNNING else stored.updated_at,
        duration=(stored.updated_at - stored.created_at).total_seconds(),
        reason=str(error.get("reason", "")),
        database_url=database_url,
        # Of a run that failed for no node, such as one that passed a limit.
        exception=None if failed or "message" not in error else ExecutionError(error["message"]),
        states=states,
        state=state,
        invocations=invocations,
        node=node,
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
        counts=lambda node_id: dict(
            Counter(str(known.state) for known in calls().get(node_id, {}).values())
        ),
    )


def _begun(stored: StoredRun, latest: Mapping[str, StoredNode]) -> set[str]:
    """Return the nodes that were started in a run that goes on, and have not ended since.

    Of those that commands added, and of the states of a machine, the record does not say it.
    """
    graph = stored.graph
    if stored.status != RunStatus.RUNNING or graph.machine is not None:
        return set()
    started: dict[int, int] = {}
    for seq, slots in stored.releases:
        started |= dict.fromkeys(slots, seq)
    begun = set()
    for slot, node_id in enumerate(graph.nodes):  # slots are numbered as nodes are declared
        known, since = latest.get(node_id), started.get(slot)
        if since is None:
            continue
        # The first entry of a commit holds its starts: it may be the failure that is tried again.
        again = known is not None and known.state == NodeState.FAILED and known.seq == since
        if known is None or known.seq < since or again:
            begun.add(node_id)
    return begun


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
        node_id, _, key = each.run_id.removeprefix(f"{run_id}/").partition("/")
        report = stored_report(store.load_run(each.run_id), database_url, store)
        node_id, key = _unquoted(node_id), _unquoted(key)
        if not key:
            found[node_id] = report
            continue
        keyed = found.setdefault(node_id, {})
        if isinstance(keyed, dict):
            keyed[key] = report
    return found


def _unquoted(part: str) -> str:
    """Return the node's id or the key that a part of a nested run's id was made of."""
    part = part.partition("~")[0]  # how often its inputs have changed
    for code, sign in (("%7E", "~"), ("%2F", "/"), ("%25", "%")):
        part = part.replace(code, sign)
    return part


def _node_report(node: StoredNode) -> NodeReport:
    meta = node.meta or {}
    error = node.error
    started = None if node.started_at is None else moment(node.started_at)
    ended = None
    if started is not None and node.duration is not None:
        ended = started + dt.timedelta(seconds=node.duration)
    return NodeReport(
        node_id=node.node_id,
        key=node.key,
        state=NodeState(node.state),
        attempts=node.attempt if started is not None else 0,
        started_at=started,
        finished_at=ended,
        duration=node.duration,
        error=None if error is None else ErrorInfo(**error),
        reason=str(meta.get("reason", "")),
        recovered=bool(meta.get("recovered")),
        metadata=meta.get("metadata", {}),
        cache=decision_of(meta["cache"]) if "cache" in meta else None,
    )
