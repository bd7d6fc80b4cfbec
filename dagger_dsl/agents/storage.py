"""`TaskStorage`: document 004's interface to the tasks of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagger_dsl.agents.checks import as_status
from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.tasks import NewTaskSpec, Task, TaskStatus

if TYPE_CHECKING:
    from dagger_dsl.agents.manager import TaskManager

__all__ = ["TaskStorage"]


class TaskStorage:
    """Tasks that are put, got, and moved from one status to the next.

    A view of a `TaskManager`: all rules of it hold. Who moves a task to ``running`` by this is its
    worker; nobody takes it over when that one dies.

    Args:
        manager: Whose tasks.
    """

    def __init__(self, manager: TaskManager) -> None:
        self._manager = manager

    def put(self, task: NewTaskSpec | Task, job_id: str | None = None) -> str:
        """Add a task, and return its id.

        Args:
            task: What to add; of a `Task` what was given for it.
            job_id: The job; that of a `Task` by default, and inside of an agent its own.

        Raises:
            TaskExists: There is a task of this id.
        """
        if isinstance(task, Task):
            job_id = task.job_id if job_id is None else job_id
            task = NewTaskSpec(
                task.agent,
                task.input,
                description=task.description,
                dependencies=task.dependencies,
                parent=task.parent,
                task_type=task.task_type,
                priority=task.priority,
                acceptance_criteria=task.acceptance_criteria,
                summary=task.summary,
                timeout=task.timeout,
                max_retries=task.max_retries,
                effects=task.effects,
                on_dependency_failure=task.on_dependency_failure,
                key=task.key,
                task_id=task.id,
                retry_count=task.retry_count,
            )
        if not isinstance(task, NewTaskSpec):
            raise ConfigurationError(f"put takes a NewTaskSpec or a Task, not {shown(task)}")
        return self._manager.create_task(task, job_id)

    def get(self, task_id: str) -> Task | None:
        """Return a task as it stands; None where there is none."""
        return self._manager.get_task(task_id)

    def update_status(self, task_id: str, old: TaskStatus | str, new: TaskStatus | str) -> bool:
        """Move a task from one status to another; return False where it is not *old* any more.

        Of several that try, one succeeds.

        Raises:
            TaskNotFound: There is none.
            InvalidState: A task may not go this way.
        """
        if as_status(new) is TaskStatus.RUNNING:  # so the documents' own workers claim a task
            return self._manager._rows.set_status(task_id, TaskStatus.RUNNING, old=as_status(old))
        return self._manager.update_task_status(task_id, new, old=old)
