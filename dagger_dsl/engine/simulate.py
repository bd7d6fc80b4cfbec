"""`simulate`: a run played through without calling anything.

The real `RunState` decides what starts, what is skipped and when the run stops; only the outcomes
are yours. So a simulation answers what a graph does when a node fails or a branch is chosen, before
anything is registered, connected or paid for.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl.engine.error_info import ErrorInfo
from dagger_dsl.engine.plan import compile_plan
from dagger_dsl.engine.report import NodeReport, RunReport
from dagger_dsl.engine.state import NAMES, RunState
from dagger_dsl.errors import (
    ConfigurationError,
    NotExecuted,
    did_you_mean,
    shown,
    visible,
)
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import labels_of
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.policies import OnFailure
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.model.validate import checked_registry
from dagger_dsl.registry import ActionDef

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Simulation", "simulate"]

#: What an outcome says in one word.
_WORDS: Final = ("ok", "fail", "recovered")


@attrs.frozen(eq=False)
class Simulation:
    """How a run would go; `simulate` makes it.

    Attributes:
        graph: What was played through.
        status: How the run would end: completed, failed or paused.
        waves: Ids of the nodes that start together, in the order in which they start.
        states: State by node id, in declaration order.
        reasons: Why a node was skipped or cancelled, by its id.
        starts: When each node that starts does, in seconds from the run's start.
        duration: Seconds to the end.
    """

    graph: Graph = attrs.field(repr=False)
    status: RunStatus
    waves: tuple[tuple[str, ...], ...]
    states: Mapping[str, NodeState]
    reasons: Mapping[str, str]
    starts: Mapping[str, float]
    duration: float
    _outcomes: Mapping[str, Any] = attrs.field(repr=False)

    @property
    def order(self) -> tuple[str, ...]:
        """Ids in the order in which the nodes start."""
        return tuple(self.starts)

    @property
    def skipped(self) -> dict[str, str]:
        """Why each skipped node does not run, by its id."""
        return {
            node_id: self.reasons.get(node_id, "")
            for node_id, state in self.states.items()
            if state is NodeState.SKIPPED
        }

    def report(self) -> RunReport:
        """Return the report that such a run would give, without values and times of day."""

        def node(node_id: str) -> NodeReport:
            state = self.states[node_id]
            failed = state is NodeState.FAILED
            outcome = self._outcomes.get(node_id)
            return NodeReport(
                node_id,
                state,
                attempts=int(node_id in self.starts),
                error=_error_of(outcome) if failed else None,
                reason=self.reasons.get(node_id, ""),
                recovered=state is NodeState.COMPLETED and outcome == "recovered",
            )

        def value(node_id: str) -> Any:
            labels = self._outcomes.get(node_id)
            if labels is None or labels_of(labels) is None or labels in _WORDS:
                raise NotExecuted(f"node {node_id!r} has no result: it was only simulated")
            return labels

        return RunReport(
            run_id="simulation",
            dag_name=self.graph.name,
            graph=self.graph,
            status=self.status,
            duration=self.duration,
            states=lambda: self.states,
            node=node,
            value=value,
        )

    def explain(self, node_id: str) -> str:
        """Return why a node would run or not, for people; see `RunReport.explain`.

        Raises:
            NodeNotFound: The graph has no such node.
        """
        return self.report().explain(node_id)

    def __str__(self) -> str:
        done = sum(state is NodeState.COMPLETED for state in self.states.values())
        head = f"simulation of {self.graph.name!r}: {self.status}"
        lines = [f"{head}, {done} of {len(self.states)} nodes complete"]
        lines += _listed(
            f"{step}. {', '.join(_cut_list(map(self._told, wave)))}"
            for step, wave in enumerate(self.waves, 1)
        )
        for state in (NodeState.SKIPPED, NodeState.CANCELLED, NodeState.PENDING):
            named = [each for each, found in self.states.items() if found is state]
            if named:
                lines.append(f"{state}:")
                lines += _listed(f"{visible(each)}{self._because(each)}" for each in named)
        return "\n".join(lines)

    def _told(self, node_id: str) -> str:
        name, state = visible(node_id), self.states[node_id]
        if state is not NodeState.COMPLETED:
            return f"{name} ({state})"
        outcome = self._outcomes.get(node_id)
        return name if outcome in (None, "ok") else f"{name} ({_spelled(outcome)})"

    def _because(self, node_id: str) -> str:
        reason = self.reasons.get(node_id)
        return f": {visible(reason)}" if reason else ""

    def __rich__(self) -> Table:
        return self.report().to_table(limit=100)


#: Lines, and names on a line, that a simulation shows.
_SHOWN: Final = 50


def _cut_list(texts: Iterable[str]) -> list[str]:
    found = list(texts)
    more = len(found) - _SHOWN
    return found if more <= 0 else [*found[:_SHOWN], f"... and {more} more"]


def _listed(texts: Iterable[str]) -> list[str]:
    return [f"  {each}" for each in _cut_list(texts)]


def _spelled(outcome: Any) -> str:
    if isinstance(outcome, str):
        return visible(outcome, 80)
    return visible(", ".join(sorted(labels_of(outcome) or ())) or "no label", 80)


def _error_of(outcome: Any) -> ErrorInfo:
    if isinstance(outcome, BaseException):
        return ErrorInfo(type(outcome).__qualname__, str(outcome))
    return ErrorInfo("SimulatedFailure", "")


def simulate(
    graph: Graph,
    outcomes: Mapping[str, Any] | None = None,
    *,
    slots: int | None = 1,
    durations: Mapping[str, float] | None = None,
    registry: Any = None,
) -> Simulation:
    """Play *graph* through; see `Graph.simulate`."""
    labels: dict[str, set[str]] = {}
    for edge in graph.labelled:
        labels.setdefault(edge.source, set()).add(str(edge.when))
    given = _checked(graph, outcomes, labels)
    if slots is not None and (type(slots) is not int or slots < 1):
        raise ConfigurationError(
            f"slots is how many nodes run at the same time, at least 1, or None for no limit; "
            f"not {shown(slots)}"
        )
    took = None if durations is None else graph.seconds_by_node(durations, "durations")
    return _Play(graph, given, labels, slots, took, checked_registry(registry)).play()


class _Play:
    """One simulation: what the coordinator does with a run, on a clock of its own."""

    def __init__(
        self,
        graph: Graph,
        outcomes: Mapping[str, Any],
        labels: Mapping[str, set[str]],
        slots: int | None,
        durations: Mapping[str, float] | None,
        registry: Any,
    ) -> None:
        self.graph = graph
        self.outcomes = outcomes
        self.slots = len(graph.nodes) if slots is None else slots
        self.durations = durations
        self.registry = registry
        self.plan = compile_plan(_bare(graph), lambda _name: _STAND_IN)
        self.state = RunState(self.plan)
        self.policy = DagConfig.merge(None, graph.config).on_failure
        self.labels = labels
        self.queue: deque[int] = deque()
        self.running: list[tuple[float, int, int]] = []
        self.failed = False
        self.paused = False

    def play(self) -> Simulation:
        """Run to the end."""
        now = 0.0
        turn = count()
        waves: list[tuple[str, ...]] = []
        starts: dict[str, float] = {}
        self.state.begin()
        while True:
            wave = self.released()
            if wave:
                waves.append(tuple(self.name(slot) for slot in wave))
            for slot in wave:
                starts[self.name(slot)] = now
                heapq.heappush(self.running, (now + self.length(slot), next(turn), slot))
            if not self.running:
                break
            now = self.running[0][0]
            while self.running and self.running[0][0] <= now:
                self.end(heapq.heappop(self.running)[2])
        return self.told(tuple(waves), starts, now)

    def released(self) -> list[int]:
        """Return what starts now. As in a run, what is enabled waits until the queue is empty."""
        found: list[int] = []
        while len(self.running) + len(found) < self.slots:
            if not self.queue:
                self.state.sift()
                self.queue.extend(self.state.take())
            if not self.queue:
                break
            found.append(self.queue.popleft())
        return found

    def end(self, slot: int) -> None:
        """Give one node its outcome."""
        node_id = self.name(slot)
        outcome = self.outcomes.get(node_id)
        labels = self.labels.get(node_id)
        if _is_failure(outcome, labels):
            self.fail(slot)
        elif labels is None:
            self.state.complete([slot])
        else:
            self.state.complete_with(slot, _chosen(node_id, outcome, labels))

    def fail(self, slot: int) -> None:
        """Fail one node: what was taken and has not begun is taken back first, as in a run."""
        node = self.graph.nodes[self.name(slot)]
        action = None if self.registry is None else self.registry.get(node.action)
        policy = node.on_failure or getattr(action, "on_failure", None) or self.policy
        if policy is not OnFailure.CONTINUE:
            self.state.give_back(self.queue)
            self.queue.clear()
        self.state.fail(slot, policy)
        self.failed = True
        self.paused = self.paused or policy is OnFailure.PAUSE

    def name(self, slot: int) -> str:
        return str(self.plan.ids[slot])

    def length(self, slot: int) -> float:
        return 1.0 if self.durations is None else self.durations.get(self.name(slot), 0.0)

    def told(
        self, waves: tuple[tuple[str, ...], ...], starts: Mapping[str, float], now: float
    ) -> Simulation:
        """Return how it went."""
        index, state = self.plan.index, self.state
        status = RunStatus.FAILED if self.failed else RunStatus.COMPLETED
        return Simulation(
            graph=self.graph,
            status=RunStatus.PAUSED if self.paused else status,
            waves=waves,
            states=MappingProxyType(
                {each: NodeState(NAMES[state.status(index[each])]) for each in self.graph.nodes}
            ),
            reasons=MappingProxyType(
                {self.name(slot): reason for slot, reason in sorted(state.reasons.items())}
            ),
            starts=MappingProxyType(starts),
            duration=now,
            outcomes=self.outcomes,
        )


def _nothing() -> None:
    """Stand in for every action; nothing is called."""


_STAND_IN: Final = ActionDef(name="simulated", fn=_nothing, original=_nothing)


def _bare(graph: Graph) -> Graph:
    """Return the graph with what decides who runs, and nothing else.

    Raises:
        DependencyNotFound, CycleError: It cannot run.
    """
    graph.topological_order()
    return Graph(
        graph.name,
        [
            Node(
                node.id,
                _STAND_IN.name,
                dependencies=node.dependencies,
                trigger=node.trigger,
                enabled=node.enabled,
            )
            for node in graph.nodes.values()
        ],
        graph.labelled,
    )


def _checked(
    graph: Graph, outcomes: Mapping[str, Any] | None, labels: Mapping[str, set[str]]
) -> dict[str, Any]:
    """Return outcomes, every one of which is possible."""
    if outcomes is None:
        return {}
    if not isinstance(outcomes, Mapping):
        raise ConfigurationError(
            "outcomes are a mapping of node ids to 'ok', 'fail', 'recovered' or a label, such as "
            f"{{'load': 'fail'}}, not {shown(outcomes)}"
        )
    for node_id, outcome in outcomes.items():
        graph.node(node_id)
        known = labels.get(node_id)
        if _is_failure(outcome, known):
            continue
        if known is not None:
            _chosen(node_id, outcome, known)
        elif not isinstance(outcome, str) or outcome not in _WORDS:
            raise ConfigurationError(
                f"node {node_id!r} has no labelled edges, so its outcome is 'ok', 'fail', "
                f"'recovered' or an exception, not {shown(outcome)}"
            )
    return dict(outcomes)


def _is_failure(outcome: Any, labels: Collection[str] | None) -> bool:
    """Whether an outcome is a failure; a branch may have a label of that name."""
    if isinstance(outcome, BaseException):
        return True
    return isinstance(outcome, str) and outcome == "fail" and "fail" not in (labels or ())


def _chosen(node_id: str, outcome: Any, labels: set[str]) -> frozenset[str]:
    """Return the labels that a branch chose.

    Raises:
        ConfigurationError: The outcome says none, or one that no edge has.
    """
    chosen = labels_of(outcome)
    flags = labels <= {"true", "false"}
    possible = labels | {"true", "false"} if flags else labels
    word = isinstance(outcome, str) and outcome in _WORDS and outcome not in labels
    if chosen is None or word:
        example = "true" in labels if flags else min(labels)
        raise ConfigurationError(
            f"node {node_id!r} is a branch, so its outcome is a label of its edges "
            f"({', '.join(map(repr, sorted(labels)))}) or a list of them: "
            f"simulate({{{node_id!r}: {example!r}}})"
        )
    unknown = sorted(chosen - possible)
    if unknown:
        raise ConfigurationError(
            f"node {node_id!r} has no edge for the label {shown(unknown[0])}"
            f"{did_you_mean(unknown[0], labels)}; for an answer that no edge is for, write []"
        )
    return chosen
