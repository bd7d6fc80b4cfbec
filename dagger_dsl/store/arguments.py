"""Checks of what callers give the store: each says what is taken, before anything is read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, Final

from dagger_dsl.errors import ConfigurationError, RunNotFound, did_you_mean, shown
from dagger_dsl.store.schema import RUN_STATES

__all__ = [
    "check_count",
    "check_moment",
    "check_new_name",
    "check_number",
    "check_reason",
    "check_text",
    "moment_before",
    "no_such_run",
    "run_states",
]

# SQLite's largest integer; a larger one would be its driver's error.
_MOST: Final = 2**63 - 1


def check_text(what: str, value: Any) -> None:
    """Refuse what no row can have for a name: no text, or text with half a character.

    A lone surrogate, as from ``os.fsdecode``, has no UTF-8 form.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{what} is a text, not {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{what} {shown(value)} has a lone surrogate, which is half a character and cannot be "
            "stored; take it out"
        ) from None


def check_new_name(what: str, value: Any) -> None:
    """Refuse a name that not every database can keep, or that nobody could ask for."""
    check_text(what, value)
    if not value or "\0" in value:
        raise ConfigurationError(
            f"{what} is a text that is not empty and has no NUL, not {shown(value)}"
        )


def check_reason(what: str, value: Any) -> None:
    """Refuse a reason that is no text; any text has a form that is `errors.storable`."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{what} is a text, not {shown(value)}")


def check_number(what: str, value: Any) -> None:
    """Refuse what is no whole number of at least 0."""
    if not _is_number(value):
        raise ConfigurationError(f"{what} is a whole number of at least 0, not {shown(value)}")


def check_count(what: str, value: Any) -> None:
    """Refuse what is no whole number of at least 0; None stands for no limit."""
    if value is not None and not _is_number(value):
        raise ConfigurationError(
            f"{what} is a whole number of at least 0, or None for no limit, not {shown(value)}"
        )


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def check_moment(what: str, value: Any) -> None:
    """Refuse what is no moment that means the same everywhere; None stands for none."""
    if value is not None and not isinstance(value, dt.datetime):
        raise ConfigurationError(f"{what} is a datetime or None, not {shown(value)}")
    if value is not None and value.tzinfo is None:
        raise ConfigurationError(f"{what} needs a time zone, such as datetime.now(UTC)")


def no_such_run(where: str, name: str) -> RunNotFound:
    """Return what to raise for a run that a database does not have."""
    return RunNotFound(f"{where} has no run {shown(name)}; list_runs() shows what there is")


def run_states(given: Any) -> list[str]:
    """Return the statuses that *given* names: one, or several."""
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, Iterable):
        raise ConfigurationError(f"status is a run's status or a list of them, not {shown(given)}")
    found = []
    for word in words:
        if word not in RUN_STATES:
            raise ConfigurationError(
                f"a run has no status {shown(word)}{did_you_mean(str(word), RUN_STATES)}"
            )
        found.append(str(word))
    return found


def moment_before(what: str, age: Any) -> dt.datetime:
    """Return the moment that *age* means: itself, or so long ago."""
    if isinstance(age, dt.datetime):
        check_moment(what, age)
        return age
    seconds = age.total_seconds() if isinstance(age, dt.timedelta) else age
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise ConfigurationError(
            f"{what} is a time, a timedelta or a number of seconds of at least 0, not {age!r}"
        )
    try:
        return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)
    except OverflowError:  # longer ago than the calendar reaches
        return dt.datetime.min.replace(tzinfo=dt.UTC)
