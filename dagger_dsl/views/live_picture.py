"""`PictureFront`: a run in a notebook: its picture, which changes as the run goes."""

from __future__ import annotations

import io
import sys
import time
from html import escape
from typing import IO, TYPE_CHECKING, Any, Final

from dagger_dsl.model.text import printable
from dagger_dsl.views.grouping import MOST
from dagger_dsl.views.live import Pace, summary
from dagger_dsl.views.notebook import report_bundle

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.engine.pulse import Pulse

__all__ = ["CellOutput", "PictureFront"]

#: Characters in a line.
_WIDTH: Final = 100

#: Seconds of work from which a drawing is too dear to be made again and again.
_DEAR: Final = 0.08

_TYPES: Final = ("text/plain", "text/html")


class CellOutput:
    """One output of a cell, which changes in its place."""

    def __init__(self) -> None:
        self._output: Any = None

    @property
    def is_shown(self) -> bool:
        """Whether anything was shown yet."""
        return self._output is not None

    def show(self, bundle: dict[str, str]) -> None:
        """Show this in the place of what was shown before."""
        import IPython.display

        display: Any = IPython.display.display  # without annotations
        if self._output is None:
            self._output = display(bundle, raw=True, display_id=True)
        else:
            self._output.update(bundle, raw=True)


class PictureFront:
    """Shows one output of a cell, and changes it when a state changes; no widgets are needed.

    A graph of more nodes than a picture has room for, or that takes long to draw, is shown as on a
    terminal while it runs.

    Args:
        run: The run.
    """

    delay, pause = 0.3, 0.2
    named = 0

    def __init__(self, run: Run) -> None:
        self._run = run
        self._mark: Any = None
        self._dear = False
        self._output = CellOutput()
        self._pace = Pace()

    def draw(self, pulse: Pulse) -> None:
        """Show the run as it stands, if that is another way than it stood."""
        if self._dear or len(self._run.plan.index) > MOST:
            self._output.show(self._as_text(pulse))
        elif pulse.mark != self._mark:
            begun = time.thread_time()
            bundle = report_bundle(self._run.report(), summary(pulse), include=_TYPES)
            cost = time.thread_time() - begun  # the first time it loads what it needs, too
            self._dear = cost > _DEAR and self._output.is_shown
            self._output.show(bundle)
            self._mark = pulse.mark

    def finish(self, pulse: Pulse) -> None:
        """Show how it ended."""
        self._mark, self._dear = None, False
        if self._output.is_shown or not self.finish_at_once(pulse):
            self.draw(pulse)

    def finish_at_once(self, pulse: Pulse) -> bool:
        """Say so in one line, if drawing would take longer than the run did."""
        if pulse.failures or len(self._run.plan.index) <= MOST:
            return False
        text = printable(summary(pulse))
        stream = _stream_of_kernel()
        if stream is not None:  # to display it takes as long as five hundred nodes
            stream.write(f"{text}\n")
        else:
            self._output.show({"text/plain": text, "text/html": f"<pre>{escape(text)}</pre>"})
        return True

    def abandon(self) -> None:
        """Nothing was taken: what is shown stays."""

    disown = abandon

    def _as_text(self, pulse: Pulse) -> dict[str, str]:
        from rich.color import Color
        from rich.console import Console
        from rich.terminal_theme import TerminalTheme
        from rich.theme import Theme

        from dagger_dsl.views.colours import ON_PAGES
        from dagger_dsl.views.live_frame import frame

        grey = Color.parse(ON_PAGES["dim"]).get_truecolor()
        hues = ("red", "green", "yellow", "blue", "magenta", "cyan")
        ansi = [grey, *(Color.parse(ON_PAGES[each]).get_truecolor() for each in hues), grey]
        colours = TerminalTheme((255, 255, 255), (0, 0, 0), [*ansi])
        rate = self._pace.rate(pulse.elapsed, pulse.calls)
        console = Console(
            record=True,
            file=io.StringIO(),
            width=_WIDTH,
            force_terminal=True,
            force_jupyter=False,
            theme=Theme({"bar.back": ON_PAGES["dim"]}),
        )
        console.print(frame(pulse, rate, _WIDTH))
        form = '<pre style="white-space: pre; overflow-x: auto; line-height: normal">{code}</pre>'
        html = console.export_html(theme=colours, inline_styles=True, code_format=form)
        return {"text/plain": summary(pulse), "text/html": html}


def _stream_of_kernel() -> IO[str] | None:
    """Return standard output if it is the kernel's own, which sends what is written later."""
    module = sys.modules.get("ipykernel.iostream")
    stream = sys.stdout
    return stream if module is not None and isinstance(stream, module.OutStream) else None
