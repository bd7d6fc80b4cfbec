"""Where document 002 lies, and its code blocks."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs

__all__ = ["PLACE", "Block", "blocks", "document"]

#: The variable of the environment that names the folder with the documents, in place of the usual.
PLACE = "DAGGER_DSL_SEEDS"

_ROOT = Path(__file__).parents[3]


@attrs.frozen
class Block:
    """One code block.

    Attributes:
        number: In the document, from 1.
        section: The heading above it.
        place: Among the blocks of its section, from 1.
        code: Its text, the package's name replaced.
    """

    number: int
    section: str
    place: int
    code: str


def _folders() -> Iterator[Path]:
    """Yield where the documents may lie, likeliest first."""
    named = os.environ.get(PLACE)
    if named:
        yield Path(named)
        return
    for root in (_ROOT, _main_checkout()):
        if root is not None:
            yield root.parent / "shared" / "seeds"


def _main_checkout() -> Path | None:
    """Return the checkout that a worktree belongs to; None where git knows of none."""
    asked = ["git", "-C", str(_ROOT), "rev-parse", "--path-format=absolute", "--git-common-dir"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(answer.stdout.strip()).parent


@cache
def document() -> Path | None:
    """Return the document's file, None where its folder is absent."""
    for folder in _folders():
        for file in sorted(folder.glob("002_*.txt")):
            return file
    return None


@cache
def blocks(file: Path) -> tuple[Block, ...]:
    """Return all Python blocks of the document, in order."""
    found: list[Block] = []
    places: Counter[str] = Counter()
    section = ""
    lines: list[str] | None = None
    for line in file.read_text(encoding="utf-8").splitlines():
        heading = re.fullmatch(r"#{2,4} (.+)", line)
        if lines is None and heading is not None:
            section = heading[1]
        elif lines is None and line == "```python":
            lines = []
        elif lines is not None and line == "```":
            places[section] += 1
            code = re.sub(r"\bfast_dag\b", "dagger_dsl", "\n".join(lines) + "\n")
            found.append(Block(len(found) + 1, section, places[section], code))
            lines = None
        elif lines is not None:
            lines.append(line)
    return tuple(found)
