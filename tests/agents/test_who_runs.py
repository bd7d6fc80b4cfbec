"""Which agents a manager has: those of a registry or a module, and those that come later."""

from __future__ import annotations

import time
import types
from pathlib import Path

import pytest

from dagger_dsl import NewTaskSpec, Registry, TaskContext, TaskManager, task_agent
from dagger_dsl.errors import AgentNotFound
from dagger_dsl.model.tasks import JobStatus

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


def test_a_job_for_an_agent_that_nobody_here_has_is_not_started() -> None:
    registry = Registry()

    @task_agent(registry=registry)
    def writer() -> None: ...

    with TaskManager(registry=registry) as manager:
        with pytest.raises(AgentNotFound, match=r"no agent 'writre' .*did you mean 'writer'"):
            _ = manager.start_job("j", [NewTaskSpec("writre")])
        assert manager.jobs() == [], "nothing is left of it"
        manager.add_tasks([NewTaskSpec("writre")], "j")
        with pytest.raises(AgentNotFound):
            _ = manager.start_job("j")
        with pytest.raises(AgentNotFound):
            _ = manager.resume_job("j")
        assert manager.job("j").status is JobStatus.CREATED


def test_an_agent_that_nobody_here_has_fails_who_adds_a_task_for_it() -> None:
    registry = Registry()

    @task_agent(registry=registry, retry=0)
    def writer(ctx: TaskContext) -> None:
        ctx.add_task("writre")

    with TaskManager(registry=registry) as manager:
        job = manager.start_job("j", [NewTaskSpec("writer")])
        assert job.result(LONG) is JobStatus.FAILED
        (task,) = job.tasks
        assert "no agent 'writre' is registered; did you mean 'writer'?" in task.error
        empty = manager.start_job("k")
        with pytest.raises(AgentNotFound):
            manager.add_task("k", "", "writre")
        assert empty.tasks == []


def test_with_a_database_who_adds_a_task_for_an_unknown_agent_is_warned_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, registry = f"sqlite:{tmp_path / 'tasks.db'}", Registry()

    @task_agent(registry=registry)
    def writer(ctx: TaskContext) -> None:
        ctx.add_task("writre")
        ctx.add_task("writre")

    # The agents that it runs are named, as ``dagger-dsl worker`` does it.
    with TaskManager(registry=registry, database_url=url, agents=["writer"]) as manager:
        job = manager.start_job("j", [NewTaskSpec("writer", task_id="t")])
        while not job.tasks[0].is_finished:
            time.sleep(0.005)
        assert len(job.tasks) == 3
    (said,) = [each.getMessage() for each in caplog.records if "writre" in each.getMessage()]
    assert said == (
        "no agent 'writre' is registered here; did you mean 'writer'?; its tasks wait for a worker "
        "that knows it"
    )
    caplog.clear()
    with TaskManager(registry=registry, database_url=url, concurrency=0) as manager:
        manager.add_task("k", "", "elsewhere")
        assert not caplog.records, "who runs nothing need not know the agents of others"
        manager.add_task("k", "", "writerr")
    assert "did you mean 'writer'?" in caplog.text


def test_a_job_for_agents_of_other_processes_is_started(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}"
    with TaskManager(registry=Registry(), database_url=url, concurrency=0) as manager:
        assert manager.start_job("j", [NewTaskSpec("elsewhere")]).status is JobStatus.RUNNING


@pytest.mark.row("I5")
def test_an_agent_that_is_registered_or_written_anew_later_runs_the_next_job() -> None:
    registry = Registry()
    with TaskManager(registry=registry) as manager:
        seen = []
        for number in range(2):  # as a notebook's cell that is changed and executed again

            @task_agent(registry=registry)
            def sync(n: int = number) -> int:
                return n

            job = manager.start_job(f"sync {number}", [NewTaskSpec("sync")])
            assert job.result(LONG) is JobStatus.COMPLETED
            seen.append(job.tasks[0].output)
        assert seen == [0, 1]

        @task_agent(registry=registry)
        async def awaited() -> str:
            return "done"

        job = manager.start_job("async", [NewTaskSpec("awaited")])
        assert job.result(LONG) is JobStatus.COMPLETED
        assert job.tasks[0].output == "done"


def test_a_module_stands_for_the_agents_that_it_registered() -> None:
    module = types.ModuleType("agents")
    with Registry() as registry:

        @task_agent
        def here() -> str:
            return "here"

        vars(module)["here"] = here
        with TaskManager(registry=module) as manager:
            job = manager.start_job("j", [NewTaskSpec("here")])
            assert job.result(LONG) is JobStatus.COMPLETED
    assert list(Registry(parent=registry).task_agents) == ["here"]
    assert not Registry().task_agents


def test_an_agent_reads_what_its_job_was_configured_with() -> None:
    registry = Registry()

    @task_agent(registry=registry)
    def reader(ctx: TaskContext) -> str:
        assert ctx.job.job_id == ctx.job_id
        return str(ctx.job.config["folder"])

    with TaskManager(registry=registry) as manager:
        job = manager.start_job("j", [NewTaskSpec("reader")], config={"folder": "out"})
        assert job.result(LONG) is JobStatus.COMPLETED
        assert job.tasks[0].output == "out"
        assert job.config == {"folder": "out"}
