"""A run that stands still, with the commands that wait for it: what it will be when it goes on.

Nobody need have its actions to say so. What the run is certain to refuse then, for its graph's sake
or because somebody has decided otherwise, is refused when it is asked for; whoever asks may not
come back to hear of it later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from dagger_dsl.engine.growth import check_graph_inputs, check_graph_name, named, unknown_nodes
from dagger_dsl.errors import DaggerError, InvalidState, NodeNotFound
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    Answer,
    CancelBranch,
    Command,
    NodeSpec,
    PauseBranch,
    ResumeBranch,
    SetNodeInputs,
    SetNodesEnabled,
    with_inputs,
)
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.validate import validate_growth, workflow_in

__all__ = ["Standing", "names_in", "specs_of"]

_OF_BRANCHES = (PauseBranch, ResumeBranch, CancelBranch)


class Standing:
    """What a run will be when it goes on.

    Args:
        run_id: The run.
        graph: Its graph as recorded commands have changed it.
        pending: The commands that wait for it, in order.
        completed: The ids of nodes that stay as they are.
        registry: Anything with ``get(name)`` for actions. What they say counts where it knows
            those of the whole graph; else it is not theirs, and somebody else may know more.
    """

    def __init__(
        self,
        run_id: str,
        graph: Graph,
        pending: Sequence[Command],
        completed: Collection[str] = (),
        registry: Any = None,
    ) -> None:
        self._run_id = run_id
        self._graph = graph
        self._registry = registry if registry is not None and _knows(registry, graph) else None
        self._completed = completed
        self._nodes: dict[str, Node] = dict(graph.nodes)
        self._answers: set[tuple[str, str]] = set()
        self._branches: dict[str, Command] = {}
        for command in pending:
            self._foresee(command)
        self._doomed = self._foresee_ends()

    @property
    def is_machine(self) -> bool:
        """Whether the run is one of a state machine."""
        return self._graph.machine is not None

    def _foresee(self, command: Command) -> None:
        """Take note of what a command that waits is going to do."""
        if isinstance(command, Answer):
            self._answers.add((command.node_id, command.key))
        elif isinstance(command, _OF_BRANCHES):
            if not isinstance(self._branches.get(command.branch_id), CancelBranch):
                self._branches[command.branch_id] = command
        else:
            try:
                nodes = self._changed(command)
                self._check_nodes(command, nodes)
            except DaggerError:  # it was sent all the same, and will be refused
                return
            self._nodes |= {node.id: node for node in nodes}

    def _foresee_ends(self) -> dict[str, CancelBranch]:
        """Return the nodes that are going to be cancelled, each with the command that does it.

        They are what can be reached only through a branch; see `RunState.cancel_branch`.
        """
        cancels = [each for each in self._branches.values() if isinstance(each, CancelBranch)]
        if not cancels:
            return {}
        graph = self._graph.replace(nodes=self._nodes)
        sources: dict[str, set[str]] = {}
        for edge in graph.edges:
            sources.setdefault(edge.target, set()).add(edge.source)
        order = graph.topological_order()
        found: dict[str, CancelBranch] = {}
        for command in cancels:
            branch = command.branch_id
            roots = [each.id for each in self._nodes.values() if each.branch == branch]
            inside = {branch} if branch in self._nodes else set(roots)
            for name in order:
                if name in sources and sources[name] <= inside:
                    inside.add(name)
            found |= dict.fromkeys(inside, command)
        return found

    # --- what there is ---------------------------------------------------------------------------

    def names(self, *, branches: bool) -> tuple[str, ...]:
        """Return the ids of the nodes, and the labels of branches where they are asked for."""
        labels = [node.branch for node in self._nodes.values() if node.branch is not None]
        return tuple(dict.fromkeys([*self._nodes, *(labels if branches else ())]))

    def awaits(self, node_id: str, key: str) -> bool:
        """Whether nobody has decided yet what becomes of a node that asks."""
        return (node_id, key) not in self._answers and node_id not in self._doomed

    def is_decided(self, branch: str) -> bool:
        """Whether a branch that is paused goes on, or ends, with the run."""
        return isinstance(self._branches.get(branch), (ResumeBranch, CancelBranch))

    # --- what cannot be --------------------------------------------------------------------------

    def check(self, command: Command) -> None:
        """Refuse a command that the run is certain to refuse.

        Raises:
            NodeNotFound: There is no such node or branch.
            ValidationError: A node cannot be added, or an input cannot be one.
            InvalidState: The node is completed, or the command is for another graph.
        """
        self._check_names(command)
        nodes = self._changed(command)
        if isinstance(command, SetNodesEnabled):
            self._refuse_completed(nodes, "whether it is enabled")
            return
        if isinstance(command, SetNodeInputs):
            self._refuse_completed(nodes, "its inputs")
        self._check_nodes(command, nodes)

    def _check_nodes(self, command: Command, nodes: list[Node]) -> None:
        if not nodes:
            return
        validate_growth(self._graph, nodes, self._nodes.get, self._registry, self._nodes)
        check_graph_inputs(nodes, _inputs_of(self._graph, self._nodes))
        if isinstance(command, SetNodeInputs):
            changed = {node.id: node for node in nodes}
            self._graph.replace(nodes={**self._nodes, **changed}).topological_order()

    def _check_names(self, command: Command) -> None:
        known = self.names(branches=isinstance(command, _OF_BRANCHES))
        for name in sorted(set(names_in(command)) - set(known)):
            raise NodeNotFound(name, known)

    def _refuse_completed(self, nodes: Iterable[Node], what: str) -> None:
        for node in nodes:
            if node.id in self._completed:
                raise InvalidState(
                    f"node {node.id!r} is completed, so {what} cannot change any more"
                )

    def check_answer(self, answer: Answer) -> None:
        """Refuse an answer to what has one, or is going to be cancelled.

        Raises:
            InvalidState: Somebody has decided before.
        """
        if (answer.node_id, answer.key) in self._answers:
            raise self._has_answer(answer.node_id)
        if answer.node_id in self._doomed:
            raise self._is_cancelled(self._doomed[answer.node_id])

    def check_branch(
        self,
        command: ResumeBranch | CancelBranch,
        asks: Iterable[tuple[str, str]],
        *,
        decides: bool,
    ) -> None:
        """Refuse to let a branch go on, or to cancel it, against what was decided before.

        Args:
            command: What is asked for.
            asks: Nodes that wait for a person, with their keys.
            decides: Whether it is an approval or a rejection, of which the first one counts.

        Raises:
            InvalidState: Somebody has decided before.
        """
        branch = command.branch_id
        before = self._branches.get(branch)
        if isinstance(before, CancelBranch):
            if decides or isinstance(command, ResumeBranch):
                raise self._is_cancelled(before)
        elif isinstance(before, ResumeBranch) and decides:
            raise InvalidState(
                f"branch {branch!r} of run {self._run_id} is approved already; it goes on when the "
                "run does"
            )
        if decides or isinstance(command, CancelBranch):
            self._check_unanswered(branch, asks)

    def _check_unanswered(self, branch: str, asks: Iterable[tuple[str, str]]) -> None:
        places = [place for place in asks if branch in (place[0], self._label(place[0]))]
        if places and all(place in self._answers for place in places):
            raise self._has_answer(places[0][0])

    def _label(self, node_id: str) -> str | None:
        node = self._nodes.get(node_id)
        return None if node is None else node.branch

    def _has_answer(self, node_id: str) -> InvalidState:
        return InvalidState(
            f"node {node_id!r} of run {self._run_id} has its answer already; it is taken when the "
            "run goes on"
        )

    def _is_cancelled(self, command: CancelBranch) -> InvalidState:
        reason = "" if command.reason is None else f" ({command.reason})"
        return InvalidState(
            f"{command.branch_id!r} of run {self._run_id} is to be cancelled already{reason}; that "
            "is done when the run goes on"
        )

    # --- what a command makes of the graph -------------------------------------------------------

    def _changed(self, command: Command) -> list[Node]:
        """Return the nodes that a command adds or changes, as it leaves them."""
        if isinstance(command, (AddNode, AddNodes)):
            check_graph_name(command.dag_name, self._graph.name, self._run_id)
            nodes = named(specs_of(command), self._nodes, {})
            return unknown_nodes(nodes, self._nodes.get)
        before = [self._nodes[name] for name in names_in(command) if name in self._nodes]
        if isinstance(command, SetNodeInputs):
            check_graph_name(command.dag_name, self._graph.name, self._run_id)
            after = [with_inputs(node, command.inputs) for node in before]
        elif isinstance(command, SetNodesEnabled):
            after = [node.replace(enabled=command.enabled) for node in before]
        else:
            return []
        return [node for node, old in zip(after, before, strict=True) if node != old]


def _knows(registry: Any, graph: Graph) -> bool:
    """Whether a registry has every action of a graph."""
    names = {node.action for node in graph.nodes.values() if node.subgraph is None}
    nested = {node.subgraph for node in graph.nodes.values() if node.subgraph is not None}
    if graph.machine is not None:
        names.update(graph.machine.actions)
    return all(registry.get(name) is not None for name in names) and all(
        workflow_in(registry, name) is not None for name in nested
    )


def _inputs_of(graph: Graph, nodes: Mapping[str, Node]) -> list[str]:
    """Return the inputs that a run may have been given: no other one is ever taken."""
    names = dict.fromkeys(graph.inputs)
    for node in nodes.values():
        for each in node.inputs:
            if each.source is not None and each.source[0] == "inputs":
                names[each.source[1]] = None
    return list(names)


def names_in(command: Command) -> tuple[str, ...]:
    """Return the nodes and branches that a command is about, and that have to be there."""
    if isinstance(command, _OF_BRANCHES):
        return (command.branch_id,)
    if isinstance(command, (Answer, SetNodeInputs)):
        return (command.node_id,)
    return command.ids if isinstance(command, SetNodesEnabled) else ()


def specs_of(command: Command) -> tuple[NodeSpec, ...]:
    """Return the nodes that a command adds."""
    if isinstance(command, AddNode):
        return (command.spec,)
    return command.specs if isinstance(command, AddNodes) else ()
