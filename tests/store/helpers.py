"""What the tests of the store share."""

from __future__ import annotations

from typing import Any

from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.store.journal import Row

GRAPH = Graph("flow", [Node("a", "act"), Node("b", "act", dependencies=["a"])], version="1.2")


def row(
    node: str,
    value: str | None = "1",
    *,
    key: str = "default",
    attempt: int = 1,
    state: str = "completed",
    artifact: str | None = None,
    error: str | None = None,
    meta: str | None = None,
) -> Row:
    """Return a row of a journal."""
    return (node, key, attempt, state, value, artifact, 1_700_000_000.5, 2.5, error, meta)


def start(store: Any, run_id: str = "r", **options: Any) -> Any:
    """Create a run of `GRAPH`."""
    return store.create_run(run_id=run_id, graph=GRAPH, inputs={"x": 1}, **options)
