"""Hooks in real runs: what they are told and when, what they may ask, what they cannot break."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import CancelToken
from dagger_dsl.dsl.hooks import hook
from dagger_dsl.engine.hooks import CompositeHook, EventHook, MetricsHook, TimingHook
from dagger_dsl.errors import ConfigurationError, ExecutionError
from dagger_dsl.model.commands import (
    AddNode,
    CancelBranch,
    Command,
    EmitEvent,
    NodeSpec,
    PauseBranch,
)
from dagger_dsl.model.context import HookContext, NodeCtx, NodeOutput
from dagger_dsl.model.events import (
    CustomEvent,
    Event,
    NodeCompleted,
    NodeFailed,
    NodeRetrying,
    NodeStarted,
    RunFinished,
    RunStarted,
)
from dagger_dsl.model.policies import CacheStrategy
from dagger_dsl.store.journal import RunJournal
from tests.engine.helpers import IMMEDIATE, Answers, boom, states, url_of
from tests.engine.steered import (
    AsyncScript,
    Script,
    Steered,
    every_runner,
    everywhere,
    kept,
    name_of,
)
from tests.runners.helpers import WAYS, eventually, our_threads

KINDS = pytest.mark.parametrize("kind", [Script, AsyncScript])


# --- beginning and end ---------------------------------------------------------------------------


@pytest.mark.row("B16", "B17")
@KINDS
@everywhere
def test_the_start_comes_before_any_node_and_the_end_once_after_all(
    runner: str, place: str, kind: type[Script], tmp_path: Path
) -> None:
    log: list[str] = []
    flow = Steered()
    for k in range(4):
        flow.add(f"n{k}", lambda k=k: log.append(f"call n{k}"), after=[f"n{k - 1}"] if k else [])
    one = kind(log=log)
    flow.run(runner, max_workers=4, hooks=[one], **kept(place, tmp_path))
    assert log[0] == "start"
    assert log[-1] == "end True"
    assert log.count("start") == log.count("end True") == 1


def _ending(how: str, token: CancelToken) -> tuple[Steered, dict[str, Any], str]:
    """Return a flow that ends in one way, the options for it, and the status."""
    flow = Steered().note("a")
    options: dict[str, Any] = {}
    if how == "success":
        flow.note("b", after=["a"])
    elif how == "failure":
        flow.add("b", boom, after=["a"])
    elif how == "soft failure":
        flow.add("b", lambda: NodeOutput.failure("no"), after=["a"])
    elif how == "cancel":
        flow.add("b", lambda: token.cancel("enough"), after=["a"]).note("c", after=["b"])
    elif how == "timeout":
        flow.add("b", lambda: time.sleep(0.4), after=["a"])
        options["timeout"] = 0.05
    elif how == "pause":
        flow.add("b", boom, after=["a"], on_failure="pause")
    elif how == "question":
        flow.add("b", lambda ctx: ctx.wait_for_human("?"), after=["a"])
    elif how == "empty":
        flow = Steered()
    status = {
        "success": "completed",
        "empty": "completed",
        "failure": "failed",
        "soft failure": "failed",
        "cancel": "cancelled",
        "timeout": "timed_out",
        "pause": "paused",
        "question": "paused",
    }[how]
    return flow, options, status


@pytest.mark.row("B17", "B39")
@pytest.mark.parametrize(
    "how",
    ["success", "failure", "soft failure", "cancel", "timeout", "pause", "question", "empty"],
)
@KINDS
@everywhere
def test_the_end_is_told_once_as_it_is(
    runner: str, place: str, kind: type[Script], how: str, tmp_path: Path
) -> None:
    token = CancelToken()
    flow, options, status = _ending(how, token)
    one, finished = kind(), []

    def note(_ctx: HookContext, event: RunFinished) -> None:
        finished.append((event.status, event.success))

    hooks = [one, hook(note, on=RunFinished, register=False)]
    report = flow.run(runner, hooks=hooks, cancel=token, **options, **kept(place, tmp_path))
    assert report.status == status
    success = status == "completed"
    assert [each for each in one.told if each.startswith("end")] == [f"end {success}"]
    assert one.told[-1] == f"end {success}"
    assert finished == [(status, success)]


@pytest.mark.row("B16", "B17")
@every_runner
def test_a_resumed_run_begins_and_ends_again(runner: str, tmp_path: Path) -> None:
    flow = Steered().note("a").note("b", Answers([OSError("no"), 1]), after=["a"])
    flow.run(runner, hooks=[first := Script()], **kept("file", tmp_path))
    seen: list[bool] = []

    def note(_ctx: HookContext, event: RunStarted) -> None:
        seen.append(event.resumed)

    second = Script()
    hooks = [second, hook(note, on=RunStarted, register=False)]
    flow.resume("r", url_of(tmp_path), runner=runner, hooks=hooks)
    assert first.told[-1] == "end False"
    assert second.told == ["start", "NodeStarted b", "NodeCompleted b", "end True"]
    assert seen == [True]


@KINDS
@pytest.mark.parametrize("way", WAYS)
@every_runner
def test_hooks_are_told_the_same_whoever_waits(runner: str, way: str, kind: type[Script]) -> None:
    """Under every runner, in a running loop, in a thread of its own, awaited."""
    one = kind()
    flow = Steered().note("a").note("b", after=["a"])
    report = flow.run(runner, way, max_workers=1, hooks=[one])
    assert report.hook_errors == ()
    assert one.told == [
        "start",
        "NodeStarted a",
        "NodeCompleted a",
        "NodeStarted b",
        "NodeCompleted b",
        "end True",
    ]


@pytest.mark.parametrize("way", WAYS)
@every_runner
def test_async_hooks_of_a_run_share_the_loop_of_its_bodies(runner: str, way: str) -> None:
    loops: list[Any] = []

    async def one(_ctx: Any, _event: Any) -> None:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())

    async def body() -> None:
        loops.append(asyncio.get_running_loop())

    flow = Steered()
    flow.add("a", body)
    report = flow.run(runner, way, hooks=[one])
    assert report.hook_errors == ()
    assert len(loops) == 3
    assert len(set(map(id, loops))) == 1


# --- what they are told --------------------------------------------------------------------------


@pytest.mark.row("B19", "B20", "B21")
@everywhere
def test_one_start_per_attempt_one_end_per_node(runner: str, place: str, tmp_path: Path) -> None:
    flow = Steered().note("a", Answers([OSError("x"), OSError("y"), 3]))
    flow.nodes[-1] = flow.nodes[-1].replace(try_count=3, retry=IMMEDIATE)
    flow.note("bad", OSError("z"), after=["a"], try_count=2, retry=IMMEDIATE)
    one = Script()
    flow.run(runner, hooks=[one], **kept(place, tmp_path))
    started = [(each.node.node_id, each.attempt) for each in one.of(NodeStarted)]
    assert started == [("a", 1), ("a", 2), ("a", 3), ("bad", 1), ("bad", 2)]
    assert all(isinstance(each.at, dt.datetime) and each.at.tzinfo for each in one.of(NodeStarted))
    retried = [(each.node.node_id, str(each.error), each.attempt) for each in one.of(NodeRetrying)]
    assert retried == [("a", "x", 1), ("a", "y", 2), ("bad", "z", 1)]
    (done,) = one.of(NodeCompleted)
    assert (done.outcome.success, dict(done.outcome.outputs)) == (True, {"result": 3})
    (failed,) = one.of(NodeFailed)
    assert (str(failed.error), failed.attempts, failed.will_retry) == ("z", 2, False)


@pytest.mark.row("B18", "B7")
@everywhere
def test_the_context_is_filled_on_every_call(runner: str, place: str, tmp_path: Path) -> None:
    seen: list[HookContext] = []
    values: list[Any] = []

    class Looking(EventHook):
        def on_start(self, ctx: HookContext) -> None:
            seen.append(ctx)

        def handle(self, ctx: HookContext, event: Event) -> None:
            seen.append(ctx)
            if isinstance(event, NodeCompleted):
                values.append(ctx.cache.get(event.node.node_id, "result"))

        def on_complete(self, ctx: HookContext, success: bool) -> None:
            seen.append(ctx)

    services = object()
    flow = Steered("mine").note("a", 7)
    report = flow.run(runner, hooks=[Looking()], app_data=services, **kept(place, tmp_path))
    assert len(seen) == 4
    for ctx in seen:
        assert (ctx.run_id, ctx.dag_name) == (report.run_id, "mine")
        assert ctx.app_data is services
        assert ctx.graph is not None
        assert ctx.graph_view == ctx.graph
    assert values == [7]


@every_runner
def test_what_is_told_says_how_a_value_came_about(runner: str) -> None:
    flow = Steered().offer("rescue", "spare")
    flow.add("bad", boom, failure="rescue")
    flow.note("shared", 1, cache_strategy=CacheStrategy.custom(f"hooks {runner}"))
    outcomes: list[dict[str, Any]] = []
    for _ in range(2):
        one = Script()
        flow.run(runner, hooks=[one])
        outcomes.append({each.node.node_id: each.outcome for each in one.of(NodeCompleted)})
    first, second = outcomes
    assert (first["bad"].recovered, first["bad"].cached) == (True, False)
    assert first["bad"].outputs == {"result": "spare"}
    assert (first["shared"].cached, second["shared"].cached) == (False, True)
    assert second["shared"].outputs == {"result": 1}


@pytest.mark.row("B44", "B45")
@every_runner
def test_measures_and_counts_are_those_of_the_run(runner: str) -> None:
    timing, metrics = TimingHook(), MetricsHook()
    flow = Steered().note("flaky", Answers([OSError("x"), 1]), try_count=2, retry=IMMEDIATE)
    flow.add("nap", lambda: time.sleep(0.05)).add("bad", boom, after=["nap"]).note(
        "x", after=["bad"]
    )
    report = flow.run(runner, hooks=[timing, metrics])
    counts = metrics.snapshot()
    assert counts["nodes_completed"] == report.completed_nodes == 2
    assert counts["nodes_failed"] == report.failed_nodes == 1
    assert counts["nodes_skipped"] == report.skipped_nodes == 1
    assert (counts["nodes_started"], counts["nodes_retried"]) == (3, 1)
    assert 0.045 < timing.node_times["nap"] < 0.5
    assert abs(timing.node_times["nap"] - report.node_times["nap"]) < 0.05
    assert timing.total >= timing.node_times["nap"]


@pytest.mark.row("B41")
@KINDS
@every_runner
def test_each_event_is_shown_to_all_before_the_next_one(runner: str, kind: type[Script]) -> None:
    log: list[str] = []

    def telling(name: str) -> Any:
        def tell(_ctx: Any, event: Any) -> None:
            log.append(f"{name} {name_of(event)}")

        return tell

    pair = CompositeHook([telling("c"), telling("d")])
    flow = Steered().note("a").note("b")
    flow.run(runner, max_workers=1, hooks=[telling("a"), kind(log=log), telling("b"), pair])
    ends = [each for each in log if "NodeCompleted" in each]
    assert ends == [
        f"{name}NodeCompleted {node}" for node in "ab" for name in ("a ", "", "b ", "c ", "d ")
    ]


# --- what they answer ----------------------------------------------------------------------------


@pytest.mark.row("B15")
@every_runner
def test_commands_come_in_every_shape_and_in_order(runner: str) -> None:
    def spec(name: str) -> AddNode:
        return AddNode(NodeSpec("note", id=name))

    def generating(_ctx: Any, event: Any) -> Iterator[Command]:
        if name_of(event) == "NodeCompleted a":
            yield spec("g1")
            yield spec("g2")

    async def flowing(_ctx: Any, event: Any) -> AsyncIterator[Command]:
        if name_of(event) == "NodeCompleted a":
            yield spec("f1")
            await asyncio.sleep(0)
            yield spec("f2")

    listed = Script({"NodeCompleted a": [spec("l1"), spec("l2")], "NodeStarted a": False})
    single = Script({"NodeCompleted a": spec("s1"), "NodeStarted a": ()})
    flow = Steered().note("a")
    report = flow.run(runner, max_workers=1, hooks=[listed, single, generating, flowing])
    assert report.hook_errors == ()
    assert flow.calls == ["a", "l1", "l2", "s1", "g1", "g2", "f1", "f2"]


@pytest.mark.row("B15")
@every_runner
def test_an_answer_that_is_no_command_is_kept_as_an_error(runner: str) -> None:
    one = Script({"NodeCompleted a": [AddNode(NodeSpec("note", id="b")), "and more"]})
    flow = Steered().note("a")
    report = flow.run(runner, hooks=[one])
    assert report.success
    assert [type(each) for each in report.hook_errors] == [ConfigurationError]
    assert flow.calls == ["a"], "of an answer with a fault nothing is applied"


@pytest.mark.row("B30")
@everywhere
def test_an_event_of_one_s_own_reaches_the_other_hooks(
    runner: str, place: str, tmp_path: Path
) -> None:
    sender = Script({"NodeCompleted a": [EmitEvent("first", {"n": 1}), EmitEvent("second", (2,))]})
    listener = Script({"CustomEvent second": AddNode(NodeSpec("note", id="b"))})
    chosen: list[CustomEvent] = []

    def only(_ctx: HookContext, event: CustomEvent) -> None:
        chosen.append(event)

    flow = Steered().note("a")
    hooks = [listener, sender, hook(only, on=CustomEvent, register=False)]
    report = flow.run(runner, hooks=hooks, **kept(place, tmp_path))
    assert flow.calls == ["a", "b"]
    assert [(each.name, each.payload, each.sequence) for each in chosen] == [
        ("first", {"n": 1}, 1),
        ("second", (2,), 2),
    ]
    for each in chosen:
        assert each.run_id == report.run_id
        assert each.at is not None
        assert each.at.tzinfo is not None
    assert sender.told.count("CustomEvent first") == 1, "the one who sent it hears it, too"


@everywhere
def test_events_may_answer_events_and_the_run_still_ends(
    runner: str, place: str, tmp_path: Path
) -> None:
    def count(_ctx: Any, event: Any) -> Command | None:
        if isinstance(event, NodeCompleted):
            return EmitEvent("tick", 1)
        if isinstance(event, CustomEvent) and event.payload < 5:
            return EmitEvent("tick", event.payload + 1)
        return None

    one = Script()
    Steered().note("a").run(runner, hooks=[count, one], **kept(place, tmp_path))
    assert one.told.count("CustomEvent tick") == 5
    assert one.told[-1] == "end True"


@everywhere
def test_a_run_ends_whose_hooks_answer_each_event_with_several(
    runner: str, place: str, tmp_path: Path
) -> None:
    """Before the events that wait fill the memory, and with a reason."""

    def breed(_ctx: Any, _event: Any) -> list[Command]:
        return [EmitEvent("tick"), EmitEvent("tick")]

    one = Script()
    flow = Steered().note("a").note("b", after=["a"])
    report = flow.run(runner, hooks=[breed, one], event_capacity=5, **kept(place, tmp_path))
    assert report.status == "failed"
    assert "500 events of hooks wait to be shown" in report.reason
    assert "larger event_capacity" in report.reason
    assert one.told.count("CustomEvent tick") < 2_000
    assert one.told[-1] == "end False"
    late = [str(each) for each in report.hook_errors[1:]]
    assert len(late) <= 2, late


@every_runner
def test_many_events_that_no_hook_emitted_end_no_run(runner: str) -> None:
    """A branch of many nodes is cancelled, and a node emits many: hooks are shown all of them."""

    def rich(_ctx: NodeCtx) -> NodeOutput:
        return NodeOutput.success(1, commands=[EmitEvent("more", k) for k in range(300)])

    def cut(_ctx: Any, event: Any) -> list[Command]:
        if isinstance(event, NodeCompleted) and event.node.node_id == "a":
            return [CancelBranch("b"), EmitEvent("cut")]
        return []

    one = Script()
    flow = Steered().note("a").note("b", after=["a"]).add("rich", rich, after=["a"])
    for k in range(300):
        flow.note(f"n{k}", after=["b"])
    report = flow.run(runner, hooks=[cut, one], event_capacity=1)
    assert report.status == "completed"
    assert one.told.count("CustomEvent more") == 300
    assert one.told.count("CustomEvent cut") == 1


# --- what they cannot break ----------------------------------------------------------------------


class Raising(EventHook):
    """A hook that raises at one moment."""

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def _raise(self, name: str) -> None:
        if name == self.moment:
            raise RuntimeError(f"at {name}")

    def on_start(self, ctx: HookContext) -> None:
        self._raise("start")

    def handle(self, ctx: HookContext, event: Event) -> None:
        self._raise(name_of(event))

    def on_complete(self, ctx: HookContext, success: bool) -> None:
        self._raise("end")


MOMENTS = ["start", "NodeStarted a", "NodeCompleted a", "end"]


@pytest.mark.parametrize("moment", MOMENTS)
@everywhere
def test_a_hook_that_raises_loses_nothing(
    runner: str, place: str, moment: str, tmp_path: Path
) -> None:
    whole = Script({"NodeCompleted a": AddNode(NodeSpec("note", id="more"))})
    flow = Steered().note("a").note("b", after=["a"])
    hooks = [Raising(moment), whole]
    report = flow.run(runner, hooks=hooks, **kept(place, tmp_path))
    assert report.success
    assert set(flow.calls) == {"a", "b", "more"}
    assert [str(each) for each in report.hook_errors] == [f"at {moment}"]
    assert whole.told[-1] == "end True"


@pytest.mark.parametrize("moment", MOMENTS[:3])
@everywhere
def test_a_hook_may_be_told_to_stop_the_run(
    runner: str, place: str, moment: str, tmp_path: Path
) -> None:
    flow = Steered().note("a").note("b", after=["a"])
    stopping = hook(Raising(moment), on_error="stop", register=False)
    whole = Script()
    report = flow.run(runner, hooks=[stopping, whole], **kept(place, tmp_path))
    assert report.status == "failed"
    assert "b" not in flow.calls
    assert isinstance(report.exception, ExecutionError)
    assert "Raising" in str(report.exception)
    assert str(report.exception.__cause__) == f"at {moment}"
    assert report.error is not None
    assert "to stop the run" in report.error.message
    assert whole.told[-1] == "end False"
    with pytest.raises(ExecutionError, match="to stop the run"):
        report.raise_for_failure()
    if place == "file":
        assert flow.resume("r", url_of(tmp_path)).success


@every_runner
def test_a_refused_command_stops_the_run_where_the_hook_says_so(runner: str) -> None:
    def grow(_ctx: HookContext, event: NodeCompleted) -> Command:
        return AddNode(NodeSpec("nobody"))

    flow = Steered().note("a").note("b", after=["a"])
    report = flow.run(runner, hooks=[hook(grow, on=NodeCompleted, on_error="stop", register=False)])
    assert report.status == "failed"
    assert flow.calls == ["a"]


@every_runner
def test_a_hook_that_raises_at_the_end_cannot_change_it(runner: str) -> None:
    stopping = hook(Raising("end"), on_error="stop", register=False)
    report = Steered().note("a").run(runner, hooks=[stopping])
    assert report.success
    assert [str(each) for each in report.hook_errors] == ["at end"]


@pytest.mark.row("B39")
@every_runner
def test_a_hook_that_does_not_come_back_does_not_keep_the_run(runner: str) -> None:
    token = CancelToken()

    class Stuck(EventHook):
        async def handle(self, ctx: HookContext, event: Event) -> None:
            if name_of(event) == "NodeCompleted a":
                threading.Timer(0.05, token.cancel).start()
                await asyncio.sleep(60)

    flow = Steered().note("a").note("b", after=["a"])
    began = time.monotonic()
    options: dict[str, Any] = {"config": {"shutdown_grace": 0.1}}
    report = flow.run(runner, hooks=[Stuck()], cancel=token, **options)
    assert time.monotonic() - began < 5
    assert report.status == "cancelled"
    assert states(report) == {"a": "completed", "b": "cancelled"}
    assert [type(each) for each in report.hook_errors] == [TimeoutError]


# --- the engine under them -----------------------------------------------------------------------


@pytest.mark.row("B38")
@pytest.mark.parametrize("capacity", [1, 100])
@KINDS
@everywhere
def test_a_queue_of_any_size_comes_to_the_end(
    runner: str, place: str, kind: type[Script], capacity: int, tmp_path: Path
) -> None:
    one = kind()
    flow = Steered()
    for k in range(30):
        flow.note(f"n{k}")
    report = flow.run(
        runner, max_workers=4, hooks=[one], event_capacity=capacity, **kept(place, tmp_path)
    )
    assert report.success
    assert len(one.of(NodeCompleted)) == 30
    assert len(one.of(NodeStarted)) == 30


@pytest.mark.row("B38")
def test_a_slow_hook_costs_time_and_not_memory() -> None:
    """No more events are made than the hook can be shown; outcomes wait as they are."""
    waiting: list[int] = []
    done: list[int] = []
    seen: list[int] = []

    def body(x: int) -> int:
        done.append(x)
        return x

    def slow(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted) and event.node.node_id == "many":
            seen.append(1)
            time.sleep(0.0005)
            waiting.append(len(done) - len(seen))

    slow.wants_starts = False  # type: ignore[attr-defined]
    flow = Steered()
    flow.add("many", body, give={"x": list(range(300))}, map_over="x")
    report = flow.run("threads", max_workers=4, hooks=[slow], event_capacity=5)
    assert report.success
    assert len(seen) == 301


@pytest.mark.row("B39")
@KINDS
@every_runner
def test_a_cancel_leaves_no_thread_and_no_task(runner: str, kind: type[Script]) -> None:
    token = CancelToken()

    async def waiting() -> None:
        await asyncio.sleep(30)

    flow = Steered().add("a", lambda: token.cancel("enough"))
    flow.note("late", after=["a"]).act("waiting", waiting)
    one = kind({"start": AddNode(NodeSpec("waiting"))})
    report = flow.run(runner, hooks=[one], cancel=token)
    assert report.status == "cancelled"
    assert one.told[-1] == "end False"
    eventually(lambda: not our_threads(), f"all threads have ended: {our_threads()}")


@pytest.mark.row("B40")
@KINDS
@everywhere
def test_a_failing_node_with_dependents_ends_the_run(
    runner: str, place: str, kind: type[Script], tmp_path: Path
) -> None:
    flow = Steered().add("bad", boom).note("below", after=["bad"]).note("lower", after=["below"])
    flow.note("aside")
    began = time.monotonic()
    report = flow.run(runner, hooks=[kind()], **kept(place, tmp_path))
    assert time.monotonic() - began < 5
    assert report.status == "failed"
    assert report.pending_nodes == 0


@every_runner
def test_a_progress_bar_costs_no_commit(
    runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    commit = RunJournal.commit

    def counted(journal: RunJournal, *args: Any, **more: Any) -> None:
        commits.append(1)
        commit(journal, *args, **more)

    monkeypatch.setattr(RunJournal, "commit", counted)
    counts: list[int] = []
    for progress in (None, lambda *_args: None):
        commits.clear()
        flow = Steered().note("n0")
        for k in range(1, 6):
            flow.note(f"n{k}", after=[f"n{k - 1}"])
        folder = tmp_path / str(len(counts))
        folder.mkdir()
        flow.run(runner, max_workers=1, progress=progress, **kept("file", folder))
        counts.append(len(commits))
    assert counts[0] == counts[1]


@every_runner
def test_hooks_see_one_event_at_a_time_from_whichever_thread(runner: str) -> None:
    inside = threading.Lock()
    clashes: list[str] = []

    def one(_ctx: Any, event: Any) -> None:
        if not inside.acquire(blocking=False):
            clashes.append(name_of(event))
            return
        time.sleep(0.0005)
        inside.release()

    flow = Steered()
    flow.add("many", lambda x: x, give={"x": list(range(40))}, map_over="x")
    report = flow.run(runner, max_workers=8, hooks=[one])
    assert report.success
    assert clashes == []


# --- once, over deaths ---------------------------------------------------------------------------


@pytest.mark.row("B42", "G7")
@every_runner
def test_an_event_is_shown_again_after_a_death_and_its_commands_count_once(
    runner: str, tmp_path: Path
) -> None:
    """Dead between the commit of an outcome and the acknowledgement that hooks were shown it."""
    alive, dead = tmp_path / "alive", tmp_path / "dead"
    alive.mkdir()
    more = AddNode(NodeSpec("note", id="more"))
    emit = EmitEvent("grown")

    def die(_ctx: Any, _event: Any) -> list[Command]:
        if not dead.exists():
            shutil.copytree(alive, dead)
        return [more, emit]

    flow = Steered().note("a").note("b", after=["a"])
    flow.run(runner, hooks=[Script({"NodeCompleted a": die})], **kept("file", alive))
    flow.calls.clear()
    one = Script({"NodeCompleted a": [more, emit]})
    again = flow.resume("r", url_of(dead), runner=runner, hooks=[one])
    assert again.success
    assert one.told.count("NodeCompleted a") == 1, "hooks run at least once"
    assert one.told.count("CustomEvent grown") == 1
    assert sorted(flow.calls) == ["b", "more"]


@every_runner
def test_commands_of_an_event_that_was_shown_are_not_applied_again(
    runner: str, tmp_path: Path
) -> None:
    """Dead right after the acknowledgement: the event is not shown, its commands are there."""
    alive, dead = tmp_path / "alive", tmp_path / "dead"
    alive.mkdir()

    def die() -> None:
        if not dead.exists():
            shutil.copytree(alive, dead)

    answers = {
        "NodeCompleted a": [
            EmitEvent("grown"),
            PauseBranch("side", "held"),
            AddNode(NodeSpec("note", id="more")),
        ]
    }
    flow = Steered().note("a").add("b", die, after=["a"]).note("side", after=["b"])
    flow.run(runner, max_workers=1, hooks=[Script(answers)], **kept("file", alive))
    one = Script(answers)
    again = flow.resume("r", url_of(dead), runner=runner, hooks=[one])
    assert again.status == "paused"
    assert "NodeCompleted a" not in one.told
    assert "CustomEvent grown" not in one.told
    assert states(again) == {
        "a": "completed",
        "b": "completed",
        "side": "pending",
        "more": "completed",
    }
