"""Many repetitions with tiny bodies, under a thread switch at nearly every bytecode.

What they look for: wake-ups and tokens that get lost (a run that never ends, or ends late), calls
that are made twice or by one worker too many, outcomes that nobody takes.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.control import CancelToken
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.runners.base import Board
from dagger_dsl.runners.threads import Crew
from tests.runners.helpers import RUNNERS, Flow, eventually, our_threads
from tests.scale import count

IMMEDIATE = RetryPolicy(base_delay=0.0, max_delay=0.0)
SOON = RetryPolicy(base_delay=0.0005, max_delay=0.0005)

runners = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture(params=[None, 1e-6], ids=["usual", "restless"])
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads take turns as usual, or a thousand times as often."""
    before = sys.getswitchinterval()
    if request.param is not None:
        sys.setswitchinterval(request.param)
    yield
    sys.setswitchinterval(before)


class Jumble:
    """A random graph of tiny bodies of every kind, which notes each call.

    Args:
        rng: What draws the graph.
        size: How many nodes.
        flaky: The share of nodes that fail once and are retried.
        broken: The share that always fail.
        timed: The share with a time limit that is kept.
    """

    def __init__(
        self,
        rng: random.Random,
        size: int,
        *,
        flaky: float = 0.0,
        broken: float = 0.0,
        timed: float = 0.2,
    ) -> None:
        self.flow = Flow("jumble")
        self.sources: dict[str, list[str]] = {}
        self.calls: Counter[str] = Counter()
        self.running = 0
        self.peak = 0
        self.flaky: set[str] = set()
        self.broken: set[str] = set()
        self._lock = threading.Lock()
        near = rng.choice((1, 3, 10, size))
        for n in range(size):
            node_id = f"n{n}"
            window = range(max(0, n - near), n)
            sources = rng.sample(window, min(len(window), rng.randrange(4)))
            self.sources[node_id] = [f"n{each}" for each in sources]
            draw = rng.random()
            if draw < flaky:
                self.flaky.add(node_id)
            elif draw < flaky + broken:
                self.broken.add(node_id)
            body: Any = rng.choice((self.quick, self.slow, self.quick_async, self.slow_async))
            self.flow.add(
                node_id,
                body,
                give={"name": node_id},
                after=self.sources[node_id],
                timeout=30.0 if rng.random() < timed else None,
                try_count=2 if node_id in self.flaky else None,
                retry=rng.choice((IMMEDIATE, SOON)),
            )

    def _enter(self, name: str) -> None:
        with self._lock:
            self.calls[name] += 1
            self.running += 1
            self.peak = max(self.peak, self.running)

    def _leave(self, name: str) -> str:
        with self._lock:
            self.running -= 1
            calls = self.calls[name]
        if name in self.broken or (name in self.flaky and calls == 1):
            raise ConnectionError(name)
        return name

    def quick(self, name: str) -> str:
        self._enter(name)
        return self._leave(name)

    def slow(self, name: str) -> str:
        self._enter(name)
        time.sleep(0.0001)
        return self._leave(name)

    async def quick_async(self, name: str) -> str:
        self._enter(name)
        return self._leave(name)

    async def slow_async(self, name: str) -> str:
        self._enter(name)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            with self._lock:
                self.running -= 1
            raise
        return self._leave(name)

    def spoilt(self) -> set[str]:
        """Return what cannot run because something before it always fails."""
        found: set[str] = set()
        for name, sources in self.sources.items():
            if any(each in self.broken or each in found for each in sources):
                found.add(name)
        return found


def _rounds(whole: int) -> range:
    return range(count(whole, least=12))


@pytest.mark.slow
@runners
def test_every_call_is_made_once(runner: str, switching: None, rng: random.Random) -> None:
    for _ in _rounds(400):
        slots = rng.randrange(1, 6)
        jumble = Jumble(rng, rng.randrange(1, 60))
        report = jumble.flow.run(runner, max_workers=slots)
        assert report.status is RunStatus.COMPLETED
        assert dict(report.values) == {name: name for name in jumble.sources}
        assert jumble.calls == Counter(list(jumble.sources))
        assert jumble.peak <= (1 if runner == "sequential" else slots)
    eventually(lambda: not our_threads(), "the threads end")


class Gate:
    """Lets nobody through before *width* calls are inside at the same time."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.inside = 0
        self.full = threading.Event()
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Count one more."""
        with self._lock:
            self.inside += 1
            if self.inside == self.width:
                self.full.set()


def _pass(gates: list[Gate], k: int) -> bool:
    gates[k].enter()
    return gates[k].full.wait(20)


async def _pass_async(gates: list[Gate], k: int) -> bool:
    gates[k].enter()
    for _ in range(20_000):
        if gates[k].full.is_set():
            return True
        await asyncio.sleep(0.001)
    return False


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_no_slot_sleeps_while_there_is_work(
    runner: str, switching: None, rng: random.Random
) -> None:
    """After any number of calls, each gate still finds as many callers as there are slots."""
    for _ in _rounds(200):
        slots = rng.randrange(2, 6)
        gates: list[Gate] = []

        def through(k: int, gates: list[Gate] = gates) -> bool:
            return _pass(gates, k)

        async def through_async(k: int, gates: list[Gate] = gates) -> bool:
            return await _pass_async(gates, k)

        def quick(k: int) -> bool:
            return True

        async def quick_async(k: int) -> bool:
            return True

        flow = Flow()
        before: list[str] = []
        for phase in range(rng.randrange(1, 6)):
            gates.append(Gate(slots))
            layer = []
            for n in range(rng.randrange(0, 8)):
                layer.append(f"quick{phase}_{n}")
                body: Any = rng.choice((quick, quick_async))
                limit = rng.choice((None, 30.0))
                flow.add(layer[-1], body, give={"k": phase}, after=before, timeout=limit)
            before = layer or before
            layer = []
            for n in range(slots):
                layer.append(f"gate{phase}_{n}")
                body = rng.choice((through, through_async))
                limit = rng.choice((None, 30.0))
                flow.add(layer[-1], body, give={"k": phase}, after=before, timeout=limit)
            before = layer
        report = flow.run(runner, max_workers=slots)
        assert all(value is True for value in report.values.values())


@pytest.mark.slow
@runners
def test_failures_and_retries_are_counted_exactly(
    runner: str, switching: None, rng: random.Random
) -> None:
    for _ in _rounds(300):
        jumble = Jumble(rng, rng.randrange(1, 50), flaky=0.2, broken=0.1)
        slots = rng.randrange(1, 6)
        report = jumble.flow.run(runner, max_workers=slots, config={"on_failure": "continue"})
        spoilt = jumble.spoilt()
        expected = Counter(name for name in jumble.sources if name not in spoilt)
        expected.update(name for name in jumble.flaky if name not in spoilt)
        assert jumble.calls == expected
        states = report.states()
        for name in jumble.sources:
            wanted = NodeState.COMPLETED
            if name in spoilt:
                wanted = NodeState.SKIPPED
            elif name in jumble.broken:
                wanted = NodeState.FAILED
            assert states[name] is wanted, name


@pytest.mark.slow
@runners
def test_a_run_that_is_stopped_at_any_moment_ends(
    runner: str, switching: None, rng: random.Random
) -> None:
    for _ in _rounds(300):
        jumble = Jumble(rng, 60, flaky=0.1, timed=0.3)
        token = CancelToken()
        at = rng.randrange(1, 80)
        seen = [0]

        def count_down(
            _node: str,
            _status: str,
            _done: float,
            seen: list[int] = seen,
            at: int = at,
            token: CancelToken = token,
        ) -> None:
            seen[0] += 1
            if seen[0] == at:
                token.cancel("now")

        started = time.monotonic()
        if rng.random() < 0.5:  # from inside the run, or from another thread at any time
            options: dict[str, Any] = {"progress": count_down}
        else:
            options = {}
            threading.Timer(rng.random() * 0.01, token.cancel).start()
        report = jumble.flow.run(
            runner, max_workers=rng.randrange(1, 5), cancel=token, config=None, **options
        )
        assert time.monotonic() - started < 10
        states = report.states()
        assert report.status in (RunStatus.CANCELLED, RunStatus.COMPLETED)
        done = {name for name, state in states.items() if state is NodeState.COMPLETED}
        for name in done:
            assert set(jumble.sources[name]) <= done
        assert not {NodeState.PENDING, NodeState.RUNNING, NodeState.WAITING} & set(states.values())
        if report.status is RunStatus.COMPLETED:
            assert len(done) == 60
        assert jumble.running == 0
        assert max(jumble.calls.values(), default=0) <= 2
    eventually(lambda: not our_threads(), "the threads end")


@pytest.mark.slow
@runners
def test_a_failure_at_any_moment_stops_the_rest(
    runner: str, switching: None, rng: random.Random
) -> None:
    for _ in _rounds(300):
        jumble = Jumble(rng, 60, broken=0.03)
        report = jumble.flow.run(runner, max_workers=rng.randrange(1, 5))
        states = report.states()
        assert report.status is (RunStatus.FAILED if jumble.broken else RunStatus.COMPLETED)
        done = {name for name, state in states.items() if state is NodeState.COMPLETED}
        for name in done:
            assert set(jumble.sources[name]) <= done
        # What was called has ended, and what has ended by itself was called.
        ended = {
            name
            for name, state in states.items()
            if state in (NodeState.COMPLETED, NodeState.FAILED)
        }
        assert ended <= set(jumble.calls)
        assert not {NodeState.PENDING, NodeState.RUNNING, NodeState.WAITING} & set(states.values())


def test_many_runs_share_one_loop(switching: None, rng: random.Random) -> None:
    async def main() -> None:
        for _ in _rounds(60):
            jumbles = [Jumble(rng, 30, flaky=0.1) for _ in range(5)]
            reports = await asyncio.gather(
                *(
                    engine.run_async(
                        each.flow.graph(),
                        each.flow.registry,
                        None,
                        RunOptions(runner=rng.choice(RUNNERS), max_workers=rng.randrange(1, 5)),
                    )
                    for each in jumbles
                )
            )
            for jumble, report in zip(jumbles, reports, strict=True):
                assert dict(report.values) == {name: name for name in jumble.sources}
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_awaiting_tasks_may_be_cancelled_at_any_moment(switching: None, rng: random.Random) -> None:
    async def main() -> None:
        for _ in _rounds(200):
            jumble = Jumble(rng, 40, timed=0.3)
            options = RunOptions(runner=rng.choice(RUNNERS), max_workers=rng.randrange(1, 5))
            task = asyncio.ensure_future(
                engine.run_async(jumble.flow.graph(), jumble.flow.registry, None, options)
            )
            await asyncio.sleep(rng.random() * 0.01)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=20)
            assert done
            if not task.cancelled():
                assert task.result().success
            assert jumble.running == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    eventually(lambda: not our_threads(), "the threads end")


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_overruns_do_not_cost_slots(runner: str, switching: None, rng: random.Random) -> None:
    """Abandoned workers are replaced, never twice; the late ones leave without a trace."""
    free = threading.Event()

    def stuck() -> None:
        free.wait(20)

    for _ in _rounds(60):
        slots = rng.randrange(1, 4)
        jumble = Jumble(rng, 20)
        for n in range(rng.randrange(1, 6)):
            jumble.flow.add(f"stuck{n}", stuck, timeout=0.002 + rng.random() * 0.003)
        rng.shuffle(jumble.flow.nodes)
        report = jumble.flow.run(runner, max_workers=slots, config={"on_failure": "continue"})
        assert report.completed_nodes == 20
        assert jumble.calls == Counter(list(jumble.sources))
        assert jumble.peak <= slots
    free.set()
    eventually(lambda: not our_threads(), "the threads end")


def test_configured_slots_are_kept_by_runs_that_share_a_graph(rng: random.Random) -> None:
    jumble = Jumble(rng, 40)
    graph = jumble.flow.graph()
    handles = [
        engine.start(
            graph,
            jumble.flow.registry,
            None,
            RunOptions(runner=rng.choice(RUNNERS), config=DagConfig(max_parallel_nodes=2)),
        )
        for _ in range(8)
    ]
    for handle in handles:
        assert handle.result(60).success
    assert jumble.calls == Counter(dict.fromkeys(jumble.sources, 8))
    assert jumble.peak <= 16


def test_a_driver_leaves_those_alone_who_step() -> None:
    """The time that their last step gave may be past; to ask again at once would be a spin."""
    board = Board(
        calls=[], bindings=[], kinds=bytearray(), limits={}, values=[], slots=1, clock=lambda: 5.0
    )
    crew = Crew(board, lambda: None)
    board.wake_at = 3.0
    assert crew.set_alarm(inf) == 3.0
    with board.lock:
        assert 5.0 < crew.set_alarm(inf) < 5.1
        assert crew.set_alarm(4.0) == 4.0
        board.wake_at = 9.0
        assert crew.set_alarm(inf) == 9.0
    assert crew.alarm == 9.0


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
@pytest.mark.parametrize("is_async", [False, True])
def test_the_driver_sleeps_while_calls_run_and_timers_wait(
    runner: str, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sets its own alarm; being rung by its own steps it used up a processor."""
    steps: list[float] = []
    step = Crew.step

    def counted(self: Crew, now: float, *, driving: bool = False) -> bool:
        if driving:
            steps.append(now)
        return step(self, now, driving=driving)

    monkeypatch.setattr(Crew, "step", counted)

    async def rest() -> None:
        await asyncio.sleep(0.3)

    flow = Flow().add("nap", rest if is_async else lambda: time.sleep(0.3))
    options = RunOptions(runner=runner, timeout=60)
    assert engine.run(flow.graph(), flow.registry, options=options).success
    assert len(steps) < 30
