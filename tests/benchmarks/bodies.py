"""What the nodes do: nothing, with as many parameters as they have dependencies bound.

Both sides call these very functions, so that a difference is never theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

__all__ = ["ASYNC", "SYNC", "whole"]


def none() -> int:
    """Take nothing."""
    return 1


def one(a: int) -> int:
    """Take one value."""
    return 1


def two(a: int, b: int) -> int:
    """Take two values."""
    return 1


def three(a: int, b: int, c: int) -> int:
    """Take three values."""
    return 1


def whole(values: list[int]) -> int:
    """Take what a mapped node gives."""
    return 1


async def async_none() -> int:
    """Take nothing."""
    return 1


async def async_one(a: int) -> int:
    """Take one value."""
    return 1


async def async_two(a: int, b: int) -> int:
    """Take two values."""
    return 1


async def async_three(a: int, b: int, c: int) -> int:
    """Take three values."""
    return 1


#: By the number of parameters.
SYNC: list[Callable[..., int]] = [none, one, two, three]
ASYNC: list[Callable[..., Awaitable[int]]] = [async_none, async_one, async_two, async_three]
