"""Policies as values: counts, spellings, durations."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from dagger_dsl.errors import ConfigurationError
from dagger_dsl.model.policies import (
    DEFAULT_RETRY,
    Backoff,
    CacheStrategy,
    OnFailure,
    RetryPolicy,
    RetryStrategy,
    Trigger,
    as_enum,
    seconds,
)


@pytest.mark.row("D23")
def test_max_retries_counts_extra_calls_and_max_attempts_all() -> None:
    assert RetryPolicy(max_retries=3).max_attempts == 4
    assert RetryPolicy(3).max_attempts == 3
    assert RetryPolicy().max_attempts is None
    with pytest.raises(ConfigurationError, match="not both"):
        RetryPolicy(3, max_retries=2)


@pytest.mark.row("D18")
def test_the_default_waits_two_seconds_doubling_up_to_a_minute() -> None:
    assert RetryStrategy.exponential(2, 60, 2.0) == DEFAULT_RETRY
    assert (DEFAULT_RETRY.base_delay, DEFAULT_RETRY.max_delay) == (2.0, 60.0)
    assert DEFAULT_RETRY.multiplier == 2.0
    assert DEFAULT_RETRY.backoff is Backoff.EXPONENTIAL


@pytest.mark.row("D15", "D16", "D17")
def test_every_strategy_is_a_policy() -> None:
    assert RetryStrategy.IMMEDIATE.backoff is Backoff.IMMEDIATE
    assert RetryStrategy.immediate() is RetryStrategy.IMMEDIATE
    assert RetryStrategy.linear(5) == RetryStrategy.fixed(timedelta(seconds=5))
    assert RetryStrategy.linear(500).max_delay == 500, "the ceiling never cuts a fixed delay"


@pytest.mark.parametrize(
    "fields",
    [
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_retries": -1},
        {"max_retries": True},
        {"base_delay": -1},
        {"max_delay": "long"},
        {"multiplier": 0.5},
        {"multiplier": True},
        {"backoff": "zigzag"},
        {"retry_on": ["typo"]},
        {"retry_on": int},
        {"retry_on": [3]},
    ],
)
def test_impossible_policies_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RetryPolicy(**fields)


def test_a_policy_with_python_objects_is_no_data() -> None:
    assert RetryPolicy(retry_on="timeout").is_data
    assert not RetryPolicy(retry_on=ValueError).is_data
    assert not RetryPolicy(retry_on=lambda error: True).is_data
    assert not RetryPolicy(wait=lambda state: 1.0).is_data
    assert RetryPolicy(3).with_attempts(5).max_attempts == 5


@pytest.mark.row("D26")
@pytest.mark.parametrize(
    ("text", "member"),
    [("Stop", "stop"), ("halt", "stop"), ("CONTINUE", "continue"), ("ContinueOnError", "continue")],
)
def test_document_spellings_of_failure_behaviour_are_read(text: str, member: str) -> None:
    assert as_enum(OnFailure, text, "on_failure").value == member


def test_always_is_read_as_done() -> None:
    assert as_enum(Trigger, "always", "trigger") is Trigger.DONE


@pytest.mark.parametrize("value", [None, "5", True, -1, float("nan"), float("inf"), 10**400])
def test_durations_that_are_none_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="pause"):
        seconds(value, "pause")


def test_cache_strategies_are_values() -> None:
    assert CacheStrategy.ttl(timedelta(minutes=5)) == CacheStrategy.ttl(300)
    assert CacheStrategy.ALWAYS != CacheStrategy.NEVER
    with pytest.raises(ConfigurationError):
        CacheStrategy.ttl(0)
    with pytest.raises(ConfigurationError):
        CacheStrategy.custom("")


@pytest.mark.parametrize("field", ["stop", "wait", "retry"])
@pytest.mark.parametrize("wrong", ["x", 5, True, object(), int])
def test_what_is_no_object_of_tenacity_is_refused_at_once(field: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{field} is one of tenacity's objects, such as"):
        RetryPolicy(3, **{field: wrong})


def test_a_policy_counts_no_further_than_databases_and_json_do() -> None:
    assert RetryPolicy(2**53).max_attempts == 2**53
    assert RetryPolicy(max_retries=2**53 - 1).max_attempts == 2**53
    for number in (2**53 + 1, 10**30, 10**5000):
        with pytest.raises(
            ConfigurationError, match="max_attempts must be at most 9,007,199,254,740,992"
        ):
            RetryPolicy(number)
        with pytest.raises(
            ConfigurationError, match="max_retries must be at most 9,007,199,254,740,991"
        ):
            RetryPolicy(max_retries=number)


@pytest.mark.parametrize("wrong", [5, None, [5]])
def test_retry_on_is_checked(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="retry_on takes exception classes"):
        RetryPolicy(retry_on=wrong)


def test_the_ceiling_makes_room_for_the_first_wait_and_the_other_way_round() -> None:
    def delays(policy: RetryPolicy) -> tuple[float, float]:
        return policy.base_delay, policy.max_delay

    assert delays(RetryPolicy()) == (2, 60)
    assert delays(RetryPolicy(base_delay=100)) == (100, 100)
    assert delays(RetryPolicy(base_delay=10)) == (10, 60)
    assert delays(RetryPolicy(max_delay=1)) == (1, 1)
    assert delays(RetryPolicy(base_delay=1, max_delay=1)) == (1, 1)
    assert delays(RetryStrategy.exponential(100)) == (100, 100)
    with pytest.raises(ConfigurationError, match=r"max_delay .1 s. is less than base_delay .10 s."):
        RetryPolicy(base_delay=10, max_delay=1)
