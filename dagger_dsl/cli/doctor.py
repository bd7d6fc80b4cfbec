"""What an installation is made of, and what is wrong with it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sqlite3
from typing import Any, Final

import dagger_dsl
from dagger_dsl.errors import DaggerError

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

#: A module of each extra.
_EXTRAS: Final = {
    "notebook": "ipykernel",
    "processes": "cloudpickle",
    "dask": "distributed",
    "postgres": "psycopg",
    "otel": "opentelemetry",
}


def examine(url: str) -> tuple[dict[str, Any], list[str]]:
    """Return facts by name and troubles.

    Args:
        url: The database to look into, when it is there.
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
    facts["database"] = _database(url, troubles)
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


def _database(url: str, troubles: list[str]) -> str:
    from dagger_dsl.store.storage import Store

    try:
        store = Store(url)
        path = store.database.path
        if path is not None and not os.path.exists(path):
            return f"{path}, not there yet"
        with store:
            stats = store.stats()
            damage = _check(store) if path is not None else None
    except DaggerError as error:
        troubles.append(str(error))
        return url
    if damage is not None:
        troubles.append(damage)
    runs = stats.rows.get("flow_runs", 0)
    return f"{store.database.where}, {stats.total_bytes:,} bytes, {runs} runs"


def _check(store: Any) -> str | None:
    with store.reading() as connection:
        found = [row[0] for row in connection.exec_driver_sql("PRAGMA quick_check")]
    if found == ["ok"]:
        return None
    return f"{store.database.where} is damaged: {found[0]}; restore a backup"
