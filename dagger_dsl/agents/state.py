"""`SharedState`: values that agents share, in this process and in others, over any restart."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from dagger_dsl.model.policies import seconds

if TYPE_CHECKING:
    from dagger_dsl.store.shared_values import SharedValue, SharedValues

__all__ = ["SharedState"]


class SharedState:
    """The values of one scope of a database. Threads and processes may share it.

    Each change is one transaction: it is there after a kill, and two that add to one number never
    lose anything. Every reader gets a copy of its own; values are those of the codec, and large
    ones go to files. The scope of a job (`TaskContext.state`) has the job's id for its name, and
    goes with the job when that is pruned.

    Attributes:
        scope: Its name.
    """

    def __init__(self, values: SharedValues, scope: str) -> None:
        self._values = values
        self.scope = scope

    def __repr__(self) -> str:
        return f"<SharedState of scope {self.scope!r}>"

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or *default* where there is none."""
        found = self._values.get(self.scope, key)
        return default if found is None else found.value

    def entry(self, key: str) -> SharedValue | None:
        """Return a value with its version, and when it is gone; None where there is none."""
        return self._values.get(self.scope, key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._values.get(self.scope, key) is not None

    def set(self, key: str, value: Any, *, ttl: float | dt.timedelta | None = None) -> int:
        """Write a value, over the one that is there; return its version.

        Args:
            key: Which.
            value: Any value of the codec.
            ttl: Seconds (or a timedelta) after which it is gone; None for never.

        Raises:
            EncodingError: The value has no stored form.
            ConfigurationError: *key* or *ttl* cannot be.
        """
        return self._values.set(self.scope, key, value, _ttl(ttl))

    def compare_and_set(
        self, key: str, value: Any, version: int, *, ttl: float | dt.timedelta | None = None
    ) -> int | None:
        """Write a value if nobody has changed it; return its new version, None where somebody has.

        Args:
            key, value, ttl: As `set`.
            version: What `entry` said; 0 where there must be no value.
        """
        return self._values.compare_and_set(self.scope, key, value, version, _ttl(ttl))

    def increment(
        self, key: str, by: float = 1, *, ttl: float | dt.timedelta | None = None
    ) -> int | float:
        """Add to a number, 0 where there is no value; return what it is now.

        Args:
            key: Which.
            by: What to add.
            ttl: Seconds (or a timedelta) after which it is gone; None leaves what it has.

        Raises:
            InvalidState: The value is no number.
        """
        return self._values.increment(self.scope, key, by, _ttl(ttl))

    def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a value; return whether there was one (of this version, where one is given)."""
        return self._values.delete(self.scope, key, version)

    def keys(self) -> list[str]:
        """Return the keys, in order."""
        return self._values.keys(self.scope)

    def items(self) -> dict[str, Any]:
        """Return the values by their keys, in the order of these."""
        return {each.key: each.value for each in self._values.items(self.scope)}


def _ttl(value: float | dt.timedelta | None) -> float | None:
    return None if value is None else seconds(value, "ttl", zero=False)
