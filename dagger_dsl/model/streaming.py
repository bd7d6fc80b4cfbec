"""Streams, seen through the graph: which nodes give one, who may take it, and what cannot be.

A node whose function yields gives its items one by one to the one node that takes its value. Both
run as one unit, so whatever asks for a value of its own (a cache, a label, a second consumer) is
refused here, before a run where the functions and annotations tell, and otherwise by the run.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeAlias, final

from dagger_dsl.errors import OutputError
from dagger_dsl.model.graph import RESULT, Node
from dagger_dsl.model.mapped import _item_type
from dagger_dsl.model.policies import CacheStrategy, Effects, Trigger
from dagger_dsl.model.protocols import ActionInfo
from dagger_dsl.model.types import _class_of, _is_opaque, _members, compatible, show_type

__all__ = [
    "Kind",
    "Stream",
    "Taker",
    "growth_faults",
    "kind_of_function",
    "may_be_iterator",
    "stream_faults",
    "takers_of",
    "wants_async",
]

#: How the items of a stream are read: with ``for``, or with ``async for``.
Kind: TypeAlias = Literal["sync", "async"]

_SYNC: Final = (collections.abc.Iterator, collections.abc.Generator)
_ASYNC: Final = (collections.abc.AsyncIterator, collections.abc.AsyncGenerator)
_PERHAPS: Final = (*_SYNC, *_ASYNC, collections.abc.Iterable, collections.abc.AsyncIterable)


@final
class Stream:
    """What stands for the value of a node whose items went to its consumer.

    Attributes:
        source: The node that gave the items.
        consumer: The node that took them.
    """

    __slots__ = ("consumer", "source")

    def __init__(self, source: str, consumer: str) -> None:
        self.source = source
        self.consumer = consumer

    def __iter__(self) -> NoReturn:
        """Refuse to be read again.

        Raises:
            OutputError: Always.
        """
        raise OutputError(
            f"the items of {self.source!r} went to {self.consumer!r} one by one and were not kept; "
            "return list(...) where others need them"
        )

    def __repr__(self) -> str:
        return f"<stream of {self.source!r}, read by {self.consumer!r}>"


class Taker(NamedTuple):
    """A node that takes the whole value of another one.

    Attributes:
        node: It.
        name: The input that takes it.
    """

    node: Node
    name: str


def kind_of_function(functions: Iterable[Any], returns: Callable[[], Any]) -> Kind | None:
    """Return how the items of what a function gives are read, None where it need not be a stream.

    Args:
        functions: The function, in the forms in which it is known.
        returns: Returns its evaluated return annotation; asked where the code does not tell.
    """
    for fn in functions:
        if inspect.isgeneratorfunction(fn):
            return "sync"
        if inspect.isasyncgenfunction(fn):
            return "async"
    kinds = [_class_of(each) for each in _members(returns())]
    if kinds[0] in _SYNC and len(kinds) == 1:
        return "sync"
    return "async" if kinds[0] in _ASYNC and len(kinds) == 1 else None


def may_be_iterator(returns: Any) -> bool:
    """Return whether a return annotation speaks of an iterator, which a list may be, too."""
    return any(_class_of(each) in _PERHAPS for each in _members(returns))


def wants_async(annotation: Any) -> bool:
    """Return whether a parameter is to be read with ``async for`` only."""
    kinds = [_class_of(each) for each in _members(annotation)]
    wanted = (*_ASYNC, collections.abc.AsyncIterable)
    return any(kind in wanted for kind in kinds) and not any(kind in _PERHAPS[:2] for kind in kinds)


def takers_of(node_id: str, nodes: Iterable[Node]) -> list[Taker]:
    """Return who takes the value of a node, once for each input."""
    return [
        Taker(node, each.name)
        for node in nodes
        for each in node.inputs
        if each.source is not None and each.source[0] == node_id
    ]


def growth_faults(
    changed: Sequence[Node],
    node_of: Callable[[str], Node | None],
    known: Iterable[str],
    lookup: Callable[[str], ActionInfo | None],
) -> Iterator[tuple[str, str]]:
    """Yield what would be wrong with streams once nodes were added or changed, by node id.

    Args:
        changed: They.
        node_of: Returns a node of the graph as it is now, None for an unknown id.
        known: The ids of the graph as it is now.
        lookup: Finds actions.
    """
    table = {node.id: node for node in changed}
    names = {each.source[0] for node in changed for each in node.inputs if each.source is not None}
    everyone: list[Node] | None = None
    for name in sorted(names):
        source = table.get(name) or node_of(name)
        action = None if source is None else lookup(source.action)
        kind = None if action is None else getattr(action, "yields", None)
        if source is None or action is None or kind is None:
            continue
        if everyone is None:
            others = (node_of(each) for each in known if each not in table)
            everyone = [*(each for each in others if each is not None), *changed]
        yield from stream_faults(source, action, kind, takers_of(name, everyone), lookup)


def stream_faults(
    source: Node,
    action: ActionInfo,
    kind: Kind,
    takers: Sequence[Taker],
    lookup: Callable[[str], ActionInfo | None],
    *,
    labelled: bool = False,
    types: bool = True,
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with giving the items of a node to those who take its value, by node id.

    Nothing is, where nobody takes it or where it is mapped over: then its items make a list.

    Args:
        source: The node.
        action: Its action.
        kind: How its items are read.
        takers: Who takes its value.
        lookup: Finds actions.
        labelled: Whether labelled edges leave it.
        types: Whether annotations are compared.
    """
    if source.map_over is not None or not takers:
        return
    if any(taker.node.map_over == taker.name for taker in takers):
        return
    yield from ((source.id, text) for text in _own_faults(source, action, labelled))
    if len(takers) > 1:
        names = list(dict.fromkeys(repr(taker.node.id) for taker in takers))
        who = " and ".join(names) if len(names) > 1 else f"{names[0]} with two inputs"
        text = (
            f"it yields its items one by one, and {who} take them; a stream has one consumer: "
            "return list(...) of it, which all of them can take"
        )
        yield source.id, text
        return
    (taker,) = takers
    reader = lookup(taker.node.action)
    if reader is None:
        return
    found = _taker_faults(source, kind, taker, reader, lookup)
    yield from ((taker.node.id, text) for text in found)
    if types:
        wanted = reader.hints().get(taker.name, Any)
        adapts = kind == "sync" and _is_async(reader)
        returns = action.hints().get("return", Any)
        fault = _type_fault(source, returns, kind, taker.name, wanted, adapts)
        if fault is not None:
            yield taker.node.id, fault


def _own_faults(source: Node, action: ActionInfo, labelled: bool) -> Iterator[str]:
    """Yield what a node asks for that a stream cannot give."""
    if source.outputs or action.outputs:
        names = [each.name for each in source.outputs] or list(action.outputs)
        yield (
            f"it declares the outputs {names}, and a stream of items has no parts; declare none, "
            "or return a mapping"
        )
    if labelled:
        yield "it is a stream of items, which is no label; choose a branch in a node of its own"
    timeout = source.timeout if source.timeout is not None else getattr(action, "timeout", None)
    if timeout is not None:
        yield (
            f"it has a time limit ({timeout:g} s), and its items are made while its consumer runs; "
            "give the limit to the consumer, whose time covers both"
        )
    if (source.effects or getattr(action, "effects", None)) is Effects.AT_MOST_ONCE:
        yield (
            "it is to be started at most once, and a stream is started again with its consumer; "
            "return list(...) of it"
        )
    if _caches(source, action) is not None:
        yield (
            "it is to share its results with other runs, and a stream is never stored; cache its "
            "consumer, or return list(...) of it"
        )
    if getattr(action, "output_schema", None) is not None:
        yield "it has an output_schema, and a stream is no value that could be checked; remove it"


def _taker_faults(
    source: Node,
    kind: Kind,
    taker: Taker,
    reader: ActionInfo,
    lookup: Callable[[str], ActionInfo | None],
) -> Iterator[str]:
    """Yield why a node cannot read the stream of another one."""
    node, name = taker
    what = f"{name!r} takes the items of {source.id!r} one by one"
    if node.map_over is not None:
        yield (
            f"{what}, and each of its invocations would need them all; return list(...) in "
            f"{source.id!r}"
        )
    if node.trigger is not Trigger.SUCCESS:
        yield (
            f"{what}, so it waits for all of its sources, and its trigger is "
            f"{node.trigger.value!r}; leave the trigger out, or return list(...) in {source.id!r}"
        )
    strategy = _caches(node, reader)
    if strategy is not None and strategy.key is None and name in (strategy.inputs or (name,)):
        yield (
            f"{what}, and its results are shared by its inputs, of which a stream has no hash; "
            "choose the others: CacheStrategy.always(inputs=[...])"
        )
    if _of(reader, "input_schema") is not None:
        yield (
            f"{what}, and its input_schema is checked against all of its inputs, which a stream "
            "cannot be; remove it"
        )
    fallback: Any = node.fallback if node.fallback is not None else _of(reader, "fallback")
    if isinstance(fallback, str):
        fallback = lookup(fallback)
    if fallback is not None and (
        fallback.takes_any_input or name in [each.name for each in fallback.params]
    ):
        yield (
            f"{what}, and its fallback {fallback.name!r} takes them too, when they have gone; let "
            f"the fallback do without {name!r}"
        )
    if kind == "async" and not _is_async(reader):
        yield f"{what} with 'async for', and is a plain function; make it 'async def'"


def _is_async(action: Any) -> bool:
    """Return whether the body of an action can await."""
    return bool(_of(action, "is_async")) or _of(action, "yields") == "async"


def _of(action: Any, name: str) -> Any:
    return getattr(action, name, None)


def _caches(node: Node, action: ActionInfo) -> CacheStrategy | None:
    """Return how a node shares its results, None where it does not."""
    found: CacheStrategy | None = node.cache_strategy
    if found is None:
        found = _of(action, "cache_strategy")
    return None if found is None or found == CacheStrategy.NEVER else found


def _type_fault(
    source: Node, returns: Any, kind: Kind, name: str, wanted: Any, adapts: bool
) -> str | None:
    """Return why an annotation does not go with what the stream is."""
    iterator: Any = types.GeneratorType if kind == "sync" else types.AsyncGeneratorType
    fits = [each for each in _members(wanted) if _takes(each, iterator)]
    if not fits and adapts and wants_async(wanted):
        fits = list(_members(wanted))  # it is turned into one
    if not fits:
        better = "Iterator" if kind == "sync" else "AsyncIterator"
        return (
            f"{name!r} is {show_type(wanted)}, but {source.id}.{RESULT} yields its items one by "
            f"one; annotate it as {better}[...], or return a list, such as list(...), in "
            f"{source.id!r}"
        )
    offered = _item_type(returns)
    items = [_item_type(each) for each in fits]
    if offered is None or any(each is None or compatible(offered, each) for each in items):
        return None
    return (
        f"{name!r} is {show_type(wanted)}, but the items of {source.id}.{RESULT} are "
        f"{show_type(offered)}; no item is both"
    )


def _takes(annotation: Any, iterator: type) -> bool:
    kind = None if annotation is Any else _class_of(annotation)
    if kind is None or _is_opaque(kind):
        return True
    try:
        return issubclass(iterator, kind)
    except TypeError:  # a protocol with data members cannot be asked
        return True
