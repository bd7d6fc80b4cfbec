"""Two players who know no more of each other than a channel, and somebody who keeps the score."""

from __future__ import annotations

from dagger_dsl.pubsub import Message, pubsub_agent

#: What a ball is; anything else is refused where it is published.
BALL = {
    "type": "object",
    "properties": {"hits": {"type": "integer", "minimum": 0}, "of": {"type": "integer"}},
    "required": ["hits", "of"],
    "additionalProperties": False,
}


@pubsub_agent(subscribe="court.left", publish="court.right", input_schema=BALL, output_schema=BALL)
def ping(payload: dict[str, int]) -> dict[str, int] | None:
    """Hit the ball back, or catch it when it was hit often enough."""
    return _hit(payload)


@pubsub_agent(subscribe="court.right", publish="court.left", input_schema=BALL, output_schema=BALL)
async def pong(payload: dict[str, int]) -> dict[str, int] | None:
    """Do the same on the other side; an async agent, for a change."""
    return _hit(payload)


class Scorekeeper:
    """Counts what it sees on all channels of the court; an object is an agent, too."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def subscriptions(self) -> list[str]:
        """Return the channels whose messages it is given."""
        return ["court.*"]

    def handle_message(self, message: Message) -> None:
        """Note on which side the ball was seen."""
        self.seen[message.channel] = self.seen.get(message.channel, 0) + 1


def _hit(ball: dict[str, int]) -> dict[str, int] | None:
    if ball["hits"] >= ball["of"]:
        return None  # nothing is published, and with nothing left to handle the run ends
    return {**ball, "hits": ball["hits"] + 1}
