"""``pause``, ``cancel``, ``answer``, ``approve``, ``reject``: commands to a recorded run.

Who executes the run, in which process, makes no difference; see `dagger_dsl.engine.remote`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dagger_dsl.cli.common import OK, command_line, died, existing_store, no_run, resume_line
from dagger_dsl.cli.parser import DEFAULT_DB
from dagger_dsl.cli.screen import Screen
from dagger_dsl.cli.sources import read_value, text_hint
from dagger_dsl.engine.attempts import NEXT
from dagger_dsl.engine.command_lines import answer_line, declared_secrets, secrets_of
from dagger_dsl.errors import RunNotFound
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.model.values import MISSING, to_shown

if TYPE_CHECKING:
    from dagger_dsl.engine.control import OpenQuestion, Steered
    from dagger_dsl.engine.remote import RunControl
    from dagger_dsl.engine.report import RunReport

__all__ = [
    "answer",
    "approve",
    "cancel",
    "pause",
    "question_lines",
    "reject",
    "tell_questions",
    "waits_for",
    "waits_for_plain",
    "waits_inside",
    "ways_on",
]


def pause(arguments: argparse.Namespace, screen: Screen) -> int:
    """Start nothing more of a run or a branch."""
    branch, reason = arguments.branch, arguments.reason
    if branch is None:
        return _steer(arguments, screen, lambda run: run.pause(reason), "paused")
    what = f"branch {branch!r} is paused"
    return _steer(arguments, screen, lambda run: run.pause_branch(branch, reason), what)


def cancel(arguments: argparse.Namespace, screen: Screen) -> int:
    """Cancel a run or a branch."""
    branch, reason = arguments.branch, arguments.reason
    if branch is None:
        return _steer(arguments, screen, lambda run: run.cancel(reason), "cancelled")
    what = f"branch {branch!r} is cancelled"
    return _steer(arguments, screen, lambda run: run.cancel_branch(branch, reason), what)


def answer(arguments: argparse.Namespace, screen: Screen) -> int:
    """Answer a node that waits for a person."""
    node, text = arguments.node, arguments.value
    value = read_value(text)

    def act(run: RunControl) -> bool:
        with text_hint(value, text):
            return run.answer(node, value, arguments.key, arguments.by)

    return _steer(arguments, screen, act, f"node {node!r} has its answer")


def approve(arguments: argparse.Namespace, screen: Screen) -> int:
    """Let what waits for an approval go on."""
    branch = arguments.branch
    what = f"{branch!r} is approved"
    return _steer(arguments, screen, lambda run: run.approve(branch, arguments.by), what)


def reject(arguments: argparse.Namespace, screen: Screen) -> int:
    """Cancel a branch that waits for an approval."""
    branch, reason, by = arguments.branch, arguments.reason, arguments.by
    what = f"{branch!r} is rejected"
    return _steer(arguments, screen, lambda run: run.reject(branch, reason, by), what)


def _steer(
    arguments: argparse.Namespace, screen: Screen, act: Callable[[RunControl], bool], what: str
) -> int:
    """Send a command and say what became of it.

    Args:
        arguments: Name the run and the database.
        screen: Where to say it.
        act: Sends it.
        what: What is so afterwards.
    """
    from dagger_dsl.engine.remote import RunControl
    from dagger_dsl.store.news import read_graph
    from dagger_dsl.store.task_runs import waiting_task

    run_id = arguments.run_id
    with existing_store(arguments.db) as store:
        run = RunControl(store, run_id)
        task_id = waiting_task(store.database, run_id)
        try:
            applied = act(run)
        except RunNotFound:
            raise no_run(store, run_id, arguments.db) from None
        status = str(run.status)
        secrets = declared_secrets(read_graph(store.database, run_id)[0])
    if screen.as_json:
        screen.json(
            {
                "run_id": run_id,
                "command": arguments.command,
                "applied": applied,
                "status": status,
            }
        )
    elif applied:
        screen.result(f"run {run_id}: {what}")
    elif task_id is not None:
        screen.result(f"run {run_id}: {what}; task {task_id}, which waits for it, goes on with it")
    else:
        screen.result(
            f"run {run_id} is {status} and nobody executes it: {what} as soon as it is resumed, "
            "with the module or the .py file that has its actions and hooks:\n"
            f"  {resume_line(run_id, arguments.db, 'MODULE_OR_FILE', secrets)}"
        )
    return OK


# --- what a run waits for ------------------------------------------------------------------------


def waits_for(run: Steered, database: str) -> list[str]:
    """Return what a run waits for, with the lines that let it go on, for people."""
    lines = [line for each in run.questions() for line in question_lines(run, each, database)]
    for branch, reason in run.paused_branches().items():
        lines += [
            f"branch {branch!r} is paused: {reason}",
            f"  {command_line(database, 'approve', run.run_id, branch)}",
        ]
    return lines


def waits_inside(report: RunReport, database: str) -> list[str]:
    """Return what the runs nested in a run wait for, as `waits_for` does."""
    from dagger_dsl.engine.remote import RunControl

    paused = [each.run_id for each in _runs_in(report) if each.status == "paused"]
    if not paused:
        return []
    with existing_store(database, read_only=True) as store:
        if store.database.is_memory:  # another one, and nothing in it can be answered from here
            return []
        return [line for each in paused for line in waits_for(RunControl(store, each), database)]


def ways_on(report: RunReport, node_id: str, run: RunControl, database: str) -> Iterator[str]:
    """Yield what can be done about a node that has no result, each with the line that does it."""
    state, run_id, secrets = report.states()[node_id], report.run_id, secrets_of(report)
    if state is NodeState.COMPLETED or report.success:
        return
    if report.status is RunStatus.RUNNING:
        if run.is_executed:
            yield from _open_lines(report, run, database)
            tried = report.node_reports[node_id].reason.startswith(NEXT)
            again = " and tries it again" if state is NodeState.WAITING and tried else ""
            yield f"the run goes on{again}; watch it by:"
            yield f"  {command_line(database, 'watch', run_id)}"
            return
        yield from died(run_id, database, secrets)
        return
    if report.status is RunStatus.PAUSED:
        yield from _open_lines(report, run, database)
        yield "the run is paused; go on with it by:"
    else:
        yield f"the run is {report.status}; what failed is tried again by:"
    yield f"  {resume_line(run_id, database, 'MODULE_OR_FILE', secrets)}"


def _open_lines(report: RunReport, run: RunControl, database: str) -> list[str]:
    return [*waits_for(run, database), *waits_inside(report, database)]


def _runs_in(report: RunReport) -> Iterator[RunReport]:
    todo = list(report.nested.values())[::-1]
    while todo:
        each = todo.pop()
        if isinstance(each, Mapping):
            todo += list(each.values())[::-1]
        else:
            yield each
            todo += list(each.nested.values())[::-1]


def question_lines(run: Steered, question: OpenQuestion, database: str) -> Iterator[str]:
    """Yield a question and the line that answers it."""
    kind = (question.schema or {}).get("type")
    notes = [str(kind)] if kind is not None else []
    if question.default is not MISSING:
        notes.append(f"default {json.dumps(to_shown(question.default), ensure_ascii=False)}")
    if question.expires is not None:
        notes.append(f"until {question.expires:%Y-%m-%d %H:%M:%S} UTC")
    more = f" ({', '.join(notes)})" if notes else ""
    value = "true" if kind == "boolean" else "VALUE"
    line = answer_line(
        database, run.run_id, question.node_id, value, question.key, default=DEFAULT_DB
    )
    yield f"node {question.node_id!r} asks: {question.prompt}{more}"
    yield f"  {line}"


def tell_questions(
    run: Steered, known: set[tuple[str, str, str]], database: str, screen: Screen
) -> None:
    """Show what a run asks while it goes on; *known* are the questions that were shown before."""
    for each in run.questions():
        name = (each.node_id, each.key, each.prompt)
        if name not in known:
            known.add(name)
            for line in question_lines(run, each, database):
                screen.say(line)


def waits_for_plain(run: Steered) -> dict[str, Any]:
    """Return what a run waits for as JSON types."""
    return {
        "questions": [
            {
                "node": each.node_id,
                "key": each.key,
                "prompt": each.prompt,
                "schema": each.schema,
                "default": None if each.default is MISSING else to_shown(each.default),
                "expires": None if each.expires is None else each.expires.isoformat(),
            }
            for each in run.questions()
        ],
        "paused_branches": run.paused_branches(),
    }
