"""`DAG`: graphs built by calling actions, by arrows, or node by node.

A DAG is a draft; `DAG.compile` turns it into the `Graph` that everything else works on. It is
built from one thread at a time.

The neighbours that know the model (`recipes`, `binding`, `compiling`, `settings`) are imported
where they are first needed: importing them takes longer than a program that only defines actions,
or a command that only prints its help, should wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from dagger_dsl.dsl.handles import InputHandle, NodeBuilder, NodeDecorator, NodeFunction, NodeTable
from dagger_dsl.dsl.operators import (
    Arrow,
    Expression,
    Nodes,
    Operand,
    Source,
    active,
    what_to_write,
)
from dagger_dsl.engine.portions import PartialRuns
from dagger_dsl.engine.words import count
from dagger_dsl.errors import (
    AmbiguousConnection,
    ConfigurationError,
    NodeAlreadyExists,
    OperandError,
    Place,
    Problem,
    RegistryError,
    shown,
)

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Unpack

    from dagger_dsl.dsl.decorators import ActionOptions
    from dagger_dsl.dsl.recipes import Recipe
    from dagger_dsl.model.backends import CacheBackend
    from dagger_dsl.model.config import DagConfig
    from dagger_dsl.model.graph import Graph, GraphInput
    from dagger_dsl.model.validate import ValidationReport

__all__ = ["DAG"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Placed:
    """The nodes that one recipe has placed in a DAG."""

    __slots__ = ("count", "first")

    def __init__(self) -> None:
        self.first: NodeBuilder | None = None
        self.count = 0


class DAG(PartialRuns):
    """A graph that is being built, and the way to run it.

    ``run``, ``run_async``, ``start`` and the pictures are the same for all workflows: see
    `dagger_dsl.engine.workflow.Workflow`.

    Args:
        source: Its name, or an expression such as ``extract >> transform >> load``.
        name: Its name where *source* is an expression; ``dag`` by default.
        description, author, version, signature, instructions: For people; the version is a hash of
            the content by default.
        tags: Words to find it by.
        config: How it wants to be run: a `DagConfig` or a mapping of its fields.
        registry: Where names of actions are looked up (a registry, a mapping, a module); the one in
            force by default. What the DAG itself places is known to it anyway.
        inputs: What a run is given: names, or names with types or `GraphInput`s.

    Raises:
        ConfigurationError: One of these cannot work.
    """

    def __init__(
        self,
        source: str | Operand = "dag",
        *,
        name: str | None = None,
        description: str = "",
        tags: Iterable[str] = (),
        author: str = "",
        version: str = "",
        signature: str = "",
        instructions: str = "",
        config: DagConfig | Mapping[str, Any] | None = None,
        registry: Any = None,
        inputs: Iterable[str | GraphInput] | Mapping[str, Any] = (),
    ) -> None:
        from dagger_dsl.dsl.settings import graph_name
        from dagger_dsl.model.config import as_config
        from dagger_dsl.model.graph import check_texts, words
        from dagger_dsl.registry import Registry, as_registry

        expression = source if isinstance(source, Operand) else None
        if expression is None and name is not None:
            raise ConfigurationError("a DAG has one name: write DAG('name') or DAG(a >> b, name=)")
        self.name = graph_name(source if expression is None else name or "dag")
        texts = {
            "description": description,
            "author": author,
            "version": version,
            "signature": signature,
            "instructions": instructions,
        }
        check_texts(f"DAG {self.name!r}", texts)
        self.description = description
        self.author = author
        self.version = version
        self.signature = signature
        self.instructions = instructions
        self.tags = words(tags)
        self.config = as_config(config)
        #: Where the actions of this DAG are looked up: its own first, then the registry it was
        #: given.
        self.registry = Registry(parent=as_registry(registry))
        self._nodes: dict[str, NodeBuilder] = {}
        self._inputs: dict[str, InputHandle] = {}
        self._placed: dict[Recipe, _Placed] = {}
        self._by_action: dict[str, list[Recipe]] = {}
        self._serials: dict[str, int] = {}
        self._drawn: dict[int, Arrow] = {}
        self._error_handlers: dict[str, str] = {}  # names of actions, by node
        self._graph: Graph | None = None
        self._validated: ValidationReport | None = None
        if isinstance(inputs, Mapping):
            for each, kind in inputs.items():
                self._declare(each, kind)
        elif isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
            raise ConfigurationError(
                f"DAG {self.name!r}: inputs are a list of names, or a mapping of names to types, "
                f"not {shown(inputs)}"
            )
        else:
            for each in inputs:
                self._declare(each, None)
        if expression is not None:
            expression._sources(self)

    # --- building --------------------------------------------------------------------------------

    def __enter__(self) -> DAG:
        """Make calls of actions place nodes here until the block ends."""
        active.set((self, active.get()))
        return self

    def __exit__(self, *_: object) -> None:
        top = active.get()
        assert top is not None
        active.set(top[1])

    @property
    def nodes(self) -> Mapping[str, NodeBuilder]:
        """The handles by id, in declaration order; an unknown id lists the known ones."""
        return NodeTable(self._nodes)

    @property
    def inputs(self) -> Mapping[str, InputHandle]:
        """The declared inputs by name."""
        return dict(self._inputs)

    @overload
    def input(self, name: str, type: type[T], *, default: T = ..., description: str = ...) -> T: ...
    @overload
    def input(
        self, name: str, type: Any = ..., *, default: Any = ..., description: str = ...
    ) -> Any: ...
    def input(
        self,
        name: str,
        type: Any = None,
        *,
        default: Any = ...,
        description: str = "",
    ) -> Any:
        """Declare a value that a run is given, and return its handle.

        Args:
            name: What ``run(inputs={name: ...})`` calls it.
            type: Its type; type checkers take the handle for such a value. What is given for a
                `Secret` is neither shown nor stored, plain text included.
            default: Used when a run is not given one.
            description: For people.

        Raises:
            ConfigurationError: The name cannot be one or is declared already with other details,
                the type is none, or the default is not of it.
        """
        from dagger_dsl.dsl.settings import declared_input

        declared, annotation = declared_input(name, type, default, description)
        known = self._inputs.get(name)
        if known is not None:
            if known.declared != declared:
                raise ConfigurationError(f"input {name!r} is declared already with other details")
            return known
        handle = self._inputs[name] = InputHandle(self, declared, annotation)
        self._changed()
        return handle

    def _declare(self, name: Any, kind: Any) -> None:
        from dagger_dsl.model.graph import GraphInput, name_problem

        given = name if isinstance(name, GraphInput) else kind
        if isinstance(given, GraphInput):
            fault = name_problem(given.name, "an input's name")
            if fault is not None:
                raise ConfigurationError(fault)
            self._inputs[given.name] = InputHandle(self, given, Any)
        else:
            self.input(name, kind)

    def add(self, action: Any, /, *args: Any, id: str | None = None, **inputs: Any) -> Any:
        """Place a node, or all of an expression, and return the handle.

        Args:
            action: An action, an expression, another DAG, or a function (registered as
                ``<dag>.<function>``).
            args, inputs: What its parameters are given.
            id: The node's id; the action's name by default.

        Raises:
            ValidationError: The id is taken or impossible, or an input has no parameter.
        """
        from dagger_dsl.dsl.recipes import recipe_of

        if isinstance(action, (Expression, Nodes)):
            if args or inputs or id is not None:
                raise ConfigurationError("an expression is added as it is, without inputs or id")
            leaving = action._sources(self)
            return leaving[0] if len(leaving) == 1 else Nodes(leaving)
        return self._place(recipe_of(action, self), args, inputs, id)

    def connect(
        self,
        source: str | Operand,
        target: str | Operand,
        *,
        output: str | None = None,
        input: str | None = None,
    ) -> NodeBuilder:
        """Draw one arrow and return its target.

        Args:
            source: An id, a handle, an action or an input of the DAG.
            target: An id, a handle or an action.
            output: Which output flows; its only one by default.
            input: Which parameter takes it; found as for ``>>`` by default.

        Raises:
            NodeNotFound: An id is unknown.
            ValidationError: The target has no such parameter, or the source no such output.
            AmbiguousConnection: The value could go to several parameters.
            ConfigurationError: One end is no node, or several.
        """
        from dagger_dsl.dsl.binding import bind, flow

        (leaving,) = _alone(self._end(source)._sources(self), source)
        node: NodeBuilder
        (node,) = _alone(self._end(target)._targets(self), target)
        if output is not None:
            if not isinstance(leaving, NodeBuilder):
                raise ConfigurationError(f"{leaving!r} has no outputs to choose from")
            leaving = leaving.out[output]
        if input is None:
            flow([leaving], node)
        else:
            bind(leaving, node, input)
        return node

    def _end(self, given: Any) -> Operand:
        """Return what one end of a connection means."""
        if isinstance(given, str):
            return self.nodes[given]
        if isinstance(given, Operand):
            return given
        raise OperandError(
            f"dag.connect takes ids, handles and actions, not {shown(given)}" + what_to_write(given)
        )

    @property
    def node(self) -> NodeDecorator:
        """Make a function a node: ``@dag.node``, ``@dag.node(timeout=3)``; see `NodeDecorator`."""
        return NodeDecorator(self)

    @property
    def condition(self) -> NodeDecorator:
        """Make a function that answers True or False a node.

        Go on with ``.on_true`` and ``.on_false``.
        """
        return NodeDecorator(self)

    @property
    def select(self) -> NodeDecorator:
        """Make a function that answers a label a node; go on with ``.branches["label"]``."""
        return NodeDecorator(self)

    @property
    def any(self) -> NodeDecorator:
        """Make a function a node that starts with the first of its sources: ``@dag.any()``."""
        return NodeDecorator(self, trigger="any")

    @property
    def all(self) -> NodeDecorator:
        """Make a function a node that waits for all of its sources: ``@dag.all()``."""
        return NodeDecorator(self, trigger="success")

    def cached_node(
        self,
        *,
        ttl: float | timedelta | None = None,
        cache_key: Iterable[str] | Callable[[Mapping[str, Any]], str] | None = None,
        backend: str | CacheBackend | None = None,
        id: str | None = None,
        **options: Unpack[ActionOptions],
    ) -> Callable[[Callable[P, R]], NodeFunction[P, R]]:
        """Make a function a node whose results later runs may take: ``@dag.cached_node(ttl=60)``.

        A result is taken instead of a call when the action, its code and the inputs are the same.
        Runs share results through their database, and runs without one within the process. What
        has no stored form is not shared, and the node is called; `RunReport.explain_cache` tells.

        Args:
            ttl: Seconds (or timedelta) that a result stays fresh; for ever by default.
            cache_key: What counts of the inputs: their names, or a function that is given all of
                them as a mapping and returns a text.
            backend: Where results are shared instead: ``"memory"`` of this process, the
                ``"database"`` of the run (without one nothing is shared), or a `CacheBackend`, an
                object with ``get(key)`` and ``set(key, text, ttl)``.
            id, options: As for `node`; ``cache`` takes any `CacheStrategy` in the place of *ttl*,
                *cache_key* and *backend*.

        Raises:
            ConfigurationError: As `node`; an input that counts is none of the function's; one of
                these has an impossible value, or is given together with ``cache``.
        """
        from dagger_dsl.dsl.settings import cache_strategy

        options["cache"] = cache_strategy(options.get("cache"), ttl, cache_key, backend)
        return NodeDecorator(self)(id=id, **options)

    def _node_function(
        self, fn: Any, node_id: str | None, options: Mapping[str, Any]
    ) -> NodeFunction[Any, Any]:
        from dagger_dsl.dsl.recipes import local_recipe

        recipe = local_recipe(fn, self, options, node_id)
        self.registry.register(recipe.definition)
        if recipe.definition.uses:
            fn = recipe.definition.fn
        known = self._nodes.get(recipe.base)
        if known is None:
            return NodeFunction(fn, self._place(recipe, (), {}, recipe.base))
        if known.action != recipe.definition.name:
            raise NodeAlreadyExists(recipe.base)
        self._replace(known, recipe)
        return NodeFunction(fn, known)

    def _replace(self, node: NodeBuilder, recipe: Recipe) -> None:
        """Give a node a new version of its function; inputs it no longer takes are dropped."""
        before = node._recipe
        self._by_action[recipe.definition.name] = [recipe]
        self._placed[recipe] = self._placed.pop(before)
        node._recipe = recipe
        node.reference = node.id + recipe.suffix
        if not recipe.open:
            node.inputs = {
                name: value for name, value in node.inputs.items() if name in recipe.names
            }
        self._changed()

    # --- the lives of nodes -----------------------------------------------------------------------

    def set_node_error_handler(
        self, name: str | Operand, handler: Callable[[Any, Any, Any], Any] | None
    ) -> None:
        """Have a function called when a node has failed for good, after retries and fallback.

        It takes the place of the node's ``failure=``; there is one per node.

        Args:
            name: The node's id, or what stands for the node.
            handler: ``fn(node, inputs, error)``, sync or async: the `Node` (with ``id`` and
                ``name``), its inputs by name, and what it raised. What it returns becomes the
                node's result, which then counts as recovered; None leaves the failure as it is.
                None instead of a function takes the handler away.

        Raises:
            NodeNotFound: There is no such node.
            ConfigurationError: *handler* is no function of so many arguments.
        """
        from dagger_dsl.dsl.lifecycle import set_error_handler

        set_error_handler(self, name, handler)

    def set_node_hooks(
        self,
        name: str | Operand,
        *,
        pre_execute: Callable[..., Any] | None = None,
        post_execute: Callable[..., Any] | None = None,
        cleanup: Callable[..., Any] | None = None,
    ) -> None:
        """Have functions called around the calls of a node, in the place of those set before.

        Each may be async, and is called with the `Node` first and the run's `Context` last. What
        one raises fails the attempt like an error of the body, and is retried like one, but for
        *cleanup*. Of a mapped node they surround each invocation; of a batch *pre_execute* and
        *post_execute* surround each item, and *cleanup* follows the batch. A node whose items go to
        another one has its iterator for a result. A node that takes a result of
        another run is not called, and neither are they; results that they have changed are not
        shared. Fallbacks and failure handlers are called without them.

        Args:
            name: The node's id, or what stands for the node.
            pre_execute: ``fn(node, inputs, context)``, once before each attempt. A mapping that it
                returns takes the place of the inputs, None or `KEEP` leaves them.
            post_execute: ``fn(node, inputs, result, context)``, once after each attempt that gave a
                result, before this is checked, recorded or passed on. What it returns takes the
                place of the result (and of nothing else that the body answered: labels, commands
                and metadata stay), None or `KEEP` leaves it, ``NodeOutput(None)`` makes it None.
            cleanup: ``fn(node, context)``, once after the node has ended for good: completed,
                failed, timed out or cancelled. It comes before what depends on the node starts.
                What it raises is logged and kept in ``report.hook_errors``. A node that was never
                called has nothing to clean up. Of a node that was left behind in its thread, that
                thread may still run. After a crash it may be called once more.

        Raises:
            NodeNotFound: There is no such node.
            ConfigurationError: One is no function of so many arguments.
        """
        from dagger_dsl.dsl.lifecycle import set_hooks

        set_hooks(self, name, pre_execute, post_execute, cleanup)

    def set_default_hooks(
        self,
        *,
        pre_execute: Callable[..., Any] | None = None,
        post_execute: Callable[..., Any] | None = None,
        cleanup: Callable[..., Any] | None = None,
    ) -> None:
        """Have functions called around the calls of every node; see `set_node_hooks`.

        They surround those of the node itself: *pre_execute* comes before, the others after these.
        """
        from dagger_dsl.dsl.lifecycle import set_hooks

        set_hooks(self, None, pre_execute, post_execute, cleanup)

    # --- what actions and arrows call ------------------------------------------------------------

    def _changed(self) -> None:
        self._graph = self._validated = None

    def _place(
        self,
        recipe: Recipe,
        args: tuple[Any, ...],
        inputs: dict[str, Any],
        node_id: str | None = None,
    ) -> NodeBuilder:
        """Place a node; *inputs* is taken over. This is the path that 100,000 nodes take."""
        if args:
            inputs = recipe.by_name(args, inputs)
        if inputs:
            if not recipe.open and not inputs.keys() <= recipe.names:
                recipe.refuse_inputs(inputs)
            for name, value in inputs.items():
                if type(value) is not NodeBuilder or value.dag is not self:
                    inputs[name] = recipe.argument(self, name, value)
        placed = self._placed.get(recipe)
        if placed is None:
            placed = self._adopt(recipe)
        if node_id is None:
            node_id = recipe.node_id
        if node_id is None:
            base = recipe.base
            serial = self._serials.get(base, 0) + 1
            node_id = base if serial == 1 else f"{base}_{serial}"
            while node_id in self._nodes:
                serial += 1
                node_id = f"{base}_{serial}"
            self._serials[base] = serial
        else:
            recipe.check_id(node_id)
            if node_id in self._nodes:
                raise NodeAlreadyExists(node_id)
        node = self._nodes[node_id] = NodeBuilder(self, node_id, recipe, inputs)
        if not placed.count:
            placed.first = node
        placed.count += 1
        self._graph = self._validated = None
        return node

    def _adopt(self, recipe: Recipe) -> _Placed:
        """Learn an action on its first use here."""
        definition = recipe.definition
        siblings = self._by_action.setdefault(definition.name, [])
        if siblings and not siblings[0].same_function(recipe):
            other = siblings[0].definition
            if siblings[0].is_workflow:
                raise RegistryError(
                    f"DAG {self.name!r} has a workflow {definition.name!r} for a node already; "
                    "give one of them another name"
                )
            raise RegistryError(
                f"DAG {self.name!r} has another action {definition.name!r} already "
                f"({other.qualname} of {other.module}); give one of them a name of its own: "
                "@action(name=...)"
            )
        if recipe.is_workflow:
            from dagger_dsl.dsl.nesting import take_in  # most DAGs nest nothing

            take_in(recipe, self)
        elif self.registry.own(definition.name) is not definition:
            self.registry.register(definition, replace=True)
        for handler in recipe.handlers:
            self.registry.register(handler)
        siblings.append(recipe)
        placed = self._placed[recipe] = _Placed()
        return placed

    def _node_of(self, recipe: Recipe) -> NodeBuilder:
        """Return the one node that an action means here; it is placed when there is none."""
        if recipe.node_id is not None:
            known = self._nodes.get(recipe.node_id)
            if known is None:
                return self._place(recipe, (), {})
            if known.action != recipe.definition.name:
                raise NodeAlreadyExists(recipe.node_id)
            return known
        placed = self._placed.get(recipe)
        if placed is None and not recipe.options:
            siblings = self._by_action.get(recipe.definition.name, ())
            if siblings and siblings[0].is_workflow != recipe.is_workflow:
                return self._place(recipe, (), {})  # which tells that there is another one
            if len(siblings) > 1:
                self._refuse_several(recipe)
            placed = self._placed[siblings[0]] if siblings else None
        if placed is None or placed.first is None:
            return self._place(recipe, (), {})
        if placed.count > 1:
            self._refuse_several(recipe)
        return placed.first

    def _refuse_several(self, recipe: Recipe) -> None:
        name = recipe.definition.name
        ids = [each.id for each in self._nodes.values() if each.action == name][:10]
        raise AmbiguousConnection(
            (
                Problem(
                    f"action {name!r} has several nodes in this DAG: {', '.join(map(repr, ids))}; "
                    f"write the one you mean: dag.nodes[{ids[-1]!r}], or the handle that the call "
                    "returned",
                    Place(node=ids[0]),
                    "ambiguous-action",
                ),
            )
        )

    def _connect(self, sources: Sequence[Source], targets: Sequence[NodeBuilder]) -> None:
        from dagger_dsl.dsl.binding import flow

        for target in targets:
            flow(sources, target)

    def _has_drawn(self, arrow: Arrow) -> bool:
        """Return whether an arrow of an expression was drawn here; it counts as drawn from now."""
        if id(arrow) in self._drawn:
            return True
        self._drawn[id(arrow)] = arrow  # kept, so that no other arrow gets its identity
        return False

    # --- compiling -------------------------------------------------------------------------------

    def compile(self) -> Graph:
        """Return the graph as it is built so far.

        A parameter that has neither a value nor a default becomes the graph's input
        ``inputs.<parameter>``. The result is kept until something changes.

        Raises:
            ValidationError: Something that no graph can hold was built.
        """
        if self._graph is None:
            from dagger_dsl.dsl.compiling import to_graph

            self._graph = to_graph(self)
        return self._graph

    @property
    def graph(self) -> Graph:
        """The compiled graph."""
        return self.compile()

    def validate(self, *, types: bool = True) -> ValidationReport:
        """Look for everything that is wrong before anything runs.

        Args:
            types: Whether annotations on both ends of an edge are compared.

        Raises:
            ValidationError: There are problems; all are listed.
        """
        if not types:
            return self.compile().validate(self.registry, types=False)
        if self._validated is None:
            self._validated = self.compile().validate(self.registry)
        return self._validated

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """Leave all ``with DAG`` blocks for a while: bodies call actions as functions."""
        before = active.get()
        active.set(None)
        try:
            yield
        finally:
            active.set(before)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __bool__(self) -> bool:
        return True  # an empty DAG is a DAG

    def __repr__(self) -> str:
        return f"<DAG {self.name!r}: {count(len(self._nodes), 'node')}>"


def _alone(ends: Sequence[Any], given: Any) -> Sequence[Any]:
    if len(ends) != 1:
        raise ConfigurationError(
            f"dag.connect draws one arrow, and {shown(given)} is {len(ends)} nodes; call it for "
            "each, or write nodes(...) >> target"
        )
    return ends
