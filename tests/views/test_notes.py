"""Notes of nodes that have many calls, or runs inside: what all of it has come to."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dagger_dsl import DAG, FSM, FSMReturn, action
from dagger_dsl.engine.report import RunReport
from dagger_dsl.errors import NodeExecutionError
from dagger_dsl.registry import Registry


def printed(report: RunReport) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200).print(report.to_table())
    return stream.getvalue()


def test_what_all_calls_of_a_node_have_come_to_is_in_its_note() -> None:
    with Registry():
        fsm = FSM("turn", max_cycles=2_000)

        @fsm.state(initial=True)
        def go(n: int = 0) -> FSMReturn:
            return FSMReturn(next_state="go", value=n + 1) if n < 1_199 else FSMReturn(stop=True)

        def half(x: int) -> float:
            if x % 3 == 0:
                raise ValueError("a third")
            return x / 2

        with DAG("mapped") as dag:
            action(half).map(list(range(3_000)), on_error="collect")
        fsm.run()
        dag.run()
    assert "entered 1,200 times" in printed(fsm.report)
    assert "1,000 of 3,000 items failed" in printed(dag.report)


def test_the_note_of_a_nested_failure_begins_with_what_went_wrong() -> None:
    with Registry():

        def deep(x: int) -> int:
            raise RuntimeError("deep inside")

        with DAG("inner") as inner:
            action(deep)(x=1)
        with DAG("outer") as outer:
            inner()
        with pytest.raises(NodeExecutionError):
            outer.run()
    found = printed(outer.report)
    assert "RuntimeError: deep inside; in deep" in found
    assert "dagger_dsl.errors" not in found


def test_of_a_nested_run_for_each_item_the_note_says_which_one_failed() -> None:
    with Registry():

        def odd(x: int) -> int:
            if x == 2:
                raise ValueError("two is even")
            return x

        with DAG("inner") as inner:
            action(odd)(x=inner.input("x", int))
        with DAG("outer") as outer:
            inner.map([1, 2, 3])
        with pytest.raises(NodeExecutionError):
            outer.run()
    found = printed(outer.report)
    assert "ValueError: two is even; in [1] odd; 1 of 3 items failed" in found
