"""What a shell asks for at each key: ids that a database holds, read by `sqlite3` alone.

Loading SQLAlchemy takes longer than people wait for a completion. Nothing here writes, waits or
raises: a database that is missing, busy, damaged or no file has no ids.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["DRIVER", "MEMORY", "SCHEME", "file_of", "graph_names", "node_ids", "path_in", "run_ids"]

MEMORY: Final = ":memory:"
DRIVER: Final = "sqlite+pysqlite"

#: What begins a URL; `sqlite:state.db` and bare paths have none.
SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+._-]+)://", re.ASCII)

#: Ids at most; nobody reads more of them.
_MOST: Final = 200

#: Seconds to wait for somebody who keeps the whole database locked.
_PATIENCE: Final = 0.2


def path_in(body: str) -> str:
    """Strip the scheme; as in SQLAlchemy three slashes are relative and four absolute."""
    for head in (f"{DRIVER}:", "sqlite:", "file:"):
        if body.lower().startswith(head):
            rest = body[len(head) :]
            if rest.startswith("///"):
                return rest[3:] or MEMORY
            if rest.startswith("//"):
                return rest[2:] or MEMORY
            return rest
    return body


def file_of(url: str) -> str | None:
    """Return the path of the file that a URL names, None where it is no file that is there."""
    text = url.strip()
    scheme = SCHEME.match(text)
    if scheme is not None and scheme[1].partition("+")[0] not in ("sqlite", "file"):
        return None
    path = path_in(text.partition("?")[0])
    return path if "\0" not in path and os.path.isfile(path) else None


def run_ids(url: str, start: str = "") -> list[tuple[str, str]]:
    """Return the ids that begin with *start*, the newest first, each with its graph and status.

    Runs nested in others are among them where *start* has a slash, as theirs have.
    """
    outer = "" if "/" in start else " AND parent_run_id IS NULL"
    rows = _rows(
        url,
        "SELECT run_id, flow_name, status FROM flow_runs WHERE substr(run_id, 1, ?) = ?"
        f"{outer} ORDER BY created_at DESC, run_id LIMIT ?",
        (len(start), start, _MOST),
    )
    return [(str(run_id), f"{name}, {status}") for run_id, name, status in rows]


def graph_names(url: str) -> list[str]:
    """Return the names of the graphs that have runs."""
    rows = _rows(url, "SELECT DISTINCT flow_name FROM flow_runs ORDER BY 1 LIMIT ?", (_MOST,))
    return [str(name) for (name,) in rows]


def node_ids(url: str, run_id: str) -> list[tuple[str, str]]:
    """Return the nodes of a run, each with its state where one is recorded.

    First those that it began with, then those that it grew.
    """
    found: dict[str, str] = {}
    for (text,) in _rows(url, "SELECT graph FROM flow_runs WHERE run_id = ?", (run_id,)):
        try:
            found = {str(node["id"]): "" for node in json.loads(text)["nodes"]}
        except (ValueError, LookupError, TypeError, RecursionError):
            return []
    recorded = _rows(
        url,
        "SELECT node_id, state FROM node_runs WHERE run_id = ? AND invocation_key = 'default'"
        " ORDER BY seq",
        (run_id,),
    )
    return list((found | {str(name): str(state) for name, state in recorded}).items())


def _rows(url: str, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    import sqlite3
    from contextlib import closing

    path = file_of(url)
    if path is None:
        return []
    where = f"{Path(os.path.abspath(path)).as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(where, timeout=_PATIENCE, uri=True)) as connection:
            return connection.execute(sql, values).fetchall()
    except (sqlite3.Error, ValueError, OverflowError):
        return []
