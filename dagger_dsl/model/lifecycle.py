"""What surrounds a node's calls: its hooks, and the phases that each attempt goes through."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from dagger_dsl.errors import ConfigurationError, shown

__all__ = ["KEEP", "PHASES", "NodeHooks", "callback", "is_awaited"]


class _Keep(enum.Enum):
    """The type of `KEEP`."""

    KEEP = "KEEP"

    def __repr__(self) -> str:
        return "KEEP"


#: What a hook returns to leave inputs or a result as they are; None says the same.
KEEP: Final = _Keep.KEEP

#: The phases of an attempt, in order. `cleanup` comes once, after the last one.
PHASES: Final = ("pre_validation", "pre_execution", "execution", "post_execution", "cleanup")

_TAKES: Final = {
    "pre_execute": ("node", "inputs", "context"),
    "post_execute": ("node", "inputs", "result", "context"),
    "cleanup": ("node", "context"),
}


def callback(value: Any, what: str, names: Sequence[str]) -> Any:
    """Return a function that can be called with as many arguments as *names* has.

    Args:
        value: What was given.
        what: What it is, for errors.
        names: What it is called with, by position.

    Raises:
        ConfigurationError: It is no such function.
    """
    listed = ", ".join(names)
    if not callable(value):
        raise ConfigurationError(f"{what} is a function of ({listed}), not {shown(value)}")
    try:
        signature = inspect.signature(value)
    except Exception:  # of code that is no Python, or of a stranger's object
        return value
    try:
        signature.bind(*names)
    except TypeError:
        raise ConfigurationError(
            f"{what} is called with ({listed}), and the signature of {shown(value)} is {signature}"
        ) from None
    return value


def is_awaited(function: Any) -> bool:
    """Return whether a function's answer has to be awaited, as far as can be seen beforehand."""
    while isinstance(function, functools.partial):
        function = function.func
    bodies = (function, inspect.unwrap(function), type(function).__call__)
    return any(inspect.iscoroutinefunction(each) for each in bodies)


def _hook(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        callback(value, field.name, _TAKES[field.name])


@attrs.frozen(eq=False, kw_only=True)
class NodeHooks:
    """What is called around the calls of nodes; each may be async, and may be left out.

    Attributes:
        pre_execute: ``fn(node, inputs, context)``, before each attempt. A mapping that it returns
            takes the place of the inputs.
        post_execute: ``fn(node, inputs, result, context)``, after each attempt that returned.
            What it returns takes the place of the result; `NodeOutput(None)` makes it None.
        cleanup: ``fn(node, context)``, once, after the node has ended for good; for a state of a
            machine once in each cycle.

    Raises:
        ConfigurationError: One is no function of so many arguments.
    """

    pre_execute: Callable[..., Any] | None = attrs.field(default=None, validator=_hook)
    post_execute: Callable[..., Any] | None = attrs.field(default=None, validator=_hook)
    cleanup: Callable[..., Any] | None = attrs.field(default=None, validator=_hook)

    def __bool__(self) -> bool:
        """Whether there is one."""
        return any(each is not None for each in attrs.astuple(self, recurse=False))
