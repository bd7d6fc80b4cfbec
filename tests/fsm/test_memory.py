"""A long run of a machine holds no more than a short one, apart from its history."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.engine.attempts import LAPS
from dagger_dsl.fsm import FSM, FSMReturn
from dagger_dsl.registry import Registry
from tests.scale import count


def held(steps: int, history_limit: int | None, **options: Any) -> int:
    """Return by how many bytes a run grows between a hundredth of its steps and the last."""
    fsm = FSM("long", registry=Registry(), history_limit=history_limit, max_cycles=steps + 10)
    early, late = steps // 100, steps
    sizes: dict[int, int] = {}

    @fsm.state(initial=True)
    def tick(n: int = 0) -> FSMReturn:
        if n in (early, late):
            sizes[n] = tracemalloc.get_traced_memory()[0]
        return FSMReturn("tock", n + 1, stop=n == late)

    @fsm.state
    def tock(n: int) -> FSMReturn:
        return FSMReturn("tick", n + 1)

    tracemalloc.start()
    try:
        fsm.run(**options)
    finally:
        tracemalloc.stop()
    assert fsm.context.cycle_count == steps + 1
    return sizes[late] - sizes[early]


STEPS = max(2_000, count(100_000) // 200 * 200)


@pytest.mark.parametrize("mode", ["sequential", "parallel", "async"])
def test_memory_is_flat_where_the_history_is_limited(mode: str) -> None:
    assert held(STEPS, 100, mode=mode) < 100_000


def test_a_whole_history_costs_little_more_than_its_values() -> None:
    assert held(STEPS, None) < 120 * STEPS + 200 * LAPS  # the times of the newest cycles


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["sync", "async"])
def test_memory_is_flat_in_a_database_too(tmp_path: Path, durability: str) -> None:
    url = f"sqlite:///{tmp_path}/runs.db?synchronous=NORMAL"
    # Up to 10,000 rows may wait for the thread of level `async`.
    most = 200_000 if durability == "sync" else 10_000_000
    assert held(STEPS, 100, database_url=url, durability=durability) < most
