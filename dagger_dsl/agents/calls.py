"""How an agent is called: what its function asks for by the names of its parameters.

A parameter named ``ctx``, or annotated `TaskContext`, gets the context; ``task_id``, ``job_id`` and
``task_manager`` get what the documents' agents are given. What is left is the input: all of it for
a parameter named ``input``, else each parameter gets the part of that name.
"""

from __future__ import annotations

import inspect
import threading
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.agents.definition import AgentDef
from dagger_dsl.errors import InputValidationError, OutputError, RegistryError, shown
from dagger_dsl.model.schema import compile_schema, faults_of
from dagger_dsl.model.types import misfit

if TYPE_CHECKING:
    from dagger_dsl.agents.context import TaskContext

__all__ = ["Caller"]

_WHOLE: Final = ("input", "inputs", "_input")

#: Parameters that get something else than the input.
_GIVEN: Final[Mapping[str, Callable[[TaskContext], Any]]] = {
    "ctx": lambda ctx: ctx,
    "task_id": lambda ctx: ctx.task_id,
    "job_id": lambda ctx: ctx.job_id,
    "task_manager": lambda ctx: ctx.manager,
}


class Caller:
    """Calls one agent. A class is made an instance once, by the first call; all calls share it.

    Args:
        agent: Which.

    Attributes:
        agent: The same.
        is_async: Whether its answers are awaited.

    Raises:
        RegistryError: Its parameters cannot be filled.
        ConfigurationError: A schema of it is none.
    """

    def __init__(self, agent: AgentDef) -> None:
        self.agent = agent
        target: Any = agent.target
        self._is_class = inspect.isclass(target)
        self._function: Callable[..., Any] = target.execute if self._is_class else target
        self._body: Callable[..., Any] | None = None if self._is_class else self._function
        self._making = threading.Lock()
        self.is_async = inspect.iscoroutinefunction(self._function)
        self._given: dict[str, Callable[[TaskContext], Any]] = {}
        self._taken: dict[str, inspect.Parameter] = {}
        self._whole: str | None = None
        self._open = False
        self._read_parameters()
        name = f"agent {agent.name!r}"
        self._input = _validator(agent.input_schema, f"the input_schema of {name}")
        self._output = _validator(agent.output_schema, f"the output_schema of {name}")

    def _read_parameters(self) -> None:
        hints = _hints(self._function)
        self._hints = hints
        parameters = list(inspect.signature(self._function).parameters.items())
        if self._is_class and not isinstance(
            inspect.getattr_static(self.agent.target, "execute"), (staticmethod, classmethod)
        ):
            parameters = parameters[1:]  # the instance
        for name, parameter in parameters:
            if parameter.kind is parameter.VAR_KEYWORD:
                self._open = True
            elif parameter.kind is parameter.VAR_POSITIONAL:
                continue
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                raise RegistryError(
                    f"agent {self.agent.name!r}: parameter {name!r} can only be given by its "
                    "position, and agents are called by name; leave the slash out"
                )
            elif _is_context(hints.get(name)):
                self._given[name] = _GIVEN["ctx"]
            elif name in _GIVEN:
                self._given[name] = _GIVEN[name]
            else:
                self._taken[name] = parameter
        if len(self._taken) == 1 and next(iter(self._taken)) in _WHOLE:
            (self._whole,) = self._taken

    def check_input(self, value: Any) -> None:
        """Refuse an input that no call could take.

        Raises:
            InputValidationError: It does not fit; the message names each field.
        """
        name = f"agent {self.agent.name!r}"
        if self._input is not None:
            faults = faults_of(self._input, value, "input")
            if faults:
                raise InputValidationError(f"{name}: {faults}")
        if self._whole is not None:
            fault = misfit(value, self._hints.get(self._whole, Any), "input")
            if fault is not None:
                raise InputValidationError(f"{name}: {fault}")
            return
        self._fields(value)

    def _fields(self, value: Any) -> dict[str, Any]:
        """Return the input's parts by the names of the parameters that take them."""
        name = f"agent {self.agent.name!r}"
        fields = {} if value is None else value
        if not isinstance(fields, Mapping):
            wanted = ", ".join(map(repr, self._taken)) or "nothing"
            raise InputValidationError(
                f"{name} takes {wanted} of a mapping, and its input is {shown(value)}; a parameter "
                "named 'input' gets the whole of it"
            )
        missing = [
            each
            for each, parameter in self._taken.items()
            if each not in fields and parameter.default is parameter.empty
        ]
        if missing:
            raise InputValidationError(f"{name}: the input has no {', '.join(map(repr, missing))}")
        found = {each: fields[each] for each in self._taken if each in fields}
        for each, part in found.items():
            fault = misfit(part, self._hints.get(each, Any), f"input[{each!r}]")
            if fault is not None:
                raise InputValidationError(f"{name}: {fault}")
        if self._open:
            return {**fields, **found}
        return found

    @property
    def body(self) -> Callable[..., Any]:
        """What is called.

        Raises:
            RegistryError: Its class cannot be made an instance.
        """
        if self._body is None:
            with self._making:
                if self._body is None:
                    self._body = _made(self.agent)
        return self._body

    def __call__(self, value: Any, ctx: TaskContext) -> Any:
        """Call it; its answer has to be awaited where `is_async`."""
        given = {name: make(ctx) for name, make in self._given.items()}
        taken = self._fields(value) if self._whole is None else {self._whole: value}
        return self.body(**taken, **given)

    def check_output(self, value: Any) -> None:
        """Refuse a result that is not what the agent promises.

        Raises:
            OutputError: It does not fit; the message names each field.
        """
        if self._output is not None:
            faults = faults_of(self._output, value, "result")
            if faults:
                raise OutputError(f"agent {self.agent.name!r}: {faults}")


def _made(agent: AgentDef) -> Callable[..., Any]:
    target: Any = agent.target
    try:
        made: Any = target()
    except TypeError as error:
        raise RegistryError(
            f"agent {agent.name!r}: {target.__name__}() cannot be made without arguments: {error}; "
            "register an instance's method, or give the parameters defaults"
        ) from error
    body: Callable[..., Any] = made.execute
    return body


def _validator(schema: Mapping[str, Any] | None, what: str) -> Any:
    return None if schema is None else compile_schema(schema, what)


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
