"""SIGKILL at any moment: no message is lost, none acknowledged comes again, all come in order."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.talkers import KEYS
from tests.reliability.talking import LONG, Talkers
from tests.scale import count


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
