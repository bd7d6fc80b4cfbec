"""Random graphs under every real runner end as the naive model says, whatever the interleaving.

What a node does is drawn for its id and attempt, failures do not stop the run, so the end of every
node is the same in any order.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from dagger_dsl import engine
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.graph import Edge, Graph, Node
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from tests.engine.helpers import IMMEDIATE, RUNNERS, states
from tests.engine.reference import Model, Recipe
from tests.engine.simulation import Features, Scenario
from tests.scale import count

FEATURES = Features(policies=False, handlers=False, unstored=False, outputs=False)


def answer(seed: int, recipe: Recipe, attempt: int) -> Any:
    """Return what one call answers, an exception or a value."""
    rng = random.Random(f"{seed} {recipe.id} {attempt}")
    if rng.random() < 0.2:
        return rng.choice((ConnectionError("x"), NodeOutput.failure("no")))
    return rng.choice(("x", "y", ["x", "y"], True)) if recipe.chooses else [recipe.id, attempt]


def expected(seed: int, recipes: dict[str, Recipe]) -> Model:
    """Play the model, one node at a time."""
    model = Model(recipes)
    model.begin([])
    while model.ready:
        node_id = model.ready[0]
        model.starts(node_id)
        given = answer(seed, recipes[node_id], model.tries[node_id])
        if isinstance(given, (Exception, NodeOutput)):
            if model.errs(node_id, retried=isinstance(given, Exception)) == "retry":
                model.wakes(node_id)
            continue
        found = given if isinstance(given, list) else ["true" if given is True else given]
        model.completes(node_id, frozenset(found) if recipes[node_id].chooses else frozenset(), 0)
    return model


def actual(
    seed: int, recipes: dict[str, Recipe], runner: str, url: str | None
) -> tuple[dict[str, str], Counter[str]]:
    """Run the graph for real; return the states and how often each node was called."""
    calls: list[str] = []
    registry = Registry()

    def act(ctx: NodeCtx) -> Any:
        calls.append(ctx.node_id)
        given = answer(seed, recipes[ctx.node_id], ctx.attempt)
        if isinstance(given, Exception):
            raise given
        return given

    async def act_async(ctx: NodeCtx) -> Any:
        await asyncio.sleep(0)
        return act(ctx)

    registry.register(act)
    registry.register(act_async)
    nodes = [
        Node(
            each.id,
            "act_async" if int(each.id[1:]) % 2 else "act",
            dependencies=[source for source, label in each.edges if label is None],
            trigger=each.trigger,
            try_count=each.attempts,
            retry=IMMEDIATE,
            enabled=each.enabled,
        )
        for each in recipes.values()
    ]
    edges = [
        Edge(source, each.id, label)
        for each in recipes.values()
        for source, label in each.edges
        if label is not None
    ]
    config = DagConfig(on_failure="continue", max_parallel_nodes=4)
    options = RunOptions(runner=runner, config=config, database_url=url, run_id="r")
    report = engine.run(Graph("random", nodes, edges), registry, None, options)
    assert report.success == (not report.failed_nodes)
    return states(report), Counter(calls)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("runner", RUNNERS)
@settings(max_examples=count(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_every_runner_ends_as_the_model_says(
    runner: str, durable: bool, tmp_path_factory: pytest.TempPathFactory, size: int, seed: int
) -> None:
    note(f"size {size}, seed {seed}")
    recipes = Scenario(size, seed, FEATURES).recipes
    model = expected(seed, recipes)
    folder: Path | None = tmp_path_factory.mktemp("runs") if durable else None
    url = None if folder is None else f"sqlite:{folder / 'runs.db'}?synchronous=NORMAL"
    found, calls = actual(seed, recipes, runner, url)
    assert found == model.state
    assert dict(calls) == model.tries
    if url is not None:
        with Store(url) as store:
            stored = store.load_run("r").nodes
        assert {node_id: node.state for (node_id, _), node in stored.items()} == model.state
