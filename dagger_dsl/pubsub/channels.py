"""`Channel`: what a bus knows of one channel."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import MessageValidationError
from dagger_dsl.pubsub.report import ChannelStats
from dagger_dsl.pubsub.schemas import Shape

if TYPE_CHECKING:
    from dagger_dsl.pubsub.subscription import Subscription
    from dagger_dsl.pubsub.waiting import Publication

__all__ = ["Channel"]


class Channel:
    """A channel of a running bus.

    Attributes:
        name: Its name.
        capacity: How many messages may wait for each subscriber when one is published here.
        targets: The agents that are given its messages.
        waiting: Publications that wait for room, in order.
        published: How many messages were published.
    """

    __slots__ = ("_checks", "capacity", "name", "published", "shape", "targets", "waiting")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self.shape: Shape | None = None
        self.targets: tuple[Subscription, ...] = ()
        self.waiting: deque[Publication] = deque()
        self.published = 0
        self._checks: tuple[Subscription, ...] = ()

    def __repr__(self) -> str:
        return f"<Channel {self.name!r}: {len(self.targets)} subscribers>"

    @property
    def stats(self) -> ChannelStats:
        """What has happened on it so far."""
        names = tuple(each.name for each in self.targets)
        return ChannelStats(self.published, names, len(self.waiting))

    def join(self, *subscriptions: Subscription) -> None:
        """Give its messages to those of these who want them, too."""
        wanted = [each for each in subscriptions if each.caller.gets(self.name)]
        self._aim((*self.targets, *(each for each in wanted if each not in self.targets)))

    def leave(self, subscription: Subscription) -> None:
        """Give it no messages any more."""
        self._aim(tuple(each for each in self.targets if each is not subscription))

    def _aim(self, targets: tuple[Subscription, ...]) -> None:
        self.targets = targets
        self._checks = tuple(each for each in self.targets if each.caller.shapes)

    def fault(self, payload: Any) -> str:
        """Return what keeps a payload from being a message here; empty where nothing does."""
        fault = "" if self.shape is None else self.shape.fault(payload)
        return f"the schema of channel {self.name!r}: {fault}" if fault else ""

    def check(self, payload: Any, source: str) -> None:
        """Refuse a payload that the channel, or somebody who is given it, does not take.

        Raises:
            MessageValidationError: The message has the path of each fault.
        """
        fault = self.fault(payload)
        if fault:
            raise MessageValidationError(fault)
        for each in self._checks:
            if each.name != source:
                fault = each.caller.input_fault(payload)
                if fault:
                    raise MessageValidationError(f"channel {self.name!r}: {fault}")
