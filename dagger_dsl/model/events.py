"""Events: what happened in a run, as hooks are shown it. Values; the engine makes them.

A hook tells them apart with `isinstance` or `match`: some are of classes that make their fields
when they are read.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, TypeAlias

import attrs

from dagger_dsl.model.context import NodeOutcome, NodeRef

__all__ = [
    "CustomEvent",
    "Event",
    "HumanInputRequested",
    "NodeCancelled",
    "NodeCompleted",
    "NodeFailed",
    "NodePhase",
    "NodeRetrying",
    "NodeSkipped",
    "NodeStarted",
    "RunFinished",
    "RunStarted",
]


@attrs.frozen
class RunStarted:
    """A run is about to start its first node, or goes on after a resume."""

    run_id: str
    dag_name: str
    resumed: bool = False


@attrs.frozen
class RunFinished:
    """A run has ended, or stands still; `status` says which."""

    run_id: str
    dag_name: str
    status: str
    success: bool


@attrs.frozen
class NodeStarted:
    """An attempt of a node was released to a runner; one per attempt."""

    node: NodeRef
    attempt: int = 1
    at: dt.datetime | None = None


@attrs.frozen
class NodePhase:
    """An attempt has come to a phase; only hooks that ask for it are shown it.

    Attributes:
        node: Whose attempt.
        phase: ``pre_validation`` (its inputs are gathered and checked), ``pre_execution``,
            ``execution``, ``post_execution`` (of an attempt that returned), or ``cleanup``: once,
            after the node has ended for good.
        attempt: Number of the attempt; for ``cleanup`` of the last one.
        at: When.
    """

    node: NodeRef
    phase: str
    attempt: int = 1
    at: dt.datetime | None = None


@attrs.frozen
class NodeCompleted:
    """A node ended with an answer; ``outcome.success`` is False for a failure it chose."""

    node: NodeRef
    outcome: NodeOutcome


@attrs.frozen
class NodeRetrying:
    """An attempt failed and another one follows after `delay` seconds."""

    node: NodeRef
    error: BaseException
    attempt: int
    delay: float


@attrs.frozen
class NodeFailed:
    """A node failed for good; once per node."""

    node: NodeRef
    error: BaseException
    attempts: int = 1
    will_retry: bool = False


@attrs.frozen
class NodeSkipped:
    """A node will not run; `reason` says why."""

    node: NodeRef
    reason: str


@attrs.frozen
class NodeCancelled:
    """A node was cancelled before or while it ran."""

    node: NodeRef
    reason: str


@attrs.frozen
class HumanInputRequested:
    """A node waits for a person; its body has ended and no worker is held."""

    node: NodeRef
    prompt: str
    schema: Any = None


@attrs.frozen
class CustomEvent:
    """What an `EmitEvent` command said; `depth` is that of the node that it goes back to."""

    run_id: str
    name: str
    payload: Any = None
    sequence: int = 0
    at: dt.datetime | None = None
    depth: int = 0


Event: TypeAlias = (
    RunStarted
    | RunFinished
    | NodeStarted
    | NodePhase
    | NodeCompleted
    | NodeRetrying
    | NodeFailed
    | NodeSkipped
    | NodeCancelled
    | HumanInputRequested
    | CustomEvent
)
