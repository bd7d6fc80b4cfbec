"""Wide rows and long chains as blocks: every shape stays, and the picture fits on a page.

What stands between the same neighbours, such as the forty parts of a fan, would be a row that is
wider than any page; here it becomes a grid in a frame, which the arrows lead to. A long chain is
broken into lines, like a text. Many short chains between the same neighbours are a grid of lines.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Final

import attrs

from dagger_dsl.views.picture import Arrow, Picture, Shape, nodes

__all__ = ["LONG", "WIDE", "arranged"]

#: So many shapes between the same neighbours, or following each other, become a block.
WIDE: Final = 9
LONG: Final = 12


def arranged(picture: Picture) -> Picture:
    """Return a picture whose wide rows and long chains are shapes with members.

    Their kinds are ``grid`` and ``chain``, and arrows lead to and from them. A picture that has
    none is returned as it is.
    """
    if len(picture.shapes) < WIDE:
        return picture
    work = _Blocks(picture)
    work.chains()
    work.grids()
    return work.picture()


class _Blocks:
    """Shapes on their way into blocks; a block has the id of its first member."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._shapes = {shape.id: shape for shape in picture.shapes}
        self._block = {shape.id: shape.id for shape in picture.shapes}  # of each shape of before
        self._loops = {arrow.source for arrow in picture.arrows if arrow.source == arrow.target}
        self._idle = {(each.source, each.target) for each in picture.arrows if each.idle}
        #: By id: the neighbours, with what is written on the arrows to and from them.
        self._above: dict[str, dict[str, tuple[str, ...]]] = {each: {} for each in self._shapes}
        self._below: dict[str, dict[str, tuple[str, ...]]] = {each: {} for each in self._shapes}
        for source, target, label in sorted((a.source, a.target, a.label) for a in picture.arrows):
            if source != target:
                labels = (*self._below[source].get(target, ()), label)
                self._above[target][source] = self._below[source][target] = labels

    def chains(self) -> None:
        """Make a shape of each chain that is long, or one of many between the same neighbours."""
        found = [*self._chains()]
        alike: dict[Hashable, int] = {}
        for chain in found:
            key = len(chain), self._key(chain)
            alike[key] = alike.get(key, 0) + 1
        for chain in found:
            if len(chain) >= LONG or alike[len(chain), self._key(chain)] >= WIDE:
                self._make("chain", chain, f"{nodes(len(chain))} that follow each other")

    def grids(self) -> None:
        """Make a shape of those that stand between the same neighbours, where they are many."""
        alike: dict[Hashable, list[str]] = {}
        for each, shape in self._shapes.items():
            if shape.kind != "start" and each not in self._loops:
                alike.setdefault(self._key([each]), []).append(each)
        for found in alike.values():
            if len(found) >= WIDE:
                about = f"{len(found):,} that stand between the same neighbours"
                self._make("grid", found, about)

    def picture(self) -> Picture:
        """Return the picture with its blocks."""
        if len(self._shapes) == len(self._picture.shapes):
            return self._picture
        arrows: dict[tuple[str, str, str], list[Arrow]] = {}
        for arrow in self._picture.arrows:
            source, target = self._name(arrow.source), self._name(arrow.target)
            if source != target or arrow.source == arrow.target:
                arrows.setdefault((source, target, arrow.label), []).append(arrow)
        return attrs.evolve(
            self._picture,
            shapes=tuple(self._shapes.values()),
            arrows=tuple(
                Arrow(*way, idle=all(each.idle for each in found)) for way, found in arrows.items()
            ),
        )

    # --- inside ----------------------------------------------------------------------------------

    def _chains(self) -> Iterable[list[str]]:
        """Yield the longest ways on which nothing leads in or out, or has a label."""
        after = {}
        for each, below in self._below.items():
            if len(below) == 1:
                ((target, labels),) = below.items()
                alone = len(self._above[target]) == 1 and labels == ("",)
                if alone and not {each, target} & self._loops and self._can(each, target):
                    after[each] = target
        inside = set(after.values())
        for first in self._below:
            if first in after and first not in inside:
                chain = [first]
                while chain[-1] in after:
                    chain.append(after[chain[-1]])
                if first in self._below[chain[-1]]:  # no arrow leads from a block to itself
                    chain.pop()
                yield chain

    def _can(self, *ids: str) -> bool:
        return all(self._shapes[each].kind != "start" for each in ids)

    def _key(self, chain: Sequence[str]) -> Hashable:
        above, below = self._above[chain[0]], self._below[chain[-1]]
        return frozenset(above.items()), frozenset(below.items())

    def _make(self, kind: str, ids: Sequence[str], about: str) -> None:
        first, members = ids[0], [self._shapes[each] for each in ids]
        above, below = self._above[first], self._below[ids[-1]]
        for each in ids[1:]:
            del self._shapes[each]
            self._block[each] = first
        self._shapes[first] = Shape(
            first,
            "",
            kind=kind,
            members=tuple(members),
            unreached=frozenset(one for way, one in pairwise(ids) if (way, one) in self._idle),
            tooltip=(about,),
        )
        for each in ids:
            del self._above[each], self._below[each]
        self._above[first], self._below[first] = above, below
        for there, back in ((above, self._below), (below, self._above)):
            for each, labels in there.items():
                for gone in ids:
                    back[each].pop(gone, None)
                back[each][first] = labels

    def _name(self, each: str) -> str:
        while self._block[each] != each:
            each = self._block[each]
        return each
