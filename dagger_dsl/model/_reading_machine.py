"""Reading the ``machine:`` of a plain document; see `Reader`, which collects what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.model import _scalars as scalars
from dagger_dsl.model.machine import Machine, Transition

if TYPE_CHECKING:
    from dagger_dsl.model._reading import PlainPath, Reader

_MACHINE_KEYS: Final = (
    "initial",
    "terminal",
    "max_cycles",
    "history_limit",
    "hook",
    "transitions",
)
_TRANSITION_KEYS: Final = ("source", "target", "condition")


def read_machine(reader: Reader, plain: Any, path: PlainPath) -> Machine | None:
    """Return what makes a graph a state machine, as far as it could be read."""
    table = reader.mapping(plain, path, "a machine")
    if table is None:
        return None
    before = reader.errors
    fields: dict[str, Any] = {}
    for key, value in table.items():
        where = (*path, key)
        if key not in _MACHINE_KEYS:
            reader.unknown(key, path, "a machine", _MACHINE_KEYS)
        elif value is None:
            pass
        elif key == "terminal":
            fields["terminal"] = reader.texts(value, where, "terminal")
        elif key == "transitions":
            found = [
                _transition(reader, each, (*where, index))
                for index, each in enumerate(reader.items(value, where, "transitions"))
            ]
            fields["transitions"] = [each for each in found if each is not None]
        elif key in ("max_cycles", "history_limit"):
            fields[key] = value
        else:
            reader.simple(fields, key, scalars.word, value, where)
    if table.get("initial") is None:
        reader.report(path, "a machine needs 'initial', the state it begins in", "missing-key")
    if reader.errors > before:
        return None
    return reader.made(lambda: Machine(**fields), path)


def _transition(reader: Reader, plain: Any, path: PlainPath) -> Transition | None:
    """Return one transition: ``{source, target, condition}`` or ``[source, target]``."""
    if isinstance(plain, list) and len(plain) == 2:
        plain = {"source": plain[0], "target": plain[1]}
    table = reader.mapping(plain, path, "a transition")
    if table is None:
        return None
    before = reader.errors
    fields: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _TRANSITION_KEYS:
            reader.unknown(key, path, "a transition", _TRANSITION_KEYS)
        elif value is not None:
            reader.simple(fields, key, scalars.word, value, (*path, key))
    for key in ("source", "target"):
        if table.get(key) is None:
            reader.report(path, f"a transition needs {key!r}, a state", "missing-key")
    return Transition(**fields) if reader.errors == before else None
