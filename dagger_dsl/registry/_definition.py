"""`ActionDef`: what is known of an action, and the checks it makes of what goes in and out."""

from __future__ import annotations

import builtins
import types
import typing
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import attrs

from dagger_dsl.errors import (
    InputValidationError,
    OutputError,
)
from dagger_dsl.model.jobs import WAITS
from dagger_dsl.model.policies import (
    CacheStrategy,
    Effects,
    OnFailure,
    RetryPolicy,
    Trigger,
)
from dagger_dsl.model.schema import compile_schema, faults_of
from dagger_dsl.model.streaming import Kind, kind_of_function, may_be_iterator
from dagger_dsl.model.types import accepts_none, misfit, schema_of
from dagger_dsl.model.values import MISSING

if typing.TYPE_CHECKING:
    from dagger_dsl.model.pools import ResourcePool

__all__ = ["ActionDef", "Hints", "Param", "Style"]

Style: TypeAlias = Literal["function", "context", "legacy", "mapping", "workflow"]


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


class Hints:
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
    _hints: Hints | None = attrs.field(default=None, repr=False)

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
        face: The same without wrappers that say nothing of what they wrap: what has its name, its
            signature and its annotations.
        is_async: Whether a call has to be awaited.
        params: The parameters that a node's inputs can fill, in order, without the context's.
        ctx_param: Name of the parameter that gets the `NodeCtx`: annotated so, or named ``ctx``
            without an annotation; None when there is none.
        context_param: Name of the parameter that gets the run's `Context`, likewise.
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
        uses: Pools by the parameter that `fn` lends a resource to for each call; these are none of
            `params`.
        memory: Bytes that a call takes, for a `ResourceTracker`; 0 where it declares none.
        version: Says that the code is another one when it changes; empty leaves that to the code
            itself.
        description, tags: For people.
        doc: First line of the function's docstring.
        module, qualname: Where the function was written; ``<locals>`` is left out.
    """

    name: str
    fn: Callable[..., Any]
    original: Any = attrs.field(repr=False)
    is_async: bool = False
    params: tuple[Param, ...] = ()
    ctx_param: str | None = None
    context_param: str | None = None
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
    uses: Mapping[str, ResourcePool[Any]] = attrs.field(factory=dict)
    memory: int = 0
    keep: bool | None = None
    version: str = ""
    description: str = ""
    doc: str = ""
    tags: tuple[str, ...] = ()
    module: str = ""
    qualname: str = ""
    face: Any = attrs.field(
        default=attrs.Factory(lambda self: self.original, takes_self=True), repr=False
    )
    _hints: Hints = attrs.field(factory=lambda: Hints(None), repr=False)
    _validators: dict[str, Any] = attrs.field(factory=dict, repr=False)
    _kept: dict[str, Any] = attrs.field(factory=dict, repr=False)

    @property
    def failure_name(self) -> str | None:
        """The failure handler's name."""
        return self.failure.name if isinstance(self.failure, ActionDef) else self.failure

    @property
    def fallback_name(self) -> str | None:
        """The fallback's name."""
        return self.fallback.name if isinstance(self.fallback, ActionDef) else self.fallback

    def code_version(self) -> str:
        """Return the version of the code: the explicit one, else a hash of what it does.

        What counts is said in `dagger_dsl.registry._version`.
        """
        from dagger_dsl.registry._version import code_version  # who shares no results pays nothing

        return code_version(self)

    def hints(self) -> Mapping[str, Any]:
        """Return the evaluated annotations, ``return`` included; unknown names read as `Any`."""
        return self._hints.get()

    @property
    def yields(self) -> Kind | None:
        """How the items of its result are read; None where the code speaks of no stream."""
        if "yields" not in self._kept:
            forms = (self.original, self.fn)
            self._kept["yields"] = kind_of_function(forms, lambda: self.hints().get("return", Any))
        found: Kind | None = self._kept["yields"]
        return found

    @property
    def may_iterate(self) -> bool:
        """Whether it may return an iterator that is no generator, by its return annotation."""
        if "may_iterate" not in self._kept:
            forms, returns = (self.original, self.fn), self.hints().get("return", Any)
            makes = kind_of_function(forms, lambda: Any) is not None
            self._kept["may_iterate"] = not makes and may_be_iterator(returns)
        return bool(self._kept["may_iterate"])

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
            self._validators[kind] = compile_schema(schema, f"action {self.name!r}: {kind}_schema")
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
        faults = faults_of(validator, value, "inputs")
        if faults:
            raise InputValidationError(f"action {self.name!r}: {faults}")

    def check_output(self, value: Any) -> None:
        """Check a result against the explicit ``output_schema``, if there is one.

        What a node waits for is no result yet; the answer will be.

        Raises:
            OutputError: It does not fit; the message has the path of each fault.
        """
        validator = self._validator("output")
        if validator is None or isinstance(value, WAITS):
            return
        faults = faults_of(validator, value, "result")
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
