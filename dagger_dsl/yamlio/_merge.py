"""Bringing a changed graph into the plain values of the document it came from.

`merge` takes what the document says, what that meant (`graph_to_plain` of its graph) and what it
shall mean, and gives back what the document shall say: whatever did not change keeps the form its
author chose, and keys that nobody knows stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["identities", "merge", "same"]

#: Other spellings of a key, by the kind of mapping.
_NODE_ALIASES: Final = {"on_failure": "onfailure"}
_CONFIG_ALIASES: Final = {"onfailure": "on_failure"}

#: Keys whose values are data: nothing in them is unknown, so another form is another content.
_DATA: Final = frozenset({"value", "metadata", "default", "schema"})


def same(left: Any, right: Any) -> bool:
    """Whether two plain values are equal, types included (1 is neither 1.0 nor true)."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right) or (left != left and right != right)


def merge(doc: dict[Any, Any], old: dict[str, Any], new: dict[str, Any]) -> dict[Any, Any]:
    """Return what a document shall say.

    Args:
        doc: What it says.
        old: The plain form of its graph.
        new: The plain form of the changed graph.
    """
    old, new = dict(old), dict(new)
    listed = doc.get("edges") or []
    edges = _edges(listed, new)
    for plain in (old, new):
        plain.pop("edges", None)
    if not same(edges, listed):
        old["edges"] = listed
        if edges:
            new["edges"] = edges
    return _map(doc, old, new)


def _value(key: Any, doc: Any, old: Any, new: Any) -> Any:
    if same(old, new):
        return doc
    if key in _DATA and not same(doc, old):
        return new
    if isinstance(doc, dict) and isinstance(old, dict) and isinstance(new, dict):
        return _map(doc, old, new, _CONFIG_ALIASES if key == "config" else {})
    if isinstance(doc, list) and isinstance(old, list) and isinstance(new, list):
        if key == "tags":  # a set, which the graph keeps sorted
            return [each for each in doc if each in new] + [each for each in new if each not in doc]
        return _list(doc, old, new, _NODE_ALIASES if key == "nodes" else {})
    return new


def _map(
    doc: dict[Any, Any],
    old: dict[str, Any],
    new: dict[str, Any],
    aliases: Mapping[str, str] | None = None,
) -> dict[Any, Any]:
    spelling = aliases or {}
    result: dict[Any, Any] = {}
    written: dict[str, Any] = {}  # canonical key -> key in the document
    for key, value in doc.items():
        name = spelling.get(key, key)
        if name in new:
            result[key] = _value(name, value, old[name], new[name]) if name in old else new[name]
            written[name] = key
        elif name not in old:
            result[key] = value
    order = list(result)
    before: Any = None
    for name, value in new.items():
        if name in written:
            before = written[name]
        elif name not in old or not same(old[name], value):  # else the document implies it
            result[name] = value
            order.insert(order.index(before) + 1 if before is not None else 0, name)
            before = name
    return {key: result[key] for key in order}


def identities(items: list[Any]) -> list[Any] | None:
    """Return what tells the items of a list apart, None where something does not."""
    found = [_identity(each) for each in items]
    return found if None not in found and len(set(found)) == len(found) else None


def _identity(item: Any) -> Any:
    if isinstance(item, dict):
        for key in ("id", "name"):
            if isinstance(item.get(key), str):
                return ("named", item[key])
        if "source" in item and "target" in item:
            return ("edge", repr(item))
        return None
    if isinstance(item, str):
        return ("named", item)
    return (type(item).__name__, repr(item))


def _list(doc: list[Any], old: list[Any], new: list[Any], aliases: Mapping[str, str]) -> list[Any]:
    keys = [identities(each) for each in (doc, old, new)]
    if keys[0] is None or keys[1] is None or keys[2] is None:
        return new
    written, meant = dict(zip(keys[0], doc, strict=True)), dict(zip(keys[1], old, strict=True))
    return [
        _item(written[key], meant[key], value, aliases)
        if key in written and key in meant
        else value
        for key, value in zip(keys[2], new, strict=True)
    ]


def _item(doc: Any, old: Any, new: Any, aliases: Mapping[str, str]) -> Any:
    if same(old, new):
        return doc
    if isinstance(doc, dict) and isinstance(old, dict) and isinstance(new, dict):
        return _map(doc, old, new, aliases)
    return new


def _ends(edge: Any) -> tuple[Any, Any, Any]:
    """Return ``(source, target, when)`` of an edge in either of its forms."""
    if isinstance(edge, list):
        return edge[0], edge[1], None
    when = edge.get("when")
    return (
        edge.get("source"),
        edge.get("target"),
        str(when).lower() if isinstance(when, bool) else when,
    )


def _edges(doc: list[Any], new: dict[str, Any]) -> list[Any]:
    """Return the document's edges that still hold, then new labelled ones.

    An edge without a label is a dependency of its target, and the graph keeps it there only.
    """
    waits = {node["id"]: node.get("dependencies", ()) for node in new["nodes"]}
    labelled = {_ends(edge): edge for edge in new.get("edges", ())}
    kept = [
        edge
        for edge in doc
        if _ends(edge) in labelled
        or (_ends(edge)[2] is None and _ends(edge)[0] in waits.get(_ends(edge)[1], ()))
    ]
    if [_ends(edge) for edge in kept if _ends(edge)[2] is not None] == list(labelled):
        return kept
    written = {_ends(edge): edge for edge in kept}
    return [edge for edge in kept if _ends(edge)[2] is None] + [
        written.get(ends, edge) for ends, edge in labelled.items()
    ]
