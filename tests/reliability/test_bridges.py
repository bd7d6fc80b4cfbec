"""SIGKILL where runs and tasks meet messages: none is lost, none comes of what is not recorded."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from dagger_dsl import Registry
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec
from tests.reliability.talkers import KEYS
from tests.reliability.talking import LONG, Talkers
from tests.scale import count

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.row("J12")]

MESSAGES = "SELECT public_id AS id, task_id AS task, cause_id AS cause, message_key AS k,"
MESSAGES += " CAST(payload AS TEXT) AS p FROM messages WHERE channel = '{}' ORDER BY message_id"


@pytest.fixture
def messages() -> int:
    return count(2_000, least=120)


@pytest.fixture
def kills() -> int:
    return count(40, least=4)


@pytest.fixture
def talkers(tmp_path: Path, messages: int) -> Iterator[Talkers]:
    made = Talkers(tmp_path, messages)
    yield made
    made.close()


def deaths(
    talkers: Talkers, role: str, kills: int, lines: int, rng: random.Random
) -> Iterator[int]:
    """Kill a process at moments of its log, which gets so many lines in all; start it again."""
    for number in range(kills):
        talkers.is_at(role, int((number + rng.random()) * lines / kills))
        talkers.kill(role)
        yield number
        talkers.start(role)


def states(talkers: Talkers, table: str) -> dict[str, str]:
    """Return the states of all runs, or of all tasks, by id."""
    id_, state = ("run_id", "status") if table == "flow_runs" else ("public_id", "status")
    rows = talkers.query(f"SELECT {id_} AS id, {state} AS state FROM {table}")
    return {str(each["id"]): str(each["state"]) for each in rows}


def test_a_trigger_that_is_killed_runs_once_for_each_message(
    talkers: Talkers, messages: int, kills: int
) -> None:
    talkers.start("trigger")
    deadline = time.monotonic() + LONG
    while set(talkers.positions()) != {"orders"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    talkers.start("publisher")
    rng = random.Random(3)
    settled: list[tuple[int, set[str]]] = []
    for _ in deaths(talkers, "trigger", kills, 2 * messages, rng):
        over = {key for key, state in states(talkers, "flow_runs").items() if state == "completed"}
        settled.append((len(talkers.log("trigger")), over))
    assert talkers.is_at("publisher", messages)
    talkers.finish(["orders"])
    wanted = {f"orders:m{number}": "completed" for number in range(messages)}
    assert states(talkers, "flow_runs") == wanted, "one run for each message, none lost"
    answers = talkers.query(MESSAGES.format("out"))
    said = [(str(each["cause"]), str(each["p"])) for each in answers]
    assert sorted(said) == sorted((f"m{n}", f"{-n}") for n in range(messages)), "each once"
    for key in range(KEYS):
        numbers = [-int(str(each["p"])) for each in answers if each["k"] == f"k{key}"]
        assert numbers == sorted(numbers), "in the order of their key"
    assert talkers.query("SELECT * FROM deliveries") == []
    log = talkers.log("trigger")
    for first, over in settled:
        later = {f"orders:m{number}" for number, _ in log[first:]}
        assert not later & over, "a completed run was called again"
    calls = Counter((number, node) for number, node in log)
    print(f"{kills} kills, {messages} runs: {sum(calls.values()) - len(calls)} calls were repeated")


def check_news(talkers: Talkers) -> None:
    """A node that is recorded as completed has published its event, and no other one has."""
    rows = talkers.query("SELECT run_id AS run, node_id AS node, state FROM node_runs")
    completed = Counter(str(each["run"]) for each in rows if each["state"] == "completed")
    there = Counter(
        str(each["id"]).split(":")[1] for each in talkers.query(MESSAGES.format("news"))
    )
    assert there == completed


def test_a_run_that_is_killed_publishes_what_it_records_and_nothing_else(
    talkers: Talkers, messages: int, kills: int
) -> None:
    talkers.start("emit")
    for _ in deaths(talkers, "emit", kills, 2 * messages, random.Random(5)):
        check_news(talkers)
    deadline = time.monotonic() + LONG
    while talkers.log("emit")[-1:] != [[str(messages - 1), "over", "0"]]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    check_news(talkers)
    assert states(talkers, "flow_runs") == {f"r{n}": "completed" for n in range(messages)}
    news = talkers.query(MESSAGES.format("news"))
    said = {str(each["id"]): orjson.loads(str(each["p"])) for each in news}
    assert len(said) == 2 * messages
    for n in range(messages):
        first, attempt = said[f"run:r{n}:1"]
        assert (first, said[f"run:r{n}:2"]) == (n, n)
        assert attempt > 1 or n % 3, "the call that failed has published nothing"


def test_a_worker_that_is_killed_publishes_with_completed_tasks_only(
    talkers: Talkers, messages: int, kills: int
) -> None:
    specs = [
        NewTaskSpec("tell", {"n": n}, task_id=f"t{n}", max_retries=50) for n in range(messages)
    ]
    url = talkers.database
    with TaskManager(registry=Registry(), database_url=url, concurrency=0) as manager:
        job = manager.start_job("j", specs)
        talkers.start("tell")
        for _ in deaths(talkers, "tell", kills, messages, random.Random(9)):
            check_told(talkers)
        ended = job.result(LONG)
        failed = {each.id: each.error for each in manager.tasks("j") if each.error}
        assert ended is JobStatus.COMPLETED, failed
    told = check_told(talkers)
    assert len(told) == messages, "none is lost"
    for task, said in told.items():
        assert [f"t{n}" for n, _, _ in said] == [task, task]
        assert [half for _, _, half in said] == ["a", "b"]
        assert said[0][1] == said[1][1], "both of one call"
        assert said[0][1] > 1 or said[0][0] % 3, "the call that failed has published nothing"


def check_told(talkers: Talkers) -> dict[str, list[list[Any]]]:
    """A completed task has published its two messages, and no other one has; return them."""
    told: defaultdict[str, list[list[Any]]] = defaultdict(list)
    for each in talkers.query(MESSAGES.format("news")):
        told[str(each["task"])].append(orjson.loads(str(each["p"])))
    over = {key for key, state in states(talkers, "tasks").items() if state == "completed"}
    assert {key: len(said) for key, said in told.items()} == dict.fromkeys(over, 2)
    return dict(told)
