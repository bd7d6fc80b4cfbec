"""Timing: interleaved trials, a collected heap before each, medians."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from statistics import median
from typing import TypeVar

__all__ = ["Trial", "interleaved", "timed", "timed_inside"]

T = TypeVar("T")

#: Runs once, preparing whatever must not be measured, and returns the measured seconds.
Trial = Callable[[], float]


def timed(body: Callable[[], object]) -> Trial:
    """Return a trial that measures the whole of `body`."""

    def trial() -> float:
        started = time.perf_counter()
        body()
        return time.perf_counter() - started

    return trial


def timed_inside(
    opened: Callable[[], AbstractContextManager[T]], body: Callable[[T], object]
) -> Trial:
    """Return a trial that measures `body`, but neither opening nor closing what it is given."""

    def trial() -> float:
        with opened() as resource:
            started = time.perf_counter()
            body(resource)
            return time.perf_counter() - started

    return trial


#: Short trials are repeated until this has passed, so that a busy moment does not decide.
ENOUGH = 2.0
MOST = 101

#: In a trial of so many seconds nothing counts that is paid once, so its first round is measured.
LONG = 5.0


def interleaved(
    trials: Mapping[str, Trial], repeats: int, pick: Callable[[list[float]], float] = median
) -> dict[str, float]:
    """Return `{name: median seconds}`.

    Rounds take turns, so a machine that slows down slows every contender. Each short trial runs
    once unmeasured first: imports, schema creation and the compiled plan are paid once by design.

    Args:
        trials: What to measure, by name.
        repeats: Rounds at least.
        pick: Chooses among the rounds of one trial.
    """
    first = {name: trial() for name, trial in trials.items()}
    counts = min(first.values()) > LONG
    seconds = {name: [taken] if counts else [] for name, taken in first.items()}
    began, rounds = time.perf_counter(), int(counts)
    while rounds < repeats or (rounds < MOST and time.perf_counter() - began < ENOUGH):
        for name, trial in trials.items():
            gc.collect()
            seconds[name].append(trial())
        rounds += 1
    return {name: pick(taken) for name, taken in seconds.items()}
