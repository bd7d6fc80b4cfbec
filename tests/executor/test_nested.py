"""Loaded graphs as bodies of each other's nodes, by name, and what an executor does with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagger_dsl.dsl import DAG, action
from dagger_dsl.errors import ActionNotFound, CycleError, ValidationError
from dagger_dsl.executor import DagExecutor
from dagger_dsl.registry import Registry

INNER = """\
name: inner
version: "1"
inputs:
  - {name: n, required: true}
nodes:
  - id: a
    action: increase
    inputs: [{name: x, reference: inputs.n}]
  - id: b
    action: double
    inputs: [{name: y, reference: a.result}]
"""

OUTER = """\
name: outer
nodes:
  - id: first
    action: increase
    inputs: [{name: x, reference: inputs.n}]
  - id: part
    subgraph: inner
    inputs: [{name: n, reference: first.result}]
"""


def increase(x: int) -> int:
    return x + 1


def double(y: int) -> int:
    return y * 2


ACTIONS = {"increase": increase, "double": double}


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[DagExecutor]:
    """An executor with two actions and a file."""
    with DagExecutor(registry=ACTIONS, database_url=f"sqlite:{tmp_path / 'runs.db'}") as made:
        yield made


def test_a_yaml_file_names_another_graph_as_a_body(executor: DagExecutor) -> None:
    executor.load_yaml_string(OUTER)
    with pytest.raises(
        ActionNotFound, match=r"workflow 'inner' is not loaded here; known: 'outer'"
    ):
        executor.run("outer", {"n": 0})
    executor.load_yaml_string(INNER)
    report = executor.run("outer", {"n": 0})
    assert report.outputs == {"part": 4}
    assert report.nested["part"].outputs == {"b": 4}
    assert executor.dry_run("outer", {"n": 0}).reason.startswith("dry run")


def test_the_newest_version_is_the_body_unless_one_is_named(executor: DagExecutor) -> None:
    executor.load_yaml_string(INNER)
    executor.load_yaml_string(OUTER)
    executor.load_yaml_string(
        OUTER.replace("subgraph: inner", "subgraph: inner@1").replace("name: outer", "name: pinned")
    )
    assert executor.run("outer", {"n": 0}).outputs == {"part": 4}
    executor.load_yaml_string(
        INNER.replace('"1"', '"2"').replace("double", "increase").replace("name: y", "name: x")
    )
    assert executor.run("outer", {"n": 0}).outputs == {"part": 3}
    assert executor.run("pinned", {"n": 0}).outputs == {"part": 4}


def test_files_that_lead_to_each_other_are_refused(executor: DagExecutor) -> None:
    executor.load_yaml_string(INNER)
    executor.load_yaml_string(OUTER)
    executor.run("outer", {"n": 0})
    executor.load_yaml_string(
        INNER.replace("action: double", "subgraph: outer").replace("name: y", "name: n")
    )
    with pytest.raises(CycleError, match="inner -> outer -> inner"):
        executor.run("outer", {"n": 0})
    diagnosis = executor.doctor("outer")
    assert "contains itself" in str([str(each) for each in diagnosis.checks])


def test_a_draft_brings_the_workflows_in_it(executor: DagExecutor) -> None:
    with Registry():
        with DAG("leaf") as leaf:
            action(increase, name="own")(x=leaf.input("n", int))
        with DAG("middle") as middle:
            leaf(n=middle.input("n", int))
        with DAG("whole") as whole:
            middle(n=whole.input("n", int))
    executor.load(whole)
    assert executor.run("whole", {"n": 1}).outputs == {"middle": 2}
    with DAG("other", registry=ACTIONS) as other:
        middle(n=1)
    assert executor.run(other).outputs == {"middle": 2}


def test_a_graph_takes_a_draft_that_is_loaded_as_a_body(executor: DagExecutor) -> None:
    with Registry(), DAG("inner") as inner:
        action(increase, name="own")(x=inner.input("n", int))
    executor.load(inner)
    executor.load_yaml_string(OUTER)
    assert executor.run("outer", {"n": 0}).outputs == {"part": 2}


def test_a_resume_finds_loaded_graphs_by_name(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'runs.db'}"
    calls: list[str] = []

    def fickle(y: int) -> int:
        calls.append("double")
        if len(calls) == 1:
            raise ZeroDivisionError("on purpose")
        return 2 * y

    actions: dict[str, Any] = {"increase": increase, "double": fickle}
    with DagExecutor(registry=actions, database_url=url) as executor:
        executor.load_yaml_string(INNER)
        executor.load_yaml_string(OUTER)
        assert executor.run("outer", {"n": 0}, run_id="r").status == "failed"
    with DagExecutor(registry=actions, database_url=url) as executor:
        with pytest.raises(ActionNotFound, match="workflow 'inner' is not loaded"):
            executor.resume("r")
        executor.load_yaml_string(INNER)
        report = executor.resume("r")
        assert report.outputs == {"part": 4}
        assert report.nested["part"].node_reports["a"].restored
    with DagExecutor(registry=actions, database_url=url) as executor:
        ended = executor.resume("r")  # nothing of it is called, so nothing need be loaded
        assert ended.status == "completed"
        assert ended.nested["part"].values["b"] == 4


def test_a_name_means_the_newest_run_that_is_nested_in_none(executor: DagExecutor) -> None:
    executor.load_yaml_string(INNER)
    executor.load_yaml_string(OUTER)
    executor.run("inner", {"n": 5}, run_id="own")
    executor.run("outer", {"n": 0}, run_id="r")
    cache = executor.load_cache_snapshot("inner")
    assert cache.get("inputs", "n") == 5
    assert [each.run_id for each in executor.storage.list_runs("inner")] == ["own"]
    assert [each.run_id for each in executor.storage.list_runs("inner", parent="r")] == ["r/part"]


def test_what_is_wrong_with_a_body_is_told_with_its_name(executor: DagExecutor) -> None:
    executor.load_yaml_string(INNER.replace("action: double", "action: dubble"))
    executor.load_yaml_string(OUTER)
    with pytest.raises(ValidationError) as caught:
        executor.run("outer", {"n": 0})
    assert str(caught.value.problems[0]) == (
        "node 'part': in workflow 'inner': node 'b': action 'dubble' is not registered; "
        "did you mean 'double'?"
    )
