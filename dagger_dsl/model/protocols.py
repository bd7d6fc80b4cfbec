"""What rooms show to each other without importing each other: views, and the journal of a run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

__all__ = [
    "ActionInfo",
    "CacheReader",
    "CancelSignal",
    "Command",
    "Journal",
    "ParamInfo",
    "Row",
]

#: ``(node_id, key, attempt, state, inline, artifact_id, started_at, duration_ms, error, meta)``;
#: `inline` and `artifact_id` are what `Journal.encode` gave, `started_at` is in seconds since 1970,
#: `error` and `meta` are JSON objects.
Row: TypeAlias = tuple[
    str,
    str,
    int,
    str,
    str | None,
    str | None,
    float | None,
    float | None,
    str | None,
    str | None,
]

#: ``(key, body)``: JSON text that a run's replay needs; a key is stored once, None is no key.
Command: TypeAlias = tuple[str | None, str]


class CancelSignal(Protocol):
    """What ends a run from outside."""

    @property
    def cancelled(self) -> bool:
        """Whether the run shall end."""
        ...

    @property
    def reason(self) -> str:
        """Why, or an empty text."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* once on cancellation (at once if it has happened).

        Returns:
            A function that takes the subscription back.
        """
        ...


class CacheReader(Protocol):
    """Values of a run by namespace (a node's id, ``inputs``, ``global``) and key."""

    def get(self, namespace: str, key: str, default: Any = None) -> Any:
        """Return one value, or *default* when it was never written."""
        ...


class ParamInfo(Protocol):
    """One parameter of an action, as `dagger_dsl.registry` describes it."""

    @property
    def name(self) -> str:
        """Its name, which is the name of a node's input."""
        ...

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        ...

    @property
    def accepts_none(self) -> bool:
        """Whether its annotation says that None is a value."""
        ...


class ActionInfo(Protocol):
    """What static analysis may know of an action."""

    @property
    def name(self) -> str:
        """Its name in the registry."""
        ...

    @property
    def params(self) -> Sequence[ParamInfo]:
        """The parameters a node's inputs can fill, in order."""
        ...

    @property
    def takes_any_input(self) -> bool:
        """Whether inputs of other names are accepted too (``**kwargs``, or a context action)."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """The declared output names; empty means the single output ``result``."""
        ...

    def hints(self) -> Mapping[str, Any]:
        """Return the evaluated annotations, ``return`` included; empty where there are none."""
        ...


class Journal(Protocol):
    """Where a run's outcomes are recorded; `dagger_dsl.store.journal` has the implementation."""

    def encode(self, value: Any, path: str = "value") -> tuple[str | None, str | None]:
        """Return a value's stored form: inline text, or the id of an artifact already written.

        Args:
            value: What is stored.
            path: What to call it in an error.

        Raises:
            EncodingError: It has none.
        """
        ...

    def decode(self, inline: str | None, artifact_id: str | None, path: str = "value") -> Any:
        """Return the value of a stored form, also after the run's end.

        Raises:
            DecodingError: This process does not know a stored type.
            StoreError: It cannot be read.
        """
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes can send commands to the run."""
        ...

    def rest(self, resting: bool) -> None:
        """Count no time as the run's from now on, or count it again."""
        ...

    def accompany(self, step: Callable[[Any], None]) -> None:
        """Have the next commit do something else, too, in its transaction."""
        ...

    def requests(self, after: int = 0) -> Sequence[tuple[int, str]]:
        """Return the commands that were sent to the run, by number, those after *after*."""
        ...

    def recall(self, key: str) -> tuple[Any, Any] | None:
        """Return a result that some run kept under *key*, and what is known of it."""
        ...

    def memos(self, action: str, limit: int) -> Sequence[Any]:
        """Return what is known of the newest results of an action."""
        ...

    def remember(
        self,
        key: str,
        *,
        action: str,
        version: str,
        input_hash: str,
        node_id: str,
        inline: str | None,
        artifact_id: str | None,
        expires_at: dt.datetime | None = None,
        invocation_key: str = "default",
        now: dt.datetime | None = None,
    ) -> None:
        """Keep a result for other runs, with the commit that records it."""
        ...

    def note_inputs(self, node_id: str, input_hash: str, invocation_key: str = "default") -> None:
        """Keep the hash of an invocation's inputs for its row in the next commit."""
        ...

    def flush(self) -> None:
        """Write everything that was kept or queued, and wait for it."""
        ...

    def write_cache(self, entries: Mapping[tuple[str, str], tuple[str | None, str | None]]) -> None:
        """Keep encoded values of the run's cache, by namespace and key, for the next commit."""
        ...

    def keep(self, entries: Mapping[tuple[str, str], tuple[str | None, str | None]]) -> None:
        """Write encoded values of the run's cache by themselves, before any other commit."""
        ...

    def commit(
        self,
        rows: Sequence[Row],
        released: Sequence[int] | None = None,
        *,
        commands: Sequence[tuple[str | None, str]] | None = None,
        replay: bool = False,
        last: bool = False,
        ack: bool = False,
        replacing: Sequence[Row] = (),
    ) -> None:
        """Record outcomes and starts in one transaction, as far as the level says so.

        Args:
            rows: Outcomes, in the order in which they arrived.
            released: Slots that are about to start.
            commands: Keyed notes that a resume reads, as JSON.
            replay: Ignore rows that are recorded already.
            last: Only the end of the run follows, at once; what records it may record these, too.
            ack: Hooks were shown the events of everything that came before.
            replacing: Outcomes of attempts that are recorded as waiting.

        Raises:
            StoreError: Nothing was recorded.
            RunFenced: Another process has taken the run over.
        """
        ...
