"""What the end of a job brings to the runs whose nodes wait for it.

Such a node has a row in `job_waits`. The transaction that ends the job makes a request in its run's
inbox of it, so that no kill can come between the two; the run finds it there at its next look, or
when it is resumed.
"""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import Any, Final

import orjson
import sqlalchemy as sa

from dagger_dsl.store.notices import of_run, tell
from dagger_dsl.store.schema import inbox, job_waits
from dagger_dsl.store.transactions import Statement, Transaction

__all__ = ["ENDED", "SENDER", "deliver", "post"]

#: Statuses of a job that has ended.
ENDED: Final = ("completed", "failed", "cancelled")

#: What the name of the sender of a request begins with that tells of a job; its id follows.
SENDER: Final = "job "


def _bind(column: sa.Column[Any]) -> sa.BindParameter[Any]:
    return sa.bindparam(column.name, type_=column.type)


_job = sa.bindparam("the_job", type_=sa.Text())
_WAITERS: Final = Statement(
    sa.select(job_waits.c.run_id, job_waits.c.node_id, job_waits.c.invocation_key)
    .where(job_waits.c.job_id == _job)
    .order_by(job_waits.c.run_id, job_waits.c.node_id, job_waits.c.invocation_key)
)
_DELIVERED: Final = Statement(sa.delete(job_waits).where(job_waits.c.job_id == _job))
_POST: Final = Statement(
    sa.insert(inbox)
    .values({name: _bind(inbox.c[name]) for name in ("run_id", "body", "sender", "created_at")})
    .inline()
)


def deliver(tx: Transaction, job_id: str) -> None:
    """Tell the nodes that wait for a job that it has ended."""
    waiters = tx.rows(_WAITERS, (job_id,))
    if not waiters:
        return
    for run_id, node_id, key in waiters:
        post(tx, job_id, run_id, node_id, key)
    tx.execute(_DELIVERED, (job_id,))


def post(tx: Transaction, job_id: str, run_id: str, node_id: str, key: str) -> None:
    """Tell one node that a job has ended; see `JobEnded`."""
    body = {"do": "job_ended", "node_id": node_id, "job_id": job_id}
    if key != "default":
        body["key"] = key
    now = dt.datetime.now(dt.UTC)
    tx.execute(_POST, (run_id, orjson.dumps(body).decode(), f"{SENDER}{job_id}", now))
    tx.after = (*tx.after, partial(tell, of_run(run_id)))
