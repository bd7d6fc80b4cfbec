"""The loops a good programmer would write without a library, doing what an engine has to do.

Each binds arguments by name, keeps every result in a dict and reads the clock twice a node. The
sqlite3 loops store one row a node with the encoded result and both times. Each function takes a
`Shape` and returns a `Trial`.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from graphlib import TopologicalSorter
from itertools import count
from pathlib import Path
from time import perf_counter

import orjson

from tests.benchmarks.measure import Trial, timed
from tests.benchmarks.shapes import Shape

__all__ = [
    "asyncio_tasks",
    "batch_writer",
    "commit_per_node",
    "commit_per_ready_set",
    "graphlib_loop",
    "graphlib_pool",
]

Row = tuple[int, str, bytes, float, float]
Function = Callable[..., int]
Binding = tuple[tuple[str, str], ...]


def no_op(**_: int) -> int:
    """Stand for a node's body."""
    return 1


async def async_no_op(**_: int) -> int:
    """Stand for a node's async body."""
    return 1


def graphlib_loop(shape: Shape) -> Trial:
    """Call the functions one after the other in `graphlib` order."""
    graph, calls = _graph(shape), _calls(shape)

    def body() -> None:
        results: dict[str, int] = {}
        times: dict[str, tuple[float, float]] = {}
        for node in TopologicalSorter(graph).static_order():
            function, binding = calls[node]
            kwargs = {name: results[source] for name, source in binding}
            started = perf_counter()
            results[node] = function(**kwargs)
            times[node] = (started, perf_counter())

    return timed(body)


def graphlib_pool(shape: Shape, workers: int = 4) -> Trial:
    """Submit what `graphlib` calls ready to a pool; outcomes come back through a queue."""
    graph, calls = _graph(shape), _calls(shape)

    def body() -> None:
        results: dict[str, int] = {}
        times: dict[str, tuple[float, float]] = {}
        outcomes: queue.SimpleQueue[tuple[str, int, float, float]] = queue.SimpleQueue()

        def work(node: str, function: Function, kwargs: dict[str, int]) -> None:
            started = perf_counter()
            value = function(**kwargs)
            outcomes.put((node, value, started, perf_counter()))

        sorter = TopologicalSorter(graph)
        sorter.prepare()
        with ThreadPoolExecutor(workers) as pool:
            while sorter.is_active():
                for node in sorter.get_ready():
                    function, binding = calls[node]
                    kwargs = {name: results[source] for name, source in binding}
                    pool.submit(work, node, function, kwargs)
                node, value, started, ended = outcomes.get()
                results[node] = value
                times[node] = (started, ended)
                sorter.done(node)

    return timed(body)


def asyncio_tasks(shape: Shape, *, sync_functions: bool = False) -> Trial:
    """Start one task a node, which awaits the tasks of its dependencies and then its function."""
    names = [tuple(shape.ids[dep] for dep in deps) for deps in shape.deps]
    nodes = list(zip(shape.ids, shape.bindings(), names, strict=True))

    async def body() -> None:
        tasks: dict[str, asyncio.Task[None]] = {}
        results: dict[str, int] = {}
        times: dict[str, tuple[float, float]] = {}

        async def call_async(
            node: str,
            function: Callable[..., Awaitable[int]],
            binding: Binding,
            deps: Iterable[str],
        ) -> None:
            for dep in deps:
                await tasks[dep]
            kwargs = {name: results[source] for name, source in binding}
            started = perf_counter()
            results[node] = await function(**kwargs)
            times[node] = (started, perf_counter())

        async def call_sync(
            node: str, function: Function, binding: Binding, deps: Iterable[str]
        ) -> None:
            for dep in deps:
                await tasks[dep]
            kwargs = {name: results[source] for name, source in binding}
            started = perf_counter()
            results[node] = function(**kwargs)
            times[node] = (started, perf_counter())

        for node, binding, deps in nodes:
            tasks[node] = asyncio.create_task(
                call_sync(node, no_op, binding, deps)
                if sync_functions
                else call_async(node, async_no_op, binding, deps)
            )
        for task in tasks.values():
            await task

    return timed(lambda: asyncio.run(body()))


def commit_per_node(shape: Shape, folder: Path, synchronous: str) -> Trial:
    """Call in `graphlib` order and commit after every node."""
    graph, calls = _graph(shape), _calls(shape)
    path = folder / f"node-{shape.name}-{len(shape.ids)}-{synchronous}.db"

    def body() -> None:
        connection, run = _connect(path, synchronous), next(_RUNS)
        results: dict[str, int] = {}
        for node in TopologicalSorter(graph).static_order():
            connection.execute(_INSERT, _call(run, node, calls, results))
        connection.close()

    return timed(body)


def commit_per_ready_set(shape: Shape, folder: Path, synchronous: str) -> Trial:
    """Call all that is ready and commit it together, before anything it enables."""
    graph, calls = _graph(shape), _calls(shape)
    path = folder / f"ready-{shape.name}-{len(shape.ids)}-{synchronous}.db"

    def body() -> None:
        connection, run = _connect(path, synchronous), next(_RUNS)
        results: dict[str, int] = {}
        sorter = TopologicalSorter(graph)
        sorter.prepare()
        while sorter.is_active():
            ready = sorter.get_ready()
            _commit(connection, [_call(run, node, calls, results) for node in ready])
            sorter.done(*ready)
        connection.close()

    return timed(body)


def batch_writer(shape: Shape, folder: Path, synchronous: str) -> Trial:
    """Call in `graphlib` order; a thread commits whatever has queued, and nothing waits for it."""
    graph, calls = _graph(shape), _calls(shape)
    path = folder / f"batch-{shape.name}-{len(shape.ids)}-{synchronous}.db"

    def body() -> None:
        rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        writer = threading.Thread(target=_write_batches, args=(path, synchronous, rows))
        writer.start()
        run = next(_RUNS)
        results: dict[str, int] = {}
        for node in TopologicalSorter(graph).static_order():
            rows.put(_call(run, node, calls, results))
        rows.put(None)
        writer.join()

    return timed(body)


def _write_batches(path: Path, synchronous: str, rows: queue.SimpleQueue[Row | None]) -> None:
    connection = _connect(path, synchronous)
    row = rows.get()
    while row is not None:
        batch = [row]
        while not rows.empty() and (row := rows.get()) is not None:
            batch.append(row)
        _commit(connection, batch)
        if row is not None:
            row = rows.get()
    connection.close()


def _graph(shape: Shape) -> dict[str, list[str]]:
    ids = shape.ids
    return {ids[i]: [ids[dep] for dep in deps] for i, deps in enumerate(shape.deps)}


def _calls(shape: Shape) -> dict[str, tuple[Function, Binding]]:
    return {
        node: (no_op, binding) for node, binding in zip(shape.ids, shape.bindings(), strict=True)
    }


def _call(
    run: int, node: str, calls: dict[str, tuple[Function, Binding]], results: dict[str, int]
) -> Row:
    function, binding = calls[node]
    kwargs = {name: results[source] for name, source in binding}
    started = perf_counter()
    results[node] = value = function(**kwargs)
    return run, node, orjson.dumps(value), started, perf_counter()


# One for the process: trials of several rows share a file.
_RUNS = count()
_INSERT = "INSERT INTO results VALUES (?, ?, ?, ?, ?)"


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    # isolation_level=None: statements commit by themselves unless BEGIN says otherwise.
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS results (run INTEGER, node TEXT, value BLOB,"
        " started REAL, ended REAL, PRIMARY KEY (run, node)) WITHOUT ROWID"
    )
    return connection


def _commit(connection: sqlite3.Connection, rows: list[Row]) -> None:
    if len(rows) == 1:
        connection.execute(_INSERT, rows[0])
        return
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_INSERT, rows)
    connection.execute("COMMIT")
