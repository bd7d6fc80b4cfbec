"""What an agent does with its context, in memory and in a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dagger_dsl import Registry
from dagger_dsl.pubsub import Message, MessageContext, PubSubExecutor, pubsub_agent

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


@pytest.mark.parametrize("way", ["publish", "return"])
def test_a_message_that_is_passed_on_stands_for_its_payload_key_and_task(
    make: Callable[..., PubSubExecutor], registry: Registry, way: str
) -> None:
    heard: list[Message] = []
    number = {"type": "integer"}

    @pubsub_agent(subscribe="in", publish="out", output_schema=number, registry=registry)
    def forward(message: Message, bus: MessageContext) -> Message | None:
        if way == "return":
            return message
        _ = bus.publish("out", message)
        return None

    @pubsub_agent(subscribe="in", publish="out", registry=registry)
    def turn(message: Message, bus: MessageContext) -> None:
        other = Message("", -message.payload, "other key", task_id="other task")
        _ = bus.publish("out", other, key="its own")
        _ = bus.publish("out", Message("", 0), task_id="")

    @pubsub_agent(subscribe="out", registry=registry)
    async def hear(message: Message) -> None:
        heard.append(message)

    with make() as bus:
        bus.publish("in", 5, key="k", task_id="t").result()
        assert bus.wait_idle(LONG).result()
    said: set[tuple[Any, ...]] = {(each.payload, each.key, each.task_id) for each in heard}
    assert said == {(5, "k", "t"), (-5, "its own", "other task"), (0, "", "")}
