"""`Crew`: the workers of one process: threads that claim tasks, call agents, and hand in results.

The threads share one desk. Who has ended a task goes to it, and hands in what has ended meanwhile,
its own and others', and takes what may begin, for itself and for those who wait, in one commit; the
others do not wait for it but where they have nothing to do. Nothing polls while there is work; a
crew without any looks at the database now and then, as other processes may have added tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as OutOfTime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.signals import Blocked, NeedsMoreInfo
from dagger_dsl.agents.vigil import Vigil, offset_of
from dagger_dsl.errors import AgentNotFound, NodeTimeout, StoreError
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.model.tasks import TaskStatus
from dagger_dsl.retry import decide
from dagger_dsl.store.task_claims import Claim, Ending, TaskClaims

if TYPE_CHECKING:
    from dagger_dsl.agents.calls import Caller
    from dagger_dsl.agents.manager import TaskManager
    from dagger_dsl.store.database import Database

__all__ = ["Crew"]

logger = logging.getLogger("dagger_dsl.agents")

#: Seconds between two looks at the database while there is nothing to do: at first, and at most.
_SOON: Final = 0.01
_LATER: Final = 0.25

#: Seconds between two tries while nothing can be recorded, at most.
_LATEST: Final = 5.0

#: Seconds between two looks for workers of this host that have died, at most.
_PATROL: Final = 0.5

#: Seconds that who stops waits for a commit that goes on.
_LEAVE: Final = 5.0

#: Seconds between two signs of life, at most: others may have a shorter lease.
_BEAT: Final = 5.0

#: What the documents' agents fail with to say that their task waits.
_NEEDS_MORE: Final = "needs_more_info"


class Crew:
    """Threads that run the tasks of some agents.

    Args:
        manager: Whose.
        callers: The agents, by name.
        size: Threads.
        name: What the workers are called in the record; no other crew has it.
        lease: Seconds without a sign of life after which others may take the tasks over.
        told: Called with the endings that were recorded, after each commit.

    Attributes:
        trouble: Why nothing can be recorded now; None where it can.
    """

    def __init__(
        self,
        manager: TaskManager,
        callers: Mapping[str, Caller],
        size: int,
        name: str,
        lease: float,
        told: Callable[[list[Ending]], object] | None = None,
    ) -> None:
        self.name = name
        self.trouble: Exception | None = None
        self._told = told
        self._manager = manager
        self._claims: TaskClaims = manager._claims
        self._database: Database = manager._store.database
        self._callers = callers
        self._agents = tuple(callers)
        self._size = size
        self._lease = lease
        self._desk = threading.Condition()
        self._ended: deque[Ending] = deque()
        self._claimed: deque[Claim] = deque()
        self._idle = 0
        self._at_desk = False
        self._stopping = False
        self._over = False
        self._woken = False
        self._pause = _SOON
        self._due: float | None = None
        self._looked_at: float | None = None
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[str, Callable[[], object]] = {}
        self._stop = threading.Event()
        self._offset = offset_of(name)
        self._patience = _LATER
        self._calls: set[Claim] = set()
        self._lost = 0

    # --- from outside -----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self._database.locking().try_lock(self._offset)
        if any(each.is_async for each in self._callers.values()):
            ready = threading.Event()
            self._begin("loop", partial(self._serve, ready))
            ready.wait()
        for number in range(self._size):
            self._begin(str(number), self._work)
        if not self._database.is_memory:
            self._begin("patrol", self._look_after)

    def _begin(self, what: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=f"dagger-worker-{what}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, ready: threading.Event) -> None:
        """Run the event loop of all async agents until the crew stops, which cancels them."""
        with asyncio.Runner() as runner:
            self._loop = loop = runner.get_loop()
            ready.set()
            loop.run_forever()

    def wake(self) -> None:
        """Say that there may be something to do."""
        with self._desk:
            self._woken = True
            self._pause = _SOON
            self._desk.notify()

    def stop(self, grace: float) -> int:
        """Begin nothing more; after *grace* seconds give back what has not ended.

        Args:
            grace: Seconds.

        Returns:
            How many calls were left behind, in threads that cannot be stopped.
        """
        with self._desk:
            self._stopping = True
            self._desk.notify_all()
        self._stop.set()
        deadline = time.monotonic() + grace
        workers = [each for each in self._threads if "loop" not in each.name]
        for each in workers:
            if each is not threading.current_thread():
                each.join(max(0.0, deadline - time.monotonic()))
        with self._desk:
            self._over = True  # what ends from now on belongs to others
            self._desk.notify_all()
            self._desk.wait_for(lambda: not self._at_desk, _LEAVE)
            endings = list(self._ended)
            endings += [Ending(each, TaskStatus.READY) for each in self._claimed]  # not begun
            self._ended.clear()
            self._claimed.clear()
        with contextlib.suppress(StoreError):
            if endings:
                self._tell(endings, self._claims.exchange(self.name, endings)[1])
            self._claims.rescue(self.name, cause="its worker was stopped")
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            for each in self._threads:
                if each not in workers:
                    each.join(1.0)
        self._database.locking().unlock(self._offset)
        return len(self._calls)

    def cancel(self, task_id: str) -> None:
        """Interrupt the call of a task, where it can be: an async one."""
        cancel = self._running.get(task_id)
        if cancel is not None:
            cancel()

    # --- the desk ---------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            claim = self._next()
            if claim is None:
                return
            self._calls.add(claim)
            ending = self._run(claim)
            self._calls.discard(claim)
            self._ended.append(ending)

    def _next(self) -> Claim | None:
        """Return what this thread does next, None when it may go home."""
        with self._desk:
            self._idle += 1
            try:
                while True:
                    if self._over or (self._stopping and not self._ended):
                        return None
                    if self._claimed and not self._stopping:
                        return self._claimed.popleft()
                    if self._at_desk or (not self._ended and not self._is_time()):
                        self._wait()
                        continue
                    self._go_to_desk()
            finally:
                self._idle -= 1

    def _is_time(self) -> bool:
        if self._woken:
            self._woken = False
            return True
        return self._looked_at is None or time.monotonic() >= self._looked_at + self._pause

    def _wait(self) -> None:
        if self._at_desk:
            self._desk.wait()
            return
        left = self._pause
        if self._looked_at is not None:
            left = self._looked_at + self._pause - time.monotonic()
        self._desk.wait(max(0.0, left))

    def _go_to_desk(self) -> None:
        """Hand in and take, without the others; called with the desk's lock, which is lent out."""
        self._at_desk = True
        endings = [self._ended.popleft() for _ in range(len(self._ended))]
        wanted = 0 if self._stopping else self._idle - len(self._claimed)
        self._desk.release()
        claims: list[Claim] = []
        try:
            claims = self._exchange(endings, wanted)
        finally:
            self._desk.acquire()
            self._at_desk = False
            self._looked_at = time.monotonic()
            self._claimed.extend(claims)
            self._pause = _SOON if claims or endings else min(_LATER, self._pause * 1.5)
            self._desk.notify_all()

    def _exchange(self, endings: list[Ending], wanted: int) -> list[Claim]:
        try:
            if self._due is None or self._claims.now() >= self._due:
                self._due = self._claims.wake()
            if not endings and not self._claims.has_ready(self._agents):
                return []  # who has nothing to do must not keep others from writing
            claims, late = self._claims.exchange(
                self.name, endings, agents=self._agents, wanted=wanted
            )
            self.trouble = None
        except Exception as error:
            # Trouble with storage is no result: it is handed in again. Nor is a fault of ours.
            self._ended.extendleft(reversed(endings))
            self._trouble(error)
            return []
        for each in endings:
            if each.due_at is not None:
                self._due = min(each.due_at, self._due or each.due_at)
        if endings:
            self._tell(endings, late)
            self._manager._changed()
        return claims

    def _tell(self, endings: list[Ending], late: list[Ending]) -> None:
        for each in late:
            logger.warning(
                "task %r ended after it was given to somebody else; its outcome is refused",
                each.claim.id,
            )
        if self._told is not None:
            self._told([each for each in endings if each not in late])

    def _trouble(self, error: Exception) -> None:
        pause = _LATER if self.trouble is None else min(_LATEST, 2 * self._patience)
        self.trouble, self._patience = error, pause
        logger.warning(
            "the tasks cannot be recorded now, which is tried again in %g s: %s",
            pause,
            error,
            exc_info=not isinstance(error, StoreError),
        )
        if self._stop.wait(pause):
            time.sleep(_SOON)

    # --- one task ---------------------------------------------------------------------------------

    def _run(self, claim: Claim) -> Ending:
        """Call the agent; return what came of it."""
        ctx = TaskContext(self._manager, claim)
        begun = time.monotonic()
        caller = self._callers[claim.agent]
        limit = claim.spec.get("timeout", caller.agent.timeout)
        try:
            value = self._claims.value(*claim.payload)
            caller.check_input(value)
            answer = self._call(caller, value, ctx, limit)
            caller.check_output(answer)
            return Ending(
                claim,
                TaskStatus.COMPLETED,
                self._claims.encoded(answer, f"the result of task {claim.id!r}"),
            )
        except Blocked as blocked:
            asks = not blocked.on and not ctx._adds
            return Ending(
                claim, TaskStatus.BLOCKED, error=blocked.reason, needs=blocked.on, asks=asks
            )
        except StoreError:
            logger.exception("task %r met trouble with the database and is given back", claim.id)
            return Ending(claim, TaskStatus.READY, error="trouble with the database")
        except BaseException as error:  # SystemExit, too: it would end this thread, not the task
            return self._failed(claim, ctx, error, time.monotonic() - begun)

    def _call(self, caller: Caller, value: Any, ctx: TaskContext, limit: float | None) -> Any:
        with self._manager._inside(ctx):
            if caller.is_async:
                return self._await(caller(value, ctx), ctx, limit)
            if limit is None:
                return caller(value, ctx)
            return self._within(lambda: caller(value, ctx), ctx, limit)

    def _within(self, call: Callable[[], Any], ctx: TaskContext, limit: float) -> Any:
        """Make a call in a thread of its own, which is left behind when its time is over."""
        future: Future[Any] = Future()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                future.set_result(context.run(call))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name=f"dagger-task-{ctx.task_id}", daemon=True).start()
        try:
            return future.result(limit)
        except OutOfTime:
            if future.done():
                raise
            logger.warning(
                "task %r is left behind in its thread, which cannot be stopped", ctx.task_id
            )
            raise NodeTimeout(ctx.task_id, limit) from None

    def _await(
        self, answer: Coroutine[Any, Any, Any], ctx: TaskContext, limit: float | None
    ) -> Any:
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(_outcome(answer), self._loop)
        self._running[ctx.task_id] = future.cancel
        try:
            value, left = future.result(limit)
            if left is not None:
                raise left
            return value
        except OutOfTime:
            if future.done():
                raise
            future.cancel()
            raise NodeTimeout(ctx.task_id, limit or 0.0) from None
        finally:
            self._running.pop(ctx.task_id, None)

    def _failed(self, claim: Claim, ctx: TaskContext, error: BaseException, took: float) -> Ending:
        waits = isinstance(error, NeedsMoreInfo) or str(error) == _NEEDS_MORE
        if waits or ctx._parks:
            return Ending(claim, TaskStatus.BLOCKED, error=str(error), asks=not ctx._adds)
        agent = self._callers[claim.agent].agent
        policy = agent.retry or RetryPolicy(max_attempts=1)
        if claim.spec.get("max_retries") is not None:
            policy = policy.with_attempts(claim.spec["max_retries"] + 1)
        delay = decide(policy, claim.retries + 1, error, took)
        text = "".join(traceback.format_exception_only(error)).strip()
        if delay is None:
            logger.debug("task %r failed", claim.id, exc_info=error)
            return Ending(claim, TaskStatus.FAILED, error=text)
        logger.warning("task %r failed (%s), retrying in %.1f s", claim.id, text, delay)
        return Ending(
            claim,
            TaskStatus.PENDING,
            error=text,
            due_at=self._claims.now() + delay,
            retried=True,
        )

    # --- looking after ----------------------------------------------------------------------------

    def _look_after(self) -> None:
        """Show that this crew lives, and take over what others leave when they die."""
        vigil = Vigil(self._database, self.name, _host(), self._lease)
        beaten = time.monotonic()
        while not self._stop.wait(min(_PATROL, self._lease / 6)):
            try:
                if time.monotonic() - beaten >= min(_BEAT, self._lease / 3):
                    beaten = time.monotonic()
                    self._beat()
                self._rescue(vigil)
            except Exception as error:  # whatever it is, this thread has to live
                if self._stop.is_set():
                    return
                logger.warning("could not look for tasks of dead workers: %s", error)

    def _beat(self) -> None:
        calls = self._calls.copy()
        if not calls:
            return
        lost = len(calls & self._calls) - self._claims.beat(self.name, self._lease)
        if lost > max(0, self._lost):
            logger.warning(
                "tasks that run here were given to other workers, as this process gave no sign of "
                "life for %g s; what comes of %d calls is refused",
                self._lease,
                lost,
            )
        self._lost = lost

    def _rescue(self, vigil: Vigil) -> None:
        for owner, cause in vigil.gone(self._claims.owners()):
            again = self._claims.rescue(owner, cause=cause)
            logger.warning("worker %s: %s; %d of its tasks run again", owner, cause, len(again))
            self.wake()


async def _outcome(answer: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """Await an answer; what would end the loop with all other calls is returned."""
    try:
        return await answer, None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


def _host() -> str:
    from dagger_dsl.store.ownership import this_owner

    owner = this_owner()
    return owner.boot or owner.host


def worker_name() -> str:
    """Return a name for a crew of this process: no other has it, and others know its host by it."""
    from dagger_dsl.store.ownership import this_owner

    return f"{os.getpid()}-{this_owner().token[:8]}-{os.urandom(3).hex()}@{_host()}"


def agent_missing(name: str, known: list[str]) -> AgentNotFound:
    """Return what to raise for an agent that nobody has registered."""
    from dagger_dsl.errors import did_you_mean

    return AgentNotFound(
        f"no agent {name!r} is registered{did_you_mean(name, known)}; import its module, or "
        "decorate it with @task_agent"
    )
