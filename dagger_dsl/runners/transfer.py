"""What crosses between a run and its worker processes: functions, values and exceptions.

Functions go by the name of their module where the other side can import them, else by value, which
needs cloudpickle: those of a script or a notebook (``__main__``), of a file that was loaded by its
path, lambdas and closures. Values go by pickle. Both ends are processes of ours, joined by a socket
that nobody else has; nothing that was read from a file or a database is unpickled here.

This module is imported by every worker process, so it imports little.
"""

from __future__ import annotations

import importlib
import io
import marshal
import os
import pickle
import sys
import threading
from collections.abc import Callable
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MappingProxyType,
    TracebackType,
)
from typing import Any

__all__ = [
    "dumps",
    "function_from",
    "function_to",
    "is_importable",
    "loads",
    "rebuilt",
    "reducers",
    "told",
]

_Frame = tuple[str, int, str]

loads = pickle.loads


# --- by name or by value --------------------------------------------------------------------------

_importable: dict[str, bool] = {}


def is_importable(name: str | None) -> bool:
    """Return whether another process finds the module of this name as this one has it."""
    if name is None or name == "__main__":
        return False
    known = _importable.get(name)
    if known is None:
        known = _importable[name] = _is_found(name)
    return known


def _is_found(name: str) -> bool:
    module = sys.modules.get(name)
    if module is None:
        return False
    parent = name.rpartition(".")[0]
    path = None
    if parent:
        if not is_importable(parent):
            return False
        path = getattr(sys.modules.get(parent), "__path__", None)
        if path is None:
            return False
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = None if find is None else find(name, path)
        if spec is not None:
            here, there = getattr(module, "__file__", None), spec.origin
            return (
                here is None or there is None or os.path.realpath(here) == os.path.realpath(there)
            )
    return False


def _named(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _called(found: Any) -> Any:
    """Return what the engine calls of what a module has: a function, or an action's function."""
    if type(found) in (FunctionType, BuiltinFunctionType):
        return found
    from dagger_dsl.registry import definition_of

    definition = definition_of(found)
    return found if definition is None else definition.fn


def function_to(fn: Callable[..., Any]) -> bytes:
    """Return what `function_from` makes the function of in another process.

    Raises:
        TransferError: It can go neither by name nor by value.
        MissingExtra: It can go by value only, and cloudpickle is not installed.
    """
    module, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if isinstance(module, str) and isinstance(qualname, str) and "<" not in qualname:
        try:
            same = is_importable(module) and _called(_named(module, qualname)) is fn
        except (AttributeError, ImportError):
            same = False
        if same:
            return pickle.dumps((module, qualname))
    return pickle.dumps(dumps(fn))


def function_from(data: bytes | memoryview) -> Callable[..., Any]:
    """Return the function that `function_to` made *data* of."""
    sent = pickle.loads(data)
    found: Callable[..., Any]
    found = loads(sent) if isinstance(sent, bytes) else _called(_named(*sent))
    return found


# --- values ---------------------------------------------------------------------------------------

#: How objects of some types are sent, as for `copyreg`; the engine adds what a run's own need.
reducers: dict[type, Callable[[Any], Any]] = {
    MappingProxyType: lambda proxy: (_read_only, (dict(proxy),)),
}


def _read_only(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


class _ByValue(Exception):
    """Something in a value can go by value only."""


def _reduced(thing: Any) -> Any:
    reduce = reducers.get(type(thing))
    return NotImplemented if reduce is None else reduce(thing)


class _Pickler(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, (type, FunctionType)):
            if not is_importable(thing.__module__):
                raise _ByValue
            if isinstance(thing, FunctionType) and _is_called_by_name(thing):
                return _named_function, (thing.__module__, thing.__qualname__)
            return NotImplemented
        return _reduced(thing)


def _is_called_by_name(fn: FunctionType) -> bool:
    """Return whether a module has an action of this function under the function's name."""
    try:
        found = _named(fn.__module__, fn.__qualname__)
        return found is not fn and _original(found) is fn
    except (AttributeError, ImportError):
        return False


def _named_function(module: str, qualname: str) -> Any:
    return _original(_named(module, qualname))


def _original(found: Any) -> Any:
    from dagger_dsl.registry import definition_of

    definition = definition_of(found)
    return found if definition is None else definition.original


_by_value = threading.Lock()


def _cloud_dumps(value: Any) -> bytes:
    import cloudpickle

    registered: list[Any] = []

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc, unused-ignore]
        def reducer_override(self, thing: Any) -> Any:
            found = _reduced(thing)
            if found is not NotImplemented:
                return found
            if isinstance(thing, CodeType):
                return marshal.loads, (marshal.dumps(thing),)  # with its file, for tracebacks
            if isinstance(thing, (type, FunctionType)):
                name = thing.__module__
                module = sys.modules.get(name)
                if name != "__main__" and module is not None and not is_importable(name):
                    cloudpickle.register_pickle_by_value(module)
                    registered.append(module)
            elif "definition" in getattr(thing, "__dict__", ()):
                from dagger_dsl.registry import ActionDef, definition_of

                definition = definition_of(thing)
                if definition is not None and not isinstance(thing, ActionDef):
                    if is_importable(getattr(thing, "__module__", None)):
                        return NotImplemented
                    return _same, (definition.original,)  # an action is its function there
            return super().reducer_override(thing)

    buffer = io.BytesIO()
    with _by_value:  # which modules go by value is noted for the whole process
        try:
            Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
        finally:
            for module in {id(each): each for each in registered}.values():
                cloudpickle.unregister_pickle_by_value(module)
    return buffer.getvalue()


def _same(thing: Any) -> Any:
    return thing


def dumps(value: Any) -> bytes:
    """Return a value as bytes for another process of ours.

    Raises:
        TransferError: It cannot be pickled; the message says why.
        MissingExtra: Something in it can go by value only, and cloudpickle is not installed.
    """
    from dagger_dsl.errors import MissingExtra, TransferError

    buffer = io.BytesIO()
    try:
        _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
        return buffer.getvalue()
    except Exception as error:
        first = error
    try:
        return _cloud_dumps(value)
    except ImportError as error:
        if isinstance(first, _ByValue) or _is_about_code(first):
            raise MissingExtra(
                "sending a function or class of a script, a notebook or another function to a "
                "worker process",
                "processes",
            ) from error
        raise TransferError(f"{type(first).__name__}: {first}") from first
    except Exception as error:
        raise TransferError(f"{type(error).__name__}: {error}") from error


def _is_about_code(error: Exception) -> bool:
    return isinstance(error, (AttributeError, pickle.PicklingError))


# --- exceptions -----------------------------------------------------------------------------------

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


# So many exceptions of a chain are told of; nobody reads more.
_MOST = 100


def told(error: BaseException) -> dict[str, Any]:
    """Return an exception as plain data, with its traceback, notes, cause and context."""
    return _told(error, set())


def _told(error: BaseException, seen: set[int], *, whole: bool = True) -> dict[str, Any]:
    seen.add(id(error))
    kind = type(error)
    data: dict[str, Any] = {
        "frames": _frames(error.__traceback__),
        "notes": _notes(error),
        "quiet": error.__suppress_context__,
    }
    if whole:
        try:
            data["error"] = dumps(error)
            loads(data["error"])  # many an __init__ takes other arguments than it hands on
        except Exception as unsent:
            data["error"] = None
            try:
                text = str(error)
            except Exception as broken:
                text = f"<its text cannot be made: {type(broken).__name__}>"
            data["stand_in"] = (
                kind.__module__,
                kind.__qualname__,
                next(each for each in kind.__mro__ if each.__module__ == "builtins"),
                text,
                f"{type(unsent).__name__}: {unsent}",
            )
    for name in ("cause", "context"):
        other = getattr(error, f"__{name}__")
        if other is not None and id(other) not in seen and len(seen) < _MOST:
            data[name] = _told(other, seen)
    if isinstance(error, BaseExceptionGroup):
        data["members"] = [_told(each, seen, whole=False) for each in error.exceptions]
    return data


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", ())
    return [str(note) for note in notes] if isinstance(notes, (list, tuple)) else []


def _frames(trace: TracebackType | None) -> list[_Frame]:
    """Return where an exception came through, without our own frames before the user's first."""
    frames: list[_Frame] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if frames or not code.co_filename.startswith(_ROOT):
            frames.append((code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    return frames


def rebuilt(data: dict[str, Any]) -> BaseException:
    """Return the exception that `told` made *data* of, or one that stands for it."""
    sent = data.get("error")
    error: BaseException
    try:
        if sent is None:
            error = _stand_in(*data["stand_in"])
        else:
            error = loads(sent)
    except Exception as broken:
        error = _stand_in("builtins", "Exception", Exception, "an exception", repr(broken))
    _dress(error, data)
    return error


def _dress(error: BaseException, data: dict[str, Any]) -> None:
    for note in data["notes"]:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    error.__traceback__ = _trace(data["frames"])
    if "cause" in data:
        error.__cause__ = rebuilt(data["cause"])
    if "context" in data:
        error.__context__ = rebuilt(data["context"])
    error.__suppress_context__ = data["quiet"]
    if isinstance(error, BaseExceptionGroup):
        for each, more in zip(error.exceptions, data.get("members", ()), strict=False):
            _dress(each, more)


def _stand_in(
    module: str, qualname: str, base: type[BaseException], text: str, why: str
) -> BaseException:
    """Return an exception of the same name over the same builtin class."""
    names = {"__module__": module, "__qualname__": qualname, "__str__": lambda _self: text}
    name = qualname.rpartition(".")[2]
    try:
        error: BaseException = type(name, (base,), names)(text)
    except Exception:  # a class that cannot be made of a text
        error = type(name, (Exception,), names)(text)
    error.add_note(f"it stands for the exception itself, which cannot leave its process: {why}")
    return error


class _Here(Exception):
    pass


def _raise_here() -> None:
    raise _Here


_code: CodeType = _raise_here.__code__


def _trace(frames: list[_Frame]) -> TracebackType | None:
    """Return a traceback that reads as the one that *frames* were taken from."""
    found: TracebackType | None = None
    # Without an instruction: there are no columns to point at.
    for filename, line, name in reversed(frames):
        code = _code.replace(
            co_filename=filename, co_name=name, co_qualname=name, co_firstlineno=line
        )
        found = TracebackType(found, _frame_of(code, filename), -1, line)
    return found


def _frame_of(code: CodeType, filename: str) -> FrameType:
    try:
        FunctionType(code, {"_Here": _Here, "__file__": filename})()
    except _Here as here:
        trace: Any = here.__traceback__
        frame: FrameType = trace.tb_next.tb_frame
        return frame
    raise AssertionError("it raises")
