"""Both places of messages, for suites that every one of them passes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl import Registry
from dagger_dsl.pubsub import PubSubConfig, PubSubExecutor
from dagger_dsl.store.database import Database


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Let every thread of a bus end with it."""
    yield
    deadline = time.monotonic() + 30.0
    while left := [each for each in threading.enumerate() if "dagger-pubsub" in each.name]:
        assert time.monotonic() < deadline, left
        time.sleep(0.001)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(params=["memory", "durable", "durable, through SQLAlchemy"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    level: str = request.param
    if "through" in level:  # the way of every other database
        make = Database.__init__

        def through_core(self: Database, *arguments: Any, **options: Any) -> None:
            make(self, *arguments, **options)
            self.through_core = True

        monkeypatch.setattr(Database, "__init__", through_core)
    return level


@pytest.fixture
def make(level: str, registry: Registry, tmp_path: Path) -> Callable[..., PubSubExecutor]:
    """Return what makes a bus of a level, with the options of its config beside its own."""
    url = None if level == "memory" else f"sqlite:{tmp_path / 'bus.db'}"

    def make(*agents: Any, **options: Any) -> PubSubExecutor:
        return PubSubExecutor(
            agents or None, PubSubConfig(**options), registry=registry, database_url=url
        )

    return make
