"""Ctrl-C in a script whose tasks go on: it says what it waits for, and leaves when told again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.model.tasks import Task, TaskStatus
from tests.agents.helpers import LONG

pytestmark = pytest.mark.slow  # each of them starts a process

SCRIPT = """
import asyncio, sys, time
from dagger_dsl import DAG, NodeCtx, Registry, task_agent
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.model.tasks import NewTaskSpec

registry, url = Registry(), sys.argv[1]

@task_agent(registry=registry)
def slow():
    print("called", flush=True)
    time.sleep(600)

def sync(manager):
    manager.start_job("j", [NewTaskSpec("slow")]).result()

def on_a_loop(manager):
    async def main():
        await manager.start_job("j", [NewTaskSpec("slow")])
    asyncio.run(main())

def inside_of_a_loop(manager):
    async def main():
        with manager:
            await manager.start_job("j", [NewTaskSpec("slow")]).wait()
    asyncio.run(main())

def a_node(manager):
    dag = DAG("waits")
    @dag.node
    def ask(ctx: NodeCtx):
        return ctx.wait_for_job(NewTaskSpec("slow"))
    manager.work()
    dag.run(database_url=url)

if sys.argv[3:]:
    TaskManager.close.__defaults__ = (float(sys.argv[3]),)
with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
    globals()[sys.argv[2]](manager)
"""


def interrupted(path: Path, how: str, *grace: str) -> tuple[subprocess.Popen[str], str]:
    """Start a script, interrupt it while its task is called, and return what it says then."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, f"sqlite:{path}", how, *grace],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "called\n"
    process.send_signal(signal.SIGINT)
    said = ""
    for line in process.stderr:
        said += line
        if "waits up to" in line:
            break
    return process, said


@pytest.mark.parametrize("how", ["sync", "on_a_loop", "inside_of_a_loop", "a_node"])
def test_a_second_interrupt_leaves_at_once_and_gives_back(tmp_path: Path, how: str) -> None:
    path = tmp_path / "tasks.db"
    process, said = interrupted(path, how, "600")
    (task,) = tasks(path)
    assert f"waits up to 600 s for task {task.id!r} of agent 'slow' to end" in said
    assert "Ctrl-C" in said
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LONG)
    assert time.monotonic() - began < LONG
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    (task,) = tasks(path)
    assert (task.status, task.worker) == (TaskStatus.READY, "")


def test_one_interrupt_waits_for_the_grace_time_and_gives_back(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    process, said = interrupted(path, "sync", "0.5")
    process.communicate(timeout=LONG)
    assert "waits up to 0.5 s" in said
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert [task.status for task in tasks(path)] == [TaskStatus.READY]


def tasks(path: Path) -> list[Task]:
    """Return the tasks of the one job there is."""
    with TaskManager(database_url=f"sqlite:{path}", concurrency=0) as manager:
        (job,) = manager.jobs()
        return manager.tasks(job.id)
