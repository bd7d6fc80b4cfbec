"""State machines where they meet what else a run can do: every option, hooks, processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from dagger_dsl import DAG, DagExecutor, action
from dagger_dsl.engine.hooks import EventHook
from dagger_dsl.errors import (
    ConfigurationError,
    NodeExecutionError,
    NodeTimeout,
    OutputError,
    UnknownInputError,
    ValidationError,
)
from dagger_dsl.fsm import FSM, FSMContext, FSMReturn, Next
from dagger_dsl.model.events import NodePhase
from dagger_dsl.model.lifecycle import NodeHooks
from dagger_dsl.registry import Registry
from tests.fsm import states_elsewhere as elsewhere
from tests.runners.helpers import eventually

MODES = ("sequential", "parallel", "async")
every_mode = pytest.mark.parametrize("mode", MODES)


def rounds(last: int = 2, error: Exception | None = None) -> FSM:
    """Return a machine that goes to and fro, and may fail at its end."""
    fsm = FSM("rounds", registry=Registry())

    @fsm.state(initial=True)
    def tick(n: int = 0) -> FSMReturn:
        return Next("tock", n + 1) if n < last else Next("end", n)

    @fsm.state
    def tock(n: int) -> FSMReturn:
        return Next("tick", n)

    @fsm.state(terminal=True)
    def end(n: int) -> int:
        if error is not None:
            raise error
        return n

    return fsm


# --- parts ----------------------------------------------------------------------------------------


ENTRIES: dict[str, Callable[[FSM, dict[str, Any]], Any]] = {
    "run": lambda fsm, options: fsm.run(**options),
    "run_async": lambda fsm, options: asyncio.run(fsm.run_async(**options)),
    "start": lambda fsm, options: fsm.start(**options).result(),
    "executor": lambda fsm, options: DagExecutor().run(fsm, **options),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("options", [{"start_at": "tock"}, {"stop_at": "tock"}])
def test_a_machine_has_no_parts(entry: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="state machine, which has no parts"):
        ENTRIES[entry](rounds(), options)


# --- failures -------------------------------------------------------------------------------------


@every_mode
def test_a_machine_that_may_go_on_after_a_failure_ends_with_it_and_raises_nothing(
    mode: str,
) -> None:
    fsm = rounds(error=ZeroDivisionError("no"))
    assert fsm.run(mode=mode, error_strategy="continue") is None
    assert fsm.report.status == "failed"
    assert fsm.context.metadata["errors"][0]["node"] == "end"
    assert fsm.state_history == ["tick", "tock", "tick", "tock", "tick", "end"]


@every_mode
@pytest.mark.parametrize("answer", ["stop", "continue"])
def test_the_error_handler_is_asked_once_for_a_state(mode: str, answer: str) -> None:
    asked: list[Any] = []

    def handler(name: str, error: BaseException, context: Any) -> str:
        asked.append((name, type(error), type(context)))
        return answer

    fsm = rounds(error=ZeroDivisionError("no"))
    if answer == "continue":
        assert fsm.run(mode=mode, error_handler=handler) is None
    else:
        with pytest.raises(NodeExecutionError):
            fsm.run(mode=mode, error_handler=handler)
    assert asked == [("end", ZeroDivisionError, FSMContext)]


# --- hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [*MODES, "processes"])
def test_hooks_surround_each_call_of_a_state(mode: str) -> None:
    calls: list[tuple[str, str]] = []
    here: set[int] = set()

    def note(what: str) -> Callable[..., None]:
        def hook(node: Any, *_: Any) -> None:
            calls.append((what, node.id))
            here.add(os.getpid())

        return hook

    fsm = elsewhere.machine()
    hooks = NodeHooks(pre_execute=note("pre"), post_execute=note("post"), cleanup=note("cleanup"))
    fsm.registry.set_node_hooks(fsm.name, "first", hooks)
    seen = fsm.run(rounds=1, mode=mode)
    assert calls == [("pre", "first"), ("post", "first"), ("cleanup", "first")] * 2
    assert here == {os.getpid()}
    assert (os.getpid() in seen) is (mode != "processes")


@every_mode
def test_phases_of_states_are_shown(mode: str) -> None:
    class Phases(EventHook):
        def __init__(self) -> None:
            self.seen: list[tuple[str, str]] = []

        def on_phase(self, ctx: Any, event: NodePhase) -> None:
            self.seen.append((event.node.node_id, event.phase))

    phases = Phases()
    rounds(1).run(mode=mode, hooks=[phases])
    for each in ("pre_validation", "execution", "post_execution", "cleanup"):
        names = [name for name, phase in phases.seen if phase == each]
        assert names == ["tick", "tock", "tick", "end"]


@pytest.mark.row("M13")
@every_mode
def test_a_state_that_follows_itself_is_cleaned_up_after_in_each_cycle(mode: str) -> None:
    seen: list[tuple[str, int]] = []

    class Phases(EventHook):
        def on_phase(self, ctx: Any, event: NodePhase) -> None:
            if event.phase == "cleanup":
                seen.append((event.node.invocation_key, event.attempt))

    calls: list[int] = []
    fsm = FSM("again", registry=Registry())

    @fsm.state(initial=True, attempts=2, retry_delay=0)
    def again(n: int = 0) -> FSMReturn:
        calls.append(n)
        if n == 1 and calls.count(n) == 1:
            raise ValueError("once more")
        return FSMReturn("again", n + 1, stop=n == 3)

    fsm.run(mode=mode, hooks=[Phases()])
    assert seen == [("0", 1), ("1", 2), ("2", 1), ("3", 1)]


# --- what is measured -----------------------------------------------------------------------------


@every_mode
def test_a_machine_is_measured_as_any_run(mode: str) -> None:
    fsm = rounds()
    told: list[tuple[str, str]] = []
    fsm.run(
        mode=mode,
        profile=["tick"],
        track_memory=True,
        progress=lambda name, status, _: told.append((name, status)),
    )
    assert fsm.report.profile("tick").calls == 3
    assert set(fsm.context.metrics["node_times"]) == {"tick", "tock", "end"}
    assert fsm.context.metrics["memory_usage"]["peak_mb"] >= 0
    assert told[:2] == [("tick", "completed"), ("tock", "completed")]
    with pytest.raises(ConfigurationError, match="did you mean 'tick'"):
        rounds().run(profile=["tik"])


# --- what a state may be --------------------------------------------------------------------------


def test_states_keep_their_values() -> None:
    with pytest.raises(ConfigurationError, match="a state has no option 'keep'"):
        FSM("m", registry=Registry()).state(keep=False)


@every_mode
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_state_that_yields_fails_in_words(mode: str, is_async: bool, terminal: bool) -> None:
    fsm = FSM("m", registry=Registry())
    if is_async:

        @fsm.state(initial=True, terminal=terminal)
        async def only(n: int = 0) -> AsyncIterator[int]:
            yield n
    else:

        @fsm.state(initial=True, terminal=terminal)
        def only(n: int = 0) -> Iterator[int]:
            yield n

    with pytest.raises(NodeExecutionError, match=r"generator.*return list") as caught:
        fsm.run(mode=mode)
    assert isinstance(caught.value.__cause__, OutputError)


# --- processes ------------------------------------------------------------------------------------


def children() -> set[int]:
    """Return the living and the dead processes that this one has not reaped."""
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    return {int(line.split()[0]) for line in found.splitlines() if "ps -o" not in line}


@pytest.mark.parametrize("entry", ["run", "run_async", "start"])
def test_states_run_in_worker_processes(entry: str) -> None:
    before = children()
    fsm = elsewhere.machine()
    ENTRIES[entry](
        fsm,
        {"rounds": 1, "runner": "processes"}
        if entry != "start"
        else {"inputs": {"rounds": 1}, "runner": "processes"},
    )
    if entry != "start":
        seen = fsm["last"]
        assert len(seen) == 3
        assert os.getpid() not in seen
    eventually(lambda: children() <= before, "the processes end")


def test_a_state_that_overruns_its_limit_is_killed() -> None:
    before = children()
    fsm = elsewhere.machine(timeout=0.5)
    with pytest.raises(NodeExecutionError) as caught:
        fsm.run(rounds=-1, runner="processes")
    assert isinstance(caught.value.__cause__, NodeTimeout)
    assert fsm.report.abandoned == ()
    eventually(lambda: children() <= before, "the processes end")


def test_a_misspelt_option_is_no_data() -> None:
    with pytest.raises(UnknownInputError, match="did you mean 'error_handler'"):
        rounds().run(error_handlr=None)


@every_mode
def test_a_nested_machine_is_given_what_its_first_state_takes(mode: str) -> None:
    with Registry():
        begin, end = action(lambda: 4, name="begin"), action(lambda x: 10 * x, name="end")
        fsm = FSM("inside")

        @fsm.state(initial=True)
        def first(n: int, more: int = 1) -> FSMReturn:
            return Next("last", {"n": n + more})

        @fsm.state(terminal=True)
        def last(n: int) -> int:
            return n

        with DAG("outer") as dag:
            end(fsm(n=begin()))
        assert dag.run(mode=mode) == 50
        assert dag.run_from("inside", mode=mode) == 50
        assert dag.run_until("inside", mode=mode) == 5
        with pytest.raises(ValidationError, match="'inside' has no parameter 'm'"), DAG("wrong"):
            fsm(m=1)


# --- async state hooks and time limits ------------------------------------------------------------


@every_mode
@pytest.mark.parametrize("inside", [False, True])
def test_a_limit_leaves_a_sync_state_behind_whatever_its_state_hook_is(
    mode: str, inside: bool
) -> None:
    held, seen = threading.Event(), []
    fsm = FSM("held", registry=Registry())

    @fsm.state(initial=True, timeout=0.1)
    def hold() -> FSMReturn:
        held.wait(30)
        return Next("end", 1)

    @fsm.state(terminal=True)
    def end(n: int) -> int:
        return n

    @fsm.add_state_hook
    async def look(*args: Any) -> None:
        await asyncio.sleep(0)
        seen.append(args[1:])

    entry = ENTRIES["run_async" if inside else "run"]
    try:
        with pytest.raises(NodeExecutionError) as caught:
            entry(fsm, {"mode": mode})
        assert isinstance(caught.value.__cause__, NodeTimeout)
        assert fsm.report.abandoned == ("hold",)
    finally:
        held.set()
    assert seen == []


@every_mode
def test_sync_states_wait_for_an_async_hook_beside_the_loop(mode: str) -> None:
    loops: list[Any] = []
    threads: list[int] = []
    fsm = FSM("beside", registry=Registry())

    @fsm.state(initial=True)
    def tick(n: int) -> FSMReturn:
        threads.append(threading.get_ident())
        return Next("tick" if n < 3 else "end", n + 1)

    @fsm.state(terminal=True)
    def end(n: int) -> int:
        return n

    @fsm.add_state_hook
    async def look(*_: Any) -> None:
        await asyncio.sleep(0)
        loops.append((asyncio.get_running_loop(), threading.get_ident()))

    async def main() -> tuple[Any, Any]:
        return await fsm.run_async(n=0, mode=mode), asyncio.get_running_loop()

    result, loop = asyncio.run(main())
    assert result == 4
    assert {each for each, _ in loops} == {loop}
    assert not {thread for _, thread in loops} & set(threads)
