"""Every test here counts the threads that it made itself."""

from __future__ import annotations

import pytest

from tests.runners.helpers import note_threads


@pytest.fixture(autouse=True)
def threads_before() -> None:
    """Note who lives before the test."""
    note_threads()
