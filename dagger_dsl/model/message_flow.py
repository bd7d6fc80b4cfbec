"""What is known of messages, channels and agents, as values that views are made of."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

from dagger_dsl.model.messages import Message, matches

__all__ = [
    "DEAD",
    "HANDLED",
    "RETRYING",
    "WAITING",
    "AgentFlow",
    "BusFlow",
    "ChannelFlow",
    "Handling",
    "MessageCourse",
]

HANDLED: Final = "handled"
WAITING: Final = "waiting"
RETRYING: Final = "retrying"
DEAD: Final = "dead"


@attrs.frozen
class Handling:
    """What became of a message with one agent.

    Attributes:
        agent: Who was given it, or is to be.
        state: ``handled``, ``waiting`` (or being handled), ``retrying`` or ``dead``.
        attempts: Calls that have failed.
        error: What the last one failed with.
    """

    agent: str
    state: str
    attempts: int = 0
    error: str = ""


@attrs.frozen
class MessageCourse:
    """A message, and what became of it.

    Attributes:
        message: Which.
        handlings: With each agent that was given it, in no order that matters.
        fault: Why its payload cannot be read; empty where it can.
    """

    message: Message
    handlings: tuple[Handling, ...] = ()
    fault: str = ""


@attrs.frozen
class ChannelFlow:
    """How one channel stands.

    Attributes:
        name: Its name.
        published: Messages that were published; of a database those that it keeps.
        waiting: How often a message of it waits for an agent.
        dead: How often one was given up.
        blocked: Publications that wait for room.
        last_at: When the last message came, in seconds since 1970; None where nobody knows.
    """

    name: str
    published: int = 0
    waiting: int = 0
    dead: int = 0
    blocked: int = 0
    last_at: float | None = None


@attrs.frozen
class AgentFlow:
    """How one agent stands.

    Attributes:
        name: Its name.
        subscribe: The channels and patterns whose messages it is given.
        publish: Those on which it says that it publishes.
        waiting: Messages that it has not handled: how far it lags behind.
        retrying: How many of these have failed, and are given again.
        dead: Messages that it has given up.
        handled, failed: Messages and failed calls in this process; None where it is in another one.
        owner: The worker that gives it messages; empty where nobody does, or all is in memory.
    """

    name: str
    subscribe: tuple[str, ...]
    publish: tuple[str, ...] = ()
    waiting: int = 0
    retrying: int = 0
    dead: int = 0
    handled: int | None = None
    failed: int | None = None
    owner: str = ""

    def gets(self, channel: str) -> bool:
        """Whether it is given the messages of a channel."""
        return any(matches(each, channel) for each in self.subscribe)

    def declares(self, channel: str) -> bool:
        """Whether it says that it publishes on a channel."""
        return any(matches(each, channel) for each in self.publish)


@attrs.frozen
class BusFlow:
    """How channels and agents stand.

    Attributes:
        channels, agents: By name, in order.
        sent: How many messages came from whom: ``{(source, channel): count}``, with an empty source
            for what came from outside. Only what is known of it: memory that keeps no trace knows
            nothing.
        durable: Whether a database keeps the messages.
    """

    channels: Mapping[str, ChannelFlow]
    agents: Mapping[str, AgentFlow]
    sent: Mapping[tuple[str, str], int] = MappingProxyType({})
    durable: bool = False

    def total(self, what: str) -> int:
        """Return the sum of a number over all agents, or over channels for ``published``."""
        rows = self.channels if what == "published" else self.agents
        return sum(getattr(each, what) or 0 for each in rows.values())
