"""Whole runs without threads: a coordinator whose workers, clock and store are played by a test.

`Scenario` draws a graph; `Life` plays one process: it takes released calls, answers them in any
order, lets time pass, cancels, and dies; `Wishes` draws commands, which come from outside and from
hooks. Everything that the engine does is compared with `tests.engine.reference.Model`, which is
told of the same outcomes and commands, in the same order.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from types import SimpleNamespace
from typing import Any

import attrs

from dagger_dsl.engine.control import CancelToken
from dagger_dsl.engine.coordinator import Coordinator
from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.plan import Plan, compile_plan
from dagger_dsl.engine.recorder import Recorder
from dagger_dsl.engine.state import FAILED as FAILED_CODE
from dagger_dsl.engine.state import NAMES
from dagger_dsl.engine.steering import Origin
from dagger_dsl.engine.watch import event_key
from dagger_dsl.errors import ConfigurationError, InvalidState
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    CancelBranch,
    CancelRun,
    Command,
    EmitEvent,
    NodeSpec,
    PauseBranch,
    PauseRun,
    Ref,
    ResumeBranch,
    ResumeRun,
    SetNodeInputs,
    SetNodesEnabled,
    command_from_plain,
)
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import Branch, NodeCtx, NodeOutput
from dagger_dsl.model.events import (
    CustomEvent,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeRetrying,
    NodeSkipped,
    NodeStarted,
)
from dagger_dsl.model.graph import Edge, Graph, Input, Node
from dagger_dsl.model.policies import Backoff, RetryPolicy
from dagger_dsl.model.protocols import Row
from dagger_dsl.registry import Registry
from dagger_dsl.runners.base import Overran
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.runs import StoredNode
from dagger_dsl.testing import FakeClock
from tests.engine.reference import (
    CANCELLED,
    COMPLETED,
    FAILED,
    NOTHING,
    PENDING,
    SKIPPED,
    WAITING,
    Done,
    Given,
    Kind,
    Model,
    Recipe,
)

__all__ = [
    "WISHES",
    "Features",
    "Life",
    "MemoryJournal",
    "MemoryStore",
    "Scenario",
    "play",
]

GRACE = 10.0
LIMIT = 90.0
LIVES = 6
#: How often the coordinator may look whether something has come, before a stuck call ends.
LOOKS = 20
LABELS = ("x", "y", "true")
BRANCHES = ("left", "right")
SHOWN = (NodeCompleted, NodeFailed, NodeSkipped, NodeCancelled, NodeRetrying)


class Boom(Exception):
    """What bodies raise."""


# --- a store -------------------------------------------------------------------------------------


class MemoryStore:
    """What `Recorder` needs of a store; it outlives the processes that a test plays.

    Attributes:
        log: What was done to it, in order; everything else follows from that.
        rows: By node, key and attempt, the row and its place in the history.
        commands: What a replay needs beside outcomes.
        acked: The place up to which hooks were shown everything.
        slots: By node id, where it stood in the plan of the last life.
    """

    def __init__(self, log: Sequence[Commit | None] = ()) -> None:
        self.database = SimpleNamespace(path=None)
        self.payloads = Payloads(None)
        self.log: list[Commit | None] = []
        self.rows: dict[tuple[str, str, int], tuple[int, Row]] = {}
        self.commands: list[Any] = []
        self.acked = 0
        self.seq = 0
        self.epoch = 1
        self.slots: dict[str, int] = {}
        for each in log:
            self.append(each)

    def append(self, commit: Commit | None) -> None:
        """Do what one transaction does; None is the start of a resume."""
        self.log.append(commit)
        if commit is None:  # ends without a call are worked out anew
            self.rows = {
                key: (seq, row)
                for key, (seq, row) in self.rows.items()
                if row[3] not in (SKIPPED, CANCELLED) or row[6] is not None
            }
            return
        for row in (*commit.rows, *commit.replacing):
            self.rows[row[0], row[1], row[2]] = (self._next(), row)
        for key, body in commit.commands:
            self.commands.append(SimpleNamespace(key=key, body=body, seq=self._next()))
        if commit.ack:
            self.acked = self._next()

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    def rewind(self, length: int) -> None:
        """Forget all but the first transactions, as if the process had died before."""
        slots = self.slots
        self.__init__(self.log[:length])  # type: ignore[misc]
        self.slots = slots

    def in_order(self) -> list[Row]:
        """Return the rows as they were recorded."""
        return [row for _, row in self.history()]

    def history(self) -> list[tuple[int, Row]]:
        """Return the rows as they were recorded, each with its place."""
        return sorted(self.rows.values(), key=lambda pair: pair[0])

    def bodies(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what was noted beside the rows, each with its place."""
        found = [(each.seq, json.loads(each.body)) for each in self.commands]
        return [(seq, body) for seq, body in found if isinstance(body, dict)]

    def claim_run(self, run_id: str, durability: str) -> tuple[Any, MemoryJournal]:
        """Return what was recorded, and a new journal."""
        self.epoch += 1
        attempts = [
            StoredNode(self.payloads, (*row[:3], seq, *row[3:], None, None))
            for seq, row in self.history()
        ]
        stored = SimpleNamespace(
            attempts=attempts,
            history=attempts,
            acked=self.acked,
            released=[],
            nodes={(node.node_id, node.key): node for node in attempts},
            status="running",
            crashes={},
            commands=list(self.commands),
            cache={},
            owned_seconds=0.0,
            config=None,
        )
        return stored, MemoryJournal(self)

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """Play the one statement that a resume executes: forget ends without a call."""
        yield SimpleNamespace(execute=lambda _statement: self.append(None))


@attrs.frozen
class Commit:
    """What one transaction of a journal holds."""

    rows: tuple[Row, ...] = ()
    released: tuple[int, ...] = ()
    commands: tuple[tuple[str | None, str], ...] = ()
    replacing: tuple[Row, ...] = ()
    ack: bool = False


class MemoryJournal:
    """Level `sync`: what was committed survives."""

    epoch = 1
    shared = False

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.commits: list[tuple[list[Row], list[int]]] = []

    def requests(self, after: int = 0) -> list[Any]:
        """Return no commands; nobody else knows of the run."""
        return []

    def flush(self) -> None:
        """Do nothing: everything is written."""

    def encode(self, value: Any) -> tuple[str | None, str | None]:
        """Return the stored form."""
        inline, artifact, _ = self.store.payloads.encode(value)
        return inline, artifact

    def commit(
        self,
        rows: Sequence[Row],
        released: Sequence[int] | None = None,
        *,
        commands: Sequence[tuple[str | None, str]] | None = None,
        replay: bool = False,
        last: bool = False,
        ack: bool = False,
        replacing: Sequence[Row] = (),
    ) -> None:
        """Record, as the schema allows it: attempt 0 replaces, every other number is new."""
        assert rows or released or ack or commands or replacing
        known = {each.key for each in self.store.commands}
        for key, _ in commands or ():
            assert key is None or key not in known or replay, f"{key} is noted twice"
            known.add(key)
        for row in rows:
            place = (row[0], row[1], row[2])
            assert row[2] == 0 or place not in self.store.rows, f"attempt {place} is recorded twice"
            assert (row[2] == 0) == (row[6] is None), f"only calls have numbers: {row}"
        commit = Commit(
            tuple(rows), tuple(released or ()), tuple(commands or ()), tuple(replacing), ack
        )
        self.store.append(commit)
        self.commits.append((list(rows), list(released or ())))


# --- scenarios -----------------------------------------------------------------------------------


@attrs.frozen
class Features:
    """What a scenario may hold; fewer features make a smaller counterexample.

    Attributes:
        triggers, labels, policies, handlers, retries, soft, disabled, unstored, outputs: Of graphs.
        cancels, limits, kills, stuck: Of lives.
        hooks, answers: Whether hooks ask for commands, too, and nodes with what they return.
        wrong: Whether there are commands that cannot be applied.
        asks: What commands there may be, by the names of `Wishes`.
        commands: How many commands there may be.
        failures: Share of calls that fail.
    """

    triggers: bool = True
    labels: bool = True
    policies: bool = True
    handlers: bool = True
    retries: bool = True
    soft: bool = True
    disabled: bool = True
    unstored: bool = True
    outputs: bool = True
    cancels: bool = True
    limits: bool = True
    kills: bool = True
    stuck: bool = True
    hooks: bool = True
    answers: bool = True
    wrong: bool = True
    asks: frozenset[str] = frozenset()
    commands: int = 0
    failures: float = 0.15


class Scenario:
    """A random graph with its actions; deterministic for its arguments.

    Args:
        size: Number of nodes.
        seed: Where everything is drawn.
        features: What may be in it.
    """

    def __init__(self, size: int, seed: int, features: Features) -> None:
        self.rng = random.Random(f"graph {size} {seed}")
        self.features = features
        self.recipes = self._draw(size)
        self.graph = self._graph()
        self.registry = Registry()
        self.life: Life | None = None
        self.serial = itertools.count()
        self.budget = features.commands
        self.added = itertools.count()
        self.asked: list[tuple[Command, str | None]] = []
        for recipe in self.recipes.values():
            action = self._action(len(recipe.inputs))
            self.registry.register(action, f"act_{recipe.id}", store=recipe.stored)
        self.registry.register(self._handler(), "rescue")
        self.kinds: dict[str, Kind] = {}
        if features.commands:
            self._offer_kinds()
        self.plan: Plan = compile_plan(self.graph, self.registry.get)

    def _offer_kinds(self) -> None:
        """Register actions that nodes can be added of."""
        has = self.features
        self.kinds = {
            "plain": Kind(),
            "other": Kind(),
            "unstored": Kind(stored=not has.unstored),
            "split": Kind(splits=has.outputs),
            "rescued": Kind(handler=has.handlers),
        }
        for name, kind in self.kinds.items():
            self.registry.register(
                self._action(0),
                name,
                store=kind.stored,
                outputs=["result", "extra"] if kind.splits else None,
                failure="rescue" if kind.handler else None,
            )

    def _draw(self, size: int) -> dict[str, Recipe]:
        rng, has = self.rng, self.features
        ids = [f"n{k}" for k in range(size)]
        order = rng.sample(ids, size)  # dependencies follow this order, declaration does not
        density = rng.choice((1, 2, 3, 5))
        choosers = {each for each in ids if has.labels and rng.random() < 0.25}
        unstored_share = rng.choice((0.1, 0.6))
        unstored = {each for each in ids if has.unstored and rng.random() < unstored_share}
        split_share = rng.choice((0.1, 0.7))
        rules = rng.choice((("any", "none_failed", "failed", "done"), ("failed", "done")))
        policies = rng.choice((("stop", "continue", "continue", "pause"), ("stop",)))
        found: dict[str, Recipe] = {}
        for place, node_id in enumerate(order):
            known = order[:place][-rng.choice((4, 12, 60)) :]
            sources = rng.sample(known, min(len(known), rng.randint(0, density)))
            edges: list[tuple[str, str | None]] = []
            for source in sources:
                if source in choosers and rng.random() < 0.7:
                    edges += [
                        (source, label) for label in rng.sample(LABELS, rng.choice((1, 1, 2)))
                    ]
                else:
                    edges.append((source, None))
            trigger = "success"
            if has.triggers and rng.random() < 0.5:
                trigger = rng.choice(rules)
            found[node_id] = Recipe(
                id=node_id,
                edges=tuple(edges),
                trigger=trigger,
                policy=rng.choice(policies) if has.policies else "continue",
                attempts=rng.choice((1, 1, 2, 3)) if has.retries else 1,
                delay=rng.choice((0.0, 0.5, 30.0)),
                handler=has.handlers and rng.random() < 0.2,
                enabled=not (has.disabled and rng.random() < 0.05),
                inputs=self._inputs(sources),
                branch=rng.choice((None, None, None, *BRANCHES)) if has.commands else None,
            )
        labelled = {source for each in found.values() for source, label in each.edges if label}
        return {
            each: attrs.evolve(
                found[each],
                chooses=each in labelled,
                stored=each not in unstored,
                splits=has.outputs and each not in labelled and rng.random() < split_share,
            )
            for each in ids
        }

    def _inputs(self, sources: Sequence[str]) -> tuple[Given, ...]:
        rng = self.rng
        given = []
        for name in ("a", "b", "c")[: rng.randint(0, 3)]:
            if sources and rng.random() < 0.7:
                given.append(Given(name, source=rng.choice(sources)))
            else:
                given.append(Given(name, literal=rng.randint(0, 9)))
        return tuple(given)

    def _graph(self) -> Graph:
        nodes = []
        edges = []
        for each in self.recipes.values():
            backoff = Backoff.FIXED if each.delay else Backoff.IMMEDIATE
            nodes.append(
                Node(
                    each.id,
                    f"act_{each.id}",
                    [
                        Input(given.name, reference=f"{given.source}.result")
                        if given.source is not None
                        else Input(given.name, value=given.literal)
                        for given in each.inputs
                    ],
                    outputs=("result", "extra") if each.splits else (),
                    dependencies=[source for source, label in each.edges if label is None],
                    trigger=each.trigger,
                    on_failure=each.policy,
                    try_count=each.attempts,
                    retry=RetryPolicy(base_delay=each.delay, backoff=backoff),
                    failure="rescue" if each.handler else None,
                    enabled=each.enabled,
                    branch=each.branch,
                )
            )
            edges += [Edge(source, each.id, label) for source, label in each.edges if label]
        return Graph("scenario", nodes, edges)

    def _action(self, number: int) -> Callable[..., Any]:
        """Return a function that asks the life that is being played what to do.

        Args:
            number: Of the inputs that a node of it has at least.
        """
        by_default = bool(self.rng.getrandbits(1))

        def answer(given: Mapping[str, Any], attempt: int | None = None) -> Any:
            assert self.life is not None
            inputs = {each.name: given[each.name] for each in self.life.recipe.inputs}
            return self.life.body(inputs, attempt)

        if self.rng.random() < 0.3:

            def with_ctx(ctx: NodeCtx, a: Any = NOTHING, b: Any = NOTHING, c: Any = NOTHING) -> Any:
                given = {"a": a, "b": b, "c": c}
                assert self.life is not None
                assert ctx.node_id == self.life.recipe.id
                for each in self.life.recipe.inputs:
                    assert ctx.inputs.get(each.name, NOTHING) == given[each.name]
                return answer(given, ctx.attempt)

            return with_ctx
        if by_default or number < 3:

            def plain(c: Any = NOTHING, a: Any = NOTHING, b: Any = NOTHING) -> Any:
                return answer({"a": a, "b": b, "c": c})

            return plain

        def optional(b: Any | None, a: Any | None, c: Any | None) -> Any:
            given = {"a": a, "b": b, "c": c}
            return answer(
                {name: NOTHING if value is None else value for name, value in given.items()}
            )

        return optional

    def _handler(self) -> Callable[..., Any]:
        def rescue(node_id: str, error: BaseException) -> Any:
            assert self.life is not None
            return self.life.rescue(node_id, error)

        return rescue


# --- commands ------------------------------------------------------------------------------------


class Wishes:
    """Draws commands: sensible ones, useless ones, repeated ones and wrong ones.

    Args:
        life: Whose run they are for.
    """

    def __init__(self, life: Life) -> None:
        self.life = life
        self.rng = life.rng
        self.has = life.scenario.features

    def draw(self, near: str | None = None) -> tuple[Command, str | None]:
        """Return a command and the key under which it counts once.

        Args:
            near: The node that it should have to do with.
        """
        rng, scenario = self.rng, self.life.scenario
        scenario.budget -= 1
        if scenario.asked and rng.random() < 0.1:
            return rng.choice(scenario.asked)
        kinds = [name for name in WISHES if name in self.has.asks for _ in range(WISHES[name])]
        command = getattr(self, rng.choice(kinds))(near)
        key = rng.choice((None, f"wish {next(scenario.added)}"))
        scenario.asked.append((command, key))
        return command, key

    def is_wrong(self, share: float = 0.2) -> bool:
        """Whether the command is one that cannot be applied."""
        return self.has.wrong and self.rng.random() < share

    def pick(self, near: str | None) -> str:
        """Return a node: that one, one that has not ended, or any."""
        model, luck = self.life.model, self.rng.random()
        if self.is_wrong(0.05):
            return "nobody"
        if near is not None and luck < 0.3:
            return near
        left = [each for each, state in model.state.items() if state == PENDING]
        return self.rng.choice(left if left and luck < 0.8 else list(model.recipes))

    def add(self, near: str | None) -> Command:
        """Return a command that lets the graph grow."""
        rng = self.rng
        ids = [f"g{next(self.life.scenario.added)}" for _ in range(rng.choice((1, 1, 2, 3)))]
        specs = [self.spec(node_id, ids[:k], near) for k, node_id in enumerate(ids)]
        if self.is_wrong():
            self.spoil(specs)
        rng.shuffle(specs)
        if len(specs) == 1 and rng.random() < 0.5:
            if rng.random() < 0.2:
                specs = [attrs.evolve(specs[0], id=None)]
            return AddNode(specs[0])
        return AddNodes(specs)

    def spec(self, node_id: str, mates: Sequence[str], near: str | None) -> NodeSpec:
        """Return what describes a node that can be added."""
        rng, known = self.rng, list(self.life.model.recipes)
        deps = rng.sample(known, min(len(known), rng.choice((0, 1, 1, 2))))
        deps += [each for each in mates if rng.random() < 0.5]
        if near is not None and near not in deps and rng.random() < 0.5:
            deps.append(near)
        inputs: dict[str, Any] = {}
        for name in ("a", "b", "c")[: rng.choice((0, 0, 1, 2))]:
            source = rng.choice(deps if deps and rng.random() < 0.8 else known)
            inputs[name] = Ref(f"{source}.result") if rng.random() < 0.7 else rng.randint(0, 9)
        delay = rng.choice((0.0, 0.5, 30.0))
        backoff = Backoff.FIXED if delay else Backoff.IMMEDIATE
        again = self.has.retries and rng.random() < 0.3
        rules = (None, None, "success", "any", "none_failed", "failed", "done")
        policies = (None, "continue", "continue", "stop", "pause")
        return NodeSpec(
            rng.choice(list(self.life.scenario.kinds)),
            node_id,
            deps,
            inputs,
            try_count=2 if again else None,
            retry=RetryPolicy(base_delay=delay, backoff=backoff) if again else None,
            trigger=rng.choice(rules) if self.has.triggers else None,
            on_failure=rng.choice(policies) if self.has.policies else "continue",
            branch=rng.choice((None, None, None, *BRANCHES)),
        )

    def spoil(self, specs: list[NodeSpec]) -> None:
        """Make one mistake, so that none of them can be added."""
        rng, place = self.rng, self.rng.randrange(len(specs))
        spec = specs[place]
        match rng.randrange(6):
            case 0:
                specs[place] = attrs.evolve(spec, deps=(*spec.deps, "nobody"))
            case 1:
                specs[place] = attrs.evolve(spec, inputs={**spec.inputs, "c": Ref("nobody.result")})
            case 2:
                specs[place] = attrs.evolve(spec, action="nothing")
            case 3:
                specs[place] = attrs.evolve(spec, id=rng.choice(list(self.life.model.recipes)))
            case 4:
                specs.append(attrs.evolve(spec, deps=(), inputs={"a": 17}))
            case 5:
                mate = f"{spec.id}x"
                specs[place] = attrs.evolve(spec, deps=(*spec.deps, mate))
                specs.append(NodeSpec("plain", mate, (str(spec.id),)))

    def inputs(self, near: str | None) -> Command:
        """Return a command that gives a node other inputs."""
        rng, known = self.rng, list(self.life.model.recipes)
        names = rng.sample(("a", "b", "c"), rng.choice((1, 1, 2)))
        if self.is_wrong(0.05):
            names.append("zzz")
        values = {
            name: Ref(f"{self.pick(near) if rng.random() < 0.3 else rng.choice(known)}.result")
            if rng.random() < 0.5
            else rng.randint(0, 9)
            for name in names
        }
        return SetNodeInputs(self.pick(near), values)

    def enable(self, near: str | None) -> Command:
        """Return a command that enables or disables nodes."""
        ids = dict.fromkeys(self.pick(near) for _ in range(self.rng.choice((1, 1, 2))))
        return SetNodesEnabled(ids, self.rng.random() < 0.5)

    def branch(self, near: str | None) -> str:
        """Return a branch: a node, or a label."""
        return self.rng.choice(BRANCHES) if self.rng.random() < 0.25 else self.pick(near)

    def pause(self, near: str | None) -> Command:
        """Return a command that holds a branch."""
        return PauseBranch(self.branch(near), self.rng.choice((None, "a reason", "another")))

    def resume(self, near: str | None) -> Command:
        """Return a command that lets a branch go."""
        holds = sorted(self.life.model.holds)
        wise = holds and self.rng.random() < 0.9
        return ResumeBranch(self.rng.choice(holds) if wise else self.branch(near))

    def cancel(self, near: str | None) -> Command:
        """Return a command that cancels a branch."""
        return CancelBranch(self.branch(near), self.rng.choice((None, "not needed")))

    def emit(self, _near: str | None) -> Command:
        """Return a command that tells the hooks something."""
        return EmitEvent("news", self.rng.randint(0, 9))

    def whole(self, _near: str | None) -> Command:
        """Return a command about the whole run."""
        return self.rng.choice((PauseRun(), ResumeRun(), ResumeRun(), CancelRun("enough")))


#: What there is to wish for, and how often each is wished.
WISHES = {
    "add": 5,
    "inputs": 3,
    "enable": 2,
    "pause": 2,
    "resume": 3,
    "cancel": 2,
    "emit": 1,
    "whole": 1,
}


# --- one process ---------------------------------------------------------------------------------


class Watching:
    """Sees what hooks see; nothing may be shown before it is recorded.

    Args:
        life: Whose run it watches.
        wants_starts: Whether it is told of starts.
        steers: Whether it answers with commands.
    """

    broken = None
    wants_completions = True
    at_once = False

    def __init__(self, life: Life, wants_starts: bool, steers: bool) -> None:
        self.life = life
        self.wants_starts = wants_starts
        self.steers = steers
        self.seen: list[tuple[type, str]] = []
        self.asked: list[tuple[Command, Origin]] = []
        self.taken: list[tuple[Command, Origin]] = []
        self.refusals: list[type[Exception]] = []
        self.over = False

    @property
    def owes(self) -> bool:
        """Whether there is something to show or to apply."""
        return bool(self.asked)

    asks = owes

    def start(self, slot: int, now: float) -> bool:
        """Take the start of a call."""
        life = self.life
        assert now == life.clock()
        if slot not in life.run.handling:
            node_id = str(life.run.plan.ids[slot])
            self.seen.append((NodeStarted, node_id))
            self.answer(f"NodeStarted {life.run.attempts.get(slot, 1)} {node_id}", node_id, slot)
        return self.owes

    def finish(self) -> None:
        """Hear that nothing more is shown."""
        assert self.over

    def announce(self, event: Any) -> None:
        """Take the beginning or the end."""
        self.over = type(event).__name__ == "RunFinished"
        self.answer(type(event).__name__, None, None)

    def show(self, events: Sequence[Any]) -> None:
        """Take the events of a turn."""
        life = self.life
        life.catch_up()
        for event in events:
            if isinstance(event, CustomEvent):
                self.seen.append((CustomEvent, str(event.sequence)))
                self.answer(event_key(event), None, None)
                continue
            node_id = event.node.node_id
            slot = life.slot(node_id)
            kind = next(kind for kind in SHOWN if isinstance(event, kind))
            self.seen.append((kind, node_id))
            if kind is NodeCompleted and event.outcome.success:
                life.must_be_recorded(node_id)
            self.answer(event_key(event, life.run.attempts.get(slot, 1)), node_id, slot)

    def answer(self, key: str, node_id: str | None, slot: int | None) -> None:
        """Answer an event with commands, under keys that stay the same when it is shown again."""
        life = self.life
        for number in itertools.count():
            if not self.steers or life.scenario.budget <= 0 or life.rng.random() < 0.7:
                return
            failed = slot is not None and life.run.state.status(slot) == FAILED_CODE
            command, _ = life.wishes.draw(node_id)
            origin = Origin(
                "hook 'sim'", f"sim {number} {key}", 0, slot if failed else None, f"sim {key}"
            )
            self.asked.append((command, origin))

    def go_on(self) -> None:
        """Wait for nothing."""

    def take(self) -> list[tuple[Command, Origin]]:
        """Return what was answered since this was last asked."""
        self.life.heed()
        self.taken, self.asked = self.asked, []
        return self.taken

    def refused(self, who: str, error: Exception) -> None:
        """Take that a command was refused."""
        assert who == "hook 'sim'"
        self.refusals.append(type(error))


class Life:
    """One process that drives a run until it ends or the process dies.

    Args:
        scenario: What is run.
        store: What earlier lives left; None runs in memory.
        seed: Where this life's luck is drawn.
        resumed: Whether the store holds a run to go on with.
        failures: Share of calls that fail.
    """

    def __init__(
        self,
        scenario: Scenario,
        store: MemoryStore | None,
        seed: str,
        *,
        resumed: bool,
        failures: float,
    ) -> None:
        self.scenario = scenario
        self.store = store
        self.rng = rng = random.Random(seed)
        self.failures = failures
        self.misfits = rng.choice((0.02, 0.3)) if failures else 0.0
        self.clock = FakeClock()
        self.token = CancelToken()
        self.slots = rng.choice((1, 2, 3, 8))
        self.flush = rng.choice((0.0, 0.005, 0.005, 1.0))
        self.model = Model(scenario.recipes, scenario.kinds)
        self.before = self._attempts_before()
        self.wishes = Wishes(self)
        wants_hooks = scenario.features.hooks and scenario.features.commands > 0
        steers = self.model.patient = wants_hooks and rng.random() < 0.7
        config = DagConfig(
            flush_interval=self.flush,
            shutdown_grace=GRACE,
            timeout_seconds=LIMIT if scenario.features.limits and rng.random() < 0.2 else None,
        )
        journal: Any = None if store is None else MemoryJournal(store)
        recorder = Recorder(store, "run", own=False) if store is not None else None  # type: ignore[arg-type]
        if recorder is not None and resumed:
            recorder.claim("sync")
            journal = recorder.journal
        self.journal: MemoryJournal | None = journal
        self.run = Run(
            plan=scenario.plan,
            run_id="run",
            options=RunOptions(),
            config=config,
            inputs={},
            token=self.token,
            registry=scenario.registry,
            slots=self.slots,
            clock=self.clock,
            journal=journal,
        )
        self.start_of_step = 0 if store is None else len(store.log)
        record: list[tuple[int, Done | Command]] = []
        again: set[str] = set()
        if store is not None:
            self.model.only = self._taken_by_joins(store)
            self.model.applied = {each.key for each in store.commands if each.key is not None}
        if resumed:
            record, again = self._recorded()
        if recorder is not None:
            owed = self._owed_to_hooks(record) if resumed else []
            if resumed:
                recorder.restore(self.run, "warn", hooked=steers)
            else:
                recorder.begin(self.run, hooked=steers)
            assert [self._name(each) for each in self.run.unshown] == owed
            self._check_slots()
        self.watching = None
        if steers or rng.random() < 0.3:
            self.watching = Watching(self, rng.random() < 0.5, steers)
        self.coordinator = Coordinator(self.run, self.watching)  # type: ignore[arg-type]
        self.token.subscribe(self.coordinator.stop)
        self.run.board.halt = self._halt
        self.run.began = self.clock()
        self.model.begin([entry for _, entry in record], again)
        self.given_back = set(self.model.completed)
        self.timers: list[tuple[float, int, str, str]] = []
        self.order = itertools.count()
        if config.timeout_seconds is not None:
            self.run.deadline = self.clock() + config.timeout_seconds
            self.at(self.run.deadline, "limit")
        #: Running calls: what they answered, to be delivered later.
        self.flying: dict[str, tuple[Any, bool]] = {}
        self.left_behind: set[str] = set()
        self.pending: list[tuple[str, Any, str]] = []
        #: What was asked for from outside, with the key and the answers to it.
        self.requests: list[tuple[Command, str | None, list[Exception | None]]] = []
        self.told = True
        self.current = ""
        self.looks = 0
        self.asked = False
        self.ended: str | None = None
        self.halted: set[str] = set()

    # --- what earlier lives left -----------------------------------------------------------------

    def _attempts_before(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for row in self.store.in_order() if self.store is not None else ():
            found[row[0]] = max(found.get(row[0], 0), row[2])
        return found

    def _taken_by_joins(self, store: MemoryStore) -> dict[str, str]:
        """Return the source that each `any` join took in an earlier life."""
        return {
            each.key.removeprefix("any:"): json.loads(each.body)
            for each in store.commands
            if each.key is not None and each.key.startswith("any:")
        }

    def _recorded(self) -> tuple[list[tuple[int, Done | Command]], set[str]]:
        """Return what a resume has to know, and what it has to call again as it was not stored."""
        assert self.store is not None
        done: dict[str, tuple[int, Done]] = {}
        again: set[str] = set()
        shown = self._shown()
        void = {
            name.partition(".")[0]: seq
            for seq, body in self.store.bodies()
            for name in body.get("again", ())
        }
        for seq, row in self.store.history():
            if row[6] is None:
                continue  # an end without a call is worked out anew
            done.pop(row[0], None)
            again.discard(row[0])
            if row[3] == COMPLETED:
                meta = json.loads(row[9] or "{}")
                unstored = meta.get("stored") is False
                if (unstored and shown is not None and seq > shown) or seq < void.get(row[0], 0):
                    again.add(row[0])  # hooks have to be shown its result
                    continue
                labels = frozenset(meta.get("labels", ()))
                value = None if row[4] is None else json.loads(row[4])
                done[row[0]] = (seq, Done(row[0], labels, value))
        commands = [
            (seq, command_from_plain(_without_origin(plain)))
            for seq, body in self.store.bodies()
            if (plain := body.get("command")) is not None
        ]
        while True:  # whoever is called again may choose another way
            record = sorted([*done.values(), *commands], key=lambda pair: pair[0])
            outlook = Model(self.scenario.recipes, self.scenario.kinds)
            outlook.only = self.model.only
            outlook.patient = self.model.patient
            outlook.begin([entry for _, entry in record], again)
            todo = [each for each, state in outlook.state.items() if state == PENDING]
            before = len(again)
            while todo:  # and it needs its inputs, which may not be stored either
                for given in outlook.recipes[todo.pop()].inputs:
                    if given.source in done and not outlook.recipes[given.source].stored:
                        del done[given.source]
                        again.add(given.source)
                        todo.append(given.source)
            if len(again) == before:
                return record, again

    def _owed_to_hooks(self, record: Sequence[tuple[int, Done | Command]]) -> list[str]:
        """Return what hooks may not have been shown: what came after their last acknowledgement."""
        last = self._shown()
        if last is None:
            return []
        done = [entry.node_id for seq, entry in record if isinstance(entry, Done) and seq > last]
        emits = [seq for seq, entry in record if isinstance(entry, EmitEvent)]
        return done + [str(k) for k, seq in enumerate(emits, start=1) if seq > last]

    def _shown(self) -> int | None:
        """Return up to where hooks were shown everything; None where nobody was, or is, shown."""
        assert self.store is not None
        hooked = [(seq, body["hooks"]) for seq, body in self.store.bodies() if "hooks" in body]
        since = None
        for seq, watching in hooked:  # since when has every life watched?
            since = None if not watching else seq if since is None else since
        return max(self.store.acked, since) if self.model.patient and since is not None else None

    def _name(self, event: Any) -> str:
        return str(event.sequence) if isinstance(event, CustomEvent) else event.node.node_id

    def _check_slots(self) -> None:
        """What was recorded by slot means the same node in every life."""
        assert self.store is not None
        for node_id, slot in self.run.plan.index.items():
            assert self.store.slots.get(node_id, slot) == slot, node_id

    # --- bodies ----------------------------------------------------------------------------------

    def value(self, node_id: str) -> list[Any]:
        """Return a value that no other call has returned."""
        return [node_id, next(self.scenario.serial)]

    @property
    def recipe(self) -> Recipe:
        """What is being called."""
        return self.model.recipes[self.current]

    def body(self, inputs: Mapping[str, Any], attempt: int | None) -> Any:
        """Play the body of a node."""
        recipe = self.recipe
        assert dict(inputs) == self.model.inputs(recipe.id), recipe.id
        number = self.before.get(recipe.id, 0) + self.model.tries[recipe.id]
        assert self.run.attempts.get(self.slot(recipe.id), 1) == number
        assert attempt is None or attempt == number
        rng = self.rng
        if rng.random() < self.failures:
            if self.scenario.features.soft and rng.random() < 0.3:
                return NodeOutput.failure("no")
            raise rng.choice((Boom("boom"), Overran(3.0), ConfigurationError("never again")))
        if recipe.chooses:
            return self.choice(recipe.id)
        value: Any = self.value(recipe.id)
        if recipe.splits:
            misfit = rng.random() < self.misfits
            value = {"result": value} if misfit else {"extra": 7, "result": value}
        if self.scenario.features.answers and self.scenario.budget > 0 and rng.random() < 0.15:
            commands = [self.wishes.draw(recipe.id)[0] for _ in range(rng.choice((1, 1, 2)))]
            return NodeOutput.success(value, commands=commands)
        return NodeOutput.success(value, metadata={"k": 1}) if rng.random() < 0.2 else value

    def choice(self, node_id: str) -> Any:
        """Return what a node with labelled edges may answer."""
        rng = self.rng
        label: Any = rng.choice((*LABELS, True, False, ["x", "y"], [], "z"))
        if rng.random() < self.misfits:
            return 17  # no label at all
        if rng.random() < 0.4:
            return Branch(label, self.value(node_id))
        return NodeOutput.success(label) if rng.random() < 0.3 else label

    def rescue(self, node_id: str, error: BaseException) -> Any:
        """Play the failure handler."""
        assert node_id in self.model.handling
        assert isinstance(error, Exception)
        if self.rng.random() < 0.3:
            raise Boom("again")
        if self.rng.random() < 0.3:
            return None
        recipe = self.model.recipes[node_id]
        if recipe.chooses:
            return self.choice(node_id)
        value = self.value(node_id)
        # What does not fit the declared outputs is no answer.
        return {"extra": 7, "result": value} if recipe.splits and self.rng.random() < 0.7 else value

    # --- comparing -------------------------------------------------------------------------------

    def slot(self, node_id: str) -> int:
        """Return a node's slot."""
        return self.run.plan.index[node_id]

    def must_be_recorded(self, node_id: str) -> None:
        """Refuse a result that somebody sees before it is on the disk."""
        if self.store is not None:
            assert any(row[0] == node_id and row[3] == COMPLETED for row in self.store.in_order())

    def check(self) -> None:
        """Compare every node's state and the whole order of what may start."""
        run, model, ids = self.run, self.model, self.run.plan.ids
        states = {ids[slot]: NAMES[run.state.status(slot)] for slot in run.plan.invocations()}
        assert states == model.state
        waiting = [str(ids[slot]) for slot in (*run.board.go, *run.state.ready)]
        assert [each for each in waiting if each not in model.parked] == model.ready
        assert run.state.left == sum(s in (PENDING, WAITING) for s in model.state.values())
        assert run.state.waiting == sum(s == WAITING for s in model.state.values())
        for node_id in model.completed:
            slot = self.slot(node_id)
            if run.is_gone(slot):  # nobody who may still run needs it
                assert slot in run.restored
                assert not run.plan.actions[slot].store
            else:
                assert run.value(slot) == model.values[node_id]

    def check_record(self) -> None:
        """What is on the disk is a prefix of what happened, and closed under causes."""
        if self.journal is None:
            return
        rows = [row for rows, _ in self.journal.commits for row in rows]
        done = [row[0] for row in rows if row[3] == COMPLETED]
        fresh = [each for each in self.model.completed if each in self.model.tries]
        assert done == fresh[: len(done)]

    # --- moves -----------------------------------------------------------------------------------

    def at(self, when: float, kind: str, node_id: str = "") -> None:
        """Set a timer of the model."""
        self.timers.append((when, next(self.order), kind, node_id))

    def _halt(self, slots: Any) -> None:
        self.halted |= {str(self.run.plan.ids[slot]) for slot in slots}

    def step(self) -> bool:
        """Step the coordinator, tell the model the same, and compare."""
        self.told = False
        self.start_of_step = 0 if self.store is None else len(self.store.log)
        alive = self.coordinator.step(self.clock())
        if self.coordinator.error is not None:
            raise self.coordinator.error
        self.catch_up()
        self.check()
        self.check_record()
        assert alive == (not self.model.is_over()), "the run ends when nothing is left to do"
        return alive

    def catch_up(self) -> None:
        """Tell the model everything that the coordinator has taken so far, in the same order."""
        self.heed()
        if not self.told:
            self.told = True
            before = self.disabled()
            self.tell(self.clock())
            for node_id in set(self.disabled()).difference(before):
                state = NAMES[self.run.state.status(self.slot(node_id))]
                assert state == PENDING or not self.model.patient, "hooks may enable it first"
        self.follow()

    def disabled(self) -> list[str]:
        """Return the disabled nodes that would start."""
        recipes = self.model.recipes
        return [each for each in self.model.ready if not recipes[each].enabled]

    def tell(self, now: float) -> None:
        """Tell the model what one turn begins with."""
        pending, self.pending = self.pending, []
        for kind in ("done", "odd"):
            for node_id, answer, queue in pending:
                if queue == kind:
                    self.outcome(node_id, answer, now)
        while self.timers and min(self.timers)[0] <= now:
            timer = min(self.timers)
            self.timers.remove(timer)
            self.fire(timer, now)
        requests, self.requests = self.requests, []
        for command, key, answers in requests:
            expected = self.do(command, key)
            assert [each and type(each) for each in answers] == [expected], (command, answers)
            if key is not None:
                self.model.applied.add(key)  # a refusal is recorded, too
        self.end_if_asked()

    def end_if_asked(self) -> None:
        """Cancel the run, where that was asked for."""
        if self.asked and not self.model.stopping:
            self.end_early(CANCELLED)

    def follow(self) -> None:
        """Tell the model of the disabled nodes whose turn has come; hooks may enable them first."""
        model, state = self.model, self.run.state
        turn = self.disabled()
        while turn:
            for node_id in turn:
                if NAMES[state.status(self.slot(node_id))] == SKIPPED:
                    model.skips(node_id)
            before, turn = turn, self.disabled()
            if before == turn:
                return

    def heed(self) -> None:
        """Tell the model what hooks have asked for, once the coordinator has applied it."""
        watching = self.watching
        if watching is None:
            return
        taken, watching.taken = watching.taken, []
        refusals, watching.refusals = watching.refusals, []
        ids = self.run.plan.ids
        expected: list[Any] = []
        late = watching.over or self.model.stopping
        if late:  # each hook is told once
            expected = [InvalidState] * len({origin.who for _, origin in taken})
        for command, origin in () if late else taken:
            failed = None if origin.failed is None else str(ids[origin.failed])
            kind = self.do(command, origin.key, failed)
            if kind is not None:
                expected.append(kind)
                if origin.key is not None:
                    self.model.applied.add(origin.key)
        assert refusals == expected, (taken, refusals, expected)
        if taken and not watching.over:
            self.end_if_asked()

    def do(self, command: Command, key: str | None, failed: str | None = None) -> Any:
        """Let the model do what was asked for; return the class of the error if it refuses."""
        if isinstance(command, CancelRun) and key not in self.model.applied:
            self.asked = True
        halts = self.model.halts
        error = self.model.apply(command, key, failed)
        if self.model.halts > halts:
            self.at(self.clock() + GRACE, "grace")
        return error

    def end_early(self, status: str) -> None:
        """End the run from outside; what runs has a while to end."""
        self.ended = status
        self.model.ends_early()
        self.at(self.clock() + GRACE, "grace")

    def ask(self) -> None:
        """Ask for a command from outside."""
        command, key = self.wishes.draw()
        answers: list[Exception | None] = []

        def reply(error: Exception | None) -> None:
            answers.append(error)
            if error is None and key is not None and self.store is not None:
                assert key in [each.key for each in self.store.commands], "answered, so recorded"

        self.requests.append((command, key, answers))
        self.coordinator.submit(command, Origin("a test", key), reply)

    def fire(self, timer: tuple[float, int, str, str], now: float) -> None:
        """Let a timer of the model go off."""
        _, _, kind, node_id = timer
        if kind == "wake":
            self.model.wakes(node_id)
        elif kind == "grace":
            self.leave_behind()
        elif not self.model.stopping:
            self.ended = "timed_out"
            self.model.ends_early()
            self.leave_behind()

    def leave_behind(self) -> None:
        """Write off what did not end in time."""
        late = [each for each in self.model.recipes if each in self.model.victims]
        for node_id in late:
            if node_id in self.model.running:
                self.model.dies(node_id)
                if node_id in self.flying:
                    self.left_behind.add(node_id)

    def outcome(self, node_id: str, answer: Any, now: float) -> None:
        """Tell the model what a call answered."""
        model, recipe = self.model, self.model.recipes[node_id]
        if node_id in self.left_behind:
            self.left_behind.discard(node_id)
            return
        if isinstance(answer, asyncio.CancelledError) and node_id not in model.handling:
            model.dies(node_id)
            return
        refused = isinstance(answer, NodeOutput) and not self.decide(node_id, answer)
        if isinstance(answer, NodeOutput) and answer.success:
            answer = answer.outputs
        label = value = answer
        if isinstance(answer, Branch):
            label, value = answer.label, answer.value
        failed = isinstance(answer, (BaseException, NodeOutput)) or refused
        retried = isinstance(answer, Exception) and not isinstance(answer, ConfigurationError)
        labels: frozenset[str] = frozenset()
        if not failed and recipe.chooses:
            if isinstance(label, bool):
                label = "true" if label else "false"
            if isinstance(label, (str, list)):
                labels = frozenset([label] if isinstance(label, str) else label)
            else:
                failed, retried = True, False
        if not failed and recipe.splits and not (isinstance(value, dict) and len(value) == 2):
            failed, retried = True, False
        if node_id in model.handling and value is None:
            failed = True
        if not failed:
            model.completes(node_id, labels, value)
            return
        stopped = model.stopped
        if model.errs(node_id, retried=retried) == "retry":
            self.at(now + recipe.delay, "wake", node_id)
        if model.stopped and not stopped:
            self.at(now + GRACE, "grace")

    def decide(self, node_id: str, answer: NodeOutput) -> bool:
        """Tell the model what a node asked for with its answer; False if that was refused."""
        if node_id in self.model.cut:  # what it comes to counts no more
            return True
        number = self.before.get(node_id, 0) + self.model.tries[node_id]
        self.model.answering = node_id
        accepted = all(
            self.do(command, f"{k} answer body {number} default {node_id}") is None
            for k, command in enumerate(answer.commands)
        )
        self.model.answering = ""
        return accepted

    def launch(self) -> None:
        """Play a worker that takes a call; the answer is known to nobody until it is delivered."""
        if self.clock() >= self.run.board.due and not self.step():
            return
        board, model = self.run.board, self.model
        if not board.go:
            return
        slot = board.go.popleft()
        node_id = str(self.run.plan.ids[slot])
        assert model.startable, f"{node_id} started while nothing may start"
        assert node_id == model.startable[0], "what became ready first starts first"
        assert node_id not in self.flying, "never twice at once"
        self.check_causes(node_id)
        model.starts(node_id)
        self.current = node_id
        if board.announce is not None:
            assert board.announce(slot, self.clock())
        board.started[slot] = self.clock()
        try:
            answer = board.calls[slot](*board.arguments(slot))
        except AssertionError:
            raise
        except Exception as error:
            answer = error
        stuck = self.scenario.features.stuck and self.rng.random() < 0.1
        self.flying[node_id] = (answer, stuck)

    def check_causes(self, node_id: str) -> None:
        """Before a call, everything that enabled it is on the disk."""
        if self.store is None or node_id in self.model.handling:
            return
        recipe = self.model.recipes[node_id]
        if recipe.trigger == "any":
            if node_id in self.model.winner:
                self.must_be_recorded(self.model.winner[node_id])
            return
        last = {row[0]: row[3] for row in self.store.in_order()}
        for source, _ in recipe.edges:
            assert last.get(source) == self.model.state[source], f"{source} before {node_id}"

    def deliver(self, node_id: str) -> None:
        """Deliver what a running call answered."""
        board, slot = self.run.board, self.slot(node_id)
        answer, _ = self.flying.pop(node_id)
        self.looks = 0
        if node_id in self.halted and self.rng.random() < 0.5:
            answer = asyncio.CancelledError()
        board.ended[slot] = self.clock()
        if isinstance(answer, BaseException):
            board.odd.append((slot, answer))
            queue = "odd"
        else:
            queue = "done" if board.settle(slot, answer) else "odd"
        self.pending.append((node_id, answer, queue))

    def live(self) -> str:
        """Play until the run ends or the process dies; return its status, or ``killed``."""
        end = self.play()
        if self.store is not None:
            self.store.slots = dict(self.run.plan.index)
        return end

    def play(self) -> str:
        """Play until the run ends or the process dies."""
        self.scenario.life = self
        has, rng = self.scenario.features, self.rng
        luck = 1.5 / (len(self.scenario.recipes) + 5)
        alive, launched = self.step(), False
        while alive:
            if has.kills and self.store is not None and rng.random() < luck / 3:
                if rng.random() < 0.5 and not launched:  # in the middle of a turn
                    self.store.rewind(rng.randint(self.start_of_step, len(self.store.log)))
                return "killed"
            launched = False
            if self.scenario.budget > 0 and rng.random() < 0.15:
                self.ask()
            urge = 3 if set(self.model.ready) & self.model.handling else 1 / 6
            if has.cancels and not self.asked and rng.random() < luck * urge:
                self.asked = True
                self.token.cancel("enough")
            move = rng.random()
            movable = [
                each
                for each, (_, stuck) in self.flying.items()
                if not stuck or each in self.left_behind
            ]
            if move < 0.4 and self.may_launch():
                self.launch()
                launched = True
                alive = not self.model.is_over() or self.pending != []
                continue
            if move < 0.75 and movable:
                self.clock.advance(rng.choice((0.0, 0.0004, 0.002, 0.02, 2.0)))
                self.deliver(rng.choice(movable))
                if rng.random() < 0.5:
                    continue
            elif not self.pending and not movable and not self.may_launch():
                alive = self.step()
                if not alive:
                    break
                if not self.may_launch():
                    self.wait()
            alive = self.step()
        return self.conclude()

    def may_launch(self) -> bool:
        """Whether a call is released and a slot is free."""
        busy = len(self.flying) - len(self.left_behind)  # the slots of lost calls are replaced
        return bool(self.run.board.go) and busy < self.slots

    def wait(self) -> None:
        """Let time pass until the coordinator wants to be stepped; free a call that is stuck."""
        wake = self.run.board.wake_at
        self.looks += 1
        if wake != inf and (self.looks < LOOKS or not self.flying):
            assert self.looks < 100 * LOOKS, "it looks for something that does not come"
            self.clock.advance(max(0.0, wake - self.clock()))
            return
        assert self.flying, "nothing runs, nothing waits, and the run has not ended: it hangs"
        for node_id, (answer, _) in list(self.flying.items()):
            self.flying[node_id] = (answer, False)

    def conclude(self) -> str:
        """Check the report of a run that has ended."""
        model, run = self.model, self.run
        report = run.report()
        states = {node_id: str(state) for node_id, state in report.states().items()}
        assert states == model.state
        assert report.status == model.status(self.ended)
        assert report.success == (report.status == "completed")
        counts = (
            report.completed_nodes,
            report.failed_nodes,
            report.skipped_nodes,
            report.cancelled_nodes,
            report.pending_nodes,
        )
        assert sum(counts) == len(states)
        assert counts[:4] == tuple(
            sum(each == state for each in states.values())
            for state in (COMPLETED, FAILED, SKIPPED, CANCELLED)
        )
        if report.status != "paused":
            assert not report.pending_nodes
        self.check_graph(report.graph)
        self.check_dismissed()
        for node_id, each in report.node_reports.items():
            self.check_node(node_id, each)
        if self.store is not None:
            self.check_final_rows()
        if self.watching is not None:
            self.check_events()
        return str(report.status)

    def check_graph(self, graph: Graph) -> None:
        """The graph is what the model says, and has no cycle."""
        recipes = self.model.recipes
        assert sorted(graph.topological_order()) == sorted(recipes)
        for node_id, recipe in recipes.items():
            node = graph.nodes[node_id]
            labelled = {edge.source for edge in graph.labelled if edge.target == node_id}
            assert set(node.dependencies) | labelled == set(recipe.sources), node_id
            assert node.enabled == recipe.enabled
            assert str(node.trigger) == recipe.trigger
            given = {each.name: each.reference or each.value for each in node.inputs}
            assert given == {
                each.name: each.literal if each.source is None else f"{each.source}.result"
                for each in recipe.inputs
            }

    def check_dismissed(self) -> None:
        """Whoever comes late is told so."""
        answers: list[Exception | None] = []
        self.coordinator.submit(ResumeRun(), Origin("a test"), answers.append)
        assert [type(each) for each in answers] == [InvalidState]

    def check_node(self, node_id: str, report: Any) -> None:
        """Check what is said of one node."""
        model = self.model
        made = self.before.get(node_id, 0) + model.tries.get(node_id, 0)
        assert report.attempts == made, node_id
        if report.state in (SKIPPED, CANCELLED):
            assert report.reason
        if report.state == FAILED:
            assert report.error is not None

    def check_final_rows(self) -> None:
        """When a run has ended, every node that ended is on the disk."""
        assert self.store is not None
        last = {row[0]: row[3] for row in self.store.in_order()}
        for node_id, state in self.model.state.items():
            if state not in (PENDING, WAITING):
                assert last.get(node_id) == state, node_id

    def check_events(self) -> None:
        """Every node that ended in this life was shown, once; starts were shown before ends."""
        assert self.watching is not None
        kinds = {
            COMPLETED: NodeCompleted,
            FAILED: NodeFailed,
            SKIPPED: NodeSkipped,
            CANCELLED: NodeCancelled,
        }
        seen = self.watching.seen
        ends = [node_id for kind, node_id in seen if kind in kinds.values()]
        assert len(ends) == len(set(ends))
        if self.watching.steers:
            news = [int(number) for kind, number in seen if kind is CustomEvent]
            assert news == list(range(self.model.emitted - len(news) + 1, self.model.emitted + 1))
        for node_id, state in self.model.state.items():
            if state in (PENDING, WAITING) or node_id in self.restored():
                continue
            soft = state == FAILED and (NodeCompleted, node_id) in seen
            assert soft or (kinds[state], node_id) in seen
        if self.watching.wants_starts:
            for node_id, tries in self.model.tries.items():
                assert seen.count((NodeStarted, node_id)) == tries

    def restored(self) -> set[str]:
        """Return the nodes whose result an earlier life had recorded."""
        return self.given_back


#: What the record says of a command beside itself.
_ORIGIN = ("depth", "round", "count")


def _without_origin(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded command without what the record says of who asked for it."""
    return {name: value for name, value in plain.items() if name not in _ORIGIN}


def play(size: int, seed: int, features: Features, *, durable: bool) -> list[str]:
    """Play lives until the run is completed; return how each one ended."""
    scenario = Scenario(size, seed, features)
    store = MemoryStore() if durable else None
    ends: list[str] = []
    for number in range(LIVES if durable else 1):
        last = number == LIVES - 1
        life = Life(
            scenario,
            store,
            f"life {seed} {number}",
            resumed=number > 0,
            failures=0.0 if last else features.failures,
        )
        ends.append(life.live())
        if ends[-1] == "completed":
            break
    return ends
