"""Plain YAML scalars as values: the core schema of YAML 1.2, and what YAML 1.1 would have read.

Nothing here constructs anything but text, numbers, booleans and null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

__all__ = ["CORE_TAGS", "looks_like_another_type", "plain_scalar", "tagged_scalar"]

#: Longest number that is converted; Python itself refuses decimals beyond 4,300 digits.
LONGEST_NUMBER = 1_000

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS: Final = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})

#: Only these first characters can start a plain scalar that is no text.
_FIRST = frozenset("0123456789+-.~ntfNTF")

# What YAML 1.1 reads as something else than text: https://yaml.org/type/
_YAML_1_1 = re.compile(
    r"""
      [-+]?0b[01_]+ | [-+]?0x[0-9a-fA-F_]+ | [-+]?0o?[0-7_]+ | [-+]?[0-9][0-9_]*
    | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?
    | [-+]?(?:[0-9][0-9_]*)?\.[0-9_]*(?:[eE][-+]?[0-9]+)? | [-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    | [-+]?\.(?:inf|Inf|INF) | \.(?:nan|NaN|NAN)
    | y | Y | yes | Yes | YES | n | N | no | No | NO | true | True | TRUE | false | False | FALSE
    | on | On | ON | off | Off | OFF | ~ | null | Null | NULL | << | =
    """,
    re.VERBOSE,
)
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?", re.DOTALL)


def plain_scalar(text: str) -> Any:
    """Return the value of a plain scalar under the core schema of YAML 1.2.

    Raises:
        ValueError: It is a number that is too long or too large.
    """
    if text and text[0] not in _FIRST:
        return text
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    number = _number(text)
    return text if number is None else number


def _number(text: str) -> int | float | None:
    if _INFINITY.fullmatch(text):
        return -math.inf if text[0] == "-" else math.inf
    if text in _NAN:
        return math.nan
    if _FLOAT.fullmatch(text) is None and _HEX.fullmatch(text) is None:
        return int(_short(text)[2:], 8) if _OCTAL.fullmatch(text) else None
    _short(text)
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    value = float(text)
    if math.isinf(value):
        raise ValueError("the number is too large; put it in quotes to keep it as text")
    return value


def _short(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(
            f"a number of {len(text)} characters is too long; put it in quotes to keep it as text"
        )
    return text


def _null(text: str) -> None:
    if text not in _NULLS:
        raise ValueError(f"{text[:60]!r} is not null")


def _boolean(text: str) -> bool:
    if text not in _BOOLS:
        raise ValueError(f"{text[:60]!r} is not true or false")
    return _BOOLS[text]


def _integer(text: str) -> int:
    number = _number(text)
    if not isinstance(number, int):
        raise ValueError(f"{text[:60]!r} is not a whole number")
    return number


def _float(text: str) -> float:
    number = _number(text)
    if number is None:
        raise ValueError(f"{text[:60]!r} is not a number")
    return float(number)


_TAGGED: Final[dict[str, Callable[[str], Any]]] = {
    "tag:yaml.org,2002:str": str,
    "tag:yaml.org,2002:null": _null,
    "tag:yaml.org,2002:bool": _boolean,
    "tag:yaml.org,2002:int": _integer,
    "tag:yaml.org,2002:float": _float,
    "!": str,
}

#: The tags that may be written; all others are refused.
CORE_TAGS: Final = {
    "scalar": frozenset(_TAGGED),
    "list": frozenset({"tag:yaml.org,2002:seq", "!"}),
    "map": frozenset({"tag:yaml.org,2002:map", "!"}),
}


def tagged_scalar(tag: str, text: str) -> Any:
    """Return the value of a scalar that carries one of the core *tag*s.

    Raises:
        ValueError: The text is no such value.
    """
    return _TAGGED[tag](text)


def looks_like_another_type(text: str) -> bool:
    """Whether a plain *text* is a number, boolean, null, date or merge key to some YAML parser."""
    return (
        text in _NULLS
        or _YAML_1_1.fullmatch(text) is not None
        or _FLOAT.fullmatch(text) is not None
        or _TIMESTAMP.fullmatch(text) is not None
    )
