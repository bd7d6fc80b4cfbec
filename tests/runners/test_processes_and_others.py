"""Worker processes where they meet what else a run can do: batches, nested runs, pools..."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, CircuitBreaker, action
from dagger_dsl.errors import (
    CircuitBreakerOpenError,
    ConfigurationError,
    NodeExecutionError,
    NodeTimeout,
)
from dagger_dsl.model.pools import ResourcePool
from dagger_dsl.registry import Registry
from tests.runners import process_bodies as there
from tests.runners.helpers import eventually, our_threads
from tests.runners.test_processes import children

# Each starts processes of its own.
pytestmark = pytest.mark.slow

AWAY: dict[str, Any] = {"runner": "processes"}


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = children()
    yield
    eventually(lambda: not our_threads(), "the threads end")
    eventually(lambda: children() <= before, "the processes end")


def inner(*bodies: Callable[..., Any]) -> DAG:
    """Return a DAG of nodes that do not know of each other."""
    with DAG("inner") as dag:
        for body in bodies:
            action(body, name=body.__name__)()
    return dag


def test_nested_runs_share_the_processes_of_the_run_around_them() -> None:
    again = inner(there.pid_for)
    with DAG("outer") as dag:
        before = action(there.pid, name="before")()
        first = again.with_options(id="first")(x=before)
        again.with_options(id="second")(x=first)
    dag.run(max_workers=1, **AWAY)
    (used,) = {dag[name] for name in ("before", "first", "second")}
    assert used != os.getpid()
    assert dag.report.abandoned == ()


def test_mapped_nested_runs_start_no_process_each() -> None:
    once = inner(there.pid_for)
    with DAG("outer") as dag:
        once.map(list(range(12)))
    found = set(dag.run(max_workers=2, **AWAY))
    assert os.getpid() not in found
    assert len(found) <= 3


def test_a_nested_run_that_overruns_is_killed_and_spares_the_rest(tmp_path: Path) -> None:
    stuck = inner(there.stuck)
    with DAG("outer") as dag:
        stuck.with_options(id="stuck", timeout=1.0)(path=str(tmp_path / "pid"))
        action(there.pid, name="other")()
    assert dag.run(error_strategy="continue", **AWAY)["other"] != os.getpid()
    assert set(dag.report.errors) == {"stuck"}
    assert "NodeTimeout" in dag.report.errors["stuck"].type
    assert dag.report.abandoned == ()
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "the process ends")


def test_a_batch_is_called_in_one_process_and_its_limit_is_one(tmp_path: Path) -> None:
    with DAG("batches") as dag:
        action(there.pid, name="pid").map(list(range(6)), batch_size=3)
    found = dag.run(**AWAY)
    assert len(set(found[:3])) == len(set(found[3:])) == 1
    with DAG("slow") as slow:
        action(there.stuck, name="stuck", timeout=0.5).map([str(tmp_path / "x")] * 2, batch_size=2)
    with pytest.raises(NodeExecutionError) as caught:
        slow.run(**AWAY)
    assert isinstance(caught.value.__cause__.__cause__, NodeTimeout)  # type: ignore[union-attr]
    assert slow.report.abandoned == ()


def test_what_a_pool_lends_is_used_here() -> None:
    pool: ResourcePool[int] = ResourcePool(os.getpid, max_size=1)

    @action(uses={"conn": pool})
    def use(conn: int) -> list[int]:
        return [conn, os.getpid()]

    with DAG("pooled") as dag:
        use()  # type: ignore[call-arg]  # the pool lends it
    assert dag.run(**AWAY) == [os.getpid()] * 2


def outer(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


@pytest.mark.parametrize("around", [lambda f: f, outer, lambda f: functools.partial(outer(f))])
def test_what_a_breaker_guards_is_called_and_counted_here(around: Any) -> None:
    breaker = there.breaker
    breaker.reset()
    with DAG("broken") as dag:
        action(around(there.guarded), name="guarded")()
    causes = []
    for _ in range(3):
        with pytest.raises(NodeExecutionError) as caught:
            dag.run(**AWAY)
        causes.append(type(caught.value.__cause__))
    assert causes == [ValueError, ValueError, CircuitBreakerOpenError]
    assert breaker.is_open()


def test_a_method_that_a_breaker_guards_is_called_here() -> None:
    with DAG("broken") as dag:
        action(there.Guarded().pid, name="guarded")()
    assert dag.run(**AWAY) == os.getpid()


def test_a_breaker_does_not_go_to_another_process() -> None:
    @CircuitBreaker(failure_threshold=2)
    def fails() -> None:
        raise ValueError("no")

    with DAG("broken") as dag:
        action(lambda: fails(), name="calls")()
    with pytest.raises(ConfigurationError, match="a CircuitBreaker counts in one process"):
        dag.run(**AWAY)


def test_freed_and_reused_values_are_as_anywhere(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with DAG("freed") as dag:
        first = action(there.pid, name="first")
        action(there.pid, name="second")(first.with_options(keep=False)())
    assert dag.run(database_url=url, **AWAY) != os.getpid()
    before = dag["first"]
    assert dag.run_from("second", database_url=url, **AWAY) != os.getpid()
    assert dag["first"] == before
