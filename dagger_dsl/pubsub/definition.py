"""`pubsub_agent`: a function or a class becomes something that is given messages."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload, runtime_checkable

import attrs

from dagger_dsl.errors import ConfigurationError, RegistryError, shown
from dagger_dsl.model.messages import Message, check_patterns, is_short_text
from dagger_dsl.model.policies import RetryPolicy, whole_number
from dagger_dsl.registry import as_registry, convert_options

if TYPE_CHECKING:
    from dagger_dsl.registry import Registry

__all__ = [
    "HANDLERS",
    "PubSubAgent",
    "PubSubAgentDef",
    "define_agent",
    "pubsub_agent",
    "subscriber",
]

F = TypeVar("F", bound=Callable[..., Any])

#: Methods of a class that are given messages: the documents', and the original's.
HANDLERS = ("handle_message", "process_message")

_SPELLINGS = {"subscribes": "subscribe", "publishes": "publish"}


@runtime_checkable
class PubSubAgent(Protocol):
    """An agent as a class: what it is given, what it gives, and what it does."""

    def subscriptions(self) -> Iterable[str]:
        """Return the channels, or patterns of these, whose messages it is given."""
        ...

    def publications(self) -> Iterable[str]:
        """Return the channels, or patterns of these, on which it publishes."""
        ...

    def handle_message(self, message: Message, bus: Any) -> Any:
        """Do something with one message; it may be async."""
        ...


@attrs.frozen(eq=False)
class PubSubAgentDef:
    """What the registry knows of a pub/sub agent.

    Attributes:
        name: What messages call it; no other agent of a bus has it.
        target: The function, the class, or an object with ``handle_message``.
        subscribe: The channels and patterns whose messages it is given; None where the class says.
        publish: The channels and patterns on which it publishes; None where the class says.
        description: For people.
        input_schema: What the payloads have to be that it is given: a JSON Schema or a type.
        output_schema: What the payloads have to be that it publishes.
        retry: When a message that it failed on is given to it again; None for what the bus says.
        concurrency: How many messages it is given at a time; those of one channel and key never.
        timeout: Seconds that one call may take; None for no limit.
    """

    name: str
    target: Any
    subscribe: tuple[str, ...] | None = None
    publish: tuple[str, ...] | None = None
    description: str = ""
    input_schema: Any = None
    output_schema: Any = None
    retry: RetryPolicy | None = None
    concurrency: int = 1
    timeout: float | None = None


def _schema(value: Any, what: str) -> Any:
    from dagger_dsl.pubsub.schemas import Shape

    Shape(value, what)
    return value


_BESIDE: Mapping[str, Callable[[Any, str], Any]] = {
    "name": lambda value, what: value,
    "registry": lambda value, what: value,
    "input_schema": _schema,
    "output_schema": _schema,
    "subscribe": check_patterns,
    "subscribes": check_patterns,
    "publish": check_patterns,
    "publishes": check_patterns,
    "concurrency": lambda value, what: whole_number(value, what, most=10_000),
}


@overload
def pubsub_agent(fn: F, /) -> F: ...
@overload
def pubsub_agent(
    fn: None = None,
    /,
    *,
    name: str | None = None,
    subscribe: str | Iterable[str] | None = None,
    publish: str | Iterable[str] | None = None,
    subscribes: str | Iterable[str] | None = None,
    publishes: str | Iterable[str] | None = None,
    input_schema: Any = None,
    output_schema: Any = None,
    description: str | None = None,
    retry: Any = None,
    concurrency: int | None = None,
    timeout: float | dt.timedelta | None = None,
    registry: Registry | None = None,
) -> Callable[[F], F]: ...
def pubsub_agent(fn: Any = None, /, **options: Any) -> Any:
    """Register a function or a class as a pub/sub agent, and return it unchanged.

    A function is given ``message`` (or, by any other name, the payload) and, where it asks for it,
    ``bus``, a `MessageContext`. A class has ``handle_message(message, bus)``, and may say by its
    methods ``subscriptions()`` and ``publications()`` what is not said here. Works with and without
    parentheses. What a call returns is published, where it is not None, on the one channel that the
    agent names in *publish*.

    Args:
        fn: The function or the class.
        **options: ``name`` in the registry (its own); ``subscribe`` (or ``subscribes``): channels
            and patterns whose messages it is given; ``publish`` (or ``publishes``): those on which
            it publishes; ``input_schema`` and ``output_schema``: JSON Schemas or types of the
            payloads that it is given, and that it publishes; ``description`` (the first line of its
            docstring); ``retry``: a `RetryPolicy` or a number of extra calls; ``concurrency``: how
            many messages it is given at a time (1); ``timeout``: seconds (or a timedelta) that one
            call may take: past it the call has failed with `NodeTimeout`, an async one is
            cancelled, and a sync one is left behind in its thread, which cannot be stopped;
            ``registry``: where to register (the one in force).

    Raises:
        ConfigurationError: An option is unknown or has an impossible value.
        RegistryError: The name is taken by an agent that was written elsewhere, or *fn* cannot be
            an agent.
    """
    fields = _read(options, "@pubsub_agent")

    def register(target: Any) -> Any:
        agent = define_agent(target, fields)
        as_registry(fields.get("registry")).register_pubsub_agent(agent.name, agent)
        return target

    return register if fn is None else register(fn)


def subscriber(*channels: str, **options: Any) -> Callable[[F], F]:
    """Register an agent by the channels that it is given: ``@subscriber("orders", "bills.*")``.

    Args:
        *channels: Channels and patterns whose messages it is given.
        **options: Those of `pubsub_agent` but ``subscribe``.

    Raises:
        ConfigurationError, RegistryError: As `pubsub_agent`.
    """
    if not channels or not {"subscribe", "subscribes"}.isdisjoint(options):
        raise ConfigurationError(
            'a subscriber names its channels first, and without subscribe=: @subscriber("orders")'
        )
    register: Callable[[F], F] = pubsub_agent(subscribe=channels, **options)
    return register


def _read(options: Mapping[str, Any], what: str) -> dict[str, Any]:
    found = convert_options(options, what, ("description", "retry", "timeout", *_BESIDE), _BESIDE)
    for spelled, name in _SPELLINGS.items():
        if spelled in found:
            if name in found:
                raise ConfigurationError(f"{what}: {spelled!r} is another spelling of {name!r}")
            found[name] = found.pop(spelled)
    calls = found.pop("try_count", None)
    if calls is not None:
        found["retry"] = RetryPolicy(max_attempts=calls)
    return found


def define_agent(target: Any, fields: Mapping[str, Any]) -> PubSubAgentDef:
    """Return the definition of an agent.

    Args:
        target: A function, a class or an object with a method of `HANDLERS`.
        fields: What is said of it beside, by the names of `PubSubAgentDef`.

    Raises:
        RegistryError: It cannot be an agent, or nothing says what it is given.
    """
    handles = any(callable(getattr(target, name, None)) for name in HANDLERS)
    if not handles and (inspect.isclass(target) or not callable(target)):
        raise RegistryError(
            "a pub/sub agent is a function, or a class (or an object of one) with a method "
            f"'handle_message', not {shown(target)}"
        )
    named = target if hasattr(target, "__name__") else type(target)
    name = fields.get("name", getattr(named, "__name__", ""))
    if not name or not is_short_text(name):
        raise RegistryError(f"a pub/sub agent's name is a text that is not empty, not {name!r}")
    if fields.get("subscribe") is None and not callable(getattr(target, "subscriptions", None)):
        raise RegistryError(
            f"nothing says which messages pub/sub agent {name!r} is given; name its channels in "
            "subscribe=, or give its class a method subscriptions(); where another registry has "
            "it, give that one to the bus: PubSubExecutor(registry=...)"
        )
    return PubSubAgentDef(
        name=name,
        target=target,
        subscribe=fields.get("subscribe"),
        publish=fields.get("publish"),
        description=fields.get("description") or (inspect.getdoc(target) or "").partition("\n")[0],
        input_schema=fields.get("input_schema"),
        output_schema=fields.get("output_schema"),
        retry=fields.get("retry"),
        concurrency=fields.get("concurrency", 1),
        timeout=fields.get("timeout"),
    )
