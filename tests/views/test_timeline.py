"""Lanes, axes and critical paths: what was called when, and what the end hung on."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from dagger_dsl.engine.attempts import AttemptReport
from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.report import NodeReport
from dagger_dsl.model.states import NodeState
from dagger_dsl.views.gantt import chosen, gantt
from dagger_dsl.views.timeline import (
    EACH,
    Axis,
    Bar,
    Lane,
    critical_path,
    joined,
    lane_of,
    path_steps,
)

NOW = 1_000_000.0
Times = dict[str, tuple[float, float]]
Waits = dict[str, tuple[str, ...]]


def attempt(
    number: int, start: float, end: float | None, state: str = "completed", key: str = "default"
) -> AttemptReport:
    moments = [
        None if at is None else dt.datetime.fromtimestamp(NOW + at, tz=dt.UTC)
        for at in (start, end)
    ]
    error = ErrorInfo("ValueError", "no") if state == "failed" else None
    took = None if end is None else end - start
    return AttemptReport("n", key, number, NodeState(state), moments[0], moments[1], took, error)


def lane(*attempts: AttemptReport, state: str = "completed") -> Lane:
    found = lane_of(NodeReport("n", NodeState(state)), attempts, NOW + 100)
    assert found is not None
    return found


# --- lanes ----------------------------------------------------------------------------------------


def test_a_lane_has_each_attempt_and_the_waits_between_them() -> None:
    found = lane(attempt(1, 0, 1, "failed"), attempt(2, 3, 4, "failed"), attempt(3, 8, 10))
    shown = [(bar.state, bar.start - NOW, bar.end - NOW) for bar in found.bars]
    assert shown == [
        ("failed", 0, 1),
        ("wait", 1, 3),
        ("failed", 3, 4),
        ("wait", 4, 8),
        ("completed", 8, 10),
    ]
    assert found.bars[1].told == "2.00 s until attempt 2"
    assert found.bars[0].told == "attempt 1: failed in 1.00 s: ValueError: no"
    assert (found.seconds, found.whole, found.calls) == (4, 10, 3)


def test_between_cycles_nothing_is_waited_for() -> None:
    found = lane(attempt(1, 0, 1, key="0"), attempt(1, 5, 6, key="3"))
    assert [bar.state for bar in found.bars] == ["completed", "completed"]
    assert found.whole == 2
    assert found.bars[1].told == "[3] attempt 1: completed in 1.00 s"


def test_a_call_that_has_not_ended_goes_on_until_now() -> None:
    (bar,) = lane(attempt(1, 0, None, "running"), state="running").bars
    assert (bar.end - NOW, bar.open) == (100, True)


def test_a_node_that_was_not_called_has_no_lane() -> None:
    assert lane_of(NodeReport("n", NodeState.SKIPPED), [], NOW) is None


def test_many_calls_are_joined_and_what_failed_lies_over_them() -> None:
    calls = [attempt(1, k * 0.5, k * 0.5 + 1, key=str(k)) for k in range(2 * EACH)]
    found = lane(*calls, attempt(1, 7, 9, "failed", key="bad"))
    assert [bar.state for bar in found.bars] == ["completed", "failed"]
    assert found.bars[0].told == "120 calls: 120 completed"
    assert found.calls == 2 * EACH + 1


spans = st.lists(
    st.tuples(st.floats(0, 1e4), st.floats(0, 100)).map(lambda each: (each[0], each[0] + each[1])),
    min_size=1,
    max_size=30,
)


@given(spans)
def test_joined_bars_do_not_overlap_and_leave_nothing_out(times: list[tuple[float, float]]) -> None:
    bars = [Bar(start, end, "completed") for start, end in times]
    found = joined(bars, gap=0.0)
    for before, after in pairwise(found):
        assert before.end < after.start
    for bar in bars:
        assert any(each.start <= bar.start and bar.end <= each.end for each in found)
    assert {bar.start for bar in found} <= {bar.start for bar in bars}
    assert {bar.end for bar in found} <= {bar.end for bar in bars}


# --- the axis -------------------------------------------------------------------------------------


@given(spans)
@example([(0.0, 0.0), (10.0, 10.00006103515625)])
def test_an_axis_keeps_the_order_of_times_within_its_length(
    times: list[tuple[float, float]],
) -> None:
    axis = Axis(Bar(start, end, "completed") for start, end in times)
    moments = sorted({time for each in times for time in each})
    places = [axis.place(each) for each in moments]
    assert places == sorted(places)
    assert all(0 <= each <= 1 for each in places)
    assert places[0] == 0
    ticks = axis.ticks()
    assert [place for place, _ in ticks] == sorted(place for place, _ in ticks)
    assert all(0 <= place <= 1 for place, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks) <= 12


def test_days_in_which_nothing_happened_take_little_of_an_axis() -> None:
    day = 86_400.0
    axis = Axis([Bar(0, 10, "failed"), Bar(day, day + 10, "completed")])
    assert axis.gaps == [(10, day)]
    assert 0.45 < axis.place(10) < 0.5
    assert 0.5 < axis.place(day) < 0.55
    assert axis.place(day + 10) == 1
    assert Axis([Bar(0, 10, "failed"), Bar(12, 20, "completed")]).gaps == []
    waits = [Bar(0, 1, "failed"), Bar(1, 61, "wait"), Bar(61, 62, "completed")]
    assert Axis(waits).gaps == []
    waits = [Bar(0, 1, "failed"), Bar(1, day, "wait"), Bar(day, day + 1, "completed")]
    assert Axis(waits).gaps == [(1, day)]


def test_ticks_are_round_and_said_as_people_say_them() -> None:
    assert [text for _, text in Axis([Bar(0, 1, "completed")]).ticks()] == [
        "0",
        "200 ms",
        "400 ms",
        "600 ms",
        "800 ms",
    ]
    assert [text for _, text in Axis([Bar(0, 7200, "completed")]).ticks()] == [
        "0",
        "30 min",
        "1 h",
        "1 h 30 min",
    ]


# --- the critical path ----------------------------------------------------------------------------


def test_it_is_the_chain_that_the_end_waited_for() -> None:
    times = {"a": (0.0, 1.0), "b": (0.0, 3.0), "c": (3.0, 4.0), "d": (1.0, 2.0)}
    waits: Waits = {"a": (), "b": (), "c": ("a", "b"), "d": ("a",)}
    assert critical_path(times, waits.__getitem__) == ["b", "c"]


def test_what_was_not_called_is_passed_through() -> None:
    times = {"a": (0.0, 1.0), "c": (1.0, 2.0)}
    waits: Waits = {"a": (), "skipped": ("a",), "c": ("skipped",)}
    assert critical_path(times, waits.__getitem__) == ["a", "c"]


def test_a_dependency_that_went_on_longer_is_not_what_was_waited_for() -> None:
    times = {"quick": (0.0, 1.0), "slow": (0.0, 9.0), "first": (1.0, 10.0)}
    waits: Waits = {"quick": (), "slow": (), "first": ("slow", "quick")}
    assert critical_path(times, waits.__getitem__) == ["quick", "first"]


def test_of_nothing_it_is_nothing_and_cycles_end() -> None:
    assert critical_path({}, lambda _: ()) == []
    times = {"a": (0.0, 1.0), "b": (1.0, 2.0)}
    assert critical_path(times, lambda each: ("b",) if each == "a" else ("a",)) == ["a", "b"]


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
    chain = critical_path(times, waits.__getitem__)
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


@given(played())
def test_its_steps_add_up_to_the_time_it_spans(run: tuple[Times, Waits]) -> None:
    times, waits = run
    chain = critical_path(times, waits.__getitem__)
    steps = path_steps(chain, times)
    total = sum(step.seconds + step.waited for step in steps)
    assert abs(total - (times[chain[-1]][1] - times[chain[0]][0])) < 1e-6


# --- drawn ----------------------------------------------------------------------------------------


def test_what_failed_and_what_took_longest_is_chosen() -> None:
    lanes = [
        Lane(f"n{k}", "completed", (Bar(k, k + 1, "completed"),), 1.0, whole=1.0 + k)
        for k in range(50)
    ]
    lanes[3] = Lane("bad", "failed", (Bar(3, 3.1, "failed"),), 0.1, whole=0.1)
    found = [each.node_id for each in chosen(lanes, 4, {"n0"})]
    assert found == ["n0", "bad", "n48", "n49"]  # in order of start


def test_a_timeline_says_what_its_signs_mean() -> None:
    one = lane(attempt(1, 0, 1, "failed"), attempt(2, 3, 4))
    shown = gantt([one], {"n"})
    key = shown.partition('class="key"')[2]
    for words in ("completed", "failed", "until the next attempt", "on the critical path"):
        assert words in key
    assert "cancelled" not in key
    assert 'role="img"' in shown
    kept = Lane("n", "completed", one.bars, 1.0, 1.0, "restored")
    assert "taken from an earlier run" in gantt([kept])
