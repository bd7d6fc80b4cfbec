"""The promises for tasks: workers that are killed and stopped, and what is left of their tasks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from dagger_dsl import Registry, task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import StoreBusy, TaskExists
from dagger_dsl.model.policies import Effects
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, Task, TaskStatus
from dagger_dsl.store.storage import Store
from tests.benchmarks.measure import within
from tests.reliability import task_agents
from tests.scale import count

pytestmark = pytest.mark.slow  # nearly each of them starts processes

ROOT = Path(__file__).parents[2]

#: Seconds that nothing here takes, however busy the machine is.
LONG = 100.0


@attrs.define(slots=False)
class Yard:
    """A database with tasks, and the processes that work on it."""

    folder: Path
    manager: TaskManager
    processes: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        return f"sqlite:{self.folder / 'tasks.db'}?synchronous=NORMAL"

    @property
    def log(self) -> Path:
        return self.folder / "effects.log"

    def worker(self, *more: str) -> subprocess.Popen[bytes]:
        """Start a worker."""
        command = [sys.executable, "-m", "dagger_dsl", "worker", "--db", self.url, "--actions"]
        errors = (self.folder / "errors.txt").open("ab")
        with errors:
            process = subprocess.Popen(
                [*command, task_agents.__file__, *more],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT), "TASK_LOG": str(self.log)},
            )
        self.processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Stop a worker, but not in a commit: nobody could write while it holds that lock."""
        while True:
            process.send_signal(signal.SIGSTOP)
            try:
                with Store(f"{self.url}&busy_timeout=500") as store, store.writing():
                    return
            except StoreBusy:
                process.send_signal(signal.SIGCONT)
                time.sleep(0.05)

    def effects(self) -> list[tuple[str, int]]:
        """Return the task and the process of each effect."""
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines()
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def errors(self) -> str:
        """Return what the workers said on standard error."""
        return (self.folder / "errors.txt").read_text()

    def task(self, task_id: str) -> Task:
        found = self.manager.get_task(task_id)
        assert found is not None
        return found

    def tasks(self) -> list[Task]:
        return self.manager.tasks("j")

    def end(self) -> None:
        """End what still goes on."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(LONG)


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    url = f"sqlite:{tmp_path / 'tasks.db'}?synchronous=NORMAL"
    with TaskManager(database_url=url, concurrency=0) as manager:
        made = Yard(tmp_path, manager)
        try:
            yield made
        finally:
            made.end()


def eventually(what: Callable[[], object], why: str = "") -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.005)


# --- kills ----------------------------------------------------------------------------------------


def layered(number: int, rng: random.Random) -> list[NewTaskSpec]:
    """Return tasks that need one another; a fifth of them, which nobody needs, run at most once."""
    specs: list[NewTaskSpec] = []
    needed: list[str] = []
    for n in range(number):
        once = rng.random() < 0.2
        needs = rng.sample(needed[-40:], min(len(needed), rng.randrange(3)))
        effects = Effects.AT_MOST_ONCE if once else Effects.AT_LEAST_ONCE
        seconds = {"seconds": rng.random() * 0.02}
        specs.append(
            NewTaskSpec("work", seconds, task_id=f"t{n}", dependencies=needs, effects=effects)
        )
        if not once:
            needed.append(f"t{n}")
    return specs


@pytest.mark.row("C12")
def test_tasks_survive_kills_of_their_workers(yard: Yard, rng: random.Random) -> None:
    number, kills = count(2_000, least=100), count(50, least=3)
    specs = layered(number, rng)
    yard.manager.add_tasks(specs, "j")
    job = yard.manager.start_job("j")
    living = [yard.worker("--concurrency", "2") for _ in range(4)]
    for kill in range(1, kills + 1):
        share = number * kill // (kills + 1)
        eventually(lambda share=share: len(yard.effects()) >= share)  # type: ignore[misc]
        victim = living.pop(rng.randrange(len(living)))
        victim.kill()
        assert victim.wait(LONG) == -signal.SIGKILL
        living.append(yard.worker("--concurrency", "2"))
    decided = _decide(yard, job.result)
    assert all(process.poll() is None for process in living), yard.errors()
    _check(yard, specs, decided)
    told = Counter(task for task, _ in yard.effects())
    again = sum(number > 1 for number in told.values())
    print(f"{kills} kills among {number} tasks: {again} called again, {len(decided)} decided")


def _decide(yard: Yard, result: Callable[[float], JobStatus]) -> set[str]:
    """Decide as a person does, who looks whether there was an effect, until the job has ended.

    Returns:
        The tasks that are given up, as nobody knows what came of their one call.
    """
    given_up: set[str] = set()
    deadline = time.monotonic() + LONG * 2
    while time.monotonic() < deadline:
        for task in yard.tasks():
            if task.status is TaskStatus.BLOCKED:
                assert task.effects is Effects.AT_MOST_ONCE
                happened = any(name == task.id for name, _ in yard.effects())
                new = TaskStatus.CANCELLED if happened else TaskStatus.READY
                yard.manager.update_task_status(task.id, new, cause="decided by hand")
                given_up |= {task.id} if happened else set()
        try:
            assert result(0.2) is JobStatus.COMPLETED
        except TimeoutError:
            continue
        return given_up
    raise AssertionError(f"stuck: {Counter(str(each.status) for each in yard.tasks())}")


def _check(yard: Yard, specs: list[NewTaskSpec], given_up: set[str]) -> None:
    told = Counter(task for task, _ in yard.effects())
    tasks = {each.id: each for each in yard.tasks()}
    for spec in specs:
        name = str(spec.task_id)
        task, history = tasks[name], yard.manager.history(name)
        completed = [each for each in history if each.status is TaskStatus.COMPLETED]
        assert task.worker == ""
        if name in given_up:
            assert (task.status, told[name], completed) == (TaskStatus.CANCELLED, 1, [])
            continue
        assert (task.status, task.output, len(completed)) == (TaskStatus.COMPLETED, name, 1)
        assert told[name] >= 1
        if task.effects is Effects.AT_MOST_ONCE:
            assert told[name] == 1
        else:
            deaths = sum(each.cause == "its worker died" for each in history)
            assert told[name] <= 1 + deaths, "called again without a death"
        for need in spec.dependencies:
            done = next(
                each.at
                for each in yard.manager.history(need)
                if each.status is TaskStatus.COMPLETED
            )
            assert next(each.at for each in history if each.status is TaskStatus.RUNNING) >= done


def test_two_workers_that_race_never_run_one_task_twice(yard: Yard) -> None:
    number = count(10_000, least=500)
    ids = yard.manager.add_tasks([NewTaskSpec("work") for _ in range(number)], "j")
    racers = [yard.worker("--concurrency", "4", "--drain") for _ in range(2)]
    job = yard.manager.start_job("j")
    assert job.result(LONG * 2) is JobStatus.COMPLETED
    # Who looked before the job was started has left; the other one did all there was.
    assert [each.wait(LONG) for each in racers] == [0, 0]
    effects = yard.effects()
    assert sorted(task for task, _ in effects) == sorted(ids)
    for task_id in ids[:: max(1, number // 200)]:
        statuses = [str(each.status) for each in yard.manager.history(task_id)]
        assert statuses == ["pending", "ready", "running", "completed"]


# --- 2, 8: effects and deaths ---------------------------------------------------------------------


def test_2_a_kill_between_effect_and_record_calls_again_what_may_be(yard: Yard) -> None:
    often, once = yard.manager.add_tasks(
        [NewTaskSpec("held"), NewTaskSpec("held", effects=Effects.AT_MOST_ONCE)], "j"
    )
    job = yard.manager.start_job("j")
    first = yard.worker("--concurrency", "2")
    eventually(lambda: len(yard.effects()) == 2)
    second = yard.worker("--concurrency", "2")
    killed = time.monotonic()
    first.kill()
    first.wait(LONG)
    eventually(lambda: yard.task(once).status is TaskStatus.BLOCKED)
    (yard.folder / "go").touch()
    eventually(lambda: yard.task(often).status is TaskStatus.COMPLETED)
    print(f"called again and ended {time.monotonic() - killed:.2f} s after the kill")
    assert Counter(yard.effects()) == Counter(
        [(often, first.pid), (once, first.pid), (often, second.pid)]
    )
    assert yard.task(often).output == second.pid
    assert "at most once: decide by hand" in yard.task(once).error
    assert job.status is JobStatus.RUNNING


def test_10_the_task_of_a_worker_that_dies_here_is_called_again_within_2_s(yard: Yard) -> None:
    (task_id,) = yard.manager.add_tasks([NewTaskSpec("held")], "j")
    assert not yard.manager.start_job("j").is_finished
    worker = yard.worker()
    eventually(lambda: len(yard.effects()) == 1)

    def trial() -> float:
        """Kill the worker that has the task; return how long it takes until another has it."""
        nonlocal worker
        former, worker, calls = worker, yard.worker(), len(yard.effects())
        eventually(lambda: yard.manager.history(task_id)[-1].status is TaskStatus.RUNNING)
        time.sleep(2.0)  # until the other one works; the kill has to find it there
        killed = time.monotonic()
        former.kill()
        eventually(lambda: len(yard.effects()) == calls + 1)
        assert yard.effects()[-1] == (task_id, worker.pid)
        return time.monotonic() - killed

    taken, allowed = within(trial, 2.0, turns=3)
    assert taken <= allowed


def test_8_a_task_that_kills_its_worker_fails_after_three_deaths(yard: Yard) -> None:
    bad, good = yard.manager.add_tasks([NewTaskSpec("poison"), NewTaskSpec("work")], "j")
    job = yard.manager.start_job("j")
    while not job.is_finished:
        yard.worker("--concurrency", "1", "--drain").wait(LONG)
        assert len(yard.processes) < 10
    assert job.status is JobStatus.FAILED
    task = yard.task(bad)
    assert (task.status, task.error) == (TaskStatus.FAILED, "3 workers died while they ran it")
    assert [name for name, _ in yard.effects()].count(bad) == 3
    assert yard.task(good).status is TaskStatus.COMPLETED


# --- 4: one owner ---------------------------------------------------------------------------------


def test_4_a_worker_that_stood_still_cannot_overwrite_the_new_owner(yard: Yard) -> None:
    (task_id,) = yard.manager.add_tasks([NewTaskSpec("held")], "j")
    job = yard.manager.start_job("j")
    first = yard.worker("--lease", "1")
    eventually(lambda: len(yard.effects()) == 1)
    yard.stop(first)
    second = yard.worker("--lease", "1")
    eventually(lambda: len(yard.effects()) == 2)
    assert yard.effects()[1] == (task_id, second.pid)
    causes = [each.cause for each in yard.manager.history(task_id)]
    assert "its worker gave no sign of life" in causes
    yard.stop(second)  # the first one gets its chance to be quicker
    (yard.folder / "go").touch()
    first.send_signal(signal.SIGCONT)
    eventually(lambda: "its outcome is refused" in yard.errors())
    second.send_signal(signal.SIGCONT)
    assert job.result(LONG) is JobStatus.COMPLETED
    task = yard.task(task_id)
    completed = [
        each for each in yard.manager.history(task_id) if each.status is TaskStatus.COMPLETED
    ]
    assert len(completed) == 1
    assert task.output in (first.pid, second.pid)
    assert [pid for _, pid in yard.effects()][:2] == [first.pid, second.pid]
    assert first.poll() is None, "it goes on"


# --- 9, 10: keys and results ----------------------------------------------------------------------


def test_9_one_id_is_one_job_and_one_task(yard: Yard) -> None:
    spec = NewTaskSpec("work", task_id="t")
    first = yard.manager.start_job("j", [spec])
    with pytest.raises(TaskExists):
        _ = yard.manager.start_job("j", [spec])
    assert yard.worker("--drain").wait(LONG) == 0
    again = yard.manager.start_job("j")
    assert (first.status, again.status) == (JobStatus.COMPLETED, JobStatus.COMPLETED)
    assert yard.worker("--drain").wait(LONG) == 0
    assert [name for name, _ in yard.effects()] == ["t"]


def test_10_a_task_sees_what_it_needs_recorded(tmp_path: Path) -> None:
    registry, unseen = Registry(), []
    url = f"sqlite:{tmp_path / 'tasks.db'}"

    @task_agent(registry=registry)
    def make(n: int) -> int:
        return n

    @task_agent(registry=registry)
    def use(ctx: TaskContext) -> list[int]:
        with TaskManager(database_url=url, concurrency=0) as other:  # as another process sees it
            needs = [other.get_task(each) for each in ctx.dependencies]
        seen = [None if each is None else (each.status, each.output) for each in needs]
        found = ctx.dependency_outputs()
        if seen != [(TaskStatus.COMPLETED, value) for value in found]:
            unseen.append((seen, found))
        return found

    with TaskManager(registry=registry, database_url=url, concurrency=4) as manager:
        for n in range(20):
            manager.add_task("j", "", "make", input={"n": n}, task_id=f"m{n}")
            manager.add_task("j", "", "use", dependencies=["m0", f"m{n}"], task_id=f"u{n}")
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
        for n in range(1, 20):
            task = manager.get_task(f"u{n}")
            assert task is not None
            assert task.output == [0, n]
    assert unseen == []
