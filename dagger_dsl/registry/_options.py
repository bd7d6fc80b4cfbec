"""The options of ``@action`` and of nodes: names, aliases, and what their values mean."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from dagger_dsl.errors import (
    ConfigurationError,
    did_you_mean,
    shown,
)
from dagger_dsl.model.graph import check_texts
from dagger_dsl.model.policies import (
    CacheStrategy,
    Effects,
    OnFailure,
    RetryPolicy,
    Trigger,
    as_enum,
    attempts_from_retries,
    seconds,
    whole_number,
)
from dagger_dsl.retry import as_policy

__all__ = ["CALL_OPTIONS", "read_options"]

#: What can be said of the calls of anything, whatever is called.
CALL_OPTIONS = (
    "timeout",
    "try_count",
    "retry",
    "max_retries",
    "retry_delay",
    "retry_backoff",
    "on_failure",
    "failure",
    "fallback",
    "effects",
    "description",
)

_ALIASES = {
    "attempts": "try_count",
    "on_error": "failure",
    "cache": "cache_strategy",
}


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{what} is a list of words, not {shown(value)}")
    words = tuple(value)
    if not all(isinstance(word, str) and word for word in words):
        raise ConfigurationError(f"{what} is a list of words, not {shown(value)}")
    return words


def _described(value: Any, what: str) -> dict[str, str]:
    """Return names with descriptions: from a list of names, a mapping, or `Output` values."""
    if isinstance(value, Mapping):
        pairs = [(name, "" if text is None else text) for name, text in value.items()]
    elif isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{what} is a list of names, not {shown(value)}")
    else:
        pairs = [
            (each, "")
            if isinstance(each, str)
            else (getattr(each, "name", each), getattr(each, "description", ""))
            for each in value
        ]
    for name, _ in pairs:
        if not isinstance(name, str) or not name or "\0" in name:
            raise ConfigurationError(
                f"{what}: a name is a text that is not empty, not {shown(name)}"
            )
    check_texts(what, {f"the description of {shown(name)}": text for name, text in pairs})
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(f"{what} has {shown(twice)} twice")
    return dict(pairs)


def _schema_option(value: Any, what: str) -> Mapping[str, Any]:
    if isinstance(value, (str, bytes)):
        import json  # only schemas written as text pay for it

        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{what} is a JSON Schema, a mapping or its JSON text, not {shown(value)}"
        )
    return MappingProxyType(dict(value))


def _count(value: Any, what: str) -> int:
    return whole_number(value, f"{what} counts calls, the first included, and")


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{what} is True or False, not {shown(value)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{what} is a text, not {shown(value)}")
    return value


def _cache(value: Any, what: str) -> CacheStrategy:
    if isinstance(value, CacheStrategy):
        return value
    if isinstance(value, bool):
        return CacheStrategy.ALWAYS if value else CacheStrategy.NEVER
    if isinstance(value, (int, float, timedelta)):
        return CacheStrategy.ttl(value)
    raise ConfigurationError(
        f"{what} is a CacheStrategy, True, False or the seconds a result stays fresh, not "
        f"{shown(value)}"
    )


def _described_inputs(value: Any, what: str) -> dict[str, str]:
    return _described(value, what)


def _uses(value: Any, what: str) -> Any:
    from dagger_dsl.registry._leases import read_uses  # who lends nothing does not load it

    return read_uses(value, what)


def _memory(value: Any, what: str) -> int:
    from dagger_dsl.model.resources import byte_count  # who declares nothing does not load it

    return byte_count(value, what)


def _keep(value: Any, what: str) -> Any:
    return value


_CONVERT: dict[str, Callable[[Any, str], Any]] = {
    "inputs": _described_inputs,
    "outputs": _described,
    "input_schema": _schema_option,
    "output_schema": _schema_option,
    "timeout": lambda value, what: seconds(value, what, zero=False),
    "try_count": _count,
    "retry": _keep,
    "max_retries": attempts_from_retries,
    "retry_delay": seconds,
    "retry_backoff": _keep,
    "on_failure": lambda value, what: as_enum(OnFailure, value, what),
    "failure": _keep,
    "fallback": _keep,
    "cache_strategy": _cache,
    "trigger": lambda value, what: as_enum(Trigger, value, what),
    "store": _flag,
    "keep": _flag,
    "effects": lambda value, what: as_enum(Effects, value, what),
    "uses": lambda value, what: _uses(value, what),
    "memory": lambda value, what: _memory(value, what),
    "version": _text,
    "tags": _texts,
    "description": _text,
}


def read_options(
    given: Mapping[str, Any],
    what: str,
    allowed: Collection[str] | None = None,
    extra: Mapping[str, Callable[[Any, str], Any]] | None = None,
) -> dict[str, Any]:
    """Return what options mean, by the names of `ActionDef`'s fields; None says nothing.

    Args:
        given: As they were written, aliases included.
        what: Who takes them, for errors.
        allowed: The options that make sense there; all of an action's by default.
        extra: Further options and what checks their values.

    Raises:
        ConfigurationError: One is unknown, has an impossible value or is given twice.
    """
    known = {**_CONVERT, **(extra or {})}
    if allowed is not None:
        known = {name: known[name] for name in allowed}
    found: dict[str, Any] = {}
    for spelled, value in given.items():
        name = _ALIASES.get(spelled, spelled)
        if name not in known:
            aliases = (alias for alias, field in _ALIASES.items() if field in known)
            hint = did_you_mean(spelled, (*known, *aliases))
            raise ConfigurationError(f"{what}: there is no option {shown(spelled)}{hint}")
        if value is None:
            continue
        if name in found:
            raise ConfigurationError(
                f"{what}: {shown(spelled)} is given twice, once as {shown(name)}"
            )
        found[name] = known[name](value, f"{what}: {spelled}")
    _fold_retries(found, what)
    if "outputs" in found:
        described = found["outputs"]
        found["outputs"] = tuple(described)
        found["output_docs"] = {name: text for name, text in described.items() if text}
    return found


def _fold_retries(found: dict[str, Any], what: str) -> None:
    """Turn the retry options of all documents into `try_count` and one `RetryPolicy`."""
    delay, growth = found.pop("retry_delay", None), found.pop("retry_backoff", None)
    calls = found.pop("max_retries", None)
    retry = found.pop("retry", None)
    if isinstance(retry, int) and not isinstance(retry, bool):
        if calls is not None:
            raise ConfigurationError(f"{what}: give retry= or max_retries=, not both")
        calls, retry = attempts_from_retries(retry, f"{what}: retry"), None
    if calls is not None:
        if "try_count" in found:
            raise ConfigurationError(
                f"{what}: give attempts= (calls in all) or retry= (extra calls), not both"
            )
        found["try_count"] = calls
    if retry is not None:
        if delay is not None or growth is not None:
            raise ConfigurationError(
                f"{what}: retry_delay= and retry_backoff= go with a number of retries; "
                "write them into the RetryPolicy"
            )
        found["retry"] = as_policy(retry, f"{what}: retry")
    elif delay is not None or growth is not None:
        found["retry"] = RetryPolicy(
            base_delay=1.0 if delay is None else delay,
            multiplier=2.0 if growth is None else growth,
        )
