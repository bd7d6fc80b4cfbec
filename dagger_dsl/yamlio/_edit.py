"""Editing YAML text in place: only what changed is written anew, everything else stays as it is.

ruamel's round-trip mode attaches a comment to the token before it, so comments move or vanish when
a node is removed, and it lays lines out afresh. Here the places of the values decide instead: an
edit replaces the characters of one value, one key or one list item.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagger_dsl.yamlio._compose import Part
from dagger_dsl.yamlio._merge import identities, same
from dagger_dsl.yamlio.dump import emit

__all__ = ["edit_text"]


class _CannotEdit(Exception):
    """The layout is too unusual; whoever asked replaces more."""


def edit_text(
    text: str, root: Part, target: dict[Any, Any], depth: int | None = None
) -> str | None:
    """Return *text* with the values of *target* in it, or None where its layout is too unusual.

    Args:
        text: Without a byte order mark.
        root: The text's values with their places.
        target: What they shall be.
        depth: Levels at which changes are made in place; below, a value is replaced whole.
    """
    if root.kind != "map" or root.flow or not root.pairs:
        return None
    editor = _Editor(text, root, depth)
    try:
        return editor.apply(editor.map_edits(root, target, 0), 0, len(text))
    except _CannotEdit:
        return None


_Edit = tuple[int, int, str]


class _Editor:
    def __init__(self, text: str, root: Part, depth: int | None) -> None:
        self._text = text
        self._depth = depth
        self._newline = "\r\n" if "\r\n" in text else "\n"
        nodes = root.child("nodes")
        # Lists may stand right below their key, without indentation; new ones follow suit.
        self._dashed = not (
            nodes is not None and nodes[1].kind == "list" and nodes[1].column == root.column
        )

    def apply(self, edits: list[_Edit], start: int, end: int) -> str:
        """Return the text from *start* to *end* with *edits* made."""
        pieces: list[str] = []
        here = start
        for first, last, new in sorted(edits, key=lambda edit: edit[:2]):
            if first < here or last > end:
                raise _CannotEdit
            pieces += [self._text[here:first], new]
            here = last
        return "".join(pieces) + self._text[here:end]

    # Places.

    def _line_start(self, offset: int) -> int:
        return max(self._text.rfind("\n", 0, offset), self._text.rfind("\r", 0, offset)) + 1

    def _line_end(self, offset: int) -> int:
        """Return where the line of *offset* ends, before its break."""
        ends = [self._text.find(mark, offset) for mark in "\r\n"]
        return min((end for end in ends if end >= 0), default=len(self._text))

    def _next_line(self, offset: int) -> int:
        """Return where the line after that of *offset* starts."""
        end = self._line_end(offset)
        return (
            end + (2 if self._text.startswith("\r\n", end) else 1) if end < len(self._text) else end
        )

    def _break_before(self, start: int) -> int:
        """Return where the line break before the line at *start* begins."""
        return start - (2 if self._text.startswith("\r\n", max(start - 2, 0)) else 1)

    def _starts_line(self, offset: int) -> bool:
        return not self._text[self._line_start(offset) : offset].strip(" ")

    def _content_end(self, part: Part) -> int:
        """Return where the characters of a value end, before comments and blank lines."""
        while part.kind != "scalar" and not part.flow:
            children = part.items if part.kind == "list" else [value for _, value in part.pairs]
            if not children:
                break
            part = children[-1]
        if part.style in ("|", ">"):
            return part.start + len(self._text[part.start : part.end].rstrip())
        return part.end

    # New text.

    def _fragment(self, value: Any, column: int, **how: bool) -> str:
        """Return *value* as lines of which all but the first are indented to *column* (from 0)."""
        if isinstance(value, (dict, list)):
            text = emit(value, dashed=self._dashed, **how)
        else:  # alone, a scalar would bring the marks of a document
            text = emit({"k": value}, dashed=self._dashed, **how).removeprefix("k: ")
        lines = text.rstrip("\n").split("\n")
        indent = " " * column
        return self._newline.join(
            line if index == 0 or not line else indent + line for index, line in enumerate(lines)
        )

    def _inline(self, part: Part, value: Any) -> str | None:
        """Return *value* on one line, in brackets if *part* was; None where it needs several."""
        pair = emit({"k": value}, blocks=False)
        if part.flow and (isinstance(value, dict) or "\n" in pair.rstrip("\n")):
            pair = emit({"k": value}, brackets_inside=True)
            if isinstance(value, list) and len(pair) > 120:
                return None
        line = pair.rstrip("\n")
        return None if "\n" in line else line.removeprefix("k: ")

    # Edits.

    def map_edits(self, part: Part, target: dict[Any, Any], level: int) -> list[_Edit]:
        """Return the edits that make a block mapping say *target*."""
        kept = [(key, value) for key, value in part.pairs if key.plain in target]
        if not kept or len(part.pairs) != len(part.plain):
            raise _CannotEdit
        edits = self._removals(part, kept)
        for key, value in kept:
            wanted = target[key.plain]
            if not same(value.plain, wanted):
                edits += self._pair_edits(key, value, wanted, level + 1)
        before: tuple[Part, Part] | None = None
        known = {key.plain: (key, value) for key, value in kept}
        for name, wanted in target.items():
            if name in known:
                before = known[name]
                continue
            pair = self._fragment({name: wanted}, part.column - 1)
            if before is None:
                first = kept[0][0].start
                edits.append((first, first, pair + self._newline + " " * (part.column - 1)))
            else:
                end = self._line_end(self._content_end(before[1]))
                edits.append((end, end, self._newline + " " * (part.column - 1) + pair))
        return edits

    def _removals(self, part: Part, kept: list[tuple[Part, Part]]) -> list[_Edit]:
        """Return the edits that take pairs out of a block mapping."""
        edits: list[_Edit] = []
        gone = {id(key) for key, _ in part.pairs} - {id(key) for key, _ in kept}
        first = kept[0][0].start
        for index, (key, value) in enumerate(part.pairs):
            if id(key) not in gone:
                continue
            if key.start < first:
                if index == 0:  # the first pair may stand behind a dash
                    edits.append((key.start, first, ""))
                continue
            if not self._starts_line(key.start):
                raise _CannotEdit
            start = self._comments_above(self._line_start(key.start), key.column - 1)
            # With the break before it, so that something can still be added behind the end.
            edits.append((self._break_before(start), self._line_end(self._content_end(value)), ""))
        return edits

    def _comments_above(self, start: int, column: int | None = None) -> int:
        """Return where the comment lines right above the line at *start* begin."""
        while start > 0:
            above = self._line_start(self._break_before(start))
            line = self._text[above:start]
            if not line.lstrip(" ").startswith("#"):
                break
            if column is not None and len(line) - len(line.lstrip(" ")) != column:
                break
            start = above
        return start

    def _pair_edits(self, key: Part, value: Part, wanted: Any, level: int) -> list[_Edit]:
        """Return the edits that give a key of a block mapping another value."""
        inside = self._inside(value, wanted, level)
        if inside is not None:
            return inside
        end = self._content_end(value)
        inline = self._inline(value, wanted)
        if inline is not None and (value.kind == "scalar" or value.flow):
            space = " " if value.start == value.end else ""
            return [(value.start, end, space + inline)]
        commented = "#" in self._text[end : self._line_end(end)]
        pair = self._fragment({key.plain: wanted}, key.column - 1, blocks=not commented)
        return [(key.start, end, pair)]

    def _inside(self, part: Part, wanted: Any, level: int) -> list[_Edit] | None:
        """Return edits inside a block list or mapping, None where it is replaced whole."""
        if part.flow or not wanted or (self._depth is not None and level > self._depth):
            return None
        edits: Callable[[Part, Any, int], list[_Edit]]
        if part.kind == "map" and isinstance(wanted, dict):
            edits = self.map_edits
        elif part.kind == "list" and isinstance(wanted, list):
            edits = self.list_edits
        else:
            return None
        try:
            return edits(part, wanted, level)
        except _CannotEdit:
            return None

    def list_edits(self, part: Part, target: list[Any], level: int) -> list[_Edit]:
        """Return the edits that make a block list say *target*."""
        names, wanted = identities(part.plain), identities(target)
        if names is None or wanted is None or not self._starts_line(part.start):
            raise _CannotEdit
        if names == wanted:
            return [
                edit
                for item, value in zip(part.items, target, strict=True)
                if not same(item.plain, value)
                for edit in self._item_edits(item, value, level + 1)
            ]
        return [self._rebuilt(part, names, dict(zip(wanted, target, strict=True)), level)]

    def _item_edits(self, item: Part, value: Any, level: int) -> list[_Edit]:
        inside = self._inside(item, value, level)
        if inside is not None:
            return inside
        inline = self._inline(item, value)
        if inline is None or (isinstance(value, (dict, list)) and not item.flow):
            inline = self._fragment(
                value, item.column - 1, brackets=isinstance(value, list), blocks=False
            )
        space = " " if item.start == item.end else ""
        return [(item.start, self._content_end(item), space + inline)]

    def _rebuilt(self, part: Part, names: list[Any], wanted: dict[Any, Any], level: int) -> _Edit:
        """Return the one edit that writes a list's items in another order, or other items."""
        column = part.column - 1
        starts = [self._chunk_start(part, index) for index in range(len(part.items))]
        ends = [self._next_line(self._content_end(item)) for item in part.items]
        gaps = [self._text[end:start] for end, start in zip(ends, starts[1:], strict=False)]
        spaced = gaps and all(gap.startswith(("\n", "\r")) for gap in gaps)
        usual = self._newline if spaced else ""
        index_of = {name: index for index, name in enumerate(names)}
        out: list[str] = []
        previous: int | None = None
        carried = 1  # the first item whose lead, if it has comments, is not yet written
        for name, value in wanted.items():
            index = index_of.get(name)
            if index is None:
                lead = usual
                body = " " * column + "- " + self._fragment(value, column + 2) + self._newline
            else:
                item = part.items[index]
                edits = [] if same(item.plain, value) else self._item_edits(item, value, level + 1)
                body = self.apply(edits, starts[index], ends[index])
                # Comments that stand alone before an item that goes stay where they are.
                lead = "".join(gap for gap in gaps[carried - 1 : index] if "#" in gap)
                carried = max(carried, index + 1)
                if not lead:
                    follows = previous is not None and index == previous + 1
                    lead = gaps[index - 1] if follows else usual
            out += [lead if out or "#" in lead else "", self._ended(body)]
            previous = index
        out += [gap for gap in gaps[carried - 1 :] if "#" in gap]
        last = self._line_end(self._content_end(part.items[-1]))  # its break is not ours to write
        return starts[0], last, "".join(out).removesuffix(self._newline)

    def _ended(self, body: str) -> str:
        return body if body.endswith(("\n", "\r")) else body + self._newline

    def _chunk_start(self, part: Part, index: int) -> int:
        """Return where an item begins: its dash's line, or the comments right above it."""
        if index == 0:
            return self._line_start(part.start)
        column = part.column - 1
        floor = self._next_line(self._content_end(part.items[index - 1]))
        start = self._line_start(part.items[index].start)
        while start >= floor:
            line = self._text[start : start + column + 1]
            if len(line) > column and line[column] == "-" and not line[:column].strip(" "):
                return max(self._comments_above(start), floor)
            start = self._line_start(start - 1) if start else -1
        raise _CannotEdit
