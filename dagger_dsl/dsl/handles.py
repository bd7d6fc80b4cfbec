"""Handles: what stands for a node or an input of a DAG while it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from dagger_dsl.dsl.operators import (
    Ends,
    Operand,
    Port,
    Source,
    refuse_loop,
    refuse_truth,
    what_to_write,
)
from dagger_dsl.errors import (
    ConfigurationError,
    NodeNotFound,
    OperandError,
    shown,
)

if TYPE_CHECKING:
    from typing import Unpack

    from dagger_dsl.dsl.builder import DAG
    from dagger_dsl.dsl.decorators import ActionOptions
    from dagger_dsl.dsl.recipes import Recipe
    from dagger_dsl.model.graph import GraphInput

__all__ = ["InputHandle", "NodeBuilder", "NodeDecorator", "NodeFunction", "NodeTable"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
E = TypeVar("E", bound=Callable[[Any, Any, Any], Any])


class NodeBuilder(Ends):
    """A node of a DAG that is being built: its handle.

    Attributes:
        dag: The DAG it belongs to.
        id: Unique in the DAG.
        inputs: What its parameters are given: handles, references and literals by name.
    """

    __slots__ = ("_after", "_labels", "_recipe", "dag", "id", "inputs", "reference")

    def __init__(self, dag: DAG, node_id: str, recipe: Recipe, inputs: dict[str, Any]) -> None:
        self.dag = dag
        self.id = node_id
        self.inputs = inputs
        self.reference = node_id + recipe.suffix
        self._recipe = recipe
        self._after: list[NodeBuilder] | None = None
        self._labels: list[tuple[NodeBuilder, str]] | None = None

    @property
    def name(self) -> str:
        """The node's id."""
        return self.id

    @property
    def action(self) -> str:
        """The name of its action."""
        return self._recipe.definition.name

    @property
    def result(self) -> Any:
        """The node's value in the last run of its DAG.

        Raises:
            NotExecuted: There is none.
        """
        return self.dag.get_result(self.id)

    def on_error(self, handler: E) -> E:
        """Have *handler* called when the node has failed: ``@dag.nodes["load"].on_error``.

        See `DAG.set_node_error_handler`.
        """
        self.dag.set_node_error_handler(self.id, handler)
        return handler

    def after(self, *others: Operand) -> NodeBuilder:
        """Wait for *others* and take no value from them; return this handle."""
        for each in others:
            if not isinstance(each, Operand):
                raise OperandError(
                    f"{self.id!r} waits for handles and actions, not for {shown(each)}"
                    + what_to_write(each)
                )
            for source in each._sources(self.dag):
                if not isinstance(source, NodeBuilder):
                    raise ConfigurationError(f"{self.id!r} can wait for nodes only, not {source!r}")
                self._wait_for(source)
        return self

    def _wait_for(self, source: NodeBuilder) -> None:
        if self._after is None:
            self._after = []
        self._after.append(source)
        self.dag._changed()

    def _choose(self, source: NodeBuilder, label: str) -> None:
        if self._labels is None:
            self._labels = []
        if (source, label) not in self._labels:
            self._labels.append((source, label))
        self.dag._changed()

    def __getitem__(self, name: str) -> Port:
        """Return one output: ``split["left"]``, the same as ``split.out.left``."""
        return self.out[name]

    def _home(self) -> DAG:
        return self.dag

    def _sources(self, dag: DAG) -> Sequence[Source]:
        return (self,)

    def _targets(self, dag: DAG) -> Sequence[NodeBuilder]:
        return (self,)

    def _node(self, dag: DAG) -> NodeBuilder:
        return self

    def _check_output(self, name: str) -> None:
        self._recipe.check_output(name, self.id)

    def __bool__(self) -> bool:
        return refuse_truth(repr(self))

    def __iter__(self) -> Iterator[Any]:
        return refuse_loop(repr(self))

    def __repr__(self) -> str:
        return f"<node {self.id!r} of DAG {self.dag.name!r}>"


class InputHandle(Operand):
    """A value that a run is given, as an argument or as the start of an arrow.

    Attributes:
        dag: The DAG it belongs to.
        name: What ``run(inputs={name: ...})`` calls it.
        annotation: Its type, `Any` where none was given.
        declared: What the graph will say about it.
    """

    __slots__ = ("annotation", "dag", "declared", "name")

    def __init__(self, dag: DAG, declared: GraphInput, annotation: Any) -> None:
        self.dag = dag
        self.declared = declared
        self.name = declared.name
        self.annotation = annotation

    @property
    def reference(self) -> str:
        """How a node's input refers to the value."""
        return f"inputs.{self.name}"

    def _home(self) -> DAG:
        return self.dag

    def _sources(self, dag: DAG) -> Sequence[Source]:
        return (self,)

    def _targets(self, dag: DAG) -> Sequence[NodeBuilder]:
        raise ConfigurationError(f"{self!r} is where an arrow starts; an arrow ends at a node")

    def __bool__(self) -> bool:
        return refuse_truth(repr(self))

    def __iter__(self) -> Iterator[Any]:
        return refuse_loop(repr(self))

    def __repr__(self) -> str:
        return f"<input {self.name!r} of DAG {self.dag.name!r}>"


class NodeFunction(Ends, Generic[P, R]):
    """A function that ``@dag.node`` made a node: calling it calls the function, anywhere.

    Attributes:
        node: Its handle; arrows on the function are arrows on it.
    """

    def __init__(self, function: Callable[P, R], node: NodeBuilder) -> None:
        from functools import update_wrapper

        self.node = node
        self._function = function
        update_wrapper(self, node._recipe.definition.face)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function."""
        return self._function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The node's id."""
        return self.node.id

    def on_error(self, handler: E) -> E:
        """Have *handler* called when the node has failed: ``@load.on_error``.

        See `DAG.set_node_error_handler`.
        """
        return self.node.on_error(handler)

    def _home(self) -> DAG:
        return self.node.dag

    def _sources(self, dag: DAG) -> Sequence[Source]:
        return (self.node,)

    def _targets(self, dag: DAG) -> Sequence[NodeBuilder]:
        return (self.node,)

    def _node(self, dag: DAG) -> NodeBuilder:
        return self.node

    def _check_output(self, name: str) -> None:
        self.node._check_output(name)

    if not TYPE_CHECKING:  # type checkers would take any misspelt name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Return what the function itself has, such as ``cache_clear`` of an `lru_cache`."""
            if name == "_function" or (name.startswith("__") and name.endswith("__")):
                raise AttributeError(name)
            return getattr(self._function, name)

    def __repr__(self) -> str:
        return f"<node function {self.node.id!r} of DAG {self.node.dag.name!r}>"


class NodeDecorator:
    """What ``dag.node`` and its kin are: decorators that make a function a node of their DAG.

    The action is registered as ``<dag>.<function>``, the node's id is the function's name. The
    function stays callable as itself; arrows on it are arrows on the node. Running the definition
    again, as in a notebook, replaces the function and keeps the arrows.
    """

    __slots__ = ("_dag", "_defaults")

    def __init__(self, dag: DAG, **defaults: Any) -> None:
        self._dag = dag
        self._defaults = defaults

    @overload
    def __call__(self, fn: Callable[P, R], /) -> NodeFunction[P, R]: ...
    @overload
    def __call__(
        self, fn: None = None, /, *, id: str | None = None, **options: Unpack[ActionOptions]
    ) -> Callable[[Callable[P, R]], NodeFunction[P, R]]: ...
    def __call__(self, fn: Any = None, /, *, id: str | None = None, **options: Any) -> Any:
        """Make *fn* a node, or return the decorator that will.

        Args:
            fn: The function.
            id: The node's id.
            **options: Those of ``@action``.

        Raises:
            ConfigurationError: An option is unknown or has an impossible value.
            NodeAlreadyExists: Another function has this id.
        """
        from dagger_dsl.registry import check_options

        fields = {**self._defaults, **options}
        check_options(fields)
        if fn is None:
            return lambda fn: self._dag._node_function(fn, id, fields)
        return self._dag._node_function(fn, id, fields)


class NodeTable(Mapping[str, NodeBuilder]):
    """The handles of a DAG by id; an unknown id gives `NodeNotFound`, which lists the known."""

    __slots__ = ("_nodes",)

    def __init__(self, nodes: dict[str, NodeBuilder]) -> None:
        self._nodes = nodes

    def __getitem__(self, node_id: str) -> NodeBuilder:
        found = self._nodes.get(node_id) if isinstance(node_id, str) else None
        if found is None:
            raise NodeNotFound(node_id, tuple(self._nodes))
        return found

    def get(self, node_id: str, default: Any = None) -> Any:
        """Return one handle, or *default*."""
        return self._nodes.get(node_id, default)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __repr__(self) -> str:
        return f"<nodes {', '.join(self._nodes)}>"
