"""`Plan`: a graph compiled to integers, once, for every run of it.

Each invocation has a slot. Slots of nodes come first, in declaration order; behind them stand the
slots of values that are not results: graph inputs, literals and the parts of split outputs. The hot
loop of a run touches these lists, never attrs objects, names or dictionaries of dictionaries.
Graphs that grow append slots; one compiler serves the first nodes and the later ones.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from itertools import repeat
from operator import attrgetter
from typing import Any, Final, final

import attrs

from dagger_dsl.engine.children import Children
from dagger_dsl.engine.joins import Join
from dagger_dsl.errors import (
    ActionNotFound,
    CycleError,
    DependencyNotFound,
    OutputError,
    Place,
    Problem,
    ValidationError,
)
from dagger_dsl.model.graph import RESULT, Edge, Graph, Node, missing_dependency
from dagger_dsl.model.policies import CacheStrategy, Effects, Trigger
from dagger_dsl.model.values import Literal
from dagger_dsl.registry import ActionDef
from dagger_dsl.runners.base import ASYNC, TIMED

__all__ = [
    "UNOPENED",
    "UNSET",
    "Mapped",
    "Plan",
    "add_children",
    "compile_plan",
    "extend_plan",
    "rebind",
]


@final
class _Unset:
    """The type of `UNSET`: a slot in which nothing was written."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset()

#: Of edges into an invocation whose mapped node has not been opened.
UNOPENED: Final = 1 << 59
_new = object.__new__


@attrs.define(eq=False, slots=False)
class Plan:
    """A compiled graph. A run takes its own with `own`, whose lists are copied at the first growth.

    Attributes:
        graph: What was compiled; `current` is the graph as it is now.
        count: Number of invocations.
        ids: Node id by slot; None for slots of other values.
        index: Slot by node id.
        children: The invocations of mapped nodes.
        parents: By slot of an invocation that a mapped node made, the slot it belongs to.
        successors: By slot, the targets of plain edges into `success` nodes, ascending.
        special: By slot, ``(target, label)`` of labelled edges and of edges into joins.
        unmet: By slot, edges to be satisfied; a large number where a join decides.
        joins: By slot, the edges into nodes with another rule than `success`.
        roots: Slots that wait for nothing, ascending.
        disabled: Slots of disabled nodes.
        actions: Action by slot.
        calls: By slot, the function to call with the bound values in order.
        bindings: By slot, where the values come from: None, one slot, or a tuple of slots.
        names: By slot, the parameters the values are for.
        kinds: By slot, `ASYNC` and `TIMED` bits.
        wrapped: Slots whose call needs to know its run: `calls[slot]` is made when a run begins.
        constants: ``(slot, literal)`` of literals.
        inputs: Slot by name of graph inputs.
        parts: By slot, ``(output name, slot)`` of split outputs.
        labelled: Slots with labelled edges going out.
        handlers: By slot, the failure handler.
        fallbacks: By slot, the action that is called when the last attempt has failed.
        mapped: By slot of a mapped node, what it maps over.
        careful: Slots of nodes that are started at most once.
        cached: By slot, the strategy of nodes that share their results between runs.
        fleeting: Slots of nodes whose value is freed after the last node that takes it.
        iterators: Slots of nodes that may return an iterator, by their annotation.
        input_uses: By name of a graph input, the parameters it reaches, each with the number of
            levels that are mapped over there.
        looked_up: The actions that were found, by the name they were looked up under.
        workflows: The bodies of nodes that are whole graphs, likewise.
        owners: By slot of a split output, the slot of its node.
        secrets: Whether graph inputs are secret, by name, where somebody has asked.
        validators: What checks the values of graph inputs that have a schema, made on first use.
        size: Number of slots.
        needs_loop: Something in the graph has to be awaited.
        rebound: Slots of nodes that got other inputs.
        late: Slots of nodes that came while the run went on.
        late_edges: ``(source, target)`` of edges that came to nodes which were there.
        keyed: Some invocation has another key than the default.
        machine: Of a state machine, what there is to know of it in slots.
    """

    graph: Graph
    count: int = 0
    ids: list[str | None] = attrs.field(factory=list)
    index: dict[str, int] = attrs.field(factory=dict)
    children: Children = attrs.field(factory=Children)
    parents: dict[int, int] = attrs.field(factory=dict)
    successors: list[tuple[int, ...]] = attrs.field(factory=list)
    special: dict[int, tuple[tuple[int, str | None], ...]] = attrs.field(factory=dict)
    unmet: list[int] = attrs.field(factory=list)
    joins: dict[int, Join] = attrs.field(factory=dict)
    roots: list[int] = attrs.field(factory=list)
    disabled: list[int] = attrs.field(factory=list)
    actions: list[ActionDef] = attrs.field(factory=list)
    calls: list[Callable[..., Any]] = attrs.field(factory=list)
    bindings: list[int | tuple[int, ...] | None] = attrs.field(factory=list)
    names: list[tuple[str, ...]] = attrs.field(factory=list)
    kinds: bytearray = attrs.field(factory=bytearray)
    wrapped: list[int] = attrs.field(factory=list)
    limits: dict[int, float] = attrs.field(factory=dict)
    constants: list[tuple[int, Literal]] = attrs.field(factory=list)
    inputs: dict[str, int] = attrs.field(factory=dict)
    parts: dict[int, tuple[tuple[str, int], ...]] = attrs.field(factory=dict)
    labelled: frozenset[int] = frozenset()
    handlers: dict[int, ActionDef] = attrs.field(factory=dict)
    fallbacks: dict[int, ActionDef] = attrs.field(factory=dict)
    mapped: dict[int, Mapped] = attrs.field(factory=dict)
    careful: set[int] = attrs.field(factory=set)
    cached: dict[int, CacheStrategy] = attrs.field(factory=dict)
    fleeting: set[int] = attrs.field(factory=set)
    iterators: set[int] = attrs.field(factory=set)
    input_uses: dict[str, dict[tuple[ActionDef, str, int], None]] = attrs.field(factory=dict)
    looked_up: dict[str, ActionDef] = attrs.field(factory=dict)
    workflows: dict[str, ActionDef] = attrs.field(factory=dict)
    owners: dict[int, int] = attrs.field(factory=dict)
    secrets: dict[str, bool] = attrs.field(factory=dict)
    validators: dict[str, Any] = attrs.field(factory=dict)
    size: int = 0
    needs_loop: bool = False
    rebound: set[int] = attrs.field(factory=set)
    late: set[int] = attrs.field(factory=set)
    late_edges: set[tuple[int, int]] = attrs.field(factory=set)
    keyed: bool = False
    machine: Any = None
    _shared: bool = True
    _changed: dict[str, Node] = attrs.field(factory=dict)  # nodes that were added or changed
    _current: Graph | None = None
    _sinks: tuple[str, ...] | None = None
    _labels: dict[str, list[str]] | None = None  # sources of labelled edges by target

    def own(self) -> Plan:
        """Return this plan for one run; nothing is copied before the run's graph grows."""
        mine = _new(Plan)
        vars(mine).update(vars(self))
        mine._changed = {}
        return mine

    def unshare(self) -> None:
        """Copy what this plan shares with other runs of the graph, once, before it changes."""
        if not self._shared:
            return
        self._shared = False
        for name in _GROWING:
            setattr(self, name, copy(getattr(self, name)))

    def node(self, slot: int) -> Node:
        """Return the node that an invocation is of."""
        node_id = str(self.ids[slot])
        changed = self._changed.get(node_id) if self._changed else None
        return self.graph.nodes[node_id] if changed is None else changed

    def find(self, node_id: str) -> Node | None:
        """Return a node as it is now, or None."""
        slot = self.index.get(node_id)
        return None if slot is None else self.node(slot)

    def replace(self, node: Node) -> None:
        """Note that a node was added or changed."""
        self._changed[node.id] = node
        self._current = self._sinks = None

    @property
    def changed(self) -> bool:
        """Whether nodes were added or changed."""
        return bool(self._changed)

    @property
    def current(self) -> Graph:
        """The graph with everything that was added and changed so far."""
        if not self._changed:
            return self.graph
        if self._current is None:
            self._current = self.graph.replace(nodes={**self.graph.nodes, **self._changed})
        return self._current

    @property
    def sinks(self) -> tuple[str, ...]:
        """Ids of the nodes that no other one waits for, in declaration order."""
        if self._sinks is None:
            self._sinks = tuple(
                node_id
                for node_id, slot in self.index.items()
                if not self.successors[slot] and slot not in self.special
            )
        return self._sinks

    def is_wrapped(self, slot: int) -> bool:
        """Return whether the call of an invocation has to know its run."""
        if self.machine is not None:
            return True
        here: int | None = slot
        while here is not None:
            if here in self.joins:
                return True
            here = self.parents.get(here)
        return _knows_its_run(self.actions[slot])

    def batch(self, slot: int) -> int:
        """Return how many items an invocation is given at most; 1 where nothing is batched."""
        spec = self.mapped.get(self.parents.get(slot, -1))
        return 1 if spec is None else spec.per_call

    def batch_call(
        self, parent: int, call: Callable[..., Any], is_async: bool | None = None
    ) -> Callable[..., Any]:
        """Return the call of the batches of a mapped invocation, for the call of one item.

        Args:
            parent: The mapped invocation.
            call: What is called for each item.
            is_async: Whether it is awaited; by default, whether the node's own call is.
        """
        from dagger_dsl.engine.batches import batched  # few nodes are

        spec = self.mapped[parent]
        if is_async is None:
            is_async = bool(self.kinds[parent] & ASYNC)
        return batched(call, spec.place, spec.collect, is_async)

    def sources(self, slot: int) -> list[int]:
        """Return what an invocation waits for; one of a mapped node waits as a part of it."""
        if slot in self.parents:
            return [self.parents[slot]]
        if self._labels is None:
            self._labels = {}
            for edge in self.graph.labelled:
                self._labels.setdefault(edge.target, []).append(edge.source)
        node = self.node(slot)
        names = (*node.dependencies, *self._labels.get(node.id, ()))
        return [self.index[name] for name in dict.fromkeys(names)]

    def targets(self, slot: int) -> list[int]:
        """Return what waits for a node: along plain edges, then along `special` ones."""
        return [*self.successors[slot], *(target for target, _ in self.special.get(slot, ()))]

    def invocations(self) -> list[int]:
        """Return the slots of all invocations, ascending."""
        return [slot for slot, node_id in enumerate(self.ids) if node_id is not None]

    def handler_kind(self, slot: int) -> int:
        """Return the kind of the call of a node's failure handler."""
        return ASYNC if self.handlers[slot].is_async else 0

    def source_of(self, slot: int) -> int | None:
        """Return the node whose value lies in *slot*, or None for inputs and literals."""
        return slot if self.ids[slot] is not None else self.owners.get(slot)

    def split(self, slot: int, value: Any, *, always: bool = False) -> list[tuple[int, Any]]:
        """Return the declared outputs of a node's value, each with its slot.

        Args:
            slot: The node.
            value: What it gave.
            always: Whether a mapping without the single declared name is an error, and not that
                output.

        Raises:
            OutputError: The value does not hold them all.
        """
        parts = self.parts.get(slot)
        if parts is None:
            return []
        if isinstance(value, Mapping) and all(name in value for name, _ in parts):
            return [(where, value[name]) for name, where in parts]
        if len(parts) == 1 and not always:
            return [(parts[0][1], value)]
        names = [name for name, _ in parts]
        found = list(value) if isinstance(value, Mapping) else type(value).__name__
        raise OutputError(
            f"node {self.ids[slot]!r} declares the outputs {names} and returned {found}; "
            "return a mapping that holds all of them"
        )

    def outputs_of(self, slot: int, value: Any) -> dict[str, Any]:
        """Return a node's value by output name, as it was split when the node completed."""
        parts = self.parts.get(slot)
        if parts is None:
            return dict(value) if isinstance(value, dict) and value else {RESULT: value}
        if isinstance(value, Mapping) and all(name in value for name, _ in parts):
            return dict(value)
        return {parts[0][0]: value}


@attrs.frozen
class Mapped:
    """What a mapped node maps over.

    Attributes:
        name: The input whose items each get an invocation.
        place: Where among the node's values it stands.
        depth: How many levels of lists are gone into.
        most: Invocations at the same time, None for any number.
        collect: Whether a failed invocation gives a `Failed` value and fails nothing.
        batch: Items that an invocation of the last level is given.
    """

    name: str
    place: int
    depth: int = 1
    most: int | None = None
    collect: bool = False
    batch: int = 1

    @property
    def per_call(self) -> int:
        """How many items each of the invocations of this level is given."""
        return self.batch if self.depth == 1 else 1


# What a run that grows changes, so that other runs of the same plan must not see it.
_GROWING: Final = (
    "ids",
    "index",
    "children",
    "parents",
    "successors",
    "special",
    "unmet",
    "joins",
    "roots",
    "disabled",
    "actions",
    "calls",
    "bindings",
    "names",
    "kinds",
    "wrapped",
    "limits",
    "constants",
    "inputs",
    "parts",
    "handlers",
    "fallbacks",
    "mapped",
    "careful",
    "cached",
    "fleeting",
    "iterators",
    "input_uses",
    "looked_up",
    "owners",
    "rebound",
    "late",
    "late_edges",
)

_asked = attrgetter("fallback", "effects", "keep", "cache_strategy")
_asked_of_nodes = attrgetter("map_over", "subgraph")


def _asks_nothing(source: Node | ActionDef) -> bool:
    """Return whether every rare field is unset; some values that are set are harmless too."""
    if isinstance(source, Node) and _asked_of_nodes(source) != (None, None):
        return False
    return bool(_asked(source) == (None, None, None, None))


def _knows_its_run(action: ActionDef) -> bool:
    """Return whether calls of an action need more than their values."""
    return (
        action.style != "function"
        or action.ctx_param is not None
        or action.context_param is not None
        or action.input_schema is not None
        or action.output_schema is not None
    )


class _Form:
    """How an action is called with inputs of certain names; shared by all nodes that do so.

    Attributes:
        names: Those of the inputs, and of the parameters that get None as nothing fills them.
        order: The places in `names` of what the call is given, one after the other.
        call: What is called.
        wrapped: The call has to know its run.
    """

    __slots__ = ("call", "names", "order", "wrapped")

    def __init__(self, action: ActionDef, names: tuple[str, ...], forgiving: bool) -> None:
        if action.style == "function":
            open_ = [each for each in action.params if each.required and each.name not in names]
            names += tuple(each.name for each in open_ if forgiving or each.accepts_none)
        self.names = names
        self.wrapped = _knows_its_run(action)
        fn = action.fn
        places = {param.name: k for k, param in enumerate(action.params) if not param.keyword_only}
        by_place = sorted(range(len(names)), key=lambda k: places.get(names[k], len(places)))
        if [places.get(names[k]) for k in by_place] == list(range(len(names))):
            self.call: Callable[..., Any] = fn
            self.order = tuple(by_place)
        else:
            self.order = tuple(range(len(names)))
            self.call = _by_name(fn, names)


def _by_name(fn: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        return fn(**dict(zip(names, values, strict=True)))

    return call


def compile_plan(
    graph: Graph,
    lookup: Callable[[str], ActionDef | None],
    workflow: Callable[[str], ActionDef | None] = lambda _name: None,
) -> Plan:
    """Compile *graph* with the actions that *lookup* finds, and the bodies that *workflow* does.

    The graph is expected to be valid; what would break a run is still refused here.

    Raises:
        ActionNotFound: A node names an action that *lookup* does not know.
        CycleError: Nodes wait for each other.
        ValidationError: A reference points nowhere.
    """
    # Nothing made here is garbage, and walking it again and again takes a third of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        plan = Plan(graph)
        nodes = list(graph.nodes.values())
        compiler = _Compiler(plan, nodes, graph.labelled, lookup, workflow, first=True)
        compiler.extend()
        if graph.machine is not None:
            from dagger_dsl.engine.machine import make_machine  # most graphs are none

            make_machine(plan, compiler.find)
        _ = plan.sinks  # every run asks for them
        return plan
    finally:
        if collecting:
            gc.enable()


def extend_plan(
    plan: Plan, nodes: Sequence[Node], lookup: Callable[[str], ActionDef | None]
) -> list[int]:
    """Add nodes to a run's own plan and return their slots; when it raises, nothing was added.

    They may wait for each other and for what is there, and nothing that is there waits for them.

    Raises:
        ActionNotFound, CycleError, DependencyNotFound, ValidationError: One cannot be added.
    """
    slots = _Compiler(plan, nodes, (), lookup).extend()
    plan.late.update(slots)
    return slots


def add_children(plan: Plan, slot: int, count: int) -> list[int]:
    """Add invocations of a mapped one to a run's own plan and return their slots.

    Args:
        plan: The plan.
        slot: The mapped invocation.
        count: How many more it gets. The value of each one's item belongs where its binding has
            the input that is mapped over.
    """
    plan.unshare()
    base, gap = plan.size, plan.size - len(plan.actions)
    nobody: Any = None
    children = list(range(base, base + count))  # the tables share their integers
    spec, where, node_id = plan.mapped[slot], plan.bindings[slot], plan.ids[slot]
    plan.ids += [node_id] * count + [None] * count
    plan.size += 2 * count
    plan.count += count
    plan.actions += [nobody] * gap + [plan.actions[slot]] * count
    call = plan.calls[slot] if spec.per_call == 1 else plan.batch_call(slot, plan.calls[slot])
    plan.calls += [nobody] * gap + [call] * count
    plan.names += [()] * gap + [plan.names[slot]] * count
    plan.kinds += bytes(gap) + bytes((plan.kinds[slot],)) * count
    plan.successors += [()] * gap + [(slot,)] * count
    plan.unmet += [0] * gap + [UNOPENED] * count
    plan.bindings += [None] * gap
    items = list(range(base + count, base + 2 * count))
    if isinstance(where, tuple):
        before, after = where[: spec.place], where[spec.place + 1 :]
        plan.bindings += [(*before, item, *after) for item in items]
    else:
        plan.bindings += items
    plan.parents.update(zip(children, repeat(slot)))
    plan.keyed = True
    tables: tuple[dict[int, Any], ...] = (plan.limits, plan.handlers, plan.fallbacks)
    for table in tables:
        if slot in table:
            table.update(dict.fromkeys(children, table[slot]))
    if slot in plan.careful:
        plan.careful.update(children)
    if spec.depth > 1:
        plan.mapped.update(dict.fromkeys(children, attrs.evolve(spec, depth=spec.depth - 1)))
    plan.children.add(slot, base, count)
    return children


def rebind(plan: Plan, slot: int, node: Node, more: Sequence[int]) -> None:
    """Give a node that has not started other inputs, in a run's own plan.

    Args:
        plan: The plan.
        slot: The node's.
        node: How it is from now on.
        more: What it waits for that it did not wait for before. The state of the run counts these
            edges, when `RunState.add_edge` tells it of them; the plan does not.
    """
    plan.unshare()
    compiler = _Compiler(plan, (), (), plan.looked_up.get)
    plan.replace(node)
    plan.rebound.add(slot)
    action = plan.actions[slot]
    compiler.bind(slot, node, action)
    for source in more:
        plan.successors[source] = tuple(sorted((*plan.successors[source], slot)))
        plan.late_edges.add((source, slot))
    plan.ids += [None] * (plan.size - len(plan.ids))
    if node.map_over is not None:
        plan.mapped[slot] = compiler.mapped(slot, node)


class _Compiler:
    """Compiles nodes into a plan, behind what the plan has, in a few passes over them.

    Args:
        plan: Where they are added.
        nodes: What is added.
        edges: Labelled edges among them.
        lookup: Finds actions.
        workflow: Finds workflows.
        first: They are the nodes that the plan begins with.
    """

    def __init__(
        self,
        plan: Plan,
        nodes: Sequence[Node],
        edges: Sequence[Edge],
        lookup: Callable[[str], ActionDef | None],
        workflow: Callable[[str], ActionDef | None] = lambda _name: None,
        *,
        first: bool = False,
    ) -> None:
        self.into = plan
        self.first = first
        self.base = base = plan.size
        self.nodes = nodes
        self.edges = edges
        self.lookup = lookup
        self.workflow = workflow
        self.known = plan.looked_up if first else dict(plan.looked_up)
        self.forms: dict[tuple[int, tuple[str, ...]], _Form] = {}
        self.none: int | None = None
        config = plan.graph.config
        self.forgiving = config is not None and config.on_missing == "null"
        self.added = {node.id: base + k for k, node in enumerate(nodes)}
        self.unmet = [0] * len(nodes)
        self.joins: dict[int, Join] = {}
        self.plain: list[list[int] | None] = [None] * len(nodes)
        self.older: dict[int, list[int]] = {}  # new targets of what was there before
        self.special: dict[int, list[tuple[int, str | None]]] = {}

    def new_slot(self) -> int:
        self.into.size += 1
        return self.into.size - 1

    def extend(self) -> list[int]:
        """Compile the nodes and return their slots; the plan changes once nothing can go wrong."""
        plan, base, count = self.into, self.base, len(self.nodes)
        actions = self.resolve_actions()
        handlers, fallbacks = self.resolve_handlers(actions)
        self.wire()
        self.refuse_cycles()
        if not self.first:
            plan.unshare()
        plan.looked_up = self.known
        self.reserve(actions)
        if self.first:
            for name in plan.graph.inputs:
                plan.inputs[name] = self.new_slot()
        self.declare_parts(actions)
        joins, unmet = plan.joins, plan.unmet
        plan.roots += [
            slot
            for slot in range(base, base + count)
            if not unmet[slot]
            or (slot in joins and not joins[slot].open and joins[slot].rule is not Trigger.FAILED)
        ]
        kinds, limits, wrapped = plan.kinds, plan.limits, plan.wrapped
        for slot, node in enumerate(self.nodes, base):
            action = actions[slot - base]
            if self.bind(slot, node, action) or slot in joins:
                wrapped.append(slot)
            kind = ASYNC if action.is_async else 0
            limit = node.timeout if node.timeout is not None else action.timeout
            if limit is not None and action.style != "workflow":  # its run has the limit
                limits[slot] = limit
                kind |= TIMED
            kinds[slot] = kind
        self.note_rare(actions)
        vague = {each for each in set(actions) if each.may_iterate}
        if vague:
            plan.iterators.update(slot for slot, each in enumerate(actions, base) if each in vague)
        plan.disabled += [slot for slot, node in enumerate(self.nodes, base) if not node.enabled]
        plan.handlers.update(handlers)
        plan.fallbacks.update(fallbacks)
        plan.ids += [None] * (plan.size - len(plan.ids))
        plan.count += count
        plan.needs_loop = (
            plan.needs_loop
            or any(kinds[slot] & ASYNC for slot in range(base, base + count))
            or any(each.is_async for each in (*handlers.values(), *fallbacks.values()))
        )
        return list(range(base, base + count))

    def bind(self, slot: int, node: Node, action: ActionDef) -> bool:
        """Note what a node is called with; return whether its call has to know its run."""
        plan = self.into
        given = tuple([each.name for each in node.inputs])
        form = self.form(action, given)
        slots = [
            self.source_slot(action, node, k) if k < len(given) else self.nothing()
            for k in form.order
        ]
        plan.bindings[slot] = None if not slots else slots[0] if len(slots) == 1 else tuple(slots)
        plan.names[slot] = tuple([form.names[k] for k in form.order])
        plan.calls[slot] = form.call
        return form.wrapped

    def reserve(self, actions: list[ActionDef]) -> None:
        """Make room for the nodes, behind slots of values, which have nothing that nodes have."""
        plan, base, count = self.into, self.base, len(self.nodes)
        gap = base - len(plan.actions)
        nobody: Any = None
        plan.ids += [node.id for node in self.nodes]
        plan.index.update(self.added)
        plan.actions += [nobody] * gap + actions
        plan.calls += [nobody] * (gap + count)
        plan.bindings += [None] * (gap + count)
        plan.names += [()] * (gap + count)
        plan.kinds += bytes(gap + count)
        plan.unmet += [0] * gap + self.unmet
        plan.successors += [()] * gap
        plan.successors += [tuple(each) if each else () for each in self.plain]
        plan.joins.update(self.joins)
        plan.size += count
        for source, more in self.older.items():
            plan.successors[source] += tuple(more)
        for source, found in self.special.items():
            known = plan.special.get(source, ())
            plan.special[source] = tuple(sorted((*known, *found), key=lambda edge: edge[0]))
        if self.edges:
            plan.labelled |= {self.slot_of(edge.source) for edge in self.edges}
        if not self.first:
            for node in self.nodes:
                plan.replace(node)

    def slot_of(self, node_id: str) -> int:
        slot = self.added.get(node_id)
        return self.into.index[node_id] if slot is None else slot

    def resolve_actions(self) -> list[ActionDef]:
        found: list[ActionDef] = []
        problems: list[Problem] = []
        for node in self.nodes:
            if node.subgraph is not None:
                action = self.find_workflow(node.subgraph)
            else:
                action = self.find(node.action)
            if action is None and node.subgraph is not None:
                text = f"workflow {node.subgraph!r} is not loaded here; load it first"
                problems.append(Problem(text, Place(node=node.id), "unknown-workflow"))
            elif action is None:
                problems.append(
                    Problem(
                        f"no action {node.action!r} is registered; define it with @action, or "
                        "name the module that does",
                        Place(node=node.id),
                        "unknown-action",
                    )
                )
            else:
                found.append(action)
        if problems:
            raise ActionNotFound(problems)
        return found

    def find(self, name: str) -> ActionDef | None:
        action = self.known.get(name)
        if action is None:
            action = self.lookup(name)
            if action is not None:
                self.known[name] = action
        return action

    def find_workflow(self, name: str) -> ActionDef | None:
        known = self.into.workflows
        if name not in known and (found := self.workflow(name)) is not None:
            known[name] = found
        return known.get(name)

    def resolve_handlers(
        self, actions: list[ActionDef]
    ) -> tuple[dict[int, ActionDef], dict[int, ActionDef]]:
        """Return failure handlers and fallbacks by slot."""
        handlers: dict[int, ActionDef] = {}
        fallbacks: dict[int, ActionDef] = {}
        problems: list[Problem] = []
        for slot, (node, action) in enumerate(zip(self.nodes, actions, strict=True), self.base):
            failure = node.failure if node.failure is not None else action.failure
            fallback = node.fallback if node.fallback is not None else action.fallback
            if failure is None and fallback is None:
                continue
            for found, named, what in (
                (handlers, failure, "handle its failure"),
                (fallbacks, fallback, "be its fallback"),
            ):
                if named is None:
                    continue
                stand_in = self.find(named) if isinstance(named, str) else named
                if stand_in is None:
                    text = f"no action {named!r} is registered to {what}"
                    problems.append(Problem(text, Place(node=node.id), "unknown-action"))
                else:
                    found[slot] = stand_in
        if problems:
            raise ActionNotFound(problems)
        return handlers, fallbacks

    def rare(self, actions: list[ActionDef]) -> Iterator[tuple[Node, ActionDef]]:
        """Yield the nodes for which a rare field is set, with their actions."""
        plain: set[int] = set()  # actions that ask for nothing of this; most nodes neither
        for node, action in zip(self.nodes, actions, strict=True):
            if id(action) in plain and _asks_nothing(node):
                continue
            if _asks_nothing(action):
                plain.add(id(action))
                if _asks_nothing(node):
                    continue
            yield node, action

    def note_rare(self, actions: list[ActionDef]) -> None:
        """Note what is mapped, cached, freed, or started at most once."""
        plan = self.into
        for node, action in self.rare(actions):
            slot = self.added[node.id]
            strategy = node.cache_strategy
            strategy = action.cache_strategy if strategy is None else strategy
            if strategy is not None and strategy != CacheStrategy.NEVER:
                plan.cached[slot] = strategy
            effects = node.effects if node.effects is not None else action.effects
            if effects is Effects.AT_MOST_ONCE:
                plan.careful.add(slot)
            if (node.keep if node.keep is not None else action.keep) is False:
                plan.fleeting.add(slot)
            if node.map_over is not None:
                plan.mapped[slot] = self.mapped(slot, node)

    def mapped(self, slot: int, node: Node) -> Mapped:
        names = self.into.names[slot]
        if node.map_over not in names:
            text = f"it maps over {node.map_over!r}, which is none of its inputs {list(names)}"
            raise ValidationError((Problem(text, Place(node=node.id), "map-over"),))
        place = names.index(node.map_over)
        collect = node.map_errors == "collect"
        depth, batch = node.map_depth or 1, node.map_batch or 1
        return Mapped(node.map_over, place, depth, node.max_parallel, collect, batch)

    def declare_parts(self, actions: list[ActionDef]) -> None:
        plan = self.into
        for slot, node in enumerate(self.nodes, self.base):
            if node.map_over is not None:
                continue  # its value is the list, of which nothing has a name
            declared = (
                [each.name for each in node.outputs]
                if node.outputs
                else actions[slot - self.base].outputs
            )
            if declared:
                parts = plan.parts[slot] = tuple((name, self.new_slot()) for name in declared)
                for _, where in parts:
                    plan.owners[where] = slot

    def wire(self) -> None:
        """Sort the edges into the nodes by what settles them."""
        base, added, known = self.base, self.added, self.into.index
        plain, older, special = self.plain, self.older, self.special
        labelled: dict[str, list[tuple[int, str | None]]] = {}
        for edge in self.edges:
            labelled.setdefault(edge.target, []).append((added[edge.source], edge.when))
        for slot, node in enumerate(self.nodes, base):
            conditional = labelled.get(node.id) if labelled else None
            try:
                sources = [
                    added[source] if source in added else known[source]
                    for source in node.dependencies
                ]
            except KeyError as error:
                names = (*known, *added)
                raise DependencyNotFound(
                    (missing_dependency(node.id, str(error.args[0]), names),)
                ) from None
            if conditional:
                chosen = {source for source, _ in conditional}
                sources = [source for source in sources if source not in chosen]
                for source, when in conditional:
                    special.setdefault(source, []).append((slot, when))
            edges = len(sources) + (len(conditional) if conditional else 0)
            if node.trigger is Trigger.SUCCESS:
                self.unmet[slot - base] = edges
                for source in sources:
                    if source < base:
                        older.setdefault(source, []).append(slot)
                        continue
                    targets = plain[source - base]
                    if targets is None:
                        plain[source - base] = [slot]
                    else:
                        targets.append(slot)
            else:
                self.joins[slot] = Join(node.trigger, edges)
                self.unmet[slot - base] = 1 << 60
                for source in sources:
                    special.setdefault(source, []).append((slot, None))

    def refuse_cycles(self) -> None:
        """Refuse nodes that wait for each other; what was there before waits for none of them."""
        base, plain, special, count = self.base, self.plain, self.special, len(self.nodes)
        incoming = [0] * count
        for targets in plain:
            for target in targets or ():
                incoming[target - base] += 1
        for source, edges in special.items():
            if source >= base:
                for target, _ in edges:
                    incoming[target - base] += 1
        work = [k for k in range(count) if not incoming[k]]
        for k in work:  # grows while it is walked
            for target in plain[k] or ():
                incoming[target - base] -= 1
                if not incoming[target - base]:
                    work.append(target - base)
            for target, _ in special.get(k + base, ()):
                incoming[target - base] -= 1
                if not incoming[target - base]:
                    work.append(target - base)
        if len(work) < count:
            raise CycleError(self.cycle([k for k in range(count) if incoming[k]]))

    def cycle(self, left: Sequence[int]) -> Sequence[str]:
        """Return the ids on a cycle among nodes of which each waits for another."""
        import graphlib  # only graphs with a mistake pay for it

        sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
        for k in left:
            edges = self.special.get(k + self.base, ())
            for target in (*(self.plain[k] or ()), *(target for target, _ in edges)):
                sorter.add(self.nodes[target - self.base].id, self.nodes[k].id)
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            found: Sequence[str] = error.args[1]
            return found
        raise AssertionError("no cycle among nodes that wait for each other")

    def form(self, action: ActionDef, names: tuple[str, ...]) -> _Form:
        key = (id(action), names)
        form = self.forms.get(key)
        if form is None:
            form = self.forms[key] = _Form(action, names, self.forgiving)
        return form

    def nothing(self) -> int:
        """Return a slot that holds None."""
        if self.none is None:
            self.none = self.new_slot()
            self.into.constants.append((self.none, Literal(None)))
        return self.none

    def source_slot(self, action: ActionDef, node: Node, k: int) -> int:
        plan = self.into
        given = node.inputs[k]
        if given.reference is None:
            assert given.literal is not None
            slot = self.new_slot()
            plan.constants.append((slot, given.literal))
            return slot
        source, _, output = given.reference.partition(".")
        if source == "inputs":
            known = plan.inputs.get(output)
            if known is None:
                known = plan.inputs[output] = self.new_slot()
            levels = (node.map_depth or 1) if node.map_over == given.name else 0
            plan.input_uses.setdefault(output, {})[action, given.name, levels] = None
            return known
        slot = plan.index[source]
        parts = plan.parts.get(slot)
        if parts is None:
            return slot
        declared = dict(parts)
        if output == RESULT and RESULT not in declared:
            return slot  # the whole value
        return declared[output]
