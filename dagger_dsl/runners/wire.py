"""Messages between a run and one worker process: a length, a letter, a number, and a body."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any, Final

__all__ = [
    "ASK",
    "CALL",
    "CLOSE",
    "ERROR",
    "FUNCTION",
    "ITEMS",
    "LOG",
    "LOST",
    "MORE",
    "OBJECT",
    "PROFILE",
    "STREAM",
    "VALUE",
    "handful",
    "receive",
    "send",
]

# From the run.
FUNCTION: Final = b"f"  # what a number stands for from now on
OBJECT: Final = b"o"  # the run's `app_data`
CALL: Final = b"c"  # arguments for the function of a number
MORE: Final = b"m"  # read on the generator that the last call returned
CLOSE: Final = b"x"  # close it

# From the worker; the first four end what was asked for.
VALUE: Final = b"v"
ERROR: Final = b"e"
STREAM: Final = b"g"  # the call returned a generator, which stays there
ITEMS: Final = b"i"  # some of its items, and whether that was all
LOST: Final = b"l"  # the call returned a coroutine that nobody can await
ASK: Final = b"a"  # the body wants to know something of its run
LOG: Final = b"r"  # a log record
PROFILE: Final = b"p"  # what a profiler counted

_HEAD = 8 + 1 + 4
_LUMP = 1 << 20

# How long an iterator is read for one message (seconds), and how many items it holds at most.
_SIP, _GULP = 0.001, 512


def send(fd: int, letter: bytes, number: int = 0, body: bytes = b"") -> None:
    """Write one message.

    Raises:
        OSError: The other side is gone.
    """
    head = len(body).to_bytes(8, "little") + letter + number.to_bytes(4, "little")
    size = len(body) + _HEAD
    sent = os.writev(fd, (head, body))
    while sent < size:  # more than the socket holds
        rest = head[sent:] if sent < _HEAD else b""
        tail = memoryview(body)[max(0, sent - _HEAD) :]
        sent += os.writev(fd, (rest, tail[:_LUMP]))


def receive(fd: int) -> tuple[bytes, int, bytes]:
    """Read one message: its letter, its number, its body.

    Raises:
        EOFError: The other side is gone.
        OSError: Likewise.
    """
    head = _exactly(fd, _HEAD)
    size = int.from_bytes(head[:8], "little")
    return head[8:9], int.from_bytes(head[9:], "little"), _exactly(fd, size) if size else b""


def _exactly(fd: int, size: int) -> bytes:
    data = os.read(fd, min(size, _LUMP))
    if len(data) == size:
        return data
    if not data:
        raise EOFError
    parts, found = [data], len(data)
    while found < size:
        data = os.read(fd, min(size - found, _LUMP))
        if not data:
            raise EOFError
        parts.append(data)
        found += len(data)
    return b"".join(parts)


def handful(iterator: Iterable[Any], items: list[Any]) -> bool:
    """Add some of an iterator's items, as many as one message takes.

    Returns:
        Whether these were the last ones. What the iterator raises comes after the items before it.
    """
    until = time.perf_counter() + _SIP
    for item in iterator:
        items.append(item)
        if len(items) >= _GULP or time.perf_counter() >= until:
            return False
    return True
