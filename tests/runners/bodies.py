"""Bodies that a worker process imports; it shall not have to import the tests, too."""

from __future__ import annotations

import asyncio
from typing import Any


def add(a: int, b: int) -> int:
    return a + b


async def add_async(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def one() -> int:
    return 1


async def two() -> int:
    return 2


def three(a: Any, b: Any, c: Any) -> tuple[Any, Any, Any]:
    return a, b, c


def fragile(value: int) -> int:
    return deep_inside(value)


def deep_inside(value: int) -> int:
    raise LookupError(f"no {value}")


async def fragile_async(value: int) -> int:
    await asyncio.sleep(0)
    return deep_inside(value)
