"""What can be said of nodes to be added, or changed, by the graph alone: no action is needed.

Whoever executes a run asks this before a command is applied; whoever sends one to a run that stands
still asks it before the command is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, MutableMapping

from dagger_dsl.errors import InvalidState, MissingInputError, NodeAlreadyExists, did_you_mean
from dagger_dsl.model.commands import NodeSpec
from dagger_dsl.model.graph import Node

__all__ = ["check_graph_inputs", "check_graph_name", "named", "unknown_nodes"]


def check_graph_name(wanted: str | None, dag_name: str, run_id: str) -> None:
    """Refuse a command for another graph than that of the run.

    Raises:
        InvalidState: It is for another one.
    """
    if wanted is not None and wanted != dag_name:
        raise InvalidState(
            f"the command is for graph {wanted!r} and came to run {run_id} of "
            f"{dag_name!r}; leave dag_name out for the run at hand"
        )


def named(
    specs: Iterable[NodeSpec], known: Container[str], numbers: MutableMapping[str, int]
) -> list[Node]:
    """Return the nodes, each with an id: its own, its action's name, or that and a number.

    Args:
        specs: What they are made of.
        known: The ids that the graph has.
        numbers: How often each name was given before; it is kept up to date.

    Raises:
        NodeAlreadyExists: Two of them have one id.
    """
    specs = tuple(specs)
    taken = {spec.id for spec in specs if spec.id is not None}
    nodes = []
    for spec in specs:
        node_id = spec.id
        if node_id is None:
            base = spec.action.rpartition(".")[2] or spec.action
            number = numbers.get(base, 0)
            while node_id is None or node_id in known or node_id in taken:
                number += 1
                node_id = base if number == 1 else f"{base}_{number}"
            numbers[base] = number
            taken.add(node_id)
        nodes.append(spec.to_node(node_id))
    counts = Counter(node.id for node in nodes)
    twice = next((name for name, times in counts.items() if times > 1), None)
    if twice is not None:
        raise NodeAlreadyExists(twice)
    return nodes


def unknown_nodes(nodes: Iterable[Node], find: Callable[[str], Node | None]) -> list[Node]:
    """Return the nodes that a graph does not have; one that it has in all it says is left out.

    Raises:
        NodeAlreadyExists: It has another one of an id.
    """
    new = []
    for node in nodes:
        known = find(node.id)
        if known is None:
            new.append(node)
        elif known != node:
            raise NodeAlreadyExists(node.id)
    return new


def check_graph_inputs(nodes: Iterable[Node], inputs: Collection[str]) -> None:
    """Refuse nodes that take an input that a run was not given.

    Raises:
        MissingInputError: There is one.
    """
    for node in nodes:
        for each in node.inputs:
            if each.source is not None and each.source[0] == "inputs":
                name = each.source[1]
                if name not in inputs:
                    raise MissingInputError(
                        f"node {node.id!r}: the run was given no input {name!r}"
                        f"{did_you_mean(name, inputs)}; give the node a value instead"
                    )
