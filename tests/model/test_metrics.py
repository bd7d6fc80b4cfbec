"""`MetricsCollector`: what nodes measure themselves."""

from __future__ import annotations

import math
import statistics
import threading
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.metrics import MetricsCollector


@pytest.mark.row("M9")
@given(st.lists(st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6), min_size=2, max_size=30))
def test_a_summary_has_the_numbers_of_statistics(values: list[float]) -> None:
    collector = MetricsCollector()
    for value in values:
        collector.record("size", value)
    assert collector.get_summary("size") == {
        "count": len(values),
        "mean": statistics.mean(values),
        "min": min(values),
        "max": max(values),
        "stdev": statistics.stdev(values),
    }


@pytest.mark.row("M9")
def test_nothing_and_one_value_have_a_summary_too() -> None:
    collector = MetricsCollector()
    nothing = {"count": 0, "mean": 0, "min": 0, "max": 0, "stdev": 0}
    assert collector.get_summary("unknown") == nothing
    assert collector.metrics == {}  # asking records nothing
    collector.record("one", 3)
    assert collector.get_summary("one") == {"count": 1, "mean": 3, "min": 3, "max": 3, "stdev": 0}


@pytest.mark.row("M9")
def test_entries_have_a_value_a_time_and_tags() -> None:
    collector = MetricsCollector(clock=lambda: 12.5)
    tags = {"type": "input"}
    collector.record("size", 3, tags)
    collector.record("size", Fraction(1, 2))  # type: ignore[arg-type]  # any real number
    tags["type"] = "changed later"
    assert collector.metrics["size"] == [
        {"value": 3, "timestamp": 12.5, "tags": {"type": "input"}},
        {"value": Fraction(1, 2), "timestamp": 12.5, "tags": {}},
    ]


@pytest.mark.parametrize("value", ["3", None, [1], math.nan, math.inf, 1j])
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    collector = MetricsCollector()
    with pytest.raises(ConfigurationError, match="'size': a value is a finite number"):
        collector.record("size", value)
    assert collector.metrics == {}


@pytest.mark.parametrize("name", ["", None, 3, ["a"]])
def test_a_name_is_a_text(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name is a text"):
        MetricsCollector().record(name, 1)


def test_tags_are_a_mapping() -> None:
    with pytest.raises(ConfigurationError, match=r"tags are a mapping, such as \{'type'"):
        MetricsCollector().record("size", 1, "input")  # type: ignore[arg-type]


def test_whole_numbers_of_any_size_are_measured() -> None:
    collector = MetricsCollector()
    for value in (10**400, 10**400 + 2):
        collector.record("size", value)
    assert collector.get_summary("size")["max"] == 10**400 + 2


def test_threads_lose_nothing() -> None:
    collector = MetricsCollector()

    def work(name: str) -> None:
        for k in range(500):
            collector.record(name, k)
            collector.record("shared", k)
            collector.get_summary("shared")

    threads = [threading.Thread(target=work, args=(f"own {k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collector.get_summary("shared")["count"] == 2000
    assert [collector.get_summary(f"own {k}")["count"] for k in range(4)] == [500] * 4
