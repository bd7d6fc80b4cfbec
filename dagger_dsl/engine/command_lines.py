"""The lines that call ``dagger-dsl`` for a recorded run; whatever shows one has it from here."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dagger_dsl.model.context import DEFAULT_KEY
from dagger_dsl.model.values import Secret

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.model.graph import Graph

__all__ = ["answer_line", "command_line", "declared_secrets", "resume_line", "secrets_of"]


def command_line(database: str, *words: str, default: str | None = None) -> str:
    """Return the line that calls the command for a database.

    Args:
        database: Its URL.
        words: The subcommand and what it is given.
        default: The database that need not be named; None for none.
    """
    from dagger_dsl.store.urls import shown_url  # who has a URL has loaded it

    where = [] if database == default else ["--db", shown_url(database)]
    return shlex.join(["dagger-dsl", *words, *where])


def resume_line(
    database: str,
    run_id: str,
    actions: str | None,
    secrets: Iterable[str] = (),
    default: str | None = None,
) -> str:
    """Return the line that goes on with a run.

    Args:
        database: Where it is recorded.
        run_id: The run.
        actions: What has its actions; None where that is found without it.
        secrets: Inputs that are not recorded, and have to be given again.
        default: See `command_line`.
    """
    words = ["resume", run_id] if actions is None else ["resume", run_id, "--actions", actions]
    for name in secrets:
        words += ["--input", f"{name}=VALUE"]
    return command_line(database, *words, default=default)


def answer_line(
    database: str,
    run_id: str,
    node_id: str,
    value: str = "VALUE",
    key: str = DEFAULT_KEY,
    default: str | None = None,
) -> str:
    """Return the line that gives a node the answer that it waits for.

    Args:
        database: Where the run is recorded.
        run_id: The run.
        node_id: Who asks.
        value: The answer.
        key: Which of its invocations.
        default: See `command_line`.
    """
    which = [] if key == DEFAULT_KEY else ["--key", key]
    return command_line(database, "answer", run_id, node_id, value, *which, default=default)


def secrets_of(report: RunReport) -> list[str]:
    """Return the inputs that are not recorded, and have to be given again."""
    given = [key for key, value in report.inputs.items() if isinstance(value, Secret)]
    return list(dict.fromkeys([*declared_secrets(report.graph), *given]))


def declared_secrets(graph: Graph) -> list[str]:
    """Return the inputs of a graph that are declared as secret."""
    return [key for key, each in graph.inputs.items() if each.secret]
