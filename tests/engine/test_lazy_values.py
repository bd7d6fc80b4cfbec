"""Nodes that return what later nodes call: a loader, and not what it loads."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, Registry, action
from dagger_dsl.executor import DagExecutor
from tests.engine.helpers import RUNNERS, Workflow, url_of

every_runner = pytest.mark.parametrize("runner", RUNNERS)


class Loader:
    """Loads something when it is called; it has no stored form."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self) -> str:
        """Return what is there."""
        return f"rows of {self.path}"


def bound(path: str) -> Callable[[], str]:
    """Return a method."""
    return Loader(path).__call__


def closure(path: str) -> Callable[[], str]:
    """Return a function."""

    def load() -> str:
        return f"rows of {path}"

    return load


KINDS: list[Callable[[str], Callable[[], str]]] = [
    Loader,
    bound,
    closure,
    lambda path: functools.partial(closure(path)),
]


@pytest.mark.row("K27")
@every_runner
def test_the_sample_of_the_document(runner: str) -> None:
    loaded: list[str] = []
    dag = DAG("lazy", registry=Registry())

    @dag.node
    def lazy_data_loader(config: dict[str, str]) -> Callable[[], str]:
        def load() -> str:
            loaded.append(config["path"])
            return "data"

        return load

    @dag.node
    def process_if_needed(data_loader: Callable[[], str], should_process: bool) -> dict[str, Any]:
        if should_process:
            return {"data": data_loader()}
        return {"skipped": True}

    dag.connect("lazy_data_loader", "process_if_needed", input="data_loader")
    inputs = {"config": {"path": "p"}, "should_process": False}
    assert dag.run(inputs=inputs, runner=runner) == {"skipped": True}
    assert loaded == []
    assert dag.run(inputs={**inputs, "should_process": True}, runner=runner) == {"data": "data"}
    assert loaded == ["p"]


@pytest.mark.row("K27")
@every_runner
@pytest.mark.parametrize("kind", KINDS)
def test_a_callable_is_recorded_as_not_stored_and_made_again(
    kind: Callable[[str], Callable[[], str]], runner: str, tmp_path: Path
) -> None:
    broken = [True]
    flow = Workflow()

    def make() -> Callable[[], str]:
        flow.calls.append("make")
        return kind("p")

    def use(load: Callable[[], str]) -> str:
        if broken:
            raise OSError
        return load()

    flow.add("make", make).note("unused", after=["make"])
    flow.add("use", use, take={"load": "make"}, after=["unused"])
    url = url_of(tmp_path)
    first = flow.run(runner, database_url=url, run_id="r")
    assert first.value("make")() == "rows of p"  # it lives in this process
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        (row,) = connection.execute(
            "select state, output, output_artifact_id, meta from node_runs where node_id = 'make'"
        ).fetchall()
    connection.close()
    assert row[:3] == ("completed", None, None)
    assert json.loads(row[3]) == {"stored": False}
    flow.calls.clear()
    broken.clear()
    report = flow.resume("r", url, runner=runner)
    assert report.value("use") == "rows of p"
    assert flow.calls == ["make"]
    assert report.node_reports["make"].attempts == 2


def test_a_producer_that_nothing_needs_is_not_called_again(tmp_path: Path) -> None:
    broken = [True]
    flow = Workflow()

    def make() -> Callable[[], str]:
        flow.calls.append("make")
        return closure("p")

    def end() -> None:
        if broken:
            raise OSError

    flow.add("make", make).add("use", lambda load: load(), take={"load": "make"})
    flow.add("end", end, after=["use"])
    flow.run(database_url=url_of(tmp_path), run_id="r")
    broken.clear()
    assert flow.resume("r", url_of(tmp_path)).success
    assert flow.calls == ["make"]


@every_runner
@pytest.mark.parametrize("store", [True, False])
def test_the_loaders_of_a_mapped_node_are_made_again(
    store: bool, runner: str, tmp_path: Path
) -> None:
    calls: list[int] = []
    broken = [True]
    registry = Registry()

    def make(x: int) -> Callable[[], int]:
        calls.append(x)
        return lambda: x

    def use(loads: list[list[Callable[[], int]]]) -> list[int]:
        if broken:
            raise OSError
        return [load() for inner in loads for load in inner]

    with DAG("flow", registry=registry) as dag:
        makes = action(make, name="make", registry=registry, store=store)
        action(use, name="use", registry=registry)(makes.map([[1], [2, 3]], depth=2))
    url = url_of(tmp_path)
    first = dag.start(runner=runner, database_url=url, run_id="r").result(30)
    assert first.states()["make"] == "completed"
    assert sorted(calls) == [1, 2, 3]
    broken.clear()
    with DagExecutor(registry=registry, database_url=url) as executor:
        executor.load(dag)
        report = executor.resume("r", runner=runner)
    assert report.value("use") == [1, 2, 3]
    assert sorted(calls) == [1, 1, 2, 2, 3, 3]


@every_runner
def test_everything_else_without_a_stored_form_fails_its_node(runner: str, tmp_path: Path) -> None:
    for value in (object(), [closure("p")], {"load": closure("p")}, {1: Loader("p")}):
        flow = Workflow().add("make", lambda value=value: value)
        report = flow.run(runner, database_url=url_of(tmp_path))
        assert report.status == "failed"
        assert "store=False" in str(report.error)


@every_runner
def test_a_loader_with_keep_false_is_gone_afterwards_and_made_again_by_a_resume(
    runner: str, tmp_path: Path
) -> None:
    broken = [True]
    flow = Workflow()

    def make() -> Callable[[], str]:
        flow.calls.append("make")
        return closure("p")

    def use(load: Callable[[], str]) -> str:
        if broken:
            raise OSError
        return load()

    flow.add("make", make, keep=False).add("use", use, take={"load": "make"})
    url = url_of(tmp_path)
    report = flow.run(runner, database_url=url, run_id="r")
    assert "make" not in report.values
    broken.clear()
    report = flow.resume("r", url, runner=runner)
    assert report.value("use") == "rows of p"
    assert flow.calls == ["make", "make"]
