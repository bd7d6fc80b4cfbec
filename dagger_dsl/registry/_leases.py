"""``uses=``: parameters of an action that are lent a pool's resource for each call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from dagger_dsl.errors import ConfigurationError, did_you_mean, shown
from dagger_dsl.model.pools import ResourcePool

__all__ = ["leasing", "read_uses", "uses_of"]

#: The parameter that ``uses=pool`` fills, where an action has several.
_PARAMETER = "resource"


def read_uses(value: Any, what: str) -> ResourcePool[Any] | dict[str, ResourcePool[Any]]:
    """Return what ``uses=`` was given.

    Raises:
        ConfigurationError: It is no pool, and no mapping of parameters to pools.
    """
    if isinstance(value, ResourcePool):
        return value
    if isinstance(value, Mapping) and value:
        found = dict(value)
        if all(isinstance(name, str) and name for name in found) and all(
            isinstance(pool, ResourcePool) for pool in found.values()
        ):
            return found
    raise ConfigurationError(
        f"{what} is a ResourcePool, or a mapping of parameters to pools, such as "
        f"uses={{'conn': pool}}, not {shown(value)}"
    )


def uses_of(
    given: ResourcePool[Any] | Mapping[str, ResourcePool[Any]], names: Sequence[str], action: str
) -> dict[str, ResourcePool[Any]]:
    """Return the pools by the parameter that each fills, in the order in which they are asked.

    Args:
        given: What `read_uses` returned. A pool alone fills the parameter ``resource``, or the only
            one there is.
        names: The action's parameters.
        action: Its name, for errors.

    Raises:
        ConfigurationError: There is no such parameter, or it is not clear which one is meant.
    """
    if isinstance(given, ResourcePool):
        only = _PARAMETER if _PARAMETER in names else names[0] if len(names) == 1 else None
        if only is None:
            listed = ", ".join(map(repr, names)) or "none"
            example = names[-1] if names else "conn"
            raise ConfigurationError(
                f"action {action!r}: uses=pool fills the parameter 'resource', or the only one; it "
                f"has {listed}: write uses={{{example!r}: pool}}"
            )
        given = {only: given}
    for name in given:
        if name not in names:
            raise ConfigurationError(
                f"action {action!r}: uses= fills the parameter {shown(name)}, which it does not "
                f"have{did_you_mean(name, names)}"
            )
    # Everybody asks in the order in which the pools were made: else two actions with the same two
    # pools could each hold one and wait for the other for ever.
    return dict(sorted(given.items(), key=lambda item: item[1].serial))


def leasing(
    fn: Callable[..., Any],
    uses: Mapping[str, ResourcePool[Any]],
    names: Sequence[str],
    is_async: bool,
) -> Callable[..., Any]:
    """Return *fn* with resources for the parameters that it is not given otherwise.

    Args:
        fn: The function; it takes all of *names* by name.
        uses: By parameter.
        names: All of its parameters, in order. Values by position are for the others, unless there
            are more of them.
        is_async: Whether *fn* is an async function.
    """
    others = [name for name in names if name not in uses]

    def by_name(args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        named.update(zip(others if len(args) <= len(others) else names, args, strict=False))
        return named

    def enter(stack: ExitStack, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        found = by_name(args, named)
        for name, pool in uses.items():
            if name not in found:
                found[name] = stack.enter_context(pool.lease())
        return found

    async def enter_async(
        stack: AsyncExitStack, args: tuple[Any, ...], named: dict[str, Any]
    ) -> dict[str, Any]:
        found = by_name(args, named)
        for name, pool in uses.items():
            if name not in found:
                found[name] = await stack.enter_async_context(pool.lease())
        return found

    body = inspect.unwrap(fn)
    if is_async:

        @functools.wraps(fn)
        async def call_async(*args: Any, **named: Any) -> Any:
            async with AsyncExitStack() as stack:
                return await fn(**await enter_async(stack, args, named))

        return call_async
    if inspect.isasyncgenfunction(body):

        @functools.wraps(fn)
        async def iterate_async(*args: Any, **named: Any) -> AsyncIterator[Any]:
            async with AsyncExitStack() as stack:
                async for each in fn(**await enter_async(stack, args, named)):
                    yield each

        return iterate_async
    if inspect.isgeneratorfunction(body):

        @functools.wraps(fn)
        def iterate(*args: Any, **named: Any) -> Generator[Any, Any, Any]:
            with ExitStack() as stack:
                return (yield from fn(**enter(stack, args, named)))

        return iterate

    @functools.wraps(fn)
    def call(*args: Any, **named: Any) -> Any:
        with ExitStack() as stack:
            return fn(**enter(stack, args, named))

    return call
