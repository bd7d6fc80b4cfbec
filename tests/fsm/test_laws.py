"""Random machines with failures, retries and deaths go where a trivial model goes."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dagger_dsl.engine.machine import END, MachineState, Move
from dagger_dsl.engine.plan import UNSET, compile_plan
from dagger_dsl.engine.state import CANCELLED, COMPLETED, FAILED, PENDING, SKIPPED
from dagger_dsl.errors import MaxCyclesExceeded, NodeExecutionError
from dagger_dsl.fsm import FSM, FSMReturn
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.model.machine import Machine
from dagger_dsl.model.policies import OnFailure
from dagger_dsl.registry import Registry, as_registry
from tests.engine.helpers import IMMEDIATE
from tests.scale import count

NAMES = ("a", "b", "c", "d")
MODES = ("sequential", "parallel", "async")


@attrs.frozen
class Script:
    """What the call of each cycle does, whatever its state.

    Attributes:
        steps: By cycle, the next state, None to end.
        failures: By cycle, how many of its calls fail.
    """

    steps: tuple[str | None, ...]
    failures: tuple[int, ...]

    def path(self) -> list[str]:
        """Return the states, first to last, when every failure is got over."""
        found = ["a"]
        for target in self.steps:
            if target is None:
                break
            found.append(target)
        return found

    def stops(self, attempts: int) -> int:
        """Return how often a run of the machine stops, with so many calls a cycle between two."""
        return sum(failures // attempts for failures in self.failures)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    steps = draw(st.lists(st.sampled_from(NAMES), max_size=12))
    failures = draw(st.lists(st.integers(0, 3), min_size=len(steps) + 1, max_size=len(steps) + 1))
    return Script((*steps, None), tuple(failures))


def machine_of(script: Script, calls: list[tuple[str, int, int]], attempts: int) -> FSM:
    """Return a machine whose states do what the script says for their cycle."""
    fsm = FSM("law", registry=Registry())
    made: dict[int, int] = {}

    def body(ctx: NodeCtx, before: Any = None) -> FSMReturn:
        cycle = int(ctx.invocation_key)
        assert before == (None if cycle == 0 else cycle - 1)
        calls.append((ctx.node_id, cycle, ctx.attempt))
        made[cycle] = made.get(cycle, 0) + 1
        if made[cycle] <= script.failures[cycle]:
            raise ConnectionError(f"cycle {cycle}")
        target = script.steps[cycle]
        return FSMReturn(target, {"before": cycle}, stop=target is None)

    for name in NAMES:
        fsm.state(name=name, initial=name == "a", attempts=attempts)(body)
    return fsm


@settings(max_examples=count(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=scripts(), mode=st.sampled_from(MODES), attempts=st.integers(1, 4))
@example(Script(("d", "d", "c", "b", "a", "a", "c", None), (3,) * 8), "sequential", 1)
@example(Script((*"bcd" * 4, None), (3,) * 13), "async", 1)
@example(Script((*"aabb" * 3, None), (3,) * 13), "parallel", 2)
@pytest.mark.row("L13")
def test_a_machine_ends_where_the_model_does_however_often_it_is_resumed(
    script: Script, mode: str, attempts: int
) -> None:
    calls: list[tuple[str, int, int]] = []
    fsm = machine_of(script, calls, attempts)
    folder = Path(tempfile.mkdtemp())
    options: Any = {
        "database_url": f"sqlite:///{folder}/runs.db?synchronous=OFF",
        "mode": mode,
        "config": {"retry_strategy": IMMEDIATE},
    }
    path = script.path()
    stops = script.stops(attempts)
    value = None
    try:
        for number in range(stops + 1):
            try:
                value = fsm.resume("r", **options) if number else fsm.run(run_id="r", **options)
            except NodeExecutionError as error:
                assert fsm.state_history == path[: fsm.context.cycle_count]
                assert not fsm.is_terminated
                if number == stops:
                    pytest.fail(f"it should have stopped {stops} times, and did once more: {error}")
            else:
                assert number == stops, f"it ended after {number} of {stops} stops"
        assert value == {"before": len(path) - 1}
        assert fsm.state_history == path
        assert fsm.is_terminated
        for name in NAMES:
            cycles = [k for k, each in enumerate(path) if each == name]
            assert [each["before"] for each in fsm.results(name)] == cycles
            assert fsm.report.states()[name] == ("completed" if cycles else "skipped")
        # Every cycle is called once more than it fails, with rising numbers of attempts.
        expected = [
            (name, cycle, attempt + 1)
            for cycle, name in enumerate(path)
            for attempt in range(script.failures[cycle] + 1)
        ]
        assert calls == expected
    finally:
        shutil.rmtree(folder)


def state_of(limit: int, history: int | None = None) -> tuple[MachineState, list[Any]]:
    """Return the bare state of a machine of four states, and the values it looks at."""
    registry = as_registry({"f": lambda_f})
    graph = Graph("m", [Node(n, "f") for n in NAMES], machine=Machine("a", history_limit=history))
    plan = compile_plan(graph, registry.get).own()
    values: list[Any] = [UNSET] * plan.size
    return MachineState(plan, values, limit), values


def lambda_f(x: Any = None) -> Any:
    return x


@settings(max_examples=count(300), deadline=None)
@given(
    moves=st.lists(st.integers(-1, 3), max_size=30),
    limit=st.integers(1, 20),
    history=st.none() | st.integers(0, 4),
    cut=st.integers(0, 30),
    ending=st.sampled_from(("none", "fail", "pause", "cancel taken", "cancel ready")),
)
def test_the_bare_state_follows_the_model(
    moves: list[int], limit: int, history: int | None, cut: int, ending: str
) -> None:
    state, values = state_of(limit, history)
    state.begin()
    path, here, number = [0], 0, 0
    over = exceeded = False
    for target in moves[:cut]:
        assert state.take() == [here]
        assert state.taken() == {here}
        values[here] = Move(target, number)
        state.complete([here])
        if target == END:
            over = True
            break
        if len(path) == limit:
            exceeded = True
            break
        path.append(target)
        here, number = target, number + 1
    assert state.history.cycles == len(path)
    names = [NAMES[each] for each in path]
    assert state.history.names == (
        names if history is None else names[len(names) - min(len(names), history) :]
    )
    assert state.current == path[-1]
    assert state.is_terminated == over
    assert (state.obstacle() is not None) == exceeded
    assert isinstance(state.obstacle(), (MaxCyclesExceeded, type(None)))
    counts = {NAMES[k]: path.count(k) for k in range(4) if k in path}
    assert state.history.counts == counts
    code = None
    if not (over or exceeded):
        if ending in ("fail", "pause", "cancel taken"):
            state.take()
        if ending == "fail":
            state.fail(here, OnFailure.STOP)
            code = FAILED
        elif ending == "pause":
            state.fail(here, OnFailure.PAUSE)
            assert state.undecided
            code = FAILED
        elif ending == "cancel taken":
            state.cancel("enough")
            assert state.left
            state.cancel_running(here, "enough")
            code = CANCELLED
        elif ending == "cancel ready":
            state.cancel("enough")
            code = CANCELLED
    assert state.left == int(exceeded or not (over or code is not None))
    for slot in range(4):
        if slot not in path:
            alive = code is None and not (over or exceeded)
            expected = PENDING if alive or (ending == "pause" and code) else SKIPPED
        elif slot == here and not (over or exceeded):
            expected = PENDING if code is None else code
        else:
            expected = COMPLETED
        assert state.status(slot) == expected
    assert state.taken() == set()


def test_cycles_that_come_again_cost_no_more_the_more_there_are() -> None:
    again = 200_000
    state, values = state_of(again + 1)
    state.resume([], [], None, {(number, 0): 1 for number in range(again)})
    began = time.process_time()
    for number in range(again):
        (slot,) = state.take()
        assert slot == 0
        values[0] = Move(0, number)
        state.complete([0])
    assert time.process_time() - began < 8  # a second; what looks at all of them takes twenty
    assert state.cycle == again
    assert state.obstacle() is None
