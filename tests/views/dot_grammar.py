"""A reader of the DOT we write: Graphviz's lexical rules, and the statements that we use of it.

Graphviz itself (`lib/cgraph/scan.l`) unescapes only ``\\"`` in a quoted string; label and tooltip
are then unescaped once more by whoever draws them. `parse` does both.
"""

from __future__ import annotations

import html
import re
from typing import NamedTuple

_TOKEN = re.compile(
    r'\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<word>[A-Za-z_][A-Za-z0-9_]*)'
    r"|(?P<number>-?(?:\.\d+|\d+(?:\.\d*)?))|(?P<sign>->|[{}\[\]=;,]))",
    re.DOTALL,
)


class Drawn(NamedTuple):
    """What a DOT text says."""

    name: str
    settings: dict[str, str]
    defaults: dict[str, str]
    nodes: dict[str, dict[str, str]]
    edges: list[tuple[str, str, dict[str, str]]]


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise SyntaxError(f"no DOT token at {text[at : at + 30]!r}")
        tokens.append(match[match.lastgroup or 0])
        at = match.end()
    return tokens


def _text(token: str) -> str:
    """Return what a token stands for before any label is read: a name."""
    return token[1:-1].replace('\\"', '"') if token.startswith('"') else token


def _label(token: str) -> str:
    """Return what is drawn for a label or shown for a tooltip."""
    assert "\0" not in token
    text = re.sub(
        r"\\(.)",
        lambda match: "\n" if match[1] == "n" else match[1],
        _text(token),
        flags=re.DOTALL,
    )
    return html.unescape(text)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise SyntaxError(f"expected {expected or 'more'}, found {token or 'the end'}")
        self._at += 1
        return token

    def attributes(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.peek() != "[":
            return found
        self.take("[")
        while self.peek() != "]":
            name = self.take()
            self.take("=")
            value = self.take()
            found[name] = _label(value)
            if self.peek() == ",":
                self.take(",")
        self.take("]")
        return found

    def graph(self) -> Drawn:
        self.take("digraph")
        drawn = Drawn(_text(self.take()), {}, {}, {}, [])
        self.take("{")
        while self.peek() != "}":
            self._statement(drawn)
            self.take(";")
        self.take("}")
        if self.peek():
            raise SyntaxError(f"{self.peek()!r} after the end of the graph")
        return drawn

    def _statement(self, drawn: Drawn) -> None:
        name = self.take()
        if self.peek() == "=":
            self.take("=")
            drawn.settings[name] = _label(self.take())
        elif name == "node":
            drawn.defaults.update(self.attributes())
        elif self.peek() == "->":
            self.take("->")
            target = _text(self.take())
            drawn.edges.append((_text(name), target, self.attributes()))
        else:
            assert _text(name) not in drawn.nodes, "a node is declared twice"
            drawn.nodes[_text(name)] = self.attributes()


def parse(text: str) -> Drawn:
    """Return what *text* says.

    Raises:
        SyntaxError: It is not the DOT that we write.
    """
    return _Parser(text).graph()
