"""Pictures as DOT, the text that Graphviz draws; graphs and runs in the form document 003 prints.

`picture_to_dot` draws anything that is a `Picture`, jobs and channels as well. The documents fix
the words of graphs and runs, so these write their own labels and share all the rest: names,
escapes, colours, arrows.

Everything from data stands in quotes and goes through `quote`: there are no HTML-like labels and no
attributes with addresses, so an id cannot become markup or a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from dagger_dsl.engine.words import standing
from dagger_dsl.model.text import first_line
from dagger_dsl.views.picture import LINE, TOOLTIP, Arrow, Picture, Shape, node_states, start_id
from dagger_dsl.views.plain import duration
from dagger_dsl.views.states import COLOURS

if TYPE_CHECKING:
    from dagger_dsl.engine.report import NodeReport, RunReport
    from dagger_dsl.model.graph import Graph, HasStates, Node

__all__ = ["COLOURS", "graph_to_dot", "picture_to_dot", "quote", "report_to_dot"]


_CONTROLS: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20) if code not in b"\0\n"},
    0: None,
    0x7F: "\u2421",
    **dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF), "\ufffd"),
    # What turns the direction of writing around would do so with the text that follows, too.
    **dict.fromkeys((0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))),
}
_ENTITY: Final = re.compile(r"&(?=#?\w+;)")


def quote(text: str) -> str:
    r"""Return *text* as a quoted DOT string that is shown as it is.

    ``\`` and ``"`` are escaped, a newline becomes ``\n``, NUL and what changes the
    direction of writing are dropped; other control characters, which no SVG may hold, are shown by
    their pictures. Graphviz would take ``&lt;`` for an entity,
    in names as in labels, so the ``&`` of what looks like one is written as an entity itself.
    """
    text = text.replace("\r\n", "\n").translate(_CONTROLS)
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{_ENTITY.sub("&amp;", text)}"'


def picture_to_dot(picture: Picture) -> str:
    """Return a picture as DOT, with its title above it.

    A shape shows its label, its status and what else is written in it, one below the other; arrows
    along which nothing went are dashed. Pictures inside of shapes are not drawn.
    """
    title = "\n".join(filter(None, (picture.title, picture.subtitle)))
    return _digraph([_written(shape) for shape in picture.shapes], picture.arrows, title)


def _written(shape: Shape) -> Shape:
    """Return a shape with all of its texts in its label."""
    lines = [shape.label]
    if shape.status is not None:
        lines.append(_status(shape.status))
    if shape.counts:
        lines.append(", ".join(f"{count} {state}" for state, count in shape.counts.items()))
    lines += shape.marks
    if shape.detail and shape.detail != shape.status:
        lines.append(shape.detail)
    return attrs.evolve(shape, label=_label(lines))


def graph_to_dot(graph: Graph, run: HasStates | Mapping[str, str] | None = None) -> str:
    """Return a graph as DOT.

    Args:
        graph: What to draw.
        run: A report, or states by node id, to colour the nodes by; without one the nodes are
            white and show their action.

    Raises:
        ConfigurationError: *run* is neither, or a state is none that there is.
    """
    if run is None:
        return _graph(graph, {node.id: _plan_lines(graph, node) for node in graph.nodes.values()})
    found = node_states(graph, run)
    history = getattr(run, "history", None)
    counts = {} if history is None else history.counts
    lines = {
        node_id: [node_id, _status(state), *_visits(counts.get(node_id))]
        for node_id, state in found.items()
    }
    return _graph(graph, lines, found)


def _visits(count: int | None) -> list[str]:
    """Return how often a state of a machine was entered, as a line of its label."""
    return [] if count is None else [f"Entered: {count}"]


def report_to_dot(report: RunReport) -> str:
    """Return a run as DOT, for debugging: attempts, times and the first line of each error."""
    reports = report.node_reports
    counts = {} if report.history is None else report.history.counts
    lines = {
        node_id: _run_lines(reports[node_id]) + _visits(counts.get(node_id))
        for node_id in report.graph.nodes
    }
    states = {node_id: reports[node_id].state for node_id in report.graph.nodes}
    title = f"{report.dag_name}: run {report.run_id}\n{standing(report)}"
    return _graph(report.graph, lines, states, title)


def _status(state: str) -> str:
    return f"Status: {str(state).capitalize()}"


def _plan_lines(graph: Graph, node: Node) -> list[str]:
    body = node.action if node.subgraph is None else node.subgraph
    own = (node.id, f"{graph.name}.{node.id}")  # as a function of the graph is registered
    return [node.id] if body in own else [node.id, body]


def _run_lines(report: NodeReport) -> list[str]:
    status = _status(report.state)
    if report.recovered:
        status += " (recovered)"
    elif report.restored:
        status += " (restored)"
    lines = [report.node_id, status]
    if report.attempts > 1:
        lines.append(f"Attempts: {report.attempts}")
    if report.duration is not None:
        lines.append(duration(report.duration))
    if report.error is not None:
        lines.append(first_line(report.error, LINE))
    elif report.reason:
        lines.append(first_line(report.reason, LINE))
    return lines


def _graph(
    graph: Graph,
    lines: Mapping[str, Sequence[str]],
    states: Mapping[str, str] | None = None,
    title: str = "",
) -> str:
    """Return a graph as DOT.

    Args:
        graph: What to draw.
        lines: What is written in each node, by its id.
        states: The states to colour it by.
        title: What stands above it.
    """
    machine = graph.machine
    shapes = [
        Shape(
            id=node.id,
            label=_label(lines[node.id]),
            kind="step" if node.subgraph is None else "flow",
            status=None if states is None else states[node.id],
            double=machine is not None and node.id in machine.terminal,
            tooltip=tuple(_tooltip(node)),
        )
        for node in graph.nodes.values()
    ]
    arrows = [Arrow(edge.source, edge.target, edge.when or "") for edge in graph.edges]
    if machine is not None and machine.initial in graph.nodes:
        start = start_id(graph)
        shapes.append(Shape(start, "", kind="start"))
        arrows.insert(0, Arrow(start, machine.initial))
    return _digraph(shapes, arrows, title)


def _tooltip(node: Node) -> Iterator[str]:
    if len(node.id) > LINE:
        yield node.id
    if node.description:
        yield node.description
    for given in node.inputs:
        if given.description:
            yield f"{given.name}: {given.description}"
    for out in node.outputs:
        if out.description:
            yield f"-> {out.name}: {out.description}"


# --- text -----------------------------------------------------------------------------------------


def _digraph(shapes: Sequence[Shape], arrows: Iterable[Arrow], title: str) -> str:
    names = _names(shapes)
    lines = ["digraph execution_tree {", "    rankdir=TB;", "    node [shape=box, style=filled];"]
    if title:
        lines.append(f"    label={quote(_label(title.splitlines()))};")
        lines.append("    labelloc=t;")
    lines.append("")
    lines += [f"    {names[shape.id]} [{_attributes(shape)}];" for shape in shapes]
    edges = [_edge(arrow, names) for arrow in arrows]
    return "\n".join([*lines, *([""] if edges else []), *edges, "}", ""])


def _attributes(shape: Shape) -> str:
    if shape.kind == "start":
        return 'shape=point, label="", width=0.2'
    colour = "white" if shape.status is None else COLOURS.get(shape.status, "white")
    given = {"fillcolor": colour, "label": quote(shape.label)}
    if shape.kind == "flow":
        given["shape"] = "component"
    if shape.tooltip:
        given["tooltip"] = quote(_cut("\n".join(shape.tooltip), TOOLTIP))
    if shape.double:
        given["peripheries"] = "2"
    return ", ".join(f"{name}={value}" for name, value in given.items())


def _names(shapes: Iterable[Shape]) -> dict[str, str]:
    """Return a quoted name for each id; ids that read alike once quoted are told apart."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for shape in shapes:
        name = quote(shape.id)
        count = 1
        while name in taken:
            count += 1
            name = quote(f"{shape.id} ({count})")
        taken.add(name)
        names[shape.id] = name
    return names


def _edge(arrow: Arrow, names: Mapping[str, str]) -> str:
    ends = (names.get(each) or quote(each) for each in (arrow.source, arrow.target))
    given = []
    if arrow.label:
        given.append(f"label={quote(_cut(arrow.label))}")
    if arrow.idle:
        given.append("style=dashed")
    attributes = f" [{', '.join(given)}]" if given else ""
    return f"    {' -> '.join(ends)}{attributes};"


def _label(lines: Iterable[str]) -> str:
    return "\n".join(map(_cut, lines))


def _cut(text: str, limit: int = LINE) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
