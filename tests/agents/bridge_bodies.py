"""Bodies of the bridge's tests that other processes call."""

from __future__ import annotations

import time
from typing import Any

from dagger_dsl import DAG, NodeCtx, Registry, task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.model.tasks import NewTaskSpec

__all__ = ["dag", "resume", "work"]

dag = DAG("elsewhere", registry=Registry())


@dag.node
def asks(ctx: NodeCtx) -> Any:
    """Wait for a job, in a worker process."""
    return ctx.wait_for_job(NewTaskSpec("work", {"n": 5}))


flow = DAG("killed", registry=Registry())


@flow.node
def ask(ctx: NodeCtx) -> Any:
    """Wait for a job of several tasks that is made on its way."""
    return ctx.wait_for_job(NewTaskSpec("plan", {"n": 8}))


def resume(path: str) -> None:
    """Run the flow, or go on with it, and print what it gives."""
    url = f"sqlite:{path}"
    print(flow.run(database_url=url, idempotency_key="killed"), flush=True)


def work(path: str) -> None:
    """Run the tasks of the flow's job until somebody kills this."""
    registry = Registry()

    @task_agent(registry=registry)
    def plan(ctx: TaskContext, n: int) -> Any:
        if not ctx.task.dependencies:
            for k in range(n):
                ctx.add_dependency(ctx.add_task("square", {"n": k}, task_id=f"square-{k}"))
            ctx.block()
        return ctx.dependency_outputs()

    @task_agent(registry=registry)
    def square(n: int) -> int:
        time.sleep(0.02)
        return n * n

    with TaskManager(registry=registry, database_url=f"sqlite:{path}", concurrency=2) as manager:
        manager.work()
        time.sleep(600)
