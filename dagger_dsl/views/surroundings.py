"""What surrounds a run: its configuration, where it is recorded, how it is resumed."""

from __future__ import annotations

import datetime as dt
import enum
import platform
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.attempts import NEXT
from dagger_dsl.engine.command_lines import answer_line
from dagger_dsl.engine.failure import resume_line
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.states import NodeState
from dagger_dsl.model.version import installed_version
from dagger_dsl.store.urls import is_memory_url, shown_url
from dagger_dsl.views.page import block, code, definitions, fold, table, text

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport

__all__ = ["answer", "configuration", "environment", "resume", "time_element"]


def resume(report: RunReport) -> str:
    """Return how to go on with a run."""
    line = resume_line(report)
    if line is None:
        return (
            '<p class="note">This run is in memory only. With <code>database_url=</code> it could '
            "be resumed where it stops.</p>"
        )
    return (
        "<p>This goes on with the run where it stopped; <code>MODULE_OR_FILE</code> has its "
        f"actions:</p>{block(line, label='Command')}"
    )


def answer(report: RunReport, node_id: str) -> str:
    """Return how a node gets the answer that it waits for; nothing where it has asked nobody."""
    node, url = report.node_reports[node_id], report.database_url
    # What runs a workflow waits for that; what failed, for its next attempt.
    asks = node.state is NodeState.WAITING and report.graph.nodes[node_id].subgraph is None
    asks = asks and not node.reason.startswith((NEXT, "waits for job "))
    if url is None or is_memory_url(url) or not asks or node.key != DEFAULT_KEY:
        return ""
    line = answer_line(url, report.run_id, node_id)
    return f"<p>This answers it:</p>{block(line, label='Command')}"


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


def environment(report: RunReport) -> str:
    """Return where a run is recorded, and what made the page; nothing of the process's secrets."""
    import sqlite3

    where = "in memory" if report.database_url is None else shown_url(report.database_url)
    pairs = [
        ("Recorded in", code(where)),
        # A record does not say how many there were.
        *([] if report._run is None else [("Workers", f"{report.workers:,}")]),
        ("dagger_dsl", text(installed_version())),
        ("Python", text(f"{platform.python_implementation()} {platform.python_version()}")),
        ("Platform", text(platform.platform())),
        ("SQLite", text(sqlite3.sqlite_version)),
        ("Page made", time_element(dt.datetime.now(tz=dt.UTC))),
    ]
    note = "Of the process that made this page."
    return f'<p class="soft-text">{note}</p>{definitions(pairs, style="pairs")}'


def time_element(when: dt.datetime) -> str:
    """Return a time of day as HTML."""
    utc = when.astimezone(dt.UTC)
    return f'<time datetime="{utc.isoformat()}">{utc:%Y-%m-%d %H:%M:%S} UTC</time>'
