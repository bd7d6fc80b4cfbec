"""Static analysis: everything that is wrong with a graph, found before anything runs."""

from __future__ import annotations

from typing import Any

import attrs

from dagger_dsl.errors import Problem
from dagger_dsl.model.graph import Graph


@attrs.frozen
class ValidationReport:
    """What static analysis found.

    Attributes:
        problems: Errors and warnings, in declaration order.
    """

    problems: tuple[Problem, ...] = ()


def validate(graph: Graph, registry: Any = None, *, types: bool = True) -> ValidationReport:
    raise NotImplementedError


def lint(graph: Graph) -> list[Problem]:
    raise NotImplementedError
