"""A machine in a database: each cycle is a row, and whoever resumes goes on in the same state."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.errors import (
    InvalidState,
    MaxCyclesExceeded,
    NodeExecutionError,
    NotExecuted,
    RunPaused,
    TransitionRejected,
)
from dagger_dsl.executor import DagExecutor
from dagger_dsl.fsm import FSM, FSMReturn, Next
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from dagger_dsl.views.stored import stored_report
from tests.fsm import reference
from tests.scale import count

MODES = ("sequential", "parallel", "async")
#: The children import what the tests import.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
LEVELS = ("sync", "async", "exit")


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'runs.db'}"


def shaky(trouble: set[int], **options: Any) -> FSM:
    """Return a machine that counts to 6 and fails where *trouble* says, once each time."""
    fsm = FSM("count", registry=Registry(), **options)

    @fsm.state(initial=True)
    def one(n: int) -> FSMReturn:
        return Next("two", n + 1)

    @fsm.state
    def two(n: int) -> FSMReturn:
        if n in trouble:
            trouble.discard(n)
            raise ValueError(f"trouble at {n}")
        return Next("one" if n < 6 else "end", n + 1)

    @fsm.state(terminal=True)
    def end(n: int) -> int:
        return n

    return fsm


WHOLE = ["one", "two"] * 4 + ["end"]


@pytest.mark.row("L13")
@pytest.mark.parametrize("durability", LEVELS)
@pytest.mark.parametrize("mode", MODES)
def test_a_failed_machine_goes_on_in_its_state_with_its_history(
    tmp_path: Path, mode: str, durability: str
) -> None:
    options: Any = {"database_url": url_of(tmp_path), "mode": mode, "durability": durability}
    trouble = {3, 5}
    fsm = shaky(trouble)
    with pytest.raises(NodeExecutionError, match="trouble at 3"):
        fsm.run(n=0, run_id="r", **options)
    assert fsm.state_history == ["one", "two", "one", "two"]
    other = shaky(trouble)
    with pytest.raises(NodeExecutionError, match="trouble at 5"):
        other.resume("r", **options)
    assert other.state_history == ["one", "two"] * 3
    assert other.results("two") == [2, 4]
    assert fsm.resume("r", **options) == 8
    assert fsm.state_history == WHOLE
    assert (fsm["two.0"], fsm["two"], fsm["one.3"]) == (2, 8, 7)
    again = shaky(set())
    assert again.resume("r", **options) == 8
    assert again.state_history == WHOLE
    assert again.is_terminated
    with Store(url_of(tmp_path)) as store:
        rows = [
            (each.key, each.node_id, each.state, each.attempt)
            for each in store.load_run("r").attempts
            if each.attempt
        ]
    done = [(key, node) for key, node, state, _ in rows if state == "completed"]
    assert done == [(str(k), name) for k, name in enumerate(WHOLE)]
    assert [row for row in rows if row[2] == "failed"] == [
        ("3", "two", "failed", 1),
        ("5", "two", "failed", 1),
    ]
    assert [row[3] for row in rows if row[:3] == ("3", "two", "completed")] == [2]


@pytest.mark.row("L4")
def test_too_many_cycles_can_be_resumed_with_a_larger_limit(tmp_path: Path) -> None:
    fsm = shaky(set())
    url = url_of(tmp_path)
    with pytest.raises(MaxCyclesExceeded):
        fsm.run(n=0, run_id="r", database_url=url, max_cycles=4)
    with pytest.raises(MaxCyclesExceeded) as caught:  # the limit is recorded with the run
        shaky(set()).resume("r", database_url=url)
    assert caught.value.history == ("one", "two", "one", "two")
    assert fsm.resume("r", database_url=url, max_cycles=9) == 8
    assert fsm.state_history == WHOLE


def test_a_redirect_is_recorded_and_not_decided_again(tmp_path: Path) -> None:
    fsm = shaky({3})
    asked: list[str] = []

    @fsm.add_state_hook
    def skip(_fsm: FSM, left: str, entered: str, result: Any) -> str | None:
        asked.append(left)
        return "two" if left == "two" else None

    with pytest.raises(NodeExecutionError, match="trouble at 3"):
        fsm.run(n=0, run_id="r", database_url=url_of(tmp_path))
    assert fsm.state_history == ["one", "two", "two", "two"]
    before, history = len(asked), fsm.state_history
    with pytest.raises(MaxCyclesExceeded):
        fsm.resume("r", database_url=url_of(tmp_path), max_cycles=len(history) + 2)
    assert fsm.state_history[: len(history)] == history
    assert len(asked) == before + 3


def test_a_refusal_is_not_recorded_as_a_result(tmp_path: Path) -> None:
    fsm = shaky(set())
    refuse = [True]

    @fsm.add_state_hook
    def guard(_fsm: FSM, left: str, entered: str, result: int) -> None:
        if refuse[0] and result == 3:
            raise TransitionRejected("not now")

    with pytest.raises(NodeExecutionError, match="not now"):
        fsm.run(n=0, run_id="r", database_url=url_of(tmp_path))
    assert fsm.results("one") == [1]
    assert fsm.current_state == "one"
    refuse[0] = False
    assert fsm.resume("r", database_url=url_of(tmp_path)) == 8
    assert fsm.state_history == WHOLE


@pytest.mark.parametrize("mode", MODES)
def test_a_paused_machine_goes_on(tmp_path: Path, mode: str) -> None:
    fsm = FSM("walk", registry=Registry(), max_cycles=10**6)
    done = [False]

    @fsm.state(initial=True)
    def step(n: int) -> FSMReturn:
        time.sleep(0.001)
        return FSMReturn("step", n + 1, stop=done[0])

    handle = fsm.start(n=0, run_id="r", database_url=url_of(tmp_path), mode=mode)
    while fsm.context.cycle_count < 5:
        time.sleep(0.001)
    handle.pause("look")
    report = handle.result()
    assert report.status == "paused"
    with pytest.raises(RunPaused):
        report.raise_for_failure()
    before = fsm.state_history
    done[0] = True
    assert fsm.resume("r", database_url=url_of(tmp_path)) == len(before)
    assert len(fsm.state_history) in (len(before), len(before) + 1)


def test_a_question_to_a_person_is_answered_into_its_state(tmp_path: Path) -> None:
    fsm = FSM("ask", registry=Registry())

    @fsm.state(initial=True)
    def begin() -> FSMReturn:
        return Next("ask")

    @fsm.state(transitions=["end"])
    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("how many?", int)

    @fsm.state(terminal=True)
    def end(n: int) -> int:
        return n + 1

    url = url_of(tmp_path)
    with pytest.raises(RunPaused, match="how many"):
        fsm.run(run_id="r", database_url=url)
    assert fsm.current_state == "ask"
    with DagExecutor(database_url=url, registry=fsm.registry) as executor:
        executor.submit_human_input("r", "ask", 4)
    assert fsm.resume("r", database_url=url) == 5
    assert fsm.state_history == ["begin", "ask", "end"]


def test_a_value_that_is_not_stored_is_made_again(tmp_path: Path) -> None:
    fsm = FSM("big", registry=Registry())
    calls: Counter[str] = Counter()
    trouble = [True]

    @fsm.state(initial=True)
    def begin() -> FSMReturn:
        calls["begin"] += 1
        return Next("load", 3)

    @fsm.state(store=False)
    def load(n: int) -> FSMReturn:
        calls["load"] += 1
        return Next("use", object() if n == 3 else None)

    @fsm.state(terminal=True)
    def use(thing: Any) -> str:
        if trouble.pop():
            raise ValueError("no")
        return type(thing).__name__

    url = url_of(tmp_path)
    with pytest.raises(NodeExecutionError):
        fsm.run(run_id="r", database_url=url)
    trouble[:] = [False]
    assert fsm.resume("r", database_url=url) == "object"
    assert fsm.state_history == ["begin", "load", "use"]
    assert calls == {"begin": 1, "load": 2}


def test_an_executor_runs_shows_and_resumes_a_machine_by_its_graph(tmp_path: Path) -> None:
    fsm = shaky({3})
    with DagExecutor(database_url=url_of(tmp_path), registry=fsm.registry) as executor:
        executor.load(fsm)
        report = executor.run("count", {"n": 0}, run_id="r")
        assert report.status == "failed"
        assert report.state_history == ["one", "two", "one", "two"]
        assert "two" in report.explain("two")
        assert "never entered" in report.explain("end")
        resumed = executor.resume("r")
    assert resumed.status == "completed"
    assert resumed.state_history == WHOLE
    assert resumed.outputs == {"end": 8}


def test_metadata_and_recoveries_come_back_with_a_resume(tmp_path: Path) -> None:
    fsm = FSM("meta", registry=Registry())
    trouble = [True]

    @fsm.state(initial=True)
    def first() -> NodeOutput:
        return NodeOutput(Next("second", 1), metadata={"when": (1, 2)})

    def instead(error: Exception) -> FSMReturn:
        return Next("third", 2)

    @fsm.state(failure=instead)
    def second(n: int) -> FSMReturn:
        raise ValueError("no")

    @fsm.state(terminal=True)
    def third(n: int) -> int:
        if trouble.pop():
            raise ValueError("not yet")
        return n

    url = url_of(tmp_path)
    with pytest.raises(NodeExecutionError, match="not yet"):
        fsm.run(run_id="r", database_url=url)
    trouble.append(False)
    assert fsm.resume("r", database_url=url) == 2
    reports = fsm.report.node_reports
    assert reports["first"].metadata == {"when": (1, 2)}
    assert reports["second"].recovered
    assert reports["first"].restored
    assert reports["third"].attempts == 2


def test_a_recorded_run_is_shown_without_its_actions(tmp_path: Path) -> None:
    fsm = shaky({3})
    with pytest.raises(NodeExecutionError):
        fsm.run(n=0, run_id="r", database_url=url_of(tmp_path))
    with Store(url_of(tmp_path)) as store:
        failed = stored_report(store.load_run("r"))
    assert failed.state_history == ["one", "two", "one", "two"]
    assert failed.states() == {"one": "completed", "two": "failed", "end": "skipped"}
    assert failed.outputs == {}
    fsm.resume("r", database_url=url_of(tmp_path))
    with Store(url_of(tmp_path)) as store:
        done = stored_report(store.load_run("r"))
        assert done.state_history == WHOLE
        assert done.outputs == {"end": 8}
        history = done.history
        assert history is not None
        assert history.is_terminated
        assert history.counts == {"one": 4, "two": 4, "end": 1}
        assert (history.results("two"), history.latest("one")) == ([2, 4, 6, 8], 7)
        assert list(done.invocations("one")) == ["0", "2", "4", "6"]
        assert "two, completed, 4x" in done.to_mermaid()


def test_a_record_that_was_changed_from_outside_is_refused(tmp_path: Path) -> None:
    fsm = shaky({3})
    with pytest.raises(NodeExecutionError):
        fsm.run(n=0, run_id="r", database_url=url_of(tmp_path))
    database = sqlite3.connect(tmp_path / "runs.db")
    with database:
        database.execute("DELETE FROM node_runs WHERE invocation_key = '0'")
    database.close()
    with pytest.raises(InvalidState, match="changed from outside"):
        fsm.resume("r", database_url=url_of(tmp_path))


@pytest.mark.row("L13")
@pytest.mark.slow
@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
def test_killed_at_random_moments_it_goes_on_where_it_was(
    tmp_path: Path, mode: str, durability: str, rng: random.Random
) -> None:
    calls = tmp_path / "calls"
    url = url_of(tmp_path)

    def child(what: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, reference.__file__, url, mode, durability, what],
            # It is us who kill, no state does.
            env={**ENVIRONMENT, "FSM_CALLS": str(calls), "DAGGER_DSL_MAX_CRASHES": "9"},
        )

    what, kills = "run", 0
    for _ in range(count(4)):
        process = child(what)
        before = calls.read_text().count("\n") if calls.exists() else 0
        wanted = before + rng.randint(1, 20)
        while process.poll() is None:
            now = calls.read_text().count("\n") if calls.exists() else 0
            if now >= wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        process.wait()
        what = "resume"
    assert child("resume").wait() == 0
    assert kills
    expected = reference.path()
    fsm = reference.fsm
    assert fsm.resume("walk", database_url=url) == expected[-1][1]
    assert fsm.state_history == [state for state, _ in expected]
    made: dict[int, set[tuple[str, int]]] = {}
    for line in calls.read_text().splitlines():
        key, state, n = line.split()
        made.setdefault(int(key), set()).add((state, int(n)))
    # However often it was called: a cycle is always the same state with the same value.
    assert made == {number: {each} for number, each in enumerate(expected)}
    if durability == "sync":
        repeated = len(calls.read_text().splitlines()) - len(expected)
        assert 0 <= repeated <= kills * 3


DEADLY = """
import os, sys
from dagger_dsl.fsm import FSM, Next
from dagger_dsl.registry import Registry

fsm = FSM("boom", registry=Registry())


@fsm.state(initial=True)
def a(n: int = 0):
    if n == 4:
        os._exit(9)
    return Next("b", n + 1)


@fsm.state
def b(n):
    return Next("a", n + 1)


if sys.argv[2] == "run":
    fsm.run(run_id="r", database_url=sys.argv[1])
else:
    try:
        fsm.resume("r", database_url=sys.argv[1])
    except Exception as error:
        print(type(error.__cause__).__name__, *fsm.state_history)
"""


@pytest.mark.slow
def test_a_state_that_kills_its_process_is_given_up_in_its_cycle(tmp_path: Path) -> None:
    script = tmp_path / "deadly.py"
    script.write_text(DEADLY)

    def child(what: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), url_of(tmp_path), what]
        return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)

    # The state has completed twice before: only the cycle that dies is counted.
    assert [child(what).returncode for what in ("run", "resume", "resume")] == [9, 9, 9]
    last = child("resume")
    assert (last.returncode, last.stdout.split()) == (0, ["NodeCrashed", *"ababa"])


def test_a_result_that_was_not_stored_is_said_to_be_gone_after_a_resume(tmp_path: Path) -> None:
    def made() -> FSM:
        fsm = FSM("lost", registry=Registry())

        @fsm.state(initial=True, store=False)
        def first() -> FSMReturn:
            return Next("end", 5)

        @fsm.state(terminal=True)
        def end(n: int) -> int:
            return n

        return fsm

    url = url_of(tmp_path)
    made().run(run_id="r", database_url=url)
    fsm = made()
    assert fsm.resume("r", database_url=url) == 5
    assert fsm["end.0"] == 5
    asked: list[Callable[[], Any]] = [
        lambda: fsm["first"],
        lambda: fsm["first.0"],
        lambda: fsm.results("first"),
        lambda: fsm.context.results["first"],
        lambda: fsm.report.value("first"),
    ]
    for ask in asked:
        with pytest.raises(NotExecuted, match=r"'first'.*store=False"):
            ask()
    assert fsm.get_result("first", 0) == fsm.get_result("first.0", 0) == 0
    assert dict(fsm.context.results) == {"end": 5}
    assert dict(fsm.report.values) == {"end": 5}
    with Store(url) as store:
        history = stored_report(store.load_run("r")).history
    assert history is not None
    assert history.kept("first") == history.kept("end") == 1
    assert history.result("end", 0) == 5
    with pytest.raises(NotExecuted, match="store=False"):
        history.result("first", 0)


def test_a_completed_machine_whose_value_was_not_stored_has_none_to_resume_for(
    tmp_path: Path,
) -> None:
    fsm, url = FSM("lost", registry=Registry()), url_of(tmp_path)

    @fsm.state(initial=True, terminal=True, store=False)
    def only() -> int:
        return 5

    assert fsm.run(run_id="r", database_url=url) == 5
    with pytest.raises(NotExecuted, match=r"'only'.*store=False"):
        fsm.resume("r", database_url=url)
    assert fsm.report.status == "completed"


def test_the_time_of_an_answered_question_ends_no_later_one() -> None:
    machine = FSM("asking", registry=Registry(), max_cycles=5)
    said: list[Any] = []

    @machine.state(initial=True, transitions=["note"])
    def ask(n: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("?", str, default=f"time {n}", timeout=0.4 if n == 0 else 60)

    @machine.state
    def note(answer: str) -> FSMReturn:
        said.append(answer)
        return FSMReturn("ask", len(said)) if len(said) < 2 else FSMReturn(stop=True)

    handle = machine.start({"n": 0})
    for number in range(2):
        deadline = time.monotonic() + 20
        while len(said) < number or not handle.questions():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        if number:
            time.sleep(0.6)  # the time of the first question is over
        handle.answer("ask", f"person {number}")
    handle.result(20)
    assert said == ["person 0", "person 1"]
