"""`TaskManager`: jobs made of tasks, and the workers that run them."""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl._doors import through
from dagger_dsl.agents.calls import Caller
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.crew import Crew, agent_missing, worker_name
from dagger_dsl.agents.definition import AgentDef
from dagger_dsl.agents.job import JobHandle
from dagger_dsl.engine.launch import new_run_id
from dagger_dsl.errors import (
    AgentAlreadyRegistered,
    ConfigurationError,
    InvalidState,
    JobNotFound,
    shown,
)
from dagger_dsl.model.policies import as_enum, seconds, whole_number
from dagger_dsl.model.tasks import NewTaskSpec, Task, TaskEvent, TaskStatus, TaskType
from dagger_dsl.registry import Registry, as_registry
from dagger_dsl.store.storage import Store
from dagger_dsl.store.task_claims import Ending, TaskClaims
from dagger_dsl.store.task_reads import TaskReads
from dagger_dsl.store.tasks import TaskRows

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["TaskAgentRegistry", "TaskManager"]

#: The call of an agent that is going on in this thread.
_current: Final[contextvars.ContextVar[TaskContext | None]] = contextvars.ContextVar(
    "dagger_dsl_task", default=None
)


class TaskAgentRegistry(Registry):
    """A registry of its own for the agents of a manager; see `Registry`."""

    def register(self, name: str, agent: Any) -> None:  # type: ignore[override]  # the documents' form
        """Register an agent: a function, a class or an object with ``execute``.

        Raises:
            AgentAlreadyRegistered: The name is taken.
        """
        if name in self.task_agents:
            raise AgentAlreadyRegistered(
                f"there is an agent {shown(name)} already; give another name"
            )
        if not isinstance(agent, AgentDef):
            body = getattr(agent, "execute", agent) if not isinstance(agent, type) else agent
            agent = AgentDef(name=name, target=body)
        self.register_task_agent(name, agent)


class TaskManager:
    """Jobs of tasks in one database, and the workers of this process that run them.

    Args:
        registry: Where agents are looked up; the one in force by default.
        database_url: Where tasks are recorded; None for this process's memory only.
        concurrency: How many tasks run at a time here; the number of CPUs by default, at least 4.
            0 runs none: other processes do, ``dagger-dsl worker`` among them.
        agents: The agents that this process runs tasks of; all that are registered by default.
        lease: Seconds without a sign of life after which another host may take tasks over.

    Raises:
        ConfigurationError: An argument cannot be.
    """

    def __init__(
        self,
        *,
        registry: Registry | None = None,
        database_url: str | os.PathLike[str] | None = None,
        concurrency: int | None = None,
        agents: Sequence[str] | None = None,
        lease: float | dt.timedelta = 60.0,
    ) -> None:
        if concurrency is not None:
            whole_number(concurrency, "concurrency", least=0)
        self.registry = as_registry(registry)
        self._store = Store("sqlite::memory:" if database_url is None else database_url)
        parts = self._store.database, self._store._payloads
        self._rows, self._reads, self._claims = (
            TaskRows(*parts),
            TaskReads(*parts),
            TaskClaims(*parts),
        )
        self._size = max(4, os.cpu_count() or 1) if concurrency is None else concurrency
        self._chosen = None if agents is None else tuple(agents)
        self._lease = seconds(lease, "lease")
        self._crew: Crew | None = None
        self._lock = threading.Lock()
        self._moved = threading.Condition()
        self._closed = False

    # --- life -------------------------------------------------------------------------------------

    def __enter__(self) -> TaskManager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, grace: float = 10.0) -> int:
        """Begin nothing more, and give back what has not ended after *grace* seconds.

        What is given back is run by whoever opens the database next.

        Returns:
            How many calls were left behind, in threads that cannot be stopped.
        """
        left = 0
        with self._lock:
            self._closed = True
            crew, self._crew = self._crew, None
        if crew is not None:
            left = crew.stop(grace)
        self._store.close()
        return left

    def work(self, told: Callable[[list[Ending]], object] | None = None) -> None:
        """Begin to run tasks here, if this manager may; `start_job` does that by itself.

        Args:
            told: Called with what has ended, after each commit, from the threads that work.

        Raises:
            AgentNotFound: An agent that it was told to run is not registered.
            InvalidState: It was closed.
        """
        with self._lock:
            if self._closed:
                raise InvalidState("the task manager is closed; make a new one")
            if self._crew is not None or self._size == 0:
                return
            known = self.registry.task_agents
            for name in self._chosen or ():
                if name not in known:
                    raise agent_missing(name, list(known))
            callers = {
                name: Caller(agent)
                for name, agent in known.items()
                if self._chosen is None or name in self._chosen
            }
            self._store.init_database()
            self._crew = Crew(self, callers, self._size, worker_name(), self._lease, told)
            self._crew.start()

    # --- jobs -------------------------------------------------------------------------------------

    def start_job(
        self,
        job_id: str,
        tasks: Sequence[NewTaskSpec] = (),
        allowed_agents: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        timeout: float | dt.timedelta | None = None,
    ) -> JobHandle:
        """Let a job's tasks run, and return its handle; nobody waits for it.

        Args:
            job_id: Which; tasks may have been added to it before.
            tasks: More of them.
            allowed_agents: The agents that its tasks may be given to; None for all.
            config: Anything to keep with it, of JSON types.
            timeout: Seconds until it is cancelled.

        Raises:
            AgentNotAllowed: It has a task for another agent.
            AgentNotFound: A task is for an agent that is not registered here, in a process that
                runs tasks of all agents.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        self._make(job_id, config)
        if tasks:
            self.add_tasks(tasks, job_id)
        self._rows.start_job(job_id, timeout=limit, allowed_agents=allowed_agents)
        self.work()
        self._wake()
        return JobHandle(self, job_id)

    def resume_job(self, job_id: str) -> JobHandle:
        """Go on with a job that another process began, and return its handle.

        Raises:
            JobNotFound: There is none.
        """
        if self._reads.job(job_id) is None:
            raise JobNotFound(f"there is no job {shown(job_id)} in {self._store.database.where}")
        self._rows.start_job(job_id)
        self.work()
        self._wake()
        return JobHandle(self, job_id)

    def job(self, job_id: str) -> JobHandle:
        """Return the handle of a job.

        Raises:
            JobNotFound: There is none.
        """
        if self._reads.job(job_id) is None:
            raise JobNotFound(f"there is no job {shown(job_id)} in {self._store.database.where}")
        return JobHandle(self, job_id)

    def cancel_job(self, job_id: str, reason: str = "cancelled") -> None:
        """Cancel a job with all its tasks that have not ended.

        What runs cannot be stopped in a thread; its result is refused. Async agents are cancelled.
        """
        for task_id in self._rows.cancel_job(job_id, reason):
            if self._crew is not None:
                self._crew.cancel(task_id)
        self._changed()

    def _make(self, job_id: str, config: Mapping[str, Any] | None = None) -> None:
        if self._reads.job(job_id) is None:
            self._rows.create_job(job_id, config=config)

    # --- tasks ------------------------------------------------------------------------------------

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
            **more: Its other options: priority, effects, on_dependency_failure, key, task_id.
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

    def add_tasks(self, specs: Sequence[NewTaskSpec], job_id: str) -> list[str]:
        """Add tasks to a job, all of them or none, in one commit; return their ids.

        Raises:
            InputValidationError: An input does not fit its agent, where that is known here.
            InvalidState: The job has ended.
            TaskExists, TaskNotFound, CycleError, AgentNotAllowed: As `TaskRows.add`.
        """
        known = self.registry.task_agents
        for spec in specs:
            if not isinstance(spec, NewTaskSpec):
                raise ConfigurationError(f"a task is a NewTaskSpec, not {shown(spec)}")
            if spec.agent in known:
                self._caller(spec.agent).check_input(spec.input)
        named = [spec if spec.task_id is not None else _named(spec, new_run_id()) for spec in specs]
        self._make(job_id)
        self._rows.add(job_id, named)
        self._wake()
        return [str(spec.task_id) for spec in named]

    def _caller(self, name: str) -> Caller:
        if self._crew is not None and name in self._crew._callers:
            return self._crew._callers[name]
        return Caller(self.registry.task_agents[name])

    def get_task(self, task_id: str) -> Task | None:
        """Return a task as it stands; None where there is none."""
        return self._reads.task(task_id)

    def tasks(self, job_id: str) -> list[Task]:
        """Return the tasks of a job, in the order in which they were added."""
        return self._reads.tasks_of(job_id)

    def get_dependency_outputs(self, task_id: str) -> list[Any]:
        """Return what the tasks gave that a task needs, in its order.

        Raises:
            TaskNotFound: There is no such task.
        """
        return self._reads.outputs_of(task_id)

    def add_dependency(self, task_id: str, needs: str) -> None:
        """Let a task need another one of its job, too; see `TaskRows.add_dependency`."""
        self._rows.add_dependency(task_id, needs)
        ctx = _current.get()
        if ctx is not None and ctx.task_id == task_id:
            ctx._adds = True

    def update_task_status(
        self,
        task_id: str,
        status: TaskStatus | str,
        *,
        old: TaskStatus | str | None = None,
        cause: str = "",
    ) -> bool:
        """Change a task's status by hand; return False where it is not *old* any more.

        An agent that blocks its own task says so by this, too: the task is parked once it returns.

        Raises:
            TaskNotFound: There is none.
            InvalidState: A task may not go this way.
        """
        new = _status(status)
        ctx = _current.get()
        if ctx is not None and ctx.task_id == task_id and new is TaskStatus.BLOCKED:
            ctx._parks = True
            return True
        changed = self._rows.set_status(
            task_id, new, old=None if old is None else _status(old), cause=cause
        )
        if changed and new is TaskStatus.CANCELLED and self._crew is not None:
            self._crew.cancel(task_id)
        self._wake()
        self._changed()
        return changed

    def history(self, task_id: str) -> list[TaskEvent]:
        """Return each change of a task's status, in order, with time and cause."""
        return self._reads.history(task_id)

    def get_dot_graph(self, job_id: str | None = None) -> str:
        """Return the tasks of a job, or of all jobs, as DOT: parts, needs, and where each stands.

        Raises:
            JobNotFound: There is no such job.
        """
        if job_id is None:
            tasks = [each for job in reversed(self._reads.jobs()) for each in self.tasks(job.id)]
            return str(through("job_to_dot")(tasks, None))
        return str(through("job_to_dot")(self.tasks(job_id), self.job(job_id)._row()))

    # --- inside -----------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._crew is not None:
            self._crew.wake()

    def _changed(self) -> None:
        with self._moved:
            self._moved.notify_all()

    @contextlib.contextmanager
    def _inside(self, ctx: TaskContext) -> Iterator[None]:
        """Let this thread be in the call of a task."""
        token = _current.set(ctx)
        try:
            yield
        finally:
            _current.reset(token)


def _named(spec: NewTaskSpec, task_id: str) -> NewTaskSpec:

    fields = {
        name: getattr(spec, name) for name in (each.name for each in attrs.fields(NewTaskSpec))
    }
    return NewTaskSpec(**{**fields, "task_id": task_id})


def _status(value: Any) -> TaskStatus:
    return as_enum(TaskStatus, value, "status")
