"""A database and an HTTP service in one workflow: what passes is tried again, the rest is not."""

from __future__ import annotations

import csv
import importlib
import shutil
import socket
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import attrs
import pytest

from dagger_dsl import Registry, RunReport, Secret
from dagger_dsl.model.events import NodeRetrying
from dagger_dsl.testing import FakeClock, play
from tests.examples.agents import EXAMPLES, RUNNERS, checked, outside

EXAMPLE = EXAMPLES / "integrations"
WEATHER = EXAMPLES / "dag_flow" / "data" / "weather.csv"
TOKEN = "correct-horse-battery"


@attrs.frozen
class World:
    """The example's modules, with a database of their own, and a service."""

    workflow: ModuleType
    service: Any
    folder: Path

    def inputs(self, token: str = TOKEN) -> dict[str, Any]:
        return {"service": self.service.url, "token": Secret(token)}

    def climate(self) -> list[tuple[Any, ...]]:
        """Return the table that the workflow fills."""
        connection = sqlite3.connect(self.folder / "weather.sqlite")
        rows = connection.execute("SELECT * FROM climate ORDER BY place, month").fetchall()
        connection.close()
        return rows


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.syspath_prepend(EXAMPLES)
    url = f"sqlite:///{tmp_path}/weather.sqlite?timeout=0.05"
    monkeypatch.setenv("WEATHER_DATABASE", url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    names = ("integrations", "integrations.workflow", "integrations.local")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with Registry():
        workflow, local = (importlib.import_module(name) for name in names[1:])
    local.make_database(url)
    with local.StationService(TOKEN) as service:
        yield World(workflow, service, tmp_path)
    workflow.connections.close()
    workflow.engine().dispose()
    for name in names:
        sys.modules.pop(name, None)


def by_hand() -> dict[tuple[str, int], tuple[float, float]]:
    """Return temperature and rain by place and month, counted in a plain loop."""
    found: defaultdict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    with WEATHER.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            middle = (float(row["temp_min"]) + float(row["temp_max"])) / 2
            month = row["location"], int(row["date"][5:7])
            found[month].append((middle, float(row["precipitation"])))
    return {
        month: (fmean(each for each, _ in rows), fmean(each for _, each in rows))
        for month, rows in found.items()
    }


def error_of(report: RunReport) -> str:
    assert not report.success
    return str(report.error)


@pytest.mark.row("R6")
@pytest.mark.parametrize("runner", RUNNERS)
def test_the_database_and_the_service_are_asked_and_the_answer_is_stored(
    world: World, runner: str
) -> None:
    url = f"sqlite:{world.folder}/runs.db"
    dag = world.workflow.dag
    assert dag.run(world.inputs(), runner=runner, max_workers=4, database_url=url) == 24
    assert world.service.requests == {"Seattle": 2, "New York": 2}, "each was busy once"
    counted, rows = by_hand(), world.climate()
    assert [row[:2] for row in rows] == sorted(counted)
    for place, month, station, temp, rain, daylight in rows:
        assert (temp, rain) == pytest.approx(counted[place, month], abs=0.051)
        assert (
            station == {"New York": "John F Kennedy Intl", "Seattle": "Seattle-Tacoma Intl"}[place]
        )
        assert 8 < daylight < 16
    assert world.workflow.connections.in_use == 0
    # Once more: the table is replaced, not added to.
    assert dag.run(world.inputs(), runner=runner, max_workers=4, database_url=url) == 24
    assert world.climate() == rows


@pytest.mark.parametrize(
    ("latitude", "day", "hours"),
    [(0.0, 80, 12.0), (47.45, 172, 15.8), (47.45, 355, 8.2), (80.0, 172, 24.0), (80.0, 355, 0.0)],
)
def test_daylight_is_what_an_almanac_says(
    world: World, latitude: float, day: int, hours: float
) -> None:
    assert world.workflow.hours_of_daylight(latitude, day) == pytest.approx(hours, abs=0.1)


@pytest.mark.row("R6")
def test_a_service_that_stays_busy_is_given_up_after_four_calls(world: World) -> None:
    world.service.busy = 99
    clock = FakeClock()
    report = play(world.workflow.dag, world.inputs(), clock=clock)
    assert "answered 503 Service Unavailable" in error_of(report)
    assert max(world.service.requests.values()) == 4, "the first city that is given up ends the run"
    assert 0.2 + 0.4 + 0.8 <= sum(clock.sleeps) < 60
    assert world.climate() == []


@pytest.mark.row("R6")
def test_a_refusal_is_not_asked_for_again(world: World) -> None:
    report = play(world.workflow.dag, world.inputs("wrong"))
    assert "answered 401 Unauthorized" in error_of(report)
    assert "ServiceRefused" in error_of(report)
    with pytest.raises(world.workflow.ServiceRefused, match="404 Not Found"):
        world.workflow.find_station("Paris", world.service.url, Secret(TOKEN))
    assert world.service.requests == {"Paris": 1}


def test_a_service_that_is_not_there_or_silent_is_unavailable(world: World) -> None:
    unavailable = world.workflow.ServiceUnavailable
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(unavailable, match=r"stopped answering|cannot be reached"):
            world.workflow.get_json(url, Secret(TOKEN), seconds=0.05)
    with pytest.raises(unavailable, match=r"cannot be reached: .*refused"):
        world.workflow.get_json(url, Secret(TOKEN), seconds=5)


@pytest.mark.row("R6")
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_locked_table_is_tried_again(world: World, runner: str) -> None:
    other = sqlite3.connect(world.folder / "weather.sqlite", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    retried: list[str] = []

    def unlock(_ctx: object, event: object) -> None:
        if isinstance(event, NodeRetrying):
            retried.append(event.node.node_id)
            if other.in_transaction:
                other.rollback()

    world.service.busy = 0
    assert world.workflow.dag.run(world.inputs(), runner=runner, hooks=[unlock]) == 24
    assert retried == ["list_places"]
    other.close()


@pytest.mark.row("R6")
def test_a_failed_run_goes_on_with_the_token_given_again_and_no_file_has_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:{world.folder}/runs.db"
    world.service.busy = 99
    report = play(world.workflow.dag, world.inputs(), database_url=url, run_id="r")
    assert report.status == "failed"
    world.service.busy = 0
    (world.folder / "weather.sqlite").rename(world.folder / "moved.sqlite")  # is not asked again
    resumed = play(
        "r",
        {"token": Secret(TOKEN)},
        database_url=url,
        registry=world.workflow.dag.registry,
    )
    assert resumed.value("find_station")[1]["name"] == "Seattle-Tacoma Intl"
    assert resumed.node_reports["monthly_weather"].restored
    files = [path for path in world.folder.rglob("*") if path.is_file()]
    assert any(path.name == "runs.db" for path in files)
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)
    shown = f"{report.to_html()} {resumed!r} {capsys.readouterr()}"
    assert TOKEN not in shown


@pytest.mark.row("R6")
def test_it_runs_by_itself(tmp_path: Path) -> None:
    for name in ("integrations", "dag_flow", "agent_flow"):
        ignored = shutil.ignore_patterns("out", "__pycache__")
        shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=ignored)
    done = outside(tmp_path, sys.executable, "-m", "integrations")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hours of daylight" in done.stdout
    assert done.stderr.count("answered 503 Service Unavailable") == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.row("R3")
def test_the_example_is_typed_strictly() -> None:
    names = ("workflow", "local", "__main__")
    assert checked(EXAMPLES, *(f"integrations/{name}.py" for name in names)) == ""
