"""A forked child leaves the tasks of its parent alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agents.helpers import LONG

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

_CLOSES = """
import os, sys, threading
from dagger_dsl import Registry, task_agent
from dagger_dsl.agents.manager import TaskManager

url = sys.argv[1] or None
registry, begun, go = Registry(), threading.Event(), threading.Event()

@task_agent(registry=registry)
def work():
    begun.set()
    go.wait(60)
    return 1

child = 0
manager = TaskManager(registry=registry, database_url=url, concurrency=2)
with manager:
    task_id = manager.add_task("j", "", "work")
    job = manager.start_job("j")
    begun.wait(60)
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        running = str(manager.get_task(task_id).status)
        go.set()
        job.result(60)
        task = manager.get_task(task_id)
        print(code, running, task.status, task.attempts)
if not child:
    os._exit(7)
"""

_RETURNS = """
import asyncio, logging, os, sys
from dagger_dsl import Registry, task_agent
from dagger_dsl.agents.manager import TaskManager

logging.basicConfig()
how, limit, url = sys.argv[1], float(sys.argv[2]) or None, sys.argv[3]
registry = Registry()

def fork():
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if how == "exits":
        sys.exit(3)
    if how == "fails":
        raise ValueError("of the child")
    return "child"

@task_agent(registry=registry, timeout=limit)
def forks():
    return fork()

@task_agent(registry=registry, timeout=limit)
async def forks_async():
    return fork()

with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
    for agent in ("forks", "forks_async"):
        task_id = manager.add_task(agent, "", agent)
        status = manager.start_job(agent).result(60)
        task = manager.get_task(task_id)
        print(status, task.output, task.attempts, flush=True)
"""


def ran(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, that of its children included: they hold its pipes."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=2 * LONG,
        check=False,
    )


@pytest.mark.parametrize("where", ["file", "memory"])
def test_a_forked_child_that_leaves_the_block_takes_nothing_from_its_parent(
    where: str, tmp_path: Path
) -> None:
    done = ran(_CLOSES, f"sqlite:{tmp_path / 'tasks.db'}" if where == "file" else "")
    assert done.stdout.split() == ["7", "running", "completed", "1"], done.stderr


@pytest.mark.parametrize("limit", ["0", "60"])
@pytest.mark.parametrize(("how", "code"), [("returns", 0), ("exits", 3), ("fails", 1)])
def test_a_child_that_comes_back_from_its_agent_ends_and_records_nothing(
    how: str, code: int, limit: str, tmp_path: Path
) -> None:
    done = ran(_RETURNS, how, limit, f"sqlite:{tmp_path / 'tasks.db'}")
    assert done.stdout.split("\n") == [f"completed {code} 1"] * 2 + [""], done.stderr
    assert done.stderr.count("came back from its agent, and ends here") == 2
    assert done.stderr.count("ValueError: of the child") == (2 if how == "fails" else 0)
