"""JSON Schemas as people write them: can one be recorded and read, and does a value fit it.

A schema travels between processes and stands in journals, so it is plain JSON of its own, and it is
given to a validator where it is written: one that nobody can read would hold up whoever waits for a
value that fits it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dagger_dsl.errors import ConfigurationError, cut, shown
from dagger_dsl.model.types import misfit, schema_of

__all__ = ["compile_schema", "faults_of", "plain_schema", "schema_fault", "type_fault"]

#: How deep a schema may be nested, and of how many values it may be made.
_DEPTH: Final = 100
_SIZE: Final = 100_000


def plain_schema(schema: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a schema as JSON types that nobody else holds.

    Args:
        schema: What was written; tuples count as lists, members of enums as their values.
        what: What to call it.

    Raises:
        ConfigurationError: It is not plain JSON, too deep (or contains itself), or too large.
    """
    reader = _Reader(what)
    return {
        reader.key(key, "$"): reader.read(value, f"$.{key}", 1) for key, value in schema.items()
    }


class _Reader:
    """Copies one schema.

    Args:
        what: What to call it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._left = _SIZE

    def read(self, value: Any, path: str, depth: int) -> Any:
        """Return one value of it."""
        self._left -= 1
        if depth > _DEPTH or self._left < 0:
            raise ConfigurationError(
                f"{self._what} is nested deeper than {_DEPTH} levels, contains itself, or is made "
                f"of more than {_SIZE:,} values"
            )
        if isinstance(value, enum.Enum):
            value = value.value
        if isinstance(value, Mapping):
            return {
                self.key(key, path): self.read(each, f"{path}.{key}", depth + 1)
                for key, each in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.read(each, f"{path}[{k}]", depth + 1) for k, each in enumerate(value)]
        fault = _leaf_fault(value)
        if fault is not None:
            raise ConfigurationError(f"{self._what}: {cut(path)} is {shown(value, 60)}, {fault}")
        return value

    def key(self, key: Any, path: str) -> str:
        """Return one key of it."""
        if not isinstance(key, str):
            raise ConfigurationError(f"{self._what}: {cut(path)} has the key {shown(key)}, no text")
        return key


def _leaf_fault(value: Any) -> str | None:
    """Return why a value that holds no others is not JSON."""
    if value is None or isinstance(value, (bool, str)):
        return None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else "a number of more than 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else "which JSON has no number for"
    return "which is not JSON"


def compile_schema(schema: Mapping[str, Any], what: str) -> Any:
    """Return the validator of a schema.

    Raises:
        ConfigurationError: It is no JSON Schema; the message starts with *what*.
    """
    import jsonschema_rs  # only who has an explicit schema pays for it

    try:
        return jsonschema_rs.validator_for(dict(schema), retriever=_refuse_fetch)
    except Exception as error:  # it raises ValueError, ValidationError and ReferencingError
        raise ConfigurationError(f"{what} is no JSON Schema: {error}") from error


def _refuse_fetch(uri: str) -> Any:
    raise ConfigurationError(f"a schema refers to {uri!r}; schemas are not fetched, write it out")


def schema_fault(schema: Mapping[str, Any], value: Any, what: str) -> str | None:
    """Return why *value* does not fit a JSON Schema, with the path of each fault, or None."""
    return faults_of(compile_schema(schema, what), value, what) or None


def type_fault(value: Any, annotation: Any, what: str) -> str | None:
    """Return why *value* is neither of a type nor the JSON that stands for one, or None."""
    fault = misfit(value, annotation, what)
    if fault is None or schema_fault(schema_of(annotation), value, what) is None:
        return None
    return fault


def faults_of(validator: Any, value: Any, what: str) -> str:
    """Return what a validator finds wrong with a value, a text that is empty where it fits."""
    try:
        faults = [
            f"{what}{_path(error.instance_path)}: {cut(_message(error, value))}"
            for error in validator.iter_errors(value)
        ]
    except ValueError as error:  # a value outside of JSON, deeper in than anyone said
        return f"{what}: a JSON Schema can check plain JSON values only: {cut(str(error))}"
    listed = "; ".join(faults[:10])
    return listed if len(faults) <= 10 else f"{listed}; and {len(faults) - 10} more"


def _message(error: Any, value: Any) -> str:
    """Return an error's message; the validator calls numbers null that JSON has no form for."""
    message = str(error.message)
    for part in error.instance_path:
        value = value[part]
    if value is not None and message.startswith("null "):
        return f"{shown(value, 60)}{message.removeprefix('null')}"
    return message


def _path(parts: Iterable[str | int]) -> str:
    return "".join(f"[{shown(part, 60)}]" for part in parts)
