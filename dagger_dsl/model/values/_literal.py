"""`Literal`: a value of the codec that is frozen, for the graph to hold and compare.

It keeps the plain form, never the value, and refuses what has none.
"""

from __future__ import annotations

from typing import Any, final

from dagger_dsl.errors import DecodingError
from dagger_dsl.model.values._decode import from_plain
from dagger_dsl.model.values._encode import to_plain

__all__ = ["Literal"]


@final
class Literal:
    """A value of the codec, frozen: equal and hashable by its canonical encoding.

    Two literals are equal when their values have equal types throughout and print alike: 1, 1.0
    and True differ, so do 0.0 and -0.0, or Decimal('1.0') and Decimal('1.00'); NaN equals NaN, and
    the order of a dict's keys does not count.

    Args:
        value: Copied on entry; later changes to it are not seen.

    Raises:
        EncodingError: It is no value of the codec.
    """

    __slots__ = ("_key", "_plain")

    def __init__(self, value: Any) -> None:
        self._plain = to_plain(value)
        self._key: Any = None

    @classmethod
    def of_plain(cls, plain: Any) -> Literal:
        """Return the literal whose tagged plain form is *plain*.

        Raises:
            DecodingError: It is not such a form.
        """
        return cls(from_plain(plain))

    @property
    def value(self) -> Any:
        """A fresh value, equal to the one that was given."""
        return from_plain(self._plain)

    @property
    def plain(self) -> Any:
        """The tagged plain form; not to be changed."""
        return self._plain

    def _canonical(self) -> Any:
        if self._key is None:
            self._key = _frozen(self._plain)
        return self._key

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Literal):
            return NotImplemented
        return bool(self._canonical() == other._canonical())

    def __hash__(self) -> int:
        return hash(self._canonical())

    def __reduce__(self) -> tuple[Any, ...]:
        return _literal_of_plain, (self._plain,)

    def __repr__(self) -> str:
        try:
            return f"Literal({self.value!r})"
        except DecodingError:
            return f"Literal.of_plain({self._plain!r})"


def _literal_of_plain(plain: Any) -> Literal:
    """Rebuild a pickled literal; its classes may be made known after it was loaded."""
    literal = Literal(None)
    literal._plain = plain
    return literal


def _frozen(plain: Any) -> Any:
    """Return a hashable that tells plain forms apart, 1 from True and 1.0 included."""
    kind = type(plain)
    if kind is list:
        return ("list", *map(_frozen, plain))
    if kind is dict:
        if plain.get("$type") == "map":
            pairs = plain["$value"]
            return ("map", frozenset((_frozen(key), _frozen(each)) for key, each in pairs))
        return ("dict", frozenset((key, _frozen(each)) for key, each in plain.items()))
    if kind is float and plain == 0.0:
        return ("float", str(plain))
    return (kind.__name__, plain)
