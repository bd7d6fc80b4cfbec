"""When the nodes of a run were called: lanes of attempts, and the chain that its end hung on.

Times are seconds since 1970 throughout. Nothing here draws; `views.gantt` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import attrs

from dagger_dsl.model.states import NodeState
from dagger_dsl.model.text import first_line
from dagger_dsl.views.plain import duration

if TYPE_CHECKING:
    from dagger_dsl.engine.attempts import AttemptReport
    from dagger_dsl.engine.report import NodeReport, RunReport

__all__ = [
    "Axis",
    "Bar",
    "Lane",
    "Step",
    "critical_path",
    "joined",
    "lane_of",
    "path_steps",
    "steps_of_run",
]

#: A lane with more attempts than this shows when something ran, and not each of them.
EACH: Final = 60

#: How much earlier than its end a call may seem to have been followed: clocks are read in turn.
SLACK: Final = 0.001


@attrs.frozen
class Bar:
    """Something on a lane, from one time to another.

    Attributes:
        start, end: When, in seconds since 1970.
        state: How it ended; ``wait`` between two attempts.
        told: What there is to say of it.
        open: Whether it goes on.
    """

    start: float
    end: float
    state: str
    told: str = ""
    open: bool = False


@attrs.frozen
class Lane:
    """One node, with its calls in order of start.

    Attributes:
        node_id: The node.
        state: How it stands.
        bars: Its calls, and the waits between attempts; at least one.
        seconds: How long its calls took together, each for itself.
        whole: How long at least one of them went on, or was waited for.
        mark: ``restored``, ``cached``, ``recovered`` or nothing.
        calls: How many calls there were.
    """

    node_id: str
    state: str
    bars: tuple[Bar, ...]
    seconds: float = 0.0
    whole: float = 0.0
    mark: str = ""
    calls: int = 0

    @property
    def start(self) -> float:
        """When its first call began."""
        return min(bar.start for bar in self.bars)

    @property
    def end(self) -> float:
        """When its last call ended."""
        return max(bar.end for bar in self.bars)


def lane_of(report: NodeReport, attempts: Sequence[AttemptReport], now: float) -> Lane | None:
    """Return the lane of a node, None where it was not called.

    Args:
        report: How the node stands.
        attempts: Its calls.
        now: Until when a call has come that has not ended.
    """
    bars = [_bar(each, now) for each in attempts if each.started_at is not None]
    if not bars:
        return None
    shown = [*bars, *_waits(attempts, bars)]
    whole = sum(bar.end - bar.start for bar in joined(shown, gap=0.0))
    if len(bars) > EACH or _overlap(bars):
        failed = [bar for bar in bars if bar.state == NodeState.FAILED]
        others = [bar for bar in bars if bar.state != NodeState.FAILED]
        shown = [*joined(others), *failed[:EACH]]  # what failed lies over the others
    else:
        shown.sort(key=lambda bar: bar.start)
    mark = "cached" if report.cached else "restored" if report.restored else ""
    return Lane(
        report.node_id,
        str(report.state),
        tuple(shown),
        sum(bar.end - bar.start for bar in bars),
        whole,
        "recovered" if report.recovered else mark,
        len(bars),
    )


def _bar(attempt: AttemptReport, now: float) -> Bar:
    assert attempt.started_at is not None
    start = attempt.started_at.timestamp()
    end = now if attempt.finished_at is None else attempt.finished_at.timestamp()
    key = "" if attempt.key == "default" else f"[{attempt.key}] "
    told = f"{key}attempt {attempt.number}: {attempt.state}"
    if attempt.finished_at is not None:
        told += f" in {duration(max(0.0, end - start))}"
    if attempt.error is not None:
        told += f": {first_line(attempt.error, 160)}"
    return Bar(start, max(start, end), str(attempt.state), told, attempt.finished_at is None)


def _overlap(bars: Sequence[Bar]) -> bool:
    return any(before.end > after.start + SLACK for before, after in pairwise(bars))


def _waits(attempts: Sequence[AttemptReport], bars: Sequence[Bar]) -> Iterable[Bar]:
    """Yield the time between two attempts of the same call."""
    known = [each for each in attempts if each.started_at is not None]
    for (first, second), (before, after) in zip(pairwise(known), pairwise(bars), strict=True):
        if first.key == second.key and after.start > before.end:
            told = f"{duration(after.start - before.end)} until attempt {second.number}"
            yield Bar(before.end, after.start, "wait", told)


def joined(bars: Iterable[Bar], gap: float | None = None) -> list[Bar]:
    """Return when at least one of *bars* went on, as few bars; of the state that most of them have.

    Args:
        bars: In any order.
        gap: Seconds that two may be apart and count as one; by default a thousandth of the whole,
            which nobody would see.
    """
    known = sorted(bars, key=lambda bar: bar.start)
    if not known:
        return []
    if gap is None:
        gap = (max(bar.end for bar in known) - known[0].start) / 1000
    groups: list[list[Bar]] = []
    end = known[0].start
    for bar in known:
        if groups and bar.start - end <= gap:
            groups[-1].append(bar)
            end = max(end, bar.end)
        else:
            groups.append([bar])
            end = bar.end
    return [_one(group) for group in groups]


def _one(group: Sequence[Bar]) -> Bar:
    if len(group) == 1:
        return group[0]
    counts = Counter(bar.state for bar in group)
    told = ", ".join(f"{number:,} {state}" for state, number in counts.most_common())
    return Bar(
        group[0].start,
        max(bar.end for bar in group),
        counts.most_common(1)[0][0],
        f"{len(group):,} calls: {told}",
        any(bar.open for bar in group),
    )


class Axis:
    """Where times are: 0 at the beginning of the first bar, 1 at the end of the last.

    A time in which nothing happened, and that is longer than half of all the rest, takes no more
    than a small gap: between a run and its resume there may be days. So does a wait that is longer
    than retries commonly are.

    Args:
        bars: What is to be shown; at least one.
    """

    #: The part of the axis that such a gap takes.
    GAP: Final = 0.03

    #: Seconds: waits that are longer are none between two attempts of one process, mostly.
    WAIT: Final = 120.0

    def __init__(self, bars: Iterable[Bar]) -> None:
        spans = sorted(
            (bar.start, bar.end)
            for bar in bars
            if bar.state != "wait" or bar.end - bar.start <= self.WAIT
        )
        busy: list[list[float]] = []
        for start, end in spans:
            if busy and start <= busy[-1][1]:
                busy[-1][1] = max(busy[-1][1], end)
            else:
                busy.append([start, end])
        self.begin, self.end = busy[0][0], busy[-1][1]
        active = sum(end - start for start, end in busy) or 1e-6
        #: Gaps that are drawn small: when each begins and ends.
        self.gaps = [
            (before[1], after[0])
            for before, after in pairwise(busy)
            if after[0] - before[1] > max(active / 2, 0.5)
        ]
        left_out = sum(end - start for start, end in self.gaps)
        shown = max(self.end - self.begin - left_out, 1e-6)
        room = max(1.0 - self.GAP * len(self.gaps), 0.3)
        self._gap = (1.0 - room) / len(self.gaps) if self.gaps else 0.0
        self._scale = room / shown

    def place(self, time: float) -> float:
        """Return where a time is, from 0 to 1."""
        time = min(max(time, self.begin), self.end)
        found, since = 0.0, self.begin
        for start, end in self.gaps:
            if time <= start:
                break
            found += (start - since) * self._scale
            if time < end:
                return found + self._gap * (time - start) / (end - start)
            found, since = found + self._gap, end
        return min(1.0, found + (time - since) * self._scale)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """Return places with what stands there: the time since the beginning."""
        step = _step(1.0 / self._scale / most)
        found: list[tuple[float, str]] = []
        after = -1.0
        for start, end in zip(
            [self.begin, *(end for _, end in self.gaps)],
            [*(start for start, _ in self.gaps), self.end],
            strict=True,
        ):
            number = -int(-(start - self.begin) // step)
            while self.begin + number * step <= end and len(found) < 4 * most:
                place, told = self.place(self.begin + number * step), _elapsed(number * step)
                # Long after the beginning a short time makes no difference that is written.
                same = bool(found) and found[-1][1] == told
                if place - after >= 0.6 / most and place <= 0.97 and not same:
                    found.append((place, told))
                    after = place
                number += 1
        return found


def _step(least: float) -> float:
    """Return a round number of seconds that is not smaller."""
    for step in (60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400):
        if 30 < least <= step:
            return float(step)
    size = 1e-6
    while True:
        for factor in (1, 2, 5):
            if size * factor >= least:
                return size * factor
        size *= 10


def _elapsed(seconds: float) -> str:
    if seconds == 0:
        return "0"
    if seconds < 0.001:
        return f"{seconds * 1e6:g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:g} ms"
    minutes, rest = divmod(round(seconds, 6), 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = (f"{hours} h", f"{minutes} min", f"{rest:.6g} s")
    return " ".join(part for part in parts if not part.startswith("0 "))


# --- the critical path ----------------------------------------------------------------------------


@attrs.frozen
class Step:
    """One node of the chain.

    Attributes:
        node_id: The node.
        waited: Seconds from the end of the step before until its own start.
        seconds: From its first start to its end, waits between attempts included.
    """

    node_id: str
    waited: float
    seconds: float


def critical_path(
    times: Mapping[str, tuple[float, float]],
    dependencies: Callable[[str], Collection[str]],
) -> list[str]:
    """Return the chain of nodes that a run's end hung on, first to last.

    It begins at the node that ended last and goes back, each time to the dependency that ended
    last before the node began: the one it waited for. A dependency that was not called, such as one
    that was skipped, is passed through to its own.

    Args:
        times: When each node that was called began and ended.
        dependencies: Returns what a node depends on.
    """
    if not times:
        return []
    here = max(times, key=lambda each: (times[each][1], times[each][0]))
    chain = [here]
    seen = {here}
    while True:
        before = [each for each in _called(here, times, dependencies) if each not in seen]
        if not before:
            return chain[::-1]
        began = times[here][0]
        # One that went on longer was a stream, or not the one that mattered.
        in_time = [each for each in before if times[each][1] <= began + SLACK]
        here = max(in_time or before, key=lambda each: times[each][1])
        chain.append(here)
        seen.add(here)


def _called(
    node_id: str,
    times: Mapping[str, tuple[float, float]],
    dependencies: Callable[[str], Collection[str]],
) -> list[str]:
    """Return the dependencies of a node that were called, or theirs."""
    found: list[str] = []
    todo, seen = [*dependencies(node_id)], {node_id}
    while todo:
        each = todo.pop()
        if each in seen:
            continue
        seen.add(each)
        if each in times:
            found.append(each)
        else:
            todo += dependencies(each)
    return found


def path_steps(chain: Sequence[str], times: Mapping[str, tuple[float, float]]) -> list[Step]:
    """Return a chain with its times."""
    found: list[Step] = []
    before: float | None = None
    for node_id in chain:
        start, end = times[node_id]
        found.append(
            Step(node_id, 0.0 if before is None else max(0.0, start - before), end - start)
        )
        before = end
    return found


def steps_of_run(report: RunReport, lanes: Iterable[Lane]) -> list[Step]:
    """Return the critical path of a run; of a state machine, whose every cycle counts, nothing."""
    if report.graph.machine is not None:
        return []
    times = {lane.node_id: (lane.start, lane.end) for lane in lanes}
    return path_steps(critical_path(times, report.graph.dependencies_of), times)
