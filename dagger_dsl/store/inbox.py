"""The inbox of a run: what other processes ask of it, in order, and what became of that.

Anybody may append; only the run's owner answers, by a command of its journal under the request's
key. So an answer is committed with what it changed, once. A task that waits for the run goes on
with it then.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

import sqlalchemy as sa

from dagger_dsl.errors import InvalidState
from dagger_dsl.store.arguments import check_number, check_text, no_such_run
from dagger_dsl.store.database import Database
from dagger_dsl.store.schema import flow_runs, inbox, run_log
from dagger_dsl.store.task_runs import answered
from dagger_dsl.store.transactions import Statement, Transaction, read, run_transaction

__all__ = ["outcome", "requests", "send"]

# FOR UPDATE: elsewhere than on SQLite a lower number could be seen after a higher one.
_STATUS: Final = Statement(
    sa.select(flow_runs.c.status)
    .where(flow_runs.c.run_id == sa.bindparam("the_run", type_=sa.Text()))
    .with_for_update()
)
_COLUMNS: Final = ("run_id", "body", "sender", "created_at")
_APPEND: Final = Statement(
    sa.insert(inbox)
    .values({name: sa.bindparam(name, type_=inbox.c[name].type) for name in _COLUMNS})
    .inline()
)
_NEWEST: Final = Statement(
    sa.select(sa.func.max(inbox.c.command_id)).where(
        inbox.c.run_id == sa.bindparam("the_run", type_=sa.Text())
    )
)
_AFTER: Final = Statement(
    sa.select(inbox.c.command_id, inbox.c.body)
    .where(
        inbox.c.run_id == sa.bindparam("the_run", type_=sa.Text()),
        inbox.c.command_id > sa.bindparam("the_last", type_=sa.Integer()),
    )
    .order_by(inbox.c.command_id)
)
_OUTCOME: Final = Statement(
    sa.select(run_log.c.body).where(
        run_log.c.run_id == sa.bindparam("the_run", type_=sa.Text()),
        run_log.c.entry_key == sa.bindparam("the_key", type_=sa.Text()),
    )
)


def send(
    database: Database, run_id: str, body: str, sender: str | None, after: int | None = None
) -> int:
    """See `Store.send`."""
    check_text("a run's id", run_id)
    check_text("a request's body", body)
    if after is not None:
        check_number("after", after)
    if sender is not None:
        check_text("sender", sender)
    number = 0

    def append(tx: Transaction) -> None:
        nonlocal number
        number = 0
        status = tx.scalar(_STATUS, (run_id,))
        if status is None:
            raise no_such_run(database.where, run_id)
        if status == "completed":
            raise InvalidState(f"run {run_id} is completed and takes no requests; start a new run")
        if after is not None and (tx.scalar(_NEWEST, (run_id,)) or 0) > after:
            return
        tx.execute(_APPEND, (run_id, body, sender, dt.datetime.now(dt.UTC)))
        number = tx.scalar(_NEWEST, (run_id,))
        answered(tx, database, run_id, body, sender)

    run_transaction(database, append)
    return number


def requests(database: Database, run_id: str, after: int) -> list[tuple[int, str]]:
    """See `Store.requests`."""
    return [(number, body) for number, body in read(database, _AFTER, (run_id, after))]


def outcome(database: Database, run_id: str, command_id: int) -> str | None:
    """See `Store.outcome_of`."""
    check_text("a run's id", run_id)
    check_number("a request's number", command_id)
    found = read(database, _OUTCOME, (run_id, f"inbox:{command_id}"))
    return str(found[0][0]) if found else None
