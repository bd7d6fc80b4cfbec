"""`Adding`: the calls of a `TaskManager` by which jobs get tasks, and tasks get what they need."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dagger_dsl.agents.checks import as_specs
from dagger_dsl.agents.current import current_call
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.tasks import NewTaskSpec, TaskType

if TYPE_CHECKING:
    from dagger_dsl.agents.context import TaskContext
    from dagger_dsl.agents.roster import Roster
    from dagger_dsl.model.job_settings import JobSettings
    from dagger_dsl.store.task_people import TaskPeople

__all__ = ["Adding"]


class Adding:
    """How tasks are added; the manager adds where that is, and what jobs keep that are made so."""

    _rows: TaskPeople
    _roster: Roster
    _settings: JobSettings

    def add_objective(self, job_id: str, description: str, agent: str, input: Any = None) -> str:
        """Add the task that says what a job is for, and return its id."""
        return self.add_task(job_id, description, agent, input=input, task_type=TaskType.OBJECTIVE)

    def add_task(
        self,
        job_id: str,
        description: str,
        agent: str,
        *,
        dependencies: Sequence[str] = (),
        input: Any = None,
        parent: str | None = None,
        acceptance_criteria: str | None = None,
        task_type: TaskType | str = TaskType.TASK,
        timeout: float | dt.timedelta | None = None,
        max_retries: int | None = None,
        summary: str | None = None,
        **more: Any,
    ) -> str:
        """Add a task to a job, which is made where there is none, and return the task's id.

        Args:
            job_id: Which job.
            description, agent, dependencies, input, parent, acceptance_criteria, task_type,
                timeout, max_retries, summary: As in `NewTaskSpec`.
            **more: Its other options: priority, effects, on_dependency_failure, key, task_id,
                retry_count.
        """
        spec = NewTaskSpec(
            agent,
            input,
            description=description,
            dependencies=dependencies,
            parent=parent,
            acceptance_criteria=acceptance_criteria,
            task_type=task_type,
            timeout=timeout,
            max_retries=max_retries,
            summary=summary,
            **more,
        )
        (task_id,) = self.add_tasks([spec], job_id)
        return task_id

    def add_task_with_type(
        self,
        job_id: str,
        description: str,
        agent: str,
        dependencies: Sequence[str] = (),
        input: Any = None,
        parent: str | None = None,
        acceptance_criteria: str | None = None,
        task_type: TaskType | str = TaskType.TASK,
        timeout: float | dt.timedelta | None = None,
        max_retries: int = 0,
        summary: str | None = None,
        retry_count: int = 0,
    ) -> str:
        """Add a task as document 003 does, by twelve arguments in its order; see `add_task`."""
        return self.add_task(
            job_id,
            description,
            agent,
            dependencies=dependencies,
            input=input,
            parent=parent,
            acceptance_criteria=acceptance_criteria,
            task_type=task_type,
            timeout=timeout,
            max_retries=max_retries,
            summary=summary,
            retry_count=retry_count,
        )

    def create_task(self, spec: NewTaskSpec, job_id: str | None = None) -> str:
        """Add a task, and return its id.

        Args:
            spec: What to add.
            job_id: Its job; inside of an agent of this manager, by default, the one of its task.

        Raises:
            ConfigurationError: There is no job to add it to.
        """
        ctx = self._call()
        if job_id is None and ctx is not None:
            job_id = ctx.job_id
        if job_id is None:
            raise ConfigurationError(
                "outside of an agent of this manager, create_task needs the job_id, too"
            )
        (task_id,) = self.add_tasks([spec], job_id)
        return task_id

    def add_tasks(self, specs: Sequence[NewTaskSpec], job_id: str) -> list[str]:
        """Add tasks to a job, all of them or none, in one commit; return their ids.

        Raises:
            InputValidationError: An input does not fit its agent, where that is known here.
            ResourceExhausted: A call of the agent declares more memory than there can ever be room
                for, likewise.
            InvalidState: The job has ended.
            LimitExceeded: The job would have more tasks than it may; see `start_job`.
            AgentNotFound: The job runs, and a task is for an agent that is not registered, in the
                memory of this process, which no other one sees. With a database it waits for a
                worker that knows the agent, and a warning is logged.
            TaskExists, TaskNotFound, CycleError, AgentNotAllowed: As `TaskRows.add`.
            ConfigurationError: *specs* are no list of `NewTaskSpec`.
        """
        return self._add_tasks(as_specs(specs), job_id, self._call())

    def _add_tasks(
        self, specs: Sequence[NewTaskSpec], job_id: str, ctx: TaskContext | None
    ) -> list[str]:
        """Add tasks, of the call of a task where one adds them; from whichever thread of it."""
        self._roster.check_specs(specs)
        self._open()
        self._check_agents(job_id, (spec.agent for spec in specs), starts=False)
        claim = ctx._claim if ctx is not None and ctx.job_id == job_id else None
        added = self._rows.add(job_id, specs, create=True, claim=claim, settings=self._settings)
        self._wake()
        return added

    def add_dependency(self, task_id: str, needs: str) -> None:
        """Let a task need another one of its job, too; see `TaskRows.add_dependency`."""
        self._add_dependency(task_id, needs, self._call())

    def _add_dependency(self, task_id: str, needs: str, ctx: TaskContext | None) -> None:
        """Add a need, of the call of a task where one does that; from whichever thread of it."""
        own = ctx if ctx is not None and ctx.task_id == task_id else None
        self._rows.add_dependency(task_id, needs, claim=None if own is None else own._claim)
        if own is not None:
            own._adds = True

    def _call(self) -> TaskContext | None:
        """Return the call of a task of this manager that goes on in this thread."""
        ctx = current_call()
        return ctx if ctx is not None and ctx.manager is self else None

    def _open(self) -> None:
        """Let nobody take a file for a leftover that this process has written, and no row names."""
        raise NotImplementedError

    def _check_agents(self, job_id: str, names: Iterable[str], *, starts: bool) -> None:
        """Refuse tasks that nobody would ever run, or warn of them."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Have the crews look that work on this database in this process."""
        raise NotImplementedError
