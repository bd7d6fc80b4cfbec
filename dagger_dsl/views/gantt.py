"""The timeline of a run as HTML: a lane for each node, in order of start, and nothing to load.

It is an image to those who do not see it: everything in it stands in the table of nodes, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from dagger_dsl.views.page import attribute, name, text
from dagger_dsl.views.plain import duration
from dagger_dsl.views.timeline import Axis, Bar, Lane

__all__ = ["chosen", "gantt"]

#: Bars of one timeline.
BARS: Final = 3_000

#: What each kind of bar means, in the order of the key.
_KEY: Final = (
    ("b-completed", "completed"),
    ("b-failed", "failed"),
    ("b-wait", "until the next attempt"),
    ("b-running", "running"),
    ("b-waiting", "waits for a person"),
    ("b-cancelled", "cancelled"),
    ("b-mixed", "many calls that ended in several ways: the lower, the worse"),
    ("kept", "taken from an earlier run or process"),
)


def chosen(
    lanes: Sequence[Lane], most: int, first: Collection[str] = (), bars: int = BARS
) -> list[Lane]:
    """Return so many lanes at most, in order of start: what failed, *first*, and the longest.

    Args:
        lanes: All of them.
        most: How many.
        first: Ids of nodes that count before the longest.
        bars: How many bars they have at most, taken together; one lane is always there.
    """
    ranked = sorted(
        lanes,
        key=lambda lane: (lane.state != "failed", lane.node_id not in first, -lane.whole),
    )
    found: list[Lane] = []
    for lane in ranked[:most]:
        bars -= len(lane.bars)
        if bars < 0 and found:
            break
        found.append(lane)
    return sorted(found, key=lambda lane: lane.start)


def gantt(
    lanes: Sequence[Lane],
    critical: Collection[str] = (),
    about: str = "Timeline",
    words: Mapping[str, str] | None = None,
) -> str:
    """Return lanes as HTML.

    Args:
        lanes: At least one.
        critical: Ids of the nodes of the critical path.
        about: What it is called by those who do not see it.
        words: What kinds of bars mean that mean something else than in a run; HTML.
    """
    axis = Axis(bar for lane in lanes for bar in lane.bars)
    ticks = axis.ticks()
    marks = "".join(f'<i style="left:{_part(place)}">{text(what)}</i>' for place, what in ticks)
    rules = "".join(f'<span class="rule" style="left:{_part(place)}"></span>' for place, _ in ticks)
    for start, end in axis.gaps:
        left = axis.place(start)
        told = attribute(f"{duration(end - start)} in which nothing ran")
        rules += (
            f'<span class="rule gap" title={told} '
            f'style="left:{_part(left)};width:{_part(axis.place(end) - left)}"></span>'
        )
    rows = [
        f'<div class="lane axis"><span></span><span class="track">{marks}</span><span></span></div>'
    ]
    rows += [_lane(lane, axis, lane.node_id in critical) for lane in lanes]
    return (
        f'<div class="gantt" role="img" aria-label={attribute(about)}>'
        f'<div class="rules">{rules}</div>' + "\n".join(rows) + "</div>"
        f"{_key(lanes, critical, words or {})}"
    )


def _lane(lane: Lane, axis: Axis, critical: bool) -> str:
    kept = lane.mark in ("cached", "restored")
    bars = "".join(_bar(bar, axis, kept and bar.state == "completed") for bar in lane.bars)
    style = "lane critical" if critical else "lane"
    told = f"{lane.node_id}: {lane.state}"
    if lane.calls > 1:
        told += f", {lane.calls:,} calls"
        if len(lane.counts) > 1:
            ended = ", ".join(f"{number:,} {state}" for state, number in lane.counts.items())
            told += f": {ended}"
    if lane.mark:
        told += f", {lane.mark}"
    return (
        f'<div class="{style}"><span class="who" title={attribute(told, 260)}>'
        f'{name(lane.node_id, 60)}</span><span class="track">{bars}</span>'
        f'<span class="took">{text(duration(lane.whole))}</span></div>'
    )


def _bar(bar: Bar, axis: Axis, kept: bool) -> str:
    left = axis.place(bar.start)
    width = axis.place(bar.end) - left
    left = min(left, 0.997)
    style = "bar kept" if kept else f"bar b-{bar.state}"
    place = f"left:{_part(left)};width:{_part(width)}"
    if len(bar.counts) > 1:
        style, place = "bar b-mixed", f"{place};background:{_shares(bar.counts)}"
    told = f" title={attribute(bar.told)}" if bar.told else ""
    return f'<span class="{style}"{told} style="{place}"></span>'


def _shares(counts: Mapping[str, int]) -> str:
    """Return the colours of a bar of calls that ended in several ways, the bad ones below.

    What was only a few of many is still seen.
    """
    ranked = sorted(counts, key=lambda state: _FROM_BELOW.get(state, 1))
    least = min(0.2, 1 / len(ranked))
    heights = [max(counts[state] / sum(counts.values()), least) for state in ranked]
    stops, height = [], 0.0
    for state, each in zip(ranked, heights, strict=True):
        share = 100 * each / sum(heights)
        stops.append(f"var(--{state}) {height:.0f}% {height + share:.0f}%")
        height += share
    return f"linear-gradient(to top,{','.join(stops)})"


#: Which states lie at the bottom of a bar, and which one at its top.
_FROM_BELOW: Final = {"failed": 0, "completed": 2}


def _key(lanes: Iterable[Lane], critical: Collection[str], words: Mapping[str, str]) -> str:
    known = set()
    for lane in lanes:
        kept = lane.mark in ("cached", "restored")
        for bar in lane.bars:
            known |= {
                "kept" if kept and state == "completed" and len(bar.counts) < 2 else f"b-{state}"
                for state in bar.counts or (bar.state,)
            }
            if len(bar.counts) > 1:
                known.add("b-mixed")
    items = [
        f'<li><span class="bar {style}"></span>{words.get(style, told)}</li>'
        for style, told in _KEY
        if style in known
    ]
    if critical:
        items.append('<li><span class="bar b-completed ink"></span>on the critical path</li>')
    return f'<ul class="key" aria-label="Key">{"".join(items)}</ul>'


def _part(share: float) -> str:
    return f"{share * 100:.2f}%"
