"""The page of a job: what it says of tasks, calls and waits, and that it is safe and for all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry, task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.engine.words import duration
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.policies import Effects, RetryPolicy
from dagger_dsl.model.tasks import (
    JobStatus,
    NewTaskSpec,
    OnDependencyFailure,
    Task,
    TaskEvent,
    TaskStatus,
    TaskType,
)
from dagger_dsl.store.task_reads import StoredJob
from dagger_dsl.views.job_page import job_page
from tests.views.browser import launched, shown
from tests.views.checks import faint_texts, violations
from tests.views.pages import check

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0

_OPEN = "() => document.querySelectorAll('details').forEach(each => { each.open = true; })"

BEGAN = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    return BEGAN + dt.timedelta(seconds=seconds)


def task(task_id: str, status: TaskStatus = TaskStatus.COMPLETED, **fields: Any) -> Task:
    """Return a task as it may have been read."""
    given: dict[str, Any] = {
        "id": task_id,
        "job_id": "job",
        "agent": "reader",
        "status": status,
        "task_type": TaskType.TASK,
        "description": "",
        "acceptance_criteria": None,
        "summary": None,
        "parent": None,
        "dependencies": (),
        "input": {"n": 1},
        "output": None,
        "error": "",
        "priority": 0,
        "timeout": None,
        "max_retries": None,
        "effects": Effects.AT_LEAST_ONCE,
        "on_dependency_failure": OnDependencyFailure.FAIL,
        "key": None,
        "attempts": 1,
        "retry_count": 0,
        "worker": "",
        "version": 3,
        "created_at": BEGAN,
        "updated_at": BEGAN,
        "started_at": at(1),
        "finished_at": at(2),
        **fields,
    }
    return Task(**given)


def job(status: JobStatus = JobStatus.COMPLETED, **fields: Any) -> StoredJob:
    given: dict[str, Any] = {
        "id": "job",
        "status": status,
        "unfinished": 0,
        "failed": 0,
        "allowed_agents": None,
        "config": {},
        "deadline": None,
        "error": "",
        "created_at": BEGAN,
        "updated_at": at(10),
        **fields,
    }
    return StoredJob(**given)


def event(task_id: str, status: str, when: float, attempt: int = 0, cause: str = "") -> TaskEvent:
    return TaskEvent(task_id, TaskStatus(status), at(when), cause, "w" if attempt else "", attempt)


def hostile(address: str) -> str:
    """Return the page of a job in which every text tries to load something and to run something."""
    bad = (
        f"<script>console.error('ran')</script><img src={address}/img onerror=alert(1)>"
        f'"\'><link rel=stylesheet href="{address}/css"><style>@import "{address}/import";'
        f"body{{background:url({address}/url)}}</style></title></style>&lt;\u202e"
    )
    texts: dict[str, Any] = {
        "agent": bad,
        "description": bad,
        "acceptance_criteria": bad,
        "summary": bad,
        "input": {bad: bad},
        "output": [bad],
        "error": bad,
        "worker": bad,
        "key": bad,
    }
    tasks = [
        task(bad, TaskStatus.FAILED, **texts),
        task("blocked", TaskStatus.BLOCKED, parent=bad, dependencies=(bad,), **texts),
        task("done", **texts),
    ]
    events = [
        event(bad, "ready", 0, cause=bad),
        TaskEvent(bad, TaskStatus.RUNNING, at(1), bad, bad, 1),
        TaskEvent(bad, TaskStatus.FAILED, at(2), bad, bad, 1),
    ]
    whole = job(JobStatus.FAILED, id=bad, error=bad, allowed_agents=(bad,), config={bad: bad})
    return job_page(tasks, whole, events)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def manager(registry: Registry, tmp_path: Path) -> Iterator[TaskManager]:
    url = f"sqlite:{tmp_path / 'tasks.db'}"
    with TaskManager(registry=registry, database_url=url, concurrency=2) as made:
        yield made


def test_a_job_that_ran_is_shown_with_its_tasks_calls_and_history(
    manager: TaskManager, registry: Registry, tmp_path: Path
) -> None:
    @task_agent(registry=registry, retry=RetryPolicy(max_attempts=2, base_delay=0.01))
    def reader(ctx: TaskContext, n: int) -> Any:
        if n == 1 and ctx.attempt == 1:
            raise ValueError("try that again")
        if n == 2:
            raise ValueError("no such page")
        return {"read": n}

    @task_agent(registry=registry)
    def planner(ctx: TaskContext) -> Any:
        if not ctx.is_rerun:
            ctx.block(on=[ctx.add_task("reader", {"n": 1}, description="Read the first page")])
        return "a plan"

    handle = manager.start_job(
        "research",
        [
            NewTaskSpec("planner", description="Plan it", task_type="objective"),
            NewTaskSpec("reader", {"n": 2}, task_id="second", summary="of no use"),
            NewTaskSpec("reader", {"n": 3}, dependencies=["second"], description="Never read"),
        ],
        ["planner", "reader"],
        {"depth": 3},
    )
    assert handle.result(LONG) is JobStatus.FAILED
    path = tmp_path / "job.html"
    page = handle.to_html(path)
    assert path.read_text(encoding="utf-8") == page
    found = check(page)
    titles = [title for level, title in found.headings if level == 2]
    assert titles == [
        "What failed", "Graph", "Timeline", "Tasks", "Results", "History", "Configuration"
    ]  # fmt: skip
    assert found.headings[0] == (1, "research")
    for told in (
        "ValueError: no such page",
        "ValueError: try that again",
        "a task that it needs was not completed",
        "a plan",
        "Read the first page",
        "of no use",
        "depth",
        "allowed agents",
        "2 tasks",
    ):
        assert told in found.text, told
    assert 'class="bar b-failed"' in page
    assert 'class="bar b-waiting"' in page, "the planner's first call found out what it needs"
    assert "a call that found out what else it needs" in page


def test_calls_and_waits_are_told_apart() -> None:
    events = [
        event("a", "ready", 0, cause="added"),
        event("a", "running", 1, 1),
        event("a", "pending", 3, 1, "ValueError: x"),
        event("a", "ready", 7, cause="its time has come"),
        event("a", "running", 7.5, 2),
        event("a", "completed", 8, 2),
        event("later", "ready", 9),
    ]
    page = job_page([task("a", attempts=2, output=5)], job(), events)
    found = check(page)
    assert f'title="call 1: pending in {duration(2.0)}: ValueError: x"' in page
    assert (
        f'title="waits for tasks, or for its next call for {duration(4.0)}: ValueError: x"' in page
    )
    assert f'title="waits for a worker for {duration(1.0)}: added"' in page
    cells = found.text.split("Input and output")[1]
    assert duration(5.5) in cells, "what it waited"
    assert duration(2.5) in cells, "what its calls took"


@pytest.mark.parametrize("status", list(JobStatus))
def test_every_job_has_a_page_also_one_without_tasks(status: JobStatus) -> None:
    assert str(status) in check(job_page([], job(status), [])).text


@pytest.mark.parametrize("status", list(TaskStatus))
def test_every_status_of_a_task_is_told_by_its_own_word(status: TaskStatus) -> None:
    events = [event("a", "ready", 0), event("a", "running", 1, 1), event("a", str(status), 2, 1)]
    found = check(job_page([task("a", status, error="why")], job(JobStatus.RUNNING), events))
    assert str(status) in found.text.split("Input and output")[1]


def test_a_job_that_runs_shows_what_it_is_at() -> None:
    tasks = [task("a", TaskStatus.RUNNING), task("b", TaskStatus.BLOCKED, error="decide, please")]
    events = [event("a", "ready", 0), event("a", "running", 1, 1)]
    page = job_page(tasks, job(JobStatus.RUNNING), events)
    found = check(page)
    assert 'class="bar b-running"' in page
    assert "decide, please" in found.text.split("What waits")[2]
    assert "As it was" in found.text


def test_large_jobs_make_no_large_pages() -> None:
    many = [
        task(f"t{k}", TaskStatus.FAILED if k % 7 == 0 else TaskStatus.COMPLETED, output="x" * 5_000,
             input={"text": "y" * 5_000}, error="z" * 50_000 if k % 7 == 0 else "")
        for k in range(5_000)
    ]  # fmt: skip
    events = [
        each
        for k in range(5_000)
        for each in (event(f"t{k}", "running", k, 1), event(f"t{k}", "completed", k + 1, 1))
    ]
    page = job_page(many, job(JobStatus.FAILED), events)
    found = check(page)
    assert len(page) < 4_000_000
    assert "too many for a picture" in found.text
    assert "4,000 more tasks that are not shown" in found.text
    assert "9,000 earlier changes are not shown" in found.text


def test_what_data_says_cannot_become_markup() -> None:
    page = hostile("http://127.0.0.1:9")
    found = check(page)
    assert "<script>" in found.text
    assert "&lt;script&gt;" in page


def test_a_page_that_cannot_be_written_is_a_users_error(
    manager: TaskManager, registry: Registry, tmp_path: Path
) -> None:
    handle = manager.start_job("empty")
    with pytest.raises(ConfigurationError):
        handle.to_html(tmp_path / "nowhere" / "job.html")


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_it_quietly_and_axe_finds_nothing(tmp_path: Path, dark: bool) -> None:
    events = [
        event("a", "ready", 0, cause="added"),
        event("a", "running", 1, 1),
        event("a", "blocked", 3, 1),
        event("a", "running", 5, 2),
        event("a", "completed", 6, 2),
        *(each for k in range(70) for each in (
            event(f"t{k}", "ready", k), event(f"t{k}", "running", k + 1, 1),
            event(f"t{k}", "failed", k + 2, 1))),
    ]  # fmt: skip
    tasks = [
        task("a", attempts=2, output=5, description="Plan it"),
        *(
            task(f"t{k}", TaskStatus.FAILED, error="x", dependencies=("a",), parent="a")
            for k in range(70)
        ),
    ]
    pages = {
        "job": job_page(tasks, job(JobStatus.FAILED, config={"depth": 3}), events),
        "statuses": job_page(
            [task(str(each), each, error="why") for each in TaskStatus],
            job(JobStatus.RUNNING),
            [event(str(each), str(each), 1) for each in TaskStatus],
        ),
        "hostile": hostile("http://127.0.0.1:9"),
    }
    with launched() as browser:
        for kind, page in pages.items():
            path = tmp_path / f"{kind}.html"
            path.write_text(page, encoding="utf-8")
            with shown(browser, path, dark=dark) as view:
                view.evaluate(
                    "() => document.querySelectorAll('details').forEach(e => e.open = true)"
                )
                assert violations(view) == []
                assert faint_texts(view) == []
