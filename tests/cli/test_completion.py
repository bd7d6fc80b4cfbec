"""Completion: commands, options and ids, in the shells themselves where they are installed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from dagger_dsl.cli.completion import completions
from tests.cli.conftest import ROOT, Cli

BASH = shutil.which("bash")


@pytest.fixture
def bin_folder(folder: Path) -> Path:
    """A folder with the command, for the PATH of a shell."""
    place = folder / "bin"
    place.mkdir()
    command = place / "dagger-dsl"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom dagger_dsl.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    return place


def in_bash(folder: Path, bin_folder: Path, *lines: str, more: str = "") -> list[list[str]]:
    """Return what bash offers at the end of each line, by the script that it was given."""
    assert BASH is not None
    tries = "\n".join(f"try {_ansi(line)}" for line in lines)
    script = f"""
eval "$(dagger-dsl completion bash)"
{more}
try() {{
    COMP_LINE=$1 COMP_POINT=${{#1}}
    read -ra COMP_WORDS <<< "$1"
    [[ $1 == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    COMPREPLY=()
    $(complete -p dagger-dsl | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
    printf '%s\\x1f' "${{COMPREPLY[@]}}"
    printf '\\x1e'
}}
{tries}
"""
    done = subprocess.run(
        [BASH, "--norc", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        env={
            **os.environ,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
    )
    assert done.stderr == ""
    found = done.stdout.removesuffix("\x1e").split("\x1e")
    return [[word for word in each.split("\x1f") if word] for each in found]


def _ansi(text: str) -> str:
    return "$'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_is_offered_commands_options_and_ids(cli: Cli, folder: Path, bin_folder: Path) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r-good")
    cli("run", "pipeline.py:bad", "--run-id", "r-bad")
    cli("run", "pipeline.py:good", "--run-id", "my run;$(touch x)")
    found = in_bash(
        folder,
        bin_folder,
        "dagger-dsl sh",
        "dagger-dsl db ",
        "dagger-dsl show r1 --n",
        "dagger-dsl run --runner ",
        "dagger-dsl run --runner=pro",
        "dagger-dsl show r-",
        "dagger-dsl show my",
        "dagger-dsl explain r-bad f",
        "dagger-dsl show r-bad --node ",
        "dagger-dsl show --db=sqlite:dagger_dsl.db r-g",
        "dagger-dsl runs --dag ",
        "dagger-dsl nothing ",
    )
    assert found == [
        ["show"],
        ["stats", "prune", "backup", "vacuum"],
        ["--node"],
        ["threads", "sequential", "asyncio", "processes"],
        ["processes"],  # bash parts words at =, and puts this behind it
        ["r-bad", "r-good"],
        ["'my run;$(touch x)'"],
        ["fickle"],
        ["one", "fickle"],
        ["r-good"],
        ["bad", "good"],
        [],
    ]
    assert not (folder / "x").exists()


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_completes_files_by_itself_where_one_is_wanted(folder: Path, bin_folder: Path) -> None:
    noted = 'compopt() { echo "compopt $*" >> asked; }'
    assert in_bash(folder, bin_folder, "dagger-dsl run pi", more=noted) == [[]]
    assert (folder / "asked").read_text() == "compopt -o default\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_it_can_parse(cli: Cli, folder: Path, shell: str) -> None:
    done = cli("completion", shell)
    assert done.code == 0
    caller = "dagger-dsl" if shell == "fish" else '"$command"'
    assert f"{caller} __complete {shell} " in done.out
    program = shutil.which(shell)
    if program is not None:
        (folder / "script").write_text(done.out)
        subprocess.run([program, "-n", "script"], cwd=folder, check=True, timeout=60)


def test_other_shells_are_refused(cli: Cli) -> None:
    done = cli("completion", "tcsh")
    assert done.code == 2
    assert "bash" in done.err


# --- what is offered -----------------------------------------------------------------------------


def words(*given: str) -> list[str]:
    return [word for word, _ in completions(given).words]


def test_candidates_come_with_what_they_mean(cli: Cli) -> None:
    cli("run", "pipeline.py:bad", "--run-id", "r1")
    assert completions(["explai"]).words[0][1].startswith("Say why a node is as it is")
    assert completions(["show", ""]).words == [("r1", "bad, failed")]
    assert completions(["explain", "r1", ""]).words == [("one", "completed"), ("fickle", "failed")]
    out = cli("__complete", "fish", "show", "r1", "--node", "fi").out
    assert out == "fickle\tfailed\n:words\n"


def test_what_takes_a_file_asks_for_files(cli: Cli) -> None:
    for given in (["run", ""], ["show", "r", "--html", ""], ["run", "p.py", "--actions", ""]):
        assert completions(given).files, given
    assert not completions(["show", ""]).files
    assert completions(["db", "backup", ""]).files
    assert cli("__complete", "zsh", "init", "").out == ":files\n"


def test_a_draw_of_a_run_offers_runs_and_files(cli: Cli) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r1")
    found = completions(["dot", "r"])
    assert (found.words, found.files) == ([("r1", "good, completed")], True)


def test_options_that_take_no_value_do_not_swallow_the_next_word(cli: Cli) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r1")
    assert words("show", "--json", "") == ["r1"]
    assert words("show", "--node", "x", "r") == ["r1"]
    assert words("show", "r1", "") == [], "it takes one run only"
    assert words("answer", "r1", "o") == ["one"]
    assert words("show", "--", "r") == ["r1"]
    assert words("pause", "r1", "--branch=d") == ["--branch=double"]


def test_nested_runs_are_offered_behind_a_slash(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r1")
    with sqlite3.connect(folder / "dagger_dsl.db") as connection:
        connection.execute("UPDATE flow_runs SET run_id = 'r1/inner', parent_run_id = 'r1'")
    connection.close()
    assert words("show", "r") == []
    assert words("show", "r1/") == ["r1/inner"]


def test_ids_that_nobody_can_type_are_not_offered(cli: Cli) -> None:
    for run_id in ("ok", "bell\x07", "es\x1b[31mc", "new\nline", ":words", "a\u202eb"):
        assert cli("run", "pipeline.py:good", "--run-id", run_id).code == 0
    assert words("show", "") == ["ok"]


def test_a_database_that_cannot_be_read_has_no_ids(cli: Cli, folder: Path) -> None:
    assert words("show", "") == []
    assert not (folder / "dagger_dsl.db").exists(), "looking makes none"
    (folder / "bad.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    assert words("show", "--db", "bad.db", "") == []
    assert words("show", "--db", "postgresql://localhost/x", "") == []
    assert words("show", "--db", "sqlite::memory:", "") == []
    assert words("show", "--db", str(folder), "") == []
    assert words("show", "--db", "\0", "") == []


def test_a_locked_database_does_not_hold_the_shell_up(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r1")
    locker = sqlite3.connect(folder / "dagger_dsl.db", isolation_level=None)
    locker.execute("PRAGMA locking_mode=EXCLUSIVE")
    locker.execute("BEGIN IMMEDIATE")
    locker.execute("CREATE TABLE x (a)")
    try:
        assert words("show", "") == []
    finally:
        locker.rollback()
        locker.close()
    assert words("show", "") == ["r1"]


def test_anything_may_stand_on_the_line(cli: Cli) -> None:
    for line in (
        "",
        "dagger-dsl",
        "dagger-dsl 'unclosed",
        "dagger-dsl \\",
        'dagger-dsl show "',
        "x y",
    ):
        assert cli("__complete", "bash", line, " :=").code == 0
    for given in ([], ["bash"], ["zsh"], ["bash", "a", "b", "c"], ["fish", "\udcff", ""]):
        done = cli("__complete", *given)
        assert done.code == 0
        assert done.out.endswith((":words\n", ":files\n"))


def test_a_candidate_in_quotes_needs_none(cli: Cli) -> None:
    cli("run", "pipeline.py:good", "--run-id", "my run")
    cli("run", "pipeline.py:good", "--run-id", "mine")
    assert cli("__complete", "bash", "dagger-dsl show 'm", " :=").out == "mine\n:words\n"
    assert cli("__complete", "bash", "dagger-dsl show m", " :=").out == "mine\n'my run'\n:words\n"


def test_it_loads_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys\n"
        "from dagger_dsl.cli import main\n"
        "main(['__complete', 'zsh', 'show', ''])\n"
        "heavy = ('sqlalchemy', 'rich', 'cattrs', 'asyncio', 'tenacity', 'ruamel')\n"
        "print([each for each in heavy if each in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1] == "[]"
