"""From callables to definitions: signatures, and the style an action is called in."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs

from dagger_dsl.errors import (
    ConfigurationError,
    RegistryError,
    did_you_mean,
    shown,
)
from dagger_dsl.model.policies import CacheStrategy
from dagger_dsl.model.values import MISSING
from dagger_dsl.registry._definition import ActionDef, Hints, Param
from dagger_dsl.registry._options import read_options
from dagger_dsl.registry._wrappers import seen_through

if typing.TYPE_CHECKING:
    from dagger_dsl.model.pools import ResourcePool

__all__ = [
    "bound_to",
    "check_cache",
    "check_options",
    "convert_options",
    "define",
    "definition_of",
    "is_method",
    "is_node_action",
    "redefine",
]


def convert_options(
    given: Mapping[str, Any],
    what: str,
    allowed: Collection[str] | None = None,
    extra: Mapping[str, Callable[[Any, str], Any]] | None = None,
) -> dict[str, Any]:
    """Return what options mean, as `read_options` does, handlers made definitions.

    Raises:
        ConfigurationError: One is unknown, has an impossible value or is given twice.
    """
    found = read_options(given, what, allowed, extra)
    for role in ("failure", "fallback"):
        if role in found:
            found[role] = _handler(found[role], f"{what}: {role}")
    return found


_BESIDE: Mapping[str, Callable[[Any, str], Any]] = dict.fromkeys(
    ("name", "registry"), lambda value, what: value
)


def check_options(given: Mapping[str, Any]) -> None:
    """Check the options of ``@action`` before there is a function.

    Raises:
        ConfigurationError: As `convert_options`.
    """
    convert_options(given, "@action", extra=_BESIDE)


def _handler(value: Any, what: str) -> str | ActionDef:
    if isinstance(value, str):
        if not value:
            raise ConfigurationError(f"{what} is the name of an action, or an action, not ''")
        return value
    found = definition_of(value)
    if found is not None:
        return found
    if callable(value) or is_node_action(value):
        return define(value)
    raise ConfigurationError(f"{what} is the name of an action, or an action, not {shown(value)}")


def definition_of(obj: Any) -> ActionDef | None:
    """Return the definition that *obj* is or carries (as ``definition``), None when it has none."""
    if isinstance(obj, ActionDef):
        return obj
    carried = inspect.getattr_static(obj, "definition", None)  # runs no code of a stranger's
    return carried if isinstance(carried, ActionDef) else None


def is_node_action(obj: Any) -> bool:
    """Return whether *obj* is an object with `execute`, as the documents write actions."""
    return callable(getattr(obj, "execute", None)) and not isinstance(obj, type)


def redefine(definition: ActionDef, name: str | None = None, **options: Any) -> ActionDef:
    """Return *definition* with a new name or other options.

    Raises:
        ConfigurationError: An option is unknown or has an impossible value.
    """
    fields = convert_options(options, f"action {definition.name!r}")
    for option in ("inputs", "uses"):
        if option in fields:
            raise ConfigurationError(
                f"action {definition.name!r}: {option}= goes where the function is first made an "
                "action"
            )
    if name is not None:
        fields["name"] = _name(name)
    return _checked(attrs.evolve(definition, validators={}, kept={}, **fields))


def check_cache(definition: ActionDef, strategy: CacheStrategy | None, what: str) -> None:
    """Check that the inputs which a cache strategy chooses can be inputs of an action.

    Raises:
        ConfigurationError: One cannot; the message starts with *what*.
    """
    if strategy is None or strategy.inputs is None or definition.takes_any_input:
        return
    known = [param.name for param in definition.params]
    for name in strategy.inputs:
        if name not in known:
            raise ConfigurationError(
                f"{what}: the cache strategy chooses the input {name!r}, which the action does not "
                f"take{did_you_mean(name, known)}"
            )


def _checked(definition: ActionDef) -> ActionDef:
    check_cache(definition, definition.cache_strategy, f"action {definition.name!r}")
    return definition


def bound_to(definition: ActionDef, instance: Any) -> ActionDef:
    """Return the definition of a method for one instance; the options stay."""
    uses = {"uses": definition.uses} if definition.uses else {}
    bound = define(definition.original.__get__(instance), definition.name, **uses)
    return attrs.evolve(
        definition,
        fn=bound.fn,
        original=bound.original,
        face=bound.face,
        params=bound.params,
        hints=bound._hints,
        kept={},
    )


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name or len(name) > 200 or "\0" in name:
        raise RegistryError(f"an action's name is a text of 1 to 200 characters, not {shown(name)}")
    return name


def define(obj: Any, name: str | None = None, **options: Any) -> ActionDef:
    """Return the definition of *obj* as an action.

    Args:
        obj: A function (sync or async), method, partial, callable instance, builtin, class, an
            object with `name` and ``execute(ctx)``, or something that carries a definition.
        name: By default the function's own.
        **options: Those of ``@action``: inputs, outputs, input_schema, output_schema, timeout,
            attempts or try_count, retry, max_retries, retry_delay, retry_backoff, on_failure,
            failure or on_error, fallback, cache, trigger, store, keep, uses, memory, effects,
            version, tags, description.

    Raises:
        RegistryError: It cannot be called as an action, or has no usable name.
        ConfigurationError: An option is unknown or has an impossible value.
    """
    known = definition_of(obj)
    if known is not None:
        return redefine(known, name, **options) if name is not None or options else known
    if is_node_action(obj):
        return _define_context(obj, name, options)
    if not callable(obj):
        raise RegistryError(
            f"{shown(obj)} is no action: give a function, or an object with a name and execute(ctx)"
        )
    if isinstance(obj, type) and callable(getattr(obj, "execute", None)):
        raise RegistryError(f"{obj.__name__} is a class; register an instance: {obj.__name__}(...)")
    return _define_function(obj, name, options)


def _define_context(obj: Any, name: str | None, options: Mapping[str, Any]) -> ActionDef:
    given = getattr(obj, "name", None) if name is None else name
    if name is None and callable(given):
        given = given()
    if not isinstance(given, str):
        raise RegistryError(
            f"{type(obj).__name__} has no name: give it an attribute `name`, or name="
        )
    fields = convert_options(options, f"action {given!r}")
    docs = fields.pop("inputs", {})
    if "uses" in fields:
        raise ConfigurationError(
            f"action {given!r}: uses= fills a parameter, and execute(ctx) has no other; lease the "
            "resource in it: with pool.lease() as resource"
        )
    kind = type(obj)
    module, qualname = origin(kind)
    return ActionDef(
        name=_name(given),
        fn=obj.execute,
        original=obj,
        is_async=is_async(obj.execute),
        style="context",
        params=tuple(Param(each) for each in docs),
        takes_any_input=True,
        input_docs={each: text for each, text in docs.items() if text},
        module=module,
        qualname=qualname,
        doc=_first_line(kind),
        **fields,
    )


def _define_function(obj: Any, name: str | None, options: Mapping[str, Any]) -> ActionDef:
    face = seen_through(obj)
    target = _target(face)
    given = _name(name if name is not None else _own_name(obj, face, target))
    fields = convert_options(options, f"action {given!r}")
    docs = fields.pop("inputs", None)
    uses = fields.pop("uses", None)
    hints = Hints(target)
    found = _read_parameters(obj, face, target, given, hints, docs, name is not None)
    if uses is not None:
        found, fields["uses"] = _lending(found, uses, given)
    module, qualname = origin(target)
    definition = ActionDef(
        name=given,
        fn=found.fn,
        original=obj,
        is_async=is_async(found.fn),
        params=found.params,
        ctx_param=found.ctx_param,
        context_param=found.context_param,
        style="legacy" if found.legacy else "function",
        takes_any_input=found.open or found.legacy,
        input_docs={each: text for each, text in (docs or {}).items() if text},
        module=module,
        qualname=qualname,
        doc=_first_line(target),
        face=face,
        hints=hints,
        **fields,
    )
    if not found.legacy and _takes_mapping(definition, target):
        return attrs.evolve(definition, style="mapping", takes_any_input=True)
    return _checked(definition)


def _target(obj: Any) -> Any:
    """Return the function that was written, below partials, bindings and wrappers."""
    for _ in range(100):
        if isinstance(obj, (functools.partial, functools.partialmethod)):
            obj = obj.func
        elif inspect.ismethod(obj):
            obj = obj.__func__
        elif hasattr(obj, "__wrapped__") and not isinstance(obj, type):
            obj = obj.__wrapped__
        else:
            break
    if isinstance(obj, type):
        return vars(obj).get("__init__", obj)
    if not hasattr(obj, "__code__") and not inspect.isbuiltin(obj):
        return inspect.getattr_static(type(obj), "__call__", obj)
    return obj


def _own_name(obj: Any, face: Any, target: Any) -> str:
    # What a bare wrapper is called by its code, all of its kind are called.
    named = obj if face is obj or not _is_called_by_its_code(obj) else None
    for each in (named, face, getattr(face, "func", None), target):
        found = getattr(each, "__name__", None)
        if isinstance(found, str) and found not in ("<lambda>", "__call__", "__init__"):
            return found
    if hasattr(obj, "_as_action"):
        raise RegistryError(
            f"{shown(obj)} is a workflow, not a function: to make it a node of another one, call "
            "it in that one's block, or use outer.add(inner)"
        )
    raise RegistryError(f"{shown(obj)} has no name of its own: give name=")


def _is_called_by_its_code(obj: Any) -> bool:
    code = getattr(obj, "__code__", None)
    return code is None or getattr(obj, "__name__", None) == code.co_name


def origin(target: Any) -> tuple[str, str]:
    """Return where something was written: its module and qualified name without ``<locals>``."""
    qualname = str(getattr(target, "__qualname__", "")).replace("<locals>.", "")
    return getattr(target, "__module__", None) or "", qualname


def _first_line(target: Any) -> str:
    text = getattr(target, "__doc__", None)
    return text.strip().partition("\n")[0].strip() if isinstance(text, str) else ""


def is_async(fn: Any) -> bool:
    """Return whether a callable is seen to be async: a function, or an object that is called."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
        inspect.getattr_static(type(fn), "__call__", None)
    )


def is_method(obj: Any) -> bool:
    """Return whether *obj* is a function of a class body that still lacks its instance."""
    if not inspect.isfunction(obj):
        return False
    outer, _, _ = obj.__qualname__.rpartition(".")
    names = obj.__code__.co_varnames[: obj.__code__.co_argcount]
    return bool(outer) and not outer.endswith("<locals>") and names[:1] == ("self",)


@attrs.frozen
class _Parameters:
    fn: Callable[..., Any]
    params: tuple[Param, ...] = ()
    ctx_param: str | None = None
    context_param: str | None = None
    open: bool = False
    legacy: bool = False


def _read_parameters(
    obj: Any,
    face: Any,
    target: Any,
    name: str,
    hints: Hints,
    declared: Mapping[str, str] | None,
    named: bool,
) -> _Parameters:
    try:
        signature = inspect.signature(face)
    except (ValueError, TypeError):
        if declared is None:
            raise RegistryError(
                f"the signature of {name!r} cannot be read: say what it takes with inputs=[...]"
            ) from None
        return _Parameters(obj, tuple(Param(each) for each in declared))
    listed = list(signature.parameters.values())
    kinds = {each.kind for each in listed}
    if kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} or kinds == {
        inspect.Parameter.VAR_POSITIONAL
    }:
        return _bare_wrapper(obj, name, declared, named)
    if _is_legacy(listed):
        return _Parameters(obj, legacy=True)
    if is_method(target) and target is obj:
        listed = listed[1:]
    return _ordinary(obj, listed, name, hints, declared)


def _lending(
    found: _Parameters, uses: Any, name: str
) -> tuple[_Parameters, Mapping[str, ResourcePool[Any]]]:
    """Take out the parameters that a pool fills, and have it fill them."""
    from dagger_dsl.registry._leases import leasing, uses_of

    names = [each.name for each in found.params]
    pools = uses_of(uses, names, name)
    fn = leasing(found.fn, pools, names, is_async(found.fn))
    params = tuple(each for each in found.params if each.name not in pools)
    return attrs.evolve(found, fn=fn, params=params), pools


def _bare_wrapper(
    obj: Any, name: str, declared: Mapping[str, str] | None, named: bool
) -> _Parameters:
    if declared is None or not named:
        raise RegistryError(
            f"{name!r} takes (*args, **kwargs), and its code does not tell which function gets "
            "them, so its parameters cannot be seen: a decorator under @action should use "
            "functools.wraps; if you cannot change it, give name= and inputs=[...]"
        )
    return _Parameters(obj, tuple(Param(each) for each in declared))


def _ordinary(
    obj: Any,
    listed: Sequence[inspect.Parameter],
    name: str,
    hints: Hints,
    declared: Mapping[str, str] | None,
) -> _Parameters:
    params = []
    injected: dict[str, str] = {}  # by what is asked for, the parameter that gets it
    positional = []
    open_ = False
    for each in listed:
        if each.kind is each.VAR_KEYWORD:
            open_ = True
        elif each.kind is each.VAR_POSITIONAL:
            continue
        elif (asked := _asks_for(each)) is not None and asked not in injected:
            injected[asked] = each.name
            if each.kind is each.POSITIONAL_ONLY:
                positional.append(each.name)
        else:
            if each.kind is each.POSITIONAL_ONLY:
                positional.append(each.name)
            required = each.default is each.empty
            params.append(
                Param(
                    each.name,
                    required,
                    MISSING if required else each.default,
                    each.kind is each.KEYWORD_ONLY,
                    hints,
                )
            )
    names = {each.name for each in params}
    for each_name in declared or ():
        if each_name not in names:
            if not open_:
                raise ConfigurationError(
                    f"action {name!r} has no parameter {each_name!r}"
                    f"{did_you_mean(each_name, names)}"
                )
            params.append(Param(each_name, hints=hints))
    fn = _awaiting(obj)
    if positional:
        fn = _by_name(fn, tuple(positional))
    return _Parameters(fn, tuple(params), injected.get("ctx"), injected.get("context"), open_)


def _by_name(fn: Callable[..., Any], positional: tuple[str, ...]) -> Callable[..., Any]:
    """Wrap a function with positional-only parameters so that it can be called by name."""

    if is_async(fn):

        async def call_async(*args: Any, **named: Any) -> Any:
            return await _call_split(fn, positional, *args, **named)

        return call_async
    return functools.partial(_call_split, fn, positional)  # it can be pickled by name


def _call_split(
    fn: Callable[..., Any], positional: tuple[str, ...], /, *args: Any, **named: Any
) -> Any:
    first = [named.pop(each) for each in positional if each in named]
    return fn(*args, *first, **named)


def _awaiting(fn: Any) -> Callable[..., Any]:
    """Make a plain wrapper around an async function awaitable without asking the engine to look."""
    inner = _target(seen_through(fn))
    if inner is fn or is_async(fn) or not inspect.iscoroutinefunction(inner):
        return typing.cast(Callable[..., Any], fn)

    async def call(*args: Any, **named: Any) -> Any:
        answer = fn(*args, **named)
        return await answer if inspect.isawaitable(answer) else answer

    return call


def _bare_name(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return str(text).strip("'\" &").rpartition(".")[2]


#: What a parameter gets from the engine: by its annotation, or by its name without one.
_INJECTED = {"NodeCtx": "ctx", "Context": "context", "FSMContext": "context"}


def _asks_for(parameter: inspect.Parameter) -> str | None:
    """Return what a parameter gets from the engine, or None for a node's input."""
    if parameter.annotation is parameter.empty:
        return parameter.name if parameter.name in _INJECTED.values() else None
    annotation = parameter.annotation
    parts = annotation.split("|") if isinstance(annotation, str) else typing.get_args(annotation)
    names = (
        _bare_name(part.strip() if isinstance(part, str) else part)
        for part in (parts or (annotation,))
    )
    return next((_INJECTED[name] for name in names if name in _INJECTED), None)


_LEGACY_NAMES = ("executor", "node", "cache")
_LEGACY_TYPES = ({"DagExecutor", "ExecutorView"}, {"Node"}, {"Cache"})


def _is_legacy(listed: Sequence[inspect.Parameter]) -> bool:
    if len(listed) != 3 or any(each.default is not each.empty for each in listed):
        return False
    if any(each.kind is not each.POSITIONAL_OR_KEYWORD for each in listed):
        return False
    if tuple(each.name.lstrip("_") for each in listed) == _LEGACY_NAMES:
        return True
    return all(
        _bare_name(each.annotation) in kinds
        for each, kinds in zip(listed, _LEGACY_TYPES, strict=True)
    )


def _takes_mapping(definition: ActionDef, target: Any) -> bool:
    if len(definition.params) != 1 or definition.takes_any_input:
        return False
    (only,) = definition.params
    schema = definition.input_schema
    if schema is not None:
        properties = schema.get("properties")
        if isinstance(properties, Mapping) and properties:
            return only.name not in properties
    if only.name not in ("input", "inputs"):
        return False
    raw = getattr(target, "__annotations__", {}).get(only.name)
    text = (raw if isinstance(raw, str) else getattr(raw, "__name__", str(raw))).partition("[")[0]
    return raw is None or text.strip("'\" ").rpartition(".")[2] in _MAPPINGS


_MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping", "Any", "JSON", "Value"}
