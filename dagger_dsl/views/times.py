"""The parts of a run's page that say when it did what, and what its end hung on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from dagger_dsl.views.critical import Step
from dagger_dsl.views.gantt import chosen, gantt
from dagger_dsl.views.page import fold, name, table, text
from dagger_dsl.views.plain import duration
from dagger_dsl.views.timeline import Lane

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport

__all__ = ["slowest", "timeline"]

#: Lanes of a timeline that are seen at once, and of the one that is folded.
LANES: Final = 60
MORE_LANES: Final = 400


def timeline(report: RunReport, lanes: Sequence[Lane], steps: Sequence[Step]) -> str:
    """Return the timeline of what matters most, and folded below it one of more."""
    if not lanes:
        return ""
    critical = {each.node_id for each in steps}
    marked = critical if len(critical) > 1 else ()
    shown = chosen(lanes, LANES, critical)
    found = _lanes(shown, marked)
    cycles = _known_cycles(report, lanes)
    if cycles:
        found += f'<p class="soft-text">These are {cycles}.</p>'
    if len(lanes) > len(shown):
        more = chosen(lanes, MORE_LANES, critical)
        found += (
            f'<p class="soft-text">These are {len(shown)} of {len(lanes):,} nodes: the ones that '
            "failed, those of the critical path, and the longest.</p>"
        )
        if len(more) > len(shown):
            found += fold(f"{len(more):,} nodes", _lanes(more, marked))
    return found


def _lanes(lanes: Sequence[Lane], critical: Collection[str]) -> str:
    about = f"Timeline of {len(lanes)} nodes; the table of nodes has the same times and attempts"
    return gantt(lanes, critical, about)


def slowest(report: RunReport, lanes: Sequence[Lane], steps: Sequence[Step]) -> str:
    """Return the critical path and the nodes that took longest, side by side."""
    parts = []
    if len(steps) > 1:
        parts.append(_critical(steps))
    longest = sorted(lanes, key=lambda lane: -lane.seconds)[:10]
    if len(longest) > 1:
        top = longest[0].seconds or 1e-9
        rows = [
            [
                name(lane.node_id),
                _share(lane.seconds, top),
                f"{lane.calls:,}",
                text(duration(lane.seconds)),
            ]
            for lane in longest
        ]
        body = table(["Node", _SHARE, ">Calls", ">Time in calls"], rows, "Slowest nodes")
        cycles = _known_cycles(report, lanes)
        told = f"Time in calls, all attempts together{'; of ' if cycles else ''}{cycles}."
        parts.append(f'<div><h3>Slowest nodes</h3><p class="soft-text">{told}</p>{body}</div>')
    return f'<div class="two">{"".join(parts)}</div>' if parts else ""


def _critical(steps: Sequence[Step]) -> str:
    """Return the critical path as a table, and what it is."""
    total = sum(step.seconds + step.waited for step in steps)
    rows = [
        [
            f"{name(step.node_id)}{_beside(step)}",
            _share(step.seconds, total),
            text(f"+{duration(step.waited)}") if step.waited >= 0.0005 else "",
            text(duration(step.seconds)),
        ]
        for step in steps
    ]
    shown = rows if len(rows) <= 30 else [*rows[:15], *rows[-15:]]
    handed = any(step.why == "worker" for step in steps)
    worker = " or, where that is said, its worker" if handed else ""
    note = (
        f"What the end of the run hung on: {duration(total)}. Each step began when the one above "
        f"it had ended, which gave its input{worker}"
    )
    if handed or any(step.calls > 1 for step in steps):  # items of a map hand on workers, too
        note += ". Whatever is not in it shortens the run only where it leaves a worker free."
    else:
        note += ". Whatever is not in it could be quicker, and the run would take as long."
    if len(shown) < len(rows):
        note += f" {len(rows) - 30:,} steps in its middle are not shown."
    heads = ["Node", _SHARE, ">Idle before", ">Time"]
    return (
        f'<div><h3>Critical path</h3><p class="soft-text">{note}</p>'
        f"{table(heads, shown, 'Critical path')}</div>"
    )


def _beside(step: Step) -> str:
    """Return what there is to say of a step beside its name."""
    told = [f"{step.calls:,} calls"] if step.calls > 1 else []
    if step.why == "worker":
        told.append("waited for a free worker")
    return f'<div class="soft-text small">{", ".join(told)}</div>' if told else ""


def _known_cycles(report: RunReport, lanes: Iterable[Lane]) -> str:
    """Return of how many cycles of a machine the times are known, where that is not all of them."""
    history = report.history
    known = sum(lane.calls for lane in lanes)
    if history is None or known >= history.cycles:
        return ""
    return f"{known:,} of {history.cycles:,} cycles, the newest; only a database keeps all times"


#: The head of a column of bars, for those who do not see them.
_SHARE: Final = '<span class="unseen">Share</span>'


def _share(seconds: float, total: float) -> str:
    width = 100 * seconds / total if total > 0 else 0
    told = f"{min(width, 100):.0f} %"
    return (
        f'<span class="share" style="width:{min(width, 100):.1f}%">'
        f'<span class="unseen">{told}</span></span>'
    )
