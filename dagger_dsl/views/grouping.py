"""Pictures of many shapes as pictures of few: what is alike, or follows each other, becomes one.

First shapes that do the same between the same neighbours, then chains, again and again; where that
is not enough, what stands in the same layers. A failed shape stays by itself as long as there are
few: it is what people look for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

import attrs

from dagger_dsl.engine.words import count
from dagger_dsl.views.picture import Arrow, Picture, Shape, nodes
from dagger_dsl.views.states import WORST

__all__ = ["MOST", "alike", "grouped"]

#: A picture of more shapes than this shows groups of them.
MOST: Final = 300

#: A picture of more lines than this shows fewer groups, which have fewer: nobody could follow them,
#: and a line costs a place in each layer that it passes.
LINES: Final = 1500
FEW: Final = 40

#: So often what is alike and what follows each other is joined: each makes the other possible.
ROUNDS: Final = 4

#: So many names of what is in a group are in its tooltip.
NAMED: Final = 12


def grouped(picture: Picture, most: int = MOST) -> Picture:
    """Return a picture of at most so many shapes; one that has no more is returned as it is.

    Args:
        picture: What to show.
        most: How many shapes there may be, at least 1.
    """
    if len(picture.shapes) <= most and len(picture.arrows) <= LINES:
        return picture
    work = _Groups(picture, most)
    for merge in (work.alike, work.chains) * ROUNDS:
        if not work.fits:
            merge()
    if not work.fits:
        work.layers(most)
    if not work.fits:
        work.layers(min(most, FEW))
    return work.picture()


def alike(picture: Picture, most: int, word: str = "node") -> Picture:
    """Return a picture in which shapes that do the same between the same neighbours are one.

    Args:
        picture: What to show.
        most: One of no more shapes than this is returned as it is.
        word: What a shape stands for.
    """
    if len(picture.shapes) <= most:
        return picture
    work = _Groups(picture, most, word)
    work.alike()
    return work.picture()


class _Groups:
    """Shapes on their way into groups; a group is the number of its first shape."""

    def __init__(self, picture: Picture, most: int, word: str = "node") -> None:
        self._picture = picture
        self._most = most
        self._word = word
        self._group = list(range(len(picture.shapes)))
        numbers = {shape.id: number for number, shape in enumerate(picture.shapes)}
        self._links = [
            (numbers[arrow.source], numbers[arrow.target])
            for arrow in picture.arrows
            if arrow.source != arrow.target
        ]
        failed = [n for n, shape in enumerate(picture.shapes) if shape.status == "failed"]
        self._chained: set[int] = set()
        self._level: dict[int, int] = {}  # of groups that are layers
        self._alone = set(failed) if len(failed) <= most // 3 else set()

    @property
    def fits(self) -> bool:
        """Whether there are few enough groups, and lines between them."""
        lines = {(self._group[one], self._group[other]) for one, other in self._links}
        return len(set(self._group)) <= self._most and len(lines) <= LINES

    def alike(self) -> None:
        """Join groups that do the same, come from the same groups and lead to the same ones."""
        above, below = self._neighbours()

        def key(group: int) -> Hashable:
            shape = self._picture.shapes[group]
            return shape.body, shape.kind, frozenset(above[group]), frozenset(below[group])

        self._join(key)

    def chains(self) -> None:
        """Join groups that follow each other, where nothing leads in or out in between.

        A group has only so many shapes: one box for all of a long chain would say nothing.
        """
        above, below = self._neighbours()
        sizes = Counter(self._group)
        limit = max(2, -(-len(self._group) // min(FEW, self._most)))
        first: dict[int, int] = {}
        for group in self._in_order(above, below):
            first[group] = group
            if len(above[group]) == 1:
                (before,) = above[group]
                alone = {group, before} & self._alone
                if len(below[before]) != 1 or before not in first or alone:
                    continue
                head = first[before]
                if sizes[head] + sizes[group] <= limit:
                    first[group] = head
                    sizes[head] += sizes[group]
                    self._chained.add(head)
        self._group = [first.get(group, group) for group in self._group]

    def layers(self, most: int) -> None:
        """Join what stands in the same layer, and layers that follow each other if need be."""
        above, below = self._neighbours()
        level: dict[int, int] = {}
        for group in self._in_order(above, below):
            level[group] = max((level.get(each, -1) + 1 for each in above[group]), default=0)
        layers = max(level.values()) + 1
        deep = -(-layers // max(1, most - len(self._alone)))
        self._join(lambda group: level[group] // deep)
        self._level = {group: level[group] // deep for group in dict.fromkeys(self._group)}

    def picture(self) -> Picture:
        """Return what the groups look like."""
        members: dict[int, list[Shape]] = {}
        for shape, group in zip(self._picture.shapes, self._group, strict=True):
            members.setdefault(group, []).append(shape)
        shapes = {
            group: _shape_of(found, group in self._chained) for group, found in members.items()
        }
        names = {
            shape.id: shapes[group].id
            for shape, group in zip(self._picture.shapes, self._group, strict=True)
        }
        arrows: dict[tuple[str, str, str], list[Arrow]] = {}
        for arrow in self._picture.arrows:
            source, target = names[arrow.source], names[arrow.target]
            if source != target or arrow.source == arrow.target:
                arrows.setdefault((source, target, arrow.label), []).append(arrow)
        told = f"{len(shapes)} {'box' if len(shapes) == 1 else 'boxes'}"
        if self._level:
            implied = self._implied()
            kept = {
                (source, target, label): found
                for (source, target, label), found in arrows.items()
                if label or (source, target) not in implied
            }
            if len(kept) < len(arrows):
                arrows, told = kept, f"{told}, without arrows that others imply"
        many = count(len(self._picture.shapes), self._word)
        before = "" if self._picture.subtitle == many else self._picture.subtitle
        if not re.search(rf"\b{many}\b", before):  # else it has been said
            before = " · ".join(filter(None, (before, many)))
        return attrs.evolve(
            self._picture,
            shapes=tuple(shapes.values()),
            arrows=tuple(
                Arrow(source, target, label, idle=all(each.idle for each in found))
                for (source, target, label), found in arrows.items()
            ),
            subtitle=f"{before} in {told}",
            inner={},
        )

    # --- inside ----------------------------------------------------------------------------------

    def _join(self, key: Callable[[int], Hashable]) -> None:
        first: dict[Hashable, int] = {}
        found: dict[int, int] = {}
        for group in dict.fromkeys(self._group):
            found[group] = group if group in self._alone else first.setdefault(key(group), group)
        self._group = [found[group] for group in self._group]

    def _implied(self) -> set[tuple[str, str]]:
        """Return the ways between layers that lead where a longer way does, too.

        Almost every layer leads to almost every later one: with all of these arrows nobody could
        follow any.
        """
        _, below = self._neighbours()
        ids = [shape.id for shape in self._picture.shapes]
        level = self._level
        reach: dict[int, set[int]] = {}
        implied: set[tuple[str, str]] = set()
        for group in sorted(below, key=lambda each: -level[each]):
            later = [each for each in below[group] if level[each] > level[group]]
            beyond: set[int] = set().union(*(reach[each] for each in later))
            reach[group] = beyond.union(later)
            implied.update((ids[group], ids[each]) for each in later if each in beyond)
        return implied

    def _neighbours(self) -> tuple[Mapping[int, set[int]], Mapping[int, set[int]]]:
        above: dict[int, set[int]] = {group: set() for group in self._group}
        below: dict[int, set[int]] = {group: set() for group in self._group}
        for source, target in self._links:
            one, other = self._group[source], self._group[target]
            if one != other:
                above[other].add(one)
                below[one].add(other)
        return above, below

    def _in_order(
        self, above: Mapping[int, set[int]], below: Mapping[int, set[int]]
    ) -> Sequence[int]:
        """Return the groups after those that lead to them; cycles are cut where they are met."""
        waits = {group: len(found) for group, found in above.items()}
        ready = [group for group, count in waits.items() if not count]
        left = dict.fromkeys(waits)
        order = []
        while left:
            if not ready:
                ready.append(next(iter(left)))
            group = ready.pop()
            if group not in left:
                continue
            del left[group]
            order.append(group)
            for each in sorted(below[group]):
                waits[each] -= 1
                if waits[each] <= 0 and each in left:
                    ready.append(each)
        return order


def _shape_of(members: Sequence[Shape], chained: bool) -> Shape:
    if len(members) == 1:
        return members[0]
    first, many = members[0], len(members)
    counts: Counter[str] = Counter()
    for each in members:
        counts.update(each.counts or ({each.status: 1} if each.status is not None else {}))
    same = {each.body for each in members}
    label = (
        f"{many:,} \N{MULTIPLICATION SIGN} {first.body}"
        if len(same) == 1 and not chained
        else f"{first.label} … {members[-1].label}"
    )
    status = next((state for state in WORST if counts.get(state)), None)
    done = f"{counts['completed']:,}/{sum(counts.values()):,}" if counts else ""
    many_of = nodes(many) if len(same) > 1 or chained else ""
    return Shape(
        id=first.id,
        label=label,
        detail=" · ".join(filter(None, (many_of if len(same) > 1 or not done else "", done))),
        kind="group",
        status=status,
        counts=dict(counts),
        tooltip=tuple(_named(members, counts)),
        body=first.body if len(same) == 1 else "",
    )


def _named(members: Sequence[Shape], counts: Mapping[str, int]) -> Iterable[str]:
    yield ", ".join(f"{many:,} {state}" for state, many in counts.items()) or f"{len(members):,}"
    yield from islice((each.label for each in members), NAMED)
    if len(members) > NAMED:
        yield f"and {len(members) - NAMED:,} more"
