"""Tasks that ask people: what they ask is kept, and what they are answered is given to them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import task_agent
from dagger_dsl.agents import JobHandle, NeedsMoreInfo, TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import (
    ConfigurationError,
    InputValidationError,
    InvalidState,
    TaskExists,
    TaskNotFound,
)
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, TaskStatus
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from tests.agents.helpers import LONG, until


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "memory" else f"sqlite:{tmp_path / 'tasks.db'}"


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def manager(registry: Registry, url: str | None) -> Iterator[TaskManager]:
    with TaskManager(registry=registry, database_url=url, concurrency=2) as made:
        yield made


def asked(job: JobHandle, question: str) -> str:
    """Wait until a job asks something; return the id of the task that does."""
    until(lambda: [task for task in job.questions() if task.error == question])
    (task,) = job.questions()
    return task.id


def test_an_answer_is_what_the_agent_is_given_for_its_question(
    manager: TaskManager, registry: Registry
) -> None:
    calls: list[int] = []

    @task_agent(registry=registry)
    def plan(ctx: TaskContext) -> list[Any]:
        calls.append(ctx.attempt)
        year = ctx.ask("which year?", {"type": "integer"})
        return [year, ctx.ask(f"why {year}?")]

    job = manager.start_job("j", [NewTaskSpec("plan")])
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    task_id = asked(job, "which year?")
    with pytest.raises(InputValidationError, match=r"asks 'which year\?'.*answer"):
        manager.answer(task_id, "soon")
    manager.answer(task_id, 1984, by="ann")
    assert asked(job, "why 1984?") == task_id
    manager.answer(task_id, {"because": (1, 2)}, by="bob")
    assert job.result(LONG) is JobStatus.COMPLETED
    (task,) = job.tasks
    assert task.output == [1984, {"because": (1, 2)}]
    assert (task.attempts, task.retry_count, calls) == (3, 0, [1, 2, 3])
    first, second = manager.answers(task_id)
    assert (first.question, first.value, first.by) == ("which year?", 1984, "ann")
    assert (second.question, second.by) == ("why 1984?", "bob")
    assert before < first.at <= second.at
    causes = [each.cause for each in manager.history(task_id)]
    assert [each for each in causes if "answered" in each] == ["answered by ann", "answered by bob"]


@pytest.mark.parametrize("how", ["raises", "blocks", "says"])
def test_who_asks_in_the_documents_form_finds_the_answer(
    manager: TaskManager, registry: Registry, how: str
) -> None:
    @task_agent(registry=registry)
    async def work(ctx: TaskContext) -> Any:
        if ctx.answer is not None:
            return ctx.answer
        if how == "raises":
            raise NeedsMoreInfo("which one?")
        if how == "blocks":
            ctx.block(reason="which one?")
        raise RuntimeError("needs_more_info")

    job = manager.start_job("j", [NewTaskSpec("work")])
    task_id = asked(job, "needs_more_info" if how == "says" else "which one?")
    manager.answer(task_id, "this one")
    assert job.result(LONG) is JobStatus.COMPLETED
    assert job.tasks[0].output == "this one"


def test_an_answer_outlives_retries_restarts_and_removal(tmp_path: Path) -> None:
    registry, url, big = Registry(), f"sqlite:{tmp_path / 'tasks.db'}", "x" * 100_000
    fails = [True]

    @task_agent(registry=registry, retry=0)
    def work(ctx: TaskContext) -> int:
        text = ctx.ask("the text?")
        if fails.pop():
            raise ValueError("not yet")
        return len(text)

    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        task_id = asked(manager.start_job("j", [NewTaskSpec("work")]), "the text?")
    with TaskManager(registry=registry, database_url=url, concurrency=0) as other:
        other.answer(task_id, big)
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        job = manager.resume_job("j")
        assert job.result(LONG) is JobStatus.FAILED
        fails.append(False)
        manager.retry(task_id)
        assert job.result(LONG) is JobStatus.COMPLETED
        assert job.tasks[0].output == len(big)
        with Store(url) as store:
            assert store.query("SELECT count(*) AS n FROM task_questions") == [{"n": 1}]
            store.retain_jobs(0, None)
            assert store.query("SELECT count(*) AS n FROM task_questions") == [{"n": 0}]


def test_only_who_waits_for_a_person_is_answered(manager: TaskManager, registry: Registry) -> None:
    @task_agent(registry=registry)
    def work(ctx: TaskContext) -> None:
        if ctx.job_id == "asks":
            ctx.ask("so?")
        elif not ctx.is_rerun:
            ctx.block(on=[manager.create_task(NewTaskSpec("nobody"), "waits")])

    registry.register_task_agent("nobody", registry.task_agents["work"])
    assert manager.start_job("done", [NewTaskSpec("work", task_id="t")]).job_id == "done"
    until(lambda: manager.get_task("t") is not None)
    with pytest.raises(TaskNotFound):
        manager.answer("none", 1)
    with pytest.raises(ConfigurationError, match="by is a text"):
        manager.answer("t", 1, by=7)  # type: ignore[arg-type]  # on purpose
    job = manager.start_job("asks", [NewTaskSpec("work")])
    task_id = asked(job, "so?")
    manager.answer(task_id, None)
    assert job.result(LONG) is JobStatus.COMPLETED, "None is an answer, too"
    with pytest.raises(InvalidState, match="is completed and waits for no person"):
        manager.answer(task_id, 1)


@pytest.mark.parametrize(("question", "schema"), [("", None), (7, None), ("so?", {"type": "x"})])
def test_what_cannot_be_asked_fails_the_task(
    manager: TaskManager, registry: Registry, question: Any, schema: Any
) -> None:
    @task_agent(registry=registry)
    def work(ctx: TaskContext) -> None:
        ctx.ask(question, schema)

    job = manager.start_job("j", [NewTaskSpec("work")])
    assert job.result(LONG) is JobStatus.FAILED
    assert "question" in job.tasks[0].error
    assert job.tasks[0].status is TaskStatus.FAILED


def test_an_answer_names_the_question_that_it_is_for(
    manager: TaskManager, registry: Registry
) -> None:
    @task_agent(registry=registry)
    def plan(ctx: TaskContext) -> list[Any]:
        return [ctx.ask("which year?"), ctx.ask("why?")]

    job = manager.start_job("j", [NewTaskSpec("plan")])
    task_id = asked(job, "which year?")
    manager.answer(task_id, 1984, by="ann", question="which year?")
    asked(job, "why?")
    for meant in ("which year?", 1):
        with pytest.raises(InvalidState, match=r"but 'why\?' \(question 2\)"):
            manager.answer(task_id, 1985, by="bob", question=meant)
    for wrong in (True, 2.0, ["why?"]):
        with pytest.raises(ConfigurationError, match="text of a question or its number"):
            manager.answer(task_id, 1985, question=wrong)  # type: ignore[arg-type]  # on purpose
    manager.answer(task_id, "so", question=2)
    assert job.result(LONG) is JobStatus.COMPLETED
    assert job.tasks[0].output == [1984, "so"]


def test_who_blocks_asks_a_question_with_a_number_too(
    manager: TaskManager, registry: Registry
) -> None:
    @task_agent(registry=registry)
    def work(ctx: TaskContext) -> list[Any]:
        if len(ctx.answers) < 2:
            ctx.block(reason="and now?")
        return [each.value for each in ctx.answers]

    job = manager.start_job("j", [NewTaskSpec("work")])
    task_id = asked(job, "and now?")
    manager.answer(task_id, "a", question=1)
    asked(job, "and now?")
    with pytest.raises(InvalidState, match="question 2"):
        manager.answer(task_id, "a", question=1)
    manager.answer(task_id, "b", question=2)
    assert job.result(LONG) is JobStatus.COMPLETED
    assert job.tasks[0].output == ["a", "b"]


def test_an_answer_that_does_not_fit_another_schema_is_not_taken(
    manager: TaskManager, registry: Registry
) -> None:
    @task_agent(registry=registry)
    def work(ctx: TaskContext) -> list[Any]:
        number = ctx.ask("how many?", {"type": "integer"})
        return [number, ctx.ask("how many?", {"type": "string"})]

    job = manager.start_job("j", [NewTaskSpec("work")])
    task_id = asked(job, "how many?")
    manager.answer(task_id, 3)
    asked(job, "how many?")
    with pytest.raises(InputValidationError):
        manager.answer(task_id, 3)
    manager.answer(task_id, "three", question=2)
    assert job.result(LONG) is JobStatus.COMPLETED
    assert job.tasks[0].output == [3, "three"]


def test_what_an_agent_adds_again_under_its_id_is_there_already(
    manager: TaskManager, registry: Registry
) -> None:
    @task_agent(registry=registry)
    def leaf(n: int) -> int:
        return n

    @task_agent(registry=registry)
    def work(ctx: TaskContext, retries: list[int]) -> Any:
        first, later = f"{ctx.job_id}-first", f"{ctx.job_id}-later"
        most = retries[ctx.attempt - 1]
        added = ctx.add_task("leaf", {"n": 1}, task_id=first, priority=2, max_retries=most)
        if not ctx.is_rerun:
            ctx.ask("so?")
        ctx.add_task("leaf", {"n": 2}, task_id=later, dependencies=[added])
        return [added, ctx.answer]

    job = manager.start_job("a", [NewTaskSpec("work", {"retries": [3, 3]})], max_tasks=3)
    manager.answer(asked(job, "so?"), "yes")
    assert job.result(LONG) is JobStatus.COMPLETED
    assert job.tasks[0].output == ["a-first", "yes"]
    assert [each.id for each in job.tasks[1:]] == ["a-first", "a-later"]
    job = manager.start_job("b", [NewTaskSpec("work", {"retries": [3, 4]})])
    manager.answer(asked(job, "so?"), "yes")
    assert job.result(LONG) is JobStatus.FAILED
    assert "added task 'b-first' before with another max_retries" in job.tasks[0].error
    with pytest.raises(TaskExists):  # who is not the parent adds another task
        manager.add_task("c", "", "leaf", input={"n": 1}, task_id="a-first")


def test_who_asks_while_it_needs_something_is_listed_with_what_it_asks(
    manager: TaskManager, registry: Registry
) -> None:
    @task_agent(registry=registry)
    def asks(ctx: TaskContext) -> Any:
        ctx.add_dependency("later")
        return ctx.ask("pay?")

    @task_agent(registry=registry)
    def later() -> None: ...

    manager.add_tasks([NewTaskSpec("later", task_id="later")], "j")
    manager.pause("later")
    manager.add_tasks([NewTaskSpec("asks", task_id="asks")], "j")
    job = manager.start_job("j")
    assert asked(job, "pay?") == "asks"
    assert [each.asks_person for each in job.tasks] == [False, True]
    manager.answer("asks", 5)
    manager.resume("later")
    assert job.result(LONG) is JobStatus.COMPLETED


def test_who_waits_for_what_was_rejected_asks_nobody(
    manager: TaskManager, registry: Registry
) -> None:
    @task_agent(registry=registry)
    def waits(ctx: TaskContext) -> Any:
        if not ctx.is_rerun:
            ctx.block(on=["needed"])
        return ctx.dependency_outputs()

    @task_agent(registry=registry)
    def needed() -> int:
        return 1

    manager.add_tasks([NewTaskSpec("needed", task_id="needed")], "j")
    manager.pause("needed")
    manager.add_tasks([NewTaskSpec("waits", task_id="waits")], "j")
    job = manager.start_job("j")
    until(lambda: job.tasks[1].status is TaskStatus.BLOCKED)
    manager.update_task_status("needed", TaskStatus.CANCELLED)
    until(lambda: job.is_finished)
    assert job.questions() == []
