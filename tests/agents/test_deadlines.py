"""A task whose time is over has failed, whatever its async agent makes of that."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from dagger_dsl import Registry, task_agent
from dagger_dsl.agents import calling
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, Task
from tests.agents.helpers import LONG, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave behind, and tell, after little time."""
    monkeypatch.setattr(calling, "_LEAVE", 0.02)
    monkeypatch.setattr(calling, "_BLOCKED", 0.02)


def task_of(manager: TaskManager, task_id: str) -> Task:
    found = manager.get_task(task_id)
    assert found is not None
    return found


def test_an_async_agent_that_swallows_its_cancelling_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry, opens, ended = Registry(), threading.Event(), threading.Event()

    @task_agent(registry=registry, timeout=0.05)
    async def stays() -> int:
        while not opens.is_set():
            try:
                await asyncio.sleep(0.01)
            except BaseException:  # what people write
                pass
        ended.set()
        return 1

    @task_agent(registry=registry)
    async def other() -> int:
        return 2

    with TaskManager(registry=registry, concurrency=1) as manager:
        first, second = manager.add_tasks([NewTaskSpec("stays"), NewTaskSpec("other")], "j")
        assert manager.start_job("j").result(LONG) is JobStatus.FAILED
        assert "NodeTimeout: " in task_of(manager, first).error
        assert "0.05 s" in task_of(manager, first).error
        assert task_of(manager, second).output == 2
        assert caplog.text.count("it is left behind") == 1
        opens.set()
        assert ended.wait(LONG)
        assert [each.status for each in manager.history(first)][-1] == "failed"


def test_an_async_agent_that_never_gives_way_fails_in_time_and_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "_LEAVE", LONG)
    registry, opens = Registry(), threading.Event()

    @task_agent(registry=registry, timeout=0.05)
    async def computes(input: int) -> int:
        opens.wait(LONG)
        return input

    with TaskManager(registry=registry, concurrency=1) as manager:
        first = manager.add_task("j", "", "computes", input=1)
        try:
            job = manager.start_job("j")
            until(lambda: "agent 'computes' holds the event loop of all" in caplog.text)
            assert f"in task {first!r}" in caplog.text
            monkeypatch.setattr(calling, "_LEAVE", 0.02)
            assert job.result(LONG) is JobStatus.FAILED
            assert "NodeTimeout: " in task_of(manager, first).error
            assert "never gives way" in caplog.text
        finally:
            opens.set()
        again = manager.add_task("k", "", "computes", input=2, timeout=LONG)
        assert manager.start_job("k").result(LONG) is JobStatus.COMPLETED
        assert task_of(manager, again).output == 2


@pytest.mark.parametrize("gives", ["value", "error"])
def test_what_an_async_agent_gives_too_late_is_no_outcome(
    gives: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "_LEAVE", LONG)
    registry = Registry()

    @task_agent(registry=registry, timeout=0.01)
    async def computes() -> int:
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass
        if gives == "error":
            raise ValueError("too late")
        return 1

    with TaskManager(registry=registry, concurrency=1) as manager:
        first = manager.add_task("j", "", "computes")
        assert manager.start_job("j").result(LONG) is JobStatus.FAILED
        assert "NodeTimeout: " in task_of(manager, first).error
        assert "too late" not in task_of(manager, first).error


def test_who_holds_the_event_loop_without_a_limit_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = Registry()

    @task_agent(registry=registry)
    async def computes() -> int:
        until(lambda: "holds the event loop" in caplog.text)
        return 1

    with (
        caplog.at_level(logging.WARNING, logger="dagger_dsl.agents"),
        TaskManager(registry=registry, concurrency=1) as manager,
    ):
        manager.add_task("j", "", "computes")
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
        assert caplog.text.count("holds the event loop") == 1
