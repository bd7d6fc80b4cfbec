"""Loading good files: the source documents' own, both YAML versions, directories, odd spellings."""

from __future__ import annotations

import codecs
import logging
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.errors import ConfigurationError, YamlError
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import Edge, Graph, GraphInput, Input, Node, Output
from dagger_dsl.model.policies import (
    DEFAULT_RETRY,
    CacheStrategy,
    Effects,
    OnFailure,
    RetryPolicy,
    RetryStrategy,
    Trigger,
)
from dagger_dsl.yamlio import (
    Limits,
    dump_yaml,
    load_document,
    load_document_file,
    load_yaml,
    load_yaml_dir,
    load_yaml_file,
)

SEEDS = Path(__file__).with_name("seeds")
SEED_FILES = sorted(SEEDS.glob("*.yaml"))


def one_node(body: str) -> Node:
    """Return the node that *body*, its keys beside id and action, describes."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return load_yaml(f"name: x\nnodes:\n  - id: a\n    action: act\n{lines}").nodes["a"]


# The documents' own files.


@pytest.mark.row("A19")
@pytest.mark.parametrize("file", SEED_FILES, ids=lambda file: file.stem)
def test_every_yaml_block_of_the_documents_loads_without_an_edit(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = load_yaml_file(file)
    assert graph.validate().problems == ()
    assert not caplog.records


@pytest.mark.row("A10", "A11", "A12", "A16", "A17", "A18", "A21", "A22", "A23")
def test_the_full_block_of_the_implementation_guide_is_read_whole() -> None:
    graph = load_yaml_file(SEEDS / "implementation_guide.yaml")
    assert graph.name == "data_processing_pipeline"
    assert graph.description == "Process customer data with validation"
    assert (graph.author, graph.version) == ("Engineering Team", "1.0.0")
    assert graph.signature == "unique_signature"
    assert list(graph.nodes) == [
        "validate_input",
        "transform_data",
        "parallel_analysis_a",
        "parallel_analysis_b",
        "combine_results",
    ]
    assert graph.nodes["validate_input"] == Node(
        "validate_input",
        "validate_data",
        [Input("raw_data", "inputs.customer_data", description="Raw customer data")],
        [Output("valid_data", "Validated data")],
        timeout=300,
        try_count=2,
        on_failure=OnFailure.STOP,
        failure="handle_validation_error",
    )


@pytest.mark.row("A15")
def test_tags_are_read_as_a_set() -> None:
    graph = load_yaml_file(SEEDS / "implementation_guide.yaml")
    assert graph.tags == {"production", "customer_data", "etl"}
    guide = load_yaml_file(SEEDS / "dag_flow_guide.yaml")
    assert guide.tags == {"production", "data"}
    assert guide.signature == ""


@pytest.mark.row("A20")
def test_only_name_and_nodes_with_id_and_action_are_required() -> None:
    graph = load_yaml("name: agent_workflow\nnodes:\n  - id: planner\n    action: planner_agent\n")
    assert graph == Graph("agent_workflow", [Node("planner", "planner_agent")])
    agent = load_yaml_file(SEEDS / "implementation_guide_agent.yaml")
    assert agent.nodes["planner"].inputs == (Input("task", "inputs.task"),)


# Nodes.


@pytest.mark.row("A1")
def test_two_nodes_of_one_id_are_refused_by_name() -> None:
    with pytest.raises(YamlError, match=r"node 'a': the id is used twice, first at <text>:2:14"):
        load_yaml("name: x\nnodes: [{id: a, action: b}, {id: a, action: b}]")


@pytest.mark.row("A24", "A25")
def test_references_are_kept_and_imply_the_dependency() -> None:
    graph = load_yaml_file(SEEDS / "readme.yaml")
    load = graph.nodes["load_data"]
    assert load.inputs == (
        Input("data", "transform_data.clean_data"),
        Input("target_table", "inputs.target_table"),
    )
    implied = load_yaml(
        "name: x\nnodes:\n  - {id: a, action: f}\n"
        "  - {id: b, action: g, inputs: [{name: x, reference: a.result}]}\n"
    )
    assert implied.nodes["b"].dependencies == ("a",)


@pytest.mark.row("A25")
def test_a_reference_to_an_undeclared_output_is_refused_with_a_suggestion() -> None:
    text = """\
name: x
nodes:
  - {id: fetch, action: f, outputs: [{name: raw_data}]}
  - id: use
    action: g
    inputs:
      - {name: x, reference: fetch.raw_dta}
"""
    with pytest.raises(YamlError, match=r":7:30: .*no output 'raw_dta'; did you mean 'raw_data'"):
        load_yaml(text)


@pytest.mark.row("A13")
def test_listed_edges_and_dependencies_give_one_set() -> None:
    text = """\
name: x
nodes:
  - {id: a, action: f}
  - {id: b, action: f, dependencies: [a]}
  - {id: c, action: f}
edges:
  - [a, b]
  - {source: b, target: c}
  - {source: a, target: c, when: true}
"""
    graph = load_yaml(text)
    assert graph.edges == (Edge("a", "b"), Edge("b", "c"), Edge("a", "c", "true"))
    assert graph.nodes["c"].dependencies == ("b",)
    assert graph.labelled == (Edge("a", "c", "true"),)


@pytest.mark.row("A22")
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *((word, OnFailure.STOP) for word in ("false", "False", "no", "off", "NO", "stop", "Stop")),
        *((word, OnFailure.CONTINUE) for word in ("true", "TRUE", "yes", "on", "continue")),
        ("pause", OnFailure.PAUSE),
        ('"no"', OnFailure.STOP),
        ("~", None),
    ],
)
def test_onfailure_understands_booleans_of_both_yaml_versions(
    written: str, meant: OnFailure | None
) -> None:
    assert one_node(f"onfailure: {written}").on_failure is meant
    assert one_node(f"on_failure: {written}").on_failure is meant
    config = load_yaml(f"name: x\nconfig: {{on_failure: {meant or 'stop'}}}\nnodes: []").config
    assert config == DagConfig(on_failure=meant or "stop")


def test_halt_is_an_old_word_for_stop() -> None:
    with pytest.warns(DeprecationWarning, match=r"<text>:5:16: node 'a': 'halt' is an old word"):
        assert one_node("onfailure: halt").on_failure is OnFailure.STOP


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "n", "Yes", "1_0", "1:30"])
def test_elsewhere_words_of_yaml_1_1_stay_text(word: str) -> None:
    assert one_node(f"inputs: [{{name: x, value: {word}}}]").inputs[0].value == word


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2023-13-45", "2023-13-45"),
        ("2023-01-01", "2023-01-01"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("0777", 777),
        ("0x1F", 31),
        ("0o17", 15),
        ("+1", 1),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", float("inf")),
        ("~", None),
        ("", None),
        ("Null", None),
        ("nULL", "nULL"),
        ("TRUE", True),
        ("1_000", "1_000"),
        ("!!str 12", "12"),
        ('!!int "12"', 12),
        ("!!float 1", 1.0),
        ("!!null ''", None),
        ("! 12", "12"),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("|\n      two\n      lines\n", "two\nlines\n"),
    ],
)
def test_values_follow_the_core_schema_of_yaml_1_2(written: str, value: Any) -> None:
    found = one_node(f"inputs:\n  - name: v\n    value: {written}").inputs[0].value
    assert found == value
    assert type(found) is type(value)


def test_mappings_in_values_may_have_other_keys_than_text() -> None:
    node = one_node("inputs: [{name: v, value: {1: a, ~: c, x: [{false: 1.5}]}}]")
    assert node.inputs[0].value == {1: "a", None: "c", "x": [{False: 1.5}]}
    metadata: Any = one_node("metadata: {2: a, ~: c}").metadata
    assert metadata == {2: "a", None: "c"}
    with pytest.raises(YamlError, match="the key 'True' is given twice, first in line 5"):
        one_node("metadata: {1: a, true: b}")


def test_tagged_values_and_references_in_values() -> None:
    node = one_node(
        "inputs:\n"
        "  when: {$type: timedelta, $value: [1, 0, 0]}\n"
        "  url: {$ref: inputs.url}\n"
        "  text: inputs.url\n"
    )
    assert node.inputs[0].value.days == 1
    assert node.inputs[1:] == (Input("url", "inputs.url"), Input("text", value="inputs.url"))
    listed = one_node("inputs: [{name: url, value: {$ref: inputs.url}}]")
    assert listed.inputs == (Input("url", "inputs.url"),)


def test_every_key_of_a_node() -> None:
    node = one_node(
        """\
dependencies: []
outputs: [rows, {name: count, description: how many}]
failure: tidy_up
timeout: 0.5
try_count: 2
retry: {base_delay: 1, backoff: linear, retry_on: timeout}
cache_strategy: {ttl: 300}
trigger: always
metadata: {owner: me}
map_over: urls
max_parallel: 3
map_depth: 2
map_errors: collect
effects: at_most_once
branch: eu
keep: false
enabled: false
fallback: plan_b
subgraph: inner
description: what it does
instructions: how
"""
    )
    assert node == Node(
        "a",
        "act",
        outputs=["rows", Output("count", "how many")],
        failure="tidy_up",
        timeout=0.5,
        try_count=2,
        retry=RetryPolicy(base_delay=1, backoff="linear", retry_on="timeout"),
        cache_strategy=CacheStrategy.ttl(300),
        trigger=Trigger.DONE,
        metadata={"owner": "me"},
        map_over="urls",
        max_parallel=3,
        map_depth=2,
        map_errors="collect",
        effects=Effects.AT_MOST_ONCE,
        branch="eu",
        keep=False,
        enabled=False,
        fallback="plan_b",
        subgraph="inner",
        description="what it does",
        instructions="how",
    )


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("3", RetryPolicy(max_retries=3)),
        ("0", RetryPolicy(max_attempts=1)),
        ("immediate", RetryStrategy.IMMEDIATE),
        ("exponential", DEFAULT_RETRY),
        ("{}", RetryPolicy()),
        ("{max_retries: 2, jitter: 1}", RetryPolicy(max_attempts=3, jitter=1)),
        ("{max_attempts: 2, multiplier: ~}", RetryPolicy(max_attempts=2)),
    ],
)
def test_retry_is_a_number_of_retries_a_name_or_its_fields(
    written: str, policy: RetryPolicy
) -> None:
    assert one_node(f"retry: {written}").retry == policy


@pytest.mark.parametrize(
    ("written", "strategy"),
    [
        ("always", CacheStrategy.ALWAYS),
        ("Never", CacheStrategy.NEVER),
        ("{Ttl: 5}", CacheStrategy.ttl(5)),
        ("{custom: k}", CacheStrategy.custom("k")),
        ("{ttl: 5, inputs: [url]}", CacheStrategy.ttl(5, inputs=["url"])),
        ("{always: true, inputs: [a, b]}", CacheStrategy.always(inputs=["a", "b"])),
    ],
)
def test_cache_strategies(written: str, strategy: CacheStrategy) -> None:
    assert one_node(f"cache_strategy: {written}").cache_strategy == strategy


MAPPED = """\
name: sums
nodes:
  - {id: rows, action: fetch}
  - id: square
    action: square
    inputs:
      - {name: x, reference: rows.result}
      - {name: factor, value: 2}
    map_over: x
    max_parallel: 8
    map_depth: 2
    map_errors: collect
"""


@pytest.mark.row("G14")
def test_a_mapped_node_says_over_what_and_how() -> None:
    graph = load_yaml(MAPPED)
    assert graph.nodes["square"] == Node(
        "square",
        "square",
        [Input("x", "rows.result"), Input("factor", value=2)],
        map_over="x",
        max_parallel=8,
        map_depth=2,
        map_errors="collect",
    )
    assert load_yaml(graph.to_yaml()) == graph


@pytest.mark.row("G14")
@pytest.mark.parametrize(
    ("line", "instead", "place", "says"),
    [
        ("map_depth: 2", "map_depth: 0", "11:16", "map_depth must be a whole number of at least 1"),
        (
            "map_depth: 2",
            "map_depth: 1000000000",
            "11:16",
            "map_depth must be at most 100, not 1000000000",
        ),
        (
            "max_parallel: 8",
            f"max_parallel: {10**30}",
            "10:19",
            "max_parallel must be at most 1,000,000",
        ),
        (
            "map_over: x",
            f"try_count: {10**30}",
            "9:16",
            "try_count must be at most 9,007,199,254,740,992",
        ),
        ("map_depth: 2", "map_depth: deep", "11:16", "not the text 'deep'"),
        ("max_parallel: 8", "max_parallel: 0", "10:19", "max_parallel must be a whole number"),
        ("map_over: x", "map_over: [x]", "9:15", "map_over must be text, not a list"),
        ("map_errors: collect", "map_errors: true", "12:17", "map_errors must be text"),
        ("map_errors: collect", "map_errors: skip", "4:5", "'fail' or 'collect', not 'skip'"),
        ("    map_over: x\n", "", "4:5", "map_depth and map_errors say how map_over is done"),
    ],
)
def test_what_cannot_be_said_of_a_map_is_refused_at_its_place(
    line: str, instead: str, place: str, says: str
) -> None:
    assert line in MAPPED
    with pytest.raises(YamlError) as caught:
        load_yaml(MAPPED.replace(line, instead), name="flow.yaml")
    (told,) = caught.value.problems
    assert str(told).startswith(f"flow.yaml:{place}: node 'square': ")
    assert says in str(told)


@pytest.mark.row("A14")
def test_the_config_says_only_what_is_written() -> None:
    text = """\
name: x
config:
  max_attempts: 3
  timeout_seconds: ~
  onfailure: yes
  retry_strategy: {base_delay: 5, max_delay: 300}
nodes: []
"""
    config = load_yaml(text).config
    assert config == DagConfig(
        max_attempts=3,
        timeout_seconds=None,
        on_failure=OnFailure.CONTINUE,
        retry_strategy=RetryPolicy(base_delay=5, max_delay=300),
    )
    assert config is not None
    assert config.given == {"max_attempts", "timeout_seconds", "on_failure", "retry_strategy"}
    assert load_yaml("name: x\nnodes: []").config is None


@pytest.mark.row("A24")
@pytest.mark.parametrize(
    "written",
    [
        "[{name: url, schema: {type: string}}, {name: limit, default: 10}]",
        "{url: {schema: {type: string}}, limit: {default: 10}}",
    ],
)
def test_a_graph_declares_its_inputs(written: str) -> None:
    graph = load_yaml(f"name: x\ninputs: {written}\nnodes: []")
    assert dict(graph.inputs) == {
        "url": GraphInput("url", schema={"type": "string"}),
        "limit": GraphInput("limit", default=10, required=False),
    }
    assert list(load_yaml("name: x\ninputs: [url, limit]\nnodes: []").inputs) == ["url", "limit"]


# Unknown keys.


def test_unknown_keys_are_logged_with_their_place(caplog: pytest.LogCaptureFixture) -> None:
    text = "name: x\nowner: me\nnodes:\n  - id: a\n    action: f\n    timout: 3\n"
    with caplog.at_level(logging.WARNING, logger="dagger_dsl.yamlio"):
        graph = load_yaml(text, name="flow.yaml")
    assert graph.nodes["a"].timeout is None
    assert [record.getMessage() for record in caplog.records] == [
        "flow.yaml:2:1: a workflow has no key 'owner'" + caplog.messages[0].split("'owner'")[1],
        "flow.yaml:6:5: node 'a': a node has no key 'timout'; did you mean 'timeout'?",
    ]


def test_strict_loading_refuses_unknown_keys() -> None:
    text = "name: x\nnodes: [{id: a, action: f, inputs: [{name: x, value: 1, type: int}]}]"
    with pytest.raises(YamlError, match="an input has no key 'type'"):
        load_yaml(text, strict=True)


# Files, bytes, directories.


@pytest.mark.row("A28")
@pytest.mark.parametrize("file", SEED_FILES, ids=lambda file: file.stem)
def test_a_file_and_its_text_give_equal_graphs(file: Path) -> None:
    assert load_yaml_file(file) == load_yaml_file(str(file)) == load_yaml(file.read_text())


@pytest.mark.row("A27")
def test_a_syntax_error_names_file_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text("name: x\nnodes:\n  - id: a\n    action: [f\n")
    with pytest.raises(YamlError) as caught:
        load_yaml_file(file)
    place = caught.value.problems[0].place
    assert (place.file, place.line, place.column) == (str(file), 5, 1)
    assert "starts in line 4" in str(caught.value)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_encodings_and_line_ends(mark: bytes, encoding: str, newline: str) -> None:
    text = "name: caf\u00e9\nnodes:\n- id: \u4e2d\n  action: f\n".replace("\n", newline)
    graph = load_yaml(mark + text.encode(encoding))
    assert graph == Graph("caf\u00e9", [Node("\u4e2d", "f")])


def fill(folder: Path) -> None:
    (folder / "b.yaml").write_text("name: second\nnodes: []\n")
    (folder / "a.yml").write_text("name: first\nnodes: []\n")
    (folder / "bad.yaml").write_text("name: third\nnodes: [{id: 1}]\n")
    (folder / "notes.txt").write_text("name: [")
    (folder / "folder.yaml").mkdir()


@pytest.mark.row("A29")
def test_one_bad_file_refuses_a_directory(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(YamlError) as caught:
        load_yaml_dir(tmp_path)
    assert {each.place.file for each in caught.value.problems} == {str(tmp_path / "bad.yaml")}
    assert len(caught.value.problems) == 2


@pytest.mark.row("A29")
def test_a_lenient_directory_loads_the_others_and_lists_the_bad_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    graphs = load_yaml_dir(tmp_path, strict=False)
    assert [graph.name for graph in graphs] == ["first", "second"]
    assert {each.place.file for each in graphs.problems} == {str(tmp_path / "bad.yaml")}
    assert f"{tmp_path / 'bad.yaml'}:2:14" in caplog.text


@pytest.mark.row("A29")
def test_a_good_directory_loads_and_a_missing_one_is_named(tmp_path: Path) -> None:
    assert [graph.name for graph in load_yaml_dir(SEEDS)].count("data_pipeline") == 3
    assert load_yaml_dir(tmp_path) == []
    with pytest.raises(YamlError, match="cannot be read"):
        load_yaml_dir(tmp_path / "missing")


def test_limits_are_checked_numbers() -> None:
    for field in ("size", "depth", "values"):
        for wrong in (0, -1, 1.5, True, "1"):
            with pytest.raises(ConfigurationError, match=field):
                Limits(**{field: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, 5, [], {}])
def test_only_texts_are_read_and_only_graphs_written(wrong: Any) -> None:
    for read in (load_yaml, load_document):
        with pytest.raises(ConfigurationError, match="YAML is read from a text or its bytes, not"):
            read(wrong)
    for open_file in (load_yaml_file, load_yaml_dir, load_document_file):
        with pytest.raises(ConfigurationError, match=r"a path is a text or a pathlib\.Path, not"):
            open_file(wrong)
    with pytest.raises(ConfigurationError, match=r"a Graph is written as YAML, not .*compile"):
        dump_yaml(wrong)


def test_limits_are_an_object() -> None:
    limits: Any = 5
    for read in (load_yaml, load_document, load_yaml_file, load_yaml_dir, load_document_file):
        with pytest.raises(ConfigurationError, match="limits are a Limits"):
            read("x", limits=limits)


HALF = r'"a\ud800"'


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        (f"name: {HALF}\nnodes: []", 1, 7),
        (f"name: a\ntags: [{HALF}]\nnodes: []", 2, 8),
        (f"name: a\ninputs: [{HALF}]\nnodes: []", 2, 10),
        (f"name: a\nnodes: [{{id: {HALF}, action: f}}]", 2, 14),
        (f"name: a\nnodes: [{{id: a, action: {HALF}}}]", 2, 25),
        (f"name: a\nnodes: [{{id: a, action: f, branch: {HALF}}}]", 2, 36),
        (f"name: a\nnodes: [{{id: a, action: f, outputs: [{HALF}]}}]", 2, 38),
        (f"name: a\nnodes: [{{id: a, action: f, inputs: {{{HALF}: 1}}}}]", 2, 48),
        (f"name: a\nnodes: [{{id: a, action: f, inputs: [{{name: {HALF}, value: 1}}]}}]", 2, 44),
    ],
)
def test_half_a_character_in_a_name_is_refused_at_its_place(
    text: str, line: int, column: int
) -> None:
    with pytest.raises(YamlError, match="lone surrogate, which is half a character") as caught:
        load_yaml(text)
    place = caught.value.problems[0].place
    assert (place.line, place.column) == (line, column)
