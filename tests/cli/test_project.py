"""``init``: everything that it writes works as it stands, and nothing is overwritten."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dagger_dsl.cli.project import FILES
from tests.cli.conftest import ROOT, Cli, finish, spawn


@pytest.fixture
def empty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    path = folder / "empty folder"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def lines_of(text: str) -> list[list[str]]:
    """Return the commands of a README or of what was printed."""
    found = re.findall(r"^ *((?:dagger-dsl|python|cd) [^#\n]*)", text, re.MULTILINE)
    return [shlex.split(each) for each in found]


@pytest.mark.slow
def test_what_is_written_runs_and_its_test_passes(empty: Path) -> None:
    done = finish(spawn(empty, "init", "my flow"))
    assert done.code == 0, done.err
    place = empty / "my flow"
    assert sorted(each.name for each in place.iterdir()) == sorted(FILES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_ADDOPTS", None)  # what our own tests are run with is none of its
    ran = []
    for words in (*lines_of(done.out), *lines_of((place / "README.md").read_text())):
        if words[0] == "cd":
            assert words == ["cd", "my flow"]
            continue
        ran.append(words[:2])
        if words[0] == "python":
            tested = subprocess.run(
                [sys.executable, *words[1:], "-p", "no:cacheprovider", "-W", "error"],
                cwd=place,
                capture_output=True,
                text=True,
                timeout=100,
                env=environment,
            )
            assert tested.returncode == 0, tested.stdout
            assert "2 passed" in tested.stdout
            continue
        if ran.count(words[:2]) > 1 and words[1] == "run":
            words[words.index("r1")] = "r2"
        told = finish(spawn(place, *words[1:]))
        assert told.code == 0, (words, told.err)
        if words[1] == "run":
            assert "summarise = {'count': 8," in told.out
            assert "the sensor did not answer" in told.err
    assert ["dagger-dsl", "run"] in ran
    assert ["python", "-m"] in ran
    assert ["dagger-dsl", "resume"] in ran
    ignored = (place / ".gitignore").read_text().split()
    assert "dagger_dsl.db*" in ignored


def test_the_project_is_clean_and_typed(cli: Cli, empty: Path) -> None:
    assert cli("init").code == 0
    for name, text in FILES.items():
        written = (empty / name).read_text()
        assert written == text
        assert written.endswith("\n")
        assert not re.search(r"[ \t]$", written, re.MULTILINE)
        assert max(map(len, written.splitlines())) <= 100
        if name.endswith(".py"):
            compile(written, name, "exec")
    assert cli("validate", "pipeline.py").code == 0
    assert cli("dot", "pipeline.py").code == 0


@pytest.mark.parametrize("name", list(FILES))
def test_nothing_is_overwritten_and_nothing_else_is_written(
    cli: Cli, empty: Path, name: str
) -> None:
    (empty / name).write_text("mine")
    done = cli("init")
    assert done.code == 2
    assert name in done.err
    assert "not overwritten" in done.err
    assert [each.name for each in empty.iterdir()] == [name]
    assert (empty / name).read_text() == "mine"


def test_a_link_that_leads_nowhere_is_not_written_through(cli: Cli, empty: Path) -> None:
    (empty / "pipeline.py").symlink_to(empty / "elsewhere.py")
    assert cli("init").code == 2
    assert not (empty / "elsewhere.py").exists()


def test_a_folder_that_cannot_be_one_is_refused(cli: Cli, empty: Path) -> None:
    (empty / "file").write_text("")
    done = cli("init", "file")
    assert (done.code, "is no folder" in done.err) == (2, True)
    done = cli("init", "file/below")
    assert (done.code, "cannot be written" in done.err) == (2, True)
    assert cli("init", "x" * 5_000).code == 2
    assert [each.name for each in empty.iterdir()] == ["file"]


def test_folders_are_made_and_quoted(cli: Cli, empty: Path) -> None:
    done = cli("init", "a/b c")
    assert done.code == 0
    assert "  cd 'a/b c'\n" in done.out
    assert (empty / "a" / "b c" / "pipeline.py").is_file()
    answer = json.loads(cli("init", "d", "--json").out)
    assert answer["folder"] == "d"
    assert answer["written"] == [f"d/{name}" for name in FILES]


def test_an_empty_name_is_no_folder(cli: Cli, folder: Path) -> None:
    before = sorted(folder.iterdir())
    done = cli("init", "")
    assert done.code == 2
    assert "name one, or '.' for this one" in done.err
    assert sorted(folder.iterdir()) == before
