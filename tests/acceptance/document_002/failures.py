"""Scenarios of the section "Error Handling", and of its best practice."""

# The `dag` of a stage is anything, for it has to have what the document calls and no less.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from dagger_dsl.errors import NodeExecutionError
from dagger_dsl.model.sharing import Context
from dagger_dsl.testing import FakeClock, play
from tests.acceptance.document_002.props import Clock
from tests.acceptance.document_002.stage import Stage, scenario

MODES = ("sequential", "parallel", "async")


class Reply:
    """What an external API answers."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.ok = status < 400

    def json(self) -> dict[str, int]:
        """Return the body."""
        return {"status": self.status}


@scenario("Node-Level Error Handling")
async def a_node_is_tried_four_times_and_then_has_its_default(stage: Stage) -> None:
    dag = stage.dag
    replies: list[int] = []
    asked: list[Any] = []

    def external_api_call(data: Any) -> Reply:
        asked.append(data)
        return Reply(replies.pop(0))

    names = await stage.play(external_api_call=external_api_call)
    node = dag.compile().nodes["risky_operation"]
    assert (node.try_count, node.timeout) == (4, 30.0)

    default = {"error": "API error: 503", "default": True}
    with stage.without_waits() as delays:
        for mode in MODES:
            replies[:], asked[:], delays[:] = [503] * 9, [], []
            assert dag.run(inputs={"data": {"n": 1}}, mode=mode) == default
            assert asked == [{"n": 1}] * 4
            assert delays == [1.0, 2.0, 4.0]
            assert stage.printed() == ["Error in risky_operation: API error: 503"]

        replies[:], asked[:], delays[:] = [500, 200], [], []
        assert dag.run(inputs={"data": {}}) == {"status": 200}
        assert (len(asked), delays, stage.printed()) == (2, [1.0], [])

    # "Timeout per attempt", by a clock of the test's: four attempts of 31 seconds.
    clock = FakeClock(0.0)
    begun: list[float] = []

    def too_slow(data: Any) -> Reply:
        begun.append(clock())
        clock.sleep(31.0)
        return Reply(200)

    names["external_api_call"] = too_slow
    report = play(dag, {"data": {}}, clock=clock)
    assert begun == pytest.approx([0.0, 32.0, 65.0, 100.0])
    assert report.success
    (line,) = stage.printed()
    error = report.values["risky_operation"]["error"]
    assert line == f"Error in risky_operation: {error}"
    assert "30" in error


@scenario("DAG-Level Error Strategies")
async def a_run_stops_or_goes_on_as_its_strategy_or_its_handler_says(stage: Stage) -> None:
    dag = stage.dag
    ran: list[str] = []
    logged: list[str] = []
    fails: list[Exception | None] = []

    class CriticalError(Exception):
        pass

    @dag.node
    def flaky() -> int:
        ran.append("flaky")
        error = fails.pop(0)
        if error is not None:
            raise error
        return 1

    @dag.node
    def dependent(flaky: int) -> int:
        ran.append("dependent")
        return flaky

    @dag.node
    def independent() -> int:
        ran.append("independent")
        return 2

    flaky >> dependent
    fails += [ValueError("first"), None, ValueError("third")]
    names = await stage.play(
        time=Clock(), logger=SimpleNamespace(error=logged.append), CriticalError=CriticalError
    )
    assert names.given["result"] == [
        {"independent": 2},
        {"dependent": 1, "independent": 2},
        {"independent": 2},
    ]
    assert ran == [
        *("flaky", "independent"),
        *("flaky", "independent", "dependent"),
        *("flaky", "independent"),
    ]
    assert logged == ["DAG error in flaky: third"]
    assert dag.context.metadata["errors"] == [
        {"node": "flaky", "error": "third", "timestamp": 1001.0}
    ]

    ran.clear()
    fails += [ValueError("fourth"), ValueError("fifth"), CriticalError("sixth")]
    for options in (
        {"error_strategy": "fail_fast"},
        {},
        {"error_handler": names["dag_error_handler"]},
    ):
        with pytest.raises(NodeExecutionError, match="flaky"):
            dag.run(**options)
    assert ran == ["flaky"] * 3
    assert logged[1:] == ["DAG error in flaky: sixth"]


@scenario("Error Recovery Patterns")
async def a_checkpoint_is_written_and_a_breaker_opens_and_closes(stage: Stage) -> None:
    dag, clock = stage.dag, Clock()
    asked: list[Any] = []
    broken = False

    class CircuitBreakerOpenError(Exception):
        pass

    class Api:
        def process(self, data: Any) -> dict[str, Any]:
            asked.append(data)
            if broken:
                raise ConnectionError("nobody answers")
            return {"processed": data}

    await stage.play(
        json=json,
        time=clock,
        external_api=Api(),
        CircuitBreakerOpenError=CircuitBreakerOpenError,
    )
    assert list(dag.nodes) == ["checkpoint_save", "protected_api_call"]
    assert list(dag.compile().inputs) == ["data"]

    context = Context(metadata={"run_id": "run-1"})
    inputs = {"data": {"n": 1}}
    answer = dag.run(inputs=inputs, context=context)
    assert answer == {"checkpoint_save": {"n": 1}, "protected_api_call": {"processed": {"n": 1}}}
    saved = json.loads((stage.folder / "checkpoint_run-1.json").read_text())
    assert saved["data"] == {"n": 1}
    assert saved["context"]["metadata"]["run_id"] == "run-1"

    broken = True
    for _ in range(3):
        with pytest.raises(NodeExecutionError, match="nobody answers"):
            dag.run(inputs=inputs, context=context)
    assert len(asked) == 4
    for _ in range(2):
        with pytest.raises(NodeExecutionError, match="Circuit breaker is open") as open_:
            dag.run(inputs=inputs, context=context)
        assert isinstance(open_.value.__cause__, CircuitBreakerOpenError)
    assert len(asked) == 4

    broken = False
    clock.now += 300
    for _ in range(2):
        assert dag.run(inputs=inputs, context=context) == answer
    assert len(asked) == 6


@scenario("2. Handle Errors Gracefully")
async def a_fallback_is_taken_at_once_and_other_errors_are_tried_again(stage: Stage) -> None:
    dag = stage.dag
    raises: list[Exception | None] = []
    asked: list[str] = []

    class PrimarySourceError(Exception):
        pass

    def fetch_from_primary(source: str) -> dict[str, str]:
        asked.append("primary")
        error = raises.pop(0)
        if error is not None:
            raise error
        return {"primary": source}

    def fetch_from_secondary(source: str) -> dict[str, str]:
        asked.append("secondary")
        return {"secondary": source}

    def fetch_data(source: str) -> dict[str, str]:
        raise OSError("the disk is gone")

    await stage.play(
        PrimarySourceError=PrimarySourceError,
        fetch_from_primary=fetch_from_primary,
        fetch_from_secondary=fetch_from_secondary,
        fetch_data=fetch_data,
    )
    inputs = {"source": "s"}
    with stage.without_waits() as delays:
        raises += [PrimarySourceError("down")]
        answer = dag.run(inputs=inputs)
        assert answer == {"fetch_primary_data": {"secondary": "s"}, "bad_fetch": {}}
        assert (asked, delays) == (["primary", "secondary"], [])

        raises += [ConnectionError(), ConnectionError(), None]
        answer = dag.run(inputs=inputs)
        assert answer == {"fetch_primary_data": {"primary": "s"}, "bad_fetch": {}}
        assert (asked[2:], delays) == (["primary"] * 3, [1.0, 2.0])

        raises += [ConnectionError("one"), ConnectionError("two"), ConnectionError("three")]
        with pytest.raises(NodeExecutionError, match="three"):
            dag.run(inputs=inputs)
        assert asked[5:] == ["primary"] * 3
