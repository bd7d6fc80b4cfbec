"""`Context`: what the nodes of one run share beside the values that flow along its edges."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from numbers import Real
from reprlib import recursive_repr
from typing import Any, Final, Protocol

from dagger_dsl.errors import ConfigurationError, DecodingError, did_you_mean, shown
from dagger_dsl.model.lifecycle import callback
from dagger_dsl.model.values import from_plain, to_plain

__all__ = ["Context", "Results", "check_progress", "share_done"]

# Not beyond what a float can be divided by.
_MANY: Final = 1e300
_PARTS: Final = ("results", "metadata", "metrics")


class Results(Protocol):
    """What ties a context to a run; the engine has the implementation."""

    def names(self) -> list[str]:
        """Return the ids of the nodes that have a result, in declaration order."""
        ...

    def has(self, node_id: str) -> bool:
        """Return whether a node has a result; nothing is read for it."""
        ...

    def value(self, node_id: str) -> Any:
        """Return a node's result.

        Raises:
            KeyError: It has none.
        """
        ...

    def drop(self, node_id: str) -> None:
        """Free a node's result as soon as no node that may still run needs it."""
        ...

    def is_open(self) -> bool:
        """Return whether the run goes on."""
        ...

    def advance(self, node_id: str, fraction: float, status: str) -> None:
        """Tell whoever watches the run how far a node has come.

        Raises:
            NodeNotFound: The run has no such node.
        """
        ...


class _NoRun:
    """Stands for the run of a context that has none."""

    def names(self) -> list[str]:
        return []

    def has(self, node_id: str) -> bool:
        return False

    def value(self, node_id: str) -> Any:
        raise KeyError(node_id)

    def drop(self, node_id: str) -> None: ...

    def is_open(self) -> bool:
        return False

    def advance(self, node_id: str, fraction: float, status: str) -> None: ...


class _ResultTable(MutableMapping[str, Any]):
    """The results of a run by node, over those a context was given.

    Attributes:
        source: The run.
        deleted: Names that were deleted from the run's results.
    """

    __stored_instead__ = "dict(context.results)"

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.source: Results = _NoRun()
        self.deleted: dict[str, None] = {}
        self._given = dict(given)
        self._written: dict[str, Any] = {}
        self._warned = False

    def tie(self, source: Results) -> None:
        """Show the results of a run, and nothing of the one before."""
        self.source, self._written, self.deleted = source, {}, {}

    def __getitem__(self, name: str) -> Any:
        if not isinstance(name, str):
            raise KeyError(f"a result's name is a node's id, not {shown(name)}")
        if name in self._written:
            return self._written[name]
        if name not in self.deleted:
            try:
                return self.source.value(name)
            except KeyError:
                pass
        return self._given[name]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        shown_by_run = name not in self.deleted and self.source.has(name)
        return shown_by_run or name in self._written or name in self._given

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str):
            raise ConfigurationError(f"a result's name is a node's id, not {shown(name)}")
        if not self.source.is_open():
            self._given[name] = value
            return
        self._written[name] = value
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"context.results[{name!r}] was written from a node: no dependent waits for it, "
                "and no resume has it again. Return the value, and connect the nodes that take it; "
                "what is no result belongs to context.metadata",
                UserWarning,
                stacklevel=2,
            )

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._written.pop(name, None)
        self._given.pop(name, None)
        if name not in self.deleted and self.source.has(name):
            self.deleted[name] = None
            self.source.drop(name)

    def __iter__(self) -> Iterator[str]:
        run = [name for name in self.source.names() if name not in self.deleted]
        return iter(dict.fromkeys([*list(self._given), *run, *list(self._written)]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @recursive_repr("{...}")
    def __repr__(self) -> str:
        return repr(dict(self))


class Context:
    """What the nodes of one run share beside the values that flow along its edges.

    A parameter annotated `Context` (or named ``context`` without an annotation) gets it, and
    ``dag.run(context=...)`` gives one to a run, or to several one after the other.

    With a database, changes of `metadata` are recorded with the next outcome that is, and a resume
    has them again before its nodes run: names that were set, items added to a list, text keys of a
    dict that were added or set. Other changes inside of a large value may be recorded a few
    outcomes later, and at the latest when the run pauses, waits or ends. Nodes run at
    least once, so what one has written stays when it is tried again. What has no stored form is
    named in the log and left out.

    Args:
        results: Results to begin with, by node.
        metadata: What nodes may read and write, by name; the mapping is copied.
        metrics: Measurements to begin with.

    Attributes:
        results: The result of each node that has run, by id. ``del context.results["x"]`` takes the
            name away at once, and the value is freed as soon as no node that may run needs it.
        metadata: What nodes may read and write. Single operations are atomic; what reads and writes
            goes through `update`. The engine sets ``run_id``, unless it was given, and at the
            run's end ``execution_status``: completed, failed, cancelled, paused or timed_out.
        metrics: Measurements of the run, made at its end: ``execution_time`` (also called
            ``total_duration``) in seconds, ``node_times`` in seconds by node, and with
            ``run(track_memory=True)`` ``memory_usage``, whose ``peak_mb`` is in millions of bytes.

    Raises:
        ConfigurationError: One of the arguments is no mapping.
    """

    __stored_instead__ = "context.to_dict()"

    def __init__(
        self,
        results: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        for name, given in zip(_PARTS, (results, metadata, metrics), strict=True):
            if given is not None and not isinstance(given, Mapping):
                raise ConfigurationError(
                    f"a Context's {name} are a mapping of names to values, not {shown(given)}"
                )
        self.results = _ResultTable(results or {})
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.metrics: dict[str, Any] = dict(metrics or {})
        self._lock = threading.RLock()
        self._set: dict[str, Any] = {}  # what the engine has put into the metadata

    def tie(self, source: Results, run_id: str = "") -> None:
        """Take results from a run from now on; the engine calls it."""
        self.results.tie(source)
        metadata = self.metadata
        with self._lock:
            for name in ("execution_status", "run_id"):
                if self.is_engines(name):
                    metadata.pop(name, None)
            if run_id and "run_id" not in metadata:
                self.note("run_id", run_id)

    def note(self, name: str, value: Any) -> None:
        """Put something into the metadata that is the engine's; the engine calls it."""
        with self._lock:
            self._set[name] = self.metadata[name] = value

    def is_engines(self, name: str) -> bool:
        """Return whether a name of the metadata is as the engine has set it."""
        return name in self._set and self.metadata.get(name) is self._set[name]

    def get(self, node_id: str, default: Any = None) -> Any:
        """Return a node's result, or *default* when it has none."""
        return self.results.get(node_id, default)

    def update(self, change: Callable[[dict[str, Any]], Any]) -> Any:
        """Call *change* with the metadata while no other `update` does; return what it returns.

        Raises:
            ConfigurationError: *change* is no function of one argument.
        """
        callback(change, "what Context.update is given", ("metadata",))
        with self._lock:
            return change(self.metadata)

    def progress(self, node: str, done: float, total: float, message: str = "") -> None:
        """Report how far a node has come, to the metadata and to whoever watches the run.

        ``metadata["progress"]`` becomes a dict of ``node``, ``percent`` (the fraction done, from 0
        to 1), ``items_processed`` and ``total_items``. The run's progress callback is called with
        *node*, *message* and the fraction of the whole run that is done.

        Args:
            node: Which node.
            done: How many of its items are processed.
            total: How many there are.
            message: What it is at; the two numbers by default.

        Raises:
            ConfigurationError: A number is none, or below 0; *message* is no text.
            NodeNotFound: The run has no such node.
        """
        check_progress(done, total, message)
        fraction = self.note_progress(node, done, total)
        self.results.source.advance(node, fraction, message or f"{done}/{total}")

    def note_progress(self, node: str, done: float, total: float) -> float:
        """Put a node's progress into the metadata alone; return the fraction that is done."""
        fraction = share_done(done, total)
        self.metadata["progress"] = {
            "node": node,
            "percent": fraction,
            "items_processed": done,
            "total_items": total,
        }
        return fraction

    def to_dict(self) -> dict[str, Any]:
        """Return results, metadata and metrics as JSON has them; `from_dict` reads it.

        Values that JSON cannot hold are written as the codec's tagged form,
        ``{"$type": ..., "$value": ...}``.

        Raises:
            EncodingError: A value has no stored form; the message says which.
        """
        with self._lock:
            parts = (dict(self.results), dict(self.metadata), dict(self.metrics))
            return {
                name: to_plain(part, f"context.{name}")
                for name, part in zip(_PARTS, parts, strict=True)
            }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Context:
        """Return the context that `to_dict` gave; it has no run.

        Raises:
            DecodingError: It is nothing that `to_dict` gives, or a type in it is not known here.
        """
        if not isinstance(plain, Mapping):
            raise DecodingError(f"a context is read from a mapping, not from {shown(plain)}")
        for name in plain:
            if name not in _PARTS:
                raise DecodingError(
                    f"a context has no part {shown(name)}{did_you_mean(name, _PARTS)}"
                )
        parts = {name: from_plain(part, f"context.{name}") for name, part in plain.items()}
        for name, part in parts.items():
            if not isinstance(part, dict):
                raise DecodingError(f"context.{name} is a mapping, not {shown(part)}")
        return cls(**parts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Context):
            return NotImplemented
        return (
            self.metadata == other.metadata
            and self.metrics == other.metrics
            and dict(self.results) == dict(other.results)
        )

    __hash__ = None  # type: ignore[assignment]  # it is equal by what it holds, which changes

    def __reduce__(self) -> Any:
        return type(self), (dict(self.results), dict(self.metadata), dict(self.metrics))

    def __repr__(self) -> str:
        names = list(self.results)
        return f"{type(self).__name__}(results of {names}, metadata={shown(self.metadata, 1_000)})"


def check_progress(done: Any, total: Any, message: Any) -> None:
    """Refuse what is no report of progress.

    Raises:
        ConfigurationError: A number is none of at least 0, or *message* is no text.
    """
    share_done(done, total)
    if not isinstance(message, str):
        raise ConfigurationError(f"progress: message is a text, not {shown(message)}")


def share_done(done: Any, total: Any) -> float:
    """Return how much of *total* is done, from 0 to 1; all of nothing is.

    Raises:
        ConfigurationError: One of them is no number of at least 0.
    """
    for name, number in (("done", done), ("total", total)):
        if not isinstance(number, Real) or not 0 <= number < _MANY:  # type: ignore[operator]
            raise ConfigurationError(
                f"progress counts items: {name} is a number of at least 0, not {shown(number)}"
            )
    return 1.0 if done >= total else float(done) / float(total)
