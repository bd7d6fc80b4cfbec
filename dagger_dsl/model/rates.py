"""`Rate`: how many calls may begin within a time."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any, Final

import attrs

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.policies import seconds, whole_number

__all__ = ["Rate", "as_rate"]

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_TEXT: Final = re.compile(r"([0-9]{1,9})\s*/\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)?\s*([smhd])")

#: Of so many calls the beginnings are kept, for each agent.
_MOST: Final = 100_000


@attrs.frozen(init=False)
class Rate:
    """At most *count* calls begin within any *per* seconds.

    Args:
        count: Calls, 100,000 at most.
        per: Seconds, or a timedelta.

    Raises:
        ConfigurationError: One of them cannot be.
    """

    count: int
    per: float

    def __init__(self, count: int, per: float | dt.timedelta = 1.0) -> None:
        number = whole_number(count, "Rate: count", most=_MOST)
        length = seconds(per, "Rate: per", zero=False)
        if length == math.inf:
            raise ConfigurationError("Rate: per is a finite number of seconds")
        self.__attrs_init__(number, length)

    def __str__(self) -> str:
        for name, length in _UNITS.items():
            if self.per == length:
                return f"{self.count}/{name}"
        return f"{self.count}/{self.per:g}s"


def as_rate(value: Any, what: str = "rate") -> Rate:
    """Return a rate: as it is, or from a text such as ``10/s``, ``100/m``, ``5/30s`` or ``1000/h``.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(value, Rate):
        return value
    found = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ConfigurationError(
            f"{what} is a Rate, such as Rate(10, per=1.0), or a text such as '10/s', '100/m' or "
            f"'5/30s' (s, m, h, d), not {shown(value)}"
        )
    count, length, unit = found.groups()
    try:
        return Rate(int(count), float(length or 1) * _UNITS[unit])
    except ConfigurationError as error:
        raise ConfigurationError(f"{what} {shown(value)}: {error}") from error
