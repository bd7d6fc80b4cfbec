"""An event loop of our own that hears Ctrl-C at any time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["run_in_loop"]

T = TypeVar("T")


def run_in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new event loop, as `asyncio.run`, and hear signals meanwhile.

    Raises:
        KeyboardInterrupt: Ctrl-C came, in the main thread, and the coroutine let itself be
            cancelled.
        Whatever the coroutine raises.
    """
    with asyncio.Runner() as runner, _woken_by_signals(runner.get_loop()):
        return runner.run(work)


@contextlib.contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let each signal wake the loop.

    A signal that comes just before the loop goes to sleep, or that the system gives to another
    thread, does not interrupt that sleep: its handler would wait until something else ends it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        try:
            loop.add_reader(reader, _drain, reader)
        except NotImplementedError:  # the proactor loop of Windows wakes itself
            yield
            return
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(reader)


def _drain(reader: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        reader.recv(4096)
