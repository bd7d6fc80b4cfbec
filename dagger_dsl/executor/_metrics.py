"""What a run took, and how one of its nodes stands: numbers from a report or from the record.

Both give the same. The record needs no action of the graph, and of a run that still goes on it
tells what has ended so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.attempts import Another
from dagger_dsl.engine.error_info import ErrorInfo, error_info
from dagger_dsl.engine.report import NodeReport, RunReport
from dagger_dsl.engine.story import graph_now
from dagger_dsl.errors import ConfigurationError, NodeNotFound, RunNotFound, shown
from dagger_dsl.executor._recorded import recorded_run
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.graph import Graph
from dagger_dsl.model.states import NodeState, RunStatus

if TYPE_CHECKING:
    from dagger_dsl.executor._catalogue import Catalogue
    from dagger_dsl.store.records import StoredNode, StoredRun
    from dagger_dsl.store.storage import Store

__all__ = ["ExecutionMetrics", "NodeSnapshot", "Told", "told_of"]


@attrs.frozen
class NodeSnapshot:
    """How a node of a run stands.

    Attributes:
        node_id: The node.
        status: Its state. Of a run that goes on, a node that runs is pending until it has ended.
        attempts: Calls that were made; 0 when another run's result took their place. Of a mapped
            node, those of all its invocations.
        last_error: What its last failed attempt raised, also when a later one succeeded; of a
            mapped node, the last failed one of any invocation.
        seconds: What its last attempt took; None when it was not called.
        reason: Why it was skipped or cancelled.
        restored: Its result was taken from another run, by its cache or by a partial run.
    """

    node_id: str
    status: NodeState
    attempts: int = 0
    last_error: ErrorInfo | None = None
    seconds: float | None = None
    reason: str = ""
    restored: bool = False


@attrs.frozen
class ExecutionMetrics:
    """What a run took.

    Attributes:
        run_id, dag_name, status: Which run, and how it stands.
        node_times: Seconds by id of each node that was called, of its last attempt. A mapped node
            took the time from its first invocation to its last.
        total_time: Seconds from its beginning to its end, or to the last thing recorded.
        calls: How many attempts were made.
        retries: How many of them were not the first of their invocation.
        cache_lookups: How often the result of another run was looked for, by calls that completed.
        cache_hits: How often one was found.
        states: How many nodes are in each state.
    """

    run_id: str
    dag_name: str
    status: RunStatus
    node_times: Mapping[str, float]
    total_time: float
    calls: int
    retries: int
    cache_lookups: int
    cache_hits: int
    states: Mapping[NodeState, int]

    @property
    def avg_node_time(self) -> float:
        """The mean of `node_times`; 0.0 when no node was called."""
        return sum(self.node_times.values()) / len(self.node_times) if self.node_times else 0.0

    @property
    def slowest_node(self) -> str | None:
        """The id of the node that took longest, the first of several; None when none was called."""
        return max(self.node_times, key=self.node_times.__getitem__, default=None)

    @property
    def cache_hit_rate(self) -> float:
        """The share of lookups that found something, from 0 to 1; 0.0 when there were none."""
        return self.cache_hits / self.cache_lookups if self.cache_lookups else 0.0


@attrs.frozen
class _Call:
    """One invocation as either source tells it."""

    key: str
    state: NodeState
    attempts: int
    error: ErrorInfo | None
    seconds: float | None
    reason: str
    cached: bool | None  # None where nothing was looked up
    reused: bool


class Told:
    """A run as a report, or a record, tells it."""

    run_id: str
    dag_name: str
    status: RunStatus
    total_time: float
    graph: Graph

    def calls(self, node_id: str) -> Iterator[_Call]:
        """Yield a node's invocations that are known of, its own one first."""
        raise NotImplementedError

    def node(self, node_id: str) -> NodeSnapshot:
        """Return how a node stands.

        Raises:
            NodeNotFound: The run's graph has no such node.
        """
        if not isinstance(node_id, str) or node_id not in self.graph.nodes:
            raise NodeNotFound(node_id, tuple(self.graph.nodes))
        calls = list(self.calls(node_id))
        if not calls:
            return NodeSnapshot(node_id, NodeState.PENDING)
        own, *others = calls
        # What a mapped node failed with says what its invocation failed with, too.
        error = own.error if own.state is NodeState.FAILED else None
        if error is None:
            error = next((each.error for each in reversed(calls) if each.error is not None), None)
        return NodeSnapshot(
            node_id,
            own.state,
            sum(each.attempts for each in others or [own]),
            error,
            own.seconds,
            own.reason,
            bool(own.cached) or own.reused,
        )

    def metrics(self) -> ExecutionMetrics:
        """Return what the run took."""
        times: dict[str, float] = {}
        states = dict.fromkeys(NodeState, 0)
        attempts = retries = lookups = hits = 0
        for node_id in self.graph.nodes:
            calls = list(self.calls(node_id))
            states[calls[0].state if calls else NodeState.PENDING] += 1
            if not calls:
                continue
            own, *others = calls
            if own.seconds is not None and not (own.cached or own.reused):
                times[node_id] = own.seconds
            for each in others or [own]:
                attempts += each.attempts
                retries += max(0, each.attempts - 1)
                lookups += each.cached is not None
                hits += bool(each.cached)
        return ExecutionMetrics(
            self.run_id,
            self.dag_name,
            self.status,
            times,
            self.total_time,
            attempts,
            retries,
            lookups,
            hits,
            {state: count for state, count in states.items() if count},
        )


class _Reported(Told):
    """A run as its report tells it."""

    def __init__(self, report: RunReport) -> None:
        self._report = report
        self.run_id, self.dag_name, self.graph = report.run_id, report.dag_name, report.graph
        self.status, self.total_time = report.status, report.duration

    def calls(self, node_id: str) -> Iterator[_Call]:
        yield _reported(self._report.node_reports[node_id])
        for each in self._report.invocations(node_id).values():
            yield _reported(each)


def _reported(node: NodeReport) -> _Call:
    error = node.error
    if error is None and node.exception is not None:
        error = error_info(node.exception)
    cached = node.cached if node.cache is not None and node.state is NodeState.COMPLETED else None
    return _Call(
        node.key,
        node.state,
        node.attempts,
        error,
        node.duration,
        node.reason,
        cached,
        node.reused is not None,
    )


class _Stored(Told):
    """A run as its database tells it."""

    def __init__(self, stored: StoredRun) -> None:
        self.run_id, self.dag_name = stored.run_id, stored.flow_name
        self.status = RunStatus(stored.status)
        self.total_time = (stored.updated_at - stored.created_at).total_seconds()
        self.graph = graph_now(stored.graph, stored.commands)
        self._rows: dict[str, dict[str, list[StoredNode]]] = {}
        for row in stored.attempts:
            self._rows.setdefault(row.node_id, {}).setdefault(row.key, []).append(row)

    def calls(self, node_id: str) -> Iterator[_Call]:
        rows = dict(self._rows.get(node_id, {}))
        own = rows.pop(DEFAULT_KEY, None)
        if own is not None:
            yield _stored(own)
        elif rows:  # of a mapped node that has not ended
            yield _Call(DEFAULT_KEY, NodeState.PENDING, 0, None, None, "", None, False)
        for each in rows.values():
            yield _stored(each)


def _stored(rows: list[StoredNode]) -> _Call:
    last = rows[-1]
    meta: Mapping[str, Any] = last.meta or {}
    errors = [row.error for row in rows if row.error]
    looked = meta.get("cache") if last.state == "completed" else None
    cached = None if looked is None else bool(looked.get("hit"))
    reused = "reused" in meta
    state = NodeState(last.state)
    if Another.of(meta) is not None:  # it is tried again
        state = NodeState.WAITING
    called = [row.attempt for row in rows if row.started_at is not None]
    return _Call(
        last.key,
        state,
        0 if cached or reused else max(called, default=0),
        ErrorInfo(**errors[-1]) if errors else None,
        next((row.duration for row in reversed(rows) if row.started_at is not None), None),
        str(meta.get("reason", "")),
        cached,
        reused,
    )


def told_of(which: Any, catalogue: Catalogue, store: Store) -> Told:
    """Return what is known of a run.

    Args:
        which: Its id or its report; or a graph, by its name or itself, whose newest run is meant.
        catalogue: The loaded graphs.
        store: Where runs are recorded.

    Raises:
        DagNotFound: There is neither a run of this id nor a graph of this name.
        RunNotFound: The graph has no run yet.
        ConfigurationError: It is none of these.
    """
    if isinstance(which, RunReport):
        return _Reported(which)
    name = which if isinstance(which, str) else getattr(which, "name", None)
    if not isinstance(name, str):
        raise ConfigurationError(
            f"a run is named by its id or its report, or by a graph's name, not {shown(which)}"
        )
    entry = catalogue.find(name) if isinstance(which, str) else None
    if entry is not None:
        name = entry.graph.name
    try:
        return _Stored(recorded_run(store, name))
    except RunNotFound:
        report = getattr(which, "report", None)
        if isinstance(report, RunReport):
            return _Reported(report)
        if isinstance(which, str) and entry is None:
            raise catalogue.unknown(which) from None
        raise RunNotFound(f"graph {name!r} has not been run here yet; run it first") from None
