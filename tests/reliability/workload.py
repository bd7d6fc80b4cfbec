"""A process that runs, or resumes, one graph on a file database, to be killed by the tests.

``python -m tests.reliability.workload FOLDER RUNNER NODES FLUSH`` starts the run ``victim`` in
``FOLDER/runs.db``, or resumes it when it is there. Every body appends ``<node id>`` to
``FOLDER/calls.log`` before it computes; at the end ``FOLDER/result.json`` holds the outputs.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from dagger_dsl.engine import resume, run
from dagger_dsl.errors import RunNotFound
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import NodeCtx
from dagger_dsl.model.graph import Graph, Input, Node
from dagger_dsl.registry import Registry

RUN_ID = "victim"
WIDTH = 10
SLOTS = 4


def graph(nodes: int) -> Graph:
    """Return layers of ten nodes, each of which adds up to three of the layer above."""
    draw = random.Random(7)
    made: list[Node] = []
    for number in range(nodes):
        layer, column = divmod(number, WIDTH)
        name = f"n{layer}_{column}"
        action = "later" if number % 3 == 0 else "add"
        inputs = []
        if layer:
            sources = draw.sample(range(WIDTH), 3)
            inputs = [
                Input(letter, f"n{layer - 1}_{source}.result")
                for letter, source in zip("abc", sources, strict=True)
            ]
        made.append(Node(name, action, [*inputs, Input("own", value=number)]))
    return Graph("victims", made)


def registry(folder: Path) -> Registry:
    """Return the actions; one of three is async."""
    log = os.open(folder / "calls.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    actions = Registry()

    def note(ctx: NodeCtx) -> None:
        os.write(log, f"{ctx.node_id}\n".encode())

    def add(ctx: NodeCtx, own: int, a: int = 0, b: int = 0, c: int = 0) -> int:
        note(ctx)
        time.sleep(0.001)
        return (a + b + c + own) % 1_000_003

    async def later(ctx: NodeCtx, own: int, a: int = 0, b: int = 0, c: int = 0) -> int:
        import asyncio

        note(ctx)
        await asyncio.sleep(0.001)
        return (a * b + c + own) % 1_000_003

    def only_sync(ctx: NodeCtx, own: int, a: int = 0, b: int = 0, c: int = 0) -> int:
        note(ctx)
        time.sleep(0.001)
        return (a * b + c + own) % 1_000_003

    # A graph with something to await is driven by an event loop under every runner; the plain
    # twin keeps the sequential and the thread runner's own loops under test.
    actions.register(add, "add")
    actions.register(later if os.environ.get("MIXED") else only_sync, "later")
    return actions


def main(folder: Path, runner: str, nodes: int, flush: float) -> None:
    """Run or resume to the end and leave the result."""
    options = RunOptions(
        runner=runner,
        max_workers=SLOTS,
        database_url=f"sqlite:{folder / 'runs.db'}",
        run_id=RUN_ID,
        config=DagConfig(flush_interval=flush),
    )
    actions = registry(folder)
    try:
        report = resume(RUN_ID, actions, options)
    except RunNotFound:
        report = run(graph(nodes), actions, options=options)
    report.raise_for_failure()
    (folder / "result.json").write_text(json.dumps(report.outputs))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
