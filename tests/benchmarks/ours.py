"""The same graphs through `dagger_dsl`, as its users write them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from pathlib import Path
from time import perf_counter
from typing import Any

from dagger_dsl import DAG, DagExecutor, Registry, action, hook
from dagger_dsl.engine.workflow import Workflow
from dagger_dsl.model.commands import AddNode, AddNodes, Command, NodeSpec, ref
from dagger_dsl.model.events import NodeCompleted, NodeFailed
from tests.benchmarks.bodies import ASYNC, SYNC, whole
from tests.benchmarks.measure import Trial, timed, timed_inside
from tests.benchmarks.shapes import PARAMETERS, Shape

__all__ = [
    "Growing",
    "bare_import",
    "build",
    "build_compile_validate",
    "build_map",
    "build_seed",
    "forbidden_imports",
    "grow",
    "in_memory",
    "map_in_memory",
    "map_on_file",
    "on_file",
    "run",
    "shown",
    "url_of",
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


class Growing:
    """A hook that brings a graph to its size: after each node, or each batch, the next."""

    def __init__(self, size: int, batch: int) -> None:
        self.size = size
        self.batch = batch
        self.added = 1

    def handle(self, ctx: Any, event: Any) -> Command | None:
        """Answer the first completion of each batch."""
        if not isinstance(event, NodeCompleted) or self.added >= self.size:
            return None
        node_id = event.node.node_id
        if node_id != "n0" and (int(node_id[1:]) - 1) % self.batch:
            return None
        taken = {"a": ref(f"{node_id}.result")}
        more = range(self.added, min(self.added + self.batch, self.size))
        self.added += len(more)
        specs = [NodeSpec("one", id=f"n{k}", inputs=taken) for k in more]
        return AddNode(specs[0]) if self.batch == 1 else AddNodes(specs)


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


def build_map(n: int) -> DAG:
    """Return a DAG of a list, a node that maps over it, and one that takes what comes out."""
    registry = Registry()

    def items() -> list[int]:
        return list(range(n))

    first, each, last = (action(body, registry=registry) for body in (items, SYNC[1], whole))
    with DAG("bench_map", registry=registry) as dag:
        last(each.map(first()))
    return dag


def run(
    shape: Shape,
    runner: str,
    *,
    functions: str = "sync",
    hook: str = "",
    **options: Any,
) -> Trial:
    """Run the graph in memory; building and compiling are measured apart.

    Args:
        shape: The graph.
        runner: Which runner.
        functions: ``sync`` or ``async``.
        hook: ``given`` to the run, ``registered`` for one class of events, or none.
        **options: Further options of the run.
    """
    dag = build(shape, functions=functions)
    if hook == "registered":
        _register(dag.registry)
    return in_memory(dag, runner, hooks=[Quiet()] if hook == "given" else [], **options)


def _register(registry: Registry) -> None:
    @hook(on=NodeFailed, registry=registry)
    def on_failure(ctx: Any, event: Any) -> None:
        """Ask for nothing."""


def in_memory(dag: Workflow, runner: str, **options: Any) -> Trial:
    """Run a DAG in memory."""
    dag.compile()
    return timed(lambda: dag.run(runner=runner, **options))


def shown(shape: Shape, display: str | None) -> Trial:
    """Run the graph in memory with a live display, which nobody reads, or with none."""
    dag = build(shape)
    dag.compile()
    return timed_inside(_unread, lambda _: dag.run(runner="sequential", progress=display))


@contextmanager
def _unread() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        yield


def build_seed() -> DAG:
    """Return a DAG of the one node that `Growing` begins with."""
    registry = Registry()
    first = action(SYNC[0], registry=registry)
    action(SYNC[1], registry=registry)
    with DAG("bench_growth", registry=registry) as dag:
        first.with_options(id="n0")()
    return dag


def grow(n: int, batch: int, runner: str, **options: Any) -> Trial:
    """Run a graph of one node that a hook brings to *n*, in batches of one size."""
    dag = build_seed()
    dag.compile()
    return timed(lambda: dag.run(runner=runner, hooks=[Growing(n, batch)], **options))


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
    name = f"{shape.name}-{len(shape.ids)}-{runner}-{durability}-{synchronous}"
    options = {"runner": runner, "durability": durability, **options}
    url = url_of(folder, name, synchronous)
    dag = build(shape)
    if open_too:
        dag.compile()
        return timed(lambda: dag.run(database_url=url, **options))
    return on_file(dag, url, **options)


def url_of(folder: Path, name: str, synchronous: str) -> str:
    """Return the URL of a database of ours."""
    options = "" if synchronous == "FULL" else f"?synchronous={synchronous}"
    return f"sqlite:{folder}/ours-{name}.db{options}"


def on_file(dag: Workflow, url: str, **options: Any) -> Trial:
    """Run a DAG on a file database that is open already."""
    dag.compile()

    def body(executor: DagExecutor) -> None:
        executor.run(dag.name, **options).raise_for_failure()

    return timed_inside(_executor(dag, url), body)


def map_in_memory(n: int, runner: str, **options: Any) -> Trial:
    """Run a map over *n* items in memory."""
    return in_memory(build_map(n), runner, **options)


def map_on_file(n: int, folder: Path, synchronous: str, **options: Any) -> Trial:
    """Run a map over *n* items on a file database."""
    url = url_of(folder, f"map-{n}-{options['runner']}-{synchronous}", synchronous)
    return on_file(build_map(n), url, **options)


def _executor(dag: Workflow, url: str) -> Callable[[], AbstractContextManager[DagExecutor]]:
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
