"""`Home`: the event loop of a running bus, and those who wait in it for something to be so."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from dagger_dsl.errors import InvalidState
from dagger_dsl.pubsub.waiting import Pending, running_loop

__all__ = ["Home", "finished"]

logger = logging.getLogger("dagger_dsl.pubsub")

T = TypeVar("T")


class Home:
    """An event loop: that of a caller, or one in a thread of its own.

    Args:
        loop: The loop.

    Attributes:
        loop: The same.
        watchers: How many wait; who does something that they may wait for looks at it first.
        is_closing: Whether somebody ends the bus already.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.watchers = 0
        self.is_closing = False
        self._leaving = threading.Lock()
        self._left = False
        self._bell = asyncio.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def in_thread(cls, begin: Callable[[Home], None]) -> Home:
        """Return a home with a thread of its own, in which *begin* was called.

        Raises:
            Whatever *begin* raises.
        """
        ready = Pending[Home]()

        def serve() -> None:
            with asyncio.Runner() as runner:
                loop = runner.get_loop()
                home = cls(loop)
                try:
                    begin(home)
                except BaseException as error:
                    ready.fail(error)
                    return
                ready.succeed(home)
                home._serve()

        thread = threading.Thread(target=serve, name="dagger-pubsub-loop", daemon=True)
        thread.start()
        try:
            home = ready.result()
        except BaseException:
            thread.join(1.0)
            raise
        home._thread = thread
        return home

    def _serve(self) -> None:
        """Run the loop in its own thread until `leave` ends it, and nobody else.

        Ctrl-C is heard in the main thread, so a KeyboardInterrupt here is raised by a task of
        somebody, as SystemExit is; and a ``loop.stop()`` here is not meant for the bus.
        """
        while True:
            try:
                self.loop.run_forever()
            except BaseException:
                logger.exception("a task in the event loop of the bus has failed; the bus goes on")
            with self._leaving:  # whoever leaves has told the loop so before this is free
                if self._left:
                    return

    @property
    def is_own(self) -> bool:
        """Whether the loop has a thread of its own."""
        return self._thread is not None

    @property
    def is_closed(self) -> bool:
        """Whether somebody has closed the loop, so that nothing is done there any more."""
        return self.loop.is_closed()

    def give_up(self) -> bool:
        """Return whether it is the caller, and nobody before, who ends a bus without its loop."""
        with self._leaving:
            first, self._left = not self._left, True
        return first

    def leave(self) -> None:
        """End the thread of its own."""
        if self._thread is None:
            return
        with self._leaving:
            if not self._left:
                self._left = True
                self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the loop, and wait for it in this thread.

        Raises:
            InvalidState: The loop has ended meanwhile.
        """
        with self._leaving:
            if self._left:
                work.close()
                raise InvalidState("the bus was closed meanwhile; open it again")
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except CancelledError:
            if not self._left:
                raise
            raise InvalidState("the bus was closed meanwhile; open it again") from None

    def begin(self, start: Callable[[], None]) -> None:
        """Call something in the loop: at once where this is its thread, else soon."""
        if running_loop() is self.loop:
            start()
        else:
            self.loop.call_soon_threadsafe(start)

    def news(self) -> None:
        """Wake those who wait, so that they look again; from any thread."""
        if not self.watchers:
            return
        if running_loop() is self.loop:
            self._bell.set()
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._bell.set)

    async def until(self, is_so: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait until something is so; return False where it is not in time.

        Args:
            is_so: Asked again with all news.
            deadline: By the clock of the loop; None for ever.
        """
        self.watchers += 1
        try:
            while not is_so():
                self._bell.clear()
                if is_so():
                    break
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._bell.wait()
                except TimeoutError:
                    return is_so()
            return True
        finally:
            self.watchers -= 1


async def finished(future: asyncio.Future[T]) -> T:
    """Wait for something that has to come to its end, and return what came of it.

    Raises:
        CancelledError: This was cancelled meanwhile, however often; raised when it has ended.
        Whatever it raises.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from future.exception()
    return future.result()
