"""`LiveDisplay`: shows how a run goes while it goes.

A thread looks at the run a few times a second (`dagger_dsl.engine.pulse`); the run itself does
nothing for it, and what the drawing costs decides how often it is made. A run that is over before
the first look says so itself, where that waits for nobody. What trouble a display has is logged,
and the run goes on without one.

How it looks is the matter of a front: `Lines` is the plain one, the others are loaded on first use.
"""

from __future__ import annotations

import _thread
import contextvars
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from dagger_dsl.engine.pulse import Pulse, Pulses, TableChanged, Watch
from dagger_dsl.engine.words import duration, lasted
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.text import printable
from dagger_dsl.store.forks import after_fork

if TYPE_CHECKING:
    from rich.console import Console

    from dagger_dsl.engine.instance import Run

__all__ = [
    "Front",
    "Lines",
    "LiveDisplay",
    "Pace",
    "in_notebook",
    "live_display",
    "summary",
    "write_at_once",
    "write_line",
]

logger = logging.getLogger("dagger_dsl.views")

#: A drawing takes no more than this share of the time of its thread, and so of the run's.
_SHARE: Final = 1 / 120

#: Seconds to wait for the last drawing.
_PATIENCE: Final = 2.0

#: Seconds between two looks of the ticker, and after which it leaves when there is nothing to see.
_NAP: Final = 0.1
_LINGER: Final = 2.0

#: Drawings in a row that may find a table changed while they read it.
_MISSED: Final = 50

#: More lines than that nobody reads.
_MANY: Final = 200

#: Bytes that a pipe takes at least that takes any; systems that do not say do not look, either.
_TAKEN: Final[int] = getattr(select, "PIPE_BUF", 512)


class Front(Protocol):
    """How a pulse is shown. Only one thread at a time draws.

    Attributes:
        delay: Seconds before the first drawing: shorter runs are spared it.
        pause: Seconds between two drawings at least.
        named: How many nodes that have ended it names; see `Watch.take`.
    """

    delay: float
    pause: float
    named: int

    def draw(self, pulse: Pulse) -> None:
        """Show how the run stands; called now and then."""

    def finish(self, pulse: Pulse) -> None:
        """Show how it has ended; called once, also when nothing was drawn before."""

    def finish_at_once(self, pulse: Pulse) -> bool:
        """Do what `finish` does if that waits for nobody, and return whether it was done.

        Called in the thread of the run, where nothing was drawn before; if not, `finish` is called
        in another one.
        """

    def abandon(self) -> None:
        """Give back what was taken, such as the cursor of a terminal."""

    def disown(self) -> None:
        """In a forked child: leave what was taken to the parent."""


class LiveDisplay:
    """Shows one run at a time, from its beginning to its end.

    Its methods raise nothing. On a terminal there is room for one display: where one is shown
    already, the next run has lines.

    Args:
        kind: ``bar``, ``picture`` or ``lines``.
        console: Where a bar is drawn; standard error by default.
        say: Takes a line; by default it goes to standard error, with the name of what runs.
        brief: Whether nothing is left of it at the end.

    Attributes:
        is_unread: Whether whoever read what is shown has gone.
    """

    def __init__(
        self,
        kind: str,
        *,
        console: Console | None = None,
        say: Callable[[str], None] | None = None,
        brief: bool = False,
    ) -> None:
        self.kind = kind
        self._console, self._say, self._brief = console, say, brief
        self._watch: Pulses | None = None
        self._front: Front | None = None
        self._drawing = threading.Lock()
        self._context: contextvars.Context | None = None
        self._over: threading.Event | None = None  # set when the last drawing is made
        self._end: Pulse | None = None  # where the run's thread has looked already
        self._due = 0.0
        self._first = True
        self._has_screen = False
        self._missed = 0
        self.is_unread = False

    def begin(self, run: Run) -> None:
        """Begin to show a run, from a thread of its own."""
        try:
            self.follow(Watch(run), run)
        except Exception as error:
            self._give_up(error)

    def show_now(self) -> None:
        """Show a picture before the run begins, from the thread of the cell that starts it."""
        if self.kind == "picture" and self._front is not None:
            with self._drawing:
                self._draw()

    def follow(self, pulses: Pulses, run: Run | None = None) -> None:
        """Begin to show whatever has pulses, from a thread of its own.

        Args:
            pulses: Asked how it stands, by that thread.
            run: What a picture is made of.
        """
        self._missed = 0
        self._first, self._over, self._end, self.is_unread = True, None, None, False
        try:
            self._watch = pulses
            self._front = front = self._front_for(run)
            self._context = contextvars.copy_context()  # a notebook knows by it which cell is meant
            self._due = time.monotonic() + front.delay
            _TICKER.add(self)
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Show how the run has ended, and leave; at once where nothing takes what is shown."""
        try:
            if self._front is not None:
                if not self._finish_at_once():
                    self._over = over = threading.Event()
                    if not _TICKER.finish(self, over):
                        # Not louder: where this would be said nobody may take anything, either.
                        logger.debug("the display of a run was left behind")
            elif self._drawing.acquire(timeout=_PATIENCE):  # why it gave up is being said
                self._drawing.release()
        finally:
            _TICKER.remove(self)
            self._leave()

    def _finish_at_once(self) -> bool:
        """Show the end from here, if nothing was drawn and that waits for nobody.

        To have the ticker do it takes longer than a thousand nodes do.
        """
        if not self._first or not self._drawing.acquire(blocking=False):
            return False
        try:
            front, watch, context = self._front, self._watch, self._context
            if not self._first or front is None or watch is None or context is None:
                return False
            self._end = watch.take(front.named)
            done = context.run(front.finish_at_once, self._end)
            if done:
                self._context = None  # nothing is drawn behind it
            return done
        except Exception as error:
            self._give_up(error)
            return True
        finally:
            self._drawing.release()

    def _front_for(self, run: Run | None) -> Front:
        if self.kind == "picture" and run is not None:
            from dagger_dsl.views.live_picture import PictureFront

            return PictureFront(run)
        if self.kind == "bar" and _SCREEN.acquire(blocking=False):
            self._has_screen = True
            return self._bar()
        return self._lines()

    def _bar(self) -> Front:
        from dagger_dsl.views.live_bar import BarFront

        return BarFront(self._console, brief=self._brief)

    def _lines(self) -> Front:
        return Lines(self._say, brief=self._brief)

    def tick(self) -> None:
        """Draw, if it is time for that; called by the ticker."""
        front, context, over = self._front, self._context, self._over
        if context is None or (over is None and time.monotonic() < self._due):
            return
        with self._drawing:
            if front is None or self._context is not context:  # the run has ended meanwhile
                return
            begun = time.thread_time()
            context.run(self._draw, last=over is not None)
            cost = time.thread_time() - begun
            if self._context is not context:  # it was left behind in the middle of that
                front.abandon()
            # The first drawing loads what it needs, and says nothing of the others.
            rest = 0.0 if self._first else cost / _SHARE
            self._first = False
            self._due = time.monotonic() + max(front.pause, rest)
        if over is not None:
            over.set()

    def _draw(self, *, last: bool = False) -> None:
        front, watch = self._front, self._watch
        if front is None or watch is None:
            return
        try:
            if last:
                front.finish(self._end or watch.take(front.named))
            else:
                front.draw(watch.take(front.named))
            self._missed = 0
        except Exception as error:
            # A graph may grow while it is read; the next look finds it whole.
            self._missed += 1
            changed = isinstance(error, (TableChanged, RuntimeError, LookupError))
            if last or not changed or self._missed > _MISSED:
                self._give_up(error)
            else:
                logger.debug("a run changed while it was looked at", exc_info=True)

    def _give_up(self, error: Exception) -> None:
        front, self._front = self._front, None
        if front is not None:
            try:
                front.abandon()
            except Exception as another:
                error.add_note(f"and it could not be taken away: {another!r}")
        self.is_unread = isinstance(error, BrokenPipeError)
        level = logging.DEBUG if self.is_unread else logging.WARNING  # nobody misses anything
        logger.log(level, "the display of a run failed, the run goes on without: %r", error)

    def _leave(self) -> None:
        front, self._front = self._front, None
        self._watch = self._context = None
        if front is not None and self._drawing.acquire(blocking=False):
            try:  # else who draws does that
                front.abandon()
            finally:
                self._drawing.release()
        if self._has_screen:
            self._has_screen = False
            _SCREEN.release()

    def disown(self) -> None:
        """In a forked child: show nothing; the run, and the terminal, are the parent's."""
        front, self._front = self._front, None
        self._watch = self._context = None
        self._has_screen = False
        self._drawing = threading.Lock()
        if front is not None:
            front.disown()


class _Ticker:
    """The thread that draws the displays of this process, a few times a second.

    One for all, which stays a while: to begin a thread takes as long as a small run does. It draws
    the last time, too, as no run shall hang where nothing takes what is shown.
    """

    def __init__(self) -> None:
        self._shown: list[LiveDisplay] = []
        self._number = 0  # of the thread
        self.start_over()

    def start_over(self) -> None:
        """In a forked child, too: there are no displays, and no thread."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._runs = False
        self._drawn: LiveDisplay | None = None
        shown, self._shown = self._shown, []
        for display in shown:
            display.disown()

    def add(self, display: LiveDisplay) -> None:
        """Draw a display from now on."""
        with self._lock:
            self._shown.append(display)
            if not self._runs:
                self._begin()

    def remove(self, display: LiveDisplay) -> None:
        """Draw it no more."""
        with self._lock:
            if display in self._shown:
                self._shown.remove(display)

    def finish(self, display: LiveDisplay, over: threading.Event) -> bool:
        """Draw a display for the last time; return whether that was done within some time."""
        self._wake.set()
        if over.wait(_PATIENCE):
            return True
        stuck = self._drawn
        with self._lock:  # leave the thread behind; another one draws the others
            self._number += 1
            self._begin()
        return stuck is not display and over.wait(_PATIENCE)

    def _begin(self) -> None:
        # `threading.Thread` would wait until it has begun.
        _thread.start_new_thread(contextvars.Context().run, (self._work, self._number))
        self._runs = True

    def _work(self, number: int) -> None:
        idle = 0.0
        while True:
            self._wake.wait(_NAP)
            self._wake.clear()
            with self._lock:
                if number != self._number:
                    return
                shown = list(self._shown)
                idle = 0.0 if shown else idle + _NAP
                if idle >= _LINGER:
                    self._runs = False
                    return
            for display in shown:
                self._drawn = display
                display.tick()
                self._drawn = None


_TICKER: Final = _Ticker()

#: Held by the display that a terminal shows.
_SCREEN: Final = threading.Lock()


def _in_child() -> None:
    _TICKER.start_over()
    if _SCREEN.locked():
        _SCREEN.release()


after_fork(_in_child)


def live_display(kind: bool | str) -> LiveDisplay:
    """Return the display that `RunOptions.progress` asks for.

    Args:
        kind: Which one; True takes the one that fits where the process is.

    Raises:
        ConfigurationError: A picture is asked for, and there is no notebook to show it.
    """
    if kind is True:
        kind = "picture" if in_notebook() else "bar" if _on_terminal() else "lines"
    elif kind == "picture" and not in_notebook():
        raise ConfigurationError(
            "progress='picture' needs a notebook, and this is none; progress=True shows what fits"
        )
    return LiveDisplay(str(kind))


def in_notebook() -> bool:
    """Return whether a kernel runs this code, whose front end shows pictures."""
    module = sys.modules.get("IPython")  # who has not loaded it is in none
    shell = None if module is None else module.get_ipython()
    return getattr(shell, "kernel", None) is not None


def _on_terminal() -> bool:
    if os.environ.get("TERM", "") in ("", "dumb"):
        return False
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


# --- lines ----------------------------------------------------------------------------------------


class Lines:
    """Says of each node that it ended; of a large run, how many did by the hundredth.

    Args:
        say: Takes a line; by default it goes to standard error, with the name of what runs.
        brief: Whether how it ended is left to others.
    """

    delay = pause = 0.1
    named = _MANY

    def __init__(self, say: Callable[[str], None] | None = None, *, brief: bool = False) -> None:
        self._say, self._brief = say or write_line, brief
        self._titled = say is None
        self._said = 0
        self._percent = -1
        self._tenths: dict[str, int] = {}
        self._next = 0.0
        self._summed_up = False

    def draw(self, pulse: Pulse) -> None:
        """Say what has ended since the last time."""
        if pulse.total is None:
            self._cycles(pulse)
        elif pulse.total > _MANY:
            self._large(pulse, pulse.total)
        else:
            first = pulse.done - len(pulse.ended) + 1
            for number, each in enumerate(pulse.ended, first):
                self._ended(pulse, number, each)
        self._maps(pulse)

    def finish(self, pulse: Pulse) -> None:
        """Say what is left, and how the run ended."""
        self._next = 0.0
        self._summed_up = not self._brief
        self.draw(pulse)
        if not self._brief:
            self._say(summary(pulse))

    def finish_at_once(self, pulse: Pulse) -> bool:
        """Do so in one piece, if it is small."""
        if not self._titled:
            return False  # whoever takes the lines may wait for somebody
        said: list[str] = []
        lines = Lines(said.append, brief=self._brief)
        lines._titled = True
        lines.finish(pulse)
        return write_at_once(said)

    def abandon(self) -> None:
        """Nothing was taken."""

    disown = abandon

    def _cycles(self, pulse: Pulse) -> None:
        number = pulse.done - len(pulse.ended)
        for each in pulse.ended:
            number += 1
            if self._said < _MANY:
                self._line(pulse, f"[{number}] {each.name}: {each.state}")
        if self._said >= _MANY and pulse.ended and pulse.elapsed >= self._next:
            self._next = pulse.elapsed + 1.0
            self._line(pulse, f"[{number}] {pulse.ended[-1].name}: {pulse.ended[-1].state}")

    def _large(self, pulse: Pulse, total: int) -> None:
        newest = () if self._summed_up else pulse.ended[-1:]
        for each in pulse.ended:
            if each.state == "failed" and self._said < _MANY * 2:
                self._ended(pulse, pulse.done, each)
                newest = () if each in newest else newest
        percent = pulse.done * 100 // total
        if newest and percent != self._percent:
            self._percent = percent
            self._ended(pulse, pulse.done, newest[0])

    def _maps(self, pulse: Pulse) -> None:
        for each in pulse.running:
            if each.part is None or not each.part[0]:
                continue
            ended, total = each.part
            tenth = ended * 10 // max(1, total)
            if tenth != self._tenths.get(each.name, 0):
                self._tenths[each.name] = tenth
                self._line(pulse, f"[{pulse.done}/{pulse.total}] {each.name}: {ended}/{total}")

    def _ended(self, pulse: Pulse, number: int, each: Any) -> None:
        took = "" if each.seconds is None else f" in {duration(each.seconds)}"
        why = f": {each.text}" if each.text else ""
        self._line(pulse, f"[{number}/{pulse.total}] {each.name}: {each.state}{took}{why}")

    def _line(self, pulse: Pulse, text: str) -> None:
        self._said += 1
        self._say(printable(f"{pulse.name} {text}" if self._titled else text))


def write_line(line: str, stream: IO[str] | None = None) -> None:
    """Write a line to a stream, standard error by default, if there is any."""
    where = sys.stderr if stream is None else stream
    if where is not None:
        where.write(f"{printable(line)}\n")
        where.flush()


def write_at_once(lines: Iterable[str], stream: IO[str] | None = None) -> bool:
    """Write lines to a stream if that waits for nobody, and return whether they were written."""
    where = sys.stderr if stream is None else stream
    text = "".join(f"{printable(line)}\n" for line in lines)
    if where is None or not text:
        return True
    if len(text.encode("ascii", "backslashreplace")) > _TAKEN or not _takes(where):
        return False
    where.write(text)
    where.flush()
    return True


def _takes(stream: IO[str]) -> bool:
    """Return whether a stream is known to take something now."""
    try:
        return bool(select.select((), (stream.fileno(),), (), 0)[1])
    except (AttributeError, OSError, ValueError):  # it has no number, or one that is not looked at
        return False


def summary(pulse: Pulse) -> str:
    """Return how a run stands in one line."""
    if pulse.total is None:
        what = f"{pulse.done} {'cycle' if pulse.done == 1 else 'cycles'}"
    else:
        what = f"{pulse.done}/{pulse.total} nodes"
    failed = f", {pulse.failed} failed" if pulse.failed else ""
    why = f": {pulse.reason}" if pulse.reason and pulse.status != "failed" else ""
    return f"{pulse.name}: {what}{failed}, {lasted(pulse.status, pulse.elapsed)}{why}"


class Pace:
    """How fast a run goes, over the last half minute."""

    def __init__(self, seconds: float = 30.0) -> None:
        self._window = seconds
        self._seen: deque[tuple[float, float]] = deque()

    def rate(self, elapsed: float, done: float) -> float | None:
        """Take how much is done, and return how much of it a second; None before that is known."""
        seen = self._seen
        seen.append((elapsed, done))
        while len(seen) > 2 and elapsed - seen[1][0] >= self._window:
            seen.popleft()
        seconds, number = elapsed - seen[0][0], done - seen[0][1]
        return number / seconds if seconds >= 0.5 and number > 0 else None
