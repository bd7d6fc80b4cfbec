"""`BarFront`: a run on a terminal; rich is loaded when there is something to draw."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import IO, TYPE_CHECKING

from dagger_dsl.views.live import Pace, summary, write_at_once, write_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from dagger_dsl.engine.pulse import Pulse

__all__ = ["BarFront"]


class BarFront:
    """Draws a run on a terminal, and lets what is printed meanwhile stand above it.

    Args:
        console: Where; standard error by default.
        brief: Whether nothing is left of it at the end.
    """

    delay, pause = 0.3, 0.1
    named = 0

    def __init__(self, console: Console | None = None, *, brief: bool = False) -> None:
        self._given = console
        self._brief = brief
        self._live: Live | None = None
        self._streams = (sys.stdout, sys.stderr)
        self._pace = Pace()

    def draw(self, pulse: Pulse) -> None:
        """Draw how the run stands."""
        if self._live is None:
            from rich.live import Live

            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=self._brief,
                # What goes to a file or a pipe has to arrive there.
                redirect_stdout=_is_terminal(sys.stdout),
                redirect_stderr=_is_terminal(sys.stderr),
            )
            self._streams = (sys.stdout, sys.stderr)
            self._live.start()
        self._live.update(self._drawn(pulse), refresh=True)

    def finish(self, pulse: Pulse) -> None:
        """Leave how it ended; of a run that was over at once, one line."""
        if self._live is not None:
            self._live.update(self._drawn(pulse, over=True), refresh=True)
            self.abandon()
            if not self._console.is_terminal and not self._brief:
                self._console.line()  # rich ends its last frame there without one
        elif not self._brief:
            if self._failed(pulse):
                self._console.print(self._drawn(pulse, over=True))
            else:
                write_line(self._said(pulse), self._stream)

    def finish_at_once(self, pulse: Pulse) -> bool:
        """Leave the one line; rich, too, takes longer than many a run."""
        if self._failed(pulse):
            return False
        return self._brief or write_at_once((self._said(pulse),), self._stream)

    def abandon(self) -> None:
        """Give the cursor and the streams back."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def disown(self) -> None:
        """In a forked child: print past the display, whose locks a lost thread may hold."""
        if self._live is not None:
            self._live = None
            sys.stdout, sys.stderr = self._streams

    @cached_property
    def _console(self) -> Console:
        from rich.console import Console

        # In a notebook rich would want widgets, which most have not installed.
        return self._given or Console(stderr=True, force_jupyter=False)

    @property
    def _stream(self) -> IO[str] | None:
        return None if self._given is None else self._given.file

    def _said(self, pulse: Pulse) -> str:
        return summary(pulse)

    def _failed(self, pulse: Pulse) -> bool:
        return bool(pulse.failures)

    def _drawn(self, pulse: Pulse, *, over: bool = False) -> RenderableType:
        from dagger_dsl.views.live_frame import frame

        rate = None if over else self._pace.rate(pulse.elapsed, pulse.calls)
        options = self._console.options
        return frame(pulse, rate, options.max_width, ascii_only=options.ascii_only)


def _is_terminal(stream: object) -> bool:
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False
