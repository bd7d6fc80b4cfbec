"""`Action.map(batch_size=...)`: several items in one invocation, and threads outside of a DAG."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl import DAG, Graph, RunOptions, action, engine
from dagger_dsl.engine.lookups import MEMORY
from dagger_dsl.errors import ConfigurationError, MapError, NodeExecutionError
from dagger_dsl.model.context import Failed, NodeCtx, NodeOutput
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store

RUNNERS = ["sequential", "threads", "asyncio"]
PATIENCE = 20.0

every_runner = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    MEMORY.forget()
    with Registry() as fresh:
        yield fresh


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


def mapped(body: Callable[..., Any], items: Any, options: Any = None, **how: Any) -> DAG:
    """Return a DAG of one mapped node, called ``work``."""
    work = action(body, name="work", **(options or {}))
    with DAG("batches") as dag:
        work.map(items, **how)
    return dag


# --- in a DAG -------------------------------------------------------------------------------------


@every_runner
@pytest.mark.row("K30")
def test_a_batch_is_one_invocation_and_the_list_is_as_without(runner: str, url: str) -> None:
    threads: list[str] = []

    def work(x: int) -> int:
        threads.append(threading.current_thread().name)
        return 2 * x

    dag = mapped(work, list(range(250)), batch_size=100, max_workers=4)
    assert dag.run(runner=runner, database_url=url) == [2 * k for k in range(250)]
    assert len(threads) == 250
    calls = dag.report.invocations("work")
    assert list(calls) == ["0", "1", "2"]
    with Store(url) as store:
        rows = store.load_run(dag.report.run_id).attempts
    assert [len(row.value()) for row in rows if row.key != "default"] == [100, 100, 50]
    node = dag.compile().nodes["work"]
    assert (node.map_batch, node.max_parallel) == (100, 4)
    assert Graph.from_yaml(dag.compile().to_yaml()) == dag.compile()


@pytest.mark.row("K30")
def test_max_workers_bounds_the_batches_that_run_together() -> None:
    lock, now, most = threading.Lock(), [0], [0]
    gate = threading.Barrier(2)

    def work(x: int) -> int:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        if x < 20:  # the first two batches
            gate.wait(PATIENCE)
        with lock:
            now[0] -= 1
        return x

    dag = mapped(work, list(range(60)), batch_size=10, max_workers=2)
    assert dag.run(runner="threads", max_workers=8) == list(range(60))
    assert most[0] == 2


@every_runner
@given(
    count=st.integers(0, 30),
    size=st.integers(1, 12),
    depth=st.integers(1, 2),
    follow=st.sampled_from([None, 1, 3, 12]),
)
@pytest.mark.row("K30")
def test_any_batch_size_gives_the_list_of_none(
    runner: str, count: int, size: int, depth: int, follow: int | None
) -> None:
    items: Any = list(range(count))
    if depth == 2:
        items = [items[k : k + 4] for k in range(0, count, 4)]

    @action
    def add(x: int) -> int:
        return x + 1

    @action
    def double(x: int) -> int:
        return 2 * x

    with DAG("any") as dag:
        double.map(add.map(items, batch_size=size, depth=depth), batch_size=follow, depth=depth)
    expected: Any = [2 * (k + 1) for k in range(count)]
    if depth == 2:
        expected = [expected[k : k + 4] for k in range(0, count, 4)]
    assert dag.run(runner=runner, max_workers=2 if runner != "sequential" else None) == expected


@every_runner
@pytest.mark.row("K30")
@pytest.mark.parametrize("total", [0, 1, 9, 10, 11, 2000])
def test_a_generator_fills_batches(runner: str, total: int) -> None:
    @action
    def numbers() -> Any:
        yield from range(total)

    @action
    def double(x: int) -> int:
        return 2 * x

    with DAG("stream") as dag:
        double.map(numbers(), batch_size=10)
    assert dag.run(runner=runner) == [2 * k for k in range(total)]
    sizes = -(-total // 10)
    assert len(dag.report.invocations("double")) == sizes


@pytest.mark.row("K30")
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_equal_batches_follow_each_other_without_a_barrier(runner: str) -> None:
    begun = threading.Event()

    @action
    def first(x: int) -> int:
        if x == 3 and not begun.wait(PATIENCE):
            raise TimeoutError("the second batch waits for a follower of the first")
        return x

    @action
    def second(x: int) -> int:
        begun.set()
        return x

    with DAG("pairs") as dag:
        second.map(first.map([1, 2, 3, 4], batch_size=2), batch_size=2)
    assert dag.run(runner=runner, max_workers=2) == [1, 2, 3, 4]
    with DAG("unlike") as other:
        second.map(first.map([1, 2, 3, 4], batch_size=2), batch_size=3)
    assert other.run(runner=runner) == [1, 2, 3, 4]
    assert list(other.report.invocations("second")) == ["0", "1"]


@pytest.mark.row("K30")
def test_an_async_function_and_a_context_work_in_batches() -> None:
    keys: list[str] = []

    async def work(ctx: NodeCtx, x: int, factor: int) -> int:
        keys.append(ctx.invocation_key)
        await asyncio.sleep(0)
        return x * factor

    dag = mapped(work, [1, 2, 3], batch_size=2, factor=10)
    assert dag.run(runner="asyncio") == [10, 20, 30]
    assert sorted(keys) == ["0", "0", "1"]


# --- failures -------------------------------------------------------------------------------------


@every_runner
@pytest.mark.row("K30")
def test_the_batch_is_what_is_tried_again(runner: str) -> None:
    calls: list[int] = []

    def work(x: int) -> int:
        calls.append(x)
        if x == 3 and calls.count(3) == 1:
            raise ValueError("once")
        return x

    dag = mapped(work, [1, 2, 3, 4, 5], {"attempts": 2, "retry_delay": 0.0}, batch_size=2)
    assert dag.run(runner=runner) == [1, 2, 3, 4, 5]
    assert sorted(calls) == [1, 2, 3, 3, 4, 5]
    assert dag.report.invocations("work")["1"].attempts == 2


@every_runner
@pytest.mark.row("K30")
def test_a_failed_batch_fails_the_node(runner: str) -> None:
    def work(x: int) -> int:
        if x == 3:
            raise ValueError("three")
        return x

    dag = mapped(work, [1, 2, 3, 4], batch_size=2)
    with pytest.raises(NodeExecutionError) as caught:
        dag.run(runner=runner)
    assert isinstance(caught.value.__cause__, MapError)
    assert "three" in str(caught.value)


@every_runner
@pytest.mark.row("K30")
def test_collecting_keeps_the_results_beside_a_failure(runner: str, url: str) -> None:
    calls: list[int] = []

    def work(x: int) -> Any:
        calls.append(x)
        if x in (3, 5):
            raise ValueError(f"bad {x}")
        if x == 6:
            return NodeOutput.failure("soft")
        return x

    places: list[dict[str, Any]] = [{}, {"database_url": url}]
    for options in places:
        calls.clear()
        dag = mapped(
            work,
            [1, 2, 3, 4, 5, 6, 7],
            {"attempts": 2, "retry_delay": 0.0},
            batch_size=3,
            on_error="collect",
        )
        found = dag.run(runner=runner, **options)
        assert [each for each in found if not isinstance(each, Failed)] == [1, 2, 4, 7]
        failed = [each for each in found if isinstance(each, Failed)]
        assert [(each.key, each.message, each.attempts) for each in failed] == [
            ("2", "bad 3", 2),
            ("4", "bad 5", 2),
            ("5", "soft", 2),
        ]
        assert sorted(calls) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]


@pytest.mark.row("K30")
def test_a_soft_failure_alone_is_not_tried_again() -> None:
    calls: list[int] = []

    def work(x: int) -> Any:
        calls.append(x)
        return NodeOutput.failure("no") if x == 2 else NodeOutput.success(x)

    how: dict[str, Any] = {"attempts": 3, "retry_delay": 0.0}
    found = mapped(work, [1, 2, 3], how, batch_size=3, on_error="collect").run()
    assert [found[0], found[2]] == [1, 3]
    assert isinstance(found[1], Failed)
    assert calls == [1, 2, 3]
    with Registry(), pytest.raises(NodeExecutionError, match="no"):
        mapped(work, [1, 2, 3], how, batch_size=3).run()
    assert calls == [1, 2, 3, 1, 2]


@pytest.mark.row("K30")
def test_a_batch_that_comes_to_no_end_fails_all_of_its_items() -> None:
    release = threading.Event()

    def work(x: int) -> int:
        if x == 2:
            release.wait(PATIENCE)
        return x

    dag = mapped(work, [1, 2, 3], {"timeout": 0.05}, batch_size=2, on_error="collect")
    found = dag.run()
    release.set()
    assert [isinstance(each, Failed) for each in found] == [True, True, False]
    assert [each.key for each in found[:2]] == ["0", "1"]


@pytest.mark.row("K30")
def test_failed_items_of_nested_lists_are_named_by_their_place() -> None:
    def work(x: int) -> int:
        return 10 // x

    dag = mapped(work, [[1], [2, 5, 0]], depth=2, batch_size=2, on_error="collect")
    found = dag.run()
    assert found[0] == [10]
    assert found[1][:2] == [5, 2]
    assert found[1][2].key == "1.2"


@pytest.mark.row("K30")
def test_what_stands_in_for_a_batch_does_so_item_by_item() -> None:
    @action
    def instead(x: int) -> int:
        return -x

    def work(x: int) -> int:
        if x > 1:
            raise ValueError("bad")
        return x

    assert mapped(work, [1, 2, 3], {"fallback": instead}, batch_size=2).run() == [-1, -2, -3]

    @action
    def mend(inputs: Any) -> Any:
        return [0] * len(inputs["x"])

    @action
    def wrong(inputs: Any) -> Any:
        return 0

    with Registry():
        assert mapped(work, [1, 2, 3], {"failure": mend}, batch_size=2).run() == [0, 0, 0]
    with Registry(), pytest.raises(NodeExecutionError, match="bad") as caught:
        mapped(work, [1, 2, 3], {"failure": wrong}, batch_size=2).run()
    cause: Any = caught.value.__cause__
    notes = str(cause.__cause__.__notes__)
    assert "a list of as many results" in notes


@pytest.mark.row("K30")
@pytest.mark.parametrize(
    "answer",
    [
        lambda ctx: NodeOutput.success(1, metadata={"a": 1}),
        lambda ctx: ctx.wait_for_human("sure?"),
        lambda ctx: iter([1]),
        lambda ctx: asyncio.sleep(0),
    ],
)
def test_an_item_answers_a_value_only(answer: Any) -> None:
    def work(ctx: NodeCtx, x: int) -> Any:
        return answer(ctx)

    with pytest.raises(NodeExecutionError, match="map it without a batch size"):
        mapped(work, [1, 2], batch_size=2).run()


# --- caches and resumes ---------------------------------------------------------------------------


@pytest.mark.row("K30")
def test_a_batch_is_never_taken_for_a_call_with_a_list() -> None:
    calls: list[Any] = []

    @action(cache=True)
    def count(x: Any) -> int:
        calls.append(x)
        return len(calls)

    with DAG("batch") as batch:
        count.map([1, 2], batch_size=2)
    with DAG("list") as single:
        count([1, 2])
    assert batch.run() == [1, 2]
    assert single.run() == 3
    assert batch.run() == [1, 2]
    assert single.run() == 3
    assert batch.report.explain_cache("count").hit
    assert calls == [1, 2, [1, 2]]


@every_runner
@pytest.mark.row("K30")
def test_a_run_goes_on_with_the_batches_that_had_not_ended(
    runner: str, url: str, tmp_path: Path
) -> None:
    calls: list[int] = []
    broken = [True]

    def work(x: int) -> int:
        calls.append(x)
        if x == 5 and broken[0]:
            raise ValueError("five")
        return x

    dag = mapped(work, list(range(9)), batch_size=3)
    with pytest.raises(NodeExecutionError):
        dag.run(runner=runner, database_url=url)
    before = set(calls)
    broken[0] = False
    calls.clear()
    options = RunOptions(runner=runner, database_url=url)
    report = engine.resume(dag.report.run_id, dag.registry, options)
    assert report.values["work"] == list(range(9))
    assert {3, 4, 5} <= set(calls)
    if {0, 1, 2} <= before:
        assert 0 not in calls


@pytest.mark.row("K30")
def test_a_generator_that_is_read_again_gives_the_same_batches(url: str, tmp_path: Path) -> None:
    calls: list[int] = []
    copy = tmp_path / "copy"

    @action
    def numbers() -> Any:
        yield from range(7)

    @action
    def double(x: int) -> int:
        calls.append(x)
        if x == 4 and not copy.exists():  # what a process that dies here leaves
            copy.mkdir()
            for each in tmp_path.glob("runs.db*"):
                shutil.copy(each, copy)
        time.sleep(0.01)  # longer than results wait for their commit
        return 2 * x

    with DAG("stream") as dag:
        double.map(numbers(), batch_size=2)
    expected = [2 * k for k in range(7)]
    assert dag.run(database_url=url) == expected
    calls.clear()
    options = RunOptions(database_url=f"sqlite:///{copy / 'runs.db'}")
    report = engine.resume(dag.report.run_id, dag.registry, options)
    assert report.values["double"] == expected
    assert sorted(calls) == [4, 5, 6]


# --- outside of a DAG -----------------------------------------------------------------------------


@pytest.mark.row("K30")
def test_outside_of_a_dag_threads_keep_the_order() -> None:
    gate = threading.Barrier(4)

    @action
    def work(x: int) -> int:
        if x < 4:
            gate.wait(PATIENCE)
        return 2 * x

    assert work.map(list(range(50)), max_workers=4) == [2 * k for k in range(50)]
    names: set[str] = set()

    @action
    def name(x: int) -> int:
        names.add(threading.current_thread().name)
        return x

    assert name.map(list(range(50)), max_workers=4, batch_size=10) == list(range(50))
    assert len(names) <= 4
    assert name.map([[1, 2], [3], []], depth=2, max_workers=3) == [[1, 2], [3], []]
    names.clear()
    assert name.map(list(range(5)), batch_size=2) == list(range(5))
    assert names == {threading.current_thread().name}


@pytest.mark.row("K30")
def test_outside_of_a_dag_the_first_failure_in_order_is_raised_or_collected() -> None:
    @action
    def work(x: int) -> int:
        if x in (3, 4):
            raise ValueError(f"bad {x}")
        return x

    ways: list[dict[str, Any]] = [{}, {"max_workers": 3}, {"max_workers": 3, "batch_size": 2}]
    for how in ways:
        with pytest.raises(ValueError, match="bad 3"):
            work.map([1, 2, 3, 4], **how)
        found: Any = work.map([1, 2, 3, 4], on_error="collect", **how)
        assert found[:2] == [1, 2]
        assert [(each.key, each.message) for each in found[2:]] == [("2", "bad 3"), ("3", "bad 4")]


@pytest.mark.row("K30")
def test_outside_of_a_dag_async_calls_run_in_batches() -> None:
    now, most = [0], [0]

    @action
    async def work(x: int) -> int:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0)
        now[0] -= 1
        return x

    async def main() -> Any:
        return await work.map(list(range(20)), max_workers=3, batch_size=4)

    assert asyncio.run(main()) == list(range(20))
    assert most[0] == 3


@pytest.mark.row("K30")
def test_what_cannot_be_is_refused() -> None:
    @action
    def work(x: int) -> int:
        return x

    wrong: Any
    for wrong in (0, -1, 1.5, True, "many", 10**30):
        with pytest.raises(ConfigurationError, match="batch_size"):
            work.map([1], batch_size=wrong)
        with pytest.raises(ConfigurationError, match="max_parallel"):
            work.map([1], max_workers=wrong)
    with pytest.raises(ConfigurationError, match="max_workers and max_parallel are one option"):
        work.map([1], max_workers=2, max_parallel=2)
    with pytest.raises(ConfigurationError, match="map_batch"):
        work.with_options(map_over="x", map_batch=0)
