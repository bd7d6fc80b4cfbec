"""From YAML text to plain values with their places: ruamel's parser, no constructors.

The parser's events are read one by one and checked against the limits before anything grows; there
is no recursion, so nesting cannot exhaust the stack. Values are text, numbers, booleans, null,
lists and mappings; tags beyond the core ones, anchors, aliases, merge keys, duplicate keys and
further documents are refused. Whatever ruamel raises leaves here as a `YamlError` with its place.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, NoReturn, TypeAlias

import attrs
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from ruamel.yaml.scanner import Scanner, ScannerError

from dagger_dsl.errors import ConfigurationError, Place, Problem, YamlError
from dagger_dsl.yamlio._plain import CORE_TAGS, plain_scalar, tagged_scalar

__all__ = ["Composed", "Limits", "Part", "compose"]

Kind: TypeAlias = Literal["scalar", "list", "map"]

#: How many problems of form are collected before reading ends.
_MOST_PROBLEMS = 100
_LONGEST_TAG = 100


def _positive(_: Any, attribute: attrs.Attribute[int], value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ConfigurationError(
            f"{attribute.name} must be a whole number of at least 1, not {value!r}"
        )


@attrs.frozen(kw_only=True)
class Limits:
    """How large a YAML text may be; checked before it is used.

    Attributes:
        size: Bytes of the text in UTF-8.
        depth: Lists and mappings inside each other.
        values: Scalars, lists and mappings in all, keys not counted.
    """

    size: int = attrs.field(default=2**20, validator=_positive)
    depth: int = attrs.field(default=40, validator=_positive)
    values: int = attrs.field(default=100_000, validator=_positive)


class Part:
    """One value of a YAML text and where it stands.

    Attributes:
        kind: ``scalar``, ``list`` or ``map``.
        plain: The value; containers hold the plain values of their children.
        items: The children of a list.
        pairs: ``(key, value)`` of a mapping, without those that were refused.
        style: How a scalar is quoted (``'``, ``"``, ``|``, ``>``), or ``""``.
        flow: Whether a list or mapping is written in brackets.
        line, column: Counted from 1.
        start, end: Offsets in the text; the end of a block list or mapping is not exact.
    """

    __slots__ = (
        "column",
        "end",
        "flow",
        "items",
        "kind",
        "line",
        "pairs",
        "plain",
        "start",
        "style",
    )

    def __init__(self, kind: Kind, plain: Any, event: Any) -> None:
        mark = event.start_mark
        self.kind = kind
        self.plain = plain
        self.items: list[Part] = []
        self.pairs: list[tuple[Part, Part]] = []
        self.style: str = ""
        self.flow = False
        self.line: int = mark.line + 1
        self.column: int = mark.column + 1
        self.start: int = mark.index
        self.end: int = event.end_mark.index

    def child(self, step: Any) -> tuple[Part | None, Part] | None:
        """Return ``(key, value)`` of one child, None where there is none."""
        if self.kind == "map":
            for key, value in self.pairs:
                if key.plain == step and type(key.plain) is type(step):
                    return key, value
        elif self.kind == "list" and isinstance(step, int) and step < len(self.items):
            return None, self.items[step]
        return None


@attrs.frozen
class Composed:
    """A whole document.

    Attributes:
        root: Its value.
        problems: What is wrong with its form; the value is then incomplete.
    """

    root: Part
    problems: tuple[Problem, ...]

    def locate(self, path: tuple[Any, ...], key: bool) -> tuple[int, int]:
        """Return line and column of the value at *path* (of its key), or of what is nearest."""
        part = self.root
        for index, step in enumerate(path):
            found = part.child(step)
            if found is None:
                break
            name, part = found
            if key and name is not None and index == len(path) - 1:
                part = name
        return part.line, part.column


# What YAML does not allow in a text at all; ruamel has the same list.
_NOT_TEXT = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BREAK: Final = re.compile("\r\n|\n|\r")

# ruamel shows some tokens as the tuple around them: ('[',)
_TUPLE = re.compile(r"\(('.+?'),\)")


def place_in(text: str, offset: int, name: str) -> Place:
    """Return line and column of an offset in *text*."""
    lines = _BREAK.split(text[:offset])
    return Place(name, len(lines), len(lines[-1]) + 1)


def compose(text: str, name: str, limits: Limits) -> Composed:
    """Return the one document of *text*.

    Args:
        text: Without a byte order mark.
        name: What to call it in problems.
        limits: Checked before the text is used.

    Raises:
        YamlError: It is too large, no YAML, or none or several documents.
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > limits.size:
        raise refusal(
            f"the text has {size:,} bytes, more than the limit of {limits.size:,}; "
            "split the workflow, or raise Limits(size=...)",
            Place(name, 1, 1),
            "too-large",
        )
    odd = _NOT_TEXT.search(text)
    if odd is not None:
        code = ord(odd[0])
        advice = f'write it as an escape between double quotes: "\\u{code:04x}"'
        if code == 0:
            advice = "is this a binary file, or UTF-16 without its mark? Save it as UTF-8"
        raise refusal(
            f"the character U+{code:04X} must not stand in YAML; {advice}",
            place_in(text, odd.start(), name),
            "bad-character",
        )
    return _Composer(name, limits).compose(text)


def refusal(message: str, place: Place, code: str) -> YamlError:
    """Return the error of a text that cannot be read at all."""
    return YamlError((Problem(message, place, code),))


class _Scanner(Scanner):
    """ruamel's scanner, without the tags that its parser would decode in quadratic time."""

    def scan_tag(self) -> Any:
        """Return the token of a tag, as long as it is short."""
        token = super().scan_tag()
        if len(str(token.value[1])) > _LONGEST_TAG:
            raise ScannerError(None, None, "this tag is too long", token.start_mark)
        return token


class _Composer:
    """Builds the parts of one document from the parser's events."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._name = name
        self._limits = limits
        self._problems: list[Problem] = []
        self._stack: list[tuple[Part, list[Part]]] = []  # each with its pending key, if any
        self._root: Part | None = None
        self._count = 0
        self._mark: Any = None

    def compose(self, text: str) -> Composed:
        """Read all events; see the module's own function."""
        parser = YAML(typ="safe", pure=True)
        parser.Scanner = _Scanner
        documents = 0
        try:
            for event in parser.parse(text):
                self._mark = event.start_mark
                if isinstance(event, DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self._fail(
                            "a second document starts here; a file holds one workflow",
                            event.start_mark,
                            "documents",
                        )
                else:
                    self._take(event)
        except YamlError:
            raise
        except MarkedYAMLError as error:
            self._syntax(error)
        except Exception as error:  # the parser lets ValueError, AttributeError and others out
            reason = str(error).partition("\n")[0] or type(error).__name__
            self._fail(f"this is not YAML: {reason}", self._mark, "syntax", error)
        if self._root is None:
            raise refusal(
                "the text is empty; a workflow needs name and nodes", self._at(None), "empty"
            )
        return Composed(self._root, tuple(self._problems))

    # Problems.

    def _at(self, mark: Any) -> Place:
        if mark is None:
            return Place(self._name, 1, 1)
        return Place(self._name, mark.line + 1, mark.column + 1)

    def _note(self, message: str, mark: Any, code: str) -> None:
        self._problems.append(Problem(message, self._at(mark), code))
        if len(self._problems) >= _MOST_PROBLEMS:
            raise YamlError(self._problems)

    def _fail(self, message: str, mark: Any, code: str, cause: Exception | None = None) -> NoReturn:
        raise YamlError((*self._problems, Problem(message, self._at(mark), code))) from cause

    def _syntax(self, error: MarkedYAMLError) -> NoReturn:
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "the text cannot be parsed"
        if error.context and error.problem:
            message = _TUPLE.sub(r"\1", message) + f" {error.context}"
            if error.context_mark is not None:
                message += f" that starts in line {error.context_mark.line + 1}"
        self._fail(message, mark, "syntax", error)

    # Events.

    def _take(self, event: Any) -> None:
        if isinstance(event, ScalarEvent):
            self._add(self._scalar(event))
        elif isinstance(event, MappingStartEvent):
            self._open(Part("map", {}, event), event)
        elif isinstance(event, SequenceStartEvent):
            self._open(Part("list", [], event), event)
        elif isinstance(event, CollectionEndEvent):
            part, _ = self._stack.pop()
            part.end = event.end_mark.index
            self._add(part)
        elif isinstance(event, AliasEvent):
            self._note(
                f"aliases are not read; write the value of *{str(event.anchor)[:60]} out",
                event.start_mark,
                "alias",
            )
            self._add(Part("scalar", None, event))

    def _checked(self, event: Any, kind: Kind) -> str | None:
        """Return the tag to obey, and note anchors and tags that are refused."""
        if event.anchor is not None:
            self._note(
                f"anchors and aliases are not read; remove &{str(event.anchor)[:60]}",
                event.start_mark,
                "anchor",
            )
        if event.ctag is None:
            return None
        tag = str(event.tag)
        if tag in CORE_TAGS[kind]:
            return tag
        self._note(
            f"the tag {tag!r} is not read; a workflow holds plain values only",
            event.start_mark,
            "tag",
        )
        return None

    def _scalar(self, event: ScalarEvent) -> Part:
        tag = self._checked(event, "scalar")
        text: str = event.value
        plain: Any = text
        try:
            if tag is not None:
                plain = tagged_scalar(tag, text)
            elif not event.style:
                plain = plain_scalar(text)
        except ValueError as error:
            self._note(str(error), event.start_mark, "bad-value")
        part = Part("scalar", plain, event)
        part.style = event.style or ""
        return part

    def _open(self, part: Part, event: Any) -> None:
        self._checked(event, part.kind)
        part.flow = bool(event.flow_style)
        if len(self._stack) >= self._limits.depth:
            self._fail(
                f"nested deeper than {self._limits.depth} levels; flatten the value, "
                "or raise Limits(depth=...)",
                event.start_mark,
                "too-deep",
            )
        self._stack.append((part, []))

    def _add(self, part: Part) -> None:
        if not self._stack:
            self._root = part
            self._tally(part)
            return
        parent, pending = self._stack[-1]
        if parent.kind == "list":
            parent.items.append(part)
            parent.plain.append(part.plain)
            self._tally(part)
        elif not pending:
            pending.append(part)
        else:
            self._tally(part)
            self._pair(parent, pending.pop(), part)

    def _tally(self, part: Part) -> None:
        self._count += 1
        if self._count > self._limits.values:
            self._fail(
                f"more than {self._limits.values:,} values; split the workflow, "
                "or raise Limits(values=...)",
                self._mark,
                "too-many",
            )

    def _pair(self, parent: Part, key: Part, value: Part) -> None:
        if key.kind != "scalar":
            self._note_at(key, "a key is a text, not a list or a mapping", "bad-key")
        elif key.plain == "<<" and not key.style:
            self._note_at(key, "merge keys are not read; write the keys out", "merge-key")
        elif key.plain in parent.plain:
            first = next(each.line for each, _ in parent.pairs if each.plain == key.plain)
            self._note_at(
                key,
                f"the key {str(key.plain)[:60]!r} is given twice, first in line {first}; drop one",
                "duplicate-key",
            )
        else:
            parent.pairs.append((key, value))
            parent.plain[key.plain] = value.plain

    def _note_at(self, part: Part, message: str, code: str) -> None:
        self._problems.append(Problem(message, Place(self._name, part.line, part.column), code))
        if len(self._problems) >= _MOST_PROBLEMS:
            raise YamlError(self._problems)
