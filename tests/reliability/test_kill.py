"""SIGKILL at any moment: nothing recorded is lost, called again or changed."""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.reliability.helpers import (
    COUNT,
    KILL,
    TEAR,
    Record,
    Zygote,
    calls_of,
    check_end,
    check_record,
    look,
    popen,
)
from tests.reliability.victim import Call, Spec
from tests.scale import count

RUNNERS = ("sequential", "threads", "asyncio")

#: From the command to the first new node, in seconds; what a quiet machine needs.
RESUME_WITHIN = 0.5


@attrs.define
class Deaths:
    """Checks each death of a run's processes, and all of them in the end.

    Args:
        spec: The run.
        database: Its file.
        side: Where copies are looked at.
    """

    spec: Spec
    database: Path
    side: Path
    done: set[int] = attrs.field(factory=set)
    seen: int = 0
    deaths: int = 0

    def after(self) -> tuple[Record, list[Call]]:
        """Check what a process that died has left; return the record and its calls."""
        self.deaths += 1
        calls = calls_of(self.spec)
        record = look(self.database, self.side, self.spec.run_id)
        check_record(self.spec, record, calls)
        mine = calls[self.seen :]
        again = {call.node for call in mine} & self.done
        assert not again, f"completed nodes were called again: {sorted(again)}"
        assert self.done <= set(record.completed), "recorded results are gone"
        lost = [call for call in mine if call.node not in record.completed]
        slots = 1 if self.spec.runner == "sequential" else self.spec.slots
        if self.spec.durability == "sync" and self.spec.flush == 0:
            assert len(lost) <= slots, lost
        self.seen = len(calls)
        self.done = set(record.completed)
        return record, mine

    def end(self) -> None:
        """Check the run after its last process has completed it."""
        calls = calls_of(self.spec)
        again = {call.node for call in calls[self.seen :]} & self.done
        assert not again, f"completed nodes were called again: {sorted(again)}"
        slots = 1 if self.spec.runner == "sequential" else self.spec.slots
        if self.spec.durability == "sync" and self.spec.flush == 0:
            assert len(calls) <= self.spec.nodes + self.deaths * slots
        check_end(self.spec, self.database, self.side)


def _spec(folder: Path, **fields: Any) -> tuple[Spec, Path]:
    database = folder / "db" / "state.db"
    database.parent.mkdir(parents=True)
    options = fields.pop("options", "")
    return Spec(url=f"{database}{options}", log=str(folder / "calls.log"), **fields), database


# --- random moments -------------------------------------------------------------------------------


def _run_and_kill(spec: Spec, rng: random.Random, more: int | None) -> tuple[int, float | None]:
    """Start a process; kill it after *more* calls, if any. Return its exit code and latency."""
    before = len(calls_of(spec))
    started = time.monotonic()
    process = popen("tests.reliability.victim", spec.to_text(), stdout=subprocess.PIPE)
    try:
        if more is not None:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if len(calls_of(spec)) - before >= more:
                    break
                time.sleep(0.0005)
            time.sleep(rng.random() * 0.006)
            process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=100)[0]
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode == 0:
        assert said.strip() == "completed"
    calls = calls_of(spec)[before:]
    return process.returncode, calls[0].began - started if calls else None


@pytest.mark.slow
@pytest.mark.row("C12", "C13", "E18")
@pytest.mark.parametrize("flush", [0.0, 0.005])
@pytest.mark.parametrize(
    ("runner", "mixed"),
    [(runner, False) for runner in RUNNERS] + [("sequential", True), ("threads", True)],
)
def test_a_run_of_200_nodes_survives_kills_at_random_moments(
    tmp_path: Path, runner: str, mixed: bool, flush: float, rng: random.Random
) -> None:
    kills = count(20, least=2)
    spec, database = _spec(
        tmp_path,
        runner=runner,
        mixed=mixed,
        nodes=200,
        layers=20,
        seed=rng.randrange(1 << 30),
        work=0.002,
        flush=flush,
        large=25,
        max_crashes=kills + 1,  # it is us who kill, no node does
    )
    deaths = Deaths(spec, database, tmp_path / "side")
    latencies: list[float] = []
    code: int | None = None
    while code != 0:
        more = rng.randrange(0, 2 * 200 // (kills + 1)) if deaths.deaths < kills else None
        resumed = deaths.deaths > 0
        code, latency = _run_and_kill(spec, rng, more)
        if latency is not None and resumed:
            latencies.append(latency)
        if code != 0:
            assert code == -signal.SIGKILL
            deaths.after()
    deaths.end()
    assert latencies
    print(
        f"{runner}: {deaths.deaths} kills; resumed to the first new node in "
        f"{statistics.median(latencies):.3f} s (median), {min(latencies):.3f} s at best"
    )


def _resume_times(tmp_path: Path) -> tuple[list[float], list[float]]:
    """Return what resumes took until their first new node: on the clock, and of the processor."""
    spec, database = _spec(tmp_path, nodes=200, layers=20, work=0.002, max_crashes=100)
    deaths = Deaths(spec, database, tmp_path / "side")
    rng = random.Random(1)
    waited: list[float] = []
    spent: list[float] = []
    for _ in range(8):
        code, latency = _run_and_kill(spec, rng, 5)
        assert code == -signal.SIGKILL
        resumed = bool(deaths.done)
        _, calls = deaths.after()
        if latency is not None and resumed:
            waited.append(latency)
            spent.append(calls[0].spent)
    print(
        f"first new node after {statistics.median(waited):.3f} s (median; {min(waited):.3f} at "
        f"best), {statistics.median(spent):.3f} s of the processor ({min(spent):.3f})"
    )
    return waited, spent


def test_resume_needs_half_a_second_of_the_processor(tmp_path: Path) -> None:
    _, spent = _resume_times(tmp_path)
    assert min(spent) <= RESUME_WITHIN


@pytest.mark.benchmark
def test_resume_reaches_its_first_new_node_in_half_a_second(tmp_path: Path) -> None:
    """From the start of the process."""
    waited, _ = _resume_times(tmp_path)
    assert statistics.median(waited) <= RESUME_WITHIN


# --- every write ----------------------------------------------------------------------------------


def _moments(calls: str, rng: random.Random) -> list[tuple[int, int]]:
    """Return the calls to die at, and how: all of them in a full run, else some of every kind.

    A write is also torn. The WAL is given its size by one long write; of its two thousand equal
    steps some are enough.
    """
    numbers: list[tuple[int, int]] = []
    start = 0
    while start < len(calls):
        end = start
        while end < len(calls) and calls[end] == calls[start]:
            end += 1
        step = 1 if end - start < 500 else 97
        for nth in range(start + 1, end + 1, step):
            numbers.append((nth, KILL))
            if calls[start] == "w":
                numbers.append((nth, TEAR))
        start = end
    wanted = count(len(numbers), least=10)
    if wanted >= len(numbers):
        return numbers
    kinds: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for nth, mode in numbers:
        kinds.setdefault((calls[nth - 1], mode), []).append((nth, mode))
    chosen = {rng.choice(each) for each in kinds.values()}
    return sorted(chosen | set(rng.sample(numbers, wanted)))


@pytest.mark.slow
@pytest.mark.row("C12", "C13", "P12")
@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_run_survives_a_kill_at_every_write(
    tmp_path: Path, zygote: Zygote, runner: str, synchronous: str, rng: random.Random
) -> None:
    fields = {"runner": runner, "options": f"?synchronous={synchronous}"}
    spec, database = _spec(tmp_path / "whole", **fields)
    whole = zygote.run(spec, database.parent, mode=COUNT)
    assert (whole.status, whole.told) == (0, "completed")
    check_end(spec, database, tmp_path / "side")
    assert {"w", "s", "r", "u"} <= set(whole.calls)
    killed = 0
    for nth, mode in _moments(whole.calls, rng):
        spec, database = _spec(tmp_path / f"at{nth}_{mode}", **fields)
        first = zygote.run(spec, database.parent, nth, mode)
        deaths = Deaths(spec, database, tmp_path / "side")
        if first.status == -signal.SIGKILL:
            killed += 1
            deaths.after()
            again = zygote.run(spec, database.parent)
            assert (again.status, again.told) == (0, "completed"), (nth, again)
        else:  # threads do not always write the same number of times
            assert first.status == 0
            assert runner != "sequential"
        deaths.end()
    print(f"{killed} kills among {len(whole.calls)} calls")


@pytest.mark.slow
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_resume_survives_kills_too(
    tmp_path: Path, zygote: Zygote, runner: str, rng: random.Random
) -> None:
    """Die after die: each process comes a few writes further, or not at all."""
    for attempt in range(count(40)):
        spec, database = _spec(
            tmp_path / f"run{attempt}",
            runner=runner,
            options="?synchronous=NORMAL",
            max_crashes=1000,
        )
        deaths = Deaths(spec, database, tmp_path / "side")
        while True:
            nth = rng.randrange(1, 150)
            ending = zygote.run(spec, database.parent, nth, rng.choice((KILL, TEAR)))
            if ending.status == 0:
                break
            assert ending.status == -signal.SIGKILL, ending
            deaths.after()
        deaths.end()
