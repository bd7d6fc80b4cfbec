"""`Plan`: a graph compiled to integers, once, for every run of it.

Each invocation has a slot. Slots of nodes come first, in declaration order; behind them stand the
slots of values that are not results: graph inputs, literals and the parts of split outputs. The hot
loop of a run touches these lists, never attrs objects, names or dictionaries of dictionaries.
Graphs that grow append slots.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final, final

import attrs

from dagger_dsl.engine.joins import Join
from dagger_dsl.errors import (
    ActionNotFound,
    CycleError,
    OutputError,
    Place,
    Problem,
    ValidationError,
)
from dagger_dsl.model.graph import RESULT, Graph, Node
from dagger_dsl.model.policies import CacheStrategy, Effects, Trigger
from dagger_dsl.model.values import Literal
from dagger_dsl.registry import ActionDef
from dagger_dsl.runners.base import ASYNC, TIMED

__all__ = ["UNSET", "Plan", "compile_plan"]


@final
class _Unset:
    """The type of `UNSET`: a slot in which nothing was written."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset()


@attrs.define(eq=False)
class Plan:
    """A compiled graph. Read only; one plan serves any number of runs.

    Attributes:
        graph: What was compiled.
        count: Number of nodes; their slots are ``0 .. count - 1``.
        ids: Node id by slot; None for slots of other values.
        index: Slot by node id.
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
        sinks: Ids of the nodes that no other one waits for, in declaration order.
        handlers: By slot, the failure handler.
        input_uses: By name of a graph input, the parameters it reaches.
        looked_up: The actions that were found, by the name they were looked up under.
        owners: By slot of a split output, the slot of its node.
        size: Number of slots.
        needs_loop: Something in the graph has to be awaited.
    """

    graph: Graph
    count: int
    ids: list[str | None]
    index: dict[str, int]
    successors: list[tuple[int, ...]]
    special: dict[int, tuple[tuple[int, str | None], ...]]
    unmet: list[int]
    joins: dict[int, Join]
    roots: list[int]
    disabled: list[int]
    actions: list[ActionDef]
    calls: list[Callable[..., Any]]
    bindings: list[int | tuple[int, ...] | None]
    names: list[tuple[str, ...]]
    kinds: bytearray
    wrapped: list[int]
    limits: dict[int, float]
    constants: list[tuple[int, Literal]]
    inputs: dict[str, int]
    parts: dict[int, tuple[tuple[str, int], ...]]
    labelled: frozenset[int]
    sinks: tuple[str, ...]
    handlers: dict[int, ActionDef]
    input_uses: dict[str, list[tuple[ActionDef, str]]]
    looked_up: dict[str, ActionDef]
    owners: dict[int, int]
    size: int
    needs_loop: bool

    def handler_kind(self, slot: int) -> int:
        """Return the kind of the call of a node's failure handler."""
        return ASYNC if self.handlers[slot].is_async else 0

    def source_of(self, slot: int) -> int | None:
        """Return the node whose value lies in *slot*, or None for inputs and literals."""
        return slot if slot < self.count else self.owners.get(slot)

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


#: Fields that the IR has for later versions, and the values that ask for nothing.
_LATER: Final[dict[str, tuple[Any, ...]]] = {
    "map_over": (None,),
    "max_parallel": (None,),
    "subgraph": (None,),
    "fallback": (None,),
    "effects": (None, Effects.AT_LEAST_ONCE),
    "keep": (None, True),
    "cache_strategy": (None, CacheStrategy.NEVER),
}


_asked = attrgetter("fallback", "effects", "keep", "cache_strategy")
_asked_of_nodes = attrgetter("map_over", "max_parallel", "subgraph")


def _asks_nothing(source: Node | ActionDef) -> bool:
    """Return whether every later field is unset; some values that are set are harmless too."""
    if isinstance(source, Node) and _asked_of_nodes(source) != (None, None, None):
        return False
    return bool(_asked(source) == (None, None, None, None))


class _Form:
    """How an action is called with inputs of certain names; shared by all nodes that do so."""

    __slots__ = ("call", "order", "wrapped")

    def __init__(self, action: ActionDef, names: tuple[str, ...]) -> None:
        self.wrapped = (
            action.style != "function"
            or action.ctx_param is not None
            or action.input_schema is not None
            or action.output_schema is not None
        )
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


def compile_plan(graph: Graph, lookup: Callable[[str], ActionDef | None]) -> Plan:
    """Compile *graph* with the actions that *lookup* finds.

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
        return _Compiler(graph, lookup).plan()
    finally:
        if collecting:
            gc.enable()


class _Compiler:
    """The state of one compilation; `plan` does the work in four passes over the nodes."""

    def __init__(self, graph: Graph, lookup: Callable[[str], ActionDef | None]) -> None:
        self.graph = graph
        self.lookup = lookup
        self.nodes = list(graph.nodes.values())
        self.count = len(self.nodes)
        self.index = {node.id: slot for slot, node in enumerate(self.nodes)}
        self.size = self.count
        self.inputs: dict[str, int] = {name: self.new_slot() for name in graph.inputs}
        self.constants: list[tuple[int, Literal]] = []
        self.parts: dict[int, tuple[tuple[str, int], ...]] = {}
        self.known: dict[str, ActionDef] = {}
        self.input_uses: dict[str, dict[tuple[ActionDef, str], None]] = {}
        self.forms: dict[tuple[int, tuple[str, ...]], _Form] = {}

    def new_slot(self) -> int:
        self.size += 1
        return self.size - 1

    def plan(self) -> Plan:
        actions = self.resolve_actions()
        self.refuse_later(actions)
        self.declare_parts(actions)
        successors, special, unmet, joins = self.wire()
        roots = [
            slot
            for slot in range(self.count)
            if not unmet[slot]
            or (slot in joins and not joins[slot].open and joins[slot].rule is not Trigger.FAILED)
        ]
        self.refuse_cycles(successors, special)
        calls: list[Callable[..., Any]] = []
        bindings: list[int | tuple[int, ...] | None] = []
        names: list[tuple[str, ...]] = []
        kinds = bytearray(self.count)
        limits: dict[int, float] = {}
        wrapped: list[int] = []
        for slot, node in enumerate(self.nodes):
            action = actions[slot]
            given = tuple([each.name for each in node.inputs])
            form = self.form(action, given)
            slots = [self.source_slot(action, node, k) for k in form.order]
            bindings.append(None if not slots else slots[0] if len(slots) == 1 else tuple(slots))
            names.append(tuple([given[k] for k in form.order]))
            calls.append(form.call)
            if form.wrapped or slot in joins:
                wrapped.append(slot)
            kind = ASYNC if action.is_async else 0
            limit = node.timeout if node.timeout is not None else action.timeout
            if limit is not None:
                limits[slot] = limit
                kind |= TIMED
            kinds[slot] = kind
        beside = self.size - self.count
        handlers = self.resolve_handlers(actions)
        return Plan(
            graph=self.graph,
            count=self.count,
            ids=[*(node.id for node in self.nodes), *([None] * beside)],
            index=self.index,
            successors=successors,
            special=special,
            unmet=unmet,
            joins=joins,
            roots=roots,
            disabled=[slot for slot, node in enumerate(self.nodes) if not node.enabled],
            actions=actions,
            calls=calls,
            bindings=bindings,
            names=names,
            kinds=kinds,
            wrapped=wrapped,
            limits=limits,
            constants=self.constants,
            inputs=self.inputs,
            parts=self.parts,
            sinks=tuple(
                node.id
                for slot, node in enumerate(self.nodes)
                if not successors[slot] and slot not in special
            ),
            handlers=handlers,
            input_uses={name: list(uses) for name, uses in self.input_uses.items()},
            looked_up=self.known,
            owners={where: slot for slot, parts in self.parts.items() for _, where in parts},
            labelled=frozenset(self.index[edge.source] for edge in self.graph.labelled),
            size=self.size,
            needs_loop=any(kind & ASYNC for kind in kinds)
            or any(handler.is_async for handler in handlers.values()),
        )

    def resolve_actions(self) -> list[ActionDef]:
        found: list[ActionDef] = []
        problems: list[Problem] = []
        for node in self.nodes:
            action = self.find(node.action)
            if action is None:
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

    def resolve_handlers(self, actions: list[ActionDef]) -> dict[int, ActionDef]:
        found: dict[int, ActionDef] = {}
        problems: list[Problem] = []
        for slot, node in enumerate(self.nodes):
            named = node.failure if node.failure is not None else actions[slot].failure
            if named is None:
                continue
            handler = self.find(named) if isinstance(named, str) else named
            if handler is None:
                problems.append(
                    Problem(
                        f"no action {named!r} is registered to handle its failure",
                        Place(node=node.id),
                        "unknown-action",
                    )
                )
            else:
                found[slot] = handler
        if problems:
            raise ActionNotFound(problems)
        return found

    def refuse_later(self, actions: list[ActionDef]) -> None:
        """Refuse what the IR can say and this version does not act on, rather than ignore it."""
        problems: dict[Problem, None] = {}  # an action's options stand on its nodes, too
        plain: set[int] = set()  # actions that ask for nothing of this; most nodes neither
        for node, action in zip(self.nodes, actions, strict=True):
            if id(action) in plain and _asks_nothing(node):
                continue
            if _asks_nothing(action):
                plain.add(id(action))
            for source in (node, action):
                for name, harmless in _LATER.items():
                    if getattr(source, name, None) not in harmless:
                        text = f"{name} is set, which this version does not act on; remove it"
                        problems[Problem(text, Place(node=node.id), "not-supported")] = None
        if problems:
            raise ValidationError(tuple(problems))

    def declare_parts(self, actions: list[ActionDef]) -> None:
        for slot, node in enumerate(self.nodes):
            declared = (
                [each.name for each in node.outputs] if node.outputs else actions[slot].outputs
            )
            if declared:
                self.parts[slot] = tuple((name, self.new_slot()) for name in declared)

    def wire(
        self,
    ) -> tuple[
        list[tuple[int, ...]],
        dict[int, tuple[tuple[int, str | None], ...]],
        list[int],
        dict[int, Join],
    ]:
        index, count = self.index, self.count
        labelled: dict[str, list[tuple[int, str | None]]] = {}
        for edge in self.graph.labelled:
            labelled.setdefault(edge.target, []).append((index[edge.source], edge.when))
        plain: list[list[int] | None] = [None] * count
        special: dict[int, list[tuple[int, str | None]]] = {}
        unmet = [0] * count
        joins: dict[int, Join] = {}
        for slot, node in enumerate(self.nodes):
            conditional = labelled.get(node.id) if labelled else None
            sources = [index[source] for source in node.dependencies]
            if conditional:
                chosen = {source for source, _ in conditional}
                sources = [source for source in sources if source not in chosen]
                for source, when in conditional:
                    special.setdefault(source, []).append((slot, when))
            edges = len(sources) + (len(conditional) if conditional else 0)
            if node.trigger is Trigger.SUCCESS:
                unmet[slot] = edges
                for source in sources:
                    targets = plain[source]
                    if targets is None:
                        plain[source] = [slot]
                    else:
                        targets.append(slot)
            else:
                joins[slot] = Join(node.trigger, edges)
                unmet[slot] = 1 << 60
                for source in sources:
                    special.setdefault(source, []).append((slot, None))
        successors: list[tuple[int, ...]] = [tuple(each) if each else () for each in plain]
        return (
            successors,
            {slot: tuple(sorted(edges, key=lambda e: e[0])) for slot, edges in special.items()},
            unmet,
            joins,
        )

    def refuse_cycles(
        self,
        successors: list[tuple[int, ...]],
        special: dict[int, tuple[tuple[int, str | None], ...]],
    ) -> None:
        incoming = [0] * self.count
        for targets in successors:
            for target in targets:
                incoming[target] += 1
        for edges in special.values():
            for target, _ in edges:
                incoming[target] += 1
        work = [slot for slot in range(self.count) if not incoming[slot]]
        for slot in work:  # grows while it is walked
            for target in successors[slot]:
                incoming[target] -= 1
                if not incoming[target]:
                    work.append(target)
            for target, _ in special.get(slot, ()):
                incoming[target] -= 1
                if not incoming[target]:
                    work.append(target)
        if len(work) < self.count:
            self.graph.topological_order()  # graphlib names the cycle
            raise CycleError([self.nodes[0].id])

    def form(self, action: ActionDef, names: tuple[str, ...]) -> _Form:
        key = (id(action), names)
        form = self.forms.get(key)
        if form is None:
            form = self.forms[key] = _Form(action, names)
        return form

    def source_slot(self, action: ActionDef, node: Node, k: int) -> int:
        given = node.inputs[k]
        if given.reference is None:
            assert given.literal is not None
            slot = self.new_slot()
            self.constants.append((slot, given.literal))
            return slot
        source, _, output = given.reference.partition(".")
        if source == "inputs":
            known = self.inputs.get(output)
            if known is None:
                known = self.inputs[output] = self.new_slot()
            self.input_uses.setdefault(output, {})[action, given.name] = None
            return known
        slot = self.index[source]
        parts = self.parts.get(slot)
        if parts is None:
            return slot
        declared = dict(parts)
        if output == RESULT and RESULT not in declared:
            return slot  # the whole value
        return declared[output]
