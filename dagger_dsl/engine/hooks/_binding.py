"""The hooks of one run: filtered, in order, each with a name that is its own."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import re
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from dagger_dsl.engine.hooks._definition import (
    EventHook,
    HookDef,
    check_class,
    check_methods,
    commands_of,
    define_hook,
    hook_definition,
    own_method,
)
from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.commands import Command
from dagger_dsl.model.context import HookContext
from dagger_dsl.model.events import (
    Event,
    NodeCompleted,
    NodePhase,
    NodeStarted,
    RunFinished,
    RunStarted,
)
from dagger_dsl.model.states import RunStatus

if TYPE_CHECKING:
    from dagger_dsl.registry import Registry

__all__ = ["BoundHook", "CompositeHook", "at_once", "bind_hooks"]

T = TypeVar("T")
_Call = Callable[[HookContext, Any], Any]
_Wants = Callable[[Event], bool]


@attrs.frozen(eq=False)
class BoundHook:
    """A hook of one run, with everything decided that can be decided before it begins.

    Attributes:
        name: One of its own among the run's hooks, and the same in every process that binds the
            same hooks, so that it can be part of a key.
        handle: Called with ``(ctx, event)`` for the events it `wants`.
        on_start: Called with ``(ctx, RunStarted)``; None when it does not ask for it.
        on_complete: Called with ``(ctx, RunFinished)``; None when it does not ask for it.
        is_async, starts_async, ends_async: Whether the answers of these three are to be awaited.
        wants: Whether it gets an event; None when it gets every one that `handle` may get.
        wants_starts: Whether it may want a `NodeStarted`.
        wants_completions: Whether it may want a `NodeCompleted`.
        on_phase: Called with ``(ctx, NodePhase)``; None when it does not ask for phases.
        phases_async: Whether its answer is to be awaited.
        wants_phase: Whether it gets a phase; None when it gets every one.
        on_error: ``continue`` or ``stop``.
    """

    name: str
    handle: _Call
    on_start: _Call | None = None
    on_complete: _Call | None = None
    is_async: bool = False
    starts_async: bool = False
    ends_async: bool = False
    wants: _Wants | None = None
    wants_starts: bool = True
    wants_completions: bool = True
    on_phase: _Call | None = None
    phases_async: bool = False
    wants_phase: _Wants | None = None
    on_error: str = "continue"

    @property
    def awaits(self) -> bool:
        """Whether any of its answers is to be awaited."""
        return self.is_async or self.starts_async or self.ends_async or self.phases_async

    def reaction(self, event: Event) -> tuple[_Call, bool] | None:
        """Return what is called for an event and whether its answer is to be awaited, or None."""
        if isinstance(event, RunStarted):
            return None if self.on_start is None else (self.on_start, self.starts_async)
        if isinstance(event, RunFinished):
            return None if self.on_complete is None else (self.on_complete, self.ends_async)
        if isinstance(event, NodePhase):
            if self.on_phase is None or not (self.wants_phase is None or self.wants_phase(event)):
                return None
            return self.on_phase, self.phases_async
        if self.wants is None or self.wants(event):
            return self.handle, self.is_async
        return None

    async def ask(self, ctx: HookContext, event: Event) -> tuple[Command, ...]:
        """Show one event, if it is wanted, and return the commands.

        Raises:
            ConfigurationError: The answer is none of commands.
            Exception: Whatever the hook raises.
        """
        found = self.reaction(event)
        if found is None:
            return ()
        call, is_async = found
        answer = call(ctx, event)
        return commands_of(await answer if is_async else answer, f"hook {self.name!r}")


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that awaits nothing, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("it waits for something")


def bind_hooks(given: Sequence[Any], registry: Registry, dag_name: str) -> tuple[BoundHook, ...]:
    """Return the hooks of a run in the order in which they are called.

    They are the registered ones, of parents first, and then the given ones, lower ``order`` before
    higher. One that is there twice with the same filters is called once, in its first place; an
    object of a registered class takes the place of the one that the run would make.

    Args:
        given: Functions of ``(ctx, event)``, objects with ``handle``, decorated hooks, definitions,
            and names of registered hooks.
        registry: Where the run looks up its actions.
        dag_name: Hooks for other graphs are left out.

    Raises:
        ConfigurationError: Something cannot be a hook.
    """
    found = [define_hook(each, name=name) for name, each in registry.all_hooks().items()]
    for each in given:
        _include(found, hook_definition(each, registry), each)
    return _bound(sorted(found, key=lambda each: each.order), dag_name)


def _include(found: list[HookDef], definition: HookDef, given: Any) -> None:
    target = definition.target
    for place, known in enumerate(found):
        if _same(known.target, target) and (
            _same(target, given) or _filters(known) == _filters(definition)
        ):
            return
        if inspect.isclass(known.target) and type(target) is known.target:
            found[place] = attrs.evolve(known, target=target)
            return
    found.append(definition)


def _same(one: Any, other: Any) -> bool:
    """Whether both are one thing; a bound method is another object each time it is asked for."""
    return one is other or (inspect.ismethod(one) and inspect.ismethod(other) and one == other)


def _filters(definition: HookDef) -> tuple[Any, ...]:
    return definition.on, definition.nodes, definition.dag


def _bound(definitions: Iterable[HookDef], dag_name: str | None) -> tuple[BoundHook, ...]:
    names: dict[str, None] = {}
    bound = []
    for each in definitions:
        if dag_name is None or _is_for(each, dag_name):
            bound.append(_bind(each, _free(each.name, names)))
    return tuple(bound)


def _is_for(definition: HookDef, dag_name: str) -> bool:
    matches = _matcher(definition.dag)
    return matches is None or matches(dag_name) is not None


def _free(name: str, taken: dict[str, None]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    taken[free] = None
    return free


@functools.lru_cache(maxsize=256)
def _matcher(patterns: tuple[str, ...]) -> Callable[[str], Any] | None:
    if not patterns:
        return None
    return re.compile("|".join(fnmatch.translate(each) for each in patterns)).match


# --- one hook ------------------------------------------------------------------------------------


def _bind(definition: HookDef, name: str) -> BoundHook:
    target = _made(definition)
    kinds = definition.on
    bound = (
        target.bound() if isinstance(target, CompositeHook) else _bind_plain(target, kinds or ())
    )
    starts = bound.wants_starts and (kinds is None or NodeStarted in kinds)
    return attrs.evolve(
        bound,
        name=name,
        wants=bound.wants or _filter(definition, starts),
        wants_starts=starts,
        wants_completions=bound.wants_completions and (kinds is None or NodeCompleted in kinds),
        wants_phase=_phase_filter(definition),
        on_error=definition.on_error,
    )


def _made(definition: HookDef) -> Any:
    """Return what is called: of a class, a new object."""
    target = definition.target
    if not inspect.isclass(target):
        return target
    check_class(definition)
    try:
        made = target()
    except Exception as error:
        raise ConfigurationError(
            f"hook {definition.name!r}: {target.__name__}() failed: {error!r}"
        ) from error
    check_methods(definition.name, made)
    return made


def _bind_plain(target: Any, kinds: tuple[type, ...]) -> BoundHook:
    is_object = callable(getattr(target, "handle", None))
    deaf = is_object and own_method(target, "handle") is None
    handle, is_async = _awaited(target.handle if is_object else target)
    on_start, starts_async = _start_of(target)
    on_complete, ends_async = _end_of(target)
    on_phase, phases_async = handle, is_async
    if own_method(target, "on_phase") is not None:
        on_phase, phases_async = _awaited(target.on_phase)
    if not is_object and on_start is None and RunStarted in kinds:
        on_start, starts_async = handle, is_async
    if not is_object and on_complete is None and RunFinished in kinds:
        on_complete, ends_async = handle, is_async
    return BoundHook(
        name="",
        handle=handle,
        on_start=on_start,
        on_complete=on_complete,
        is_async=is_async,
        starts_async=starts_async,
        ends_async=ends_async,
        wants=_nothing if deaf else None,
        wants_starts=not deaf and bool(getattr(target, "wants_starts", True)),
        wants_completions=not deaf,
        on_phase=on_phase if on_phase is not handle or NodePhase in kinds else None,
        phases_async=phases_async,
    )


def _start_of(target: Any) -> tuple[_Call | None, bool]:
    method = own_method(target, "on_start")
    if method is None:
        return None, False
    call, is_async = _awaited(method)
    return lambda ctx, _event: call(ctx), is_async


def _end_of(target: Any) -> tuple[_Call | None, bool]:
    method = own_method(target, "on_complete")
    if method is None:
        return None, False
    call, is_async = _awaited(method)
    return lambda ctx, event: call(ctx, event.success), is_async


def _awaited(function: Any) -> tuple[Callable[..., Any], bool]:
    """Return what to call instead of a function, and whether its answer is to be awaited."""
    body = function
    while isinstance(body, functools.partial):
        body = body.func
    bodies = (body, inspect.unwrap(body), type(body).__call__)
    if not any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in bodies
    ):
        return function, False
    if inspect.iscoroutinefunction(body):
        return function, True

    async def call(*arguments: Any) -> Any:
        answer = function(*arguments)
        if isinstance(answer, AsyncIterable):
            return [each async for each in answer]
        return await answer if inspect.isawaitable(answer) else answer

    return call, True


def _nothing(_event: Event) -> bool:
    return False


def _filter(definition: HookDef, starts: bool) -> _Wants | None:
    """Return what says whether an event is wanted, or None when all are."""
    kinds, matches = definition.on, _matcher(definition.nodes)
    if matches is not None:
        return _node_filter(kinds, matches, starts)
    if kinds is not None:
        chosen = kinds if starts else tuple(each for each in kinds if each is not NodeStarted)
        return lambda event: isinstance(event, chosen)
    return None if starts else lambda event: not isinstance(event, NodeStarted)


def _phase_filter(definition: HookDef) -> _Wants | None:
    matches = _matcher(definition.nodes)
    if matches is None:
        return None
    return lambda event: matches(event.node.node_id) is not None  # type: ignore[union-attr]


def _node_filter(
    kinds: tuple[type, ...] | None, matches: Callable[[str], Any], starts: bool
) -> _Wants:
    def wants(event: Event) -> bool:
        if kinds is not None and not isinstance(event, kinds):
            return False
        if not starts and isinstance(event, NodeStarted):
            return False
        node = getattr(event, "node", None)
        return kinds is not None if node is None else matches(node.node_id) is not None

    return wants


class CompositeHook(EventHook):
    """Several hooks as one, asked in the order of the list; their commands count together.

    Each keeps its own filters. It is async when one of them is: then its methods return awaitables.
    When one raises, the others are still asked, and then the error is raised (several as a group):
    there are no commands for that event. A part that is registered on its own, too, is asked twice:
    decorate it with ``register=False``.

    Args:
        hooks: Functions, objects, decorated hooks, classes of these.

    Raises:
        ConfigurationError: One cannot be a hook, or has an ``on_error`` of its own.
    """

    def __init__(self, hooks: Iterable[Any]) -> None:
        if isinstance(hooks, str) or not isinstance(hooks, Iterable):
            raise ConfigurationError(
                f"CompositeHook takes a list of hooks, such as CompositeHook([a, b]), not "
                f"{shown(hooks)}"
            )
        definitions = [hook_definition(each) for each in hooks]
        for each in definitions:
            if each.on_error == "stop":
                raise ConfigurationError(
                    f"hook {each.name!r} cannot stop a run as a part of a CompositeHook: give "
                    "on_error= to the whole, hook(CompositeHook([...]), on_error='stop')"
                )
        self._members = tuple(zip(definitions, _bound(definitions, None), strict=True))
        bound = [member for _, member in self._members]
        self.is_async = any(each.awaits for each in bound)
        self.wants_starts = any(each.wants_starts for each in bound)

    def bound(self) -> BoundHook:
        """Return it as one hook without filters of its own."""
        members = [member for _, member in self._members]
        return BoundHook(
            name="",
            handle=self.handle,
            on_start=self.handle if any(each.on_start for each in members) else None,
            on_complete=self.handle if any(each.on_complete for each in members) else None,
            is_async=self.is_async,
            starts_async=self.is_async,
            ends_async=self.is_async,
            wants_starts=self.wants_starts,
            wants_completions=any(each.wants_completions for each in members),
            on_phase=self.handle if any(each.on_phase for each in members) else None,
            phases_async=self.is_async,
        )

    def handle(
        self, ctx: HookContext, event: Event
    ) -> tuple[Command, ...] | Awaitable[tuple[Command, ...]]:
        """Show any event, those of the run too, to the members that want it."""
        asked = self._ask(ctx, event)
        return asked if self.is_async else at_once(asked)

    def on_start(self, ctx: HookContext) -> tuple[Command, ...] | Awaitable[tuple[Command, ...]]:
        """Show the start of a run."""
        return self.handle(ctx, RunStarted(ctx.run_id, ctx.dag_name))

    def on_complete(
        self, ctx: HookContext, success: bool
    ) -> tuple[Command, ...] | Awaitable[tuple[Command, ...]]:
        """Show the end of a run."""
        status = RunStatus.COMPLETED if success else RunStatus.FAILED
        return self.handle(ctx, RunFinished(ctx.run_id, ctx.dag_name, status, success))

    async def _ask(self, ctx: HookContext, event: Event) -> tuple[Command, ...]:
        commands: list[Command] = []
        errors: list[Exception] = []
        for definition, member in self._members:
            if not _is_for(definition, ctx.dag_name):
                continue
            try:
                commands.extend(await member.ask(ctx, event))
            except Exception as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("several hooks failed", errors)
        return tuple(commands)
