"""How a run stands, made into a report: what its board and its tables say, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dagger_dsl.engine.attempts import attempts_of_run, called_at, from_epoch, waits_for_attempt
from dagger_dsl.engine.error_info import error_info, error_text
from dagger_dsl.engine.report import NodeReport, RunReport
from dagger_dsl.engine.state import NAMES, PENDING
from dagger_dsl.model.states import NodeState, RunStatus

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.model.caching import CacheDecision

__all__ = ["report_of"]


def report_of(run: Run) -> RunReport:
    """Return how the run stands."""
    board = run.board
    end = run.finished if run.finished is not None else board.clock()
    return RunReport(
        run_id=run.run_id,
        dag_name=run.dag_name,
        graph=run.plan.current,
        status=run.status,
        inputs=dict(run.inputs),
        started_at=from_epoch(run.wall + run.began),
        finished_at=from_epoch(run.wall + end) if run.finished is not None else None,
        duration=end - run.began,
        reason=run.reason,
        hook_errors=tuple(run.hook_errors),
        abandoned=tuple(str(run.plan.ids[slot]) for slot in run.abandoned),
        database_url=run.options.database_url,
        exception=run.exception,
        limit=run.config.timeout_seconds,
        states=lambda: _states(run),
        node=lambda node_id: _node(run, run.plan.index[node_id]),
        invocations=lambda node_id: _Invocations(run, node_id),
        value=lambda node_id: run.value(run.plan.index[node_id]),
        gone=lambda: {str(run.plan.ids[slot]) for slot in run.freed if run.is_gone(slot)},
        context=lambda: run.context,
        state=lambda node_id: run.states_of(run.plan.index[node_id]),
        sinks=run.state.sinks(),
        workers=run.board.slots,
        run=run,
        nested=None if run.nursery is None else run.nursery.reports,
        continued=run.continued and run.status is RunStatus.FAILED,
        history=run.state.history,
        profiles=run.profiles,
        config=run.config,
        attempts=attempts_of_run(run),
        counts=lambda node_id: _counts(run, node_id),
        calls=attempts_of_run(run, brief=True),
    )


def _states(run: Run) -> dict[str, NodeState]:
    """Return the state of every node by id."""
    plan, codes = run.plan, run.state.statuses()
    started, ended = run.board.started, run.board.ended
    alive = run.status is RunStatus.RUNNING
    found = {}
    for node_id, slot in plan.index.items():
        state = NodeState(NAMES[codes[slot]])
        if alive and codes[slot] == PENDING and started[slot] > ended[slot]:
            state = NodeState.RUNNING
        found[node_id] = state
    return found


def _below(run: Run, node_id: str) -> Iterator[tuple[str, int]]:
    """Yield key and slot of the invocations of a mapped node; nothing for other nodes."""
    plan = run.plan
    for key, child in plan.children.below(plan.index[node_id]):
        if child not in plan.mapped:
            yield key, child


class _Invocations(Mapping[str, NodeReport]):
    """The invocations of a mapped node by key; each report is made when it is asked for."""

    def __init__(self, run: Run, node_id: str) -> None:
        self._run = run
        self._slots = dict(_below(run, node_id))

    def __getitem__(self, key: str) -> NodeReport:
        return _node(self._run, self._slots[key])

    def __contains__(self, key: object) -> bool:
        return key in self._slots

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)


def _counts(run: Run, node_id: str) -> dict[str, int]:
    return dict(Counter(str(run.states_of(child)) for _, child in _below(run, node_id)))


def _node(run: Run, slot: int) -> NodeReport:
    began, ended = called_at(run, slot)
    exception = run.errors.get(slot)
    meta = run.meta.get(slot, {})
    state = run.states_of(slot)
    error = None
    if state is NodeState.FAILED or meta.get("recovered"):
        raised = exception
        error = run.stored_errors.get(slot) if raised is None else error_info(raised)
    return NodeReport(
        node_id=str(run.plan.ids[slot]),
        key=run.plan.children.key(slot),
        state=state,
        attempts=0 if run.is_cached(slot) or "reused" in meta else run.attempts_made(slot),
        started_at=None if began is None else from_epoch(began),
        finished_at=None if ended is None else from_epoch(ended),
        duration=None if began is None or ended is None else ended - began,
        error=error,
        exception=exception,
        reason=run.state.reasons.get(slot, "") or _waits(run, slot, state),
        recovered=bool(meta.get("recovered")),
        restored=slot in run.restored,
        metadata=meta.get("metadata", {}),
        cache=_cache_decision(run, slot),
        reused=meta.get("reused"),
    )


def _waits(run: Run, slot: int, state: NodeState) -> str:
    """Return what a node waits for that is tried again; nothing of other nodes."""
    if state is not NodeState.WAITING or slot not in run.next_try:
        return ""
    exception = run.errors.get(slot)
    error = None if exception is None else error_text(exception)
    return waits_for_attempt(run.attempts.get(slot, 1), run.allowed(slot), error)


def _cache_decision(run: Run, slot: int) -> CacheDecision | None:
    """Return whether another run's result took a node's place; None where none could."""
    lookup = run.lookups.get(slot)
    if lookup is not None:
        found: CacheDecision = lookup.decision
        return found
    recorded = run.meta.get(slot, {}).get("cache")
    if recorded is None:
        return None
    from dagger_dsl.engine.lookups import decision_of

    return decision_of(recorded)
