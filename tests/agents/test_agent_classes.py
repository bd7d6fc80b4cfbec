"""Classes as agents: what goes wrong while an instance is made is an error of the task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagger_dsl import task_agent
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, Task
from dagger_dsl.registry import Registry
from tests.agents.helpers import LONG


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(params=["memory", "file"])
def manager(
    request: pytest.FixtureRequest, registry: Registry, tmp_path: Path
) -> Iterator[TaskManager]:
    url = None if request.param == "memory" else f"sqlite:{tmp_path / 'tasks.db'}"
    with TaskManager(registry=registry, database_url=url, concurrency=2) as made:
        yield made


def broken(registry: Registry, error: BaseException, *, is_async: bool = False) -> list[int]:
    """Register an agent whose class cannot be made; return what counts the tries."""
    tries: list[int] = []

    class Broken:
        def __init__(self) -> None:
            tries.append(1)
            raise error

        if is_async:

            async def execute(self) -> None: ...

        else:

            def execute(self) -> None: ...  # type: ignore[misc]  # one of the two

    task_agent(name="broken", registry=registry)(Broken)
    return tries


def ran(manager: TaskManager, *specs: NewTaskSpec) -> list[Task]:
    """Run tasks to the end of their job."""
    assert manager.start_job("j", specs).result(LONG) is JobStatus.FAILED
    return manager.tasks("j")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "error", [ValueError("no key"), SystemExit(2), TypeError("one string"), OSError(5, "gone")]
)
def test_a_class_that_fails_fails_its_tasks_and_no_worker(
    manager: TaskManager, registry: Registry, error: BaseException, is_async: bool
) -> None:
    broken(registry, error, is_async=is_async)
    task_agent(name="fine", registry=registry)(lambda: "done")
    failed, fine = ran(manager, NewTaskSpec("broken"), NewTaskSpec("fine"))
    assert "agent 'broken': Broken() failed" in failed.error
    assert f"{type(error).__name__}: {error}" in failed.error
    assert "without arguments" not in failed.error
    assert fine.output == "done"
    again = manager.start_job("k", [NewTaskSpec("fine")])
    assert again.result(LONG) is JobStatus.COMPLETED


def test_each_call_tries_again_to_make_it(manager: TaskManager, registry: Registry) -> None:
    tries: list[int] = []

    @task_agent(registry=registry)
    class Late:
        def __init__(self) -> None:
            tries.append(1)
            if len(tries) < 3:
                raise ConnectionError("not up yet")

        def execute(self) -> str:
            return "up"

    failed, _ = ran(manager, NewTaskSpec("Late"), NewTaskSpec("Late"))
    assert "not up yet" in failed.error
    manager.retry(failed.id)
    assert manager.job("j").result(LONG) is JobStatus.FAILED  # the other one has
    found = manager.get_task(failed.id)
    assert found is not None
    assert (found.output, len(tries)) == ("up", 3)
