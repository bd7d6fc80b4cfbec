"""Let two agents play a ball to and fro until it was hit so often, and print who has seen what."""

from __future__ import annotations

import sys

from pubsubagent_basic import agents

from dagger_dsl.errors import MessageValidationError
from dagger_dsl.pubsub import PubSubExecutionReport, PubSubExecutor, StartWith


def play(hits: int) -> tuple[PubSubExecutionReport, dict[str, int]]:
    """Return the report of a rally of so many hits, and how often a ball was seen where."""
    keeper = agents.Scorekeeper()
    bus = PubSubExecutor([agents.ping, agents.pong, keeper])
    report = bus.run(StartWith("court.left", {"hits": 0, "of": hits}))
    return report, keeper.seen


def main(hits: int = 10) -> int:
    """Print what came of it; return 0 when both have hit the ball as often as they should."""
    report, seen = play(hits)
    print(report)
    for channel, count in sorted(seen.items()):
        print(f"{channel}: a ball, {count} times")
    with PubSubExecutor([agents.ping, agents.pong]) as bus:
        try:
            bus.publish("court.left", {"hits": "many", "of": hits})
        except MessageValidationError as error:
            print(f"refused: {error}")
    return 0 if sum(seen.values()) == hits + 1 else 1


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
