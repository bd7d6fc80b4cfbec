"""Random graphs under every real runner end as the naive model says, whatever the interleaving.

What a node does is drawn for its id and attempt, failures do not stop the run, so the end of every
node is the same in any order, and after a death anywhere.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from dagger_dsl import engine
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import NodeCtx, NodeOutput
from dagger_dsl.model.graph import Edge, Graph, Node
from dagger_dsl.registry import Registry
from dagger_dsl.store.storage import Store
from tests.engine.helpers import IMMEDIATE, RUNNERS, states, url_of
from tests.engine.reference import Model, Recipe
from tests.engine.simulation import Features, Scenario
from tests.scale import count

FEATURES = Features(policies=False, handlers=False, unstored=False, outputs=False)


def answer(seed: int, recipe: Recipe, attempt: int) -> Any:
    """Return what one call answers, an exception or a value.

    Nodes with one attempt answer the same to every call, however many deaths there are.
    """
    rng = random.Random(f"{seed} {recipe.id} {attempt if recipe.attempts > 1 else ''}")
    if rng.random() < 0.2:
        return rng.choice((ConnectionError("x"), NodeOutput.failure("no")))
    return rng.choice(("x", "y", ["x", "y"], True)) if recipe.chooses else [recipe.id]


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


def built(
    seed: int, recipes: dict[str, Recipe], on_call: Callable[[str], None]
) -> tuple[Graph, Registry]:
    """Return the graph and its actions."""
    registry = Registry()

    def act(ctx: NodeCtx) -> Any:
        on_call(ctx.node_id)
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
    return Graph("random", nodes, edges, config=DagConfig(on_failure="continue")), registry


@pytest.mark.slow
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
    calls: list[str] = []
    graph, registry = built(seed, recipes, calls.append)
    options = RunOptions(runner=runner, max_workers=4, database_url=url, run_id="r")
    report = engine.run(graph, registry, None, options)
    assert states(report) == model.state
    assert report.success == (not report.failed_nodes)
    assert dict(Counter(calls)) == model.tries
    if url is not None:
        with Store(url) as store:
            stored = store.load_run("r").nodes
        assert {node_id: node.state for (node_id, _), node in stored.items()} == model.state


@pytest.mark.slow
@pytest.mark.parametrize("runner", RUNNERS)
@settings(max_examples=count(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(2, 25), seed=st.integers(0, 2**32 - 1))
def test_a_run_that_died_anywhere_ends_as_if_it_had_not(
    runner: str, tmp_path_factory: pytest.TempPathFactory, size: int, seed: int
) -> None:
    """A death is a copy of the database, made while a body runs."""
    note(f"size {size}, seed {seed}")
    recipes = Scenario(size, seed, attrs.evolve(FEATURES, retries=False)).recipes
    model = expected(seed, recipes)
    folder = tmp_path_factory.mktemp("runs")
    (folder / "alive").mkdir()
    fatal = random.Random(seed).randint(1, max(1, len(model.tries)))
    calls: list[str] = []
    lock = threading.Lock()

    def on_call(node_id: str) -> None:
        with lock:
            calls.append(node_id)
            if len(calls) == fatal and not (folder / "dead").exists():
                shutil.copytree(folder / "alive", folder / "dead")

    graph, registry = built(seed, recipes, on_call)
    options = RunOptions(runner=runner, max_workers=3, database_url=url_of(folder / "alive"))
    report = engine.run(graph, registry, None, attrs.evolve(options, run_id="r"))
    assert states(report) == model.state
    if not calls:
        return
    with Store(url_of(folder / "dead")) as store:
        recorded = store.load_run("r")
    done = {name for (name, _), node in recorded.nodes.items() if node.state == "completed"}
    calls.clear()
    resumed = engine.resume(
        "r", registry, attrs.evolve(options, database_url=url_of(folder / "dead"))
    )
    assert not done & set(calls), "a recorded result is never computed again"
    assert states(resumed) == model.state
    assert dict(resumed.values) == dict(report.values)
    assert {name for name in model.state if resumed.node_reports[name].restored} == done
