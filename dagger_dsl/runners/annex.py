"""A place for calls that a run's runner cannot make itself.

A runner is chosen for the graph that a run begins with. When the graph grows by an async function
under threads, or by a time limit in a sequential run, the `Annex` makes such calls for whoever is
called: async ones on one event loop in a thread of its own, limited ones in a thread each.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from dagger_dsl.model.protocols import CancelSignal
from dagger_dsl.runners.base import ASYNC, Overran

if TYPE_CHECKING:
    import asyncio

__all__ = ["Annex"]


class Annex:
    """Makes calls elsewhere, for one run; nothing is started before the first of them.

    Args:
        token: What cancels the run. In a sequential run nobody steps while a call is awaited, so
            nobody but the token itself can halt it.

    Attributes:
        awaited: Slots whose call is awaited here, and can be cancelled.
    """

    def __init__(self, token: CancelSignal) -> None:
        self.awaited: set[int] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._tasks: dict[int, asyncio.Task[Any] | None] = {}
        self._halted: set[int] = set()
        self._unsubscribe = token.subscribe(self.halt)

    def wrap(
        self, slot: int, call: Callable[..., Any], kind: int, limit: float | None
    ) -> Callable[..., Any]:
        """Return a plain function that makes *call* here, within *limit* seconds.

        Raises:
            Overran: By the function, when the limit has passed.
        """
        if kind & ASYNC:
            self.awaited.add(slot)
            return lambda *values: self._await(slot, call, values, limit)
        self.awaited.discard(slot)
        assert limit is not None
        return lambda *values: _limited(call, values, limit)

    def halt(self, slots: Collection[int] | None = None) -> None:
        """Cancel calls that are awaited, or will be; None for all that are under way."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._halt_here, slots)

    def close(self) -> None:
        """End the loop; what still runs on it is cancelled."""
        self._unsubscribe()
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    def _halt_here(self, slots: Collection[int] | None) -> None:
        for slot in list(self._tasks) if slots is None else slots:
            self._halted.add(slot)
            task = self._tasks.get(slot)
            if task is not None:
                task.cancel()

    def _await(
        self, slot: int, call: Callable[..., Any], values: tuple[Any, ...], limit: float | None
    ) -> Any:
        import asyncio

        async def made() -> Any:
            if slot in self._halted:
                raise asyncio.CancelledError
            self._tasks[slot] = asyncio.current_task()
            deadline = asyncio.timeout(limit)
            try:
                async with deadline:
                    return await call(*values)
            except TimeoutError:
                if limit is not None and deadline.expired():
                    raise Overran(limit) from None
                raise
            finally:
                del self._tasks[slot]

        return asyncio.run_coroutine_threadsafe(made(), self._running()).result()

    def _running(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._lock:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=contextvars.copy_context().run,
                    args=(_serve, loop),
                    name="dagger-dsl-annex",
                    daemon=True,
                ).start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _limited(call: Callable[..., Any], values: tuple[Any, ...], limit: float) -> Any:
    answers: list[tuple[bool, Any]] = []

    def work() -> None:
        try:
            answers.append((True, call(*values)))
        except BaseException as error:
            answers.append((False, error))

    thread = threading.Thread(
        target=contextvars.copy_context().run,
        args=(work,),
        name="dagger-dsl-worker",
        daemon=True,
    )
    thread.start()
    thread.join(limit)
    if not answers:
        raise Overran(limit)
    succeeded, answer = answers[0]
    if succeeded:
        return answer
    raise answer
