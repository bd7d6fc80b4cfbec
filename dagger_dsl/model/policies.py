"""Policies: values that say what happens when, and nothing that makes it happen.

A policy never sleeps, never reads a clock and knows no library: `dagger_dsl.retry` turns a
`RetryPolicy` into decisions with tenacity, the engine acts on the rest.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import attrs

from dagger_dsl.errors import ConfigurationError, did_you_mean, shown

__all__ = [
    "DEFAULT_RETRY",
    "MAX_COUNT",
    "Backoff",
    "CacheStrategy",
    "Effects",
    "HumanTimeoutAction",
    "OnFailure",
    "RetryOn",
    "RetryPolicy",
    "RetryStrategy",
    "Trigger",
    "as_enum",
    "seconds",
    "whole_number",
]

#: The largest count that is taken: what every reader of JSON, and a database, keeps exactly.
MAX_COUNT: Final = 2**53


def seconds(
    value: float | timedelta,
    what: str = "duration",
    *,
    zero: bool = True,
    unit: str = "seconds",
    length: float = 1.0,
) -> float:
    """Return a duration as float seconds, or as another unit.

    Args:
        value: Seconds (or so many of the unit), or a timedelta.
        what: The option's name, for the error.
        zero: Whether 0 is allowed.
        unit: What is counted.
        length: How many seconds one of it has.

    Raises:
        ConfigurationError: It is no number, not finite, or negative (or 0 where that is refused).
    """
    if isinstance(value, timedelta):
        value = value.total_seconds() / length
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(
            f"{what} must be {unit} or a timedelta, not {type(value).__name__} {shown(value)}"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise ConfigurationError(f"{what} must be {least} finite {unit}, not {shown(value)}")
    return number


def whole_number(
    value: Any,
    what: str,
    *,
    least: int = 1,
    most: int = MAX_COUNT,
    also: str = "",
    kind: Callable[[Any], str] = shown,
) -> int:
    """Return a count.

    Args:
        value: What was given.
        what: The option's name, for the error.
        least, most: What is allowed, both included.
        also: What else the option takes, for the error.
        kind: Says what was given that is no such number.

    Raises:
        ConfigurationError: It is no whole number, or not between the two.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(
            f"{what} must be a whole number of at least {least}{also}, not {kind(value)}"
        )
    if value > most:
        raise ConfigurationError(f"{what} must be at most {most:,}{also}, not {shown(value)}")
    return value


class OnFailure(enum.StrEnum):
    """What a run does when a node has failed for good.

    STOP (the default) cancels everything else but still runs the `failed` and `done` dependents
    of the failed node; CONTINUE skips its dependents and goes on; PAUSE lets running nodes end
    and leaves the run paused, to be resumed.
    """

    STOP = "stop"
    CONTINUE = "continue"
    PAUSE = "pause"


class Trigger(enum.StrEnum):
    """When a node may start, judged by the recorded ends of its dependencies.

    SUCCESS needs every edge satisfied; ANY the first satisfied one; NONE_FAILED waits for all and
    needs no failed source and one satisfied edge; FAILED waits for all and needs a failed source;
    DONE waits for all and always runs.
    """

    SUCCESS = "success"
    ANY = "any"
    NONE_FAILED = "none_failed"
    FAILED = "failed"
    DONE = "done"


class Effects(enum.StrEnum):
    """What recovery may do with a node that had started when its process died."""

    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


class HumanTimeoutAction(enum.StrEnum):
    """What happens when nobody answers in time: PAUSE (the default) or go on by AUTOPILOT."""

    AUTOPILOT = "autopilot"
    PAUSE = "pause"


class Backoff(enum.StrEnum):
    """How the wait between attempts grows.

    With base delay b, multiplier m and n the number of the attempt that failed, the waits are
    IMMEDIATE 0; FIXED b; LINEAR b*n; EXPONENTIAL b*m**(n-1); EXPONENTIAL_JITTER the same plus a
    random part of up to b seconds. All are cut at the maximum delay.
    """

    IMMEDIATE = "immediate"
    FIXED = "fixed"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    EXPONENTIAL_JITTER = "exponential_jitter"


# Spellings of the source documents, and Python's own, beside the enums' values.
_SPELLINGS: dict[type[enum.StrEnum], dict[str, str]] = {
    OnFailure: {"halt": "stop", "continue_on_error": "continue", "continueonerror": "continue"},
    Trigger: {"always": "done"},
    Backoff: {"none": "immediate"},
}


_E = TypeVar("_E", bound=enum.StrEnum)


def as_enum(kind: type[_E], value: Any, what: str) -> _E:
    """Return *value* as a member of *kind*; text is matched without regard to case.

    Raises:
        ConfigurationError: There is no such member; the message lists them.
    """
    if isinstance(value, kind):
        return value
    if isinstance(value, str):
        text = value.strip().lower()
        text = _SPELLINGS.get(kind, {}).get(text, text)
        for member in kind:
            if member.value == text:
                return member
    names = ", ".join(repr(member.value) for member in kind)
    raise ConfigurationError(f"{what} must be one of {names}, not {shown(value)}")


RetryOn: TypeAlias = str | type[BaseException] | Callable[[BaseException], bool]

#: Names a policy may use in ``retry_on`` instead of exception classes; `dagger_dsl.retry` maps
#: them to classes.
CATEGORIES = ("timeout", "resource", "network", "io", "value", "any")


@attrs.frozen(init=False)
class RetryPolicy:
    """How often, and how soon, a failing call is made again.

    Args:
        max_attempts: Calls allowed in all, the first included; None leaves the number to the
            node's ``try_count`` and the configuration's ``max_attempts``.
        max_retries: Extra calls after the first (``max_attempts - 1``); give one of the two.
        base_delay: Seconds (or timedelta) before the second call; 2 by default, or the ceiling
            where that is less.
        max_delay: Ceiling of one wait, in seconds; 60 by default, or `base_delay` where that is
            more. One below a given `base_delay` is refused.
        multiplier: Growth of each further exponential wait.
        backoff: A `Backoff` or its name.
        jitter: Seconds; a random part of up to this much is added to each wait.
        retry_on: Which errors are worth another call: exception classes, predicates, or category
            names (``timeout``, ``resource``, ``network``, ``io``, ``value``, ``any``); empty
            means every `Exception`. Validation, schema and output errors are never retried.
        stop, wait, retry: tenacity's own objects; each one given takes the place of the fields
            above that decide the same thing. A policy that holds them, or classes or predicates,
            belongs to an action; a `Node` holds data only.

    Raises:
        ConfigurationError: A number is out of range, or both counts are given.
    """

    max_attempts: int | None
    base_delay: float
    max_delay: float
    multiplier: float
    backoff: Backoff
    jitter: float
    retry_on: tuple[RetryOn, ...]
    stop: Any  # tenacity's types are not imported here: model knows no library
    wait: Any
    retry: Any

    def __init__(
        self,
        max_attempts: int | None = None,
        *,
        max_retries: int | None = None,
        base_delay: float | timedelta | None = None,
        max_delay: float | timedelta | None = None,
        multiplier: float = 2.0,
        backoff: Backoff | str = Backoff.EXPONENTIAL,
        jitter: float | timedelta = 0.0,
        retry_on: RetryOn | Iterable[RetryOn] = (),
        stop: Any = None,
        wait: Any = None,
        retry: Any = None,
    ) -> None:
        if max_retries is not None:
            if max_attempts is not None:
                raise ConfigurationError(
                    "give max_attempts (calls in all) or max_retries (extra calls), not both"
                )
            max_attempts = attempts_from_retries(max_retries, "max_retries")
        elif max_attempts is not None:
            whole_number(max_attempts, "max_attempts")
        if isinstance(multiplier, bool) or not isinstance(multiplier, (int, float)):
            raise ConfigurationError(f"multiplier must be a number, not {shown(multiplier)}")
        if not 1 <= multiplier < math.inf:
            raise ConfigurationError(f"multiplier must be 1 or more, not {shown(multiplier)}")
        first, ceiling = _delays(base_delay, max_delay)
        if isinstance(retry_on, (str, type)) or not isinstance(retry_on, Iterable):
            retry_on = (retry_on,)
        kinds = tuple(retry_on)
        for kind in kinds:
            _check_retry_on(kind)
        for field, given in (("stop", stop), ("wait", wait), ("retry", retry)):
            _check_tenacity(field, given)
        self.__attrs_init__(
            max_attempts,
            first,
            ceiling,
            float(multiplier),
            as_enum(Backoff, backoff, "backoff"),
            seconds(jitter, "jitter"),
            kinds,
            stop,
            wait,
            retry,
        )

    @property
    def is_data(self) -> bool:
        """Whether the policy holds nothing but numbers and names, so that a graph may carry it."""
        return (
            self.stop is None
            and self.wait is None
            and self.retry is None
            and all(isinstance(kind, str) for kind in self.retry_on)
        )

    def with_attempts(self, max_attempts: int) -> RetryPolicy:
        """Return the same policy for *max_attempts* calls in all."""
        return attrs.evolve(self, max_attempts=max_attempts)


def attempts_from_retries(retries: Any, what: str) -> int:
    """Return the number of calls that *retries* extra calls make.

    Raises:
        ConfigurationError: It is not a whole number of at least 0, or more than a count may be.
    """
    return whole_number(retries, what, least=0, most=MAX_COUNT - 1) + 1


def _delays(base: float | timedelta | None, most: float | timedelta | None) -> tuple[float, float]:
    """Return the first wait and the ceiling; what was not given makes room for what was."""
    ceiling = None if most is None else seconds(most, "max_delay")
    if base is None:
        return (2.0, 60.0) if ceiling is None else (min(2.0, ceiling), ceiling)
    first = seconds(base, "base_delay")
    if ceiling is None:
        return first, max(60.0, first)
    if ceiling < first:
        raise ConfigurationError(
            f"max_delay ({ceiling:g} s) is less than base_delay ({first:g} s), so no wait would be "
            "as long as it says; raise max_delay, or leave it out"
        )
    return first, ceiling


_TENACITY = {
    "stop": "tenacity.stop_after_attempt(3)",
    "wait": "tenacity.wait_fixed(2)",
    "retry": "tenacity.retry_if_exception_type(OSError)",
}


def _check_tenacity(field: str, given: Any) -> None:
    if given is not None and (isinstance(given, type) or not callable(given)):
        raise ConfigurationError(
            f"{field} is one of tenacity's objects, such as {_TENACITY[field]}, not "
            f"{shown(given)}; plain numbers go into max_attempts, base_delay and retry_on"
        )


def _check_retry_on(kind: Any) -> None:
    if isinstance(kind, str):
        if kind not in CATEGORIES:
            raise ConfigurationError(
                f"retry_on knows no category {shown(kind)}{did_you_mean(kind, CATEGORIES)}"
            )
    elif isinstance(kind, type):
        if not issubclass(kind, BaseException):
            raise ConfigurationError(f"retry_on takes exception classes, not {kind.__name__}")
    elif not callable(kind):
        raise ConfigurationError(
            f"retry_on takes exception classes, category names and predicates, not {shown(kind)}"
        )


class RetryStrategy:
    """The documents' names for three kinds of `RetryPolicy`; every one returns a policy."""

    IMMEDIATE: ClassVar[RetryPolicy] = RetryPolicy(
        base_delay=0.0, max_delay=0.0, multiplier=1.0, backoff=Backoff.IMMEDIATE
    )

    @staticmethod
    def immediate() -> RetryPolicy:
        """Return the policy that calls again at once."""
        return RetryStrategy.IMMEDIATE

    @staticmethod
    def linear(delay_secs: float | timedelta) -> RetryPolicy:
        """Return the policy that waits the same *delay_secs* each time (the documents' Linear)."""
        delay = seconds(delay_secs, "delay_secs")
        return RetryPolicy(base_delay=delay, multiplier=1.0, backoff=Backoff.FIXED)

    fixed = linear

    @staticmethod
    def exponential(
        initial_delay_secs: float | timedelta = 2.0,
        max_delay_secs: float | timedelta | None = None,
        multiplier: float = 2.0,
        jitter: float | timedelta = 0.0,
    ) -> RetryPolicy:
        """Return the policy that multiplies its wait each time, up to a ceiling.

        The ceiling is 60 seconds by default, or the first wait where that is more.
        """
        return RetryPolicy(
            base_delay=initial_delay_secs,
            max_delay=max_delay_secs,
            multiplier=multiplier,
            jitter=jitter,
        )


#: The documents' default: exponential, 2 s first, 60 s at most, doubling.
DEFAULT_RETRY = RetryStrategy.exponential()


def _chosen(names: Iterable[str] | None) -> tuple[str, ...] | None:
    """Return chosen names once each, sorted: in which order they were written says nothing."""
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ConfigurationError(f"inputs= is a list of names, not {shown(names)}")
    found = tuple(names)
    for name in found:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"inputs= is a list of names, and {shown(name)} is none")
    return tuple(sorted(set(found)))


def _backend(value: Any) -> Any:
    """Return where results are shared.

    Raises:
        ConfigurationError: It cannot be.
    """
    if value is None or (isinstance(value, str) and value in ("memory", "database")):
        return value
    import inspect  # few strategies name a backend

    parts = getattr(value, "get", None), getattr(value, "set", None)
    if isinstance(value, (str, type)) or not all(map(callable, parts)):
        meant = did_you_mean(value, ("memory", "database"))
        raise ConfigurationError(
            "backend= is 'memory', 'database' or an object with get(key) and "
            f"set(key, text, ttl), such as a CacheBackend, not {shown(value)}{meant}"
        )
    if any(map(inspect.iscoroutinefunction, parts)):
        raise ConfigurationError(
            f"backend= is called between nodes and cannot be awaited, and {shown(value)} has async "
            "methods; give an object with plain get and set"
        )
    return value


def _which(backend: Any) -> Any:
    """Return what tells backends apart; those of users need be neither equal nor hashable."""
    return backend if backend is None or isinstance(backend, str) else id(backend)


@attrs.frozen
class CacheStrategy:
    """Whether a node may reuse a result of an earlier run, and which one.

    Use the constants `ALWAYS` and `NEVER` (the default) and the constructors `always`, `ttl` and
    `custom`. A result is found again by the action's name, the version of its code (see
    `ActionDef.code_version`) and the inputs: all of them, or those that are chosen. With the text
    of a custom key it is found by that text alone.

    Attributes:
        kind: ``always``, ``never``, ``ttl`` or ``custom``.
        seconds: How long a result stays fresh, for ``ttl``, and for ``custom`` if it is set.
        key: What a result is found by, for ``custom``: a text, or a function of the inputs.
        inputs: Names of the inputs that count; None lets all of them count.
        backend: Where results are shared: ``memory`` (of this process), ``database`` (that of the
            run) or a `CacheBackend`. None takes the database where there is one, else the memory.

    Raises:
        ConfigurationError: These do not go together, or one has an impossible value.
    """

    kind: str
    seconds: float | None = None
    key: str | Callable[[Mapping[str, Any]], str] | None = None
    inputs: tuple[str, ...] | None = attrs.field(default=None, converter=_chosen)
    backend: Any = attrs.field(default=None, converter=_backend, eq=_which)

    ALWAYS: ClassVar[CacheStrategy]
    NEVER: ClassVar[CacheStrategy]

    def __attrs_post_init__(self) -> None:
        if self.kind not in ("always", "never", "ttl", "custom"):
            raise ConfigurationError(
                f"a cache strategy is 'always', 'never', 'ttl' or 'custom', not {shown(self.kind)}"
            )
        if (self.seconds is None) is (self.kind == "ttl") and self.kind != "custom":
            raise ConfigurationError("seconds= and the kind 'ttl' go together")
        if (self.key is None) is (self.kind == "custom"):
            raise ConfigurationError("key= and the kind 'custom' go together")
        if self.inputs is not None and self.kind not in ("always", "ttl"):
            raise ConfigurationError(
                "inputs= goes with the kinds 'always' and 'ttl'; a custom key says what counts"
            )

    @staticmethod
    def always(*, inputs: Iterable[str] | None = None, backend: Any = None) -> CacheStrategy:
        """Return the strategy that reuses results however old they are.

        Args:
            inputs: Names of the inputs that count; all of them by default.
            backend: Where they are shared; see the class.
        """
        return CacheStrategy("always", inputs=inputs, backend=backend)

    @staticmethod
    def ttl(
        ttl_seconds: float | timedelta,
        *,
        inputs: Iterable[str] | None = None,
        backend: Any = None,
    ) -> CacheStrategy:
        """Return the strategy that reuses results younger than *ttl_seconds*.

        Args:
            ttl_seconds: Seconds, or a timedelta.
            inputs: Names of the inputs that count; all of them by default.
            backend: Where they are shared; see the class.
        """
        limit = seconds(ttl_seconds, "ttl", zero=False)
        return CacheStrategy("ttl", limit, inputs=inputs, backend=backend)

    @staticmethod
    def custom(
        key: str | Callable[[Mapping[str, Any]], str],
        ttl_seconds: float | timedelta | None = None,
        *,
        backend: Any = None,
    ) -> CacheStrategy:
        """Return the strategy that finds results by a key of your own.

        Args:
            key: A text, or a function. All nodes with one text share a record, of whatever action,
                inputs and code: put into the text what shall count. A function is given the inputs
                by name, as one mapping, and returns a text that counts in their place; the action
                and its code count, too. It belongs to an action: a `Node` holds data only.
            ttl_seconds: Seconds, or a timedelta, that a result stays fresh; for ever by default.
            backend: Where they are shared; see the class.

        Raises:
            ConfigurationError: The key is neither, or an empty text.
        """
        if not callable(key) and (not isinstance(key, str) or not key):
            raise ConfigurationError(
                "a custom cache key is a text that is not empty, or a function of the inputs, not "
                f"{shown(key)}"
            )
        limit = None if ttl_seconds is None else seconds(ttl_seconds, "ttl", zero=False)
        return CacheStrategy("custom", limit, key, backend=backend)

    @property
    def is_data(self) -> bool:
        """Whether it names no function and no backend, so that a graph may carry it."""
        return not callable(self.key) and self.backend is None


CacheStrategy.ALWAYS = CacheStrategy("always")
CacheStrategy.NEVER = CacheStrategy("never")
