"""`TaskClaims`: tasks as workers see them: claimed, ended, due, and taken from who died.

A worker *exchanges*: it hands in what has ended and is handed what it may begin, in one commit.
Each write of a worker names the version that its claim made, so that one that comes too late, after
the task was given to another worker, changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson

from dagger_dsl.errors import ConfigurationError, CycleError, TaskNotFound, storable
from dagger_dsl.model.policies import Effects
from dagger_dsl.model.tasks import UNFINISHED, TaskStatus
from dagger_dsl.store import task_statements as sql
from dagger_dsl.store.batches import INSERT_ARTIFACT, file_row
from dagger_dsl.store.task_limits import TaskLimits
from dagger_dsl.store.task_questions import Question, ask
from dagger_dsl.store.task_reads import TaskTable
from dagger_dsl.store.task_runs import is_answered
from dagger_dsl.store.task_steps import (
    DIED,
    LOST,
    NEVER,
    SILENT,
    UNSURE,
    add_link,
    count_job,
    follow,
    open_needs,
    set_status,
    settle_jobs,
    utc,
)
from dagger_dsl.store.transactions import Statement, Transaction, read, run_transaction

if TYPE_CHECKING:
    from dagger_dsl.store.messages import MessageRows, Outgoing

__all__ = ["AHEAD", "Claim", "Ending", "TaskClaims"]

logger = logging.getLogger("dagger_dsl.store")

#: How many tasks with a lane a claim reads beyond those that it wants; of how many it looks at the
#: lanes where these are not free; then it goes from lane to lane, of which there may be thousands.
_FURTHER: Final = 4
_LOOK: Final = 128
#: So many of each lane that it wants, and of so many that are held: tasks are often added lane by
#: lane, and a look from lane to lane takes 3 us for each.
_EACH: Final = 64
_HELD: Final = 8

#: Why a task runs that begins after others which its worker was given with it.
AHEAD: Final = "claimed ahead"

#: Causes that a task itself may have brought about.
_DEATHS: Final = (DIED, SILENT)


@attrs.frozen(eq=False)
class Claim:
    """A task that a worker has been given.

    Attributes:
        number: Its number in the table.
        version: What each of the worker's writes has to name, with the number and the id.
        id, job_id, agent, parent, priority, effects: Of the task.
        attempt: Which call of its agent this is, counted from 1; one that never began is counted
            where a worker died that had been given the task ahead.
        retries: How many of the calls before it were retries.
        payload: Its input: inline, and the id of an artifact.
        spec: What else it was given.
    """

    number: int
    id: str
    job_id: str
    agent: str
    version: int
    attempt: int
    retries: int
    effects: str
    parent: str | None
    priority: int
    payload: tuple[bytes | None, str | None]
    spec: Mapping[str, Any]


@attrs.frozen(eq=False)
class Ending:
    """What became of a claimed task.

    Attributes:
        claim: Which.
        status: ``completed``; ``failed``; ``pending`` to be called again at *due_at*; ``ready``, as
            if it had not been claimed; ``blocked`` until *needs* are done, or a person decides.
        result: Of a completed one, what `TaskTable.encoded` gave.
        error: What it failed with, or why it is blocked.
        due_at: Seconds since 1970 from which on it is ready again.
        needs: Ids of tasks that it waits for, too.
        retried: Whether another call counts as a retry.
        asks: Whether a blocked one waits for a person, whatever it needs.
        unsure: Whether that is as nobody knows what its call has done; no answer lets it go on.
        question: What it asks then; None where *error* says that.
        begun: Whether its agent was called; one that was not is ``ready``.
        published: Messages that are stored with a completion, placed; with no other ending.
    """

    claim: Claim
    status: TaskStatus
    result: tuple[bytes | None, str | None, int] = (None, None, 0)
    error: str = ""
    due_at: float | None = None
    needs: tuple[str, ...] = ()
    retried: bool = False
    asks: bool = False
    unsure: bool = False
    begun: bool = True
    published: Sequence[Outgoing] = ()
    question: Question | None = None


class TaskClaims(TaskTable):
    """Tasks of one database for workers."""

    _messages: MessageRows | None = None

    @property
    def messages(self) -> MessageRows:
        """What encodes and stores the messages of tasks."""
        if self._messages is None:
            from dagger_dsl.store.messages import MessageRows  # most tasks publish nothing

            self._messages = MessageRows(self._database, self._payloads, self._clock)
        return self._messages

    def exchange(
        self,
        worker: str,
        endings: Sequence[Ending] = (),
        *,
        agents: Sequence[str] = (),
        wanted: int = 0,
        ahead: int = 0,
        quick: Container[str] = (),
        limits: TaskLimits | None = None,
    ) -> tuple[list[Claim], list[Ending], list[str]]:
        """Hand in what has ended, and be given what may begin, in one commit.

        Args:
            worker: Who asks; a name that no other worker has.
            endings: What became of its claims.
            agents: The agents that it has; tasks of others are left alone.
            wanted: Tasks at most: those of the highest priority first, of one priority those that
                were added first.
            ahead: So many more, which begin after these: as far as they are for *quick* agents,
                were never called before and may be called more than once, so that the death of a
                worker that has not begun them yet loses nothing. It counts as a call of them, as
                they may have begun, but not as a death; and they are not claimed ahead again.
            quick: Agents.
            limits: What may not begin now is passed over; None where nothing limits its agents.

        Returns:
            The claims; those endings that came too late, whose tasks belong to others now; and the
            ids of the jobs that have ended.
        """
        claims: list[Claim] = []
        late: list[Ending] = []
        over: list[str] = []

        def swap(tx: Transaction) -> None:
            now = self._clock()  # once it may write: what waits for others comes after them
            for each in (claims, late, over):
                each.clear()
            if endings:
                over.extend(self._end(tx, worker, endings, late, now))
            if wanted > 0:
                reach = wanted, ahead, quick
                claims.extend(self._claim(tx, worker, agents, reach, now, limits))

        messages = sum(len(each.published) for each in endings)
        run_transaction(self._database, swap, pages=3 + len(endings) + wanted + messages)
        return claims, late, over

    def has_ready(self, agents: Sequence[str]) -> bool:
        """Return whether a task of one of these agents may begin; nothing is locked for it."""
        look = partial(read, self._database)
        return any(
            look(sql.ANY_READY, (each, 1, 0)) or _first_ready(look, each, 1, 1) for each in agents
        )

    def has_left(self, agents: Sequence[str]) -> bool:
        """Return whether a task of one of these agents is ready, runs, or waits for its time."""
        return bool(read(self._database, sql.left_of(len(agents)), sql.left_values(agents)))

    def _end(
        self,
        tx: Transaction,
        worker: str,
        endings: Sequence[Ending],
        late: list[Ending],
        now: float,
    ) -> list[str]:
        """Record what has ended, but what comes too late; return the ids of jobs that are over."""
        counts: dict[str, list[int]] = {}
        files = [file_row(str(e.result[1]), e.result[2]) for e in endings if e.result[1]]
        if files:
            tx.execute_many(INSERT_ARTIFACT(self._database.dialect), files)
        for each in endings:
            claim, status = each.claim, each.status
            error = each.error
            if status in UNFINISHED:
                if tx.scalar(sql.VERSION, (claim.number, claim.id)) != claim.version:
                    late.append(each)
                    continue
                status, error = self._parked(tx, each)
            error = storable(error)
            inline, artifact_id, _ = each.result
            values = {
                "the_task": claim.number,
                "the_id": claim.id,
                "the_version": claim.version,
                "new_status": str(status),
                "new_result": inline,
                "new_artifact": artifact_id,
                "new_error": error or None,
                "new_due": _due(each, status),
                "more_retries": int(each.retried),
                "less_attempts": 0 if each.begun else 1,
                "the_moment": now,
            }
            if not tx.execute(sql.END, sql.END.in_order(values)):
                late.append(each)
                continue
            event = (claim.number, str(status), now, error, worker, claim.attempt)
            tx.execute(sql.INSERT_EVENT, event)
            if each.published and status is TaskStatus.COMPLETED:
                for fault in self.messages.append(tx, each.published):
                    if fault is not None:  # somebody has published under this task's name
                        logger.error("%s", fault)
            count = counts.setdefault(claim.job_id, [0, 0])
            if status not in UNFINISHED:
                count[0] -= 1
                count[1] += status is TaskStatus.FAILED
                follow(tx, claim.job_id, claim.number, str(status), now, count, held=False)
        for job_id, (unfinished, failed) in counts.items():
            count_job(tx, job_id, unfinished, failed, now)
        return settle_jobs(tx, [job_id for job_id, count in counts.items() if count[0]], now)

    def _parked(self, tx: Transaction, ending: Ending) -> tuple[TaskStatus, str]:
        """Link a task with what it waits for; return where it stands then, and why.

        One that would wait for itself, or for what is no task of its job, has failed.

        While it ran nobody counted for it, so that what it needs is looked at now.
        """
        claim, status = ending.claim, ending.status
        try:
            for each in ending.needs:
                add_link(tx, claim.number, claim.id, claim.job_id, each)
        except (
            TaskNotFound,
            CycleError,
            ConfigurationError,
        ) as error:  # of its agent, and no matter of the others
            return TaskStatus.FAILED, f"{type(error).__name__}: {error}"
        waits, dead = open_needs(tx, claim.number)
        tx.execute(sql.SET_WAITS, (waits, claim.number))
        if dead:
            return TaskStatus.FAILED, LOST
        if status is TaskStatus.BLOCKED:
            asked = ending.question
            if asked is not None and asked.run_id and is_answered(tx, asked.run_id, asked.seen):
                # Somebody has said meanwhile what the run waits for.
                return (TaskStatus.PENDING if waits else TaskStatus.READY), ""
            if ending.asks:
                ask(tx, claim.number, claim.job_id, ending.question)
            if waits or ending.asks:
                return status, ending.error
            return TaskStatus.READY, ""  # what it needs is done already
        return (TaskStatus.PENDING if waits else status), ending.error

    def _claim(
        self,
        tx: Transaction,
        worker: str,
        agents: Sequence[str],
        reach: tuple[int, int, Container[str]],
        now: float,
        limits: TaskLimits | None,
    ) -> list[Claim]:
        wanted, ahead, quick = reach
        most = wanted + ahead
        rows = [row for agent in agents for row in _first_ready(tx.rows, agent, wanted, most)]
        if len(agents) > 1:
            rows.sort(key=_order)
        claims: list[Claim] = []
        lanes: set[tuple[str, str]] = set()
        for row in rows:
            if len(claims) >= wanted and (len(claims) >= most or not _may_wait(row, quick)):
                break
            lane = row[13]
            if lane is not None:
                if (row[3], lane) in lanes:
                    continue
                lanes.add((row[3], lane))
            if limits is not None and not limits.admits(tx, row[0], row[3], self._clock()):
                continue
            values = {
                "the_task": row[0],
                "the_version": row[4],
                "the_worker": worker,
                "the_moment": now,
            }
            if tx.execute(sql.TAKE, sql.TAKE.in_order(values)):
                claims.append(_claim_of(row))
        if claims:
            events = [
                (
                    each.number,
                    "running",
                    now,
                    AHEAD if place >= wanted else "",
                    worker,
                    each.attempt,
                )
                for place, each in enumerate(claims)
            ]
            tx.execute_many(sql.INSERT_EVENT, events)
        return claims

    # -- time and death

    def wake(self) -> float | None:
        """Make the tasks ready whose time has come; return when the next one's comes.

        Returns:
            Seconds since 1970; None where none waits for a time.
        """
        rows = read(self._database, sql.DUE, (1, 0))
        now = self._clock()
        if not rows or rows[0][2] > now:
            return rows[0][2] if rows else None
        after: float | None = None

        def ready(tx: Transaction) -> None:
            nonlocal after
            after = None
            for number, waits, due in tx.rows(sql.DUE, (1_000, 0)):
                if due > now:
                    after = due
                    break
                new = "pending" if waits else "ready"
                tx.execute(sql.WAKE, (new, number))
                tx.execute(sql.INSERT_EVENT, (number, new, now, "its time has come", "", 0))

        run_transaction(self._database, ready)
        return after

    def beat(self, worker: str, lease: float) -> int:
        """Show that a worker lives; return how many tasks it has."""
        count = 0
        values = {"the_worker": worker, "the_lease": utc(self._clock() + lease)}

        def raise_(tx: Transaction) -> None:
            nonlocal count
            count = tx.execute(sql.BEAT, sql.BEAT.in_order(values))

        run_transaction(self._database, raise_)
        return count

    def held_by(self, worker: str) -> set[tuple[int, int]]:
        """Return number and version of the tasks that a worker has."""
        return {(number, version) for number, version in read(self._database, sql.HELD, (worker,))}

    def was_taken(self, claim: Claim) -> bool:
        """Return whether others took a claimed task over, as its worker seemed to be gone."""
        statement = sql.TAKEN_SINCE
        named = {"the_task": claim.number, "the_attempt": claim.attempt}
        found = [
            read(self._database, statement, statement.in_order({**named, "the_cause": cause}))
            for cause in _DEATHS
        ]
        return any(found)

    def owners(self) -> dict[str, tuple[int, ...]]:
        """Return the workers that have tasks, each with numbers that change while it lives.

        They are sums over its tasks: of the beats, of the versions and of their own numbers. Who
        has short tasks is rarely seen with one that it has beaten for, but never twice with the
        same ones.
        """
        rows = read(self._database, sql.OWNERS, ())
        return {str(name): tuple(map(int, sums)) for name, *sums in rows}

    def rescue(self, worker: str, *, cause: str = DIED, max_deaths: int = 3) -> list[str]:
        """Take the tasks of a worker that is gone; return the ids of those that run again.

        One that may be called at most once waits for a person; one during which so many workers
        died has failed. Of one that was claimed ahead nobody knows whether it had begun: that is
        no death of it.

        Args:
            worker: Whose.
            cause: Why, for their history; one that stopped in order did not die of a task, one
                that is `SILENT` may have.
            max_deaths: Workers.
        """
        now = self._clock()
        again: list[str] = []

        def take(tx: Transaction) -> None:
            again.clear()
            counts: dict[str, list[int]] = {}
            for number, public_id, effects, job_id in tx.rows(sql.OF_OWNER, (worker,)):
                waits, lost = open_needs(tx, number)
                if lost:
                    why = LOST
                elif effects == Effects.AT_MOST_ONCE:
                    asks = f"{cause}, and it may be called at most once: decide by hand"
                    blocked = TaskStatus.BLOCKED
                    set_status(
                        tx, number, blocked, now, error=asks, waits=waits, due=UNSURE, cause=cause
                    )
                    continue
                elif (known := _charged(tx, number, cause)) not in _DEATHS or (
                    _deaths(tx, number) + 1 < max_deaths
                ):
                    status = TaskStatus.PENDING if waits else TaskStatus.READY
                    set_status(tx, number, status, now, waits=waits, cause=known)
                    again.append(str(public_id))
                    continue
                else:
                    why = f"{max_deaths} workers died while they ran it"
                set_status(tx, number, TaskStatus.FAILED, now, error=why, waits=waits, cause=cause)
                count = counts.setdefault(job_id, [0, 0])
                count[0] -= 1
                count[1] += 1
                follow(tx, job_id, number, "failed", now, count, held=False)
            for job_id, (unfinished, failed) in counts.items():
                count_job(tx, job_id, unfinished, failed, now)
            settle_jobs(tx, counts, now)

        run_transaction(self._database, take)
        return again


def _first_ready(
    look: Callable[[Statement, Sequence[Any]], Sequence[Sequence[Any]]],
    agent: str,
    wanted: int,
    most: int,
) -> list[Sequence[Any]]:
    """Return the ready tasks of an agent that come first, one at most of each lane that is free.

    Args:
        look: Reads.
        agent: Which.
        wanted, most: How many, where there are so many; and how many at most.
    """
    named = {"the_agent": agent, "the_limit": most, "the_first": 0, "the_one": 1}
    named["the_window"] = most + _FURTHER
    found = look(sql.FIRST_READY, sql.FIRST_READY.in_order(named))
    plain = [row for row in found if row[13] is None]
    if len(plain) == len(found):
        return plain
    held = {lane for (lane,) in look(sql.HELD_LANES, (agent,))}
    laned = _first_of_each(((row, row[13]) for row in found if row[13] is not None), held)
    if len(laned) < wanted and len(found) - len(plain) == named["the_window"]:
        numbers = _further(look, named, wanted, held)
        laned = [row for each in numbers for row in look(sql.READY_ROW, (each,))]
    return sorted(plain + laned, key=_order)[:most]


def _further(
    look: Callable[[Statement, Sequence[Any]], Sequence[Sequence[Any]]],
    named: dict[str, Any],
    wanted: int,
    held: set[str],
) -> list[int]:
    """Return the numbers of the first tasks of free lanes, where many of held ones are before."""
    for window in (_LOOK, _EACH * (_HELD + wanted)):
        named["the_window"] = window
        found = look(sql.LANED, sql.LANED.in_order(named))
        first = _first_of_each(found, held)
        if len(first) >= wanted or len(found) < window:
            return first[: named["the_limit"]]
    return [row[0] for row in look(sql.FIRST_OF_LANES, sql.FIRST_OF_LANES.in_order(named))]


def _first_of_each(found: Iterable[Sequence[Any]], held: Container[str]) -> list[Any]:
    """Return the first thing of each lane that is free, of pairs of a thing and its lane."""
    first: dict[str, Any] = {}
    for thing, lane in found:
        if lane not in held and lane not in first:
            first[lane] = thing
    return list(first.values())


def _order(row: Sequence[Any]) -> tuple[int, int]:
    return -row[9], row[0]


def _due(ending: Ending, status: TaskStatus) -> float | None:
    if status is TaskStatus.PENDING:
        return ending.due_at
    if status is TaskStatus.BLOCKED and ending.asks:
        return UNSURE if ending.unsure else NEVER
    return None


def _charged(tx: Transaction, number: int, cause: str) -> str:
    """Return why a task is rescued: a death is one of it only where it had begun for sure."""
    if cause not in _DEATHS or tx.scalar(sql.LAST_CAUSE, (number, 1, 0)) != AHEAD:
        return cause
    return f"{cause}, perhaps before it began"


def _deaths(tx: Transaction, number: int) -> int:
    """Return how many workers have died while they ran a task."""
    return sum(tx.scalar(sql.DEATHS, (number, each)) or 0 for each in _DEATHS)


def _may_wait(row: Sequence[Any], quick: Container[str]) -> bool:
    return row[3] in quick and not row[5] and row[7] != Effects.AT_MOST_ONCE


def _claim_of(row: Sequence[Any]) -> Claim:
    return Claim(
        number=row[0],
        id=row[1],
        job_id=row[2],
        agent=row[3],
        version=row[4] + 1,
        attempt=row[5] + 1,
        retries=row[6],
        effects=row[7],
        parent=row[8],
        priority=row[9],
        payload=(row[10], row[11]),
        spec=orjson.loads(row[12]) if row[12] else {},
    )
