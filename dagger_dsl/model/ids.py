"""Ids that nobody has to hand out: of runs and tasks."""

from __future__ import annotations

import functools
import os
import time
from typing import Final

__all__ = ["new_id", "new_ids"]

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]
#: A letter for each byte: all of them are equally likely, as 256 is a multiple of 32.
_LETTERS: Final = (_ALPHABET * 8).encode()
_RANDOM: Final = 16


def new_id() -> str:
    """Return a new ULID: 26 characters that sort by the time they were made."""
    return _moment(int(time.time() * 1000)) + _letters(1)


def new_ids(count: int) -> list[str]:
    """Return new ULIDs of one moment, in the order in which they sort."""
    start, letters = _moment(int(time.time() * 1000)), _letters(count)
    places = range(0, len(letters), _RANDOM)
    return sorted([start + letters[place : place + _RANDOM] for place in places])


@functools.lru_cache(maxsize=1)
def _moment(number: int) -> str:
    """Return the ten letters of so many milliseconds."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in (40, 30, 20, 10, 0)])


def _letters(count: int) -> str:
    """Return the random letters of so many ids."""
    return os.urandom(_RANDOM * count).translate(_LETTERS).decode()
