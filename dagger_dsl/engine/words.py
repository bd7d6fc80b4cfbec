"""Numbers and ends of runs in words, for whatever is shown to people."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport

__all__ = ["DIED", "count", "duration", "lasted", "standing", "status_of"]

#: What there is to say of a run whose process died.
DIED: Final = "the process that executed the run has died"

#: What stands between a status and how long it took; "in" where it is none of these.
_BETWEEN: Final = {"running": "for", "paused": "after", "timed_out": "after"}


def duration(seconds: float) -> str:
    """Return a time span as people read it."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} \N{MICRO SIGN}s"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 100:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def lasted(status: str, seconds: float) -> str:
    """Return a status with the time it took, such as "failed in 2.00 s"."""
    between = _BETWEEN.get(status, "in")
    return f"{status.replace('_', ' ')} {between} {duration(seconds)}"


def status_of(report: RunReport) -> str:
    """Return how a run stands in one or two words."""
    return "process died" if report.orphaned else report.status.replace("_", " ")


def standing(report: RunReport) -> str:
    """Return how a run stands and how long it took; of one without an end, since or until when."""
    told = lasted(report.status, report.duration)
    if report.orphaned:
        told = f"left by a process that died, after {duration(report.duration)}"
        if report.finished_at is not None:
            told += f", last recorded at {_to_the_second(report.finished_at)}"
    elif report.status == "running" and report.started_at is not None:
        told += f" since {_to_the_second(report.started_at)}"
    return told


def _to_the_second(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def count(many: int, word: str, words: str | None = None) -> str:
    """Return how many there are, such as "1 node" or "2,000 nodes".

    Args:
        many: How many.
        word: What one of them is called.
        words: What several are called; by default with an s.
    """
    return f"{many:,} {word if many == 1 else words or word + 's'}"
