"""What an installation is made of, and what is wrong with it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sqlite3
import sys
from typing import TYPE_CHECKING, Any, Final

import dagger_dsl
from dagger_dsl.cli.common import command_line, looking, refuse_empty
from dagger_dsl.engine.words import count
from dagger_dsl.errors import DaggerError, StoreReadOnly

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
        "executable": sys.executable,
        "platform": platform.platform(),
        "sqlite": _sqlite(),
    }
    for name in _DEPENDENCIES:
        facts[name] = _version(name)
        if facts[name] is None:
            troubles.append(f"{name} is not installed; pip install --upgrade dagger-dsl")
    there = {extra: bool(importlib.util.find_spec(name)) for extra, name in _EXTRAS.items()}
    missing = [extra for extra, found in there.items() if not found]
    facts["extras"] = ", ".join(extra for extra, found in there.items() if found) or "none"
    if missing:
        facts["not installed"] = f"{', '.join(missing)} (pip install 'dagger-dsl[{missing[0]}]')"
    facts["graphviz"] = shutil.which("dot") or "not found; graphs can be saved, not drawn"
    facts |= _database(url, troubles, artifacts)
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


def _database(url: str, troubles: list[str], artifacts: bool) -> dict[str, Any]:
    """Return facts about a database; what is wrong with it goes to the troubles."""
    from dagger_dsl.store.health import damage_in, disk_of, journal_of, last_use_of
    from dagger_dsl.store.storage import Store
    from dagger_dsl.store.urls import shown_url

    facts: dict[str, Any] = {"database": shown_url(url)}
    try:
        store = Store(url)
        path = store.database.path
        disk = None if path is None else disk_of(path)
        if disk is not None:
            kind = disk.file_system or "unknown file system"
            facts["disk"] = f"{kind}, {disk.free / 1e9:,.1f} GB free"
            troubles += disk.troubles
        if path is not None and not os.path.exists(path):
            facts["database"] = f"{path}, not there yet"
            folder = os.path.dirname(path)
            if not os.path.isdir(folder):
                troubles.append(f"{folder} is no folder; create it, or name another place")
            elif not os.access(folder, os.W_OK):
                troubles.append(f"{folder} cannot be written; name another place")
            return facts
        refuse_empty(path)
        with _opened(store, troubles) as store:
            stats = store.stats()
            damage = damage_in(store.database) if path is not None else None
            read = f", {_read_artifacts(store, troubles)} artifacts read" if artifacts else ""
            runs = stats.rows.get("flow_runs", 0)
            where = store.database.where
            facts["database"] = f"{where}, {stats.total_bytes:,} bytes, {runs} runs{read}"
            if damage is not None:
                troubles.append(str(damage))
                return facts
            if path is not None:
                still = store.database.is_still  # SQLite was told that there is no journal
                facts["journal"] = "not known" if still else journal_of(store.database)
                facts["last use"] = last_use_of(store.database)
            facts["writable"] = _writable(store, troubles)
            facts["owners"] = _owners(store, url, troubles)
            facts["messages"] = _messages(store, url)
    except DaggerError as error:
        troubles.append(str(error))
    return facts


def _opened(store: Store, troubles: list[str]) -> Store:
    """Return a store that can be looked into, where it may not be written, too."""
    try:
        store.init_database()
    except StoreReadOnly as error:
        reader = looking(store)
        if reader is store:  # it has to be migrated before anybody can read it
            raise
        troubles.append(str(error))
        store.close()
        return reader
    return store


def _writable(store: Store, troubles: list[str]) -> str:
    """Take the lock that writers take, and give it back; nothing is written."""
    if store.database.read_only:
        return "no, it was opened with mode=ro"
    try:
        with store.writing():
            return "yes"
    except StoreReadOnly as error:
        troubles.append(str(error))
        return "no"


def _owners(store: Store, url: str, troubles: list[str]) -> str:
    """Return how many runs are executed, and by whom nobody is any more."""
    owned = store.list_runs(status="running")
    if store.database.read_only:
        return count(len(owned), "run") + " said to be executed"
    left = {each.run_id for each in store.orphans()}
    if left:
        line = command_line(url, "recover", "--actions", "MODULE_OR_FILE")
        troubles.append(
            f"{count(len(left), 'run')} left by a process that died: {_some(left)}; go on with "
            f"{'it' if len(left) == 1 else 'them'} by: {line}"
        )
    living = [each for each in owned if each.run_id not in left]
    processes = {str(each.owner) for each in living}
    by = f" by {_some(processes)}" if processes else ""
    return f"{count(len(living), 'run')} executed{by}"


def _messages(store: Store, url: str) -> str:
    """Return how messages stand: a backlog and dead letters are for people to judge, no fault."""
    from dagger_dsl.store.message_reads import MessageReads

    flow = MessageReads(store.database, store._payloads).flow()
    told = [f"{flow.total('published'):,} kept"]
    waiting, dead = flow.total("waiting"), flow.total("dead")
    if waiting:
        told.append(f"{waiting:,} waiting")
        idle = {each.name for each in flow.agents.values() if each.waiting and not each.owner}
        if idle:
            told.append(f"no process serves {_some(idle)}")
    if dead:
        line = command_line(url, "deadletters", "list")
        told.append(f"{count(dead, 'dead letter')}, which this lists: {line}")
    return ", ".join(told)


def _some(names: set[str]) -> str:
    first = sorted(names)[:3]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")


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
