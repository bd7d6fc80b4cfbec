"""The same graphs through `dagger_dsl`, as its users write them.

Needs of the package: `DAG`, `action`, handles as arguments, `>>`, `dag.run(...)`,
`dag.compile()`, `dag.validate()`. While it cannot be imported, `problem` says why and the table
shows the hand-written loops alone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.benchmarks.measure import Trial, timed
from tests.benchmarks.shapes import PARAMETERS, Shape

try:
    from dagger_dsl import DAG, action
except ImportError as error:
    problem: str | None = f"dagger_dsl cannot be measured yet: {error}"
else:
    problem = None

__all__ = [
    "bare_import",
    "build",
    "build_compile_validate",
    "forbidden_imports",
    "problem",
    "run",
    "with_database",
]

ROOT = Path(__file__).parents[2]
IMPORT = "from dagger_dsl import DAG, action"
HEAVY = ("sqlalchemy", "ruamel", "rich", "asyncio", "tenacity", "cattrs", "jsonschema_rs")


class Quiet:
    """A trivial hook: it is shown every event and answers none."""

    def handle(self, ctx: Any, event: Any) -> list[Any]:
        """Ask for nothing."""
        return []


def _sync_actions() -> list[Any]:
    @action
    def none() -> int:
        return 1

    @action
    def one(a: int) -> int:
        return 1

    @action
    def two(a: int, b: int) -> int:
        return 1

    @action
    def three(a: int, b: int, c: int) -> int:
        return 1

    return [none, one, two, three]


def _async_actions() -> list[Any]:
    @action
    async def none() -> int:
        return 1

    @action
    async def one(a: int) -> int:
        return 1

    @action
    async def two(a: int, b: int) -> int:
        return 1

    @action
    async def three(a: int, b: int, c: int) -> int:
        return 1

    return [none, one, two, three]


def build(shape: Shape, *, functions: str = "sync") -> Any:
    """Return a DAG of this shape; `functions` is `sync` or `async`."""
    actions = _async_actions() if functions == "async" else _sync_actions()
    handles: list[Any] = []
    with DAG(f"bench_{shape.name}") as dag:
        for deps in shape.deps:
            bound, further = deps[: len(PARAMETERS)], deps[len(PARAMETERS) :]
            arguments = {name: handles[dep] for name, dep in zip(PARAMETERS, bound, strict=False)}
            handle = actions[len(bound)](**arguments)
            if further:
                [handles[dep] for dep in further] >> handle
            handles.append(handle)
    return dag


def run(
    shape: Shape, runner: str, *, functions: str = "sync", hook: bool = False, **options: Any
) -> Trial:
    """Run the graph in memory; building and compiling are measured apart."""
    dag = build(shape, functions=functions)
    dag.compile()
    hooks = [Quiet()] if hook else []
    return timed(lambda: dag.run(runner=runner, hooks=hooks, **options))


def with_database(
    shape: Shape, folder: Path, runner: str, durability: str, synchronous: str, **options: Any
) -> Trial:
    """Run the graph on a file database that exists already, one more run each time."""
    path = folder / f"ours-{shape.name}-{len(shape.ids)}-{runner}-{durability}-{synchronous}.db"
    suffix = "" if synchronous == "FULL" else f"?synchronous={synchronous}"
    url = f"sqlite:{path}{suffix}"
    return run(shape, runner, database_url=url, durability=durability, **options)


def build_compile_validate(shape: Shape, part: str) -> Trial:
    """Measure all three steps, or with `part="compile"` compiling and validating alone."""

    def trial() -> float:
        started = perf_counter()
        dag = build(shape)
        if part == "compile":
            started = perf_counter()
        dag.compile()
        dag.validate()
        return perf_counter() - started

    return trial


def bare_import(statement: str) -> Trial:
    """Measure a fresh interpreter that runs `statement` and ends."""
    command = [sys.executable, "-c", statement]
    return timed(lambda: subprocess.run(command, cwd=ROOT, check=True))


def forbidden_imports() -> list[str]:
    """Return the heavy packages that the import statement loads; there must be none."""
    script = f"import sys; {IMPORT}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.split()
