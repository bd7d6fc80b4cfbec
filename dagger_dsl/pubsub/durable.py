"""`DurablePlace`: messages in a database, delivered at least once to each subscription.

One thread of the process, the desk, does everything that concerns the database: it commits what was
published and what was settled meanwhile, all together, and fetches what there is to handle. So the
slower a commit is, the more goes into one, and no agent waits for the disk. What is published while
a message is handled goes out in the transaction that records that it was.

One process at a time gives a subscription its messages; others stand by, and take over when it
dies.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from dagger_dsl.errors import (
    ChannelFull,
    DaggerError,
    InvalidState,
    LimitExceeded,
    StoreError,
)
from dagger_dsl.model.messages import DeadLetter, Message
from dagger_dsl.model.values import allow_hints
from dagger_dsl.pubsub.feeds import Feed, Settled
from dagger_dsl.pubsub.letters import told_of
from dagger_dsl.pubsub.progress import Step
from dagger_dsl.pubsub.waiting import ThreadBell
from dagger_dsl.store.message_values import (
    DEAD,
    DONE,
    RETRY,
    Delivered,
    Outgoing,
    Settlement,
)
from dagger_dsl.store.messages import MessageRows
from dagger_dsl.store.storage import Store
from dagger_dsl.store.workers import Worker

if TYPE_CHECKING:
    import os

    import sqlalchemy as sa

    from dagger_dsl.pubsub.channels import Channel
    from dagger_dsl.pubsub.context import MessageContext
    from dagger_dsl.pubsub.executor import PubSubExecutor
    from dagger_dsl.pubsub.subscription import Subscription
    from dagger_dsl.pubsub.waiting import Publication

__all__ = ["DurablePlace"]

logger = logging.getLogger("dagger_dsl.pubsub")

#: Seconds between two looks at the database while there is nothing to do: at first, and at most.
_SOON: Final = 0.01
_LATER: Final = 0.25

#: Seconds between two looks for processes that have died.
_PATROL: Final = 0.5

#: Seconds between two times that old messages are removed.
_UPKEEP: Final = 60.0

#: How often the last commit is tried, at most, when a bus is closed and the database is in trouble.
_LAST_TRIES: Final = 3


class DurablePlace:
    """Keeps the messages of one bus in a database.

    Args:
        bus: Whose.
        url: The database's.

    Raises:
        ConfigurationError: It is no URL of a database.
    """

    choked = False
    rechecks = True

    def __init__(self, bus: PubSubExecutor, url: str | os.PathLike[str] | sa.URL) -> None:
        self._bus = bus
        self.store = Store(url)
        self.rows = MessageRows(
            self.store.database, self.store._payloads, bus._clock, bus.config.max_message_bytes
        )
        self.now = self.rows.now
        self._worker = Worker(self.store.database, bus.config.lease)
        self._lock = threading.Lock()
        self._feeds: dict[Subscription, Feed] = {}
        self._pending: deque[tuple[Publication, Outgoing]] = deque()
        self._bell = ThreadBell()
        self._pause = _SOON
        self._patrolled = self._beaten = time.monotonic()
        self._pruned: float | None = None
        self._pruning = 0
        self._looks = 0
        self._calm = -math.inf
        self._rested = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._fault: BaseException | None = None

    # --- life -------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the database, and begin to look at it.

        One that is only read has nothing to record, and no agents.

        Raises:
            StoreError: It cannot be opened.
        """
        self.store.init_database()
        if self.store.database.read_only:
            self._calm = math.inf
            return
        self._worker.arrive()
        self._thread = threading.Thread(target=self._work, name="dagger-pubsub-desk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Record what was settled, let others have the subscriptions, and close the database.

        Raises:
            StoreError: What was settled last could not be recorded, and is given again.
        """
        with self._lock:
            self._closing = True
        self._bell.ring()
        if self._thread is not None:
            self._thread.join()
            self._worker.leave()
        self._refuse()
        self.store.close()
        if self._fault is not None:
            raise self._fault

    def _refuse(self) -> None:
        """Refuse what still waits to be recorded, and all that comes."""
        with self._lock:
            self._closing = True
            pending = list(self._pending)
            self._pending.clear()
        for publication, _ in pending:
            publication.fail(InvalidState("the bus was closed before the message was recorded"))

    def join(self, *subscriptions: Subscription) -> None:
        """See `Place.join`; what another process has, this one stands by for."""
        feeds = {}
        for each in subscriptions:
            allow_hints(each.caller.hints)
            feeds[each] = Feed(each, self.rows, self._worker)
        with self._lock:
            # Who replaces another one follows once that has come to its end.
            here = {each.name for each in self._feeds}
            self._feeds.update(feeds)
        free = {each.name: each.caller.subscribe for each in subscriptions if each.name not in here}
        try:
            claimed = self.rows.claim_all(free, self._worker.name, self._worker.is_dead)
        except BaseException:
            with self._lock:
                for each in subscriptions:
                    del self._feeds[each]
            raise
        for each, feed in feeds.items():
            if each.name in claimed:
                feed.begin(claimed[each.name])
            elif each.name in free:
                logger.info(
                    "agent %r runs in another process; this one takes over when that ends",
                    each.name,
                )
        self._look()

    def leave(self, subscription: Subscription, *, forget: bool) -> None:
        """See `Place.leave`."""
        with self._lock:
            self._feeds[subscription].leaving = "forget" if forget else "release"
            if forget:  # by those, too, whose last calls go on
                self._forget(subscription.name)
        self._look()

    def is_here(self, subscription: Subscription) -> bool:
        """See `Place.is_here`."""
        with self._lock:
            return any(
                each.progress is not None
                for each in self._feeds.values()
                if each.subscription.name == subscription.name
            )

    def forget(self, name: str) -> bool | None:
        """See `Place.forget`; one whose last call goes on is forgotten after that."""
        with self._lock:
            going = self._forget(name)
        if any(each.progress is not None for each in going):
            self._look()
            return True
        return self.rows.forget(name, self._worker.is_dead)

    def _forget(self, name: str) -> list[Feed]:
        """Have all feeds of an agent forget it at their end; called with the lock."""
        going = [each for each in self._feeds.values() if each.subscription.name == name]
        for feed in going:
            feed.leaving = "forget"
        return going

    def _look(self) -> None:
        """Have the desk look at what it did not know at the beginning of its cycle."""
        with self._lock:
            self._looks += 1
            self._calm = -math.inf
        self._pause = _SOON
        self._bell.ring()

    # --- publishing -------------------------------------------------------------------------------

    def submit(
        self,
        channel: Channel,
        publication: Publication,
        ctx: MessageContext | None,
        *,
        wait: bool,
    ) -> None:
        """See `Place.submit`: what a call publishes is held back until it has succeeded."""
        named = publication.named
        outgoing = self.rows.encoded(publication.message, named=named)
        if ctx is not None:
            most = self._bus.config.max_publications
            if len(ctx._held) >= most:
                raise LimitExceeded(
                    f"one call of agent {ctx.agent!r} publishes more than max_publications={most} "
                    "messages; publish in several calls, or allow more in PubSubConfig"
                )
            publication.data = outgoing
            ctx._held.append(publication)
            publication.succeed(publication.message)
            return
        self.store.database.check_writable()
        if publication._timeout == 0:  # there is always room, and a commit takes its time
            publication._timeout = None
        with self._lock:
            if self._closing:
                raise InvalidState("the bus is closed; open a new one to publish")
            if len(self._pending) >= self._bus.config.max_waiting:
                raise ChannelFull(
                    f"{len(self._pending)} publications wait to be recorded already; await what "
                    "publish() returns"
                )
            self._calm = -math.inf
            self._pending.append((publication, outgoing))
        if self._bell.armed:
            self._bell.ring()

    def withdraw(self, publication: Publication, waited: float) -> BaseException | None:
        """See `Place.withdraw`: what the desk has taken is published."""
        with self._lock:
            for each in self._pending:
                if each[0] is publication:
                    self._pending.remove(each)
                    error = InvalidState(
                        f"message {publication.message.id!r} was taken back after {waited:g} s, "
                        "before it was recorded; publish it again, with a longer timeout"
                    )
                    publication.fail(error)
                    return error
        return None

    def made_room(self) -> None:
        """See `Place.made_room`: nobody waits for room."""

    def stop(self) -> None:
        """See `Place.stop`: what waits is recorded all the same."""

    # --- what became of messages ------------------------------------------------------------------

    def settle(self, subscription: Subscription, message: Message, held: list[Publication]) -> None:
        """See `Place.settle`."""
        # What it publishes may be refused yet, and then it counts.
        attempts = subscription.core.attempts(message) if held else 0
        done = Delivered(message.number, DONE, attempts)
        self._settled(subscription, Settled(done, tuple(held), message))

    def postpone(
        self, subscription: Subscription, message: Message, due: float, attempts: int, error: str
    ) -> None:
        """See `Place.postpone`."""
        delivered = Delivered(message.number, RETRY, attempts, due, error, self.now())
        self._settled(subscription, Settled(delivered))

    def bury(self, subscription: Subscription, letter: DeadLetter) -> Publication | None:
        """See `Place.bury`: one transaction records both."""
        number = letter.message.number
        delivered = Delivered(number, DEAD, letter.attempts, None, letter.error, letter.at)
        published: tuple[Publication, ...] = ()
        try:
            told = told_of(self._bus, letter, self)
            if told is not None:
                told.data = self.rows.encoded(told.message)
                published = (told,)
        except DaggerError as error:
            logger.warning(
                "it is not published that agent %r gives a message up: %s", letter.agent, error
            )
        self._settled(subscription, Settled(delivered, published))
        return None

    def _settled(self, subscription: Subscription, settled: Settled) -> None:
        feed = self._feeds.get(subscription)
        if feed is None:  # it was removed, and its subscription given away
            return
        self._calm = -math.inf
        feed.settled.append(settled)
        if self._bell.armed:
            self._bell.ring()

    # --- rest -------------------------------------------------------------------------------------

    def rested(self) -> None:
        """See `Place.rested`: the desk looks whether there is nothing else."""
        self._rested = True
        if self._bell.armed:
            self._bell.ring()

    def calm_until(self) -> float:
        """See `Place.calm_until`."""
        return self._calm

    # --- what was given up ------------------------------------------------------------------------

    def dead_letters(self, agent: str | None) -> list[DeadLetter]:
        """See `Place.dead_letters`: those of all processes."""
        return self.rows.dead_letters(agent)

    def given_up(self, agent: str | None) -> set[str] | None:
        """See `Place.given_up`: of any process."""
        found = self.rows.given_up(agent)
        if found or agent is None or agent in self._bus._callers:
            return found
        return found if any(each.name == agent for each in self.rows.subscriptions()) else None

    def replay(self, agent: str | None, ids: set[str] | None) -> int:
        """See `Place.replay`: by whichever process has the agent."""
        count = self.rows.replay(agent, ids)
        with self._lock:
            for feed in self._feeds.values():
                feed.looks_back = True
        self._look()
        return count

    def discard(self, agent: str | None, ids: set[str] | None) -> int:
        """See `Place.discard`."""
        return self.rows.discard(agent, ids)

    # --- the desk ---------------------------------------------------------------------------------

    def _work(self) -> None:
        tries = 0
        while True:
            closing = self._closing
            try:
                busy = self._cycle()
                if closing and not busy:  # what is recorded may have more to record
                    self._give_back()
                    return
            except StoreError as error:
                tries += closing
                if tries == _LAST_TRIES:
                    logger.error("messages could not be recorded, and are given again: %s", error)
                    self._fault = error
                    return
                logger.warning("messages cannot be recorded now, and are tried again: %s", error)
                time.sleep(_LATER)
                continue
            except BaseException as error:  # a fault of ours: `close` raises it
                logger.exception("the bus stops, as messages cannot be recorded any more")
                self._fault = error
                self._bus.stop("failed")
                self._refuse()
                return
            if busy:
                self._pause = _SOON
            else:
                self._bell.sleep(self._pause, self._is_news)
                self._pause = min(_LATER, self._pause * 1.5)

    def _is_news(self) -> bool:
        if self._pending or self._closing or self._rested:
            return True
        return any(each.settled for each in list(self._feeds.values()))

    def _cycle(self) -> bool:
        """Record what there is, and fetch what there is to do; return whether there was any."""
        self._rested = False
        with self._lock:
            feeds, looks = list(self._feeds.values()), self._looks
            pending = list(self._pending)
            self._pending.clear()
        for feed in feeds:
            while feed.settled:
                feed.taken.append(feed.settled.popleft())
        try:
            wrote = self._commit(pending, feeds)
        except BaseException as error:
            for publication, _ in pending:
                publication.fail(error)
            raise
        got = False
        if not self._closing:
            self._patrol(feeds)
            for feed in feeds:
                got |= feed.fetch()
        self._see_off(feeds)
        if wrote or got:
            self._calm = -math.inf
            return True
        self._look_for_calm(feeds, looks)
        return False

    def _look_for_calm(self, feeds: Sequence[Feed], looks: int) -> None:
        mine = [each for each in feeds if each.progress is not None]
        # In this order: an agent appends to `settled` before it goes to sleep.
        calm = min((each.subscription.calm_until for each in mine), default=math.inf)
        if calm <= self.now():
            return
        with self._lock:
            if self._pending or not all(each.is_empty for each in self._feeds.values()):
                return
            if looks != self._looks or any(each.has_more for each in mine):
                return
            if any(
                each.leaving for each in self._feeds.values()
            ):  # somebody may wait for its place
                return
            self._calm = calm
        self._bus._news()

    def _commit(
        self, pending: Sequence[tuple[Publication, Outgoing]], feeds: Sequence[Feed]
    ) -> bool:
        steps: list[tuple[Feed, Step]] = []
        settlements: list[Settlement] = []
        for feed in feeds:
            planned = feed.plan()
            if planned is not None:
                steps.append((feed, planned[0]))
                settlements.append(planned[1])
        if not pending and not settlements:
            return False
        done = self.rows.commit(self._worker.name, [each[1] for each in pending], settlements)
        for feed, step in steps:
            if feed.subscription.name in done.lost:
                feed.lost()
                continue
            assert feed.progress is not None
            feed.progress.wrote(step)
            for each in feed.taken:
                fault = done.refused.get(each.delivered)
                if fault is not None:
                    feed.refused(each, fault)
                    continue
                for publication in each.published:
                    self._published(publication, publication.data)
            feed.taken.clear()
        for (publication, outgoing), fault in zip(pending, done.faults, strict=True):
            self._tell(publication, outgoing, fault)
        return True

    def _tell(
        self, publication: Publication, outgoing: Outgoing, fault: DaggerError | None
    ) -> None:
        if fault is not None:
            publication.fail(fault)
            return
        self._published(publication, outgoing)
        publication.succeed(publication.message)

    def _published(self, publication: Publication, outgoing: Outgoing) -> None:
        channel = self._bus._channels.get(publication.message.channel)
        if channel is not None and not outgoing.known:
            channel.published += 1

    # --- who has a subscription -------------------------------------------------------------------

    def _patrol(self, feeds: Sequence[Feed]) -> None:
        now = time.monotonic()
        waiting = [each for each in feeds if each.progress is None and not each.leaving]
        if now - self._patrolled < _PATROL:
            return
        self._patrolled = now
        if now - self._beaten >= self._worker.lease / 3:
            self._beaten = now
            self.rows.beat(self._worker.name)
        for feed in waiting:
            if not feed.subscription.stopped and feed.rests() and feed.claim():
                logger.info("agent %r goes on in this process", feed.subscription.name)
        for feed in feeds:
            feed.looks_back = True  # somebody may have replayed something in another process
        self._prune(now)

    def _prune(self, now: float) -> None:
        """Remove some of what all are done with."""
        keep = self._bus.config.keep
        if keep is None:
            return
        if self._pruning or self._pruned is None or now - self._pruned >= _UPKEEP:
            self._pruned = now
            upkeep = self.store._maintenance()
            _, self._pruning = upkeep.remove_some_messages(self.now() - keep, self._pruning)

    def _see_off(self, feeds: Sequence[Feed]) -> None:
        """Give away the subscriptions of agents that were taken out and have come to their end."""
        for feed in feeds:
            if not feed.leaving or feed.subscription.drivers or not feed.is_empty:
                continue
            name, forget = feed.subscription.name, feed.leaving == "forget"
            if feed.progress is not None:
                self.rows.release([name], self._worker.name, forget=forget)
            with self._lock:
                del self._feeds[feed.subscription]
                late = feed.leaving == "forget" and not forget
                heirs = [each for each in self._feeds.values() if each.subscription.name == name]
            if late:  # somebody has said so just now
                self.rows.forget(name, self._worker.is_dead)
            for each in heirs:
                each.claim()

    def _give_back(self) -> None:
        feeds = list(self._feeds.values())
        mine = [each.subscription.name for each in feeds if each.progress is not None]
        if mine:
            self.rows.release(mine, self._worker.name)
