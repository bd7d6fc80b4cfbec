"""`WorkflowDef`: a workflow as the body of a node, with what a node has to know of an action.

A node may name a workflow as its body (`Node.subgraph`). To whoever builds, checks and schedules
the graph around it, the workflow is an action like any other: it has parameters (the inputs of its
graph; of a state machine what its initial state takes), annotations, a result. What it does when it
is called is the engine's business.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Protocol

import attrs
import orjson

from dagger_dsl.errors import CycleError, Problem, ValidationError
from dagger_dsl.model.document import graph_to_plain
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.mapped import collected_type
from dagger_dsl.model.values import MISSING, Secret
from dagger_dsl.registry._definition import ActionDef, Hints, Param

__all__ = ["KeptWorkflow", "Nestable", "WorkflowDef"]

#: Levels of workflows in workflows; each one is a few dozen frames of Python's stack when it runs.
MAX_DEPTH = 25


class Nestable(Protocol):
    """What can be the body of a node: a `Workflow`, or what stands for a graph from a file.

    Attributes:
        name: What nodes call it.
        registry: Where its actions and the workflows in it are looked up: a `Registry`.
    """

    name: str
    registry: Any

    def compile(self) -> Graph:
        """Return its graph; the same object as long as nothing changes."""
        ...


@attrs.frozen(eq=False, kw_only=True)
class WorkflowDef(ActionDef):
    """A workflow as it is now, as an action; see the module.

    Attributes:
        workflow: The workflow.
        graph: What it compiled to.
        nested: The workflows in it, by name, None for those that are not known.
        depth: Levels of workflows in it, itself included.
        first: What the initial state of a state machine calls; None for other graphs, and where
            that is not known.
    """

    workflow: Any
    graph: Graph = attrs.field(repr=False)
    nested: Mapping[str, WorkflowDef | None] = attrs.field(factory=dict, repr=False)
    depth: int = 1
    first: ActionDef | None = attrs.field(default=None, repr=False)

    @property
    def is_machine(self) -> bool:
        """Whether it is a state machine."""
        return self.graph.machine is not None

    def code_version(self) -> str:
        """Return the version of what it does: a hash of its graph and of its actions' code."""
        told = hashlib.sha256(orjson.dumps(graph_to_plain(self.graph)))
        for name, action in _parts(self.graph, self.workflow.registry):
            told.update(f"\n{name} {action.code_version()}".encode())
        return told.hexdigest()[:32]

    def problems(self) -> tuple[Problem, ...]:
        """Return what is wrong with its graph; once nothing is, that is not looked at again."""
        if "valid" in self._kept:
            return ()
        try:
            self.graph.validate(self.workflow.registry)
        except ValidationError as error:
            return error.problems
        self._kept["valid"] = True
        return ()


class KeptWorkflow:
    """A workflow in a registry, with its definition, which is made anew when the workflow changes.

    Args:
        workflow: The workflow.
    """

    __slots__ = ("_definition", "workflow")

    def __init__(self, workflow: Nestable) -> None:
        self.workflow = workflow
        self._definition: WorkflowDef | None = None

    def definition(self) -> WorkflowDef:
        """Return the workflow as it is now, as an action.

        Raises:
            CycleError: It contains itself.
            ValidationError: It is nested too deeply, or cannot be compiled.
        """
        checked = _walk.checked.get(self)
        if checked is not None:
            return checked
        graph = self.workflow.compile()
        known = self._definition
        if known is not None and known.graph is graph and not known.nested and not known.is_machine:
            return known
        with _walked(self.workflow):
            if known is None or known.graph is not graph or _is_outdated(known):
                known = self._definition = _define(self.workflow, graph)
            _walk.checked[self] = known
        return known


def _is_outdated(definition: WorkflowDef) -> bool:
    """Return whether what a definition was made of has changed: the workflows in it, say."""
    registry = definition.workflow.registry
    if definition.first is not _first(definition.graph, registry):
        return True
    return any(registry.get_workflow(name) is not each for name, each in definition.nested.items())


def _define(workflow: Nestable, graph: Graph) -> WorkflowDef:
    registry = workflow.registry
    hints = _GraphHints(workflow, graph)
    nested = {
        node.subgraph: registry.get_workflow(node.subgraph)
        for node in graph.nodes.values()
        if node.subgraph is not None
    }
    depth = 1 + max((each.depth for each in nested.values() if each is not None), default=0)
    if depth > MAX_DEPTH:
        raise _too_deep(workflow.name)
    # Bound methods of one workflow are equal, which tells the DSL that they are one action.
    original = getattr(workflow, "_call_plainly", _uncalled)
    is_async = any(action.is_async for _, action in _parts(graph, registry))
    first = _first(graph, registry)
    return WorkflowDef(
        name=workflow.name,
        fn=_awaited(workflow) if is_async else original,
        original=original,
        is_async=is_async,
        params=tuple(_params(graph, hints, first)),
        style="workflow",
        takes_any_input=first is not None and first.takes_any_input,
        version=graph.version,
        description=graph.description,
        hints=hints,
        workflow=workflow,
        graph=graph,
        nested=nested,
        depth=depth,
        first=first,
    )


def _first(graph: Graph, registry: Any) -> ActionDef | None:
    """Return what the initial state of a state machine calls; None for other graphs."""
    node = None if graph.machine is None else graph.nodes.get(graph.machine.initial)
    return None if node is None else body_of(node, registry)


def _uncalled(**_inputs: Any) -> Any:
    raise AssertionError("the engine runs a workflow, it does not call it")


def _awaited(workflow: Any) -> Callable[..., Any]:
    """Return what runs a workflow on the running loop, for calls outside of any graph."""

    async def run(**inputs: Any) -> Any:
        return await workflow.run_async(inputs)

    return run


def _parts(graph: Graph, registry: Any) -> Iterator[tuple[str, ActionDef]]:
    """Yield what the nodes of a graph call, by name; what is not known is passed over."""
    seen: dict[tuple[str, bool], None] = {}
    for node in graph.nodes.values():
        seen[node.subgraph or node.action, node.subgraph is not None] = None
        for stand_in in (node.failure, node.fallback):
            if stand_in is not None:
                seen[stand_in, False] = None
    if graph.machine is not None:
        seen |= dict.fromkeys((name, False) for name in graph.machine.actions)
    for name, nested in seen:
        action = registry.get_workflow(name) if nested else registry.get(name)
        if action is None:
            continue
        yield name, action
        for other in (action.failure, action.fallback):
            found = registry.get(other) if isinstance(other, str) else other
            if found is not None:
                yield found.name, found


def body_of(node: Node, registry: Any) -> ActionDef | None:
    """Return what a node calls, None where that is not known."""
    if node.subgraph is None:
        found: ActionDef | None = registry.get(node.action)
        return found
    return find_workflow(registry, node.subgraph)


def find_workflow(registry: Any, name: str) -> WorkflowDef | None:
    """Return the workflow of a name; None also where a lookup knows no workflows at all."""
    lookup: Callable[[str], WorkflowDef | None] | None = getattr(registry, "get_workflow", None)
    return None if lookup is None else lookup(name)


# --- parameters -----------------------------------------------------------------------------------


def _params(graph: Graph, hints: Hints, first: ActionDef | None) -> Iterator[Param]:
    for name in input_names(graph):
        declared = graph.inputs.get(name)
        default = MISSING if declared is None or declared.default is None else declared.default
        required = default is MISSING and (declared is None or declared.required)
        value = None if default is MISSING and not required else default
        yield Param(
            name,
            required=required,
            default=getattr(value, "value", value),
            keyword_only=False,
            hints=hints,
        )
    for param in _own_params(graph, first):
        yield Param(
            param.name,
            required=param.required,
            default=param.default,
            keyword_only=param.keyword_only,
            hints=hints,
        )


def _own_params(graph: Graph, first: ActionDef | None) -> Iterator[Param]:
    """Yield the parameters of an initial state that a run fills by their own names."""
    if first is None or graph.machine is None:
        return
    given = {each.name for each in graph.nodes[graph.machine.initial].inputs}
    for param in first.params:
        if param.name not in given and param.name not in input_names(graph):
            yield param


def input_names(graph: Graph) -> list[str]:
    """Return the inputs of a graph: those it declares, then those its nodes refer to."""
    names = dict.fromkeys(graph.inputs)
    for _, _, name in _uses(graph):
        names[name] = None
    return list(names)


def _uses(graph: Graph) -> Iterator[tuple[Node, str, str]]:
    """Yield the nodes that take inputs of the graph, with the parameter and the input's name."""
    for node in graph.nodes.values():
        for each in node.inputs:
            if each.reference is not None and each.reference.startswith("inputs."):
                yield node, each.name, each.reference.removeprefix("inputs.")


class _GraphHints(Hints):
    """The annotations of a workflow: of its inputs by those who take them, of its result."""

    __slots__ = ("_graph", "_workflow")

    def __init__(self, workflow: Nestable, graph: Graph) -> None:
        super().__init__(None)
        self._workflow = workflow
        self._graph = graph

    def get(self) -> Mapping[str, Any]:
        if self._found is None:
            self._found = MappingProxyType({**self._inputs(), "return": self._returns()})
        return self._found

    def _inputs(self) -> dict[str, Any]:
        graph, registry = self._graph, self._workflow.registry
        found: dict[str, Any] = {}
        handles = getattr(self._workflow, "inputs", {})
        for name in input_names(graph):
            declared = graph.inputs.get(name)
            secret = declared is not None and declared.secret
            handle = handles.get(name) if isinstance(handles, Mapping) else None
            found[name] = Secret if secret else getattr(handle, "annotation", Any)
        for node, parameter, name in _uses(graph):
            if found[name] is Any:
                action = body_of(node, registry)
                wanted = Any if action is None else action.hints().get(parameter, Any)
                levels = (node.map_depth or 1) if node.map_over == parameter else 0
                found[name] = collected_type(wanted, levels, False)
        for param in _own_params(graph, _first(graph, registry)):
            found[param.name] = param.annotation
        return found

    def _returns(self) -> Any:
        graph = self._graph
        if graph.machine is not None:
            return Any  # it may end in any state
        sinks = graph.sinks()
        if len(sinks) != 1:
            return dict[str, Any]
        node = graph.nodes[sinks[0]]
        action = body_of(node, self._workflow.registry)
        returns = Any if action is None else action.hints().get("return", Any)
        if node.map_over is None:
            return returns
        return collected_type(returns, node.map_depth or 1, node.map_errors == "collect")


# --- workflows in workflows -----------------------------------------------------------------------


class _Walk(threading.local):
    """The workflows that this thread is defining, each inside of the one before it."""

    def __init__(self) -> None:
        self.path: list[Nestable] = []
        # What was looked at in this walk already: a workflow is met on several ways, each level of
        # which would double the time.
        self.checked: dict[KeptWorkflow, WorkflowDef] = {}


_walk = _Walk()


@contextmanager
def _walked(workflow: Nestable) -> Iterator[None]:
    """Note that a workflow is being defined; refuse one that contains itself."""
    path = _walk.path
    names = [each.name for each in path]
    for place, each in enumerate(path):
        if each is workflow:
            raise nested_in_itself([*names[place:], workflow.name])
    if len(path) > 2 * MAX_DEPTH:  # their definitions have not been made yet
        raise _too_deep(names[0])
    path.append(workflow)
    try:
        yield
    finally:
        path.pop()
        if not path:
            _walk.checked.clear()


def _too_deep(name: str) -> ValidationError:
    return ValidationError(
        (
            Problem(
                f"workflow {name!r} has more than {MAX_DEPTH} levels of workflows in it, itself "
                "included; let an action run the inner ones",
                code="too-deep",
            ),
        )
    )


def nested_in_itself(path: list[str]) -> CycleError:
    """Return the refusal of a workflow that contains itself."""
    told = " -> ".join(path)
    return CycleError(
        path,
        (
            Problem(
                f"workflow {path[0]!r} contains itself: {told}; a workflow that repeats itself "
                "needs an end: map over a list, or loop inside an action",
                code="nested-in-itself",
            ),
        ),
    )


def contains(definition: WorkflowDef, workflow: Nestable) -> list[str] | None:
    """Return the names on the way from a workflow to one inside of it, None if it is not there."""
    todo: list[tuple[WorkflowDef, list[str]]] = [(definition, [definition.name])]
    seen: set[int] = set()
    while todo:
        here, path = todo.pop()
        if here.workflow is workflow:
            return path
        if id(here.workflow) in seen:
            continue
        seen.add(id(here.workflow))
        todo += [(each, [*path, each.name]) for each in here.nested.values() if each is not None]
    return None
