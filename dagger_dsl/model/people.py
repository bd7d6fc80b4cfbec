"""What a node's function answers when the next word is a person's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, final

import attrs

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.policies import seconds
from dagger_dsl.model.schema import compile_schema, faults_of, plain_schema
from dagger_dsl.model.types import misfit, schema_of
from dagger_dsl.model.values import MISSING

__all__ = ["HumanRequest"]


#: What a person's answer may be asked for as, for messages.
_SCHEMA = "the answer's schema"


def _read(given: Any) -> dict[str, Any]:
    """Return the schema that a schema or a type means."""
    if isinstance(given, Mapping):
        return plain_schema(given, _SCHEMA)
    schema = schema_of(given)
    # A type of which nothing is known would take any answer, which is not what it looks like.
    anything = given is Any or given is object
    if not anything and {} in (schema, *schema.get("anyOf", ())):
        raise ConfigurationError(
            f"{_SCHEMA} is a JSON Schema such as {{'type': 'boolean'}}, or a type that has one, "
            f"such as bool, not {shown(given)}; leave it out where any answer will do"
        )
    return plain_schema(schema, _SCHEMA)


def _check(schema: Mapping[str, Any], given: Any, default: Any) -> None:
    """Refuse a schema that cannot be read, and a default that does not fit it or its type."""
    what = "the default answer"
    validator = compile_schema(schema, _SCHEMA)
    fault = None if default is MISSING else faults_of(validator, default, what)
    if fault and not isinstance(given, Mapping):
        fault = misfit(default, given, what)
    if fault:
        raise ConfigurationError(fault)


@final
@attrs.frozen(init=False)
class HumanRequest:
    """Ends a body and lets its node wait for a person; see `NodeCtx.wait_for_human`.

    Attributes:
        prompt: What the person is asked.
        schema: JSON Schema of the answer, or a type that has one; None takes anything.
        default: The answer that is taken when the time is over; it fits the schema.
        timeout: Seconds (or timedelta) to wait; None takes the configuration's
            ``human_wait_minutes``.

    Raises:
        ConfigurationError: One of these cannot be one.
    """

    prompt: str
    schema: Mapping[str, Any] | None
    default: Any
    timeout: float | None

    def __init__(
        self,
        prompt: str,
        schema: Any = None,
        default: Any = MISSING,
        timeout: float | timedelta | None = None,
    ) -> None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise ConfigurationError(
                f"a person is asked by a text that is not empty, not {shown(prompt)}"
            )
        read = None if schema is None else _read(schema)
        if read is not None:
            _check(read, schema, default)
        limit = None if timeout is None else seconds(timeout, "timeout", zero=False)
        self.__attrs_init__(prompt, read, default, limit)
