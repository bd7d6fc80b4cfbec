"""`MemoryPlace`: messages that live in this process, each at most once.

A message waits in the buffer of each agent that is given it. Buffers are bounded: while one is
full, who publishes waits, in order.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import (
    ChannelFull,
    DaggerError,
    EncodingError,
    IdempotencyConflict,
    InvalidState,
)
from dagger_dsl.model.messages import DeadLetter, Message
from dagger_dsl.model.values import to_plain
from dagger_dsl.pubsub.letters import kept, told_of

if TYPE_CHECKING:
    from dagger_dsl.pubsub.channels import Channel
    from dagger_dsl.pubsub.context import MessageContext
    from dagger_dsl.pubsub.executor import PubSubExecutor
    from dagger_dsl.pubsub.subscription import Subscription
    from dagger_dsl.pubsub.waiting import Publication

__all__ = ["MemoryPlace"]

logger = logging.getLogger("dagger_dsl.pubsub")


class MemoryPlace:
    """Keeps the messages of one bus in memory.

    Args:
        bus: Whose.
        clock: Tells when failed messages are due again, in seconds.
    """

    rechecks = False
    store = None

    def __init__(self, bus: PubSubExecutor, clock: Callable[[], float] = time.monotonic) -> None:
        self.choked = False
        self.now = clock
        self._bus = bus
        self._lock = threading.Lock()
        self._choked: dict[str, Channel] = {}
        self._ids: OrderedDict[str, Message] = OrderedDict()
        self._closed = self._stopped = False

    def open(self) -> None:
        """See `Place.open`."""

    def close(self) -> None:
        """Refuse what still waits for room, and all that comes."""
        with self._lock:
            self._closed = True
        self.stop()

    def stop(self) -> None:
        """See `Place.stop`."""
        with self._lock:
            self._stopped = True
            for channel in self._choked.values():
                while channel.waiting:
                    publication = channel.waiting.popleft()
                    publication.fail(self._ended(publication.message))
            self._choked.clear()
            self.choked = False

    @staticmethod
    def _ended(message: Message) -> InvalidState:
        return InvalidState(
            f"the bus was closed before there was room for message {message.id!r} on channel "
            f"{message.channel!r}"
        )

    def join(self, *subscriptions: Subscription) -> None:
        """See `Place.join`: what was published before is gone."""

    def leave(self, subscription: Subscription, *, forget: bool) -> None:
        """See `Place.leave`; who waited for room with this agent may have it now."""
        self.made_room()

    def is_here(self, subscription: Subscription) -> bool:
        """See `Place.is_here`: no other process sees these messages."""
        return True

    def forget(self, name: str) -> bool | None:
        """See `Place.forget`: nothing outlives an agent here."""
        return None

    # --- publishing -------------------------------------------------------------------------------

    def submit(
        self,
        channel: Channel,
        publication: Publication,
        ctx: MessageContext | None,
        *,
        wait: bool,
    ) -> None:
        """See `Place.submit`.

        Raises:
            ChannelFull: There is no room, and it may not wait for it.
            InvalidState: The bus is closed.
        """
        message = publication.message
        with self._lock:
            if self._closed:
                raise InvalidState("the bus is closed; open a new one to publish")
            if not channel.waiting and self._fits(channel, message):
                if not publication.named or self._is_new(publication):
                    self._deliver(channel, message)
                    publication.succeed(message)
                return
            if not wait:
                raise self._full(channel, 0.0)
            if self._stopped:  # nobody makes room any more
                raise self._ended(message)
            if sum(len(each.waiting) for each in self._choked.values()) >= (
                self._bus.config.max_waiting
            ):
                raise ChannelFull(
                    f"{self._bus.config.max_waiting} publications wait for room already, the first "
                    f"ones on channel {next(iter(self._choked))!r}; await what publish() returns"
                )
            channel.waiting.append(publication)
            self._choked[channel.name] = channel
            self.choked = True
            self._let_in()  # who made room just before did not see that somebody waits for it

    def withdraw(self, publication: Publication, waited: float) -> BaseException | None:
        """See `Place.withdraw`."""
        channel = self._bus._channels[publication.message.channel]
        with self._lock:
            if publication.is_done:
                return None
            channel.waiting.remove(publication)
            error = self._full(channel, waited)
            publication.fail(error)
            self._let_in()
        return error

    def made_room(self) -> None:
        """See `Place.made_room`."""
        with self._lock:
            self._let_in()

    def _let_in(self) -> None:
        for channel in list(self._choked.values()):
            waiting = channel.waiting
            while waiting and self._fits(channel, waiting[0].message):
                publication = waiting.popleft()
                if not publication.named or self._is_new(publication):
                    self._deliver(channel, publication.message)
                    publication.succeed(publication.message)
            if not waiting:
                del self._choked[channel.name]
        self.choked = bool(self._choked)

    def _is_new(self, publication: Publication) -> bool:
        """Whether no message of this id was published before; else say what comes of that."""
        message = publication.message
        known = self._ids.setdefault(message.id, message)
        if known is message:
            if len(self._ids) > self._bus.config.max_ids:
                self._ids.popitem(last=False)
            return True
        same = (known.channel, known.key) == (message.channel, message.key)
        if same and _equal(known.payload, message.payload):
            publication.succeed(known)
        else:
            publication.fail(
                IdempotencyConflict(
                    f"message {message.id!r} was published on channel {known.channel!r} with "
                    f"another content, and is not published again on {message.channel!r}; give it "
                    "an id of its own"
                )
            )
        return False

    @staticmethod
    def _fits(channel: Channel, message: Message) -> bool:
        most = channel.capacity
        for each in channel.targets:
            core = each.core
            if len(core.arrived) + core.held >= most and each.name != message.source:
                return False
        return True

    def _deliver(self, channel: Channel, message: Message) -> None:
        channel.published += 1
        source = message.source
        for each in channel.targets:
            if each.name != source:
                each.core.arrived.append(message)
                if each.bell.armed:
                    each.bell.ring()

    @staticmethod
    def _full(channel: Channel, seconds: float) -> ChannelFull:
        slow = [each.name for each in channel.targets if each.core.waiting >= channel.capacity]
        names = ", ".join(map(repr, slow)) or "others that publish there"
        return ChannelFull(
            f"channel {channel.name!r} had no room for {seconds:g} s: {names} must handle messages "
            f"first, {channel.capacity} wait; give it more concurrency, the channel a larger "
            "capacity, or publish() a longer timeout"
        )

    # --- what became of messages ------------------------------------------------------------------

    def settle(self, subscription: Subscription, message: Message, held: list[Publication]) -> None:
        """See `Place.settle`: nothing is recorded."""

    def postpone(
        self, subscription: Subscription, message: Message, due: float, attempts: int, error: str
    ) -> None:
        """See `Place.postpone`: the agent's own timers know it."""

    def bury(self, subscription: Subscription, letter: DeadLetter) -> Publication | None:
        """See `Place.bury`."""
        bus = self._bus
        with bus._lock:
            bus._given_up.append(letter)
        try:
            told = told_of(bus, letter, self)
            if told is not None:
                waits = bus.config.publish_timeout != 0
                self.submit(bus._channel(told.message.channel), told, None, wait=waits)
        except DaggerError as error:
            logger.warning(
                "it is not published that agent %r gives a message up: %s", letter.agent, error
            )
            return None
        return told

    # --- rest -------------------------------------------------------------------------------------

    def rested(self) -> None:
        """See `Place.rested`."""
        self._bus._news()

    def calm_until(self) -> float:
        """See `Place.calm_until`."""
        with self._lock:
            if self._choked:
                return -math.inf
            return min((each.calm_until for each in self._bus._all()), default=math.inf)

    # --- what was given up ------------------------------------------------------------------------

    def dead_letters(self, agent: str | None) -> list[DeadLetter]:
        """See `Place.dead_letters`."""
        return kept(self._bus, agent)

    def given_up(self, agent: str | None) -> set[str] | None:
        """See `Place.given_up`."""
        found = {each.message.id for each in self.dead_letters(agent)}
        return found if found or agent is None or agent in self._bus._callers else None

    def replay(self, agent: str | None, ids: set[str] | None) -> int:
        """See `Place.replay`: of agents that are there."""
        known = {each.name: each for each in self._bus._all()}
        taken = self._take(agent, ids, set(known))
        for letter in taken:
            subscription = known[letter.agent]
            subscription.core.restore(letter.message, 0.0, 0)
            subscription.bell.ring()
        return len(taken)

    def discard(self, agent: str | None, ids: set[str] | None) -> int:
        """See `Place.discard`."""
        return len(self._take(agent, ids, None))

    def _take(
        self, agent: str | None, ids: set[str] | None, known: set[str] | None
    ) -> list[DeadLetter]:
        letters = self._bus._given_up
        with self._bus._lock:
            taken = [
                each
                for each in letters
                if (agent is None or each.agent == agent)
                and (ids is None or each.message.id in ids)
                and (known is None or each.agent in known)
            ]
            for each in taken:
                letters.remove(each)
            return taken


def _equal(one: Any, other: Any) -> bool:
    """Whether two payloads are the same content, as a database compares them."""
    try:
        # By what they are written as, in which 1 is neither 1.0 nor True, and NaN is NaN.
        return repr(to_plain(one)) == repr(to_plain(other))
    except EncodingError:  # what only memory takes
        pass
    try:
        return one is other or bool(one == other)
    except Exception:  # such as arrays, which compare item by item
        return False
