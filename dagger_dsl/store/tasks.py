"""`TaskRows`: the tasks of jobs in a database: adding, claiming, ending, and what follows.

Every change is one transaction, in which what follows from it is done, too: tasks that waited are
ready, those that need a failed one fail, and the last one that ends ends its job. So no process has
to be there for it, and a kill leaves nothing half done.

A worker *exchanges*: it hands in what has ended and is handed what it may begin, in one commit.
Each write of a worker names the version that its claim made, so that one that comes too late, after
the task was given to another worker, changes nothing.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from graphlib import CycleError as FoundCycle
from graphlib import TopologicalSorter
from typing import Any, Final

import attrs
import orjson

from dagger_dsl.errors import (
    AgentNotAllowed,
    ConcurrentUpdateError,
    CycleError,
    InvalidState,
    JobExists,
    JobNotFound,
    TaskExists,
    TaskNotFound,
    shown,
)
from dagger_dsl.model.policies import Effects
from dagger_dsl.model.tasks import (
    UNFINISHED,
    JobStatus,
    NewTaskSpec,
    OnDependencyFailure,
    Task,
    TaskEvent,
    TaskStatus,
    TaskType,
    check_transition,
)
from dagger_dsl.store import task_statements as sql
from dagger_dsl.store.arguments import check_new_name, check_text
from dagger_dsl.store.batches import INSERT_ARTIFACT, file_row
from dagger_dsl.store.database import Database
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.transactions import Transaction, moment, read, run_transaction

__all__ = ["Claim", "Ending", "StoredJob", "TaskRows"]

_READY, _RUNNING, _PENDING = TaskStatus.READY, TaskStatus.RUNNING, TaskStatus.PENDING
_BLOCKED, _FAILED, _COMPLETED = TaskStatus.BLOCKED, TaskStatus.FAILED, TaskStatus.COMPLETED
_CANCELLED = TaskStatus.CANCELLED

#: Statuses of a task that satisfy those that need it.
_DONE: Final = ("completed", "accepted")
#: Statuses that no waiting ends, unless a person does something.
_DEAD: Final = ("failed", "cancelled")
#: Statuses in which a task waits for those that it needs.
_WAITING: Final = ("pending", "blocked", "paused")

#: Causes of changes: when a worker died, and when what a task needs cannot come any more.
DIED: Final = "its worker died"
LOST: Final = "a task that it needs was not completed"


@attrs.frozen(eq=False)
class Claim:
    """A task that a worker has been given.

    Attributes:
        number: Its number in the table.
        version: What each of the worker's writes has to name.
        id, job_id, agent, parent, priority, effects: Of the task.
        attempt: Which call of its agent this is, counted from 1.
        retries: How many of the calls before it were retries.
        payload: Its input: inline, and the id of an artifact.
        spec: What else it was given.
    """

    number: int
    id: str
    job_id: str
    agent: str
    version: int
    attempt: int
    retries: int
    effects: str
    parent: str | None
    priority: int
    payload: tuple[bytes | None, str | None]
    spec: Mapping[str, Any]


@attrs.frozen(eq=False)
class Ending:
    """What became of a claimed task.

    Attributes:
        claim: Which.
        status: ``completed``; ``failed``; ``pending`` to be called again at *due_at*; ``ready``, as
            if it had not been claimed; ``blocked`` until *needs* are done, or a person decides.
        result: Of a completed one, what `TaskRows.encoded` gave.
        error: What it failed with, or why it is blocked.
        due_at: Seconds since 1970 from which on it is ready again.
        needs: Ids of tasks that it waits for, too.
        retried: Whether another call counts as a retry.
        asks: Whether a blocked one waits for a person, whatever it needs.
    """

    claim: Claim
    status: TaskStatus
    result: tuple[bytes | None, str | None, int] = (None, None, 0)
    error: str = ""
    due_at: float | None = None
    needs: tuple[str, ...] = ()
    retried: bool = False
    asks: bool = False


@attrs.frozen(eq=False)
class StoredJob:
    """A job as it stood when it was read.

    Attributes:
        id: Its id.
        status: A `JobStatus`.
        unfinished, failed: How many of its tasks have not ended, and have failed.
        allowed_agents: The agents that its tasks may be given to; None for all.
        config: What it was started with.
        deadline: Seconds since 1970 after which it is cancelled; None for no limit.
        error: Why it ended as it did; empty where there is nothing to say.
        created_at, updated_at: UTC.
    """

    id: str
    status: JobStatus
    unfinished: int
    failed: int
    allowed_agents: tuple[str, ...] | None
    config: Mapping[str, Any]
    deadline: float | None
    error: str
    created_at: dt.datetime
    updated_at: dt.datetime


class TaskRows:
    """The tasks and jobs of one database.

    Args:
        database, payloads: What the store is made of.
        clock: Seconds since 1970; when a task that failed is ready again outlives processes, so it
            is told by the time of day.
    """

    def __init__(
        self, database: Database, payloads: Payloads, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._payloads = payloads
        self._clock = clock

    # -- jobs

    def create_job(
        self,
        job_id: str,
        *,
        allowed_agents: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a job that is not started yet.

        Raises:
            JobExists: The id is taken.
        """
        check_new_name("a job's id", job_id)
        now = self._clock()
        allowed = None if allowed_agents is None else _json(list(allowed_agents))
        row = (
            job_id,
            "created",
            allowed,
            _json(dict(config or {})),
            None,
            now,
            _utc(now),
            _utc(now),
        )

        def insert(tx: Transaction) -> None:
            if tx.rows(sql.JOB, (job_id,)):
                raise JobExists(f"there is a job {shown(job_id)} already; give another id")
            tx.execute(sql.INSERT_JOB, row)

        run_transaction(self._database, insert)

    def job(self, job_id: str) -> StoredJob | None:
        """Return a job as it stands; None where there is none."""
        check_text("a job's id", job_id)
        rows = read(self._database, sql.JOB, (job_id,))
        return _stored_job(rows[0]) if rows else None

    def jobs(self) -> list[StoredJob]:
        """Return all jobs, the newest first."""
        return [_stored_job(row) for row in read(self._database, sql.JOBS, ())]

    def start_job(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        allowed_agents: Sequence[str] | None = None,
    ) -> None:
        """Let the tasks of a job be claimed from now on.

        Args:
            job_id: Which; one that has ended goes on with what is left of it.
            timeout: Seconds until it is cancelled.
            allowed_agents: The agents that its tasks may be given to; None leaves that as it is.

        Raises:
            JobNotFound: There is none.
            AgentNotAllowed: It has a task for another agent.
        """
        now = self._clock()

        def start(tx: Transaction) -> None:
            self._status_of(tx, job_id)
            if allowed_agents is not None:
                for (agent,) in tx.rows(sql.AGENTS_OF_JOB, (job_id,)):
                    _check_agent(job_id, str(agent), allowed_agents)
                tx.execute(sql.SET_ALLOWED, (_json(list(allowed_agents)), job_id))
            deadline = None if timeout is None else now + timeout
            self._set_job(tx, job_id, "running", None, deadline, now)
            for number, waits, due in tx.rows(sql.STARTABLE, (job_id,)):
                if not waits and due is None:
                    self._set(tx, number, _READY, now, cause="its job was started")
            if tx.rows(sql.AGENTS_OF_JOB, (job_id,)):  # one without tasks waits for some
                self._settle(tx, (job_id,), now)

        run_transaction(self._database, start)

    def cancel_job(self, job_id: str, reason: str = "") -> list[str]:
        """Cancel a job with all its tasks that have not ended; return the ids of those that ran.

        Raises:
            JobNotFound: There is none.
        """
        now = self._clock()
        ran: list[str] = []

        def cancel(tx: Transaction) -> None:
            ran.clear()
            if self._status_of(tx, job_id) not in ("created", "running"):
                return
            for number, public_id, status in tx.rows(sql.UNFINISHED_OF_JOB, (job_id,)):
                if status == "running":
                    ran.append(public_id)
                self._set(tx, number, _CANCELLED, now, error=reason, cause=reason or "cancelled")
                self._count(tx, job_id, -1, 0, now)
            self._set_job(tx, job_id, "cancelled", reason, None, now)

        run_transaction(self._database, cancel)
        return ran

    @staticmethod
    def _status_of(tx: Transaction, job_id: str) -> str:
        status = tx.scalar(sql.JOB_STATUS, (job_id,))
        if status is None:
            raise JobNotFound(f"there is no job {shown(job_id)}; start_job() makes one")
        return str(status)

    @staticmethod
    def _set_job(
        tx: Transaction,
        job_id: str,
        status: str,
        error: str | None,
        deadline: float | None,
        now: float,
    ) -> None:
        values = {
            "the_job": job_id,
            "new_status": status,
            "new_error": error,
            "new_deadline": deadline,
            "the_moment": now,
            "the_time": _utc(now),
        }
        tx.execute(sql.SET_JOB, sql.SET_JOB.in_order(values))

    @staticmethod
    def _count(tx: Transaction, job_id: str, unfinished: int, failed: int, now: float) -> None:
        values = {
            "the_job": job_id,
            "more_unfinished": unfinished,
            "more_failed": failed,
            "the_moment": now,
        }
        tx.execute(sql.COUNT_JOB, sql.COUNT_JOB.in_order(values))

    @staticmethod
    def _settle(tx: Transaction, job_ids: Iterable[str], now: float) -> None:
        for job_id in job_ids:
            values = {"the_job": job_id, "the_time": _utc(now)}
            tx.execute(sql.SETTLE_JOB, sql.SETTLE_JOB.in_order(values))

    # -- adding

    def add(self, job_id: str, specs: Sequence[NewTaskSpec]) -> None:
        """Add tasks, all of them or none; each spec has its `task_id`.

        What they need, and what they are parts of, are tasks of the same job, new ones among them.

        Raises:
            JobNotFound: There is no such job.
            InvalidState: The job has ended.
            TaskExists: An id is taken.
            TaskNotFound: A dependency, or a parent, is no task of the job.
            CycleError: They would wait for each other, or be parts of each other.
            AgentNotAllowed: The job does not let the agent have tasks.
            EncodingError: An input has no stored form.
        """
        if not specs:
            return
        _check_cycles(specs)
        encoded = [
            self.encoded(spec.input, f"the input of task {spec.task_id!r}") for spec in specs
        ]
        now = self._clock()

        def insert(tx: Transaction) -> None:
            rows = tx.rows(sql.JOB, (job_id,))
            if not rows:
                raise JobNotFound(f"there is no job {shown(job_id)}; start_job() makes one")
            job = _stored_job(rows[0])
            if job.status not in (JobStatus.CREATED, JobStatus.RUNNING):
                raise InvalidState(
                    f"job {job_id!r} is {job.status} and takes no more tasks; start a new job"
                )
            for spec in specs:
                if job.allowed_agents is not None:
                    _check_agent(job_id, spec.agent, job.allowed_agents)
            self._insert(tx, job, specs, encoded, now)

        run_transaction(self._database, insert, pages=2 + len(specs) // 4)

    def encoded(self, value: Any, what: str) -> tuple[bytes | None, str | None, int]:
        """Return where an encoded value goes: inline, or the id and size of an artifact."""
        text, artifact_id, size = self._payloads.encode(value, what)
        return (None if text is None else text.encode()), artifact_id, size

    def _insert(
        self,
        tx: Transaction,
        job: StoredJob,
        specs: Sequence[NewTaskSpec],
        encoded: Sequence[tuple[bytes | None, str | None, int]],
        now: float,
    ) -> None:
        new = {str(spec.task_id) for spec in specs}
        if len(new) < len(specs):
            raise TaskExists("two of the tasks have one id; give each its own, or leave them out")
        known = self._known(tx, job.id, specs, new)
        last = tx.scalar(sql.LAST, ()) or 0
        at, rows, sizes = _utc(now), [], {}
        for spec, (inline, artifact_id, size) in zip(specs, encoded, strict=True):
            if artifact_id is not None:
                sizes[artifact_id] = size
            anyway = spec.on_dependency_failure is OnDependencyFailure.RUN
            satisfied = (*_DONE, *_DEAD) if anyway else _DONE
            waits = sum(
                each in new or known[each][1] not in satisfied for each in spec.dependencies
            )
            ready = not waits and job.status is JobStatus.RUNNING
            rows.append(
                (
                    spec.task_id,
                    job.id,
                    spec.parent,
                    "ready" if ready else "pending",
                    spec.agent,
                    spec.priority,
                    inline,
                    at,
                    at,
                    artifact_id,
                    _spec_text(spec),
                    str(spec.effects),
                    waits,
                    int(anyway),
                    spec.key,
                )
            )
        if sizes:
            files = [file_row(*each) for each in sizes.items()]
            tx.execute_many(INSERT_ARTIFACT(self._database.dialect), files)
        tx.execute_many(sql.INSERT_TASK, rows)
        named = {"the_moment": now, "the_task": last, "the_job": job.id}
        tx.execute(sql.ADDED_EVENTS, sql.ADDED_EVENTS.in_order(named))
        self._count(tx, job.id, len(specs), 0, now)
        linked = [spec for spec in specs if spec.dependencies]
        if not linked:
            return
        numbers = {name: number for name, (number, _) in known.items()}
        numbers.update(
            (public_id, number) for number, public_id in tx.rows(sql.NEW_TASKS, (last, job.id))
        )
        links = [
            (numbers[str(spec.task_id)], numbers[each], position)
            for spec in linked
            for position, each in enumerate(spec.dependencies)
        ]
        tx.execute_many(sql.INSERT_LINK, links)
        dead = {each for each, (_, status) in known.items() if status in _DEAD}
        for spec in linked:
            if spec.on_dependency_failure is OnDependencyFailure.FAIL and dead & {
                *spec.dependencies
            }:
                number = numbers[str(spec.task_id)]
                self._set(tx, number, _FAILED, now, error=LOST, cause=LOST)
                self._count(tx, job.id, -1, 1, now)
                self._follow(tx, job.id, number, "failed", now)
        if dead:
            self._settle(tx, (job.id,), now)

    @staticmethod
    def _known(
        tx: Transaction, job_id: str, specs: Sequence[NewTaskSpec], new: set[str]
    ) -> dict[str, tuple[int, str]]:
        """Return number and status of the tasks that are there already and are named here."""
        for each in new:
            if tx.rows(sql.BY_ID, (each,)):
                raise TaskExists(f"there is a task {shown(each)} already; leave its id out")
        wanted = {each for spec in specs for each in spec.dependencies}
        wanted |= {spec.parent for spec in specs if spec.parent is not None}
        known = {}
        for each in wanted - new:
            rows = tx.rows(sql.BY_ID, (each,))
            if not rows or rows[0][4] != job_id:
                raise TaskNotFound(
                    f"job {job_id!r} has no task {shown(each)}; a task can only need, and be part "
                    "of, tasks of its own job"
                )
            known[each] = (int(rows[0][0]), str(rows[0][1]))
        return known

    # -- claiming and ending

    def exchange(
        self,
        worker: str,
        endings: Sequence[Ending] = (),
        *,
        agents: Sequence[str] = (),
        wanted: int = 0,
    ) -> tuple[list[Claim], list[Ending]]:
        """Hand in what has ended, and be given what may begin, in one commit.

        Args:
            worker: Who asks; a name that no other worker has.
            endings: What became of its claims.
            agents: The agents that it has; tasks of others are left alone.
            wanted: Tasks at most: those of the highest priority first, of one priority those that
                were added first.

        Returns:
            The claims, and those endings that came too late: their tasks belong to others now.
        """
        claims: list[Claim] = []
        late: list[Ending] = []
        now = self._clock()

        def swap(tx: Transaction) -> None:
            claims.clear()
            late.clear()
            if endings:
                late.extend(self._end(tx, worker, endings, now))
            if wanted > 0:
                claims.extend(self._claim(tx, worker, agents, wanted, now))

        run_transaction(self._database, swap, pages=3 + len(endings) + wanted)
        return claims, late

    def _end(
        self, tx: Transaction, worker: str, endings: Sequence[Ending], now: float
    ) -> list[Ending]:
        late: list[Ending] = []
        counts: dict[str, list[int]] = {}
        files = [file_row(str(e.result[1]), e.result[2]) for e in endings if e.result[1]]
        if files:
            tx.execute_many(INSERT_ARTIFACT(self._database.dialect), files)
        for each in endings:
            claim, status = each.claim, each.status
            error = each.error
            if status in UNFINISHED:
                status, error = self._parked(tx, each)
            inline, artifact_id, _ = each.result
            values = {
                "the_task": claim.number,
                "the_version": claim.version,
                "new_status": str(status),
                "new_result": inline,
                "new_artifact": artifact_id,
                "new_error": error or None,
                "new_due": each.due_at if status is _PENDING else None,
                "more_retries": int(each.retried),
                "the_moment": now,
            }
            if not tx.execute(sql.END, sql.END.in_order(values)):
                late.append(each)
                continue
            event = (claim.number, str(status), now, error, worker, claim.attempt)
            tx.execute(sql.INSERT_EVENT, event)
            count = counts.setdefault(claim.job_id, [0, 0])
            if status not in UNFINISHED:
                count[0] -= 1
                count[1] += status is _FAILED
                self._follow(tx, claim.job_id, claim.number, str(status), now, count)
        for job_id, (unfinished, failed) in counts.items():
            self._count(tx, job_id, unfinished, failed, now)
        self._settle(tx, [job_id for job_id, count in counts.items() if count[0]], now)
        return late

    def _parked(self, tx: Transaction, ending: Ending) -> tuple[TaskStatus, str]:
        """Link a task with what it waits for; return where it stands then, and why.

        While it ran nobody counted for it, so that what it needs is looked at now.
        """
        claim, status = ending.claim, ending.status
        for each in ending.needs:
            self._add_link(tx, claim.number, claim.id, claim.job_id, each)
        waits, dead = self._open_needs(tx, claim.number)
        tx.execute(sql.SET_WAITS, (waits, claim.number))
        if dead:
            return _FAILED, LOST
        if waits:
            return (_BLOCKED if status is _BLOCKED else _PENDING), ending.error
        if status is _BLOCKED and not ending.asks:
            return _READY, ""  # what it needs is done already
        return status, ending.error

    def _claim(
        self,
        tx: Transaction,
        worker: str,
        agents: Sequence[str],
        wanted: int,
        now: float,
    ) -> list[Claim]:
        rows = [row for agent in agents for row in tx.rows(sql.FIRST_READY, (agent, wanted, 0))]
        if len(agents) > 1:
            rows.sort(key=lambda row: (-row[9], row[0]))
        claims: list[Claim] = []
        lanes: set[str] = set()
        for row in rows:
            if len(claims) == wanted:
                break
            lane = row[13]
            if lane is not None:
                if lane in lanes:
                    continue
                lanes.add(lane)
            values = {
                "the_task": row[0],
                "the_version": row[4],
                "the_worker": worker,
                "the_moment": now,
            }
            if tx.execute(sql.TAKE, sql.TAKE.in_order(values)):
                claims.append(_claim_of(row))
        if claims:
            events = [(each.number, "running", now, "", worker, each.attempt) for each in claims]
            tx.execute_many(sql.INSERT_EVENT, events)
        return claims

    # -- what follows

    def _follow(
        self,
        tx: Transaction,
        job_id: str,
        number: int,
        status: str,
        now: float,
        count: list[int] | None = None,
    ) -> None:
        """Do what follows for the tasks that need one which has ended.

        Args:
            tx: The transaction.
            job_id: Its job.
            number, status: The task, and how it ended.
            now: When.
            count: Takes changes of the job's counts; they are written here by default.
        """
        changed = [0, 0] if count is None else count
        ended = [(number, status)]
        while ended:
            number, status = ended.pop()
            done = status in _DONE
            for each, state, waits, due, runs_anyway in tx.rows(sql.DEPENDENTS, (number,)):
                if state not in _WAITING:
                    continue  # one that runs looks at what it needs when it parks itself
                if not done and not runs_anyway:
                    self._set(tx, each, _FAILED, now, error=LOST, cause=LOST)
                    changed[0] -= 1
                    changed[1] += 1
                    ended.append((each, "failed"))
                    continue
                new = state
                if waits <= 1 and due is None and state != "paused":
                    new = "ready"
                values = {"the_task": each, "new_status": new}
                tx.execute(sql.SATISFY, sql.SATISFY.in_order(values))
                if new != state:
                    tx.execute(sql.INSERT_EVENT, (each, new, now, "what it needs is done", "", 0))
        if count is None and changed != [0, 0]:
            self._count(tx, job_id, changed[0], changed[1], now)
            self._settle(tx, (job_id,), now)

    @staticmethod
    def _set(
        tx: Transaction,
        number: int,
        status: TaskStatus,
        now: float,
        *,
        error: str = "",
        waits: int | None = None,
        cause: str = "",
    ) -> None:
        """Set a status, and what goes with it; nobody owns the task then."""
        values = {
            "the_task": number,
            "new_status": str(status),
            "new_error": error or None,
            "new_waits": waits,
            "the_time": _utc(now),
        }
        tx.execute(sql.CHANGE, sql.CHANGE.in_order(values))
        tx.execute(sql.INSERT_EVENT, (number, str(status), now, cause, "", 0))

    # -- steering

    def set_status(
        self,
        task_id: str,
        new: TaskStatus,
        *,
        old: TaskStatus | None = None,
        version: int | None = None,
        cause: str = "",
    ) -> bool:
        """Change a task's status by hand; return False where it is not *old* any more.

        A task that is tried again starts those over that failed for it.

        Args:
            task_id: Which.
            new: What it becomes.
            old: What it has to be, None for whatever it is.
            version: The version that it has to have.
            cause: Why, for its history.

        Raises:
            TaskNotFound: There is none.
            InvalidState: A task may not go this way.
            ConcurrentUpdateError: It has another version.
        """
        now = self._clock()
        changed = False

        def change(tx: Transaction) -> None:
            nonlocal changed
            row = self._row(tx, task_id)
            number, status, waits, job_id = row[0], TaskStatus(row[1]), row[2], str(row[4])
            changed = old is None or status is old
            if not changed:
                return
            if version is not None and row[3] != version:
                raise ConcurrentUpdateError(
                    f"task {task_id!r} has version {row[3]}, not {version}: somebody has changed "
                    "it; read it again"
                )
            check_transition(task_id, status, new)
            after = new
            if new in (_READY, _PENDING):  # which of the two, what it needs decides
                waits, _ = self._open_needs(tx, number)
                after = _PENDING if waits or self._status_of(tx, job_id) == "created" else _READY
            self._set(tx, number, after, now, waits=waits, cause=cause)
            self._recount(tx, job_id, number, status, after, now)

        run_transaction(self._database, change)
        return changed

    def _recount(
        self,
        tx: Transaction,
        job_id: str,
        number: int,
        old: TaskStatus,
        new: TaskStatus,
        now: float,
    ) -> None:
        """Bring the job, and the tasks that need this one, in line with a change by hand."""
        count = [(new in UNFINISHED) - (old in UNFINISHED), (new is _FAILED) - (old is _FAILED)]
        if new in (_FAILED, _CANCELLED):
            self._follow(tx, job_id, number, str(new), now, count)
        if new is TaskStatus.REJECTED:  # those that have not begun wait for a better result
            self._start_over(tx, number, now, count)
        if new in UNFINISHED and old not in UNFINISHED:
            self._start_over(tx, number, now, count)
            if self._status_of(tx, job_id) == "cancelled":
                self._set_job(tx, job_id, "running", None, None, now)
        if count != [0, 0]:
            self._count(tx, job_id, count[0], count[1], now)
        self._settle(tx, (job_id,), now)

    def _start_over(self, tx: Transaction, number: int, now: float, count: list[int]) -> None:
        """Let those wait again that failed, or wait, for a task that is tried again."""
        again = [number]
        while again:
            for each, state, _, _, _ in tx.rows(sql.DEPENDENTS, (again.pop(),)):
                if state == "failed" and not tx.scalar(sql.ATTEMPTS, (each,)):
                    count[0] += 1
                    count[1] -= 1
                    again.append(each)
                elif state not in ("pending", "ready", "blocked"):
                    continue
                waits, _ = self._open_needs(tx, each)
                if state == "blocked" and not waits:
                    continue
                status = _BLOCKED if state == "blocked" else _PENDING
                self._set(tx, each, status, now, waits=waits, cause="what it needs is tried again")

    def add_dependency(self, task_id: str, needs: str) -> None:
        """Let a task wait for another one of its job, too.

        A task that runs goes on; it waits when it parks itself.

        Raises:
            TaskNotFound: There is no such task in the job.
            CycleError: The other one waits for this one.
            InvalidState: The task has ended.
        """
        now = self._clock()

        def link(tx: Transaction) -> None:
            row = self._row(tx, task_id)
            number, status, job_id = row[0], TaskStatus(row[1]), str(row[4])
            if status not in UNFINISHED:
                raise InvalidState(f"task {task_id!r} is {status} and waits for nothing any more")
            self._add_link(tx, number, task_id, job_id, needs)
            if status is not _RUNNING:  # one that runs looks at what it needs when it parks itself
                self._wait_again(tx, job_id, number, status, now)

        run_transaction(self._database, link)

    def _wait_again(
        self, tx: Transaction, job_id: str, number: int, status: TaskStatus, now: float
    ) -> None:
        """Bring a task that has not begun in line with what it needs by now."""
        waits, lost = self._open_needs(tx, number)
        if lost:
            self._set(tx, number, _FAILED, now, error=LOST, waits=waits, cause=LOST)
            count = [-1, 1]
            self._follow(tx, job_id, number, "failed", now, count)
            self._count(tx, job_id, count[0], count[1], now)
            self._settle(tx, (job_id,), now)
        elif waits and status is _READY:
            self._set(tx, number, _PENDING, now, waits=waits, cause="it needs another task")
        else:
            tx.execute(sql.SET_WAITS, (waits, number))

    def _add_link(
        self, tx: Transaction, number: int, task_id: str, job_id: str, needs: str
    ) -> None:
        """Link two tasks of one job, the first of which needs the other."""
        other = self._row(tx, needs)
        if other[4] != job_id:
            raise TaskNotFound(f"job {job_id!r} has no task {shown(needs)}")
        path = self._path(tx, int(other[0]), number)
        if path is not None:
            names = [str(tx.scalar(sql.NAME, (each,))) for each in path]
            raise CycleError([task_id, *names])
        if not tx.rows(sql.LINK, (number, other[0])):
            position = tx.scalar(sql.LAST_LINK, (number,))
            place = 0 if position is None else position + 1
            tx.execute(sql.INSERT_LINK, (number, other[0], place))

    def _path(self, tx: Transaction, start: int, target: int) -> list[int] | None:
        """Return the way from one task to another that it needs, None where it does not."""
        came: dict[int, int] = {start: start}
        found = [start]
        while found:
            number = found.pop()
            if number == target:
                path = [number]
                while path[-1] != start:
                    path.append(came[path[-1]])
                return path[::-1]
            for each, _ in tx.rows(sql.NEEDS, (number,)):
                if each not in came:
                    came[each] = number
                    found.append(each)
        return None

    def _open_needs(self, tx: Transaction, number: int) -> tuple[int, bool]:
        """Return for how many tasks one has to wait, and whether one of these cannot come."""
        anyway = bool(tx.scalar(sql.RUNS_ANYWAY, (number,)))
        states = [str(status) for _, status in tx.rows(sql.NEEDS, (number,))]
        dead = sum(state in _DEAD for state in states)
        waits = sum(state not in _DONE for state in states) - (dead if anyway else 0)
        return waits, bool(dead) and not anyway

    @staticmethod
    def _row(tx: Transaction, task_id: str) -> Sequence[Any]:
        check_text("a task's id", task_id)
        rows = tx.rows(sql.BY_ID, (task_id,))
        if not rows:
            raise TaskNotFound(f"there is no task {shown(task_id)}")
        return rows[0]

    # -- time and death

    def wake(self) -> float | None:
        """Make the tasks ready whose time has come; return when the next one's comes.

        Returns:
            Seconds since 1970; None where none waits for a time.
        """
        rows = read(self._database, sql.DUE, (1, 0))
        now = self._clock()
        if not rows or rows[0][2] > now:
            return rows[0][2] if rows else None
        after: float | None = None

        def ready(tx: Transaction) -> None:
            nonlocal after
            after = None
            for number, waits, due in tx.rows(sql.DUE, (1_000, 0)):
                if due > now:
                    after = due
                    break
                new = "pending" if waits else "ready"
                tx.execute(sql.WAKE, (new, number))
                tx.execute(sql.INSERT_EVENT, (number, new, now, "its time has come", "", 0))

        run_transaction(self._database, ready)
        return after

    def beat(self, worker: str, lease: float) -> int:
        """Show that a worker lives; return how many tasks it has."""
        count = 0
        values = {"the_worker": worker, "the_lease": _utc(self._clock() + lease)}

        def raise_(tx: Transaction) -> None:
            nonlocal count
            count = tx.execute(sql.BEAT, sql.BEAT.in_order(values))

        run_transaction(self._database, raise_)
        return count

    def owners(self) -> dict[str, int]:
        """Return the workers that have tasks, each with the sum of the beats of these."""
        return {str(name): int(beats) for name, beats in read(self._database, sql.OWNERS, ())}

    def now(self) -> float:
        """Return the time, in seconds since 1970, by the clock that decides when tasks are due."""
        return self._clock()

    def rescue(self, worker: str, *, cause: str = DIED, max_deaths: int = 3) -> list[str]:
        """Take the tasks of a worker that is gone; return the ids of those that run again.

        One that may be called at most once waits for a person; one during which so many workers
        died has failed.

        Args:
            worker: Whose.
            cause: Why, for their history; one that stopped in order did not die of a task.
            max_deaths: Workers.
        """
        now = self._clock()
        again: list[str] = []

        def take(tx: Transaction) -> None:
            again.clear()
            counts: dict[str, list[int]] = {}
            for number, public_id, effects, job_id in tx.rows(sql.OF_OWNER, (worker,)):
                deaths = tx.scalar(sql.DEATHS, (number, DIED)) or 0
                if effects == Effects.AT_MOST_ONCE:
                    why = f"{cause}, and it may be called at most once: decide by hand"
                    self._set(tx, number, _BLOCKED, now, error=why, cause=cause)
                elif cause == DIED and deaths + 1 >= max_deaths:
                    why = f"{deaths + 1} workers died while they ran it"
                    self._set(tx, number, _FAILED, now, error=why, cause=DIED)
                    count = counts.setdefault(job_id, [0, 0])
                    count[0] -= 1
                    count[1] += 1
                    self._follow(tx, job_id, number, "failed", now, count)
                else:
                    self._set(tx, number, _READY, now, cause=cause)
                    again.append(str(public_id))
            for job_id, (unfinished, failed) in counts.items():
                self._count(tx, job_id, unfinished, failed, now)
            self._settle(tx, counts, now)

        run_transaction(self._database, take)
        return again

    # -- reading

    def task(self, task_id: str) -> Task | None:
        """Return a task as it stands; None where there is none."""
        check_text("a task's id", task_id)
        rows = read(self._database, sql.ONE_TASK, (task_id,))
        if not rows:
            return None
        needs = [str(name) for (name,) in read(self._database, sql.NEEDED_IDS, (rows[0][0],))]
        return self._task(rows[0], needs)

    def tasks_of(self, job_id: str) -> list[Task]:
        """Return the tasks of a job, in the order in which they were added."""
        check_text("a job's id", job_id)
        needs = defaultdict(list)
        for number, name in read(self._database, sql.LINKS_OF_JOB, (job_id,)):
            needs[number].append(str(name))
        rows = read(self._database, sql.TASKS_OF_JOB, (job_id,))
        return [self._task(row, needs.get(row[0], ())) for row in rows]

    def agents_of(self, job_id: str) -> list[str]:
        """Return the names of the agents that a job has tasks for."""
        check_text("a job's id", job_id)
        return [str(name) for (name,) in read(self._database, sql.AGENTS_OF_JOB, (job_id,))]

    def outputs_of_needs(self, number: int) -> list[Any]:
        """Return what the tasks gave that one needs, in its order; None where one gave nothing."""
        return [
            self.value(result, artifact_id)
            for _, _, result, artifact_id in read(self._database, sql.OUTPUTS, (number,))
        ]

    def outputs_of(self, task_id: str) -> list[Any]:
        """Return what the tasks gave that one needs, by its id.

        Raises:
            TaskNotFound: There is none.
        """
        check_text("a task's id", task_id)
        rows = read(self._database, sql.BY_ID, (task_id,))
        if not rows:
            raise TaskNotFound(f"there is no task {shown(task_id)}")
        return self.outputs_of_needs(int(rows[0][0]))

    def history(self, task_id: str) -> list[TaskEvent]:
        """Return each change of a task's status, in order.

        Raises:
            TaskNotFound: There is none.
        """
        check_text("a task's id", task_id)
        rows = read(self._database, sql.BY_ID, (task_id,))
        if not rows:
            raise TaskNotFound(f"there is no task {shown(task_id)}")
        return [
            TaskEvent(task_id, TaskStatus(status), _utc(at), cause, worker, attempt)
            for _, status, at, cause, worker, attempt in read(
                self._database, sql.EVENTS, (rows[0][0],)
            )
        ]

    def value(self, inline: bytes | None, artifact_id: str | None) -> Any:
        """Return a stored value."""
        text = None if inline is None else bytes(inline).decode()
        return self._payloads.decode(text, artifact_id)

    def _task(self, row: Sequence[Any], needs: Sequence[str]) -> Task:
        spec = orjson.loads(row[23]) if row[23] else {}
        return Task(
            id=row[1],
            job_id=row[2],
            agent=row[3],
            status=TaskStatus(row[4]),
            task_type=TaskType(spec.get("task_type", "task")),
            description=spec.get("description", ""),
            acceptance_criteria=spec.get("acceptance_criteria"),
            summary=spec.get("summary"),
            parent=row[5],
            dependencies=tuple(needs),
            input=self.value(row[6], row[7]),
            output=self.value(row[8], row[9]),
            error=row[10] or "",
            priority=row[11],
            timeout=spec.get("timeout"),
            max_retries=spec.get("max_retries"),
            effects=Effects(row[12]),
            on_dependency_failure=OnDependencyFailure("run" if row[13] else "fail"),
            key=row[14],
            attempts=row[15],
            retry_count=row[16],
            worker=row[17] or "",
            version=row[18],
            created_at=moment(row[19]),
            updated_at=max([moment(row[20]), *(_utc(each) for each in row[21:23] if each)]),
            started_at=None if row[21] is None else _utc(row[21]),
            finished_at=None if row[22] is None else _utc(row[22]),
        )


def _claim_of(row: Sequence[Any]) -> Claim:
    return Claim(
        number=row[0],
        id=row[1],
        job_id=row[2],
        agent=row[3],
        version=row[4] + 1,
        attempt=row[5] + 1,
        retries=row[6],
        effects=row[7],
        parent=row[8],
        priority=row[9],
        payload=(row[10], row[11]),
        spec=orjson.loads(row[12]) if row[12] else {},
    )


def _stored_job(row: Sequence[Any]) -> StoredJob:
    allowed = None if row[4] is None else tuple(orjson.loads(row[4]))
    return StoredJob(
        id=row[0],
        status=JobStatus(row[1]),
        unfinished=row[2],
        failed=row[3],
        allowed_agents=allowed,
        config=orjson.loads(row[5]) if row[5] else {},
        deadline=row[6],
        error=row[7] or "",
        created_at=moment(row[8]),
        updated_at=moment(row[9]),
    )


_SPEC_FIELDS: Final = (
    "description",
    "task_type",
    "acceptance_criteria",
    "summary",
    "timeout",
    "max_retries",
)


def _spec_text(spec: NewTaskSpec) -> str | None:
    """Return what nothing is looked up by; most tasks have little of it."""
    given = {name: getattr(spec, name) for name in _SPEC_FIELDS}
    given["task_type"] = str(spec.task_type) if spec.task_type is not TaskType.TASK else None
    given["description"] = spec.description or None
    kept = {name: value for name, value in given.items() if value is not None}
    return _json(kept) if kept else None


def _check_cycles(specs: Sequence[NewTaskSpec]) -> None:
    ids = {spec.task_id for spec in specs}
    needs = {spec.task_id: spec.dependencies for spec in specs if spec.dependencies}
    parts = {spec.task_id: (spec.parent,) for spec in specs if spec.parent is not None}
    for links in (needs, parts):
        inside = {name: [each for each in found if each in ids] for name, found in links.items()}
        if not any(inside.values()):
            continue
        try:
            TopologicalSorter(inside).prepare()
        except FoundCycle as error:
            raise CycleError([str(each) for each in reversed(error.args[1])]) from None


def _check_agent(job_id: str, agent: str, allowed: Sequence[str]) -> None:
    if agent not in allowed:
        raise AgentNotAllowed(
            f"job {job_id!r} has no task for agent {agent!r}: it allows {', '.join(allowed)}; "
            "name it in allowed_agents"
        )


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _utc(moment: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(moment, dt.UTC)
