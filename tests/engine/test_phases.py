"""The phases of an attempt, and an event for every transition of a node."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dagger_dsl import DAG, Graph, RunOptions, engine, hook
from dagger_dsl.engine.hooks import CompositeHook, EventHook
from dagger_dsl.engine.report import RunReport
from dagger_dsl.errors import (
    ConfigurationError,
)
from dagger_dsl.model.commands import AddNode, Answer, NodeSpec
from dagger_dsl.model.context import NodeCtx, NodeRef
from dagger_dsl.model.events import (
    HumanInputRequested,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodePhase,
    NodeRetrying,
    NodeSkipped,
    NodeStarted,
)
from dagger_dsl.model.lifecycle import PHASES
from dagger_dsl.registry import Registry
from dagger_dsl.testing import FakeClock, play, run_hook
from tests.engine.lives import Log, chain, enter, entries, every_runner


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


# --- phases ---------------------------------------------------------------------------------------


class Phases(EventHook):
    """Keeps the phases, and what else it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, str]] = []
        self.events: list[Any] = []

    def on_phase(self, ctx: Any, event: NodePhase) -> None:
        """Keep one phase."""
        assert event.at is not None
        self.seen.append((event.node.node_id, event.attempt, event.phase))

    def handle(self, ctx: Any, event: Any) -> None:
        """Keep another event."""
        self.events.append(event)


class AsyncPhases(Phases):
    """The same, awaited."""

    async def on_phase(self, ctx: Any, event: NodePhase) -> None:  # type: ignore[override]
        """Keep one phase, later."""
        await asyncio.sleep(0)
        super().on_phase(ctx, event)


@pytest.mark.row("M12")
@pytest.mark.parametrize("kind", [Phases, AsyncPhases])
@pytest.mark.parametrize("body_is_async", [False, True])
@every_runner
@entries
def test_the_five_phases_come_in_order_for_each_attempt(
    runner: str, entry: str, kind: type[Phases], body_is_async: bool
) -> None:
    left = [1]

    def body(first: int) -> int:
        if left[0]:
            left[0] -= 1
            raise ValueError("not yet")
        return first

    chosen: Any = body
    if body_is_async:

        async def chosen(first: int) -> int:
            return body(first)

    hook = kind()
    dag = chain(chosen, retry=1, retry_delay=0)
    assert enter(dag, entry, runner=runner, hooks=[hook]) == 1
    assert hook.seen == [
        *(("first", 1, phase) for phase in PHASES),
        *(("second", 1, phase) for phase in PHASES[:3]),
        *(("second", 2, phase) for phase in PHASES),
    ]
    assert not [each for each in hook.events if isinstance(each, NodePhase)]
    assert not dag.report.hook_errors


@pytest.mark.row("M12")
@every_runner
def test_hooks_are_called_in_their_phase(runner: str) -> None:
    order: list[str] = []

    def phase(ctx: Any, event: Any) -> None:
        order.append(event.phase)

    dag = chain(lambda first: order.append("body"))
    dag.set_node_hooks(
        "second",
        pre_execute=lambda n, i, c: order.append("pre"),
        post_execute=lambda n, i, r, c: order.append("post"),
        cleanup=lambda n, c: order.append("clean"),
    )
    told = hook(phase, on=NodePhase, nodes="second", register=False)
    dag.run(runner=runner, hooks=[told])
    assert order == [
        "pre_validation",
        "pre_execution",
        "pre",
        "execution",
        "body",
        "post_execution",
        "post",
        "cleanup",
        "clean",
    ]


@every_runner
def test_only_hooks_that_ask_are_shown_phases(runner: str) -> None:
    plain: list[Any] = []
    asked = Phases()
    whole = CompositeHook([lambda ctx, event: plain.append(event), asked])
    dag = chain()
    dag.run(runner=runner, hooks=[whole, lambda ctx, event: plain.append(event)])
    assert len(asked.seen) == 10
    assert plain
    assert not [each for each in plain if isinstance(each, NodePhase)]


@every_runner
def test_a_phase_is_shown_while_it_lasts_and_may_be_answered(runner: str) -> None:
    reached = threading.Event()

    class Grow(EventHook):
        def on_phase(self, ctx: Any, event: NodePhase) -> Any:
            if event.phase == "execution" and event.node.node_id == "second":
                reached.set()
                return AddNode(NodeSpec("double", inputs={"x": 4}, id="more"))
            return None

    def body(first: int) -> bool:
        return reached.is_set()

    dag = chain(body)
    dag.registry.register(lambda x: 2 * x, "double")
    dag.run(runner=runner, hooks=[Grow()])
    assert dag.report.outputs == {"second": True, "more": 8}


def test_a_hook_for_phases_that_cannot_be_called_is_refused() -> None:
    class Wrong(EventHook):
        def on_phase(self) -> None:  # type: ignore[override]
            ...

    with pytest.raises(ConfigurationError, match="on_phase"):
        chain().run(hooks=[Wrong()])


def test_a_phase_can_be_shown_to_one_hook_alone() -> None:
    shown, ref = Phases(), NodeRef("run", "flow", "node")
    event = NodePhase(ref, "cleanup", 2, dt.datetime.now(dt.UTC))
    assert run_hook(shown, event) == ()
    assert shown.seen == [("node", 2, "cleanup")]
    assert run_hook(CompositeHook([lambda ctx, event: 1 / 0]), event) == ()


def test_an_attempt_that_was_left_behind_shows_no_more_phases() -> None:
    done = threading.Event()
    dag, hook, log = DAG("flow"), Phases(), Log()

    @dag.node(timeout=0.3, retry=1, retry_delay=0)
    def slow(ctx: NodeCtx) -> int:
        if ctx.attempt == 1:
            time.sleep(0.8)
            done.set()
        return ctx.attempt

    dag.set_default_hooks(post_execute=log.post)

    @dag.node
    def wait(slow: int) -> None:
        done.wait(5)
        time.sleep(0.05)

    slow >> wait
    dag.run(runner="threads", hooks=[hook])
    mine = [each[1:] for each in hook.seen if each[0] == "slow"]
    assert mine == [*((1, phase) for phase in PHASES[:3]), *((2, phase) for phase in PHASES)]
    assert log.calls.count(("post", "slow")) == 1


# --- transitions ----------------------------------------------------------------------------------


class Seen(EventHook):
    """Keeps the events of nodes."""

    def __init__(self) -> None:
        self.by_node: dict[str, list[type]] = {}

    def handle(self, ctx: Any, event: Any) -> None:
        """Keep one event."""
        self.by_node.setdefault(event.node.node_id, []).append(event.__class__)


class SeenAsync(Seen):
    """The same, awaited."""

    async def handle(self, ctx: Any, event: Any) -> None:  # type: ignore[override]
        """Keep one event, later."""
        await asyncio.sleep(0)
        super().handle(ctx, event)


def every_state() -> DAG:
    """Return a DAG whose nodes come to every state there is."""
    dag = DAG("flow")
    left = [1]

    @dag.node(retry=1, retry_delay=0)
    def unsteady() -> int:
        if left[0]:
            left[0] -= 1
            raise ValueError("not yet")
        return 1

    @dag.node
    def ask(unsteady: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("well?")

    @dag.node(on_failure="stop")
    def fail(ask: int) -> None:
        raise KeyError("no")

    @dag.node
    def skipped(fail: None) -> None: ...

    @dag.node(trigger="failed")
    def rescue(fail: None) -> str:
        return "saved"

    @dag.node
    async def running(unsteady: int) -> None:
        await asyncio.sleep(60)

    unsteady >> ask >> fail >> skipped
    fail >> rescue
    unsteady >> running
    return dag


@every_runner
@pytest.mark.parametrize("kind", [Seen, SeenAsync])
def test_there_is_an_event_for_every_transition_of_a_node(runner: str, kind: type[Seen]) -> None:
    hook = kind()

    def answer(ctx: Any, event: Any) -> Any:
        return Answer("ask", 1) if isinstance(event, HumanInputRequested) else None

    report: RunReport = (
        every_state().start(runner=runner, max_workers=4, hooks=[hook, answer]).result()
        if runner != "sequential"
        else _without_the_long_one(hook, answer)
    )
    assert report.status == "failed"
    seen = hook.by_node
    assert seen["unsteady"] == [NodeStarted, NodeRetrying, NodeStarted, NodeCompleted]
    assert seen["ask"] == [NodeStarted, HumanInputRequested, NodeCompleted]
    assert seen["fail"] == [NodeStarted, NodeFailed]
    assert seen["skipped"] == [NodeSkipped]
    assert seen["rescue"] == [NodeStarted, NodeCompleted]
    if runner != "sequential":
        assert seen["running"] == [NodeStarted, NodeCancelled]


def _without_the_long_one(*hooks: Any) -> RunReport:
    graph = every_state().compile()
    nodes = [each for each in graph.nodes.values() if each.id != "running"]
    dag = every_state()
    report = engine.run(
        Graph("flow", nodes, graph.labelled), dag.registry, None, RunOptions(hooks=hooks)
    )
    return report


def test_play_has_hooks_and_phases_too() -> None:
    dag, log, hook = chain(), Log(is_async=True), Phases()
    dag.set_default_hooks(**log.hooks())
    report = play(dag, clock=FakeClock(), hooks=[hook])
    assert report.outputs == {"second": 2}
    assert len(log.calls) == 6
    assert len(hook.seen) == 10
