"""What is published when an agent gives a message up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagger_dsl.model.messages import DeadLetter, Message
from dagger_dsl.pubsub.waiting import Publication

if TYPE_CHECKING:
    from dagger_dsl.pubsub.executor import PubSubExecutor

__all__ = ["told_of"]


def told_of(bus: PubSubExecutor, letter: DeadLetter) -> Publication | None:
    """Return what a bus publishes of a message that is given up; None for nothing.

    What is given up on the channel for that is not told there again.
    """
    name, message = bus.config.dead_letter_channel, letter.message
    if name is None or message.channel == name:
        return None
    number = next(bus._numbers)
    told = {
        "agent": letter.agent,
        "error": letter.error,
        "attempts": letter.attempts,
        "message_id": message.id,
        "channel": message.channel,
        "key": message.key,
        "payload": message.payload,
    }
    return Publication(
        Message(
            bus._channel(name).name,
            told,
            message.key,
            f"{bus._prefix}-{number}",
            bus._clock(),
            letter.agent,
            message.task_id,
            message.id,
            number if bus.database_url is None else 0,
        )
    )
