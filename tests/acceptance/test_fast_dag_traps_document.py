"""What fast-dag does and this package must not: traps 1, 6 and 7 of the contract's list.

Each test fails on a build that behaves as the original does.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from dagger_dsl import Registry
from dagger_dsl.errors import ConfigurationError, NodeExecutionError
from dagger_dsl.testing import FakeClock, play

# Not imported by name: tests of one trap stay runnable where another's name is missing.
front: Any = importlib.import_module("dagger_dsl")
errors: Any = importlib.import_module("dagger_dsl.errors")

RUNNERS = ["sequential", "threads", "asyncio"]

every_runner = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    with Registry():
        yield


def in_both_ways(run: Callable[[], Any]) -> list[Any]:
    """Return what *run* gives without an event loop, and inside of one."""

    async def inside() -> Any:
        return run()

    return [run(), asyncio.run(inside())]


# --- 1: node and runner both retry, so that retry=3 makes 9 calls --------------------------------


def failing_dag(calls: list[str], is_async: bool, **options: Any) -> Any:
    dag = front.DAG("failing")

    def fail() -> None:
        calls.append("fail")
        raise ConnectionError("nobody answers")

    async def fail_async() -> None:
        fail()

    dag.node(fail_async if is_async else fail, id="fail", **options)
    return dag


@every_runner
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_trap_1_three_retries_are_four_calls(runner: str, is_async: bool) -> None:
    calls: list[str] = []
    dag = failing_dag(calls, is_async, retry=3, retry_delay=0)

    def run() -> int:
        calls.clear()
        with pytest.raises(NodeExecutionError, match="after 4 attempts"):
            dag.run(runner=runner)
        assert dag.report.node_reports["fail"].attempts == 4
        return len(calls)

    assert in_both_ways(run) == [4, 4]


def test_trap_1_no_retries_are_one_call_and_the_waits_are_those_that_were_asked_for() -> None:
    calls: list[str] = []
    clock = FakeClock()
    assert not play(failing_dag(calls, False), clock=clock).success
    assert (len(calls), clock.sleeps) == (1, [])
    calls.clear()
    dag = failing_dag(calls, False, retry=3, retry_delay=1.0, retry_backoff=3.0)
    assert not play(dag, clock=clock).success
    assert (len(calls), clock.sleeps) == (4, [1.0, 3.0, 9.0])


# --- 6: cached_node has no cache_key, and the key_func that it has is ignored --------------------


def cached_dag(calls: list[Any], **options: Any) -> Any:
    dag = front.DAG(f"cached_{uuid4().hex}")  # results are shared within the process, by name

    @dag.cached_node(**options)
    def calc(user_id: str, data_version: int, data: dict[str, int]) -> str:
        calls.append((user_id, data_version, data))
        return f"{user_id} {data_version}"

    return dag


KEYS: dict[str, Any] = {
    "names": ["user_id", "data_version"],
    "a function": lambda inputs: f"{inputs['user_id']} {inputs['data_version']}",
}


@pytest.mark.row("K25")
@every_runner
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_trap_6_the_key_decides_and_no_other_input_does(key: Any, runner: str) -> None:
    def run() -> list[Any]:
        calls: list[Any] = []
        dag = cached_dag(calls, ttl=1800, cache_key=key)
        for user, version, data in (
            ("ada", 1, {"a": 1}),
            ("ada", 1, {"b": 2}),
            ("ada", 2, {"b": 2}),
            ("bob", 1, {"a": 1}),
            ("ada", 1, {"c": 3}),
        ):
            inputs = {"user_id": user, "data_version": version, "data": data}
            assert dag.run(inputs, runner=runner) == f"{user} {version}"
        return calls

    made = [("ada", 1, {"a": 1}), ("ada", 2, {"b": 2}), ("bob", 1, {"a": 1})]
    assert in_both_ways(run) == [made, made]


def test_trap_6_an_option_that_does_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="key_func"):
        cached_dag([], ttl=60, key_func=str)
    with pytest.raises(ConfigurationError, match=r"did you mean 'user_id'"):
        cached_dag([], cache_key=["user"])


# --- 7: a machine stops silently at max_cycles ---------------------------------------------------


def endless_machine(visits: list[str]) -> Any:
    fsm = front.FSM("endless")

    @fsm.state(initial=True)
    def ping() -> Any:
        visits.append("ping")
        return front.FSMReturn(next_state="pong", value=len(visits))

    @fsm.state
    def pong() -> Any:
        visits.append("pong")
        return front.FSMReturn(next_state="ping", value=len(visits))

    @fsm.state(terminal=True)
    def done() -> None:
        visits.append("done")

    return fsm


@pytest.mark.row("L4")
@every_runner
def test_trap_7_a_machine_that_does_not_end_says_so(runner: str) -> None:
    def run() -> list[str]:
        visits: list[str] = []
        fsm = endless_machine(visits)
        with pytest.raises(errors.MaxCyclesExceeded, match="50") as stopped:
            fsm.run(max_cycles=50, runner=runner)
        assert "ping" in str(stopped.value)
        assert not fsm.is_terminated
        assert list(fsm.state_history)[:50] == visits
        return visits

    assert in_both_ways(run) == [["ping", "pong"] * 25] * 2


@pytest.mark.row("L4")
def test_trap_7_there_is_a_limit_where_none_was_given() -> None:
    visits: list[str] = []
    with pytest.raises(errors.MaxCyclesExceeded):
        endless_machine(visits).run()
    assert len(visits) == 1000
