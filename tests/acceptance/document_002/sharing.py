"""Scenarios of the section "Context and Data Flow"."""

# The `dag` of a stage is anything, for it has to have what the document calls and no less.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import pytest

from dagger_dsl.model.sharing import Context
from tests.acceptance.document_002.props import Clock
from tests.acceptance.document_002.reading import blocks, document
from tests.acceptance.document_002.stage import Stage, scenario


@scenario("Understanding Context")
async def nodes_read_and_write_what_they_share(stage: Stage) -> None:
    dag, clock = stage.dag, Clock()
    found: list[Any] = []

    @dag.node
    def previous_node() -> dict[str, int]:
        return {"rows": 3}

    @dag.node
    def look(context: Context) -> None:
        found.append(context.get("previous_node", default={}))
        found.append(context.get("not run", default={}))

    names = await stage.play(time=clock)
    context = names["context"]
    assert context.metadata == {"request_id": "req-123", "user_id": "user-456", "start_time": 1001}
    dag.nodes["look"].after(dag.nodes["previous_node"])
    dag.nodes["process_with_context"].after(dag.nodes["look"])
    answer = dag.run(inputs={"data": {"n": 1}}, context=context)
    assert answer == {"processed": {"n": 1}, "user": "user-456"}
    assert context.metadata["processing_time"] == 1002
    assert found == [{"rows": 3}, {}]
    assert dag.context is context
    assert list(dag.compile().inputs) == ["data"]  # the context is none


@scenario("Forward Data Flow")
async def values_flow_along_a_chain(stage: Stage) -> None:
    await stage.play()
    assert [(each.source, each.target) for each in stage.dag.compile().edges] == [
        ("step1", "step2"),
        ("step2", "step3"),
    ]
    for mode in ("sequential", "parallel", "async"):
        assert stage.dag.run(mode=mode) == "Final: 200"
    assert stage.dag["step1"] == {"value": 100}
    assert stage.dag["step2"] == {"doubled": 200}


@scenario("Branching Data Flow")
async def both_branches_get_the_value(stage: Stage) -> None:
    await stage.play()
    for mode in ("sequential", "parallel", "async"):
        assert stage.dag.run(mode=mode) == {"process_evens": [2, 4], "process_odds": [1, 3, 5]}
    assert stage.dag["source"] == {"data": [1, 2, 3, 4, 5]}


@scenario("Merging Data Flow")
async def a_join_waits_for_all_of_its_inputs(stage: Stage) -> None:
    file = document()
    assert file is not None
    (before,) = (each for each in blocks(file) if each.section == "Branching Data Flow")
    exec(compile(before.code, "<the block before>", "exec", dont_inherit=True), stage.names)
    await stage.play()
    for mode in ("sequential", "parallel", "async"):
        assert stage.dag.run(mode=mode) == {"evens": [2, 4], "odds": [1, 3, 5], "total": 5}


@scenario("Context Best Practices")
async def an_audit_trail_is_kept_and_a_result_written_by_hand_is_warned_of(stage: Stage) -> None:
    dag = stage.dag

    @dag.node
    def previous_node() -> list[int]:
        return [1, 2]

    await stage.play(time=Clock(), process=lambda data: [each * 2 for each in data])
    dag.nodes["previous_node"] >> dag.nodes["bad_pattern"]
    context = Context()
    with pytest.warns(UserWarning, match="current_node"):
        answer = dag.run(inputs={"data": {"n": 1}}, context=context)
    assert answer == {"audit_log": {"n": 1}, "bad_pattern": None}
    assert context.metadata["audit_trail"] == [
        {"node": "audit_log", "timestamp": 1001.0, "data_size": len("{'n': 1}")}
    ]
    assert context.results["current_node"] == [2, 4]
    dag.run(inputs={"data": {"n": 12}}, context=context)  # once is enough
    assert [each["data_size"] for each in context.metadata["audit_trail"]] == [8, 9]


@scenario("4. Use Context Appropriately")
async def times_are_metadata_and_data_is_not(stage: Stage) -> None:
    dag = stage.dag

    @dag.node
    def previous() -> list[int]:
        return [3]

    await stage.play(time=Clock(), process=lambda data: [*data, 0])
    dag.nodes["previous"] >> dag.nodes["bad_data_passing"]
    context = Context()
    with pytest.warns(UserWarning, match="'current'"):
        answer = dag.run(inputs={"data": {"n": 1}}, context=context)
    assert answer == {"track_processing": ["n", 0], "bad_data_passing": None}
    assert context.metadata["processing_times"] == [1.0]
    assert context.results["current"] == [3, 0]
