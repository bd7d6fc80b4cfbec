"""The plain form of a graph: JSON types only, exact, strict, and told apart by path."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from dagger_dsl.errors import EncodingError, Place, ValidationError
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.document import (
    MAX_PROBLEMS,
    graph_from_plain,
    graph_to_plain,
    node_from_plain,
    node_to_plain,
    path_text,
    read_graph,
)
from dagger_dsl.model.graph import Edge, Graph, GraphInput, Input, Node, Output
from dagger_dsl.model.policies import OnFailure, RetryPolicy
from tests.benchmarks.measure import timed, within
from tests.scale import count
from tests.yamlio.graphs import graphs


def of_node(**keys: Any) -> dict[str, Any]:
    """Return the plain form of a graph with one node of these keys."""
    return {"name": "x", "nodes": [{"id": "a", "action": "f", **keys}]}


# Exactness.


@settings(
    max_examples=count(1_000),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(graphs())
def test_every_graph_comes_back_equal_through_json(graph: Graph) -> None:
    plain = graph_to_plain(graph)
    back = graph_from_plain(json.loads(json.dumps(plain, allow_nan=False)))
    assert back == graph
    assert hash(back) == hash(graph)
    assert graph_to_plain(back) == plain
    # What equality leaves out comes back too.
    assert list(back.nodes) == list(graph.nodes)
    for name, node in graph.nodes.items():
        assert back.nodes[name].dependencies == node.dependencies
        assert node_from_plain(node_to_plain(node)) == node


def test_defaults_are_left_out_and_the_documents_keys_are_used() -> None:
    assert graph_to_plain(Graph("x")) == {"name": "x", "nodes": []}
    assert node_to_plain(Node("a", "f")) == {"id": "a", "action": "f"}
    node = Node("b", "f", [Input("x", "a.result")], ["out"], timeout=30, on_failure="continue")
    assert node_to_plain(node) == {
        "id": "b",
        "action": "f",
        "dependencies": ["a"],
        "inputs": [{"name": "x", "reference": "a.result"}],
        "outputs": [{"name": "out"}],
        "onfailure": "continue",
        "timeout": 30,
    }


@pytest.mark.row("A13")
def test_unlabelled_edges_become_dependencies_and_labelled_ones_stay() -> None:
    graph = Graph("x", [Node("a", "f"), Node("b", "f")], [Edge("a", "b"), Edge("a", "b", "eu")])
    plain = graph_to_plain(graph)
    assert plain["nodes"][1]["dependencies"] == ["a"]
    assert plain["edges"] == [{"source": "a", "target": "b", "when": "eu"}]


def test_a_literal_that_looks_like_a_reference_stays_a_literal() -> None:
    node = Node("a", "f", [Input("x", value={"$ref": "inputs.y"})])
    plain = node_to_plain(node)
    assert plain["inputs"][0]["value"] == {"$type": "map", "$value": [["$ref", "inputs.y"]]}
    assert node_from_plain(plain) == node
    assert node_from_plain(
        {"id": "a", "action": "f", "inputs": {"x": {"$ref": "inputs.y"}, "z": 1}}
    ) == Node("a", "f", [Input("x", "inputs.y"), Input("z", value=1)])


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("default", [{}, {"default": 3}, {"default": None}])
def test_whether_an_input_is_required_comes_back(required: bool, default: dict[str, Any]) -> None:
    given_input = GraphInput("x", required=required, **default)
    assert graph_from_plain(graph_to_plain(Graph("x", inputs=[given_input]))).inputs == {
        "x": given_input
    }


@pytest.mark.row("A14")
def test_a_config_keeps_which_fields_were_given() -> None:
    for config in (None, DagConfig(), DagConfig(max_attempts=1), DagConfig(keep_days=None)):
        back = graph_from_plain(graph_to_plain(Graph("x", config=config))).config
        assert back == config
        assert back is None or config is None or back.given == config.given


def test_python_objects_in_a_policy_have_no_plain_form() -> None:
    config = DagConfig(retry_strategy=RetryPolicy(retry_on=(ValueError,)))
    with pytest.raises(EncodingError, match="no stored form"):
        graph_to_plain(Graph("x", config=config))


@pytest.mark.row("G14")
def test_how_a_node_maps_stands_in_its_plain_form() -> None:
    node = Node("a", "f", map_over="x", max_parallel=3, map_depth=2, map_errors="collect")
    assert node_to_plain(node) == {
        "id": "a",
        "action": "f",
        "map_over": "x",
        "max_parallel": 3,
        "map_depth": 2,
        "map_errors": "collect",
    }


# Problems.

WRONG: list[tuple[dict[str, Any], str, str]] = [
    (of_node(dependencies="b"), "$.nodes[0].dependencies", "must be a list, not the text 'b'"),
    (of_node(dependencies=[1]), "$.nodes[0].dependencies[0]", "the number 1; put it in quotes"),
    (of_node(timeout=-1), "$.nodes[0].timeout", "more than 0"),
    (of_node(timeout=0), "$.nodes[0].timeout", "more than 0"),
    (of_node(timeout=True), "$.nodes[0].timeout", "not the boolean true"),
    (of_node(timeout=float("inf")), "$.nodes[0].timeout", "finite"),
    (of_node(timeout=10**400), "$.nodes[0].timeout", "finite"),
    (of_node(timeout="3"), "$.nodes[0].timeout", "seconds, a number, not the text '3'"),
    (of_node(try_count="abc"), "$.nodes[0].try_count", "whole number of at least 1"),
    (of_node(try_count=2.0), "$.nodes[0].try_count", "not the number 2.0"),
    (of_node(try_count=True), "$.nodes[0].try_count", "not the boolean true"),
    (of_node(max_parallel=0), "$.nodes[0].max_parallel", "at least 1"),
    (of_node(map_over="x", map_depth=0), "$.nodes[0].map_depth", "at least 1"),
    (of_node(map_over=3), "$.nodes[0].map_over", "must be text"),
    (of_node(map_over="x", map_errors="skip"), "$.nodes[0]", "'fail' or 'collect', not 'skip'"),
    (of_node(map_depth=2), "$.nodes[0]", "say how map_over is done"),
    (of_node(map_errors="fail"), "$.nodes[0]", "say how map_over is done"),
    (of_node(enabled=1), "$.nodes[0].enabled", "true or false, not the number 1"),
    (of_node(keep="no"), "$.nodes[0].keep", "true or false"),
    (of_node(failure=""), "$.nodes[0].failure", "must not be empty"),
    (of_node(description=3), "$.nodes[0].description", "put it in quotes"),
    (of_node(onfailure=1), "$.nodes[0].onfailure", "one of 'stop'"),
    (of_node(onfailure=[]), "$.nodes[0].onfailure", "one of 'stop'"),
    (of_node(trigger="never"), "$.nodes[0].trigger", "one of 'success'"),
    (of_node(effects=3), "$.nodes[0].effects", "one of 'at_least_once'"),
    (of_node(cache_strategy={"ttl": 0}), "$.nodes[0].cache_strategy", "more than 0"),
    (of_node(cache_strategy={"custom": ""}), "$.nodes[0].cache_strategy", "not be empty"),
    (of_node(retry=-1), "$.nodes[0].retry", "at least 0"),
    (of_node(retry=True), "$.nodes[0].retry", "the boolean true"),
    (of_node(retry="often"), "$.nodes[0].retry", "'immediate', 'exponential'"),
    (of_node(retry={"base_delay": "1"}), "$.nodes[0].retry.base_delay", "seconds"),
    (of_node(retry={"retry_on": [3]}), "$.nodes[0].retry.retry_on", "category names"),
    (of_node(retry={"retry_on": "oops"}), "$.nodes[0].retry.retry_on", "no category 'oops'"),
    (of_node(retry={"max_attempts": 2, "max_retries": 1}), "$.nodes[0].retry", "not both"),
    (of_node(retry={"attempts": 2}), "$.nodes[0].retry.attempts", "did you mean 'max_attempts'"),
    (of_node(metadata=[1]), "$.nodes[0].metadata", "a mapping of keys, not a list"),
    (of_node(metadata={"$type": "set", "$value": []}), "$.nodes[0].metadata", "mapping"),
    (of_node(inputs=3), "$.nodes[0].inputs", "must be a list"),
    (of_node(inputs=[3]), "$.nodes[0].inputs[0]", "a mapping of keys, not the number 3"),
    (of_node(inputs=[{"name": 3, "value": 1}]), "$.nodes[0].inputs[0].name", "a text"),
    (of_node(inputs=[{"name": "x"}]), "$.nodes[0].inputs[0]", "needs a reference or a value"),
    (
        of_node(inputs=[{"name": "x", "value": {"$ref": 3}}]),
        "$.nodes[0].inputs[0].value",
        "a reference is written",
    ),
    (
        of_node(inputs=[{"name": "x", "value": {"$type": "?", "$value": 1}}]),
        "$.nodes[0].inputs[0].value",
        "does not know the stored type",
    ),
    (of_node(inputs={"": 1}), "$.nodes[0].inputs['']", "needs a name"),
    (of_node(outputs=["o", "o"]), "$.nodes[0].outputs[1]", "declared twice"),
    (of_node(outputs=[{"name": "o", "type": "int"}]), "$.nodes[0].outputs[0].type", "no key"),
    (of_node(timout=3), "$.nodes[0].timout", "did you mean 'timeout'"),
    (of_node(on_failure="stop", onfailure="stop"), "$.nodes[0].on_failure", "drop one"),
    (of_node(id=None), "$.nodes[0].id", "not nothing"),
    (of_node(action=""), "$.nodes[0].action", "must not be empty"),
    ({"name": "x", "nodes": None}, "$.nodes", "must be a list, not nothing"),
    ({"name": "", "nodes": []}, "$.name", "must not be empty"),
    ({"name": "x" * 201, "nodes": []}, "$.name", "1 to 200 characters"),
    ({"name": "x\0", "nodes": []}, "$.name", "no NUL"),
    ({"name": "x", "nodes": [], "tags": {"a": 1}}, "$.tags", "must be a list"),
    ({"name": "x", "nodes": [], "config": 3}, "$.config", "a mapping of keys"),
    ({"name": "x", "nodes": [], "config": {"max_attempts": True}}, "$.config.max_attempts", "True"),
    ({"name": "x", "nodes": [], "config": {"attempts": 1}}, "$.config.attempts", "no key"),
    ({"name": "x", "nodes": [], "inputs": [3]}, "$.inputs[0]", "needs a name"),
    ({"name": "x", "nodes": [], "inputs": ["a", "a"]}, "$.inputs[1]", "declared twice"),
    ({"name": "x", "nodes": [], "inputs": {"a": {"schema": 3}}}, "$.inputs.a.schema", "JSON"),
    ({"name": "x", "nodes": [], "inputs": {"a": {"required": 1}}}, "$.inputs.a.required", "true"),
    ({"name": "x", "nodes": [], "inputs": {"a": {"type": "int"}}}, "$.inputs.a.type", "no key"),
    ({"name": "x", "nodes": [], "edges": ["a"]}, "$.edges[0]", "{source: a, target: b}"),
    ({**of_node(), "edges": [["a", "b"]]}, "$.edges[0][1]", "'b' is not a node"),
    ({**of_node(), "edges": [{"source": "a"}]}, "$.edges[0]", "target"),
    (
        {**of_node(), "edges": [{"source": "a", "target": "a", "when": 3}]},
        "$.edges[0].when",
        "must be text",
    ),
]


@pytest.mark.parametrize(("plain", "path", "message"), WRONG, ids=[each[1] for each in WRONG])
def test_a_wrong_value_is_named_by_its_path(plain: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        graph_from_plain(plain)
    assert [each.place.path for each in caught.value.problems] == [path]
    assert message in str(caught.value)


@pytest.mark.parametrize("plain", [None, 3, "text", [], [{"name": "x"}]])
def test_what_is_no_mapping_is_no_workflow(plain: Any) -> None:
    with pytest.raises(ValidationError, match="a workflow is a mapping"):
        graph_from_plain(plain)


def test_all_problems_come_at_once_and_carry_the_node() -> None:
    plain = {
        "nodes": [
            {"id": "a", "action": "f", "timeout": -1, "dependencies": ["c"]},
            {"id": "a", "inputs": [{"name": "x", "reference": "a.nothing"}]},
        ],
        "edges": [["a", "z"]],
    }
    graph, problems = read_graph(plain)
    assert graph is None
    assert [(each.code, each.place.path, each.place.node) for each in problems] == [
        ("bad-value", "$.nodes[0].timeout", "a"),
        ("missing-key", "$.nodes[1]", "a"),
        ("duplicate-node", "$.nodes[1].id", "a"),
        ("missing-key", "$", None),
        ("unknown-dependency", "$.edges[0][1]", None),
        ("unknown-dependency", "$.nodes[0].dependencies[0]", "a"),
    ]


def test_places_come_from_whoever_knows_them() -> None:
    asked: list[tuple[Any, bool]] = []

    def locate(path: Any, key: bool) -> Place:
        asked.append((path, key))
        return Place("flow.yaml", len(path) + 1, 7)

    plain = of_node(timout=3, keep="x")
    _, problems = read_graph(plain, locate=locate)
    assert asked == [(("nodes", 0, "timout"), True), (("nodes", 0, "keep"), False)]
    assert [str(each)[:16] for each in problems] == ["flow.yaml:4:7: n"] * 2


def test_unknown_keys_are_warnings_unless_strict() -> None:
    graph, problems = read_graph({**of_node(colour="red"), "owner": "me"}, strict=False)
    assert graph == Graph("x", [Node("a", "f")])
    assert {(each.code, each.severity) for each in problems} == {("unknown-key", "warning")}
    assert read_graph(of_node(colour="red"))[0] is None


def test_links_are_looked_at_only_where_asked() -> None:
    plain = of_node(dependencies=["gone"])
    assert read_graph(plain)[0] is None
    assert graph_from_plain(plain).nodes["a"].dependencies == ("gone",)


def test_halt_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="'halt' is an old word"):
        graph = graph_from_plain(of_node(onfailure="Halt"))
    assert graph.nodes["a"].on_failure is OnFailure.STOP


def test_null_means_left_out_for_what_may_be_left_out() -> None:
    node = node_to_plain(
        Node("a", "f", [Input("x", "inputs.x")], [Output("o")], timeout=3, metadata={"k": 1})
    )
    plain = {key: None for key in node if key not in ("id", "action")}
    assert node_from_plain({"id": "a", "action": "f", **plain}) == Node("a", "f")


def test_many_problems_are_counted_not_listed() -> None:
    plain = {"name": "x", "nodes": [{"id": f"n{i}", "action": "f", "odd": 1} for i in range(500)]}
    for strict in (True, False):
        graph, problems = read_graph(plain, strict=strict)
        assert (graph is None) is strict
        assert len(problems) == MAX_PROBLEMS + 1
        assert problems[-1].message.startswith("and 400 more")


def test_long_values_do_not_make_long_messages() -> None:
    _, problems = read_graph(of_node(trigger="x" * 1_000_000, **{"y" * 1_000_000: 1}))
    assert all(len(each.message) < 2_000 for each in problems)


def test_paths_are_written_like_json_paths() -> None:
    assert path_text(()) == "$"
    assert path_text(("nodes", 2, "retry")) == "$.nodes[2].retry"
    assert path_text(("nodes", 0, "inputs", "a b")) == "$.nodes[0].inputs['a b']"


# Cost.


@pytest.mark.benchmark
def test_a_hundred_thousand_nodes_become_plain_in_time() -> None:
    size = 100_000
    nodes = [Node("n0", "f")]
    nodes += [
        Node(f"n{i}", "f", [Input("x", f"n{i - 1}.result")], timeout=3) for i in range(1, size)
    ]
    graph = Graph("long", nodes)
    plain = graph_to_plain(graph)
    assert graph_from_plain(plain) == graph
    there, most_there = within(timed(lambda: graph_to_plain(graph)), 1.5)
    again, most_again = within(timed(lambda: graph_from_plain(plain)), 6)
    assert there < most_there
    assert again < most_again


def test_it_needs_no_library_but_attrs() -> None:
    heavy = ("ruamel", "cattrs", "orjson", "sqlalchemy", "tenacity", "rich", "asyncio")
    code = (
        "import sys, dagger_dsl.model.document\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
