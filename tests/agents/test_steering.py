"""What people decide of tasks, and what follows from it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagger_dsl import task_agent
from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import (
    ConcurrentUpdateError,
    ConfigurationError,
    InvalidState,
    TaskNotFound,
)
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec, TaskStatus
from dagger_dsl.registry import Registry
from dagger_dsl.testing import FakeClock
from tests.agents.helpers import LONG, Hands, registry_of, until


@pytest.fixture(params=["memory", "file"])
def hands(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hands]:
    """A manager whose tasks a test claims by hand."""
    url = None if request.param == "memory" else f"sqlite:{tmp_path / 'tasks.db'}"
    with Hands(
        FakeClock(1e6), registry=registry_of(a=lambda input: input), database_url=url
    ) as made:
        yield made


def chain(hands: Hands) -> TaskManager:
    """Start a job: a tree below ``root``, and ``after``, which needs ``left``."""
    manager = hands.manager
    for task_id, parent, needs in (
        ("root", None, ()),
        ("left", "root", ()),
        ("leaf", "left", ("left",)),
        ("right", "root", ("left",)),
        ("after", None, ("left",)),
        ("anyway", None, ("left",)),
    ):
        manager.add_task(
            "j",
            "",
            "a",
            task_id=task_id,
            parent=parent,
            dependencies=needs,
            on_dependency_failure="run" if task_id == "anyway" else "fail",
        )
    _ = manager.start_job("j")
    return manager


@pytest.mark.row("I27", "I30")
def test_a_result_is_accepted_for_good(hands: Hands) -> None:
    manager = chain(hands)
    hands.end(hands.claim("a")[0])
    manager.accept("root", "Ada likes it")
    assert hands.task("root").status is TaskStatus.ACCEPTED
    assert [(str(each.status), each.cause) for each in manager.history("root")] == [
        ("pending", "added"),
        ("ready", "its job was started"),
        ("running", ""),
        ("completed", ""),
        ("accepted", "Ada likes it"),
    ]
    assert all(each.at.timestamp() == 1e6 for each in manager.history("root"))
    for call in (manager.accept, manager.retry, manager.pause):
        with pytest.raises(InvalidState, match="accepted"):
            call("root")
    with pytest.raises(InvalidState, match="accepted"):
        manager.cancel_task("root", subtree=False)


def test_a_result_that_is_rejected_is_made_again_and_its_agent_knows_why(hands: Hands) -> None:
    manager = chain(hands)
    claims = hands.claim("a", wanted=2)
    for each in claims:
        hands.end(each)
    assert hands.states()["after"] == "ready"
    manager.reject("left", "too short")
    assert hands.states() == {
        "root": "completed",
        "left": "rejected",
        "leaf": "pending",
        "right": "pending",
        "after": "pending",
        "anyway": "pending",
    }
    assert hands.task("left").error == "too short"
    with pytest.raises(InvalidState):
        manager.reject("left", "again")
    manager.retry("left")
    (claim,) = hands.claim("a")
    ctx = TaskContext(manager, claim)
    assert (claim.id, claim.attempt, ctx.rejections) == ("left", 2, ["too short"])
    hands.end(claim)
    assert hands.states()["after"] == "ready"
    manager.retry("root", "one more time")
    assert [str(each.status) for each in manager.history("root")[-2:]] == ["rejected", "ready"]


@pytest.mark.row("I29")
def test_what_is_tried_again_has_all_its_retries(hands: Hands) -> None:
    manager = hands.manager
    manager.add_task("j", "", "a", task_id="t", max_retries=2, retry_count=2)
    manager.add_task("j", "", "a", task_id="after", dependencies=["t"])
    _ = manager.start_job("j")
    (claim,) = hands.claim("a")
    assert claim.retries == 2
    hands.end(claim, TaskStatus.FAILED, error="OSError: away")
    assert manager.job("j").status is JobStatus.FAILED
    with pytest.raises(InvalidState, match="not paused; retry"):
        manager.resume("t")
    manager.retry("t")
    assert hands.states() == {"t": "ready", "after": "pending"}
    with pytest.raises(InvalidState):
        manager.retry("t")
    (claim,) = hands.claim("a")
    assert (claim.retries, claim.attempt) == (0, 2)
    with pytest.raises(InvalidState, match="running"):
        manager.retry("t")
    assert hands.end(claim), "what was refused has changed nothing"


def test_a_task_is_cancelled_with_its_parts(hands: Hands) -> None:
    manager = chain(hands)
    (claim,) = hands.claim("a")
    assert manager.cancel_task("root", reason="no longer wanted") == [
        "root",
        "left",
        "right",
        "leaf",
    ]
    assert hands.states() == {
        "root": "cancelled",
        "left": "cancelled",
        "leaf": "cancelled",
        "right": "cancelled",
        "after": "failed",
        "anyway": "ready",
    }
    assert hands.task("leaf").error == "no longer wanted"
    assert not hands.end(claim), "it comes too late"
    with pytest.raises(InvalidState):
        manager.cancel_task("root")
    (claim,) = hands.claim("a")
    hands.end(claim)
    assert manager.job("j").status is JobStatus.FAILED


def test_the_parts_of_a_task_that_ended_are_cancelled_alone(hands: Hands) -> None:
    manager = chain(hands)
    hands.end(hands.claim("a")[0])
    assert manager.cancel_task("root") == ["left", "right", "leaf"]
    assert hands.states()["root"] == "completed"


def test_a_task_is_cancelled_without_its_parts(hands: Hands) -> None:
    manager = chain(hands)
    assert manager.cancel_task("root", subtree=False) == ["root"]
    assert hands.states()["left"] == "ready"
    manager.cancel_task("left", subtree=False)
    states = hands.states()
    assert (states["leaf"], states["right"], states["anyway"]) == ("failed", "failed", "ready")
    manager.retry("left")
    states = hands.states()
    assert (states["leaf"], states["right"]) == ("pending", "pending")


def test_a_failed_task_that_is_cancelled_counts_once(hands: Hands) -> None:
    manager = hands.manager
    for task_id in ("bad", "open"):
        manager.add_task("j", "", "a", task_id=task_id)
    manager.add_task(
        "j", "", "a", task_id="c", dependencies=["bad", "open"], on_dependency_failure="run"
    )
    _ = manager.start_job("j")
    hands.end(hands.claim("a")[0], TaskStatus.FAILED)
    assert manager.cancel_task("bad") == ["bad"]
    assert hands.states() == {"bad": "cancelled", "open": "ready", "c": "pending"}
    hands.end(hands.claim("a")[0])
    assert hands.states()["c"] == "ready"
    hands.end(hands.claim("a")[0])
    assert manager.job("j").status is JobStatus.COMPLETED


def test_a_task_that_has_not_begun_is_paused(hands: Hands) -> None:
    manager = chain(hands)
    manager.pause("left")
    manager.pause("after")
    assert [each.id for each in hands.claim("a", wanted=9)] == ["root"]
    with pytest.raises(InvalidState, match="running and cannot become paused"):
        manager.pause("root")
    manager.resume("left")
    hands.end(hands.claim("a")[0])
    assert hands.states()["after"] == "paused"
    manager.resume("after")
    assert hands.states()["after"] == "ready"
    with pytest.raises(InvalidState, match="not paused"):
        manager.resume("after")


def test_a_task_is_not_tried_again_before_what_it_needs(hands: Hands) -> None:
    manager = chain(hands)
    manager.cancel_task("left", subtree=False)
    assert hands.states()["after"] == "failed"
    with pytest.raises(InvalidState, match="'after' needs 'left', which is cancelled: let that be"):
        manager.retry("after")
    assert hands.states()["after"] == "failed"
    manager.retry("left")
    assert hands.states()["after"] == "pending"


@pytest.mark.parametrize("name", ["accept", "retry", "cancel_task", "pause", "resume"])
def test_what_is_not_there_is_named(hands: Hands, name: str) -> None:
    with pytest.raises(TaskNotFound, match="'nowhere'"):
        getattr(hands.manager, name)("nowhere")
    with pytest.raises(ConfigurationError, match="a task's id is a text"):
        getattr(hands.manager, name)(3)


def test_a_summary_is_seen_by_others(hands: Hands) -> None:
    manager = hands.manager
    manager.add_task(
        "j",
        "Find out",
        "a",
        task_id="t",
        acceptance_criteria="at least two sources",
        summary="to do",
        timeout=5,
    )
    _ = manager.start_job("j")
    (claim,) = hands.claim("a")
    ctx = TaskContext(manager, claim)
    assert (ctx.task.summary, ctx.task.acceptance_criteria) == ("to do", "at least two sources")
    ctx.set_summary('found "one"')
    task = hands.task("t")
    assert (task.summary, task.description, task.timeout) == ('found "one"', "Find out", 5.0)
    assert hands.end(claim), "its claim is what it was"
    with pytest.raises(ConcurrentUpdateError, match="its summary stays"):
        ctx.set_summary("too late")
    assert hands.task("t").summary == 'found "one"'
    with pytest.raises(ConfigurationError, match="a summary is a text"):
        ctx.set_summary(3)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("is_async", [False, True])
def test_a_call_that_goes_on_learns_of_its_end(is_async: bool) -> None:
    registry = Registry()
    began, ended = threading.Event(), threading.Event()

    async def sleeps() -> None:
        import asyncio

        began.set()
        try:
            await asyncio.sleep(LONG)
        finally:
            ended.set()

    def looks(ctx: TaskContext) -> None:
        began.set()
        until(lambda: ctx.is_cancelled)
        ended.set()

    task_agent(name="endless", registry=registry)(sleeps if is_async else looks)
    with TaskManager(registry=registry, concurrency=1) as manager:
        task_id = manager.add_task("j", "", "endless")
        job = manager.start_job("j")
        assert began.wait(LONG)
        assert manager.cancel_task(task_id) == [task_id]
        assert ended.wait(LONG)
        job.result(LONG)
        task = manager.get_task(task_id)
        assert task is not None
        assert task.status is TaskStatus.CANCELLED


# --- jobs whose tasks are cancelled


def test_a_job_of_which_all_tasks_are_cancelled_is_cancelled(hands: Hands) -> None:
    manager = hands.manager
    for each in ("one", "two"):
        manager.add_task("j", "", "a", task_id=each)
    job = manager.start_job("j")
    manager.cancel_task("one", reason="nobody wants it")
    assert str(job.status) == "running"
    manager.cancel_task("two")
    assert (job.status, job.success) == (JobStatus.CANCELLED, False)
    assert job.error == "task 'one' was cancelled: nobody wants it"
    manager.retry("two")
    assert (job.status, job.error) == (JobStatus.RUNNING, "")
    hands.end(hands.claim("a")[0])
    assert job.status is JobStatus.COMPLETED, "what is cancelled of it is a skipped branch"


def test_a_job_that_begins_with_cancelled_tasks_alone_is_cancelled(hands: Hands) -> None:
    manager = hands.manager
    manager.add_task("j", "", "a", task_id="one")
    manager.cancel_task("one")
    job = manager.start_job("j")
    assert (job.status, job.error) == (JobStatus.CANCELLED, "task 'one' was cancelled")


def test_nobody_makes_a_task_running_by_hand(hands: Hands) -> None:
    manager = hands.manager
    manager.add_task("j", "", "a", task_id="one")
    _ = manager.start_job("j")
    with pytest.raises(InvalidState, match="cannot become running by hand, only by a worker"):
        manager.update_task_status("one", "running", cause="by hand")
    assert hands.states() == {"one": "ready"}
    assert hands.claim("a"), "a worker still takes it"


@pytest.mark.parametrize("how", ["cancelled", "ready"])
def test_an_async_call_is_interrupted_whoever_takes_its_task_away(tmp_path: Path, how: str) -> None:
    url, calls, ended = f"sqlite:{tmp_path / 'tasks.db'}", list[int](), list[str]()

    async def waits() -> int:
        calls.append(1)
        if len(calls) > 1:
            return 1
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            ended.append("interrupted")
            raise
        return 0

    registry = registry_of(waits=waits)
    with (
        TaskManager(registry=registry, database_url=url, concurrency=2) as manager,
        TaskManager(registry=registry, database_url=url, concurrency=0) as other,
    ):
        job = manager.start_job("j", [NewTaskSpec("waits", task_id="t")])
        until(lambda: calls)
        other.update_task_status("t", how)
        until(lambda: ended)
        wanted = JobStatus.CANCELLED if how == "cancelled" else JobStatus.COMPLETED
        assert job.result(LONG) is wanted


def test_a_status_is_changed_by_hand_only_where_it_is_what_was_read(tmp_path: Path) -> None:
    with TaskManager(registry=registry_of(a=lambda: 1), concurrency=0) as manager:
        manager.add_task("j", "", "a", task_id="t")
        read = manager.get_task("t")
        assert read is not None
        manager.pause("t")
        with pytest.raises(ConcurrentUpdateError, match="somebody has changed it"):
            manager.update_task_status("t", "cancelled", version=read.version)
        for wrong in ("1", 1.0, True, -1):
            with pytest.raises(ConfigurationError, match="version"):
                manager.update_task_status("t", "cancelled", version=wrong)  # type: ignore[arg-type]
        now = manager.get_task("t")
        assert now is not None
        assert manager.update_task_status("t", "cancelled", version=now.version)
