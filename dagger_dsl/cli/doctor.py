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
from dagger_dsl.cli.common import command_line, many, refuse_empty
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

#: File systems on which processes of two hosts do not see each other's locks or shared memory
#: (sqlite.org/wal.html: "WAL does not work over a network filesystem").
_NETWORK: Final = (
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
    "vboxsf",
)

#: Bytes below which a disk is as good as full.
_LOW: Final = 100 * 1024 * 1024

#: Where Linux says what is mounted.
_MOUNTS: Final = "/proc/self/mounts"


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
    from dagger_dsl.store.storage import Store

    facts: dict[str, Any] = {"database": url}
    try:
        store = Store(url)
        path = store.database.path
        if path is not None:
            facts |= _disk(path, troubles)
        if path is not None and not os.path.exists(path):
            facts["database"] = f"{path}, not there yet"
            folder = os.path.dirname(path)
            if not os.path.isdir(folder):
                troubles.append(f"{folder} is no folder; create it, or name another place")
            elif not os.access(folder, os.W_OK):
                troubles.append(f"{folder} cannot be written; name another place")
            return facts
        refuse_empty(path)
        with store:
            stats = store.stats()
            damage = _check(store) if path is not None else None
            read = f", {_read_artifacts(store, troubles)} artifacts read" if artifacts else ""
            runs = stats.rows.get("flow_runs", 0)
            where = store.database.where
            facts["database"] = f"{where}, {stats.total_bytes:,} bytes, {runs} runs{read}"
            if damage is not None:
                troubles.append(damage)
                return facts
            if path is not None:
                facts["journal"] = _journal(store)
                facts["last use"] = _last_use(store, path)
            facts["writable"] = _writable(store, troubles)
            facts["owners"] = _owners(store, url, troubles)
    except DaggerError as error:
        troubles.append(str(error))
    return facts


def _disk(path: str, troubles: list[str]) -> dict[str, str]:
    """Return what a file lies on, where the system tells."""
    folder = os.path.dirname(path)
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # there is no such folder, which opening the database says
        return {}
    kind = _file_system(folder)
    if kind in _NETWORK:
        troubles.append(
            f"{path} is on a network file system ({kind}), where SQLite's write-ahead log does not "
            "work between hosts; move it to a local disk, or use PostgreSQL"
        )
    if free < _LOW:
        troubles.append(f"the disk of {path} has {free:,} bytes left; free some space")
    return {"disk": f"{kind or 'unknown file system'}, {free / 1e9:,.1f} GB free"}


def _file_system(folder: str) -> str | None:
    """Return the type of the file system that a folder is on, None where nobody says."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split(" ")[1:3] for line in file]
    except OSError:  # another system than Linux
        return None
    real = os.path.realpath(folder)
    best, kind = "", None
    for where, each in mounts:
        # Of several on one place the last one is seen.
        point = where.replace("\\040", " ")
        inside = real == point or real.startswith(f"{point.rstrip('/')}/")
        if inside and len(point) >= len(best):
            best, kind = point, each
    return kind


def _journal(store: Store) -> str:
    with store.reading() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    wal = f"{store.database.path}-wal"
    size = os.path.getsize(wal) if os.path.exists(wal) else 0
    return f"{mode}, synchronous={store.database.synchronous}, {size:,} bytes in the log"


def _last_use(store: Store, path: str) -> str:
    """Return whether who wrote last closed the file; asked before anything here writes."""
    from dagger_dsl.store.locks import PRESENCE

    lock = f"{path}-lock"
    marked = os.path.exists(lock) and os.path.getsize(lock) > 0
    if not marked:
        return "closed in order"
    if store.database.is_locked(PRESENCE):
        return "in use"
    return "left without closing; the next process that writes checks the file first"


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
        return many(len(owned), "run") + " said to be executed"
    left = {each.run_id for each in store.orphans()}
    if left:
        line = command_line(url, "recover", "--actions", "MODULE_OR_FILE")
        troubles.append(
            f"{many(len(left), 'run')} left by a process that died: {_some(left)}; go on with "
            f"{'it' if len(left) == 1 else 'them'} by: {line}"
        )
    living = [each for each in owned if each.run_id not in left]
    processes = {str(each.owner) for each in living}
    by = f" by {_some(processes)}" if processes else ""
    return f"{many(len(living), 'run')} executed{by}"


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


def _check(store: Store) -> str | None:
    with store.reading() as connection:
        found = [row[0] for row in connection.exec_driver_sql("PRAGMA quick_check")]
    if found == ["ok"]:
        return None
    return f"{store.database.where} is damaged: {found[0]}; restore a backup"
