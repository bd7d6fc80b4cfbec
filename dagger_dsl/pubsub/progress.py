"""`Progress`: how far a subscription is in the order of all messages. Pure.

A position says that everything up to it is settled. Messages are handled out of order where several
are handled at a time, and some are given again later; both are exceptions with rows of their own,
so that the position goes on. What is to be written is planned first, and holds once it was written.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import attrs

from dagger_dsl.store.message_values import DEAD, DONE, RETRY, Delivered

__all__ = ["Progress", "Step"]


@attrs.frozen(eq=False)
class Step:
    """What has to be written for what was settled.

    Attributes:
        position: The new position.
        put: Rows to write.
        drop: Numbers whose rows are needed no more.
        drop_done: Whether there are rows of messages up to the position that are done.
    """

    position: int
    put: tuple[Delivered, ...]
    drop: tuple[int, ...]
    drop_done: bool
    _passed: frozenset[int]


class Progress:
    """Where one subscription stands.

    Args:
        position: Up to where everything is settled, or has a row.
        rows: What is said of other messages: ``{number: state}``.

    Attributes:
        position: The position, as it was written last.
        scanned: Up to where messages were looked at.
        skip: Messages after that which are settled already.
    """

    def __init__(self, position: int, rows: Mapping[int, str] | None = None) -> None:
        self.position = position
        self.scanned = position
        rows = rows or {}
        self.skip = {number for number in rows if number > position}
        self._open: deque[int] = deque()
        self._passed: set[int] = set()
        # Rows that go with their message: of those that are given again here, and of those that
        # were done before one in front of them.
        self._again: set[int] = set()
        # The latter in order, so that each commit looks only at those which its position passes.
        self._beyond = sorted(number for number, state in rows.items() if state == DONE)

    @property
    def retries(self) -> frozenset[int]:
        """Messages that are given again here."""
        return frozenset(self._again)

    @property
    def ahead(self) -> int:
        """How many messages were done before one in front of them, each with a row of its own."""
        return len(self._beyond)

    @property
    def has_open(self) -> bool:
        """Whether it has messages in hand that nobody has settled."""
        return bool(self._open)

    @property
    def lag(self) -> int:
        """By how much the position could go on without anything being settled."""
        return self._reach(frozenset()) - self.position

    def take(self, numbers: Iterable[int], scanned: int) -> None:
        """Hear that messages are given to the agent now, and up to where others are not for it."""
        self._open.extend(numbers)
        self.scanned = scanned

    def again(self, number: int) -> None:
        """Hear that a message is given again which failed before, or was given up."""
        self._again.add(number)

    def plan(self, settled: Sequence[Delivered]) -> Step:
        """Return what has to be written for what was settled; the last word on a message counts."""
        last = {each.number: each for each in settled}
        passed = frozenset(last) - self._again
        position = self._reach(passed)
        put, drop = [], []
        for number, each in last.items():
            if each.state != DONE:
                put.append(each)
            elif number in self._again:
                if number > position:
                    put.append(each)
                else:
                    drop.append(number)
            elif number > position:
                put.append(each)
        return Step(position, tuple(put), tuple(drop), self._count_up_to(position) > 0, passed)

    def wrote(self, step: Step) -> None:
        """Hear that a plan was carried out."""
        self._passed |= step._passed
        while self._open and self._open[0] in self._passed:
            self._passed.discard(self._open.popleft())
        self.position = step.position
        for each in step.put:
            self._again.discard(each.number)
            self._not_done(each.number)
            if each.state == RETRY:
                self._again.add(each.number)
            elif each.state == DONE:
                self._beyond.insert(bisect_left(self._beyond, each.number), each.number)
            else:
                assert each.state == DEAD
        self._again.difference_update(step.drop)
        del self._beyond[: self._count_up_to(step.position)]

    def refused(self, number: int) -> None:
        """Hear that a message that was planned as done is not, and has a row until it is."""
        self._not_done(number)
        self._again.add(number)

    def _count_up_to(self, position: int) -> int:
        """Return how many up to a position were done before one in front of them."""
        return bisect_right(self._beyond, position)

    def _not_done(self, number: int) -> None:
        place = bisect_left(self._beyond, number)
        if self._beyond[place : place + 1] == [number]:
            del self._beyond[place]

    def _reach(self, passed: frozenset[int]) -> int:
        """Return the position with these messages settled, too."""
        for number in self._open:
            if number not in passed and number not in self._passed:
                return max(self.position, number - 1)
        return max(self.position, self.scanned)
