"""A process that dies between any two commits: the run ends as if it had not died.

A run is played once without a death, and everything that it committed is kept. Then every prefix of
its commits is taken for what a dead process left behind, and resumed, with a second death somewhere
in every third of them. What bodies return follows from their node and their inputs, so every
resumed run has to end with the same graph, states and values; nothing whose result was recorded is
called again, and what hooks asked for is applied once.

Runs of four kinds. `Anything`: commands about anything, one call at a time, so that what depends on
the order comes out the same. `Stopping`: graphs that grow until a failure stops or pauses the run,
and after it. `Independent`: several calls at a time, retries, results that are not stored, and
commands whose effect does not depend on the order. And a fixed one, with mapped nodes.
"""

from __future__ import annotations

import itertools
import json
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

import attrs
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from dagger_dsl.engine.control import CancelToken
from dagger_dsl.engine.coordinator import Coordinator
from dagger_dsl.engine.hooks import bind_hooks
from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.plan import compile_plan
from dagger_dsl.engine.recorder import Recorder
from dagger_dsl.engine.report import RunReport
from dagger_dsl.engine.steering import Origin
from dagger_dsl.engine.watch import Observers
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    CancelBranch,
    Command,
    EmitEvent,
    NodeSpec,
    PauseBranch,
    ResumeBranch,
    SetNodeInputs,
    SetNodesEnabled,
    ref,
)
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import Failed, NodeCtx, NodeOutput
from dagger_dsl.model.events import CustomEvent, NodeCompleted
from dagger_dsl.model.graph import RESULT, Graph, Input, Node
from dagger_dsl.registry import Registry
from dagger_dsl.testing import FakeClock
from tests.engine.helpers import IMMEDIATE
from tests.engine.reference import NOTHING
from tests.engine.simulation import Features, MemoryStore, Scenario
from tests.scale import count

EXAMPLES = count(200)

Answers = dict[str, list[Command]]


# --- one process ---------------------------------------------------------------------------------


@attrs.frozen
class Work:
    """What is run, and what steers it: the same in every process.

    Attributes:
        graph: What it begins with.
        registry: Its actions.
        answers: What hooks ask for, by the name of an event.
        requests: What is asked for from outside, by how many nodes have completed then.
        slots: How many calls there are at a time.
        stops: Whether failures stop the run: what was cancelled for it may be skipped by a resume,
            before the node that failed fails again.
        calls: What was called, in order: node, key and attempt.
        lost: Nodes whose result was not there when hooks were shown their completion.
    """

    graph: Graph
    registry: Registry
    answers: Mapping[str, Sequence[Command]] = attrs.field(factory=dict)
    requests: Mapping[int, Sequence[Command]] = attrs.field(factory=dict)
    slots: int = 1
    stops: bool = False
    calls: list[tuple[str, str, int]] = attrs.field(factory=list)
    lost: list[str] = attrs.field(factory=list)

    def handle(self, _ctx: Any, event: Any) -> Sequence[Command] | None:
        """Answer an event, as a hook; note whose outcome has no value."""
        if isinstance(event, CustomEvent):
            return self.answers.get(f"{event.name} {event.payload}")
        kind, node_id = event.__class__.__name__, event.node.node_id
        if isinstance(event, NodeCompleted):
            if not event.outcome.success:
                kind = "NodeFailed"
            elif event.outcome.outputs.get(RESULT, 0) is None:
                self.lost.append(node_id)
        return self.answers.get(f"{kind} {node_id}")


@attrs.frozen
class End:
    """How a run ended.

    Attributes:
        status: Its status.
        states: By node.
        values: Of the nodes that completed, where it is stored.
        news: How many custom events there were.
    """

    status: str
    states: Mapping[str, str]
    values: Mapping[str, Any]
    news: int


class Process:
    """One process that drives a run to its end.

    Args:
        work: What it does.
        store: Where it is kept.
        seed: The order in which calls come back, where there are several.
    """

    def __init__(self, work: Work, store: MemoryStore, seed: str) -> None:
        self.work = work
        self.rng = random.Random(seed)
        self.clock = FakeClock()
        token = CancelToken()
        recorder = Recorder(store, "run", own=False)  # type: ignore[arg-type]
        recorder.claim("sync")
        self.run = Run(
            plan=compile_plan(work.graph, work.registry.get),
            run_id="run",
            options=RunOptions(),
            config=DagConfig(),
            inputs={},
            token=token,
            registry=work.registry,
            slots=work.slots,
            clock=self.clock,
            journal=recorder.journal,
        )
        if store.log:
            recorder.restore(self.run, "warn", hooked=True)
        else:
            recorder.begin(self.run, hooked=True)
        hooks = bind_hooks([work], work.registry, work.graph.name)
        self.coordinator = Coordinator(self.run, Observers(self.run, hooks, None))
        token.subscribe(self.coordinator.stop)
        self.run.began = self.clock()
        self.sent: set[int] = set()

    def live(self) -> End:
        """Drive the run to its end."""
        board, work = self.run.board, self.work
        flying: list[tuple[int, Any]] = []
        alive = self.step()
        while alive:
            if self.ask():
                alive = self.step()
                continue
            while board.go and len(flying) < work.slots:
                flying.append(self.launch(board.go.popleft()))
            if flying:
                self.deliver(*flying.pop(self.rng.randrange(len(flying))))
                self.clock.advance(self.rng.choice((0.0, 0.001, 1.0)) if work.slots > 1 else 1.0)
            else:
                assert board.wake_at != inf, "nothing runs, nothing waits: it hangs"
                self.clock.advance(max(0.0, board.wake_at - self.clock()))
            alive = self.step()
        return end_of(self.run, self.work)

    def step(self) -> bool:
        """Take a turn."""
        alive = self.coordinator.step(self.clock())
        if self.coordinator.error is not None:
            raise self.coordinator.error
        return alive

    def ask(self) -> bool:
        """Ask for what is due; whoever does not know what became of it asks again."""
        done = sum(str(state) == "completed" for state in self.run.report().states().values())
        due = [number for number in self.work.requests if number <= done]
        new = [number for number in due if number not in self.sent]
        for number in new:
            self.sent.add(number)
            for k, command in enumerate(self.work.requests[number]):
                origin = Origin("a test", f"request {number} {k}")
                self.coordinator.submit(command, origin, lambda _error: None)
        return bool(new)

    def launch(self, slot: int) -> tuple[int, Any]:
        """Play a worker that takes a call."""
        board = self.run.board
        if board.announce is not None:
            assert board.announce(slot, self.clock())
        board.started[slot] = self.clock()
        try:
            return slot, board.calls[slot](*board.arguments(slot))
        except Exception as error:
            return slot, error

    def deliver(self, slot: int, answer: Any) -> None:
        """Bring what a call came to."""
        board = self.run.board
        board.ended[slot] = self.clock()
        if isinstance(answer, BaseException):
            board.odd.append((slot, answer))
        else:
            board.settle(slot, answer)


def end_of(run: Run, work: Work) -> End:
    """Return how a run ended."""
    report: RunReport = run.report()
    states = {node_id: str(state) for node_id, state in report.states().items()}
    if work.stops:
        states = {node: state.replace("cancelled", "skipped") for node, state in states.items()}
    values = {
        node_id: json.dumps(run.value(run.plan.index[node_id]), default=shown, sort_keys=True)
        for node_id, state in states.items()
        if state == "completed" and run.plan.actions[run.plan.index[node_id]].store
    }
    return End(str(report.status), states, values, run.emitted)


def shown(value: Any) -> Any:
    """Return what stands for a value that is no JSON; how often it was tried may differ."""
    assert isinstance(value, Failed)
    return {"failed": value.key, "type": value.type}


def recorded(store: MemoryStore) -> set[tuple[str, str]]:
    """Return the invocations whose result is in a store."""
    found: dict[tuple[str, str], bool] = {}
    for row in store.in_order():
        if row[6] is not None:
            stored = json.loads(row[9] or "{}").get("stored", True)
            found[row[0], row[1]] = row[3] == "completed" and stored
    return {place for place, is_there in found.items() if is_there}


def check_every_position(work: Work, seed: int) -> int:
    """Play a run, and once more from every prefix of its commits; return their number."""
    whole = MemoryStore()
    process = Process(work, whole, f"{seed}")
    expected = process.live()
    sent = {number: work.requests[number] for number in process.sent}
    work = attrs.evolve(work, requests=sent)  # nobody asks for more of a run that has ended
    for position in range(len(whole.log) + 1):
        store = MemoryStore(whole.log[:position])
        resume(work, store, expected, f"{seed} {position}")
        if position % 3 == seed % 3:  # and dies again
            again = random.Random(f"{seed} {position}").randint(position, len(store.log))
            resume(work, MemoryStore(store.log[:again]), expected, f"{seed} {position} {again}")
    return len(whole.log)


def resume(work: Work, store: MemoryStore, expected: End, seed: str) -> None:
    """Resume a run; it ends as it should, and calls nothing whose result is recorded."""
    done = recorded(store)
    work.calls.clear()
    position = len(store.log)
    end = Process(work, store, seed).live()
    assert end == expected, f"resumed after {position} commits"
    again = done & {(node_id, key) for node_id, key, _ in work.calls}
    assert not again, f"called again after {position} commits"
    keys = Counter(each.key for each in store.commands if each.key is not None)
    assert not keys or max(keys.values()) == 1
    assert not work.lost


# --- what is run ---------------------------------------------------------------------------------


class Bodies:
    """Registers actions whose answers follow from the node and its inputs alone.

    Args:
        seed: Where everything is drawn.
        failures: Share of nodes that fail, all of them at every attempt.
        flaky: Share of nodes that fail at their first attempt, where they have several.
    """

    def __init__(self, seed: int, failures: float, flaky: float) -> None:
        self.seed = seed
        self.failures = failures
        self.flaky = flaky
        self.calls: list[tuple[str, str, int]] = []
        self.choosers: set[str] = set()
        self.several: set[str] = set()
        self.registry = Registry()

        def act(ctx: NodeCtx, a: Any = NOTHING, b: Any = NOTHING, c: Any = NOTHING) -> Any:
            return self.answer(ctx, [a, b, c])

        def split(ctx: NodeCtx, a: Any = NOTHING, b: Any = NOTHING, c: Any = NOTHING) -> Any:
            found = self.answer(ctx, [a, b, c])
            return {"result": found, "extra": 7} if isinstance(found, str) else found

        def rescue(node_id: str) -> Any:
            return f"rescued {node_id}" if self.luck(f"rescue {node_id}") < 0.7 else None

        self.registry.register(act)
        self.registry.register(act, "unstored", store=False)
        self.registry.register(split, outputs=["result", "extra"])
        self.registry.register(rescue)
        self.registry.register(act, "rescued", failure="rescue")

    def luck(self, name: str) -> float:
        """Return a number that is always the same for a name."""
        return random.Random(f"{self.seed} {name}").random()

    def answer(self, ctx: NodeCtx, inputs: list[Any]) -> Any:
        """Return what one call answers."""
        node_id = ctx.node_id
        self.calls.append((node_id, ctx.invocation_key, ctx.attempt))
        luck = self.luck(node_id)
        if luck < self.failures / 3:
            return NodeOutput.failure("no")
        if luck < self.failures:
            raise ConnectionError(node_id)
        if node_id in self.several and luck > 1 - self.flaky and ctx.attempt == 1:
            raise ConnectionError("once")
        if node_id in self.choosers:
            return random.Random(f"{self.seed} {node_id}").choice(("x", "y", ["x", "y"], True, "z"))
        return f"{node_id} {zlib.crc32(json.dumps(inputs).encode())}"


class Plot:
    """Draws a graph and what steers its run.

    Args:
        size: Number of nodes.
        seed: Where everything is drawn.
        features: What the graph may have.
        failures: Share of nodes that fail.
        flaky: Share of nodes that are called twice.

    Attributes:
        policy: What a failure of a node does that is added.
    """

    policy = "continue"

    def __init__(
        self,
        size: int,
        seed: int,
        features: Features,
        failures: float = 0.0,
        flaky: float = 0.0,
    ) -> None:
        self.rng = random.Random(f"plot {seed}")
        self.recipes = dict(Scenario(size, seed, features).recipes)
        self.bodies = Bodies(seed, self.rng.choice((failures, failures / 3)), flaky)
        self.bodies.choosers |= {each.id for each in self.recipes.values() if each.chooses}
        self.bodies.several |= {each.id for each in self.recipes.values() if each.attempts > 1}
        scenario = Scenario(size, seed, features).graph
        nodes = [
            node.replace(action="act" if self.recipes[node_id].stored else "unstored")
            for node_id, node in scenario.nodes.items()
        ]
        self.graph = Graph("crashes", nodes, scenario.labelled)
        self.answers: Answers = {}
        self.requests: dict[int, list[Command]] = {}
        self.serial = itertools.count()

    def work(self, slots: int) -> Work:
        """Return what was drawn."""
        bodies = self.bodies
        return Work(
            self.graph,
            bodies.registry,
            self.answers,
            self.requests,
            slots,
            self.policy == "stop",
            bodies.calls,
        )

    def changed(self, **fields: Any) -> Graph:
        """Return the graph with some fields of every node changed, and no `any` joins."""
        nodes = [
            node.replace(
                trigger="done" if str(node.trigger) == "any" else node.trigger,
                **fields,
            )
            for node in self.graph.nodes.values()
        ]
        return Graph("crashes", nodes, self.graph.labelled)

    def answer(self, event: str, *commands: Command) -> None:
        """Let hooks answer an event."""
        self.answers.setdefault(event, []).extend(commands)

    def add(self, deps: Sequence[str], known: Sequence[str], rules: Sequence[str]) -> Command:
        """Return a command that adds one to three nodes behind others.

        Args:
            deps: What all of them wait for.
            known: What their inputs may refer to.
            rules: Their triggers.
        """
        rng = self.rng
        ids = [f"g{next(self.serial)}" for _ in range(rng.choice((1, 1, 2, 3)))]
        specs = []
        for k, node_id in enumerate(ids):
            mates = [each for each in ids[:k] if rng.random() < 0.5]
            sources = [*deps, *mates]
            inputs: dict[str, Any] = {}
            for name in ("a", "b", "c")[: rng.choice((0, 1, 2))]:
                source = rng.choice([*known, *mates] if known or mates else [""])
                inputs[name] = ref(f"{source}.result") if source else rng.randint(0, 9)
            specs.append(
                NodeSpec(
                    rng.choice(("act", "act", "split", "rescued")),
                    node_id,
                    sources,
                    inputs,
                    trigger=rng.choice(rules),
                    on_failure=self.policy,
                )
            )
        rng.shuffle(specs)
        self.later(ids)
        return AddNode(specs[0]) if len(specs) == 1 else AddNodes(specs)

    def later(self, ids: Iterable[str]) -> None:
        """Take note of nodes that may come to be."""


class Anything(Plot):
    """Commands about anything, for runs with one call at a time in which nothing fails.

    A failed node gets another chance on resume. Commands that were given after its failure are
    about it, too, by then, and what came after it comes later.
    """

    def __init__(self, size: int, seed: int) -> None:
        # What is disabled is skipped when hooks had their say: the order depends on when that was.
        features = Features(retries=False, unstored=False, outputs=False, disabled=False)
        super().__init__(size, seed, features)
        self.known = list(self.recipes)
        for node_id in self.known:  # grows while it is walked
            if self.rng.random() < 0.3:
                event = f"NodeCompleted {node_id}"
                self.answer(event, *(self.draw(node_id) for _ in range(self.rng.choice((1, 1, 2)))))
        for _ in range(self.rng.choice((0, 0, 1, 3))):
            self.requests.setdefault(self.rng.randint(0, size), []).append(self.draw(None))

    def later(self, ids: Iterable[str]) -> None:
        """Let what is added be named by other commands."""
        if len(self.known) < 2 * len(self.recipes):
            self.known += ids

    def draw(self, near: str | None) -> Command:
        """Return a command about anything."""
        rng = self.rng
        one = near if near is not None and rng.random() < 0.2 else rng.choice(self.known)
        match rng.randrange(8):
            case 0 | 1:
                some = rng.sample(self.known, min(len(self.known), rng.choice((0, 1, 2))))
                rules = ("success", "success", "any", "none_failed", "failed", "done")
                return self.add(some if near is None else [near, *some], some, rules)
            case 2:
                return SetNodeInputs(one, {"a": rng.randint(0, 9)})
            case 3:
                return SetNodeInputs(one, {"b": ref(f"{rng.choice(self.known)}.result")})
            case 4:
                return PauseBranch(one)
            case 5:
                return ResumeBranch(one)
            case 6:
                return CancelBranch(one)
            case _:
                return EmitEvent("news", rng.randint(0, 9))


class Stopping(Plot):
    """Graphs that grow, also when a node has failed, and whose failures stop or pause the run."""

    def __init__(self, size: int, seed: int) -> None:
        features = Features(retries=False, unstored=False, outputs=False, disabled=False)
        super().__init__(size, seed, features, failures=0.3)
        rng = self.rng
        self.policy = rng.choice(("stop", "pause"))
        self.graph = self.changed(on_failure=self.policy)
        known, rules = list(self.recipes), ("success", "none_failed", "failed", "done")
        for node_id in known:
            some = rng.sample(known, min(len(known), rng.choice((0, 1, 2))))
            if rng.random() < 0.4:
                self.answer(f"NodeCompleted {node_id}", self.add([node_id, *some], some, rules))
            if rng.random() < 0.4:
                self.answer(f"NodeFailed {node_id}", self.add([node_id], [], ("done", "failed")))


class Independent(Plot):
    """Commands whose effect does not depend on when they come, for runs with several calls.

    What a command is about waits for the node that it answers, and for nothing else; no two
    commands are about the same nodes.
    """

    def __init__(self, size: int, seed: int) -> None:
        features = Features(policies=False, outputs=False)
        super().__init__(size, seed, features, failures=0.1, flaky=0.4)
        self.graph = self.changed()
        self.touched: set[str] = set()
        for node_id in self.recipes:
            if self.rng.random() < 0.5:
                self.steer(node_id)
            if self.rng.random() < 0.2:
                self.answer(f"NodeFailed {node_id}", self.add([node_id], [], ("done", "failed")))
            if self.rng.random() < 0.2:
                self.answer(f"NodeSkipped {node_id}", self.add([node_id], [], ("done", "success")))

    def only_behind(self, node_id: str) -> list[str]:
        """Return what waits for one node alone, whatever else happens."""
        return [
            each.id
            for each in self.recipes.values()
            if each.edges == ((node_id, None),) and each.trigger == "success"
        ]

    def below(self, node_id: str) -> set[str]:
        """Return a node and all that waits for it."""
        found = {node_id}
        while True:
            more = {each.id for each in self.recipes.values() if found & set(each.sources)}
            if more <= found:
                return found
            found |= more

    def steer(self, node_id: str) -> None:
        """Let hooks answer the completion of a node."""
        rng, event = self.rng, f"NodeCompleted {node_id}"
        if rng.random() < 0.6:
            rules = ("success", "success", "none_failed", "done", "failed")
            self.answer(event, self.add([node_id], [node_id], rules))
        if rng.random() < 0.3:
            payload = next(self.serial)
            self.answer(event, EmitEvent("news", payload))
            self.answer(f"news {payload}", self.add([node_id], [node_id], ("success",)))
        for target in self.only_behind(node_id):
            reach = self.below(target)
            if self.touched & reach or rng.random() < 0.3:
                continue
            self.touched |= reach
            self.change(node_id, target)

    def change(self, node_id: str, target: str) -> None:
        """Let hooks change what waits for a node, when that completes."""
        rng, event = self.rng, f"NodeCompleted {node_id}"
        match rng.randrange(5):
            case 0:
                self.answer(event, CancelBranch(target))
            case 1:
                self.answer(event, SetNodesEnabled([target], not self.recipes[target].enabled))
            case 2:
                self.answer(event, PauseBranch(target))
                others = [each for each in self.only_behind(node_id) if each != target]
                if others:
                    self.answer(f"NodeCompleted {rng.choice(others)}", ResumeBranch(target))
            case 3:
                self.answer(event, SetNodeInputs(target, {"a": 17, "b": ref(f"{node_id}.result")}))
            case 4:
                below = self.below(target)
                others = [
                    each.id
                    for each in self.recipes.values()
                    if each.id not in below and each.stored
                ]
                if others:
                    given = ref(f"{rng.choice(others)}.result")
                    self.answer(event, SetNodeInputs(target, {"c": given}))


def mapped_work(slots: int) -> Work:
    """Return a run of mapped nodes: lists, nested lists, a generator, and lists that follow them.

    One invocation fails and is collected, one is called twice, and hooks add one more mapped node.
    """
    registry = Registry()
    calls: list[tuple[str, str, int]] = []

    def called(ctx: NodeCtx) -> None:
        calls.append((ctx.node_id, ctx.invocation_key, ctx.attempt))

    def items(ctx: NodeCtx) -> list[int]:
        called(ctx)
        return [1, 2, 3, 4, 5]

    def nested(ctx: NodeCtx) -> list[list[int]]:
        called(ctx)
        return [[1, 2], [], [3]]

    def stream(_ctx: NodeCtx) -> Iterator[int]:
        yield from (10, 20, 30)

    def double(ctx: NodeCtx, x: Any) -> Any:
        called(ctx)
        if ctx.node_id == "odd" and x == 3:
            raise ValueError("not three")
        if ctx.node_id == "flaky" and x == 2 and ctx.attempt == 1:
            raise ConnectionError("once")
        return 2 * x

    def total(ctx: NodeCtx, a: Any = None, b: Any = None, c: Any = None) -> str:
        called(ctx)
        return json.dumps([a, b, c], default=shown, sort_keys=True)

    for action in (items, nested, stream, double, total):
        registry.register(action)

    def over(node_id: str, source: str, **fields: Any) -> Node:
        given = [Input("x", reference=f"{source}.result")]
        return Node(node_id, "double", given, map_over="x", on_failure="continue", **fields)

    def gather(node_id: str, *sources: str) -> Node:
        given = zip("abc", sources, strict=False)
        return Node(node_id, "total", [Input(name, reference=f"{s}.result") for name, s in given])

    graph = Graph(
        "mapped",
        [
            Node("items", "items"),
            over("flaky", "items", max_parallel=2, try_count=2, retry=IMMEDIATE),
            over("twice", "flaky"),
            over("odd", "items", map_errors="collect"),
            gather("all", "flaky", "twice", "odd"),
            Node("nested", "nested"),
            over("deep", "nested", map_depth=2),
            Node("stream", "stream"),
            over("flow", "stream"),
            gather("rest", "deep", "flow"),
            gather("spare", "twice"),
        ],
    )
    more = NodeSpec("double", "more", inputs={"x": ref("twice.result")}, map_over="x")
    last = NodeSpec("total", "last", inputs={"a": ref("more.result"), "b": ref("odd.result")})
    answers: Answers = {
        "NodeCompleted items": [AddNodes([last, more])],
        "NodeCompleted nested": [PauseBranch("deep")],
        "NodeCompleted twice": [ResumeBranch("deep"), CancelBranch("spare")],
    }
    return Work(graph, registry, answers, slots=slots, calls=calls)


# --- the tests -----------------------------------------------------------------------------------


KINDS: dict[str, Callable[[int, int], Plot]] = {
    "anything": Anything,
    "stopping": Stopping,
    "independent": Independent,
}


@pytest.mark.row("E18", "C14", "G1", "G5")
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=EXAMPLES)
@given(size=st.integers(1, 12), seed=st.integers(0, 2**32 - 1), slots=st.integers(1, 4))
def test_a_run_ends_the_same_whatever_commit_was_its_last(
    kind: str, size: int, seed: int, slots: int
) -> None:
    slots = slots if kind == "independent" else 1
    note(f"check_every_position(KINDS[{kind!r}]({size}, {seed}).work({slots}), {seed})")
    check_every_position(KINDS[kind](size, seed).work(slots), seed)


@pytest.mark.row("E18", "G14")
@pytest.mark.slow
@settings(max_examples=count(20, least=4))
@given(seed=st.integers(0, 2**32 - 1), slots=st.integers(1, 4))
def test_a_run_of_mapped_nodes_ends_the_same_whatever_commit_was_its_last(
    seed: int, slots: int
) -> None:
    note(f"check_every_position(mapped_work({slots}), {seed})")
    check_every_position(mapped_work(slots), seed)
