"""What tasks ask people, and what they were answered, in the order in which they asked.

A question is recorded in the transaction that parks its task, and an answer in the one that lets
the task go on. Answers stay: a task that is called again finds all of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import orjson
import sqlalchemy as sa

from dagger_dsl.errors import ConfigurationError, InvalidState, shown, storable
from dagger_dsl.store.schema import task_questions as table
from dagger_dsl.store.schema import tasks
from dagger_dsl.store.transactions import Statement, Transaction

__all__ = [
    "ANSWERS",
    "Answered",
    "Question",
    "ask",
    "check_question",
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
_RUN: Final = Statement(sa.select(tasks.c.run_id).where(tasks.c.task_id == _number))
_SET_RUN: Final = Statement(
    sa.update(tasks)
    .where(tasks.c.task_id == _number)
    .values(run_id=sa.bindparam("new_run", type_=sa.Text()))
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
        number: Which one of the task's it is, counted from 1; 0 before that is known.
        run_id: The run of the task that asks in its place; None where the task itself does.
        seen: The newest request to any run when the task went on with that one.
    """

    text: str
    schema: Mapping[str, Any] | None = None
    number: int = 0
    run_id: str | None = None
    seen: int = 0


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
    run_id = None if question is None else question.run_id
    values = {"the_task": number, "new_run": run_id}
    tx.execute(_SET_RUN, _SET_RUN.in_order(values))
    if question is not None and run_id is None:  # what a run asks is recorded there
        schema = None if question.schema is None else orjson.dumps(dict(question.schema)).decode()
        _insert(tx, number, job_id, question=question.text, answer_schema=schema)


def open_question(
    look: Callable[[Statement, Sequence[Any]], Sequence[Sequence[Any]]], number: int, error: str
) -> Question:
    """Return what a parked task waits to hear.

    Args:
        look: Reads.
        number: The task.
        error: Why it is parked, which is what it asks where it did not use `TaskContext.ask`.
    """
    rows = look(_OPEN, (number,))
    if rows:
        position, text, schema = rows[0]
        return Question(text, None if schema is None else orjson.loads(schema), position + 1)
    ((last,),), ((run_id,),) = look(_LAST, (number,)), look(_RUN, (number,))
    return Question(error, None, 1 if last is None else last + 2, run_id)


def check_question(task_id: str, asked: Question, meant: str | int | None) -> None:
    """Refuse an answer that is for another question than the one that is asked now.

    Args:
        task_id: Of the task that asks.
        asked: What it asks.
        meant: The text or the number of the question that is answered; None for whichever it is.

    Raises:
        InvalidState: It is another one.
        ConfigurationError: *meant* is no text and no number.
    """
    if meant is None:
        return
    if isinstance(meant, bool) or not isinstance(meant, str | int):
        raise ConfigurationError(
            f"question is the text of a question or its number, not {shown(meant)}"
        )
    if (storable(meant) == asked.text) if isinstance(meant, str) else (meant == asked.number):
        return
    given = shown(meant) if isinstance(meant, str) else f"question {meant}"
    raise InvalidState(
        f"task {task_id!r} does not ask {given} now, but {asked.text!r} (question {asked.number}): "
        "somebody has answered meanwhile, perhaps; answer what it asks now"
    )


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
