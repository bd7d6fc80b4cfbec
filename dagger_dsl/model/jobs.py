"""What a node's function answers when its result is the outcome of a job of tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, final

import attrs

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.job_settings import NO_SETTINGS, JobSettings
from dagger_dsl.model.people import HumanRequest
from dagger_dsl.model.policies import seconds

if TYPE_CHECKING:
    from dagger_dsl.model.stalls import StallAction
    from dagger_dsl.model.tasks import NewTaskSpec

__all__ = ["WAITS", "JobRequest", "job_config"]


def _specs(given: Any) -> tuple[NewTaskSpec, ...]:
    # Few nodes start jobs, and the others would wait for these classes to be made.
    from dagger_dsl.model.tasks import NewTaskSpec

    found = (given,) if isinstance(given, NewTaskSpec) else given
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise ConfigurationError(
            f"a node starts a job with a NewTaskSpec or a list of them, not {shown(given)}"
        )
    for each in found:
        if not isinstance(each, NewTaskSpec):
            raise ConfigurationError(f"a task of a job is a NewTaskSpec, not {shown(each)}")
    if not found:
        raise ConfigurationError("a job that a node starts has at least one task")
    _check_names(found)
    return tuple(found)


def _check_names(specs: Sequence[NewTaskSpec]) -> None:
    """Refuse tasks that name each other wrongly: nobody could tell who started them later."""
    from graphlib import CycleError as FoundCycle
    from graphlib import TopologicalSorter

    from dagger_dsl.errors import CycleError, did_you_mean

    names = [each.task_id for each in specs if each.task_id is not None]
    if len(set(names)) < len(names):
        twice = next(each for each in names if names.count(each) > 1)
        raise ConfigurationError(f"two tasks of the job have the id {twice!r}")
    for spec in specs:
        parent = () if spec.parent is None else (spec.parent,)
        for each in (*spec.dependencies, *parent):
            if each not in names:
                raise ConfigurationError(
                    f"a task of the job names {each!r}, which is the task_id of none of them"
                    f"{did_you_mean(each, names)}"
                )
    for wanted in (
        {each.task_id: each.dependencies for each in specs if each.dependencies},
        {each.task_id: (each.parent,) for each in specs if each.parent is not None},
    ):
        try:
            TopologicalSorter(wanted).prepare()
        except FoundCycle as error:
            raise CycleError([str(each) for each in reversed(error.args[1])]) from None


@final
@attrs.frozen(init=False)
class JobRequest:
    """Ends a body and lets its node wait for a job; see `NodeCtx.wait_for_job`.

    Attributes:
        tasks: The tasks of a job that the node starts; empty where it waits for another one.
        job_id: The job that it waits for; None for its own.
        allowed_agents: The agents that the job may give tasks to; None for all.
        config: What is kept with the job, of JSON types.
        timeout: Seconds (or timedelta) until the job is cancelled; None for no limit.
        settings: What else is kept with the job: ``heartbeat_interval``, ``stall_action`` and
            ``max_tasks``, as `TaskManager.start_job` takes them.

    Raises:
        ConfigurationError: One of these cannot be one.
        CycleError: The tasks wait for each other.
    """

    tasks: tuple[NewTaskSpec, ...]
    job_id: str | None
    allowed_agents: tuple[str, ...] | None
    config: Mapping[str, Any]
    timeout: float | None
    settings: JobSettings

    def __init__(
        self,
        tasks: NewTaskSpec | Sequence[NewTaskSpec] | None = None,
        job_id: str | None = None,
        *,
        allowed_agents: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        timeout: float | timedelta | None = None,
        heartbeat_interval: float | timedelta | None = None,
        stall_action: StallAction | str | None = None,
        max_tasks: int | None = None,
    ) -> None:
        if (tasks is None) == (job_id is None):
            raise ConfigurationError(
                "a node waits for a job that it starts, wait_for_job(tasks), or for one that is "
                "there, wait_for_job(job_id=...): give one of the two"
            )
        if job_id is not None and (not isinstance(job_id, str) or not job_id or "\0" in job_id):
            raise ConfigurationError(
                f"job_id is a text that is not empty and has no NUL, not {shown(job_id)}"
            )
        settings = JobSettings.of(max_tasks, heartbeat_interval, stall_action)
        given = any(each is not None for each in (allowed_agents, config, timeout))
        if job_id is not None and (given or settings != NO_SETTINGS):
            raise ConfigurationError(
                "allowed_agents, config, timeout, heartbeat_interval, stall_action and max_tasks "
                "are for a job that the node starts; one that is there has its own"
            )
        specs = () if tasks is None else _specs(tasks)
        allowed = None if allowed_agents is None else _agents(allowed_agents)
        if allowed is not None:
            for each in specs:
                if each.agent not in allowed:
                    raise ConfigurationError(
                        f"a task is for agent {each.agent!r}, which is not in allowed_agents: "
                        f"{', '.join(allowed) or 'nothing'}"
                    )
        limit = None if timeout is None else seconds(timeout, "timeout", zero=False)
        if limit is not None and not limit < math.inf:
            raise ConfigurationError(f"timeout is a number of seconds, not {shown(timeout)}")
        self.__attrs_init__(
            specs, job_id, allowed, {} if config is None else job_config(config), limit, settings
        )


def _agents(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigurationError(f"allowed_agents is a list of names, not {shown(given)}")
    for each in given:
        if not isinstance(each, str):
            raise ConfigurationError(f"an agent is allowed by its name, not by {shown(each)}")
    return tuple(given)


def job_config(given: Any) -> dict[str, Any]:
    """Return what is kept with a job, which comes back as it was given.

    Raises:
        ConfigurationError: It is no mapping, or has something in it that JSON cannot hold, or would
            change: a tuple, an infinite number, a date.
    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"a job's config is a mapping of names to values of JSON, not {shown(given)}"
        )
    import orjson

    found = dict(given)
    try:
        kept = orjson.loads(orjson.dumps(found))
    except (TypeError, ValueError) as error:  # what orjson raises
        raise ConfigurationError(
            f"a job's config is a mapping of names to values of JSON: {error}"
        ) from None
    if kept != found:
        path, value, instead = _changed(found, kept)
        raise ConfigurationError(
            f"a job's config has values of JSON alone: config{path} is {shown(value)}, which would "
            f"come back as {shown(instead)}; write it as a text, a number, a list or a mapping"
        )
    return found


def _changed(given: Any, kept: Any) -> tuple[str, Any, Any]:
    """Return the first part of a value that is kept as another one: its path, it, and that."""
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(given, dict) and isinstance(kept, dict):
        parts = given.items()
    elif isinstance(given, list) and isinstance(kept, list):
        parts = enumerate(given)
    for name, part in parts:
        if part != kept[name]:
            path, value, instead = _changed(part, kept[name])
            return f"[{name!r}]{path}", value, instead
    return "", given, kept


#: What a body answers to let its node wait for somebody else's word.
WAITS: Final = (HumanRequest, JobRequest)
