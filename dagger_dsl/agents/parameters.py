"""What the parameters of an agent's function get, and what that says of its input and its result.

A parameter named ``ctx``, or annotated `TaskContext`, gets the context; ``task_id``, ``job_id`` and
``task_manager`` get what the documents' agents are given. What is left is the input: all of it for
a parameter named ``input``, else each parameter gets the part of that name, and a part that no
parameter takes is refused, as its name may be misspelt. An agent that has none of these parameters
but is given its context may read the input there, whatever it is.
"""

from __future__ import annotations

import inspect
import traceback
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from dagger_dsl.errors import RegistryError
from dagger_dsl.model.types import schema_of

__all__ = [
    "GIVEN",
    "Parameters",
    "body_of",
    "check_class",
    "described",
    "method_of",
    "read_parameters",
]

_WHOLE: Final = ("input", "inputs", "_input")

#: Names of parameters that get something else than the input.
GIVEN: Final = ("ctx", "task_id", "job_id", "task_manager")


@attrs.frozen(eq=False)
class Parameters:
    """The parameters of an agent's function.

    Attributes:
        given: By name, which of `GIVEN` a parameter gets.
        taken: Those that get the input, or parts of it.
        whole: The one that gets all of the input; None where several get parts.
        open: Whether parts that no parameter is named for are taken, too.
        hints: The annotations, by name; empty where they cannot be read.
    """

    given: Mapping[str, str]
    taken: Mapping[str, inspect.Parameter]
    whole: str | None
    open: bool
    hints: Mapping[str, Any]


def read_parameters(body: Callable[..., Any], name: str, *, skip: int = 0) -> Parameters:
    """Return what the parameters of an agent's function get.

    Args:
        body: The function.
        name: The agent, for the error.
        skip: How many parameters are somebody else's, as ``self`` is.

    Raises:
        RegistryError: A parameter cannot be given anything.
    """
    hints = _hints(body)
    given: dict[str, str] = {}
    taken: dict[str, inspect.Parameter] = {}
    is_open = False
    for each, parameter in list(inspect.signature(body).parameters.items())[skip:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind is parameter.VAR_POSITIONAL:
            continue
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise RegistryError(
                f"agent {name!r}: parameter {each!r} can only be given by its position, and agents "
                "are called by name; leave the slash out"
            )
        elif _is_context(hints.get(each)):
            given[each] = "ctx"
        elif each in GIVEN:
            given[each] = each
        else:
            taken[each] = parameter
    whole = next(iter(taken)) if len(taken) == 1 and next(iter(taken)) in _WHOLE else None
    return Parameters(given, taken, whole, is_open, hints)


def described(
    target: Callable[..., Any], name: str
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the JSON Schemas of input and result that annotations make; None where they say none.

    Args:
        target: The function, or the class with ``execute``.
        name: The agent, for the error.
    """
    body, skip = method_of(target)
    found = read_parameters(body, name, skip=skip)
    result = schema_of(found.hints["return"]) if "return" in found.hints else None
    if found.whole is not None:
        return schema_of(found.hints.get(found.whole, Any)) or None, result or None
    if not found.taken:
        return None, result or None
    parts = {each: schema_of(found.hints.get(each, Any)) for each in found.taken}
    needed = [
        each
        for each, parameter in found.taken.items()
        if parameter.default is inspect.Parameter.empty
    ]
    schema: dict[str, Any] = {"type": "object", "properties": parts}
    if needed:
        schema["required"] = needed
    return schema, result or None


def method_of(target: Any) -> tuple[Callable[..., Any], int]:
    """Return the function of an agent, and how many of its parameters are not the agent's."""
    if not inspect.isclass(target):
        return target, 0
    written = inspect.getattr_static(target, "execute")
    body: Callable[..., Any] = target.execute  # type: ignore[attr-defined]  # was checked
    return body, 0 if isinstance(written, staticmethod | classmethod) else 1


def body_of(target: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return what is called of an agent: a function, or the method of an instance made now.

    Raises:
        RegistryError: Making an instance of its class failed.
    """
    if not inspect.isclass(target):
        return target
    try:
        made: Any = target()
        body: Callable[..., Any] = made.execute
    except (Exception, SystemExit) as error:  # which would leave the worker, not the task
        what = "".join(traceback.format_exception_only(error)).strip()
        raise RegistryError(f"agent {name!r}: {target.__name__}() failed: {what}") from error
    return body


def check_class(target: Callable[..., Any], name: str) -> None:
    """Refuse a class of which no instance can be made, as it wants arguments.

    Raises:
        RegistryError: It does.
    """
    try:
        inspect.signature(target).bind()
    except ValueError:  # one written in C says nothing of its arguments
        return
    except TypeError as error:
        raise RegistryError(
            f"agent {name!r}: {target.__name__}() cannot be made without arguments: {error}; "
            "register an instance's method, or give the parameters defaults"
        ) from error


def _hints(body: Callable[..., Any]) -> dict[str, Any]:
    function = getattr(body, "__func__", body)
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation that only a type checker can read
        return {}


def _is_context(annotation: Any) -> bool:
    return getattr(annotation, "__name__", "") == "TaskContext" and str(
        getattr(annotation, "__module__", "")
    ).startswith("dagger_dsl.")
