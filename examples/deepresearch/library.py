"""A library to search in: what Python says of itself, thousands of sections, without a network.

Its sections are the chapters of Python's own help topics and the docstrings of the standard
library, both read from the sources that every Python brings, with `ast`: nothing of it is imported.
They are put into a SQLite file with a full-text index, which ranks by BM25.
"""

from __future__ import annotations

import ast
import os
import re
import sqlite3
import sysconfig
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

__all__ = ["Section", "build", "read", "search", "sections", "stem", "words"]

STDLIB = Path(sysconfig.get_path("stdlib"))

#: Folders of it that hold no library, or one that nobody asks for.
_ELSEWHERE = {"test", "idlelib", "lib2to3", "turtledemo", "site-packages", "encodings", "ensurepip"}

#: A heading of a help topic, with the line below it.
_HEADING = re.compile(r"^(\S.*)\n([*=~^-])\2{3,}$", re.MULTILINE)

#: Words that say nothing about what a text is about.
_SMALL = """
    about after all also and any are been but can does each for from had has have how into its may
    more not one only other out some such than that the their them then there these they this those
    was were what when where whether which while who why will with would you
"""


class Section(NamedTuple):
    """A part of the library: where it stands, and what it says."""

    name: str
    text: str


def words(text: str) -> list[str]:
    """Return the words of a text that say what it is about, each once, in order."""
    found = re.findall(r"[a-z]{3,}", text.lower())
    return list(dict.fromkeys(each for each in found if each not in _SMALL.split()))


def stem(word: str) -> str:
    """Return a word without its ending, so that "waits" and "waiting" are one."""
    for ending in ("ing", "ies", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word.removesuffix(ending)
    return word


def sections() -> Iterator[Section]:
    """Yield all that there is, in an order that is always the same."""
    yield from _topics(STDLIB / "pydoc_data" / "topics.py")
    for path in sorted(STDLIB.rglob("*.py")):
        inside = path.relative_to(STDLIB)
        if _ELSEWHERE & set(inside.parts) or any(
            part.startswith("_") for part in inside.parts[:-1]
        ):
            continue
        name = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a file that is there to be wrong
            continue
        yield from _docstrings(name, tree)


def _topics(path: Path) -> Iterator[Section]:
    (topics,) = (
        node.value
        for node in ast.parse(path.read_bytes()).body
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict)
    )
    for topic, text in ast.literal_eval(topics).items():
        # Heading, sign and text of each chapter follow each other.
        before, *chapters = _HEADING.split(text)
        for title, body in [("", before), *zip(chapters[::3], chapters[2::3], strict=True)]:
            if len(body.split()) >= 12:
                yield Section(f"help({topic!r}) {title.strip()}".strip(), body.strip())


def _docstrings(name: str, node: ast.Module | ast.ClassDef | ast.stmt) -> Iterator[Section]:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    text = ast.get_docstring(node)
    if text and len(text.split()) >= 12:
        yield Section(name, text)
    if isinstance(node, ast.Module | ast.ClassDef):
        for each in node.body:
            own = getattr(each, "name", "")
            if isinstance(own, str) and own and not own.startswith("_"):
                yield from _docstrings(f"{name}.{own}", each)


def build(path: Path) -> int:
    """Make the library, unless it is there; return how many sections it has."""
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.unlink(missing_ok=True)
        with closing(sqlite3.connect(unfinished)) as db, db:
            db.execute("CREATE VIRTUAL TABLE sections USING fts5(name, text, tokenize='porter')")
            db.executemany("INSERT INTO sections VALUES (?, ?)", sections())
        os.replace(unfinished, path)  # nobody ever finds half a library
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM sections").fetchone()[0])


def search(path: Path, query: str, limit: int) -> list[str]:
    """Return the names of the sections that have most to do with the words of a query."""
    terms = " OR ".join(f'"{word}"' for word in words(query))
    if not terms:
        return []
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT name FROM sections WHERE sections MATCH ?"
            " ORDER BY bm25(sections, 2.0, 1.0), name LIMIT ?",
            (terms, limit),
        )
        return [name for (name,) in rows]


def read(path: Path, name: str) -> Section:
    """Return a section."""
    with closing(sqlite3.connect(path)) as db:
        row = db.execute("SELECT name, text FROM sections WHERE name = ?", (name,)).fetchone()
    return Section(*row)
