"""Nodes that wait for a job of tasks: how it begins with them, and how its end comes to them.

It is one mechanism with the waiting for people: the body has ended, what it waits for is recorded
as a `Question`, and the outcome becomes the node's result. The job begins in the transaction that
records that; the one that ends it puts a `JobEnded` into the run's inbox. A run of which a node
waits for a job goes on until that is there: it looks at a notice from this process, and now and
then for what other processes have done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dagger_dsl.engine.people import Question, check_result
from dagger_dsl.engine.state import WAITING
from dagger_dsl.errors import ConfigurationError, DaggerError, JobFailed, StoreError
from dagger_dsl.model.states import RunStatus
from dagger_dsl.store.notices import listen, of_run

if TYPE_CHECKING:
    from dagger_dsl.engine.course import Course
    from dagger_dsl.engine.instance import Run
    from dagger_dsl.model.commands import JobEnded
    from dagger_dsl.model.jobs import JobRequest
    from dagger_dsl.store.awaited_jobs import AwaitedJobs
    from dagger_dsl.store.transactions import Transaction

__all__ = ["JobDesk"]

#: Seconds between two looks at what other processes have sent: at first, and at most.
_SOON: Final = 0.01
_LATER: Final = 0.25


class JobDesk:
    """The jobs that nodes of one run wait for; made when the first one does.

    Args:
        course: Where the run stands.
        look: Has the inbox read at the next turn; safe from any thread.
        look_now: Reads it, in a turn.
    """

    def __init__(
        self, course: Course, look: Callable[[], None], look_now: Callable[[], None]
    ) -> None:
        self._course = course
        self._run: Run = course.run
        self._state = course.state
        self._look, self._look_now = look, look_now
        self._slots: set[int] = set()
        self._deaf: Callable[[], None] | None = None
        self._pause = _SOON
        self._found: AwaitedJobs | None = None

    @property
    def waits(self) -> bool:
        """Whether a node waits for a job."""
        return not self._slots.isdisjoint(self._state.asking)

    @property
    def _jobs(self) -> AwaitedJobs:
        from dagger_dsl.store.awaited_jobs import AwaitedJobs

        if self._found is None:
            store = self._run.store
            assert store is not None
            self._found = AwaitedJobs(store.database, store._payloads)
        return self._found

    # --- beginning --------------------------------------------------------------------------------

    def begin(
        self, slot: int, request: JobRequest
    ) -> tuple[Question, Callable[[Transaction], None]]:
        """Return what a node waits for, and the step that starts it with the next commit.

        Raises:
            ConfigurationError: The run is not recorded where workers could find the job.
            JobNotFound: There is no such job.
            EncodingError: The input of a task has no stored form.
        """
        run, ref = self._run, self._run.ref(slot)
        if run.journal is None or not run.journal.shared:
            raise ConfigurationError(
                f"node {ref.node_id!r} waits for a job, whose workers find it in the run's "
                "database; give the run one that is not in memory, such as "
                "database_url='sqlite:runs.db'"
            )
        own_id = f"{run.run_id}/{ref.node_id}/{ref.invocation_key}"
        step = self._jobs.beginning(request, run.run_id, ref.node_id, ref.invocation_key, own_id)
        job_id = request.job_id or own_id
        question = Question(f"job {job_id!r}", job_id=job_id, owns=request.job_id is None)
        return question, step

    def watch(self, slot: int, now: float) -> None:
        """Look out for the end of the job that a node waits for."""
        self._slots.add(slot)
        self._pause = _SOON
        if self._run.options.durability == "exit":
            self._course.at(now, self._record)  # nobody could work on what is not recorded
        if self._deaf is None:
            self._deaf = listen(of_run(self._run.run_id), self._look)
            self._course.at(now + _SOON, self._look_again)

    def _record(self, _now: float) -> None:
        assert self._run.journal is not None
        self._course.records.commit_unshown()
        self._run.journal.flush()

    def _look_again(self, now: float) -> None:
        if not self.waits:
            self.close()
            return
        self._pause = min(_LATER, 1.5 * self._pause)
        self._course.at(now + self._pause, self._look_again)
        self._look_now()

    def close(self) -> None:
        """Look out for nothing any more."""
        if self._deaf is not None:
            self._deaf()
            self._deaf = None

    # --- ending -----------------------------------------------------------------------------------

    def take_end(self, told: JobEnded, now: float) -> None:
        """Give a node the outcome of its job; one that waits for it no more is left alone."""
        run, state = self._run, self._state
        known = told.node_id in run.plan.index
        slot = run.slot_named(told.node_id, told.key) if known else None
        question = None if slot is None else run.asked.get(slot)
        if slot is None or question is None or question.job_id != told.job_id:
            return
        if slot not in state.asking:
            return
        if not self._jobs.has_ended(told.job_id):  # somebody has its tasks tried again
            assert run.journal is not None
            node = (run.run_id, told.node_id, told.key)
            run.journal.accompany(self._jobs.waiting(told.job_id, node))
            return
        outcomes = self._course.outcomes
        try:
            value = self._jobs.result(told.job_id)
            check_result(run, slot, question, value)
        except StoreError:
            raise
        except JobFailed as failed:
            self._taken(slot)
            outcomes.raised(slot, failed, now)
            if state.status(slot) == WAITING:  # another attempt, which has a row of its own
                run.asked.pop(slot, None)
        except DaggerError as refused:
            self._taken(slot)
            outcomes.fail(slot, refused)
        else:
            self._taken(slot)
            outcomes.answer(slot, value, None)

    def _taken(self, slot: int) -> None:
        self._slots.discard(slot)
        self._state.answered(slot)

    def leave(self, slot: int, reason: str) -> None:
        """Cancel the job of a node that was cancelled, unless the run was only interrupted."""
        if slot not in self._slots:
            return
        self._slots.discard(slot)
        run, question = self._run, self._run.asked[slot]
        interrupted = run.status is RunStatus.CANCELLED and not run.token.cancelled
        if question.owns and not interrupted and run.journal is not None:
            run.journal.accompany(self._jobs.cancelling(question.job_id, reason))
