"""`report.explain`: why a node stands where it stands, back to the cause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from dagger_dsl.engine.control import CancelToken
from dagger_dsl.engine.report import ErrorInfo, NodeReport, RunReport
from dagger_dsl.errors import NodeNotFound
from dagger_dsl.model.context import Branch
from dagger_dsl.model.graph import Edge, Graph, GraphInput, Input, Node
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.store.storage import Store
from dagger_dsl.views.stored import stored_report
from tests.engine.helpers import IMMEDIATE, Answers, Workflow, boom, url_of
from tests.views.reports import make_report


@attrs.define
class Asked:
    """Answers for a run, from its report and from what the store remembers of it."""

    report: RunReport
    stored: RunReport

    def __call__(self, node_id: str) -> list[str]:
        """Return the lines on a node, without times; both reports have to give the same."""
        texts = [
            re.sub(r" in [\d.]+ [\u00b5m]?s", "", each.explain(node_id))
            for each in (self.report, self.stored)
        ]
        assert texts[0] == texts[1].replace(", restored from the store", "")
        return texts[0].splitlines()


class Ask:
    """Runs workflows with a database."""

    def __init__(self, folder: Path) -> None:
        self.url = url_of(folder)
        self.store = Store(self.url)

    def __call__(self, flow: Workflow, **options: Any) -> Asked:
        report = flow.run(database_url=self.url, **options)
        return Asked(report, stored_report(self.store.load_run(report.run_id)))


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    made = Ask(tmp_path)
    yield made
    made.store.close()


# Nodes that did not run.


@pytest.mark.row("H12")
def test_a_skipped_node_is_followed_back_to_the_failure(ask: Ask) -> None:
    flow = Workflow().note("extract", ValueError("no file"), on_failure="continue")
    flow.note("load", after=["extract"]).note("report", after=["load"])
    answer = ask(flow)
    assert answer("report") == [
        "'report' was skipped: it needs 'load', which was skipped",
        "'load' was skipped: it needs 'extract', which failed",
        "'extract' failed after 1 attempt: ValueError: no file",
    ]
    assert answer("load") == answer("report")[1:]


@pytest.mark.row("H12")
def test_an_unmet_branch_names_the_answer_and_the_label(ask: Ask) -> None:
    flow = (
        Workflow().note("route", ["eu", "asia"]).note("eu").note("us").note("after", after=["us"])
    )
    answer = ask(flow.when("route", "eu", "eu").when("route", "us", "us"))
    assert answer("after") == [
        "'after' was skipped: it needs 'us', which was skipped",
        "'us' was skipped: it needs 'route', which chose 'asia', 'eu', not 'us'",
    ]
    flow = Workflow().note("check", False).note("then")
    assert ask(flow.when("check", "true", "then"))("then") == [
        "'then' was skipped: it needs 'check', which chose 'false', not 'true'"
    ]
    flow = Workflow().note("check", []).note("then")
    assert ask(flow.when("check", "true", "then"))("then") == [
        "'then' was skipped: it needs 'check', which chose nothing, not 'true'"
    ]


def test_the_value_of_a_branch_is_not_taken_for_its_label(ask: Ask) -> None:
    for value in ("us", "else", 5):
        flow = Workflow().note("route", Branch("eu", value)).note("eu").note("us")
        answer = ask(flow.when("route", "eu", "eu").when("route", "us", "us"))
        assert answer("us") == ["'us' was skipped: it needs 'route', which did not choose 'us'"]


@pytest.mark.row("H12")
def test_other_triggers_show_all_of_their_dependencies(ask: Ask) -> None:
    flow = Workflow().note("a", ValueError("x"), on_failure="continue").note("b")
    flow.note("route", "eu").note("us").when("route", "us", "us")
    flow.note("join", after=["b", "a"], trigger="none_failed")
    flow.note("first", after=["us", "a"], trigger="any").note(
        "rescue", after=["b"], trigger="failed"
    )
    answer = ask(flow.note("below", after=["join"]))
    rule = "trigger 'none_failed' needs one satisfied dependency, and none that failed or was"
    assert answer("join") == [
        f"'join' was skipped: {rule} cancelled",
        "  'b', which completed",
        "  'a', which failed",
        "'a' failed after 1 attempt: ValueError: x",
    ]
    assert answer("first")[:3] == [
        "'first' was skipped: trigger 'any' needs one dependency that is satisfied",
        "  'us', which was skipped",
        "  'a', which failed",
    ]
    assert answer("rescue") == [
        "'rescue' was skipped: trigger 'failed' needs a dependency that failed",
        "  'b', which completed",
    ]
    assert answer("below")[0] == "'below' was skipped: it needs 'join', which was skipped"
    assert answer("below")[1:] == answer("join")


def test_a_label_that_leads_into_a_join_is_shown(ask: Ask) -> None:
    flow = Workflow().note("route", "eu").note("join", trigger="any")
    flow.note("eu", after=["route"]).when("route", "us", "join")
    assert ask(flow)("join") == [
        "'join' was skipped: trigger 'any' needs one dependency that is satisfied",
        "  'route', which chose 'eu', not 'us'",
    ]


def test_disabled_nodes_say_so(ask: Ask) -> None:
    flow = Workflow().note("off", enabled=False).note("below", after=["off"])
    assert ask(flow)("below") == [
        "'below' was skipped: it needs 'off', which was skipped",
        "'off' was skipped: it is disabled",
    ]


def test_what_a_stop_cancelled_names_the_node_that_failed(ask: Ask) -> None:
    flow = Workflow().note("fine", OSError("not this one"), on_failure="continue")
    flow.note("bad", ValueError("x")).note("other").note("below", after=["bad"])
    answer = ask(flow)
    assert answer("other") == [
        "'other' was cancelled: a node failed and the run stops",
        "'bad' failed after 1 attempt: ValueError: x",
    ]
    assert answer("below")[0] == "'below' was skipped: it needs 'bad', which failed"


def test_what_a_person_cancelled_says_what_that_person_said(ask: Ask) -> None:
    token = CancelToken()
    flow = Workflow()
    flow.add("a", lambda: token.cancel("enough for today")).note("b", after=["a"])
    assert ask(flow, cancel=token)("b") == ["'b' was cancelled: enough for today"]


def test_a_pending_node_of_a_paused_run_says_what_it_waits_for(ask: Ask) -> None:
    flow = Workflow().note("bad", ValueError("x"), on_failure="pause").note("free")
    flow.note("below", after=["bad"]).note("deep", after=["free", "below"])
    answer = ask(flow)
    paused = "the run is paused: node 'bad' failed"
    failed = "'bad' failed after 1 attempt: ValueError: x"
    below = "'below' has not started: it needs 'bad', which failed"
    assert answer("below") == [below, failed, paused]
    assert answer("free") == [
        "'free' has not started: nothing it waits for is missing, but the run is paused",
        paused,
    ]
    assert answer("deep") == [
        "'deep' has not started: it needs 'below', which has not started (and 1 other dependency)",
        below,
        failed,
        paused,
    ]


def test_a_branch_that_is_held_says_why() -> None:
    graph = Graph("g", [Node("a", "f"), Node("b", "f", dependencies=["a"])])
    held = NodeReport("a", NodeState.PENDING, reason="paused: until the audit is over")
    report = make_report(graph, held, status=RunStatus.PAUSED)
    assert report.explain("b").splitlines() == [
        "'b' has not started: it needs 'a', which has not started",
        "'a' has not started: paused: until the audit is over",
        "the run is paused",
    ]


def test_a_live_run_says_who_is_waited_for() -> None:
    nodes = [Node("a", "f"), Node("b", "f"), Node("c", "f", dependencies=["a", "b"])]
    running = NodeReport("b", NodeState.RUNNING, attempts=2)
    waiting = NodeReport("a", NodeState.WAITING, reason="a person is asked: deploy?")
    report = make_report(Graph("g", nodes), running, waiting, status=RunStatus.RUNNING)
    assert report.explain("c").splitlines() == [
        "'c' has not started: it needs 'a', which waits (and 1 other dependency)",
        "'a' waits: a person is asked: deploy?",
    ]
    assert report.explain("b") == "'b' is running after 2 attempts"
    assert make_report(Graph("g", nodes), status=RunStatus.RUNNING).explain("a") == (
        "'a' has not started: nothing it waits for is missing; its turn has not come"
    )


def test_the_way_back_is_shortened_in_the_middle() -> None:
    flow = Workflow().note("n0", ValueError("deep"), on_failure="continue")
    for i in range(1, 3_000):
        flow.note(f"n{i}", after=[f"n{i - 1}"])
    lines = flow.run().explain("n2999").splitlines()
    assert len(lines) == 25
    assert lines[0] == "'n2999' was skipped: it needs 'n2998', which was skipped"
    assert lines[12] == "... and 2976 more steps ..."
    assert (
        re.sub(r" in [\d.]+ [\u00b5m]?s", "", lines[-1])
        == "'n0' failed after 1 attempt: ValueError: deep"
    )


def test_a_wide_join_lists_some_of_its_dependencies() -> None:
    flow = Workflow()
    for i in range(50):
        flow.note(f"n{i}")
    flow.note("join", after=[f"n{i}" for i in range(50)], trigger="failed")
    lines = flow.run().explain("join").splitlines()
    assert len(lines) == 14
    assert lines[-1] == "  and 38 more dependencies"


# Nodes that ran.


def test_a_completed_node_tells_how(ask: Ask) -> None:
    flow = Workflow().note("flaky", Answers([OSError("first"), 2]), try_count=2, retry=IMMEDIATE)
    flow.handler("handler", lambda error: "saved")
    answer = ask(flow.add("saved", boom, failure="handler"))
    assert answer("flaky") == ["'flaky' completed after 2 attempts"]
    assert "attempt" in (told := answer.report.explain("saved"))
    assert told.endswith(", recovered by its failure handler from ValueError: boom")
    assert answer.stored.explain("saved").endswith(", recovered by its failure handler")
    assert re.fullmatch(
        r"'flaky' completed after 2 attempts in [\d.]+ [\u00b5m]?s", answer.report.explain("flaky")
    )


def test_a_restored_node_says_so(tmp_path: Path) -> None:
    url = url_of(tmp_path)
    flow = Workflow().note("a", 1).note("b", Answers([ValueError("x"), 2]), after=["a"])
    first = flow.run(database_url=url)
    again = flow.resume(first.run_id, url)
    assert again.explain("a").endswith(", restored from the store")


def test_a_failed_node_tells_its_error_and_attempts(ask: Ask) -> None:
    flow = Workflow().note("bad", OSError("disk\x1b[31m gone"), try_count=3, retry=IMMEDIATE)
    assert ask(flow)("bad") == ["'bad' failed after 3 attempts: OSError: disk\\x1b[31m gone"]


# Inputs.


@pytest.mark.row("H12")
@pytest.mark.parametrize("items", [4, 10])
def test_a_map_that_went_on_without_some_items_tells_which_failed(ask: Ask, items: int) -> None:
    def odd(item: int) -> int:
        if item % 2:
            raise ValueError(f"{item} is odd\nand more")
        return item

    flow = Workflow().add(
        "each", odd, take={"item": "inputs.items"}, map_over="item", map_errors="collect"
    )
    head, many, *failed = ask(flow, inputs={"items": list(range(items))})("each")
    assert head.startswith("'each' completed")
    assert many == f"  {items // 2} of {items} items failed:"
    assert failed[:2] == [
        f"    [{each}] after 1 attempt: ValueError: {each} is odd" for each in (1, 3)
    ]
    inputs = ["inputs:", "  item <- inputs.items: an input of the run"]
    fifth = "    [5] after 1 attempt: ValueError: 5 is odd"
    assert failed[2:] == ([fifth, "    and 2 more"] if items == 10 else []) + inputs
    assert ask(flow, inputs={"items": [0, 2]})("each")[1:] == inputs


@pytest.mark.row("H14")
def test_every_input_names_its_last_writer_or_says_never_written(ask: Ask) -> None:
    flow = Workflow().note("rows", Answers([OSError("first"), 2]), try_count=2, retry=IMMEDIATE)
    flow.note("bad", ValueError("x"), on_failure="continue").note("below", after=["bad"])
    flow.add(
        "join",
        lambda **_: None,
        take={"a": "rows", "b": "bad", "c": "below", "d": "inputs.limit"},
        give={"e": [1, "two"]},
        trigger="any",
    )
    answer = ask(flow, inputs={"limit": 3})
    assert answer("join")[1:] == [
        "inputs:",
        "  a <- rows.result: written by 'rows', which completed after 2 attempts",
        "  b <- bad.result: never written, as 'bad' failed",
        "  c <- below.result: never written, as 'below' was skipped",
        "  d <- inputs.limit: an input of the run",
        "  e = [1, 'two']",
    ]


@pytest.mark.row("H14")
def test_a_wrong_path_of_a_reference_is_pointed_out() -> None:
    graph = Graph(
        "g",
        [
            Node("a", "f", outputs=["rows", "size"]),
            Node("b", "f", [Input("x", "a.row"), Input("y", "inputs.z"), Input("k", "inputs.key")]),
            Node("c", "f", [Input("x", "gone.result")]),
        ],
        inputs=[GraphInput("key", schema={"type": "string", "format": "secret"})],
    )
    report = make_report(graph, NodeReport("a", NodeState.COMPLETED, attempts=1))
    assert report.explain("b").splitlines()[-3:] == [
        "  x <- a.row: never written, 'a' declares only 'rows', 'size'",
        "  y <- inputs.z: never written: it is not among the recorded inputs of the run",
        "  k <- inputs.key: a secret of the run, which is not recorded",
    ]


# Any report.


def test_an_unknown_node_is_refused_with_a_suggestion() -> None:
    report = Workflow().note("extract").run()
    with pytest.raises(NodeNotFound, match="did you mean 'extract'"):
        report.explain("extrcat")


def test_a_report_that_says_little_is_explained_with_what_there_is() -> None:
    nodes = [Node(each, "f") for each in ("skipped", "cancelled", "failed", "waiting")]
    graph = Graph("g", [*nodes, Node("r", "f")], [Edge("failed", "r", "true")])
    report = make_report(
        graph,
        NodeReport("skipped", NodeState.SKIPPED),
        NodeReport("cancelled", NodeState.CANCELLED),
        NodeReport("failed", NodeState.FAILED),
        NodeReport("waiting", NodeState.WAITING),
        NodeReport("r", NodeState.SKIPPED, error=ErrorInfo("X", "")),
        status=RunStatus.CANCELLED,
    )
    assert report.explain("skipped") == "'skipped' was skipped: no reason was recorded"
    assert report.explain("cancelled") == "'cancelled' was cancelled: no reason was given"
    assert report.explain("failed") == "'failed' failed: no error was recorded"
    assert "for its next attempt, or for a person" in report.explain("waiting")
    assert report.explain("r").startswith("'r' was skipped: it needs 'failed', which failed")
