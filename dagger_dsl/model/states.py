"""The states of runs and nodes, as every report, table and picture spells them."""

from __future__ import annotations

import enum

__all__ = ["NodeState", "RunStatus"]


class RunStatus(enum.StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class NodeState(enum.StrEnum):
    """Where a node stands in a run."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
