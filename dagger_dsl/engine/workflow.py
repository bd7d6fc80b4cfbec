"""`Workflow`: what can be compiled to a graph, run, and asked for the results of its last run.

A `DAG` is one. What runs it is loaded with the first run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dagger_dsl.errors import ConfigurationError, NotExecuted

if TYPE_CHECKING:
    from dagger_dsl.engine.control import RunHandle
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.model.config import RunOptions
    from dagger_dsl.model.graph import Graph
    from dagger_dsl.registry import Registry

__all__ = ["Workflow"]


class Workflow:
    """A graph that is being built, and the way to run it.

    Attributes:
        name: What it is called.
        registry: Where the actions of its nodes are looked up.
        report: The `RunReport` of the last run, None before.
    """

    name: str
    registry: Registry
    report: Any = None

    def compile(self) -> Graph:
        """Return the graph as it is built so far."""
        raise NotImplementedError

    @property
    def nodes(self) -> Mapping[str, Any]:
        """What stands for the nodes, by id; an unknown id lists the known ones."""
        raise NotImplementedError

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """Surround a run; bodies must not find themselves where the workflow is built."""
        yield

    # --- running ---------------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run the graph and return the value of its last node.

        Args:
            inputs: What the graph's inputs are given, by name.
            **options: Those of `RunOptions`: runner (``sequential`` by default; ``mode`` is
                document 002's word for it), max_workers, timeout, database_url, durability,
                run_id, idempotency_key (with a database_url only), hooks, app_data, cancel,
                progress, config.

        The runner ``sequential`` calls sync bodies in the calling thread. Under a running event
        loop, as in a notebook, such a body may not call `asyncio.run`: use ``runner="threads"``,
        or make it an async function.

        Threads share the interpreter's lock (the GIL): they overlap waiting, not computing. For
        bodies that compute, ``runner="processes"`` calls sync bodies in worker processes, one for
        each of ``max_workers``. A value is copied on its way there and back, what a body changes
        elsewhere stays there, and a body that overruns its limit is killed. Functions of a script
        or a notebook need the extra ``processes``.

        Returns:
            The value of the one node that no other waits for; of several, a mapping by id in
            declaration order. `report` holds the rest.

        Raises:
            ValidationError: The graph is wrong; nothing has run.
            InputError: An input is missing, unknown or of the wrong type; nothing has run.
            NodeExecutionError: A node failed and nothing handled it.
            RunPaused, RunCancelled, ExecutionTimeout: The run did not end by itself.
            ConfigurationError: An option is unknown or has an impossible value.
        """
        from dagger_dsl import engine

        settings = self._run_options(options)
        graph = self.compile()
        with self._outside():
            self.report = engine.run(graph, self.registry, inputs, settings)
        return self._answer()

    async def run_async(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run the graph on the running event loop; see `run`.

        The runner is ``asyncio`` by default: async bodies run on the loop, sync ones in threads, so
        none of them blocks it. ``runner="sequential"`` does, as long as a sync body runs.
        """
        from dagger_dsl import engine

        settings = self._run_options(options, "asyncio")
        graph = self.compile()
        with self._outside():
            self.report = await engine.run_async(graph, self.registry, inputs, settings)
        return self._answer()

    def start(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> RunHandle:
        """Start a run in the background and return its `RunHandle`; see `run`."""
        from dagger_dsl import engine

        settings = self._run_options(options)
        graph = self.compile()
        with self._outside():
            return engine.start(graph, self.registry, inputs, settings)

    def _run_options(self, options: Mapping[str, Any], runner: str = "sequential") -> RunOptions:
        from dagger_dsl.model.config import RunOptions

        given = dict(options)
        if "mode" in given:
            if "runner" in options:
                raise ConfigurationError("mode= and runner= are one option; give one of them")
            given["runner"] = given.pop("mode")
        settings = RunOptions.of({"runner": runner, **given})
        if settings.idempotency_key is not None and settings.database_url is None:
            raise ConfigurationError(
                "idempotency_key needs database_url=: a key is found again in the database that "
                "the first run was recorded in"
            )
        if "durability" in options and settings.database_url is None:
            raise ConfigurationError(
                "durability= says how results reach a database; give database_url= too"
            )
        return settings

    def _answer(self) -> Any:
        """Return the value of the last run, or raise what it failed with."""
        report: RunReport = self.report
        report.raise_for_failure()
        outputs, sinks = report.outputs, report.sinks
        if len(sinks) == 1 and outputs.keys() <= set(sinks):
            return outputs.get(sinks[0])
        return dict(outputs)

    def get_result(self, node_id: str, default: Any = ...) -> Any:
        """Return a node's value in the last run.

        Args:
            node_id: The node.
            default: Returned when the node has no value; without it that is an error.

        Raises:
            NotExecuted: No run has given the node a value.
            NodeNotFound: There is no such node.
        """
        values: Mapping[str, Any] = {} if self.report is None else self.report.values
        if isinstance(node_id, str) and node_id in values:
            return values[node_id]
        if default is not ...:
            return default
        node = self.nodes[node_id]
        why = "run it first" if self.report is None else "it did not complete in the last run"
        raise NotExecuted(f"node {node.id!r} has no result: {why}")

    def __getitem__(self, node_id: str) -> Any:
        """Return a node's value in the last run: ``dag["load"]``."""
        return self.get_result(node_id)
