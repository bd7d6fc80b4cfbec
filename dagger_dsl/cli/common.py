"""What the subcommands share: exit codes, databases that have to be there, words."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from dagger_dsl.cli.parser import DEFAULT_DB
from dagger_dsl.errors import ConfigurationError

if TYPE_CHECKING:
    from dagger_dsl.store.storage import Store

__all__ = [
    "FAILED",
    "OK",
    "PAUSED",
    "STORE",
    "TIMED_OUT",
    "USAGE",
    "existing_store",
    "many",
    "resume_line",
]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
PAUSED: Final = 3
STORE: Final = 4
TIMED_OUT: Final = 124


def many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def resume_line(run_id: str, database: str, actions: str | None) -> str:
    """Return the command line that goes on with a run."""
    words = ["dagger-dsl", "resume", run_id]
    if actions is not None:
        words += ["--actions", actions]
    if database != DEFAULT_DB:
        words += ["--db", database]
    return shlex.join(words)


@contextmanager
def existing_store(url: str) -> Iterator[Store]:
    """Open a database that is there; looking at runs creates none.

    Raises:
        ConfigurationError: There is no such file.
    """
    from dagger_dsl.store.storage import Store

    store = Store(url)
    path = store.database.path
    if path is not None and not os.path.exists(path):
        raise ConfigurationError(
            f"there is no database at {path}; name the one that has the run by --db"
        )
    with store:
        yield store
