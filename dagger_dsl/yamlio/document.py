"""`Document`: a YAML file as its author wrote it, together with the graph it describes."""

from __future__ import annotations

import os
from typing import Any

import attrs

from dagger_dsl.errors import Problem, YamlError
from dagger_dsl.model.document import graph_to_plain
from dagger_dsl.model.graph import Graph
from dagger_dsl.yamlio._compose import Composed, Limits
from dagger_dsl.yamlio._edit import edit_text
from dagger_dsl.yamlio._merge import merge
from dagger_dsl.yamlio.dump import check_graph, dump_yaml, emit
from dagger_dsl.yamlio.load import BOM, announce, checked_limits, decoded, read_bytes, read_text

__all__ = ["Document", "load_document", "load_document_file"]

# Ever larger parts are written anew, until the text says what it shall: single keys and items,
# whole nodes, whole top-level values.
_DEPTHS = (None, 2, 1)


@attrs.frozen(eq=False)
class Document:
    """A YAML text, its comments and unknown keys included, and the graph it describes.

    Attributes:
        text: The text as it stands in the file.
        name: What problems call it.
        graph: What it describes.
        problems: What is odd but harmless: keys that nobody knows, old words.
    """

    text: str
    name: str
    graph: Graph
    problems: tuple[Problem, ...]
    _composed: Composed = attrs.field(repr=False)
    _limits: Limits = attrs.field(repr=False)

    def dump(self, graph: Graph | None = None) -> str:
        """Return the text that describes *graph*; loading it gives an equal graph.

        Without a graph, or with an equal one, the text comes back byte for byte. Otherwise only
        what changed is written anew: comments, order, layout and unknown keys stay elsewhere.

        Args:
            graph: A changed version of the document's graph.

        Raises:
            EncodingError: The graph's configuration holds Python objects.
        """
        if graph is None or graph == self.graph:
            return self.text
        check_graph(graph)
        mark = BOM if self.text.startswith(BOM) else ""
        text = self.text[len(mark) :]
        target = merge(self._composed.root.plain, graph_to_plain(self.graph), graph_to_plain(graph))
        for depth in _DEPTHS:
            edited = edit_text(text, self._composed.root, target, depth)
            if edited is not None and self._says(edited, graph):
                return mark + edited
        whole = emit(target)
        return mark + (whole if self._says(whole, graph) else dump_yaml(graph))

    def _says(self, text: str, graph: Graph) -> bool:
        # Whether the result is too large for its reader is the reader's question, not this one's.
        limits = Limits(
            size=max(self._limits.size, 8 * len(text)),
            depth=max(self._limits.depth, 1_000),
            values=max(self._limits.values, len(text)),
        )
        try:
            return read_text(text, self.name, limits, strict=False)[0] == graph
        except YamlError:
            return False


def load_document(
    text: str | bytes, *, name: str = "<text>", limits: Limits | None = None, strict: bool = False
) -> Document:
    """Return a YAML text as a `Document`.

    Args:
        text: The text, or its bytes in UTF-8 (with a byte order mark also UTF-16 and UTF-32).
        name: What to call it in problems; a file's path.
        limits: Bounds on size, depth and number of values.
        strict: Whether a key nobody knows is an error.

    Raises:
        YamlError: Something is wrong; every problem is listed with file, line and column.
    """
    document = _document(text, name, limits, strict)
    announce(document.problems)
    return document


def load_document_file(
    path: str | os.PathLike[str], *, limits: Limits | None = None, strict: bool = False
) -> Document:
    """Return a YAML file as a `Document`.

    Raises:
        YamlError: It cannot be read, or something in it is wrong.
    """
    limits = checked_limits(limits)
    document = _document(read_bytes(path, limits), os.fsdecode(path), limits, strict)
    announce(document.problems)
    return document


def _document(text: Any, name: str, limits: Limits | None, strict: bool) -> Document:
    limits = checked_limits(limits)
    decoded_text = decoded(text, name, limits)
    graph, problems, composed = read_text(decoded_text, name, limits, strict)
    return Document(decoded_text, name, graph, tuple(problems), composed, limits)
