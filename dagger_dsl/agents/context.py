"""`TaskContext`: what an agent is given beside its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from dagger_dsl.agents.signals import Blocked
from dagger_dsl.errors import InvalidState
from dagger_dsl.model.tasks import NewTaskSpec, Task, TaskStatus, TaskType
from dagger_dsl.store.arguments import check_text

if TYPE_CHECKING:
    from dagger_dsl.agents.manager import TaskManager
    from dagger_dsl.agents.state import SharedState
    from dagger_dsl.store.cache import Cache
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
        self._beaten: float | None = None

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
        """Whether the task was cancelled, or given to somebody else; its result would be refused.

        It asks the database; a sync agent that takes long looks at it now and then, and returns.
        """
        return not self.manager._jobs.is_current(self._claim.number, self._claim.version)

    @property
    def cache(self) -> Cache:
        """What the agents of this process share in its memory."""
        return self.manager.cache

    @property
    def state(self) -> SharedState:
        """What the agents of the job share, in any process and over any restart."""
        return self.manager.state(self.job_id)

    @property
    def rejections(self) -> list[str]:
        """Why results of this task were rejected, the oldest reason first."""
        return [
            each.cause
            for each in self.manager.history(self.task_id)
            if each.status is TaskStatus.REJECTED
        ]

    def heartbeat(self) -> bool:
        """Say that the work goes on, so that the job does not count as stalled.

        Returns:
            Whether it is wanted: False once the task was cancelled, or given to somebody else.
            It may be called as often as one likes; it writes at most once in a second, and in a
            tenth of the manager's heartbeat_interval.
        """
        claim, jobs = self._claim, self.manager._jobs
        now = jobs.now()
        interval = self.manager.heartbeat_interval
        rest = 1.0 if interval is None else min(1.0, interval / 10)
        if self._beaten is not None and 0 <= now - self._beaten < rest:
            return jobs.is_current(claim.number, claim.version)
        self._beaten = now
        return jobs.heartbeat(self.job_id, claim.number, claim.version)

    def set_summary(self, text: str | None) -> None:
        """Keep a short text with the task, which others see as ``task.summary`` at once.

        Raises:
            ConfigurationError: It is no text.
            ConcurrentUpdateError: The task was cancelled, or given to somebody else.
        """
        if text is not None:
            check_text("a summary", text)
        self.manager._rows.set_summary(self._claim.number, self._claim.version, self.task_id, text)

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
