"""``jobs``, ``job``, ``task``: jobs of tasks, and what people do with them."""

from __future__ import annotations

import argparse
import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.cli.common import OK, command_line, existing_url
from dagger_dsl.cli.screen import Screen
from dagger_dsl.cli.sources import read_value, text_hint
from dagger_dsl.engine.words import count
from dagger_dsl.errors import JobNotFound, RunNotFound, TaskNotFound, did_you_mean, shown
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.stored_values import for_people
from dagger_dsl.model.tasks import TaskStatus
from dagger_dsl.model.text import first_line, printable

if TYPE_CHECKING:
    from dagger_dsl.agents.manager import TaskManager
    from dagger_dsl.engine.control import OpenQuestion
    from dagger_dsl.model.tasks import Task
    from dagger_dsl.store.task_reads import StoredJob

__all__ = ["job", "jobs", "task"]

#: How each command is told.
_TOLD: Final = {
    "answer": "has its answer",
    "retry": "is tried again",
    "cancel": "is cancelled",
    "accept": "is accepted",
    "reject": "is rejected",
    "pause": "is paused",
    "resume": "goes on",
}

#: Ids that are named when none is like the one that was given, and tasks that wait for people.
_NAMED: Final = 3

#: Characters of a value.
_VALUE: Final = 2_000


@contextmanager
def _manager(database: str, *, read_only: bool = False) -> Iterator[TaskManager]:
    """Open a database that is there; no task is run here."""
    url = existing_url(database, read_only=read_only)
    from dagger_dsl.agents.manager import TaskManager

    with TaskManager(database_url=url, concurrency=0) as manager:
        yield manager


def jobs(arguments: argparse.Namespace, screen: Screen) -> int:
    """List jobs, the newest first."""
    with _manager(arguments.db, read_only=True) as manager:
        found = manager.jobs(arguments.status)[: arguments.limit]
    if screen.as_json:
        screen.json([_job_plain(each) for each in found])
        return OK
    if not found:
        screen.result("no jobs")
        return OK
    rows: list[tuple[object, ...]] = [("job", "status", "unfinished", "failed", "created", "note")]
    for each in found:
        created = each.created_at.strftime("%Y-%m-%d %H:%M:%S")
        name, note = printable(each.id), first_line(each.error)
        rows.append((name, str(each.status), each.unfinished, each.failed, created, note))
    screen.table(rows)
    return OK


def job(arguments: argparse.Namespace, screen: Screen) -> int:
    """Show or cancel a job."""
    job_id = arguments.job_id
    with _manager(arguments.db, read_only=arguments.action == "show") as manager:
        row = manager._reads.job(job_id)
        if row is None:
            known = (each.id for each in manager.jobs())
            raise JobNotFound(_missing("job", job_id, known, arguments.db, manager))
        if arguments.action == "cancel":
            return _cancel_job(manager, arguments, screen)
        handle = manager.job(job_id)
        if arguments.html is not None:
            handle.to_html(arguments.html)
            if screen.as_json:
                screen.json({"job_id": job_id, "written": arguments.html})
            else:
                screen.result(f"written: {arguments.html}")
            return OK
        tasks, questions = handle.tasks, handle.questions()
        told = [] if screen.as_json else list(_unknown_agents(manager, tasks, arguments.db))
        for each in [] if screen.as_json else questions[:_NAMED]:
            told += _ways_on(manager, each, arguments.db)
    if screen.as_json:
        screen.json({**_job_plain(row), "tasks": [_task_plain(each) for each in tasks]})
        return OK
    from dagger_dsl.views.job_tree import MOST, job_lines, job_tree

    limit = None if arguments.all else MOST
    if screen.is_rich:
        screen.console.print(job_tree(tasks, row, limit))
    else:
        for line in job_lines(tasks, row, limit):
            screen.result(line)
    if limit is not None and len(tasks) > limit:
        screen.say("this shows all of them:")
        screen.say(f"  {command_line(arguments.db, 'job', 'show', job_id, '--all')}")
    for line in told:
        screen.say(line)
    if len(questions) > _NAMED:
        more = count(len(questions) - _NAMED, "more task waits", "more tasks wait")
        screen.say(f"{more} for a person, too")
    return OK


def _ways_on(manager: TaskManager, task: Task, database: str) -> Iterator[str]:
    """Yield what lets a task go on that waits for a person, or ends it, as lines."""
    from dagger_dsl.cli.steering import question_lines
    from dagger_dsl.engine.remote import RunControl

    ways: list[tuple[str, ...]] = [("retry", task.id), ("cancel", task.id)]
    head, lines = f"task {printable(task.id)} waits for a person", list[str]()
    asked = manager._reads.question(task.id)
    if asked is not None and asked.run_id is None:
        head = f"{head} (question {asked.number})"
        ways.insert(0, ("answer", task.id, "VALUE", "--question", str(asked.number)))
    elif asked is not None:
        asks: list[tuple[RunControl, OpenQuestion]] = []
        with suppress(RunNotFound):  # it was removed: the task begins another one
            for run in RunControl(manager._store, str(asked.run_id)).paused():
                asks += [(run, each) for each in run.questions()]
        if len(asks) == 1:
            head = f"{head}: {first_line(asks[0][1].prompt)}"
            ways.insert(0, ("answer", task.id, "VALUE"))
        else:
            for run, each in asks:
                lines += question_lines(run, each, database)
    yield from lines
    yield f"{head}; let it go on, or not, by:"
    for words in ways:
        yield f"  {command_line(database, 'task', *words)}"


def _unknown_agents(manager: TaskManager, tasks: Sequence[Task], database: str) -> Iterator[str]:
    """Yield for which agents tasks are ready that nobody has ever run, as lines."""
    ready = Counter(each.agent for each in tasks if each.status is TaskStatus.READY)
    called = {each.agent for each in tasks if each.attempts}
    new = [each for each in ready if each not in called and not manager._reads.was_called(each)]
    for name in new[:_NAMED]:
        hint = did_you_mean(name, called)
        yield (
            f"no worker here knows agent {shown(name)} so far, and {count(ready[name], 'task')} "
            f"of it {'is' if ready[name] == 1 else 'are'} ready"
            + (hint if "did you mean" in hint else "")
        )
    if new:
        yield "this runs them, where FILE defines it:"
        yield f"  {command_line(database, 'worker', '--actions', 'FILE')}"


def _meant(question: str | None) -> str | int | None:
    """Return which question an answer is for: by its number, or by its text."""
    is_number = question is not None and question.isascii() and question.isdigit()
    return int(question) if question is not None and is_number else question


def _cancel_job(manager: TaskManager, arguments: argparse.Namespace, screen: Screen) -> int:
    job_id = arguments.job_id
    applied = not manager.job(job_id).is_finished
    manager.cancel_job(job_id, arguments.reason or "cancelled")
    status = str(manager.job(job_id).status)
    if screen.as_json:
        screen.json({"job_id": job_id, "applied": applied, "status": status})
    elif applied:
        screen.result(f"job {job_id} is cancelled")
    else:
        screen.result(f"job {job_id} is {status} already; nothing is left to cancel")
    return OK


def task(arguments: argparse.Namespace, screen: Screen) -> int:
    """Show a task, or decide about it."""
    task_id = arguments.task_id
    with _manager(arguments.db, read_only=arguments.action == "show") as manager:
        try:  # by its history: who decides about a task need not know the types of its values
            manager.history(task_id)
        except TaskNotFound:
            known = manager._reads.ids()
            raise TaskNotFound(_missing("task", task_id, known, arguments.db, manager)) from None
        if arguments.action == "show":
            found = manager.get_task(task_id)
            if found is not None:  # nobody has removed it just now
                return _show_task(manager, found, screen)
        others = _steer(manager, arguments)
        status = str(manager.history(task_id)[-1].status)
    if screen.as_json:
        command = f"task {arguments.action}"
        given = {"task_id": task_id, "command": command, "applied": True, "status": status}
        screen.json(given if arguments.action != "cancel" else {**given, "parts": others})
    else:
        parts = f" with {count(len(others), 'part')}" if others else ""
        screen.result(f"task {task_id} {_TOLD[arguments.action]}{parts}")
    return OK


def _steer(manager: TaskManager, arguments: argparse.Namespace) -> list[str]:
    """Do with a task what a command says; return the ids of what is cancelled with it."""
    task_id, action = arguments.task_id, arguments.action
    if action == "answer":
        value = read_value(arguments.value)
        with text_hint(value, arguments.value):
            manager.answer(
                task_id, value, by=arguments.by or "", question=_meant(arguments.question)
            )
        return []
    cause = arguments.reason or f"{action} by hand"
    if action == "cancel":
        cancelled = manager.cancel_task(task_id, not arguments.alone, reason=cause)
        return [each for each in cancelled if each != task_id]
    steps: dict[str, Callable[[str, str], None]] = {
        "retry": manager.retry,
        "accept": manager.accept,
        "reject": manager.reject,
        "pause": manager.pause,
        "resume": manager.resume,
    }
    steps[action](task_id, cause)
    return []


def _show_task(manager: TaskManager, found: Task, screen: Screen) -> int:
    history = manager.history(found.id)
    if screen.as_json:
        events = [
            {
                "status": str(each.status),
                "at": each.at.isoformat(),
                "cause": each.cause,
                "worker": each.worker,
                "attempt": each.attempt,
            }
            for each in history
        ]
        screen.json({**_task_plain(found), "history": events})
        return OK
    from dagger_dsl.views.job_tree import notes_of

    known = {each.id: each for each in manager.tasks(found.job_id)}
    title = f"task {printable(found.id)} of job {printable(found.job_id)}"
    calls = count(found.attempts, "call")
    screen.result(f"{title}: {found.status}, agent {printable(found.agent)}, {calls}")
    for name in ("description", "parent", "acceptance_criteria", "summary", "worker"):
        if getattr(found, name):
            screen.result(f"{name.replace('_', ' ')}: {first_line(getattr(found, name), 500)}")
    if found.dependencies:
        screen.result(f"needs: {', '.join(map(printable, found.dependencies))}")
    screen.result(f"input = {_value(found, 'input')}")
    if found.status in (TaskStatus.COMPLETED, TaskStatus.ACCEPTED, TaskStatus.REJECTED):
        screen.result(f"output = {_value(found, 'output')}")
    for note in notes_of(found, known):
        screen.result(note)
    rows: list[tuple[object, ...]] = [("at", "status", "call", "cause", "worker")]
    for each in history:
        at, cause, call = (
            each.at.isoformat(" ", "milliseconds"),
            first_line(each.cause),
            each.attempt,
        )
        rows.append((at[:23], str(each.status), call or "", cause, printable(each.worker)))
    screen.table(rows)
    return OK


def _value(task: Task, name: str) -> str:
    shown = for_people(task, name)
    text = printable(excerpt(shown.value, _VALUE)[0], lines=True)
    return f"{text}\n  (as it is stored: {shown.note})" if shown.note else text


def _missing(
    what: str, given: str, known: Iterable[str], database: str, manager: TaskManager
) -> str:
    """Return that there is none of this id: what could be meant, and what lists them all."""
    ids = list(known)
    close = difflib.get_close_matches(given[:1_000], ids, n=1)
    meant = "; this"
    if close:
        meant = f"; did you mean {shown(close[0])}? This"
    elif ids:
        meant = f"; there are {', '.join(shown(each) for each in ids[:_NAMED])}. This"
    where = manager._store.database.where
    line = command_line(database, "jobs")
    return f"{where} has no {what} {shown(given)}{meant} lists the jobs:\n  {line}"


def _job_plain(row: StoredJob) -> dict[str, Any]:
    return {
        "job_id": row.id,
        "status": str(row.status),
        "unfinished": row.unfinished,
        "failed": row.failed,
        "error": row.error,
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
    }


def _task_plain(task: Task) -> dict[str, Any]:
    return {
        "task_id": task.id,
        "job_id": task.job_id,
        "agent": task.agent,
        "status": str(task.status),
        "type": str(task.task_type),
        "description": task.description,
        "parent": task.parent,
        "dependencies": list(task.dependencies),
        "input": for_people(task, "input").plain,
        "output": for_people(task, "output").plain,
        "error": task.error,
        "priority": task.priority,
        "effects": str(task.effects),
        "attempts": task.attempts,
        "retry_count": task.retry_count,
        "worker": task.worker,
        "created_at": task.created_at.isoformat(),
        "started_at": None if task.started_at is None else task.started_at.isoformat(),
        "finished_at": None if task.finished_at is None else task.finished_at.isoformat(),
    }
