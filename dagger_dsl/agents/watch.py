"""`Watch`: looks after the jobs of a database: their time limits, and whether they go on.

A job has to give a sign of life within its ``heartbeat_interval``, which it keeps, as it keeps the
name of its `StallAction`: both are those of the manager that made it, or what `start_job` was told,
whichever process looks after it. A task that is added, begins, ends, or is changed by a person is
one, and so is `TaskContext.heartbeat`. A worker shows by itself that it lives, once in a third of
its lease: that counts, too, so that a task which merely takes long stalls nothing. Who wants to
hear of agents that hang gives an interval that is shorter than a third of the lease, and lets the
agents that may take longer say so by ``ctx.heartbeat()``.

A job has not stalled while it waits for the time of a retry, or where all that is left of it waits
for a person: for the answer of who was asked, for somebody to let go on what is paused, or for such
tasks. One without tasks has not stalled either.

A stall is acted upon once, whichever process sees it first, and not again before a task of the job
begins, or something else of it changes.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.agents.job import JobHandle
from dagger_dsl.errors import InputValidationError, StoreError
from dagger_dsl.model.stalls import StallAction
from dagger_dsl.model.tasks import NewTaskSpec, TaskType
from dagger_dsl.store.job_watch import JobWatch, Stall, StuckTask

if TYPE_CHECKING:
    from dagger_dsl.agents.manager import TaskManager

__all__ = ["Watch"]

logger = logging.getLogger("dagger_dsl.agents")

#: Priority of a task that tells of a stall: before what the agent has to do besides.
_FIRST: Final = 1_000

#: Seconds between two looks for jobs that are too old to be kept.
_KEEPING: Final = 60.0

#: Seconds that removing them takes at a time: who does that gives signs of life, too.
_A_TURN: Final = 0.2

#: A look for stalls that takes longer than this, in seconds, may take so much of the time; but it
#: is looked so often in an interval, and after so many seconds at the latest.
_LONG: Final = 0.02
_SHARE: Final = 0.02
_OFTEN: Final = 10
_REST: Final = 5.0

#: Seconds between two looks for stalls that are over, where the manager has no interval.
_CLEARING: Final = 30.0


class Watch:
    """Looks after all jobs of a manager's database.

    Args:
        manager: Whose database, and whose `StallAction`.
        jobs: The jobs; its clock tells the time.
        worker: What the crew is called whose tasks are alive; None for no crew.
        every: Seconds between two signs of life of the crew.

    Attributes:
        long: Looks for stalls that take more seconds are made less often.
    """

    def __init__(
        self, manager: TaskManager, jobs: JobWatch, worker: str | None = None, every: float = 20.0
    ) -> None:
        self._manager = manager
        self._jobs = jobs
        self._worker = worker
        self._every = every
        self.long = _LONG
        self._beaten = self._cleared = jobs.now()
        self._kept = -_KEEPING
        self._resting = -math.inf  # until when it does not look for stalls
        self._strange: set[tuple[str, float]] = set()  # stalls that are left to others

    def look(self) -> None:
        """Do what is due: show that the crew lives, end jobs whose time is over, act on stalls.

        Raises:
            StoreError: The database cannot be read or written now; what is due stays due.
        """
        now = self._jobs.now()
        if self._worker is not None and not 0 <= now - self._beaten < self._every:
            self._jobs.alive(self._worker)
            self._beaten = now
        for job_id in self._jobs.overdue():
            self._cancelled(job_id, self._jobs.expire(job_id), "its time limit is over")
        if self._manager._keep != (None, None) and not 0 <= now - self._kept < _KEEPING:
            began = time.monotonic()
            self._manager._store.retain_jobs(*self._manager._keep, seconds=_A_TURN)
            if time.monotonic() - began < _A_TURN:  # all of them are gone
                self._kept = now
        interval = self._manager.heartbeat_interval
        if not 0 <= now - self._cleared < (interval or _CLEARING):
            self._jobs.go_on()
            self._cleared = now
        for stall in self._stalled(math.inf if interval is None else interval):
            try:
                self._act(stall)
            except StoreError:
                raise
            except Exception:  # one job must not keep the others from being looked after
                logger.exception("nothing can be done about job %r, which stalled", stall.job_id)
                self._jobs.mark(stall)

    def _stalled(self, interval: float) -> list[Stall]:
        """Return the jobs that have stalled; seldom, where it takes long to find none."""
        began = time.monotonic()
        if began < self._resting:
            return []
        found = self._jobs.stalled(interval)
        took = time.monotonic() - began
        if took > self.long:
            self._resting = began + min(took / _SHARE, interval / _OFTEN, _REST)
        return found

    def _cancelled(self, job_id: str, ran: Sequence[str] | None, why: str) -> None:
        if ran is not None:
            logger.warning("job %r is cancelled: %s", job_id, why)
            self._manager._interrupt(ran)

    def _act(self, stall: Stall) -> None:
        action = self._manager._stall_action(stall.action)
        if action is None:
            self._leave(stall)
        elif action == StallAction.TERMINATE_JOB:
            reason = f"the job has stalled: nothing happened for {stall.interval:g} s"
            self._cancelled(stall.job_id, self._jobs.terminate(stall, reason), reason)
        elif action.call is None:
            self._notify(stall, stall.interval)
        elif self._jobs.mark(stall):
            self._call(action, stall.job_id)

    def _leave(self, stall: Stall) -> None:
        """Leave a stall to a process that knows what to call about it."""
        if (stall.job_id, stall.active_at) not in self._strange:
            self._strange = {(stall.job_id, stall.active_at)}
            logger.warning(
                "job %r has stalled; what it calls then, %s, is not known here: give a manager "
                "that runs tasks StallAction.custom(function, name=%r), or call "
                "start_job(%r, stall_action=...)",
                stall.job_id,
                stall.action,
                stall.action,
                stall.job_id,
            )

    def _notify(self, stall: Stall, interval: float) -> None:
        """Give the planning agent a task that says what is stuck.

        Its agent is that of the job's first objective, and its parent that objective. Its input is
        ``{"stalled": {"job_id": ..., "objective": <task id>, "seconds": <the interval>, "tasks":
        [{"task_id": ..., "agent": ..., "status": ..., "error": ..., "waits": <for how many>}]}}``.
        An agent that would refuse it is not told; a warning is logged then, as it is for a job
        without an objective.
        """
        planner = self._jobs.planner(stall.job_id)
        stuck = self._jobs.stuck(stall.job_id)
        refusal = "it has no objective, whose agent could be told" if planner is None else ""
        if not stuck:
            refusal = "only those that are to tell of it have not ended"
        if planner is not None and not refusal:
            spec = self._notice(stall, planner, stuck, interval)
            try:
                self._manager._roster.check_specs([spec])
                if self._jobs.notify(stall, spec):
                    logger.warning("job %r has stalled; agent %r is told", stall.job_id, spec.agent)
                    self._manager._wake()
                return
            except InputValidationError as error:
                refusal = f"its planning agent does not take the news: {error}"
        if self._jobs.mark(stall):
            logger.warning("job %r has stalled: %s", stall.job_id, refusal)

    def _notice(
        self, stall: Stall, planner: tuple[str, str], stuck: Sequence[StuckTask], interval: float
    ) -> NewTaskSpec:
        told = [
            {
                "task_id": each.id,
                "agent": each.agent,
                "status": each.status,
                "error": each.error,
                "waits": each.waits,
            }
            for each in stuck
        ]
        objective, agent = planner
        news = {
            "job_id": stall.job_id,
            "objective": objective,
            "seconds": interval,
            "tasks": told,
        }
        return NewTaskSpec(
            agent,
            {"stalled": news},
            description=f"The job has stalled: {len(stuck)} of its tasks do not go on",
            task_type=TaskType.SUBTASK,
            parent=objective,
            priority=_FIRST,
            task_id=self._jobs.notice_id(stall, stuck),
        )

    def _call(self, action: StallAction, job_id: str) -> None:
        """Call what somebody gave, in a thread of its own: who looks after jobs must not wait."""
        call = action.call
        assert call is not None
        job = JobHandle(self._manager, job_id)

        def work() -> None:
            try:
                answer: Any = call(job)
                if inspect.isawaitable(answer):
                    asyncio.run(_awaited(answer))
            except Exception:
                logger.exception("what is called for a stalled job failed, of job %r", job_id)

        threading.Thread(target=work, name=f"dagger-stall-{job_id}", daemon=True).start()


async def _awaited(answer: Any) -> Any:
    return await answer
