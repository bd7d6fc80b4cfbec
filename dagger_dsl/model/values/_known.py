"""Which classes are known: by `register_type`, by annotations, or by a module that was imported.

It keeps the tables' rows for classes, looks for one when a conversion meets a type or a tag that
has none, and refuses with what to do. How a class is written is not its business: see `_classes`.
"""

from __future__ import annotations

import re
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from dagger_dsl.errors import ConfigurationError, RegistryError
from dagger_dsl.model.values._classes import (
    class_hooks,
    pickle_hooks,
    user_hooks,
)
from dagger_dsl.model.values._core import (
    DECODERS,
    ENCODERS,
    FINDERS,
    SCALARS,
    Decoder,
    Encoder,
    Refused,
    default_name,
    loaded,
    type_name,
)
from dagger_dsl.model.values._listed import FIXED_NAMES, LISTED_ELSEWHERE, is_listed
from dagger_dsl.model.values._unstored import Secret

__all__ = ["allow_hints", "register_type", "when_imported"]

_C = TypeVar("_C", bound=type)

_LOCK: Final = threading.RLock()  # held by whoever changes the tables; reading needs no lock
_NAMES: Final[dict[str, type]] = {}  # stored name -> the class that has it now
_PENDING: Final[list[type]] = []  # known classes whose field types have not been walked yet
_WALKED: Final[set[type]] = set()
_PROVIDERS: Final[dict[str, Callable[[], None]]] = {}


def register_type(
    cls: _C,
    *,
    name: str | None = None,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
    pickle: bool = False,
) -> _C:
    """Make values of *cls* storable; also usable as a class decorator.

    Registering again replaces; a class that was defined again, as in a notebook, takes the place of
    its older version.

    Args:
        cls: Exactly this class; subclasses need their own registration.
        name: What stored values call it, ``module:Class`` by default. Give one to keep old values
            readable when the class moves or the module is run as a script.
        encode: Turns an instance into any value of the codec. Without it, *cls* is an attrs class,
            a dataclass, a NamedTuple or an Enum, and its fields are stored.
        decode: Makes an equal instance from what *encode* gave. It sees data from the store, which
            somebody else may have written: it should check it.
        pickle: Store instances with `pickle`. Reading them back runs whatever code the pickle
            says: never open a store that others can write to.

    Returns:
        *cls*.

    Raises:
        ConfigurationError: *encode* or *decode* cannot be called.
        RegistryError: *cls* needs both functions, is a listed type, or the name belongs to another
            class.
    """
    if not isinstance(cls, type):
        raise RegistryError(f"register_type() takes a class, not {cls!r}")
    shown = type_name(cls)
    stored = default_name(cls) if name is None else name
    if not isinstance(stored, str) or not stored or stored in FIXED_NAMES:
        raise RegistryError(f"{stored!r} cannot name the stored form of {shown}; give another name")
    if (encode is None) != (decode is None) or (pickle and encode is not None):
        raise RegistryError(
            f"register_type({shown}) takes encode= and decode= together, or pickle="
        )
    for key, function in (("encode", encode), ("decode", decode)):
        if function is not None and not callable(function):
            raise ConfigurationError(f"{key}= of {shown} is a function, not {function!r}")
    if cls in SCALARS or is_listed(cls) or cls is Secret:
        raise RegistryError(f"{shown} has its own rule in the codec; it cannot be registered")
    hooks: tuple[Encoder, Decoder] | None
    if pickle:
        hooks = pickle_hooks(cls, stored)
    elif encode is not None and decode is not None:
        hooks = user_hooks(cls, stored, encode, decode)
    else:
        hooks = class_hooks(cls, stored)
        if hooks is None:
            raise RegistryError(
                f"{shown} is no attrs class, dataclass, NamedTuple or Enum (or it extends a "
                "built-in type); give register_type() encode= and decode="
            )
    _install(cls, stored, hooks)
    return cls


def allow_hints(hints: Mapping[str, Any]) -> None:
    """Make the classes that *hints* name storable, and those of their fields.

    Args:
        hints: Evaluated annotations by name, as `typing.get_type_hints` gives them. Unions,
            generics, aliases and TypedDicts are looked into; names that were not evaluated and
            classes without fields are passed over.
    """
    for hint in hints.values():
        for cls in _classes_in(hint):
            _admit(cls)


def when_imported(module: str, load: Callable[[], None]) -> None:
    """Call *load*, which registers types, once a type of *module* turns up and it is imported."""
    with _LOCK:
        _PROVIDERS[module] = load


def _install(cls: type, name: str, hooks: tuple[Encoder, Decoder]) -> None:
    with _LOCK:
        older = _NAMES.get(name)
        if older is not None and older is not cls:
            if default_name(older) != default_name(cls):
                raise RegistryError(
                    f"the name {name!r} belongs to {type_name(older)} already; "
                    f"give {type_name(cls)} another one: register_type(cls, name=...)"
                )
            ENCODERS.pop(older, None)
        _NAMES[name] = cls
        ENCODERS[cls], DECODERS[name] = hooks
        if cls not in _WALKED:
            _PENDING.append(cls)


def _admit(cls: type) -> None:
    """Make *cls* known if it has fields; classes of its fields follow when they are needed."""
    if cls in ENCODERS or cls in SCALARS:
        return
    name = default_name(cls)
    hooks = class_hooks(cls, name)
    if hooks is not None:
        _install(cls, name, hooks)
    elif hasattr(cls, "__total__") and cls not in _WALKED:  # a TypedDict is stored as a dict
        with _LOCK:
            _PENDING.append(cls)


def _learn(kind: type) -> Encoder | None:
    """Look for the encoder of a type that the table does not have yet."""
    for module, attribute, encode in LISTED_ELSEWHERE:
        if kind is loaded(module, attribute):
            ENCODERS[kind] = encode
            return encode
    with _LOCK:
        _load_provider(str(kind.__module__))
        _walk_pending()
    return ENCODERS.get(kind)


def _learn_name(name: str) -> Decoder | None:
    with _LOCK:
        _load_provider(name)
        _walk_pending()
    return DECODERS.get(name)


def _load_provider(name: str) -> None:
    module = re.split(r"[.:]", name, maxsplit=1)[0]
    if module in _PROVIDERS and module in sys.modules:
        try:
            _PROVIDERS[module]()
        except (
            Exception
        ) as error:  # another thread may be half through importing it: try again then
            raise Refused(f": the codec for {module} cannot be loaded: {error!r}") from error
        del _PROVIDERS[module]


def _walk_pending() -> None:
    while _PENDING:
        cls = _PENDING.pop()
        if cls not in _WALKED:
            _WALKED.add(cls)
            for hint in _field_hints(cls):
                for found in _classes_in(hint):
                    _admit(found)


def _field_hints(cls: type) -> Iterator[Any]:
    """Yield the annotations of *cls* and its bases; each that cannot be evaluated is left out."""
    import inspect

    for owner in cls.__mro__:
        scope = vars(sys.modules.get(owner.__module__, typing))
        for name, hint in inspect.get_annotations(owner).items():
            holder = type("holder", (), {"__annotations__": {name: hint}})
            try:
                yield typing.get_type_hints(holder, scope, {owner.__name__: owner})[name]
            except Exception:  # a name that only type checkers see; its class is just not admitted
                continue


def _classes_in(hint: Any) -> Iterator[type]:
    """Yield the classes that an evaluated annotation names."""
    waiting, seen = [hint], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        origin = typing.get_origin(each)
        if origin is typing.Literal:
            yield from {type(member) for member in typing.get_args(each)}
        elif origin is typing.Annotated:
            waiting.append(each.__origin__)
        elif origin is not None:
            waiting += [origin, *typing.get_args(each)]
        elif isinstance(each, type):
            yield each
        elif isinstance(each, list):  # the parameters of a Callable
            waiting += each
        elif isinstance(each, TypeVar):
            waiting += [each.__bound__, *each.__constraints__]
        else:
            # NewType, and the aliases of the `type` statement
            waiting.append(getattr(each, "__supertype__", None) or getattr(each, "__value__", None))


def _no_stored_form(kind: type) -> Refused:
    """Return why values of *kind* are refused and what to do, to follow the value's path."""
    if kind is Secret:
        return Refused(
            " is a Secret, which is never stored; ",
            "keep it out of results, and give it again when the run is resumed: resume(inputs=...)",
            "give where it is kept instead, such as the name of an environment variable, and look "
            "it up when it is needed",
        )
    instead = vars(kind).get("__stored_instead__")
    if instead is not None:  # of a class of ours that belongs to its run
        return Refused(
            f" is of type {type_name(kind)}, which belongs to its run and has no stored form; "
            f"return {instead}",
            ", or mark the action @action(store=False)",
        )
    name = kind.__qualname__
    text = f" is of type {type_name(kind)}, which "
    current = _NAMES.get(default_name(kind))
    if current is not None and current is not kind:
        return Refused(text + "was defined again since; make the value anew, from the newer class")
    bases = kind.__mro__[1:-1]
    base = next((base for base in bases if base in SCALARS or base in ENCODERS), None)
    if class_hooks(kind, "") is not None:
        text += (
            f"is not known yet; register it with register_type({name}), or name it in the "
            "annotations of the action or the agent"
        )
    elif base is not None:
        text += (
            f"has no stored form: it would come back as {base.__qualname__}; convert it to "
            f"{base.__qualname__}, or use register_type({name}, encode=..., decode=...)"
        )
    else:
        text += (
            "has no stored form; return plain data, or use "
            f"register_type({name}, encode=..., decode=...)"
        )
    return Refused(text, ", or mark an action that returns it @action(store=False)")


FINDERS.encoder = _learn
FINDERS.decoder = _learn_name
FINDERS.refusal = _no_stored_form
