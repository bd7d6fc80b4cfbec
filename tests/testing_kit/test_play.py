"""`play`: whole graphs under a clock that moves by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, DagConfig, NodeCtx, Registry, RetryStrategy, action
from dagger_dsl.errors import (
    ConfigurationError,
    InputValidationError,
    NodeNotFound,
    NodeTimeout,
    ValidationError,
)
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
    assert report.reason == (
        "node 'ask' waits for a person: may it go out?; the answer was refused: node 'ask' asks "
        '\'may it go out?\'; answer: "maybe" is not of type "boolean"'
    )
    assert "refused" not in play(approval()).reason


def test_an_answer_to_a_recorded_question_is_refused_in_the_same_words(tmp_path: Path) -> None:
    dag, url = approval(), f"sqlite:{tmp_path / 'runs.db'}"
    play(dag, run_id="r", database_url=url)
    again = play("r", registry=dag.registry, database_url=url, answers={"ask": "maybe"})
    assert again.status == "paused"
    assert "the answer was refused: node 'ask' asks 'may it go out?'; answer: " in again.reason


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"answers": 5}, "play: answers are a mapping of names to values"),
        ({"answers": {5: 1}}, "play: answers are a mapping of names to values"),
        ({"clock": 5}, "play: clock is a FakeClock, not 5"),
        ({"answers": {"ask": True}, "hooks": 5}, "hooks is a list"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(wrong: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        play(approval(), **wrong)


@pytest.mark.parametrize("wrong", [5, None, DAG, [1]])
def test_what_is_no_graph_is_not_played(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="play takes a DAG, a Graph or the id of a"):
        play(wrong)


def test_an_answer_of_a_node_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(NodeNotFound, match="node not found: 'aks'; did you mean 'ask'"):
        play(approval(), answers={"aks": True})


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
