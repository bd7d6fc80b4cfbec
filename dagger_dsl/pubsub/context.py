"""`MessageContext`: what an agent is given beside its message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import InvalidState, UndeclaredPublication, shown
from dagger_dsl.model.messages import Message
from dagger_dsl.pubsub.arguments import contents

if TYPE_CHECKING:
    from dagger_dsl.pubsub.subscription import Subscription
    from dagger_dsl.pubsub.waiting import Publication

__all__ = ["MessageContext"]


class MessageContext:
    """One call of an agent: the ``bus`` that it asks for.

    Attributes:
        message: What it was given.
        agent: Its name.
        attempt: Which call for this message this is, counted from 1.
    """

    __slots__ = ("_held", "_over", "_pending", "_subscription", "attempt", "message")

    def __init__(self, subscription: Subscription, message: Message) -> None:
        self.message = message
        self.attempt = subscription.core.attempts(message) + 1
        self._subscription = subscription
        self._held: list[Publication] = []
        self._pending: list[Publication] = []
        self._over = False

    @property
    def agent(self) -> str:
        """The agent's name."""
        return self._subscription.name

    @property
    def idempotency_key(self) -> str:
        """The same in each call of the agent for this message, for effects elsewhere."""
        return f"{self.message.id}:{self.agent}"

    def publish(
        self,
        channel: str,
        payload: Any = None,
        *,
        key: str = "",
        id: str | None = None,  # the field's name
        task_id: str | None = None,
        timeout: float | None = None,
    ) -> Publication:
        """Publish a message as this agent; see `PubSubExecutor.publish`.

        In memory it goes out at once. In a database it goes out in the transaction that records
        that this message was handled, and not at all when the call fails.

        Args:
            channel, payload, key, id, timeout: As there; a returned `Message` stands for the same.
            task_id: That of the message that the agent was given by default.

        Raises:
            UndeclaredPublication: The bus is strict, and the agent does not name the channel.
            OutputError: The payload does not fit the agent's output schema.
            MessageValidationError: It does not fit the channel, or who is to get it.
            InvalidState: The call is over.
        """
        if self._over:
            raise InvalidState(
                f"the call of agent {self.agent!r} for message {self.message.id!r} is over; "
                "publish before it returns, or through the executor"
            )
        bus, caller = self._subscription.bus, self._subscription.caller
        if bus.config.strict and not caller.declares(channel):
            said = ", ".join(map(repr, caller.publish or ())) or "none"
            raise UndeclaredPublication(
                f"agent {self.agent!r} publishes on channel {shown(channel)}, and names {said}; "
                "add it to publish="
            )
        if type(payload) is Message:
            payload, key, said = contents(payload, key, task_id or "")
            task_id = said or task_id
        caller.check_output(payload)
        cause = self.message
        about = cause.task_id if task_id is None else task_id
        publication = bus._submit(
            channel, payload, key, id, self.agent, about, cause.id, timeout, self, True
        )
        if not publication.is_done:
            self._pending.append(publication)
        return publication

    def stop(self, reason: str = "stopped") -> None:
        """End the bus once this call has ended; see `PubSubExecutor.stop`."""
        self._subscription.bus.stop(reason)

    def __repr__(self) -> str:
        return f"<MessageContext of agent {self.agent!r}, message {self.message.id!r}>"
