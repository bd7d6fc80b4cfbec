"""`explain`: in words, why a node of a run stands where it stands.

It reads a report and nothing else, so it says the same of a run that has just ended and of one that
only the store remembers. Who was waited for is worked out from the graph and the states; the
reasons that the run noted are quoted, where many are told up to their colon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Final

import attrs

from dagger_dsl.engine.words import count, duration
from dagger_dsl.errors import DaggerError, NodeNotFound, shown, visible
from dagger_dsl.model.context import labels_of
from dagger_dsl.model.graph import RESULT, Edge, Graph, Input, Node
from dagger_dsl.model.policies import Trigger
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.model.text import first_line

if TYPE_CHECKING:
    from dagger_dsl.engine.report import NodeReport, RunReport

__all__ = ["explain"]

#: Steps of a way back, and edges of a join, that are shown.
_SHOWN: Final = 12

#: Items of a mapped node that are shown with what they failed with.
_ITEMS: Final = 3


def explain(report: RunReport, node_id: str) -> str:
    """Return why a node stands where it stands, for people; see `RunReport.explain`."""
    if node_id not in report.graph.nodes:
        raise NodeNotFound(node_id, tuple(report.graph.nodes))
    return "\n".join(_Story(report).lines(node_id))


@attrs.frozen
class _Link:
    """One edge into a node, and what became of it.

    Attributes:
        source: The node it comes from.
        satisfied: Whether it lets its target run; None while that is open.
        text: The source and what became of it, in words.
    """

    source: str
    satisfied: bool | None
    text: str


class _Story:
    """What there is to tell of one report."""

    def __init__(self, report: RunReport) -> None:
        self.graph: Graph = report.graph
        self.report = report
        self.states = report.states()
        self.nodes = report.node_reports
        self.labelled: dict[str, list[Edge]] = {}
        self.leaving: dict[str, list[Edge]] = {}
        for edge in report.graph.labelled:
            self.labelled.setdefault(edge.target, []).append(edge)
            self.leaving.setdefault(edge.source, []).append(edge)

    def lines(self, node_id: str) -> Iterator[str]:
        """Tell how a node stands, the way back to the cause, and where its inputs come from."""
        yield from _shortened(list(self.way_back(node_id)))
        report, state = self.report, self.states[node_id]
        if state is NodeState.PENDING and report.status is RunStatus.PAUSED:
            reason = "" if self.is_told(report.reason) else report.reason
            yield f"the run is paused{': ' if reason else ''}{visible(reason)}"
        inputs = self.graph.nodes[node_id].inputs
        if inputs:
            yield "inputs:"
            for given in inputs:
                yield f"  {self.origin(given)}"

    def is_told(self, reason: str) -> bool:
        """Whether a run's reason is that of one of its nodes, which was told, or is over by now."""
        return any(
            reason.startswith(f"node {node_id!r} waits") for node_id in self.report.graph.nodes
        )

    # The way back.

    def way_back(self, node_id: str) -> Iterator[str]:
        """Tell of a node, then of the one that it is held up by, and so on to the cause."""
        here: str | None = node_id
        told: set[str] = set()
        while here is not None and here not in told:
            told.add(here)
            at = here
            told_of, here = self.step(at)
            yield from told_of
            if self.graph.nodes[at].subgraph is not None:
                yield from self.inside(at)

    def inside(self, node_id: str) -> Iterator[str]:
        """Tell of the nested runs of a node what keeps them, or kept them, from their end."""
        nested = self.report.nested.get(node_id)
        runs = nested.values() if isinstance(nested, Mapping) else [nested] if nested else []
        for run in runs:
            if run.success:
                continue
            yield f"  its run {visible(run.run_id)} is {run.status}:"
            culprit = _culprit(run)
            if culprit is not None:
                yield from (f"    {line}" for line in explain(run, culprit).split("\n"))

    def step(self, node_id: str) -> tuple[list[str], str | None]:
        """Return what there is to say of one node, and whom to speak of next."""
        node, state = self.nodes[node_id], self.states[node_id]
        if state is NodeState.COMPLETED:
            return [f"{node_id!r} completed{_how(node)}", *self.collected(node_id)], None
        if state is NodeState.FAILED:
            return [f"{node_id!r} failed{_calls(node)}: {_error(node)}"], None
        if state is NodeState.RUNNING:
            far = f": {visible(node.reason)}" if node.reason else ""
            return [f"{node_id!r} is running{_calls(node)}{far}"], None
        if state is NodeState.WAITING:
            return [f"{node_id!r} {_waits(node)}"], None
        if state is NodeState.CANCELLED:
            return self.cancelled(node_id, node)
        if self.was_begun(node_id):
            return [f"{node_id!r} {visible(node.reason)}"], None
        return self.held_up(node_id, node, state)

    def collected(self, node_id: str) -> Iterator[str]:
        """Tell which items of a mapped node failed, though it went on without them."""
        counts = self.report.counts(node_id)
        many = counts.get(NodeState.FAILED.value, 0)
        if not many:
            return
        yield f"  {many:,} of {count(sum(counts.values()), 'item')} failed:"
        calls = self.report.invocations(node_id).items()
        failed = ((key, each) for key, each in calls if each.state is NodeState.FAILED)
        for key, each in islice(failed, _ITEMS):
            yield f"    [{visible(key, 80)}]{_calls(each)}: {first_line(_error(each), 300)}"
        if many > _ITEMS:
            yield f"    and {many - _ITEMS:,} more"

    def was_begun(self, node_id: str) -> bool:
        """Whether a node has begun, and goes on or begins anew when its run is resumed."""
        node = self.nodes[node_id]
        if node.state is not NodeState.PENDING or not node.reason:
            return False
        return bool(node.attempts) or self.report.orphaned

    def cancelled(self, node_id: str, node: NodeReport) -> tuple[list[str], str | None]:
        reason = node.reason or self.report.reason or "no reason was given"
        line = f"{node_id!r} was cancelled{_calls(node)}: {visible(reason)}"
        if self.report.status is not RunStatus.FAILED:
            return [line], None
        return [line], self.stopper()

    def stopper(self) -> str | None:
        """Return the node whose failure stopped the run."""
        failed = self.report.nodes_in(NodeState.FAILED)
        reason = self.report.reason
        return next((each for each in failed if repr(each) in reason), next(iter(failed), None))

    def held_up(
        self, node_id: str, node: NodeReport, state: NodeState
    ) -> tuple[list[str], str | None]:
        """Tell what a node that was not called needs and does not get."""
        spec = self.graph.nodes[node_id]
        skipped = state is NodeState.SKIPPED
        head = f"{node_id!r} was skipped" if skipped else f"{node_id!r} has not started"
        if skipped and node.reason == "disabled":
            return [f"{head}: it is disabled"], None
        links = self.links(spec)
        if spec.trigger is not Trigger.SUCCESS:
            return self.at_a_join(head, spec, node, links)
        unmet = [each for each in links if not each.satisfied]
        if skipped:  # what is dead counts, not what is open
            unmet = [each for each in unmet if each.satisfied is False]
        if not unmet:
            return [f"{head}: {self.left_alone(node, skipped)}"], None
        blamed = next(
            (each for each in unmet if repr(each.source) in node.reason),
            self.worst(unmet),
        )
        because = f"it needs {blamed.text}"
        if node.reason and repr(blamed.source) not in node.reason:
            because = f"{visible(node.reason)}; {because}"
        if len(unmet) > 1:
            others = "1 other dependency" if len(unmet) == 2 else f"{len(unmet) - 1} others"
            because += f" (and {others})"
        return [f"{head}: {because}"], self.onwards(blamed)

    def left_alone(self, node: NodeReport, skipped: bool) -> str:
        """Tell why a node does not run although nothing that it waits for keeps it."""
        if node.reason:
            return visible(node.reason)
        if skipped:
            return "no reason was recorded"
        if self.report.status is RunStatus.RUNNING:
            return "nothing it waits for is missing; its turn has not come"
        return f"nothing it waits for is missing, but the run is {self.report.status}"

    def at_a_join(
        self, head: str, spec: Node, node: NodeReport, links: list[_Link]
    ) -> tuple[list[str], str | None]:
        """Tell of a node with another trigger than `success`: all of its edges matter."""
        rule = f"trigger {spec.trigger.value!r} {_RULES[spec.trigger]}"
        told = [f"{head}: {rule}"]
        if node.reason and not node.reason.startswith("trigger"):
            told = [f"{head}: {visible(node.reason)} ({rule})"]
        told += [f"  {each.text}" for each in links[:_SHOWN]]
        if len(links) > _SHOWN:
            told.append(f"  and {len(links) - _SHOWN} more dependencies")
        unmet = [each for each in links if not each.satisfied]
        if not unmet:
            return told, None
        return told, self.onwards(self.worst(unmet))

    def worst(self, links: Sequence[_Link]) -> _Link:
        """Return the edge to speak of: the one that leads to a cause, if there is any."""
        best = min(links, key=lambda each: _BLAME.index(self.states[each.source]))
        if len(links) == 1 or self.states[best.source] is not NodeState.PENDING:
            return best
        return next((each for each in links if each.source in self.hindered), best)

    @cached_property
    def hindered(self) -> set[str]:
        """The pending nodes that wait, through others perhaps, for what is not pending itself."""
        found: set[str] = set()
        for node_id in self.graph.topological_order():
            if self.states[node_id] is NodeState.PENDING and any(
                self.states[source] not in (NodeState.PENDING, NodeState.COMPLETED)
                or source in found
                for source in self.before(node_id)
            ):
                found.add(node_id)
        return found

    def before(self, node_id: str) -> Iterator[str]:
        yield from self.graph.nodes[node_id].dependencies
        for edge in self.labelled.get(node_id, ()):
            yield edge.source

    def onwards(self, link: _Link) -> str | None:
        """Return whom to speak of after an edge: nobody when its source did all it should."""
        return None if self.states[link.source] is NodeState.COMPLETED else link.source

    # Edges.

    def links(self, node: Node) -> list[_Link]:
        """Return the edges into a node, each with what became of it."""
        labelled = self.labelled.get(node.id, [])
        conditional = {edge.source for edge in labelled}
        plain = [self.plain(each) for each in node.dependencies if each not in conditional]
        return [*plain, *(self.conditional(edge) for edge in labelled)]

    def plain(self, source: str) -> _Link:
        state = self.states[source]
        what = self.what(source)
        return _Link(source, _SATISFIED.get(state), f"{source!r}, which {what}")

    def what(self, source: str) -> str:
        """Return what became of a node, in few words; it is spoken of next, or was before."""
        state, reason = self.states[source], self.nodes[source].reason
        if self.was_begun(source) or (state is NodeState.WAITING and reason.startswith("waits ")):
            return visible(reason.partition(":")[0])
        return _WORDS[state]

    def conditional(self, edge: Edge) -> _Link:
        source = edge.source
        if self.states[source] is not NodeState.COMPLETED:
            return self.plain(source)
        chosen = self.chosen(source)
        if chosen is None:
            if self.was_not_taken(edge):
                return _Link(source, False, f"{source!r}, which did not choose {edge.when!r}")
            return self.plain(source)
        if edge.when in chosen:
            return _Link(source, True, f"{source!r}, which chose {edge.when!r}")
        answers = ", ".join(map(repr, sorted(chosen))) or "nothing"
        return _Link(source, False, f"{source!r}, which chose {answers}, not {edge.when!r}")

    def chosen(self, source: str) -> frozenset[str] | None:
        """Return the labels that a branch chose, None where its value does not tell.

        The value of a `Branch` may look like a label that was not chosen; what became of the
        targets shows it.
        """
        try:
            labels = labels_of(self.report.value(source))
        except DaggerError:  # not stored, or of a type that only the actions' module knows
            return None
        if labels is None:
            return None
        for edge in self.leaving[source]:
            if edge.when in labels and self.was_not_taken(edge):
                return None
            called = self.nodes[edge.target].attempts > 0
            alone = self.graph.nodes[edge.target].trigger is Trigger.SUCCESS
            if edge.when not in labels and called and alone:
                return None
        return labels

    def was_not_taken(self, edge: Edge) -> bool:
        return self.states[edge.target] is NodeState.SKIPPED and (
            self.nodes[edge.target].reason == f"branch not taken at {edge.source!r}"
        )

    # Inputs.

    def origin(self, given: Input) -> str:
        """Tell where an input comes from and who wrote it last."""
        if given.source is None:
            assert given.literal is not None
            return f"{visible(given.name)} = {shown(given.literal.value, 80)}"
        source, output = given.source
        head = visible(f"{given.name} <- {given.reference}")
        if source == "inputs":
            return f"{head}: {self.given_to_run(output)}"
        state = self.states.get(source)
        if state is None:
            return f"{head}: never written, there is no node {source!r}"
        declared = [each.name for each in self.graph.nodes[source].outputs]
        if declared and output not in (*declared, RESULT):
            named = ", ".join(map(repr, declared))
            return f"{head}: never written, {source!r} declares only {named}"
        if state is not NodeState.COMPLETED:
            return f"{head}: {self.never(state)} written, as {source!r} {self.what(source)}"
        return f"{head}: written by {source!r}, which completed{_how(self.nodes[source])}"

    def never(self, state: NodeState) -> str:
        """Return the word for what is not there: a run that goes on may bring it."""
        goes_on = self.report.status in (RunStatus.RUNNING, RunStatus.PAUSED)
        return "not yet" if goes_on and state not in _SATISFIED else "never"

    def given_to_run(self, name: str) -> str:
        if name in self.report.inputs:
            return "an input of the run"
        declared = self.graph.inputs.get(name)
        if declared is not None and declared.secret:
            return "a secret of the run, which is not recorded"
        return "never written: it is not among the recorded inputs of the run"


#: Whether an edge from a node in a state is satisfied; an open one is not in here.
_SATISFIED: Final = {
    NodeState.COMPLETED: True,
    NodeState.FAILED: False,
    NodeState.SKIPPED: False,
    NodeState.CANCELLED: False,
}

_WORDS: Final = {
    NodeState.PENDING: "has not started",
    NodeState.RUNNING: "is running",
    NodeState.WAITING: "waits",
    NodeState.COMPLETED: "completed",
    NodeState.FAILED: "failed",
    NodeState.SKIPPED: "was skipped",
    NodeState.CANCELLED: "was cancelled",
}

#: Of several sources that hold a node up, the one that is spoken of is in the first of these.
_BLAME: Final = (
    NodeState.FAILED,
    NodeState.CANCELLED,
    NodeState.COMPLETED,
    NodeState.SKIPPED,
    NodeState.WAITING,
    NodeState.RUNNING,
    NodeState.PENDING,
)

_RULES: Final = {
    Trigger.ANY: "needs one dependency that is satisfied",
    Trigger.NONE_FAILED: "needs one satisfied dependency, and none that failed or was cancelled",
    Trigger.FAILED: "needs a dependency that failed",
    Trigger.DONE: "waits until every dependency has ended",
}


def _culprit(report: RunReport) -> str | None:
    """Return the node of a run that says most about why it did not come to a good end."""
    for state in (
        NodeState.FAILED,
        NodeState.WAITING,
        NodeState.RUNNING,
        NodeState.CANCELLED,
        NodeState.PENDING,
    ):
        found = report.nodes_in(state)
        if found:
            return found[0]
    return None


def _how(node: NodeReport) -> str:
    """Return how a node completed."""
    told = _calls(node)
    if node.recovered:
        told += ", recovered by its failure handler"
    if node.error is not None:
        told += f" from {_error(node)}"
    if node.restored:
        told += ", restored from the store"
    # Set by a version that reuses results of earlier runs.
    if getattr(node, "cached", False):
        told += ", its result taken from an earlier run"
    return told


def _calls(node: NodeReport) -> str:
    told = ""
    if node.attempts:
        told = f" after {node.attempts} attempt{'s' if node.attempts > 1 else ''}"
    if node.duration is not None:
        told += f" in {duration(node.duration)}"
    return told


def _waits(node: NodeReport) -> str:
    """Return what a node waits for; why it was called before, and for how long, is no matter."""
    reason = visible(node.reason.strip().split("\n", 1)[0], 500)
    if reason.startswith("waits "):
        return reason
    return f"waits: {reason or 'for its next attempt, or for a person'}"


def _error(node: NodeReport) -> str:
    return visible(str(node.error), 500) if node.error is not None else "no error was recorded"


def _shortened(lines: Iterable[str]) -> list[str]:
    """Return the first and the last of many steps: where one asked, and the cause."""
    found = list(lines)
    left = len(found) - 2 * _SHOWN
    if left <= 1:
        return found
    return [*found[:_SHOWN], f"... and {left} more steps ...", *found[-_SHOWN:]]
