"""Old jobs go with all that is theirs, and what others refer to stays."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dagger_dsl.errors import ConcurrentUpdateError, ConfigurationError
from dagger_dsl.model.tasks import NewTaskSpec, TaskStatus
from dagger_dsl.store.awaited_jobs import AwaitedJobs
from dagger_dsl.store.job_upkeep import old_jobs, remove_job
from dagger_dsl.store.schema import jobs
from dagger_dsl.store.shared_values import SharedValues
from dagger_dsl.store.task_claims import Claim, Ending, TaskClaims
from dagger_dsl.store.task_people import TaskPeople
from dagger_dsl.store.task_reads import TaskReads
from dagger_dsl.store.transactions import run_transaction
from tests.store.helpers import Store, start


class Office:
    """A database with jobs, which are done at once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        parts = store.database, store._payloads
        self.rows, self.reads, self.claims, self.values = (
            TaskPeople(*parts),
            TaskReads(*parts),
            TaskClaims(*parts),
            SharedValues(*parts),
        )

    def job(self, job_id: str, text: str = "", *, done: bool = True, days: float = 0.0) -> None:
        """Make a job of two tasks, the first of which takes and gives *text*."""
        self.rows.create_job(job_id)
        self.rows.add(
            job_id,
            [
                NewTaskSpec(job_id, f"in {text}", task_id=f"{job_id}1"),
                NewTaskSpec(
                    job_id, task_id=f"{job_id}2", parent=f"{job_id}1", dependencies=[f"{job_id}1"]
                ),
            ],
        )
        self.rows.start_job(job_id)
        self.values.set(job_id, "note", f"of {text}")
        for _ in range(2 if done else 1):
            (claim,), _, _ = self.claims.exchange("w", agents=[job_id], wanted=1)
            result = self.rows.encoded(f"out {text}", "result")
            self.claims.exchange("w", [Ending(claim, TaskStatus.COMPLETED, result)])
        when = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
        with self.store.writing() as connection:
            connection.execute(
                sa.update(jobs)
                .where(jobs.c.job_id == job_id)
                .values(created_at=when, updated_at=when)
            )

    def left(self) -> set[str]:
        """Return the jobs that are there, each whole."""
        ids = {each.id for each in self.reads.jobs()}
        rows = self.store.stats().rows
        assert (rows["tasks"], rows["task_links"]) == (2 * len(ids), len(ids))
        assert rows["shared_values"] == len(self.values.scopes())
        return ids


@pytest.fixture(params=["file", "memory"])
def office(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Office]:
    """An empty database of each kind."""
    url: str | Path = tmp_path / "state.db" if request.param == "file" else "sqlite::memory:"
    with Store(url) as store:
        yield Office(store)


def test_old_jobs_go_whole_and_others_stay(office: Office) -> None:
    office.job("old", days=10)
    office.job("new", days=1)
    office.job("open", days=20, done=False)
    office.values.set("free", "k", 1)
    planned = office.store.prune(dt.timedelta(days=5), dry_run=True)
    assert planned.jobs == ("old",)
    assert office.left() == {"old", "new", "open"}
    assert office.store.prune(dt.timedelta(days=5)).jobs == ("old",)
    assert office.left() == {"new", "open"}
    assert office.values.scopes() == ["free", "new", "open"]
    assert office.store.stats().rows["task_events"] == 14
    assert office.store.prune(dt.timedelta(days=5)).jobs == ()


def test_the_newest_jobs_are_kept(office: Office) -> None:
    for number in range(4):
        office.job(f"j{number}", days=number)
    assert office.store.prune(keep_last=2).jobs == ("j2", "j3")
    assert office.left() == {"j0", "j1"}
    assert office.store.prune(dt.timedelta(days=0.5), keep_last=1).jobs == ("j1",)
    assert office.store.prune().jobs == ()
    assert office.left() == {"j0"}


def test_a_job_that_goes_on_again_stays(office: Office) -> None:
    office.job("j", days=10)
    office.rows.retry("j2", "once more")
    assert office.store.prune(0).jobs == ()
    assert office.left() == {"j"}


def test_who_has_a_task_that_was_removed_cannot_end_another_one_of_its_id(office: Office) -> None:
    office.job("first")

    def made() -> Claim:
        office.rows.create_job("j")
        office.rows.add("j", [NewTaskSpec("a", task_id="t")])
        office.rows.start_job("j")
        (claim,), _, _ = office.claims.exchange("w", agents=["a"], wanted=1)
        return claim

    stale = made()
    office.rows.cancel_job("j")
    assert office.store.retain_jobs(0) == ["j", "first"]
    claim = made()
    assert (claim.id, claim.version) == (stale.id, stale.version)
    assert claim.number > stale.number
    done = TaskStatus.COMPLETED
    assert len(office.claims.exchange("w", [Ending(stale, done)])[1]) == 1
    with pytest.raises(ConcurrentUpdateError):
        office.rows.add("j", [NewTaskSpec("a")], claim=stale)
    assert office.claims.exchange("w", [Ending(claim, done)])[1] == []
    ids = office.rows.add("first", [], create=True) + office.rows.add(
        "first", [NewTaskSpec("a", task_id="u"), NewTaskSpec("a", dependencies=["u"])]
    )
    assert [each.dependencies for each in office.reads.tasks_of("first")] == [(), ("u",)]
    assert [each.id for each in office.reads.tasks_of("first")] == ids


def test_a_job_stays_that_a_run_began_to_wait_for_just_now(office: Office) -> None:
    journal = start(office.store, "r")
    office.job("j", days=10)
    assert old_jobs(office.store.database, None, 0) == ["j"]
    awaited = AwaitedJobs(office.store.database, office.store._payloads)
    run_transaction(office.store.database, awaited.waiting("j", ("r", "a", "default")))
    assert remove_job(office.store.database, "j") is None
    assert office.left() == {"j"}
    journal.finish("completed")
    assert office.store.prune(0).jobs == ("j",)


def test_jobs_are_kept_as_a_manager_is_told(office: Office) -> None:
    for number in range(5):
        office.job(f"j{number}", days=number)
    office.job("open", days=9, done=False)
    assert office.store.retain_jobs() == []
    assert office.store.retain_jobs(keep_days=3.5) == ["j4"]
    assert sorted(office.store.retain_jobs(2)) == ["j2", "j3"]
    assert sorted(office.store.retain_jobs(0, 0)) == ["j0", "j1"]
    assert office.left() == {"open"}
    for wrong in (-1, "7", True, float("nan")):
        with pytest.raises(ConfigurationError, match="keep_"):
            office.store.retain_jobs(keep_days=wrong)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(ConfigurationError, match="keep_"):
            office.store.retain_jobs(wrong)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(ConfigurationError):
            office.store.retain_jobs(0, seconds=wrong)  # type: ignore[arg-type]  # on purpose


def test_large_values_of_tasks_are_kept_as_long_as_their_job(tmp_path: Path) -> None:
    with Store(tmp_path / "state.db", artifact_threshold=1_000) as store:
        office = Office(store)
        office.job("old", "x" * 2_000, days=10)
        office.job("twin", "x" * 2_000)
        office.job("own", "y" * 2_000, days=10)
        assert store.stats().artifact_files == 6
        report = store.prune()
        assert (report.artifacts, report.files) == ((), 0)
        planned = store.prune(dt.timedelta(days=5), dry_run=True)
        assert (set(planned.jobs), len(planned.artifacts)) == ({"old", "own"}, 3)
        report = store.prune(dt.timedelta(days=5))
        assert (set(report.jobs), report.artifacts) == ({"old", "own"}, planned.artifacts)
        assert report.files == 3
        (task, _) = office.reads.tasks_of("twin")
        assert (len(task.input), len(task.output)) == (2_003, 2_004)
        assert office.values.keys("twin") == ["note"]
        assert store.retain_jobs(0) == ["twin"]
        assert store.stats().artifact_files == 0


def test_a_run_and_a_job_of_one_name_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    with Store(tmp_path / "state.db", artifact_threshold=1_000) as store:
        office = Office(store)
        journal = start(store, "r")
        journal.finish("completed")
        office.job("r", "x" * 2_000, done=False)
        planned = store.prune(0, dry_run=True)
        assert (planned.runs, planned.jobs, planned.artifacts) == (("r",), (), ())
        assert store.prune(0).runs == ("r",)
        assert office.left() == {"r"}
        assert store.stats().artifact_files == 3


@pytest.mark.parametrize("ended", ["before", "after"])
def test_a_job_stays_until_the_run_that_waits_for_it_has_ended(office: Office, ended: str) -> None:
    journal = start(office.store, "r")
    waiting = AwaitedJobs(office.store.database, office.store._payloads)
    wait = waiting.waiting("j", ("r", "a", "default"))
    office.job("other", days=10)
    if ended == "before":
        office.job("j", days=10)
        run_transaction(office.store.database, wait)
    else:
        office.job("j", days=10, done=False)
        run_transaction(office.store.database, wait)
        (claim,), _, _ = office.claims.exchange("w", agents=["j"], wanted=1)
        result = office.rows.encoded("out", "result")
        office.claims.exchange("w", [Ending(claim, TaskStatus.COMPLETED, result)])
    assert office.store.retain_jobs(0) == ["other"]
    assert office.store.prune(keep_last=0).jobs == ()
    assert waiting.result("j") is not None
    journal.finish("completed")
    assert office.store.retain_jobs(0) == ["j"]
