"""Graphs, state machines and runs as Mermaid, the text that Markdown renderers draw.

A machine is a ``stateDiagram-v2``, any other graph a ``flowchart``. Ids are numbers of our own
making and everything from data stands in a quoted label or behind a colon, through `escape`: no
text can end its label, open HTML or become a directive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from dagger_dsl.engine.words import standing
from dagger_dsl.views.picture import LINE, node_states
from dagger_dsl.views.states import COLOURS

if TYPE_CHECKING:
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.model.graph import Graph, HasStates

__all__ = ["escape", "graph_to_mermaid", "report_to_mermaid"]

# All that is not plainly a letter, a number or harmless punctuation is written as a number: quotes,
# brackets, `#`, `;`, `%` and backticks mean something to Mermaid, `<` and `&` to HTML.
_MEANS_SOMETHING: Final = re.compile(r"[^\w .,+*/=?!()-]")
# What needs no colour.
_SKIPPED: Final = frozenset(("white",))


def escape(text: str, limit: int = 4 * LINE) -> str:
    """Return *text* as part of a label that shows it as it is; a newline becomes a space."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    text = " ".join(text.replace("\0", "").split())
    return _MEANS_SOMETHING.sub(_number, text)


def _number(found: re.Match[str]) -> str:
    code = ord(found[0])
    # Half a pair and control characters have no picture.
    return f"#{0xFFFD if 0xD800 <= code < 0xE000 or code < 32 or 0x7F <= code < 0xA0 else code};"


def graph_to_mermaid(graph: Graph, run: HasStates | Mapping[str, str] | None = None) -> str:
    """Return a graph as Mermaid.

    Args:
        graph: What to draw.
        run: A report, or states by node id, to colour the nodes by.

    Raises:
        ConfigurationError: *run* is neither, or a state is none that there is.
    """
    states = None if run is None else node_states(graph, run)
    history = getattr(run, "history", None)
    return _drawn(graph, states, {} if history is None else history.counts)


def report_to_mermaid(report: RunReport) -> str:
    """Return a run as Mermaid: states, and how often each state of a machine was entered."""
    history = report.history
    title = f"{report.dag_name}: run {report.run_id}, {standing(report)}"
    counts = {} if history is None else history.counts
    return _drawn(report.graph, node_states(report.graph, report), counts, title)


def _drawn(
    graph: Graph, states: Mapping[str, str] | None, counts: Mapping[str, int], title: str = ""
) -> str:
    names = {node_id: f"n{number}" for number, node_id in enumerate(graph.nodes)}
    lines = [f"%% {escape(title)}"] if title else []
    draw = _machine if graph.machine is not None else _flow
    lines += draw(graph, names, states, counts)
    lines += _colours(names, states)
    return "\n".join([*lines, ""])


def _label(node_id: str, states: Mapping[str, str] | None, counts: Mapping[str, int]) -> str:
    parts = [escape(node_id)]
    if states is not None:
        parts.append(escape(str(states[node_id])))
    if node_id in counts:
        parts.append(f"{counts[node_id]}x")
    return ", ".join(parts)


def _machine(
    graph: Graph,
    names: Mapping[str, str],
    states: Mapping[str, str] | None,
    counts: Mapping[str, int],
) -> Iterator[str]:
    machine = graph.machine
    assert machine is not None
    yield "stateDiagram-v2"
    for node_id, name in names.items():
        state = f'    state "{_label(node_id, states, counts)}" as {name}'
        body = graph.nodes[node_id].subgraph
        if body is None:
            yield state
        else:  # a box around what it runs
            yield f"{state} {{"
            yield f'        state "{escape(body)}" as {name}_run'
            yield "    }"
    if machine.initial in names:
        yield f"    [*] --> {names[machine.initial]}"
    for edge in graph.edges:
        if edge.source in names and edge.target in names:
            way = f"    {names[edge.source]} --> {names[edge.target]}"
            yield way if edge.when is None else f"{way} : {escape(edge.when)}"
    for node_id in machine.terminal:
        if node_id in names:
            yield f"    {names[node_id]} --> [*]"


def _flow(
    graph: Graph,
    names: Mapping[str, str],
    states: Mapping[str, str] | None,
    counts: Mapping[str, int],
) -> Iterator[str]:
    yield "flowchart TD"
    for node_id, name in names.items():
        label = f'"{_label(node_id, states, counts)}"'
        yield (
            f"    {name}[{label}]"
            if graph.nodes[node_id].subgraph is None
            else (f"    {name}[[{label}]]")
        )
    for edge in graph.edges:
        if edge.source in names:
            arrow = "-->" if edge.when is None else f'-->|"{escape(edge.when)}"|'
            yield f"    {names[edge.source]} {arrow} {names[edge.target]}"


def _colours(names: Mapping[str, str], states: Mapping[str, str] | None) -> Iterator[str]:
    by_state: dict[str, list[str]] = {}
    for node_id, state in (states or {}).items():
        if COLOURS[state] not in _SKIPPED:
            by_state.setdefault(str(state), []).append(names[node_id])
    for state, found in by_state.items():
        yield f"    classDef {state} fill:{COLOURS[state]}"
        yield f"    class {','.join(found)} {state}"
