"""What is wrong with a state machine before it runs, and what is only odd about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dagger_dsl.errors import Place, Problem, did_you_mean, shown
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.machine import Machine
from dagger_dsl.model.policies import Trigger

__all__ = ["machine_problems", "machine_remarks"]


def machine_problems(graph: Graph, find: Any) -> Iterator[Problem]:
    """Yield everything that refuses a state machine.

    Args:
        graph: A graph with a machine.
        find: Returns the action of a name, or None; itself None where only the structure counts.
    """
    machine = graph.machine
    assert machine is not None
    yield from _named(graph, machine)
    for node in graph.nodes.values():
        yield from _state(node, find)
    if graph.labelled:
        yield Problem(
            "a state machine has no edges but its transitions; write machine.transitions",
            Place(node=graph.labelled[0].target),
            "machine",
        )
    if find is None:
        return
    for each in machine.transitions:
        if each.condition is None:
            continue
        action = find(each.condition)
        where = f"the condition {each.condition!r} of {each.source!r} -> {each.target!r}"
        if action is None:
            yield Problem(f"{where} is no action", Place(node=each.source), "unknown-action")
        elif getattr(action, "is_async", False):
            text = f"{where} is async; a condition only looks at the value, so make it 'def'"
            yield Problem(text, Place(node=each.source), "machine")
        elif not _takes_a_value(action):
            text = f"{where} is called with one value, and with the context where it asks for it"
            yield Problem(text, Place(node=each.source), "machine")
    if machine.hook is not None and find(machine.hook) is None:
        yield Problem(f"the machine's hook {machine.hook!r} is no action", code="unknown-action")


def _takes_a_value(action: Any) -> bool:
    """Return whether an action can be a condition, as far as its parameters tell."""
    if getattr(action, "style", None) != "function":
        return True
    required = sum(each.required for each in action.params)
    return required <= 1 and bool(action.params or action.context_param)


def _named(graph: Graph, machine: Machine) -> Iterator[Problem]:
    """Yield the names that are no states, and transitions that cannot be."""

    def unknown(name: str, what: str) -> Problem:
        hint = did_you_mean(name, graph.nodes)
        return Problem(f"{what} {shown(name)} is not in the machine{hint}", code="unknown-state")

    if machine.initial not in graph.nodes:
        yield unknown(machine.initial, "the initial state")
    for name in machine.terminal:
        if name not in graph.nodes:
            yield unknown(name, "the terminal state")
    for each in machine.transitions:
        for end in (each.source, each.target):
            if end not in graph.nodes:
                yield unknown(end, f"the transition {each.source!r} -> {each.target!r}: state")
        if each.source in machine.terminal:
            text = f"it is a terminal state, so there is no way on to {each.target!r}"
            yield Problem(text, Place(node=each.source), "machine")


def _state(node: Node, find: Any) -> Iterator[Problem]:
    place = Place(node=node.id)
    if node.dependencies:
        text = "a state waits for no other one; declare a transition into it instead"
        yield Problem(text, place, "machine")
    for given in node.inputs:
        source = given.source
        if source is not None and source[0] != "inputs":
            text = (
                f"input {given.name!r} refers to {given.reference!r}; a state takes the value of "
                "the one before it by the names of its parameters"
            )
            yield Problem(text, place, "machine")
    for what, is_set in (
        ("map_over", node.map_over is not None),
        ("trigger", node.trigger is not Trigger.SUCCESS),
        ("enabled: false", not node.enabled),
        ("outputs", bool(node.outputs)),
        ("cache_strategy", node.cache_strategy is not None and node.cache_strategy.kind != "never"),
    ):
        if is_set:
            yield Problem(f"{what} does not fit a state of a machine; remove it", place, "machine")
    if find is None:
        return
    for name, what in (
        (node.action if node.subgraph is None else None, ""),
        (node.failure, "failure: "),
        (node.fallback, "fallback: "),
    ):
        if name is not None and find(name) is None:
            text = f"{what}no action {name!r} is registered; define it, or name its module"
            yield Problem(text, place, "unknown-action")


def machine_remarks(graph: Graph) -> Iterator[Problem]:
    """Yield what is allowed and cannot be meant: states that no way leads to, ways to no end."""
    machine = graph.machine
    assert machine is not None
    leaving = machine.leaving()
    reached, work = {machine.initial}, [machine.initial]
    for state in work:  # grows while it is walked
        if state in machine.terminal:
            continue
        ways = leaving.get(state)
        if not ways:
            return  # it goes wherever its answer says
        for each in ways:
            if each.target not in reached:
                reached.add(each.target)
                work.append(each.target)
    for state in graph.nodes:
        if state not in reached:
            text = "no transition leads here from the initial state, so it is never entered"
            yield Problem(text, Place(node=state), "never-entered", "warning")
    if machine.terminal and not reached.intersection(machine.terminal):
        text = "no terminal state can be reached; only FSMReturn(stop=True) ends the machine"
        yield Problem(text, code="no-end", severity="note")
