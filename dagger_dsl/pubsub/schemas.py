"""`Shape`: what a payload has to be, said by a JSON Schema or by a Python type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.schema import compile_schema, faults_of, plain_schema
from dagger_dsl.model.types import misfit, show_type

__all__ = ["Shape"]


class Shape:
    """Says of payloads whether they fit.

    Args:
        schema: A JSON Schema, as a mapping or its JSON text, or a type.
        what: What to call it in errors.

    Raises:
        ConfigurationError: It is no schema.
    """

    def __init__(self, schema: Any, what: str) -> None:
        self._validator: Any = None
        self._type: Any = None
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError) as error:
                raise ConfigurationError(f"{what} is not JSON: {error}") from error
            if not isinstance(schema, Mapping):
                raise ConfigurationError(
                    f"{what} is a JSON Schema, an object, and not {shown(schema, 60)}"
                )
        if isinstance(schema, Mapping):
            self._validator = compile_schema(plain_schema(schema, what), what)
        elif schema is None or isinstance(schema, (bool, int, float, bytes, list, tuple, set)):
            raise ConfigurationError(
                f"{what} is a JSON Schema, a mapping or its JSON text, or a type; not a "
                f"{type(schema).__name__}"
            )
        else:
            self._type = schema

    def __repr__(self) -> str:
        return f"<Shape: {'JSON Schema' if self._type is None else show_type(self._type)}>"

    def fault(self, value: Any, what: str = "payload") -> str:
        """Return what does not fit, with the path of each fault; empty where it fits."""
        if self._validator is not None:
            return faults_of(self._validator, value, what)
        return misfit(value, self._type, what) or ""
