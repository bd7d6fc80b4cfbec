"""``validate``, ``dot``, ``runs``, ``show``, ``db``, ``doctor``: they look and change nothing."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.cli.conftest import ACTIONS_PY, Cli
from tests.views.dot_grammar import parse

# --- help ----------------------------------------------------------------------------------------


def test_help_documents_commands_and_exit_codes(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for word in ("run", "resume", "validate", "dot", "runs", "show", "db", "doctor"):
        assert re.search(rf"^    {word}\b", done.out, re.MULTILINE), word
    for code in ("0", "1", "2", "3", "4", "124", "130, 143"):
        assert re.search(rf"^  {code}\s", done.out, re.MULTILINE), code
    assert "NO_COLOR" in done.out


@pytest.mark.parametrize("command", ["run", "resume", "validate", "dot", "runs", "show", "doctor"])
def test_every_command_has_help(cli: Cli, command: str) -> None:
    done = cli(command, "--help")
    assert done.code == 0
    assert f"usage: dagger-dsl {command}" in done.out


@pytest.mark.parametrize("action", ["stats", "prune", "backup", "vacuum"])
def test_every_database_command_has_help(cli: Cli, action: str) -> None:
    assert cli("db", action, "--help").code == 0


def test_the_default_database_is_named_in_the_help(cli: Cli) -> None:
    assert "(default: sqlite:dagger_dsl.db)" in " ".join(cli("run", "--help").out.split())


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out.startswith("dagger-dsl ")


# --- validate ------------------------------------------------------------------------------------


@pytest.mark.row("A38")
def test_a_valid_workflow_is_described(cli: Cli) -> None:
    done = cli("validate", "sum.yaml", "--actions", "adding.py")
    assert done.code == 0
    assert "sum.yaml: sum is valid: 1 node, 0 edges, 1 step, at most 1 at the same time" in done.out
    done = cli("validate", "pipeline.py:paused", "--json")
    answer = json.loads(done.out)
    assert answer["valid"] is True
    assert answer["nodes"] == 3
    assert answer["actions_checked"] is True


def test_without_actions_the_structure_is_checked(cli: Cli, folder: Path) -> None:
    done = cli("validate", "sum.yaml")
    assert done.code == 0
    assert "the actions were not checked" in done.out
    (folder / "actions.py").write_text(ACTIONS_PY.replace("add_numbers", "subtract"))
    done = cli("validate", "sum.yaml")
    assert done.code == 2
    assert "add_numbers" in done.err


BROKEN = """\
name: broken
nodes:
  - id: a
    action: f
    timeout: -1
  - id: b
    action: f
    dependencies: [nowhere]
"""


def test_everything_that_is_wrong_is_said_with_its_line(cli: Cli, folder: Path) -> None:
    (folder / "broken.yaml").write_text(BROKEN)
    done = cli("validate", "broken.yaml")
    assert done.code == 2
    assert "broken.yaml:5:" in done.err
    assert "broken.yaml:8:" in done.err
    as_json = cli("validate", "broken.yaml", "--json")
    problems = json.loads(as_json.out)["error"]["problems"]
    assert [problem["line"] for problem in problems] == [5, 8]
    assert all(problem["file"] == "broken.yaml" for problem in problems)


def test_unknown_keys_are_errors_when_strict(cli: Cli, folder: Path) -> None:
    (folder / "extra.yaml").write_text("name: x\ncolour: red\nnodes:\n  - id: a\n    action: f\n")
    assert cli("validate", "extra.yaml").code == 0
    done = cli("validate", "extra.yaml", "--strict")
    assert done.code == 2
    assert "extra.yaml:2:" in done.err


# --- dot -----------------------------------------------------------------------------------------


@pytest.mark.row("N1", "N5")
def test_dot_prints_a_workflow_or_a_run(cli: Cli, folder: Path) -> None:
    drawn = parse(cli("dot", "pipeline.py:bad").out)
    assert [edge[:2] for edge in drawn.edges] == [("one", "fickle")]
    cli("run", "pipeline.py:bad", "--run-id", "r1")
    run = parse(cli("dot", "r1").out)
    assert run.nodes["fickle"]["fillcolor"] == "lightcoral"
    assert "ValueError: not yet" in run.nodes["fickle"]["label"]
    assert cli("dot", "r2").code == 2


@pytest.mark.row("N5")
def test_dot_writes_a_file(cli: Cli, folder: Path) -> None:
    assert cli("dot", "pipeline.py:bad", "-o", "bad.dot").out == "written: bad.dot\n"
    assert len(parse((folder / "bad.dot").read_text()).nodes) == 2
    done = cli("dot", "pipeline.py:bad", "-o", "nowhere/bad.dot")
    assert done.code == 2
    assert "cannot be written" in done.err
    assert "name a file in a folder that is there" in done.err
    assert cli("dot", "pipeline.py:bad", "-o", "bad").code == 0
    assert (folder / "bad").read_text() == (folder / "bad.dot").read_text()


@pytest.mark.row("N5")
def test_an_ending_that_nothing_writes_is_refused_with_those_that_there_are(
    cli: Cli, folder: Path
) -> None:
    done = cli("dot", "pipeline.py:bad", "-o", "bad.bmpp")
    assert done.code == 2
    assert "'bad.bmpp' ends in .bmpp" in done.err
    assert ".svg, .png, .pdf" in done.err
    assert not (folder / "bad.bmpp").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_what_the_system_says_is_said_where_the_folder_is_not_to_blame(
    cli: Cli, folder: Path
) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r")
    done = cli("show", "r", "--html", "/dev/full")
    assert done.code == 2
    assert "No space left on device" in done.err
    assert "folder" not in done.err


@pytest.mark.row("N5")
def test_dot_draws_when_graphviz_is_there(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("dot"):
        assert cli("dot", "pipeline.py:bad", "-o", "bad.svg").code == 0
        assert (folder / "bad.svg").read_text().startswith("<?xml")
    monkeypatch.setenv("PATH", str(folder))
    done = cli("dot", "pipeline.py:bad", "-o", "other.svg")
    assert done.code == 2
    assert "install it" in done.err


# --- runs and show -------------------------------------------------------------------------------


def test_runs_are_listed_newest_first(cli: Cli) -> None:
    cli("run", "pipeline.py:good", "--run-id", "first")
    cli("run", "pipeline.py:bad", "--run-id", "second")
    lines = cli("runs").out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["second", "bad", "failed"],
        ["first", "good", "completed"],
    ]
    listed = json.loads(cli("runs", "--json").out)
    assert [run["run_id"] for run in listed] == ["second", "first"]
    assert [run["run_id"] for run in json.loads(cli("runs", "--dag", "good", "--json").out)] == [
        "first"
    ]
    assert "first" not in cli("runs", "--status", "failed").out
    assert len(json.loads(cli("runs", "--limit", "1", "--json").out)) == 1
    assert cli("runs", "--dag", "nothing").out == "no runs\n"


def test_without_a_database_looking_makes_none(cli: Cli, folder: Path) -> None:
    for command in (["runs"], ["show", "r"], ["db", "stats"], ["dot", "r"]):
        done = cli(*command)
        assert done.code == 2
        assert "there is no database at" in done.err
    assert not (folder / "dagger_dsl.db").exists()


def test_a_run_is_shown_without_its_code(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:bad", "--run-id", "r1")
    (folder / "pipeline.py").unlink()
    done = cli("show", "r1")
    assert done.code == 0
    rows = {line.split()[0]: line.split()[1:3] for line in done.out.splitlines()[1:3]}
    assert rows == {"one": ["completed", "1"], "fickle": ["failed", "1"]}
    assert 'raise ValueError("not yet")' in done.err
    report = json.loads(cli("show", "r1", "--json").out)
    assert report["status"] == "failed"
    assert report["nodes"][1]["error"]["message"] == "not yet"


def test_one_node_of_a_run_is_shown_with_its_value(cli: Cli) -> None:
    cli("run", "pipeline.py:bad", "--run-id", "r1")
    done = cli("show", "r1", "--node", "one")
    assert re.fullmatch(
        r"one: completed, 1 attempt, [\d.]+ [mµ]s\nstarted: [\d-]+ [\d:.]+ UTC\nvalue: 1\n",
        done.out,
    )
    failed = cli("show", "r1", "--node", "fickle").out
    assert "fickle: failed, 1 attempt" in failed
    assert "ValueError: not yet" in failed
    assert json.loads(cli("show", "r1", "--node", "one", "--json").out)["value"] == 1
    missing = cli("show", "r1", "--node", "onne")
    assert missing.code == 2
    assert "did you mean 'one'" in missing.err


def test_a_value_whose_type_is_not_known_here_does_not_hide_the_rest(
    cli: Cli, folder: Path
) -> None:
    (folder / "typed.py").write_text(
        "import attrs\n"
        "from dagger_dsl import DAG, action\n"
        "@attrs.frozen\n"
        "class Point:\n"
        "    x: int\n"
        "@action\n"
        "def point() -> Point:\n"
        "    return Point(3)\n"
        "dag = DAG(point >> point, name='p') if False else DAG('p')\n"
        "with dag:\n"
        "    point()\n"
    )
    assert cli("run", "typed.py", "--run-id", "r1").code == 0
    with sqlite3.connect(folder / "dagger_dsl.db") as connection:
        connection.execute("UPDATE node_runs SET output = replace(output, 'Point', 'Unknown')")
    connection.close()
    done = cli("show", "r1")
    assert done.code == 0
    assert "point  completed" in done.out
    assert "Unknown" in cli("show", "r1", "--node", "point").out
    assert "$fault" in json.loads(cli("show", "r1", "--json").out)["outputs"]["point"]


# --- the database --------------------------------------------------------------------------------


def test_statistics_are_printed(cli: Cli) -> None:
    cli("run", "pipeline.py:good")
    done = cli("db", "stats")
    assert "flow_runs: 1 row" in done.out
    assert json.loads(cli("db", "stats", "--json").out)["rows"]["node_runs"] >= 2


@pytest.mark.row("C40")
def test_old_runs_are_pruned(cli: Cli) -> None:
    for name in ("r1", "r2", "r3"):
        cli("run", "pipeline.py:good", "--run-id", name)
    cli("run", "pipeline.py:paused", "--run-id", "unfinished")
    assert cli("db", "prune").code == 2, "without a limit nothing is guessed"
    assert "would remove 2 runs" in cli("db", "prune", "--keep-last", "1", "--dry-run").out
    assert "removed 2 runs" in cli("db", "prune", "--keep-last", "1").out
    left = {run["run_id"] for run in json.loads(cli("runs", "--json").out)}
    assert left == {"r3", "unfinished"}
    assert "removed 0 runs" in cli("db", "prune", "--older-than", "1").out


@pytest.mark.row("C42")
def test_a_backup_is_a_database_of_its_own(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r1")
    assert cli("db", "backup", "copy.db").out == f"written: {folder / 'copy.db'}\n"
    assert cli("show", "r1", "--db", "sqlite:copy.db").code == 0
    assert cli("db", "backup", "copy.db").code == 2, "nothing is overwritten"


@pytest.mark.row("C43")
def test_vacuum_gives_space_back(cli: Cli) -> None:
    cli("run", "pipeline.py:good")
    assert "bytes back to the disk" in cli("db", "vacuum").out
    assert json.loads(cli("db", "vacuum", "--json").out) == {"freed_bytes": 0}


def test_the_doctor_names_what_is_installed(cli: Cli, folder: Path) -> None:
    facts = json.loads(cli("doctor", "--json").out)
    assert sqlite3.sqlite_version in facts["sqlite"]
    assert facts["database"].endswith("not there yet")
    assert facts["troubles"] == []
    assert {"python", "SQLAlchemy", "rich", "graphviz", "extras"} <= set(facts)
    if sqlite3.sqlite_version_info < (3, 51, 3):
        assert "WAL-reset bug" in facts["sqlite"]
    cli("run", "pipeline.py:good")
    assert "1 runs" in cli("doctor").out
    assert not (folder / "elsewhere.db").exists()


def test_the_doctor_finds_a_damaged_database(cli: Cli, folder: Path) -> None:
    (folder / "dagger_dsl.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    done = cli("doctor")
    assert done.code == 1
    assert "trouble:" in done.err
