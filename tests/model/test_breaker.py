"""`CircuitBreaker`: when it opens, what it lets through, and what it says."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from dagger_dsl import DAG, action
from dagger_dsl.errors import (
    CircuitBreakerOpenError,
    ConfigurationError,
    DaggerError,
    NodeExecutionError,
)
from dagger_dsl.model.breaker import CircuitBreaker
from dagger_dsl.registry import Registry
from dagger_dsl.testing import FakeClock, play

both = pytest.mark.parametrize("is_async", [False, True])


class Service:
    """What is called: it fails while it is down.

    Attributes:
        calls: How often it was called.
        down: Whether it fails.
    """

    def __init__(self, breaker: CircuitBreaker, is_async: bool = False) -> None:
        self.calls = 0
        self.down = True
        self._guarded: Any = breaker(self._call_async if is_async else self._call)
        self._is_async = is_async

    def _call(self) -> str:
        self.calls += 1
        if self.down:
            raise ConnectionError("down")
        return "fine"

    async def _call_async(self) -> str:
        return self._call()

    def __call__(self) -> str:
        """Call it through the breaker."""
        answer = self._guarded()
        found: str = asyncio.run(_wait(answer)) if self._is_async else answer
        return found

    def fail(self, times: int) -> None:
        """Call it so often; each call is made and fails."""
        for _ in range(times):
            with pytest.raises(ConnectionError):
                self()


async def _wait(awaitable: Any) -> Any:
    return await awaitable


@pytest.mark.row("H23")
@both
def test_it_opens_after_so_many_failures_in_a_row_and_half_opens_after_its_time(
    is_async: bool,
) -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(failure_threshold=3, timeout=300, clock=clock)
    service = Service(breaker, is_async)
    service.fail(2)
    assert breaker.state == "closed"
    service.fail(1)
    assert breaker.state == "open"
    assert breaker.is_open()
    clock.advance(299)
    with pytest.raises(CircuitBreakerOpenError):
        service()
    assert service.calls == 3, "it was not called"
    clock.advance(1)
    assert breaker.state == "half_open"
    assert not breaker.is_open()
    service.fail(1)
    assert breaker.state == "open", "one failure opens it again"
    clock.advance(300)
    service.down = False
    assert service() == "fine"
    assert breaker.state == "closed"
    assert (breaker.failures, breaker.last_failure) == (0, None)
    service.down = True
    service.fail(2)
    assert breaker.state == "closed"


@pytest.mark.row("H24")
@both
def test_a_success_resets_the_count(is_async: bool) -> None:
    breaker = CircuitBreaker(failure_threshold=2, timeout=9)
    service = Service(breaker, is_async)
    for _ in range(5):
        service.down = True
        service.fail(1)
        assert breaker.failures == 1
        service.down = False
        service()
        assert breaker.failures == 0
    assert breaker.state == "closed"


@pytest.mark.row("H24")
def test_it_is_opened_and_closed_by_hand() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(failure_threshold=2, timeout=timedelta(minutes=1), clock=clock)
    assert (breaker.threshold, breaker.timeout, breaker.last_failure) == (2, 60.0, None)
    breaker.record_failure()
    assert not breaker.is_open()
    assert breaker.last_failure == clock()
    breaker.record_failure()
    assert breaker.is_open()
    assert breaker.failures == 2
    breaker.reset()
    assert not breaker.is_open()
    assert breaker.state == "closed"
    assert breaker.failures == 0


@pytest.mark.row("H23")
def test_the_document_s_defaults() -> None:
    breaker = CircuitBreaker()
    assert (breaker.threshold, breaker.timeout) == (5, 60.0)


def test_the_error_says_what_was_called_and_since_and_until_when() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(1, 120, clock=clock)

    @breaker
    def fetch() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        fetch()
    opened = time.time()
    clock.advance(20)
    with pytest.raises(
        CircuitBreakerOpenError, match=r"'fetch'.*open since 20.*until 20"
    ) as raised:
        fetch()
    error = raised.value
    assert isinstance(error, DaggerError)
    assert (error.function, error.failures) == ("fetch", 1)
    assert error.since == pytest.approx(opened - 20, abs=5)
    assert error.until - error.since == pytest.approx(120)


def test_half_open_lets_exactly_one_call_of_many_threads_through() -> None:
    clock, entered, leave = FakeClock(), threading.Barrier(2, timeout=10), threading.Event()
    breaker = CircuitBreaker(1, 10, clock=clock)
    calls: list[int] = []

    @breaker
    def slow() -> None:
        calls.append(1)
        entered.wait()
        leave.wait(10)

    breaker.record_failure()
    clock.advance(10)
    refused: list[BaseException] = []

    def work() -> None:
        try:
            slow()
        except CircuitBreakerOpenError as error:
            refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    entered.wait()
    deadline = time.monotonic() + 10
    while len(refused) < 7 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(refused) == 7
    assert breaker.state == "half_open"
    leave.set()
    for each in threads:
        each.join()
    assert len(calls) == 1
    assert breaker.state == "closed"


def test_a_probe_that_never_comes_back_does_not_close_the_way_for_ever() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(1, 10, clock=clock)
    held: list[Any] = []

    @breaker
    async def call(kind: str) -> str:
        if kind == "hangs":
            await asyncio.Future()
        return kind

    breaker.record_failure()
    clock.advance(10)

    async def main() -> None:
        task = asyncio.create_task(call("hangs"))
        held.append(task)
        await asyncio.sleep(0)
        with pytest.raises(CircuitBreakerOpenError):
            await call("early")
        clock.advance(10)
        assert await call("next") == "next"
        assert breaker.state == "closed"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert breaker.state == "closed"

    asyncio.run(main())


def test_a_cancelled_probe_lets_the_next_one_through() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(1, 10, clock=clock)

    @breaker
    async def call(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    breaker.record_failure()
    clock.advance(10)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call(60), 0.01)
        assert breaker.failures == 1, "a call that was cancelled counts neither way"
        assert await call(0) == "done"

    asyncio.run(main())


def test_calls_from_before_it_opened_change_nothing() -> None:
    breaker = CircuitBreaker(2, 100)
    late: list[Callable[[], None]] = []

    async def main() -> None:
        gates: list[asyncio.Future[None]] = []

        @breaker
        async def call(fails: bool) -> None:
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            gates.append(gate)
            await gate
            if fails:
                raise ValueError

        tasks = [asyncio.create_task(call(fails)) for fails in (True, True, False, True)]
        await asyncio.sleep(0)
        for gate in gates[:2]:
            gate.set_result(None)
        await asyncio.gather(*tasks[:2], return_exceptions=True)
        assert breaker.state == "open"
        for gate in gates[2:]:
            gate.set_result(None)
        await asyncio.gather(*tasks[2:], return_exceptions=True)
        assert breaker.state == "open", "a late success does not close it"
        assert breaker.failures == 2, "nor does a late failure keep it open for longer"

    asyncio.run(main())
    assert not late


@both
def test_the_signature_stays(is_async: bool) -> None:
    def plain(data: int, *, more: str = "x") -> str:
        """Say it."""
        return f"{data}{more}"

    async def awaited(data: int, *, more: str = "x") -> str:
        """Say it."""
        return f"{data}{more}"

    body: Any = awaited if is_async else plain
    guarded = CircuitBreaker()(body)
    assert inspect.signature(guarded) == inspect.signature(body)
    assert (guarded.__name__, guarded.__doc__) == (body.__name__, "Say it.")
    assert inspect.iscoroutinefunction(guarded) is is_async


@pytest.mark.row("H23")
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
@both
def test_it_works_under_nodes_and_actions(runner: str, is_async: bool) -> None:
    breaker = CircuitBreaker(failure_threshold=2, timeout=300)
    calls: list[int] = []

    def body(data: int) -> int:
        calls.append(data)
        raise ConnectionError("down")

    async def body_async(data: int) -> int:
        return body(data)

    with Registry():
        dag = DAG("flow")
        function: Any = breaker(body_async if is_async else body)
        dag.node(retry=4, retry_delay=0)(function)
        with pytest.raises(NodeExecutionError) as raised:
            dag.run({"data": 1}, runner=runner)
        assert isinstance(raised.value.__cause__, CircuitBreakerOpenError)
        assert calls == [1, 1], "the other three attempts were refused"
        assert list(dag.nodes) == [function.__name__]
        report = play(dag, {"data": 1})
        assert calls == [1, 1], "it is open for every run of the process"
        assert report.status == "failed"
        made = action(CircuitBreaker()(lambda x: x + 1), name="inc")
        assert made(1) == 2


def test_what_cannot_work_is_refused() -> None:
    wrong: Any
    for wrong in (0, -1, 1.5, True, "5", None):
        with pytest.raises(ConfigurationError, match="failure_threshold"):
            CircuitBreaker(wrong)
    for wrong in (-1, "60", None, float("nan"), float("inf"), True):
        with pytest.raises(ConfigurationError, match="timeout"):
            CircuitBreaker(timeout=wrong)
    with pytest.raises(ConfigurationError, match="with parentheses"):
        CircuitBreaker(print)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="clock"):
        CircuitBreaker(clock=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="decorates functions"):
        CircuitBreaker()(3)  # type: ignore[arg-type]
    with Registry():

        @action
        def known() -> None: ...

        dag = DAG("flow")
        for wrong in (known, dag.node(known._function)):
            with pytest.raises(ConfigurationError, match=r"below @dag\.node or @action"):
                CircuitBreaker()(wrong)


def test_it_has_no_part_in_the_version_of_an_action() -> None:
    with Registry():
        breaker = CircuitBreaker(1)

        def body() -> int:
            return 1

        before = action(breaker(body)).definition.code_version()
        breaker.record_failure()
        assert action(breaker(body), name="again").definition.code_version() == before


def test_calls_of_a_plain_wrapper_around_an_async_function_count_by_what_they_come_to() -> None:
    async def load(fails: bool) -> str:
        await asyncio.sleep(0)
        if fails:
            raise OSError("down")
        return "up"

    @functools.wraps(load)
    def logged(fails: bool) -> Any:
        return load(fails)

    breaker = CircuitBreaker(failure_threshold=2)
    guarded = breaker(logged)

    async def main() -> None:
        assert await guarded(False) == "up"
        for _ in range(2):
            with pytest.raises(OSError, match="down"):
                await guarded(True)
        with pytest.raises(CircuitBreakerOpenError):
            await guarded(False)

    asyncio.run(main())
    assert breaker.state == "open"
