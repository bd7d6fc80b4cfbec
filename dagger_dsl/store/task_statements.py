"""The statements of `dagger_dsl.store.tasks`, compiled once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from dagger_dsl.store.schema import jobs, meta, task_events, task_links, tasks
from dagger_dsl.store.transactions import Statement


def _bind(name: str, kind: Any) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=kind)


_number = _bind("the_task", sa.Integer())
_job = _bind("the_job", sa.Text())
_now = _bind("the_time", tasks.c.updated_at.type)
_next_version = tasks.c.version + sa.literal_column("1")

TASK_COLUMNS: Final = (
    "public_id",
    "job_id",
    "parent_id",
    "status",
    "agent_type",
    "priority",
    "payload",
    "created_at",
    "updated_at",
    "payload_artifact_id",
    "spec",
    "effects",
    "retries",
    "waits",
    "runs_anyway",
    "lane",
)
INSERT_TASK: Final = Statement(
    sa.insert(tasks)
    .values({name: _bind(name, tasks.c[name].type) for name in TASK_COLUMNS})
    .inline()
)
INSERT_LINK: Final = Statement(
    sa.insert(task_links)
    .values({name: _bind(name, sa.Integer()) for name in ("task_id", "needs_id", "position")})
    .inline()
)
EVENT_COLUMNS: Final = ("task_id", "status", "at", "cause", "worker", "attempt")
INSERT_EVENT: Final = Statement(
    sa.insert(task_events)
    .values({name: _bind(name, task_events.c[name].type) for name in EVENT_COLUMNS})
    .inline()
)
INSERT_NUMBERED: Final = Statement(
    sa.insert(tasks)
    .values({name: _bind(name, tasks.c[name].type) for name in ("task_id", *TASK_COLUMNS)})
    .inline()
)
#: In `meta`: the number of the newest task that was removed.
REMOVED: Final = "last_task_removed"
#: The newest number there is, and the newest one that was removed.
LAST: Final = Statement(
    sa.select(
        sa.func.max(tasks.c.task_id),
        sa.select(meta.c.value)
        .where(meta.c.name == sa.literal_column(f"'{REMOVED}'"))
        .scalar_subquery(),
    )
)
ADDED_EVENTS: Final = Statement(
    sa.insert(task_events).from_select(
        ["task_id", "status", "at", "cause"],
        sa.select(
            tasks.c.task_id,
            tasks.c.status,
            _bind("the_moment", sa.Double()),
            sa.literal_column("'added'"),
        ).where(tasks.c.task_id > _number, tasks.c.job_id == _job),
    )
)
EVENTS_OF_JOB: Final = Statement(
    sa.select(
        tasks.c.public_id,
        task_events.c.status,
        task_events.c.at,
        task_events.c.cause,
        task_events.c.worker,
        task_events.c.attempt,
    )
    .where(task_events.c.task_id == tasks.c.task_id, tasks.c.job_id == _job)
    .order_by(task_events.c.event_id)
)

JOB_COLUMNS: Final = (
    "job_id",
    "status",
    "allowed_agents",
    "config",
    "deadline",
    "active_at",
    "created_at",
    "updated_at",
    "max_tasks",
    "heartbeat_interval",
    "stall_action",
)
INSERT_JOB: Final = Statement(
    sa.insert(jobs).values({name: _bind(name, jobs.c[name].type) for name in JOB_COLUMNS}).inline()
)
JOB_ROW: Final = (
    jobs.c.job_id,
    jobs.c.status,
    jobs.c.unfinished,
    jobs.c.failed,
    jobs.c.allowed_agents,
    jobs.c.config,
    jobs.c.deadline,
    jobs.c.error,
    jobs.c.created_at,
    jobs.c.updated_at,
    jobs.c.task_count,
    jobs.c.max_tasks,
    jobs.c.heartbeat_interval,
    jobs.c.stall_action,
)
JOB: Final = Statement(sa.select(*JOB_ROW).where(jobs.c.job_id == _job))
JOBS: Final = Statement(sa.select(*JOB_ROW).order_by(jobs.c.created_at.desc(), jobs.c.job_id))
JOB_STATUS: Final = Statement(
    sa.select(jobs.c.status).where(jobs.c.job_id == _job).with_for_update()
)
SET_JOB: Final = Statement(
    sa.update(jobs)
    .where(jobs.c.job_id == _job)
    .values(
        status=_bind("new_status", sa.Text()),
        error=_bind("new_error", sa.Text()),
        deadline=_bind("new_deadline", sa.Double()),
        active_at=_bind("the_moment", sa.Double()),
        updated_at=_now,
    )
)
COUNT_JOB: Final = Statement(
    sa.update(jobs)
    .where(jobs.c.job_id == _job)
    .values(
        unfinished=jobs.c.unfinished + _bind("more_unfinished", sa.Integer()),
        failed=jobs.c.failed + _bind("more_failed", sa.Integer()),
        active_at=_bind("the_moment", sa.Double()),
        stalled_at=sa.null(),
    )
)
#: Of tasks that are added; counted here, as counting the rows takes longer the more there are.
COUNT_ADDED: Final = Statement(
    sa.update(jobs)
    .where(jobs.c.job_id == _job)
    .values(
        task_count=jobs.c.task_count + _bind("more_tasks", sa.Integer()),
        unfinished=jobs.c.unfinished + _bind("more_unfinished", sa.Integer()),
        active_at=_bind("the_moment", sa.Double()),
        stalled_at=sa.null(),
    )
)
JOB_COUNTS: Final = Statement(
    sa.select(jobs.c.status, jobs.c.unfinished, jobs.c.failed).where(jobs.c.job_id == _job)
)
_other = tasks.alias("other")
#: The first task of a job, and why, where all of them were cancelled.
GIVEN_UP: Final = Statement(
    sa.select(tasks.c.public_id, tasks.c.error)
    .where(
        tasks.c.job_id == _job,
        tasks.c.status == sa.literal_column("'cancelled'"),
        ~sa.exists().where(
            _other.c.job_id == _job, _other.c.status != sa.literal_column("'cancelled'")
        ),
    )
    .order_by(tasks.c.task_id)
    .limit(_bind("the_limit", sa.Integer()))
    .offset(_bind("the_first", sa.Integer()))
)
SETTLE_JOB: Final = Statement(
    sa.update(jobs)
    .where(jobs.c.job_id == _job)
    .values(
        status=_bind("new_status", sa.Text()),
        # What a person tries again later has no limit any more.
        deadline=sa.case(
            (jobs.c.unfinished > sa.literal_column("0"), jobs.c.deadline), else_=sa.null()
        ),
        updated_at=_now,
    )
)

READY_COLUMNS: Final = (
    tasks.c.task_id,
    tasks.c.public_id,
    tasks.c.job_id,
    tasks.c.agent_type,
    tasks.c.version,
    tasks.c.attempt,
    tasks.c.retries,
    tasks.c.effects,
    tasks.c.parent_id,
    tasks.c.priority,
    tasks.c.payload,
    tasks.c.payload_artifact_id,
    tasks.c.spec,
    tasks.c.lane,
)
_agent = _bind("the_agent", sa.Text())
_start = _bind("the_first", sa.Integer())  # SQLite's dialect writes an OFFSET anyway
_is_ready = tasks.c.status == sa.literal_column("'ready'")
_IN_ORDER: Final = (tasks.c.priority.desc(), tasks.c.task_id)


def _first(has_lane: sa.ColumnElement[bool], limit: str) -> sa.Subquery:
    """Return the first ready tasks of an agent, of those with a lane or of those without."""
    return (
        sa.select(*READY_COLUMNS)
        .where(_is_ready, tasks.c.agent_type == _agent, has_lane)
        .order_by(*_IN_ORDER)
        .limit(_bind(limit, sa.Integer()))
        .offset(_start)
        .subquery()
    )


#: The first tasks without a lane, and the first ones with one, whether that is free or not.
FIRST_READY: Final = Statement(
    sa.union_all(
        sa.select(_first(tasks.c.lane.is_(None), "the_limit")),
        sa.select(_first(tasks.c.lane.is_not(None), "the_window")),
    )
)
ANY_READY: Final = Statement(
    sa.select(tasks.c.task_id)
    .where(_is_ready, tasks.c.agent_type == _agent, tasks.c.lane.is_(None))
    .limit(_bind("the_limit", sa.Integer()))
    .offset(_start)
)
#: The lanes of an agent's tasks that run.
HELD_LANES: Final = Statement(
    sa.select(tasks.c.lane).where(
        tasks.c.status == sa.literal_column("'running'"),
        tasks.c.lane.is_not(None),
        tasks.c.agent_type == _agent,
    )
)


#: The first tasks with a lane, whether that is free or not; all of it is in the index.
LANED: Final = Statement(
    sa.select(tasks.c.task_id, tasks.c.lane)
    .where(_is_ready, tasks.c.agent_type == _agent, tasks.c.lane.is_not(None))
    .order_by(*_IN_ORDER)
    .limit(_bind("the_window", sa.Integer()))
    .offset(_start)
)
READY_ROW: Final = Statement(sa.select(*READY_COLUMNS).where(tasks.c.task_id == _number))


def _first_of_lanes() -> sa.Select[Any]:
    """Return the numbers of the first ready tasks of an agent, of each free lane one.

    From one lane to the next by one step in an index each: however many tasks a lane has, only
    its first one is looked at.
    """
    other, first = tasks.alias("other"), tasks.alias("first")
    ready = other.c.status == sa.literal_column("'ready'")
    lowest = sa.select(sa.func.min(other.c.lane)).where(ready, other.c.agent_type == _agent)
    lanes = lowest.where(other.c.lane.is_not(None)).cte("lanes", recursive=True)
    lane = lanes.c[0]
    # NULL after the last one, which ends it.
    after = lowest.where(other.c.lane > lane).correlate(lanes).scalar_subquery()
    lanes = lanes.union_all(sa.select(after).where(lane.is_not(None)))
    lane = lanes.c[0]
    head = (
        sa.select(first.c.task_id)
        .where(
            first.c.status == sa.literal_column("'ready'"),
            first.c.agent_type == _agent,
            first.c.lane == lane,
        )
        .order_by(first.c.priority.desc(), first.c.task_id)
        .limit(_bind("the_one", sa.Integer()))
        .offset(_start)
        .correlate(lanes)
        .scalar_subquery()
    )
    heads = sa.select(head).where(lane.is_not(None), lane.not_in(HELD_LANES.core))
    return sa.select(tasks.c.task_id).where(tasks.c.task_id.in_(heads))


FIRST_OF_LANES: Final = Statement(
    _first_of_lanes().order_by(*_IN_ORDER).limit(_bind("the_limit", sa.Integer())).offset(_start)
)


@functools.cache
def left_of(agents: int) -> Statement:
    """Return what reads a row where a task of so many agents may be called without anybody's help.

    All of it is one statement: between two, a task that runs could end and make another one ready.
    """
    names = [_bind(f"agent_{number}", sa.Text()) for number in range(agents)]
    ours = tasks.c.agent_type.in_(names)
    # By two indexes.
    plain = sa.and_(_is_ready, tasks.c.lane.is_(None))
    laned = sa.and_(_is_ready, tasks.c.lane.is_not(None))
    pending = tasks.c.status == sa.literal_column("'pending'")
    due = sa.and_(tasks.c.due_at.is_not(None), pending)
    places = (plain, laned, tasks.c.owner.is_not(None), due)
    found = [sa.exists().where(ours, each) for each in places]
    return Statement(sa.select(sa.literal_column("1")).where(sa.or_(*found)))


def left_values(agents: Sequence[str]) -> list[str]:
    """Return the values of `left_of` for these agents."""
    named = {f"agent_{number}": name for number, name in enumerate(agents)}
    return left_of(len(agents)).in_order(named)


TAKE: Final = Statement(
    sa.update(tasks)
    .where(
        tasks.c.task_id == _number,
        tasks.c.version == _bind("the_version", sa.Integer()),
        tasks.c.status == sa.literal_column("'ready'"),
    )
    .values(
        status=sa.literal_column("'running'"),
        owner=_bind("the_worker", sa.Text()),
        attempt=tasks.c.attempt + sa.literal_column("1"),
        started_at=_bind("the_moment", sa.Double()),
        version=_next_version,
    )
)
_the_same = (tasks.c.task_id == _number, tasks.c.public_id == _bind("the_id", sa.Text()))
END: Final = Statement(
    sa.update(tasks)
    .where(
        *_the_same,
        tasks.c.version == _bind("the_version", sa.Integer()),
        tasks.c.status == sa.literal_column("'running'"),
    )
    .values(
        status=_bind("new_status", sa.Text()),
        result=_bind("new_result", sa.LargeBinary()),
        result_artifact_id=_bind("new_artifact", sa.Text()),
        error=_bind("new_error", sa.Text()),
        due_at=_bind("new_due", sa.Double()),
        retries=tasks.c.retries + _bind("more_retries", sa.Integer()),
        attempt=tasks.c.attempt - _bind("less_attempts", sa.Integer()),
        finished_at=_bind("the_moment", sa.Double()),
        owner=sa.null(),
        lease_expires_at=sa.null(),
        version=_next_version,
    )
)
_needing = sa.select(task_links.c.task_id).where(task_links.c.needs_id == _number)
DEPENDENTS: Final = Statement(
    sa.select(tasks.c.task_id, tasks.c.status, tasks.c.waits, tasks.c.due_at, tasks.c.runs_anyway)
    .where(tasks.c.task_id.in_(_needing))
    .order_by(tasks.c.task_id)
    .with_for_update()  # where two that it needs may end at once
)
SATISFY: Final = Statement(
    sa.update(tasks)
    .where(tasks.c.task_id == _number)
    .values(
        waits=tasks.c.waits - sa.literal_column("1"),
        status=_bind("new_status", sa.Text()),
        version=_next_version,
    )
)
NEEDING: Final = Statement(sa.select(task_links.c.task_id).where(task_links.c.needs_id == _number))
_new_due = _bind("new_due", sa.Double())


def _becomes(*statuses: str) -> sa.ColumnElement[bool]:
    known: list[sa.ColumnClause[Any]] = [sa.literal_column(f"'{each}'") for each in statuses]
    return _bind("new_status", sa.Text()).in_(known)


_runs = tasks.c.status == sa.literal_column("'running'")
#: What may be called at most once, and was cut off, or was in doubt before: that stays known.
_is_doubtful = sa.and_(
    tasks.c.effects == sa.literal_column("'at_most_once'"),
    _becomes("cancelled", "failed"),
    sa.or_(_runs, tasks.c.due_at == _bind("the_doubt", sa.Double())),
)
#: A call of it ends by that; or it ends without one.
_ends_it = sa.or_(
    _runs,
    _becomes("completed"),
    sa.and_(_becomes("failed", "cancelled"), tasks.c.started_at.is_(None)),
)
CHANGE: Final = Statement(
    sa.update(tasks)
    .where(tasks.c.task_id == _number)
    .values(
        status=_bind("new_status", sa.Text()),
        error=_bind("new_error", sa.Text()),
        waits=sa.func.coalesce(_bind("new_waits", sa.Integer()), tasks.c.waits),
        due_at=sa.case((_is_doubtful, _bind("the_doubt", sa.Double())), else_=_new_due),
        finished_at=sa.case(
            (_ends_it, _bind("the_moment", sa.Double())), else_=tasks.c.finished_at
        ),
        owner=sa.null(),
        lease_expires_at=sa.null(),
        version=_next_version,
        updated_at=_now,
    )
)
#: It has all its retries before it.
FRESH: Final = Statement(
    sa.update(tasks).where(tasks.c.task_id == _number).values(retries=sa.literal_column("0"))
)
DUE: Final = Statement(
    sa.select(tasks.c.task_id, tasks.c.waits, tasks.c.due_at)
    .where(tasks.c.due_at.is_not(None), tasks.c.status == sa.literal_column("'pending'"))
    .order_by(tasks.c.due_at)
    .limit(_bind("the_limit", sa.Integer()))
    .offset(_bind("the_first", sa.Integer()))
)
WAKE: Final = Statement(
    sa.update(tasks)
    .where(tasks.c.task_id == _number)
    .values(due_at=sa.null(), status=_bind("new_status", sa.Text()), version=_next_version)
)
_startable = (
    tasks.c.job_id == _job,
    tasks.c.status == sa.literal_column("'pending'"),
    tasks.c.waits == sa.literal_column("0"),
    tasks.c.due_at.is_(None),
)
STARTED_EVENTS: Final = Statement(
    sa.insert(task_events).from_select(
        ["task_id", "status", "at", "cause"],
        sa.select(
            tasks.c.task_id,
            sa.literal_column("'ready'"),
            _bind("the_moment", sa.Double()),
            sa.literal_column("'its job was started'"),
        )
        .where(*_startable)
        .order_by(tasks.c.task_id),
    )
)
START: Final = Statement(
    sa.update(tasks)
    .where(*_startable)
    .values(status=sa.literal_column("'ready'"), version=_next_version, updated_at=_now)
)
BY_ID: Final = Statement(
    sa.select(
        tasks.c.task_id,
        tasks.c.status,
        tasks.c.waits,
        tasks.c.version,
        tasks.c.job_id,
        tasks.c.attempt,
        tasks.c.due_at,
        tasks.c.runs_anyway,
    ).where(tasks.c.public_id == _bind("the_id", sa.Text()))
)
NEEDS: Final = Statement(
    sa.select(task_links.c.needs_id, tasks.c.status)
    .join(tasks, tasks.c.task_id == task_links.c.needs_id)
    .where(task_links.c.task_id == _number)
    .order_by(task_links.c.position)
)
_own = tasks.alias("own")
#: What ended while a task ran that needs it: it cannot have needed that when it began.
NEEDED_MEANWHILE: Final = Statement(
    sa.select(task_links.c.needs_id)
    .join(tasks, tasks.c.task_id == task_links.c.needs_id)
    .join(_own, _own.c.task_id == task_links.c.task_id)
    .where(task_links.c.task_id == _number, tasks.c.finished_at >= _own.c.started_at)
)
NEEDED: Final = Statement(
    sa.select(task_links.c.needs_id)
    .where(task_links.c.task_id == _number)
    .order_by(task_links.c.position)
)
LAST_LINK: Final = Statement(
    sa.select(sa.func.max(task_links.c.position)).where(task_links.c.task_id == _number)
)
TASK_ROW: Final = (
    tasks.c.task_id,
    tasks.c.public_id,
    tasks.c.job_id,
    tasks.c.agent_type,
    tasks.c.status,
    tasks.c.parent_id,
    tasks.c.payload,
    tasks.c.payload_artifact_id,
    tasks.c.result,
    tasks.c.result_artifact_id,
    tasks.c.error,
    tasks.c.priority,
    tasks.c.effects,
    tasks.c.runs_anyway,
    tasks.c.lane,
    tasks.c.attempt,
    tasks.c.retries,
    tasks.c.owner,
    tasks.c.version,
    tasks.c.created_at,
    tasks.c.updated_at,
    tasks.c.started_at,
    tasks.c.finished_at,
    tasks.c.spec,
    tasks.c.waits,
    tasks.c.due_at,
)
ONE_TASK: Final = Statement(
    sa.select(*TASK_ROW).where(tasks.c.public_id == _bind("the_id", sa.Text()))
)
TASKS_OF_JOB: Final = Statement(
    sa.select(*TASK_ROW).where(tasks.c.job_id == _job).order_by(tasks.c.task_id)
)
PARTS: Final = Statement(
    sa.select(*TASK_ROW)
    .where(tasks.c.job_id == _job, tasks.c.parent_id == _bind("the_parent", sa.Text()))
    .order_by(tasks.c.task_id)
)
IDS: Final = Statement(
    sa.select(tasks.c.public_id).where(tasks.c.public_id.is_not(None)).order_by(tasks.c.task_id)
)
NEEDED_IDS: Final = Statement(
    sa.select(tasks.c.public_id)
    .join(task_links, tasks.c.task_id == task_links.c.needs_id)
    .where(task_links.c.task_id == _number)
    .order_by(task_links.c.position)
)
LINKS_OF_JOB: Final = Statement(
    sa.select(task_links.c.task_id, tasks.c.public_id)
    .join(tasks, tasks.c.task_id == task_links.c.needs_id)
    .where(tasks.c.job_id == _job)
    .order_by(task_links.c.task_id, task_links.c.position)
)
OUTPUTS: Final = Statement(
    sa.select(tasks.c.public_id, tasks.c.status, tasks.c.result, tasks.c.result_artifact_id)
    .join(task_links, tasks.c.task_id == task_links.c.needs_id)
    .where(task_links.c.task_id == _number)
    .order_by(task_links.c.position)
)
EVENTS: Final = Statement(
    sa.select(*(task_events.c[name] for name in EVENT_COLUMNS))
    .where(task_events.c.task_id == _number)
    .order_by(task_events.c.event_id)
)
LAST_CAUSE: Final = Statement(
    sa.select(task_events.c.cause)
    .where(task_events.c.task_id == _number)
    .order_by(task_events.c.event_id.desc())
    .limit(_bind("the_limit", sa.Integer()))
    .offset(_start)
)
OF_OWNER: Final = Statement(
    sa.select(tasks.c.task_id, tasks.c.public_id, tasks.c.effects, tasks.c.job_id)
    .where(tasks.c.owner == _bind("the_worker", sa.Text()))
    .order_by(tasks.c.task_id)
)
HELD: Final = Statement(
    sa.select(tasks.c.task_id, tasks.c.version).where(
        tasks.c.owner == _bind("the_worker", sa.Text())
    )
)
OWNERS: Final = Statement(
    sa.select(
        tasks.c.owner,
        sa.func.sum(tasks.c.beat),
        sa.func.sum(tasks.c.version),
        sa.func.sum(tasks.c.task_id),
    )
    .where(tasks.c.owner.is_not(None))
    .group_by(tasks.c.owner)
)
DEATHS: Final = Statement(
    sa.select(sa.func.count()).where(
        task_events.c.task_id == _number, task_events.c.cause == _bind("the_cause", sa.Text())
    )
)
_call = task_events.alias("the_call")
#: Takings of a task, with a reason that begins like this, after a call of it began.
TAKEN_SINCE: Final = Statement(
    sa.select(task_events.c.event_id).where(
        task_events.c.task_id == _number,
        task_events.c.cause.startswith(_bind("the_cause", sa.Text())),
        task_events.c.event_id
        > sa.select(sa.func.max(_call.c.event_id))
        .where(
            _call.c.task_id == _number,
            _call.c.status == sa.literal_column("'running'"),
            _call.c.attempt == _bind("the_attempt", sa.Integer()),
        )
        .scalar_subquery(),
    )
)
AGENTS_OF_JOB: Final = Statement(
    sa.select(tasks.c.agent_type).where(tasks.c.job_id == _job).distinct()
)
MARK: Final = Statement(
    sa.select(sa.func.count(), sa.func.sum(tasks.c.version)).where(tasks.c.job_id == _job)
)
#: Whether a task of an agent was ever called.
WAS_CALLED: Final = Statement(
    sa.select(
        sa.exists().where(tasks.c.agent_type == _agent, tasks.c.attempt > sa.literal_column("0"))
    )
)
#: For which agents tasks are ready, and how many; by the two indexes of ready tasks.
READY_AGENTS: Final = tuple(
    Statement(
        sa.select(tasks.c.agent_type, sa.func.count())
        .where(_is_ready, has_lane)
        .group_by(tasks.c.agent_type)
    )
    for has_lane in (tasks.c.lane.is_(None), tasks.c.lane.is_not(None))
)
SET_ALLOWED: Final = Statement(
    sa.update(jobs)
    .values(allowed_agents=_bind("new_agents", sa.Text()))
    .where(jobs.c.job_id == _job)
)
SET_CONFIG: Final = Statement(
    sa.update(jobs).values(config=_bind("new_config", sa.Text())).where(jobs.c.job_id == _job)
)
UNFINISHED_OF_JOB: Final = Statement(
    sa.select(tasks.c.task_id, tasks.c.public_id, tasks.c.status)
    .where(
        tasks.c.job_id == _job,
        tasks.c.status.in_(
            [
                sa.literal_column(f"'{each}'")
                for each in ("pending", "blocked", "ready", "running", "paused")
            ]
        ),
    )
    .order_by(tasks.c.task_id)
)
NEW_TASKS: Final = Statement(
    sa.select(tasks.c.task_id, tasks.c.public_id).where(
        tasks.c.task_id > _number, tasks.c.job_id == _job
    )
)


def _one(column: sa.Column[Any]) -> Statement:
    return Statement(sa.select(column).where(tasks.c.task_id == _number))


ERROR: Final = _one(tasks.c.error)
VERSION: Final = Statement(sa.select(tasks.c.version).where(*_the_same).with_for_update())
NAME: Final = _one(tasks.c.public_id)
RUNS_ANYWAY: Final = _one(tasks.c.runs_anyway)
LINK: Final = Statement(
    sa.select(task_links.c.position).where(
        task_links.c.task_id == _number, task_links.c.needs_id == _bind("the_other", sa.Integer())
    )
)
SET_WAITS: Final = Statement(
    sa.update(tasks)
    .values(waits=_bind("new_waits", sa.Integer()))
    .where(tasks.c.task_id == _number)
)
BEAT: Final = Statement(
    sa.update(tasks)
    .where(tasks.c.owner == _bind("the_worker", sa.Text()))
    .values(
        beat=tasks.c.beat + sa.literal_column("1"),
        lease_expires_at=_bind("the_lease", tasks.c.lease_expires_at.type),
    )
)
