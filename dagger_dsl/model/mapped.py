"""Mapping, seen through annotations and literals: what has items, and what is given back.

The rule is that of `dagger_dsl.model.types`: what some value could satisfy is accepted. An empty
list is no such value here, because who maps over items means to have some.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Final, Union, get_args, get_origin

from dagger_dsl.errors import shown
from dagger_dsl.model.context import Failed
from dagger_dsl.model.policies import whole_number
from dagger_dsl.model.types import (
    _class_of,
    _common_child,
    _is_abstract,
    _is_opaque,
    _is_typed_dict,
    _members,
    compatible,
    misfit,
    show_type,
)

__all__ = [
    "MAX_BATCH",
    "MAX_MAP_DEPTH",
    "MAX_PARALLEL",
    "batch_of",
    "batched",
    "collected_type",
    "depth_of",
    "has_items",
    "mapped_fault",
    "mapped_misfit",
    "nested",
    "parallel_of",
]

#: Levels of lists that one node may map over; types and values are walked that deep.
MAX_MAP_DEPTH: Final = 100

#: Invocations of one node at the same time that may be asked for; None is for any number.
MAX_PARALLEL: Final = 1_000_000

#: Items that one invocation may be given.
MAX_BATCH: Final = 1_000_000

#: Values of these are one thing, although some have parts.
_SINGLE = (str, bytes, int, float, complex, type(None), enum.Enum, Mapping)


def has_items(value: Any) -> bool:
    """Return whether a node can map over *value*: a text or a mapping is one thing."""
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def depth_of(value: Any, what: str, kind: Callable[[Any], str] = shown) -> int:
    """Return how many levels of lists are mapped over.

    Raises:
        ConfigurationError: It is no number, or none from 1 to `MAX_MAP_DEPTH`.
    """
    return whole_number(value, what, most=MAX_MAP_DEPTH, kind=kind)


def parallel_of(value: Any, what: str, kind: Callable[[Any], str] = shown) -> int:
    """Return how many invocations may run at the same time.

    Raises:
        ConfigurationError: It is no number, or none from 1 to `MAX_PARALLEL`.
    """
    return whole_number(value, what, most=MAX_PARALLEL, kind=kind)


def batch_of(value: Any, what: str, kind: Callable[[Any], str] = shown) -> int:
    """Return how many items one invocation is given.

    Raises:
        ConfigurationError: It is no number, or none from 1 to `MAX_BATCH`.
    """
    return whole_number(value, what, most=MAX_BATCH, kind=kind)


def batched(items: Sequence[Any], size: int) -> list[Any]:
    """Return the items in lists of *size*, the last of which may be shorter."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def nested(value: Any, depth: int) -> Any:
    """Return what has items as lists of *depth* levels; anything else as it is."""
    if depth < 1 or not has_items(value):
        return value
    return [nested(each, depth - 1) for each in value]


def mapped_misfit(value: Any, item: Any, depth: int, path: str) -> str | None:
    """Return why a value cannot be mapped over into a parameter, None when it can.

    Args:
        value: Lists of *depth* levels.
        item: The parameter's annotation.
        depth: Levels of lists.
        path: What to call the value.
    """
    if depth < 1:
        return None if item is Any else misfit(value, item, path)
    if not has_items(value):
        return f"{path} is mapped over, so it must be a list, not {shown(value, 60)}"
    if isinstance(value, Iterator):
        return None  # looking at its items would take them
    faults = (
        mapped_misfit(each, item, depth - 1, f"{path}[{place}]") for place, each in enumerate(value)
    )
    return next((fault for fault in faults if fault is not None), None)


def mapped_fault(offered: Any, item: Any, depth: int) -> str | None:
    """Return why no value of one annotation can be mapped over into another, None when one can.

    Args:
        offered: The annotation of what is mapped over.
        item: The annotation of the parameter that gets each item.
        depth: Levels of lists.
    """
    for _ in range(depth):
        if offered is Any:
            break  # and so are the items of its items
        inside = _item_type(offered)
        if inside is None:
            return f"{show_type(offered)} has no items to map over"
        offered = inside
    if compatible(offered, item):
        return None
    return f"its items are {show_type(offered)}, and {show_type(item)} is wanted"


def collected_type(returns: Any, depth: int, collects: bool) -> Any:
    """Return the annotation of a mapped node's value.

    Args:
        returns: What its action is annotated to return.
        depth: Levels of lists.
        collects: Whether failed invocations stand in the list.
    """
    found = _either((returns, Failed)) if collects else returns
    for _ in range(min(depth, MAX_MAP_DEPTH)):  # no node is made of what is deeper
        found = list if found is Any else types.GenericAlias(list, (found,))
    return found


def _item_type(annotation: Any) -> Any | None:
    """Return the annotation of the items, `Any` where it is not told, None where there are none."""
    inside = [each for each in map(_item_of, _members(annotation)) if each is not None]
    return _either(inside) if inside else None


def _item_of(plain: Any) -> Any | None:
    """Return the same for one alternative of a union."""
    if get_origin(plain) is typing.Literal or _is_typed_dict(plain):
        return None
    kind = None if plain is Any else _class_of(plain)  # `Any` is a class
    if kind is None or _is_opaque(kind):
        return Any
    if issubclass(kind, _SINGLE):
        return None
    if not issubclass(kind, (Iterable, AsyncIterable)):
        return Any if _is_abstract(kind) or _common_child(kind, Iterable) else None
    args = get_args(plain)
    if issubclass(kind, tuple) and args and args[1:] != (Ellipsis,):
        return _either(args)
    if issubclass(kind, (Generator, AsyncGenerator)) or len(args) == 1 or args[1:] == (Ellipsis,):
        inside = args[0] if args else Any
        return type(None) if inside is None else inside
    return Any


def _either(annotations: Sequence[Any]) -> Any:
    if any(each is Any for each in annotations):
        return Any
    try:
        return Union[tuple(annotations)]  # noqa: UP007 - of a list that is made here
    except (TypeError, SyntaxError):  # what is written there is no type
        return Any
