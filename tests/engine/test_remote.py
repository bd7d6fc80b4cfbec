"""Runs that are steered through their database: by whom, in which process, makes no difference."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

import dagger_dsl
from dagger_dsl import engine
from dagger_dsl.engine.control import RunHandle, Steered
from dagger_dsl.engine.notes import of_json
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.errors import (
    ActionNotFound,
    ConfigurationError,
    CycleError,
    DaggerError,
    DependencyNotFound,
    InputValidationError,
    InvalidState,
    NodeAlreadyExists,
    NodeNotFound,
    RunNotFound,
    ValidationError,
)
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    Answer,
    CancelRun,
    Command,
    EmitEvent,
    NodeSpec,
    PauseBranch,
    PauseRun,
    SetNodeInputs,
    SetNodesEnabled,
    ref,
)
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.events import CustomEvent
from dagger_dsl.model.values import MISSING
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from dagger_dsl.views.stored import stored_report
from tests.benchmarks.measure import within
from tests.engine.helpers import Answers, Workflow, states, url_of
from tests.runners.helpers import eventually
from tests.scale import count


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The database as somebody else opens it."""
    with Store(url_of(tmp_path)) as opened:
        yield opened


class Gate:
    """A body that says that it has begun, and ends when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let = threading.Event()

    def __call__(self) -> int:
        self.begun.set()
        assert self.let.wait(30)
        return 1


def ask(ctx: NodeCtx) -> Any:
    return ctx.wait_for_human("how many?", int)


def gated(gate: Gate) -> Workflow:
    """Return ``gate >> after >> last``, a question, and an action ``extra``."""
    flow = Workflow().add("gate", gate).note("after", 2, after=["gate"])
    flow.note("last", 3, after=["after"], branch="ending").add("ask", ask)
    flow.registry.register(lambda: flow.calls.append("extra"), "extra")
    return flow


def started(flow: Workflow, gate: Gate, folder: Path, **options: Any) -> RunHandle:
    """Start a run called ``r``, and wait until everything that can happen has happened."""
    chosen = RunOptions(runner="threads", database_url=url_of(folder), run_id="r", **options)
    handle = engine.start(flow.graph(), flow.registry, None, chosen)
    assert gate.begun.wait(20)
    eventually(handle.questions, "the question is asked")
    return handle


def asking(folder: Path, *bodies: Callable[..., Any], run_id: str = "r") -> Workflow:
    """Return a workflow whose run stands still, because it asks."""
    flow = Workflow().note("before").add("ask", bodies[0] if bodies else ask, after=["before"])
    flow.note("after", after=["ask"])
    report = flow.run(database_url=url_of(folder), run_id=run_id)
    assert report.status == "paused"
    return flow


# --- runs that somebody executes ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.row("B24", "B25", "B26", "B27", "B28", "B29", "B30", "E14", "E19", "E20")
def test_every_verb_is_applied_within_a_second(store: Store, tmp_path: Path) -> None:
    gate, seen = Gate(), list[Any]()

    def hook(_ctx: Any, event: Any) -> None:
        if isinstance(event, CustomEvent):
            seen.append((event.name, event.payload))

    flow = gated(gate).note("off", after=["gate"]).note("left", after=["gate"])
    handle = started(flow, gate, tmp_path, hooks=[hook])
    run = RunControl(store, "r")

    waited: list[float] = []

    def quick(act: Callable[[], bool]) -> None:
        began = time.monotonic()
        assert act()
        waited.append(time.monotonic() - began)

    quick(lambda: run.add_node(NodeSpec("extra", id="one", deps=["gate"])))
    quick(lambda: run.add_nodes([NodeSpec("extra", id="two", deps=["gate"])]))
    quick(lambda: run.set_node_inputs("last", {"x": 5}))
    quick(lambda: run.disable_nodes(["off"]))
    quick(lambda: run.emit("hello", {"n": 1}))
    quick(lambda: run.cancel_branch("left", "not wanted"))
    quick(lambda: run.pause_branch("after"))
    quick(lambda: run.resume_branch("after"))
    quick(lambda: run.pause_branch("ending", "look first"))
    assert run.paused_branches() == handle.paused_branches() == {"ending": "look first"}
    assert run.questions() == handle.questions()
    quick(lambda: run.answer("ask", 7, by="anna"))
    assert run.questions() == []
    quick(lambda: run.pause("a rest"))
    quick(run.resume)
    # Of most of them: a machine that does something else holds up the one or other.
    assert statistics.median(waited) < 1, waited
    gate.let.set()
    report = handle.result(20)
    assert (report.status, report.reason) == ("paused", "look first")
    assert run.is_paused
    assert seen == [("hello", {"n": 1})]
    assert report.value("ask") == 7
    assert states(report) == {
        **dict.fromkeys(("gate", "after", "ask", "one", "two"), "completed"),
        "last": "pending",
        "off": "skipped",
        "left": "cancelled",
    }


@pytest.mark.row("E6")
def test_a_cancel_is_seen_within_a_second(tmp_path: Path) -> None:
    def trial() -> float:
        folder, gate = Path(mkdtemp(dir=tmp_path)), Gate()
        handle = started(gated(gate), gate, folder)
        with Store(url_of(folder)) as store:
            began = time.monotonic()
            assert RunControl(store, "r").cancel("enough")
            seconds = time.monotonic() - began
            gate.let.set()
            report = handle.result(20)
            assert (report.status, report.reason) == ("cancelled", "enough")
            assert RunControl(store, "r").cancel("again"), "it is cancelled already"
        return seconds

    taken, allowed = within(trial, 1, turns=5)
    assert taken < allowed


REFUSED: list[tuple[type[Exception], Command]] = [
    (NodeNotFound, PauseBranch("nobody")),
    (NodeNotFound, SetNodeInputs("aftr", {"x": 1})),
    (InvalidState, SetNodeInputs("gate", {"x": 1})),
    (NodeAlreadyExists, AddNode(NodeSpec("extra", id="last"))),
    (ActionNotFound, AddNode(NodeSpec("extre", id="new"))),
    (DependencyNotFound, AddNodes([NodeSpec("extra", id=each, deps=["no"]) for each in "xy"])),
    (CycleError, SetNodeInputs("after", {"x": ref("last.result")})),
    (InvalidState, AddNode(NodeSpec("extra"), "another_graph")),
    (InputValidationError, Answer("ask", "many")),
]


@pytest.mark.slow
@pytest.mark.row("B24", "B25", "B26")
def test_a_refusal_is_the_same_as_in_the_process_of_the_run(store: Store, tmp_path: Path) -> None:
    gate = Gate()
    handle = started(gated(gate), gate, tmp_path)
    told: list[list[str]] = []
    for control in (handle, RunControl(store, "r")):
        texts = []
        for kind, command in REFUSED:
            with pytest.raises(kind) as caught:
                control.send(command)
            assert type(caught.value) is kind
            texts.append(str(caught.value))
            if isinstance(caught.value, ValidationError):
                assert all(problem.message for problem in caught.value.problems)
        told.append(texts)
    assert told[0] == told[1]
    gate.let.set()
    handle.result(20)


SENDING = """
import sys
sys.path.insert(0, {root!r})
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.model.commands import AddNode, NodeSpec
from dagger_dsl.store.storage import Store
with Store({url!r}) as store:
    run = RunControl(store, "r")
    for k in range({number}):
        spec = NodeSpec("extra", id=f"{name}_{{k}}", deps=["after"])
        run.send(AddNode(spec), wait=False)
    assert run.emit("done")
"""


@pytest.mark.slow
@pytest.mark.row("B37")
def test_commands_of_threads_and_processes_are_applied_once_each(
    store: Store, tmp_path: Path
) -> None:
    gate, number = Gate(), count(1_000) // 10
    flow = gated(gate)
    handle = started(flow, gate, tmp_path)
    root = str(Path(dagger_dsl.__file__).parents[1])
    senders = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                SENDING.format(root=root, url=url_of(tmp_path), number=number, name=name),
            ]
        )
        for name in ("p", "q")
    ]
    faults: list[BaseException] = []

    def send(thread: int) -> None:
        try:
            for k in range(number):
                assert handle.add_node(NodeSpec("extra", id=f"t{thread}_{k}", deps=["after"]))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=send, args=(k,)) for k in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert [each.wait(60) for each in senders] == [0, 0]
    assert faults == []
    assert handle.answer("ask", 1)
    gate.let.set()
    report = handle.result(60)
    assert report.success
    assert len(report.graph.nodes) == 4 + 10 * number
    assert flow.calls.count("extra") == 10 * number
    sent = store.requests("r")
    assert len(sent) == 2 * (number + 1)
    outcomes = [of_json(str(store.outcome_of("r", each))) for each, _ in sent]
    assert all("refused" not in each for each in outcomes)
    added = [each for each in store.load_run("r").commands if '"do":"add"' in each.body]
    assert len(added) == 10 * number, "none is recorded twice"


def test_an_unknown_run_and_a_completed_one_take_nothing(store: Store, tmp_path: Path) -> None:
    nobody = RunControl(store, "nobody")
    acts: list[Callable[[], object]] = [
        nobody.pause,
        nobody.questions,
        nobody.paused_branches,
        lambda: nobody.is_paused,
        lambda: nobody.answer("ask", 1),
    ]
    for act in acts:
        with pytest.raises(RunNotFound, match="'nobody'"):
            act()
    Workflow().note("a").run(database_url=url_of(tmp_path), run_id="done")
    done = RunControl(store, "done")
    for act in (done.pause, done.cancel, done.resume, lambda: done.emit("x")):
        with pytest.raises(InvalidState, match="run done is completed"):
            act()
    assert store.requests("done") == []
    assert done.questions() == []
    assert done.paused_branches() == {}


def test_an_owner_that_takes_no_turn_is_a_timeout_and_the_command_stands(
    store: Store, tmp_path: Path
) -> None:
    flow = Workflow().note("a").note("b", Answers([OSError(), 1]), after=["a"])
    flow.run(database_url=url_of(tmp_path), run_id="r")
    run = RunControl(store, "r")
    with Store(url_of(tmp_path)) as other:
        _, journal = other.claim_run("r")
        assert not run.send(PauseBranch("b", "look first"), wait=False)
        with pytest.raises(TimeoutError, match=r"run r .*it stands.*wait=False"):
            run.send(EmitEvent("x"), timeout=0.05)
        journal.close()
    assert flow.resume("r", url_of(tmp_path)).reason == "look first"
    assert [of_json(str(store.outcome_of("r", number)))["command"]["do"] for number in (1, 2)] == [
        "pause",
        "emit",
    ]


@pytest.mark.parametrize(
    ("command", "status"),
    [(EmitEvent("x"), "running"), (PauseRun("rest"), "paused"), (CancelRun("no"), "cancelled")],
)
def test_whose_owner_leaves_while_a_command_waits_is_not_waited_for(
    command: Command, status: str, store: Store, tmp_path: Path
) -> None:
    asking(tmp_path)
    with Store(url_of(tmp_path)) as other:
        _, journal = other.claim_run("r")
        journal.commit((), status="running")
        leaving = threading.Timer(0.1, journal.close)
        leaving.start()
        began = time.monotonic()
        applied = RunControl(store, "r").send(command)
        assert time.monotonic() - began < 5
        leaving.join()
    assert applied == (status != "running")
    assert store.load_run("r").status == status


def test_a_database_in_memory_says_that_nobody_looks_there(tmp_path: Path) -> None:
    gate = Gate()
    with Store("sqlite::memory:") as memory:
        flow = gated(gate)
        options = RunOptions(runner="threads", run_id="r")
        handle = engine.start(flow.graph(), flow.registry, None, options, store=memory)
        assert gate.begun.wait(20)
        with pytest.raises(InvalidState, match=r"in memory.* steer its handle"):
            RunControl(memory, "r").pause()
        gate.let.set()
        assert handle.result(20).status == "paused"
        assert not RunControl(memory, "r").answer("ask", 7)
        handle.resume()
        assert handle.result(20).value("ask") == 7


# --- runs that nobody executes --------------------------------------------------------------------


@pytest.mark.row("E11", "E13")
def test_an_answer_is_taken_by_the_next_resume_and_delivered_once(
    store: Store, tmp_path: Path
) -> None:
    flow = asking(tmp_path)
    run = RunControl(store, "r")
    (question,) = run.questions()
    assert (question.node_id, question.key, question.prompt) == ("ask", "default", "how many?")
    assert (question.default, question.expires) == (MISSING, None)
    with pytest.raises(InputValidationError, match="how many"):
        run.answer("ask", "many")
    assert store.requests("r") == []
    assert not run.answer("ask", 7, by="anna")
    assert run.questions() == []
    with pytest.raises(InvalidState, match="has its answer already"):
        run.answer("ask", 8)
    report = flow.resume("r", url_of(tmp_path))
    assert report.value("ask") == 7
    assert flow.calls == ["before", "after"]
    assert len(store.requests("r")) == 1
    (row,) = [each for each in store.load_run("r").attempts if each.node_id == "ask"]
    assert (row.attempt, row.state, row.meta) == (1, "completed", {"answered": {"by": "anna"}})


@pytest.mark.parametrize(
    ("node_id", "kind", "message"),
    [
        ("aks", NodeNotFound, "did you mean 'ask'"),
        ("before", InvalidState, "does not wait for a person; these do: 'ask'"),
        ("after", InvalidState, "does not wait"),
    ],
)
def test_an_answer_to_a_node_that_does_not_wait_is_refused_at_once(
    node_id: str, kind: type[Exception], message: str, store: Store, tmp_path: Path
) -> None:
    asking(tmp_path)
    with pytest.raises(kind, match=message):
        RunControl(store, "r").answer(node_id, 1)
    assert store.requests("r") == []


@pytest.mark.row("E14")
def test_for_a_run_that_stands_still_nobody_is_waited_for(tmp_path: Path) -> None:
    def trial() -> float:
        folder = Path(mkdtemp(dir=tmp_path))
        asking(folder)
        with Store(url_of(folder)) as store:
            run = RunControl(store, "r")
            began = time.monotonic()
            assert not run.disable_nodes(["after"])
            assert not run.add_node(NodeSpec("extra", id="new", deps=["before"]))
            assert not run.pause_branch("new", "look first")
            return time.monotonic() - began

    taken, allowed = within(trial, 1, turns=5)
    assert taken < allowed


@pytest.mark.row("E14", "B27", "B28")
def test_commands_of_a_run_that_stands_still_come_before_anything_else(
    store: Store, tmp_path: Path
) -> None:
    flow = Workflow().note("a", Answers([OSError("not yet"), 1]), on_failure="pause")
    flow.note("b", after=["a"]).note("c", after=["b"], branch="end")
    flow.registry.register(lambda: flow.calls.append("extra"), "extra")
    assert flow.run(database_url=url_of(tmp_path), run_id="r").status == "paused"
    run = RunControl(store, "r")
    assert not run.disable_nodes(["b"])
    assert not run.add_node(NodeSpec("extra", id="new", deps=["a"]))
    assert not run.pause_branch("new", "look first")
    for name in ("nobody", "en"):
        with pytest.raises(NodeNotFound):
            run.resume_branch(name)
    with pytest.raises(NodeNotFound, match="'end'; known: 'a', 'b', 'c', 'new'"):
        run.set_node_inputs("end", {})
    report = flow.resume("r", url_of(tmp_path))
    assert states(report) == {"a": "completed", "b": "skipped", "c": "skipped", "new": "pending"}
    assert run.paused_branches() == {"new": "look first"}
    assert not run.resume_branch("new"), "a node that was added is known"
    assert flow.resume("r", url_of(tmp_path)).success
    assert flow.calls == ["a", "a", "extra"]


@pytest.mark.row("E13")
def test_approving_and_rejecting_a_run_that_stands_still(store: Store, tmp_path: Path) -> None:
    for run_id, act in (("yes", "approve"), ("no", "reject")):
        flow = asking(tmp_path, sure, run_id=run_id)
        run = RunControl(store, run_id)
        assert not (run.approve("ask", by="anna") if act == "approve" else run.reject("ask", "no"))
        report = flow.resume(run_id, url_of(tmp_path))
        assert states(report)["ask"] == ("completed" if act == "approve" else "cancelled")
        if act == "reject":
            assert report.node_reports["after"].reason == "no (rejected)"
    flow = asking(tmp_path, run_id="number")
    with pytest.raises(InputValidationError, match="how many"):
        RunControl(store, "number").approve("ask")


def sure(ctx: NodeCtx) -> Any:
    return ctx.wait_for_human("sure?", bool)


#: What people can say of a question, each as it is refused when another one was first.
DECISIONS: dict[str, Callable[[RunControl], object]] = {
    "answer": lambda run: run.answer("ask", True),
    "approve": lambda run: run.approve("ask", by="anna"),
    "reject": lambda run: run.reject("ask", "no"),
}


@pytest.mark.parametrize("second", DECISIONS)
@pytest.mark.parametrize("first", DECISIONS)
@pytest.mark.row("E13")
def test_only_the_first_decision_about_a_question_counts(
    first: str, second: str, store: Store, tmp_path: Path
) -> None:
    flow = asking(tmp_path, sure)
    run = RunControl(store, "r")
    assert not DECISIONS[first](run)
    assert run.questions() == [], "its answer is under way"
    sent = store.requests("r")
    message = "to be cancelled already" if first == "reject" else "has its answer already"
    with pytest.raises(InvalidState, match=message):
        DECISIONS[second](run)
    assert store.requests("r") == sent
    report = flow.resume("r", url_of(tmp_path))
    assert states(report)["ask"] == ("cancelled" if first == "reject" else "completed")


@pytest.mark.parametrize("first", ["approve", "reject"])
@pytest.mark.row("E13")
def test_only_the_first_decision_about_a_paused_branch_counts(
    first: str, store: Store, tmp_path: Path
) -> None:
    flow = Workflow().note("a", Answers([OSError("not yet"), 1]), on_failure="pause")
    flow.note("b", after=["a"])
    flow.run(database_url=url_of(tmp_path), run_id="r")
    run = RunControl(store, "r")
    run.pause_branch("b")
    assert flow.resume("r", url_of(tmp_path)).status == "paused"
    assert run.paused_branches() == {"b": "paused"}
    getattr(run, first)("b")
    assert run.paused_branches() == {}, "somebody has decided"
    for second in ("approve", "reject"):
        message = "is approved already" if first == "approve" else "to be cancelled already"
        with pytest.raises(InvalidState, match=message):
            getattr(run, second)("b")
    if first == "approve":
        run.pause_branch("b", "once more")
        assert not run.approve("b"), "it was paused again since"
    report = flow.resume("r", url_of(tmp_path))
    assert states(report)["b"] == ("completed" if first == "approve" else "cancelled")


@pytest.mark.row("E13")
def test_no_answer_is_taken_below_a_branch_that_is_going_to_be_cancelled(
    store: Store, tmp_path: Path
) -> None:
    """But where another way leads to whoever asks, and the branch ends only its own part."""
    flow = Workflow().note("before").note("aside")
    flow.add("ask", sure, after=["before"])
    flow.add("both", sure, after=["before", "aside"])
    flow.run(database_url=url_of(tmp_path), run_id="r")
    run = RunControl(store, "r")
    assert not run.cancel_branch("before", "enough")
    assert [each.node_id for each in run.questions()] == ["both"]
    with pytest.raises(InvalidState, match="'before' of run r is to be cancelled already"):
        run.answer("ask", True)
    assert not run.answer("both", True)
    report = flow.resume("r", url_of(tmp_path))
    assert states(report) == {
        "before": "completed",
        "aside": "completed",
        "ask": "cancelled",
        "both": "completed",
    }


def test_a_handle_whose_run_stands_still_takes_one_decision(tmp_path: Path) -> None:
    flow = Workflow().add("ask", sure)
    options = RunOptions(database_url=url_of(tmp_path), run_id="r")
    handle = engine.start(flow.graph(), flow.registry, None, options)
    assert handle.result(20).status == "paused"
    assert not handle.reject("ask")
    with pytest.raises(InvalidState, match="to be cancelled already"):
        handle.approve("ask")
    with pytest.raises(ActionNotFound):
        handle.add_node(NodeSpec("nope"))


@pytest.mark.row("E11")
def test_of_answers_at_the_same_time_one_is_taken(tmp_path: Path) -> None:
    flow = asking(tmp_path)
    together = threading.Barrier(8)
    taken, refused = list[int](), list[InvalidState]()

    def send(number: int) -> None:
        with Store(url_of(tmp_path)) as own:
            run = RunControl(own, "r")
            together.wait(20)
            try:
                run.answer("ask", number)
                taken.append(number)
            except InvalidState as error:
                refused.append(error)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(taken), len(refused)) == (1, 7)
    assert all("has its answer already" in str(each) for each in refused)
    report = flow.resume("r", url_of(tmp_path))
    assert report.value("ask") == taken[0]
    assert report.hook_errors == ()


def test_an_answer_counts_from_the_moment_at_which_it_is_sent(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one comes after the first look and before this one is written."""
    asking(tmp_path)
    looked = RunControl._inbox
    others = [5]

    def look(self: RunControl) -> Any:
        found = looked(self)
        if others:
            RunControl(store, "r").answer("ask", others.pop())
        return found

    monkeypatch.setattr(RunControl, "_inbox", look)
    with pytest.raises(InvalidState, match="has its answer already"):
        RunControl(store, "r").answer("ask", 6)
    assert len(store.requests("r")) == 1


def test_an_answer_to_another_invocation_says_which_ones_wait(store: Store, tmp_path: Path) -> None:
    def each(x: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_human(f"{x}?", int)

    flow = Workflow().add("ask", each, give={"x": [1, 2]}, map_over="x")
    assert flow.run(database_url=url_of(tmp_path), run_id="r").status == "paused"
    run = RunControl(store, "r")
    with pytest.raises(InvalidState, match=r"these do: 'ask' \(key '0'\), 'ask' \(key '1'\)"):
        run.answer("ask", 7)
    with pytest.raises(InvalidState, match=r"node 'ask' \(key '5'\) of run r does not wait"):
        run.answer("ask", 7, "5")
    run.answer("ask", 7, "0")
    assert [each.key for each in run.questions()] == ["1"]
    assert not run.reject("ask"), "one of them is open"


@pytest.mark.parametrize(
    ("command", "kind", "message"),
    [
        (AddNode(NodeSpec("note", id="b")), NodeAlreadyExists, "'b'"),
        (AddNode(NodeSpec("note", id="sent")), NodeAlreadyExists, "'sent'"),
        (AddNode(NodeSpec("extra", id="n", deps=["nobody"])), DependencyNotFound, "nobody"),
        (
            AddNode(NodeSpec("extra", id="n", inputs={"x": ref("nobody.result")})),
            ValidationError,
            "nobod",
        ),
        (AddNode(NodeSpec("extra", id="n", inputs={"x": ref("inputs.y")})), DaggerError, "'y'"),
        (AddNode(NodeSpec("extra", id="n"), "other"), InvalidState, "graph 'other'"),
        (
            AddNodes(
                [NodeSpec("extra", id="n", deps=["m"]), NodeSpec("extra", id="m", deps=["n"])]
            ),
            CycleError,
            "n -> m -> n",
        ),
        (AddNodes([NodeSpec("extra", id="n")] * 2), NodeAlreadyExists, "'n'"),
        (SetNodeInputs("b", {"x": ref("c.result")}), CycleError, "wait for each other"),
        (SetNodeInputs("nobody", {}), NodeNotFound, "nobody"),
        (SetNodeInputs("done", {"x": 1}), InvalidState, "'done' is completed, so its inputs"),
        (SetNodesEnabled(["done"], False), InvalidState, "'done' is completed, so whether"),
    ],
)
def test_a_run_that_stands_still_refuses_at_once_what_its_graph_forbids(
    command: Command, kind: type[Exception], message: str, store: Store, tmp_path: Path
) -> None:
    flow = Workflow().note("done").note("a", OSError("not yet"), on_failure="pause")
    flow.note("b", after=["a"]).note("c", after=["b"])
    flow.registry.register(lambda x=0: x, "extra")
    assert flow.run(database_url=url_of(tmp_path), run_id="r").status == "paused"
    run = RunControl(store, "r")
    assert not run.add_node(NodeSpec("extra", id="sent", deps=["c"]))
    sent = store.requests("r")
    with pytest.raises(kind, match=message):
        run.send(command)
    assert store.requests("r") == sent
    assert not run.add_node(NodeSpec("extra", id="more", deps=["sent"])), "what waits counts"
    assert not run.add_node(NodeSpec("extra", id="sent", deps=["c"])), "the same once more"


#: What the graph allows, and the actions of `strict` do not.
UNFIT: list[tuple[Command, type[Exception], str]] = [
    (AddNode(NodeSpec("nope", id="n")), ActionNotFound, "'nope'"),
    (AddNode(NodeSpec("extra", id="n", inputs={"y": 1})), ValidationError, "'y'"),
    (AddNode(NodeSpec("extra", id="n", inputs={"x": "text"})), ValidationError, "text"),
    (AddNode(NodeSpec("needy", id="n")), ValidationError, "'x'"),
    (SetNodeInputs("strict", {"nope": 1}), ValidationError, "'nope'"),
]


def strict(folder: Path) -> Workflow:
    """Return a workflow whose run stands still, and whose actions take what they name alone."""

    def extra(x: int = 0) -> int:
        return x

    def needy(x: int) -> int:
        return x

    flow = Workflow().add("ask", ask).add("strict", extra, after=["ask"])
    flow.registry.register(extra, "extra")
    flow.registry.register(needy, "needy")
    assert flow.run(database_url=url_of(folder), run_id="r").status == "paused"
    return flow


@pytest.mark.parametrize(("command", "kind", "message"), UNFIT)
def test_who_has_the_actions_of_a_run_that_stands_still_hears_what_they_refuse(
    command: Command, kind: type[Exception], message: str, store: Store, tmp_path: Path
) -> None:
    flow = strict(tmp_path)
    with pytest.raises(kind, match=message):
        RunControl(store, "r", flow.registry).send(command)
    assert store.requests("r") == []
    assert not RunControl(store, "r", Registry()).send(command), "these are not its actions"


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize(("command", "kind", "message"), UNFIT)
def test_what_only_the_actions_refuse_is_logged_and_reported_by_the_resume(
    command: Command,
    kind: type[Exception],
    message: str,
    hooked: bool,
    store: Store,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    flow = strict(tmp_path)
    run = RunControl(store, "r")
    assert not run.send(command), "nobody knows the actions here"
    run.answer("ask", 7)
    hooks = [lambda _ctx, _event: None] if hooked else []
    report = flow.resume("r", url_of(tmp_path), hooks=hooks)
    assert report.success
    (refused,) = report.hook_errors
    assert isinstance(refused, kind)
    assert message in str(refused)
    assert "a command of request 1 was refused" in caplog.text


@pytest.mark.row("E6", "E19")
def test_a_run_that_stands_still_is_cancelled_and_not_resumed_from_afar(
    store: Store, tmp_path: Path
) -> None:
    flow = asking(tmp_path)
    run = RunControl(store, "r")
    assert run.pause("once more"), "it is paused"
    with pytest.raises(InvalidState, match=r"executor\.resume\('r'\)"):
        run.resume()
    assert run.cancel("enough")
    assert run.status == "cancelled"
    assert run.questions() == []
    with pytest.raises(InvalidState, match="does not wait"):
        run.answer("ask", 7)
    with pytest.raises(InvalidState, match="run r has ended already: it is cancelled"):
        run.pause()
    stored = store.load_run("r")
    assert stored.error == {"reason": "enough"}
    shown = stored_report(stored)
    assert states(shown) == {"before": "completed", "ask": "cancelled", "after": "cancelled"}
    assert shown.node_reports["after"].reason == "enough"
    assert shown.node_reports["after"].attempts == 0
    assert flow.resume("r", url_of(tmp_path)).status == "paused", "it asks again"
    run.answer("ask", 7)
    assert flow.resume("r", url_of(tmp_path)).success, "a cancelled run goes on"
    assert flow.calls == ["before", "after"]


@pytest.mark.row("E6")
def test_a_grown_and_mapped_run_that_is_cancelled_goes_on(store: Store, tmp_path: Path) -> None:
    def each(x: int, ctx: NodeCtx) -> Any:
        return ctx.wait_for_human(f"{x}?", int) if x == 2 else x

    flow = Workflow().add("all", each, give={"x": [1, 2]}, map_over="x")
    flow.registry.register(lambda: flow.calls.append("extra"), "extra")
    grow = AddNode(NodeSpec("extra", id="new", deps=["all"]))
    flow.add("first", lambda: NodeOutput.success({"result": 1}, commands=[grow]))
    assert flow.run(database_url=url_of(tmp_path), run_id="r").status == "paused"
    run = RunControl(store, "r")
    assert run.cancel("enough")
    found = states(stored_report(store.load_run("r")))
    assert found == {"all": "cancelled", "first": "completed", "new": "cancelled"}
    assert flow.resume("r", url_of(tmp_path)).status == "paused"
    (question,) = run.questions()
    run.answer("all", 5, question.key)
    report = flow.resume("r", url_of(tmp_path))
    assert report.value("all") == [1, 5]
    assert flow.calls == ["extra"]


def test_a_failed_run_is_neither_paused_nor_cancelled(store: Store, tmp_path: Path) -> None:
    flow = Workflow().note("bad", ValueError("x"))
    flow.run(database_url=url_of(tmp_path), run_id="r")
    run = RunControl(store, "r")
    for act in (run.pause, run.cancel):
        with pytest.raises(InvalidState, match="run r has ended already: it is failed"):
            act()
    assert store.load_run("r").status == "failed"


def test_what_is_no_command_is_refused_before_it_is_sent(store: Store, tmp_path: Path) -> None:
    asking(tmp_path)
    with pytest.raises(ConfigurationError):
        RunControl(store, "r").send("pause")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="timeout must be"):
        RunControl(store, "r").send(Answer("ask", 7), timeout="x")  # type: ignore[arg-type]
    assert store.requests("r") == []


DYING = """
import os, sys
sys.path.insert(0, {root!r})
from dagger_dsl import engine
from dagger_dsl.model.config import RunOptions
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.registry import Registry
from tests.benchmarks.measure import within
registry = Registry()
registry.register(lambda: 1, "one")
registry.register(lambda: os._exit(9), "die")
graph = Graph("g", [Node("one", "one"), Node("die", "die", dependencies=["one"])])
engine.run(graph, registry, None, RunOptions(database_url={url!r}, run_id="r"))
"""


@pytest.mark.row("E18")
@pytest.mark.parametrize(("verb", "status"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_run_whose_process_died_is_cancelled_or_paused_at_once(
    verb: str, status: str, store: Store, tmp_path: Path
) -> None:
    code = DYING.format(root=str(Path(dagger_dsl.__file__).parents[1]), url=url_of(tmp_path))
    died = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert died.returncode == 9
    run: Steered = RunControl(store, "r")
    assert [each.run_id for each in store.orphans()] == ["r"]
    assert not run.emit("x"), "nobody executes it"
    assert getattr(run, verb)("not now")
    assert store.orphans() == []
    stored = store.load_run("r")
    assert (stored.status, stored.error) == (status, {"reason": "not now"})
    flow = Workflow().note("one").note("die", after=["one"])
    flow.registry.register(lambda: 1, "one")
    flow.registry.register(lambda: 2, "die")
    options = RunOptions(database_url=url_of(tmp_path))
    assert engine.resume("r", flow.registry, options).outputs == {"die": 2}
