"""`DagExecutor`: the catalogue of loaded graphs, and the documents' façade over the one engine.

It keeps graphs by name and version, a registry, a store and a configuration, and hands them to
`dagger_dsl.engine`. Graphs are values: a method that changes one puts another in its place, and a
run that has started keeps the one it has. An executor may be used from any thread.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import attrs

from dagger_dsl import engine
from dagger_dsl.engine.control import RunHandle
from dagger_dsl.engine.report import RunReport
from dagger_dsl.errors import (
    ConfigurationError,
    DaggerError,
    DagNotFound,
    DependencyNotFound,
    NodeAlreadyExists,
    RegistryError,
    RunNotFound,
)
from dagger_dsl.model.commands import NodeSpec, input_from
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import HookContext
from dagger_dsl.model.graph import RESULT, Graph, Node, missing_dependency
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.registry import ActionDef, Registry, as_registry
from dagger_dsl.store.storage import Store

if TYPE_CHECKING:
    from dagger_dsl.model.protocols import CancelSignal
    from dagger_dsl.store.cache import Cache
    from dagger_dsl.yamlio import GraphList

__all__ = ["DagExecutor", "DagMetadata", "WorkflowSpec"]


@attrs.frozen
class DagMetadata:
    """What a graph says about itself.

    Attributes:
        name, version, author, description, tags, signature: Those of the graph.
    """

    name: str
    version: str
    author: str
    description: str
    tags: frozenset[str]
    signature: str


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


class Compilable(Protocol):
    """A draft of a graph, such as a `DAG`."""

    def compile(self) -> Graph:
        """Return the graph."""
        ...


class _Entry(NamedTuple):
    """A loaded graph with where its actions are looked up."""

    graph: Graph
    registry: Registry


class DagExecutor:
    """Loads graphs, runs them, and finds their runs again.

    Use it as a context manager, or `close` it: that releases the database.

    Args:
        config: What graphs that say nothing are run with: a `DagConfig`, a mapping of its fields,
            or None for the defaults.
        registry: Where actions are looked up: a `Registry`, a mapping of names to functions or a
            module; None takes the registry in force, and keeps what is registered here apart.
        database_url: Where runs are recorded; every spelling of the documents is understood.

    Raises:
        ConfigurationError: One of these cannot work.
    """

    def __init__(
        self,
        config: DagConfig | Mapping[str, Any] | None = None,
        registry: Any = None,
        database_url: str | os.PathLike[str] = "sqlite::memory:",
    ) -> None:
        if config is not None and not isinstance(config, DagConfig):
            config = DagConfig.from_dict(config)
        self._config = config if config is not None else DagConfig()
        known = as_registry(registry)
        self._registry = Registry(parent=known) if registry is None else known
        self._store = Store(database_url)
        self._url = os.fspath(database_url)
        self._lock = threading.RLock()
        self._entries: dict[str, dict[str, _Entry]] = {}
        self._serial = itertools.count(1)
        self._last: RunReport | RunHandle | None = None

    def __enter__(self) -> DagExecutor:
        self._store.init_database()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Runs that have not ended stay resumable."""
        self._store.close()

    def __repr__(self) -> str:
        return f"<DagExecutor: {len(self._entries)} graphs, {self._store.database.where}>"

    @property
    def registry(self) -> Registry:
        """Where actions are looked up."""
        return self._registry

    @property
    def config(self) -> DagConfig:
        """What graphs that say nothing are run with."""
        return self._config

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
        with self._lock:
            return MappingProxyType(
                {name: _newest(versions).graph for name, versions in self._entries.items()}
            )

    @property
    def dags(self) -> Mapping[str, Graph]:
        """The documents' name of `graphs`."""
        return self.graphs

    def load(self, dag: Graph | Compilable) -> Graph:
        """Add a graph, or what compiles to one, and return it.

        A graph of the same name and version is replaced. A `DAG` brings the actions it was built
        with.
        """
        graph, registry = self._opened(dag)
        with self._lock:
            versions = self._entries.setdefault(graph.name, {})
            versions.pop(graph.version, None)  # so that it becomes the newest
            versions[graph.version] = _Entry(graph, registry)
        return graph

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
        with self._lock:
            if name in self._entries:
                raise RegistryError(
                    f"a graph {name!r} is loaded already; add nodes to it, or take another name"
                )
            return self.load(Graph(name, **fields))

    def has_dag(self, name: str) -> bool:
        """Return whether a graph is loaded, by its name or by ``name@version``."""
        return self._find(name) is not None

    def list_dags(self) -> list[str]:
        """Return the names of the loaded graphs, sorted."""
        with self._lock:
            return sorted(self._entries)

    def list_versions(self, name: str) -> list[str]:
        """Return the versions of a loaded graph, the newest last.

        Raises:
            DagNotFound: It is not loaded.
        """
        with self._lock:
            if name not in self._entries:
                raise self._unknown(name)
            return list(self._entries[name])

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
        if isinstance(tags, str):
            raise ConfigurationError(f"tags are a list of words, not the text {tags!r}")
        wanted = frozenset(tags)
        if match == "all":
            return sorted(name for name, graph in self.graphs.items() if wanted <= graph.tags)
        if match == "any":
            return sorted(name for name, graph in self.graphs.items() if wanted & graph.tags)
        raise ConfigurationError(f"match is 'all' or 'any', not {match!r}")

    def get_dag(self, name: str) -> Graph:
        """Return a loaded graph: the newest by its name, or one version by ``name@version``.

        Raises:
            DagNotFound: It is not loaded; the message lists what is.
        """
        return self._entry(name).graph

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

    def _find(self, name: str) -> _Entry | None:
        with self._lock:
            if name in self._entries:
                return _newest(self._entries[name])
            base, at, version = name.rpartition("@")
            return self._entries.get(base, {}).get(version) if at else None

    def _entry(self, name: str) -> _Entry:
        found = self._find(name)
        if found is None:
            raise self._unknown(name)
        return found

    def _unknown(self, name: str) -> DagNotFound:
        with self._lock:
            known = list(self._entries)
            base = name.rpartition("@")[0]
            known += [f"{base}@{version}" for version in self._entries.get(base, ()) if version]
        return DagNotFound(name, known)

    def _opened(self, dag: Graph | Compilable) -> _Entry:
        """Return a graph with the registry that knows its actions."""
        if isinstance(dag, Graph):
            return _Entry(dag, self._registry)
        compiled = getattr(dag, "compile", None)
        graph = compiled() if callable(compiled) else None
        if not isinstance(graph, Graph):
            raise ConfigurationError(f"a Graph or a DAG is loaded and run, not {dag!r}")
        own = getattr(dag, "registry", None)
        if own is None or own is self._registry:
            return _Entry(graph, self._registry)
        registry = Registry(parent=self._registry)
        _bring(registry, graph, own)
        return _Entry(graph, registry)

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
        node = Node(node_id, action, dependencies=dependencies, **fields)
        with self._lock:
            if create and not self.has_dag(dag_name):
                self.create_dag(dag_name)
            self._grow(dag_name, [node])
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
        with self._lock:
            taken = set(self.get_dag(dag_name).nodes)
            taken.update(spec.id for spec in specs if spec.id is not None)
            nodes = []
            for spec in specs:
                node_id = spec.id if spec.id is not None else _free_id(spec.action, taken)
                taken.add(node_id)
                nodes.append(spec.to_node(node_id))
            self._grow(dag_name, nodes)
        return [node.id for node in nodes]

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
        with self._lock:
            entry = self._entry(dag_name)
            node = entry.graph.node(node_id)
            fields = {each.name: each for each in node.inputs}
            fields |= {name: input_from(name, value) for name, value in inputs.items()}
            changed = node.replace(inputs=tuple(fields.values()))
            nodes = {**entry.graph.nodes, node_id: changed}
            self._put(entry, entry.graph.replace(nodes=nodes))
        return changed

    set_node_inputs_json = set_node_inputs

    def gen_node_id(self, prefix: str) -> str:
        """Return an id that no node of a loaded graph has and that was not given out before."""
        with self._lock:
            while True:
                node_id = f"{prefix}_{next(self._serial)}"
                if not any(
                    node_id in entry.graph.nodes
                    for versions in self._entries.values()
                    for entry in versions.values()
                ):
                    return node_id

    def register_action(self, name: str, fn: Any, replace: bool = False) -> ActionDef:
        """Register an action in this executor's registry.

        Raises:
            RegistryError: The name is taken.
        """
        return self._registry.register_fn(name, fn, replace)

    def _grow(self, dag_name: str, nodes: Sequence[Node]) -> None:
        entry = self._entry(dag_name)
        table = dict(entry.graph.nodes)
        for node in nodes:
            if table.setdefault(node.id, node) != node:
                raise NodeAlreadyExists(node.id)
        self._put(entry, entry.graph.replace(nodes=table))

    def _put(self, before: _Entry, graph: Graph) -> None:
        """Put a changed graph in the place of one; refuse what can never run."""
        missing = [
            missing_dependency(node.id, source, graph.nodes)
            for node in graph.nodes.values()
            for source in node.dependencies
            if source not in graph.nodes
        ]
        if missing:
            raise DependencyNotFound(missing)
        graph.topological_order()
        versions = self._entries[graph.name]
        versions[graph.version] = before._replace(graph=graph)

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
        **options: Any,
    ) -> RunReport:
        """Run a graph and wait for its end.

        Args:
            dag: A loaded graph's name or ``name@version``, or a graph or DAG of yours.
            inputs: Values of its inputs by name.
            cache: Values under ``inputs`` are inputs too, and results are written into it.
            runner: ``threads``, ``sequential`` or ``asyncio``.
            cancel: A token that ends the run when it is cancelled.
            dry_run: Whether to validate and print the plan only; no action is called.
            **options: Those of `RunOptions`: max_workers, timeout, durability, run_id, hooks...

        Returns:
            The report, whatever became of the nodes.

        Raises:
            DagNotFound, ValidationError, InputError, ConfigurationError: Nothing has run.
            StoreError: The run cannot be recorded; it stays resumable.
        """
        entry = self._entry(dag) if isinstance(dag, str) else self._opened(dag)
        given = self._inputs(entry, inputs, cache)
        values = _Values(cache)
        settings = self._options(runner, cancel, options, values)
        if dry_run:
            return self._dry_run(entry, given, settings)
        report = engine.run(entry.graph, entry.registry, given, settings, self._config, self._store)
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
        **options: Any,
    ) -> RunReport:
        """Run a graph on the running event loop; see `run`."""
        entry = self._entry(dag) if isinstance(dag, str) else self._opened(dag)
        given = self._inputs(entry, inputs, cache)
        values = _Values(cache)
        settings = self._options(runner, cancel, options, values)
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
        entry = self._entry(dag) if isinstance(dag, str) else self._opened(dag)
        settings = self._options(runner, cancel, options, _Values(None))
        self._last = engine.start(
            entry.graph, entry.registry, inputs, settings, self._config, self._store
        )
        return self._last

    def resume(
        self,
        run_id: str,
        inputs: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
        runner: str = "threads",
        cancel: CancelSignal | None = None,
        **options: Any,
    ) -> RunReport:
        """Go on with a recorded run where it stands; completed nodes are not called again.

        Args:
            run_id: The run.
            inputs: Secrets, which are never stored and have to be given again.
            cache, runner, cancel, **options: As in `run`.

        Raises:
            RunNotFound: The store has no such run.
            RunOwned: Another process works on it.
            ActionNotFound: An action of the recorded graph is registered nowhere here.
        """
        registry = self._everything()
        values = _Values(cache)
        settings = self._options(runner, cancel, options, values)
        report = engine.resume(run_id, registry, settings, inputs, self._store)
        return self._ended(report, registry, values)

    def is_paused(self, run_id: str | None = None) -> bool:
        """Return whether a run stands still; without an id, the last one that was made here.

        Raises:
            RunNotFound: The store has no such run.
        """
        if run_id is not None:
            return self._store.load_run(run_id).status == RunStatus.PAUSED
        last = self.execution_context
        return last is not None and last.status is RunStatus.PAUSED

    def execute_dag(
        self, spec: WorkflowSpec, cache: Cache | None = None, cancel: CancelSignal | None = None
    ) -> RunReport:
        """Document 003's spelling of `run`."""
        return self.run(spec.name, cache=cache, cancel=cancel)

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
        entry = self._find(name)
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
            raise self._unknown(run_id) from None
        return stored.graph.to_dot(_stored_states(stored))

    # --- what running needs ----------------------------------------------------------------------

    def _options(
        self,
        runner: str,
        cancel: CancelSignal | None,
        options: Mapping[str, Any],
        values: _Values,
    ) -> RunOptions:
        given: dict[str, Any] = {"runner": runner, "cancel": cancel, **options}
        if "database_url" in given:
            raise ConfigurationError(
                "an executor records all of its runs in one database: DagExecutor(database_url=...)"
            )
        if values.cache is not None:
            given["hooks"] = [*given.get("hooks", ()), values]
        return RunOptions.of({**given, "database_url": self._url})

    def _inputs(
        self, entry: _Entry, inputs: Mapping[str, Any] | None, cache: Cache | None
    ) -> Mapping[str, Any] | None:
        """Return the inputs of a run: those of the cache that the graph has, then those given."""
        if cache is None:
            return inputs
        wanted = set(entry.graph.inputs)
        for node in entry.graph.nodes.values():
            for each in node.inputs:
                if each.source is not None and each.source[0] == "inputs":
                    wanted.add(each.source[1])
        values = cache["inputs"]
        return {name: values[name] for name in wanted if name in values} | dict(inputs or {})

    def _ended(self, report: RunReport, registry: Registry, values: _Values) -> RunReport:
        self._last = report
        values.fill(report, registry)
        return report

    def _everything(self) -> Registry:
        """Return a registry of all actions that loaded DAGs brought, and of this executor's."""
        found = Registry(parent=self._registry)
        with self._lock:
            for versions in self._entries.values():
                for entry in versions.values():
                    if entry.registry is not self._registry:
                        _bring(found, entry.graph, entry.registry)
        return found

    def _dry_run(
        self, entry: _Entry, inputs: Mapping[str, Any] | None, options: RunOptions
    ) -> RunReport:
        from dagger_dsl.engine.inputs import bind_inputs
        from dagger_dsl.engine.launch import plan_for

        graph = entry.graph
        plan = plan_for(graph, entry.registry)
        config = DagConfig.merge(DagConfig.merge(self._config, graph.config), options.config)
        values = bind_inputs(plan, inputs, config.on_missing)
        print(f"dry run of {graph.name!r}: {len(graph.nodes)} nodes, nothing is called")
        for step, level in enumerate(graph.levels(), 1):
            names = ", ".join(
                each if each == graph.nodes[each].action else f"{each} ({graph.nodes[each].action})"
                for each in level
            )
            print(f"  {step}. {names}")
        return _untouched(graph, values)


def _newest(versions: dict[str, _Entry]) -> _Entry:
    return versions[next(reversed(versions))]


def _bring(registry: Registry, graph: Graph, source: Registry) -> None:
    """Register what *source* has of the actions, handlers and fallbacks that a graph uses."""
    names = {
        name: None
        for node in graph.nodes.values()
        for name in (node.action, node.failure, node.fallback)
        if name is not None
    }
    for name in list(names):
        action = source.get(name)
        if action is not None:
            for other in (action.failure_name, action.fallback_name):
                if other is not None:
                    names[other] = None
    for name in names:
        action = source.get(name)
        if action is not None:
            registry.register(action, replace=True)


def _free_id(action: str, taken: set[str]) -> str:
    if action not in taken:
        return action
    return next(each for n in itertools.count(2) if (each := f"{action}_{n}") not in taken)


def _stored_states(stored: Any) -> dict[str, str]:
    return {node.node_id: node.state for node in stored.nodes.values()}


class _Values:
    """Fills the cache that a run was given with the run's values, as the documents read them.

    A hook is shown a run's own cache, in which also is what functions of the old form inserted.
    """

    wants_starts = False

    def __init__(self, cache: Cache | None) -> None:
        self.cache = cache
        self._reader: Any = None

    def on_start(self, ctx: HookContext) -> None:
        """Keep the run's cache."""
        self._reader = ctx.cache

    def handle(self, ctx: HookContext, event: Any) -> None:
        """Nothing is done with events."""

    def fill(self, report: RunReport, registry: Registry) -> None:
        """Write inputs, outputs, errors and whatever was inserted into the cache."""
        if self.cache is None:
            return
        found = _recorded(report, registry) if self._reader is None else self._reader.to_dict()
        for namespace, values in found.items():
            for key, value in values.items():
                self.cache.insert(namespace, key, value)


def _recorded(report: RunReport, registry: Registry) -> dict[str, dict[str, Any]]:
    """Return the values of a run that had nothing left to do."""
    from dagger_dsl.engine.launch import plan_for

    plan = plan_for(report.graph, registry)
    found = {"inputs": dict(report.inputs)}
    for node_id, value in report.values.items():
        slot = plan.index[node_id]
        whole = {} if slot in plan.parts else {RESULT: value}
        found[node_id] = {**whole, **plan.outputs_of(slot, value)}
    return found


def _untouched(graph: Graph, inputs: Mapping[str, Any]) -> RunReport:
    """Return the report of a run in which nothing was called."""
    from dagger_dsl.engine.report import NodeReport

    def no_value(node_id: str) -> Any:
        raise KeyError(node_id)

    return RunReport(
        run_id="dry-run",
        dag_name=graph.name,
        graph=graph,
        status=RunStatus.PAUSED,
        inputs=inputs,
        reason="dry run: nothing was called",
        states=lambda: dict.fromkeys(graph.nodes, NodeState.PENDING),
        node=lambda node_id: NodeReport(node_id, NodeState.PENDING),
        value=no_value,
    )
