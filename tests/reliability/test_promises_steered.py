"""The promises for runs that grow, map, pause and wait for people; see also `test_kill`."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.errors import IdempotencyConflict, StoreBusy
from dagger_dsl.model.commands import AddNode, AddNodes, Command, NodeSpec, PauseBranch, ref
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.events import NodeCompleted
from dagger_dsl.model.states import RunStatus
from dagger_dsl.store.storage import Store
from tests.reliability import scripts
from tests.reliability.evidence import Deaths, calls_of
from tests.reliability.helpers import RUNNERS, Zygote, popen
from tests.reliability.lives import Life, Person, live, live_in, new_spec
from tests.reliability.scripts import child, ended
from tests.reliability.workloads import Spec, name_of, work_of
from tests.runners.helpers import Flow, Gauge, eventually
from tests.scale import product

KINDS = ("one by one", "in batches", "in answers", "mapped", "people", "careful")

pytestmark = pytest.mark.slow  # nearly each of them starts processes

runners = pytest.mark.parametrize("runner", RUNNERS)
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of a test goes."""
    (tmp_path / "db").mkdir()
    return tmp_path / "db" / "state.db"


def rows(path: Path, run_id: str = "r") -> dict[str, list[tuple[int, str]]]:
    """Return attempts and states by invocation, as another program reads them from the file."""
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(
            "SELECT node_id, invocation_key, attempt, state FROM node_runs WHERE run_id = ? "
            "ORDER BY seq",
            (run_id,),
        ).fetchall()
    finally:
        connection.close()
    named: dict[str, list[tuple[int, str]]] = {}
    for node_id, key, attempt, state in found:
        named.setdefault(name_of(node_id, key), []).append((attempt, state))
    return named


def everything(path: Path) -> dict[str, list[Any]]:
    """Return all rows of all tables."""
    connection = sqlite3.connect(path)
    try:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr)
            for (name,) in tables
        }
    finally:
        connection.close()


def mapped(flow: Flow, node_id: str, body: Callable[..., Any], source: str, **fields: Any) -> Flow:
    """Add a node that maps over another one's list into its parameter ``x``."""
    return flow.add(node_id, body, take={"x": source}, map_over="x", **fields)


# --- 1 and 2: results -----------------------------------------------------------------------------


@runners
def test_1_whoever_sees_a_result_of_a_steered_run_sees_it_recorded(path: Path, runner: str) -> None:
    """Bodies of nodes that were added, mapped or answered by a person, hooks, and progress."""
    unseen: list[str] = []
    checked: list[str] = []

    def check(*names: str) -> None:
        found = rows(path)
        checked.extend(names)
        unseen.extend(name for name in names if (1, "completed") not in found.get(name, ()))

    def items() -> list[int]:
        return list(range(5))

    def double(x: int) -> int:
        check("items")
        return 2 * x

    def following(x: int) -> int:
        check(f"double[{x // 2}]")
        return x

    def total(x: list[int]) -> int:
        check("following", *(f"following[{k}]" for k in range(5)))
        return sum(x)

    def late(x: int) -> int:
        check("total")
        return x

    def ask(ctx: NodeCtx) -> Any:
        return ctx.wait_for_human("How many?")

    def after(x: int) -> int:
        check("ask")
        return x

    def hook(_ctx: Any, event: Any) -> Command | None:
        if not isinstance(event, NodeCompleted):
            return None
        check(name_of(event.node.node_id, event.node.invocation_key))
        if event.node.node_id != "total":
            return None
        return AddNode(NodeSpec("late", id="late", inputs={"x": ref("total.result")}))

    def progress(_node: str, _state: str, _done: float) -> None:
        found = rows(path)
        checked.append("progress")
        unseen.extend(name for name, ends in found.items() if not ends)

    flow = Flow().add("items", items)
    mapped(flow, "double", double, "items")
    mapped(flow, "following", following, "double")
    flow.add("total", total, take={"x": "following"})
    flow.add("ask", ask).add("after", after, take={"x": "ask"})
    flow.registry.register(late, "late")
    report = scripts.start(flow, path, runner, hooks=[hook], progress=progress)
    assert report.status is RunStatus.PAUSED
    with Store(path) as store:
        RunControl(store, "r").answer("ask", 7)
    report = scripts.again(flow, path, runner, hooks=[hook], progress=progress)
    assert report.success
    assert (report.value("late"), report.value("after")) == (20, 7)
    assert unseen == []
    assert {"items", "double[3]", "following[4]", "total", "ask", "late", "after"} <= set(checked)


@pytest.mark.parametrize(("kind", "runner"), product(KINDS, RUNNERS))
def test_1_a_completed_run_is_returned_and_nothing_is_called(
    tmp_path: Path, zygote: Zygote, runner: str, kind: str
) -> None:
    spec, database = new_spec(tmp_path, kind=kind, runner=runner, nodes=12)
    deaths = Deaths(spec, database, tmp_path / "side")
    live(deaths, lambda: live_in(zygote, spec, database.parent))
    before = everything(database)
    calls = calls_of(spec)
    assert live_in(zygote, spec, database.parent) == Life(0, "completed", None)
    assert calls_of(spec) == calls
    assert everything(database) == before
    deaths.end()


@runners
def test_2_a_failed_run_goes_on_with_what_it_has_grown_by(path: Path, runner: str) -> None:
    gauge = Gauge()
    well = False

    def step(x: int) -> int:
        with gauge:
            return x + 1

    def weak(x: int) -> int:
        if not well:
            raise ConnectionError("down")
        return x * 10

    def grow(_ctx: Any, event: Any) -> Command | None:
        if not (isinstance(event, NodeCompleted) and event.node.node_id == "first"):
            return None
        return AddNodes(
            [
                NodeSpec("step", id="second", inputs={"x": ref("first.result")}),
                NodeSpec("weak", id="weak", inputs={"x": ref("second.result")}),
                NodeSpec("step", id="last", inputs={"x": ref("weak.result")}),
            ]
        )

    flow = Flow().add("first", lambda: 1)
    flow.registry.register(step, "step")
    flow.registry.register(weak, "weak")
    assert scripts.start(flow, path, runner, hooks=[grow]).status is RunStatus.FAILED
    well = True
    # Without the hook: what it has asked for is recorded.
    report = scripts.again(flow, path, runner)
    assert report.success
    assert report.value("last") == 21
    assert gauge.total == 2, "the second node was not called again"
    assert rows(path)["weak"] == [(1, "failed"), (2, "completed")]


@runners
@pytest.mark.row("G14")
def test_2_a_failed_mapped_node_goes_on_with_the_invocations_that_failed(
    path: Path, runner: str
) -> None:
    called: list[int] = []
    well = False

    def weak(x: int) -> int:
        called.append(x)
        if x == 3 and not well:
            raise ConnectionError("down")
        return x * 10

    flow = mapped(Flow().add("items", lambda: list(range(6))), "weak", weak, "items")
    assert scripts.start(flow, path, runner).status is RunStatus.FAILED
    first, well = set(rows(path)), True
    done = {
        int(name[5])
        for name, ends in rows(path).items()
        if ends[-1][1] == "completed" and "[" in name
    }
    assert "weak[3]" in first
    called.clear()
    report = scripts.again(flow, path, runner)
    assert report.success
    assert report.value("weak") == [0, 10, 20, 30, 40, 50]
    assert sorted(called) == sorted(set(range(6)) - done)
    assert rows(path)["weak[3]"] == [(1, "failed"), (2, "completed")]


@runners
def test_2_a_node_added_after_a_resume_takes_what_was_recorded_before_it(
    path: Path, runner: str
) -> None:
    """A result that no node of the graph needs is read when one comes that does."""
    process = child(GROWN_LATE, path, runner, "first")
    assert ended(process) == ["died"]
    said = ended(child(GROWN_LATE, path, runner, "second"))
    assert said == ["completed", "[0, 1, 2, 3, 4] 4"]


GROWN_LATE = """
    from dagger_dsl.model.commands import AddNode, NodeSpec, ref
    from dagger_dsl.model.graph import Node, Output

    def die(before):
        if sys.argv[3] == "first":
            say("died")
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)

    def grow(ctx, event):
        if event.__class__.__name__ == "NodeCompleted" and event.node.node_id == "die":
            taken = {"a": ref("whole.result"), "b": ref("parts.last")}
            return AddNode(NodeSpec("both", id="late", inputs=taken))

    flow = Flow()
    flow.registry.register(lambda: list(range(5)), "whole")
    flow.registry.register(lambda: {"first": 0, "last": 4}, "parts")
    flow.registry.register(lambda a, b: f"{a} {b}", "both")
    flow.registry.register(die, "die")
    from dagger_dsl.model.graph import Input
    flow.nodes = [
        Node("whole", "whole"),
        Node("parts", "parts", outputs=[Output("first"), Output("last")]),
        Node("die", "die", [Input("before", value=1)], dependencies=["whole", "parts"]),
    ]
    run = start if sys.argv[3] == "first" else again
    report = run(flow, sys.argv[1], sys.argv[2], hooks=[grow])
    say(report.status)
    say(report.value("late"))
"""


# --- people: three processes ----------------------------------------------------------------------


ANSWER = """
    from dagger_dsl.engine.remote import RunControl
    from dagger_dsl.store.storage import Store
    import json
    with Store(sys.argv[1]) as store:
        control = RunControl(store, sys.argv[2])
        for question in control.questions():
            say(question.node_id, control.answer(question.node_id, json.loads(sys.argv[3])))
"""

ASKED = """
    from dagger_dsl.model.context import NodeCtx

    def body(name, value):
        def call():
            say("call", name)
            return value
        return call

    def ask(ctx, before):
        say("call ask", before)
        return ctx.wait_for_human("How many?", schema={"type": "integer"})

    def twice(x):
        say("call twice", x)
        return 2 * x

    ask.__annotations__["ctx"] = NodeCtx
    flow = Flow()
    from dagger_dsl.model.graph import Input, Node
    for name, value in (("before", 1), ("beside", 2)):
        flow.registry.register(body(name, value), name)
    flow.registry.register(ask, "ask")
    flow.registry.register(twice, "twice")
    flow.nodes = [
        Node("before", "before"),
        Node("ask", "ask", [Input("before", reference="before.result")]),
        Node("beside", "beside", dependencies=["before"]),
        Node("twice", "twice", [Input("x", reference="ask.result")]),
    ]
    run = again if os.path.exists(sys.argv[1]) else start
    report = run(flow, sys.argv[1], sys.argv[2])
    say(report.status, report.value("twice", None))
"""


@runners
@pytest.mark.row("E10", "E11")
def test_a_person_answers_from_another_process_and_a_third_one_goes_on(
    path: Path, runner: str
) -> None:
    first = ended(child(ASKED, path, runner))
    assert sorted(first) == ["call ask 1", "call before", "call beside", "paused None"]
    assert ended(child(ANSWER, path, "r", "21")) == ["ask False"], "it stands until the resume"
    third = ended(child(ASKED, path, runner))
    assert third == ["call twice 21", "completed 42"]
    assert rows(path) == {
        name: [(1, "completed")] for name in ("before", "ask", "beside", "twice")
    }, "one execution of every node"


@runners
@pytest.mark.row("E10", "E11", "E14")
def test_every_question_and_every_branch_of_a_run_by_other_processes(
    tmp_path: Path, zygote: Zygote, runner: str
) -> None:
    """Each process ends where it needs somebody; each node is executed once."""
    spec, database = new_spec(tmp_path, kind="people", runner=runner, nodes=20, layers=5)
    lives = live(
        Deaths(spec, database, tmp_path / "side"),
        lambda: live_in(zygote, spec, database.parent),
    )
    assert [life.told for life in lives[:-1]] == ["paused"] * (len(lives) - 1)
    assert len(lives) > 3
    assert rows(database, "run") == {name: [(1, "completed")] for name in work_of(spec).sources}
    assert len(calls_of(spec)) == spec.nodes


MAPPED_ASK = """
    from dagger_dsl.model.graph import Input, Node

    def ask(x, ctx):
        say("call", x)
        if x == 1 and sys.argv[3] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return x if x % 2 == 0 else ctx.wait_for_human(f"How many are {x}?")

    flow = Flow()
    flow.registry.register(lambda: [0, 1, 2, 3], "items")
    flow.registry.register(ask, "ask")
    flow.registry.register(lambda x: sum(x), "total")
    flow.nodes = [
        Node("items", "items"),
        Node("ask", "ask", [Input("x", reference="items.result")], map_over="x"),
        Node("total", "total", [Input("x", reference="ask.result")]),
    ]
    run = again if os.path.exists(sys.argv[1]) else start
    report = run(flow, sys.argv[1], sys.argv[2])
    say(report.status, report.value("total", None))
"""


@runners
@pytest.mark.row("E11", "G14")
def test_invocations_of_a_mapped_node_ask_and_are_answered_one_by_one(
    path: Path, runner: str
) -> None:
    """The process dies while one of them runs; what the others did and asked stays."""

    def life(what: str) -> list[str]:
        return ended(child(MAPPED_ASK, path, runner, what))

    calls = life("kill")
    calls += life("live")
    assert calls[-1] == "paused None"
    for number, key in enumerate(("3", "1")):
        with Store(path) as store:
            control = RunControl(store, "r")
            asked = {each.key: each.prompt for each in control.questions()}
            assert asked == {k: f"How many are {k}?" for k in ("1", "3")[: 2 - number]}
            control.answer("ask", 100 * int(key), key)
        calls += life("live")
    assert calls[-1] == "completed 402"
    ends = rows(path)
    whole = ("items", "total", "ask", *(f"ask[{k}]" for k in range(4)))
    assert {name: found[-1][1] for name, found in ends.items()} == dict.fromkeys(whole, "completed")
    assert all(len(found) == 1 for found in ends.values())
    assert calls.count("call 1") == 2
    assert all(calls.count(f"call {k}") <= 2 for k in (0, 2, 3)), "twice beside the one that died"


# --- 4: one owner ---------------------------------------------------------------------------------


@contextmanager
def stopped(spec: Spec, store: Store) -> Iterator[subprocess.Popen[str]]:
    """Give a victim that was stopped while it made calls, and whose run was taken from it."""
    process: subprocess.Popen[str] = popen(
        "tests.reliability.victim", spec.to_text(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        eventually(lambda: len(calls_of(spec)) >= 5, "some calls are made")
        while True:
            process.send_signal(signal.SIGSTOP)
            try:
                _, journal = store.claim_run(spec.run_id, steal_stalled=True)
            except StoreBusy:  # it was stopped while it wrote, and nobody else can write before
                process.send_signal(signal.SIGCONT)
                time.sleep(0.02)
            else:
                break
        journal.close()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("kind", "runner"), product(KINDS, RUNNERS))
def test_4_a_process_that_was_stopped_past_its_lease_records_nothing(
    tmp_path: Path, zygote: Zygote, runner: str, kind: str
) -> None:
    spec, database = new_spec(
        tmp_path, kind=kind, runner=runner, nodes=60, layers=6, work=0.01, lease=0.6
    )
    deaths = Deaths(spec, database, tmp_path / "side", alone=False)
    with Store(spec.url, lease=spec.lease) as store, stopped(spec, store) as process:
        deaths.after()
        live(deaths, lambda: live_in(zygote, spec, database.parent))
        before, calls = everything(database), calls_of(spec)
        process.send_signal(signal.SIGCONT)
        _, trouble = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "RunFenced" in trouble
        assert "taken over" in trouble
        assert everything(database) == before
    late = calls_of(spec)[len(calls) :]
    assert {call.process for call in late} <= {process.pid}
    assert len(late) <= spec.at_once, "what was released already may begin; nothing more does"


@runners
def test_4_what_a_stopped_process_was_told_meanwhile_goes_to_the_new_owner(
    tmp_path: Path, zygote: Zygote, runner: str
) -> None:
    """An answer that was sent to the run, not to a process, is taken once, by who owns it."""
    spec, database = new_spec(
        tmp_path, kind="people", runner=runner, nodes=40, layers=4, work=0.01, lease=0.6
    )
    deaths, person = Deaths(spec, database, tmp_path / "side", alone=False), Person(spec)
    with Store(spec.url, lease=spec.lease) as store, stopped(spec, store) as process:
        person.attend()
        deaths.after()
        live(deaths, lambda: live_in(zygote, spec, database.parent), person)
        before = everything(database)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
        assert everything(database) == before


# --- 5 of the brief: at most once -----------------------------------------------------------------

ONCE = """
    from dagger_dsl.model.graph import Input, Node
    from dagger_dsl.store.storage import Store

    def pay(before):
        with Store(sys.argv[1]) as store:
            released = [slot for each in store.load_run("r").released for slot in each]
        say("call pay", 1 in released)
        if sys.argv[4] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return before + 1

    async def pay_async(before):
        return pay(before)

    def after(x):
        say("call after", x)
        return x

    flow = Flow()
    flow.registry.register(lambda: 1, "before")
    flow.registry.register(pay_async if sys.argv[5] == "async" else pay, "pay")
    flow.registry.register(after, "after")
    flow.nodes = [
        Node("before", "before"),
        Node("pay", "pay", [Input("before", reference="before.result")], effects="at_most_once"),
        Node("after", "after", [Input("x", reference="pay.result")]),
    ]
    run = again if os.path.exists(sys.argv[1]) else start
    report = run(flow, sys.argv[1], sys.argv[2], durability=sys.argv[3])
    say(report.status, report.value("after", None))
"""


@pytest.mark.parametrize(
    ("call", "durability"),
    product(
        [*((each, "sync") for each in RUNNERS), ("asyncio", "async")], ["sync", "async", "exit"]
    ),
)
def test_a_node_that_starts_at_most_once_is_never_called_again(
    path: Path, call: tuple[str, str], durability: str
) -> None:
    """Its start is on record before its call; who recovers the run asks what came of it."""
    runner, kind = call

    def life(what: str) -> list[str]:
        return ended(child(ONCE, path, runner, durability, what, kind))

    assert life("kill") == ["call pay True"]
    for _ in range(2):
        assert life("live") == ["paused None"]
    with Store(path) as store:
        control = RunControl(store, "r")
        (question,) = control.questions()
        assert question.node_id == "pay"
        assert "at most once" in question.prompt
        assert store.load_run("r").status == "paused"
        control.answer("pay", 5, by="somebody who looked")
        assert control.questions() == []
    assert life("live") == ["call after 5", "completed 5"]
    assert life("live") == ["completed 5"]
    assert rows(path)["pay"][-1][1] == "completed"
    assert len(rows(path)["pay"]) == 1


@pytest.mark.parametrize(("runner", "durability"), product(RUNNERS, ("sync", "async", "exit")))
def test_a_node_that_starts_at_most_once_is_called_when_nothing_goes_wrong(
    path: Path, runner: str, durability: str
) -> None:
    said = ended(child(ONCE, path, runner, durability, "live", "sync"))
    assert said == ["call pay True", "call after 2", "completed 2"]


# --- 9: same key, same run ------------------------------------------------------------------------


def growing(gauge: Gauge) -> tuple[Flow, list[Any]]:
    """Return a graph of one node, and the hook that makes it grow."""

    def step(x: int) -> int:
        with gauge:
            return x + 1

    def ask(ctx: NodeCtx, x: int) -> Any:
        return ctx.wait_for_human(f"{x}?")

    def grow(_ctx: Any, event: Any) -> list[Command] | None:
        if not (isinstance(event, NodeCompleted) and event.node.node_id == "first"):
            return None
        return [
            AddNode(NodeSpec("step", id="second", inputs={"x": ref("first.result")})),
            AddNode(NodeSpec("ask", id="ask", inputs={"x": ref("second.result")})),
            AddNode(NodeSpec("step", id="held", deps=["first"], inputs={"x": 0})),
            PauseBranch("held", "for now"),
        ]

    flow = Flow().add("first", step, take={"x": "inputs.x"})
    flow.registry.register(step, "step")
    flow.registry.register(ask, "ask")
    return flow, [grow]


@runners
def test_9_the_same_key_returns_the_run_that_has_grown(path: Path, runner: str) -> None:
    gauge = Gauge()
    flow, hooks = growing(gauge)

    def begin(x: int = 1) -> Any:
        given: dict[str, Any] = {"run_id": None, "idempotency_key": "k", "hooks": hooks}
        return scripts.start(flow, path, runner, inputs={"x": x}, **given)

    first = begin()
    assert first.status is RunStatus.PAUSED
    assert gauge.total == 2
    second = begin()
    assert (second.run_id, second.status) == (first.run_id, first.status)
    assert second.value("second") == 3
    assert list(second.graph.nodes) == ["first", "second", "ask", "held"]
    with Store(path) as store:
        control = RunControl(store, first.run_id)
        control.answer("ask", "yes")
        control.resume_branch("held")
        chosen = scripts.options(path, runner, hooks=hooks)
        assert engine.resume(first.run_id, flow.registry, chosen, store=store).success
    third = begin()
    assert (third.run_id, third.status) == (first.run_id, RunStatus.COMPLETED)
    assert (third.value("ask"), third.value("held")) == ("yes", 1)
    assert gauge.total == 3
    with pytest.raises(IdempotencyConflict):
        begin(2)
    with Store(path) as store:
        assert len(store.list_runs()) == 1


KEYED = """
    from dagger_dsl.model.commands import AddNode, NodeSpec, ref
    from dagger_dsl.model.context import NodeCtx
    from dagger_dsl.model.graph import Input, Node

    def work(x, ctx):
        say("key", ctx.idempotency_key)
        tries = os.path.join(os.path.dirname(sys.argv[1]), f"tries{x}")
        with open(tries, "a") as file:
            file.write("x")
        if x == 2 and os.path.getsize(tries) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return x

    def grow(ctx, event):
        if event.__class__.__name__ == "NodeCompleted" and event.node.node_id == "items":
            return AddNode(NodeSpec("work", id="added", inputs={"x": 1}))

    work.__annotations__["ctx"] = NodeCtx
    flow = Flow()
    flow.registry.register(work, "work")
    flow.registry.register(lambda: [0, 1, 2, 3], "items")
    taken = [Input("x", reference="items.result")]
    flow.nodes = [Node("items", "items"), Node("m", "work", taken, map_over="x")]
    more = {"run_id": None, "idempotency_key": "order 7", "hooks": [grow]}
    report = start(flow, sys.argv[1], sys.argv[2], **more)
    say("run", report.status, report.value("m"), report.value("added"))
"""


@runners
def test_9_the_same_key_goes_on_after_a_crash_with_the_keys_of_its_calls(
    path: Path, runner: str
) -> None:
    process = child(KEYED, path, runner)
    first = ended(process)
    assert process.returncode == -signal.SIGKILL
    second = ended(child(KEYED, path, runner))
    assert second[-1] == "run completed [0, 1, 2, 3] 1"
    with Store(path) as store:
        (run,) = store.list_runs()
    expected = {f"key {run.run_id}/m/{k}" for k in range(4)} | {f"key {run.run_id}/added/default"}
    assert set(first) | set(second[:-1]) == expected
    assert f"key {run.run_id}/m/2" in first
    assert f"key {run.run_id}/m/2" in second
