"""`TracedPlace`: messages in memory, and of the newest ones what became of them.

It is a place of its own, so that a bus which is not asked for a trace does nothing for it.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final

from dagger_dsl.model.message_flow import (
    DEAD,
    HANDLED,
    RETRYING,
    WAITING,
    Handling,
    MessageCourse,
)
from dagger_dsl.model.messages import DeadLetter, Message
from dagger_dsl.pubsub.memory import MemoryPlace

if TYPE_CHECKING:
    from dagger_dsl.pubsub.channels import Channel
    from dagger_dsl.pubsub.executor import PubSubExecutor
    from dagger_dsl.pubsub.subscription import Subscription
    from dagger_dsl.pubsub.waiting import Publication

__all__ = ["Trace", "TracedPlace"]

#: Pairs of a source and a channel that are counted; there may be any number of channels.
_PAIRS: Final = 10_000


class Trace:
    """The newest messages of a bus, each with what became of it.

    Args:
        most: How many are kept.

    Attributes:
        most: As given.
        sent: How many messages there were: ``{(source, channel): count}``.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[Message, dict[str, Handling]]] = OrderedDict()
        self.sent: Counter[tuple[str, str]] = Counter()

    def publish(self, message: Message, agents: list[str]) -> None:
        """Keep a message that these agents are given."""
        handlings = {name: Handling(name, WAITING) for name in agents}
        pair = (message.source, message.channel)
        with self._lock:
            self._kept[message.number] = (message, handlings)
            if len(self._kept) > self.most:
                self._kept.popitem(last=False)
            if pair in self.sent or len(self.sent) < _PAIRS:
                self.sent[pair] += 1

    def note(self, number: int, handling: Handling) -> None:
        """Keep what became of a message with one agent."""
        with self._lock:
            known = self._kept.get(number)
            if known is not None:
                known[1][handling.agent] = handling

    def courses(self) -> list[MessageCourse]:
        """Return what is kept, in the order in which it was published."""
        with self._lock:
            return [
                MessageCourse(message, tuple(handlings.values()))
                for message, handlings in self._kept.values()
            ]

    def pairs(self) -> dict[tuple[str, str], int]:
        """Return how many messages came from whom on which channel."""
        with self._lock:
            return dict(self.sent)


class TracedPlace(MemoryPlace):
    """A `MemoryPlace` that keeps a `Trace`.

    Args:
        bus: Whose.
        trace: Where.
    """

    def __init__(self, bus: PubSubExecutor, trace: Trace) -> None:
        super().__init__(bus, bus._monotonic)
        self._trace = trace

    def _deliver(self, channel: Channel, message: Message) -> None:
        names = [each.name for each in channel.targets if each.name != message.source]
        self._trace.publish(message, names)  # before somebody can have handled it
        super()._deliver(channel, message)

    def settle(self, subscription: Subscription, message: Message, held: list[Publication]) -> None:
        """See `Place.settle`."""
        self._trace.note(message.number, Handling(subscription.name, HANDLED))

    def postpone(
        self, subscription: Subscription, message: Message, due: float, attempts: int, error: str
    ) -> None:
        """See `Place.postpone`."""
        name = subscription.name
        self._trace.note(message.number, Handling(name, RETRYING, attempts, error))

    def bury(self, subscription: Subscription, letter: DeadLetter) -> Publication | None:
        """See `Place.bury`."""
        given_up = Handling(letter.agent, DEAD, letter.attempts, letter.error)
        self._trace.note(letter.message.number, given_up)
        return super().bury(subscription, letter)

    def _take(
        self, agent: str | None, ids: set[str] | None, known: set[str] | None
    ) -> list[DeadLetter]:
        taken = super()._take(agent, ids, known)
        if known is not None:  # they are given again
            for each in taken:
                self._trace.note(each.message.number, Handling(each.agent, WAITING))
        return taken
