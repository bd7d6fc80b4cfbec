"""`TaskPeople`: what people decide of tasks, and what agents note down for them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

import orjson
import sqlalchemy as sa

from dagger_dsl.errors import ConcurrentUpdateError, InputValidationError, InvalidState
from dagger_dsl.model.schema import schema_fault
from dagger_dsl.model.tasks import TRANSITIONS, UNFINISHED, TaskStatus, check_transition
from dagger_dsl.store import task_statements as sql
from dagger_dsl.store.arguments import check_reason, check_text
from dagger_dsl.store.batches import INSERT_ARTIFACT, file_row
from dagger_dsl.store.schema import tasks
from dagger_dsl.store.task_questions import check_question, open_question, record_answer
from dagger_dsl.store.task_steps import (
    NEVER,
    UNSURE,
    asks_person,
    count_job,
    follow,
    json_text,
    set_status,
    settle_jobs,
    steer,
    task_row,
)
from dagger_dsl.store.tasks import TaskRows
from dagger_dsl.store.transactions import Statement, Transaction, run_transaction

__all__ = ["TaskPeople"]

_number = sa.bindparam("the_task", type_=sa.Integer())
_PARTS: Final = Statement(
    sa.select(tasks.c.task_id, tasks.c.public_id, tasks.c.parent_id, tasks.c.status)
    .where(tasks.c.job_id == sa.bindparam("the_job", type_=sa.Text()))
    .order_by(tasks.c.task_id)
)
_SPEC: Final = Statement(sa.select(tasks.c.spec).where(tasks.c.task_id == _number))
_SET_SPEC: Final = Statement(
    sa.update(tasks)
    .where(
        tasks.c.task_id == _number,
        tasks.c.public_id == sa.bindparam("the_id", type_=sa.Text()),
        tasks.c.version == sa.bindparam("the_version", type_=sa.Integer()),
        tasks.c.status == sa.literal_column("'running'"),
    )
    .values(spec=sa.bindparam("new_spec", type_=sa.Text()))
)


class TaskPeople(TaskRows):
    """The tasks of one database, as people steer them."""

    def retry(self, task_id: str, cause: str) -> None:
        """Let a task be called again, with all its retries before it.

        Those that failed for it start over, and wait for it.

        Raises:
            TaskNotFound: There is none.
            InvalidState: It has not ended, or its result was accepted.
        """
        now = self._clock()

        def again(tx: Transaction) -> None:
            row = task_row(tx, task_id)
            if row[1] == TaskStatus.COMPLETED:  # its result is not what was wanted, then
                steer(tx, task_id, row, TaskStatus.REJECTED, now, cause=cause)
                row = task_row(tx, task_id)
            if row[1] in (TaskStatus.PENDING, TaskStatus.READY, TaskStatus.RUNNING):
                raise InvalidState(f"task {task_id!r} is {row[1]}: it goes on already")
            tx.execute(sql.FRESH, (row[0],))
            steer(tx, task_id, row, TaskStatus.READY, now, cause=cause)

        run_transaction(self._database, again)

    def answer(self, task_id: str, value: Any, by: str, meant: str | int | None = None) -> None:
        """Answer a task that waits for a person, and let it go on.

        Args:
            task_id: Which.
            value: The answer.
            by: Who gives it; empty where that is not known.
            meant: The text or the number of the question that it answers; None for whichever it is.

        Raises:
            TaskNotFound: There is none.
            InvalidState: It waits for no person, or for one to say whether it may be called again;
                it asks another question, or a run of it does; or what it needs has failed.
            InputValidationError: The answer does not fit what was asked.
            EncodingError: It has no stored form.
            ConfigurationError: *by* is no text.
        """
        check_text("by", by)
        now = self._clock()
        inline, artifact_id, size = self.encoded(value, f"the answer to task {task_id!r}")

        def take(tx: Transaction) -> None:
            row = task_row(tx, task_id)
            number, job_id = int(row[0]), str(row[4])
            error: Any = tx.scalar(sql.ERROR, (number,))
            if row[1] == TaskStatus.BLOCKED and row[6] == UNSURE:
                raise InvalidState(
                    f"task {task_id!r} asks nothing, and an answer would call it again ({error}): "
                    "retry() calls it once more, cancel_task() ends it"
                )
            if not asks_person(row[1], row[2], row[6]):
                raise InvalidState(
                    f"task {task_id!r} is {row[1]} and waits for no person"
                    + ("; it waits for other tasks" if row[1] == TaskStatus.BLOCKED else "")
                )
            question = open_question(tx.rows, number, error or "")
            if question.run_id is not None and row[6] == NEVER:
                raise InvalidState(
                    f"task {task_id!r} asks nothing itself, its run {question.run_id} does; answer "
                    "that"
                )
            check_question(task_id, question, meant)
            if question.schema is not None:
                fault = schema_fault(question.schema, value, "answer")
                if fault is not None:
                    raise InputValidationError(f"task {task_id!r} asks {question.text!r}; {fault}")
            if artifact_id is not None:
                tx.execute(INSERT_ARTIFACT(self._database.dialect), file_row(artifact_id, size))
            record_answer(tx, number, job_id, question, (inline, artifact_id), by, now)
            cause = f"answered by {by}" if by else "answered"
            steer(tx, task_id, row, TaskStatus.READY, now, cause=cause)

        run_transaction(self._database, take)

    def cancel_tree(self, task_id: str, subtree: bool, reason: str) -> tuple[list[str], list[str]]:
        """Cancel a task, and the parts of it that have not ended, and theirs.

        Returns:
            The ids of the tasks that were cancelled, and of those among them that ran.

        Raises:
            TaskNotFound: There is none.
            InvalidState: It has ended, and so have its parts.
            ConfigurationError: *reason* is no text.
        """
        check_reason("a reason", reason)
        now = self._clock()
        cancelled: list[str] = []
        ran: list[str] = []

        def cancel(tx: Transaction) -> None:
            cancelled.clear()
            ran.clear()
            row = task_row(tx, task_id)
            status, job_id = TaskStatus(row[1]), str(row[4])
            found = self._parts(tx, job_id, task_id) if subtree else []
            if TaskStatus.CANCELLED in TRANSITIONS[status] or not found:
                check_transition(task_id, status, TaskStatus.CANCELLED)
                found.insert(0, (row[0], task_id, status))
            # All of them first: what follows concerns only those outside then.
            count = [0, 0]
            for number, name, before in found:
                cancelled.append(name)
                if before is TaskStatus.RUNNING:
                    ran.append(name)
                count[0] -= before in UNFINISHED
                count[1] -= before is TaskStatus.FAILED
                why = reason or "cancelled"
                set_status(tx, number, TaskStatus.CANCELLED, now, error=reason, cause=why)
            for number, _, before in found:
                if before is not TaskStatus.FAILED:  # what follows was done when it failed
                    follow(tx, job_id, number, "cancelled", now, count)
            count_job(tx, job_id, count[0], count[1], now)
            settle_jobs(tx, (job_id,), now)

        run_transaction(self._database, cancel)
        return cancelled, ran

    @staticmethod
    def _parts(tx: Transaction, job_id: str, task_id: str) -> list[tuple[int, str, TaskStatus]]:
        """Return the parts of a task, and theirs, that have not ended."""
        below: defaultdict[str, list[tuple[int, str, TaskStatus]]] = defaultdict(list)
        for number, name, parent, status in tx.rows(_PARTS, (job_id,)):
            if parent is not None:
                below[str(parent)].append((number, str(name), TaskStatus(status)))
        found = []
        open_ = [task_id]
        seen = {task_id}
        while open_:
            for part in below[open_.pop()]:
                if part[1] not in seen:
                    seen.add(part[1])
                    open_.append(part[1])
                    found.append(part)
        return [part for part in found if part[2] in UNFINISHED]

    def set_summary(self, number: int, version: int, task_id: str, text: str | None) -> None:
        """Keep a short text with a task that runs under the claim of this version.

        Raises:
            ConcurrentUpdateError: It does not any more.
        """

        def change(tx: Transaction) -> None:
            given: Any = tx.scalar(_SPEC, (number,))
            spec = {**(orjson.loads(given) if given else {}), "summary": text}
            values = {
                "the_task": number,
                "the_id": task_id,
                "the_version": version,
                "new_spec": json_text(spec),
            }
            if not tx.execute(_SET_SPEC, _SET_SPEC.in_order(values)):
                raise ConcurrentUpdateError(
                    f"task {task_id!r} was cancelled or given to somebody else; its summary stays"
                )

        run_transaction(self._database, change)
