"""`JobSettings`: what is kept with a job, so that whoever runs its tasks keeps to it."""

from __future__ import annotations

import datetime as dt
import math
from typing import Final

import attrs

from dagger_dsl.model.policies import seconds, whole_number
from dagger_dsl.model.stalls import StallAction

__all__ = ["MAX_TASKS", "NO_SETTINGS", "JobSettings"]

#: Tasks that a job may have, unless somebody says otherwise.
MAX_TASKS: Final = 100_000


@attrs.frozen
class JobSettings:
    """What a job keeps beside its tasks.

    Attributes:
        max_tasks: How many tasks it may have; None for any number.
        heartbeat_interval: Seconds without a sign of life after which it has stalled; infinite for
            never; None leaves that to who looks.
        stall_action: The name of the `StallAction` that is taken then; None likewise.
    """

    max_tasks: int | None = None
    heartbeat_interval: float | None = None
    stall_action: str | None = None

    @classmethod
    def of(
        cls,
        max_tasks: int | None,
        heartbeat_interval: float | dt.timedelta | None,
        stall_action: StallAction | str | None,
    ) -> JobSettings:
        """Return what somebody has given, each of which may be None.

        Raises:
            ConfigurationError: One of them cannot be.
        """
        if max_tasks is not None:
            whole_number(max_tasks, "max_tasks")
        if heartbeat_interval is not None and heartbeat_interval != math.inf:
            heartbeat_interval = seconds(heartbeat_interval, "heartbeat_interval", zero=False)
        action = None if stall_action is None else StallAction.of(stall_action).name
        return cls(max_tasks, heartbeat_interval, action)  # type: ignore[arg-type]  # no timedelta


NO_SETTINGS: Final = JobSettings()
