"""A run as one HTML page: what came of it, what it looked like, when, why, and with what."""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl.engine.bindings import Bound, bound_inputs
from dagger_dsl.engine.failure import Failure, failures_in
from dagger_dsl.engine.words import DIED, status_of
from dagger_dsl.errors import DaggerError
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.model.text import first_line
from dagger_dsl.model.values import MISSING
from dagger_dsl.views.critical import Step, steps_of_run
from dagger_dsl.views.graphviz import write_file
from dagger_dsl.views.grouping import MOST
from dagger_dsl.views.page import (
    GLYPHS,
    block,
    code,
    definitions,
    fold,
    name,
    page,
    state,
    table,
    text,
)
from dagger_dsl.views.picture import picture_of_run
from dagger_dsl.views.plain import duration, note_of, outputs_of, summed_up, told_first
from dagger_dsl.views.sheet import Room, Sheet, folded_table, framed, message
from dagger_dsl.views.surroundings import (
    answer,
    configuration,
    environment,
    resume,
    time_element,
)
from dagger_dsl.views.timeline import Lane, lane_of
from dagger_dsl.views.times import slowest, timeline

if TYPE_CHECKING:
    from dagger_dsl.engine.report import NodeReport, RunReport

__all__ = ["report_to_html"]

#: Failures that are counted at most, and cycles that are shown.
MORE_FAILURES: Final = 10_000
CYCLES: Final = 200

#: How runs stand that a resume goes on with.
_RESUMED: Final = (
    RunStatus.FAILED,
    RunStatus.PAUSED,
    RunStatus.CANCELLED,
    RunStatus.TIMED_OUT,
)

#: Stands between a node and what is inside of it.
_INSIDE: Final = " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "


def report_to_html(report: RunReport, path: str | os.PathLike[str] | None = None) -> str:
    """Return a run as a page that holds all it needs.

    Args:
        report: The run.
        path: Where to write it, too; the folder has to be there.

    Raises:
        ConfigurationError: There can be no such file.
    """
    found = _Page(report).text()
    if path is not None:
        write_file(path, found.encode("utf-8"), "a page")
    return found


class _Page(Sheet):
    """The page of one run."""

    def __init__(self, report: RunReport) -> None:
        super().__init__()
        self.report = report

    def text(self) -> str:
        report = self.report
        view = _View(report, self.room)
        parts = [
            self.part("failures", "What failed", self.failures(view)),
            self.part("next", "How it goes on", _next(view, told=bool(self.contents))),
            self.part("graph", "Graph", _picture(view)),
            self.part("timeline", "Timeline", timeline(report, view.lanes, view.steps)),
            self.part("time", "Where the time went", slowest(report, view.lanes, view.steps)),
            self.part("nodes", "Nodes", view.nodes()),
            self.part("cycles", "Cycles", _cycles(view)),
            self.part("inside", "Runs inside this run", view.inside(3)),
            self.part("values", "Inputs and results", _values(view)),
            self.part("configuration", "Configuration", configuration(report)),
            self.part("environment", "Environment", environment(report)),
        ]
        title = f"{report.dag_name}: run {report.run_id} {status_of(report)}"
        return page(title, _header(view), "".join(parts), self.contents)

    def failures(self, view: _View) -> str:
        """Return what went wrong, each with all there is to know to mend it."""
        report, room = self.report, self.room
        cards: list[str] = []
        beyond = 0
        for each in islice(failures_in(report, view.nested), MORE_FAILURES):
            if room.failures > 0:
                cards.append(_failure(each, room, opened=len(cards) < 3))
            else:
                beyond += 1
        error = report.error
        if not cards and error is not None:
            cards.append(
                fold(
                    f"The run itself{message(str(error))}",
                    _traceback(room, error.traceback),
                    style="card failed",
                    opened=True,
                )
            )
        if beyond:
            more = "" if len(cards) + beyond < MORE_FAILURES else "at least "
            cards.append(f'<p class="note">And {more}{beyond:,} more, below.</p>')
        for raised in report.hook_errors[:20]:
            told = first_line(f"{type(raised).__qualname__}: {raised}")
            cards.append(f"<p>A hook failed: {code(told)}</p>")
        if report.abandoned:
            left = ", ".join(name(each) for each in report.abandoned[:20])
            cards.append(f"<p>Could not be stopped, and was left behind: {left}</p>")
        if cards and (report.status in _RESUMED or report.orphaned):
            cards.append(resume(report))
        return "".join(cards)


@attrs.define
class _View:
    """A run with what several parts of its page need.

    Attributes:
        report: The run.
        room: How much more is shown.
        nested: The runs inside, read once.
        lanes: What was called, in order of start.
        steps: The critical path.
    """

    report: RunReport
    room: Room
    nested: Mapping[str, Any] = attrs.field(init=False)
    lanes: list[Lane] = attrs.field(init=False)
    steps: list[Step] = attrs.field(init=False)
    _by_id: dict[str, Lane] = attrs.field(init=False)
    _cycles: Mapping[str, int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        report = self.report
        self.nested = report.nested
        self._cycles = {} if report.history is None else report.history.counts
        now = dt.datetime.now(tz=dt.UTC).timestamp()
        if report.finished_at is not None:
            now = report.finished_at.timestamp()
        elif report.started_at is not None:
            now = report.started_at.timestamp() + report.duration
        found = (
            lane_of(each, report.calls(node_id), now)
            for node_id, each in report.node_reports.items()
        )
        self.lanes = sorted((lane for lane in found if lane), key=lambda lane: lane.start)
        self.steps = steps_of_run(report, self.lanes)
        self._by_id = {lane.node_id: lane for lane in self.lanes}

    # --- nodes ------------------------------------------------------------------------------------

    def nodes(self) -> str:
        """Return the table of the run's nodes."""
        report, room = self.report, self.room
        states = report.states()
        most = min(room.rows, len(states))
        ids = told_first(states, most)
        if len(ids) < len(states):  # what is folded should not be what matters
            ids.sort(key=lambda each: states[each] is not NodeState.FAILED)
        room.rows -= len(ids)
        rows = [row for each in ids for row in self._rows(report.node_reports[each])]
        left = len(states) - len(ids)
        calls = ">Attempts" if report.history is None else ">Cycles"
        return folded_table(
            ["Node", "State", calls, ">Start", ">Time", "Result"],
            rows,
            f"Nodes of {report.dag_name}",
            f"{left:,} more nodes that are not shown: {_counted(states, set(ids))}" if left else "",
            style="wordy",
        )

    def _rows(self, found: NodeReport) -> Iterator[list[str]]:
        lane = self._by_id.get(found.node_id)
        node = self.report.graph.nodes[found.node_id]
        began = ends = ""
        calls = found.attempts
        if lane is not None:
            since = lane.start - self.lanes[0].start
            began = f"+{duration(since)}" if since > 0 else "0"
            took = lane.seconds if self.report.history is not None else found.duration
            ends = duration(lane.end - lane.start if took is None else took)
            if node.map_over is not None or not calls:
                calls = lane.calls
        if self.report.history is not None:
            calls = self._cycles.get(found.node_id, calls)
            if lane is not None and lane.calls < calls:
                ends = f"\N{GREATER-THAN OR EQUAL TO} {ends}"
        yield [
            name(found.node_id),
            state(str(found.state)),
            f"{calls:,}" if calls else "",
            text(began),
            text(ends),
            self._told(summed_up(self.report, found, self.nested.get(found.node_id))),
        ]
        calls_below = self._invocations(found.node_id) if node.map_over is not None else ""
        if calls_below:
            yield [calls_below]

    def _told(self, found: NodeReport) -> str:
        """Return what there is to say of a node, and its inputs and result, folded."""
        notes = [note_of(found)] if note_of(found) else []
        if found.cached:
            notes.append("result of an earlier run (cached)")
        if found.reused is not None:
            notes.append(f"result of run {found.reused}")
        head = f'<div class="soft-text">{text("; ".join(notes), 260)}</div>' if notes else ""
        return head + self._result(found)

    def _result(self, found: NodeReport) -> str:
        report, room = self.report, self.room
        if found.state is not NodeState.COMPLETED or room.read <= 0 or room.characters <= 0:
            return ""
        room.read -= 1
        told, whole, value = _value_of(report, found.node_id)
        pairs = [
            (name(each.name), _shown_input(each, room, 300))
            for each in bound_inputs(report, found.node_id)
        ]
        if whole and not pairs:
            return code(told)
        full = code(told) if whole else room.value(value, 1_200)
        body = definitions([*pairs, ("result", full)], style="pairs")
        return fold(code(told), body, style="value")

    def _invocations(self, node_id: str) -> str:
        """Return the invocations of a mapped node, folded; what failed first."""
        calls = self.report.invocations(node_id)
        if not calls:
            return ""
        counts = self.report.counts(node_id)
        most = max(0, min(200, self.room.rows))
        self.room.rows -= min(most, len(calls))
        ranked = list(islice(self._ranked(node_id, calls, counts), most))
        rows = [
            [
                code(key),
                state(str(each.state)),
                str(each.attempts),
                text("" if each.duration is None else duration(each.duration)),
                text(note_of(each), 200),
            ]
            for key in ranked
            for each in (calls[key],)
        ]
        left = len(calls) - len(rows)
        heads = ["Item", "State", ">Attempts", ">Time", "Note"]
        body = table(heads, rows, f"Invocations of {node_id}", style="wordy")
        if left:
            body += f'<p class="soft-text">And {left:,} more.</p>'
        return fold(f"{len(calls):,} invocations: {_listed(counts)}", body)

    def _ranked(
        self, node_id: str, calls: Mapping[str, NodeReport], counts: Mapping[str, int]
    ) -> Iterator[str]:
        """Yield the keys of invocations, those that failed first; no report of one is made."""
        failed: dict[str, None] = {}
        if counts.get(NodeState.FAILED):
            # A call that failed may have been tried again.
            tried = (
                each.key
                for each in self.report.calls(node_id)
                if each.state is NodeState.FAILED and each.key in calls
            )
            left = counts[NodeState.FAILED]
            for key in tried:
                if left and key not in failed and calls[key].state is NodeState.FAILED:
                    failed[key] = None
                    left -= 1
                    yield key
        yield from (key for key in calls if key not in failed)

    # --- runs inside ------------------------------------------------------------------------------

    def inside(self, level: int) -> str:
        """Return the runs of nodes that are workflows, folded, with all that is inside of them."""
        parts, left = [], 0
        for where, child in _runs(self.nested):
            if self.room.inner <= 0 or self.room.rows <= 0:
                left += 1
                continue
            self.room.inner -= 1
            inner = _View(child, self.room)
            heading = f"h{min(level, 6)}"
            failed = []
            if level == 3 and not child.success:
                first = islice(failures_in(child, inner.nested), 5)
                failed = [_failure(each, self.room, opened=False) for each in first]
            body = (
                f'<{heading}>{name(child.dag_name)}</{heading}><p class="soft-text">run '
                f"{code(child.run_id)}</p>{''.join(failed)}"
                f"{_picture(inner)}{inner.nodes()}"
                f"{inner.inside(level + 1)}"
            )
            summary = (
                f"{name(where)} {state(str(child.status))} "
                f'<span class="soft-text">{duration(child.duration)}</span>'
            )
            parts.append(fold(summary, f'<div class="inner">{body}</div>', style="card"))
        if left:
            parts.append(f'<p class="note">And {left:,} more runs that are not shown.</p>')
        return "".join(parts)


def _runs(nested: Mapping[str, Any]) -> list[tuple[str, RunReport]]:
    """Return the runs in a run with what to call them; what did not complete comes first."""
    found: list[tuple[str, RunReport]] = []
    for node_id, each in nested.items():
        if isinstance(each, Mapping):
            found += [(f"{node_id} [{key}]", child) for key, child in each.items()]
        else:
            found.append((node_id, each))
    return sorted(found, key=lambda pair: pair[1].success)


# --- parts ----------------------------------------------------------------------------------------


def _header(view: _View) -> str:
    report = view.report
    counts = Counter(str(each) for each in report.states().values())
    retried = sum(each.attempts > 1 for each in report.node_reports.values())
    facts = [("Nodes", _listed(counts) or "none")]
    if report.history is not None:
        facts.append(("Cycles", f"{report.history.cycles:,}"))
    if report.started_at is not None:
        facts.append(("Started", time_element(report.started_at)))
    if report.finished_at is not None:
        ended = "Paused" if report.status is RunStatus.PAUSED else "Ended"
        if report.orphaned:
            ended = "Last recorded"
        facts.append((ended, time_element(report.finished_at)))
    if report.status is RunStatus.RUNNING and not report.orphaned:
        facts.append(("As it was", time_element(dt.datetime.now(tz=dt.UTC))))
    facts.append(("Duration", text(duration(report.duration))))
    if retried:
        facts.append(("Retried", f"{retried:,} {'node' if retried == 1 else 'nodes'}"))
    reason = ""
    if report.orphaned:
        reason = f'<p class="reason">{text(DIED)}</p>'
    elif report.reason:
        reason = f'<p class="reason">{text(report.reason, 1_000)}</p>'
    elif report.graph.description:
        reason = f'<p class="reason soft-text">{text(report.graph.description, 600)}</p>'
    return (
        f"<h1>{name(report.dag_name, 200)}</h1>\n"
        f'<p class="under">{state(status_of(report))}<span class="soft-text">run '
        f"{code(report.run_id)}</span></p>{reason}{definitions(facts)}"
    )


def _failure(failure: Failure, room: Room, *, opened: bool) -> str:
    """Return one failure: what, where, with what, and how often before."""
    room.failures -= 1
    node, error = failure.node, failure.error
    path = _INSIDE.join(name(each) for each in failure.path)
    tried = f"in attempt {node.attempts}" if node.attempts > 1 else ""
    took = "" if node.duration is None else f"after {duration(node.duration)}"
    summary = f"<strong>{path}</strong>"
    if tried or took:
        told = " ".join(filter(None, ("failed", tried, took)))
        summary += f' <span class="soft-text">{text(told)}</span>'
    summary += message(str(error) if error is not None else "no error was recorded")
    parts = [_traceback(room, "" if error is None else error.traceback)]
    inputs = bound_inputs(failure.report, node.node_id, failure.key)
    pairs = [(name(each.name), _shown_input(each, room, 1_000)) for each in inputs]
    if pairs:
        parts.append(f"<h3>Its inputs</h3>{definitions(pairs, style='pairs')}")
    before = sorted(
        (
            each
            for each in failure.report.calls(node.node_id, failure.key)
            if each.number < failure.attempts
        ),
        key=lambda each: each.number,
    )
    earlier = [
        (f"attempt {each.number}", code(first_line(each.error or str(each.state), 300)))
        for each in before[-10:]
    ]
    if earlier:
        parts.append(f"<h3>Attempts before</h3>{definitions(earlier, style='pairs')}")
    return fold(summary, "".join(parts), style="card failed", opened=opened)


def _traceback(room: Room, lines: str) -> str:
    if not lines.strip():
        return ""
    return f"<h3>Traceback</h3>{block(room.lines(lines.rstrip(), 6_000), label='Traceback')}"


def _next(view: _View, *, told: bool) -> str:
    """Return what a run waits for, and how it is resumed.

    Args:
        view: The run.
        told: Whether it was said already how it is resumed.
    """
    report = view.report
    waiting = [report.node_reports[each] for each in report.nodes_in(NodeState.WAITING)[:50]]
    pairs = [
        (name(each.node_id), text(each.reason or "waits for its next attempt", 600))
        for each in waiting
    ]
    parts = [definitions(pairs, style="pairs")] if pairs else []
    parts += [answer(report, each.node_id) for each in waiting[:5]]
    if (report.status in _RESUMED or report.orphaned) and not told:
        parts.append(resume(report))
    return "".join(parts)


def _picture(view: _View) -> str:
    report, room = view.report, view.room
    many = len(report.graph.nodes)
    room.shapes -= min(many, MOST)
    if room.shapes < 0:
        told = f"{many:,} nodes, too many for a picture; the table shows them."
        return f'<p class="soft-text">{told}</p>'
    return framed(picture_of_run(report, view.nested), f"Graph of {report.dag_name}")


def _cycles(view: _View) -> str:
    """Return the way of a state machine, cycle by cycle."""
    history = view.report.history
    if history is None:
        return ""
    names = history.names
    if not names:
        return ""
    known = {
        (each.key, each.node_id): each
        for node_id in dict.fromkeys(names)
        for each in view.report.calls(node_id)
    }
    before = history.cycles - len(names)  # a history may be limited
    numbered = list(enumerate(names, start=max(0, before)))
    rows = []
    for number, node_id in numbered[-CYCLES:]:
        call = known.get((str(number), node_id))
        took = "" if call is None or call.duration is None else duration(call.duration)
        told = "" if call is None else state(str(call.state))
        rows.append([str(number), name(node_id), told, text(took)])
    left = history.cycles - len(rows)
    note = f"{left:,} earlier cycles are not shown" if left > 0 else ""
    if not all(row[2] for row in rows):
        told = "a run in memory keeps the times of its newest cycles, a database those of all"
        note = f"{note}; {told}" if note else told.capitalize()
    return folded_table(["Cycle", "State", "Ended", ">Time"], rows, "Cycles", note, opened=20)


def _values(view: _View) -> str:
    report, room = view.report, view.room
    parts = []
    given = [
        (name(key), room.value(value, 4_000)) for key, value in list(report.inputs.items())[:100]
    ]
    hidden = [
        (name(key), '<span class="soft-text">a secret, which is not recorded</span>')
        for key, declared in report.graph.inputs.items()
        if declared.secret and key not in report.inputs
    ]
    if given or hidden:
        parts.append(f"<h3>Inputs</h3>{definitions([*given, *hidden], style='pairs')}")
    results = []
    for number, (node_id, value, fault) in enumerate(outputs_of(report)):
        if number == 50:
            results.append(("…", "and more"))
            break
        shown = (
            room.value(value, 6_000)
            if fault is None
            else f'<span class="soft-text">cannot be shown: {text(fault, 400)}</span>'
        )
        results.append((name(node_id), shown))
    if results:
        parts.append(f"<h3>Results</h3>{definitions(results, style='pairs')}")
    if not parts:
        return ""
    return "".join(parts)


# --- small things ---------------------------------------------------------------------------------


def _value_of(report: RunReport, node_id: str) -> tuple[str, bool, Any]:
    """Return a result in short, whether that is all of it, and the result."""
    try:
        value = report.value(node_id)
    except (DaggerError, KeyError) as error:
        return f"cannot be shown: {first_line(error, 160)}", True, None
    told, whole = excerpt(value, 70)
    return told, whole, value


def _shown_input(given: Bound, room: Room, limit: int) -> str:
    if given.value is MISSING:
        return f'<span class="soft-text">{text(first_line(given.missing, 300))}</span>'
    return room.value(given.value, limit)


def _counted(states: Mapping[str, NodeState], without: set[str]) -> str:
    return _listed(Counter(str(each) for key, each in states.items() if key not in without))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[each]:,} {each}" for each in GLYPHS if counts.get(each))
