"""Retries: turns a `RetryPolicy` into decisions. The only module that knows tenacity.

`decide` answers, after a failed call, in how many seconds the next one is due, or None to give
up. It uses tenacity's own stop, wait and retry objects: those a policy was given, else ones built
from its numbers. It never sleeps and reads no clock; whoever runs the call keeps the timer, so a
waiting retry holds no worker. tenacity is imported at the first failure, not before: runs that
succeed do not pay for it.

The categories that ``retry_on`` may name:

| name | errors |
|---|---|
| ``timeout`` | `TimeoutError` (`NodeTimeout` and `socket.timeout` among them) |
| ``resource`` | `MemoryError`, `BlockingIOError`, and an `OSError` that says that memory, disk, quota or file handles ran out |
| ``network`` | `ConnectionError`, `socket.gaierror`, `socket.herror`, `ssl.SSLError`, `urllib.error.URLError`, `http.client.HTTPException`, `TimeoutError` |
| ``io`` | `OSError`, `EOFError` |
| ``value`` | `ValueError`, `TypeError`, `LookupError`, `ArithmeticError` |
| ``any`` | every `Exception` |

Validation, schema, output, codec and configuration errors, and failures that a node chose, are
never retried, whatever a policy says: they would fail again. Neither is what is no `Exception`,
such as `KeyboardInterrupt`.
"""  # noqa: E501 - the rows of a table

from __future__ import annotations

import errno
import random as _random
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from dagger_dsl.errors import (
    CodecError,
    ConfigurationError,
    InputError,
    NodeFailure,
    OutputError,
    RegistryError,
    ResourceExhausted,
    TransitionError,
    ValidationError,
    shown,
)
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.policies import Backoff, RetryOn, RetryPolicy

if TYPE_CHECKING:
    import tenacity

    from dagger_dsl.model.graph import Node

__all__ = [
    "NEVER_RETRIED",
    "as_policy",
    "decide",
    "effective_policy",
    "from_tenacity",
    "is_retryable",
    "to_tenacity",
]

#: Errors that no policy retries.
NEVER_RETRIED: tuple[type[Exception], ...] = (
    InputError,
    OutputError,
    ValidationError,
    ConfigurationError,
    RegistryError,
    NodeFailure,
    CodecError,
    TransitionError,
    ResourceExhausted,
)

_EXHAUSTED = frozenset(
    (errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
)
# Classes by module: an error can be one of them only where its module is loaded already.
_NETWORK = (
    ("socket", "gaierror"),
    ("socket", "herror"),
    ("ssl", "SSLError"),
    ("urllib.error", "URLError"),
    ("http.client", "HTTPException"),
)


class Random(Protocol):
    """The one method of `random.Random` that jitter needs."""

    def uniform(self, a: float, b: float, /) -> float:
        """Return a number between *a* and *b*."""
        ...


def _is_resource(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, BlockingIOError)):
        return True
    return isinstance(error, OSError) and error.errno in _EXHAUSTED


def _is_network(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    kinds = tuple(
        getattr(sys.modules[module], name) for module, name in _NETWORK if module in sys.modules
    )
    return isinstance(error, kinds)


_CATEGORIES: dict[str, Callable[[BaseException], bool]] = {
    "timeout": lambda error: isinstance(error, TimeoutError),
    "resource": _is_resource,
    "network": _is_network,
    "io": lambda error: isinstance(error, (OSError, EOFError)),
    "value": lambda error: isinstance(error, (ValueError, TypeError, LookupError, ArithmeticError)),
    "any": lambda error: isinstance(error, Exception),
}


def _matches(kind: RetryOn, error: BaseException) -> bool:
    if isinstance(kind, str):
        return _CATEGORIES[kind](error)
    if isinstance(kind, type):
        return isinstance(error, kind)
    return bool(kind(error))


def is_retryable(policy: RetryPolicy, error: BaseException) -> bool:
    """Return whether *error* is of a kind that ``policy.retry_on`` covers.

    Args:
        policy: Its ``retry`` object, if it has one, is not asked here; `decide` asks it.
        error: What the call raised.
    """
    if not isinstance(error, Exception) or isinstance(error, NEVER_RETRIED):
        return False
    return not policy.retry_on or any(_matches(kind, error) for kind in policy.retry_on)


@attrs.frozen
class _Compiled:
    """A policy as tenacity's objects; `jitter` is ours, so that its source can be injected."""

    stop: Any
    wait: Any
    retry: Any
    jitter: float
    ceiling: float | None


def _compile(policy: RetryPolicy) -> _Compiled:
    import tenacity  # the success path does not pay for it

    own_wait = policy.wait is None
    return _Compiled(
        stop=policy.stop if policy.stop is not None else _stop(policy, tenacity),
        wait=_wait(policy, tenacity) if own_wait else policy.wait,
        retry=policy.retry
        if policy.retry is not None
        else tenacity.retry_if_exception(lambda error: is_retryable(policy, error)),
        jitter=_jitter(policy) if own_wait else 0.0,
        ceiling=policy.max_delay if own_wait else None,
    )


_compiled = lru_cache(maxsize=256)(_compile)


def _stop(policy: RetryPolicy, tenacity: Any) -> Any:
    return tenacity.stop_after_attempt(1 if policy.max_attempts is None else policy.max_attempts)


def _wait(policy: RetryPolicy, tenacity: Any) -> Any:
    base, ceiling = policy.base_delay, policy.max_delay
    if policy.backoff is Backoff.IMMEDIATE:
        return tenacity.wait_none()
    if policy.backoff is Backoff.FIXED:
        return tenacity.wait_fixed(base)
    if policy.backoff is Backoff.LINEAR:
        return tenacity.wait_incrementing(start=base, increment=base, max=ceiling)
    return tenacity.wait_exponential(multiplier=base, exp_base=policy.multiplier, max=ceiling)


def _jitter(policy: RetryPolicy) -> float:
    if policy.backoff is Backoff.EXPONENTIAL_JITTER:
        return policy.jitter + policy.base_delay
    return policy.jitter


def decide(
    policy: RetryPolicy,
    attempt: int,
    error: BaseException,
    elapsed: float = 0.0,
    *,
    slept: float = 0.0,
    random: Random | None = None,
) -> float | None:
    """Return the seconds until the next call, or None to give up.

    Args:
        policy: With its number of attempts settled, as `effective_policy` does; a policy that
            leaves it open, and has no `stop` of its own, allows one call.
        attempt: Number of the call that failed, counted from 1.
        error: What it raised.
        elapsed: Seconds since the first call started (tenacity's ``stop_after_delay`` reads it).
        slept: Seconds of these spent waiting between calls (tenacity's ``idle_for``).
        random: Where jitter is drawn; the module `random` by default. tenacity's own random
            waits always draw from the module.
    """
    if not isinstance(error, Exception) or isinstance(error, NEVER_RETRIED):
        return None
    try:
        rules = _compiled(policy)
    except TypeError:  # a predicate or a tenacity object that cannot be hashed
        rules = _compile(policy)
    state = _state(attempt, error, elapsed, slept)
    if not _asks_again(error) and not rules.retry(state):
        return None
    delay = float(rules.wait(state))
    if rules.jitter:
        delay += (random or _random).uniform(0.0, rules.jitter)
    if rules.ceiling is not None:
        delay = min(delay, rules.ceiling)
    state.upcoming_sleep = delay
    return None if rules.stop(state) else max(0.0, delay)


def _asks_again(error: BaseException) -> bool:
    """Return whether *error* is tenacity's `TryAgain`, which passes by the retry condition."""
    import tenacity

    return isinstance(error, tenacity.TryAgain)


@lru_cache(maxsize=1)
def _loop() -> Any:
    """Return the loop object that tenacity's call states belong to; it is never run."""
    import tenacity

    return tenacity.Retrying()


def _state(attempt: int, error: BaseException, elapsed: float, slept: float) -> Any:
    import tenacity

    state = tenacity.RetryCallState(_loop(), fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    state.set_exception((type(error), error, error.__traceback__))
    state.start_time = 0.0
    state.outcome_timestamp = elapsed
    state.idle_for = slept
    return state


def from_tenacity(retrying: tenacity.BaseRetrying) -> RetryPolicy:
    """Return the policy that does what a `tenacity.Retrying` (or async one) would do."""
    return RetryPolicy(stop=retrying.stop, wait=retrying.wait, retry=retrying.retry)


def to_tenacity(policy: RetryPolicy) -> tenacity.Retrying:
    """Return a `tenacity.Retrying` that does what *policy* says, to use outside of graphs."""
    import tenacity

    rules = _compile(policy)
    wait = rules.wait
    if rules.jitter or rules.ceiling is not None:

        def wait(state: Any) -> float:
            jittered = float(rules.wait(state)) + _random.uniform(0.0, rules.jitter)
            return jittered if rules.ceiling is None else min(jittered, rules.ceiling)

    return tenacity.Retrying(stop=rules.stop, wait=wait, retry=rules.retry, reraise=True)


def as_policy(value: Any, what: str = "retry") -> RetryPolicy:
    """Return the policy that *value* means.

    Args:
        value: A `RetryPolicy`, a number of extra calls, a `tenacity.Retrying`, or one of
            tenacity's stop, wait or retry objects.
        what: The option's name, for the error.

    Raises:
        ConfigurationError: It is none of these.
    """
    if isinstance(value, RetryPolicy):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return RetryPolicy(max_retries=value)
    library: Any = sys.modules.get("tenacity")  # its objects exist only where it is loaded
    if library is not None:
        if isinstance(value, library.BaseRetrying):
            return from_tenacity(value)
        for field, kind in (
            ("stop", library.stop.stop_base),
            ("wait", library.wait.wait_base),
            ("retry", library.retry_base),
        ):
            if isinstance(value, kind):
                return RetryPolicy(**{field: value})
    raise ConfigurationError(
        f"{what} must be a number of extra calls, a RetryPolicy or a tenacity object, not "
        f"{shown(value)}"
    )


class _RetryFields(Protocol):
    """What `effective_policy` reads of an action."""

    @property
    def try_count(self) -> int | None: ...
    @property
    def retry(self) -> RetryPolicy | None: ...


def effective_policy(
    node: Node, action: _RetryFields | None, config: DagConfig | None = None
) -> RetryPolicy:
    """Return the policy in force for a node, its number of attempts settled.

    The number: the node's ``try_count``, then its ``retry``, then the action's ``try_count`` and
    ``retry``, then the configuration's ``max_attempts``. The waits: the node's ``retry``, then the
    action's, then the configuration's ``retry_strategy``. A ``stop`` object decides in the place
    of the number of the policy that holds it.

    Args:
        node: Read for ``try_count`` and ``retry``.
        action: The registered action, None where there is none.
        config: The configuration in force, merged; the defaults where None.
    """
    settings = config if config is not None else DagConfig()
    own = node.retry
    theirs = action.retry if action is not None else None
    chosen = next(each for each in (own, theirs, settings.retry_strategy) if each is not None)
    for count, policy in (
        (node.try_count, None),
        (None, own),
        (action.try_count if action is not None else None, None),
        (None, theirs),
    ):
        if count is not None:
            return attrs.evolve(chosen, max_attempts=count, stop=None)
        if policy is not None and policy.stop is not None:
            return attrs.evolve(chosen, stop=policy.stop)
        if policy is not None and policy.max_attempts is not None:
            return attrs.evolve(chosen, max_attempts=policy.max_attempts, stop=None)
    if "max_attempts" not in settings.given:
        default = settings.retry_strategy
        if default.stop is not None or default.max_attempts is not None:
            return attrs.evolve(chosen, stop=default.stop, max_attempts=default.max_attempts)
    return attrs.evolve(chosen, max_attempts=settings.max_attempts, stop=None)
