"""Outputs, answers and values, ruling by ruling."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import attrs
import pytest

from dagger_dsl.engine.report import RunReport
from dagger_dsl.errors import OutputError
from dagger_dsl.model.context import Branch, NodeOutcome, NodeOutput, NodeRef
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.store.storage import Store
from tests.engine.helpers import RUNNERS, Workflow, returns, states, url_of


def outcome_of(answer: Any, **fields: Any) -> tuple[RunReport, NodeOutcome]:
    """Run one node; return the report and what hooks were shown."""
    seen: list[NodeOutcome] = []

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted):
            seen.append(event.outcome)

    report = Workflow().note("n", answer, **fields).run(hooks=[hook])
    return report, seen[0]


# --- splitting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, None, "text", [1], {"a": 1}, (1, 2)])
def test_a_node_that_declares_nothing_has_one_output_its_whole_value(value: Any) -> None:
    flow = Workflow().add("n", returns(value))
    flow.add("uses", lambda given: given, take={"given": "n.result"})
    report = flow.run()
    assert report.value("n") == value
    assert report.value("uses") == value


@pytest.mark.row("A4")
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_mapping_with_all_declared_names_is_split(runner: str) -> None:
    flow = Workflow().add("n", returns({"a": 1, "b": 2, "extra": 3}), outputs=["a", "b"])
    flow.add("uses", lambda x, y: (x, y), take={"x": "n.b", "y": "n.a"})
    report = flow.run(runner)
    assert report.value("uses") == (2, 1)
    assert report.value("n") == {"a": 1, "b": 2, "extra": 3}  # extra keys are kept


@pytest.mark.row("A4")
@pytest.mark.parametrize("value", [{"a": 1}, {}, 5, None, [("a", 1), ("b", 2)]])
def test_a_missing_declared_output_fails_the_node(value: Any) -> None:
    report = Workflow().add("n", returns(value), outputs=["a", "b"]).run()
    error = report.node_reports["n"].exception
    assert isinstance(error, OutputError)
    assert "['a', 'b']" in str(error)
    assert "'n'" in str(error)


def test_with_a_single_declared_name_any_other_value_is_that_output() -> None:
    for value in (5, None, [1], {"b": 2}, {}):
        flow = Workflow().add("n", returns(value), outputs=["a"])
        flow.add("uses", lambda given: given, take={"given": "n.a"})
        assert flow.run().value("uses") == value
    flow = Workflow().add("n", returns({"a": 7, "b": 2}), outputs=["a"])
    flow.add("uses", lambda given: given, take={"given": "n.a"})
    assert flow.run().value("uses") == 7


def test_any_mapping_is_split() -> None:
    flow = Workflow().add("n", returns(OrderedDict(a=1, b=2)), outputs=["a", "b"])
    flow.add("uses", lambda given: given, take={"given": "n.b"})
    assert flow.run().value("uses") == 2


@pytest.mark.row("B8")
@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("outputs", [(), ("a",), ("a", "b")])
def test_a_bare_value_and_success_of_it_mean_the_same(
    runner: str, outputs: tuple[str, ...]
) -> None:
    value = {"a": 1, "b": 2}
    found = []
    for answer in (value, NodeOutput.success(value), NodeOutput(value)):
        flow = Workflow().add("n", returns(answer), outputs=outputs)
        name = outputs[0] if outputs else "result"
        flow.add("uses", lambda given: given, take={"given": f"n.{name}"})
        report = flow.run(runner)
        found.append((report.value("n"), report.value("uses"), states(report)))
    assert found[0] == found[1] == found[2]


def test_success_of_a_mapping_is_always_split() -> None:
    flow = Workflow().add("n", returns(NodeOutput.success({"b": 2})), outputs=["a"])
    assert isinstance(flow.run().node_reports["n"].exception, OutputError)
    flow = Workflow().add("n", returns(NodeOutput.success(5)), outputs=["a"])
    assert flow.run().value("n") == 5


def test_declared_outputs_of_the_action_count_where_the_node_says_nothing() -> None:
    from dagger_dsl.model.graph import Input, Node

    flow = Workflow()
    flow.registry.register(returns({"left": 1, "right": 2}), "split", outputs=["left", "right"])
    flow.registry.register(lambda given: given, "same")
    flow.nodes += [Node("n", "split"), Node("m", "same", [Input("given", "n.right")])]
    assert flow.run().outputs == {"m": 2}


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.row("B10")
@pytest.mark.parametrize("runner", RUNNERS)
def test_metadata_is_stored_with_the_nodes_run_and_shown_to_hooks(
    runner: str, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted):
            seen.append((dict(event.outcome.outputs), dict(event.outcome.metadata)))

    answer = NodeOutput({"rows": 3}, metadata={"source": "crm"})
    flow = Workflow().add("n", returns(answer))
    report = flow.run(runner, database_url=url_of(tmp_path), run_id="r", hooks=[hook])
    assert seen == [({"rows": 3}, {"source": "crm"})]
    assert report.node_reports["n"].metadata == {"source": "crm"}
    assert flow.resume("r", url_of(tmp_path)).node_reports["n"].metadata == {"source": "crm"}
    with Store(url_of(tmp_path)) as store:
        stored = store.load_run("r").nodes["n", "default"].meta
    assert stored == {"metadata": {"source": "crm"}}


@pytest.mark.row("B22")
def test_references_to_invocations_are_hashable_and_printable() -> None:
    seen: list[NodeRef] = []

    def hook(_ctx: Any, event: Any) -> None:
        seen.append(event.node)

    Workflow("orders").note("n").run(run_id="r1", hooks=[hook])
    assert set(seen) == {NodeRef("r1", "orders", "n", "default")}
    assert str(seen[0]) == "orders/n of run r1"
    assert seen[0].node_id == "n"


@pytest.mark.row("B23")
def test_outcomes_can_be_matched_and_hold_outputs_by_name() -> None:
    _, outcome = outcome_of({"a": 1})
    match outcome:
        case NodeOutcome(success=True, outputs={"a": found}):
            assert found == 1
        case _:
            raise AssertionError(outcome)
    assert not outcome.skipped
    assert not outcome.cached
    assert outcome.error is None
    assert outcome_of(5)[1].outputs == {"result": 5}
    assert outcome_of(5, outputs=["n"])[1].outputs == {"n": 5}
    assert outcome_of({})[1].outputs == {"result": {}}
    _, outcome = outcome_of(NodeOutput.failure("no"))
    match outcome:
        case NodeOutcome(success=False, error=Exception() as error):
            assert str(error) == "no"
        case _:
            raise AssertionError(outcome)


def test_a_branch_without_labelled_edges_is_its_value() -> None:
    flow = Workflow().add("n", returns(Branch("eu", 7)))
    flow.add("uses", lambda given: given, take={"given": "n"})
    report = flow.run()
    assert (report.value("n"), report.value("uses")) == (7, 7)


def test_answers_are_not_values() -> None:
    """What a dependent gets is what was answered with, never the answer object."""
    flow = Workflow().add("n", returns(NodeOutput.success(None)))
    flow.add("uses", lambda given: given is None, take={"given": "n"})
    assert flow.run().value("uses") is True


# --- values ---------------------------------------------------------------------------------------


class Colour(enum.Enum):
    """A user's enumeration."""

    RED = "r"


@attrs.frozen
class Made:
    """An attrs class."""

    n: int


@dataclasses.dataclass
class Data:
    """A dataclass."""

    when: dt.datetime


class Pair(NamedTuple):
    """A named tuple."""

    left: int
    right: str


class Typed(TypedDict):
    """A typed dictionary."""

    n: int


class Values(TypedDict):
    """What the producer of every kind of value returns."""

    colour: Colour
    made: Made
    data: Data
    pair: Pair
    typed: Typed


@pytest.mark.row("B11")
def test_complex_values_come_back_equal_and_of_their_type(tmp_path: Path) -> None:
    when = dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    named: Values = {
        "colour": Colour.RED,
        "made": Made(1),
        "data": Data(when),
        "pair": Pair(1, "b"),
        "typed": {"n": 1},
    }
    plain: dict[str, Any] = {
        "path": Path("/a/b"),
        "decimal": decimal.Decimal("1.10"),
        "uuid": uuid.UUID(int=5),
        "frozen": frozenset({1}),
        "nested": [{"deep": ({1: "int key"},)}],
        "big": -(2**80),
        "date": dt.date(2026, 1, 1),
        "delta": dt.timedelta(seconds=1.5),
    }

    def produce() -> Values:
        return named

    def consume(a: Values, b: Any) -> Any:
        seen.append((a, b))
        if len(seen) == 1:
            raise OSError
        return True

    seen: list[Any] = []
    flow = Workflow().add("named", produce).add("plain", returns(plain))
    flow.add("uses", consume, take={"a": "named", "b": "plain"})
    url = url_of(tmp_path)
    flow.run(database_url=url, run_id="r")
    assert flow.resume("r", url).value("uses") is True
    (live_named, live_plain), (named_again, plain_again) = seen
    assert (named_again, plain_again) == (live_named, live_plain) == (named, plain)
    for before, after in ((named, named_again), (plain, plain_again)):
        assert {key: type(value) for key, value in before.items()} == {
            key: type(value) for key, value in after.items()
        }


@pytest.mark.parametrize("durable", [False, True])
def test_literals_are_fresh_for_every_run(durable: bool, tmp_path: Path) -> None:
    def spoil(given: list[int]) -> list[int]:
        given.append(len(given))
        return list(given)

    flow = Workflow().add("n", spoil, give={"given": [7]})
    options: dict[str, Any] = {"database_url": url_of(tmp_path)} if durable else {}
    assert flow.run(**options).value("n") == [7, 1]
    assert flow.run(**options).value("n") == [7, 1]


def test_large_values_are_kept_beside_the_database(tmp_path: Path) -> None:
    flow = Workflow().add("n", returns("x" * 100_000)).note("bad", OSError("x"), after=["n"])
    url = url_of(tmp_path)
    flow.run(database_url=url, run_id="r")
    with Store(url) as store:
        node = store.load_run("r").nodes["n", "default"]
    assert node.inline is None
    assert node.artifact is not None
    assert flow.resume("r", url).value("n") == "x" * 100_000
