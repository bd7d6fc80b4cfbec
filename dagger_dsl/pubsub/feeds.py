"""`Feed`: what the desk of a database knows of one subscription."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from dagger_dsl.store.messages import Delivered, Stored

if TYPE_CHECKING:
    from dagger_dsl.model.messages import Message
    from dagger_dsl.pubsub.progress import Progress
    from dagger_dsl.pubsub.subscription import Subscription
    from dagger_dsl.pubsub.waiting import Publication

__all__ = ["Feed", "Settled"]


@attrs.frozen(eq=False)
class Settled:
    """What became of a message, and what was published meanwhile."""

    delivered: Delivered
    published: tuple[Publication, ...] = ()
    message: Message | None = None


class Feed:
    """What the desk knows of one subscription.

    Attributes:
        subscription: Which.
        settled: What became of its messages, not yet recorded; agents append.
        progress: How far it is; None while another process has it.
        epoch: The number of the claim.
        leaving: What becomes of it once its agent has come to an end; empty while that goes on.
        looks_back: Whether messages may be there that are given again.
        careful: So many messages are given one at a time, each once that is recorded: the process
            that had the subscription before has died, perhaps of one of them.
        suspects: Messages that are given again in this way.
    """

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.settled: deque[Settled] = deque()
        self.taken: list[Settled] = []
        self.progress: Progress | None = None
        self.epoch = 0
        self.leaving = ""
        self.looks_back = True
        self.careful = 0
        self.suspects: deque[tuple[Stored, Delivered]] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether everything was recorded that became of its messages."""
        return not self.settled and not self.taken
