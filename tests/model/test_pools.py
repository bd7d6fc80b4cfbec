"""`ResourcePool`: never too many, nobody forgotten, everything given back."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from dagger_dsl.errors import ConfigurationError, InvalidState, ResourceTimeout
from dagger_dsl.model.pools import ResourcePool


class Maker:
    """Makes numbered resources, and knows how many were out at the same time.

    Attributes:
        made: How many.
        fails: How many of the next ones are not made.
    """

    def __init__(self) -> None:
        self.made = 0
        self.fails = 0
        self.closed: list[Any] = []

    def __call__(self) -> list[int]:
        """Make one."""
        if self.fails:
            self.fails -= 1
            raise ConnectionError("no server")
        self.made += 1
        return [self.made]


@pytest.mark.row("K31")
def test_resources_are_made_when_needed_and_lent_again() -> None:
    maker = Maker()
    pool: ResourcePool[list[int]] = ResourcePool(maker, max_size=2)
    assert (pool.size, maker.made) == (0, 0)
    first = pool.acquire()
    second = pool.acquire()
    assert first is not second
    assert (pool.size, pool.in_use) == (2, 2)
    pool.release(first)
    assert pool.acquire(timeout=0) is first
    assert maker.made == 2
    pool.release(first)
    pool.release(second)
    assert (pool.size, pool.in_use) == (2, 0)
    assert ResourcePool(maker).max_size == 10


@pytest.mark.row("K31")
def test_never_more_than_max_size_are_out_in_many_threads() -> None:
    maker, lock = Maker(), threading.Lock()
    pool: ResourcePool[list[int]] = ResourcePool(maker, max_size=3)
    out, most, errors = [0], [0], []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            try:
                with pool.lease():
                    with lock:
                        out[0] += 1
                        most[0] = max(most[0], out[0])
                    if rng.random() < 0.2:
                        time.sleep(0.0002)
                    with lock:
                        out[0] -= 1
                    if rng.random() < 0.2:
                        raise ValueError
            except ValueError:
                pass
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert not errors
    assert most[0] <= 3
    assert maker.made <= 3
    assert pool.in_use == 0


@pytest.mark.row("K31")
def test_a_block_gives_back_whatever_is_raised_in_it() -> None:
    pool: ResourcePool[object] = ResourcePool(object, max_size=1)
    for kind in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(kind), pool.lease(timeout=0):
            raise kind
        assert pool.in_use == 0


def test_waiting_has_an_end() -> None:
    pool: ResourcePool[object] = ResourcePool(object, max_size=1)
    held = pool.acquire()
    with pytest.raises(ResourceTimeout, match=r"within 0 s: all 1 are lent"):
        pool.acquire(timeout=0)
    with pytest.raises(TimeoutError):
        pool.acquire(timeout=timedelta(milliseconds=10))
    with pytest.raises(ResourceTimeout), pool.lease(0.01):
        raise AssertionError
    pool.release(held)
    assert pool.acquire(timeout=0) is held, "those who left the line are not given anything"


def test_threads_and_tasks_stand_in_one_line() -> None:
    pool: ResourcePool[object] = ResourcePool(object, max_size=1)
    order: list[str] = []
    held = pool.acquire()

    def thread() -> None:
        with pool.lease():
            order.append("thread")

    async def task() -> None:
        async with pool.lease():
            order.append("task")
        async with pool.lease(timeout=5):
            order.append("task again")

    one = threading.Thread(target=thread)
    one.start()
    while not pool._waiting:
        time.sleep(0.001)

    async def main() -> None:
        waiting = asyncio.create_task(task())
        ticks = 0
        while len(pool._waiting) < 2:
            await asyncio.sleep(0.001)
            ticks += 1
        assert ticks, "the loop goes on while a task waits"
        pool.release(held)
        await waiting

    asyncio.run(main())
    one.join()
    assert order == ["thread", "task", "task again"]


def test_a_cancelled_task_gives_its_turn_to_the_next() -> None:
    async def main() -> None:
        pool: ResourcePool[object] = ResourcePool(object, max_size=1)
        held = pool.acquire()

        async def take() -> object:
            async with pool.lease() as found:
                return found

        first, second = asyncio.create_task(take()), asyncio.create_task(take())
        await asyncio.sleep(0)
        pool.release(held)  # for the first, which has not woken yet
        first.cancel()
        assert await second is held
        assert first.cancelled()
        third = asyncio.create_task(take())
        held = pool.acquire()
        await asyncio.sleep(0.001)
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        pool.release(held)
        assert pool.in_use == 0
        pool.acquire(timeout=0)
        with pytest.raises(ResourceTimeout):
            async with pool.lease(0.01):
                raise AssertionError

    asyncio.run(main())


def test_a_resource_that_is_not_made_takes_no_place() -> None:
    maker = Maker()
    pool: ResourcePool[list[int]] = ResourcePool(maker, max_size=1)
    maker.fails = 2
    for _ in range(2):
        with pytest.raises(ConnectionError):
            pool.acquire(timeout=0)
        assert (pool.size, pool.in_use) == (0, 0)
    assert pool.acquire(timeout=0) == [1]


def test_who_waits_makes_the_resource_that_another_could_not() -> None:
    begun, fail = threading.Event(), threading.Event()
    made: list[object] = []

    def create() -> object:
        if not made:
            made.append(None)
            begun.set()
            fail.wait(10)
            raise ConnectionError
        return made

    pool: ResourcePool[object] = ResourcePool(create, max_size=1)
    found: list[object] = []

    def first() -> None:
        with pytest.raises(ConnectionError):
            pool.acquire()

    one = threading.Thread(target=first)
    one.start()
    begun.wait(10)
    two = threading.Thread(target=lambda: found.append(pool.acquire()))
    two.start()
    while not pool._waiting:
        time.sleep(0.001)
    fail.set()
    one.join(10)
    two.join(10)
    assert found == [made]
    assert pool.size == 1


def test_what_is_not_lent_cannot_be_given_back() -> None:
    pool: ResourcePool[Any] = ResourcePool(dict, max_size=2)
    one = pool.acquire()
    with pytest.raises(InvalidState, match="comes from somewhere else"):
        pool.release({})
    pool.release(one)
    with pytest.raises(InvalidState, match="released already"):
        pool.release(one)
    for stranger in (None, 1, object()):
        with pytest.raises(InvalidState):
            pool.release(stranger)
    assert (pool.size, pool.in_use) == (1, 0)


def test_one_thing_may_be_lent_twice_where_create_gives_it_twice() -> None:
    shared = object()
    pool: ResourcePool[object] = ResourcePool(lambda: shared, max_size=2)
    pool.acquire()
    pool.acquire()
    pool.release(shared)
    pool.release(shared)
    with pytest.raises(InvalidState):
        pool.release(shared)


def test_a_closed_pool_lends_nothing_and_closes_everything() -> None:
    closed: list[Any] = []
    with ResourcePool(Maker(), max_size=3, dispose=closed.append) as pool:
        one, two = pool.acquire(), pool.acquire()
        pool.release(one)
    assert closed == [one]
    with pytest.raises(InvalidState, match="closed"):
        pool.acquire()
    pool.release(two)
    assert closed == [one, two]
    assert pool.size == 0
    pool.close()
    assert closed == [one, two]


def test_who_waits_for_a_pool_that_is_closed_is_told() -> None:
    pool: ResourcePool[object] = ResourcePool(object, max_size=1)
    pool.acquire()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            pool.acquire()
        except InvalidState as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not pool._waiting:
        time.sleep(0.001)
    pool.close()
    thread.join(10)
    assert len(errors) == 1


def test_a_dispose_that_fails_does_not_keep_the_others() -> None:
    pool: ResourcePool[Any] = ResourcePool(Maker(), max_size=3)
    held = [pool.acquire() for _ in range(3)]
    for each in held:
        pool.release(each)
    called: list[Any] = []

    def dispose(resource: Any) -> None:
        called.append(resource)
        if resource != [2]:
            raise OSError(resource)

    with pytest.raises(ExceptionGroup, match="several resources"):
        pool.close(dispose)
    assert sorted(called) == [[1], [2], [3]]
    assert pool.size == 0


def test_resources_can_be_made_in_async_functions() -> None:
    async def connect() -> str:
        await asyncio.sleep(0)
        return "connection"

    pool: ResourcePool[str] = ResourcePool(connect, max_size=1)
    with pytest.raises(ConfigurationError, match="async with"):
        pool.acquire()
    assert pool.size == 0

    async def main() -> None:
        async with pool.lease() as found:
            assert found == "connection"

    asyncio.run(main())
    assert pool.acquire() == "connection", "it is there by now"


def test_what_cannot_work_is_refused() -> None:
    wrong: Any
    for wrong in (None, 3, "connect"):
        with pytest.raises(ConfigurationError, match="makes a resource"):
            ResourcePool(wrong)
    for wrong in (0, -1, 2.5, True, "5", None):
        with pytest.raises(ConfigurationError, match="max_size"):
            ResourcePool(object, wrong)

    async def close_async(resource: object) -> None: ...

    for wrong in (1, close_async):
        with pytest.raises(ConfigurationError, match="plain function"):
            ResourcePool(object, dispose=wrong)
    pool: ResourcePool[object] = ResourcePool(object)
    for wrong in (-1, "1", float("nan"), True):
        with pytest.raises(ConfigurationError, match="timeout"):
            pool.acquire(wrong)
        with pytest.raises(ConfigurationError, match="timeout"):
            pool.lease(wrong)
