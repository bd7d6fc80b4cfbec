"""Spellings of a database."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from dagger_dsl.errors import ConfigurationError, MissingExtra, RunNotFound
from dagger_dsl.store.database import normalize_url
from dagger_dsl.store.storage import Store
from dagger_dsl.store.urls import is_memory


@pytest.mark.row("C25")
@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:file.db", "file.db"),
        ("sqlite:workflows.db", "workflows.db"),
        ("sqlite:pipeline.db?mode=wal", "pipeline.db"),
        ("sqlite:state.db?mode=wal&busy_timeout=5000", "state.db"),
        ("sqlite:///x.db", "x.db"),
        ("sqlite:////tmp/x.db", "/tmp/x.db"),
        ("sqlite:/tmp/x.db", "/tmp/x.db"),
        ("sqlite://x.db", "x.db"),
        ("sqlite+pysqlite:///x.db", "x.db"),
        ("file:x.db?mode=rwc", "x.db"),
        ("db", "db"),
        ("dagger_db", "dagger_db"),
        ("pipeline.db", "pipeline.db"),
        ("folder/x.db?synchronous=NORMAL", "folder/x.db"),
        ("  db ", "db"),
        ("C:\\data\\x.db", "C:\\data\\x.db"),
        (Path("a") / "b.db", str(Path("a") / "b.db")),
        (sa.make_url("sqlite:///x.db"), "x.db"),
    ],
)
def test_every_spelling_of_a_file(text: str, path: str) -> None:
    url = normalize_url(text)
    assert (url.drivername, url.database) == ("sqlite+pysqlite", path)
    assert not is_memory(url)
    assert normalize_url(url) == url


@pytest.mark.row("C24", "A41")
@pytest.mark.parametrize(
    "text",
    [
        "sqlite::memory:",
        ":memory:",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:x?mode=memory",
        sa.make_url("sqlite://"),
    ],
)
def test_every_spelling_of_memory(text: str) -> None:
    assert is_memory(normalize_url(text))


@pytest.mark.row("C26", "C27")
def test_options_are_kept_only_where_they_say_something() -> None:
    url = normalize_url("sqlite:x.db?mode=wal&busy_timeout=7000&synchronous=normal")
    assert dict(url.query) == {"busy_timeout": "7000", "synchronous": "NORMAL"}
    assert dict(normalize_url("x.db?mode=ro").query) == {"mode": "ro"}
    assert dict(normalize_url("x.db?journal_mode=WAL&mode=rw").query) == {}


def test_postgresql_means_the_driver_that_the_extra_brings() -> None:
    text = "postgresql+psycopg://user:secret@host:5432/db?sslmode=require"
    assert normalize_url(text) == sa.make_url(text)
    assert normalize_url(sa.make_url(text)) == sa.make_url(text)
    assert normalize_url("postgresql://user:secret@host:5432/db?sslmode=require") == (
        sa.make_url(text)
    )
    assert normalize_url("postgresql+pg8000://host/db").drivername == "postgresql+pg8000"


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_missing_driver_names_the_extra(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dagger-dsl\[postgres\]'") as caught:
        Store(f"{scheme}://user:secret@host/db")
    assert "secret" not in str(caught.value)


def test_a_missing_driver_of_somebody_elses_names_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pg8000", None)
    with pytest.raises(ConfigurationError, match=r"postgresql\+pg8000 is not .*psycopg://"):
        Store("postgresql+pg8000://host/db")


def test_messages_call_a_database_in_memory_as_it_is_written() -> None:
    with Store(":memory:") as store, pytest.raises(RunNotFound, match=r"^sqlite::memory: has no"):
        store.load_run("r")


@pytest.mark.row("C25")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no database URL"),
        ("   ", "is no database URL"),
        ("a\0b", "is no database URL"),
        (None, "is no database URL"),
        (7, "is no database URL"),
        ("sqlite:", "names no database file"),
        ("?mode=wal", "names no database file"),
        ("sqlite:x.db?mode=fast", "mode must be wal, rw, rwc, ro or memory"),
        ("sqlite:x.db?journal_mode=off", "lose results"),
        ("sqlite:x.db?busy_timeout=5s", "whole number of milliseconds"),
        ("sqlite:x.db?busy_timeout=-1", "whole number of milliseconds"),
        ("sqlite:x.db?synchronous=maybe", "OFF, NORMAL, FULL, EXTRA"),
        ("sqlite:x.db?busy_timout=5", "did you mean 'busy_timeout'"),
        ("sqlite:x.db?mode=wal&mode=ro", "twice"),
        ("sqlite+aiosqlite:///x.db", "the SQLite driver is sqlite.pysqlite"),
        ("postgres://host/db", "write 'postgresql"),
        ("nosuch://host/db", "knows no database 'nosuch'"),
        ("mysql://user:secret@host/db", "^mysql is not supported; write for example 'sqlite:"),
        ("mysql+pymysql://host/db", "^mysql is not supported"),
        (sa.make_url("oracle://host/db"), "^oracle is not supported"),
        ("postgresql+asyncpg://host/db", "is asynchronous; write"),
        ("postgresql://host:port/db", "is no database URL"),
    ],
)
def test_errors_show_the_way_out(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        normalize_url(text)


@pytest.mark.row("C25")
def test_the_named_file_is_the_one_that_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("sqlite:file.db?mode=wal", "dagger_db", "sqlite:///x.db", f"sqlite:{tmp_path}/y"):
        with Store(text) as store:
            assert store.list_runs() == []
    found = {path.name for path in tmp_path.iterdir() if not path.name.endswith("-lock")}
    assert found == {"file.db", "dagger_db", "x.db", "y"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pool_size": 0}, "pool_size"),
        ({"busy_timeout": -1}, "busy_timeout"),
        ({"busy_timeout": "5"}, "busy_timeout"),
        ({"lease": 0}, "lease"),
        ({"synchronous": "never"}, "synchronous"),
        ({"artifact_threshold": -1}, "threshold"),
    ],
)
def test_options_of_a_store_are_checked(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Store("x.db", **options)  # type: ignore[arg-type]
