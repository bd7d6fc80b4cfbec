"""Lanes and axes: what was called when."""

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
from dagger_dsl.views.timeline import EACH, PARTS, Axis, Bar, Lane, joined, lane_of

NOW = 1_000_000.0


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
    assert found.counts == {"completed": 120, "failed": 1}


def test_of_many_calls_that_failed_each_bar_says_how_many_and_none_is_left_out() -> None:
    calls = [
        attempt(1, k * 0.1, k * 0.1 + 0.1, "completed" if k % 3 else "failed", key=str(k))
        for k in range(3_000)
    ]
    found = lane(*calls)
    assert sum(sum(bar.counts.values()) for bar in found.bars) == 3_000
    assert sum(bar.counts["failed"] for bar in found.bars) == 1_000
    assert len(found.bars) <= PARTS
    assert (found.bars[0].start - NOW, round(found.bars[-1].end - NOW)) == (0, 300)
    assert found.bars[0].told == "3,000 calls: 2,000 completed, 1,000 failed"
    shown = gantt([found])
    assert "b-mixed" in shown
    assert "var(--failed) 0% 33%,var(--completed) 33% 100%" in shown
    assert "many calls that ended in several ways" in shown.partition('class="key"')[2]


def test_times_of_many_short_calls_add_up() -> None:
    start = 1_800_000_000.0
    starts = [start + k * 0.001 for k in range(2_000)]
    calls = [attempt(1, each, each + 1e-5, key=str(each)) for each in starts]
    found = lane(*calls)
    assert abs(found.seconds - 0.02) < 0.001
    assert abs(found.whole - 0.02) < 0.001


def test_where_calls_begin_to_fail_another_bar_begins() -> None:
    calls = [
        attempt(1, k, k + 1, "completed" if k < 800 else "failed", key=str(k)) for k in range(1_000)
    ]
    found = lane(*calls).bars
    assert [bar.state for bar in found if len(bar.counts) == 1] == ["completed", "failed"]
    assert abs(found[-1].start - NOW - 800) < 1_000 / PARTS + 1


spans = st.lists(
    st.tuples(st.floats(0, 1e4), st.floats(0, 100)).map(lambda each: (each[0], each[0] + each[1])),
    min_size=1,
    max_size=30,
)


@given(spans)
def test_joined_bars_do_not_overlap_and_leave_nothing_out(times: list[tuple[float, float]]) -> None:
    last = max(end for _, end in times)
    found = joined(((start, end, "completed") for start, end in sorted(times)), last)
    for before, after in pairwise(found):
        assert before.end <= after.start
    for start, end in times:
        assert any(each.start <= start <= each.end for each in found)
        assert any(each.start <= end <= each.end for each in found)
    assert sum(sum(bar.counts.values()) for bar in found) == len(times)
    assert found[-1].end == last


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
