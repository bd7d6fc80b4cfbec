"""What can be a hook, which events it wants, and what it may answer."""

from __future__ import annotations

import functools
import inspect
import itertools
import types
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, get_args

import attrs

from dagger_dsl.errors import ConfigurationError, did_you_mean, shown
from dagger_dsl.model.commands import AddNode, Command, NodeSpec
from dagger_dsl.model.context import HookContext
from dagger_dsl.model.events import Event, NodePhase, RunFinished, RunStarted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from dagger_dsl.registry import Registry

__all__ = [
    "ON_CLASS",
    "RUN_EVENTS",
    "EventHook",
    "HookAnswer",
    "HookDef",
    "HookOptions",
    "check_class",
    "check_methods",
    "commands_of",
    "define_hook",
    "hook_definition",
    "hook_options",
    "own_method",
]

#: What a hook may answer; async ones answer it when they are awaited, or yield commands.
HookAnswer: TypeAlias = Command | Iterable[Command] | None

_EVENTS: tuple[type, ...] = get_args(Event)
#: They are told by ``on_start`` and ``on_complete``, and to functions that name them in ``on=``.
RUN_EVENTS: tuple[type, ...] = (RunStarted, RunFinished)
#: The attribute of a class that has its definition; subclasses do not inherit it.
ON_CLASS = "__dagger_hook__"
_COMMANDS: tuple[type, ...] = get_args(Command)


class EventHook:
    """A base for hooks that are objects; each method may be async, and may be left out.

    ``handle`` and ``on_start`` may return commands: one, or an iterable of them (a generator
    counts). They are applied in order, before anything starts that the event makes ready. Under
    every runner a hook sees one event of a run at a time, in whichever thread makes the turn; an
    object that is given to several runs at once guards its own state.

    The values in an event are those of the run, and no copies: a hook that changed one would change
    what later nodes get, so it works on a copy.
    """

    def handle(
        self, ctx: HookContext, event: Event
    ) -> HookAnswer | Awaitable[HookAnswer] | AsyncIterable[Command]:
        """Take an event of a node, or a `CustomEvent`."""
        return None

    def on_start(
        self, ctx: HookContext
    ) -> HookAnswer | Awaitable[HookAnswer] | AsyncIterable[Command]:
        """Take the start of a run, before any node starts; also when it goes on after a resume."""
        return None

    def on_phase(
        self, ctx: HookContext, event: NodePhase
    ) -> HookAnswer | Awaitable[HookAnswer] | AsyncIterable[Command]:
        """Take a phase of an attempt, just before it begins; an async one soon after."""
        return None

    def on_complete(
        self, ctx: HookContext, success: bool
    ) -> HookAnswer | Awaitable[HookAnswer] | AsyncIterable[Command]:
        """Take the end of a run, once, however it ended."""
        return None


class HookOptions(TypedDict, total=False):
    """The options of ``@hook`` that say which events a hook wants, and how it is called."""

    name: str | None
    on: Any  # an event class, several, or a union of them: checkers know no type for a union
    nodes: str | Sequence[str] | None
    dag: str | Sequence[str] | None
    order: int | None
    on_error: Literal["continue", "stop"] | None


@attrs.frozen(eq=False)
class HookDef:
    """A hook with its options.

    Attributes:
        name: What it is called in the registry, in messages and in the record of its commands.
        target: The function, the object, or the class of which every run gets its own object.
        on: Classes of the events it wants; None for all of nodes but `NodePhase`, and
            `CustomEvent`. Phases, and the start and the end of a run, are told to functions that
            ask for them here, and always to the ``on_phase``, ``on_start`` and ``on_complete`` of
            an object.
        nodes: Patterns of ids (`fnmatch`, upper and lower case differ): it gets no events of other
            nodes, and events of no node only if `on` names them. Empty for all.
        dag: Patterns of names; runs of other graphs do not have the hook. Empty for all.
        order: Lower is called first.
        on_error: ``continue`` or ``stop``: what the run does when the hook raises.
        written: The code it comes from, which may be run again; None where that is not known.
    """

    name: str
    target: Any
    on: tuple[type, ...] | None = None
    nodes: tuple[str, ...] = ()
    dag: tuple[str, ...] = ()
    order: int = 0
    on_error: str = "continue"
    written: Any = None


# --- options -------------------------------------------------------------------------------------


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"a hook's name is a text that is not empty, not {shown(value)}")
    return value


def _events(value: Any) -> tuple[type, ...]:
    found: list[type] = []
    for each in value if isinstance(value, (list, tuple, set, frozenset)) else (value,):
        if isinstance(each, types.UnionType):
            found.extend(_events(get_args(each)))
        elif each in _EVENTS:
            found.append(each)
        else:
            names = [kind.__name__ for kind in _EVENTS]
            written = each if isinstance(each, str) else getattr(each, "__name__", None)
            raise ConfigurationError(
                f"@hook: on= takes classes of events, such as on=NodeCompleted, not {shown(each)}"
                f"{did_you_mean(written, names)}"
            )
    if not found:
        raise ConfigurationError("@hook: on= names no event; leave it out to get all of them")
    return tuple(dict.fromkeys(found))


def _patterns(value: Any, what: str) -> tuple[str, ...]:
    listed = (value,) if isinstance(value, str) else value
    if not isinstance(listed, Iterable):
        listed = (value,)
    found = tuple(listed)
    if not found or not all(isinstance(each, str) and each for each in found):
        raise ConfigurationError(
            f"@hook: {what}= is a pattern such as 'extract_*', or a list of them, not "
            f"{shown(value)}"
        )
    return found


def _order(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigurationError(f"@hook: order= is a whole number, not {shown(value)}")
    return value


def _on_error(value: Any) -> str:
    if value not in ("continue", "stop"):
        raise ConfigurationError(f"@hook: on_error= is 'continue' or 'stop', not {shown(value)}")
    return str(value)


_CONVERT: Mapping[str, Callable[[Any], Any]] = {
    "name": _name,
    "on": _events,
    "nodes": functools.partial(_patterns, what="nodes"),
    "dag": functools.partial(_patterns, what="dag"),
    "order": _order,
    "on_error": _on_error,
}


def hook_options(given: Mapping[str, Any], beside: Iterable[str] = ()) -> dict[str, Any]:
    """Return what options mean, by the names of `HookDef`'s fields; None says nothing.

    Args:
        given: As they were written.
        beside: Further names that may be there; they are left out of the answer.

    Raises:
        ConfigurationError: One is unknown (with a suggestion) or has an impossible value.
    """
    others = tuple(beside)
    for name in given:
        if name not in _CONVERT and name not in others:
            hint = did_you_mean(name, (*_CONVERT, *others))
            raise ConfigurationError(f"@hook: there is no option {shown(name)}{hint}")
    found = {
        name: _CONVERT[name](value)
        for name, value in given.items()
        if name in _CONVERT and value is not None
    }
    kinds = found.get("on")
    if kinds is not None and "nodes" in found and all(each in RUN_EVENTS for each in kinds):
        raise ConfigurationError(
            "@hook: nodes= limits events of nodes, and on= asks for none; leave one of them out"
        )
    return found


# --- definitions ---------------------------------------------------------------------------------


def define_hook(target: Any, /, **options: Any) -> HookDef:
    """Return the definition of a hook.

    Args:
        target: A function of ``(ctx, event)``, an object with ``handle``, a class of such objects,
            or something that carries a definition (its options stay where no others are given).
        **options: Those of `HookOptions`.

    Raises:
        ConfigurationError: It cannot be called as a hook, or an option is wrong.
    """
    fields = hook_options(options)
    known = _carried(target)
    if known is not None and all(getattr(known, name) == fields[name] for name in fields):
        return known
    body = target if known is None else known.target
    if "name" in fields or known is None:
        fields["written"] = _written(body, "name" in fields)
    definition = (
        attrs.evolve(known, **fields)
        if known is not None
        else HookDef(target=target, **{"name": _own_name(target), **fields})
    )
    _check(definition)
    return definition


def hook_definition(given: Any, registry: Registry | None = None) -> HookDef:
    """Return the definition that *given* means.

    Args:
        given: What `define_hook` takes, or the name of a hook in *registry*.
        registry: Where names are looked up, parents included.

    Raises:
        ConfigurationError: It is no hook, or there is none of this name.
    """
    if isinstance(given, str):
        known = {} if registry is None else registry.all_hooks()
        if given not in known:
            raise ConfigurationError(
                f"no hook {shown(given)} is registered{did_you_mean(given, known)}"
            )
        return define_hook(known[given], name=given)
    if inspect.isclass(given) and _carried(given) is None:
        raise ConfigurationError(f"a hook is an object, not its class; give {given.__name__}()")
    return define_hook(given)


def _carried(given: Any) -> HookDef | None:
    """Return the definition that *given* is, carries, or has from the decorator of its class."""
    if isinstance(given, HookDef):
        return given
    carried = inspect.getattr_static(given, "definition", None)  # runs no code of a stranger's
    if isinstance(carried, HookDef):
        return carried
    if inspect.isclass(given):
        found = vars(given).get(ON_CLASS)
        return found if isinstance(found, HookDef) else None
    found = vars(type(given)).get(ON_CLASS)
    return attrs.evolve(found, target=given) if isinstance(found, HookDef) else None


def _own_name(target: Any) -> str:
    named = target.func if isinstance(target, functools.partial) else target
    name = getattr(named, "__name__", None)
    return name if isinstance(name, str) and name else type(named).__name__


def _written(target: Any, named: bool) -> Any:
    """Return what says by its module and qualified name that a hook is the same code, run again.

    Two objects, partials or bound methods of one origin are two hooks, unless a name says that they
    are one.
    """
    if not inspect.ismethod(target) and hasattr(target, "__qualname__"):
        return target
    if not named:
        return None
    if inspect.ismethod(target) or isinstance(target, functools.partial):
        return target.__func__ if inspect.ismethod(target) else target.func
    return type(target)


def _check(definition: HookDef) -> None:
    target = definition.target
    is_class = inspect.isclass(target)
    handle = getattr(target, "handle", None if is_class else target)
    if not callable(handle):
        raise ConfigurationError(
            "a hook is a function of (ctx, event) or has handle(ctx, event), not "
            f"{target.__name__ if is_class else shown(target)}"
        )
    if handle is not target:
        _check_asked(definition)
    if not is_class:
        check_methods(definition.name, target)


def _check_asked(definition: HookDef) -> None:
    """Refuse options that would show an object nothing."""
    target, kinds = definition.target, definition.on or ()
    who = f"hook {definition.name!r}"
    for kind, role in zip(RUN_EVENTS, ("on_start", "on_complete"), strict=True):
        if kind in kinds and own_method(target, role) is None:
            raise ConfigurationError(f"{who}: on={kind.__name__} is told to {role}, which it lacks")
    told = RUN_EVENTS if own_method(target, "on_phase") is None else (*RUN_EVENTS, NodePhase)
    filters = any(kind not in told for kind in kinds) or (
        bool(definition.nodes) and NodePhase not in told
    )
    if filters and own_method(target, "handle") is None:
        raise ConfigurationError(
            f"{who}: on= and nodes= choose what handle(ctx, event) gets, which it lacks"
        )


def check_class(definition: HookDef) -> None:
    """Check that a run can make an object of a hook's class.

    Raises:
        ConfigurationError: It needs arguments.
    """
    target = definition.target
    if inspect.isclass(target) and not _accepts(target, ()):
        name = target.__name__
        raise ConfigurationError(
            f"hook {definition.name!r}: every run makes its own {name}(), which needs arguments; "
            f"register one object, hook({name}(...)), or say @hook(register=False) and give "
            f"hooks=[{name}(...)]"
        )


_ROLES: Mapping[str, tuple[str, ...]] = {
    "handle": ("ctx", "event"),
    "on_start": ("ctx",),
    "on_phase": ("ctx", "event"),
    "on_complete": ("ctx", "success"),
}


def check_methods(name: str, target: Any) -> None:
    """Check that a function, or the methods of an object, take what they are called with.

    Raises:
        ConfigurationError: One does not.
    """
    for role, names in _ROLES.items():
        default = target if role == "handle" else None
        method = getattr(target, role, default)
        if callable(method) and not _accepts(method, names):
            expected = f"({', '.join(names)})"
            raise ConfigurationError(
                f"hook {name!r}: {_own_name(method)} is called with {expected}, and its signature "
                f"is {_signature(method)}; a method is given bound to its object"
            )


def own_method(target: Any, role: str) -> Any:
    """Return a method of a hook, or None when it has none but the empty one of `EventHook`."""
    found = getattr(target, role, None)
    if not callable(found):
        return None
    return None if getattr(found, "__func__", found) is getattr(EventHook, role) else found


def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # of code that is no Python
        return None


def _accepts(function: Any, arguments: Iterable[Any]) -> bool:
    """Return whether a function can be called with that many arguments, as far as is known."""
    signature = _signature(function)
    if signature is None:
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


# --- answers -------------------------------------------------------------------------------------


# Commands of one answer; a generator may have no end.
_MOST = 100_000


def commands_of(answer: Any, who: str) -> tuple[Command, ...]:
    """Return the commands that a hook or an action gave.

    A generator runs here, so call this where the errors of *who* belong to it.

    Args:
        answer: None (or False, what ``test and command`` gives) for none, a command, or an
            iterable of commands.
        who: Who gave it, for errors: ``hook 'watch'``.

    Raises:
        ConfigurationError: It is anything else; then there are no commands at all.
    """
    if answer is None or answer is False:
        return ()
    if isinstance(answer, _COMMANDS):
        return (answer,)  # type: ignore[return-value]  # of a union, checked as a tuple
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()  # else Python warns that nobody awaited it
        raise ConfigurationError(
            f"{who} returned {shown(answer)}, which would have to be awaited; make it an async "
            "function, 'async def'"
        )
    if isinstance(answer, (str, bytes, Mapping)) or not isinstance(answer, Iterable):
        raise _no_command(answer, who, "returned")
    found = tuple(itertools.islice(answer, _MOST + 1))
    if len(found) > _MOST:
        raise ConfigurationError(
            f"{who} gave more than {_MOST:,} commands at once; is it a generator without end? "
            "AddNodes takes many nodes as one command"
        )
    for each in found:
        if not isinstance(each, _COMMANDS):
            raise _no_command(each, who, "gave, among its commands,")
    return found


def _no_command(answer: Any, who: str, verb: str) -> ConfigurationError:
    names = ", ".join(kind.__name__ for kind in _COMMANDS)
    hint = f"; wrap it: {AddNode.__name__}(spec)" if isinstance(answer, NodeSpec) else ""
    return ConfigurationError(
        f"{who} {verb} {shown(answer)}; expected are None, a command or a list of commands "
        f"({names}){hint}"
    )
