"""`MetricsCollector`: measurements that nodes take themselves, by name."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from dagger_dsl.errors import ConfigurationError, shown

__all__ = ["MetricsCollector"]


class MetricsCollector:
    """Collects measurements from any thread.

    Args:
        clock: Seconds since 1970.

    Attributes:
        metrics: By name, what was recorded, in order: dicts of ``value``, ``timestamp`` (seconds
            since 1970) and ``tags``.

    Raises:
        ConfigurationError: *clock* is no function.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        if not callable(clock):
            raise ConfigurationError(f"MetricsCollector: clock is a function, not {shown(clock)}")
        self.metrics: dict[str, list[dict[str, Any]]] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def record(self, name: str, value: float, tags: Mapping[str, Any] | None = None) -> None:
        """Note one measurement.

        Args:
            name: What was measured.
            value: A finite number.
            tags: What else there is to say of it, by name.

        Raises:
            ConfigurationError: One of these cannot be one.
        """
        number: Any = value  # whatever a node hands in
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a metric's name is a text, not {shown(name)}")
        if not isinstance(number, Real) or not -math.inf < value < math.inf:
            raise ConfigurationError(
                f"metric {shown(name)}: a value is a finite number, not {shown(value)}"
            )
        if tags is not None and not isinstance(tags, Mapping):
            raise ConfigurationError(
                f"metric {shown(name)}: tags are a mapping, such as {{'type': 'input'}}, not "
                f"{shown(tags)}"
            )
        entry = {"value": value, "timestamp": self._clock(), "tags": dict(tags or {})}
        with self._lock:
            self.metrics.setdefault(name, []).append(entry)

    def get_summary(self, name: str) -> dict[str, float]:
        """Return ``count``, ``mean``, ``min``, ``max`` and ``stdev`` of what was recorded.

        They are those of the module `statistics`, so ``stdev`` is the sample's; it is 0 for a
        single value, and everything is 0 where nothing was recorded. A ``mean`` or ``stdev`` that
        is too large for a float is infinite.

        Raises:
            ConfigurationError: *name* is no text.
        """
        if not isinstance(name, str):
            raise ConfigurationError(f"a metric's name is a text, not {shown(name)}")
        import statistics  # it loads several modules, which runs do not need

        with self._lock:
            values = [entry["value"] for entry in self.metrics.get(name, ())]
        return {
            "count": len(values),
            "mean": _within(statistics.mean, values) if values else 0,
            "min": min(values) if values else 0,
            "max": max(values) if values else 0,
            "stdev": _within(statistics.stdev, values) if len(values) > 1 else 0,
        }


def _within(measure: Callable[[list[Any]], float], values: list[Any]) -> float:
    """Return a measure of values; infinity, with their sign, where no float is that large."""
    try:
        return measure(values)
    except OverflowError:
        from fractions import Fraction  # nearly no measurement is that large

        is_mean = measure.__name__ == "mean"  # a deviation has no sign
        return -math.inf if is_mean and sum(map(Fraction, values)) < 0 else math.inf
