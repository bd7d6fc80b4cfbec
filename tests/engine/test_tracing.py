"""OpenTelemetry spans of a run."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dagger_dsl.errors import ConfigurationError, MissingExtra
from dagger_dsl.model.context import NodeOutput
from dagger_dsl.model.policies import RetryPolicy
from tests.runners.bodies import one, two
from tests.runners.helpers import RUNNERS, WAYS, Flow
from tests.runners.process_bodies import dies_once

trace = pytest.importorskip("opentelemetry.trace")
sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

runners = pytest.mark.parametrize("runner", RUNNERS)
entries = pytest.mark.parametrize("entry", WAYS)

IMMEDIATE = RetryPolicy(base_delay=0.0, max_delay=0.0)

_exporter = memory.InMemorySpanExporter()
_provider = sdk.TracerProvider()
_provider.add_span_processor(export.SimpleSpanProcessor(_exporter))
trace.set_tracer_provider(_provider)


class Spans:
    """What was exported since the test began."""

    def all(self) -> list[Any]:
        return list(_exporter.get_finished_spans())

    def named(self, name: str) -> list[Any]:
        return [each for each in self.all() if each.name == name]

    def one(self, name: str) -> Any:
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    _exporter.clear()
    yield Spans()
    assert not trace.get_current_span().is_recording()


def parent(span: Any) -> int | None:
    return None if span.parent is None else int(span.parent.span_id)


def own(span: Any) -> int:
    return int(span.context.span_id)


def said(span: Any) -> dict[str, Any]:
    return {key.removeprefix("dagger_dsl."): value for key, value in span.attributes.items()}


@pytest.mark.row("M24")
@runners
@entries
def test_each_attempt_is_a_span_of_the_run_which_is_one_of_the_caller(
    runner: str, entry: str, spans: Spans
) -> None:
    calls: list[int] = []

    def flaky() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("once")
        return 1

    flow = Flow().add("one", one).add("two", two)
    flow.add("flaky", flaky, try_count=2, retry=IMMEDIATE)
    with trace.get_tracer("mine").start_as_current_span("caller"):
        report = flow.run(runner, entry, trace=True, run_id="r")
    assert report.success
    caller, run = spans.one("caller"), spans.one("run flow")
    assert parent(run) == own(caller)
    assert said(run) == {"run_id": "r", "dag_name": "flow", "state": "completed"}
    assert run.status.is_ok or run.status.is_unset
    attempts = [each for each in spans.all() if each.name.startswith("node ")]
    assert sorted(each.name for each in attempts) == [
        "node flaky",
        "node flaky",
        "node one",
        "node two",
    ]
    assert {parent(each) for each in attempts} == {own(run)}
    first, second = spans.named("node flaky")
    assert said(first) == {
        "run_id": "r",
        "dag_name": "flow",
        "node_id": "flaky",
        "attempt": 1,
        "state": "failed",
    }
    assert said(second)["attempt"] == 2
    assert said(second)["state"] == "completed"
    (event,) = first.events
    assert event.attributes["exception.type"] == "ConnectionError"
    assert not first.status.is_ok
    assert not first.status.is_unset
    assert not second.events


@runners
@entries
def test_spans_of_a_body_are_inside_of_its_attempt(runner: str, entry: str, spans: Spans) -> None:
    tracer = trace.get_tracer("mine")

    def sync() -> None:
        with tracer.start_as_current_span("inside sync"):
            pass

    async def async_() -> None:
        await asyncio.sleep(0.001)
        with tracer.start_as_current_span("inside async"):
            await asyncio.sleep(0.001)

    flow = Flow()
    for n in range(4):
        flow.add(f"sync{n}", sync).add(f"async{n}", async_, timeout=30.0)
    assert flow.run(runner, entry, trace=True, max_workers=3).success
    for kind in ("sync", "async"):
        nodes = {own(spans.one(f"node {kind}{n}")) for n in range(4)}
        assert {parent(each) for each in spans.named(f"inside {kind}")} == nodes


@runners
def test_failures_are_told_on_the_span_of_the_run_too(runner: str, spans: Spans) -> None:
    def fail() -> None:
        raise ValueError("bad row")

    report = Flow().add("n", fail).run(runner, trace=True)
    assert not report.success
    run = spans.one("run flow")
    assert said(run)["state"] == "failed"
    assert "'n' failed" in run.status.description
    assert [each.attributes["exception.type"] for each in run.events] == [
        "dagger_dsl.errors.NodeExecutionError"
    ]


@runners
def test_a_failure_that_a_node_chose_is_one(runner: str, spans: Spans) -> None:
    Flow().add("n", lambda: NodeOutput.failure("not today")).run(runner, trace=True)
    span = spans.one("node n")
    assert said(span)["state"] == "failed"
    assert span.status.description == "not today"


@pytest.mark.parametrize("runner", RUNNERS)
def test_calls_that_overrun_have_spans_that_end_with_the_run(runner: str, spans: Spans) -> None:
    free = threading.Event()

    def stuck() -> None:
        free.wait(20)

    async def stuck_async() -> None:
        await asyncio.sleep(20)

    flow = Flow().add("stuck", stuck, timeout=0.05).add("waits", stuck_async, timeout=0.05)
    try:
        flow.run(runner, trace=True, config={"on_failure": "continue"}, max_workers=2)
        assert said(spans.one("node stuck"))["state"] == "left behind"
    finally:
        free.set()
    assert said(spans.one("node waits"))["state"] == "cancelled"
    assert len(spans.named("node stuck")) == 1


def test_items_have_spans_with_their_key(spans: Spans) -> None:
    flow = Flow().add("each", abs, take={"x": "inputs.xs"}, map_over="x")
    report = flow.run("threads", inputs={"xs": [1, -2]}, trace=True)
    assert report.value("each") == [1, 2]
    assert sorted(said(each)["key"] for each in spans.named("node each")) == ["0", "1"]


def test_attempts_in_processes_have_spans(spans: Spans, tmp_path: Any) -> None:
    flow = Flow().add(
        "n", dies_once, give={"path": str(tmp_path / "x")}, try_count=2, retry=IMMEDIATE
    )
    assert flow.run("processes", trace=True).success
    first, second = spans.named("node n")
    assert said(first)["state"] == "failed"
    assert "exited with code 3" in first.status.description
    assert said(second)["state"] == "completed"


def test_without_the_option_there_are_no_spans(spans: Spans) -> None:
    Flow().add("one", one).run()
    assert spans.all() == []


def test_the_extra_is_asked_for_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtra, match=r"trace=True.*dagger-dsl\[otel\]"):
        Flow().add("n", lambda: calls.append(1)).run(trace=True)
    assert calls == []


@pytest.mark.parametrize("wrong", [1, "yes", None])
def test_trace_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="trace must be True or False"):
        Flow().run(trace=wrong)
