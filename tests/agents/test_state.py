"""What agents share: the scope of their job, and scopes of any name."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.agents.context import TaskContext
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.tasks import JobStatus, NewTaskSpec
from dagger_dsl.store.storage import Store
from tests.agents.helpers import LONG, registry_of


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where the database of a test is."""
    return None if request.param == "memory" else f"sqlite:{tmp_path / 'tasks.db'}"


def count(input: int, ctx: TaskContext) -> None:
    """Add to what the job shares."""
    ctx.state.increment("sum", input)
    while True:
        entry = ctx.state.entry("seen")
        seen, version = ([], 0) if entry is None else (entry.value, entry.version)
        if ctx.state.compare_and_set("seen", [*seen, input], version):
            return


def test_the_agents_of_a_job_share_what_others_do_not_see(url: str | None) -> None:
    registry = registry_of(count=count)
    with TaskManager(registry=registry, database_url=url, concurrency=4) as manager:
        for job_id, number in (("j", 30), ("k", 3)):
            manager.add_tasks([NewTaskSpec("count", n) for n in range(number)], job_id)
            assert manager.start_job(job_id).result(LONG) is JobStatus.COMPLETED
        state = manager.state("j")
        assert state.get("sum") == sum(range(30))
        assert sorted(state.get("seen")) == list(range(30))
        other = manager.state("k").items()
        assert (list(other), sorted(other["seen"]), other["sum"]) == (["seen", "sum"], [0, 1, 2], 3)
        assert "j" in repr(state)


def test_a_scope_of_any_name_outlives_its_process(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'tasks.db'}"
    with TaskManager(database_url=url, concurrency=0) as manager:
        state = manager.state("prices")
        assert state.set("apple", 3, ttl=dt.timedelta(days=1)) == 1
        assert state.set("pear", "p" * 50_000) == 1
    with TaskManager(database_url=url, concurrency=0) as manager:
        state = manager.state("prices")
        assert (state.get("apple"), len(state.get("pear"))) == (3, 50_000)
        assert state.keys() == ["apple", "pear"]
        assert "apple" in state
        assert 3 not in state
        assert state.get("plum", "none") == "none"
        assert state.delete("apple")
        assert "apple" not in state


@pytest.mark.parametrize("ttl", [0, -1, "1", True, float("nan"), float("inf")])
def test_what_cannot_be_an_end_is_refused(ttl: Any) -> None:
    with TaskManager(concurrency=0) as manager:
        state = manager.state("s")
        for call in (
            lambda: state.set("k", 1, ttl=ttl),
            lambda: state.increment("k", ttl=ttl),
            lambda: state.compare_and_set("k", 1, 0, ttl=ttl),
        ):
            with pytest.raises(ConfigurationError, match="ttl"):
                call()
        assert state.keys() == []
        with pytest.raises(ConfigurationError, match="a scope is a text"):
            manager.state(3).get("k")  # type: ignore[arg-type]  # on purpose


def test_a_file_that_no_row_names_yet_is_left_alone_while_agents_work(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with TaskManager(database_url=path, concurrency=0) as manager, Store(path) as other:
        manager.state("s").set("k", 1)
        _, artifact_id, _ = manager._rows.encoded("x" * 50_000, "what is about to be recorded")
        assert artifact_id is not None
        assert other.prune().files == 0
        assert manager._rows.value(None, artifact_id) == "x" * 50_000
    with Store(path) as other:
        assert other.prune().files == 1
