"""How far a run of another process has come, by its record."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import pytest

from dagger_dsl.cli.course import Course, retries
from dagger_dsl.engine.attempts import Another
from dagger_dsl.model.graph import Edge, Graph, Node
from dagger_dsl.model.machine import Machine
from dagger_dsl.store.news import Ended, News
from dagger_dsl.store.records import StoredCommand
from tests.benchmarks.measure import within

OPENS = StoredCommand(2, None, '{"open":"work","at":"","from":0,"to":4}')


def ended(seq: int, node: str, state: str, key: str = "default", **more: Any) -> Ended:
    return Ended(
        seq=seq,
        node_id=node,
        key=key,
        attempt=more.get("attempt", 1),
        state=state,
        started_at=more.get("at", time.time()),
        duration=0.0,
        error={"type": "ValueError", "message": "no", "traceback": ""}
        if state == "failed"
        else None,
        meta=more.get("meta", {}),
    )


def news(*attempts: Ended, **more: Any) -> News:
    return News(
        status=more.get("status", "running"),
        epoch=1,
        owner=None,
        updated_at=dt.datetime.now(dt.UTC),
        error=None,
        attempts=attempts,
        commands=more.get("commands", ()),
        released=more.get("released", ()),
        last=99,
        flow_name="flow",
    )


@pytest.fixture
def course() -> Course:
    return made()


def made() -> Course:
    nodes = [Node("load", "x"), Node("work", "x"), Node("shaky", "x")]
    graph = Graph("flow", nodes, [Edge("load", "work"), Edge("load", "shaky")])
    return Course("r", graph, news())


def test_a_mapped_node_is_running_with_how_many_of_its_calls_ended(course: Course) -> None:
    course.take_in(news(ended(1, "load", "completed"), commands=(OPENS,), released=((1, (2,)),)))
    course.take_in(news(ended(5, "work", "completed", "0"), ended(6, "work", "failed", "1")))
    pulse = course.take()
    rows = {each.name: each for each in pulse.running}
    assert rows["work"].part == (2, 4)
    assert rows["work"].text == "1 failed"
    assert rows.keys() == {"work", "shaky"}
    assert pulse.fraction == pytest.approx(3 / 7), "of three nodes and four calls"
    assert (pulse.done, pulse.total, pulse.left, pulse.failed) == (1, 3, 4, 1)
    assert pulse.failures == (), "the item of a map is none of the nodes that failed"


def test_a_node_with_a_run_in_it_is_running_with_how_far_that_has_come(course: Course) -> None:
    inside = Course("r/shaky", Graph("in", [Node("a", "x"), Node("b", "x")]), news())
    inside.take_in(news(ended(1, "a", "completed")))
    turns = Course("r/load", Graph("m", [Node("t", "x")], machine=Machine("t")), news())
    turns.take_in(news(ended(1, "t", "completed", "0"), ended(2, "t", "completed", "1")))
    course.take_in(news(released=((1, (0, 1, 2)),)))
    course.look_inside({"shaky": inside.take(), "load": turns.take()})
    rows = {each.name: (each.text, each.part) for each in course.take().running}
    assert rows == {"shaky": ("", (1, 2)), "load": ("cycle 3", None), "work": ("", None)}
    course.look_inside({})
    assert {each.part for each in course.take().running} == {None}


def test_what_is_tried_again_says_when_and_which_attempt(course: Course) -> None:
    meta = Another(60.0, 4).to_plain()
    failed = news(ended(3, "shaky", "failed", meta=meta), released=((1, (2,)),))
    course.take_in(failed)
    (waiting,) = course.take().waiting
    assert waiting.name == "shaky"
    assert waiting.text == "attempt 2 of 4: ValueError: no"
    assert waiting.seconds is not None
    assert 50 < waiting.seconds <= 60
    assert course.take().running == ()
    assert [*retries(failed)] == [
        "attempt 1 of node 'shaky' failed (ValueError: no), retrying in 60.0 s (attempt 2 of 4)"
    ]
    course.take_in(news(released=((9, (2,)),)))
    pulse = course.take()
    assert pulse.waiting == ()
    assert [each.name for each in pulse.running] == ["shaky"]
    course.take_in(news(ended(10, "shaky", "failed", attempt=2)))
    pulse = course.take(50)
    assert [each.name for each in pulse.failures] == ["shaky"]
    assert [(each.name, each.state) for each in pulse.ended] == [("shaky", "failed")]


def test_what_asks_a_person_is_not_running(course: Course) -> None:
    asks = StoredCommand(
        4, "asks 1 default shaky", '{"asks":{"node":"shaky","key":"default","prompt":"Go?"}}'
    )
    course.take_in(news(ended(5, "shaky", "waiting"), commands=(asks,), released=((1, (2,)),)))
    pulse = course.take()
    assert [(each.name, each.text) for each in pulse.asking] == [("shaky", "Go?")]
    assert pulse.running == ()
    course.take_in(news(ended(6, "shaky", "completed")))
    assert course.take().asking == ()


def test_of_very_many_failures_only_so_many_are_listed() -> None:
    meta = Another(60.0, None).to_plain()
    found = news(
        *(ended(each, "work", "failed", str(each)) for each in range(10, 100_010)),
        *(ended(each, "work", "failed", f"w{each}", meta=meta) for each in range(5_000)),
        commands=(OPENS,),
    )

    def trial() -> float:
        course = made()
        course.take_in(found)
        begun = time.perf_counter()
        pulse = course.take(50)
        seconds = time.perf_counter() - begun
        assert pulse.failed == 100_000
        assert len(pulse.failures) <= 1000
        assert len(pulse.waiting) == 1000
        return seconds

    taken, allowed = within(trial, 0.2, turns=5)
    assert taken < allowed


def test_of_a_machine_the_state_that_it_is_in_is_running() -> None:
    machine = Graph("m", [Node("ping", "x"), Node("pong", "x")], machine=Machine("ping"))
    course = Course("r", machine, news())
    course.take_in(
        news(
            ended(2, "ping", "completed", "0"),
            ended(3, "pong", "completed", "1"),
            released=((1, (0,)), (2, (1,)), (3, (0,))),
        )
    )
    pulse = course.take(50)
    assert [each.name for each in pulse.running] == ["ping"]
    assert [each.name for each in pulse.ended] == ["ping", "pong"]
    assert (pulse.done, pulse.total, pulse.fraction) == (2, None, None)
    course.take_in(news(ended(4, "ping", "completed", "2"), released=((4, (1,)),)))
    assert [each.name for each in course.take().running] == ["pong"]


def test_a_run_that_stands_still_waits_for_no_attempt(course: Course) -> None:
    meta = Another(60.0, 4).to_plain()
    course.take_in(news(ended(3, "shaky", "failed", meta=meta)))
    course.take_in(news(status="paused"))
    pulse = course.take()
    assert (pulse.status, pulse.waiting, pulse.running) == ("paused", (), ())
