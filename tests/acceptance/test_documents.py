"""The source documents' workflows: each YAML block loads, validates and runs with actions that do
what the documents say they do; the documents' own functions run in Python form.
"""

from __future__ import annotations

import doctest
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import dagger_dsl
from dagger_dsl import Registry, load_yaml_file
from dagger_dsl.legacy import (
    Cache,
    DagExecutor,
    Node,
    WorkflowSpec,
    get_value_from_cache,
    insert_value,
    parse_input_from_name,
    register_action,
)

BLOCKS = Path(__file__).parents[1] / "yamlio" / "seeds"
RUNNERS = ["sequential", "threads", "asyncio"]


def handed_on(error: Exception) -> None:
    """Stand for a failure handler that changes nothing."""


#: By file: the actions, what a run is given, and what has to come out of its last nodes.
Flow = tuple[dict[str, Callable[..., Any]], Mapping[str, Any], Mapping[str, Any]]
FLOWS: dict[str, Flow] = {
    "architecture": (
        {
            "fetch_data": lambda: [3, 4],
            "process_type_a": lambda: 25,
            "process_type_b": lambda: 7,
            "combine_results": lambda: 25 + 7,
        },
        {},
        {"combine": 32},
    ),
    "dag_flow_guide": (
        {
            "http_fetch": lambda url: {"raw_data": [f"{url}/1", f"{url}/2"]},
            "transform": lambda data: [each.upper() for each in data],
            "database_save": lambda data: len(data),
        },
        {"data_url": "http://example.invalid"},
        {"save_results": 2},
    ),
    "implementation_guide": (
        {
            "validate_data": lambda raw_data: [each for each in raw_data if each >= 0],
            "handle_validation_error": handed_on,
            "transform_customer_data": lambda data: [each * 2 for each in data],
            "analyze_type_a": lambda data: sum(data),
            "analyze_type_b": lambda data: max(data),
            "generate_report": lambda analysis_a, analysis_b: (analysis_a, analysis_b),
        },
        {"customer_data": [5, -1, 10]},
        {"combine_results": (30, 20)},
    ),
    "implementation_guide_agent": (
        {"planner_agent": lambda task: f"plan: {task}"},
        {"task": "analyse"},
        {"planner": "plan: analyse"},
    ),
    "readme": (
        {
            "extract_customers": lambda source_db: ["customer1", "customer2"],
            "clean_and_transform": lambda data: [each.upper() for each in data],
            "load_to_warehouse": lambda data, target_table: len(data),
        },
        {"database_url": "postgresql://...", "target_table": "customers_clean"},
        {"load_data": 2},
    ),
}


def test_every_block_is_here() -> None:
    assert sorted(FLOWS) == sorted(file.stem for file in BLOCKS.glob("*.yaml"))


@pytest.mark.row("A19")
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", FLOWS)
def test_every_block_loads_validates_and_runs(name: str, runner: str) -> None:
    actions, inputs, outcome = FLOWS[name]
    graph = load_yaml_file(BLOCKS / f"{name}.yaml")
    graph.validate()
    with DagExecutor(registry=actions) as executor:
        graph.validate(executor.registry)
        report = executor.run(graph, inputs, runner=runner)
    report.raise_for_failure()
    assert report.outputs == outcome
    assert report.completed_nodes == len(graph.nodes)


@pytest.mark.row("R8")
def test_ten_and_twenty_make_thirty_as_the_first_page_of_the_reference_says() -> None:
    with Registry():
        found = doctest.testmod(dagger_dsl, raise_on_error=True)
    assert found.attempted >= 4
    assert "30.0" in (dagger_dsl.__doc__ or "")


@pytest.mark.row("R8")
def test_ten_and_twenty_make_thirty_through_the_documents_api(tmp_path: Path) -> None:
    def add_numbers(_executor: Any, node: Node, cache: Cache) -> None:
        num1 = parse_input_from_name(cache, "num1", node.inputs, float)
        num2 = parse_input_from_name(cache, "num2", node.inputs, float)
        insert_value(cache, node.id, node.outputs[0].name, num1 + num2)

    workflow = tmp_path / "workflow.yaml"
    workflow.write_text(
        "name: my_workflow\n"
        "nodes:\n"
        "  - id: add\n"
        "    action: add_numbers\n"
        "    inputs:\n"
        "      - {name: num1, reference: inputs.num1}\n"
        "      - {name: num2, reference: inputs.num2}\n"
        "    outputs:\n"
        "      - name: sum\n"
    )
    with DagExecutor(None, {}, f"{tmp_path}/dagger_db") as executor:
        register_action(executor, "add_numbers", add_numbers)
        executor.load_yaml_file(workflow)
        cache = Cache()
        insert_value(cache, "inputs", "num1", 10.0)
        insert_value(cache, "inputs", "num2", 20.0)
        report = executor.execute_dag(WorkflowSpec.static("my_workflow"), cache)
    report.raise_for_failure()
    assert get_value_from_cache(cache, "add", "sum") == 30.0


@pytest.mark.row("A54", "C8")
def test_the_pipeline_of_the_readme_in_its_own_functions(tmp_path: Path) -> None:
    def extract_customers(_executor: Any, node: Node, cache: Cache) -> None:
        source = parse_input_from_name(cache, "source_db", node.inputs, str)
        assert source == "postgresql://..."
        insert_value(cache, node.id, "raw_data", ["customer1", "customer2"])

    def clean_and_transform(_executor: Any, node: Node, cache: Cache) -> None:
        raw_data = parse_input_from_name(cache, "data", node.inputs, list[str])
        insert_value(cache, node.id, "clean_data", [each.upper() for each in raw_data])

    def load_to_warehouse(_executor: Any, node: Node, cache: Cache) -> None:
        data = parse_input_from_name(cache, "data", node.inputs, list[str])
        assert parse_input_from_name(cache, "target_table", node.inputs, str) == "customers_clean"
        assert data == ["CUSTOMER1", "CUSTOMER2"]
        insert_value(cache, node.id, "loaded_count", len(data))

    with DagExecutor(None, {}, f"{tmp_path}/pipeline_db") as executor:
        register_action(executor, "extract_customers", extract_customers)
        register_action(executor, "clean_and_transform", clean_and_transform)
        register_action(executor, "load_to_warehouse", load_to_warehouse)
        executor.load_yaml_file(BLOCKS / "readme.yaml")
        cache = Cache()
        insert_value(cache, "inputs", "database_url", "postgresql://...")
        insert_value(cache, "inputs", "target_table", "customers_clean")
        report = executor.execute_static_dag("data_pipeline", cache)
    report.raise_for_failure()
    assert get_value_from_cache(cache, "load_data", "loaded_count") == 2
