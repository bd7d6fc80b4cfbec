"""What an installation is made of, and what is wrong with it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any, Final

import dagger_dsl
from dagger_dsl.cli.common import refuse_empty
from dagger_dsl.errors import DaggerError

if TYPE_CHECKING:
    from dagger_dsl.store.storage import Store

__all__ = ["examine"]

#: From here on SQLite itself keeps checkpoints and commits apart (sqlite.org/wal.html#walresetbug).
_WAL_RESET_FIXED: Final = (3, 51, 3)

_DEPENDENCIES: Final = (
    "attrs",
    "cattrs",
    "ruamel.yaml",
    "SQLAlchemy",
    "tenacity",
    "rich",
    "orjson",
    "jsonschema-rs",
)

#: Bytes of an artifact that are read at once.
_PIECE: Final = 1 << 20

#: A module of each extra.
_EXTRAS: Final = {
    "notebook": "ipykernel",
    "processes": "cloudpickle",
    "dask": "distributed",
    "postgres": "psycopg",
    "otel": "opentelemetry",
}


def examine(url: str, *, artifacts: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Return facts by name and troubles.

    Args:
        url: The database to look into, when it is there.
        artifacts: Whether to read each of its artifacts and compare it with its id.
    """
    troubles: list[str] = []
    facts: dict[str, Any] = {
        "dagger_dsl": dagger_dsl.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "sqlite": _sqlite(),
    }
    for name in _DEPENDENCIES:
        facts[name] = _version(name)
        if facts[name] is None:
            troubles.append(f"{name} is not installed; pip install --upgrade dagger-dsl")
    found = [extra for extra, module in _EXTRAS.items() if importlib.util.find_spec(module)]
    facts["extras"] = ", ".join(found) or "none"
    facts["graphviz"] = shutil.which("dot") or "not found; graphs can be saved, not drawn"
    facts["database"] = _database(url, troubles, artifacts)
    return facts, troubles


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _sqlite() -> str:
    text = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < _WAL_RESET_FIXED:
        return (
            f"{text} (has the WAL-reset bug, fixed in 3.51.3; commits and checkpoints are kept "
            "apart by a lock file)"
        )
    return text


def _database(url: str, troubles: list[str], artifacts: bool) -> str:
    from dagger_dsl.store.storage import Store

    try:
        store = Store(url)
        path = store.database.path
        if path is not None and not os.path.exists(path):
            return f"{path}, not there yet"
        refuse_empty(path)
        with store:
            stats = store.stats()
            damage = _check(store) if path is not None else None
            read = f", {_read_artifacts(store, troubles)} artifacts read" if artifacts else ""
    except DaggerError as error:
        troubles.append(str(error))
        return url
    if damage is not None:
        troubles.append(damage)
    runs = stats.rows.get("flow_runs", 0)
    return f"{store.database.where}, {stats.total_bytes:,} bytes, {runs} runs{read}"


def _read_artifacts(store: Store, troubles: list[str]) -> int:
    """Read every artifact, which compares it with its id; return how many there are."""
    rows = store.query("SELECT artifact_id FROM artifacts ORDER BY artifact_id")
    for row in rows:
        try:
            with store.open_artifact(row["artifact_id"]) as file:
                while file.read(_PIECE):
                    pass
        except DaggerError as error:
            troubles.append(str(error))
    return len(rows)


def _check(store: Store) -> str | None:
    with store.reading() as connection:
        found = [row[0] for row in connection.exec_driver_sql("PRAGMA quick_check")]
    if found == ["ok"]:
        return None
    return f"{store.database.where} is damaged: {found[0]}; restore a backup"
