"""Schemas: explicit ones are enforced, others are read off annotations for show."""

from __future__ import annotations

import sys
from typing import Any, Literal

import pytest

from dagger_dsl.errors import ConfigurationError, InputValidationError, OutputError
from dagger_dsl.model.people import HumanRequest
from dagger_dsl.registry import define

NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "array", "items": {"type": "integer"}}},
    "required": ["a"],
}


def calculate(a: float, b: list[int] = []) -> dict[str, float]:  # noqa: B006 - never called
    return {}


@pytest.mark.row("A51", "O1")
def test_an_explicit_input_schema_is_enforced_with_the_path_of_each_fault() -> None:
    definition = define(calculate, input_schema=NUMBERS)
    definition.check_inputs({"a": 1, "b": [1, 2]})
    with pytest.raises(InputValidationError) as caught:
        definition.check_inputs({"a": "x", "b": [1, "two"]})
    text = str(caught.value)
    assert "action 'calculate'" in text
    assert "inputs['a']" in text
    assert "inputs['b'][1]" in text
    with pytest.raises(InputValidationError, match="required"):
        definition.check_inputs({})


@pytest.mark.row("O1")
def test_an_explicit_output_schema_is_enforced() -> None:
    schema = '{"type": "object", "properties": {"result": {"type": "string"}}}'
    definition = define(calculate, output_schema=schema)
    definition.check_output({"result": "x"})
    with pytest.raises(OutputError, match=r"result\['result'\]: 1 is not of type"):
        definition.check_output({"result": 1})


def test_an_output_schema_is_for_the_answer_and_not_for_the_question() -> None:
    definition = define(calculate, output_schema={"type": "integer"})
    definition.check_output(HumanRequest("How many?"))
    with pytest.raises(OutputError, match="is not of type"):
        definition.check_output("two")


def test_without_explicit_schemas_nothing_is_checked() -> None:
    definition = define(calculate)
    assert definition.input_schema is None
    assert definition.output_schema is None
    definition.check_inputs({"a": "anything"})
    definition.check_output(object())


@pytest.mark.row("A51")
def test_schemas_for_show_are_read_off_the_annotations() -> None:
    def load(
        path: str, mode: Literal["r", "w"], limit: int | None = None, *, strict: bool = False
    ) -> list[dict[str, float]]:
        return []

    definition = define(load, inputs={"path": "where"})
    assert definition.shown_input_schema() == {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "where"},
            "mode": {"enum": ["r", "w"]},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "strict": {"type": "boolean"},
        },
        "required": ["path", "mode"],
        "additionalProperties": False,
    }
    assert definition.shown_output_schema() == {
        "type": "array",
        "items": {"type": "object", "additionalProperties": {"type": "number"}},
    }
    explicit = define(load, input_schema=NUMBERS, output_schema={})
    assert explicit.shown_input_schema() == NUMBERS
    assert explicit.shown_output_schema() == {}


def test_the_schema_of_a_mapping_action_describes_what_the_function_gets() -> None:
    def transform(input: dict[str, Any]) -> Any: ...

    definition = define(transform, input_schema=NUMBERS)
    definition.check_inputs({"a": 1})
    definition.check_inputs({"input": {"a": 1}})
    with pytest.raises(InputValidationError, match=r"inputs\['a'\]"):
        definition.check_inputs({"a": "x"})
    with pytest.raises(InputValidationError, match=r"inputs\['a'\]"):
        definition.check_inputs({"input": {"a": "x"}})


def test_what_is_no_schema_is_refused() -> None:
    definition = define(calculate, input_schema={"type": "nonsense"})
    with pytest.raises(ConfigurationError, match="input_schema is no JSON Schema"):
        definition.compile_schemas()


def test_schemas_are_never_fetched() -> None:
    definition = define(calculate, input_schema={"$ref": "https://example.invalid/schema.json"})
    with pytest.raises(ConfigurationError, match="not fetched"):
        definition.check_inputs({"a": 1})


def test_values_outside_of_json_are_refused_and_not_crashed_on() -> None:
    definition = define(calculate, output_schema={"properties": {"x": {"type": "string"}}})
    with pytest.raises(OutputError, match="plain JSON values only"):
        definition.check_output({"x": object()})


def test_the_schema_library_is_loaded_by_the_first_check_only() -> None:
    import subprocess

    code = (
        "import sys\n"
        "from dagger_dsl.registry import define\n"
        "d = define(lambda a: a, 'x', input_schema={'type': 'object'})\n"
        "assert 'jsonschema_rs' not in sys.modules and 'tenacity' not in sys.modules\n"
        "d.check_inputs({'a': 1})\n"
        "assert 'jsonschema_rs' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_values_from_outside_are_checked_against_annotations() -> None:
    definition = define(calculate)
    definition.check_value("a", 1)
    definition.check_value("b", [1])
    definition.check_value("unknown", object())
    with pytest.raises(InputValidationError, match=r"b\[1\] must be int, not str 'x'"):
        definition.check_value("b", [1, "x"])
    with pytest.raises(InputValidationError, match="a must be float, not bool True"):
        definition.check_value("a", True)
