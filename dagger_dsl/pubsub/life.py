"""`BusLife`: how a bus opens, runs until something ends it, and closes.

Who has agents and channels is `PubSubExecutor`; what is here knows only that there are some.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import contextvars
import itertools
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from dagger_dsl._doors import through
from dagger_dsl.errors import InvalidState
from dagger_dsl.model.policies import seconds
from dagger_dsl.pubsub.arguments import as_spec
from dagger_dsl.pubsub.config import PubSubConfig, StartWith, WorkflowSpec
from dagger_dsl.pubsub.ending import wait_for_end
from dagger_dsl.pubsub.home import Home, finished
from dagger_dsl.pubsub.report import PubSubExecutionReport
from dagger_dsl.pubsub.waiting import Pending, Publication, running_loop

if TYPE_CHECKING:
    from types import TracebackType

    from dagger_dsl.pubsub.subscription import Place, Subscription

__all__ = ["BusLife"]

logger = logging.getLogger("dagger_dsl.pubsub")

_LOOP_CLOSED: Final = (
    "the event loop of the bus was closed while the bus ran; call close(), and open it again"
)


class BusLife(abc.ABC):
    """The life of a bus.

    Args:
        config: What holds for all of it.
    """

    def __init__(self, config: PubSubConfig) -> None:
        self.config = config
        self._clock: Callable[[], float] = time.time
        self._monotonic: Callable[[], float] = time.monotonic
        self._lock = threading.RLock()
        self._counting = threading.Lock()
        self._home: Home | None = None
        self._place: Place | None = None
        self._display: Any = None
        # Not anew with each opening: what was given up before may be given again.
        self._numbers = itertools.count(1)
        _alive.add(self)
        self._reset()

    def _reset(self) -> None:
        """Forget what was before; a bus can be opened again."""
        self._subscriptions: dict[str, Subscription] = {}
        # Those that were taken out, while calls of them go on.
        self._parting: list[Subscription] = []
        self._prefix = os.urandom(6).hex()
        self._reason: str | None = None
        # How many messages may be handed out before `count` would be exceeded; None: any number.
        self._turns: int | None = None
        self._uncounted: int | None = None
        self._began = self._monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what a bus is made of --------------------------------------------------------------------

    @abc.abstractmethod
    def _start_with(self, spec: StartWith) -> Publication:
        """Publish the message with which a run begins."""

    @abc.abstractmethod
    def _make_place(self) -> Place:
        """Return where messages are kept."""

    @abc.abstractmethod
    def _fill(self) -> None:
        """Put everything into the place, which is open."""

    @abc.abstractmethod
    def _release(self, place: Place) -> None:
        """Close the place, and what was opened beside it."""

    @abc.abstractmethod
    def _lose(self, subscription: Subscription, waiting: int, unended: int) -> None:
        """Count what is gone with a subscription: messages that wait, and calls without an end."""

    @abc.abstractmethod
    def _published(self) -> int:
        """Return how many messages were published."""

    @abc.abstractmethod
    def _report(self) -> PubSubExecutionReport:
        """Return what was done."""

    def _all(self) -> list[Subscription]:
        return list(self._subscriptions.values())

    # --- opening and closing ----------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._refuse_twice()
        Home.in_thread(self._open)
        try:
            self._show()
        except BaseException:
            self.close(drain=False)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(drain=error is None)

    async def __aenter__(self) -> Self:
        self._refuse_twice()
        self._open(Home(asyncio.get_running_loop()))
        try:
            self._show()
        except BaseException:
            await self._shut(self.config.grace, drain=False)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._shut(self.config.grace, drain=error is None)

    def close(self, grace: float | None = None, *, drain: bool = True) -> None:
        """End a bus that ``with`` has opened; nothing happens where it does not run.

        Args:
            grace: Seconds that it may take, `PubSubConfig.grace` by default.
            drain: Whether what waits is handled first. What is left in memory is gone, and counted
                as undelivered; a database keeps it.

        Raises:
            InvalidState: This is called in the event loop of the bus, as by an async agent.
            StoreError: A database could not record all that was handled; that is handled again.
        """
        limit = self.config.grace if grace is None else seconds(grace, "grace")
        home = self._home
        if home is not None and home.is_closed:
            self._abandon(home, limit)
        elif home is not None and home.is_own:
            if running_loop() is home.loop:
                raise InvalidState(
                    "close() would wait for ever in the event loop of the bus, for the call that "
                    "calls it; an agent calls stop()"
                )
            try:
                home.call(self._shut(limit, drain=drain))
            except InvalidState:
                if self._home is home:  # else somebody else has closed it
                    raise
            finally:
                home.leave()

    def stop(self, reason: str = "stopped") -> None:
        """Give agents nothing more; calls that are going on end as they would. From any thread."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
        for each in self._all():
            each.stop()
        place = self._place
        if place is not None:
            place.stop()
        self._news()

    def _refuse_twice(self) -> None:
        with self._lock:
            if self._home is not None and self._home.is_closed:
                raise InvalidState(_LOOP_CLOSED)
            if self._home is not None:
                raise InvalidState(
                    "the bus runs already: publish() to it, and let it end before it runs again; "
                    "or make another one"
                )

    def _open(self, home: Home, count: int | None = None) -> None:
        place: Place | None = None
        try:
            with self._lock:
                self._refuse_twice()
                self._reset()
                self._home = home
                self._turns = self._uncounted = count
                try:
                    place = self._make_place()
                    place.open()
                    self._place = place
                    self._fill()
                except BaseException:
                    for each in self._all():
                        each.stop()
                    self._home = self._place = None
                    raise
        except BaseException:
            if place is not None:
                place.close()  # not under the lock, for which its own thread may wait
            raise

    def _show(self) -> None:
        """Begin to show how it goes, where that is asked for; it must run already."""
        if self.config.progress is not False:
            self._display = through("bus_display")(self)

    def _open_place(self) -> Place:
        place, home = self._place, self._home
        if place is None or home is None:
            raise InvalidState("the bus does not run; use `with PubSubExecutor(...) as bus:`")
        if home.is_closed:
            raise InvalidState(_LOOP_CLOSED)
        return place

    async def _shut(self, grace: float, *, drain: bool) -> None:
        """End everything; in the loop of the bus."""
        place, home = self._place, self._home
        if place is None or home is None:
            return
        if home.is_closing:  # somebody else sees to it
            self.stop("closed")
            await home.until(lambda: self._place is None)
            return
        home.is_closing = True
        deadline = home.loop.time() + grace
        try:
            end = place.now() + grace  # what is due later is not waited for
            wanted = drain and self._reason is None
            if wanted and not await home.until(lambda: self._has_drained(end), deadline):
                logger.warning("the bus was closed with messages that are not handled yet")
        finally:
            self.stop("closed")
            try:
                await self._end_calls(home, deadline)
            finally:
                try:
                    await finished(home.loop.run_in_executor(None, self._release, place))
                finally:
                    self._lose_all()
                    self._place = self._home = None
                    home.news()
                    if self._display is not None:
                        display, self._display = self._display, None
                        await finished(home.loop.run_in_executor(None, display.close))

    async def _end_calls(self, home: Home, deadline: float) -> None:
        """Wait for the calls that go on, and interrupt them at the end; cancelled, at once."""
        try:
            await home.until(self._has_ended, deadline)
        finally:
            if not self._has_ended():
                for each in (*self._all(), *self._parting):
                    each.cancel()
                await home.until(self._has_ended, home.loop.time() + 1.0)

    def _abandon(self, home: Home, grace: float) -> None:
        """End a bus whose event loop somebody has closed, from any thread."""
        place = self._place
        if not home.give_up() or place is None:
            return
        self.stop("closed")
        deadline = self._monotonic() + grace
        for each in (*self._all(), *self._parting):
            each.join(max(0.0, deadline - self._monotonic()))
        try:
            self._release(place)
        finally:
            self._lose_all()
            self._place = self._home = None
            if self._display is not None:
                display, self._display = self._display, None
                display.close()

    def _lose_all(self) -> None:
        for each in self._all():
            self._lose(each, each.core.waiting, each.unended)
        for each in self._parting:  # what waited for these was counted when they were taken out
            self._lose(each, 0, each.unended)

    def _has_drained(self, end: float) -> bool:
        return self._reason is not None or self._calm_until() > end

    def _has_ended(self) -> bool:
        return not any(each.drivers for each in (*self._all(), *self._parting))

    def _is_over(self) -> bool:
        return self._reason is not None or self._calm_until() == math.inf

    def _calm_until(self) -> float:
        place = self._place
        if place is None or any(each.drivers for each in list(self._parting)):
            return -math.inf
        return place.calm_until()

    def _news(self) -> None:
        """Wake those who wait for something to be so; from any thread."""
        home = self._home
        if home is not None:
            home.news()

    def wait_idle(self, timeout: float | None = None) -> Pending[bool]:
        """Wait until all that was published is handled by the agents of this process.

        What waits in a database for agents that are not here, or run in another process, does not
        count: `PubSubExecutor.channel_map` tells of it.

        In a thread without a running event loop this call blocks for that; in one with a running
        loop ``await`` waits.

        Args:
            timeout: Seconds; None for ever.

        Returns:
            Whether that is so, by `Pending.result` or ``await``; False where it took too long, or
            the bus was stopped.

        Raises:
            InvalidState: The bus does not run.
        """
        self._open_place()
        home = self._home
        assert home is not None
        limit = None if timeout is None else seconds(timeout, "timeout")
        pending = Pending[bool](loop=home.loop)

        async def watch() -> None:
            try:
                deadline = None if limit is None else home.loop.time() + limit
                await home.until(self._is_over, deadline)
                pending.succeed(self._calm_until() == math.inf)
            except BaseException as error:
                pending.fail(error)
                raise

        home.begin(lambda: self._watch(watch()))
        if running_loop() is None:
            pending.result()
        return pending

    def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- until something ends it ------------------------------------------------------------------

    def run(self, spec: WorkflowSpec | None = None) -> PubSubExecutionReport:
        """Run until something ends it, and return what was done; `run_async` for those who await.

        Args:
            spec: `StartWith`, or `Reactive` (by default), with what ends it.

        Raises:
            InvalidState: The bus runs already, as inside of its ``with`` and for its agents.
            Errors of `publish`: For the message of `StartWith`.
        """
        self._refuse_twice()
        from dagger_dsl.runners.loops import run_in_loop  # a block loads nothing of runners

        if running_loop() is None:
            return run_in_loop(self.run_async(spec))
        begun, done = Pending[asyncio.Task[Any]](), Pending[PubSubExecutionReport]()

        async def steered() -> PubSubExecutionReport:
            task = asyncio.current_task()
            assert task is not None
            begun.succeed(task)
            return await self.run_async(spec)

        def work() -> None:
            try:
                done.succeed(run_in_loop(steered()))
            except BaseException as error:
                done.fail(error)
                begun.fail(error)

        # A notebook knows by its context which cell shows what the display draws.
        begin = partial(contextvars.copy_context().run, work)
        threading.Thread(target=begin, name="dagger-pubsub-run", daemon=True).start()
        try:
            return done.result()
        except KeyboardInterrupt:
            # Ctrl-C reaches this thread alone; once more, it leaves the run behind.
            if not done.is_done:
                task = begun.result()
                with contextlib.suppress(RuntimeError):  # it has ended just now
                    task.get_loop().call_soon_threadsafe(task.cancel)
                with contextlib.suppress(asyncio.CancelledError):
                    done.result()
            raise

    async def run_async(self, spec: WorkflowSpec | None = None) -> PubSubExecutionReport:
        """Run until something ends it, with async agents in the loop of the caller; see `run`."""
        chosen = as_spec(spec)
        self._open(Home(asyncio.get_running_loop()), chosen.count)
        try:
            self._show()
            return await self._run(chosen)
        finally:
            await self._shut(self.config.grace, drain=False)

    async def _run(self, spec: WorkflowSpec) -> PubSubExecutionReport:
        home = self._home
        assert home is not None
        try:
            if isinstance(spec, StartWith):
                await self._start_with(spec)
            self.stop(await wait_for_end(self, home, spec))
        except BaseException:
            self.stop("failed")
            raise
        await self._shut(self.config.grace, drain=False)
        return self._report()

    def _activity(self) -> tuple[int, int]:
        return self._published(), sum(each.handled + each.failed for each in self._all())

    # --- no more messages than `count` says -------------------------------------------------------

    def _take_turn(self) -> bool:
        """Return whether one more message may be handed out, and count it; only with a `count`."""
        with self._counting:
            if not self._turns:
                return False
            self._turns -= 1
            return True

    def _give_turn_back(self) -> None:
        """Hear that a message that was handed out is not handled: another one may be."""
        with self._counting:
            assert self._turns is not None
            self._turns += 1
        for each in self._all():
            if each.bell.armed:
                each.bell.ring()

    def _count(self) -> None:
        """Count a message that is handled, and stop after the last one."""
        with self._counting:
            assert self._uncounted is not None
            self._uncounted -= 1
            is_last = self._uncounted == 0
        if is_last:
            self.stop("count")


#: All of this process, so that a forked child knows that they are its parent's.
_alive: Final[weakref.WeakSet[BusLife]] = weakref.WeakSet()


def _begin_anew() -> None:
    for bus in list(_alive):
        bus._lock = threading.RLock()
        bus._counting = threading.Lock()
        bus._home = bus._place = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
