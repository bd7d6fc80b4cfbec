"""The source documents' other spellings, so that their samples are found under their own names.

Every line is another name for something of the package; nothing here behaves. `DagExecutor` has the
documents' method names itself.
"""

from __future__ import annotations

from types import SimpleNamespace

from dagger_dsl.engine.report import RunReport as DagExecutionReport
from dagger_dsl.errors import DaggerError as DagError
from dagger_dsl.executor import Coordinator, DagExecutor, DagMetadata, WorkflowSpec
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    CancelBranch,
    EmitEvent,
    NodeSpec,
    PauseBranch,
    ResumeBranch,
    SetNodeInputs,
    SetNodesEnabled,
)
from dagger_dsl.model.commands import Command as ExecutorCommand
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.context import HookContext, NodeCtx, NodeOutcome, NodeOutput
from dagger_dsl.model.graph import Graph as GraphDefinition
from dagger_dsl.model.graph import Input as IField
from dagger_dsl.model.graph import Node
from dagger_dsl.model.graph import Output as OField
from dagger_dsl.model.policies import Backoff as BackoffStrategy
from dagger_dsl.model.policies import (
    CacheStrategy,
    HumanTimeoutAction,
    OnFailure,
    RetryPolicy,
    RetryStrategy,
)
from dagger_dsl.registry import ActionRegistry
from dagger_dsl.store.cache import (
    Cache,
    clear_node_cache,
    get_input,
    get_value_from_cache,
    has_value,
    insert_value,
    parse_input_from_name,
    serialize_cache_to_prettyjson,
)
from dagger_dsl.store.storage import Store as SqliteStorage

__all__ = [
    "ActionRegistry",
    "AddNode",
    "AddNodes",
    "BackoffStrategy",
    "Cache",
    "CacheStrategy",
    "CancelBranch",
    "Coordinator",
    "DagConfig",
    "DagError",
    "DagExecutionReport",
    "DagExecutor",
    "DagMetadata",
    "EmitEvent",
    "ErrorHandling",
    "ExecutorCommand",
    "GraphDefinition",
    "HookContext",
    "HumanTimeoutAction",
    "IField",
    "Node",
    "NodeCtx",
    "NodeOutcome",
    "NodeOutput",
    "NodeSpec",
    "OField",
    "OnFailure",
    "PauseBranch",
    "ResumeBranch",
    "RetryPolicy",
    "RetryStrategy",
    "SetNodeInputs",
    "SetNodesEnabled",
    "SqliteStorage",
    "WorkflowSpec",
    "clear_node_cache",
    "get_input",
    "get_value_from_cache",
    "has_value",
    "insert_value",
    "parse_input_from_name",
    "register_action",
    "serialize_cache_to_prettyjson",
]

#: Document 003's macro: ``register_action(executor, "add_numbers", add_numbers)``.
register_action = DagExecutor.register_action

#: Document 003's word for `OnFailure`.
ErrorHandling = SimpleNamespace(ContinueOnError=OnFailure.CONTINUE, StopOnError=OnFailure.STOP)
