"""A recorded run that goes on: what was started and has not ended is running."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from dagger_dsl import DAG, FSM, FSMReturn, NodeCtx, NodeState, Registry, RetryPolicy, action
from dagger_dsl.engine.bindings import bound_inputs
from dagger_dsl.engine.remote import RunControl
from dagger_dsl.engine.report import RunReport
from dagger_dsl.engine.words import standing
from dagger_dsl.model.people import HumanRequest
from dagger_dsl.model.states import RunStatus
from dagger_dsl.store.storage import Store
from dagger_dsl.views.stored import stored_report


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
@pytest.mark.parametrize("delay", [0.0, 0.001])
def test_what_is_running_is_shown_so_also_when_it_is_tried_again(
    tmp_path: Path, runner: str, delay: float
) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    begun, go_on = threading.Event(), threading.Event()

    with Registry():

        @action
        def first() -> int:
            return 1

        @action(retry=RetryPolicy(max_attempts=2, base_delay=delay))
        def second(x: int, ctx: NodeCtx) -> int:
            if ctx.attempt == 1:
                raise ValueError("not yet")
            begun.set()
            assert go_on.wait(60)
            return x

        @action
        def third(x: int) -> int:
            return x

        dag = DAG(first >> second >> third, name="three")
        handle = dag.start(database_url=url, run_id="r", runner=runner)
    try:
        assert begun.wait(60)
        with Store(f"{url}?mode=ro") as store:
            report = stored_report(store.load_run("r"), url, store)
        assert list(report.states().values()) == [
            NodeState.COMPLETED,
            NodeState.RUNNING,
            NodeState.PENDING,
        ]
        assert report.node_reports["second"].state is NodeState.RUNNING
        assert report.node_reports["second"].attempts == 1
        assert report.explain("third").startswith(
            "'third' has not started: it needs 'second', which is running"
        )
        assert [each.value for each in bound_inputs(report, "second")] == [1]
        (missing,) = bound_inputs(report, "third")
        assert missing.missing == "'second' is running"
    finally:
        go_on.set()
        handle.result()
    with Store(url) as store:
        report = stored_report(store.load_run("r"), url, store)
    assert set(report.states().values()) == {NodeState.COMPLETED}


def copy_of(url: str, folder: Path) -> str:
    """Return a database like another one, whose runs nobody executes."""
    path = folder / "copy.db"
    source = sqlite3.connect(url.removeprefix("sqlite:"))
    with closing(source) as there, closing(sqlite3.connect(path)) as here:
        there.backup(here)
    return f"sqlite:{path}"


def read(url: str) -> RunReport:
    with Store(f"{url}?mode=ro") as store:
        return stored_report(store.load_run("r"), url, store)


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_a_run_that_goes_on_is_not_told_by_its_failed_attempts(tmp_path: Path, runner: str) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    failed, items, go_on = threading.Event(), threading.Semaphore(0), threading.Event()

    with Registry():

        @action
        def load() -> list[int]:
            return list(range(4))

        @action(retry=RetryPolicy(max_attempts=4, base_delay=60.0))
        def shaky(load: list[int]) -> int:
            failed.set()
            raise ConnectionError("nobody answers\nat all")

        @action
        def work(x: int) -> int:
            time.sleep(0.02)  # what takes no time is recorded together with what comes next
            if x == 2:
                items.release()
                assert go_on.wait(60)
            return x

        @action(trigger="done")
        def end(shaky: int | None = None, work: list[int] | None = None) -> None:
            pass

        with DAG("slow") as dag:
            found = load()
            end(shaky(found), work.map(found, max_parallel=1))
        handle = dag.start(database_url=url, run_id="r", runner=runner)
    try:
        assert failed.wait(60)
        assert items.acquire(timeout=60)
        report = read(url)
        live = handle.report
        for each in (report, live):
            assert each.states() == {
                "load": NodeState.COMPLETED,
                "shaky": NodeState.WAITING,
                "work": NodeState.RUNNING,
                "end": NodeState.PENDING,
            }
            shown = each.node_reports["shaky"]
            assert shown.reason == "waits for attempt 2 of 4: ConnectionError: nobody answers"
            assert (shown.attempts, shown.error) == (1, None)
            assert each.error is None
            assert each.errors == {}
        assert report.node_reports["work"].reason == "2 of 4 calls ended"
        assert report.counts("work") == {"completed": 2, "pending": 2}
        assert report.explain("end").split("\n")[:3] == [
            "'end' has not started: trigger 'done' waits until every dependency has ended",
            "  'shaky', which waits for attempt 2 of 4",
            "  'work', which is running",
        ]
        assert "shaky <- shaky.result: not yet written" in report.explain("end")
        assert report.explain("work").startswith("'work' is running: 2 of 4 calls ended")
        assert not report.orphaned
        assert report.finished_at is None
        assert report.duration > 0
        assert standing(report).startswith("running for ")
        left = read(copy_of(url, tmp_path))
    finally:
        go_on.set()
        handle.cancel("enough")
        handle.wait()
    assert left.orphaned
    assert left.status is RunStatus.RUNNING
    assert left.states()["work"] is NodeState.PENDING, "nobody calls it"
    assert left.states()["shaky"] is NodeState.WAITING
    assert left.finished_at is not None
    assert left.started_at is not None
    assert left.duration == (left.finished_at - left.started_at).total_seconds() > 0
    died = "'work' had not ended when the process of the run died: 2 of 4 calls ended"
    assert left.explain("work").split("\n")[0] == died
    assert standing(left).startswith("left by a process that died, after ")
    for each in (report, left):
        assert "This answers it" not in each.to_html()
    assert ">process died<" in left.to_html()
    page = left.to_html()
    assert "the process that executed the run has died" in page
    assert "dagger-dsl resume r" in page
    assert "left by a process that died" in left.to_svg()
    over = read(url)
    assert over.states()["shaky"] is NodeState.CANCELLED
    cancelled = over.node_reports["shaky"]
    assert cancelled.attempts == 1, "the attempt before the end is not forgotten"
    assert cancelled.duration is not None
    assert len(over.attempts("shaky")) == 1


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_of_a_machine_the_state_that_it_is_in_is_running(tmp_path: Path, runner: str) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    inside, go_on = threading.Event(), threading.Event()
    machine = FSM("m", max_cycles=4, registry=Registry())

    @machine.state(initial=True)
    def ping(n: int = 0) -> FSMReturn:
        if n == 1:
            inside.set()
            assert go_on.wait(60)
        return FSMReturn("pong", {"n": n})

    @machine.state
    def pong(n: int) -> FSMReturn:
        return FSMReturn("ping", {"n": n + 1})

    handle = machine.start(database_url=url, run_id="r", runner=runner)
    try:
        assert inside.wait(60)
        report = read(url)
    finally:
        go_on.set()
        handle.wait()
    assert report.states() == {"ping": NodeState.RUNNING, "pong": NodeState.COMPLETED}
    assert report.history is not None
    assert report.history.current == "ping"
    over, live = read(url), handle.report
    assert over.states() == live.states()
    for each in (over, live):
        assert each.status is RunStatus.FAILED
        assert each.error is not None
        assert each.error.type == "dagger_dsl.errors.MaxCyclesExceeded"
        assert "has not ended after max_cycles=4 cycles" in str(each.to_table().caption)


def test_what_has_its_answer_waits_for_nobody(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    with Registry():

        @action
        def ask(ctx: NodeCtx) -> HumanRequest:
            return ctx.wait_for_human("Pay?", bool)

        @action
        def pay(approved: bool) -> str:
            return "paid"

        dag = DAG(ask >> pay, name="invoice")
        handle = dag.start(database_url=url, run_id="r")
        handle.wait()
    report = read(url)
    assert report.states()["ask"] is NodeState.WAITING
    assert report.explain("pay").count("Pay?") == 1
    assert report.explain("ask").split("\n")[0] == "'ask' waits for a person: Pay?"
    with Store(url) as store:
        RunControl(store, "r").answer("ask", True)
    report = read(url)
    assert report.states()["ask"] is NodeState.PENDING
    reason = "has its answer: it goes on when the run is resumed"
    assert report.node_reports["ask"].reason == reason
    assert report.explain("pay").split("\n")[:3] == [
        "'pay' has not started: it needs 'ask', which has its answer",
        f"'ask' {reason}",
        "the run is paused",
    ]
    page = report.to_html()
    assert "This answers it" not in page
    assert "has its answer" in page


def test_outputs_are_bound_by_their_names(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    with Registry():

        @action(outputs=["low", "high"])
        def bounds() -> dict[str, int]:
            return {"low": 1, "high": 9}

        @action
        def spread(low: int, high: int, scale: int = 1) -> int:
            return (high - low) * scale

        with DAG("bounds") as dag:
            found = bounds()
            spread(found["low"], found["high"], scale=dag.input("scale", int, default=2))
        dag.run(database_url=url, run_id="r")
    with Store(url) as store:
        report = stored_report(store.load_run("r"), url, store)
    bound = {each.name: (each.reference, each.value) for each in bound_inputs(report, "spread")}
    assert bound == {
        "low": ("bounds.low", 1),
        "high": ("bounds.high", 9),
        "scale": ("inputs.scale", 2),
    }


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_the_record_has_the_times_that_the_run_itself_reports(tmp_path: Path, runner: str) -> None:
    url = f"sqlite:{tmp_path / 'state.db'}"
    with Registry():

        @action
        def one() -> int:
            return 1

        with DAG("one") as dag:
            one()
        live = dag.start(database_url=url, run_id="r", runner=runner)
        live.wait()
    report, shown = read(url), live.report
    assert report.started_at == shown.started_at
    assert report.finished_at == shown.finished_at
    assert report.duration == pytest.approx(shown.duration, abs=2e-6)
    assert standing(report).startswith("completed in ")
