"""When the nodes of a run were called: lanes of attempts, and the axis that they lie on.

Times are seconds since 1970 throughout. Nothing here draws; `views.gantt` does.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import merge
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import attrs

from dagger_dsl.model.states import NodeState
from dagger_dsl.model.text import first_line
from dagger_dsl.views.critical import SLACK, Spans
from dagger_dsl.views.plain import duration

if TYPE_CHECKING:
    from dagger_dsl.engine.attempts import AttemptReport
    from dagger_dsl.engine.report import NodeReport

__all__ = ["Axis", "Bar", "Lane", "joined", "lane_of"]

#: A lane with more attempts than this shows when something ran, and not each of them.
EACH: Final = 60

#: Of such a lane, how many parts of its time are told apart.
PARTS: Final = 120

#: How exactly a bar of many calls shows which part of them ended how.
SHARES: Final = 8


@attrs.frozen
class Bar:
    """Something on a lane, from one time to another.

    Attributes:
        start, end: When, in seconds since 1970.
        state: How it ended; ``wait`` between two attempts.
        told: What there is to say of it.
        open: Whether it goes on.
        counts: Of a bar of several calls, how many ended how.
    """

    start: float
    end: float
    state: str
    told: str = ""
    open: bool = False
    counts: Mapping[str, int] = attrs.field(factory=dict)


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
        counts: How many of them ended how.
        spans: When they began and ended; None where that is not told.
    """

    node_id: str
    state: str
    bars: tuple[Bar, ...]
    seconds: float = 0.0
    whole: float = 0.0
    mark: str = ""
    calls: int = 0
    counts: Mapping[str, int] = attrs.field(factory=dict)
    spans: Spans | None = attrs.field(default=None, eq=False, repr=False)

    @property
    def start(self) -> float:
        """When its first call began."""
        return min(bar.start for bar in self.bars)

    @property
    def end(self) -> float:
        """When its last call ended."""
        return max(bar.end for bar in self.bars)


def lane_of(report: NodeReport, calls: Iterable[AttemptReport], now: float) -> Lane | None:
    """Return the lane of a node, None where it was not called.

    Args:
        report: How the node stands.
        calls: Its calls, in any order; of many no more is kept than when they were.
        now: Until when a call has come that has not ended.
    """
    told = _Calls(now)
    for each in calls:
        told.take(each)
    if not told.starts:
        return None
    spans = told.spans()
    mark = "cached" if report.cached else "restored" if report.restored else ""
    return Lane(
        report.node_id,
        str(report.state),
        tuple(told.bars(spans)),
        # Of sums of times of day nothing short would be left.
        sum(end - start for start, end in zip(spans.starts, spans.ends, strict=True)),
        told.whole(spans),
        "recovered" if report.recovered else mark,
        len(spans.starts),
        dict(told.counts),
        spans,
    )


class _Calls:
    """The calls of one node: when they were and how they ended, and the first of them as bars."""

    def __init__(self, now: float) -> None:
        self._now = now
        self.starts, self.ends = array("d"), array("d")
        self.counts: Counter[str] = Counter()
        self._states: list[str] = []
        self._first: list[tuple[AttemptReport, int]] = []  # as long as each can be shown
        self._failed: list[Bar] = []
        self._latest: dict[str, int] = {}  # by key, the last call that others may follow
        self._before: dict[int, int] = {}

    def take(self, call: AttemptReport) -> None:
        """Take one more call."""
        if call.started_at is None:
            return
        place = len(self.starts)
        start = call.started_at.timestamp()
        end = self._now if call.finished_at is None else call.finished_at.timestamp()
        self.starts.append(start)
        self.ends.append(max(start, end))
        state = str(call.state)
        self._states.append(state)
        self.counts[state] += 1
        if place <= EACH:
            self._first.append((call, place))
        if state == NodeState.FAILED and len(self._failed) <= EACH:
            self._failed.append(_bar(call, start, self.ends[-1]))
        if call.number > 1 and call.key in self._latest:
            self._before[place] = self._latest[call.key]
        if state in _TRIED_AGAIN:
            self._latest[call.key] = place

    def spans(self) -> Spans:
        """Return when they were, in order of start."""
        self._order = sorted(range(len(self.starts)), key=self.starts.__getitem__)
        place_of = {each: place for place, each in enumerate(self._order)} if self._before else {}
        return Spans(
            array("d", (self.starts[each] for each in self._order)),
            array("d", (self.ends[each] for each in self._order)),
            {place_of[after]: place_of[before] for after, before in self._before.items()},
        )

    def whole(self, spans: Spans) -> float:
        """Return how long at least one went on, or another attempt was waited for."""
        waits = sorted(
            (spans.ends[before], spans.starts[after]) for after, before in spans.before.items()
        )
        found, until = 0.0, spans.starts[0]
        for start, end in merge(zip(spans.starts, spans.ends, strict=True), waits):
            if end > until:
                found += end - max(start, until)
                until = end
        return found

    def bars(self, spans: Spans) -> list[Bar]:
        """Return what is shown: each call, or when some of them went on."""
        if len(spans.starts) <= EACH and not _overlap(spans):
            first = [(each, self.starts[k], self.ends[k]) for each, k in self._first]
            shown = [_bar(*each) for each in first]
            for after, before in self._before.items():
                start, end = self.ends[before], self.starts[after]
                if end > start:
                    number = self._first[after][0].number
                    told = f"{duration(end - start)} until attempt {number}"
                    shown.append(Bar(start, end, "wait", told))
            return sorted(shown, key=lambda bar: bar.start)
        states = (self._states[each] for each in self._order)
        few = len(self._failed) <= EACH
        calls = (
            (start, end, state)
            for start, end, state in zip(spans.starts, spans.ends, states, strict=True)
            if not few or state != NodeState.FAILED
        )
        found = joined(calls, max(spans.ends))
        return [*found, *self._failed] if few else found  # what failed lies over the others


#: How an attempt may have ended that another one follows.
_TRIED_AGAIN: Final = frozenset((str(NodeState.FAILED), str(NodeState.CANCELLED)))


def _bar(attempt: AttemptReport, start: float, end: float) -> Bar:
    key = "" if attempt.key == "default" else f"[{attempt.key}] "
    told = f"{key}attempt {attempt.number}: {attempt.state}"
    if attempt.finished_at is not None:
        told += f" in {duration(end - start)}"
    if attempt.error is not None:
        told += f": {first_line(attempt.error, 160)}"
    return Bar(start, end, str(attempt.state), told, attempt.finished_at is None)


def _overlap(spans: Spans) -> bool:
    return any(
        end > start + SLACK for end, start in zip(spans.ends, spans.starts[1:], strict=False)
    )


def joined(calls: Iterable[tuple[float, float, str]], last: float, parts: int = PARTS) -> list[Bar]:
    """Return when some of many calls went on, as few bars that say how many of them ended how.

    Args:
        calls: Start, end and state of each, in order of start.
        last: When the last of them ended.
        parts: Into how many parts their time is divided: what is no further apart counts as one,
            and a bar becomes two where different shares of its calls ended in a state.
    """
    known = iter(calls)
    first = next(known, None)
    if first is None:
        return []
    begin, until, state = first
    part = max((last - begin) / parts, 1e-9)
    found: list[Bar] = []
    counts = Counter([state])
    start, number = begin, 0

    def close(end: float) -> None:
        before = found[-1] if found else None
        if before is not None and before.end >= start and _alike(before.counts, counts):
            found[-1] = _one(before.start, end, counts + Counter(before.counts))
        else:
            found.append(_one(start, end, counts))

    for began, ended, state in known:
        here = int((began - begin) / part)
        is_apart = began > until + part
        if is_apart or here != number:
            close(until if is_apart else began)
            counts, start, number = Counter(), began, here
        counts[state] += 1
        until = max(until, ended)
    close(until)
    return found


def _alike(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Return whether about the same shares of two bars ended in each state."""
    if one.keys() != other.keys():
        return False
    all_one, all_other = sum(one.values()), sum(other.values())
    return all(abs(one[state] / all_one - other[state] / all_other) * SHARES <= 1 for state in one)


def _one(start: float, end: float, counts: Mapping[str, int]) -> Bar:
    ranked = sorted(counts.items(), key=lambda each: -each[1])
    many = sum(counts.values())
    told = ", ".join(f"{number:,} {state}" for state, number in ranked)
    told = f"{many:,} calls: {told}" if many > 1 else ranked[0][0]
    is_open = NodeState.RUNNING in counts
    return Bar(start, end, ranked[0][0], told, is_open, dict(ranked))


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
