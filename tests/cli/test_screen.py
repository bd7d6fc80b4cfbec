"""A live display on a terminal, plain lines elsewhere; data never commands the terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from dagger_dsl.cli.screen import Progress, Screen
from tests.cli.conftest import ROOT, Cli, finish, spawn
from tests.engine.helpers import Workflow


def on_terminal(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the command on a terminal; return its exit code and what the terminal was sent."""
    code = "import sys; from dagger_dsl.cli import main; sys.exit(main())"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        wanted = {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100"}
        everything = {**os.environ, **wanted, **environment}
        os.execve(sys.executable, [sys.executable, "-c", code, *arguments], everything)
    sent = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not data:
                break
            sent += data
    else:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), sent.decode()


STYLES = re.compile(r"\x1b\[([\d;]*)m")

# pty.fork() in a process with threads is a warning from Python 3.12 on; the child only calls exec.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


SLOW = """\
import time
from dagger_dsl import DAG, action

@action
def one() -> int:
    return 1

@action
def wait(one: int) -> int:
    time.sleep(0.6)
    return one

with DAG("slow") as dag:
    one() >> wait
"""


def test_a_terminal_shows_a_live_display_and_a_table(folder: Path) -> None:
    (folder / "slow.py").write_text(SLOW)
    code, sent = on_terminal(folder, "run", "slow.py")
    assert code == 0
    assert "1/2" in STYLES.sub("", sent)
    assert "● wait" in STYLES.sub("", sent), "what runs is shown"
    assert "┃ node" in STYLES.sub("", sent)
    assert "\x1b[32mcompleted" in sent
    assert "[1/2] one" not in sent, "no plain lines"
    assert sent.rindex("\x1b[?25h") > sent.rindex("\x1b[?25l"), "the cursor is back"


def test_no_color_is_respected(folder: Path) -> None:
    _, sent = on_terminal(folder, "run", "pipeline.py:good", NO_COLOR="1")
    assert "┃ node" in STYLES.sub("", sent)
    assert all(int(code or 0) < 30 for style in STYLES.findall(sent) for code in style.split(";"))


def colours_in(sent: str) -> bool:
    codes = {int(code or 0) for style in STYLES.findall(sent) for code in style.split(";")}
    return any(30 <= code <= 37 or 90 <= code <= 97 for code in codes)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["logs", "r"], ["show", "r"], ["runs"], ["show", "nobody"]])
def test_colours_are_for_terminals_and_for_those_who_ask(
    cli: Cli, folder: Path, command: list[str]
) -> None:
    (folder / "retrying.py").write_text(
        "from dagger_dsl import DAG, NodeCtx, RetryPolicy, action\n"
        "@action(retry=RetryPolicy(max_attempts=2, base_delay=0.01))\n"
        "def flaky(ctx: NodeCtx) -> int:\n"
        "    return 1 // (ctx.attempt - 1)\n"
        "with DAG('retrying') as dag:\n"
        "    flaky()\n"
    )
    cli("run", "retrying.py", "--run-id", "r")
    piped = finish(spawn(folder, *command))
    assert "\x1b" not in piped.out + piped.err
    asked = finish(spawn(folder, *command, FORCE_COLOR="1", TERM="xterm-256color"))
    assert colours_in(asked.out + asked.err)
    never = finish(spawn(folder, *command, FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color"))
    assert not colours_in(never.out + never.err)
    _, sent = on_terminal(folder, *command)
    assert colours_in(sent)
    _, sent = on_terminal(folder, *command, NO_COLOR="1")
    assert not colours_in(sent)
    _, sent = on_terminal(folder, *command, TERM="dumb")
    assert "\x1b" not in sent


@pytest.mark.parametrize("command", [["show", "r"], ["logs", "r"], ["runs"]])
def test_json_has_no_colours_even_where_they_are_asked_for(
    cli: Cli, folder: Path, command: list[str]
) -> None:
    cli("run", "pipeline.py:bad", "--run-id", "r")
    done = finish(spawn(folder, *command, "--json", FORCE_COLOR="1", TERM="xterm-256color"))
    assert "\x1b" not in done.out
    json.loads(done.out)


def test_no_live_display_is_forced_into_a_pipe(folder: Path) -> None:
    done = finish(spawn(folder, "run", "pipeline.py:good", FORCE_COLOR="1", TERM="xterm-256color"))
    assert "[2/2] double: completed" in done.out
    assert "\x1b[?25l" not in done.out


def test_a_dumb_terminal_gets_plain_lines(folder: Path) -> None:
    _, sent = on_terminal(folder, "run", "pipeline.py:good", TERM="dumb")
    assert "\x1b" not in sent
    assert "[2/2] double: completed" in sent


def test_elsewhere_there_are_plain_lines_and_rich_is_not_loaded(folder: Path) -> None:
    (folder / "spy.py").write_text(
        "import sys\n"
        "from dagger_dsl import DAG, action\n"
        "@action\n"
        "def loaded() -> list:\n"
        "    return [name for name in ('rich', 'ruamel.yaml') if name in sys.modules]\n"
        "dag = DAG('spy')\n"
        "with dag:\n"
        "    loaded()\n"
    )
    done = finish(spawn(folder, "run", "spy.py"))
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert "[1/1] loaded: completed" in done.out
    assert "loaded = []" in done.out


HOSTILE_ID = "\x1b]0;owned\x07\x1b[2J[red]x[/red]\u202e"

HOSTILE = """\
from dagger_dsl import DAG, Graph, Node, action
from dagger_dsl.model.graph import Input

ID = "\\x1b]0;owned\\x07\\x1b[2J[red]x[/red]\\u202e"

@action(name="\\x1b[31mact")
def act() -> str:
    raise ValueError("\\x1b[31mmessage\\x1b[0m\\nsecond \\x9b31mline")

dag = Graph("\\x1b[5mname", [Node(ID, "\\x1b[31mact")])
"""


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_from_data_commands_the_terminal(folder: Path, terminal: bool) -> None:
    (folder / "hostile.py").write_text(HOSTILE)
    commands = [
        ["run", "hostile.py:dag", "--run-id", "\x1b[6nrun"],
        ["runs"],
        ["show", "\x1b[6nrun"],
        ["logs", "\x1b[6nrun"],
        ["logs", "\x1b[6nrun", "--follow", "--json"],
        ["watch", "\x1b[6nrun"],
        ["explain", "\x1b[6nrun", HOSTILE_ID],
        ["show", "\x1b[6nrun", "--node", HOSTILE_ID],
        ["explain", "\x1b[6nrun", "\x1b[31mnobody"],
        ["show", "\x1b[6nnobody"],
        ["\x1b[31mcommand"],
        ["run", "--\x1b[31moption"],
        ["__complete", "fish", "show", ""],
        ["doctor", "--db", "sqlite:\x1b[31m.db"],
        ["validate", "hostile.py:dag"],
        ["run", "\x1b[31mmissing.yaml"],
    ]
    for command in commands:
        if terminal:
            _, sent = on_terminal(folder, *command, NO_COLOR="1")
        else:
            done = finish(spawn(folder, *command))
            sent = done.out + done.err
            assert "\x1b" not in sent
        for attack in ("\x1b]0;", "\x1b[2J", "\x1b[31m", "\x1b[5m", "\x1b[6n", "\x9b", "\u202e"):
            assert attack not in sent, (command, attack)


def test_a_large_graph_prints_a_line_per_hundredth_at_most(cli: Cli, folder: Path) -> None:
    (folder / "large.py").write_text(
        "from dagger_dsl import Graph, Node, action\n"
        "@action\n"
        "def nothing() -> None: ...\n"
        "dag = Graph('large', [Node(f'n{i}', 'nothing') for i in range(1000)])\n"
    )
    done = cli("run", "large.py", "--durability", "exit")
    assert done.code == 0
    lines = [line for line in done.out.splitlines() if line.startswith("[")]
    assert len(lines) <= 110
    assert lines[-1].startswith("[1000/1000]")
    assert "and 950 more nodes" in done.out
    assert len(done.out.splitlines()) < 200


def test_output_that_nobody_reads_is_no_disaster(folder: Path) -> None:
    process = spawn(folder, "run", "pipeline.py:good")
    assert process.stdout is not None
    process.stdout.close()
    process.wait(60)
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_progress_that_nobody_reads_any_more_is_shown_no_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            tried.append(text)
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    flow = Workflow().note("a").note("b", after=["a"])
    with Progress(Screen()) as progress:
        assert flow.run(progress=progress.display).success
    assert [text.partition(" in ")[0] for text in tried] == ["[1/2] a: completed"]


def test_a_quiet_command_has_no_display() -> None:
    assert Progress(Screen(quiet=True)).display is None


def test_an_encoding_that_lacks_a_character_ends_no_run(folder: Path) -> None:
    (folder / "snow.py").write_text(
        "from dagger_dsl import DAG, action\n"
        "@action\n"
        "def snow() -> str:\n"
        "    return 'snow \\u2603'\n"
        "dag = DAG('snow')\n"
        "with dag:\n"
        "    snow()\n"
    )
    done = finish(spawn(folder, "run", "snow.py", PYTHONIOENCODING="ascii", PYTHONUTF8="0"))
    assert done.code == 0, done.err
    assert "snow \\u2603" in done.out


def test_a_failure_is_told_with_its_attempt_and_its_inputs(folder: Path) -> None:
    (folder / "fails.py").write_text(
        "from dagger_dsl import DAG, action\n"
        "from dagger_dsl.model.policies import RetryStrategy\n"
        "@action\n"
        "def load() -> list:\n"
        "    return [1, 2]\n"
        "@action(try_count=2, retry=RetryStrategy.IMMEDIATE)\n"
        "def parse(load: list) -> int:\n"
        "    return load[7]\n"
        "with DAG('fails') as dag:\n"
        "    load() >> parse\n"
    )
    done = finish(spawn(folder, "run", "fails.py"))
    assert done.code == 1
    assert "    return load[7]\n" in done.err
    assert "node parse: attempt 2 of 2\ninputs:\n  load = [1, 2]\n" in done.err
    assert "/dagger_dsl/" not in done.err, "no frame of ours"
    assert "resume it by:" in done.out
