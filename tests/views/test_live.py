"""Live displays: what they show of a run, under every runner, and that no run depends on them."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import attrs
import pytest
from rich.console import Console

from dagger_dsl import DAG, Registry, action
from dagger_dsl.engine.pulse import Doing, EndedNode, Pulse, Watch
from dagger_dsl.errors import ConfigurationError, MaxCyclesExceeded
from dagger_dsl.fsm import FSM, FSMReturn
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.policies import RetryPolicy
from dagger_dsl.store.storage import Store
from dagger_dsl.views import live
from dagger_dsl.views.live import Lines, LiveDisplay, Pace, live_display, summary
from dagger_dsl.views.live_bar import BarFront
from dagger_dsl.views.live_frame import frame
from tests.engine import elsewhere
from tests.engine.helpers import RUNNERS, Workflow

every_runner = pytest.mark.parametrize("runner", RUNNERS)

BEGIN = Pulse(
    name="flow",
    run_id="r",
    status="running",
    reason="",
    elapsed=4.0,
    done=3,
    total=10,
    fraction=0.3,
    calls=3,
    failed=0,
    running=(),
    waiting=(),
    asking=(),
    failures=(),
    ended=(),
    left=7,
    mark=0,
)


def pulse(**fields: Any) -> Pulse:
    """Return a pulse of a run of ten nodes."""
    return attrs.evolve(BEGIN, **fields)


class Looks:
    """A display that looks when bodies ask it to."""

    def __init__(self, named: int = 200) -> None:
        self.named = named
        self.pulses: list[Pulse] = []
        self.closed = 0
        self._watch: Watch | None = None

    def begin(self, run: Any) -> None:
        self._watch = Watch(run)

    def look(self) -> Pulse:
        """Take the pulse now."""
        assert self._watch is not None
        self.pulses.append(self._watch.take(self.named))
        return self.pulses[-1]

    def close(self) -> None:
        self.closed += 1
        self.look()


# --- the pulse ------------------------------------------------------------------------------------


@pytest.mark.row("M10")
@every_runner
def test_a_pulse_says_what_runs_what_has_ended_and_how_much_is_done(runner: str) -> None:
    looks = Looks()
    flow = Workflow().note("a").add("b", lambda **_: looks.look() and 1, after=["a"])
    flow.note("c", after=["b"])
    assert flow.run(runner, progress=looks).success
    middle, last = looks.pulses
    assert (middle.status, middle.done, middle.total) == ("running", 1, 3)
    assert middle.fraction == pytest.approx(1 / 3)
    assert [each.name for each in middle.running] == ["b"]
    assert middle.running[0].seconds is not None
    assert [(each.name, each.state) for each in middle.ended] == [("a", "completed")]
    assert (last.status, last.done, last.fraction, last.running) == ("completed", 3, 1.0, ())
    assert [each.name for each in last.ended] == ["b", "c"]
    assert looks.closed == 1


@every_runner
def test_a_pulse_has_retries_with_their_time_and_failures_with_their_first_line(
    runner: str,
) -> None:
    looks, seen = Looks(), threading.Event()
    registry, calls = Registry(), []

    def flaky() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("no route\nat all")
        return 1

    with DAG("flow", registry=registry) as dag:
        policy = RetryPolicy(max_attempts=3, base_delay=1.0)
        action(flaky, registry=registry, retry=policy, name="flaky")()
    handle = dag.start(progress=looks, runner=runner)
    deadline = time.monotonic() + 20
    while not handle.done and time.monotonic() < deadline and not seen.is_set():
        found = looks.look() if looks._watch is not None else BEGIN
        if found.waiting:
            seen.set()
            assert found.waiting[0].name == "flaky"
            assert found.waiting[0].text == "attempt 2 of 3: ConnectionError: no route"
            assert found.waiting[0].seconds is not None
            assert 0.0 <= found.waiting[0].seconds <= 1.01
    assert seen.is_set()
    assert handle.result(20).success
    assert looks.pulses[-1].waiting == ()


@every_runner
def test_failures_stay_in_the_pulse(runner: str) -> None:
    looks = Looks()
    flow = Workflow().note("bad", ValueError("boom\nsecond"), on_failure="continue")
    flow.note("good")
    assert flow.run(runner, progress=looks).status == "failed"
    last = looks.pulses[-1]
    assert last.failures == (Doing("bad", None, "ValueError: boom"),)
    assert last.failed == 1
    texts = {each.name: each.text for each in last.ended}
    assert texts == {"bad": "ValueError: boom", "good": ""}


@every_runner
def test_a_map_is_one_line_with_counts(runner: str) -> None:
    looks = Looks()
    registry = Registry()

    def work(item: int) -> int:
        if item == 7:
            looks.look()
        return item

    with DAG("mapped", registry=registry) as dag:
        action(work, registry=registry).map(list(range(10)))
    dag.run(progress=looks, runner=runner, max_workers=1)
    middle, last = looks.pulses
    (line,) = middle.running
    assert line.name == "work"
    assert line.part is not None
    assert line.part[1] == 10
    assert (middle.done, middle.total) == (0, 1)
    assert 0.0 <= (middle.fraction or 0.0) < 1.0
    assert (last.done, last.fraction) == (1, 1.0)
    assert [each.name for each in last.ended] == ["work"]


@every_runner
def test_a_nested_run_is_shown_by_its_counts(runner: str) -> None:
    looks, registry = Looks(), Registry()
    with DAG("inner", registry=registry) as inner:
        first = action(lambda: 1, registry=registry, name="first")()
        last = action(lambda x: looks.look() and x, registry=registry, name="last")
        last(first)
    with DAG("outer", registry=registry) as outer:
        inner()
    outer.run(progress=looks, runner=runner)
    middle = looks.pulses[0]
    assert [(each.name, each.part) for each in middle.running] == [("inner", (1, 2))]
    assert len(looks.pulses) == 2, "the run inside has no display of its own"


@pytest.mark.row("M11")
@every_runner
def test_what_nodes_report_of_themselves_is_shown(runner: str) -> None:
    looks = Looks()

    def load(ctx: NodeCtx) -> None:
        ctx.progress(1, 4, "item 1")
        looks.look()

    flow = Workflow().add("load", load).note("next", after=["load"])
    assert flow.run(runner, progress=looks).success
    assert looks.pulses[0].running[0].text == "25%  item 1"
    assert looks.pulses[0].fraction == pytest.approx(0.125)


@every_runner
def test_a_machine_has_cycles_and_no_fraction(runner: str) -> None:
    looks, machine = Looks(), FSM("m", registry=Registry())

    @machine.state(initial=True)
    def step(n: int = 0) -> FSMReturn:
        if n == 3:
            looks.look()
        return FSMReturn(next_state="step", value=n + 1) if n < 4 else FSMReturn(value=n, stop=True)

    machine.run(progress=looks, runner=runner)
    middle, last = looks.pulses
    assert (middle.done, middle.total, middle.fraction) == (3, None, None)
    assert [each.name for each in middle.ended] == ["step"] * 3
    assert last.done == 5


@every_runner
def test_a_paused_run_says_why(runner: str) -> None:
    looks = Looks()
    flow = Workflow().add("ask", lambda ctx: ctx.wait_for_human("Shall I?"))
    assert flow.run(runner, progress=looks).status == "paused"
    last = looks.pulses[-1]
    assert (last.status, last.asking) == ("paused", (Doing("ask", None, "Shall I?"),))
    assert "Shall I?" in summary(last)


def test_of_a_large_run_only_failures_and_the_last_node_are_named() -> None:
    looks = Looks(named=10)
    flow = Workflow()
    for number in range(30):
        answer = ValueError("x") if number == 4 else None
        flow.note(f"n{number}", answer, on_failure="continue")
    flow.run(progress=looks)
    assert {each.name for each in looks.pulses[-1].ended} == {"n4", "n29"}


# --- lines ----------------------------------------------------------------------------------------


def lines_of(*pulses: Pulse) -> list[str]:
    """Return what is said of pulses, the last one being the end."""
    said: list[str] = []
    front = Lines(said.append)
    for each in pulses[:-1]:
        front.draw(each)
    front.finish(pulses[-1])
    return said


def test_small_runs_have_a_line_for_each_node() -> None:
    ended = (EndedNode("a", "completed", 0.5), EndedNode("b", "failed", 0.001, "ValueError: x"))
    over = pulse(done=2, total=2, ended=(), status="failed", failed=1)
    assert lines_of(pulse(done=2, total=2, ended=ended), over) == [
        "[1/2] a: completed in 500.0 ms",
        "[2/2] b: failed in 1.0 ms: ValueError: x",
        "flow: 2/2 nodes, 1 failed, failed in 4.00 s",
    ]


def test_large_runs_have_a_line_for_each_hundredth_at_most_and_for_failures() -> None:
    pulses = [
        pulse(done=number, total=10_000, ended=(EndedNode(f"n{number}", "completed"),))
        for number in range(1, 10_000, 7)
    ]
    bad = pulse(done=9_999, total=10_000, ended=(EndedNode("bad", "failed", None, "x"),))
    said = lines_of(*pulses, bad, pulse(done=10_000, total=10_000, status="completed"))
    assert 90 <= len(said) <= 110
    assert said[-2] == "[9999/10000] bad: failed: x"


def test_maps_have_a_line_for_each_tenth() -> None:
    def at(number: int) -> Pulse:
        return pulse(running=(Doing("load", 1.0, "", (number, 1000)),))

    said = lines_of(*[at(number) for number in range(0, 1000, 10)], pulse(status="completed"))
    assert said[:2] == ["[3/10] load: 100/1000", "[3/10] load: 200/1000"]
    assert len(said) == 10


def test_the_first_cycles_of_a_machine_have_a_line_each() -> None:
    machine = {"total": None, "fraction": None, "left": None}
    pulses = [
        pulse(done=number, elapsed=number / 1000, ended=(EndedNode("s", "completed"),), **machine)
        for number in range(1, 3_000)
    ]
    said = lines_of(*pulses, pulse(done=3_000, status="completed", **machine))
    assert said[0] == "[1] s: completed"
    assert said[199] == "[200] s: completed"
    assert len(said) < 210
    assert said[-1] == "flow: 3000 cycles, completed in 4.00 s"


@every_runner
def test_lines_go_to_standard_error_with_the_name_of_the_run(
    runner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = Workflow("my\x1b[31mflow").note("a").note("b", after=["a"])
    assert flow.run(runner, progress="lines").success
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    assert [line.partition(" in ")[0] for line in err.splitlines()] == [
        "myflow [1/2] a: completed",
        "myflow [2/2] b: completed",
        "myflow: 2/2 nodes, completed",
    ]


def test_worker_processes_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry()
    with DAG("away", registry=registry) as dag:
        action(elsewhere.divide, registry=registry).map([1, 2, 0], by=1)
    dag.run(progress="lines", runner="processes", max_workers=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2].startswith("away [1/1] divide: completed in")
    assert lines[-1].startswith("away: 1/1 nodes, completed in")


def test_lines_under_a_running_loop(capsys: pytest.CaptureFixture[str]) -> None:
    dag = DAG("looped", registry=Registry())

    @dag.node
    async def only() -> int:
        return 1

    async def main() -> None:
        assert await dag.run_async(progress="lines") == 1
        assert dag.run(progress="lines") == 1
        assert (await dag.start(progress="lines")).success

    asyncio.run(main())
    assert capsys.readouterr().err.count("looped [1/1] only: completed") == 3


# --- the bar --------------------------------------------------------------------------------------


def terminal(width: int = 100, **more: Any) -> tuple[Console, io.StringIO]:
    """Return a terminal of ours, and what is written to it."""
    written = io.StringIO()
    more = {"color_system": None, "force_terminal": True, "legacy_windows": False} | more
    return Console(file=written, width=width, height=40, **more), written


def drawn(found: Pulse, rate: float | None = None, width: int = 100, **more: Any) -> list[str]:
    """Return the lines of one frame."""
    console, written = terminal(width)
    console.print(frame(found, rate, width, **more))
    return [line.rstrip() for line in written.getvalue().splitlines()]


FULL = pulse(
    failed=2,
    running=tuple(Doing(f"n{number}", float(number)) for number in range(13)),
    waiting=(Doing("flaky", 3.04, "attempt 2 of 5: OSError: gone"),),
    asking=(Doing("ask", None, "Shall I?"),),
    failures=(Doing("bad", None, "ValueError: boom"), Doing("worse", None, "KeyError: 'x'")),
)


def test_a_frame_has_the_bar_what_runs_waits_and_failed() -> None:
    assert [" ".join(line.split()) for line in drawn(FULL, 2.0)] == [
        "flow ━━━━━━━━━ 3/10 30% 2 failed 2/s 4.0 s 3.5 s left",
        "● n0 0.0 s",
        "● n1 1.0 s",
        "● n2 2.0 s",
        "● n3 3.0 s",
        "● n4 4.0 s",
        "● n5 5.0 s",
        "and 7 more",
        "↻ flaky in 3.0 s attempt 2 of 5: OSError: gone",
        "? ask Shall I?",
        "✗ bad ValueError: boom",
        "✗ worse KeyError: 'x'",
    ]


def test_a_narrow_terminal_without_unicode_has_a_frame_too() -> None:
    lines = drawn(FULL, 2.0, 40, ascii_only=True)
    assert all(len(line) <= 40 for line in lines)
    assert any(line.startswith("x bad") for line in lines)
    assert lines[1] == "3/10  30%  2 failed  4.0 s  3.5 s left"


@pytest.mark.parametrize("width", [40, 60, 71, 80, 120])
def test_a_long_name_pushes_neither_sign_nor_time_over_the_edge(width: int) -> None:
    running = (Doing("x" * 200, 0.3), Doing("\u65e5\u672c\u8a9e" * 20, 1.3))
    waiting = (Doing("y" * 200, 3.0, "attempt 2 of 5"),)
    for found in (pulse(running=running), pulse(running=running, waiting=waiting, failed=1)):
        *head, first, second = drawn(found, 2.0, width)[: 4 if width < 70 else 3]
        assert first.startswith("\u25cf xxxx")
        assert " 0.3 s" in first
        assert second.startswith("\u25cf \u65e5\u672c")
        assert " 1.3 s" in second
        assert head[0].startswith("flow \u2501")
        assert head[-1].endswith("4.0 s  3.5 s left")
    assert " in 3.0 s" in drawn(pulse(waiting=waiting), 2.0, width)[-1]


def test_what_runs_much_longer_than_the_others_has_no_time_left() -> None:
    running = (Doing("machine", 1.5, "cycle 7"),)
    (head, *_) = drawn(pulse(running=running, left=1), 5.0)
    assert "left" not in head
    (head, *_) = drawn(pulse(running=(Doing("step", 0.1),), left=1), 5.0)
    assert head.endswith("0.2 s left")


def test_the_part_that_is_done_says_what_it_is_a_part_of_where_items_are_counted_too() -> None:
    assert "3/10  30%  4.0 s" in drawn(pulse())[0]
    assert "3/10  94% of calls" in drawn(pulse(fraction=0.94))[0]


def test_one_failure_is_said_once_at_the_end_and_several_are_counted() -> None:
    (head,) = drawn(pulse(status="failed", failed=3, done=10, fraction=1.0))
    assert head.endswith("10/10  failed in 4.00 s  3 nodes failed")
    (head,) = drawn(pulse(status="timed_out", failed=1))
    assert head.endswith("timed out after 4.00 s  1 node failed")


def test_a_frame_at_the_end_keeps_the_failures() -> None:
    over = pulse(status="failed", failed=1, done=10, failures=FULL.failures[:1], fraction=1.0)
    head, failure = drawn(over)
    assert head.endswith("10/10  failed in 4.00 s")
    assert failure == "✗ bad  ValueError: boom"
    paused = drawn(pulse(status="paused", reason="node 'ask' waits"))
    assert "paused after" in paused[0]
    assert "node 'ask' waits" in paused[1]


def test_a_frame_of_a_machine_counts_cycles() -> None:
    (head,) = drawn(pulse(total=None, fraction=None, left=None, done=1), 12.4)
    assert "1 cycle  12/s  4.0 s" in head
    assert "%" not in head


def test_names_and_errors_command_no_terminal() -> None:
    bad = Doing("[red]n[/red]\x1b[31m", 1.0, "\x1b]0;title\x07 [bold]x[/bold]")
    text = "\n".join(drawn(pulse(name="[b]flow\x1b[2J", running=(bad,), failures=(bad,))))
    assert "\x1b" not in text
    assert "[b]flow" in text
    assert "[red]n[/red]" in text
    assert "[bold]x[/bold]" in text


def test_what_waits_for_another_attempt_is_in_the_time_that_is_left() -> None:
    (head, _) = drawn(pulse(waiting=(Doing("flaky", 60.0),)), 2.0)
    assert head.endswith("60.0 s left")


def test_a_rate_is_of_the_last_half_minute() -> None:
    pace = Pace(10.0)
    assert pace.rate(0.0, 0) is None
    assert pace.rate(0.1, 5) is None
    for second in range(1, 20):
        rate = pace.rate(float(second), second * 2)
    assert rate == pytest.approx(2.0)
    for second in range(20, 40):
        rate = pace.rate(float(second), 38 + (second - 19) * 8)
    assert rate == pytest.approx(8.0)


def test_a_bar_is_drawn_and_leaves_the_end() -> None:
    console, written = terminal()
    front = BarFront(console)
    front.draw(pulse())
    assert "30%" in written.getvalue()
    front.finish(pulse(status="completed", done=10, fraction=1.0))
    assert written.getvalue().rstrip().endswith("\x1b[?25h"), "the cursor is back"
    assert "10/10  completed in 4.00 s" in written.getvalue()


def test_a_run_that_is_over_at_once_leaves_one_line() -> None:
    console, written = terminal()
    BarFront(console).finish(pulse(status="completed", done=10))
    assert written.getvalue() == "flow: 10/10 nodes, completed in 4.00 s\n"
    console, written = terminal()
    BarFront(console).finish(pulse(status="failed", failures=FULL.failures, failed=2))
    assert "✗ bad" in written.getvalue()
    console, written = terminal()
    BarFront(console, brief=True).finish(pulse(status="completed", done=10))
    assert written.getvalue() == ""


# --- displays and runs ----------------------------------------------------------------------------


class Held:
    """A front that notes what it is given."""

    delay = pause = 0.01
    named = 0

    def __init__(self, fault: Callable[[], None] = lambda: None) -> None:
        self.fault = fault
        self.drawn: list[Pulse] = []
        self.finished: list[Pulse] = []
        self.abandoned = 0

    def draw(self, found: Pulse) -> None:
        self.drawn.append(found)
        self.fault()

    def finish(self, found: Pulse) -> None:
        self.finished.append(found)
        self.fault()

    def finish_at_once(self, _found: Pulse) -> bool:
        return False

    def abandon(self) -> None:
        self.abandoned += 1


def shown_by(front: Held, monkeypatch: pytest.MonkeyPatch) -> LiveDisplay:
    """Return a display with that front."""
    monkeypatch.setattr(LiveDisplay, "_front_for", lambda _self, _run: front)
    return LiveDisplay("lines")


def until(true: Callable[[], Any]) -> None:
    """Wait for something that is about to happen."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@every_runner
def test_a_display_draws_while_the_run_goes_on(
    runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = Held()
    flow = Workflow().add("a", lambda: until(lambda: len(front.drawn) >= 3))
    assert flow.run(runner, progress=shown_by(front, monkeypatch)).success
    assert [each.name for each in front.drawn[1].running] == ["a"]
    assert [each.status for each in front.finished] == ["completed"]


@every_runner
def test_a_display_that_raises_loses_no_run(
    runner: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault() -> None:
        raise OSError("the terminal is gone")

    front = Held(fault)
    flow = Workflow().add("a", lambda: until(lambda: front.abandoned))
    with caplog.at_level(logging.WARNING, "dagger_dsl"):
        assert flow.run(runner, progress=shown_by(front, monkeypatch)).success
    assert (len(front.drawn), front.finished) == (1, [])
    assert [each.getMessage() for each in caplog.records if "display" in each.getMessage()] == [
        "the display of a run failed, the run goes on without: OSError('the terminal is gone')"
    ]


def test_a_graph_that_grows_meanwhile_is_drawn_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fault() -> None:
        if len(front.drawn) < 3 and not front.finished:
            raise RuntimeError("dictionary changed size during iteration")

    front = Held(fault)
    flow = Workflow().add("a", lambda: until(lambda: len(front.drawn) >= 4))
    assert flow.run(progress=shown_by(front, monkeypatch)).success
    assert front.finished


def test_a_closed_standard_error_loses_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        for kind in (True, "lines", "bar"):
            flow = Workflow().note("a").note("bad", OSError(), on_failure="continue")
            assert flow.run(progress=kind).states()["a"] == "completed"


def test_a_terminal_that_takes_nothing_more_does_not_keep_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck = threading.Event()
    front = Held(lambda: (stuck.wait(30), None)[1])
    monkeypatch.setattr(live, "_PATIENCE", 0.05)
    flow = Workflow().add("a", lambda: until(lambda: front.drawn))
    begun = time.monotonic()
    assert flow.run(progress=shown_by(front, monkeypatch)).success
    assert time.monotonic() - begun < 20
    other = Held()
    flow = Workflow().add("a", lambda: until(lambda: other.drawn))
    assert flow.run(progress=shown_by(other, monkeypatch)).success, "others are drawn"
    stuck.set()
    until(lambda: front.abandoned)


def test_the_thread_of_the_displays_leaves_when_there_is_nothing_to_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "_LINGER", 0.05)
    monkeypatch.setattr(live, "_NAP", 0.01)
    assert Workflow().note("a").run(progress=shown_by(Held(), monkeypatch)).success
    until(lambda: not live._TICKER._runs)
    front = Held()
    flow = Workflow().add("a", lambda: until(lambda: front.drawn))
    assert flow.run(progress=shown_by(front, monkeypatch)).success


def test_of_two_runs_at_a_time_the_second_has_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console, written = terminal()
    first = LiveDisplay("bar", console=console)

    def inner() -> None:
        assert Workflow("second").note("b").run(progress="bar").success

    flow = Workflow("first").add("a", lambda: in_thread(inner))
    assert flow.run(progress=first).success
    assert "second [1/1] b: completed" in capsys.readouterr().err
    assert written.getvalue().startswith("first: 1/1 nodes, completed in")
    assert Workflow("third").note("c").run(progress="bar").success
    assert "third: 1/1 nodes" in capsys.readouterr().err, "the terminal is free again"


def in_thread(work: Callable[[], None]) -> None:
    """Do something in another thread and wait for it."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(30)
    if errors:
        raise errors[0]


def test_an_interrupted_run_gives_the_terminal_back() -> None:
    console, written = terminal()

    def stop() -> None:
        until(lambda: "0/1" in written.getvalue())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Workflow().add("a", stop).run(progress=LiveDisplay("bar", console=console))
    assert written.getvalue().rstrip().endswith("\x1b[?25h")
    assert live._SCREEN.acquire(blocking=False)
    live._SCREEN.release()


def test_the_display_is_the_one_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert live_display(True).kind == "bar"
    monkeypatch.setenv("TERM", "dumb")
    assert live_display(True).kind == "lines"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(stream, "isatty", lambda: False)
    assert live_display(True).kind == "lines"
    assert live_display("bar").kind == "bar"


def test_a_picture_needs_a_notebook() -> None:
    ran = Workflow().note("a")
    with pytest.raises(ConfigurationError, match="needs a notebook"):
        ran.run(progress="picture")
    assert ran.calls == []


def test_an_interrupt_while_a_display_is_closed_loses_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Looks):
        def close(self) -> None:
            raise KeyboardInterrupt

    url = f"sqlite:{tmp_path / 'runs.db'}"
    flow = Workflow().note("a")
    with pytest.raises(KeyboardInterrupt):
        flow.run(progress=Interrupted(), database_url=url, run_id="r")
    with Store(url) as store:
        assert store.load_run("r").status == "completed"


def test_an_interrupt_while_the_last_frame_is_drawn_gives_the_terminal_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    console, written = terminal()
    display = LiveDisplay("bar", console=console)
    monkeypatch.setattr(live._TICKER, "finish", interrupt)
    flow = Workflow().add("a", lambda: until(lambda: "0/1" in written.getvalue()))
    with pytest.raises(KeyboardInterrupt):
        flow.run(progress=display)
    assert written.getvalue().rstrip().endswith("\x1b[?25h")
    assert live._SCREEN.acquire(blocking=False)
    live._SCREEN.release()


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[LiveDisplay]:
    """Note the displays whose end another thread draws."""
    displays: list[LiveDisplay] = []
    finish = live._TICKER.finish

    def note(display: LiveDisplay, over: threading.Event) -> bool:
        displays.append(display)
        return finish(display, over)

    monkeypatch.setattr(live._TICKER, "finish", note)
    return displays


@contextmanager
def errors_in(path: Path) -> Iterator[Path]:
    """Let standard error be a file."""
    with path.open("w", encoding="utf-8") as stream, redirect_stderr(stream):
        yield path


@pytest.mark.skipif(sys.platform == "win32", reason="only sockets are looked at there")
@every_runner
@pytest.mark.parametrize("kind", ["lines", "bar"])
def test_a_run_that_is_over_at_once_says_so_itself(
    runner: str, kind: str, handed_over: list[LiveDisplay], tmp_path: Path
) -> None:
    flow = Workflow("flow").note("a").note("b", after=["a"])
    with errors_in(tmp_path / "errors") as errors:
        assert flow.run(runner, progress=kind).success
        assert flow.run(runner, progress=kind).success
    said = [re.sub(r" in [^,]*$", "", line) for line in errors.read_text("utf-8").splitlines()]
    nodes = ["flow [1/2] a: completed", "flow [2/2] b: completed"] * (kind == "lines")
    assert said == [*nodes, "flow: 2/2 nodes, completed"] * 2
    assert handed_over == []


def test_what_may_wait_for_somebody_is_written_by_another_thread(
    handed_over: list[LiveDisplay], tmp_path: Path
) -> None:
    flow = Workflow("flow")
    for number in range(150):
        flow.note(f"a_node_with_a_long_name_{number}")
    with errors_in(tmp_path / "errors") as errors:
        assert flow.run(progress="lines").success, "more than a pipe takes for sure"
    assert len(errors.read_text("utf-8").splitlines()) == 151
    said: list[str] = []
    assert Workflow().note("a").run(progress=LiveDisplay("lines", say=said.append)).success
    assert len(said) == 2, "who knows what a function does"
    console, written = terminal()
    assert Workflow().note("a").run(progress=LiveDisplay("bar", console=console)).success
    assert written.getvalue().count("\n") == 1, "nor a stream of which nothing is known"
    assert len(handed_over) == 3


def test_a_bar_that_is_not_drawn_loads_nothing_to_draw_with(tmp_path: Path) -> None:
    program = tmp_path / "short.py"
    program.write_text(
        "import sys\n"
        "from dagger_dsl import DAG\n"
        "from dagger_dsl.views.live_bar import BarFront\n"
        "BarFront.delay = 60.0\n"
        "dag = DAG('flow')\n"
        "@dag.node\n"
        "def a() -> int:\n"
        "    return 1\n"
        "dag.run(progress='bar')\n"
        "print('rich' in sys.modules)\n"
    )
    with (tmp_path / "errors").open("w") as errors:
        done = subprocess.run(
            [sys.executable, program], stdout=subprocess.PIPE, stderr=errors, timeout=60, check=True
        )
    assert (tmp_path / "errors").read_text().startswith("flow: 1/1 nodes, completed in")
    assert done.stdout.split() == [b"False"]


FULL_PIPE = """
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, bytes(65536))
except BlockingIOError:
    os.set_blocking(writer, True)
"""

#: As after Ctrl-S.
STOPPED_TERMINAL = """
import termios
reader, writer = os.openpty()
termios.tcflow(writer, termios.TCOOFF)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has other pipes and terminals")
@pytest.mark.parametrize("kind", ["lines", "bar"])
@pytest.mark.parametrize("stuck", [FULL_PIPE, STOPPED_TERMINAL], ids=["pipe", "terminal"])
def test_a_pipe_that_is_full_does_not_keep_a_run(tmp_path: Path, kind: str, stuck: str) -> None:
    program = tmp_path / "stuck.py"
    program.write_text(
        "import os, sys\n"
        "from dagger_dsl import DAG\n"
        "from dagger_dsl.views import live\n"
        "live._PATIENCE = 0.1\n"
        "dag = DAG('flow')\n"
        "@dag.node\n"
        "def a() -> int:\n"
        "    return 1\n"
        f"{stuck}"
        "os.dup2(writer, 2)\n"
        f"dag.run(progress='{kind}')\n"
        "os.write(1, b'over')\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, timeout=60, check=False)
    assert done.stdout == b"over"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_prints_past_its_parents_display(tmp_path: Path) -> None:
    program = tmp_path / "forks.py"
    program.write_text(
        "import io, os, sys\n"
        "from rich.console import Console\n"
        "from dagger_dsl import DAG\n"
        "from dagger_dsl.views import live, live_bar\n"
        "live_bar.BarFront.delay = 0.0\n"
        "live_bar._is_terminal = lambda stream: True\n"
        "written = io.StringIO()\n"
        "console = Console(file=written, force_terminal=True)\n"
        "dag = DAG('flow')\n"
        "@dag.node\n"
        "def a() -> int:\n"
        "    while 'flow' not in written.getvalue():\n"
        "        pass\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        print('from the child', type(sys.stdout).__name__,"
        "              live._TICKER._runs, flush=True)\n"
        "        os._exit(0)\n"
        "    return os.waitpid(child, 0)[1]\n"
        "display = live.LiveDisplay('bar', console=console)\n"
        "assert dag.run(progress=display) == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program], capture_output=True, timeout=60, check=False
    )
    assert done.stdout.split() == b"from the child TextIOWrapper False".split(), done.stderr


def test_a_graph_that_grows_all_the_time_is_shown_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fault() -> None:
        if len(front.drawn) < 3 and not front.finished:
            raise IndexError("bytearray index out of range")

    front = Held(fault)
    flow = Workflow().add("a", lambda: until(lambda: len(front.drawn) >= 4))
    assert flow.run(progress=shown_by(front, monkeypatch)).success
    assert front.finished


def test_a_machine_that_may_go_no_further_has_all_its_cycles_told() -> None:
    machine = FSM("turns", registry=Registry(), max_cycles=3)

    @machine.state(initial=True)
    def turn() -> FSMReturn:
        return FSMReturn(next_state="turn")

    looks = Looks()
    with pytest.raises(MaxCyclesExceeded):
        machine.run(progress=looks)
    assert (looks.pulses[-1].done, len(looks.pulses[-1].ended)) == (3, 3)


def test_a_line_stays_one_whatever_a_node_is_called() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    lines.draw(pulse(done=1, ended=(EndedNode("two\nlines\x1b[2J", "completed", 0.5),)))
    assert said == ["[1/10] two lines: completed in 500.0 ms"]


def test_of_many_failures_few_are_asked_for_their_text() -> None:
    asked: list[int] = []

    class Slow(Exception):
        def __str__(self) -> str:
            asked.append(1)
            return "slow"

    flow = Workflow()
    for number in range(200):
        flow.note(f"n{number}", Slow(), on_failure="continue")
    looks = Looks(named=0)
    flow.run(progress=looks)
    asked.clear()
    last = looks.look()
    assert len(last.failures) == 200
    assert last.failures[0].text.endswith("Slow: slow")
    assert len(asked) <= 20
