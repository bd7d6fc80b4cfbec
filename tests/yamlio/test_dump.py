"""Writing YAML: whatever a graph holds comes back equal, and the text reads well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagger_dsl.errors import EncodingError
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import Edge, Graph, GraphInput, Input, Node, Output
from dagger_dsl.model.policies import CacheStrategy, RetryPolicy, Trigger
from dagger_dsl.yamlio import dump_yaml, load_yaml, load_yaml_file
from dagger_dsl.yamlio._compose import Limits, compose
from dagger_dsl.yamlio._merge import same
from dagger_dsl.yamlio.dump import emit
from tests.scale import count
from tests.yamlio.graphs import WORDS, graphs, texts

SEED_FILES = sorted(Path(__file__).with_name("seeds").glob("*.yaml"))

# Generating a whole graph is slow work; what is slow about it is not under test.
whole_graphs = settings(
    max_examples=count(1_000),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

PIPELINE = """\
name: pipeline
description: |
  Fetches and stores.
  Twice a day.
version: 1.0.0
signature: "0123"
tags: [daily, etl]
config:
  max_attempts: 3
  on_failure: continue
  timeout_seconds: null
inputs:
  - name: url
    schema:
      type: string
nodes:
  - id: fetch
    action: http_fetch
    inputs:
      - name: url
        description: where from
        reference: inputs.url
      - name: headers
        value:
          accept: text/plain
          "yes": [1, "1", 1.5, true, null]
    outputs:
      - name: rows
    timeout: 30
    retry:
      base_delay: 1
      backoff: linear
  - id: "on"
    action: store
    dependencies: [fetch]
    onfailure: pause
    cache_strategy:
      ttl: 300
    trigger: none_failed
edges:
  - source: fetch
    target: "on"
    when: big
"""

GRAPH = Graph(
    "pipeline",
    [
        Node(
            "fetch",
            "http_fetch",
            [
                Input("url", "inputs.url", description="where from"),
                Input("headers", value={"accept": "text/plain", "yes": [1, "1", 1.5, True, None]}),
            ],
            [Output("rows")],
            timeout=30,
            retry=RetryPolicy(base_delay=1, backoff="linear"),
        ),
        Node(
            "on",
            "store",
            dependencies=["fetch"],
            on_failure="pause",
            cache_strategy=CacheStrategy.ttl(300),
            trigger=Trigger.NONE_FAILED,
        ),
    ],
    [Edge("fetch", "on", "big")],
    description="Fetches and stores.\nTwice a day.\n",
    version="1.0.0",
    signature="0123",
    tags=["etl", "daily"],
    config=DagConfig(max_attempts=3, on_failure="continue", timeout_seconds=None),
    inputs=[GraphInput("url", schema={"type": "string"})],
)


@pytest.mark.row("A23")
def test_a_graph_is_written_in_the_documents_form() -> None:
    assert dump_yaml(GRAPH) == PIPELINE
    assert load_yaml(PIPELINE) == GRAPH


@pytest.mark.row("O6")
@whole_graphs
@given(graphs())
def test_every_graph_comes_back_equal_and_is_written_alike(graph: Graph) -> None:
    text = dump_yaml(graph)
    back = load_yaml(text, strict=True)
    assert back == graph
    assert list(back.nodes) == list(graph.nodes)
    assert dump_yaml(back) == text
    assert text.endswith("\n")


@pytest.mark.row("O6", "A11", "A18")
@pytest.mark.parametrize("file", SEED_FILES, ids=lambda file: file.stem)
def test_the_documents_files_come_back_equal(file: Path) -> None:
    graph = load_yaml_file(file)
    assert load_yaml(dump_yaml(graph)) == graph


@pytest.mark.parametrize("word", WORDS)
def test_text_stays_text_wherever_it_stands(word: str) -> None:
    plain = {"a": word, "b": [word, [word]], "c": {word: {word: word}}, "d": [{"e": word}]}
    for how in ({}, {"blocks": False}, {"brackets": True}, {"dashed": False}):
        assert same(plain_of(emit(plain, **how)), plain)


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts(200),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(), inner, max_size=4),
    max_leaves=15,
)


@given(
    st.dictionaries(texts(), _plain, max_size=4),
    st.fixed_dictionaries(
        {}, optional={each: st.booleans() for each in ("blocks", "brackets", "dashed")}
    ),
)
def test_every_plain_value_is_read_as_it_was_written(
    plain: dict[str, Any], how: dict[str, bool]
) -> None:
    assert same(plain_of(emit(plain, **how)), plain)


def plain_of(text: str) -> Any:
    composed = compose(text, "text", Limits(depth=1_000))
    assert not composed.problems
    return composed.root.plain


def test_long_lines_are_not_folded_and_long_keys_are_kept() -> None:
    graph = Graph("x", [Node("a", "f", metadata={"k" * 500: "word " * 500, "l": ["w" * 300]})])
    text = dump_yaml(graph)
    assert load_yaml(text) == graph
    assert "word " * 499 in text


def test_a_lone_surrogate_survives() -> None:
    graph = Graph("x", [Node("a", "f", description="\ud800!")])
    assert load_yaml(dump_yaml(graph).encode()) == graph


def test_a_policy_that_holds_python_objects_has_no_text() -> None:
    config = DagConfig(retry_strategy=RetryPolicy(retry_on=OSError))
    with pytest.raises(EncodingError, match="give it to the action"):
        dump_yaml(Graph("x", config=config))
