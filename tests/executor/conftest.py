"""An executor for each test, and files to load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagger_dsl.executor import DagExecutor


@pytest.fixture
def executor() -> Iterator[DagExecutor]:
    """An executor in memory with an empty registry of its own."""
    with DagExecutor(registry={}) as made:
        yield made
