"""What a run has to do, written as plainly as possible: the model that the engine is compared with.

Nothing here is fast or clever. After everything that happens, `Model.settle` looks at every node
that has not been decided and evaluates its trigger rule from the states of its sources, again and
again until nothing changes any more. There are no counters, no queues of edges and no caches.

Commands change what the model knows and settle it again. A resume is the record, lived through once
more from its beginning: completions and commands, in the order in which they were recorded.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import attrs

from dagger_dsl.errors import (
    ActionNotFound,
    CycleError,
    DaggerError,
    DependencyNotFound,
    InvalidState,
    NodeAlreadyExists,
    NodeNotFound,
    ValidationError,
)
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    CancelBranch,
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
)

__all__ = ["Done", "Given", "Kind", "Model", "Recipe"]

PENDING = "pending"
WAITING = "waiting"
COMPLETED = "completed"
FAILED = "failed"
SKIPPED = "skipped"
CANCELLED = "cancelled"

#: What an input was given when no edge delivered a value.
NOTHING = "<nothing>"


@attrs.frozen
class Given:
    """One input of a node: the id of its source, or a literal."""

    name: str
    source: str | None = None
    literal: int = 0


@attrs.frozen
class Recipe:
    """One node of a scenario.

    Attributes:
        id: Its id.
        edges: ``(source, label)`` of what it waits for; the label is None on a plain edge.
        trigger: Its rule.
        policy: What its failure does.
        attempts: Calls in all.
        delay: Seconds between two calls.
        handler: Whether it has a failure handler.
        enabled: Whether it may run at all.
        stored: Whether its result is recorded.
        inputs: What it is called with.
        chooses: Whether edges that leave it have labels.
        splits: Whether it declares the outputs ``result`` and ``extra``.
        action: What it calls, where a command has added it.
        branch: The label of the branch that it belongs to.
    """

    id: str
    edges: tuple[tuple[str, str | None], ...] = ()
    trigger: str = "success"
    policy: str = "stop"
    attempts: int = 1
    delay: float = 0.0
    handler: bool = False
    enabled: bool = True
    stored: bool = True
    inputs: tuple[Given, ...] = ()
    chooses: bool = False
    splits: bool = False
    action: str = ""
    branch: str | None = None

    @property
    def sources(self) -> list[str]:
        """What it waits for."""
        return [source for source, _ in self.edges]

    def is_like(self, other: Recipe) -> bool:
        """Whether two say the same; the order of what a node waits for says nothing."""
        mine, theirs = (attrs.evolve(each, edges=()) for each in (self, other))
        return mine == theirs and set(self.edges) == set(other.edges)


@attrs.frozen
class Kind:
    """An action that nodes can be added of: what of a recipe it settles."""

    stored: bool = True
    splits: bool = False
    handler: bool = False


class Done(NamedTuple):
    """A completion that an earlier life recorded."""

    node_id: str
    labels: frozenset[str]
    value: object


class Refused(Exception):
    """A command that changes nothing, and the class of the error that says why."""

    def __init__(self, kind: type[DaggerError]) -> None:
        super().__init__(kind.__name__)
        self.kind = kind


class Model:
    """One life of a run, from its start or a resume to its end or a crash.

    Attributes:
        recipes: The nodes in declaration order.
        state: State by id; a running node is pending.
        ready: What may start, in the order in which it has to.
        running: What was started and has not ended.
        handling: Nodes whose failure handler is due or running.
        completed: What completed, in the order of arrival.
        labels: What completed nodes chose.
        values: What completed nodes gave.
        winner: By `any` node, the source that let it run.
        only: By `any` node, the source that let it run in an earlier life.
        tries: Attempts made in this life.
        victims: Calls that were asked to end.
        spared: What a stop leaves alive.
        failures: Nodes that failed for good, in order.
        undecided: Those that paused the run: whoever waits for them is left pending, as a resume
            gives them another chance.
        waits: Somebody has paused the run.
        stopped, stopping: A node with the policy `stop` failed; the run is ended from outside.
        holds: The branches of which nothing is started for now.
        parked: What may start but for them, in the order in which it came to be so.
        cut: What was cancelled with its branch, or is to be.
        applied: Keys of commands that were applied.
        emitted: How many custom events there were.
        answering: The node with whose answer a command comes; it has ended.
        halts: How often calls were asked to end as their branch was cancelled.
        patient: What is disabled is skipped not before it is its turn.
        kinds: The actions that nodes can be added of.
    """

    def __init__(
        self, recipes: Mapping[str, Recipe], kinds: Mapping[str, Kind] | None = None
    ) -> None:
        self.recipes = dict(recipes)
        self.kinds = kinds or {}
        self.state = dict.fromkeys(recipes, PENDING)
        self.ready: list[str] = []
        self.running: set[str] = set()
        self.handling: set[str] = set()
        self.completed: list[str] = []
        self.labels: dict[str, frozenset[str]] = {}
        self.values: dict[str, object] = {}
        self.winner: dict[str, str] = {}
        self.only: dict[str, str] = {}
        self.tries: dict[str, int] = {}
        self.victims: set[str] = set()
        self.spared: set[str] = set()
        self.failures: list[str] = []
        self.undecided: set[str] = set()
        self.waits = False
        self.stopped = False
        self.stopping = False
        self.holds: set[str] = set()
        self.parked: list[str] = []
        self.cut: set[str] = set()
        self.applied: set[str] = set()
        self.emitted = 0
        self.halts = 0
        self.patient = False
        self.added_last: set[str] = set()
        self.answering = ""
        self.again: set[str] = set()
        self.lost: set[str] = set()
        self.reliving = False

    @property
    def paused(self) -> bool:
        """Whether nothing is started any more, but failure handlers that are due."""
        return self.waits or bool(self.undecided)

    # --- the rules -------------------------------------------------------------------------------

    def edge(self, source: str, label: str | None) -> str:
        """Return whether one edge is satisfied, dead or open."""
        if source in self.undecided:
            return "open"
        state = self.state[source]
        if state == COMPLETED:
            return "satisfied" if label is None or label in self.labels[source] else "dead"
        return "dead" if state in (FAILED, SKIPPED, CANCELLED) else "open"

    def edge_into(self, node_id: str, source: str, label: str | None) -> str:
        """Return what one edge is for its target: an `any` node keeps the source it had taken."""
        if self.only.get(node_id, source) != source and self.edge(source, label) == "satisfied":
            return "dead"
        return self.edge(source, label)

    def verdict(self, node_id: str) -> str | None:
        """Return ``run``, ``skip``, or None while it is undecided."""
        found = self.rule(node_id)
        if found == "run" and not self.recipes[node_id].enabled and not self.patient:
            return "skip"
        return found

    def rule(self, node_id: str) -> str | None:
        """Return what the trigger rule says of an enabled node."""
        recipe = self.recipes[node_id]
        edges = [self.edge_into(node_id, source, label) for source, label in recipe.edges]
        sources = [self.seen_by_joins(source) for source in recipe.sources]
        if recipe.trigger == "success":
            if "dead" in edges:
                return "skip"
            return None if "open" in edges else "run"
        if recipe.trigger == "any":
            if "satisfied" in edges or not edges:
                return "run"
            return None if "open" in edges else "skip"
        if "open" in edges:
            return None
        if recipe.trigger == "none_failed":
            bad = FAILED in sources or CANCELLED in sources
            return "run" if not bad and ("satisfied" in edges or not edges) else "skip"
        if recipe.trigger == "failed":
            return "run" if FAILED in sources else "skip"
        return "run"  # done

    def seen_by_joins(self, source: str) -> str:
        """Return how a node ended, for a join: what was cancelled with its branch was skipped."""
        state = self.state[source]
        return SKIPPED if state == CANCELLED and source in self.cut else state

    def settle(self) -> None:
        """Decide everything that can be decided; what that enables is in declaration order."""
        fresh: set[str] = set()
        changed = True
        while changed:
            changed = False
            for node_id in self.recipes:
                if not self.is_open(node_id) or node_id in fresh:
                    continue
                verdict = self.verdict(node_id)
                if verdict == "run":
                    fresh.add(node_id)
                    changed = True
                    if self.recipes[node_id].trigger == "any":
                        self.note_winner(node_id)
                elif verdict == "skip":
                    self.state[node_id] = SKIPPED
                    changed = True
        self.ready += [node_id for node_id in self.recipes if node_id in fresh]
        self.park()

    def skips(self, node_id: str) -> None:
        """It is the turn of a disabled node."""
        self.state[node_id] = SKIPPED
        self.ready.remove(node_id)
        self.settle()

    def is_open(self, node_id: str) -> bool:
        """Whether nothing was decided about a node so far."""
        return (
            self.state[node_id] == PENDING
            and node_id not in self.ready
            and node_id not in self.parked
            and node_id not in self.running
        )

    def note_winner(self, node_id: str) -> None:
        edges = self.recipes[node_id].edges
        satisfied = [
            source
            for source, label in edges
            if self.edge_into(node_id, source, label) == "satisfied"
        ]
        if satisfied:  # of several that there were before the node was, the first one it names
            late = node_id in self.added_last
            self.winner[node_id] = (
                satisfied[0] if late else min(satisfied, key=self.completed.index)
            )

    def inputs(self, node_id: str) -> dict[str, object]:
        """Return what a node is called with; `NOTHING` where its default has to step in."""
        recipe = self.recipes[node_id]
        found: dict[str, object] = {}
        for given in recipe.inputs:
            if given.source is None:
                found[given.name] = given.literal
                continue
            delivered = any(
                self.edge(source, label) == "satisfied"
                for source, label in recipe.edges
                if source == given.source
            )
            if recipe.trigger == "any" and self.winner.get(node_id) != given.source:
                delivered = False
            value = self.values.get(given.source)
            if self.recipes[given.source].splits and isinstance(value, dict):
                value = value["result"]
            found[given.name] = value if delivered else NOTHING
        return found

    # --- beginning -------------------------------------------------------------------------------

    def begin(self, record: Sequence[Done | Command], again: Collection[str] = ()) -> None:
        """Start, or go on with what earlier lives recorded.

        Args:
            record: Completions and commands, in order.
            again: What had completed and is called once more, as its value was not stored.
        """
        known = {each.node_id for each in record if isinstance(each, Done)}
        self.ready = [
            recipe.id
            for recipe in self.recipes.values()
            if (recipe.enabled or self.patient)
            and not recipe.edges
            and recipe.trigger != "failed"
            and recipe.id not in known
        ]
        self.running |= known  # until it is their turn
        self.again = set(again)
        self.reliving = True
        self.settle()
        for entry in record:
            if isinstance(entry, Done):
                self.completes(*entry)
            else:
                self.do(entry)
        self.reliving = False
        self.victims = set()
        self.cut = {each for each in self.cut if self.state[each] == CANCELLED}
        self.lost = {each for each in known if not self.recipes[each].stored}

    # --- what happens ----------------------------------------------------------------------------

    def starts(self, node_id: str) -> None:
        """A worker takes a node."""
        self.ready.remove(node_id)
        self.running.add(node_id)
        if node_id not in self.handling:
            self.tries[node_id] = self.tries.get(node_id, 0) + 1

    def completes(self, node_id: str, labels: frozenset[str], value: object) -> None:
        """A call returned, or a handler gave a value."""
        if node_id in self.cut and not self.reliving:  # what it comes to counts no more
            self.dies(node_id)
            return
        self.running.discard(node_id)
        self.handling.discard(node_id)
        self.state[node_id] = COMPLETED
        self.labels[node_id] = labels
        self.values[node_id] = value
        self.completed.append(node_id)
        self.settle()

    def errs(self, node_id: str, *, retried: bool) -> str:
        """A call failed. Return what comes next: ``retry``, ``handler`` or ``failed``."""
        recipe = self.recipes[node_id]
        self.running.discard(node_id)
        if node_id in self.cut:  # what it comes to counts no more
            self.dies(node_id)
            return CANCELLED
        if node_id in self.handling:  # the handler itself failed, or had nothing to give
            self.handling.discard(node_id)
            self.fails(node_id)
            return FAILED
        more = self.tries[node_id] < recipe.attempts
        if retried and more and not self.stopping and node_id not in self.victims:
            self.state[node_id] = WAITING
            return "retry"
        if recipe.handler and not self.stopping:
            self.handling.add(node_id)
            self.ready.insert(0, node_id)
            return "handler"
        self.fails(node_id)
        return FAILED

    def wakes(self, node_id: str) -> None:
        """The wait before a retry is over."""
        if self.state[node_id] == WAITING:
            self.state[node_id] = PENDING
            self.ready.append(node_id)
            self.park()

    def fails(self, node_id: str) -> None:
        """A failure is final."""
        self.state[node_id] = FAILED
        self.failures.append(node_id)
        policy = self.recipes[node_id].policy
        if policy == "pause":
            self.undecided.add(node_id)
            return
        self.settle()
        if policy == "stop" and not self.stopped:
            self.stopped = True
            self.spared = self.to_spare(node_id)
            self.cancel_rest()
            self.victims |= (self.running | self.handling) - self.spared

    def to_spare(self, node_id: str) -> set[str]:
        """Return the `failed` and `done` dependents of a node, and all that depend on them."""
        return self.with_descendants(
            each.id
            for each in self.recipes.values()
            if each.trigger in ("failed", "done") and node_id in each.sources
        )

    def with_descendants(self, roots: Iterable[str]) -> set[str]:
        """Return some nodes, and all that depend on them."""
        found = set(roots)
        while True:
            more = {each.id for each in self.recipes.values() if found & set(each.sources)}
            if more <= found:
                return found
            found |= more

    def cancel_rest(self) -> None:
        """Cancel whatever has not started and is not spared."""
        for node_id, state in self.state.items():
            begun = node_id in self.running or node_id in self.handling
            if state in (PENDING, WAITING) and not begun and node_id not in self.spared:
                self.state[node_id] = CANCELLED
        self.forget_ended()
        self.settle()

    def forget_ended(self) -> None:
        """Take out of the lines what has ended."""
        self.ready = [node_id for node_id in self.ready if self.state[node_id] == PENDING]
        self.parked = [node_id for node_id in self.parked if self.state[node_id] == PENDING]

    def ends_early(self) -> None:
        """The run is cancelled, or passed its limit."""
        self.stopping = True
        for node_id in [each for each in self.ready if each in self.handling]:
            self.ready.remove(node_id)
            self.handling.discard(node_id)
            if node_id in self.cut:
                self.dies(node_id)
            else:
                self.fails(node_id)
        self.spared = set()
        self.cancel_rest()
        self.victims |= self.running

    def dies(self, node_id: str) -> None:
        """A running call was cancelled, or is left behind."""
        self.running.discard(node_id)
        self.handling.discard(node_id)
        self.state[node_id] = CANCELLED
        self.settle()

    # --- commands --------------------------------------------------------------------------------

    def apply(
        self, command: Command, key: str | None = None, failed: str | None = None
    ) -> type[DaggerError] | None:
        """Do what a command asks for; return the class of the error when it is refused.

        Args:
            command: It.
            key: Under which it counts once.
            failed: The node whose failure it answers.
        """
        if key is not None and key in self.applied:
            return None
        try:
            self.do(command, failed)
        except Refused as refused:
            return refused.kind
        if key is not None:
            self.applied.add(key)
        return None

    def do(self, command: Command, failed: str | None = None) -> None:
        """Do what a command asks for."""
        match command:
            case AddNode():
                self.add([command.spec], failed)
            case AddNodes():
                self.add(command.specs, failed)
            case SetNodeInputs():
                self.set_inputs(command.node_id, command.inputs)
            case SetNodesEnabled():
                self.enable(command.ids, command.enabled)
            case PauseBranch():
                self.roots(command.branch_id)
                self.holds.add(command.branch_id)
                self.park()
            case ResumeBranch():
                self.roots(command.branch_id)
                self.let_go(command.branch_id)
            case CancelBranch():
                self.cancel_branch(command.branch_id)
            case EmitEvent():
                self.emitted += 1
            case PauseRun():
                self.waits = self.waits or not (self.paused or self.stopping)
            case ResumeRun():
                self.waits = False

    # Growth.

    def add(self, specs: Iterable[NodeSpec], failed: str | None = None) -> None:
        """Add nodes, all or none."""
        batch = self.named(specs, failed)
        for node_id, recipe in batch.items():
            if node_id in self.recipes and not self.recipes[node_id].is_like(recipe):
                raise Refused(NodeAlreadyExists)
        new = {each: batch[each] for each in batch if each not in self.recipes}
        for recipe in new.values():
            if recipe.action not in self.kinds:
                raise Refused(ActionNotFound)
            if not set(recipe.sources) <= {*self.recipes, *new}:
                raise Refused(DependencyNotFound)
        if runs_in_circles(new):
            raise Refused(CycleError)
        for recipe in new.values():
            self.refuse_lost(recipe)
        self.recipes |= new
        self.state |= dict.fromkeys(new, PENDING)
        if self.stopped and not self.stopping:
            self.spared = self.with_descendants(
                self.spared
                | {
                    recipe.id
                    for recipe in new.values()
                    if recipe.trigger in ("failed", "done")
                    and FAILED in [self.state[source] for source in recipe.sources]
                }
            )
        if self.stopped or self.stopping:
            for node_id in new.keys() - self.spared:
                self.state[node_id] = CANCELLED
        self.added_last = set(new)
        self.settle()
        self.added_last = set()

    def named(self, specs: Iterable[NodeSpec], failed: str | None) -> dict[str, Recipe]:
        """Return what specs describe by id: their own, or their action's name and a number."""
        specs = list(specs)
        taken = {*self.recipes, *(spec.id for spec in specs)}
        batch: dict[str, Recipe] = {}
        for spec in specs:
            node_id = spec.id
            if node_id is None:
                names = itertools.chain(
                    [spec.action], (f"{spec.action}_{k}" for k in itertools.count(2))
                )
                node_id = next(name for name in names if name not in taken)
                taken.add(node_id)
            if node_id in batch:
                raise Refused(NodeAlreadyExists)
            batch[node_id] = self.recipe(node_id, spec, failed)
        return batch

    def recipe(self, node_id: str, spec: NodeSpec, failed: str | None) -> Recipe:
        """Return what one spec describes."""
        kind = self.kinds.get(spec.action, Kind())
        inputs = tuple(given(name, value) for name, value in spec.inputs.items())
        sources = dict.fromkeys([*spec.deps, *(each.source for each in inputs if each.source)])
        default = "done" if failed is not None and failed in spec.deps else "success"
        return Recipe(
            id=node_id,
            edges=tuple((source, None) for source in sources),
            trigger=str(spec.trigger or default),
            policy=str(spec.on_failure or "stop"),
            attempts=spec.try_count or 1,
            delay=spec.retry.base_delay if spec.retry is not None else 0.0,
            handler=kind.handler,
            stored=kind.stored,
            inputs=inputs,
            splits=kind.splits,
            action=spec.action,
            branch=spec.branch,
        )

    def refuse_lost(self, recipe: Recipe) -> None:
        """Refuse what takes a result that no earlier life has stored."""
        if not self.reliving and self.lost.intersection(each.source for each in recipe.inputs):
            raise Refused(InvalidState)

    # Changes.

    def known(self, node_id: str) -> Recipe:
        """Return a node that a command names."""
        if node_id not in self.recipes:
            raise Refused(NodeNotFound)
        return self.recipes[node_id]

    def refuse_started(self, node_id: str) -> None:
        """Refuse a change of what has started; a record holds only what was not refused."""
        begun = node_id in self.running or node_id in self.handling or self.tries.get(node_id)
        if not self.reliving and (begun or self.state[node_id] != PENDING):
            raise Refused(InvalidState)

    def set_inputs(self, node_id: str, inputs: Mapping[str, Any]) -> None:
        """Give a node that has not started other inputs; it waits for what these refer to."""
        before = self.known(node_id)
        fields = {each.name: each for each in before.inputs}
        fields |= {name: given(name, value) for name, value in inputs.items()}
        after = attrs.evolve(before, inputs=tuple(fields.values()))
        if after == before:
            return
        self.refuse_started(node_id)
        if not fields.keys() <= {"a", "b", "c"}:
            raise Refused(ValidationError)
        fresh = dict.fromkeys(
            each.source for each in after.inputs if each.source not in (None, *before.sources)
        )
        if not self.recipes.keys() >= fresh.keys():
            raise Refused(ValidationError if node_id in fresh else DependencyNotFound)
        if fresh and before.trigger != "success" and node_id not in fresh:
            raise Refused(InvalidState)
        if self.with_descendants([node_id]).intersection(fresh):
            raise Refused(CycleError)
        self.refuse_lost(after)
        self.recipes[node_id] = attrs.evolve(
            after, edges=(*before.edges, *((str(source), None) for source in fresh))
        )
        for line in (self.ready, self.parked):
            if node_id in line and self.verdict(node_id) != "run":
                line.remove(node_id)  # it is not decided any more
        self.settle()

    def enable(self, node_ids: Iterable[str], enabled: bool) -> None:
        """Let nodes that have not started be skipped when they would, or not, all or none."""
        changed = []
        for node_id in node_ids:
            if self.known(node_id).enabled is not enabled:
                if enabled or self.state[node_id] != SKIPPED:
                    self.refuse_started(node_id)
                changed.append(node_id)
        for node_id in changed:
            self.recipes[node_id] = attrs.evolve(self.recipes[node_id], enabled=enabled)
            if not enabled and node_id in (*self.ready, *self.parked):
                self.state[node_id] = SKIPPED
        self.forget_ended()
        self.settle()

    # Branches.

    def roots(self, branch_id: str) -> set[str]:
        """Return where a branch begins: the node of that id, or every node of that label."""
        if branch_id in self.recipes:
            return {branch_id}
        found = {each.id for each in self.recipes.values() if each.branch == branch_id}
        if not found:
            raise Refused(NodeNotFound)
        return found

    def is_held(self, node_id: str) -> bool:
        """Whether a node is in a branch of which nothing is started for now."""
        return any(
            node_id in self.with_descendants(self.roots(branch_id)) for branch_id in self.holds
        )

    def park(self) -> None:
        """Keep back what is held; a failure handler belongs to a call that has begun."""
        if self.holds:
            held = [each for each in self.ready if self.is_held(each)]
            held = [each for each in held if self.recipes[each].enabled]
            held = [each for each in held if each not in self.handling]
            self.parked += held
            self.ready = [each for each in self.ready if each not in held]

    def let_go(self, branch_id: str) -> None:
        """Let a branch go on; what may start again stands behind what may start already."""
        self.holds.discard(branch_id)
        self.ready += [each for each in self.parked if not self.is_held(each)]
        self.parked = [each for each in self.parked if each not in self.ready]

    def cancel_branch(self, branch_id: str) -> None:
        """Cancel what is reachable only through a branch."""
        inside = self.only_through(self.roots(branch_id)) - {self.answering}
        begun = inside & (self.running | self.handling)
        if self.reliving:
            begun |= inside & self.again
        for node_id in inside - begun:
            if self.state[node_id] in (PENDING, WAITING):
                self.state[node_id] = CANCELLED
                self.cut.add(node_id)
        self.cut |= begun
        self.victims |= begun
        self.halts += bool(begun)
        self.forget_ended()
        self.settle()
        self.let_go(branch_id)

    def only_through(self, roots: set[str]) -> set[str]:
        """Return some nodes, and all of which every source is among them."""
        found = set(roots)
        while True:
            more = {
                each.id
                for each in self.recipes.values()
                if each.edges and set(each.sources) <= found
            }
            if more <= found:
                return found
            found |= more

    # --- the end ---------------------------------------------------------------------------------

    @property
    def startable(self) -> list[str]:
        """What a worker may take now, in order; of a paused run only handlers that are due."""
        if self.paused:
            return [node_id for node_id in self.ready if node_id in self.handling]
        return self.ready

    def is_over(self) -> bool:
        """Whether nothing can happen any more."""
        waiting = WAITING in self.state.values() and not self.paused
        return not self.running and not self.startable and not waiting

    def status(self, ended: str | None) -> str:
        """Return what the run is, *ended* from outside or by itself."""
        if ended is not None:
            return ended
        left = PENDING in self.state.values() or WAITING in self.state.values()
        if self.undecided or left:
            return "paused"
        return "failed" if self.failures else COMPLETED


def given(name: str, value: Any) -> Given:
    """Return an input that a command names: a reference or a literal."""
    if isinstance(value, Ref):
        return Given(name, source=value.reference.partition(".")[0])
    return Given(name, literal=value)


def runs_in_circles(new: Mapping[str, Recipe]) -> bool:
    """Whether some of the nodes wait for each other."""
    left = dict(new)
    while True:
        free = [each for each, recipe in left.items() if not left.keys() & set(recipe.sources)]
        if not free:
            return bool(left)
        for node_id in free:
            del left[node_id]
