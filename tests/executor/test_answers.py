"""What nodes answer, and what hooks and the store get to see of it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import attrs
import pytest

from dagger_dsl.executor import DagExecutor
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import HookContext, NodeCtx, NodeOutcome, NodeOutput, NodeRef
from dagger_dsl.model.events import Event, NodeCompleted, NodeFailed, NodeRetrying
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.model.states import NodeState


class Watcher:
    """A hook that keeps what it is shown."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, ctx: HookContext, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


class Scale:
    """Document 001's action object: it has a name and a configuration, and executes a context."""

    def __init__(self, name: str, factor: int) -> None:
        self.name = name
        self.factor = factor

    async def execute(self, ctx: NodeCtx) -> NodeOutput:
        return NodeOutput.success({"scaled": ctx.inputs["x"] * self.factor})


@pytest.mark.row("B1", "B3")
def test_objects_and_functions_run_in_one_graph(executor: DagExecutor) -> None:
    def start() -> int:
        return 7

    executor.register_action("start", start)
    executor.registry.register(Scale("twice", 2))
    executor.registry.register(Scale("thrice", 3))
    nodes = [
        Node("start", "start"),
        Node("b", "twice", [Input("x", "start.result")], outputs=["scaled"]),
        Node("c", "thrice", [Input("x", "b.scaled")], outputs=["scaled"]),
    ]
    report = executor.run(Graph("g", nodes)).raise_for_failure()
    assert report.outputs == {"c": {"scaled": 42}}


@pytest.mark.row("B2", "B5")
def test_an_action_gets_values_and_no_handle_on_the_run(executor: DagExecutor) -> None:
    def look(x: int, ctx: NodeCtx) -> list[str]:
        with pytest.raises(TypeError):
            ctx.inputs["x"] = 2  # type: ignore[index]
        assert ctx.cache.get("inputs", "x") == 1
        assert ctx.cache.get("nobody", "x", "nothing") == "nothing"
        return [name for name in ("executor", "graph", "run", "store") if hasattr(ctx, name)]

    executor.register_action("look", look)
    graph = Graph("g", [Node("n", "look", [Input("x", "inputs.x")])])
    assert executor.run(graph, {"x": 1}).raise_for_failure().outputs == {"n": []}


@pytest.mark.row("B8")
def test_a_bare_mapping_and_success_are_the_same(executor: DagExecutor) -> None:
    def bare() -> dict[str, int]:
        return {"left": 1, "right": 2}

    def wrapped() -> NodeOutput:
        return NodeOutput.success({"left": 1, "right": 2})

    executor.register_action("bare", bare)
    executor.register_action("wrapped", wrapped)
    for action in ("bare", "wrapped"):
        watcher = Watcher()
        graph = Graph("g", [Node("n", action, outputs=["left", "right"])])
        report = executor.run(graph, hooks=[watcher])
        assert report.value("n") == {"left": 1, "right": 2}
        (completed,) = watcher.of(NodeCompleted)
        assert completed.outcome.outputs == {"left": 1, "right": 2}


@pytest.mark.row("B9")
def test_a_chosen_failure_is_not_retried_and_shown_as_completed_without_success() -> None:
    calls: list[int] = []

    def refuse() -> NodeOutput:
        calls.append(1)
        return NodeOutput.failure("No valid data found")

    watcher = Watcher()
    config = DagConfig(max_attempts=3, retry_strategy="immediate")
    with DagExecutor(config, {"refuse": refuse}) as executor:
        report = executor.run(Graph("g", [Node("n", "refuse")]), hooks=[watcher])
    assert len(calls) == 1
    assert report.states() == {"n": NodeState.FAILED}
    assert "No valid data found" in str(report.error)
    (completed,) = watcher.of(NodeCompleted)
    assert completed.outcome.success is False
    assert "No valid data found" in str(completed.outcome.error)
    assert watcher.of(NodeFailed) == watcher.of(NodeRetrying) == []


@pytest.mark.row("B10")
def test_metadata_are_stored_with_the_node_and_shown_to_hooks(executor: DagExecutor) -> None:
    def count() -> NodeOutput:
        return NodeOutput.success({"rows": 3}, metadata={"source": "api", "pages": 2})

    watcher = Watcher()
    executor.register_action("count", count)
    report = executor.run(Graph("g", [Node("n", "count")]), hooks=[watcher])
    expected = {"source": "api", "pages": 2}
    assert report.node_reports["n"].metadata == expected
    (completed,) = watcher.of(NodeCompleted)
    assert completed.outcome.metadata == expected
    stored = executor.storage.load_run(report.run_id).nodes["n", "default"]
    assert stored.meta is not None
    assert stored.meta["metadata"] == expected
    assert NodeOutput({"x": 1}).metadata == {}
    assert NodeOutput({"x": 1}).success


@attrs.frozen
class Point:
    """An attrs class."""

    x: int
    y: Decimal


@dataclasses.dataclass
class Box:
    """A dataclass."""

    corner: Point
    labels: set[str]


class Pair(NamedTuple):
    """A named tuple."""

    left: int
    right: str


class Row(TypedDict):
    """A typed mapping."""

    name: str
    tags: list[str]


def make_point() -> Point:
    return Point(1, Decimal("2.50"))


def make_box() -> Box:
    return Box(Point(1, Decimal("2.50")), {"a", "b"})


def make_pair() -> Pair:
    return Pair(1, "two")


def make_row() -> Row:
    return {"name": "n", "tags": ["a"]}


def make_mixed() -> dict[str, Any]:
    return {"at": dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC), "both": (1, [2.5, None])}


@pytest.mark.row("B11")
@pytest.mark.parametrize("make", [make_point, make_box, make_pair, make_row, make_mixed])
def test_complex_values_are_stored_and_read_back_equal_and_of_their_type(
    tmp_path: Path, make: Any
) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    name = make.__name__
    with DagExecutor(registry={name: make}, database_url=url) as executor:
        report = executor.run(Graph("g", [Node("n", name)]), run_id="r").raise_for_failure()
    with DagExecutor(registry={name: make}, database_url=url) as other:
        stored = other.storage.load_run("r").nodes["n", "default"].value()
    assert stored == report.value("n")
    assert type(stored) is type(report.value("n"))


@pytest.mark.row("B22")
def test_a_reference_to_a_node_is_hashable_and_printable(executor: DagExecutor) -> None:
    watcher = Watcher()
    executor.register_action("one", lambda: 1)
    report = executor.run(Graph("g", [Node("n", "one")]), hooks=[watcher])
    (completed,) = watcher.of(NodeCompleted)
    ref = completed.node
    assert ref == NodeRef(report.run_id, "g", "n")
    assert {ref: 1}[NodeRef(report.run_id, "g", "n", "default")] == 1
    assert str(ref) == f"g/n of run {report.run_id}"
    assert str(NodeRef("r", "g", "n", "3")) == "g/n[3] of run r"


@pytest.mark.row("B23")
def test_outcomes_are_matched_by_their_class() -> None:
    def tell(outcome: NodeOutcome) -> str:
        match outcome:
            case NodeOutcome(success=True, outputs={"score": float(score)}) if score > 0.8:
                return f"analyse {score}"
            case NodeOutcome(skipped=True):
                return "skipped"
            case NodeOutcome(success=False, error=error):
                return f"failed: {error}"
            case _:
                return "done"

    assert tell(NodeOutcome(True, {"score": 0.9})) == "analyse 0.9"
    assert tell(NodeOutcome(True, {"score": 0.8})) == "done"
    assert tell(NodeOutcome(False, error=ValueError("no"))) == "failed: no"
    assert tell(NodeOutcome(True, skipped=True)) == "skipped"
    outcome = NodeOutcome(True, {"a": 1})
    assert outcome.outputs["a"] == 1
    assert (outcome.cached, outcome.error) == (False, None)
