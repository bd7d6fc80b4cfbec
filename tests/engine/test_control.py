"""Tokens, handles, and what they do to runs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.control import CancelToken, RunHandle
from dagger_dsl.engine.coordinator import Coordinator
from dagger_dsl.engine.plan import compile_plan
from dagger_dsl.engine.run import Run
from dagger_dsl.errors import RunCancelled, StoreError, UnknownInputError
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.events import NodeCancelled, NodeCompleted
from dagger_dsl.testing import FakeClock
from tests.engine.helpers import RUNNERS, Answers, Workflow, returns, states, url_of

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
            lookup=flow.registry.get,
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

    from dagger_dsl.store.storage import Store

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
