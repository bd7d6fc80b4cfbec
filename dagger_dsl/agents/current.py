"""Which call of an agent goes on in this thread, for what an agent does by its `TaskManager`."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dagger_dsl.agents.context import TaskContext

__all__ = ["current_call", "inside"]

_current: Final[contextvars.ContextVar[TaskContext | None]] = contextvars.ContextVar(
    "dagger_dsl_task", default=None
)


def current_call() -> TaskContext | None:
    """Return the call that goes on in this thread, of whichever manager."""
    return _current.get()


@contextlib.contextmanager
def inside(ctx: TaskContext) -> Iterator[None]:
    """Let this thread be in the call of a task."""
    token = _current.set(ctx)
    try:
        yield
    finally:
        _current.reset(token)
