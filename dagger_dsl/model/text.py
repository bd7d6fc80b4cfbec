"""`printable`: the one function through which text from data goes on its way to a terminal.

Ids, messages and values come from files, databases and other people's programs. A terminal obeys
what is in them: an escape sequence can move the cursor, rename the window or colour a failure
green, and a bidirectional override can make one id look like another.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["first_line", "printable"]

#: CSI, OSC and the other string sequences (with their 8-bit forms), then two-character escapes.
_SEQUENCE: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    # What no terminator ends is no sequence: mis-decoded text has such signs, too.
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\x90\x98\x9d-\x9f]*+(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]?"
)

#: Every other control character but newline and tab, what changes the direction of writing, and
#: what no XML may hold.
_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)


def printable(text: object, *, lines: bool = False) -> str:
    """Return *text* without anything that a terminal would obey.

    Args:
        text: A text, or anything with a `str`.
        lines: Whether newlines and tabs stay; otherwise they become spaces.
    """
    shown = str(text).replace("\r\n", "\n")
    shown = _CONTROL.sub("", _SEQUENCE.sub("", shown))
    shown = shown.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be written
    return shown if lines else shown.replace("\n", " ").replace("\t", " ")


def first_line(text: object, limit: int = 200) -> str:
    """Return the first line of *text* that says something, cut to *limit* characters."""
    lines = (printable(line).strip() for line in str(text).splitlines())
    line = next((each for each in lines if each), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"
