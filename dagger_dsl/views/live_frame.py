"""`frame`: a run in characters: how much is done, what runs, waits and has failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.constrain import Constrain
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dagger_dsl.engine.words import count, lasted
from dagger_dsl.model.text import first_line, printable
from dagger_dsl.views.plain import STYLES, duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dagger_dsl.engine.pulse import Doing, Pulse

__all__ = ["frame"]

#: Rows of each kind at most.
_RUNNING: Final = 6
_WAITING: Final = 4
_ASKING: Final = 3
_FAILED: Final = 5

#: Characters of a bar, and what has to stand beside it.
_SHORTEST: Final = 8
_LONGEST: Final = 40
_WORDS: Final = 70

#: Characters of a name, and of what stands beside it in any case: a sign, a time, what is between.
_NAME: Final = 40
_BESIDE: Final = 13

#: What has run for so many times the usual time is not like the others.
_SLOW: Final = 3.0


def frame(
    pulse: Pulse, rate: float | None, width: int, *, ascii_only: bool = False
) -> RenderableType:
    """Return one picture of a run.

    Args:
        pulse: How it stands.
        rate: Invocations, or cycles, a second; None where that is not known.
        width: How many characters there are in a line.
        ascii_only: Whether the terminal shows nothing else.
    """
    shown = (*pulse.running[:_RUNNING], *pulse.waiting[:_WAITING], *pulse.asking, *pulse.failures)
    rows = Table.grid(padding=(0, 1), expand=True)
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True, overflow="ellipsis", max_width=_name_width(shown, width))
    rows.add_column(no_wrap=True, justify="right")
    rows.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    signs = "*~?x" if ascii_only else "●↻?✗"
    for sign, style, found, most, after in (
        (signs[0], "cyan", pulse.running, _RUNNING, ""),
        (signs[1], "yellow", pulse.waiting, _WAITING, " wait for another attempt"),
        (signs[2], "magenta", pulse.asking, _ASKING, " wait for a person"),
        (signs[3], "red", pulse.failures, _FAILED, " failed"),
    ):
        for each in found[:most]:
            rows.add_row(Text(sign, style), *_row(sign == signs[1], each, style))
        if len(found) > most:
            rows.add_row("", Text(f"and {len(found) - most} more{after}", "dim"), "", "")
    head = _head(pulse, rate, width)
    # A terminal writes ^C behind the last line; without room there the frame is a line longer.
    return Group(head, Constrain(rows, max(1, width - 3))) if rows.row_count else head


def _row(waits: bool, each: Doing, style: str) -> Iterator[Text]:
    yield Text(printable(each.name), style if style == "red" else "")
    when = "" if each.seconds is None else _span(each.seconds)
    yield Text(f"in {when}" if waits and when else when, "dim")
    part = "" if each.part is None else f"{each.part[0]}/{each.part[1]}"
    text = first_line(each.text) if each.text else ""
    yield Text("  ".join(filter(None, (part, text))), style if style == "red" else "dim")


def _name_width(shown: Iterable[Doing], width: int) -> int:
    """Return how wide a name may be: what stands beside it is not pushed over the edge."""
    room = width - _BESIDE
    if any(each.text or each.part for each in shown):
        room //= 2
    return max(_SHORTEST, min(_NAME, room))


def _head(pulse: Pulse, rate: float | None, width: int) -> RenderableType:
    colour = STYLES.get(pulse.status, "")
    over = pulse.status != "running"
    name = Text(printable(pulse.name), "bold")
    narrow = width < _WORDS
    if narrow:
        name.truncate(width - _SHORTEST - 1, overflow="ellipsis")
        length = min(_LONGEST, width - name.cell_len - 1)
    else:
        length = max(_SHORTEST, min(_LONGEST, width - _WORDS))
    bar = ProgressBar(
        total=None if pulse.fraction is None and not over else 1.0,
        completed=1.0 if pulse.fraction is None else pulse.fraction,
        width=length,
        complete_style=colour,
        finished_style=colour,
        animation_time=pulse.elapsed,
    )
    said = Text("  ").join(_numbers(pulse, rate, colour, brief=narrow))
    head = Table.grid(padding=(0, 1))
    head.add_column(no_wrap=True, overflow="ellipsis", max_width=width if narrow else 30)
    head.add_column()
    why = Text(first_line(pulse.reason) if over and pulse.status != "failed" else "", "dim")
    if narrow:  # the numbers have a line of their own
        head.add_row(name, bar)
        said.no_wrap, said.overflow = True, "ellipsis"
        return Group(head, said, why) if why else Group(head, said)
    head.add_column(no_wrap=True)
    head.add_row(name, bar, said)
    if why:
        head.add_row("", why, "")
    return head


def _numbers(
    pulse: Pulse, rate: float | None, colour: str, *, brief: bool = False
) -> Iterable[Text]:
    if pulse.total is None:
        yield Text(count(pulse.done, "cycle"))
    else:
        yield Text(f"{pulse.done}/{pulse.total}")
    if pulse.status != "running":
        yield Text(lasted(pulse.status, pulse.elapsed), colour)
        if pulse.failed > (pulse.status == "failed"):  # of one, the status says it already
            yield Text(f"{count(pulse.failed, 'node')} failed", "red")
        return
    if pulse.fraction is not None:
        percent = int(pulse.fraction * 100)
        # The items of maps are counted here, and each node once before it.
        other = abs(percent - pulse.done * 100 // max(1, pulse.total or 0)) > 1
        yield Text(f"{percent}% of calls" if other and not brief else f"{percent}%", "bold")
    if pulse.failed:
        yield Text(f"{pulse.failed} failed", "red")
    if rate is not None and not brief:
        yield Text(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s", "dim")
    yield Text(_span(pulse.elapsed))
    left = _left(pulse, rate)
    if left is not None:
        yield Text(f"{_span(left)} left", "dim")


def _left(pulse: Pulse, rate: float | None) -> float | None:
    """Return how many seconds the rest takes at this rate."""
    if rate is None or pulse.left is None:
        return None
    usual = len(pulse.running) / rate
    if any(not each.part and (each.seconds or 0) > _SLOW * usual for each in pulse.running):
        return None  # the rate of the others says nothing of it
    # What waits for another attempt does not come sooner.
    return max(pulse.left / rate, *(each.seconds or 0.0 for each in pulse.waiting), 0.0)


def _span(seconds: float) -> str:
    """Return a time that changes while it is looked at: without digits that only flicker."""
    return f"{seconds:.1f} s" if seconds < 100 else duration(seconds)
