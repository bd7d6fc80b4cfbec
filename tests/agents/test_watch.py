"""Jobs that are looked after: their time limits, and what is done once nothing happens any more."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.job import JobHandle
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.agents.roster import TaskAgentRegistry
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.stalls import StallAction
from dagger_dsl.model.tasks import JobStatus, TaskStatus
from dagger_dsl.registry import Registry
from dagger_dsl.store.cache import Cache, insert_value
from dagger_dsl.store.job_watch import Stall
from dagger_dsl.testing import FakeClock
from tests.agents.helpers import LONG, Hands, registry_of, until


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where the database of a test is."""
    return None if request.param == "memory" else f"sqlite:{tmp_path / 'tasks.db'}"


@pytest.fixture
def hands(url: str | None) -> Iterator[Hands]:
    """A manager of a planner and a worker, whose interval is 30 seconds."""
    with Hands(FakeClock(1e6), registry=agents(), database_url=url) as made:
        yield made


def agents() -> Registry:
    """Return the agents of these tests."""
    return registry_of(planner=lambda input: input, worker=lambda input: input)


def stuck_job(hands: Hands) -> str:
    """Start a job with a task that is given back and taken by nobody; return its objective's id."""
    objective = hands.manager.add_objective("j", "Find it out", "planner", "go")
    hands.manager.add_task("j", "", "worker", task_id="ask", parent=objective)
    _ = hands.manager.start_job("j")
    hands.end(hands.claim("planner")[0])
    hands.end(hands.claim("worker")[0], TaskStatus.READY, error="out of order")
    return objective


def asking_job(hands: Hands) -> None:
    """Start a job in which all that is left waits for a person."""
    hands.manager.add_task("j", "", "planner", input="go", task_id="goal", task_type="objective")
    hands.manager.add_task("j", "", "worker", task_id="ask", parent="goal")
    hands.manager.add_task("j", "", "worker", task_id="after", dependencies=["ask"])
    _ = hands.manager.start_job("j")
    hands.end(hands.claim("planner")[0])
    hands.end(hands.claim("worker")[0], TaskStatus.BLOCKED, error="which one?", asks=True)
    assert hands.states()["ask"] == "blocked"


@pytest.mark.row("I8")
@pytest.mark.parametrize("action", ["notify_planning_agent", "terminate_job"])
def test_a_job_that_waits_for_a_person_has_not_stalled(url: str | None, action: str) -> None:
    with Hands(FakeClock(1e6), 30, action, registry=agents(), database_url=url) as hands:
        asking_job(hands)
        for _ in range(3):
            hands.look(1e6)
        assert hands.manager.job("j").status is JobStatus.RUNNING
        assert hands.notices() == []
        hands.manager.update_task_status("ask", TaskStatus.READY)
        hands.look(29.0)
        assert hands.notices() == []
        hands.look(1.0)
        stalled = hands.manager.job("j").status is JobStatus.CANCELLED or hands.notices()
        assert stalled, "it was answered, and nobody takes it"


@pytest.mark.row("I8")
def test_a_paused_job_has_not_stalled_but_what_runs_beside_a_question_may(hands: Hands) -> None:
    manager = hands.manager
    manager.add_objective("j", "", "planner", 1)
    manager.add_task("j", "", "worker", task_id="t")
    _ = manager.start_job("j")
    hands.end(hands.claim("planner")[0])
    for status in (TaskStatus.PAUSED, TaskStatus.READY, TaskStatus.BLOCKED):
        manager.update_task_status("t", status)
        hands.look(1e6 if status is not TaskStatus.READY else 0.0)
        assert hands.notices() == []
    manager.add_task("j", "", "worker", task_id="beside")
    assert [each.id for each in hands.claim("worker")] == ["beside"]
    hands.look(30.0)
    assert len(hands.notices()) == 1, "its worker gives no sign of life"


@pytest.mark.row("I8")
@pytest.mark.parametrize("action", ["notify_planning_agent", "terminate_job"])
def test_a_job_without_tasks_has_not_stalled(
    url: str | None, action: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Hands(FakeClock(1e6), 5, action, registry=agents(), database_url=url) as hands:
        job = hands.manager.start_job("j")
        caplog.clear()
        for _ in range(3):
            hands.look(1e6)
        assert job.status is JobStatus.RUNNING
        assert caplog.text == ""


@pytest.mark.row("I8")
def test_a_stalled_job_tells_its_planning_agent_once(hands: Hands) -> None:
    objective = stuck_job(hands)
    hands.look(29.9)
    assert hands.notices() == []
    hands.look(0.1)
    hands.look(1.0)
    (notice,) = hands.notices()
    assert (notice.agent, notice.parent, notice.status) == ("planner", objective, TaskStatus.READY)
    assert notice.input == {
        "stalled": {
            "job_id": "j",
            "objective": objective,
            "seconds": 30.0,
            "tasks": [
                {
                    "task_id": "ask",
                    "agent": "worker",
                    "status": "ready",
                    "error": "out of order",
                    "waits": 0,
                }
            ],
        }
    }
    for _ in range(5):
        hands.look(100.0)
    assert len(hands.notices()) == 1


@pytest.mark.row("I8")
def test_to_be_told_is_no_sign_of_life_but_another_task_is(hands: Hands) -> None:
    stuck_job(hands)
    hands.look(30.0)
    (claim,) = hands.claim("planner")
    hands.look(1.0)
    hands.end(claim)
    for _ in range(5):
        hands.look(40.0)
    assert len(hands.notices()) == 1, "nothing but the telling has happened"
    (claim,) = hands.claim("worker")
    hands.end(claim, TaskStatus.READY)
    hands.look(29.0)
    assert len(hands.notices()) == 1
    for _ in range(3):
        hands.look(40.0)
    assert len(hands.notices()) == 2


@pytest.mark.row("I8")
def test_of_several_processes_that_look_one_tells(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}"
    clock = FakeClock(1e6)
    called: list[str] = []
    action = StallAction.custom(lambda job: called.append(job.job_id))
    with (
        Hands(clock, registry=agents(), database_url=url) as first,
        Hands(clock, registry=agents(), database_url=url) as second,
        Hands(clock, 30, action, registry=agents(), database_url=url) as third,
    ):
        stuck_job(first)
        clock.advance(30.0)
        stalls = [each.manager._jobs.stalled(30.0) for each in (first, second, third)]
        assert [len(each) for each in stalls] == [1, 1, 1], "all of them see it"
        for each, (stall,) in zip((second, first, third), stalls, strict=True):
            each.watch._act(stall)
        assert len(first.notices()) == 1
        assert called == []


@pytest.mark.row("I8")
def test_a_stalled_job_may_be_terminated(url: str | None) -> None:
    with Hands(FakeClock(1e6), 5, "terminate_job", registry=agents(), database_url=url) as hands:
        stuck_job(hands)
        hands.look(5.0)
        job = hands.manager.job("j")
        assert job.status is JobStatus.CANCELLED
        assert job.error == "the job has stalled: nothing happened for 5 s"
        assert hands.states()["ask"] == "cancelled"
        hands.look(50.0)
        assert hands.manager.job("j").error == job.error


@pytest.mark.row("I8")
@pytest.mark.parametrize("is_async", [False, True])
def test_a_stalled_job_may_be_given_to_a_function(
    url: str | None, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[JobHandle] = []

    def note(job: JobHandle) -> None:
        called.append(job)
        raise ValueError("what a function does")

    async def wait(job: JobHandle) -> None:
        await asyncio.sleep(0)
        note(job)

    action = StallAction.custom(wait if is_async else note)
    with Hands(FakeClock(1e6), 5, action, registry=agents(), database_url=url) as hands:
        stuck_job(hands)
        hands.look(5.0)
        until(lambda: "what a function does" in caplog.text)
        hands.look(5.0)
        hands.look(5.0)
        assert [each.job_id for each in called] == ["j"]
        hands.manager.add_task("j", "", "worker")
        hands.look(5.0)
        until(lambda: len(called) == 2)


@pytest.mark.row("I7", "I8")
def test_what_shows_that_a_job_lives(hands: Hands) -> None:
    manager = hands.manager
    manager.add_objective("j", "", "planner", 1)
    manager.add_task("j", "", "worker", task_id="t")
    _ = manager.start_job("j")
    hands.look(29.0)
    (claim,) = hands.claim("worker", worker="alive")  # that a task begins
    hands.look(29.0)
    assert not hands.notices()
    assert manager._jobs.heartbeat("j", claim.number, claim.version)  # what its agent says
    hands.look(29.0)
    manager._jobs.alive("alive")  # that its worker lives
    hands.look(29.0)
    assert not hands.notices()
    manager.add_task("j", "", "worker")  # that one is added
    hands.look(29.0)
    later = hands.clock() + 100.0
    hands.end(claim, TaskStatus.PENDING, due_at=later, retried=True)
    hands.look(99.0)  # that one waits for its time
    assert not hands.notices()
    hands.look(1.0)
    assert len(hands.notices()) == 1, "its time has come, and nobody takes it"


def test_a_late_worker_shows_nothing(hands: Hands) -> None:
    manager = hands.manager
    manager.add_task("j", "", "worker", task_id="t")
    _ = manager.start_job("j")
    (claim,) = hands.claim("worker")
    ctx = TaskContext(manager, claim)
    assert ctx.heartbeat()
    assert ctx.heartbeat(), "at once: nothing is written"
    assert [ctx.is_cancelled] == [False]
    manager._claims.rescue("w")
    (other,) = hands.claim("worker", worker="x")
    hands.clock.advance(2.0)
    assert not ctx.heartbeat()
    assert [ctx.is_cancelled] == [True]
    assert TaskContext(manager, other).heartbeat()


@pytest.mark.row("I8")
def test_who_cannot_be_told_is_not(url: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    registry = registry_of(planner=lambda topic: topic, worker=lambda input: input)
    with Hands(FakeClock(1e6), registry=registry, database_url=url) as hands:
        hands.manager.add_task("k", "", "worker", task_id="k")
        hands.manager.add_objective("j", "", "planner", {"topic": 1})
        for job_id in "jk":
            _ = hands.manager.start_job(job_id)
        hands.look(30.0)
        assert not hands.notices("j")
        assert "its planning agent does not take the news" in caplog.text
        assert "the input has no 'topic'" in caplog.text
        assert "it has no objective" in caplog.text
        assert hands.manager.job("j").status is JobStatus.RUNNING


def test_one_job_keeps_no_other_from_being_looked_after(
    url: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hands(FakeClock(1e6), 5, "terminate_job", registry=agents(), database_url=url) as hands:
        for job_id in "ab":
            hands.manager.add_task(job_id, "", "worker")
            _ = hands.manager.start_job(job_id)
        terminate = hands.manager._jobs.terminate

        def fail(stall: Stall, reason: str) -> list[str] | None:
            if stall.job_id == "a":
                raise ValueError("a fault")
            return terminate(stall, reason)

        monkeypatch.setattr(hands.manager._jobs, "terminate", fail)
        hands.look(5.0)
        hands.look(5.0)
        assert caplog.text.count("nothing can be done about job 'a'") == 1
        assert hands.manager.job("b").status is JobStatus.CANCELLED


def test_without_an_interval_nothing_is_looked_for(url: str | None) -> None:
    with Hands(FakeClock(1e6), None, "terminate_job", registry=agents(), database_url=url) as hands:
        stuck_job(hands)
        hands.look(1e6)
        assert hands.manager.job("j").status is JobStatus.RUNNING


@pytest.mark.row("I8")
def test_a_crew_looks_after_its_jobs(url: str | None) -> None:
    called: list[str] = []
    again = threading.Event()
    registry = Registry()

    @task_agent(registry=registry)
    async def hangs() -> None:
        await asyncio.sleep(LONG)

    def act(job: JobHandle) -> None:
        called.append(job.job_id)
        job.cancel("it hangs")
        again.set()

    with TaskManager(0.05, StallAction.custom(act), None, registry, url, concurrency=1) as manager:
        manager.add_task("j", "", "hangs")
        assert manager.start_job("j").result(LONG) is JobStatus.CANCELLED
        assert again.wait(LONG)
        assert called == ["j"]


# --- time limits


@pytest.mark.row("I12")
def test_a_job_has_a_time_limit(hands: Hands) -> None:
    manager = hands.manager
    manager.add_task("j", "", "worker", task_id="runs")
    manager.add_task("j", "", "worker", task_id="waits", dependencies=["runs"])
    job = manager.start_job("j", timeout=dt.timedelta(seconds=10))
    (claim,) = hands.claim("worker")
    hands.look(9.9)
    assert job.status is JobStatus.RUNNING
    _ = manager.resume_job("j")
    hands.look(0.1)
    assert (job.status, job.error) == (JobStatus.CANCELLED, "the job's time limit is over")
    assert hands.states() == {"runs": "cancelled", "waits": "cancelled"}
    assert not hands.end(claim), "it comes too late"
    manager.retry("runs")
    hands.look(100.0)
    assert job.status is JobStatus.RUNNING, "what a person tries again has no limit any more"


def test_a_job_that_ended_in_time_may_go_on_later(hands: Hands) -> None:
    manager = hands.manager
    manager.add_task("j", "", "worker", task_id="t")
    job = manager.start_job("j", timeout=10)
    hands.end(hands.claim("worker")[0], TaskStatus.FAILED)
    assert job.status is JobStatus.FAILED
    hands.clock.advance(100.0)
    manager.retry("t")
    hands.look()
    assert hands.states() == {"t": "ready"}


def test_who_is_quicker_gives_more_time(hands: Hands) -> None:
    manager = hands.manager
    manager.add_task("j", "", "worker", task_id="t")
    _ = manager.start_job("j", timeout=10)
    hands.clock.advance(10.0)
    assert manager._jobs.overdue() == ["j"]
    _ = manager.start_job("j", timeout=10)
    assert manager._jobs.expire("j") is None
    assert manager._jobs.expire("nowhere") is None
    assert hands.states() == {"t": "ready"}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_crew_ends_a_job_whose_time_is_over(url: str | None, is_async: bool) -> None:
    registry = Registry()
    seen = threading.Event()

    async def sleeps() -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            seen.set()

    def looks(ctx: TaskContext) -> None:
        until(lambda: ctx.is_cancelled)
        seen.set()

    task_agent(name="endless", registry=registry)(sleeps if is_async else looks)
    with TaskManager(registry=registry, database_url=url, concurrency=1) as manager:
        manager.add_task("j", "", "endless")
        job = manager.start_job("j", timeout=0.05)
        assert job.result(LONG) is JobStatus.CANCELLED
        assert job.error == "the job's time limit is over"
        assert seen.wait(LONG), "the agent is told"


def test_jobs_that_have_ended_are_kept_as_the_manager_is_told(url: str | None) -> None:
    with Hands(FakeClock(1e6), registry=agents(), database_url=url, keep_jobs=1) as hands:
        for job_id in "abc":
            hands.manager.add_task(job_id, "", "worker")
            _ = hands.manager.start_job(job_id)
        for claim in hands.claim("worker", wanted=2):
            hands.end(claim)
        hands.look(60.0)
        left = {each.id for each in hands.manager._reads.jobs()}
        assert "c" in left
        assert len(left) == 2


def test_old_jobs_are_removed_as_far_as_there_is_time(url: str) -> None:
    with Hands(FakeClock(1e6), registry=agents(), database_url=url) as hands:
        for job_id in "abcde":
            hands.manager.add_task(job_id, "", "worker")
            _ = hands.manager.start_job(job_id)
        for claim in hands.claim("worker", wanted=5):
            hands.end(claim)
        store = hands.manager._store
        assert store.retain_jobs(0, seconds=0) == []
        assert sorted(store.retain_jobs(0, seconds=LONG)) == list("abcde")


# --- the manager's own arguments


@pytest.mark.row("I7")
def test_a_manager_is_made_as_the_documents_make_it(tmp_path: Path) -> None:
    cache, registry = Cache(), TaskAgentRegistry()

    def note(ctx: TaskContext) -> None:
        insert_value(ctx.cache, "notes", ctx.task_id, "seen")

    registry.register("note", note)
    with TaskManager(
        dt.timedelta(seconds=60),
        StallAction.NOTIFY_PLANNING_AGENT,
        cache,
        registry,
        tmp_path / "research_job_db",
    ) as manager:
        assert (manager.heartbeat_interval, manager.stall_action) == (
            60.0,
            StallAction.NOTIFY_PLANNING_AGENT,
        )
        task_id = manager.add_task("j", "", "note")
        assert manager.start_job("j").result(LONG) is JobStatus.COMPLETED
        assert cache.to_dict() == {"notes": {task_id: "seen"}}
    with TaskManager() as manager:
        assert manager.heartbeat_interval == 30.0
        assert manager.stall_action is StallAction.NOTIFY_PLANNING_AGENT
        assert manager._store.database.is_memory
        assert manager.cache.to_dict() == {}


@pytest.mark.row("I7", "I8")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heartbeat_interval": 0}, "heartbeat_interval"),
        ({"heartbeat_interval": -1}, "heartbeat_interval"),
        ({"heartbeat_interval": "30"}, "heartbeat_interval"),
        ({"heartbeat_interval": True}, "heartbeat_interval"),
        ({"stall_action": "terminate"}, "TERMINATE_JOB.*did you mean 'terminate_job'"),
        ({"stall_action": None}, "stall_action is"),
        ({"stall_action": print}, "StallAction.custom"),
        ({"cache": {}}, "cache is a Cache"),
        ({"keep_jobs": -1}, "keep_jobs"),
        ({"keep_days": "7"}, "keep_days"),
    ],
)
def test_what_no_manager_can_have_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TaskManager(**given)


@pytest.mark.row("I8")
def test_a_stall_action_says_what_it_is() -> None:
    assert repr(StallAction.TERMINATE_JOB) == "StallAction.TERMINATE_JOB"
    assert repr(StallAction.custom(print)) == "StallAction.custom(print)"
    assert StallAction.of("Terminate_Job") is StallAction.TERMINATE_JOB
    with pytest.raises(ConfigurationError, match="a function of one argument"):
        StallAction.custom("print")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("why", ["by hand", "its time"])
@pytest.mark.parametrize("door", ["resume_job", "start_job"])
def test_a_cancelled_job_is_brought_back_by_its_tasks_alone(
    hands: Hands, why: str, door: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = hands.manager
    manager.add_task("j", "", "worker", task_id="t")
    job = manager.start_job("j", timeout=10)
    if why == "by hand":
        job.cancel("budget is spent")
    else:
        hands.look(10.0)
    before = (job.status, job.error)
    assert before[1] in ("budget is spent", "the job's time limit is over")
    again = getattr(manager, door)("j")
    assert (again.status, again.error) == before
    assert again.status is JobStatus.CANCELLED
    assert not again.success
    assert "job 'j' was cancelled and stays so; retry() of a task" in caplog.text
    manager.retry("t")
    assert job.status is JobStatus.RUNNING
    assert (getattr(manager, door)("j").status, job.error) == (JobStatus.RUNNING, "")
