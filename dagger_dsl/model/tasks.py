"""Tasks and jobs as values: what they are, where they stand, and which way they may go.

A job is a set of tasks, each given to an agent by name. A task waits for the tasks that it depends
on, is claimed by a worker, and ends; it may find out on its way that it needs another task, wait
for that without a worker, and be called again.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final

import attrs

from dagger_dsl.errors import ConfigurationError, InvalidState, shown
from dagger_dsl.model.policies import Effects, as_enum, seconds, whole_number
from dagger_dsl.model.stored_values import WithStoredValues, for_people

__all__ = [
    "TRANSITIONS",
    "UNFINISHED",
    "JobStatus",
    "NewTaskSpec",
    "OnDependencyFailure",
    "Task",
    "TaskEvent",
    "TaskStatus",
    "TaskType",
    "check_transition",
]


class TaskStatus(enum.StrEnum):
    """Where a task stands."""

    PENDING = "pending"
    BLOCKED = "blocked"
    READY = "ready"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class JobStatus(enum.StrEnum):
    """Where a job stands."""

    CREATED = "created"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskType(enum.StrEnum):
    """What part of a plan a task is."""

    OBJECTIVE = "objective"
    STORY = "story"
    TASK = "task"
    SUBTASK = "subtask"


class OnDependencyFailure(enum.StrEnum):
    """What becomes of a task when one that it depends on has failed or was cancelled."""

    FAIL = "fail"
    RUN = "run"


_PENDING, _BLOCKED, _READY = TaskStatus.PENDING, TaskStatus.BLOCKED, TaskStatus.READY
_RUNNING, _COMPLETED, _FAILED = TaskStatus.RUNNING, TaskStatus.COMPLETED, TaskStatus.FAILED
_PAUSED, _CANCELLED = TaskStatus.PAUSED, TaskStatus.CANCELLED

#: Where a task may go from where it stands.
TRANSITIONS: Final[Mapping[TaskStatus, frozenset[TaskStatus]]] = MappingProxyType(
    {
        _PENDING: frozenset({_READY, _BLOCKED, _PAUSED, _FAILED, _CANCELLED}),
        _BLOCKED: frozenset({_READY, _PENDING, _PAUSED, _FAILED, _CANCELLED}),
        _READY: frozenset({_RUNNING, _PENDING, _BLOCKED, _PAUSED, _FAILED, _CANCELLED}),
        _RUNNING: frozenset({_COMPLETED, _FAILED, _READY, _PENDING, _BLOCKED, _CANCELLED}),
        _PAUSED: frozenset({_READY, _PENDING, _FAILED, _CANCELLED}),
        _COMPLETED: frozenset({TaskStatus.ACCEPTED, TaskStatus.REJECTED}),
        # By a person, or with a dependency that is tried again.
        _FAILED: frozenset({_READY, _PENDING, _CANCELLED}),
        _CANCELLED: frozenset({_READY, _PENDING}),
        TaskStatus.REJECTED: frozenset({_READY, _PENDING, _CANCELLED}),
        TaskStatus.ACCEPTED: frozenset(),
    }
)

#: Statuses of tasks that a job waits for.
UNFINISHED: Final = frozenset({_PENDING, _BLOCKED, _READY, _RUNNING, _PAUSED})


def check_transition(task_id: str, old: TaskStatus, new: TaskStatus) -> None:
    """Refuse a way that a task may not go.

    Raises:
        InvalidState: There is no such way; the message lists those there are.
    """
    allowed = TRANSITIONS[old]
    if new not in allowed:
        ways = ", ".join(sorted(allowed)) or "nothing: it is accepted"
        raise InvalidState(
            f"task {task_id!r} is {old} and cannot become {new}; from there it may become {ways}"
        )


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Collection):
        raise ConfigurationError(f"dependencies are a list of the ids of tasks, not {shown(value)}")
    found = tuple(dict.fromkeys(value))
    for each in found:
        _name("a dependency", each)
    return found


def _name(what: str, value: Any) -> None:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigurationError(
            f"{what} is a text that is not empty and has no NUL, not {shown(value)}"
        )
    _whole(what, value)


def _text(what: str, value: Any, *, empty: bool = True) -> None:
    if not isinstance(value, str) or (not empty and not value):
        raise ConfigurationError(f"{what} is a text, not {shown(value)}")
    _whole(what, value)


def _whole(what: str, text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{what} {shown(text)} has a lone surrogate, which is half a character and cannot be "
            "stored; take it out"
        ) from None


@attrs.frozen(init=False)
class NewTaskSpec:
    """A task that is to be made.

    Args:
        agent: The name of the agent that it is given to.
        input: What the agent gets: any value of the codec.
        description: What it is about, for people and for agents that plan.
        dependencies: Ids of the tasks whose results it waits for, in the order in which it gets
            them.
        parent: The id of the task that it is a part of.
        task_type: A `TaskType` or its name.
        priority: Higher ones are claimed first; those of one priority in the order in which they
            were added.
        acceptance_criteria: When its result is good enough.
        summary: A short text that agents may keep with it.
        timeout: Seconds (or a timedelta) that one call may take; None for the agent's limit.
        max_retries: Calls after the first one that fails; None leaves that to the agent's policy.
        effects: ``at_least_once`` (a task whose worker died is given to another one) or
            ``at_most_once`` (it waits for a person to decide).
        on_dependency_failure: ``fail`` with a dependency that failed, or ``run`` all the same.
        key: What only one task at a time may hold among those that an agent runs, such as the name
            of a customer; None for no such limit.
        task_id: Its id; one is made by default.
        retry_count: How many of its retries were made already, elsewhere; they count.

    Raises:
        ConfigurationError: A value cannot be.
    """

    agent: str
    input: Any
    description: str
    dependencies: tuple[str, ...]
    parent: str | None
    task_type: TaskType
    priority: int
    acceptance_criteria: str | None
    summary: str | None
    timeout: float | None
    max_retries: int | None
    effects: Effects
    on_dependency_failure: OnDependencyFailure
    key: str | None
    task_id: str | None
    retry_count: int

    def __init__(
        self,
        agent: str,
        input: Any = None,  # the documents' word
        *,
        description: str = "",
        dependencies: Sequence[str] = (),
        parent: str | None = None,
        task_type: TaskType | str = TaskType.TASK,
        priority: int = 0,
        acceptance_criteria: str | None = None,
        summary: str | None = None,
        timeout: float | dt.timedelta | None = None,
        max_retries: int | None = None,
        effects: Effects | str = Effects.AT_LEAST_ONCE,
        on_dependency_failure: OnDependencyFailure | str = OnDependencyFailure.FAIL,
        key: str | None = None,
        task_id: str | None = None,
        retry_count: int = 0,
    ) -> None:
        _name("agent", agent)
        _text("description", description)
        if parent is not None:
            _name("parent", parent)
        if task_id is not None:
            _name("task_id", task_id)
        if key is not None:
            _name("key", key)
        if acceptance_criteria is not None:
            _text("acceptance_criteria", acceptance_criteria)
        if summary is not None:
            _text("summary", summary)
        if type(priority) is not int or abs(priority) > 2**31:
            raise ConfigurationError(
                f"priority is a whole number between -2**31 and 2**31, not {shown(priority)}"
            )
        limit = None if timeout is None else seconds(timeout, "timeout")
        if limit is not None and not 0 < limit < math.inf:
            raise ConfigurationError(
                f"timeout is a number of seconds above 0, or None, not {shown(timeout)}"
            )
        if max_retries is not None:
            whole_number(max_retries, "max_retries", least=0)
        whole_number(retry_count, "retry_count", least=0)
        self.__attrs_init__(
            agent,
            input,
            description,
            _texts(dependencies) if dependencies != () else (),
            parent,
            as_enum(TaskType, task_type, "task_type"),
            priority,
            acceptance_criteria,
            summary,
            limit,
            max_retries,
            as_enum(Effects, effects, "effects"),
            as_enum(OnDependencyFailure, on_dependency_failure, "on_dependency_failure"),
            key,
            task_id,
            retry_count,
        )


@attrs.frozen(eq=False)
class Task(WithStoredValues):
    """A task as it stood when it was read.

    Its input and output are decoded when they are first asked for. What goes wrong with that is
    raised there: `DecodingError` where this process does not know a type, `StoreDamaged` where a
    large value's file is not what was written, or is gone with the job.

    Attributes:
        id, job_id: Its id, and that of its job.
        agent: The name of the agent that it is given to.
        status: A `TaskStatus`.
        task_type: A `TaskType`.
        description, acceptance_criteria, summary: As given; the summary may be changed by its
            agent.
        parent: The id of the task that it is a part of.
        dependencies: Ids of the tasks that it waits for, those added on its way included, in order.
        input: What its agent gets.
        output: What its agent gave; None before.
        error: What it failed with, or why it is blocked; empty where there is nothing to say.
        priority, timeout, max_retries, effects, on_dependency_failure, key: As given.
        attempts: How often its agent was called.
        retry_count: How many of these calls were made again after a failure.
        asks_person: Whether it is blocked until a person says something; what is its ``error``.
        worker: Who runs it, for people; empty where nobody does.
        version: Rises with every change of its status.
        created_at, updated_at: When it was made, and changed last, UTC.
        started_at, finished_at: When its last call began, and when that ended, or it was ended by
            hand, UTC; None before.
    """

    _may_be_stored: ClassVar = ("input", "output")

    id: str
    job_id: str
    agent: str
    status: TaskStatus
    task_type: TaskType
    description: str
    acceptance_criteria: str | None
    summary: str | None
    parent: str | None
    dependencies: tuple[str, ...]
    input: Any
    output: Any
    error: str
    priority: int
    timeout: float | None
    max_retries: int | None
    effects: Effects
    on_dependency_failure: OnDependencyFailure
    key: str | None
    attempts: int
    retry_count: int
    worker: str
    version: int
    created_at: dt.datetime
    updated_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    asks_person: bool = False

    def __repr__(self) -> str:
        """Show all of it, whatever its values are."""
        told = (f"{each.name}={for_people(self, each.name).value!r}" for each in attrs.fields(Task))
        return f"Task({', '.join(told)})"

    @property
    def is_finished(self) -> bool:
        """Whether its job does not wait for it any more."""
        return self.status not in UNFINISHED


@attrs.frozen
class TaskEvent:
    """One change of a task's status.

    Attributes:
        task_id: The task.
        status: What it became.
        at: When, UTC.
        cause: Why, for people.
        worker: Who did that, where a worker did.
        attempt: Which call it concerns; 0 for none.
    """

    task_id: str
    status: TaskStatus
    at: dt.datetime
    cause: str
    worker: str
    attempt: int
