"""Where the boxes of a picture stand and how its arrows run: a layered layout.

The way of Sugiyama, Tagawa and Toda (1981), as Graphviz's `dot` has it: edges that close a cycle
are turned around, boxes get layers, long edges are cut at each layer, the order within layers is
chosen so that few edges cross, and then places are. The last step asks for the places that lie
nearest to those of the neighbours and keep their distance; pooling adjacent violators finds them.

Numbers are pixels; layers follow each other downward. Nothing here knows what is drawn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, TypeAlias

import attrs

__all__ = ["Box", "Drawing", "Line", "lay_out"]

#: Between boxes of a layer, between layers, and beside what stands for a long edge.
APART: Final = 28.0
BETWEEN: Final = 46.0
BESIDE: Final = 14.0

#: Parts that no line joins stand side by side up to this width, and then below each other.
SHELF: Final = 1_000.0

#: How far a line from a box to itself reaches.
LOOP: Final = 20.0

#: How often the order within layers, and the places, are looked at again.
SWEEPS: Final = 12
SETTLES: Final = 10

#: An edge keeps straight where it is long: how much its pieces pull, beside a plain edge's 1.
PULL: Final = 6.0

#: What ends at one box is spread by so much, and over so much of its width.
SPREAD: Final = 16.0
SHARE: Final = 0.6

Point: TypeAlias = tuple[float, float]


@attrs.frozen
class Box:
    """What is placed: its size."""

    width: float
    height: float


@attrs.frozen
class Line:
    """An edge between two boxes, by their numbers, with the size of its label.

    Attributes:
        source, target: Numbers of boxes; they may be the same.
        label: Width and height of what stands on it, None for nothing.
    """

    source: int
    target: int
    label: tuple[float, float] | None = None


@attrs.frozen
class Drawing:
    """Where everything is.

    Attributes:
        width, height: Size of the whole; everything lies within, from ``(0, 0)``.
        places: Centre of each box.
        ways: Points that each line goes through, from its source to its target. Between two
            points it goes down, or up where it was turned around; see `turned`.
        labels: Centre of each line's label, None where it has none.
        turned: Which lines run against the layers, or from a box to itself.
    """

    width: float
    height: float
    places: tuple[Point, ...]
    ways: tuple[tuple[Point, ...], ...]
    labels: tuple[Point | None, ...]
    turned: frozenset[int]


def lay_out(boxes: Sequence[Box], lines: Sequence[Line]) -> Drawing:
    """Return places for boxes and ways for lines; the same for the same input, always.

    Args:
        boxes: In an order that is kept where nothing speaks against it.
        lines: Between them.
    """
    whole = _laid_out(boxes, lines)
    if whole.width <= SHELF:
        return whole
    parts = _parts(len(boxes), lines)
    return whole if len(parts) == 1 else _shelved(boxes, lines, parts)


def _laid_out(boxes: Sequence[Box], lines: Sequence[Line]) -> Drawing:
    work = _Work(boxes, lines)
    work.layer()
    work.cut()
    work.arrange()
    work.place()
    return work.drawing()


def _parts(boxes: int, lines: Sequence[Line]) -> list[list[int]]:
    """Return the boxes that lines join, by number, each part in order and the parts, too."""
    joined: list[list[int]] = [[] for _ in range(boxes)]
    for line in lines:
        joined[line.source].append(line.target)
        joined[line.target].append(line.source)
    seen = [False] * boxes
    parts = []
    for first in range(boxes):
        if seen[first]:
            continue
        seen[first] = True
        part = [first]
        for box in part:  # which grows meanwhile
            for other in joined[box]:
                if not seen[other]:
                    seen[other] = True
                    part.append(other)
        parts.append(sorted(part))
    return parts


def _shelved(
    boxes: Sequence[Box], lines: Sequence[Line], parts: Sequence[Sequence[int]]
) -> Drawing:
    """Return parts laid out by themselves, side by side until a shelf is full."""
    part_of = {box: number for number, part in enumerate(parts) for box in part}
    inside: list[list[int]] = [[] for _ in parts]
    for number, line in enumerate(lines):
        inside[part_of[line.source]].append(number)
    places: list[Point] = [(0.0, 0.0)] * len(boxes)
    ways: list[tuple[Point, ...]] = [()] * len(lines)
    labels: list[Point | None] = [None] * len(lines)
    turned: set[int] = set()
    left = top = width = bottom = 0.0
    for part, own in zip(parts, inside, strict=True):
        new = {box: number for number, box in enumerate(part)}
        drawing = _laid_out(
            [boxes[box] for box in part],
            [Line(new[lines[n].source], new[lines[n].target], lines[n].label) for n in own],
        )
        if left and left + drawing.width > SHELF:
            left, top = 0.0, bottom + APART
        for box, (x, y) in zip(part, drawing.places, strict=True):
            places[box] = (x + left, y + top)
        for n, way, label in zip(own, drawing.ways, drawing.labels, strict=True):
            ways[n] = tuple((x + left, y + top) for x, y in way)
            labels[n] = None if label is None else (label[0] + left, label[1] + top)
        turned.update(own[n] for n in drawing.turned)
        width, bottom = max(width, left + drawing.width), max(bottom, top + drawing.height)
        left += drawing.width + APART
    return Drawing(width, bottom, tuple(places), tuple(ways), tuple(labels), frozenset(turned))


class _Work:
    """One layout on its way.

    Items are the boxes and, behind them by number, what stands for long edges and for labels. A
    link joins two items of layers that follow each other.
    """

    def __init__(self, boxes: Sequence[Box], lines: Sequence[Line]) -> None:
        self.lines = lines
        self.boxes = len(boxes)
        self.widths = [box.width for box in boxes]
        self.heights = [box.height for box in boxes]
        self.levels = [0] * len(boxes)
        self.above: list[list[int]] = [[] for _ in boxes]
        self.below: list[list[int]] = [[] for _ in boxes]
        self.chains: list[list[int]] = []  # by line: the items from its upper end to its lower one
        self.label_at: dict[int, int] = {}  # by line: the item of its label
        self.turned = _turned(len(boxes), lines)
        self.beside = _beside(lines)
        self.rows: list[list[int]] = []
        self.x: list[float] = []
        self.tops: list[float] = []
        self.bands: list[float] = []

    def _ends(self, number: int) -> tuple[int, int]:
        """Return the upper and the lower box of a line."""
        line = self.lines[number]
        turned = number in self.turned
        return (line.target, line.source) if turned else (line.source, line.target)

    # --- layers ----------------------------------------------------------------------------------

    def layer(self) -> None:
        """Give each box a layer: as high as it can stand, and first ones near what they lead to."""
        levels = self.levels
        follows: list[list[tuple[int, int]]] = [[] for _ in range(self.boxes)]
        waits = [0] * self.boxes
        for number, line in enumerate(self.lines):
            if line.source != line.target:
                upper, lower = self._ends(number)
                follows[upper].append((lower, 1 if line.label is None else 2))
                waits[lower] += 1
        ready = [box for box in range(self.boxes) if not waits[box]]
        order = []
        while ready:
            found = []
            for box in ready:
                order.append(box)
                for lower, length in follows[box]:
                    levels[lower] = max(levels[lower], levels[box] + length)
                    waits[lower] -= 1
                    if not waits[lower]:
                        found.append(lower)
            ready = found
        fed = {lower for lowers in follows for lower, _ in lowers}
        for box in reversed(order):  # what nothing leads to stands near what it leads to
            if box not in fed and follows[box]:
                levels[box] = min(levels[lower] - length for lower, length in follows[box])

    def cut(self) -> None:
        """Put an item into every layer that a line passes, and one for its label."""
        for number, line in enumerate(self.lines):
            if line.source == line.target:
                self.chains.append([line.source])
                continue
            upper, lower = self._ends(number)
            chain = [upper]
            first, last = self.levels[upper], self.levels[lower]
            middle = (first + last) // 2
            for level in range(first + 1, last):
                item = self._new_item(level)
                if line.label is not None and level == middle:
                    self.widths[item], self.heights[item] = line.label
                    self.label_at[number] = item
                chain.append(item)
            chain.append(lower)
            for one, other in pairwise(chain):
                self.below[one].append(other)
                self.above[other].append(one)
            self.chains.append(chain)

    def _new_item(self, level: int) -> int:
        self.widths.append(0.0)
        self.heights.append(0.0)
        self.levels.append(level)
        self.above.append([])
        self.below.append([])
        return len(self.widths) - 1

    # --- order -----------------------------------------------------------------------------------

    def arrange(self) -> None:
        """Choose the order within layers: by the medians of neighbours, down and up in turn."""
        self.rows = self._first_order()
        best, least = [list(row) for row in self.rows], self._crossings()
        for sweep in range(SWEEPS):
            if not least:
                break
            self._sweep(down=sweep % 2 == 0)
            self._swap()
            crossings = self._crossings()
            if crossings < least:
                best, least = [list(row) for row in self.rows], crossings
        self.rows = best

    def _first_order(self) -> list[list[int]]:
        """Return the layers as a walk from the first box on meets their items."""
        rows: list[list[int]] = [[] for _ in range(max(self.levels, default=-1) + 1)]
        seen: set[int] = set()
        for start in sorted(range(self.boxes), key=lambda box: (bool(self.above[box]), box)):
            stack = [start]
            while stack:
                item = stack.pop()
                if item not in seen:
                    seen.add(item)
                    rows[self.levels[item]].append(item)
                    stack.extend(reversed(self.below[item]))
        return rows

    def _sweep(self, *, down: bool) -> None:
        rows = self.rows if down else self.rows[::-1]
        for before, row in pairwise(rows):
            place = {item: number for number, item in enumerate(before)}
            neighbours = self.above if down else self.below
            wishes = []
            for number, item in enumerate(row):
                found = sorted(place[each] for each in neighbours[item] if each in place)
                # Who has no neighbour there stays where it is, and others go around it.
                wishes.append((_median(found) if found else None, number, item))
            moving = iter(sorted(each for each in wishes if each[0] is not None))
            row[:] = [item if wish is None else next(moving)[2] for wish, _, item in wishes]

    def _swap(self) -> None:
        """Swap neighbours of a layer wherever that saves crossings."""
        places = [0] * len(self.widths)
        for row in self.rows:
            for number, item in enumerate(row):
                places[item] = number
        for row in self.rows:
            above = {item: sorted(places[each] for each in self.above[item]) for item in row}
            below = {item: sorted(places[each] for each in self.below[item]) for item in row}
            for place in range(len(row) - 1):
                left, right = row[place], row[place + 1]
                now = _between(above[left], above[right]) + _between(below[left], below[right])
                if not now:
                    continue
                then = _between(above[right], above[left]) + _between(below[right], below[left])
                if then < now:
                    row[place], row[place + 1] = right, left
                    places[left], places[right] = place + 1, place

    def _crossings(self) -> int:
        total = 0
        for row, after in pairwise(self.rows):
            place = {item: number for number, item in enumerate(after)}
            ends: list[int] = []  # of the links so far, sorted
            for item in row:
                found = sorted(place[each] for each in self.below[item])
                for end in found:
                    total += len(ends) - bisect_left(ends, end + 1)
                for end in found:
                    ends.insert(bisect_left(ends, end), end)
        return total

    # --- places ----------------------------------------------------------------------------------

    def place(self) -> None:
        """Choose the places within the order: near those of neighbours, and apart."""
        self.x = [0.0] * len(self.widths)
        for row in self.rows:
            self._settle(row, [0.0] * len(row), [1.0] * len(row))
        for turn in range(SETTLES):
            rows = self.rows if turn % 2 == 0 else self.rows[::-1]
            for row in rows[1:] if turn < SETTLES - 2 else rows:
                wishes, weights = [], []
                for item in row:
                    sides = (self.above, self.below)
                    first = sides[turn % 2] if turn < SETTLES - 2 else None
                    wish, weight = self._wish(item, first)
                    wishes.append(wish)
                    weights.append(weight)
                self._settle(row, wishes, weights)

    def _wish(self, item: int, side: list[list[int]] | None) -> tuple[float, float]:
        """Return where an item would stand best for its neighbours, and how much that counts."""
        neighbours = side[item] if side is not None else self.above[item] + self.below[item]
        if not neighbours:
            return self.x[item], 0.1
        total = weight = 0.0
        for each in neighbours:
            pull = 1.0
            if item >= self.boxes or each >= self.boxes:
                pull = PULL if item >= self.boxes and each >= self.boxes else PULL / 3
            total += pull * self.x[each]
            weight += pull
        return total / weight, weight

    def _settle(self, row: list[int], wishes: list[float], weights: list[float]) -> None:
        """Place a layer as near to the wishes as its order and the distances allow.

        Without the distances before it, each item asks for a place in a rising sequence; where the
        wishes fall, they are pooled to their weighted mean (Ayer et al., 1955).
        """
        offsets = [0.0]
        for left, right in pairwise(row):
            offsets.append(offsets[-1] + self._distance(left, right))
        pools: list[list[float]] = []  # sum of weighted wishes, weight, how many
        for wish, weight, offset in zip(wishes, weights, offsets, strict=False):
            pools.append([(wish - offset) * weight, weight, 1])
            while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
                total, weight_, many = pools.pop()
                pools[-1][0] += total
                pools[-1][1] += weight_
                pools[-1][2] += many
        number = 0
        for total, weight_, many in pools:
            for _ in range(int(many)):
                self.x[row[number]] = total / weight_ + offsets[number]
                number += 1

    def _distance(self, left: int, right: int) -> float:
        gap = APART if left < self.boxes and right < self.boxes else BESIDE
        return (self.widths[left] + self.widths[right]) / 2 + gap + self.beside.get(left, 0.0)

    # --- what comes of it ------------------------------------------------------------------------

    def drawing(self) -> Drawing:
        """Return the places, from ``(0, 0)`` on, and the ways of the lines."""
        top = 0.0
        for row in self.rows:
            self.tops.append(top)
            self.bands.append(max((self.heights[item] for item in row), default=0.0))
            top += self.bands[-1] + BETWEEN
        items = [item for row in self.rows for item in row]
        left = min((self.x[each] - self.widths[each] / 2 for each in items), default=0.0)
        right = max(
            (self.x[each] + self.widths[each] / 2 + self.beside.get(each, 0.0) for each in items),
            default=0.0,
        )
        self.x = [x - left for x in self.x]
        height = top - BETWEEN if self.rows else 0.0
        outs, ins = self._ports()
        return Drawing(
            width=right - left,
            height=height,
            places=tuple((self.x[box], self._middle(box)) for box in range(self.boxes)),
            ways=tuple(self._way(number, outs, ins) for number in range(len(self.lines))),
            labels=tuple(self._label(number) for number in range(len(self.lines))),
            turned=frozenset(self.turned)
            | {n for n, line in enumerate(self.lines) if line.source == line.target},
        )

    def _middle(self, item: int) -> float:
        level = self.levels[item]
        return self.tops[level] + self.bands[level] / 2

    def _ports(self) -> tuple[dict[int, float], dict[int, float]]:
        """Return how far from the middle of its boxes each line begins, and ends."""
        found: tuple[dict[int, float], dict[int, float]] = ({}, {})
        for side, place in ((found[0], 0), (found[1], -1)):
            at: dict[int, list[int]] = {}
            for number, chain in enumerate(self.chains):
                if len(chain) > 1:
                    at.setdefault(chain[place], []).append(number)
            for box, numbers in at.items():
                nearest = 1 if place == 0 else -2
                numbers.sort(key=lambda n: (self.x[self.chains[n][nearest]], n))
                step = min(SPREAD, self.widths[box] * SHARE / max(1, len(numbers)))
                for rank, number in enumerate(numbers):
                    side[number] = (rank - (len(numbers) - 1) / 2) * step
        return found

    def _way(self, number: int, outs: dict[int, float], ins: dict[int, float]) -> tuple[Point, ...]:
        chain = self.chains[number]
        if len(chain) == 1:
            return self._loop(chain[0])
        upper, lower = chain[0], chain[-1]
        points = [(self.x[upper] + outs[number], self._middle(upper) + self.heights[upper] / 2)]
        for item in chain[1:-1]:
            level = self.levels[item]
            points.append((self.x[item], self.tops[level]))
            points.append((self.x[item], self.tops[level] + self.bands[level]))
        points.append((self.x[lower] + ins[number], self._middle(lower) - self.heights[lower] / 2))
        return tuple(reversed(points)) if number in self.turned else tuple(points)

    def _loop(self, box: int) -> tuple[Point, ...]:
        """Return the way of a line from a box to itself: out at its right side and back."""
        x, y = self.x[box] + self.widths[box] / 2, self._middle(box)
        rise = min(self.heights[box] / 4, 10.0)
        return ((x, y - rise), (x + LOOP, y), (x, y + rise))

    def _label(self, number: int) -> Point | None:
        item = self.label_at.get(number)
        if item is not None:
            return self.x[item], self._middle(item)
        line = self.lines[number]
        if line.label is None:
            return None
        box = line.source  # a loop's stands beside it
        return self.x[box] + self.widths[box] / 2 + LOOP + line.label[0] / 2, self._middle(box)


def _turned(boxes: int, lines: Sequence[Line]) -> set[int]:
    """Return the lines that close a cycle for a walk through the boxes in their order."""
    follows: list[list[tuple[int, int]]] = [[] for _ in range(boxes)]
    for number, line in enumerate(lines):
        if line.source != line.target:
            follows[line.source].append((line.target, number))
    fed = {line.target for line in lines if line.source != line.target}
    turned: set[int] = set()
    state = [0] * boxes  # 1 on the way that is being walked, 2 done
    for start in sorted(range(boxes), key=lambda box: (box in fed, box)):
        if state[start]:
            continue
        state[start] = 1
        stack = [(start, iter(follows[start]))]
        while stack:
            box, rest = stack[-1]
            for target, number in rest:
                if state[target] == 1:
                    turned.add(number)
                elif not state[target]:
                    state[target] = 1
                    stack.append((target, iter(follows[target])))
                    break
            else:
                state[box] = 2
                stack.pop()
    return turned


def _beside(lines: Sequence[Line]) -> dict[int, float]:
    """Return how much room boxes need at their right side for lines to themselves."""
    found: dict[int, float] = {}
    for line in lines:
        if line.source == line.target:
            width = LOOP + (0.0 if line.label is None else line.label[0])
            found[line.source] = max(width, found.get(line.source, 0.0))
    return found


def _median(sorted_places: Sequence[int]) -> float:
    middle, odd = divmod(len(sorted_places), 2)
    if odd:
        return float(sorted_places[middle])
    return (sorted_places[middle - 1] + sorted_places[middle]) / 2


def _between(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many pairs cross where *left*'s owner stands before *right*'s."""
    return sum(bisect_left(right, each) for each in left)
