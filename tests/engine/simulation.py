"""Whole runs without threads: a coordinator whose workers, clock and store are played by a test.

`Scenario` draws a graph; `Life` plays one process: it takes released calls, answers them in any
order, lets time pass, cancels, and dies. Everything that the engine does is compared with
`tests.engine.reference.Model`, which is told of the same outcomes.
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
from dagger_dsl.engine.plan import Plan, compile_plan
from dagger_dsl.engine.recorder import Recorder
from dagger_dsl.engine.run import Run
from dagger_dsl.engine.state import NAMES
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import Branch, NodeCtx, NodeOutput
from dagger_dsl.model.events import (
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
    Given,
    Model,
    Recipe,
)

__all__ = ["Features", "Life", "MemoryStore", "Scenario"]

GRACE = 10.0
LIMIT = 90.0
LABELS = ("x", "y", "true")
SHOWN = (NodeCompleted, NodeFailed, NodeSkipped, NodeCancelled, NodeRetrying)


class Boom(Exception):
    """What bodies raise."""


# --- a store -------------------------------------------------------------------------------------


class MemoryStore:
    """What `Recorder` needs of a store; it outlives the processes that a test plays."""

    def __init__(self) -> None:
        self.database = SimpleNamespace(path=None)
        self.payloads = Payloads(None)
        self.rows: dict[tuple[str, str, int], tuple[int, Row]] = {}
        self.seq = 0
        self.epoch = 1
        self.commands: list[Any] = []

    def in_order(self) -> list[Row]:
        """Return the rows as they were recorded."""
        return [row for _, row in sorted(self.rows.values(), key=lambda pair: pair[0])]

    def claim_run(self, run_id: str, durability: str) -> tuple[Any, MemoryJournal]:
        """Return what was recorded, and a new journal."""
        self.epoch += 1
        attempts = [
            StoredNode(self.payloads, (*row[:3], seq, *row[3:]))
            for seq, row in sorted(self.rows.values(), key=lambda pair: pair[0])
        ]
        stored = SimpleNamespace(
            attempts=attempts,
            history=attempts,
            acked=0,
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

        def execute(_statement: Any) -> None:
            self.rows = {
                key: (seq, row)
                for key, (seq, row) in self.rows.items()
                if row[3] not in (SKIPPED, CANCELLED) or row[6] is not None
            }

        yield SimpleNamespace(execute=execute)


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
        commands: Any = None,
        replay: bool = False,
        last: bool = False,
        ack: bool = False,
        replacing: Sequence[Row] = (),
    ) -> None:
        """Record, as the schema allows it: attempt 0 replaces, every other number is new."""
        assert rows or released or ack or commands
        for note, body in commands or ():
            known = [each.key for each in self.store.commands if each.key is not None]
            assert note not in known or replay, f"{note} is noted twice"
            self.store.seq += 1
            self.store.commands.append(SimpleNamespace(key=note, body=body, seq=self.store.seq))
        for row in rows:
            key = (row[0], row[1], row[2])
            assert row[2] == 0 or key not in self.store.rows, f"attempt {key} is recorded twice"
            assert (row[2] == 0) == (row[6] is None), f"only calls have numbers: {row}"
            self.store.seq += 1
            self.store.rows[key] = (self.store.seq, row)
        self.commits.append((list(rows), list(released or ())))


# --- scenarios -----------------------------------------------------------------------------------


@attrs.frozen
class Features:
    """What a scenario may hold; fewer features make a smaller counterexample.

    Attributes:
        triggers, labels, policies, handlers, retries, soft, disabled, unstored, outputs: Of graphs.
        cancels, limits, kills, stuck: Of lives.
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
        for recipe in self.recipes.values():
            self.registry.register(self._action(recipe), f"act_{recipe.id}", store=recipe.stored)
        self.registry.register(self._handler(), "rescue")
        self.plan: Plan = compile_plan(self.graph, self.registry.get)

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
                chooses=False,
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
                )
            )
            edges += [Edge(source, each.id, label) for source, label in each.edges if label]
        return Graph("scenario", nodes, edges)

    def _action(self, recipe: Recipe) -> Callable[..., Any]:
        """Return a function that asks the life that is being played what to do."""
        by_default = bool(self.rng.getrandbits(1))

        def answer(inputs: Mapping[str, Any], attempt: int | None = None) -> Any:
            assert self.life is not None
            return self.life.body(recipe, inputs, attempt)

        names = [each.name for each in recipe.inputs]
        if self.rng.random() < 0.3:

            def with_ctx(ctx: NodeCtx, a: Any = NOTHING, b: Any = NOTHING, c: Any = NOTHING) -> Any:
                given = {"a": a, "b": b, "c": c}
                assert {name: ctx.inputs.get(name, NOTHING) for name in names} == {
                    name: given[name] for name in names
                }
                return answer({name: given[name] for name in names}, ctx.attempt)

            return with_ctx
        if by_default or len(names) < 3:

            def plain(c: Any = NOTHING, a: Any = NOTHING, b: Any = NOTHING) -> Any:
                given = {"a": a, "b": b, "c": c}
                return answer({name: given[name] for name in names})

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


# --- one process ---------------------------------------------------------------------------------


class Watching:
    """Sees what hooks see; nothing may be shown before it is recorded."""

    def __init__(self, life: Life, wants_starts: bool) -> None:
        self.life = life
        self.wants_starts = wants_starts
        self.seen: list[tuple[type, str]] = []

    #: It observes; what it is shown is not acknowledged.
    steers = False
    owes = False
    broken = None

    def start(self, slot: int, now: float) -> bool:
        """Take the start of a call."""
        assert now == self.life.clock()
        if slot not in self.life.run.handling:
            self.seen.append((NodeStarted, str(self.life.run.plan.ids[slot])))
        return False

    def announce(self, _event: Any) -> Iterator[Any]:
        """Take the beginning or the end."""
        yield from ()
        return []  # type: ignore[return-value]

    def show(self, events: Sequence[Any]) -> Iterator[Any]:
        """Take the events of a turn."""
        yield from ()
        for event in events:
            node_id = event.node.node_id
            kind = next(kind for kind in SHOWN if isinstance(event, kind))
            self.seen.append((kind, node_id))
            if kind is NodeCompleted and event.outcome.success:
                self.life.must_be_recorded(node_id)
        return []  # type: ignore[return-value]


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
        self.model = Model(scenario.recipes)
        self.model.tries = {}
        self.before = self._attempts_before()
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
            lookup=scenario.registry.get,
            slots=self.slots,
            clock=self.clock,
            journal=journal,
        )
        if store is not None:
            self.model.only = self._taken_by_joins(store)
        recorded = self._recorded() if resumed else []
        if recorder is not None and resumed:
            recorder.restore(self.run, "warn")
        self.watching = None
        if rng.random() < 0.3:
            self.watching = Watching(self, rng.random() < 0.5)
        self.coordinator = Coordinator(self.run, self.watching)  # type: ignore[arg-type]
        self.run.board.halt = self._halt
        self.run.began = self.clock()
        self.model.begin(recorded)
        self.timers: list[tuple[float, int, str, str]] = []
        self.order = itertools.count()
        if config.timeout_seconds is not None:
            self.run.deadline = self.clock() + config.timeout_seconds
            self.at(self.run.deadline, "limit")
        #: Running calls: what they answered, to be delivered later.
        self.flying: dict[str, tuple[Any, bool]] = {}
        self.left_behind: set[str] = set()
        self.pending: list[tuple[str, Any, str]] = []
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
            if each.key.startswith("any:")
        }

    def _recorded(self) -> list[tuple[str, frozenset[str], Any]]:
        """Return what a resume has to know, read off the rows; forget what was not stored."""
        assert self.store is not None
        done: dict[str, tuple[str, frozenset[str], Any]] = {}
        for row in self.store.in_order():
            if row[6] is None:
                continue  # an end without a call is worked out anew
            done.pop(row[0], None)
            if row[3] == COMPLETED:
                labels = frozenset(json.loads(row[9] or "{}").get("labels", ()))
                value = None if row[4] is None else json.loads(row[4])
                done[row[0]] = (row[0], labels, value)
        recipes = self.scenario.recipes
        before = len(done) + 1
        while len(done) < before:  # whoever is called again may choose another way
            before = len(done)
            outlook = Model(recipes)
            outlook.only = self.model.only
            outlook.begin(list(done.values()))
            todo = [each for each in recipes if outlook.state[each] == PENDING]
            while todo:  # and it needs its inputs, which may not be stored either
                for given in recipes[todo.pop()].inputs:
                    if given.source in done and not recipes[given.source].stored:
                        del done[given.source]
                        todo.append(given.source)
        return list(done.values())

    # --- bodies ----------------------------------------------------------------------------------

    def value(self, node_id: str) -> list[Any]:
        """Return a value that no other call has returned."""
        return [node_id, next(self.scenario.serial)]

    def body(self, recipe: Recipe, inputs: Mapping[str, Any], attempt: int | None) -> Any:
        """Play the body of a node."""
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
        recipe = self.scenario.recipes[node_id]
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
        states = {ids[slot]: NAMES[run.state.status(slot)] for slot in range(run.plan.count)}
        assert states == model.state
        waiting = [*run.board.go, *run.state.ready]
        assert [ids[slot] for slot in waiting] == model.ready
        assert run.state.left == sum(s in (PENDING, WAITING) for s in model.state.values())
        assert run.state.waiting == sum(s == WAITING for s in model.state.values())
        for node_id in model.completed:
            assert run.value(self.slot(node_id)) == model.values[node_id]

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
        now = self.clock()
        pending, self.pending = self.pending, []
        alive = self.coordinator.step(now)
        if self.coordinator.error is not None:
            raise self.coordinator.error
        for kind in ("done", "odd"):
            for node_id, answer, queue in pending:
                if queue == kind:
                    self.outcome(node_id, answer, now)
        while self.timers and min(self.timers)[0] <= now:
            timer = min(self.timers)
            self.timers.remove(timer)
            self.fire(timer, now)
        if self.asked and not self.model.stopping:
            self.ended = CANCELLED
            self.model.ends_early()
            self.at(now + GRACE, "grace")
        self.check()
        self.check_record()
        assert alive == (not self.model.is_over()), "the run ends when nothing is left to do"
        return alive

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
        if isinstance(answer, NodeOutput) and answer.success:
            answer = answer.outputs
        label = value = answer
        if isinstance(answer, Branch):
            label, value = answer.label, answer.value
        failed = isinstance(answer, (BaseException, NodeOutput))
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
        before = len(model.failures)
        if model.errs(node_id, retried=retried) == "retry":
            self.at(now + recipe.delay, "wake", node_id)
        if len(model.failures) > before and recipe.policy == "stop":
            self.at(now + GRACE, "grace")

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
        if board.announce is not None:
            board.announce(slot, self.clock())
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
        self.scenario.life = self
        has, rng = self.scenario.features, self.rng
        luck = 1.5 / (len(self.scenario.recipes) + 5)
        alive = self.step()
        while alive:
            if has.kills and self.store is not None and rng.random() < luck / 3:
                return "killed"
            urge = 3 if set(self.model.ready) & self.model.handling else 1 / 6
            if has.cancels and not self.asked and rng.random() < luck * urge:
                self.asked = True
                self.token.cancel("enough")
                self.coordinator.stop()
            move = rng.random()
            movable = [
                each
                for each, (_, stuck) in self.flying.items()
                if not stuck or each in self.left_behind
            ]
            if move < 0.4 and self.may_launch():
                self.launch()
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
        if wake != inf:
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
        for node_id, each in report.node_reports.items():
            self.check_node(node_id, each)
        if self.store is not None:
            self.check_final_rows()
        if self.watching is not None:
            self.check_events()
        return str(report.status)

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
        return set(self.model.completed) - set(self.model.tries)
