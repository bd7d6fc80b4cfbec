"""`Calling`: one task's call: its agent, time limit, and interruption, in a thread or on the loop.

A crew's threads make the calls of sync agents themselves; async agents run on one event loop, where
they hold no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.current import inside
from dagger_dsl.agents.endings import Endings
from dagger_dsl.errors import NodeTimeout
from dagger_dsl.runners.timed import call_within
from dagger_dsl.store.task_claims import Claim, Ending, TaskClaims

if TYPE_CHECKING:
    from dagger_dsl.agents.admission import CrewLimits
    from dagger_dsl.agents.calls import Caller
    from dagger_dsl.agents.manager import TaskManager

__all__ = ["Calling"]

logger = logging.getLogger("dagger_dsl.agents")

#: Seconds that who stops waits for async agents that were cancelled.
_LEAVE: Final = 1.0


class Calling:
    """Calls the agents of the tasks that a crew has claimed.

    Args:
        manager: Whose tasks.
        sent: Called before the event loop goes on with a call.
        ended: Called, on that loop, with such a call's claim, and what came of it: None where its
            task is somebody else's by now.

    Attributes:
        limits: What else has to have room for a call; None where nothing has to.
    """

    def __init__(
        self,
        manager: TaskManager,
        sent: Callable[[], object],
        ended: Callable[[Claim, Ending | None], object],
    ) -> None:
        self.limits: CrewLimits | None = None
        self._manager = manager
        self._claims: TaskClaims = manager._claims
        self._endings = Endings(manager._claims, manager.registry)
        self._sent = sent
        self._ended = ended
        self._over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._beginning = threading.Lock()
        self._running: dict[object, tuple[Claim, Callable[[], object]]] = {}  # interruptible calls

    # --- calling ----------------------------------------------------------------------------------

    def run(self, claim: Claim) -> Ending | None:
        """Call the agent; return what came of it, None where the event loop goes on with it."""
        ctx = TaskContext(self._manager, claim)
        begun = time.monotonic()
        called = False
        try:
            caller = self._manager._roster.caller(claim.agent)
            limit = claim.spec.get("timeout", caller.agent.timeout)
            value = self._claims.value(*claim.payload)
            caller.check_input(value)
            if self.limits is not None:
                self.limits.check(claim.agent)
            called = True
            if caller.is_async:
                self._send(caller, value, ctx, limit)
                return None
            return self._endings.of_answer(caller, ctx, self._call(caller, value, ctx, limit))
        except BaseException as error:  # SystemExit, too: it would end this thread, not the task
            return self._endings.of_error(ctx, error, time.monotonic() - begun, called=called)

    @contextlib.contextmanager
    def _inside(self, ctx: TaskContext) -> Iterator[None]:
        limits = self.limits
        room = contextlib.nullcontext() if limits is None else limits.inside(ctx._claim)
        with inside(ctx), room:
            yield

    def _call(self, caller: Caller, value: Any, ctx: TaskContext, limit: float | None) -> Any:
        with self._inside(ctx):
            if limit is None:
                return caller(value, ctx)
            return self._within(lambda: caller(value, ctx), ctx, limit)

    def _within(self, call: Callable[[], Any], ctx: TaskContext, limit: float) -> Any:
        """Make a call in a thread of its own, which is left behind when its time is over."""

        def late() -> NodeTimeout:
            logger.warning(
                "task %r is left behind in its thread, which cannot be stopped", ctx.task_id
            )
            return NodeTimeout(ctx.task_id, limit, "task")

        return call_within(call, limit, f"dagger-task-{ctx.task_id}", late)

    # --- on the event loop ------------------------------------------------------------------------

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of all async agents, which begins with their first call."""
        with self._beginning:
            if self._loop is None:
                ready = threading.Event()
                self._thread = threading.Thread(
                    target=self._serve, args=(ready,), name="dagger-worker-loop", daemon=True
                )
                self._thread.start()
                ready.wait()
        assert self._loop is not None
        return self._loop

    def _serve(self, ready: threading.Event) -> None:
        with asyncio.Runner() as runner:
            self._loop = loop = runner.get_loop()
            ready.set()
            loop.run_forever()

    def _send(self, caller: Caller, value: Any, ctx: TaskContext, limit: float | None) -> None:
        """Let the event loop call an async agent."""
        loop = self._event_loop()
        self._sent()
        awaited = self._await(caller, value, ctx, limit)
        context = contextvars.copy_context()
        loop.call_soon_threadsafe(partial(loop.create_task, awaited, context=context))

    async def _await(
        self, caller: Caller, value: Any, ctx: TaskContext, limit: float | None
    ) -> None:
        task, claim = asyncio.current_task(), ctx._claim
        assert task is not None
        loop, begun = task.get_loop(), time.monotonic()
        self._running[claim] = claim, partial(loop.call_soon_threadsafe, task.cancel)
        ending: Ending | None = None
        try:
            with self._inside(ctx):
                async with asyncio.timeout(limit) as time_limit:
                    answer = await caller(value, ctx)
            ending = self._endings.of_answer(caller, ctx, answer)
        except asyncio.CancelledError as error:
            if claim in self._running and not self._over:  # by the agent itself
                failure = RuntimeError(f"the agent was cancelled from inside: {error!r}")
                ending = self._endings.of_error(ctx, failure, time.monotonic() - begun)
        except BaseException as error:  # SystemExit, too: it would end the loop of all
            late = isinstance(error, TimeoutError) and time_limit.expired()
            known = NodeTimeout(claim.id, limit or 0.0, "task") if late else error
            ending = self._endings.of_error(ctx, known, time.monotonic() - begun)
        finally:
            self._running.pop(claim, None)
            self._ended(claim, ending)

    # --- interrupting -----------------------------------------------------------------------------

    def interruptible_calls(self, task_id: str) -> list[Claim]:
        """Return the claims of a task whose calls can be interrupted."""
        return [claim for claim, _ in list(self._running.values()) if claim.id == task_id]

    def interrupt(self, claim: Claim) -> None:
        """Interrupt the calls of a claim that can be."""
        for key, (running, cancel) in list(self._running.items()):
            if running is claim and self._running.pop(key, None) is not None:
                cancel()

    @contextlib.contextmanager
    def interruptible(self, claim: Claim, cancel: Callable[[], object]) -> Iterator[None]:
        """Let `cancel` interrupt what the call of a task is waiting for."""
        key = object()
        self._running[key] = claim, cancel
        try:
            yield
        finally:
            self._running.pop(key, None)

    def interrupt_all(self) -> None:
        """Interrupt the calls that can be; what they give belongs to nobody any more."""
        self._over = True
        for _, cancel in list(self._running.values()):
            cancel()

    def close(self) -> None:
        """Cancel what is left on the event loop, and end that."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_LEAVE)
