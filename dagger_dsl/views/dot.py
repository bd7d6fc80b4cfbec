"""Graphs and runs as DOT, the text that Graphviz draws, in the form document 003 prints.

Everything from data stands in quotes and goes through `quote`: there are no HTML-like labels and no
attributes with addresses, so an id cannot become markup or a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.states import NodeState
from dagger_dsl.views.clean import first_line
from dagger_dsl.views.plain import duration
from dagger_dsl.views.states import COLOURS

if TYPE_CHECKING:
    from dagger_dsl.engine.report import NodeReport, RunReport
    from dagger_dsl.model.graph import Graph, HasStates, Node

__all__ = ["COLOURS", "graph_to_dot", "node_states", "quote", "report_to_dot"]

#: Longest line of a label and longest tooltip, in characters.
LINE: Final = 80
TOOLTIP: Final = 1000

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
        return _digraph(graph, ((_plan_label(node), "white") for node in graph.nodes.values()))
    found = node_states(graph, run)
    history = getattr(run, "history", None)
    counts = {} if history is None else history.counts
    labels = (
        ([node_id, _status(state), *_visits(counts.get(node_id))], COLOURS[state])
        for node_id, state in found.items()
    )
    return _digraph(graph, labels)


def node_states(graph: Graph, run: HasStates | Mapping[str, str]) -> dict[str, str]:
    """Return the state of every node of a graph by id.

    Raises:
        ConfigurationError: *run* has no states, or a state is none that there is.
    """
    states = _states_of(run)
    found = {node_id: states.get(node_id, NodeState.PENDING) for node_id in graph.nodes}
    for state in found.values():
        if not isinstance(state, str) or state not in COLOURS:
            raise ConfigurationError(
                f"a node's state is one of {', '.join(map(str, COLOURS))}, not {shown(state)}"
            )
    return found


def _visits(count: int | None) -> list[str]:
    """Return how often a state of a machine was entered, as a line of its label."""
    return [] if count is None else [f"Entered: {count}"]


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


def report_to_dot(report: RunReport) -> str:
    """Return a run as DOT, for debugging: attempts, times and the first line of each error."""
    reports = report.node_reports
    counts = {} if report.history is None else report.history.counts
    labels = (
        (
            _run_label(reports[node_id]) + _visits(counts.get(node_id)),
            COLOURS[reports[node_id].state],
        )
        for node_id in report.graph.nodes
    )
    status = report.status.replace("_", " ")
    title = f"{report.dag_name}: run {report.run_id}\n{status}, {duration(report.duration)}"
    return _digraph(report.graph, labels, title=title)


def _status(state: str) -> str:
    return f"Status: {str(state).capitalize()}"


def _plan_label(node: Node) -> list[str]:
    body = node.action if node.subgraph is None else node.subgraph
    return [node.id] if body == node.id else [node.id, body]


def _run_label(report: NodeReport) -> list[str]:
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


def _digraph(graph: Graph, labels: Iterable[tuple[list[str], str]], title: str = "") -> str:
    names = _names(graph)
    lines = ["digraph execution_tree {", "    rankdir=TB;", "    node [shape=box, style=filled];"]
    if title:
        head = "\n".join(map(_cut, title.split("\n")))
        lines.append(f"    label={quote(head)};")
        lines.append("    labelloc=t;")
    lines.append("")
    for node, (label, colour) in zip(graph.nodes.values(), labels, strict=True):
        given = {"fillcolor": colour, "label": quote("\n".join(map(_cut, label)))}
        if node.subgraph is not None:
            given["shape"] = "component"
        tooltip = "\n".join(_tooltip(node))
        if tooltip:
            given["tooltip"] = quote(_cut(tooltip, TOOLTIP))
        if graph.machine is not None and node.id in graph.machine.terminal:
            given["peripheries"] = "2"
        lines.append(f"    {names[node.id]} [{_attributes(given)}];")
    if graph.machine is not None and graph.machine.initial in names:
        start = _free(names.values(), "start")
        lines.append(f'    {start} [shape=point, label="", width=0.2];')
        lines.append(f"    {start} -> {names[graph.machine.initial]};")
    edges = [_edge(edge.source, edge.target, edge.when, names) for edge in graph.edges]
    return "\n".join([*lines, *([""] if edges else []), *edges, "}", ""])


def _names(graph: Graph) -> dict[str, str]:
    """Return a quoted name for each id; ids that read alike once quoted are told apart."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for node_id in graph.nodes:
        name = quote(node_id)
        count = 1
        while name in taken:
            count += 1
            name = quote(f"{node_id} ({count})")
        taken.add(name)
        names[node_id] = name
    return names


def _free(taken: Iterable[str], name: str) -> str:
    """Return a quoted name that no node has."""
    names = set(taken)
    while quote(name) in names:
        name += "_"
    return quote(name)


def _edge(source: str, target: str, when: str | None, names: Mapping[str, str]) -> str:
    head = f"    {names.get(source) or quote(source)} -> {names.get(target) or quote(target)}"
    return f"{head};" if when is None else f"{head} [label={quote(_cut(when))}];"


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


def _attributes(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in given.items())


def _cut(text: str, limit: int = LINE) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
