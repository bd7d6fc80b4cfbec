"""What tasks ask people, and what they were answered, in the order in which they asked.

A question is recorded in the transaction that parks its task, and an answer in the one that lets
the task go on. Answers stay: a task that is called again finds all of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import attrs
import orjson
import sqlalchemy as sa

from dagger_dsl.store.schema import task_questions as table
from dagger_dsl.store.transactions import Statement, Transaction

__all__ = [
    "ANSWERS",
    "Answered",
    "Question",
    "ask",
    "open_question",
    "record_answer",
]

_number = sa.bindparam("the_task", type_=sa.Integer())


def _bind(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(f"new_{name}", type_=table.c[name].type)


_LAST: Final = Statement(sa.select(sa.func.max(table.c.position)).where(table.c.task_id == _number))
_OPEN: Final = Statement(
    sa.select(table.c.position, table.c.question, table.c.answer_schema).where(
        table.c.task_id == _number, table.c.answered_at.is_(None)
    )
)
_FORGET: Final = Statement(
    sa.delete(table).where(table.c.task_id == _number, table.c.answered_at.is_(None))
)
_COLUMNS: Final = tuple(column.name for column in table.columns)
_INSERT: Final = Statement(
    sa.insert(table).values({name: _bind(name) for name in _COLUMNS}).inline()
)
#: Of one task, in order.
ANSWERS: Final = Statement(
    sa.select(
        table.c.question,
        table.c.answer,
        table.c.artifact_id,
        table.c.answered_by,
        table.c.answered_at,
    )
    .where(table.c.task_id == _number, table.c.answered_at.is_not(None))
    .order_by(table.c.position)
)


@attrs.frozen
class Question:
    """What a task asks a person.

    Attributes:
        text: For the person.
        schema: JSON Schema of the answer; None for any value.
    """

    text: str
    schema: Mapping[str, Any] | None = None


@attrs.frozen
class Answered:
    """What a person answered a task.

    Attributes:
        question: What it had asked; empty where it did not say.
        value: The answer.
        by: Who gave it, for people; empty where that is not known.
        at: When, UTC.
    """

    question: str
    value: Any
    by: str
    at: dt.datetime


def ask(tx: Transaction, number: int, job_id: str, question: Question | None) -> None:
    """Record what a task asks that is parked; what it asked before and heard nothing of is gone."""
    tx.execute(_FORGET, (number,))
    if question is not None:
        schema = None if question.schema is None else orjson.dumps(dict(question.schema)).decode()
        _insert(tx, number, job_id, question=question.text, answer_schema=schema)


def open_question(tx: Transaction, number: int, error: str) -> Question:
    """Return what a parked task waits to hear.

    Args:
        tx: The transaction.
        number: The task.
        error: Why it is parked, which is what it asks where it did not use `TaskContext.ask`.
    """
    rows = tx.rows(_OPEN, (number,))
    if not rows:
        return Question(error)
    return Question(rows[0][1], None if rows[0][2] is None else orjson.loads(rows[0][2]))


def record_answer(
    tx: Transaction,
    number: int,
    job_id: str,
    question: Question,
    answer: tuple[bytes | None, str | None],
    by: str,
    now: float,
) -> None:
    """Record an answer: inline, or the id of an artifact."""
    ask(tx, number, job_id, None)
    inline, artifact_id = answer
    _insert(
        tx,
        number,
        job_id,
        question=question.text,
        answer=inline,
        artifact_id=artifact_id,
        answered_by=by,
        answered_at=now,
    )


def _insert(tx: Transaction, number: int, job_id: str, **more: Any) -> None:
    last: int | None = tx.scalar(_LAST, (number,))
    given = {
        "task_id": number,
        "position": 0 if last is None else last + 1,
        "job_id": job_id,
        "answered_by": "",
        **more,
    }
    values = {f"new_{name}": given.get(name) for name in _COLUMNS}
    tx.execute(_INSERT, _INSERT.in_order(values))
