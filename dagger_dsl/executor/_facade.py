"""`DagExecutor`: every spelling of the documents, over the catalogue, the engine and the store.

It decides nothing about a run: it finds the graph, puts the options together, and hands both to
`dagger_dsl.engine`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Never
from weakref import WeakValueDictionary

import attrs

from dagger_dsl import engine
from dagger_dsl.engine.control import RunHandle, Steered
from dagger_dsl.engine.report import RunReport
from dagger_dsl.engine.story import graph_now
from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    DaggerError,
    InputError,
    InvalidState,
    RunExists,
    RunNotFound,
    RunOwned,
    ValidationError,
)
from dagger_dsl.executor._caches import Values, check_run_values, inputs_of
from dagger_dsl.executor._catalogue import Catalogue, Compilable, DagMetadata, check_fields
from dagger_dsl.executor._dry_run import rehearse
from dagger_dsl.executor._recorded import (
    hand_over,
    newest_snapshot,
    recorded_run,
    standing_of,
    unfinished_run,
    values_of,
)
from dagger_dsl.model.commands import NodeSpec
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.model.ids import new_id
from dagger_dsl.model.resources import ResourceTracker, as_tracker
from dagger_dsl.model.states import RunStatus
from dagger_dsl.registry import ActionDef, Registry, as_registry
from dagger_dsl.store.storage import Store

if TYPE_CHECKING:
    from dagger_dsl.engine.remote import RunControl
    from dagger_dsl.executor._doctor import Diagnosis
    from dagger_dsl.executor._metrics import ExecutionMetrics, NodeSnapshot, Told
    from dagger_dsl.model.protocols import CancelSignal
    from dagger_dsl.store.cache import Cache
    from dagger_dsl.store.snapshots import SnapshotInfo
    from dagger_dsl.yamlio import GraphList

__all__ = ["DagExecutor", "WorkflowSpec"]

logger = logging.getLogger("dagger_dsl.executor")


@attrs.frozen
class WorkflowSpec:
    """Document 003's way to say which graph to run.

    Attributes:
        name: The graph.
    """

    name: str

    @classmethod
    def static(cls, name: str) -> WorkflowSpec:
        """Return the spec of a loaded graph."""
        return cls(name)


class DagExecutor:
    """Loads graphs, runs them, and finds their runs again.

    Use it as a context manager, or `close` it: that releases the database.

    Args:
        config: What graphs that say nothing are run with: a `DagConfig`, a mapping of its fields,
            or None for the defaults.
        registry: Where actions are looked up: a `Registry`, a mapping of names to functions or a
            module; None takes the registry in force, and keeps what is registered here apart.
        database_url: Where runs are recorded; every spelling of the documents is understood.
        resources: What its runs share with each other, and with whatever else is given it; None for
            no limit.

    Raises:
        ConfigurationError: One of these cannot work.
    """

    def __init__(
        self,
        config: DagConfig | Mapping[str, Any] | None = None,
        registry: Any = None,
        database_url: str | os.PathLike[str] = "sqlite::memory:",
        resources: ResourceTracker | None = None,
        **unknown: Never,
    ) -> None:
        check_fields("an executor", DagExecutor, unknown, besides=("unknown",))
        self._resources = as_tracker(resources)
        if config is not None and not isinstance(config, DagConfig):
            config = DagConfig.from_dict(config)
        self._config = config if config is not None else DagConfig()
        known = as_registry(registry)
        self._registry = Registry(parent=known) if registry is None else known
        self._store = Store(database_url)
        self._url = os.fspath(database_url)
        self._catalogue = Catalogue(self._registry)
        self._last: RunReport | RunHandle | None = None
        self._newest: str | None = None
        self._handles: WeakValueDictionary[str, RunHandle] = WeakValueDictionary()

    def __enter__(self) -> DagExecutor:
        self._store.init_database()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Runs that have not ended stay resumable."""
        self._store.close()

    def __repr__(self) -> str:
        return f"<DagExecutor: {len(self._catalogue)} graphs, {self._store.database.where}>"

    @property
    def registry(self) -> Registry:
        """Where actions are looked up."""
        return self._registry

    @property
    def config(self) -> DagConfig:
        """What graphs that say nothing are run with."""
        return self._config

    @property
    def resources(self) -> ResourceTracker | None:
        """What its runs share."""
        return self._resources

    @property
    def storage(self) -> Store:
        """The store in which runs are recorded."""
        return self._store

    @property
    def sqlite_cache(self) -> Store:
        """The documents' name of `storage`."""
        return self._store

    @property
    def execution_context(self) -> RunReport | None:
        """The report of the last run that was made here, None before one has ended."""
        last = self._last
        if not isinstance(last, RunHandle):
            return last
        try:
            return last.result(0)
        except (TimeoutError, DaggerError):  # it goes on, or could not be made at all
            return None

    # --- the catalogue ---------------------------------------------------------------------------

    @property
    def graphs(self) -> Mapping[str, Graph]:
        """The newest version of each loaded graph by name."""
        return self._catalogue.graphs()

    @property
    def dags(self) -> Mapping[str, Graph]:
        """The documents' name of `graphs`."""
        return self.graphs

    def load(self, dag: Graph | Compilable) -> Graph:
        """Add a graph, or what compiles to one, and return it.

        A graph of the same name and version is replaced. A `DAG` brings the actions it was built
        with.
        """
        return self._catalogue.load(dag)

    add = load

    def load_yaml_file(self, path: str | os.PathLike[str]) -> Graph:
        """Add the graph that a YAML file describes.

        Raises:
            YamlError: Something is wrong; every problem has its file, line and column.
        """
        from dagger_dsl.yamlio import load_yaml_file

        return self.load(load_yaml_file(path))

    def load_yaml_string(self, text: str) -> Graph:
        """Add the graph that a YAML text describes.

        Raises:
            YamlError: Something is wrong; every problem has its line and column.
        """
        from dagger_dsl.yamlio import load_yaml

        return self.load(load_yaml(text))

    def load_yaml_dir(self, path: str | os.PathLike[str], *, strict: bool = True) -> GraphList:
        """Add the graphs of all YAML files of a directory.

        Args:
            path: The directory.
            strict: Whether one bad file refuses all; otherwise the others are added, and the
                answer's `problems` say what is wrong with it.

        Raises:
            YamlError: The directory cannot be read, or *strict* and a file is bad.
        """
        from dagger_dsl.yamlio import load_yaml_dir

        graphs = load_yaml_dir(path, strict)
        for graph in graphs:
            self.load(graph)
        return graphs

    def create_dag(self, name: str, **fields: Any) -> Graph:
        """Add a graph without nodes.

        Args:
            name: What it is called.
            **fields: Those of `Graph`: description, tags, version, config...

        Raises:
            RegistryError: A graph of this name is loaded.
        """
        return self._catalogue.create(name, fields)

    def has_dag(self, name: str) -> bool:
        """Return whether a graph is loaded, by its name or by ``name@version``."""
        return self._catalogue.find(name) is not None

    def list_dags(self) -> list[str]:
        """Return the names of the loaded graphs, sorted."""
        return self._catalogue.names()

    def list_versions(self, name: str) -> list[str]:
        """Return the versions of a loaded graph, the newest last.

        Raises:
            DagNotFound: It is not loaded.
        """
        return self._catalogue.versions(name)

    def list_dags_by_tags(
        self, tags: Iterable[str], *, match: Literal["all", "any"] = "all"
    ) -> list[str]:
        """Return the names of the graphs that carry tags, sorted.

        Args:
            tags: The tags.
            match: Whether a graph has to carry all of them or any of them.

        Raises:
            ConfigurationError: *tags* is one text, or *match* is neither.
        """
        return self._catalogue.tagged(tags, match)

    def get_dag(self, name: str) -> Graph:
        """Return a loaded graph: the newest by its name, or one version by ``name@version``.

        Raises:
            DagNotFound: It is not loaded; the message lists what is.
        """
        return self._catalogue.entry(name).graph

    def get_dag_metadata(self, name: str) -> DagMetadata:
        """Return what a loaded graph says about itself.

        Raises:
            DagNotFound: It is not loaded.
        """
        graph = self.get_dag(name)
        return DagMetadata(
            name=graph.name,
            version=graph.version,
            author=graph.author,
            description=graph.description,
            tags=graph.tags,
            signature=graph.signature,
        )

    # --- changing graphs -------------------------------------------------------------------------

    def add_node(
        self,
        dag_name: str,
        node_id: str,
        action: str,
        dependencies: Iterable[str] = (),
        *,
        create: bool = False,
        **fields: Any,
    ) -> Node:
        """Add a node to a loaded graph.

        Args:
            dag_name: The graph.
            node_id, action, dependencies: Those of the node; an action may be registered later.
            create: Whether to create a graph that is not loaded.
            **fields: Those of `Node`: inputs, timeout, try_count...

        Raises:
            DagNotFound: The graph is not loaded.
            NodeAlreadyExists: It has another node of this id.
            DependencyNotFound: It has no node of a dependency's id.
        """
        check_fields("a node", Node, fields, besides=("id", "action", "dependencies"))
        fields["inputs"] = _objects("inputs", Input, fields.get("inputs", ()))
        if not isinstance(dependencies, Iterable):
            raise ConfigurationError(f"dependencies are a list of ids, not {dependencies!r}")
        node = Node(node_id, action, dependencies=dependencies, **fields)
        self._catalogue.add_node(dag_name, node, create)
        return node

    def add_nodes_atomic(
        self, dag_name: str, specs: Sequence[NodeSpec], cache: Cache | None = None
    ) -> list[str]:
        """Add several nodes to a loaded graph, all or none, and return their ids.

        Args:
            dag_name: The graph.
            specs: What to add; they may depend on each other. A spec without an id is called after
                its action, with a number where that is taken.
            cache: Not needed; the inputs are kept in the graph. The documents pass one.

        Raises:
            ValidationError: A spec cannot be added; nothing was.
        """
        del cache
        return self._catalogue.add_nodes(dag_name, specs)

    def set_node_inputs(
        self,
        dag_name: str,
        node_id: str,
        inputs: Mapping[str, Any],
        cache: Cache | None = None,
    ) -> Node:
        """Give inputs of a node new values; its other inputs stay.

        Args:
            dag_name: The graph.
            node_id: The node.
            inputs: Values by name; ``ref("a.b")`` or ``{"$ref": "a.b"}`` is a reference.
            cache: Not needed; the inputs are kept in the graph. The documents pass one.

        Raises:
            DagNotFound, NodeNotFound: There is no such graph or node.
            ValidationError: A reference leads nowhere, or back to the node.
        """
        del cache
        return self._catalogue.set_inputs(dag_name, node_id, inputs)

    set_node_inputs_json = set_node_inputs

    def gen_node_id(self, prefix: str) -> str:
        """Return an id that no node of a loaded graph has and that was not given out before."""
        return self._catalogue.free_id(prefix)

    def register_action(self, name: str, fn: Any, replace: bool = False) -> ActionDef:
        """Register an action in this executor's registry.

        Raises:
            RegistryError: The name is taken.
        """
        return self._registry.register_fn(name, fn, replace)

    # --- running ---------------------------------------------------------------------------------

    def run(
        self,
        dag: str | Graph | Compilable,
        inputs: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
        runner: str = "threads",
        cancel: CancelSignal | None = None,
        *,
        dry_run: bool = False,
        resume: bool = False,
        **options: Any,
    ) -> RunReport:
        """Run a graph and wait for its end.

        Args:
            dag: A loaded graph's name or ``name@version``, or a graph or DAG of yours.
            inputs: Values of its inputs by name.
            cache: Values under ``inputs`` are inputs too, and results are written into it.
            runner: ``threads``, ``sequential``, ``asyncio`` or ``processes``.
            cancel: A token that ends the run when it is cancelled.
            dry_run: Whether to validate and print the plan only; no action is called.
            resume: Whether to go on with the run of ``run_id`` where there is one already.
            **options: Those of `RunOptions`: max_workers, timeout, durability, run_id, hooks...

        Returns:
            The report, whatever became of the nodes.

        Raises:
            DagNotFound, ValidationError, InputError, ConfigurationError: Nothing has run.
            RunExists: There is a run of this ``run_id``, and *resume* is False.
            StoreError: The run cannot be recorded; it stays resumable.
        """
        entry = self._catalogue.entry(dag) if isinstance(dag, str) else self._catalogue.opened(dag)
        given = inputs_of(entry.graph, inputs, cache)
        values = Values(cache)
        settings = self._options(runner, cancel, options, values)
        if resume and not dry_run and self._has_run(settings.run_id):
            options = {name: each for name, each in options.items() if name != "run_id"}
            return self.resume(settings.run_id, inputs, cache, runner, cancel, **options)
        if dry_run:
            if settings.partial:
                raise ConfigurationError(
                    "a dry run plans the whole graph: leave start_at=, stop_at="
                )
            config = DagConfig.merge(self._config, entry.graph.config)
            config = DagConfig.merge(config, settings.config)
            return rehearse(entry.graph, entry.registry, given, config)
        graph, registry = entry
        with self._making(settings.run_id):
            report = engine.run(graph, registry, given, settings, self._config, self._store)
        return self._ended(report, entry.registry, values)

    def dry_run(
        self, dag: str | Graph | Compilable, inputs: Mapping[str, Any] | None = None, **options: Any
    ) -> RunReport:
        """Validate a graph and its inputs, print the plan, and call nothing."""
        return self.run(dag, inputs, dry_run=True, **options)

    async def run_async(
        self,
        dag: str | Graph | Compilable,
        inputs: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
        runner: str = "asyncio",
        cancel: CancelSignal | None = None,
        *,
        resume: bool = False,
        **options: Any,
    ) -> RunReport:
        """Run a graph on the running event loop; see `run`. A resume is made in the background."""
        entry = self._catalogue.entry(dag) if isinstance(dag, str) else self._catalogue.opened(dag)
        given = inputs_of(entry.graph, inputs, cache)
        values = Values(cache)
        settings = self._options(runner, cancel, options, values)
        if resume and self._has_run(settings.run_id):
            registry = self._catalogue.everything()
            handle = self._go_on(str(settings.run_id), registry, settings, inputs, cache)
            return self._ended(await handle, registry, values)
        with self._making(settings.run_id):
            report = await engine.run_async(
                entry.graph, entry.registry, given, settings, self._config, self._store
            )
        return self._ended(report, entry.registry, values)

    def start(
        self,
        dag: str | Graph | Compilable,
        inputs: Mapping[str, Any] | None = None,
        runner: str = "threads",
        cancel: CancelSignal | None = None,
        **options: Any,
    ) -> RunHandle:
        """Start a graph in the background and return its handle at once; see `run`."""
        entry = self._catalogue.entry(dag) if isinstance(dag, str) else self._catalogue.opened(dag)
        settings = self._options(runner, cancel, options, Values(None))
        handle = engine.start(
            entry.graph, entry.registry, inputs, settings, self._config, self._store
        )
        return self._started(handle)

    def resume(
        self,
        run_id: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
        runner: str = "threads",
        cancel: CancelSignal | None = None,
        **options: Any,
    ) -> RunReport:
        """Go on with a recorded run where it stands; completed nodes are not called again.

        What is paused stays so: `resume_branch` or `approve` lets a branch go on.

        Args:
            run_id: The run; the newest one of this executor when None.
            inputs: Secrets, which are never stored and have to be given again.
            cache: As in `run`. Besides, its values under ``human_input`` answer the nodes that
                their keys name, where these wait for a person; others become values of the run.
            runner, cancel, options: As in `run`.

        Raises:
            RunNotFound: The store has no such run.
            RunOwned: Another process works on it.
            ActionNotFound: An action of the recorded graph is registered nowhere here.
            InputValidationError: An answer does not fit what was asked.
        """
        check_run_values(inputs, cache)
        chosen = self._chosen(run_id)
        registry = self._catalogue.everything()
        values = Values(cache)
        settings = self._options(runner, cancel, options, values)
        hand_over(self._recorded(chosen), self._store, cache)
        self._newest = chosen
        try:
            report = engine.resume(chosen, registry, settings, inputs, self._store)
        except ActionNotFound:
            stored = self._store.load_run(chosen)
            if stored.status != RunStatus.COMPLETED or cache is not None:
                raise
            from dagger_dsl.views.stored import stored_report

            return stored_report(
                stored, self._url, self._store
            )  # as it is: nothing of it is called
        return self._ended(report, registry, values)

    #: Document 001's names of `resume`.
    resume_from_pause = resume
    resume_execution = resume

    # --- steering --------------------------------------------------------------------------------

    def control(self, run_id: str | None = None) -> Steered:
        """Return what steers a run: its handle while it goes on here in the background, else the
        database, through which a run of another process is steered too, or one that stands still.

        Args:
            run_id: The run; the newest one of this executor when None.

        Raises:
            InvalidState: None was made here.
        """
        chosen = self._chosen(run_id)
        handle = self._handles.get(chosen)
        if handle is not None and not handle.done:
            return handle
        return self._recorded(chosen, self._catalogue.everything())

    def is_paused(self, run_id: str | None = None) -> bool:
        """Return whether a run stands still; without an id, the newest one of this executor.

        Raises:
            RunNotFound: The store has no such run.
        """
        if run_id is None and self._newest is None:
            return False
        return self.control(run_id).is_paused

    def pause(self, run_id: str | None = None, reason: str | None = None) -> bool:
        """Let what runs end, start nothing more, and leave the run paused; see `Steered`."""
        return self.control(run_id).pause(reason)

    def set_paused(self, paused: bool, run_id: str | None = None) -> bool:
        """Document 001's spelling of `pause`, and of taking it back."""
        return self.control(run_id).pause() if paused else self.control(run_id).resume()

    def cancel(self, run_id: str | None = None, reason: str | None = None) -> bool:
        """Cancel a run; *reason* is kept with every node that is cancelled.

        `resume` goes on with it: its cancelled nodes are pending again then.
        """
        return self.control(run_id).cancel(reason)

    def pause_branch(self, run_id: str, branch: str, reason: str | None = None) -> bool:
        """Start nothing more of a branch: a node with its descendants, or a label."""
        return self.control(run_id).pause_branch(branch, reason)

    def resume_branch(self, run_id: str, branch: str) -> bool:
        """Let a paused branch go on; of a run that stands still, with its next `resume`."""
        return self.control(run_id).resume_branch(branch)

    def cancel_branch(self, run_id: str, branch: str, reason: str | None = None) -> bool:
        """Cancel what is reachable only through a branch."""
        return self.control(run_id).cancel_branch(branch, reason)

    def enable_nodes(self, run_id: str, ids: Iterable[str]) -> bool:
        """Enable nodes that have not started."""
        return self.control(run_id).enable_nodes(ids)

    def disable_nodes(self, run_id: str, ids: Iterable[str]) -> bool:
        """Disable nodes that have not started: they are skipped."""
        return self.control(run_id).disable_nodes(ids)

    def submit_human_input(
        self, run_id: str, node_id: str, value: Any, by: str | None = None
    ) -> bool:
        """Answer a node that waits for a person; see `Steered.answer`."""
        return self.control(run_id).answer(node_id, value, by=by)

    def approve(self, run_id: str, branch: str, by: str | None = None) -> bool:
        """Let a branch that waits for an approval go on; see `Steered.approve`."""
        return self.control(run_id).approve(branch, by)

    def reject(
        self, run_id: str, branch: str, reason: str | None = None, by: str | None = None
    ) -> bool:
        """Cancel a branch that waits for an approval; see `Steered.reject`."""
        return self.control(run_id).reject(branch, reason, by)

    # --- recovery and snapshots ------------------------------------------------------------------

    @classmethod
    def recover(
        cls,
        run: str,
        registry: Any = None,
        database_url: str | os.PathLike[str] = "sqlite::memory:",
        config: DagConfig | Mapping[str, Any] | None = None,
    ) -> DagExecutor:
        """Return an executor for a run that an earlier process left; `resume` goes on with it.

        Args:
            run: The run's id, or a graph's name, which means its newest run that has not ended.
            registry, database_url, config: As in the constructor.

        Raises:
            RunNotFound: There is none.
        """
        executor = cls(config, registry, database_url)
        try:
            stored = unfinished_run(executor._store, run)
            executor.load(stored.graph)
        except BaseException:
            executor.close()
            raise
        executor._newest = stored.run_id
        return executor

    #: Document 001's name of `recover`.
    recover_from_snapshot = recover

    def recover_all(
        self, dag_name: str | None = None, runner: str = "threads", **options: Any
    ) -> list[RunHandle]:
        """Go on with all runs whose process died, in the background and at the same time.

        Owners on this host are known to be dead at once; those on other hosts are watched for one
        lease. A run that another process takes up meanwhile is left to it.

        Args:
            dag_name: Only runs of this graph.
            runner, options: As in `run`.

        Returns:
            A handle for each, the oldest run first. What keeps a run from going on, such as an
            action that is not registered here, is raised by its handle's `result`.
        """
        registry = self._catalogue.everything()
        settings = self._options(runner, None, options, Values(None))
        found = []
        for orphan in reversed(self._store.orphans(dag_name)):
            try:
                found.append(self._go_on(orphan.run_id, registry, settings))
            except RunOwned:  # somebody else was faster, and goes on with it
                continue
            except DaggerError as error:
                tags = {"run_id": orphan.run_id, "dag_name": orphan.flow_name}
                logger.error("run %s cannot go on: %s", orphan.run_id, error, extra=tags)
                failed = RunHandle(orphan.run_id, orphan.flow_name)
                failed._finish(None, error)
                found.append(failed)
        return found

    def save_execution_snapshot(self, run: str) -> str:
        """Save how a run stands, and return the snapshot's id.

        The journal is always up to date; nothing depends on a snapshot.

        Args:
            run: The run's id, or a graph's name, which means its newest run.

        Raises:
            RunNotFound: There is none.
        """
        stored = recorded_run(self._store, run)
        value = standing_of(stored)
        return self._store.save_snapshot(stored.flow_name, value, stored.run_id, "execution")

    def save_cache_snapshot(self, name: str, cache: Cache | None = None) -> str:
        """Save the values of a cache, and return the snapshot's id.

        Args:
            name: A graph's name, or a run's id.
            cache: What to save; the values of that run, or of the graph's newest one, when None.

        Raises:
            RunNotFound: There is no run to take the values from.
            EncodingError: A value has no stored form.
        """
        check_run_values(None, cache)
        if cache is not None:
            return self._store.save_snapshot(name, cache.to_dict())
        stored = recorded_run(self._store, name)
        values = values_of(stored, self._catalogue.everything())
        return self._store.save_snapshot(stored.flow_name, values, stored.run_id)

    def load_cache_snapshot(self, name: str, snapshot: str | None = None) -> Cache:
        """Return a cache as it was saved; without a saved one, the values of the newest run.

        Args:
            name: A graph's name, or a run's id.
            snapshot: This snapshot; the newest one when None.

        Raises:
            SnapshotNotFound: There is no such snapshot.
            RunNotFound: There is neither a snapshot nor a run.
        """
        from dagger_dsl.store.cache import Cache

        chosen = newest_snapshot(self._store, name) if snapshot is None else snapshot
        if chosen is not None:
            return Cache(self._store.load_snapshot(snapshot_id=chosen))
        return Cache(values_of(recorded_run(self._store, name), self._catalogue.everything()))

    def list_snapshots(
        self, name: str | None = None, kind: Literal["cache", "execution"] | None = None
    ) -> list[SnapshotInfo]:
        """Return what is known of snapshots, the newest first.

        Args:
            name: Only those of this graph.
            kind: Only those of this kind.
        """
        return self._store.list_snapshots(name, kind)

    def execute_dag(
        self, spec: WorkflowSpec, cache: Cache | None = None, cancel: CancelSignal | None = None
    ) -> RunReport:
        """Document 003's spelling of `run`."""
        return self.run(_name_in(spec), cache=cache, cancel=cancel)

    def execute_static_dag(
        self, name: str, cache: Cache | None = None, cancel: CancelSignal | None = None
    ) -> RunReport:
        """Documents 001 and 004's spelling of `run`."""
        return self.run(name, cache=cache, cancel=cancel)

    def execute_dag_sequential(
        self, name: str, cache: Cache | None = None, cancel: CancelSignal | None = None
    ) -> RunReport:
        """Document 000's spelling of `run` with the sequential runner."""
        return self.run(name, cache=cache, cancel=cancel, runner="sequential")

    def serialize_tree_to_dot(self, name: str) -> str:
        """Return a loaded graph with its latest run, or a recorded run, as DOT.

        Args:
            name: A loaded graph's name or ``name@version``, or the id of a run.

        Raises:
            DagNotFound: It is neither.
        """
        entry = self._catalogue.find(name)
        if entry is None:
            return self._recorded_dot(name)
        runs = self._store.list_runs(flow_name=entry.graph.name, limit=1)
        if not runs:
            return entry.graph.to_dot({})
        states = _stored_states(self._store.load_run(runs[0].run_id))
        return entry.graph.to_dot(states)

    def _recorded_dot(self, run_id: str) -> str:
        try:
            stored = self._store.load_run(run_id)
        except RunNotFound:
            raise self._catalogue.unknown(run_id) from None
        return graph_now(stored.graph, stored.commands).to_dot(_stored_states(stored))

    def doctor(self, dag: str | Graph | Compilable) -> Diagnosis:
        """Look for everything that can keep a graph from running here; print the answer.

        Looked at are: whether it is loaded, its actions, dependencies, cycles, inputs and types,
        what `Graph.lint` warns of, the database, and how the newest run stands. Nothing is run.
        A run whose owner is on another host is watched for one lease.

        Args:
            dag: A loaded graph's name or ``name@version``, or a graph or DAG of yours.

        Returns:
            The findings, each with its way out; whatever is wrong is one of them, and not raised.
        """
        from dagger_dsl.executor._doctor import diagnose  # most programs never ask

        return diagnose(dag, self._catalogue, self._store, self._config)

    def get_execution_metrics(
        self, dag_or_run_id: str | Graph | Compilable | RunReport
    ) -> ExecutionMetrics:
        """Return what a run took: times of its nodes, calls, hits of its caches.

        Args:
            dag_or_run_id: The id of a recorded run, or a report; or a graph, by its name or itself,
                for its newest run.

        Raises:
            DagNotFound: There is neither a run of this id nor a graph of this name.
            RunNotFound: The graph has no run yet.
        """
        return self._told_of(dag_or_run_id).metrics()

    def get_node_state(
        self, dag_or_run_id: str | Graph | Compilable | RunReport, node_id: str
    ) -> NodeSnapshot:
        """Return how a node of a run stands: ``status``, ``attempts``, ``last_error`` and more.

        Args:
            dag_or_run_id: Which run; see `get_execution_metrics`.
            node_id: The node.

        Raises:
            NodeNotFound: The run's graph has no such node.
            DagNotFound, RunNotFound: As `get_execution_metrics`.
        """
        return self._told_of(dag_or_run_id).node(node_id)

    def _told_of(self, which: Any) -> Told:
        from dagger_dsl.executor._metrics import told_of  # most programs never ask

        return told_of(which, self._catalogue, self._store)

    # --- what running needs ----------------------------------------------------------------------

    def _chosen(self, run_id: str | None) -> str:
        if run_id is not None and not isinstance(run_id, str):
            raise ConfigurationError(
                f"a run is named by its id, a text, not {run_id!r}; a cache is given as cache=..."
            )
        chosen = self._newest if run_id is None else run_id
        if chosen is None:
            raise InvalidState("no run was made here yet; say which one is meant by its run_id")
        return chosen

    def _recorded(self, run_id: str, registry: Registry | None = None) -> RunControl:
        from dagger_dsl.engine.remote import RunControl  # most runs are steered by nobody

        return RunControl(self._store, run_id, registry)

    def _has_run(self, run_id: str | None) -> bool:
        try:
            return run_id is not None and bool(self._recorded(run_id).status)
        except RunNotFound:
            return False

    @contextmanager
    def _making(self, run_id: str | None) -> Iterator[None]:
        """Call a run the newest one while and after it is made, unless it cannot be."""
        before, self._newest = self._newest, run_id
        try:
            yield
        except (ConfigurationError, InputError, RunExists, ValidationError):
            self._newest = before
            raise

    def _go_on(
        self,
        run_id: str,
        registry: Registry,
        settings: RunOptions,
        inputs: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
    ) -> RunHandle:
        """Resume a run in the background."""
        hand_over(self._recorded(run_id), self._store, cache)
        handle = engine.start_resume(run_id, registry, settings, inputs, self._store)
        return self._started(handle)

    def _started(self, handle: RunHandle) -> RunHandle:
        self._last = self._handles[handle.run_id] = handle
        self._newest = handle.run_id
        return handle

    def _options(
        self,
        runner: str,
        cancel: CancelSignal | None,
        options: Mapping[str, Any],
        values: Values,
    ) -> RunOptions:
        given: dict[str, Any] = {"runner": runner, "cancel": cancel, **options}
        given.setdefault("resources", self._resources)
        if "database_url" in given:
            raise ConfigurationError(
                "an executor records all of its runs in one database: DagExecutor(database_url=...)"
            )
        if values.cache is not None:
            hooks = given.get("hooks") or ()
            # Hooks that are no list are refused by `RunOptions`, in its words.
            given["hooks"] = [*hooks, values] if isinstance(hooks, Iterable) else hooks
        settings = RunOptions.of({**given, "database_url": self._url})
        # Named here, so that the newest run can be steered while it goes on.
        named = settings.run_id is not None
        return settings if named else attrs.evolve(settings, run_id=new_id())

    def _ended(self, report: RunReport, registry: Registry, values: Values) -> RunReport:
        self._last, self._newest = report, report.run_id
        values.fill(report, registry)
        return report


def _name_in(spec: object) -> str:
    if isinstance(spec, WorkflowSpec):
        return spec.name
    raise ConfigurationError(
        "execute_dag() takes a WorkflowSpec, such as WorkflowSpec.static('name'), "
        f"not {spec!r}; run() takes a name or a graph"
    )


def _objects(what: str, kind: type, given: Any) -> tuple[Any, ...]:
    found = tuple(given) if isinstance(given, Iterable) else (given,)
    for each in found:
        if not isinstance(each, kind):
            raise ConfigurationError(
                f"{what} of a node are a list of {kind.__name__} objects, not {given!r}"
            )
    return found


def _stored_states(stored: Any) -> dict[str, str]:
    return {node.node_id: node.state for node in stored.nodes.values()}
