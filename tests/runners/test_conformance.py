"""What every runner does, however its run is waited for."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.control import CancelToken
from dagger_dsl.errors import NodeExecutionError, NodeTimeout, OutputError
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.model.states import NodeState, RunStatus
from tests.benchmarks.measure import within
from tests.runners.bodies import (
    add,
    add_async,
    fragile,
    fragile_async,
    one,
    three,
    two,
)
from tests.runners.helpers import (
    CROSSING,
    PATIENCE,
    RUNNERS,
    WAYS,
    Flow,
    Gauge,
    eventually,
    our_threads,
    report_of,
)
from tests.scale import count

IMMEDIATE = RetryPolicy(base_delay=0.0, max_delay=0.0)

runners = pytest.mark.parametrize("runner", RUNNERS)
#: Of tests whose bodies note nothing in the test's own memory.
all_runners = pytest.mark.parametrize("runner", CROSSING)
parallel = pytest.mark.parametrize("runner", ["threads", "asyncio"])
entries = pytest.mark.parametrize("entry", WAYS)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every run ends with its threads; a test that abandons one on purpose frees it itself."""
    yield
    eventually(lambda: not our_threads(), f"the threads of {request.node.name} end")


# --- values ---------------------------------------------------------------------------------------


@all_runners
@entries
def test_values_pass_between_sync_and_async_functions(runner: str, entry: str) -> None:
    flow = Flow()
    flow.add("one", one).add("two", two)
    flow.add("three", add, take={"a": "one", "b": "two"})
    flow.add("five", add_async, take={"a": "two", "b": "three"})
    flow.add("eight", add, take={"a": "three", "b": "five"})
    report = flow.run(runner, entry)
    assert report.status is RunStatus.COMPLETED
    assert dict(report.values) == {"one": 1, "two": 2, "three": 3, "five": 5, "eight": 8}
    assert report.outputs == {"eight": 8}


@pytest.mark.row("R4")
@runners
def test_values_are_passed_by_reference(runner: str) -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[0]

    def same(value: object) -> bool:
        return value is made[0]

    report = Flow().add("make", make).add("same", same, take={"value": "make"}).run(runner)
    assert report.value("same") is True
    assert report.value("make") is made[0]


@runners
def test_none_false_and_exceptions_are_values_too(runner: str) -> None:
    error = ValueError("a value, not raised")
    flow = Flow()
    flow.add("none", lambda: None).add("false", lambda: False).add("error", lambda: error)
    flow.add("all", three, take={"a": "none", "b": "false", "c": "error"})
    assert flow.run(runner).value("all") == (None, False, error)


@all_runners
@entries
def test_an_empty_graph_completes(runner: str, entry: str) -> None:
    report = Flow().run(runner, entry)
    assert report.status is RunStatus.COMPLETED
    assert dict(report.values) == {}


@all_runners
def test_inputs_and_literals_reach_the_function(runner: str) -> None:
    flow = Flow().add("sum", add, take={"a": "inputs.x"}, give={"b": 5})
    flow.add("sum2", add_async, take={"a": "inputs.x", "b": "sum"})
    assert flow.run(runner, inputs={"x": 2}).outputs == {"sum2": 9}


@all_runners
def test_a_coroutine_of_a_plain_function_is_an_error_that_says_so(runner: str) -> None:
    def forgotten() -> Any:
        return two()

    report = Flow().add("n", forgotten).run(runner)
    error = report.node_reports["n"].exception
    assert isinstance(error, OutputError)
    assert "async def" in str(error)


@all_runners
def test_a_generator_is_no_value(runner: str) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    report = Flow().add("n", numbers).run(runner)
    assert report.status is RunStatus.FAILED
    assert isinstance(report.node_reports["n"].exception, OutputError)


# --- exceptions -----------------------------------------------------------------------------------


@pytest.mark.row("H3")
@pytest.mark.parametrize("body", [fragile, fragile_async])
@all_runners
@entries
def test_an_exception_keeps_the_users_traceback(runner: str, entry: str, body: Any) -> None:
    flow = Flow().add("one", one).add("bad", body, take={"value": "one"})
    flow.add("after", fragile, take={"value": "bad"})
    report = flow.run(runner, entry)
    assert report.status is RunStatus.FAILED
    node = report.node_reports["bad"]
    assert isinstance(node.exception, LookupError)
    assert node.error is not None
    assert (node.error.type, node.error.message) == ("LookupError", "no 1")
    frames = [frame.name for frame in traceback.extract_tb(node.exception.__traceback__)]
    assert frames[-2:] == [body.__name__, "deep_inside"]
    assert "in deep_inside" in node.error.traceback
    assert "dagger_dsl/runners" not in node.error.traceback
    with pytest.raises(NodeExecutionError) as raised:
        report.raise_for_failure()
    assert raised.value.__cause__ is node.exception
    assert raised.value.node_id == "bad"
    assert report.states()["after"] in (NodeState.SKIPPED, NodeState.CANCELLED)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, asyncio.CancelledError, MemoryError])
@pytest.mark.parametrize("is_async", [False, True])
@all_runners
def test_whatever_a_body_raises_fails_its_node_only(
    runner: str, is_async: bool, kind: type[BaseException]
) -> None:
    def leave() -> None:
        raise kind

    async def leave_async() -> None:
        raise kind

    flow = Flow().add("bad", leave_async if is_async else leave).add("good", one)
    report = flow.run(runner, config={"on_failure": "continue"})
    assert report_of(report) == {"bad": "failed", "good": "completed"}
    assert type(report.node_reports["bad"].exception) is kind


@pytest.mark.parametrize("is_async", [False, True])
@runners
@entries
def test_an_interrupt_in_a_body_stops_the_run_and_is_raised(
    runner: str, entry: str, is_async: bool
) -> None:
    def interrupt(value: int) -> None:
        raise KeyboardInterrupt

    async def interrupt_async(value: int) -> None:
        raise KeyboardInterrupt

    later = Gauge()

    def enter(value: None) -> None:
        with later:
            pass

    flow = Flow().add("one", one)
    flow.add("bad", interrupt_async if is_async else interrupt, take={"value": "one"})
    flow.add("later", enter, take={"value": "bad"})
    with pytest.raises(KeyboardInterrupt):
        flow.run(runner, entry)
    assert later.total == 0


@all_runners
def test_many_failures_at_once_are_all_reported(runner: str) -> None:
    def fail(n: int) -> None:
        raise ValueError(n)

    flow = Flow()
    for n in range(50):
        flow.add(f"n{n}", fail, give={"n": n})
    report = flow.run(runner, config={"on_failure": "continue"}, max_workers=8)
    errors = [report.node_reports[f"n{n}"].exception for n in range(50)]
    assert [error.args for error in errors if error is not None] == [(n,) for n in range(50)]


@runners
def test_a_failure_stops_what_has_not_started(runner: str) -> None:
    gauge = Gauge()

    def enter() -> None:
        with gauge:
            time.sleep(0.001)

    def fail() -> None:
        raise ValueError

    flow = Flow()
    for n in range(4):
        flow.add(f"bad{n}", fail)
    for n in range(500):
        flow.add(f"n{n}", enter)
    report = flow.run(runner, max_workers=4)
    assert report.status is RunStatus.FAILED
    # Workers may have begun a call each before the failure was seen, none begins a second one.
    assert gauge.total <= 4
    assert report.cancelled_nodes >= 496


# --- how many at once -----------------------------------------------------------------------------


@pytest.mark.row("E1")
@entries
def test_sequential_is_one_at_a_time_in_order(entry: str) -> None:
    gauge = Gauge()
    order: list[int] = []

    def enter(n: int) -> None:
        with gauge:
            order.append(n)
            time.sleep(0.001)

    async def enter_async(n: int) -> None:
        with gauge:
            order.append(n)
            await asyncio.sleep(0.001)

    for bodies in ((enter,), (enter_async,), (enter, enter_async)):
        flow = Flow()
        for n in range(12):
            flow.add(f"n{n}", bodies[n % len(bodies)], give={"n": n})
        flow.run("sequential", entry, max_workers=8)
    assert gauge.peak == 1
    assert order == [*range(12)] * 3


@pytest.mark.row("E2")
@pytest.mark.parametrize("mix", ["sync", "async", "mixed"])
@pytest.mark.parametrize("limit", [1, 2, 5])
@parallel
@entries
def test_exactly_so_many_run_at_once(runner: str, entry: str, limit: int, mix: str) -> None:
    gauge = Gauge()
    full = threading.Event()

    def look() -> bool:
        if gauge.peak >= limit:
            full.set()
        return full.is_set()

    def enter() -> None:
        with gauge:
            deadline = time.monotonic() + PATIENCE
            while not look() and time.monotonic() < deadline:
                time.sleep(0.0005)
            time.sleep(0.001)

    async def enter_async() -> None:
        with gauge:
            deadline = time.monotonic() + PATIENCE
            while not look() and time.monotonic() < deadline:
                await asyncio.sleep(0.0005)
            await asyncio.sleep(0.001)

    kinds: dict[str, list[Any]] = {
        "sync": [enter],
        "async": [enter_async],
        "mixed": [enter, enter_async],
    }
    bodies = kinds[mix]
    flow = Flow()
    for n in range(limit * 6):
        flow.add(f"n{n}", bodies[n % len(bodies)])
    report = flow.run(runner, entry, max_workers=limit)
    assert report.success
    assert gauge.peak == limit
    assert gauge.total == limit * 6


@pytest.mark.row("E4")
@pytest.mark.parametrize("is_async", [False, True])
@parallel
def test_there_is_no_barrier_between_levels(runner: str, is_async: bool) -> None:
    began = threading.Event()

    def wait_for_the_end_of_the_other_branch(_: int) -> bool:
        return began.wait(PATIENCE)

    async def wait_async(_: int) -> bool:
        for _turn in range(int(PATIENCE * 1000)):
            if began.is_set():
                return True
            await asyncio.sleep(0.001)
        return False

    def begin(_: int) -> int:
        began.set()
        return 1

    x1: Any = wait_async if is_async else wait_for_the_end_of_the_other_branch
    flow = Flow().add("s", one)
    flow.add("x1", x1, take={"_": "s"})
    flow.add("x2", add, take={"a": "s", "b": "s"})
    flow.add("y2", begin, take={"_": "x2"})
    assert flow.run(runner, max_workers=2).value("x1") is True


@pytest.mark.row("E3", "E4")
@pytest.mark.parametrize("is_async", [False, True])
@parallel
def test_two_slow_branches_take_as_long_as_one(runner: str, is_async: bool) -> None:
    def slow(_: int) -> None:
        time.sleep(0.3)

    async def slow_async(_: int) -> None:
        await asyncio.sleep(0.3)

    body: Any = slow_async if is_async else slow
    flow = Flow().add("s", one)
    flow.add("x1", body, take={"_": "s"})
    flow.add("x2", add, take={"a": "s", "b": "s"})
    flow.add("y2", body, take={"_": "x2"})
    taken, allowed = within(lambda: float(flow.run(runner).duration), 0.55, turns=5)
    assert 0.29 < taken < allowed


@parallel
def test_a_lone_slow_node_does_not_hold_the_others_up(runner: str) -> None:
    done = Gauge()
    rest = 40

    def slow() -> bool:
        deadline = time.monotonic() + PATIENCE
        while done.total < rest and time.monotonic() < deadline:
            time.sleep(0.0005)
        return done.total == rest

    def quick(_: int) -> int:
        with done:
            return 1

    flow = Flow().add("slow", slow).add("n0", lambda: 1)
    for n in range(rest):
        flow.add(f"n{n + 1}", quick, take={"_": f"n{n}"})
    assert flow.run(runner, max_workers=2).value("slow") is True


@pytest.mark.row("E27")
@entries
def test_a_blocking_function_does_not_delay_async_ones(entry: str) -> None:
    beats: list[float] = []
    blocked = threading.Event()

    def block() -> None:
        blocked.wait(PATIENCE)

    async def beat() -> int:
        for _ in range(20):
            beats.append(time.monotonic())
            await asyncio.sleep(0.002)
        blocked.set()
        return len(beats)

    flow = Flow().add("block", block).add("beat", beat)
    report = flow.run("asyncio", entry, max_workers=2)
    assert report.value("beat") == 20
    assert report.success


def test_a_run_does_not_hold_up_the_callers_loop() -> None:
    """The loop serves others while sync bodies run in threads and rows are settled."""
    free = threading.Event()

    def block() -> bool:
        return free.wait(PATIENCE)

    async def main() -> tuple[int, bool]:
        flow = Flow().add("block", block)
        run = asyncio.ensure_future(
            engine.run_async(flow.graph(), flow.registry, None, RunOptions(runner="asyncio"))
        )
        beats = 0
        for beats in range(50):  # noqa: B007
            await asyncio.sleep(0.001)
        free.set()
        return beats, (await run).value("block")

    assert asyncio.run(main()) == (49, True)


# --- context variables ----------------------------------------------------------------------------

_variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@runners
@entries
def test_bodies_see_the_callers_context_and_cannot_change_it(runner: str, entry: str) -> None:
    def look() -> str:
        seen = _variable.get()
        _variable.set("changed by a body")
        return seen

    async def look_async() -> str:
        await asyncio.sleep(0)
        return look()

    token = _variable.set("the caller's")
    try:
        first = Flow().add("a", look).run(runner, entry)
        second = Flow().add("a", look_async).run(runner, entry)
        assert _variable.get() == "the caller's"
    finally:
        _variable.reset(token)
    assert first.value("a") == "the caller's"
    assert second.value("a") == "the caller's"


# --- asyncio inside bodies ------------------------------------------------------------------------


@pytest.mark.row("R1")
@pytest.mark.parametrize("entry", ["run", "start", "inside a loop"])
def test_a_body_may_start_a_loop_of_its_own(entry: str) -> None:
    def own_loop() -> int:
        return asyncio.run(two())

    flow = Flow().add("one", one).add("own", own_loop, after=["one"]).add("again", own_loop)
    for runner in ("threads", "asyncio"):
        assert flow.run(runner, entry).value("own") == 2
    if entry != "inside a loop":
        assert flow.run("sequential", entry).value("own") == 2


@pytest.mark.row("R1")
@runners
def test_runs_nest(runner: str) -> None:
    inner = Flow("inner").add("one", one).add("two", two)
    inner.add("sum", add, take={"a": "one", "b": "two"})

    def outer() -> int:
        value: int = inner.run("asyncio" if runner == "asyncio" else "threads").value("sum")
        return value

    assert Flow().add("outer", outer).run(runner).value("outer") == 3


@entries
def test_async_bodies_share_one_loop(entry: str) -> None:
    loops: list[Any] = []

    async def note() -> None:
        loops.append(asyncio.get_running_loop())

    flow = Flow()
    for n in range(8):
        flow.add(f"n{n}", note)
    for runner in RUNNERS:
        loops.clear()
        assert flow.run(runner, entry).success
        assert len({id(loop) for loop in loops}) == 1


def test_async_bodies_run_on_the_callers_own_loop() -> None:
    async def here() -> int:
        return id(asyncio.get_running_loop())

    async def main(runner: str) -> bool:
        flow = Flow().add("n", here)
        report = await engine.run_async(
            flow.graph(), flow.registry, None, RunOptions(runner=runner)
        )
        return bool(report.value("n") == id(asyncio.get_running_loop()))

    assert [asyncio.run(main(runner)) for runner in RUNNERS] == [True] * 3


def test_sequential_bodies_run_in_the_callers_thread() -> None:
    flow = Flow().add("n", lambda: threading.get_ident())
    assert flow.run("sequential").value("n") == threading.get_ident()


# --- time limits ----------------------------------------------------------------------------------


@pytest.mark.row("E7")
@runners
@entries
def test_a_sync_node_that_overruns_is_left_behind(
    runner: str, entry: str, caplog: pytest.LogCaptureFixture
) -> None:
    free = threading.Event()
    returned = threading.Event()

    def stuck() -> str:
        free.wait(PATIENCE)
        returned.set()
        return "too late"

    flow = Flow().add("stuck", stuck, timeout=0.05).add("other", one)
    flow.add("after", one, after=["other"])
    try:
        with caplog.at_level(logging.WARNING, "dagger_dsl"):
            report = flow.run(runner, entry, config={"on_failure": "continue"}, max_workers=1)
    finally:
        free.set()
    assert report_of(report) == {"stuck": "failed", "other": "completed", "after": "completed"}
    error = report.node_reports["stuck"].exception
    assert isinstance(error, NodeTimeout)
    assert isinstance(error, TimeoutError)
    assert (error.node_id, error.seconds) == ("stuck", 0.05)
    assert "left behind" in caplog.text
    assert returned.wait(PATIENCE)
    assert report.states()["stuck"] is NodeState.FAILED  # the late result changes nothing


@pytest.mark.row("E7")
@all_runners
@entries
def test_an_async_node_that_overruns_is_cancelled(runner: str, entry: str) -> None:
    ended: list[str] = []

    async def stuck() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    flow = Flow().add("stuck", stuck, timeout=0.05).add("other", two)
    report = flow.run(runner, entry, config={"on_failure": "continue"}, max_workers=1)
    assert report_of(report) == {"stuck": "failed", "other": "completed"}
    assert isinstance(report.node_reports["stuck"].exception, NodeTimeout)
    assert ended == ["cancelled"]


@pytest.mark.row("E7", "H17")
@pytest.mark.parametrize("is_async", [False, True])
@runners
def test_an_attempt_that_overran_is_retried_with_a_fresh_limit(runner: str, is_async: bool) -> None:
    free = threading.Event()
    calls = Gauge()

    def second_time_lucky() -> int:
        with calls:
            attempt = calls.total
        if attempt == 1:
            free.wait(PATIENCE)
        return attempt

    async def second_time_lucky_async() -> int:
        with calls:
            attempt = calls.total
        if attempt == 1:
            await asyncio.sleep(PATIENCE)
        return attempt

    body: Any = second_time_lucky_async if is_async else second_time_lucky
    flow = Flow().add("n", body, timeout=0.1, try_count=2, retry=IMMEDIATE)
    flow.add("after", add, take={"a": "n", "b": "n"})
    try:
        report = flow.run(runner)
    finally:
        free.set()
    assert report.value("after") == 4
    assert report.node_reports["n"].attempts == 2
    assert calls.total == 2


@pytest.mark.parametrize("is_async", [False, True])
@all_runners
def test_limits_that_are_kept_change_nothing(runner: str, is_async: bool) -> None:
    flow = Flow()
    for n in range(200):
        body: Any = add_async if is_async else add
        flow.add(f"n{n}", body, give={"a": n, "b": 1}, timeout=PATIENCE)
    report = flow.run(runner)
    assert dict(report.values) == {f"n{n}": n + 1 for n in range(200)}


@all_runners
def test_an_error_before_the_limit_is_the_error(runner: str) -> None:
    flow = Flow().add("one", one).add("n", fragile, take={"value": "one"}, timeout=PATIENCE)
    error = flow.run(runner).node_reports["n"].exception
    assert isinstance(error, LookupError)


@all_runners
def test_a_body_that_raises_timeout_error_is_not_an_overrun(runner: str) -> None:
    async def own() -> None:
        raise TimeoutError("the service's")

    report = Flow().add("n", own, timeout=PATIENCE).run(runner)
    error = report.node_reports["n"].exception
    assert type(error) is TimeoutError
    assert str(error) == "the service's"


@runners
def test_all_slots_are_replaced_when_all_calls_overrun(runner: str) -> None:
    free = threading.Event()

    def stuck() -> None:
        free.wait(PATIENCE)

    flow = Flow()
    for n in range(6):
        flow.add(f"stuck{n}", stuck, timeout=0.03)
    for n in range(6):
        flow.add(f"n{n}", one)
    try:
        report = flow.run(runner, max_workers=2, config={"on_failure": "continue"})
    finally:
        free.set()
    assert report.failed_nodes == 6
    assert report.completed_nodes == 6


@pytest.mark.row("E8")
@pytest.mark.parametrize("is_async", [False, True])
@runners
@entries
def test_a_run_has_a_limit_too(runner: str, entry: str, is_async: bool) -> None:
    free = threading.Event()

    def stuck(_: int) -> None:
        free.wait(PATIENCE)

    async def stuck_async(_: int) -> None:
        await asyncio.sleep(PATIENCE)

    body: Any = stuck_async if is_async else stuck
    flow = Flow().add("one", one).add("stuck", body, take={"_": "one"})
    flow.add("after", one, after=["stuck"])
    began = time.monotonic()
    try:
        report = flow.run(runner, entry, timeout=0.1)
    finally:
        free.set()
    assert time.monotonic() - began < PATIENCE / 2
    assert report.status is RunStatus.TIMED_OUT
    assert report.value("one") == 1
    assert report_of(report) == {"one": "completed", "stuck": "cancelled", "after": "cancelled"}


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.row("E5")
@pytest.mark.parametrize("is_async", [False, True])
@runners
@entries
def test_a_token_ends_the_run(runner: str, entry: str, is_async: bool) -> None:
    token = CancelToken()
    free = threading.Event()

    def cancel(_: int) -> None:
        token.cancel("enough")
        free.wait(0.05)  # it is let to its end: threads cannot be stopped

    async def cancel_async(_: int) -> None:
        token.cancel("enough")
        await asyncio.sleep(PATIENCE)

    flow = Flow().add("one", one)
    flow.add("cancel", cancel_async if is_async else cancel, take={"_": "one"})
    flow.add("after", one, after=["cancel"])
    report = flow.run(runner, entry, cancel=token)
    assert report.status is RunStatus.CANCELLED
    assert report.reason == "enough"
    assert report.value("one") == 1
    states = report_of(report)
    assert states["after"] == "cancelled"
    assert states["cancel"] == ("cancelled" if is_async else "completed")


@runners
def test_cancelling_stops_a_wide_graph_at_once(runner: str) -> None:
    token = CancelToken()
    gauge = Gauge()

    def enter() -> None:
        with gauge:
            if gauge.total == 5:
                token.cancel()

    flow = Flow()
    for n in range(2000):
        flow.add(f"n{n}", enter)
    report = flow.run(runner, max_workers=3, cancel=token)
    assert report.status is RunStatus.CANCELLED
    assert 5 <= gauge.total <= 8
    assert report.completed_nodes == gauge.total


@runners
def test_a_token_that_was_cancelled_before_starts_nothing(runner: str) -> None:
    token = CancelToken()
    token.cancel("early")
    gauge = Gauge()

    def enter() -> None:
        with gauge:
            pass

    report = Flow().add("n", enter).run(runner, cancel=token)
    assert (report.status, report.reason) == (RunStatus.CANCELLED, "early")
    assert gauge.total == 0


@pytest.mark.row("E6")
@runners
def test_a_handle_cancels(runner: str) -> None:
    began = threading.Event()
    free = threading.Event()

    def work() -> int:
        began.set()
        free.wait(PATIENCE)
        return 1

    flow = Flow().add("work", work).add("after", one, after=["work"])
    handle = engine.start(flow.graph(), flow.registry, None, RunOptions(runner=runner))
    assert began.wait(PATIENCE)
    assert not handle.done
    handle.cancel("by hand")
    assert not handle.wait(0.02)  # the body is given time to end
    free.set()
    report = handle.result(PATIENCE)
    assert (report.status, report.reason) == (RunStatus.CANCELLED, "by hand")
    assert report_of(report) == {"work": "completed", "after": "cancelled"}


@runners
def test_a_body_that_ignores_the_grace_time_is_left_behind(
    runner: str, caplog: pytest.LogCaptureFixture
) -> None:
    if runner == "sequential":
        pytest.skip("the caller's own thread makes the call, and nobody can leave it behind")
    token = CancelToken()
    free = threading.Event()

    def stuck() -> None:
        token.cancel()
        free.wait(PATIENCE)

    flow = Flow().add("stuck", stuck)
    try:
        report = flow.run(runner, cancel=token, config={"shutdown_grace": 0.05})
    finally:
        free.set()
    assert report.status is RunStatus.CANCELLED
    assert report.abandoned == ("stuck",)
    assert "left behind" in caplog.text


@pytest.mark.row("E26")
@all_runners
def test_cancelling_the_awaiting_task_cancels_the_run(runner: str) -> None:
    seen: list[str] = []

    async def main() -> None:
        began = asyncio.Event()

        async def work() -> None:
            began.set()
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        def never() -> None:
            seen.append("called")

        flow = Flow().add("work", work).add("after", never, after=["work"])
        task = asyncio.ensure_future(
            engine.run_async(flow.graph(), flow.registry, None, RunOptions(runner=runner))
        )
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert seen == ["cancelled"]


@pytest.mark.row("E26")
def test_a_cancelled_task_waits_for_its_threads() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        began = asyncio.Event()
        seen: list[str] = []

        def work() -> None:
            loop.call_soon_threadsafe(began.set)
            time.sleep(0.05)
            seen.append("ended")

        flow = Flow().add("work", work).add("after", seen.clear, after=["work"])
        task = asyncio.ensure_future(
            engine.run_async(flow.graph(), flow.registry, None, RunOptions(runner="asyncio"))
        )
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return seen

    assert asyncio.run(main()) == ["ended"]


@pytest.mark.row("E26")
@all_runners
def test_a_time_limit_of_the_caller_cancels_the_run(runner: str) -> None:
    async def main() -> None:
        async def work() -> None:
            await asyncio.sleep(PATIENCE)

        flow = Flow().add("work", work)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                engine.run_async(flow.graph(), flow.registry, None, RunOptions(runner=runner)),
                0.05,
            )
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_cancelled_body_may_clean_up() -> None:
    cleaned: list[int] = []

    async def main() -> None:
        async def work() -> None:
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                await asyncio.sleep(0.02)
                cleaned.append(1)

        flow = Flow().add("work", work, timeout=0.02)
        report = await engine.run_async(flow.graph(), flow.registry)
        assert isinstance(report.node_reports["work"].exception, NodeTimeout)

    asyncio.run(main())
    assert cleaned == [1]


def test_a_body_that_swallows_its_cancellation_keeps_its_result() -> None:
    token = CancelToken()

    async def stubborn() -> str:
        try:
            token.cancel()
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            return "finished all the same"
        raise AssertionError

    report = Flow().add("n", stubborn).add("later", two, after=["n"]).run("asyncio", cancel=token)
    assert report.value("n") == "finished all the same"
    assert report_of(report)["later"] == "cancelled"


def test_cancelling_one_run_leaves_the_other_alone() -> None:
    token = CancelToken()

    async def main() -> tuple[RunStatus, RunStatus]:
        async def slow() -> int:
            await asyncio.sleep(0.05)
            return 1

        flow = Flow().add("a", slow).add("b", slow, after=["a"])
        first = engine.run_async(flow.graph(), flow.registry, None, RunOptions(cancel=token))
        second = engine.run_async(flow.graph(), flow.registry)
        both = asyncio.gather(first, second)
        await asyncio.sleep(0.01)
        token.cancel()
        one_report, other = await both
        return one_report.status, other.status

    assert asyncio.run(main()) == (RunStatus.CANCELLED, RunStatus.COMPLETED)


# --- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
@runners
def test_a_waiting_retry_holds_no_slot(runner: str, is_async: bool) -> None:
    order: list[str] = []

    def flaky() -> None:
        order.append("flaky")
        if order.count("flaky") == 1:
            raise ConnectionError

    async def flaky_async() -> None:
        flaky()

    def other() -> None:
        order.append("other")

    wait = RetryPolicy(base_delay=0.1, max_delay=0.1)
    flow = Flow().add("flaky", flaky_async if is_async else flaky, try_count=2, retry=wait)
    flow.add("other", other)
    report = flow.run(runner, max_workers=1)
    assert report.success
    assert order == ["flaky", "other", "flaky"]


@all_runners
def test_the_context_counts_attempts(runner: str) -> None:
    def flaky(ctx: NodeCtx) -> int:
        if ctx.attempt < 3:
            raise ConnectionError
        return ctx.attempt

    flow = Flow().add("flaky", flaky, try_count=3, retry=IMMEDIATE)
    report = flow.run(runner)
    assert report.value("flaky") == 3
    assert report.node_reports["flaky"].attempts == 3


@pytest.mark.parametrize("handler_async", [False, True])
@all_runners
def test_failure_handlers_run_like_nodes(runner: str, handler_async: bool) -> None:
    def fail() -> None:
        raise ValueError("x")

    def recover(error: Exception) -> str:
        return f"recovered from {error}"

    async def recover_async(error: Exception) -> str:
        await asyncio.sleep(0)
        return recover(error)

    flow = Flow()
    name = flow.handler("recover", recover_async if handler_async else recover)
    flow.add("bad", fail, failure=name).add("after", str.upper, take={"self": "bad"})
    report = flow.run(runner)
    assert report.value("bad") == "recovered from x"
    assert report.node_reports["bad"].recovered


# --- shapes and sizes -----------------------------------------------------------------------------


def _chain(n: int) -> list[list[int]]:
    return [[] if k == 0 else [k - 1] for k in range(n)]


def _fan(n: int) -> list[list[int]]:
    return [[], *([0] for _ in range(n - 2)), list(range(1, n - 1))]


def _layers(n: int) -> list[list[int]]:
    draw = random.Random(7)
    size = n // 10
    rows: list[list[int]] = [[] for _ in range(size)]
    for layer in range(1, 10):
        before = range((layer - 1) * size, layer * size)
        rows += [draw.sample(before, 3) for _ in range(size)]
    return rows


@pytest.mark.parametrize("mix", ["sync", "async", "mixed"])
@pytest.mark.parametrize("shape", [_chain, _fan, _layers])
@runners
def test_two_thousand_nodes(runner: str, shape: Any, mix: str) -> None:
    n = 2000
    rows = shape(n)
    calls = [0] * n

    def work(k: int) -> int:
        calls[k] += 1
        return k

    async def work_async(k: int) -> int:
        calls[k] += 1
        return k

    flow = Flow()
    for k, sources in enumerate(rows):
        body: Any = work_async if mix == "async" or (mix == "mixed" and k % 2) else work
        flow.add(f"n{k}", body, give={"k": k}, after=[f"n{each}" for each in sources])
    report = flow.run(runner)
    assert report.success
    assert calls == [1] * n
    assert [report.value(f"n{k}") for k in range(n)] == list(range(n))


@runners
@entries
def test_one_graph_may_run_many_times(runner: str, entry: str) -> None:
    flow = Flow().add("one", one).add("two", two)
    flow.add("three", add, take={"a": "one", "b": "two"})
    for _ in range(count(100, least=10)):
        assert flow.run(runner, entry).value("three") == 3


@runners
def test_runs_of_one_graph_do_not_disturb_each_other(runner: str) -> None:
    flow = Flow().add("a", add, take={"a": "inputs.x"}, give={"b": 1})
    flow.add("b", add_async, take={"a": "a", "b": "a"})
    graph = flow.graph()
    handles = [
        engine.start(graph, flow.registry, {"x": x}, RunOptions(runner=runner)) for x in range(16)
    ]
    assert [handle.result(PATIENCE).value("b") for handle in handles] == [
        2 * (x + 1) for x in range(16)
    ]
