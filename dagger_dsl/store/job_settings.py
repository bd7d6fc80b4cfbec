"""`JobSettings`: what is kept with a job, so that whoever runs its tasks keeps to it."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any, Final

import attrs
import sqlalchemy as sa

from dagger_dsl.errors import LimitExceeded
from dagger_dsl.model.policies import seconds, whole_number
from dagger_dsl.model.stalls import StallAction
from dagger_dsl.store.schema import jobs
from dagger_dsl.store.transactions import Statement, Transaction

__all__ = ["MAX_TASKS", "NO_SETTINGS", "JobSettings", "change_settings", "check_growth"]

#: Tasks that a job may have, unless somebody says otherwise.
MAX_TASKS: Final = 100_000

_SET: Final = Statement(
    sa.update(jobs)
    .where(jobs.c.job_id == sa.bindparam("the_job", type_=sa.Text()))
    .values(
        {
            name: sa.func.coalesce(
                sa.bindparam(f"new_{name}", type_=jobs.c[name].type), jobs.c[name]
            )
            for name in ("max_tasks", "heartbeat_interval", "stall_action")
        }
    )
)


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


def change_settings(tx: Transaction, job_id: str, settings: JobSettings) -> None:
    """Change what a job keeps; what is None in it stays as it is."""
    if settings != NO_SETTINGS:
        values: dict[str, Any] = {
            f"new_{name}": value for name, value in attrs.asdict(settings).items()
        }
        tx.execute(_SET, _SET.in_order({"the_job": job_id, **values}))


def check_growth(job_id: str, count: int, more: int, most: int | None) -> None:
    """Refuse tasks beyond those that a job may have.

    Raises:
        LimitExceeded: There would be too many.
    """
    if most is not None and count + more > most:
        raise LimitExceeded(
            f"job {job_id!r} has {count:,} tasks and may have {most:,} (its max_tasks), so that "
            f"{more:,} more cannot be added; does an agent add tasks with every call? "
            f"start_job({job_id!r}, max_tasks=...) lets the job have more"
        )
