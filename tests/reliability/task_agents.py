"""Agents whose effects another process can count, for ``dagger-dsl worker --actions``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from dagger_dsl import task_agent
from dagger_dsl.agents.context import TaskContext

#: Where an effect leaves a line that no crash takes back, and what lets those go on that are held.
LOG = Path(os.environ.get("TASK_LOG", os.devnull))
GO = LOG.with_name("go")


def effect(ctx: TaskContext) -> None:
    """Leave a line."""
    with LOG.open("ab", buffering=0) as log:
        log.write(f"{ctx.task_id} {os.getpid()} {time.monotonic():.6f}\n".encode())


@task_agent
def work(ctx: TaskContext, seconds: float = 0.0) -> str:
    """Have an effect, and take a while."""
    effect(ctx)
    time.sleep(seconds)
    return ctx.task_id


@task_agent
def held(ctx: TaskContext) -> int:
    """Have an effect, and wait to be let go."""
    effect(ctx)
    while not GO.exists():
        time.sleep(0.005)
    return os.getpid()


@task_agent
def poison(ctx: TaskContext) -> None:
    """Kill the process."""
    effect(ctx)
    os.kill(os.getpid(), signal.SIGKILL)
