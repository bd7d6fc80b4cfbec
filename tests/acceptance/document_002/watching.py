"""Scenarios of the sections "Monitoring and Metrics" and "Node Lifecycle", and a practice."""

# The `dag` of a stage is anything, for it has to have what the document calls and no less.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import ast
import re
import statistics
import time
from collections import defaultdict
from typing import Any

import pytest

from dagger_dsl.errors import NodeExecutionError
from dagger_dsl.model.sharing import Context
from tests.acceptance.document_002.props import Clock
from tests.acceptance.document_002.stage import Stage, scenario

MODES = ("sequential", "parallel", "async")


@scenario("Built-in Metrics")
async def a_run_is_timed_and_its_memory_measured_where_asked_for(stage: Stage) -> None:
    dag = stage.dag

    @dag.node
    def load() -> int:
        time.sleep(0.02)
        return 1

    @dag.node
    def save(load: int) -> int:
        return load

    load >> save
    before = time.perf_counter()
    names = await stage.play()
    wall = time.perf_counter() - before
    total, nodes = stage.printed()
    assert re.fullmatch(r"Total time: \d+\.\d\ds", total)
    times = ast.literal_eval(nodes.removeprefix("Node times: "))
    assert list(times) == ["load", "save"]
    assert 0.02 <= times["load"] <= names["metrics"]["execution_time"] <= wall
    assert names["metrics"]["total_duration"] == names["metrics"]["execution_time"]
    assert "memory_usage" not in names["metrics"]

    dag.run(track_memory=True)
    assert dag.context.metrics["memory_usage"]["peak_mb"] > 0


@scenario("Custom Metrics")
async def a_collector_of_the_users_sums_up_what_nodes_record(stage: Stage) -> None:
    names = await stage.play(
        defaultdict=defaultdict,
        statistics=statistics,
        time=Clock(),
        process_data=lambda data: {**data, "more": 1},
    )
    sizes = [1, 2, 4]
    for size in sizes:
        answer = stage.dag.run(inputs={"data": {str(k): k for k in range(size)}})
        assert len(answer) == size + 1
    collector = names["collector"]
    assert collector.get_summary("data_size") == {
        "count": 3,
        "mean": statistics.mean(sizes),
        "min": 1,
        "max": 4,
        "stdev": statistics.stdev(sizes),
    }
    assert collector.get_summary("result_size")["max"] == 5
    assert collector.get_summary("processing_time")["mean"] == 1.0
    assert collector.get_summary("unknown") == dict.fromkeys(
        ("count", "mean", "min", "max", "stdev"), 0
    )
    assert {each["tags"]["type"] for each in collector.metrics["data_size"]} == {"input"}


@scenario("Progress Tracking")
async def a_long_node_reports_how_far_it_is(stage: Stage) -> None:
    dag = stage.dag
    inputs = {"items": ["a", "b", "c", "d"]}
    await stage.define(process_item=str.upper)
    # Nobody has set a callback yet, and the node can tell.
    assert dag.run(inputs=inputs) == ["A", "B", "C", "D"]
    assert stage.printed() == []

    await stage.play()
    for mode in MODES:
        context = Context()
        assert dag.run(inputs=inputs, context=context, mode=mode) == ["A", "B", "C", "D"]
        assert context.metadata["progress"] == {
            "node": "long_process",
            "percent": 0.75,
            "items_processed": 3,
            "total_items": 4,
        }
        lines = stage.printed()
        assert [each for each in lines if "Processing item" in each] == [
            "[0.0%] long_process: Processing item 1/4",
            "[25.0%] long_process: Processing item 2/4",
            "[50.0%] long_process: Processing item 3/4",
            "[75.0%] long_process: Processing item 4/4",
        ]
        assert lines[-1].startswith("[100.0%] long_process: ")
        fractions = [float(each[1:].partition("%")[0]) for each in lines]
        assert fractions == sorted(fractions)


@scenario("Lifecycle Hooks")
async def hooks_surround_each_call_and_cleanup_always_runs(stage: Stage) -> None:
    dag = stage.dag
    fails = False

    @dag.node
    def process_data(data: dict[str, int]) -> dict[str, int]:
        print(f"Processing {sorted(data)}")
        if fails:
            raise ValueError("bad data")
        return {"rows": len(data)}

    @dag.node
    def publish(rows: dict[str, int]) -> int:
        print("Publishing")
        return rows["rows"]

    process_data >> publish
    await stage.play()
    for mode in MODES:
        assert dag.run(inputs={"data": {"a": 1, "b": 2}}, mode=mode) == 2
        lines = stage.printed()
        assert lines[:4] == [
            "Executing process_data",
            "Starting process_data with inputs: ['data']",
            "Processing ['a', 'b']",
            "Completed process_data, result type: <class 'dict'>",
        ]
        assert sorted(lines[4:]) == [
            "Cleaning up process_data",
            "Executing publish",
            "Publishing",
        ]
        assert lines.index("Executing publish") < lines.index("Publishing")

    fails = True
    for mode in MODES:
        with pytest.raises(NodeExecutionError, match="bad data"):
            dag.run(inputs={"data": {"a": 1}}, mode=mode)
        assert stage.printed() == [
            "Executing process_data",
            "Starting process_data with inputs: ['data']",
            "Processing ['a']",
            "Cleaning up process_data",
        ]

    # "Can modify inputs", "can modify result"
    fails = False
    dag.set_node_hooks(
        "process_data",
        pre_execute=lambda node, inputs, context: {"data": {**inputs["data"], "more": 0}},
        post_execute=lambda node, inputs, result, context: {"rows": result["rows"] * 100},
    )
    assert dag.run(inputs={"data": {"a": 1}}) == 200


@scenario("Resource Management")
async def resources_are_released_whatever_happens(stage: Stage) -> None:
    dag = stage.dag
    held: list[Any] = []
    fails = ""

    class Resource:
        def process(self, data: dict[str, int]) -> dict[str, int]:
            assert held == [self]
            if fails == "resource":
                raise OSError("the resource is gone")
            return {"processed": len(data)}

    def acquire_resource() -> Resource:
        held.append(Resource())
        return held[-1]  # type: ignore[no-any-return]

    def process_temp_file(name: str) -> dict[str, str]:
        if fails == "file":
            raise OSError("the file is gone")
        return {"file": name}

    await stage.play(
        acquire_resource=acquire_resource,
        release_resource=held.remove,
        create_temp_file=lambda data: f"temp of {len(data)}",
        process_temp_file=process_temp_file,
    )
    assert list(dag.nodes) == ["managed_operation", "temp_file_processor"]
    said = [
        "Acquiring resource for managed_operation",
        "Releasing resource for managed_operation",
        "Cleaning up temp files",
    ]
    inputs = {"data": {"a": 1}}
    for mode in MODES:
        assert dag.run(inputs=inputs, mode=mode) == {
            "managed_operation": {"processed": 1},
            "temp_file_processor": {"file": "temp of 1"},
        }
        assert [each for each in stage.printed() if "resource" in each] == said[:2]
    assert dag.run(inputs=inputs)
    assert stage.printed() == said

    fails = "resource"
    with pytest.raises(NodeExecutionError, match="the resource is gone"):
        dag.run(inputs=inputs)
    assert stage.printed() == said[:2]
    assert held == []
    fails = "file"
    with pytest.raises(NodeExecutionError, match="the file is gone"):
        dag.run(inputs=inputs)
    assert stage.printed() == said


@scenario("5. Monitor and Profile")
async def a_critical_node_is_profiled_where_that_is_wanted(stage: Stage) -> None:
    def expensive_algorithm(data: dict[str, int]) -> dict[str, int]:
        return {"sum": sum(data.values())}

    names = await stage.play(PROFILING_ENABLED=True, expensive_algorithm=expensive_algorithm)
    inputs = {"data": {"a": 1, "b": 2}}
    assert stage.dag.run(inputs=inputs) == {"sum": 3}
    report = "\n".join(stage.printed())
    assert "function calls" in report
    assert "expensive_algorithm" in report

    names["PROFILING_ENABLED"] = False
    assert stage.dag.run(inputs=inputs) == {"sum": 3}
    assert stage.printed() == []
