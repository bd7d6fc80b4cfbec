"""What a body in a worker process sees of its run: it asks, and the run answers."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping
from time import monotonic
from typing import Any, NoReturn

import attrs

from dagger_dsl.errors import InvalidState, TransferError
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.sharing import Context
from dagger_dsl.runners.child import ask, given_object, heard
from dagger_dsl.runners.transfer import reducers

__all__ = ["Items", "Unsent"]

# How long an answer to "shall I end?" holds (seconds); bodies may ask in every turn of a loop.
_HOLDS = 0.01


class Unsent:
    """Stands for the run's `app_data` where that cannot be sent; each use says why."""

    def __init__(self, why: str) -> None:
        object.__setattr__(self, "_why", why)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        self._refuse()

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse()

    def __getitem__(self, key: Any) -> Any:
        self._refuse()

    def __call__(self, *_: Any, **__: Any) -> Any:
        self._refuse()

    def _refuse(self) -> NoReturn:
        why = object.__getattribute__(self, "_why")
        raise TransferError(
            f"{why}; give the body what it needs as an input, or run with runner='threads'"
        )

    def __reduce__(self) -> Any:
        return Unsent, (object.__getattribute__(self, "_why"),)


class Items(Iterator[Any]):
    """Reads an iterator that the body was given, where the run is, some items at a time.

    Args:
        number: Which of the call's iterators.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._read: deque[Any] = deque()
        self._over = False
        self._failure: dict[str, Any] | None = None

    def __next__(self) -> Any:
        while not self._read:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise heard(failure)
            if self._over:
                raise StopIteration
            items, self._over, self._failure = ask("items", self._number)
            self._read.extend(items)
        return self._read.popleft()

    def close(self) -> None:
        """Read no more."""
        self._read.clear()
        if not self._over:
            self._over = True
            failure = ask("close", self._number)
            if failure is not None:
                raise heard(failure)


class _Field:
    """Calls what a field of the run's own `NodeCtx` holds."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        return ask("ctx", self._name, *arguments)


class _Cache:
    """Values of the run, read where the run is."""

    def get(self, namespace: str, key: str, default: Any = None) -> Any:
        found, value = ask("cache", namespace, key)
        return value if found else default

    def to_dict(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = ask("values")
        return found


class _Signal:
    """Whether the run shall end."""

    def __init__(self) -> None:
        self._until = 0.0
        self._known = (False, "")

    def _look(self) -> tuple[bool, str]:
        now = monotonic()
        if not self._known[0] and now >= self._until:
            self._known = ask("cancelled")
            self._until = now + _HOLDS
        return self._known

    @property
    def cancelled(self) -> bool:
        return self._look()[0]

    @property
    def reason(self) -> str:
        return self._look()[1]

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        raise InvalidState(
            "under runner='processes' nothing can be called on cancellation: look at ctx.cancelled "
            "now and then, or run with runner='threads'"
        )


def _node_ctx(has_object: bool, fields: Mapping[str, Any]) -> NodeCtx:
    return NodeCtx(
        cache=_Cache(),
        cancel=_Signal(),
        app_data=given_object() if has_object else None,
        **fields,
    )


def _is_stream(value: Any) -> bool:
    return isinstance(value, (Iterator, AsyncIterator))


def _reduce_ctx(ctx: NodeCtx) -> Any:
    fields = {}
    for field in attrs.fields(NodeCtx):
        value = getattr(ctx, field.name)
        if callable(value):
            value = _Field(field.name)
        if field.name not in ("cache", "cancel", "app_data"):
            if field.name == "inputs":  # a stream is read once, as the argument that it is
                value = {name: each for name, each in value.items() if not _is_stream(each)}
            fields[field.alias] = value
    return _node_ctx, (ctx.app_data is not None, fields)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise InvalidState(
        "under runner='processes' a Context can be read only: a worker process has a copy of it. "
        "Return the value, or run with runner='threads'"
    )


class _Frozen(dict[str, Any]):
    """A mapping that says why it cannot be written to."""

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


class _Results(MutableMapping[str, Any]):
    """The results of the run, read where the run is."""

    __setitem__ = __delitem__ = _refuse

    def __getitem__(self, name: str) -> Any:
        found, value = ask("result", name)
        if not found:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(ask("result_names"))

    def __len__(self) -> int:
        return len(ask("result_names"))


class _View(Context):
    """A `Context` as a worker process has it: read only."""

    def update(self, change: Callable[[dict[str, Any]], Any]) -> Any:
        _refuse()


def _context(metadata: Mapping[str, Any], metrics: Mapping[str, Any]) -> Context:
    view = _View()
    view.__dict__.update(results=_Results(), metadata=_Frozen(metadata), metrics=_Frozen(metrics))
    return view


def _reduce_context(context: Context) -> Any:
    return _context, (dict(context.metadata), dict(context.metrics))


reducers[NodeCtx] = _reduce_ctx
reducers[Context] = _reduce_context
