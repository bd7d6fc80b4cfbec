"""`Coordinator`: documents 000 and 001's way to start a run, over the executor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.executor._facade import DagExecutor
from dagger_dsl.model.config import RunOptions

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.model.protocols import CancelSignal
    from dagger_dsl.store.cache import Cache

__all__ = ["Coordinator"]


class Coordinator:
    """How runs are made: with which hooks, how much may wait, how many nodes run at the same time.

    Args:
        hooks: Shown the events of every run, in this order.
        event_capacity: Events that hooks are shown in one turn at most.
        command_capacity: Commands from outside that wait at most.
        max_workers: Nodes that run at the same time; None takes the configuration's number.

    Raises:
        ConfigurationError: One of these cannot work.
    """

    def __init__(
        self,
        hooks: Sequence[Any] = (),
        event_capacity: int = 100,
        command_capacity: int = 100,
        max_workers: int | None = None,
    ) -> None:
        checked = RunOptions(
            hooks=hooks,
            event_capacity=event_capacity,
            command_capacity=command_capacity,
            max_workers=max_workers,
        )
        self.hooks = tuple(checked.hooks)
        self.event_capacity = checked.event_capacity
        self.command_capacity = checked.command_capacity
        self.max_workers = checked.max_workers

    @classmethod
    def new_with_concurrency(
        cls, hooks: Sequence[Any], event_capacity: int, command_capacity: int, max_workers: int
    ) -> Coordinator:
        """Document 001's constructor with a number of workers."""
        return cls(hooks, event_capacity, command_capacity, max_workers)

    def __repr__(self) -> str:
        return (
            f"Coordinator({len(self.hooks)} hooks, {self.event_capacity}, "
            f"{self.command_capacity}, max_workers={self.max_workers})"
        )

    async def run_parallel(
        self,
        executor: DagExecutor,
        cache: Cache | None,
        dag_name: str,
        run_id: str | None = None,
        cancel: CancelSignal | None = None,
        *,
        resume: bool = False,
    ) -> RunReport:
        """Run a loaded graph on the running event loop; see `DagExecutor.run_async`.

        Args:
            executor: Has the graph, and records the run.
            cache: Values under ``inputs`` are inputs, and results are written into it.
            dag_name: The graph.
            run_id: Name of the run; a new one is made when None.
            cancel: A token that ends the run when it is cancelled.
            resume: Whether to go on with the run of *run_id* where there is one already.

        Raises:
            RunExists: There is a run of this *run_id*, and *resume* is False.
        """
        options = self._options(executor, run_id, resume)
        return await executor.run_async(dag_name, cache=cache, cancel=cancel, **options)

    def run_parallel_sync(
        self,
        executor: DagExecutor,
        cache: Cache | None,
        dag_name: str,
        run_id: str | None = None,
        cancel: CancelSignal | None = None,
        *,
        resume: bool = False,
    ) -> RunReport:
        """Run a loaded graph in worker threads and wait for its end; see `run_parallel`."""
        options = self._options(executor, run_id, resume)
        return executor.run(dag_name, cache=cache, cancel=cancel, **options)

    def _options(self, executor: object, run_id: str | None, resume: bool) -> dict[str, Any]:
        if not isinstance(executor, DagExecutor):
            raise ConfigurationError(f"a run is made by a DagExecutor, not by {executor!r}")
        return {
            "hooks": self.hooks,
            "event_capacity": self.event_capacity,
            "command_capacity": self.command_capacity,
            "max_workers": self.max_workers,
            "run_id": run_id,
            "resume": resume,
        }
