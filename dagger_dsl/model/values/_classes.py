"""How a known class is written and read: by its fields, its member's name, functions, or pickle.

Fields are read and set as they are. A class whose fields cannot be listed has no hooks, and an
instance with state outside of its fields is refused. Which classes are known is not decided here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final

from dagger_dsl.errors import EncodingError
from dagger_dsl.model.values._core import (
    DEEP,
    MANY,
    MAX_DEPTH,
    SCALARS,
    Decoder,
    Encoder,
    Pass,
    Refused,
    cut,
    loaded,
    tag,
    type_name,
)
from dagger_dsl.model.values._decode import int_of, text_of, value_of
from dagger_dsl.model.values._encode import plain_of
from dagger_dsl.model.values._unstored import Secret

__all__ = ["class_hooks", "pickle_hooks", "user_hooks"]


def user_hooks(
    cls: type, name: str, to_data: Callable[[Any], Any], from_data: Callable[[Any], Any]
) -> tuple[Encoder, Decoder]:
    def encode(value: Any, depth: int, run: Pass) -> Any:
        try:
            data = to_data(value)
        except EncodingError as error:
            raise Refused(f" is of type {type_name(cls)}: {error}") from error
        except Exception as error:  # the user's function
            raise Refused(
                f" is of type {type_name(cls)}, whose encode= raised {cut(repr(error), 200)}"
            ) from error
        return tag(name, plain_of(data, depth + 1, run))

    def decode(content: Any, depth: int, run: Pass) -> Any:
        value = from_data(value_of(content, depth, run))
        if type(value) is not cls:
            raise TypeError(f"its decode= returned {type_name(type(value))}")
        return value

    return encode, decode


def pickle_hooks(cls: type, name: str) -> tuple[Encoder, Decoder]:
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

    return user_hooks(cls, name, to_data, from_data)


def class_hooks(cls: type, name: str) -> tuple[Encoder, Decoder] | None:
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


def _enum_hooks(cls: Any, name: str) -> tuple[Encoder, Decoder]:
    flags = issubclass(cls, enum.Flag)

    def encode(value: Any, depth: int, run: Pass) -> Any:
        if flags:
            return tag(name, plain_of(value.value, depth + 1, run))
        if cls.__members__.get(value.name) is not value:
            raise Refused(f" is no member of {type_name(cls)}: {cut(repr(value), 100)}")
        return tag(name, plain_of(value.name, depth + 1, run))

    def decode(content: Any, depth: int, run: Pass) -> Any:
        if flags:
            return cls(int_of(value_of(content, 0, run)))
        member = text_of(value_of(content, 0, run))
        if member not in cls.__members__:
            raise ValueError(f"there is no member {cut(repr(member), 60)}")
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


def _fill(cls: type, fields: list[_Field], content: Any, depth: int, run: Pass) -> list[Any]:
    """Return the values of *fields* in order, from the plain forms by name in *content*."""
    if type(content) is not dict:
        raise ValueError(f"expected its fields by name, found {type_name(type(content))}")
    if depth >= MAX_DEPTH:
        raise Refused(DEEP)
    run.left -= len(content)
    if run.left < 0:
        raise Refused(MANY)
    depth += 1
    found = []
    defaults = 0
    name = ""
    try:
        for name, default in fields:
            if name in content:
                each = content[name]
                found.append(each if type(each) in SCALARS else value_of(each, depth, run))
            elif default is not None:
                found.append(default())
                defaults += 1
            else:
                raise ValueError(f"the field {name!r} of {type_name(cls)} is missing")
    except Refused as refused:
        refused.parts.append(f".{name}")
        raise
    if len(content) + defaults != len(fields):
        unknown = content.keys() - {name for name, _ in fields}
        shown = cut(", ".join(sorted(map(repr, unknown))), 100)
        raise ValueError(f"{type_name(cls)} has no field {shown}")
    return found


def _read_fields(value: Any, names: tuple[str, ...], depth: int, run: Pass) -> dict[str, Any]:
    content = {}
    if depth + 2 > MAX_DEPTH:
        raise Refused(DEEP)
    run.left -= len(names)
    if run.left < 0:
        raise Refused(MANY)
    name = ""
    try:
        for name in names:
            content[name] = plain_of(getattr(value, name), depth + 2, run)
    except Refused as refused:
        refused.parts.append(f".{name}")
        raise
    except AttributeError as error:
        raise Refused(f".{name} was never set; give the field a value") from error
    return content


def _tuple_hooks(cls: Any, name: str) -> tuple[Encoder, Decoder]:
    names: tuple[str, ...] = cls._fields
    defaults: Mapping[str, Any] = getattr(cls, "_field_defaults", {})
    fields: list[_Field] = [
        (each, _constant(defaults[each]) if each in defaults else None) for each in names
    ]
    check = _extras_check(cls, frozenset())

    def encode(value: Any, depth: int, run: Pass) -> Any:
        check(value)
        return tag(name, _read_fields(value, names, depth, run))

    def decode(content: Any, depth: int, run: Pass) -> Any:
        return tuple.__new__(cls, _fill(cls, fields, content, depth, run))

    return encode, decode


_HASH_CACHE: Final = "_attrs_cached_hash"


def _field_hooks(cls: Any, name: str, fields: list[_Field]) -> tuple[Encoder, Decoder]:
    names = tuple(each for each, _ in fields)
    check = _extras_check(cls, frozenset(names))
    # attrs' cache_hash=True expects what its __init__ would have set.
    caches_hash = _HASH_CACHE in getattr(getattr(cls.__hash__, "__code__", None), "co_names", ())

    def encode(value: Any, depth: int, run: Pass) -> Any:
        check(value)
        return tag(name, _read_fields(value, names, depth, run))

    def decode(content: Any, depth: int, run: Pass) -> Any:
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
            raise Refused(
                f" is of type {type_name(cls)} and has attributes that are no fields of it "
                f"({cut(', '.join(extras), 100)}), which would be lost; make them fields, or use "
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
    cached_property = loaded("functools", "cached_property")
    return isinstance(getattr(cls, name, None), cached_property)
