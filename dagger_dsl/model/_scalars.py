"""Scalars of a plain document: each function checks one value and names its key in the error.

They raise `ConfigurationError`; `dagger_dsl.model._reading` adds the place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import id_problem, split_reference
from dagger_dsl.model.mapped import batch_of, depth_of, parallel_of
from dagger_dsl.model.policies import (
    DEFAULT_RETRY,
    CacheStrategy,
    Effects,
    OnFailure,
    RetryPolicy,
    RetryStrategy,
    Trigger,
    as_enum,
    seconds,
    whole_number,
)

#: The fields of a retry policy that are data, in the order they are written.
RETRY_FIELDS: Final = (
    "max_attempts",
    "base_delay",
    "max_delay",
    "multiplier",
    "backoff",
    "jitter",
    "retry_on",
)
RETRY_KEYS: Final = (*RETRY_FIELDS, "max_retries")

#: What ``onfailure`` may say beside the enum's words: booleans of YAML 1.1 and 1.2.
FAILURE_WORDS: Final[dict[Any, OnFailure]] = {
    **dict.fromkeys((False, "false", "no", "off", "n"), OnFailure.STOP),
    **dict.fromkeys((True, "true", "yes", "on", "y"), OnFailure.CONTINUE),
}


def short(value: Any) -> str:
    """Return *value* for a message, cut where it is long."""
    return shown(value, 80)


def kind(value: Any) -> str:
    """Return what *value* is, in the words of a document's author."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {short(value)}"
    if isinstance(value, str):
        return f"the text {short(value)}"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def found(value: Any) -> str:
    """Return what *value* is, with advice where a parser took it for no text."""
    unquoted = isinstance(value, (bool, int, float))
    return kind(value) + ("; put it in quotes" if unquoted else "")


def text(value: Any, key: str) -> str:
    """Return a text."""
    if isinstance(value, str):
        return value
    raise ConfigurationError(f"{key} must be text, not {found(value)}")


def word(value: Any, key: str) -> str:
    """Return a text that is not empty."""
    if value == "":
        raise ConfigurationError(f"{key} must not be empty")
    fault = half_character(value)
    if fault is not None:
        raise ConfigurationError(f"{key} {fault}")
    return text(value, key)


def half_character(value: Any) -> str | None:
    """Return why a text cannot be a name, or None: no database keeps a lone surrogate in names."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"has a lone surrogate, which is half a character: {short(value)}; take it out"
    return None


def name(value: Any, key: str) -> str:
    """Return a workflow's name."""
    text = word(value, key)
    if len(text) > 200 or "\0" in text:
        raise ConfigurationError(
            f"a workflow's name has 1 to 200 characters and no NUL, not {short(text)}"
        )
    return text


def node_id(value: Any, key: str) -> str:
    """Return a node's id."""
    checked = text(value, key)
    fault = half_character(checked)
    if fault is not None:
        raise ConfigurationError(f"an id {fault}")
    fault = id_problem(checked)
    if fault is not None:
        raise ConfigurationError(fault)
    return checked


def count(value: Any, key: str) -> int:
    """Return a whole number of at least 1."""
    return whole_number(value, key, kind=kind)


def depth(value: Any, key: str) -> int:
    """Return how many levels of lists are mapped over."""
    return depth_of(value, key, kind)


def batch(value: Any, key: str) -> int:
    """Return how many items one invocation is given."""
    return batch_of(value, key, kind)


def parallel(value: Any, key: str) -> int:
    """Return how many invocations may run at the same time."""
    return parallel_of(value, key, kind)


def duration(value: Any, key: str) -> float:
    """Return seconds above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{key} must be seconds, a number, not {kind(value)}")
    return seconds(value, key, zero=False)


def flag(value: Any, key: str) -> bool:
    """Return a boolean."""
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{key} must be true or false, not {kind(value)}")


def on_failure(value: Any, key: str) -> OnFailure:
    """Return a failure policy by its word."""
    return as_enum(OnFailure, value, key)


def trigger(value: Any, key: str) -> Trigger:
    """Return a trigger rule."""
    return as_enum(Trigger, value, key)


def effects(value: Any, key: str) -> Effects:
    """Return what recovery may do."""
    return as_enum(Effects, value, key)


def label(value: Any, key: str) -> str:
    """Return a branch label."""
    # A boolean label is the text that the engine makes of a boolean result.
    return str(value).lower() if isinstance(value, bool) else word(value, key)


def reference(value: Any, key: str) -> str:
    """Return a well-formed reference."""
    split_reference(value)
    return word(value, key)


def cache(value: Any, key: str) -> CacheStrategy:
    """Return a cache strategy."""
    if isinstance(value, str) and value.strip().lower() in ("always", "never"):
        return CacheStrategy(value.strip().lower())
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        given = {name.lower(): content for name, content in value.items()}
        if "custom" in given and given.keys() <= {"custom", "ttl"}:
            limit = duration(given["ttl"], "ttl") if "ttl" in given else None
            return CacheStrategy.custom(word(given["custom"], "custom"), limit)
        chosen = _chosen_inputs(given.pop("inputs")) if "inputs" in given else None
        if given.keys() == {"ttl"}:
            return CacheStrategy.ttl(duration(given["ttl"], "ttl"), inputs=chosen)
        if given.keys() == {"always"} and given["always"] is True:
            return CacheStrategy.always(inputs=chosen)
    raise ConfigurationError(
        f"{key} must be 'always', 'never', {{ttl: seconds}} or {{custom: key}}, not {kind(value)}; "
        "where only some inputs count, {ttl: seconds, inputs: [names]} or "
        "{always: true, inputs: [names]}"
    )


def _chosen_inputs(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ConfigurationError(f"inputs must be a list of names, not {kind(value)}")
    return [word(each, "a name in inputs") for each in value]


def named_retry(value: str, key: str) -> RetryPolicy:
    """Return the retry policy of a name."""
    named = {"immediate": RetryStrategy.IMMEDIATE, "exponential": DEFAULT_RETRY}
    policy = named.get(value.strip().lower())
    if policy is None:
        raise ConfigurationError(
            f"{key} must be 'immediate', 'exponential', a number of retries or a mapping of "
            f"{', '.join(RETRY_KEYS)}, not {kind(value)}"
        )
    return policy


def retries(value: Any, key: str) -> RetryPolicy:
    """Return the policy of so many extra calls."""
    if type(value) is not int or value < 0:
        raise ConfigurationError(
            f"{key} must be a whole number of at least 0, or a mapping, not {kind(value)}"
        )
    return RetryPolicy(max_retries=value)


def retry_field(value: Any, key: str) -> Any:
    """Return one field of a retry policy, checked by the policy itself."""
    if key == "retry_on":
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ConfigurationError(f"{key} must be a list of category names, not {kind(value)}")
    RetryPolicy(**{key: value})
    return value


def config_field(value: Any, key: str) -> Any:
    """Return one field of a configuration, checked by the configuration itself."""
    DagConfig(**{key: value})
    return value
