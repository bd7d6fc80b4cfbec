"""SIGKILL at random moments, and at every single file operation: nothing recorded is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.reliability import workload
from tests.scale import count

ROOT = Path(__file__).parents[2]
RUNNERS = ("sequential", "threads", "asyncio")
SHIM_SOURCE = Path(__file__).with_name("shim.c")


def start(
    folder: Path, runner: str, nodes: int, *, flush: float = 0.0, mixed: bool = False, **env: str
) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **env}
    if mixed:
        environment["MIXED"] = "1"
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.reliability.workload",
            str(folder),
            runner,
            str(nodes),
            str(flush),
        ],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors.decode()


def calls(folder: Path) -> Counter[str]:
    log = folder / "calls.log"
    return Counter(log.read_text().split()) if log.exists() else Counter()


def recorded(folder: Path) -> set[str]:
    """Return the nodes whose completion is in the database."""
    path = folder / "runs.db"
    if not path.exists():
        return set()
    copy = folder / "copy"
    copy.mkdir(exist_ok=True)
    for each in folder.glob("runs.db*"):
        if each.is_file():
            shutil.copy(each, copy / each.name)
    connection = sqlite3.connect(copy / "runs.db")
    try:
        rows = connection.execute("SELECT node_id FROM node_runs WHERE state = 'completed'")
        return {name for (name,) in rows}
    except sqlite3.OperationalError:  # killed before the tables were made
        return set()
    finally:
        connection.close()
        shutil.rmtree(copy)


def undisturbed(tmp_path: Path, nodes: int, mixed: bool = False) -> object:
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    finish(start(folder, "sequential", nodes, mixed=mixed))
    return json.loads((folder / "result.json").read_text())


def check_database(folder: Path) -> None:
    connection = sqlite3.connect(folder / "runs.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        statuses = connection.execute("SELECT status, owner FROM flow_runs").fetchall()
        assert statuses == [("completed", None)]
    finally:
        connection.close()
    assert not list(folder.glob("*flight*")), "a clean end leaves no flight file"


@pytest.mark.row("C12", "C13", "E18")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mixed", [False, True], ids=["sync", "mixed"])
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_killed_run_goes_on_where_it_stood(
    runner: str, mixed: bool, tmp_path: Path, rng: random.Random
) -> None:
    nodes, kills = 200, max(3, count(20))
    expected = undisturbed(tmp_path, nodes, mixed)
    folder = tmp_path / "killed"
    folder.mkdir()
    done = 0
    while done < kills:
        before = recorded(folder)
        made = calls(folder)
        process = start(folder, runner, nodes, mixed=mixed)
        # Somewhere between the first new call and a few dozen later, so that progress is slow
        # enough for every kill to find the run unfinished.
        target = sum(made.values()) + rng.randint(1, max(2, 2 * nodes // kills))
        while process.poll() is None and sum(calls(folder).values()) < target:
            time.sleep(0.0005)
        time.sleep(rng.random() * 0.003)
        ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        again = {name for name in before if calls(folder)[name] > made[name]}
        assert not again, f"recorded nodes were called again: {sorted(again)}"
        if ended:
            break
        done += 1
    made = calls(folder)
    before = recorded(folder)
    finish(start(folder, runner, nodes, mixed=mixed))
    assert not {name for name in before if calls(folder)[name] > made[name]}
    slots = 1 if runner == "sequential" else workload.SLOTS
    assert sum(calls(folder).values()) <= nodes + done * slots
    assert len(calls(folder)) == nodes
    assert json.loads((folder / "result.json").read_text()) == expected
    check_database(folder)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library that kills its process at the n-th file operation; no compiler fails."""
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM_SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def operations(folder: Path, shim: Path, runner: str, nodes: int) -> int:
    """Return how many file operations an undisturbed run makes in *folder*."""
    tally = folder / "tally"
    finish(
        start(
            folder,
            runner,
            nodes,
            LD_PRELOAD=str(shim),
            SHIM_FOLDER=str(folder / "runs.db"),
            SHIM_TALLY=str(tally),
        )
    )
    return int(tally.read_text())


@pytest.mark.row("P12", "C12")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_kill_at_every_file_operation_loses_nothing_recorded(
    runner: str, tmp_path: Path, shim: Path, rng: random.Random
) -> None:
    nodes = 20
    expected = undisturbed(tmp_path, nodes)
    counting = tmp_path / "counting"
    counting.mkdir()
    total = operations(counting, shim, runner, nodes)
    assert total > 20, "the shim must see the database's writes"
    moments = list(range(1, total + 1))
    chosen = sorted(rng.sample(moments, min(total, max(5, count(total)))))
    for moment in chosen:
        folder = tmp_path / f"at{moment}"
        folder.mkdir()
        process = start(
            folder,
            runner,
            nodes,
            LD_PRELOAD=str(shim),
            SHIM_FOLDER=str(folder / "runs.db"),
            SHIM_KILL_AT=str(moment),
        )
        process.communicate(timeout=100)
        made, before = calls(folder), recorded(folder)
        finish(start(folder, runner, nodes))
        again = {name for name in before if calls(folder)[name] > made[name]}
        assert not again, f"kill at operation {moment}: called again {sorted(again)}"
        assert json.loads((folder / "result.json").read_text()) == expected, moment
        check_database(folder)
        shutil.rmtree(folder)


@pytest.mark.timeout(300)
def test_a_resume_reaches_its_first_new_node_quickly(tmp_path: Path, rng: random.Random) -> None:
    """The bound of 0.5 s is for a quiet machine; the test takes the best of five."""
    folder = tmp_path / "run"
    folder.mkdir()
    process = start(folder, "sequential", 200)
    while process.poll() is None and sum(calls(folder).values()) < 100:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    times = []
    for _ in range(5):
        made = sum(calls(folder).values())
        began = time.monotonic()
        process = start(folder, "sequential", 200)
        while process.poll() is None and sum(calls(folder).values()) == made:
            time.sleep(0.001)
        times.append(time.monotonic() - began)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert min(times) <= 0.5, times
