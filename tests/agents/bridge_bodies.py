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
        if not ctx.task.dependencies:  # linked with all of them at once, or not at all
            ctx.block(on=[ctx.add_task("square", {"n": k}) for k in range(n)])
        return ctx.dependency_outputs()

    @task_agent(registry=registry)
    def square(n: int) -> int:
        time.sleep(0.02)
        return n * n

    with TaskManager(registry=registry, database_url=f"sqlite:{path}", concurrency=2) as manager:
        manager.work()
        time.sleep(600)


times = DAG("flow", registry=Registry())


@times.node
def more(n: int) -> int:
    """Be called in another process."""
    return (n + 1) * 10


def steps(path: str, log: str) -> None:
    """Run three tasks, each of which runs a DAG of six nodes, until all are done."""
    registry, dag = Registry(), DAG("steps", registry=Registry())

    def step(number: int) -> Any:
        def body() -> int:
            with open(log, "a") as out:
                out.write(f"{number}\n")
            time.sleep(0.03)
            return number

        return body

    for number in range(6):
        dag.node(step(number), id=f"step{number}", name=f"step{number}")
    for number in range(5):
        dag.connect(f"step{number}", f"step{number + 1}")

    @task_agent(registry=registry)
    def runs(ctx: TaskContext) -> Any:
        return ctx.run_dag(dag)

    with TaskManager(registry=registry, database_url=f"sqlite:{path}", concurrency=3) as manager:
        if manager._reads.job("job") is None:
            tasks = [NewTaskSpec("runs", task_id=f"t{k}") for k in range(3)]
            manager.start_job("job", tasks).result(60)
        else:
            manager.resume_job("job").result(60)
