"""Trigger rules and labels, ruling by ruling; random graphs are in `test_state_laws`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from dagger_dsl.errors import InputResolutionError, OutputError, ValidationError
from dagger_dsl.model.context import Branch, NodeOutput
from tests.engine.helpers import RUNNERS, Workflow, boom, returns, states, url_of

End = Literal["completed", "failed", "skipped", "cancelled", "label"]

FREE = {"on_failure": "continue"}


def source(flow: Workflow, name: str, end: str) -> None:
    """Add a node `name` that ends as `end` says; ``label`` completes without the wished label."""
    if end == "completed":
        flow.note(name)
    elif end == "failed":
        flow.note(name, ValueError("x"), **FREE)
    elif end == "skipped":
        flow.note(name, enabled=False)
    else:
        flow.note(name, "other")


def verdict(trigger: str, *ends: str) -> str:
    """Run a join of sources with these ends; return its state."""
    flow = Workflow()
    plain = []
    for place, end in enumerate(ends):
        name = f"s{place}"
        source(flow, name, end)
        if end == "label":
            flow.when(name, "mine", "join")
        else:
            plain.append(name)
    flow.note("join", after=plain, trigger=trigger)
    report = flow.run()
    assert len(flow.calls) == len(set(flow.calls))
    return states(report)["join"]


@pytest.mark.row("A5")
@pytest.mark.parametrize(
    ("trigger", "ends", "expected"),
    [
        ("success", (), "completed"),
        ("success", ("completed", "completed"), "completed"),
        ("success", ("completed", "failed"), "skipped"),
        ("success", ("completed", "skipped"), "skipped"),
        ("success", ("completed", "label"), "skipped"),
        ("any", ("failed", "completed"), "completed"),
        ("any", ("label", "completed"), "completed"),
        ("any", ("failed", "skipped", "label"), "skipped"),
        ("none_failed", ("completed", "skipped", "label"), "completed"),
        ("none_failed", ("completed", "failed"), "skipped"),
        ("none_failed", ("skipped", "label"), "skipped"),
        ("failed", ("completed", "failed"), "completed"),
        ("failed", ("completed", "skipped", "label"), "skipped"),
        ("failed", (), "skipped"),
        ("done", ("completed", "failed", "skipped", "label"), "completed"),
        ("done", (), "completed"),
        ("always", ("failed",), "completed"),
    ],
)
def test_each_rule_decides_by_the_ends_of_its_sources(
    trigger: str, ends: tuple[str, ...], expected: str
) -> None:
    assert verdict(trigger, *ends) == expected


@pytest.mark.parametrize(
    ("trigger", "ends", "reason"),
    [
        ("success", ("failed",), "upstream_failed: 's0' failed"),
        ("success", ("skipped",), "upstream_skipped: 's0' was skipped"),
        ("success", ("label",), "branch not taken at 's0'"),
        ("any", ("failed",), "trigger 'any': no dependency was satisfied"),
        ("none_failed", ("failed",), "trigger 'none_failed': a dependency failed or was cancelled"),
        ("none_failed", ("label",), "trigger 'none_failed': no dependency was satisfied"),
        ("failed", ("completed",), "trigger 'failed': no dependency failed"),
    ],
)
def test_a_skipped_node_says_why(trigger: str, ends: tuple[str, ...], reason: str) -> None:
    flow = Workflow()
    for place, end in enumerate(ends):
        source(flow, f"s{place}", end)
        if end == "label":
            flow.when(f"s{place}", "mine", "join")
    flow.note("join", after=[f"s{k}" for k, e in enumerate(ends) if e != "label"], trigger=trigger)
    assert flow.run().node_reports["join"].reason == reason


def test_success_is_skipped_at_the_first_dead_edge() -> None:
    """Before its other source has even started."""
    flow = Workflow()
    seen: list[str] = []
    flow.note("bad", ValueError("x"), **FREE)
    flow.add("slow", lambda: seen.append(states_now[-1]))
    flow.note("join", after=["bad", "slow"])
    states_now: list[str] = []

    def watch(_ctx: Any, event: Any) -> None:
        states_now.append(f"{type(event).__name__} {event.node.node_id}")

    watch.wants_starts = False  # type: ignore[attr-defined]
    flow.run(hooks=[watch])
    assert seen == ["NodeSkipped join"]


@pytest.mark.parametrize("trigger", ["none_failed", "failed", "done"])
def test_rules_that_wait_wait_for_every_edge(trigger: str) -> None:
    """Also when the verdict could be known before."""
    flow = Workflow()
    flow.note("bad", ValueError("x"), **FREE).note("slow").note("slower", after=["slow"])
    flow.note("join", after=["bad", "slower"], trigger=trigger)
    flow.run()
    assert flow.calls == ["bad", "slow", "slower", *(["join"] if trigger != "none_failed" else [])]


@pytest.mark.parametrize("runner", RUNNERS)
def test_any_starts_with_the_first_satisfied_edge_and_takes_only_its_value(runner: str) -> None:
    flow = Workflow()
    flow.add("first", returns(1))
    flow.add("second", returns(2), after=["first"])

    def join(a: Any = "a", b: Any = "b") -> Any:
        return a, b

    flow.add("join", join, take={"a": "first", "b": "second"}, trigger="any")
    flow.add("end", returns(0), after=["join"])
    assert flow.run(runner).value("join") == (1, "b")


def test_any_keeps_its_source_over_retries() -> None:
    flow = Workflow()
    flow.add("first", returns(1)).add("second", returns(2))
    seen: list[Any] = []

    def join(a: int | None, b: int | None) -> None:
        seen.append((a, b))
        if len(seen) < 2:
            raise ConnectionError

    from tests.engine.helpers import IMMEDIATE

    flow.add(
        "join",
        join,
        take={"a": "first", "b": "second"},
        trigger="any",
        try_count=2,
        retry=IMMEDIATE,
    )
    assert flow.run().success
    assert seen == [(1, None), (1, None)]


def test_any_keeps_its_source_over_a_resume(tmp_path: Path) -> None:
    """Which source came first is what the record says, whatever the resume completes first."""
    flow = Workflow()
    broken = [True]

    def join(a: int | None, b: int | None) -> Any:
        if broken:
            raise ConnectionError
        return a, b

    flow.add("late", returns(1), after=["first"]).add("first", returns(0))
    flow.add("early", returns(2))
    flow.add("join", join, take={"a": "late", "b": "early"}, trigger="any", on_failure="continue")
    url = url_of(tmp_path)
    assert states(flow.run(database_url=url, run_id="r"))["join"] == "failed"
    broken.clear()
    assert flow.resume("r", url).value("join") == (None, 2)


# --- inputs over edges that are not satisfied -----------------------------------------------------


@pytest.mark.parametrize("end", ["failed", "skipped", "label"])
def test_an_input_that_no_edge_delivers_takes_its_default_or_none(end: str) -> None:
    flow = Workflow()
    source(flow, "gone", end)
    if end == "label":
        flow.when("gone", "mine", "join")
    flow.add("there", returns(1))

    def join(a: int = 0, b: str = "default", c: str | None = "other", d: str | None = None) -> Any:
        return a, b, c, d

    flow.add(
        "join", join, take={"a": "there", "b": "gone", "c": "gone", "d": "gone"}, trigger="done"
    )
    assert flow.run().value("join") == (1, "default", "other", None)


def test_an_input_annotated_as_optional_gets_none() -> None:
    flow = Workflow()
    flow.add("bad", boom, **FREE)

    def join(a: int | None) -> Any:
        return a is None

    flow.add("join", join, take={"a": "bad"}, trigger="done")
    assert flow.run().value("join") is True


@pytest.mark.row("H10")
def test_an_input_that_may_stay_open_needs_a_default_and_validation_says_so() -> None:
    flow = Workflow()
    flow.add("bad", boom, **FREE)

    def join(amount: int) -> int:
        return amount

    flow.add("join", join, take={"amount": "bad"}, trigger="done")
    with pytest.raises(ValidationError) as caught:
        flow.run()
    text = str(caught.value)
    assert "join" in text
    assert "amount" in text
    assert "default" in text


@pytest.mark.row("H10")
def test_a_value_that_is_missing_after_all_is_an_error_never_a_silent_none() -> None:
    """What validation cannot see: an action whose parameters are not known."""
    flow = Workflow()
    flow.add("bad", boom, **FREE)

    class Open:
        name = "open"

        def execute(self, ctx: Any) -> Any:
            return dict(ctx.inputs)

    flow.registry.register(Open(), "open")
    from dagger_dsl.model.graph import Input, Node

    flow.nodes.append(Node("join", "open", [Input("amount", "bad.result")], trigger="done"))
    report = flow.run()
    error = report.node_reports["join"].exception
    assert isinstance(error, InputResolutionError)
    assert "'join'" in str(error)
    assert "'amount'" in str(error)
    assert "'bad.result'" in str(error)
    assert flow.run(config={"on_missing": "null"}).value("join") == {"amount": None}


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        (True, {"true"}),
        (False, {"false"}),
        ("eu", {"eu"}),
        (["eu", "true"], {"eu", "true"}),
        (("eu",), {"eu"}),
        ([], set()),
        ("elsewhere", set()),
        (Branch("eu", 5), {"eu"}),
        (Branch(True), {"true"}),
        (NodeOutput.success("eu"), {"eu"}),
        (NodeOutput.success(Branch(["eu", "false"], 5)), {"eu", "false"}),
    ],
)
def test_a_label_is_the_sources_result(answer: Any, taken: set[str]) -> None:
    flow = Workflow().note("route", answer)
    for label in ("true", "false", "eu"):
        flow.note(label).when("route", label, label)
    report = flow.run()
    assert set(flow.calls) - {"route"} == taken
    assert report.success
    skipped = {"true", "false", "eu"} - taken
    assert {name for name, state in states(report).items() if state == "skipped"} == skipped


@pytest.mark.parametrize("answer", [None, 1, 1.5, {"eu": True}, [1]])
def test_anything_else_fails_the_node(answer: Any) -> None:
    flow = Workflow().note("route", answer).note("eu").when("route", "eu", "eu")
    report = flow.run()
    assert isinstance(report.node_reports["route"].exception, OutputError)
    assert "Branch(label, value)" in str(report.error)


def test_a_labelled_edge_is_order_only_and_a_branch_lets_the_value_flow() -> None:
    flow = Workflow()
    flow.add("route", returns(Branch("eu", {"customer": 7})))
    flow.add("plain", lambda: "no value").when("route", "eu", "plain")
    flow.add("takes", lambda given: given, take={"given": "route"}).when("route", "eu", "takes")
    report = flow.run()
    assert report.value("route") == {"customer": 7}
    assert report.outputs == {"plain": "no value", "takes": {"customer": 7}}


def test_a_label_and_a_plain_edge_of_one_source_stand_side_by_side() -> None:
    flow = Workflow().note("route", "eu").note("always", after=["route"])
    flow.note("eu").when("route", "eu", "eu").note("us").when("route", "us", "us")
    flow.run()
    assert flow.calls == ["route", "always", "eu"]


def test_both_ways_meet_in_a_join() -> None:
    """if/else, written out."""
    for answer, way in ((True, "yes"), (False, "no")):
        flow = Workflow().note("check", answer)
        flow.add("yes", returns("yes")).when("check", "true", "yes")
        flow.add("no", returns("no")).when("check", "false", "no")

        def merge(a: str | None, b: str | None) -> str | None:
            return a or b

        flow.add("merge", merge, take={"a": "yes", "b": "no"}, trigger="none_failed")
        assert flow.run().value("merge") == way


def test_skipping_runs_down_a_branch_of_any_length() -> None:
    flow = Workflow().note("route", "elsewhere").note("n0").when("route", "here", "n0")
    for k in range(1, 3_000):
        flow.note(f"n{k}", after=[f"n{k - 1}"])
    report = flow.run()
    assert report.skipped_nodes == 3_000
    assert flow.calls == ["route"]
