"""Scenarios of the section "Running FSMs"."""

# The `dag` of a stage is anything, for it has to have what the document calls and no less.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.document_002.stage import Stage, error_class, scenario


@scenario("Basic FSM Execution")
async def a_machine_is_given_data_and_a_context(stage: Stage) -> None:
    fsm = stage.names["FSM"]("orders")
    go_to = stage.names["FSMReturn"]
    given: list[tuple[str, float]] = []

    @fsm.state(initial=True)
    def pending(order_id: str = "none", amount: float = 0.0) -> Any:
        given.append((order_id, amount))
        return go_to(next_state="completed", value=order_id)

    @fsm.state(terminal=True)
    def completed() -> str:
        return f"completed {len(given)}"

    names = await stage.play(fsm=fsm)
    assert names.given["result"] == ["completed 1", "completed 2", "completed 3"]
    assert given == [("none", 0.0), ("ORD-123", 99.99), ("none", 0.0)]
    assert fsm.context is names["context"]
    assert list(names["context"].state_history) == ["pending", "completed"]


@scenario("FSM-Specific Features")
async def cycles_are_limited_and_remembered(stage: Stage) -> None:
    fsm = stage.names["FSM"]("orders")
    go_to = stage.names["FSMReturn"]
    rounds = 3
    done: list[int] = []

    @fsm.state(initial=True)
    def pending() -> Any:
        done.clear()
        return go_to(next_state="processing", value="accepted")

    @fsm.state
    def processing() -> Any:
        done.append(len(done))
        target = "processing" if len(done) < rounds else "processed"
        return go_to(next_state=target, value=f"round {len(done)}")

    @fsm.state
    def processed() -> Any:
        return go_to(next_state="completed", value="packed")

    @fsm.state(terminal=True)
    def completed() -> str:
        return "sent"

    names = await stage.play(fsm=fsm)
    assert names["result"] == "sent"
    history = ["pending", "processing", "processing", "processing", "processed", "completed"]
    assert stage.printed() == [
        str(history),
        "round 3",
        "round 1",
        "round 3",
        "FSM ended in state: completed",
    ]

    rounds = 1
    fsm.run()
    assert list(fsm.state_history) == ["pending", "processing", "processed", "completed"]
    with pytest.raises(IndexError):
        fsm["processing.2"]

    rounds = 49  # with these, and the first and the last two states, there are 52 cycles
    with pytest.raises(error_class("MaxCyclesExceeded"), match="50"):
        fsm.run(max_cycles=50)
    assert len(done) == 49
    assert not fsm.is_terminated
    rounds = 47
    assert fsm.run(max_cycles=50) == "sent"
    assert len(fsm.state_history) == 50


@scenario("State Transition Control")
async def a_hook_sees_each_transition(stage: Stage) -> None:
    fsm = stage.names["FSM"]("orders")
    go_to = stage.names["FSMReturn"]

    @fsm.state(initial=True)
    def pending() -> Any:
        return go_to(next_state="processing", value=1)

    @fsm.state
    def processing() -> Any:
        return go_to(next_state="completed", value=2)

    @fsm.state(terminal=True)
    def completed() -> int:
        return 3

    names = await stage.play(fsm=fsm)
    assert names["result"] == 3
    assert stage.printed() == [
        "Transition: pending -> processing",
        "Transition: processing -> completed",
    ]

    # "Can modify or validate transitions"
    asked: list[tuple[Any, ...]] = []

    def redirect(machine: Any, source: str, target: str, result: Any) -> str | None:
        asked.append((machine is fsm, source, target, result))
        return "completed" if target == "processing" else None

    fsm.add_state_hook(redirect)
    assert fsm.run() == 3
    assert list(fsm.state_history) == ["pending", "completed"]
    assert asked == [(True, "pending", "processing", 1)]
