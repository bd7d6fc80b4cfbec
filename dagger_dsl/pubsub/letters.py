"""What agents have given up: what is published of it, and what may be asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagger_dsl.errors import AgentNotFound, MessageNotFound, shown
from dagger_dsl.model.messages import DeadLetter, Message
from dagger_dsl.pubsub.waiting import Publication

if TYPE_CHECKING:
    from dagger_dsl.pubsub.executor import PubSubExecutor
    from dagger_dsl.pubsub.subscription import Place

__all__ = ["check_given_up", "kept", "told_of"]


def check_given_up(place: Place, agent: str | None, ids: set[str] | None) -> None:
    """Refuse agents that are none, and ids of messages that were not given up.

    Raises:
        AgentNotFound: There is no such agent.
        MessageNotFound: One of the ids is none of these.
    """
    known = place.given_up(agent)
    if known is None:
        raise AgentNotFound(f"there is no agent {shown(agent)}, and it has given nothing up")
    missing = sorted(ids - known) if ids else ()
    if missing:
        whose = "" if agent is None else f" of agent {shown(agent)}"
        raise MessageNotFound(
            f"there is no dead letter {shown(missing[0])}{whose}; bus.dead_letters(), or "
            "dagger-dsl deadletters list, has all there are"
        )


def kept(bus: PubSubExecutor, agent: str | None) -> list[DeadLetter]:
    """Return what agents of a bus in memory, or one of them, have given up, the oldest first."""
    with bus._lock:
        return [each for each in bus._given_up if agent is None or each.agent == agent]


def told_of(bus: PubSubExecutor, letter: DeadLetter, place: Place) -> Publication | None:
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
        ),
        timeout=bus.config.publish_timeout,
        give_up=place.withdraw,
    )
