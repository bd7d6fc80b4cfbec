"""Commands that look, where the database and its folder may only be read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import NewTaskSpec, PubSubExecutor, Registry, TaskManager, pubsub_agent, task_agent
from dagger_dsl.errors import StoreReadOnly
from dagger_dsl.store.storage import Store
from tests.cli.conftest import ROOT, Cli, Done

_IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

#: Root may write anywhere, unless it gives that up.
_LOWERED = ["setpriv", "--bounding-set=-all"] if _IS_ROOT else []

pytestmark = pytest.mark.skipif(
    os.name != "posix" or (_IS_ROOT and shutil.which("setpriv") is None),
    reason="nothing here keeps a file from being written",
)


def lowered(folder: Path, *arguments: str) -> Done:
    """Run the command as somebody who may not write what nobody may."""
    done = subprocess.run(
        [*_LOWERED, sys.executable, "-m", "dagger_dsl", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def kept(folder: Path, cli: Cli) -> Iterator[Path]:
    """A folder with a run, a job, and a message that was given up, that may only be read."""
    registry = Registry()

    @task_agent(registry=registry)
    def work(n: int) -> int:
        return 2 * n

    @pubsub_agent(subscribe="orders", registry=registry)
    def refuse(order: Any) -> None:
        raise ValueError("no")

    assert cli("run", "pipeline.py:good", "--run-id", "r").code == 0
    url = "sqlite:dagger_dsl.db"
    with TaskManager(registry=registry, database_url=url) as manager:
        manager.start_job("j", [NewTaskSpec("work", {"n": 4}, task_id="t")]).result(60)
    with PubSubExecutor(registry=registry, database_url=url) as bus:
        bus.publish("orders", 1, id="m").result()
        assert bus.wait_idle(60).result()
    yield folder
    for each in (folder, *folder.iterdir()):
        each.chmod(0o755)


def close_off(folder: Path) -> dict[str, bytes]:
    """Let nobody write the folder or what is in it; return what is in it."""
    files = {each.name: each.read_bytes() for each in folder.glob("dagger_dsl.db*")}
    for each in (*folder.iterdir(), folder):
        each.chmod(each.stat().st_mode & ~0o222)
    return files


LOOKS = [
    (["runs"], "good"),
    (["show", "r"], "double"),
    (["jobs"], "completed"),
    (["job", "show", "j"], "work"),
    (["task", "show", "t"], "output = 8"),
    (["channels"], "orders"),
    (["deadletters", "list"], "no"),
    (["db", "stats"], "node_runs"),
]


@pytest.mark.parametrize("name", ["a b%41.db", "über-#.db"])
def test_a_path_is_taken_as_it_is(folder: Path, cli: Cli, name: str) -> None:
    with TaskManager(registry=Registry(), database_url=folder / name, concurrency=0) as manager:
        manager.add_task("j", "", "work", task_id="t")
    before = {each.name for each in folder.iterdir()}
    for command in (["jobs"], ["task", "show", "t"], ["channels"], ["deadletters", "list"]):
        done = cli(*command, "--db", f"sqlite:{name}")
        assert done.code == 0, done
    assert cli("publish", "c", "1", "--db", f"sqlite:{name}").code == 0
    assert "c " in cli("channels", "--db", f"sqlite:{name}").out
    beside = {f"{name}{each}" for each in ("-lock", "-wal", "-shm")}
    assert {each.name for each in folder.iterdir()} - before <= beside


def test_a_database_in_memory_leaves_nothing(folder: Path, cli: Cli) -> None:
    before = sorted(folder.iterdir())
    for command in (["jobs"], ["channels"], ["deadletters", "list"]):
        assert cli(*command, "--db", "sqlite::memory:").code == 0
    assert sorted(folder.iterdir()) == before


def test_a_copy_can_be_made(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    close_off(kept)
    copy = tmp_path_factory.mktemp("elsewhere") / "copy.db"
    assert lowered(kept, "db", "backup", str(copy)).code == 0
    with Store(f"sqlite:{copy}") as store:
        assert store.load_run("r").status == "completed"


def test_what_looks_works_and_changes_nothing(kept: Path) -> None:
    before = close_off(kept)
    for command, told in LOOKS:
        done = lowered(kept, *command)
        assert (done.code, told in done.out) == (0, True), (command, done)
    assert {each.name: each.read_bytes() for each in kept.glob("dagger_dsl.db*")} == before


def test_what_changes_something_says_that_it_may_not(kept: Path) -> None:
    close_off(kept)
    for command in (["job", "cancel", "j"], ["publish", "orders", "1"], ["task", "retry", "t"]):
        done = lowered(kept, *command)
        assert done.code == 4, (command, done)
        assert "make the file and its folder writable" in done.err


def test_the_doctor_tells_what_there_is_beside_the_trouble(kept: Path) -> None:
    close_off(kept)
    done = lowered(kept, "doctor", "--json")
    facts = json.loads(done.out)
    assert done.code == 1
    assert facts["writable"].startswith("no")
    assert "1 runs" in facts["database"]
    assert len(facts["troubles"]) == 1
    assert "mode=ro" in facts["troubles"][0]


def test_a_reader_without_rights_sees_what_somebody_else_writes(kept: Path) -> None:
    """The writer's WAL and its index are there, and are read like any other."""
    with Store("sqlite:dagger_dsl.db") as store:
        with store.writing():
            pass
        close_off(kept)
        assert "good" in lowered(kept, "runs").out


def test_a_bus_that_only_reads_refuses_to_publish_and_to_serve(kept: Path) -> None:
    url = "sqlite:dagger_dsl.db?mode=ro"
    with PubSubExecutor([], registry=Registry(), database_url=url) as bus:
        assert [each.message.id for each in bus.dead_letters()] == ["m"]
        assert bus.channel_map().flow.channels["orders"].published == 1
        assert bus.wait_idle(60).result()
        with pytest.raises(StoreReadOnly, match="mode=ro"):
            bus.publish("orders", 2).result()
        with pytest.raises(StoreReadOnly, match="mode=ro"):
            bus.replay()

    registry = Registry()

    @pubsub_agent(subscribe="orders", registry=registry)
    def takes(order: Any) -> None:
        pass

    with (
        pytest.raises(StoreReadOnly, match="mode=ro"),
        PubSubExecutor(registry=registry, database_url=url),
    ):
        pass
