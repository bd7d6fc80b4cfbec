"""Props: what a document's text leaves undefined, and what sees how bodies ran."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import attrs

__all__ = ["LIMIT", "Client", "Clock", "Meeting", "Response", "Span", "Spans"]

#: Seconds after which something is taken to never happen.
LIMIT = 20.0


@attrs.frozen
class Span:
    """One call: what it was called, from when to when (seconds), and in which thread."""

    name: str
    start: float
    end: float
    thread: int


class Spans:
    """Keeps when calls ran; any number of threads may."""

    def __init__(self) -> None:
        self.calls: list[Span] = []
        self.started: list[str] = []
        self.peak = 0
        self._inside = 0
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Note a call that lasts as long as the block."""
        with self._lock:
            self.started.append(name)
            self._inside += 1
            self.peak = max(self.peak, self._inside)
        start = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            with self._lock:
                self._inside -= 1
                self.calls.append(Span(name, start, end, threading.get_ident()))

    @property
    def threads(self) -> set[int]:
        """Where the calls ran."""
        return {each.thread for each in self.calls}

    def counts(self) -> dict[str, int]:
        """Return how often each was called."""
        return dict(Counter(self.started))

    def clear(self) -> None:
        """Forget what was."""
        self.calls, self.started, self.peak = [], [], 0


class Meeting:
    """Lets coroutines go on once so many of them are there."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._there = 0

    async def join(self) -> None:
        """Wait for the others.

        Raises:
            TimeoutError: They never came: not all ran at the same time.
        """
        self._there += 1
        async with asyncio.timeout(LIMIT):
            while self._there < self._size:
                await asyncio.sleep(0)


class Clock:
    """What a block calls ``time``: a clock that goes on by a second with each look."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def time(self) -> float:
        """Return the seconds."""
        self.now += 1.0
        return self.now


class Response:
    """An answer to a request, of the sort that is awaited."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def json(self) -> Any:
        """Return what was sent."""
        await asyncio.sleep(0)
        return self._body


class Client:
    """An HTTP client whose requests are async context managers.

    Args:
        answer: Gives the body of an answer, by method, address and payload.
    """

    def __init__(self, answer: Callable[..., Any]) -> None:
        self._answer = answer
        self.opened = 0
        self.closed = 0

    async def __aenter__(self) -> Client:
        self.opened += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed += 1

    @asynccontextmanager
    async def get(self, url: str) -> AsyncIterator[Response]:
        """Ask for something."""
        yield Response(await self._answer("GET", url, None))

    @asynccontextmanager
    async def post(self, url: str, *, json: Any) -> AsyncIterator[Response]:
        """Send something."""
        yield Response(await self._answer("POST", url, json))
