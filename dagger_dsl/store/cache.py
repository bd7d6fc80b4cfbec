"""`Cache`: one run's values, by namespace and key, and the documents' functions on it.

A namespace is a node's id or one of `inputs`, `global` and `human_input`. In memory the cache holds
the live objects. Whoever makes it may ask to be told of every write first; so the run store records
what `insert_value` writes.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeVar, Union, get_args, get_origin, overload

from dagger_dsl.errors import (
    ConfigurationError,
    EncodingError,
    InputResolutionError,
    TypeMismatch,
    did_you_mean,
)
from dagger_dsl.model.graph import RESERVED_IDS, Input
from dagger_dsl.model.types import misfit, show_type
from dagger_dsl.model.values import MISSING, to_plain, to_shown
from dagger_dsl.store.artifacts import INLINE_BELOW

__all__ = [
    "GLOBAL",
    "HUMAN_INPUT",
    "INPUTS",
    "RESERVED_NAMESPACES",
    "Cache",
    "Namespace",
    "clear_node_cache",
    "get_input",
    "get_value_from_cache",
    "has_value",
    "insert_value",
    "parse_input_from_name",
    "serialize_cache_to_prettyjson",
]

INPUTS: Final = "inputs"
GLOBAL: Final = "global"
HUMAN_INPUT: Final = "human_input"

#: Namespaces that no node can have.
RESERVED_NAMESPACES: Final = RESERVED_IDS

T = TypeVar("T")

#: Told of a write before it is visible: namespace, key, value (`MISSING` when a key goes away).
OnWrite = Callable[[str, str, Any], None]


class Cache:
    """One run's values. Threads may share it; reading never waits.

    Args:
        initial: ``{namespace: {key: value}}`` to begin with; `on_write` is not told of it.
        on_write: Called before each write becomes visible, one write at a time and in their order.
            What it raises, the writer gets, and the value is not written. It may read the cache; it
            must not wait for another thread that writes to it.
    """

    __slots__ = ("_lock", "_on_write", "_values")

    def __init__(
        self,
        initial: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        on_write: OnWrite | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._on_write = on_write
        self._values: dict[str, dict[str, Any]] = {}
        if initial is not None and not isinstance(initial, Mapping):
            raise ConfigurationError(
                f"Cache() takes {{namespace: {{key: value}}}} or None, not {initial!r}"
            )
        for namespace, values in (initial or {}).items():
            if not isinstance(values, Mapping):
                raise ConfigurationError(
                    f"Cache() takes {{namespace: {{key: value}}}}; the value of {namespace!r} is "
                    f"of type {type(values).__name__}"
                )
            for key, value in values.items():
                _check_names(namespace, key)
                self._values.setdefault(namespace, {})[key] = value

    def insert(self, namespace: str, key: str, value: Any) -> None:
        """Write one value, over the one that was there.

        Raises:
            ConfigurationError: A name is no text.
        """
        _check_names(namespace, key)
        with self._lock:
            if self._on_write is not None:
                self._on_write(namespace, key, value)
            values = self._values.get(namespace)
            if values is None:
                values = self._values[namespace] = {}
            values[key] = value

    def get(self, namespace: str, key: str, default: Any = None) -> Any:
        """Return one value, or *default* when it was never written."""
        values = self._values.get(namespace)
        return default if values is None else values.get(key, default)

    def has(self, namespace: str, key: str) -> bool:
        """Return whether a value was written, None included."""
        return self.get(namespace, key, MISSING) is not MISSING

    def namespaces(self) -> list[str]:
        """Return the namespaces that hold values, in the order of their first write."""
        with self._lock:
            return list(self._values)

    def clear(self, namespace: str) -> None:
        """Remove every value of a namespace; one that is not there is no error."""
        with self._lock:
            for key in list(self._values.get(namespace, ())):
                self.discard(namespace, key)

    def discard(self, namespace: str, key: str) -> bool:
        """Remove one value; return whether there was one."""
        with self._lock:
            values = self._values.get(namespace)
            if values is None or key not in values:
                return False
            if self._on_write is not None:
                self._on_write(namespace, key, MISSING)
            del values[key]
            if not values:
                del self._values[namespace]
            return True

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return a copy of the mappings, as they are at one moment; the values are not copied."""
        with self._lock:
            return {namespace: dict(values) for namespace, values in self._values.items()}

    def to_json(self, indent: int | None = 2) -> str:
        """Return all values as JSON for people to read; it never fails on a value.

        Values that JSON does not have are shown in the codec's tagged form, a `Secret` as ``***``,
        a value of 32 KiB or more as ``{"$artifact": <its id>, "bytes": n}``, and what has no stored
        form by its ``repr``.
        """
        import json

        shown = {
            namespace: {key: _shown(value) for key, value in values.items()}
            for namespace, values in self.to_dict().items()
        }
        return json.dumps(shown, indent=indent, ensure_ascii=False, allow_nan=False)

    def __getitem__(self, namespace: str) -> Namespace:
        """Return the values of a namespace, live; it need not hold any yet."""
        return Namespace(self, namespace)

    def __contains__(self, namespace: object) -> bool:
        return namespace in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self.namespaces())

    def __len__(self) -> int:
        return len(self._values)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Cache) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __reduce__(self) -> tuple[Any, ...]:
        return Cache, (self.to_dict(),)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {len(values)}" for name, values in self.to_dict().items())
        return f"<Cache {counts or 'empty'}>"


class Namespace(MutableMapping[str, Any]):
    """The values of one namespace, as a mapping; writes go through the cache."""

    __slots__ = ("_cache", "_name")

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache = cache
        self._name = name

    def _values(self) -> dict[str, Any]:
        return self._cache.to_dict().get(self._name, {})

    def __getitem__(self, key: str) -> Any:
        value = self._cache.get(self._name, key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._cache.insert(self._name, key, value)

    def __delitem__(self, key: str) -> None:
        if not self._cache.discard(self._name, key):
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def __repr__(self) -> str:
        return f"<Namespace {self._name!r}: {', '.join(map(repr, self)) or 'empty'}>"


def _check_names(namespace: str, key: str) -> None:
    for what, name in (("namespace", namespace), ("key", key)):
        if not isinstance(name, str):
            raise ConfigurationError(f"a {what} of the cache is a text, not {name!r}")


def _shown(value: Any) -> Any:
    import orjson

    shown = to_shown(value)
    data = orjson.dumps(shown)
    if len(data) < INLINE_BELOW:
        return shown
    try:
        stored = orjson.dumps(to_plain(value))
    except EncodingError:
        return {"$omitted": "too long to show, and not stored", "bytes": len(data)}
    return {"$artifact": hashlib.sha256(stored).hexdigest(), "bytes": len(stored)}


# --- the documents' functions ---------------------------------------------------------------------


def insert_value(cache: Cache, node_id: str, key: str, value: Any) -> None:
    """Write a value of a node, or of a reserved namespace."""
    cache.insert(node_id, key, value)


def has_value(cache: Cache, node_id: str, key: str) -> bool:
    """Return whether a value was written, None included; an unknown node has none."""
    return cache.has(node_id, key)


def clear_node_cache(cache: Cache, node_id: str) -> None:
    """Remove every value of a node."""
    cache.clear(node_id)


def get_value_from_cache(cache: Cache, node_id: str, key: str, default: Any = None) -> Any:
    """Return a value, or *default* when it was never written."""
    return cache.get(node_id, key, default)


def serialize_cache_to_prettyjson(cache: Cache, indent: int | None = 2) -> str:
    """Return `Cache.to_json`."""
    return cache.to_json(indent)


@overload
def get_input(cache: Cache, node_id: str, key: str) -> Any: ...
@overload
def get_input(cache: Cache, node_id: str, key: str, type_: type[T]) -> T: ...
@overload
def get_input(cache: Cache, node_id: str, key: str, type_: Any) -> Any: ...
def get_input(cache: Cache, node_id: str, key: str, type_: Any = None) -> Any:
    """Return a value that has to be there and, if *type_* is given, has to fit it.

    Args:
        cache: Where to look.
        node_id: The namespace.
        key: The key.
        type_: Any annotation. A bool is no int; an int counts as a float. A dict becomes an
            instance where an attrs class or a dataclass is asked for.

    Raises:
        InputResolutionError: There is no such value; the message lists what is there.
        TypeMismatch: It does not fit; the message names the place inside the value.
    """
    value = cache.get(node_id, key, MISSING)
    path = f"{node_id}.{key}"
    if value is MISSING:
        if node_id in cache:
            hint = did_you_mean(key, cache[node_id])
        else:
            hint = f"; {node_id!r} has no values yet{did_you_mean(node_id, cache)}"
        raise InputResolutionError(f"there is no value {path!r}{hint}")
    return value if type_ is None else _fitting(value, type_, path)


@overload
def parse_input_from_name(cache: Cache, name: str, inputs: Sequence[Input]) -> Any: ...
@overload
def parse_input_from_name(
    cache: Cache, name: str, inputs: Sequence[Input], type_: type[T]
) -> T: ...
@overload
def parse_input_from_name(cache: Cache, name: str, inputs: Sequence[Input], type_: Any) -> Any: ...
def parse_input_from_name(
    cache: Cache, name: str, inputs: Sequence[Input], type_: Any = None
) -> Any:
    """Return what a node's input holds: its literal, or the value it refers to.

    Args:
        cache: Where references are looked up.
        name: Name of the input.
        inputs: The node's inputs.
        type_: Any annotation, as for `get_input`.

    Raises:
        InputResolutionError: The node has no such input, or it refers to a value that is not there.
        TypeMismatch: The value does not fit.
    """
    for given in inputs:
        if given.name == name:
            break
    else:
        names = [given.name for given in inputs]
        raise InputResolutionError(
            f"there is no input {name!r}{did_you_mean(name, names)}"
            + ("" if names else "; this node takes none")
        )
    if given.source is None:
        value = given.value
        return value if type_ is None else _fitting(value, type_, f"input {name!r}")
    try:
        return get_input(cache, *given.source, type_)
    except (InputResolutionError, TypeMismatch) as error:
        raise type(error)(f"input {name!r}: {error}") from error


def _fitting(value: Any, type_: Any, path: str) -> Any:
    fault = misfit(value, type_, path)
    if fault is None:
        return value
    cls = get_origin(type_) or type_
    if type(value) is dict and (
        hasattr(cls, "__attrs_attrs__") or hasattr(cls, "__dataclass_fields__")
    ):
        return _structured(value, type_, path)
    raise TypeMismatch(fault)


def _structured(value: dict[str, Any], type_: Any, path: str) -> Any:
    from cattrs import BaseValidationError, transform_error

    try:
        return _converter().structure(value, type_)
    except BaseValidationError as error:
        faults = "; ".join(transform_error(error, path))
    except Exception as error:  # what the class itself, or a type that cattrs cannot make, says
        faults = f"{path}: {error}"
    raise TypeMismatch(f"{path} cannot become {show_type(type_)}: {faults}")


@functools.cache
def _converter() -> Any:
    """Return a converter that makes instances out of dicts and changes nothing else."""
    import enum

    import attrs
    from cattrs import Converter

    def check(value: Any, type_: Any) -> Any:
        fault = misfit(value, type_)
        if fault is not None:
            raise TypeMismatch(fault)
        return value

    def is_leaf(type_: Any) -> bool:
        if get_origin(type_) in (Union, types.UnionType):
            return all(map(is_leaf, get_args(type_)))
        return (
            isinstance(type_, type)
            and not attrs.has(type_)
            and not hasattr(type_, "__dataclass_fields__")
            and not issubclass(type_, (enum.Enum, list, dict, set, frozenset, tuple))
        )

    converter = Converter(forbid_extra_keys=True)
    for kind in (bool, int, float, str, bytes):
        converter.register_structure_hook(kind, check)
    converter.register_structure_hook_func(is_leaf, check)
    return converter
