"""How states look, in pictures, tables, pages and DOT: their sign, their styles, their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

__all__ = ["COLOURS", "GLYPHS", "LOOKS", "STATES", "STYLES", "WORST", "Look"]


@attrs.frozen
class Look:
    """How one state looks.

    Attributes:
        glyph: A sign beside its name, so that nothing is said by colour alone.
        style: A style of rich's for its name.
        rank: What stands for many is in the state of the lowest rank that any of them is in.
        fill: A colour of Graphviz's for a node; empty for a state that only runs are in.
    """

    glyph: str
    style: str
    rank: int
    fill: str


#: By the name of a state, in the order in which they are listed. Nodes and runs share the names.
LOOKS: Final[Mapping[str, Look]] = {
    "completed": Look("✓", "green", 7, "lightgreen"),
    "failed": Look("✕", "bold red", 0, "lightcoral"),
    "running": Look("▸", "yellow", 2, "khaki"),
    "waiting": Look("…", "cyan", 3, "lightblue"),
    "paused": Look("‖", "cyan", 4, "lightblue"),
    "skipped": Look("\N{EN DASH}", "dim", 8, "lightgrey"),
    "cancelled": Look("⊘", "magenta", 5, "plum"),
    "timed_out": Look("✕", "bold red", 1, ""),
    "pending": Look("○", "", 6, "white"),
}

STATES: Final = tuple(LOOKS)
WORST: Final = tuple(sorted(LOOKS, key=lambda state: LOOKS[state].rank))
GLYPHS: Final[Mapping[str, str]] = {state: look.glyph for state, look in LOOKS.items()}
STYLES: Final[Mapping[str, str]] = {state: look.style for state, look in LOOKS.items()}
COLOURS: Final[Mapping[str, str]] = {state: look.fill for state, look in LOOKS.items() if look.fill}
