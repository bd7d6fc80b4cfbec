"""Hooks by themselves: which are bound, what they want and answer, and the ready-made ones."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import itertools
import logging
import subprocess
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

from dagger_dsl import NodeSpec, Registry, Secret
from dagger_dsl.dsl.hooks import hook
from dagger_dsl.engine.hooks import (
    BoundHook,
    CompositeHook,
    EventHook,
    LoggingHook,
    MetricsHook,
    PlannerHook,
    ReviewHook,
    TimingHook,
    bind_hooks,
    commands_of,
)
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    CancelBranch,
    Command,
    EmitEvent,
    PauseBranch,
)
from dagger_dsl.model.context import HookContext, NodeOutcome, NodeRef
from dagger_dsl.model.events import (
    CustomEvent,
    Event,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeRetrying,
    NodeSkipped,
    NodeStarted,
    RunFinished,
    RunStarted,
)
from dagger_dsl.testing import FakeClock, make_hook_ctx, run_hook
from tests.engine.helpers import IMMEDIATE, RUNNERS, Answers, Workflow, boom

CTX = make_hook_ctx(run_id="r", dag_name="flow")


def ref(node_id: str, key: str = "default") -> NodeRef:
    return NodeRef("r", "flow", node_id, key)


def completed(node_id: str = "a", **outputs: Any) -> NodeCompleted:
    return NodeCompleted(ref(node_id), NodeOutcome(True, outputs))


STARTED = NodeStarted(ref("a"))
FAILED = NodeFailed(ref("a"), ValueError("no"))
CUSTOM = CustomEvent("r", "hello")


def watch(ctx: HookContext, event: Event) -> None:
    """Look on."""


def another() -> Any:
    """Return a function like `watch` that is not the same."""
    return types.FunctionType(watch.__code__, {}, "watch")


def bind(*given: Any, registry: Registry | None = None) -> tuple[BoundHook, ...]:
    return bind_hooks(given, Registry() if registry is None else registry, "flow")


def names(bound: Sequence[BoundHook]) -> list[str]:
    return [each.name for each in bound]


# --- which hooks a run has -----------------------------------------------------------------------


@pytest.mark.row("B41")
def test_the_lower_order_comes_first_then_the_registered_then_the_given() -> None:
    parent = Registry()
    registry = Registry(parent)
    for name, order, place in (
        ("own", 0, registry),
        ("late", 5, registry),
        ("parents", 0, parent),
        ("early", -1, registry),
    ):
        hook(another(), name=name, order=order, registry=place)
    first = hook(another(), name="first", order=-2, register=False)
    bound = bind(TimingHook(), first, registry=registry)
    assert names(bound) == ["first", "early", "parents", "own", "TimingHook", "late"]


def test_without_hooks_there_are_none() -> None:
    assert bind() == ()


def test_hooks_for_other_graphs_are_left_out() -> None:
    registry = Registry()
    for dag in ("flow", "f*", ["x", "?low"], "Flow", "flows", "*x"):
        hook(watch, dag=dag, name=str(dag), registry=registry)
    assert names(bind(registry=registry)) == ["flow", "f*", "['x', '?low']"]


@pytest.mark.row("B41")
def test_a_hook_that_is_there_twice_is_called_once() -> None:
    class Watching:
        def watch(self, ctx: Any, event: Any) -> None: ...

    registry = Registry()
    timing, watching = TimingHook(), Watching()
    made = hook(watch, registry=registry)
    hook(timing, registry=registry)
    hook(watching.watch, name="bound", registry=registry)
    given = (made, watch, made.definition, "watch", timing, watching.watch, MetricsHook())
    bound = bind(*given, registry=registry)
    assert names(bound) == ["watch", "TimingHook", "bound", "MetricsHook"]
    assert names(bind(watch, timing, watch, timing)) == ["watch", "TimingHook"]
    assert names(bind(Watching().watch, Watching().watch)) == ["watch", "watch#2"]
    narrow = hook(watch, on=NodeFailed, name="narrow", register=False)
    assert names(bind(narrow, narrow, registry=registry))[3:] == ["narrow"]


def test_names_are_distinct_and_do_not_depend_on_the_process() -> None:
    def given() -> list[Any]:
        several = [lambda c, e: None, lambda c, e: None, TimingHook(), TimingHook(), watch]
        return [*several, functools.partial(another())]

    expected = ["<lambda>", "<lambda>#2", "TimingHook", "TimingHook#2", "watch", "watch#2"]
    assert names(bind(*given())) == names(bind(*given())) == expected
    taken = [hook(another(), name=name, register=False) for name in ("a", "a#2", "a")]
    assert names(bind(*taken)) == ["a", "a#2", "a#3"]


def test_a_raw_object_in_a_registry_is_a_hook_too() -> None:
    registry = Registry()
    registry.register_hook("plain", watch)
    registry.register_hook("timing", TimingHook)
    one, other = bind(registry=registry)
    assert (one.name, one.handle) == ("plain", watch)
    assert other.name == "timing"


class Needing(EventHook):
    def __init__(self, where: str = "") -> None:
        raise OSError("disk is gone")


class Short:
    def handle(self, ctx: Any) -> None: ...


class Starting(EventHook):
    def on_start(self) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (5, r"a hook is a function of \(ctx, event\) or has handle\(ctx, event\), not 5"),
        (TimingHook, r"a hook is an object, not its class; give TimingHook\(\)"),
        (lambda event: None, r"<lambda> is called with \(ctx, event\), and its signature is"),
        (Short(), r"'Short': handle is called with \(ctx, event\)"),
        (Starting(), r"'Starting': on_start is called with \(ctx\)"),
        ("nobody", "no hook 'nobody' is registered; known: 'broken'"),
        ("broken", r"'broken': Needing\(\) failed: OSError\('disk is gone'\)"),
    ],
)
def test_what_cannot_be_a_hook_is_refused(wrong: Any, text: str) -> None:
    registry = Registry()
    hook(Needing, name="broken", dag="other" if wrong != "broken" else "*", registry=registry)
    try:
        with pytest.raises(ConfigurationError, match=text):
            bind(wrong, registry=registry)
    finally:
        del Needing.__dagger_hook__  # type: ignore[attr-defined]


# --- what they want ------------------------------------------------------------------------------


def wanted(bound: BoundHook, *events: Event) -> list[bool]:
    assert bound.wants is not None
    return [bound.wants(each) for each in events]


def chosen(target: Any = watch, **options: Any) -> BoundHook:
    (bound,) = bind(hook(target, register=False, **options))
    return bound


def test_everything_is_wanted_without_filters() -> None:
    bound = chosen()
    assert bound.wants is None
    assert bound.wants_starts
    assert (bound.on_start, bound.on_complete) == (None, None)


@pytest.mark.row("B15")
def test_events_are_filtered_by_class() -> None:
    bound = chosen(on=(NodeCompleted, CustomEvent))
    assert wanted(bound, completed(), CUSTOM, FAILED, STARTED) == [True, True, False, False]
    assert not bound.wants_starts
    assert chosen(on=NodeStarted).wants_starts


@pytest.mark.row("B15")
def test_events_are_filtered_by_node_and_case() -> None:
    bound = chosen(nodes=["extract_*", "load[12]"])
    events = [completed(each) for each in ("extract_1", "Extract_1", "load1", "load3", "xload1")]
    assert wanted(bound, *events) == [True, False, True, False, False]
    assert bound.wants_starts
    assert wanted(bound, CUSTOM) == [False]


def test_an_event_of_no_node_passes_a_node_filter_where_it_is_asked_for() -> None:
    bound = chosen(on=(NodeCompleted, CustomEvent), nodes="a")
    events = (completed("a"), completed("b"), CUSTOM, FAILED)
    assert wanted(bound, *events) == [True, False, True, False]


class NoStarts(EventHook):
    """Says itself that it wants no starts."""

    wants_starts = False

    def handle(self, ctx: HookContext, event: Event) -> None: ...


def test_an_object_may_say_that_it_wants_no_starts() -> None:
    for options in ({}, {"nodes": "a"}, {"on": (NodeStarted, NodeCompleted)}):
        bound = chosen(NoStarts(), **options)
        assert not bound.wants_starts
        assert wanted(bound, STARTED, completed()) == [False, True]


def test_an_object_without_a_method_of_its_own_is_not_called() -> None:
    class Ending(EventHook):
        def on_complete(self, ctx: HookContext, success: bool) -> None: ...

    (bound,) = bind(Ending())
    assert wanted(bound, completed(), STARTED, CUSTOM) == [False] * 3
    assert not bound.wants_starts
    assert bound.on_start is None
    assert bound.on_complete is not None


# --- how they are called -------------------------------------------------------------------------


@pytest.mark.row("B16", "B17")
def test_functions_get_the_events_of_the_run_if_they_ask() -> None:
    told: list[Any] = []

    def note(ctx: HookContext, event: Any) -> None:
        told.append(event)

    started, finished = RunStarted("r", "flow", True), RunFinished("r", "flow", "paused", False)
    first, last = chosen(note, on=RunStarted), chosen(note, on=(RunFinished, NodeFailed))
    assert first.on_complete is last.on_start is None
    assert first.on_start is not None
    assert last.on_complete is not None
    first.on_start(CTX, started)
    last.on_complete(CTX, finished)
    assert told == [started, finished]
    assert wanted(first, completed(), FAILED) == [False, False]
    assert wanted(last, completed(), FAILED) == [False, True]
    assert not first.wants_starts


@pytest.mark.row("B16", "B17")
def test_methods_of_an_object_are_called_whatever_its_filters_are() -> None:
    told: list[Any] = []

    class Telling(EventHook):
        def on_start(self, ctx: HookContext) -> None:
            told.append(ctx)

        def handle(self, ctx: HookContext, event: Event) -> None: ...

        def on_complete(self, ctx: HookContext, success: bool) -> None:
            told.append(success)

    bound = chosen(Telling(), on=NodeFailed, nodes="x")
    assert bound.on_start is not None
    assert bound.on_complete is not None
    bound.on_start(CTX, RunStarted("r", "flow"))
    bound.on_complete(CTX, RunFinished("r", "flow", "failed", False))
    assert told == [CTX, False]


async def later(ctx: HookContext, event: Event) -> Command:
    await asyncio.sleep(0)
    return EmitEvent("later")


async def yielding(ctx: HookContext, event: Event) -> AsyncIterator[Command]:
    yield EmitEvent("later")


@functools.wraps(later)
def around(ctx: HookContext, event: Event) -> Any:
    return later(ctx, event)


class Calling:
    async def __call__(self, ctx: HookContext, event: Event) -> Command:
        return await later(ctx, event)


class Mixed(EventHook):
    async def on_start(self, ctx: HookContext) -> None: ...
    def handle(self, ctx: HookContext, event: Event) -> None: ...


@pytest.mark.row("B15")
@pytest.mark.parametrize(
    "given",
    [later, yielding, around, Calling(), functools.partial(later), hook(later, register=False)],
)
def test_async_ones_are_recognised(given: Any) -> None:
    (bound,) = bind(given)
    assert bound.is_async
    assert not bound.starts_async
    assert asyncio.run(bound.ask(CTX, completed())) == (EmitEvent("later"),)


def test_each_method_is_async_by_itself() -> None:
    (bound,) = bind(Mixed())
    assert (bound.is_async, bound.starts_async, bound.ends_async) == (False, True, False)
    assert not bind(watch)[0].is_async


# --- what they answer ----------------------------------------------------------------------------


@pytest.mark.row("B15")
def test_answers_become_commands() -> None:
    one, two = EmitEvent("a"), CancelBranch("x")
    for answer, expected in (
        (None, ()),
        (False, ()),
        (one, (one,)),
        ([one, two], (one, two)),
        ((), ()),
        (iter([two, one]), (two, one)),
        ((each for each in (one, two)), (one, two)),
    ):
        assert commands_of(answer, "hook 'h'") == expected


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (3, "hook 'h' returned 3; expected are None, a command or a list of commands .*AddNode"),
        (True, "hook 'h' returned True"),
        ("stop", "hook 'h' returned 'stop'"),
        ({"a": 1}, r"hook 'h' returned \{'a': 1\}"),
        (NodeSpec("x"), r"returned NodeSpec\(.*wrap it: AddNode\(spec\)"),
        ([EmitEvent("a"), [EmitEvent("b")]], r"gave, among its commands, \[EmitEvent"),
        ([None], "gave, among its commands, None"),
        (AddNode, "returned <class .*AddNode"),
        (itertools.repeat(EmitEvent("a")), "more than 100,000 commands at once; is it a generator"),
    ],
)
def test_anything_else_is_refused(answer: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        commands_of(answer, "hook 'h'")


def test_a_coroutine_nobody_awaits_is_refused_without_a_warning() -> None:
    with pytest.raises(ConfigurationError, match="make it an async function, 'async def'"):
        commands_of(later(CTX, STARTED), "hook 'h'")


# --- logging -------------------------------------------------------------------------------------


@pytest.mark.row("B43")
def test_every_event_is_one_record(caplog: pytest.LogCaptureFixture) -> None:
    at = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
    error = ValueError("no")
    events: list[Event] = [
        RunStarted("r", "flow"),
        NodeStarted(ref("a"), 2, at),
        NodeRetrying(ref("a"), error, 2, 1.5),
        completed("a", rows=[1, 2]),
        NodeCompleted(ref("soft", "k1"), NodeOutcome(False, error=error)),
        NodeFailed(ref("b"), error, 3),
        NodeSkipped(ref("c"), "upstream"),
        NodeCancelled(ref("d"), "stop"),
        CustomEvent("r", "hello", {"x": 1}, 7),
        RunFinished("r", "flow", "failed", False),
    ]
    with caplog.at_level(logging.INFO, "dagger_dsl.events"):
        for event in events:
            run_hook(LoggingHook(), event, dag_name="flow")
    assert [each.__dict__["event"] for each in caplog.records] == [
        type(each).__name__ for each in events
    ]
    for record in caplog.records:
        assert (record.__dict__["run_id"], record.__dict__["dag_name"]) == ("r", "flow")
    expected: list[dict[str, Any]] = [
        {},
        {"node_id": "a", "attempt": 2, "at": at.isoformat()},
        {"node_id": "a", "error": "ValueError('no')", "attempt": 2, "delay": 1.5},
        {"node_id": "a", "success": True, "cached": False, "outputs": "{'rows': [1, 2]}"},
        {"node_id": "soft", "invocation_key": "k1", "success": False, "error": "ValueError('no')"},
        {"node_id": "b", "error": "ValueError('no')", "attempts": 3, "will_retry": False},
        {"node_id": "c", "reason": "upstream"},
        {"node_id": "d", "reason": "stop"},
        {"event_name": "hello", "payload": "{'x': 1}", "sequence": 7},
        {"success": False},
    ]
    for record, fields in zip(caplog.records, expected, strict=True):
        assert fields.items() <= record.__dict__.items()
    assert caplog.records[1].getMessage().startswith("NodeStarted node_id=a attempt=2 at=2024-")


@pytest.mark.row("B43")
def test_records_are_short_and_nothing_in_them_moves_a_terminal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Loud:
        def __repr__(self) -> str:
            return "\x1b[31mred\nline"

    array = type("array", (), {"__repr__": lambda self: "mine"})
    event = completed("a\nb\x1b]0;x\x07", x=Loud(), y=Secret("word"), z=list(range(10**6)))
    with caplog.at_level(logging.INFO, "dagger_dsl.events"):
        run_hook(LoggingHook(), event)
        run_hook(LoggingHook(), completed(x=array()))
    record, other = caplog.records
    assert record.__dict__["node_id"] == "a\\nb\\x1b]0;x\\x07"
    text = record.getMessage()
    assert len(text) < 1_000
    assert not set(text) & {"\x1b", "\n", "\x07"}
    assert "word" not in text
    assert other.__dict__["outputs"].startswith("{'x': ")


def test_a_logger_and_a_level_can_be_chosen(caplog: pytest.LogCaptureFixture) -> None:
    own = logging.getLogger("own")
    with caplog.at_level(logging.INFO, "own"):
        run_hook(LoggingHook(own, logging.WARNING), STARTED)
        run_hook(LoggingHook(own, logging.DEBUG), STARTED)
    assert [(each.name, each.levelname) for each in caplog.records] == [("own", "WARNING")]
    with pytest.raises(ConfigurationError, match=r"a level is a number such as .*, not 'INFO'"):
        LoggingHook(level="INFO")  # type: ignore[arg-type]


# --- measuring -----------------------------------------------------------------------------------


@pytest.mark.row("B44")
def test_times_are_those_of_the_last_attempt() -> None:
    clock = FakeClock()
    timing = TimingHook(clock)

    def show(event: Event, seconds: float) -> None:
        run_hook(timing, event)
        clock.advance(seconds)

    show(RunStarted("r", "flow"), 1)
    show(STARTED, 2)
    show(NodeRetrying(ref("a"), ValueError(), 1, 5.0), 5)
    show(NodeStarted(ref("a"), 2), 3)
    show(NodeStarted(ref("m", "k1")), 0.5)
    show(completed("a"), 0)
    show(NodeCompleted(ref("m", "k1"), NodeOutcome(True)), 0)
    show(NodeSkipped(ref("s"), "off"), 0)
    show(NodeStarted(ref("left")), 1)
    assert timing.node_times == {"a": 3.5, "m[k1]": 0.5}
    assert timing.total == 0
    show(RunFinished("r", "flow", "cancelled", False), 9)
    show(NodeCancelled(ref("left"), "the run is over"), 0)
    assert timing.total == 12.5
    assert "left" not in timing.node_times


@pytest.mark.row("B44")
@pytest.mark.parametrize("runner", RUNNERS)
def test_times_of_a_run_are_close_to_the_report_s(runner: str) -> None:
    clock = FakeClock()
    timing = TimingHook(clock)
    flow = Workflow()
    flow.add("slow", lambda: clock.advance(0.25)).note("quick", after=["slow"])
    report = flow.run(runner, max_workers=1, hooks=[timing])
    assert report.success
    assert timing.node_times == {"slow": 0.25, "quick": 0}
    assert timing.total == 0.25


@pytest.mark.row("B45")
@pytest.mark.parametrize("runner", RUNNERS)
def test_counts_equal_the_report_s(runner: str) -> None:
    metrics = MetricsHook()
    flow = Workflow().note("a").note("flaky", Answers([OSError(), 1]), after=["a"])
    flow.nodes[-1] = flow.nodes[-1].replace(try_count=2, retry=IMMEDIATE)
    flow.add("bad", boom, after=["a"], on_failure="continue").note("below", after=["bad"])
    flow.note("off", enabled=False)
    report = flow.run(runner, max_workers=2, hooks=[metrics])
    assert metrics.snapshot() == {
        "nodes_started": 3,
        "nodes_completed": report.completed_nodes,
        "nodes_failed": report.failed_nodes,
        "nodes_skipped": report.skipped_nodes,
        "nodes_cancelled": report.cancelled_nodes,
        "nodes_retried": 1,
        "runs_started": 1,
        "runs_finished": 1,
    }
    assert (metrics.nodes_completed, metrics.nodes_failed, metrics.nodes_skipped) == (2, 1, 2)
    metrics.reset()
    assert set(metrics.snapshot().values()) == {0}


@pytest.mark.row("B45")
def test_counts_of_a_run_that_stops_equal_the_report_s() -> None:
    metrics = MetricsHook()
    flow = Workflow().add("bad", boom).note("z", after=["bad"]).note("other")
    report = flow.run(hooks=[metrics])
    assert report.cancelled_nodes + report.skipped_nodes == 2
    assert metrics.nodes_cancelled == report.cancelled_nodes
    assert metrics.nodes_skipped == report.skipped_nodes


def test_a_chosen_failure_counts_as_failed() -> None:
    metrics = MetricsHook()
    run_hook(metrics, NodeCompleted(ref("a"), NodeOutcome(False)))
    run_hook(metrics, CUSTOM)
    assert (metrics.nodes_completed, metrics.nodes_failed, metrics.nodes_started) == (0, 1, 0)


def test_one_object_counts_and_measures_many_runs_at_once() -> None:
    metrics, timing = MetricsHook(), TimingHook()
    both = CompositeHook([metrics, timing])

    def one_run(number: int) -> None:
        ctx = make_hook_ctx(run_id=str(number))
        both.on_start(ctx)
        for k in range(200):
            node = NodeRef(str(number), "flow", f"n{k}")
            both.handle(ctx, NodeStarted(node))
            both.handle(ctx, NodeCompleted(node, NodeOutcome(True)))
            assert timing.node_times
        both.on_complete(ctx, True)

    threads = [threading.Thread(target=one_run, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    counts = metrics.snapshot()
    assert counts["nodes_started"] == counts["nodes_completed"] == 1_600
    assert counts["runs_finished"] == 8
    assert len(timing.node_times) == 200


# --- steering ------------------------------------------------------------------------------------


@pytest.mark.row("E12")
def test_a_node_that_asks_for_review_pauses_its_branch() -> None:
    review = ReviewHook()
    assert run_hook(review, completed("draft", needs_review=True)) == (
        PauseBranch("draft", "Human review required"),
    )
    for event in (
        completed("draft", needs_review=False),
        completed("draft", text="x"),
        NodeCompleted(ref("draft"), NodeOutcome(False, {"needs_review": True})),
        FAILED,
        STARTED,
    ):
        assert run_hook(review, event) == ()
    own = ReviewHook(lambda outputs: outputs["score"] < 0.5, "too low", branch="publish")
    assert run_hook(own, completed(score=0.4)) == (PauseBranch("publish", "too low"),)
    assert run_hook(own, completed(score=0.6)) == ()


@pytest.mark.row("G13")
def test_a_planner_adds_what_comes_after_a_node() -> None:
    def plan(node_id: str, outputs: Any) -> Iterator[NodeSpec] | NodeSpec | None:
        if node_id == "one":
            return NodeSpec("act")
        if node_id != "planner":
            return None
        last = NodeSpec("check", "check", deps=["step_1"])
        steps = [NodeSpec(step, f"step_{k}") for k, step in enumerate(outputs["steps"])]
        return iter([*steps, last])

    planner = PlannerHook(plan)
    assert run_hook(planner, completed("planner", steps=["x", "y"])) == (
        AddNodes(
            [
                NodeSpec("x", "step_0", ["planner"]),
                NodeSpec("y", "step_1", ["planner"]),
                NodeSpec("check", "check", ["step_1"]),
            ]
        ),
    )
    assert run_hook(planner, completed("one")) == (AddNodes([NodeSpec("act", deps=["one"])]),)
    assert run_hook(planner, completed("planner", steps=[])) != ()
    for event in (completed("other"), FAILED, STARTED):
        assert run_hook(planner, event) == ()
    with pytest.raises(ConfigurationError, match="a node to be added is a NodeSpec, not 'act'"):
        run_hook(PlannerHook(lambda n, o: ["act"]), completed("x"))  # type: ignore[list-item]


def test_functions_of_ready_made_hooks_are_plain_functions() -> None:
    async def never(*_: Any) -> None: ...

    for make in (ReviewHook, PlannerHook):
        with pytest.raises(ConfigurationError, match="is a function, not 3"):
            make(3)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="plain function; what has to be awaited"):
            make(never)  # type: ignore[arg-type]


# --- several as one ------------------------------------------------------------------------------


def telling(told: list[str], name: str) -> Any:
    def tell(ctx: HookContext, event: Event) -> Command:
        told.append(name)
        return EmitEvent(name)

    return tell


@pytest.mark.row("B41")
def test_several_hooks_as_one_keep_their_order_and_filters() -> None:
    told: list[str] = []
    metrics = MetricsHook()
    composite = CompositeHook(
        [
            telling(told, "a"),
            hook(telling(told, "b"), on=NodeFailed, register=False),
            hook(telling(told, "c"), dag="other", register=False),
            metrics,
            hook(telling(told, "start"), on=RunStarted, register=False),
            CompositeHook([telling(told, "d")]),
        ]
    )
    assert not composite.is_async
    assert run_hook(composite, completed()) == (EmitEvent("a"), EmitEvent("d"))
    assert composite.handle(CTX, FAILED) == tuple(EmitEvent(name) for name in "abd")
    assert run_hook(composite) == (EmitEvent("start"),)
    assert run_hook(composite, RunFinished("r", "flow", "failed", False)) == ()
    assert told == ["a", "d", "a", "b", "d", "start"]
    assert (metrics.runs_started, metrics.runs_finished, metrics.nodes_completed) == (1, 1, 1)


@pytest.mark.row("B41")
def test_one_async_part_makes_the_whole_async() -> None:
    told: list[str] = []
    composite = CompositeHook([telling(told, "a"), later, Mixed(), telling(told, "z")])
    (bound,) = bind(composite)
    assert bound.is_async
    assert bound.starts_async
    assert run_hook(composite, completed()) == tuple(map(EmitEvent, ("a", "later", "z")))

    async def by_hand() -> Any:
        answer: Any = composite.handle(CTX, completed())
        return await answer

    assert asyncio.run(by_hand()) == tuple(map(EmitEvent, ("a", "later", "z")))


def test_a_part_that_raises_keeps_no_other_from_its_event() -> None:
    told: list[str] = []

    def broken(ctx: HookContext, event: Event) -> None:
        raise ValueError("no")

    one = CompositeHook([broken, telling(told, "a")])
    with pytest.raises(ValueError, match="no"):
        run_hook(one, completed())
    assert told == ["a"]
    two = CompositeHook([broken, functools.partial(broken), lambda ctx, event: 1])
    with pytest.raises(ExceptionGroup) as caught:
        run_hook(two, completed())
    assert [type(each) for each in caught.value.exceptions] == [
        ValueError,
        ValueError,
        ConfigurationError,
    ]


def test_filters_of_the_whole_come_before_those_of_its_parts() -> None:
    told: list[str] = []
    whole = chosen(CompositeHook([telling(told, "a")]), on=NodeFailed, nodes="a", on_error="stop")
    assert wanted(whole, FAILED, completed()) == [True, False]
    assert (whole.name, whole.on_error) == ("CompositeHook", "stop")
    assert whole.on_start is None
    assert not chosen(CompositeHook([NoStarts()])).wants_starts


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([5], "a hook is a function"),
        ("watch", "CompositeHook takes a list of hooks"),
        (["watch"], "no hook 'watch' is registered"),
        (
            [hook(watch, on_error="stop", register=False)],
            "'watch' cannot stop a run as a part of a CompositeHook",
        ),
    ],
)
def test_parts_that_cannot_be_hooks_are_refused(parts: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        CompositeHook(parts)


@pytest.mark.parametrize("runner", RUNNERS)
def test_several_as_one_watch_a_run(runner: str) -> None:
    metrics, timing = MetricsHook(), TimingHook()
    flow = Workflow().note("a").note("b", after=["a"])
    report = flow.run(runner, hooks=[CompositeHook([metrics, timing, LoggingHook()])])
    assert report.hook_errors == ()
    assert metrics.nodes_completed == 2
    assert sorted(timing.node_times) == ["a", "b"]


# --- what it costs -------------------------------------------------------------------------------


def test_the_front_door_does_not_load_hooks() -> None:
    code = (
        "import sys\nfrom dagger_dsl import DAG, action\n"
        "sys.exit(any(name.endswith('.hooks') for name in sys.modules if 'dagger' in name))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ReviewHook(reason=5), "ReviewHook: reason is a text, not 5"),  # type: ignore[arg-type]
        (lambda: ReviewHook(branch=5), "ReviewHook: branch is a text, not 5"),  # type: ignore[arg-type]
        (lambda: ReviewHook(branch=""), "ReviewHook: branch is a node's id or a label"),
        (lambda: TimingHook(5), "TimingHook: clock is a function, not 5"),  # type: ignore[arg-type]
        (lambda: LoggingHook(5), "LoggingHook: logger is a logging.Logger"),  # type: ignore[arg-type]
        (lambda: LoggingHook("runs"), "getLogger"),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_ready_made_hooks_are_looked_at_when_they_are_given(
    make: Callable[[], Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()
