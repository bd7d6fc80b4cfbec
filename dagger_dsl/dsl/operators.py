"""Arrows: what ``a >> b`` means on actions, handles, lists of them, and what is built from them.

This module knows which ends an arrow has and in which DAG it is drawn; `dagger_dsl.dsl.binding`
knows what flows along it. Where no DAG is at hand the arrow builds an `Expression`, an immutable
value that ``DAG(expression)`` or a ``with DAG`` block places.

``[a, b] >> [c, d]`` cannot work: Python asks neither side of two lists. Write
``nodes(a, b) >> [c, d]`` or two lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from dagger_dsl.engine.workflow import Workflow
from dagger_dsl.errors import ConfigurationError, InvalidState, OperandError, cut, shown

if TYPE_CHECKING:
    from dagger_dsl.dsl.builder import DAG
    from dagger_dsl.dsl.handles import NodeBuilder

__all__ = [
    "Branches",
    "Ends",
    "Expression",
    "Nodes",
    "Operand",
    "Outputs",
    "Port",
    "Side",
    "Source",
    "active_dag",
    "nodes",
    "what_to_write",
]

#: The DAGs of the ``with`` blocks around the running code, innermost first. A linked stack is an
#: immutable value: it needs no token, so blocks may nest in any task or thread.
Stack: TypeAlias = "tuple[DAG, Stack] | None"
active: ContextVar[Stack] = ContextVar("dagger_dsl_dag", default=None)


def active_dag() -> DAG | None:
    """Return the DAG of the innermost ``with`` block, or None."""
    top = active.get()
    return None if top is None else top[0]


class Operand:
    """Whatever may stand on one side of an arrow."""

    __slots__ = ()

    def _home(self) -> DAG | None:
        """Return the DAG this belongs to, None for what belongs to none yet."""
        return None

    def _sources(self, dag: DAG) -> Sequence[Source]:
        """Return where arrows leave from, placed in *dag* if need be."""
        raise NotImplementedError

    def _targets(self, dag: DAG) -> Sequence[NodeBuilder]:
        """Return where arrows end, placed in *dag* if need be."""
        raise NotImplementedError

    def __rshift__(self, other: Side) -> Any:
        """Return the right side, after connecting both: ``a >> b``, ``a >> [b, c]``."""
        return join(self, other)

    def __rrshift__(self, other: Side) -> Any:
        """Connect the items of a list with this: ``[a, b] >> c``."""
        return join(other, self)

    def __lshift__(self, other: Side) -> Any:
        """Return the right side, after connecting both backwards: ``b << a``."""
        return join(other, self, result=other)

    def __rlshift__(self, other: Side) -> Any:
        """Connect this with the items of a list: ``[b, c] << a``."""
        return join(self, other, result=self)

    def __and__(self, other: Side) -> Nodes:
        """Return both as one side: ``a >> (b & c)``."""
        both = _operands(other, "__rand__")
        return NotImplemented if both is None else Nodes([*_items(self), *both])


#: A list of actions of different signatures is, to a type checker, a list of anything.
Side: TypeAlias = Operand | list[Any] | tuple[Any, ...]


class Source(Protocol):
    """What an arrow leaves from once it is placed: a node, one output or branch of it, an input."""

    @property
    def reference(self) -> str:
        """How a node's input refers to the value."""
        ...


class Nodes(list[Any], Operand):
    """Several operands as one side of an arrow."""

    __slots__ = ()

    def _sources(self, dag: DAG) -> Sequence[Source]:
        return [source for each in self for source in each._sources(dag)]

    def _targets(self, dag: DAG) -> Sequence[NodeBuilder]:
        return [target for each in self for target in each._targets(dag)]

    def _home(self) -> DAG | None:
        return _home_of(self)


def nodes(*operands: Operand | Workflow) -> Nodes:
    """Return operands as one side of an arrow, for where both sides would be plain lists."""
    return Nodes(map(_operand, operands))


def _operand(given: Any) -> Any:
    """Return a workflow as the action that it is in an arrow, anything else as it is."""
    return given._as_action() if isinstance(given, Workflow) else given


def _items(side: Operand) -> Iterable[Operand]:
    return side if isinstance(side, Nodes) else (side,)


def _operands(side: Any, reflected: str) -> list[Operand] | None:
    """Return the operands on one side of an arrow, None when it holds anything else.

    Args:
        side: What stands there.
        reflected: The method with which a stranger there may answer the operator itself.

    Raises:
        OperandError: It holds a text or a function: something that was meant as a node.
    """
    if isinstance(side, Operand) and not isinstance(side, Nodes):
        return [side]
    if not isinstance(side, (list, tuple)):
        side = (side,)
    side = [_operand(each) for each in side]
    strangers = [each for each in side if not isinstance(each, Operand)]
    for each in strangers:
        if isinstance(each, str) or (callable(each) and not hasattr(type(each), reflected)):
            raise OperandError(
                f"an arrow goes between actions and handles, and {shown(each)} is none"
                + what_to_write(each)
            )
    return None if strangers else side


def what_to_write(stranger: Any) -> str:
    """Return advice on what to write instead of what is no operand; nothing where there is none."""
    if isinstance(stranger, str):
        name = shown(stranger, 60)
        return f"; write dag.nodes[{name}], or dag.connect(..., ...) with ids"
    if callable(stranger):
        name = cut(str(getattr(stranger, "__name__", "function")), 60)
        return (
            f"; make it an action: @action above its definition, or action({name}), or place it "
            f"with dag.add({name})"
        )
    return ""


def _home_of(operands: Iterable[Operand]) -> DAG | None:
    found: DAG | None = None
    for each in operands:
        home = each._home()
        if home is not None and home is not found:
            if found is not None:
                raise ConfigurationError(
                    f"an arrow cannot go from DAG {found.name!r} to DAG {home.name!r}: "
                    "both ends belong to one"
                )
            found = home
    return found


def join(left: Any, right: Any, result: Any = None) -> Any:
    """Connect two sides and return *result*, or the right one, as it stands in the DAG."""
    sources, targets = _operands(left, "__rshift__"), _operands(right, "__rrshift__")
    if sources is None or targets is None:
        return NotImplemented
    dag = _home_of((*sources, *targets)) or active_dag()
    landing = right if result is None else result
    if dag is None:
        return Expression(sources, targets)
    leaving = [each for operand in sources for each in operand._sources(dag)]
    dag._connect(leaving, [each for operand in targets for each in operand._targets(dag)])
    if landing is left:
        return _one(leaving)
    return _one([each for operand in targets for each in operand._sources(dag)])


def _one(placed: Sequence[Any]) -> Any:
    return placed[0] if len(placed) == 1 else Nodes(placed)


#: One arrow of an expression: where it leaves and where it ends.
Arrow: TypeAlias = tuple[tuple[Operand, ...], tuple[Operand, ...]]


class Expression(Operand):
    """Arrows between actions that no DAG has placed yet; an immutable value.

    Attributes:
        heads: Where arrows into it end.
        tails: Where arrows out of it leave.
    """

    __slots__ = ("_arrow", "_parts", "heads", "tails")

    heads: tuple[Operand, ...]
    tails: tuple[Operand, ...]
    _arrow: Arrow
    _parts: tuple[Expression, ...]

    def __init__(self, left: Sequence[Operand], right: Sequence[Operand]) -> None:
        set_field = object.__setattr__
        leaving = tuple(each for operand in left for each in _tails(operand))
        ending = tuple(each for operand in right for each in _heads(operand))
        set_field(self, "heads", tuple(each for operand in left for each in _heads(operand)))
        set_field(self, "tails", tuple(each for operand in right for each in _tails(operand)))
        set_field(self, "_arrow", (leaving, ending))
        # Sharing what came before keeps a chain of n arrows from copying n * n of them.
        parts = tuple(each for each in (*left, *right) if isinstance(each, Expression))
        set_field(self, "_parts", parts)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"an expression does not change: {name}")

    @property
    def arrows(self) -> list[Arrow]:
        """The arrows, in the order they were written."""
        found: list[Arrow] = []
        waiting = [self]
        while waiting:
            each = waiting.pop()
            found.append(each._arrow)
            waiting += each._parts
        return found[::-1]

    def _sources(self, dag: DAG) -> Sequence[Source]:
        self.place(dag)
        return [source for each in self.tails for source in each._sources(dag)]

    def _targets(self, dag: DAG) -> Sequence[NodeBuilder]:
        self.place(dag)
        return [target for each in self.heads for target in each._targets(dag)]

    def place(self, dag: DAG) -> None:
        """Draw the arrows in *dag*, each one once however often it is asked for."""
        for arrow in self.arrows:
            if not dag._has_drawn(arrow):
                sources, targets = arrow
                leaving = [each for operand in sources for each in operand._sources(dag)]
                ending = [each for operand in targets for each in operand._targets(dag)]
                dag._connect(leaving, ending)

    def __repr__(self) -> str:
        arrows = "; ".join(
            f"{', '.join(map(_shown, sources))} >> {', '.join(map(_shown, targets))}"
            for sources, targets in self.arrows
        )
        return f"<Expression {arrows}>"


def _shown(operand: Operand) -> str:
    return str(getattr(operand, "name", operand))


def _tails(operand: Operand) -> tuple[Operand, ...]:
    return operand.tails if isinstance(operand, Expression) else (operand,)


def _heads(operand: Operand) -> tuple[Operand, ...]:
    return operand.heads if isinstance(operand, Expression) else (operand,)


class Ends(Operand):
    """An operand that stands for one node, so that it has outputs and branches."""

    __slots__ = ()

    @property
    def out(self) -> Outputs:
        """The outputs by name: ``split.out.left``, ``split.out["left"]``."""
        return Outputs(self)

    @property
    def branches(self) -> Branches:
        """The branches by label: ``route.branches["eu"] >> ship``."""
        return Branches(self)

    @property
    def on_true(self) -> Port:
        """Where the way goes on when the result is True: ``check.on_true >> accept``."""
        return Port(self, label="true")

    @property
    def on_false(self) -> Port:
        """Where the way goes on when the result is False: ``check.on_false >> reject``."""
        return Port(self, label="false")

    def _node(self, dag: DAG) -> NodeBuilder:
        """Return the one node this means in *dag*, placed if need be."""
        raise NotImplementedError

    def _check_output(self, name: str) -> None:
        """Refuse an output that the action does not have."""
        raise NotImplementedError


class Port(Operand):
    """One output or one branch of a node, as the start of an arrow or as an argument."""

    __slots__ = ("label", "output", "owner")

    def __init__(self, owner: Ends, *, output: str | None = None, label: str | None = None) -> None:
        self.owner = owner
        self.output = output
        self.label = label

    @property
    def node(self) -> NodeBuilder:
        """The node, for a port that stands in a DAG."""
        dag = self.owner._home()
        assert dag is not None
        return self.owner._node(dag)

    @property
    def reference(self) -> str:
        """How a node's input refers to the value."""
        node = self.node
        return node.reference if self.output is None else f"{node.id}.{self.output}"

    def _home(self) -> DAG | None:
        return self.owner._home()

    def _sources(self, dag: DAG) -> Sequence[Source]:
        return (Port(self.owner._node(dag), output=self.output, label=self.label),)

    def _targets(self, dag: DAG) -> Sequence[NodeBuilder]:
        raise ConfigurationError(
            f"{self!r} is where an arrow starts; an arrow ends at a node: {_shown(self.owner)}"
        )

    def __bool__(self) -> bool:
        return refuse_truth(repr(self))

    def __repr__(self) -> str:
        if self.label is not None:
            return f"{_shown(self.owner)}.branches[{self.label!r}]"
        return f"{_shown(self.owner)}.out.{self.output}"


class Outputs:
    """The outputs of a node, by attribute or by key."""

    __slots__ = ("_owner",)

    def __init__(self, owner: Ends) -> None:
        self._owner = owner

    def __getitem__(self, name: str) -> Port:
        self._owner._check_output(name)
        return Port(self._owner, output=name)

    def __getattr__(self, name: str) -> Port:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]


class Branches:
    """The branches of a node, by label."""

    __slots__ = ("_owner",)

    def __init__(self, owner: Ends) -> None:
        self._owner = owner

    def __getitem__(self, label: str | bool) -> Port:
        if isinstance(label, bool):
            label = "true" if label else "false"
        if not isinstance(label, str) or not label:
            raise ConfigurationError(f"a branch is named by a text, not {shown(label)}")
        return Port(self._owner, label=label)


def refuse_truth(what: str) -> bool:
    """Raise what explains that a value is not there yet.

    Raises:
        InvalidState: Always.
    """
    raise InvalidState(
        f"{what} stands for a value that a run will compute, so `if`, `and`, `or` and `not` cannot "
        "look at it while the graph is built; decide in an action, and branch with "
        "check.on_true >> x or route.branches['label'] >> x"
    )


def refuse_loop(what: str) -> Iterator[Any]:
    """Raise what explains that there is nothing to iterate over yet.

    Raises:
        InvalidState: Always.
    """
    raise InvalidState(
        f"{what} stands for a value that a run will compute, so it cannot be iterated or unpacked "
        "while the graph is built; declare @action(outputs=[...]) and take .out.<name>, or loop "
        "inside an action"
    )
