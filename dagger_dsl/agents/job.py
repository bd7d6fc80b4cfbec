"""`JobHandle`: a job that goes on in the background."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl._doors import through
from dagger_dsl.errors import InvalidState, JobNotFound
from dagger_dsl.model.policies import seconds
from dagger_dsl.model.tasks import JobStatus, Task

if TYPE_CHECKING:
    from dagger_dsl.agents.manager import TaskManager
    from dagger_dsl.store.task_reads import StoredJob

__all__ = ["JobHandle"]

#: Seconds between two looks at a job that other processes may be working on.
_LOOK: Final = 0.05


class JobHandle:
    """One job; may be asked from any thread.

    Attributes:
        job_id: Its id.
    """

    def __init__(self, manager: TaskManager, job_id: str) -> None:
        self.job_id = job_id
        self._manager = manager

    def __repr__(self) -> str:
        return f"<JobHandle of {self.job_id!r}>"

    def _row(self) -> StoredJob:
        found = self._manager._reads.job(self.job_id)
        if found is None:
            raise JobNotFound(f"job {self.job_id!r} was removed")
        return found

    @property
    def status(self) -> JobStatus:
        """Where it stands."""
        return self._row().status

    async def get_status(self) -> JobStatus:
        """Return where it stands; the documents' form."""
        return self.status

    @property
    def is_finished(self) -> bool:
        """Whether it has ended."""
        return self.status not in (JobStatus.CREATED, JobStatus.RUNNING)

    @property
    def success(self) -> bool:
        """Whether it has ended, no task of it has failed, and it was not cancelled."""
        return self.status is JobStatus.COMPLETED

    @property
    def config(self) -> Mapping[str, Any]:
        """What it was started with, for its agents."""
        return self._row().config

    @property
    def error(self) -> str:
        """Why it was cancelled; empty where there is nothing to say."""
        return self._row().error

    @property
    def tasks(self) -> list[Task]:
        """Its tasks, in the order in which they were added."""
        return self._manager.tasks(self.job_id)

    def questions(self) -> list[Task]:
        """Return the tasks that wait for a person; what they ask is their ``error``.

        An answer is given by `TaskManager.answer`, where the task asks something.
        """
        return [task for task in self.tasks if task.asks_person]

    def to_dot(self) -> str:
        """Return it as DOT: parts, needs, and where each task stands."""
        return str(through("job_to_dot")(self.tasks, self._row()))

    def to_svg(self) -> str:
        """Return it as SVG."""
        return str(through("job_to_svg")(self.tasks, self._row()))

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return it as a page that holds all it needs: it opens from disk in any browser.

        It shows the graph of its tasks, a timeline of their calls and waits, what failed and why,
        inputs and outputs (shortened), and the history of every task.

        Args:
            path: Where to write it, too; the folder has to be there.

        Raises:
            ConfigurationError: There can be no such file.
        """
        history = self._manager._reads.history_of(self.job_id)
        return str(through("job_page")(self.tasks, self._row(), history, path))

    def __rich__(self) -> Any:
        """Return it as a tree, for ``rich.print``."""
        return through("job_tree")(self.tasks, self._row())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        found: dict[str, str] = through("job_bundle")(self.tasks, self._row(), include, exclude)
        return found

    def cancel(self, reason: str = "cancelled") -> None:
        """Cancel it with all its tasks that have not ended."""
        self._manager.cancel_job(self.job_id, reason)

    def result(self, timeout: float | dt.timedelta | None = None) -> JobStatus:
        """Wait for its end, and return how it ended.

        An agent that waits for another job holds its worker meanwhile: where all workers do so,
        none is left for what they wait for. `TaskContext.block` waits without one.

        Args:
            timeout: Seconds (or a timedelta); None for as long as it takes.

        Raises:
            TimeoutError: It has not ended by then.
            InvalidState: A task waits for its own job, or holds the only worker that could run it.
            ConfigurationError: *timeout* is no such number, or nobody can ever run its tasks.
        """
        looks = self._looks(None if timeout is None else seconds(timeout, "timeout"))
        told = threading.Event()
        with self._manager._listening(told.set):
            for left in looks:
                told.wait(left)
                told.clear()
        return self.status

    async def wait(self, timeout: float | dt.timedelta | None = None) -> JobStatus:
        """Wait for its end on an event loop, and return how it ended; see `result`.

        Args:
            timeout: Seconds (or a timedelta); None for as long as it takes.

        Raises:
            TimeoutError: It has not ended by then.
            InvalidState: A task waits for its own job, or holds the only worker that could run it.
            ConfigurationError: *timeout* is no such number, or nobody can ever run its tasks.
        """
        looks = self._looks(None if timeout is None else seconds(timeout, "timeout"))
        told = asyncio.Event()
        tell = partial(asyncio.get_running_loop().call_soon_threadsafe, told.set)
        with self._manager._listening(tell):
            for left in looks:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(told.wait(), left)
                told.clear()
        return self.status

    def _looks(self, timeout: float | None) -> Iterator[float]:
        """Look at it until it has ended; yield how long to wait for news before each next look."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self.is_finished:
            self._check_waits()
            self._manager._check_runs()
            left = min(_LOOK, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(f"job {self.job_id!r} has not ended within {timeout:g} s")
            yield left

    def _check_waits(self) -> None:
        """Refuse to wait for what cannot end before the task that waits for it."""
        ctx = self._manager._call()
        if ctx is None:
            return
        if ctx.job_id == self.job_id:
            raise InvalidState(
                f"task {ctx.task_id!r} waits for its own job {self.job_id!r}, which cannot end "
                "before the task; wait for other tasks of the job by ctx.block(on=[...])"
            )
        if self._manager._size == 1 and self._manager._store.database.is_memory:
            raise InvalidState(
                f"task {ctx.task_id!r} waits for job {self.job_id!r} and holds the only worker "
                "there is; give the task manager a concurrency of at least 2"
            )

    def __await__(self) -> Any:
        return self.wait().__await__()

    def watch(self, every: float | dt.timedelta = 0.2) -> Iterator[JobStatus]:
        """Yield its status now, whenever something of it has changed, and at its end.

        Args:
            every: Seconds (or a timedelta) between two looks; its end is seen at once where it
                happens here.

        Raises:
            ConfigurationError: *every* is no number of seconds above 0, or nobody can ever run its
                tasks.
        """
        return self._watched(seconds(every, "every", zero=False))

    def _watched(self, every: float) -> Iterator[JobStatus]:
        seen: Any = None
        told = threading.Event()
        with self._manager._listening(told.set):
            while True:
                told.clear()
                row = self._row()
                mark = (row.status, self._manager._reads.mark(self.job_id))
                if mark != seen:
                    seen = mark
                    yield row.status
                if row.status not in (JobStatus.CREATED, JobStatus.RUNNING):
                    return
                self._manager._check_runs()
                told.wait(every)
