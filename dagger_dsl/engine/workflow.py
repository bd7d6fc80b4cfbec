"""`Workflow`: what can be compiled to a graph, run, and asked for the results of its last run.

A `DAG` is one. What runs it is loaded with the first run.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagger_dsl._doors import through
from dagger_dsl.errors import ConfigurationError, NotExecuted

if TYPE_CHECKING:
    from dagger_dsl.engine.control import RunHandle
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.model.config import RunOptions
    from dagger_dsl.model.graph import Graph, HasStates
    from dagger_dsl.model.sharing import Context
    from dagger_dsl.registry import Registry

__all__ = ["Workflow"]


class Workflow:
    """A graph that is being built, and the way to run it, or to have it for a node of another.

    Attributes:
        name: What it is called.
        registry: Where the actions of its nodes are looked up.
        report: The `RunReport` of the last run, None before.
        progress_callback: The ``progress`` of later runs that are given none: a function of
            ``(node_id, status, fraction)``. The attribute is not there before it is set.
    """

    name: str
    registry: Registry
    progress_callback: Any
    report: Any = None
    _run: Any = None

    def compile(self) -> Graph:
        """Return the graph as it is built so far."""
        raise NotImplementedError

    def register_all(self) -> None:
        """Have everything in the registry that a resume may look for there."""

    @property
    def nodes(self) -> Mapping[str, Any]:
        """What stands for the nodes, by id; an unknown id lists the known ones."""
        raise NotImplementedError

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """Surround a run; bodies must not find themselves where the workflow is built."""
        yield

    @contextmanager
    def _broken_off(self) -> Iterator[None]:
        """Have the report of a run that something ended from outside, such as Ctrl-C."""
        before = self._run
        try:
            yield
        except BaseException:
            if self._run is not before:
                self.report = self._run.report()
            raise

    # --- running ---------------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run the graph and return the value of its last node.

        Args:
            inputs: What the graph's inputs are given, by name.
            **options: Those of `RunOptions`: runner (``sequential`` by default; ``mode`` is
                document 002's word for it), max_workers (under ``threads`` the number of CPUs,
                unless the configuration names `max_parallel_nodes`), timeout, database_url,
                durability, run_id, idempotency_key (with a database_url only), hooks, app_data,
                context, cancel, progress (`progress_callback` by default), config, track_memory,
                error_strategy, error_handler, start_at and stop_at (see `RunOptions`).

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
            declaration order. `report` holds the rest. After failures that ``error_strategy`` or
            ``error_handler`` let the run go on after, these are the values that are there: None
            for a single last node without one.

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
        with self._outside(), self._broken_off():
            report = self.report = engine.run(graph, self.registry, inputs, settings)
        return self._answer(report, settings)

    async def run_async(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run the graph on the running event loop; see `run`.

        The runner is ``asyncio`` by default: async bodies run on the loop, sync ones in threads, so
        none of them blocks it. ``runner="sequential"`` does, as long as a sync body runs.
        """
        from dagger_dsl import engine

        settings = self._run_options(options, "asyncio")
        graph = self.compile()
        with self._outside(), self._broken_off():
            report = await engine.run_async(graph, self.registry, inputs, settings)
        self.report = report
        return self._answer(report, settings)

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
        if "progress" not in given and hasattr(self, "progress_callback"):
            given["progress"] = self.progress_callback
        settings = RunOptions.of({"runner": runner, **given}, owner=self)
        if settings.idempotency_key is not None and settings.database_url is None:
            raise ConfigurationError(
                "idempotency_key needs database_url=: a key is found again in the database that "
                "the first run was recorded in"
            )
        if "durability" in options and settings.database_url is None:
            raise ConfigurationError(
                "durability= says how results reach a database; give database_url= too"
            )
        return self._on_all_cores(settings)

    def _options_within(self, options: Mapping[str, Any], runner: str) -> RunOptions:
        """Return the options of a run that is recorded in the database of whoever starts it."""
        given = dict(options)
        durability = given.pop("durability", None)
        settings = self._run_options(given, runner)
        if durability is None:
            return settings
        import attrs

        return attrs.evolve(settings, durability=durability)

    def _on_all_cores(self, settings: RunOptions) -> RunOptions:
        """Let as many threads run as there are CPUs, where nobody has said how many.

        The default of the configuration is the executor's, for whom a graph is one of many.
        """
        if settings.runner != "threads" or settings.max_workers is not None:
            return settings
        for config in (settings.config, self.compile().config):
            if config is not None and "max_parallel_nodes" in config.given:
                return settings
        import attrs

        return attrs.evolve(settings, max_workers=os.cpu_count() or 1)

    def take_run(self, run: Any) -> None:
        """Take the run that is being made, so that `context` is known during it."""
        self._run = run

    @property
    def context(self) -> Context:
        """The `Context` of the last run, also while it goes on.

        It is the one the run was given, or one that is made when it is first asked for.

        Raises:
            NotExecuted: There was no run.
        """
        if self._run is None:
            raise NotExecuted(
                f"{self.name!r} has no context before its first run; make one and give it to "
                "run(context=...)"
            )
        found: Context = self._run.context
        return found

    def _answer(self, report: RunReport, settings: RunOptions) -> Any:
        """Return the value of a run, or raise what it failed with."""
        if not report.continued:
            report.raise_for_failure()
        if settings.stop_at is not None:
            return report.value(settings.stop_at, None)
        return self._result_of(report)

    def _result_of(self, report: RunReport) -> Any:
        """Return the value of a run that succeeded, also of one nested in another workflow's."""
        from dagger_dsl.engine.report import result_of

        return result_of(report)

    def get_result(self, node_id: str, default: Any = ...) -> Any:
        """Return a node's value in the last run.

        Args:
            node_id: The node.
            default: Returned when the node has no value; without it that is an error.

        Raises:
            NotExecuted: No run has given the node a value, or it was freed.
            NodeNotFound: There is no such node.
        """
        values: Mapping[str, Any] = {} if self.report is None else self.report.values
        if isinstance(node_id, str) and node_id in values:
            return values[node_id]
        if default is not ... and self.report is not None and node_id in self.report.graph.nodes:
            return default
        node = self.nodes[node_id]  # also where there is a default: a name may be misspelt
        if default is not ...:
            return default
        if self.report is not None and self.report.states().get(node.id) == "completed":
            return self.report.value(node.id)  # which says why it is gone
        why = "run it first" if self.report is None else "it did not complete in the last run"
        raise NotExecuted(f"node {node.id!r} has no result: {why}")

    def __getitem__(self, node_id: str) -> Any:
        """Return a node's value in the last run: ``dag["load"]``."""
        return self.get_result(node_id)

    # --- looking at it ----------------------------------------------------------------------------

    def to_dot(self, run: HasStates | Mapping[str, str] | None = None) -> str:
        """Return it as DOT; see `Graph.to_dot`."""
        return self.compile().to_dot(run)

    def to_mermaid(self, run: HasStates | Mapping[str, str] | None = None) -> str:
        """Return it as Mermaid; see `Graph.to_mermaid`."""
        return self.compile().to_mermaid(run)

    def to_svg(self, run: HasStates | Mapping[str, str] | None = None) -> str:
        """Return it as SVG; see `Graph.to_svg`."""
        return self.compile().to_svg(run)

    def to_yaml(self) -> str:
        """Return it as YAML; see `Graph.to_yaml`."""
        return self.compile().to_yaml()

    def save_dot(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dot` to a file and return its path."""
        return self.compile().save_dot(path)

    def render(self, path: str | os.PathLike[str], format: str | None = None) -> Path:
        """Draw it with Graphviz and return the picture's path; see `Graph.render`."""
        return self.compile().render(path, format=format)

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        bundle: dict[str, str] = through("graph_bundle")(self.compile, repr(self), include, exclude)
        return bundle

    # --- as a node of another workflow -----------------------------------------------------------

    def _as_action(self) -> Any:
        """Return what this is where an action is wanted."""
        return through("place_workflow")(self)

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Run this, or inside a ``with DAG`` block place it as a node and return its handle.

        The node's parameters are the inputs of this graph, its value is what `run` returns. Its run
        is one of its own, with an id that begins with that of the run around it; it is resumed with
        that run, and `RunReport.nested` has its report. It has the runner, the app_data and the
        hooks of that run (events of both may come at the same time; ``event.node.run_id`` tells
        them apart), and its nodes share a `Context` of their own.

        A run that begins in the body of an action, by such a call or by `run`, is tied to nothing:
        it is recorded and cancelled by itself only.

        Args:
            args, inputs: What the inputs are given; inside a block handles, too.

        Raises:
            CycleError: The DAG of the block would contain itself.
            ValidationError: An input is unknown.
        """
        return self._as_action()(*args, **inputs)

    def map(self, items: Any = None, /, **options: Any) -> Any:
        """Run this for each item of a list: ``inner.map(rows)``; see `Action.map`."""
        return self._as_action().map(items, **options)

    def with_options(self, **options: Any) -> Any:
        """Return what places this as a node with options: ``id``, timeout, attempts...

        They are those of `Action.with_options`. The time limit is that of the whole nested run, and
        a further attempt goes on with a run that is recorded, instead of beginning another.
        """
        return self._as_action().with_options(**options)

    def _call_plainly(self, *args: Any, **inputs: Any) -> Any:
        """Run this with its inputs as arguments, apart from whatever runs around the caller."""
        names = [param.name for param in self._as_action().definition.params]
        if len(args) > len(names):
            raise ConfigurationError(
                f"{self.name!r} takes {len(names)} inputs ({', '.join(names) or 'none'}), not "
                f"{len(args)}"
            )
        given = dict(zip(names, args, strict=False))
        twice = next((name for name in inputs if name in given), None)
        if twice is not None:
            raise ConfigurationError(f"{self.name!r} is given {twice!r} by position and by name")
        return self.run({**given, **inputs})

    def __rshift__(self, other: Any) -> Any:
        """Connect this, as a node, with what follows: ``inner >> report``."""
        return self._as_action() >> other

    def __rrshift__(self, other: Any) -> Any:
        """Connect what comes before with this, as a node: ``[a, b] >> inner``."""
        return other >> self._as_action()

    def __lshift__(self, other: Any) -> Any:
        """Connect backwards: ``inner << load``."""
        return self._as_action() << other

    def __rlshift__(self, other: Any) -> Any:
        """Connect backwards: ``[a, b] << inner``."""
        return other << self._as_action()

    def __and__(self, other: Any) -> Any:
        """Return both as one side of an arrow: ``a >> (inner & c)``."""
        return self._as_action() & other
