"""`Context`: what the nodes of one run share beside the values that flow along its edges."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol

__all__ = ["Context", "Results"]


class Results(Protocol):
    """Where a context finds the results of its run's nodes."""

    def result_names(self) -> list[str]:
        """Return the ids of the nodes that have a result, in declaration order."""
        ...

    def result(self, node_id: str) -> Any:
        """Return a node's result.

        Raises:
            KeyError: It has none.
        """
        ...


class _NoResults:
    def result_names(self) -> list[str]:
        return []

    def result(self, node_id: str) -> Any:
        raise KeyError(node_id)


class _ResultTable(MutableMapping[str, Any]):
    """The results of a run by node, over those a context was given."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.source: Results = _NoResults()
        self._own = dict(given)

    def __getitem__(self, name: str) -> Any:
        try:
            return self.source.result(name)
        except KeyError:
            return self._own[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._own[name] = value

    def __delitem__(self, name: str) -> None:
        del self._own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *self.source.result_names()]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


class Context:
    """What the nodes of one run share beside the values that flow along its edges.

    A parameter annotated `Context` (or named ``context`` without an annotation) gets it.

    Args:
        results: Results to begin with, by node.
        metadata: What nodes may read and write, by name.
        metrics: Measurements to begin with.

    Attributes:
        results: The result of each node that has run, by id.
        metadata: What nodes may read and write. Single operations are atomic; what reads and writes
            goes through `update`.
        metrics: Measurements of the run.
    """

    def __init__(
        self,
        results: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        self.results = _ResultTable(results or {})
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.metrics: dict[str, Any] = dict(metrics or {})
        self._lock = threading.RLock()

    def tie(self, source: Results) -> None:
        """Take results from a run from now on; the engine calls it."""
        self.results.source = source

    def get(self, node_id: str, default: Any = None) -> Any:
        """Return a node's result, or *default* when it has none."""
        return self.results.get(node_id, default)

    def update(self, change: Callable[[dict[str, Any]], Any]) -> Any:
        """Call *change* with the metadata while no other `update` does; return what it returns."""
        with self._lock:
            return change(self.metadata)
