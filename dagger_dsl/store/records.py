"""What the store gives back of a run; values are decoded when they are asked for."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Sequence
from typing import Any, Final, final

import attrs
import orjson

from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.document import graph_from_plain, graph_to_plain
from dagger_dsl.model.graph import Graph
from dagger_dsl.store.ownership import Owner
from dagger_dsl.store.payloads import Payloads

__all__ = [
    "NODE_COLUMNS",
    "RunSummary",
    "StoredCommand",
    "StoredNode",
    "StoredRun",
    "config_to_text",
    "graph_to_text",
]

#: The columns of `node_runs` that a `StoredNode` is made of.
NODE_COLUMNS: Final = (
    "node_id",
    "invocation_key",
    "attempt",
    "seq",
    "state",
    "output",
    "output_artifact_id",
    "started_at",
    "duration_ms",
    "error",
    "meta",
    "released",
    "input_hash",
)


@final
class StoredNode:
    """One recorded attempt; most runs have many, so it is a row and little else.

    Attributes:
        payloads: Reads its value.
        row: What the database gave, in the order of `NODE_COLUMNS`.
    """

    __slots__ = ("payloads", "row")

    def __init__(self, payloads: Payloads, row: Sequence[Any]) -> None:
        self.payloads = payloads
        self.row = row

    @property
    def node_id(self) -> str:
        """Which node."""
        return str(self.row[0])

    @property
    def key(self) -> str:
        """Which invocation of it."""
        return str(self.row[1])

    @property
    def attempt(self) -> int:
        """Which call; 0 is an end without one."""
        return int(self.row[2])

    @property
    def seq(self) -> int:
        """Its place in the run's history."""
        return int(self.row[3])

    @property
    def state(self) -> str:
        """The node's state."""
        return str(self.row[4])

    @property
    def inline(self) -> str | None:
        """The encoded value, where it is stored in the row."""
        return self.row[5]  # type: ignore[no-any-return]

    @property
    def artifact(self) -> str | None:
        """The id of the artifact that holds the encoded value, where it is in a file."""
        return self.row[6]  # type: ignore[no-any-return]

    @property
    def started_at(self) -> float | None:
        """Seconds since 1970, for people; None when it never started."""
        return self.row[7]  # type: ignore[no-any-return]

    @property
    def duration(self) -> float | None:
        """Seconds by the monotonic clock, or None."""
        return None if self.row[8] is None else float(self.row[8]) / 1000

    @property
    def error(self) -> dict[str, Any] | None:
        """What went wrong, as it was recorded."""
        return None if self.row[9] is None else orjson.loads(self.row[9])

    @property
    def meta(self) -> dict[str, Any] | None:
        """What was recorded beside the value."""
        return None if self.row[10] is None else orjson.loads(self.row[10])

    @property
    def input_hash(self) -> str | None:
        """The hash of its inputs, where its result is shared between runs."""
        return self.row[12]  # type: ignore[no-any-return]

    @property
    def has_value(self) -> bool:
        """Whether a value was recorded; None is one too."""
        return self.row[5] is not None or self.row[6] is not None

    def value(self) -> Any:
        """Return a fresh copy of the recorded value, None when there is none.

        Raises:
            DecodingError: This process does not know a stored type.
            StoreDamaged: The artifact is not what was written.
        """
        return self.payloads.decode(self.inline, self.artifact, f"the value of {self.node_id!r}")

    def bare(self) -> StoredNode:
        """Return the same row without its value, for whoever keeps it long."""
        return StoredNode(self.payloads, (*self.row[:5], None, None, *self.row[7:]))

    def __repr__(self) -> str:
        return f"StoredNode({self.node_id!r}, {self.key!r}, {self.attempt}, {self.state!r})"


@attrs.frozen
class StoredCommand:
    """What a replay needs beside outcomes.

    Attributes:
        seq: Its place in the run's history, counted together with the nodes' rows.
        key: The key it was stored under, if any.
        body: JSON text.
    """

    seq: int
    key: str | None
    body: str


@final
class StoredRun:
    """A run at one moment.

    Attributes:
        run_id, flow_name, status, version, parent_run_id, idempotency_key: As recorded.
        created_at, updated_at: Times of day in UTC, for people.
        owner: Who records into it, None when nobody does.
        epoch: The number of the latest ownership.
        owned_seconds: How long it was owned since it last came to an end; of a process that died,
            as of its last beat.
        attempts: Every recorded attempt, in order.
        nodes: What was recorded last by ``(node_id, key)``.
        commands: What a replay needs beside outcomes, in order.
        last_seq: The highest place in its history.
        acked: The place up to which the hooks were shown every event; 0 when none was recorded.
        crashes: How often the process died while a node ran, by what the engine calls it.
    """

    def __init__(self, payloads: Payloads, row: Any, nodes: Any, log: Any, cache: Any) -> None:
        self._payloads = payloads
        self._cache = cache
        self._graph: str = row.graph
        self._inputs: tuple[str | None, str | None] = (row.inputs, row.inputs_artifact_id)
        self._config: str | None = row.config
        self._error: str | None = row.error
        self.run_id: str = row.run_id
        self.flow_name: str = row.flow_name
        self.status: str = row.status
        self.version: str = row.version
        self.parent_run_id: str | None = row.parent_run_id
        self.idempotency_key: str | None = row.idempotency_key
        self.created_at: dt.datetime = row.created_at
        self.updated_at: dt.datetime = row.updated_at
        self.owner: Owner | None = None if row.owner is None else Owner.of_text(row.owner)
        self.epoch: int = row.epoch
        self.owned_seconds: float = row.owned_seconds
        self.crashes: dict[str, int] = {} if row.crashes is None else orjson.loads(row.crashes)
        self.attempts: list[StoredNode] = [StoredNode(payloads, each) for each in nodes]
        self.nodes: dict[tuple[str, str], StoredNode] = {
            (node.row[0], node.row[1]): node for node in self.attempts
        }
        self.commands: list[StoredCommand] = [
            StoredCommand(entry.seq, entry.entry_key, entry.body)
            for entry in log
            if entry.kind == "command"
        ]
        releases = [entry for entry in log if entry.kind == "released"]
        self._releases = [(entry.seq, entry.body) for entry in releases if entry.body != "[]"]
        self.acked: int = max(
            (entry.seq for entry in releases if entry.entry_key is not None), default=0
        )
        ends = [log[-1].seq] if log else []
        if self.attempts:
            ends.append(self.attempts[-1].seq)
        self.last_seq: int = max(ends, default=0)

    @property
    def released(self) -> list[list[int]]:
        """The lists of slots that commits started, in order."""
        return [slots for _, slots in self.releases]

    @property
    def releases(self) -> list[tuple[int, list[int]]]:
        """The same, each with the place of the first entry of its commit."""
        rows = ((node.row[3], node.row[11]) for node in self.attempts if node.row[11] is not None)
        return [(seq, orjson.loads(text)) for seq, text in sorted([*rows, *self._releases])]

    @property
    def history(self) -> list[StoredNode | StoredCommand]:
        """Every recorded attempt and every command, in order."""
        return sorted([*self.attempts, *self.commands], key=_place)

    @property
    def cache(self) -> dict[tuple[str, str], Any]:
        """Fresh copies of the values in its cache, by namespace and key."""
        return {
            (each.namespace, each.entry_key): self._payloads.decode(
                each.value, each.artifact_id, f"{each.namespace}.{each.entry_key}"
            )
            for each in self._cache
        }

    @property
    def graph(self) -> Graph:
        """The graph it was started with, made anew at each read."""
        return graph_from_plain(orjson.loads(self._graph))

    @property
    def inputs(self) -> Any:
        """A fresh copy of what it was started with."""
        return self._payloads.decode(*self._inputs, f"the inputs of run {self.run_id}")

    @property
    def config(self) -> DagConfig | None:
        """The configuration it was started with."""
        return None if self._config is None else _config_from_text(self._config)

    @property
    def error(self) -> dict[str, Any] | None:
        """Why it failed, as it was recorded."""
        return None if self._error is None else orjson.loads(self._error)

    def __repr__(self) -> str:
        return f"StoredRun({self.run_id!r}, {self.flow_name!r}, {self.status!r})"


def _place(entry: StoredNode | StoredCommand) -> int:
    return entry.seq


@attrs.frozen
class RunSummary:
    """A run in a list.

    Attributes:
        run_id, flow_name, status, parent_run_id: As recorded.
        owner: Who records into it, None when nobody does.
        created_at, updated_at: Times of day in UTC, for people.
        error: Why it failed, as JSON text.
    """

    run_id: str
    flow_name: str
    status: str
    parent_run_id: str | None
    owner: Owner | None
    created_at: dt.datetime
    updated_at: dt.datetime
    error: str | None


@functools.lru_cache(maxsize=16)
def graph_to_text(graph: Graph) -> str:
    """Return what the database keeps of a graph; a graph that is run again is not written anew."""
    return orjson.dumps(graph_to_plain(graph)).decode()


def config_to_text(config: DagConfig) -> str:
    """Return what the database keeps of a configuration."""
    plain = graph_to_plain(Graph("config", config=config))
    return orjson.dumps(plain.get("config", {})).decode()


def _config_from_text(text: str) -> DagConfig:
    plain = {"name": "config", "config": orjson.loads(text), "nodes": []}
    return graph_from_plain(plain).config or DagConfig()
