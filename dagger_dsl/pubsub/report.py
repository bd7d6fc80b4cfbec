"""What a bus did: `PubSubExecutionReport`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from dagger_dsl._doors import through
from dagger_dsl.errors import ExecutionError, InvalidState
from dagger_dsl.model.messages import DeadLetter

if TYPE_CHECKING:
    from dagger_dsl.pubsub.seen import ChannelMap, MessageTree

__all__ = ["AgentStats", "ChannelStats", "PubSubExecutionReport"]

T = TypeVar("T")


@attrs.frozen
class AgentStats:
    """What one agent did.

    Attributes:
        handled: Messages that it was given and has handled.
        failed: Calls that failed.
        retried: How many of these were made again.
        dead: Messages that it was given as often as its policy allows.
        waiting: Messages that wait for it in this process.
    """

    handled: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    waiting: int = 0

    def plus(self, later: AgentStats) -> AgentStats:
        """Return what was done before and later; only what waits now waits."""
        return AgentStats(
            self.handled + later.handled,
            self.failed + later.failed,
            self.retried + later.retried,
            self.dead + later.dead,
            later.waiting,
        )


@attrs.frozen
class ChannelStats:
    """What happened on one channel.

    Attributes:
        published: Messages.
        subscribers: The agents of this process that are given them.
        waiting: Publications that wait for room.
    """

    published: int = 0
    subscribers: tuple[str, ...] = ()
    waiting: int = 0


@attrs.frozen(eq=False)
class PubSubExecutionReport:
    """How a bus came to its end, and what was done until then.

    Attributes:
        reason: Why it ended: ``idle``, ``count``, ``timeout``, ``stopped``, or what was given to
            ``stop()``.
        duration: Seconds that it took.
        published: Messages that were published in this process.
        handled, failed, retried, dead: The sums of what the agents did.
        agents: What each agent did, by name.
        channels: What happened on each channel, by name.
        dead_letters: The messages that agents of this process have given up, the newest ones.
        undelivered: Messages in memory that are gone: they waited when it ended, or the call that
            was given them was interrupted or left behind. A database gives them again.
    """

    reason: str
    duration: float
    published: int
    agents: Mapping[str, AgentStats]
    channels: Mapping[str, ChannelStats]
    dead_letters: tuple[DeadLetter, ...]
    undelivered: int
    _tree: Callable[[], MessageTree] | None = attrs.field(default=None, repr=False)
    _map: Callable[[], ChannelMap] | None = attrs.field(default=None, repr=False)

    @property
    def handled(self) -> int:
        """Messages that agents have handled, each counted once an agent."""
        return self._sum("handled")

    @property
    def failed(self) -> int:
        """Calls that failed."""
        return self._sum("failed")

    @property
    def retried(self) -> int:
        """Calls that failed and were made again."""
        return self._sum("retried")

    @property
    def dead(self) -> int:
        """Messages that were given up."""
        return self._sum("dead")

    @property
    def success(self) -> bool:
        """Whether no message was given up, and none is undelivered, by the agents of this process.

        What waits in a database for agents that were not here does not count.
        """
        return self.dead == 0 and self.undelivered == 0

    def raise_for_failure(self) -> None:
        """Raise unless it is a `success`.

        Raises:
            ExecutionError: An agent has given up a message, and it tells of the first one; or
                messages are undelivered.
        """
        if self.dead:
            first = self.dead_letters[0] if self.dead_letters else None
            tells = (
                ""
                if first is None
                else f": {first.agent!r} failed on message {first.message.id!r} of channel "
                f"{first.message.channel!r} ({first.error})"
            )
            raise ExecutionError(f"{self.dead} messages were given up{tells}")
        if self.undelivered:
            raise ExecutionError(
                f"{self.undelivered} messages are undelivered, as the bus ended ({self.reason}) "
                "before agents had handled them; let it end later, give it a longer grace, or keep "
                "them in a database with database_url="
            )

    @property
    def tree(self) -> MessageTree:
        """The messages, as far as they are kept: of a database, as it is now.

        See `PubSubExecutor.message_tree`.

        Raises:
            InvalidState: The report was made by hand.
        """
        return self._made(self._tree)

    @property
    def map(self) -> ChannelMap:
        """The channels and agents: of a database, as they are now.

        See `PubSubExecutor.channel_map`.

        Raises:
            InvalidState: The report was made by hand.
        """
        return self._made(self._map)

    @staticmethod
    def _made(make: Callable[[], T] | None) -> T:
        if make is None:
            raise InvalidState("this report was made by hand; a bus makes one that has pictures")
        return make()

    def to_dot(self) -> str:
        """Return the execution tree as DOT; where no message is kept, the map of channels."""
        return self._seen().to_dot()

    def to_svg(self) -> str:
        """Return the same as SVG."""
        return self._seen().to_svg()

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return it as a page that holds all it needs: it opens from disk in any browser.

        It shows the channels and agents, the messages as far as they are kept, and what was given
        up in this process, with errors and payloads (shortened).

        Args:
            path: Where to write it, too; the folder has to be there.

        Raises:
            ConfigurationError: There can be no such file.
            InvalidState: The report was made by hand.
        """
        return str(through("bus_page")(self, path))

    def _seen(self) -> MessageTree | ChannelMap:
        tree = self.tree
        return tree if len(tree) else self.map

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        if self._map is None:
            return {"text/plain": repr(self)}
        found = self._seen()._repr_mimebundle_(include, exclude)
        return {**found, **({"text/plain": repr(self)} if "text/plain" in found else {})}

    def _sum(self, what: str) -> int:
        values: list[Any] = [getattr(each, what) for each in self.agents.values()]
        return sum(values)

    def __repr__(self) -> str:
        return (
            f"<PubSubExecutionReport: {self.reason} after {self.duration:.3f} s, "
            f"{self.published} published, {self.handled} handled, {self.dead} given up>"
        )
