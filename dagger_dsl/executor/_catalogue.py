"""The catalogue: loaded graphs by name and version, each with the registry of its actions.

It adds, finds and changes graphs before they run, one caller at a time, and refuses a change after
which a graph could never run. It reads no files and runs nothing.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import attrs

from dagger_dsl.errors import (
    ConfigurationError,
    DagNotFound,
    DependencyNotFound,
    NodeAlreadyExists,
    RegistryError,
    did_you_mean,
)
from dagger_dsl.model.commands import NodeSpec, with_inputs
from dagger_dsl.model.graph import Graph, Node, missing_dependency
from dagger_dsl.registry import Registry

if TYPE_CHECKING:
    from dagger_dsl.registry._workflow import KeptWorkflow, WorkflowDef

__all__ = ["Catalogue", "Compilable", "DagMetadata", "Entry", "check_fields"]


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


class Compilable(Protocol):
    """A draft of a graph, such as a `DAG`."""

    def compile(self) -> Graph:
        """Return the graph."""
        ...


class Entry(NamedTuple):
    """A loaded graph with where its actions are looked up."""

    graph: Graph
    registry: Registry


class _Loaded:
    """A loaded graph as the body of a node.

    Attributes:
        name: What nodes call it.
        registry: Where its actions, and the workflows in it, are looked up.
    """

    def __init__(self, name: str, entry: Entry) -> None:
        self.name = name
        self.registry = entry.registry
        self.entry = entry

    def compile(self) -> Graph:
        """Return the graph."""
        return self.entry.graph


class _Common(Registry):
    """What all loaded graphs may use: the actions of an executor, and each other as bodies.

    Args:
        parent: The executor's own registry.
        catalogue: Knows the graphs.
    """

    def __init__(self, parent: Registry, catalogue: Catalogue) -> None:
        super().__init__(parent)
        self._catalogue = catalogue
        self._bodies: dict[str, KeptWorkflow] = {}

    def get_workflow(self, name: str) -> WorkflowDef | None:
        """Return a workflow that a registry knows, else a loaded graph, as the body of a node."""
        found = super().get_workflow(name)
        if found is not None:
            return found
        entry = self._catalogue.find(name)
        if entry is None:
            return None
        kept = self._bodies.get(name)
        known = None if kept is None else kept.workflow
        if kept is None or not isinstance(known, _Loaded) or known.entry is not entry:
            from dagger_dsl.registry._workflow import KeptWorkflow  # most graphs nest nothing

            kept = self._bodies[name] = KeptWorkflow(_Loaded(entry.graph.name, entry))
        return kept.definition()

    def list_workflows(self) -> list[str]:
        """Return the names of all workflows and loaded graphs, sorted."""
        return sorted({*super().list_workflows(), *self._catalogue.names()})


class Catalogue:
    """Loaded graphs, newest version last. It may be used from any thread.

    Args:
        registry: Where the actions of graphs that bring none are looked up.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._common = _Common(registry, self)
        self._lock = threading.RLock()
        self._entries: dict[str, dict[str, Entry]] = {}
        self._serial = itertools.count(1)

    def __len__(self) -> int:
        return len(self._entries)

    def graphs(self) -> Mapping[str, Graph]:
        """Return the newest version of each graph by name."""
        with self._lock:
            return MappingProxyType(
                {name: _newest(versions).graph for name, versions in self._entries.items()}
            )

    def load(self, dag: Graph | Compilable) -> Graph:
        """Add a graph in the place of one of its name and version."""
        graph, registry = self.opened(dag)
        with self._lock:
            versions = self._entries.setdefault(graph.name, {})
            versions.pop(graph.version, None)  # so that it becomes the newest
            versions[graph.version] = Entry(graph, registry)
        return graph

    def create(self, name: str, fields: Mapping[str, Any]) -> Graph:
        """Add a graph without nodes, unless one of its name is there."""
        check_name(name)
        check_fields("a graph", Graph, fields, besides=("name",))
        with self._lock:
            if name in self._entries:
                raise RegistryError(
                    f"a graph {name!r} is loaded already; add nodes to it, or take another name"
                )
            return self.load(Graph(name, **fields))

    def names(self) -> list[str]:
        """Return the names, sorted."""
        with self._lock:
            return sorted(self._entries)

    def versions(self, name: str) -> list[str]:
        """Return the versions of a graph, the newest last."""
        check_name(name)
        with self._lock:
            if name not in self._entries:
                raise self.unknown(name)
            return list(self._entries[name])

    def tagged(self, tags: Iterable[str], match: Literal["all", "any"]) -> list[str]:
        """Return the names of the graphs that carry all or any of *tags*, sorted."""
        if isinstance(tags, str):
            raise ConfigurationError(f"tags are a list of words, not the text {tags!r}")
        words: list[Any] = list(tags) if isinstance(tags, Iterable) else [tags]
        if not all(isinstance(each, str) for each in words):
            raise ConfigurationError(f"tags are a list of words, not {tags!r}")
        wanted = frozenset(words)
        if match == "all":
            return sorted(name for name, graph in self.graphs().items() if wanted <= graph.tags)
        if match == "any":
            return sorted(name for name, graph in self.graphs().items() if wanted & graph.tags)
        raise ConfigurationError(f"match is 'all' or 'any', not {match!r}")

    def find(self, name: str) -> Entry | None:
        """Return what is loaded under a name or ``name@version``, None where nothing is."""
        check_name(name)
        with self._lock:
            if name in self._entries:
                return _newest(self._entries[name])
            base, at, version = name.rpartition("@")
            return self._entries.get(base, {}).get(version) if at else None

    def entry(self, name: str) -> Entry:
        """Return what is loaded under a name or ``name@version``; refuse an unknown one."""
        found = self.find(name)
        if found is None:
            raise self.unknown(name)
        return found

    def unknown(self, name: str) -> DagNotFound:
        """Return the error that *name* is not loaded; it lists what is."""
        with self._lock:
            known = list(self._entries)
            base = name.rpartition("@")[0]
            known += [f"{base}@{version}" for version in self._entries.get(base, ()) if version]
        return DagNotFound(name, known)

    def opened(self, dag: Graph | Compilable) -> Entry:
        """Return a graph with the registry that knows its actions."""
        if isinstance(dag, Graph):
            return Entry(dag, self._common)
        compiled = getattr(dag, "compile", None)
        graph = compiled() if callable(compiled) else None
        if not isinstance(graph, Graph):
            raise ConfigurationError(f"a Graph or a DAG is loaded and run, not {dag!r}")
        own = getattr(dag, "registry", None)
        if own is None or own is self._registry:
            return Entry(graph, self._common)
        registry = Registry(parent=self._common)
        _bring(registry, graph, own)
        return Entry(graph, registry)

    def everything(self) -> Registry:
        """Return a registry of all actions that loaded drafts brought, over the common one."""
        found = Registry(parent=self._common)
        with self._lock:
            for versions in self._entries.values():
                for entry in versions.values():
                    if entry.registry is not self._common:
                        _bring(found, entry.graph, entry.registry)
        return found

    # --- changing graphs -------------------------------------------------------------------------

    def add_node(self, dag_name: str, node: Node, create: bool) -> None:
        """Add a node to a graph; *create* makes a graph that is not there."""
        with self._lock:
            if create and self.find(dag_name) is None:
                self.create(dag_name, {})
            self._grow(dag_name, [node])

    def add_nodes(self, dag_name: str, specs: Sequence[NodeSpec]) -> list[str]:
        """Add several nodes to a graph, all or none, and return their ids."""
        listed = isinstance(specs, Iterable)
        specs = list(specs) if listed else specs
        if not listed or not all(isinstance(each, NodeSpec) for each in specs):
            raise ConfigurationError(f"nodes are added by a list of NodeSpec, not {specs!r}")
        with self._lock:
            taken = set(self.entry(dag_name).graph.nodes)
            taken.update(spec.id for spec in specs if spec.id is not None)
            nodes = []
            for spec in specs:
                node_id = spec.id if spec.id is not None else _free_id(spec.action, taken)
                taken.add(node_id)
                nodes.append(spec.to_node(node_id))
            self._grow(dag_name, nodes)
        return [node.id for node in nodes]

    def set_inputs(self, dag_name: str, node_id: str, inputs: Mapping[str, Any]) -> Node:
        """Give inputs of a node new values and return the node."""
        if not isinstance(inputs, Mapping):
            raise ConfigurationError(f"inputs are a mapping of names to values, not {inputs!r}")
        with self._lock:
            entry = self.entry(dag_name)
            node = entry.graph.node(node_id)
            changed = with_inputs(node, inputs)
            nodes = {**entry.graph.nodes, node_id: changed}
            self._put(entry, entry.graph.replace(nodes=nodes))
        return changed

    def free_id(self, prefix: str) -> str:
        """Return an id that no node has and that was not given out before."""
        if not isinstance(prefix, str):
            raise ConfigurationError(f"an id begins with a text, not {prefix!r}")
        with self._lock:
            while True:
                node_id = f"{prefix}_{next(self._serial)}"
                if not any(
                    node_id in entry.graph.nodes
                    for versions in self._entries.values()
                    for entry in versions.values()
                ):
                    return node_id

    def _grow(self, dag_name: str, nodes: Sequence[Node]) -> None:
        entry = self.entry(dag_name)
        table = dict(entry.graph.nodes)
        for node in nodes:
            if table.setdefault(node.id, node) != node:
                raise NodeAlreadyExists(node.id)
        self._put(entry, entry.graph.replace(nodes=table))

    def _put(self, before: Entry, graph: Graph) -> None:
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


def check_name(name: object) -> None:
    """Refuse what no graph can be called by."""
    if not isinstance(name, str):
        raise ConfigurationError(f"a graph is asked for by its name, a text, not {name!r}")


def check_fields(
    what: str, cls: type, fields: Mapping[str, Any], besides: Collection[str] = ()
) -> None:
    """Refuse fields that a class does not have.

    Args:
        what: What the class is, for the message.
        cls: The class.
        fields: What was given.
        besides: Fields that are given in another way.
    """
    known = set(inspect.signature(cls).parameters).difference(besides)
    for name in fields:
        if name not in known:
            raise ConfigurationError(f"{what} has no field {name!r}{did_you_mean(name, known)}")


def _newest(versions: dict[str, Entry]) -> Entry:
    return versions[next(reversed(versions))]


def _bring(registry: Registry, graph: Graph, source: Registry) -> None:
    """Register what *source* has for a graph: actions, handlers, fallbacks, bodies, node hooks."""
    for node in graph.nodes.values():
        nested = None if node.subgraph is None else source.get_workflow(node.subgraph)
        if nested is not None:
            registry.register_workflow(nested.workflow, node.subgraph, replace=True)
    names = {
        name: None
        for node in graph.nodes.values()
        for name in (node.action, node.failure, node.fallback)
        if name is not None
    }
    if graph.machine is not None:
        names |= dict.fromkeys(graph.machine.actions)
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
    registry.bring_node_hooks(source, graph.name)


def _free_id(action: str, taken: set[str]) -> str:
    if action not in taken:
        return action
    return next(each for n in itertools.count(2) if (each := f"{action}_{n}") not in taken)
