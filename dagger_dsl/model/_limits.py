"""How much may be kept in memory: the limits, what goes first, and what a value takes about.

Nothing here holds a value: a `Ledger` knows keys and sizes, and whoever keeps the values drops what
it names.
"""

from __future__ import annotations

import enum
import itertools
import math
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from datetime import timedelta
from typing import Any, Final

import attrs

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.policies import as_enum, seconds

__all__ = ["CacheConfig", "EvictionPolicy", "Ledger", "estimate_size"]


class EvictionPolicy(enum.StrEnum):
    """What leaves memory first when there is no more room.

    LRU (the default) is what was not read or written for longest; FIFO what was written longest
    ago; LFU what was read and written least often, the oldest first.
    """

    LRU = "lru"
    FIFO = "fifo"
    LFU = "lfu"


def _entries(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(
            f"max_entries is a whole number of at least 1, or None, not {shown(value)}"
        )
    return value


def _megabytes(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigurationError(
            f"max_memory_mb is a number of more than 0, or None, not {shown(value)}"
        )
    return value


def _policy(value: Any) -> EvictionPolicy:
    return as_enum(EvictionPolicy, value, "eviction_policy")


def _ttl(value: float | timedelta | None) -> float | None:
    return None if value is None else seconds(value, "ttl", zero=False)


@attrs.frozen
class CacheConfig:
    """How much a cache keeps in memory; None is no limit.

    What was written last stays, even when it alone is more than the limit.

    Attributes:
        max_entries: How many values.
        max_memory_mb: How much they take, in units of 2**20 bytes. It is estimated: see
            `estimate_size`.
        eviction_policy: What goes first, an `EvictionPolicy` or its name.
        ttl: Seconds (or timedelta) after which a value goes, counted from its last write.

    Raises:
        ConfigurationError: A value is impossible.
    """

    max_entries: int | None = attrs.field(default=10_000, converter=_entries)
    max_memory_mb: float | None = attrs.field(default=256, converter=_megabytes)
    eviction_policy: EvictionPolicy = attrs.field(default=EvictionPolicy.LRU, converter=_policy)
    ttl: float | None = attrs.field(default=None, converter=_ttl)


class _Recency:
    """Keys in the order of their last write, or of their last use."""

    def __init__(self, *, uses_count: bool) -> None:
        self._uses_count = uses_count
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def add(self, key: Hashable) -> None:
        self._keys[key] = None
        self._keys.move_to_end(key)

    def use(self, key: Hashable) -> None:
        if self._uses_count:
            self._keys.move_to_end(key)

    def remove(self, key: Hashable) -> None:
        del self._keys[key]

    def first_but(self, key: Hashable) -> Hashable:
        return next(each for each in self._keys if each != key)


class _Frequency:
    """Keys by how often they were used, the oldest of each count first."""

    def __init__(self) -> None:
        self._counts: dict[Hashable, int] = {}
        self._keys: dict[int, OrderedDict[Hashable, None]] = {}

    def add(self, key: Hashable) -> None:
        if key in self._counts:
            self.use(key)
        else:
            self._place(key, 1)

    def use(self, key: Hashable) -> None:
        count = self._counts[key]
        self.remove(key)
        self._place(key, count + 1)

    def _place(self, key: Hashable, count: int) -> None:
        self._counts[key] = count
        self._keys.setdefault(count, OrderedDict())[key] = None

    def remove(self, key: Hashable) -> None:
        count = self._counts.pop(key)
        keys = self._keys[count]
        del keys[key]
        if not keys:
            del self._keys[count]

    def first_but(self, key: Hashable) -> Hashable:
        # There are few different counts: n of them need about n * n / 2 uses.
        for count in sorted(self._keys):
            for each in self._keys[count]:
                if each != key:
                    return each
        raise KeyError(key)


class Ledger:
    """Which keys are in memory, what they take, and which one goes first.

    It is not thread-safe: its owner has a lock.

    Args:
        config: The limits.
        clock: Seconds that never go back, for `CacheConfig.ttl`.
    """

    def __init__(self, config: CacheConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = math.inf if config.max_entries is None else config.max_entries
        self._most_bytes = (
            math.inf if config.max_memory_mb is None else config.max_memory_mb * 2**20
        )
        self._ttl = config.ttl
        self._clock = clock
        self._sizes: dict[Hashable, int] = {}
        self._total = 0
        self._written: dict[Hashable, float] = {}  # the oldest first; only where there is a ttl
        self._order: _Recency | _Frequency = (
            _Frequency()
            if config.eviction_policy is EvictionPolicy.LFU
            else _Recency(uses_count=config.eviction_policy is EvictionPolicy.LRU)
        )

    @property
    def counts_bytes(self) -> bool:
        """Whether sizes matter."""
        return self._most_bytes < math.inf

    def put(self, key: Hashable, size: int) -> list[Hashable]:
        """Note that *key* was written, and return the keys that have to go for it."""
        self._total += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self._order.add(key)
        if self._ttl is not None:
            self._written.pop(key, None)
            self._written[key] = self._clock()
        gone: list[Hashable] = []
        while len(self._sizes) > 1 and (
            len(self._sizes) > self._most or self._total > self._most_bytes
        ):
            gone.append(self._order.first_but(key))
            self.drop(gone[-1])
        return gone

    def use(self, key: Hashable) -> None:
        """Note that *key* was read."""
        self._order.use(key)

    def drop(self, key: Hashable) -> None:
        """Forget *key*, if it is there."""
        if key in self._sizes:
            self._total -= self._sizes.pop(key)
            self._order.remove(key)
            self._written.pop(key, None)

    def expire(self) -> list[Hashable]:
        """Forget the keys that were written too long ago, and return them."""
        if self._ttl is None:
            return []
        before = self._clock() - self._ttl
        gone = list(itertools.takewhile(lambda key: self._written[key] <= before, self._written))
        for key in gone:
            self.drop(key)
        return gone


#: How many parts of a value are looked at, and how many of one container.
_PARTS: Final = 500
_SAMPLE: Final = 32


def estimate_size(value: Any) -> int:
    """Return about how many bytes *value* takes in memory, parts included.

    It is cheap whatever the value is: of each container the first 32 parts are looked at and stand
    for the others, and 500 parts in all; what is deeper counts with its own size alone. So it is
    about right where the parts are alike, and may be wrong by any factor where the first ones are
    not like the rest. What several parts share counts once. Arrays count with their buffer.
    """
    total = 0.0
    seen: set[int] = set()
    waiting: deque[tuple[Any, float]] = deque([(value, 1.0)])
    for _ in range(_PARTS):
        if not waiting:
            return int(total)
        each, weight = waiting.popleft()
        if id(each) in seen:
            continue
        seen.add(id(each))
        total += weight * _own_size(each)
        parts, count = _parts(each)
        if parts:
            weight *= count / len(parts)
            waiting.extend((part, weight) for part in parts)
    return int(total + sum(weight * _own_size(each) for each, weight in waiting))


def _own_size(value: Any) -> int:
    try:
        size = getattr(value, "nbytes", None)
        return size if type(size) is int else sys.getsizeof(value, 64)
    except Exception:  # the value's own code
        return 64


def _parts(value: Any) -> tuple[list[Any], int]:
    """Return the first parts of *value*, and how many there are."""
    kind = type(value)
    try:
        if issubclass(kind, dict):
            pairs: Iterable[Any] = itertools.islice(dict.items(value), _SAMPLE)
            return list(itertools.chain.from_iterable(pairs)), 2 * dict.__len__(value)
        if issubclass(kind, (list, tuple, set, frozenset, deque)):
            return list(itertools.islice(value, _SAMPLE)), len(value)
        if kind.__module__ == "builtins":
            return [], 0
        held = object.__getattribute__(value, "__dict__")
    except (AttributeError, RuntimeError):  # no such attribute; changed by another thread
        return [], 0
    return [held], 1
