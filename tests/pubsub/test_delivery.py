"""What is seen of the messages that wait while others go on with them; the rest is in the laws."""

from __future__ import annotations

import sys
from collections import deque
from types import FrameType
from typing import Any

import pytest

from dagger_dsl.model.messages import Message
from dagger_dsl.pubsub.delivery import Delivery, SharedDelivery


@pytest.mark.parametrize("core", [Delivery(1), Delivery(2), SharedDelivery(2)])
def test_all_that_wait_are_told_while_others_go_on(core: Delivery) -> None:
    numbers = iter(range(1, 1_000_000))

    def message(key: str) -> Message:
        return Message("c", key=key, number=next(numbers))

    for key in "aabb":
        core.arrived.append(message(key))
    for _ in range(4):  # two fail, and two wait behind them
        given = core.next(0.0)
        if given is not None:
            core.failed(given, 9.0, 1)
    core.restore(message("c"), 9.0, 1)
    core.arrived.append(message("a"))

    def meddle(frame: FrameType, event: str, _: Any) -> Any:
        """Do between any two steps of `left` what other threads may do there."""
        frame.f_trace_opcodes = True
        if event == "opcode" and len(core.arrived) < 300:
            new = message("new")
            core.arrived.append(new)
            core.returned.append((new, 9.0, 1))
            core.timers.append((9.0, new.number, new))
            core._lanes["c", str(new.number)] = deque()
            core._lanes["c", "a"].append(new)
        return meddle

    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: meddle if "left" in frame.f_code.co_qualname else None)
    try:
        found = core.left()
    finally:
        sys.settrace(before)
    assert {each.number for each in found} >= {1, 2, 3, 4, 5, 6}


def test_threads_do_not_change_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    core, held = SharedDelivery(2), list[bool]()
    monkeypatch.setattr(Delivery, "left", lambda self: held.append(core._lock.locked()))
    core.left()
    assert held == [True]
