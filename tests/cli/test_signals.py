"""Stop means stop: what ended is recorded, the run is released, and it can be resumed."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from dagger_dsl.store.storage import Store
from tests.benchmarks.measure import within
from tests.cli.conftest import finish, spawn

pytestmark = pytest.mark.slow  # nearly each of them starts processes


def wait_for(folder: Path, word: str) -> None:
    """Wait until an action of pipeline.py noted *word*."""
    path = folder / "calls.txt"
    deadline = time.monotonic() + 30
    while not (path.exists() and word in path.read_text().split()):
        assert time.monotonic() < deadline, f"{word} was never called"
        time.sleep(0.01)


def status_of(folder: Path, run_id: str) -> tuple[str, bool]:
    """Return the recorded status of a run, and whether somebody owns it."""
    with Store(f"sqlite:{folder / 'dagger_dsl.db'}") as store:
        run = store.load_run(run_id)
        return run.status, run.owner is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("runner", ["threads", "sequential", "asyncio"])
def test_the_first_signal_stops_and_the_run_can_be_resumed(
    folder: Path, number: signal.Signals, runner: str
) -> None:
    process = spawn(folder, "run", "pipeline.py:long", "--run-id", "r", "--runner", runner)
    wait_for(folder, "slow")
    started = time.monotonic()
    process.send_signal(number)
    done = finish(process)
    assert done.code == 128 + number
    assert time.monotonic() - started < 10
    assert "stopping" in done.err
    assert "dagger-dsl resume r --actions pipeline.py" in done.out
    assert status_of(folder, "r") == ("cancelled", False)
    assert (folder / "calls.txt").read_text().split() == ["one", "slow"]


def test_the_second_signal_leaves_at_once(folder: Path) -> None:
    process = spawn(
        folder, "run", "pipeline.py:hung", "--run-id", "r", DAGGER_DSL_SHUTDOWN_GRACE="60"
    )
    wait_for(folder, "stuck")
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert done.code == 128 + signal.SIGTERM
    with Store(f"sqlite:{folder / 'dagger_dsl.db'}") as store:
        assert store.load_run("r").nodes["one", "default"].value() == 1
        with store.reading() as connection:
            check = connection.exec_driver_sql("PRAGMA integrity_check").scalar_one()
    assert check == "ok"


@pytest.mark.parametrize("runner", ["threads", "sequential", "asyncio"])
def test_a_body_that_does_not_end_is_left_behind_after_the_grace_time(
    folder: Path, runner: str
) -> None:
    process = spawn(folder, "run", "pipeline.py:hung", "--run-id", "r", "--runner", runner)
    wait_for(folder, "stuck")
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130
    assert time.monotonic() - started < 8
    again = finish(spawn(folder, "show", "r"))
    assert "one" in again.out


@pytest.mark.row("C12", "C13")
def test_a_killed_run_goes_on_where_it_stood(folder: Path) -> None:
    process = spawn(folder, "run", "pipeline.py:hung", "--run-id", "r")
    wait_for(folder, "stuck")
    process.kill()
    finish(process)
    assert status_of(folder, "r")[0] == "running"
    text = (folder / "pipeline.py").read_text()
    (folder / "pipeline.py").write_text(text.replace("time.sleep(600)", "pass"))
    done = finish(spawn(folder, "resume", "r", "--actions", "pipeline.py"))
    assert done.code == 0, done.err
    assert (folder / "calls.txt").read_text().split() == ["one", "stuck", "stuck"]


def test_a_run_that_another_process_works_on_is_not_taken(folder: Path) -> None:
    process = spawn(folder, "run", "pipeline.py:long", "--run-id", "r")
    wait_for(folder, "slow")
    done = finish(spawn(folder, "resume", "r", "--actions", "pipeline.py"))
    assert done.code == 4
    assert str(process.pid) in done.err, "the owner is named"
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130


def test_a_signal_before_the_run_has_begun_ends_the_command(folder: Path) -> None:
    text = (folder / "pipeline.py").read_text()
    (folder / "slow_import.py").write_text(f"{text}\nnote('importing')\ntime.sleep(60)\n")
    process = spawn(folder, "run", "slow_import.py:good")
    wait_for(folder, "importing")
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130


@pytest.mark.benchmark
def test_resume_reaches_its_first_node_within_half_a_second(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where it is installed: a checkout without bytecode compiles itself at each start.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    process = spawn(folder, "run", "pipeline.py:bad", "--run-id", "r")
    assert finish(process).code == 1

    def trial() -> float:
        (folder / "calls.txt").unlink()
        started = time.monotonic()
        again: subprocess.Popen[str] = spawn(folder, "resume", "r", "--actions", "pipeline.py")
        wait_for(folder, "fickle")
        seconds = time.monotonic() - started
        finish(again)
        return seconds

    taken, allowed = within(trial, 0.5)
    assert taken <= allowed
