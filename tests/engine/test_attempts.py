"""`RunReport.attempts`: every call of a node, in this process, in earlier ones, and on record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagger_dsl import DAG, FSM, FSMReturn, RetryPolicy, RunOptions, Store, action, engine
from dagger_dsl.engine.attempts import KEPT, LAPS, waits_for_attempt
from dagger_dsl.engine.report import NodeReport, RunReport
from dagger_dsl.errors import NodeExecutionError, NodeNotFound
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.states import NodeState
from dagger_dsl.registry import Registry
from dagger_dsl.views.stored import stored_report
from tests.views.reports import make_report

RUNNERS = ("sequential", "threads", "asyncio")


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def flaky(failures: int, most: int = 5) -> DAG:
    """Return a DAG whose one node fails so often before it answers."""
    left = [failures]

    def call() -> int:
        if left[0]:
            left[0] -= 1
            raise ConnectionError(f"{left[0]} left")
        return 1

    with DAG("flaky") as dag:
        action(call, retry=RetryPolicy(max_attempts=most, base_delay=0))()
    return dag


def told(report: RunReport, node_id: str) -> list[tuple[str, int, str, str | None]]:
    return [
        (each.key, each.number, str(each.state), None if each.error is None else each.error.message)
        for each in report.attempts(node_id)
    ]


@pytest.mark.parametrize("runner", RUNNERS)
def test_each_attempt_has_its_times_and_its_error(runner: str) -> None:
    dag = flaky(2)
    dag.run(runner=runner)
    found = dag.report.attempts("call")
    assert told(dag.report, "call") == [
        ("default", 1, "failed", "1 left"),
        ("default", 2, "failed", "0 left"),
        ("default", 3, "completed", None),
    ]
    for each in found:
        assert each.started_at is not None
        assert each.finished_at is not None
        assert each.duration is not None
        took = (each.finished_at - each.started_at).total_seconds()
        assert took == pytest.approx(each.duration, abs=1e-5)
    starts = [each.started_at for each in found if each.started_at is not None]
    assert starts == sorted(starts)
    assert found[0].error is not None
    assert "raise ConnectionError" in found[0].error.traceback


def test_the_last_attempt_is_what_the_node_report_tells(tmp_path: Path) -> None:
    dag = flaky(9, most=2)
    with pytest.raises(NodeExecutionError):
        dag.run()
    node, last = dag.report.node_reports["call"], dag.report.attempts("call")[-1]
    assert (last.number, last.state, last.error) == (node.attempts, node.state, node.error)
    assert (last.started_at, last.duration) == (node.started_at, node.duration)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_record_has_the_same_attempts(runner: str, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'runs.db'}"
    dag = flaky(2)
    dag.run(runner=runner, database_url=url)
    with Store(url) as store:
        recorded = stored_report(store.load_run(dag.report.run_id), url, store)
        assert told(recorded, "call") == told(dag.report, "call")
        assert recorded.config == dag.report.config


def test_a_resumed_run_knows_the_attempts_of_earlier_processes(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'runs.db'}"
    dag = flaky(3, most=2)
    with pytest.raises(NodeExecutionError):
        dag.run(database_url=url)
    report = engine.resume(dag.report.run_id, dag.registry, RunOptions(database_url=url))
    assert [each[1:3] for each in told(report, "call")] == [
        (1, "failed"),
        (2, "failed"),
        (3, "failed"),
        (4, "completed"),
    ]


def test_attempts_of_a_mapped_node_are_those_of_its_items() -> None:
    failed: list[int] = []

    def half(x: int) -> float:
        if x == 1 and not failed:
            failed.append(x)
            raise ValueError("once")
        return x / 2

    with DAG("mapped") as dag:
        action(half, retry=RetryPolicy(max_attempts=2, base_delay=0)).map([0, 1])
    dag.run()
    assert sorted(told(dag.report, "half")) == [
        ("0", 1, "completed", None),
        ("1", 1, "failed", "once"),
        ("1", 2, "completed", None),
    ]


def turns(most: int, history_limit: int | None = None) -> FSM:
    """Return a machine that goes left and right so often before it ends."""
    fsm = FSM("turn", max_cycles=2 * most + 2, history_limit=history_limit)

    @fsm.state(initial=True)
    def left(n: int = 0) -> FSMReturn:
        return FSMReturn(next_state="right" if n < most else "end", value=n + 1)

    @fsm.state
    def right(n: int) -> FSMReturn:
        return FSMReturn(next_state="left", value=n)

    @fsm.state(terminal=True)
    def end(n: int) -> int:
        return n

    return fsm


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("is_recorded", [False, True])
def test_a_machine_has_the_calls_of_every_cycle(
    runner: str, is_recorded: bool, tmp_path: Path
) -> None:
    url = f"sqlite:{tmp_path / 'runs.db'}" if is_recorded else None
    fsm = turns(2)
    fsm.run(database_url=url, runner=runner)
    reports = [fsm.report]
    if url is not None:
        with Store(url) as store:
            reports.append(stored_report(store.load_run(fsm.report.run_id), url, store))
    for report in reports:
        assert [each.key for each in report.attempts("left")] == ["0", "2", "4"]
        assert [each.key for each in report.attempts("right")] == ["1", "3"]
        starts = [each.started_at for name in ("left", "right") for each in report.attempts(name)]
        assert None not in starts
        assert len(set(starts)) == 5


def test_of_a_long_machine_memory_keeps_the_newest_cycles_and_a_database_all(
    tmp_path: Path,
) -> None:
    fsm = turns(LAPS)
    fsm.run()
    known = [int(each.key) for each in fsm.report.attempts("left")]
    assert known == list(range(2 * LAPS - 2 * len(known) + 2, 2 * LAPS + 1, 2))
    assert len(known) == LAPS // 2 + 1
    fsm.run(database_url=f"sqlite:{tmp_path / 'runs.db'}", durability="async")
    assert len(fsm.report.attempts("left")) == LAPS + 1
    short = turns(LAPS, history_limit=10)
    short.run()
    assert len(short.report.attempts("left")) == 6


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_cycle_that_was_tried_again_keeps_its_attempts(runner: str) -> None:
    fsm, calls = FSM("shaky"), [0]

    @fsm.state(initial=True, retry=RetryPolicy(max_attempts=2, base_delay=0))
    def go(n: int = 0) -> FSMReturn:
        calls[0] += 1
        if calls[0] == 2:
            raise ValueError("once")
        return FSMReturn(next_state="go" if n < 2 else None, value=n + 1, stop=n == 2)

    fsm.run(runner=runner)
    assert told(fsm.report, "go") == [
        ("0", 1, "completed", None),
        ("1", 1, "failed", "once"),
        ("1", 2, "completed", None),
        ("2", 1, "completed", None),
    ]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_mapped_node_as_a_whole_is_no_call_of_its_record(runner: str, tmp_path: Path) -> None:
    def half(x: int) -> float:
        return x / 2

    with DAG("mapped") as dag:
        action(half).map([0, 1, 2])
    url = f"sqlite:{tmp_path / 'runs.db'}"
    dag.run(runner=runner, database_url=url)
    with Store(url) as store:
        recorded = stored_report(store.load_run(dag.report.run_id), url, store)
    assert sorted(told(recorded, "half")) == sorted(told(dag.report, "half"))
    assert len(told(recorded, "half")) == 3


def test_calls_are_the_attempts_without_their_tracebacks() -> None:
    dag = flaky(9, most=1)
    with pytest.raises(NodeExecutionError):
        dag.run()
    (call,), (attempt,) = dag.report.calls("call"), dag.report.attempts("call")
    assert call.error is not None
    assert attempt.error is not None
    assert str(call.error) == str(attempt.error)
    assert (call.error.traceback, bool(attempt.error.traceback)) == ("", True)
    assert call.started_at == attempt.started_at


@pytest.mark.parametrize("is_recorded", [False, True])
def test_calls_of_one_invocation_can_be_asked_for(is_recorded: bool, tmp_path: Path) -> None:
    failed: list[int] = []

    def half(x: int) -> float:
        if x == 1 and not failed:
            failed.append(x)
            raise ValueError("once")
        return x / 2

    with DAG("mapped") as dag:
        action(half, retry=RetryPolicy(max_attempts=2, base_delay=0)).map([0, 1])
    url = f"sqlite:{tmp_path / 'runs.db'}" if is_recorded else None
    fsm = turns(2)
    dag.run(database_url=url)
    fsm.run(database_url=url)
    reports = [(dag.report, fsm.report)]
    if url is not None:
        with Store(url) as store:
            found = [stored_report(store.load_run(each.run_id), url, store) for each in reports[0]]
        reports.append((found[0], found[1]))
    for mapped, machine in reports:
        assert [each.number for each in mapped.calls("half", "1")] == [1, 2]
        assert [each.number for each in mapped.calls("half", "0")] == [1]
        assert [*mapped.calls("half", "7")] == []
        assert [*mapped.calls("half", "default")] == []
        assert [each.key for each in machine.calls("left", "2")] == ["2"]
        assert [each.key for each in machine.calls("left", "4")] == ["4"]
        assert [*machine.calls("left", "1")] == []


@pytest.mark.parametrize("runner", RUNNERS)
def test_an_attempt_that_was_taken_back_for_another_node_is_cancelled(runner: str) -> None:
    """Who gives a stream is called again with who takes it, without having failed."""
    calls: list[int] = []

    def numbers() -> Iterator[int]:
        yield 1
        yield 2

    def total(xs: Iterator[int]) -> int:
        calls.append(1)
        found = 0
        for each in xs:
            found += each
            if len(calls) == 1:
                raise ValueError("once")
        return found

    with DAG("stream") as dag:
        action(total, retry=RetryPolicy(max_attempts=2, base_delay=0))(action(numbers)())
    assert dag.run(runner=runner) == 3
    assert [each[1:] for each in told(dag.report, "total")] == [
        (1, "failed", "once"),
        (2, "completed", None),
    ]
    assert [each[1:] for each in told(dag.report, "numbers")] == [
        (1, "cancelled", None),
        (2, "completed", None),
    ]


def test_memory_keeps_the_newest_attempts() -> None:
    dag = flaky(KEPT + 20, most=KEPT + 21)
    dag.run()
    numbers = [each.number for each in dag.report.attempts("call")]
    assert numbers == list(range(21, KEPT + 22))


def test_what_was_not_called_has_no_attempts() -> None:
    report = make_report(
        Graph("g", [Node("a", "f"), Node("b", "f")]), NodeReport("a", NodeState.SKIPPED)
    )
    assert report.attempts("a") == []
    assert report.attempts("b") == []
    with pytest.raises(NodeNotFound, match="did you mean"):
        report.attempts("aa")


def test_what_a_node_waits_for_has_one_line_of_the_error_and_no_colours() -> None:
    error = f"\x1b[31m\n\n\x1b[1mno route\x1b[0m {'x' * 400}\nat all"
    line = waits_for_attempt(2, 3, error)
    assert line.startswith("waits for attempt 2 of 3: no route xxx")
    assert line.endswith("x…")
    assert len(line) == len("waits for attempt 2 of 3: ") + 300
    assert waits_for_attempt(2, None, None) == "waits for attempt 2"
