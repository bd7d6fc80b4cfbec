"""`JobHandle`: a job that goes on in the background."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl._doors import through
from dagger_dsl.errors import JobNotFound
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
        """Whether it has ended, and no task of it has failed."""
        return self.status is JobStatus.COMPLETED

    @property
    def tasks(self) -> list[Task]:
        """Its tasks, in the order in which they were added."""
        return self._manager.tasks(self.job_id)

    def to_dot(self) -> str:
        """Return it as DOT: parts, needs, and where each task stands."""
        return str(through("job_to_dot")(self.tasks, self._row()))

    def to_svg(self) -> str:
        """Return it as SVG."""
        return str(through("job_to_svg")(self.tasks, self._row()))

    def tree(self, limit: int | None = 200) -> Any:
        """Return it as a tree of rich's: its tasks, where each stands, and what it waits for.

        Args:
            limit: Tasks at most, None for all; what failed or waits is shown before the rest.
        """
        return through("job_tree")(self.tasks, self._row(), limit)

    def __rich__(self) -> Any:
        return self.tree()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        found: dict[str, str] = through("job_bundle")(self.tasks, self._row())
        return found

    def cancel(self, reason: str = "cancelled") -> None:
        """Cancel it with all its tasks that have not ended."""
        self._manager.cancel_job(self.job_id, reason)

    def result(self, timeout: float | None = None) -> JobStatus:
        """Wait for its end, and return how it ended.

        Args:
            timeout: Seconds; None for as long as it takes.

        Raises:
            TimeoutError: It has not ended by then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        moved = self._manager._moved
        with moved:
            while not self.is_finished:
                left = _LOOK if deadline is None else min(_LOOK, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"job {self.job_id!r} has not ended within {timeout:g} s")
                moved.wait(left)
        return self.status

    async def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait for its end on an event loop, and return how it ended."""
        return await asyncio.to_thread(self.result, timeout)

    def __await__(self) -> Any:
        return self.wait().__await__()

    def watch(self, every: float = 0.2) -> Iterator[JobStatus]:
        """Yield its status now, whenever something of it has changed, and at its end.

        Args:
            every: Seconds between two looks at least.
        """
        seen: Any = None
        while True:
            row = self._row()
            mark = (row.status, row.unfinished, row.failed)
            if mark != seen:
                seen = mark
                yield row.status
            if row.status not in (JobStatus.CREATED, JobStatus.RUNNING):
                return
            with self._manager._moved:
                self._manager._moved.wait(every)
