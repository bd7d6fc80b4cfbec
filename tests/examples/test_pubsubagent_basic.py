"""Two agents that play a ball to and fro, and somebody who keeps the score."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dagger_dsl.pubsub import PubSubExecutor, StartWith
from tests.examples.agents import EXAMPLES, checked, imported, outside

EXAMPLE = EXAMPLES / "pubsubagent_basic"


@pytest.fixture
def agents() -> Iterator[ModuleType]:
    with imported(EXAMPLE, "agents") as module:
        yield module


@pytest.mark.row("J11", "R5")
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize(("hits", "left", "right"), [(0, 1, 0), (1, 1, 1), (10, 6, 5)])
def test_two_agents_play_until_the_ball_was_hit_often_enough(
    agents: ModuleType, tmp_path: Path, hits: int, left: int, right: int, durable: bool
) -> None:
    keeper = agents.Scorekeeper()
    url = f"sqlite:{tmp_path / 'court.db'}" if durable else None
    bus = PubSubExecutor([agents.ping, agents.pong, keeper], database_url=url)
    report = bus.run(StartWith("court.left", {"hits": 0, "of": hits}))
    assert keeper.seen.get("court.left", 0) == left
    assert keeper.seen.get("court.right", 0) == right
    assert sum(each.published for each in report.channels.values()) == hits + 1
    assert report.agents["ping"].handled + report.agents["pong"].handled == hits + 1


@pytest.mark.row("R5")
def test_it_runs_by_itself(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "pubsubagent_basic")
    done = outside(tmp_path, sys.executable, "-m", "pubsubagent_basic", "20")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "21 published, 42 handled, 0 given up" in lines[0]
    assert lines[1:3] == ["court.left: a ball, 11 times", "court.right: a ball, 10 times"]
    assert lines[3].startswith("refused: channel 'court.left'")
    assert "payload['hits']" in lines[3]


def test_the_example_is_typed_strictly() -> None:
    pytest.importorskip("mypy", reason="is not among the lower bounds")
    assert (
        checked(EXAMPLES, *(f"pubsubagent_basic/{name}.py" for name in ("agents", "__main__")))
        == ""
    )
