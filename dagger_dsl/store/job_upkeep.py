"""Removing old jobs with all that is theirs, and shared values whose time is over.

A job is removed whole, once it has ended: its tasks, what they need, their history, and the shared
values of the scope that has its id for a name. What its artifacts were is for `Maintenance`.
"""

from __future__ import annotations

import datetime as dt
from time import time as now
from typing import Any, Final

import sqlalchemy as sa

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.store.arguments import check_count
from dagger_dsl.store.database import Database
from dagger_dsl.store.job_ends import SENDER
from dagger_dsl.store.schema import (
    FINISHED,
    flow_runs,
    inbox,
    job_waits,
    jobs,
    meta,
    shared_values,
    task_events,
    task_links,
    task_questions,
    tasks,
)
from dagger_dsl.store.shared_values import KEPT_AFTER
from dagger_dsl.store.task_statements import REMOVED

__all__ = [
    "JOB_REFERENCES",
    "check_keeping",
    "expired_values",
    "is_over",
    "old_jobs",
    "remove_job",
    "remove_values",
]

#: Columns that refer to artifacts, each with the job that the reference goes with.
JOB_REFERENCES: Final[tuple[tuple[sa.Column[Any], sa.Column[Any]], ...]] = (
    (tasks.c.payload_artifact_id, tasks.c.job_id),
    (tasks.c.result_artifact_id, tasks.c.job_id),
    (shared_values.c.artifact_id, shared_values.c.scope),
    (task_questions.c.artifact_id, task_questions.c.job_id),
)

_ENDED: Final = jobs.c.status.in_(("completed", "failed", "cancelled"))


def check_keeping(
    keep_jobs: int | None, keep_days: float | None
) -> tuple[int | None, float | None]:
    """Return how many jobs are kept, and for how many days.

    Raises:
        ConfigurationError: One is no such number.
    """
    check_count("keep_jobs", keep_jobs)
    if keep_days is not None and (
        isinstance(keep_days, bool) or not isinstance(keep_days, int | float) or not keep_days >= 0
    ):
        raise ConfigurationError(
            f"keep_days is a number of days of at least 0, not {shown(keep_days)}"
        )
    return keep_jobs, keep_days


def old_jobs(database: Database, before: dt.datetime | None, keep_last: int | None) -> list[str]:
    """Return the jobs that have ended and may go.

    Those stay whose end a run that has not ended was told of, or is to be told of: it may read
    what they gave.

    Args:
        database: Where.
        before: Only those that ended before; None for whenever.
        keep_last: The newest so many of them stay; None for none. Without either limit none goes.
    """
    if before is None and keep_last is None:
        return []
    query = (
        sa.select(jobs.c.job_id, jobs.c.updated_at)
        .where(_ENDED)
        .order_by(jobs.c.created_at.desc(), jobs.c.job_id)
        .offset(keep_last or 0)
    )
    with database.reading() as connection:
        found = connection.execute(query).all()
        awaited = _awaited(connection)
    return [
        each.job_id
        for each in found
        if (before is None or each.updated_at < before) and each.job_id not in awaited
    ]


def _awaited(connection: sa.Connection) -> set[str]:
    """Return the jobs that runs need which have not ended."""
    goes_on = flow_runs.c.status.not_in(FINISHED)
    waits = sa.select(job_waits.c.job_id).where(job_waits.c.run_id == flow_runs.c.run_id, goes_on)
    told = sa.select(inbox.c.sender).where(
        inbox.c.run_id == flow_runs.c.run_id,
        inbox.c.sender.startswith(SENDER, autoescape=True),
        goes_on,
    )
    senders = (str(each).removeprefix(SENDER) for each in connection.scalars(told))
    return {*connection.scalars(waits), *senders}


def _awaits(job_id: str) -> sa.Select[Any]:
    """Return what finds a run that has not ended and needs one job."""
    waits = sa.select(job_waits.c.run_id).where(job_waits.c.job_id == job_id)
    told = sa.select(inbox.c.run_id).where(inbox.c.sender == f"{SENDER}{job_id}")
    return sa.select(flow_runs.c.run_id).where(
        flow_runs.c.status.not_in(FINISHED), flow_runs.c.run_id.in_(sa.union(waits, told))
    )


def _keep_numbers(connection: sa.Connection, job_id: str) -> None:
    """Note the newest number of a task, where it is about to go: no other task gets it."""
    newest = connection.scalar(sa.select(sa.func.max(tasks.c.task_id)))
    owner = connection.scalar(sa.select(tasks.c.job_id).where(tasks.c.task_id == newest))
    known = connection.scalar(sa.select(meta.c.value).where(meta.c.name == REMOVED))
    if owner == job_id and newest > int(known or 0):
        connection.execute(sa.delete(meta).where(meta.c.name == REMOVED))
        connection.execute(sa.insert(meta).values(name=REMOVED, value=str(newest)))


def remove_job(database: Database, job_id: str) -> list[str] | None:
    """Remove a job; return the artifacts that it referred to.

    Returns:
        None where it stays: it goes on again, or a run began to wait for it meanwhile.
    """
    mine = sa.select(tasks.c.task_id).where(tasks.c.job_id == job_id)
    with database.writing() as connection:
        if (
            connection.scalar(sa.select(jobs.c.job_id).where(jobs.c.job_id == job_id, _ENDED))
            is None
        ):
            return None
        if connection.scalar(_awaits(job_id)) is not None:
            return None
        _keep_numbers(connection, job_id)
        left = [
            each
            for column, owner in JOB_REFERENCES
            for each in connection.scalars(
                sa.select(column).where(owner == job_id, column.is_not(None))
            )
        ]
        for statement in (
            sa.delete(task_links).where(task_links.c.task_id.in_(mine)),
            sa.delete(task_events).where(task_events.c.task_id.in_(mine)),
            sa.delete(task_questions).where(task_questions.c.job_id == job_id),
            sa.delete(tasks).where(tasks.c.job_id == job_id),
            sa.delete(shared_values).where(shared_values.c.scope == job_id),
            sa.delete(jobs).where(jobs.c.job_id == job_id),
        ):
            connection.execute(statement)
    return left


def expired_values(database: Database) -> int:
    """Return the number of shared values that are to be swept."""
    with database.reading() as connection:
        query = sa.select(sa.func.count()).select_from(shared_values).where(is_over())
        return connection.scalar(query) or 0


def remove_values(database: Database) -> int:
    """Remove the shared values that have been gone for readers for a while; return their number."""
    with database.writing() as connection:
        return connection.execute(sa.delete(shared_values).where(is_over())).rowcount


def is_over() -> sa.ColumnElement[bool]:
    """Return what is true of the shared values that are to be swept."""
    return sa.and_(
        shared_values.c.expires_at.is_not(None),
        shared_values.c.expires_at <= now() - KEPT_AFTER,
    )
