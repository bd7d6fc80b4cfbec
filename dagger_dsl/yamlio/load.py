"""Loading workflows from YAML: legacy files and native ones, by the same strict rules.

A text becomes plain values (`_compose`), these become a graph (`dagger_dsl.model.document`), and
everything that is wrong comes back together, with file, line and column. What is wrong but harmless
(a key nobody knows) is logged, and kept by `Document`.
"""

from __future__ import annotations

import codecs
import graphlib
import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from dagger_dsl.errors import ConfigurationError, Place, Problem, YamlError, cycle_problem
from dagger_dsl.model.document import read_graph
from dagger_dsl.model.graph import Graph
from dagger_dsl.yamlio._compose import Composed, Limits, compose, refusal
from dagger_dsl.yamlio._plain import looks_like_another_type

__all__ = ["GraphList", "load_yaml", "load_yaml_dir", "load_yaml_file"]

_log = logging.getLogger("dagger_dsl.yamlio")

#: The byte order mark.
BOM: Final = "\ufeff"
# Longest first: the mark of UTF-32 starts with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class GraphList(list[Graph]):
    """The graphs of a directory.

    Attributes:
        problems: What kept files from loading, and warnings, in the order of the files.
    """

    def __init__(self, graphs: Iterable[Graph] = (), problems: Iterable[Problem] = ()) -> None:
        super().__init__(graphs)
        self.problems = tuple(problems)


def load_yaml(
    text: str | bytes, *, name: str = "<text>", limits: Limits | None = None, strict: bool = False
) -> Graph:
    """Return the graph that a YAML text describes.

    Args:
        text: The text, or its bytes in UTF-8 (with a byte order mark also UTF-16 and UTF-32).
        name: What to call it in problems; a file's path.
        limits: Bounds on size, depth and number of values; by default those of `Limits`.
        strict: Whether a key nobody knows is an error; otherwise it is logged and left out.

    Raises:
        YamlError: Something is wrong; every problem is listed with file, line and column.
    """
    limits = checked_limits(limits)
    graph, problems = read_text(decoded(text, name, limits), name, limits, strict)[:2]
    announce(problems)
    return graph


def load_yaml_file(
    path: str | os.PathLike[str], *, limits: Limits | None = None, strict: bool = False
) -> Graph:
    """Return the graph that a YAML file describes.

    Args:
        path: The file.
        limits, strict: As for `load_yaml`.

    Raises:
        YamlError: It cannot be read, or something in it is wrong.
    """
    limits = checked_limits(limits)
    data = read_bytes(path, limits)
    return load_yaml(data, name=os.fsdecode(path), limits=limits, strict=strict)


def load_yaml_dir(
    path: str | os.PathLike[str], strict: bool = True, *, limits: Limits | None = None
) -> GraphList:
    """Return the graphs of all ``*.yaml`` and ``*.yml`` files of a directory, by file name.

    Args:
        path: The directory; those inside it are not searched.
        strict: Whether one bad file refuses all; otherwise it is logged, its problems are in the
            list's `problems`, and the other files load.
        limits: Bounds on each file.

    Raises:
        YamlError: The directory cannot be read, or *strict* and a file is bad; the problems of
            all files are listed.
    """
    limits = checked_limits(limits)
    _check_path(path)
    try:
        files = sorted(
            each
            for each in Path(path).iterdir()
            if each.suffix.lower() in (".yaml", ".yml") and each.is_file()
        )
    except OSError as error:
        raise _unreadable(path, error) from error
    graphs: list[Graph] = []
    problems: list[Problem] = []
    failed: list[Problem] = []
    for file in files:
        try:
            text = decoded(read_bytes(file, limits), str(file), limits)
            graph, found, _ = read_text(text, str(file), limits, strict=False)
        except YamlError as error:
            failed.extend(error.problems)
            problems.extend(error.problems)
        else:
            graphs.append(graph)
            problems.extend(found)
    if failed and strict:
        raise YamlError(failed)
    announce(problems)
    return GraphList(graphs, problems)


def checked_limits(limits: Limits | None) -> Limits:
    """Return *limits*, the usual ones for None; refuse anything else."""
    if limits is None:
        return Limits()
    if not isinstance(limits, Limits):
        raise ConfigurationError(f"limits are a Limits(size=..., ...) or None, not {limits!r}")
    return limits


def _check_path(path: object) -> None:
    # A number would be taken for an open file.
    if not isinstance(path, str | bytes | os.PathLike):
        raise ConfigurationError(f"a path is a text or a pathlib.Path, not {path!r}")


def read_bytes(path: str | os.PathLike[str], limits: Limits | None) -> bytes:
    """Return the bytes of a file, at most one more than the limit allows."""
    _check_path(path)
    # UTF-16 and UTF-32 take up to four bytes where UTF-8 takes one.
    most = 4 * checked_limits(limits).size + 4
    try:
        with open(path, "rb") as file:
            return file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike[str], error: Exception) -> YamlError:
    reason = getattr(error, "strerror", None) or str(error)
    return refusal(f"cannot be read: {reason}", Place(file=os.fsdecode(path)), "unreadable")


def decoded(text: str | bytes, name: str, limits: Limits | None) -> str:
    """Return *text* as it stands in the file, byte order mark included.

    Raises:
        YamlError: The bytes are not of the encoding that their mark says, or not UTF-8.
    """
    if isinstance(text, str):
        return text
    if not isinstance(text, bytes):
        raise ConfigurationError(
            f"YAML is read from a text or its bytes, not {text!r}; a path goes to the functions "
            "for files"
        )
    encoding = next((code for mark, code in _MARKS if text.startswith(mark)), "utf-8")
    try:
        return text.decode(encoding)
    except UnicodeDecodeError as error:
        before = text[: error.start].decode(encoding, "replace")
        line = before.count("\n") + 1
        column = len(before) - before.rfind("\n")
        raise refusal(
            f"the bytes are not {encoding.upper()}: {error.reason}; save the file as UTF-8",
            Place(name, line, column),
            "encoding",
        ) from None


def read_text(
    text: str, name: str, limits: Limits | None, strict: bool
) -> tuple[Graph, list[Problem], Composed]:
    """Return the graph of a decoded text, the warnings, and the values with their places.

    Raises:
        YamlError: Something is wrong.
    """
    composed = compose(text.removeprefix(BOM), name, checked_limits(limits))

    def locate(path: tuple[Any, ...], key: bool) -> Place:
        line, column = composed.locate(path, key)
        return Place(name, line, column)

    try:
        graph, found = read_graph(composed.root.plain, locate=locate, strict=strict)
    except RecursionError:
        raise refusal("nested too deep; flatten the value", locate((), False), "too-deep") from None
    problems = [*composed.problems, *_ambiguous_ids(composed, name)]
    # What was refused in form was left out, so reading complains about the same line once more.
    seen = {problem.place.line for problem in problems}
    problems += [each for each in found if each.place.line not in seen]
    if graph is not None:
        problems += _cycles(graph, locate)
    problems.sort(key=_order)
    if graph is None or any(each.severity == "error" for each in problems):
        raise YamlError(problems)
    return graph, problems, composed


def _order(problem: Problem) -> tuple[bool, int, int]:
    """Sort by place; how many more there are comes last."""
    place = problem.place
    return problem.code == "more", place.line or 0, place.column or 0


def _ambiguous_ids(composed: Composed, name: str) -> Iterable[Problem]:
    """Yield ids without quotes that other YAML parsers read as numbers, booleans or null."""
    nodes = composed.root.child("nodes")
    for node in nodes[1].items if nodes is not None else ():
        found = node.child("id")
        if found is None:
            continue
        part = found[1]
        if isinstance(part.plain, str) and not part.style and looks_like_another_type(part.plain):
            yield Problem(
                f"the id {part.plain} is a number, a boolean or a date to some YAML parsers; "
                f'put it in quotes: "{part.plain}"',
                Place(name, part.line, part.column),
                "bad-id",
            )


def _cycles(graph: Graph, locate: Any) -> Sequence[Problem]:
    """Return the problem of nodes that wait for each other, at the first of them."""
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for node in graph.nodes.values():
        sorter.add(node.id, *node.dependencies)
    for edge in graph.labelled:
        sorter.add(edge.target, edge.source)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        path: list[str] = error.args[1]
        place = locate(("nodes", list(graph.nodes).index(path[0])), False)
        place.node = path[0]
        return (cycle_problem(path, place),)
    return ()


def announce(problems: Iterable[Problem]) -> None:
    """Log what did not keep a text from loading; old words are deprecated the usual way."""
    for problem in problems:
        if problem.code == "deprecated":
            warnings.warn(str(problem), DeprecationWarning, stacklevel=3)
        else:
            _log.warning("%s", problem)
