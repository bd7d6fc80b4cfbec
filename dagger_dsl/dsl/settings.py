"""What DAGs and nodes are given beside their inputs: names, tags, declarations, options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dagger_dsl.errors import (
    CodecError,
    ConfigurationError,
    EncodingError,
    did_you_mean,
    shown,
)
from dagger_dsl.model.graph import (
    GraphInput,
    check_texts,
    name_problem,
    title_problem,
)
from dagger_dsl.model.mapped import batch_of, depth_of, parallel_of
from dagger_dsl.model.policies import CacheStrategy
from dagger_dsl.model.types import misfit, schema_of
from dagger_dsl.model.values import Literal
from dagger_dsl.registry import CALL_OPTIONS, ActionDef, convert_options

__all__ = [
    "NODE_OPTIONS",
    "cache_strategy",
    "declared_input",
    "graph_name",
    "literal_of",
    "node_options",
]

_EXTRA = {
    "id": lambda value, what: value,
    "instructions": lambda value, what: _text(value, what),
    "metadata": lambda value, what: _metadata(value, what),
    "map_over": lambda value, what: _text(value, what),
    "max_parallel": parallel_of,
    "map_depth": depth_of,
    "map_errors": lambda value, what: _map_errors(value, what),
    "map_batch": batch_of,
    "branch": lambda value, what: _text(value, what),
    "enabled": lambda value, what: _flag(value, what),
}

NODE_OPTIONS = frozenset(
    (
        *_EXTRA,
        *CALL_OPTIONS,
        "outputs",
        "cache_strategy",
        "trigger",
        "keep",
    )
)


def cache_strategy(cache: Any, ttl: Any, cache_key: Any, backend: Any) -> Any:
    """Return what ``cache=`` says of a node that shares its results.

    Args:
        cache: What was given for it, None for nothing.
        ttl, cache_key, backend: The same in parts.

    Raises:
        ConfigurationError: Both were given, or a part has an impossible value.
    """
    what = "@dag.cached_node"
    if cache is not None:
        parts = {"ttl": ttl, "cache_key": cache_key, "backend": backend}
        given = [name for name, value in parts.items() if value is not None]
        if given:
            raise ConfigurationError(
                f"{what}: {given[0]}= and cache= both say how a result is used; give one, such as "
                "cache=CacheStrategy.ttl(60, inputs=['url'])"
            )
        return cache
    if callable(cache_key):
        return CacheStrategy.custom(cache_key, ttl, backend=backend)
    if isinstance(cache_key, (str, bytes)):
        raise ConfigurationError(
            f"{what}: cache_key is a list of input names, such as [{shown(cache_key)}], or a "
            f"function of the inputs, not {shown(cache_key)}"
        )
    if cache_key is not None and not isinstance(cache_key, Iterable):
        raise ConfigurationError(
            f"{what}: cache_key is a list of input names or a function of the inputs, not "
            f"{shown(cache_key)}"
        )
    if ttl is None:
        return CacheStrategy.always(inputs=cache_key, backend=backend)
    return CacheStrategy.ttl(ttl, inputs=cache_key, backend=backend)


def graph_name(name: Any) -> str:
    """Return a DAG's name.

    Raises:
        ConfigurationError: It cannot be a graph's name.
    """
    fault = title_problem(name, "a DAG")
    if fault is not None:
        raise ConfigurationError(fault)
    return str(name)


#: What nobody means as a type; annotations are of many kinds.
_VALUES = (str, bytes, bool, int, float, complex, list, tuple, dict, set, frozenset)


def declared_input(name: Any, kind: Any, default: Any, description: str) -> tuple[GraphInput, Any]:
    """Return what a graph says about a declared input, and its annotation.

    Args:
        name: The input's name.
        kind: Its type, None for any.
        default: Its default, ``...`` for none.
        description: For people.

    Raises:
        ConfigurationError: The name or the type cannot be one, or the default is not of the type.
    """
    fault = name_problem(name, "an input's name")
    if fault is not None:
        raise ConfigurationError(fault)
    if isinstance(kind, _VALUES):
        raise ConfigurationError(
            f"input {name!r}: its type is a class or an annotation, such as int or list[str], not "
            f"{shown(kind)}"
        )
    check_texts(f"input {shown(name)}", {"description": description})
    annotation = Any if kind is None else kind
    schema = schema_of(annotation)
    literal = None
    if default is not ...:
        fault = misfit(default, annotation, f"the default of input {shown(name)}")
        if fault is not None:
            raise ConfigurationError(fault)
        literal = literal_of(default, f"the default of input {shown(name)}")
    return (
        GraphInput(
            name,
            schema=Literal(schema) if schema else None,
            default=literal,
            required=literal is None,
            description=description,
        ),
        annotation,
    )


def literal_of(value: Any, what: str) -> Literal:
    """Return a literal.

    Raises:
        EncodingError: The value has no stored form; the message starts with *what*.
    """
    try:
        return Literal(value)
    except CodecError as error:
        raise EncodingError(f"{what}: {error}") from None


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{what} is a text that is not empty, not {shown(value)}")
    return value


def _metadata(value: Any, what: str) -> Literal:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what} is a mapping, not {shown(value)}")
    return literal_of(dict(value), what)


def _map_errors(value: Any, what: str) -> str:
    if value not in ("fail", "collect"):
        raise ConfigurationError(f"{what} is 'fail' or 'collect', not {shown(value)}")
    return str(value)


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{what} is True or False, not {shown(value)}")
    return value


def node_options(definition: ActionDef, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what options of one node mean.

    Raises:
        ConfigurationError: One is unknown or has an impossible value.
    """
    what = f"action {definition.name!r}"
    found = convert_options(given, what, NODE_OPTIONS, _EXTRA)
    retry = found.get("retry")
    if retry is not None and not retry.is_data:
        raise ConfigurationError(
            f"{what}: a node holds data only; give classes, predicates and tenacity objects to the "
            "action itself: @action(retry=...)"
        )
    cache = found.get("cache_strategy")
    if cache is not None and not cache.is_data:
        raise ConfigurationError(
            f"{what}: a node holds data only; give a cache key that is a function, or a cache "
            "backend, to the action itself: @action(cache=CacheStrategy.custom(...))"
        )
    if found.get("map_over") is not None and not definition.takes_any_input:
        name = found["map_over"]
        known = [param.name for param in definition.params]
        if name not in known:
            raise ConfigurationError(
                f"{what}: map_over names a parameter, not {shown(name)}{did_you_mean(name, known)}"
            )
    return found
