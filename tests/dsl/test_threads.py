"""One DAG, run by several threads at the same time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from dagger_dsl import DAG, Registry, action
from tests.scale import count


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_each_thread_gets_the_value_of_its_own_run() -> None:
    dag = DAG("flow", registry=Registry())
    dag.add(action(lambda x: x, name="same", registry=Registry()))
    wrong: list[tuple[int, object]] = []

    def work(mine: int) -> None:
        for _ in range(count(400)):
            found = dag.run({"x": mine})
            if found != mine:
                wrong.append((mine, found))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
