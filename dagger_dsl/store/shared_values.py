"""`SharedValues`: what agents share: values by scope and key, each with a version.

A value that was deleted, or whose time is over, is gone for readers at once. Its row stays for an
hour, so that a key that comes back goes on with its versions: who read the old value cannot
overwrite the new one by mistake.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from typing import Any, Final

import attrs
import sqlalchemy as sa

from dagger_dsl.errors import ConfigurationError, InvalidState, shown
from dagger_dsl.store.arguments import check_new_name, check_number
from dagger_dsl.store.batches import INSERT_ARTIFACT, Upsert, file_row
from dagger_dsl.store.schema import shared_values as table
from dagger_dsl.store.task_reads import TaskTable
from dagger_dsl.store.task_steps import utc
from dagger_dsl.store.transactions import Statement, Transaction, read, run_transaction

__all__ = ["KEPT_AFTER", "SharedValue", "SharedValues"]

#: Seconds for which the row of a value is kept that is gone for readers.
KEPT_AFTER: Final = 3600.0

#: Characters of a scope or a key, at most.
_LONGEST: Final = 500

_scope = sa.bindparam("the_scope", type_=sa.Text())
_key = sa.bindparam("the_key", type_=sa.Text())
_now: sa.BindParameter[float] = sa.bindparam("the_moment", type_=sa.Double())
_lives = sa.or_(table.c.expires_at.is_(None), table.c.expires_at > _now)
_COLUMNS: Final = (
    table.c.entry_key,
    table.c.value,
    table.c.artifact_id,
    table.c.version,
    table.c.expires_at,
)
_ONE: Final = Statement(
    sa.select(*_COLUMNS).where(table.c.scope == _scope, table.c.entry_key == _key)
)
_ALL: Final = Statement(
    sa.select(*_COLUMNS).where(table.c.scope == _scope, _lives).order_by(table.c.entry_key)
)
_KEYS: Final = Statement(
    sa.select(table.c.entry_key).where(table.c.scope == _scope, _lives).order_by(table.c.entry_key)
)
_SCOPES: Final = Statement(
    sa.select(table.c.scope).where(_lives).distinct().order_by(table.c.scope)
)
_PUT: Final = Upsert(
    table,
    ("scope", "entry_key", "value", "artifact_id", "version", "expires_at"),
    ("value", "artifact_id", "version", "expires_at"),
)

#: What a value is encoded to: inline, or the id of an artifact and its size.
_Encoded = tuple[str | None, str | None, int]


@attrs.frozen
class SharedValue:
    """A shared value as it stood when it was read.

    Attributes:
        key: Its key.
        value: The value, always a fresh copy.
        version: Rises with every change of the key.
        expires_at: When it is gone, UTC; None for never.
    """

    key: str
    value: Any
    version: int
    expires_at: dt.datetime | None


class SharedValues(TaskTable):
    """The shared values of one database; threads and processes may share it."""

    def get(self, scope: str, key: str) -> SharedValue | None:
        """Return a value; None where there is none.

        Raises:
            DecodingError: This process does not know a stored type.
            StoreDamaged: Its artifact is not what was written.
        """
        _check_names(scope, key)
        rows = read(self._database, _ONE, (scope, key))
        if not rows or not self._is_alive(rows[0][4], self.now()):
            return None
        return self._shared(rows[0])

    def items(self, scope: str) -> list[SharedValue]:
        """Return the values of a scope, in the order of their keys."""
        _check_names(scope)
        values = {"the_scope": scope, "the_moment": self.now()}
        return [self._shared(row) for row in read(self._database, _ALL, _ALL.in_order(values))]

    def keys(self, scope: str) -> list[str]:
        """Return the keys of a scope, in order."""
        _check_names(scope)
        values = {"the_scope": scope, "the_moment": self.now()}
        return [str(key) for (key,) in read(self._database, _KEYS, _KEYS.in_order(values))]

    def scopes(self) -> list[str]:
        """Return the scopes that have values, in order."""
        return [str(scope) for (scope,) in read(self._database, _SCOPES, (self.now(),))]

    def set(self, scope: str, key: str, value: Any, ttl: float | None = None) -> int:
        """Write a value, over the one that is there; return its version.

        Args:
            scope, key: Where.
            value: Any value of the codec.
            ttl: Seconds after which it is gone; None for never.

        Raises:
            EncodingError: The value has no stored form.
            StoreError: It cannot be stored now.
        """
        _check_names(scope, key)
        encoded = self._encoded(scope, key, value)
        return self._change(scope, key, lambda row, alive: (encoded, self._end(ttl)))

    def compare_and_set(
        self, scope: str, key: str, value: Any, version: int, ttl: float | None = None
    ) -> int | None:
        """Write a value if the key has this version; return the new one, None where it has not.

        Args:
            scope, key, value, ttl: As `set`.
            version: The version that it has to have; 0 where there must be no value.
        """
        _check_names(scope, key)
        check_number("version", version)
        encoded = self._encoded(scope, key, value)

        def change(row: Any, alive: bool) -> tuple[_Encoded, float | None] | None:
            if (row[3] if alive else 0) != version:
                return None
            return encoded, self._end(ttl)

        return self._change(scope, key, change) or None

    def increment(
        self, scope: str, key: str, by: float = 1, ttl: float | None = None
    ) -> int | float:
        """Add to a number, 0 where there is no value; return what it is now.

        Args:
            scope, key: Where.
            by: What to add.
            ttl: Seconds after which it is gone; None leaves what it has.

        Raises:
            InvalidState: The value is no number, or the sum is none that can be stored.
        """
        _check_names(scope, key)
        if not _is_number(by):
            raise ConfigurationError(f"increment adds a finite number, not {shown(by)}")
        total: int | float = 0

        def change(row: Any, alive: bool) -> tuple[_Encoded, float | None]:
            nonlocal total
            if alive and row[2] is not None:  # no number is large enough for a file
                raise InvalidState(
                    f"{shown(key)} of scope {shown(scope)} is too large for a number that "
                    "can be added to; set a number first"
                )
            found = self._payloads.decode(row[1], None) if alive else 0
            if not _is_number(found):
                raise InvalidState(
                    f"{shown(key)} of scope {shown(scope)} is {shown(found)}, which nothing can be "
                    "added to; set a number first"
                )
            total = found + by
            if not _is_number(total):
                raise InvalidState(
                    f"{shown(key)} of scope {shown(scope)} would become {shown(total)}, which "
                    "is no finite number"
                )
            end = row[4] if alive and ttl is None else self._end(ttl)
            return self._encoded(scope, key, total), end

        self._change(scope, key, change)
        return total

    def delete(self, scope: str, key: str, version: int | None = None) -> bool:
        """Remove a value; return whether there was one.

        Args:
            scope, key: Which.
            version: The version that it has to have; None for whatever there is.
        """
        _check_names(scope, key)
        if version is not None:
            check_number("version", version)

        def change(row: Any, alive: bool) -> tuple[_Encoded, float | None] | None:
            if not alive or version not in (None, row[3]):
                return None
            return (None, None, 0), self.now()

        return self._change(scope, key, change) > 0

    def _change(
        self,
        scope: str,
        key: str,
        change: Callable[[Any, bool], tuple[_Encoded, float | None] | None],
    ) -> int:
        """Put in the place of a row what *change* makes of it; return the version, 0 for none."""
        version = 0

        def write(tx: Transaction) -> None:
            nonlocal version
            rows = tx.rows(_ONE, (scope, key))
            row = rows[0] if rows else None
            alive = row is not None and self._is_alive(row[4], self.now())
            made = change(row, alive)
            version = 0
            if made is None:
                return
            (text, artifact_id, size), end = made
            version = 1 if row is None else row[3] + 1
            dialect = self._database.dialect
            if artifact_id is not None:
                tx.execute_many(INSERT_ARTIFACT(dialect), [file_row(artifact_id, size)])
            tx.execute(_PUT(dialect), (scope, key, text, artifact_id, version, end))

        run_transaction(self._database, write)
        return version

    def _encoded(self, scope: str, key: str, value: Any) -> _Encoded:
        what = f"the value of {key!r} of scope {scope!r}"
        inline, artifact_id, size = self.encoded(value, what)
        return None if inline is None else inline.decode(), artifact_id, size

    def _end(self, ttl: float | None) -> float | None:
        return None if ttl is None else self.now() + ttl

    @staticmethod
    def _is_alive(expires_at: float | None, now: float) -> bool:
        return expires_at is None or expires_at > now

    def _shared(self, row: Any) -> SharedValue:
        key, text, artifact_id, version, end = row
        value = self._payloads.decode(text, artifact_id, f"the shared value {key!r}")
        return SharedValue(str(key), value, version, None if end is None else utc(end))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and (type(value) is int or math.isfinite(value))


def _check_names(scope: Any, key: Any = "a key") -> None:
    for what, name in (("a scope", scope), ("a key", key)):
        check_new_name(what, name)
        if len(name) > _LONGEST:
            raise ConfigurationError(
                f"{what} has at most {_LONGEST} characters, and {shown(name)} has {len(name):,}"
            )
