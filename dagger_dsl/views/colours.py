"""`ON_PAGES`: the colours of states where nobody knows whether the page is light or dark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ON_PAGES"]

#: For each colour of a terminal one that has a contrast of 3.6 and more with white and with black:
#: enough for signs and bars, and as much as there can be for letters.
ON_PAGES: Final[Mapping[str, str]] = {
    "red": "#d9434d",
    "green": "#1f9254",
    "yellow": "#b07d10",
    "blue": "#2f86cf",
    "magenta": "#a85dc0",
    "cyan": "#2f86cf",
    "dim": "#7c8794",
}
