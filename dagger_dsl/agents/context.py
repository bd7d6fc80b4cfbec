"""`TaskContext`: what an agent is given beside its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from dagger_dsl.agents.signals import Blocked
from dagger_dsl.errors import InvalidState
from dagger_dsl.model.tasks import NewTaskSpec, Task, TaskStatus, TaskType

if TYPE_CHECKING:
    from dagger_dsl.agents.manager import TaskManager
    from dagger_dsl.store.task_claims import Claim

__all__ = ["TaskContext"]


class TaskContext:
    """One call of an agent for one task.

    Attributes:
        manager: The `TaskManager` that runs it.
        task_id, job_id: The task, and its job.
        attempt: Which call of the task this is, counted from 1.
    """

    def __init__(self, manager: TaskManager, claim: Claim) -> None:
        self.manager = manager
        self.task_id = claim.id
        self.job_id = claim.job_id
        self.attempt = claim.attempt
        self._claim = claim
        self._parks = False
        self._adds = False

    def __repr__(self) -> str:
        return f"<TaskContext of task {self.task_id!r}, attempt {self.attempt}>"

    @property
    def idempotency_key(self) -> str:
        """The same in each call of the task, for effects elsewhere."""
        return f"{self.job_id}:{self.task_id}"

    @property
    def task(self) -> Task:
        """The task as it stands now."""
        found = self.manager.get_task(self.task_id)
        if found is None:
            raise InvalidState(f"task {self.task_id!r} was removed")
        return found

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Ids of the tasks that this one needs, those added on its way included."""
        return self.task.dependencies

    @property
    def is_rerun(self) -> bool:
        """Whether the task was called before."""
        return self.attempt > 1

    @property
    def is_cancelled(self) -> bool:
        """Whether the result would be refused: it was cancelled, or given to another worker."""
        task = self.task
        return task.status is not TaskStatus.RUNNING or task.version != self._claim.version

    def dependency_outputs(self) -> list[Any]:
        """Return what the tasks gave that this one needs, in order; None where one gave nothing."""
        return self.manager._reads.outputs_of_needs(self._claim.number)

    def add_task(
        self,
        agent: str,
        input: Any = None,
        *,
        description: str = "",
        task_type: TaskType | str = TaskType.SUBTASK,
        **more: Any,
    ) -> str:
        """Add a task to the job as a part of this one, and return its id.

        Args:
            agent, input, description, task_type: As in `NewTaskSpec`.
            **more: Its other options; ``parent`` is this task by default.

        Raises:
            InvalidState: The job has ended.
            AgentNotAllowed: The job does not let the agent have tasks.
        """
        given = {"parent": self.task_id, **more}
        spec = NewTaskSpec(agent, input, description=description, task_type=task_type, **given)
        (task_id,) = self.manager.add_tasks([spec], self.job_id)
        return task_id

    def add_dependency(self, task_id: str) -> None:
        """Have this task need another one of its job; it waits for that once it blocks.

        Raises:
            CycleError: The other one waits for this one.
        """
        self.manager.add_dependency(self.task_id, task_id)

    def block(self, on: Sequence[str] = (), reason: str = "") -> NoReturn:
        """Park the task until what it needs is done; it holds no worker, and is called again.

        It counts neither as a failure nor as a retry. Without anything that it needs it waits for a
        person: `TaskManager.update_task_status` lets it go on.

        Args:
            on: Ids of tasks that it needs from now on, too.
            reason: Why, for people.
        """
        raise Blocked(tuple([on] if isinstance(on, str) else on), reason)
