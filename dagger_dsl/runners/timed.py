"""Calls of sync functions that may take so many seconds."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as OutOfTime
from typing import TypeVar

__all__ = ["call_within"]

T = TypeVar("T")


def call_within(
    call: Callable[[], T], limit: float, name: str, late: Callable[[], BaseException]
) -> T:
    """Make a call in a thread of its own, which is left behind when its time is over.

    A call that has ended all the same, later than that, has run out of time, too: what holds the
    interpreter, such as a search by an unlucky pattern, lets nobody leave it behind.

    Args:
        call: What; it sees the context variables of the caller.
        limit: Seconds.
        name: What the thread is called.
        late: Asked for the error to raise when its time is over.
    """
    future: Future[T] = Future()
    context = contextvars.copy_context()
    end = time.monotonic() + limit
    is_late = False

    def work() -> None:
        nonlocal is_late
        try:
            value = context.run(call)
        except BaseException as error:
            is_late = time.monotonic() >= end
            future.set_exception(error)
        else:
            is_late = time.monotonic() >= end
            future.set_result(value)

    threading.Thread(target=work, name=name, daemon=True).start()
    try:
        value = future.result(limit)
    except BaseException as error:
        if is_late:
            raise late() from error
        if future.done() or not isinstance(error, OutOfTime):  # the call itself has raised it
            raise
        raise late() from None
    if is_late:
        raise late()
    return value
