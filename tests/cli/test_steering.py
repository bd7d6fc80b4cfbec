"""``pause``, ``cancel``, ``answer``, ``approve``, ``reject``, ``recover``, across processes."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
import shlex
import time
from pathlib import Path

import pytest

from dagger_dsl.store.storage import Store
from tests.benchmarks.measure import within
from tests.cli.conftest import Cli, finish, spawn

pytestmark = pytest.mark.slow  # nearly each of them starts processes


def calls(folder: Path) -> list[str]:
    """Return what the actions of pipeline.py noted."""
    path = folder / "calls.txt"
    return path.read_text().split() if path.exists() else []


def wait_for(folder: Path, word: str) -> None:
    """Wait until an action noted *word*."""
    deadline = time.monotonic() + 30
    while word not in calls(folder):
        assert time.monotonic() < deadline, f"{word} was never called"
        time.sleep(0.005)


def status_of(folder: Path, run_id: str = "r") -> str:
    with Store(f"sqlite:{folder / 'dagger_dsl.db'}") as store:
        return store.load_run(run_id).status


def line_in(text: str, word: str) -> list[str]:
    """Return the arguments of the line that calls the command with *word*."""
    found = re.search(rf"^  dagger-dsl ({word} .*)$", text, re.MULTILINE)
    assert found is not None, text
    return shlex.split(found[1])


# --- people ---------------------------------------------------------------------------------------


@pytest.mark.row("E11")
def test_a_question_is_answered_and_the_run_resumed_by_three_processes(folder: Path) -> None:
    done = finish(spawn(folder, "run", "pipeline.py:asking", "--run-id", "r"))
    assert done.code == 3
    assert "node 'ask' asks: go on? (boolean)" in done.out
    answer = line_in(done.out, "answer")
    assert answer == ["answer", "r", "ask", "true"]
    said = finish(spawn(folder, *answer))
    assert said.code == 0, said.err
    assert "node 'ask' has its answer as soon as it is resumed" in said.out
    way_on = ["resume", "r", "--actions", "MODULE_OR_FILE"]
    assert line_in(said.out, "resume") == way_on, "which one, no row says"
    again = finish(spawn(folder, *line_in(done.out, "resume")))
    assert again.code == 0, again.err
    assert "told = 'yes'" in again.out
    assert calls(folder) == ["one", "ask", "told"]
    with Store(f"sqlite:{folder / 'dagger_dsl.db'}") as store:
        attempts = [(each.node_id, each.attempt) for each in store.load_run("r").attempts]
    assert sorted(attempts) == [("ask", 1), ("one", 1), ("told", 1)]


@pytest.mark.row("E11")
def test_a_run_that_waits_for_the_time_to_be_over_asks_and_can_be_answered(folder: Path) -> None:
    process = spawn(folder, "run", "pipeline.py:waiting", "--run-id", "r")
    assert process.stdout is not None
    lines: list[str] = []
    while "dagger-dsl answer" not in "".join(lines):
        lines.append(process.stdout.readline())
        assert process.poll() is None, lines
    assert "node 'patient' asks: go on? (boolean, default false, until " in lines[-2]
    assert finish(spawn(folder, *line_in(lines[-1], "answer"))).code == 0
    done = finish(process)
    assert done.code == 0, done.err
    assert "told = 'yes'" in done.out


@pytest.mark.row("E11")
def test_what_a_run_waits_for_is_shown(cli: Cli) -> None:
    cli("run", "pipeline.py:asking", "--run-id", "r")
    shown = cli("show", "r")
    assert shown.code == 0
    assert line_in(shown.out, "answer") == ["answer", "r", "ask", "true"]
    node = cli("show", "r", "--node", "ask")
    assert "ask: waiting, 1 attempt" in node.out
    assert "node 'ask' asks: go on?" in node.out
    plain = json.loads(cli("show", "r", "--json").out)
    assert plain["questions"] == [
        {
            "node": "ask",
            "key": "default",
            "prompt": "go on?",
            "schema": {"type": "boolean"},
            "default": None,
            "expires": None,
        }
    ]
    assert plain["paused_branches"] == {}
    cli("answer", "r", "ask", "false", "--by", "anna")
    assert "asks" not in cli("show", "r").out, "it has its answer"
    done = cli("resume", "r", "--actions", "pipeline.py", "--json")
    assert json.loads(done.out)["outputs"] == {"told": "no"}


def test_what_has_its_answer_is_shown_with_the_way_on(cli: Cli) -> None:
    cli("run", "pipeline.py:asking", "--run-id", "r")
    assert cli("answer", "r", "ask", "true").code == 0
    done = cli("show", "r")
    assert "has its answer: it goes on when the run is resumed" in done.out
    assert "dagger-dsl answer" not in done.out
    assert "go on with it by:\n  dagger-dsl resume r --actions MODULE_OR_FILE" in done.out
    why = cli("explain", "r", "told").out
    assert "it needs 'ask', which has its answer" in why


def test_json_says_what_a_paused_run_waits_for_and_what_became_of_a_command(cli: Cli) -> None:
    done = cli("run", "pipeline.py:asking", "--run-id", "r", "--json")
    assert done.code == 3
    assert [each["node"] for each in json.loads(done.out)["questions"]] == ["ask"]
    assert "dagger-dsl answer r ask true" in done.err
    said = cli("answer", "r", "ask", "true", "--json")
    assert json.loads(said.out) == {
        "run_id": "r",
        "command": "answer",
        "applied": False,
        "status": "paused",
    }
    refused = cli("answer", "r", "ask", "true", "--json")
    assert refused.code == 2
    assert json.loads(refused.out)["error"]["type"] == "InvalidState"
    assert "has its answer already" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("r", "ask", "perhaps"), "asks 'go on?'"),
        (("r", "ask", "5"), """a text is written as '"5"'"""),
        (("r", "aks", "true"), "did you mean 'ask'"),
        (("r", "one", "true"), "does not wait for a person; these do: 'ask'"),
        (("r", "ask", "true", "--key", "7"), "'ask' (key '7') of run r does not wait"),
        (("nobody", "ask", "true"), "dagger-dsl runs"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_in_one_line(
    cli: Cli, arguments: tuple[str, ...], message: str
) -> None:
    cli("run", "pipeline.py:asking", "--run-id", "r")
    done = cli("answer", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.startswith("error: ")


@pytest.mark.row("E13")
def test_an_approval_is_given_or_refused(cli: Cli, folder: Path) -> None:
    for run_id in ("yes", "no"):
        cli("run", "pipeline.py:asking", "--run-id", run_id)
    assert "'ask' is approved" in cli("approve", "yes", "ask", "--by", "anna").out
    assert "'ask' is rejected" in cli("reject", "no", "ask", "--reason", "Not approved").out
    assert cli("resume", "yes", "--actions", "pipeline.py").code == 0
    assert cli("resume", "no", "--actions", "pipeline.py").code == 0
    node = cli("show", "no", "--node", "told")
    assert "reason: Not approved (rejected)" in node.out
    assert calls(folder) == ["one", "ask", "one", "ask", "told"]


@pytest.mark.row("E13")
def test_only_the_first_of_several_processes_is_believed(folder: Path) -> None:
    assert finish(spawn(folder, "run", "pipeline.py:asking", "--run-id", "r")).code == 3
    orders = [("answer", "r", "ask", "true"), ("approve", "r", "ask"), ("reject", "r", "ask")] * 2
    said = [finish(each) for each in [spawn(folder, *order) for order in orders]]
    assert sorted(each.code for each in said) == [0, 2, 2, 2, 2, 2], said
    for each in said:
        if each.code:
            assert re.search("has its answer already|to be cancelled already", each.err), each.err


# --- runs that another process executes -----------------------------------------------------------


@pytest.mark.row("E5", "E6")
def test_a_cancel_from_another_process_is_seen_within_a_second(folder: Path) -> None:
    names = (f"r{n}" for n in itertools.count())

    def trial() -> float:
        name = next(names)
        (folder / "calls.txt").unlink(missing_ok=True)
        process = spawn(folder, "run", "pipeline.py:busy", "--run-id", name)
        wait_for(folder, "held")
        done = finish(spawn(folder, "cancel", name, "--reason", "enough"))
        assert done.code == 0, done.err
        assert f"run {name}: cancelled" in done.out
        ended = finish(process)
        assert ended.code == 1
        assert f"{name} cancelled" in ended.out
        with Store(f"sqlite:{folder / 'dagger_dsl.db'}") as store:
            stored = store.load_run(name)
            (sent,) = store.query("SELECT created_at FROM inbox ORDER BY created_at DESC LIMIT 1")
        assert (stored.status, stored.error) == ("cancelled", {"reason": "enough"})
        asked = dt.datetime.fromisoformat(str(sent["created_at"])).replace(tzinfo=dt.UTC)
        return (stored.updated_at - asked).total_seconds()

    # The grace time of a body that looks for nothing is 0.3 s.
    taken, allowed = within(trial, 1.3, turns=4)
    assert taken < allowed


@pytest.mark.row("B27", "B28", "E14", "E19")
def test_a_branch_is_paused_and_let_go_by_other_processes(folder: Path) -> None:
    process = spawn(folder, "run", "pipeline.py:busy", "--run-id", "r")
    wait_for(folder, "held")
    paused = finish(spawn(folder, "pause", "r", "--branch", "double", "--reason", "look first"))
    assert "run r: branch 'double' is paused" in paused.out
    assert "branch 'double' is paused: look first" in finish(spawn(folder, "show", "r")).out
    let_go = finish(spawn(folder, "resume", "r", "--branch", "double"))
    assert (let_go.code, let_go.err) == (0, "")
    assert "branch 'double' goes on" in let_go.out
    unknown = finish(spawn(folder, "pause", "r", "--branch", "dubble"))
    assert unknown.code == 2
    assert "did you mean 'double'" in unknown.err
    again = finish(spawn(folder, "pause", "r", "--json"))
    assert json.loads(again.out)["applied"] is True
    (folder / "works").touch()
    assert finish(process).code == 3
    assert calls(folder) == ["one", "held"]


@pytest.mark.row("E14")
def test_a_branch_stays_paused_until_it_is_let_go(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:asking", "--run-id", "r")
    assert "as soon as it is resumed" in cli("pause", "r", "--branch", "told").out
    cli("answer", "r", "ask", "true")
    done = cli("resume", "r", "--actions", "pipeline.py")
    assert done.code == 3
    assert "branch 'told' is paused: paused" in done.out
    assert line_in(done.out, "approve") == ["approve", "r", "told"]
    done = cli("resume", "r", "--branch", "told", "--actions", "pipeline.py")
    assert done.code == 0, done.err
    assert "told = 'yes'" in done.out
    assert calls(folder) == ["one", "ask", "told"]


# --- runs that nobody executes --------------------------------------------------------------------


def test_a_run_that_stands_still_is_cancelled_at_once(cli: Cli) -> None:
    cli("run", "pipeline.py:asking", "--run-id", "r")
    assert cli("pause", "r").code == 0, "it is paused"
    done = cli("cancel", "r", "--reason", "enough", "--json")
    assert json.loads(done.out) == {
        "run_id": "r",
        "command": "cancel",
        "applied": True,
        "status": "cancelled",
    }
    assert "asks" not in cli("show", "r").out
    late = cli("pause", "r")
    assert late.code == 2
    assert "has ended already: it is cancelled" in late.err
    cli("run", "pipeline.py:good", "--run-id", "done")
    assert "is completed" in cli("cancel", "done").err


def test_a_database_that_is_not_there_is_not_made(cli: Cli, folder: Path) -> None:
    for words in (("pause", "r"), ("answer", "r", "ask", "1"), ("recover", "--actions", "adding")):
        done = cli(*words, "--db", "sqlite:nothing.db")
        assert done.code == 2
        assert "there is no database" in done.err
    assert not (folder / "nothing.db").exists()


def test_an_owner_that_takes_no_turn_is_a_failure_of_one_line(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagger_dsl.engine.remote import RunControl

    cli("run", "pipeline.py:asking", "--run-id", "r")
    real = RunControl.send
    monkeypatch.setattr(
        RunControl, "send", lambda self, command, **_: real(self, command, timeout=0.05)
    )
    with Store(f"sqlite:{folder / 'dagger_dsl.db'}") as other:
        _, journal = other.claim_run("r")
        done = cli("pause", "r", "--branch", "told")
        journal.close()
    assert done.code == 1
    assert done.err.startswith("error: whoever executes run r has not applied the command in time")


# --- recovery -------------------------------------------------------------------------------------


@pytest.mark.row("E18")
def test_runs_whose_process_died_go_on_one_after_the_other(folder: Path) -> None:
    for run_id in ("r1", "r2"):
        assert finish(spawn(folder, "run", "pipeline.py:dead", "--run-id", run_id)).code == 9
    shown = finish(spawn(folder, "show", "r1")).out
    left = r"run r1 left by a process that died, after .*, last recorded at \d{4}-.* UTC$"
    assert re.search(left, shown, re.M), shown
    finish(spawn(folder, "run", "pipeline.py:asking", "--run-id", "asks"))
    (folder / "works").touch()
    (folder / "calls.txt").unlink()
    nothing = finish(spawn(folder, "recover", "--dag", "asking", "--actions", "pipeline.py"))
    assert (nothing.code, nothing.out) == (0, "no run was left by a process that died\n")
    done = finish(spawn(folder, "recover", "--dag", "dead", "--actions", "pipeline.py"))
    assert done.code == 0, done.err
    assert done.out.index("run r1 of dead goes on") < done.out.index("run r2 of dead goes on")
    assert calls(folder) == ["dying", "double"] * 2
    plain = finish(spawn(folder, "recover", "--actions", "pipeline.py", "--json"))
    assert json.loads(plain.out) == []


@pytest.mark.row("E18")
def test_a_run_that_cannot_be_recovered_does_not_keep_the_others_from_it(folder: Path) -> None:
    for name in ("dead", "deadly"):
        text = (folder / "pipeline.py").read_text()
        (folder / "other.py").write_text(text.replace("dying", "deadly"))
        file = "other.py" if name == "deadly" else "pipeline.py"
        assert finish(spawn(folder, "run", f"{file}:dead", "--run-id", name)).code == 9
    (folder / "works").touch()
    done = finish(spawn(folder, "recover", "--actions", "other.py", "--json"))
    assert done.code == 2
    assert "error: run dead: " in done.err
    assert "dying" in done.err
    assert [each["run_id"] for each in json.loads(done.out)] == ["deadly"]
    assert status_of(folder, "dead") == "running"
    again = finish(spawn(folder, "recover", "--actions", "pipeline.py"))
    assert again.code == 0


# --- validate -------------------------------------------------------------------------------------


def test_a_warning_is_printed_once_and_lint_knows_the_actions(cli: Cli, folder: Path) -> None:
    (folder / "odd.yaml").write_text(
        "name: odd\nnodes:\n"
        "  - id: add\n    action: add_numbers\n    retryy: 3\n"
        "    inputs: [{name: num1, value: 1}, {name: num2, value: 2}]\n"
    )
    for known in ((), ("--actions", "adding.py")):
        done = cli("validate", "odd.yaml", *known, "--json")
        assert done.code == 0, done.err
        warnings = [json.dumps(each) for each in json.loads(done.out)["warnings"]]
        assert len(warnings) == len(set(warnings))
        assert any("retryy" in each for each in warnings)
