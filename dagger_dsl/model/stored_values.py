"""Values that are decoded when they are first asked for.

Who lists 20,000 tasks looks at the values of few; and who looks at tasks whose values are of types
that this process does not know can see everything else of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import orjson

from dagger_dsl.errors import DecodingError, StoreError
from dagger_dsl.model.text import first_line
from dagger_dsl.model.values import to_shown

__all__ = ["Shown", "StoredValue", "WithStoredValues", "for_people"]


class StoredValue:
    """What a field is given in place of its value; a plain class, as lists of tasks make many.

    Args:
        read: Called with what follows it; returns the stored form.
        decode: Likewise; returns the value, and may raise what decoding raises.
        inline, artifact_id: Where the value is.
    """

    __slots__ = ("_artifact_id", "_decode", "_inline", "_read")

    def __init__(
        self,
        read: Callable[[bytes | None, str | None], bytes],
        decode: Callable[[bytes | None, str | None], Any],
        inline: bytes | None,
        artifact_id: str | None,
    ) -> None:
        self._read = read
        self._decode = decode
        self._inline = inline
        self._artifact_id = artifact_id

    def stored(self) -> bytes:
        """Return the stored form."""
        return self._read(self._inline, self._artifact_id)

    def value(self) -> Any:
        """Return the value."""
        return self._decode(self._inline, self._artifact_id)


class WithStoredValues:
    """Base of frozen attrs classes some of whose fields may be given as a `StoredValue`.

    A field that was given one becomes the value when it is first read; a `DecodingError`, or what
    an artifact's file makes of it, is raised there, each time.

    Attributes:
        _may_be_stored: The names of these fields.
    """

    __slots__ = ("_stored",)

    _may_be_stored: ClassVar[tuple[str, ...]]
    _stored: dict[str, StoredValue]

    def __attrs_post_init__(self) -> None:
        """Take the stored values out of their fields: Python asks `__getattr__` for those then."""
        found = {}
        for name in self._may_be_stored:
            value = getattr(self, name)
            if type(value) is StoredValue:
                found[name] = value
                object.__delattr__(self, name)
        if found:
            object.__setattr__(self, "_stored", found)

    if not TYPE_CHECKING:  # it would let any name pass

        def __getattr__(self, name: str) -> Any:
            if name in self._may_be_stored:
                value = self._stored[name].value()
                object.__setattr__(self, name, value)
                return value
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
            )


@attrs.frozen
class Shown:
    """What people see of a value.

    Attributes:
        value: The value; where this process cannot decode it, its stored form, which is plain.
        note: Why it is the stored form; empty where it is not.
    """

    value: Any
    note: str = ""

    @property
    def plain(self) -> Any:
        """A plain form of it, in which it is the same whether it was decoded or not."""
        return self.value if self.note else to_shown(self.value)


def for_people(owner: WithStoredValues, name: str) -> Shown:
    """Return what people see of a field, also where it cannot be decoded here."""
    try:
        return Shown(getattr(owner, name))
    except (DecodingError, StoreError) as error:
        note = first_line(error, 400)
    with contextlib.suppress(StoreError, ValueError):
        return Shown(orjson.loads(owner._stored[name].stored()), note)
    return Shown(None, note)
