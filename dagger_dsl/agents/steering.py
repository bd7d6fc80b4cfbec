"""`Steering`: the calls of a `TaskManager` by which people decide what becomes of tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dagger_dsl.agents.checks import as_status
from dagger_dsl.errors import ConcurrentUpdateError, InvalidState, shown
from dagger_dsl.model.policies import whole_number
from dagger_dsl.model.tasks import TaskStatus
from dagger_dsl.store.arguments import check_text

if TYPE_CHECKING:
    from dagger_dsl.agents.context import TaskContext
    from dagger_dsl.store.storage import Store
    from dagger_dsl.store.task_people import TaskPeople
    from dagger_dsl.store.task_reads import TaskReads

__all__ = ["Steering"]


class Steering:
    """What people do with tasks; the manager adds where these are."""

    _rows: TaskPeople
    _reads: TaskReads
    _store: Store

    def accept(self, task_id: str, note: str = "accepted") -> None:
        """Say that a completed task's result is good; nothing of it can be changed any more.

        Args:
            task_id: Which.
            note: For its history.

        Raises:
            TaskNotFound: There is none.
            InvalidState: It is not completed.
        """
        self._rows.set_status(task_id, TaskStatus.ACCEPTED, cause=note)
        self._interrupt(())

    def reject(self, task_id: str, reason: str) -> None:
        """Say that a completed task's result is not good enough.

        What needs it and has not begun waits; `retry` lets the task be made again, and its agent
        finds the reason by `TaskContext.rejections`.

        Raises:
            TaskNotFound: There is none.
            InvalidState: It is not completed.
        """
        self._rows.set_status(task_id, TaskStatus.REJECTED, cause=reason, error=reason)
        self._interrupt(())

    def retry(self, task_id: str, cause: str = "tried again") -> None:
        """Let a task that has ended, or waits for a person, be called again.

        It has all its retries before it. What failed for it starts over, and what needs it and has
        not begun waits for it. A result that it has counts as rejected.

        Raises:
            TaskNotFound: There is none.
            InvalidState: It was accepted, or goes on already.
        """
        self._rows.retry(task_id, cause)
        self._interrupt(())

    def answer(
        self, task_id: str, value: Any, *, by: str = "", question: str | int | None = None
    ) -> None:
        """Answer a task that waits for a person, and let it be called again.

        Its agent finds the answer by `TaskContext.ask`, or as `TaskContext.answer`, in this and in
        all later calls; the task's history says who gave it. `JobHandle.questions` has the tasks
        that wait for one. Where a run that the task began asks, by a node of it, the node gets the
        answer, and the task goes on with the run.

        Args:
            task_id: Which.
            value: Any value of the codec.
            by: Who answers, for people.
            question: Which question this answers, so that it does not become the answer to another
                one when somebody else was quicker: its text (the task's ``error``, or what the
                node of its run asks), or which one of the task's it is, counted from 1. None for
                whichever is asked now.

        Raises:
            TaskNotFound: There is none.
            InvalidState: It waits for no person, or for one to say whether it may be called again,
                as its worker died and it may be called at most once: `retry` and `cancel_task` say
                that; it asks another *question*; its run asks several, and *question* names none
                of them; or what it needs has failed.
            InputValidationError: The answer does not fit what was asked.
            EncodingError: It has no stored form.
            ConfigurationError: *by* is no text, or *question* no text and no number.
        """
        asked = self._reads.question(task_id)
        if asked is None or asked.run_id is None:
            self._rows.answer(task_id, value, by, question)
        else:
            from dagger_dsl.agents.runs import answer_run

            check_text("by", by)
            answer_run(self._store, task_id, asked, question, value, by)
        self._interrupt(())

    def cancel_task(
        self, task_id: str, subtree: bool = True, reason: str = "cancelled"
    ) -> list[str]:
        """Cancel a task, and return the ids of all tasks that are cancelled by that.

        What needs one of them fails, or runs all the same, as it was told to. A call that goes on
        is interrupted where it is async; a sync one sees `TaskContext.is_cancelled`.

        Args:
            task_id: Which.
            subtree: Its parts that have not ended, and theirs, too.
            reason: Why, for its history.

        Raises:
            TaskNotFound: There is none.
            InvalidState: It has ended, and so have its parts.
        """
        cancelled, ran = self._rows.cancel_tree(task_id, subtree, reason)
        self._interrupt(ran)
        return cancelled

    def pause(self, task_id: str, cause: str = "paused") -> None:
        """Let a task that has not begun wait for `resume`.

        Raises:
            TaskNotFound: There is none.
            InvalidState: It runs, or has ended.
        """
        self._rows.set_status(task_id, TaskStatus.PAUSED, cause=cause)
        self._interrupt(())

    def resume(self, task_id: str, cause: str = "resumed") -> None:
        """Let a paused task go on.

        Raises:
            TaskNotFound: There is none.
            InvalidState: It is not paused.
        """
        if not self._rows.set_status(task_id, TaskStatus.READY, old=TaskStatus.PAUSED, cause=cause):
            raise InvalidState(f"task {task_id!r} is not paused; retry() is for those that ended")
        self._interrupt(())

    def update_task_status(
        self,
        task_id: str,
        status: TaskStatus | str,
        *,
        old: TaskStatus | str | None = None,
        version: int | None = None,
        cause: str = "",
    ) -> bool:
        """Change a task's status by hand; return False where it is not *old* any more.

        An agent that blocks its own task says so by this, too: the task is parked once it returns.

        Args:
            task_id: Which.
            status: What it becomes.
            old: What it has to be; None for whatever it is.
            version: The `Task.version` that it has to have; None for whichever.
            cause: Why, for its history.

        Raises:
            ConcurrentUpdateError: It has another *version*: somebody has changed it meanwhile.
            ConfigurationError: *status* or *old* is none, or *version* is no whole number.
            TaskNotFound: There is none.
            InvalidState: A task may not go this way; none becomes running but by a worker.
        """
        new = as_status(status)
        if new is TaskStatus.RUNNING:  # nobody would ever call it, and nobody take it over
            raise InvalidState(
                f"task {shown(task_id)} cannot become running by hand, only by a worker that "
                "claims it; retry() lets one that has ended, or waits for a person, be claimed"
            )
        if version is not None:
            whole_number(version, "version", least=0)
        before = None if old is None else as_status(old)
        ctx = self._call()
        if ctx is not None and ctx.task_id == task_id and new is TaskStatus.BLOCKED:
            if before not in (None, TaskStatus.RUNNING):
                return False
            if version is not None and version != ctx._claim.version:
                raise ConcurrentUpdateError(
                    f"task {task_id!r} has version {ctx._claim.version}, not {version}"
                )
            ctx._parks = True
            return True
        changed = self._rows.set_status(task_id, new, old=before, version=version, cause=cause)
        self._interrupt([task_id] if changed else [])
        return changed

    def _call(self) -> TaskContext | None:
        """Return the call of a task of this manager that goes on in this thread."""
        raise NotImplementedError

    def _interrupt(self, task_ids: Iterable[str]) -> None:
        """Stop the calls of tasks, where they can be, and have everybody look again."""
        raise NotImplementedError
