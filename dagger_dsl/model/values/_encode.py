"""Values to their plain form: the ways in, how one value goes down, and the containers.

It refuses what nests too deep, is too large, or has no encoder; what the other types look like is
said by their rows of the table.
"""

from __future__ import annotations

import binascii
import math
import struct
from typing import Any, Final

from dagger_dsl.errors import EncodingError
from dagger_dsl.model.values._core import (
    DEEP,
    FINDERS,
    MANY,
    MAX_DEPTH,
    Encoder,
    Pass,
    Refused,
    cut,
    find_encoder,
    key_part,
    tag,
)
from dagger_dsl.model.values._unstored import Secret

__all__ = [
    "base64_of",
    "dict_to_plain",
    "list_to_plain",
    "plain_of",
    "tagged_list",
    "tagged_set",
    "to_plain",
    "to_shown",
]

_LOW: Final = -(2**63)
_HIGH: Final = 2**63


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
    encode = find_encoder(kind, plain_of)
    try:
        return encode(value, 0, Pass())
    except Refused as refused:
        text = refused.text(path)
        elsewhere = text + refused.elsewhere if refused.in_runs else ""
        raise EncodingError(text + refused.in_runs, elsewhere) from refused.__cause__
    except RecursionError:
        raise EncodingError(path + DEEP) from None
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
        run = Pass()
        run.shown = True
        return plain_of(value, 0, run)
    except (Refused, RuntimeError):
        return _picture(value)


def plain_of(value: Any, depth: int, run: Pass) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() or _is_utf8(value) else _surrogates(value)
    if kind is bool or value is None:
        return value
    if kind is int:
        return value if _LOW <= value < _HIGH else tag("int", hex(value))
    if kind is float:
        return value if math.isfinite(value) else tag("float", repr(value))
    encode = find_encoder(kind) or FINDERS.encoder(kind)
    if run.shown:
        return _plain_or_picture(encode, value, depth, run)
    if encode is None:
        raise FINDERS.refusal(kind)
    if depth > MAX_DEPTH:  # a scalar may stand at the last level; containers look for themselves
        raise Refused(DEEP)
    return encode(value, depth, run)


def _plain_or_picture(encode: Encoder | None, value: Any, depth: int, run: Pass) -> Any:
    if encode is None or depth > MAX_DEPTH:
        return _picture(value)
    try:
        return encode(value, depth, run)
    except Refused:
        return _picture(value)


def _picture(value: Any) -> Any:
    if type(value) is Secret:
        return "***"
    try:
        text = repr(value)
    except (Exception, SystemExit) as error:  # the user's __repr__; recursion among others
        text = f"<{type(value).__qualname__}, whose repr() raised {type(error).__name__}>"
    return {"$repr": plain_of(cut(text, 200), 0, Pass())}


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _surrogates(text: str) -> Any:
    return tag("str", base64_of(text.encode("utf-8", "surrogatepass")))


def base64_of(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def list_to_plain(value: Any, depth: int, run: Pass) -> list[Any]:
    run.left -= len(value)
    if run.left < 0:
        raise Refused(MANY)
    if depth >= MAX_DEPTH:
        raise Refused(DEEP)
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
                append(plain_of(each, depth, run))
    except Refused as refused:
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


def dict_to_plain(value: Any, depth: int, run: Pass) -> dict[str, Any]:
    run.left -= len(value)
    if run.left < 0:
        raise Refused(MANY)
    if depth >= MAX_DEPTH:
        raise Refused(DEEP)
    try:
        names = "".join(value)
    except TypeError:
        return _map_to_plain(value, depth, run)
    if "$type" in value or not (names.isascii() or _is_utf8(names)):
        return _map_to_plain(value, depth, run)
    depth += 1
    out: dict[str, Any] = {}
    key: Any = None
    try:
        for key, each in value.items():
            if type(key) is not str:
                refused = FINDERS.refusal(type(key))
                refused.message = f" has a key that{refused.message}"
                raise refused
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
                out[key] = plain_of(each, depth, run)
    except Refused as refused:
        if type(key) is str:
            refused.parts.append(key_part(key))
        raise
    return out


def _map_to_plain(value: Any, depth: int, run: Pass) -> dict[str, Any]:
    depth += 3
    if depth > MAX_DEPTH:
        raise Refused(DEEP)
    pairs = []
    key: Any = None
    place = ""
    try:
        for key, each in value.items():
            place = f" key {key_part(key)}"
            name = plain_of(key, depth, run)
            place = key_part(key)
            pairs.append([name, plain_of(each, depth, run)])
    except Refused as refused:
        refused.parts.append(place)
        raise
    return tag("map", pairs)


def tagged_list(name: str) -> Encoder:
    def encode(value: Any, depth: int, run: Pass) -> dict[str, Any]:
        return tag(name, list_to_plain(value, depth + 1, run))

    return encode


def tagged_set(name: str) -> Encoder:
    def encode(value: Any, depth: int, run: Pass) -> dict[str, Any]:
        try:
            members = list_to_plain(value, depth + 1, run)
        except Refused as refused:
            if refused.parts:
                refused.parts[-1] = " member"  # sets have no order, so a number says nothing
            raise
        # Equal sets give equal bytes, whatever their hash order.
        kinds = set(map(type, members))
        members.sort(key=None if kinds == {str} or kinds == {int} else repr)
        return tag(name, members)

    return encode
