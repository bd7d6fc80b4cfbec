"""How an agent is called: what its function asks for by the names of its parameters.

A parameter named ``message``, or annotated `Message`, gets the message; ``bus`` or ``ctx``, or one
annotated `MessageContext`, gets the context. One other parameter may be there: it gets the payload,
and its annotation says what the payload has to be. Methods are called as the protocol `PubSubAgent`
says: their first parameter gets the message and their second one the context, whatever their names.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dagger_dsl.errors import ConfigurationError, NodeTimeout, OutputError, RegistryError, shown
from dagger_dsl.model.messages import (
    Message,
    check_patterns,
    error_text,
    is_pattern,
    matches,
)
from dagger_dsl.model.types import show_type
from dagger_dsl.pubsub.context import MessageContext
from dagger_dsl.pubsub.definition import HANDLERS, PubSubAgentDef
from dagger_dsl.pubsub.schemas import Shape

__all__ = ["Caller"]

logger = logging.getLogger("dagger_dsl.pubsub")

_BUS: Final = ("bus", "ctx")

#: The commonest lists of parameters, and how to call a function that has them.
_CALLS: Final[dict[tuple[str, ...], Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    ("message",): lambda body: lambda message, ctx: body(message),
    ("message", "bus"): lambda body: body,
    ("bus", "message"): lambda body: lambda message, ctx: body(ctx, message),
    ("payload",): lambda body: lambda message, ctx: body(message.payload),
    ("payload", "bus"): lambda body: lambda message, ctx: body(message.payload, ctx),
    (): lambda body: lambda message, ctx: body(),
}


class Caller:
    """One agent of a bus, made ready to be called. A class is made an instance once.

    Args:
        agent: Which.

    Attributes:
        agent: The same.
        name: Its name.
        subscribe: The channels and patterns whose messages it is given.
        publish: Those on which it publishes; None where nothing says.
        call: What gives it a message: ``call(message, context)``.
        is_async: Whether its answers are awaited.
        wants_context: Whether the context is asked for.
        shapes: What payloads have to be that it is given, each with what to call that in errors.
        hints: The types that it names, by what for: those of its annotations and its schemas.

    Raises:
        RegistryError: Its class cannot be made an instance or fails to say its channels, or its
            parameters cannot be filled.
        ConfigurationError: A schema of it is none, or what its class subscribes to.
    """

    def __init__(self, agent: PubSubAgentDef) -> None:
        self.agent = agent
        self.name = agent.name
        what = f"agent {agent.name!r}"
        made, body, is_method = _body(agent)
        self.is_async = inspect.iscoroutinefunction(body)
        if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
            raise RegistryError(
                f"{what} yields; an agent returns at most one value, and publishes several by "
                "bus.publish()"
            )
        self.subscribe = agent.subscribe or _said(made, "subscriptions", what) or ()
        self.publish = agent.publish
        if self.publish is None:
            self.publish = _said(made, "publications", what)
        if not self.subscribe:
            raise RegistryError(f"{what} subscribes to no channel; name one in subscribe=")
        self.shapes: list[tuple[str, Shape]] = []
        if agent.input_schema is not None:
            known = agent.input_schema
            shape = known if isinstance(known, Shape) else Shape(known, f"{what}: input_schema")
            self.shapes.append((f"the input_schema of {what}", shape))
        self._output = (
            None
            if agent.output_schema is None
            else Shape(agent.output_schema, f"{what}: output_schema")
        )
        hints = _hints(body)
        schemas = {"input_schema": agent.input_schema, "output_schema": agent.output_schema}
        self.hints: Mapping[str, Any] = {**hints, **schemas}
        kinds = self._read_parameters(body, what, hints, is_method=is_method)
        self.wants_context = "bus" in kinds
        self.call = _CALLS[kinds](body)
        if agent.timeout is not None:
            limited = _awaited_within if self.is_async else _called_within
            self.call = limited(self.call, agent.name, agent.timeout)
        self._answers: str | None = None
        if self.publish is not None and len(self.publish) == 1 and not is_pattern(self.publish[0]):
            self._answers = self.publish[0]

    def _read_parameters(
        self, body: Callable[..., Any], what: str, hints: Mapping[str, Any], *, is_method: bool
    ) -> tuple[str, ...]:
        kinds: list[str] = []
        names: list[str] = []
        collects = ""
        try:
            parameters = inspect.signature(body).parameters.values()
        except (TypeError, ValueError) as error:
            raise RegistryError(f"{what} has no signature that can be read: {error}") from error
        for parameter in parameters:
            name, annotation = parameter.name, hints.get(parameter.name, Any)
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                collects = collects or str(parameter.replace(annotation=parameter.empty))
                continue
            if name == "message" or annotation is Message:
                kind = "message"
            elif name in _BUS or annotation is MessageContext:
                kind = "bus"
            elif is_method and parameter.kind is not parameter.KEYWORD_ONLY:
                kind = "bus" if "message" in kinds else "message"
                _check_method(what, name, annotation, kind)
            else:
                kind = "payload"
            if kind in kinds or parameter.kind is parameter.KEYWORD_ONLY:
                if parameter.default is not parameter.empty:
                    continue
                raise RegistryError(
                    f"{what}: nothing fills its parameter {name!r}; an agent is given 'message' "
                    "or its payload, and 'bus'"
                )
            if kind == "payload" and annotation is not Any:
                self.shapes.append((f"parameter {name!r} of {what}", Shape(annotation, name)))
            kinds.append(kind)
            names.append(name)
        if collects and not kinds:
            raise RegistryError(
                f"{what} takes {collects}, which does not say what it is given; name its "
                "parameters, or put @functools.wraps(function) on the wrapper of a function"
            )
        if tuple(kinds) not in _CALLS:
            raise RegistryError(
                f"{what} takes ({', '.join(names)}); a function is given 'message' or, by another "
                "name, the payload, and 'bus' after that where it asks for it, not both of these "
                "or 'bus' alone"
            )
        return tuple(kinds)

    def gets(self, channel: str) -> bool:
        """Whether it is given the messages of a channel."""
        return any(matches(pattern, channel) for pattern in self.subscribe)

    def declares(self, channel: str) -> bool:
        """Whether it names a channel among those on which it publishes."""
        known = isinstance(channel, str)
        return known and any(matches(pattern, channel) for pattern in self.publish or ())

    def input_fault(self, payload: Any) -> str:
        """Return what keeps a payload from being given to it; empty where nothing does."""
        for what, shape in self.shapes:
            fault = shape.fault(payload)
            if fault:
                return f"{what}: {fault}"
        return ""

    def check_output(self, payload: Any) -> None:
        """Refuse a payload that is not what the agent promises to publish.

        Raises:
            OutputError: It does not fit; the message names each field.
        """
        if self._output is not None:
            fault = self._output.fault(payload)
            if fault:
                raise OutputError(f"the output_schema of agent {self.name!r}: {fault}")

    def answers_on(self, value: Any) -> str:
        """Return the channel on which a returned value is published.

        Raises:
            OutputError: Nothing says which one.
        """
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise OutputError(
                f"agent {self.name!r} returned something to be awaited, and is no async function; "
                "write it as `async def`"
            )
        if self._answers is None:
            said = ", ".join(self.publish or ()) or "none"
            raise OutputError(
                f"agent {self.name!r} returned {shown(value, 60)}, and what is returned is "
                f"published on the one channel that publish= names, which has {said}; name one, or "
                "use bus.publish() and return nothing"
            )
        return self._answers


def _body(agent: PubSubAgentDef) -> tuple[Any, Callable[..., Any], bool]:
    """Return what handles messages, the function that does, and whether it is one of `HANDLERS`."""
    made = agent.target
    if inspect.isclass(made):
        try:
            made = made()
        except TypeError as error:
            raise RegistryError(
                f"agent {agent.name!r}: {agent.target.__name__}() cannot be made without "
                f"arguments: {error}; register an instance, or give the parameters defaults"
            ) from error
        except Exception as error:
            raise RegistryError(
                f"agent {agent.name!r}: {agent.target.__name__}() failed: {error_text(error)}"
            ) from error
    for name in HANDLERS:
        body = getattr(made, name, None)
        if callable(body):
            return made, body, True
    if inspect.isroutine(made) or isinstance(made, functools.partial):
        return made, made, False
    # Of an object that can be called, its method says what it takes, and whether it is async.
    return made, made.__call__, False


def _check_method(what: str, name: str, annotation: Any, kind: str) -> None:
    """Refuse a parameter of a method that says it is something else than what it is given."""
    given = Message if kind == "message" else MessageContext
    named = typing.get_origin(annotation) or annotation
    if named in (Any, typing.Union, types.UnionType) or not inspect.isclass(named):
        return
    if named not in given.__mro__ and not getattr(named, "_is_protocol", False):
        raise RegistryError(
            f"{what}: parameter {name!r} of its method is annotated {show_type(annotation)}, and "
            f"is given the {given.__name__}; a method takes (self, message, bus), and "
            "message.payload is what was published"
        )


def _said(made: Any, method: str, what: str) -> tuple[str, ...] | None:
    """Return what a class says of its channels."""
    tell = getattr(made, method, None)
    if not callable(tell):
        return None
    try:
        said = tell()
    except Exception as error:
        raise RegistryError(f"{what}: {method}() failed: {error_text(error)}") from error
    if inspect.isawaitable(said) or not isinstance(said, Iterable):
        raise ConfigurationError(f"{what}: {method}() returns a list of channels")
    return check_patterns(said, f"{what}: {method}()")


def _hints(body: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(body, functools.partial):
        body = body.func
    try:
        return typing.get_type_hints(getattr(body, "__func__", body))
    except Exception:  # an annotation that only a type checker can read
        return {}


def _awaited_within(call: Callable[..., Any], name: str, limit: float) -> Callable[..., Any]:
    async def limited(message: Message, ctx: Any) -> Any:
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        try:
            async with asyncio.timeout_at(end):
                answer = await call(message, ctx)
        except Exception as error:
            if loop.time() < end:
                raise
            raise NodeTimeout(name, limit, "agent") from error
        # A call that blocks the loop, or goes on although it is cancelled, is not interrupted.
        if loop.time() >= end:
            raise NodeTimeout(name, limit, "agent")
        return answer

    return limited


def _called_within(call: Callable[..., Any], name: str, limit: float) -> Callable[..., Any]:
    from dagger_dsl.runners.timed import call_within  # others load nothing of runners

    def late() -> NodeTimeout:
        logger.warning("agent %r is left behind in its thread, which cannot be stopped", name)
        return NodeTimeout(name, limit, "agent")

    def limited(message: Message, ctx: Any) -> Any:
        return call_within(lambda: call(message, ctx), limit, f"dagger-agent-{name}", late)

    return limited
