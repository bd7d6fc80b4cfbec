"""``run`` and ``resume``: what they find, what they print, and the exit code they end with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import ACTIONS_PY, Cli, finish, spawn


def calls(folder: Path) -> list[str]:
    """Return what the actions of pipeline.py noted."""
    path = folder / "calls.txt"
    return path.read_text().split() if path.exists() else []


# --- what is run ---------------------------------------------------------------------------------


def test_a_dag_of_a_python_file_runs(cli: Cli, folder: Path) -> None:
    done = cli("run", "pipeline.py:good")
    assert done.code == 0
    assert "recorded in" in done.out
    assert str(folder / "dagger_dsl.db") in done.out, "the database is named"
    assert "[2/2] double: completed" in done.out
    assert "double = 2" in done.out
    assert done.err == ""
    assert calls(folder) == ["one", "double"]


def test_yaml_runs_with_actions_of_a_file_a_module_or_beside_it(cli: Cli, folder: Path) -> None:
    given = ("--input", "num1=10.0", "--input", "num2=20")
    for actions in ("adding.py", "adding", str(folder / "adding.py")):
        done = cli("run", "sum.yaml", "--actions", actions, *given)
        assert done.code == 0, done.err
        assert "add = 30.0" in done.out
    (folder / "actions.py").write_text(ACTIONS_PY)
    done = cli("run", "sum.yaml", *given)
    assert done.code == 0
    assert "actions: actions.py" in done.out, "what was imported unasked is said"


def test_a_missing_action_is_told_with_the_line_that_names_it(cli: Cli) -> None:
    done = cli("run", "sum.yaml", "-i", "num1=1", "-i", "num2=2")
    assert done.code == 2
    assert "add_numbers" in done.err
    assert "dagger-dsl run sum.yaml --actions MODULE_OR_FILE" in done.err


def test_nothing_is_imported_because_data_names_it(cli: Cli, folder: Path) -> None:
    (folder / "evil.py").write_text("from pathlib import Path\nPath('pwned').touch()\n")
    (folder / "evil.yaml").write_text(
        "name: evil\nnodes:\n  - id: a\n    action: evil\n  - id: b\n    action: evil.touch\n"
    )
    assert cli("run", "evil.yaml").code == 2
    assert cli("validate", "evil.yaml").code == 0
    assert cli("dot", "evil.yaml").code == 0
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.yaml", "missing.yaml: cannot be read"),
        ("missing.py", "there is no file missing.py"),
        ("pipeline.py:goood", "did you mean 'good'?"),
        ("pipeline.py:number", "has to be a DAG or a Graph, it is a int"),
        ("pipeline.py", "write one of: pipeline.py:good, pipeline.py:bad"),
        ("broken.py:dag", "ZeroDivisionError"),
        ("bad.yaml", "bad.yaml:2:"),
    ],
)
def test_a_workflow_that_cannot_be_loaded_is_explained(
    cli: Cli, folder: Path, file: str, message: str
) -> None:
    (folder / "broken.py").write_text("x = 1 / 0\n")
    (folder / "bad.yaml").write_text("name: x\nnodes: 3\n")
    done = cli("run", file)
    assert done.code == 2
    assert message in done.err
    assert "importlib" not in done.err
    assert not (folder / "dagger_dsl.db").exists()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ("nowhere", "there is no module 'nowhere'"),
        ("adding.pyy", "there is no module 'adding.pyy'"),
        ("sub/nowhere.py", "there is no file sub/nowhere.py"),
        ("needy.py", "No module named 'not_installed'"),
        ("needy", "No module named 'not_installed'"),
        ("leaving.py", "importing"),
    ],
)
def test_actions_that_cannot_be_imported_are_explained(
    cli: Cli, folder: Path, actions: str, message: str
) -> None:
    (folder / "needy.py").write_text("import not_installed\n")
    (folder / "leaving.py").write_text("raise SystemExit(0)\n")
    done = cli("run", "sum.yaml", "--actions", actions)
    assert done.code == 2
    assert message in done.err


def test_the_only_dag_of_a_file_needs_no_name(cli: Cli, folder: Path) -> None:
    text = (folder / "pipeline.py").read_text().split("good = ")[0]
    (folder / "single.py").write_text(text + 'dag = alias = DAG(one >> double, name="single")\n')
    assert cli("run", "single.py").code == 0


def test_a_file_called_like_a_module_of_python_is_still_itself(cli: Cli, folder: Path) -> None:
    (folder / "json.py").write_text(ACTIONS_PY)
    done = cli("run", "sum.yaml", "--actions", "json.py", "-i", "num1=1", "-i", "num2=2")
    assert done.code == 0, done.err
    assert json.dumps({}) == "{}"


# --- what it is given ----------------------------------------------------------------------------


def echo(folder: Path, cli: Cli, *given: str) -> Any:
    """Return what an action was given for its input `value`."""
    (folder / "echo.yaml").write_text(
        "name: echo\nnodes:\n  - id: e\n    action: echo\n"
        "    inputs: [{name: value, reference: inputs.value}]\n"
    )
    (folder / "echoing.py").write_text("def echo(value):\n    return value\n")
    done = cli("run", "echo.yaml", "--actions", "echoing.py", "--json", *given)
    assert done.code == 0, done.err
    return json.loads(done.out)["outputs"]["e"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("value=10", 10),
        ("value=10.5", 10.5),
        ("value=true", True),
        ("value=null", None),
        ("value=[1, 2]", [1, 2]),
        ('value={"a": "b"}', {"a": "b"}),
        ("value=plain text", "plain text"),
        ("value=data/weather.csv", "data/weather.csv"),
        ('value="10"', "10"),
        ("value=", ""),
        ("value=a=b", "a=b"),
        ("value=007", "007"),
        ("value=NaN", "NaN"),
        ("value=[1, NaN]", "[1, NaN]"),
        ('value="@file"', "@file"),
    ],
)
def test_an_input_is_json_or_else_text(cli: Cli, folder: Path, text: str, value: Any) -> None:
    assert echo(folder, cli, "--input", text) == value


def test_an_input_may_come_from_a_file(cli: Cli, folder: Path) -> None:
    (folder / "value.json").write_text('{"rows": [1, 2]}')
    assert echo(folder, cli, "--input", "value=@value.json") == {"rows": [1, 2]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-i", "num1"], "written NAME=VALUE"),
        (["-i", "=1"], "written NAME=VALUE"),
        (["-i", "num1=1", "-i", "num1=2"], "'num1' is given twice"),
        (["-i", "num1=@missing.json"], "missing.json cannot be read"),
        (["-i", "num1=@sum.yaml"], "sum.yaml is not JSON"),
        (["-i", "num1=1"], "'num2'"),
        (["-i", "num1=1", "-i", "num2=2", "-i", "nun=3"], "has no input 'nun'"),
        (["-i", "num1=one", "-i", "num2=2"], "num1 must be float"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_runs(
    cli: Cli, folder: Path, given: list[str], message: str
) -> None:
    done = cli("run", "sum.yaml", "--actions", "adding.py", *given)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    "wrong",
    [
        ["run"],
        ["run", "sum.yaml", "--workers", "0"],
        ["run", "sum.yaml", "--workers", "four"],
        ["run", "sum.yaml", "--timeout", "-1"],
        ["run", "sum.yaml", "--timeout", "nan"],
        ["run", "sum.yaml", "--runner", "treads"],
        ["run", "sum.yaml", "--act", "adding.py"],
        ["runn", "sum.yaml"],
        ["db"],
        ["db", "sweep"],
    ],
)
def test_wrong_arguments_are_a_usage_error(cli: Cli, wrong: list[str]) -> None:
    done = cli(*wrong)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "--help shows how it is called" in done.err


def test_a_database_url_that_makes_no_sense_is_refused(cli: Cli) -> None:
    done = cli("run", "pipeline.py:good", "--db", "sqlite:x.db?mode=turbo")
    assert done.code == 2
    assert "mode" in done.err


@pytest.mark.row("D14")
def test_the_environment_sets_defaults(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGGER_DSL_MAX_ATTEMPTS", "3")
    monkeypatch.setenv("DAGGER_DSL_RETRY_STRATEGY", "immediate")
    assert cli("run", "pipeline.py:bad").code == 1
    assert calls(folder) == ["one", "fickle", "fickle", "fickle"]


# --- how it ends ---------------------------------------------------------------------------------


def run_id_of(out: str) -> str:
    """Return the id of the run that a command announced."""
    return next(line.split()[1] for line in out.splitlines() if line.startswith("run "))


def test_a_failed_run_shows_the_users_traceback_and_the_way_on(cli: Cli, folder: Path) -> None:
    done = cli("run", "pipeline.py:bad")
    assert done.code == 1
    assert "[2/2] fickle: failed" in done.out
    assert 'raise ValueError("not yet")' in done.err
    assert "dagger_dsl" not in done.err.split("Traceback")[1], "the user's own frames only"
    line = f"dagger-dsl resume {run_id_of(done.out)} --actions pipeline.py"
    assert line in done.out
    (folder / "works").touch()
    again = cli(*line.split()[1:])
    assert again.code == 0, again.err
    assert "goes on in" in again.out
    assert "fickle = 2" in again.out
    assert calls(folder) == ["one", "fickle", "fickle"], "what completed is not called again"
    once_more = cli(*line.split()[1:])
    assert once_more.code == 0
    assert "nothing is left to do" in once_more.out
    assert len(calls(folder)) == 3


def test_a_paused_run_exits_3(cli: Cli, folder: Path) -> None:
    done = cli("run", "pipeline.py:paused")
    assert done.code == 3
    assert "dagger-dsl resume" in done.out
    (folder / "works").touch()
    assert cli("resume", run_id_of(done.out), "--actions", "pipeline.py").code == 0


def test_a_run_past_its_limit_exits_124(cli: Cli) -> None:
    done = cli("run", "pipeline.py:long", "--timeout", "0.3")
    assert done.code == 124
    assert " timed out after " in done.out


def test_resume_without_actions_prints_the_line_that_resumes(cli: Cli, folder: Path) -> None:
    done = cli("run", "pipeline.py:bad", "--db", "sqlite:my runs.db", "--run-id", "run_001")
    assert "dagger-dsl resume run_001 --actions pipeline.py --db 'sqlite:my runs.db'" in done.out
    lost = cli("resume", "run_001", "--db", "sqlite:my runs.db")
    assert lost.code == 2
    assert "dagger-dsl resume run_001 --actions MODULE_OR_FILE --db 'sqlite:my runs.db'" in lost.err
    wrong = cli("resume", "run_001", "--db", "sqlite:my runs.db", "--actions", "adding.py")
    assert wrong.code == 2
    assert "--actions adding.py" in wrong.err
    assert calls(folder) == ["one", "fickle"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume", "nobody"], "no run 'nobody'"),
        (["resume", "nobody", "--db", "sqlite:elsewhere.db"], "there is no database at"),
        (["run", "pipeline.py:good", "--run-id", "taken"], "'taken' already"),
    ],
)
def test_runs_that_cannot_be_made_or_found_are_misuse(
    cli: Cli, folder: Path, arguments: list[str], message: str
) -> None:
    cli("run", "pipeline.py:good", "--run-id", "taken")
    done = cli(*arguments)
    assert done.code == 2
    assert message in done.err
    assert not (folder / "elsewhere.db").exists(), "looking for a run makes no database"


def test_one_idempotency_key_is_one_run(cli: Cli, folder: Path) -> None:
    first = cli("run", "pipeline.py:good", "--idempotency-key", "monday")
    second = cli("run", "pipeline.py:good", "--idempotency-key", "monday")
    assert (first.code, second.code) == (0, 0)
    assert run_id_of(first.out) == run_id_of(second.out)
    assert calls(folder) == ["one", "double"]


def test_trouble_with_the_database_exits_4(cli: Cli, folder: Path) -> None:
    (folder / "text.db").write_text("this is not a database, but it is long enough to be looked at")
    done = cli("run", "pipeline.py:good", "--db", "sqlite:text.db")
    assert done.code == 4
    assert "text.db" in done.err
    assert calls(folder) == []


@pytest.mark.row("R10")
def test_a_dry_run_prints_the_plan_and_makes_nothing(cli: Cli, folder: Path) -> None:
    done = cli("run", "pipeline.py:good", "--dry-run")
    assert done.code == 0
    assert "1. one" in done.out
    assert calls(folder) == []
    assert not (folder / "dagger_dsl.db").exists()
    as_json = cli("run", "pipeline.py:good", "--dry-run", "--json")
    assert json.loads(as_json.out)["counts"]["pending"] == 2
    assert "1. one" in as_json.err


@pytest.mark.parametrize("runner", ["threads", "sequential", "asyncio"])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_every_runner_and_level_records_the_run(
    cli: Cli, folder: Path, runner: str, durability: str
) -> None:
    done = cli(
        *("run", "pipeline.py:good", "--runner", runner, "--durability", durability),
        *("--workers", "2", "--run-id", "r"),
    )
    assert done.code == 0
    assert "double = 2" in cli("show", "r").out


# --- for machines --------------------------------------------------------------------------------


def test_json_is_all_there_is_on_standard_output(cli: Cli, folder: Path) -> None:
    done = cli("run", "pipeline.py:good", "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["status"] == "completed"
    assert report["success"] is True
    assert report["outputs"] == {"double": 2}
    assert report["counts"] == {
        "completed": 2,
        "failed": 0,
        "skipped": 0,
        "cancelled": 0,
        "pending": 0,
    }
    assert [node["id"] for node in report["nodes"]] == ["one", "double"]
    assert report["nodes"][0]["attempts"] == 1
    assert "recorded in" in done.err


def test_json_tells_failures_and_errors_too(cli: Cli, folder: Path) -> None:
    failed = json.loads(cli("run", "pipeline.py:bad", "--json").out)
    assert failed["status"] == "failed"
    assert failed["error"] == {"type": "ValueError", "message": "not yet"}
    (folder / "bad.yaml").write_text("name: x\nnodes: 3\n")
    done = cli("run", "bad.yaml", "--json")
    error = json.loads(done.out)
    assert done.code == error["exit_code"] == 2
    assert error["error"]["type"] == "YamlError"
    assert error["error"]["problems"][0]["line"] == 2


def test_quiet_prints_errors_only(cli: Cli) -> None:
    assert cli("run", "pipeline.py:good", "--quiet").out == ""
    done = cli("run", "pipeline.py:bad", "-q")
    assert done.out == ""
    assert "ValueError: not yet" in done.err


# --- hooks ----------------------------------------------------------------------------------------

GROWING_PY = """\
import os
from pathlib import Path

from dagger_dsl import DAG, AddNode, NodeSpec, action, hook
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.registry import Registry

HERE = Path(__file__).parent
more = Registry()


def note(text: str) -> None:
    with (HERE / "calls.txt").open("a") as file:
        file.write(text + "\\n")


@action
def one() -> int:
    return 1


@action
def deadly(x: int) -> int:
    if not (HERE / "works").exists():
        os._exit(9)
    return x


@action
def extra() -> int:
    note("extra")
    return 7


@hook(on=NodeCompleted)
def grow(ctx, event):
    note("grow")
    return AddNode(NodeSpec("extra", id=f"after_{event.node.node_id}")) if (
        event.node.node_id in ("one", "deadly")
    ) else None


@hook(on=NodeCompleted, registry=more)
def further(ctx, event):
    note("further")


dag = DAG(one >> deadly, name="growing")


@hook(on=NodeCompleted, registry=dag.registry)
def own(ctx, event):
    note("own")


other = DAG(one, name="other")


@hook(on=NodeCompleted, registry=other.registry)
def strange(ctx, event):
    note("strange")


@hook(on=NodeCompleted, order=-1)
def first(ctx, event):
    note("first")
"""


@pytest.mark.parametrize("more", [(), ("--actions", "growing.py")], ids=["file", "actions"])
def test_the_hooks_of_a_file_are_those_of_its_run_and_of_a_resume(
    cli: Cli, folder: Path, more: tuple[str, ...]
) -> None:
    (folder / "growing.py").write_text(GROWING_PY)
    (folder / "works").touch()
    done = cli("run", "growing.py:dag", *more, "--run-id", "r", "--runner", "sequential")
    assert done.code == 0, done.err
    shown = [word for word in calls(folder) if word != "extra"]
    assert shown == ["first", "grow", "further", "own"] * 4, "each of two nodes added one"
    assert "after_one" in done.out
    assert "after_deadly" in done.out


@pytest.mark.slow  # it starts a process
def test_a_run_that_was_killed_grows_alike_when_it_is_resumed(cli: Cli, folder: Path) -> None:
    (folder / "growing.py").write_text(GROWING_PY)
    dead = finish(spawn(folder, "run", "growing.py:dag", "--run-id", "r"))
    assert dead.code == 9
    (folder / "works").touch()
    (folder / "calls.txt").unlink(missing_ok=True)
    done = cli("resume", "r", "--actions", "growing.py")
    assert done.code == 0, done.err
    assert "after_deadly" in done.out
    shown = [word for word in calls(folder) if word != "extra"]
    assert shown[-4:] == ["first", "grow", "further", "own"]
    assert "strange" not in shown, "the hooks of another DAG are for its own runs"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_run_goes_on_when_nobody_reads_what_is_said_of_it(
    options: list[str], folder: Path
) -> None:
    process = spawn(folder, "run", "pipeline.py:good", "--run-id", "r", *options)
    assert process.stdout is not None
    process.stdout.close()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert "Traceback" not in said
    shown = finish(spawn(folder, "show", "r", "--json"))
    assert json.loads(shown.out)["status"] == "completed"
