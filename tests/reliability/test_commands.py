"""Commands from many sides at one running graph: none is lost, none is applied twice."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.control import RunHandle
from dagger_dsl.engine.hooks import EventHook
from dagger_dsl.model.commands import (
    AddNode,
    Answer,
    Command,
    NodeSpec,
    PauseBranch,
    command_to_plain,
)
from dagger_dsl.model.context import NodeOutput
from dagger_dsl.model.events import CustomEvent
from dagger_dsl.store.storage import Store
from tests.reliability import scripts
from tests.reliability.helpers import RUNNERS, popen
from tests.reliability.lives import send
from tests.reliability.scripts import child, ended, line
from tests.reliability.senders import applied, commands_of, inbox, nodes_of, sign
from tests.runners.helpers import Flow, eventually
from tests.scale import count

THREADS, PROCESSES = 8, 2
SENDERS = THREADS + PROCESSES

pytestmark = pytest.mark.slow  # nearly each of them starts processes

runners = pytest.mark.parametrize("runner", RUNNERS)


class Watch(EventHook):
    """Holds the branch ``gate`` from the start, and keeps the events that it is shown."""

    def __init__(self) -> None:
        self.notes: list[CustomEvent] = []

    def on_start(self, ctx: Any) -> Command:
        """The run begins."""
        return PauseBranch("gate", "until every sender is done")

    def handle(self, ctx: Any, event: Any) -> None:
        """Something happened."""
        if isinstance(event, CustomEvent):
            self.notes.append(event)


def ticking(stop: threading.Event) -> Flow:
    """Return a graph that goes on by itself, in short calls, until *stop* is set.

    Behind its gate every sender has two nodes of its own.
    """

    def tick(k: int) -> Any:
        time.sleep(0.001)
        if stop.is_set():
            return k
        following = NodeSpec("tick", id=f"tick{k + 1}", inputs={"k": k + 1})
        return NodeOutput(k, commands=[AddNode(following)])

    def keep(x: int) -> int:
        return x

    flow = Flow("ticking").add("gate", lambda: None)
    flow.registry.register(tick, "tick")
    flow.registry.register(keep, "keep")
    first = NodeSpec("tick", id="tick0", inputs={"k": 0})
    flow.nodes.append(first.to_node())
    for sender in range(SENDERS):
        for name in ("late", "flag"):
            spec = NodeSpec("keep", id=f"{name}{sender}", inputs={"x": -1}, deps=["gate"])
            flow.nodes.append(spec.to_node())
    return flow


def sender_process(url: str, sender: int, number: int) -> subprocess.Popen[str]:
    """Start a process that sends through the database."""
    process: subprocess.Popen[str] = popen(
        "tests.reliability.senders", url, "r", str(sender), str(number), stdout=subprocess.PIPE
    )
    return process


def send_all(handle: RunHandle, commands: Sequence[Command], failures: list[BaseException]) -> None:
    """Send commands through a handle; every third is not waited for."""
    try:
        for k, command in enumerate(commands):
            handle.send(command, wait=k % 3 != 0, timeout=60)
    except BaseException as error:
        failures.append(error)


@pytest.mark.slow
@pytest.mark.row("B24", "B25", "B26", "E14", "E20")
@pytest.mark.parametrize("killed", [False, True], ids=["whole", "killed"])
@runners
def test_1000_commands_from_8_threads_and_2_processes(
    tmp_path: Path, runner: str, killed: bool, rng: random.Random
) -> None:
    """When a sender's process is killed, what it knows to be sent is applied, once."""
    path, each = tmp_path / "state.db", count(1_000) // SENDERS
    url, stop, watch = f"{path}?synchronous=NORMAL", threading.Event(), Watch()
    plans = {sender: list(commands_of(sender, each)) for sender in range(SENDERS)}
    flow, failures = ticking(stop), list[BaseException]()
    chosen = scripts.options(url, runner, hooks=[watch], max_workers=4)
    handle = engine.start(flow.graph(), flow.registry, None, chosen)
    try:
        threads = [
            threading.Thread(target=send_all, args=(handle, plans[sender], failures))
            for sender in range(THREADS)
        ]
        processes = [sender_process(url, sender, each) for sender in range(THREADS, SENDERS)]
        for thread in threads:
            thread.start()
        known = [_acknowledged(process, killed and rng.randrange(each)) for process in processes]
        for thread in threads:
            thread.join(100)
        eventually(lambda: _all_taken(path), "every request was taken")
        assert failures == []
        handle.resume_branch("gate")
    finally:
        stop.set()
    report = handle.result(60)
    assert report.success
    assert report.hook_errors == ()

    found = applied(path, "r")
    wanted = {sender: [sign(command_to_plain(c))[1] for c in plans[sender]] for sender in plans}
    for sender in range(THREADS):
        assert found[sender] == wanted[sender]
    for sender, number in zip(range(THREADS, SENDERS), known, strict=True):
        mine = found.get(sender, [])
        assert number <= len(mine) <= (number + 1 if killed else number)
        assert mine == wanted[sender][: len(mine)]
        plans[sender] = plans[sender][: len(mine)]
    asked, taken = inbox(path, "r")
    assert taken == sorted(asked)
    _check_graph(path, plans, report.values)
    shown = [(event.payload["sender"], event.payload["i"]) for event in watch.notes]
    emitted = [(s, i) for s in plans for i in range(4, len(plans[s]), 5)]
    assert sorted(shown) == sorted(emitted)
    assert [event.sequence for event in watch.notes] == list(range(1, len(emitted) + 1))
    total = sum(map(len, plans.values()))
    print(f"{runner}: {total} commands, {len(asked)} of them through the database")


def _acknowledged(process: subprocess.Popen[str], number: int) -> int:
    """Return how many requests a process knows to be recorded; kill it after *number*, if any."""
    known = 0
    while line(process):
        known += 1
        if known == number:
            process.send_signal(signal.SIGKILL)
    process.communicate()
    return known


def _all_taken(path: Path) -> bool:
    asked, taken = inbox(path, "r")
    return len(taken) == len(asked)


def _check_graph(path: Path, plans: dict[int, list[Command]], values: Any) -> None:
    """Check that every node is there once, was called once, and has its last inputs."""
    with Store(path) as store:
        rows = store.query("SELECT node_id, attempt, state FROM node_runs")
    calls = Counter(row["node_id"] for row in rows)
    assert set(calls.values()) == {1}
    ended = {row["node_id"]: (row["attempt"], row["state"]) for row in rows}
    for sender, plan in plans.items():
        for name in nodes_of(plan):
            assert ended.pop(name) == (1, "completed")
            assert values[name] == int(name.partition("_")[2].rstrip("b"))
        last = [i for i in range(len(plan)) if i % 5 == 2][-1:] or [-1]
        assert values[f"late{sender}"] == last[0]
        switches = [i // 5 % 2 == 1 for i in range(len(plan)) if i % 5 == 3]
        state = "completed" if not switches or switches[-1] else "skipped"
        assert ended[f"flag{sender}"][1] == state
    assert not [name for name in ended if name.startswith("s")]


# --- the run's process dies -----------------------------------------------------------------------

OWNER = """
    from dagger_dsl.model.commands import NodeSpec
    from dagger_dsl.model.context import NodeCtx
    from dagger_dsl.model.graph import Node
    from dagger_dsl.errors import RunNotFound

    def keep(x):
        say("call", x)
        return x

    def wait(ctx):
        return ctx.wait_for_human("Is everything there?")

    wait.__annotations__["ctx"] = NodeCtx
    flow = Flow()
    flow.registry.register(keep, "keep")
    flow.registry.register(wait, "wait")
    flow.nodes = [Node("wait", "wait")]
    for sender in (0, 1):
        for name in ("late", "flag"):
            spec = NodeSpec("keep", id=f"{name}{sender}", inputs={"x": -1}, deps=["wait"])
            flow.nodes.append(spec.to_node())
    try:
        report = again(flow, sys.argv[1], sys.argv[2])
    except RunNotFound:
        report = start(flow, sys.argv[1], sys.argv[2])
    say("run", report.status)
"""


@pytest.mark.slow
@runners
def test_commands_to_a_run_whose_process_is_killed_are_applied_once(
    tmp_path: Path, runner: str, rng: random.Random
) -> None:
    path, number = tmp_path / "state.db", count(400)
    url = f"{path}?synchronous=NORMAL"
    code = OWNER
    said, deaths = ended(child(code, url, runner)), 0
    assert said == ["run paused"]
    processes = [sender_process(url, sender, number) for sender in range(PROCESSES)]
    while any(process.poll() is None for process in processes):
        owner = child(code, url, runner)
        time.sleep(rng.uniform(0.2, 0.9))
        owner.send_signal(signal.SIGKILL)
        said += ended(owner)
        deaths += 1
    for process in processes:
        assert len(ended(process)) == number
    said += ended(child(code, url, runner))
    assert _all_taken(path)
    with Store(url) as store:
        send(store, "r", Answer("wait", True))
    last = ended(child(code, url, runner))
    assert last[-1] == "run completed"
    plans = {sender: list(commands_of(sender, number)) for sender in range(PROCESSES)}
    wanted = {sender: [sign(command_to_plain(c))[1] for c in plans[sender]] for sender in plans}
    assert applied(path, "r") == wanted
    asked, taken = inbox(path, "r")
    assert taken == sorted(asked)
    with Store(url) as store:
        nodes = store.load_run("r").nodes
        for plan in plans.values():
            for name in nodes_of(plan):
                node = nodes[name, "default"]
                assert node.state == "completed"
                assert node.value() == int(name.partition("_")[2].rstrip("b"))
    print(f"{runner}: {2 * number} commands, {deaths} deaths of the run's process")


# --- within a second ------------------------------------------------------------------------------


@runners
@pytest.mark.row("E14")
def test_a_command_of_another_process_is_seen_within_a_second(
    tmp_path: Path, runner: str, rng: random.Random
) -> None:
    url, stop, rounds = str(tmp_path / "state.db"), threading.Event(), count(50, least=5)
    flow = ticking(stop)
    handle = engine.start(flow.graph(), flow.registry, None, scripts.options(url, runner))
    try:
        said = ended(child(TIMED, url, rounds, rng.randrange(1000)))
    finally:
        stop.set()
    assert handle.result(60).success
    _check_times(runner, said, rounds)


TIMED = """
    import random
    from dagger_dsl.engine.remote import RunControl
    from dagger_dsl.store.storage import Store
    rng = random.Random(int(sys.argv[3]))
    with Store(sys.argv[1]) as store:
        control = RunControl(store, "r")
        while not store.list_runs():
            time.sleep(0.01)
        for k in range(int(sys.argv[2])):
            time.sleep(rng.random() * 0.4)
            began = time.monotonic()
            assert control.emit("hello", k)
            say(time.monotonic() - began)
"""


def _check_times(what: str, said: list[str], rounds: int) -> None:
    times = sorted(map(float, said))
    assert len(times) == rounds
    print(f"{what}: seen after {times[len(times) // 2]:.3f} s (median), {times[-1]:.3f} s at most")
    assert times[-1] < 1.0


@pytest.mark.parametrize("runner", ["threads", "asyncio"])
def test_a_command_is_seen_while_nothing_else_happens(
    tmp_path: Path, runner: str, rng: random.Random
) -> None:
    """The only body is a long one, so nothing but the look for commands makes a turn."""
    url, stop, rounds = str(tmp_path / "state.db"), threading.Event(), count(20, least=4)
    flow = Flow().add("long", lambda: stop.wait(60))
    handle = engine.start(flow.graph(), flow.registry, None, scripts.options(url, runner))
    try:
        said = ended(child(TIMED, url, rounds, rng.randrange(1000)))
    finally:
        stop.set()
    assert handle.result(60).success
    _check_times(runner, said, rounds)


@runners
@pytest.mark.parametrize("durability", ["async", "exit"])
def test_a_command_is_seen_and_answered_at_levels_that_write_late(
    tmp_path: Path, runner: str, durability: str, rng: random.Random
) -> None:
    url, stop, rounds = str(tmp_path / "state.db"), threading.Event(), count(20, least=3)
    flow = ticking(stop)
    chosen = scripts.options(url, runner, durability=durability)
    handle = engine.start(flow.graph(), flow.registry, None, chosen)
    try:
        said = ended(child(TIMED, url, rounds, rng.randrange(1000)))
    finally:
        stop.set()
    assert handle.result(60).success
    _check_times(f"{runner}, {durability}", said, rounds)
