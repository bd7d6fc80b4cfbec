"""Fixtures of the reliability tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.helpers import Zygote, compile_shim


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim, to be preloaded."""
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def zygote(shim: Path) -> Iterator[Zygote]:
    """Makes victims quickly."""
    made = Zygote(shim)
    yield made
    made.close()
