"""Static analysis: everything that is wrong with a graph, found before anything runs.

One pass over the nodes, and one over the edges where some edge points backwards; nothing recurses.
What depends only on an action and the names of its inputs is looked at once per pair of those, so
that 100,000 nodes of a few actions cost little more than looking up their references.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    CycleError,
    DependencyNotFound,
    Place,
    Problem,
    ValidationError,
    cycle_problem,
    did_you_mean,
    shown,
)
from dagger_dsl.model.graph import RESULT, Graph, Input, Node, missing_dependency
from dagger_dsl.model.mapped import collected_type, mapped_fault, mapped_misfit
from dagger_dsl.model.policies import Trigger
from dagger_dsl.model.protocols import ActionInfo, ParamInfo
from dagger_dsl.model.streaming import Taker, growth_faults, stream_faults
from dagger_dsl.model.types import output_type, show_type

__all__ = ["ValidationReport", "validate", "validate_growth"]


@attrs.frozen
class ValidationReport:
    """What static analysis found.

    Attributes:
        problems: Errors and warnings, in declaration order.
    """

    problems: tuple[Problem, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What refuses the graph."""
        return tuple(each for each in self.problems if each.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is reported only."""
        return tuple(each for each in self.problems if each.severity != "error")


def validate(graph: Graph, registry: Any = None, *, types: bool = True) -> ValidationReport:
    """Look for everything that is wrong with *graph*; see `Graph.validate`.

    Args:
        graph: The graph.
        registry: Anything with ``get(name)`` that gives an `ActionInfo` or None; None checks the
            structure only.
        types: Whether annotations and literals are compared.

    Raises:
        ValidationError: There are problems; all are listed.
    """
    report = ValidationReport(tuple(_Analysis(graph, registry, types).problems()))
    errors = report.errors
    if errors:
        raise _error(errors)
    return report


def validate_growth(
    graph: Graph,
    nodes: Sequence[Node],
    node_of: Callable[[str], Node | None],
    registry: Any,
    known: Collection[str] = (),
) -> None:
    """Look for everything that is wrong with nodes that a graph is to get, and with nothing else.

    Args:
        graph: What it was at first: its name and its inputs.
        nodes: What is added or changed.
        node_of: Returns a node of the graph as it is now, None for an unknown id.
        registry: As for `validate`.
        known: The ids of the graph as it is now, for suggestions.

    Raises:
        ValidationError: There are problems; all are listed.
    """
    new = {node.id for node in nodes}
    sources = dict.fromkeys(name for node in nodes for name in node.dependencies)
    around = [node_of(name) for name in sources if name not in new]
    # What they are looked at for is what they give; what they take was checked before.
    stubs = [each.replace(inputs=(), dependencies=()) for each in around if each is not None]
    part = Graph(graph.name, [*stubs, *nodes], config=graph.config, inputs=graph.inputs.values())
    analysis = _Analysis(part, registry, True, known, grows=True)
    errors = [
        each for each in analysis.problems() if each.severity == "error" and each.place.node in new
    ]
    if registry is not None:
        faults = growth_faults(nodes, node_of, known, analysis.lookup)
        errors += [Problem(text, Place(node=name), "stream") for name, text in faults]
    if errors:
        raise _error(errors)


#: How many problems an error lists; the rest is counted.
MAX_PROBLEMS = 100


def _error(errors: Sequence[Problem]) -> ValidationError:
    codes = {each.code for each in errors}
    circles = [each for each in errors if isinstance(each, _Cycle)]
    listed = list(errors[:MAX_PROBLEMS])
    if len(errors) > MAX_PROBLEMS:
        listed.append(Problem(f"{len(errors) - MAX_PROBLEMS} more problems", code="more"))
    if len(circles) == len(errors):
        return CycleError(circles[0].path, listed)
    if codes == {"unknown-dependency"}:
        return DependencyNotFound(listed)
    if codes <= {"unknown-action", "unknown-workflow"}:
        return ActionNotFound(listed)
    return ValidationError(listed)


class _Cycle(Problem):
    """A cycle's problem, which remembers the whole path."""

    __slots__ = ("path",)

    def __init__(self, path: Sequence[str], told: Problem | None = None) -> None:
        told = cycle_problem(path) if told is None else told
        super().__init__(told.message, told.place, told.code)
        self.path = tuple(path)


#: Triggers under which some edge is satisfied, so that an only edge is a satisfied one.
_NEED_ONE = {Trigger.ANY, Trigger.NONE_FAILED}

# Suggestions compare with every known name: a graph full of mistakes must not make that most of the
# work.
_SUGGESTIONS, _SUGGEST_FROM = 20, 5_000
#: How many cycles are looked for.
_CYCLES = 10


#: What is wrong with giving an action inputs of certain names, and which kinds were in order.
_Shape: TypeAlias = tuple[tuple[tuple[str, str], ...], set[tuple[int, ...]]]

#: What a node calls: an action's name, or that of the workflow which is its body, in a tuple.
_Body: TypeAlias = str | tuple[str]


def _body(node: Node) -> _Body:
    return node.action if node.subgraph is None else (node.subgraph,)


def checked_registry(registry: Any) -> Any:
    """Return what action names are looked up in, None for nothing.

    Raises:
        ConfigurationError: Nothing can be looked up in it.
    """
    if registry is None or callable(getattr(registry, "get", None)):
        return registry
    raise ConfigurationError(
        "registry is a Registry in which action names are looked up, or None, not "
        f"{shown(registry)}"
    )


def action_in(registry: Any, name: str) -> ActionInfo | None:
    """Return what a registry has under a name, None for nothing.

    Raises:
        ConfigurationError: It is no action's definition.
    """
    found: ActionInfo | None = registry.get(name)
    if found is None or hasattr(found, "params"):
        return found
    raise ConfigurationError(
        f"registry has {shown(found)} under {name!r}, which is no action's definition; plain "
        "functions become actions in a registry: as_registry({'name': function})"
    )


def workflow_in(registry: Any, name: str) -> ActionInfo | None:
    """Return the workflow that a registry has under a name, None for nothing.

    Raises:
        ValidationError: There is one, and it contains itself, or cannot be compiled.
    """
    lookup = getattr(registry, "get_workflow", None)
    found: ActionInfo | None = lookup(name) if callable(lookup) else None
    return found


class _Analysis:
    """One analysis; problems are collected with their position, and come out in its order."""

    def __init__(
        self,
        graph: Graph,
        registry: Any,
        types: bool,
        known: Collection[str] = (),
        *,
        grows: bool = False,
    ) -> None:
        self.graph = graph
        self.grows = grows  # then there are nodes that it does not see
        self.streams: set[_Body] = set()  # actions that yield items
        self.known = known  # what else there is to wait for
        self.registry = checked_registry(registry)
        self.types = types and registry is not None
        self.table = dict(graph.nodes)
        self.nodes = list(self.table.values())
        self.edges = graph.labelled
        self.index = {node.id: i for i, node in enumerate(self.nodes)}
        self.found: list[tuple[int, Problem]] = []
        self.suggestions = _SUGGESTIONS
        self.actions: dict[_Body, ActionInfo | None] = {}
        self.params: dict[_Body, Mapping[str, ParamInfo]] = {}
        self.shapes: dict[_Body, dict[tuple[str, ...], _Shape]] = {}
        self.broken: dict[str, tuple[Problem, ...]] = {}  # workflows, by name
        self.kinds: dict[str | None, int] = {}
        self.kind_numbers: dict[tuple[Any, ...], int] = {}
        self.plain: dict[_Body, int] = {}
        self.wanted: dict[str, dict[tuple[_Body, str, int], tuple[int, Any]]] = {}
        self.missing_is_none = graph.config is not None and graph.config.on_missing == "null"
        self.labelled: dict[str, list[str]] = {}
        for edge in graph.labelled:
            self.labelled.setdefault(edge.target, []).append(edge.source)

    def problems(self) -> Iterator[Problem]:
        """Return everything that was found."""
        if self.graph.machine is not None:
            return self.of_machine()
        ordered = self.nodes_in_order()
        if not ordered:
            self.cycles()
        if self.streams and not self.grows:
            self.check_streams()
        self.labels()
        self.graph_inputs()
        self.found.sort(key=lambda each: each[0])
        return (problem for _, problem in self.found)

    def of_machine(self) -> Iterator[Problem]:
        """Return what is wrong with a state machine, and with the workflows that are states."""
        from dagger_dsl.model.machine_rules import machine_problems

        known = self.registry is not None
        yield from machine_problems(self.graph, self.lookup if known else None)
        for position, node in enumerate(self.nodes if known else ()):
            if node.subgraph is not None:
                self.workflow(position, node.subgraph)
        yield from (problem for _, problem in self.found)

    def report(self, position: int, message: str, code: str, severity: str = "error") -> None:
        place = Place(node=self.nodes[position].id) if position < len(self.nodes) else Place()
        self.found.append((position, Problem(message, place, code, severity)))

    def suggest(self, word: str, known: Iterable[str]) -> str:
        """Return a suggestion while there are few of them."""
        names = list(known)
        if self.suggestions == 0 or len(names) > _SUGGEST_FROM:
            return ""
        self.suggestions -= 1
        return did_you_mean(word, names)

    # Nodes.

    def nodes_in_order(self) -> bool:
        """Check every node; return whether each waits for earlier ones only."""
        index, lookup, ordered = self.index, self.lookup, True
        checked, plain = self.registry is not None, self.plain
        for position, node in enumerate(self.nodes):
            try:
                for name in node.dependencies:
                    if index[name] >= position:
                        ordered = False
            except KeyError:
                self.lost_dependencies(position, node)
                ordered = False
            action = None
            if checked:
                if node.failure is not None or node.fallback is not None:
                    self.check_handlers(position, node)
                if node.subgraph is None:
                    action = lookup(node.action)
                    if action is None:
                        self.unknown_action(position, f"action {node.action!r}", node.action)
                    elif node.action in plain and not node.outputs and node.map_over is None:
                        self.kinds[f"{node.id}.{RESULT}"] = plain[node.action]  # as `kind_of` would
                else:
                    action = self.workflow(position, node.subgraph)
                fallback = node.fallback
                if fallback is None and action is not None:
                    fallback = getattr(action, "fallback", None)
                if fallback is not None:
                    self.check_fallback(position, node, fallback)
            if node.map_over is not None:
                self.check_map(position, node)
            if node.inputs or action is not None:
                self.check_inputs(position, node, action)
            if node.trigger is not Trigger.SUCCESS:
                self.check_deliveries(position, node, action)
        return ordered and all(index[each.source] < index[each.target] for each in self.edges)

    def lost_dependencies(self, position: int, node: Node) -> None:
        for name in node.dependencies:
            if name not in self.index:
                small = len(self.nodes) + len(self.known) <= _SUGGEST_FROM and self.suggestions > 0
                self.suggestions = max(0, self.suggestions - 1)
                known = {*self.table, *self.known} - {node.id} if small else ()
                problem = missing_dependency(node.id, name, known)
                self.found.append((position, problem))

    def check_inputs(self, position: int, node: Node, action: ActionInfo | None) -> None:
        """Check a node's inputs. Most of what validation costs is here, so little is done.

        What an input refers to is worked out once per reference and shrunk to a number, its kind.
        Nodes whose action, input names and kinds are those of a node that was found in order are
        in order too.
        """
        inputs, kinds = node.inputs, self.kinds
        names = tuple([each.name for each in inputs])
        try:
            shape = self.shapes[_body(node)][names]
        except KeyError:
            faults = () if action is None else tuple(self.shape_faults(action, names))
            shape = (faults, set())
            self.shapes.setdefault(_body(node), {})[names] = shape
        faults, in_order = shape
        if not faults and node.map_over is None:
            try:
                pattern = tuple([kinds[each.reference] for each in inputs])
            except KeyError:  # something new, a literal, an input of the graph, or a fault
                pattern = ()
            if pattern in in_order:
                return
        for message, code in faults:
            self.report(position, message, code)
        fine = [self.check_input(position, node, each, action) for each in inputs]
        if all(fine) and not faults and node.map_over is None:
            in_order.add(tuple([kinds[each.reference] for each in inputs]))

    def check_input(
        self, position: int, node: Node, given: Input, action: ActionInfo | None
    ) -> bool:
        """Check one input; return whether others of its kind need no check."""
        kind = self.kinds.get(given.reference)
        if kind is None:
            kind = self.kind_of(position, node, given, action)
        return kind is not None and self.fits(position, node, given, action)

    def kind_of(
        self, position: int, node: Node, given: Input, action: ActionInfo | None
    ) -> int | None:
        """Return the kind of a reference to a node; None for what has been dealt with."""
        if given.reference is None:
            if action is not None and self.types:
                self.check_literal(position, node, given)
            return None
        source_id, _, output = given.reference.partition(".")
        source = self.table.get(source_id)
        if source is None:
            if source_id == "inputs":
                self.check_graph_input(position, node, given.name, output, action)
            return None  # a reference is a dependency too, so a lost one was reported
        if not self.check_output(position, source, output):
            return None
        # All that the verdict on its type depends on.
        said: tuple[Any, ...] = (_body(source), output, len(source.outputs))
        if source.map_over is not None:
            said += (source.map_depth, source.map_errors)
        kind = self.kind_numbers.setdefault(said, len(self.kind_numbers))
        self.kinds[given.reference] = kind
        return kind

    def fits(self, position: int, node: Node, given: Input, action: ActionInfo | None) -> bool:
        """Check the type of one reference; return whether others like it need no check."""
        assert given.reference is not None
        if action is None or not self.types:
            return True
        source_id, _, output = given.reference.partition(".")
        source = self.table[source_id]
        return self.check_types(position, source, output, node, given)

    def check_map(self, position: int, node: Node) -> None:
        names = [each.name for each in node.inputs]
        if node.map_over is not None and node.map_over not in names:
            hint = self.suggest(node.map_over, names)
            self.report(
                position, f"map_over names an input, not {node.map_over!r}{hint}", "unknown-input"
            )
        declared = self.declared(node)
        if len(declared) > 1:
            self.report(
                position,
                f"it is mapped, so its value is a list, which has no {' and '.join(declared)}; "
                f"say so with outputs: [{RESULT}]",
                "mapped-outputs",
            )

    def check_handlers(self, position: int, node: Node) -> None:
        for role, name in (("failure", node.failure), ("fallback", node.fallback)):
            if name is not None and self.lookup(name) is None:
                self.unknown_action(position, f"the {role} action {name!r}", name)

    def check_fallback(self, position: int, node: Node, named: str | ActionInfo) -> None:
        """Check that what stands in for a node can be called with the inputs of the node."""
        if not isinstance(named, str):
            action: ActionInfo | None = named
        else:
            action = self.lookup(named)
        if action is None:
            if node.fallback is None:  # else `check_handlers` has told it
                self.unknown_action(position, f"the fallback action {named!r}", str(named))
            return
        names = [each.name for each in node.inputs]
        whole = getattr(action, "whole_mapping", None)
        if whole is not None and whole(names) is not None:
            return
        for param in action.params:
            if param.required and param.name not in names:
                takes = ", ".join(map(repr, names)) or "none"
                self.report(
                    position,
                    f"the fallback action {action.name!r} needs a value for {param.name!r}, and "
                    f"it gets the inputs of the node ({takes}); give the parameter a default",
                    "missing-input",
                )

    def check_streams(self) -> None:
        """Check who takes the items of the nodes whose functions yield them."""
        takers: dict[str, list[Taker]] = {
            node.id: []
            for node in self.nodes
            if node.action in self.streams and node.subgraph is None
        }
        for node in self.nodes:
            for each in node.inputs:
                if each.source is not None and each.source[0] in takers:
                    takers[each.source[0]].append(Taker(node, each.name))
        chosen = {edge.source for edge in self.edges}
        for name, found in takers.items():
            source, action = self.table[name], self.lookup(self.table[name].action)
            assert action is not None
            faults = stream_faults(
                source,
                action,
                getattr(action, "yields"),  # noqa: B009 - it has it, or it would not be here
                found,
                self.lookup,
                labelled=name in chosen,
                types=self.types,
            )
            for where, text in faults:
                self.report(self.index[where], text, "stream")

    def lookup(self, name: _Body) -> ActionInfo | None:
        try:
            return self.actions[name]
        except KeyError:
            found = (
                action_in(self.registry, name) if isinstance(name, str) else self.nested(name[0])
            )
            self.actions[name] = found
            if found is not None:
                self.params[name] = {param.name: param for param in found.params}
                if getattr(found, "yields", None) is not None:
                    self.streams.add(name)
                if not found.outputs:
                    said = (name, RESULT, 0)
                    self.plain[name] = self.kind_numbers.setdefault(said, len(self.kind_numbers))
            return found

    def nested(self, name: str) -> ActionInfo | None:
        """Return a workflow; what is wrong inside of it is noted."""
        try:
            found = workflow_in(self.registry, name)
        except CycleError as error:
            self.broken[name] = tuple(_Cycle(error.path, each) for each in error.problems)
            return None
        except ValidationError as error:
            self.broken[name] = tuple(error.problems)
            return None
        problems = getattr(found, "problems", None)
        if callable(problems):
            self.broken[name] = problems()
        return found

    def workflow(self, position: int, name: str) -> ActionInfo | None:
        """Return the body of a node; report that it is not known, or what is wrong with it."""
        found = self.lookup((name,))
        for each in self.broken.get(name, ()):
            inner = "" if each.place.node is None else f"node {each.place.node!r}: "
            message = f"in workflow {name!r}: {inner}{each.message}"
            told = Problem(message, Place(node=self.nodes[position].id), each.code)
            told = _Cycle(each.path, told) if isinstance(each, _Cycle) else told
            self.found.append((position, told))
        listing = getattr(self.registry, "list_workflows", None)
        if found is None and not self.broken.get(name) and callable(listing):
            known = listing()
            self.report(
                position,
                f"workflow {name!r} is not loaded here{self.suggest(name, known)}"
                + ("" if known else "; load it first, or import it"),
                "unknown-workflow",
            )
        return found

    def unknown_action(self, position: int, what: str, name: str) -> None:
        listing = getattr(self.registry, "list_actions", None)
        known = listing() if callable(listing) else list(self.registry)
        self.report(
            position,
            f"{what} is not registered{self.suggest(name, known)}"
            + ("" if known else "; define it with @action, or register it first"),
            "unknown-action",
        )

    def shape_faults(self, action: ActionInfo, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with giving *action* inputs of these names."""
        params = {param.name: param for param in action.params}
        compile_schemas = getattr(action, "compile_schemas", None)
        if compile_schemas is not None:
            try:
                compile_schemas()
            except ConfigurationError as error:
                yield str(error), "bad-schema"
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            yield f"input {twice!r} is given twice", "duplicate-input"
        if not action.takes_any_input:
            for name in names:
                if name not in params:
                    hint = self.suggest(name, params)
                    yield f"action {action.name!r} takes no input {name!r}{hint}", "unknown-input"
        whole = getattr(action, "whole_mapping", None)
        if self.missing_is_none or (whole is not None and whole(names) is not None):
            return
        for name, param in params.items():
            if param.required and name not in names and not param.accepts_none:
                message = (
                    f"action {action.name!r} needs a value for {name!r}; bind it to an output or "
                    "to inputs.<name>, give a value, or give the parameter a default"
                )
                yield message, "missing-input"

    # Inputs.

    def declared(self, source: Node) -> tuple[str, ...]:
        if source.outputs:
            return tuple(each.name for each in source.outputs)
        action = self.lookup(_body(source)) if self.registry is not None else None
        return () if action is None else tuple(action.outputs)

    def check_output(self, position: int, source: Node, output: str) -> bool:
        if output == RESULT:  # the whole value, whatever is declared
            return True
        known = self.declared(source)
        if output in known:
            return True
        if not known and self.registry is None:
            return True  # the action may declare it
        if not known and self.lookup(_body(source)) is None:
            return True
        hint = (
            self.suggest(output, known)
            if known
            else "; it declares none, so its whole value is 'result': declare some with "
            "@action(outputs=[...])"
        )
        self.report(position, f"{source.id!r} has no output {output!r}{hint}", "unknown-output")
        return False

    def check_types(
        self, position: int, source: Node, output: str, node: Node, given: Input
    ) -> bool:
        giver, taker = self.lookup(_body(source)), self.lookup(_body(node))
        if giver is None or taker is None:
            return True
        wanted = taker.hints().get(given.name, Any)
        returns = giver.hints().get("return", Any)
        depth = _levels(node, given.name)
        if (wanted is Any or returns is Any) and not depth and source.map_over is None:
            return True
        offered = self.offered(source, output, returns)
        fault = mapped_fault(offered, wanted, depth)
        if fault is None:
            return True
        self.report(
            position,
            f"{given.name!r} cannot be mapped over {given.reference}: {fault}"
            if depth
            else f"{given.name!r} is {show_type(wanted)}, but {given.reference} is "
            f"{show_type(offered)}; no value is both",
            "type-mismatch",
        )
        return False

    def offered(self, source: Node, output: str, returns: Any) -> Any:
        """Return the annotation of one output of a node whose action returns *returns*."""
        if source.map_over is not None:
            return collected_type(returns, source.map_depth or 1, source.map_errors == "collect")
        declared = self.declared(source)
        if output == RESULT and RESULT not in declared:
            return returns
        return output_type(returns, declared, output)

    def check_literal(self, position: int, node: Node, given: Input) -> None:
        action = self.lookup(_body(node))
        assert action is not None
        assert given.literal is not None
        wanted, depth = action.hints().get(given.name, Any), _levels(node, given.name)
        if wanted is Any and not depth:
            return
        fault = mapped_misfit(given.literal.value, wanted, depth, repr(given.name))
        if fault is not None:
            self.report(position, fault, "type-mismatch")

    def check_deliveries(self, position: int, node: Node, action: ActionInfo | None) -> None:
        """Report parameters whose edges may stay unsatisfied although the node runs."""
        if action is None or self.missing_is_none:
            return
        edges = {*node.dependencies, *self.labelled.get(node.id, ())}
        if len(edges) < 2 and node.trigger in _NEED_ONE:
            return
        for each in node.inputs:
            if each.reference is None or each.reference.startswith("inputs."):
                continue
            param = self.params[_body(node)].get(each.name)
            if param is None or not param.required or param.accepts_none:
                continue
            self.report(
                position,
                f"{each.name!r} takes {each.reference}, which may have no value when the node runs "
                f"(trigger {node.trigger.value!r}); give the parameter a default, or annotate it "
                "as `... | None`",
                "may-be-missing",
            )

    def check_graph_input(
        self, position: int, node: Node, name: str, wanted: str, action: ActionInfo | None
    ) -> None:
        known = self.graph.inputs
        if known and wanted not in known:  # a file without declarations implies its inputs
            self.report(
                position,
                f"{name!r} refers to inputs.{wanted}, which the graph does not declare"
                f"{self.suggest(wanted, known)}",
                "unknown-graph-input",
            )
        users = self.wanted.setdefault(wanted, {})
        if self.types and action is not None:
            user = (_body(node), name, _levels(node, name))
            if user not in users:
                users[user] = (position, action.hints().get(name, Any))

    # The graph as a whole.

    def graph_inputs(self) -> None:
        """Compare what the users of each graph input want, with each other and its default."""
        for name, users in self.wanted.items():
            declared = self.graph.inputs.get(name)
            default = None if declared is None else declared.default
            first: tuple[int, Any, int] | None = None
            for (_, _, depth), (position, annotation) in users.items():
                if annotation is Any and not depth:
                    continue
                if default is not None:
                    what = f"the default of inputs.{name}"
                    fault = mapped_misfit(default.value, annotation, depth, what)
                    if fault is not None:
                        self.report(position, fault, "type-mismatch")
                if first is None:
                    first = (position, annotation, depth)
                elif not _agree(first[1:], (annotation, depth)):
                    self.report(
                        position,
                        f"inputs.{name} is {_shown(annotation, depth)} here and "
                        f"{_shown(*first[1:])} for {self.nodes[first[0]].id!r}; no value is both",
                        "type-mismatch",
                    )
        for name in self.graph.inputs:
            if name not in self.wanted:
                self.report(
                    len(self.nodes), f"no node uses inputs.{name}", "unused-input", "warning"
                )

    def labels(self) -> None:
        """Check labels against what their source is annotated to return."""
        if not self.types:
            return
        for edge in self.graph.labelled:
            source = self.graph.nodes[edge.source]
            action = self.lookup(_body(source))
            if action is None or edge.when is None:
                continue
            known = _labels_of(action.hints().get("return", Any))
            if known is not None and edge.when not in known:
                self.report(
                    self.index[edge.target],
                    f"{edge.source!r} never answers {edge.when!r}{self.suggest(edge.when, known)}",
                    "unknown-label",
                )

    def cycles(self) -> None:
        """Report cycles that share no node; what Kahn's algorithm leaves over leads into one."""
        before: list[list[int]] = []
        after: list[list[int]] = [[] for _ in self.nodes]
        for position, node in enumerate(self.nodes):
            sources = {*node.dependencies, *self.labelled.get(node.id, ())}
            known = sorted(self.index[each] for each in sources if each in self.index)
            before.append(known)
            for each in known:
                after[each].append(position)
        unmet = [len(each) for each in before]
        work = [position for position, count in enumerate(unmet) if not count]
        for _ in range(_CYCLES):
            for position in work:  # grows while it is walked
                for target in after[position]:
                    unmet[target] -= 1
                    if unmet[target] == 0:
                        work.append(target)
            start = next((position for position, count in enumerate(unmet) if count > 0), None)
            if start is None:
                return
            path = self.cycle_behind(start, before, unmet)
            self.found.append((path[0], _Cycle([self.nodes[each].id for each in path])))
            work = path[1:]  # as if these had run, what is left has the other cycles
            for position in work:
                unmet[position] = 0

    def cycle_behind(
        self, start: int, before: Sequence[Sequence[int]], unmet: Sequence[int]
    ) -> list[int]:
        """Walk backwards among what is left over until a node comes again; return the cycle."""
        walked: dict[int, None] = {}
        here = start
        while here not in walked:
            walked[here] = None
            here = next(each for each in before[here] if unmet[each] > 0)
        path = list(walked)
        path = path[path.index(here) :][::-1]
        first = path.index(min(path))
        return [*path[first:], *path[:first], path[first]]


def _levels(node: Node, name: str) -> int:
    """Return how many levels of lists a node maps over in one of its inputs."""
    return (node.map_depth or 1) if node.map_over == name else 0


def _agree(one: tuple[Any, int], other: tuple[Any, int]) -> bool:
    """Return whether some value suits two users, each with the levels of lists it maps over."""
    (annotation, depth), (item, levels) = sorted((one, other), key=lambda user: user[1])
    if depth and levels:
        return True
    return mapped_fault(annotation, item, levels) is None


def _shown(annotation: Any, depth: int) -> str:
    return show_type(collected_type(annotation, depth, False))


def _labels_of(returns: Any) -> set[str] | None:
    """Return the labels that a return annotation allows, None where it allows any."""
    if returns is bool:
        return {"true", "false"}
    import typing

    if typing.get_origin(returns) is typing.Literal:
        args = typing.get_args(returns)
        if all(isinstance(each, str) for each in args):
            return set(args)
    return None
