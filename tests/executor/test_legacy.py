"""The documents' other spellings are the same things, and nothing more."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from dagger_dsl import errors, executor, legacy
from dagger_dsl.engine.report import RunReport
from dagger_dsl.executor import DagExecutor, _facade
from dagger_dsl.model import graph, policies
from dagger_dsl.registry import Registry
from dagger_dsl.store import cache, storage


@pytest.mark.row("B12", "D26", "C7")
def test_other_names_are_the_same_objects() -> None:
    assert legacy.ActionRegistry is Registry
    assert legacy.DagError is errors.DaggerError
    assert legacy.BackoffStrategy is policies.Backoff
    assert legacy.ErrorHandling.ContinueOnError is policies.OnFailure.CONTINUE
    assert legacy.GraphDefinition is graph.Graph
    assert legacy.IField is graph.Input
    assert legacy.OField is graph.Output
    assert legacy.DagExecutionReport is RunReport
    assert legacy.SqliteStorage is storage.Store
    assert legacy.WorkflowSpec is executor.WorkflowSpec
    assert legacy.get_value_from_cache is cache.get_value_from_cache
    assert legacy.insert_value is cache.insert_value


@pytest.mark.row("A56")
def test_register_action_takes_the_executor_first() -> None:
    made = DagExecutor(registry={})
    legacy.register_action(made, "length", len)
    assert made.registry["length"].original is len


def test_every_name_is_listed_and_there() -> None:
    assert sorted(legacy.__all__) == legacy.__all__
    for name in legacy.__all__:
        assert getattr(legacy, name) is not None


def test_nothing_there_behaves() -> None:
    """No function, no class: one line each."""
    assert legacy.__file__ is not None
    tree = ast.parse(Path(legacy.__file__).read_text(encoding="utf-8"))
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    assert [type(each).__name__ for each in tree.body if not isinstance(each, allowed)] == []


def test_aliases_of_the_executor_are_one_line_each() -> None:
    source = Path(_facade.__file__).read_text(encoding="utf-8")
    (kind,) = (
        each
        for each in ast.parse(source).body
        if isinstance(each, ast.ClassDef) and each.name == "DagExecutor"
    )
    bodies = {each.name: each.body for each in kind.body if isinstance(each, ast.FunctionDef)}
    for alias in ("execute_dag", "execute_static_dag", "execute_dag_sequential", "sqlite_cache"):
        docstring, only = bodies[alias]
        assert isinstance(docstring, ast.Expr)
        assert isinstance(only, ast.Return)
