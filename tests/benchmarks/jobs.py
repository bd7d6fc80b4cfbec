"""Jobs of tasks that do nothing, and the queue that a good programmer would write on sqlite3."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from dagger_dsl.agents import task_agent
from dagger_dsl.agents.manager import TaskManager
from dagger_dsl.model.tasks import NewTaskSpec, TaskStatus
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from dagger_dsl.store.task_claims import Ending, TaskClaims
from dagger_dsl.store.tasks import TaskRows
from tests.benchmarks.measure import Trial, timed_inside
from tests.benchmarks.ours import url_of

__all__ = ["claims", "enqueued", "in_processes", "in_threads", "queue_by_hand"]

REGISTRY = Registry()
_NUMBERS = count()


@task_agent(registry=REGISTRY)
def nothing() -> None:
    """Do nothing."""


def in_threads(n: int, folder: Path, synchronous: str, workers: int = 1) -> Trial:
    """Add *n* tasks and run them in this process, from adding to the last recorded result."""

    @contextmanager
    def opened() -> Iterator[TaskManager]:
        url = url_of(folder, f"tasks-{next(_NUMBERS)}", synchronous)
        with TaskManager(registry=REGISTRY, database_url=url, concurrency=workers) as manager:
            manager.start_job("first", _specs(1)).result(60)
            yield manager

    return timed_inside(opened, lambda manager: _run(manager, n))


def in_processes(n: int, folder: Path, synchronous: str, workers: int = 4) -> Trial:
    """Add *n* tasks and let other processes run them, each of which has one worker."""

    @contextmanager
    def opened() -> Iterator[TaskManager]:
        url = url_of(folder, f"tasks-{next(_NUMBERS)}", synchronous)
        words = [sys.executable, "-m", "tests.benchmarks.jobs", url]
        with TaskManager(registry=REGISTRY, database_url=url, concurrency=0) as manager:
            first = manager.start_job("first", _specs(workers))
            pipe = subprocess.PIPE
            others = [subprocess.Popen(words, stdin=pipe, stdout=pipe) for _ in range(workers)]
            for each in others:
                assert each.stdout is not None
                each.stdout.readline()
            first.result(60)
            try:
                yield manager
            finally:
                for each in others:
                    each.communicate()

    return timed_inside(opened, lambda manager: _run(manager, n))


def enqueued(n: int, folder: Path, synchronous: str) -> Trial:
    """Add *n* tasks in one batch."""

    @contextmanager
    def opened() -> Iterator[TaskManager]:
        url = url_of(folder, f"tasks-{next(_NUMBERS)}", synchronous)
        with TaskManager(registry=REGISTRY, database_url=url, concurrency=0) as manager:
            manager.add_tasks(_specs(1), "first")
            yield manager

    return timed_inside(opened, lambda manager: manager.add_tasks(_specs(n), "job"))


def claims(n: int, folder: Path, waiting: int) -> Trial:
    """Claim *n* tasks one by one, while as many are ready as *waiting*, and as many wait."""
    url = url_of(folder, f"waiting-{waiting}", "NORMAL")

    def trial() -> float:
        with Store(url) as store:
            rows = TaskRows(store.database, store._payloads)
            held = TaskClaims(store.database, store._payloads)
            _let_wait(rows, waiting)
            taken = 0.0
            for _ in range(n):
                began = time.perf_counter()
                found, _, _ = held.exchange("bench", agents=["nothing"], wanted=1)
                taken += time.perf_counter() - began
                held.exchange("bench", [Ending(found[0], TaskStatus.COMPLETED)])
            return taken

    return trial


def _let_wait(rows: TaskRows, waiting: int) -> None:
    job_id = f"job-{next(_NUMBERS)}-{time.time_ns()}"
    rows.create_job(job_id)
    (gate,) = rows.add(job_id, [NewTaskSpec("nobody")])
    rows.add(job_id, [NewTaskSpec("nothing", dependencies=[gate])] * waiting)
    rows.add(job_id, _specs(waiting))
    rows.start_job(job_id)


def _specs(n: int) -> list[NewTaskSpec]:
    return [NewTaskSpec("nothing") for _ in range(n)]


def _run(manager: TaskManager, n: int) -> None:
    job = manager.start_job("job", _specs(n))
    assert job.result(600) == "completed"


def queue_by_hand(n: int, folder: Path, synchronous: str) -> Trial:
    """Keep *n* tasks in a table; a commit for all that are added, two for each that is run."""

    @contextmanager
    def opened() -> Iterator[sqlite3.Connection]:
        file = folder / f"hand-{next(_NUMBERS)}.db"
        connection = sqlite3.connect(file, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(
            "CREATE TABLE queue (id INTEGER PRIMARY KEY, status TEXT, result TEXT, at REAL)"
        )
        connection.execute("CREATE INDEX ready ON queue (id) WHERE status = 'ready'")
        yield connection
        connection.close()

    def body(connection: sqlite3.Connection) -> None:
        execute = connection.execute
        execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO queue (status) VALUES (?)", [("ready",)] * n)
        execute("COMMIT")
        while True:
            execute("BEGIN IMMEDIATE")
            row = execute("SELECT id FROM queue WHERE status = 'ready' ORDER BY id").fetchone()
            if row is None:
                execute("COMMIT")
                return
            execute("UPDATE queue SET status = 'running', at = ? WHERE id = ?", (time.time(), *row))
            execute("COMMIT")
            result = nothing()
            execute(
                "UPDATE queue SET status = 'done', result = ? WHERE id = ?", (str(result), *row)
            )

    return timed_inside(opened, body)


if __name__ == "__main__":
    with TaskManager(registry=REGISTRY, database_url=sys.argv[1], concurrency=1) as worker:
        worker.work()
        print("works", flush=True)
        sys.stdin.read()
