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

from __future__ import annotations

import binascii
import datetime as dt
import enum
import math
import re
import struct
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar, final

from dagger_dsl.errors import DecodingError, EncodingError, RegistryError

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

#: How deep the plain form of a value may nest: a list or dict takes one level, a tagged container
#: (tuple, set, a class) two, a dict with other than text keys three.
MAX_DEPTH: Final = 200

#: How many values one stored value may be made of; what is shared counts each time it is met.
MAX_VALUES: Final = 30_000_000

_C = TypeVar("_C", bound=type)


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


# --- one conversion -----------------------------------------------------------------------------


class _Refused(Exception):
    """A fault on its way up; each container that it passes adds its part of the path."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.parts: list[str] = []

    def text(self, path: str) -> str:
        parts = self.parts[::-1]
        if len(parts) > 12:
            parts = [*parts[:8], "...", *parts[-3:]]
        return path + "".join(parts) + self.message


class _Pass:
    """What one conversion shares between its levels."""

    #: How many values may still follow.
    left = MAX_VALUES
    #: Whether a part without a stored form is replaced by its picture instead of refused.
    shown = False


# They turn a value (a tag's content) at a depth into its plain form (the value).
_Encoder = Callable[[Any, int, _Pass], Any]
_Decoder = Callable[[Any, int, _Pass], Any]

_LOW: Final = -(2**63)
_HIGH: Final = 2**63
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_DEEP: Final = f": nested deeper than {MAX_DEPTH} levels, or containing itself; flatten the value"
_MANY: Final = f": made of more than {MAX_VALUES:,} values; store it in a file of your own"


def to_plain(value: Any, path: str = "value") -> Any:
    """Return the tagged plain form of *value*: JSON types only, always fresh containers.

    Args:
        value: Any value of the codec.
        path: What to call it in an error.

    Raises:
        EncodingError: A part of it has no stored form; the message says where and what to do.
    """
    kind = type(value)
    if (
        (kind is str and value.isascii())
        or (kind is int and _LOW <= value < _HIGH)
        or kind is bool
        or value is None
    ):
        return value
    encode = _ENCODERS.get(kind, _plain)
    try:
        return encode(value, 0, _Pass())
    except _Refused as refused:
        raise EncodingError(refused.text(path)) from refused.__cause__
    except RecursionError:
        raise EncodingError(path + _DEEP) from None
    except RuntimeError as error:
        # "dictionary changed size during iteration"
        raise EncodingError(
            f"{path} was changed by another thread while it was read: {error}; "
            "return a value that nobody else writes to"
        ) from error


def to_shown(value: Any) -> Any:
    """Return a plain form of *value* for people to look at; it never fails.

    A `Secret` becomes ``***``, and a part without a stored form ``{"$repr": ...}``.
    """
    try:
        run = _Pass()
        run.shown = True
        return _plain(value, 0, run)
    except (_Refused, RuntimeError):
        return _picture(value)


def from_plain(plain: Any, path: str = "value") -> Any:
    """Return the value whose tagged plain form is *plain*; always a fresh one.

    Raises:
        DecodingError: A tag is unknown, its content malformed, or the nesting too deep.
    """
    if type(plain) in _SCALARS:
        return plain
    try:
        return _value(plain, 0, _Pass())
    except _Refused as refused:
        raise DecodingError(refused.text(path)) from refused.__cause__
    except RecursionError:
        raise DecodingError(path + _DEEP) from None


def _plain(value: Any, depth: int, run: _Pass) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() or _is_utf8(value) else _surrogates(value)
    if kind is bool or value is None:
        return value
    if kind is int:
        return value if _LOW <= value < _HIGH else _tag("int", hex(value))
    if kind is float:
        return value if math.isfinite(value) else _tag("float", repr(value))
    encode = _ENCODERS.get(kind) or _learn(kind)
    if run.shown:
        return _plain_or_picture(encode, value, depth, run)
    if encode is None:
        raise _Refused(_no_stored_form(kind))
    if depth > MAX_DEPTH:  # a scalar may stand at the last level; containers look for themselves
        raise _Refused(_DEEP)
    return encode(value, depth, run)


def _plain_or_picture(encode: _Encoder | None, value: Any, depth: int, run: _Pass) -> Any:
    if encode is None or depth > MAX_DEPTH:
        return _picture(value)
    try:
        return encode(value, depth, run)
    except _Refused:
        return _picture(value)


def _picture(value: Any) -> Any:
    if type(value) is Secret:
        return "***"
    try:
        text = repr(value)
    except Exception as error:  # the user's __repr__; recursion among others
        text = f"<{type(value).__qualname__}, whose repr() raised {type(error).__name__}>"
    return {"$repr": _plain(_cut(text, 200), 0, _Pass())}


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _tag(name: str, content: Any) -> dict[str, Any]:
    return {"$type": name, "$value": content}


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _surrogates(text: str) -> Any:
    return _tag("str", _base64(text.encode("utf-8", "surrogatepass")))


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


# --- containers to their plain form -------------------------------------------------------------


def _list(value: Any, depth: int, run: _Pass) -> list[Any]:
    run.left -= len(value)
    if run.left < 0:
        raise _Refused(_MANY)
    if depth >= MAX_DEPTH:
        raise _Refused(_DEEP)
    if len(value) > 16:  # below, looking at each costs less
        kinds = set(map(type, value))
        if len(kinds) == 1 and _needs_no_tag(kinds.pop(), value):
            return list(value)
    depth += 1
    out: list[Any] = []
    append = out.append
    try:
        for each in value:
            kind = type(each)
            if (
                (kind is str and each.isascii())
                or (kind is int and _LOW <= each < _HIGH)
                or (kind is float and each - each == 0.0)  # not so for NaN and the infinities
                or kind is bool
                or each is None
            ):
                append(each)
            else:
                append(_plain(each, depth, run))
    except _Refused as refused:
        refused.parts.append(f"[{len(out)}]")
        raise
    return out


def _needs_no_tag(kind: type, values: Any) -> bool:
    """Return whether *values*, all of one *kind*, surely stand for themselves."""
    if kind is int:
        try:
            struct.pack(f"{len(values)}q", *values)
        except struct.error:
            return False
        return True
    if kind is str:
        return all(map(str.isascii, values))
    if kind is float:
        return math.isfinite(sum(values))
    return kind is bool or kind is type(None)


def _dict(value: Any, depth: int, run: _Pass) -> dict[str, Any]:
    run.left -= len(value)
    if run.left < 0:
        raise _Refused(_MANY)
    if depth >= MAX_DEPTH:
        raise _Refused(_DEEP)
    try:
        names = "".join(value)
    except TypeError:
        return _map(value, depth, run)
    if "$type" in value or not (names.isascii() or _is_utf8(names)):
        return _map(value, depth, run)
    depth += 1
    out: dict[str, Any] = {}
    key: Any = None
    try:
        for key, each in value.items():
            if type(key) is not str:
                raise _Refused(f" has a key that{_no_stored_form(type(key))}")
            kind = type(each)
            if (
                (kind is str and each.isascii())
                or (kind is int and _LOW <= each < _HIGH)
                or (kind is float and each - each == 0.0)  # not so for NaN and the infinities
                or kind is bool
                or each is None
            ):
                out[key] = each
            else:
                out[key] = _plain(each, depth, run)
    except _Refused as refused:
        if type(key) is str:
            refused.parts.append(_key_part(key))
        raise
    return out


def _map(value: Any, depth: int, run: _Pass) -> dict[str, Any]:
    depth += 3
    if depth > MAX_DEPTH:
        raise _Refused(_DEEP)
    pairs = []
    key: Any = None
    place = ""
    try:
        for key, each in value.items():
            place = f" key {_key_part(key)}"
            name = _plain(key, depth, run)
            place = _key_part(key)
            pairs.append([name, _plain(each, depth, run)])
    except _Refused as refused:
        refused.parts.append(place)
        raise
    return _tag("map", pairs)


def _key_part(key: Any) -> str:
    kind = type(key)
    shown = repr(key) if kind in _SCALARS else f"<{kind.__qualname__}>"
    return f"[{_cut(shown, 60)}]"


def _tagged_list(name: str) -> _Encoder:
    def encode(value: Any, depth: int, run: _Pass) -> dict[str, Any]:
        return _tag(name, _list(value, depth + 1, run))

    return encode


def _tagged_set(name: str) -> _Encoder:
    def encode(value: Any, depth: int, run: _Pass) -> dict[str, Any]:
        try:
            members = _list(value, depth + 1, run)
        except _Refused as refused:
            if refused.parts:
                refused.parts[-1] = " member"  # sets have no order, so a number says nothing
            raise
        # Equal sets give equal bytes, whatever their hash order.
        kinds = set(map(type, members))
        members.sort(key=None if kinds == {str} or kinds == {int} else repr)
        return _tag(name, members)

    return encode


# --- plain forms to their values ----------------------------------------------------------------


def _value(plain: Any, depth: int, run: _Pass) -> Any:
    kind = type(plain)
    if kind in _SCALARS:
        return plain
    if kind is dict:
        return _tagged(plain, depth, run) if "$type" in plain else _of_dict(plain, depth, run)
    if kind is list:
        return _of_list(plain, depth, run)
    raise _Refused(f" is of type {_type_name(kind)}, which JSON does not have")


def _of_list(plain: Any, depth: int, run: _Pass) -> list[Any]:
    if type(plain) is not list:
        raise _Refused(f": expected a list, found {_type_name(type(plain))}")
    run.left -= len(plain)
    if run.left < 0:
        raise _Refused(_MANY)
    if depth >= MAX_DEPTH:
        raise _Refused(_DEEP)
    if _SCALARS.issuperset(map(type, plain)):
        return plain.copy()
    depth += 1
    out: list[Any] = []
    append = out.append
    try:
        for each in plain:
            append(each if type(each) in _SCALARS else _value(each, depth, run))
    except _Refused as refused:
        refused.parts.append(f"[{len(out)}]")
        raise
    return out


def _of_dict(plain: dict[Any, Any], depth: int, run: _Pass) -> dict[Any, Any]:
    run.left -= len(plain)
    if run.left < 0:
        raise _Refused(_MANY)
    if depth >= MAX_DEPTH:
        raise _Refused(_DEEP)
    if _SCALARS.issuperset(map(type, plain.values())):
        return plain.copy()
    depth += 1
    out = {}
    key: Any = None
    try:
        for key, each in plain.items():
            out[key] = each if type(each) in _SCALARS else _value(each, depth, run)
    except _Refused as refused:
        refused.parts.append(_key_part(key))
        raise
    return out


def _tagged(plain: dict[Any, Any], depth: int, run: _Pass) -> Any:
    name = plain["$type"]
    if type(name) is not str or len(plain) != 2 or "$value" not in plain:
        raise _Refused(': a tagged value is written {"$type": name, "$value": content}')
    # One level more than other containers: tags of scalars stand where scalars may stand.
    if depth > MAX_DEPTH:
        raise _Refused(_DEEP)
    decode = _DECODERS.get(name) or _learn_name(name)
    if decode is None:
        raise _Refused(
            f": this process does not know the stored type {_cut(repr(name), 100)}; import the "
            "module that defines it, and name the class in an action's annotations or give it to "
            "register_type(), before reading"
        )
    try:
        return decode(plain["$value"], depth + 1, run)
    except (_Refused, RecursionError):
        raise
    except Exception as error:  # whatever a constructor says about bad content, users' own included
        raise _Refused(
            f": the stored {_cut(name, 100)} is malformed: {_cut(str(error) or repr(error), 200)}"
        ) from error


def _tuple_of(content: Any, depth: int, run: _Pass) -> tuple[Any, ...]:
    return tuple(_of_list(content, depth, run))


def _set_of(kind: type) -> _Decoder:
    def decode(content: Any, depth: int, run: _Pass) -> Any:
        members = kind(_of_list(content, depth, run))
        if len(members) != len(content):
            raise ValueError("a member occurs twice")
        return members

    return decode


def _map_of(content: Any, depth: int, run: _Pass) -> dict[Any, Any]:
    pairs = _of_list(content, depth, run)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _text_of(content: Any) -> str:
    if type(content) is not str:
        raise ValueError(f"expected a text, found {_type_name(type(content))}")
    return content


def _int_of(content: Any) -> int:
    if type(content) is not int:
        raise ValueError(f"expected a whole number, found {_type_name(type(content))}")
    return content


# --- scalars ------------------------------------------------------------------------------------


def _scalar(name: str, content_of: Callable[[Any], Any]) -> _Encoder:
    return lambda value, _depth, _run: _tag(name, content_of(value))


def _from_text(convert: Callable[[str], Any]) -> _Decoder:
    return lambda content, _depth, _run: convert(_text_of(content))


def _float_of(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError("expected nan, inf or -inf")
    return float(text)


def _bytes_of(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)


def _complex_of(content: Any, _depth: int, run: _Pass) -> complex:
    real, imag = (_value(each, 0, run) for each in content)
    if type(real) is not float or type(imag) is not float:
        raise ValueError("expected two floats")
    return complex(real, imag)


def _moment(value: Any) -> Any:
    """Return the content of a datetime or time: ISO text where that says everything."""
    zone = value.tzinfo
    if value.fold == 0 and (
        zone is None or (type(zone) is dt.timezone and _zone_name(zone) is None)
    ):
        return value.isoformat()
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _zone_content(zone)]


def _moment_of(kind: Any) -> _Decoder:
    def decode(content: Any, depth: int, run: _Pass) -> Any:
        if type(content) is not list:
            return kind.fromisoformat(_text_of(content))
        text, fold, zone = content
        moment = kind.fromisoformat(_text_of(text))
        if moment.tzinfo is not None:
            raise ValueError("the zone is given twice")
        return moment.replace(tzinfo=_zone_of(zone), fold=_int_of(fold))

    return decode


def _zone_name(zone: dt.timezone) -> str | None:
    """Return the name that *zone* was given, None when it has the one it makes itself."""
    name = zone.tzname(None)
    return None if name == dt.timezone(zone.utcoffset(None)).tzname(None) else name


def _zone_content(zone: dt.tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is dt.timezone:
        name = _zone_name(zone)
        return [
            zone.utcoffset(None) // dt.timedelta(microseconds=1),
            name and _plain(name, 0, _Pass()),
        ]
    key = getattr(zone, "key", None) if type(zone) is _loaded("zoneinfo", "ZoneInfo") else None
    if type(key) is not str or not _ZONE_KEY.fullmatch(key):
        raise _Refused(
            f" has a time zone of type {_type_name(type(zone))}, which has no stored form; "
            "use datetime.timezone or zoneinfo.ZoneInfo(key)"
        )
    return key


_ZONE_KEY: Final = re.compile(r"[A-Za-z0-9_+-]{1,40}(?:/[A-Za-z0-9_+-]{1,40}){0,3}")


def _zone_of(content: Any) -> dt.tzinfo | None:
    if content is None:
        return None
    if type(content) is list:
        micros, name = content
        offset = dt.timedelta(microseconds=_int_of(micros))
        if name is None:
            return dt.timezone(offset)
        return dt.timezone(offset, _text_of(_value(name, 0, _Pass())))
    key = _text_of(content)
    if not _ZONE_KEY.fullmatch(key):
        raise ValueError(f"{_cut(repr(key), 60)} is not the name of a time zone")
    import zoneinfo

    return zoneinfo.ZoneInfo(key)


def _timedelta_of(content: Any, _depth: int, _run: _Pass) -> dt.timedelta:
    days, seconds, microseconds = map(_int_of, content)
    return dt.timedelta(days, seconds, microseconds)


def _decimal_of(text: str) -> Any:
    import decimal

    return decimal.Decimal(text)


def _uuid_of(text: str) -> Any:
    import uuid

    return uuid.UUID(text)


def _path_encoder(name: str) -> _Encoder:
    return lambda value, depth, run: _tag(name, _plain(value.as_posix(), depth + 1, run))


def _path_of(name: str) -> _Decoder:
    def decode(content: Any, depth: int, run: _Pass) -> Any:
        import pathlib

        return getattr(pathlib, name)(_text_of(_value(content, 0, run)))

    return decode


_ENCODERS: Final[dict[type, _Encoder]] = {
    list: _list,
    dict: _dict,
    tuple: _tagged_list("tuple"),
    set: _tagged_set("set"),
    frozenset: _tagged_set("frozenset"),
    complex: lambda value, depth, run: _tag(
        "complex", [_plain(value.real, depth + 2, run), _plain(value.imag, depth + 2, run)]
    ),
    bytes: _scalar("bytes", _base64),
    dt.datetime: _scalar("datetime", _moment),
    dt.time: _scalar("time", _moment),
    dt.date: _scalar("date", dt.date.isoformat),
    dt.timedelta: _scalar(
        "timedelta", lambda value: [value.days, value.seconds, value.microseconds]
    ),
}

_DECODERS: Final[dict[str, _Decoder]] = {
    "tuple": _tuple_of,
    "set": _set_of(set),
    "frozenset": _set_of(frozenset),
    "map": _map_of,
    "int": _from_text(lambda text: int(text, 16)),
    "float": _from_text(_float_of),
    "complex": _complex_of,
    "str": _from_text(lambda text: _bytes_of(text).decode("utf-8", "surrogatepass")),
    "bytes": _from_text(_bytes_of),
    "datetime": _moment_of(dt.datetime),
    "time": _moment_of(dt.time),
    "date": _from_text(dt.date.fromisoformat),
    "timedelta": _timedelta_of,
    "decimal": _from_text(_decimal_of),
    "uuid": _from_text(_uuid_of),
    "path": _path_of("Path"),
    "pure_posix_path": _path_of("PurePosixPath"),
    "pure_windows_path": _path_of("PureWindowsPath"),
}

_FIXED_NAMES: Final = frozenset(_DECODERS)

# Listed types whose modules we do not import: a value of one says that its module is there.
_LISTED_ELSEWHERE: Final = (
    ("decimal", "Decimal", _scalar("decimal", str)),
    ("uuid", "UUID", _scalar("uuid", str)),
    ("pathlib", "PosixPath", _path_encoder("path")),
    ("pathlib", "WindowsPath", _path_encoder("path")),
    ("pathlib", "PurePosixPath", _path_encoder("pure_posix_path")),
    ("pathlib", "PureWindowsPath", _path_encoder("pure_windows_path")),
)


def _loaded(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


# --- classes that are known ---------------------------------------------------------------------

_LOCK: Final = threading.RLock()  # held by whoever changes the tables; reading needs no lock
_NAMES: Final[dict[str, type]] = {}  # stored name -> the class that has it now
_PENDING: Final[list[type]] = []  # known classes whose field types have not been walked yet
_WALKED: Final[set[type]] = set()
_PROVIDERS: Final[dict[str, Callable[[], None]]] = {}


def register_type(
    cls: _C,
    *,
    name: str | None = None,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
    pickle: bool = False,
) -> _C:
    """Make values of *cls* storable; also usable as a class decorator.

    Registering again replaces; a class that was defined again, as in a notebook, takes the place of
    its older version.

    Args:
        cls: Exactly this class; subclasses need their own registration.
        name: What stored values call it, ``module:Class`` by default. Give one to keep old values
            readable when the class moves or the module is run as a script.
        encode: Turns an instance into any value of the codec. Without it, *cls* is an attrs class,
            a dataclass, a NamedTuple or an Enum, and its fields are stored.
        decode: Makes an equal instance from what *encode* gave. It sees data from the store, which
            somebody else may have written: it should check it.
        pickle: Store instances with `pickle`. Reading them back runs whatever code the pickle
            says: never open a store that others can write to.

    Returns:
        *cls*.

    Raises:
        RegistryError: *cls* needs both functions, is a listed type, or the name belongs to another
            class.
    """
    if not isinstance(cls, type):
        raise RegistryError(f"register_type() takes a class, not {cls!r}")
    shown = _type_name(cls)
    stored = _default_name(cls) if name is None else name
    if not isinstance(stored, str) or not stored or stored in _FIXED_NAMES:
        raise RegistryError(f"{stored!r} cannot name the stored form of {shown}; give another name")
    if (encode is None) != (decode is None) or (pickle and encode is not None):
        raise RegistryError(
            f"register_type({shown}) takes encode= and decode= together, or pickle="
        )
    if cls in _SCALARS or _is_listed(cls) or cls is Secret:
        raise RegistryError(f"{shown} has its own rule in the codec; it cannot be registered")
    hooks: tuple[_Encoder, _Decoder] | None
    if pickle:
        hooks = _pickle_hooks(cls, stored)
    elif encode is not None and decode is not None:
        hooks = _user_hooks(cls, stored, encode, decode)
    else:
        hooks = _class_hooks(cls, stored)
        if hooks is None:
            raise RegistryError(
                f"{shown} is no attrs class, dataclass, NamedTuple or Enum (or it extends a "
                "built-in type); give register_type() encode= and decode="
            )
    _install(cls, stored, hooks)
    return cls


def allow_hints(hints: Mapping[str, Any]) -> None:
    """Make the classes that *hints* name storable, and those of their fields.

    Args:
        hints: Evaluated annotations by name, as `typing.get_type_hints` gives them. Unions,
            generics, aliases and TypedDicts are looked into; names that were not evaluated and
            classes without fields are passed over.
    """
    for hint in hints.values():
        for cls in _classes_in(hint):
            _admit(cls)


def when_imported(module: str, load: Callable[[], None]) -> None:
    """Call *load*, which registers types, once a type of *module* turns up and it is imported."""
    with _LOCK:
        _PROVIDERS[module] = load


def _default_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _type_name(cls: type) -> str:
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"


def _is_listed(cls: type) -> bool:
    return (cls in _ENCODERS and cls.__module__ in ("builtins", "datetime")) or any(
        cls is _loaded(module, attribute) for module, attribute, _ in _LISTED_ELSEWHERE
    )


def _install(cls: type, name: str, hooks: tuple[_Encoder, _Decoder]) -> None:
    with _LOCK:
        older = _NAMES.get(name)
        if older is not None and older is not cls:
            if _default_name(older) != _default_name(cls):
                raise RegistryError(
                    f"the name {name!r} belongs to {_type_name(older)} already; "
                    f"give {_type_name(cls)} another one: register_type(cls, name=...)"
                )
            _ENCODERS.pop(older, None)
        _NAMES[name] = cls
        _ENCODERS[cls], _DECODERS[name] = hooks
        if cls not in _WALKED:
            _PENDING.append(cls)


def _admit(cls: type) -> None:
    """Make *cls* known if it has fields; classes of its fields follow when they are needed."""
    if cls in _ENCODERS or cls in _SCALARS:
        return
    name = _default_name(cls)
    hooks = _class_hooks(cls, name)
    if hooks is not None:
        _install(cls, name, hooks)
    elif hasattr(cls, "__total__") and cls not in _WALKED:  # a TypedDict is stored as a dict
        with _LOCK:
            _PENDING.append(cls)


def _learn(kind: type) -> _Encoder | None:
    """Look for the encoder of a type that the table does not have yet."""
    for module, attribute, encode in _LISTED_ELSEWHERE:
        if kind is _loaded(module, attribute):
            _ENCODERS[kind] = encode
            return encode
    with _LOCK:
        _load_provider(str(kind.__module__))
        _walk_pending()
    return _ENCODERS.get(kind)


def _learn_name(name: str) -> _Decoder | None:
    with _LOCK:
        _load_provider(name)
        _walk_pending()
    return _DECODERS.get(name)


def _load_provider(name: str) -> None:
    module = re.split(r"[.:]", name, maxsplit=1)[0]
    if module in _PROVIDERS and module in sys.modules:
        try:
            _PROVIDERS[module]()
        except (
            Exception
        ) as error:  # another thread may be half through importing it: try again then
            raise _Refused(f": the codec for {module} cannot be loaded: {error!r}") from error
        del _PROVIDERS[module]


def _walk_pending() -> None:
    while _PENDING:
        cls = _PENDING.pop()
        if cls not in _WALKED:
            _WALKED.add(cls)
            for hint in _field_hints(cls):
                for found in _classes_in(hint):
                    _admit(found)


def _field_hints(cls: type) -> Iterator[Any]:
    """Yield the annotations of *cls* and its bases; each that cannot be evaluated is left out."""
    import inspect

    for owner in cls.__mro__:
        scope = vars(sys.modules.get(owner.__module__, typing))
        for name, hint in inspect.get_annotations(owner).items():
            holder = type("holder", (), {"__annotations__": {name: hint}})
            try:
                yield typing.get_type_hints(holder, scope, {owner.__name__: owner})[name]
            except Exception:  # a name that only type checkers see; its class is just not admitted
                continue


def _classes_in(hint: Any) -> Iterator[type]:
    """Yield the classes that an evaluated annotation names."""
    waiting, seen = [hint], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        origin = typing.get_origin(each)
        if origin is typing.Literal:
            yield from {type(member) for member in typing.get_args(each)}
        elif origin is typing.Annotated:
            waiting.append(each.__origin__)
        elif origin is not None:
            waiting += [origin, *typing.get_args(each)]
        elif isinstance(each, type):
            yield each
        elif isinstance(each, list):  # the parameters of a Callable
            waiting += each
        elif isinstance(each, TypeVar):
            waiting += [each.__bound__, *each.__constraints__]
        else:
            # NewType, and the aliases of the `type` statement
            waiting.append(getattr(each, "__supertype__", None) or getattr(each, "__value__", None))


def _no_stored_form(kind: type) -> str:
    """Return why values of *kind* are refused and what to do, to follow the value's path."""
    if kind is Secret:
        return (
            " is a Secret, which is never stored; keep it out of results, and give it again when "
            "the run is resumed: resume(inputs=...)"
        )
    name = kind.__qualname__
    text = f" is of type {_type_name(kind)}, which "
    current = _NAMES.get(_default_name(kind))
    if current is not None and current is not kind:
        return text + "was defined again since; make the value anew, from the newer class"
    bases = kind.__mro__[1:-1]
    base = next((base for base in bases if base in _SCALARS or base in _ENCODERS), None)
    if _class_hooks(kind, "") is not None:
        text += (
            f"is not known yet; register it with register_type({name}) or name it in the action's "
            "annotations"
        )
    elif base is not None:
        text += (
            f"has no stored form: it would come back as {base.__qualname__}; convert it to "
            f"{base.__qualname__}, or use register_type({name}, encode=..., decode=...)"
        )
    else:
        text += (
            "has no stored form; return plain data, or use "
            f"register_type({name}, encode=..., decode=...)"
        )
    return text + ", or mark the action @action(store=False)"


# --- how known classes are written and read -----------------------------------------------------


def _user_hooks(
    cls: type, name: str, to_data: Callable[[Any], Any], from_data: Callable[[Any], Any]
) -> tuple[_Encoder, _Decoder]:
    def encode(value: Any, depth: int, run: _Pass) -> Any:
        try:
            data = to_data(value)
        except EncodingError as error:
            raise _Refused(f" is of type {_type_name(cls)}: {error}") from error
        except Exception as error:  # the user's function
            raise _Refused(
                f" is of type {_type_name(cls)}, whose encode= raised {_cut(repr(error), 200)}"
            ) from error
        return _tag(name, _plain(data, depth + 1, run))

    def decode(content: Any, depth: int, run: _Pass) -> Any:
        value = from_data(_value(content, depth, run))
        if type(value) is not cls:
            raise TypeError(f"its decode= returned {_type_name(type(value))}")
        return value

    return encode, decode


def _pickle_hooks(cls: type, name: str) -> tuple[_Encoder, _Decoder]:
    def to_data(value: Any) -> bytes:
        import io
        import pickle

        class Pickler(pickle.Pickler):
            def reducer_override(self, part: Any) -> Any:
                if type(part) is Secret:
                    raise EncodingError("it contains a Secret, which is never stored")
                return NotImplemented

        out = io.BytesIO()
        Pickler(out, protocol=5).dump(value)
        return out.getvalue()

    def from_data(data: Any) -> Any:
        import pickle

        return pickle.loads(data)

    return _user_hooks(cls, name, to_data, from_data)


def _class_hooks(cls: type, name: str) -> tuple[_Encoder, _Decoder] | None:
    """Return how a class whose fields can be listed is written and read; None for other classes."""
    if isinstance(cls, enum.EnumMeta):
        return _enum_hooks(cls, name)
    if issubclass(cls, tuple):
        return _tuple_hooks(cls, name) if _is_named_tuple(cls) else None
    if any(_made_by_c(base) for base in cls.__mro__[:-1]):
        return None
    if hasattr(cls, "__attrs_attrs__"):
        return _field_hooks(cls, name, _attrs_fields(cls))
    if hasattr(cls, "__dataclass_fields__"):
        return _field_hooks(cls, name, _dataclass_fields(cls))
    return None


def _made_by_c(base: type) -> bool:
    """Return whether instances hold state that is in no field, as dicts and exceptions do."""
    new = vars(base).get("__new__")
    return (
        new is not None
        and not isinstance(new, staticmethod)
        and base.__basicsize__ > object.__basicsize__
    )


def _is_named_tuple(cls: type) -> bool:
    names = getattr(cls, "_fields", None)
    return isinstance(names, tuple) and all(isinstance(each, str) for each in names)


def _enum_hooks(cls: Any, name: str) -> tuple[_Encoder, _Decoder]:
    flags = issubclass(cls, enum.Flag)

    def encode(value: Any, depth: int, run: _Pass) -> Any:
        if flags:
            return _tag(name, _plain(value.value, depth + 1, run))
        if cls.__members__.get(value.name) is not value:
            raise _Refused(f" is no member of {_type_name(cls)}: {_cut(repr(value), 100)}")
        return _tag(name, _plain(value.name, depth + 1, run))

    def decode(content: Any, depth: int, run: _Pass) -> Any:
        if flags:
            return cls(_int_of(_value(content, 0, run)))
        member = _text_of(_value(content, 0, run))
        if member not in cls.__members__:
            raise ValueError(f"there is no member {_cut(repr(member), 60)}")
        return cls.__members__[member]

    return encode, decode


# A field and what gives its default (None where it has none), for values older than the field.
_Field = tuple[str, Callable[[], Any] | None]


def _dataclass_fields(cls: Any) -> list[_Field]:
    import dataclasses

    found: list[_Field] = []
    for field in dataclasses.fields(cls):
        default: Callable[[], Any] | None = None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory
        elif field.default is not dataclasses.MISSING:
            default = _constant(field.default)
        found.append((field.name, default))
    return found


def _attrs_fields(cls: Any) -> list[_Field]:
    import attr

    found: list[_Field] = []
    for field in attr.fields(cls):
        default: Callable[[], Any] | None = None
        if isinstance(field.default, attr.Factory):  # type: ignore[arg-type]  # a class at run time
            if not field.default.takes_self:
                default = field.default.factory
        elif field.default is not attr.NOTHING:
            default = _constant(field.default)
        found.append((field.name, default))
    return found


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


def _fill(cls: type, fields: list[_Field], content: Any, depth: int, run: _Pass) -> list[Any]:
    """Return the values of *fields* in order, from the plain forms by name in *content*."""
    if type(content) is not dict:
        raise ValueError(f"expected its fields by name, found {_type_name(type(content))}")
    if depth >= MAX_DEPTH:
        raise _Refused(_DEEP)
    run.left -= len(content)
    if run.left < 0:
        raise _Refused(_MANY)
    depth += 1
    found = []
    defaults = 0
    name = ""
    try:
        for name, default in fields:
            if name in content:
                each = content[name]
                found.append(each if type(each) in _SCALARS else _value(each, depth, run))
            elif default is not None:
                found.append(default())
                defaults += 1
            else:
                raise ValueError(f"the field {name!r} of {_type_name(cls)} is missing")
    except _Refused as refused:
        refused.parts.append(f".{name}")
        raise
    if len(content) + defaults != len(fields):
        unknown = content.keys() - {name for name, _ in fields}
        shown = _cut(", ".join(sorted(map(repr, unknown))), 100)
        raise ValueError(f"{_type_name(cls)} has no field {shown}")
    return found


def _read_fields(value: Any, names: tuple[str, ...], depth: int, run: _Pass) -> dict[str, Any]:
    content = {}
    if depth + 2 > MAX_DEPTH:
        raise _Refused(_DEEP)
    run.left -= len(names)
    if run.left < 0:
        raise _Refused(_MANY)
    name = ""
    try:
        for name in names:
            content[name] = _plain(getattr(value, name), depth + 2, run)
    except _Refused as refused:
        refused.parts.append(f".{name}")
        raise
    except AttributeError as error:
        raise _Refused(f".{name} was never set; give the field a value") from error
    return content


def _tuple_hooks(cls: Any, name: str) -> tuple[_Encoder, _Decoder]:
    names: tuple[str, ...] = cls._fields
    defaults: Mapping[str, Any] = getattr(cls, "_field_defaults", {})
    fields: list[_Field] = [
        (each, _constant(defaults[each]) if each in defaults else None) for each in names
    ]
    check = _extras_check(cls, frozenset())

    def encode(value: Any, depth: int, run: _Pass) -> Any:
        check(value)
        return _tag(name, _read_fields(value, names, depth, run))

    def decode(content: Any, depth: int, run: _Pass) -> Any:
        return tuple.__new__(cls, _fill(cls, fields, content, depth, run))

    return encode, decode


_HASH_CACHE: Final = "_attrs_cached_hash"


def _field_hooks(cls: Any, name: str, fields: list[_Field]) -> tuple[_Encoder, _Decoder]:
    names = tuple(each for each, _ in fields)
    check = _extras_check(cls, frozenset(names))
    # attrs' cache_hash=True expects what its __init__ would have set.
    caches_hash = _HASH_CACHE in getattr(getattr(cls.__hash__, "__code__", None), "co_names", ())

    def encode(value: Any, depth: int, run: _Pass) -> Any:
        check(value)
        return _tag(name, _read_fields(value, names, depth, run))

    def decode(content: Any, depth: int, run: _Pass) -> Any:
        value = object.__new__(cls)
        for field, each in zip(names, _fill(cls, fields, content, depth, run), strict=True):
            object.__setattr__(value, field, each)
        if caches_hash:
            object.__setattr__(value, _HASH_CACHE, None)
        return value

    return encode, decode


def _extras_check(cls: type, fields: frozenset[str]) -> Callable[[Any], None]:
    """Return a function that refuses instances with state outside of their fields."""
    slots = [
        slot
        for owner in cls.__mro__
        if not {"__attrs_attrs__", "__dataclass_fields__"} & vars(owner).keys()
        for slot in _slots(owner)
        if slot not in fields
    ]

    def check(value: Any) -> None:
        attributes = getattr(value, "__dict__", ())
        if fields.issuperset(attributes) and not slots:
            return
        extras = [
            each for each in attributes if each not in fields and not _is_derived(cls, each)
        ] + [slot for slot in slots if hasattr(value, slot)]
        if extras:
            raise _Refused(
                f" is of type {_type_name(cls)} and has attributes that are no fields of it "
                f"({_cut(', '.join(extras), 100)}), which would be lost; make them fields, or use "
                f"register_type({cls.__qualname__}, encode=..., decode=...)"
            )

    return check


def _slots(owner: type) -> tuple[str, ...]:
    slots = vars(owner).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(each for each in names if each not in ("__dict__", "__weakref__"))


def _is_derived(cls: type, name: str) -> bool:
    """Return whether an attribute is worked out from others: a cached property or hash."""
    if name == _HASH_CACHE or (name.startswith("__") and name.endswith("__")):
        return True
    cached_property = _loaded("functools", "cached_property")
    return isinstance(getattr(cls, name, None), cached_property)


# --- literals -----------------------------------------------------------------------------------


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
