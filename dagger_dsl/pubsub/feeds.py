"""`Feed`: what the desk of a database knows of one subscription, and what it gives it.

All of it is done by the desk's thread, but that agents append to `Feed.settled`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import attrs

from dagger_dsl.errors import DaggerError, DecodingError, StoreDamaged, visible
from dagger_dsl.model.messages import DeadLetter, Message, error_text, is_pattern
from dagger_dsl.pubsub.progress import Progress, Step
from dagger_dsl.store.message_values import RETRY, Claimed, Delivered, Outgoing, Settlement, Stored

if TYPE_CHECKING:
    from dagger_dsl.pubsub.subscription import Subscription
    from dagger_dsl.pubsub.waiting import Publication
    from dagger_dsl.store.messages import MessageRows
    from dagger_dsl.store.workers import Worker

__all__ = ["PORTION", "Feed", "Settled"]

logger = logging.getLogger("dagger_dsl.pubsub")

#: Messages that are fetched at a time, at most.
PORTION: Final = 500

#: So many times `PubSubConfig.capacity` are held here for an agent, at most, of messages that wait
#: behind others of their key. Those of other keys come from behind them.
_HELD: Final = 10

#: So many messages are handled before one in front of them, at most: each has a row until that is.
_AHEAD: Final = 100_000

#: Seconds after which it is written that messages for others were passed, where nothing else is.
_QUIET: Final = 5.0

#: Channels that are asked for by name, at most.
_NAMES: Final = 20

#: What is said of a message while it is handled after a death.
_DIED: Final = "its process died while it handled this, or handles it now"

#: Messages that are looked at when one is given at a time.
_GLANCE: Final = 10


@attrs.frozen(eq=False)
class Settled:
    """What became of a message, and what was published meanwhile."""

    delivered: Delivered
    published: tuple[Publication, ...] = ()
    message: Message | None = None


class Feed:
    """What the desk knows of one subscription.

    Args:
        subscription: Which.
        rows: Its messages.
        worker: Who claims it.

    Attributes:
        subscription: The same.
        settled: What became of its messages, not yet recorded; agents append.
        taken: What the desk has taken of these.
        progress: How far it is; None while another process has it.
        epoch: The number of the claim.
        leaving: What becomes of it once its agent has come to an end; empty while that goes on.
        looks_back: Whether messages may be there that are given again.
        careful: So many messages are given one at a time, each once that is recorded: the process
            that had the subscription before has died, perhaps of one of them.
        suspects: Messages that are given again in this way.
    """

    def __init__(self, subscription: Subscription, rows: MessageRows, worker: Worker) -> None:
        self.subscription = subscription
        self.settled: deque[Settled] = deque()
        self.taken: list[Settled] = []
        self.progress: Progress | None = None
        self.epoch = 0
        self.leaving = ""
        self.looks_back = True
        self.careful = 0
        self.suspects: deque[tuple[Stored, Delivered]] = deque()
        self._is_full = False
        self._written = time.monotonic()
        self._rows = rows
        self._worker = worker
        names = subscription.caller.subscribe
        # Each name is asked for by itself; beyond some, and for patterns, all messages are read.
        by_name = len(names) <= _NAMES and not any(map(is_pattern, names))
        self._channels = names if by_name else None
        self._config = subscription.bus.config

    def __repr__(self) -> str:
        return f"<Feed of {self.subscription.name!r}>"

    @property
    def is_empty(self) -> bool:
        """Whether everything was recorded that became of its messages."""
        return not self.settled and not self.taken

    @property
    def has_more(self) -> bool:
        """Whether there may be messages to give that it has not looked at yet."""
        return self._is_full or self.looks_back or bool(self.suspects)

    # --- who has it -------------------------------------------------------------------------------

    def claim(self) -> bool:
        """Claim the subscription; return False where another process has it.

        Raises:
            StoreError: The database cannot say.
        """
        subscription = self.subscription
        claimed = self._rows.claim(
            subscription.name,
            subscription.caller.subscribe,
            self._worker.name,
            self._worker.is_dead,
        )
        if claimed is not None:
            self.begin(claimed)
        return claimed is not None

    def begin(self, claimed: Claimed) -> None:
        """Go on where a claim says that others have come to."""
        subscription = self.subscription
        self.epoch = claimed.epoch
        self.looks_back = True
        self.suspects.clear()
        self.careful = 0
        subscription.watched = claimed.died
        if claimed.died:
            self.careful = self._config.capacity + subscription.caller.agent.concurrency
        self.progress = Progress(claimed.position, claimed.rows)

    def lost(self) -> None:
        """Hear that another process has taken it over."""
        logger.warning(
            "another process has taken agent %r over; what it was doing here is done there again",
            self.subscription.name,
        )
        self.progress = None
        self.suspects.clear()
        self.taken.clear()
        self.settled.clear()
        self._drop()

    def _drop(self) -> None:
        self.subscription.core.drop()
        self.subscription.bell.ring()

    def rests(self) -> bool:
        """Whether nothing is left here of a claim that was lost; else see to it.

        What a call from before would say of its message belongs to that claim, so this process
        claims the subscription again only when there is none.
        """
        subscription = self.subscription
        if subscription.calm_until == -math.inf:
            return False
        if subscription.core.waiting:  # what failed after the claim was lost
            self._drop()
            return False
        self.settled.clear()
        return True

    # --- what is recorded -------------------------------------------------------------------------

    def plan(self) -> tuple[Step, Settlement] | None:
        """Return what has to be written of it now; None for nothing."""
        progress = self.progress
        if progress is None:
            self.taken.clear()
            return None
        now = time.monotonic()
        if not self.taken:
            lag = progress.lag
            # At the end, too: what others are given would be kept as long as this position says.
            is_late = self.subscription.stopped or now >= self._written + _QUIET
            if not lag or (lag < PORTION and not is_late):
                return None
        self._written = now
        step = progress.plan([each.delivered for each in self.taken])
        published: dict[Delivered, Sequence[Outgoing]] = {
            each.delivered: [publication.data for publication in each.published]
            for each in self.taken
            if each.published
        }
        return step, self._settlement(step, published)

    def _settlement(
        self, step: Step, published: Mapping[Delivered, Sequence[Outgoing]] = MappingProxyType({})
    ) -> Settlement:
        return Settlement(
            self.subscription.name,
            self.epoch,
            step.position,
            step.put,
            step.drop,
            published,
            step.drop_done,
        )

    def refused(self, settled: Settled, fault: DaggerError) -> None:
        """Give a message up that was handled: what was published meanwhile is refused."""
        assert self.progress is not None
        assert settled.message is not None
        self.progress.refused(settled.delivered.number)
        self.subscription.take_back()
        self._give_up(settled.message, settled.delivered.attempt + 1, error_text(fault))

    # --- what it is given -------------------------------------------------------------------------

    def fetch(self) -> bool:
        """Give the agent what there is and it has room for; return whether there was any."""
        progress, subscription = self.progress, self.subscription
        if progress is None or self.leaving or subscription.stopped:
            return False
        if self.looks_back:
            self.looks_back = False
            try:
                self._look_back(progress)
            except BaseException:
                self.looks_back = True
                raise
        if self.careful or self.suspects:
            return self._give_one(progress)
        core, most = subscription.core, self._config.capacity
        ready = core.ready
        # What waits behind a key that is held up, or for its time, keeps no other key from coming.
        self._is_full = ready > most // 2
        if self._is_full or not self._has_room(progress):
            return False
        room = min(PORTION, most - ready)
        found, scanned = self._rows.scan(progress.scanned, room, self._channels)
        if scanned == progress.scanned:
            return False
        wanted = self._wanted(progress, found)
        # All are read before anything is said of one: trouble with a file is no result.
        messages = [self._read(each) for each in wanted]
        progress.take([each.head.number for each in wanted], scanned)
        progress.skip.difference_update(each.head.number for each in found)
        for each, message in zip(wanted, messages, strict=True):
            if isinstance(message, Message):
                subscription.core.arrived.append(message)
            else:
                self._give_up(each.head, 0, message)
        if subscription.bell.armed:
            subscription.bell.ring()
        return True

    def _has_room(self, progress: Progress) -> bool:
        """Whether more may be held, and handled before what is held."""
        if self.subscription.core.waiting > (_HELD - 1) * self._config.capacity:
            return False
        # Who has just begun may find the one in front only further on.
        return progress.ahead < _AHEAD or not progress.has_open

    def _wanted(self, progress: Progress, found: Sequence[Stored]) -> list[Stored]:
        name, gets = self.subscription.name, self.subscription.caller.gets
        return [
            each
            for each in found
            if each.head.number not in progress.skip
            and each.head.source != name
            and gets(each.head.channel)
        ]

    def _read(self, row: Stored) -> Message | str:
        """Return a message, or why it cannot be read."""
        try:
            return self._rows.message(row)
        except (DecodingError, StoreDamaged) as error:
            return error_text(error)

    def _give_up(self, message: Message, attempts: int, error: str) -> None:
        """Give a message up for what its agent does not see."""
        subscription = self.subscription
        logger.error(
            "agent %r gives message %r up: %s", subscription.name, message.id, visible(error)
        )
        letter = DeadLetter(message, subscription.name, error, attempts, self._rows.now())
        subscription.lose(letter)
        subscription.place.bury(subscription, letter)

    def _look_back(self, progress: Progress) -> None:
        """Give again what failed before, in another process perhaps, or is replayed."""
        now, known = self._rows.now(), progress.retries
        for so_far in self._rows.retries(self.subscription.name):
            # Its payload is read once, not with each look.
            row = None if so_far.number in known else self._rows.one(so_far.number)
            if row is None:
                continue
            due = so_far.due_at or 0.0
            message = self._read(row)
            progress.again(so_far.number)
            if self.careful and due <= now:
                self.suspects.append((row, so_far))
            elif isinstance(message, Message):
                self.subscription.core.restore(message, due, so_far.attempt)
            else:
                self._give_up(row.head, so_far.attempt, message)
        self.subscription.bell.ring()

    # --- after a death ----------------------------------------------------------------------------

    def _give_one(self, progress: Progress) -> bool:
        """Give one message once nothing else is in hand, and record before that it is given.

        So a message that kills its process is known by its deaths, and given up after some.
        """
        subscription = self.subscription
        if subscription.calm_until <= self._rows.now() or not self.is_empty:
            return False
        if not self.suspects:
            if not self._has_room(progress):
                return False
            found, scanned = self._rows.scan(progress.scanned, _GLANCE, self._channels)
            wanted = self._wanted(progress, found)
            if not wanted:
                goes_on = scanned > progress.scanned
                if goes_on:
                    progress.take((), scanned)
                else:
                    self.careful = 0
                    subscription.watched = False
                return goes_on
            number = wanted[0].head.number
            progress.take((number,), number)
            self.suspects.append((wanted[0], Delivered(number, RETRY)))
        row, so_far = self.suspects[0]
        message = self._read(row)
        # Nobody has died of what was behind another message, as it is now.
        is_held = subscription.core.holds(row.head)
        if so_far.deaths >= self._config.max_deaths:
            died = f"{so_far.deaths} processes died while they handled it"
            self._give_up(row.head, so_far.attempt + so_far.deaths, died)
        elif isinstance(message, Message) and is_held:
            subscription.core.restore(message, 0.0, so_far.attempt)
            subscription.bell.ring()
        elif isinstance(message, Message):
            given = attrs.evolve(
                so_far, due_at=0.0, error=_DIED, at=self._rows.now(), deaths=so_far.deaths + 1
            )
            if not self._record(progress, given):
                return True
            subscription.core.restore(message, 0.0, so_far.attempt)
            subscription.bell.ring()
        else:
            self._give_up(row.head, so_far.attempt, message)
        self.suspects.popleft()
        self.careful = max(0, self.careful - (not is_held))
        subscription.watched = bool(self.careful or self.suspects)
        return True

    def _record(self, progress: Progress, given: Delivered) -> bool:
        """Record that a message is given; return False where the subscription is lost."""
        step = progress.plan([given])
        if self._rows.commit(self._worker.name, [], [self._settlement(step)]).lost:
            self.lost()
            return False
        progress.wrote(step)
        return True
