"""Help that shows how it is done, and words that are nearly right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dagger_dsl.cli.commands import _DONE_IN
from dagger_dsl.cli.examples import EXAMPLES
from dagger_dsl.cli.parser import build, parse, subparsers_of
from tests.cli.conftest import Cli

#: Examples that need a run which waits for a person, or goes on, or agents.
STEERING = (
    *("pause", "cancel", "answer", "approve", "reject", "worker", "job", "task"),
    "deadletters",
)

LINES = [(command, line, what) for command, lines in EXAMPLES.items() for line, what in lines]


def words_of(line: str) -> list[str]:
    """Return the arguments of the call in a line, which may stand in a shell's own words."""
    found = re.search(r"dagger-dsl (completion \w+|[^|)]*)", line)
    assert found is not None, line
    return shlex.split(found[1])


def test_the_commands_stand_in_groups_and_each_is_there(cli: Cli) -> None:
    out = cli("--help").out
    titles = (
        "write and run a workflow",
        "look at runs",
        "steer a run",
        "run and steer the tasks of agents",
        "look after it",
    )
    places = [out.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    listed = re.findall(r"^    (\w+)  ", out, re.MULTILINE)
    assert listed == [name for name in subparsers_of(build()) if name in listed]
    assert set(listed) == set(subparsers_of(build())) == set(_DONE_IN) - {"version"}
    assert all(len(line) <= 100 for line in out.splitlines())


def test_without_a_command_the_overview_is_shown(cli: Cli) -> None:
    done = cli()
    assert (done.code, done.out) == (2, "")
    assert "look at runs:" in done.err


def test_help_is_a_word_too(cli: Cli) -> None:
    assert cli("help") == cli("--help")
    assert cli("help", "db", "prune") == cli("db", "prune", "--help")
    assert "did you mean 'show'?" in cli("help", "shwo").err


def test_every_command_has_examples_in_its_help(cli: Cli) -> None:
    for name in subparsers_of(build()):
        out = cli(name, "--help").out
        assert "\nexamples:\n" in out, name
        for line, what in EXAMPLES[name]:
            assert re.search(rf"^  {re.escape(line)} +# {re.escape(what)}$", out, re.MULTILINE)
    for name in ("stats", "prune", "backup", "vacuum"):
        assert f"dagger-dsl db {name}" in cli("db", name, "--help").out


@pytest.mark.parametrize(("command", "line", "what"), LINES)
def test_an_example_can_be_parsed(command: str, line: str, what: str) -> None:
    arguments = parse(words_of(line))
    assert command.split()[0] == arguments.command
    assert what


def test_the_examples_work_one_after_the_other(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder / "empty")
    for command, line, _ in LINES:
        if command.split()[0] in STEERING or line.endswith(" --watch"):
            continue  # the last ones go on for ever
        done = cli(*words_of(line))
        assert done.code == 0, (line, done.err)


# --- words that are nearly right -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["shwo", "r1"], "'show'"),
        (["recove"], "'recover'"),
        (["db", "prun"], "'prune'"),
        (["run", "--actoins", "a.py"], "'--actions'"),
        (["run", "p.py", "--dryrun"], "'--dry-run'"),
        (["show", "r1", "--nod=x"], "'--node'"),
        (["--verson"], "'--version'"),
        (["db", "stats", "--jsn"], "'--json'"),
    ],
)
def test_a_misspelt_word_is_told_the_one_that_was_meant(
    cli: Cli, given: list[str], meant: str
) -> None:
    done = cli(*given)
    assert done.code == 2
    assert f"did you mean {meant}?" in done.err
    assert "--help shows how it is called" in done.err
    assert done.out == ""


def test_what_is_like_nothing_is_told_what_there_is(cli: Cli) -> None:
    assert "known: 'backup', 'prune', 'stats', 'vacuum'" in cli("db", "xyzzy").err
    assert "known: '--artifacts', '--db', '--help', '--json'" in cli("doctor", "--xyzzy").err


def test_values_that_look_like_options_are_left_alone(cli: Cli) -> None:
    arguments = parse(["cancel", "r1", "--reason=--all"])
    assert arguments.reason == "--all"
    assert parse(["answer", "r", "n", "--", "--no"]).value == "--no"
    assert parse(["cancel", "r1", "--reason", "-- as told"]).reason == "-- as told"


def test_a_wrong_word_cannot_command_the_terminal(cli: Cli) -> None:
    for given in (["\x1b[31mrun"], ["run", "--\x1b[2J"], ["run", "p.py", "--runner", "\x1b[5m"]):
        done = cli(*given)
        assert done.code == 2
        assert "\x1b" not in done.err
