"""`CacheBackend`: where results are shared when neither this process nor the run's database is it.

A backend keeps one text for each key, as caches of other projects do: `diskcache.Cache` and a Redis
client fit as they are. What is in the text is checked as everything that is read from outside.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
from typing import Any, Protocol

from dagger_dsl.errors import ConfigurationError, DecodingError, shown
from dagger_dsl.model.caching import Remembered
from dagger_dsl.model.values import from_plain, to_plain

__all__ = ["CacheBackend", "Shelf"]

logger = logging.getLogger("dagger_dsl.engine")

_TEXTS = ("key", "action", "version", "input_hash", "run_id", "node_id")


class CacheBackend(Protocol):
    """Keeps results for other runs; ``@dag.cached_node(backend=...)`` and `CacheStrategy` take it.

    Both methods are called between nodes, one call at a time for each run, from any thread: they
    shall be quick. Where one raises, the node is called as if there were no cache, and
    `explain_cache` says so.
    """

    def get(self, key: str, /) -> str | bytes | None:
        """Return what was kept last under a key; None when nothing is, or it is too old."""
        ...

    def set(self, key: str, entry: str, ttl: int | None, /) -> object:
        """Keep a text.

        Args:
            key: A text of 64 characters, the same for the same action, code and inputs.
            entry: JSON.
            ttl: Seconds after which it is of no use any more; None for never.
        """
        ...


class Shelf:
    """A backend as the engine uses it: values instead of texts.

    Args:
        backend: It.
    """

    def __init__(self, backend: CacheBackend) -> None:
        self._backend = backend
        self._seen: list[Remembered] = []

    def recall(self, key: str) -> tuple[Any, Remembered] | None:
        """Return a result and what is known of it, however old it is.

        Raises:
            ConfigurationError: The backend failed.
            DecodingError: What it returned is no entry.
        """
        try:
            text = self._backend.get(key)
        except Exception as error:  # whatever their library raises
            raise self._failed("get", error) from error
        if text is None:
            return None
        memo, plain = _read(text)
        self._seen.append(memo)
        return from_plain(plain, f"the shared result {key!r}"), memo

    def memos(self) -> list[Remembered]:
        """Return what is known of the results that were found."""
        return self._seen

    def remember(self, memo: Remembered, value: Any) -> None:
        """Keep a result.

        Raises:
            EncodingError: It has no stored form.
            ConfigurationError: The backend failed.
        """
        import orjson  # runs that share no results never come here

        fields = {name: getattr(memo, name) for name in _TEXTS}
        end = memo.expires_at
        fields["created_at"] = memo.created_at.isoformat()
        fields["expires_at"] = None if end is None else end.isoformat()
        fields["value"] = to_plain(value, f"the result of node {memo.node_id!r}")
        ttl = None if end is None else math.ceil((end - memo.created_at).total_seconds())
        try:
            self._backend.set(memo.key, orjson.dumps(fields).decode(), ttl)
        except Exception as error:  # whatever their library raises
            raise self._failed("set", error) from error

    def _failed(self, what: str, error: Exception) -> ConfigurationError:
        text = f"its cache backend {shown(self._backend, 60)} failed: {what} raised {error!r}"
        logger.warning("%s", text)
        return ConfigurationError(text)


def _read(text: Any) -> tuple[Remembered, Any]:
    """Return what an entry says; it may have been written by anybody."""
    import orjson

    try:
        fields = orjson.loads(text)
        texts = {name: fields[name] for name in _TEXTS}
        if not all(isinstance(each, str) for each in texts.values()):
            raise TypeError("a field is no text")
        end = fields["expires_at"]
        memo = Remembered(
            **texts,
            created_at=_moment(fields["created_at"]),
            expires_at=None if end is None else _moment(end),
        )
        return memo, fields["value"]
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise DecodingError(f"the cache backend returned something else: {error!r}") from error


def _moment(text: str) -> dt.datetime:
    found = dt.datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time without a zone")
    return found
