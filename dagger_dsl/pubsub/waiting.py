"""What waits, in a thread or in an event loop: one object for both.

Who waits says first that it does and then looks again; who has news brings it first and then looks
whether somebody waits. So neither misses the other, and nothing is locked where nobody waits.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from dagger_dsl.errors import InvalidState

if TYPE_CHECKING:
    from dagger_dsl.model.messages import Message

__all__ = ["LoopBell", "Pending", "Publication", "ThreadBell", "running_loop"]

T = TypeVar("T")

#: Held while somebody says that it waits, too; a result seldom has a second one.
_JOINING: Final = threading.Lock()

_WAITING: Final = 0
_DONE: Final = 1
_FAILED: Final = 2


class Pending(Generic[T]):
    """A result that may be there already: `result` blocks for it, ``await`` lets others go on.

    Args:
        timeout: Seconds to wait for it; None for ever.
        give_up: Asked when that is over, with itself and the seconds that were waited: returns the
            error to raise, or None where the result has come meanwhile after all.
        loop: The event loop that brings it, which must not be blocked.
    """

    __slots__ = ("_give_up", "_loop", "_state", "_timeout", "_value", "_wake")

    def __init__(
        self,
        timeout: float | None = None,
        give_up: Callable[[Any, float], BaseException | None] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = loop
        self._state = _WAITING
        self._value: Any = None
        self._wake: Callable[[], object] | None = None
        self._timeout = timeout
        self._give_up = give_up

    @property
    def is_done(self) -> bool:
        """Whether it waits no more."""
        return self._state != _WAITING

    @property
    def is_refused(self) -> bool:
        """Whether it waits no more, and nothing comes."""
        return self._state == _FAILED

    def succeed(self, value: T) -> None:
        """Say what came; from any thread."""
        self._value = value
        self._state = _DONE
        if self._wake is not None:
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Say that nothing will come; from any thread."""
        self._value = error
        self._state = _FAILED
        if self._wake is not None:
            self._wake()

    def result(self, timeout: float | None = None) -> T:
        """Wait in this thread, and return what came.

        Args:
            timeout: Seconds, where they shall be fewer than was said before.

        Raises:
            TimeoutError: It did not come in time.
            InvalidState: This is the event loop that brings it.
        """
        if self._state == _WAITING:
            if self._loop is not None and running_loop() is self._loop:
                raise InvalidState(
                    "result() would wait for ever in the event loop of the bus; await it instead"
                )
            event = threading.Event()
            self._call(event.set)
            limit = self._timeout if timeout is None else timeout
            if self._state == _WAITING and not event.wait(limit):
                self._too_late(limit or 0.0)
        return self._get()

    def __await__(self) -> Generator[Any, None, T]:
        if self._state == _WAITING:
            yield from self._wait().__await__()
        return self._get()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def ring() -> None:
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            if running_loop() is loop:
                ring()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(ring)

        self._call(wake)
        if self._state != _WAITING:
            return
        try:
            async with asyncio.timeout(self._timeout):
                await future
        except TimeoutError:
            self._too_late(self._timeout or 0.0)
        except BaseException:  # who is cancelled takes back what it waits for
            if self._state == _WAITING and self._give_up is not None:
                self._give_up(self, 0.0)
            raise

    def _call(self, wake: Callable[[], object]) -> None:
        """Let one more be woken."""
        with _JOINING:
            before = self._wake
            self._wake = wake if before is None else lambda: (before(), wake())

    def _too_late(self, waited: float) -> None:
        error = None if self._give_up is None else self._give_up(self, waited)
        if error is not None:
            raise error
        if self._state == _WAITING:  # it can be taken back no more, as while it is committed
            raise TimeoutError("what was waited for did not come in time")

    def _get(self) -> T:
        if self._state == _FAILED:
            raise self._value
        value: T = self._value
        return value


class Publication(Pending["Message"]):
    """A message on its way: `result` blocks until it is published, and ``await`` waits for that.

    Attributes:
        message: What is published. Its number is there only where memory keeps it.
        named: Whether its id was given by hand, so that it may have been published before.
        data: What its place makes of it.
    """

    __slots__ = ("data", "message", "named")

    def __init__(
        self,
        message: Message,
        named: bool = False,
        timeout: float | None = None,
        give_up: Callable[[Any, float], BaseException | None] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(timeout, give_up, loop)
        self.message = message
        self.named = named
        self.data: Any = None

    def __repr__(self) -> str:
        state = ("waits", "published", "failed")[self._state]
        return f"<Publication of {self.message.id!r} on {self.message.channel!r}: {state}>"


class LoopBell:
    """Wakes the tasks of one event loop.

    Attributes:
        armed: Whether a task sleeps that was not woken yet; who brings news looks at it first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.armed = False
        self._loop = loop
        self._sleepers: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wake all that sleep; from any thread."""
        self.armed = False
        if running_loop() is self._loop:
            self._wake()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        sleepers, self._sleepers = self._sleepers, []
        for each in sleepers:
            if not each.done():
                each.set_result(None)

    async def sleep(self, seconds: float | None, is_news: Callable[[], bool]) -> None:
        """Sleep until somebody rings, the time is over, or there is news already."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._sleepers.append(future)
        self.armed = True
        if is_news():
            self._sleepers.remove(future)
            return
        if seconds is None:
            await future
            return
        timer = self._loop.call_later(seconds, _settle, future)
        try:
            await future
        finally:
            timer.cancel()
            if future in self._sleepers:
                self._sleepers.remove(future)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class ThreadBell:
    """Wakes threads.

    Attributes:
        armed: Whether a thread sleeps that was not woken yet; who brings news looks at it first.
    """

    def __init__(self) -> None:
        self.armed = False
        self._condition = threading.Condition()

    def ring(self) -> None:
        """Wake all that sleep; from any thread."""
        with self._condition:
            self.armed = False
            self._condition.notify_all()

    def sleep(self, seconds: float | None, is_news: Callable[[], bool]) -> None:
        """Sleep until somebody rings, the time is over, or there is news already."""
        with self._condition:
            self.armed = True
            if not is_news():
                self._condition.wait(seconds)
