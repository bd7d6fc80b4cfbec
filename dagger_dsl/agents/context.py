"""`TaskContext`: what an agent is given beside its input."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs

from dagger_dsl.agents.signals import Blocked
from dagger_dsl.errors import ConfigurationError, InvalidState, LimitExceeded, shown, storable
from dagger_dsl.model.messages import LONGEST, Message, check_channel, derived_id, is_short_text
from dagger_dsl.model.schema import compile_schema, schema_fault
from dagger_dsl.model.tasks import NewTaskSpec, Task, TaskStatus, TaskType
from dagger_dsl.store.arguments import check_reason, check_text
from dagger_dsl.store.task_questions import Question

if TYPE_CHECKING:
    from dagger_dsl.agents.job import JobHandle
    from dagger_dsl.agents.manager import TaskManager
    from dagger_dsl.agents.state import SharedState
    from dagger_dsl.engine.workflow import Workflow
    from dagger_dsl.store.cache import Cache
    from dagger_dsl.store.messages import Outgoing
    from dagger_dsl.store.task_claims import Claim
    from dagger_dsl.store.task_questions import Answered

__all__ = ["TaskContext"]

#: Messages that one call may publish.
_MOST: Final = 10_000

#: Between a call that ends and threads that it has left behind.
_publishing = threading.Lock()


class TaskContext:
    """One call of an agent for one task.

    Attributes:
        manager: The `TaskManager` that runs it.
        task_id, job_id: The task, and its job.
        attempt: Which call of the task this is, counted from 1.
    """

    def __init__(self, manager: TaskManager, claim: Claim) -> None:
        self.manager: TaskManager = manager
        self.task_id: str = claim.id
        self.job_id: str = claim.job_id
        self.attempt = claim.attempt
        self._claim = claim
        self._parks = False
        self._adds = False
        self._beaten: float | None = None
        self._held: list[Outgoing] | None = []  # None once the call is over
        self._rest: float | None = None

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
    def job(self) -> JobHandle:
        """The job that it is of: its tasks, and what it was configured with."""
        return self.manager.job(self.job_id)

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
        return not self.manager._jobs.is_current(
            self._claim.number, self._claim.version, self._claim.id
        )

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

    @property
    def answers(self) -> list[Answered]:
        """What people answered this task in all of its calls, the oldest answer first."""
        return self.manager._reads.answers(self._claim.number)

    @property
    def answer(self) -> Any:
        """What was answered last, after `block` or `NeedsMoreInfo`; None where nobody answered."""
        found = self.answers
        return found[-1].value if found else None

    def ask(self, question: str, schema: Mapping[str, Any] | None = None) -> Any:
        """Return what a person answers; the task is parked until then, and called again.

        The agent runs from its beginning again, and each question that was answered returns at
        once: what it did before it asked is done again, so ask first, or make that repeatable. The
        answer comes by `TaskManager.answer`, or by ``dagger-dsl task answer``.

        Args:
            question: For the person; its text tells it from the task's other questions.
            schema: JSON Schema of the answer, which is checked when it is given; None for anything.
                What was answered before and does not fit it is no answer: it is asked (again).

        Raises:
            ConfigurationError: *question* is no text, or *schema* no JSON Schema.
        """
        check_text("a question", question)
        if not question:
            raise ConfigurationError("ask() takes a question that is not empty")
        if schema is not None:
            compile_schema(schema, "the schema of a question")
        for each in reversed(self.answers):
            if each.question == storable(question) and (
                schema is None or schema_fault(schema, each.value, "answer") is None
            ):
                return each.value
        raise Blocked((), question, Question(storable(question), schema))

    def heartbeat(self) -> bool:
        """Say that the work goes on, so that the job does not count as stalled.

        Returns:
            Whether it is wanted: False once the task was cancelled, or given to somebody else.
            It may be called as often as one likes; it writes at most once in a second, and in a
            tenth of the job's heartbeat_interval.
        """
        claim, jobs = self._claim, self.manager._jobs
        now = jobs.now()
        if self._rest is None:
            interval = self.job._row().settings.heartbeat_interval
            self._rest = min(1.0, (interval or self.manager.heartbeat_interval or 10.0) / 10)
        rest = self._rest
        if self._beaten is not None and 0 <= now - self._beaten < rest:
            return jobs.is_current(claim.number, claim.version, claim.id)
        self._beaten = now
        return jobs.heartbeat(self.job_id, claim.number, claim.version, claim.id)

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

        An agent that is called again, because it asked, blocked or failed, runs from its beginning,
        and what it adds without a ``task_id`` is added once more. With one, the same task added
        again by the same parent is the one that is there, whatever has become of it since.

        Args:
            agent, input, description, task_type: As in `NewTaskSpec`.
            **more: Its other options; ``parent`` is this task by default.

        Raises:
            InvalidState: The job has ended.
            AgentNotAllowed: The job does not let the agent have tasks.
            AgentNotFound: Nobody could run it: see `TaskManager.add_tasks`.
            TaskExists: There is another task of its ``task_id``.
        """
        given = {"parent": self.task_id, **more}
        spec = NewTaskSpec(agent, input, description=description, task_type=task_type, **given)
        (task_id,) = self.manager._add_tasks([spec], self.job_id, self)
        return task_id

    def publish(self, channel: str, payload: Any = None, *, key: str = "") -> str:
        """Publish a message with the completion of this task, and return its id.

        It is stored in the transaction that records the task as completed. A call that fails, is
        retried or blocks, or whose task belongs to somebody else by then, publishes nothing. Agents
        of a `PubSubExecutor` on the same database are given it, with ``task_id`` this task and
        ``task:`` and the agent's name for its source.

        Args:
            channel: Where.
            payload: What; it is encoded now, so that later changes of it do not count.
            key: Messages of one channel and key reach each subscriber in order.

        Raises:
            ConfigurationError: It is no channel or no key, or the manager's database is in memory,
                where no subscriber could find the message.
            EncodingError, MessageTooLarge: The payload cannot be stored.
            LimitExceeded: The call publishes too many messages.
            InvalidState: The call is over.
        """
        check_channel(channel)
        if not is_short_text(key):
            raise ConfigurationError(
                f"a message's key is a text of at most {LONGEST} characters without NUL, not "
                f"{shown(key, 60)}"
            )
        claim, claims = self._claim, self.manager._claims
        if self.manager._store.database.is_memory:
            raise ConfigurationError(
                f"task {self.task_id!r} publishes on channel {channel!r}, and subscribers find the "
                "message in the manager's database; give it one that is not in memory, such as "
                "database_url='sqlite:tasks.db'"
            )
        source = f"task:{claim.agent}"
        message = Message(channel, payload, key, "", claims.now(), source, self.task_id)
        outgoing = claims.messages.encoded(message, named=True)
        with _publishing:
            number = 0 if self._held is None else len(self._held) + 1
            if number > _MOST:
                raise LimitExceeded(
                    f"task {self.task_id!r} publishes more than {_MOST:,} messages at once; "
                    "publish in several tasks"
                )
            if self._held is not None:
                # By its number, which is never given again; the id is once its job is removed.
                own_id = derived_id("task", self.task_id, claim.number, self.attempt, number)
                outgoing.message = attrs.evolve(message, id=own_id)
                self._held.append(outgoing)
                return own_id
        raise InvalidState(
            f"the call for task {self.task_id!r} is over, and what it publishes is recorded with "
            "it; publish before the agent returns"
        )

    def _end(self) -> list[Outgoing]:
        """Take nothing more, and return what was published."""
        with _publishing:
            held, self._held = self._held, None
        return held or []

    def add_dependency(self, task_id: str) -> None:
        """Have this task need another one of its job; it waits for that once it blocks.

        Raises:
            CycleError: The other one waits for this one.
        """
        self.manager._add_dependency(self.task_id, task_id, self)

    def block(self, on: Sequence[str] = (), reason: str = "") -> NoReturn:
        """Park the task until what it needs is done; it holds no worker, and is called again.

        It counts neither as a failure nor as a retry. Without anything that it needs it waits for a
        person: `TaskManager.answer` lets it go on, and so does a status of ``ready``.

        Args:
            on: Ids of tasks of its job that it needs from now on, too. It fails where there is no
                such task, or one waits for this one.
            reason: Why, for people.

        Raises:
            ConfigurationError: *on* holds no ids, or *reason* is no text.
        """
        check_reason("a reason", reason)
        ids = (on,) if isinstance(on, str) else on
        if not isinstance(ids, Collection) or not all(isinstance(each, str) for each in ids):
            raise ConfigurationError(f"block(on=...) takes ids of tasks, not {shown(on)}")
        raise Blocked(tuple(ids), reason)

    def run_dag(
        self,
        dag: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        **options: Any,
    ) -> Any:
        """Run a DAG, or a state machine, as a part of this task, and return what it gives.

        The run is recorded where the task is, as ``<job>:<task>:<name of the DAG>``. When the task
        is called again, after a crash, a retry or because it was blocked, the run goes on where it
        stood: what completed is not called again, what failed is tried again, and a run that is
        completed is returned as it is. Other inputs make another run, and so does another graph of
        this name, as of a program that was changed; what its actions do is no part of a graph.

        The task holds its worker meanwhile. Cancelling the task cancels the run; a run that pauses
        blocks the task, which goes on with it once somebody has answered what it waits for, at the
        task or at the run, or has approved its branch, or retries the task.

        Args:
            dag: What to run.
            inputs: Of the run, by name.
            key: Tells runs of one DAG with equal inputs apart.
            **options: Those of `RunOptions`, but for where and under which id it is recorded.

        Raises:
            NodeExecutionError: A node failed; left alone it fails the task, and names the node.
            RunCancelled, ExecutionTimeout: The run did not end by itself.
            ValidationError, InputError, ConfigurationError: As `DAG.run`.
        """
        from dagger_dsl.agents.runs import TaskRun

        return TaskRun(self, dag, inputs, key, options, "sequential").wait()

    async def run_dag_async(
        self,
        dag: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        **options: Any,
    ) -> Any:
        """Run a DAG, or a state machine, as a part of an async agent's task; see `run_dag`.

        The runner is ``asyncio`` by default; the agent's event loop goes on meanwhile.
        """
        from dagger_dsl.agents.runs import TaskRun

        return await TaskRun(self, dag, inputs, key, options, "asyncio").wait_async()
