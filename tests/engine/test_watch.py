"""Observers: hooks and the progress callback, what they are shown and what they cannot break."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from dagger_dsl.engine.control import CancelToken
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.events import (
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeRetrying,
    NodeSkipped,
    NodeStarted,
)
from dagger_dsl.store.storage import Store
from dagger_dsl.testing import FakeClock
from tests.engine.helpers import (
    IMMEDIATE,
    RUNNERS,
    Answers,
    Clocked,
    Workflow,
    boom,
    url_of,
)

KINDS = (NodeStarted, NodeCompleted, NodeRetrying, NodeFailed, NodeSkipped, NodeCancelled)


def name_of(event: Any) -> str:
    """Return an event's kind and node."""
    kind = next(kind for kind in KINDS if isinstance(event, kind))
    return f"{kind.__name__} {event.node.node_id}"


class Hook:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.events: list[Any] = []

    def on_start(self, ctx: Any) -> None:
        """The run begins."""
        self.told.append(f"start of {ctx.dag_name}")

    def handle(self, ctx: Any, event: Any) -> None:
        """Something happened."""
        self.events.append(event)
        self.told.append(name_of(event))

    def on_complete(self, ctx: Any, success: bool) -> None:
        """The run has ended."""
        self.told.append(f"end {success}")


@pytest.mark.parametrize("runner", RUNNERS)
def test_hooks_are_told_everything_in_order(runner: str) -> None:
    hook = Hook()
    flow = Workflow().note("a").note("flaky", Answers([OSError("x"), 1]), after=["a"])
    flow.nodes[-1] = flow.nodes[-1].replace(try_count=2, retry=IMMEDIATE)
    flow.add("bad", boom, after=["flaky"]).note("below", after=["bad"]).note("z", after=["flaky"])
    flow.run(runner, max_workers=1, hooks=[hook])
    assert hook.told == [
        "start of flow",
        "NodeStarted a",
        "NodeCompleted a",
        "NodeStarted flaky",
        "NodeRetrying flaky",
        "NodeStarted flaky",
        "NodeCompleted flaky",
        "NodeStarted bad",
        "NodeFailed bad",
        "NodeSkipped below",
        "NodeCancelled z",
        "end False",
    ]
    started = [each for each in hook.events if isinstance(each, NodeStarted)]
    assert [each.attempt for each in started] == [1, 1, 2, 1]
    assert all(each.at is not None for each in started)
    retrying = hook.events[3]
    assert (retrying.attempt, retrying.delay, str(retrying.error)) == (1, 0.0, "x")
    failed = next(each for each in hook.events if isinstance(each, NodeFailed))
    assert (failed.attempts, str(failed.error), failed.will_retry) == (1, "boom", False)
    assert hook.events[-2].reason == "upstream_failed: 'bad' failed"


def test_functions_are_hooks_too_and_all_are_called_in_order() -> None:
    told: list[str] = []
    hooks = [
        lambda ctx, event: told.append(f"1 {name_of(event)}"),
        lambda ctx, event: told.append(f"2 {name_of(event)}"),
    ]
    Workflow().note("a").run(hooks=hooks)
    assert told == ["1 NodeStarted a", "2 NodeStarted a", "1 NodeCompleted a", "2 NodeCompleted a"]


def test_a_hook_costs_a_commit_a_turn_and_none_a_node() -> None:
    """Whoever makes a call says that it begins; what was shown is acknowledged by the turn."""
    from tests.engine.simulation import MemoryJournal, MemoryStore

    journal = MemoryJournal(MemoryStore())
    flow = Workflow()
    for k in range(100):
        flow.note(f"n{k}")
    hook = Hook()
    Clocked(flow, hooks=[hook], journal=journal).run()
    assert [len(rows) for rows, _ in journal.commits] == [0, 100, 0]
    assert len(hook.told) == 202


@pytest.mark.parametrize("runner", RUNNERS)
def test_hooks_see_one_event_at_a_time(runner: str) -> None:
    inside: list[int] = []

    def hook(_ctx: Any, _event: Any) -> None:
        inside.append(1)
        assert len(inside) == 1
        time.sleep(0.0005)
        inside.pop()

    flow = Workflow()
    for k in range(20):
        flow.add(f"n{k}", lambda: time.sleep(0.0002))
    report = flow.run(runner, max_workers=8, hooks=[hook])
    assert report.hook_errors == ()


def test_a_failure_handler_is_no_start() -> None:
    hook = Hook()
    flow = Workflow().add("bad", boom)
    flow.registry.register(lambda: 1, name="rescue")
    flow.nodes[-1] = flow.nodes[-1].replace(failure="rescue")
    flow.run(hooks=[hook])
    assert hook.told[1:] == ["NodeStarted bad", "NodeCompleted bad", "end True"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("moment", ["on_start", "NodeStarted b", "NodeCompleted a"])
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_hook_that_leaves_ends_the_run(
    runner: str, moment: str, durability: str, error: type[BaseException], tmp_path: Path
) -> None:
    """Nothing hangs, what had ended is recorded, and the run can be resumed."""

    class Leaving:
        def on_start(self, _ctx: Any) -> None:
            if moment == "on_start":
                raise error("enough")

        def handle(self, _ctx: Any, event: Any) -> None:
            if name_of(event) == moment:
                raise error("enough")

    flow = Workflow().note("a", 1).note("b", 2, after=["a"])
    url = url_of(tmp_path)
    options: dict[str, Any] = {"database_url": url, "durability": durability, "run_id": "r"}
    with pytest.raises(error):
        flow.run(runner, hooks=[Leaving()], **options)
    assert flow.calls == ([] if moment == "on_start" else ["a"])
    with Store(url) as store:
        assert store.load_run("r").status == "cancelled"
    report = flow.resume("r", url)
    assert report.success
    assert flow.calls == ["a", "b"]


def test_events_can_be_kept_sent_and_changed() -> None:
    hook = Hook()
    Workflow().note("a", 1).run(hooks=[hook])
    kinds: tuple[Any, ...] = (NodeStarted, NodeCompleted)
    for event, kind in zip(hook.events, kinds, strict=True):
        for copied in (pickle.loads(pickle.dumps(event)), copy.deepcopy(event)):
            assert type(copied) is kind
            assert copied == event
        changed = attrs.evolve(event, node=attrs.evolve(event.node, node_id="other"))
        assert type(changed) is kind
        assert changed.node.node_id == "other"
        assert event.__class__ is kind
        assert type(event).__name__ == kind.__name__


def test_the_end_of_a_run_is_told_as_it_is() -> None:
    for flow, success in (
        (Workflow().note("a"), True),
        (Workflow().add("a", boom), False),
        (Workflow().add("a", boom, on_failure="pause"), False),
        (Workflow(), True),
    ):
        hook = Hook()
        flow.run(hooks=[hook])
        assert hook.told[-1] == f"end {success}"


def test_equal_events_are_equal() -> None:
    one, two = Hook(), Hook()
    Workflow().note("a", 1).run(hooks=[one, two], run_id="r")
    assert one.events == two.events
    assert len(set(one.events)) == 2
    assert one.events[0] != one.events[1]
    started, completed = one.events
    assert started == NodeStarted(started.node, 1)
    assert completed == NodeCompleted(completed.node, completed.outcome)


@pytest.mark.parametrize("runner", RUNNERS)
def test_what_a_hook_raises_is_kept_and_loses_nothing(
    runner: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Hook):
        def on_start(self, ctx: Any) -> None:
            raise ValueError("at the start")

        def handle(self, ctx: Any, event: Any) -> None:
            raise ValueError("on an event")

        def on_complete(self, ctx: Any, success: bool) -> None:
            raise ValueError("at the end")

    whole = Hook()
    with caplog.at_level(logging.ERROR, "dagger_dsl.hooks"):
        report = Workflow().note("a", 1).run(runner, hooks=[Broken(), whole])
    assert report.success
    assert [str(each) for each in report.hook_errors] == [
        "at the start",
        "on an event",
        "on an event",
        "at the end",
    ]
    assert whole.told[-1] == "end True"
    assert len(caplog.records) == 4
    assert "the run goes on" in caplog.records[0].getMessage()


def test_what_a_hook_cannot_return_is_kept_and_changes_nothing() -> None:
    report = Workflow().note("a").run(hooks=[lambda ctx, event: "next"])
    assert report.success
    assert all(isinstance(each, ConfigurationError) for each in report.hook_errors)
    assert "returned" in str(report.hook_errors[0])


def test_what_cannot_be_a_hook_is_refused_before_anything_runs() -> None:
    flow = Workflow().note("a")
    for wrong in (5, Hook):
        with pytest.raises(ConfigurationError, match="hook"):
            flow.run(hooks=[wrong])
    assert flow.calls == []


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.row("B15", "G8")
def test_an_async_hook_sees_each_event_before_anything_it_enables_starts(runner: str) -> None:
    log: list[str] = []

    async def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted):
            await asyncio.sleep(0.001)
            log.append(f"seen {event.node.node_id}")

    flow = Workflow()
    flow.add("a", lambda: log.append("a"))
    flow.add("b", lambda: log.append("b"), after=["a"])
    report = flow.run(runner, hooks=[hook])
    assert report.hook_errors == ()
    assert log == ["a", "seen a", "b", "seen b"]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("durable", [False, True])
def test_progress_is_told_after_each_node_that_ended(
    runner: str, durable: bool, tmp_path: Path
) -> None:
    told: list[tuple[str, str, float]] = []

    def progress(node_id: str, status: str, fraction: float) -> None:
        told.append((node_id, status, fraction))

    flow = Workflow().note("a").add("bad", boom, after=["a"], on_failure="continue")
    flow.note("below", after=["bad"]).note("off", enabled=False)
    options: dict[str, Any] = {"database_url": url_of(tmp_path)} if durable else {}
    flow.run(runner, max_workers=1, progress=progress, **options)
    assert sorted(each[:2] for each in told) == [
        ("a", "completed"),
        ("bad", "failed"),
        ("below", "skipped"),
        ("off", "skipped"),
    ]
    assert [each[2] for each in told] == [0.25, 0.5, 0.75, 1.0]


def test_progress_with_hooks_tells_starts_too_and_its_errors_lose_nothing() -> None:
    told: list[tuple[str, str]] = []

    def progress(node_id: str, status: str, fraction: float) -> None:
        told.append((node_id, status))
        raise ValueError("the terminal is gone")

    report = Workflow().note("a").run(progress=progress, hooks=[Hook()])
    assert told == [("a", "running"), ("a", "completed")]
    assert report.success
    assert len(report.hook_errors) == 2


@pytest.mark.parametrize("journal", [False, True])
def test_progress_does_not_wait_for_everything_that_was_released(journal: bool) -> None:
    from tests.engine.simulation import MemoryJournal, MemoryStore

    clock = FakeClock()
    shown: list[str] = []
    seen: list[int] = []

    def hook(_ctx: Any, event: Any) -> None:
        shown.append(event.node.node_id)

    hook.wants_starts = False  # type: ignore[attr-defined]
    flow = Workflow()
    for k in range(20):

        def body() -> None:
            seen.append(len(shown))
            clock.advance(0.002)

        flow.add(f"n{k}", body)
    recording = MemoryJournal(MemoryStore()) if journal else None
    Clocked(flow, clock=clock, hooks=[hook], journal=recording).run()
    behind = [place - count for place, count in enumerate(seen)]
    assert max(behind) <= (3 if journal else 0)  # what is not recorded yet is not shown


def test_a_resumed_run_goes_on_where_its_progress_stood(tmp_path: Path) -> None:
    told: list[float] = []
    flow = Workflow().note("a").note("bad", Answers([OSError(), 1]), after=["a"])
    url = url_of(tmp_path)
    flow.run(database_url=url, run_id="r")
    flow.resume("r", url, progress=lambda node_id, status, fraction: told.append(fraction))
    assert told == [1.0]


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_what_is_enabled_while_a_start_is_shown_does_not_wait_for_that_call(runner: str) -> None:
    """Whoever shows a start looks like somebody who steps, but goes off to make its call."""
    order: list[str] = []
    flow = Workflow()
    flow.add("first", lambda: time.sleep(0.02))
    flow.add("second", lambda: order.append("second"), after=["first"])

    def long() -> None:
        time.sleep(0.6)
        order.append("long")

    flow.add("long", long)

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeStarted):
            time.sleep(0.03)

    flow.run(runner, max_workers=2, hooks=[hook])
    assert order == ["second", "long"]


@pytest.mark.parametrize("how", ["stop", "pause", "cancel"])
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_nothing_begins_after_what_ended_it(runner: str, how: str) -> None:
    """A worker has taken a call and waits for a turn that decides: nothing starts any more."""
    told: list[str] = []
    shown = threading.Event()
    token = CancelToken()
    flow = Workflow()

    def short() -> None:
        time.sleep(0.02)
        if how in ("stop", "pause"):
            raise ValueError("no")

    flow.add("short", short, on_failure="pause" if how == "pause" else "stop")
    flow.add("other", lambda: shown.wait(10))
    flow.note("late")

    def hook(_ctx: Any, event: Any) -> None:
        told.append(name_of(event))
        if event.node.node_id == "short" and not isinstance(event, NodeStarted):
            if how == "cancel":
                token.cancel("enough")
            shown.set()
            time.sleep(0.3)

    report = flow.run(runner, max_workers=2, hooks=[hook], cancel=token)
    time.sleep(0.1)
    assert flow.calls == []
    assert "NodeStarted late" not in told
    assert report.node_reports["late"].state == ("pending" if how == "pause" else "cancelled")
    assert report.abandoned == ()
