"""What is read and written of messages, as values; and what was stored as rows, as these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import attrs

from dagger_dsl.errors import DaggerError
from dagger_dsl.model.messages import Message

__all__ = [
    "DEAD",
    "DONE",
    "RETRY",
    "Claimed",
    "Committed",
    "Delivered",
    "Outgoing",
    "Settlement",
    "Stored",
    "StoredPlace",
    "id_of",
    "row_of",
    "stored",
]

DONE: Final = "done"
RETRY: Final = "retry"
DEAD: Final = "dead"


@attrs.define(eq=False)
class Outgoing:
    """A message that is to be stored, encoded.

    Attributes:
        message: Which.
        data: Its payload's encoding.
        named: Whether its id was given by hand, so that it may be there already.
        known: Whether it was there already when it was to be stored.
        inline, artifact_id, size: Where the encoding goes, once `MessageRows.place` has placed it.
    """

    message: Message
    data: bytes
    named: bool = False
    known: bool = False
    inline: bytes | None = None
    artifact_id: str | None = None
    size: int = 0


@attrs.frozen(eq=False)
class Delivered:
    """What became of one message for one subscription.

    Attributes:
        number: The message's.
        state: ``done``, ``retry`` or ``dead``.
        attempt: How many calls have failed.
        due_at: When it is given again, in seconds since 1970.
        error: What the last call failed with.
        at: When that was, in seconds since 1970.
        deaths: How many processes died while they handled it.
    """

    number: int
    state: str
    attempt: int = 0
    due_at: float | None = None
    error: str = ""
    at: float = 0.0
    deaths: int = 0


@attrs.frozen(eq=False)
class Settlement:
    """What a worker records of one subscription.

    Attributes:
        name, epoch: The subscription, and the claim.
        position: Up to where everything is settled, or has a row.
        put: Rows to write.
        drop: Numbers of messages whose rows are needed no more.
        published: What was published while messages were handled, by what became of these. Where
            a call's cannot be stored its message is given again, until it is settled otherwise.
        drop_done: Whether there are rows of messages up to the position that are done, which go.
    """

    name: str
    epoch: int
    position: int
    put: Sequence[Delivered] = ()
    drop: Sequence[int] = ()
    published: Mapping[Delivered, Sequence[Outgoing]] = MappingProxyType({})
    drop_done: bool = False


@attrs.frozen(eq=False)
class Committed:
    """What came of a commit.

    Attributes:
        faults: For each message from outside None, or why it is not stored.
        lost: The subscriptions that belong to other workers by now; nothing of them is recorded.
        refused: What holds of no message after all, with why: what was published meanwhile cannot
            be.
    """

    faults: list[DaggerError | None] = attrs.field(factory=list)
    lost: list[str] = attrs.field(factory=list)
    refused: dict[Delivered, DaggerError] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Claimed:
    """A subscription that a worker gives messages to.

    Attributes:
        epoch: What each of its writes names.
        position: Up to where everything is settled, or has a row.
        rows: What is said of other messages: ``{number: state}``.
        died: Whether the worker that had it before has died.
    """

    epoch: int
    position: int
    rows: dict[int, str]
    died: bool = False


@attrs.frozen(eq=False)
class StoredPlace:
    """A subscription as it stood when it was read.

    Attributes:
        name: Its agent.
        patterns: Whose messages it is given.
        position: Up to where everything is settled, or has a row.
        owner: Who gives it messages, for people; empty where nobody does.
        epoch: How often it was claimed.
        lag: Messages of all channels after its position.
    """

    name: str
    patterns: tuple[str, ...]
    position: int
    owner: str
    epoch: int
    lag: int


@attrs.frozen(eq=False)
class Stored:
    """A message as it was read, its payload not yet decoded.

    Attributes:
        head: The message, without its payload.
        inline, artifact_id: Where its payload is.
    """

    head: Message
    inline: Any
    artifact_id: str | None


def id_of(number: int, public_id: str | None) -> str:
    """Return the id of a message; one of an earlier version has none but its number."""
    return str(number) if public_id is None else public_id


def row_of(outgoing: Outgoing) -> Sequence[Any]:
    """Return a message as the row that is inserted, placed."""
    message = outgoing.message
    return (
        message.channel,
        message.key,
        outgoing.inline,
        message.source or None,
        message.id,
        outgoing.artifact_id,
        message.task_id or None,
        message.cause or None,
        message.timestamp,
    )


def stored(row: Sequence[Any]) -> Stored:
    """Return a message from its row, which has `MESSAGE_ROW` of the statements."""
    number, channel, key, publisher, public_id, task_id, cause, at, payload, artifact_id = row
    head = Message(
        channel,
        None,
        key,
        id_of(number, public_id),
        at or 0.0,
        publisher or "",
        task_id or "",
        cause or "",
        number,
    )
    return Stored(head, payload, artifact_id)
