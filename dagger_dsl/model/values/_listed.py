"""The fixed list: types that have a stored form of their own, and how the scalars among them look.

It adds its rows to the tables when it is imported, and imports no module for a type that is rare:
a value of such a type, or its tag, says when it is needed.
"""

from __future__ import annotations

import binascii
import datetime as dt
import re
from collections.abc import Callable
from typing import Any, Final

from dagger_dsl.model.values._core import (
    DECODERS,
    ENCODERS,
    Decoder,
    Encoder,
    Pass,
    Refused,
    cut,
    loaded,
    tag,
    type_name,
)
from dagger_dsl.model.values._decode import (
    int_of,
    map_of,
    set_of,
    text_of,
    tuple_of,
    value_of,
)
from dagger_dsl.model.values._encode import (
    base64_of,
    dict_to_plain,
    list_to_plain,
    plain_of,
    tagged_list,
    tagged_set,
)

__all__ = ["FIXED_NAMES", "LISTED_ELSEWHERE", "is_listed"]


def _scalar(name: str, content_of: Callable[[Any], Any]) -> Encoder:
    return lambda value, _depth, _run: tag(name, content_of(value))


def _from_text(convert: Callable[[str], Any]) -> Decoder:
    return lambda content, _depth, _run: convert(text_of(content))


def _float_of(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError("expected nan, inf or -inf")
    return float(text)


def _bytes_of(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)


def _complex_of(content: Any, _depth: int, run: Pass) -> complex:
    real, imag = (value_of(each, 0, run) for each in content)
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


def _moment_of(kind: Any) -> Decoder:
    def decode(content: Any, depth: int, run: Pass) -> Any:
        if type(content) is not list:
            return kind.fromisoformat(text_of(content))
        text, fold, zone = content
        moment = kind.fromisoformat(text_of(text))
        if moment.tzinfo is not None:
            raise ValueError("the zone is given twice")
        return moment.replace(tzinfo=_zone_of(zone), fold=int_of(fold))

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
            name and plain_of(name, 0, Pass()),
        ]
    key = getattr(zone, "key", None) if type(zone) is loaded("zoneinfo", "ZoneInfo") else None
    if type(key) is not str or not _ZONE_KEY.fullmatch(key):
        raise Refused(
            f" has a time zone of type {type_name(type(zone))}, which has no stored form; "
            "use datetime.timezone or zoneinfo.ZoneInfo(key)"
        )
    return key


_ZONE_KEY: Final = re.compile(r"[A-Za-z0-9_+-]{1,40}(?:/[A-Za-z0-9_+-]{1,40}){0,3}")


def _zone_of(content: Any) -> dt.tzinfo | None:
    if content is None:
        return None
    if type(content) is list:
        micros, name = content
        offset = dt.timedelta(microseconds=int_of(micros))
        if name is None:
            return dt.timezone(offset)
        return dt.timezone(offset, text_of(value_of(name, 0, Pass())))
    key = text_of(content)
    if not _ZONE_KEY.fullmatch(key):
        raise ValueError(f"{cut(repr(key), 60)} is not the name of a time zone")
    import zoneinfo

    return zoneinfo.ZoneInfo(key)


def _timedelta_of(content: Any, _depth: int, _run: Pass) -> dt.timedelta:
    days, seconds, microseconds = map(int_of, content)
    return dt.timedelta(days, seconds, microseconds)


def _decimal_of(text: str) -> Any:
    import decimal

    return decimal.Decimal(text)


def _uuid_of(text: str) -> Any:
    import uuid

    return uuid.UUID(text)


def _path_encoder(name: str) -> Encoder:
    return lambda value, depth, run: tag(name, plain_of(value.as_posix(), depth + 1, run))


def _path_of(name: str) -> Decoder:
    def decode(content: Any, depth: int, run: Pass) -> Any:
        import pathlib

        return getattr(pathlib, name)(text_of(value_of(content, 0, run)))

    return decode


ENCODERS.update(
    {
        list: list_to_plain,
        dict: dict_to_plain,
        tuple: tagged_list("tuple"),
        set: tagged_set("set"),
        frozenset: tagged_set("frozenset"),
        complex: lambda value, depth, run: tag(
            "complex", [plain_of(value.real, depth + 2, run), plain_of(value.imag, depth + 2, run)]
        ),
        bytes: _scalar("bytes", base64_of),
        dt.datetime: _scalar("datetime", _moment),
        dt.time: _scalar("time", _moment),
        dt.date: _scalar("date", dt.date.isoformat),
        dt.timedelta: _scalar(
            "timedelta", lambda value: [value.days, value.seconds, value.microseconds]
        ),
    }
)

DECODERS.update(
    {
        "tuple": tuple_of,
        "set": set_of(set),
        "frozenset": set_of(frozenset),
        "map": map_of,
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
)

FIXED_NAMES: Final = frozenset(DECODERS)

# Listed types whose modules we do not import: a value of one says that its module is there.
LISTED_ELSEWHERE: Final = (
    ("decimal", "Decimal", _scalar("decimal", str)),
    ("uuid", "UUID", _scalar("uuid", str)),
    ("pathlib", "PosixPath", _path_encoder("path")),
    ("pathlib", "WindowsPath", _path_encoder("path")),
    ("pathlib", "PurePosixPath", _path_encoder("pure_posix_path")),
    ("pathlib", "PureWindowsPath", _path_encoder("pure_windows_path")),
)


def is_listed(cls: type) -> bool:
    return (cls in ENCODERS and cls.__module__ in ("builtins", "datetime")) or any(
        cls is loaded(module, attribute) for module, attribute, _ in LISTED_ELSEWHERE
    )
