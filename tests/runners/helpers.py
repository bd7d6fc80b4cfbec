"""What the tests of runners share: graphs from plain functions, and every way to run one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import attrs
import pytest

from dagger_dsl import engine
from dagger_dsl.engine.report import RunReport
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.registry import Registry

__all__ = [
    "CROSSING",
    "RUNNERS",
    "WAYS",
    "Flow",
    "Gauge",
    "eventually",
    "note_threads",
    "our_threads",
    "report_of",
]

RUNNERS = ("sequential", "threads", "asyncio")

_cloud = pytest.mark.skipif(
    find_spec("cloudpickle") is None, reason="closures go to worker processes by cloudpickle"
)

#: With the one whose bodies run in another process; those of the tests' own functions go by value.
CROSSING = (*RUNNERS, pytest.param("processes", marks=_cloud))

#: How long a test waits for what has to happen; only a failure takes so long.
PATIENCE = 20.0


class Flow:
    """A graph and its actions, made node by node.

    Args:
        name: The graph's name.
    """

    def __init__(self, name: str = "flow") -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.registry = Registry()

    def add(
        self,
        node_id: str,
        body: Callable[..., Any],
        *,
        after: Iterable[str] = (),
        take: Mapping[str, str] | None = None,
        give: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Flow:
        """Add a node.

        Args:
            node_id: Its id.
            body: What it calls; nodes that share a function share an action.
            after: What it waits for without taking a value.
            take: Source node (or ``inputs.name``) by parameter.
            give: Literal by parameter.
            **fields: Those of `Node`.
        """
        action = f"{getattr(body, '__name__', 'body')}_{id(body):x}"
        if action not in self.registry:
            self.registry.register(body, action)
        inputs = [
            Input(name, reference=source if "." in source else f"{source}.result")
            for name, source in (take or {}).items()
        ]
        inputs += [Input(name, value=value) for name, value in (give or {}).items()]
        self.nodes.append(Node(node_id, action, inputs, dependencies=after, **fields))
        return self

    def handler(self, name: str, body: Callable[..., Any]) -> str:
        """Register a failure handler and return its name."""
        self.registry.register(body, name)
        return name

    def graph(self) -> Graph:
        """Return the graph as it is now."""
        return Graph(self.name, self.nodes)

    def run(
        self,
        runner: str = "sequential",
        entry: str = "run",
        *,
        inputs: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> RunReport:
        """Run it once, the `entry` way, and return the report."""
        settings = DagConfig(**config) if config else None
        chosen = RunOptions(runner=runner, config=settings, **options)
        return WAYS[entry](self, inputs, chosen)


def _run(flow: Flow, inputs: Any, options: RunOptions) -> RunReport:
    return engine.run(flow.graph(), flow.registry, inputs, options)


def _run_async(flow: Flow, inputs: Any, options: RunOptions) -> RunReport:
    async def main() -> RunReport:
        before = asyncio.all_tasks()
        report = await engine.run_async(flow.graph(), flow.registry, inputs, options)
        assert asyncio.all_tasks() == before
        return report

    return asyncio.run(main())


def _start(flow: Flow, inputs: Any, options: RunOptions) -> RunReport:
    return engine.start(flow.graph(), flow.registry, inputs, options).result(PATIENCE * 3)


def _inside_a_loop(flow: Flow, inputs: Any, options: RunOptions) -> RunReport:
    async def cell() -> RunReport:  # what a notebook's kernel does with a cell
        return engine.run(flow.graph(), flow.registry, inputs, options)

    return asyncio.run(cell())


def _awaited(flow: Flow, inputs: Any, options: RunOptions) -> RunReport:
    async def main() -> RunReport:
        return await engine.start(flow.graph(), flow.registry, inputs, options)

    return asyncio.run(main())


#: How a run can be waited for.
WAYS: dict[str, Callable[[Flow, Any, RunOptions], RunReport]] = {
    "run": _run,
    "run_async": _run_async,
    "start": _start,
    "awaited": _awaited,
    "inside a loop": _inside_a_loop,
}


@attrs.define
class Gauge:
    """Counts who is inside a block now, and how many ever were at the same time."""

    now: int = 0
    peak: int = 0
    total: int = 0
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def __enter__(self) -> Gauge:
        with self._lock:
            self.now += 1
            self.total += 1
            self.peak = max(self.peak, self.now)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


def eventually(holds: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
    """Wait until something holds; fail when it never does."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"did not come true in {patience:g} s: {what}"
        time.sleep(0.001)


_earlier: set[int | None] = set()


def note_threads() -> None:
    """Note who lives before a test: an earlier one may have abandoned a call that takes long."""
    _earlier.clear()
    _earlier.update(thread.ident for thread in threading.enumerate())


def our_threads() -> list[str]:
    """Return the names of the package's living threads that were not there before the test."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("dagger") and thread.ident not in _earlier
    ]


def report_of(report: RunReport) -> dict[str, str]:
    """Return the state of each node as text."""
    return {node_id: str(state) for node_id, state in report.states().items()}
