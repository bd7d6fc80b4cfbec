"""What is done about a job in which nothing happens any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import attrs

from dagger_dsl.errors import ConfigurationError, did_you_mean, shown

__all__ = ["StallAction"]


@attrs.frozen(repr=False)
class StallAction:
    """What a `TaskManager` does, once, about a job that has stalled.

    Attributes:
        name: ``notify_planning_agent``, ``terminate_job``, or what a custom one is called. A job
            keeps it: only who knows a function of this name can call it.
        call: What a custom one calls; None of the others.
    """

    #: The agent of the job's objective gets a new task that says what is stuck; see `Watch`.
    NOTIFY_PLANNING_AGENT: ClassVar[StallAction]
    #: The job is cancelled with all its tasks that have not ended.
    TERMINATE_JOB: ClassVar[StallAction]

    name: str
    call: Callable[[Any], Any] | None = None

    @classmethod
    def custom(cls, call: Callable[[Any], Any], name: str | None = None) -> StallAction:
        """Return the action that calls a function with the `JobHandle` of the job.

        It is called in a thread of its own; what an async one gives is awaited there. What it
        raises is logged. A job keeps its name and not the function: a process that was not given
        one of this name leaves the job to those that were, and logs that.

        Args:
            call: The function.
            name: What it is called; ``module.qualified_name`` of the function by default.

        Raises:
            ConfigurationError: It cannot be called, or the name is none.
        """
        if not callable(call):
            raise ConfigurationError(
                f"StallAction.custom takes a function of one argument, not {shown(call)}"
            )
        if name is None:
            known = getattr(call, "__qualname__", type(call).__qualname__)
            name = f"{getattr(call, '__module__', type(call).__module__)}.{known}"
        if not isinstance(name, str) or not name or not name.isprintable():
            raise ConfigurationError(
                f"the name of a stall action is a text that is not empty, not {shown(name)}"
            )
        if name.lower() in ("notify_planning_agent", "terminate_job"):
            raise ConfigurationError(f"{shown(name)} is another stall action; give another name")
        return cls(name, call)

    @classmethod
    def of(cls, value: Any) -> StallAction:
        """Return the action that a value stands for: itself, or the one of that name.

        Raises:
            ConfigurationError: It stands for none.
        """
        if isinstance(value, cls):
            return value
        named = {each.name: each for each in (cls.NOTIFY_PLANNING_AGENT, cls.TERMINATE_JOB)}
        if isinstance(value, str) and value.lower() in named:
            return named[value.lower()]
        meant = did_you_mean(value.lower(), list(named)) if isinstance(value, str) else ""
        raise ConfigurationError(
            f"stall_action is StallAction.NOTIFY_PLANNING_AGENT, StallAction.TERMINATE_JOB or "
            f"StallAction.custom(function), not {shown(value)}{meant}"
        )

    def __repr__(self) -> str:
        if self.call is not None:
            return f"StallAction.custom({getattr(self.call, '__qualname__', self.call)!s})"
        return f"StallAction.{self.name.upper()}"


StallAction.NOTIFY_PLANNING_AGENT = StallAction("notify_planning_agent")
StallAction.TERMINATE_JOB = StallAction("terminate_job")
