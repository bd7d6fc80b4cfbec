"""How a crew holds tasks: quick ones together, and never longer than others should wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dagger_dsl import Registry, task_agent
from dagger_dsl.agents import crew
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.model.tasks import NewTaskSpec, TaskStatus
from dagger_dsl.store.task_claims import Ending

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


def until(what: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'tasks.db'}"


class Gate:
    """An agent that is quick, but for the inputs that it waits at."""

    def __init__(self, registry: Registry, name: str = "a") -> None:
        self.began = threading.Event()
        self.opens = threading.Event()
        self.called: list[int] = []
        task_agent(name=name, registry=registry)(self.agent)

    def agent(self, number: int, waits: bool = False) -> int:
        """Return the number, once the gate is open where this input waits at it."""
        self.called.append(number)
        if waits:
            self.began.set()
            self.opens.wait(LONG)
        return number


def quick(manager: TaskManager) -> None:
    """Let a crew find out that its agent is quick; a call that was interrupted seemed not to be."""
    for turn in range(100):
        tasks = [NewTaskSpec("a", {"number": -1}) for _ in range(30)]
        manager.start_job(f"quick {turn}", tasks).result(LONG)
        if manager._crew is not None and manager._crew._paces["a"] < crew._QUICK:
            return
    raise AssertionError("no call was quick")


def test_what_waits_behind_a_slow_call_is_given_to_others(registry: Registry, url: str) -> None:
    gate = Gate(registry)
    with TaskManager(registry=registry, database_url=url, concurrency=1) as one:
        quick(one)
        tasks = [NewTaskSpec("a", {"number": n, "waits": n == 5}) for n in range(20)]
        job = one.start_job("j", tasks)
        assert gate.began.wait(LONG)
        with TaskManager(registry=registry, database_url=url, concurrency=1) as other:
            other.work()
            until(lambda: sum(task.is_finished for task in job.tasks) == 19)
        gate.opens.set()
        assert job.result(LONG) == "completed"
        told = sorted(each for each in gate.called if each >= 0)
        assert told == list(range(20)), "nothing is called twice"
        assert [task.attempts for task in job.tasks] == [1] * 20


def test_what_has_ended_is_recorded_while_a_slow_call_goes_on(registry: Registry, url: str) -> None:
    gate = Gate(registry)
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        quick(manager)
        tasks = [NewTaskSpec("a", {"number": n, "waits": n == 3}) for n in range(4)]
        job = manager.start_job("j", tasks)
        assert gate.began.wait(LONG)
        until(lambda: [task.output for task in job.tasks] == [0, 1, 2, None])
        gate.opens.set()
        job.result(LONG)


def test_a_task_that_was_cancelled_before_it_began_is_not_called(
    registry: Registry, url: str
) -> None:
    gate = Gate(registry)
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        quick(manager)
        tasks = [NewTaskSpec("a", {"number": n, "waits": n == 0}) for n in range(10)]
        job = manager.start_job("j", tasks)
        assert gate.began.wait(LONG)
        manager.update_task_status(job.tasks[7].id, TaskStatus.CANCELLED)
        gate.opens.set()
        job.result(LONG)
        assert 7 not in gate.called
        assert len(set(gate.called)) == 10


def test_a_crew_that_stops_gives_back_what_it_has_not_begun(registry: Registry, url: str) -> None:
    gate = Gate(registry)
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        quick(manager)
        tasks = [NewTaskSpec("a", {"number": n, "waits": n == 0}) for n in range(10)]
        job = manager.start_job("j", tasks)
        assert gate.began.wait(LONG)
        closing = threading.Thread(target=manager.close)
        closing.start()
        until(lambda: manager._crew is None)
        gate.opens.set()
        closing.join(LONG)
    with TaskManager(registry=registry, database_url=url, concurrency=0) as manager:
        job = manager.job("j")
        assert [str(task.status) for task in job.tasks] == ["completed", *["ready"] * 9]
        assert [task.attempts for task in job.tasks] == [1, *[0] * 9]


def test_tasks_that_may_be_called_once_are_not_held(registry: Registry, url: str) -> None:
    Gate(registry)
    with TaskManager(registry=registry, database_url=url, concurrency=0) as manager:
        once = NewTaskSpec("a", {"number": 1}, effects="at_most_once")
        often = NewTaskSpec("a", {"number": 2})
        _ = manager.start_job("j", [often, often, often, once, often])
        claims, _, _ = manager._claims.exchange("w", agents=["a"], wanted=1, ahead=9, quick={"a"})
        assert len(claims) == 3
        (claim,), _, _ = manager._claims.exchange("w", agents=["a"], wanted=1, ahead=9, quick="")
        assert claim.effects == "at_most_once"


def test_tasks_that_were_called_before_are_not_held(registry: Registry, url: str) -> None:
    # Else those next to a task that kills its workers would be counted as its accomplices.
    Gate(registry)
    with TaskManager(registry=registry, database_url=url, concurrency=0) as manager:
        _ = manager.start_job("j", [NewTaskSpec("a", {"number": n}) for n in range(5)])
        held = manager._claims
        claims, _, _ = held.exchange("w", agents=["a"], wanted=1, ahead=9, quick={"a"})
        assert len(claims) == 5
        assert len(held.rescue("w")) == 5
        claims, _, _ = held.exchange("x", agents=["a"], wanted=1, ahead=9, quick={"a"})
        assert [claim.attempt for claim in claims] == [2]


def test_what_was_given_back_counts_as_not_called(registry: Registry, url: str) -> None:
    Gate(registry)
    with TaskManager(registry=registry, database_url=url, concurrency=0) as manager:
        _ = manager.start_job("j", [NewTaskSpec("a", {"number": 1})])
        (claim,), _, _ = manager._claims.exchange("w", agents=["a"], wanted=1)
        manager._claims.exchange("w", [Ending(claim, TaskStatus.READY, begun=False)])
        (claim,), _, _ = manager._claims.exchange("w", agents=["a"], wanted=1)
        assert claim.attempt == 1


def test_an_agent_that_is_registered_later_is_run(registry: Registry, url: str) -> None:
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        manager.work()

        @task_agent(registry=registry)
        async def late(ctx: TaskContext) -> str:
            return ctx.job_id

        job = manager.start_job("j", [NewTaskSpec("late")])
        job.result(LONG)
        assert job.tasks[0].output == "j"


def test_an_agent_that_is_registered_again_is_run_as_it_is_now(
    registry: Registry, url: str
) -> None:
    def define(word: str) -> None:
        @task_agent(registry=registry)
        def says() -> str:
            return word

    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        for word in ("old", "new"):
            define(word)
            job = manager.start_job(word, [NewTaskSpec("says")])
            job.result(LONG)
            assert job.tasks[0].output == word


def test_who_gives_up_waiting_on_an_event_loop_leaves_nothing_behind(registry: Registry) -> None:
    gate = Gate(registry)
    with TaskManager(registry=registry, concurrency=1) as manager:
        job = manager.start_job("j", [NewTaskSpec("a", {"number": 1, "waits": True})])

        async def waits() -> None:
            with pytest.raises(TimeoutError, match="has not ended within"):
                await job.wait(0.05)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(job, 0.05)

        # `asyncio.run` joins the threads of its executor, and none may wait for the job.
        asyncio.run(waits())
        assert not manager._listeners
        gate.opens.set()
        assert asyncio.run(job.wait(LONG)) == "completed"


def test_async_tasks_hold_no_thread(registry: Registry, url: str) -> None:
    together = asyncio.Event()
    here = 0

    @task_agent(registry=registry)
    async def meets() -> int:
        nonlocal here
        here += 1
        if here == 200:
            together.set()
        await asyncio.wait_for(together.wait(), LONG)
        return threading.active_count()

    before = threading.active_count()
    with TaskManager(registry=registry, database_url=url, concurrency=200) as manager:
        job = manager.start_job("j", [NewTaskSpec("meets") for _ in range(200)])
        assert job.result(LONG) == "completed"
        assert max(task.output for task in job.tasks) < before + 10


def test_no_more_async_tasks_go_on_at_a_time_than_was_said(registry: Registry, url: str) -> None:
    now, most = 0, 0

    @task_agent(registry=registry)
    async def counts() -> None:
        nonlocal now, most
        now += 1
        most = max(now, most)
        await asyncio.sleep(0)
        now -= 1

    with TaskManager(registry=registry, database_url=url, concurrency=3) as manager:
        job = manager.start_job("j", [NewTaskSpec("counts") for _ in range(100)])
        assert job.result(LONG) == "completed"
    assert 1 < most <= 3


def test_a_crew_that_stops_waits_for_async_tasks(registry: Registry, url: str) -> None:
    began, goes_on = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    @task_agent(registry=registry)
    async def waits() -> str:
        loops.append(asyncio.get_running_loop())
        began.set()
        await goes_on.wait()
        return "done"

    manager = TaskManager(registry=registry, database_url=url, concurrency=1)
    _ = manager.start_job("j", [NewTaskSpec("waits")])
    assert began.wait(LONG)
    closing = threading.Thread(target=manager.close)
    closing.start()
    until(lambda: manager._crew is None)
    loops[0].call_soon_threadsafe(goes_on.set)
    closing.join(LONG)
    with TaskManager(registry=registry, database_url=url, concurrency=0) as manager:
        assert manager.job("j").tasks[0].output == "done"


def test_an_async_agent_that_cancels_itself_has_failed(registry: Registry, url: str) -> None:
    @task_agent(registry=registry)
    async def gives_up() -> None:
        raise asyncio.CancelledError

    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        job = manager.start_job("j", [NewTaskSpec("gives_up")])
        assert job.result(LONG) == "failed"
        assert "cancelled from inside" in job.tasks[0].error
