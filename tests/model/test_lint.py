"""Lint: certain remarks only, every one of them, and in near-linear time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import CycleError, DependencyNotFound, Problem
from dagger_dsl.model.graph import Edge, Graph, GraphInput, Input, Node
from dagger_dsl.model.lint import lint
from dagger_dsl.model.policies import RetryPolicy, Trigger
from dagger_dsl.registry import Registry
from tests.scale import count


def node(node_id: str, *after: str, take: Iterable[str] = (), **fields: Any) -> Node:
    """Return a node that waits for *after* and takes the values *take* refers to."""
    inputs = [Input(f"x{k}", reference) for k, reference in enumerate(take)]
    return Node(node_id, fields.pop("action", "f"), inputs, dependencies=after, **fields)


def remarks(graph: Graph, registry: Any = None) -> list[tuple[str, str]]:
    return [(each.code, str(each)) for each in graph.lint(registry)]


def codes(*args: Any) -> list[str]:
    return [code for code, _ in remarks(*args)]


def timed(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


# Dependencies.


@pytest.mark.row("B49")
def test_a_dependency_that_another_one_implies_is_a_warning() -> None:
    graph = Graph("g", [node("a"), node("b", take=["a.result"]), node("c", "a", take=["b.result"])])
    assert remarks(graph) == [
        ("redundant-edge", "node 'c': waits for 'a' anyway, through 'b'; drop the dependency")
    ]
    assert graph.lint()[0].severity == "warning"
    assert graph.lint() == lint(graph)


@pytest.mark.row("B49")
def test_a_dependency_without_data_is_a_note_and_one_with_data_is_none() -> None:
    found = Graph("g", [node("a"), node("b", "a")]).lint()
    assert [(each.code, each.severity) for each in found] == [("order-only", "note")]
    assert "takes nothing from it" in str(found[0])
    assert Graph("g", [node("a"), node("b", take=["a.result"])]).lint() == []


def test_an_edge_with_data_or_a_label_is_never_redundant() -> None:
    chain = [node("a"), node("b", take=["a.result"])]
    assert codes(Graph("g", [*chain, node("c", take=["a.result", "b.result"])])) == []
    labelled = Graph("g", [*chain, node("c", "a", take=["b.result"])], [Edge("a", "c", "true")])
    assert codes(labelled) == []


@pytest.mark.parametrize("trigger", [each for each in Trigger if each is not Trigger.SUCCESS])
def test_edges_of_joins_count_each_by_itself(trigger: Trigger) -> None:
    join = node("c", "a", "b", trigger=trigger)
    assert codes(Graph("g", [node("a"), node("b", take=["a.result"]), join])) == []
    # A join runs although its dependency failed, so it implies nothing to whoever waits for it.
    middle = node("b", take=["a.result"], trigger=trigger)
    after = node("c", "a", take=["b.result"])
    assert codes(Graph("g", [node("a"), middle, after])) == ["order-only"]


def test_the_nearest_dependency_is_named() -> None:
    nodes = [node("a"), node("b", "a"), node("c", "b"), node("d", "a", "b", "c")]
    found = [text for code, text in remarks(Graph("g", nodes)) if code == "redundant-edge"]
    assert [text.split(": ")[1].split(";")[0] for text in found] == [
        "waits for 'a' anyway, through 'c'",
        "waits for 'b' anyway, through 'c'",
    ]


def test_what_cannot_run_at_all_is_raised() -> None:
    with pytest.raises(CycleError):
        Graph("g", [node("a", "b"), node("b", "a")]).lint()
    with pytest.raises(DependencyNotFound, match="did you mean 'load'"):
        Graph("g", [node("load"), node("b", "laod")]).lint()


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Return a graph without cycles, with every trigger, labels and data here and there."""
    size = draw(st.integers(2, 8))
    nodes, edges = [], []
    for i in range(size):
        sources = draw(st.sets(st.integers(0, i - 1), max_size=4)) if i else set()
        labels = {each: draw(st.sampled_from([None, None, "true", "false"])) for each in sources}
        trigger = draw(st.sampled_from([*[Trigger.SUCCESS] * 4, *Trigger]))
        plain = [each for each in sources if labels[each] is None]
        data = [each for each in plain if draw(st.integers(0, 3)) == 0]
        nodes.append(
            node(
                f"n{i}",
                *(f"n{each}" for each in plain),
                take=[f"n{each}.result" for each in data],
                trigger=trigger,
                on_failure=draw(st.sampled_from(["stop", "continue", "continue"])),
            )
        )
        edges += [Edge(f"n{s}", f"n{i}", label) for s, label in labels.items() if label]
    return Graph("g", draw(st.permutations(nodes)), edges)


def plays(data: st.DataObject, graph: Graph) -> dict[str, Any]:
    """Return an outcome for every node: ends of all kinds, one label for each branch."""
    branches = {edge.source for edge in graph.labelled}
    flags, words = st.sampled_from([True, False, "fail"]), st.sampled_from(["ok", "fail"])
    return {each: data.draw(flags if each in branches else words) for each in graph.nodes}


def without(graph: Graph, target: str, source: str) -> Graph:
    nodes = dict(graph.nodes)
    kept = [each for each in nodes[target].dependencies if each != source]
    nodes[target] = nodes[target].replace(dependencies=kept)
    return graph.replace(nodes=nodes)


@given(st.data())
def test_dropping_what_is_redundant_changes_nothing(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    outcomes = plays(data, graph)
    before = graph.simulate(outcomes, slots=None)
    for problem in graph.lint():
        if problem.code == "redundant-edge":
            source = problem.message.split("'")[1]
            assert problem.place.node is not None
            after = without(graph, problem.place.node, source).simulate(outcomes, slots=None)
            assert (after.states, after.waves) == (before.states, before.waves)


@given(st.data())
def test_what_never_runs_never_runs(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    played = graph.simulate(plays(data, graph))
    for problem in graph.lint():
        if problem.code == "never-runs":
            assert problem.place.node not in played.starts


@given(graphs())
def test_every_redundant_edge_is_found(graph: Graph) -> None:
    before = {each: set(graph.dependencies_of(each)) for each in graph.nodes}

    def implies(name: str) -> set[str]:
        found = {name}
        if graph.nodes[name].trigger is Trigger.SUCCESS:
            for each in before[name]:
                found |= implies(each)
        return found

    labelled = {(edge.source, edge.target) for edge in graph.labelled}
    expected = {
        (name, source)
        for name, each in graph.nodes.items()
        if each.trigger is Trigger.SUCCESS
        for source in each.dependencies
        if (source, name) not in labelled
        and f"{source}.result" not in {given.reference for given in each.inputs}
        and any(source in implies(other) for other in before[name] - {source})
    }
    found = {
        (each.place.node, each.message.split("'")[1])
        for each in graph.lint()
        if each.code == "redundant-edge"
    }
    assert found == expected


# Branches.


def diamond(*, join: str = "success", labels: tuple[str, str] = ("true", "false")) -> Graph:
    nodes = [node("check"), node("yes"), node("no"), node("join", "yes", "no", trigger=join)]
    edges = [Edge("check", "yes", labels[0]), Edge("check", "no", labels[1])]
    return Graph("g", [*nodes, node("after", take=["join.result"])], edges)


def test_a_plain_join_of_both_branches_of_a_condition_never_runs() -> None:
    found = [text for code, text in remarks(diamond()) if code == "never-runs"]
    (only,) = found
    assert only == (
        "node 'join': never runs: it needs 'check' to answer 'true' and 'false'; "
        "branches are joined with trigger 'any' or 'none_failed'"
    )
    for trigger in ("any", "none_failed", "done", "failed"):
        assert "never-runs" not in codes(diamond(join=trigger))


def test_whether_two_labels_can_be_given_together_is_the_annotations_to_say() -> None:
    def flag() -> bool:
        return True

    def one() -> Literal["eu", "us"]:
        return "eu"

    def text() -> str:
        return "eu"

    def several() -> list[str]:
        return ["eu", "us"]

    def untold():  # type: ignore[no-untyped-def]
        return "eu"

    graph = diamond(labels=("eu", "us"))
    for fn, never in ((one, True), (text, True), (several, False), (untold, False), (None, False)):
        known = Registry()
        if fn is not None:
            known.register(fn, "f")
        assert ("never-runs" in codes(graph, known)) is never, fn
    known = Registry()
    known.register(several, "f")
    assert "never-runs" not in codes(diamond(), known)  # it may answer ["true", "false"]
    known = Registry()
    known.register(flag, "f")
    assert "never-runs" in codes(diamond(), known)


def test_two_labels_on_edges_into_one_node_are_noticed() -> None:
    edges = [Edge("a", "b", "true"), Edge("a", "b", "false")]
    assert codes(Graph("g", [node("a"), node("b")], edges)) == ["never-runs"]


def test_many_conditions_are_told_apart() -> None:
    nodes, edges = [], []
    for i in range(50):
        nodes += [node(f"c{i}"), node(f"x{i}"), node(f"y{i}")]
        edges += [Edge(f"c{i}", f"x{i}", "true"), Edge(f"c{i}", f"y{i}", "false")]
    nodes.append(node("fine", *(f"x{i}" for i in range(50))))
    nodes.append(node("never", "x7", "y7"))
    found = [each for each in Graph("g", nodes, edges).lint() if each.code == "never-runs"]
    assert [(each.place.node, "'c7'" in each.message) for each in found] == [("never", True)]


def test_a_failed_trigger_without_dependencies_never_runs() -> None:
    assert codes(Graph("g", [node("a"), node("b", trigger="failed")])) == ["never-runs"]


def test_an_answer_that_no_edge_is_for_is_a_note() -> None:
    def route() -> Literal["eu", "us", "asia"]:
        return "eu"

    known = Registry()
    known.register(route, "f")
    graph = Graph("g", [node("route"), node("eu")], [Edge("route", "eu", "eu")])
    assert remarks(graph, known) == [
        ("label-leads-nowhere", "node 'route': no edges are for its answers 'asia', 'us'")
    ]
    both = Graph(
        "g",
        [node("route"), node("eu", trigger="any")],
        [Edge("route", "eu", label) for label in ("eu", "us")],
    )
    assert remarks(both, known) == [
        ("label-leads-nowhere", "node 'route': no edge is for its answer 'asia'")
    ]
    assert remarks(graph) == []


# Settings and values.


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"try_count": 3}, True),
        ({"try_count": 1, "retry": RetryPolicy(max_attempts=4)}, False),
        ({"retry": RetryPolicy(max_attempts=4)}, True),
        ({"retry": RetryPolicy(base_delay=1)}, False),
        ({}, False),
    ],
)
def test_retries_of_what_is_to_run_at_most_once_are_noticed(
    fields: dict[str, Any], found: bool
) -> None:
    graph = Graph("g", [node("a", effects="at_most_once", **fields)])
    assert codes(graph) == (["retried-at-most-once"] if found else [])
    assert codes(Graph("g", [node("a", **fields)])) == []


def test_what_an_action_says_of_retries_counts_where_the_node_says_nothing() -> None:
    known = Registry()
    known.register(lambda: None, "f", effects="at_most_once", try_count=2)
    assert codes(Graph("g", [node("a")]), known) == ["retried-at-most-once"]
    assert codes(Graph("g", [node("a", try_count=1)]), known) == []
    assert codes(Graph("g", [node("a")])) == []


def test_outputs_that_nobody_reads_are_a_note_where_others_are_read() -> None:
    two = node("a", outputs=["rows", "size", "log"])
    assert remarks(Graph("g", [two, node("b", take=["a.rows"])])) == [
        ("unread-output", "node 'a': no node reads its outputs 'size', 'log'")
    ]
    assert codes(Graph("g", [two])) == []  # the results of a sink are the run's
    assert codes(Graph("g", [two, node("b", take=["a.result"])])) == []  # the whole value
    assert codes(Graph("g", [two, node("b", take=["a.rows", "a.size", "a.log"])])) == []


def test_inputs_of_the_graph_that_nobody_uses_are_noticed() -> None:
    graph = Graph("g", [node("a", take=["inputs.x"])], inputs=[GraphInput("x"), GraphInput("y")])
    assert remarks(graph) == [("unused-input", "graph: no node uses inputs.y")]
    assert list(graph.validate().warnings) == graph.lint()  # whoever shows both can drop repeats


def test_remarks_come_in_declaration_order() -> None:
    nodes = [node("c", "b", "a"), node("b", "a"), node("a"), node("d", trigger="failed")]
    graph = Graph("g", nodes, inputs=[GraphInput("x")])
    found = graph.lint()
    assert [each.place.node for each in found] == ["c", "c", "b", "d", None]
    assert all(isinstance(each, Problem) for each in found)


# Time.


def ladder(layers: int, width: int) -> list[Node]:
    return [
        node(f"n{i}_{k}", *(f"n{i - 1}_{j}" for j in range(width) if i))
        for i, k in itertools.product(range(layers), range(width))
    ]


@pytest.mark.slow
def test_dense_graphs_are_linted_in_time() -> None:
    assert timed(lambda: Graph("g", ladder(40, 40)).lint()) < 2
    chain = [node(f"n{i}", *([f"n{i - 1}"] if i else [])) for i in range(2_000)]
    assert timed(lambda: Graph("g", chain).lint()) < 2
    rooted = [node("root")]
    rooted += [node(f"c{i}", *([f"c{i - 1}"] if i else []), "root") for i in range(3_000)]
    found = Graph("g", rooted).lint()
    assert sum(each.code == "redundant-edge" for each in found) == 2_999
    assert timed(lambda: Graph("g", rooted).lint()) < 2
    n = 500
    complete = Graph("g", [node(f"n{i}", *(f"n{j}" for j in range(i))) for i in range(n)])
    assert timed(complete.lint) < 2
    assert sum(each.code == "redundant-edge" for each in complete.lint()) == (n - 1) * (n - 2) // 2


@pytest.mark.slow
def test_a_large_graph_is_linted_in_some_seconds() -> None:
    n = count(100_000, least=10_000)
    nodes = [
        node(f"n{i}", *{f"n{i * 7919 * k % i}" for k in (1, 2, 3)} if i else ()) for i in range(n)
    ]
    graph = Graph("g", nodes)
    assert timed(graph.lint) < 12


def test_graphs_larger_than_one_sweep_are_swept_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("root")]
    nodes += [
        node(f"c{i}", *(f"c{j}" for j in range(max(0, i - 3), i)), "root") for i in range(3_000)
    ]
    graph = Graph("g", nodes)
    whole = graph.lint()
    monkeypatch.setattr("dagger_dsl.model.lint._SWEEP", 0)
    assert graph.lint() == whole
