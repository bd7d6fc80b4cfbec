"""Files that must be refused, each with its line and column; none of them may escape otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagger_dsl.errors import YamlError
from dagger_dsl.yamlio import load_document_file, load_yaml, load_yaml_file

FOLDER = Path(__file__).with_name("malformed")

#: File -> line, column and code of its first problem.
EXPECTED = {
    "tab_indentation": (3, 1, "syntax"),
    "unclosed_bracket": (6, 7, "syntax"),
    "unclosed_brace": (4, 5, "syntax"),
    "unclosed_quote": (5, 1, "syntax"),
    "missing_colon": (2, 6, "syntax"),
    "wrong_indentation": (4, 12, "syntax"),
    "colon_in_text": (2, 18, "syntax"),
    "at_sign": (2, 9, "syntax"),
    "bad_escape": (1, 13, "syntax"),
    "version_directive": (1, 1, "syntax"),
    "two_documents": (5, 1, "documents"),
    "empty": (1, 1, "empty"),
    "only_comments": (1, 1, "empty"),
    "nul_character": (3, 11, "bad-character"),
    "bell_character": (4, 15, "bad-character"),
    "not_utf8": (5, 21, "encoding"),
    "utf16_without_mark": (1, 2, "bad-character"),
    "utf16_cut": (4, 16, "encoding"),
    "nested_too_deep": (5, 163, "too-deep"),
    "list_at_the_top": (1, 1, "invalid"),
    "text_at_the_top": (1, 1, "invalid"),
    "duplicate_key": (3, 1, "duplicate-key"),
    "duplicate_key_in_node": (6, 5, "duplicate-key"),
    "merge_key": (4, 5, "merge-key"),
    "anchor": (3, 5, "anchor"),
    "alias": (5, 15, "alias"),
    "list_in_itself": (5, 15, "anchor"),
    "billion_laughs": (2, 4, "anchor"),
    "python_object": (5, 15, "tag"),
    "own_tag": (5, 12, "tag"),
    "tagged_boolean": (5, 14, "bad-value"),
    "key_that_is_a_list": (5, 18, "bad-key"),
    "number_too_long": (5, 14, "bad-value"),
    "number_too_large": (5, 14, "bad-value"),
    "no_name": (1, 1, "missing-key"),
    "no_nodes": (1, 1, "missing-key"),
    "name_is_a_number": (1, 7, "bad-value"),
    "version_is_a_number": (2, 10, "bad-value"),
    "tags_as_text": (2, 7, "invalid"),
    "nodes_as_mapping": (3, 3, "invalid"),
    "config_value": (3, 17, "bad-value"),
    "config_as_list": (2, 9, "invalid"),
    "node_as_text": (3, 5, "invalid"),
    "node_without_id": (3, 5, "missing-key"),
    "node_without_action": (5, 5, "missing-key"),
    "id_is_a_number": (3, 9, "bad-id"),
    "id_is_a_boolean": (3, 9, "bad-id"),
    "id_is_yes": (3, 9, "bad-id"),
    "id_is_on": (3, 9, "bad-id"),
    "id_with_exponent": (3, 9, "bad-id"),
    "id_is_null": (3, 9, "bad-id"),
    "id_with_a_dot": (3, 9, "bad-id"),
    "id_is_reserved": (3, 9, "bad-id"),
    "id_twice": (7, 9, "duplicate-node"),
    "dependencies_as_text": (7, 19, "invalid"),
    "dependency_is_a_number": (6, 9, "invalid"),
    "dependency_unknown": (7, 20, "unknown-dependency"),
    "timeout_negative": (5, 14, "bad-value"),
    "timeout_as_text": (5, 14, "bad-value"),
    "timeout_is_a_boolean": (5, 14, "bad-value"),
    "try_count_as_text": (5, 16, "bad-value"),
    "try_count_zero": (5, 16, "bad-value"),
    "try_count_is_a_boolean": (5, 16, "bad-value"),
    "retry_and_try_count": (6, 5, "contradiction"),
    "retry_field": (7, 19, "bad-value"),
    "onfailure_unknown": (5, 16, "bad-value"),
    "onfailure_is_a_number": (5, 16, "bad-value"),
    "trigger_unknown": (5, 14, "bad-value"),
    "cache_unknown": (5, 21, "bad-value"),
    "enabled_is_yes": (5, 14, "bad-value"),
    "metadata_as_list": (5, 15, "invalid"),
    "reference_without_dot": (7, 20, "bad-value"),
    "reference_unknown": (7, 20, "unknown-dependency"),
    "reference_to_no_output": (10, 20, "unknown-output"),
    "reference_and_value": (6, 9, "contradiction"),
    "neither_reference_nor_value": (6, 9, "missing-key"),
    "input_without_name": (6, 9, "missing-key"),
    "input_twice": (7, 9, "duplicate-input"),
    "output_twice": (7, 9, "duplicate-output"),
    "unknown_type_tag": (7, 16, "bad-value"),
    "edge_unknown": (6, 29, "unknown-dependency"),
    "edge_without_target": (6, 5, "missing-key"),
    "cycle": (3, 5, "cycle"),
    "waits_for_itself": (3, 5, "cycle"),
}


def test_every_malformed_file_is_expected() -> None:
    assert len(EXPECTED) >= 40
    assert sorted(EXPECTED) == sorted(file.stem for file in FOLDER.glob("*.yaml"))


@pytest.mark.row("A27")
@pytest.mark.parametrize("name", EXPECTED)
def test_a_malformed_file_is_refused_with_file_line_and_column(name: str) -> None:
    file = FOLDER / f"{name}.yaml"
    line, column, code = EXPECTED[name]
    with pytest.raises(YamlError) as caught:
        load_yaml_file(file)
    first = caught.value.problems[0]
    assert (first.place.line, first.place.column, first.code) == (line, column, code)
    assert str(first).startswith(f"{file}:{line}:{column}: ")
    assert first.severity == "error"
    assert f"{file}:{line}:{column}: " in str(caught.value)


@pytest.mark.parametrize("name", EXPECTED)
def test_bytes_text_and_document_are_refused_alike(name: str) -> None:
    file = FOLDER / f"{name}.yaml"
    with pytest.raises(YamlError) as from_file:
        load_yaml_file(file)
    with pytest.raises(YamlError) as from_bytes:
        load_yaml(file.read_bytes(), name=str(file))
    with pytest.raises(YamlError) as from_document:
        load_document_file(file)
    assert from_file.value.problems == from_bytes.value.problems == from_document.value.problems


def test_all_problems_of_a_file_come_together_in_its_order() -> None:
    text = """\
name: pipeline
nodes:
  - id: fetch
    action: get
    dependencies: node1
    timeout: -1
    try_count: abc
  - id: fetch
    action: !!python/object:x.y {}
    dependencies: [lost]
  - id: store
    onfailure: maybe
    depends_on: [fetch]
    inputs:
      - {name: x, reference: fetch.rows, value: 3}
      - {reference: nowhere}
edges:
  - {source: fetch, target: nobody}
"""
    with pytest.raises(YamlError) as caught:
        load_yaml(text, name="flow.yaml")
    found = [(each.place.line, each.code) for each in caught.value.problems]
    assert found == [
        (5, "invalid"),
        (6, "bad-value"),
        (7, "bad-value"),
        (8, "duplicate-node"),
        (9, "tag"),
        (10, "unknown-dependency"),
        (11, "missing-key"),
        (12, "bad-value"),
        (13, "unknown-key"),
        (15, "contradiction"),
        (16, "missing-key"),
        (16, "bad-value"),
        (18, "unknown-dependency"),
    ]
    paths = {each.place.line: each.place.path for each in caught.value.problems}
    assert paths[7] == "$.nodes[0].try_count"
    assert paths[18] == "$.edges[0].target"
    assert str(caught.value).startswith("13 problems:\n  flow.yaml:5:19: node 'fetch': ")


def test_problems_are_counted_once_a_hundred_are_listed() -> None:
    nodes = "".join(f"  - {{id: n{i}, action: a, timeout: -1}}\n" for i in range(300))
    with pytest.raises(YamlError) as caught:
        load_yaml(f"name: x\nnodes:\n{nodes}")
    assert len(caught.value.problems) == 101
    assert "and 200 more" in caught.value.problems[-1].message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(YamlError, match="cannot be read") as caught:
            load_yaml_file(path)
        assert caught.value.problems[0].place.file == str(path)
        assert str(path) in str(caught.value)
