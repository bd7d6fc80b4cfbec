"""Mapped nodes: one node, an invocation for each item of a list that is known only at run time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, DagExecutor, Registry, action
from dagger_dsl.engine.control import CancelToken
from dagger_dsl.errors import InvalidState, MapError, NodeExecutionError, NodeTimeout, OutputError
from dagger_dsl.model.commands import (
    AddNode,
    Answer,
    CancelBranch,
    CancelRun,
    Command,
    NodeSpec,
    PauseBranch,
    PauseRun,
    ResumeBranch,
    SetNodeInputs,
    ref,
)
from dagger_dsl.model.context import Failed, NodeCtx, NodeOutput
from dagger_dsl.model.events import NodeCompleted, NodeStarted
from dagger_dsl.model.policies import OnFailure, RetryPolicy
from dagger_dsl.store.storage import Store
from tests.engine.helpers import IMMEDIATE, Clocked, states, url_of
from tests.engine.steered import Script, Steered, every_runner, everywhere, kept, send
from tests.runners.helpers import Gauge, eventually
from tests.scale import count


def double(x: int) -> int:
    """Return twice a number."""
    return 2 * x


def mapped(items: Any, body: Callable[..., Any] = double, **fields: Any) -> Steered:
    """Return a flow of a node that gives *items* and one that maps *body* over them."""
    flow = Steered().note("items", items)
    return flow.add("many", body, take={"x": "items"}, map_over="x", **fields)


def counted(items: Iterable[int]) -> Steered:
    """Return a flow that notes each item that it maps over."""
    flow = Steered().note("items", list(items))

    def body(x: int) -> int:
        flow.calls.append(f"many {x}")
        return x

    return flow.add("many", body, take={"x": "items"}, map_over="x")


def rows(folder: Path, node_id: str = "many") -> list[tuple[str, int, str]]:
    """Return key, attempt and state of what the database has of a node, in recorded order."""
    with Store(url_of(folder)) as store:
        found = store.query(
            "SELECT invocation_key, attempt, state FROM node_runs WHERE node_id = ? "
            "AND invocation_key != 'default' ORDER BY seq",
            (node_id,),
        )
    return [(each["invocation_key"], each["attempt"], each["state"]) for each in found]


# --- lists ---------------------------------------------------------------------------------------


@pytest.mark.row("G14")
@everywhere
@pytest.mark.parametrize(
    ("items", "values"),
    [
        ([1, 2, 3], [2, 4, 6]),
        ((1, 2, 3), [2, 4, 6]),
        ({1}, [2]),
        ([], []),
        ([0], [0]),
    ],
)
def test_each_item_is_an_invocation_and_the_results_come_in_order(
    runner: str, place: str, items: Any, values: list[int], tmp_path: Path
) -> None:
    flow = mapped(items)
    flow.add("total", lambda xs: xs, take={"xs": "many"})
    report = flow.run(runner, **kept(place, tmp_path))
    assert report.success
    assert report.outputs == {"total": values}
    if place == "file":
        assert [each[0] for each in rows(tmp_path)] == [str(k) for k in range(len(values))]
        again = flow.resume("r", url_of(tmp_path))
        assert again.value("many") == values


@pytest.mark.row("G14")
@every_runner
def test_a_range_a_literal_and_a_graph_input_are_mapped_over(runner: str) -> None:
    flow = Steered()
    flow.add("numbers", lambda: range(3))
    flow.add("of_range", double, take={"x": "numbers"}, map_over="x")
    flow.add("of_literal", double, give={"x": [5, 6]}, map_over="x")
    flow.add("of_input", double, take={"x": "inputs.xs"}, map_over="x")
    report = flow.run(runner, inputs={"xs": [7]})
    assert report.outputs == {"of_range": [0, 2, 4], "of_literal": [10, 12], "of_input": [14]}


@pytest.mark.parametrize("items", [{"a": 1}, "text", b"bytes", 7, None])
@everywhere
def test_what_has_no_items_is_refused_once(
    runner: str, place: str, items: Any, tmp_path: Path
) -> None:
    flow = mapped(items, try_count=3, retry=IMMEDIATE)
    report = flow.run(runner, **kept(place, tmp_path))
    assert states(report) == {"items": "completed", "many": "failed"}
    error = report.node_reports["many"].exception
    assert isinstance(error, MapError)
    assert "maps over its input 'x'" in str(error)
    with pytest.raises(NodeExecutionError, match="maps over"):
        report.raise_for_failure()


@every_runner
def test_the_other_inputs_go_to_every_invocation(runner: str) -> None:
    flow = Steered().note("items", [1, 2]).note("by", 10)
    flow.add(
        "many",
        lambda a, x, b: (a, x, b),
        take={"a": "by", "x": "items"},
        give={"b": "z"},
        map_over="x",
    )
    assert flow.run(runner).value("many") == [(10, 1, "z"), (10, 2, "z")]


@every_runner
def test_an_invocation_knows_which_one_it_is(runner: str, tmp_path: Path) -> None:
    seen: list[NodeCtx] = []

    def body(ctx: NodeCtx, x: int) -> str:
        seen.append(ctx)
        return ctx.invocation_key

    report = mapped([7, 8, 9], body).run(runner, **kept("file", tmp_path))
    assert report.value("many") == ["0", "1", "2"]
    found = {(each.node_id, each.invocation_key, each.inputs["x"]) for each in seen}
    assert found == {("many", "0", 7), ("many", "1", 8), ("many", "2", 9)}
    keys = {each.idempotency_key for each in seen}
    assert keys == {"r/many/0", "r/many/1", "r/many/2"}


@every_runner
def test_events_say_which_invocation_they_are_of(runner: str) -> None:
    hook = Script()
    mapped([1, 2]).run(runner, max_workers=1, hooks=[hook])
    assert sorted(hook.told) == sorted(
        [
            "start",
            "NodeStarted items",
            "NodeCompleted items",
            "NodeStarted many[0]",
            "NodeCompleted many[0]",
            "NodeStarted many[1]",
            "NodeCompleted many[1]",
            "NodeCompleted many",
            "end True",
        ]
    )
    assert hook.told[-2:] == ["NodeCompleted many", "end True"]
    for k in range(2):
        assert hook.told.index(f"NodeStarted many[{k}]") < hook.told.index(
            f"NodeCompleted many[{k}]"
        )
    whole = hook.of(NodeCompleted)[-1]
    assert whole.outcome.outputs == {"result": [2, 4]}
    assert len(hook.of(NodeStarted)) == 3


@every_runner
def test_invocations_start_in_the_place_of_their_node(runner: str) -> None:
    """First in, first out, ties by declaration: what was declared later does not come first."""
    flow = Steered().note("items", [1, 2])
    flow.add("many", lambda x: flow.calls.append(f"many {x}"), take={"x": "items"}, map_over="x")
    flow.note("aside", after=["items"])
    flow.run(runner, max_workers=1)
    assert flow.calls == ["items", "many 1", "many 2", "aside"]


@every_runner
def test_the_report_tells_of_the_node_and_of_its_invocations(runner: str) -> None:
    report = mapped([1, 2, 3]).run(runner)
    assert states(report) == {"items": "completed", "many": "completed"}
    assert report.completed_nodes == 2
    many = report.node_reports["many"]
    assert many.duration is not None
    assert many.started_at is not None
    assert many.finished_at is not None


@every_runner
def test_async_bodies_are_mapped(runner: str) -> None:
    gauge = Gauge()

    async def body(x: int) -> int:
        with gauge:
            await asyncio.sleep(0.01)
        return x + 1

    report = mapped(list(range(8)), body).run(runner, max_workers=4)
    assert report.value("many") == list(range(1, 9))
    assert gauge.peak == (1 if runner == "sequential" else 4)


@every_runner
def test_a_mapped_node_may_answer_with_node_outputs_and_commands(runner: str) -> None:
    def body(ctx: NodeCtx, x: int) -> NodeOutput:
        spec = NodeSpec("note", id=f"more_{x}")
        return NodeOutput.success(x, commands=[AddNode(spec)], metadata={"x": x})

    flow = mapped([1, 2], body)
    report = flow.run(runner)
    assert report.value("many") == [1, 2]
    assert sorted(flow.calls[1:]) == ["more_1", "more_2"]


@pytest.mark.row("G14")
@pytest.mark.slow
@everywhere
def test_a_fan_out_over_many_items(runner: str, place: str, tmp_path: Path) -> None:
    number = count(10_000)
    report = mapped(list(range(number))).run(runner, **kept(place, tmp_path))
    assert report.value("many") == [2 * k for k in range(number)]
    if place == "file":
        assert len(rows(tmp_path)) == number


# --- nesting and pairing -------------------------------------------------------------------------


@everywhere
def test_lists_of_lists_are_gone_into(runner: str, place: str, tmp_path: Path) -> None:
    items = [[1, 2], [], [3]]
    flow = mapped(items, map_depth=2)
    flow.add("deep", double, give={"x": [[[1], [2, 3]], [], [[]]]}, map_over="x", map_depth=3)
    report = flow.run(runner, **kept(place, tmp_path))
    assert report.value("many") == [[2, 4], [], [6]]
    assert report.value("deep") == [[[2], [4, 6]], [], [[]]]
    if place == "file":
        assert sorted(key for key, _, _ in rows(tmp_path)) == ["0.0", "0.1", "2.0"]
        again = flow.resume("r", url_of(tmp_path))
        assert again.value("deep") == [[[2], [4, 6]], [], [[]]]


ITERATORS: list[Callable[[], Any]] = [
    lambda: map(str, [1, 2, 3]),
    lambda: zip([1, 2, 3], strict=False),
    lambda: iter([1, 2, 3]),
    lambda: iter({1: 2}.items()),
    lambda: itertools.chain([1], [2, 3]),
    lambda: reversed([1, 2]),
    lambda: iter("é"),
]


@everywhere
@pytest.mark.parametrize("make", ITERATORS)
def test_several_may_map_over_one_iterator(
    runner: str, place: str, make: Callable[[], Any], tmp_path: Path
) -> None:
    flow = Steered().add("source", make)
    flow.add("one", lambda x: [x], take={"x": "source"}, map_over="x")
    flow.add("two", lambda x: [x], take={"x": "source"}, map_over="x")
    report = flow.run(runner, **kept(place, tmp_path))
    assert report.value("one") == report.value("two") == [[each] for each in make()]


@everywhere
@pytest.mark.parametrize("make", ITERATORS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_iterator_is_no_value_for_others(
    runner: str, place: str, make: Callable[[], Any], wrapped: bool, tmp_path: Path
) -> None:
    """Whoever read it first would leave nothing to the others, or to a resume."""
    flow = Steered().add("source", lambda: NodeOutput.success(make()) if wrapped else make())
    flow.add("one", list, take={"iterable": "source"})
    flow.add("two", list, take={"iterable": "source"})
    report = flow.run(runner, **kept(place, tmp_path))
    assert states(report) == {"source": "failed", "one": "skipped", "two": "skipped"}
    error = str(report.node_reports["source"].exception)
    assert "'one' and 'two' take them; a stream has one consumer: return list(...)" in error


def test_an_input_that_can_be_read_only_once_is_not_mapped_over() -> None:
    with Registry(), DAG("given") as dag:
        action(double).map(dag.input("items"))
    with pytest.raises(NodeExecutionError, match="can be read only once; give it list"):
        dag.run({"items": iter([1, 2])})
    assert dag.run({"items": [1, 2]}) == [2, 4]


@every_runner
@pytest.mark.parametrize("lists", [[[1, 0, 3, 4], later] for later in ([1], [], [1, 2, 3, 4, 5])])
def test_a_list_that_is_made_again_may_have_another_length(
    runner: str, lists: list[list[int]], tmp_path: Path
) -> None:
    made = iter(lists)
    registry = Registry()
    source = action(lambda: next(made), name="source", registry=registry, store=False)
    invert = action(lambda x: 12 // x, name="invert", registry=registry)
    with DAG("flow", registry=registry) as dag:
        invert.map(source())
    options: dict[str, Any] = {"runner": runner, "database_url": url_of(tmp_path)}
    with pytest.raises(NodeExecutionError, match="ZeroDivisionError"):
        dag.run(run_id="r", **options)
    with DagExecutor(registry=registry, database_url=url_of(tmp_path)) as executor:
        executor.load(dag)
        report = executor.resume("r", runner=runner)
    assert report.status == "completed"
    assert report.value("invert") == [12 // x for x in lists[1]]
    calls = report.invocations("invert")
    assert list(calls) == [str(k) for k in range(max(map(len, lists)))]
    gone = {key: each.reason for key, each in calls.items() if int(key) >= len(lists[1])}
    assert all(
        reason == f"there is no item {key} any more" or calls[key].state == "completed"
        for key, reason in gone.items()
    )
    assert not [key for key in gone if calls[key].state in ("pending", "failed", "running")]


@pytest.mark.parametrize(
    ("recorded", "changed"),
    [
        ('"open":"many"', '"open":"items"'),
        ('"open":"many"', '"open":"nobody"'),
        ('"at":"0"', '"at":"7"'),
        ('"at":"0"', '"at":"0.1"'),
    ],
)
def test_a_record_of_items_that_was_changed_is_refused(
    recorded: str, changed: str, tmp_path: Path
) -> None:
    flow = mapped([[1, "x"], [3]], lambda x: 1 + x, map_depth=2)
    assert not flow.run(**kept("file", tmp_path)).success
    with sqlite3.connect(tmp_path / "runs.db") as database:
        changes = database.execute(
            "UPDATE run_log SET body = replace(body, ?, ?) WHERE body LIKE ?",
            (recorded, changed, f"%{recorded}%"),
        )
        assert changes.rowcount
    database.close()
    with pytest.raises(InvalidState, match="maps over nothing; the database was changed"):
        flow.resume("r", url_of(tmp_path))


def test_items_are_not_printed_where_nothing_is_said_of_them() -> None:
    printed: list[object] = []

    class Frame:
        def __repr__(self) -> str:
            printed.append(self)
            return "a thousand lines"

    report = mapped([Frame(), Frame()], lambda x: 1).run()
    assert report.value("many") == [1, 1]
    assert printed == []


def test_a_failure_levels_down_is_told_once() -> None:
    report = mapped([[[1, "x"]]], lambda x: 1 + x, map_depth=3).run()
    error = str(report.node_reports["many"].exception)
    assert error.startswith("invocation 0.0.1 of node 'many': TypeError: unsupported")


def test_a_level_that_has_no_items_fails_the_node() -> None:
    report = mapped([[1], 2], map_depth=2).run()
    error = report.node_reports["many"].exception
    assert isinstance(error, MapError)
    assert "2" in str(error)


@everywhere
def test_a_map_over_a_map_pairs_its_items_without_a_barrier(
    runner: str, place: str, tmp_path: Path
) -> None:
    """The second step of the first item begins before the first step of the last one has ended."""
    log: list[str] = []
    gate = threading.Event()

    def first(x: int) -> int:
        if x == 2 and runner != "sequential":
            assert gate.wait(10), "the pair of an earlier item waits for the whole list"
        log.append(f"first {x}")
        return x

    def second(x: int) -> int:
        log.append(f"second {x}")
        gate.set()
        return 10 * x

    flow = mapped([0, 1, 2], first)
    flow.add("more", second, take={"x": "many"}, map_over="x")
    report = flow.run(runner, max_workers=2, **kept(place, tmp_path))
    assert report.success
    assert report.outputs == {"more": [0, 10, 20]}
    if runner != "sequential":
        assert log.index("second 0") < log.index("first 2")


@every_runner
def test_pairs_of_pairs_and_a_join_over_both(runner: str) -> None:
    flow = mapped([1, 2, 3])
    flow.add("again", double, take={"x": "many"}, map_over="x")
    flow.add("third", lambda x, y: (x, y), take={"x": "again", "y": "many"}, map_over="x")
    report = flow.run(runner)
    many = [2, 4, 6]
    assert report.outputs == {"third": [(4, many), (8, many), (12, many)]}


@every_runner
def test_a_pair_that_waits_for_something_else_too(runner: str) -> None:
    flow = mapped([1, 2]).note("slow", after=["items"])
    flow.add("more", double, take={"x": "many"}, map_over="x", after=["slow"])
    assert flow.run(runner).value("more") == [4, 8]


@every_runner
def test_one_of_two_that_follow_may_map_and_the_other_take_the_list(runner: str) -> None:
    flow = mapped([1, 2])
    flow.add("more", double, take={"x": "many"}, map_over="x")
    flow.add("total", lambda xs: sum(xs), take={"xs": "many"})
    assert flow.run(runner).outputs == {"more": [4, 8], "total": 6}


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
@pytest.mark.parametrize("most", [1, 3])
def test_no_more_invocations_run_at_once_than_the_node_says(runner: str, most: int) -> None:
    gauge, other = Gauge(), Gauge()

    def body(x: int) -> int:
        with gauge:
            time.sleep(0.003)
        return x

    def beside(x: int) -> int:
        with other:
            time.sleep(0.003)
        return x

    flow = mapped(list(range(12)), body, max_parallel=most)
    flow.add("beside", beside, take={"x": "items"}, map_over="x")
    report = flow.run(runner, max_workers=6)
    assert report.value("many") == list(range(12))
    assert gauge.peak == most
    assert other.peak > most or most == 3, "a limit is the node's own"


def test_a_limit_holds_for_all_levels_together_and_for_pairs() -> None:
    gauge, paired = Gauge(), Gauge()

    def body(x: int) -> int:
        with gauge:
            time.sleep(0.003)
        return x

    def pair(x: int) -> int:
        with paired:
            time.sleep(0.003)
        return x

    flow = Steered()
    flow.add("deep", body, give={"x": [[1, 2, 3], [4, 5, 6]]}, map_over="x", map_depth=2,
             max_parallel=2)  # fmt: skip
    flow.add("flat", body, give={"x": [1, 2, 3, 4]}, map_over="x", max_parallel=4)
    flow.add("pair", pair, take={"x": "flat"}, map_over="x", max_parallel=1)
    report = flow.run("threads", max_workers=8)
    assert report.success
    assert paired.peak == 1
    assert report.value("deep") == [[1, 2, 3], [4, 5, 6]]


@every_runner
@pytest.mark.parametrize("delay", [0.0, 0.002])
def test_the_limit_holds_for_invocations_that_are_retried(runner: str, delay: float) -> None:
    tries: dict[int, int] = {}
    order: list[int] = []
    gauge = Gauge()

    def body(x: int) -> int:
        with gauge:
            order.append(x)
            tries[x] = tries.get(x, 0) + 1
            if tries[x] < 3:
                raise OSError("again")
        return x

    retry = RetryPolicy(max_attempts=3, base_delay=delay, backoff="linear")
    flow = mapped(list(range(6)), body, max_parallel=2, retry=retry)
    report = flow.run(runner, max_workers=4)
    assert report.value("many") == list(range(6))
    assert tries == dict.fromkeys(range(6), 3)
    assert gauge.peak <= 2
    if delay:
        assert order.index(2) < len(order) - order[::-1].index(0) - 1, "a wait takes no place"


# --- failures ------------------------------------------------------------------------------------


def odd_ones_fail(x: int) -> int:
    """Fail for odd numbers."""
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


@everywhere
def test_failures_are_collected_where_the_node_says_so(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = mapped([0, 1, 2, 3], odd_ones_fail, map_errors="collect", try_count=2, retry=IMMEDIATE)
    flow.add("good", lambda xs: list(filter(None, xs)), take={"xs": "many"})
    hook = Script()
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.success
    expected = [
        0,
        Failed("1", "ValueError", "1 is odd", 2),
        2,
        Failed("3", "ValueError", "3 is odd", 2),
    ]
    assert report.value("many") == expected
    assert report.value("good") == [2]
    assert hook.told.count("NodeFailed many[1]") == 1
    if place == "file":
        again = flow.resume("r", url_of(tmp_path))
        assert again.value("many") == expected


@everywhere
def test_a_list_of_which_all_fail_can_be_collected(runner: str, place: str, tmp_path: Path) -> None:
    report = mapped([1, 3], odd_ones_fail, map_errors="collect").run(
        runner, **kept(place, tmp_path)
    )
    assert report.success
    assert [each.message for each in report.value("many")] == ["1 is odd", "3 is odd"]


@pytest.mark.parametrize("policy", ["stop", "continue", "pause"])
@everywhere
def test_one_failed_invocation_fails_the_node_under_its_policy(
    runner: str, place: str, policy: str, tmp_path: Path
) -> None:
    flow = mapped([0, 1, 2], odd_ones_fail, on_failure=policy)
    flow.note("below", after=["many"]).note("aside", after=["items"])
    hook = Script()
    report = flow.run(runner, max_workers=1, hooks=[hook], **kept(place, tmp_path))
    assert report.status == ("paused" if policy == "pause" else "failed")
    assert report.states()["many"] == "failed"
    error = report.node_reports["many"].exception
    assert isinstance(error, MapError)
    assert error.key == "1"
    assert "1 is odd" in str(error)
    expected = {
        "stop": ("skipped", "cancelled"),
        "continue": ("skipped", "completed"),
        "pause": ("pending", "pending"),
    }[policy]
    assert (str(report.states()["below"]), str(report.states()["aside"])) == expected
    assert hook.told.count("NodeFailed many[1]") == 1
    assert hook.told.count("NodeFailed many") == 1


@pytest.mark.row("G14")
@pytest.mark.parametrize("policy", ["stop", "continue", "pause"])
@every_runner
def test_a_resume_calls_only_what_had_failed(runner: str, policy: str, tmp_path: Path) -> None:
    calls: list[int] = []
    broken = [True]

    def body(x: int) -> int:
        calls.append(x)
        if x == 2 and broken:
            raise OSError("not yet")
        return 10 * x

    flow = mapped([0, 1, 2], body, on_failure=policy)
    flow.add("total", lambda xs: sum(xs), take={"xs": "many"})
    first = flow.run(runner, max_workers=1, **kept("file", tmp_path))
    assert first.states()["many"] == "failed"
    broken.clear()
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.outputs == {"total": 30}
    assert calls == [0, 1, 2, 2]
    assert rows(tmp_path)[-2:] == [("2", 1, "failed"), ("2", 2, "completed")]


@every_runner
def test_a_resume_pairs_what_was_paired(runner: str, tmp_path: Path) -> None:
    calls: list[str] = []
    broken = [True]

    def second(x: int) -> int:
        calls.append(f"second {x}")
        if x == 4 and broken:
            raise OSError("not yet")
        return x + 1

    flow = mapped([1, 2, 3])
    flow.add("more", second, take={"x": "many"}, map_over="x", on_failure="continue")
    flow.run(runner, max_workers=1, **kept("file", tmp_path))
    broken.clear()
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.outputs == {"more": [3, 5, 7]}
    assert calls.count("second 4") == 2
    assert calls.count("second 2") == 1


@pytest.mark.parametrize("place", ["memory", "file"])
@pytest.mark.parametrize("policy", ["stop", "continue", "pause"])
def test_what_runs_of_a_nested_list_comes_to_its_end_once(
    policy: str, place: str, tmp_path: Path
) -> None:
    failed, begun = threading.Event(), threading.Event()

    def body(x: int) -> int:
        if x == 0:
            begun.wait(10)
            raise ValueError("first")
        begun.set()
        failed.wait(10)
        time.sleep(0.02)
        return x

    flow = Steered()
    flow.add("many", body, give={"x": [[0, 1, 2], [3]]}, map_over="x", map_depth=2)
    flow.nodes[0] = flow.nodes[0].replace(on_failure=policy)

    def seen(_ctx: Any, _event: Any) -> None:
        failed.set()

    hook = Script({"NodeFailed many[0.0]": seen})
    report = flow.run("threads", max_workers=2, hooks=[hook], **kept(place, tmp_path))
    assert report.states()["many"] == "failed"
    assert hook.told.count("NodeCompleted many[0.1]") == 1
    assert hook.told.count("NodeStarted many[1.0]") == 0
    if place == "file":
        assert ("0.1", 1, "completed") in rows(tmp_path)


@every_runner
def test_a_retry_that_waits_ends_with_its_node(runner: str) -> None:
    def body(x: int) -> int:
        raise (OSError("busy") if x else ValueError("no"))

    policy = RetryPolicy(3, base_delay=5, backoff="fixed", retry_on=("io",))
    flow = Steered()
    flow.add("many", body, give={"x": [1, 0]}, map_over="x", retry=policy, on_failure="continue")
    flow.note("after", after=["many"])
    began = time.monotonic()
    report = flow.run(runner, max_workers=1)
    assert time.monotonic() - began < 5
    assert states(report) == {"many": "failed", "after": "skipped"}


@every_runner
def test_invocations_are_retried_and_timed_alone(runner: str) -> None:
    calls: list[int] = []

    def body(x: int) -> int:
        calls.append(x)
        if calls.count(x) == 1 and x == 1:
            raise OSError("once")
        return x

    report = mapped([0, 1, 2], body, try_count=2, retry=IMMEDIATE).run(runner)
    assert report.value("many") == [0, 1, 2]
    assert sorted(calls) == [0, 1, 1, 2]


@every_runner
def test_the_limit_of_time_is_each_invocation_s_own(runner: str) -> None:
    over = threading.Event()

    def body(x: int) -> int:
        if x == 1:
            over.wait(60)
        return x

    flow = mapped([0, 1, 2], body, timeout=1.0, map_errors="collect")
    report = flow.run(runner, max_workers=3)
    over.set()
    values = report.value("many")
    assert (values[0], values[2]) == (0, 2)
    assert values[1].type.endswith("NodeTimeout")


def test_the_wait_between_attempts_is_each_invocation_s_own() -> None:
    tries: list[int] = []

    def body(x: int) -> int:
        tries.append(x)
        if tries.count(x) == 1:
            raise OSError("once")
        return x

    clocked = Clocked(mapped([0, 1], body, try_count=2))
    assert clocked.run().value("many") == [0, 1]
    assert sum(clocked.waits) == pytest.approx(2.0)


@every_runner
def test_a_failure_handler_recovers_one_invocation(runner: str) -> None:
    flow = Steered().act("rescue", lambda error, x: -x).note("items", [0, 1, 2, 3])
    flow.add("many", odd_ones_fail, take={"x": "items"}, map_over="x", failure="rescue")
    report = flow.run(runner)
    assert report.success
    assert report.value("many") == [0, -1, 2, -3]


@every_runner
def test_a_soft_failure_fails_the_node(runner: str) -> None:
    def body(x: int) -> Any:
        return NodeOutput.failure("no such customer") if x else x

    report = mapped([0, 1], body).run(runner)
    assert "no such customer" in str(report.node_reports["many"].exception)


@every_runner
def test_what_runs_when_another_invocation_fails_comes_to_its_end(runner: str) -> None:
    ended: list[int] = []

    def body(x: int) -> int:
        if x == 0:
            raise ValueError("first")
        time.sleep(0.03)
        ended.append(x)
        return x

    flow = mapped([0, 1, 2, 3], body, on_failure="continue").note("aside", after=["items"])
    report = flow.run(runner, max_workers=2)
    assert states(report) == {"items": "completed", "many": "failed", "aside": "completed"}
    assert len(ended) <= 1, "those that had not begun do not begin any more"


# --- steering ------------------------------------------------------------------------------------


@every_runner
def test_a_mapped_node_grows(runner: str, tmp_path: Path) -> None:
    spec = NodeSpec("double", id="many", inputs={"x": ref("items.result")}, map_over="x")
    flow = Steered().act("double", double)
    flow.add("items", lambda: [1, 2, 3])
    hook = Script({"NodeCompleted items": AddNode(spec)})
    report = flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    assert report.hook_errors == ()
    assert report.value("many") == [2, 4, 6]
    assert flow.resume("r", url_of(tmp_path)).value("many") == [2, 4, 6]


@everywhere
def test_a_node_added_in_the_middle_follows_what_is_open(
    runner: str, place: str, tmp_path: Path
) -> None:
    spec = NodeSpec("double", id="more", inputs={"x": ref("many.result")}, map_over="x")
    flow = mapped(list(range(6))).act("double", double)
    hook = Script({"NodeCompleted many[0]": AddNode(spec)})
    report = flow.run(runner, max_workers=2, hooks=[hook], **kept(place, tmp_path))
    assert report.hook_errors == ()
    assert report.value("more") == [4 * k for k in range(6)]
    if place == "file":
        assert flow.resume("r", url_of(tmp_path)).value("more") == [4 * k for k in range(6)]


@everywhere
def test_a_node_added_in_the_middle_follows_a_generator(
    runner: str, place: str, tmp_path: Path
) -> None:
    spec = NodeSpec("double", id="more", inputs={"x": ref("source.result")}, map_over="x")
    flow = fed(Source(30, pause=0.001), "plain").act("double", double)
    hook = Script({"NodeCompleted many[0]": AddNode(spec)})
    report = flow.run(runner, max_workers=2, hooks=[hook], **kept(place, tmp_path))
    assert report.hook_errors == ()
    assert report.value("more") == [2 * k for k in range(30)]


@pytest.mark.row("B26")
@everywhere
def test_what_is_mapped_over_can_be_changed_before_it_is_opened(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = mapped([1, 2]).note("other", [5, 6, 7])
    hook = Script({"NodeCompleted items": SetNodeInputs("many", {"x": ref("other.result")})})
    report = flow.run(runner, max_workers=1, hooks=[hook], **kept(place, tmp_path))
    assert report.hook_errors == ()
    assert report.value("many") == [10, 12, 14]
    if place == "file":
        assert flow.resume("r", url_of(tmp_path)).value("many") == [10, 12, 14]


@everywhere
def test_a_run_is_cancelled_at_once_however_many_invocations_wait(
    runner: str, place: str, tmp_path: Path
) -> None:
    token = CancelToken()

    def body(x: int) -> int:
        if x == 5:
            token.cancel("enough")
        return x

    flow = mapped(list(range(5_000)), body)
    began = time.monotonic()
    report = flow.run(runner, max_workers=2, cancel=token, **kept(place, tmp_path))
    assert time.monotonic() - began < 10
    assert states(report) == {"items": "completed", "many": "cancelled"}
    if place == "file":
        assert flow.resume("r", url_of(tmp_path)).value("many") == list(range(5_000))


@every_runner
def test_async_invocations_of_a_grown_node_have_their_own_limits(
    runner: str, tmp_path: Path
) -> None:
    async def body(x: int) -> int:
        await asyncio.sleep(5 if x == 1 else 0)
        return x

    spec = NodeSpec(
        "body",
        id="many",
        inputs={"x": ref("items.result")},
        map_over="x",
        map_errors="collect",
        timeout=0.1,
    )
    flow = Steered().act("body", body)
    flow.add("items", lambda: [0, 1, 2])
    hook = Script({"NodeCompleted items": AddNode(spec)})
    report = flow.run(runner, hooks=[hook], **kept("file", tmp_path))
    values = report.value("many")
    assert (values[0], values[2]) == (0, 2)
    assert values[1].type.endswith("NodeTimeout")
    assert report.abandoned == ()


@every_runner
def test_an_invocation_that_waits_for_a_person_takes_no_place_under_the_limit(
    runner: str, tmp_path: Path
) -> None:
    asked: list[int] = []

    def ask(ctx: NodeCtx, x: int) -> Any:
        asked.append(x)
        return ctx.wait_for_human(f"{x}?")

    flow, url = Steered(), url_of(tmp_path)
    flow.add("ask", ask, give={"x": [1, 2]}, map_over="x", max_parallel=1)
    flow.run(runner, **kept("file", tmp_path))
    assert asked == [1, 2]
    send(url, "r", [Answer("ask", "one", key="0")])
    flow.resume("r", url, runner=runner)
    send(url, "r", [Answer("ask", "two", key="1")])
    assert flow.resume("r", url, runner=runner).value("ask") == ["one", "two"]
    assert asked == [1, 2]


@everywhere
@pytest.mark.parametrize(
    ("policy", "status", "other"),
    [("stop", "failed", "cancelled"), ("pause", "paused", "pending")],
)
def test_a_node_without_items_ends_a_run_in_which_other_mapped_nodes_are_enabled(
    runner: str, place: str, tmp_path: Path, policy: str, status: str, other: str
) -> None:
    flow = mapped(7, on_failure=OnFailure(policy))
    flow.add("other", lambda x: x, give={"x": [1, 2]}, map_over="x", after=["items"])
    flow.add("after", lambda xs: xs, take={"xs": "other"})
    report = flow.run(runner, **kept(place, tmp_path))
    assert report.status == status
    found = {name: str(each.state) for name, each in report.node_reports.items()}
    assert found == {"items": "completed", "many": "failed", "other": other, "after": other}


@everywhere
def test_a_failure_handler_stands_in_for_a_node_that_has_no_items(
    runner: str, place: str, tmp_path: Path
) -> None:
    flow = mapped(7, failure="rescue").offer("rescue", [1])
    report = flow.run(runner, **kept(place, tmp_path))
    assert report.value("many") == [1]
    assert report.node_reports["many"].recovered


@every_runner
def test_a_held_mapped_node_goes_on_where_it_stood(runner: str, tmp_path: Path) -> None:
    flow = counted(range(6))
    flow.add("after", lambda xs: xs, take={"xs": "many"})
    hook = Script({"NodeStarted many[2]": PauseBranch("many", "held")})
    report = flow.run(runner, max_workers=1, hooks=[hook], **kept("file", tmp_path))
    assert report.status == "paused"
    done = len(flow.calls)
    assert 3 < done < 7
    send(url_of(tmp_path), "r", [ResumeBranch("many")])
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    assert again.outputs == {"after": list(range(6))}
    assert sorted(flow.calls[1:]) == [f"many {k}" for k in range(6)]


@every_runner
def test_a_cancelled_mapped_node_starts_no_more_invocations(runner: str) -> None:
    flow = counted(range(6))
    flow.note("aside", after=["items"])
    hook = Script({"NodeStarted many[1]": CancelBranch("many", "enough")})
    report = flow.run(runner, max_workers=1, hooks=[hook])
    assert report.success
    assert states(report) == {"items": "completed", "many": "cancelled", "aside": "completed"}
    assert len(flow.calls) < 6


@every_runner
def test_a_disabled_mapped_node_is_skipped(runner: str) -> None:
    flow = mapped([1], enabled=False).note("after", after=["many"])
    assert states(flow.run(runner)) == {
        "items": "completed",
        "many": "skipped",
        "after": "skipped",
    }


@every_runner
def test_a_mapped_join_takes_what_was_delivered(runner: str) -> None:
    flow = Steered().note("a", [1, 2]).note("b", enabled=False)
    flow.add(
        "many",
        lambda x=None, y=None: (x, y),
        take={"x": "a", "y": "b"},
        map_over="x",
        trigger="none_failed",
    )
    assert flow.run(runner).value("many") == [(1, None), (2, None)]


# --- generators ----------------------------------------------------------------------------------


class Source:
    """A generator that can be watched.

    Attributes:
        yielded: How many items it has given.
        closed: Whether it was closed before its end.
    """

    def __init__(self, items: int, *, error: Exception | None = None, pause: float = 0.0) -> None:
        self.items = items
        self.error = error
        self.pause = pause
        self.yielded = 0
        self.closed = False
        self.made = 0

    def plain(self) -> Iterator[int]:
        """Return the generator."""
        self.made += 1
        self.yielded = 0
        try:
            for k in range(self.items):
                if self.pause:
                    time.sleep(self.pause)
                self.yielded += 1
                yield k
            if self.error is not None:
                raise self.error
        except GeneratorExit:
            self.closed = True
            raise

    async def flowing(self) -> AsyncIterator[int]:
        """Return the async one."""
        self.made += 1
        self.yielded = 0
        try:
            for k in range(self.items):
                await asyncio.sleep(self.pause)
                self.yielded += 1
                yield k
            if self.error is not None:
                raise self.error
        except (GeneratorExit, asyncio.CancelledError):  # at rest, or while it waits
            self.closed = True
            raise


KINDS = ["plain", "flowing"]


def fed(source: Source, kind: str, body: Callable[..., Any] = double, **fields: Any) -> Steered:
    """Return a flow that maps *body* over a generator."""
    flow = Steered()
    flow.add("source", getattr(source, kind))
    return flow.add("many", body, take={"x": "source"}, map_over="x", **fields)


@pytest.mark.parametrize("kind", KINDS)
@everywhere
def test_a_generator_is_mapped_over(runner: str, place: str, kind: str, tmp_path: Path) -> None:
    flow = fed(Source(20), kind)
    flow.add("total", lambda xs: sum(xs), take={"xs": "many"})
    report = flow.run(runner, **kept(place, tmp_path))
    assert report.outputs == {"total": 2 * sum(range(20))}
    assert report.value("source") == list(range(20))
    if place == "file":
        again = flow.resume("r", url_of(tmp_path))
        assert again.value("many") == [2 * k for k in range(20)]


@pytest.mark.parametrize("kind", KINDS)
@every_runner
def test_a_generator_is_read_again_after_a_death(runner: str, kind: str, tmp_path: Path) -> None:
    """Its recorded items are compared and passed over; what was used is not used again."""
    alive, dead = tmp_path / "alive", tmp_path / "dead"
    alive.mkdir()
    calls: list[int] = []

    def body(x: int) -> int:
        calls.append(x)
        if x == 4 and not dead.exists():
            shutil.copytree(alive, dead)
        return x

    flow = fed(Source(8), kind, body)
    options = {**kept("file", alive), "config": {"flush_interval": 0}}
    flow.run(runner, max_workers=1, **options)
    calls.clear()
    again = flow.resume("r", url_of(dead), runner=runner)
    assert again.value("many") == list(range(8))
    assert calls == [4, 5, 6, 7]


@pytest.mark.parametrize("kind", KINDS)
@every_runner
def test_an_empty_generator_gives_an_empty_list(runner: str, kind: str) -> None:
    assert fed(Source(0), kind).run(runner).value("many") == []


@pytest.mark.parametrize("kind", KINDS)
@everywhere
def test_invocations_start_while_the_generator_still_yields(
    runner: str, place: str, kind: str, tmp_path: Path
) -> None:
    source = Source(6, pause=0.01)
    seen: list[int] = []

    def body(x: int) -> int:
        seen.append(source.yielded)
        return x

    report = fed(source, kind, body).run(runner, max_workers=2, **kept(place, tmp_path))
    assert report.value("many") == list(range(6))
    assert seen[0] < 6, "the first one began before the last item was there"


@every_runner
def test_a_generator_feeds_a_node_that_another_one_follows(runner: str) -> None:
    flow = fed(Source(5), "plain")
    flow.add("more", double, take={"x": "many"}, map_over="x")
    assert flow.run(runner).value("more") == [4 * k for k in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@every_runner
def test_a_generator_waits_for_those_who_use_its_items(runner: str, kind: str) -> None:
    """What is yielded and not used yet is bounded, whatever the generator could give."""
    source = Source(20_000)
    ahead: list[int] = []
    used: list[int] = []

    def body(x: int) -> int:
        used.append(x)
        ahead.append(source.yielded - len(used))
        return x

    report = fed(source, kind, body).run(runner, max_workers=2)
    assert report.success
    assert len(used) == 20_000
    assert max(ahead) < 4_000


@pytest.mark.parametrize("kind", KINDS)
@everywhere
def test_an_error_in_the_middle_fails_the_generator(
    runner: str, place: str, kind: str, tmp_path: Path
) -> None:
    source = Source(3, error=OSError("torn"))
    flow = fed(source, kind)
    report = flow.run(runner, **kept(place, tmp_path))
    assert states(report) == {"source": "failed", "many": "skipped"}
    assert str(report.node_reports["source"].exception) == "torn"
    if place == "file":
        source.error = None
        again = flow.resume("r", url_of(tmp_path), runner=runner)
        assert again.value("many") == [0, 2, 4]


@pytest.mark.parametrize("kind", KINDS)
@everywhere
def test_a_generator_that_is_tried_again_goes_on_with_the_same_items(
    runner: str, place: str, kind: str, tmp_path: Path
) -> None:
    source = Source(4, error=OSError("torn"))
    calls: list[int] = []

    def body(x: int) -> int:
        calls.append(x)
        return x

    flow = fed(source, kind, body)
    flow.nodes[0] = flow.nodes[0].replace(try_count=2, retry=IMMEDIATE)

    def mend(_ctx: Any, _event: Any) -> None:
        source.error = None

    hook = Script({"NodeRetrying source": mend})
    report = flow.run(runner, hooks=[hook], **kept(place, tmp_path))
    assert report.success
    assert report.value("many") == [0, 1, 2, 3]
    assert sorted(calls) == [0, 1, 2, 3], "no item is used twice"
    assert source.made == 2


@pytest.mark.parametrize("place", ["memory", "file"])
@every_runner
def test_other_items_at_another_try_fail_the_generator(
    runner: str, place: str, tmp_path: Path
) -> None:
    tries: list[int] = []

    def moody() -> Iterator[int]:
        tries.append(1)
        yield 1
        yield len(tries)
        if len(tries) == 1:
            raise OSError("torn")

    flow = Steered()
    flow.add("source", moody, try_count=2, retry=IMMEDIATE)
    flow.add("many", double, take={"x": "source"}, map_over="x")
    report = flow.run(runner, **kept(place, tmp_path))
    error = report.node_reports["source"].exception
    assert isinstance(error, OutputError)
    assert "item 1 is not what it was" in str(error)


@pytest.mark.parametrize("kind", KINDS)
@every_runner
def test_a_generator_of_a_run_that_stops_is_closed(runner: str, kind: str) -> None:
    source = Source(1_000_000)

    def body(x: int) -> int:
        raise ValueError("no")

    flow = fed(source, kind, body)
    began = time.monotonic()
    report = flow.run(runner, max_workers=2)
    assert time.monotonic() - began < 5
    assert report.status == "failed"
    assert states(report) == {"source": "cancelled", "many": "failed"}
    gc.collect()
    eventually(lambda: source.closed, "the generator was closed")


@pytest.mark.parametrize("kind", KINDS)
@every_runner
def test_a_generator_that_waits_is_ended_with_its_run(runner: str, kind: str) -> None:
    """It is not being read just then, as enough of its items wait for their invocation."""
    source = Source(1_000_000)

    def body(x: int) -> int:
        time.sleep(0.0005)
        if x == 300:
            raise ValueError("no")
        return x

    flow = fed(source, kind, body)
    began = time.monotonic()
    report = flow.run(runner, max_workers=2)
    assert time.monotonic() - began < 8
    assert states(report) == {"source": "cancelled", "many": "failed"}
    gc.collect()
    eventually(lambda: source.closed, "the generator was closed")


@pytest.mark.parametrize("how", ["cancel", "time", "pause", "hold", "leave"])
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_a_generator_that_waits_is_ended_whatever_ends_the_run(runner: str, how: str) -> None:
    source, token = Source(1_000_000), CancelToken()
    crowd: list[int] = []
    gate = threading.Event()

    def body(x: int) -> int:
        crowd.append(x)
        if how != "time":
            gate.wait(10)
        time.sleep(0.4 if how == "time" else 0.001)  # longer than an end waits to be shown
        return x

    def end() -> None:
        eventually(lambda: crowd, "the first item is there")
        time.sleep(0.05)
        if how == "cancel":
            token.cancel("enough")
        gate.set()

    def stop(_ctx: Any, _event: Any) -> Any:
        commands = {"pause": PauseRun(), "hold": PauseBranch("many"), "leave": CancelRun()}
        return commands.get(how)

    ender = threading.Thread(target=end)
    ender.start()
    flow = fed(source, "plain", body)
    hook = Script({"NodeCompleted many[0]": stop})
    timeout = 0.2 if how == "time" else None
    began = time.monotonic()
    report = flow.run(runner, max_workers=2, hooks=[hook], cancel=token, timeout=timeout)
    ender.join()
    assert time.monotonic() - began < 8
    assert source.closed
    assert len(crowd) < 512
    expected = {"cancel": "cancelled", "time": "timed_out", "leave": "cancelled"}
    assert report.status == expected.get(how, "paused")
    state = "pending" if how in ("pause", "hold") else "cancelled"
    assert states(report) == {"source": state, "many": state}


@every_runner
def test_a_join_may_map_over_a_generator(runner: str) -> None:
    flow = Steered()
    flow.add("source", Source(3).plain).note("other")
    flow.add(
        "many",
        lambda x=None, y=None: (x, y),
        take={"x": "source", "y": "other"},
        map_over="x",
        trigger="none_failed",
    )
    assert flow.run(runner).value("many") == [(k, None) for k in range(3)]


@every_runner
def test_a_disabled_node_follows_nobody(runner: str) -> None:
    flow = fed(Source(3), "plain").note("items", [1, 2])
    flow.nodes[1] = flow.nodes[1].replace(enabled=False)
    flow.add("first", double, take={"x": "items"}, map_over="x")
    flow.add("second", double, take={"x": "first"}, map_over="x", enabled=False)
    report = flow.run(runner)
    assert states(report) == {
        "source": "completed",
        "many": "skipped",
        "items": "completed",
        "first": "completed",
        "second": "skipped",
    }


@every_runner
def test_a_generator_that_ends_earlier_at_another_try_fails(runner: str, tmp_path: Path) -> None:
    source = Source(4, error=OSError("torn"))
    flow = fed(source, "plain")
    flow.run(runner, **kept("file", tmp_path))
    source.items, source.error = 2, None
    again = flow.resume("r", url_of(tmp_path), runner=runner)
    error = again.node_reports["source"].exception
    assert isinstance(error, OutputError)
    assert "it ended after 2 items and not after 4" in str(error)


def test_an_iterator_that_raises_fails_the_node() -> None:
    class Torn:
        def __iter__(self) -> Iterator[int]:
            yield 1
            raise OSError("torn")

    report = mapped(Torn()).run()
    error = report.node_reports["many"].exception
    assert isinstance(error, MapError)
    assert isinstance(error.__cause__, OSError)


@every_runner
def test_a_generator_that_nobody_maps_over_is_refused(runner: str) -> None:
    flow = Steered()
    flow.add("source", Source(3).plain).note("after", after=["source"])
    report = flow.run(runner)
    error = report.node_reports["source"].exception
    assert isinstance(error, OutputError)
    assert "map over it" in str(error)


@every_runner
def test_a_generator_has_one_time_limit_for_its_beginning(runner: str) -> None:
    """The limit is the call's; the reading of what it returned is no attempt of its own."""
    flow = fed(Source(5, pause=0.02), "plain")
    flow.nodes[0] = flow.nodes[0].replace(timeout=5)
    assert flow.run(runner).value("many") == [0, 2, 4, 6, 8]


@every_runner
def test_items_without_a_stored_form_fail_a_recorded_generator(runner: str, tmp_path: Path) -> None:
    def odd() -> Iterator[Any]:
        yield object()

    flow = Steered()
    flow.add("source", odd).add("many", lambda x: 1, take={"x": "source"}, map_over="x")
    assert flow.run(runner).value("many") == [1]
    report = flow.run(runner, **kept("file", tmp_path))
    assert states(report)["source"] == "failed"
    assert "item 0 of 'source'" in str(report.node_reports["source"].exception)


def test_a_hook_may_stop_the_reading(tmp_path: Path) -> None:
    source = Source(1_000_000)

    def cancel(_ctx: Any, _event: Any) -> Command:
        return CancelBranch("source", "enough")

    flow = fed(source, "plain").note("aside")
    hook = Script({"NodeCompleted many[3]": cancel})
    report = flow.run("threads", max_workers=2, hooks=[hook], **kept("file", tmp_path))
    assert report.success
    assert states(report) == {"source": "cancelled", "many": "cancelled", "aside": "completed"}
    assert source.closed


def test_a_timeout_is_an_invocation_s_failure() -> None:
    def body(x: int) -> int:
        time.sleep(0.5)
        return x

    report = mapped([1], body, timeout=0.05).run("threads")
    error = report.node_reports["many"].exception
    assert isinstance(error, MapError)
    assert isinstance(error.__cause__, NodeTimeout)
