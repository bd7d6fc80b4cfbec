"""The loops a good programmer would write without a library, doing what an engine has to do.

Each binds arguments by name, keeps every result in a dict and reads the clock twice a node; the
functions that are called are those that `ours` calls. The sqlite3 loops store one row a node with
the encoded result and both times, in a database that is open and has been written to before the
clock starts. Each function takes a `Shape` and returns a `Trial`.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from graphlib import TopologicalSorter
from itertools import count
from pathlib import Path
from time import perf_counter

import orjson

from tests.benchmarks.bodies import ASYNC, SYNC
from tests.benchmarks.measure import Trial, timed, timed_inside
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
                call_sync(node, SYNC[len(binding)], binding, deps)
                if sync_functions
                else call_async(node, ASYNC[len(binding)], binding, deps)
            )
        for task in tasks.values():
            await task

    return timed(lambda: asyncio.run(body()))


def commit_per_node(shape: Shape, folder: Path, synchronous: str) -> Trial:
    """Call in `graphlib` order and commit after every node."""
    graph, calls = _graph(shape), _calls(shape)

    def body(connection: sqlite3.Connection) -> None:
        run = next(_RUNS)
        results: dict[str, int] = {}
        for node in TopologicalSorter(graph).static_order():
            connection.execute(_INSERT, _call(run, node, calls, results))

    return timed_inside(_warm(_database(folder, f"node-{shape.name}", shape, synchronous)), body)


def commit_per_ready_set(
    shape: Shape, folder: Path, synchronous: str, *, open_too: bool = False
) -> Trial:
    """Call all that is ready and commit it together, before anything it enables.

    Args:
        shape: The graph.
        folder: Where the database is.
        synchronous: SQLite's level.
        open_too: Whether opening and closing the database counts.
    """
    graph, calls = _graph(shape), _calls(shape)
    database = _database(folder, f"ready-{shape.name}", shape, synchronous)

    def body(connection: sqlite3.Connection) -> None:
        run = next(_RUNS)
        results: dict[str, int] = {}
        sorter = TopologicalSorter(graph)
        sorter.prepare()
        while sorter.is_active():
            ready = sorter.get_ready()
            _commit(connection, [_call(run, node, calls, results) for node in ready])
            sorter.done(*ready)

    def whole() -> None:
        with database() as connection:
            body(connection)

    return timed(whole) if open_too else timed_inside(_warm(database), body)


def batch_writer(shape: Shape, folder: Path, synchronous: str) -> Trial:
    """Call in `graphlib` order; a thread commits whatever has queued, and nothing waits for it."""
    graph, calls = _graph(shape), _calls(shape)

    def body(connection: sqlite3.Connection) -> None:
        rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        writer = threading.Thread(target=_write_batches, args=(connection, rows))
        writer.start()
        run = next(_RUNS)
        results: dict[str, int] = {}
        for node in TopologicalSorter(graph).static_order():
            rows.put(_call(run, node, calls, results))
        rows.put(None)
        writer.join()

    return timed_inside(_warm(_database(folder, f"batch-{shape.name}", shape, synchronous)), body)


def _write_batches(connection: sqlite3.Connection, rows: queue.SimpleQueue[Row | None]) -> None:
    row = rows.get()
    while row is not None:
        batch = [row]
        while not rows.empty() and (row := rows.get()) is not None:
            batch.append(row)
        _commit(connection, batch)
        if row is not None:
            row = rows.get()


def _graph(shape: Shape) -> dict[str, list[str]]:
    ids = shape.ids
    return {ids[i]: [ids[dep] for dep in deps] for i, deps in enumerate(shape.deps)}


def _calls(shape: Shape) -> dict[str, tuple[Function, Binding]]:
    return {
        node: (SYNC[len(binding)], binding)
        for node, binding in zip(shape.ids, shape.bindings(), strict=True)
    }


def _call(
    run: int, node: str, calls: dict[str, tuple[Function, Binding]], results: dict[str, int]
) -> Row:
    function, binding = calls[node]
    kwargs = {name: results[source] for name, source in binding}
    started = perf_counter()
    results[node] = value = function(**kwargs)
    return run, node, orjson.dumps(value), started, perf_counter()


# Numbers of runs: the trials of a row share a file.
_RUNS = count()
_INSERT = "INSERT INTO results VALUES (?, ?, ?, ?, ?)"


def _database(
    folder: Path, name: str, shape: Shape, synchronous: str
) -> Callable[[], AbstractContextManager[sqlite3.Connection]]:
    """Return what opens the database of a row of the table; its trials share the file."""
    path = folder / f"{name}-{len(shape.ids)}-{synchronous}.db"

    @contextmanager
    def opened() -> Iterator[sqlite3.Connection]:
        # isolation_level=None: statements commit by themselves unless BEGIN says otherwise.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS results (run INTEGER, node TEXT, value BLOB,"
            " started REAL, ended REAL, PRIMARY KEY (run, node)) WITHOUT ROWID"
        )
        try:
            yield connection
        finally:
            connection.close()

    return opened


def _warm(
    database: Callable[[], AbstractContextManager[sqlite3.Connection]],
) -> Callable[[], AbstractContextManager[sqlite3.Connection]]:
    """Return what opens a database and commits a row, so that its write-ahead log is there."""

    @contextmanager
    def opened() -> Iterator[sqlite3.Connection]:
        with database() as connection:
            _commit(connection, [(next(_RUNS), "warm_up", b"1", 0.0, 0.0)])
            yield connection

    return opened


def _commit(connection: sqlite3.Connection, rows: list[Row]) -> None:
    if len(rows) == 1:
        connection.execute(_INSERT, rows[0])
        return
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_INSERT, rows)
    connection.execute("COMMIT")
