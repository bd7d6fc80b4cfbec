"""What victims run: graphs that stand, grow, map and ask, and what becomes of each undisturbed.

Every workload knows its own end without running: which invocations there are, what each takes its
values from, and what comes out. An invocation is called ``n5``, or ``m1[3]`` when it is one of a
mapped node's.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import attrs

from dagger_dsl.model.commands import AddNode, AddNodes, Command, NodeSpec, PauseBranch, ref
from dagger_dsl.model.context import DEFAULT_KEY, NodeCtx, NodeOutput
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.policies import Effects
from dagger_dsl.registry import Registry

__all__ = ["Note", "Spec", "Work", "name_of", "work_of"]

PARAMETERS = ("a", "b", "c")
CHAINS = 4

#: Writes a line to the log of the calls: what happened, and to which invocation.
Note = Callable[[str, str], None]


@attrs.frozen(kw_only=True)
class Spec:
    """What a victim does.

    Attributes:
        url: The database.
        log: Where calls are noted.
        run_id: The run.
        runner, slots, durability, flush: How it is run.
        kind: Which workload.
        nodes, layers, seed: Its size and shape.
        work: Seconds a body takes.
        mixed: Whether a third of the bodies are async; under asyncio they are anyway.
        large: Every so-manieth node returns a value that goes to an artifact file; 0 for none.
        max_crashes: See `DagConfig`.
        lease: See `Store`.
    """

    url: str
    log: str
    run_id: str = "run"
    runner: str = "sequential"
    slots: int = 4
    durability: str = "sync"
    flush: float = 0.0
    kind: str = "layers"
    nodes: int = 20
    layers: int = 5
    seed: int = 1
    work: float = 0.0
    mixed: bool = False
    large: int = 7
    max_crashes: int = 3
    lease: float = 15.0

    @classmethod
    def of_text(cls, text: str) -> Spec:
        """Return the spec that a command line holds."""
        return cls(**json.loads(text))

    def to_text(self) -> str:
        """Return what the command line holds."""
        return json.dumps(attrs.asdict(self))

    @property
    def at_once(self) -> int:
        """How many bodies run at the same time."""
        return 1 if self.runner == "sequential" else self.slots

    @property
    def has_async(self) -> bool:
        """Whether some bodies, and the hooks, are async."""
        return self.mixed or self.runner == "asyncio"


def name_of(node_id: str, key: str = DEFAULT_KEY) -> str:
    """Return what an invocation is called."""
    return node_id if key == DEFAULT_KEY else f"{node_id}[{key}]"


class Work(ABC):
    """One kind of run.

    Args:
        spec: Its size and shape.

    Attributes:
        streams: Generators, which are under way for as long as somebody reads them.
        asks: What people answer, by invocation.
        held: The branches that a hook pauses, each with its invocations.
        added: The nodes that come while it runs.
        once: What is called at most once, whoever dies.
    """

    streams: frozenset[str] = frozenset()
    asks: Mapping[str, Any] = {}
    held: Mapping[str, Sequence[str]] = {}
    added: frozenset[str] = frozenset()
    once: frozenset[str] = frozenset()

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    @property
    @abstractmethod
    def sources(self) -> Mapping[str, Sequence[str]]:
        """By invocation, what has to be recorded before it."""

    @property
    @abstractmethod
    def values(self) -> Mapping[str, Any]:
        """By invocation, what comes out in a run that nothing disturbs."""

    @property
    def called(self) -> frozenset[str]:
        """The invocations that have a body of their own."""
        return frozenset(self.sources)

    @abstractmethod
    def build(self, note: Note) -> tuple[Graph, Registry, list[Any]]:
        """Return the graph, its actions and its hooks; bodies note that they begin and end."""


def _answer(spec: Spec, k: int, values: Sequence[Any]) -> dict[str, Any]:
    number = (k + 31 * sum(each["n"] for each in values)) % 1_000_003
    large = bool(spec.large) and k % spec.large == 0
    return {"n": number, "text": f"{number} " * (20_000 if large else 1)}


# --- numbered nodes -------------------------------------------------------------------------------


class Numbered(Work):
    """Nodes ``n0``, ``n1``...; each takes its number and the values of up to three earlier ones."""

    @abstractmethod
    def draw(self, draw: random.Random) -> Iterator[Sequence[int]]:
        """Yield for each node what it takes its values from."""

    @cached_property
    def numbers(self) -> list[Sequence[int]]:
        """By node, its sources."""
        return list(self.draw(random.Random(self.spec.seed)))

    @cached_property
    def sources(self) -> Mapping[str, Sequence[str]]:
        """By node, its sources."""
        return {f"n{k}": [f"n{each}" for each in some] for k, some in enumerate(self.numbers)}

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """By node, its value."""
        found: list[Any] = []
        for k, some in enumerate(self.numbers):
            found.append(_answer(self.spec, k, [found[each] for each in some]))
        return {f"n{k}": value for k, value in enumerate(found)}

    def action(self, k: int) -> str:
        """Return which action a node calls."""
        kind = "async" if self.spec.has_async and k % 3 == 0 else "sync"
        return f"{kind}{len(self.numbers[k])}"

    def begins_with(self) -> int:
        """Return how many nodes there are at the start."""
        return self.spec.nodes

    def spec_of(self, k: int) -> NodeSpec:
        """Return what adds a node."""
        taken = {
            name: ref(f"n{source}.result")
            for name, source in zip(PARAMETERS, self.numbers[k], strict=False)
        }
        return NodeSpec(self.action(k), id=f"n{k}", inputs={"k": k, **taken})

    def node(self, k: int) -> Node:
        """Return a node of the first graph."""
        return self.spec_of(k).to_node()

    def result(self, k: int, value: Any) -> Any:
        """Return what a body answers with."""
        return value

    def hooks(self, note: Note) -> list[Any]:
        """Return the hooks."""
        return []

    def build(self, note: Note) -> tuple[Graph, Registry, list[Any]]:
        """Return the graph, its actions and its hooks."""
        registry = Registry()
        for name, body in self.bodies(note).items():
            registry.register(body, name)
        nodes = [self.node(k) for k in range(self.begins_with())]
        return Graph("victim", nodes), registry, self.hooks(note)

    def bodies(self, note: Note) -> dict[str, Callable[..., Any]]:
        """Return the actions by name."""
        spec = self.spec

        def call(k: int, *values: Any) -> Any:
            note("begin", f"n{k}")
            if spec.work:
                time.sleep(spec.work)
            answer = self.result(k, _answer(spec, k, values))
            note("end", f"n{k}")
            return answer

        async def call_async(k: int, *values: Any) -> Any:
            note("begin", f"n{k}")
            await asyncio.sleep(spec.work)
            answer = self.result(k, _answer(spec, k, values))
            note("end", f"n{k}")
            return answer

        async def async0(k: int) -> Any:
            return await call_async(k)

        async def async1(k: int, a: Any) -> Any:
            return await call_async(k, a)

        async def async2(k: int, a: Any, b: Any) -> Any:
            return await call_async(k, a, b)

        async def async3(k: int, a: Any, b: Any, c: Any) -> Any:
            return await call_async(k, a, b, c)

        return {
            "sync0": lambda k: call(k),
            "sync1": lambda k, a: call(k, a),
            "sync2": lambda k, a, b: call(k, a, b),
            "sync3": lambda k, a, b, c: call(k, a, b, c),
            "async0": async0,
            "async1": async1,
            "async2": async2,
            "async3": async3,
        }


class Layers(Numbered):
    """A graph that is there from the start."""

    def draw(self, draw: random.Random) -> Iterator[Sequence[int]]:
        """Yield for each node up to three of the layer before."""
        size = max(1, self.spec.nodes // self.spec.layers)
        for k in range(self.spec.nodes):
            layer = k // size
            before = range((layer - 1) * size, layer * size) if layer else range(0)
            yield draw.sample(before, min(len(before), 3))


# --- graphs that grow -----------------------------------------------------------------------------


class Growing(Numbered):
    """A graph that a hook makes grow when nodes complete."""

    @abstractmethod
    def follows(self, k: int) -> Sequence[int]:
        """Return the nodes that come when a node completes."""

    @cached_property
    def added(self) -> frozenset[str]:  # type: ignore[override]  # an attribute like any other
        """The nodes that come while it runs."""
        return frozenset(f"n{k}" for k in range(self.begins_with(), self.spec.nodes))

    def answer(self, event: NodeCompleted, note: Note) -> Command | None:
        """Return the command that a completion is answered with."""
        note("shown", event.node.node_id)
        new = self.follows(int(event.node.node_id[1:]))
        if len(new) == 1:
            return AddNode(self.spec_of(new[0]))
        return AddNodes([self.spec_of(k) for k in new]) if new else None

    def hooks(self, note: Note) -> list[Any]:
        """Return the hook; an async one where bodies are."""

        def grow(_ctx: Any, event: Any) -> Command | None:
            return self.answer(event, note) if isinstance(event, NodeCompleted) else None

        async def grow_async(ctx: Any, event: Any) -> Command | None:
            await asyncio.sleep(0)
            return grow(ctx, event)

        return [grow_async if self.spec.has_async else grow]


class OneByOne(Growing):
    """Four chains; each node that completes brings the next one of its chain."""

    def begins_with(self) -> int:
        """Return the number of chains."""
        return min(CHAINS, self.spec.nodes)

    def draw(self, draw: random.Random) -> Iterator[Sequence[int]]:
        """Yield for each node the one before, and some of those that it can rely on."""
        for k in range(self.spec.nodes):
            if k < CHAINS:
                yield ()
                continue
            surely = [*range(CHAINS), *range(k % CHAINS + CHAINS, k - CHAINS, CHAINS)]
            surely = [each for each in surely if each != k - CHAINS]
            yield (k - CHAINS, *draw.sample(surely, min(len(surely), draw.randrange(3))))

    def follows(self, k: int) -> Sequence[int]:
        """Return the next node of the chain."""
        return [k + CHAINS] if k + CHAINS < self.spec.nodes else []


class InAnswers(OneByOne):
    """The same, but each node's own answer adds the next one."""

    def result(self, k: int, value: Any) -> Any:
        """Return a body's value with the command."""
        commands = [AddNode(self.spec_of(new)) for new in self.follows(k)]
        return NodeOutput(value, commands=commands, split=False) if commands else value

    def hooks(self, note: Note) -> list[Any]:
        """Return none."""
        return []


class Batches(Growing):
    """Nodes come in batches and depend on each other; the first of a batch brings the next one."""

    @property
    def size(self) -> int:
        """Nodes of one batch."""
        return max(3, self.spec.nodes // 11)

    def begins_with(self) -> int:
        """Return the size of the first batch."""
        return min(self.size, self.spec.nodes)

    def draw(self, draw: random.Random) -> Iterator[Sequence[int]]:
        """Yield for each node earlier ones of its batch and of the batch before."""
        for k in range(self.spec.nodes):
            first = k - k % self.size
            before = range(max(0, first - self.size), k)
            yield draw.sample(before, min(len(before), draw.randrange(4)))

    def follows(self, k: int) -> Sequence[int]:
        """Return the next batch."""
        if k % self.size:
            return []
        return range(k + self.size, min(k + 2 * self.size, self.spec.nodes))


# --- people ---------------------------------------------------------------------------------------

HELD = "held"


class People(Layers):
    """Every fourth node asks a person; the last third is a branch that a hook pauses at once."""

    def action(self, k: int) -> str:
        """Return which action a node calls."""
        return f"ask{len(self.numbers[k])}" if f"n{k}" in self.asks else super().action(k)

    @cached_property
    def asks(self) -> Mapping[str, Any]:  # type: ignore[override]
        """What people answer: what the node would have computed."""
        return {f"n{k}": self.values[f"n{k}"] for k in range(1, self.spec.nodes, 4)}

    @cached_property
    def held(self) -> Mapping[str, Sequence[str]]:  # type: ignore[override]
        """The branch."""
        return {HELD: [f"n{k}" for k in range(2 * self.spec.nodes // 3, self.spec.nodes)]}

    def spec_of(self, k: int) -> NodeSpec:
        """Return a node, with its branch."""
        found = super().spec_of(k)
        return attrs.evolve(found, branch=HELD if f"n{k}" in self.held[HELD] else None)

    def hooks(self, note: Note) -> list[Any]:
        """Return the hook that pauses the branch; an async one where bodies are."""

        def hold(_ctx: Any, event: Any) -> Command | None:
            if isinstance(event, NodeCompleted) and event.node.node_id == "n0":
                return PauseBranch(HELD, "somebody has to look at it")
            return None

        async def hold_async(ctx: Any, event: Any) -> Command | None:
            await asyncio.sleep(0)
            return hold(ctx, event)

        return [hold_async if self.spec.has_async else hold]

    def bodies(self, note: Note) -> dict[str, Callable[..., Any]]:
        """Return the actions by name."""

        def ask(ctx: NodeCtx, k: int) -> Any:
            note("begin", f"n{k}")
            if self.spec.work:
                time.sleep(self.spec.work)
            note("end", f"n{k}")
            return ctx.wait_for_human(f"What is n{k}?", schema={"required": ["n", "text"]})

        def ask0(ctx: NodeCtx, k: int) -> Any:
            return ask(ctx, k)

        def ask1(ctx: NodeCtx, k: int, a: Any) -> Any:
            return ask(ctx, k)

        def ask2(ctx: NodeCtx, k: int, a: Any, b: Any) -> Any:
            return ask(ctx, k)

        def ask3(ctx: NodeCtx, k: int, a: Any, b: Any, c: Any) -> Any:
            return ask(ctx, k)

        return {
            **super().bodies(note),
            "ask0": ask0,
            "ask1": ask1,
            "ask2": ask2,
            "ask3": ask3,
        }


class Careful(Layers):
    """Every third node starts at most once; people are asked about those that have died."""

    @cached_property
    def once(self) -> frozenset[str]:  # type: ignore[override]
        """Every third node."""
        return frozenset(f"n{k}" for k in range(0, self.spec.nodes, 3))

    @cached_property
    def asks(self) -> Mapping[str, Any]:  # type: ignore[override]
        """What people answer: what the node would have computed."""
        return {name: self.values[name] for name in self.once}

    def node(self, k: int) -> Node:
        """Return a node, with its effects."""
        effects = Effects.AT_MOST_ONCE if f"n{k}" in self.once else None
        return super().node(k).replace(effects=effects)


# --- mapped nodes ---------------------------------------------------------------------------------


class MappedNodes(Work):
    """A list and the map of its map, a generator, a list of lists, and a node that takes all."""

    streams = frozenset(("stream",))

    @cached_property
    def width(self) -> int:
        """Items of the list and of the generator."""
        return max(2, self.spec.nodes // 4)

    @cached_property
    def rows(self) -> int:
        """Lists in the list of lists; their lengths differ, and one is empty."""
        return max(2, math.isqrt(self.width))

    def _keys(self, node: str) -> list[str]:
        if node == "m4":
            return [f"{i}.{j}" for i in range(self.rows) for j in range(i)]
        return [str(i) for i in range(self.width)]

    def _item(self, node: str, key: str) -> dict[str, Any]:
        k = 1000 * int(node[1:]) + sum(map(int, key.split(".")))
        return {"at": key, **_answer(self.spec, k, ())}

    @cached_property
    def sources(self) -> Mapping[str, Sequence[str]]:
        """By invocation, what it takes its value from."""
        found: dict[str, Sequence[str]] = {"list": (), "stream": (), "grid": ("list",)}
        leads = {"m1": "list", "m2": None, "m3": None, "m4": "grid"}
        for node, lead in leads.items():
            for key in self._keys(node):
                pair = (f"m1[{key}]",) if node == "m2" else ()
                found[f"{node}[{key}]"] = pair if lead is None else (lead,)
            whole = [f"{node}[{key}]" for key in self._keys(node)]
            found[node] = [*whole, "stream"] if node == "m3" else whole
        found["total"] = ("m2", "m3", "m4")
        return found

    @property
    def called(self) -> frozenset[str]:
        """Everything but the nodes that gather."""
        return frozenset(self.sources) - {"m1", "m2", "m3", "m4"}

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """By invocation, its value."""
        found: dict[str, Any] = {
            "list": [self._item("m1", key) for key in self._keys("m1")],
            "stream": [self._item("m3", key) for key in self._keys("m3")],
            "grid": self._grid(),
        }
        for node in ("m1", "m2", "m3", "m4"):
            for key in self._keys(node):
                before = found[f"m1[{key}]"] if node == "m2" else self._item(node, key)
                found[f"{node}[{key}]"] = self._step(node, before)
            found[node] = [found[f"{node}[{key}]"] for key in self._keys(node)]
        found["m4"] = [[found[f"m4[{i}.{j}]"] for j in range(i)] for i in range(self.rows)]
        found["total"] = self._sum(found["m2"], found["m3"], found["m4"])
        return found

    def _grid(self) -> list[list[Any]]:
        return [[self._item("m4", f"{i}.{j}") for j in range(i)] for i in range(self.rows)]

    def _step(self, node: str, item: Mapping[str, Any]) -> dict[str, Any]:
        return {"at": item["at"], **_answer(self.spec, int(node[1:]), (item,))}

    def _sum(self, *lists: Any) -> int:
        a, b, c = lists
        return sum(int(each["n"]) for each in (*a, *b, *(each for row in c for each in row)))

    def build(self, note: Note) -> tuple[Graph, Registry, list[Any]]:
        """Return the graph, its actions and its hooks."""
        registry = Registry()
        for name, body in self._bodies(note).items():
            registry.register(body, name)

        return Graph("victim", self._nodes()), registry, self._hooks(note)

    def _nodes(self) -> list[Node]:
        """Return the nodes of the first graph."""
        return [each.to_node() for each in self._specs()]

    def _hooks(self, note: Note) -> list[Any]:
        return []

    def _specs(self) -> list[NodeSpec]:
        def mapped(node: str, over: str, **fields: Any) -> NodeSpec:
            taken = {"x": ref(f"{over}.result")}
            return NodeSpec(node, id=node, inputs=taken, map_over="x", **fields)

        parts = zip(PARAMETERS, ("m2", "m3", "m4"), strict=True)
        return [
            NodeSpec("list", id="list"),
            mapped("m1", "list"),
            mapped("m2", "m1"),
            NodeSpec("stream", id="stream"),
            mapped("m3", "stream"),
            NodeSpec("grid", id="grid", deps=["list"]),
            mapped("m4", "grid", map_depth=2, max_parallel=2),
            NodeSpec(
                "total",
                id="total",
                inputs={name: ref(f"{node}.result") for name, node in parts},
            ),
        ]

    def _bodies(self, note: Note) -> dict[str, Callable[..., Any]]:
        spec, values = self.spec, self.values

        def source(name: str) -> Callable[[], Any]:
            def body() -> Any:
                note("begin", name)
                note("end", name)
                return values[name]

            return body

        def step(node: str) -> Callable[[Any], Any]:
            def body(x: Any) -> Any:
                note("begin", f"{node}[{x['at']}]")
                if spec.work:
                    time.sleep(spec.work)
                found = self._step(node, x)
                note("end", f"{node}[{x['at']}]")
                return found

            async def body_async(x: Any) -> Any:
                note("begin", f"{node}[{x['at']}]")
                await asyncio.sleep(spec.work)
                found = self._step(node, x)
                note("end", f"{node}[{x['at']}]")
                return found

            return body_async if spec.has_async and node in ("m2", "m4") else body

        def stream() -> Iterator[Any]:
            note("begin", "stream")
            for item in values["stream"]:
                if spec.work:
                    time.sleep(spec.work / 4)
                yield item
            note("end", "stream")

        async def stream_async() -> AsyncIterator[Any]:
            note("begin", "stream")
            for item in values["stream"]:
                await asyncio.sleep(spec.work / 4)
                yield item
            note("end", "stream")

        def total(a: Any, b: Any, c: Any) -> int:
            note("begin", "total")
            found = self._sum(a, b, c)
            note("end", "total")
            return found

        return {
            "list": source("list"),
            "grid": source("grid"),
            "stream": stream_async if spec.has_async else stream,
            "total": total,
            **{node: step(node) for node in ("m1", "m2", "m3", "m4")},
        }


class MapsAdded(MappedNodes):
    """The same, but a hook adds the maps when what they map over completes."""

    follows: Mapping[str, Sequence[str]] = {"list": ("m1", "m2"), "grid": ("m4", "total")}

    @cached_property
    def added(self) -> frozenset[str]:  # type: ignore[override]
        """The maps, and the node that takes what comes of them."""
        return frozenset(name for names in self.follows.values() for name in names)

    def _nodes(self) -> list[Node]:
        return [each for each in super()._nodes() if each.id not in self.added]

    def _hooks(self, note: Note) -> list[Any]:
        specs = {each.id: each for each in self._specs()}

        def grow(_ctx: Any, event: Any) -> Command | None:
            if not isinstance(event, NodeCompleted):
                return None
            note("shown", name_of(event.node.node_id, event.node.invocation_key))
            new = self.follows.get(event.node.node_id, ())
            return AddNodes([specs[name] for name in new]) if new else None

        return [grow]


_KINDS: dict[str, type[Work]] = {
    "layers": Layers,
    "one by one": OneByOne,
    "in answers": InAnswers,
    "in batches": Batches,
    "people": People,
    "careful": Careful,
    "mapped": MappedNodes,
    "maps added": MapsAdded,
}


def work_of(spec: Spec) -> Work:
    """Return the workload that a spec describes."""
    return _KINDS[spec.kind](spec)
