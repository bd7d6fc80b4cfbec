"""When outcomes reach the disk: the `sync` rule, the 5 ms rule, one turn."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import engine
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.protocols import Row
from dagger_dsl.store.journal import RunJournal
from dagger_dsl.store.storage import Store
from dagger_dsl.testing import FakeClock
from tests.engine.helpers import IMMEDIATE, Answers, Clocked, Workflow, states, url_of
from tests.engine.simulation import MemoryJournal, MemoryStore
from tests.runners.helpers import eventually


class Journal(MemoryJournal):
    """Notes commits and calls in one list."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.log: list[str] = []
        self.plan_ids: list[str] = []

    def commit(self, rows: Any, released: Any = None, **more: Any) -> None:
        """Note what is recorded and what starts."""
        super().commit(rows, released, **more)
        ended = ",".join(row[0] for row in rows)
        starts = ",".join(self.plan_ids[slot] for slot in released or ())
        self.log.append(f"commit {ended} | {starts}")


class Timed(Workflow):
    """A workflow whose bodies take time on a clock of ours, and note their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.journal = Journal()

    def takes(self, node_id: str, seconds: float, **fields: Any) -> Timed:
        """Add a node that takes so many seconds."""

        def body() -> str:
            self.journal.log.append(node_id)
            self.clock.advance(seconds)
            return node_id

        self.add(node_id, body, **fields)
        self.journal.plan_ids.append(node_id)
        return self

    def log(self, **config: Any) -> list[str]:
        """Run it and return calls and commits in their order."""
        played = Clocked(self, config=DagConfig(**config), clock=self.clock, journal=self.journal)
        played.run().raise_for_failure()
        return self.journal.log


def test_what_an_outcome_enables_starts_after_its_commit() -> None:
    flow = Timed().takes("a", 1e-4).takes("b", 1e-4, after=["a"]).takes("c", 1e-4, after=["b"])
    assert flow.log() == [
        "commit  | a",
        "a",
        "commit a | b",
        "b",
        "commit b | c",
        "c",
        "commit c | ",
    ]


def test_the_starts_that_a_commit_releases_are_recorded_in_it() -> None:
    flow = Timed().takes("a", 0).takes("b", 0, after=["a"]).takes("c", 0, after=["a"])
    assert flow.log() == ["commit  | a", "a", "commit a | b,c", "b", "c", "commit b,c | "]


def test_a_fan_of_quick_nodes_is_a_few_commits() -> None:
    flow = Timed()
    for k in range(1_000):
        flow.takes(f"n{k}", 1e-6)
    log = flow.log()
    assert len([each for each in log if each.startswith("commit")]) == 2


def test_nothing_is_launched_once_an_outcome_has_waited_for_5_ms() -> None:
    flow = Timed()
    for k in range(8):
        flow.takes(f"n{k}", 0.002)
    log = flow.log()
    # n0 has ended at 2 ms, so it has waited 4 ms when n3 is launched and 6 ms before n4 could be.
    assert log[1:5] == ["n0", "n1", "n2", "n3"]
    assert log[5:] == [
        "commit n0,n1,n2,n3 | ",
        "n4",
        "n5",
        "n6",
        "n7",
        "commit n4,n5,n6,n7 | ",
    ]


def test_the_rule_is_exact_whenever_the_coordinator_was_stepped_last() -> None:
    """An outcome must not become older than the interval between two looks."""
    flow = Timed()
    for k, seconds in enumerate((0.0001, 0.0009, 0.0009, 0.0009, 0.0009, 0.0009, 0.0006, 0.1)):
        flow.takes(f"n{k}", seconds)
    flow.takes("last", 0)
    launched_at: dict[str, float] = {}
    committed: set[str] = set()
    ended: dict[str, float] = {}
    oldest_at_launch = []

    class Watch(Journal):
        def commit(self, rows: Any, released: Any = None, **more: Any) -> None:
            committed.update(row[0] for row in rows)
            super().commit(rows, released, **more)

    journal = Watch()
    journal.plan_ids = flow.journal.plan_ids
    for node in flow.nodes:
        action = flow.registry[node.action]
        original = action.fn

        def body(original: Any = original, node_id: str = node.id) -> Any:
            launched_at[node_id] = flow.clock()
            open_ = [at for name, at in ended.items() if name not in committed]
            oldest_at_launch.append(flow.clock() - min(open_, default=flow.clock()))
            try:
                return original()
            finally:
                ended[node_id] = flow.clock()

        flow.registry.register(body, node.action, replace=True)
    Clocked(flow, clock=flow.clock, journal=journal).run().raise_for_failure()
    assert max(oldest_at_launch) < 0.005


def test_an_interval_of_0_commits_every_outcome() -> None:
    flow = Timed()
    for k in range(4):
        flow.takes(f"n{k}", 1e-6)
    commits = [each for each in flow.log(flush_interval=0) if each.startswith("commit")]
    assert commits == [
        "commit  | n0,n1,n2,n3",
        "commit n0 | ",
        "commit n1 | ",
        "commit n2 | ",
        "commit n3 | ",
    ]


def test_a_longer_interval_waits_longer() -> None:
    flow = Timed()
    for k in range(8):
        flow.takes(f"n{k}", 0.002)
    log = flow.log(flush_interval=0.5)
    assert [each for each in log if each.startswith("commit")][1:] == [
        "commit n0,n1,n2,n3,n4,n5,n6,n7 | "
    ]


def test_before_it_waits_the_coordinator_commits() -> None:
    """A retry that waits an hour must not keep the outcome of its first attempt."""
    flow = Workflow().note("flaky", Answers([ConnectionError(), 1]), try_count=2)
    journal = Journal()
    journal.plan_ids = ["flaky"]
    clock = FakeClock()
    seen: list[list[str]] = []
    real = clock.advance

    def advance(seconds: float) -> float:
        seen.append([row[3] for row in journal.store.in_order()])
        return real(seconds)

    clock.advance = advance  # type: ignore[method-assign]
    played = Clocked(flow, clock=clock, journal=journal)
    played.run().raise_for_failure()
    assert played.waits == [2.0]
    assert seen == [["failed"]]


def test_outcomes_do_not_wait_for_long_bodies_beside_them(tmp_path: Path) -> None:
    """Calls are released and every worker is busy: what has ended is committed all the same."""
    go_on = threading.Event()
    flow = Workflow()
    flow.add("a", lambda: 1).add("b", lambda: 2)
    for k in range(3):
        flow.add(f"long{k}", go_on.wait)
    with Store(url_of(tmp_path)) as store:
        handle = engine.start(
            flow.graph(),
            flow.registry,
            None,
            RunOptions(runner="threads", max_workers=2, run_id="r"),
            store=store,
        )
        try:
            eventually(
                lambda: {name for name, _ in store.load_run("r").nodes} == {"a", "b"},
                "both outcomes are recorded while the long bodies run",
            )
        finally:
            go_on.set()
        assert handle.result(20).success


def test_one_turn_takes_all_outcomes_commits_them_and_shows_them_then() -> None:
    """Hooks see a result only after its commit; what it enables starts after the hooks."""
    flow = Timed().takes("a", 0).takes("b", 0, after=["a"])

    def hook(_ctx: Any, event: Any) -> None:
        flow.journal.log.append(f"{type(event).__name__} {event.node.node_id}")

    Clocked(flow, clock=flow.clock, journal=flow.journal, hooks=[hook]).run()
    assert flow.journal.log == [
        "commit  | a",
        "NodeStarted a",
        "a",
        "commit a | ",
        "NodeCompleted a",
        "commit  | b",  # with the acknowledgement
        "NodeStarted b",
        "b",
        "commit b | ",
        "NodeCompleted b",
        "commit  | ",
    ]


def test_what_took_long_is_committed_before_the_next_launch() -> None:
    """It is not lost while the next call runs, however long that takes."""
    flow = Timed().takes("short", 0.002).takes("long", 3600).takes("longer", 7200)
    assert flow.log()[1:] == ["short", "long", "commit short,long | ", "longer", "commit longer | "]


@pytest.mark.row("D12")
def test_each_commit_holds_what_is_new_and_nothing_else() -> None:
    flow = Timed()
    for k in range(20):
        flow.takes(f"n{k}", 0.001, after=[f"n{k - 1}"] if k else ())
    flow.log()
    sizes = [len(rows) for rows, _ in flow.journal.commits]
    assert sizes == [0, *[1] * 20]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_every_level_has_everything_at_the_end(
    durability: str, runner: str, tmp_path: Path
) -> None:
    flow = Workflow().note("flaky", Answers([ConnectionError(), 1]), try_count=2, retry=IMMEDIATE)
    flow.note("route", "there").note("there").when("route", "there", "there")
    flow.note("elsewhere").when("route", "elsewhere", "elsewhere")
    url = url_of(tmp_path)
    report = flow.run(runner, database_url=url, durability=durability, run_id="r")
    with Store(url) as store:
        stored = store.load_run("r")
    assert stored.status == "completed"
    assert {name: node.state for (name, _), node in stored.nodes.items()} == states(report)
    rows = [(node.node_id, node.attempt, node.state) for node in stored.attempts]
    assert rows.index(("flaky", 1, "failed")) < rows.index(("flaky", 2, "completed"))
    assert ("elsewhere", 0, "skipped") in rows


def test_rows_say_what_was_called_when_and_for_how_long() -> None:
    flow = Timed().takes("a", 1.5)
    flow.note("bad", ValueError("x"), on_failure="continue", after=["a"]).note("c", after=["bad"])
    flow.journal.plan_ids += ["bad", "c"]
    Clocked(flow, clock=flow.clock, journal=flow.journal).run()
    rows: dict[str, Row] = {row[0]: row for row in flow.journal.store.in_order()}
    assert rows["a"][2:5] == (1, "completed", '"a"')
    assert rows["a"][7] == pytest.approx(1_500.0)
    assert rows["bad"][2:4] == (1, "failed")
    assert json.loads(str(rows["bad"][8]))["message"] == "x"
    assert rows["c"][2:4] == (0, "skipped")
    assert rows["c"][6:8] == (None, None)
    assert "upstream_failed" in str(rows["c"][9])


@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_in_the_middle_of_a_commit_loses_nothing(
    runner: str, moment: str, tmp_path: Path
) -> None:
    """Ctrl-C records what ended, whether or not the commit it fell into had taken effect."""
    flow = Workflow().note("a", 1).note("b", 2, after=["a"]).note("c", 3, after=["b"])
    url = url_of(tmp_path)
    with Store(url) as store:
        create = store.create_run

        def create_run(**options: Any) -> Any:
            journal = create(**options)
            commit = journal.commit

            def interrupted(rows: Any, *more: Any, **options: Any) -> None:
                if "b" in [row[0] for row in rows] and not options.get("replay"):
                    if moment == "after":
                        commit(rows, *more, **options)
                    raise KeyboardInterrupt
                commit(rows, *more, **options)

            journal.commit = interrupted  # type: ignore[method-assign]
            return journal

        store.create_run = create_run  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            engine.run(
                flow.graph(),
                flow.registry,
                None,
                RunOptions(runner=runner, run_id="r"),
                store=store,
            )
        assert flow.calls == ["a", "b"]
        stored = store.load_run("r")
        assert stored.status == "cancelled"
        assert {name for (name, _), node in stored.nodes.items() if node.state == "completed"} == {
            "a",
            "b",
        }
    report = flow.resume("r", url, runner=runner)
    assert report.success
    assert flow.calls == ["a", "b", "c"]


def test_a_runner_that_ends_late_records_before_it_does(tmp_path: Path) -> None:
    """The last outcomes are recorded with the end only where the end follows at once."""
    url = url_of(tmp_path)
    seen: list[set[str]] = []

    async def slow() -> None:
        await asyncio.to_thread(time.sleep, 1.0)

    def look() -> None:
        time.sleep(0.6)
        with Store(url) as store:
            seen.append({name for name, _ in store.load_run("r").nodes})

    flow = Workflow().add("slow", slow, timeout=0.05, on_failure="continue")
    flow.add("long", lambda: time.sleep(0.2))
    watching = threading.Thread(target=look)
    watching.start()
    flow.run("asyncio", database_url=url, run_id="r")  # the loop waits for the thread of `slow`
    watching.join()
    assert seen == [{"slow", "long"}]


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_of_the_last_transaction_loses_nothing(
    after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(tmp_path)
    write, interrupts = RunJournal._write, [1]

    def interrupted(self: RunJournal, batches: Any) -> None:
        ends = any(each.ending is not None for each in batches)
        if ends and interrupts and not after:
            raise KeyboardInterrupt(interrupts.pop())
        write(self, batches)
        if ends and interrupts:
            raise KeyboardInterrupt(interrupts.pop())

    monkeypatch.setattr(RunJournal, "_write", interrupted)
    flow = Workflow().note("a", 1).note("b", 2, after=["a"])
    with pytest.raises(KeyboardInterrupt):
        flow.run(database_url=url, run_id="r")
    with Store(url) as store:
        run = store.load_run("r")
        assert [each.node_id for each in run.attempts] == ["a", "b"]
        assert (run.status, run.owner) == ("completed", None)
