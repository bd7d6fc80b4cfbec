"""Lives of victims: how they are started, killed, answered and started again."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import orjson

from dagger_dsl.model.commands import Answer, Command, ResumeBranch, command_to_plain
from dagger_dsl.store.storage import Store
from tests.reliability.evidence import Deaths, calls_of
from tests.reliability.helpers import KILL, TEAR, Zygote, popen
from tests.reliability.workloads import Spec, Work, name_of, work_of
from tests.scale import count

__all__ = ["Life", "Person", "live", "live_in", "moments", "new_spec", "run_and_kill", "send"]


def new_spec(folder: Path, **fields: Any) -> tuple[Spec, Path]:
    """Return a spec in an empty folder, and its database file."""
    database = folder / "db" / "state.db"
    database.parent.mkdir(parents=True)
    options = fields.pop("options", "")
    return Spec(url=f"{database}{options}", log=str(folder / "calls.log"), **fields), database


def send(store: Store, run_id: str, command: Command) -> int:
    """Ask a run for a command, whoever executes it or will; return the request's number."""
    return store.send(run_id, orjson.dumps(command_to_plain(command)).decode())


# --- one process ----------------------------------------------------------------------------------


@attrs.frozen
class Life:
    """How one process of a run ended.

    Attributes:
        code: Its exit code, or minus the signal.
        told: The run's status; empty when it was killed.
        latency: Seconds from its start to its first call, if there was one.
    """

    code: int
    told: str
    latency: float | None


def run_and_kill(spec: Spec, rng: random.Random, more: int | None) -> Life:
    """Start a process; kill it after *more* calls, if any."""
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
    calls = calls_of(spec)[before:]
    latency = calls[0].began - started if calls else None
    return Life(process.returncode, said.strip(), latency)


# --- people ---------------------------------------------------------------------------------------


@attrs.define(slots=False)
class Person:
    """Answers what a run asks and lets its branches go on, from another process than the run's.

    Args:
        spec: The run.

    Attributes:
        released: How many calls there were when the branches were let go; None before.
    """

    spec: Spec
    released: int | None = None
    _answered: set[str] = attrs.field(factory=set)

    def attend(self) -> None:
        """Do what can be done now: answer, or, when nobody asks, let the branches go."""
        work = work_of(self.spec)
        with Store(self.spec.url) as store:
            asked = [
                name for name in waiting(store, self.spec.run_id) if name not in self._answered
            ]
            for name in asked:
                send(store, self.spec.run_id, Answer(name, work.asks[name], by="somebody"))
                self._answered.add(name)
            stands = (
                store.load_run(self.spec.run_id).status == "paused"
            )  # else it may hold them yet
            if work.held and not asked and self.released is None and stands:
                self.check(work)
                self.released = len(calls_of(self.spec))
                for branch in work.held:
                    send(store, self.spec.run_id, ResumeBranch(branch))

    def check(self, work: Work) -> None:
        """Check that nothing of a branch began before it was let go."""
        held = {name for names in work.held.values() for name in names}
        early = {call.name for call in calls_of(self.spec)[: self.released]} & held
        assert not early, f"called while their branch was paused: {sorted(early)}"


def waiting(store: Store, run_id: str) -> list[str]:
    """Return the invocations of a run that wait for a person."""
    rows = store.query(
        "SELECT node_id, invocation_key FROM node_runs WHERE run_id = :run AND state = 'waiting' "
        "ORDER BY seq",
        {"run": run_id},
    )
    return [name_of(row["node_id"], row["invocation_key"]) for row in rows]


# --- whole runs -----------------------------------------------------------------------------------


def live(deaths: Deaths, next_life: Callable[[], Life], person: Person | None = None) -> list[Life]:
    """Let processes follow each other until the run is completed; check what each one leaves."""
    person, lives = person or Person(deaths.spec), [next_life()]
    while lives[-1].told != "completed":
        killed = lives[-1].code == -signal.SIGKILL
        assert killed or lives[-1].told == "paused", lives[-1]
        record, _ = deaths.after(died=killed)
        if not killed:
            assert record.status == "paused"
            person.attend()
        lives.append(next_life())
    deaths.end()
    person.check(deaths.work)
    return lives


def live_in(zygote: Zygote, spec: Spec, folder: Path, nth: int = 0, mode: int = 0) -> Life:
    """Let a child of the zygote run, to its end or to the *nth* call that the shim counts."""
    ending = zygote.run(spec, folder, nth, mode)
    return Life(ending.status, ending.told, None)


def moments(calls: str, rng: random.Random, share: float = 1.0) -> list[tuple[int, int]]:
    """Return the calls to die at, and how: all in a full run of all, else some of every kind.

    A write is also torn. The WAL is given its size by one long write; of its two thousand equal
    steps some are enough.

    Args:
        calls: What they were.
        rng: Chooses.
        share: How much of the usual part is enough.
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
    wanted = round(share * count(len(numbers), least=10))
    if wanted >= len(numbers):
        return numbers
    kinds: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for nth, mode in numbers:
        kinds.setdefault((calls[nth - 1], mode), []).append((nth, mode))
    chosen = {rng.choice(each) for each in kinds.values()}
    return sorted(chosen | set(rng.sample(numbers, wanted)))
