"""Hypothesis strategies for whole graphs, every field of the IR among them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from hypothesis import strategies as st

from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import RESERVED_IDS, Edge, Graph, GraphInput, Input, Node, Output
from dagger_dsl.model.policies import (
    CATEGORIES,
    Backoff,
    CacheStrategy,
    Effects,
    HumanTimeoutAction,
    OnFailure,
    RetryPolicy,
    RetryStrategy,
    Trigger,
)

#: Characters and words that YAML has plans for.
NASTY = " \n\t-:#?,[]{}&*!|>'\"%@`a1.e_~=<\r\x85\u2028\ufeff\x00\x07é\u4e2d\U0001f600"
WORDS = (
    *("yes", "no", "on", "off", "y", "n", "true", "False", "null", "~", "", "1", "-1", "1e3"),
    *("0x1F", "0o7", "017", "1_000", "12:30", "1.5", ".inf", "-.INF", ".nan", "2023-13-45"),
    *("2023-01-01T00:00:00Z", "<<", "=", "-", "?", ":", "- a", "a: b", "a #b", "#a", "---", "..."),
    *("%TAG", "!!str a", "&a", "*a", "|", ">", "@a", "`a", "'", '"', " a", "a ", "a\n", "\na"),
    *("a\n\n", "a\nb", "  a\nb", "a\n  b\nc\n", "a \nb", "a\tb\nc", "$ref", "$type", "[a]", "{a}"),
)


def texts(max_size: int = 20) -> st.SearchStrategy[str]:
    """Return any text, YAML's own signs among them more often than by chance."""
    return st.one_of(
        st.sampled_from(WORDS).filter(lambda word: len(word) <= max_size),
        st.text(NASTY, max_size=min(max_size, 10)),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=max_size),
        st.text("ab \n:é", max_size=max_size),
    )


def prose(max_size: int = 20) -> st.SearchStrategy[str]:
    """Return what people may write about a graph: any text without NUL."""
    return texts(max_size).map(lambda text: text.replace("\0", ""))


words = prose().filter(bool)
ids = texts(12).filter(
    lambda text: bool(text) and "." not in text and "\0" not in text and text not in RESERVED_IDS
)
durations = st.one_of(
    st.integers(1, 10_000), st.floats(1e-6, 1e9, allow_nan=False, allow_infinity=False)
)
_scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts(),
    st.binary(max_size=8),
    st.datetimes(timezones=st.just(dt.UTC)),
    st.timedeltas(),
)


def values() -> st.SearchStrategy[Any]:
    """Return values of the codec, tagged ones and odd keys among them."""
    return st.recursive(
        _scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(texts(), inner, max_size=3),
            st.dictionaries(st.one_of(st.integers(), texts(), st.booleans()), inner, max_size=3),
            st.fixed_dictionaries({"$ref": inner}),
            st.fixed_dictionaries({"$type": inner, "$value": inner}),
        ),
        max_leaves=8,
    )


counts = st.integers(1, 1_000)
attempts = st.none() | counts
retries = st.one_of(
    st.sampled_from((RetryStrategy.IMMEDIATE, RetryStrategy.linear(3), RetryPolicy())),
    st.builds(
        lambda waits, **fields: RetryPolicy(base_delay=waits[0], max_delay=waits[1], **fields),
        st.tuples(durations, durations).map(sorted),
        max_attempts=attempts,
        multiplier=st.floats(1, 100),
        backoff=st.sampled_from(Backoff),
        jitter=durations,
        retry_on=st.lists(st.sampled_from(CATEGORIES), max_size=3).map(tuple),
    ),
)
_chosen = st.none() | st.lists(words, min_size=1, max_size=3, unique=True)
caches = st.one_of(
    st.just(CacheStrategy.NEVER),
    st.builds(lambda inputs: CacheStrategy.always(inputs=inputs), _chosen),
    st.builds(lambda age, inputs: CacheStrategy.ttl(age, inputs=inputs), durations, _chosen),
    st.builds(CacheStrategy.custom, words, st.none() | durations),
)
#: How a node maps over an input: how deep it goes and what becomes of failures goes with that only.
mapping = st.fixed_dictionaries(
    {"map_over": words},
    optional={
        "map_depth": st.integers(1, 100),
        "map_errors": st.sampled_from(("fail", "collect")),
        "map_batch": st.integers(1, 1_000_000),
    },
)
_CONFIG: dict[str, st.SearchStrategy[Any]] = {
    "max_attempts": counts,
    "on_failure": st.sampled_from(OnFailure),
    "timeout_seconds": st.none() | durations,
    "max_parallel_nodes": attempts,
    "enable_parallel_execution": st.booleans(),
    "retry_strategy": retries,
    "human_wait_minutes": st.none() | durations,
    "human_timeout_action": st.sampled_from(HumanTimeoutAction),
    "max_tokens": attempts,
    "max_iterations": attempts,
    "max_growth_depth": attempts,
    "review_frequency": attempts,
    "enable_incremental_cache": st.booleans(),
    "cache_snapshot_interval": durations,
    "flush_interval": durations,
    "max_crashes": counts,
    "shutdown_grace": durations,
    "keep_runs": attempts,
    "keep_days": st.none() | durations,
    "on_missing": st.sampled_from(("error", "null")),
}
configs = st.fixed_dictionaries({}, optional=_CONFIG).map(lambda fields: DagConfig(**fields))
outputs = st.lists(
    st.builds(Output, words, prose()), max_size=3, unique_by=lambda output: output.name
)
graph_inputs = st.lists(
    st.builds(
        GraphInput,
        ids,
        schema=st.none() | st.dictionaries(texts(), values(), max_size=2),
        default=values(),
        required=st.booleans(),
        description=prose(),
    ),
    max_size=3,
    unique_by=lambda given: given.name,
)


def _references(draw: st.DrawFn, earlier: list[Node]) -> st.SearchStrategy[str]:
    params = words.map(lambda name: f"inputs.{name}")
    if not earlier:
        return params
    source = draw(st.sampled_from(earlier))
    names = [output.name for output in source.outputs] or ["result"]
    return params | st.sampled_from([f"{source.id}.{name}" for name in names])


@st.composite
def nodes(draw: st.DrawFn, node_id: str, earlier: list[Node]) -> Node:
    """Return a node of any kind that waits for some of the *earlier* ones."""
    inputs = []
    for name in draw(st.lists(words, max_size=2, unique=True)):
        note = draw(prose())
        if draw(st.booleans()):
            inputs.append(Input(name, draw(_references(draw, earlier)), description=note))
        else:
            inputs.append(Input(name, value=draw(values()), description=note))
    known = [node.id for node in earlier]
    fields: dict[str, st.SearchStrategy[Any]] = {
        "outputs": outputs,
        "dependencies": st.lists(st.sampled_from(known), unique=True) if known else st.just([]),
        "timeout": durations,
        "try_count": counts,
        "on_failure": st.sampled_from(OnFailure),
        "failure": words,
        "description": prose(300),
        "instructions": prose(300),
        "retry": retries,
        "cache_strategy": caches,
        "trigger": st.sampled_from(Trigger),
        "metadata": st.dictionaries(texts(), values(), max_size=3),
        "max_parallel": counts,
        "effects": st.sampled_from(Effects),
        "branch": words,
        "keep": st.booleans(),
        "enabled": st.booleans(),
        "fallback": words,
        "subgraph": words,
    }
    chosen = draw(st.fixed_dictionaries({}, optional=fields))
    if draw(st.booleans()):
        chosen |= draw(mapping)
    return Node(node_id, draw(words), inputs, **chosen)


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 4) -> Graph:
    """Return any graph without cycles."""
    made: list[Node] = []
    for node_id in draw(st.lists(ids, max_size=max_nodes, unique=True)):
        made.append(draw(nodes(node_id, made)))
    edges = []
    if len(made) > 1 and draw(st.booleans()):
        target = draw(st.integers(1, len(made) - 1))
        source = draw(st.integers(0, target - 1))
        label = draw(st.none() | words)
        edges.append(Edge(made[source].id, made[target].id, label))
    return Graph(
        draw(words),
        made,
        edges,
        description=draw(prose(100)),
        config=draw(st.none() | configs),
        tags=draw(st.frozensets(words, max_size=3)),
        author=draw(prose()),
        version=draw(prose()),
        signature=draw(prose()),
        instructions=draw(prose()),
        inputs=draw(graph_inputs),
    )
