"""``validate``, ``dot``, ``runs``, ``show`` and ``explain``: what a workflow is, and its runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagger_dsl.cli.common import OK, STORE, died, existing_store, load_run, resume_line
from dagger_dsl.cli.screen import Screen
from dagger_dsl.cli.sources import input_names, load_source
from dagger_dsl.cli.steering import waits_for, waits_for_plain, waits_inside, ways_on
from dagger_dsl.engine.command_lines import secrets_of
from dagger_dsl.engine.words import count
from dagger_dsl.errors import ConfigurationError, shown, visible
from dagger_dsl.views.plain import cache_to_plain, problem_to_plain

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.store.records import RunSummary
    from dagger_dsl.store.storage import Store

__all__ = ["dot", "explain", "runs", "show", "validate"]


def validate(arguments: argparse.Namespace, screen: Screen) -> int:
    """Say what is wrong with a workflow, or that nothing is."""
    source = load_source(
        arguments.file, arguments.actions, strict=arguments.strict, told=screen.say
    )
    graph = source.graph
    known = source.actions is not None  # without actions only the structure can be checked
    report = graph.validate(source.registry if known else None)
    remarks = graph.lint(source.registry if known else None)
    warnings = list(dict.fromkeys([*source.problems, *report.problems, *remarks]))
    if screen.as_json:
        screen.json(
            {
                "valid": True,
                "name": graph.name,
                "version": graph.version,
                "nodes": len(graph.nodes),
                "edges": len(graph.edges),
                "inputs": input_names(graph),
                "actions_checked": known,
                "warnings": [problem_to_plain(each) for each in warnings],
            }
        )
        return OK
    screen.problems(warnings)
    if not known:
        screen.say("the actions were not checked; name the module that has them by --actions")
    levels = graph.levels()
    widest = max(map(len, levels), default=0)
    screen.result(
        f"{arguments.file}: {graph.name} is valid: {count(len(graph.nodes), 'node')}, "
        f"{count(len(graph.edges), 'edge')}, {count(len(levels), 'step')}, "
        f"at most {widest} at the same time"
    )
    return OK


def dot(arguments: argparse.Namespace, screen: Screen) -> int:
    """Print a workflow or a recorded run as DOT, or draw it."""
    if _is_file(arguments.file):
        source = load_source(arguments.file, None, import_beside=False)
        screen.problems(source.problems)
        text = source.graph.to_dot()
    else:
        text = _stored_dot(arguments.db, arguments.file)
    if arguments.output is None:
        sys.stdout.write(text)
        return OK
    from dagger_dsl.views.graphviz import FORMATS, render, save_dot

    ending = os.path.splitext(arguments.output)[1].removeprefix(".").lower()
    drawn = ending not in ("", "dot", "gv")
    if drawn and ending not in FORMATS:
        raise ConfigurationError(
            f"{shown(arguments.output)} ends in .{visible(ending, 40)}; .svg, .png, .pdf and .json "
            "are drawn by Graphviz, and .dot, .gv or no ending holds DOT"
        )
    path = (render if drawn else save_dot)(text, arguments.output)
    screen.say(f"written: {path}")
    return OK


def _is_file(text: str) -> bool:
    return os.path.exists(text) or text.endswith((".yaml", ".yml", ".py")) or ".py:" in text


def _stored_dot(url: str, run_id: str) -> str:
    from dagger_dsl.views.stored import stored_report

    with existing_store(url, read_only=True) as store:
        return stored_report(load_run(store, run_id, url), url, store).to_dot()


def runs(arguments: argparse.Namespace, screen: Screen) -> int:
    """List recorded runs, the newest first."""
    with existing_store(arguments.db, read_only=True) as store:
        found = store.list_runs(arguments.dag, arguments.status, arguments.limit, arguments.parent)
        notes = {each.run_id: _note(each, store) for each in found}
    listed: list[Mapping[str, Any]] = [
        {
            "run_id": each.run_id,
            "dag": each.flow_name,
            "status": each.status,
            "created": each.created_at.strftime("%Y-%m-%d %H:%M:%S"),
            "note": notes[each.run_id],
        }
        for each in found
    ]
    if screen.as_json:
        screen.json(
            [
                {
                    "run_id": each.run_id,
                    "dag": each.flow_name,
                    "status": each.status,
                    "created_at": each.created_at.isoformat(),
                    "updated_at": each.updated_at.isoformat(),
                    "owner": None if each.owner is None else str(each.owner),
                    "parent_run_id": each.parent_run_id,
                }
                for each in found
            ]
        )
        return OK
    if not listed:
        screen.result("no runs")
        return OK
    heads = ("run_id", "dag", "status", "created", "note")
    rows: list[tuple[object, ...]] = [heads]
    rows += [tuple(run[head] for head in heads) for run in listed]
    rich = None
    if screen.is_rich:
        from dagger_dsl.views.tables import runs_table

        rich = runs_table(listed)
    screen.table(rows, rich)
    return OK


def _note(run: RunSummary, store: Store) -> str:
    import json

    from dagger_dsl.engine.remote import RunControl

    if run.status == "running" and run.owner is not None:
        lives = RunControl(store, run.run_id).is_executed
        return f"owned by {run.owner}" if lives else f"left by {run.owner}, which died"
    try:
        error = json.loads(run.error) if run.error else {}
    except ValueError:
        return str(run.error)
    return str(error.get("reason") or error.get("message") or "")


def show(arguments: argparse.Namespace, screen: Screen) -> int:
    """Show one recorded run, or one node of it."""
    from dagger_dsl.engine.remote import RunControl
    from dagger_dsl.views.stored import stored_report

    with existing_store(arguments.db, read_only=True) as store:
        stored = load_run(store, arguments.run_id, arguments.db)
        report = stored_report(stored, arguments.db, store)
        run = RunControl(store, arguments.run_id)
        if arguments.html is not None:
            if arguments.node is not None:
                raise ConfigurationError(
                    "a page shows a whole run; give --html or --node, not both"
                )
            report.to_html(arguments.html)
            if screen.as_json:
                screen.json({"run_id": report.run_id, "written": arguments.html})
            else:
                screen.result(f"written: {arguments.html}")
            return OK
        if arguments.node is not None:
            from dagger_dsl.cli.node_page import show_node

            return show_node(report, arguments.node, run, arguments.db, screen)
        waits = report.status in ("paused", "running")
        whole = screen.report(report, every_node=True, more=waits_for_plain(run) if waits else {})
        if not screen.as_json:
            screen.failure(report)
            for line in waits_for(run, arguments.db) if waits else ():
                screen.say(line)
            for line in waits_inside(report, arguments.db) if waits else ():
                screen.say(line)
            secrets = secrets_of(report)
            if report.orphaned:
                for line in died(arguments.run_id, arguments.db, secrets):
                    screen.say(line)
            elif report.status == "paused":
                screen.say("go on with it by:")
                line = resume_line(arguments.run_id, arguments.db, "MODULE_OR_FILE", secrets)
                screen.say(f"  {line}")
        return OK if whole else STORE


def explain(arguments: argparse.Namespace, screen: Screen) -> int:
    """Say why a node stands where it stands, and what can be done about it."""
    from dagger_dsl.engine.remote import RunControl
    from dagger_dsl.views.stored import stored_report

    run_id, node_id, database = arguments.run_id, arguments.node, arguments.db
    with existing_store(database, read_only=True) as store:
        report = stored_report(load_run(store, run_id, database), database, store)
        told = report.explain(node_id)
        decision = report.explain_cache(node_id) if _was_looked_up(report, node_id) else None
        ways = list(ways_on(report, node_id, RunControl(store, run_id), database))
    node = report.node_reports[node_id]
    if screen.as_json:
        screen.json(
            {
                "run_id": run_id,
                "node": node_id,
                "state": str(node.state),
                "explanation": told.split("\n"),
                "cache": None if decision is None else cache_to_plain(decision),
                "ways_on": ways,
            }
        )
        return OK
    screen.result(told)
    if decision is not None:
        screen.result(f"cache: {decision}")
    for line in ways:
        screen.result(line)
    return OK


def _was_looked_up(report: RunReport, node_id: str) -> bool:
    """Whether results of other runs were looked for, for a node or an invocation of it."""
    calls = report.invocations(node_id).values()
    return any(each.cache is not None for each in (report.node_reports[node_id], *calls))
