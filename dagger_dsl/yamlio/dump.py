"""Writing a graph as YAML that people read and that every YAML parser understands alike.

ruamel's emitter does the writing; this module decides the layout: block style with the keys in the
documents' order, short lists of names in brackets, long text in blocks, and quotes around whatever
YAML 1.1 or 1.2 would take for something else than text. Equal graphs give equal text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.events import (
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)
from ruamel.yaml.tag import Tag

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.document import graph_to_plain
from dagger_dsl.model.graph import Graph
from dagger_dsl.yamlio._plain import looks_like_another_type

__all__ = ["dump_yaml"]

# Longest list of names that is written in brackets, in characters.
_BRACKETS = 72
# The emitter folds lines wider than this; folding is never wanted.
_WIDTH = 2**31

_STR, _OTHER = Tag(suffix="tag:yaml.org,2002:str"), Tag(suffix="tag:yaml.org,2002:null")

# Text that needs no quotes anywhere, not even in brackets or as a key.
_BARE = re.compile(
    r"[^\W\d_](?:[\w ./;()'+*=<>$@^~|!&%?-]*[\w./;()'+*=<>$@^~|!&%?-])?|[\d_.][\w.-]*"
)


def dump_yaml(graph: Graph) -> str:
    """Return *graph* as YAML; loading it gives an equal graph.

    Raises:
        EncodingError: The configuration's retry strategy holds Python objects.
    """
    check_graph(graph)
    return emit(graph_to_plain(graph))


def check_graph(graph: object) -> None:
    """Refuse what is no graph."""
    if not isinstance(graph, Graph):
        raise ConfigurationError(
            f"a Graph is written as YAML, not {graph!r}; compile() makes one of a DAG"
        )


def emit(
    plain: Any,
    *,
    blocks: bool = True,
    brackets: bool = False,
    brackets_inside: bool = False,
    dashed: bool = True,
) -> str:
    """Return a plain value as YAML.

    Args:
        plain: Text, numbers, booleans, None, lists, and mappings of them.
        blocks: Whether text of several lines may be written as a block.
        brackets: Whether lists and mappings are all written in brackets, on one line.
        brackets_inside: The same for what is inside the outermost mapping.
        dashed: Whether the items of a list are indented below their key.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.width = _WIDTH
    yaml.indent(mapping=2, sequence=4 if dashed else 2, offset=2 if dashed else 0)
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    text = io.StringIO()
    writer = _Writer(blocks, brackets_inside)
    yaml.emit(
        [
            StreamStartEvent(),
            DocumentStartEvent(explicit=False),
            *writer.value(plain, brackets),
            DocumentEndEvent(explicit=False),
            StreamEndEvent(),
        ],
        text,
    )
    return text.getvalue()


class _Writer:
    """Turns plain values into the emitter's events."""

    def __init__(self, blocks: bool, brackets_inside: bool) -> None:
        self._blocks = blocks
        self._brackets_inside = brackets_inside

    def value(self, plain: Any, flow: bool) -> Iterator[Any]:
        """Yield the events of one value."""
        if isinstance(plain, dict):
            flow = flow or not plain
            yield MappingStartEvent(None, None, True, flow_style=flow)
            for key, each in plain.items():
                yield self.scalar(key, is_key=True)
                yield from self.value(each, flow or self._brackets_inside)
            yield MappingEndEvent()
        elif isinstance(plain, list):
            flow = flow or _fits(plain)
            yield SequenceStartEvent(None, None, True, flow_style=flow)
            for each in plain:
                yield from self.value(each, flow)
            yield SequenceEndEvent()
        else:
            yield self.scalar(plain, is_key=flow)

    def scalar(self, plain: Any, is_key: bool) -> ScalarEvent:
        """Return the event of a scalar; keys, and what is in brackets, cannot be blocks."""
        if not isinstance(plain, str):
            return ScalarEvent(None, _OTHER, (True, True, True), _other(plain))
        if _is_bare(plain):
            return ScalarEvent(None, _STR, (True, True, True), plain)
        style = "|" if self._blocks and not is_key and _is_block(plain) else '"'
        return ScalarEvent(None, _STR, (False, True, True), plain, style=style)


def _other(plain: Any) -> str:
    if plain is None:
        return "null"
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, float):
        text = repr(plain)
        # YAML 1.1 wants a dot in a number with an exponent.
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return str(plain)


def _fits(items: list[Any]) -> bool:
    """Whether a list is short and simple enough for brackets."""
    return (
        all(not isinstance(each, (dict, list)) and "\n" not in str(each) for each in items)
        and sum(len(str(each)) + 2 for each in items) <= _BRACKETS
    )


def _is_bare(text: str) -> bool:
    return (
        len(text) < 100
        and _BARE.fullmatch(text) is not None
        and text.isprintable()
        and not looks_like_another_type(text)
    )


def _is_block(text: str) -> bool:
    """Whether *text* survives as a literal block: several lines, none of which ends in a space."""
    lines = text.split("\n")
    body = lines[:-1] if lines[-1] == "" else lines
    return (
        len(lines) > 1
        and bool(body)
        and body[-1] != ""
        and text[0] not in " \n"
        and all(line.isprintable() and line == line.rstrip() for line in body)
    )
