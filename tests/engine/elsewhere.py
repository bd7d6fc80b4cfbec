"""Functions that a worker process imports."""

from __future__ import annotations


def divide(x: int, by: int) -> float:
    """Fail where it is by nothing."""
    return x / by
