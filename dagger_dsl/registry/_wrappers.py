"""Which function a wrapper wraps, where the wrapper itself does not say so.

`functools.wraps` leaves `__wrapped__` behind. A wrapper written without it takes ``(*args,
**kwargs)`` and says nothing, but its code does: where it hands exactly ``*args, **kwargs`` to one
variable of its closure, it can be called with what that function can be called with, and with
nothing else. So the function has the wrapper's signature. The same holds for an object whose
``__call__(self, *args, **kwargs)`` hands them to a function that it keeps in an attribute.

Nothing is guessed. Who hands them to two functions, or may change ``kwargs`` on the way, is not
seen through: the function could then take an argument that the wrapper fills by itself.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["seen_through", "wrapped_by"]

#: More wrappers around one function than anybody writes; what wraps itself ends here.
_DEPTH: Final = 100

_ANYTHING: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS

_SILENT: Final = frozenset({"EXTENDED_ARG", "NOP", "CACHE", "PRECALL", "PUSH_NULL"})

#: ``*args, **kwargs`` as the compiler writes them, between the function and the call of it.
_HANDS_ON: Final = ("LOAD_FAST", "BUILD_MAP", "LOAD_FAST", "DICT_MERGE", "CALL_FUNCTION_EX")

#: What may be done with ``kwargs`` beside handing them on, for it changes nothing.
_READING: Final = frozenset(
    {"FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC", "CONVERT_VALUE", "CONTAINS_OP"}
)
_REBINDS: Final = frozenset({"STORE_DEREF", "DELETE_DEREF", "STORE_ATTR", "DELETE_ATTR"})
_LOOKS_UP: Final = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_READERS: Final = frozenset({"copy", "get", "items", "keys", "values"})


def seen_through(obj: Any) -> Any:
    """Return what *obj* is without its bare wrappers; *obj* itself where it has none.

    Partials and bindings stay around what is below them, so `inspect.signature` of the answer is
    that of *obj*.
    """
    return _seen_through(obj, 0)


def _seen_through(obj: Any, depth: int) -> Any:
    if depth == _DEPTH or isinstance(obj, type):
        return obj
    if isinstance(obj, functools.partial):
        inner = _seen_through(obj.func, depth + 1)
        if inner is obj.func:
            return obj
        return functools.partial(inner, *obj.args, **obj.keywords)
    if isinstance(obj, types.MethodType):
        inner = _seen_through(obj.__func__, depth + 1)
        return obj if inner is obj.__func__ else types.MethodType(inner, obj.__self__)
    own = _own_attributes(obj)
    if "__signature__" in own:
        return obj
    below = own.get("__wrapped__")
    if below is not None:
        inner = _seen_through(below, depth + 1)
        return obj if inner is below else inner
    below = wrapped_by(obj)
    return obj if below is None else _seen_through(below, depth + 1)


def wrapped_by(obj: Any) -> Callable[..., Any] | None:
    """Return the callable that a bare wrapper wraps, None for what is none, or cannot be told."""
    if isinstance(obj, types.FunctionType):
        code = obj.__code__
        if not _takes_anything(code, 0) or "__wrapped__" in vars(obj):
            return None
        name = _told(_receivers(code, None))
        found = None if name is None else _captured(obj, name)
    else:
        call = (
            None if isinstance(obj, type) else inspect.getattr_static(type(obj), "__call__", None)
        )
        if not isinstance(call, types.FunctionType) or not _takes_anything(call.__code__, 1):
            return None
        code = call.__code__
        name = _told(_receivers(code, code.co_varnames[0]))
        found = None if name is None else _own_attributes(obj).get(name)
    return found if callable(found) and found is not obj else None


def _takes_anything(code: types.CodeType, before: int) -> bool:
    """Return whether a function takes *before* parameters, then ``*args, **kwargs``."""
    return (
        code.co_argcount == before
        and not code.co_kwonlyargcount
        and code.co_flags & _ANYTHING == _ANYTHING
    )


def _own_attributes(obj: Any) -> dict[str, Any]:
    """Return an object's own attributes, running none of its code."""
    try:
        found = object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def _captured(fn: types.FunctionType, name: str) -> Any:
    cell = (fn.__closure__ or ())[fn.__code__.co_freevars.index(name)]
    try:
        return cell.cell_contents
    except ValueError:  # nothing was assigned yet
        return None


def _told(names: frozenset[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


@functools.lru_cache(maxsize=1024)
def _receivers(code: types.CodeType, owner: str | None) -> frozenset[str]:
    """Return what a wrapper hands its very ``*args, **kwargs`` to, nothing if it may change them.

    Args:
        code: Of the wrapper.
        owner: None for variables of its closure; else the parameter whose attributes are meant.
    """
    first = code.co_argcount
    args, kwargs = code.co_varnames[first : first + 2]
    steps = _steps_of(code)
    found: set[str] = set()
    handed_on: set[int] = set()
    for k in range(len(steps)):
        if _hands_on(steps[max(k - 4, 0) : k + 1], args, kwargs):
            handed_on.update((k - 4, k - 2))
            name = _receiver(steps[: k - 4], code, owner)
            if name is not None:
                found.add(name)
    for k, step in enumerate(steps):
        if k not in handed_on and not _leaves(step, steps[k + 1 : k + 2], args, kwargs):
            return frozenset()
        if step.name in _REBINDS and step.value in found:
            return frozenset()
    return frozenset(found)


class _Step(NamedTuple):
    """An instruction: its name, what it is about, and its bare argument."""

    name: str
    value: Any
    arg: int | None


def _steps_of(code: types.CodeType) -> list[_Step]:
    import dis  # only bare wrappers come here

    found = []
    for each in dis.get_instructions(code):
        name = each.opname
        if isinstance(each.argval, tuple) and name.count("_FAST") == 2:
            # Two loads or stores in one, as 3.13 has them: STORE_FAST_LOAD_FAST
            one, _, two = name.partition("_FAST_")
            found += [_Step(f"{one}_FAST", each.argval[0], None), _Step(two, each.argval[1], None)]
        elif name not in _SILENT:
            found.append(_Step(name, each.argval, each.arg))
    return found


def _hands_on(steps: Sequence[_Step], args: str, kwargs: str) -> bool:
    """Return whether *steps* are a call with ``*args, **kwargs`` and nothing else."""
    return (
        tuple(each.name for each in steps) == _HANDS_ON
        and (steps[0].value, steps[2].value) == (args, kwargs)
        and (steps[1].arg, steps[3].arg) == (0, 1)
    )


def _receiver(before: Sequence[_Step], code: types.CodeType, owner: str | None) -> str | None:
    """Return the name of what is called, as it was loaded last *before* the arguments."""
    last = before[-1] if before else None
    if last is None:
        return None
    if owner is None:
        told = last.name == "LOAD_DEREF" and last.value in code.co_freevars
    else:
        told = last.name == "LOAD_ATTR" and [each[:2] for each in before[-2:-1]] == [
            ("LOAD_FAST", owner)
        ]
    return str(last.value) if told else None


def _leaves(step: _Step, after: Sequence[_Step], args: str, kwargs: str) -> bool:
    """Return whether a step leaves both as they were given; ``args`` cannot be changed in place."""
    if step.value not in (args, kwargs) or not step.name.endswith(("_FAST", "_DEREF")):
        return True
    if step.name != "LOAD_FAST":
        return False
    if step.value == args:
        return True
    return any(
        each.name in _READING or (each.name in _LOOKS_UP and each.value in _READERS)
        for each in after
    )
