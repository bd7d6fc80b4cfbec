"""`Picture`: what a graph-shaped thing looks like, before anybody says how it is drawn.

Graphs, runs, machines, jobs of tasks and maps of channels become pictures; `svg` and `dot` draw
pictures and need to know none of these. Texts are data: whoever draws escapes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagger_dsl.engine.bindings import bound_inputs
from dagger_dsl.engine.words import count, duration, standing
from dagger_dsl.errors import ConfigurationError, DaggerError, shown
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.model.text import first_line
from dagger_dsl.model.values import MISSING
from dagger_dsl.views.plain import summed_up

if TYPE_CHECKING:
    from dagger_dsl.engine.error_info import ErrorInfo
    from dagger_dsl.engine.report import NodeReport, RunReport
    from dagger_dsl.model.graph import Graph, HasStates, Node

__all__ = [
    "LINE",
    "TOOLTIP",
    "Arrow",
    "Picture",
    "Shape",
    "node_states",
    "picture_of_graph",
    "picture_of_run",
    "start_id",
]

#: Longest line of a label and longest tooltip, in characters.
LINE: Final = 80
TOOLTIP: Final = 1000

#: The states that a node may be said to have.
_STATES: Final = (*NodeState, "paused")

#: Characters of a value in a tooltip.
VALUE: Final = 120

_NEVER_CALLED: Final = (NodeState.PENDING, NodeState.SKIPPED)


@attrs.frozen
class Shape:
    """One box.

    Attributes:
        id: Its name within the picture.
        label: What is written in it.
        detail: A second, smaller line.
        kind: ``step``, ``choice``, ``map``, ``flow`` (something with a picture of its own),
            ``group``, ``start``, a point, or ``grid`` and ``chain``, which have members.
        status: The name of a state, None where nothing has run. One of a node has its colour; any
            other word stands there without one.
        counts: Of what stands for many: how many there are in each state.
        marks: Short words at its edge, such as ``x3`` for attempts.
        double: Whether it has a double frame: a machine may end there.
        tooltip: Lines that are shown when it is pointed at.
        body: What it calls or runs; shapes with the same body do the same.
        values: Makes further lines of its tooltip, of what is read only for what is drawn.
        members: The shapes that stand in it, in their order; no arrow leads to them.
        unreached: Of a chain, ids of members to which a run has not gone on.
    """

    id: str
    label: str
    detail: str = ""
    kind: str = "step"
    status: str | None = None
    counts: Mapping[str, int] = attrs.field(factory=dict)
    marks: tuple[str, ...] = ()
    double: bool = False
    tooltip: tuple[str, ...] = ()
    body: str = ""
    values: Callable[[], Iterable[str]] = attrs.field(default=tuple, eq=False)
    members: tuple[Shape, ...] = ()
    unreached: frozenset[str] = frozenset()


@attrs.frozen
class Arrow:
    """A line from one shape to another.

    Attributes:
        source, target: Ids of shapes.
        label: What is written on it.
        idle: Whether a run has not gone along it.
    """

    source: str
    target: str
    label: str = ""
    idle: bool = False


@attrs.frozen
class Picture:
    """Boxes and arrows.

    Attributes:
        title: What it shows.
        subtitle: How it stands.
        status: The state of the whole, None where nothing has run.
        shapes, arrows: What is in it.
        inner: By id of a shape, what makes the picture of what happens inside of it.
    """

    title: str
    shapes: tuple[Shape, ...]
    arrows: tuple[Arrow, ...] = ()
    subtitle: str = ""
    status: str | None = None
    inner: Mapping[str, Callable[[], Picture]] = attrs.field(factory=dict)


def picture_of_graph(
    graph: Graph, run: HasStates | Mapping[str, str] | None = None, title: str | None = None
) -> Picture:
    """Return the picture of a graph.

    Args:
        graph: What to show.
        run: A report, or states by node id, to colour it by.
        title: What to call it; its name by default.

    Raises:
        ConfigurationError: *run* is neither, or a state is none that there is.
    """
    states: Mapping[str, str] = {} if run is None else node_states(graph, run)
    choices = _choices(graph)
    shapes = [_planned(graph, node, choices, states.get(node.id)) for node in graph.nodes.values()]
    subtitle = " · ".join(filter(None, (graph.description or _many(graph), _undeclared(graph))))
    return _picture(graph, shapes, title or graph.name, subtitle=subtitle)


def node_states(graph: Graph, run: HasStates | Mapping[str, str]) -> dict[str, str]:
    """Return the state of every node of a graph by id.

    Raises:
        ConfigurationError: *run* has no states, or a state is none that there is.
    """
    states = _states_of(run)
    found = {node_id: states.get(node_id, NodeState.PENDING) for node_id in graph.nodes}
    for state in found.values():
        if not isinstance(state, str) or state not in _STATES:
            raise ConfigurationError(
                f"a node's state is one of {', '.join(map(str, _STATES))}, not {shown(state)}"
            )
    return found


def _states_of(run: Any) -> Mapping[str, str]:
    if isinstance(run, Mapping):
        return run
    if callable(getattr(run, "states", None)):
        found: Mapping[str, str] = run.states()
        return found
    raise ConfigurationError(
        "a graph takes its colours from a RunReport or from a mapping of node ids to states, not "
        f"from {shown(run)}"
    )


def nodes(many: int) -> str:
    """Return how many nodes there are, in words."""
    return count(many, "node")


def _many(graph: Graph) -> str:
    many = len(graph.nodes)
    return nodes(many) if graph.machine is None else count(many, "state")


def _undeclared(graph: Graph) -> str:
    """Return why states of a machine have no arrows: their answers say where they go."""
    machine = graph.machine
    if machine is None or len(graph.nodes) == 1:
        return ""
    leaving = {way.source for way in machine.transitions}
    if all(each in leaving or each in machine.terminal for each in graph.nodes):
        return ""
    return "not all transitions are declared" if leaving else "transitions are not declared"


def picture_of_run(report: RunReport, nested: Mapping[str, Any] | None = None) -> Picture:
    """Return the picture of a run: states, times, attempts, errors, and the runs inside of it.

    Args:
        report: The run.
        nested: Its `RunReport.nested`, where it was read already.
    """
    nested = report.nested if nested is None else nested
    counts = {} if report.history is None else report.history.counts
    choices, reports = _choices(report.graph), report.node_reports
    shapes = [
        _ran(
            report,
            _planned(report.graph, node, choices),
            # As tables say it: of what is nested, the error that it began with.
            summed_up(report, reports[node.id], nested.get(node.id)),
            counts.get(node.id),
        )
        for node in report.graph.nodes.values()
    ]
    inner = {
        node_id: partial(picture_of_run, child)
        for node_id, child in nested.items()
        if not isinstance(child, Mapping)
    }
    history = report.history
    return _picture(
        report.graph,
        shapes,
        report.dag_name,
        walked=None if history is None else Counter(pairwise(history.names)),
        subtitle=standing(report),
        status="" if report.orphaned else str(report.status),
        inner=inner,
    )


def _picture(
    graph: Graph,
    shapes: list[Shape],
    title: str,
    *,
    walked: Mapping[tuple[str, str], int] | None = None,
    **fields: Any,
) -> Picture:
    if walked is None:
        arrows = [*_arrows(graph, {shape.id: shape.status for shape in shapes})]
    else:
        arrows = [*_walked_arrows(graph, walked)]
    machine = graph.machine
    if machine is not None and machine.initial in graph.nodes:
        start = start_id(graph)
        shapes.insert(0, Shape(start, "", kind="start"))
        arrows.insert(0, Arrow(start, machine.initial))
    return Picture(title, tuple(shapes), tuple(arrows), **fields)


def start_id(graph: Graph) -> str:
    """Return an id that no node has, for the point where a machine begins."""
    start = "start"
    while start in graph.nodes:
        start += "_"
    return start


# --- shapes ---------------------------------------------------------------------------------------


def _choices(graph: Graph) -> frozenset[str]:
    """Return the ids of the nodes whose results choose the way."""
    if graph.machine is not None:
        return frozenset()  # there, all of them do
    return frozenset(edge.source for edge in graph.edges if edge.when is not None)


def _planned(graph: Graph, node: Node, choices: frozenset[str], status: str | None = None) -> Shape:
    body = node.action if node.subgraph is None else node.subgraph
    return Shape(
        id=node.id,
        label=node.id,
        # Functions of a workflow are registered under its name; that would say nothing more.
        detail="" if body in (node.id, f"{graph.name}.{node.id}") else body,
        body=body,
        kind=_kind(node, choices),
        status=status,
        marks=tuple(_planned_marks(node)),
        double=graph.machine is not None and node.id in graph.machine.terminal,
        tooltip=tuple(_told(node)),
        values=partial(_given, node),
    )


def _kind(node: Node, choices: frozenset[str]) -> str:
    if node.subgraph is not None:
        return "flow"
    if node.map_over is not None:
        return "map"
    return "choice" if node.id in choices else "step"


def _planned_marks(node: Node) -> Iterator[str]:
    if node.map_over is not None:
        yield "for each"


def _told(node: Node) -> Iterator[str]:
    yield node.id
    if node.description:
        yield first_line(node.description, TOOLTIP)
    yield f"calls {node.action}" if node.subgraph is None else f"runs {node.subgraph}"


def _given(node: Node) -> Iterator[str]:
    """Yield where the inputs of a node come from."""
    for given in node.inputs:
        came = given.reference
        yield f"{given.name} = {excerpt(given.value, VALUE)[0] if came is None else came}"


def _values(report: RunReport, node: Node, state: NodeState) -> list[str]:
    """Return the inputs of a node that ran, and its result, each in short."""
    lines = []
    for given in bound_inputs(report, node.id):
        if given.value is MISSING:
            lines.append(f"{given.name} = {given.reference}")
        else:
            came = "" if given.reference is None else f"  ({given.reference})"
            lines.append(f"{given.name} = {excerpt(given.value, VALUE)[0]}{came}")
    if state is NodeState.COMPLETED:
        try:
            lines.append(f"result: {excerpt(report.value(node.id), VALUE)[0]}")
        except DaggerError:
            pass  # freed, not stored, or of a type that is not known here
    return lines


def _ran(report: RunReport, planned: Shape, found: NodeReport, entered: int | None) -> Shape:
    marks = []
    if found.attempts > 1:
        marks.append(f"{found.attempts} attempts")
    if entered is not None and entered > 1:
        marks.append(f"{entered} times")
    if found.recovered:
        marks.append("recovered")
    elif found.cached:
        marks.append("cached")
    counts: dict[str, int] = {}
    if planned.kind == "map":
        counts.update(report.counts(planned.id))
        if counts:
            marks.append(f"{counts.get('completed', 0)}/{sum(counts.values())}")
    detail = str(found.state)
    if found.state is NodeState.FAILED and found.error is not None:
        detail = _fault(report, planned, found.error)  # what people look for
    elif found.duration is not None:
        detail = duration(found.duration)
    values = planned.values
    # While a run goes on it is drawn again and again, and nobody reads so fast.
    if report.status is not RunStatus.RUNNING and found.state not in _NEVER_CALLED:
        node = report.graph.nodes[planned.id]
        values = cache(partial(_values, report, node, found.state))
    return attrs.evolve(
        planned,
        values=values,
        detail=detail,
        status=str(found.state),
        counts=counts,
        marks=tuple(marks),
        tooltip=(*planned.tooltip, *_outcome(found)),
    )


def _fault(report: RunReport, planned: Shape, error: ErrorInfo) -> str:
    """Return an error in a few words; of a map, that of the first item which failed."""
    if planned.kind == "map":
        for key, call in report.invocations(planned.id).items():
            if call.state is NodeState.FAILED and call.error is not None:
                return first_line(f"[{key}] {_brief(call.error)}", LINE)
    return first_line(_brief(error), LINE)


def _brief(error: ErrorInfo) -> str:
    """Return an error without the module of its class, for which a box has no room."""
    return str(attrs.evolve(error, type=error.type.rpartition(".")[2]))


def _outcome(found: NodeReport) -> Iterator[str]:
    yield str(found.state)
    if found.error is not None:
        yield first_line(found.error, TOOLTIP)
    elif found.reason:
        yield first_line(found.reason, TOOLTIP)


# --- arrows ---------------------------------------------------------------------------------------


def _arrows(graph: Graph, states: Mapping[str, str | None]) -> Iterable[Arrow]:
    for edge in graph.edges:
        if edge.source not in graph.nodes or edge.target not in graph.nodes:
            continue
        ends = states.get(edge.source), states.get(edge.target)
        idle = ends[0] is not None and (
            ends[1] == NodeState.SKIPPED or ends[0] not in (NodeState.COMPLETED, NodeState.FAILED)
        )
        yield Arrow(edge.source, edge.target, label=edge.when or "", idle=idle)


def _walked_arrows(graph: Graph, walked: Mapping[tuple[str, str], int]) -> Iterator[Arrow]:
    """Yield the declared ways of a machine, and those that a run has gone without one."""
    declared = {(edge.source, edge.target): edge.when or "" for edge in graph.edges}
    for way in dict.fromkeys([*declared, *walked]):
        if way[0] in graph.nodes and way[1] in graph.nodes:
            times = walked.get(way, 0)
            words = (declared.get(way, ""), f"{times} times" if times > 1 else "")
            yield Arrow(*way, label=", ".join(filter(None, words)), idle=not times)
