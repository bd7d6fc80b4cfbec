"""Tasks that wait for what people say to a run of theirs, or to a run inside of it.

The transaction that puts a request into a run's inbox lets the task go on that waits for the run,
so that nobody has to tell the task as well. A request may come while the task is on its way from
the run's pause to its own: so it looks, when it is parked, whether one came since it was called.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import orjson
import sqlalchemy as sa

from dagger_dsl.errors import InvalidState
from dagger_dsl.model.tasks import TaskStatus
from dagger_dsl.store.database import Database
from dagger_dsl.store.notices import of_tasks, tell
from dagger_dsl.store.schema import flow_runs, inbox, run_log, tasks
from dagger_dsl.store.task_steps import NEVER, steer, task_row
from dagger_dsl.store.transactions import Statement, Transaction, read

__all__ = ["is_asked", "newest_request", "release"]

_run = sa.bindparam("the_run", type_=sa.Text())
_PARENT: Final = Statement(
    sa.select(flow_runs.c.parent_run_id).where(
        flow_runs.c.run_id == _run, flow_runs.c.parent_run_id.is_not(None)
    )
)
_WAITING: Final = Statement(
    sa.select(tasks.c.public_id).where(
        tasks.c.due_at == sa.bindparam("the_due", type_=sa.Double()),
        tasks.c.run_id == _run,
        tasks.c.status == sa.literal_column("'blocked'"),
    )
)
_NEWEST: Final = Statement(sa.select(sa.func.max(inbox.c.command_id)))
_SINCE: Final = Statement(
    sa.select(inbox.c.run_id)
    .distinct()
    .where(
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


def is_asked(tx: Transaction, run_id: str, seen: int) -> bool:
    """Whether a request to a run, or to one inside of it, waits that is newer than *seen*."""
    return any(run_id in _around(tx, each) for (each,) in tx.rows(_SINCE, (seen,)))


def release(
    tx: Transaction, database: Database, run_id: str, body: str, sender: str | None
) -> None:
    """Let tasks go on that wait for a run, or for one around it, as somebody has asked it for more.

    One whose dependencies have failed meanwhile stays as it is.
    """
    waiting = [
        str(task_id)
        for each in _around(tx, run_id)
        for (task_id,) in tx.rows(_WAITING, _WAITING.in_order({"the_due": NEVER, "the_run": each}))
    ]
    if not waiting:
        return
    asked: Any = orjson.loads(body)
    done = "answered" if asked.get("do") == "answer" else f"its run {run_id} was asked to go on"
    cause, now = f"{done} by {sender}" if sender else done, time.time()
    for task_id in waiting:
        try:
            steer(tx, task_id, task_row(tx, task_id), TaskStatus.READY, now, cause=cause)
        except InvalidState:
            continue
    tx.after = (*tx.after, partial(tell, of_tasks(database)))


def _around(tx: Transaction, run_id: str) -> Iterator[str]:
    """Yield a run, the one that it is nested in, and so on."""
    here: str | None = run_id
    while here is not None:
        yield here
        here = tx.scalar(_PARENT, (here,))
