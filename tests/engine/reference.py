"""What a run has to do, written as plainly as possible: the model that the engine is compared with.

Nothing here is fast or clever. After everything that happens, `Model.settle` looks at every node
that has not been decided and evaluates its trigger rule from the states of its sources, again and
again until nothing changes any more. There are no counters, no queues of edges and no caches.
"""

from __future__ import annotations

import attrs

__all__ = ["Given", "Model", "Recipe"]

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
        held: Those that paused the run: whoever waits for them is left pending, as a resume gives
            them another chance.
        paused, stopping: A node with the policy `pause` failed; the run is ended from outside.
    """

    def __init__(self, recipes: dict[str, Recipe]) -> None:
        self.recipes = recipes
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
        self.held: set[str] = set()
        self.paused = False
        self.stopping = False

    # --- the rules -------------------------------------------------------------------------------

    def edge(self, source: str, label: str | None) -> str:
        """Return whether one edge is satisfied, dead or open."""
        if source in self.held:
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
        return "skip" if found == "run" and not self.recipes[node_id].enabled else found

    def rule(self, node_id: str) -> str | None:
        """Return what the trigger rule says of an enabled node."""
        recipe = self.recipes[node_id]
        edges = [self.edge_into(node_id, source, label) for source, label in recipe.edges]
        sources = [self.state[source] for source, _ in recipe.edges]
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

    def is_open(self, node_id: str) -> bool:
        """Whether nothing was decided about a node so far."""
        return (
            self.state[node_id] == PENDING
            and node_id not in self.ready
            and node_id not in self.running
        )

    def note_winner(self, node_id: str) -> None:
        edges = self.recipes[node_id].edges
        satisfied = {
            source
            for source, label in edges
            if self.edge_into(node_id, source, label) == "satisfied"
        }
        for source in self.completed:
            if source in satisfied:
                self.winner[node_id] = source
                return

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

    def begin(self, recorded: list[tuple[str, frozenset[str], object]]) -> None:
        """Start, or go on with the completions of earlier lives, in the order of their record."""
        known = {node_id for node_id, _, _ in recorded}
        roots = [
            recipe.id
            for recipe in self.recipes.values()
            if recipe.enabled
            and not recipe.edges
            and recipe.trigger != "failed"
            and recipe.id not in known
        ]
        self.running |= known  # what they enable is enabled one by one, in the order of the record
        self.running |= set(roots)
        self.settle()
        for node_id, labels, value in recorded:
            self.completes(node_id, labels, value)
        self.running -= set(roots)
        self.ready[:0] = roots

    # --- what happens ----------------------------------------------------------------------------

    def starts(self, node_id: str) -> None:
        """A worker takes a node."""
        self.ready.remove(node_id)
        self.running.add(node_id)
        if node_id not in self.handling:
            self.tries[node_id] = self.tries.get(node_id, 0) + 1

    def completes(self, node_id: str, labels: frozenset[str], value: object) -> None:
        """A call returned, or a handler gave a value."""
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

    def fails(self, node_id: str) -> None:
        """A failure is final."""
        self.state[node_id] = FAILED
        self.failures.append(node_id)
        policy = self.recipes[node_id].policy
        if policy == "pause":
            self.paused = True
            self.held.add(node_id)
            return
        self.settle()
        if policy == "stop":
            self.spared |= self.to_spare(node_id)
            self.cancel_rest()
            self.victims |= (self.running | self.handling) - self.spared

    def to_spare(self, node_id: str) -> set[str]:
        """Return the `failed` and `done` dependents of a node, and all that depend on them."""
        spared = {
            each.id
            for each in self.recipes.values()
            if each.trigger in ("failed", "done")
            and node_id in [source for source, _ in each.edges]
        }
        while True:
            more = {
                each.id
                for each in self.recipes.values()
                if spared & {source for source, _ in each.edges}
            }
            if more <= spared:
                return spared
            spared |= more

    def cancel_rest(self) -> None:
        """Cancel whatever has not started and is not spared."""
        for node_id, state in self.state.items():
            begun = node_id in self.running or node_id in self.handling
            if state in (PENDING, WAITING) and not begun and node_id not in self.spared:
                self.state[node_id] = CANCELLED
        self.ready = [node_id for node_id in self.ready if self.state[node_id] == PENDING]
        self.settle()

    def ends_early(self) -> None:
        """The run is cancelled, or passed its limit."""
        self.stopping = True
        for node_id in [each for each in self.ready if each in self.handling]:
            self.ready.remove(node_id)
            self.handling.discard(node_id)
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
        if self.paused:
            return "paused"
        return "failed" if self.failures else COMPLETED
