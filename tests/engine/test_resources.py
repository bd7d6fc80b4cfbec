"""Runs whose calls wait until a `ResourceTracker` has room for them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import (
    DAG,
    FSM,
    AddNodes,
    CancelToken,
    DagExecutor,
    EventHook,
    NodeSpec,
    NodeState,
    Registry,
    RunOptions,
    RunReport,
    action,
)
from dagger_dsl.errors import (
    ConfigurationError,
    NodeExecutionError,
    ResourceExhausted,
    RunCancelled,
)
from dagger_dsl.fsm import Next
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.model.resources import ResourceTracker
from tests.engine.helpers import RUNNERS, url_of
from tests.runners import process_bodies as there

every_runner = pytest.mark.parametrize("runner", RUNNERS)

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


class Meter:
    """Counts what goes on at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now: dict[str, int] = {"calls": 0, "memory": 0}
        self.most: dict[str, int] = {"calls": 0, "memory": 0}
        self.order: list[str] = []

    def begin(self, memory: int = 0, name: str = "") -> None:
        with self._lock:
            self.order.append(name)
            for what, more in (("calls", 1), ("memory", memory)):
                self.now[what] += more
                self.most[what] = max(self.most[what], self.now[what])

    def end(self, memory: int = 0) -> None:
        with self._lock:
            self.now["calls"] -= 1
            self.now["memory"] -= memory


def fan(meter: Meter, width: int, memory: int, *, is_async: bool = False) -> DAG:
    """Return a graph of *width* nodes beside each other."""

    @action(memory=memory)
    def work() -> int:
        meter.begin(memory)
        time.sleep(0.002)
        meter.end(memory)
        return 1

    @action(memory=memory)
    async def work_async() -> int:
        meter.begin(memory)
        await asyncio.sleep(0.002)
        meter.end(memory)
        return 1

    with DAG("fan") as dag:
        for _ in range(width):
            (work_async if is_async else work)()
    return dag


def empty(tracker: ResourceTracker) -> bool:
    return (tracker.tasks_in_use, tracker.memory_in_use, tracker.waiting) == (0, 0, 0)


@pytest.mark.row("Q2", "Q3")
def test_a_blocking_run_inside_of_a_running_loop_waits_too() -> None:
    meter, tracker = Meter(), ResourceTracker(memory_limit=10)

    async def main() -> None:
        for runner in RUNNERS:
            fan(meter, 8, 4, is_async=True).run(runner=runner, max_workers=4, resources=tracker)

    asyncio.run(main())
    assert meter.most["memory"] == 8
    assert empty(tracker)


def completed(report: RunReport) -> int:
    return list(report.states().values()).count(NodeState.COMPLETED)


@pytest.mark.row("Q2", "Q3")
@every_runner
@pytest.mark.parametrize("is_async", [False, True])
def test_calls_wait_until_there_is_room(runner: str, is_async: bool) -> None:
    meter, tracker = Meter(), ResourceTracker(memory_limit=10, task_limit=4)
    report = fan(meter, 20, 3, is_async=is_async).start(
        runner=runner, max_workers=8, resources=tracker
    )
    assert completed(report.result(LONG)) == 20
    assert meter.most["memory"] <= 9
    assert meter.most["calls"] <= 3
    assert empty(tracker)


@pytest.mark.row("Q3")
def test_the_101st_concurrent_call_waits() -> None:
    tracker = ResourceTracker()
    tracker.set_task_limit(100)
    running, most = 0, 0
    full, go_on = asyncio.Event(), asyncio.Event()

    @action
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 100:
            full.set()
        await go_on.wait()
        running -= 1

    with DAG("many") as dag:
        for _ in range(101):
            dag.add(work)

    async def main() -> None:
        options = {"max_workers": 200, "resources": tracker}
        going = asyncio.ensure_future(dag.run_async(**options))  # type: ignore[arg-type]
        await asyncio.wait_for(full.wait(), LONG)
        for _ in range(20):
            await asyncio.sleep(0)
        assert tracker.tasks_in_use == 100
        assert tracker.waiting == 1
        go_on.set()
        await asyncio.wait_for(going, LONG)

    asyncio.run(main())
    assert most == 100
    assert empty(tracker)


@pytest.mark.row("Q2")
@every_runner
@pytest.mark.parametrize("recorded", [False, True])
def test_a_graph_with_a_node_that_can_never_fit_is_refused_before_anything_runs(
    runner: str, recorded: bool, tmp_path: Path
) -> None:
    called: list[int] = []

    @action
    def small() -> int:
        called.append(1)
        return 1

    @action(memory=2_000_000_000)
    def large(small: int) -> int:
        return small

    tracker = ResourceTracker(memory_limit=1_000_000_000)
    dag = DAG(small >> large, name="large")
    url = url_of(tmp_path) if recorded else None
    with pytest.raises(ResourceExhausted, match="node 'large' declares 2,000,000,000 bytes"):
        dag.run(runner=runner, resources=tracker, database_url=url)
    assert not called
    tracker.set_memory_limit(2_000_000_000)
    assert dag.run(runner=runner, resources=tracker, database_url=url) == 1


@pytest.mark.row("Q2")
@every_runner
def test_a_node_that_can_not_fit_any_more_fails_where_it_would_begin(runner: str) -> None:
    tracker = ResourceTracker(memory_limit=10)

    @action
    def small() -> int:
        tracker.set_memory_limit(5)
        return 1

    @action(memory=8, retry=5)
    def large(small: int) -> int:
        return small

    @action
    def other(small: int) -> int:
        return small

    with DAG("falls") as dag:
        first = small()
        large.with_options(on_failure="continue")(first)
        other(first)
    with pytest.raises(NodeExecutionError) as caught:
        dag.run(runner=runner, resources=tracker)
    assert isinstance(caught.value.__cause__, ResourceExhausted)
    assert dag.report.states()["other"] is NodeState.COMPLETED
    assert dag.report.attempts("large") == []
    assert empty(tracker)


@every_runner
def test_what_a_refusal_enables_is_opened_and_admitted(runner: str) -> None:
    tracker, seen = ResourceTracker(memory_limit=10, task_limit=1), list[int]()

    @action
    def small() -> int:
        tracker.set_memory_limit(5)
        return 1

    @action(memory=8)
    def large(small: int) -> int:
        return small

    @action(trigger="done", memory=3)
    def each(x: int, large: int | None = None) -> int:
        seen.append(tracker.memory_in_use)
        return x

    with DAG("falls") as dag:
        failed = large(small())
        each.map(x=[1, 2, 3], large=failed, over="x")
    with pytest.raises(NodeExecutionError):
        dag.run(runner=runner, max_workers=4, resources=tracker)
    assert dag.report.value("each") == [1, 2, 3]
    assert seen == [3, 3, 3]
    assert empty(tracker)


@every_runner
def test_a_fallback_stands_in_for_a_node_that_can_not_fit(runner: str) -> None:
    tracker = ResourceTracker(memory_limit=10)

    @action
    def small() -> int:
        tracker.set_memory_limit(5)
        return 1

    @action
    def thrifty(small: int) -> str:
        return "less"

    @action(memory=8, fallback=thrifty)
    def large(small: int) -> str:
        return "more"

    assert DAG(small >> large, name="falls").run(runner=runner, resources=tracker) == "less"
    assert empty(tracker)


@every_runner
def test_failures_retries_handlers_and_timeouts_give_back_what_they_took(runner: str) -> None:
    tracker, seen = ResourceTracker(memory_limit=10, task_limit=2), []

    @action
    def mend(error: Any = None) -> str:
        seen.append(tracker.memory_in_use)
        return "mended"

    @action(memory=7, retry=2, retry_delay=0.001, failure=mend)
    def fails() -> str:
        raise ValueError("boom")

    @action(memory=6, timeout=0.05)
    async def slow(fails: str) -> str:
        await asyncio.sleep(LONG)
        return "never"

    with pytest.raises(NodeExecutionError):
        DAG(fails >> slow, name="fails").run(runner=runner, resources=tracker)
    assert seen == [7], "its failure handler is called with what the node has taken"
    assert empty(tracker)


@every_runner
def test_a_run_that_waits_can_be_cancelled(runner: str) -> None:
    tracker = ResourceTracker(memory_limit=10)
    other = tracker.ask("somebody else", 8, lambda: None)

    @action(memory=5)
    def work() -> int:
        return 1

    token = CancelToken()
    handle = DAG(work, name="waits").start(runner=runner, resources=tracker, cancel=token)
    while not tracker.waiting:
        time.sleep(0.001)
    token.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        handle.result(LONG).raise_for_failure()
    assert tracker.waiting == 0
    other.release()
    assert empty(tracker)


@every_runner
@pytest.mark.parametrize("recorded", [False, True])
def test_a_run_waits_for_room_that_another_one_has(
    runner: str, recorded: bool, tmp_path: Path
) -> None:
    tracker = ResourceTracker(memory_limit=10)
    other = tracker.ask("somebody else", 8, lambda: None)

    @action
    def first() -> int:
        return 1

    @action(memory=5)
    def work(first: int) -> int:
        return first + 1

    url = url_of(tmp_path) if recorded else None
    dag = DAG(first >> work, name="waits")
    handle = dag.start(runner=runner, resources=tracker, database_url=url)
    while not tracker.waiting:
        time.sleep(0.001)
    assert tracker.tasks_in_use == 1, "what waits runs nowhere"
    assert "waits for room: its ResourceTracker has none left" in handle.report.explain("work")
    other.release()
    assert handle.result(LONG).value("work") == 2
    assert empty(tracker)


def test_a_limit_of_time_ends_a_run_that_waits() -> None:
    tracker = ResourceTracker(task_limit=1)
    other = tracker.ask("somebody else", 0, lambda: None)
    report = DAG(action(lambda: 1, name="work"), name="waits").start(
        timeout=0.05, resources=tracker
    )
    assert report.result(LONG).status == "timed_out"
    other.release()
    assert empty(tracker)


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["is killed", "overruns"])
def test_a_killed_process_gives_back_what_its_call_took(ends: str, tmp_path: Path) -> None:
    tracker = ResourceTracker(memory_limit=10, task_limit=1)
    killed = ends == "is killed"
    limit = None if killed else 0.3
    given: dict[str, Any] = {"number": 9} if killed else {"path": str(tmp_path / "pid")}
    body: Any = there.crash if killed else there.stuck
    with DAG("killed") as dag:
        action(body, name="ends", memory=7, timeout=limit, on_failure="continue")(**given)
        action(there.pid, name="goes_on", memory=7)()
    with pytest.raises(NodeExecutionError):
        dag.run(runner="processes", max_workers=2, resources=tracker)
    assert dag.report.value("goes_on") > 0
    assert empty(tracker)


@every_runner
@pytest.mark.parametrize("which", ["asked for", "in line"])
def test_a_held_branch_leaves_the_line_and_comes_back(runner: str, which: str) -> None:
    tracker, order = ResourceTracker(memory_limit=10), list[str]()
    other = tracker.ask("somebody else", 8, lambda: None)

    @action(memory=5)
    def work(name: str) -> None:
        order.append(name)

    with DAG("held") as dag:
        for name in "ab":
            work.with_options(id=name)(name)
    handle = dag.start(runner=runner, max_workers=1, resources=tracker)
    while not tracker.waiting:
        time.sleep(0.001)
    held = "a" if which == "asked for" else "b"
    assert handle.pause_branch(held, "later")
    other.release()
    while not order:
        time.sleep(0.001)
    time.sleep(0.02)
    assert order == ["b" if held == "a" else "a"]
    report = handle.result(LONG)
    assert report.status == "paused"
    assert empty(tracker)


@every_runner
def test_nodes_that_come_later_are_admitted_too(runner: str) -> None:
    tracker = ResourceTracker(memory_limit=10)

    @action(memory=9)
    def fits() -> str:
        assert tracker.memory_in_use == 9
        return "fits"

    @action(memory=11)
    def never() -> str:
        return "never"

    class Grow(EventHook):
        def handle(self, ctx: Any, event: Any) -> Any:
            if isinstance(event, NodeCompleted) and event.node.node_id == "first":
                return AddNodes([NodeSpec("fits", id="x"), NodeSpec("never", id="y")])
            return None

    first = action(lambda: 1, name="first")
    report = DAG(first, name="grows").start(
        runner=runner, hooks=[Grow()], resources=tracker, config={"on_failure": "continue"}
    )
    found = report.result(LONG)
    assert found.value("x") == "fits"
    assert found.states()["y"] is NodeState.FAILED
    assert isinstance(found.node_reports["y"].exception, ResourceExhausted)
    assert empty(tracker)


@every_runner
def test_at_most_once_is_recorded_when_there_is_room(runner: str, tmp_path: Path) -> None:
    tracker = ResourceTracker(memory_limit=10)
    other = tracker.ask("somebody else", 8, lambda: None)

    @action(memory=5, effects="at_most_once")
    def pays() -> int:
        return 1

    url = url_of(tmp_path)
    handle = DAG(pays, name="once").start(runner=runner, resources=tracker, database_url=url)
    while not tracker.waiting:
        time.sleep(0.001)
    handle.cancel("enough")
    report = handle.result(LONG)
    assert report.status == "cancelled"
    other.release()
    with DagExecutor(database_url=url, resources=tracker) as executor:
        again = executor.resume(report.run_id)
        assert again.value("pays") == 1, "it had not begun: nobody has to decide"
    assert empty(tracker)


@every_runner
def test_the_states_of_a_machine_are_admitted_each_time(runner: str) -> None:
    tracker, seen = ResourceTracker(memory_limit=10, task_limit=1), list[int]()
    fsm = FSM("counts", max_cycles=20)

    @fsm.state(initial=True)
    def step(n: int = 0) -> Any:
        seen.append(tracker.tasks_in_use)
        return Next("step", {"n": n + 1}) if n < 10 else Next("done")

    @fsm.state(terminal=True)
    def done() -> str:
        return "done"

    fsm.run(runner=runner, resources=tracker)
    assert seen == [1] * 11
    assert empty(tracker)


# --- nested --------------------------------------------------------------------------------------


@every_runner
def test_nested_runs_share_the_tracker_and_their_nodes_hold_nothing(runner: str) -> None:
    meter, tracker = Meter(), ResourceTracker(memory_limit=10, task_limit=1)

    @action(memory=8)
    def work(x: int) -> int:
        meter.begin(8)
        time.sleep(0.001)
        meter.end(8)
        return x + 1

    inner = DAG(work, name="inner")
    with DAG("outer") as outer:
        for number in range(4):
            inner(x=number)
    values = outer.run(runner=runner, max_workers=4, resources=tracker)
    assert sorted(values.values()) == [1, 2, 3, 4]
    assert meter.most == {"calls": 1, "memory": 8}
    assert empty(tracker)


@every_runner
def test_bodies_that_run_graphs_do_not_wait_for_what_they_hold(runner: str) -> None:
    tracker = ResourceTracker(memory_limit=10, task_limit=2)

    @action(memory=6)
    def leaf(x: int) -> int:
        return x + 1

    @action
    def holds_nothing(x: int) -> Any:
        return DAG(leaf, name="inside").run({"x": x}, resources=tracker)

    @action(memory=6)
    def pays(x: int) -> Any:
        return DAG(leaf, name="inside").run({"x": x}, resources=tracker)

    with DAG("outer") as outer:
        for number in range(3):
            holds_nothing(x=number)
            pays(x=number)
    handle = outer.start(runner=runner, max_workers=6, resources=tracker)
    assert completed(handle.result(LONG)) == 6
    assert empty(tracker)


@every_runner
def test_a_body_that_declares_less_than_what_it_runs_is_told_so(runner: str) -> None:
    tracker = ResourceTracker(memory_limit=10)

    @action(memory=6)
    def leaf() -> int:
        return 1

    @action(memory=3)
    def outer() -> Any:
        return DAG(leaf, name="inside").run(resources=tracker)

    with pytest.raises(NodeExecutionError, match="declares 3: what runs inside of a call is paid"):
        DAG(outer, name="outer").run(runner=runner, resources=tracker)
    assert empty(tracker)


# --- others --------------------------------------------------------------------------------------


@every_runner
def test_mapped_nodes_and_generators_are_admitted_call_by_call(runner: str) -> None:
    meter, tracker = Meter(), ResourceTracker(memory_limit=10, task_limit=3)

    @action(memory=2)
    def numbers() -> Iterator[int]:
        yield from range(40)

    @action(memory=5)
    def double(x: int) -> int:
        meter.begin(5)
        meter.end(5)
        return 2 * x

    with DAG("maps") as dag:
        double.map(x=numbers())
    values = dag.run(runner=runner, max_workers=4, resources=tracker)
    assert values == [2 * x for x in range(40)]
    assert meter.most["memory"] <= 10
    assert empty(tracker)


@every_runner
def test_a_stream_counts_with_its_consumer(runner: str) -> None:
    tracker = ResourceTracker(task_limit=1)

    @action
    def numbers() -> Iterator[int]:
        yield from range(10)

    @action
    def total(items: Iterator[int]) -> int:
        return sum(items)

    assert DAG(numbers >> total, name="streams").run(runner=runner, resources=tracker) == 45
    assert empty(tracker)


def test_a_run_that_is_paused_holds_nothing_and_goes_on(tmp_path: Path) -> None:
    tracker = ResourceTracker(memory_limit=10)

    @action(memory=6)
    def work(x: int) -> int:
        return x + 1

    with DAG("paused", config={"review_frequency": 1}) as dag:
        for number in range(3):
            work(x=number)
    with DagExecutor(database_url=url_of(tmp_path), resources=tracker) as executor:
        assert executor.resources is tracker
        report = executor.run(dag, max_workers=1)
        assert report.status == "paused"
        assert empty(tracker)
        while report.status == "paused":
            report = executor.resume(report.run_id)
        assert completed(report) == 3
    assert empty(tracker)


@pytest.mark.row("Q4")
def test_runs_of_one_executor_share_its_tracker(tmp_path: Path) -> None:
    meter, tracker = Meter(), ResourceTracker(memory_limit=10, task_limit=3)
    dag = fan(meter, 10, 3)
    with DagExecutor(resources=tracker) as executor:
        handles = [executor.start(dag, max_workers=4) for _ in range(3)]
        for handle in handles:
            assert completed(handle.result(LONG)) == 10
    assert 1 < meter.most["calls"] <= 3
    assert meter.most["memory"] <= 9
    assert empty(tracker)


def test_many_wait_in_the_order_in_which_they_were_enabled() -> None:
    order: list[int] = []
    tracker = ResourceTracker(task_limit=1)

    @action
    def note(x: int) -> None:
        order.append(x)

    with DAG("order") as dag:
        for number in range(50):
            note(x=number)
    dag.run(runner="threads", max_workers=8, resources=tracker)
    assert order == list(range(50))


@pytest.mark.parametrize("value", [1, "many", {"memory_limit": 1}])
def test_what_is_no_tracker_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="resources is a ResourceTracker"):
        RunOptions(resources=value)
    with pytest.raises(ConfigurationError, match="resources is a ResourceTracker"):
        DagExecutor(resources=value)


@pytest.mark.row("Q2")
@pytest.mark.parametrize("value", [-1, 1.5, True, "1 GB", 2**70])
def test_memory_that_is_no_number_of_bytes_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="@action: memory counts bytes"):
        action(memory=value)


def test_what_declares_memory_runs_without_a_tracker_as_ever() -> None:
    assert DAG(action(lambda: 1, name="big", memory=10**15), name="big").run() == 1


def test_a_run_that_ends_badly_gives_everything_back(tmp_path: Path) -> None:
    tracker = ResourceTracker(task_limit=1)

    @action
    def leaves() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DAG(leaves, name="leaves").run(resources=tracker)
    assert empty(tracker)
