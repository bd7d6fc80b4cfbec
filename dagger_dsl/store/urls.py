"""`normalize_url`: every spelling of a database that the documents use, as one SQLAlchemy URL."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from dagger_dsl.errors import ConfigurationError, DaggerError, MissingExtra, did_you_mean
from dagger_dsl.store.peek import DRIVER as _DRIVER
from dagger_dsl.store.peek import MEMORY, SCHEME, path_in

__all__ = [
    "MEMORY",
    "SYNCHRONOUS",
    "is_memory",
    "is_memory_url",
    "missing_driver",
    "normalize_url",
    "shown_url",
]

SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")

#: Names of what a URL may have in its query and nobody should see.
_SECRET = re.compile("pass|secret|token|key", re.IGNORECASE)

POSTGRESQL = "postgresql+psycopg"

_HELP = "write for example 'sqlite:state.db', 'sqlite::memory:' or 'postgresql+psycopg://...'"


def normalize_url(text: str | os.PathLike[str] | sa.URL) -> sa.URL:
    """Return the URL that *text* means.

    ``sqlite::memory:``, ``sqlite:file.db?mode=wal&busy_timeout=5000``, ``sqlite:///file.db``,
    a bare path such as ``pipeline.db`` and `pathlib.Path` objects mean SQLite. ``postgresql://``
    means PostgreSQL with psycopg; another driver that is named is kept. SQLite's options:
    ``busy_timeout`` (milliseconds), ``synchronous`` (``NORMAL``, ``FULL``) and ``mode`` (``ro``
    opens read only; ``wal``, ``rw``, ``rwc`` say what is so anyway).

    Raises:
        ConfigurationError: It is no URL and no path, or an option or the database is unknown.
    """
    if isinstance(text, sa.URL):
        if text.get_backend_name() != "sqlite":
            return _foreign(text)
        return _sqlite(text.database or MEMORY, _single(text.query), text)
    if isinstance(text, os.PathLike):
        return _sqlite(os.fspath(text), {}, text)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ConfigurationError(f"{text!r} is no database URL; {_HELP}")
    text = text.strip()
    scheme = SCHEME.match(text)
    if scheme is not None and scheme[1].partition("+")[0] not in ("sqlite", "file"):
        return _foreign(text)
    if scheme is not None and "+" in scheme[1] and scheme[1] != _DRIVER:
        raise ConfigurationError(f"{text!r}: the SQLite driver is {_DRIVER}, not {scheme[1]}")
    body, _, options = text.partition("?")
    return _sqlite(path_in(body), _options(options, text), text)


def is_memory(url: sa.URL) -> bool:
    """Whether a normalised URL names a database that lives in memory."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", MEMORY)


def _foreign(text: str | sa.URL) -> sa.URL:
    """Return the URL of another database; only PostgreSQL is supported, by default with psycopg."""
    try:
        url = sa.make_url(text)
        if url.drivername == "postgresql":
            url = url.set(drivername=POSTGRESQL)
        dialect = url.get_dialect()
    except NoSuchModuleError:
        name = str(text).partition(":")[0]
        hint = "; write 'postgresql+psycopg://'" if name == "postgres" else f"; {_HELP}"
        raise ConfigurationError(f"SQLAlchemy knows no database {name!r}{hint}") from None
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError(f"this is no database URL ({error}); {_HELP}") from None
    if url.get_backend_name() != "postgresql":
        raise ConfigurationError(f"{url.get_backend_name()} is not supported; {_HELP}")
    if dialect.is_async:
        raise ConfigurationError(f"the driver of {url.drivername} is asynchronous; {_HELP}")
    return url


def missing_driver(url: sa.URL) -> DaggerError:
    """Return the error that a database's driver is not installed."""
    if url.drivername == POSTGRESQL:
        return MissingExtra(f"a database at {POSTGRESQL}://", "postgres")
    return ConfigurationError(
        f"the driver of {url.drivername} is not installed; write {POSTGRESQL}:// and install "
        "dagger-dsl[postgres], or install that driver"
    )


def _options(query: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise ConfigurationError(f"{text!r} gives {name} twice; keep one of them")
        options[name] = value
    return options


def _single(query: Mapping[str, str | tuple[str, ...]]) -> dict[str, str]:
    return {name: each if isinstance(each, str) else each[-1] for name, each in query.items()}


def _sqlite(path: str, options: dict[str, str], text: object) -> sa.URL:
    if not path or "\0" in path:
        raise ConfigurationError(f"{text!r} names no database file; {_HELP}")
    kept: dict[str, str] = {}
    for name, value in options.items():
        check = _CHECKS.get(name.lower())
        if check is None:
            raise ConfigurationError(
                f"{text!r}: there is no option {name!r}{did_you_mean(name, _CHECKS)}"
            )
        kept |= check(value)
    if kept.pop("memory", None):
        path = MEMORY
    return sa.URL.create(_DRIVER, database=path, query=kept)


def _mode(value: str) -> dict[str, str]:
    lowered = value.lower()
    if lowered in ("wal", "rw", "rwc"):
        return {}  # a file database is always in WAL mode and created when missing
    if lowered in ("ro", "memory"):
        return {"mode": "ro"} if lowered == "ro" else {"memory": "1"}
    raise ConfigurationError(f"mode must be wal, rw, rwc, ro or memory, not {value!r}")


def _journal(value: str) -> dict[str, str]:
    if value.lower() != "wal":
        raise ConfigurationError(
            f"journal_mode must be wal, not {value!r}: other modes lose results in a power cut"
        )
    return {}


def _busy_timeout(value: str) -> dict[str, str]:
    if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        raise ConfigurationError(f"busy_timeout is a whole number of milliseconds, not {value!r}")
    return {"busy_timeout": str(int(value))}


def _synchronous(value: str) -> dict[str, str]:
    if value.upper() not in SYNCHRONOUS:
        raise ConfigurationError(
            f"synchronous must be one of {', '.join(SYNCHRONOUS)}, not {value!r}"
        )
    return {"synchronous": value.upper()}


_CHECKS = {
    "mode": _mode,
    "journal_mode": _journal,
    "busy_timeout": _busy_timeout,
    "synchronous": _synchronous,
}


def is_memory_url(text: str) -> bool:
    """Return whether a database is gone when its process is."""
    try:
        return is_memory(normalize_url(text))
    except DaggerError:
        return False


def shown_url(text: str) -> str:
    """Return a database's URL as anybody may see it: without passwords and other secrets."""
    try:
        url = normalize_url(text)
    except DaggerError:
        return "a database whose URL cannot be read"
    if url.get_backend_name() == "sqlite":
        return str(text)
    hidden = [key for key in url.query if _SECRET.search(key)]
    return url.update_query_dict(dict.fromkeys(hidden, "***")).render_as_string(hide_password=True)
