"""Tasks in a database: adding, claiming, ending, and what follows, each whole or not at all."""

from __future__ import annotations

import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.errors import (
    AgentNotAllowed,
    ConcurrentUpdateError,
    ConfigurationError,
    CycleError,
    EncodingError,
    InvalidState,
    JobExists,
    JobNotFound,
    TaskExists,
    TaskNotFound,
)
from dagger_dsl.model.tasks import TRANSITIONS, JobStatus, NewTaskSpec, TaskStatus
from dagger_dsl.store import task_claims, task_reads, task_steps
from dagger_dsl.store import task_statements as sql
from dagger_dsl.store.job_watch import JobWatch
from dagger_dsl.store.storage import Store
from dagger_dsl.store.task_claims import Claim, Ending, TaskClaims
from dagger_dsl.store.task_people import TaskPeople
from dagger_dsl.store.task_reads import TaskReads
from dagger_dsl.store.task_steps import settle_jobs
from dagger_dsl.store.tasks import TaskRows
from dagger_dsl.store.transactions import Transaction, read, run_transaction
from dagger_dsl.store.transactions import fetch as fetch_now

READY, RUNNING, PENDING = TaskStatus.READY, TaskStatus.RUNNING, TaskStatus.PENDING
COMPLETED, FAILED, BLOCKED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.BLOCKED
CANCELLED, PAUSED = TaskStatus.CANCELLED, TaskStatus.PAUSED


class Desk:
    """A job in a database, and a worker that does what a test tells it to."""

    def __init__(self, store: Store) -> None:
        self.now = 1_000_000.0
        self.store = store
        self.parts = parts = store.database, store._payloads, lambda: self.now
        self.rows, self.reads, self.claims = (
            TaskRows(*parts),
            TaskReads(*parts),
            TaskClaims(*parts),
        )
        self.people = TaskPeople(*parts)
        self.rows.create_job("j")
        self.rows.start_job("j")

    def add(self, *ids: str, agent: str = "a", **given: Any) -> None:
        """Add tasks of one agent."""
        self.rows.add("j", [NewTaskSpec(agent, task_id=id_, **given) for id_ in ids])

    def claim(
        self, wanted: int = 1, worker: str = "w", agents: tuple[str, ...] = ("a",)
    ) -> list[Claim]:
        """Claim tasks."""
        return self.claims.exchange(worker, agents=agents, wanted=wanted)[0]

    def end(self, claim: Claim, status: TaskStatus = COMPLETED, **more: Any) -> list[Ending]:
        """End a task; return what came too late."""
        if status is COMPLETED:
            more.setdefault("result", self.rows.encoded(claim.id.upper(), "result"))
        return self.claims.exchange("w", [Ending(claim, status, **more)])[1]

    def run(self, *statuses: TaskStatus) -> list[str]:
        """Claim and end one task after the other, all of them as completed by default."""
        ran = []
        left = list(statuses)
        while claims := self.claim():
            ran.append(claims[0].id)
            self.end(claims[0], left.pop(0) if left else COMPLETED)
        return ran

    def states(self) -> dict[str, str]:
        """Return how the tasks stand."""
        return {each.id: str(each.status) for each in self.reads.tasks_of("j")}

    @property
    def job(self) -> str:
        """How the job stands."""
        found = self.reads.job("j")
        assert found is not None
        tasks = self.reads.tasks_of("j")
        assert found.unfinished == sum(not each.is_finished for each in tasks)
        assert found.failed == sum(each.status is FAILED for each in tasks)
        return str(found.status)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A started job in a file."""
    with Store(f"sqlite:{tmp_path / 'tasks.db'}") as store:
        yield Desk(store)


def test_a_task_goes_from_hand_to_hand_and_ends_its_job(desk: Desk) -> None:
    desk.add("t", input={"n": 1}, description="one", priority=2, timeout=3, max_retries=1)
    (claim,) = desk.claim()
    assert (claim.id, claim.attempt, desk.rows.value(*claim.payload)) == ("t", 1, {"n": 1})
    assert claim.spec == {"description": "one", "timeout": 3.0, "max_retries": 1}
    assert (desk.states(), desk.job) == ({"t": "running"}, "running")
    assert desk.end(claim) == []
    task = desk.reads.task("t")
    assert task is not None
    assert (task.status, task.output, task.attempts, task.worker) == (COMPLETED, "T", 1, "")
    assert (task.description, task.priority, task.timeout) == ("one", 2, 3.0)
    assert desk.job == "completed"
    assert [each.status for each in desk.reads.history("t")] == [READY, RUNNING, COMPLETED]


@pytest.mark.row("I23")
def test_higher_priorities_come_first_and_those_of_one_in_order(desk: Desk) -> None:
    desk.add("a", "b")
    desk.add("c", "d", priority=5)
    desk.add("e", priority=-1)
    desk.add("f", agent="other", priority=5)
    assert [each.id for each in desk.claim(3, agents=("other", "a"))] == ["c", "d", "f"]
    assert [each.id for each in desk.claim(9)] == ["a", "b", "e"]


@pytest.mark.row("I26")
def test_a_list_of_tasks_is_of_one_moment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task seen to wait, without what it waits for, would be taken for a question to a person."""
    desk.add("t")
    (claim,) = desk.claim()

    def meanwhile(fetched: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def fetch(*arguments: Any) -> list[Any]:
            found = fetched(*arguments)
            if desk.reads.ids() == ["t"]:
                desk.add("needed")
                desk.end(claim, BLOCKED, needs=["needed"])
            return found

        return fetch

    monkeypatch.setattr(task_reads, "fetch", meanwhile(fetch_now))
    before = desk.reads.tasks_of("j")
    assert [(each.id, each.status, each.dependencies) for each in before] == [("t", RUNNING, ())]
    after = desk.reads.tasks_of("j")
    assert [each.dependencies for each in after] == [("needed",), ()]
    assert after[0].status is BLOCKED


def test_a_worker_gets_tasks_of_its_agents_only(desk: Desk) -> None:
    desk.add("a", agent="x")
    assert desk.claim(agents=("y", "z")) == []
    assert [each.id for each in desk.claim(agents=("y", "x"))] == ["a"]


def test_a_task_waits_for_those_that_it_needs_in_their_order(desk: Desk) -> None:
    desk.rows.add(
        "j",
        [
            NewTaskSpec("a", task_id="c", dependencies=["b", "a"]),
            NewTaskSpec("a", task_id="a"),
            NewTaskSpec("a", task_id="b"),
        ],
    )
    assert desk.states() == {"c": "pending", "a": "ready", "b": "ready"}
    for claim in desk.claim(2):
        desk.end(claim)
    (claim,) = desk.claim()
    assert claim.id == "c"
    assert desk.reads.outputs_of_needs(claim.number) == ["B", "A"]


def test_what_needs_a_failed_task_fails_and_what_runs_anyway_runs(desk: Desk) -> None:
    desk.add("bad")
    desk.add("after", dependencies=["bad"])
    desk.add("later", dependencies=["after"])
    desk.add("anyway", dependencies=["bad", "later"], on_dependency_failure="run")
    desk.end(desk.claim()[0], FAILED, error="ValueError: no")
    assert desk.states() == {
        "bad": "failed",
        "after": "failed",
        "later": "failed",
        "anyway": "ready",
    }
    task = desk.reads.task("after")
    assert task is not None
    assert task.error == "a task that it needs was not completed"
    assert desk.run() == ["anyway"]
    assert desk.job == "failed"


def test_a_task_may_need_what_has_ended_already(desk: Desk) -> None:
    desk.add("good", "bad", "open")
    desk.end(desk.claim()[0])
    desk.end(desk.claim()[0], FAILED)
    desk.add("a", dependencies=["good"])
    desk.add("b", dependencies=["bad"])
    desk.add("c", dependencies=["bad"], on_dependency_failure="run")
    desk.add("d", dependencies=["b"])
    states = desk.states()
    assert [states[each] for each in "abcd"] == ["ready", "failed", "ready", "failed"]
    assert desk.job == "running"


def test_a_task_that_finds_out_what_it_needs_is_parked_and_called_again(desk: Desk) -> None:
    desk.add("report")
    (claim,) = desk.claim()
    desk.add("data", parent="report")
    assert desk.end(claim, BLOCKED, needs=("data",)) == []
    assert desk.states() == {"report": "blocked", "data": "ready"}
    assert [each.id for each in desk.claim()] == ["data"]
    assert desk.claim() == []
    desk.end(desk_claim(desk, "data"))
    (again,) = desk.claim()
    assert (again.id, again.attempt, again.retries) == ("report", 2, 0)
    assert desk.reads.outputs_of_needs(again.number) == ["DATA"]
    task = desk.reads.task("report")
    assert task is not None
    assert task.dependencies == ("data",)


def desk_claim(desk: Desk, task_id: str) -> Claim:
    """Return the claim of a task that runs, as its worker has it."""
    task = desk.reads.task(task_id)
    assert task is not None
    number = read(desk.rows._database, sql.BY_ID, (task_id,))[0][0]
    return Claim(
        number,
        task_id,
        "j",
        task.agent,
        task.version,
        task.attempts,
        0,
        "at_least_once",
        None,
        0,
        (None, None),
        {},
    )


def test_who_is_parked_for_what_is_done_is_ready_at_once(desk: Desk) -> None:
    desk.add("data", "report")
    data, report = desk.claim(2)
    desk.end(data)
    desk.end(report, BLOCKED, needs=("data",))
    assert desk.states()["report"] == "ready"


def test_who_is_parked_for_nothing_waits_for_a_person(desk: Desk) -> None:
    desk.add("t")
    desk.end(desk.claim()[0], BLOCKED, error="which one?", asks=True)
    assert (desk.states(), desk.claim(), desk.job) == ({"t": "blocked"}, [], "running")
    assert desk.rows.set_status("t", READY, old=BLOCKED, cause="Ada")
    assert desk.run() == ["t"]


@pytest.mark.row("I18")
def test_tasks_never_wait_for_each_other(desk: Desk) -> None:
    desk.add("a")
    desk.add("b", dependencies=["a"])
    desk.add("c", dependencies=["b"])
    with pytest.raises(CycleError, match="a -> c -> b -> a"):
        desk.rows.add_dependency("a", "c")
    with pytest.raises(CycleError, match="a -> a"):
        desk.rows.add_dependency("a", "a")
    (claim,) = desk.claim()
    with pytest.raises(CycleError, match="y"):
        desk.rows.add(
            "j",
            [
                NewTaskSpec("a", task_id="x", dependencies=["y"]),
                NewTaskSpec("a", task_id="y", dependencies=["x"]),
            ],
        )
    assert desk.states() == {"a": "running", "b": "pending", "c": "pending"}
    assert desk.end(claim, BLOCKED, needs=("c",)) == [], "its worker loses nothing else by it"
    assert desk.states() == {"a": "failed", "b": "failed", "c": "failed"}
    task = desk.reads.task("a")
    assert task is not None
    assert task.error.startswith("CycleError: ")


@pytest.mark.parametrize(
    ("needs", "error"), [("c", "CycleError: .*a -> c -> a"), ("x", "TaskNotFound: .*'x'")]
)
def test_who_waits_for_what_cannot_be_fails_and_nobody_else(
    desk: Desk, needs: str, error: str
) -> None:
    desk.add("a", "b")
    desk.add("c", dependencies=["a"])
    claims = desk.claim(2)
    endings = [Ending(claims[0], BLOCKED, needs=(needs,)), Ending(claims[1], COMPLETED)]
    assert desk.claims.exchange("w", endings)[:2] == ([], [])
    task = desk.reads.task("a")
    assert task is not None
    assert re.match(error, task.error)
    assert desk.states() == {"a": "failed", "b": "completed", "c": "failed"}
    assert desk.job == "failed"


def test_a_dependency_that_is_added_later_counts(desk: Desk) -> None:
    desk.add("a", "b")
    desk.rows.add_dependency("a", "b")
    desk.rows.add_dependency("a", "b")
    assert desk.states() == {"a": "pending", "b": "ready"}
    assert desk.run() == ["b", "a"]
    with pytest.raises(InvalidState, match="waits for nothing any more"):
        desk.rows.add_dependency("a", "b")


def test_a_task_that_failed_is_called_again_when_its_time_has_come(desk: Desk) -> None:
    desk.add("t")
    assert desk.claims.wake() is None
    desk.end(desk.claim()[0], PENDING, error="OSError: no", due_at=desk.now + 5, retried=True)
    assert (desk.states(), desk.claim()) == ({"t": "pending"}, [])
    assert desk.claims.wake() == desk.now + 5
    desk.now += 5
    assert desk.claims.wake() is None
    (claim,) = desk.claim()
    assert (claim.attempt, claim.retries) == (2, 1)
    desk.end(claim)
    assert desk.job == "completed"


@pytest.mark.row("I24")
def test_a_late_worker_changes_nothing(desk: Desk) -> None:
    desk.add("t")
    (mine,) = desk.claim(worker="slow")
    assert desk.claims.rescue("slow") == ["t"]
    (theirs,) = desk.claim(worker="quick")
    assert [each.claim.id for each in desk.end(mine)] == ["t"]
    assert desk.states() == {"t": "running"}
    assert desk.end(theirs) == []
    assert [each.claim.id for each in desk.end(mine, FAILED)] == ["t"]
    assert desk.job == "completed"


def test_tasks_of_a_dead_worker_run_again_or_wait_for_a_person(desk: Desk) -> None:
    desk.add("again")
    desk.add("once", effects="at_most_once")
    desk.claim(2, worker="dead")
    (before,) = desk.claims.owners().values()
    assert desk.claims.beat("dead", 60) == 2
    assert desk.claims.owners() == {"dead": (before[0] + 2, *before[1:])}
    assert desk.claims.rescue("dead") == ["again"]
    assert desk.states() == {"again": "ready", "once": "blocked"}
    assert desk.claims.owners() == {}
    task = desk.reads.task("once")
    assert task is not None
    assert "decide by hand" in task.error
    with pytest.raises(InvalidState, match=r"asks nothing.*retry\(\).*cancel_task\(\)"):
        desk.people.answer("once", "go on", "")
    assert desk.states()["once"] == "blocked"
    desk.people.retry("once", "it had not begun")
    assert desk.states()["once"] == "ready"


def test_a_task_that_kills_its_workers_fails(desk: Desk) -> None:
    desk.add("t")
    desk.add("after", dependencies=["t"])
    for number in range(3):
        (claim,) = desk.claim(worker=f"w{number}")
        assert claim.id == "t"
        desk.claims.rescue(f"w{number}")
    task = desk.reads.task("t")
    assert task is not None
    assert (task.status, task.error) == (FAILED, "3 workers died while they ran it")
    assert (desk.states()["after"], desk.job) == ("failed", "failed")


def test_what_a_retried_task_failed_starts_over(desk: Desk) -> None:
    desk.add("a")
    desk.add("b", dependencies=["a"])
    desk.add("c", dependencies=["b"])
    desk.end(desk.claim()[0], FAILED)
    assert desk.job == "failed"
    assert desk.rows.set_status("a", READY, cause="tried again")
    assert (desk.states(), desk.job) == ({"a": "ready", "b": "pending", "c": "pending"}, "running")
    assert desk.run() == ["a", "b", "c"]
    assert desk.job == "completed"


def test_a_result_that_is_rejected_is_made_again(desk: Desk) -> None:
    desk.add("a")
    desk.add("b", dependencies=["a"])
    desk.end(desk.claim()[0])
    assert desk.rows.set_status("a", TaskStatus.REJECTED, cause="too short")
    assert desk.states()["b"] == "pending"
    assert desk.rows.set_status("a", READY)
    assert desk.run() == ["a", "b"]
    assert desk.rows.set_status("a", TaskStatus.ACCEPTED)
    with pytest.raises(InvalidState, match="it is accepted"):
        desk.rows.set_status("a", READY)


@pytest.mark.row("I25", "I27")
def test_a_status_changes_only_as_it_may(desk: Desk) -> None:
    desk.add("t")
    assert not desk.rows.set_status("t", PAUSED, old=BLOCKED)
    assert desk.rows.set_status("t", PAUSED, old=READY)
    assert desk.claim() == []
    task = desk.reads.task("t")
    assert task is not None
    with pytest.raises(ConcurrentUpdateError, match="read it again"):
        desk.rows.set_status("t", READY, version=task.version - 1)
    with pytest.raises(InvalidState, match="paused and cannot become completed"):
        desk.rows.set_status("t", COMPLETED)
    assert desk.rows.set_status("t", READY, version=task.version)
    assert desk.run() == ["t"]
    assert set(TRANSITIONS) == set(TaskStatus)


def test_a_job_is_cancelled_with_all_that_has_not_ended(desk: Desk) -> None:
    desk.add("done", "running", "ready")
    desk.add("waits", dependencies=["running"])
    desk.end(desk.claim()[0])
    (claim,) = desk.claim()
    assert desk.rows.cancel_job("j", "no longer wanted") == ["running"]
    assert desk.states() == {
        "done": "completed",
        "running": "cancelled",
        "ready": "cancelled",
        "waits": "cancelled",
    }
    assert desk.job == "cancelled"
    assert [each.claim.id for each in desk.end(claim)] == ["running"], "it comes too late"
    assert desk.rows.cancel_job("j") == []
    with pytest.raises(InvalidState, match="takes no more tasks"):
        desk.add("more")


def test_what_is_not_started_waits(desk: Desk) -> None:
    desk.rows.create_job("k", allowed_agents=["a"])
    desk.rows.add("k", [NewTaskSpec("a", task_id="t")])
    assert desk.claim() == []
    desk.rows.start_job("k")
    assert [each.id for each in desk.claim()] == ["t"]
    job = desk.reads.job("k")
    assert job is not None
    assert job.status is JobStatus.RUNNING
    assert {each.id for each in desk.reads.jobs()} == {"j", "k"}


def test_a_job_lets_only_its_agents_have_tasks(desk: Desk) -> None:
    desk.rows.create_job("k", allowed_agents=["a", "b"])
    with pytest.raises(AgentNotAllowed, match="it allows a, b"):
        desk.rows.add("k", [NewTaskSpec("c", task_id="t")])
    desk.rows.add("k", [NewTaskSpec("b", task_id="t")])
    with pytest.raises(AgentNotAllowed, match="no task for agent 'b'"):
        desk.rows.start_job("k", allowed_agents=["a"])
    desk.rows.start_job("k", allowed_agents=["b"])


def test_of_one_key_one_task_runs_at_a_time(desk: Desk) -> None:
    desk.add("a", "b", key="ada")
    desk.add("c", key="bob")
    first, second = desk.claim(9)
    assert (first.id, second.id) == ("a", "c")
    assert desk.claim(9) == []
    desk.end(first)
    assert [each.id for each in desk.claim(9)] == ["b"]


def test_tasks_whose_keys_are_taken_are_in_nobodys_way(desk: Desk) -> None:
    desk.add(*(f"a{n}" for n in range(300)), key="ada", priority=2)
    desk.add(*(f"b{n}" for n in range(300)), key="bob", priority=2)
    desk.add("plain", priority=1)
    desk.add("low")
    desk.add("c0", "c1", key="cyd", priority=-1)
    desk.add("d0", key="dan", priority=1)
    assert desk.claims.has_ready(["a"])
    claims = desk.claim(1) + desk.claim(9)
    # In order of priority, then as they were added, one of each key.
    assert [each.id for each in claims] == ["a0", "b0", "plain", "d0", "low", "c0"]
    assert not desk.claims.has_ready(["a"]), "what is ready waits for its key"
    assert desk.claims.has_left(["a"])
    desk.end(claims[1])
    assert desk.claims.has_ready(["a"])
    assert [each.id for each in desk.claim(9)] == ["b1"]


@pytest.mark.parametrize("look", [1, 5, 128])
def test_one_task_of_each_free_key_is_claimed_in_order_however_they_lie(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    monkeypatch.setattr(task_claims, "_LOOK", look)
    monkeypatch.setattr(task_claims, "_EACH", look)
    dice = random.Random(look)
    for key in range(12):
        for n in range(dice.randrange(1, 9)):
            desk.add(f"k{key}.{n}", key=f"k{key}", priority=dice.choice([0, 0, 0, 1]))
    left = desk.reads.tasks_of("j")
    held: dict[Any, Claim] = {}
    while left:
        wanted = dice.randrange(1, 8)
        first: dict[str | None, str] = {}
        for each in sorted(left, key=lambda each: -each.priority):
            if each.key not in held:
                first.setdefault(each.key, each.id)
        assert desk.claims.has_ready(["a"]) == bool(first)
        claims = desk.claim(wanted)
        assert [each.id for each in claims] == list(first.values())[:wanted]
        keys = {each.id: each.key for each in left}
        held.update({keys[each.id]: each for each in claims})
        ids = {each.id for each in claims}
        left = [each for each in left if each.id not in ids]
        for key in dice.sample(sorted(held, key=str), min(len(held), dice.randrange(3))):
            desk.end(held.pop(key))


def test_a_claim_does_not_look_at_each_key_there_is(desk: Desk) -> None:
    """Tasks are often added key by key: those of the first keys, which are held, come first."""
    steps = {}
    for many in (40, 800):
        name = f"of{many}"
        for key in range(many):
            desk.add(*(f"{key}.{name}.{n}" for n in range(20)), agent=name, key=f"{name}.{key:04}")
        assert len(desk.claim(8, agents=(name,))) == 8
        beats: list[None] = []
        with desk.store.database.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.set_progress_handler(partial(beats.append, None), 100)
        assert desk.claims.has_ready([name])  # on the same connection, there is no other
        raw.set_progress_handler(None, 0)
        steps[many] = len(beats)
    assert 0 < steps[800] < 2 * steps[40], steps


def test_a_claim_does_not_look_at_each_task_of_a_key_that_is_taken(desk: Desk) -> None:
    steps = {}
    for many in (200, 4_000):
        name = f"of{many}"
        desk.add(*(f"{name}.{n}" for n in range(many)), agent=name, key=name)
        assert desk.claim(1, agents=(name,))
        with desk.store.database.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            beats: list[None] = []
            raw.set_progress_handler(partial(beats.append, None), 100)
            named = {"the_agent": name, "the_limit": 1, "the_first": 0, "the_one": 1}
            for statement in (sql.FIRST_READY, sql.FIRST_OF_LANES):
                values = statement.in_order({**named, "the_window": 5})
                raw.execute(statement.sql, values).fetchall()
            raw.set_progress_handler(None, 0)
        steps[many] = len(beats)
    assert steps[4_000] <= steps[200] + 2, steps


def test_a_chain_takes_another_link_without_a_look_at_all_of_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"t{n}" for n in range(60)]
    desk.add(*ids)
    original = task_steps._path
    seen: list[int] = []

    def counted(tx: Transaction, start: int, target: int) -> list[int] | None:
        rows = tx.rows

        def look(statement: Any, values: Any) -> Any:
            seen.append(1)
            return rows(statement, values)

        monkeypatch.setattr(tx, "rows", look)
        try:
            return original(tx, start, target)
        finally:
            monkeypatch.setattr(tx, "rows", rows)

    monkeypatch.setattr(task_steps, "_path", counted)
    for one, other in pairwise(ids):
        desk.rows.add_dependency(other, one)
    assert len(seen) <= 3 * len(ids)
    with pytest.raises(CycleError, match=r"t0 -> t59 -> t58 -> .* -> t1 -> t0"):
        desk.rows.add_dependency("t0", "t59")


def test_a_death_is_none_of_a_task_that_had_perhaps_not_begun(desk: Desk) -> None:
    desk.add("first", "second", "third")
    desk.add("once", effects="at_most_once")

    def die() -> list[str]:
        claims, _, _ = desk.claims.exchange("w", agents=["a"], wanted=1, ahead=9, quick=["a"])
        desk.claims.rescue("w", max_deaths=2)
        return [each.id for each in claims]

    assert die() == ["first", "second", "third"]
    task = desk.reads.task("second")
    assert task is not None
    assert (task.status, task.attempts) == (READY, 1), "it may have begun"
    assert "perhaps before it began" in desk.reads.history("second")[-1].cause
    assert desk.reads.history("second")[-2].cause == "claimed ahead"
    # What kills its workers is found all the same: none is claimed ahead twice.
    assert [die() for _ in range(6)] == [["first"], *[["second"]] * 2, *[["third"]] * 2, ["once"]]
    assert {desk.states()[each] for each in ("first", "second", "third")} == {"failed"}
    assert desk.states()["once"] == "blocked"


def test_tasks_are_added_all_or_none(desk: Desk) -> None:
    desk.add("a")
    for faulty, error in (
        ([NewTaskSpec("a", task_id="b"), NewTaskSpec("a", task_id="a")], TaskExists),
        ([NewTaskSpec("a", task_id="b"), NewTaskSpec("a", task_id="b")], TaskExists),
        ([NewTaskSpec("a", task_id="b", dependencies=["nowhere"])], TaskNotFound),
        ([NewTaskSpec("a", task_id="b", parent="nowhere")], TaskNotFound),
        ([NewTaskSpec("a", object(), task_id="b")], EncodingError),
    ):
        with pytest.raises(error):
            desk.rows.add("j", faulty)
    assert desk.states() == {"a": "ready"}
    with pytest.raises(JobNotFound):
        desk.rows.add("nowhere", [NewTaskSpec("a", task_id="b")])
    with pytest.raises(JobExists):
        desk.rows.create_job("j")


def test_tasks_of_other_jobs_cannot_be_needed(desk: Desk) -> None:
    desk.rows.create_job("k")
    desk.rows.add("k", [NewTaskSpec("a", task_id="t")])
    desk.add("a")
    with pytest.raises(TaskNotFound, match="of its own job"):
        desk.add("b", dependencies=["t"])
    with pytest.raises(TaskNotFound):
        desk.rows.add_dependency("a", "t")


@pytest.mark.parametrize(
    "given",
    [
        {"agent": ""},
        {"agent": 3},
        {"dependencies": "abc"},
        {"dependencies": [3]},
        {"priority": 1.5},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"max_retries": -1},
        {"task_type": "epic"},
        {"effects": "never"},
        {"parent": ""},
        {"summary": 3},
    ],
)
def test_what_cannot_be_a_task_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        NewTaskSpec(given.pop("agent", "a"), **given)


def test_large_inputs_and_results_go_to_files(desk: Desk) -> None:
    desk.add("t", input="x" * 100_000)
    (claim,) = desk.claim()
    assert claim.payload[0] is None
    desk.end(claim, result=desk.rows.encoded("y" * 100_000, "result"))
    task = desk.reads.task("t")
    assert task is not None
    assert (len(task.input), len(task.output)) == (100_000, 100_000)


def test_a_task_that_needs_a_failed_one_is_not_tried_again_by_itself(desk: Desk) -> None:
    desk.add("a")
    desk.add("b")
    desk.rows.set_status("a", FAILED)
    desk.rows.add_dependency("b", "a")
    assert desk.states() == {"a": "failed", "b": "failed"}
    with pytest.raises(InvalidState, match="task 'b' needs 'a', which is failed: let that be"):
        desk.rows.set_status("b", READY)
    desk.rows.set_status("a", READY)
    assert desk.states() == {"a": "ready", "b": "pending"}


def test_a_failed_task_that_is_cancelled_counts_once_for_those_that_run_anyway(desk: Desk) -> None:
    desk.add("a")
    desk.add("b")
    desk.rows.set_status("a", FAILED)
    desk.add("c", dependencies=["a", "b"], on_dependency_failure="run")
    desk.rows.set_status("a", CANCELLED)
    assert desk.states()["c"] == "pending"


def test_a_worker_that_is_late_links_nothing(desk: Desk) -> None:
    desk.add("a")
    desk.add("b", priority=1)
    (claim,) = desk.claim()
    desk.rows.set_status("b", READY)
    assert len(desk.end(claim, BLOCKED, needs=("a",))) == 1
    assert desk.states() == {"a": "ready", "b": "ready"}
    task = desk.reads.task("b")
    assert task is not None
    assert task.dependencies == ()


RACER = """
import sys
from dagger_dsl.model.tasks import TaskStatus
from dagger_dsl.store import task_statements as sql
from dagger_dsl.store import task_claims, task_reads, task_steps
from dagger_dsl.store.storage import Store
from dagger_dsl.store.task_claims import Ending, TaskClaims

name = sys.argv[2]
with Store(sys.argv[1]) as store:
    desk = TaskClaims(store.database, store._payloads)
    endings, got = [], []
    while True:
        claims, late, _ = desk.exchange(name, endings, agents=["a"], wanted=3)
        assert not late
        if not claims:
            break
        got += [each.id for each in claims]
        endings = [Ending(each, TaskStatus.COMPLETED) for each in claims]
    print(" ".join(got))
"""


def test_two_workers_that_race_never_get_one_task_twice(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}?synchronous=NORMAL"
    number = 500
    with Store(url) as store:
        parts = store.database, store._payloads
        rows, reads = TaskRows(*parts), TaskReads(*parts)
        rows.create_job("j")
        rows.start_job("j")
        rows.add("j", [NewTaskSpec("a", task_id=f"t{n}") for n in range(number)])
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", RACER, url, name], stdout=subprocess.PIPE, text=True
            )
            for name in ("one", "two")
        ]
        got = [each.communicate(timeout=120)[0].split() for each in racers]
        assert sorted(got[0] + got[1]) == sorted(f"t{n}" for n in range(number))
        job = reads.job("j")
        assert job is not None
        assert job.status is JobStatus.COMPLETED


def test_who_needs_what_cannot_come_does_not_go_on_by_hand(desk: Desk) -> None:
    desk.add("a")
    desk.add("b", dependencies=["a"])
    desk.rows.set_status("a", FAILED)
    assert desk.states() == {"a": "failed", "b": "failed"}
    with pytest.raises(InvalidState, match="task 'b' needs"):
        desk.rows.set_status("b", READY)
    desk.rows.set_status("a", READY)
    assert desk.run() == ["a", "b"]


def test_who_runs_anyway_is_told_once_of_what_failed_and_was_given_up(desk: Desk) -> None:
    desk.add("a", "b")
    desk.add("c", dependencies=["a", "b"], on_dependency_failure="run")
    desk.rows.set_status("a", FAILED)
    desk.rows.set_status("a", CANCELLED)
    assert desk.states() == {"a": "cancelled", "b": "ready", "c": "pending"}
    assert desk.run() == ["b", "c"]


def test_sqlites_own_checks_find_no_damage_in_tasks(tmp_path: Path) -> None:
    """They are made after a kill; some versions take the wrong columns of a table for its key."""
    path = tmp_path / "tasks.db"
    with Store(f"sqlite:{path}") as store:
        desk = Desk(store)
        desk.add("a", "b")
        desk.add("c", dependencies=["b", "a"])
        assert desk.run() == ["a", "b", "c"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_what_a_removed_job_gave_is_not_recorded_in_a_later_task(
    desk: Desk,
) -> None:
    people = TaskPeople(*desk.parts)
    watch = JobWatch(*desk.parts)
    desk.add("old")
    (old,) = desk.claim()
    desk.rows.cancel_job("j")
    desk.store.retain_jobs(0, None)
    desk.rows.create_job("j")
    desk.rows.start_job("j")
    desk.add("new")
    (new,) = desk.claim()
    assert old.version == new.version
    assert old.number < new.number
    assert not watch.is_current(old.number, old.version, "old")
    assert not watch.heartbeat("j", old.number, old.version, "old")
    with pytest.raises(ConcurrentUpdateError):
        people.set_summary(old.number, old.version, "old", "of the old one")
    for status in (COMPLETED, PENDING, BLOCKED, READY):
        assert len(desk.end(old, status)) == 1
    assert desk.states() == {"new": "running"}
    assert watch.is_current(new.number, new.version, "new")
    assert watch.heartbeat("j", new.number, new.version, "new")
    assert desk.end(new) == []
    assert desk.job == "completed"


def test_a_job_that_was_removed_is_not_settled(desk: Desk) -> None:
    desk.add("t")
    over: list[str] = []
    run_transaction(
        desk.store.database, lambda tx: over.extend(settle_jobs(tx, ("gone", "j"), desk.now))
    )
    assert over == []
    assert desk.job == "running"


ODD = "of \udc80\0.txt"
KEPT = "of \\udc80\\x00.txt"


def test_texts_of_odd_file_names_are_kept_as_escapes(desk: Desk) -> None:
    desk.add("failed", "asks", "needs", "paused", "last")
    failed, asks, needs, _, last = desk.claim(5)
    fine = Ending(last, COMPLETED, desk.rows.encoded(1, "result"))
    odd = [
        Ending(failed, FAILED, error=ODD),
        Ending(asks, BLOCKED, error=ODD, asks=True),
        Ending(needs, BLOCKED, needs=(ODD,)),
    ]
    assert desk.claims.exchange("w", [*odd, fine])[1] == []
    assert desk.rows.set_status("paused", BLOCKED, cause=ODD, error=ODD)
    found = {each.id: each for each in desk.reads.tasks_of("j")}
    assert [found[each].error for each in ("failed", "asks", "paused")] == [KEPT] * 3
    assert [desk.reads.history(each)[-1].cause for each in ("failed", "paused")] == [KEPT] * 2
    assert (found["needs"].status, found["last"].status) == (FAILED, COMPLETED)
    assert "lone surrogate" in found["needs"].error
    TaskPeople(*desk.parts).cancel_tree("paused", False, ODD)
    assert desk.reads.history("paused")[-1].cause == KEPT
    desk.rows.cancel_job("j", ODD)
    job = desk.reads.job("j")
    assert job is not None
    assert job.error == KEPT


@pytest.mark.parametrize(
    "given",
    [
        {"agent": "x\udc80"},
        {"description": "x\udc80"},
        {"summary": "x\udc80"},
        {"acceptance_criteria": "x\udc80"},
        {"parent": "x\udc80"},
        {"key": "x\udc80"},
        {"task_id": "x\udc80"},
        {"dependencies": ["x\udc80"]},
    ],
)
def test_a_task_with_half_a_character_is_refused_by_the_name_of_the_argument(
    given: dict[str, Any],
) -> None:
    (name,) = given
    with pytest.raises(ConfigurationError, match=r"lone surrogate.*take it out") as caught:
        NewTaskSpec(**{"agent": "a", **given})
    assert name.removesuffix("ies") in str(caught.value)


@pytest.mark.parametrize("reason", [None, 3, b"x"])
def test_a_reason_is_a_text(desk: Desk, reason: Any) -> None:
    desk.add("t")
    people = TaskPeople(*desk.parts)
    for act in (
        lambda: desk.rows.set_status("t", PAUSED, cause=reason),
        lambda: desk.rows.set_status("t", PAUSED, error=reason),
        lambda: desk.rows.cancel_job("j", reason),
        lambda: people.cancel_tree("t", True, reason),
    ):
        with pytest.raises(ConfigurationError, match="is a text, not"):
            act()
    assert desk.states() == {"t": "ready"}


def test_names_with_half_a_character_reach_no_driver(desk: Desk) -> None:
    acts: list[Callable[[], object]] = [
        lambda: desk.rows.add("\udc80", [NewTaskSpec("a")]),
        lambda: desk.rows.start_job("\udc80"),
        lambda: desk.rows.cancel_job("\udc80"),
        lambda: desk.rows.start_job("j", allowed_agents=["\udc80"]),
    ]
    for act in acts:
        with pytest.raises(ConfigurationError, match="lone surrogate"):
            act()


@pytest.mark.parametrize("state", [PENDING, BLOCKED])
def test_a_task_of_a_job_that_is_not_started_waits_for_that(desk: Desk, state: TaskStatus) -> None:
    desk.rows.create_job("k")
    task = NewTaskSpec("a", task_id="t", dependencies=["n"], on_dependency_failure="run")
    desk.rows.add("k", [NewTaskSpec("a", task_id="n"), task])
    if state is BLOCKED:
        desk.rows.set_status("t", BLOCKED)
    desk.rows.set_status("n", FAILED)
    assert [each.status for each in desk.reads.tasks_of("k")] == [FAILED, PENDING]
    assert desk.claim() == []
    desk.rows.start_job("k")
    assert [each.id for each in desk.claim()] == ["t"]


def test_a_person_blocks_a_task_that_runs_whatever_it_needed_before(desk: Desk) -> None:
    desk.add("d")
    desk.add("t", dependencies=["d"])
    desk.now += 1
    (claim,) = desk.claim()
    desk.end(claim)
    desk.now += 1
    (claim,) = desk.claim()
    assert claim.id == "t"
    desk.rows.set_status("t", BLOCKED)
    assert desk.states() == {"d": "completed", "t": "blocked"}
    desk.rows.set_status("t", READY)
    assert desk.states()["t"] == "ready"


def test_a_task_blocked_by_hand_waits_for_what_it_came_to_need_while_it_ran(desk: Desk) -> None:
    desk.add("t", "u", "v", "w", "d1", "d2", "d3")
    _, _, _, _, d1, d2, d3 = desk.claim(7)
    for task, needed in (("t", "d1"), ("t", "d2"), ("u", "d1"), ("v", "d3")):
        desk.rows.add_dependency(task, needed)
    desk.end(d1)
    desk.end(d3, FAILED)
    for task in ("t", "u", "v", "w"):
        assert desk.rows.set_status(task, BLOCKED, old=RUNNING)
    states = desk.states()
    assert [states[each] for each in ("t", "u", "v", "w")] == [BLOCKED, READY, FAILED, BLOCKED]
    assert desk.job == "running"
    desk.end(d2)
    assert desk.states()["t"] == READY
    assert desk.job == "running"


def test_an_agent_whose_task_is_not_its_own_any_more_adds_nothing(desk: Desk) -> None:
    desk.add("t", "d")
    (claim,) = desk.claim()
    desk.rows.add("j", [NewTaskSpec("b", task_id="part")], claim=claim)
    desk.rows.add_dependency("t", "part", claim=claim)
    desk.claims.rescue("w")
    before = desk.states()
    for late in (
        lambda: desk.rows.add("j", [NewTaskSpec("b")], claim=claim),
        lambda: desk.rows.add_dependency("t", "d", claim=claim),
    ):
        with pytest.raises(ConcurrentUpdateError, match="nothing is added"):
            late()
    assert desk.states() == before
    task = desk.reads.task("t")
    assert task is not None
    assert task.dependencies == ("part",)


def test_what_fails_with_two_things_that_it_needs_is_counted_once(desk: Desk) -> None:
    desk.add("dead", "other")
    desk.end(desk.claim()[0], FAILED)
    new = [
        NewTaskSpec("a", task_id="x", dependencies=["dead"]),
        NewTaskSpec("a", task_id="y", dependencies=["x", "dead"]),
    ]
    desk.rows.add("j", new)
    assert desk.states() == {"dead": "failed", "other": "ready", "x": "failed", "y": "failed"}
    assert desk.job == "running"
    assert desk.run() == ["other"]
    assert desk.job == "failed"


def test_pausing_lets_nobody_call_again_what_may_be_called_once(desk: Desk) -> None:
    desk.add("t", effects="at_most_once")
    desk.claim()
    desk.claims.rescue("w")
    with pytest.raises(InvalidState, match=r"retry\(\) calls it once more"):
        desk.rows.set_status("t", PAUSED)
    assert desk.states() == {"t": "blocked"}
    desk.people.retry("t", "I have looked")
    assert desk.states() == {"t": "ready"}


def test_a_key_is_held_among_the_tasks_of_one_agent(desk: Desk) -> None:
    desk.add("a1", "a2", key="ada")
    desk.add("b1", "b2", agent="b", key="ada")
    agents = ("a", "b")
    assert [each.id for each in desk.claim(4, agents=agents)] == ["a1", "b1"]
    assert desk.claim(4, agents=agents) == []


@pytest.mark.parametrize("status", [CANCELLED, FAILED, READY])
def test_a_call_that_is_ended_by_hand_has_an_end(desk: Desk, status: TaskStatus) -> None:
    desk.add("t")
    desk.claim()
    desk.now += 5
    desk.rows.set_status("t", status)
    found = desk.reads.task("t")
    assert found is not None
    assert found.started_at is not None
    assert found.finished_at is not None
    assert (found.finished_at - found.started_at).total_seconds() == 5


def test_what_is_cancelled_while_it_waits_took_as_long_as_its_last_call(desk: Desk) -> None:
    desk.add("t")
    (claim,) = desk.claim()
    desk.now += 5
    desk.end(claim, BLOCKED, asks=True)
    desk.now += 1000
    desk.rows.set_status("t", CANCELLED)
    found = desk.reads.task("t")
    assert found is not None
    assert found.started_at is not None
    assert found.finished_at is not None
    assert (found.finished_at - found.started_at).total_seconds() == 5


def test_what_may_be_called_once_and_was_cut_off_starts_over_by_hand_only(desk: Desk) -> None:
    desk.add("needed")
    desk.add("t", effects="at_most_once")
    desk.rows.add_dependency("t", "needed")
    desk.end(desk.claim()[0])
    (claim,) = desk.claim()
    assert claim.id == "t"
    desk.rows.set_status("needed", TaskStatus.REJECTED)
    desk.rows.set_status("needed", READY)
    desk.rows.set_status("needed", CANCELLED)
    desk.claims.rescue("w")
    assert desk.states() == {"needed": "cancelled", "t": "failed"}
    desk.people.retry("needed", "again")
    assert desk.states() == {"needed": "ready", "t": "blocked"}
    assert desk.job == "running"
