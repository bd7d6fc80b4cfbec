"""`Delivery`: which message an agent is given next. Pure: no clock, no threads, nothing waited for.

Messages of one channel and key form a lane. Those of a lane are given in order, one at a time:
while one of them is being handled, or waits to be given again after a failure, those behind it
wait, and those of other lanes go on. Both places of messages, memory and databases, share this.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import deque

from dagger_dsl.model.messages import Message

__all__ = ["Delivery", "SharedDelivery"]


class Delivery:
    """The messages that wait for one agent.

    Whoever publishes appends to `arrived`, or calls `restore`; everything else is done by those who
    call the agent, one at a time.

    Args:
        concurrency: How many messages are handled at a time.

    Attributes:
        arrived: Messages that nobody has looked at, in order.
        returned: What `restore` was told and nobody has looked at.
        held: How many others wait: behind one of their lane, or for their time.
        timers: When failed ones are due again, the next one first.
    """

    __slots__ = (
        "_attempts",
        "_lanes",
        "_parallel",
        "_ready",
        "arrived",
        "held",
        "returned",
        "timers",
    )

    def __init__(self, concurrency: int = 1) -> None:
        self.arrived: deque[Message] = deque()
        self.returned: deque[tuple[Message, float, int] | None] = deque()
        self.held = 0
        self.timers: list[tuple[float, int, Message]] = []
        self._ready: deque[Message] = deque()
        # A lane is here while its first message is handled or waits; with those behind it. One
        # message at a time needs no entry while it is handled: nothing else begins meanwhile.
        self._lanes: dict[tuple[str, str], deque[Message]] = {}
        self._attempts: dict[int, int] = {}
        self._parallel = concurrency > 1

    @property
    def waiting(self) -> int:
        """How many messages wait, for whatever reason; from any thread."""
        held = self.held  # first: one that is being sorted in is not counted then, and never twice
        return held + len(self.arrived) + len(self.returned)

    @property
    def ready(self) -> int:
        """How many wait for nothing but a call, as far as anybody has looked."""
        return len(self.arrived) + len(self._ready) + len(self.returned)

    def next(self, now: float) -> Message | None:
        """Return the message to give next; None where none may be given now.

        Args:
            now: The time, by the clock of `failed`; without `timers` it does not matter.
        """
        while self.returned:
            back = self.returned.popleft()
            if back is None:
                self._drop()
            else:
                self._restore(*back)
        if self.timers and self.timers[0][0] <= now:
            self.held -= 1
            return heapq.heappop(self.timers)[2]
        if self._ready:
            self.held -= 1
            return self._ready.popleft()
        arrived, lanes = self.arrived, self._lanes
        while arrived:
            message = arrived.popleft()
            if lanes:
                behind = lanes.get((message.channel, message.key))
                if behind is not None:
                    behind.append(message)
                    self.held += 1
                    continue
            if self._parallel:
                lanes[message.channel, message.key] = deque()
            return message
        return None

    def is_news(self, now: float) -> bool:
        """Whether `next` may have a message; asked by others than those who call `next`, too."""
        if self.arrived or self.returned or self._ready:
            return True
        timers = self.timers
        return bool(timers) and timers[0][0] <= now

    def calm_until(self) -> float:
        """Return when there is something to do again while nobody is called and nothing comes.

        Returns:
            By the clock of `failed`; infinity for never, minus infinity for now.
        """
        if self.arrived or self.returned or self._ready:
            return -math.inf
        return self.timers[0][0] if self.timers else math.inf

    def holds(self, message: Message) -> bool:
        """Whether a message would wait behind others of its lane; from any thread."""
        return (message.channel, message.key) in self._lanes

    def attempts(self, message: Message) -> int:
        """Return how many calls have failed for a message."""
        return self._attempts.get(message.number, 0) if self._attempts else 0

    def ended(self, message: Message) -> None:
        """Let the lane of a message go on: it was handled, or is given up."""
        if self._attempts:
            self._attempts.pop(message.number, None)
        if not self._lanes:
            return
        lane = (message.channel, message.key)
        behind = self._lanes.get(lane)
        if behind:
            self._ready.append(behind.popleft())
        elif behind is not None:
            del self._lanes[lane]

    def failed(self, message: Message, due: float, attempts: int) -> None:
        """Give a message again at a later time; its lane waits for it.

        Args:
            message: Which.
            due: When.
            attempts: How many calls have failed for it by now.
        """
        self._wait(message, due, attempts)

    def restore(self, message: Message, due: float, attempts: int) -> None:
        """Take over a message that was given before, in another process perhaps; from any thread.

        Args:
            message: It comes before those of its lane that arrive later.
            due: When it is given, unless its lane is busy then.
            attempts: How many calls have failed.
        """
        self.returned.append((message, due, attempts))

    def drop(self) -> None:
        """Forget all that waits; from any thread. What is restored after this call is kept.

        Nothing may arrive until `waiting` says that it is done.
        """
        self.returned.append(None)

    def _drop(self) -> None:
        self.arrived.clear()
        self.timers.clear()
        self._ready.clear()
        self._lanes.clear()
        self._attempts.clear()
        self.held = 0

    def _restore(self, message: Message, due: float, attempts: int) -> None:
        behind = self._lanes.get((message.channel, message.key))
        if behind is None:
            self._wait(message, due, attempts)
            return
        if attempts:
            self._attempts[message.number] = attempts
        behind.append(message)
        self.held += 1

    def _wait(self, message: Message, due: float, attempts: int) -> None:
        if attempts:
            self._attempts[message.number] = attempts
        self._lanes.setdefault((message.channel, message.key), deque())
        heapq.heappush(self.timers, (due, message.number, message))
        self.held += 1

    def left(self) -> list[Message]:
        """Return all that wait, in the order in which they were published; from any thread."""
        # Copies, each made at once: others go on with all of these meanwhile.
        behind = [each for lane in list(self._lanes.values()) for each in list(lane)]
        timed = [message for _, _, message in list(self.timers)]
        back = [each[0] for each in list(self.returned) if each is not None]
        found = [*timed, *self._ready, *behind, *back, *self.arrived]
        return sorted(found, key=lambda each: each.number)


class SharedDelivery(Delivery):
    """A `Delivery` for several threads that call one agent."""

    __slots__ = ("_lock",)

    def __init__(self, concurrency: int) -> None:
        super().__init__(concurrency)
        self._lock = threading.Lock()

    def next(self, now: float) -> Message | None:
        """See `Delivery.next`."""
        with self._lock:
            return super().next(now)

    def attempts(self, message: Message) -> int:
        """See `Delivery.attempts`."""
        with self._lock:
            return super().attempts(message)

    def ended(self, message: Message) -> None:
        """See `Delivery.ended`."""
        with self._lock:
            super().ended(message)

    def failed(self, message: Message, due: float, attempts: int) -> None:
        """See `Delivery.failed`."""
        with self._lock:
            super().failed(message, due, attempts)

    def left(self) -> list[Message]:
        """See `Delivery.left`."""
        with self._lock:
            return super().left()
