"""What a node's function answers when the next word is a person's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, final

import attrs

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.policies import seconds
from dagger_dsl.model.values import MISSING

__all__ = ["HumanRequest"]


def _text(_: Any, __: Any, prompt: Any) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigurationError(
            f"a person is asked by a text that is not empty, not {shown(prompt)}"
        )


def _schema(_: Any, __: Any, schema: Any) -> None:
    if schema is not None and not isinstance(schema, Mapping):
        raise ConfigurationError(
            "the answer's schema is a JSON Schema such as {'type': 'boolean'}, or a type such as "
            f"bool, not {shown(schema)}"
        )


#: What nobody means as a type.
_VALUES = (str, bytes, bool, int, float, complex, list, tuple, set, frozenset)


def _as_schema(given: Any) -> Any:
    if given is None or isinstance(given, (Mapping, *_VALUES)):
        return given
    from dagger_dsl.model.types import schema_of

    return schema_of(given)


def _seconds(given: float | timedelta | None) -> float | None:
    return None if given is None else seconds(given, "timeout", zero=False)


@final
@attrs.frozen
class HumanRequest:
    """Ends a body and lets its node wait for a person; see `NodeCtx.wait_for_human`.

    Attributes:
        prompt: What the person is asked.
        schema: JSON Schema of the answer, or a type; None takes anything.
        default: The answer that is taken when the time is over.
        timeout: Seconds (or timedelta) to wait; None takes the configuration's
            ``human_wait_minutes``.

    Raises:
        ConfigurationError: One of these cannot be one.
    """

    prompt: str = attrs.field(validator=_text)
    schema: Mapping[str, Any] | None = attrs.field(
        default=None, converter=_as_schema, validator=_schema
    )
    default: Any = MISSING
    timeout: float | None = attrs.field(default=None, converter=_seconds)
