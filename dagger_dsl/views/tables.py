"""Reports, runs and problems as rich tables. Cells are `Text`, so nothing in them is markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich import get_console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dagger_dsl.engine.words import standing
from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.states import RunStatus
from dagger_dsl.model.text import first_line, printable
from dagger_dsl.views.colours import ON_PAGES
from dagger_dsl.views.plain import STYLES, duration, note_of, rows_of, told_first

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.errors import Problem

__all__ = ["problems_table", "report_table", "runs_table"]


#: Characters of an id that is not folded.
_WHOLE: Final = 40

#: Characters that a column of free text has to have, or the rows are told one below the other.
_LEAST: Final = 14


class _Rows(Table):
    """A table that tells its rows one below the other where its columns have no room.

    Args:
        told: Returns what stands below the first cell of a row, of its other cells; they are
            joined, and those that are empty are left out.
        options: As of a table.
    """

    def __init__(self, told: Callable[[Sequence[Text]], Iterable[Text]], **options: Any) -> None:
        super().__init__(**options)
        self._told = told

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width >= self._needed():
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield self.title
        for first, *rest in zip(*(column.cells for column in self.columns), strict=True):
            yield Text.assemble(_text(first), style="bold")
            more = Text(" \N{MIDDLE DOT} ").join(
                each for each in self._told([_text(cell) for cell in rest]) if each
            )
            if more:
                yield Padding(more, (0, 0, 0, 4))
        if self.caption:
            yield self.caption

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        if options.max_width >= self._needed():
            return super().__rich_measure__(console, options)
        return Measurement(min(_LEAST, options.max_width), options.max_width)

    def _needed(self) -> int:
        """Return how many characters are the least in which people can read the columns."""
        needed = 1
        for column in self.columns:
            cells = [_text(column.header), *map(_text, column.cells)]
            widest = max(cell.cell_len for cell in cells)
            needed += 3 + (widest if column.no_wrap else min(widest, _LEAST))
        return needed


def _text(cell: RenderableType) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))


def _why(report: RunReport) -> str:
    """Return why a run stands as it does, where none of its nodes says it."""
    if report.status is RunStatus.COMPLETED or report.failed_nodes:
        return ""
    return report.reason or str(report.error or "")


def report_table(report: RunReport, limit: int | None = None) -> Table:
    """Return a run's nodes as a table; those of nested runs are indented below their node.

    Args:
        report: The run.
        limit: Rows at most; what did not complete is shown first when not all fit.

    Raises:
        ConfigurationError: *limit* is no number of rows.
    """
    if limit is not None and (type(limit) is not int or limit < 0):
        raise ConfigurationError(
            "limit is how many rows a table has at most, 0 or more, or None for all, not "
            f"{shown(limit)}"
        )
    title = Text.assemble(
        f"{printable(report.dag_name)}: run {printable(report.run_id)} ",
        _coloured(standing(report), STYLES.get(report.status, "")),
    )
    # As wide as its title, which would be wrapped to the width of the rows otherwise.
    table = _Rows(_node_in_lines, title=title, title_justify="left", min_width=title.cell_len)
    why = _why(report)
    if why:
        table.caption, table.caption_justify = Text(first_line(why, 300)), "left"
    table.add_column("node", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("attempts", justify="right")
    table.add_column("duration", justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    rows = rows_of(report, told_first(report.states(), limit), limit)
    for level, name, each in rows:
        table.add_row(
            Text("  " * level + printable(name)),
            _state(each.state),
            Text(str(each.attempts)),
            Text("" if each.duration is None else duration(each.duration)),
            Text(note_of(each)),
        )
    shown_ids = {name for level, name, _ in rows if level == 0}
    left = [state for node_id, state in report.states().items() if node_id not in shown_ids]
    if left:
        table.caption = f"and {_counted(left)}"
    return table


def _node_in_lines(cells: Sequence[Text]) -> Iterable[Text]:
    state, attempts, took, note = cells
    yield state
    if attempts.plain not in ("0", "1"):
        yield Text.assemble(attempts, " attempts")
    yield took
    yield note


def _counted(states: Iterable[str]) -> str:
    """Return how many there are in each state, such as "10 more, completed"."""
    counts = Counter(map(str, states))
    if len(counts) == 1:
        ((state, many),) = counts.items()
        return f"{many:,} more, {'all ' if many > 1 else ''}{state}"
    parts = ", ".join(f"{many:,} {state}" for state, many in counts.items())
    return f"{sum(counts.values()):,} more: {parts}"


def _state(state: str) -> Text:
    return _coloured(state.replace("_", " "), STYLES.get(state, ""))


def _coloured(words: str, style: str) -> Text:
    """Return words in a colour; in a notebook, behind a sign of that colour.

    A terminal chooses its red to fit its background. A notebook is sent one red for light pages and
    for dark ones, and no colour of letters has enough contrast with both.
    """
    if style and get_console().is_jupyter:
        return Text.assemble(("● ", ON_PAGES[style.removeprefix("bold ")]), words)
    return Text(words, style)


def runs_table(runs: Iterable[Mapping[str, Any]]) -> Table:
    """Return runs as a table.

    Args:
        runs: Mappings with ``run_id``, ``dag``, ``status``, ``created`` and ``nodes``; what is
            None or missing stays empty.
    """
    listed = list(runs)
    longest = max((len(printable(run["run_id"])) for run in listed), default=0)
    table = _Rows(lambda cells: cells)
    # People copy ids, so they stay in one piece unless nothing else would have room.
    table.add_column("run", overflow="fold", no_wrap=longest <= _WHOLE)
    table.add_column("dag", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("created", no_wrap=True)
    noted = any(run.get("note") for run in listed)
    if noted:
        table.add_column("note", overflow="fold")
    for run in listed:
        table.add_row(
            Text(printable(run["run_id"])),
            Text(printable(run["dag"])),
            _state(run["status"]),
            Text(printable(run.get("created") or "")),
            *([Text(first_line(run.get("note") or ""))] if noted else ()),
        )
    return table


def problems_table(problems: Iterable[Problem]) -> Table:
    """Return problems as a table: where, how bad, what."""
    table = Table()
    table.add_column("place", overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_column("problem", overflow="fold")
    for problem in problems:
        style = "bold red" if problem.severity == "error" else "yellow"
        table.add_row(
            Text(printable(problem.place)),
            _coloured(problem.severity, style),
            Text(printable(problem.message, lines=True)),
        )
    return table
