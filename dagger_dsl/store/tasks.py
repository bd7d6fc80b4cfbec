"""`TaskRows`: the tasks of jobs in a database: made, added, steered.

Every change is one transaction, in which what follows from it is done, too; see `task_steps`.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from graphlib import CycleError as FoundCycle
from graphlib import TopologicalSorter
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson

from dagger_dsl.errors import (
    AgentNotAllowed,
    ConcurrentUpdateError,
    ConfigurationError,
    InvalidState,
    JobExists,
    JobNotFound,
    TaskExists,
    TaskNotFound,
    shown,
    task_cycle,
)
from dagger_dsl.model.ids import new_ids
from dagger_dsl.model.job_settings import NO_SETTINGS, JobSettings
from dagger_dsl.model.jobs import job_config
from dagger_dsl.model.tasks import (
    UNFINISHED,
    JobStatus,
    NewTaskSpec,
    OnDependencyFailure,
    TaskStatus,
)
from dagger_dsl.store import task_statements as sql
from dagger_dsl.store.arguments import check_new_name, check_text
from dagger_dsl.store.batches import INSERT_ARTIFACT, file_row
from dagger_dsl.store.job_settings import change_settings, check_growth
from dagger_dsl.store.task_reads import StoredJob, TaskTable, stored_job
from dagger_dsl.store.task_steps import (
    DEAD,
    DONE,
    LOST,
    add_link,
    cancel_tasks,
    count_job,
    follow,
    job_status,
    json_text,
    set_job,
    set_status,
    settle_jobs,
    steer,
    task_row,
    utc,
    wait_again,
)
from dagger_dsl.store.transactions import Transaction, run_transaction

if TYPE_CHECKING:
    from dagger_dsl.store.task_claims import Claim

__all__ = ["TaskRows"]

logger = logging.getLogger("dagger_dsl.store")


@attrs.frozen
class _NewTasks:
    """Tasks that are about to be added: their ids, what was given, and their encoded inputs."""

    ids: list[str]
    specs: Sequence[NewTaskSpec]
    encoded: Sequence[tuple[bytes | None, str | None, int]]

    @property
    def pages(self) -> int:
        """About how many pages of the database they take."""
        return 2 + len(self.ids) // 4

    def without(self, ids: Container[str]) -> _NewTasks:
        """Return those that are left without some."""
        kept = [place for place, each in enumerate(self.ids) if each not in ids]
        return _NewTasks(
            [self.ids[each] for each in kept],
            [self.specs[each] for each in kept],
            [self.encoded[each] for each in kept],
        )


@attrs.frozen
class _Last:
    """The newest number of a task, and whether that task was removed."""

    number: int
    is_removed: bool


def _last_number(tx: Transaction) -> _Last:
    ((newest, removed),) = tx.rows(sql.LAST, ())
    gone = int(removed or 0)
    return _Last(max(newest or 0, gone), gone > (newest or 0))


class TaskRows(TaskTable):
    """The tasks and jobs of one database, as those see them who make and steer them."""

    # -- jobs

    def create_job(
        self,
        job_id: str,
        *,
        allowed_agents: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        settings: JobSettings = NO_SETTINGS,
    ) -> None:
        """Record a job that is not started yet.

        Raises:
            JobExists: The id is taken.
        """
        now = self._clock()
        row = _job_row(job_id, now, _names_text(allowed_agents), _config_text(config), settings)

        def insert(tx: Transaction) -> None:
            if not _create(tx, row):
                raise JobExists(f"there is a job {shown(job_id)} already; give another id")

        run_transaction(self._database, insert)

    def start_job(
        self,
        job_id: str,
        specs: Sequence[NewTaskSpec] = (),
        *,
        create: bool = False,
        timeout: float | None = None,
        allowed_agents: Sequence[str] | None = None,
        config: Mapping[str, Any] | None = None,
        settings: JobSettings = NO_SETTINGS,
        changes: JobSettings = NO_SETTINGS,
    ) -> list[str]:
        """Let the tasks of a job be claimed from now on, and return the ids of those it was given.

        Args:
            job_id: Which; one that has ended goes on with what is left of it, but for one that
                was cancelled: that stays as it is, and a warning is logged.
            specs: Tasks that are added to it before, as `add` does.
            create: Whether it is made where there is none.
            timeout: Seconds until it is cancelled; None leaves one that runs its limit.
            allowed_agents: The agents that its tasks may be given to; None leaves that as it is.
            config: Anything to keep with it, of JSON types; None leaves what it has.
            settings: What else one keeps that is made here.
            changes: What it keeps from now on; what is None in it stays as it is.

        Raises:
            JobNotFound: There is none.
            AgentNotAllowed: It has a task for another agent.
            ConfigurationError: *config* is not of JSON types, or *allowed_agents* are no names.
            InvalidState, TaskExists, TaskNotFound, CycleError, EncodingError: As `add`.
        """
        now = self._clock()
        made = _job_row(job_id, now, settings=settings) if create else None
        allowed, kept = _names_text(allowed_agents), _config_text(config)
        new = self._prepared(specs)
        stays = False

        def start(tx: Transaction) -> None:
            nonlocal stays
            if made is not None:
                _create(tx, made)
            stays = job_status(tx, job_id) == JobStatus.CANCELLED and not new.ids
            if stays:  # whoever cancelled it had a reason, and a person lets its tasks go on
                return
            change_settings(tx, job_id, changes)
            if new.ids:
                self._add(tx, job_id, new, now)
            if kept is not None:
                tx.execute(sql.SET_CONFIG, (kept, job_id))
            if allowed_agents is not None:
                for (agent,) in tx.rows(sql.AGENTS_OF_JOB, (job_id,)):
                    _check_agent(job_id, str(agent), allowed_agents)
                tx.execute(sql.SET_ALLOWED, (allowed, job_id))
            _start(tx, job_id, timeout, now)

        run_transaction(self._database, start, pages=8 + new.pages)
        if stays:
            logger.warning(
                "job %r was cancelled and stays so; retry() of a task of it lets that, and the "
                "job, go on",
                job_id,
            )
        return new.ids

    def cancel_job(self, job_id: str, reason: str = "") -> list[str]:
        """Cancel a job with all its tasks that have not ended; return the ids of those that ran.

        Raises:
            JobNotFound: There is none.
            ConfigurationError: *reason* is no text.
        """
        now = self._clock()
        ran: list[str] = []

        def cancel(tx: Transaction) -> None:
            ran[:] = cancel_tasks(tx, job_id, reason, now)

        run_transaction(self._database, cancel)
        return ran

    # -- adding

    def add(
        self,
        job_id: str,
        specs: Sequence[NewTaskSpec],
        *,
        create: bool = False,
        claim: Claim | None = None,
        settings: JobSettings = NO_SETTINGS,
    ) -> list[str]:
        """Add tasks, all of them or none, and return their ids.

        What they need, and what they are parts of, are tasks of the same job, new ones among them.
        One that *claim* has added before as a part of itself, by the same id and with the same
        spec, is there and stays as it is: an agent that is called again adds it again.

        Args:
            job_id: Their job.
            specs: What to add.
            create: Whether the job is made where there is none; it is not started by that.
            claim: Of the task whose agent adds them; None where none does.
            settings: What a job keeps that is made here.

        Raises:
            JobNotFound: There is no such job.
            InvalidState: The job has ended.
            TaskExists: An id is taken by another task.
            TaskNotFound: A dependency, or a parent, is no task of the job.
            CycleError: They would wait for each other, or be parts of each other.
            AgentNotAllowed: The job does not let the agent have tasks.
            LimitExceeded: The job would have more tasks than it may.
            EncodingError: An input has no stored form.
            ConcurrentUpdateError: The task of *claim* was cancelled or given to somebody else.
        """
        if not specs and not create:
            return []
        check_text("a job's id", job_id)
        now = self._clock()
        made = _job_row(job_id, now, settings=settings) if create else None
        new = self._prepared(specs)

        def insert(tx: Transaction) -> None:
            _check_claim(tx, claim)
            if made is not None:
                _create(tx, made)
            if new.ids:
                self._add(tx, job_id, new, now, claim)

        run_transaction(self._database, insert, pages=new.pages)
        return new.ids

    def _prepared(self, specs: Sequence[NewTaskSpec]) -> _NewTasks:
        """Return all that can be done about new tasks before their transaction."""
        _check_cycles(specs)
        made = new_ids(len(specs))
        ids = [spec.task_id or id_ for id_, spec in zip(made, specs, strict=True)]
        encoded = [
            self.encoded(spec.input, f"the input of task {id_!r}")
            for id_, spec in zip(ids, specs, strict=True)
        ]
        return _NewTasks(ids, specs, encoded)

    def _add(
        self, tx: Transaction, job_id: str, new: _NewTasks, now: float, claim: Claim | None = None
    ) -> None:
        """Add tasks to a job that takes some."""
        rows = tx.rows(sql.JOB, (job_id,))
        if not rows:
            raise JobNotFound(f"there is no job {shown(job_id)}; start_job() makes one")
        job = stored_job(rows[0])
        if job.status not in (JobStatus.CREATED, JobStatus.RUNNING):
            raise InvalidState(
                f"job {job_id!r} is {job.status} and takes no more tasks; start a new job"
            )
        if claim is not None:
            new = new.without(_added_before(tx, claim, new))
            if not new.ids:
                return
        check_growth(job_id, job.task_count, len(new.ids), job.settings.max_tasks)
        if job.allowed_agents is not None:
            for spec in new.specs:
                _check_agent(job_id, spec.agent, job.allowed_agents)
        self._insert(tx, job, new.ids, new.specs, new.encoded, now)

    def _insert(
        self,
        tx: Transaction,
        job: StoredJob,
        ids: Sequence[str],
        specs: Sequence[NewTaskSpec],
        encoded: Sequence[tuple[bytes | None, str | None, int]],
        now: float,
    ) -> None:
        new = {*ids}
        if len(new) < len(ids):
            raise TaskExists("two of the tasks have one id; give each its own, or leave them out")
        known = self._known(tx, job.id, specs, new)
        last = _last_number(tx)
        at, rows, sizes = utc(now), [], {}
        for id_, spec, (inline, artifact_id, size) in zip(ids, specs, encoded, strict=True):
            if artifact_id is not None:
                sizes[artifact_id] = size
            anyway = spec.on_dependency_failure is OnDependencyFailure.RUN
            satisfied = (*DONE, *DEAD) if anyway else DONE
            waits = sum(
                each in new or known[each][1] not in satisfied for each in spec.dependencies
            )
            ready = not waits and job.status is JobStatus.RUNNING
            rows.append(
                (
                    id_,
                    job.id,
                    spec.parent,
                    "ready" if ready else "pending",
                    spec.agent,
                    spec.priority,
                    inline,
                    at,
                    at,
                    artifact_id,
                    _spec_text(spec),
                    str(spec.effects),
                    spec.retry_count,
                    waits,
                    int(anyway),
                    spec.key,
                )
            )
        if sizes:
            files = [file_row(*each) for each in sizes.items()]
            tx.execute_many(INSERT_ARTIFACT(self._database.dialect), files)
        if last.is_removed and self._database.is_sqlite:
            # SQLite numbers on from the newest row that is left, and a worker that still has a
            # task that was removed must not end another one.
            first: dict[str, Any] = {"task_id": last.number + 1}
            first.update(zip(sql.TASK_COLUMNS, rows.pop(0), strict=True))
            tx.execute(sql.INSERT_NUMBERED, sql.INSERT_NUMBERED.in_order(first))
        tx.execute_many(sql.INSERT_TASK, rows)
        named = {"the_moment": now, "the_task": last.number, "the_job": job.id}
        tx.execute(sql.ADDED_EVENTS, sql.ADDED_EVENTS.in_order(named))
        count = {
            "the_job": job.id,
            "more_tasks": len(specs),
            "more_unfinished": len(specs),
            "the_moment": now,
        }
        tx.execute(sql.COUNT_ADDED, sql.COUNT_ADDED.in_order(count))
        linked = [pair for pair in zip(ids, specs, strict=True) if pair[1].dependencies]
        if not linked:
            return
        numbers = {name: number for name, (number, _) in known.items()}
        added = tx.rows(sql.NEW_TASKS, (last.number, job.id))
        numbers.update((public_id, number) for number, public_id in added)
        links = [
            (numbers[id_], numbers[each], position)
            for id_, spec in linked
            for position, each in enumerate(spec.dependencies)
        ]
        tx.execute_many(sql.INSERT_LINK, links)
        dead = {each for each, (_, status) in known.items() if status in DEAD}
        for id_, spec in linked:
            if spec.on_dependency_failure is OnDependencyFailure.FAIL and dead & {
                *spec.dependencies
            }:
                number = numbers[id_]
                if task_row(tx, id_)[1] == TaskStatus.FAILED:
                    continue  # it needs another one of these, too, and has failed with that
                set_status(tx, number, TaskStatus.FAILED, now, error=LOST, cause=LOST)
                count_job(tx, job.id, -1, 1, now)
                follow(tx, job.id, number, "failed", now)
        if dead:
            settle_jobs(tx, (job.id,), now)

    @staticmethod
    def _known(
        tx: Transaction, job_id: str, specs: Sequence[NewTaskSpec], new: set[str]
    ) -> dict[str, tuple[int, str]]:
        """Return number and status of the tasks that are there already and are named here."""
        for each in {spec.task_id for spec in specs if spec.task_id is not None}:
            if tx.rows(sql.BY_ID, (each,)):
                raise TaskExists(f"there is a task {shown(each)} already; leave its id out")
        wanted = {each for spec in specs for each in spec.dependencies}
        wanted |= {spec.parent for spec in specs if spec.parent is not None}
        known = {}
        for each in wanted - new:
            rows = tx.rows(sql.BY_ID, (each,))
            if not rows or rows[0][4] != job_id:
                raise TaskNotFound(
                    f"job {job_id!r} has no task {shown(each)}; a task can only need, and be part "
                    "of, tasks of its own job"
                )
            known[each] = (int(rows[0][0]), str(rows[0][1]))
        return known

    # -- steering

    def set_status(
        self,
        task_id: str,
        new: TaskStatus,
        *,
        old: TaskStatus | None = None,
        version: int | None = None,
        cause: str = "",
        error: str = "",
    ) -> bool:
        """Change a task's status by hand; return False where it is not *old* any more.

        A task that is tried again starts those over that failed for it.

        Args:
            task_id: Which.
            new: What it becomes.
            old: What it has to be, None for whatever it is.
            version: The version that it has to have.
            cause: Why, for its history.
            error: What is kept with the task as its error.

        Raises:
            TaskNotFound: There is none.
            InvalidState: A task may not go this way.
            ConcurrentUpdateError: It has another version.
            ConfigurationError: *cause* or *error* is no text.
        """
        now = self._clock()
        changed = False

        def change(tx: Transaction) -> None:
            nonlocal changed
            row = task_row(tx, task_id)
            changed = old is None or row[1] == old
            if not changed:
                return
            if version is not None and row[3] != version:
                raise ConcurrentUpdateError(
                    f"task {task_id!r} has version {row[3]}, not {version}: somebody has changed "
                    "it; read it again"
                )
            steer(tx, task_id, row, new, now, cause=cause, error=error)

        run_transaction(self._database, change)
        return changed

    def add_dependency(self, task_id: str, needs: str, *, claim: Claim | None = None) -> None:
        """Let a task wait for another one of its job, too.

        A task that runs goes on; it waits when it parks itself.

        Args:
            task_id, needs: The task, and the one that it waits for.
            claim: Of the task whose agent does that; None where none does.

        Raises:
            TaskNotFound: There is no such task in the job.
            CycleError: The other one waits for this one.
            InvalidState: The task has ended.
            ConcurrentUpdateError: The task of *claim* was cancelled or given to somebody else.
        """
        now = self._clock()

        def link(tx: Transaction) -> None:
            _check_claim(tx, claim)
            row = task_row(tx, task_id)
            number, status, job_id = row[0], TaskStatus(row[1]), str(row[4])
            if status not in UNFINISHED:
                raise InvalidState(f"task {task_id!r} is {status} and waits for nothing any more")
            add_link(tx, number, task_id, job_id, needs)
            if (
                status is not TaskStatus.RUNNING
            ):  # one that runs looks at what it needs when it parks itself
                wait_again(tx, job_id, number, status, now)

        run_transaction(self._database, link)


def _job_row(
    job_id: str,
    now: float,
    allowed: str | None = None,
    config: str | None = None,
    settings: JobSettings = NO_SETTINGS,
) -> tuple[Any, ...]:
    check_new_name("a job's id", job_id)
    kept = attrs.astuple(settings)
    return (job_id, "created", allowed, config or "{}", None, now, utc(now), utc(now), *kept)


def _create(tx: Transaction, row: tuple[Any, ...]) -> bool:
    """Make a job that is not started yet; return False where there is one of its id."""
    if tx.rows(sql.JOB, row[:1]):
        return False
    tx.execute(sql.INSERT_JOB, row)
    return True


def _start(tx: Transaction, job_id: str, timeout: float | None, now: float) -> None:
    """Let a job run that is there; one that runs and gets no other limit keeps its own."""
    before = stored_job(tx.rows(sql.JOB, (job_id,))[0])
    left = before.deadline if before.status is JobStatus.RUNNING else None
    set_job(tx, job_id, "running", None, left if timeout is None else now + timeout, now)
    named = {"the_job": job_id, "the_moment": now, "the_time": utc(now)}
    tx.execute(sql.STARTED_EVENTS, sql.STARTED_EVENTS.in_order(named))
    tx.execute(sql.START, sql.START.in_order(named))
    if tx.rows(sql.AGENTS_OF_JOB, (job_id,)):  # one without tasks waits for some
        settle_jobs(tx, (job_id,), now)


_SPEC_FIELDS: Final = (
    "description",
    "task_type",
    "acceptance_criteria",
    "summary",
    "timeout",
    "max_retries",
)


_spec_values: Final = attrgetter(*_SPEC_FIELDS)
_PLAIN: Final = _spec_values(NewTaskSpec("any"))


def _spec_text(spec: NewTaskSpec) -> str | None:
    """Return what nothing is looked up by; most tasks have little of it."""
    values = _spec_values(spec)
    if values == _PLAIN:
        return None
    given = zip(_SPEC_FIELDS, values, _PLAIN, strict=True)
    return json_text({name: value for name, value, plain in given if value != plain})


def _config_text(config: Any) -> str | None:
    return None if config is None else json_text(job_config(config))


def _names_text(names: Any) -> str | None:
    if names is None:
        return None
    wrong = isinstance(names, str) or not isinstance(names, Iterable)
    found = [] if wrong else list(names)
    if wrong or not all(isinstance(each, str) for each in found):
        raise ConfigurationError(f"allowed_agents are a list of names, not {shown(names)}")
    for each in found:
        check_text("an agent of allowed_agents", each)
    return json_text(found)


def _check_cycles(specs: Sequence[NewTaskSpec]) -> None:
    ids = {spec.task_id for spec in specs}
    needs = {spec.task_id: spec.dependencies for spec in specs if spec.dependencies}
    parts = {spec.task_id: (spec.parent,) for spec in specs if spec.parent is not None}
    for links in (needs, parts):
        inside = {name: [each for each in found if each in ids] for name, found in links.items()}
        if not any(inside.values()):
            continue
        try:
            TopologicalSorter(inside).prepare()
        except FoundCycle as error:
            raise task_cycle([str(each) for each in reversed(error.args[1])]) from None


def _check_claim(tx: Transaction, claim: Claim | None) -> None:
    """Refuse what the agent of a task does that is not its worker's any more."""
    if claim is None:
        return
    rows = tx.rows(sql.BY_ID, (claim.id,))
    held = [(row[0], row[3], row[1]) for row in rows]
    if held != [(claim.number, claim.version, TaskStatus.RUNNING)]:
        raise ConcurrentUpdateError(
            f"task {claim.id!r} was cancelled or given to somebody else; nothing is added for it"
        )


def _added_before(tx: Transaction, claim: Claim, new: _NewTasks) -> set[str]:
    """Return the ids of the tasks that the agent of a task has added as parts of it before.

    Raises:
        TaskExists: One of them has another spec now.
    """
    found = set()
    for id_, spec, (inline, artifact_id, _) in zip(new.ids, new.specs, new.encoded, strict=True):
        if spec.task_id is None or spec.parent != claim.id:
            continue
        rows = tx.rows(sql.ONE_TASK, (id_,))
        if not rows or (rows[0][2], rows[0][5]) != (claim.job_id, claim.id):
            continue  # it is new, or somebody else's
        row = rows[0]
        needs = [str(name) for (name,) in tx.rows(sql.NEEDED_IDS, (row[0],))]
        kept = orjson.loads(row[23]) if row[23] else {}
        given = orjson.loads(_spec_text(spec) or "{}")
        # Its summary, its retries and what it needs beside may have become others on its way.
        differs = {
            "agent": row[3] != spec.agent,
            "input": (None if row[6] is None else bytes(row[6]), row[7]) != (inline, artifact_id),
            "priority": row[11] != spec.priority,
            "effects": row[12] != str(spec.effects),
            "on_dependency_failure": bool(row[13])
            is not (spec.on_dependency_failure is OnDependencyFailure.RUN),
            "key": row[14] != spec.key,
            "dependencies": needs[: len(spec.dependencies)] != [*spec.dependencies],
            **{
                name: kept.get(name) != given.get(name)
                for name in _SPEC_FIELDS
                if name != "summary"
            },
        }
        if any(differs.values()):
            others = ", ".join(name for name, other in differs.items() if other)
            raise TaskExists(
                f"task {claim.id!r} has added task {shown(id_)} before with another {others}; give "
                "another id to what is another task"
            )
        found.add(id_)
    return found


def _check_agent(job_id: str, agent: str, allowed: Sequence[str]) -> None:
    if agent not in allowed:
        raise AgentNotAllowed(
            f"job {job_id!r} has no task for agent {agent!r}: it allows "
            f"{', '.join(allowed) or 'none'}; name it in allowed_agents"
        )
