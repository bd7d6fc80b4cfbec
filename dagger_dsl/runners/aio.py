"""Async calls as tasks of one event loop; plain functions beside it in worker threads.

A task keeps making calls as long as it finds released ones, so a chain costs no new task per node.
Time limits and halts cancel the call, never the task that makes it. Tasks and threads draw on the
same tokens: together they never make more calls than the board has slots.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Collection, Coroutine
from math import inf
from typing import Any

from dagger_dsl.runners.base import ASYNC, TIMED, Board, Overran, Reply, awaited
from dagger_dsl.runners.loops import run_in_loop
from dagger_dsl.runners.threads import Crew

__all__ = ["AsyncRunner", "LoopRunner", "run_blocking"]

# A call that never suspends would starve the loop; after so long a task lets others run.
_BREATH = 0.0005


class AsyncRunner:
    """Makes async calls on the running loop.

    Args:
        inline: Make plain calls on the loop's thread as well, one call at a time (the sequential
            order); otherwise they go to worker threads.
    """

    def __init__(self, *, inline: bool = False) -> None:
        self.inline = inline

    async def run(self, board: Board) -> None:
        """Return when the run is over; a cancelled caller ends the run's own tasks first."""
        await _Loop(board, self.inline).run()


class LoopRunner:
    """Makes async calls on a loop of its own, and blocks until the run is over.

    Args:
        inline: As for `AsyncRunner`.
    """

    def __init__(self, *, inline: bool = False) -> None:
        self.inline = inline

    def run(self, board: Board) -> None:
        """Block until the run is over."""
        run_blocking(AsyncRunner(inline=self.inline), board)


class _Loop:
    """The tasks of one run on one event loop."""

    def __init__(self, board: Board, inline: bool) -> None:
        self.board = board
        self.inline = inline
        self.loop = asyncio.get_running_loop()
        self.changed = asyncio.Event()
        self.crew = Crew(board, self._ring)
        self.crew.hand_over = self._hand_over
        self.crew.alone = inline
        self.idle: list[asyncio.Future[None]] = []
        self.hands = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.current: dict[int, asyncio.Task[None]] = {}
        self.asides: set[asyncio.Task[Any]] = set()
        self.halted: set[int] = set()
        self.context = contextvars.copy_context()
        board.ring = self._ring
        board.halt = self._halt
        board.spawn = self._spawn
        board.beyond = frozenset((TIMED,)) if inline else frozenset()
        board.lingers = True  # for the caller's loop, and for tasks that end

    def _post(self, call: Callable[..., None], *arguments: Any) -> bool:
        """Have the loop make a call soon, from whichever thread; False when it is closed."""
        try:
            self.loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the run is over and nobody listens
            self.crew.over = True
            return False
        return True

    def _ring(self) -> None:
        self._post(self.changed.set)

    def _halt(self, slots: Collection[int]) -> None:
        self._post(self._halt_here, tuple(slots))

    def _halt_here(self, slots: tuple[int, ...]) -> None:
        for slot in slots:
            task = self.current.get(slot)
            if task is not None and slot not in self.halted:
                self.halted.add(slot)
                task.cancel()

    def _spawn(self, coroutine: Coroutine[Any, Any, Any], reply: Reply) -> None:
        """Await something beside the calls, from whichever thread."""

        def begin() -> None:
            task = self.loop.create_task(awaited(coroutine), context=self.context.copy())
            reply.cancel = lambda: self._cancel(task)
            self.asides.add(task)
            task.add_done_callback(deliver)

        def deliver(task: asyncio.Task[Any]) -> None:
            self.asides.discard(task)
            if task.cancelled():
                reply.give(None, TimeoutError("it did not end before the run did"))
            else:
                error = task.exception()
                reply.give(None if error is not None else task.result(), error)
            self.changed.set()

        if not self._post(begin):
            coroutine.close()
            reply.give(None, TimeoutError("the run has ended"))

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        def cancel() -> None:
            task.cancel()

        self._post(cancel)

    def _hand_over(self) -> None:
        """Take a token, from whichever thread."""
        self._post(self._wake)

    def _wake(self) -> None:
        if self.crew.over:
            return
        while self.idle:
            waiting = self.idle.pop()
            if not waiting.done():
                waiting.set_result(None)
                return
        self.hands += 1
        seat = self.board.slots + self.hands - 1
        task = self.loop.create_task(self._hand(seat), context=self.context.copy())
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            assert error is not None
            self.crew.fail(error)

    async def run(self) -> None:
        board, crew, clock = self.board, self.crew, self.board.clock
        interrupted: asyncio.CancelledError | None = None
        try:
            while True:
                crew.alarm = inf  # while we look, whoever sets a deadline rings
                self.changed.clear()
                nearest = crew.expire(clock())
                if not crew.step(clock(), driving=True):
                    break
                try:
                    await self._sleep(crew.set_alarm(nearest) - clock())
                except asyncio.CancelledError as error:
                    if interrupted is not None:
                        raise
                    interrupted = error
                    board.interrupt()
        finally:
            crew.finish()
            await self._end_tasks()
        if interrupted is not None:
            raise interrupted
        if crew.error is not None:
            raise crew.error

    async def _sleep(self, seconds: float) -> None:
        if seconds == inf:
            await self.changed.wait()
            return
        timer = self.loop.call_later(max(0.0, min(seconds, 3600.0)), self.changed.set)
        try:
            await self.changed.wait()
        finally:
            timer.cancel()

    async def _end_tasks(self) -> None:
        for waiting in self.idle:
            if not waiting.done():
                waiting.set_result(None)
        left: list[asyncio.Task[Any]] = [task for task in self.tasks if not task.done()]
        for aside in self.asides:
            aside.cancel()
        left += self.asides
        for slot in list(self.current):
            self.halted.add(slot)
        for task in left:
            if task in self.current.values():
                task.cancel()
        if left:
            await asyncio.wait(left, timeout=5.0)

    async def _hand(self, seat: int) -> None:
        """Make calls with a token in hand; give it back and wait when there is none to make."""
        crew, clock, go = self.crew, self.board.clock, self.board.go
        now = clock()
        breath = now + _BREATH
        while crew.step(now):
            if not go:
                if not await self._rest(give_back=True):
                    return
                breath = clock() + _BREATH
            elif now >= breath:
                await asyncio.sleep(0)
                breath = clock() + _BREATH
            now = await self._make_calls(seat, breath)

    async def _make_calls(self, seat: int, breath: float) -> float:
        """Make released calls until none is left or somebody else is due; return the clock."""
        board, kinds, calls, bindings = (
            self.board,
            self.board.kinds,
            self.board.calls,
            self.board.bindings,
        )
        go, flight, clock, values = board.go, board.flight, board.clock, board.values
        started, ended, current = board.started, board.ended, self.current
        answer: Any
        task = asyncio.current_task()
        assert task is not None
        now = clock()
        while go:
            try:
                slot = go.popleft()
            except IndexError:  # a thread was faster
                break
            kind = kinds[slot]
            if not kind & ASYNC and not self.inline:
                go.appendleft(slot)
                answer = None
                self.crew.wake()  # the token goes to a thread
                await self._rest(give_back=False)
                return clock()
            if board.announce is not None and not board.announce(slot, clock()):
                continue
            flight[seat] = slot
            current[slot] = task
            started[slot] = clock()
            answer = None
            try:
                if not kind & ASYNC:
                    answer = calls[slot](*board.arguments(slot))
                elif kind & TIMED:
                    answer = await self._limited(slot)
                else:
                    where = bindings[slot]
                    if where is None:
                        answer = await calls[slot]()
                    elif where.__class__ is int:
                        answer = await calls[slot](values[where])
                    else:
                        answer = await calls[slot](*board.arguments(slot))
            except BaseException as error:
                if slot in self.halted:
                    task.uncancel()
                now = ended[slot] = clock()
                board.odd.append((slot, error))
                return now
            finally:
                del current[slot]
            now = ended[slot] = clock()
            if not board.settle(slot, answer) or now >= board.due or now >= breath:
                break
        answer = None  # tracebacks of what bodies have raised hold this frame
        return now

    async def _rest(self, *, give_back: bool) -> bool:
        waiting = self.loop.create_future()
        self.idle.append(waiting)
        if give_back:
            self.crew.tokens.append(None)
            if self.board.go:  # released by another thread between our last look and now
                self.crew.spread(len(self.board.go))
        if self.crew.over:
            return False
        await waiting
        return not self.crew.over

    async def _limited(self, slot: int) -> Any:
        limit = self.board.limits[slot]
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                return await self.board.calls[slot](*self.board.arguments(slot))
        except TimeoutError:
            if deadline.expired():
                raise Overran(limit) from None
            raise


def run_blocking(runner: AsyncRunner, board: Board) -> None:
    """Run *board* on a loop of our own: in this thread, or in a helper where one runs already.

    Jupyter is the case of a running loop; the helper thread is waited for. Ctrl-C reaches the
    waiting thread: the first one asks the run to end, a second one leaves it behind.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        run_in_loop(runner.run(board))
        return
    import threading

    failure: list[BaseException] = []

    def helper() -> None:
        try:
            run_in_loop(runner.run(board))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(
        target=contextvars.copy_context().run,
        args=(helper,),
        name="dagger-dsl-loop",
        daemon=True,
    )
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        board.interrupt()
        thread.join()
        raise
    if failure:
        raise failure[0]
