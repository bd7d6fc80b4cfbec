"""Agents that start jobs: a message that is given again finds the job that it began."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagger_dsl import Registry, RetryPolicy, task_agent
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import JobNotFound
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec
from dagger_dsl.pubsub import Message, PubSubExecutor, pubsub_agent

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


@pytest.mark.row("J12")
@pytest.mark.parametrize("named", [True, False])
def test_a_message_that_is_given_again_finds_its_job(tmp_path: Path, named: bool) -> None:
    url = f"sqlite:{tmp_path / 'bus.db'}"
    registry = Registry()
    done: list[int] = []
    calls: list[str] = []

    @task_agent(registry=registry)
    def pack(n: int) -> int:
        done.append(n)
        return n

    with TaskManager(registry=registry, database_url=url) as manager:

        @pubsub_agent(
            subscribe="orders",
            retry=RetryPolicy(max_attempts=3, backoff="immediate"),
            registry=registry,
        )
        def begin(message: Message) -> None:
            job_id = f"order-{message.id}"
            try:
                _ = manager.job(job_id)
            except JobNotFound:
                ids = [f"{job_id}-{n}" if named else None for n in range(3)]
                tasks = [NewTaskSpec("pack", {"n": n}, task_id=id_) for n, id_ in enumerate(ids)]
                _ = manager.start_job(job_id, tasks)
            calls.append(job_id)
            if len(calls) < 3:
                raise ValueError("it dies after the job has begun")

        with PubSubExecutor(registry=registry, database_url=url) as bus:
            bus.publish("orders", {"size": 3}, id="one").result()
            assert bus.wait_idle(LONG).result()
            assert bus.dead_letters() == []
        assert manager.job("order-one").result(LONG) is JobStatus.COMPLETED
    assert calls == ["order-one"] * 3
    assert sorted(done) == [0, 1, 2]
