"""Actions by name: what a function is to a graph, and where its name is looked up.

`define` turns a callable (or an object with `name` and `execute`) into an `ActionDef`, which says
how it is called and what was declared about it. A `Registry` holds definitions under their names;
there is one default instance, and ``with Registry():`` puts a fresh one in its place. Nothing here
runs an action, and nothing is ever imported by a name that comes from data.

How an action is called (`ActionDef.style`):

* ``function``: with its inputs by name, plus the `NodeCtx` if it has a parameter for it.
* ``mapping``: with the whole mapping of inputs as its one argument. That holds for a function
  whose only parameter (beside the context) either is called ``input`` or ``inputs`` and has no
  annotation or that of a mapping, or is none of the ``properties`` of an explicit
  ``input_schema``. A node that binds exactly this parameter's name calls it as a plain function.
* ``context``: ``execute(ctx)`` of an object with a `name`; it reads ``ctx.inputs``.
* ``legacy``: ``fn(executor, node, cache)``. A function is legacy when it has exactly three
  parameters and these are named ``executor``, ``node``, ``cache`` (leading underscores do not
  count) or are annotated ``DagExecutor`` (or ``ExecutorView``), ``Node``, ``Cache``.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import threading
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import attrs

from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    InputValidationError,
    OutputError,
    Place,
    Problem,
    RegistryError,
    did_you_mean,
)
from dagger_dsl.model.policies import (
    CacheStrategy,
    Effects,
    OnFailure,
    RetryPolicy,
    Trigger,
    as_enum,
    attempts_from_retries,
    seconds,
)
from dagger_dsl.model.types import accepts_none, misfit, schema_of
from dagger_dsl.model.values import MISSING
from dagger_dsl.retry import as_policy

__all__ = [
    "ActionDef",
    "ActionRegistry",
    "Param",
    "Registry",
    "Style",
    "as_registry",
    "bound_to",
    "check_options",
    "convert_options",
    "current_registry",
    "define",
    "definition_of",
    "is_method",
    "redefine",
    "registry",
    "schema_fault",
]

Style: TypeAlias = Literal["function", "context", "legacy", "mapping"]


# --- annotations ---------------------------------------------------------------------------------


class _Lenient(dict[str, Any]):
    """Names as an annotation sees them; one that is not known means `Any`."""

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        super().__init__()
        self._namespace = namespace

    def __missing__(self, name: str) -> Any:
        if name in self._namespace:
            return self._namespace[name]
        return getattr(builtins, name, Any)


class _Hints:
    """The annotations of a callable, evaluated on first use: by then later names exist too."""

    __slots__ = ("_found", "_target")

    def __init__(self, target: Any) -> None:
        self._target = target
        self._found: Mapping[str, Any] | None = None

    def get(self) -> Mapping[str, Any]:
        if self._found is None:
            self._found = MappingProxyType(_evaluate(self._target))
        return self._found


def _evaluate(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except Exception:  # one bad name must not hide the others: each is tried by itself
        pass
    raw = getattr(target, "__annotations__", None) or {}
    names = _Lenient(getattr(target, "__globals__", {}))
    return {name: _evaluate_one(annotation, names) for name, annotation in raw.items()}


def _evaluate_one(annotation: Any, names: _Lenient) -> Any:
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        # An empty mapping would be replaced by the caller's; the builtins come through `names`.
        return typing.get_type_hints(holder, globalns={"__builtins__": {}}, localns=names)["it"]
    except Exception:
        return Any


# --- definitions ---------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Param:
    """One parameter of an action.

    Attributes:
        name: What a node's input that fills it is called.
        required: Whether it has no default.
        default: Its default, or `MISSING`.
        keyword_only: Whether it cannot be given by position.
    """

    name: str
    required: bool = True
    default: Any = MISSING
    keyword_only: bool = False
    _hints: _Hints | None = attrs.field(default=None, repr=False)

    @property
    def annotation(self) -> Any:
        """The evaluated annotation; `Any` where there is none or its names are not known."""
        return Any if self._hints is None else self._hints.get().get(self.name, Any)

    @property
    def accepts_none(self) -> bool:
        """Whether the annotation says that None is a value."""
        return accepts_none(self.annotation)


@attrs.frozen(eq=False, kw_only=True)
class ActionDef:
    """What is known of an action; `define` makes it.

    Attributes:
        name: In the registry.
        fn: What the engine calls, by keyword or by position in the order of `params`: `style` says
            with what. Awaitable when `is_async`.
        original: What was given to `define`.
        is_async: Whether a call has to be awaited.
        params: The parameters that a node's inputs can fill, in order, without the context's.
        ctx_param: Name of the parameter that gets the `NodeCtx`: annotated so, or named ``ctx``
            without an annotation; None when there is none.
        style: How it is called; see the module.
        takes_any_input: Whether inputs of other names are accepted.
        outputs: Declared output names; empty means the single output ``result``.
        output_docs, input_docs: Descriptions by name.
        input_schema, output_schema: Explicit JSON Schemas, enforced on every call; None where none
            was given.
        timeout: Seconds per attempt.
        try_count: Calls in all.
        retry: Waits, and which errors are worth another call.
        on_failure, trigger, cache_strategy, effects, keep: Taken by nodes that say nothing.
        failure: Name or definition of the failure handler.
        fallback: Name or definition of the action called when the last attempt has failed.
        store: Whether results are recorded.
        version, description, tags: For people, and to notice changes.
        doc: First line of the function's docstring.
        module, qualname: Where the function was written; ``<locals>`` is left out.
    """

    name: str
    fn: Callable[..., Any]
    original: Any = attrs.field(repr=False)
    is_async: bool = False
    params: tuple[Param, ...] = ()
    ctx_param: str | None = None
    style: Style = "function"
    takes_any_input: bool = False
    outputs: tuple[str, ...] = ()
    output_docs: Mapping[str, str] = attrs.field(factory=dict)
    input_docs: Mapping[str, str] = attrs.field(factory=dict)
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    timeout: float | None = None
    try_count: int | None = None
    retry: RetryPolicy | None = None
    on_failure: OnFailure | None = None
    cache_strategy: CacheStrategy | None = None
    failure: str | ActionDef | None = None
    fallback: str | ActionDef | None = None
    trigger: Trigger | None = None
    effects: Effects | None = None
    store: bool = True
    keep: bool | None = None
    version: str = ""
    description: str = ""
    doc: str = ""
    tags: tuple[str, ...] = ()
    module: str = ""
    qualname: str = ""
    _hints: _Hints = attrs.field(factory=lambda: _Hints(None), repr=False)
    _validators: dict[str, Any] = attrs.field(factory=dict, repr=False)

    @property
    def failure_name(self) -> str | None:
        """The failure handler's name."""
        return self.failure.name if isinstance(self.failure, ActionDef) else self.failure

    @property
    def fallback_name(self) -> str | None:
        """The fallback's name."""
        return self.fallback.name if isinstance(self.fallback, ActionDef) else self.fallback

    def hints(self) -> Mapping[str, Any]:
        """Return the evaluated annotations, ``return`` included; unknown names read as `Any`."""
        return self._hints.get()

    def param(self, name: str) -> Param | None:
        """Return one parameter, or None."""
        return next((each for each in self.params if each.name == name), None)

    def whole_mapping(self, names: Collection[str]) -> str | None:
        """Return the parameter that gets the whole mapping for a node with inputs *names*.

        None means that the inputs are given by name.
        """
        if self.style != "mapping" or not self.params:
            return None
        only = self.params[0].name
        return None if len(names) == 1 and only in names else only

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of `fn` for a node's inputs (styles function, mapping)."""
        whole = self.whole_mapping(inputs)
        return dict(inputs) if whole is None else {whole: dict(inputs)}

    def shown_input_schema(self) -> Mapping[str, Any]:
        """Return the explicit JSON Schema of the inputs, else one read off the annotations.

        The latter is for show; nothing is checked against it.
        """
        if self.input_schema is not None:
            return self.input_schema
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {each.name: self._shown(each) for each in self.params},
        }
        required = [each.name for each in self.params if each.required]
        if required:
            schema["required"] = required
        if not self.takes_any_input:
            schema["additionalProperties"] = False
        return schema

    def _shown(self, param: Param) -> dict[str, Any]:
        schema = schema_of(param.annotation)
        if param.name in self.input_docs:
            schema["description"] = self.input_docs[param.name]
        return schema

    def shown_output_schema(self) -> Mapping[str, Any]:
        """Return the explicit JSON Schema of the result, else one read off the annotation."""
        if self.output_schema is not None:
            return self.output_schema
        return schema_of(self.hints().get("return", Any))

    def compile_schemas(self) -> None:
        """Compile the explicit schemas; done by the first check otherwise.

        Raises:
            ConfigurationError: One of them is no JSON Schema.
        """
        for kind in ("input", "output"):
            self._validator(kind)

    def _validator(self, kind: str) -> Any:
        schema = self.input_schema if kind == "input" else self.output_schema
        if schema is None:
            return None
        if kind not in self._validators:
            self._validators[kind] = _compile_schema(schema, f"action {self.name!r}: {kind}_schema")
        return self._validators[kind]

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Check the inputs of one call against the explicit ``input_schema``, if there is one.

        Args:
            inputs: By name. For style ``mapping`` the schema describes what the function gets,
                which is the value itself where a node binds exactly that parameter.

        Raises:
            InputValidationError: They do not fit; the message has the path of each fault.
        """
        validator = self._validator("input")
        if validator is None:
            return
        value: Any = dict(inputs)
        if self.style == "mapping" and self.whole_mapping(inputs) is None:
            value = next(iter(inputs.values()))
        faults = _schema_faults(validator, value, "inputs")
        if faults:
            raise InputValidationError(f"action {self.name!r}: {faults}")

    def check_output(self, value: Any) -> None:
        """Check a result against the explicit ``output_schema``, if there is one.

        Raises:
            OutputError: It does not fit; the message has the path of each fault.
        """
        validator = self._validator("output")
        if validator is None:
            return
        faults = _schema_faults(validator, value, "result")
        if faults:
            raise OutputError(f"action {self.name!r}: {faults}")

    def value_fault(self, name: str, value: Any) -> str | None:
        """Return why *value* does not fit the annotation of parameter *name*, or None."""
        annotation = self.hints().get(name, Any)
        return None if annotation is Any else misfit(value, annotation, name)

    def check_value(self, name: str, value: Any) -> None:
        """Check a value that enters from outside against the annotation of parameter *name*.

        Raises:
            InputValidationError: It does not fit.
        """
        fault = self.value_fault(name, value)
        if fault is not None:
            raise InputValidationError(f"action {self.name!r}: {fault}")


def _refuse_fetch(uri: str) -> Any:
    raise ConfigurationError(f"a schema refers to {uri!r}; schemas are not fetched, write it out")


def _compile_schema(schema: Mapping[str, Any], what: str) -> Any:
    import jsonschema_rs  # only actions with explicit schemas pay for it

    try:
        return jsonschema_rs.validator_for(dict(schema), retriever=_refuse_fetch)
    except Exception as error:  # it raises ValueError, ValidationError and ReferencingError
        raise ConfigurationError(f"{what} is no JSON Schema: {error}") from error


def schema_fault(schema: Mapping[str, Any], value: Any, what: str) -> str | None:
    """Return why *value* does not fit a JSON Schema, with the path of each fault, or None."""
    return _schema_faults(_compile_schema(schema, what), value, what) or None


def _schema_faults(validator: Any, value: Any, what: str) -> str:
    try:
        faults = [
            f"{what}{_path(error.instance_path)}: {error.message}"
            for error in validator.iter_errors(value)
        ]
    except ValueError as error:  # a value outside of JSON, deeper in than anyone said
        return f"{what}: a JSON Schema can check plain JSON values only: {error}"
    shown = "; ".join(faults[:10])
    return shown if len(faults) <= 10 else f"{shown}; and {len(faults) - 10} more"


def _path(parts: Iterable[str | int]) -> str:
    return "".join(f"[{part!r}]" for part in parts)


# --- defining ------------------------------------------------------------------------------------

_ALIASES = {
    "attempts": "try_count",
    "on_error": "failure",
    "cache": "cache_strategy",
}


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{what} is a list of words, not {value!r}")
    words = tuple(value)
    if not all(isinstance(word, str) and word for word in words):
        raise ConfigurationError(f"{what} is a list of words, not {value!r}")
    return words


def _described(value: Any, what: str) -> dict[str, str]:
    """Return names with descriptions: from a list of names, a mapping, or `Output` values."""
    if isinstance(value, Mapping):
        pairs = [(name, text or "") for name, text in value.items()]
    elif isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{what} is a list of names, not {value!r}")
    else:
        pairs = [
            (each, "")
            if isinstance(each, str)
            else (getattr(each, "name", each), getattr(each, "description", ""))
            for each in value
        ]
    for name, _ in pairs:
        if not isinstance(name, str) or not name or "\0" in name:
            raise ConfigurationError(f"{what}: a name is a text that is not empty, not {name!r}")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(f"{what} has {twice!r} twice")
    return dict(pairs)


def _schema_option(value: Any, what: str) -> Mapping[str, Any]:
    if isinstance(value, (str, bytes)):
        import json  # only schemas written as text pay for it

        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{what} is a JSON Schema, a mapping or its JSON text, not {value!r}"
        )
    return MappingProxyType(dict(value))


def _count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(
            f"{what} counts calls, the first included: a whole number of at least 1, not {value!r}"
        )
    return value


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{what} is True or False, not {value!r}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{what} is a text, not {value!r}")
    return value


def _handler(value: Any, what: str) -> str | ActionDef:
    if isinstance(value, str):
        if not value:
            raise ConfigurationError(f"{what} is the name of an action, or an action, not ''")
        return value
    found = definition_of(value)
    if found is not None:
        return found
    if callable(value) or _is_node_action(value):
        return define(value)
    raise ConfigurationError(f"{what} is the name of an action, or an action, not {value!r}")


def _cache(value: Any, what: str) -> CacheStrategy:
    if isinstance(value, CacheStrategy):
        return value
    if isinstance(value, bool):
        return CacheStrategy.ALWAYS if value else CacheStrategy.NEVER
    if isinstance(value, (int, float, timedelta)):
        return CacheStrategy.ttl(value)
    raise ConfigurationError(
        f"{what} is a CacheStrategy, True, False or the seconds a result stays fresh, not {value!r}"
    )


def _described_inputs(value: Any, what: str) -> dict[str, str]:
    return _described(value, what)


_CONVERT: dict[str, Callable[[Any, str], Any]] = {
    "inputs": _described_inputs,
    "outputs": _described,
    "input_schema": _schema_option,
    "output_schema": _schema_option,
    "timeout": lambda value, what: seconds(value, what, zero=False),
    "try_count": _count,
    "retry": lambda value, what: value,
    "max_retries": attempts_from_retries,
    "retry_delay": seconds,
    "retry_backoff": lambda value, what: value,
    "on_failure": lambda value, what: as_enum(OnFailure, value, what),
    "failure": _handler,
    "fallback": _handler,
    "cache_strategy": _cache,
    "trigger": lambda value, what: as_enum(Trigger, value, what),
    "store": _flag,
    "keep": _flag,
    "effects": lambda value, what: as_enum(Effects, value, what),
    "version": _text,
    "tags": _texts,
    "description": _text,
}


def convert_options(
    given: Mapping[str, Any],
    what: str,
    allowed: Collection[str] | None = None,
    extra: Mapping[str, Callable[[Any, str], Any]] | None = None,
) -> dict[str, Any]:
    """Return what options mean, by the names of `ActionDef`'s fields; None says nothing.

    Args:
        given: As they were written, aliases included.
        what: Who takes them, for errors.
        allowed: The options that make sense there; all of an action's by default.
        extra: Further options and what checks their values.

    Raises:
        ConfigurationError: One is unknown, has an impossible value or is given twice.
    """
    known = {**_CONVERT, **(extra or {})}
    if allowed is not None:
        known = {name: known[name] for name in allowed}
    found: dict[str, Any] = {}
    for spelled, value in given.items():
        name = _ALIASES.get(spelled, spelled)
        if name not in known:
            aliases = (alias for alias, field in _ALIASES.items() if field in known)
            hint = did_you_mean(spelled, (*known, *aliases))
            raise ConfigurationError(f"{what}: there is no option {spelled!r}{hint}")
        if value is None:
            continue
        if name in found:
            raise ConfigurationError(f"{what}: {spelled!r} is given twice, once as {name!r}")
        found[name] = known[name](value, f"{what}: {spelled}")
    _fold_retries(found, what)
    if "outputs" in found:
        described = found["outputs"]
        found["outputs"] = tuple(described)
        found["output_docs"] = {name: text for name, text in described.items() if text}
    return found


def check_options(given: Mapping[str, Any]) -> None:
    """Check the options of ``@action`` before there is a function.

    Raises:
        ConfigurationError: As `convert_options`.
    """
    convert_options(given, "@action", extra={"name": _keep, "registry": _keep})


def _keep(value: Any, what: str) -> Any:
    return value


def _fold_retries(found: dict[str, Any], what: str) -> None:
    """Turn the retry options of all documents into `try_count` and one `RetryPolicy`."""
    delay, growth = found.pop("retry_delay", None), found.pop("retry_backoff", None)
    calls = found.pop("max_retries", None)
    retry = found.pop("retry", None)
    if isinstance(retry, int) and not isinstance(retry, bool):
        if calls is not None:
            raise ConfigurationError(f"{what}: give retry= or max_retries=, not both")
        calls, retry = attempts_from_retries(retry, f"{what}: retry"), None
    if calls is not None:
        if "try_count" in found:
            raise ConfigurationError(
                f"{what}: give attempts= (calls in all) or retry= (extra calls), not both"
            )
        found["try_count"] = calls
    if retry is not None:
        if delay is not None or growth is not None:
            raise ConfigurationError(
                f"{what}: retry_delay= and retry_backoff= go with a number of retries; "
                "write them into the RetryPolicy"
            )
        found["retry"] = as_policy(retry, f"{what}: retry")
    elif delay is not None or growth is not None:
        found["retry"] = RetryPolicy(
            base_delay=1.0 if delay is None else delay,
            multiplier=2.0 if growth is None else growth,
        )


def definition_of(obj: Any) -> ActionDef | None:
    """Return the definition that *obj* is or carries (as ``definition``), None when it has none."""
    if isinstance(obj, ActionDef):
        return obj
    carried = inspect.getattr_static(obj, "definition", None)  # runs no code of a stranger's
    return carried if isinstance(carried, ActionDef) else None


def _is_node_action(obj: Any) -> bool:
    return callable(getattr(obj, "execute", None)) and not isinstance(obj, type)


def redefine(definition: ActionDef, name: str | None = None, **options: Any) -> ActionDef:
    """Return *definition* with a new name or other options.

    Raises:
        ConfigurationError: An option is unknown or has an impossible value.
    """
    fields = convert_options(options, f"action {definition.name!r}")
    if "inputs" in fields:
        raise ConfigurationError(
            f"action {definition.name!r}: inputs= goes where the function is first made an action"
        )
    if name is not None:
        fields["name"] = _name(name)
    return attrs.evolve(definition, validators={}, **fields)


def bound_to(definition: ActionDef, instance: Any) -> ActionDef:
    """Return the definition of a method for one instance; the options stay."""
    bound = define(definition.original.__get__(instance), definition.name)
    return attrs.evolve(
        definition, fn=bound.fn, original=bound.original, params=bound.params, hints=bound._hints
    )


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name or len(name) > 200 or "\0" in name:
        raise RegistryError(f"an action's name is a text of 1 to 200 characters, not {name!r}")
    return name


def define(obj: Any, name: str | None = None, **options: Any) -> ActionDef:
    """Return the definition of *obj* as an action.

    Args:
        obj: A function (sync or async), method, partial, callable instance, builtin, class, an
            object with `name` and ``execute(ctx)``, or something that carries a definition.
        name: By default the function's own.
        **options: Those of ``@action``: inputs, outputs, input_schema, output_schema, timeout,
            attempts or try_count, retry, max_retries, retry_delay, retry_backoff, on_failure,
            failure or on_error, fallback, cache, trigger, store, keep, effects, version, tags,
            description.

    Raises:
        RegistryError: It cannot be called as an action, or has no usable name.
        ConfigurationError: An option is unknown or has an impossible value.
    """
    known = definition_of(obj)
    if known is not None:
        return redefine(known, name, **options) if name is not None or options else known
    if _is_node_action(obj):
        return _define_context(obj, name, options)
    if not callable(obj):
        raise RegistryError(
            f"{obj!r} is no action: give a function, or an object with a name and execute(ctx)"
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
    kind = type(obj)
    return ActionDef(
        name=_name(given),
        fn=obj.execute,
        original=obj,
        is_async=_is_async(obj.execute),
        style="context",
        params=tuple(Param(each) for each in docs),
        takes_any_input=True,
        input_docs={each: text for each, text in docs.items() if text},
        module=kind.__module__,
        qualname=_qualname(kind),
        doc=_first_line(kind),
        **fields,
    )


def _define_function(obj: Any, name: str | None, options: Mapping[str, Any]) -> ActionDef:
    target = _target(obj)
    given = _name(name if name is not None else _own_name(obj, target))
    fields = convert_options(options, f"action {given!r}")
    docs = fields.pop("inputs", None)
    hints = _Hints(target)
    found = _read_parameters(obj, target, given, hints, docs, name is not None)
    definition = ActionDef(
        name=given,
        fn=found.fn,
        original=obj,
        is_async=_is_async(found.fn),
        params=found.params,
        ctx_param=found.ctx_param,
        style="legacy" if found.legacy else "function",
        takes_any_input=found.open or found.legacy,
        input_docs={each: text for each, text in (docs or {}).items() if text},
        module=getattr(target, "__module__", None) or "",
        qualname=_qualname(target),
        doc=_first_line(target),
        hints=hints,
        **fields,
    )
    if not found.legacy and _takes_mapping(definition, target):
        return attrs.evolve(definition, style="mapping", takes_any_input=True)
    return definition


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


def _own_name(obj: Any, target: Any) -> str:
    for each in (obj, getattr(obj, "func", None), target):
        found = getattr(each, "__name__", None)
        if isinstance(found, str) and found not in ("<lambda>", "__call__", "__init__"):
            return found
    raise RegistryError(f"{obj!r} has no name of its own: give name=")


def _qualname(target: Any) -> str:
    return str(getattr(target, "__qualname__", "")).replace("<locals>.", "")


def _first_line(target: Any) -> str:
    text = getattr(target, "__doc__", None)
    return text.strip().partition("\n")[0].strip() if isinstance(text, str) else ""


def _is_async(fn: Any) -> bool:
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
    open: bool = False
    legacy: bool = False


def _read_parameters(
    obj: Any,
    target: Any,
    name: str,
    hints: _Hints,
    declared: Mapping[str, str] | None,
    named: bool,
) -> _Parameters:
    try:
        signature = inspect.signature(obj)
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


def _bare_wrapper(
    obj: Any, name: str, declared: Mapping[str, str] | None, named: bool
) -> _Parameters:
    if declared is None or not named:
        raise RegistryError(
            f"{name!r} takes (*args, **kwargs), so its parameters cannot be seen: a decorator "
            "under @action should use functools.wraps; if you cannot change it, give name= and "
            "inputs=[...]"
        )
    return _Parameters(obj, tuple(Param(each) for each in declared))


def _ordinary(
    obj: Any,
    listed: Sequence[inspect.Parameter],
    name: str,
    hints: _Hints,
    declared: Mapping[str, str] | None,
) -> _Parameters:
    params = []
    ctx_param = None
    positional = []
    open_ = False
    for each in listed:
        if each.kind is each.VAR_KEYWORD:
            open_ = True
        elif each.kind is each.VAR_POSITIONAL:
            continue
        elif ctx_param is None and _is_ctx(each):
            ctx_param = each.name
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
    fn = _by_name(obj, tuple(positional)) if positional else _awaiting(obj)
    return _Parameters(fn, tuple(params), ctx_param, open_)


def _by_name(fn: Callable[..., Any], positional: tuple[str, ...]) -> Callable[..., Any]:
    """Wrap a function with positional-only parameters so that it can be called by name."""

    def split(named: dict[str, Any]) -> list[Any]:
        return [named.pop(each) for each in positional if each in named]

    if _is_async(fn):

        async def call_async(*args: Any, **named: Any) -> Any:
            return await fn(*args, *split(named), **named)

        return call_async

    def call(*args: Any, **named: Any) -> Any:
        return fn(*args, *split(named), **named)

    return call


def _awaiting(fn: Any) -> Callable[..., Any]:
    """Make a plain wrapper around an async function awaitable without asking the engine to look."""
    inner = _target(fn)
    if inner is fn or _is_async(fn) or not inspect.iscoroutinefunction(inner):
        return typing.cast(Callable[..., Any], fn)

    async def call(*args: Any, **named: Any) -> Any:
        answer = fn(*args, **named)
        return await answer if inspect.isawaitable(answer) else answer

    return call


def _bare_name(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return str(text).strip("'\" &").rpartition(".")[2]


def _is_ctx(parameter: inspect.Parameter) -> bool:
    if parameter.annotation is parameter.empty:
        return parameter.name == "ctx"
    annotation = parameter.annotation
    parts = annotation.split("|") if isinstance(annotation, str) else typing.get_args(annotation)
    return any(
        _bare_name(part.strip() if isinstance(part, str) else part) == "NodeCtx"
        for part in (parts or (annotation,))
    )


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


# --- the registry --------------------------------------------------------------------------------


class Registry:
    """Actions by name, and plain tables for hooks and agents. May be used from any thread.

    Args:
        parent: Where names are looked up that this registry does not have; it is never written.

    ``with Registry() as r:`` makes it the default of this context until the block ends.
    """

    def __init__(self, parent: Registry | None = None) -> None:
        self.parent = parent
        self._lock = threading.RLock()
        self._actions: dict[str, ActionDef] = {}
        self._tables: dict[str, dict[str, Any]] = {
            "hook": {},
            "task agent": {},
            "pub/sub agent": {},
        }

    def register(
        self, action: Any, name: str | None = None, replace: bool = False, **options: Any
    ) -> ActionDef:
        """Add an action and return its definition.

        Args:
            action: What `define` takes.
            name: By default its own.
            replace: Whether it may take the place of a different action of this name.
            **options: Those of ``@action``.

        Raises:
            RegistryError: The name is taken by an action that was written elsewhere (one of the
                same module and qualified name is replaced, as running a notebook cell again
                needs), or the object is no action. Nothing is changed then.
            ConfigurationError: An option is unknown or has an impossible value.
        """
        definition = define(action, name, **options)
        with self._lock:
            before = self._actions.get(definition.name)
            if before is not None and not replace and not _same_place(before, definition):
                raise RegistryError(
                    f"an action {definition.name!r} is registered already, from "
                    f"{before.module}.{before.qualname}; give another name=, or replace=True"
                )
            self._actions[definition.name] = definition
        return definition

    def register_fn(self, name: str, fn: Any, replace: bool = False) -> ActionDef:
        """Add a function under a name; the module says when its signature counts as legacy.

        Raises:
            RegistryError: As `register`.
        """
        return self.register(fn, name, replace)

    def own(self, name: str) -> ActionDef | None:
        """Return the action of this name if it was registered here and not in a parent."""
        return self._actions.get(name)

    def get(self, name: str) -> ActionDef | None:
        """Return the action of this name, or None."""
        found = self._actions.get(name)
        if found is None and self.parent is not None:
            return self.parent.get(name)
        return found

    def __getitem__(self, name: str) -> ActionDef:
        """Return the action of this name.

        Raises:
            ActionNotFound: There is none; the message suggests one.
        """
        found = self.get(name)
        if found is None:
            raise ActionNotFound(
                (
                    Problem(
                        f"no action {name!r} is registered"
                        f"{did_you_mean(str(name), self.list_actions())}",
                        Place(path="registry"),
                        "unknown-action",
                    ),
                )
            )
        return found

    def contains(self, name: str) -> bool:
        """Return whether there is an action of this name."""
        return self.get(name) is not None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.contains(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.list_actions())

    def __len__(self) -> int:
        return len(self.list_actions())

    def __bool__(self) -> bool:
        return True  # an empty registry is a registry

    def list_actions(self) -> list[str]:
        """Return all names, the parent's included, sorted."""
        with self._lock:
            names = set(self._actions)
        if self.parent is not None:
            names.update(self.parent.list_actions())
        return sorted(names)

    def unregister(self, name: str) -> None:
        """Take an action out; nothing happens when there is none."""
        with self._lock:
            self._actions.pop(name, None)

    def reset(self) -> None:
        """Forget everything that was registered here; the parent keeps its own."""
        with self._lock:
            self._actions.clear()
            for table in self._tables.values():
                table.clear()

    def __enter__(self) -> Registry:
        _current.set((self, _current.get()))
        return self

    def __exit__(self, *_: object) -> None:
        top = _current.get()
        assert top is not None
        _current.set(top[1])

    def __repr__(self) -> str:
        return f"<Registry: {len(self._actions)} actions>"

    def _add(self, table: str, name: str, thing: Any, replace: bool) -> None:
        if not isinstance(name, str) or not name:
            raise RegistryError(f"a {table}'s name is a text that is not empty, not {name!r}")
        with self._lock:
            if name in self._tables[table] and not replace:
                raise RegistryError(f"a {table} {name!r} is registered already; use replace=True")
            self._tables[table][name] = thing

    def register_hook(self, name: str, hook: Any, replace: bool = False) -> None:
        """Keep a hook under a name."""
        self._add("hook", name, hook, replace)

    def register_task_agent(self, name: str, agent: Any, replace: bool = False) -> None:
        """Keep a task agent under a name."""
        self._add("task agent", name, agent, replace)

    def register_pubsub_agent(self, name: str, agent: Any, replace: bool = False) -> None:
        """Keep a pub/sub agent under a name."""
        self._add("pub/sub agent", name, agent, replace)

    @property
    def hooks(self) -> Mapping[str, Any]:
        """Hooks by name."""
        return MappingProxyType(self._tables["hook"])

    @property
    def task_agents(self) -> Mapping[str, Any]:
        """Task agents by name."""
        return MappingProxyType(self._tables["task agent"])

    @property
    def pubsub_agents(self) -> Mapping[str, Any]:
        """Pub/sub agents by name."""
        return MappingProxyType(self._tables["pub/sub agent"])


def _same_place(one: ActionDef, other: ActionDef) -> bool:
    if one is other:
        return True
    return bool(one.qualname) and (one.module, one.qualname) == (other.module, other.qualname)


#: The documents' name.
ActionRegistry = Registry

#: The default instance.
registry = Registry()

# A linked stack: an immutable value needs no token, so blocks may nest in any task or thread.
_Stack: TypeAlias = "tuple[Registry, _Stack] | None"
_current: ContextVar[_Stack] = ContextVar("dagger_dsl_registry", default=None)


def current_registry() -> Registry:
    """Return the registry in force: that of the innermost ``with``, else the default instance."""
    top = _current.get()
    return registry if top is None else top[0]


def as_registry(source: Any) -> Registry:
    """Return the registry that *source* means.

    Args:
        source: A `Registry`; None for the one in force; a mapping of names to actions; or a
            module, of which count its registries and those of its DAGs, its actions and objects
            with `execute`, and the public functions written in it. Names that a mapping or a
            module does not have are looked up in the registry in force.

    Raises:
        RegistryError: It is none of these, or something in a mapping is no action.
    """
    if source is None:
        return current_registry()
    if isinstance(source, Registry):
        return source
    if isinstance(source, Mapping):
        made = Registry(parent=current_registry())
        for name, action in source.items():
            made.register(action, name)
        return made
    if isinstance(source, types.ModuleType):
        return _from_module(source)
    raise RegistryError(
        f"a registry is a Registry, a mapping of names to actions, a module or None, not {source!r}"
    )


def _from_module(module: types.ModuleType) -> Registry:
    parent = current_registry()
    made = Registry(parent=parent)
    for name, thing in vars(module).items():
        if isinstance(thing, types.ModuleType):
            continue
        held = thing if isinstance(thing, Registry) else _held_registry(thing)
        if isinstance(held, Registry):  # of a DAG, too: it knows the actions of its own nodes
            if held is not parent:
                for each in list(held._actions.values()):
                    made.register(each, replace=True)
        elif definition_of(thing) is not None and not isinstance(thing, type):
            made.register(thing, replace=True)
        elif not name.startswith("_") and _belongs(thing, module):
            try:
                made.register(thing, replace=True)
            except RegistryError:
                continue  # a helper that cannot be an action is not asked for by any node
    return made


def _held_registry(thing: Any) -> Any:
    return inspect.getattr_static(thing, "registry", None)


def _belongs(thing: Any, module: types.ModuleType) -> bool:
    if isinstance(thing, type):
        return False
    if _is_node_action(thing):
        return isinstance(getattr(thing, "name", None), str)
    return inspect.isfunction(thing) and thing.__module__ == module.__name__
