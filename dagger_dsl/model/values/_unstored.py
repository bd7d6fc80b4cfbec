"""The two values that stand outside of the codec: `MISSING` and what a `Secret` hides.

It refuses nothing by itself: that a `Secret` is never stored is said where a value is encoded.
"""

from __future__ import annotations

from typing import Any, Final, final

__all__ = ["MISSING", "Missing", "Secret"]


@final
class Missing:
    """The type of `MISSING`: no value was given, not even None."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()


@final
class Secret:
    """A value that is shown as ``***`` and never stored; a resumed run is given it again.

    Args:
        value: What `reveal` gives back.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def reveal(self) -> Any:
        """Return the hidden value."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return bool(self._value == other._value) if type(other) is Secret else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)
