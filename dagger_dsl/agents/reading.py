"""`Reading`: the calls of a `TaskManager` that look at jobs and tasks, and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagger_dsl.agents.checks import as_status
from dagger_dsl.model.policies import as_enum
from dagger_dsl.model.tasks import JobStatus, Task, TaskEvent, TaskStatus, TaskType

if TYPE_CHECKING:
    from dagger_dsl.store.task_questions import Answered
    from dagger_dsl.store.task_reads import StoredJob, TaskReads

__all__ = ["Reading"]


class Reading:
    """What is there of jobs and tasks; the manager adds where these are."""

    _reads: TaskReads

    def jobs(self, status: JobStatus | str | None = None) -> list[StoredJob]:
        """Return the jobs there are, as they stand, the newest first; `job` returns a handle.

        Args:
            status: Only those that are this: a `JobStatus`, or its name.
        """
        wanted = None if status is None else as_enum(JobStatus, status, "status")
        return [each for each in self._reads.jobs() if wanted is None or each.status is wanted]

    def get_task(self, task_id: str) -> Task | None:
        """Return a task as it stands; None where there is none."""
        return self._reads.task(task_id)

    #: Document 003's name.
    get_task_by_id = get_task

    def tasks(
        self,
        job_id: str,
        *,
        task_type: TaskType | str | None = None,
        status: TaskStatus | str | None = None,
        agent: str | None = None,
    ) -> list[Task]:
        """Return the tasks of a job, in the order in which they were added.

        Args:
            job_id: Which.
            task_type, status, agent: Only those that are this.
        """
        return self._reads.tasks_of(
            job_id,
            task_type=None if task_type is None else as_enum(TaskType, task_type, "task_type"),
            status=None if status is None else as_status(status),
            agent=agent,
        )

    def children(self, task_id: str) -> list[Task]:
        """Return the parts of a task, in the order in which they were added.

        Raises:
            TaskNotFound: There is no such task.
        """
        return self._reads.children_of(task_id)

    def get_dependency_outputs(self, task_id: str) -> list[Any]:
        """Return what the tasks gave that a task needs, in its order.

        Raises:
            TaskNotFound: There is no such task.
        """
        return self._reads.outputs_of(task_id)

    def answers(self, task_id: str) -> list[Answered]:
        """Return what people answered a task, with who and when, the oldest answer first.

        Raises:
            TaskNotFound: There is no such task.
        """
        return self._reads.answers_to(task_id)

    def history(self, task_id: str) -> list[TaskEvent]:
        """Return each change of a task's status, in order, with time and cause."""
        return self._reads.history(task_id)
