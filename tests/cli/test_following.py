"""``logs`` and ``watch``: the record in order, and a run that another process executes."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from dagger_dsl.cli import following
from dagger_dsl.store.database import Database
from dagger_dsl.store.news import News
from dagger_dsl.store.storage import Store
from tests.cli.conftest import Cli, finish, spawn
from tests.cli.test_steering import status_of, wait_for

RETRYING = """\
from dagger_dsl import DAG, AddNode, NodeSpec, NodeCtx, RetryPolicy, action

@action
def two() -> list[int]:
    return [1, 2]

@action(retry=RetryPolicy(max_attempts=3, base_delay=0.01))
def flaky(xs: list[int], ctx: NodeCtx) -> int:
    if ctx.attempt < 3:
        raise ValueError(f"not yet\\nnumber {ctx.attempt}")
    return sum(xs)

@action
def double(x: int) -> int:
    return 2 * x

@action
def check(x: int) -> bool:
    return x > 5

@action
def yes() -> str:
    return "yes"

@action
def no() -> str:
    return "no"

with DAG("retrying") as dag:
    xs = two()
    total = flaky(xs)
    double.map(xs)
    decided = check(total)
    decided.on_true >> yes()
    decided.on_false >> no()
"""


def lines_of(text: str) -> list[tuple[str, str, str]]:
    """Return the time, the node and the text of each entry."""
    found = re.findall(r"^(\d\d:\d\d:\d\d\.\d{3}| {12})  (\S+) +(.*)$", text, re.MULTILINE)
    return [(at.strip(), node, what) for at, node, what in found]


# --- logs ----------------------------------------------------------------------------------------


def test_the_log_tells_attempts_retries_and_skips_in_order(cli: Cli, folder: Path) -> None:
    (folder / "retrying.py").write_text(RETRYING)
    assert cli("run", "retrying.py", "--run-id", "r", "--runner", "sequential").code == 0
    done = cli("logs", "r")
    assert done.code == 0
    assert re.match(r"\d{4}-\d\d-\d\d \(UTC\)\n", done.out)
    assert done.out.endswith("retrying: run r is completed\n")
    told = lines_of(done.out)
    of_flaky = [what for _, node, what in told if node == "flaky"]
    assert [re.sub(r"[\d.]+ (ms|s|µs)", "TIME", each) for each in of_flaky] == [
        "started",
        "failed in TIME: ValueError: not yet; tried again after TIME",
        "started (attempt 2)",
        "failed in TIME: ValueError: not yet; tried again after TIME",
        "started (attempt 3)",
        "completed in TIME",
    ]
    nodes = [node for _, node, _ in told]
    assert {"double[0]", "double[1]"} <= set(nodes)
    assert ("", "yes", "skipped: branch not taken at 'check'") in told
    times = [at for at, _, _ in told if at]
    assert times == sorted(times)
    assert nodes.index("two") < nodes.index("flaky") < nodes.index("check") < nodes.index("no")


def test_the_log_of_one_node_has_its_invocations_and_nothing_else(cli: Cli, folder: Path) -> None:
    (folder / "retrying.py").write_text(RETRYING)
    cli("run", "retrying.py", "--run-id", "r")
    nodes = {node for _, node, _ in lines_of(cli("logs", "r", "--node", "double").out)}
    assert nodes == {"double", "double[0]", "double[1]"}
    entries = json.loads(cli("logs", "r", "--node", "flaky", "--json").out)
    assert [each["kind"] for each in entries] == ["started", "retry"] * 2 + ["started", "completed"]
    assert set(entries[0]) == {"at", "node", "kind", "text"}


@pytest.mark.row("E11")
def test_the_log_tells_who_asked_and_who_answered(cli: Cli) -> None:
    cli("run", "pipeline.py:asking", "--run-id", "r")
    assert ("", "ask", "asks: go on?") in lines_of(cli("logs", "r").out)
    cli("answer", "r", "ask", "true", "--by", "anna")
    cli("resume", "r", "--actions", "pipeline.py")
    told = lines_of(cli("logs", "r").out)
    assert ("", "ask", "completed: answered by anna") in told
    (command,) = [each for each in told if each[1] == "run"]
    assert command[0], "the time of the request is recorded"
    assert command[2] == "answer ask = True, by anna"


GROWING = """\
from dagger_dsl import AddNode, DAG, NodeSpec, action, hook
from dagger_dsl.model.events import NodeCompleted

@action
def one() -> int:
    return 1

@hook(on=NodeCompleted, nodes="one")
def grow(ctx, event):
    return [AddNode(NodeSpec("one", "more", deps=["one"])), AddNode(NodeSpec("nothing", "x"))]

with DAG("growing") as dag:
    one()
"""


def test_a_hooks_commands_are_in_the_log_also_what_was_refused(cli: Cli, folder: Path) -> None:
    (folder / "growing.py").write_text(GROWING)
    assert cli("run", "growing.py", "--run-id", "r").code == 0
    told = [what for _, node, what in lines_of(cli("logs", "r").out) if node == "run"]
    assert told[0] == "add more, by hook grow at NodeCompleted"
    assert re.fullmatch(r"refused: a command, by hook grow at NodeCompleted: .*nothing.*", told[1])


def test_a_failed_run_says_why_at_the_end_of_its_log(cli: Cli) -> None:
    cli("run", "pipeline.py:bad", "--run-id", "r")
    out = cli("logs", "r").out
    assert "fickle  failed in " in out
    assert out.splitlines()[-1].startswith("bad: run r is failed: node 'fickle' failed")


def test_a_log_that_has_ended_is_not_followed_for_ever(cli: Cli) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r")
    assert cli("logs", "r", "--follow").out == cli("logs", "r").out
    objects = cli("logs", "r", "--follow", "--json").out.splitlines()
    assert [json.loads(each) for each in objects] == json.loads(cli("logs", "r", "--json").out)
    assert json.loads(cli("logs", "r", "--json", "--node", "double").out)


CONTROLS = """\
from dagger_dsl import DAG, NodeOutput, action

@action
def say() -> int:
    raise ValueError("a \\x9b\\x7f\\u202e b \\ud800 \\u2028 c")

with DAG("controls") as dag:
    say()
"""


@pytest.mark.parametrize("more", [(), ("--follow",)])
def test_what_is_no_plain_text_is_valid_json_all_the_same(
    cli: Cli, folder: Path, more: tuple[str, ...]
) -> None:
    (folder / "controls.py").write_text(CONTROLS)
    assert cli("run", "controls.py", "--run-id", "r").code == 1
    out = cli("logs", "r", "--json", *more).out
    assert out.isascii()
    assert "\x7f" not in out
    found = [json.loads(each) for each in out.splitlines()] if more else json.loads(out)
    assert any("ValueError: a " in each["text"] for each in found)


def test_a_record_is_told_piece_by_piece(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "retrying.py").write_text(RETRYING)
    cli("run", "retrying.py", "--run-id", "r")
    whole = [json.loads(each) for each in cli("logs", "r", "--follow", "--json").out.splitlines()]
    assert [each["kind"] for each in whole if each["node"] == "flaky"].count("retry") == 2
    monkeypatch.setattr(following, "_PIECE", 2)
    for more in ((), ("--follow",)):
        out = cli("logs", "r", "--json", *more).out
        told = [json.loads(each) for each in out.splitlines()] if more else json.loads(out)
        assert sorted(map(str, told)) == sorted(map(str, whole))


def test_an_entry_that_cannot_be_read_hides_no_other(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:asking", "--run-id", "r")
    with sqlite3.connect(folder / "dagger_dsl.db") as connection:
        connection.execute("UPDATE run_log SET body = '{\"asks\": 7}' WHERE entry_key LIKE 'asks%'")
    connection.close()
    done = cli("logs", "r")
    assert done.code == 0
    assert "which cannot be read" in done.out
    assert "one" in done.out


@pytest.mark.parametrize("command", [["logs", "r"], ["watch", "r"], ["explain", "r", "one"]])
def test_looking_writes_nothing(cli: Cli, folder: Path, command: list[str]) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r")
    before = (folder / "dagger_dsl.db").read_bytes()
    path = folder / "dagger_dsl.db"
    path.chmod(0o400)
    assert cli(*command).code == 0
    assert cli(*command, "--db", "sqlite:dagger_dsl.db?mode=ro").code == 0
    assert path.read_bytes() == before


NESTED = """\
from dagger_dsl import DAG
from pipeline import ask, told

with DAG("asks") as asks:
    told(answer=ask(x=asks.input("x", int)))
with DAG("around") as around:
    asks(x=1)
"""


@pytest.mark.parametrize(
    "command",
    [["show", "r"], ["watch", "r"], ["explain", "r", "asks"], ["show", "r", "--html", "page.html"]],
)
def test_looking_at_what_waits_inside_of_a_run_only_reads(
    cli: Cli, folder: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "nested.py").write_text(NESTED)
    assert cli("run", "nested.py:around", "--run-id", "r").code == 3
    opened: list[bool] = []
    connect = Database._connect

    def note(database: Database) -> sqlite3.Connection:
        opened.append(database.read_only)
        return connect(database)

    monkeypatch.setattr(Database, "_connect", note)
    done = cli(*command)
    assert done.code in (0, 3)
    assert ("dagger-dsl answer r/asks ask true" in done.out) == ("--html" not in command)
    assert opened
    assert all(opened), "one of them was opened to be written"


SECRET = """\
from dagger_dsl import DAG, Secret, action

@action
def call(token: Secret) -> str:
    raise ValueError("no")

with DAG("secret") as dag:
    call(token=dag.input("token", Secret))
"""


def test_every_line_that_resumes_a_run_names_the_secrets(cli: Cli, folder: Path) -> None:
    (folder / "secret.py").write_text(SECRET)
    line = "dagger-dsl resume r --actions {} --input token=VALUE"
    ran = cli("run", "secret.py", "--run-id", "r", "-i", "token=abc")
    assert ran.code == 1
    assert line.format("secret.py") in ran.out
    for command in (["watch", "r"], ["explain", "r", "call"]):
        assert line.format("MODULE_OR_FILE") in cli(*command).out


@pytest.mark.parametrize("command", [["logs", "R"], ["watch", "R"], ["explain", "R", "one"]])
def test_what_is_not_there_is_told_with_what_is(cli: Cli, folder: Path, command: list[str]) -> None:
    def call(run_id: str, *more: str) -> tuple[int, str]:
        done = cli(*[run_id if word == "R" else word for word in command], *more)
        assert done.out == ""
        return done.code, done.err

    code, said = call("r")
    assert (code, "there is no database at" in said) == (2, True)
    assert not (folder / "dagger_dsl.db").exists()
    cli("run", "pipeline.py:good", "--run-id", "nightly-2026")
    code, said = call("nightly-2025")
    assert (code, "did you mean 'nightly-2026'?" in said) == (2, True)
    code, said = call("xyz")
    assert (code, "the newest: 'nightly-2026'" in said) == (2, True)
    code, said = call("\x1b[31mx\x07")
    assert (code, "\x1b" in said, "dagger-dsl runs" in said) == (2, False, True)
    assert call("x" * 100_000)[0] == 2


@pytest.mark.parametrize("command", [["logs", "r", "--node", "dubble"], ["explain", "r", "dubble"]])
def test_a_node_that_is_not_there_is_told_the_one_that_was_meant(
    cli: Cli, command: list[str]
) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r")
    done = cli(*command)
    assert done.code == 2
    assert "did you mean 'double'?" in done.err


def test_a_busy_database_is_no_disaster(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r")
    locker = sqlite3.connect(folder / "dagger_dsl.db", isolation_level=None)
    locker.execute("PRAGMA locking_mode=EXCLUSIVE")
    locker.execute("BEGIN IMMEDIATE")
    locker.execute("CREATE TABLE x (a)")
    try:
        for command in (["logs", "r"], ["watch", "r"], ["explain", "r", "one"]):
            done = cli(*command, "--db", "sqlite:dagger_dsl.db?busy_timeout=50")
            assert done.code == 4
            assert "try again" in done.err
    finally:
        locker.rollback()
        locker.close()


# --- watch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dag", "code"), [("good", 0), ("bad", 1), ("paused", 3), ("asking", 3)])
def test_a_run_that_has_ended_is_shown_with_its_exit_code(cli: Cli, dag: str, code: int) -> None:
    ran = cli("run", f"pipeline.py:{dag}", "--run-id", "r")
    done = cli("watch", "r")
    assert done.code == ran.code == code
    assert "one" in done.out
    assert ("dagger-dsl resume r" in done.out) == (code != 0)
    assert ("dagger-dsl answer r ask true" in done.out) == (dag == "asking")
    assert json.loads(cli("watch", "r", "--json").out)["run_id"] == "r"
    assert cli("watch", "r", "--quiet").out == ""


class Recorded:
    """A store's news, one at a time, and what was slept between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lasts: list[int]) -> None:
        self.slept: list[float] = []
        self.now = 0.0
        news = [self._news(last, "running") for last in lasts]
        answers = iter([*news, self._news(lasts[-1], "completed")])
        monkeypatch.setattr(following, "read_news", lambda *_: next(answers))
        monkeypatch.setattr("dagger_dsl.cli.following.monotonic", lambda: self.now)
        monkeypatch.setattr("dagger_dsl.cli.following.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.now += seconds

    @staticmethod
    def _news(last: int, status: str) -> News:
        import datetime as dt

        return News(status, 1, None, dt.datetime.now(dt.UTC), None, (), (), (), last)


def test_it_looks_often_while_much_happens_and_seldom_while_nothing_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store("sqlite:x.db") as store:
        recorded = Recorded(monkeypatch, [1, 2, 2, 2, 2, 2, 2, 2, 2, 3])
        follower = following._Follower(store, "r", "sqlite:x.db")
        monkeypatch.setattr(type(follower.control), "is_executed", True)
        assert [each.last for each in follower][-1] == 3
    assert recorded.slept == [0.1, 0.1, 0.15, 0.225, 0.338, 0.506, 0.759, 1.0, 1.0, 0.1]


@pytest.mark.slow
def test_a_run_of_another_process_is_followed_to_its_end(folder: Path) -> None:
    running = spawn(folder, "run", "pipeline.py:busy", "--run-id", "r")
    wait_for(folder, "held")
    shown = finish(spawn(folder, "show", "r"))
    assert re.search(r"^held +running", shown.out, re.MULTILINE)
    why = finish(spawn(folder, "explain", "r", "double"))
    assert "'double' has not started: it needs 'held', which is running" in why.out
    assert "dagger-dsl watch r" in why.out
    watching = spawn(folder, "watch", "r")
    logging = spawn(folder, "logs", "r", "--follow", "--json")
    assert watching.stdout is not None
    first = watching.stdout.readline()
    assert first == f"run r of busy, executed by process {running.pid} on host {_host()}\n"
    assert watching.stdout.readline().startswith("[1/3] one: completed in ")
    (folder / "works").touch()
    done = finish(watching)
    assert done.code == 0, done.err
    assert re.search(
        r"^\[2/3\] held: completed in .*\n\[3/3\] double: completed in", done.out, re.M
    )
    assert "double = 2" in done.out
    assert finish(running).code == 0
    entries = [json.loads(each) for each in finish(logging).out.splitlines()]
    ended = [each["node"] for each in entries if each["kind"] == "completed"]
    assert ended == ["one", "held", "double"]


def _host() -> str:
    import socket

    return socket.gethostname()


@pytest.mark.slow
def test_ctrl_c_ends_the_watching_and_not_the_run(folder: Path) -> None:
    running = spawn(folder, "run", "pipeline.py:busy", "--run-id", "r")
    wait_for(folder, "held")
    watchers = [spawn(folder, "watch", "r"), spawn(folder, "logs", "r", "--follow")]
    for each in watchers:
        assert each.stdout is not None
        each.stdout.readline()
        each.stdout.readline()  # it looks again and again now
        each.send_signal(signal.SIGINT)
    ends = [finish(each) for each in watchers]
    assert [each.code for each in ends] == [130, 130]
    assert "run r goes on; only the watching has ended" in ends[0].out
    assert all("Traceback" not in each.err for each in ends)
    assert status_of(folder, "r") == "running"
    (folder / "works").touch()
    assert finish(running).code == 0


@pytest.mark.slow
def test_a_run_whose_process_died_is_not_watched_for_ever(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finish(spawn(folder, "run", "pipeline.py:dead", "--run-id", "r")).code == 9
    monkeypatch.setattr(following, "_QUIET", 0.0)
    shown = cli("show", "r")
    assert "the process that executed the run has died; go on with it by:" in shown.out
    done = cli("watch", "r")
    assert done.code == 3
    assert "executed by" not in done.out, "nothing of it is followed"
    assert "run r left by a process that died, after " in done.out
    assert "the process that executed the run has died" in done.out
    told = cli("logs", "r").out
    assert "run r was left by a process that died\n" in told
    assert "dagger-dsl resume r --actions MODULE_OR_FILE" in told
    assert "dagger-dsl resume r --actions MODULE_OR_FILE" in done.out
    assert "was left by a process that died" in cli("logs", "r", "--follow").out
    assert "which died" in cli("runs").out
    why = cli("explain", "r", "dying").out
    assert why.startswith("'dying' had not ended when the process of the run died\n")
    assert "the process that executed the run has died" in why
    assert status_of(folder, "r") == "running", "nothing was changed"


@pytest.mark.slow
def test_a_failed_attempt_of_a_run_that_goes_on_is_not_its_end(folder: Path) -> None:
    (folder / "retrying.py").write_text(RETRYING.replace("0.01", "1.5"))
    running = spawn(folder, "run", "retrying.py", "--run-id", "r")
    deadline = time.monotonic() + 30
    while finish(spawn(folder, "show", "r")).code:
        assert time.monotonic() < deadline
    done = finish(spawn(folder, "watch", "r"))
    assert finish(running).code == 0
    assert done.code == 0
    assert "flaky: failed" not in done.out
    assert "[6/6]" in done.out
    assert (
        "attempt 2 of node 'flaky' failed (ValueError: not yet), retrying in 3.0 s (attempt 3 of 3)"
        in done.err
    )


@pytest.mark.slow
def test_watching_ends_when_nobody_reads_and_the_run_does_not(folder: Path) -> None:
    running = spawn(folder, "run", "pipeline.py:busy", "--run-id", "r")
    wait_for(folder, "held")
    watching = spawn(folder, "watch", "r")
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.stdout.close()
    assert watching.wait(60) == 0
    assert watching.stderr is not None
    assert watching.stderr.read() == ""
    watching.stderr.close()
    assert status_of(folder, "r") == "running"
    (folder / "works").touch()
    assert finish(running).code == 0


@pytest.mark.slow
def test_a_reader_that_has_gone_ends_the_log_quietly(cli: Cli, folder: Path) -> None:
    cli("run", "pipeline.py:good", "--run-id", "r")
    for command in (
        ["logs", "r"],
        ["watch", "r"],
        ["show", "r"],
        ["runs"],
        ["explain", "r", "one"],
        ["completion", "bash"],
    ):
        process = spawn(folder, *command)
        assert process.stdout is not None
        process.stdout.close()
        process.wait(60)
        assert process.stderr is not None
        said = process.stderr.read()
        process.stderr.close()
        assert said == ""
        assert process.returncode == 0, "that nobody reads is no failure of the run"
