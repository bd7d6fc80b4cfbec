"""Tokens, handles, and what they do to runs."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.control import CancelToken, RunHandle
from dagger_dsl.engine.coordinator import Coordinator
from dagger_dsl.engine.hooks import EventHook
from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.plan import compile_plan
from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    DependencyNotFound,
    InputValidationError,
    InvalidState,
    NodeAlreadyExists,
    NodeNotFound,
    RunCancelled,
    StoreError,
    UnknownInputError,
)
from dagger_dsl.model.commands import EmitEvent, NodeSpec, PauseBranch, PauseRun
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import HookContext, NodeCtx
from dagger_dsl.model.events import CustomEvent, NodeCancelled, NodeCompleted
from dagger_dsl.model.values import MISSING, Secret
from dagger_dsl.store.storage import Store
from dagger_dsl.testing import FakeClock
from tests.engine.helpers import RUNNERS, Answers, Workflow, returns, states, url_of
from tests.runners.helpers import eventually
from tests.scale import count

# --- tokens ---------------------------------------------------------------------------------------


def said(token: CancelToken) -> tuple[bool, str]:
    """Return what a token says."""
    return token.cancelled, token.reason


def test_the_first_reason_stays() -> None:
    token = CancelToken()
    assert said(token) == (False, "")
    token.cancel("first")
    token.cancel("second")
    assert said(token) == (True, "first")
    quiet = CancelToken()
    quiet.cancel()
    quiet.cancel("late")
    assert said(quiet) == (True, "")


def test_subscribers_are_called_once_and_at_once_when_it_has_happened() -> None:
    token = CancelToken()
    calls: list[str] = []
    token.subscribe(lambda: calls.append("a"))
    back = token.subscribe(lambda: calls.append("b"))
    back()
    back()
    token.cancel()
    token.cancel()
    assert calls == ["a"]
    token.subscribe(lambda: calls.append("late"))()
    assert calls == ["a", "late"]


def test_one_of_eight_threads_cancels() -> None:
    token = CancelToken()
    calls: list[int] = []
    token.subscribe(lambda: calls.append(1))
    start = threading.Barrier(8)

    def cancel(number: int) -> None:
        start.wait(20)
        token.cancel(str(number))

    threads = [threading.Thread(target=cancel, args=(k,)) for k in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert calls == [1]


@pytest.mark.row("E5")
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_token_ends_a_run_and_what_ended_is_kept(runner: str, tmp_path: Path) -> None:
    token = CancelToken()
    flow = Workflow().add("a", returns(1)).add("b", lambda: token.cancel("enough"), after=["a"])
    flow.note("c", after=["b"]).note("d", after=["c"], trigger="done")
    report = flow.run(runner, cancel=token, database_url=url_of(tmp_path), run_id="r")
    assert report.status == "cancelled"
    assert report.reason == "enough"
    assert report.value("a") == 1
    assert states(report) == {
        "a": "completed",
        "b": "completed",
        "c": "cancelled",
        "d": "cancelled",
    }
    assert report.node_reports["c"].reason == "enough"
    with pytest.raises(RunCancelled, match="enough"):
        report.raise_for_failure()
    assert flow.resume("r", url_of(tmp_path)).success
    assert flow.calls == ["c", "d"]


class Stepped:
    """A run that is stepped by hand: nothing is called, answers are delivered.

    Args:
        flow: What is run.
        **config: How.
    """

    def __init__(self, flow: Workflow, **config: Any) -> None:
        self.clock = FakeClock()
        self.token = CancelToken()
        self.run = Run(
            plan=compile_plan(flow.graph(), flow.registry.get),
            run_id="r",
            options=RunOptions(),
            config=DagConfig(**config),
            inputs={},
            token=self.token,
            registry=flow.registry,
            slots=8,
            clock=self.clock,
        )
        self.board = self.run.board
        self.coordinator = Coordinator(self.run)
        self.token.subscribe(self.coordinator.stop)

    def step(self, seconds: float = 0.0) -> bool:
        """Let time pass, then take a turn."""
        self.clock.advance(seconds)
        alive = self.coordinator.step(self.clock())
        assert self.coordinator.error is None
        return alive

    def take(self) -> int:
        """Take a released call."""
        slot = self.board.go.popleft()
        self.board.started[slot] = self.clock()
        return slot

    def answer(self, slot: int, answer: Any) -> None:
        """Deliver what a call came to."""
        self.board.ended[slot] = self.clock()
        if isinstance(answer, BaseException):
            self.board.odd.append((slot, answer))
        else:
            self.board.settle(slot, answer)


@pytest.mark.row("E5")
def test_a_run_ends_within_the_grace_time_whatever_its_bodies_do() -> None:
    """The clock is ours: the call never ends, the run does."""
    stepped = Stepped(Workflow().note("stuck").note("next", after=["stuck"]), shutdown_grace=7)
    assert stepped.step()
    stepped.take()
    stepped.token.cancel("enough")
    assert stepped.step()
    assert stepped.board.wake_at == stepped.clock() + 7
    assert stepped.step(6.9)
    assert not stepped.step(0.1)
    report = stepped.run.report()
    assert report.status == "cancelled"
    assert report.abandoned == ("stuck",)
    assert states(report) == {"stuck": "cancelled", "next": "cancelled"}


@pytest.mark.parametrize("late", [5, ValueError("late")])
def test_what_a_call_that_was_left_behind_comes_to_is_ignored(late: Any) -> None:
    flow = Workflow().note("stuck").note("bad").note("clean", after=["bad"], trigger="done")
    flow.note("last", after=["clean"])
    stepped = Stepped(flow, shutdown_grace=7)
    assert stepped.step()
    stuck, bad = stepped.take(), stepped.take()
    stepped.answer(bad, ValueError("x"))
    assert stepped.step()
    clean = stepped.take()
    assert stepped.step(7)
    assert states(stepped.run.report())["stuck"] == "cancelled"
    stepped.answer(stuck, late)  # after all
    assert stepped.step()
    stepped.answer(clean, 1)
    assert stepped.step()
    stepped.answer(stepped.take(), 2)
    assert not stepped.step()
    report = stepped.run.report()
    assert states(report) == {
        "stuck": "cancelled",
        "bad": "failed",
        "clean": "completed",
        "last": "completed",
    }
    assert report.abandoned == ("stuck",)


@pytest.mark.parametrize("by", ["token", "limit"])
def test_a_failure_handler_that_is_due_when_a_run_is_ended_is_not_called(by: str) -> None:
    """Its node failed before; the failure is not lost with the handler."""
    flow = Workflow().note("other")
    flow.handler("handler", lambda error: "saved")
    flow.note("bad", failure="handler")
    stepped = Stepped(flow)
    if by == "limit":
        stepped.run.deadline = stepped.clock() + 5
    assert stepped.step()
    other, bad = stepped.take(), stepped.take()
    error = ValueError("x")
    stepped.answer(bad, error)
    assert stepped.step()
    assert list(stepped.board.go) == [bad]  # the handler is due, nobody has taken it
    if by == "token":
        stepped.token.cancel("enough")
    assert stepped.step(5) == (by == "token")
    assert list(stepped.board.go) == []
    stepped.answer(other, 1)
    assert not stepped.step()
    report = stepped.run.report()
    assert report.status == ("cancelled" if by == "token" else "timed_out")
    assert states(report)["bad"] == "failed"
    assert report.node_reports["bad"].exception is error


def test_a_handler_that_nobody_took_is_not_left_behind() -> None:
    flow = Workflow().note("bad", on_failure="stop")
    flow.handler("handler", lambda error: "saved")
    flow.note("victim", failure="handler")
    stepped = Stepped(flow, shutdown_grace=7)
    assert stepped.step()
    bad, victim = stepped.take(), stepped.take()
    stepped.answer(bad, ValueError("x"))
    assert stepped.step()
    stepped.answer(victim, ValueError("y"))
    assert stepped.step()
    assert stepped.step(7)  # the grace time is over before a worker was free
    stepped.answer(stepped.take(), "saved")
    assert not stepped.step()
    assert states(stepped.run.report()) == {"bad": "failed", "victim": "completed"}


def test_hooks_are_shown_what_was_cancelled() -> None:
    token = CancelToken()
    seen: list[Any] = []

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCancelled):
            seen.append((event.node.node_id, event.reason))

    flow = Workflow().add("a", lambda: token.cancel("enough"))
    flow.note("b", after=["a"]).note("c", after=["b"]).run(cancel=token, hooks=[hook])
    assert seen == [("b", "enough"), ("c", "enough")]


def test_a_hook_may_cancel_before_what_its_event_enables() -> None:
    token = CancelToken()

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted):
            token.cancel("seen enough")

    flow = Workflow().note("a").note("b", after=["a"])
    report = flow.run(cancel=token, hooks=[hook])
    assert flow.calls == ["a"]
    assert states(report) == {"a": "completed", "b": "cancelled"}


def test_one_token_ends_several_runs() -> None:
    token = CancelToken()
    go_on = threading.Event()
    flow = Workflow().add("a", lambda: go_on.wait(20)).note("b", after=["a"])
    handles = [
        engine.start(flow.graph(), flow.registry, None, RunOptions(cancel=token)) for _ in range(3)
    ]
    token.cancel("all of them")
    go_on.set()
    assert {str(handle.result(20).status) for handle in handles} == {"cancelled"}


def test_a_run_that_has_ended_leaves_its_token_alone() -> None:
    token = CancelToken()
    flow = Workflow().note("a")
    for _ in range(3):
        flow.run(cancel=token)
        engine.start(flow.graph(), flow.registry, None, RunOptions(cancel=token)).result(20)
    assert token._callbacks == []


# --- handles --------------------------------------------------------------------------------------


@pytest.mark.row("E6")
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_handle_cancels_and_finished_nodes_keep_their_results(runner: str) -> None:
    go_on = threading.Event()
    there = threading.Event()

    def slow() -> None:
        there.set()
        go_on.wait(20)

    flow = Workflow().add("a", returns(1)).add("slow", slow, after=["a"]).note("z", after=["slow"])
    handle = engine.start(flow.graph(), flow.registry, None, RunOptions(runner=runner))
    assert there.wait(20)
    assert (handle.done, handle.wait(0)) == (False, False)
    assert "running" in repr(handle)
    handle.cancel("enough")
    go_on.set()
    report = handle.result(20)
    assert "ended" in repr(handle)
    assert report.status == "cancelled"
    assert report.value("a") == 1
    assert states(report)["z"] == "cancelled"
    handle.cancel()  # too late, and no error


def test_a_result_that_does_not_come_in_time_is_a_timeout_and_the_run_goes_on() -> None:
    go_on = threading.Event()
    flow = Workflow().add("a", lambda: go_on.wait(20))
    handle = engine.start(flow.graph(), flow.registry, None, RunOptions(run_id="r1"))
    with pytest.raises(TimeoutError, match="r1 has not ended within 0 s"):
        handle.result(0)
    go_on.set()
    assert handle.result(20).success
    assert handle.wait(0)
    assert (handle.run_id, handle.dag_name) == ("r1", "flow")


def test_a_handle_is_awaited_by_several_and_after_the_end() -> None:
    go_on = threading.Event()
    flow = Workflow().add("a", lambda: go_on.wait(20))

    async def main() -> None:
        handle = engine.start(flow.graph(), flow.registry)
        waiting = [asyncio.ensure_future(_await(handle)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
        go_on.set()
        reports = await asyncio.gather(*waiting)
        assert len({id(each) for each in reports}) == 1
        assert await handle is reports[0]

    asyncio.run(main())


async def _await(handle: RunHandle) -> Any:
    return await handle


def test_whoever_stops_awaiting_does_not_stop_the_run() -> None:
    go_on = threading.Event()
    flow = Workflow().add("a", lambda: go_on.wait(20))
    handles: list[RunHandle] = []

    async def main() -> None:
        handle = engine.start(flow.graph(), flow.registry)
        handles.append(handle)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_await(handle), 0.01)

    asyncio.run(main())  # its loop is closed before the run ends
    go_on.set()
    assert handles[0].result(20).success


def test_misuse_is_raised_by_start_and_trouble_later_by_the_handle(tmp_path: Path) -> None:
    flow = Workflow().note("a")
    with pytest.raises(UnknownInputError):
        engine.start(flow.graph(), flow.registry, {"nope": 1}).wait(0)

    class Broken(StoreError):
        pass

    def body() -> None:
        raise AssertionError("not reached")

    with Store(url_of(tmp_path)) as store:
        flow = Workflow().note("first").add("second", body, after=["first"])
        real = store.create_run

        def create_run(**options: Any) -> Any:
            journal = real(**options)

            def commit(*_: Any, **__: Any) -> None:
                raise Broken("the disk is gone")

            journal.commit = commit  # type: ignore[method-assign]
            return journal

        store.create_run = create_run  # type: ignore[method-assign]
        handle = engine.start(flow.graph(), flow.registry, None, None, store=store)
        with pytest.raises(Broken, match="disk is gone"):
            handle.result(20)
        assert handle.done
        assert not handle.is_paused


@pytest.mark.parametrize("policy", ["pause", "stop"])
def test_a_handle_says_whether_its_run_is_paused(policy: str) -> None:
    flow = Workflow().note("bad", ValueError("x"), on_failure=policy)
    handle = engine.start(flow.graph(), flow.registry)
    handle.result(20)
    assert handle.is_paused == (policy == "pause")


def test_a_resume_in_the_background_has_a_handle_too(tmp_path: Path) -> None:
    flow = Workflow().note("bad", Answers([OSError(), 1]))
    flow.run(database_url=url_of(tmp_path), run_id="r")
    options = RunOptions(database_url=url_of(tmp_path))
    assert engine.start_resume("r", flow.registry, options).result(20).outputs == {"bad": 1}
    assert engine.start_resume("r", flow.registry, options).result(20).outputs == {"bad": 1}

    async def main() -> Any:
        return await engine.start_resume("r", flow.registry, options)

    assert asyncio.run(main()).outputs == {"bad": 1}
    assert flow.calls == ["bad", "bad"]


# --- steering by a handle -------------------------------------------------------------------------


class Gate:
    """A body that says that it has begun, and ends when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let = threading.Event()

    def __call__(self) -> int:
        self.begun.set()
        assert self.let.wait(30)
        return 1


def started(flow: Workflow, gate: Gate, runner: str = "threads", **options: Any) -> RunHandle:
    """Start a run and wait until the gate's body has begun."""
    chosen = RunOptions(runner=runner, **options)
    handle = engine.start(flow.graph(), flow.registry, None, chosen)
    assert gate.begun.wait(20)
    return handle


def gated(gate: Gate) -> Workflow:
    """Return ``gate >> after >> last``, and an action ``extra`` for nodes that are added."""
    flow = Workflow().add("gate", gate).note("after", 2, after=["gate"])
    flow.registry.register(lambda: flow.calls.append("extra"), "extra")
    return flow.note("last", 3, after=["after"])


@pytest.mark.row("B24", "B25", "B26", "B27", "B28", "B29", "B30", "E14", "E19", "E20")
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_every_verb_of_a_handle_does_what_its_command_does(
    runner: str, durable: bool, tmp_path: Path
) -> None:
    gate, seen = Gate(), list[Any]()

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, CustomEvent):
            seen.append((event.name, event.payload))

    flow = gated(gate).note("off", after=["gate"]).note("left", after=["gate"])
    flow.note("below", after=["left"])
    url = url_of(tmp_path) if durable else None
    handle = started(flow, gate, runner, database_url=url, hooks=[hook])
    assert handle.add_node(NodeSpec("extra", id="one", deps=["gate"]))
    assert handle.add_nodes(
        [NodeSpec("extra", id="two"), NodeSpec("extra", id="three", deps=["gate"])]
    )
    assert handle.set_node_inputs("last", {"x": 5})
    assert handle.disable_nodes(["off"])
    assert handle.disable_nodes(["three"])
    assert handle.enable_nodes(["three"])
    assert handle.emit("hello", {"n": 1})
    assert handle.cancel_branch("left", "not wanted")
    assert handle.pause_branch("after", "look first")
    assert handle.paused_branches() == {"after": "look first"}
    assert handle.resume_branch("after")
    assert handle.pause_branch("last", "look again")
    assert handle.pause("a rest")
    assert (handle.is_paused, handle.resume(), handle.is_paused) == (True, True, False)
    gate.let.set()
    report = handle.result(20)
    assert (report.status, report.reason) == ("paused", "look again")
    found = states(report)
    assert {found[each] for each in ("left", "below")} == {"cancelled"}
    assert report.node_reports["below"].reason == "not wanted"
    assert found["off"] == "skipped"
    assert {found[each] for each in ("gate", "after", "one", "two", "three")} == {"completed"}
    assert found["last"] == "pending"
    assert report.node_reports["last"].reason == "paused: look again"
    assert seen == [("hello", {"n": 1})]


@pytest.mark.row("B24", "B25", "B26")
def test_a_refusal_is_raised_where_the_command_comes_from_and_changes_nothing() -> None:
    gate = Gate()
    handle = started(gated(gate), gate)
    refused: list[tuple[type[Exception], Callable[[], object]]] = [
        (NodeNotFound, lambda: handle.pause_branch("nobody")),
        (NodeNotFound, lambda: handle.set_node_inputs("nobody", {"x": 1})),
        (InvalidState, lambda: handle.set_node_inputs("gate", {"x": 1})),
        (InvalidState, lambda: handle.answer("last", 1)),
        (NodeAlreadyExists, lambda: handle.add_node(NodeSpec("extra", id="last"))),
        (ActionNotFound, lambda: handle.add_nodes([NodeSpec("extra"), NodeSpec("nobody")])),
        (DependencyNotFound, lambda: handle.add_node(NodeSpec("extra", deps=["nobody"]))),
        (ConfigurationError, lambda: handle.send("pause")),  # type: ignore[arg-type]
    ]
    for kind, act in refused:
        with pytest.raises(kind):
            act()
    gate.let.set()
    assert states(handle.result(20)) == dict.fromkeys(("gate", "after", "last"), "completed")


@pytest.mark.row("E11", "E13")
def test_a_handle_shows_questions_and_takes_their_answers() -> None:
    gate = Gate()

    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("how many?", int, default=3, timeout=3600)

    def sure(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("sure?", bool)

    flow = gated(gate).add("ask", ask).add("sure", sure).add("sorry", sure)
    handle = started(flow, gate)
    eventually(lambda: len(handle.questions()) == 3, "three questions")
    asked = {each.node_id: each for each in handle.questions()}
    question = asked["ask"]
    assert (question.key, question.prompt, question.schema) == (
        "default",
        "how many?",
        {"type": "integer"},
    )
    assert question.default == 3
    assert question.expires is not None
    assert asked["sure"].default is MISSING
    assert asked["sure"].expires is None
    with pytest.raises(InputValidationError, match="how many"):
        handle.answer("ask", "many")
    assert handle.submit_human_input("ask", 7, by="anna")
    with pytest.raises(InvalidState, match="does not wait"):
        handle.answer("ask", 8)
    assert handle.approve("sure", by="bert")
    assert handle.reject("sorry", "no", by="carl")
    assert handle.questions() == []
    gate.let.set()
    report = handle.result(20)
    assert report.success
    assert (report.value("ask"), report.value("sure")) == (7, True)
    assert states(report)["sorry"] == "cancelled"
    assert report.node_reports["sorry"].reason == "no (rejected by carl)"


@pytest.mark.row("E13")
def test_approving_a_branch_lets_it_go_on_and_says_who_did() -> None:
    gate, seen = Gate(), list[Any]()

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, CustomEvent):
            seen.append((event.name, event.payload))

    handle = started(gated(gate), gate, hooks=[hook])
    handle.pause_branch("after", "look first")
    assert handle.approve("after", by="anna")
    gate.let.set()
    assert handle.result(20).success
    assert seen == [("approved", {"branch": "after", "by": "anna"})]


@pytest.mark.row("B37")
@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_a_thousand_commands_of_eight_threads_are_applied_once_each(runner: str) -> None:
    gate = Gate()
    flow = gated(gate)
    handle = started(flow, gate, runner)
    number = count(1_000) // 8
    faults: list[BaseException] = []

    def send(thread: int) -> None:
        try:
            for k in range(number):
                node_id = f"n{thread}_{k}"
                assert handle.add_node(NodeSpec("extra", id=node_id, deps=["after"]))
                if k % 3 == 0:
                    assert handle.disable_nodes([node_id])
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=send, args=(k,)) for k in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert faults == []
    gate.let.set()
    report = handle.result(60)
    assert report.success
    assert len(report.graph.nodes) == 3 + 8 * number
    assert report.skipped_nodes == 8 * len(range(0, number, 3))
    assert flow.calls.count("extra") == 8 * (number - len(range(0, number, 3)))


@pytest.mark.row("B33")
def test_who_sends_more_than_may_wait_waits_until_there_is_room() -> None:
    """The first node blocks the one thread that applies commands, so they pile up."""
    gate, second = Gate(), Gate()
    flow = gated(gate).add("second", second, after=["gate"])
    handle = started(flow, gate, "sequential", command_capacity=3)
    for k in range(3):
        assert not handle.send(EmitEvent(f"e{k}"), wait=False)
    with pytest.raises(TimeoutError, match=r"3 commands wait already .*this one was not sent"):
        handle.send(EmitEvent("too much"), wait=False, timeout=0.01)
    sent = threading.Event()

    def send() -> None:
        handle.send(PauseBranch("last", "late"), wait=False)
        sent.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert not sent.wait(0.05)
    gate.let.set()
    assert second.begun.wait(20)
    assert sent.wait(20)
    thread.join()
    second.let.set()
    assert handle.result(20).reason == "late"


def test_a_command_that_was_not_applied_in_time_still_stands() -> None:
    gate = Gate()
    handle = started(gated(gate), gate, "sequential")
    with pytest.raises(TimeoutError, match="it stands, and is applied at the run's next turn"):
        handle.send(PauseRun("a rest"), timeout=0.01)
    gate.let.set()
    report = handle.result(20)
    assert (report.status, report.reason) == ("paused", "a rest")


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_a_hook_and_a_body_that_use_their_own_handle_do_not_wait_for_themselves(
    runner: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Their commands stand; a refusal is logged, as nobody waits for it."""
    handles: list[RunHandle] = []
    there = threading.Event()
    answers: list[Any] = []

    def first() -> None:
        assert there.wait(20)

    async def second() -> None:
        answers.append(handles[0].add_node(NodeSpec("extra", id="of_async", deps=["third"])))

    def third() -> None:
        added = handles[0].add_node(NodeSpec("extra", id="of_body", deps=["third"]))
        answers.append(added if runner == "sequential" else False)

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted) and event.node.node_id == "first":
            answers.append(handles[0].add_node(NodeSpec("extra", id="of_hook", deps=["third"])))
            answers.append(handles[0].pause_branch("nobody"))

    async def later(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted) and event.node.node_id == "first":
            answers.append(handles[0].add_node(NodeSpec("extra", id="of_late", deps=["third"])))

    flow = Workflow().add("first", first)
    hooks: list[Any] = [hook]
    if runner == "asyncio":
        flow.add("second", second, after=["first"])
        hooks.append(later)
    flow.add("third", third, after=["first"])
    flow.registry.register(lambda: None, "extra")
    began = time.monotonic()
    options = RunOptions(runner=runner, hooks=hooks)
    handles.append(engine.start(flow.graph(), flow.registry, None, options))
    there.set()
    report = handles[0].result(20)
    assert time.monotonic() - began < 5
    assert report.success
    assert set(answers) == {False}
    added = {"of_body", "of_hook", *(["of_async", "of_late"] if runner == "asyncio" else [])}
    assert added <= report.graph.nodes.keys()
    assert "node not found: 'nobody'" in caplog.text


def test_a_hook_that_sends_more_than_may_wait_is_told_so() -> None:
    handles: list[RunHandle] = []
    there = threading.Event()
    told: list[Exception] = []

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted):
            try:
                for k in range(5):
                    handles[0].emit(f"e{k}")
            except InvalidState as error:
                told.append(error)

    flow = Workflow().add("first", lambda: there.wait(20))
    options = RunOptions(hooks=[hook], command_capacity=2)
    handles.append(engine.start(flow.graph(), flow.registry, None, options))
    there.set()
    assert handles[0].result(20).success
    (error,) = told
    assert "2 commands wait already" in str(error)
    assert "A hook may return commands" in str(error)


# --- handles of runs that stand still -------------------------------------------------------------


@pytest.mark.row("E9", "E10", "E14", "E19")
@pytest.mark.parametrize("memory", [False, True])
def test_a_handle_goes_on_with_its_run(memory: bool, tmp_path: Path) -> None:
    gate = Gate()
    flow = gated(gate)
    url = "sqlite::memory:" if memory else url_of(tmp_path)
    with Store(url) as store:
        options = RunOptions(runner="threads", database_url=url)
        handle = engine.start(flow.graph(), flow.registry, None, options, store=store)
        assert gate.begun.wait(20)
        handle.pause_branch("last", "look first")
        handle.pause("a rest")
        gate.let.set()
        first = handle.result(20)
        assert (first.status, first.reason) == ("paused", "a rest")
        assert flow.calls == []
        assert handle.resume()
        second = handle.result(20)
        assert (second.status, second.reason) == ("paused", "look first")
        assert flow.calls == ["after"]
        assert not handle.resume_branch("last"), "the resume takes it"
        assert handle.resume()
        assert handle.result(20).success
        assert flow.calls == ["after", "last"]
        assert handle.resume(), "nothing is left to do"
        assert handle.result(20).success


@pytest.mark.row("E10")
def test_a_resumed_handle_can_be_awaited_and_brings_its_secrets(tmp_path: Path) -> None:
    def use(key: Secret) -> int:
        return len(key.reveal())

    def look(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("go on?")

    flow = Workflow().add("look", look)
    flow.add("use", use, take={"key": "inputs.key"}, after=["look"])
    options = RunOptions(database_url=url_of(tmp_path))

    async def main() -> Any:
        handle = engine.start(flow.graph(), flow.registry, {"key": Secret("four")}, options)
        assert (await handle).status == "paused"
        handle.answer("look", None)
        assert handle.questions() == []
        handle.resume()
        return await handle

    assert asyncio.run(main()).value("use") == 4


def test_a_run_in_memory_that_stands_still_says_what_it_lacks() -> None:
    flow = Workflow().note("bad", ValueError("x"), on_failure="pause")
    handle = engine.start(flow.graph(), flow.registry, None, RunOptions(run_id="r"))
    assert handle.result(20).status == "paused"
    for act in (handle.resume, lambda: handle.resume_branch("bad"), lambda: handle.emit("x")):
        with pytest.raises(InvalidState, match=r"run r is paused .*give the run a database_url"):
            act()
    assert (handle.is_paused, handle.cancel("enough"), handle.is_paused) == (True, True, False)
    assert (handle.result().status, handle.result().reason) == ("cancelled", "enough")


def test_a_run_that_has_ended_takes_no_commands(tmp_path: Path) -> None:
    flow = Workflow().note("a")
    for url in (None, url_of(tmp_path)):
        options = RunOptions(database_url=url, run_id="r")
        handle = engine.start(flow.graph(), flow.registry, None, options)
        assert handle.result(20).success
        with pytest.raises(InvalidState, match="run r is completed"):
            handle.emit("late")
        assert handle.cancel()
        assert handle.result().success


@pytest.mark.row("E6")
def test_a_recorded_run_that_stands_still_is_cancelled_in_its_database(tmp_path: Path) -> None:
    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("go on?")

    flow = Workflow().add("ask", ask).note("after", after=["ask"])
    options = RunOptions(database_url=url_of(tmp_path), run_id="r")
    handle = engine.start(flow.graph(), flow.registry, None, options)
    assert handle.result(20).status == "paused"
    assert len(handle.questions()) == 1
    assert handle.cancel("enough")
    assert handle.result().status == "cancelled"
    assert states(handle.result()) == {"ask": "cancelled", "after": "cancelled"}
    assert handle.result().node_reports["after"].reason == "enough"
    assert handle.result().outputs == {}
    assert handle.questions() == []
    with Store(url_of(tmp_path)) as store:
        stored = store.load_run("r")
        assert (stored.status, stored.error, stored.owner) == (
            "cancelled",
            {"reason": "enough"},
            None,
        )
        assert stored.nodes["ask", "default"].state == "cancelled"
    again = flow.resume("r", url_of(tmp_path))
    assert again.status == "paused", "it asks again"


def test_a_handle_whose_run_broke_off_refuses_what_waits(tmp_path: Path) -> None:
    """The coordinator never takes another turn, so nobody would answer."""
    gate = Gate()
    with Store(url_of(tmp_path)) as store:
        real = store.create_run

        def create_run(**options: Any) -> Any:
            journal = real(**options)
            commit = journal.commit

            def fail(rows: Any, *arguments: Any, **more: Any) -> None:
                if rows:
                    raise StoreError("the disk is gone")
                commit(rows, *arguments, **more)

            journal.commit = fail  # type: ignore[method-assign]
            return journal

        store.create_run = create_run  # type: ignore[method-assign]
        flow = gated(gate)
        handle = engine.start(flow.graph(), flow.registry, None, RunOptions(), store=store)
        assert gate.begun.wait(20)
        handle.send(EmitEvent("before"), wait=False)
        gate.let.set()
        with pytest.raises(StoreError, match="disk is gone"):
            handle.result(20)
        store.create_run = real  # type: ignore[method-assign]
        handle.resume()
        assert handle.result(20).success, "the run is recorded, and goes on"


@pytest.mark.row("B39")
@pytest.mark.parametrize("runner", RUNNERS)
def test_after_a_cancel_no_thread_of_the_run_is_left(runner: str) -> None:
    gate, ended = Gate(), list[bool]()

    class Ends(EventHook):
        def on_complete(self, ctx: HookContext, success: bool) -> None:
            ended.append(success)

    before = set(threading.enumerate())
    handle = started(gated(gate), gate, runner, hooks=[Ends()])
    handle.cancel("enough")
    gate.let.set()
    assert handle.result(20).status == "cancelled"
    eventually(lambda: set(threading.enumerate()) <= before, "no thread is left")
    assert ended == [False]


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_a_hook_and_a_body_that_wait_for_the_end_of_their_own_run_are_refused(runner: str) -> None:
    handles: list[RunHandle] = []
    there = threading.Event()
    said: dict[str, str] = {}

    def attempt(who: str) -> None:
        for what in (handles[0].result, handles[0].wait):
            with pytest.raises(
                InvalidState, match="cannot end before this code returns"
            ) as refused:
                what(20)
        assert not handles[0].wait(0), "a look is no waiting"
        said[who] = str(refused.value)

    def first() -> None:
        assert there.wait(20)
        attempt("body")

    async def second() -> None:
        with pytest.raises(InvalidState, match="cannot end"):
            await handles[0]
        attempt("async body")

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted) and event.node.node_id == "first":
            attempt("hook")

    async def later(_ctx: Any, event: Any) -> None:
        if isinstance(event, NodeCompleted) and event.node.node_id == "first":
            attempt("async hook")

    flow = Workflow().add("first", first).add("second", second, after=["first"])
    options = RunOptions(runner=runner, hooks=[hook, later])
    handles.append(engine.start(flow.graph(), flow.registry, None, options))
    there.set()
    report = handles[0].result(20)
    assert report.success, report.error
    assert report.hook_errors == ()
    assert said.keys() == {"body", "async body", "hook", "async hook"}


def test_a_time_that_is_none_is_refused() -> None:
    gate = Gate()
    handle = started(gated(gate), gate)
    waits: list[Callable[[Any], object]] = [
        handle.wait,
        handle.result,
        lambda limit: handle.send(PauseRun(), timeout=limit),
    ]
    for wait in waits:
        for limit in ("x", -1, float("nan"), True):
            with pytest.raises(ConfigurationError, match="timeout must be"):
                wait(limit)
    gate.let.set()
    assert handle.wait(dt.timedelta(seconds=20))
    assert handle.result(float("inf")).success
