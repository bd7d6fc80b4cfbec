"""The version of an action's code: what tells whether a recorded result is still its result.

It is a hash over the function and everything of its own package that it leads to. See
`code_version` for what counts; how a function is read is said in `_bytecode`.
"""

from __future__ import annotations

import enum
import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from dagger_dsl.errors import EncodingError
from dagger_dsl.model.values import to_plain
from dagger_dsl.registry._bytecode import shape_of
from dagger_dsl.registry._definition import ActionDef
from dagger_dsl.registry._wrappers import seen_through

__all__ = ["code_version"]


def code_version(definition: ActionDef) -> str:
    """Return the version of an action's code: its explicit ``version=``, else a hash.

    With a ``version=`` nothing else counts. The hash counts, of the function and, transitively, of
    the functions and classes of its own top-level package that it refers to (for a function of a
    script or a notebook: of that same module):

    * what the code does, its constants, and its defaults, but no comments, docstrings, annotations,
      names of functions, or places in files;
    * global and enclosing variables that are read and hold numbers, texts, other plain values that
      cannot change, tuples of such, enum members, or frozen classes with fields of such;
    * the arguments of partials, and what the attributes of a bound method's, a callable's or an
      ``execute`` object's instance hold: plain values, lists and dicts of such, functions;
    * functions below wrappers, and functions and classes in global lists
      and dicts, which are tables of handlers.

    What does not count: other packages; functions without code of Python's, such as those written
    in C, which are only named; variables that the function writes itself; lists, dicts and objects
    in variables, which are taken for state; helpers that are only found at run time, by
    `getattr` with a computed name, say. Where that matters, give ``version=``. Modules of the
    package that a function imports in its body are imported to look into them.

    The version is the same in every process of one minor version of Python. It is computed when it
    is first asked for, and again once something that it counted was replaced, as a notebook does;
    looking whether that is so costs a fraction of a microsecond for each thing counted.
    """
    if definition.version:
        return definition.version
    kept: _Found | None = definition._kept.get("version")
    if kept is None or kept.original is not definition.original or not kept.holds():
        kept = definition._kept["version"] = _Walk(definition).found()
    return kept.version


#: Where something was found, and what it was: ``read(owner, key, None)`` gives it again.
_Witness = tuple[Callable[[Any, Any, Any], Any], Any, Any, Any]


@attrs.frozen(eq=False)
class _Found:
    """A version, and what has to be as it was for it to hold."""

    original: Any
    version: str
    witnesses: list[_Witness]
    kept: list[Any]  # what was numbered by its id, so that the id stays its own

    def holds(self) -> bool:
        """Return whether everything that counted is still in its place."""
        for read, owner, key, value in self.witnesses:
            now = read(owner, key, None)
            if now is not value and (type(now) is not _Mark or now != value):
                return False
        return True


class _Mark(tuple[Any, ...]):
    """What an object held that may change without being replaced; compared by value."""

    __slots__ = ()


def _cell(cell: Any, _key: Any, default: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was assigned yet
        return default


def _entry(cls: type, key: str, default: Any) -> Any:
    return vars(cls).get(key, default)


def _marked(value: Any, _key: Any, _default: Any) -> Any:
    return _Mark(_trace(value, 0))


def _trace(value: Any, depth: int) -> tuple[Any, ...]:
    """Return something equal for as long as *value* holds the same: plain values by themselves."""
    kind = _container_kind(value)
    if kind is not None and depth < _DEPTH:
        # A set that nobody changed is walked in the same order again.
        return (kind.__name__, *(_trace(part, depth + 1) for part in _contents(value, kind)))
    scalar = _scalar(value)
    return (id(value),) if scalar is None else (scalar,)


def _container_kind(value: Any) -> type | None:
    """Return what kind of container *value* is, or None; classes of packages are none."""
    kind = type(value)
    if kind is types.MappingProxyType:
        return dict
    if kind.__module__ in ("builtins", "collections"):
        for base in (dict, list, tuple, set, frozenset):
            if issubclass(kind, base):
                return base
        if kind.__name__ == "deque":
            return list
    return None


def _contents(value: Any, kind: type) -> list[Any]:
    if kind is dict:
        return list(value.items())
    return sorted(value, key=_place_in_set) if kind in (set, frozenset) else list(value)


def _place_in_set(value: Any) -> str:
    return _scalar(value) or str(getattr(value, "__qualname__", ""))


#: How deep containers are looked into; what is further down does not count.
_DEPTH: Final = 20
_CHANGING: Final = (list, dict, set)

#: For what says nothing: None, and objects without a plain form. A client that is made when it is
#: first needed takes the place of a None and shall not change the version.
_NOTHING: Final = "~"

_ENCODED: Final = ("datetime", "decimal", "uuid", "pathlib", "zoneinfo")


def _scalar(value: Any) -> str | None:
    """Return the text of a plain value that cannot change, or None."""
    kind = type(value)
    if value is None:
        return _NOTHING
    if kind is int:
        return f"int:{value:x}"  # repr() refuses the longest ones
    if kind in (bool, float, complex, str, bytes, range, type(...)):
        return f"{kind.__name__}:{value!r}"
    module = str(kind.__module__).partition(".")[0]
    if module in _ENCODED:
        try:
            return repr(to_plain(value))
        except EncodingError:
            return None
    if module == "re" and kind.__name__ == "Pattern":
        return f"re:{value.pattern!r}:{value.flags}"
    if module == "operator" and kind.__name__ in ("attrgetter", "itemgetter", "methodcaller"):
        return repr(value)
    return None


#: Entries of a class that say where it stands or are worked out from the others.
_NOISE: Final = frozenset(
    {
        "__abstractmethods__",
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__attrs_attrs__",
        "__attrs_props__",
        "__classdictcell__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__orig_bases__",
        "__parameters__",
        "__qualname__",
        "__static_attributes__",
        "__type_params__",
        "__weakref__",
        "_abc_impl",
    }
)

_FUNCTIONS: Final = (types.FunctionType, types.MethodType, functools.partial, type)
_NATIVE: Final = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
)


class _Walk:
    """One walk from an action's function over all that counts, without recursion.

    What is found gets a number, and lines that say what it is, with the numbers of what it refers
    to; so cycles end and names do not count. The order follows from the code alone.
    """

    def __init__(self, definition: ActionDef) -> None:
        self.original = definition.original
        self.numbers: dict[int, int] = {}
        self.waiting: deque[tuple[Any, Callable[[Any], None]]] = deque()
        self.lines: list[tuple[tuple[int, str] | None, str]] = []
        self.witnesses: list[tuple[tuple[int, str] | None, _Witness]] = []
        self.rebound: set[tuple[int, str]] = set()
        self.kept: list[Any] = []
        self.own = _packages(definition)
        target = _innermost(definition.original)
        self.home: Any = getattr(target, "__globals__", None)

    def found(self) -> _Found:
        """Walk, and return the version."""
        import hashlib

        self.say("root", self.token(self.original, configures=True))
        while self.waiting:
            value, read = self.waiting.popleft()
            self.say(f"#{self.numbers[id(value)]}")
            read(value)
        text = "\n".join(line for key, line in self.lines if key not in self.rebound)
        return _Found(
            self.original,
            hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32],
            [witness for key, witness in self.witnesses if key not in self.rebound],
            self.kept,
        )

    def say(self, *parts: str, key: tuple[int, str] | None = None) -> None:
        self.lines.append((key, " ".join(parts)))

    def watch(
        self,
        read: Callable[[Any, Any, Any], Any],
        owner: Any,
        name: Any,
        value: Any,
        key: tuple[int, str] | None = None,
    ) -> None:
        self.witnesses.append((key, (read, owner, name, value)))

    def is_own(self, module: str | None) -> bool:
        return module is not None and (module in self.own or module.partition(".")[0] in self.own)

    def number(self, value: Any, read: Callable[[Any], None]) -> str:
        """Return the number of something, which *read* is going to tell about."""
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.numbers)
            self.waiting.append((value, read))
            self.kept.append(value)
        return f"#{number}"

    # -- what a value is

    def token(self, value: Any, *, configures: bool, depth: int = 0) -> str:
        """Return what stands for *value*.

        Args:
            value: Anything.
            configures: Whether it was given to be used, like an argument: then lists and dicts
                count with all they hold, and objects of the own package with their attributes.
            depth: How deep in a container it was found.
        """
        scalar = _scalar(value)
        if scalar is not None:
            return scalar
        kind = type(value)  # a proxy's __class__ would say what it stands for
        container = _container_kind(value)
        if container is not None:
            return self.container(value, container, configures, depth)
        if issubclass(kind, _FUNCTIONS):
            return self.function(value)
        if issubclass(kind, _NATIVE):
            bound = _scalar(getattr(value, "__self__", None))  # of "-".join: the text
            return f"native {getattr(value, '__module__', None)}.{value.__qualname__} {bound}"
        if issubclass(kind, types.ModuleType):
            return f"module {value.__name__}"
        if issubclass(kind, enum.Enum):
            return f"{self.function(kind)}.{value.name}"
        definition = _definition_of(value)
        if definition is not None and definition.version:
            return f"version {definition.version}"
        inner = _dict_of(value).get("__wrapped__") if definition is None else definition.original
        if inner is not None and depth < _DEPTH:
            return f"wraps({self.token(inner, configures=True, depth=depth + 1)})"
        return self.instance(value, configures, depth)

    def container(self, value: Any, kind: type, configures: bool, depth: int) -> str:
        if depth >= _DEPTH:
            return _NOTHING
        parts = _contents(value, kind)
        if kind in _CHANGING and not configures:
            # State, unless there are functions in it: then it is a table of handlers.
            parts = [each for each in parts if _has_function(each)]
            if not parts:
                return _NOTHING
        found = [self.token(each, configures=configures, depth=depth + 1) for each in parts]
        if kind is dict and configures:
            found.sort()
        return f"{kind.__name__}({','.join(found)})"

    def function(self, value: Any) -> str:
        """Return what stands for something that is called."""
        if isinstance(value, types.FunctionType):
            own = value.__globals__ is self.home or self.is_own(_module_of(value))
            return self.number(value, self.read_function if own else self.read_stranger)
        if isinstance(value, types.MethodType):
            return self.number(value, self.read_method)
        if isinstance(value, functools.partial):
            return self.number(value, self.read_partial)
        if self.is_own(value.__module__):
            return self.number(value, self.read_class)
        return f"class {value.__module__}.{value.__qualname__}"

    def instance(self, value: Any, configures: bool, depth: int) -> str:
        kind = type(value)
        if not self.is_own(kind.__module__) or depth >= _DEPTH:
            return _NOTHING
        if configures:
            return self.number(value, self.read_instance)
        fields = [
            f"{name}={self.token(getattr(value, name, None), configures=False, depth=depth + 1)}"
            for name in _value_fields(kind)
        ]
        return f"{self.function(kind)}({','.join(fields)})"

    # -- reading what has a number

    def read_function(self, fn: types.FunctionType) -> None:
        shape = shape_of(fn.__code__)
        self.say(shape.text)
        for name in ("__code__", "__defaults__", "__kwdefaults__"):
            self.watch(getattr, fn, name, getattr(fn, name))
        for each in fn.__defaults__ or ():
            self.say("default", self.token(each, configures=True, depth=1))
        for name, each in sorted((fn.__kwdefaults__ or {}).items()):
            self.say("default", name, self.token(each, configures=True, depth=1))
        modules: list[types.ModuleType] = []
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            if name not in shape.rebinds_cells:
                content = _cell(cell, None, None)
                self.watch(_cell, cell, None, content)
                self.variable(name, content, modules)
        names = fn.__globals__
        self.rebound.update((id(names), name) for name in shape.rebinds)
        for name in shape.reads:
            if not _is_dunder(name):
                value, key = names.get(name), (id(names), name)
                self.watch(dict.get, names, name, value, key)
                if name in names:
                    self.variable(name, value, modules, key)
        for level, module, wanted in shape.imports:
            self.imported(fn, level, module, wanted, modules)
        self.look_into(modules, shape.attributes)
        inner = vars(fn).get("__wrapped__")
        if inner is not None:
            self.say("wraps", self.token(inner, configures=True))

    def variable(
        self,
        name: str,
        value: Any,
        modules: list[types.ModuleType],
        key: tuple[int, str] | None = None,
    ) -> None:
        """Say what a name of a function's stands for; modules are looked into afterwards."""
        if issubclass(type(value), types.ModuleType):  # a proxy's __class__ may raise
            modules.append(value)
        self.say(name, self.token(value, configures=False), key=key)

    def look_into(self, modules: list[types.ModuleType], names: Iterable[str]) -> None:
        """Say what *names*, which a function looks up on something, are in own modules."""
        seen: set[int] = set()
        while modules:
            module = modules.pop()
            if id(module) in seen or not self.is_own(module.__name__):
                continue
            seen.add(id(module))
            for name in names:
                if _is_dunder(name):
                    continue
                value, key = _attribute(module, name), (id(vars(module)), name)
                self.watch(dict.get, vars(module), name, vars(module).get(name), key)
                if value is not None:
                    self.variable(name, value, modules, key)

    def imported(
        self,
        fn: types.FunctionType,
        level: int,
        name: str,
        wanted: tuple[str, ...],
        modules: list[types.ModuleType],
    ) -> None:
        """Say what an import statement in a function's body gives, if it is of the own package."""
        package = fn.__globals__.get("__package__") or ""
        if level:
            parents = package.split(".")
            name = ".".join(filter(None, (*parents[: len(parents) - level + 1], name)))
        if not self.is_own(name):
            return
        module = _import(name)
        if module is None:
            return
        modules += [module, sys.modules[name.partition(".")[0]]]
        for each in wanted:
            value = _attribute(module, each)
            if value is None:
                value = _import(f"{name}.{each}")
            key = (id(vars(module)), each)
            self.watch(dict.get, vars(module), each, vars(module).get(each), key)
            self.variable(each, value, modules, key)

    def read_stranger(self, fn: types.FunctionType) -> None:
        """Read a function of another package: its name, and the functions that it wraps."""
        self.say("function", f"{_module_of(fn)}.{fn.__code__.co_qualname}")
        inner = vars(fn).get("__wrapped__")
        if inner is not None:
            self.say("wraps", self.token(inner, configures=True))
        for cell in fn.__closure__ or ():
            content = _cell(cell, None, None)
            if _has_function(content):
                self.watch(_cell, cell, None, content)
                self.say("holds", self.token(content, configures=False))

    def read_method(self, method: types.MethodType) -> None:
        self.say("method", self.token(method.__func__, configures=False))
        self.say("of", self.token(method.__self__, configures=True))

    def read_partial(self, partial: functools.partial[Any]) -> None:
        self.say("partial", self.token(partial.func, configures=True))
        given = [list(partial.args), dict(partial.keywords)]
        self.watch(_marked, given, None, _Mark(_trace(given, 0)))
        self.say("given", self.token(given, configures=True))

    def read_instance(self, value: Any) -> None:
        """Read the object whose method is called: its class, and what it was made with."""
        self.say("instance of", self.token(type(value), configures=False))
        self.watch(_state_mark, value, None, _state_mark(value, None, None))
        for name, each in _state(value).items():
            token = self.token(each, configures=True, depth=1)
            if token != _NOTHING:
                self.say(name, token)

    def read_class(self, cls: type) -> None:
        self.say("class", self.token(type(cls), configures=False))
        for base in cls.__bases__:
            self.say("base", self.token(base, configures=False))
        if issubclass(cls, enum.Enum):
            for name, member in cls.__members__.items():
                self.say(name, self.token(member.value, configures=True, depth=1))
        for name, value in sorted(vars(cls).items()):
            told = issubclass(cls, enum.Enum) and type(value) is cls  # above
            if told or name in _NOISE or _is_attrs_hash(value):
                continue
            self.watch(_entry, cls, name, value)
            for part in _parts(value):
                token = self.token(part, configures=False)
                if token != _NOTHING:
                    self.say(name, type(value).__name__, token)


# --- what is found where --------------------------------------------------------------------------


def _packages(definition: ActionDef) -> frozenset[str]:
    """Return the top-level packages that are the action's own; a script is one by itself."""
    modules = [definition.module, _module_of(_innermost(definition.original))]
    owner = getattr(definition.original, "__self__", definition.original)
    modules.append(getattr(owner if isinstance(owner, type) else type(owner), "__module__", None))
    found: set[str] = set()
    for module in modules:
        if not isinstance(module, str) or not module:
            continue
        if module in ("__main__", "__mp_main__"):
            found.update(("__main__", "__mp_main__"))
            # Under `python -m package.module` it belongs to the package.
            module = getattr(sys.modules.get(module), "__package__", None) or module
        found.add(module.partition(".")[0])
    return frozenset(found - {"builtins", "functools"})


def _innermost(value: Any) -> Any:
    """Return the function below methods, partials and wrappers, or what is in its place."""
    value = seen_through(value)
    for _ in range(100):
        if isinstance(value, types.MethodType):
            value = value.__func__
        elif isinstance(value, functools.partial):
            value = value.func
        elif isinstance(value, type) or "__wrapped__" not in _dict_of(value):
            break
        else:
            value = value.__wrapped__
    return value


def _dict_of(value: Any) -> Mapping[str, Any]:
    """Return an object's own attributes, running none of its code."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def _module_of(fn: Any) -> str | None:
    """Return the module in which a function's code was written; `functools.wraps` hides it."""
    names = getattr(fn, "__globals__", {})
    found = names.get("__name__") or getattr(fn, "__module__", None)
    return found if isinstance(found, str) else None


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _has_function(value: Any, depth: int = 0) -> bool:
    kind = _container_kind(value)
    if kind is None:
        return issubclass(type(value), _FUNCTIONS)
    return depth < 3 and any(_has_function(each, depth + 1) for each in _contents(value, kind))


def _definition_of(value: Any) -> ActionDef | None:
    """Return the definition that *value* is or carries, None for none; no code of it is run."""
    if issubclass(type(value), ActionDef):
        return value  # type: ignore[no-any-return]
    carried = _dict_of(value).get("definition")
    return carried if isinstance(carried, ActionDef) else None


def _import(name: str) -> types.ModuleType | None:
    import importlib

    try:
        return importlib.import_module(name)
    except Exception:  # the function would meet the same when it runs; here it just says nothing
        return None


def _attribute(module: types.ModuleType, name: str) -> Any:
    """Return what a module calls *name*, None for nothing; names loaded on first use are loaded."""
    names = vars(module)
    if name in names or "__getattr__" not in names:
        return names.get(name)
    try:
        return getattr(module, name)
    except Exception:  # there is no such name, or it cannot be loaded
        return None


def _value_fields(cls: type) -> tuple[str, ...]:
    """Return the fields of a class whose instances are values: equal by them, never changed."""
    if issubclass(cls, tuple):
        return tuple(getattr(cls, "_fields", ()))
    if cls.__hash__ is None or cls.__hash__ is object.__hash__:
        return ()
    listed = getattr(cls, "__attrs_attrs__", None)
    if listed is not None:
        return tuple(each.name for each in listed)
    return tuple(getattr(cls, "__dataclass_fields__", ()))


def _state(value: Any) -> Mapping[str, Any]:
    """Return the attributes of an instance by name, sorted, without those it worked out."""
    found = dict(_dict_of(value))
    for owner in type(value).__mro__:
        slots = vars(owner).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                found[slot] = getattr(value, slot)
    kind = type(value)
    return {
        name: found[name]
        for name in sorted(found)
        if not isinstance(getattr(kind, name, None), functools.cached_property)
    }


def _state_mark(value: Any, _key: Any, _default: Any) -> Any:
    return _Mark((name, _trace(each, 0)) for name, each in _state(value).items())


def _is_attrs_hash(value: Any) -> bool:
    """Return whether attrs wrote this `__hash__`: the number in it is another one each time."""
    code = getattr(value, "__code__", None) if isinstance(value, types.FunctionType) else None
    return (
        code is not None
        and code.co_name == "__hash__"
        and code.co_filename.startswith("<attrs generated")
    )


def _parts(value: Any) -> tuple[Any, ...]:
    """Return what an entry of a class is made of."""
    if isinstance(value, (staticmethod, classmethod)):
        return (value.__func__,)
    if isinstance(value, property):
        return (value.fget, value.fset, value.fdel)
    if isinstance(value, functools.cached_property):
        return (value.func,)
    if isinstance(value, functools.partialmethod):
        return (value.func, value.args, *value.keywords.items())
    return (value,)
