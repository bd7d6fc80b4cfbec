"""Small programs as child processes: what they print is read line by line."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

from dagger_dsl import engine
from dagger_dsl.engine.report import RunReport
from dagger_dsl.model.config import DagConfig, RunOptions
from tests.reliability.helpers import ROOT
from tests.runners.helpers import Flow

__all__ = ["again", "child", "ended", "line", "options", "say", "start"]

_lock = threading.Lock()


def child(code: str, *arguments: object, **env: str) -> subprocess.Popen[str]:
    """Start a Python process that executes *code* with the names of this module."""
    head = (
        "from tests.reliability.scripts import *\n"
        "from tests.runners.helpers import Flow\n"
        "import asyncio, os, signal, sys, threading, time\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
    )


def say(*words: object) -> None:
    """Print one line at once, also when the process is killed right after."""
    with _lock:
        os.write(1, (" ".join(map(str, words)) + "\n").encode())


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a child printed; an empty text when there is none any more."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> list[str]:
    """Wait for a child's end and return the lines that were not read."""
    said, _ = process.communicate(timeout=100)
    return said.splitlines()


def options(url: object, runner: str = "threads", **more: Any) -> RunOptions:
    """Return options for a run called ``r``; `config` is a mapping."""
    config = DagConfig(**{"flush_interval": 0.0, **more.pop("config", {})})
    more.setdefault("run_id", "r")
    return RunOptions(runner=runner, database_url=str(url), config=config, **more)


def start(flow: Flow, url: object, runner: str = "threads", **more: Any) -> RunReport:
    """Run a graph as ``r``."""
    return engine.run(
        flow.graph(), flow.registry, more.pop("inputs", None), options(url, runner, **more)
    )


def again(flow: Flow, url: object, runner: str = "threads", **more: Any) -> RunReport:
    """Resume ``r``."""
    return engine.resume("r", flow.registry, options(url, runner, **more))


Body = Callable[..., Any]
