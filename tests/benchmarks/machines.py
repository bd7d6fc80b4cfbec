"""A machine of two states that goes to and fro, through `dagger_dsl` and as bare calls."""

from __future__ import annotations

from pathlib import Path

from dagger_dsl.fsm import FSM, FSMReturn
from dagger_dsl.registry import Registry
from tests.benchmarks import ours
from tests.benchmarks.measure import Trial, timed

__all__ = ["bare", "build", "in_database", "in_memory"]


def build(n: int) -> FSM:
    """Return a machine that ends after *n* steps."""
    fsm = FSM("bench_machine", registry=Registry(), max_cycles=n)
    last = n - 1

    @fsm.state(initial=True)
    def tick(k: int = 0) -> FSMReturn:
        return FSMReturn("tock", k + 1, stop=k >= last)

    @fsm.state
    def tock(k: int) -> FSMReturn:
        return FSMReturn("tick", k + 1, stop=k >= last)

    return fsm


def bare(n: int) -> Trial:
    """Call the functions of the states in turns, and do nothing else."""
    last = n - 1

    def tick(k: int = 0) -> FSMReturn:
        return FSMReturn("tock", k + 1, stop=k >= last)

    def tock(k: int) -> FSMReturn:
        return FSMReturn("tick", k + 1, stop=k >= last)

    table = {"tick": tick, "tock": tock}

    def body() -> None:
        answer = tick()
        while not answer.stop:
            answer = table[str(answer.next_state)](answer.value)

    return timed(body)


def in_memory(n: int, runner: str) -> Trial:
    """Run *n* steps in memory."""
    return ours.in_memory(build(n), runner)


def in_database(n: int, folder: Path, durability: str, synchronous: str) -> Trial:
    """Run *n* steps on a file database."""
    url = ours.url_of(folder, f"machine-{n}-{durability}-{synchronous}", synchronous)
    return ours.on_file(build(n), url, runner="sequential", durability=durability)
