"""The codec's value model: which values can be stored, and their tagged plain form.

JSON's own types stand for themselves. Everything else becomes ``{"$type": name, "$value": ...}``:
from the fixed list below, or from a class that was made known by `register_type` or, through an
action's annotations, by `allow_hints`. Decoding gives back an equal value of the same type, or
encoding refuses; so subclasses of listed types, which would lose their class, are refused too.
Nothing that is read from data is imported, evaluated or called: a tag is looked up in a table.

| tag | type | content |
|---|---|---|
| ``tuple``, ``set``, ``frozenset`` | the same | a list |
| ``map`` | dict whose keys are not all text, or include ``$type`` | a list of pairs |
| ``int`` | int beyond 64 bits | hexadecimal text |
| ``float`` | NaN and the infinities | ``nan``, ``inf``, ``-inf`` |
| ``complex`` | complex | two floats |
| ``str`` | str with lone surrogates | base64 of its UTF-8 with ``surrogatepass`` |
| ``bytes`` | bytes | base64 |
| ``datetime``, ``time`` | the same | ISO text, or ``[ISO text, fold, zone]`` |
| ``date`` | date | ISO text |
| ``timedelta`` | timedelta | ``[days, seconds, microseconds]`` |
| ``decimal``, ``uuid`` | Decimal, UUID | text |
| ``path`` | `pathlib.Path`: the path class of this system | text with forward slashes |
| ``pure_posix_path``, ``pure_windows_path`` | the same | text with forward slashes |

A class under its own name (``module:Class``) is an attrs class, a dataclass or a NamedTuple (its
fields by name), or an Enum (the member's name; a Flag's number). Fields are read and set as they
are: ``__init__``, converters and validators do not run when a value is read back.

Tables are looked up by the exact type, and the place of a fault is only worked out when there is
one, so the way most values take is short.
"""

from typing import Any

from dagger_dsl.model.values._core import MAX_DEPTH, MAX_VALUES
from dagger_dsl.model.values._decode import from_plain
from dagger_dsl.model.values._encode import to_plain, to_shown
from dagger_dsl.model.values._known import allow_hints, register_type, when_imported
from dagger_dsl.model.values._literal import Literal
from dagger_dsl.model.values._literal import _literal_of_plain as _literal_of_plain
from dagger_dsl.model.values._unstored import MISSING, Missing, Secret

__all__ = [
    "MAX_DEPTH",
    "MAX_VALUES",
    "MISSING",
    "Literal",
    "Missing",
    "Secret",
    "allow_hints",
    "from_plain",
    "register_type",
    "to_plain",
    "to_shown",
    "when_imported",
]

# Pickles and messages name this package, whichever of its modules a thing is written in. Functions
# that neither shows stay where the names of their annotations are.
_each: Any
for _each in (Literal, Missing, Secret, _literal_of_plain):
    _each.__module__ = __name__
del _each
