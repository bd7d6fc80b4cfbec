"""`CircuitBreaker`: a decorator that refuses calls for a while after too many have failed."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from types import MethodType
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

from dagger_dsl.errors import CircuitBreakerOpenError, ConfigurationError, shown
from dagger_dsl.model.lifecycle import is_awaited
from dagger_dsl.model.policies import seconds, whole_number

__all__ = ["CircuitBreaker", "is_guarded"]

# What a guarded function is known by.
_MARK = "__circuit_breaker__"

P = ParamSpec("P")
R = TypeVar("R")


class CircuitBreaker:
    """Refuses calls for a while after too many in a row have failed: ``@CircuitBreaker()``.

    It decorates functions, async ones too, and keeps their signature; it goes below ``@action`` and
    ``@dag.node``. One breaker may decorate several functions, which then count together. It counts
    the calls of this process, from any thread and in all runs. A failure is an `Exception`; calls
    that are cancelled or interrupted count neither way, and of a generator only its making counts.

    Closed, it lets every call through; a success sets its count of failures to 0. Open, it refuses
    every call. After *timeout* it is half open: it lets one call through, which closes it, or opens
    it again. When that call has not come back for another *timeout*, the next one is let through.
    What calls come to that began before it changed does not count. Under ``runner="processes"`` a
    guarded function is called in the run's own process, where the breaker counts; so is one that is
    wrapped around it with `functools.wraps`. One that merely calls a guarded function of a module
    finds another breaker in each worker process, which ends with the run.

    Args:
        failure_threshold: So many failures in a row open it.
        timeout: Seconds (or timedelta) that it stays open.
        clock: Monotonic seconds.

    Attributes:
        failures: Failures in a row.
        threshold: How many open it.
        timeout: Seconds that it stays open.
        last_failure: When the last failure was, by the clock; None when none counts.

    Raises:
        ConfigurationError: A number is impossible.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        timeout: float | timedelta = 60,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if callable(failure_threshold):
            raise ConfigurationError("write @CircuitBreaker() with parentheses")
        if not callable(clock):
            raise ConfigurationError(f"CircuitBreaker: clock is a function, not {shown(clock)}")
        self.threshold = whole_number(failure_threshold, "CircuitBreaker: failure_threshold")
        self.timeout = seconds(timeout, "CircuitBreaker: timeout")
        self.failures = 0
        self.last_failure: float | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._opened: float | None = None
        self._probe: float | None = None  # when the call began that a half-open one let through
        self._turn = 0  # counts changes of state: calls from before one do not count

    @property
    def state(self) -> str:
        """Whether it lets calls through: ``closed``, ``open`` or ``half_open``."""
        with self._lock:
            return self._state(self._clock())

    def _state(self, now: float) -> str:
        if self._opened is None:
            return "closed"
        return "open" if now - self._opened < self.timeout else "half_open"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a CircuitBreaker counts in one process and cannot be sent to another; decorate the "
            "node's own function with it, which is called where the run is"
        )

    def is_open(self) -> bool:
        """Return whether every call is refused."""
        return self.state == "open"

    def record_failure(self) -> None:
        """Count a failure, as one of a call."""
        with self._lock:
            self._fail()

    def reset(self) -> None:
        """Close it and forget all failures, as a success does."""
        with self._lock:
            self._close()

    def _fail(self) -> None:
        now = self._clock()
        was_open = self._opened is not None
        self.failures += 1
        self.last_failure = now
        if was_open or self.failures >= self.threshold:
            self._opened, self._probe = now, None
            self._turn += 1

    def _close(self) -> None:
        if self._opened is not None:
            self._turn += 1
        self.failures = 0
        self.last_failure = self._opened = self._probe = None

    def _enter(self, name: str) -> int:
        """Let a call through and return its turn.

        Raises:
            CircuitBreakerOpenError: It is refused.
        """
        with self._lock:
            now = self._clock()
            state = self._state(now)
            probing = self._probe is not None and now - self._probe < self.timeout
            if state == "open" or (state == "half_open" and probing):
                raise self._refusal(name, now)
            if state == "half_open":
                self._probe = now
                self._turn += 1  # of one that never came back nothing counts any more
            return self._turn

    def _refusal(self, name: str, now: float) -> CircuitBreakerOpenError:
        assert self._opened is not None
        wall = time.time() - now  # people read times of day
        since = self._opened if self._probe is None else self._probe
        return CircuitBreakerOpenError(
            name, self.failures, wall + self._opened, wall + since + self.timeout
        )

    def _leave(self, turn: int, error: BaseException | None) -> None:
        """Count what a call has come to, unless things have changed since it began."""
        with self._lock:
            if turn != self._turn:
                return
            if error is None:
                self._close()
            elif isinstance(error, Exception):
                self._fail()
            else:
                self._probe = None  # it says nothing; the next call may try

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return *function* with this breaker around it.

        Raises:
            ConfigurationError: It is no function, or an action already.
        """
        if not callable(function):
            raise ConfigurationError(f"CircuitBreaker decorates functions, not {shown(function)}")
        # An action, or something else that arrows can be drawn to.
        if any(inspect.getattr_static(function, name, None) for name in ("definition", "_sources")):
            raise ConfigurationError(
                f"{shown(function)} is a node or an action already: put @CircuitBreaker() below "
                "@dag.node or @action, next to the function"
            )
        name = getattr(function, "__name__", type(function).__name__)
        body: Any = function
        waits = is_awaited(body)  # so is what a plain wrapper around an async function returns

        @functools.wraps(body)
        def call(*args: Any, **kwargs: Any) -> Any:
            turn = self._enter(name)
            try:
                answer = body(*args, **kwargs)
            except BaseException as error:
                self._leave(turn, error)
                raise
            if waits and isinstance(answer, Coroutine):
                return self._awaited(turn, answer)
            self._leave(turn, None)
            return answer

        if inspect.iscoroutinefunction(body) or inspect.iscoroutinefunction(type(body).__call__):

            @functools.wraps(body)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                return await call(*args, **kwargs)

            return self._marked(call_async)
        return self._marked(call)

    async def _awaited(self, turn: int, answer: Coroutine[Any, Any, Any]) -> Any:
        """Await what a call returned, and count what comes of it."""
        try:
            value = await answer
        except BaseException as error:
            self._leave(turn, error)
            raise
        self._leave(turn, None)
        return value

    def _marked(self, call: Any) -> Callable[P, R]:
        setattr(call, _MARK, self)
        return cast("Callable[P, R]", call)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.state}: {self.failures} of {self.threshold} failures>"


def is_guarded(function: Any) -> bool:
    """Return whether a breaker is around a function, or around one that it wraps."""
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        if isinstance(inspect.getattr_static(function, _MARK, None), CircuitBreaker):
            return True
        if isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, functools.partial):
            function = function.func
        else:
            function = inspect.getattr_static(function, "__wrapped__", None)
    return False
