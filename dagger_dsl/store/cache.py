"""`Cache`: one run's values, by namespace and key, and the documents' functions on it.

A namespace is a node's id or one of `inputs`, `global` and `human_input`. In memory the cache holds
the live objects. Whoever makes it may ask to be told of every write first; so the run store records
what `insert_value` writes. Where a `CacheConfig` limits what is kept in memory, values that left it
are read back from whoever keeps them.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import time
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
from dagger_dsl.model._limits import CacheConfig, EvictionPolicy, Ledger, estimate_size
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
    "CacheConfig",
    "EvictionPolicy",
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

#: Asked for a value that is not in memory: namespace and key; `MISSING` when nobody has it.
ReadBack = Callable[[str, str], Any]


class Cache:
    """One run's values. Threads may share it; reading never waits, unless there are limits.

    With a `CacheConfig`, values leave memory when there is no more room, or when they get too old;
    the database keeps them. Where somebody is told of writes or can be asked, the names of such
    values stay in the cache, and their values come back when they are read. Otherwise they are
    gone.

    Args:
        initial: ``{namespace: {key: value}}`` to begin with; `on_write` is not told of it.
        config: What is kept in memory; None keeps everything.
        on_write: Called before each write becomes visible, one write at a time and in their order.
            What it raises, the writer gets, and the value is not written. It may read the cache; it
            must not wait for another thread that writes to it.
        read_back: Asked for values that are not in memory, by any thread that reads one and by
            several at the same time. It has to know of every write that `on_write` was told of.
        clock: Seconds that never go back, for `CacheConfig.ttl`.

    Raises:
        ConfigurationError: *initial* or *config* is something else.
    """

    __slots__ = ("_all", "_config", "_limits", "_lock", "_on_write", "_values")

    def __init__(
        self,
        initial: Mapping[str, Mapping[str, Any]] | None = None,
        config: CacheConfig | None = None,
        *,
        on_write: OnWrite | None = None,
        read_back: ReadBack | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.RLock()
        self._on_write = on_write
        self._all: dict[str, dict[str, Any]] = {}
        # What is read without a question asked: nothing where there are limits.
        self._values = self._all
        if config is not None and not isinstance(config, CacheConfig):
            raise ConfigurationError(f"config is a CacheConfig or None, not {config!r}")
        self._config = config
        self._limits: _Limits | None = None
        if config is not None or read_back is not None:
            self._limits = _Limits(self._all, config, on_write is not None, read_back, clock)
            self._values = {}
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
                self._all.setdefault(namespace, {})[key] = value
                if self._limits is not None:
                    self._limits.written(namespace, key, value)

    @classmethod
    def with_config(cls, config: CacheConfig) -> Cache:
        """Return an empty cache with limits.

        Raises:
            ConfigurationError: It is no `CacheConfig`.
        """
        return cls(None, config)

    def insert(self, namespace: str, key: str, value: Any) -> None:
        """Write one value, over the one that was there.

        Raises:
            ConfigurationError: A name is no text.
        """
        _check_names(namespace, key)
        with self._lock:
            if self._on_write is not None:
                self._on_write(namespace, key, value)
            values = self._all.get(namespace)
            if values is None:
                values = self._all[namespace] = {}
            values[key] = value
            if self._limits is not None:
                self._limits.written(namespace, key, value)

    def get(self, namespace: str, key: str, default: Any = None) -> Any:
        """Return one value, or *default* when it was never written."""
        values = self._values.get(namespace)
        if values is not None:
            return values.get(key, default)
        if self._limits is None:
            return default
        found = self._limits.read(self._lock, namespace, key)
        return default if found is MISSING else found

    def has(self, namespace: str, key: str) -> bool:
        """Return whether a value was written, None included."""
        return self.get(namespace, key, MISSING) is not MISSING

    def namespaces(self) -> list[str]:
        """Return the namespaces that hold values, in the order of their first write."""
        with self._lock:
            self._expire()
            return list(self._all)

    def keys_of(self, namespace: str) -> list[str]:
        """Return the keys of a namespace, in the order of their first write.

        Of values that only `read_back` knows, those that were not read yet are not among them.
        """
        if self._limits is None:
            return list(self.to_dict().get(namespace, ()))
        with self._lock:
            self._expire()
            return list(self._all.get(namespace, ()))

    def _expire(self) -> None:
        if self._limits is not None:
            self._limits.expire()

    def clear(self, namespace: str) -> None:
        """Remove every value of a namespace (see `keys_of`); one that is not there is no error."""
        with self._lock:
            for key in list(self._all.get(namespace, ())):
                self.discard(namespace, key)

    def discard(self, namespace: str, key: str) -> bool:
        """Remove one value; return whether there was one."""
        if self._limits is not None:
            self._limits.read(self._lock, namespace, key)  # perhaps only others know it
        with self._lock:
            values = self._all.get(namespace)
            if values is None or key not in values:
                return False
            if self._on_write is not None:
                self._on_write(namespace, key, MISSING)
            del values[key]
            if not values:
                del self._all[namespace]
            if self._limits is not None:
                self._limits.removed(namespace, key)
            return True

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return a copy of the mappings, as they are at one moment; the values are not copied.

        Values that left memory are read back for it one after the other, and do not stay.
        """
        with self._lock:
            self._expire()
            found = {namespace: dict(values) for namespace, values in self._all.items()}
        return found if self._limits is None else self._limits.completed(found)

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
        return namespace in (self._all if self._limits is None else self.namespaces())

    def __iter__(self) -> Iterator[str]:
        return iter(self.namespaces())

    def __len__(self) -> int:
        return len(self._all if self._limits is None else self.namespaces())

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Cache) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __reduce__(self) -> tuple[Any, ...]:
        given = (self.to_dict(),) if self._config is None else (self.to_dict(), self._config)
        return Cache, given

    def __repr__(self) -> str:
        if self._limits is None:
            sizes = {name: len(values) for name, values in self.to_dict().items()}
        else:
            sizes = {name: len(self.keys_of(name)) for name in self.namespaces()}
        counts = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        return f"<Cache {counts or 'empty'}>"


#: In the place of a value that left memory.
_AWAY: Final = object()


class _Limits:
    """What leaves a cache's memory, and how it comes back. Its owner has the lock.

    Args:
        values: The owner's values; one that left is replaced by `_AWAY` where somebody keeps it,
            and removed otherwise.
        config: The limits, None for none.
        told: Whether somebody is told of writes.
        read_back: Asked for values that left.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        values: dict[str, dict[str, Any]],
        config: CacheConfig | None,
        told: bool,
        read_back: ReadBack | None,
        clock: Callable[[], float],
    ) -> None:
        self._values = values
        self._ledger = None if config is None else Ledger(config, clock)
        self._is_kept = told or read_back is not None
        self._read_back = read_back
        self._writes = 0

    def written(self, namespace: str, key: str, value: Any) -> None:
        """Note a value that was just put into its place, and let others go for it."""
        self._writes += 1
        if self._ledger is None:
            return
        self.expire()
        # The names are a part of what an entry takes, and may be the larger one.
        size = 0
        if self._ledger.counts_bytes:
            size = estimate_size(value) + len(namespace) + len(key)
        for gone in self._ledger.put((namespace, key), size):
            self._put_away(gone)

    def removed(self, namespace: str, key: str) -> None:
        """Note that a value is gone for good."""
        self._writes += 1
        if self._ledger is not None:
            self._ledger.drop((namespace, key))

    def expire(self) -> None:
        """Let go what is too old."""
        if self._ledger is not None:
            for gone in self._ledger.expire():
                self._put_away(gone)

    def _put_away(self, name: Any) -> None:
        namespace, key = name
        if self._is_kept:
            self._values[namespace][key] = _AWAY
            return
        del self._values[namespace][key]
        if not self._values[namespace]:
            del self._values[namespace]

    def read(self, lock: threading.RLock, namespace: str, key: str) -> Any:
        """Return a value from memory or from whoever keeps it, `MISSING` when there is none."""
        with lock:
            self.expire()
            found = self._values.get(namespace, {}).get(key, _AWAY)
            if found is not _AWAY:
                if self._ledger is not None:
                    self._ledger.use((namespace, key))
                return found
            writes = self._writes
        if self._read_back is None:
            return MISSING
        found = self._read_back(namespace, key)  # without the lock: others go on meanwhile
        with lock:
            # After another write it may be an older value, or one that was removed.
            if writes == self._writes and found is not MISSING:
                self._values.setdefault(namespace, {})[key] = found
                self.written(namespace, key, found)
        return found

    def completed(self, found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return *found* with the values that left memory; without those that nobody has."""
        for namespace, values in found.items():
            for key in [key for key, value in values.items() if value is _AWAY]:
                value = MISSING if self._read_back is None else self._read_back(namespace, key)
                if value is MISSING:
                    del values[key]
                else:
                    values[key] = value
        return {namespace: values for namespace, values in found.items() if values}


class Namespace(MutableMapping[str, Any]):
    """The values of one namespace, as a mapping; writes go through the cache."""

    __slots__ = ("_cache", "_name")

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache = cache
        self._name = name

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
        return iter(self._cache.keys_of(self._name))

    def __len__(self) -> int:
        return len(self._cache.keys_of(self._name))

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
