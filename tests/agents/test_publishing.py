"""Messages of tasks: stored with the completion, and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import InvalidState
from dagger_dsl.model.messages import Message
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec
from dagger_dsl.store.messages import MessageRows
from dagger_dsl.store.storage import Store
from tests.agents.helpers import LONG, registry_of, until

pytestmark = pytest.mark.row("J12")


def published(url: str) -> list[Message]:
    """Return all messages of a database, in order."""
    with Store(url) as store:
        rows = MessageRows(store.database, store._payloads)
        return [rows.message(each) for each in rows.after(0, 1_000)]


@pytest.mark.parametrize("is_async", [False, True])
def test_only_the_call_that_completes_publishes(tmp_path: Path, is_async: bool) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}"
    kept: list[TaskContext] = []

    def tell(ctx: TaskContext, n: int) -> int:
        kept.append(ctx)
        ctx.publish("told", {"n": n, "attempt": ctx.attempt}, key="k")
        ctx.publish("told", "x" * 100_000)
        if ctx.attempt < 2:
            raise ConnectionError("not yet")
        return n

    async def tell_later(ctx: TaskContext, n: int) -> int:
        return tell(ctx, n)

    def fail(ctx: TaskContext) -> None:
        ctx.publish("told", "never")
        raise ValueError("no")

    registry = registry_of(tell=tell_later if is_async else tell, fail=fail)
    with TaskManager(registry=registry, database_url=url, concurrency=2) as manager:
        specs = [
            NewTaskSpec("tell", {"n": 1}, task_id="t", max_retries=1),
            NewTaskSpec("fail", task_id="f"),
        ]
        _ = manager.start_job("j", specs)
        until(lambda: all(str(t.status) in ("completed", "failed") for t in manager.tasks("j")))
        with pytest.raises(InvalidState, match="is over"):
            kept[-1].publish("told", 1)
    first, second = published(url)
    assert (first.payload, first.key, first.id) == ({"n": 1, "attempt": 2}, "k", "task:t:1:2:1")
    assert (first.source, first.task_id) == ("task:tell", "t")
    assert (len(second.payload), second.id) == (100_000, "task:t:1:2:2")


def test_a_task_in_memory_cannot_publish() -> None:
    def tell(ctx: TaskContext) -> Any:
        ctx.publish("told", 1)

    with TaskManager(registry=registry_of(tell=tell)) as manager:
        _ = manager.start_job("j", [NewTaskSpec("tell", task_id="t")])
        until(lambda: all(str(t.status) in ("completed", "failed") for t in manager.tasks("j")))
        found = manager.get_task("t")
        assert found is not None
        assert "not in memory" in str(found.error)


def test_a_task_that_has_the_id_of_one_that_was_removed_publishes_its_own(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}"

    def tell(ctx: TaskContext, day: str) -> None:
        ctx.publish("told", day)

    with TaskManager(registry=registry_of(tell=tell), database_url=url, concurrency=1) as manager:
        for day in ("monday", "tuesday", "tuesday"):
            spec = NewTaskSpec("tell", {"day": day}, task_id="report")
            assert manager.start_job("daily", [spec]).result(LONG) is JobStatus.COMPLETED
            manager._store.retain_jobs(0)
    assert [each.payload for each in published(url)] == ["monday", "tuesday", "tuesday"]
