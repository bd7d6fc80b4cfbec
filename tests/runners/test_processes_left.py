"""Worker processes whose generator is held by somebody whom the run does not wait for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagger_dsl import DAG, ResourcePool
from dagger_dsl.errors import ProcessDied
from dagger_dsl.registry import Registry
from dagger_dsl.runners.processes import Errand, Processes
from tests.benchmarks.measure import within
from tests.runners import process_bodies as there
from tests.runners.helpers import eventually, our_threads
from tests.runners.test_processes import children, open_files

# Each starts processes of its own.
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def registry() -> Iterator[Registry]:
    with Registry() as fresh:
        yield fresh


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = children(), open_files()
    yield
    eventually(lambda: not our_threads(), "the threads end")
    eventually(lambda: children() <= before[0], "the processes end")
    eventually(lambda: open_files() <= before[1], "the files are closed")


def test_a_generator_closed_after_the_end_writes_into_no_other_file(tmp_path: Path) -> None:
    processes = Processes({})
    stream = processes.call(Errand(0, "n", processes.add(there.counts)), (10_000_000,), {})
    next(stream)
    processes.close()
    files = [(tmp_path / f"{n}").open("wb", buffering=0) for n in range(20)]
    try:
        stream.close()
        assert {os.fstat(file.fileno()).st_size for file in files} == {0}
    finally:
        for file in files:
            file.close()


def test_a_generator_read_after_the_end_says_that_its_process_is_gone(tmp_path: Path) -> None:
    processes = Processes({})
    stream = processes.call(Errand(0, "n", processes.add(there.counts)), (10_000_000,), {})
    next(stream)
    processes.close()
    with pytest.raises(ProcessDied):
        for _ in stream:
            pass


def test_who_waits_for_a_process_when_it_is_closed_is_told(tmp_path: Path) -> None:
    processes = Processes({})
    number, path = processes.add(there.stuck), tmp_path / "pid"
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            processes.call(Errand(0, "n", number), (str(path),), {})
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(path.exists, "the call is made")
    processes.close()
    thread.join(10.0)
    assert [type(each) for each in raised] == [ProcessDied]


def test_a_slot_may_hold_several_processes_and_all_of_them_end() -> None:
    def trial() -> float:
        processes = Processes({})
        errand = Errand(0, "n", processes.add(there.counts))
        streams = [processes.call(errand, (10_000_000,), {}) for _ in range(3)]
        pids = {next(stream)[1] for stream in streams}
        assert len(pids) == 3
        began = time.monotonic()
        processes.close()
        seconds = time.monotonic() - began
        assert not pids & children()
        return seconds

    taken, allowed = within(trial, 1.5, turns=3)
    assert taken < allowed, "a second for all of them, not for each"


def test_a_producer_called_again_leaves_no_process_of_its_first_call(tmp_path: Path) -> None:
    pool: ResourcePool[object] = ResourcePool(object, max_size=4)
    calls: list[int] = []
    released = threading.Event()
    with DAG("again", config={"shutdown_grace": 0.2}) as dag:

        @dag.node
        def produce() -> Iterator[int]:
            yield from range(3)

        @dag.node(uses={"conn": pool}, timeout=1.5, retry=1, retry_delay=0)
        def consume(produce: Iterator[int], conn: object) -> int:
            calls.append(1)
            mine = len(calls)
            for _ in produce:
                if mine == 1:
                    released.wait(30.0)
            return mine

        produce >> consume
    before = children()
    try:
        assert dag.run(runner="processes") == 2
        assert children() <= before
    finally:
        released.set()
