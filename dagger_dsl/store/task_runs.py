"""Tasks that wait for what people say to a run of theirs, or to a run inside of it.

The transaction that puts an answer into a run's inbox, or ends the run, lets the task go on that
waits for it, so that nobody has to tell the task as well. An answer may come while the task is on
its way from the run's pause to its own: so it looks, when it is parked, whether there is one that
came since it was called.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import orjson
import sqlalchemy as sa

from dagger_dsl.errors import InvalidState
from dagger_dsl.model.tasks import TaskStatus
from dagger_dsl.store.database import Database
from dagger_dsl.store.notices import of_tasks, tell
from dagger_dsl.store.schema import NEVER, flow_runs, inbox, run_log, tasks
from dagger_dsl.store.transactions import Statement, Transaction, read

__all__ = ["answered", "ended", "is_answered", "newest_request", "waiting_task"]

#: What a paused run is told that may let it go on, by the names of commands in their plain form.
_ANSWERS: Final = ("answer", "cancel", "resume")

_run = sa.bindparam("the_run", type_=sa.Text())
#: Locked, elsewhere than on SQLite: who parks a task and who answers its run see each other so.
_PARENT: Final = Statement(
    sa.select(flow_runs.c.parent_run_id).where(flow_runs.c.run_id == _run).with_for_update()
)
# By when they are due, too: one may have a run, and wait for something else by now. Not by an index
# of that: those of a run are few, and many may wait for people.
_WAITING: Final = Statement(
    sa.select(tasks.c.public_id).where(
        tasks.c.run_id == _run,
        tasks.c.status == sa.literal_column("'blocked'"),
        tasks.c.due_at + sa.literal_column("0") == sa.bindparam("the_due", type_=sa.Double()),
    )
)
_NEWEST: Final = Statement(sa.select(sa.func.max(inbox.c.command_id)))
_SINCE: Final = Statement(
    sa.select(inbox.c.run_id, inbox.c.body).where(
        inbox.c.command_id > sa.bindparam("the_last", type_=sa.Integer()),
        ~sa.exists().where(
            run_log.c.run_id == inbox.c.run_id,
            run_log.c.entry_key
            == sa.literal_column("'inbox:'") + sa.cast(inbox.c.command_id, sa.Text),
        ),
    )
)


def newest_request(database: Database) -> int:
    """Return the number of the newest request to any run, 0 where there is none."""
    return read(database, _NEWEST, ())[0][0] or 0


def is_answered(tx: Transaction, run_id: str, seen: int) -> bool:
    """Whether an answer to a run, or to one inside of it, waits there that is newer than *seen*."""
    tx.scalar(_PARENT, (run_id,))
    asked = {each for each, body in tx.rows(_SINCE, (seen,)) if _kind(body) in _ANSWERS}
    return any(run_id in _around(tx, each) for each in asked)


def waiting_task(database: Database, run_id: str) -> str | None:
    """Return the id of the task that waits for a run, or for one around it; None for none."""
    here: str | None = run_id
    while here is not None:
        for (task_id,) in read(database, _WAITING, (here, NEVER)):
            return str(task_id)
        found = read(database, _PARENT, (here,))
        here = found[0][0] if found else None
    return None


def answered(
    tx: Transaction, database: Database, run_id: str, body: str, sender: str | None
) -> None:
    """Let tasks go on that wait for a run, or for one around it, if that was answered.

    One whose dependencies have failed meanwhile stays as it is.
    """
    waiting = [each for run in _around(tx, run_id) for each in _waiting(tx, run)]
    kind = _kind(body) if waiting else ""
    if kind not in _ANSWERS:
        return
    done = "answered" if kind == "answer" else f"a branch of its run {run_id} was decided on"
    cause = f"{done} by {sender}" if sender else done
    _go_on(tx, database, waiting, TaskStatus.READY, cause)


def ended(tx: Transaction, database: Database, run_id: str, status: str) -> None:
    """Let tasks go on that wait for a run which has ended, in whatever hands.

    One whose run was cancelled fails with that, as when it has the run in its own hands.
    """
    cancelled = status == "cancelled"
    new = TaskStatus.FAILED if cancelled else TaskStatus.READY
    _go_on(tx, database, _waiting(tx, run_id), new, f"its run {run_id} is {status}")


def _waiting(tx: Transaction, run_id: str) -> list[str]:
    """Return the ids of the tasks that wait for what a person says to a run."""
    return [str(task_id) for (task_id,) in tx.rows(_WAITING, (run_id, NEVER))]


def _go_on(
    tx: Transaction, database: Database, waiting: Sequence[str], status: TaskStatus, cause: str
) -> None:
    if not waiting:
        return
    from dagger_dsl.store.task_steps import steer, task_row  # most runs are no task's

    error = cause if status is TaskStatus.FAILED else ""
    for task_id in waiting:
        try:
            row = task_row(tx, task_id)
            steer(tx, task_id, row, status, time.time(), cause=cause, error=error)
        except InvalidState:
            continue
    tx.after = (*tx.after, partial(tell, of_tasks(database)))


def _kind(body: str) -> str:
    try:
        command: Any = orjson.loads(body)
    except ValueError:  # which the run refuses
        return ""
    return str(command.get("do")) if isinstance(command, dict) else ""


def _around(tx: Transaction, run_id: str) -> Iterator[str]:
    """Yield a run, the one that it is nested in, and so on."""
    here: str | None = run_id
    while here is not None:
        yield here
        here = tx.scalar(_PARENT, (here,))
