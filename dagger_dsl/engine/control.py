"""Steering a run from outside: a token that cancels it, a handle of one in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport

__all__ = ["CancelToken", "RunHandle"]


class CancelToken:
    """Cancels the runs it was given to. May be used from any thread, and more than once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._reason: str | None = None

    def cancel(self, reason: str | None = None) -> None:
        """Cancel; a second call changes nothing, the first reason stays.

        Args:
            reason: Kept with every node that is cancelled.
        """
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason or ""
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._reason is not None

    @property
    def reason(self) -> str:
        """What the canceller said, or an empty text."""
        return self._reason or ""

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* on cancellation, at once if it has happened; return the way back out."""
        with self._lock:
            if self._reason is None:
                self._callbacks.append(callback)
                return lambda: self._unsubscribe(callback)
        callback()
        return lambda: None

    def _unsubscribe(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


class RunHandle:
    """A run in the background, made by `start`. May be used from any thread; it can be awaited.

    Attributes:
        run_id: The run.
        dag_name: Its graph.
    """

    def __init__(self, run_id: str, dag_name: str, token: CancelToken) -> None:
        self.run_id = run_id
        self.dag_name = dag_name
        self._token = token
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], None]] = []
        self._report: RunReport | None = None
        self._error: BaseException | None = None

    def __repr__(self) -> str:
        state = "ended" if self._ended.is_set() else "running"
        return f"<RunHandle {self.run_id} of {self.dag_name!r}: {state}>"

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the run; `result` then gives a report of status ``cancelled``."""
        self._token.cancel(reason)

    @property
    def done(self) -> bool:
        """Whether the run has ended, or stands still."""
        return self._ended.is_set()

    @property
    def is_paused(self) -> bool:
        """Whether the run stands still and waits to be resumed."""
        return self._report is not None and self._report.status == "paused"

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most *timeout* seconds; return whether it came."""
        return self._ended.wait(timeout)

    def result(self, timeout: float | None = None) -> RunReport:
        """Wait for the end and return the report.

        Raises:
            TimeoutError: It did not come within *timeout* seconds; the run goes on.
            DaggerError: The run could not be made at all, such as a `StoreError`.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"run {self.run_id} has not ended within {timeout} s; it goes on")
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report

    def __await__(self) -> Generator[Any, None, RunReport]:
        return self._wait_async().__await__()

    async def _wait_async(self) -> RunReport:
        import asyncio  # whoever awaits has loaded it

        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(ended.set)

        with self._lock:
            waiting = not self._ended.is_set()
            if waiting:
                self._watchers.append(tell)
        if waiting:
            await ended.wait()
        return self.result(0)

    def _finish(self, report: RunReport | None, error: BaseException | None) -> None:
        with self._lock:
            self._report, self._error = report, error
            self._ended.set()
            watchers, self._watchers = self._watchers, []
        for tell in watchers:
            try:
                tell()
            except RuntimeError:  # the loop of whoever awaited is closed; nobody listens
                continue
