"""Laws of tasks, whatever workers and people do, in whatever order."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from dagger_dsl.errors import CycleError, InvalidState
from dagger_dsl.model.tasks import UNFINISHED, JobStatus, NewTaskSpec, Task, TaskStatus
from dagger_dsl.store.storage import Store
from dagger_dsl.store.task_claims import AHEAD, Claim, Ending, TaskClaims
from dagger_dsl.store.task_reads import TaskReads
from dagger_dsl.store.task_steps import LOST
from dagger_dsl.store.tasks import TaskRows
from tests.scale import count

#: One database for all examples: to make one takes longer than an example.
STORE = Store("sqlite::memory:")
NUMBERS = itertools.count()

DONE = (TaskStatus.COMPLETED, TaskStatus.ACCEPTED)
DEAD = (TaskStatus.FAILED, TaskStatus.CANCELLED)
BY_HAND = (
    TaskStatus.READY,
    TaskStatus.PENDING,
    TaskStatus.PAUSED,
    TaskStatus.FAILED,
    TaskStatus.CANCELLED,
    TaskStatus.ACCEPTED,
    TaskStatus.REJECTED,
)


class Tasks(RuleBasedStateMachine):
    """One job, three workers, and a person."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.job = f"j{next(NUMBERS)}"
        self.workers = {each: f"{each}{self.job}" for each in "xyz"}
        parts = STORE.database, STORE._payloads, lambda: self.now
        self.rows, self.reads, self.work = (
            TaskRows(*parts),
            TaskReads(*parts),
            TaskClaims(*parts),
        )
        self.ids: list[str] = []
        self.versions: dict[str, int] = {}
        self.valid: dict[str, Claim] = {}
        self.deaths: dict[str, int] = {}
        self.asks: set[str] = set()  # tasks that a person has to decide on

    def teardown(self) -> None:
        self.rows.cancel_job(self.job)

    @initialize()
    def begin(self) -> None:
        self.rows.create_job(self.job)
        self.rows.start_job(self.job)

    def _is_open(self) -> bool:
        job = self.reads.job(self.job)
        assert job is not None
        return job.status is JobStatus.RUNNING

    def _some(self, data: st.DataObject) -> str | None:
        return self.ids[data.draw(st.integers(0, len(self.ids) - 1))] if self.ids else None

    def _several(self, data: st.DataObject, most: int) -> list[str]:
        if not self.ids:
            return []
        places = st.lists(st.integers(0, len(self.ids) - 1), unique=True, max_size=most)
        return [self.ids[each] for each in data.draw(places)]

    @rule(
        data=st.data(),
        priority=st.integers(-1, 1),
        anyway=st.booleans(),
        once=st.booleans(),
        key=st.sampled_from([None, None, "k", "l"]),
    )
    def add(
        self, data: st.DataObject, priority: int, anyway: bool, once: bool, key: str | None
    ) -> None:
        if not self._is_open() or len(self.ids) > 12:
            return
        needs = (
            data.draw(st.lists(st.sampled_from(self.ids), unique=True, max_size=3))
            if self.ids
            else []
        )
        task_id = f"{self.job}.{len(self.ids)}"
        self.rows.add(
            self.job,
            [
                NewTaskSpec(
                    self.job,
                    task_id=task_id,
                    dependencies=needs,
                    priority=priority,
                    on_dependency_failure="run" if anyway else "fail",
                    effects="at_most_once" if once else "at_least_once",
                    key=None if key is None else f"{key}{self.job}",
                )
            ],
        )
        self.ids.append(task_id)

    @rule(
        target=claims,
        worker=st.sampled_from("xyz"),
        wanted=st.integers(1, 3),
        ahead=st.integers(0, 2),
    )
    def claim(self, worker: str, wanted: int, ahead: int) -> Any:
        expected = self._claimable()
        assert self.work.has_ready([self.job]) == bool(expected)
        found, _, _ = self.work.exchange(
            self.workers[worker],
            agents=[self.job],
            wanted=wanted,
            ahead=ahead,
            quick=[self.job],
        )
        assert [each.id for each in found] == expected[: len(found)]
        assert len(found) >= min(wanted, len(expected))
        for each in found[wanted:]:
            assert (each.attempt, each.effects) == (1, "at_least_once")
        for each in found:
            assert each.id not in self.valid, "it was claimed twice"
            self.valid[each.id] = each
        return multiple(*found)

    def _claimable(self) -> list[str]:
        """Return the tasks that may be claimed, in their order: one at most of each key."""
        tasks = self._tasks()
        taken = {each.key for each in tasks if each.status is TaskStatus.RUNNING} - {None}
        ids = []
        for each in sorted(tasks, key=lambda each: -each.priority):
            if each.status is TaskStatus.READY and each.key not in taken:
                ids.append(each.id)
                taken |= {each.key} - {None}
        return ids

    def _end(self, claim: Claim, status: TaskStatus, **more: Any) -> None:
        _, late, _ = self.work.exchange("any", [Ending(claim, status, **more)])
        task = self.reads.task(claim.id)
        assert task is not None
        if self.valid.get(claim.id) is claim:
            assert late == []
            del self.valid[claim.id]
        else:
            assert [each.claim for each in late] == [claim]

    @rule(claim=consumes(claims))
    def complete(self, claim: Claim) -> None:
        self._end(claim, TaskStatus.COMPLETED)

    @rule(claim=consumes(claims))
    def fail(self, claim: Claim) -> None:
        self._end(claim, TaskStatus.FAILED)

    @rule(claim=consumes(claims), seconds=st.integers(0, 5))
    def retry(self, claim: Claim, seconds: int) -> None:
        self._end(claim, TaskStatus.PENDING, due_at=self.now + seconds, retried=True)

    @rule(claim=consumes(claims))
    def give_back(self, claim: Claim) -> None:
        self._end(claim, TaskStatus.READY)

    @rule(claim=consumes(claims), data=st.data(), asks=st.booleans())
    def block(self, claim: Claim, data: st.DataObject, asks: bool) -> None:
        needs = self._several(data, 2)
        try:
            was = self.valid.get(claim.id) is claim
            self._end(claim, TaskStatus.BLOCKED, needs=tuple(needs), asks=asks)
            if asks and was:
                self.asks.add(claim.id)
        except CycleError:  # nothing happened: its worker still has it
            self._end(claim, TaskStatus.COMPLETED)

    @rule(data=st.data())
    def need(self, data: st.DataObject) -> None:
        one, other = self._some(data), self._some(data)
        if one is None or other is None:
            return
        try:
            self.rows.add_dependency(one, other)
        except (CycleError, InvalidState):
            pass

    @rule(data=st.data(), status=st.sampled_from(BY_HAND))
    def by_hand(self, data: st.DataObject, status: TaskStatus) -> None:
        task_id = self._some(data)
        if task_id is None:
            return
        try:
            self.rows.set_status(task_id, status)
        except InvalidState:
            return
        self.asks.discard(task_id)
        self.valid.pop(task_id, None)

    @rule(worker=st.sampled_from("xyz"))
    def die(self, worker: str) -> None:
        running = [each for each in self._tasks() if each.worker == self.workers[worker]]
        self.work.rescue(self.workers[worker])
        for task in running:
            del self.valid[task.id]
            self.deaths.setdefault(task.id, 0)
            history = self.reads.history(task.id)
            self.deaths[task.id] += history[-2].cause != AHEAD
            rescued = self.reads.task(task.id)
            if rescued is not None and task.effects == "at_least_once":
                lost = rescued.error == LOST
                assert lost or (rescued.status is TaskStatus.FAILED) == (self.deaths[task.id] >= 3)
            if task.effects == "at_most_once":
                self.asks.add(task.id)

    @rule(seconds=st.integers(0, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.work.wake()

    def _tasks(self) -> list[Task]:
        return self.reads.tasks_of(self.job)

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        job = self.reads.job(self.job)
        if job is None:
            return
        tasks = {each.id: each for each in self._tasks()}
        assert job.unfinished == sum(each.status in UNFINISHED for each in tasks.values())
        assert job.failed == sum(each.status is TaskStatus.FAILED for each in tasks.values())
        if job.unfinished and tasks:
            assert job.status is JobStatus.RUNNING
        elif tasks:
            given_up = all(each.status is TaskStatus.CANCELLED for each in tasks.values())
            good = JobStatus.CANCELLED if given_up else JobStatus.COMPLETED
            assert job.status is (JobStatus.FAILED if job.failed else good)
        keys = [each.key for each in tasks.values() if each.key and each.worker]
        assert len(keys) == len({*keys}), "two tasks of one key run"
        for task in tasks.values():
            needs = [tasks[each].status for each in task.dependencies]
            anyway = task.on_dependency_failure == "run"
            satisfied = all(each in DONE or (anyway and each in DEAD) for each in needs)
            lost = not anyway and any(each in DEAD for each in needs)
            if task.status is TaskStatus.READY:
                assert satisfied
            if task.status in (TaskStatus.PENDING, TaskStatus.BLOCKED):
                assert not lost
            if task.status is TaskStatus.PENDING and satisfied:
                assert task.retry_count or task.attempts, "nobody would ever call it"
            if task.id in self.asks:
                assert task.status in (TaskStatus.BLOCKED, TaskStatus.FAILED)
            assert (task.worker != "") == (task.status is TaskStatus.RUNNING)
            assert (task.id in self.valid) == (task.status is TaskStatus.RUNNING)
            before = self.versions.get(task.id, -1)
            assert task.version >= before
            if task.version > before:
                self.versions[task.id] = task.version
                assert self.reads.history(task.id)[-1].status is task.status


Tasks.TestCase.settings = settings(max_examples=count(2_000), stateful_step_count=30, deadline=None)
TestTasks = Tasks.TestCase
