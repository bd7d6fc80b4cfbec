"""Remarks on a valid graph: what is allowed and cannot be meant, or costs time for nothing.

A `warning` is certain: the edge can go, or the node can never run. A `note` says what is there and
leaves the judgement to people. Nothing is remarked that depends on what actions do when they run,
and nothing that `Graph.validate` refuses already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dagger_dsl.errors import Place, Problem, ValidationError
from dagger_dsl.model.graph import RESULT, Edge, Graph, Node
from dagger_dsl.model.policies import Effects, RetryPolicy, Trigger
from dagger_dsl.model.protocols import ActionInfo
from dagger_dsl.model.validate import _labels_of, action_in, checked_registry, workflow_in

__all__ = ["lint"]

#: Bytes that one sweep over the nodes may hold; larger graphs are swept in several parts.
_SWEEP = 64_000_000


def lint(graph: Graph, registry: Any = None) -> list[Problem]:
    """Return remarks on *graph*; see `Graph.lint`.

    Args:
        graph: The graph.
        registry: Anything with ``get(name)`` that gives an `ActionInfo` or None; None leaves out
            what only actions can say.

    Raises:
        DependencyNotFound, CycleError: The graph cannot run at all.
    """
    if graph.machine is not None:
        from dagger_dsl.model.machine_rules import machine_remarks

        return list(machine_remarks(graph))
    return list(_Lint(graph, registry).remarks())


class _Lint:
    """One look at a graph; remarks are collected with their position, and come out in its order."""

    def __init__(self, graph: Graph, registry: Any) -> None:
        self.graph = graph
        self.registry = checked_registry(registry)
        self.nodes = list(graph.nodes.values())
        self.ways = _Ways(graph, self.nodes)
        self.index = self.ways.index
        self.found: list[tuple[int, Problem]] = []

    def remarks(self) -> Iterator[Problem]:
        """Return everything that was found."""
        self.edges()
        self.branches()
        for position, node in enumerate(self.nodes):
            if node.trigger is Trigger.FAILED and not self.ways.before[position]:
                self.say(
                    position,
                    "never runs: trigger 'failed' waits for a dependency to fail, and it has none",
                    "never-runs",
                )
            self.effects(position, node)
        self.values()
        self.found.sort(key=lambda each: each[0])
        return (problem for _, problem in self.found)

    def say(self, position: int, message: str, code: str, severity: str = "warning") -> None:
        place = Place(node=self.nodes[position].id) if position < len(self.nodes) else Place()
        self.found.append((position, Problem(message, place, code, severity)))

    def action(self, node: Node) -> ActionInfo | None:
        if self.registry is None:
            return None
        if node.subgraph is None:
            return action_in(self.registry, node.action)
        try:
            return workflow_in(self.registry, node.subgraph)
        except ValidationError:  # which says it
            return None

    # Dependencies.

    def edges(self) -> None:
        """Remark on edges that carry nothing: some are implied by others, some only order."""
        idle = dict(self.idle())
        implied = self.ways.implied(idle)
        for target, sources in idle.items():
            for source in sources:
                name, through = self.nodes[source].id, implied.get((target, source))
                if through is not None:
                    self.say(
                        target,
                        f"waits for {name!r} anyway, through {self.nodes[through].id!r}; "
                        "drop the dependency",
                        "redundant-edge",
                    )
                else:
                    self.say(
                        target,
                        f"waits for {name!r} and takes nothing from it; is the order needed?",
                        "order-only",
                        "note",
                    )

    def idle(self) -> Iterator[tuple[int, list[int]]]:
        """Yield nodes that need all they wait for, with the sources that give them nothing.

        Under any other trigger each edge counts by itself: taking one away changes what it means.
        """
        labelled = {(edge.source, edge.target) for edge in self.graph.labelled}
        for position, node in enumerate(self.nodes):
            if node.trigger is not Trigger.SUCCESS or not node.dependencies:
                continue
            used = {each.reference.partition(".")[0] for each in node.inputs if each.reference}
            rest = [
                self.index[each]
                for each in node.dependencies
                if each not in used and (each, node.id) not in labelled
            ]
            if rest:
                yield position, rest

    # Branches.

    def branches(self) -> None:
        """Remark on nodes behind two answers of which only one can be given, and on lost labels."""
        groups: dict[str, dict[str, None]] = {}
        for edge in self.graph.labelled:
            groups.setdefault(edge.source, {})[str(edge.when)] = None
        single: dict[str, list[str]] = {}
        for source, labels in groups.items():
            node = self.graph.nodes[source]
            known, alone = self.answers(node, labels)
            lost = [] if known is None or known == _BOOL else sorted(known - labels.keys())
            if lost:
                answers = ", ".join(map(repr, lost))
                self.say(
                    self.index[source],
                    f"no edge is for its answer {answers}"
                    if len(lost) == 1
                    else f"no edges are for its answers {answers}",
                    "label-leads-nowhere",
                    "note",
                )
            if alone and len(labels) > 1:
                single[source] = list(labels)
        for position, source, needed in self.ways.contradictions(self.graph.labelled, single):
            both = " and ".join(map(repr, needed))
            self.say(
                position,
                f"never runs: it needs {source!r} to answer {both}; branches are joined "
                "with trigger 'any' or 'none_failed'",
                "never-runs",
            )

    def answers(self, node: Node, labels: Collection[str]) -> tuple[set[str] | None, bool]:
        """Return the labels a node can answer, None for any, and whether it gives one at a time."""
        if node.map_over is not None:
            return None, False
        action = self.action(node)
        returns = Any if action is None else action.hints().get("return", Any)
        if returns is Any:  # `on_true` and `on_false` are for bools, whatever is annotated
            return None, _BOOL.issuperset(labels)
        known = _labels_of(returns)
        return known, known is not None or returns is str

    # Settings and values.

    def effects(self, position: int, node: Node) -> None:
        """Remark on nodes that a resume never calls again, and retries do."""
        action = self.action(node)
        effects = node.effects or getattr(action, "effects", None)
        if effects is not Effects.AT_MOST_ONCE:
            return
        asked = _is_retried(node.try_count, node.retry)
        if asked is None and action is not None:
            asked = _is_retried(getattr(action, "try_count", None), getattr(action, "retry", None))
        if asked:
            self.say(
                position,
                "effects 'at_most_once' keeps a resume from calling it again, but an attempt that "
                "fails is retried; set try_count to 1 if that must not happen either",
                "retried-at-most-once",
            )

    def values(self) -> None:
        """Remark on what is declared, or given to a run, and read by nobody."""
        read: dict[str, set[str]] = {}
        for node in self.nodes:
            for each in node.inputs:
                if each.reference is not None:
                    source, _, output = each.reference.partition(".")
                    read.setdefault(source, set()).add(output)
        for position, node in enumerate(self.nodes):
            names = [each.name for each in node.outputs]
            taken = read.get(node.id, set())
            if len(names) < 2 or not taken or (RESULT in taken and RESULT not in names):
                continue
            unread = [repr(name) for name in names if name not in taken]
            if unread:
                plural = "outputs" if len(unread) > 1 else "output"
                self.say(
                    position,
                    f"no node reads its {plural} {', '.join(unread)}",
                    "unread-output",
                    "note",
                )
        for name in self.graph.inputs:
            if name not in read.get("inputs", ()):
                self.say(len(self.nodes), f"no node uses inputs.{name}", "unused-input")


_BOOL = {"true", "false"}


def _is_retried(try_count: int | None, retry: RetryPolicy | None) -> bool | None:
    """Whether settings ask for more than one call; None where they say nothing."""
    if try_count is not None:
        return try_count > 1
    if retry is None or (retry.stop is None and retry.max_attempts is None):
        return None
    return retry.stop is not None or (retry.max_attempts or 1) > 1


class _Ways:
    """What the completion of a node implies, told by sets of bits that travel along the edges.

    A node that needs all it waits for (trigger `success`) implies what any of its sources implies;
    under another trigger it implies nothing but itself.

    Attributes:
        index: Position by node id.
        before: By position, what the node waits for, without repeats.
        order: Positions such that each comes behind what it waits for.
        place: By position, where in `order` it stands.
    """

    def __init__(self, graph: Graph, nodes: Sequence[Node]) -> None:
        self.index = {node.id: i for i, node in enumerate(nodes)}
        labelled: dict[str, list[str]] = {}
        for edge in graph.labelled:
            labelled.setdefault(edge.target, []).append(edge.source)
        try:
            self.before = [
                list(
                    dict.fromkeys(
                        [
                            self.index[each]
                            for each in (*node.dependencies, *labelled.get(node.id, ()))
                        ]
                    )
                )
                for node in nodes
            ]
        except KeyError:
            graph.topological_order()  # raises: a dependency is not there
            raise
        self.needs_all = [node.trigger is Trigger.SUCCESS for node in nodes]
        self.order = self._ordered(graph)
        self.place = [0] * len(nodes)
        for place, position in enumerate(self.order):
            self.place[position] = place

    def _ordered(self, graph: Graph) -> Sequence[int]:
        if all(max(each, default=-1) < position for position, each in enumerate(self.before)):
            return range(len(self.before))
        return [self.index[each] for each in graph.topological_order()]

    def implied(self, idle: Mapping[int, Sequence[int]]) -> dict[tuple[int, int], int]:
        """Return which of *idle* (sources by target) other sources imply, with the nearest one."""
        targets: dict[int, list[int]] = {}
        for target, sources in idle.items():
            if len(self.before[target]) > 1:
                for source in sources:
                    targets.setdefault(source, []).append(target)
        found: dict[tuple[int, int], int] = {}
        for part in self._parts(sorted(targets, key=self.place.__getitem__)):
            bits = {source: 1 << k for k, source in enumerate(part)}
            asked: dict[int, list[int]] = {}
            for source in part:
                for target in targets[source]:
                    asked.setdefault(target, []).append(source)
            start = self.place[part[0]]
            for target, _, twice, held in self._sweep(bits, start, asked):
                rest = 0
                for source in asked[target]:
                    rest |= twice & bits[source]
                for through in sorted(self.before[target], key=self.place.__getitem__)[::-1]:
                    if not rest:
                        break
                    hits = held.get(through, 0) & rest & ~bits.get(through, 0)
                    rest ^= hits
                    while hits:
                        bit = hits & -hits
                        found[target, part[bit.bit_length() - 1]] = through
                        hits ^= bit
        return found

    def contradictions(
        self, edges: Iterable[Edge], single: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[int, str, list[str]]]:
        """Yield nodes that need one source to answer two labels, the first on each way only.

        Args:
            edges: The labelled edges.
            single: Sources that answer one label at a time, with their labels.
        """
        into: dict[str, list[Edge]] = {}
        for edge in edges:
            if edge.source in single and self.needs_all[self.index[edge.target]]:
                into.setdefault(edge.source, []).append(edge)
        lost: set[int] = set()
        for part in self._parts(list(into)):
            # The first labels of all sources, then the second ones...: two parts that overlap
            # are two answers of one source.
            width = len(part)
            own: dict[int, int] = {}
            for k, source in enumerate(part):
                number = {label: n for n, label in enumerate(single[source])}
                for edge in into[source]:
                    target = self.index[edge.target]
                    bit = 1 << (k + width * number[str(edge.when)])
                    own[target] = own.get(target, 0) | bit
            start = min(self.place[each] for each in own)
            for position, once, _, _ in self._sweep(own, start, lost=lost):
                answers = once | own.get(position, 0)
                clash = _overlap(answers, width)
                if clash:
                    lost.add(position)
                    k = (clash & -clash).bit_length() - 1
                    labels = [
                        label
                        for n, label in enumerate(single[part[k]])
                        if answers >> (k + width * n) & 1
                    ]
                    yield position, part[k], labels

    def _parts(self, wanted: Sequence[Any]) -> Iterator[Sequence[Any]]:
        size = max(1024, 8 * _SWEEP // max(1, len(self.order)))
        for start in range(0, len(wanted), size):
            yield wanted[start : start + size]

    def _sweep(
        self,
        own: Mapping[int, int],
        start: int,
        asked: Collection[int] | None = None,
        lost: Collection[int] = (),
    ) -> Iterator[tuple[int, int, int, Mapping[int, int]]]:
        """Yield what reaches a node: ``(position, bits, bits that come in twice, bits by node)``.

        Args:
            own: Bits that a node adds to what reaches it.
            start: Where in `order` the first bit is added.
            asked: The nodes to yield; None for all in which bits meet.
            lost: Nodes that pass nothing on; it may grow while a node is looked at.
        """
        held: dict[int, int] = {}
        stop = len(self.order)
        if asked is not None:
            stop = 1 + max((self.place[each] for each in asked), default=-1)
        for place in range(start, stop):
            position = self.order[place]
            mine = own.get(position, 0)
            once = twice = 0
            ways = 1 if mine else 0
            if self.needs_all[position]:
                for each in self.before[position]:
                    bits = held.get(each)
                    if bits is not None:
                        twice |= once & bits
                        once |= bits
                        ways += 1
            if position in asked if asked is not None else ways > 1 or mine & (mine - 1):
                yield position, once, twice, held
            if ways and position not in lost:
                held[position] = once | mine


def _overlap(bits: int, width: int) -> int:
    """Return which of *width* places are set in more than one of the parts of that width."""
    mask, seen, clash = (1 << width) - 1, 0, 0
    while bits:
        part = bits & mask
        clash |= seen & part
        seen |= part
        bits >>= width
    return clash
