"""What the tests of the store share."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.protocols import Row
from dagger_dsl.store.storage import Store

__all__ = ["GRAPH", "Store", "child", "kill", "line", "row", "start"]

GRAPH = Graph("flow", [Node("a", "act"), Node("b", "act", dependencies=["a"])], version="1.2")


def row(
    node: str,
    value: str | None = "1",
    *,
    key: str = "default",
    attempt: int = 1,
    state: str = "completed",
    artifact: str | None = None,
    error: str | None = None,
    meta: str | None = None,
) -> Row:
    """Return a row of a journal."""
    return (node, key, attempt, state, value, artifact, 1_700_000_000.5, 2.5, error, meta)


def start(store: Any, run_id: str = "r", **options: Any) -> Any:
    """Create a run of `GRAPH`."""
    return store.create_run(run_id=run_id, graph=GRAPH, inputs={"x": 1}, **options)


def child(code: str, *arguments: object, ask: bool = False) -> subprocess.Popen[str]:
    """Start a Python process that executes *code*; its output can be read line by line.

    Args:
        code: What it executes.
        arguments: Its ``sys.argv`` from 1 on.
        ask: Whether lines will be written to it.
    """
    head = "from tests.store.helpers import *\nimport sys, time, os, signal\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE if ask else None,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a child printed."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a child as a power cut would, and wait until it is gone."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
