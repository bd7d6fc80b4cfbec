"""Faults that a close reading of the engine found, each shown to be gone."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, DagExecutor, action
from dagger_dsl.engine import resume, run
from dagger_dsl.errors import (
    ConfigurationError,
    InputError,
    InvalidState,
    NodeExecutionError,
    OutputError,
)
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.graph import Graph, GraphInput, Input, Node
from dagger_dsl.model.states import RunStatus
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store


def actions(**functions: Any) -> Registry:
    registry = Registry()
    for name, function in functions.items():
        registry.register(function, name)
    return registry


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'runs.db'}"


def test_texts_that_are_no_unicode_keep_a_run_resumable(url: str) -> None:
    broken: list[bool] = [True]

    def odd() -> NodeOutput:
        if broken:
            raise ValueError("cannot read '\udcff.csv'")
        return NodeOutput.success(1, metadata={"loss": float("nan"), "shape": (2, 3)})

    graph = Graph("g", [Node("n", "odd")])
    registry = actions(odd=odd)
    options = RunOptions(database_url=url, run_id="r")
    assert run(graph, registry, options=options).status is RunStatus.FAILED
    broken.clear()
    resume("r", registry, options)
    report = resume("r", registry, options)
    assert report.success
    metadata = report.node_reports["n"].metadata
    assert metadata["shape"] == (2, 3), "metadata comes back as it was given"
    assert metadata["loss"] != metadata["loss"]


def test_a_resumed_run_is_running_again(url: str) -> None:
    seen: list[str] = []

    def flaky() -> int:
        if not seen:
            seen.append("")
            raise OSError("once")
        with Store(url) as store:
            seen.append(store.load_run("r").status)
        return 1

    registry = actions(flaky=flaky)
    options = RunOptions(database_url=url, run_id="r")
    assert run(Graph("g", [Node("n", "flaky")]), registry, options=options).status == "failed"
    assert resume("r", registry, options).success
    assert seen[1:] == ["running"]


def test_a_resume_has_the_time_limit_it_is_given(url: str) -> None:
    waited: list[int] = []

    def slow() -> int:
        waited.append(1)
        if len(waited) == 1:
            raise OSError("once")
        time.sleep(0.5)
        return 1

    registry = actions(slow=slow)
    run(Graph("g", [Node("n", "slow")]), registry, options=RunOptions(database_url=url, run_id="r"))
    report = resume("r", registry, RunOptions(database_url=url, timeout=0.05))
    assert report.status is RunStatus.TIMED_OUT


def test_refused_options_leave_no_run_behind(url: str) -> None:
    lock = threading.Lock()
    with pytest.raises(ConfigurationError):
        run(
            Graph("g", [Node("n", "one")]),
            actions(one=lambda: lock.locked()),
            options=RunOptions(database_url=url, runner="processes"),
        )
    assert not Path(url.removeprefix("sqlite:")).exists()


def test_recorded_inputs_cannot_change(url: str) -> None:
    def double(x: int) -> int:
        if x == 1:
            raise OSError("not yet")
        return 2 * x

    graph = Graph("g", [Node("n", "double", [Input("x", "inputs.x")])], inputs=[GraphInput("x")])
    registry = actions(double=double)
    run(graph, registry, {"x": 1}, RunOptions(database_url=url, run_id="r"))
    with pytest.raises(InputError, match="'x' was recorded"):
        resume("r", registry, RunOptions(database_url=url), {"x": 2})


def test_a_cancelled_async_call_is_not_left_behind() -> None:
    async def long() -> None:
        await asyncio.sleep(30)

    options = RunOptions(runner="asyncio", timeout=0.05)
    report = run(Graph("g", [Node("n", "long")]), actions(long=long), options=options)
    assert report.status is RunStatus.TIMED_OUT
    assert report.abandoned == ()


def test_a_report_does_not_change_after_the_run() -> None:
    def long() -> None:
        time.sleep(0.3)

    options = RunOptions(runner="threads", timeout=0.05)
    report = run(Graph("g", [Node("n", "long")]), actions(long=long), options=options)
    assert report.abandoned == ("n",)
    before = report.node_reports["n"]
    time.sleep(0.5)  # the thread that was left behind comes back; only real time shows it
    assert report.node_reports["n"] == before
    assert before.duration is None


def test_many_stopping_failures_cost_no_more_than_one_each() -> None:
    def fail() -> None:
        raise ValueError("no")

    def seconds(count: int) -> float:
        nodes = [Node("first", "fail")]
        nodes += [
            Node(f"n{i}", "fail", dependencies=["first"], trigger="done") for i in range(count)
        ]
        began = time.process_time()
        report = run(Graph("g", nodes), actions(fail=fail))
        assert report.failed_nodes == count + 1
        return time.process_time() - began

    seconds(100)
    # At best: a busy machine makes both slower. Each failure looking at all others would be 16x.
    small, large = (min(seconds(count) for _ in range(3)) for count in (250, 1000))
    assert large < 10 * small, (small, large)


def test_an_async_generator_is_refused_as_a_value() -> None:
    async def stream() -> AsyncIterator[int]:
        yield 1

    report = run(Graph("g", [Node("n", "stream")]), actions(stream=stream))
    assert report.status is RunStatus.FAILED
    assert isinstance(report.node_reports["n"].exception, OutputError)


def test_a_configuration_that_is_not_acted_on_is_told(caplog: pytest.LogCaptureFixture) -> None:
    graph = Graph("g", [Node("n", "one")], config=DagConfig(enable_incremental_cache=False))
    assert run(graph, actions(one=lambda: 1)).success
    assert "enable_incremental_cache" in caplog.text


def test_more_workers_than_nodes_cost_nothing() -> None:
    def one(ctx: NodeCtx) -> int:
        return 1

    options = RunOptions(runner="threads", max_workers=10_000)
    assert run(Graph("g", [Node("n", "one")]), actions(one=one), options=options).success


@pytest.mark.parametrize(
    ("written", "found"),
    [('"to":2', '"to":"x"'), ('"to":2', '"to":[]'), ('"at":""', '"at":5'), (',"to":2', "")],
)
def test_an_entry_of_the_record_that_cannot_be_read_is_told(
    tmp_path: Path, written: str, found: str
) -> None:
    registry, path = Registry(), tmp_path / "runs.db"
    with DAG("flow", registry=registry) as dag:
        action(lambda x: 1 // x, name="divide", registry=registry).map([0, 1])
    with pytest.raises(NodeExecutionError):
        dag.run(run_id="r", database_url=path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE run_log SET body = replace(body, ?, ?)", (written, found))
    with DagExecutor(registry=registry, database_url=path) as executor:
        executor.load(dag)
        with pytest.raises(InvalidState, match=r"entry \d+ of its record .* changed from outside"):
            executor.resume("r")
