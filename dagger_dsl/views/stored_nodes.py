"""How the nodes of a recorded run stand, as far as the record and the run's owner tell.

While a run goes on, a failure need not be the end of its node: beside it stands whether another
attempt follows. What was started and has not ended is running as long as a process executes the
run; after that it will be called again.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.attempts import Another, from_epoch, waits_for_attempt
from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.lookups import decision_of
from dagger_dsl.engine.notes import of_json
from dagger_dsl.engine.report import NodeReport
from dagger_dsl.engine.story import waits_of
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.states import NodeState, RunStatus

if TYPE_CHECKING:
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.store.records import StoredCommand, StoredNode, StoredRun

__all__ = ["Opened", "StoredNodes"]


class StoredNodes:
    """The nodes of one recorded run.

    Args:
        graph: As commands have changed it.
        stored: The run.
        latest: What was recorded last of each node.
        orphaned: Whether the process that executed the run died.
        answered: By node and key, what waits for a person in the record and has its answer.
    """

    def __init__(
        self,
        graph: Graph,
        stored: StoredRun,
        latest: Mapping[str, StoredNode],
        *,
        orphaned: bool,
        answered: Collection[tuple[str, str]],
    ) -> None:
        self._graph = graph
        self._stored = stored
        self._latest = latest
        self._orphaned = orphaned
        self._goes_on = stored.status == RunStatus.RUNNING and not orphaned
        self._answered = answered
        self._asked = waits_of(stored.commands)
        self._begun = set(_begun(stored, latest)) if stored.status == RunStatus.RUNNING else set()
        self._called: dict[tuple[str, str], StoredNode] = {}
        self._calls: dict[str, dict[str, StoredNode]] = {}
        for node in stored.attempts:
            if node.started_at is not None:
                self._called[node.node_id, node.key] = node
        for (node_id, key), node in stored.nodes.items():
            if key != DEFAULT_KEY:
                self._calls.setdefault(node_id, {})[key] = node
        machine = graph.machine is not None
        self._opened = Opened(() if machine else stored.commands)

    # --- states -----------------------------------------------------------------------------------

    def states(self) -> Mapping[str, NodeState]:
        """Return how every node stands, by id."""
        return {node_id: self.state(node_id) for node_id in self._graph.nodes}

    def state(self, node_id: str) -> NodeState:
        """Return how a node stands."""
        known = self._latest.get(node_id)
        if node_id in self._begun or (known is None and node_id in self._opened):
            return NodeState.RUNNING if self._goes_on else NodeState.PENDING
        return NodeState.PENDING if known is None else self._state_of(known)

    def _state_of(self, row: StoredNode) -> NodeState:
        state = NodeState(row.state)
        if state is NodeState.FAILED:
            again = Another.of(row.meta)
            if again is None:
                return state
            return NodeState.RUNNING if self._goes_on and not again.delay else NodeState.WAITING
        if state is NodeState.WAITING and (row.node_id, row.key) in self._answered:
            return NodeState.PENDING
        return state

    # --- reports ----------------------------------------------------------------------------------

    def node(self, node_id: str) -> NodeReport:
        """Return how a node stands, with what is known of its last call."""
        state, known = self.state(node_id), self._latest.get(node_id)
        if known is None:
            return NodeReport(node_id, state, reason=self._begun_reason(node_id))
        if node_id not in self._begun:
            return self._report(known, state)
        return self._report(known, state, self._begun_reason(node_id))

    def invocations(self, node_id: str) -> Mapping[str, NodeReport]:
        """Return the invocations of a mapped node of which something is on record, by key."""
        calls = self._calls.get(node_id, {})
        return {key: self._report(row, self._state_of(row)) for key, row in calls.items()}

    def counts(self, node_id: str) -> dict[str, int]:
        """Return how many invocations of a mapped node are in each state, by its name."""
        calls = self._calls.get(node_id, {})
        found = Counter(str(self._state_of(row)) for row in calls.values())
        left = self._opened.calls(node_id) - len(calls)
        if left > 0:
            found[str(NodeState.PENDING)] += left
        return dict(found)

    def _begun_reason(self, node_id: str) -> str:
        """Return what there is to say of a node that was started and has not ended."""
        mapped = node_id in self._opened
        if not mapped and node_id not in self._begun:
            return ""
        told = []
        if self._orphaned:
            told.append("had not ended when the process of the run died")
        if mapped:
            calls = self._calls.get(node_id, {}).values()
            ended = sum(self._state_of(row) in _OVER for row in calls)
            told.append(f"{ended} of {self._opened.calls(node_id)} calls ended")
        return ": ".join(told)

    def _report(self, row: StoredNode, state: NodeState, reason: str = "") -> NodeReport:
        meta = row.meta or {}
        called = self._called.get((row.node_id, row.key))  # ends without a call tell of none
        started = ended = None
        if called is not None and called.started_at is not None:
            started = from_epoch(called.started_at)
            if called.duration is not None:
                ended = started + dt.timedelta(seconds=called.duration)
        error = None if row.error is None else ErrorInfo(**row.error)
        reason = reason or str(meta.get("reason", "")) or self._why(row, state, error)
        return NodeReport(
            node_id=row.node_id,
            key=row.key,
            state=state,
            attempts=0 if called is None else called.attempt,
            started_at=started,
            finished_at=ended,
            duration=None if called is None else called.duration,
            error=error if state is NodeState.FAILED or meta.get("recovered") else None,
            reason=reason,
            recovered=bool(meta.get("recovered")),
            metadata=meta.get("metadata", {}),
            cache=decision_of(meta["cache"]) if "cache" in meta else None,
        )

    def _why(self, row: StoredNode, state: NodeState, error: ErrorInfo | None) -> str:
        """Return why an invocation stands where it stands, where that is not on record as such."""
        if row.state == NodeState.FAILED and state is not NodeState.FAILED:
            again = Another.of(row.meta)
            allowed = None if again is None else again.allowed
            return waits_for_attempt(row.attempt + 1, allowed, error)
        if row.state != NodeState.WAITING:
            return ""
        if state is NodeState.PENDING:
            later = "" if self._goes_on else ": it goes on when the run is resumed"
            return f"has its answer{later}"
        return self._asked.get((row.node_id, row.key), "waits for a person")


_OVER = (NodeState.COMPLETED, NodeState.FAILED, NodeState.SKIPPED, NodeState.CANCELLED)


class Opened:
    """How many calls mapped nodes have, as far as their items are known.

    Of a list of lists they are those of the innermost ones that have begun.
    """

    def __init__(self, recorded: Iterable[StoredCommand] = ()) -> None:
        self._ends: dict[str, dict[str, int]] = {}
        for entry in recorded:
            self.take(entry)

    def take(self, entry: StoredCommand) -> None:
        """Take an entry of the journal; those that open nothing change nothing."""
        if '"open"' not in entry.body:
            return
        body = of_json(entry.body)
        if isinstance(body, dict) and {"open", "at", "to"} <= body.keys():
            self._ends.setdefault(str(body["open"]), {})[str(body["at"])] = int(body["to"])

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._ends

    def __iter__(self) -> Iterator[str]:
        return iter(self._ends)

    def calls(self, node_id: str) -> int:
        """Return how many calls a node is known to have; 0 before it has begun."""
        ends = self._ends.get(node_id, {})
        depth = max(map(_depth, ends), default=0)
        return sum(end for at, end in ends.items() if _depth(at) == depth)


def _depth(at: str) -> int:
    return at.count(".") + 1 if at else 0


def _begun(stored: StoredRun, latest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the nodes that were started in a run that goes on, and have not ended since.

    Of those that commands added the record does not say it.
    """
    graph = stored.graph
    started: dict[int, int] = {}
    for seq, slots in stored.releases:
        started |= dict.fromkeys(slots, seq)
    for slot, node_id in enumerate(graph.nodes):  # slots are numbered as nodes are declared
        known, since = latest.get(node_id), started.get(slot)
        if since is None:
            continue
        # The first entry of a commit holds its starts: it may be the failure that is tried again.
        again = known is not None and known.state == NodeState.FAILED and known.seq == since
        if known is None or known.seq < since or again:
            yield node_id
