"""Annotations as checks: does a value fit one, can two of them ever agree, and how they read.

Whatever is not understood is accepted: these checks refuse only what cannot be right.

* `misfit` looks at a value that enters from outside. An int counts as a float, a bool does not
  count as an int, a text counts as a sequence of texts.
* `compatible` looks at two annotations at the ends of an edge and refuses only when no value of
  the classes that exist could satisfy both: an empty list is a list of anything, and a base class
  may hide an instance of any of its children.
* `schema_of` renders an annotation as JSON Schema, for show; nothing is enforced by it.
"""

from __future__ import annotations

import collections.abc
import enum
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

from dagger_dsl.errors import cut, shown
from dagger_dsl.model.values import Secret

__all__ = [
    "SECRET_SCHEMA",
    "accepts_none",
    "asks_for_secret",
    "compatible",
    "misfit",
    "output_type",
    "schema_of",
    "show_type",
]

#: JSON Schema of a `Secret`: what a graph says about an input that is one.
SECRET_SCHEMA: Mapping[str, Any] = {"format": "secret"}

_NONE = type(None)
_UNIONS = (Union, types.UnionType)
#: Answers of a node whose value the annotation does not tell.
_OPAQUE = {"Branch", "HumanRequest", "JobRequest", "NodeOutput"}
#: How deep containers are compared; what is deeper is accepted.
_DEPTH = 50


def show_type(annotation: Any) -> str:
    """Return an annotation as people write it."""
    if annotation is None or annotation is _NONE:
        return "None"
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__qualname__.rpartition("<locals>.")[2]
    return repr(annotation).replace("typing.", "")


def _plain(annotation: Any) -> Any:
    """Strip what says nothing about values: Annotated, NewType, Final, Required, aliases."""
    for _ in range(_DEPTH):
        origin = get_origin(annotation)
        if origin in (typing.Annotated, typing.Final, typing.ClassVar):
            annotation = (get_args(annotation) or (Any,))[0]
        elif origin in (typing.Required, typing.NotRequired):
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # `type X = ...` of Python 3.12
            annotation = annotation.__value__
        elif isinstance(annotation, TypeVar):
            annotation = annotation.__bound__ if annotation.__bound__ is not None else Any
        else:
            break
    return annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, else the annotation alone."""
    plain = _plain(annotation)
    if get_origin(plain) not in _UNIONS:
        return (plain,)
    return tuple(inner for each in get_args(plain) for inner in _members(each))


def accepts_none(annotation: Any) -> bool:
    """Return whether an annotation says that None is a value."""
    return any(each is None or each is _NONE for each in _members(annotation))


def asks_for_secret(annotation: Any) -> bool:
    """Return whether an annotation says that a `Secret` is a value."""
    return any(each is Secret for each in _members(annotation))


def _class_of(annotation: Any) -> type | None:
    """Return the class an annotation asks for, None where it asks for none."""
    if annotation is None:
        return _NONE
    origin = get_origin(annotation)
    if isinstance(origin, type):
        return origin
    return annotation if isinstance(annotation, type) else None


def _is_typed_dict(annotation: Any) -> bool:
    return typing.is_typeddict(get_origin(annotation) or annotation)


def _is_opaque(kind: type) -> bool:
    if kind is object:
        return True
    return kind.__name__ in _OPAQUE and kind.__module__.startswith("dagger_dsl.")


def misfit(value: Any, annotation: Any, path: str = "value") -> str | None:
    """Return why *value* does not fit *annotation*, with the path of the fault; None when it does.

    Args:
        value: What entered.
        annotation: An evaluated annotation.
        path: What to call the value.
    """
    return _misfit(value, annotation, path, 0)


def _misfit(value: Any, annotation: Any, path: str, depth: int) -> str | None:
    if depth > _DEPTH:
        return None
    members = _members(annotation)
    if len(members) > 1:
        reasons = [_misfit(value, each, path, depth + 1) for each in members]
        return None if None in reasons else _expected(value, annotation, path)
    plain = members[0]
    if plain is Any or plain is typing.Never or plain is typing.NoReturn:
        return None
    if get_origin(plain) is typing.Literal:
        same = any(value == each and type(value) is type(each) for each in get_args(plain))
        return None if same else _expected(value, annotation, path)
    if _is_typed_dict(plain):
        return _misfit_typed_dict(value, plain, path, depth)
    kind = _class_of(plain)
    if kind is None or _is_opaque(kind):
        return None
    if kind in (float, complex) and isinstance(value, (int, float)) and type(value) is not bool:
        return None
    if kind is int and type(value) is bool:
        return _expected(value, annotation, path)
    try:
        fits = isinstance(value, kind)
    except TypeError:  # a protocol that is not runtime-checkable says nothing about values
        return None
    if not fits:
        return _expected(value, annotation, path)
    return _misfit_items(value, plain, kind, path, depth)


def _is_fixed_tuple(annotation: Any) -> bool:
    if get_origin(annotation) is not tuple or annotation is getattr(typing, "Tuple", None):
        return False
    return Ellipsis not in get_args(annotation)


def _expected(value: Any, annotation: Any, path: str) -> str:
    kind = type(value).__name__
    return f"{path} must be {cut(show_type(annotation))}, not {kind} {shown(value, 60)}"


def _misfit_typed_dict(value: Any, annotation: Any, path: str, depth: int) -> str | None:
    if not isinstance(value, dict):
        return _expected(value, annotation, path)
    kind = get_origin(annotation) or annotation
    fields = _fields(kind)
    for name in sorted(_required(kind)):
        if name not in value:
            return f"{path} lacks the key {name!r} of {show_type(annotation)}"
    for name, each in value.items():
        if name in fields:
            fault = _misfit(each, fields[name], f"{path}[{shown(name, 60)}]", depth + 1)
            if fault is not None:
                return fault
    return None


def _fields(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except Exception:  # a name that cannot be resolved here: the keys are known, the types are not
        return dict.fromkeys(getattr(kind, "__annotations__", ()), Any)


def _required(kind: Any) -> set[str]:
    """Return the keys that a TypedDict must have."""
    required = set(kind.__required_keys__)  # misses NotRequired where annotations are kept as text
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # as in `_fields`
        return required
    for name, hint in hints.items():
        if get_origin(hint) is typing.NotRequired:
            required.discard(name)
        elif get_origin(hint) is typing.Required:
            required.add(name)
    return required


def _misfit_items(value: Any, annotation: Any, kind: type, path: str, depth: int) -> str | None:
    args = get_args(annotation)
    if isinstance(value, tuple) and issubclass(kind, tuple) and _is_fixed_tuple(annotation):
        if len(args) != len(value):
            return f"{path} must have {len(args)} items, not {len(value)}"
        faults = (
            _misfit(each, kind_, f"{path}[{i}]", depth + 1)
            for i, (each, kind_) in enumerate(zip(value, args, strict=True))
        )
    elif not args:
        return None
    elif isinstance(value, dict) and issubclass(kind, collections.abc.Mapping) and len(args) == 2:
        faults = (
            _misfit(
                part,
                kind_,
                f"{path}[{shown(key, 60)}]" if part is not key else f"{path} key",
                depth + 1,
            )
            for key, each in value.items()
            for part, kind_ in ((key, args[0]), (each, args[1]))
        )
    elif isinstance(value, (list, tuple, set, frozenset)) and (
        len(args) == 1 or args[1:] == (Ellipsis,)
    ):
        faults = (_misfit(each, args[0], f"{path}[{i}]", depth + 1) for i, each in enumerate(value))
    else:
        return None  # iterators must not be consumed, other generic classes say nothing we know
    return next((fault for fault in faults if fault is not None), None)


def compatible(source: Any, target: Any) -> bool:
    """Return whether some value could satisfy both annotations.

    Args:
        source: What the node before says it returns.
        target: What the parameter says it takes.
    """
    return any(_meet(one, other, 0) for one in _members(source) for other in _members(target))


def _meet(one: Any, other: Any, depth: int) -> bool:
    if depth > _DEPTH or one is Any or other is Any:
        return True
    if typing.Never in (one, other) or typing.NoReturn in (one, other):
        return True
    for literal, rest in ((one, other), (other, one)):
        if get_origin(literal) is typing.Literal:
            return any(misfit(each, rest) is None for each in get_args(literal))
    left, right = _class_of(one), _class_of(other)
    if _is_typed_dict(one):
        left = dict
    if _is_typed_dict(other):
        right = dict
    if left is None or right is None or _is_opaque(left) or _is_opaque(right):
        return True
    if not _classes_meet(left, right):
        return False
    return _fixed_tuples_meet(one, other, depth)


def _classes_meet(left: type, right: type) -> bool:
    try:
        if issubclass(left, right) or issubclass(right, left):
            return True
    except TypeError:  # a protocol with data members cannot be asked
        return True
    numbers = {int, float, complex}
    if left in numbers and right in numbers:
        return True
    if left is _NONE or right is _NONE:
        other = right if left is _NONE else left
        return inspect.isabstract(other) and isinstance(None, other)
    if _is_abstract(left) or _is_abstract(right):
        return True
    return _common_child(left, right)


def _is_abstract(kind: type) -> bool:
    """Return whether unrelated classes may still have instances of *kind*."""
    return bool(getattr(kind, "_is_protocol", False)) or inspect.isabstract(kind)


def _common_child(left: type, right: type) -> bool:
    """Return whether a class that exists inherits from both."""
    seen: set[type] = set()
    todo = [left]
    while todo:
        children: list[type] = type.__subclasses__(todo.pop())
        for child in children:
            if child not in seen:
                if issubclass(child, right):
                    return True
                seen.add(child)
                todo.append(child)
    return False


def _fixed_tuples_meet(one: Any, other: Any, depth: int) -> bool:
    """Compare tuples of known length; other containers may be empty and so always meet."""
    if not _is_fixed_tuple(one) or not _is_fixed_tuple(other):
        return True
    left, right = get_args(one), get_args(other)
    return len(left) == len(right) and all(
        any(_meet(a, b, depth + 1) for a in _members(mine) for b in _members(yours))
        for mine, yours in zip(left, right, strict=True)
    )


def output_type(returns: Any, declared: tuple[str, ...], name: str) -> Any:
    """Return the annotation of one output, `Any` where the return annotation does not tell.

    Args:
        returns: The return annotation of the action.
        declared: The declared output names; empty means the single output ``result``.
        name: The output asked for.
    """
    if not declared:
        return returns
    plain = _plain(returns)
    if _is_typed_dict(plain):
        return _fields(get_origin(plain) or plain).get(name, Any)
    kind = _class_of(plain)
    if kind is None or get_origin(plain) in _UNIONS or _is_opaque(kind):
        return Any
    if issubclass(kind, collections.abc.Mapping):
        args = get_args(plain)
        return args[1] if len(args) == 2 and len(declared) > 1 else Any
    return returns if len(declared) == 1 else Any


_SCHEMA_TYPES: Mapping[Any, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    _NONE: "null",
}


def schema_of(annotation: Any) -> dict[str, Any]:
    """Return the JSON Schema that describes an annotation; ``{}`` where it says nothing."""
    return _schema(annotation, 0)


def _schema(annotation: Any, depth: int) -> dict[str, Any]:
    members = _members(annotation)
    if depth > 5:
        return {}
    if len(members) > 1:
        return {"anyOf": [_schema(each, depth + 1) for each in members]}
    plain = members[0]
    args = get_args(plain)
    if get_origin(plain) is typing.Literal:
        return {"enum": list(args)}
    if _is_typed_dict(plain):
        fields = _fields(get_origin(plain) or plain)
        return _object_schema(
            {name: _schema(each, depth + 1) for name, each in fields.items()},
            [name for name in fields if name in _required(get_origin(plain) or plain)],
        )
    kind = _class_of(plain)
    if kind is None or _is_opaque(kind):
        return {}
    if kind is Secret:
        return dict(SECRET_SCHEMA)
    if kind in _SCHEMA_TYPES:
        return {"type": _SCHEMA_TYPES[kind]}
    if issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    if kind is tuple:
        return _tuple_schema(args, depth)
    if kind in (list, set, frozenset, collections.abc.Sequence, collections.abc.Iterable):
        return {"type": "array", **({"items": _schema(args[0], depth + 1)} if args else {})}
    if kind in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return {
            "type": "object",
            **({"additionalProperties": _schema(args[1], depth + 1)} if len(args) == 2 else {}),
        }
    if hasattr(kind, "__attrs_attrs__") or hasattr(kind, "__dataclass_fields__"):
        hints = _fields(kind)
        return _object_schema({name: _schema(each, depth + 1) for name, each in hints.items()}, [])
    return {}


def _tuple_schema(args: tuple[Any, ...], depth: int) -> dict[str, Any]:
    if not args:
        return {"type": "array"}
    if len(args) == 2 and args[1] is Ellipsis:
        return {"type": "array", "items": _schema(args[0], depth + 1)}
    return {
        "type": "array",
        "prefixItems": [_schema(each, depth + 1) for each in args],
        "minItems": len(args),
        "maxItems": len(args),
    }


def _object_schema(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema
