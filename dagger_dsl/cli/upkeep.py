"""``db``, ``doctor`` and the like: looking after a database, an installation, a shell."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.cli.common import FAILED, OK, existing_store
from dagger_dsl.cli.screen import Screen
from dagger_dsl.engine.words import count
from dagger_dsl.errors import ConfigurationError

if TYPE_CHECKING:
    from dagger_dsl.store.storage import Store

__all__ = ["completion", "db", "doctor", "version"]


def db(arguments: argparse.Namespace, screen: Screen) -> int:
    """Do one piece of upkeep on a database."""
    with existing_store(arguments.db, read_only=arguments.action in _LOOKING) as store:
        content, text = _UPKEEP[arguments.action](store, arguments)
    if screen.as_json:
        screen.json(content)
    else:
        screen.result(text)
    return OK


def _stats(store: Store, _arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    import attrs

    stats = store.stats()
    lines = [
        store.database.where,
        f"  database {stats.database_bytes:,} bytes ({stats.free_bytes:,} free)",
        f"  write-ahead log {stats.wal_bytes:,} bytes",
        f"  artifacts {stats.artifact_bytes:,} bytes in {count(stats.artifact_files, 'file')}",
        *(f"  {table}: {count(rows, 'row')}" for table, rows in stats.rows.items()),
    ]
    return attrs.asdict(stats), "\n".join(lines)


def _prune(store: Store, arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    import datetime as dt

    import attrs

    if arguments.older_than is None and arguments.keep_last is None:
        raise ConfigurationError("say what may go: --older-than DAYS or --keep-last N")
    age = None if arguments.older_than is None else dt.timedelta(days=arguments.older_than)
    report = store.prune(age, arguments.keep_last, arguments.dry_run)
    word = "would remove" if report.dry_run else "removed"
    text = (
        f"{word} {count(len(report.runs), 'run')}, {count(len(report.jobs), 'job')}, "
        f"{count(report.messages, 'message')}, "
        f"{count(len(report.artifacts), 'artifact')}, "
        f"{count(report.files, 'file')} of {report.bytes:,} bytes"
    )
    return attrs.asdict(report), text


def _backup(store: Store, arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    path = store.backup(arguments.path)
    return {"path": str(path)}, f"written: {path}"


def _vacuum(store: Store, _arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    freed = store.vacuum()
    return {"freed_bytes": freed}, f"gave {freed:,} bytes back to the disk"


_UPKEEP: Final[Mapping[str, Callable[[Any, argparse.Namespace], tuple[dict[str, Any], str]]]] = {
    "stats": _stats,
    "prune": _prune,
    "backup": _backup,
    "vacuum": _vacuum,
}

#: Those that change nothing.
_LOOKING: Final = ("stats", "backup")


def doctor(arguments: argparse.Namespace, screen: Screen) -> int:
    """Print what this installation is made of, and what is wrong with it."""
    from dagger_dsl.cli.doctor import examine

    facts, troubles = examine(arguments.db, artifacts=arguments.artifacts)
    if screen.as_json:
        screen.json({**facts, "troubles": troubles})
    else:
        width = max(map(len, facts)) + 1
        for name, value in facts.items():
            screen.result(f"{f'{name}:':{width}} {value}")
        for trouble in troubles:
            screen.error(f"trouble: {trouble}")
    return FAILED if troubles else OK


def completion(arguments: argparse.Namespace, screen: Screen) -> int:
    """Print the script that completes the command in a shell."""
    from dagger_dsl.cli.completion import SCRIPTS

    screen.result(SCRIPTS[arguments.shell].rstrip())
    return OK


def version(_arguments: argparse.Namespace, screen: Screen) -> int:
    """Print the version."""
    import dagger_dsl

    screen.result(f"dagger-dsl {dagger_dsl.__version__}")
    return OK
