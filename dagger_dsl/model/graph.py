"""The IR: what a workflow is, whichever door it came through.

`Graph`, `Node`, `Edge`, `Input` and `Output` are frozen values, equal by content and hashable.
They hold data only: names, numbers and literals of the codec; functions, classes and tenacity
objects live on the registered action.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from dagger_dsl._doors import through
from dagger_dsl.errors import (
    ConfigurationError,
    CycleError,
    DependencyNotFound,
    NodeAlreadyExists,
    NodeNotFound,
    Place,
    Problem,
    ValidationError,
    cut,
    did_you_mean,
    shown,
)
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.machine import Machine
from dagger_dsl.model.mapped import batch_of, depth_of, parallel_of
from dagger_dsl.model.policies import (
    CacheStrategy,
    Effects,
    OnFailure,
    RetryPolicy,
    Trigger,
    as_enum,
    seconds,
    whole_number,
)
from dagger_dsl.model.states import NodeState
from dagger_dsl.model.types import SECRET_SCHEMA
from dagger_dsl.model.values import MISSING, Literal

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from dagger_dsl.model.validate import ValidationReport

__all__ = [
    "RESERVED_IDS",
    "RESULT",
    "Edge",
    "Graph",
    "GraphInput",
    "Input",
    "Node",
    "Output",
    "check_texts",
    "id_problem",
    "name_problem",
    "split_reference",
    "text_problem",
    "title_problem",
    "words",
]

#: The output of a node that declares none: its whole value.
RESULT = "result"

#: Namespaces of the cache; no node may be called like one of them.
RESERVED_IDS = frozenset({"inputs", "global", "human_input"})


def text_problem(text: str) -> str | None:
    """Return why a text cannot be stored and sent as it is, or None when it can."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return f"{shown(text)} is not valid Unicode text"
    return None


def name_problem(name: Any, what: str = "an id") -> str | None:
    """Return why *name* cannot be the name of a node or of an input, or None when it can.

    Args:
        name: What was given.
        what: Whose name it is, for the message.
    """
    if not isinstance(name, str):
        return f"{what} is a text, not {type(name).__name__} {shown(name)}; put it in quotes"
    if not 0 < len(name) <= 200:
        return f"{what} has 1 to 200 characters, not {len(name)}"
    if "." in name or "\0" in name:
        return f"{what} has no dot and no NUL: {shown(name)}; use '_' instead"
    return text_problem(name)


def id_problem(name: Any) -> str | None:
    """Return why *name* cannot be a node's id, or None when it can."""
    fault = name_problem(name)
    if fault is None and name in RESERVED_IDS:
        return f"{name!r} is reserved for the cache; choose another id"
    return fault


def title_problem(name: Any, what: str = "a graph") -> str | None:
    """Return why *name* cannot be what a graph is called, or None when it can."""
    if not isinstance(name, str) or not 0 < len(name) <= 200 or "\0" in name:
        return f"{what}'s name is a text of 1 to 200 characters, not {shown(name)}"
    return text_problem(name)


def words(tags: Any) -> tuple[str, ...]:
    """Return tags.

    Raises:
        ConfigurationError: They are no list of words.
    """
    if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
        raise ConfigurationError(f"tags are a list of words, not {_described(tags)}")
    found = tuple(tags)
    for word in found:
        if not isinstance(word, str):
            raise ConfigurationError(f"tags are a list of words, and {shown(word)} is none")
        fault = text_problem(word)
        if fault is not None:
            raise ConfigurationError(f"a tag cannot be like that: {fault}")
    return found


def _described(value: Any) -> str:
    return f"the text {shown(value)}" if isinstance(value, str) else shown(value)


def check_texts(what: str, texts: Mapping[str, Any]) -> None:
    """Refuse what people should read and is no text.

    Raises:
        ConfigurationError: One is none.
    """
    for field, text in texts.items():
        if not isinstance(text, str):
            raise ConfigurationError(f"{what}: {field} is a text, not {shown(text)}")
        fault = text_problem(text)
        if fault is not None:
            raise ConfigurationError(f"{what}: {field} {fault}")


def split_reference(reference: str) -> tuple[str, str]:
    """Split ``node.output`` or ``inputs.param`` at its first dot.

    Raises:
        ConfigurationError: There is no dot, or nothing on one side of it.
    """
    if isinstance(reference, str):
        source, dot, output = reference.partition(".")
        if dot and source and output:
            return source, output
    raise ConfigurationError(
        f"a reference is written 'inputs.<param>' or '<node_id>.<output>', not {shown(reference)}"
    )


@attrs.frozen(init=False)
class Input:
    """One named value that a node takes: a reference or a literal, never both.

    Args:
        name: The parameter it fills.
        reference: ``inputs.<param>`` or ``<node_id>.<output>``.
        value: A literal; it is frozen here, and each read of `value` gives an equal fresh one.
        description: For people.

    Raises:
        ConfigurationError: Neither or both are given, or the reference is malformed.
        EncodingError: The literal is no value of the codec.
    """

    name: str
    reference: str | None
    literal: Literal | None
    description: str

    def __init__(
        self,
        name: str,
        reference: str | None = None,
        value: Any = MISSING,
        description: str | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(
                f"an input's name is a text that is not empty, not {shown(name)}"
            )
        if reference is None:
            if value is MISSING:
                raise ConfigurationError(f"input {name!r} needs a reference or a value")
            literal = value if isinstance(value, Literal) else Literal(value)
        else:
            if value is not MISSING:
                raise ConfigurationError(f"input {name!r} has a reference and a value; drop one")
            split_reference(reference)
            literal = None
        self.__attrs_init__(name, reference, literal, description or "")

    @classmethod
    def _checked(
        cls,
        name: str,
        reference: str | None,
        literal: Literal | None = None,
        description: str = "",
    ) -> Input:
        """Return an input from fields that its builder has checked already."""
        made = _new(cls)
        _set_name(made, name)
        _set_reference(made, reference)
        _set_literal(made, literal)
        _set_description(made, description)
        return made

    @property
    def value(self) -> Any:
        """A fresh copy of the literal, or `MISSING` where the input is a reference."""
        return MISSING if self.literal is None else self.literal.value

    @property
    def source(self) -> tuple[str, str] | None:
        """``(node id or 'inputs', output or parameter)`` of the reference, None for a literal."""
        return None if self.reference is None else split_reference(self.reference)


# What `__init__` of a frozen class does, without looking each slot up by its name every time:
# large graphs have several inputs per node.
_new = object.__new__
_set_name, _set_reference, _set_literal, _set_description = (
    vars(Input)[field].__set__ for field in ("name", "reference", "literal", "description")
)


@attrs.frozen
class Output:
    """One named value that a node gives.

    Attributes:
        name: What references call it.
        description: For people.
    """

    name: str
    description: str = ""


@attrs.frozen
class Edge:
    """*target* waits for *source*; with `when`, only that label of the source's result lets it run.

    Attributes:
        source: Id of the node that comes first.
        target: Id of the node that waits.
        when: A branch label (``true`` and ``false`` for booleans), or None.
    """

    source: str
    target: str
    when: str | None = None


def _literal(given: Any) -> Literal | None:
    return given if given is None or isinstance(given, Literal) else Literal(given)


def _input_name(_: Any, attribute: attrs.Attribute[Any], name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"an input's name is a text that is not empty, not {shown(name)}")
    fault = text_problem(name)
    if fault is not None:
        raise ConfigurationError(f"an input's name cannot be like that: {fault}")


@attrs.frozen
class GraphInput:
    """One value that a run of the graph is given.

    Attributes:
        name: What ``inputs.<name>`` refers to.
        schema: JSON Schema of the value, or None.
        default: Used when the run is not given one; None together with ``required=True`` means
            that there is no default.
        required: Whether a run must be given it.
        description: For people.

    Raises:
        ConfigurationError: The name cannot be one.
    """

    name: str = attrs.field(validator=_input_name)
    schema: Literal | None = attrs.field(default=None, converter=_literal)
    default: Literal | None = attrs.field(default=None, converter=_literal)
    required: bool = True
    description: str = ""

    @property
    def secret(self) -> bool:
        """Whether the value is one to hide: its schema says ``format: secret``."""
        return self.schema is not None and _says_secret(self.schema.plain)


def _says_secret(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    if schema.get("format") == SECRET_SCHEMA["format"]:
        return True
    choices = schema.get("anyOf")
    return isinstance(choices, list) and any(map(_says_secret, choices))


def _effective(node_id: str, names: Iterable[str], inputs: Iterable[Input]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigurationError(
            f"node {node_id!r}: dependencies are a list of ids, not the text {shown(names)}"
        )
    found = dict.fromkeys(names)
    for given in inputs:
        if given.reference is not None:
            source = given.reference.partition(".")[0]
            if source != "inputs":
                found[source] = None
    return tuple(found)


@attrs.frozen(init=False)
class Node:
    """One unit of work in a graph.

    A field left at None takes what the action says, then the graph's and the executor's
    configuration.

    Attributes:
        id: Unique in the graph; 1 to 200 characters, no dot.
        action: Name of the action in the registry.
        inputs: What the action is called with.
        outputs: Declared outputs; none means the single output ``result``, the whole value.
        dependencies: Every id the node waits for: those it was given, then those its inputs refer
            to. Their order does not count when nodes are compared.
        timeout: Seconds one attempt may take.
        try_count: Calls in all, the first included.
        on_failure: What a final failure does to the run.
        failure: Name of the failure-handler action.
        description, instructions: For people (and for agents).
        retry: The waits between attempts; data only.
        cache_strategy: Whether results of earlier runs may be reused.
        trigger: When the node may start.
        metadata: Free data of the user.
        map_over: Name of the input whose items each get an invocation.
        max_parallel: Invocations of this node at the same time, 1,000,000 at most.
        effects: What recovery may do with a started node.
        branch: Name of the branch the node belongs to.
        keep: False frees the value when all nodes that depend on this one have ended; a database
            still has it. The value of a node on which none depends is kept.
        enabled: A disabled node is skipped.
        fallback: Action that is called when the last attempt has failed.
        subgraph: Name of a workflow that is the node's body; the action is passed over then.
        map_depth: How many levels of lists `map_over` goes into, 100 at most; 1 where nothing is
            said.
        map_errors: What a failed invocation of a mapped node does: ``fail`` the node (the default),
            or ``collect`` a `Failed` value in its place.
        map_batch: How many items one invocation of a mapped node is given; it calls the action for
            each. 1 where nothing is said.
    """

    id: str
    action: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    dependencies: tuple[str, ...] = attrs.field(eq=frozenset)
    timeout: float | None
    try_count: int | None
    on_failure: OnFailure | None
    failure: str | None
    description: str
    instructions: str
    retry: RetryPolicy | None
    cache_strategy: CacheStrategy | None
    trigger: Trigger
    metadata_literal: Literal | None
    map_over: str | None
    max_parallel: int | None
    effects: Effects | None
    branch: str | None
    keep: bool | None
    enabled: bool
    fallback: str | None
    subgraph: str | None
    map_depth: int | None
    map_errors: str | None
    map_batch: int | None

    def __init__(
        self,
        id: str,  # the documents' own name
        action: str,
        inputs: Iterable[Input] = (),
        outputs: Iterable[Output | str] = (),
        dependencies: Iterable[str] = (),
        timeout: float | timedelta | None = None,
        try_count: int | None = None,
        on_failure: OnFailure | str | None = None,
        failure: str | None = None,
        description: str = "",
        instructions: str = "",
        retry: RetryPolicy | None = None,
        cache_strategy: CacheStrategy | None = None,
        trigger: Trigger | str = Trigger.SUCCESS,
        metadata: Mapping[str, Any] | Literal | None = None,
        map_over: str | None = None,
        max_parallel: int | None = None,
        effects: Effects | str | None = None,
        branch: str | None = None,
        keep: bool | None = None,
        enabled: bool = True,
        fallback: str | None = None,
        subgraph: str | None = None,
        map_depth: int | None = None,
        map_errors: str | None = None,
        map_batch: int | None = None,
    ) -> None:
        fault = id_problem(id)
        if fault is not None:
            raise ValidationError((Problem(fault, Place(node=cut(str(id))), "bad-id"),))
        if not isinstance(action, str) or not action:
            raise ConfigurationError(f"node {id!r}: action is a name, not {shown(action)}")
        if timeout is not None:
            timeout = seconds(timeout, f"node {id!r}: timeout", zero=False)
        if try_count is not None:
            try_count = whole_number(try_count, f"node {id!r}: try_count")
        if on_failure is not None and type(on_failure) is not OnFailure:
            on_failure = as_enum(OnFailure, on_failure, f"node {id!r}: on_failure")
        if type(trigger) is not Trigger:
            trigger = as_enum(Trigger, trigger, f"node {id!r}: trigger")
        if effects is not None:
            effects = as_enum(Effects, effects, f"node {id!r}: effects")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise ConfigurationError(f"node {id!r}: retry is a RetryPolicy, not {shown(retry)}")
        if retry is not None and not retry.is_data:
            raise ConfigurationError(
                f"node {id!r}: a graph holds data only; give classes, predicates and tenacity "
                "objects to the action: @action(retry=...)"
            )
        if cache_strategy is not None and not cache_strategy.is_data:
            raise ConfigurationError(
                f"node {id!r}: a graph holds data only; give a cache key's function to the action: "
                "@action(cache=...)"
            )
        if not isinstance(enabled, bool):
            raise ConfigurationError(f"node {id!r}: enabled is True or False, not {shown(enabled)}")
        if map_over is None and (map_depth, map_errors) != (None, None):
            raise ConfigurationError(
                f"node {id!r}: map_depth and map_errors say how map_over is done, which is not set"
            )
        if map_batch is not None:
            map_batch = batch_of(map_batch, f"node {id!r}: map_batch")
            if map_over is None:
                raise ConfigurationError(
                    f"node {id!r}: map_batch says how map_over is done, which is not set"
                )
        if map_depth is not None:
            map_depth = depth_of(map_depth, f"node {id!r}: map_depth")
        if max_parallel is not None:
            max_parallel = parallel_of(max_parallel, f"node {id!r}: max_parallel")
        if map_errors not in (None, "fail", "collect"):
            raise ConfigurationError(
                f"node {id!r}: map_errors is 'fail' or 'collect', not {shown(map_errors)}"
            )
        takes = tuple(inputs)
        self.__attrs_init__(
            id,
            action,
            takes,
            ()
            if outputs == ()
            else tuple(out if isinstance(out, Output) else Output(out) for out in outputs),
            _effective(id, dependencies, takes) if takes or dependencies != () else (),
            timeout,
            try_count,
            on_failure,
            failure,
            description,
            instructions,
            retry,
            cache_strategy,
            trigger,
            Literal(dict(metadata))
            if isinstance(metadata, Mapping) and metadata
            else (metadata if isinstance(metadata, Literal) else None),
            map_over,
            max_parallel,
            effects,
            branch,
            keep,
            enabled,
            fallback,
            subgraph,
            map_depth,
            map_errors,
            map_batch,
        )

    @classmethod
    def _checked(
        cls,
        node_id: str,
        inputs: tuple[Input, ...],
        dependencies: tuple[str, ...],
        template: tuple[Any, ...],
    ) -> Node:
        """Return a node that differs from others of its action in what is given here only.

        Args:
            node_id, inputs, dependencies: Checked by the builder already; dependencies are the
                effective ones, without repeats.
            template: The other fields, as `_template` gives them.
        """
        action, outputs, rest = template
        made = object.__new__(cls)
        made.__attrs_init__(node_id, action, inputs, outputs, dependencies, *rest)
        return made

    def _template(self) -> tuple[Any, ...]:
        """Return the fields that nodes of one action share, for `_checked`."""
        fields = [getattr(self, field.name) for field in attrs.fields(Node)]
        return (self.action, self.outputs, tuple(fields[5:]))

    @property
    def name(self) -> str:
        """The id, by document 002's word for it."""
        return self.id

    @property
    def metadata(self) -> dict[str, Any]:
        """A fresh copy of the user's data."""
        return {} if self.metadata_literal is None else dict(self.metadata_literal.value)

    def replace(self, **fields: Any) -> Node:
        """Return this node with *fields* (arguments of `Node`) changed.

        Raises:
            ConfigurationError: A field is none of them, or a value is impossible.
        """
        known = {field.name: getattr(self, field.name) for field in attrs.fields(Node)}
        known["metadata"] = known.pop("metadata_literal")
        _check_fields(f"node {self.id!r}", fields, known)
        return Node(**{**known, **fields})


class HasStates(Protocol):
    """What a picture of a graph takes its colours from; every `RunReport` is one."""

    def states(self) -> Mapping[str, str]:
        """Return the state of every node by id."""
        ...


class Simulated(Protocol):
    """What `Graph.simulate` gives; `dagger_dsl.engine.simulate.Simulation` says more."""

    @property
    def status(self) -> str:
        """How the run would end: a `RunStatus`."""
        ...

    @property
    def order(self) -> tuple[str, ...]:
        """Ids in the order in which the nodes start."""
        ...

    @property
    def waves(self) -> tuple[tuple[str, ...], ...]:
        """Ids of the nodes that start together."""
        ...

    @property
    def states(self) -> Mapping[str, NodeState]:
        """State by node id, in declaration order."""
        ...

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why a node is skipped or cancelled, by its id."""
        ...

    @property
    def skipped(self) -> Mapping[str, str]:
        """Why each skipped node does not run, by its id."""
        ...

    @property
    def starts(self) -> Mapping[str, float]:
        """When each node that starts does, in seconds from the run's start."""
        ...

    @property
    def duration(self) -> float:
        """Seconds to the end."""
        ...

    def explain(self, node_id: str) -> str:
        """Return why a node would run or not, for people."""
        ...


@attrs.frozen(init=False, eq=False)
class Graph:
    """A workflow: nodes, the edges between them, and how it wants to be run.

    Args:
        name: What it is called in an executor.
        nodes: The nodes, in declaration order: an iterable, or a mapping by id.
        edges: Edges beside the nodes' dependencies and references; an edge without `when` becomes
            a dependency of its target.
        description, author, version, signature, instructions: For people.
        config: Settings that override the executor's, field by field.
        tags: Words to find the graph by.
        inputs: What a run is given.
        machine: What makes it a state machine, whose states are the nodes; None for a graph whose
            nodes wait for each other.

    Raises:
        NodeAlreadyExists: Two nodes have one id.
        DependencyNotFound: An edge names a node that is not there.
    """

    name: str
    nodes: Mapping[str, Node]
    labelled: tuple[Edge, ...]
    config: DagConfig | None
    tags: frozenset[str]
    author: str
    version: str
    signature: str
    instructions: str
    description: str
    inputs: Mapping[str, GraphInput]
    machine: Machine | None = None
    _edges: tuple[Edge, ...] | None = attrs.field(default=None, init=False, repr=False)
    _hash: int | None = attrs.field(default=None, init=False, repr=False)
    #: What the engine compiled of it. It stands here so that it lives as long as the graph.
    compiled: Any = attrs.field(default=None, init=False, repr=False)

    def __init__(
        self,
        name: str,
        nodes: Iterable[Node] | Mapping[str, Node] = (),
        edges: Iterable[Edge] = (),
        *,
        description: str = "",
        config: DagConfig | None = None,
        tags: Iterable[str] = (),
        author: str = "",
        version: str = "",
        signature: str = "",
        instructions: str = "",
        inputs: Iterable[GraphInput] | Mapping[str, GraphInput] = (),
        machine: Machine | None = None,
    ) -> None:
        fault = title_problem(name)
        if fault is not None:
            raise ConfigurationError(fault)
        what = f"graph {name!r}"
        texts = {
            "description": description,
            "author": author,
            "version": version,
            "signature": signature,
            "instructions": instructions,
        }
        check_texts(what, texts)
        if config is not None and not isinstance(config, DagConfig):
            raise ConfigurationError(f"{what}: config is a DagConfig, not {shown(config)}")
        table: dict[str, Node] = {}
        for node in _listed(nodes, what, "nodes"):
            if not isinstance(node, Node):
                raise ConfigurationError(f"{what}: a node is a Node, not {shown(node)}")
            if node.id in table:
                raise NodeAlreadyExists(node.id)
            table[node.id] = node
        drawn = _listed(edges, what, "edges")
        for edge in drawn:
            if not isinstance(edge, Edge):
                raise ConfigurationError(f"{what}: an edge is an Edge, not {shown(edge)}")
        given = _listed(inputs, what, "inputs")
        for each in given:
            if not isinstance(each, GraphInput):
                raise ConfigurationError(f"{what}: an input is a GraphInput, not {shown(each)}")
        if machine is not None and not isinstance(machine, Machine):
            raise ConfigurationError(f"{what}: machine is a Machine, not {shown(machine)}")
        labelled = _fold_edges(table, drawn)
        self.__attrs_init__(
            name,
            MappingProxyType(table),
            labelled,
            config,
            frozenset(words(tags)),
            author,
            version,
            signature,
            instructions,
            description,
            MappingProxyType({each.name: each for each in given}),
            machine,
        )

    def _content(self) -> tuple[Any, ...]:
        return (
            self.name,
            tuple(self.nodes.values()),
            self.labelled,
            self.config,
            self.tags,
            self.author,
            self.version,
            self.signature,
            self.instructions,
            self.description,
            tuple(self.inputs.values()),
            self.machine,
        )

    def __eq__(self, other: object) -> bool:
        return self._content() == other._content() if isinstance(other, Graph) else NotImplemented

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", hash(self._content()))
        assert self._hash is not None
        return self._hash

    def __repr__(self) -> str:
        many = len(self.nodes)
        return f"<Graph {self.name!r}: {many} {'node' if many == 1 else 'nodes'}>"

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge once: dependencies, references and labels; by target, in declaration order.

        Those of a state machine are its transitions, each with its condition.
        """
        if self._edges is None:
            object.__setattr__(self, "_edges", tuple(self._merged_edges()))
        assert self._edges is not None
        return self._edges

    def _merged_edges(self) -> Iterator[Edge]:
        if self.machine is not None:
            for each in self.machine.transitions:
                yield Edge(each.source, each.target, each.condition)
            return
        labelled: dict[str, list[Edge]] = {}
        for edge in self.labelled:
            labelled.setdefault(edge.target, []).append(edge)
        for node in self.nodes.values():
            special = labelled.get(node.id, ())
            conditional = {edge.source for edge in special}
            for source in node.dependencies:
                if source not in conditional:
                    yield Edge(source, node.id)
            yield from special

    def replace(self, **fields: Any) -> Graph:
        """Return this graph with *fields* (arguments of `Graph`) changed.

        Raises:
            ConfigurationError: A field is none of them, or a value is impossible.
        """
        known: dict[str, Any] = {
            "name": self.name,
            "nodes": self.nodes,
            "edges": self.labelled,
            "description": self.description,
            "config": self.config,
            "tags": self.tags,
            "author": self.author,
            "version": self.version,
            "signature": self.signature,
            "instructions": self.instructions,
            "inputs": self.inputs,
            "machine": self.machine,
        }
        _check_fields(f"graph {self.name!r}", fields, known)
        return Graph(**{**known, **fields})

    def node(self, node_id: str) -> Node:
        """Return one node.

        Raises:
            NodeNotFound: There is none of this id; the message suggests one.
        """
        found = self.nodes.get(node_id) if isinstance(node_id, str) else None
        if found is None:
            raise NodeNotFound(node_id, tuple(self.nodes))
        return found

    def dependencies_of(self, node_id: str) -> tuple[str, ...]:
        """Return the ids that a node waits for: dependencies, references and labelled edges."""
        labelled = (edge.source for edge in self.labelled if edge.target == node_id)
        return tuple(dict.fromkeys((*self.node(node_id).dependencies, *labelled)))

    def sinks(self) -> tuple[str, ...]:
        """Return the ids of the nodes that no other node waits for, in declaration order.

        Those of a state machine are its terminal states.
        """
        if self.machine is not None:
            return tuple(name for name in self.nodes if name in self.machine.terminal)
        waited_for = {edge.source for edge in self.edges}
        return tuple(name for name in self.nodes if name not in waited_for)

    def topological_order(self) -> list[str]:
        """Return the ids in the order a sequential run starts them.

        First in, first out among the nodes that become ready; ties by declaration.

        Raises:
            CycleError: Nodes wait for each other; the message prints the cycle.
            DependencyNotFound: A node waits for one that is not there.
        """
        return [name for level in self._generations() for name in level]

    def levels(self) -> list[list[str]]:
        """Return the ids by the length of the longest way to them; one list can run together.

        Raises:
            CycleError: Nodes wait for each other.
            DependencyNotFound: A node waits for one that is not there.
        """
        depth: dict[str, int] = {}
        table: list[list[str]] = []
        before = self._sources()
        for name in self.topological_order():
            level = 1 + max((depth[source] for source in before[name]), default=-1)
            depth[name] = level
            if level == len(table):
                table.append([])
            table[level].append(name)
        declared = {name: i for i, name in enumerate(self.nodes)}
        return [sorted(level, key=declared.__getitem__) for level in table]

    def critical_path(self, weights: Mapping[str, float] | None = None) -> list[str]:
        """Return the chain of nodes that bounds the duration of a run from below.

        Args:
            weights: Seconds by id, such as a report's ``node_times``; a node that is left out takes
                none. Every node counts 1 when there are none at all.

        Raises:
            NodeNotFound: *weights* names a node that is not there.
            ConfigurationError: *weights* is no mapping, or holds what are no seconds.
            DependencyNotFound, CycleError: The graph cannot run at all; see `validate`.
        """
        if weights is not None:
            weights = self.seconds_by_node(weights, "weights")
        before = self._sources()
        cost: dict[str, float] = {}
        via: dict[str, str | None] = {}
        for name in self.topological_order():
            slowest = max(before[name], key=cost.__getitem__, default=None)
            own = 1.0 if weights is None else weights.get(name, 0.0)
            cost[name] = own + (cost[slowest] if slowest is not None else 0.0)
            via[name] = slowest
        path: list[str] = []
        here = max(cost, key=cost.__getitem__, default=None)
        while here is not None:
            path.append(here)
            here = via[here]
        return path[::-1]

    def seconds_by_node(self, given: Mapping[str, float], what: str) -> dict[str, float]:
        """Return seconds by node id, checked.

        Args:
            given: What was given.
            what: What to call it, in the plural.

        Raises:
            NodeNotFound: It names a node that is not there.
            ConfigurationError: It is no mapping, or a value is no number of seconds.
        """
        if not isinstance(given, Mapping):
            raise ConfigurationError(
                f"{what} are a mapping of node ids to seconds, not {shown(given)}"
            )
        return {
            self.node(node_id).id: seconds(each, f"{what}[{node_id!r}]")
            for node_id, each in given.items()
        }

    def _sources(self) -> dict[str, list[str]]:
        """Return what each node waits for, without repeats.

        Raises:
            DependencyNotFound: A node waits for one that is not there.
            ConfigurationError: It is a state machine.
        """
        if self.machine is not None:
            raise ConfigurationError(
                f"{self.name!r} is a state machine: its states wait for nothing and come in the "
                "order that their answers choose, so they have no order before a run; "
                "graph.edges has the declared transitions, report.state_history the way of a run"
            )
        table: dict[str, list[str]] = {name: [] for name in self.nodes}
        missing = []
        for edge in self.edges:
            if edge.source in table:
                if edge.source not in table[edge.target]:
                    table[edge.target].append(edge.source)
            else:
                missing.append(missing_dependency(edge.target, edge.source, table))
        if missing:
            raise DependencyNotFound(missing)
        return table

    def _generations(self) -> Iterator[tuple[str, ...]]:
        import graphlib  # only graphs that are ordered or searched for cycles pay for it

        sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
        before = self._sources()
        for name in before:
            sorter.add(name)  # first, so that roots come in declaration order
        for name, sources in before.items():
            sorter.add(name, *sources)
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            raise CycleError(error.args[1]) from None
        while sorter.is_active():
            ready = sorter.get_ready()
            yield ready
            sorter.done(*ready)

    def validate(self, registry: Any = None, *, types: bool = True) -> ValidationReport:
        """Look for everything that is wrong before anything runs.

        Args:
            registry: Where action names are looked up; None checks the structure only.
            types: Whether annotations on both ends of an edge are compared.

        Returns:
            The report, which holds warnings too.

        Raises:
            ValidationError: There are problems; all are listed. A lone kind of problem raises its
                own class: `CycleError`, `DependencyNotFound`, `ActionNotFound`.
            ConfigurationError: *registry* is none.
        """
        from dagger_dsl.model.validate import validate

        return validate(self, registry, types=types)

    def lint(self, registry: Any = None) -> list[Problem]:
        """Return remarks on what is allowed and cannot be meant, or costs time for nothing.

        Warnings are certain: ``redundant-edge`` (another dependency implies it), ``never-runs``,
        ``retried-at-most-once``, ``unused-input``. Notes leave the judgement to you: ``order-only``
        (no value flows along the edge), ``unread-output``, ``label-leads-nowhere``.

        Args:
            registry: Where action names are looked up; None leaves out what only actions can say.

        Raises:
            DependencyNotFound, CycleError: The graph cannot run at all; see `validate`.
            ConfigurationError: *registry* is none.
        """
        from dagger_dsl.model.lint import lint

        return lint(self, registry)

    def simulate(
        self,
        outcomes: Mapping[str, Any] | None = None,
        *,
        slots: int | None = 1,
        durations: Mapping[str, float] | None = None,
        registry: Any = None,
    ) -> Simulated:
        """Play a run through without calling anything: who starts when, and who is skipped why.

        Triggers, branches, disabled nodes and ``on_failure`` count as in a run. Retries and failure
        handlers are part of an outcome, a mapped node is one node, and whatever runs when a node
        stops the run comes to its end.

        Args:
            outcomes: By node id, ``"ok"`` (the default), ``"fail"`` or an exception, or
                ``"recovered"`` by its failure handler. A node with labelled edges needs what it
                answers: a bool, a label or a list of labels, none of which may be left out.
            slots: Nodes that run at the same time, as with ``max_workers``; None for no limit.
            durations: Seconds by node id, such as a report's ``node_times``; a node that is left
                out takes none. Every node takes one second when there are none at all.
            registry: Where actions are looked up for what they say about ``on_failure``; they need
                not be there.

        Raises:
            NodeNotFound: An id is not in the graph; the message suggests one.
            ConfigurationError: An outcome is none, or a branch that is reached has no label.
            DependencyNotFound, CycleError: The graph cannot run at all; see `validate`.
        """
        played: Simulated = through("simulate")(
            self, outcomes, slots=slots, durations=durations, registry=registry
        )
        return played

    def to_dot(self, run: HasStates | Mapping[str, str] | None = None) -> str:
        """Return the graph as DOT, the text that Graphviz draws.

        Args:
            run: A report, or states by node id, that give the nodes their colours.

        Raises:
            ConfigurationError: *run* is neither, or a state is none that there is.
        """
        text: str = through("graph_to_dot")(self, run)
        return text

    def save_dot(
        self, path: str | os.PathLike[str], run: HasStates | Mapping[str, str] | None = None
    ) -> Path:
        """Write `to_dot` to a file and return its path.

        Raises:
            ConfigurationError: There can be no such file, or *run* is not as in `to_dot`.
        """
        written: Path = through("save_dot")(self.to_dot(run), path)
        return written

    def render(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        run: HasStates | Mapping[str, str] | None = None,
    ) -> Path:
        """Draw the graph with Graphviz and return the picture's path.

        Args:
            path: The file to write.
            format: ``svg``, ``png``, ``pdf``...; by default the path's ending.
            run: As in `to_dot`.

        Raises:
            VisualizationUnavailable: Graphviz is not installed.
            ConfigurationError: There is no such format, or there can be no such file.
        """
        drawn: Path = through("render")(self.to_dot(run), path, format)
        return drawn

    def to_mermaid(self, run: HasStates | Mapping[str, str] | None = None) -> str:
        """Return the graph as Mermaid, the text that Markdown renderers draw.

        A state machine becomes a ``stateDiagram-v2``, any other graph a ``flowchart``.

        Args:
            run: As in `to_dot`.

        Raises:
            ConfigurationError: *run* is neither, or a state is none that there is.
        """
        text: str = through("graph_to_mermaid")(self, run)
        return text

    def to_svg(self, run: HasStates | Mapping[str, str] | None = None) -> str:
        """Return the graph as SVG, light and dark; nothing has to be installed.

        Args:
            run: A report, or states by node id, to colour the nodes by.

        Raises:
            ConfigurationError: *run* is neither, or a state is none that there is.
        """
        text: str = through("graph_to_svg")(self, run)
        return text

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        bundle: dict[str, str] = through("graph_bundle")(lambda: self, repr(self), include, exclude)
        return bundle

    def to_yaml(self) -> str:
        """Return the graph as YAML; `from_yaml` gives an equal graph back."""
        text: str = through("dump_yaml")(self)
        return text

    @classmethod
    def from_yaml(cls, text: str) -> Graph:
        """Return the graph that a YAML text describes.

        Raises:
            YamlError: Something is wrong; every problem has its line and column.
        """
        graph: Graph = through("load_yaml")(text)
        return graph


def _check_fields(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigurationError(f"{what} has no field {name!r}{did_you_mean(name, known)}")


def _listed(given: Any, what: str, field: str) -> list[Any]:
    if isinstance(given, Mapping):
        return list(given.values())
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{what}: {field} are a list, not {shown(given)}")
    return list(given)


def missing_dependency(node_id: str, source: str, known: Iterable[str]) -> Problem:
    """Return the problem of a node that waits for one that is not there."""
    return Problem(
        f"node {node_id!r} depends on {shown(source)}, which is not in the graph"
        f"{did_you_mean(source, known)}",
        Place(node=node_id),
        "unknown-dependency",
    )


def _fold_edges(table: dict[str, Node], edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Turn plain edges into dependencies of their targets; return the labelled ones."""
    extra: dict[str, list[str]] = {}
    labelled: dict[Edge, None] = {}
    for edge in edges:
        for end in (edge.source, edge.target):
            if end not in table:
                raise DependencyNotFound((missing_dependency(edge.target, end, table),))
        if edge.when is not None:
            labelled[edge] = None
        elif edge.source not in table[edge.target].dependencies:
            extra.setdefault(edge.target, []).append(edge.source)
    for target, sources in extra.items():
        node = table[target]
        table[target] = node.replace(dependencies=(*node.dependencies, *sources))
    return tuple(labelled)
