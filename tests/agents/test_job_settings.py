"""What a job keeps, whoever looks after it: its stalls, and how many tasks it may have."""

from __future__ import annotations

import datetime as dt
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import task_agent
from dagger_dsl.agents import JobHandle, StallAction, TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import ConfigurationError, LimitExceeded
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec
from dagger_dsl.registry import Registry
from dagger_dsl.testing import FakeClock
from tests.agents.helpers import LONG, Hands, registry_of, until


def work() -> None:
    """Do nothing."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'jobs.db'}"


def hands(clock: FakeClock, url: str, *arguments: Any, **options: Any) -> Hands:
    return Hands(clock, *arguments, registry=registry_of(work=work), database_url=url, **options)


@pytest.mark.row("I8")
def test_another_process_does_about_a_stall_what_the_job_keeps(url: str) -> None:
    clock = FakeClock()
    with hands(clock, url, 10.0, "terminate_job") as one, hands(clock, url) as other:
        job = one.manager.start_job("j", [NewTaskSpec("work")])
        other.look(9.0)
        assert not job.is_finished
        other.look(2.0)
        assert job.status is JobStatus.CANCELLED
        assert "nothing happened for 10 s" in job.error


@pytest.mark.row("I8")
def test_who_starts_a_job_may_say_what_is_done_about_its_stalls(url: str) -> None:
    clock = FakeClock()
    with hands(clock, url, None) as one, hands(clock, url, 1.0, "terminate_job") as other:
        tasks = [NewTaskSpec("work")]
        never = one.manager.start_job("never", tasks)
        told = one.manager.start_job(
            "told",
            tasks,
            heartbeat_interval=dt.timedelta(seconds=20),
            stall_action=StallAction.TERMINATE_JOB,
        )
        later = one.manager.start_job("later", tasks)
        _ = other.manager.start_job("later", heartbeat_interval=40.0, stall_action="terminate_job")
        other.look(25.0)
        assert [each.is_finished for each in (never, told, later)] == [False, True, False]
        other.look(20.0)
        assert [each.is_finished for each in (never, told, later)] == [False, True, True]
        last = one.manager.start_job(
            "last", tasks, heartbeat_interval=1, stall_action="terminate_job"
        )
        last = one.manager.start_job("last", heartbeat_interval=math.inf)
        other.look(1_000.0)
        assert not last.is_finished


@pytest.mark.row("I8")
def test_an_own_function_is_called_by_who_knows_one_of_its_name(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    called: list[str] = []

    def alert(job: JobHandle) -> None:
        called.append(job.job_id)

    def other_code(job: JobHandle) -> None:
        called.append(f"other {job.job_id}")

    with (
        hands(clock, url, 10.0, StallAction.custom(alert, name="alert")) as one,
        hands(clock, url) as strange,
        hands(clock, url, 30.0, StallAction.custom(other_code, name="alert")) as other,
    ):
        _ = one.manager.start_job("j", [NewTaskSpec("work")])
        with caplog.at_level(logging.WARNING, logger="dagger_dsl.agents"):
            strange.look(11.0)
            strange.look(1.0)
        assert caplog.text.count("'j' has stalled; what it calls then, alert, is not known") == 1
        assert not called
        other.look()
        until(lambda: called)
        assert called == ["other j"], "a job keeps the name, and no process the other's code"
        one.look()
        assert called == ["other j"], "a stall is acted upon once"


@pytest.mark.row("I8")
def test_a_function_that_is_given_with_a_job_is_called(url: str) -> None:
    called: list[str] = []
    with hands(FakeClock(), url) as one:
        action = StallAction.custom(lambda job: called.append(job.job_id))
        _ = one.manager.start_job(
            "j", [NewTaskSpec("work")], heartbeat_interval=5, stall_action=action
        )
        one.look(6.0)
        until(lambda: called)
        assert called == ["j"]


@pytest.mark.parametrize("name", ["", "terminate_job", "Notify_Planning_Agent", "a\nb", 7])
def test_a_stall_action_that_can_have_no_such_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="stall action"):
        StallAction.custom(print, name=name)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"max_tasks": 0}, "max_tasks"),
        ({"max_tasks": "7"}, "max_tasks"),
        ({"heartbeat_interval": 0}, "heartbeat_interval"),
        ({"heartbeat_interval": "soon"}, "heartbeat_interval"),
        ({"stall_action": "shout"}, "stall_action"),
    ],
)
def test_what_no_job_can_keep_is_refused(url: str, given: dict[str, Any], named: str) -> None:
    with TaskManager(database_url=url, concurrency=0) as manager:
        with pytest.raises(ConfigurationError, match=named):
            _ = manager.start_job("j", **given)
        assert manager.jobs() == []


# --- how many tasks -------------------------------------------------------------------------------


def test_an_agent_that_adds_a_task_with_every_call_comes_to_an_end(url: str) -> None:
    registry = Registry()

    @task_agent(registry=registry)
    def again(ctx: TaskContext) -> None:
        ctx.add_task("again")

    with TaskManager(registry=registry, database_url=url, concurrency=2, max_tasks=7) as manager:
        job = manager.start_job("j", [NewTaskSpec("again")])
        assert job.result(LONG) is JobStatus.FAILED
        tasks = job.tasks
        assert len(tasks) == 7
        (error,) = [task.error for task in tasks if task.error]
        assert "job 'j' has 7 tasks and may have 7 (its max_tasks)" in error
        assert "start_job('j', max_tasks=...) lets the job have more" in error
        _ = manager.start_job("j", max_tasks=9)
        manager.retry(tasks[-1].id)
        assert job.result(LONG) is JobStatus.FAILED
        assert len(job.tasks) == 9


def test_a_job_may_be_given_room_for_more_tasks(url: str) -> None:
    with TaskManager(registry=registry_of(work=work), database_url=url, max_tasks=2) as manager:
        specs = [NewTaskSpec("work")]
        manager.add_tasks(specs * 2, "j")
        with pytest.raises(LimitExceeded, match="1 more cannot be added"):
            manager.add_tasks(specs, "j")
        with pytest.raises(LimitExceeded, match="3 more cannot be added"):
            _ = manager.start_job("new", specs * 3)
        assert [each.id for each in manager.jobs()] == ["j"], "all of it or nothing"
        job = manager.start_job("j", specs * 2, max_tasks=4)
        assert job.result(LONG) is JobStatus.COMPLETED
        assert len(job.tasks) == 4


def test_without_a_limit_a_job_has_as_many_tasks_as_it_gets(url: str) -> None:
    with TaskManager(registry=registry_of(work=work), database_url=url, max_tasks=None) as manager:
        specs = [NewTaskSpec("work")] * 60_000
        manager.add_tasks(specs, "j")
        manager.add_tasks(specs, "j")
        (job,) = manager.jobs()
        assert job.task_count == 120_000


# --- a file that somebody left empty --------------------------------------------------------------


def test_a_file_is_used_that_somebody_left_empty_who_died_while_making_it(tmp_path: Path) -> None:
    path = tmp_path / "left.db"
    path.touch()
    path.with_name("left.db-lock").touch()
    registry = registry_of(work=work)
    with TaskManager(registry=registry, database_url=f"sqlite:{path}") as manager:
        assert manager.start_job("j", [NewTaskSpec("work")]).result(LONG) is JobStatus.COMPLETED
