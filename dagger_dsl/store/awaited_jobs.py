"""`AwaitedJobs`: jobs that nodes of runs wait for: begun, looked at, cancelled.

A node starts its job in the transaction that records that it waits, so that neither is there
without the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs
import sqlalchemy as sa

from dagger_dsl.errors import JobFailed, JobNotFound, shown
from dagger_dsl.model.job_settings import MAX_TASKS, JobSettings
from dagger_dsl.model.jobs import JobRequest
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, TaskStatus
from dagger_dsl.store import task_statements as sql
from dagger_dsl.store.job_ends import ENDED, post
from dagger_dsl.store.job_settings import change_settings
from dagger_dsl.store.notices import of_tasks, tell
from dagger_dsl.store.schema import job_waits, task_links, tasks
from dagger_dsl.store.task_reads import stored_job
from dagger_dsl.store.task_steps import (
    LOST,
    UNSURE,
    cancel_tasks,
    count_job,
    hold,
    json_text,
    open_needs,
    set_job,
    set_status,
    utc,
)
from dagger_dsl.store.tasks import TaskRows
from dagger_dsl.store.transactions import Statement, Transaction, read

__all__ = ["AwaitedJobs"]

#: Tasks of a failed job that an error names.
_NAMED: Final = 5

_job = sa.bindparam("the_job", type_=sa.Text())
_WAIT: Final = Statement(
    sa.insert(job_waits)
    .values({each.name: sa.bindparam(each.name, type_=sa.Text()) for each in job_waits.c})
    .inline()
)
_WAITS: Final = Statement(
    sa.select(sa.literal_column("1")).where(
        *(
            each == sa.bindparam(f"the_{each.name}", type_=sa.Text())
            for each in (
                job_waits.c.job_id,
                job_waits.c.run_id,
                job_waits.c.node_id,
                job_waits.c.invocation_key,
            )
        )
    )
)
_RESULTS: Final = Statement(
    sa.select(
        tasks.c.public_id,
        tasks.c.result,
        tasks.c.result_artifact_id,
        tasks.c.status,
        tasks.c.agent_type,
        tasks.c.error,
    )
    .where(
        tasks.c.job_id == _job,
        tasks.c.parent_id.is_(None),
        ~sa.exists().where(task_links.c.needs_id == tasks.c.task_id),
    )
    .order_by(tasks.c.task_id)
)
_LOST: Final = Statement(
    sa.select(
        tasks.c.task_id,
        tasks.c.status,
        tasks.c.public_id,
        tasks.c.agent_type,
        tasks.c.error,
        tasks.c.due_at,
    )
    .where(
        tasks.c.job_id == _job,
        tasks.c.status.in_([sa.literal_column("'failed'"), sa.literal_column("'cancelled'")]),
    )
    .order_by(tasks.c.task_id)
)


class AwaitedJobs(TaskRows):
    """The jobs of one database, as the nodes see them that wait for them."""

    def beginning(
        self, request: JobRequest, run_id: str, node_id: str, key: str, own_id: str
    ) -> Callable[[Transaction], None]:
        """Return the step that lets a node wait for a job, and starts it where it is not there.

        One that the node has started before, and that failed, goes on with what is left of it.

        Args:
            request: What the node asks for.
            run_id, node_id, key: The node's invocation.
            own_id: The id of a job of its own.

        Raises:
            JobNotFound: There is no such job, and none that is to be started.
            EncodingError: The input of a task has no stored form.
        """
        if request.job_id is not None:
            if not read(self._database, sql.JOB, (request.job_id,)):
                raise JobNotFound(
                    f"node {node_id!r} waits for job {shown(request.job_id)}, which is not in "
                    f"{self._database.where}: a node waits for jobs of the database that its run "
                    "is recorded in. Run it with the database_url= that the job has, or give "
                    "wait_for_job() the tasks of a job to start"
                )
            return self.waiting(request.job_id, (run_id, node_id, key))
        specs = [_inside(own_id, k, spec) for k, spec in enumerate(request.tasks)]
        encoded = [
            self.encoded(spec.input, f"node {node_id!r}: the input of task {spec.task_id!r}")
            for spec in specs
        ]

        def begin(tx: Transaction) -> None:
            now = self._clock()
            deadline = None if request.timeout is None else now + request.timeout
            rows = tx.rows(sql.JOB, (own_id,))
            if not rows:
                at = utc(now)
                allowed = request.allowed_agents
                text = None if allowed is None else json_text(list(allowed))
                config = json_text(dict(request.config))
                kept = attrs.astuple(JobSettings(MAX_TASKS))
                row = (own_id, "running", text, config, deadline, now, at, at, *kept)
                tx.execute(sql.INSERT_JOB, row)
                change_settings(tx, own_id, request.settings)
                job = stored_job(tx.rows(sql.JOB, (own_id,))[0])
                self._insert(tx, job, [str(spec.task_id) for spec in specs], specs, encoded, now)
            elif self._is_lost(tx, own_id, stored_job(rows[0]).status):
                change_settings(tx, own_id, request.settings)
                self._try_again(tx, own_id, deadline, now)
            self._wait(own_id, (run_id, node_id, key), tx)
            tx.after = (*tx.after, partial(tell, of_tasks(self._database)))

        return begin

    def waiting(self, job_id: str, node: tuple[str, str, str]) -> Callable[[Transaction], None]:
        """Return the step that has a node told of the end of a job, at once where it has ended.

        Args:
            job_id: Which.
            node: The run, the node and the invocation.
        """
        return partial(self._wait, job_id, node)

    @staticmethod
    def _wait(job_id: str, node: tuple[str, str, str], tx: Transaction) -> None:
        rows = tx.rows(sql.JOB, (job_id,))
        if not rows or rows[0][1] in ENDED:
            post(tx, job_id, *node)
        elif not tx.rows(_WAITS, (job_id, *node)):
            tx.execute(_WAIT, (job_id, *node))

    @staticmethod
    def _is_lost(tx: Transaction, job_id: str, status: JobStatus) -> bool:
        """Return whether a job has ended without a result."""
        if status is JobStatus.COMPLETED:
            return _gives_nothing(tx.rows(_RESULTS, (job_id,)))
        return status in (JobStatus.FAILED, JobStatus.CANCELLED)

    @staticmethod
    def _try_again(tx: Transaction, job_id: str, deadline: float | None, now: float) -> None:
        """Let the tasks of a job that failed or were cancelled be run again."""
        lost = tx.rows(_LOST, (job_id,))
        for number, *_ in lost:
            tx.execute(sql.FRESH, (number,))
            set_status(tx, number, TaskStatus.PENDING, now, cause="its job is tried again")
        for number, *_, due in lost:
            waits, _ = open_needs(tx, number)
            if due == UNSURE:
                hold(tx, number, now, waits)
            elif waits:
                tx.execute(sql.SET_WAITS, (waits, number))
            else:
                set_status(tx, number, TaskStatus.READY, now, waits=0)
        failed = sum(status == "failed" for _, status, *_ in lost)
        count_job(tx, job_id, len(lost), -failed, now)
        set_job(tx, job_id, "running", None, deadline, now)

    def cancelling(self, job_id: str, reason: str) -> Callable[[Transaction], None]:
        """Return the step that cancels a job whose node waits for it no more."""

        def cancel(tx: Transaction) -> None:
            if tx.rows(sql.JOB, (job_id,)):
                cancel_tasks(tx, job_id, reason, self._clock())

        return cancel

    def result(self, job_id: str) -> Any:
        """Return what a job gave; see `NodeCtx.wait_for_job`.

        Raises:
            JobFailed: It failed, was cancelled, or is gone.
            StoreError: It cannot be read now.
        """
        rows = read(self._database, sql.JOB, (job_id,))
        if not rows:
            raise JobFailed(f"job {job_id!r} was removed before its end was taken")
        job = stored_job(rows[0])
        if job.status is not JobStatus.COMPLETED:
            raise JobFailed(
                _why(job_id, job.status, job.error, read(self._database, _LOST, (job_id,)))
            )
        rows = read(self._database, _RESULTS, (job_id,))
        if _gives_nothing(rows):
            raise JobFailed(f"job {job_id!r} gives no result: {_given_up(rows)}")
        found = [
            (str(name).removeprefix(f"{job_id}/"), self.value(result, artifact_id))
            for name, result, artifact_id, status, *_ in rows
            if status != TaskStatus.CANCELLED  # as a run gives nothing for what was skipped
        ]
        return found[0][1] if len(rows) == 1 else dict(found)

    def has_ended(self, job_id: str) -> bool:
        """Return whether a job has ended, or is gone."""
        rows = read(self._database, sql.JOB, (job_id,))
        return not rows or rows[0][1] in ENDED


def _inside(job_id: str, place: int, spec: NewTaskSpec) -> NewTaskSpec:
    """Return a task with the ids that it has in the database."""
    name = str(place + 1) if spec.task_id is None else spec.task_id
    return attrs.evolve(
        spec,
        task_id=f"{job_id}/{name}",
        parent=None if spec.parent is None else f"{job_id}/{spec.parent}",
        dependencies=[f"{job_id}/{each}" for each in spec.dependencies],
    )


def _gives_nothing(rows: Sequence[Sequence[Any]]) -> bool:
    """Return whether all tasks were cancelled that a job would give the outputs of."""
    return bool(rows) and all(row[3] == TaskStatus.CANCELLED for row in rows)


def _given_up(rows: Sequence[Sequence[Any]]) -> str:
    told = "; ".join(
        f"task {str(name)!r} of agent {str(agent)!r} was cancelled" + (f" ({text})" if text else "")
        for name, _, _, _, agent, text in rows[:_NAMED]
    )
    return f"{told}; and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else told


def _why(job_id: str, status: JobStatus, error: str, lost: Sequence[Sequence[Any]]) -> str:
    failed: list[Mapping[str, str]] = [
        {"id": str(public_id), "agent": str(agent), "error": str(text or "")}
        for _, state, public_id, agent, text, _ in lost
        if state == "failed"
    ]
    failed.sort(key=lambda each: each["error"] == LOST)  # what failed by itself comes first
    text = f"job {job_id!r} {'was cancelled' if status is JobStatus.CANCELLED else 'has failed'}"
    if error:
        text += f" ({error})"
    if not failed:
        return text
    told = "; ".join(
        f"task {each['id']!r} of agent {each['agent']!r}"
        + (f": {each['error']}" if each["error"] else "")
        for each in failed[:_NAMED]
    )
    more = f"; and {len(failed) - _NAMED:,} more" if len(failed) > _NAMED else ""
    return f"{text}: {told}{more}"
