"""What surrounds a run: its configuration, where it is recorded, how it is resumed."""

from __future__ import annotations

import datetime as dt
import enum
import platform
import re
import shlex
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl.errors import DaggerError
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.values import Secret
from dagger_dsl.views.excerpt import excerpt
from dagger_dsl.views.page import block, code, definitions, fold, table, text

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport

__all__ = ["answer", "configuration", "environment", "moment", "resume", "without_password"]

#: Names of what a database's URL may have in its query and nobody should see.
_SECRET: Final = re.compile("pass|secret|token|key", re.IGNORECASE)


def resume(report: RunReport) -> str:
    """Return how to go on with a run."""
    url = report.database_url
    if url is None or _is_memory(url):
        return (
            '<p class="note">This run is in memory only. With <code>database_url=</code> it could '
            "be resumed where it stops.</p>"
        )
    where = without_password(url)
    line = shlex.join(
        [
            *("dagger-dsl", "resume", report.run_id),
            *("--actions", "MODULE_OR_FILE", "--db", where),
            *(word for each in _secrets(report) for word in ("--input", f"{each}=VALUE")),
        ]
    )
    return (
        "<p>This goes on with the run where it stopped; <code>MODULE_OR_FILE</code> has its "
        f"actions:</p>{block(line, label='Command')}"
    )


def answer(report: RunReport, node_id: str) -> str:
    """Return how a node gets the answer that it waits for; nothing where it has asked nobody."""
    node, url = report.node_reports[node_id], report.database_url
    asks = node.reason.startswith("waits for a person")
    if url is None or _is_memory(url) or not asks or node.key != DEFAULT_KEY:
        return ""
    words = ("dagger-dsl", "answer", report.run_id, node_id, "VALUE")
    line = shlex.join([*words, "--db", without_password(url)])
    return f"<p>This answers it:</p>{block(line, label='Command')}"


def _secrets(report: RunReport) -> list[str]:
    """Return the inputs that are not recorded, and have to be given again."""
    declared = [key for key, each in report.graph.inputs.items() if each.secret]
    given = [key for key, value in report.inputs.items() if isinstance(value, Secret)]
    return list(dict.fromkeys([*declared, *given]))


def configuration(report: RunReport) -> str:
    """Return what a run was configured with, what was given first."""
    config = report.config if report.config is not None else report.graph.config or DagConfig()
    rows = []
    for field in attrs.fields(DagConfig):
        if field.name == "given":
            continue
        shown = _setting(getattr(config, field.name))
        set_here = "set" if field.name in config.given else "default"
        rows.append([code(field.name), code(shown), set_here])
    heads = ["Setting", "Value", "Set or default"]
    given = [row for row in rows if row[2] == "set"]
    rest = [row for row in rows if row[2] != "set"]
    parts = [table(heads, given, "Settings that were given", style="config")] if given else []
    defaults = table(heads, rest, "Settings with their defaults", style="config")
    parts.append(fold(f"{len(rest)} defaults", defaults))
    return "".join(parts)


def _setting(value: Any) -> str:
    """Return the value of a setting; of one that has fields itself, those that say something."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if not attrs.has(type(value)):
        return excerpt(value, 400)[0]
    told = (
        f"{field.name} {_setting(each)}"
        for field in attrs.fields(type(value))
        if (each := getattr(value, field.name)) not in (None, ())
    )
    return ", ".join(told)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dagger_dsl")
    except PackageNotFoundError:  # a copy of the sources
        return "not installed"


def environment(report: RunReport) -> str:
    """Return where a run is recorded, and what made the page; nothing of the process's secrets."""
    import sqlite3

    where = "in memory" if report.database_url is None else without_password(report.database_url)
    pairs = [
        ("Recorded in", code(where)),
        ("Workers", str(report.workers)),
        ("dagger_dsl", text(_version())),
        ("Python", text(f"{platform.python_implementation()} {platform.python_version()}")),
        ("Platform", text(platform.platform())),
        ("SQLite", text(sqlite3.sqlite_version)),
        ("Page made", moment(dt.datetime.now(tz=dt.UTC))),
    ]
    note = "Of the process that made this page."
    return f'<p class="soft-text">{note}</p>{definitions(pairs, style="pairs")}'


def _is_memory(url: str) -> bool:
    from dagger_dsl.store.urls import is_memory, normalize_url

    try:
        return is_memory(normalize_url(url))
    except DaggerError:
        return False


def without_password(url: str) -> str:
    """Return where a run is recorded, without what only its owner knows."""
    from dagger_dsl.store.urls import normalize_url

    try:
        known = normalize_url(url)
    except DaggerError:
        return "a database whose URL cannot be read"
    if known.get_backend_name() == "sqlite":
        return str(url)
    hidden = [key for key in known.query if _SECRET.search(key)]
    return known.update_query_dict(dict.fromkeys(hidden, "***")).render_as_string(
        hide_password=True
    )


def moment(when: dt.datetime) -> str:
    """Return a time of day as HTML."""
    utc = when.astimezone(dt.UTC)
    return f'<time datetime="{utc.isoformat()}">{utc:%Y-%m-%d %H:%M:%S} UTC</time>'
