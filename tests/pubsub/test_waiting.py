"""What waits for a publication: several may, and each hears of it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from dagger_dsl import Registry
from dagger_dsl.errors import InvalidState
from dagger_dsl.pubsub import PubSubExecutor
from dagger_dsl.pubsub.waiting import Pending

#: Seconds that nothing here takes, however busy the machine is.
LONG = 60.0


def test_several_threads_wait_for_one_result() -> None:
    pending = Pending[int]()
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(pending.result()), daemon=True)
        for _ in range(5)
    ]
    for each in threads:
        each.start()
    while not pending._wake or sum(each.is_alive() for each in threads) < 5:
        pass
    for each in threads:
        each.join(0.05)
    pending.succeed(7)
    for each in threads:
        each.join(LONG)
    assert found == [7] * 5


def test_several_tasks_and_a_thread_wait_for_one_result() -> None:
    pending = Pending[int]()

    async def main() -> list[int]:
        async def wait() -> int:
            return await pending

        blocked = asyncio.create_task(asyncio.to_thread(pending.result))
        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0.02)
        threading.Thread(target=pending.succeed, args=(7,)).start()
        async with asyncio.timeout(LONG):
            return await asyncio.gather(blocked, *tasks)

    assert asyncio.run(main()) == [7] * 4


def test_a_publication_that_is_being_recorded_is_late_and_not_nothing(tmp_path: Path) -> None:
    with PubSubExecutor(
        [], registry=Registry(), database_url=f"sqlite:{tmp_path / 'bus.db'}"
    ) as bus:
        place = bus._place
        assert place is not None
        began, more = threading.Event(), threading.Event()
        commit = place.rows.commit  # type: ignore[attr-defined]

        def slow(*arguments: object) -> object:
            began.set()
            assert more.wait(LONG)
            return commit(*arguments)

        place.rows.commit = slow  # type: ignore[attr-defined]
        publication = bus.publish("c", 1, wait=False)
        assert began.wait(LONG)
        with pytest.raises(TimeoutError, match="did not come in time"):
            publication.result(timeout=0.001)
        second = bus.publish("c", 2, wait=False)
        with pytest.raises(InvalidState, match=r"'.*' was taken back after 0\.001 s"):
            second.result(timeout=0.001)
        with pytest.raises(InvalidState, match=r"taken back after 0\.002 s"):
            bus.publish("c", 3, timeout=0.002).result()
        more.set()
        assert publication.result().payload == 1
