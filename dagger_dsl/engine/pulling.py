"""A plain generator read with ``async for``: a thread makes its items and the loop stays free."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias

__all__ = ["pulled"]

logger = logging.getLogger("dagger_dsl.engine")

# How long items are made before they are handed over (seconds), and how many at most: a hand-over
# costs as much as a hundred quick items, and slow ones must not wait for each other.
_SIP, _GULP = 0.001, 512


class _Handful(NamedTuple):
    """Some items, and whether these are the last, or what was raised instead of more."""

    items: list[Any]
    over: bool = False
    error: BaseException | None = None


_Asked: TypeAlias = "SimpleQueue[tuple[bool, asyncio.Future[_Handful]]]"


async def pulled(
    items: Iterator[Any], stop: Callable[[], None], shut: Callable[[], None]
) -> AsyncIterator[Any]:
    """Yield *items*, which a thread of their own makes, a handful ahead at most.

    Args:
        items: What is read.
        stop: Has *items* end with its next one; safe from any thread.
        shut: Called by the thread when it has made its last item.
    """
    loop = asyncio.get_running_loop()
    asked: _Asked = SimpleQueue()
    threading.Thread(
        target=contextvars.copy_context().run,
        args=(_serve, items, shut, asked, loop),
        name="dagger-dsl-stream",
        daemon=True,
    ).start()
    at_work = False
    try:
        while True:
            wanted: asyncio.Future[_Handful] = loop.create_future()
            asked.put((True, wanted))
            at_work = True
            found = await wanted
            at_work = False
            for item in found.items:
                yield item
            if found.error is not None:
                raise found.error
            if found.over:
                return
    finally:
        stop()
        last: asyncio.Future[_Handful] = loop.create_future()
        asked.put((False, last))
        # A body that is at work cannot be waited for by who was cancelled; it ends at its next
        # item.
        if not at_work:
            error = (await last).error
            if error is not None:
                raise error


def _serve(
    items: Iterator[Any],
    shut: Callable[[], None],
    asked: _Asked,
    loop: asyncio.AbstractEventLoop,
) -> None:
    more = True
    while more:
        more, wanted = asked.get()
        found = _handful(items) if more else _end(items, shut)
        try:
            loop.call_soon_threadsafe(_give, wanted, found)
        except RuntimeError:  # the loop is closed, and nobody reads on
            if more:
                _end(items, shut)
            return


def _handful(items: Iterator[Any]) -> _Handful:
    found: list[Any] = []
    until = time.perf_counter() + _SIP
    while True:
        try:
            found.append(next(items))
        except StopIteration:
            return _Handful(found, over=True)
        except BaseException as error:  # the consumer's to raise
            return _Handful(found, error=error)
        if len(found) >= _GULP or time.perf_counter() >= until:
            return _Handful(found)


def _end(items: Any, shut: Callable[[], None]) -> _Handful:
    try:
        items.close()
        shut()
    except Exception as error:
        return _Handful([], error=error)
    return _Handful([])


def _give(wanted: asyncio.Future[_Handful], found: _Handful) -> None:
    if not wanted.done():
        wanted.set_result(found)
    elif found.error is not None:  # its reader has left
        logger.error("the generator of a stream failed when it was left", exc_info=found.error)
