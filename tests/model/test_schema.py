"""JSON Schemas: what can be recorded and read, and what a value that does not fit is called."""

from __future__ import annotations

from typing import Any

import pytest

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.schema import plain_schema, schema_fault, type_fault

#: More digits than Python writes out.
HUGE = 10**5000


def test_a_schema_may_be_nested_as_deep_as_is_said() -> None:
    def nested(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(levels):
            schema = {"not": schema}
        return schema

    assert plain_schema(nested(100), "s") == nested(100)
    with pytest.raises(ConfigurationError, match="s is nested deeper than 100 levels"):
        plain_schema(nested(101), "s")


def test_parts_that_are_shared_count_wherever_they_stand() -> None:
    part: list[Any] = [1]
    for _ in range(40):
        part = [part, part]
    with pytest.raises(ConfigurationError, match="more than 100,000 values"):
        plain_schema({"enum": part}, "s")


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        ({"type": "string"}, "x", None),
        ({"type": "string"}, None, 'it: null is not of type "string"'),
        ({"type": "string"}, HUGE, 'it: <int> is not of type "string"'),
        ({"type": "number"}, float("nan"), 'it: nan is not of type "number"'),
        ({"items": {"type": "string"}}, ["x", HUGE], 'it[1]: <int> is not of type "string"'),
        ({"properties": {"a": {"enum": [1]}}}, {"a": HUGE}, "it['a']: <int> is not one of"),
        ({"type": "string"}, object(), "it: a JSON Schema can check plain JSON values only"),
    ],
    ids=lambda value: None if value is not HUGE else "huge",
)
def test_a_fault_names_the_place_and_the_value(
    schema: dict[str, Any], value: Any, fault: str | None
) -> None:
    found = schema_fault(schema, value, "it")
    assert (found is None) is (fault is None)
    assert str(found).startswith(str(fault))


@pytest.mark.parametrize(
    ("value", "annotation", "fault"),
    [
        ((1, 2), tuple[int, int], None),
        ([1, 2], tuple[int, int], None),
        ([1, "2"], tuple[int, int], "it must be tuple[int, int], not list [1, '2']"),
        (True, int, "it must be int, not bool True"),
        (5, str | None, "it must be str | None, not int 5"),
    ],
)
def test_a_value_is_of_a_type_or_the_json_of_one(
    value: Any, annotation: Any, fault: str | None
) -> None:
    assert type_fault(value, annotation, "it") == fault
