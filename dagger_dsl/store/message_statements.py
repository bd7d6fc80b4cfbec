"""The statements of `dagger_dsl.store.messages`, compiled once."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from dagger_dsl.store.batches import Upsert
from dagger_dsl.store.schema import APPLICATION_ID, deliveries, messages, subscriptions
from dagger_dsl.store.transactions import Statement


def _bind(name: str, kind: Any) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=kind)


_name = _bind("the_name", sa.Text())
_worker = _bind("the_worker", sa.Text())
_epoch = _bind("the_epoch", sa.Integer())
_number = _bind("the_number", sa.Integer())
_limit = _bind("the_limit", sa.Integer())
_one: sa.ColumnClause[int] = sa.literal_column("1")

MESSAGE_COLUMNS: Final = (
    "channel",
    "message_key",
    "payload",
    "publisher",
    "public_id",
    "artifact_id",
    "task_id",
    "cause_id",
    "published_at",
)
INSERT_MESSAGE: Final = Statement(
    sa.insert(messages)
    .values({name: _bind(name, messages.c[name].type) for name in MESSAGE_COLUMNS})
    .inline()
)
BY_PUBLIC_ID: Final = Statement(
    sa.select(
        messages.c.channel, messages.c.message_key, messages.c.payload, messages.c.artifact_id
    ).where(messages.c.public_id == _bind("the_id", sa.Text()))
)
# Elsewhere than on SQLite a lower number could be seen after a higher one.
LOCK: Final = Statement(sa.select(sa.func.pg_advisory_xact_lock(APPLICATION_ID + 1)))
LAST: Final = Statement(sa.select(sa.func.max(messages.c.message_id)))

MESSAGE_ROW: Final = (
    messages.c.message_id,
    messages.c.channel,
    messages.c.message_key,
    messages.c.publisher,
    messages.c.public_id,
    messages.c.task_id,
    messages.c.cause_id,
    messages.c.published_at,
    messages.c.payload,
    messages.c.artifact_id,
)
AFTER: Final = Statement(
    sa.select(*MESSAGE_ROW)
    .where(messages.c.message_id > _number)
    .order_by(messages.c.message_id)
    .limit(_limit)
    .offset(_bind("the_first", sa.Integer()))
)
# By the index of channels, in which the messages of one are in order.
_between = (
    messages.c.channel == _bind("the_channel", sa.Text()),
    messages.c.message_id > _number,
    messages.c.message_id <= _bind("the_last", sa.Integer()),
)
NUMBERS_ON: Final = Statement(
    sa.select(messages.c.message_id)
    .where(*_between)
    .order_by(messages.c.message_id)
    .limit(_limit)
    .offset(_bind("the_first", sa.Integer()))
)
ON: Final = Statement(
    sa.select(*MESSAGE_ROW)
    .where(*_between)
    .order_by(messages.c.message_id)
    .limit(_limit)
    .offset(_bind("the_first", sa.Integer()))
)
ONE: Final = Statement(sa.select(*MESSAGE_ROW).where(messages.c.message_id == _number))

SUBSCRIPTION: Final = Statement(
    sa.select(
        subscriptions.c.position,
        subscriptions.c.owner,
        subscriptions.c.epoch,
        subscriptions.c.beat,
    ).where(subscriptions.c.name == _name)
)
SUBSCRIPTIONS: Final = Statement(
    sa.select(
        subscriptions.c.name,
        subscriptions.c.patterns,
        subscriptions.c.position,
        subscriptions.c.owner,
        subscriptions.c.epoch,
    ).order_by(subscriptions.c.name)
)
INSERT_SUBSCRIPTION: Final = Upsert(
    subscriptions, ("name", "patterns", "position", "owner", "epoch")
)
CLAIM: Final = Statement(
    sa.update(subscriptions)
    .where(subscriptions.c.name == _name, subscriptions.c.epoch == _epoch)
    .values(
        owner=_worker,
        epoch=subscriptions.c.epoch + _one,
        patterns=_bind("new_patterns", sa.Text()),
    )
)
ADVANCE: Final = Statement(
    sa.update(subscriptions)
    .where(
        subscriptions.c.name == _name,
        subscriptions.c.owner == _worker,
        subscriptions.c.epoch == _epoch,
    )
    .values(position=_bind("new_position", sa.BigInteger()), beat=subscriptions.c.beat + _one)
)
BEAT: Final = Statement(
    sa.update(subscriptions)
    .where(subscriptions.c.owner == _worker)
    .values(beat=subscriptions.c.beat + _one)
)
RELEASE: Final = Statement(
    sa.update(subscriptions)
    .where(subscriptions.c.name == _name, subscriptions.c.owner == _worker)
    .values(owner=sa.null(), epoch=subscriptions.c.epoch + _one)
)
FORGET_FREE: Final = Statement(
    sa.delete(subscriptions).where(subscriptions.c.name == _name, subscriptions.c.epoch == _epoch)
)
FORGET: Final = Statement(sa.delete(subscriptions).where(subscriptions.c.name == _name))
FORGET_DELIVERIES: Final = Statement(
    sa.delete(deliveries).where(deliveries.c.subscription == _name)
)

DELIVERY_COLUMNS: Final = (
    "subscription",
    "message_id",
    "state",
    "attempt",
    "due_at",
    "error",
    "at",
    "deaths",
)
PUT_DELIVERY: Final = Upsert(deliveries, DELIVERY_COLUMNS, DELIVERY_COLUMNS[2:])
DROP_DELIVERY: Final = Statement(
    sa.delete(deliveries).where(
        deliveries.c.subscription == _name, deliveries.c.message_id == _number
    )
)
DROP_PASSED: Final = Statement(
    sa.delete(deliveries).where(
        deliveries.c.subscription == _name,
        deliveries.c.message_id <= sa.bindparam("the_position", type_=sa.Integer()),
        deliveries.c.state == sa.literal_column("'done'"),
    )
)
DELIVERIES: Final = Statement(
    sa.select(deliveries.c.message_id, deliveries.c.state)
    .where(
        deliveries.c.subscription == _name,
        sa.or_(
            deliveries.c.state == sa.literal_column("'retry'"), deliveries.c.message_id > _number
        ),
    )
    .order_by(deliveries.c.message_id)
)
RETRIES: Final = Statement(
    sa.select(
        deliveries.c.message_id, deliveries.c.attempt, deliveries.c.due_at, deliveries.c.deaths
    )
    .where(deliveries.c.subscription == _name, deliveries.c.state == sa.literal_column("'retry'"))
    .order_by(deliveries.c.message_id)
)
_dead = deliveries.c.state == sa.literal_column("'dead'")
_of_agent = sa.or_(_bind("any_name", sa.Integer()) == _one, deliveries.c.subscription == _name)
DEAD: Final = Statement(
    sa.select(
        deliveries.c.subscription,
        deliveries.c.error,
        deliveries.c.attempt,
        deliveries.c.at,
        *MESSAGE_ROW,
    )
    .join(messages, messages.c.message_id == deliveries.c.message_id)
    .where(_dead, _of_agent)
    .order_by(deliveries.c.at, messages.c.message_id)
)
DEAD_IDS: Final = Statement(
    sa.select(deliveries.c.subscription, messages.c.message_id, messages.c.public_id)
    .join(messages, messages.c.message_id == deliveries.c.message_id)
    .where(_dead, _of_agent)
)
REPLAY: Final = Statement(
    sa.update(deliveries)
    .where(deliveries.c.subscription == _name, deliveries.c.message_id == _number, _dead)
    .values(
        state=sa.literal_column("'retry'"),
        attempt=sa.literal_column("0"),
        due_at=sa.literal_column("0"),
        deaths=sa.literal_column("0"),
    )
)
DISCARD: Final = Statement(
    sa.delete(deliveries).where(
        deliveries.c.subscription == _name, deliveries.c.message_id == _number, _dead
    )
)
LEAST_POSITION: Final = Statement(sa.select(sa.func.min(subscriptions.c.position)))
FIRST: Final = Statement(sa.select(sa.func.min(messages.c.message_id)))
# Those that were given up, or are given again, are kept as long as their row says so; the last one
# of all is kept for its number.
_done_with = (
    messages.c.message_id > _bind("the_first", sa.Integer()),
    messages.c.message_id <= _number,
    messages.c.published_at < _bind("the_time", sa.Double()),
    messages.c.message_id < sa.select(sa.func.max(messages.c.message_id)).scalar_subquery(),
    messages.c.message_id.not_in(sa.select(deliveries.c.message_id)),
)
REMOVE: Final = Statement(sa.delete(messages).where(*_done_with))
REMOVABLE: Final = Statement(sa.select(sa.func.count()).where(*_done_with))
REMOVABLE_FILES: Final = Statement(
    sa.select(messages.c.artifact_id).where(messages.c.artifact_id.is_not(None), *_done_with)
)
