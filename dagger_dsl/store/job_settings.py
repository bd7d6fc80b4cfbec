"""What is kept with a job, in its row: how that is changed, and the limit that it sets."""

from __future__ import annotations

from typing import Any, Final

import attrs
import sqlalchemy as sa

from dagger_dsl.errors import LimitExceeded
from dagger_dsl.model.job_settings import NO_SETTINGS, JobSettings
from dagger_dsl.store.schema import jobs
from dagger_dsl.store.transactions import Statement, Transaction

__all__ = ["change_settings", "check_growth"]

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
