"""The bar that ``run(progress=True)`` shows, on standard error."""

from __future__ import annotations

import time
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from dagger_dsl.views.clean import printable

__all__ = ["ProgressBar", "progress_bar"]

# Drawing costs more than a quick node does; people see no more than so many pictures (seconds).
_PAUSE: Final = 0.1


class ProgressBar:
    """Draws how far a run has come, and the node that was heard of last.

    It is called as progress callbacks are, by one thread at a time, and has no thread of its own.

    Args:
        title: What stands before the bar.
        console: Where it is drawn; standard error by default.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        # In a notebook rich would want widgets, which most have not installed.
        self._console = Console(stderr=True, force_jupyter=False) if console is None else console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[node]}", markup=False),
            console=self._console,
            auto_refresh=False,
        )
        self._bar = self._progress.add_task(printable(title), total=1.0, node="")
        self._drawn = -1.0
        self._begun = False

    def __call__(self, node_id: str, status: str, fraction: float) -> None:
        """Draw a step; too many of them are passed over."""
        if not self._begun:
            self._begun = True
            self._progress.start()
        now = time.monotonic()
        draws = fraction >= 1.0 or now >= self._drawn + _PAUSE
        if draws:
            self._drawn = now
        node = f"{printable(node_id)}: {printable(status)}"
        self._progress.update(self._bar, completed=fraction, node=node, refresh=draws)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._begun:
            self._begun = False
            self._progress.stop()


def progress_bar(title: str) -> ProgressBar:
    """Return a bar for a run of that title."""
    return ProgressBar(title)
