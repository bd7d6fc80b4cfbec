"""``channels``, ``publish``, ``deadletters``: what people see of messages, and do with them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dagger_dsl import Registry
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.pubsub import PubSubConfig, PubSubExecutor, pubsub_agent
from tests.cli.conftest import Cli

URL = "sqlite:dagger_dsl.db"

#: What would command a terminal.
HOSTILE = "\x1b[31mred\x1b]0;title\x07"


def registry_of(seen: list[object]) -> Registry:
    registry = Registry()

    @pubsub_agent(
        subscribe="orders.*", retry=RetryPolicy(max_attempts=1), name="mailer", registry=registry
    )
    def mailer(payload: object) -> None:
        if payload == "bad":
            raise ValueError(f"no {HOSTILE}")
        seen.append(payload)

    return registry


@pytest.fixture
def served(folder: Path) -> list[object]:
    """A database with an agent that has handled one message, and given two up."""
    seen: list[object] = []
    with PubSubExecutor(registry=registry_of(seen), database_url=URL) as bus:
        bus.publish("orders.new", {"n": 1}, id="one").result()
        bus.publish("orders.new", "bad", id="two").result()
        bus.publish("orders.old", "bad", id="three").result()
        assert bus.wait_idle(60).result()
    return seen


def serve(seen: list[object]) -> None:
    config = PubSubConfig(grace=60)
    with PubSubExecutor(registry=registry_of(seen), database_url=URL, config=config) as bus:
        assert bus.wait_idle(60).result()


def test_channels_and_agents_are_listed(cli: Cli, served: list[object]) -> None:
    found = cli("channels")
    assert found.code == 0, found.err
    lines = [line.split() for line in found.out.splitlines() if line]
    assert lines[0] == ["channel", "published", "waiting", "dead", "last", "subscribers"]
    channel = next(each for each in lines if each[0] == "orders.new")
    assert (channel[:4], channel[-1]) == (["orders.new", "2", "0", "1"], "mailer")
    assert ["mailer", "orders.*", "0", "0", "2", "none"] in lines
    plain = json.loads(cli("channels", "--json").out)
    assert {each["channel"]: each["published"] for each in plain["channels"]} == {
        "orders.new": 2,
        "orders.old": 1,
    }
    assert plain["agents"][0]["dead"] == 2


def test_a_published_message_reaches_the_agent_once(cli: Cli, served: list[object]) -> None:
    for _ in range(2):
        found = cli("publish", "orders.new", '{"n": 2}', "--key", "ann", "--id", "four")
        assert (found.code, found.out) == (0, "message four is on orders.new\n"), found.err
    waiting = json.loads(cli("channels", "--json").out)["agents"][0]["waiting"]
    assert waiting == 1
    serve(served)
    assert served == [{"n": 1}, {"n": 2}]


def test_other_content_under_a_known_id_is_refused(cli: Cli, served: list[object]) -> None:
    assert cli("publish", "orders.new", "1", "--id", "one").code == 2


@pytest.mark.parametrize("channel", ["", "a b\x00", "x" * 5_000, "orders.*"])
def test_a_channel_that_cannot_be_is_refused(cli: Cli, served: list[object], channel: str) -> None:
    found = cli("publish", channel, "1")
    assert found.code == 2
    assert "error: " in found.err
    assert "\x00" not in found.err


def test_dead_letters_are_listed_and_command_no_terminal(cli: Cli, served: list[object]) -> None:
    found = cli("deadletters", "list")
    assert found.code == 0, found.err
    assert "two" in found.out
    assert "three" in found.out
    assert "ValueError: no " in found.out
    assert "\x1b" not in found.out
    cut = cli("deadletters", "list", "--limit", "1").out
    assert "two" in cut
    assert "three" not in cut
    assert "and 1 more; --limit N shows them" in cut
    plain = json.loads(cli("deadletters", "list", "two", "--json").out)
    assert [(each["message_id"], each["payload"]) for each in plain] == [("two", "bad")]
    (first,) = json.loads(cli("deadletters", "list", "--limit", "1", "--json").out)
    assert first["message_id"] == "two"


@pytest.mark.parametrize("action", ["list", "replay", "discard"])
def test_the_dead_letters_of_an_agent_that_is_none_are_refused(
    cli: Cli, served: list[object], action: str
) -> None:
    found = cli("deadletters", action, "--agent", "nobody")
    assert found.code == 2
    assert "there is no agent 'nobody'" in found.err


def test_dead_letters_are_given_again_or_forgotten(cli: Cli, served: list[object]) -> None:
    found = cli("deadletters", "replay", "two")
    assert (found.code, found.out) == (0, "1 message is given again\n"), found.err
    found = cli("deadletters", "discard", "--agent", "mailer")
    assert (found.code, found.out) == (0, "1 message is forgotten\n"), found.err
    assert cli("deadletters", "list").out == "no dead letters\n"
    serve(served)
    assert "two" in cli("deadletters", "list").out, "it has failed anew"


def test_an_unknown_dead_letter_is_refused(cli: Cli, served: list[object]) -> None:
    found = cli("deadletters", "replay", "two", "none")
    assert found.code == 2
    assert "no dead letter 'none'" in found.err
    assert len(json.loads(cli("deadletters", "list", "--json").out)) == 2, "none was given again"


@pytest.mark.parametrize("words", [("channels",), ("publish", "c", "1"), ("deadletters", "list")])
def test_a_database_that_is_not_there_is_not_made(
    cli: Cli, folder: Path, words: tuple[str, ...]
) -> None:
    found = cli(*words)
    assert found.code == 2
    assert "there is no database" in found.err
    assert not (folder / "dagger_dsl.db").exists()


def test_watching_tells_what_changes_until_ctrl_c(
    cli: Cli, served: list[object], folder: Path
) -> None:
    command = [sys.executable, "-m", "dagger_dsl", "channels", "--watch"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        before = "bus: 2 channels, 1 agent, 3 published, 2 given up"
        assert process.stdout.readline() == f"{before}\n"
        assert cli("publish", "orders.new", "5").code == 0
        after = "bus: 2 channels, 1 agent, 4 published, 1 waiting, 2 given up"
        assert process.stdout.readline() == f"{after}\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_watching_gives_nothing_to_programs(cli: Cli, served: list[object]) -> None:
    found = cli("channels", "--watch", "--json")
    assert found.code == 2
    assert "channels --json" in found.err


def test_an_agent_that_is_gone_is_forgotten_and_holds_no_messages_any_more(
    cli: Cli, served: list[object]
) -> None:
    cli("publish", "orders.new", '"late"')
    cli("publish", "elsewhere", "1")
    said = cli("db", "prune", "--older-than", "0", "--dry-run").out
    assert "would remove 0 runs, 0 jobs, 1 message, " in said, "two are dead letters, one waits"
    assert cli("channels", "--watch", "--forget", "mailer").code == 2
    done = cli("channels", "--forget", "mailer")
    assert (done.code, done.out) == (0, "nothing is kept for agent mailer any more\n")
    again = cli("channels", "--forget", "mailer")
    assert again.code != 0
    assert "there is no agent 'mailer'" in again.err
    assert "removed 0 runs, 0 jobs, 4 messages, " in cli("db", "prune", "--older-than", "0").out


def test_doctor_tells_of_a_backlog_and_of_dead_letters(cli: Cli, served: list[object]) -> None:
    assert json.loads(cli("doctor", "--json").out)["messages"] == (
        "3 kept, 2 dead letters, which this lists: dagger-dsl deadletters list"
    )
    cli("publish", "orders.new", '"late"')
    found = cli("doctor")
    assert found.code == 0, "that is for people to judge"
    (line,) = [each for each in found.out.splitlines() if each.startswith("messages:")]
    assert "4 kept, 1 waiting, no process serves mailer, 2 dead letters, " in line
