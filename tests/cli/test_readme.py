"""The commands that the documents show are commands that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagger_dsl.cli.parser import build, parse, subparsers_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "examples").glob("*/README.md"))]
ENDS = {"&", "&&", "||", "|", ";", "then", "do"}


def shell_lines() -> Iterator[tuple[str, str]]:
    """Yield each call of the command in a block of shell, with the page it stands on."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                code, _, comment = line.partition("#")
                for part in (code, comment):
                    if "dagger-dsl " in part:
                        name = str(page.relative_to(ROOT))
                        yield name, part[part.index("dagger-dsl ") :]


def arguments(line: str) -> list[str]:
    """Return the arguments of a call, up to what the shell does next."""
    words = shlex.split(line)[1:]
    return words[: next((n for n, word in enumerate(words) if word in ENDS), len(words))]


LINES = [each for each in shell_lines() if "on the PATH" not in each[1]]


def test_there_are_some() -> None:
    assert len(LINES) > 15


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_command_in_a_block_is_understood(page: str, line: str) -> None:
    parse(arguments(line))


def test_a_reader_may_do_again_what_is_shown() -> None:
    taken = [line for page, line in LINES if page == "README.md" and "--run-id" in line]
    assert len(taken) > 3
    assert all("--run-id $run" in line for line in taken), "a database has each id once"


def test_a_command_within_a_sentence_is_one_that_there_is() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    told = re.findall(r"`dagger-dsl ([^`]+)`", text)
    assert len(told) > 5
    commands = subparsers_of(build())
    for words in map(str.split, told):
        parser = build() if words[0].startswith("-") else commands[words[0]]
        known = parser._option_string_actions
        assert all(word in known for word in words if word.startswith("-")), words
