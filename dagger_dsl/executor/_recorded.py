"""What the façade does with recorded runs: finding them, their values, answers from a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import RunNotFound, shown
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.graph import RESULT
from dagger_dsl.store.cache import HUMAN_INPUT, Cache
from dagger_dsl.store.records import StoredNode, StoredRun
from dagger_dsl.store.schema import FINISHED, RUN_STATES

if TYPE_CHECKING:
    from dagger_dsl.engine.control import Steered
    from dagger_dsl.registry import Registry
    from dagger_dsl.store.storage import Store

__all__ = [
    "hand_over",
    "newest_snapshot",
    "recorded_run",
    "standing_of",
    "unfinished_run",
    "values_of",
]


def hand_over(control: Steered, store: Store, cache: Cache | None) -> None:
    """Give a run what people have put into a cache before it is resumed.

    A value of the namespace ``human_input`` answers the node that its key names (an invocation as
    ``node.key``) where that waits for a person; any other one becomes a value of the run's cache.

    Raises:
        InputValidationError: An answer does not fit what was asked.
    """
    given = {} if cache is None else dict(cache[HUMAN_INPUT])
    if not given:
        return
    asked = {
        each.node_id if each.key == DEFAULT_KEY else f"{each.node_id}.{each.key}": each
        for each in control.questions()
    }
    for name in given.keys() & asked.keys():
        control.answer(asked[name].node_id, given.pop(name), asked[name].key)
    if given:
        store.save_cache_delta(control.run_id, {HUMAN_INPUT: given})


def recorded_run(store: Store, name: str) -> StoredRun:
    """Return the run of an id, or the newest one of a graph.

    Raises:
        RunNotFound: There is neither.
    """
    try:
        return store.load_run(name)
    except RunNotFound:
        newest = store.list_runs(name, limit=1)
        if not newest:
            raise
        return store.load_run(newest[0].run_id)


def unfinished_run(store: Store, name: str) -> StoredRun:
    """Return the run of an id, or the newest one of a graph that has not come to its end.

    Raises:
        RunNotFound: There is neither.
    """
    unfinished = [status for status in RUN_STATES if status not in FINISHED]
    newest = store.list_runs(name, unfinished, limit=1)
    if newest:
        return store.load_run(newest[0].run_id)
    try:
        return store.load_run(name)
    except RunNotFound:
        raise RunNotFound(
            f"{store.database.where} has no run {shown(name)}, and no graph of this name has one "
            "that has not ended; list_runs() shows what there is"
        ) from None


def newest_snapshot(store: Store, name: str) -> str | None:
    """Return the id of the newest snapshot of a cache, of a graph or a run of this name."""
    for each in store.list_snapshots(kind="cache"):
        if name in (each.flow_name, each.run_id):
            return each.snapshot_id
    return None


def standing_of(stored: StoredRun) -> dict[str, Any]:
    """Return how a run stands, as it is kept in a snapshot."""
    return {
        "run_id": stored.run_id,
        "dag_name": stored.flow_name,
        "status": stored.status,
        "reason": str((stored.error or {}).get("reason", "")),
        "nodes": {
            node_id if key == DEFAULT_KEY else f"{node_id}.{key}": {
                "state": node.state,
                "attempts": node.attempt,
            }
            for (node_id, key), node in stored.nodes.items()
        },
    }


def values_of(stored: StoredRun, registry: Registry) -> dict[str, dict[str, Any]]:
    """Return the values of a recorded run by namespace and key, as its cache has them.

    Args:
        stored: The run.
        registry: Knows what outputs actions declare; one that is not there declares none.
    """
    graph = stored.graph
    found: dict[str, dict[str, Any]] = {"inputs": dict(stored.inputs)}
    for (node_id, key), recorded in stored.nodes.items():
        if key != DEFAULT_KEY:
            continue
        node = graph.nodes.get(node_id)
        nested = node is not None and node.subgraph is not None
        action = None if node is None or nested else registry.get(node.action)
        declared = [] if node is None else [each.name for each in node.outputs]
        if not declared and action is not None:
            declared = list(action.outputs)
        found[node_id] = _outputs(recorded, declared)
    for (namespace, key), value in stored.cache.items():
        found.setdefault(namespace, {})[key] = value
    return {namespace: values for namespace, values in found.items() if values}


def _outputs(recorded: StoredNode, declared: list[str]) -> dict[str, Any]:
    if recorded.state == "failed" and recorded.error is not None:
        return {"error": dict(recorded.error)}
    if recorded.state != "completed" or not recorded.has_value:
        return {}
    value = recorded.value()
    if not declared:
        return {RESULT: value, **(value if isinstance(value, dict) else {})}
    if isinstance(value, Mapping) and all(name in value for name in declared):
        return dict(value)
    return {declared[0]: value}
