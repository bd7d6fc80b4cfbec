"""Decisions: how long to wait after which error, and when to give up."""

from __future__ import annotations

import errno
import http.client
import random
import socket
import ssl
import subprocess
import sys
import urllib.error
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import (
    ConfigurationError,
    EncodingError,
    InputValidationError,
    MissingInputError,
    NodeFailure,
    NodeTimeout,
    OutputError,
    ValidationError,
)
from dagger_dsl.model.policies import DEFAULT_RETRY, Backoff, RetryPolicy, RetryStrategy
from dagger_dsl.retry import (
    NEVER_RETRIED,
    as_policy,
    decide,
    from_tenacity,
    is_retryable,
    to_tenacity,
)


class ServiceUnavailable(Exception):
    """An error of the user's own."""


def delays(policy: RetryPolicy, calls: int, **options: Any) -> list[float | None]:
    """Return what follows each of the failed calls 1 to *calls*."""
    return [decide(policy, call, OSError("again"), **options) for call in range(1, calls + 1)]


@pytest.mark.row("D6", "D17", "D18")
def test_the_default_doubles_from_two_seconds_up_to_sixty() -> None:
    assert RetryStrategy.exponential(2, 60, 2.0) == DEFAULT_RETRY
    assert delays(DEFAULT_RETRY.with_attempts(9), 9) == [2, 4, 8, 16, 32, 60, 60, 60, None]


@pytest.mark.row("D17")
def test_exponential_waits_are_those_of_tenacity() -> None:
    own = RetryStrategy.exponential(5, 300, 3.0).with_attempts(10)
    theirs = tenacity.wait_exponential(multiplier=5, max=300, exp_base=3)
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    for call in range(1, 10):
        state.attempt_number = call
        assert decide(own, call, OSError()) == theirs(state)


@pytest.mark.row("D15")
def test_immediate_waits_for_nothing() -> None:
    assert delays(RetryStrategy.IMMEDIATE.with_attempts(3), 3) == [0, 0, None]
    assert RetryStrategy.immediate() is RetryStrategy.IMMEDIATE


@pytest.mark.row("D16")
def test_linear_of_the_documents_waits_the_same_each_time() -> None:
    assert delays(RetryStrategy.linear(5).with_attempts(4), 4) == [5, 5, 5, None]
    assert delays(RetryStrategy.fixed(90).with_attempts(2), 1) == [90]


@pytest.mark.row("D25")
@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (Backoff.IMMEDIATE, [0, 0, 0, 0]),
        (Backoff.FIXED, [3, 3, 3, 3]),
        (Backoff.LINEAR, [3, 6, 9, 10]),
        (Backoff.EXPONENTIAL, [3, 6, 10, 10]),
    ],
)
def test_each_backoff_gives_its_documented_delays(backoff: Backoff, expected: list[float]) -> None:
    policy = RetryPolicy(5, base_delay=3, max_delay=10, backoff=backoff)
    assert delays(policy, 4) == expected


@pytest.mark.row("D25")
def test_exponential_jitter_adds_up_to_the_base_delay_and_keeps_the_ceiling() -> None:
    policy = RetryPolicy(9, base_delay=3, max_delay=10, backoff=Backoff.EXPONENTIAL_JITTER)
    drawn = [delays(policy, 4, random=random.Random(seed)) for seed in range(50)]
    for first, second, third, fourth in drawn:
        assert first is not None
        assert second is not None
        assert 3 <= first <= 6
        assert 6 <= second <= 9
        assert (third, fourth) == (10, 10)
    assert len({tuple(each) for each in drawn}) > 10


def test_jitter_is_repeatable_under_an_injected_generator() -> None:
    policy = RetryPolicy(9, base_delay=1, jitter=5)
    first = delays(policy, 5, random=random.Random(7))
    assert delays(policy, 5, random=random.Random(7)) == first
    assert delays(policy, 5, random=random.Random(8)) != first
    assert delays(policy, 5) != delays(policy, 5)


@pytest.mark.row("D23")
def test_the_policy_of_document_003_makes_four_attempts() -> None:
    policy = RetryPolicy(
        max_retries=3,
        base_delay=1,
        max_delay=60,
        backoff="exponential",
        retry_on=["timeout", "resource"],
    )
    answers = [decide(policy, call, TimeoutError()) for call in range(1, 5)]
    assert answers == [1, 2, 4, None]
    assert decide(policy, 1, ValueError()) is None


@pytest.mark.row("D24", "H6")
def test_other_errors_fail_at_once() -> None:
    policy = RetryPolicy(3, retry_on=[ServiceUnavailable])
    assert decide(policy, 1, ServiceUnavailable()) == 2
    assert decide(policy, 1, ValueError()) is None
    by_code = RetryPolicy(3, retry_on=lambda error: getattr(error, "code", 0) == 503)
    assert decide(by_code, 1, urllib.error.HTTPError("u", 503, "m", {}, None)) == 2  # type: ignore[arg-type]
    assert decide(by_code, 1, ValueError()) is None


@pytest.mark.row("D24")
@pytest.mark.parametrize(
    ("category", "errors"),
    [
        ("timeout", [TimeoutError(), NodeTimeout("n", 1), TimeoutError(errno.ETIMEDOUT, "x")]),
        (
            "resource",
            [MemoryError(), BlockingIOError(), OSError(errno.ENOSPC, "full")],
        ),
        (
            "network",
            [
                ConnectionResetError(),
                socket.gaierror(),
                ssl.SSLError(),
                urllib.error.URLError("down"),
                http.client.IncompleteRead(b""),
                TimeoutError(),
            ],
        ),
        ("io", [OSError(), FileNotFoundError(), EOFError()]),
        ("value", [ValueError(), TypeError(), KeyError(), ZeroDivisionError()]),
        ("any", [Exception(), ServiceUnavailable()]),
    ],
)
def test_categories_are_classes_of_errors(category: str, errors: list[Exception]) -> None:
    policy = RetryPolicy(3, retry_on=category)
    assert [is_retryable(policy, each) for each in errors] == [True] * len(errors)
    stranger: Exception = ServiceUnavailable() if category != "any" else OutputError()
    assert not is_retryable(policy, stranger)


@pytest.mark.parametrize(
    "error",
    [
        InputValidationError("x"),
        MissingInputError("x"),
        OutputError("x"),
        ValidationError("x"),
        ConfigurationError("x"),
        NodeFailure("x"),
        EncodingError("x"),
    ],
)
def test_errors_that_would_come_again_are_never_retried(error: Exception) -> None:
    assert isinstance(error, NEVER_RETRIED)
    for policy in (
        RetryPolicy(5),
        RetryPolicy(5, retry_on=["any", "value"]),
        RetryPolicy(5, retry_on=[Exception]),
        RetryPolicy(5, retry=tenacity.retry_always),
    ):
        assert decide(policy, 1, error) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_what_is_no_exception_is_never_retried(error: BaseException) -> None:
    assert decide(RetryPolicy(5, retry_on=[BaseException]), 1, error) is None


@pytest.mark.row("D17")
def test_any_object_of_tenacity_takes_the_place_of_the_fields() -> None:
    chain = tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(7))
    policy = RetryPolicy(4, wait=chain, jitter=3)
    assert delays(policy, 4) == [1, 7, 7, None]

    after_delay = RetryPolicy(stop=tenacity.stop_after_delay(10), base_delay=0, max_delay=0)
    assert decide(after_delay, 99, OSError(), elapsed=9) == 0
    assert decide(after_delay, 1, OSError(), elapsed=10) is None

    before_delay = RetryPolicy(stop=tenacity.stop_before_delay(10), backoff="fixed", base_delay=4)
    assert decide(before_delay, 1, OSError(), elapsed=5) == 4
    assert decide(before_delay, 1, OSError(), elapsed=7) is None

    either = RetryPolicy(stop=tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(10))
    assert decide(either, 3, OSError()) is None

    only = RetryPolicy(3, retry=tenacity.retry_if_exception_message(match="again"))
    assert decide(only, 1, ValueError("again")) == 2
    assert decide(only, 1, ValueError("no")) is None
    unless = RetryPolicy(3, retry=tenacity.retry_unless_exception_type(KeyError))
    assert decide(unless, 1, KeyError()) is None


@pytest.mark.skipif(not hasattr(tenacity, "wait_exception"), reason="tenacity has it since 9.1.3")
def test_a_wait_of_tenacity_may_look_at_the_error() -> None:
    by_error = RetryPolicy(3, wait=tenacity.wait_exception(lambda error: 42.0))
    assert decide(by_error, 1, OSError()) == 42


def test_plain_functions_may_stand_where_tenacity_takes_them() -> None:
    policy = RetryPolicy(
        stop=lambda state: state.attempt_number >= 2,
        wait=lambda state: state.idle_for + 1,
        retry=lambda state: state.outcome.failed,
    )
    assert decide(policy, 1, OSError(), slept=3) == 4
    assert decide(policy, 2, OSError()) is None


def test_try_again_passes_by_the_retry_condition_but_not_the_limit() -> None:
    policy = RetryPolicy(3, retry_on=[KeyError])
    assert decide(policy, 1, tenacity.TryAgain()) == 2
    assert decide(policy, 3, tenacity.TryAgain()) is None


def test_a_policy_that_leaves_the_number_open_allows_one_call() -> None:
    assert decide(DEFAULT_RETRY, 1, OSError()) is None


def test_objects_that_cannot_be_hashed_are_no_obstacle() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, error: BaseException) -> bool:
            return True

        def __eq__(self, other: object) -> bool:
            return False

    assert decide(RetryPolicy(3, retry_on=[Unhashable()]), 1, OSError()) == 2


@given(
    st.integers(1, 8),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(1, 5),
    st.floats(0, 10),
    st.sampled_from(list(Backoff)),
)
def test_waits_stay_between_zero_and_the_ceiling_and_never_outnumber_the_attempts(
    attempts: int, base: float, ceiling: float, multiplier: float, jitter: float, backoff: Backoff
) -> None:
    base, ceiling = sorted((base, ceiling))
    policy = RetryPolicy(
        attempts,
        base_delay=base,
        max_delay=ceiling,
        multiplier=multiplier,
        jitter=jitter,
        backoff=backoff,
    )
    answers = delays(policy, attempts, random=random.Random(1))
    assert answers[-1] is None
    assert all(each is not None and 0 <= each <= ceiling for each in answers[:-1])


def test_policies_come_from_tenacity_and_go_back() -> None:
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(2),
        wait=tenacity.wait_fixed(3),
        retry=tenacity.retry_if_exception_type(KeyError),
    )
    policy = from_tenacity(retrying)
    assert decide(policy, 1, KeyError()) == 3
    assert decide(policy, 2, KeyError()) is None
    assert decide(policy, 1, ValueError()) is None
    assert from_tenacity(tenacity.AsyncRetrying()).stop is tenacity.stop_never

    slept: list[float] = []
    calls: list[int] = []

    def failing() -> None:
        calls.append(1)
        raise OSError("down")

    back = to_tenacity(RetryStrategy.exponential(2, 3).with_attempts(4))
    with pytest.raises(OSError, match="down"):
        back.copy(sleep=slept.append)(failing)
    assert len(calls) == 4
    assert slept == [2, 3, 3]


def test_what_may_be_written_as_retry() -> None:
    assert as_policy(2) == RetryPolicy(3)
    assert as_policy(DEFAULT_RETRY) is DEFAULT_RETRY
    wait, stop = tenacity.wait_fixed(1), tenacity.stop_after_attempt(2)
    retry = tenacity.retry_if_exception_type(OSError)
    assert as_policy(wait) == RetryPolicy(wait=wait)
    assert as_policy(stop) == RetryPolicy(stop=stop)
    assert as_policy(retry) == RetryPolicy(retry=retry)
    assert as_policy(tenacity.Retrying(wait=wait)).wait is wait
    for bad in ("x", True, 1.5, None, object()):
        with pytest.raises(ConfigurationError, match="retry must be"):
            as_policy(bad)


def test_tenacity_is_loaded_by_the_first_failure_only() -> None:
    code = (
        "import sys\n"
        "from dagger_dsl import retry\n"
        "from dagger_dsl.model.policies import DEFAULT_RETRY\n"
        "retry.as_policy(3)\n"
        "assert 'tenacity' not in sys.modules\n"
        "retry.decide(DEFAULT_RETRY, 1, OSError())\n"
        "assert 'tenacity' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
