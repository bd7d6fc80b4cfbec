"""Graphs are loaded, listed, found by name, version and tag, and changed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.dsl import DAG
from dagger_dsl.errors import (
    ConfigurationError,
    CycleError,
    DaggerError,
    DagNotFound,
    DependencyNotFound,
    NodeAlreadyExists,
    NodeNotFound,
    RegistryError,
    ValidationError,
    YamlError,
)
from dagger_dsl.executor import DagExecutor, DagMetadata
from dagger_dsl.model.commands import AddNode, AddNodes, NodeSpec, SetNodesEnabled, ref
from dagger_dsl.model.graph import Graph, Node
from dagger_dsl.store.cache import Cache

CUSTOMERS = """\
name: data_processing_pipeline
description: Process customer data with validation
author: Engineering Team
version: 1.0.0
signature: unique_signature
tags:
  - production
  - customer_data
  - etl
nodes:
  - id: validate_input
    action: validate_data
"""

NIGHTLY = """\
name: nightly
tags: [production]
nodes:
  - id: clean
    action: clean
"""

BROKEN = "name: broken\nnodes:\n  - id: [\n"


# --- loading -------------------------------------------------------------------------------------


@pytest.mark.row("A28")
def test_the_same_text_gives_equal_graphs_through_file_and_string(
    executor: DagExecutor, tmp_path: Path
) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_text(CUSTOMERS)
    assert executor.load_yaml_file(path) == executor.load_yaml_string(CUSTOMERS)
    assert executor.load_yaml_file(str(path)).name == "data_processing_pipeline"
    assert executor.list_dags() == ["data_processing_pipeline"]


@pytest.mark.row("A27")
def test_a_file_with_a_fault_is_refused_with_its_place(
    executor: DagExecutor, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BROKEN)
    with pytest.raises(YamlError) as caught:
        executor.load_yaml_file(path)
    place = caught.value.problems[0].place
    assert place.file == str(path)
    assert place.line is not None
    assert place.column is not None
    with pytest.raises(YamlError, match="cannot be read"):
        executor.load_yaml_file(tmp_path / "missing.yaml")
    assert executor.list_dags() == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two good files and a bad one."""
    (tmp_path / "a.yaml").write_text(CUSTOMERS)
    (tmp_path / "b.yml").write_text(NIGHTLY)
    (tmp_path / "c.yaml").write_text(BROKEN)
    (tmp_path / "readme.txt").write_text("not a workflow")
    return tmp_path


@pytest.mark.row("A29")
def test_a_folder_with_a_bad_file_is_refused_as_a_whole(
    executor: DagExecutor, folder: Path
) -> None:
    with pytest.raises(YamlError, match=r"c\.yaml"):
        executor.load_yaml_dir(folder)
    assert executor.list_dags() == []


@pytest.mark.row("A29")
def test_a_folder_loads_without_its_bad_file_when_asked_to(
    executor: DagExecutor, folder: Path
) -> None:
    graphs = executor.load_yaml_dir(folder, strict=False)
    assert executor.list_dags() == ["data_processing_pipeline", "nightly"]
    assert [graph.name for graph in graphs] == ["data_processing_pipeline", "nightly"]
    assert {problem.place.file for problem in graphs.problems} == {str(folder / "c.yaml")}


@pytest.mark.row("A30", "A31", "A42")
def test_several_graphs_are_listed_by_name(executor: DagExecutor) -> None:
    executor.load_yaml_string(NIGHTLY)
    executor.load_yaml_string(CUSTOMERS)
    assert executor.list_dags() == ["data_processing_pipeline", "nightly"]
    assert set(executor.graphs) == set(executor.dags) == set(executor.list_dags())
    assert executor.graphs["nightly"].tags == {"production"}
    with pytest.raises(TypeError):
        executor.graphs["nightly"] = Graph("x")  # type: ignore[index]


def test_graphs_and_dags_are_loaded_too(executor: DagExecutor) -> None:
    graph = executor.load(Graph("plain", [Node("a", "f")]))
    assert executor.get_dag("plain") is graph
    dag = DAG("drawn")

    @dag.node
    def first() -> int:
        return 1

    assert executor.add(dag).name == "drawn"
    assert executor.list_dags() == ["drawn", "plain"]
    with pytest.raises(ConfigurationError, match="a Graph or a DAG"):
        executor.load("plain.yaml")  # type: ignore[arg-type]


# --- finding -------------------------------------------------------------------------------------


@pytest.mark.row("A10", "A33")
def test_has_dag_answers_without_an_exception(executor: DagExecutor) -> None:
    executor.load_yaml_string(NIGHTLY)
    assert executor.has_dag("nightly")
    assert not executor.has_dag("hourly")
    assert not executor.has_dag("nightly@2")
    assert not executor.has_dag("")
    assert not executor.has_dag("@")


@pytest.mark.row("A16", "A34")
def test_metadata_equal_what_the_yaml_says(executor: DagExecutor) -> None:
    executor.load_yaml_string(CUSTOMERS)
    assert executor.get_dag_metadata("data_processing_pipeline") == DagMetadata(
        name="data_processing_pipeline",
        version="1.0.0",
        author="Engineering Team",
        description="Process customer data with validation",
        tags=frozenset({"production", "customer_data", "etl"}),
        signature="unique_signature",
    )


@pytest.mark.row("A15", "A32")
def test_tags_are_joined_by_and_unless_any_is_asked_for(executor: DagExecutor) -> None:
    executor.load_yaml_string(CUSTOMERS)
    executor.load_yaml_string(NIGHTLY)
    find = executor.list_dags_by_tags
    assert find(["production"]) == ["data_processing_pipeline", "nightly"]
    assert find(["customer_data", "etl"]) == ["data_processing_pipeline"]
    assert find(["production", "unheard_of"]) == []
    assert find(["etl", "unheard_of"], match="any") == ["data_processing_pipeline"]
    assert find([]) == ["data_processing_pipeline", "nightly"]
    with pytest.raises(ConfigurationError, match="a list of words"):
        find("production")
    with pytest.raises(ConfigurationError, match="'all' or 'any'"):
        find(["etl"], match="some")  # type: ignore[arg-type]


@pytest.mark.row("A52")
def test_a_missing_graph_is_named_with_those_that_are_loaded(executor: DagExecutor) -> None:
    with pytest.raises(DagNotFound, match="DAG not found: 'nightly'; load a file"):
        executor.get_dag("nightly")
    executor.load_yaml_string(NIGHTLY)
    for call in (
        executor.get_dag,
        executor.get_dag_metadata,
        executor.list_versions,
        executor.run,
        executor.serialize_tree_to_dot,
    ):
        with pytest.raises(DagNotFound, match="did you mean 'nightly'"):
            call("nightli")
    with pytest.raises(DagNotFound, match="DAG not found: 'nightli'"):
        executor.add_node("nightli", "a", "f")


@pytest.mark.row("A17")
def test_versions_of_one_name_are_loaded_and_addressed(executor: DagExecutor) -> None:
    one = executor.load(Graph("flow", [Node("a", "f")], version="1.0"))
    two = executor.load(Graph("flow", [Node("b", "f")], version="2.0"))
    assert executor.get_dag("flow") is two
    assert executor.get_dag("flow@1.0") is one
    assert executor.get_dag("flow@2.0") is two
    assert executor.has_dag("flow@1.0")
    assert executor.list_dags() == ["flow"]
    assert executor.list_versions("flow") == ["1.0", "2.0"]
    with pytest.raises(DagNotFound, match=r"flow@3\.0.*did you mean 'flow@"):
        executor.get_dag("flow@3.0")
    executor.load(one)
    assert executor.get_dag("flow") is one, "the last one loaded is the newest"


def test_a_name_may_contain_the_sign_of_versions(executor: DagExecutor) -> None:
    odd = executor.load(Graph("mail@home", [Node("a", "f")], version="7"))
    assert executor.get_dag("mail@home") is odd
    assert executor.get_dag("mail@home@7") is odd


def test_loading_a_version_again_replaces_it(executor: DagExecutor) -> None:
    executor.load(Graph("flow", [Node("a", "f")]))
    again = executor.load(Graph("flow", [Node("a", "f"), Node("b", "f")]))
    assert executor.list_versions("flow") == [""]
    assert executor.get_dag("flow") is again


# --- changing ------------------------------------------------------------------------------------


@pytest.mark.row("A43")
def test_an_added_node_is_in_the_graph_and_in_its_picture(executor: DagExecutor) -> None:
    executor.load_yaml_string(NIGHTLY)
    node = executor.add_node("nightly", "report", "write_report", ["clean"], timeout=5)
    assert node == Node("report", "write_report", dependencies=["clean"], timeout=5)
    assert executor.get_dag("nightly").nodes["report"] is node
    dot = executor.serialize_tree_to_dot("nightly")
    assert '"clean" -> "report";' in dot
    assert 'label="report\\nStatus: Pending"' in dot


@pytest.mark.row("A53")
def test_a_graph_is_created_only_when_asked_for(executor: DagExecutor) -> None:
    with pytest.raises(DagNotFound):
        executor.add_node("minimal", "node1", "action")
    executor.add_node("minimal", "node1", "action", create=True)
    executor.add_node("minimal", "node2", "action", ["node1"], create=True)
    assert executor.get_dag("minimal").topological_order() == ["node1", "node2"]
    empty = executor.create_dag("empty", description="nothing yet", tags=["new"])
    assert len(empty.nodes) == 0
    assert empty.description == "nothing yet"
    assert empty.tags == frozenset({"new"})
    with pytest.raises(RegistryError, match="loaded already"):
        executor.create_dag("empty")


@pytest.mark.row("G10", "G11")
def test_a_node_that_cannot_be_added_changes_nothing(executor: DagExecutor) -> None:
    graph = executor.load_yaml_string(NIGHTLY)
    with pytest.raises(NodeAlreadyExists) as taken:
        executor.add_node("nightly", "clean", "another")
    assert taken.value.node_id == "clean"
    with pytest.raises(DependencyNotFound, match="did you mean 'clean'"):
        executor.add_node("nightly", "report", "write", ["cleen"])
    with pytest.raises(CycleError, match="self -> self"):
        executor.add_node("nightly", "self", "write", ["self"])
    with pytest.raises(ValidationError, match="dot"):
        executor.add_node("nightly", "a.b", "write")
    assert executor.get_dag("nightly") is graph
    executor.add_node("nightly", "clean", "clean")  # the same node again is no change
    assert executor.get_dag("nightly") == graph


@pytest.mark.row("A44")
def test_nodes_are_added_all_or_none(executor: DagExecutor) -> None:
    graph = executor.load_yaml_string(NIGHTLY)
    specs = [
        NodeSpec("process").with_id("one").with_deps(["clean"]),
        NodeSpec("process").with_deps(["nowhere"]),
        NodeSpec("process").with_id("three"),
    ]
    with pytest.raises(DependencyNotFound, match="nowhere"):
        executor.add_nodes_atomic("nightly", specs)
    assert executor.get_dag("nightly") is graph
    ids = executor.add_nodes_atomic("nightly", [specs[0], specs[2]])
    assert ids == ["one", "three"]
    assert list(executor.get_dag("nightly").nodes) == ["clean", "one", "three"]


@pytest.mark.row("A44")
def test_nodes_of_one_batch_may_depend_on_each_other(executor: DagExecutor) -> None:
    """Document 001's batch: ids are the actions' names, dependencies are looked up inside it."""
    executor.create_dag("workflow")
    executor.add_node("workflow", "start", "start")
    ids = executor.add_nodes_atomic(
        "workflow",
        [
            NodeSpec("aggregate").with_deps(["process_1", "process_2"]),
            NodeSpec("process_1").with_deps(["start"]),
            NodeSpec("process_2").with_deps(["start"]),
        ],
    )
    assert ids == ["aggregate", "process_1", "process_2"]
    assert executor.get_dag("workflow").levels() == [
        ["start"],
        ["process_1", "process_2"],
        ["aggregate"],
    ]
    more = executor.add_nodes_atomic("workflow", [NodeSpec("start"), NodeSpec("start")])
    assert more == ["start_2", "start_3"]
    circle = [
        NodeSpec("f").with_id("a").with_deps(["b"]),
        NodeSpec("f").with_id("b").with_deps(["a"]),
    ]
    with pytest.raises(CycleError):
        executor.add_nodes_atomic("workflow", circle)
    assert "a" not in executor.get_dag("workflow").nodes


@pytest.mark.row("A45")
def test_inputs_of_a_node_are_set_by_name(executor: DagExecutor) -> None:
    executor.load_yaml_string(NIGHTLY)
    executor.add_node("nightly", "report", "write")
    executor.set_node_inputs("nightly", "report", {"title": "Weekly", "rows": ref("clean.result")})
    node = executor.set_node_inputs_json("nightly", "report", {"title": "Nightly"})
    assert {each.name: each.reference for each in node.inputs} == {
        "title": None,
        "rows": "clean.result",
    }
    assert node.inputs[0].value == "Nightly"
    assert node.dependencies == ("clean",)
    with pytest.raises(NodeNotFound, match="did you mean 'report'"):
        executor.set_node_inputs("nightly", "repord", {"title": "x"})
    with pytest.raises(DependencyNotFound):
        executor.set_node_inputs("nightly", "report", {"rows": {"$ref": "nobody.result"}})
    with pytest.raises(CycleError):
        executor.set_node_inputs("nightly", "clean", {"x": ref("report.result")})
    assert executor.get_dag("nightly").nodes["report"] is node


def test_changing_one_version_leaves_the_others(executor: DagExecutor) -> None:
    one = executor.load(Graph("flow", [Node("a", "f")], version="1"))
    executor.load(Graph("flow", [Node("a", "f")], version="2"))
    executor.add_node("flow@1", "b", "f")
    assert list(executor.get_dag("flow@1").nodes) == ["a", "b"]
    assert list(executor.get_dag("flow@2").nodes) == ["a"]
    assert executor.list_versions("flow") == ["1", "2"], "a change makes no version the newest"
    assert list(one.nodes) == ["a"], "graphs are values"


@pytest.mark.row("A46")
def test_generated_ids_are_distinct_across_threads(executor: DagExecutor) -> None:
    executor.load(Graph("flow", [Node("step_3", "f")]))
    found: list[str] = []

    def work() -> None:
        found.extend(executor.gen_node_id("step") for _ in range(1_250))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(set(found)) == 10_000
    assert "step_3" not in found
    assert all(each.startswith("step_") for each in found)


def test_threads_may_add_nodes_to_one_graph(executor: DagExecutor) -> None:
    executor.create_dag("flow")

    def work(name: str) -> None:
        for i in range(20):
            executor.add_node("flow", f"{name}_{i}", "f")

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(executor.get_dag("flow").nodes) == 160


# --- what cannot be meant ------------------------------------------------------------------------

WRONG: dict[str, Callable[[Any], object]] = {
    "a node are a list of Input objects": lambda e: e.add_node("c", "x", "f", inputs=5),
    "Input objects, not {'a': 1}": lambda e: e.add_node("c", "x", "f", inputs={"a": 1}),
    "a node has no field 'timeot'; did you mean 'timeout'": (
        lambda e: e.add_node("c", "x", "f", timeot=1)
    ),
    "dependencies are a list of ids, not 5": lambda e: e.add_node("c", "x", "f", 5),
    "asked for by its name, a text, not 1": lambda e: e.add_node(1, "x", "f", create=True),
    r"by a list of NodeSpec, not \[2\]": lambda e: e.add_nodes_atomic("c", [2]),
    "by a list of NodeSpec, not 3": lambda e: e.add_nodes_atomic("c", 3),
    "its name, a text, not 4": lambda e: e.add_nodes_atomic(4, []),
    "its name, a text, not 5": lambda e: e.get_dag(5),
    "its name, a text, not 6": lambda e: e.has_dag(6),
    r"its name, a text, not \[7\]": lambda e: e.list_versions([7]),
    "its name, a text, not None": lambda e: e.get_dag_metadata(None),
    "its name, a text, not 8": lambda e: e.serialize_tree_to_dot(8),
    "a graph has no field 'zz'; known: 'author'": lambda e: e.create_dag("d", zz=1),
    r"its name, a text, not \[9\]": lambda e: e.create_dag([9]),
    "tags are a list of words, not 5": lambda e: e.list_dags_by_tags(5),
    r"tags are a list of words, not \[\[\]\]": lambda e: e.list_dags_by_tags([[]]),
    "inputs are a mapping of names to values, not 5": lambda e: e.set_node_inputs("c", "n", 5),
    "an id begins with a text, not 5": lambda e: e.gen_node_id(5),
    "WorkflowSpec, such as WorkflowSpec.static": lambda e: e.execute_dag(5),
    "such as .'x': 1., not 5": lambda e: e.resume("none", inputs=5),
    "such as .'x': 1., not 6": lambda e: e.run("c", inputs=6, cache=Cache()),
    "is given a Cache or None, not 5": lambda e: e.run("c", cache=5),
    "is given a Cache or None, not 6": lambda e: e.resume("none", cache=6),
    "is given a Cache or None, not 7": lambda e: asyncio.run(e.run_async("c", cache=7)),
    "hooks": lambda e: e.run("c", hooks=5, cache=Cache()),
    "YAML is read from a text or its bytes, not None": lambda e: e.load_yaml_string(None),
    "a path is a text or a pathlib.Path, not None": lambda e: e.load_yaml_file(None),
    "a path is a text or a pathlib.Path, not 5": lambda e: e.load_yaml_dir(5),
}


@pytest.mark.parametrize("says", WRONG)
def test_what_cannot_be_meant_is_refused_with_what_is_taken(
    executor: DagExecutor, says: str
) -> None:
    executor.register_action("f", lambda: 1)
    executor.create_dag("c")
    executor.add_node("c", "n", "f")
    before = executor.graphs
    with pytest.raises(DaggerError, match=says):
        WRONG[says](executor)
    assert executor.graphs == before


def test_a_spec_says_at_once_what_it_cannot_take() -> None:
    makes: dict[str, Callable[[Any], object]] = {
        "names its action by a text that is not empty, not 5": lambda _: NodeSpec(_(5)),
        "names its action by a text that is not empty, not ''": lambda _: NodeSpec(""),
        "an id is a text, not 6": lambda _: NodeSpec("f", id=_(6)),
        "deps is a list of ids, not 5": lambda _: NodeSpec("f", deps=_(5)),
        "an id is a text, not 7": lambda _: NodeSpec("f", deps=_([7])),
        "an input's name is a text that is not empty, not 8": (
            lambda _: NodeSpec("f", inputs=_({8: 1}))
        ),
        "retries must be a whole number of at least 0": lambda _: NodeSpec("f").with_retries(
            _("x")
        ),
        "is a NodeSpec, not 9": lambda _: AddNodes(_([9])),
        "are a list of NodeSpec, not 10": lambda _: AddNodes(_(10)),
        "is a NodeSpec, not 11": lambda _: AddNode(_(11)),
        "a list of ids, not 12": lambda _: SetNodesEnabled(_(12)),
    }
    for says, make in makes.items():
        with pytest.raises(ConfigurationError, match=says):
            make(lambda wrong: wrong)
