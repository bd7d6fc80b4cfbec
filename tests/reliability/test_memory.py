"""What a process takes: memory of streams and of many runs, and threads of none."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import DAG, Registry, action

# In a process of its own: what other tests have left is in no number.
STATUS = """
import gc, json, sys
from dagger_dsl import DAG, Cache, DagExecutor, action, insert_value
from dagger_dsl.model._limits import CacheConfig

def megabytes(what):
    gc.collect()
    # Not ru_maxrss: a process inherits that of the one that started it.
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what)) / 1024
"""

STREAM = """
from collections.abc import Iterator

runner, small, large = sys.argv[1:]

@action
def lines(path: str) -> Iterator[str]:
    with open(path) as file:
        yield from file

@action
def longest(lines: Iterator[str]) -> int:
    return max(map(len, lines))

@action
def all_lines(path: str) -> list[str]:
    with open(path) as file:
        return file.readlines()

@action
def longest_of(all_lines: list[str]) -> int:
    return max(map(len, all_lines))

streams = DAG(lines >> longest, name='streams')
loads = DAG(all_lines >> longest_of, name='loads')
for dag in (streams, loads):
    dag.run({'path': small}, runner=runner)
peaks = [megabytes('VmHWM')]
for dag in (streams, loads):
    assert dag.run({'path': large}, runner=runner) == 101
    peaks.append(megabytes('VmHWM'))
print(json.dumps(peaks))
"""

SOAK = """
folder, runner, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])

@action(cache=0.5)  # seconds
def rows(number: int) -> list[int]:
    return list(range(number, number + 8_000))  # beyond 32 KiB, so that it goes to a file

@action
def text(rows: list[int]) -> str:
    return str(rows[0]) * 2_000

@action
def total(rows: list[int], text: str) -> int:
    return sum(rows) + len(text)

with DAG('soak') as dag:
    found = rows()
    total(rows=found, text=text(found))

cache = Cache.with_config(CacheConfig(max_entries=20, max_memory_mb=2, ttl=60))
sizes, files = [], []
with DagExecutor(database_url=f'sqlite:{folder}/soak.db?synchronous=OFF') as executor:
    for number in range(-rounds, rounds):  # as many before, which fill caches and arenas
        report = executor.run(dag, {'number': number}, runner=runner)
        assert report.success, report.failure()
        insert_value(cache, 'results', str(number), report.value('text'))
        if number % 10 == 9:
            executor.storage.prune(keep_last=5)
        if number >= 0 and number % (rounds // 10) == rounds // 10 - 1:
            sizes.append(megabytes('VmRSS'))
            files.append(executor.storage.stats().total_bytes)
print(json.dumps([sizes, files]))
"""


def told_by(script: str, *arguments: str) -> Any:
    """Return what a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", STATUS + script, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.mark.row("Q5")
@pytest.mark.parametrize("runner", ["sequential", "threads", "asyncio"])
def test_a_file_that_is_streamed_line_by_line_takes_no_memory(runner: str, tmp_path: Path) -> None:
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    line = "x" * 100 + "\n"
    small.write_text(line * 10)
    large.write_text(line * 400_000)
    before, streamed, loaded = told_by(STREAM, runner, str(small), str(large))
    assert streamed - before < 4.0
    assert loaded - before > 40.0, "the same as a whole would have been seen"


@pytest.mark.row("Q6")
@pytest.mark.slow
@pytest.mark.parametrize("runner", ["sequential", "threads"])
def test_many_runs_with_limits_take_no_more_memory_than_few(runner: str, tmp_path: Path) -> None:
    sizes, files = told_by(SOAK, str(tmp_path), runner, "600")
    middle = len(sizes) // 2
    grown = min(sizes[middle:]) - min(sizes[1:middle])
    assert grown < 2.0, f"after 600 runs: {sizes}"
    assert files[-1] < 1.5 * files[1], "what nothing refers to is removed"


@pytest.mark.row("Q7")
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_sequential_run_makes_no_thread(
    recorded: bool, is_async: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    start = threading.Thread.start

    def noting(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    where: set[int] = set()

    @action
    def first(x: int) -> int:
        where.add(threading.get_ident())
        return x + 1

    @action
    async def first_async(x: int) -> int:
        await asyncio.sleep(0)
        where.add(threading.get_ident())
        return x + 1

    @action
    def double(x: int) -> int:
        where.add(threading.get_ident())
        return 2 * x

    with DAG("sequential") as dag:
        begun: Any = (first_async if is_async else first)(x=1)
        double.with_options(id="left")(begun)
        double.with_options(id="right")(begun)
        double.with_options(id="each").map(x=[1, 2, 3])
    url = f"sqlite:{tmp_path / 'runs.db'}" if recorded else None
    monkeypatch.setattr(threading.Thread, "start", noting)
    values = dag.run(runner="sequential", database_url=url)
    assert values == {"left": 4, "right": 4, "each": [2, 4, 6]}
    assert started == []
    assert where == {threading.get_ident()}
