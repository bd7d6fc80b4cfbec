"""The IR: identity, normal form, order."""

from __future__ import annotations

from typing import Any

import pytest

from dagger_dsl.errors import (
    ConfigurationError,
    CycleError,
    DependencyNotFound,
    EncodingError,
    NodeAlreadyExists,
    NodeNotFound,
    ValidationError,
)
from dagger_dsl.model.context import Branch
from dagger_dsl.model.graph import Edge, Graph, GraphInput, Input, Node, Output, split_reference
from dagger_dsl.model.policies import OnFailure, RetryPolicy, Trigger


def diamond() -> Graph:
    return Graph(
        "diamond",
        [
            Node("a", "act"),
            Node("c", "act", dependencies=["a"]),
            Node("b", "act", [Input("x", "a.result")]),
            Node("d", "act", dependencies=["b", "c"]),
        ],
    )


@pytest.mark.row("A1")
def test_two_nodes_of_one_id_are_refused_by_name() -> None:
    with pytest.raises(NodeAlreadyExists, match="'twin'") as caught:
        Graph("g", [Node("twin", "a"), Node("twin", "b")])
    assert isinstance(caught.value, ValidationError)
    assert caught.value.node_id == "twin"


@pytest.mark.row("A1")
@pytest.mark.parametrize(
    "name", ["", "a.b", "a\0b", "x" * 201, "inputs", "global", "human_input", 3]
)
def test_ids_that_cannot_be_referred_to_are_refused(name: Any) -> None:
    with pytest.raises(ValidationError):
        Node(name, "act")


@pytest.mark.parametrize("name", ["a", "x" * 200, "ümläut", "with space", "-", "yes"])
def test_every_other_id_is_accepted(name: str) -> None:
    assert Node(name, "act").id == name


@pytest.mark.row("A10", "A11", "A15", "A16", "A17", "A18")
def test_a_graph_keeps_what_people_wrote_about_it() -> None:
    graph = Graph(
        "g",
        description="does things",
        tags=["b", "a", "b"],
        author="someone",
        version="1.2",
        signature="",
    )
    assert (graph.name, graph.description, graph.author) == ("g", "does things", "someone")
    assert graph.tags == frozenset({"a", "b"})
    assert (graph.version, graph.signature) == ("1.2", "")
    assert Graph("g").version == ""


@pytest.mark.row("A12")
def test_nodes_are_read_in_declaration_order() -> None:
    assert list(diamond().nodes) == ["a", "c", "b", "d"]
    with pytest.raises(TypeError):
        diamond().nodes["e"] = Node("e", "act")  # type: ignore[index]


@pytest.mark.row("A13", "A5")
def test_edges_dependencies_and_references_are_one_set() -> None:
    graph = Graph(
        "g",
        [Node("a", "act"), Node("b", "act", [Input("x", "a.result")]), Node("c", "act")],
        [Edge("a", "b"), Edge("b", "c"), Edge("a", "c", when="true")],
    )
    assert graph.edges == (Edge("a", "b"), Edge("b", "c"), Edge("a", "c", "true"))
    assert graph.nodes["c"].dependencies == ("b",)
    assert graph.dependencies_of("c") == ("b", "a")


@pytest.mark.row("A3", "A13")
def test_a_reference_implies_its_dependency() -> None:
    written = Node("b", "act", [Input("x", "a.result")], dependencies=["a"])
    implied = Node("b", "act", [Input("x", "a.result")])
    assert written == implied
    assert hash(written) == hash(implied)
    assert implied.dependencies == ("a",)


def test_equality_does_not_hang_on_the_order_of_dependencies() -> None:
    assert Node("d", "act", dependencies=["b", "c"]) == Node("d", "act", dependencies=["c", "b"])


@pytest.mark.row("A39")
def test_the_order_is_first_in_first_out_with_ties_by_declaration() -> None:
    assert diamond().topological_order() == ["a", "c", "b", "d"]


@pytest.mark.row("A40")
def test_levels_put_the_middle_pair_together() -> None:
    assert diamond().levels() == [["a"], ["c", "b"], ["d"]]
    assert diamond().critical_path() == ["a", "b", "d"], "the first of equals"
    assert diamond().critical_path({"a": 1, "b": 1, "c": 5, "d": 1}) == ["a", "c", "d"]
    assert Graph("empty").levels() == []
    assert Graph("empty").critical_path() == []


@pytest.mark.row("A35")
def test_a_cycle_is_printed() -> None:
    graph = Graph("g", [Node("a", "act", dependencies=["b"]), Node("b", "act", dependencies=["a"])])
    with pytest.raises(CycleError, match=r"a -> b -> a|b -> a -> b") as caught:
        graph.topological_order()
    assert caught.value.path[0] == caught.value.path[-1]


@pytest.mark.row("A36")
def test_an_unknown_dependency_is_named_with_a_suggestion() -> None:
    graph = Graph("g", [Node("fetch", "act"), Node("b", "act", dependencies=["fetsh"])])
    with pytest.raises(DependencyNotFound, match="did you mean 'fetch'"):
        graph.topological_order()
    with pytest.raises(DependencyNotFound):
        Graph("g", [Node("a", "act")], [Edge("a", "nowhere")])


def test_sinks_are_what_nobody_waits_for() -> None:
    assert diamond().sinks() == ("d",)
    assert Graph("g", [Node("a", "act"), Node("b", "act")]).sinks() == ("a", "b")


@pytest.mark.row("A3", "A24", "A25")
def test_an_input_is_a_reference_or_a_literal() -> None:
    assert Input("x", "fetch.raw.deep").source == ("fetch", "raw.deep"), "split at the first dot"
    assert Input("x", "inputs.url").source == ("inputs", "url")
    assert Input("x", value=None).value is None
    for broken in (
        {},
        {"reference": "a.b", "value": 1},
        {"reference": "nodot"},
        {"reference": "."},
    ):
        with pytest.raises(ConfigurationError):
            Input("x", **broken)
    with pytest.raises(ConfigurationError):
        split_reference(3)  # type: ignore[arg-type]


def test_literals_are_frozen_on_entry() -> None:
    given = {"a": [1, 2]}
    taken = Input("x", value=given)
    given["a"].append(3)
    assert taken.value == {"a": [1, 2]}
    taken.value["a"].append(4)
    assert taken.value == {"a": [1, 2]}
    assert Input("x", value=1) != Input("x", value=True)
    assert Input("x", value=1) != Input("x", value=1.0)
    with pytest.raises(EncodingError):
        Input("x", value=object())


@pytest.mark.row("A23")
def test_inputs_and_outputs_carry_descriptions() -> None:
    node = Node("n", "act", [Input("x", value=1, description="in")], [Output("y", "out"), "z"])
    assert node.inputs[0].description == "in"
    assert [each.description for each in node.outputs] == ["out", ""]


@pytest.mark.row("A6", "A7")
@pytest.mark.parametrize(
    "fields",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "5"},
        {"try_count": 0},
        {"try_count": "abc"},
        {"try_count": True},
        {"try_count": 10**30},
        {"on_failure": "explode"},
        {"trigger": "sometimes"},
        {"effects": "twice"},
        {"dependencies": "node1"},
        {"enabled": "yes"},
        {"map_depth": 2},
        {"map_errors": "fail"},
        {"map_batch": 2},
        {"map_over": "x", "map_batch": 0},
        {"map_over": "x", "map_batch": 10**30},
        {"map_over": "x", "map_batch": "many"},
        {"map_over": "x", "map_depth": 0},
        {"map_over": "x", "map_depth": 101},
        {"map_over": "x", "map_depth": 10**30},
        {"map_over": "x", "max_parallel": 10**30},
        {"map_over": "x", "map_depth": 1.5},
        {"map_over": "x", "map_depth": True},
        {"map_over": "x", "map_errors": "skip"},
        {"retry": RetryPolicy(retry_on=ValueError)},
    ],
)
def test_impossible_fields_of_a_node_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, ValidationError)):
        Node("n", "act", **fields)


def test_a_node_is_changed_by_making_another() -> None:
    node = Node("n", "act", metadata={"team": "x"}, on_failure="continue", trigger="always")
    other = node.replace(timeout=3)
    assert (other.timeout, node.timeout) == (3.0, None)
    assert other.metadata == {"team": "x"}
    assert other.on_failure is OnFailure.CONTINUE
    assert other.trigger is Trigger.DONE


def test_graphs_are_equal_by_content_and_hashable() -> None:
    assert diamond() == diamond()
    assert hash(diamond()) == hash(diamond())
    assert diamond() != diamond().replace(author="x")
    assert diamond().replace(inputs=[GraphInput("x")]).inputs["x"].required
    assert "4 nodes" in repr(diamond())


def test_a_missing_node_is_named_with_a_suggestion() -> None:
    with pytest.raises(NodeNotFound, match="'e'"):
        diamond().node("e")


def test_long_chains_need_no_stack() -> None:
    nodes = [Node("n0", "act")]
    nodes += [Node(f"n{i}", "act", dependencies=[f"n{i - 1}"]) for i in range(1, 5000)]
    graph = Graph("long", nodes)
    assert len(graph.topological_order()) == 5000
    assert len(graph.levels()) == 5000
    assert len(graph.critical_path()) == 5000


@pytest.mark.parametrize("make", [Graph, lambda name: Node(name, "act"), GraphInput])
def test_names_are_valid_unicode_text(make: Any) -> None:
    with pytest.raises((ConfigurationError, ValidationError), match="not valid Unicode text"):
        make("half \ud800")
    assert make("whole \U0001f600")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nodes": [5]}, "a node is a Node, not 5"),
        ({"nodes": 5}, "nodes are a list"),
        ({"edges": [5]}, "an edge is an Edge, not 5"),
        ({"edges": "ab"}, "edges are a list"),
        ({"inputs": ["x"]}, "an input is a GraphInput"),
        ({"tags": "word"}, "tags are a list of words"),
        ({"tags": [5]}, "tags are a list of words"),
        ({"tags": ["\ud800"]}, "not valid Unicode text"),
        ({"description": 5}, "description is a text, not 5"),
        ({"author": 5}, "author is a text"),
        ({"version": 5}, "version is a text"),
        ({"instructions": "\udfff"}, "not valid Unicode text"),
        ({"config": {"max_attempts": 2}}, "config is a DagConfig"),
    ],
)
def test_parts_of_the_wrong_kind_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Graph("x", **fields)


def test_a_nodes_retry_is_a_policy() -> None:
    with pytest.raises(ConfigurationError, match="retry is a RetryPolicy, not 5"):
        Node("a", "act", retry=5)  # type: ignore[arg-type]


def test_wrong_names_are_shortened_in_messages() -> None:
    for make in (Graph, lambda name: Input(name, "x" * 100_000)):
        with pytest.raises(ConfigurationError) as caught:
            make("x" * 100_000)
        assert len(str(caught.value)) < 500


def test_an_input_is_secret_where_its_schema_says_so() -> None:
    assert not GraphInput("x").secret
    assert not GraphInput("x", {"type": "string"}).secret
    assert GraphInput("x", {"format": "secret"}).secret
    assert GraphInput("x", {"anyOf": [{"format": "secret"}, {"type": "null"}]}).secret


@pytest.mark.parametrize("label", [True, "eu", ["eu", "us"], ("eu",), []])
def test_a_branch_has_a_label_of_the_documented_kinds(label: Any) -> None:
    assert Branch(label).label == label


@pytest.mark.parametrize("label", [5, None, [1], {"eu"}, Branch("eu")])
def test_other_labels_are_refused_when_the_branch_is_made(label: Any) -> None:
    with pytest.raises(ConfigurationError, match="a text or a list of texts"):
        Branch(label)


@pytest.mark.parametrize(
    ("weights", "error", "says"),
    [
        (5, ConfigurationError, "weights are a mapping of node ids to seconds, not 5"),
        ({"a": "x"}, ConfigurationError, r"weights\['a'\] must be seconds or a timedelta"),
        ({"a": -1}, ConfigurationError, r"weights\['a'\] must be 0 or more finite seconds"),
        ({"zz": 1}, NodeNotFound, "node not found: 'zz'"),
    ],
)
def test_weights_that_are_none_are_refused(weights: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        diamond().critical_path(weights)


def test_fields_that_are_none_are_refused_with_those_that_could_be_meant() -> None:
    with pytest.raises(ConfigurationError, match=r"graph 'g' has no field 'nods'.*mean 'nodes'"):
        Graph("g").replace(nods=())
    with pytest.raises(ConfigurationError, match=r"node 'n' has no field 'time'.*mean 'timeout'"):
        Node("n", "act").replace(time=1)


@pytest.mark.parametrize("run", [5, "completed", {"a": []}, {"a": "done"}])
def test_what_gives_nodes_no_colours_is_refused(run: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"takes its colours from|state is one of"):
        diamond().to_dot(run)


@pytest.mark.parametrize("registry", [5, "actions", {"act": len}])
def test_what_has_no_actions_is_no_registry(registry: Any) -> None:
    graph = Graph("g", [Node("n", "act")])
    for look in (graph.validate, graph.lint):
        with pytest.raises(ConfigurationError, match=r"^registry "):
            look(registry)


def test_a_simulation_needs_a_registry_that_is_one() -> None:
    with pytest.raises(ConfigurationError, match="registry is a Registry"):
        Graph("g", [Node("n", "act")]).simulate(registry=5)
