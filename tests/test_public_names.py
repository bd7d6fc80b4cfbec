"""The front of the package: at most 50 names, each loaded on first use, all visible to checkers."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import dagger_dsl

#: Every public name. Adding one is a decision: at most 50, ever.
NAMES = [
    "DAG",
    "FSM",
    "AddNode",
    "AddNodes",
    "Branch",
    "CacheStrategy",
    "CancelToken",
    "CircuitBreaker",
    "Context",
    "DagConfig",
    "DagExecutor",
    "DaggerError",
    "EventHook",
    "ExecutionError",
    "FSMReturn",
    "Failed",
    "Graph",
    "Input",
    "Node",
    "NodeCtx",
    "NodeExecutionError",
    "NodeOutput",
    "NodeSpec",
    "NodeState",
    "OnFailure",
    "Output",
    "Registry",
    "ResourcePool",
    "RetryPolicy",
    "RetryStrategy",
    "RunHandle",
    "RunOptions",
    "RunReport",
    "RunStatus",
    "Secret",
    "Store",
    "StoreError",
    "TaskContext",
    "TaskManager",
    "Trigger",
    "ValidationError",
    "action",
    "branch",
    "dump_yaml",
    "hook",
    "load_yaml",
    "load_yaml_file",
    "ref",
    "register_type",
    "task_agent",
]

#: What can be imported by name beside these.
BESIDE = [
    "KEEP",
    "Backoff",
    "Cache",
    "FSMContext",
    "MetricsCollector",
    "NewTaskSpec",
    "Next",
    "PubSubExecutor",
    "ResourceTracker",
    "YamlError",
    "insert_value",
    "load_yaml_dir",
    "pubsub_agent",
]


def test_the_public_names_are_these() -> None:
    assert dagger_dsl.__all__ == NAMES
    assert len(NAMES) <= 50


@pytest.mark.parametrize("name", [*NAMES, *BESIDE])
def test_every_name_is_there(name: str) -> None:
    thing = getattr(dagger_dsl, name)
    assert getattr(thing, "__name__", name) == name
    assert thing.__doc__
    assert getattr(dagger_dsl, name) is thing
    assert name in dir(dagger_dsl)


def test_type_checkers_see_what_is_loaded() -> None:
    """The imports under TYPE_CHECKING name the same rooms as the table that is used."""
    tree = ast.parse(Path(dagger_dsl.__file__).read_text(encoding="utf-8"))
    block = next(each for each in tree.body if isinstance(each, ast.If))
    seen = {}
    for statement in block.body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                assert statement.module is not None
                seen[alias.name] = statement.module
    assert sorted(seen) == sorted([*NAMES, *BESIDE])
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(dagger_dsl, name)


def test_a_star_import_gives_the_public_names() -> None:
    found: dict[str, object] = {}
    exec("from dagger_dsl import *", found)
    assert set(found) - {"__builtins__"} == set(NAMES)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Dagg'"):
        getattr(dagger_dsl, "Dagg")  # noqa: B009 - type checkers refuse the plain spelling
    with pytest.raises(ImportError, match="cannot import name 'Dagg'"):
        exec("from dagger_dsl import Dagg")


def test_rooms_can_be_reached_from_the_package() -> None:
    code = (
        "import dagger_dsl as d; d.errors.DaggerError; d.testing.FakeClock; d.legacy.WorkflowSpec"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_that_of_the_installed_package() -> None:
    try:
        expected = importlib.metadata.version("dagger_dsl")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert dagger_dsl.__version__ == expected


@pytest.mark.row("O4")
def test_all_names_import_without_any_extra() -> None:
    """The optional packages may be missing: nothing on the way to a public name imports one."""
    code = (
        "import sys\n"
        "for extra in 'cloudpickle dask distributed psycopg opentelemetry IPython ipykernel "
        "pytest hypothesis numpy pandas pyarrow'.split():\n"
        "    sys.modules[extra] = None\n"
        "from dagger_dsl import *\n"
        "import dagger_dsl.testing, dagger_dsl.cli, dagger_dsl.legacy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
