"""What fast-dag 0.2.0 does and this package must not: the traps of its modes.

The numbers are those of the list of traps at the end of the contract; each test fails on a build
that behaves as the original does.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, CancelToken, RunOptions, engine
from dagger_dsl.errors import (
    ConfigurationError,
    ExecutionTimeout,
    NodeExecutionError,
    RunCancelled,
)
from dagger_dsl.registry import Registry

PATIENCE = 20.0
MODES = ["sequential", "parallel", "async"]

every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.mark.row("K11")
def test_trap_2_the_sequential_mode_is_known() -> None:
    dag = DAG("modes")

    @dag.node
    def one() -> int:
        return 1

    assert dag.run(mode="sequential") == dag.run(mode="sync") == dag.run() == 1


@every_mode
@pytest.mark.row("E25")
def test_trap_3_a_time_limit_is_one_and_no_option_is_an_input(mode: str) -> None:
    dag, given = DAG("limits"), []
    release = threading.Event()

    @dag.node
    def work(**inputs: Any) -> None:
        given.append(inputs)
        release.wait(PATIENCE)

    begun = time.monotonic()
    with pytest.raises(ExecutionTimeout):
        dag.run(mode=mode, timeout=0.05)
    assert time.monotonic() - begun < PATIENCE / 2
    assert given == [{}]
    release.set()
    with pytest.raises(ConfigurationError, match=r"did you mean 'timeout'.*inputs=\{\.\.\.\}"):
        dag.run(mode=mode, timeuot=1.0)
    assert given == [{}]


@pytest.mark.row("K12")
@pytest.mark.parametrize("mode", ["parallel", "async"])
def test_trap_4_no_level_waits_for_the_one_before(mode: str) -> None:
    dag = DAG("levels")
    deep = threading.Event()

    @dag.node
    def quick() -> int:
        return 1

    @dag.node
    def behind(quick: int) -> int:
        deep.set()
        return quick

    @dag.node
    def slow() -> bool:
        return deep.wait(PATIENCE)  # ends when the second level has begun

    quick >> behind
    assert dag.run(mode=mode, max_workers=2) == {"behind": 1, "slow": True}
    reports = dag.report.node_reports
    assert reports["behind"].started_at < reports["slow"].finished_at


@every_mode
@pytest.mark.row("E25")
def test_trap_5_a_body_that_overran_does_not_keep_the_process(mode: str, tmp_path: Path) -> None:
    script = tmp_path / "overrun.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import threading

            from dagger_dsl import DAG
            from dagger_dsl.errors import NodeExecutionError

            dag = DAG("overrun")

            @dag.node(timeout=0.1)
            def stuck():
                threading.Event().wait(300)

            try:
                dag.run(mode={mode!r})
            except NodeExecutionError as error:
                print(type(error.__cause__).__name__)
            """
        )
    )
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == "NodeTimeout"


@every_mode
@pytest.mark.row("E26")
def test_trap_8_runs_are_recorded_resumed_and_cancelled(mode: str, tmp_path: Path) -> None:
    dag, calls, broken = DAG("kept"), [], [True]
    url = f"sqlite:///{tmp_path / 'runs.db'}"

    @dag.node
    def load() -> int:
        calls.append("load")
        return 1

    @dag.node
    def use(load: int) -> int:
        calls.append("use")
        if broken[0]:
            raise ValueError("on purpose")
        return load + 1

    load >> use
    with pytest.raises(NodeExecutionError):
        dag.run(mode=mode, database_url=url)
    broken[0] = False
    options = RunOptions(runner=mode, database_url=url)
    report = engine.resume(dag.report.run_id, dag.registry, options)
    assert report.values["use"] == 2
    assert calls == ["load", "use", "use"]

    token = CancelToken()

    @dag.node
    def stop(use: int) -> None:
        token.cancel("enough")

    @dag.node
    def never(stop: None) -> None:
        calls.append("never")

    use >> stop >> never
    with pytest.raises(RunCancelled, match="enough"):
        dag.run(mode=mode, cancel=token)
    assert "never" not in calls


@pytest.mark.row("E26")
def test_trap_8_a_task_that_is_cancelled_cancels_its_run() -> None:
    dag = DAG("cancelled")

    @dag.node
    async def wait() -> None:
        await asyncio.sleep(PATIENCE)

    async def main() -> float:
        task = asyncio.create_task(dag.run_async())
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - begun

    assert asyncio.run(main()) < PATIENCE / 2
