"""`excerpt`: a value as text for people, however large it is.

It stops as soon as enough is written, so that a list of a million items costs no more than its
first ones. What is hidden (`Secret`) stays hidden: every part that is no plain list, mapping or
scalar goes through `to_shown`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from dagger_dsl.model.text import printable
from dagger_dsl.model.values import MISSING, Secret, to_shown

__all__ = ["excerpt"]

#: Containers within containers that are written out.
DEPTH: Final = 12

#: Lines of what is written over several lines are this long at most, where they can be.
WIDE: Final = 88

_BRACKETS: Final[Mapping[type, tuple[str, str]]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
    dict: ("{", "}"),
}

#: Types of the codec whose stored form is as good to read as any.
_LISTED: Final = frozenset(
    ("datetime", "date", "time", "timedelta", "decimal", "uuid", "path", "complex", "float", "int")
)


def excerpt(value: Any, limit: int = 2_000, *, lines: bool = False) -> tuple[str, bool]:
    """Return a value as text, and whether that is all of it.

    Args:
        value: Anything; a `repr` that fails, or never ends, does no harm.
        limit: Characters at most.
        lines: Whether what is long may go over several lines, as a text of several lines does.
    """
    if lines and type(value) is str and "\n" in value:  # as it would be printed
        shown = printable(value[:limit], lines=True)
        return (shown, True) if len(value) <= limit else (f"{shown.rstrip()}…", False)
    writer = _Writer(limit)
    try:
        text = writer.block(value, 0) if lines else writer.line(value, 0)
    except RuntimeError as error:  # it was changed meanwhile
        return f"<{type(value).__qualname__}, which cannot be read: {printable(error)}>", False
    if len(text) > limit:
        return text[: max(0, limit - 1)].rstrip() + "…", False
    return text, not writer.cut


class _Writer:
    """Writes values until it has written enough."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.cut = False

    def line(self, value: Any, depth: int) -> str:
        """Return a value on one line."""
        kind = type(value)
        if kind not in _BRACKETS:
            fields = _fields_of(kind)
            return self._leaf(value, kind) if fields is None else self._record(value, fields, depth)
        opening, closing = _BRACKETS[kind]
        parts = [part for part, _, _ in self._items(value, kind, depth)]
        if kind is tuple and len(parts) == 1:
            closing = ",)"
        return f"{opening}{', '.join(parts)}{closing}" if parts or kind is not set else "set()"

    def block(self, value: Any, depth: int) -> str:
        """Return a value on one line where it fits, else with an item on each line."""
        kind = type(value)
        if kind not in _BRACKETS:
            return self.line(value, depth)
        before, was_cut = self.left, self.cut
        text = self.line(value, depth)
        if len(text) + 2 * depth <= WIDE or depth >= DEPTH:
            return text
        if kind is not dict and not any(type(each) in _BRACKETS for each in islice(value, 50)):
            return text  # a line for each number would be no better to read
        self.left, self.cut = before, was_cut
        opening, closing = _BRACKETS[kind]
        indent = "  " * (depth + 1)
        parts = []
        for line, head, item in self._items(value, kind, depth):
            if len(line) + len(indent) > WIDE and type(item) in _BRACKETS:
                self.left += len(line)
                line = head + self.block(item, depth + 1)
            parts.append(f"{indent}{line},\n" if line != "…" else f"{indent}…\n")
        return f"{opening}\n{''.join(parts)}{'  ' * depth}{closing}"

    def _items(self, value: Any, kind: type, depth: int) -> Iterable[tuple[str, str, Any]]:
        """Yield the parts of a container, each with its key, until enough is written."""
        if depth >= DEPTH:
            if value:
                self.cut = True
                yield "…", "", None
            return
        pairs = value.items() if kind is dict else ((None, each) for each in value)
        for key, item in pairs:
            if self.left <= 0:
                self.cut = True
                yield "…", "", None
                return
            head = f"{self.line(key, depth + 1)}: " if kind is dict else ""
            line = head + self.line(item, depth + 1)
            self.left -= 2
            yield line, head, item

    def _record(self, value: Any, fields: Sequence[str], depth: int) -> str:
        """Return an attrs class or a dataclass with its fields, until enough is written."""
        parts = []
        for name in fields:
            if self.left <= 0 or depth >= DEPTH:
                self.cut = True
                parts.append("…")
                break
            parts.append(f"{name}={self.line(getattr(value, name, MISSING), depth + 1)}")
            self.left -= len(name) + 3
        return f"{type(value).__qualname__}({', '.join(parts)})"

    def _leaf(self, value: Any, kind: type) -> str:
        text = self._text_of(value, kind)
        self.left -= len(text)
        return text

    def _text_of(self, value: Any, kind: type) -> str:
        room = max(self.left, 20)
        if kind is str:
            return self._quoted(value, room)
        if value is None or kind is bool or kind is float or value is MISSING:
            return repr(value)
        if kind is int:
            return str(value) if value.bit_length() < 1_000 else self._clipped(hex(value), room)
        if kind is bytes or kind is bytearray:
            start = repr(value[:room])
            return start if len(value) <= room else self._clipped(start, room)
        plain = to_shown(value)
        if type(value) is Secret:
            return str(plain)
        if isinstance(plain, dict) and plain.keys() == {"$repr"}:
            return self._clipped(printable(plain["$repr"]), room)
        if isinstance(plain, dict) and plain.keys() == {"$type", "$value"}:
            return self._tagged(value, str(plain["$type"]), plain["$value"], room)
        return self._clipped(printable(json.dumps(plain, ensure_ascii=False)), room)

    def _tagged(self, value: Any, name: str, content: Any, room: int) -> str:
        if ":" in name:  # a class: its fields, or the name of a member
            name = name.rpartition(":")[2]
            if isinstance(content, dict):
                inner = ", ".join(f"{each}={_plain(part)}" for each, part in content.items())
                return self._clipped(printable(f"{name}({inner})"), room)
            return self._clipped(printable(f"{name}.{content}"), room)
        if name in _LISTED or name.startswith("pure_"):
            return self._clipped(printable(f"{name} {_plain(content)}"), room)
        return self._clipped(_repr(value), room)

    def _quoted(self, value: str, room: int) -> str:
        if len(value) <= room:
            return _quoted(value)
        self.cut = True
        return _quoted(value[:room]) + "…"

    def _clipped(self, text: str, room: int) -> str:
        if len(text) <= room:
            return text
        self.cut = True
        return text[:room] + "…"


def _fields_of(kind: type) -> list[str] | None:
    """Return the fields that a class shows, None where it is no attrs class and no dataclass."""
    if kind is Secret:
        return None
    found: Any = getattr(kind, "__attrs_attrs__", None)
    if found is None:
        table = getattr(kind, "__dataclass_fields__", None)
        if table is None:
            return None
        found = table.values()
    return [each.name for each in found if each.repr]


def _repr(value: Any) -> str:
    try:
        text = repr(value)
    except (Exception, SystemExit) as error:  # a stranger's __repr__
        text = f"<{type(value).__qualname__}, whose repr() raised {type(error).__name__}>"
    return printable(text)


def _quoted(value: str) -> str:
    return repr(printable(value, lines=True))


def _plain(content: Any) -> str:
    """Return a part of what `to_shown` gave; a tag's content stands for itself."""
    if isinstance(content, dict) and "$repr" in content:
        return str(content["$repr"])
    if isinstance(content, dict) and content.keys() == {"$type", "$value"}:
        return _plain(content["$value"])
    if isinstance(content, str):
        return content if len(content) < 40 and content.isprintable() else _quoted(content)
    return json.dumps(content, ensure_ascii=False)
