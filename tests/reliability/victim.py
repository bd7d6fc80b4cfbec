"""A process that records a run and can be killed at any moment.

``python -m tests.reliability.victim '{"...": ...}'`` starts a run, or goes on with it where it is
recorded already. Every call writes a line at its begin and its end to a log that no crash of the
process can take back: the kernel has the line when `os.write` returns.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import attrs

from dagger_dsl import engine
from dagger_dsl.engine.report import RunReport
from dagger_dsl.errors import RunNotFound
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store

__all__ = ["Call", "Spec", "build", "read_log", "run", "sources_of"]

PARAMETERS = ("a", "b", "c")


@attrs.frozen(kw_only=True)
class Spec:
    """What a victim does.

    Attributes:
        url: The database.
        log: Where calls are noted.
        run_id: The run.
        runner, slots, durability, flush: How it is run.
        nodes, layers, seed: The graph.
        work: Seconds a body takes.
        mixed: Whether a third of the bodies are async; under asyncio they are anyway.
        large: Every so-manieth node returns a value that goes to an artifact file; 0 for none.
        max_crashes: See `DagConfig`.
    """

    url: str
    log: str
    run_id: str = "run"
    runner: str = "sequential"
    slots: int = 4
    durability: str = "sync"
    flush: float = 0.0
    nodes: int = 20
    layers: int = 5
    seed: int = 1
    work: float = 0.0
    mixed: bool = False
    large: int = 7
    max_crashes: int = 3

    @classmethod
    def of_text(cls, text: str) -> Spec:
        """Return the spec that a command line holds."""
        return cls(**json.loads(text))

    def to_text(self) -> str:
        """Return what the command line holds."""
        return json.dumps(attrs.asdict(self))


def sources_of(spec: Spec) -> list[list[int]]:
    """Return for each node what it takes its values from: up to three nodes of the layer before."""
    draw = random.Random(spec.seed)
    size = max(1, spec.nodes // spec.layers)
    found: list[list[int]] = []
    for k in range(spec.nodes):
        layer = k // size
        before = range((layer - 1) * size, layer * size) if layer else range(0)
        found.append(draw.sample(before, min(len(before), 3)))
    return found


def _answer(spec: Spec, k: int, values: tuple[Any, ...]) -> Any:
    number = (k + 31 * sum(each["n"] for each in values)) % 1_000_003
    large = bool(spec.large) and k % spec.large == 0
    return {"n": number, "text": f"{number} " * (6000 if large else 1)}


def build(spec: Spec, note: Callable[[str], None]) -> tuple[Graph, Registry]:
    """Return the graph and its actions; a third of its bodies are async under asyncio."""

    def call(k: int, *values: Any) -> Any:
        note(f"begin {k}")
        if spec.work:
            time.sleep(spec.work)
        answer = _answer(spec, k, values)
        note(f"end {k}")
        return answer

    async def call_async(k: int, *values: Any) -> Any:
        note(f"begin {k}")
        await asyncio.sleep(spec.work)
        answer = _answer(spec, k, values)
        note(f"end {k}")
        return answer

    bodies: dict[str, Callable[..., Any]] = {
        "sync0": lambda k: call(k),
        "sync1": lambda k, a: call(k, a),
        "sync2": lambda k, a, b: call(k, a, b),
        "sync3": lambda k, a, b, c: call(k, a, b, c),
    }

    async def async0(k: int) -> Any:
        return await call_async(k)

    async def async1(k: int, a: Any) -> Any:
        return await call_async(k, a)

    async def async2(k: int, a: Any, b: Any) -> Any:
        return await call_async(k, a, b)

    async def async3(k: int, a: Any, b: Any, c: Any) -> Any:
        return await call_async(k, a, b, c)

    bodies |= {"async0": async0, "async1": async1, "async2": async2, "async3": async3}
    registry = Registry()
    for name, body in bodies.items():
        registry.register(body, name)
    nodes = []
    for k, sources in enumerate(sources_of(spec)):
        kind = "async" if (spec.mixed or spec.runner == "asyncio") and k % 3 == 0 else "sync"
        inputs = [Input("k", value=k)]
        inputs += [
            Input(name, reference=f"n{source}.result")
            for name, source in zip(PARAMETERS, sources, strict=False)
        ]
        nodes.append(Node(f"n{k}", f"{kind}{len(sources)}", inputs))
    return Graph("victim", nodes), registry


def run(spec: Spec) -> RunReport:
    """Run the graph, or go on with its run where it is recorded already."""
    file = os.open(spec.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    me = os.getpid()

    def note(what: str) -> None:
        now, spent = time.monotonic(), time.process_time()
        os.write(file, f"{what} {me} {now:.6f} {spent:.6f}\n".encode())

    graph, registry = build(spec, note)
    options = RunOptions(
        runner=spec.runner,
        max_workers=spec.slots,
        run_id=spec.run_id,
        durability=spec.durability,
        database_url=spec.url,
        config=DagConfig(flush_interval=spec.flush, max_crashes=spec.max_crashes),
    )
    try:
        if _is_recorded(spec):
            return engine.resume(spec.run_id, registry, options)
        return engine.run(graph, registry, None, options)
    finally:
        os.close(file)


def _is_recorded(spec: Spec) -> bool:
    store = Store(spec.url)
    path = store.database.path
    if path is None or not os.path.exists(path):
        return False
    with store:
        try:
            store.load_run(spec.run_id)
        except RunNotFound:
            return False
    return True


@attrs.frozen
class Call:
    """One call of a body, as the log has it.

    Attributes:
        node: Number of the node.
        process: Who made it.
        began, ended: Monotonic seconds; *ended* is None when the process died before.
        spent: Processor seconds of the process until the call began.
    """

    node: int
    process: int
    began: float
    ended: float | None
    spent: float


def read_log(path: str) -> list[Call]:
    """Return the calls in the order in which they began."""
    began: list[tuple[int, int, float, float]] = []
    ended: dict[tuple[int, int], float] = {}
    if not os.path.exists(path):
        return []
    with open(path, encoding="ascii") as lines:
        for line in lines:
            what, node, process, when, spent = line.split()
            if what == "begin":
                began.append((int(node), int(process), float(when), float(spent)))
            else:
                ended[int(node), int(process)] = float(when)
    return [
        Call(node, process, when, ended.get((node, process)), spent)
        for node, process, when, spent in began
    ]


def main() -> None:
    """Be the process."""
    report = run(Spec.of_text(sys.argv[1]))
    print(report.status, flush=True)


if __name__ == "__main__":
    main()
