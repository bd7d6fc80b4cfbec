"""`task_agent`: a function or a class becomes something that tasks can be given to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import attrs

from dagger_dsl.agents.parameters import described
from dagger_dsl.errors import RegistryError, shown
from dagger_dsl.model.policies import RetryPolicy, whole_number
from dagger_dsl.model.rates import Rate, as_rate
from dagger_dsl.model.schema import compile_schema
from dagger_dsl.registry import as_registry, convert_options

if TYPE_CHECKING:
    from datetime import timedelta

    from dagger_dsl.registry import Registry

__all__ = ["AgentDef", "task_agent"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = ("description", "input_schema", "output_schema", "retry", "timeout", "memory")

#: What only agents have.
_OWN: dict[str, Callable[[Any, str], Any]] = {
    "name": lambda value, what: value,
    "registry": lambda value, what: value,
    "rate": as_rate,
    "max_running": whole_number,
}


@attrs.frozen(eq=False)
class AgentDef:
    """What the registry knows of a task agent.

    Attributes:
        name: What tasks call it.
        target: The function, or the class with ``execute``.
        description: For people, and for agents that choose among agents.
        given_input, given_output: JSON Schemas that every input and every result has to fit; None
            where none was given.
        retry: When a task that failed is called again; None for never, unless the task says so.
        timeout: Seconds that one call may take, of tasks that say nothing; None for no limit.
        memory: Bytes that one call takes, for a `ResourceTracker`; 0 where it declares none.
        rate: How often its tasks begin, over all workers of a database; None for no limit.
        max_running: How many of its tasks run at the same time, likewise.

    Raises:
        RegistryError: It cannot be called, or it yields.
        ConfigurationError: A schema of it is none.
    """

    name: str
    target: Callable[..., Any]
    description: str = ""
    given_input: Mapping[str, Any] | None = attrs.field(default=None, alias="input_schema")
    given_output: Mapping[str, Any] | None = attrs.field(default=None, alias="output_schema")
    retry: RetryPolicy | None = None
    timeout: float | None = None
    memory: int = 0
    rate: Rate | None = None
    max_running: int | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse here what would only fail a call, or hold up the tasks of other agents."""
        body = (
            getattr(self.target, "execute", None) if inspect.isclass(self.target) else self.target
        )
        if not callable(body):
            raise RegistryError(
                "a task agent is a function or a class with a method 'execute', not "
                f"{shown(self.target)}"
            )
        for each in (body, inspect.getattr_static(type(body), "__call__", None)):
            if inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
                raise RegistryError(
                    f"agent {self.name!r} yields, and an agent returns one result; return a list, "
                    "or add a task for each item by ctx.add_task()"
                )
        for schema, what in ((self.given_input, "input"), (self.given_output, "output")):
            if schema is not None:
                compile_schema(schema, f"the {what}_schema of agent {self.name!r}")

    @property
    def input_schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema of its input: as given, else what its annotations say; None for anything.

        Inputs are compared with the annotations themselves, which know of more than JSON.
        """
        return self.given_input or described(self.target, self.name)[0]

    @property
    def output_schema(self) -> Mapping[str, Any] | None:
        """The JSON Schema of its result: as given, else what its annotations say.

        Only one that was given is enforced.
        """
        return self.given_output or described(self.target, self.name)[1]


@overload
def task_agent(fn: F, /) -> F: ...
@overload
def task_agent(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    input_schema: Mapping[str, Any] | str | None = None,
    output_schema: Mapping[str, Any] | str | None = None,
    retry: Any = None,
    timeout: float | timedelta | None = None,
    memory: int | None = None,
    rate: Rate | str | None = None,
    max_running: int | None = None,
    registry: Registry | None = None,
) -> Callable[[F], F]: ...
def task_agent(fn: Any = None, /, **options: Any) -> Any:
    """Register a function, or a class with ``execute``, as a task agent, and return it unchanged.

    Its parameters get what they are named for: ``ctx`` (or one annotated `TaskContext`) the
    context, ``task_id``, ``job_id`` and ``task_manager`` those of its task, and ``input``, where it
    is the only other one, all of the task's input. All others are parts of the input, a mapping
    then, by their names: one without a default has to be there, and a part that no parameter takes
    is refused, unless there is a ``**more``.

    Works with and without parentheses. The agent of the same module and qualified name is replaced,
    as running a notebook cell again needs.

    A task that may not begin yet is left in the database, where it holds no worker, and others are
    claimed before it. ``rate`` (a `Rate`, or a text such as ``10/s``) and ``max_running`` count
    over all workers of the database; each worker keeps to what its own agent says. A rate counts
    every call that begins, retries and those after a wait too, by the clocks of the workers' hosts.
    ``memory`` (bytes) is what you declare that a call takes: where its `TaskManager` has a
    `ResourceTracker`, a task is claimed once there is room. Nobody measures what it takes, and
    every process has a tracker of its own.

    Args:
        fn: The function or the class.
        **options: ``name`` in the registry (its own); ``description`` (the first line of its
            docstring); ``input_schema`` and ``output_schema`` (JSON Schemas, as mappings or text;
            those of the annotations by default);
            ``retry`` (a `RetryPolicy`, or a number of extra calls: ``retry=2`` waits 2 s before the
            first of them and 4 s before the second) and ``timeout`` (seconds of a call) of tasks
            that say nothing themselves; ``memory``, ``rate`` and ``max_running`` (see above);
            ``registry`` (where to register; the one in force by default).

    Raises:
        ConfigurationError: An option is unknown or has an impossible value.
        RegistryError: The name is taken by an agent that was written elsewhere, or *fn* cannot be
            an agent, as one that yields.
    """
    fields = convert_options(options, "@task_agent", (*_OPTIONS, *_OWN), _OWN)

    def register(target: Any) -> Any:
        agent = _agent(target, fields)
        as_registry(fields.get("registry")).register_task_agent(agent.name, agent)
        return target

    return register if fn is None else register(fn)


def _agent(target: Any, fields: Mapping[str, Any]) -> AgentDef:
    retry, calls = fields.get("retry"), fields.get("try_count")  # a number is a number of calls
    if retry is None and calls is not None:
        retry = RetryPolicy(max_attempts=calls)
    return AgentDef(
        name=fields["name"] if "name" in fields else getattr(target, "__name__", ""),
        target=target,
        description=fields.get("description") or (inspect.getdoc(target) or "").partition("\n")[0],
        input_schema=fields.get("input_schema"),
        output_schema=fields.get("output_schema"),
        retry=retry,
        timeout=fields.get("timeout"),
        memory=fields.get("memory", 0),
        rate=fields.get("rate"),
        max_running=fields.get("max_running"),
    )
