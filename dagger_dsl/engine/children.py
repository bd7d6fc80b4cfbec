"""The invocations of mapped nodes: which slots they have, and by which keys they are found.

What is made together has neighbouring slots and numbers, and one span stands for all of it. A key
is written when somebody asks for it: for a million items, a text and its entries in tables would
be most of what they cost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter

import attrs

from dagger_dsl.model.context import DEFAULT_KEY

__all__ = ["Children"]

# Longer numbers than any list has items.
_LONGEST = 18


@attrs.frozen
class _Span:
    """Invocations of one mapped invocation that were made together.

    Attributes:
        first: Slot of the first one.
        start: Its number.
        count: How many there are.
        prefix: What stands before the number in their keys.
    """

    first: int
    start: int
    count: int
    prefix: str


_start = attrgetter("start")


class Children:
    """Invocations of mapped ones by slot, by number and by key."""

    __slots__ = ("_firsts", "_of", "_spans")

    def __init__(self) -> None:
        self._firsts: list[int] = []  # first slots of all spans, which rise
        self._spans: list[_Span] = []
        self._of: dict[int, list[_Span]] = {}  # by mapped invocation, their numbers rise

    def __copy__(self) -> Children:
        twin = Children()
        twin._firsts, twin._spans = self._firsts.copy(), self._spans.copy()
        twin._of = {slot: spans.copy() for slot, spans in self._of.items()}
        return twin

    def add(self, slot: int, first: int, count: int) -> None:
        """Take *count* more invocations of a mapped one, from the slot *first* on."""
        prefix = self.prefix(slot)
        span = _Span(first, self.count(slot), count, prefix)
        self._of.setdefault(slot, []).append(span)
        self._spans.append(span)
        self._firsts.append(first)

    def count(self, slot: int) -> int:
        """Return how many invocations a mapped one has."""
        spans = self._of.get(slot)
        return 0 if spans is None else spans[-1].start + spans[-1].count

    def slots(self, slot: int, start: int, end: int) -> list[int]:
        """Return the slots of its invocations from number *start* up to *end*, as far as made."""
        found: list[int] = []
        spans = self._of.get(slot, [])
        # A generator may have been read one item at a time, and have as many spans.
        for place in range(max(0, bisect_right(spans, start, key=_start) - 1), len(spans)):
            span = spans[place]
            if span.start >= end:
                break
            low, high = max(start, span.start), min(end, span.start + span.count)
            shift = span.first - span.start
            found += range(shift + low, shift + high)
        return found

    def key(self, slot: int) -> str:
        """Return the key of an invocation, `DEFAULT_KEY` where it is the only one of its node."""
        place = bisect_right(self._firsts, slot) - 1
        if place >= 0:
            span = self._spans[place]
            number = slot - span.first
            if number < span.count:
                return f"{span.prefix}{span.start + number}"
        return DEFAULT_KEY

    def prefix(self, slot: int) -> str:
        """Return what the keys of an invocation's own invocations begin with."""
        key = self.key(slot)
        return "" if key == DEFAULT_KEY else f"{key}."

    def find(self, slot: int, key: str) -> int | None:
        """Return an invocation of a mapped node, on any level, by its key."""
        found: int | None = slot
        for part in key.split("."):
            if found is None or not part.isdecimal() or len(part) > _LONGEST:
                return None
            number = int(part)
            if str(number) != part:  # 007
                return None
            found = self._numbered(found, number)
        return found

    def _numbered(self, slot: int, number: int) -> int | None:
        spans = self._of.get(slot, [])
        place = bisect_right(spans, number, key=_start) - 1
        if place < 0 or number >= spans[place].start + spans[place].count:
            return None
        return spans[place].first + number - spans[place].start

    def ranges(self, slot: int) -> Iterator[range]:
        """Yield the slots of a mapped invocation's invocations that have none of their own."""
        for span in list(self._of.get(slot, ())):
            if span.first not in self._of:
                yield range(span.first, span.first + span.count)
            else:
                for child in range(span.first, span.first + span.count):
                    yield from self.ranges(child)

    def below(self, slot: int) -> Iterator[tuple[str, int]]:
        """Yield ``(key, slot)`` of a mapped node's invocations that have none of their own."""
        for span in list(self._of.get(slot, ())):  # it may grow meanwhile
            for number in range(span.count):
                child = span.first + number
                if child in self._of:
                    yield from self.below(child)
                else:
                    yield f"{span.prefix}{span.start + number}", child
