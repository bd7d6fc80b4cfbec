"""How large the large counts are in this run.

Tests that draw thousands of examples ask `count` instead of writing the number down, so the
whole counts run with `--full` and a tenth of them everywhere else. The factor lives in the
environment: decorators need it while modules are imported, and child processes need it too.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from typing import Any

__all__ = ["DEFAULT_SCALE", "SCALE_VARIABLE", "count", "current_scale", "product"]

DEFAULT_SCALE = 0.1
SCALE_VARIABLE = "DAGGER_DSL_TEST_SCALE"


def current_scale() -> float:
    """Return the factor in force: what `--scale` or `--full` set, else the default."""
    return float(os.environ.get(SCALE_VARIABLE, DEFAULT_SCALE))


def count(whole: int, *, least: int = 1) -> int:
    """Scale a large count.

    Args:
        whole: The count of a `--full` run.
        least: Smallest useful count, kept however small the scale is.
    """
    return max(least, math.ceil(whole * current_scale()))


def product(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the cases of slow tests that have several parameters.

    Args:
        *axes: The values of each parameter.

    Returns:
        Every combination in a full run, else so many that every value occurs.
    """
    if current_scale() >= 1:
        return list(itertools.product(*axes))
    cases = range(max(map(len, axes)))
    return [tuple(axis[case % len(axis)] for axis in axes) for case in cases]
