"""`play`: whole graphs under a clock that moves by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, DagConfig, NodeCtx, Registry, RetryStrategy, action
from dagger_dsl.errors import InputValidationError, NodeTimeout, ValidationError
from dagger_dsl.model.commands import AddNode, NodeSpec
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.testing import FakeClock, play


@pytest.fixture(autouse=True)
def _own_registry() -> Any:
    with Registry():
        yield


def failing(times: int) -> Any:
    left = [times]

    @action(attempts=5, retry=RetryStrategy.exponential(2, 60))
    def fetch() -> str:
        if left[0]:
            left[0] -= 1
            raise ConnectionError("nobody answers")
        return "page"

    return fetch


@pytest.mark.row("D6")
def test_waits_between_attempts_take_no_time_and_are_known() -> None:
    clock = FakeClock()
    with DAG("d") as dag:
        failing(3)()
    report = play(dag, clock=clock)
    assert report.outputs == {"fetch": "page"}
    assert clock.sleeps == [2.0, 4.0, 8.0]
    assert report.duration == 14.0


@pytest.mark.parametrize("is_async", [False, True])
def test_a_body_takes_the_time_that_it_moves_the_clock_by(is_async: bool) -> None:
    clock = FakeClock()

    @action(timeout=5)
    def slow(seconds: float) -> str:
        clock.sleep(seconds)
        return "done"

    @action(timeout=5, name="slow_too")
    async def slow_too(seconds: float) -> str:
        await clock.sleep_async(seconds)
        return "done"

    with DAG("d") as dag:
        (slow_too if is_async else slow)(dag.input("seconds", float))
    assert play(dag, {"seconds": 4.0}, clock=clock).success
    failed = play(dag, {"seconds": 6.0}, clock=clock)
    (node,) = failed.nodes_in("failed")
    assert isinstance(failed.node_reports[node].exception, NodeTimeout)


def approval() -> DAG:
    @action
    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("may it go out?", bool, default=False)

    @action
    def send(answer: bool) -> str:
        return "sent" if answer else "kept"

    with DAG("d") as dag:
        ask >> send
    return dag


@pytest.mark.row("D7", "D8")
def test_questions_are_answered_or_answer_themselves_or_stay() -> None:
    dag = approval()
    assert play(dag, answers={"ask": True}).outputs == {"send": "sent"}
    assert play(dag).status == "paused"
    autopilot = DagConfig(human_wait_minutes=30, human_timeout_action="autopilot")
    clock = FakeClock()
    assert play(dag, clock=clock, config=autopilot).outputs == {"send": "kept"}
    assert sum(clock.sleeps) == pytest.approx(1800)
    pausing = DagConfig(human_wait_minutes=30, human_timeout_action="pause")
    assert play(dag, config=pausing).status == "paused"


def test_an_answer_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    report = play(approval(), answers={"ask": "maybe"})
    assert report.status == "paused"
    assert [type(each) for each in report.hook_errors] == [InputValidationError]


def test_a_recorded_run_goes_on(tmp_path: Path) -> None:
    dag, url = approval(), f"sqlite:{tmp_path / 'runs.db'}"
    assert play(dag, run_id="r", database_url=url).status == "paused"
    again = play("r", registry=dag.registry, database_url=url, answers={"ask": True})
    assert again.outputs == {"send": "sent"}


def test_hooks_steer_it() -> None:
    @action
    def first() -> int:
        return 1

    @action
    def second() -> int:
        return 2

    def grow(_ctx: Any, event: Any) -> AddNode | None:
        if isinstance(event, NodeCompleted) and event.node.node_id == "first":
            return AddNode(NodeSpec("second", deps=["first"]))
        return None

    with DAG("d", registry=None) as dag:
        first()
    assert play(dag, hooks=[grow]).outputs == {"second": 2}


def test_what_cannot_run_is_refused() -> None:
    from dagger_dsl import Graph, Node

    with pytest.raises(ValidationError):
        play(Graph("g", [Node("a", "nobody")]))
