"""What a change of a task brings with it, as steps inside one transaction.

Tasks that waited become ready, those that need a failed one fail, and the last one that ends ends
its job: no process has to be there for it, and a kill leaves nothing half done.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from dagger_dsl.errors import InvalidState, JobNotFound, TaskNotFound, shown, storable, task_cycle
from dagger_dsl.model.tasks import UNFINISHED, TaskStatus, check_transition
from dagger_dsl.store import task_statements as sql
from dagger_dsl.store.arguments import check_reason, check_text
from dagger_dsl.store.job_ends import ENDED, deliver
from dagger_dsl.store.schema import NEVER, UNSURE
from dagger_dsl.store.transactions import Transaction

__all__ = [
    "DEAD",
    "DIED",
    "DONE",
    "LOST",
    "NEVER",
    "SILENT",
    "UNSURE",
    "add_link",
    "asks_person",
    "cancel_tasks",
    "count_job",
    "follow",
    "hold",
    "job_status",
    "json_text",
    "open_needs",
    "recount",
    "set_job",
    "set_status",
    "settle_jobs",
    "steer",
    "task_row",
    "utc",
    "wait_again",
]

#: Statuses of a task that satisfy those that need it.
DONE: Final = ("completed", "accepted")
#: Statuses that no waiting ends, unless a person does something.
DEAD: Final = ("failed", "cancelled")
#: Statuses in which a task waits for those that it needs.
_WAITING: Final = ("pending", "blocked", "paused")

#: Causes of changes: when a worker died, when it gave no sign of life for its lease, and when what
#: a task needs cannot come any more.
DIED: Final = "its worker died"
SILENT: Final = "its worker gave no sign of life"
LOST: Final = "a task that it needs was not completed"


def asks_person(status: str, waits: int, due: float | None) -> bool:
    """Whether a task waits for a person, with what its row says."""
    return status == TaskStatus.BLOCKED and (not waits or due in (NEVER, UNSURE))


# --- jobs


def job_status(tx: Transaction, job_id: str) -> str:
    check_text("a job's id", job_id)
    status = tx.scalar(sql.JOB_STATUS, (job_id,))
    if status is None:
        raise JobNotFound(f"there is no job {shown(job_id)}; start_job() makes one")
    return str(status)


def set_job(
    tx: Transaction,
    job_id: str,
    status: str,
    error: str | None,
    deadline: float | None,
    now: float,
) -> None:
    values = {
        "the_job": job_id,
        "new_status": status,
        "new_error": None if error is None else storable(error),
        "new_deadline": deadline,
        "the_moment": now,
        "the_time": utc(now),
    }
    tx.execute(sql.SET_JOB, sql.SET_JOB.in_order(values))
    if status in ENDED:
        deliver(tx, job_id)


def count_job(tx: Transaction, job_id: str, unfinished: int, failed: int, now: float) -> None:
    values = {
        "the_job": job_id,
        "more_unfinished": unfinished,
        "more_failed": failed,
        "the_moment": now,
    }
    tx.execute(sql.COUNT_JOB, sql.COUNT_JOB.in_order(values))


def settle_jobs(tx: Transaction, job_ids: Iterable[str], now: float) -> list[str]:
    """Bring jobs in line with the counts of their tasks; return the ids of those that ended.

    Of a job that goes on without tasks that were cancelled these are its skipped branches; one of
    which nothing else is left is cancelled itself.
    """
    over = []
    for job_id in job_ids:
        rows = tx.rows(sql.JOB_COUNTS, (job_id,))
        if not rows:
            continue  # it was removed
        status, unfinished, failed = rows[0]
        if status in ("created", "cancelled"):
            continue
        new = "running" if unfinished else "failed" if failed else "completed"
        if new == "completed":
            named = {"the_job": job_id, "the_limit": 1, "the_first": 0}
            given_up = tx.rows(sql.GIVEN_UP, sql.GIVEN_UP.in_order(named))
            if given_up:
                set_job(tx, job_id, "cancelled", _given_up(*given_up[0]), None, now)
                over.append(job_id)
                continue
        if new == status:
            continue
        values = {"the_job": job_id, "new_status": new, "the_time": utc(now)}
        tx.execute(sql.SETTLE_JOB, sql.SETTLE_JOB.in_order(values))
        if not unfinished:
            over.append(job_id)
            deliver(tx, job_id)  # who waits for it is told; all others pay nothing
    return over


def _given_up(task_id: str, reason: str | None) -> str:
    text = f"task {task_id!r} was cancelled"
    return f"{text}: {reason}" if reason and reason != "cancelled" else text


def cancel_tasks(tx: Transaction, job_id: str, reason: str, now: float) -> list[str]:
    """Cancel a job with all its tasks that have not ended; return the ids of those that ran."""
    check_reason("a reason", reason)
    if job_status(tx, job_id) not in ("created", "running"):
        return []
    ran = []
    for number, public_id, status in tx.rows(sql.UNFINISHED_OF_JOB, (job_id,)):
        if status == "running":
            ran.append(str(public_id))
        set_status(tx, number, TaskStatus.CANCELLED, now, error=reason, cause=reason or "cancelled")
        count_job(tx, job_id, -1, 0, now)
    set_job(tx, job_id, "cancelled", reason, None, now)
    return ran


# --- tasks


def task_row(tx: Transaction, task_id: str) -> Sequence[Any]:
    check_text("a task's id", task_id)
    rows = tx.rows(sql.BY_ID, (task_id,))
    if not rows:
        raise TaskNotFound(f"there is no task {shown(task_id)}")
    return rows[0]


def set_status(
    tx: Transaction,
    number: int,
    status: TaskStatus,
    now: float,
    *,
    error: str = "",
    waits: int | None = None,
    due: float | None = None,
    cause: str = "",
) -> None:
    """Set a status, and what goes with it; nobody owns the task then."""
    values = {
        "the_task": number,
        "new_status": str(status),
        "new_error": storable(error) or None,
        "new_waits": waits,
        "new_due": due,
        "the_doubt": UNSURE,
        "the_moment": now,
        "the_time": utc(now),
    }
    tx.execute(sql.CHANGE, sql.CHANGE.in_order(values))
    tx.execute(sql.INSERT_EVENT, (number, str(status), now, storable(cause), "", 0))


def hold(tx: Transaction, number: int, now: float, waits: int) -> None:
    """Let a person decide on a task that is tried again with others, and may be called once."""
    why = "its last call was cut off, and it may be called at most once: decide by hand"
    set_status(tx, number, TaskStatus.BLOCKED, now, error=why, waits=waits, due=UNSURE, cause=why)


def follow(
    tx: Transaction,
    job_id: str,
    number: int,
    status: str,
    now: float,
    count: list[int] | None = None,
    *,
    held: bool | None = None,
) -> None:
    """Do what follows for the tasks that need one which has ended.

    Args:
        tx: The transaction.
        job_id: Its job.
        number, status: The task, and how it ended.
        now: When.
        count: Takes changes of the job's counts; they are written here by default.
        held: Whether the job is not started yet, so that none is ready; None to look.
    """
    changed = [0, 0] if count is None else count
    ended = [(number, status)]
    while ended:
        number, status = ended.pop()
        done = status in DONE
        for each, state, waits, due, runs_anyway in tx.rows(sql.DEPENDENTS, (number,)):
            if state not in _WAITING:
                continue  # one that runs looks at what it needs when it parks itself
            if not done and not runs_anyway:
                set_status(tx, each, TaskStatus.FAILED, now, error=LOST, cause=LOST)
                changed[0] -= 1
                changed[1] += 1
                ended.append((each, "failed"))
                continue
            new = state
            if waits <= 1 and due is None and state != "paused":
                if held is None:
                    held = job_status(tx, job_id) == "created"
                new = "pending" if held else "ready"
            values = {"the_task": each, "new_status": new}
            tx.execute(sql.SATISFY, sql.SATISFY.in_order(values))
            if new != state:
                tx.execute(sql.INSERT_EVENT, (each, new, now, "what it needs is done", "", 0))
    if count is None and changed != [0, 0]:
        count_job(tx, job_id, changed[0], changed[1], now)
        settle_jobs(tx, (job_id,), now)


def steer(
    tx: Transaction,
    task_id: str,
    row: Sequence[Any],
    new: TaskStatus,
    now: float,
    *,
    cause: str,
    error: str = "",
) -> None:
    """Change a status by hand, with all that follows.

    Args:
        tx: The transaction.
        task_id, row: The task, and what `task_row` has of it.
        new: What it becomes; of ready and pending, what it needs decides, and so it does of
            blocked where the task runs.
        now: When.
        cause, error: Why, for its history, and what is kept with it.

    Raises:
        ConfigurationError: *cause* or *error* is no text.
        InvalidState: A task may not go this way, or cannot: what it needs has failed.
    """
    check_reason("a reason", cause)
    check_reason("an error", error)
    number, status, waits, job_id = row[0], TaskStatus(row[1]), row[2], str(row[4])
    check_transition(task_id, status, new)
    if status is TaskStatus.BLOCKED and new is TaskStatus.PAUSED and row[6] == UNSURE:
        raise InvalidState(
            f"task {task_id!r} waits for somebody to say whether it may be called again, as nobody "
            "knows what its last call has done: retry() calls it once more, cancel_task() ends it"
        )
    after = new
    if new in (TaskStatus.READY, TaskStatus.PENDING):
        waits, lost = open_needs(tx, number)
        if lost:
            raise InvalidState(
                f"task {task_id!r} needs {_lost(tx, number)}: let that be tried again, which lets "
                "this one wait for it, too"
            )
        waiting = waits or job_status(tx, job_id) == "created"
        after = TaskStatus.PENDING if waiting else TaskStatus.READY
    elif new is TaskStatus.BLOCKED and status is TaskStatus.RUNNING:
        # While it ran nobody counted for it.
        waits, lost = open_needs(tx, number)
        if lost:
            after, error = TaskStatus.FAILED, LOST
        elif not waits and tx.rows(sql.NEEDED_MEANWHILE, (number,)):
            after, error = TaskStatus.READY, ""  # what it came to need is done already
    set_status(tx, number, after, now, waits=waits, cause=cause, error=error)
    recount(tx, job_id, number, status, after, now)


def recount(
    tx: Transaction,
    job_id: str,
    number: int,
    old: TaskStatus,
    new: TaskStatus,
    now: float,
) -> None:
    """Bring the job, and the tasks that need this one, in line with a change by hand."""
    count = [
        (new in UNFINISHED) - (old in UNFINISHED),
        (new is TaskStatus.FAILED) - (old is TaskStatus.FAILED),
    ]
    if str(new) in ("completed", *DEAD) and str(old) not in DEAD:
        follow(tx, job_id, number, str(new), now, count)
    if new is TaskStatus.REJECTED:  # those that have not begun wait for a better result
        start_over(tx, number, now, count)
    if new in UNFINISHED and old not in UNFINISHED:
        start_over(tx, number, now, count)
        if job_status(tx, job_id) == "cancelled":
            set_job(tx, job_id, "running", None, None, now)
    count_job(tx, job_id, count[0], count[1], now)
    settle_jobs(tx, (job_id,), now)


def start_over(tx: Transaction, number: int, now: float, count: list[int]) -> None:
    """Let those wait again that failed with, or wait for, a task that is tried again."""
    again = [number]
    while again:
        for each, state, _, due, _ in tx.rows(sql.DEPENDENTS, (again.pop(),)):
            waits, lost = open_needs(tx, each)
            if state == "failed" and not lost and tx.scalar(sql.ERROR, (each,)) == LOST:
                count[0] += 1
                count[1] -= 1
                again.append(each)
                if due == UNSURE:
                    hold(tx, each, now, waits)
                    continue
            elif state not in ("pending", "ready"):
                if state in ("blocked", "paused"):
                    tx.execute(sql.SET_WAITS, (waits, each))
                continue
            cause = "what it needs is tried again"
            set_status(tx, each, TaskStatus.PENDING, now, waits=waits, cause=cause)


def wait_again(tx: Transaction, job_id: str, number: int, status: TaskStatus, now: float) -> None:
    """Bring a task that has not begun in line with what it needs by now."""
    waits, lost = open_needs(tx, number)
    if lost:
        set_status(tx, number, TaskStatus.FAILED, now, error=LOST, waits=waits, cause=LOST)
        count = [-1, 1]
        follow(tx, job_id, number, "failed", now, count)
        count_job(tx, job_id, count[0], count[1], now)
        settle_jobs(tx, (job_id,), now)
    elif waits and status is TaskStatus.READY:
        set_status(tx, number, TaskStatus.PENDING, now, waits=waits, cause="it needs another task")
    else:
        tx.execute(sql.SET_WAITS, (waits, number))


# --- what tasks need


def open_needs(tx: Transaction, number: int) -> tuple[int, bool]:
    """Return for how many tasks one has to wait, and whether one of these cannot come."""
    anyway = bool(tx.scalar(sql.RUNS_ANYWAY, (number,)))
    states = [str(status) for _, status in tx.rows(sql.NEEDS, (number,))]
    dead = sum(state in DEAD for state in states)
    waits = sum(state not in DONE for state in states) - (dead if anyway else 0)
    return waits, bool(dead) and not anyway


def _lost(tx: Transaction, number: int) -> str:
    """Return in words which tasks that one needs cannot come any more."""
    lost = [(each, status) for each, status in tx.rows(sql.NEEDS, (number,)) if status in DEAD]
    return ", ".join(f"{tx.scalar(sql.NAME, (each,))!r}, which is {how}" for each, how in lost)


def add_link(tx: Transaction, number: int, task_id: str, job_id: str, needs: str) -> None:
    """Link two tasks of one job, the first of which needs the other."""
    other = task_row(tx, needs)
    if other[4] != job_id:
        raise TaskNotFound(f"job {job_id!r} has no task {shown(needs)}")
    path = _path(tx, int(other[0]), number)
    if path is not None:
        names = [str(tx.scalar(sql.NAME, (each,))) for each in path]
        raise task_cycle([task_id, *names])
    if not tx.rows(sql.LINK, (number, other[0])):
        position = tx.scalar(sql.LAST_LINK, (number,))
        place = 0 if position is None else position + 1
        tx.execute(sql.INSERT_LINK, (number, other[0], place))


def _path(tx: Transaction, start: int, target: int) -> list[int] | None:
    """Return the way from one task to another that it needs, None where it does not.

    From both ends in turn: of two tasks that are not linked yet one is at the end of a chain as a
    rule, and the other side may be as long as it likes.
    """
    below: dict[int, int] = {start: start}  # each with the task that it was reached from
    above: dict[int, int] = {target: target}
    sides = ((sql.NEEDED, below, above), (sql.NEEDING, above, below))
    open_: tuple[list[int], list[int]] = ([start], [target])
    met = start if start == target else None
    while met is None and all(open_):
        for (links, seen, others), found in zip(sides, open_, strict=True):
            if not found or met is not None:
                continue
            number = found.pop()
            for (each,) in tx.rows(links, (number,)):
                if each not in seen:
                    seen[each] = number
                    found.append(each)
                    if each in others:
                        met = each
    return None if met is None else [*_back(below, met)[::-1], *_back(above, met)[1:]]


def _back(came: dict[int, int], number: int) -> list[int]:
    """Return the way back from a task to where the search for it began."""
    path = [number]
    while came[path[-1]] != path[-1]:
        path.append(came[path[-1]])
    return path


def json_text(value: Any) -> str:
    """Return JSON."""
    return orjson.dumps(value).decode()


def utc(moment: float) -> dt.datetime:
    """Return a time of seconds since 1970; what comes after all times is the last one."""
    try:
        return dt.datetime.fromtimestamp(moment, dt.UTC)
    except (ValueError, OverflowError):
        return dt.datetime.max.replace(tzinfo=dt.UTC)
