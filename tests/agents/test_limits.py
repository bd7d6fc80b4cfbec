"""Tasks that wait for room: rates and numbers of agents, and a tracker shared with runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, Registry, action, task_agent
from dagger_dsl.agents.calling import Calling
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import ConfigurationError, ResourceExhausted
from dagger_dsl.model.rates import Rate
from dagger_dsl.model.resources import ResourceTracker
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec
from tests.agents.helpers import until
from tests.engine.test_resources import LONG, Meter, completed, empty


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "memory" else f"sqlite:{tmp_path / 'tasks.db'}"


def tasks(agent: str, count: int, **more: Any) -> list[NewTaskSpec]:
    return [NewTaskSpec(agent, number, **more) for number in range(count)]


@pytest.mark.row("Q4")
def test_no_more_tasks_of_an_agent_run_at_the_same_time_than_it_says(url: str | None) -> None:
    meter = Meter()

    @task_agent(max_running=2)
    def limited(input: int) -> int:
        meter.begin()
        time.sleep(0.002)
        meter.end()
        return input

    @task_agent
    def free(input: int) -> int:
        return input

    with TaskManager(database_url=url, concurrency=6) as manager:
        job = manager.start_job("j", [*tasks("limited", 12), *tasks("free", 6)])
        assert job.result(LONG) is JobStatus.COMPLETED
    assert meter.most["calls"] == 2


def test_a_rate_spreads_calls_over_time(url: str | None) -> None:
    began: list[float] = []

    @task_agent(rate=Rate(3, per=0.2))
    async def limited(input: int) -> int:
        began.append(time.monotonic())
        return input

    with TaskManager(database_url=url, concurrency=4) as manager:
        first = time.monotonic()
        job = manager.start_job("j", tasks("limited", 10))
        assert job.result(LONG) is JobStatus.COMPLETED
    began.sort()
    assert began[-1] - first >= 3 * 0.2
    assert began[3] - first >= 0.2


def test_a_crew_that_waits_for_a_rate_looks_seldom() -> None:
    asked = 0

    @task_agent(rate="1/h")
    def limited(input: int) -> int:
        return input

    with TaskManager(concurrency=4) as manager:
        exchange = manager._claims.exchange

        def counting(*given: Any, **more: Any) -> Any:
            nonlocal asked
            asked += 1
            return exchange(*given, **more)

        manager._claims.exchange = counting  # type: ignore[method-assign]
        job = manager.start_job("j", tasks("limited", 2))
        while [each.is_finished for each in job.tasks].count(True) < 1:
            time.sleep(0.001)
        time.sleep(0.1)
        before = asked
        time.sleep(1.0)
        assert asked - before <= 8
        job.cancel()


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "most"), [("10/0.4s", ""), ("", "2")])
def test_processes_share_the_limits_of_an_agent(rate: str, most: str, tmp_path: Path) -> None:
    url, notes = f"sqlite:{tmp_path / 'tasks.db'}", tmp_path / "notes"

    @task_agent
    def limited(input: int) -> int:
        return input

    with TaskManager(database_url=url, concurrency=0) as manager:
        _job = manager.start_job("j", tasks("limited", 45))
        script = str(Path(__file__).with_name("limits_worker.py"))
        found_by = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        workers = [
            subprocess.Popen([sys.executable, script, url, str(notes), rate, most], env=found_by)
            for _ in range(4)
        ]
        try:
            assert manager.job("j").result(LONG) is JobStatus.COMPLETED
            assert [each.wait(LONG) for each in workers] == [0] * 4
        finally:
            for each in workers:
                each.kill()
                each.wait()
        events = [manager.history(each.id) for each in manager.tasks("j")]
    lines = [line.split() for line in notes.read_text().splitlines()]
    assert len(lines) == 90
    if rate:
        claimed = min(each.at.timestamp() for some in events for each in some if each.worker)
        last = max(float(wall) for what, _, wall in lines if what == "begin")
        assert last - claimed >= 4 * 0.4
    else:
        changes = sorted((float(at), 1 if what == "begin" else -1) for what, at, _ in lines)
        running = most_running = 0
        for _, change in changes:
            running += change
            most_running = max(most_running, running)
        assert most_running == 2


# --- a tracker -----------------------------------------------------------------------------------


@pytest.mark.row("Q2", "Q3")
def test_tasks_are_claimed_when_there_is_room_for_them(url: str | None) -> None:
    meter, tracker = Meter(), ResourceTracker(memory_limit=10, task_limit=3)

    @task_agent(memory=4)
    def large(input: int) -> int:
        meter.begin(4)
        time.sleep(0.002)
        meter.end(4)
        return input

    @task_agent(memory=1)
    async def small(input: int) -> int:
        meter.begin(1)
        await asyncio.sleep(0.002)
        meter.end(1)
        return input

    with TaskManager(database_url=url, concurrency=6, resources=tracker) as manager:
        job = manager.start_job("j", [*tasks("large", 10), *tasks("small", 10)])
        assert job.result(LONG) is JobStatus.COMPLETED
        assert manager.resources is tracker
    assert meter.most["memory"] <= 10
    assert 1 < meter.most["calls"] <= 3
    assert empty(tracker)


@pytest.mark.row("Q4")
def test_a_run_and_a_job_that_go_on_at_once_share_one_limit(url: str | None) -> None:
    meter, tracker = Meter(), ResourceTracker(memory_limit=10, task_limit=4)

    def body(memory: int) -> int:
        meter.begin(memory, "node" if memory == 3 else "task")
        time.sleep(0.002)
        meter.end(memory)
        return memory

    @task_agent(memory=4)
    def agent(input: int) -> int:
        return body(4)

    @action(memory=3)
    def node() -> int:
        return body(3)

    with DAG("fan") as dag:
        for _ in range(30):
            dag.add(node)
    with TaskManager(database_url=url, concurrency=4, resources=tracker) as manager:
        job = manager.start_job("j", tasks("agent", 30))
        run = dag.start(runner="threads", max_workers=4, resources=tracker)
        assert completed(run.result(LONG)) == 30
        assert job.result(LONG) is JobStatus.COMPLETED
    assert meter.most["memory"] <= 10
    assert meter.most["calls"] <= 3
    assert empty(tracker)
    both = meter.order
    last_task = len(both) - both[::-1].index("task")
    assert both.index("node") < last_task, "they went on beside each other"


@pytest.mark.row("Q2")
def test_a_task_that_can_never_fit_is_refused_and_one_that_cannot_any_more_fails() -> None:
    tracker, called = ResourceTracker(memory_limit=10), threading.Event()

    @task_agent(memory=11)
    def huge(input: int) -> int:
        called.set()
        return input

    @task_agent(memory=8, retry=5)
    def large(input: int) -> int:
        called.set()
        return input

    with TaskManager(concurrency=1, resources=tracker) as manager:
        with pytest.raises(ResourceExhausted, match="a task of agent 'huge' declares 11 bytes"):
            _job = manager.start_job("j", tasks("huge", 1))
        other = tracker.ask("somebody else", 10, lambda: None)
        job = manager.start_job("j2", tasks("large", 1))
        while not tracker.waiting:
            time.sleep(0.001)
        (task,) = job.tasks
        assert task.status == "ready", "what waits is not claimed: another process could run it"
        tracker.set_memory_limit(5)
        assert job.result(LONG) is JobStatus.FAILED
        (task,) = job.tasks
        assert "ResourceExhausted: a task of agent 'large' declares 8 bytes" in task.error
        assert task.attempts == 1
        other.release()
    assert not called.is_set()
    assert empty(tracker)


def test_failures_timeouts_waits_and_cancels_give_back_what_they_took(url: str | None) -> None:
    tracker = ResourceTracker(memory_limit=10, task_limit=2)

    @task_agent(memory=6, retry=1)
    def fails(input: int) -> int:
        raise ValueError("boom")

    @task_agent(memory=6, timeout=0.05)
    async def slow(input: int) -> None:
        await asyncio.sleep(LONG)

    @task_agent(memory=6)
    def waits(input: int, ctx: Any) -> int:
        if not ctx.is_rerun:
            ctx.block(on=[ctx.add_task("part", 1)])
        return input

    @task_agent(memory=9)
    def part(input: int) -> int:
        return input

    @task_agent(memory=6)
    async def stuck(input: int) -> None:
        await asyncio.sleep(LONG)

    with TaskManager(database_url=url, concurrency=3, resources=tracker) as manager:
        specs = [*tasks("fails", 1, max_retries=0), *tasks("slow", 1), *tasks("waits", 1)]
        assert manager.start_job("j", specs).result(LONG) is JobStatus.FAILED
        states = {each.agent: str(each.status) for each in manager.tasks("j")}
        expected = {"fails": "failed", "slow": "failed", "waits": "completed", "part": "completed"}
        assert states == expected
        job = manager.start_job("k", tasks("stuck", 1))
        while not tracker.tasks_in_use:
            time.sleep(0.001)
        job.cancel()
        until = time.monotonic() + LONG
        while not empty(tracker) and time.monotonic() < until:
            time.sleep(0.001)
        assert empty(tracker)


def test_a_cancel_just_before_its_call_begins_is_heard(
    url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is on its way to the event loop then, and nothing is there to be interrupted."""
    tracker, sent = ResourceTracker(memory_limit=10), []

    @task_agent(memory=6)
    async def stuck(input: int) -> None:
        sent.append(input)
        await asyncio.sleep(LONG)

    with TaskManager(database_url=url, concurrency=1, resources=tracker) as manager:
        original = Calling._await

        def cancelled_first(self: Calling, caller: Any, call: Any, ctx: Any, *more: Any) -> Any:
            manager.cancel_job("k")
            return original(self, caller, call, ctx, *more)

        monkeypatch.setattr(Calling, "_await", cancelled_first)
        job = manager.start_job("k", tasks("stuck", 1))
        assert job.result(LONG) is JobStatus.CANCELLED
        until = time.monotonic() + LONG / 2
        while not empty(tracker) and time.monotonic() < until:
            time.sleep(0.001)
        assert empty(tracker)


def test_a_manager_that_is_closed_holds_nothing() -> None:
    tracker, go_on = ResourceTracker(memory_limit=10), threading.Event()

    @task_agent(memory=6)
    def stuck(input: int) -> None:
        go_on.wait(LONG)

    manager = TaskManager(concurrency=3, resources=tracker)
    _job = manager.start_job("j", tasks("stuck", 3))
    while not (tracker.tasks_in_use and tracker.waiting):
        time.sleep(0.001)
    manager.close(grace=0.05)
    assert empty(tracker)
    go_on.set()


def test_a_task_that_runs_a_graph_does_not_wait_for_what_it_holds(url: str | None) -> None:
    tracker = ResourceTracker(memory_limit=10, task_limit=2)

    @action(memory=6)
    def leaf(x: int) -> int:
        return x + 1

    dag = DAG(leaf, name="inside")

    @task_agent(memory=6)
    def pays(input: int) -> Any:
        return dag.run({"x": input}, resources=tracker)

    @task_agent
    def holds_nothing(input: int) -> Any:
        return dag.run({"x": input}, resources=tracker)

    @task_agent
    async def awaits(input: int) -> Any:
        return await dag.run_async({"x": input}, resources=tracker)

    names = ("pays", "holds_nothing", "awaits")
    with TaskManager(database_url=url, concurrency=6, resources=tracker) as manager:
        job = manager.start_job("j", [spec for name in names for spec in tasks(name, 4)])
        assert job.result(LONG) is JobStatus.COMPLETED
        assert sorted({each.output for each in job.tasks}) == [1, 2, 3, 4]
    assert empty(tracker)


def test_a_large_task_is_not_starved_by_the_small_ones_of_a_run() -> None:
    tracker, begun = ResourceTracker(memory_limit=10), threading.Event()

    @task_agent(memory=10)
    def large(input: int) -> int:
        begun.set()
        return input

    @action(memory=2)
    def small(x: int) -> int:
        time.sleep(0.001)
        return x

    with DAG("many") as dag:
        for number in range(3_000):
            small(x=number)
    with TaskManager(concurrency=1, resources=tracker) as manager:
        run = dag.start(runner="threads", max_workers=5, resources=tracker)
        while not tracker.tasks_in_use:
            time.sleep(0.001)
        job = manager.start_job("j", tasks("large", 1))
        assert begun.wait(LONG)
        assert not run.done, "it began while small ones were left"
        run.cancel("enough")
        assert job.result(LONG) is JobStatus.COMPLETED
        run.result(LONG)
    assert empty(tracker)


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("rate", "10", "@task_agent: rate is a Rate, such as"),
        ("rate", 10, "@task_agent: rate is a Rate, such as"),
        ("rate", "0/s", "@task_agent: rate '0/s'"),
        ("max_running", 0, "@task_agent: max_running must be a whole number of at least 1"),
        ("max_running", "2", "@task_agent: max_running must be"),
        ("memory", "1 GB", "@task_agent: memory counts bytes"),
        ("memory", -1, "@task_agent: memory counts bytes"),
        ("max_runing", 2, "did you mean 'max_running'"),
    ],
)
def test_impossible_limits_are_refused(option: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        task_agent(**{option: value})(lambda input: input)


def test_what_is_no_tracker_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="resources is a ResourceTracker"):
        TaskManager(resources=100)  # type: ignore[arg-type]


def test_a_task_that_is_tried_again_while_its_last_call_goes_on_leaves_no_room_taken() -> None:
    go, calls = threading.Event(), list[int]()

    @task_agent(memory=10)
    def holds() -> int:
        calls.append(1)
        if len(calls) == 1:
            assert go.wait(LONG)
        return 1

    tracker = ResourceTracker(memory_limit=20)
    with TaskManager(resources=tracker, concurrency=3) as manager:
        job = manager.start_job("j", [NewTaskSpec("holds", task_id="t")])
        until(lambda: calls)
        manager.cancel_task("t")
        manager.retry("t")
        assert job.result(LONG) is JobStatus.COMPLETED
        go.set()
        until(lambda: empty(tracker))
