"""`TaskReads`: jobs and tasks of a database as values, and the base of all that touch them."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs
import orjson

from dagger_dsl.errors import TaskNotFound, shown
from dagger_dsl.model.job_settings import NO_SETTINGS, JobSettings
from dagger_dsl.model.policies import Effects
from dagger_dsl.model.stored_values import StoredValue
from dagger_dsl.model.tasks import (
    JobStatus,
    OnDependencyFailure,
    Task,
    TaskEvent,
    TaskStatus,
    TaskType,
)
from dagger_dsl.store import task_statements as sql
from dagger_dsl.store.arguments import check_text
from dagger_dsl.store.codec import advice_outside_runs
from dagger_dsl.store.database import Database
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.task_questions import ANSWERS, Answered, Question, open_question
from dagger_dsl.store.task_steps import NEVER, UNSURE, asks_person, utc
from dagger_dsl.store.transactions import column_moment, fetch, read

__all__ = ["StoredJob", "TaskReads", "TaskTable", "stored_job"]


#: By their texts; a dictionary is quicker than their classes, which is seen in long lists.
_STATUSES: Final = {str(each): each for each in TaskStatus}
_TYPES: Final = {str(each): each for each in TaskType}
_EFFECTS: Final = {str(each): each for each in Effects}


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
        task_count: How many tasks it has.
        settings: What it keeps beside them.
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
    task_count: int = 0
    settings: JobSettings = NO_SETTINGS


class TaskTable:
    """What reads and writes the tasks of one database.

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

    @property
    def places(self) -> tuple[str, ...]:
        """What a `StoreError` of this database says for its place, or of its artifact folder."""
        files = self._payloads.files
        where = self._database.where
        return (where,) if files is None else (where, str(files.root))

    def now(self) -> float:
        """Return the time, in seconds since 1970, by the clock that decides when tasks are due."""
        return self._clock()

    def value(self, inline: bytes | None, artifact_id: str | None) -> Any:
        """Return a stored value."""
        text = None if inline is None else bytes(inline).decode()
        return self._payloads.decode(text, artifact_id)

    def encoded(self, value: Any, what: str) -> tuple[bytes | None, str | None, int]:
        """Return where an encoded value goes: inline, or the id and size of an artifact."""
        with advice_outside_runs():
            text, artifact_id, size = self._payloads.encode(value, what)
        return (None if text is None else text.encode()), artifact_id, size


class TaskReads(TaskTable):
    """Reads the jobs and tasks of one database."""

    def job(self, job_id: str) -> StoredJob | None:
        """Return a job as it stands; None where there is none."""
        check_text("a job's id", job_id)
        rows = read(self._database, sql.JOB, (job_id,))
        return stored_job(rows[0]) if rows else None

    def jobs(self) -> list[StoredJob]:
        """Return all jobs, the newest first."""
        return [stored_job(row) for row in read(self._database, sql.JOBS, ())]

    def task(self, task_id: str) -> Task | None:
        """Return a task as it stands; None where there is none."""
        check_text("a task's id", task_id)
        rows = read(self._database, sql.ONE_TASK, (task_id,))
        if not rows:
            return None
        return self._task(rows[0], self._needed(rows[0][0]))

    def tasks_of(
        self,
        job_id: str,
        *,
        task_type: TaskType | None = None,
        status: TaskStatus | None = None,
        agent: str | None = None,
    ) -> list[Task]:
        """Return the tasks of a job, in the order in which they were added.

        Args:
            job_id: Which.
            task_type, status, agent: Only those that are this.
        """
        check_text("a job's id", job_id)
        needs = defaultdict(list)
        # Of one moment: a task that has just begun to wait for another one would else be taken for
        # one that waits for a person.
        with self._database.reading() as connection:
            links = fetch(connection, sql.LINKS_OF_JOB, (job_id,))
            rows = fetch(connection, sql.TASKS_OF_JOB, (job_id,))
        for number, name in links:
            needs[number].append(str(name))
        return [
            self._task(row, needs.get(row[0], ()))
            for row in rows
            if (agent is None or row[3] == agent)
            and (status is None or row[4] == status)
            and (task_type is None or _type_of(row[23]) is task_type)
        ]

    def _row_of(self, task_id: str) -> Sequence[Any]:
        check_text("a task's id", task_id)
        rows = read(self._database, sql.BY_ID, (task_id,))
        if not rows:
            raise TaskNotFound(f"there is no task {shown(task_id)}")
        return rows[0]

    def children_of(self, task_id: str) -> list[Task]:
        """Return the parts of a task, in the order in which they were added.

        Raises:
            TaskNotFound: There is no such task.
        """
        parts = read(self._database, sql.PARTS, (self._row_of(task_id)[4], task_id))
        return [self._task(row, self._needed(row[0])) for row in parts]

    def _needed(self, number: int) -> list[str]:
        return [str(name) for (name,) in read(self._database, sql.NEEDED_IDS, (number,))]

    def agents_of(self, job_id: str) -> list[str]:
        """Return the names of the agents that a job has tasks for."""
        check_text("a job's id", job_id)
        return [str(name) for (name,) in read(self._database, sql.AGENTS_OF_JOB, (job_id,))]

    def was_called(self, agent: str) -> bool:
        """Return whether a task of an agent was ever called."""
        ((was_called,),) = read(self._database, sql.WAS_CALLED, (agent,))
        return bool(was_called)

    def ready_agents(self) -> Counter[str]:
        """Return for which agents tasks are ready, and how many."""
        found = Counter[str]()
        for each in sql.READY_AGENTS:
            found.update({str(name): many for name, many in read(self._database, each, ())})
        return found

    def mark(self, job_id: str) -> tuple[int, int]:
        """Return two numbers that are others after any change of a job's tasks."""
        ((many, versions),) = read(self._database, sql.MARK, (job_id,))
        return many, versions or 0

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
        return self.outputs_of_needs(self._row_of(task_id)[0])

    def answers(self, number: int) -> list[Answered]:
        """Return what people answered a task, by its number, the oldest answer first."""
        return [
            Answered(question, self.value(inline, artifact_id), by, utc(at))
            for question, inline, artifact_id, by, at in read(self._database, ANSWERS, (number,))
        ]

    def answers_to(self, task_id: str) -> list[Answered]:
        """Return what people answered a task, by its id.

        Raises:
            TaskNotFound: There is none.
        """
        return self.answers(self._row_of(task_id)[0])

    def question(self, task_id: str) -> Question | None:
        """Return what a task asks a person now; None where no answer lets it go on.

        Raises:
            TaskNotFound: There is none.
        """
        check_text("a task's id", task_id)
        with self._database.reading() as connection:  # of one moment
            rows = fetch(connection, sql.BY_ID, (task_id,))
            if not rows:
                raise TaskNotFound(f"there is no task {shown(task_id)}")
            number, status, waits, due = (rows[0][each] for each in (0, 1, 2, 6))
            if due == UNSURE or not asks_person(status, waits, due):
                return None
            ((error,),) = fetch(connection, sql.ERROR, (number,))
            found = open_question(partial(fetch, connection), number, error or "")
        return found if due == NEVER else attrs.evolve(found, run_id=None)

    def ids(self) -> list[str]:
        """Return the ids of all tasks of all jobs, in the order in which they were added."""
        return [str(name) for (name,) in read(self._database, sql.IDS, ())]

    def history(self, task_id: str) -> list[TaskEvent]:
        """Return each change of a task's status, in order.

        Raises:
            TaskNotFound: There is none.
        """
        return [
            TaskEvent(task_id, TaskStatus(status), utc(at), cause, worker, attempt)
            for _, status, at, cause, worker, attempt in read(
                self._database, sql.EVENTS, (self._row_of(task_id)[0],)
            )
        ]

    def history_of(self, job_id: str) -> list[TaskEvent]:
        """Return each change of the status of a job's tasks, in order."""
        check_text("a job's id", job_id)
        return [
            TaskEvent(str(name), TaskStatus(status), utc(at), cause, worker, attempt)
            for name, status, at, cause, worker, attempt in read(
                self._database, sql.EVENTS_OF_JOB, (job_id,)
            )
        ]

    def _stored(self, inline: bytes | None, artifact_id: str | None) -> Any:
        """Return what stands for a value until it is asked for."""
        if inline is None and artifact_id is None:
            return None
        return StoredValue(self._form, self.value, inline, artifact_id)

    def _form(self, inline: bytes | None, artifact_id: str | None) -> bytes:
        """Return the stored form of a value."""
        return bytes(inline or b"") if artifact_id is None else self._payloads.read(artifact_id)

    def _task(self, row: Sequence[Any], needs: Sequence[str]) -> Task:
        spec = orjson.loads(row[23]) if row[23] else {}
        created = column_moment(row[19])
        changed = created if row[20] == row[19] else column_moment(row[20])
        began, ended = (None if each is None else utc(each) for each in row[21:23])
        return Task(
            id=row[1],
            job_id=row[2],
            agent=row[3],
            status=_STATUSES[row[4]],
            task_type=_TYPES[spec.get("task_type", "task")],
            description=spec.get("description", ""),
            acceptance_criteria=spec.get("acceptance_criteria"),
            summary=spec.get("summary"),
            parent=row[5],
            dependencies=tuple(needs),
            input=self._stored(row[6], row[7]),
            output=self._stored(row[8], row[9]),
            error=row[10] or "",
            priority=row[11],
            timeout=spec.get("timeout"),
            max_retries=spec.get("max_retries"),
            effects=_EFFECTS[row[12]],
            on_dependency_failure=OnDependencyFailure.RUN if row[13] else OnDependencyFailure.FAIL,
            key=row[14],
            attempts=row[15],
            retry_count=row[16],
            worker=row[17] or "",
            version=row[18],
            created_at=created,
            updated_at=max(changed, began or changed, ended or changed),
            started_at=began,
            finished_at=ended,
            asks_person=asks_person(row[4], row[24], row[25]),
        )


def _type_of(spec: str | None) -> TaskType:
    return TaskType((orjson.loads(spec) if spec else {}).get("task_type", "task"))


def stored_job(row: Sequence[Any]) -> StoredJob:
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
        created_at=column_moment(row[8]),
        updated_at=column_moment(row[9]),
        task_count=row[10],
        settings=JobSettings(*row[11:14]),
    )
