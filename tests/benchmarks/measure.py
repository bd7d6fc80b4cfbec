"""Timing: interleaved trials, a collected heap before each, medians; bounds that go with machines.

A test of a time asks for a *ratio*: to something written by hand (:func:`least`), or to the work
that a bound was set beside (:func:`within`). What disturbs a machine only adds time, so the least
of several turns is what counts, and turns end as soon as the bound holds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from statistics import median
from typing import TypeVar

__all__ = ["Trial", "interleaved", "least", "timed", "timed_inside", "within"]

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


def least(
    trials: Mapping[str, Trial], enough: Callable[[Mapping[str, float]], bool], turns: int = 10
) -> dict[str, float]:
    """Return the least seconds of each trial; turns end as soon as it is enough."""
    taken = {name: trial() for name, trial in trials.items()}
    while turns > 1 and not enough(taken):
        taken = {name: min(taken[name], trial()) for name, trial in trials.items()}
        turns -= 1
    return taken


#: Seconds of :func:`yardstick` on the machine that bounds were set on, with some to spare.
YARDSTICK = 0.004


def yardstick() -> float:
    """Return the seconds of some work in plain Python: objects, a table, arithmetic."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        table: dict[str, int] = {}
        total = 0
        for number in range(20_000):
            table[str(number)] = total
            total += number % 7
        best = min(best, time.perf_counter() - started)
    return best


def within(trial: Trial, seconds: float, turns: int = 10) -> tuple[float, float]:
    """Return the least seconds of a trial, and how many it may take on this machine.

    Args:
        trial: What is measured.
        seconds: The bound, on the machine it was set on; a slower one has more, in proportion.
        turns: Turns at most, of the trial and the yardstick.
    """

    def allowed(taken: Mapping[str, float]) -> float:
        return seconds * max(1.0, taken["yardstick"] / YARDSTICK)

    taken = least(
        {"yardstick": yardstick, "trial": trial},
        lambda taken: taken["trial"] <= allowed(taken),
        turns,
    )
    return taken["trial"], allowed(taken)
