"""What every part of a conversion shares: the limits, a fault on its way up, and the two tables.

A table's rows come from the modules above: the fixed list from `_listed`, classes from `_known`,
which also plugs itself into `FINDERS`. Nothing here converts a value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, final

__all__ = [
    "DECODERS",
    "DEEP",
    "ENCODERS",
    "FINDERS",
    "MANY",
    "MAX_DEPTH",
    "MAX_VALUES",
    "SCALARS",
    "Decoder",
    "Encoder",
    "Pass",
    "Refused",
    "are_scalars",
    "cut",
    "default_name",
    "find_decoder",
    "find_encoder",
    "key_part",
    "loaded",
    "tag",
    "type_name",
]

#: How deep the plain form of a value may nest: a list or dict takes one level, a tagged container
#: (tuple, set, a class) two, a dict with other than text keys three.
MAX_DEPTH: Final = 200

#: How many values one stored value may be made of; what is shared counts each time it is met.
MAX_VALUES: Final = 30_000_000


class Refused(Exception):
    """A fault on its way up; each container that it passes adds its part of the path.

    Args:
        message: What it is, to follow the value's path.
        in_runs: The way out that there is for results of nodes, to follow that.
        elsewhere: The one for other values.
    """

    def __init__(self, message: str, in_runs: str = "", elsewhere: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.in_runs, self.elsewhere = in_runs, elsewhere
        self.parts: list[str] = []

    def text(self, path: str) -> str:
        parts = self.parts[::-1]
        if len(parts) > 12:
            parts = [*parts[:8], "...", *parts[-3:]]
        return path + "".join(parts) + self.message


class Pass:
    """What one conversion shares between its levels."""

    #: How many values may still follow.
    left = MAX_VALUES
    #: Whether a part without a stored form is replaced by its picture instead of refused.
    shown = False


# They turn a value (a tag's content) at a depth into its plain form (the value).
Encoder = Callable[[Any, int, Pass], Any]
Decoder = Callable[[Any, int, Pass], Any]

#: Encoders by the exact type of a value, decoders by tag. `_known` changes them under its lock;
#: reading them needs none.
ENCODERS: Final[dict[type, Encoder]] = {}
DECODERS: Final[dict[str, Decoder]] = {}

#: The types whose values JSON has, NaN and numbers beyond 64 bits aside.
SCALARS: Final = frozenset({str, int, float, bool, type(None)})

# Bound here, because 3.11 calls a method of an imported name more slowly: ``TABLE.get(kind)``
# would cost small containers a tenth.
find_encoder: Final = ENCODERS.get
find_decoder: Final = DECODERS.get
are_scalars: Final = SCALARS.issuperset

DEEP: Final = f": nested deeper than {MAX_DEPTH} levels, or containing itself; flatten the value"
MANY: Final = f": made of more than {MAX_VALUES:,} values; store it in a file of your own"


@final
class Finders:
    """What is asked for a row that a table does not have; plugged in by the module that knows."""

    __slots__ = ("decoder", "encoder", "refusal")

    #: Returns the encoder of a type, None when its values have no stored form.
    encoder: Callable[[type], Encoder | None]
    #: Returns the decoder of a tag, None when it is unknown.
    decoder: Callable[[str], Decoder | None]
    #: Returns why values of a type are refused and what to do, to follow the value's path.
    refusal: Callable[[type], Refused]


FINDERS: Final = Finders()


def tag(name: str, content: Any) -> dict[str, Any]:
    return {"$type": name, "$value": content}


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def key_part(key: Any) -> str:
    kind = type(key)
    shown = repr(key) if kind in SCALARS else f"<{kind.__qualname__}>"
    return f"[{cut(shown, 60)}]"


def default_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def type_name(cls: type) -> str:
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


def loaded(module: str, name: str) -> Any:
    """Return what a module calls *name*, None while nobody has imported the module."""
    return getattr(sys.modules.get(module), name, None)
