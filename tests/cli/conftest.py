"""The command in this process or in one of its own, in a folder with some workflows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import dagger_dsl
from dagger_dsl.cli import main
from dagger_dsl.registry import Registry

PIPELINE_PY = """\
import os
import time
from pathlib import Path
from typing import Any

from dagger_dsl import DAG, NodeCtx, action

HERE = Path(__file__).parent


def note(text: str) -> None:
    with (HERE / "calls.txt").open("a") as file:
        file.write(text + "\\n")


@action
def one(n: int = 1) -> int:
    note("one")
    return n


@action
def double(x: int) -> int:
    note("double")
    return 2 * x


@action
def fickle(x: int) -> int:
    note("fickle")
    if not (HERE / "works").exists():
        raise ValueError("not yet")
    return x + 1


@action(on_failure="pause")
def pausing(x: int) -> int:
    return fickle(x)


@action
def slow(x: int, ctx: NodeCtx) -> int:
    note("slow")
    until = time.monotonic() + 60
    while time.monotonic() < until and not ctx.cancelled:
        time.sleep(0.01)
    return x


@action
def stuck(x: int) -> int:
    note("stuck")
    time.sleep(600)
    return x


@action
def ask(x: int, ctx: NodeCtx) -> Any:
    note("ask")
    return ctx.wait_for_human("go on?", bool)


@action
def patient(x: int, ctx: NodeCtx) -> Any:
    return ctx.wait_for_human("go on?", bool, default=False, timeout=60)


@action
def told(answer: bool) -> str:
    note("told")
    return "yes" if answer else "no"


@action
def held(x: int, ctx: NodeCtx) -> int:
    note("held")
    while not ((HERE / "works").exists() or ctx.cancelled):
        time.sleep(0.01)
    return x


@action
def dying(x: int) -> int:
    note("dying")
    if not (HERE / "works").exists():
        os._exit(9)
    return x


good = DAG(one >> double, name="good")
bad = DAG(one >> fickle, name="bad")
paused = DAG(one >> pausing >> double, name="paused")
long = DAG(one >> slow >> double, name="long")
hung = DAG(one >> stuck, name="hung", config={"shutdown_grace": 0.2})
asking = DAG(one >> ask >> told, name="asking")
waiting = DAG(one >> patient >> told, name="waiting")
busy = DAG(one >> held >> double, name="busy", config={"shutdown_grace": 0.3})
dead = DAG(one >> dying >> double, name="dead")
number = 42
"""

SUM_YAML = """\
name: sum
description: Adds two numbers
version: "1"
nodes:
  - id: add
    action: add_numbers
    inputs:
      - name: num1
        reference: inputs.num1
      - name: num2
        reference: inputs.num2
    outputs:
      - name: sum
"""

ACTIONS_PY = """\
def add_numbers(num1: float, num2: float) -> float:
    return num1 + num2
"""


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with workflows."""
    (tmp_path / "pipeline.py").write_text(PIPELINE_PY)
    (tmp_path / "sum.yaml").write_text(SUM_YAML)
    (tmp_path / "adding.py").write_text(ACTIONS_PY)
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("DAGGER_DSL_"):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def cli(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cli]:
    """Run the command in this process; modules it imports are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: str) -> Done:
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) is None or str(folder) in str(
                sys.modules[name].__file__
            ):
                del sys.modules[name]
        with Registry():
            try:
                code = main(arguments)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
        out, err = capsys.readouterr()
        return Done(code, out, err)

    yield run
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


ROOT = Path(dagger_dsl.__file__).parents[1]


#: A shell lets what it runs in the background ignore SIGINT, and children inherit that.
_COMMAND = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from dagger_dsl.cli import main
sys.exit(main())
"""


def spawn(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def finish(process: subprocess.Popen[str]) -> Done:
    """Wait for a command."""
    out, err = process.communicate(timeout=60)
    return Done(process.returncode, out, err)
