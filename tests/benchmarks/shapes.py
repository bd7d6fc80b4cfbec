"""The graphs that are measured, as plain data both sides build from.

Nodes are listed so that each comes after what it depends on. The first three dependencies of a
node are bound to its parameters `a`, `b` and `c`; further ones, which only the end of a fan has,
order it and bind nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

__all__ = ["PARAMETERS", "SHAPES", "Shape", "chain", "fan", "layers"]

PARAMETERS = ("a", "b", "c")


@attrs.frozen
class Shape:
    """A graph.

    Args:
        name: What the table calls it.
        ids: One id per node, dependencies first.
        deps: For each node the positions in `ids` of what it depends on.
    """

    name: str
    ids: list[str]
    deps: list[list[int]]

    def bindings(self) -> list[tuple[tuple[str, str], ...]]:
        """Return for each node its `(parameter, id of the dependency)` pairs."""
        return [
            tuple((name, self.ids[dep]) for name, dep in zip(PARAMETERS, deps, strict=False))
            for deps in self.deps
        ]


def chain(n: int) -> Shape:
    """Return n nodes one after the other."""
    return _shape("chain", [[] if i == 0 else [i - 1] for i in range(n)])


def fan(n: int) -> Shape:
    """Return one node, n nodes that depend on it, one node that depends on all those."""
    return _shape("fan", [[], *([0] for _ in range(n)), list(range(1, n + 1))])


def layers(n: int, *, depth: int = 10, width: int = 3, seed: int = 7) -> Shape:
    """Return n nodes in `depth` layers, each on `width` random nodes of the layer before."""
    draw = random.Random(seed)
    size = n // depth
    deps: list[list[int]] = [[] for _ in range(size)]
    for layer in range(1, depth):
        before = range((layer - 1) * size, layer * size)
        deps += [draw.sample(before, width) for _ in range(size)]
    return _shape("layers", deps)


def _shape(name: str, deps: list[list[int]]) -> Shape:
    return Shape(name, [f"n{i}" for i in range(len(deps))], deps)


SHAPES: dict[str, Callable[[int], Shape]] = {"chain": chain, "fan": fan, "layers": layers}
