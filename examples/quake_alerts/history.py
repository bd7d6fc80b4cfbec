"""What agents have to remember, in a SQLite file of their own; each thing is taken once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS quakes (id TEXT PRIMARY KEY, region TEXT, time REAL, magnitude REAL);
CREATE INDEX IF NOT EXISTS by_region ON quakes (region, time);
CREATE TABLE IF NOT EXISTS notes (id TEXT PRIMARY KEY, kind TEXT, text TEXT);
"""


class History:
    """A file with what was seen. Agents of several threads share it.

    Args:
        path: Where; it is made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def add(self, quake: Mapping[str, Any]) -> None:
        """Add an earthquake, unless it is there."""
        values = (quake["id"], quake["region"], quake["time"], quake["magnitude"])
        self._rows("INSERT OR IGNORE INTO quakes VALUES (?, ?, ?, ?)", *values)

    def count(self, region: str, after: float, until: float, magnitude: float) -> int:
        """Return how many earthquakes of at least that magnitude a region had in a time."""
        ((number,),) = self._rows(
            "SELECT count(*) FROM quakes"
            " WHERE region = ? AND time > ? AND time <= ? AND magnitude >= ?",
            *(region, after, until, magnitude),
        )
        return int(number)

    def note(self, about: str, kind: str, text: str) -> None:
        """Note something, unless something was noted about the same."""
        self._rows("INSERT OR IGNORE INTO notes VALUES (?, ?, ?)", about, kind, text)

    def kinds(self) -> dict[str, int]:
        """Return how many notes there are of each kind."""
        return dict(self._rows("SELECT kind, count(*) FROM notes GROUP BY kind ORDER BY kind"))

    def notes(self, kind: str) -> list[tuple[str, str]]:
        """Return what the notes of a kind are about, and their texts."""
        found = self._rows("SELECT id, text FROM notes WHERE kind = ? ORDER BY id", kind)
        return [(str(about), str(text)) for about, text in found]
