"""`MessageReads`: what people want to know of messages, read beside those who serve them.

Nothing here writes, claims or waits for anybody, so that it can be asked of a database that others
are at work on.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs
import orjson
import sqlalchemy as sa

from dagger_dsl.errors import DecodingError, StoreDamaged
from dagger_dsl.model.message_flow import (
    DEAD,
    HANDLED,
    RETRYING,
    WAITING,
    AgentFlow,
    BusFlow,
    ChannelFlow,
    Handling,
    MessageCourse,
)
from dagger_dsl.model.messages import DeadLetter, Message, error_text
from dagger_dsl.store.database import Database
from dagger_dsl.store.message_statements import MESSAGE_ROW, ONE
from dagger_dsl.store.message_values import Stored, id_of, stored
from dagger_dsl.store.messages import MessageRows
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.schema import deliveries, messages, subscriptions
from dagger_dsl.store.transactions import Statement, column_moment, read

__all__ = ["MessageReads"]


def _bind(name: str, kind: Any) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=kind)


_number = _bind("the_number", sa.Integer())
_last = _bind("the_last", sa.Integer())
_limit = _bind("the_limit", sa.Integer())
# SQLite's dialect writes an offset with each limit.
_offset = _bind("the_first", sa.Integer())
_name = _bind("the_name", sa.Text())
_id = messages.c.message_id

_NEWEST: Final = Statement(
    sa.select(*MESSAGE_ROW).order_by(_id.desc()).limit(_limit).offset(_offset)
)
_LINK: Final = Statement(
    sa.select(_id, messages.c.public_id, messages.c.cause_id).where(
        messages.c.public_id == _bind("the_id", sa.Text())
    )
)
_LINK_OF_NUMBER: Final = Statement(
    sa.select(_id, messages.c.public_id, messages.c.cause_id).where(_id == _number)
)
# From a message to what it comes from, so many steps at most: ids given by hand may go round.
_way = (
    sa.select(_id, messages.c.public_id, messages.c.cause_id, sa.literal_column("1").label("step"))
    .where(_id == _number)
    .cte("way", recursive=True)
)
_above = messages.alias("above")
_way = _way.union_all(
    sa.select(
        _above.c.message_id,
        _above.c.public_id,
        _above.c.cause_id,
        _way.c.step + sa.literal_column("1"),
    )
    .join(_way, _above.c.public_id == _way.c.cause_id)
    .where(_way.c.step < _bind("the_steps", sa.Integer()))
)
_WAY: Final = Statement(
    sa.select(_way.c.message_id, _way.c.public_id, _way.c.cause_id).order_by(_way.c.step)
)
_CAUSED: Final = Statement(
    sa.select(_id, messages.c.public_id, messages.c.cause_id)
    .where(messages.c.cause_id == _bind("the_cause", sa.Text()))
    .order_by(_id)
    .limit(_limit)
    .offset(_offset)
)
# By publisher first: by channel, SQLite would go over the whole index of channels at each look.
_COUNTS: Final = Statement(
    sa.select(
        messages.c.channel,
        messages.c.publisher,
        sa.func.count(),
        sa.func.max(messages.c.published_at),
        sa.func.max(_id),
    )
    .where(_id > _number)
    .group_by(messages.c.publisher, messages.c.channel)
)
_ALL: Final = Statement(sa.select(sa.func.count()).select_from(messages))
_SUBSCRIPTIONS: Final = Statement(
    sa.select(
        subscriptions.c.name,
        subscriptions.c.patterns,
        subscriptions.c.position,
        subscriptions.c.owner,
        subscriptions.c.created_at,
    ).order_by(subscriptions.c.name)
)
_after = (_id > _number, sa.or_(messages.c.publisher.is_(None), messages.c.publisher != _name))
_AHEAD: Final = Statement(
    sa.select(messages.c.channel, sa.func.count())
    .where(*_after)
    .group_by(messages.c.publisher, messages.c.channel)
)
# By the index of channels, so that what comes on others is not read.
_AHEAD_ON: Final = Statement(
    sa.select(messages.c.channel, sa.func.count())
    .where(messages.c.channel == _bind("the_channel", sa.Text()), *_after)
    .group_by(messages.c.channel)
)
_beyond = sa.case(
    (deliveries.c.message_id > _number, sa.literal_column("1")), else_=sa.literal_column("0")
)
_EXCEPTIONS: Final = Statement(
    sa.select(messages.c.channel, deliveries.c.state, _beyond.label("beyond"), sa.func.count())
    .join(messages, _id == deliveries.c.message_id)
    .where(deliveries.c.subscription == _name)
    .group_by(messages.c.channel, deliveries.c.state, sa.literal_column("beyond"))
)
_BETWEEN: Final = Statement(
    sa.select(
        deliveries.c.message_id, deliveries.c.state, deliveries.c.attempt, deliveries.c.error
    ).where(
        deliveries.c.subscription == _name,
        deliveries.c.message_id >= _number,
        deliveries.c.message_id <= _last,
    )
)

#: Channels of an agent that are asked for by name, at most; of more, all messages are read.
_NAMES: Final = 20

_STATES: Final = {"done": HANDLED, "retry": RETRYING, "dead": DEAD}


@attrs.frozen
class _Reader:
    """A subscription as it is in the table."""

    flow: AgentFlow
    position: int
    since: dt.datetime


class MessageReads:
    """Reads the messages and subscriptions of one database, again and again if need be.

    How many messages there are on each channel is counted once; later only what came is.

    Args:
        database, payloads: What the store is made of.
    """

    def __init__(self, database: Database, payloads: Payloads) -> None:
        self._database = database
        self._rows = MessageRows(database, payloads)
        self._sent: Counter[tuple[str, str]] = Counter()
        self._latest: dict[str, float] = {}
        self._counted = 0

    def dead_letters(self, agent: str | None) -> list[DeadLetter]:
        """Return what agents, or one of them, have given up, the oldest first."""
        return self._rows.dead_letters(agent)

    @property
    def where(self) -> str:
        """The database, in words."""
        return self._database.where

    # --- channels and agents ----------------------------------------------------------------------

    def flow(self) -> BusFlow:
        """Return how all channels and agents stand.

        An agent's `AgentFlow.publish` is where it has published, as nothing else is on record.
        """
        self._count()
        waiting: Counter[str] = Counter()
        dead: Counter[str] = Counter()
        published: Counter[str] = Counter()
        where: defaultdict[str, list[str]] = defaultdict(list)
        for (source, channel), number in self._sent.items():
            published[channel] += number
            where[source].append(channel)
        agents = {}
        for reader in self._readers():
            each = self._standing(reader, published, waiting, dead)
            agents[each.name] = attrs.evolve(each, publish=tuple(sorted(where[each.name])))
        names = {*published, *waiting, *dead}
        channels = {
            name: ChannelFlow(
                name, published[name], waiting[name], dead[name], last_at=self._latest.get(name)
            )
            for name in sorted(names)
        }
        return BusFlow(channels, agents, dict(self._sent), durable=True)

    def _count(self) -> None:
        self._count_more()
        if read(self._database, _ALL, ())[0][0] < self._sent.total():  # some were removed
            self._sent.clear()
            self._latest.clear()
            self._counted = 0
            self._count_more()

    def _count_more(self) -> None:
        """Count what came since the last time."""
        end = self._counted
        for channel, source, number, at, last in read(self._database, _COUNTS, (end,)):
            self._sent[source or "", channel] += number
            self._latest[channel] = max(self._latest.get(channel, 0.0), at or 0.0)
            self._counted = max(self._counted, last)

    def _ahead(self, reader: _Reader, channels: Iterable[str]) -> list[Sequence[Any]]:
        """Return how many messages there are on each channel of an agent after its position."""
        flow = reader.flow
        values = {"the_number": reader.position, "the_name": flow.name}
        names = [each for each in channels if flow.gets(each)]
        if len(names) > _NAMES:
            rows = read(self._database, _AHEAD, _AHEAD.in_order(values))
            return [row for row in rows if flow.gets(row[0])]
        named = [_AHEAD_ON.in_order({**values, "the_channel": each}) for each in names]
        return [row for each in named for row in read(self._database, _AHEAD_ON, each)]

    def _standing(
        self,
        reader: _Reader,
        channels: Iterable[str],
        waiting: Counter[str],
        dead: Counter[str],
    ) -> AgentFlow:
        """Return how one agent stands, and add to the counts of channels."""
        flow, mine, again, lost = reader.flow, 0, 0, 0
        values = {"the_number": reader.position, "the_name": flow.name}
        for channel, number in self._ahead(reader, channels):
            waiting[channel] += number
            mine += number
        rows = read(self._database, _EXCEPTIONS, _EXCEPTIONS.in_order(values))
        for channel, state, beyond, number in rows:
            if state == "dead":
                dead[channel] += number
                lost += number
            elif state == "retry":
                again += number
            change = (number if state == "retry" else 0) - (number if beyond else 0)
            waiting[channel] += change
            mine += change
        return attrs.evolve(flow, waiting=max(0, mine), retrying=again, dead=lost)

    def _readers(self) -> list[_Reader]:
        return [
            _Reader(
                AgentFlow(str(name), tuple(orjson.loads(patterns)), owner=str(owner or "")),
                int(position),
                column_moment(since),
            )
            for name, patterns, position, owner, since in read(self._database, _SUBSCRIPTIONS, ())
        ]

    # --- courses of messages ----------------------------------------------------------------------

    def newest(self, limit: int) -> list[MessageCourse]:
        """Return the newest messages, so many at most, in order."""
        rows = read(self._database, _NEWEST, (limit, 0))
        return self._courses([stored(each) for each in reversed(rows)])

    def tree_of(self, message_id: str, limit: int) -> list[MessageCourse] | None:
        """Return the message that another one comes from, and all that came of it, in order.

        Args:
            message_id: Any message of the tree.
            limit: Messages at most; the way to the one that is asked for comes first.

        Returns:
            None where there is no such message.
        """
        way = self._way(message_id, limit)
        if not way:
            return None
        numbers: list[int] = []
        waiting = list(way.items())
        heapq.heapify(waiting)
        reached, ahead = set(way), len(way)
        # A message comes after the one that it came of.
        while waiting and (ahead or len(numbers) < limit):
            number, name = heapq.heappop(waiting)
            if number in way:
                ahead -= 1
            elif len(numbers) + ahead >= limit:
                continue
            numbers.append(number)
            for each, public_id, _ in read(self._database, _CAUSED, (name, limit, 0)):
                if each not in reached:
                    reached.add(each)
                    heapq.heappush(waiting, (each, id_of(each, public_id)))
        rows = [row for each in numbers for row in read(self._database, ONE, (each,))]
        return self._courses([stored(each) for each in rows])

    def _way(self, message_id: str, limit: int) -> dict[int, str]:
        """Return a message and what it comes from, at most so many, with their ids by number."""
        found: dict[int, str] = {}
        link = self._link(message_id)
        while link is not None and link[0] not in found and len(found) < limit:
            cause = ""
            for row in read(self._database, _WAY, (link[0], limit - len(found))):
                number, public_id, cause = row
                if number in found:
                    return found
                found[number] = id_of(number, public_id)
            # Further on there is nothing, but a message of an earlier version, which has no id.
            link = self._link(cause) if cause else None
        return found

    def _link(self, message_id: str) -> tuple[int, str, str] | None:
        rows = read(self._database, _LINK, (message_id,))
        if not rows and message_id.isascii() and message_id.isdigit() and len(message_id) < 19:
            rows = [
                each
                for each in read(self._database, _LINK_OF_NUMBER, (int(message_id),))
                if each[1] is None
            ]
        if not rows:
            return None
        number, public_id, cause = rows[0]
        return number, id_of(number, public_id), cause or ""

    def _courses(self, found: Sequence[Stored]) -> list[MessageCourse]:
        if not found:
            return []
        numbers = [each.head.number for each in found]
        readers = self._readers()
        noted: dict[tuple[int, str], Handling] = {}
        for reader in readers:
            name = reader.flow.name
            values = {"the_name": name, "the_number": min(numbers), "the_last": max(numbers)}
            for number, state, attempt, error in read(
                self._database, _BETWEEN, _BETWEEN.in_order(values)
            ):
                told = error if state != "done" else ""
                noted[number, name] = Handling(name, _STATES[state], int(attempt), told or "")
        return [self._course(each, readers, noted) for each in found]

    def _course(
        self,
        found: Stored,
        readers: Iterable[_Reader],
        noted: dict[tuple[int, str], Handling],
    ) -> MessageCourse:
        message, fault = found.head, ""
        try:
            message = self._rows.message(found)
        except (DecodingError, StoreDamaged) as error:
            fault = error_text(error)
        handlings = [
            noted.get((message.number, each.flow.name)) or _told(message, each)
            for each in readers
            if (message.number, each.flow.name) in noted or _was_given(message, each)
        ]
        return MessageCourse(message, tuple(handlings), fault)


def _was_given(message: Message, reader: _Reader) -> bool:
    """Whether a subscription is given a message of which it has no row.

    One that began later was given nothing from before, and its moment is kept to the second.
    """
    flow = reader.flow
    if message.source == flow.name or not flow.gets(message.channel):
        return False
    return message.number > reader.position or message.timestamp >= reader.since.timestamp()


def _told(message: Message, reader: _Reader) -> Handling:
    state = HANDLED if message.number <= reader.position else WAITING
    return Handling(reader.flow.name, state)
