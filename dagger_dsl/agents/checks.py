"""What a `TaskManager` is given, refused where it cannot be, in words that say what can."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dagger_dsl.errors import AgentNotFound, ConfigurationError, did_you_mean, shown
from dagger_dsl.model.policies import as_enum
from dagger_dsl.model.tasks import NewTaskSpec, TaskStatus

__all__ = ["agent_missing", "as_names", "as_specs", "as_status"]


def as_status(value: Any) -> TaskStatus:
    """Return a status: itself, or the one of that name."""
    return as_enum(TaskStatus, value, "status")


def as_names(agents: Any) -> tuple[str, ...]:
    """Return the names of the agents that a manager runs tasks of.

    Raises:
        ConfigurationError: They are no list of names.
    """
    if isinstance(agents, str) or not isinstance(agents, Iterable):
        raise ConfigurationError(
            f"agents is a list of names of agents, or None for all, not {shown(agents)}"
            + (f"; write [{shown(agents)}]" if isinstance(agents, str) else "")
        )
    names = tuple(agents)
    for each in names:
        if not isinstance(each, str):
            raise ConfigurationError(f"agents is a list of names of agents, not of {shown(each)}")
    return names


def as_specs(specs: Any) -> Sequence[NewTaskSpec]:
    """Return the tasks of a list; they are read more than once.

    Raises:
        ConfigurationError: They are no list of tasks.
    """
    if isinstance(specs, NewTaskSpec | str) or not isinstance(specs, Iterable):
        raise ConfigurationError(
            f"tasks are a list of NewTaskSpec, not {shown(specs)}"
            + ("; write [NewTaskSpec(...)] for one" if isinstance(specs, NewTaskSpec) else "")
        )
    found = specs if isinstance(specs, list | tuple) else list(specs)
    for each in found:
        if not isinstance(each, NewTaskSpec):
            raise ConfigurationError(f"a task is a NewTaskSpec, not {shown(each)}")
    return found


def agent_missing(name: str, known: list[str]) -> AgentNotFound:
    """Return what to raise for an agent that nobody has registered."""
    return AgentNotFound(
        f"no agent {name!r} is registered{did_you_mean(name, known)}; import its module, or "
        "decorate it with @task_agent"
    )
