"""`Calling`: one task's call: its agent, time limit, and interruption, in a thread or on the loop.

A crew's threads make the calls of sync agents themselves; async agents run on one event loop, where
they hold no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs

from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.current import inside
from dagger_dsl.agents.endings import Endings
from dagger_dsl.errors import NodeTimeout, StoreError
from dagger_dsl.runners.timed import call_within
from dagger_dsl.store.task_claims import Claim, Ending, TaskClaims

if TYPE_CHECKING:
    from dagger_dsl.agents.admission import CrewLimits
    from dagger_dsl.agents.calls import Caller
    from dagger_dsl.agents.manager import TaskManager

__all__ = ["Calling"]

logger = logging.getLogger("dagger_dsl.agents")

#: Seconds that async agents have to end once they were cancelled.
_LEAVE: Final = 1.0

#: Tasks whose cancelling is remembered for calls that are about to begin, at most.
_CANCELLED: Final = 1000

#: Seconds for which an agent may hold the event loop of all async agents without a word.
_BLOCKED: Final = 1.0


@attrs.frozen(eq=False)
class _Awaited:
    """A call that goes on on the event loop.

    Attributes:
        ctx: The call.
        task: What the loop runs for it.
        began, end: When it began, and when its time is over.
        limit: Seconds that its time limit names.
    """

    ctx: TaskContext
    task: asyncio.Task[None]
    began: float
    end: float
    limit: float


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
        self._cancelled: dict[str, None] = {}  # ids of the tasks that were cancelled last
        self._awaited: dict[Claim, _Awaited] = {}  # who takes one out says what came of it
        self._asked: float | None = None  # since when the event loop has not answered
        self._held_up: set[str] = set()  # agents that have held it for a while

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
                self._send(caller, partial(caller, value, ctx), ctx, limit)
                return None
            answer = self._call(caller, value, ctx, limit)
            if inspect.isawaitable(answer):  # of a wrapper, which does not look like an async one
                left = None if limit is None else limit - (time.monotonic() - begun)
                self._send(caller, lambda: answer, ctx, left, limit)
                return None
            return self._endings.of_answer(caller, ctx, answer)
        except BaseException as error:  # SystemExit, too: it would end this thread, not the task
            return self._endings.of_error(ctx, error, time.monotonic() - begun, called=called)

    def note_cancel(self, task_id: str) -> None:
        """Have a call of a cancelled task that begins only now be interrupted at once."""
        self._cancelled[task_id] = None
        while len(self._cancelled) > _CANCELLED:
            self._cancelled.pop(next(iter(self._cancelled)), None)

    def is_over(self, claim: Claim) -> bool:
        """Whether a task was cancelled, or given to somebody else, as far as that can be read."""
        with contextlib.suppress(StoreError):
            return not self._manager._jobs.is_current(claim.number, claim.version, claim.id)
        return False  # what comes of its call is refused all the same

    def _hear(self, claim: Claim) -> None:
        """Interrupt a call, which can be interrupted from now on, if its task is cancelled."""
        if claim.id in self._cancelled and self.is_over(claim):
            self.interrupt(claim)

    @contextlib.contextmanager
    def _inside(self, ctx: TaskContext) -> Iterator[None]:
        limits = self.limits
        room = contextlib.nullcontext() if limits is None else limits.inside(ctx._claim)
        with inside(ctx), room:
            yield

    def _call(self, caller: Caller, value: Any, ctx: TaskContext, limit: float | None) -> Any:
        with self._inside(ctx):
            if limit is None:
                return _called(caller, value, ctx)
            return self._within(lambda: _called(caller, value, ctx), ctx, limit)

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

    def _send(
        self,
        caller: Caller,
        call: Callable[[], Awaitable[Any]],
        ctx: TaskContext,
        limit: float | None,
        told: float | None = None,
    ) -> None:
        """Let the event loop await what a call gives.

        Args:
            caller, ctx: Whose call.
            call: Made there.
            limit: Seconds that it may take.
            told: Seconds that its time limit names, where a part of them is over; all by default.
        """
        loop = self._event_loop()
        self._sent()
        awaited = self._await(caller, call, ctx, limit, limit if told is None else told)
        context = contextvars.copy_context()
        loop.call_soon_threadsafe(partial(loop.create_task, awaited, context=context))

    async def _await(
        self,
        caller: Caller,
        call: Callable[[], Awaitable[Any]],
        ctx: TaskContext,
        limit: float | None,
        told: float | None,
    ) -> None:
        task, claim, process = asyncio.current_task(), ctx._claim, os.getpid()
        assert task is not None
        began = time.monotonic()
        end = math.inf if limit is None else began + limit
        self._running[claim] = claim, partial(task.get_loop().call_soon_threadsafe, task.cancel)
        self._awaited[claim] = _Awaited(ctx, task, began, end, told or 0.0)
        self._hear(claim)
        answer, failure, time_limit = None, None, asyncio.timeout(limit)
        try:
            with self._inside(ctx):
                async with time_limit:
                    answer = await call()
        except BaseException as error:  # SystemExit, too: it would end the loop of all
            failure = error
        if os.getpid() != process:
            _end_child(ctx, failure)
        awaited = self._awaited.pop(claim, None)
        if awaited is None:  # it was left behind
            return
        ending: Ending | None = None
        try:
            if time_limit.expired() or time.monotonic() >= end:
                ending = self._late(awaited, failure)
            else:
                ending = self._in_time(caller, awaited, answer, failure)
        finally:
            self._running.pop(claim, None)
            self._ended(claim, ending)

    def _in_time(
        self, caller: Caller, awaited: _Awaited, answer: Any, failure: BaseException | None
    ) -> Ending | None:
        """Return the ending of a call on the event loop; None where it was interrupted."""
        ctx = awaited.ctx
        if isinstance(failure, asyncio.CancelledError):
            if ctx._claim not in self._running or self._over:
                return None
            failure = RuntimeError(f"the agent was cancelled from inside: {failure!r}")
        if failure is None:
            try:
                return self._endings.of_answer(caller, ctx, answer)
            except BaseException as error:
                failure = error
        return self._endings.of_error(ctx, failure, time.monotonic() - awaited.began)

    def _late(self, awaited: _Awaited, failure: BaseException | None = None) -> Ending | None:
        """Return the ending of a call on the event loop that took too long, whatever it gave."""
        if awaited.ctx._claim not in self._running:  # interrupted
            return None
        late = NodeTimeout(awaited.ctx.task_id, awaited.limit, "task")
        late.__cause__ = failure
        return self._endings.of_error(awaited.ctx, late, time.monotonic() - awaited.began)

    def look(self) -> None:
        """Leave behind what goes on on the event loop after its time; say what holds that up.

        In a thread beside the loop: what never gives way, or takes no cancelling, ends nothing.
        """
        if not self._awaited:
            self._asked = None
            return
        now = time.monotonic()
        self._ask(now)
        for claim, awaited in list(self._awaited.items()):
            if now < awaited.end + _LEAVE or self._awaited.pop(claim, None) is None:
                continue
            logger.warning(
                "task %r goes on after its time limit, as it takes no cancelling or never gives "
                "way; it is left behind, and what it gives is ignored",
                claim.id,
            )
            ending = self._late(awaited)
            self._running.pop(claim, None)
            self._ended(claim, ending)

    def _ask(self, now: float) -> None:
        """Ask whether the event loop goes on; tell of an agent that has held it for a while."""
        loop, asked = self._loop, self._asked
        assert loop is not None
        if asked is None:
            self._asked = now
            loop.call_soon_threadsafe(self._goes_on)
            return
        if now - asked < _BLOCKED:
            return
        holds = asyncio.current_task(loop)
        for claim, awaited in list(self._awaited.items()):
            if awaited.task is holds and claim.agent not in self._held_up:
                self._held_up.add(claim.agent)
                logger.warning(
                    "agent %r holds the event loop of all async agents since %.1f s, in task %r; "
                    "let it give way: await asyncio.to_thread(...) for what takes long, or write "
                    "it as a plain function, which gets a thread",
                    claim.agent,
                    now - asked,
                    claim.id,
                )

    def _goes_on(self) -> None:
        self._asked = None

    # --- interrupting -----------------------------------------------------------------------------

    def interruptible_calls(self) -> list[Claim]:
        """Return the claims whose calls can be interrupted."""
        return [claim for claim, _ in list(self._running.values())]

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
        self._hear(claim)
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


def _called(caller: Caller, value: Any, ctx: TaskContext) -> Any:
    """Call an agent in this thread; a child that it forks does not come back from that."""
    process = os.getpid()
    try:
        return caller(value, ctx)
    finally:
        if os.getpid() != process:
            _end_child(ctx, sys.exception())


def _end_child(ctx: TaskContext, error: BaseException | None) -> NoReturn:
    """End a forked child that comes back from the call of an agent: the task is its parent's.

    Nothing else of the worker lives in the child, which could only record the task a second time,
    or wait for threads that are not there.
    """
    logger.warning(
        "a child that task %r has forked came back from its agent, and ends here: the task is its "
        "parent's; end such a child by os._exit(), or use subprocess or multiprocessing",
        ctx.task_id,
        exc_info=None if isinstance(error, SystemExit) else error,
    )
    code = error.code if isinstance(error, SystemExit) else error is not None
    os._exit(code if isinstance(code, int) else code is not None)
