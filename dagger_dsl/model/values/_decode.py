"""Plain forms back to their values: the way in, how one value goes down, and the containers.

It refuses what nests too deep, is too large, is no plain form, or carries a tag without a decoder.
A tag is looked up in a table; nothing that is read is imported or called.
"""

from __future__ import annotations

from typing import Any

from dagger_dsl.errors import DecodingError
from dagger_dsl.model.values._core import (
    DEEP,
    FINDERS,
    MANY,
    MAX_DEPTH,
    SCALARS,
    Decoder,
    Pass,
    Refused,
    are_scalars,
    cut,
    find_decoder,
    key_part,
    type_name,
)

__all__ = [
    "from_plain",
    "int_of",
    "list_of",
    "map_of",
    "set_of",
    "text_of",
    "tuple_of",
    "value_of",
]


def from_plain(plain: Any, path: str = "value") -> Any:
    """Return the value whose tagged plain form is *plain*; always a fresh one.

    Raises:
        DecodingError: A tag is unknown, its content malformed, or the nesting too deep.
    """
    if type(plain) in SCALARS:
        return plain
    try:
        return value_of(plain, 0, Pass())
    except Refused as refused:
        raise DecodingError(refused.text(path)) from refused.__cause__
    except RecursionError:
        raise DecodingError(path + DEEP) from None


def value_of(plain: Any, depth: int, run: Pass) -> Any:
    kind = type(plain)
    if kind in SCALARS:
        return plain
    if kind is dict:
        return _tagged(plain, depth, run) if "$type" in plain else _dict_of(plain, depth, run)
    if kind is list:
        return list_of(plain, depth, run)
    raise Refused(f" is of type {type_name(kind)}, which JSON does not have")


def list_of(plain: Any, depth: int, run: Pass) -> list[Any]:
    if type(plain) is not list:
        raise Refused(f": expected a list, found {type_name(type(plain))}")
    run.left -= len(plain)
    if run.left < 0:
        raise Refused(MANY)
    if depth >= MAX_DEPTH:
        raise Refused(DEEP)
    if are_scalars(map(type, plain)):
        return plain.copy()
    depth += 1
    out: list[Any] = []
    append = out.append
    try:
        for each in plain:
            append(each if type(each) in SCALARS else value_of(each, depth, run))
    except Refused as refused:
        refused.parts.append(f"[{len(out)}]")
        raise
    return out


def _dict_of(plain: dict[Any, Any], depth: int, run: Pass) -> dict[Any, Any]:
    run.left -= len(plain)
    if run.left < 0:
        raise Refused(MANY)
    if depth >= MAX_DEPTH:
        raise Refused(DEEP)
    if are_scalars(map(type, plain.values())):
        return plain.copy()
    depth += 1
    out = {}
    key: Any = None
    try:
        for key, each in plain.items():
            out[key] = each if type(each) in SCALARS else value_of(each, depth, run)
    except Refused as refused:
        refused.parts.append(key_part(key))
        raise
    return out


def _tagged(plain: dict[Any, Any], depth: int, run: Pass) -> Any:
    name = plain["$type"]
    if type(name) is not str or len(plain) != 2 or "$value" not in plain:
        raise Refused(': a tagged value is written {"$type": name, "$value": content}')
    # One level more than other containers: tags of scalars stand where scalars may stand.
    if depth > MAX_DEPTH:
        raise Refused(DEEP)
    decode = find_decoder(name) or FINDERS.decoder(name)
    if decode is None:
        raise Refused(
            f": this process does not know the stored type {cut(repr(name), 100)}; import the "
            "module that defines it, and name the class in an action's annotations or give it to "
            "register_type(), before reading"
        )
    try:
        return decode(plain["$value"], depth + 1, run)
    except (Refused, RecursionError):
        raise
    except Exception as error:  # whatever a constructor says about bad content, users' own included
        raise Refused(
            f": the stored {cut(name, 100)} is malformed: {cut(str(error) or repr(error), 200)}"
        ) from error


def tuple_of(content: Any, depth: int, run: Pass) -> tuple[Any, ...]:
    return tuple(list_of(content, depth, run))


def set_of(kind: type) -> Decoder:
    def decode(content: Any, depth: int, run: Pass) -> Any:
        members = kind(list_of(content, depth, run))
        if len(members) != len(content):
            raise ValueError("a member occurs twice")
        return members

    return decode


def map_of(content: Any, depth: int, run: Pass) -> dict[Any, Any]:
    pairs = list_of(content, depth, run)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def text_of(content: Any) -> str:
    if type(content) is not str:
        raise ValueError(f"expected a text, found {type_name(type(content))}")
    return content


def int_of(content: Any) -> int:
    if type(content) is not int:
        raise ValueError(f"expected a whole number, found {type_name(type(content))}")
    return content
