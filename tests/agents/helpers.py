"""What the tests of agents share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from dagger_dsl import task_agent
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.agents.watch import Watch
from dagger_dsl.model.tasks import Task, TaskStatus
from dagger_dsl.registry import Registry
from dagger_dsl.store.job_watch import NOTICE
from dagger_dsl.store.task_claims import Claim, Ending
from dagger_dsl.testing import FakeClock

__all__ = ["LONG", "Hands", "registry_of", "until"]

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


def until(true: Callable[[], Any]) -> None:
    """Wait for something that is about to happen."""
    deadline = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def registry_of(**agents: Callable[..., Any]) -> Registry:
    """Return a registry with these agents."""
    registry = Registry()
    for name, function in agents.items():
        task_agent(name=name, registry=registry)(function)
    return registry


class Hands:
    """A manager without workers: a test claims its tasks by hand, and its clock stands still."""

    def __init__(self, clock: FakeClock, *arguments: Any, **options: Any) -> None:
        self.clock = clock
        made = self.manager = TaskManager(*arguments, concurrency=1, **options)
        made._size = 0  # it runs none, and may be waited for: a test does
        for each in (made._rows, made._reads, made._claims, made._jobs, made._values):
            each._clock = clock
        self.watch = Watch(made, made._jobs)
        self.watch.long = math.inf  # the clock that it looks at then goes on

    def __enter__(self) -> Hands:
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.close()

    def claim(self, *agents: str, wanted: int = 1, worker: str = "w") -> list[Claim]:
        """Claim tasks of these agents."""
        return self.manager._claims.exchange(worker, agents=agents, wanted=wanted)[0]

    def end(self, claim: Claim, status: TaskStatus = TaskStatus.COMPLETED, **more: Any) -> bool:
        """End a task; return whether it did not come too late."""
        return not self.manager._claims.exchange("w", [Ending(claim, status, **more)])[1]

    def look(self, seconds: float = 0.0) -> None:
        """Let time pass, and look after the jobs."""
        self.clock.advance(seconds)
        self.watch.look()

    def states(self, job_id: str = "j") -> dict[str, str]:
        """Return how the tasks of a job stand."""
        return {each.id: str(each.status) for each in self.manager.tasks(job_id)}

    def task(self, task_id: str) -> Task:
        """Return a task."""
        found = self.manager.get_task(task_id)
        assert found is not None
        return found

    def notices(self, job_id: str = "j") -> Sequence[Task]:
        """Return the tasks that tell of a stall."""
        return [each for each in self.manager.tasks(job_id) if each.id.startswith(NOTICE)]
