"""`ResourcePool`: things that are costly to make, lent to one call at a time, and never too many.

A pool hands out leases: to threads, which wait, and to async functions, which await. Both stand in
one line, first come, first served.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dagger_dsl.errors import (
    ConfigurationError,
    InvalidState,
    ResourceTimeout,
    shown,
)
from dagger_dsl.model.policies import seconds, whole_number

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Lease", "ResourcePool"]

T = TypeVar("T")

_serials = itertools.count()

#: Stands in a grant for the right to make one.
_MAKE: Any = object()


class ResourcePool(Generic[T]):
    """Lends resources, such as connections, and never has more of them than it may.

    ``with pool.lease() as conn:`` in functions, ``async with pool.lease() as conn:`` in async ones;
    ``@action(uses={"conn": pool})`` does it around each call. ``with pool:`` closes the pool at the
    end. It may be used from any thread and loop.

    Args:
        create: Makes one, outside of any lock. It may be async: then only async functions can lease
            what has yet to be made. One that raises takes no place.
        max_size: So many exist at most, lent ones included.
        dispose: Called with each one that is closed.

    Raises:
        ConfigurationError: One of these cannot be one.
    """

    def __init__(
        self,
        create: Callable[[], Any],
        max_size: int = 10,
        *,
        dispose: Callable[[T], Any] | None = None,
    ) -> None:
        if not callable(create):
            raise ConfigurationError(
                f"ResourcePool: create is a function that makes a resource, not {shown(create)}"
            )
        self._create = create
        self._dispose = _disposer(dispose)
        self.max_size = whole_number(max_size, "ResourcePool: max_size")
        #: Rises with every pool that is made.
        self.serial = next(_serials)
        self._lock = threading.Lock()
        self._idle: list[T] = []
        # By identity, each with how often it is out: `create` may give one thing twice.
        self._lent: dict[int, tuple[T, int]] = {}
        self._size = 0
        self._waiting: deque[Future[Any]] = deque()
        self._closed = False

    @property
    def size(self) -> int:
        """How many exist, those that are being made included."""
        return self._size

    @property
    def in_use(self) -> int:
        """How many are lent, or being made."""
        with self._lock:
            return self._size - len(self._idle)

    # --- leases ----------------------------------------------------------------------------------

    def lease(self, timeout: float | timedelta | None = None) -> Lease[T]:
        """Return what lends one for a ``with`` or an ``async with`` block.

        Args:
            timeout: Seconds (or timedelta) to wait for one; None for any time.

        Raises:
            ResourceTimeout: By the block: none came free in time.
            InvalidState: By the block: the pool is closed.
        """
        return Lease(self, _limit(timeout))

    def acquire(self, timeout: float | timedelta | None = None) -> T:
        """Borrow one; wait in this thread while all are lent. Give it back with `release`.

        Args:
            timeout: Seconds (or timedelta) to wait; 0 does not wait, None for any time.

        Raises:
            ResourceTimeout: None came free in time.
            InvalidState: The pool is closed.
            ConfigurationError: ``create`` is async, so only async functions can use it.
            Exception: Whatever ``create`` raises.
        """
        return self._acquire(_limit(timeout))

    def release(self, resource: T) -> None:
        """Give one back.

        Raises:
            InvalidState: It is not lent: it was given back already, or is not of this pool.
        """
        with self._lock:
            known = self._lent.get(id(resource))
            if known is None:
                raise InvalidState(
                    f"{shown(resource)} is not lent by this pool: it was released already, or "
                    "comes from somewhere else"
                )
            if known[1] > 1:
                self._lent[id(resource)] = (resource, known[1] - 1)
            else:
                del self._lent[id(resource)]
            closed = self._closed
            if closed:
                self._size -= 1
            else:
                self._pass_on(resource)
        if closed and self._dispose is not None:
            self._dispose(resource)

    def close(self, dispose: Callable[[T], Any] | None = None) -> None:
        """Lend nothing more, and close what is not lent; the rest is closed as it comes back.

        Args:
            dispose: Called with each of them; what the pool was made with by default.

        Raises:
            ConfigurationError: *dispose* is no function.
            Exception: What *dispose* raises, once it was called for all; several as a group.
        """
        chosen = _disposer(dispose)
        with self._lock:
            self._closed = True
            if chosen is not None:
                self._dispose = chosen
            idle, self._idle = self._idle, []
            self._size -= len(idle)
            waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            if each.set_running_or_notify_cancel():
                each.set_exception(_closed())
        errors: list[Exception] = []
        for resource in idle if self._dispose is not None else ():
            try:
                self._dispose(resource)
            except Exception as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("several resources could not be closed", errors)

    def __enter__(self) -> ResourcePool[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ResourcePool: {self.in_use} in use, {self.max_size} at most>"

    # --- grants ----------------------------------------------------------------------------------

    def _acquire(self, limit: float | None) -> T:
        grant, waiter = self._ask(limit)
        if waiter is not None:
            with self._in_line(waiter, limit):
                grant = waiter.result(limit)
        if grant is not _MAKE:
            return self._lend(grant)
        with self._making():
            made = self._create()
            if inspect.isawaitable(made):
                if inspect.iscoroutine(made):
                    made.close()
                raise ConfigurationError(
                    "this pool makes its resources in an async function, so only async functions "
                    "can use it: async with pool.lease() as resource"
                )
        return self._lend(made)

    async def _acquire_async(self, limit: float | None) -> T:
        grant, waiter = self._ask(limit)
        if waiter is not None:
            import asyncio

            with self._in_line(waiter, limit):
                async with asyncio.timeout(limit):
                    grant = await asyncio.wrap_future(waiter)
        if grant is not _MAKE:
            return self._lend(grant)
        with self._making():
            made = self._create()
            if inspect.isawaitable(made):
                made = await made
        return self._lend(made)

    def _ask(self, limit: float | None) -> tuple[Any, Future[Any] | None]:
        """Return a grant, which is a resource or `_MAKE`, or what will be given one.

        Raises:
            ResourceTimeout: There is none, and nobody wants to wait.
            InvalidState: The pool is closed.
        """
        with self._lock:
            if self._closed:
                raise _closed()
            if self._idle:
                return self._idle.pop(), None
            if self._size < self.max_size:
                self._size += 1
                return _MAKE, None
            if limit == 0:
                raise ResourceTimeout(0.0, self.max_size)
            from concurrent.futures import Future  # only who has to wait loads it

            waiter: Future[Any] = Future()
            self._waiting.append(waiter)
            return None, waiter

    @contextmanager
    def _in_line(self, waiter: Future[Any], limit: float | None) -> Iterator[None]:
        """Surround the wait for a grant; who does not get it leaves the line."""
        try:
            yield
        except BaseException as error:
            self._withdraw(waiter)
            if isinstance(error, TimeoutError):
                assert limit is not None
                raise ResourceTimeout(limit, self.max_size) from None
            raise

    @contextmanager
    def _making(self) -> Iterator[None]:
        """Surround the making of one; where it is not made, another one may be."""
        try:
            yield
        except BaseException:
            with self._lock:
                self._size -= 1
                self._grant_place()
            raise

    def _withdraw(self, waiter: Future[Any]) -> None:
        """Leave the line; what was granted meanwhile goes to the next one."""
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            if waiter.cancel() or waiter.cancelled() or waiter.exception() is not None:
                return
            grant = waiter.result()
            if self._closed or grant is _MAKE:
                self._size -= 1
                grant = None if grant is _MAKE else grant
                self._grant_place()
            else:
                self._pass_on(grant)
                grant = None
        if grant is not None and self._dispose is not None:
            self._dispose(grant)

    def _lend(self, resource: T) -> T:
        with self._lock:
            count = self._lent.get(id(resource), (resource, 0))[1]
            self._lent[id(resource)] = (resource, count + 1)
        return resource

    def _grant_place(self) -> None:
        if self._closed or self._size >= self.max_size:
            return
        if self._hand_over(_MAKE):
            self._size += 1

    def _pass_on(self, resource: T) -> None:
        if not self._hand_over(resource):
            self._idle.append(resource)

    def _hand_over(self, grant: Any) -> bool:
        """Give a grant to the first in line who still waits; False when nobody does."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if waiter.set_running_or_notify_cancel():
                waiter.set_result(grant)
                return True
        return False


class Lease(Generic[T]):
    """Lends a resource of a pool for a ``with`` or an ``async with`` block, once or again."""

    __slots__ = ("_held", "_limit", "_pool")

    def __init__(self, pool: ResourcePool[T], limit: float | None) -> None:
        self._pool = pool
        self._limit = limit
        self._held: list[T] = []

    def __enter__(self) -> T:
        resource = self._pool._acquire(self._limit)
        self._held.append(resource)
        return resource

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.release(self._held.pop())

    async def __aenter__(self) -> T:
        resource = await self._pool._acquire_async(self._limit)
        self._held.append(resource)
        return resource

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.release(self._held.pop())


def _limit(timeout: float | timedelta | None) -> float | None:
    return None if timeout is None else seconds(timeout, "timeout")


def _disposer(dispose: Any) -> Any:
    if dispose is None:
        return None
    if not callable(dispose) or inspect.iscoroutinefunction(dispose):
        raise ConfigurationError(
            f"ResourcePool: dispose is a plain function of the resource, not {shown(dispose)}"
        )
    return dispose


def _closed() -> InvalidState:
    return InvalidState("the pool is closed; it lends nothing more")
