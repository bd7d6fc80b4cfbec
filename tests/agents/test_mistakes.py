"""What is easily mistaken around jobs is refused at once, or said."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Secret, task_agent
from dagger_dsl.agents import NeedsMoreInfo, TaskAgentRegistry
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import (
    AgentNotAllowed,
    AgentNotFound,
    ConfigurationError,
    CycleError,
    EncodingError,
    InputValidationError,
    InvalidState,
    RegistryError,
)
from dagger_dsl.model.jobs import JobRequest
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, TaskStatus
from dagger_dsl.registry import Registry
from dagger_dsl.store.notices import listen, of_tasks
from tests.agents.helpers import LONG, registry_of


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'tasks.db'}"


def agents() -> Registry:
    return registry_of(a=lambda input: input)


# --- jobs


def test_a_job_that_is_started_without_tasks_says_so_and_waits_for_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    with TaskManager(registry=agents(), concurrency=1) as manager:
        manager.add_task("chairs", "", "a", input=1)
        job = manager.start_job("chiars")
        assert "job 'chiars' has no tasks yet" in caplog.text
        assert "did you mean 'chairs'?" in caplog.text
        caplog.clear()
        manager.add_task("chiars", "", "a", input=2)
        assert job.result(LONG) is JobStatus.COMPLETED
        _ = manager.start_job("tables")
        assert "job 'tables' has no tasks yet; it ends once" in caplog.text
        assert "did you mean" not in caplog.text
        assert manager.start_job("chairs").result(LONG) is JobStatus.COMPLETED
        assert "'chairs' has no tasks" not in caplog.text


def test_nobody_waits_for_a_job_of_a_memory_in_which_nothing_runs(url: str) -> None:
    with TaskManager(registry=agents(), concurrency=0) as manager:
        job = manager.start_job("j", [NewTaskSpec("a")])
        for wait in (job.result, lambda: asyncio.run(job.wait()), lambda: list(job.watch())):
            with pytest.raises(ConfigurationError, match="give a database_url that workers use"):
                wait()
        job.cancel()
        assert job.result() is JobStatus.CANCELLED
    with TaskManager(registry=agents(), database_url=url, concurrency=0) as manager:
        job = manager.start_job("j", [NewTaskSpec("a")])
        with pytest.raises(TimeoutError):
            job.result(0.01)


def test_what_is_lost_with_the_memory_is_said(caplog: pytest.LogCaptureFixture, url: str) -> None:
    caplog.set_level(logging.WARNING)
    began, gate = threading.Event(), threading.Event()

    def waits() -> bool:
        began.set()
        return gate.wait(LONG)

    registry = registry_of(a=waits)
    manager = TaskManager(registry=registry, concurrency=1)
    _ = manager.start_job("j", [NewTaskSpec("a"), NewTaskSpec("a")])
    manager.add_task("k", "", "a")
    assert began.wait(LONG)
    assert manager.close(grace=0.01) == 1
    assert "3 tasks of 2 jobs that have not ended are lost" in caplog.text
    caplog.clear()
    manager.close()
    gate.set()
    with TaskManager(registry=registry, concurrency=1) as manager:
        assert manager.start_job("j", [NewTaskSpec("a")]).result(LONG) is JobStatus.COMPLETED
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        manager.add_task("j", "", "a")
    assert "lost" not in caplog.text


@pytest.mark.parametrize("given", [NewTaskSpec("a"), "a", 3])
def test_tasks_are_given_as_a_list(given: Any) -> None:
    with TaskManager(registry=agents(), concurrency=1) as manager:
        for call in (lambda: manager.start_job("j", given), lambda: manager.add_tasks(given, "j")):
            with pytest.raises(ConfigurationError, match="tasks are a list of NewTaskSpec"):
                call()
        with pytest.raises(ConfigurationError, match="a task is a NewTaskSpec, not 3"):
            _ = manager.start_job("j", [3])  # type: ignore[list-item]  # on purpose
        assert manager._reads.jobs() == [], "no job is made"


def test_tasks_may_come_from_a_generator() -> None:
    with TaskManager(registry=agents(), concurrency=1) as manager:
        added = manager.add_tasks((NewTaskSpec("a", n) for n in range(3)), "j")  # type: ignore[arg-type]  # any iterable does
        assert len(added) == 3


@pytest.mark.parametrize("given", ["x", -1, True, float("nan")])
def test_a_wait_takes_seconds(given: Any) -> None:
    with TaskManager(registry=agents(), concurrency=1) as manager:
        job = manager.start_job("j", [NewTaskSpec("a")])
        with pytest.raises(ConfigurationError, match="timeout must be"):
            job.result(timeout=given)
        with pytest.raises(ConfigurationError, match="timeout must be"):
            job.wait(timeout=given).send(None)
        assert job.result(dt.timedelta(seconds=LONG)) is JobStatus.COMPLETED


# --- the manager


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agents": "prio"}, r"agents is a list of names.*write \['prio'\]"),
        ({"agents": [1]}, "agents is a list of names of agents, not of 1"),
        ({"agents": 3}, "agents is a list of names"),
        ({"lease": 0}, "lease must be more than 0"),
    ],
)
def test_what_no_manager_can_have_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TaskManager(registry=agents(), **options)


def test_who_works_already_takes_no_listener() -> None:
    with TaskManager(registry=agents(), concurrency=1) as manager:
        manager.work()
        manager.work()
        with pytest.raises(InvalidState, match=r"call work\(told\) before"):
            manager.work(print)


def test_all_managers_of_a_process_on_a_file_hear_of_tasks(url: str) -> None:
    with (
        TaskManager(registry=agents(), database_url=url, concurrency=1) as works,
        TaskManager(registry=agents(), database_url=url, concurrency=0) as adds,
    ):
        works.work()
        woken = threading.Event()
        deaf = listen(of_tasks(works._store.database), woken.set)
        adds.add_task("j", "", "a")
        deaf()
        assert woken.is_set()


# --- inputs


def _with_default(ctx: TaskContext, topic: str = "all", depth: int = 1) -> str:
    return f"{topic} {depth}"


def _without() -> str:
    return "nothing"


@pytest.mark.parametrize(
    ("agent", "given", "message"),
    [
        (_with_default, {"topik": "x"}, "unknown input 'topik'; did you mean 'topic'"),
        (_with_default, {"topic": "x", 3: 1}, "unknown input 3; known: 'depth', 'topic'"),
        (_without, {"topic": "x"}, "unknown input 'topic'; it takes no input"),
    ],
)
def test_a_part_that_no_parameter_takes_is_refused(
    agent: Callable[..., Any], given: Any, message: str
) -> None:
    with TaskManager(registry=registry_of(a=agent), concurrency=1) as manager:
        with pytest.raises(InputValidationError, match=message):
            manager.add_task("j", "", "a", input=given)
        assert manager._reads.jobs() == []


def _open(topic: str = "all", **more: Any) -> Any:
    return more


def _whole(input: Any) -> Any:
    return input


def _asks(task_id: str, task_manager: TaskManager) -> Any:
    task = task_manager.get_task_by_id(task_id)
    return None if task is None else task.input


@pytest.mark.parametrize("agent", [_open, _whole, _asks])
def test_who_can_read_any_part_is_given_it(agent: Callable[..., Any]) -> None:
    with TaskManager(registry=registry_of(a=agent), concurrency=1) as manager:
        task_id = manager.add_task("j", "", "a", input={"topik": "x"})
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
        task = manager.get_task(task_id)
        assert task is not None
        assert task.output == {"topik": "x"}


def test_a_part_that_the_schema_names_may_be_there() -> None:
    registry = Registry()
    listed: dict[str, Any] = {"properties": {"topic": {}, "note": {}}}
    task_agent(name="listed", registry=registry, input_schema=listed)(_with_default)
    free = {**listed, "additionalProperties": {"type": "integer"}}
    task_agent(name="free", registry=registry, input_schema=free)(_with_default)
    with TaskManager(registry=registry, concurrency=1) as manager:
        manager.add_task("j", "", "listed", input={"note": "kept for people"})
        manager.add_task("j", "", "free", input={"other": 1})
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
        with pytest.raises(InputValidationError, match="did you mean 'note'"):
            manager.add_task("k", "", "listed", input={"noet": 1})


def test_the_help_says_what_parameters_get() -> None:
    text = task_agent.__doc__ or ""
    for word in ("``ctx``", "``task_id``", "``job_id``", "``task_manager``", "``input``"):
        assert word in text
    assert "2 s before the" in text
    assert "4 s before" in text


def test_what_was_cancelled_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    with TaskManager(registry=agents(), concurrency=1) as manager:
        task_id = manager.add_task("j", "", "a")
        manager.update_task_status(task_id, TaskStatus.CANCELLED)
    assert "lost" not in caplog.text


def test_what_is_wrong_with_tasks_is_said_in_words_of_tasks() -> None:
    with TaskManager(registry=Registry(), concurrency=0) as manager:
        specs = [
            NewTaskSpec("a", task_id="x", dependencies=["y"]),
            NewTaskSpec("a", task_id="y", dependencies=["x"]),
        ]
        with pytest.raises(CycleError, match="these tasks need") as circle:
            manager.add_tasks(specs, "j")
        assert "node" not in str(circle.value)
        assert "edge" not in str(circle.value)
        for value in (object(), lambda: 1):
            with pytest.raises(EncodingError, match="the input of task") as refused:
                manager.add_task("j", "", "a", input={"v": value})
            assert "@action" not in str(refused.value)
        with pytest.raises(EncodingError, match="the value of 'k'") as refused:
            manager.state("j").set("k", object())
        assert "@action" not in str(refused.value)
        with pytest.raises(EncodingError, match="give where it is kept instead") as refused:
            manager.add_task("j", "", "a", input={"v": Secret("s")})
        assert "resume" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": math.inf}, r"config\['limit'\] is inf, which would come back as None"),
        ({"a": [{"t": (1, 2)}]}, r"config\['a'\]\[0\]\['t'\] is \(1, 2\), which would come back"),
        ({"at": dt.date(2024, 1, 2)}, r"config\['at'\] is .* come back as '2024-01-02'"),
        ({"x": object()}, "a mapping of names to values of JSON: .*object"),
        ({1: "x"}, "a mapping of names to values of JSON: "),
        (["x"], r"a mapping of names to values of JSON, not \['x'\]"),
    ],
)
def test_a_job_keeps_its_config_as_it_was_given_or_refuses_it(given: Any, message: str) -> None:
    with TaskManager(registry=agents(), concurrency=1) as manager:
        with pytest.raises(ConfigurationError, match=message):
            _ = manager.start_job("j", config=given)
        with pytest.raises(ConfigurationError, match=message):
            JobRequest([NewTaskSpec("a")], config=given)
        plain = {"n": 1, "x": 0.5, "s": "é", "none": None, "l": [{"b": True}], "m": {}}
        assert manager.start_job("j", config=plain).config == plain


@pytest.mark.parametrize("every", ["x", 0, -1, math.nan, math.inf, None])
def test_a_job_is_watched_every_so_many_seconds(every: Any) -> None:
    with TaskManager(registry=agents(), concurrency=1) as manager:
        job = manager.start_job("j", [NewTaskSpec("a")])
        with pytest.raises(ConfigurationError, match="every must be"):
            job.watch(every)
        assert [*job.watch(dt.timedelta(seconds=0.01))][-1] is JobStatus.COMPLETED


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task_id": "a\0b"}, "task_id is a text that is not empty and has no NUL"),
        (
            {"priority": 10**30},
            r"priority is a whole number between -2\*\*31 and 2\*\*31, not 1000",
        ),
        ({"priority": 0.5}, r"priority is a whole number between .*, not 0\.5"),
    ],
)
def test_what_is_said_of_a_task_that_cannot_be_is_true(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        NewTaskSpec("a", **given)


def test_a_job_that_allows_no_agents_says_so() -> None:
    manager = TaskManager(registry=agents(), concurrency=1)
    with manager, pytest.raises(AgentNotAllowed, match="it allows none; name it in allowed_agents"):
        _ = manager.start_job("j", [NewTaskSpec("a")], allowed_agents=[])


# --- inside of agents


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_a_task_that_waits_for_what_cannot_end_before_it_is_refused(
    own: bool, is_async: bool
) -> None:
    def waits(ctx: TaskContext) -> None:
        job = ctx.job if own else ctx.manager.start_job("sub", [NewTaskSpec("other")])
        job.result(LONG)

    async def waits_async(ctx: TaskContext) -> None:
        await (ctx.job if own else ctx.manager.start_job("sub", [NewTaskSpec("other")]))

    registry = registry_of(waits=waits_async if is_async else waits, other=lambda: 1)
    with TaskManager(registry=registry, concurrency=1) as manager:
        task_id = manager.add_task("j", "", "waits")
        assert manager.start_job("j").result(LONG) is JobStatus.FAILED
        task = manager.get_task(task_id)
        assert task is not None
        assert "InvalidState: " in task.error
        assert ("waits for its own job 'j'" if own else "concurrency of at least 2") in task.error


def test_a_task_may_wait_for_another_job_while_there_are_workers() -> None:
    def waits(ctx: TaskContext) -> str:
        return str(ctx.manager.start_job("sub", [NewTaskSpec("other")]).result(LONG))

    registry = registry_of(waits=waits, other=lambda: 1)
    with TaskManager(registry=registry, concurrency=2) as manager:
        manager.add_task("j", "", "waits")
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED


def test_a_reason_to_block_is_a_text() -> None:
    def pays(ctx: TaskContext) -> None:
        reason: Any = {"pay": 250}
        ctx.block(reason=reason)

    with TaskManager(registry=registry_of(pays=pays), concurrency=1) as manager:
        task_id = manager.add_task("j", "", "pays")
        assert manager.start_job("j").result(LONG) is JobStatus.FAILED
        task = manager.get_task(task_id)
        assert task is not None
        assert task.error.endswith("ConfigurationError: a reason is a text, not {'pay': 250}")


# --- threads of agents, and other managers


def test_what_an_agent_adds_from_a_thread_of_its_own_is_of_its_call() -> None:
    def part() -> int:
        return 7

    def whole(ctx: TaskContext) -> Any:
        with ThreadPoolExecutor(1) as pool:
            task_id = pool.submit(ctx.add_task, "part", task_id="part").result()
            pool.submit(ctx.add_dependency, task_id).result()
        if not ctx.is_rerun:
            raise NeedsMoreInfo("the part")
        return ctx.dependency_outputs()

    with TaskManager(registry=registry_of(part=part, whole=whole), concurrency=2) as manager:
        job = manager.start_job("j", [NewTaskSpec("whole", task_id="whole")])
        assert job.result(LONG) is JobStatus.COMPLETED
        assert job.tasks[0].output == [7]


def test_a_task_of_another_manager_needs_its_job(tmp_path: Path) -> None:
    other = TaskManager(registry=agents(), concurrency=0)

    def adds() -> str:
        return other.create_task(NewTaskSpec("a"))

    def parks(ctx: TaskContext) -> None:
        other.update_task_status(ctx.task_id, TaskStatus.BLOCKED)

    with other, TaskManager(registry=registry_of(adds=adds, parks=parks)) as manager:
        other.add_task("j", "", "a", task_id="parks")
        specs = [NewTaskSpec("adds", task_id="adds"), NewTaskSpec("parks", task_id="parks")]
        job = manager.start_job("j", specs)
        assert job.result(LONG) is JobStatus.FAILED
        assert [each.status for each in job.tasks] == ["failed", "completed"]
        assert "of this manager, create_task needs the job_id" in job.tasks[0].error
        assert [each.id for each in other.jobs()] == ["j"]
        parked = other.get_task("parks")
        assert parked is not None
        assert parked.status is TaskStatus.BLOCKED, "not the task that did it"


def test_a_task_in_memory_for_an_agent_that_nobody_runs_is_refused() -> None:
    registry = registry_of(a=lambda: 1, b=lambda: 2)
    with TaskManager(registry=registry, agents=["a"]) as manager:
        with pytest.raises(ConfigurationError, match=r"runs no tasks of agent 'b'.*agents="):
            _ = manager.start_job("j", [NewTaskSpec("b")])
        job = manager.start_job("j", [NewTaskSpec("a")])
        assert job.result(LONG) is JobStatus.COMPLETED


@pytest.mark.parametrize("why", ["closed", "typo"])
def test_who_cannot_run_a_job_starts_none(url: str, why: str) -> None:
    manager = TaskManager(
        registry=agents(), database_url=url, agents=["x" if why == "typo" else "a"]
    )
    manager.add_task("j", "", "a", input=1)
    if why == "closed":
        manager.close()
    with pytest.raises((AgentNotFound, InvalidState)):
        _ = manager.start_job("j")
    manager.close()
    with TaskManager(registry=agents(), database_url=url, concurrency=0) as looks:
        assert looks.job("j").status is JobStatus.CREATED


@pytest.mark.parametrize("agent", [5, dict, object()])
def test_what_can_be_called_by_nobody_is_no_agent(agent: Any) -> None:
    registry = TaskAgentRegistry()
    with pytest.raises(RegistryError, match="a function or a class with a method 'execute'"):
        registry.register("x", agent)
    assert registry.task_agents == {}


def test_times_beyond_all_calendars_are_the_last_ones(url: str) -> None:
    with TaskManager(registry=agents(), database_url=url, concurrency=1, lease=1e12) as manager:
        job = manager.start_job("j", [NewTaskSpec("a", 1)], timeout=1e12)
        assert job.result(LONG) is JobStatus.COMPLETED
        assert "<html" in job.to_html()


def test_what_goes_on_already_is_not_tried_again() -> None:
    with TaskManager(registry=agents(), concurrency=0) as manager:
        manager.add_task("j", "", "a", task_id="t", input=1)
        with pytest.raises(InvalidState, match="'t' is pending: it goes on already"):
            manager.retry("t")
