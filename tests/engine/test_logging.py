"""What the engine logs, and what each record carries."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.model.policies import RetryPolicy
from tests.runners.bodies import one
from tests.runners.helpers import RUNNERS, Flow

runners = pytest.mark.parametrize("runner", RUNNERS)

IMMEDIATE = RetryPolicy(base_delay=0.0, max_delay=0.0)


def troubled(free: threading.Event) -> Flow:
    """Return a flow that retries, fails, overruns, skips, stands in and maps."""

    def fail() -> None:
        raise ValueError("bad")

    def fail_at(item: int) -> int:
        if item == 1:
            raise ValueError(item)
        return item

    def stuck() -> None:
        free.wait(20)

    flow = Flow().add("one", one)
    flow.add("flaky", fail, try_count=2, retry=IMMEDIATE)
    flow.add("after", one, after=["flaky"])
    flow.add("stuck", stuck, timeout=0.05)
    handler = flow.handler("handler", fail)
    flow.add("handled", fail, failure=handler)
    fallback = flow.handler("fallback", fail)
    flow.add("replaced", fail, fallback=fallback)
    flow.add("each", fail_at, take={"item": "inputs.items"}, map_over="item", map_errors="collect")
    return flow


def run(flow: Flow, free: threading.Event, runner: str, **more: Any) -> None:
    try:
        flow.run(
            runner,
            inputs={"items": [0, 1]},
            config={"on_failure": "continue"},
            run_id="r",
            max_workers=4,
            **more,
        )
    finally:
        free.set()


def of_nodes(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if hasattr(each, "node_id")]


@pytest.mark.row("M23")
@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
@pytest.mark.parametrize("runner", [*RUNNERS, "processes"])
def test_each_record_carries_its_run_and_its_node(
    runner: str, level: int, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    if runner == "processes":
        pytest.importorskip("cloudpickle")

    def broken(_node: str, _status: str, _fraction: float) -> None:
        raise RuntimeError("a progress callback")

    free = threading.Event()
    flow = troubled(free)
    if runner == "processes":  # an Event cannot cross
        from tests.runners.process_bodies import stuck

        nodes = [each for each in flow.nodes if each.id != "stuck"]
        flow.nodes = nodes
        flow.add("stuck", stuck, give={"path": str(tmp_path / "pid")}, timeout=0.05)
    with caplog.at_level(level, "dagger_dsl"):
        url = f"sqlite:///{tmp_path / 'runs.db'}"
        run(flow, free, runner, database_url=url, progress=broken)
    ids = {each.id for each in flow.nodes}
    records = [each for each in caplog.records if each.name.startswith("dagger_dsl.")]
    assert records
    for record in records:
        fields = record.__dict__
        assert fields["run_id"] == "r", record.getMessage()
        named = [each for each in ids if f"'{each}'" in record.getMessage()]
        assert (fields.get("node_id") in ids) or not named, record.getMessage()
    assert {each.__dict__["node_id"] for each in of_nodes(caplog)} >= {
        "flaky",
        "handled",
        "replaced",
    }
    if runner != "processes":
        assert "stuck" in {each.__dict__["node_id"] for each in of_nodes(caplog)}


@pytest.mark.row("M23")
@runners
def test_debug_tells_starts_ends_and_commits(
    runner: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    free = threading.Event()
    flow = troubled(free)
    with caplog.at_level(logging.DEBUG, "dagger_dsl"):
        run(flow, free, runner, database_url=f"sqlite:///{tmp_path / 'runs.db'}")
    debug = [each for each in caplog.records if each.levelno == logging.DEBUG]

    def said(node_id: str) -> list[str]:
        return [
            each.getMessage().split(" in ")[0]
            for each in debug
            if each.__dict__.get("node_id") == node_id
        ]

    assert said("one") == ["node 'one' starts (attempt 1)", "node 'one' completed"]
    assert said("flaky") == [
        "node 'flaky' starts (attempt 1)",
        "node 'flaky' starts (attempt 2)",
        "node 'flaky' failed",
    ]
    assert len(said("after")) == 1
    assert said("after")[0].startswith("node 'after' skipped: ")
    (record,) = [
        each
        for each in debug
        if each.__dict__.get("node_id") == "one" and hasattr(each, "duration_ms")
    ]
    assert record.__dict__["state"] == "completed"
    assert 0.0 <= record.__dict__["duration_ms"] < 10_000
    items = [each for each in debug if each.__dict__.get("node_id") == "each"]
    assert {each.__dict__.get("invocation_key") for each in items} >= {"0", "1"}
    assert any(each.getMessage().startswith("committed ") for each in debug)


@runners
def test_without_debug_nobody_watches(runner: str, caplog: pytest.LogCaptureFixture) -> None:
    """A run at the usual level pays for no record: it has no observer at all."""
    from dagger_dsl.engine import launch
    from dagger_dsl.model.config import RunOptions

    flow = Flow().add("one", one)
    options = RunOptions(runner=runner)
    usual = launch._prepare(flow.graph(), flow.registry, None, options, None, None)
    assert usual.coordinator.watcher is None
    assert usual.run.board.announce is None
    with caplog.at_level(logging.DEBUG, "dagger_dsl.engine"):
        told = launch._prepare(flow.graph(), flow.registry, None, options, None, None)
        assert told.coordinator.watcher is not None


def test_a_hook_that_fails_is_logged_with_the_node_of_its_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_ctx: Any, event: Any) -> None:
        raise RuntimeError(type(event).__name__)

    Flow().add("one", one).run(hooks=[broken], run_id="r")
    found = [each for each in caplog.records if each.name == "dagger_dsl.hooks"]
    assert found
    assert {(each.__dict__["run_id"], each.__dict__["node_id"]) for each in found} == {("r", "one")}


@pytest.mark.row("M25")
@pytest.mark.parametrize("runner", [*RUNNERS, "processes"])
def test_recorded_durations_are_those_that_were_measured(runner: str, tmp_path: Path) -> None:
    from tests.runners.process_bodies import naps

    path = tmp_path / "runs.db"
    flow = Flow()
    for n in range(3):
        flow.add(f"n{n}", naps, give={"seconds": 0.05 * n})
    report = flow.run(runner, database_url=f"sqlite:///{path}", max_workers=1)
    with sqlite3.connect(path) as connection:
        rows = dict(connection.execute("SELECT node_id, duration_ms FROM node_runs").fetchall())
    connection.close()
    for n in range(3):
        measured = report.value(f"n{n}") * 1000.0  # by the body itself
        duration = report.node_reports[f"n{n}"].duration
        assert duration is not None
        assert rows[f"n{n}"] == pytest.approx(duration * 1000.0, abs=1e-3)
        assert measured <= rows[f"n{n}"] < measured + 30.0
