"""Whatever goes wrong ends in a line that says the way out, in the words of the command line."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Cli

NAMES_YAML = """\
name: names
nodes:
  - id: greet
    action: greet
    timeuot: 5
    inputs:
      - name: name
        reference: inputs.name
"""

GREETING_PY = """\
from dagger_dsl import DAG, action


def greet(name: str) -> str:
    if name == "nobody":
        raise ValueError("nobody is there")
    return f"hello {name}"


@action
def large() -> str:
    return "x" * 400_000


def make() -> DAG:
    with DAG("large") as dag:
        large()
    return dag
"""


@pytest.fixture
def names(folder: Path) -> Path:
    """A workflow with an input that is a text."""
    (folder / "names.yaml").write_text(NAMES_YAML)
    (folder / "actions.py").write_text(GREETING_PY)
    (folder / "large.py").write_text(GREETING_PY + "\n\ndag = make()\n")
    return folder


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "\udcff"],
        ["run", "pipeline.py:good", "--run-id", "\udcff"],
        ["run", "pipeline.py:good", "--idempotency-key", "\ud800"],
        ["runs", "--dag", "\udcff"],
    ],
)
def test_an_argument_that_is_no_text_is_a_usage_error(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert "is text in UTF-8" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["db", "prune", "--older-than", "1e300"], "at most 365000 days"),
        (["run", "pipeline.py:good", "--workers", "999999999"], "at most 10000"),
        (["run", "sum.yaml", "--actions", ""], "'' is no module's name"),
        (["run", "sum.yaml", "--actions", "..up"], "'..up' is no module's name"),
    ],
)
def test_numbers_and_names_that_cannot_be_meant_are_refused(
    cli: Cli, arguments: list[str], message: str
) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_the_longest_age_prunes_nothing(cli: Cli) -> None:
    cli("run", "pipeline.py:good")
    assert "removed 0 runs" in cli("db", "prune", "--older-than", "365000").out


def test_a_file_without_a_workflow_is_told_so(cli: Cli) -> None:
    done = cli("run", "adding.py")
    assert done.code == 2
    assert "adding.py has no DAG and no Graph" in done.err
    assert "--actions adding.py" in done.err


# --- inputs --------------------------------------------------------------------------------------


def test_a_missing_input_is_told_as_an_option(cli: Cli, names: Path) -> None:
    for more in ([], ["--dry-run"]):
        done = cli("run", "names.yaml", *more)
        assert done.code == 2
        assert "needs a value for 'name'; add --input name=VALUE" in done.err
    done = cli("run", "sum.yaml", "--actions", "adding.py")
    assert "add --input num1=VALUE --input num2=VALUE" in done.err


def test_a_text_that_was_read_as_json_is_told_with_its_quotes(cli: Cli, names: Path) -> None:
    done = cli("run", "names.yaml", "-i", "name=5")
    assert done.code == 2
    assert "write a text as -i name='\"5\"'" in done.err
    line = shlex.split("run names.yaml " + done.err.rpartition("write a text as ")[2])
    assert "greet = 'hello 5'" in cli(*line).out


def test_no_quotes_are_proposed_where_a_text_fits_no_better(cli: Cli) -> None:
    done = cli("run", "sum.yaml", "--actions", "adding.py", "-i", "num1=[]", "-i", "num2=1")
    assert done.code == 2
    assert "write a text" not in done.err


def test_resume_takes_no_input_that_was_recorded(cli: Cli, names: Path) -> None:
    assert cli("run", "names.yaml", "-i", "name=nobody", "--run-id", "r1").code == 1
    done = cli("resume", "r1", "--actions", "actions.py", "-i", "name=anna")
    assert done.code == 2
    assert "name was recorded with the run; only secrets can be given again" in done.err
    unknown = cli("resume", "r1", "--actions", "actions.py", "-i", "nmae=anna")
    assert unknown.code == 2
    assert "has no input 'nmae'; did you mean 'name'?" in unknown.err
    assert json.loads(cli("show", "r1", "--json").out)["nodes"][0]["attempts"] == 1, "not called"
    cli("run", "names.yaml", "-i", "name=anna", "--run-id", "r2")
    assert cli("resume", "r2", "-i", "name=eve").code == 2, "also where nothing is left to do"


def test_validate_lists_warnings_and_inputs(cli: Cli, names: Path) -> None:
    done = cli("validate", "names.yaml", "--json")
    assert done.code == 0
    answer = json.loads(done.out)
    assert answer["inputs"] == ["name"]
    assert [(each["severity"], each["line"]) for each in answer["warnings"]] == [("warning", 5)]
    assert "did you mean 'timeout'?" in answer["warnings"][0]["message"]
    for line in (["validate", "names.yaml"], ["dot", "names.yaml"], ["run", "names.yaml"]):
        assert cli(*line).err.count("timeuot") == 1


# --- runs ----------------------------------------------------------------------------------------


def test_an_unknown_run_is_told_with_the_command_that_lists_them(cli: Cli) -> None:
    cli("run", "pipeline.py:good", "--db", "sqlite:my.db")
    for command in ("show", "resume", "dot"):
        done = cli(command, "nobody", "--db", "sqlite:my.db")
        assert done.code == 2
        assert done.err.endswith("dagger-dsl runs --db sqlite:my.db\n")
        assert "list_runs" not in done.err


def test_a_quiet_run_says_why_it_did_not_complete(cli: Cli) -> None:
    done = cli("run", "pipeline.py:long", "--timeout", "0.3", "--quiet", "--run-id", "r1")
    assert (done.code, done.out) == (124, "")
    assert done.err.startswith("long: run r1 timed_out: ")
    assert cli("run", "pipeline.py:good", "--quiet")[1:] == ("", "")


# --- databases -----------------------------------------------------------------------------------

#: A database that is supported, by a driver that this version never installs.
NO_DRIVER = "postgresql+pg8000://localhost/x"


@pytest.mark.parametrize("url", ["mysql://x", "oracle://x", "mssql://x", NO_DRIVER])
@pytest.mark.parametrize("command", [["runs"], ["run", "pipeline.py:good"]])
def test_a_database_without_a_driver_is_misuse(cli: Cli, url: str, command: list[str]) -> None:
    done = cli(*command, "--db", url)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "command", [["runs"], ["show", "r"], ["db", "stats"], ["db", "vacuum"], ["resume", "r"]]
)
def test_an_empty_file_is_not_taken_for_a_database(
    cli: Cli, folder: Path, command: list[str]
) -> None:
    path = folder / "empty.db"
    path.touch()
    done = cli(*command, "--db", "sqlite:empty.db")
    assert done.code == 4
    assert "is an empty file, not a dagger_dsl database" in done.err
    assert path.stat().st_size == 0
    assert "empty file" in cli("doctor", "--db", "sqlite:empty.db").err


def test_a_damaged_artifact_is_an_error_and_not_a_value(cli: Cli, names: Path) -> None:
    assert cli("run", "large.py", "--run-id", "r1").code == 0
    assert "1 artifacts read" in cli("doctor", "--artifacts").out
    (artifact,) = (names / "dagger_dsl.db-artifacts").glob("??/*")
    artifact.write_bytes(b"y" + artifact.read_bytes()[1:])
    for command in (["show", "r1", "--node", "large"], ["show", "r1"]):
        done = cli(*command)
        assert done.code == 4
        assert "large" in done.out
        assert "is not what was written" not in done.out
        assert "is not what was written" in done.err
        assert cli(*command, "--json").code == 4
    assert cli("doctor").code == 0, "artifacts are read on request only"
    done = cli("doctor", "--artifacts")
    assert done.code == 1
    assert "is not what was written" in done.err


# --- the rest ------------------------------------------------------------------------------------


def test_no_error_shows_a_traceback(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*_: object) -> None:
        raise LookupError("two\nlines")

    cli("run", "pipeline.py:good")
    monkeypatch.setattr("dagger_dsl.store.storage.Store.list_runs", burst)
    done = cli("runs")
    assert done.code == 70
    assert done.err == (
        "error: LookupError: two lines (a fault in dagger-dsl; DAGGER_DSL_DEBUG=1 shows where)\n"
    )
    monkeypatch.setenv("DAGGER_DSL_DEBUG", "1")
    assert "in burst" in cli("runs").err
    assert "70 " in cli("--help").out


def shell(folder: Path, rest: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a shell that sends its output elsewhere."""
    code = "import sys; from dagger_dsl.cli import main; sys.exit(main())"
    line = shlex.join([sys.executable, "-c", code, *arguments])
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} {rest}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_that_cannot_be_written_exits_4(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:good")
    for arguments in (["runs"], ["runs", "--json"], ["dot", "pipeline.py:good"]):
        done = shell(folder, "> /dev/full", *arguments)
        assert done.returncode == 4
        assert done.stderr.startswith("error: standard output cannot be written: ")
        assert done.stderr.count("\n") == 1
    assert shell(folder, "> /dev/full 2> /dev/full", "runs").returncode == 4


def test_a_reader_that_has_gone_is_no_error_to_talk_about(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:good")
    assert shell(folder, "| (exec <&-; sleep 1)", "runs").stderr == ""
    closed = shell(folder, ">&-", "runs")
    assert (closed.returncode, closed.stderr) == (0, "")


CHANGED = """\
from dagger_dsl import DAG, action

@action
def load() -> int:
    return 1

@action
def use(load: int) -> int:
    raise ValueError("no")

with DAG("changing") as dag:
    use(load())
"""


def test_a_resume_that_the_code_does_not_fit_any_more_is_an_error_of_its_own_words(
    cli: Cli, folder: Path
) -> None:
    (folder / "changing.py").write_text(CHANGED)
    assert cli("run", "changing.py", "--run-id", "r").code == 1
    (folder / "changed.py").write_text(
        CHANGED.replace("use(load: int)", "use(rows: int)").split("with DAG")[0]
    )
    done = cli("resume", "r", "--actions", "changed.py")
    assert done.code == 2
    first = done.err.splitlines()[0]
    assert first.startswith("error: node 'use': action 'use' takes no input 'load'")
