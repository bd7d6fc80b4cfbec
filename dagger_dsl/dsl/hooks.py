"""`hook`: a function or an `EventHook` is shown what happens in runs, and may steer them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, overload

from dagger_dsl.engine.hooks import (
    ON_CLASS,
    EventHook,
    HookDef,
    HookOptions,
    check_class,
    define_hook,
    hook_options,
)
from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.registry import as_registry

if TYPE_CHECKING:
    from typing import Unpack

    from dagger_dsl.registry import Registry

    class DecoratorOptions(HookOptions, total=False):
        """The options of ``@hook``."""

        register: bool | None
        registry: Registry | None

    class Decorator(Protocol):
        """What ``@hook(...)`` with options is."""

        # A class is callable too; the first signature that fits counts.
        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, target: type[E], /
        ) -> type[E]: ...
        @overload
        def __call__(self, target: E, /) -> Hook[..., Any]: ...
        @overload
        def __call__(self, target: Callable[P, R], /) -> Hook[P, R]: ...


__all__ = ["Hook", "hook"]

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=EventHook)


class Hook(Generic[P, R]):
    """A function, or an object with ``handle``, that runs show their events to.

    Calling it calls the function itself, filters or not, and attributes are the function's own.

    Attributes:
        definition: What it wants and how it is called.
    """

    definition: HookDef
    __name__: str

    def __init__(self, definition: HookDef) -> None:
        self.definition = definition
        self._target = definition.target
        if hasattr(self._target, "__qualname__"):
            functools.update_wrapper(self, self._target, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function."""
        answer: R = self._target(*args, **kwargs)
        return answer

    if not TYPE_CHECKING:  # type checkers would take any misspelt name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Return what the function or the object itself has."""
            if name == "_target" or (name.startswith("__") and name.endswith("__")):
                raise AttributeError(name)
            return getattr(self._target, name)

    def __repr__(self) -> str:
        return f"<Hook {self.definition.name!r}>"


@overload
def hook(  # type: ignore[overload-overlap]
    target: type[E], /, **options: Unpack[DecoratorOptions]
) -> type[E]: ...
@overload
def hook(target: E, /, **options: Unpack[DecoratorOptions]) -> Hook[..., Any]: ...
@overload
def hook(target: Callable[P, R], /, **options: Unpack[DecoratorOptions]) -> Hook[P, R]: ...
@overload
def hook(target: None = None, /, **options: Unpack[DecoratorOptions]) -> Decorator: ...
def hook(target: Any = None, /, **options: Any) -> Any:
    """Make something a hook, and register it: every run with this registry has it.

    Works with and without parentheses, on functions of ``(ctx, event)`` and on classes of
    `EventHook`, of which every run makes its own object, and as a plain call on an object. A
    function is returned as a `Hook`, which is still called as the function; an object too; a class
    as itself, and objects of it that are given to a run have the options.

    A function may be async, and may yield. It is shown what happens to nodes, and `CustomEvent`s;
    the start and the end of the run, and the phases of attempts, only if it asks for them:
    ``@hook(on=RunFinished)``, ``@hook(on=NodePhase)``. The ``on_start``, ``on_complete`` and
    ``on_phase`` of an object are always called.

    Args:
        target: The function, class or object.
        **options: ``on`` (one or several classes of events, all by default); ``nodes`` (an id, a
            pattern such as ``extract_*``, or several; upper and lower case differ; events of no
            node then come only if ``on`` names them); ``dag`` (the name of the graph, or patterns);
            ``name`` in the registry (its own); ``order`` (lower first, then as registered, those
            that are given to a run last; 0); ``on_error`` (``continue`` logs what the hook raises
            and goes on, ``stop`` ends the run); ``register`` (False leaves it to
            ``hooks=[...]``); ``registry`` (where to register; the one in force by default).

    Raises:
        ConfigurationError: An option is unknown or has an impossible value, or this cannot be
            called as a hook.
        RegistryError: The name is taken by a hook that was written elsewhere.
    """
    hook_options(options, _BESIDE)  # wrong ones are reported on the decorator's line
    return (lambda made: _make(made, options)) if target is None else _make(target, options)


_BESIDE = ("register", "registry")


def _make(target: Any, options: Mapping[str, Any]) -> Any:
    fields = {name: value for name, value in options.items() if name not in _BESIDE}
    definition = define_hook(target, **fields)
    register = options.get("register")
    if register not in (None, True, False):
        raise ConfigurationError(f"@hook: register= is True or False, not {shown(register)}")
    if register is not False:
        _register(definition, options.get("registry"))
    if not inspect.isclass(target):
        return Hook(definition)
    setattr(target, ON_CLASS, definition)
    return target


def _register(definition: HookDef, registry: Registry | None) -> None:
    if definition.name == "<lambda>":
        raise ConfigurationError("a hook that is registered has a name; give the lambda a name=")
    check_class(definition)
    chosen = as_registry(registry)
    before = chosen.hooks.get(definition.name)
    again = isinstance(before, HookDef) and before.target is definition.target
    chosen.register_hook(definition.name, definition, replace=again)
