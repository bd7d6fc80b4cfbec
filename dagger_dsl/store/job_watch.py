"""`JobWatch`: jobs whose time is over, and jobs in which nothing happens any more.

Any number of processes may look. What one of them finds it takes in the transaction that says so,
and only if nothing of the job has changed since it looked; so each thing is done once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import attrs
import sqlalchemy as sa

from dagger_dsl.model.tasks import NewTaskSpec
from dagger_dsl.store import task_statements as sql
from dagger_dsl.store.schema import jobs, tasks
from dagger_dsl.store.task_reads import stored_job
from dagger_dsl.store.task_steps import cancel_tasks
from dagger_dsl.store.tasks import TaskRows
from dagger_dsl.store.transactions import Statement, Transaction, read, run_transaction

__all__ = ["NOTICE", "JobWatch", "Stall", "StuckTask"]

#: What the ids of tasks begin with that tell a planning agent of a stall.
NOTICE: Final = "stalled-"

#: The latest moment that a task may be due at; who waits for a person is due at no moment at all.
_LAST: Final = 1e15

_job = sa.bindparam("the_job", type_=sa.Text())
_now: sa.BindParameter[float] = sa.bindparam("the_moment", type_=sa.Double())
_interval: sa.BindParameter[float] = sa.bindparam("the_interval", type_=sa.Double())
#: What happened before does not count as a sign of life.
_before = _now - sa.func.coalesce(jobs.c.heartbeat_interval, _interval)
_seen: sa.BindParameter[float] = sa.bindparam("the_active", type_=sa.Double())


def _is(column: sa.ColumnElement[Any], value: str) -> sa.ColumnElement[bool]:
    return column == sa.literal_column(f"'{value}'")


def _any(column: sa.ColumnElement[Any], values: Sequence[str]) -> sa.ColumnElement[bool]:
    return column.in_([sa.literal_column(f"'{value}'") for value in values])


_OVERDUE: Final = Statement(
    sa.select(jobs.c.job_id)
    .where(_is(jobs.c.status, "running"), jobs.c.deadline <= _now)
    .order_by(jobs.c.deadline)
)
#: A task that began later, or that waits for its time, is a sign of life.
_lives: Final = sa.exists().where(
    tasks.c.job_id == jobs.c.job_id,
    sa.or_(
        tasks.c.started_at > _before,
        sa.and_(_is(tasks.c.status, "pending"), tasks.c.due_at > _now),
    ),
)
_unfinished = ("pending", "blocked", "ready", "running", "paused")


def _in_it(*conditions: sa.ColumnElement[bool]) -> sa.Exists:
    return sa.exists().where(tasks.c.job_id == jobs.c.job_id, *conditions)


#: A person has to decide on a task, or has paused it: what else does not go on waits for that, too.
_asks: Final = _in_it(
    sa.or_(
        _is(tasks.c.status, "paused"),
        sa.and_(
            _is(tasks.c.status, "blocked"),
            sa.or_(
                tasks.c.due_at > sa.literal_column(f"{_LAST:.1f}"),
                tasks.c.waits == sa.literal_column("0"),
            ),
        ),
    )
)
#: Something could go on by itself, and does not.
_stands: Final = sa.or_(
    _in_it(_any(tasks.c.status, ("ready", "running"))),
    sa.and_(_in_it(_any(tasks.c.status, _unfinished)), ~_asks),
)
_STALLED: Final = Statement(
    sa.select(
        jobs.c.job_id,
        jobs.c.active_at,
        sa.func.coalesce(jobs.c.heartbeat_interval, _interval),
        jobs.c.stall_action,
    )
    .where(
        _is(jobs.c.status, "running"),
        jobs.c.stalled_at.is_(None),
        jobs.c.active_at <= _before,
        ~_lives,
        _stands,
    )
    .order_by(jobs.c.active_at)
)
_MARK: Final = Statement(
    sa.update(jobs)
    .where(
        jobs.c.job_id == _job,
        _is(jobs.c.status, "running"),
        jobs.c.stalled_at.is_(None),
        jobs.c.active_at == _seen,
    )
    .values(stalled_at=_now)
)
_STALL: Final = Statement(
    sa.update(jobs).where(jobs.c.job_id == _job).values(stalled_at=_now, active_at=_now)
)
_GO_ON: Final = Statement(
    sa.update(jobs)
    .where(
        _is(jobs.c.status, "running"),
        jobs.c.stalled_at.is_not(None),
        sa.exists().where(tasks.c.job_id == jobs.c.job_id, tasks.c.started_at > jobs.c.stalled_at),
    )
    .values(stalled_at=sa.null(), active_at=_now)
)
_worker = sa.bindparam("the_worker", type_=sa.Text())
_ALIVE: Final = Statement(
    sa.update(jobs)
    .where(
        _is(jobs.c.status, "running"),
        jobs.c.stalled_at.is_(None),
        jobs.c.job_id.in_(
            sa.select(tasks.c.job_id).where(
                tasks.c.owner == _worker, _is(tasks.c.status, "running")
            )
        ),
    )
    .values(active_at=_now)
)
_number = sa.bindparam("the_task", type_=sa.Integer())
_id = sa.bindparam("the_id", type_=sa.Text())
_version = sa.bindparam("the_version", type_=sa.Integer())
_is_current = sa.and_(
    tasks.c.task_id == _number,
    tasks.c.public_id == sa.func.coalesce(_id, tasks.c.public_id),
    tasks.c.version == _version,
    _is(tasks.c.status, "running"),
)
_CURRENT: Final = Statement(sa.select(tasks.c.task_id).where(_is_current))
_HEARTBEAT: Final = Statement(
    sa.update(jobs)
    .where(
        jobs.c.job_id == _job,
        _is(jobs.c.status, "running"),
        sa.exists().where(_is_current),
    )
    .values(active_at=_now, stalled_at=sa.null())
)
_STUCK: Final = Statement(
    sa.select(
        tasks.c.public_id,
        tasks.c.version,
        tasks.c.agent_type,
        tasks.c.status,
        tasks.c.error,
        tasks.c.waits,
    )
    .where(
        tasks.c.job_id == _job,
        _any(tasks.c.status, _unfinished),
        tasks.c.public_id.not_like(sa.literal_column(f"'{NOTICE}%'")),
    )
    .order_by(tasks.c.task_id)
)
#: A text of JSON has its own quotes escaped: no description looks like this.
_PLANNER: Final = Statement(
    sa.select(tasks.c.public_id, tasks.c.agent_type)
    .where(
        tasks.c.job_id == _job,
        tasks.c.spec.like(sa.literal_column("""'%"task_type":"objective"%'""")),
        tasks.c.public_id.not_like(sa.literal_column(f"'{NOTICE}%'")),
    )
    .order_by(tasks.c.task_id)
    .limit(sa.bindparam("the_limit", type_=sa.Integer()))
    .offset(sa.bindparam("the_first", type_=sa.Integer()))
)


@attrs.frozen
class Stall:
    """A job in which nothing has happened for a while.

    Attributes:
        job_id: Which.
        active_at: When something of it last happened, in seconds since 1970.
        interval: For how many seconds nothing may happen.
        action: The name of its `StallAction`; None where that is left to who looks.
    """

    job_id: str
    active_at: float
    interval: float
    action: str | None


@attrs.frozen
class StuckTask:
    """A task of a stalled job that has not ended.

    Attributes:
        id, version, agent, status: Of the task.
        error: Why it is blocked, or what it last failed with; empty where that is not known.
        waits: For how many tasks it waits.
    """

    id: str
    version: int
    agent: str
    status: str
    error: str
    waits: int


class JobWatch(TaskRows):
    """The jobs of one database, as those see them who look after them."""

    # -- time limits

    def overdue(self) -> list[str]:
        """Return the ids of the jobs that run although their time is over."""
        return [str(job_id) for (job_id,) in read(self._database, _OVERDUE, (self.now(),))]

    def expire(self, job_id: str) -> list[str] | None:
        """Cancel a job whose time is over; return the ids of the tasks that ran.

        None where there is nothing to do: somebody else was quicker, or it got more time.
        """
        now = self.now()
        ran: list[str] | None = None

        def cancel(tx: Transaction) -> None:
            nonlocal ran
            ran = None
            rows = tx.rows(sql.JOB, (job_id,))
            job = stored_job(rows[0]) if rows else None
            if job is None or job.status != "running" or (job.deadline or now + 1) > now:
                return
            ran = cancel_tasks(tx, job_id, "the job's time limit is over", now)

        run_transaction(self._database, cancel)
        return ran

    # -- signs of life

    def alive(self, worker: str) -> None:
        """Let the jobs be active whose tasks a worker runs; it ends no stall."""
        values = {"the_worker": worker, "the_moment": self.now()}

        def touch(tx: Transaction) -> None:
            tx.execute(_ALIVE, _ALIVE.in_order(values))

        run_transaction(self._database, touch)

    def heartbeat(self, job_id: str, number: int, version: int, task_id: str | None = None) -> bool:
        """Let a task's job be active; return whether the task still is who says so.

        Args:
            job_id, number, version: Of the claim.
            task_id: Of the claim, too: the number of a task that was removed is given away again.
        """
        values = {
            "the_job": job_id,
            "the_task": number,
            "the_id": task_id,
            "the_version": version,
            "the_moment": self.now(),
        }
        lives = False

        def touch(tx: Transaction) -> None:
            nonlocal lives
            lives = bool(tx.execute(_HEARTBEAT, _HEARTBEAT.in_order(values)))

        run_transaction(self._database, touch)
        return lives

    def is_current(self, number: int, version: int, task_id: str | None = None) -> bool:
        """Whether a task still runs under the claim that has this version; see `heartbeat`."""
        values = {"the_task": number, "the_id": task_id, "the_version": version}
        return bool(read(self._database, _CURRENT, _CURRENT.in_order(values)))

    # -- stalls

    def stalled(self, interval: float) -> list[Stall]:
        """Return the jobs that run, and gave no sign of life for so many seconds as they keep.

        Those whose stall somebody has taken are not among them. Not stalled are those without
        tasks, those that wait for the time of a task, and those in which nothing can go on before
        a person answers, or lets go on what is paused.

        Args:
            interval: Seconds, for jobs that keep none.
        """
        values = {"the_moment": self.now(), "the_interval": interval}
        rows = read(self._database, _STALLED, _STALLED.in_order(values))
        return [Stall(str(row[0]), *row[1:]) for row in rows]

    def go_on(self) -> None:
        """Let the stalls be over of jobs that began a task since; others end by what they do."""
        values = {"the_moment": self.now()}

        def clear(tx: Transaction) -> None:
            tx.execute(_GO_ON, _GO_ON.in_order(values))

        run_transaction(self._database, clear)

    def mark(self, stall: Stall) -> bool:
        """Take a stall; return False where somebody else has, or where the job goes on."""
        taken = False

        def take(tx: Transaction) -> None:
            nonlocal taken
            taken = self._mark(tx, stall)

        run_transaction(self._database, take)
        return taken

    def _mark(self, tx: Transaction, stall: Stall) -> bool:
        values = {
            "the_job": stall.job_id,
            "the_active": stall.active_at,
            "the_moment": self.now(),
        }
        return bool(tx.execute(_MARK, _MARK.in_order(values)))

    def terminate(self, stall: Stall, reason: str) -> list[str] | None:
        """Cancel a stalled job; return the ids of the tasks that ran, None as `mark` False."""
        ran: list[str] | None = None
        now = self.now()

        def cancel(tx: Transaction) -> None:
            nonlocal ran
            taken = self._mark(tx, stall)
            ran = cancel_tasks(tx, stall.job_id, reason, now) if taken else None

        run_transaction(self._database, cancel)
        return ran

    def stuck(self, job_id: str) -> list[StuckTask]:
        """Return what a job waits for, but for the tasks that told of a stall, in order."""
        return [_stuck(row) for row in read(self._database, _STUCK, (job_id,))]

    def planner(self, job_id: str) -> tuple[str, str] | None:
        """Return the id of a job's objective, and its agent; None where it has none."""
        rows = read(self._database, _PLANNER, (job_id, 1, 0))
        return (str(rows[0][0]), str(rows[0][1])) if rows else None

    def notice_id(self, stall: Stall, stuck: Sequence[StuckTask]) -> str:
        """Return the id of the task that tells of a stall.

        The same tasks, stuck as they were, are the same stall: it is told once, however often the
        telling itself is all that happens.
        """
        told = "\n".join([stall.job_id, *(f"{each.id} {each.version}" for each in stuck)])
        return NOTICE + hashlib.sha256(told.encode()).hexdigest()[:24]

    def notify(self, stall: Stall, spec: NewTaskSpec) -> bool:
        """Take a stall and add the task that tells of it; return whether it was added here."""
        encoded = self.encoded(spec.input, f"the input of task {spec.task_id!r}")
        added = False
        now = self.now()

        def take(tx: Transaction) -> None:
            nonlocal added
            added = False
            if not self._mark(tx, stall) or tx.rows(sql.BY_ID, (spec.task_id,)):
                return
            job = stored_job(tx.rows(sql.JOB, (stall.job_id,))[0])
            self._insert(tx, job, [str(spec.task_id)], [spec], [encoded], now)
            # To be told is no sign of life.
            values = {"the_job": stall.job_id, "the_moment": now}
            tx.execute(_STALL, _STALL.in_order(values))
            added = True

        run_transaction(self._database, take)
        return added


def _stuck(row: Sequence[Any]) -> StuckTask:
    return StuckTask(str(row[0]), row[1], str(row[2]), str(row[3]), row[4] or "", row[5])
