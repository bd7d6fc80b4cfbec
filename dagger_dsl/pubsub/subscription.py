"""`Subscription`: one agent at work on its messages.

What is done with a message is written once, as a generator that yields what it waits for: None
where there is nothing to do, else an answer that has to be awaited. A thread drives it for a sync
agent, a task for an async one; each as often as the agent takes messages at a time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, Protocol

from dagger_dsl.errors import (
    DaggerError,
    ExecutionError,
    InputValidationError,
    RunCancelled,
    visible,
)
from dagger_dsl.model.messages import DeadLetter, Message, error_text
from dagger_dsl.pubsub.context import MessageContext
from dagger_dsl.pubsub.delivery import Delivery, SharedDelivery
from dagger_dsl.pubsub.report import AgentStats
from dagger_dsl.pubsub.waiting import LoopBell, Publication, ThreadBell, running_loop
from dagger_dsl.retry import decide

if TYPE_CHECKING:
    from dagger_dsl.pubsub.calls import Caller
    from dagger_dsl.pubsub.channels import Channel
    from dagger_dsl.pubsub.executor import PubSubExecutor
    from dagger_dsl.pubsub.home import Home
    from dagger_dsl.store.storage import Store

__all__ = ["Place", "Subscription"]

logger = logging.getLogger("dagger_dsl.pubsub")

#: After so many messages in one go an async agent lets others go on.
_TURN: Final = 256


class Place(Protocol):
    """Where messages are kept until they are handled: memory, or a database.

    Attributes:
        choked: Whether publications wait for room, so that who makes room calls `made_room`.
        rechecks: Whether messages may come that were not checked when they were published here.
    """

    choked: bool
    rechecks: bool

    @property
    def store(self) -> Store | None:
        """The database that they are kept in; None for memory."""
        ...

    def now(self) -> float:
        """Return the time, by the clock that tells when failed messages are due again."""
        ...

    def open(self) -> None:
        """Begin to keep messages."""
        ...

    def stop(self) -> None:
        """Hear that agents are given nothing more, so that nobody makes room; from any thread."""
        ...

    def close(self) -> None:
        """Keep no more; what was settled is recorded first."""
        ...

    def join(self, *subscriptions: Subscription) -> None:
        """Give all of them what is published from now on, and what waits for them; or none."""
        ...

    def leave(self, subscription: Subscription, *, forget: bool) -> None:
        """Give it nothing more; forgotten, it misses what is published from now on."""
        ...

    def is_here(self, subscription: Subscription) -> bool:
        """Return whether this process gives a subscription its messages, and not another one."""
        ...

    def forget(self, name: str) -> bool | None:
        """Let an agent that is nowhere miss what is published, and lose what waits for it.

        Returns:
            None where there is no such agent, False where another process has it.
        """
        ...

    def submit(
        self,
        channel: Channel,
        publication: Publication,
        ctx: MessageContext | None,
        *,
        wait: bool,
    ) -> None:
        """Take a message over, now or when there is room.

        Args:
            channel: Where.
            publication: What; it is told.
            ctx: The call during which it was published; None where there was none.
            wait: Whether it may wait for room.
        """
        ...

    def withdraw(self, publication: Publication, waited: float) -> BaseException | None:
        """Take a publication back that waits; return None where it was published after all.

        Args:
            publication: Which.
            waited: For how many seconds somebody has waited for it, for the error.
        """
        ...

    def made_room(self) -> None:
        """Let publications in that wait."""
        ...

    def settle(self, subscription: Subscription, message: Message, held: list[Publication]) -> None:
        """Record that a message was handled, with what was published meanwhile."""
        ...

    def postpone(
        self, subscription: Subscription, message: Message, due: float, attempts: int, error: str
    ) -> None:
        """Record that a message is given again at a later time."""
        ...

    def bury(self, subscription: Subscription, letter: DeadLetter) -> Publication | None:
        """Record that a message is given up.

        Returns:
            What is published of that, for which the agent has to wait; None for nothing.
        """
        ...

    def rested(self) -> None:
        """Hear that an agent has nothing to do, while somebody waits for that."""
        ...

    def calm_until(self) -> float:
        """Return when there is something to do again while nothing is published.

        Returns:
            By the clock of `now`: infinity where nothing waits and nothing is being handled; when a
            failed message is due where nothing else is left; minus infinity in all other cases.
        """
        ...

    def dead_letters(self, agent: str | None) -> list[DeadLetter]:
        """Return the messages that were given up, the oldest first."""
        ...

    def given_up(self, agent: str | None) -> set[str] | None:
        """Return the ids of the messages that were given up; None where there is no such agent."""
        ...

    def replay(self, agent: str | None, ids: set[str] | None) -> int:
        """Give messages again that were given up; return how many."""
        ...

    def discard(self, agent: str | None, ids: set[str] | None) -> int:
        """Forget messages that were given up; return how many."""
        ...


class Subscription:
    """One agent of a running bus.

    Args:
        bus: Whose.
        caller: The agent.
        home: Where async agents run.

    Attributes:
        name: The agent's name.
        core: The messages that wait for it.
        bell: Wakes its calls.
        sleeping: How many of its drivers have nothing to do.
        drivers: How many there are, living ones.
        stopped: Whether it is given nothing more.
        watched: Whether its place hears each time that it has nothing to do.
        handled, failed, retried, dead: See `AgentStats`.
        letters: What it has given up, the newest ones.
    """

    def __init__(self, bus: PubSubExecutor, caller: Caller, place: Place, home: Home) -> None:
        self.bus = bus
        self.name = caller.name
        self.caller = caller
        self.place = place
        count = caller.agent.concurrency
        self._shared = count > 1 and not caller.is_async
        self.core: Delivery = SharedDelivery(count) if self._shared else Delivery(count)
        self.bell: LoopBell | ThreadBell = LoopBell(home.loop) if caller.is_async else ThreadBell()
        self.policy = caller.agent.retry or bus.config.retry
        self.sleeping = 0
        self.drivers = 0
        self.stopped = False
        self.watched = False
        self.handled = self.failed = self.retried = self.dead = 0
        self._taken_back = 0
        self._cut_off = 0
        self.letters: deque[DeadLetter] = deque(maxlen=bus.config.dead_letters)
        # Messages that were failed on, and since when: a policy may give up after a time.
        self._failing: dict[int, float] = {}
        self._home = home
        self._lock = threading.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._threads: list[threading.Thread] = []

    def __repr__(self) -> str:
        return f"<Subscription of agent {self.name!r}>"

    @property
    def stats(self) -> AgentStats:
        """What it has done so far."""
        handled = self.handled - self._taken_back
        return AgentStats(handled, self.failed, self.retried, self.dead, self.core.waiting)

    @property
    def calm_until(self) -> float:
        """When it has something to do again while nothing comes; see `Place.calm_until`."""
        with self._lock:  # who wakes needs it, so nobody takes a message between the two looks
            return self.core.calm_until() if self.sleeping == self.drivers else -math.inf

    @property
    def unended(self) -> int:
        """How many calls were interrupted, or are left behind, once it has come to its end."""
        with self._lock:
            return self._cut_off + self.drivers - self.sleeping

    # --- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to handle messages; called in the thread of the loop."""
        self.drivers = self.caller.agent.concurrency
        for number in range(self.drivers):
            if self.caller.is_async:
                self._tasks.append(self._home.loop.create_task(self._drive()))
            else:
                name = f"dagger-agent-{self.name}-{number}"
                thread = threading.Thread(target=self._drive_blocking, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        """Give it nothing more; from any thread."""
        self.stopped = True
        self.bell.ring()

    def cancel(self) -> None:
        """Interrupt its calls, where they can be; called in the thread of the loop."""
        for task in self._tasks:
            task.cancel()
        if any(thread.is_alive() for thread in self._threads):
            logger.warning(
                "agent %r is left behind in its thread, which cannot be stopped", self.name
            )

    def join(self, timeout: float) -> None:
        """Wait for its threads, so many seconds at most for each; not in the thread of the loop."""
        for thread in self._threads:
            thread.join(timeout)

    def _left(self) -> None:
        with self._lock:
            self.drivers -= 1
        self.bus._news()

    # --- two drivers of one generator -------------------------------------------------------------

    async def _drive(self) -> None:
        bell, steps = self.bell, self._steps()
        assert isinstance(bell, LoopBell)
        turn, me = 0, asyncio.current_task()
        try:
            step = next(steps)
            while True:
                if step is None:
                    seconds = self._rest()
                    try:
                        await bell.sleep(seconds, self._is_news)
                    finally:
                        with self._lock:
                            self.sleeping -= 1
                    step = steps.send(None)
                    continue
                try:
                    value = await step
                except KeyboardInterrupt as error:
                    if threading.current_thread() is threading.main_thread():  # it may be Ctrl-C
                        raise
                    step = steps.throw(ExecutionError(f"it raised {error!r}"))
                except GeneratorExit as error:
                    if not self._is_in(me):  # this task is closed, not an agent that leaves
                        raise
                    step = steps.throw(ExecutionError(f"it raised {error!r}"))
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    step = steps.throw(ExecutionError("it awaited something that was cancelled"))
                except BaseException as error:  # such as SystemExit, or what pytest.fail() raises
                    step = steps.throw(error)
                else:
                    step = steps.send(value)
                turn += 1
                if turn == _TURN:
                    turn = 0
                    await asyncio.sleep(0)
        except StopIteration:
            pass
        except Exception as error:
            self._broke(error)
        finally:
            steps.close()
            self._left()

    def _is_in(self, task: asyncio.Task[None] | None) -> bool:
        """Whether this is called while a task of the loop goes on, and not while it is closed."""
        return running_loop() is self._home.loop and asyncio.current_task() is task

    def _drive_blocking(self) -> None:
        bell, steps = self.bell, self._steps()
        assert isinstance(bell, ThreadBell)
        try:
            for step in steps:
                assert step is None
                seconds = self._rest()
                try:
                    bell.sleep(seconds, self._is_news)
                finally:
                    with self._lock:
                        self.sleeping -= 1
        except Exception as error:
            self._broke(error)
        finally:
            self._left()

    def _broke(self, error: Exception) -> None:
        """Say that something failed beside the agent itself, a fault of ours, and end the bus."""
        logger.error("agent %r cannot go on, and the bus stops", self.name, exc_info=error)
        self.bus.stop("failed")

    def _rest(self) -> float | None:
        """Say that there is nothing to do; return after how many seconds there may be something."""
        timers = self.core.timers
        with self._lock:
            self.sleeping += 1
        if self.watched or self._home.watchers:
            self.place.rested()
        if self.bus._turns == 0:  # somebody gives a turn back before what is due can be given
            return None
        try:
            return max(0.0, timers[0][0] - self.place.now())
        except IndexError:
            return None

    def _is_news(self) -> bool:
        if self.stopped:
            return True
        return self.bus._turns != 0 and self.core.is_news(self.place.now())

    # --- what is done with a message --------------------------------------------------------------

    def _steps(self) -> Generator[Any, Any, None]:
        core, place, caller, bus = self.core, self.place, self.caller, self.bus
        call, is_async, wants = caller.call, caller.is_async, caller.wants_context
        checks = place.rechecks
        while not self.stopped:
            if bus._turns is None:
                message = core.next(place.now() if core.timers else 0.0)
            else:
                message = self._next_in_turn()
            if message is None:
                yield None
                continue
            if place.choked:
                place.made_room()
            ctx: MessageContext | None = None
            try:
                if checks:
                    self._check(message)
                if wants:
                    ctx = MessageContext(self, message)
                answer = call(message, ctx)
                if is_async:
                    answer = yield answer
                if answer is not None:
                    if ctx is None:
                        ctx = MessageContext(self, message)
                    _ = ctx.publish(caller.answers_on(answer), answer)  # it is in `_pending`
                if ctx is not None:
                    for each in ctx._pending:
                        if is_async:
                            yield each
                        else:
                            each.result()
                    ctx._over = True
                    place.settle(self, message, ctx._held)
                else:
                    place.settle(self, message, [])
            except BaseException as error:
                if is_async and isinstance(error, (KeyboardInterrupt, GeneratorExit)):
                    self._cut_off += 1
                    raise  # of the loop; in a thread nobody but the agent itself raises one
                if ctx is not None:
                    ctx._over = True
                told = self._failed(message, error)
                if bus._turns is not None:
                    bus._give_turn_back()
                if told is not None:
                    yield from self._wait_for(told)
                continue
            core.ended(message)
            if self._failing:
                self._failing.pop(message.number, None)
            if self._shared:
                with self._lock:
                    self.handled += 1
            else:
                self.handled += 1
            if bus._turns is not None:
                bus._count()

    def _next_in_turn(self) -> Message | None:
        """Return the message to give next where no more may be handled than so many."""
        core, now = self.core, self.place.now()
        # Who has no message takes no turn: taken for nothing and given back, it would wake others
        # who have none either, and they this one.
        if not core.is_news(now) or not self.bus._take_turn():
            return None
        message = core.next(now)
        if message is None:
            self.bus._give_turn_back()
        return message

    def _check(self, message: Message) -> None:
        """Refuse what its channel does not take, or this agent; others publish it unchecked."""
        channel = self.bus._channels.get(message.channel)
        fault = "" if channel is None else channel.fault(message.payload)
        fault = fault or self.caller.input_fault(message.payload)
        if fault:
            raise InputValidationError(fault)

    def _wait_for(self, told: Publication) -> Generator[Any, Any, None]:
        """Wait until it is published that a message is given up."""
        try:
            if self.caller.is_async:
                yield told
            else:
                told.result()
        except DaggerError as error:
            logger.warning(
                "it is not published that agent %r gives a message up: %s", self.name, error
            )

    def _failed(self, message: Message, error: BaseException) -> Publication | None:
        """See to a message whose call has failed; return what is published of that."""
        core, place = self.core, self.place
        attempts = core.attempts(message) + 1
        if not isinstance(error, Exception):  # an agent that leaves has failed like any other
            error = ExecutionError(f"it raised {error!r}")
        # Not by the clock that says when a message is due, which somebody may set meanwhile.
        now, began = place.now(), self.bus._monotonic()
        since = self._failing.setdefault(message.number, began)
        try:
            delay = None
            if not isinstance(error, RunCancelled):  # somebody does not want that run
                delay = decide(self.policy, attempts, error, began - since)
        except Exception:  # a predicate of the policy, which is somebody's code
            logger.exception("the retry policy of agent %r failed itself", self.name)
            delay = None
        text = error_text(error)
        with self._lock:
            self.failed += 1
            self.retried += delay is not None
        if delay is not None:
            logger.warning(
                "agent %r failed on message %r of channel %r (%s), again in %.1f s",
                self.name,
                message.id,
                message.channel,
                visible(text),
                delay,
            )
            due = now + delay
            place.postpone(self, message, due, attempts, text)
            core.failed(message, due, attempts)
            return None
        del self._failing[message.number]
        logger.error(
            "agent %r failed on message %r of channel %r, and gives it up: %s",
            self.name,
            message.id,
            message.channel,
            visible(text),
            exc_info=error,
        )
        letter = DeadLetter(message, self.name, text, attempts, self.bus._clock())
        self.lose(letter)
        told = place.bury(self, letter)
        core.ended(message)
        return told

    def take_back(self) -> None:
        """Count a message as failed that was counted as handled; from the thread of its place."""
        # Not in `handled`, which the agent itself counts up without a lock.
        with self._lock:
            self._taken_back += 1
            self.failed += 1

    def lose(self, letter: DeadLetter) -> None:
        """Count a message that is given up."""
        with self._lock:
            self.dead += 1
        self.letters.append(letter)
