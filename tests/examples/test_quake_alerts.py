"""A pipeline over messages: what is in the data, what is refused, and what no kill may change."""

from __future__ import annotations

import csv
import importlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dagger_dsl.pubsub import PubSubExecutionReport
from tests.examples.agents import EXAMPLES, checked, imported, killed, outside

EXAMPLE = EXAMPLES / "quake_alerts"


@pytest.fixture
def main() -> Iterator[ModuleType]:
    with imported(EXAMPLES, "quake_alerts.agents"):
        for name in ("desk", "history", "__main__"):
            sys.modules.pop(f"quake_alerts.{name}", None)
        yield importlib.import_module("quake_alerts.__main__")


def rows() -> list[dict[str, str]]:
    with (EXAMPLE / "data" / "quakes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def played(main: ModuleType, folder: Path) -> tuple[PubSubExecutionReport, dict[str, Any]]:
    """Run the pipeline; return its report, and what it left behind."""
    with main.Desk(folder / "desk.jsonl") as desk:
        report, history = main.run(folder, desk.url)
        left = {
            "alerts": desk.alerts,
            "kinds": history.kinds(),
            "refused": [about for about, _ in history.notes("refused")],
            "calls": desk.calls,
        }
        history.close()
    return report, left


def expected(main: ModuleType) -> list[tuple[str, str]]:
    """Return the alerts that a loop over the rows finds, without a bus."""
    agents, found, seen = main.agents, [], []
    for row in rows():
        if row["type"] != "earthquake" or not row["rms"]:
            continue
        region, size = agents.region_of(row["place"]), float(row["magnitude"])
        now = agents.datetime.fromisoformat(row["time"]).timestamp()
        if size >= agents.SWARM_MAGNITUDE:
            seen.append((region, now))
            since = now - agents.SWARM_SECONDS
            if sum(of == region and at > since for of, at in seen) == agents.SWARM:
                found.append((row["id"], "swarm"))
        if size >= agents.STRONG:
            found.append((row["id"], "strong"))
    return sorted(found)


def of(left: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((alert["id"], alert["kind"]) for alert in left["alerts"])


@pytest.mark.row("R5")
def test_every_record_is_an_event_or_is_refused_and_alerts_are_those_of_a_loop(
    main: ModuleType, tmp_path: Path
) -> None:
    report, left = played(main, tmp_path)
    assert report.reason == "idle"
    assert left["refused"] == sorted(row["id"] for row in rows() if not row["rms"])
    kinds = Counter(row["type"].replace(" ", "_") for row in rows() if row["rms"])
    assert left["kinds"] == {**kinds, "refused": 5}
    assert of(left) == expected(main)
    assert len(left["alerts"]) == 7
    assert report.agents["alert"].retried == 7, "the desk was busy once for each"
    assert {letter.attempts for letter in report.dead_letters} == {1}, "no retry mends a record"
    assert all("payload['rms']" in letter.error for letter in report.dead_letters)
    again, same = played(main, tmp_path)
    assert again.handled == 0, "there is nothing left to do"
    assert of(same) == of(left)


VICTIM = """
import os, signal, sys
from pathlib import Path
examples, folder, where, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
sys.path.insert(0, examples)
from quake_alerts import __main__ as main, agents

def dying(kind):
    body, calls = kind.handle_message, []
    def handle_message(self, message, bus):
        body(self, message, bus)
        calls.append(message.id)
        if len(calls) == count:  # done with it, and nothing of that is recorded yet
            os.kill(os.getpid(), signal.SIGKILL)
    kind.handle_message = handle_message

dying(getattr(agents, where))
with main.Desk(folder / "desk.jsonl") as desk:
    main.run(folder, desk.url)
"""


@pytest.mark.slow
@pytest.mark.row("R5")
def test_what_is_killed_everywhere_finds_the_same(main: ModuleType, tmp_path: Path) -> None:
    deaths = 0
    for where, count in (("Ingest", 1), ("Ingest", 700), ("Analyse", 300), ("Alert", 2)):
        deaths += killed(tmp_path, VICTIM, EXAMPLES, tmp_path, where, count)
    assert deaths == 4
    _, left = played(main, tmp_path)
    assert of(left) == expected(main), "none is lost, and none comes twice"
    assert sum(left["kinds"].values()) == len(rows())
    assert left["kinds"]["refused"] == 5


@pytest.mark.row("R5")
def test_it_runs_by_itself_twice(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("out", "__pycache__")
    shutil.copytree(EXAMPLE, tmp_path / "quake_alerts", ignore=ignored)
    for handled in (1702, 0):
        done = outside(tmp_path, sys.executable, "-m", "quake_alerts")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"ingest {handled:13} handled" in done.stdout
        assert "2018-02-06 15:50  strong  M 6.4  22km NNE of Hualian, Taiwan" in done.stdout
        assert done.stdout.endswith("1677 earthquake, 12 explosion, 13 quarry_blast, 5 refused\n")


@pytest.mark.row("R3")
def test_the_example_is_typed_strictly() -> None:
    pytest.importorskip("mypy", reason="is not among the lower bounds")
    names = ("agents", "desk", "history", "__main__")
    assert checked(EXAMPLES, *(f"quake_alerts/{name}.py" for name in names)) == ""
