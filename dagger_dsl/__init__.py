"""Workflows as decorated functions or YAML, run durably.

A function becomes a step, arrows join steps, and `DAG` runs them:

    >>> from dagger_dsl import DAG, action
    >>> @action
    ... def add(num1: float, num2: float) -> float:
    ...     return num1 + num2
    >>> @action
    ... def report(total: float) -> str:
    ...     return f"the sum is {total}"
    >>> sums = DAG(add >> report, name="sums")
    >>> sums.run({"num1": 10.0, "num2": 20.0})
    'the sum is 30.0'
    >>> sums.report.value("add")
    30.0

The names below are the package's front; each is loaded from its room on first use, so that
importing `DAG` and `action` costs next to nothing. ``__all__`` has the names that most programs
need, at most 50; a few more can be imported by name. Everything else lives in the rooms:

- `dagger_dsl.errors`: all that is raised;
- `dagger_dsl.testing`: what tests need;
- `dagger_dsl.model.events` and `dagger_dsl.model.commands`: what hooks are shown, and what they may
  return;
- `dagger_dsl.engine.hooks`: hooks that are ready to be used;
- `dagger_dsl.agents`: what jobs of tasks are made of, beside their manager;
- `dagger_dsl.yamlio`: files that keep their comments through an edit;
- `dagger_dsl.legacy`: the documents' other spellings.
"""

from typing import TYPE_CHECKING

__all__ = [
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

if TYPE_CHECKING:
    from dagger_dsl.agents import NewTaskSpec as NewTaskSpec
    from dagger_dsl.agents import TaskContext, TaskManager, task_agent
    from dagger_dsl.dsl import DAG, action, branch
    from dagger_dsl.dsl.hooks import hook
    from dagger_dsl.engine.control import CancelToken, RunHandle
    from dagger_dsl.engine.hooks import EventHook
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.errors import (
        DaggerError,
        ExecutionError,
        NodeExecutionError,
        StoreError,
        ValidationError,
    )
    from dagger_dsl.errors import YamlError as YamlError
    from dagger_dsl.executor import DagExecutor
    from dagger_dsl.fsm import FSM, FSMReturn
    from dagger_dsl.fsm import FSMContext as FSMContext
    from dagger_dsl.fsm import Next as Next
    from dagger_dsl.model.breaker import CircuitBreaker
    from dagger_dsl.model.commands import AddNode, AddNodes, NodeSpec, ref
    from dagger_dsl.model.config import DagConfig, RunOptions
    from dagger_dsl.model.context import Branch, Failed, NodeCtx, NodeOutput
    from dagger_dsl.model.graph import Graph, Input, Node, Output
    from dagger_dsl.model.lifecycle import KEEP as KEEP
    from dagger_dsl.model.metrics import MetricsCollector as MetricsCollector
    from dagger_dsl.model.policies import Backoff as Backoff
    from dagger_dsl.model.policies import (
        CacheStrategy,
        OnFailure,
        RetryPolicy,
        RetryStrategy,
        Trigger,
    )
    from dagger_dsl.model.pools import ResourcePool
    from dagger_dsl.model.resources import ResourceTracker as ResourceTracker
    from dagger_dsl.model.sharing import Context
    from dagger_dsl.model.states import NodeState, RunStatus
    from dagger_dsl.model.values import Secret, register_type
    from dagger_dsl.pubsub import PubSubExecutor as PubSubExecutor
    from dagger_dsl.pubsub import pubsub_agent as pubsub_agent
    from dagger_dsl.registry import Registry
    from dagger_dsl.store.cache import Cache as Cache
    from dagger_dsl.store.cache import insert_value as insert_value
    from dagger_dsl.store.storage import Store
    from dagger_dsl.yamlio import dump_yaml, load_yaml, load_yaml_file
    from dagger_dsl.yamlio import load_yaml_dir as load_yaml_dir

    __version__: str
else:  # hidden from type checkers, which would take any misspelt name for an attribute
    _ROOMS = {
        "agents": "NewTaskSpec TaskContext TaskManager task_agent",
        "dsl": "DAG action branch",
        "dsl.hooks": "hook",
        "engine.control": "CancelToken RunHandle",
        "engine.hooks": "EventHook",
        "engine.report": "RunReport",
        "errors": "DaggerError ExecutionError NodeExecutionError StoreError "
        "ValidationError YamlError",
        "executor": "DagExecutor",
        "fsm": "FSM FSMContext FSMReturn Next",
        "model.breaker": "CircuitBreaker",
        "model.commands": "AddNode AddNodes NodeSpec ref",
        "model.config": "DagConfig RunOptions",
        "model.context": "Branch Failed NodeCtx NodeOutput",
        "model.graph": "Graph Input Node Output",
        "model.lifecycle": "KEEP",
        "model.metrics": "MetricsCollector",
        "model.policies": "Backoff CacheStrategy OnFailure RetryPolicy RetryStrategy Trigger",
        "model.pools": "ResourcePool",
        "model.resources": "ResourceTracker",
        "model.sharing": "Context",
        "model.states": "NodeState RunStatus",
        "model.values": "Secret register_type",
        "pubsub": "PubSubExecutor pubsub_agent",
        "registry": "Registry",
        "store.cache": "Cache insert_value",
        "store.storage": "Store",
        "yamlio": "dump_yaml load_yaml load_yaml_dir load_yaml_file",
    }
    _ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}

    def __getattr__(name):
        """Load a public name, or a room, on first use (PEP 562)."""
        import importlib

        if name in _ROOM_OF:
            value = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
        elif name == "__version__":
            from dagger_dsl.model.version import installed_version

            value = installed_version()
        elif name in ("errors", "legacy", "testing"):
            return importlib.import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *_ROOM_OF, "__version__"} - {"TYPE_CHECKING"})
