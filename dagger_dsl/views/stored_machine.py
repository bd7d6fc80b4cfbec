"""Where a recorded run of a state machine has been; no action need be known to say so."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import NotExecuted

if TYPE_CHECKING:
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.store.runs import StoredNode, StoredRun

__all__ = ["StoredHistory", "latest_cycles"]


def latest_cycles(stored: StoredRun) -> dict[str, StoredNode]:
    """Return the row of each state's last cycle; of a state without one, how it ended."""
    found: dict[str, StoredNode] = {}
    for (node_id, key), node in stored.nodes.items():
        known = found.get(node_id)
        if known is None or _number(key) >= _number(known.key):
            found[node_id] = node
    return found


def _number(key: str) -> int:
    return int(key) if key.isdecimal() else -1


class StoredHistory:
    """Where a recorded run has been; see `dagger_dsl.model.history.StateHistory`.

    Args:
        graph: Its machine.
        stored: The run.
    """

    def __init__(self, graph: Graph, stored: StoredRun) -> None:
        self._states = list(graph.nodes)
        self._done: list[StoredNode] = []
        here: StoredNode | None = None
        for node in stored.attempts:
            number = _number(node.key)
            if number < 0 or number > len(self._done):
                continue
            del self._done[number:]  # a cycle that was called again begins its way anew
            here = node
            if node.state == "completed":
                self._done.append(node)
                here = None
        self._here = None if here is None else here.node_id
        labels = (self._done[-1].meta or {}).get("labels") if self._done else None
        if self._here is None and labels and stored.status == "running":
            self._here = str(labels[0])  # its call is not on record
        self.is_terminated = bool(self._done) and self._here is None and not labels

    @property
    def names(self) -> list[str]:
        """The states it was in, first to last."""
        found = [node.node_id for node in self._done]
        return found if self._here is None else [*found, self._here]

    @property
    def current(self) -> str | None:
        """The state it is in, or ended in."""
        names = self.names
        return names[-1] if names else None

    @property
    def cycles(self) -> int:
        """How many cycles have begun."""
        return len(self.names)

    @property
    def counts(self) -> dict[str, int]:
        """How many cycles each state that was entered has had."""
        counted = Counter(self.names)
        return {name: counted[name] for name in self._states if counted[name]}

    def results(self, state: str) -> list[Any]:
        """Return the results of one state, oldest first.

        Raises:
            NotExecuted: One of them was not stored.
        """
        return [_value(node) for node in self._of(state)]

    def kept(self, state: str) -> int:
        """Return how many results of a state are on record."""
        return len(self._of(state))

    def result(self, state: str, place: int) -> Any:
        """Return one of the results of a state.

        Raises:
            NotExecuted: It was not stored.
        """
        return _value(self._of(state)[place])

    def _of(self, state: str) -> list[StoredNode]:
        return [node for node in self._done if node.node_id == state]

    def dropped(self, state: str) -> int:
        """Return 0: a database keeps every result."""
        return 0

    def latest(self, state: str) -> Any:
        """Return the newest result of a state.

        Raises:
            KeyError: It has none.
            NotExecuted: It was not stored.
        """
        for node in reversed(self._done):
            if node.node_id == state:
                return _value(node)
        raise KeyError(state)


def _value(node: StoredNode) -> Any:
    if not node.has_value:
        raise NotExecuted(f"a result of state {node.node_id!r} was not stored (store=False)")
    return node.value()
