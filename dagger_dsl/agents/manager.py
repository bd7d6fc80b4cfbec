"""`TaskManager`: jobs made of tasks, and the workers that run them."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl._doors import through
from dagger_dsl.agents.adding import Adding
from dagger_dsl.agents.checks import as_names, as_specs
from dagger_dsl.agents.crew import Crew
from dagger_dsl.agents.job import JobHandle
from dagger_dsl.agents.plugins import load_agents
from dagger_dsl.agents.reading import Reading
from dagger_dsl.agents.roster import Roster
from dagger_dsl.agents.state import SharedState
from dagger_dsl.agents.steering import Steering
from dagger_dsl.engine.words import count
from dagger_dsl.errors import (
    ConfigurationError,
    InvalidState,
    JobNotFound,
    did_you_mean,
    shown,
)
from dagger_dsl.model.job_settings import MAX_TASKS, JobSettings
from dagger_dsl.model.policies import seconds, whole_number
from dagger_dsl.model.resources import ResourceTracker, as_tracker
from dagger_dsl.model.stalls import StallAction
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec
from dagger_dsl.registry import as_registry
from dagger_dsl.store.artifact_rows import files_kept
from dagger_dsl.store.cache import Cache
from dagger_dsl.store.job_upkeep import check_keeping
from dagger_dsl.store.job_watch import JobWatch
from dagger_dsl.store.notices import of_tasks, tell
from dagger_dsl.store.shared_values import SharedValues
from dagger_dsl.store.storage import Store
from dagger_dsl.store.task_claims import Ending, TaskClaims
from dagger_dsl.store.task_people import TaskPeople
from dagger_dsl.store.task_reads import TaskReads

if TYPE_CHECKING:
    from types import TracebackType

    import sqlalchemy as sa

__all__ = ["TaskManager"]

logger = logging.getLogger("dagger_dsl.agents")

#: Ids of jobs that a misspelt one is compared with, at most.
_COMPARED: Final = 1_000


class TaskManager(Adding, Reading, Steering):
    """Jobs of tasks in one database, and the workers of this process that run them.

    Args:
        heartbeat_interval: Seconds (or a timedelta) without a sign of life after which a job has
            stalled; what counts is said in `dagger_dsl.agents.watch`. None for never. A job that
            is made here keeps it, and the processes that run tasks look for its stalls; with a
            ``concurrency`` of 0 this one does not.
        stall_action: What is done about that, once, by the process that sees it: a `StallAction`,
            or its name. A job that is made here keeps the name.
        cache: What the agents of this process share in its memory, as ``ctx.cache`` and
            `TaskManager.cache`; an empty one by default. What is to outlive the process, or is
            shared with others, belongs into `state`.
        registry: Where agents are looked up: a `Registry`, or the module that they are written in;
            by default the one in force, with the agents that installed packages bring
            (`load_agents`).
        database_url: Where tasks are recorded; None for this process's memory only.
        concurrency: How many tasks run at a time here; the number of CPUs by default, at least 4.
            0 runs none: other processes do, ``dagger-dsl worker`` among them, so that nobody ever
            runs tasks of this process's memory then, and to wait for their jobs is refused.
        agents: The names of the agents that this process runs tasks of; all that are registered by
            default.
        lease: Seconds without a sign of life after which another host may take tasks over.
        keep_jobs, keep_days: Where this process runs tasks, it removes the jobs that have ended
            beyond so many, and those that ended longer ago; None keeps all.
        resources: A `ResourceTracker`, shared with runs perhaps: a task is not claimed here before
            it has room for the call of its agent. None limits nothing.
        max_tasks: How many tasks a job that is made here may have, so that agents which add tasks
            do not go on for ever; None for any number.

    Raises:
        ConfigurationError: An argument cannot be.
    """

    def __init__(
        self,
        heartbeat_interval: float | dt.timedelta | None = 30.0,
        stall_action: StallAction | str = StallAction.NOTIFY_PLANNING_AGENT,
        cache: Cache | None = None,
        registry: Any = None,
        database_url: str | os.PathLike[str] | sa.URL | None = None,
        *,
        concurrency: int | None = None,
        agents: Sequence[str] | None = None,
        lease: float | dt.timedelta = 60.0,
        keep_jobs: int | None = None,
        keep_days: float | None = None,
        resources: ResourceTracker | None = None,
        max_tasks: int | None = MAX_TASKS,
    ) -> None:
        self.resources = as_tracker(resources)
        if concurrency is not None:
            whole_number(concurrency, "concurrency", least=0)
        if heartbeat_interval is not None:
            heartbeat_interval = seconds(heartbeat_interval, "heartbeat_interval", zero=False)
        if not isinstance(cache, Cache | None):
            raise ConfigurationError(f"cache is a Cache or None, not {shown(cache)}")
        self.heartbeat_interval = heartbeat_interval
        self.stall_action = StallAction.of(stall_action)
        self._settings = JobSettings.of(
            max_tasks,
            math.inf if heartbeat_interval is None else heartbeat_interval,
            self.stall_action,
        )
        #: What jobs may call when they have stalled, by the names that they keep.
        self._stall_actions = {
            each.name: each
            for each in (
                StallAction.NOTIFY_PLANNING_AGENT,
                StallAction.TERMINATE_JOB,
                self.stall_action,
            )
        }
        self.cache = Cache() if cache is None else cache
        self._keep = check_keeping(keep_jobs, keep_days)
        self.registry = as_registry(registry)
        if registry is None:
            load_agents(self.registry)
        self._store = Store("sqlite::memory:" if database_url is None else database_url)
        parts = self._store.database, self._store._payloads
        self._rows, self._reads, self._claims = (
            TaskPeople(*parts),
            TaskReads(*parts),
            TaskClaims(*parts),
        )
        self._jobs, self._values = JobWatch(*parts), SharedValues(*parts)
        self._held = contextlib.ExitStack()
        self._opened = False
        self._size = max(4, os.cpu_count() or 1) if concurrency is None else concurrency
        self._is_idle = concurrency == 0 and self._store.database.is_memory
        chosen = None if agents is None else as_names(agents)
        self._roster = Roster(self.registry, chosen, self.resources)
        self._lease = seconds(lease, "lease", zero=False)
        self._crew: Crew | None = None
        self._lock = threading.Lock()
        self._listeners: set[Callable[[], object]] = set()
        self._closed = False
        self._process = os.getpid()

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

        Where calls take a while to end, a warning says which ones; an interrupt (Ctrl-C) ends the
        waiting.

        What is given back is run by whoever opens the database next. What was in this process's
        memory only is lost; a warning is logged where that are tasks which have not ended.

        In a forked child it closes what the child has opened, and leaves the parent's tasks alone.

        Returns:
            How many calls were left behind, in threads that cannot be stopped.
        """
        if os.getpid() != self._process:  # threads, locks and claims are the parent's
            self._closed = True
            self._store.close()
            return 0
        left = 0
        with self._lock:
            was_closed, self._closed = self._closed, True
            crew, self._crew = self._crew, None
        try:
            if crew is not None:
                left = crew.stop(grace)
            if not was_closed and self._store.database.is_memory and self._size:
                self._tell_lost()
        finally:
            self._held.close()
            self._store.close()
        return left

    def _tell_lost(self) -> None:
        """Say what is lost with this process's memory."""
        lost = [job.unfinished for job in self._reads.jobs() if job.unfinished]
        if lost:
            logger.warning(
                "%s of %s that have not ended are lost with the memory of this task manager; wait "
                "for them (result() of the job), or give it a database_url",
                count(sum(lost), "task"),
                count(len(lost), "job"),
            )

    def _open(self) -> None:
        """Let nobody take a file for a leftover that this process has written, and no row names."""
        with self._lock:
            if not self._opened:
                self._held.enter_context(files_kept(self._store.database))
                self._opened = True

    def work(self, told: Callable[[list[Ending]], object] | None = None) -> None:
        """Begin to run tasks here, if this manager may; `start_job` does that by itself.

        Args:
            told: Called with what has ended, after each commit, from the threads that work.

        Raises:
            AgentNotFound: An agent that it was told to run is not registered.
            InvalidState: It was closed; or it works already, and *told* would hear of nothing.
        """
        self._open()
        with self._lock:
            self._check_open()
            if self._crew is not None and told is not None:
                raise InvalidState(
                    "the task manager works already, as start_job lets it: call work(told) before"
                )
            if self._crew is not None or self._size == 0:
                return
            self._crew = Crew(self, self._size, self._lease, told)
            try:
                self._crew.start()
            except BaseException:
                crew, self._crew = self._crew, None
                with contextlib.suppress(Exception):
                    crew.stop(0.0)
                raise

    def _check_open(self) -> None:
        """Refuse to begin work that this manager could not do.

        Raises:
            InvalidState: It was closed.
            AgentNotFound: An agent that it was told to run is not registered.
        """
        if self._closed:
            raise InvalidState("the task manager is closed; make a new one")
        if self._crew is None and self._size:
            self._roster.check()

    # --- jobs -------------------------------------------------------------------------------------

    def start_job(
        self,
        job_id: str,
        tasks: Sequence[NewTaskSpec] = (),
        allowed_agents: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        timeout: float | dt.timedelta | None = None,
        heartbeat_interval: float | dt.timedelta | None = None,
        stall_action: StallAction | str | None = None,
        max_tasks: int | None = None,
    ) -> JobHandle:
        """Let a job's tasks run, and return its handle; nobody waits for it.

        A job that was cancelled, or whose time was over, stays so, and a warning is logged; `retry`
        of a task of it lets that, and the job, go on.

        Args:
            job_id: Which; tasks may have been added to it before. One that has none yet waits for
                those that are added later, and a warning is logged.
            tasks: A list of more of them.
            allowed_agents: The agents that its tasks may be given to; None for all.
            config: Anything to keep with it, of JSON types; None leaves what it has.
            timeout: Seconds until it is cancelled, by whoever runs tasks of this database then.
            heartbeat_interval, stall_action, max_tasks: What it keeps from now on, as `TaskManager`
                takes them (an infinite interval for never); None leaves what it has, which by
                default is what the manager had that made it.

        Raises:
            AgentNotAllowed: It has a task for another agent.
            AgentNotFound: A task is for an agent that is not registered here, in a process that
                runs tasks of all agents, or with tasks in memory, which nobody else can run.
            LimitExceeded: It would have more tasks than it may.
            InvalidState: The manager was closed.
            ConfigurationError: An argument cannot be; or a task in memory is for an agent whose
                tasks this manager does not run.
        """
        limit = None if timeout is None else seconds(timeout, "timeout")
        tasks = as_specs(tasks)
        changes = JobSettings.of(max_tasks, heartbeat_interval, stall_action)
        if isinstance(stall_action, StallAction):
            self._stall_actions[stall_action.name] = stall_action
        self._check_open()
        self._open()  # before anything is read: who died while making a file leaves an empty one
        self._roster.check_specs(tasks)
        names = [*self._reads.agents_of(job_id), *(spec.agent for spec in tasks)]
        self._check_agents(job_id, names, starts=True)
        self._rows.start_job(
            job_id,
            tasks,
            create=True,
            timeout=limit,
            allowed_agents=allowed_agents,
            config=config,
            settings=self._settings,
            changes=changes,
        )
        if not tasks:
            self._note_empty(job_id)
        self.work()
        self._wake()
        return JobHandle(self, job_id)

    def resume_job(self, job_id: str) -> JobHandle:
        """Go on with a job that another process began, and return its handle.

        One that was cancelled stays so; see `start_job`.

        Raises:
            JobNotFound: There is none.
            AgentNotFound: As `start_job`.
        """
        if self._reads.job(job_id) is None:
            raise JobNotFound(f"there is no job {shown(job_id)} in {self._store.database.where}")
        self._check_open()
        self._check_agents(job_id, self._reads.agents_of(job_id), starts=True)
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
        self._interrupt(self._rows.cancel_job(job_id, reason))

    def _check_agents(self, job_id: str, names: Iterable[str], *, starts: bool) -> None:
        """Refuse tasks that nobody would ever run, where that is known; else warn, once a name.

        Args:
            job_id: Their job.
            names: The agents that they are for.
            starts: Whether the job starts with them, so that it would hang.
        """
        if self._size and self._store.database.is_memory:
            job = None if starts else self._reads.job(job_id)
            if starts or (job is not None and job.status is JobStatus.RUNNING):
                self._roster.check_chosen(names)
            return  # start_job looks, and until then the agent may be registered
        unknown = self._roster.unknown(names)
        if not unknown:
            return
        if self._size and starts and self._roster.has_all:
            self._roster.check_names(unknown)
        # Who runs nothing need not know the agents of others; a name like a known one is told.
        self._roster.tell_unknown(unknown, close_only=not self._size)

    def _check_runs(self) -> None:
        """Refuse to wait for what can never run: nobody else sees the memory of this process."""
        if self._is_idle:
            raise ConfigurationError(
                "a task manager with concurrency=0 runs no tasks, and no other process sees those "
                "in its memory; give a database_url that workers use, too, or a concurrency of at "
                "least 1"
            )

    def _note_empty(self, job_id: str) -> None:
        """Say that a job was started that has no tasks: its id may be misspelt."""
        if self._reads.agents_of(job_id):
            return
        others = [job.id for job in self._reads.jobs() if job.id != job_id][:_COMPARED]
        hint = did_you_mean(job_id, others)
        logger.warning(
            "job %s has no tasks yet; it ends once those that are added have ended%s",
            shown(job_id),
            hint if "did you mean" in hint else "",
        )

    # --- more -------------------------------------------------------------------------------------

    def _stall_action(self, name: str | None) -> StallAction | None:
        """Return what a job does that has stalled, by the name that it keeps; None if unknown."""
        return self.stall_action if name is None else self._stall_actions.get(name)

    def state(self, scope: str) -> SharedState:
        """Return what agents share under a name, of a job under its id; see `SharedState`."""
        self._open()
        return SharedState(self._values, scope)

    def get_dot_graph(self, job_id: str | None = None) -> str:
        """Return the tasks of a job, or of all jobs, as DOT: parts, needs, and where each stands.

        Raises:
            JobNotFound: There is no such job.
        """
        if job_id is None:
            tasks = [each for job in reversed(self.jobs()) for each in self.tasks(job.id)]
            return str(through("job_to_dot")(tasks, None))
        return str(through("job_to_dot")(self.tasks(job_id), self.job(job_id)._row()))

    # --- inside -----------------------------------------------------------------------------------

    def _interrupt(self, task_ids: Iterable[str]) -> None:
        """Stop the calls of tasks, where they can be, and have everybody look again."""
        crew = self._crew
        if crew is not None:
            for each in task_ids:
                crew.cancel(each)
        self._wake()
        self._changed()

    def _wake(self) -> None:
        """Have the crews look that work on this database in this process."""
        database, crew = self._store.database, self._crew
        if not database.is_memory:
            tell(of_tasks(database))
        elif crew is not None:
            crew.wake()

    def _changed(self) -> None:
        """Tell those who wait that a job has ended, or somebody has changed something by hand."""
        for each in tuple(self._listeners):
            with contextlib.suppress(RuntimeError):  # an event loop that was closed just now
                each()

    @contextlib.contextmanager
    def _listening(self, tell: Callable[[], object]) -> Iterator[None]:
        """Have *tell* called, from any thread, when it is worth looking at jobs again."""
        self._listeners.add(tell)
        try:
            yield
        finally:
            self._listeners.remove(tell)
