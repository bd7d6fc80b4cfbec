"""The supervisor builds its graph from what it finds, in one way only, and over a kill too."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dagger_dsl import DagExecutor, RunReport
from dagger_dsl.testing import run_action
from tests.examples.agents import (
    EXAMPLES,
    RUNNERS,
    checked,
    completed,
    imported,
    killed,
    outside,
)

EXAMPLE = EXAMPLES / "agent_simple"
WEATHER = EXAMPLES / "dag_flow" / "data" / "weather.csv"

#: The tools that the supervisor asks for, in order, and its answer.
WAYS = {
    "year": (
        ["rain", "wet_days"],
        "Seattle gets more rain than New York because it has more wet days",
    ),
    "summer": (
        ["rain", "wet_days", "rain_per_wet_day", "share_of_heavy_days"],
        "New York gets more rain than Seattle because more falls on a wet day, in heavier rain",
    ),
}


@pytest.fixture
def agent() -> Iterator[ModuleType]:
    with imported(EXAMPLE) as module:
        yield module


def inputs(folder: Path, season: str = "summer") -> dict[str, Any]:
    paths = {"csv_path": str(WEATHER), "report_path": str(folder / "rain.md")}
    return {**paths, "season": season, "seconds": 0.0}


def ask(agent: ModuleType, folder: Path, season: str, **options: Any) -> RunReport:
    with DagExecutor(database_url=f"sqlite:{folder}/runs.db") as executor:
        return executor.run(agent.dag, inputs(folder, season), **options)


def turns(tools: list[str]) -> list[str]:
    """Return the nodes of a run that uses some tools, in order."""
    found = ["supervise"]
    for number, tool in enumerate(tools, start=2):
        found += [tool, f"supervise_{number}"]
    return [*found, "final_validation"]


@pytest.mark.row("G13", "G15", "G16", "R5")
@pytest.mark.parametrize("season", WAYS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_what_is_found_decides_how_the_graph_goes_on(
    agent: ModuleType, tmp_path: Path, runner: str, season: str
) -> None:
    tools, answer = WAYS[season]
    report = ask(agent, tmp_path, season, runner=runner)
    report.raise_for_failure()
    assert list(agent.dag.compile().nodes) == ["supervise"]
    assert list(report.graph.nodes) == turns(tools)
    assert report.outputs == {"final_validation": answer}
    text = (tmp_path / "rain.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Rain in {season}\n\n{answer}.\n")


def test_the_tools_measure_what_a_plain_loop_measures(agent: ModuleType) -> None:
    given = {"csv_path": str(WEATHER), "season": "summer"}
    days: dict[str, list[float]] = {}
    for line in WEATHER.read_text(encoding="utf-8").splitlines()[1:]:
        place, date, mm = line.split(",")[:3]
        if date[5:7] in ("06", "07", "08"):
            days.setdefault(place, []).append(float(mm))
    for place, found in days.items():
        wet = [mm for mm in found if mm >= 1.0]
        heavy = [mm for mm in found if mm >= 20.0]
        assert agent.rain(**given)[place] == pytest.approx(sum(found) / 4, abs=0.06)
        assert agent.wet_days(**given)[place] == len(wet) / 4
        assert agent.rain_per_wet_day(**given)[place] == pytest.approx(
            sum(wet) / len(wet), abs=0.006
        )
        assert agent.share_of_heavy_days(**given)[place] == pytest.approx(
            sum(heavy) / sum(found), abs=0.0006
        )


def test_a_supervisor_that_never_has_enough_is_stopped(agent: ModuleType, tmp_path: Path) -> None:
    report = ask(agent, tmp_path, "summer", config={"max_iterations": 2})
    assert not report.success
    assert "max_iterations of 2" in str(report.error)
    assert not (tmp_path / "rain.md").exists()


def test_an_answer_that_does_not_hold_fails_the_run(agent: ModuleType, tmp_path: Path) -> None:
    facts = {"rain": {"New York": 400.0, "Seattle": 86.2}}
    given = {**inputs(tmp_path), "answer": "it pours", "facts": facts}
    del given["seconds"]
    answer = run_action(agent.final_validation, given)
    assert not answer.success
    assert "counted day by day" in answer.message
    assert not (tmp_path / "rain.md").exists()


VICTIM = """
import os, signal, sys, threading
folder, example, csv, season, moment = sys.argv[1:]
sys.path.insert(0, example)
from agent import dag
from dagger_dsl import DagExecutor
given = {"csv_path": csv, "report_path": f"{folder}/rain.md", "season": season, "seconds": 0.03}
with DagExecutor(database_url=f"sqlite:{folder}/runs.db") as executor:
    handle = executor.start(dag, given, run_id="r")
    threading.Timer(float(moment), os.kill, (os.getpid(), signal.SIGKILL)).start()
    handle.result()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_killed_run_goes_on_with_the_graph_it_had_grown(
    agent: ModuleType, tmp_path: Path, part: int
) -> None:
    moment = (part + random.random()) * 0.05  # the whole run takes about 0.3 s
    assert killed(tmp_path, VICTIM, tmp_path, EXAMPLE, WEATHER, "summer", moment)
    url = f"sqlite:{tmp_path}/runs.db"
    before = completed(url, "r")
    with DagExecutor(registry=agent, database_url=url) as executor:
        report = executor.resume("r")
    report.raise_for_failure()
    tools, answer = WAYS["summer"]
    assert list(report.graph.nodes) == turns(tools)
    assert report.outputs == {"final_validation": answer}
    assert before.items() <= completed(url, "r").items(), "nothing that had ended is called again"
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    ask(agent, undisturbed, "summer").raise_for_failure()
    assert (tmp_path / "rain.md").read_bytes() == (undisturbed / "rain.md").read_bytes()


@pytest.mark.slow
def test_run_sh_kills_a_run_and_gets_the_same_answer(tmp_path: Path) -> None:
    for name in ("agent_simple", "dag_flow"):
        ignored = shutil.ignore_patterns("out", "__pycache__")
        shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=ignored)
    done = outside(tmp_path / "agent_simple", "bash", "run.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run killed of rain_agent goes on" in done.stdout
    assert all(answer in done.stdout for _, answer in WAYS.values())
    connection = sqlite3.connect(tmp_path / "agent_simple" / "out" / "runs.db")
    runs = connection.execute("SELECT run_id, status FROM flow_runs ORDER BY run_id").fetchall()
    connection.close()
    assert runs == [(name, "completed") for name in ("killed", "summer", "year")]


@pytest.mark.slow
@pytest.mark.row("R3")
def test_the_example_is_typed_strictly() -> None:
    assert checked(EXAMPLE, "agent.py") == ""
