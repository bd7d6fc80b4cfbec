"""Critical paths: the chain of calls that the end of a run hung on."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl import DAG, RetryPolicy, Store, action
from dagger_dsl.engine.report import RunReport
from dagger_dsl.registry import Registry
from dagger_dsl.views import critical
from dagger_dsl.views.critical import Spans, Step, critical_path, steps_of_run
from dagger_dsl.views.stored import stored_report
from dagger_dsl.views.timeline import lane_of
from tests.views.pages import check

RUNNERS = ("sequential", "threads", "asyncio")
MANY = 100
Times = dict[str, tuple[float, float]]
Waits = dict[str, tuple[str, ...]]


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


def spans(times: dict[str, list[tuple[float, float]]]) -> dict[str, Spans]:
    return {
        name: Spans(
            array("d", (each[0] for each in calls)), array("d", (each[1] for each in calls))
        )
        for name, calls in times.items()
    }


def path(times: Times, waits: Waits, workers: int | None = MANY) -> list[Step]:
    """Return the critical path of nodes that were called once each."""
    found = spans({name: [each] for name, each in times.items()})
    return critical_path(found, waits.__getitem__, workers, 0.0)


def names(steps: list[Step]) -> list[str]:
    return [each.node_id for each in steps]


def told(steps: list[Step]) -> list[tuple[str, str, int]]:
    return [(each.node_id, each.why, each.calls) for each in steps]


def total(steps: list[Step]) -> float:
    return sum(each.waited + each.seconds for each in steps)


def steps_of(report: RunReport) -> list[Step]:
    lanes = [lane_of(each, report.calls(name), 0.0) for name, each in report.node_reports.items()]
    return steps_of_run(report, [each for each in lanes if each])


# --- results --------------------------------------------------------------------------------------


def test_it_is_the_chain_that_the_end_waited_for() -> None:
    times = {"a": (0.0, 1.0), "b": (0.0, 3.0), "c": (3.0, 4.0), "d": (1.0, 2.0)}
    waits: Waits = {"a": (), "b": (), "c": ("a", "b"), "d": ("a",)}
    assert told(path(times, waits)) == [("b", "run", 1), ("c", "result", 1)]


def test_what_was_not_called_is_passed_through() -> None:
    times = {"a": (0.0, 1.0), "c": (1.0, 2.0)}
    waits: Waits = {"a": (), "skipped": ("a",), "c": ("skipped",)}
    assert names(path(times, waits)) == ["a", "c"]


def test_a_dependency_that_went_on_longer_is_not_what_was_waited_for() -> None:
    times = {"quick": (0.0, 1.0), "slow": (0.0, 9.0), "first": (1.0, 10.0)}
    waits: Waits = {"quick": (), "slow": (), "first": ("slow", "quick")}
    assert names(path(times, waits)) == ["quick", "first"]


def test_of_a_stream_only_the_time_until_it_was_taken_counts() -> None:
    times = {"gives": (0.0, 9.0), "takes": (1.0, 10.0)}
    steps = path(times, {"gives": (), "takes": ("gives",)})
    assert [(each.node_id, each.seconds) for each in steps] == [("gives", 1.0), ("takes", 9.0)]


def test_of_nothing_it_is_nothing_and_cycles_end() -> None:
    assert critical_path({}, lambda _: ()) == []
    times = {"a": (0.0, 1.0), "b": (1.0, 2.0)}
    assert names(path(times, {"a": ("b",), "b": ("a",)})) == ["a", "b"]


def test_what_earlier_processes_called_is_none_of_its_steps() -> None:
    times = {"old": (0.0, 1.0), "new": (101.0, 102.0)}
    found = critical_path(
        spans({name: [each] for name, each in times.items()}),
        {"old": (), "new": ("old",)}.__getitem__,
        1,
        100.0,
    )
    assert found == [Step("new", "run", 1.0, 1.0)]


# --- workers --------------------------------------------------------------------------------------


def test_where_a_worker_was_missing_the_call_that_freed_it_comes_before() -> None:
    times = {"slow": (0.0, 5.0), "quick": (5.0, 6.0), "last": (6.0, 7.0)}
    waits: Waits = {"slow": (), "quick": (), "last": ("quick",)}
    found = path(times, waits, workers=1)
    assert told(found) == [("slow", "run", 1), ("quick", "worker", 1), ("last", "result", 1)]
    assert total(found) == 7


def test_where_workers_were_free_nothing_is_said_of_them() -> None:
    times = {"slow": (0.0, 5.0), "late": (5.01, 6.0)}
    waits: Waits = {"slow": (), "late": ()}
    (step,) = path(times, waits, workers=2)
    assert (step.node_id, step.why, round(step.waited, 2)) == ("late", "run", 5.01)


def test_long_after_a_worker_was_free_it_was_not_waited_for() -> None:
    times = {"asks": (0.0, 1.0), "answered": (600.0, 601.0)}
    waits: Waits = {"asks": (), "answered": ()}
    (step,) = path(times, waits, workers=1)
    assert (step.node_id, step.why, step.waited) == ("answered", "run", 600.0)


def test_items_of_a_map_are_one_step_also_between_others() -> None:
    found = critical_path(
        spans({"map": [(0.0, 1.0), (1.0, 2.0), (7.0, 8.0)], "slow": [(2.0, 7.0)]}),
        {"map": (), "slow": ()}.__getitem__,
        1,
        0.0,
    )
    assert told(found) == [("map", "run", 2), ("slow", "worker", 1), ("map", "worker", 1)]
    assert [each.seconds for each in found] == [2, 5, 1]


@pytest.mark.parametrize(
    ("again", "chain"),
    [
        (5.001, [("shaky", "run", 1), ("slow", "worker", 1), ("shaky", "worker", 1)]),
        (5.5, [("shaky", "run", 2)]),  # it waited for its own time
    ],
)
def test_an_attempt_at_once_after_another_call_waited_for_its_worker(
    again: float, chain: list[tuple[str, str, int]]
) -> None:
    shaky = Spans(array("d", (0.0, again)), array("d", (1.0, 7.0)), {1: 0})
    slow = Spans(array("d", (1.0,)), array("d", (5.0,)))
    found = critical_path({"shaky": shaky, "slow": slow}, lambda _: (), 1, 0.0)
    assert told(found) == chain
    assert total(found) == 7


def test_without_their_number_as_many_workers_are_taken_for_granted_as_were_busy() -> None:
    times = {"a": (0.0, 2.0), "b": (0.0, 3.0), "c": (2.0, 4.0)}
    waits: Waits = {"a": (), "b": (), "c": ()}
    assert told(path(times, waits, workers=None)) == [("a", "run", 1), ("c", "worker", 1)]


# --- laws -----------------------------------------------------------------------------------------


@st.composite
def played(draw: st.DrawFn) -> tuple[Times, Waits]:
    """Draw a graph with the times of a run: nodes start when all they wait for has ended."""
    size = draw(st.integers(1, 15))
    times: Times = {}
    waits: Waits = {}
    ended: dict[str, float] = {}
    for number in range(size):
        before = [f"n{each}" for each in range(number)]
        chosen_ones = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        node = f"n{number}"
        waits[node] = tuple(chosen_ones)
        ready = max((ended[each] for each in chosen_ones), default=0.0)
        called = draw(st.booleans()) or number == 0
        start = ready + (draw(st.floats(0, 5)) if called else 0.0)
        ended[node] = start + (draw(st.floats(0.01, 10)) if called else 0.0)
        if called:
            times[node] = (start, ended[node])
    return times, waits


@given(played())
def test_it_leads_from_a_beginning_to_the_end_of_the_run(run: tuple[Times, Waits]) -> None:
    times, waits = run
    chain = names(path(times, waits))
    assert len(set(chain)) == len(chain)
    assert times[chain[-1]][1] == max(end for _, end in times.values())

    def called_before(node: str) -> set[str]:
        found: set[str] = set()
        for each in waits[node]:
            found |= {each} if each in times else called_before(each)
        return found

    assert not called_before(chain[0])
    for before, after in pairwise(chain):
        assert before in called_before(after)
        # Nothing that the next one waited for ended later.
        assert times[before][1] == max(times[each][1] for each in called_before(after))


@given(played(), st.integers(1, 4))
def test_its_steps_add_up_to_the_time_from_the_beginning_to_the_end(
    run: tuple[Times, Waits], workers: int
) -> None:
    times, waits = run
    found = path(times, waits, workers)
    assert abs(total(found) - max(end for _, end in times.values())) < 1e-6
    assert all(each.waited >= 0 and each.seconds >= 0 for each in found)


def scheduled(took: dict[str, float], waits: Waits, workers: int) -> Times:
    """Return the times of a run in which a call begins as soon as it is ready and a worker free."""
    times: Times = {}
    ended: dict[str, float] = {}
    left, free, now = list(waits), [0.0] * workers, 0.0
    while left:
        ready = [each for each in left if all(ended.get(b, now + 1) <= now for b in waits[each])]
        for name in ready:
            worker = free.index(min(free))
            if name not in took:
                ended[name] = now
            elif free[worker] <= now:
                times[name] = (now, now + took[name])
                ended[name] = free[worker] = now + took[name]
            else:
                continue
            left.remove(name)
        if not any(each not in took for each in ready):
            now = min([each for each in ended.values() if each > now], default=now)
    return times


@given(played(), st.integers(1, 3))
def test_where_calls_begin_as_soon_as_they_can_it_has_no_idle_time(
    run: tuple[Times, Waits], workers: int
) -> None:
    drawn, waits = run
    took = {name: round(end - start, 3) for name, (start, end) in drawn.items()}
    times = scheduled(took, waits, workers)
    found = path(times, waits, workers)
    assert abs(total(found) - max(end for _, end in times.values())) < 1e-6
    assert sum(each.waited for each in found) < 1e-5


# --- runs -----------------------------------------------------------------------------------------


def beside() -> DAG:
    def slow() -> int:
        time.sleep(0.2)
        return 1

    def quick() -> int:
        return 1

    def last(quick: int) -> int:
        return quick

    with DAG("beside") as dag:
        action(slow)()
        action(last)(action(quick)())
    return dag


@pytest.mark.row("N7")
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_run_on_one_worker_waits_for_it(
    runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(critical, "HANDOVER", 5.0)  # whatever else this computer does
    url = f"sqlite:{tmp_path / 'runs.db'}"
    dag = beside()
    dag.run(runner=runner, max_workers=1, database_url=url)
    with Store(url) as store:
        stored = stored_report(store.load_run(dag.report.run_id), url, store)
    for report in (dag.report, stored):
        found = steps_of(report)
        assert [each[:2] for each in told(found)] == [
            ("slow", "run"),
            ("quick", "worker"),
            ("last", "result"),
        ]
        assert 0.2 <= total(found) <= report.duration + 0.01
        page = check(report.to_html()).text
        assert "waited for a free worker" in page
        assert "shortens the run only where it leaves a worker free" in page


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_with_workers_enough_only_results_are_waited_for(runner: str) -> None:
    dag = beside()
    dag.run(runner=runner, max_workers=4)
    assert told(steps_of(dag.report)) == [("slow", "run", 1)]


@pytest.mark.parametrize("runner", RUNNERS)
def test_attempts_are_one_step_with_the_waits_between_them(runner: str) -> None:
    left = [2]

    def shaky() -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionError("not yet")
        return 1

    def after(shaky: int) -> int:
        return shaky

    with DAG("retried") as dag:
        action(after)(action(shaky, retry=RetryPolicy(max_attempts=3, base_delay=0.02))())
    dag.run(runner=runner)
    found = steps_of(dag.report)
    assert told(found) == [("shaky", "run", 3), ("after", "result", 1)]
    assert found[0].seconds >= 0.04


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_map_and_a_nested_run_are_steps_of_the_run_around_them(runner: str) -> None:
    def item(x: int) -> int:
        time.sleep(0.005)
        return x

    def total_(items: list[int]) -> int:
        return sum(items)

    with DAG("inner") as inner:
        action(total_)(items=inner.input("items", list[int]))
    with DAG("outer") as dag:
        inner(items=action(item).map([1, 2, 3, 4]))
    dag.run(runner=runner, max_workers=2)
    found = steps_of(dag.report)
    assert names(found) == ["item", "inner"]
    assert (found[1].why, found[0].calls >= 2) == ("result", True)
    assert total(found) <= dag.report.duration + 0.001


def test_of_very_many_calls_it_is_found_quickly() -> None:
    many = 200_000
    calls = [(k * 1.0, k + 1.0) for k in range(many)]
    before = time.perf_counter()
    found = critical_path(spans({"map": calls}), lambda _: (), 1, 0.0)
    assert time.perf_counter() - before < 10
    assert found == [Step("map", "run", 0.0, many * 1.0, many)]
