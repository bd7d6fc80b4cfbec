"""`Rate`: how it is written, and what is none."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.rates import Rate, as_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10)),
        ("10 / s", Rate(10, per=1.0)),
        ("100/m", Rate(100, per=60)),
        ("5/30s", Rate(5, per=30.0)),
        ("5/0.5s", Rate(5, per=0.5)),
        ("1000/h", Rate(1000, dt.timedelta(hours=1))),
        ("1/2d", Rate(1, dt.timedelta(days=2))),
    ],
)
def test_a_rate_may_be_written_as_text(text: str, rate: Rate) -> None:
    assert as_rate(text) == rate
    assert as_rate(str(rate)) == rate
    assert as_rate(rate) is rate


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "10",
            "/s",
            "10/",
            "10/x",
            "10/s/s",
            "ten/s",
            "-1/s",
            "0/s",
            "1/0s",
            "1e3/s",
            "10/s\n",
        ),
        *("٣/s", "9" * 5_000 + "/s", "999999999/s", 10, 1.5, None, True, (10, 1.0), b"10/s"),
    ],
)
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="rate"):
        as_rate(value, "rate")


@pytest.mark.parametrize(
    ("count", "per"),
    [(0, 1), (-1, 1), (1.5, 1), (True, 1), ("1", 1), (10**9, 1), (1, 0), (1, -1), (1, "s")],
)
def test_a_rate_has_a_count_and_a_time(count: Any, per: Any) -> None:
    with pytest.raises(ConfigurationError, match="Rate: "):
        Rate(count, per)


@pytest.mark.parametrize("per", [float("inf"), float("nan")])
def test_a_time_has_an_end(per: float) -> None:
    with pytest.raises(ConfigurationError):
        Rate(1, per)
