"""What the subcommands share: exit codes, databases that have to be there, words."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TextIO

from dagger_dsl.cli.parser import DEFAULT_DB
from dagger_dsl.errors import ConfigurationError, RunNotFound, StoreVersionError, shown

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagger_dsl.store.runs import StoredRun
    from dagger_dsl.store.storage import Store

__all__ = [
    "BROKEN",
    "FAILED",
    "OK",
    "PAUSED",
    "STORE",
    "TIMED_OUT",
    "USAGE",
    "command_line",
    "died",
    "existing_store",
    "forget",
    "load_run",
    "no_run",
    "refuse_empty",
    "resume_line",
]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
PAUSED: Final = 3
STORE: Final = 4
BROKEN: Final = 70
TIMED_OUT: Final = 124


def command_line(database: str, *words: str) -> str:
    """Return the line that calls this command for a database."""
    from dagger_dsl.engine import command_lines  # each command that says so has loaded it

    return command_lines.command_line(database, *words, default=DEFAULT_DB)


def resume_line(
    run_id: str, database: str, actions: str | None, secrets: Iterable[str] = ()
) -> str:
    """Return the command line that goes on with a run; *secrets* have to be given again."""
    from dagger_dsl.engine import command_lines

    return command_lines.resume_line(database, run_id, actions, secrets, DEFAULT_DB)


def died(run_id: str, database: str, secrets: Iterable[str] = ()) -> tuple[str, str]:
    """Return the words for a run whose process died, and the command line that goes on with it."""
    from dagger_dsl.engine.words import DIED

    line = resume_line(run_id, database, "MODULE_OR_FILE", secrets)
    return f"{DIED}; go on with it by:", f"  {line}"


@contextmanager
def existing_store(url: str, *, read_only: bool = False) -> Iterator[Store]:
    """Open a database that is there; looking at runs creates none.

    Args:
        url: Where it is.
        read_only: The command only looks, as `looking` does.

    Raises:
        ConfigurationError: There is no such file.
        StoreVersionError: The file is empty, or of another program or a newer version.
    """
    from dagger_dsl.store.storage import Store

    store = Store(url)
    path = store.database.path
    if path is not None and not os.path.exists(path):
        raise ConfigurationError(
            f"there is no database at {path}; name the one that is meant by --db"
        )
    refuse_empty(path)
    if read_only and path is not None:
        store = looking(store)
    with store:
        yield store


def looking(store: Store) -> Store:
    """Return a store of the same file that only reads it, and may do no more.

    It is the same store where the file is of an older version: it has to be migrated before
    anybody can read it.
    """
    from dagger_dsl.store.storage import Store

    reader = Store(store.url.update_query_dict({"mode": "ro"}))
    try:
        reader.init_database()
    except StoreVersionError:
        reader.close()
        return store
    return reader


def existing_url(url: str, *, read_only: bool = False) -> sa.URL:
    """Return the URL by which the store of `existing_store` can be opened again."""
    with existing_store(url, read_only=read_only) as store:
        return store.url  # as it is: as text its path would be read anew, and its signs with it


def refuse_empty(path: str | None) -> None:
    """Refuse a file without content, which the store would take for a database to be made.

    Raises:
        StoreVersionError: It is empty, and so is its write-ahead log.
    """
    if path is not None and not os.path.getsize(path):
        wal = f"{path}-wal"
        if not (os.path.exists(wal) and os.path.getsize(wal)):
            raise StoreVersionError(
                f"{path} is an empty file, not a dagger_dsl database; restore a backup, or name "
                "another one by --db"
            )


def load_run(store: Store, run_id: str, database: str) -> StoredRun:
    """Return what is recorded of a run.

    Raises:
        RunNotFound: There is no such run; the message says which command lists them.
    """
    try:
        return store.load_run(run_id)
    except RunNotFound:
        raise no_run(store, run_id, database) from None


#: Ids that an unknown one is compared with, and those that are named when none is like it.
_COMPARED: Final = 1_000
_NAMED: Final = 3


def no_run(store: Store, run_id: str, database: str) -> RunNotFound:
    """Return the error that there is no such run: what could be meant, and what lists them all."""
    known = [each.run_id for each in store.list_runs(limit=_COMPARED)]
    close = difflib.get_close_matches(run_id[:_COMPARED], known, n=1)
    meant = "; this"
    if close:
        meant = f"; did you mean {shown(close[0])}? This"
    elif known:
        meant = f"; the newest: {', '.join(shown(each) for each in known[:_NAMED])}. This"
    return RunNotFound(
        f"{store.database.where} has no run {shown(run_id)}{meant} lists what there is:\n"
        f"  {command_line(database, 'runs')}"
    )


def forget(stream: TextIO) -> None:
    """Let what a broken stream still holds go nowhere: Python writes it once more at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
