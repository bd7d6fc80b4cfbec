"""Reports, runs and problems as rich tables. Cells are `Text`, so nothing in them is markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich import get_console
from rich.table import Table
from rich.text import Text

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.text import first_line, printable
from dagger_dsl.views.colours import ON_PAGES
from dagger_dsl.views.plain import STYLES, duration, note_of, rows_of, told_first

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.errors import Problem

__all__ = ["problems_table", "report_table", "runs_table"]


#: Characters of an id that is not folded.
_WHOLE: Final = 40


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
        _state(report.status),
        f" in {duration(report.duration)}",
    )
    # As wide as its title, which would be wrapped to the width of the rows otherwise.
    table = Table(title=title, title_justify="left", min_width=title.cell_len)
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
    left = len(report.states()) - sum(level == 0 for level, _, _ in rows)
    if left:
        table.caption = f"and {left} more that completed or wait"
    return table


def _state(state: str) -> Text:
    return _coloured(str(state), STYLES.get(state, ""))


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
    table = Table()
    # People copy ids, so they stay in one piece unless nothing else would have room.
    table.add_column("run", overflow="fold", no_wrap=longest <= _WHOLE)
    table.add_column("dag", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("created", no_wrap=True)
    table.add_column("note", overflow="fold")
    for run in listed:
        table.add_row(
            Text(printable(run["run_id"])),
            Text(printable(run["dag"])),
            _state(run["status"]),
            Text(printable(run.get("created") or "")),
            Text(first_line(run.get("note") or "")),
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
