"""Runs that something else may ask for again: begun once under an id, gone on with after that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.launch import start, start_resume
from dagger_dsl.engine.nested import same_inputs
from dagger_dsl.errors import RunExists
from dagger_dsl.model.document import graph_to_plain

if TYPE_CHECKING:
    from dagger_dsl.engine.control import RunHandle
    from dagger_dsl.engine.launch import Lookup
    from dagger_dsl.model.config import RunOptions
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.store.storage import Store

__all__ = ["start_once"]


def start_once(
    run_id: str,
    graph: Graph,
    registry: Lookup,
    inputs: Mapping[str, Any],
    options: RunOptions,
    store: Store | None,
    *,
    any_graph: bool = False,
) -> RunHandle | None:
    """Start a run, or go on with the one that is recorded under its id.

    What completed there is not called again, what failed is tried again, and a completed run is
    returned as it is. Without a store a run is always a new one.

    Args:
        run_id: What the run is called.
        graph, registry, inputs, options, store: As `start` takes them.
        any_graph: Whether a run of the graph of this name goes on as it was recorded, where the
            program has another one by now. What actions do is no part of a graph.

    Returns:
        None where the id belongs to a run of another graph, or with other inputs.

    Raises:
        RunOwned: Somebody else executes it now.
        Errors of `start` and `start_resume`: It cannot begin, or go on.
    """
    settings = attrs.evolve(options, run_id=run_id)
    try:
        return start(graph, registry, inputs, settings, None, store)
    except RunExists:
        if store is None:
            raise
    stored = store.load_run(run_id)
    same = stored.graph.name == graph.name and (any_graph or _same(stored.graph, graph))
    if not same or not same_inputs(stored.inputs, inputs):
        return None
    secrets = {key: value for key, value in inputs.items() if key not in stored.inputs}
    return start_resume(run_id, registry, options, secrets, store)


def _same(stored: Graph, given: Graph) -> bool:
    """Return whether a graph is the one that is recorded, told as idempotency keys tell it."""
    return graph_to_plain(stored) == graph_to_plain(given)
