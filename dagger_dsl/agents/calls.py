"""How an agent is called, with what its parameters ask for; `parameters` says what that is."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.agents.definition import AgentDef
from dagger_dsl.agents.parameters import body_of, check_class, method_of, read_parameters
from dagger_dsl.errors import InputValidationError, OutputError, did_you_mean, shown
from dagger_dsl.model.schema import compile_schema, faults_of
from dagger_dsl.model.types import misfit
from dagger_dsl.registry import is_async

if TYPE_CHECKING:
    from dagger_dsl.agents.context import TaskContext

__all__ = ["Caller"]

#: Parameters that get something else than the input.
_GIVEN: Final[Mapping[str, Callable[[TaskContext], Any]]] = {
    "ctx": lambda ctx: ctx,
    "task_id": lambda ctx: ctx.task_id,
    "job_id": lambda ctx: ctx.job_id,
    "task_manager": lambda ctx: ctx.manager,
}

#: What lets a schema take properties that it does not list by their names.
_OPEN: Final = frozenset(
    ("additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf", "if")
)


class Caller:
    """Calls one agent. A class is made an instance once, by the first call; all calls share it.

    Args:
        agent: Which.

    Attributes:
        agent: The same.
        is_async: Whether it is called on the event loop. What another one returns may have to be
            awaited, too, as the answer of a wrapper around an async function.

    Raises:
        RegistryError: Its parameters cannot be filled.
        ConfigurationError: A schema of it is none.
    """

    def __init__(self, agent: AgentDef) -> None:
        self.agent = agent
        target: Any = agent.target
        function, skip = method_of(target)
        self._body: Callable[..., Any] | None = None if inspect.isclass(target) else function
        if self._body is None:
            check_class(target, agent.name)
        self._making = threading.Lock()
        self.is_async = is_async(function)
        found = read_parameters(function, agent.name, skip=skip)
        self._given = {name: _GIVEN[what] for name, what in found.given.items()}
        self._taken, self._whole, self._open = found.taken, found.whole, found.open
        self._hints = found.hints
        schema = agent.given_input or {}
        told = () if found.taken else found.given  # by these it may ask for its input itself
        checked = not found.open and not told and _OPEN.isdisjoint(schema)
        #: The keys that an input may have; None where any may be there.
        self._keys = {*found.taken, *schema.get("properties", ())} if checked else None
        self._name = name = f"agent {agent.name!r}"
        #: Whether there may be no input at all.
        self._needs_none = self._whole is None and all(
            each.default is not each.empty for each in self._taken.values()
        )
        self._input = _validator(agent.given_input, f"the input_schema of {name}")
        self._output = _validator(agent.given_output, f"the output_schema of {name}")

    def check_input(self, value: Any) -> None:
        """Refuse an input that no call could take.

        Raises:
            InputValidationError: It does not fit; the message names each field.
        """
        if self._input is not None:
            faults = faults_of(self._input, value, "input")
            if faults:
                raise InputValidationError(f"{self._name}: {faults}")
        if self._whole is not None:
            fault = misfit(value, self._hints.get(self._whole, Any), "input")
            if fault is not None:
                raise InputValidationError(f"{self._name}: {fault}")
            return
        self._fields(value)

    def _fields(self, value: Any) -> dict[str, Any]:
        """Return the input's parts by the names of the parameters that take them."""
        if value is None and self._needs_none:
            return {}
        name = self._name
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
        if self._keys is not None and not self._keys.issuperset(fields):
            (unknown, *_) = (each for each in fields if each not in self._keys)
            hint = did_you_mean(unknown, self._keys) if self._keys else "; it takes no input"
            raise InputValidationError(f"{name}: unknown input {shown(unknown)}{hint}")
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
            RegistryError: Making an instance of its class failed; the next call tries it again.
        """
        if self._body is None:
            with self._making:
                if self._body is None:
                    self._body = body_of(self.agent.target, self.agent.name)
        return self._body

    def __call__(self, value: Any, ctx: TaskContext) -> Any:
        """Call it; its answer may have to be awaited, and has to be where `is_async`."""
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
                raise OutputError(f"{self._name}: {faults}")


def _validator(schema: Mapping[str, Any] | None, what: str) -> Any:
    return None if schema is None else compile_schema(schema, what)
