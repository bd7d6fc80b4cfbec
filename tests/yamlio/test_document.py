"""Documents: the author's text stays, and only what changed is written anew."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from dagger_dsl.errors import YamlError
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import Edge, Graph, GraphInput, Input, Node, Output
from dagger_dsl.model.policies import OnFailure, RetryPolicy
from dagger_dsl.yamlio import dump_yaml, load_document, load_document_file, load_yaml
from dagger_dsl.yamlio._edit import edit_text
from tests.scale import count
from tests.yamlio.graphs import graphs

SEED_FILES = sorted(Path(__file__).with_name("seeds").glob("*.yaml"))

COMMENTED = """\
# A pipeline by hand
name: pipeline   # its name
tags: [daily, etl]
owner: someone else  # nobody here knows this key
version: '1.0'

# The nodes follow.
nodes:
  # first of all
  - id: fetch            # entry
    action: http_fetch
    # five minutes
    timeout: 300
    x-colour: red   # nobody knows this one either
    outputs:
      - name: raw      # as it comes
      - name: more

  # ---------- second part ----------

  # cleans up
  - id: clean
    dependencies: [fetch]
    action: tidy
    onfailure: no  # stop
    inputs:
      # the data
      - name: data
        reference: fetch.raw
      - name: options
        value: {deep: true, passes: [1, 2]}  # tuned
    description: |
      long text
      in lines

  # saves
  - {id: save, action: put, x-size: 3, dependencies: [clean]}  # on one line
# the end
"""

Change = Callable[[Graph], Graph]


def node(graph: Graph, node_id: str, **fields: object) -> Graph:
    """Return *graph* with fields of one node changed."""
    nodes = {**graph.nodes, node_id: graph.nodes[node_id].replace(**fields)}
    return graph.replace(nodes=nodes)


def changed(text: str, change: Change) -> tuple[list[str], list[str]]:
    """Return the lines that a change takes out of a document and puts into it.

    The new text must describe the changed graph, and all other lines must be as they were.
    """
    document = load_document(text)
    graph = change(document.graph)
    assert graph != document.graph
    new = document.dump(graph)
    assert load_yaml(new) == graph
    before, after = text.splitlines(), new.splitlines()
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return before[start : len(before) - end], after[start : len(after) - end]


# Nothing changed.


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "text", [COMMENTED, *(file.read_text() for file in SEED_FILES)], ids=lambda text: text[:20]
)
def test_an_unchanged_document_comes_back_byte_for_byte(text: str, newline: str) -> None:
    text = text.replace("\n", newline)
    document = load_document(text)
    assert document.dump() == text
    assert document.dump(load_yaml(text)) == text


def test_a_file_keeps_its_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_bytes(codecs.BOM_UTF8 + COMMENTED.encode())
    document = load_document_file(file)
    assert document.name == str(file)
    assert document.dump().encode() == file.read_bytes()
    assert document.dump(document.graph.replace(author="me")).startswith("\ufeff# A pipeline")


def test_a_document_knows_what_is_odd_about_it() -> None:
    document = load_document(COMMENTED, name="flow.yaml")
    assert [str(each).partition(";")[0] for each in document.problems] == [
        "flow.yaml:4:1: a workflow has no key 'owner'",
        "flow.yaml:14:5: node 'fetch': a node has no key 'x-colour'",
        "flow.yaml:37:29: node 'save': a node has no key 'x-size'",
    ]
    assert {each.severity for each in document.problems} == {"warning"}
    with pytest.raises(YamlError, match="x-colour"):
        load_document(COMMENTED, strict=True)


# One thing changed.


@pytest.mark.parametrize(
    ("change", "gone", "come"),
    [
        (
            lambda graph: graph.replace(name="other"),
            ["name: pipeline   # its name"],
            ["name: other   # its name"],
        ),
        (
            lambda graph: graph.replace(tags=["etl", "new"]),
            ["tags: [daily, etl]"],
            ["tags: [etl, new]"],
        ),
        (lambda graph: graph.replace(version="2"), ["version: '1.0'"], ['version: "2"']),
        (lambda graph: graph.replace(version=""), ["version: '1.0'"], []),
        (
            lambda graph: graph.replace(description="two\nlines"),
            [],
            ["description: |-", "  two", "  lines"],
        ),
        (
            lambda graph: graph.replace(config=DagConfig(max_attempts=2)),
            [],
            ["config:", "  max_attempts: 2"],
        ),
        (lambda graph: node(graph, "fetch", timeout=60), ["    timeout: 300"], ["    timeout: 60"]),
        (
            lambda graph: node(graph, "fetch", timeout=None),
            ["    # five minutes", "    timeout: 300"],
            [],
        ),
        (lambda graph: node(graph, "fetch", keep=True), [], ["    keep: true"]),
        (
            lambda graph: node(graph, "fetch", map_over="url", map_depth=2, map_errors="collect"),
            [],
            ["    map_over: url", "    map_depth: 2", "    map_errors: collect"],
        ),
        (
            lambda graph: node(graph, "clean", on_failure=OnFailure.PAUSE),
            ["    onfailure: no  # stop"],
            ["    onfailure: pause  # stop"],
        ),
        (
            lambda graph: node(graph, "clean", description="short"),
            ["    description: |", "      long text", "      in lines"],
            ["    description: short"],
        ),
        (
            lambda graph: node(graph, "fetch", outputs=[Output("raw", "bytes"), Output("more")]),
            [],
            ["        description: bytes"],
        ),
        (
            lambda graph: node(graph, "fetch", outputs=["raw"]),
            ["      - name: more"],
            [],
        ),
        (
            lambda graph: node(
                graph,
                "clean",
                inputs=[
                    Input("data", "fetch.raw"),
                    Input("options", value={"deep": False, "passes": [1, 2]}),
                ],
            ),
            ["        value: {deep: true, passes: [1, 2]}  # tuned"],
            ["        value: {deep: false, passes: [1, 2]}  # tuned"],
        ),
        (
            lambda graph: node(graph, "save", action="out"),
            ["  - {id: save, action: put, x-size: 3, dependencies: [clean]}  # on one line"],
            ["  - {id: save, action: out, x-size: 3, dependencies: [clean]}  # on one line"],
        ),
        (
            lambda graph: graph.replace(nodes=[*graph.nodes.values(), Node("mail", "send")]),
            [],
            ["", "  - id: mail", "    action: send"],
        ),
        (
            lambda graph: graph.replace(nodes=[Node("start", "f"), *graph.nodes.values()]),
            [],
            ["  - id: start", "    action: f", ""],
        ),
        (
            lambda graph: graph.replace(nodes=list(graph.nodes.values())[:2]),
            [
                "",
                "  # saves",
                "  - {id: save, action: put, x-size: 3, dependencies: [clean]}  # on one line",
            ],
            [],
        ),
    ],
)
def test_only_the_lines_of_a_change_are_written(
    change: Change, gone: list[str], come: list[str]
) -> None:
    found_gone, found_come = changed(COMMENTED, change)
    # A blank line or a comment that stands on both sides may be counted with either neighbour.
    assert sorted(found_gone) == sorted(gone)
    assert sorted(found_come) == sorted(come)


def test_comments_between_nodes_survive_what_happens_around_them() -> None:
    document = load_document(COMMENTED)
    fetch, clean, save = document.graph.nodes.values()
    new = Node("new", "f")
    for nodes in (
        [fetch, new, clean, save],
        [clean.replace(inputs=[], dependencies=[]), save, fetch],
        [fetch, save.replace(dependencies=["fetch"])],
    ):
        graph = document.graph.replace(nodes=nodes)
        text = document.dump(graph)
        assert load_yaml(text) == graph
        assert "  # ---------- second part ----------\n" in text
        assert "  # first of all\n" in text
        assert text.endswith("# the end\n")


def test_unknown_keys_stay_with_their_node() -> None:
    document = load_document(COMMENTED)
    graph = node(document.graph, "fetch", timeout=1, description="new", retry=RetryPolicy(3))
    again = load_document(document.dump(graph))
    assert again.graph == graph
    assert [each.message for each in again.problems] == [each.message for each in document.problems]


@pytest.mark.parametrize(
    "text",
    [
        # lists right below their key
        """\
name: x
nodes:
- id: a
  action: f
- id: b
  action: g
  dependencies:
  - a # why
""",
        # brackets, all or only for the nodes
        "{name: x, nodes: [{id: a, action: f}, {id: b, action: g, dependencies: [a]}]}\n",
        "name: x\nnodes: [{id: a, action: f}, {id: b, action: g, dependencies: [a]}]",
        # dashes alone, document marks, the short form of inputs
        """\
---
name: x
nodes:
  -
    id: a
    action: f
  -   id: b
      action: g
      inputs: {x: {$ref: a.result}}
...
""",
        # explicit and quoted keys, another spelling
        """\
? name
: x
"nodes":
  - "id": a
    action: f
  - on_failure: yes
    id: b
    action: g
    dependencies: [a]
""",
        # edges of both kinds
        """\
name: x
nodes:
  - {id: a, action: f}
  - {id: b, action: g}
edges:
  - [a, b]  # in order
  - {source: a, target: b, when: yes}
""",
        # blocks of text, a key without a value
        """\
name: x
nodes:
  - id: a
    action: >-
      f
  - id: b
    action: g
    timeout:
    dependencies: [a]
    description: |+
      keep

""",
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph.replace(
            nodes=[*graph.nodes.values(), Node("c", "h", [Input("y", "b.result")])]
        ),
        lambda graph: graph.replace(nodes=[graph.nodes["a"]], edges=[]),
        lambda graph: graph.replace(nodes=[], edges=[]),
        lambda graph: graph.replace(nodes=[graph.nodes["b"], graph.nodes["a"]]),
        lambda graph: node(graph, "b", timeout=3, on_failure="stop", description="x\ny"),
        lambda graph: node(graph, "b", id="b", inputs=[], dependencies=[], outputs=["o"]),
        lambda graph: node(graph, "a", action="other", metadata={"k": [1, {"l": None}]}),
        lambda graph: graph.replace(inputs=[GraphInput("url", default=1)], name="y"),
        lambda graph: graph.replace(edges=[Edge("a", "b", "eu"), Edge("a", "b", "us")]),
    ],
)
def test_unusual_layouts_can_be_changed(text: str, newline: str, change: Change) -> None:
    text = text.replace("\n", newline)
    document = load_document(text)
    graph = change(document.graph)
    new = document.dump(graph)
    assert load_yaml(new) == graph


def test_an_edge_that_goes_leaves_the_documents_list() -> None:
    text = """\
name: x
nodes:
  - {id: a, action: f}
  - {id: b, action: f}
  - {id: c, action: f}
edges:
  - [a, b]  # first
  - [b, c]  # second
"""
    gone, come = changed(text, lambda graph: node(graph, "b", dependencies=[]))
    assert (gone, come) == (["  - [a, b]  # first"], [])
    gone, come = changed(text, lambda graph: graph.replace(edges=[Edge("a", "c", "eu")]))
    assert (gone, come) == ([], ["  - source: a", "    target: c", "    when: eu"])


@pytest.mark.slow
@settings(
    max_examples=count(1_000),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(graphs(3), graphs(3))
def test_any_document_can_become_any_graph(old: Graph, new: Graph) -> None:
    document = load_document(dump_yaml(old))
    assert load_yaml(document.dump(new)) == new
    added = {**old.nodes, **{each.id: each for each in new.nodes.values()}}
    mixed = new.replace(name=old.name, tags=old.tags, config=old.config, nodes=added)
    assert load_yaml(document.dump(mixed)) == mixed


def test_what_cannot_be_edited_is_written_anew_with_its_unknown_keys() -> None:
    text = "{name: x, owner: me, nodes: [{id: a, action: f, colour: red}]}"
    document = load_document(text)
    assert edit_text(text, document._composed.root, {"name": "y"}) is None
    new = document.dump(node(document.graph, "a", timeout=3))
    assert (
        new
        == "name: x\nowner: me\nnodes:\n  - id: a\n    action: f\n    timeout: 3\n    colour: red\n"
    )
