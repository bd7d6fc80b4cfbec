"""Jobs of tasks: who runs them, what they may find out on their way, and what is left of them."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry, task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.agents.roster import TaskAgentRegistry
from dagger_dsl.agents.signals import NeedsMoreInfo
from dagger_dsl.errors import (
    AgentAlreadyRegistered,
    AgentNotAllowed,
    AgentNotFound,
    ConfigurationError,
    CycleError,
    InputValidationError,
    InvalidState,
    JobNotFound,
    RegistryError,
)
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, TaskStatus, TaskType

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(params=["memory", "file"])
def manager(
    request: pytest.FixtureRequest, registry: Registry, tmp_path: Path
) -> Iterator[TaskManager]:
    url = None if request.param == "memory" else f"sqlite:{tmp_path / 'tasks.db'}"
    with TaskManager(registry=registry, database_url=url, concurrency=3) as made:
        yield made


CALCULATOR_INPUT = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number"}, "op": {"type": "string"}},
    "required": ["a", "b"],
}


def calculator(registry: Registry) -> None:
    """Register the documents' calculator."""

    @task_agent(
        name="calculator",
        description="Performs basic arithmetic",
        input_schema=CALCULATOR_INPUT,
        output_schema={"type": "object", "properties": {"result": {"type": "number"}}},
        registry=registry,
    )
    async def calculate(
        input: dict[str, Any], task_id: str, job_id: str, task_manager: TaskManager
    ) -> dict[str, float]:
        a, b, op = input["a"], input["b"], input.get("op", "add")
        if op == "div":
            if b == 0:
                raise ValueError("Division by zero")
            return {"result": a / b}
        if op not in ("add", "sub", "mul"):
            raise ValueError("Unknown operation")
        return {"result": {"add": a + b, "sub": a - b, "mul": a * b}[op]}


@pytest.mark.row("I2", "I3", "I33")
@pytest.mark.parametrize(
    ("op", "result", "error"),
    [
        ("add", 5, ""),
        ("sub", 1, ""),
        ("mul", 6, ""),
        ("div", 1.5, ""),
        ("pow", None, "ValueError: Unknown operation"),
    ],
)
def test_the_calculator_of_the_documents(
    manager: TaskManager, registry: Registry, op: str, result: float | None, error: str
) -> None:
    calculator(registry)
    task_id = manager.add_task("j", "", "calculator", input={"a": 3, "b": 2, "op": op})
    job = manager.start_job("j")
    ended = job.result(LONG)
    task = manager.get_task(task_id)
    assert task is not None
    assert (task.output, task.error) == (None if result is None else {"result": result}, error)
    assert ended is (JobStatus.COMPLETED if result is not None else JobStatus.FAILED)


@pytest.mark.row("I33")
def test_division_by_zero_fails_its_task(manager: TaskManager, registry: Registry) -> None:
    calculator(registry)
    task_id = manager.add_task("j", "", "calculator", input={"a": 1, "b": 0, "op": "div"})
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    task = manager.get_task(task_id)
    assert task is not None
    assert (task.status, task.error) == (TaskStatus.FAILED, "ValueError: Division by zero")


def research(registry: Registry) -> None:
    """Register the documents' research agent, and who gathers data for it."""

    @task_agent(registry=registry)
    async def research_agent(
        input: dict[str, str], task_id: str, job_id: str, task_manager: TaskManager
    ) -> dict[str, str]:
        task = task_manager.get_task(task_id)
        assert task is not None
        topic = input["topic"]
        if task.dependencies:
            found = [each["data"] for each in task_manager.get_dependency_outputs(task_id)]
            return {"report": f"Comprehensive report on {topic}: {', '.join(found)}"}
        if "advanced" in topic:
            data = task_manager.add_task(
                job_id,
                f"Gather additional data for {topic}",
                "data_gatherer",
                input={"query": topic},
                parent=task_id,
            )
            task_manager.add_dependency(task_id, data)
            task_manager.update_task_status(task_id, TaskStatus.BLOCKED)
            raise RuntimeError("needs_more_info")
        return {"report": f"Basic report on {topic}"}

    @task_agent(registry=registry)
    def data_gatherer(query: str) -> dict[str, str]:
        return {"data": f"data on {query}"}

    @task_agent(registry=registry)
    def report_writer(ctx: TaskContext, input: dict[str, str]) -> str:
        (found,) = ctx.dependency_outputs()
        return f"{input['format']}: {found['report']}"


@pytest.mark.row("I9", "I16", "I17", "I19", "I20", "I34")
def test_the_research_job_of_the_documents(manager: TaskManager, registry: Registry) -> None:
    research(registry)
    topic = "advanced machine learning"
    first = manager.add_objective("j", "Research", "research_agent", {"topic": topic})
    report = manager.add_task(
        "j",
        "Write final report",
        "report_writer",
        dependencies=[first],
        input={"format": "executive_summary"},
    )
    allowed = ["research_agent", "data_gatherer", "report_writer"]
    job = manager.start_job("j", [], allowed, None)
    assert job.result(LONG) is JobStatus.COMPLETED
    assert job.success
    written = manager.get_task(report)
    assert written is not None
    assert written.output == (
        "executive_summary: Comprehensive report on advanced machine learning: "
        "data on advanced machine learning"
    )
    task = manager.get_task(first)
    assert task is not None
    assert (task.task_type, task.attempts, task.retry_count) == (TaskType.OBJECTIVE, 2, 0)
    (data,) = [each for each in job.tasks if each.parent == first]
    assert task.dependencies == (data.id,)
    states = [str(each.status) for each in manager.history(first)]
    assert [each for each in states if each != "ready"] == [
        "pending",
        "running",
        "blocked",
        "running",
        "completed",
    ] or "blocked" not in states


@pytest.mark.row("I18", "I19")
def test_an_agent_blocks_itself_in_one_call(manager: TaskManager, registry: Registry) -> None:
    seen: list[tuple[int, bool, list[Any]]] = []

    @task_agent(registry=registry)
    def planner(ctx: TaskContext) -> list[Any]:
        seen.append((ctx.attempt, ctx.is_rerun, ctx.dependency_outputs()))
        if not ctx.dependencies:
            try:
                ctx.block(on=[ctx.add_task("worker", n) for n in (1, 2, 3)])
            except Exception:  # what an agent catches for itself
                pytest.fail("to block is no error")
        return ctx.dependency_outputs()

    @task_agent(registry=registry)
    def worker(input: int) -> int:
        return input * 10

    task_id = manager.add_task("j", "", "planner")
    job = manager.start_job("j")
    for _ in job.watch(0.01):
        assert job.questions() == [], "who waits for other tasks asks nobody"
    assert job.result(LONG) is JobStatus.COMPLETED
    task = manager.get_task(task_id)
    assert task is not None
    assert task.output == [10, 20, 30]
    assert seen == [(1, False, []), (2, True, [10, 20, 30])]
    assert (task.attempts, task.retry_count) == (2, 0)


@pytest.mark.row("I20")
def test_more_info_may_be_asked_for_by_an_error(manager: TaskManager, registry: Registry) -> None:
    @task_agent(registry=registry)
    def asker(ctx: TaskContext) -> list[Any]:
        if ctx.is_rerun:
            return ctx.dependency_outputs()
        ctx.add_dependency(ctx.add_task("giver"))
        raise NeedsMoreInfo("the price")

    @task_agent(registry=registry)
    def giver() -> str:
        return "given"

    task_id = manager.add_task("j", "", "asker")
    assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
    task = manager.get_task(task_id)
    assert task is not None
    assert task.output == ["given"]


def test_who_blocks_for_nothing_waits_for_a_person(
    manager: TaskManager, registry: Registry
) -> None:
    @task_agent(registry=registry)
    def careful(ctx: TaskContext) -> str:
        if not ctx.is_rerun:
            ctx.block(reason="is it right?")
        return "done"

    task_id = manager.add_task("j", "", "careful")
    job = manager.start_job("j")
    until(lambda: status_of(manager, task_id) == "blocked")
    assert job.status is JobStatus.RUNNING
    task = manager.get_task(task_id)
    assert task is not None
    assert task.error == "is it right?"
    assert [each.id for each in job.questions()] == [task_id]
    assert manager.update_task_status(task_id, "ready", old="blocked", cause="Ada said yes")
    assert job.result(LONG) is JobStatus.COMPLETED
    assert job.questions() == []
    assert "Ada said yes" in [each.cause for each in manager.history(task_id)]


def until(true: Any) -> None:
    """Wait for something that is about to happen."""
    deadline = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def status_of(manager: TaskManager, task_id: str) -> str:
    """Return where a task stands."""
    task = manager.get_task(task_id)
    assert task is not None
    return str(task.status)


@pytest.mark.row("I4")
def test_a_class_keeps_its_state_between_calls(manager: TaskManager, registry: Registry) -> None:
    @task_agent(registry=registry)
    class Counter:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.number = 0

        async def execute(self, input: Any, task_id: str, job_id: str) -> int:
            with self.lock:
                self.number += 1
                return self.number

    manager.add_tasks([NewTaskSpec("Counter") for _ in range(20)], "j")
    assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
    assert sorted(each.output for each in manager.tasks("j")) == list(range(1, 21))


@pytest.mark.row("I1")
def test_inputs_and_results_are_what_the_agent_declares(
    manager: TaskManager, registry: Registry
) -> None:
    calculator(registry)

    @task_agent(registry=registry, output_schema={"type": "integer"})
    def liar(count: int, name: str = "x") -> Any:
        return f"{name}{count}"

    for agent, value, fault in (
        ("calculator", {"a": "x", "b": 2}, r"input\['a'\]"),
        ("calculator", {"a": 1}, '"b" is a required property'),
        ("liar", {}, "the input has no 'count'"),
        ("liar", {"count": "many"}, r"input\['count'\]"),
        ("liar", 5, "a parameter named 'input' gets the whole of it"),
    ):
        with pytest.raises(InputValidationError, match=fault):
            manager.add_task("j", "", agent, input=value)
    task_id = manager.add_task("j", "", "liar", input={"count": 1})
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    task = manager.get_task(task_id)
    assert task is not None
    assert "result" in task.error


@pytest.mark.row("I29")
def test_a_task_that_fails_is_retried_by_its_own_word_or_its_agents(
    manager: TaskManager, registry: Registry
) -> None:
    calls: list[str] = []

    @task_agent(registry=registry, retry=RetryPolicy(max_attempts=3, base_delay=0))
    def flaky(input: int) -> int:
        calls.append(str(input))
        if calls.count(str(input)) <= input:
            raise OSError("away")
        return input

    ok = manager.add_task("j", "", "flaky", input=2)
    over = manager.add_task("j", "", "flaky", input=3)
    more = manager.add_task("j", "", "flaky", input=4, max_retries=4)
    none = manager.add_task("j", "", "flaky", input=1, max_retries=0)
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    states = [status_of(manager, each) for each in (ok, over, more, none)]
    assert states == ["completed", "failed", "completed", "failed"]
    task = manager.get_task(more)
    assert task is not None
    assert (task.attempts, task.retry_count) == (5, 4)


@pytest.mark.row("I12", "I31")
def test_agents_have_to_be_known_and_allowed(manager: TaskManager, registry: Registry) -> None:
    calculator(registry)
    manager.add_task("j", "", "calculator", input={"a": 1, "b": 2})
    with pytest.raises(AgentNotAllowed):
        _ = manager.start_job("j", allowed_agents=["writer"])
    with pytest.raises(JobNotFound):
        _ = manager.resume_job("nowhere")
    with (
        TaskManager(registry=registry, agents=["calculater"]) as other,
        pytest.raises(AgentNotFound, match="did you mean 'calculator'"),
    ):
        other.work()


@pytest.mark.row("I13", "I14")
def test_a_job_is_watched_until_it_ends(manager: TaskManager, registry: Registry) -> None:
    go = threading.Event()

    @task_agent(registry=registry)
    def waiter() -> None:
        go.wait(LONG)

    manager.add_tasks([NewTaskSpec("waiter") for _ in range(3)], "j")
    job = manager.start_job("j")
    seen = []
    for status in job.watch(0.01):
        seen.append(status)
        go.set()
    assert (seen[0], seen[-1]) == (JobStatus.RUNNING, JobStatus.COMPLETED)

    async def wait() -> tuple[JobStatus, JobStatus]:
        return await job, await job.get_status()

    assert asyncio.run(wait()) == (JobStatus.COMPLETED, JobStatus.COMPLETED)
    with pytest.raises(InvalidState, match="takes no more tasks"):
        manager.add_task("j", "", "waiter")


@pytest.mark.row("I18")
@pytest.mark.parametrize(
    ("on", "error"),
    [
        (["nowhere"], "TaskNotFound: there is no task 'nowhere'"),
        ("itself", "CycleError: .*itself -> itself"),
        (["after"], "CycleError: .*itself -> after -> itself"),
        ([5], r"ConfigurationError: block\(on=...\) takes ids of tasks, not"),
        (None, "ConfigurationError: block"),
    ],
)
def test_who_waits_for_what_cannot_be_fails_alone(
    manager: TaskManager, registry: Registry, on: Any, error: str
) -> None:
    @task_agent(registry=registry)
    def asker(ctx: TaskContext) -> None:
        ctx.block(on=on)

    @task_agent(registry=registry)
    def other() -> str:
        return "done"

    manager.add_task("j", "", "asker", task_id="itself")
    manager.add_task("j", "", "other", dependencies=["itself"], task_id="after")
    others = manager.add_tasks([NewTaskSpec("other") for _ in range(5)], "j")
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    task = manager.get_task("itself")
    assert task is not None
    assert re.search(error, task.error)
    assert {status_of(manager, each) for each in others} == {"completed"}


@pytest.mark.row("I18", "I19")
def test_who_was_parked_for_a_task_that_failed_goes_on_when_that_is_tried_again(
    manager: TaskManager, registry: Registry
) -> None:
    answers = iter([None, "here"])

    @task_agent(registry=registry)
    def source() -> str:
        if (answer := next(answers)) is None:
            raise ConnectionError("away")
        return answer

    @task_agent(registry=registry)
    def asker(ctx: TaskContext) -> list[Any]:
        if not ctx.dependencies:
            ctx.block(on=[ctx.add_task("source", task_id="source")])
        return ctx.dependency_outputs()

    asked = manager.add_task("j", "", "asker")
    after = manager.add_task("j", "", "asker", dependencies=[asked])
    job = manager.start_job("j")
    assert job.result(LONG) is JobStatus.FAILED
    assert manager.update_task_status("source", "ready", cause="it is back")
    assert job.result(LONG) is JobStatus.COMPLETED
    task = manager.get_task(after)
    assert task is not None
    assert task.output == [["here"]]


def test_a_watch_sees_a_task_park_itself_though_nothing_has_ended(
    manager: TaskManager, registry: Registry
) -> None:
    @task_agent(registry=registry)
    def careful(ctx: TaskContext) -> None:
        if not ctx.is_rerun:
            ctx.block(reason="may I?")

    task_id = manager.add_task("j", "", "careful")
    job = manager.start_job("j")
    for _ in job.watch(0.01):  # without a look at every change this never ends
        for task in job.questions():
            assert task.id == task_id
            manager.update_task_status(task_id, "ready", old="blocked")
    assert job.success


def test_a_job_that_is_cancelled_stops(manager: TaskManager, registry: Registry) -> None:
    began = threading.Event()

    @task_agent(registry=registry)
    async def endless() -> None:
        began.set()
        await asyncio.sleep(LONG)

    first = manager.add_task("j", "", "endless")
    after = manager.add_task("j", "", "endless", dependencies=[first])
    job = manager.start_job("j")
    assert began.wait(LONG)
    job.cancel("no longer wanted")
    assert job.result(LONG) is JobStatus.CANCELLED
    assert [status_of(manager, each) for each in (first, after)] == ["cancelled", "cancelled"]


@pytest.mark.row("I10")
def test_a_call_has_a_time_limit(manager: TaskManager, registry: Registry) -> None:
    left = threading.Event()

    @task_agent(registry=registry, timeout=0.05)
    async def slow() -> None:
        await asyncio.sleep(LONG)

    @task_agent(registry=registry)
    def stuck() -> None:
        left.wait(LONG)

    ids = [
        manager.add_task("j", "", "slow"),
        manager.add_task("j", "", "stuck", timeout=0.05),
    ]
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    left.set()
    for each in ids:
        task = manager.get_task(each)
        assert task is not None
        assert "longer than" in task.error or "limit" in task.error


@pytest.mark.row("I28")
def test_what_is_left_of_a_job_is_done_by_the_next_process(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}"
    registry = Registry()
    calls: list[int] = []

    @task_agent(registry=registry)
    def note(input: int) -> None:
        calls.append(input)

    with TaskManager(registry=registry, database_url=url, concurrency=0) as first:
        first.add_tasks([NewTaskSpec("note", n) for n in range(5)], "j")
        assert first.start_job("j").status is JobStatus.RUNNING
    assert calls == []
    with TaskManager(registry=registry, database_url=url) as second:
        assert second.resume_job("j").result(LONG) is JobStatus.COMPLETED
    assert sorted(calls) == [0, 1, 2, 3, 4]


def test_a_manager_that_closes_gives_back_what_has_not_ended(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}"
    registry = Registry()
    began, go = threading.Event(), threading.Event()

    @task_agent(registry=registry)
    def slow() -> str:
        began.set()
        go.wait(LONG)
        return "done"

    first = TaskManager(registry=registry, database_url=url)
    task_id = first.add_task("j", "", "slow")
    _ = first.start_job("j")
    assert began.wait(LONG)
    first.close(grace=0.05)
    go.set()
    with pytest.raises(InvalidState):
        first.work()
    with TaskManager(registry=registry, database_url=url) as second:
        assert second.resume_job("j").result(LONG) is JobStatus.COMPLETED
        assert "its worker was stopped" in [each.cause for each in second.history(task_id)]


@pytest.mark.row("I6")
def test_a_registry_of_agents_of_its_own() -> None:
    agents = TaskAgentRegistry()
    agents.register("double", lambda input: input * 2)
    with pytest.raises(AgentAlreadyRegistered, match="'double' already"):
        agents.register("double", lambda input: input)
    with TaskManager(registry=agents) as manager:
        task_id = manager.add_task("j", "", "double", input=21)
        manager.start_job("j").result(LONG)
        task = manager.get_task(task_id)
        assert task is not None
        assert task.output == 42


@pytest.mark.row("I18")
def test_tasks_that_wait_for_each_other_are_refused(
    manager: TaskManager, registry: Registry
) -> None:
    calculator(registry)
    one = manager.add_task("j", "", "calculator", input={"a": 1, "b": 1})
    two = manager.add_task("j", "", "calculator", input={"a": 1, "b": 1}, dependencies=[one])
    with pytest.raises(CycleError):
        manager.add_dependency(one, two)
    given = {"a": 1, "b": 1}
    with pytest.raises(CycleError, match=r"x -> y -> x|y -> x -> y"):
        manager.add_tasks(
            [
                NewTaskSpec("calculator", given, parent="y", task_id="x"),
                NewTaskSpec("calculator", given, parent="x", task_id="y"),
            ],
            "j",
        )


def test_what_cannot_be_an_agent_or_a_manager_is_refused(registry: Registry) -> None:
    @task_agent(registry=registry)
    class Needy:
        def __init__(self, url: str) -> None: ...

        def execute(self) -> None: ...

    with TaskManager(registry=registry) as manager:
        with pytest.raises(RegistryError, match="cannot be made without arguments"):
            _ = manager.start_job("j")
        with pytest.raises(ConfigurationError, match="a task is a NewTaskSpec"):
            manager.add_tasks(["x"], "j")  # type: ignore[list-item]  # on purpose
    with pytest.raises(ConfigurationError):
        TaskManager(concurrency=-1)
