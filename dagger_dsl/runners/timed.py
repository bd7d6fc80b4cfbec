"""Calls of sync functions that may take so many seconds."""

from __future__ import annotations

import contextvars
import threading
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

    Args:
        call: What; it sees the context variables of the caller.
        limit: Seconds.
        name: What the thread is called.
        late: Asked for the error to raise when it is left behind.
    """
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(call))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    try:
        return future.result(limit)
    except OutOfTime:
        if future.done():  # the call itself has raised one
            raise
        raise late() from None
