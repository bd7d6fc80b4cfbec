"""What the command shows: a display on a terminal, plain lines elsewhere.

Results go to standard output. With ``--json`` that is one JSON document and nothing else; whatever
is meant for people goes to standard error then.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from dagger_dsl.engine.words import standing
from dagger_dsl.errors import DaggerError, StoreError
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.text import printable
from dagger_dsl.views.plain import (
    duration,
    note_of,
    outputs_of,
    plain_table,
    report_to_plain,
    rows_of,
    told_first,
)

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType

    from dagger_dsl.engine.pulse import Pulses
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.errors import Problem
    from dagger_dsl.views.live import LiveDisplay

__all__ = ["LogLines", "Progress", "Screen"]

#: Rows of a final table at most; ``show`` prints all of them.
ROWS = 50


class Screen:
    """Where a command writes.

    Args:
        as_json: Whether standard output is for one JSON document.
        quiet: Whether only errors and results asked for are shown.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a terminal's encoding must not end a run
                stream.reconfigure(errors="backslashreplace")
        self.people: TextIO = sys.stderr if as_json else sys.stdout
        self._rich: Console | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether people look at it live."""
        return self.people.isatty() and os.environ.get("TERM", "") not in ("", "dumb")

    @property
    def is_rich(self) -> bool:
        """Whether tables are drawn and coloured: on a terminal, or where FORCE_COLOR asks."""
        return self.is_terminal or bool(os.environ.get("FORCE_COLOR"))

    @property
    def console(self) -> Console:
        """Rich's console, loaded on first use."""
        if self._rich is None:
            from rich.console import Console

            self._rich = Console(file=self.people, highlight=False, markup=False, emoji=False)
        return self._rich

    # --- text ------------------------------------------------------------------------------------

    def say(self, text: str = "") -> None:
        """Print a remark; not when quiet."""
        if not self.quiet:
            self._print(text, self.people)

    def result(self, text: str) -> None:
        """Print what was asked for."""
        self._print(text, sys.stdout)

    def styled(self, text: str, style: str) -> None:
        """Print a line that was asked for, in a style of rich's where colours are shown."""
        if not (style and self.is_rich) or self.as_json:
            self._print(text, sys.stdout)
            return
        from rich.text import Text

        self.console.print(Text(printable(text), style=style), soft_wrap=True)

    def error(self, text: str) -> None:
        """Print what went wrong; on a terminal its first word stands out."""
        head = "error:"
        if text.startswith(head) and _has_colours(sys.stderr):
            mark = f"\x1b[1;31m{head}\x1b[0m"
            sys.stderr.write(f"{mark}{printable(text[len(head) :], lines=True)}\n")
            sys.stderr.flush()
        else:
            self._print(text, sys.stderr)

    def json(self, content: Any) -> None:
        """Print a JSON document."""
        sys.stdout.write(
            json.dumps(content, indent=2, default=lambda value: excerpt(value)[0]) + "\n"
        )
        sys.stdout.flush()

    def table(self, rows: Sequence[Sequence[object]], rich: RenderableType | None = None) -> None:
        """Print rows, the first one of which are headings.

        Args:
            rows: For output that is no terminal.
            rich: For a terminal.
        """
        if rich is not None and self.is_rich:
            self.console.print(rich)
        else:
            self._print(plain_table(rows), self.people)

    def _print(self, text: str, stream: TextIO) -> None:
        line = printable(text, lines=True)
        if self._rich is not None and (stream is self.people or self._shares_terminal(stream)):
            self._rich.print(line, soft_wrap=True)  # above a live display
        else:
            stream.write(line + "\n")
            stream.flush()

    def _shares_terminal(self, stream: TextIO) -> bool:
        return self.is_terminal and stream.isatty()

    # --- runs ------------------------------------------------------------------------------------

    def report(
        self,
        report: RunReport,
        *,
        every_node: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> bool:
        """Show how a run ended; return False when the store has lost an output.

        Args:
            report: What to show.
            every_node: Whether to list all nodes, however many.
            more: What else the JSON document has.
        """
        if self.as_json:
            outputs = list(outputs_of(report))
            self.json({**report_to_plain(report, outputs), **(more or {})})
            return not any(isinstance(fault, StoreError) for _, _, fault in outputs)
        if self.quiet:
            return True
        whole = True
        limit = None if every_node else ROWS
        if self.is_rich:
            self.console.print(report.to_table(limit))
        else:
            self._print(self._plain_report(report, limit), self.people)
        for number, (node_id, value, fault) in enumerate(outputs_of(report)):
            if number == limit:
                self._print("and more outputs", self.people)
                break
            if isinstance(fault, StoreError):
                self.error(f"error: {node_id}: {fault}")
                whole = False
            else:
                text = excerpt(value, 300)[0] if fault is None else f"(not shown: {fault})"
                self._print(f"{printable(node_id)} = {text}", self.people)
        return whole

    def _plain_report(self, report: RunReport, limit: int | None) -> str:
        states = report.states()
        rows: list[Sequence[object]] = [("node", "state", "attempts", "duration", "note")]
        told = rows_of(report, told_first(states, limit), limit)
        for level, name, each in told:
            took = "" if each.duration is None else duration(each.duration)
            rows.append(("  " * level + name, each.state, each.attempts, took, note_of(each)))
        left = len(states) - sum(level == 0 for level, _, _ in told)
        text = "" if len(rows) == 1 else plain_table(rows) + "\n"
        more = f"and {left} more nodes\n" if left else ""
        return f"{text}{more}{report.dag_name}: run {report.run_id} {standing(report)}"

    def failure(self, report: RunReport) -> None:
        """Show why a run failed: the user's own traceback of the first failure.

        When quiet, the run and its status too, as nothing else says them.
        """
        error = report.error
        if error is not None:
            self.error((error.traceback or str(error)).rstrip())
            self._tell_failure(report)
        if self.quiet:
            why = f": {report.reason}" if report.reason else ""
            self.error(f"{report.dag_name}: run {report.run_id} {report.status}{why}")

    def _tell_failure(self, report: RunReport) -> None:
        """Show which node it was, its attempt and its inputs, and what else failed."""
        try:
            failure = report.failure()
            lines = failure.lines()
        except DaggerError:  # it was no node, or its record cannot be read
            return
        self.error("\n".join([f"node {failure.node_id}: {next(lines)}", *lines]))
        others = len(report.nodes_in("failed")) - 1
        if others > 0:
            self.error(f"and {others} more {'node' if others == 1 else 'nodes'} failed")

    def problems(self, problems: Iterable[Problem]) -> None:
        """Show what is wrong with a file or a graph."""
        for problem in problems:
            severity = "" if problem.severity == "error" else f"{problem.severity}: "
            self.error(f"{problem.place}: {severity}{problem.message}")


def _has_colours(stream: TextIO) -> bool:
    """Whether a stream is shown colours, by the same rules as rich's."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


class Progress:
    """Shows a run while it goes on. Use it as a context manager around the run.

    On a terminal a live display, which is gone at the end; elsewhere a line for each node that
    ended, or, of large graphs, for a hundredth. Retries and other warnings stand between.

    Args:
        screen: Where.

    Attributes:
        display: The ``progress`` of the run; None when quiet.
    """

    def __init__(self, screen: Screen) -> None:
        self._log = LogLines(screen)
        self.display: LiveDisplay | None = None
        if screen.quiet:
            return
        from dagger_dsl.views.live import LiveDisplay

        if screen.is_terminal:
            self.display = LiveDisplay("bar", console=screen.console, brief=True)
        else:
            self.display = LiveDisplay("lines", say=screen.say, brief=True)

    def follow(self, pulses: Pulses) -> None:
        """Show a run of another process, of which somebody knows how it stands."""
        if self.display is not None:
            self.display.follow(pulses)

    @property
    def is_unread(self) -> bool:
        """Whether whoever read what is shown has gone."""
        return self.display is not None and self.display.is_unread

    def __enter__(self) -> Progress:
        self._log.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.remove()


class LogLines(logging.Handler):
    """Shows the package's warnings, such as retries, between the lines of progress.

    Use it as a context manager, or `install` and `remove` it.
    """

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.ERROR if screen.quiet else logging.WARNING)
        self._screen = screen

    def install(self) -> None:
        """Begin to listen."""
        logging.getLogger("dagger_dsl").addHandler(self)

    def remove(self) -> None:
        """Stop listening."""
        logging.getLogger("dagger_dsl").removeHandler(self)

    def __enter__(self) -> LogLines:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        try:
            self._screen.error(f"{record.levelname.lower()}: {record.getMessage()}")
        except Exception:
            self.handleError(record)
