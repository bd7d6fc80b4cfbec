"""SIGKILL at any moment: no message is lost, none acknowledged comes again, all come in order."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagger_dsl.store.messages import MessageRows
from dagger_dsl.store.storage import Store
from tests.reliability.helpers import popen
from tests.reliability.talkers import KEYS
from tests.scale import count

#: Seconds that nothing here takes, however busy the machine is.
LONG = 500.0


class Talkers:
    """Processes that are started quickly, and killed."""

    def __init__(self, folder: Path, messages: int) -> None:
        self.database = f"sqlite:{folder / 'bus.db'}"
        self._folder = folder
        self._messages = messages
        self._alive: dict[str, int] = {}
        self._server = popen(
            "tests.reliability.talkers", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def _ask(self, line: str) -> str:
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        answer: str = self._server.stdout.readline().strip()
        assert answer, "the server died"
        return answer

    def start(self, role: str) -> None:
        order = f"{role} {self.database} {self._folder / role} {self._messages}"
        self._alive[role] = int(self._ask(order))

    def kill(self, role: str) -> None:
        process = self._alive.pop(role)
        os.kill(process, signal.SIGKILL)
        assert self._ask(f"wait {process}") == "gone"

    def log(self, role: str) -> list[list[str]]:
        with contextlib.suppress(FileNotFoundError):
            lines = (self._folder / role).read_text().split("\n")
            return [line.split() for line in lines[:-1]]
        return []

    def is_at(self, role: str, lines: int) -> bool:
        """Wait until a log has so many lines; return False when it does not grow any more."""
        seen, since = -1, time.monotonic()
        while (found := len(self.log(role))) < lines:
            if found > seen:
                seen, since = found, time.monotonic()
            if time.monotonic() - since > 20.0:
                return False
            time.sleep(0.002)
        return True

    def positions(self) -> dict[str, int]:
        with Store(self.database) as store:
            rows = MessageRows(store.database, store._payloads)
            return {each.name: each.position for each in rows.subscriptions()}

    def query(self, text: str) -> list[dict[str, object]]:
        with Store(self.database) as store:
            return store.query(text)

    def finish(self, roles: list[str]) -> None:
        """Wait until these subscribers are done with all that was published."""
        deadline = time.monotonic() + LONG
        while True:
            (row,) = self.query("SELECT max(message_id) AS n FROM messages WHERE channel = 'work'")
            last, positions = row["n"], self.positions()
            assert isinstance(last, int)
            there = all(positions.get(each, -1) >= last for each in roles)
            if there and not self.query("SELECT * FROM deliveries WHERE state = 'retry'"):
                return
            assert time.monotonic() < deadline, (last, positions)
            time.sleep(0.05)

    def close(self) -> None:
        for role in list(self._alive):
            self.kill(role)
        self._server.stdin.close()
        self._server.wait(20)
        self._server.stdout.close()


@pytest.fixture
def messages() -> int:
    return count(10_000, least=500)


@pytest.fixture
def talkers(tmp_path: Path, messages: int) -> Iterator[Talkers]:
    made = Talkers(tmp_path, messages)
    yield made
    made.close()


def check_order(lines: list[list[str]]) -> None:
    """All that was given for the first time came in order of its key."""
    last: dict[str, int] = {}
    seen: set[int] = set()
    for _, payload, key in lines:
        number = int(payload)
        if number not in seen:
            seen.add(number)
            assert number > last.get(key, -1), (number, key)
            last[key] = number


@pytest.mark.slow
@pytest.mark.row("J2")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["one", "two-async"])
def test_a_subscriber_that_is_killed_is_given_every_message(
    talkers: Talkers, messages: int, victim: str
) -> None:
    roles = ["one", "two-async", "three"]
    kills = count(20, least=4)
    rng = random.Random(7)
    for role in roles:
        talkers.start(role)
    deadline = time.monotonic() + LONG
    while set(talkers.positions()) != set(roles):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    talkers.start("publisher")
    settled: list[tuple[int, int, set[int]]] = []
    for number in range(kills):
        moment = (number + rng.random()) * messages / kills
        talkers.is_at(victim, int(moment))
        talkers.kill(victim)
        # After a death each message is recorded once it is given, for the case of another one.
        rows = talkers.query("SELECT message_id AS n FROM deliveries WHERE state = 'retry'")
        again = {each["n"] for each in rows if isinstance(each["n"], int)}
        settled.append((len(talkers.log(victim)), talkers.positions()[victim], again))
        talkers.start(victim)
    assert talkers.is_at("publisher", messages)
    talkers.finish(roles)
    repeated = 0
    for role in roles:
        lines = talkers.log(role)
        payloads = [int(payload) for _, payload, _ in lines]
        assert set(payloads) == set(range(messages)), f"{role} was given every message"
        check_order(lines)
        if role == victim:
            repeated = len(payloads) - messages
        else:
            assert len(payloads) == messages, "who lives on is given nothing twice"
    lines = talkers.log(victim)
    for first, position, again in settled:
        later = {int(number) for number, _, _ in lines[first:]} - again
        assert all(number > position for number in later), "acknowledged messages came again"
    assert talkers.query("SELECT * FROM deliveries") == []
    print(f"{kills} kills, {messages} messages: {repeated} were given again")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_publishers_and_subscribers_that_are_killed_lose_nothing(
    talkers: Talkers, messages: int
) -> None:
    roles = ["pipe", "one", "publisher"]
    kills = count(100, least=9)
    rng = random.Random(11)
    for role in ("pipe", "one"):
        talkers.start(role)
    deadline = time.monotonic() + LONG
    while set(talkers.positions()) != {"pipe", "one"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    talkers.start("publisher")
    for number in range(kills):
        role = rng.choice(roles)
        moment = (number + rng.random()) * messages / kills
        talkers.is_at(role, int(moment))
        talkers.kill(role)
        talkers.start(role)
    assert talkers.is_at("publisher", messages)
    talkers.finish(["pipe", "one"])
    work = talkers.query(
        "SELECT public_id AS id, message_key AS k, CAST(payload AS TEXT) AS p FROM messages "
        "WHERE channel = 'work' ORDER BY message_id"
    )
    assert [int(str(each["p"])) for each in work] == list(range(messages)), "none lost, none twice"
    check_order(talkers.log("one"))
    assert {int(payload) for _, payload, _ in talkers.log("one")} == set(range(messages))
    out = talkers.query(
        "SELECT cause_id AS cause, message_key AS k, CAST(payload AS TEXT) AS p FROM messages "
        "WHERE channel = 'out' ORDER BY message_id"
    )
    wanted = [f'"{number}{half}"' for number in range(messages) for half in ("a", "b")]
    assert sorted(str(each["p"]) for each in out) == sorted(wanted), "once for each message"
    for key in range(KEYS):
        mine = [each for each in out if each["k"] == f"k{key}"]
        numbers = [int(str(each["cause"])[1:]) for each in mine]
        assert numbers == sorted(numbers), "in the order of their key"
        assert all(str(each["p"])[1:-2] == str(each["cause"])[1:] for each in mine)
    assert talkers.query("SELECT * FROM deliveries") == []
