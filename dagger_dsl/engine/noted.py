"""`Noted`: one value of a run's metadata as it was recorded, and what has changed since.

To encode all of a value at every commit costs the square of what a run gathers. So the parts of a
list or dict are compared by identity first, which finds what was added or put in another's place;
objects that are the same may have changed inside, and are compared by their plain form when the
value is small, when the time since the last such comparison is long beside what that one took, and
whenever the run pauses, waits or ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from operator import is_
from typing import Any, Final, TypeAlias

import attrs

__all__ = ["ATOMS", "Change", "Noted", "apply", "merge"]

#: Up to so many bytes a value is compared wholly each time.
_SMALL: Final = 2048

#: Comparisons of a whole value take at most this part of a run's time.
_SHARE: Final = 0.05

#: So many of the last items of a list are compared by identity.
_WINDOW: Final = 256

#: What cannot change inside.
ATOMS: Final = (str, int, float, bool, type(None), bytes)
_TAG: Final = "$type"

#: By kind of change, what it says of one value.
Change: TypeAlias = dict[str, Any]


@attrs.define(eq=False)
class Noted:
    """A value as it was recorded.

    Attributes:
        text: The JSON of its plain form; of a list or a dict, of each part.
        size: How many bytes that is.
        seen: What it was: of a list or dict a copy, which keeps the parts alive, so that an
            identity means something.
        whole: The value itself.
        checked: When it was last compared wholly, in the run's seconds.
        cost: How long that took.
    """

    text: Any
    size: int
    seen: Any
    whole: Any
    checked: float
    cost: float

    @classmethod
    def of(cls, plain: Any, value: Any, seen: Any, began: float, now: float) -> Noted:
        """Return what there is to know of a value whose plain form was just made."""
        text = _texts(plain)
        parts = text.values() if isinstance(text, dict) else text
        size = len(text) if isinstance(text, bytes) else sum(map(len, parts))
        return cls(text, size, seen, value, now, now - began)

    def is_due(self, now: float) -> bool:
        """Return whether what is the same object is to be compared by what is in it."""
        return self.size <= _SMALL or (now - self.checked) * _SHARE >= self.cost

    def added(self, value: Any) -> dict[str, Any] | list[Any] | None:
        """Return the parts of the same list or dict that are new or replaced, None if not told.

        Of a list it is what stands behind the items that were noted, of a dict a dict. An empty
        one says that no part was added or replaced.
        """
        if value is not self.whole:
            return None
        kind = type(value)
        if kind in ATOMS or (kind is not list and kind is not dict):
            return []
        if kind is list and isinstance(self.text, list):
            many = len(self.text)
            first = max(0, many - _WINDOW)
            now: list[Any] = value[first:]
            if len(now) < many - first or not all(map(is_, now, self.seen[first:])):
                return None
            return now[many - first :]
        if kind is dict and isinstance(self.text, dict):
            return self._keys(value.copy())
        return []  # a dict with other keys than text has one plain form

    def _keys(self, now: dict[Any, Any]) -> dict[str, Any] | None:
        seen = self.seen
        many = len(seen)
        if len(now) < many or not all(map(is_, now, seen)):
            return None
        found: dict[str, Any] = {}
        if not all(map(is_, now.values(), seen.values())):
            pairs = zip(now.items(), seen.values(), strict=False)
            found = {name: each for (name, each), before in pairs if each is not before}
        fresh = dict(islice(now.items(), many, None))
        if any(type(name) is not str or not name.isascii() or name == _TAG for name in fresh):
            return None
        return found | fresh

    def extend(self, parts: Any, plain: Any) -> None:
        """Take over what `added` found, and its plain form."""
        text = _texts(plain)
        if isinstance(parts, list):
            self.seen.extend(parts)
            self.text.extend(text)
        else:
            self.seen.update(parts)
            self.text.update(text)
        self.size += sum(map(len, text.values() if isinstance(text, dict) else text))

    def change(self, now: Noted, plain: Any) -> Change:
        """Return how the record of this value becomes that of another; nothing when it is equal."""
        old, new = self.text, now.text
        if type(old) is not type(new) or isinstance(new, bytes) or not old:
            return {} if type(old) is type(new) and old == new else {"set": plain}
        if isinstance(new, list):
            if len(new) < len(old):
                return {"set": plain}
            places = [k for k, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
            if len(places) > len(old) // 2:
                return {"set": plain}
            found: Change = {"at": [[k, plain[k]] for k in places]} if places else {}
            if len(new) > len(old):
                found["more"] = plain[len(old) :]
            return found
        stay = [name for name in old if name in new]
        lost = [name for name in old if name not in new]
        keys = {name: plain[name] for name in new if old.get(name) != new[name]}
        replaced = sum(name in old for name in keys)
        if list(islice(new, len(stay))) != stay or replaced + len(lost) > len(old) // 2:
            return {"set": plain}
        found = {"keys": keys} if keys else {}
        if lost:
            found["lost"] = lost
        return found


def merge(change: dict[str, Any], name: str, found: Change) -> None:
    """Add what has changed of one value to what a note says of all."""
    for kind, each in found.items():
        change.setdefault(kind, {})[name] = each


def apply(metadata: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Do to the plain metadata what one note says, in place; its containers belong to it."""
    metadata.update(change.get("set", {}))
    for name, pairs in change.get("at", {}).items():
        for place, each in pairs:
            metadata[name][place] = each
    for name, more in change.get("more", {}).items():
        metadata[name].extend(more)
    for name, lost in change.get("lost", {}).items():
        for key in lost:
            metadata[name].pop(key, None)
    for name, keys in change.get("keys", {}).items():
        metadata[name].update(keys)
    for name in change.get("gone", ()):
        metadata.pop(name, None)


def _texts(plain: Any) -> Any:
    """Return the JSON of a plain form; of a list or an untagged dict, of each part."""
    import orjson  # only runs that are recorded come here

    if isinstance(plain, list):
        return [orjson.dumps(each) for each in plain]
    if isinstance(plain, dict) and _TAG not in plain:
        return {name: orjson.dumps(each) for name, each in plain.items()}
    return orjson.dumps(plain)
