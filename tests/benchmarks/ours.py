"""The same graphs through `dagger_dsl`, as its users write them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from dagger_dsl import DAG, DagExecutor, Registry, action
from tests.benchmarks.bodies import ASYNC, SYNC
from tests.benchmarks.measure import Trial, timed, timed_inside
from tests.benchmarks.shapes import PARAMETERS, Shape

__all__ = [
    "bare_import",
    "build",
    "build_compile_validate",
    "forbidden_imports",
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


def build(shape: Shape, *, functions: str = "sync") -> DAG:
    """Return a DAG of this shape; `functions` is `sync` or `async`."""
    registry = Registry()
    bodies = ASYNC if functions == "async" else SYNC
    actions: list[Any] = [action(body, registry=registry) for body in bodies]
    handles: list[Any] = []
    with DAG(f"bench_{shape.name}", registry=registry) as dag:
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
    shape: Shape,
    folder: Path,
    runner: str,
    durability: str,
    synchronous: str,
    *,
    open_too: bool = False,
    **options: Any,
) -> Trial:
    """Run the graph on a file database, one more run each time.

    Args:
        shape: The graph.
        folder: Where the database is.
        runner: Which runner.
        durability: The level.
        synchronous: SQLite's level.
        open_too: Whether opening and closing the database counts.
        **options: Further options of the run.
    """
    path = folder / f"ours-{shape.name}-{len(shape.ids)}-{runner}-{durability}-{synchronous}.db"
    url = f"sqlite:{path}" + ("" if synchronous == "FULL" else f"?synchronous={synchronous}")
    dag = build(shape)
    dag.compile()
    options = {"runner": runner, "durability": durability, **options}
    if open_too:
        return timed(lambda: dag.run(database_url=url, **options))

    def body(executor: DagExecutor) -> None:
        executor.run(dag.name, **options).raise_for_failure()

    return timed_inside(_executor(dag, url), body)


def _executor(dag: DAG, url: str) -> Callable[[], AbstractContextManager[DagExecutor]]:
    @contextmanager
    def opened() -> Iterator[DagExecutor]:
        with DagExecutor(registry=dag.registry, database_url=url) as executor:
            executor.load(dag)
            executor.load(_one_node())
            executor.run("warm_up", runner="sequential").raise_for_failure()
            yield executor

    return opened


def _one_node() -> DAG:
    with DAG("warm_up", registry=Registry()) as dag:
        action(SYNC[0], registry=dag.registry)()
    return dag


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
