"""The threads of a process go on, whatever agents and other processes do."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry, task_agent
from dagger_dsl.agents import crew as crew_module
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import InvalidState, StoreFull
from dagger_dsl.model.policies import Effects, RetryPolicy
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, Task, TaskStatus
from dagger_dsl.store.storage import Store

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'tasks.db'}?synchronous=NORMAL"


@pytest.fixture
def manager(registry: Registry, url: str) -> Iterator[TaskManager]:
    with TaskManager(registry=registry, database_url=url, concurrency=1) as made:
        yield made


def task_of(manager: TaskManager, task_id: str) -> Task:
    found = manager.get_task(task_id)
    assert found is not None
    return found


@pytest.mark.parametrize("is_async", [False, True])
def test_an_agent_that_exits_fails_its_task_and_others_go_on(
    manager: TaskManager, registry: Registry, is_async: bool
) -> None:
    @task_agent(name="leave", registry=registry)
    def leave() -> None:
        sys.exit(3)

    @task_agent(name="leave_async", registry=registry)
    async def leave_async() -> None:
        raise SystemExit(3)

    @task_agent(registry=registry)
    async def stay() -> int:
        return 1

    name = "leave_async" if is_async else "leave"
    first, second = manager.add_tasks([NewTaskSpec(name), NewTaskSpec("stay")], "j")
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    assert task_of(manager, first).error == "SystemExit: 3"
    assert task_of(manager, second).output == 1


@pytest.mark.parametrize("needs", ["nowhere", "itself"])
def test_a_task_that_waits_for_what_cannot_be_fails_alone(
    manager: TaskManager, registry: Registry, needs: str
) -> None:
    @task_agent(registry=registry)
    def wait(ctx: TaskContext) -> None:
        ctx.block(on=[ctx.task_id if needs == "itself" else needs])

    @task_agent(registry=registry)
    def work() -> int:
        return 1

    first, second = manager.add_tasks([NewTaskSpec("wait"), NewTaskSpec("work")], "j")
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    error = "CycleError" if needs == "itself" else "TaskNotFound: there is no task 'nowhere'"
    assert task_of(manager, first).error.startswith(error)
    assert task_of(manager, second).output == 1


def test_trouble_that_is_no_result_is_told_and_the_task_is_recorded_later(
    manager: TaskManager,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    left = [ValueError("a fault of ours")]
    exchange = manager._claims.exchange

    def failing(worker: str, endings: Any = (), **more: Any) -> Any:
        if endings and left:
            raise left.pop()
        return exchange(worker, endings, **more)

    @task_agent(registry=registry)
    def work() -> int:
        return 1

    monkeypatch.setattr(manager._claims, "exchange", failing)
    with caplog.at_level(logging.WARNING, logger="dagger_dsl.agents"):
        task_id = manager.add_task("j", "", "work")
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
    assert (task_of(manager, task_id).output, task_of(manager, task_id).attempts) == (1, 1)
    assert "tried again in 0.25 s: a fault of ours" in caplog.text


def test_what_was_claimed_and_not_begun_goes_back_as_it_was(
    manager: TaskManager, registry: Registry, url: str
) -> None:
    """Even one that may be called at most once: it was not called."""
    begun, go = threading.Event(), threading.Event()

    @task_agent(registry=registry)
    def work() -> None:
        begun.set()
        go.wait(LONG)

    first = manager.add_task("j", "", "work")
    assert not manager.start_job("j").is_finished
    assert begun.wait(LONG)
    second = manager.add_task("j", "", "work", effects=Effects.AT_MOST_ONCE)
    crew = manager._crew
    assert crew is not None
    (claim,), _, _ = manager._claims.exchange(crew.name, agents=["work"], wanted=1)
    crew._claimed.append(claim)
    go.set()
    crew._stopping = True
    manager.close()
    with TaskManager(registry=registry, database_url=url, concurrency=0) as other:
        assert task_of(other, first).status is TaskStatus.COMPLETED
        assert task_of(other, second).status is TaskStatus.READY
        assert task_of(other, second).worker == ""


def test_who_lost_its_tasks_says_so_and_goes_on(
    manager: TaskManager, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go = threading.Event(), threading.Event()
    cancelled: list[bool] = []

    @task_agent(registry=registry)
    def work(ctx: TaskContext) -> int:
        if ctx.attempt == 1:
            begun.set()
            go.wait(LONG)
            cancelled.append(ctx.is_cancelled)
        return ctx.attempt

    task_id = manager.add_task("j", "", "work")
    job = manager.start_job("j")
    assert begun.wait(LONG)
    crew = manager._crew
    assert crew is not None
    with caplog.at_level(logging.WARNING, logger="dagger_dsl.agents"):
        assert manager._claims.rescue(crew.name) == [task_id]
        crew._beat()
        crew._beat()
        go.set()
        assert job.result(LONG) is JobStatus.COMPLETED
    assert caplog.text.count("were given to other workers") == 1
    assert "its outcome is refused" in caplog.text
    assert cancelled == [True]
    assert (task_of(manager, task_id).output, task_of(manager, task_id).attempts) == (2, 2)


class Unsayable(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("cannot read name-\udcff"), "ValueError: cannot read name-\\udcff"),
        (Unsayable(), "Unsayable"),
    ],
)
def test_an_error_whose_text_cannot_be_kept_fails_its_task_alone(
    manager: TaskManager, registry: Registry, error: Exception, told: str, is_async: bool
) -> None:
    def fails() -> None:
        raise error

    async def fails_async() -> None:
        raise error

    task_agent(name="fails", registry=registry)(fails_async if is_async else fails)
    task_agent(name="works", registry=registry)(lambda: 1)
    first, second = manager.add_tasks([NewTaskSpec("fails"), NewTaskSpec("works")], "j")
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    assert told in task_of(manager, first).error
    assert task_of(manager, second).output == 1


def test_a_condition_for_retries_that_fails_fails_its_task_alone(
    manager: TaskManager, registry: Registry
) -> None:
    def asks(error: BaseException) -> bool:
        raise KeyError("odd")

    @task_agent(registry=registry, retry=RetryPolicy(max_attempts=3, retry_on=asks))
    def fails() -> None:
        raise ValueError("first")

    task_agent(name="works", registry=registry)(lambda: 1)
    first, second = manager.add_tasks([NewTaskSpec("fails"), NewTaskSpec("works")], "j")
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    assert "ValueError: first" in task_of(manager, first).error
    assert "KeyError" in task_of(manager, first).error
    assert task_of(manager, second).output == 1


def test_what_cannot_be_told_costs_no_task(registry: Registry, url: str) -> None:
    task_agent(name="works", registry=registry)(lambda: 1)
    left = [OSError("no space left")]

    def told(_: Any) -> None:
        if left:
            raise left.pop()

    with TaskManager(registry=registry, database_url=url, concurrency=2) as manager:
        manager.work(told)
        job = manager.start_job("j", [NewTaskSpec("works") for _ in range(100)])
        assert job.result(LONG) is JobStatus.COMPLETED


@pytest.mark.parametrize("effects", list(Effects))
def test_trouble_with_storage_inside_of_an_agent_is_no_result(
    registry: Registry, url: str, effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "_LATER", 0.01)
    calls = []

    def full() -> Any:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    @task_agent(registry=registry)
    def writes(ctx: TaskContext) -> int:
        calls.append(1)
        if len(calls) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(ctx.manager._store.database, "exclusive", full)
                ctx.state.set("k", 1)
        return 1

    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        task_id = manager.add_task("j", "", "writes", effects=effects)
        job = manager.start_job("j")
        if effects is Effects.AT_LEAST_ONCE:
            assert job.result(LONG) is JobStatus.COMPLETED
            assert len(calls) == 2
            assert task_of(manager, task_id).retry_count == 0
            return
        until(lambda: task_of(manager, task_id).status is TaskStatus.BLOCKED)
        assert "StoreFull" in task_of(manager, task_id).error
        assert "at most once: decide by hand" in task_of(manager, task_id).error
        with pytest.raises(InvalidState, match="asks nothing"):
            manager.answer(task_id, "go on")
        assert len(calls) == 1
        manager.retry(task_id)
        assert job.result(LONG) is JobStatus.COMPLETED
        assert len(calls) == 2


def _looks(url: str) -> None:
    with Store(url) as store:
        store.load_run("nope")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (lambda path: _looks(f"sqlite:{path}"), "RunNotFound"),
        (lambda path: _looks(f"sqlite:{path}?mode=ro"), "ConfigurationError"),
        (lambda path: _raise(StoreFull("the other database is full")), "StoreFull"),
    ],
)
def test_trouble_with_another_store_is_a_result_like_any_other(
    manager: TaskManager,
    registry: Registry,
    tmp_path: Path,
    trouble: Callable[[Path], Any],
    told: str,
    is_async: bool,
) -> None:
    calls = []

    def looks() -> Any:
        calls.append(1)
        return trouble(tmp_path / "other.db")

    async def looks_async() -> Any:
        return looks()

    task_agent(name="looks", registry=registry)(looks_async if is_async else looks)
    first = manager.add_task("j", "", "looks", max_retries=0)
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    assert told in task_of(manager, first).error
    assert len(calls) == 1


def test_a_run_that_the_tasks_own_store_does_not_have_is_a_result(
    manager: TaskManager, registry: Registry, url: str
) -> None:
    @task_agent(registry=registry)
    def looks() -> None:
        with Store(url) as store:
            store.load_run("nope")

    first = manager.add_task("j", "", "looks")
    assert manager.start_job("j").result(LONG) is JobStatus.FAILED
    assert "RunNotFound" in task_of(manager, first).error


def _raise(error: Exception) -> None:
    raise error


def test_a_damaged_input_fails_its_task(registry: Registry, tmp_path: Path, url: str) -> None:
    task_agent(name="reads", registry=registry)(lambda text: len(text))
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        task_id = manager.add_task("j", "", "reads", input={"text": "x" * 50_000})
        (file,) = [each for each in tmp_path.rglob("*") if each.is_file() and len(each.name) == 64]
        file.chmod(0o600)
        file.write_bytes(b"other")
        assert manager.start_job("j").result(LONG) is JobStatus.FAILED
        end = manager.history(task_id)[-1]
        assert (end.status, end.attempt) == (TaskStatus.FAILED, 1)
        assert "StoreDamaged" in end.cause


def test_an_async_task_that_is_cancelled_and_tried_again_can_be_cancelled_again(
    registry: Registry, url: str
) -> None:
    begun: list[int] = []

    @task_agent(registry=registry)
    async def waits(ctx: TaskContext) -> None:
        begun.append(ctx.attempt)
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(0.05)  # still there when it is called again

    with TaskManager(registry=registry, database_url=url, concurrency=2) as manager:
        task_id = manager.add_task("j", "", "waits")
        job = manager.start_job("j")
        for attempt in (1, 2, 3):
            until(lambda wanted=attempt: wanted in begun)  # type: ignore[misc]
            manager.update_task_status(task_id, TaskStatus.CANCELLED)
            if attempt < 3:
                manager.update_task_status(task_id, TaskStatus.READY)
        assert job.is_finished
        crew = manager._crew
        assert crew is not None
        until(lambda: not crew._calls)


def test_an_interrupt_that_comes_late_leaves_the_next_call_of_its_task_alone(
    registry: Registry, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    opens = threading.Event()

    @task_agent(registry=registry)
    async def waits(ctx: TaskContext) -> str:
        begun.append(ctx.attempt)
        while not opens.is_set():
            await asyncio.sleep(0.005)
        return f"of call {ctx.attempt}"

    with TaskManager(registry=registry, database_url=url, concurrency=2) as manager:
        task_id = manager.add_task("j", "", "waits")
        job = manager.start_job("j")
        until(lambda: begun == [1])
        late: list[Any] = []
        interrupt = manager._interrupt
        monkeypatch.setattr(manager, "_interrupt", late.append)
        manager.update_task_status(task_id, TaskStatus.CANCELLED)
        monkeypatch.setattr(manager, "_interrupt", interrupt)
        manager.update_task_status(task_id, TaskStatus.READY)
        until(lambda: begun == [1, 2])
        interrupt(*late)  # stops the first call, which goes on
        opens.set()
        assert job.result(LONG) is JobStatus.COMPLETED
        assert task_of(manager, task_id).output == "of call 2"


def until(what: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_who_could_not_begin_to_work_begins_the_next_time(
    registry: Registry, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @task_agent(registry=registry)
    def work() -> int:
        return 1

    def refuse(_: object) -> None:
        raise StoreFull("no room for a lock")

    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        with monkeypatch.context() as patch:
            patch.setattr("dagger_dsl.store.workers.Worker.arrive", refuse)
            with pytest.raises(StoreFull):
                _ = manager.start_job("j", [NewTaskSpec("work")])
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED


def test_a_damaged_value_met_by_an_agent_fails_its_task(
    manager: TaskManager, registry: Registry, tmp_path: Path
) -> None:
    @task_agent(registry=registry)
    def large() -> str:
        for file in tmp_path.rglob("*"):
            assert len(file.name) != 64
        return "x" * 50_000

    @task_agent(registry=registry)
    def lose() -> None:
        (file,) = (each for each in tmp_path.rglob("*") if len(each.name) == 64)
        file.unlink()

    @task_agent(registry=registry)
    def reads(ctx: TaskContext) -> int:
        return len(ctx.dependency_outputs()[0])

    specs = [
        NewTaskSpec("large", task_id="large"),
        NewTaskSpec("lose", task_id="lost", dependencies=["large"]),
        NewTaskSpec("reads", task_id="reads", dependencies=["large", "lost"]),
    ]
    assert manager.start_job("j", specs).result(LONG) is JobStatus.FAILED
    assert task_of(manager, "reads").error.startswith(
        "dagger_dsl.errors.StoreDamaged: the artifact"
    )
    assert task_of(manager, "reads").attempts == 1


def test_what_meets_trouble_as_it_is_handed_in_alone_is_handed_in_again(
    manager: TaskManager, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Exception] = [StoreFull("no room now"), ValueError("a fault of ours")]
    exchange = manager._claims.exchange

    def failing(worker: str, endings: Any = (), **more: Any) -> Any:
        if endings and left:
            raise left.pop()
        return exchange(worker, endings, **more)

    @task_agent(registry=registry)
    def work() -> int:
        return 1

    monkeypatch.setattr(manager._claims, "exchange", failing)
    monkeypatch.setattr(crew_module, "_LATER", 0.01)
    assert manager.start_job("j", [NewTaskSpec("work")]).result(LONG) is JobStatus.COMPLETED
    assert left == []
